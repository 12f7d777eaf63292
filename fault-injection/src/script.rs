//! A script after loading: merged, complete, with every default filled in. Nothing in it needs checking again,
//! except what only the device can know (`check_device`).

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::check;
use crate::event::{FailClass, Key};
use crate::json;
use crate::parse::{Expect, parse};
use crate::power_cut::{Strategy, Subset, Then, Unflushed};
use crate::problem::{Problem, Problems};
use crate::ranges::Ranges;
use crate::request::Op;
use crate::rule::{Action, Place, Point, Rule, Scope};

/// One script file.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Name for messages.
    pub name: &'a str,
    /// The file's text.
    pub text: &'a str,
}

/// What `load` gives when nothing is wrong.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The merged script.
    pub script: Script,
    /// W-codes: print them, and start all the same.
    pub warnings: Vec<Problem>,
}

/// The merged script.
#[derive(Clone, Debug, Default)]
pub struct Script {
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) seed: Option<u64>,
    pub(crate) partition: Option<(u32, Place)>,
    pub(crate) device: DeviceLimits,
    pub(crate) device_places: Vec<(&'static str, Place)>,
    /// Capacities that events ask for.
    pub(crate) capacities: Vec<(u64, Place)>,
    /// Values of each state; the first is the one it begins with.
    pub(crate) states: Vec<(String, Vec<String>)>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) events: Vec<Event>,
    pub(crate) expect: Vec<Expect>,
}

/// Something that happens to the device, once.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Event {
    pub id: String,
    pub at: Point,
    #[serde(rename = "do")]
    pub happens: Happens,
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Happens {
    CapacitySectors(u64),
    FailClass(FailClass),
    Heal {
        #[serde(skip_serializing_if = "Option::is_none")]
        rule: Option<String>,
    },
    Disconnect {
        reconnect_ms: u64,
    },
    WriteCache(WriteCache),
    PowerCut {
        unflushed: Unflushed,
        then: Then,
    },
    Set(BTreeMap<String, String>),
}

impl Happens {
    /// In the script's word.
    fn name(&self) -> &'static str {
        match self {
            Happens::CapacitySectors(_) => "capacity_sectors",
            Happens::FailClass(_) => "fail_class",
            Happens::Heal { .. } => "heal",
            Happens::Disconnect { .. } => "disconnect",
            Happens::WriteCache(_) => "write_cache",
            Happens::PowerCut { .. } => "power_cut",
            Happens::Set(_) => "set",
        }
    }
}

/// What a script asks of the device; `None` leaves it to the device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeviceLimits {
    /// Capacity to offer; at most the image's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity_sectors: Option<u64>,
    /// Most segments of a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seg_max: Option<u32>,
    /// Most bytes of a segment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_max_bytes: Option<u32>,
    /// Logical block size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logical_block_bytes: Option<u32>,
    /// Queues the script needs. A requirement to check: the front-end decides how many there are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queues: Option<u16>,
    /// Write cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_cache: Option<WriteCache>,
    /// Offer the device read-only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// Offer DISCARD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discard: Option<bool>,
    /// Offer WRITE_ZEROES.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_zeroes: Option<bool>,
}

/// `device.write_cache`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteCache {
    /// Volatile: a flush makes writes durable.
    Writeback,
    /// Every write is durable when answered.
    Writethrough,
    /// Volatile, and a flush persists nothing.
    Lying,
}

/// What the device knows of itself, for `Script::check_device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Capacity of the image, before the script limits it.
    pub capacity_sectors: u64,
    /// Queues the device offers.
    pub queues: u16,
    /// Logical block size the device offers (the script's where it sets one).
    pub logical_block_bytes: u32,
}

/// Whether a run follows from script, seed and requests alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Determinism {
    /// True: same script, seed and requests in each queue, same decisions.
    pub deterministic: bool,
    /// Why not; empty when deterministic.
    pub why: Vec<String>,
}

/// The text of a script's file. A file that is no text has that one problem.
pub fn text_of<'b>(name: &str, bytes: &'b [u8]) -> Result<&'b str, Problem> {
    json::text_of(bytes).map_err(|(line, column)| Problem {
        file: name.to_string(),
        line,
        column,
        code: "E100",
        pointer: String::new(),
        text: "not UTF-8".to_string(),
        hint: Some("save the file as UTF-8".to_string()),
    })
}

/// Reads, merges and checks scripts, in order. All problems of all files are found in one pass; nothing is started.
pub fn load(sources: &[Source<'_>]) -> Result<Loaded, Problems> {
    let mut problems = Vec::new();
    let mut drafts = Vec::new();
    for (index, source) in sources.iter().enumerate() {
        let (draft, found) = parse(index, source);
        problems.extend(found);
        drafts.push(draft);
    }
    let script = check::merge(drafts, &mut problems);
    problems.sort_by_key(|(place, _)| (place.source, place.line, place.column));
    let problems: Vec<Problem> = problems.into_iter().map(|(_, problem)| problem).collect();
    match problems.iter().all(Problem::is_warning) {
        true => Ok(Loaded { script, warnings: problems }),
        false => Err(Problems(problems)),
    }
}

impl Script {
    /// A script without rules: the device behaves.
    pub fn empty() -> Script {
        Script::default()
    }

    /// Ids of all rules, then of all events.
    pub fn ids(&self) -> Vec<&str> {
        let rules = self.rules.iter().map(|rule| rule.id.as_str());
        rules.chain(self.events.iter().map(|event| event.id.as_str())).collect()
    }

    /// What only the device can know: ranges beyond its end, queues it does not have. E2xx stop a start.
    pub fn check_device(&self, facts: &DeviceFacts) -> Vec<Problem> {
        check::against_device(self, facts)
    }

    /// Whether a rule asks what blocks are to the file system.
    pub fn needs_the_file_system(&self) -> bool {
        self.rules.iter().any(Rule::needs_the_file_system)
    }

    /// Whether a power cut looks at states that lose or keep one class of writes.
    pub fn groups_states_by_class(&self) -> bool {
        let reduced =
            |unflushed: Unflushed| matches!(unflushed, Unflushed::Subset(Subset { strategy: Strategy::Reduced, .. }));
        let by_rule = |rule: &Rule| matches!(rule.action, Action::PowerCut { unflushed, .. } if reduced(unflushed));
        let by_event =
            |event: &Event| matches!(event.happens, Happens::PowerCut { unflushed, .. } if reduced(unflushed));
        self.rules.iter().any(by_rule) || self.events.iter().any(by_event)
    }

    /// The partition that the script names as the one with the file system, from 1.
    pub fn partition(&self) -> Option<u32> {
        self.partition.as_ref().map(|(number, _)| *number)
    }

    /// Every path that a rule names, each once.
    pub fn paths(&self) -> BTreeSet<&str> {
        self.rules.iter().filter_map(|rule| rule.matches.path.as_deref()).collect()
    }

    /// Paths that are not there, by `inode_of`, and must be. E202 stops a start.
    pub fn check_paths(&self, inode_of: impl Fn(&str) -> Option<u32>) -> Vec<Problem> {
        check::against_paths(self, inode_of)
    }

    /// What is wrong with this script on a disk whose file system cannot be read. Nothing, if no rule asks for it.
    pub fn without_file_system(&self, why: &str) -> Vec<Problem> {
        check::without_file_system(self, why)
    }

    /// The static limits to offer.
    pub fn device(&self) -> &DeviceLimits {
        &self.device
    }

    /// The script's own seed.
    pub fn seed(&self) -> Option<u64> {
        self.seed
    }

    /// The script's name.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// True if there is no rule and no event: nothing will ever be decided.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.events.is_empty()
    }

    /// Whether a rule or event cuts the power, and what then happens, each way once.
    pub fn power_cuts(&self) -> Vec<Then> {
        let of_rule = self.rules.iter().filter_map(|rule| match rule.action {
            Action::PowerCut { then, .. } => Some(then),
            _ => None,
        });
        let of_event = self.events.iter().filter_map(|event| match event.happens {
            Happens::PowerCut { then, .. } => Some(then),
            _ => None,
        });
        let mut ways = Vec::new();
        for then in of_rule.chain(of_event) {
            if !ways.contains(&then) {
                ways.push(then);
            }
        }
        ways
    }

    /// The rules and events that cut the power with this `then`.
    pub fn ids_of_cuts(&self, wanted: Then) -> Vec<&str> {
        let of_rule = |rule: &&Rule| matches!(rule.action, Action::PowerCut { then, .. } if then == wanted);
        let of_event = |event: &&Event| matches!(event.happens, Happens::PowerCut { then, .. } if then == wanted);
        let rules = self.rules.iter().filter(of_rule).map(|rule| rule.id.as_str());
        rules.chain(self.events.iter().filter(of_event).map(|event| event.id.as_str())).collect()
    }

    /// The rules and events by which the disk breaks its word: it answers OK to what is not so, or loses its power with a cache
    /// that lied. Without any of them the disk may fail and be slow, and what it answered OK holds.
    pub fn lies(&self) -> Vec<&str> {
        let cuts = self.device.write_cache == Some(WriteCache::Lying);
        let of_rule = |rule: &&Rule| rule.action.lies() || (cuts && matches!(rule.action, Action::PowerCut { .. }));
        let of_event = |event: &&Event| cuts && matches!(event.happens, Happens::PowerCut { .. });
        let rules = self.rules.iter().filter(of_rule).map(|rule| rule.id.as_str());
        rules.chain(self.events.iter().filter(of_event).map(|event| event.id.as_str())).collect()
    }

    /// Rules by which a write may end in the middle of a sector, whatever is answered.
    pub fn tears_sectors(&self) -> Vec<&str> {
        let tears = |rule: &&Rule| rule.action.tears_sectors() && rule.matches.op.has(Op::Write);
        self.rules.iter().filter(tears).map(|rule| rule.id.as_str()).collect()
    }

    /// Whether the device leaves its front-end by itself: by an event, or at a power cut.
    pub fn leaves_front_end(&self) -> bool {
        self.words().contains("disconnect") || self.power_cuts().contains(&Then::Disconnect)
    }

    /// The largest capacity that an event asks for.
    pub fn largest_capacity(&self) -> Option<u64> {
        self.capacities.iter().map(|(sectors, _)| *sectors).max()
    }

    /// Every action of a rule, and every thing an event does, by its word.
    pub fn words(&self) -> BTreeSet<&'static str> {
        let of_rules = self.rules.iter().map(|rule| rule.action.name());
        of_rules.chain(self.events.iter().map(|event| event.happens.name())).collect()
    }

    /// Sectors whose past `stale` rules may ask for, and how many versions back.
    pub fn history(&self) -> Option<(Vec<(u64, u64)>, u32)> {
        let mut wanted: Option<(Ranges, u32)> = None;
        for rule in self.rules.iter().filter(|rule| rule.enabled) {
            let Action::Stale { versions } = rule.action else { continue };
            let everywhere = rule.matches.sectors.is_empty() || rule.may_stick_anywhere();
            let ranges = if everywhere { vec![(0, u64::MAX)] } else { rule.matches.sectors.clone() };
            let (all, depth) = wanted.get_or_insert_with(|| (Ranges::default(), 0));
            ranges.into_iter().for_each(|(start, end)| all.add(start, end));
            *depth = (*depth).max(versions);
        }
        wanted.map(|(ranges, depth)| (ranges.list().to_vec(), depth))
    }

    /// The merged script as JSON with all defaults written out, for script.normalized.json. Loading it gives the same.
    pub fn normalized(&self) -> String {
        let fired = |expect: &Expect| (expect.id.clone(), (expect.min, expect.max));
        let normalized = Normalized {
            faultscript: 1,
            name: self.name.as_deref(),
            description: self.description.as_deref(),
            seed: self.seed,
            device: &self.device,
            filesystem: self.partition().map(|partition| FileSystem { partition }),
            states: self.states.iter().map(|(name, values)| (name.as_str(), values.as_slice())).collect(),
            rules: &self.rules,
            events: &self.events,
            expect: (!self.expect.is_empty()).then(|| Fired { fired: self.expect.iter().map(fired).collect() }),
        };
        let mut text = serde_json::to_string_pretty(&normalized).expect("a script is plain data with string keys");
        text.push('\n');
        text
    }

    /// Whether runs with this many queues follow from the seed and each queue's requests alone.
    pub fn determinism(&self, queues: u16) -> Determinism {
        let of_rules = self.rules.iter().filter_map(|rule| chance(rule, queues));
        let why: Vec<String> =
            of_rules.chain(self.events.iter().filter_map(|event| event_chance(event, queues))).collect();
        Determinism { deterministic: why.is_empty(), why }
    }
}

/// Why a rule's decisions may differ between two runs with the same requests in each queue.
fn chance(rule: &Rule, queues: u16) -> Option<String> {
    let id = &rule.id;
    let trigger = &rule.trigger;
    let mut points =
        [trigger.after.as_ref(), trigger.until.as_ref(), rule.hold_point(), rule.heal_point()].into_iter().flatten();
    if !rule.enabled {
        return None;
    }
    if points.clone().any(|point| matches!(point, Point::Ms(_))) {
        return Some(format!("rule {id:?} has a point in ms: it follows the clock"));
    }
    if !rule.matches.inflight.is_open() {
        return Some(format!("rule {id:?} matches by inflight: it follows the speed of the disk"));
    }
    if queues < 2 {
        return None;
    }
    if rule.needs_the_file_system() {
        return Some(format!(
            "rule {id:?} asks what blocks are: that follows the order of metadata writes, and {queues} queues have no order among them"
        ));
    }
    if rule.scope == Scope::Device || (matches!(rule.scope, Scope::Sticky { .. }) && !rule.is_latent()) {
        return Some(format!("rule {id:?} sticks once it has fired, and {queues} queues have no order among them"));
    }
    if !trigger.when.is_empty() || matches!(rule.action, Action::Set(_)) {
        return Some(format!("rule {id:?} is about a state, and {queues} queues have no order among them"));
    }
    let of_device = |point: &Point| !matches!(point, Point::Matches(_) | Point::Mark(_));
    if points.clone().any(of_device) || (points.next().is_some() && rule.matches.queue.is_none()) {
        return Some(format!("rule {id:?} has a point, and {queues} queues have no order among them"));
    }
    let counts = !trigger.nth.is_empty()
        || trigger.every.is_some()
        || trigger.limit.is_some()
        || trigger.key == Key::Ordinal
        || matches!(rule.action, Action::Reorder { .. });
    match rule.matches.queue {
        None if counts => Some(format!("rule {id:?} counts requests, and {queues} queues have no order among them")),
        Some(_) if trigger.key == Key::Address && rule.draws() => {
            Some(format!("rule {id:?} draws for one queue, and touches of an extent are counted over all {queues}"))
        }
        _ => None,
    }
}

/// Why an event may come at another moment in another run.
fn event_chance(event: &Event, queues: u16) -> Option<String> {
    let id = &event.id;
    match event.at {
        Point::Ms(_) => Some(format!("event {id:?} has a point in ms: it follows the clock")),
        _ if queues > 1 => Some(format!("event {id:?} has a point, and {queues} queues have no order among them")),
        _ => None,
    }
}

/// The form in which a script is written back.
#[derive(Serialize)]
struct Normalized<'s> {
    faultscript: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'s str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'s str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    device: &'s DeviceLimits,
    #[serde(skip_serializing_if = "Option::is_none")]
    filesystem: Option<FileSystem>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    states: BTreeMap<&'s str, &'s [String]>,
    rules: &'s [Rule],
    #[serde(skip_serializing_if = "<[Event]>::is_empty")]
    events: &'s [Event],
    #[serde(skip_serializing_if = "Option::is_none")]
    expect: Option<Fired>,
}

#[derive(Serialize)]
struct FileSystem {
    partition: u32,
}

#[derive(Serialize)]
struct Fired {
    fired: BTreeMap<String, (u64, Option<u64>)>,
}

/// The JSON Schema (draft 2020-12) of the language.
pub fn schema() -> &'static str {
    include_str!("../fault-script.schema.json")
}
