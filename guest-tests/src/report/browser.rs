//! The page in a real browser: its script must run to the end, show what it promises, and answer to keys, mouse, wheel and
//! touch. Chromium is started without a screen; `CHROMIUM` names another one, `REPORT_SCREENSHOTS` a folder to look at.

use super::tests::all;
use super::*;
use html_page::browser::{self, Look, dom, screenshot};
use std::path::PathBuf;

const WIDE: Look = Look { width: 1280, dark: false };

/// With what plays a person at the page.
fn driven(page: &str, script: &str, look: Look) -> String {
    browser::driven(page, &format!("{}\n{script}", include_str!("browser.js")), look)
}

fn assert_whole(name: &str, dom: &str) {
    assert!(dom.contains("data-ready=\"yes\""), "{name}: the script did not run to its end");
    assert!(
        dom.contains("<div id=\"problems\" role=\"alert\" hidden=\"\"></div>"),
        "{name}: the page reports a problem"
    );
}

#[test]
fn every_sample_opens_without_an_error_and_shows_its_verdict() {
    for (name, input) in all() {
        let dom = dom(&render(&input), WIDE);
        assert_whole(name, &dom);
        let word = input.verdict["verdict"].as_str().unwrap_or("unjudged");
        assert!(dom.contains(&format!("data-verdict=\"{word}\"")), "{name}");
        let parts = input.first_difference.is_some();
        assert_eq!(flag(&dom).contains("hidden"), !parts, "{name}: the flag of the first difference");
        assert_eq!(dom.contains("<tr class=\"differs first"), parts, "{name}: its row");
    }
}

/// Guards the check itself: a script that fails must not look like a page without faults.
#[test]
fn a_page_whose_script_fails_says_so() {
    let page = render(&samples::tiny()).replace("\"items\":[", "\"items\":7,\"lost\":[");
    let dom = dom(&page, WIDE);
    assert!(!dom.contains("data-ready"));
    assert!(dom.contains("parts of it are missing"), "{dom}");
}

/// The start tag of the flag at the first difference.
fn flag(dom: &str) -> &str {
    let (_, rest) = dom.split_once("id=\"difference-flag\"").expect("a flag");
    rest.split_once('>').expect("a tag ends").0
}

#[test]
fn the_first_difference_is_flagged_in_view_and_highlighted_in_its_story() {
    let dom = dom(&render(&samples::different()), WIDE);
    let flag = flag(&dom);
    assert!(flag.contains("data-inside=\"true\"") && !flag.contains("hidden"), "{flag}");
    assert_eq!(dom.matches("<tr class=\"differs first first-difference\"").count(), 1);
    assert!(dom.contains("<details class=\"story\" id=\"io_end-2\" open=\"\">"));
    assert!(dom.contains("<section id=\"first-difference\""));
}

#[test]
fn the_page_follows_the_colour_scheme_and_the_canvas_with_it() {
    let page = render(&samples::tiny());
    let corner =
        "say(document.documentElement.dataset.scheme, getComputedStyle(document.body).backgroundColor, ink());";
    let light = driven(&page, corner, WIDE);
    let dark = driven(&page, corner, Look { dark: true, ..WIDE });
    assert!(light.starts_with("light rgb(244, 246, 249)"), "{light}");
    assert!(dark.starts_with("dark rgb(15, 19, 26)"), "{dark}");
    assert_ne!(light.split_whitespace().last(), dark.split_whitespace().last(), "the same canvas in both");
}

#[test]
fn texts_from_outside_run_nothing_even_where_the_policy_is_taken_away() {
    let input = samples::hostile();
    let seen = driven(&render(&input), "say(document.title === 'owned', document.images.length);", WIDE);
    assert_eq!(seen, "false 0");
}

/// In a frame, because a window of Chromium is never that narrow.
#[test]
fn nothing_is_cut_off_at_four_hundred_pixels() {
    let outer = "<!doctype html><html><body><pre id=\"seen\"></pre><iframe style=\"width:400px;border:0\"></iframe><script>\
        const frame = document.querySelector('iframe');\
        frame.onload = () => { document.getElementById('seen').textContent = frame.contentWindow.innerWidth + ' '\
        + frame.contentDocument.documentElement.scrollWidth + ' ' + frame.contentDocument.documentElement.dataset.ready; };\
        frame.srcdoc = ";
    let page = html_page::embed(&render(&samples::different()));
    let dom = dom(&format!("{outer}{page};</script></body></html>"), WIDE);
    assert!(dom.contains("<pre id=\"seen\">400 400 yes</pre>"), "{}", dom.get(..200).unwrap_or(&dom));
}

/// Keys, buttons, wheel, mouse and two fingers, one after another; browser.js says what each line shows.
#[test]
fn the_timeline_answers_to_keys_buttons_wheel_mouse_and_touch() {
    let seen = driven(&render(&samples::different()), "drive();", WIDE);
    let expected = "\
        at first: the guest's put is selected, in view\n\
        right: next event of the track\n\
        left: back\n\
        down: other track\n\
        escape: nothing selected\n\
        d: the difference again\n\
        plus: narrower\n\
        minus: wider\n\
        0: everything\n\
        f: a fault\n\
        plain wheel without focus: unchanged\n\
        ctrl wheel: narrower\n\
        shift wheel: moved right\n\
        drag: moved left\n\
        pinch: narrower\n\
        click: selects\n\
        hover: tells\n\
        device time: axis t\n\
        table: filtered\n\
        story: opened";
    assert_eq!(seen, expected.replace("        ", ""));
}

#[test]
fn screenshots_can_be_taken() {
    let folder = std::env::var_os("REPORT_SCREENSHOTS").map(PathBuf::from);
    let looks = [("light", WIDE), ("dark", Look { dark: true, ..WIDE }), ("narrow", Look { width: 400, dark: false })];
    let wanted = if folder.is_some() { all() } else { vec![("different", samples::different())] };
    for (name, input) in &wanted {
        let page = render(input);
        if let Some(folder) = &folder {
            std::fs::write(folder.join(format!("{name}.html")), &page).expect("the page can be kept");
        }
        for (look_name, look) in looks.into_iter().take(if folder.is_some() { 3 } else { 2 }) {
            let png =
                screenshot(&page, look, folder.as_deref().map(|folder| folder.join(format!("{name}-{look_name}.png"))));
            assert!(
                png.starts_with(b"\x89PNG\r\n\x1a\n") && png.len() > 10_000,
                "{name} {look_name}: {} bytes",
                png.len()
            );
            assert_eq!(png[16..20], look.width.to_be_bytes(), "{name} {look_name}: its width");
        }
    }
}
