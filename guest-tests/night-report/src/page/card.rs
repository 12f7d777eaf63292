//! The card of a signature: what it is, since when, the timeline, the smallest script, the one command.

use super::{link, plural, table};
use crate::cards::{Card, Status};
use crate::night::{Night, Shown};
use html_page::{copyable, escape};
use night_results::{Again, Known, Needed, ResultLine, Triage};

/// Its anchor. One signature can be new on one kernel and known on another.
pub(super) fn id(card: &Card<'_>) -> String {
    match card.status {
        Status::New => format!("s-{}", escape(&card.signature.id)),
        Status::Known => format!("k-{}", escape(&card.signature.id)),
    }
}

/// What it is in one sentence.
pub(super) fn sentence(night: &Night, card: &Card<'_>) -> String {
    let shown =
        night.shown.get(&card.signature.id).map(|shown| shown.sentence.as_str()).filter(|text| !text.is_empty());
    shown.unwrap_or(&first(card).why).to_owned()
}

/// New, known, flaky.
pub(super) fn chips(card: &Card<'_>) -> String {
    let status = match card.status {
        Status::New => "<span class=\"chip bad\">new</span>",
        Status::Known => "<span class=\"chip finding\">known</span>",
    };
    let flaky = card.flaky().map_or_else(String::new, |rate| {
        format!(" <span class=\"chip finding\">flaky: {} of {}</span>", rate.n, rate.of)
    });
    format!("{status}{flaky}")
}

pub(super) fn card(night: &Night, card: &Card<'_>) -> String {
    let nothing = Shown::default();
    let shown = night.shown.get(&card.signature.id).unwrap_or(&nothing);
    let of_unit = card.lines.iter().find(|line| line.unit.to_string() == shown.unit).copied().unwrap_or(first(card));
    format!(
        "<section class=\"card signature {class}\" id=\"{id}\" data-signature=\"{short}\"><h2>{chips} {sentence}</h2>\
         <p class=\"muted\"><code>{short}</code> {text}</p>{facts}{reason}{command}{timeline}{script}{links}{units}\
         <p class=\"small\"><a href=\"#failures\">back to all failures</a></p></section>\n",
        class = if card.status == Status::New { "new" } else { "known" },
        id = id(card),
        short = escape(&card.signature.id),
        chips = chips(card),
        sentence = escape(&sentence(night, card)),
        text = escape(&card.signature.text),
        facts = facts(card),
        reason = reason(card),
        command = copyable("Show it again", &of_unit.repro),
        timeline = timeline(shown, of_unit),
        script = script(shown, of_unit),
        links = links(shown),
        units = units(card),
    )
}

fn first<'a>(card: &Card<'a>) -> &'a ResultLine {
    card.lines[0]
}

fn facts(card: &Card<'_>) -> String {
    let kernels: Vec<&str> = card.kernels().into_iter().collect();
    let mut facts = vec![
        ("since", card.since.clone()),
        ("kernels", kernels.join(", ")),
        ("scenarios that show it", card.rate.text()),
        ("run again", again(card)),
    ];
    facts.extend(card.flaky().map(|rate| ("shows, when flaky", rate.text())));
    facts.extend(card.lines.iter().find_map(|line| line.triage.as_ref()?.shrunk.as_ref()).map(|shrunk| {
        let [rules, ops] = [shrunk.rules, shrunk.ops].map(|[before, after]| format!("{before} → {after}"));
        ("made smaller", format!("rules {rules}, operations {ops}"))
    }));
    let one = |(key, value): &(&str, String)| format!("<div><dt>{key}</dt><dd>{}</dd></div>", escape(value));
    format!("<dl class=\"facts\">{}</dl>", facts.iter().map(one).collect::<String>())
}

/// What looking again gave, over all of its units.
fn again(card: &Card<'_>) -> String {
    let count = |wanted: Again| {
        let fits = |line: &&&ResultLine| line.triage.as_ref().map_or(Again::NotTried, |triage| triage.again) == wanted;
        card.lines.iter().filter(fits).count()
    };
    let said = [
        (Again::Reproducible, "reproducible"),
        (Again::Flaky, "flaky"),
        (Again::Infrastructure, "lost to the machine"),
        (Again::NotTried, "not tried"),
    ];
    let counted = said.map(|(wanted, word)| (count(wanted), word));
    let parts: Vec<String> = counted.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    parts.join(", ")
}

fn reason(card: &Card<'_>) -> String {
    let known = card.known.map(|known| format!("<p>Known: {}. {}</p>", escape(&known.reason), where_told(known)));
    let expired = card.expired.filter(|_| card.status == Status::New).map(|known| {
        let day = known.expires.as_deref().unwrap_or_default();
        format!("<p>Was known until {}: {}. {}</p>", escape(day), escape(&known.reason), where_told(known))
    });
    beside(card) + &known.or(expired).unwrap_or_default()
}

/// What else was found in runs of that name.
fn beside(card: &Card<'_>) -> String {
    let lines = card.lines.iter().filter_map(|line| line.signature.as_ref());
    let with: std::collections::BTreeSet<&str> =
        lines.flat_map(|signature| &signature.with).map(String::as_str).collect();
    let with: Vec<&str> = with.into_iter().collect();
    if with.is_empty() { String::new() } else { format!("<p>Beside it: {}.</p>", escape(&with.join("; "))) }
}

/// A link only where it is one that a page may safely offer.
fn where_told(known: &Known) -> String {
    let link = escape(&known.link);
    match known.link.starts_with("https://") || known.link.starts_with("http://") {
        true => format!("<a href=\"{link}\" rel=\"noreferrer\">{link}</a>"),
        false => format!("<code>{link}</code>"),
    }
}

fn timeline(shown: &Shown, of_unit: &ResultLine) -> String {
    let page = link(of_unit);
    match (shown.timeline.as_str(), shown.no_timeline.as_str()) {
        ("", "") => format!("<p class=\"small\">Timeline: on the page of {page}.</p>"),
        ("", why) => format!("<p class=\"small\">No timeline: {}.</p>", escape(why.trim_end_matches('.'))),
        (svg, _) => format!(
            "<div class=\"wide timeline\">{svg}</div><p class=\"small muted\">Around the first difference, fault or finding of {page}, \
             in the order that was judged: its page has all of it.</p>"
        ),
    }
}

fn script(shown: &Shown, of_unit: &ResultLine) -> String {
    let shrunk = of_unit.triage.as_ref().and_then(|triage| triage.shrunk.as_ref());
    match (&shown.scenario, shrunk) {
        (Some(text), _) => format!(
            "<details open><summary>The smallest scenario that shows it</summary><pre class=\"script\">{}</pre></details>",
            escape(text)
        ),
        (None, Some(shrunk)) => format!(
            "<p class=\"small\">The smallest scenario that shows it: <a href=\"{0}\">{0}</a>.</p>",
            escape(&shrunk.folder)
        ),
        (None, None) => {
            format!(
                "<p class=\"small\">It was not made smaller: the scenario is <code>{}</code>.</p>",
                escape(&of_unit.scenario)
            )
        }
    }
}

fn links(shown: &Shown) -> String {
    let one = |(what, path): &(String, String)| format!("<li><a href=\"{}\">{}</a></li>", escape(path), escape(what));
    match shown.links.is_empty() {
        true => String::new(),
        false => format!("<ul class=\"links\">{}</ul>", shown.links.iter().map(one).collect::<String>()),
    }
}

fn units(card: &Card<'_>) -> String {
    let rows: String = card.lines.iter().map(|line| row(line)).collect();
    let open = if card.lines.len() == 1 { " open" } else { "" };
    let table = table(&["unit", "kernel", "run again", "findings", "command"], &rows);
    format!("<details{open}><summary>{}</summary>{table}</details>", plural(card.lines.len(), "unit"))
}

fn row(line: &ResultLine) -> String {
    format!(
        "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td><code>{}</code></td></tr>",
        link(line),
        escape(if line.kernel.is_empty() { &line.series } else { &line.kernel }),
        escape(&line.triage.as_ref().map_or_else(|| "not tried".into(), outcome)),
        escape(&line.findings.join(", ")),
        escape(&line.repro),
    )
}

fn outcome(triage: &Triage) -> String {
    let needed = match triage.needed {
        Some(Needed::Alone) => ", alone",
        Some(Needed::Predecessors) => ", after the same predecessors",
        None => "",
    };
    match triage.again {
        Again::Reproducible => format!("reproducible{needed}"),
        Again::Flaky => format!("flaky, {} of {}{needed}", triage.shown, triage.tried),
        Again::Infrastructure => "lost to the machine".into(),
        Again::NotTried => "not tried".into(),
    }
}
