//! Lists: all failures as red lines, what is gone, what was not judged.

use super::card::{chips, id, sentence};
use super::{Told, link, plural, section, table};
use crate::cards::Absent;
use html_page::escape;
use night_results::{Outcome, ResultLine};
use std::collections::BTreeMap;

/// A line per signature; a click leads to its card.
pub(super) fn index(told: &Told<'_>) -> String {
    let row = |card: &crate::cards::Card<'_>| {
        let kernels: Vec<&str> = card.kernels().into_iter().collect();
        format!(
            "<tr class=\"{:?}\"><td>{}</td><td><a href=\"#{}\">{}</a></td><td>{}</td><td>{}</td><td>{}</td></tr>",
            card.status,
            chips(card),
            id(card),
            escape(&sentence(told.night, card)),
            escape(&kernels.join(", ")),
            card.lines.len(),
            escape(&card.since),
        )
    };
    let rows: String = told.cards.iter().map(row).collect();
    let inside = match rows.as_str() {
        "" => "<p>No scenario failed.</p>".to_owned(),
        rows => table(&["", "what", "kernels", "units", "since"], rows),
    };
    section("failures", "Failures", &inside)
}

/// What was there and is not: fixed, or too little run to say.
pub(super) fn absent(gone: &[Absent]) -> String {
    let row = |absent: &Absent| {
        let (class, word) = match (absent.known, absent.fixed) {
            (true, true) => ("good", "fixed"),
            (false, true) => ("good", "gone"),
            (_, false) => ("", "not seen"),
        };
        format!(
            "<tr><td><span class=\"chip {class}\">{word}</span></td><td><code>{}</code> {}</td><td>{}</td></tr>",
            escape(&absent.id),
            escape(&absent.text),
            escape(&absent.why)
        )
    };
    let rows: String = gone.iter().map(row).collect();
    let inside = if rows.is_empty() { String::new() } else { table(&["", "what", "what that rests on"], &rows) };
    section("absent", "Fixed, or not seen any more", &inside)
}

/// What says nothing, by its reason: this is no good news.
pub(super) fn unjudged(told: &Told<'_>) -> String {
    let mut by_why: BTreeMap<(&str, &str), Vec<&ResultLine>> = BTreeMap::new();
    for (outcome, word) in [(Outcome::Unjudged, "not judged"), (Outcome::Infrastructure, "lost to the machine")] {
        for line in told.night.that_are(outcome) {
            by_why.entry((word, &line.why)).or_default().push(line);
        }
    }
    let mut groups: Vec<_> = by_why.into_iter().collect();
    groups.sort_by_key(|(why, lines)| (std::cmp::Reverse(lines.len()), *why));
    let inside: String = groups.iter().map(|((word, why), lines)| group(word, why, lines)).collect();
    section("unjudged", "Not judged", &inside)
}

fn group(word: &str, why: &str, lines: &[&ResultLine]) -> String {
    let row = |line: &&ResultLine| {
        format!(
            "<tr><td>{}</td><td>{}</td><td><code>{}</code></td></tr>",
            link(line),
            escape(&line.series),
            escape(&line.repro)
        )
    };
    let rows: String = lines.iter().map(row).collect();
    format!(
        "<details><summary><span class=\"chip\">{word}</span> {}: {}</summary>{}</details>",
        plural(lines.len(), "unit"),
        escape(if why.is_empty() { "no reason was told" } else { why }),
        table(&["unit", "kernel", "command"], &rows)
    )
}
