//! What can only be judged over all rules and files together, and against the device.

use std::collections::BTreeMap;

use crate::parse::{Draft, Expect};
use crate::problem::Problem;
use crate::reader::{did_you_mean, problem};
use crate::request::SECTOR_BYTES;
use crate::rule::{Action, Match, Overlap, Place, Point, Rule, Target};
use crate::script::{DeviceFacts, DeviceLimits, Script};

type Found = Vec<(Place, Problem)>;

fn report(found: &mut Found, code: &'static str, place: &Place, text: String, hint: Option<String>) {
    found.push((place.clone(), problem(code, place, text, hint)));
}

/// Puts the files together in order, and checks what no file can know of the others.
pub fn merge(drafts: Vec<Draft>, found: &mut Found) -> Script {
    check_ids(&drafts, found);
    check_states(&drafts, found);
    let ids: Vec<String> = drafts.iter().flat_map(|draft| draft.ids.iter().map(|(id, _)| id.clone())).collect();
    let names: Vec<String> = drafts.iter().filter_map(|draft| draft.name.clone()).collect();
    let descriptions: Vec<String> = drafts.iter().filter_map(|draft| draft.description.clone()).collect();
    let mut script = Script {
        name: (!names.is_empty()).then(|| names.join(" + ")),
        description: (!descriptions.is_empty()).then(|| descriptions.join("\n")),
        ..Script::default()
    };
    let mut seed_place: Option<Place> = None;
    let mut rule_uses = Vec::new();
    let mut expects: BTreeMap<String, Place> = BTreeMap::new();
    for draft in drafts {
        if let Some((seed, place)) = draft.seed {
            if let Some(first) = &seed_place {
                report(found, "E109", &place, format!("seed is set already: {}", at(first)), None);
            }
            script.seed = script.seed.or(Some(seed));
            seed_place.get_or_insert(place);
        }
        merge_partition(&mut script, draft.partition, found);
        merge_device(&mut script, &draft.device, draft.device_places, found);
        script.rules.extend(draft.rules);
        script.events.extend(draft.events);
        script.capacities.extend(draft.capacities);
        for (name, values, _) in draft.states {
            if script.states.iter().all(|(known, _)| *known != name) {
                script.states.push((name, values));
            }
        }
        rule_uses.extend(draft.rule_uses);
        for (expect, place) in draft.expect {
            check_expect(&expect, &place, &ids, found);
            if let Some(first) = expects.insert(expect.id.clone(), place.clone()) {
                let text = format!("rule {:?} has an expectation already: {}", expect.id, at(&first));
                report(found, "E109", &place, text, None);
            }
            script.expect.push(expect);
        }
    }
    for (id, place) in rule_uses.iter().filter(|(id, _)| !ids.contains(id)) {
        let known: Vec<&str> = ids.iter().map(String::as_str).collect();
        report(found, "E110", place, format!("no rule {id:?}"), did_you_mean(id, &known));
    }
    check_children(&script.rules, &ids, found);
    warn_idle(&script.rules, found);
    script
}

fn at(place: &Place) -> String {
    format!("{}:{}:{}", place.file, place.line, place.column)
}

/// Ids are unique over all files, so that a rule can be named without its file.
fn check_ids(drafts: &[Draft], found: &mut Found) {
    let mut first: BTreeMap<&str, &Place> = BTreeMap::new();
    for (id, place) in drafts.iter().flat_map(|draft| &draft.ids) {
        if let Some(earlier) = first.get(id.as_str()) {
            report(found, "E109", place, format!("id {id:?} is used already: {}", at(earlier)), None);
        } else {
            first.insert(id, place);
        }
    }
}

fn check_states(drafts: &[Draft], found: &mut Found) {
    let mut states: BTreeMap<&str, (&[String], &Place)> = BTreeMap::new();
    for (name, values, place) in drafts.iter().flat_map(|draft| &draft.states) {
        match states.get(name.as_str()) {
            Some((earlier, first)) if *earlier != &values[..] => {
                let text = format!("state {name:?} has other values already: {}", at(first));
                report(found, "E109", place, text, Some("states of several files must be identical".to_string()));
            }
            Some(_) => {}
            None => drop(states.insert(name, (values, place))),
        }
    }
    for used in drafts.iter().flat_map(|draft| &draft.state_uses) {
        let Some((values, _)) = states.get(used.state.as_str()) else {
            let known: Vec<&str> = states.keys().copied().collect();
            let text = format!("no state {:?}", used.state);
            report(found, "E110", &used.place, text, did_you_mean(&used.state, &known));
            continue;
        };
        if !values.contains(&used.value) {
            let known: Vec<&str> = values.iter().map(String::as_str).collect();
            let text = format!("state {:?} has no value {:?}", used.state, used.value);
            report(found, "E203", &used.place, text, did_you_mean(&used.value, &known));
        }
    }
}

fn merge_device(script: &mut Script, limits: &DeviceLimits, places: Vec<(&'static str, Place)>, found: &mut Found) {
    for (key, place) in places {
        match script.device_places.iter().find(|(set, _)| *set == key) {
            Some((_, first)) => {
                let text = format!("device.{key} is set already: {}", at(first));
                report(found, "E109", &place, text, None);
            }
            None => script.device_places.push((key, place)),
        }
    }
    let device = &mut script.device;
    device.capacity_sectors = device.capacity_sectors.or(limits.capacity_sectors);
    device.seg_max = device.seg_max.or(limits.seg_max);
    device.size_max_bytes = device.size_max_bytes.or(limits.size_max_bytes);
    device.logical_block_bytes = device.logical_block_bytes.or(limits.logical_block_bytes);
    device.queues = device.queues.or(limits.queues);
    device.write_cache = device.write_cache.or(limits.write_cache);
    device.read_only = device.read_only.or(limits.read_only);
    device.discard = device.discard.or(limits.discard);
    device.write_zeroes = device.write_zeroes.or(limits.write_zeroes);
}

fn merge_partition(script: &mut Script, partition: Option<(u32, Place)>, found: &mut Found) {
    match (&script.partition, partition) {
        (Some((known, first)), Some((number, place))) if *known != number => {
            let text = format!("the file system is in partition {known} already: {}", at(first));
            report(found, "E109", &place, text, None);
        }
        (None, given @ Some(_)) => script.partition = given,
        _ => {}
    }
}

fn check_expect(expect: &Expect, place: &Place, ids: &[String], found: &mut Found) {
    if !ids.contains(&expect.id) {
        let known: Vec<&str> = ids.iter().map(String::as_str).collect();
        let text = format!("no rule {:?}", expect.id);
        report(found, "E110", place, text, did_you_mean(&expect.id, &known));
    }
}

fn check_children(rules: &[Rule], ids: &[String], found: &mut Found) {
    let is_split = |rule: &Rule| matches!(rule.action, Action::Split { .. });
    let splits: Vec<&str> = rules.iter().filter(|rule| is_split(rule)).map(|rule| rule.id.as_str()).collect();
    for rule in rules {
        let (Some(parent), Some(place)) = (&rule.matches.child_of, &rule.places.child_of) else { continue };
        if splits.contains(&parent.as_str()) {
            continue;
        }
        match rules.iter().find(|other| other.id == *parent) {
            Some(other) => {
                let text = format!("rule {parent:?} is no split: its action is {:?}", other.action.name());
                report(found, "E110", place, text, did_you_mean(parent, &splits));
            }
            // One that could not be understood has its own problem.
            None if ids.contains(parent) => {}
            None => {
                report(found, "E110", place, format!("no rule {parent:?}"), did_you_mean(parent, &splits));
            }
        }
    }
}

/// Rules that do nothing, each with its code and why.
pub fn idle(rules: &[Rule]) -> Vec<(usize, &'static str, String)> {
    let enabled = || rules.iter().enumerate().filter(|(_, rule)| rule.enabled);
    let shadowed = enabled().filter_map(|(i, rule)| Some((i, "W301", never_wins(&rules[..i], rule)?)));
    let dead = enabled().filter_map(|(i, rule)| Some((i, "W302", never_fires(rule)?)));
    shadowed.chain(dead).collect()
}

fn warn_idle(rules: &[Rule], found: &mut Found) {
    for (i, code, why) in idle(rules) {
        let place = &rules[i].places.rule;
        let text = if code == "W301" { why } else { format!("rule {:?} {why}", rules[i].id) };
        report(found, code, place, text, None);
    }
}

/// W301: an earlier rule of the same stage fires whenever this one could.
fn never_wins(before: &[Rule], rule: &Rule) -> Option<String> {
    let wins = |earlier: &&Rule| {
        earlier.enabled
            && earlier.action.stage() == rule.action.stage()
            && earlier.action.competes()
            && rule.action.competes()
            && !rule.may_stick_anywhere()
            && fires_always(earlier)
            && looks_at_all_of(earlier, rule)
    };
    let earlier = before.iter().find(wins)?;
    let same = if earlier.matches == rule.matches { "same match" } else { "wider match" };
    Some(format!(
        "can never win: rule {:?} ({} stage, {same}, no limit) precedes it",
        earlier.id,
        rule.action.stage().name()
    ))
}

/// W302: the trigger leaves nothing over.
fn never_fires(rule: &Rule) -> Option<String> {
    let trigger = &rule.trigger;
    if trigger.probability == Some(0.0) {
        return Some("can never fire: its probability is 0".to_string());
    }
    let empty = window_is_empty(trigger.after.as_ref(), trigger.until.as_ref());
    empty.then(|| "can never fire: \"until\" is not after \"after\"".to_string())
}

fn fires_always(rule: &Rule) -> bool {
    // What sticks can be healed, what is misdirected may have nowhere to go, and a hold until a point ends.
    rule.trigger.is_always()
        && !rule.is_latent()
        && rule.hold_point().is_none()
        && !matches!(rule.action, Action::Misdirect { .. })
}

/// Whether every request the second rule matches is matched by the first; false where we cannot tell.
fn looks_at_all_of(first: &Rule, second: &Rule) -> bool {
    let (a, b) = (&first.matches, &second.matches);
    let inside = |range: &(u64, u64)| a.sectors.iter().any(|wide| wide.0 <= range.0 && range.1 <= wide.1);
    let ranges = a.sectors.is_empty()
        || (a.sectors == b.sectors && a.overlap == b.overlap)
        || (a.overlap == Overlap::Any && !b.sectors.is_empty() && b.sectors.iter().all(inside));
    a.op.covers(b.op)
        && ranges
        && first.size().contain(&second.size())
        && a.inflight.contain(&b.inflight)
        && a.queue.is_none_or(|queue| b.queue == Some(queue))
        && a.child_of == b.child_of
        && looks_at_all_files_of(a, b)
}

/// Whether the first asks no more of the file system than the second. Paths may come to be the same inode, so only equal
/// ones are told to be.
fn looks_at_all_files_of(a: &Match, b: &Match) -> bool {
    let classes = match (a.class, b.class) {
        (None, _) => true,
        (Some(first), Some(second)) => first.covers(second),
        (Some(_), None) => false,
    };
    let asks = a.class.is_some() || a.inode.is_some() || a.path.is_some();
    classes
        && (a.inode.is_none() || a.inode == b.inode)
        && (a.path.is_none() || a.path == b.path)
        // A request may have parts of which only some are what is looked for.
        && (!asks || a.overlap == b.overlap)
}

fn window_is_empty(after: Option<&Point>, until: Option<&Point>) -> bool {
    match (after, until) {
        (Some(Point::Mark(a)), Some(Point::Mark(b))) => a == b,
        (Some(a), Some(b)) if std::mem::discriminant(a) == std::mem::discriminant(b) => number(b) <= number(a),
        _ => false,
    }
}

fn number(point: &Point) -> u64 {
    match *point {
        Point::Matches(n) | Point::Requests(n) | Point::Writes(n) | Point::Flushes(n) | Point::Bytes(n) => n,
        Point::Ms(n) => n,
        Point::Mark(_) => 0,
    }
}

/// E2xx: what the script asks for and this device cannot be or do.
pub fn against_device(script: &Script, facts: &DeviceFacts) -> Vec<Problem> {
    let mut found = Vec::new();
    check_limits(script, facts, &mut found);
    check_capacities(script, facts, &mut found);
    // What an event makes room for may be spoken of.
    let at_start = script.device.capacity_sectors.unwrap_or(u64::MAX).min(facts.capacity_sectors);
    let capacity = script.largest_capacity().unwrap_or(0).max(at_start);
    for rule in &script.rules {
        for (range, place) in rule.matches.sectors.iter().zip(&rule.places.sectors) {
            if range.1 > capacity {
                let text = format!("[{},{}) lies beyond the device ({capacity} sectors)", range.0, range.1);
                report(&mut found, "E201", place, text, None);
            }
        }
        if let (Action::Misdirect { to: Target::ToSector(to), .. }, Some(place)) =
            (&rule.action, &rule.places.to_sector)
            && *to >= capacity
        {
            let text = format!("to_sector {to} lies beyond the device ({capacity} sectors)");
            report(&mut found, "E201", place, text, None);
        }
        if let (Some(queue), Some(place)) = (rule.matches.queue, &rule.places.queue)
            && queue >= facts.queues
        {
            let text = format!("queue {queue} does not exist: the device has {}", facts.queues);
            report(&mut found, "E206", place, text, Some("queues count from 0".to_string()));
        }
    }
    in_order(found)
}

fn in_order(mut found: Found) -> Vec<Problem> {
    found.sort_by_key(|(place, _)| (place.source, place.line, place.column));
    found.into_iter().map(|(_, problem)| problem).collect()
}

/// E202: paths that the file system does not have, unless the rule says that it need not.
pub fn against_paths(script: &Script, inode_of: impl Fn(&str) -> Option<u32>) -> Vec<Problem> {
    let mut found = Vec::new();
    for rule in script.rules.iter().filter(|rule| rule.matches.must_exist != Some(false)) {
        if let (Some(path), Some(place)) = (&rule.matches.path, &rule.places.path)
            && inode_of(path).is_none()
        {
            let text = format!("{path:?} not found on the image at start");
            let hint = "use \"inode\", create it in the image, or add \"must_exist\": false to follow it from when it is there";
            report(&mut found, "E202", place, text, Some(hint.to_string()));
        }
    }
    in_order(found)
}

/// E208: rules that ask for the file system where it cannot be read. The first one is enough.
pub fn without_file_system(script: &Script, why: &str) -> Vec<Problem> {
    let mut found = Vec::new();
    if let Some(rule) = script.rules.iter().find(|rule| rule.needs_the_file_system()) {
        let place = script.partition.as_ref().map_or(&rule.places.rule, |(_, place)| place);
        let hint = "match by \"sectors\" instead".to_string();
        report(&mut found, "E208", place, format!("what a block is cannot be told: {why}"), Some(hint));
    }
    in_order(found)
}

fn check_limits(script: &Script, facts: &DeviceFacts, found: &mut Found) {
    for (key, place) in &script.device_places {
        match *key {
            "queues" if script.device.queues > Some(facts.queues) => {
                let wanted = script.device.queues.unwrap_or(0);
                let text = format!("the script needs {wanted} queues, the device has {}", facts.queues);
                report(found, "E204", place, text, Some(format!("start it with --num-queues {wanted}")));
            }
            "capacity_sectors" if script.device.capacity_sectors > Some(facts.capacity_sectors) => {
                let wanted = script.device.capacity_sectors.unwrap_or(0);
                let text = format!("the script needs {wanted} sectors, the image has {}", facts.capacity_sectors);
                report(found, "E205", place, text, Some("enlarge the image with truncate -s".to_string()));
            }
            "logical_block_bytes" | "capacity_sectors" => check_whole_blocks(script, facts, key, place, found),
            _ => {}
        }
    }
}

/// Where events lead to.
fn check_capacities(script: &Script, facts: &DeviceFacts, found: &mut Found) {
    let block = script.device.logical_block_bytes.unwrap_or(facts.logical_block_bytes);
    for (sectors, place) in &script.capacities {
        if !sectors.is_multiple_of(u64::from(block) / SECTOR_BYTES) {
            let text = format!("{sectors} sectors are not a whole number of blocks of {block} bytes");
            report(found, "E207", place, text, None);
        }
    }
}

fn check_whole_blocks(script: &Script, facts: &DeviceFacts, key: &str, place: &Place, found: &mut Found) {
    let block = script.device.logical_block_bytes.unwrap_or(facts.logical_block_bytes);
    let capacity = script.device.capacity_sectors.unwrap_or(facts.capacity_sectors);
    // With both keys in the script one line is enough.
    let said_elsewhere = key == "logical_block_bytes" && script.device.capacity_sectors.is_some();
    if !capacity.is_multiple_of(u64::from(block) / SECTOR_BYTES) && !said_elsewhere {
        let text = format!("{capacity} sectors are not a whole number of blocks of {block} bytes");
        report(found, "E207", place, text, None);
    }
}
