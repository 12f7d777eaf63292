//! The page of a night. Everything on it can be read without its script, which only copies commands.
//!
//! A red line at the top leads in one click to the card of its signature. Cards far from the window are not laid out until they
//! come near it (`content-visibility`), so that a thousand of them open as fast as ten.

mod card;
mod coverage;
mod head;
mod lists;
mod tables;
mod trends;

use crate::cards::{Card, absent, cards};
use crate::coverage::Coverage;
use crate::night::Night;
use crate::summary::Summary;
use html_page::{Page, escape};
use night_results::ResultLine;

const STYLE: &str = include_str!("assets/night.css");
const SCRIPT: &str = include_str!("assets/night.js");

/// What the parts of the page are made from, counted once.
struct Told<'a> {
    night: &'a Night,
    summary: Summary,
    cards: Vec<Card<'a>>,
    coverage: Coverage,
}

/// Makes the page. The same night gives the same bytes.
pub fn page(night: &Night) -> String {
    let told = Told { night, summary: Summary::of(night), cards: cards(night), coverage: Coverage::of(night) };
    let gone = absent(night);
    let parts = [
        head::banner(&told),
        head::canaries(&told),
        lists::index(&told),
        head::difference(&told, &gone),
        told.cards.iter().map(|one| card::card(night, one)).collect(),
        lists::absent(&gone),
        lists::unjudged(&told),
        tables::kernels(&told),
        coverage::faults(&told),
        coverage::pairs(&told),
        trends::trends(&told),
        tables::asked(&told),
    ];
    let body = format!("<main>\n{}\n</main>", parts.concat());
    let title = format!("Night of {}", night.asked.day());
    Page { title: &title, style: STYLE, body: &body, script: SCRIPT }.render()
}

/// A section with a heading; nothing, if there is nothing in it.
fn section(id: &str, title: &str, inside: &str) -> String {
    match inside {
        "" => String::new(),
        _ => format!("<section class=\"card\" id=\"{id}\"><h2>{}</h2>{inside}</section>\n", escape(title)),
    }
}

/// A table that scrolls sideways where it is too wide.
fn table(heads: &[&str], rows: &str) -> String {
    let heads: String = heads.iter().map(|head| format!("<th scope=\"col\">{}</th>", escape(head))).collect();
    format!("<div class=\"wide\"><table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>")
}

/// `1 failure`, `2 failures`.
fn plural(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// The page of a unit's run, which is kept for all that did not come out plain.
fn link(line: &ResultLine) -> String {
    let unit = escape(&line.unit.to_string());
    format!("<a href=\"failures/{}/report.html\">{unit}</a>", escape(&line.unit.folder()))
}
