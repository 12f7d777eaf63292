//! The top of the page: the night in one sentence, its numbers beside last night's, the planted mistakes, what changed.

use super::{Told, plural, section};
use crate::cards::{Absent, Card, Status};
use crate::rate::Rate;
use crate::summary::{Result, Summary};
use html_page::escape;
use night_results::Outcome;

pub(super) fn banner(told: &Told<'_>) -> String {
    let summary = &told.summary;
    let (tone, sign) = match summary.result {
        Result::NothingNew => ("good", "✓"),
        Result::New | Result::CanaryMissed => ("bad", "✗"),
        Result::NothingJudged => ("open", "?"),
    };
    format!(
        "<section id=\"night\" class=\"card {tone}\" data-result=\"{}\"><div class=\"sign\" aria-hidden=\"true\">{sign}</div><div>\
         <p class=\"muted\">Night of {}</p><h1>{}</h1><p>{}</p>{}</div></section>\n",
        word(summary.result),
        escape(told.night.asked.day()),
        escape(&headline(summary)),
        escape(&worked(told)),
        tiles(told),
    )
}

fn word(result: Result) -> &'static str {
    match result {
        Result::NothingNew => "nothing_new",
        Result::New => "new",
        Result::NothingJudged => "nothing_judged",
        Result::CanaryMissed => "canary_missed",
    }
}

fn headline(summary: &Summary) -> String {
    match summary.result {
        Result::CanaryMissed => "A planted mistake was not noticed: nothing of this night can be trusted".into(),
        Result::NothingJudged => "Nothing was judged".into(),
        Result::New => plural(summary.count(Status::New), "new failure"),
        Result::NothingNew if summary.count(Status::Known) == 0 => "No failure".into(),
        Result::NothingNew => format!("Nothing new: {}", plural(summary.count(Status::Known), "known failure")),
    }
}

fn worked(told: &Told<'_>) -> String {
    let Summary { scenarios, worked_s, boots, seeds_per_hour, .. } = &told.summary;
    let pace = seeds_per_hour.map_or_else(String::new, |pace| format!(", {pace} an hour"));
    let ended = match told.summary.ended.as_deref() {
        None => "It has not come to its end.",
        Some("seeds") => "It ended with its last seed.",
        Some("budget") => "It ended with its budget.",
        Some("interrupted") => "It was interrupted.",
        Some(_) => "The machine ended it.",
    };
    format!(
        "{} in {}{pace}, {}: {} plain, {} failed, {} not judged, {} lost to the machine. {ended}",
        plural(usize::try_from(scenarios.run).unwrap_or(usize::MAX), "scenario"),
        duration(*worked_s),
        plural(usize::try_from(*boots).unwrap_or(usize::MAX), "boot"),
        scenarios.plain,
        scenarios.failed,
        scenarios.unjudged,
        scenarios.infrastructure,
    )
}

fn duration(seconds: u64) -> String {
    match seconds {
        s if s < 120 => format!("{s} s"),
        s if s < 7200 => format!("{} min", s / 60),
        s => format!("{} h {} min", s / 3600, s % 3600 / 60),
    }
}

/// Signatures by what became of them, with the difference to last night.
fn tiles(told: &Told<'_>) -> String {
    let last = told.night.last();
    let tile = |class: &str, name: &str, href: &str, of: fn(&Summary) -> usize| {
        let n = of(&told.summary);
        let class = if n == 0 { "none" } else { class };
        format!(
            "<a class=\"tile {class}\" href=\"#{href}\"><span class=\"n\">{n}</span> {name} <span class=\"delta\">{}</span></a>",
            delta(n, last.map(of))
        )
    };
    let all = [
        tile("bad", "new", "failures", |summary| summary.count(Status::New)),
        tile("known", "known", "failures", |summary| summary.count(Status::Known)),
        tile("good", "fixed", "absent", Summary::fixed),
        tile("known", "flaky", "failures", Summary::flaky),
        tile("open", "not judged", "unjudged", |summary| {
            usize::try_from(summary.scenarios.unjudged).unwrap_or(usize::MAX)
        }),
    ];
    format!("<p class=\"tiles\">{}</p>", all.concat())
}

fn delta(n: usize, last: Option<usize>) -> String {
    match last {
        None => "first night".into(),
        Some(last) if last == n => "as last night".into(),
        Some(last) if last < n => format!("+{} since last night", n - last),
        Some(last) => format!("−{} since last night", last - n),
    }
}

/// The planted mistakes: noticed or not. One that was not tried is as bad.
pub(super) fn canaries(told: &Told<'_>) -> String {
    let mut items = String::new();
    for line in told.night.canaries().filter(|line| line.outcome == Outcome::Plain) {
        items += &canary("good", "noticed", &line.unit.to_string(), &line.why);
    }
    for (unit, line) in told.night.missed_canaries() {
        let said = match line.map(|line| line.outcome) {
            None => "was not tried, which counts as unnoticed",
            Some(Outcome::Failed) => "went unnoticed",
            Some(_) => "could not be tried, which counts as unnoticed",
        };
        items += &canary("bad", said, &unit.to_string(), line.map_or("", |line| &line.why));
    }
    section("canaries", "Planted mistakes", &format!("<ul class=\"flat\">{items}</ul>"))
}

fn canary(class: &str, said: &str, unit: &str, why: &str) -> String {
    format!(
        "<li><span class=\"chip {class}\">{said}</span> <code>{}</code> <span class=\"muted\">{}</span></li>",
        escape(unit),
        escape(why)
    )
}

/// What is not as it was last night.
pub(super) fn difference(told: &Told<'_>, gone: &[Absent]) -> String {
    let Some(last) = told.night.last() else { return String::new() };
    let mut items: Vec<String> =
        told.cards.iter().filter(|card| card.last_night == Some(false)).map(appeared).collect();
    let was_there = |absent: &&Absent| last.seen(&absent.id).is_some();
    items.extend(gone.iter().filter(was_there).map(|absent| {
        format!("<span class=\"chip good\">gone</span> <code>{}</code> {}", escape(&absent.id), escape(&absent.text))
    }));
    items.extend(told.cards.iter().filter_map(|card| {
        let before = last.seen(&card.signature.id)?.rate;
        let name = format!("<a href=\"#{}\">{}</a>", super::card::id(card), escape(&card.signature.text));
        changed(&name, before, card.rate)
    }));
    items.extend(changed("failures of all judged scenarios", last.failure_rate, told.summary.failure_rate));
    items.extend(changed("scenarios not judged", last.unjudged_rate, told.summary.unjudged_rate));
    let inside = match items.is_empty() {
        true => "<p>No signature came or went, and no rate left its interval.</p>".to_owned(),
        false => format!(
            "<ul class=\"flat\">{}</ul>",
            items.iter().map(|item| format!("<li>{item}</li>")).collect::<String>()
        ),
    };
    section("difference", &format!("Since the night of {}", last.day()), &inside)
}

fn appeared(card: &Card<'_>) -> String {
    format!(
        "<span class=\"chip bad\">came</span> <a href=\"#{}\">{}</a>",
        super::card::id(card),
        escape(&card.signature.text)
    )
}

/// Two rates whose intervals have nothing in common.
fn changed(name: &str, before: Rate, now: Rate) -> Option<String> {
    let differs = now.differs_from(&before);
    differs.then(|| {
        format!("<span class=\"chip\">rate</span> {name}: {}, was {}", escape(&now.text()), escape(&before.text()))
    })
}
