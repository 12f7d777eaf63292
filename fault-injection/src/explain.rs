//! A script in sentences, as it will be played: for `script explain`.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::check::idle;
use crate::corrupt::{Damage, Pattern, With};
use crate::decision::{GateWhen, UsedLen};
use crate::event::FailClass;
use crate::power_cut::{Then, Unflushed};
use crate::rule::*;
use crate::script::{Happens, Script, WriteCache};

/// What the script does: stages, who wins, the defaults that were filled in.
pub fn explain(script: &Script) -> String {
    let mut out = String::new();
    let name = script.name.as_deref().unwrap_or("unnamed");
    let seed = script.seed.map_or("0 unless --seed says otherwise".to_string(), |seed| seed.to_string());
    line(&mut out, &format!("Script: {name}. Seed: {seed}."));
    if let Some(limits) = device(script) {
        line(&mut out, &format!("The device is offered with {limits}."));
    }
    for (name, values) in &script.states {
        let rest: Vec<String> = values[1..].iter().map(|value| format!("{value:?}")).collect();
        line(&mut out, &format!("State {name:?} begins as {:?}, and may become {}.", values[0], rest.join(" or ")));
    }
    line(&mut out, "A request passes four stages; in each, the first rule below that fires wins.");
    for stage in [Stage::Gate, Stage::Transfer, Stage::Status, Stage::Device] {
        explain_stage(&mut out, script, stage);
    }
    explain_events(&mut out, script);
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
    let idle = idle(&script.rules);
    let rules: Vec<(usize, &Rule)> =
        script.rules.iter().enumerate().filter(|(_, rule)| rule.action.stage() == stage).collect();
    line(out, "");
    let purpose = match stage {
        Stage::Gate => "when it is answered",
        Stage::Transfer => "what moves",
        Stage::Status => "what status it carries",
        Stage::Device => "what becomes of the device after it; every \"set\" takes place, and then the first power cut",
    };
    line(out, &format!("{} stage ({purpose}):{}", stage.name(), if rules.is_empty() { " no rules" } else { "" }));
    for (i, rule) in rules {
        let off = if rule.enabled { "" } else { " (disabled)" };
        line(
            out,
            &format!("  {}{off}: {}, {}: {}.", rule.id, matches(rule), trigger(&rule.trigger), action(&rule.action)),
        );
        if let Some(lasts) = scope(rule) {
            line(out, &format!("    {lasts}."));
        }
        for (_, _, why) in idle.iter().filter(|(of, _, _)| *of == i) {
            line(out, &format!("    {why}."));
        }
        if let Some(note) = &rule.note {
            line(out, &format!("    note: {note}"));
        }
    }
}

fn explain_events(out: &mut String, script: &Script) {
    if script.events.is_empty() {
        return;
    }
    line(out, "");
    line(out, "Events, each once, after the request that reaches its point:");
    for event in &script.events {
        let what = match &event.happens {
            Happens::CapacitySectors(sectors) => {
                format!("the disk has {sectors} sectors, and the guest is told; beyond its end every request fails")
            }
            Happens::FailClass(class) => format!("{} fail from then on", failing(*class)),
            Happens::Heal { rule: None } => "what stuck is healed, and nothing fails as a class any more".to_string(),
            Happens::Heal { rule: Some(id) } => format!("what stuck by rule {id:?} is healed"),
            Happens::Disconnect { reconnect_ms } => {
                format!("what was taken is settled, the front-end is left, and let in again after {reconnect_ms} ms")
            }
            Happens::WriteCache(WriteCache::Writethrough) => "the write cache is off".to_string(),
            Happens::WriteCache(_) => "the write cache is on".to_string(),
            Happens::PowerCut { unflushed, then } => cut(unflushed, *then),
            Happens::Set(values) => format!("set {}", states(values, " is ")),
        };
        line(out, &format!("  {}: at {}: {what}.", event.id, point(&event.at)));
    }
}

fn failing(class: FailClass) -> &'static str {
    match class {
        FailClass::None => "no requests",
        FailClass::Writes => "all writes, discards, write_zeroes and flushes",
        FailClass::Reads => "all reads",
        FailClass::All => "all reads, writes, discards, write_zeroes and flushes",
    }
}

fn states(values: &BTreeMap<String, String>, between: &str) -> String {
    values.iter().map(|(state, value)| format!("{state:?}{between}{value:?}")).collect::<Vec<_>>().join(" and ")
}

fn cut(unflushed: &Unflushed, then: Then) -> String {
    let then = match then {
        Then::KillVm => "the virtual machine is ended",
        Then::Disconnect => "the front-end is left",
        Then::Snapshot => "the states are written out, and the guest goes on",
    };
    format!("the power goes: of what was not flushed {} survives; {then}", unflushed.words())
}

/// How long it lasts, if longer than a request.
fn scope(rule: &Rule) -> Option<String> {
    let (sectors, heal) = match &rule.scope {
        Scope::Request => return None,
        Scope::Device => {
            return Some(
                "once it has fired it acts on every request of these types, until it is healed by hand".into(),
            );
        }
        Scope::Sticky { sectors, heal } => (sectors, heal),
    };
    let which = match (rule.is_latent(), sectors) {
        (true, StickySectors::Matched) => "these sectors are bad from the start",
        (true, StickySectors::Request) => {
            "these sectors are bad from the start, and all sectors of a request on which it fired become so"
        }
        (false, StickySectors::Matched) => "matched sectors of a request on which it fired stay bad",
        (false, StickySectors::Request) => "all sectors of a request on which it fired stay bad",
    };
    let until = match heal {
        Heal::Rewrite => "each until it is written".to_string(),
        Heal::Never => "until they are healed by hand".to_string(),
        Heal::Reset => "until the driver resets the device".to_string(),
        Heal::Point(at) => format!("until {}", point(at)),
    };
    Some(format!("{which}, {until}"))
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
    text += &in_file_system(part);
    text += &bounds(&rule.size(), "sectors");
    text += &part.queue.map_or(String::new(), |queue| format!(" on queue {queue}"));
    text + &bounds(&part.inflight, "requests in flight")
}

/// What it must be to the file system.
fn in_file_system(part: &Match) -> String {
    let classes = part.class.map(|classes| classes.words().join(" or "));
    let inode = part.inode.map(|inode| format!("inode {inode}"));
    let later = if part.must_exist == Some(false) { " (once it is there)" } else { "" };
    let path = part.path.as_ref().map(|path| format!("the file {path:?}{later}"));
    let wanted: Vec<String> = [classes, inode, path].into_iter().flatten().collect();
    let how = match part.overlap {
        Overlap::Any | Overlap::Covers => "in which is",
        Overlap::Within => "wholly of",
    };
    if wanted.is_empty() { String::new() } else { format!(" {how} {}", wanted.join(" of ")) }
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
    if !trigger.when.is_empty() {
        parts.push(format!("when {}", states(&trigger.when, " is ")));
    }
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
        crate::event::Key::File => "what it is in the file system",
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
        Action::Torn { unit, keep } => {
            let unit = match unit {
                Unit::Byte => "bytes",
                Unit::Sector => "sectors",
                Unit::Block => "blocks of 4096 bytes",
            };
            match keep {
                Keep::Prefix => format!("a drawn number of {unit} from the front moves, the rest does not; propose ok"),
                Keep::Suffix => format!("a drawn number of {unit} from the back moves, the rest does not; propose ok"),
                Keep::Random => format!("torn at drawn places between {unit}, every other stretch moves; propose ok"),
                Keep::Units(units) => format!("of its {unit} only those numbered {units:?} move; propose ok"),
            }
        }
        Action::Misdirect { to, original } => {
            let to = match to {
                Target::ToSector(sector) => format!("sector {sector}"),
                Target::DeltaSectors(delta) => format!("{delta:+} sectors from there"),
            };
            let original = match original {
                Original::Stale => "the right place keeps what it had",
                Original::Written => "the right place is written too",
            };
            format!("a write goes to {to} ({original}), a read is answered from {to}; propose ok")
        }
        Action::Corrupt { damage, place } => {
            let damage = match damage {
                Damage::Bits { bits } => format!("{bits} bits of each matched sector flip"),
                Damage::Bytes { offset, bytes, with } => {
                    let with = match with {
                        With::Value(value) => value.to_string(),
                        With::Pattern(Pattern::Zero) => "0".to_string(),
                        With::Pattern(Pattern::Ones) => "255".to_string(),
                        With::Pattern(Pattern::Random) => "wrong ones".to_string(),
                    };
                    format!("bytes {offset} to {} of each matched sector become {with}", offset + bytes - 1)
                }
            };
            let place = if *place == Where::Media { "on the medium, for later reads too" } else { "on the way" };
            format!("{damage}, {place}; propose ok")
        }
        Action::Stale { versions: 1 } => {
            "matched sectors are read as they were before their last write; propose ok".into()
        }
        Action::Stale { versions } => {
            format!("matched sectors are read as they were {versions} writes ago; propose ok")
        }
        Action::PowerCut { unflushed, then } => cut(unflushed, *then),
        Action::Set(values) => format!("from the next request on {}", states(values, " is ")),
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
