//! The page in a real browser: it opens in light and dark, holds a picture for each finding, and nothing on it is cut off.

use super::*;
use clap::Parser;
use html_page::browser::{Look, dom, screenshot};

fn explored() -> Explored {
    let words = [
        "guest-tests",
        "explore",
        "--dialect",
        "seed",
        "--scope",
        "direct",
        "--pages",
        "1",
        "--expect",
        "dio_double_done",
    ];
    let args::Command::Explore(wanted) = args::Args::parse_from(words).command else { panic!("explore") };
    let dialect = wanted.dialect.expect("seed");
    let scopes = scopes(&wanted, &dialect).expect("sound");
    let done = search_all(&wanted, dialect, &scopes, &Interrupt::default()).expect("it searches");
    tell(&wanted, dialect, done, "guest-tests explore …").expect("it can be told")
}

#[test]
fn the_page_opens_with_a_picture_of_each_finding() {
    let explored = explored();
    assert!(
        explored.found.iter().any(|finding| finding.expected) && explored.found.iter().any(|finding| !finding.expected)
    );
    let page = page::render(&explored);
    let folder = std::env::var_os("REPORT_SCREENSHOTS").map(std::path::PathBuf::from);
    for (name, dark) in [("light", false), ("dark", true)] {
        let look = Look { width: 1280, dark };
        let dom = dom(&page, look);
        assert_eq!(dom.matches("<svg class=\"sequence\"").count(), explored.found.len());
        let png = screenshot(&page, look, folder.as_deref().map(|folder| folder.join(format!("explore-{name}.png"))));
        assert!(png.len() > 10_000, "{name}");
    }
}

#[test]
fn the_same_search_gives_the_same_page() {
    let page = |mut explored: Explored| {
        explored.scopes.iter_mut().for_each(|scope| scope.took_ms = 0);
        page::render(&explored)
    };
    assert_eq!(page(explored()), page(explored()));
}
