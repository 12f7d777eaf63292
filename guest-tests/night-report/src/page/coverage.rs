//! What was tried: faults by action, request, class and answer; pairs of the replica. Never fired and never armed look apart.

use super::{Told, section, table};
use crate::coverage::{Cell, Coverage, CutsCovered};
use crate::rate::percent;
use crate::universe::{self, CLASSES, Fault, NO_BLOCKS, NOT_LOOKED};
use html_page::escape;

pub(super) fn faults(told: &Told<'_>) -> String {
    let covered = told.summary.coverage.faults;
    let share = |n: u64| percent(n as f64 / covered.universe.max(1) as f64);
    let lead = format!(
        "<p>Of {} cells (action, request, class, answer) {} were armed ({}) and {} fired ({}). A random scenario expects nothing of a \
         rule: one that never fired is counted here and is no failure.</p>{LEGEND}",
        covered.universe,
        covered.armed,
        share(covered.armed),
        covered.fired,
        share(covered.fired),
    );
    let inside = lead
        + &power_cuts(told.summary.coverage.power_cuts)
        + &matrix(&told.coverage)
        + &never_fired(&told.coverage)
        + &beyond(&told.coverage);
    section("faults", "Faults tried", &inside)
}

/// What became of power cuts after which the guest goes on; nothing where no script had one.
fn power_cuts(of: CutsCovered) -> String {
    let CutsCovered { scenarios, never_came, nothing_promised, cuts, states, judged, losses, bad } = of;
    if scenarios == 0 {
        return String::new();
    }
    format!(
        "<p>Power cuts: {scenarios} scenarios had some, {cuts} came; of {states} states that they may have left {judged} were judged, \
         and {bad} are bad; {losses} lack what was fsynced because the cache lies. In {never_came} scenarios none came, in \
         {nothing_promised} nothing had been fsynced before: these say nothing of durability.</p>"
    )
}

const LEGEND: &str = "<p class=\"legend small\"><span class=\"cell fired\">12</span> fired, so often \
    <span class=\"cell partly\">7</span> fired, but not with every answer it can bring \
    <span class=\"cell armed\">○</span> armed and never fired <span class=\"cell never\">·</span> never armed</p>";

fn matrix(coverage: &Coverage) -> String {
    let mut heads = vec!["action", "request", "not looked", "no blocks"];
    heads.extend(CLASSES.iter().map(|class| class.trim_start_matches("ext4.")));
    let row = |fault: Fault| {
        let classes = [NOT_LOOKED, NO_BLOCKS].into_iter().chain(CLASSES);
        let cells: String = classes.map(|class| cell(coverage, fault, class)).collect();
        format!("<tr><th scope=\"row\">{}</th><td>{}</td>{cells}</tr>", fault.action, fault.op)
    };
    let rows: String = universe::faults().map(row).collect();
    format!("<div class=\"matrix\">{}</div>", table(&heads, &rows))
}

fn cell(coverage: &Coverage, fault: Fault, class: &'static str) -> String {
    if class != NOT_LOOKED && !universe::classes(fault.op).contains(&class) {
        return "<td></td>".to_owned();
    }
    let each = |answer: &&str| format!("{answer} {}", coverage.fired(fault, class, answer));
    let answers: Vec<String> = fault.answers.iter().map(each).collect();
    let title = format!("{} {} {class}: {}", fault.action, fault.op, answers.join(", "));
    let (kind, text) = match coverage.cell(fault, class) {
        Cell::NeverArmed => return "<td class=\"never\">·</td>".to_owned(),
        Cell::NeverFired { armed } => {
            return format!("<td class=\"armed\" title=\"{title}; armed in {armed} scenarios\">○</td>");
        }
        Cell::Fired { n, answers, of } if answers == of => ("fired", n),
        Cell::Fired { n, .. } => ("partly", n),
    };
    format!("<td class=\"{kind}\" title=\"{title}\">{text}</td>")
}

/// The same for reading, down to the answer.
fn never_fired(coverage: &Coverage) -> String {
    let (mut armed, mut never) = (String::new(), String::new());
    for fault in universe::faults() {
        let missing = |ready: bool| {
            let open = |class: &&&'static str| (coverage.armed(fault, class) > 0) == ready;
            let classes = universe::classes(fault.op).iter().filter(open);
            let cells = classes.flat_map(|class| fault.answers.iter().map(move |answer| (*class, *answer)));
            let missing: Vec<String> = cells
                .filter(|(class, answer)| coverage.fired(fault, class, answer) == 0)
                .map(|(class, answer)| format!("{} {answer}", class.trim_start_matches("ext4.")))
                .collect();
            missing
        };
        for (list, ready) in [(&mut armed, true), (&mut never, false)] {
            let missing = missing(ready);
            if !missing.is_empty() {
                *list += &format!("<li><strong>{} {}</strong>: {}</li>", fault.action, fault.op, missing.join(", "));
            }
        }
    }
    let details = |what: &str, list: &str| match list {
        "" => String::new(),
        list => format!("<details><summary>{what}</summary><ul class=\"small\">{list}</ul></details>"),
    };
    details("Armed, and never fired with this answer", &armed) + &details("Never armed", &never)
}

fn beyond(coverage: &Coverage) -> String {
    let seen: Vec<String> = coverage
        .beyond()
        .iter()
        .map(|(what, n)| format!("<li>{} <span class=\"muted\">{n}</span></li>", escape(what)))
        .collect();
    match seen.is_empty() {
        true => String::new(),
        false => format!(
            "<details><summary>Fired beyond these cells (answers that more than one rule brought about): {}</summary><ul class=\"small\">{}</ul></details>",
            seen.len(),
            seen.concat()
        ),
    }
}

pub(super) fn pairs(told: &Told<'_>) -> String {
    let covered = told.summary.coverage.pairs;
    let share = percent(covered.seen as f64 / covered.universe.max(1) as f64);
    let lead = format!(
        "<p>Of {} pairs of an io_end's state and the replica's next step {} were seen ({share}).</p>",
        covered.universe, covered.seen
    );
    let chip = |(pair, n): (&String, &u64)| {
        let class = if *n == 0 { "never" } else { "fired" };
        format!("<li class=\"{class}\">{} <span class=\"muted\">{n}</span></li>", escape(pair))
    };
    let all: String = told.coverage.pairs().iter().map(chip).collect();
    let beyond: String =
        told.coverage.pairs_beyond().iter().map(|pair| format!("<li class=\"partly\">{}</li>", escape(pair))).collect();
    let beyond = if beyond.is_empty() {
        beyond
    } else {
        format!("<p>Seen beyond these:</p><ul class=\"pairs small\">{beyond}</ul>")
    };
    let list = format!(
        "<details><summary>All pairs, with the scenarios that had them</summary><ul class=\"pairs small\">{all}</ul></details>"
    );
    section("pairs", "States of the replica", &(lead + &beyond + &list))
}
