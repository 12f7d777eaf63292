//! A script in sentences, as it will be played: for `script explain`.

use std::fmt::Write;

use crate::decision::{GateWhen, UsedLen};
use crate::rule::*;
use crate::script::Script;

/// What the script does: stages, who wins, the defaults that were filled in.
pub fn explain(script: &Script) -> String {
    let mut out = String::new();
    let name = script.name.as_deref().unwrap_or("unnamed");
    let seed = script.seed.map_or("0 unless --seed says otherwise".to_string(), |seed| seed.to_string());
    line(&mut out, &format!("Script: {name}. Seed: {seed}."));
    if let Some(limits) = device(script) {
        line(&mut out, &format!("The device is offered with {limits}."));
    }
    line(&mut out, "A request passes three stages; in each, the first rule below that fires wins.");
    for stage in [Stage::Gate, Stage::Transfer, Stage::Status] {
        explain_stage(&mut out, script, stage);
    }
    for expect in &script.expect {
        let most = expect.max.map_or("any number of times".to_string(), |max| format!("{max} times"));
        line(&mut out, &format!("Expected: rule {:?} is carried out {} to {most}.", expect.id, expect.min));
    }
    out
}

fn line(out: &mut String, text: &str) {
    writeln!(out, "{text}").expect("a String takes what is written to it");
}

fn device(script: &Script) -> Option<String> {
    let limits = serde_json::to_value(&script.device).ok()?;
    let limits: Vec<String> = limits.as_object()?.iter().map(|(key, value)| format!("{key} {value}")).collect();
    (!limits.is_empty()).then(|| limits.join(", "))
}

fn explain_stage(out: &mut String, script: &Script, stage: Stage) {
    let rules: Vec<&Rule> = script.rules.iter().filter(|rule| rule.action.stage() == stage).collect();
    line(out, "");
    let purpose = match stage {
        Stage::Gate => "when it is answered",
        Stage::Transfer => "what moves",
        Stage::Status => "what status it carries",
    };
    line(out, &format!("{} stage ({purpose}):{}", stage.name(), if rules.is_empty() { " no rules" } else { "" }));
    for rule in rules {
        let off = if rule.enabled { "" } else { " (disabled)" };
        line(
            out,
            &format!("  {}{off}: {}, {}: {}.", rule.id, matches(rule), trigger(&rule.trigger), action(&rule.action)),
        );
        if let Some(note) = &rule.note {
            line(out, &format!("    note: {note}"));
        }
    }
}

fn matches(rule: &Rule) -> String {
    let part = &rule.matches;
    let mut text = part.op.names().join("|");
    if let Some(parent) = &part.child_of {
        text += &format!(" children of {parent:?}");
    }
    if !part.sectors.is_empty() {
        let ranges: Vec<String> = part.sectors.iter().map(|(start, end)| format!("[{start},{end})")).collect();
        let how = match part.overlap {
            Overlap::Any => "touching",
            Overlap::Within => "within",
            Overlap::Covers => "covering",
        };
        text += &format!(" {how} {}", ranges.join(" or "));
    }
    text += &bounds(&rule.size(), "sectors");
    text += &part.queue.map_or(String::new(), |queue| format!(" on queue {queue}"));
    text + &bounds(&part.inflight, "requests in flight")
}

fn bounds(bounds: &Bounds, what: &str) -> String {
    match (bounds.min, bounds.max) {
        (None, None) => String::new(),
        (Some(min), None) => format!(" with {min} {what} or more"),
        (None, Some(max)) => format!(" with at most {max} {what}"),
        (Some(min), Some(max)) => format!(" with {min} to {max} {what}"),
    }
}

fn trigger(trigger: &Trigger) -> String {
    let mut parts = Vec::new();
    parts.extend(trigger.after.as_ref().map(|at| format!("after {}", point(at))));
    parts.extend(trigger.until.as_ref().map(|at| format!("until {}", point(at))));
    if !trigger.nth.is_empty() {
        let nth: Vec<String> = trigger.nth.iter().map(u64::to_string).collect();
        parts.push(format!("match number {} of these", nth.join(", ")));
    }
    parts.extend(trigger.every.map(|n| format!("every match number divisible by {n}")));
    parts.extend(trigger.probability.map(|p| format!("with probability {p} drawn by {}", key(trigger))));
    parts.extend(trigger.limit.map(|n| format!("at most {n} times")));
    if parts.is_empty() { "every match".to_string() } else { parts.join(", then ") }
}

fn key(trigger: &Trigger) -> &'static str {
    match trigger.key {
        crate::event::Key::Address => "address",
        crate::event::Key::Ordinal => "match number",
    }
}

fn point(point: &Point) -> String {
    match point {
        Point::Matches(n) => format!("{n} matches"),
        Point::Requests(n) => format!("{n} requests"),
        Point::Writes(n) => format!("{n} writes"),
        Point::Flushes(n) => format!("{n} flushes"),
        Point::Bytes(n) => format!("{n} bytes read or written"),
        Point::Ms(n) => format!("{n} ms"),
        Point::Mark(name) => format!("mark {name:?}"),
    }
}

fn action(action: &Action) -> String {
    match action {
        Action::Error { status, transfer } => {
            let moved = match transfer {
                Transfer::None => "nothing",
                Transfer::All => "everything",
                Transfer::Random => "a drawn number of sectors",
            };
            format!("answer {}; unless a transfer rule decides, {moved} moves", status_name(*status))
        }
        Action::Partial { amount, status, used_len } => {
            let amount = match amount {
                Amount::Sectors(n) => format!("the first {n} sectors"),
                Amount::Bytes(n) => format!("the first {n} bytes"),
                Amount::Fraction(f) => format!("the first {f} of the sectors, rounded down,"),
            };
            let length = if *used_len == UsedLen::Honest { "its true length" } else { "full length" };
            format!("only {amount} move; propose {} with {length}", status_name(*status))
        }
        Action::Lose {} => "nothing moves; propose ok".to_string(),
        Action::Delay { length: Length::Fixed { us }, when } => format!("answer {us} us late{}", touched(*when)),
        Action::Delay { length: Length::Drawn(distribution), when } => {
            let parameters = serde_json::to_string(distribution).unwrap_or_default();
            format!("answer late by {parameters}{}", touched(*when))
        }
        Action::Hold { until, max_ms, when } => {
            let until = match until {
                HoldUntil::Release => "it is released".to_string(),
                HoldUntil::Reset => "the ring stops, and then never".to_string(),
                HoldUntil::Point(at) => point(at),
            };
            let most = max_ms.map_or(String::new(), |ms| format!(", at most {ms} ms"));
            format!("hold until {until}{most}{}", touched(*when))
        }
        Action::Reorder { window, policy, max_wait_ms, when } => {
            let how = if *policy == Policy::Shuffle { "shuffled" } else { "in reverse" };
            format!("answer {how} in windows of {window}, each open for {max_wait_ms} ms at most{}", touched(*when))
        }
        Action::Split { cut, order } => {
            let cut = match cut {
                Cut::MaxSectors(n) => format!("every {n} sectors"),
                Cut::At(offsets) => format!("at offsets {offsets:?}"),
            };
            let order = match order {
                ChildOrder::Forward => "forward",
                ChildOrder::Reverse => "in reverse",
                ChildOrder::Shuffle => "shuffled",
            };
            format!("cut {cut}; the children reach the disk {order}")
        }
    }
}

fn touched(when: GateWhen) -> &'static str {
    match when {
        GateWhen::Completion => "",
        GateWhen::Arrival => " (the disk is touched at arrival)",
    }
}
