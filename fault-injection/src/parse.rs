//! The grammar of a script: one function for each kind of object in fault-script.schema.json.
//!
//! Everything in the schema is read and checked here, also what is not carried out yet; that is then refused by name
//! (E401), never passed over. What needs more than one rule or file is checked in `check`.

use std::collections::BTreeMap;

use crate::corrupt::{Damage, Pattern, SECTOR_BITS, With};
use crate::decision::{GateWhen, Status, UsedLen};
use crate::distribution::{DEFAULT_MAX_US, Distribution, Tail};
use crate::event::{FailClass, Key};
use crate::json;
use crate::power_cut::{MAX_STATES, Strategy, Subset, Then, Unflushed};
use crate::problem::Problem;
use crate::reader::{At, Fields, MAX_INTEGER, Reader, did_you_mean, quoted};
use crate::request::SECTOR_BYTES;
use crate::rule::*;
use crate::script::{DeviceLimits, Event, Happens, Source, WriteCache};

/// Longest time a script can ask for, except for points in `ms`: a day.
const MAX_MS: u64 = 86_400_000;
/// Most versions a `stale` can reach back: each of them is kept for every sector it may ask for.
const MAX_VERSIONS: u64 = 64;
/// Latest point in `ms`: about three years.
const MAX_POINT_MS: u64 = 100_000_000_000;

/// One file, as far as it could be understood.
#[derive(Default)]
pub struct Draft {
    pub name: Option<String>,
    pub description: Option<String>,
    pub seed: Option<(u64, Place)>,
    pub device: DeviceLimits,
    /// The `device` keys of this file.
    pub device_places: Vec<(&'static str, Place)>,
    pub states: Vec<(String, Vec<String>, Place)>,
    pub state_uses: Vec<StateUse>,
    pub rules: Vec<Rule>,
    pub events: Vec<Event>,
    /// Rules named by events.
    pub rule_uses: Vec<(String, Place)>,
    /// Ids of all rules and events, also of those that could not be understood.
    pub ids: Vec<(String, Place)>,
    pub expect: Vec<(Expect, Place)>,
}

/// A state's value asked for or set somewhere.
pub struct StateUse {
    pub state: String,
    pub value: String,
    pub place: Place,
}

/// How often a rule must be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect {
    pub id: String,
    pub min: u64,
    pub max: Option<u64>,
}

/// Reads one file.
pub fn parse(index: usize, source: &Source<'_>) -> (Draft, Vec<(Place, Problem)>) {
    let mut parser = Parser { r: Reader::new(index, source.name, source.text), draft: Draft::default() };
    match json::parse(source.text) {
        Ok(node) => parser.script(&At::root(&node)),
        Err(error) => {
            let place = parser.r.place_at(error.line, error.column, String::new());
            parser.r.report_at("E100", place, format!("not JSON: {}", error.text), None);
        }
    }
    (parser.draft, parser.r.problems)
}

struct Parser<'s> {
    r: Reader<'s>,
    draft: Draft,
}

impl Parser<'_> {
    fn not_yet(&mut self, at: &At<'_>, what: &str, hint: &str) {
        self.r.report("E401", at, format!("{what} is not carried out yet"), Some(hint.to_string()));
    }

    fn script(&mut self, at: &At<'_>) {
        let known = ["faultscript", "name", "description", "seed", "device", "states", "rules", "events", "expect"];
        let Some(fields) = self.r.object(at, &known) else { return };
        if let Some(at) = self.r.required(&fields, "faultscript").cloned() {
            self.version(&at);
        }
        self.draft.name = fields.get("name").and_then(|at| self.r.string(at)).map(str::to_string);
        self.draft.description = fields.get("description").and_then(|at| self.r.string(at)).map(str::to_string);
        if let Some(at) = fields.get("seed") {
            let place = self.r.place(at);
            self.draft.seed = self.r.integer(at, 0, MAX_INTEGER).map(|seed| (seed, place));
        }
        if let Some(at) = fields.get("device") {
            self.device(at);
        }
        if let Some(at) = fields.get("states") {
            self.states(at);
        }
        for at in fields.get("rules").and_then(|at| self.r.array(at)).unwrap_or_default() {
            if let Some(rule) = self.rule(&at) {
                self.draft.rules.push(rule);
            }
        }
        for at in fields.get("events").and_then(|at| self.r.array(at)).unwrap_or_default() {
            self.event(&at);
        }
        if let Some(at) = fields.get("expect") {
            self.expect(at);
        }
    }

    fn version(&mut self, at: &At<'_>) {
        match at.node.get_ref() {
            json::Value::Integer(1) => {}
            json::Value::Integer(n) => {
                let text = format!("version {n} of the language is not known");
                self.r.report("E102", at, text, Some("this program reads version 1".to_string()));
            }
            _ => {
                self.r.integer(at, 1, 1);
            }
        }
    }

    fn device(&mut self, at: &At<'_>) {
        let known = [
            "capacity_sectors",
            "seg_max",
            "size_max_bytes",
            "logical_block_bytes",
            "queues",
            "write_cache",
            "read_only",
            "discard",
            "write_zeroes",
        ];
        let Some(fields) = self.r.object(at, &known) else { return };
        for key in known {
            if let Some(at) = fields.get(key) {
                self.draft.device_places.push((key, self.r.place(at)));
            }
        }
        let r = &mut self.r;
        let mut number = |key, min, max| fields.get(key).and_then(|at| r.integer(at, min, max));
        self.draft.device = DeviceLimits {
            capacity_sectors: number("capacity_sectors", 1, MAX_INTEGER),
            seg_max: number("seg_max", 1, 1024).map(|n| n as u32),
            size_max_bytes: number("size_max_bytes", 4096, u32::MAX.into()).map(|n| n as u32),
            queues: number("queues", 1, 64).map(|n| n as u16),
            logical_block_bytes: fields.get("logical_block_bytes").and_then(|at| self.block_bytes(at)),
            write_cache: fields.get("write_cache").and_then(|at| self.write_cache(at)),
            read_only: fields.get("read_only").and_then(|at| self.r.boolean(at)),
            discard: fields.get("discard").and_then(|at| self.r.boolean(at)),
            write_zeroes: fields.get("write_zeroes").and_then(|at| self.r.boolean(at)),
        };
    }

    fn block_bytes(&mut self, at: &At<'_>) -> Option<u32> {
        let n = self.r.integer(at, 512, 4096)?;
        if !n.is_power_of_two() {
            self.r.report("E102", at, format!("{n} is not one of 512, 1024, 2048, 4096"), None);
            return None;
        }
        Some(n as u32)
    }

    fn write_cache(&mut self, at: &At<'_>) -> Option<WriteCache> {
        let choices = [
            ("writeback", WriteCache::Writeback),
            ("writethrough", WriteCache::Writethrough),
            ("lying", WriteCache::Lying),
        ];
        self.r.choice(at, &choices)
    }

    fn states(&mut self, at: &At<'_>) {
        let Some(fields) = self.r.any_object(at) else { return };
        for (name, at) in &fields.entries {
            let Some(items) = self.r.array(at) else { continue };
            let mut values: Vec<String> = Vec::new();
            for item in &items {
                if let Some(value) = self.r.string(item) {
                    if values.iter().any(|known| known == value) {
                        self.r.report("E109", item, format!("{value:?} is listed twice"), None);
                    }
                    values.push(value.to_string());
                }
            }
            if items.len() < 2 {
                self.r.report("E103", at, "a state needs at least two values", None);
            }
            self.draft.states.push((name.to_string(), values, self.r.place(at)));
        }
    }

    /// An object of state: value, in `when` and `set`.
    fn state_values(&mut self, at: &At<'_>) -> BTreeMap<String, String> {
        let mut values = BTreeMap::new();
        let Some(fields) = self.r.any_object(at) else { return values };
        if fields.entries.is_empty() {
            self.r.report("E103", at, "no state is named", None);
        }
        for (state, at) in &fields.entries {
            if let Some(value) = self.r.string(at) {
                let place = self.r.place(at);
                let (state, value) = (state.to_string(), value.to_string());
                values.insert(state.clone(), value.clone());
                self.draft.state_uses.push(StateUse { state, value, place });
            }
        }
        values
    }

    fn rule(&mut self, at: &At<'_>) -> Option<Rule> {
        let before = self.r.problems.len();
        let fields = self.r.object(at, &["id", "enabled", "match", "trigger", "action", "scope", "note"])?;
        let id = self.r.required(&fields, "id").cloned().and_then(|at| self.id(&at));
        let enabled = fields.get("enabled").and_then(|at| self.r.boolean(at)).unwrap_or(true);
        let note = fields.get("note").and_then(|at| self.r.string(at)).map(str::to_string);
        let mut places =
            Places { rule: self.r.place(at), sectors: Vec::new(), queue: None, child_of: None, to_sector: None };
        let (matches, op) = self.matches(fields.get("match"), &mut places);
        let trigger = fields.get("trigger").and_then(|at| self.trigger(at)).unwrap_or_default();
        let action = self.r.required(&fields, "action").cloned().and_then(|at| self.action(&at));
        let scope = fields.get("scope").map(|at| self.scope(at)).unwrap_or_default();
        places.to_sector = action.as_ref().and_then(|_| fields.get("action")).map(|at| self.r.place(at));
        let mut rule = Rule { id: id?, enabled, matches, trigger, action: action?, scope, note, places };
        self.settle_ops(&mut rule, &op, &fields);
        self.refuse_scope(&rule, &fields);
        // A rule with a problem anywhere is left out: what is checked later assumes whole rules.
        (self.r.problems.len() == before).then_some(rule)
    }

    fn id(&mut self, at: &At<'_>) -> Option<String> {
        let id = self.r.string(at)?;
        let first = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        let well_formed = id.chars().enumerate().all(|(i, c)| first(c) || (i > 0 && "_.-".contains(c)));
        if id.is_empty() || id.len() > 63 || !well_formed {
            let hint = "use 1 to 63 of a-z 0-9 _ . -, the first a letter or digit".to_string();
            self.r.report("E103", at, format!("{id:?} is not an id"), Some(hint));
            return None;
        }
        self.draft.ids.push((id.to_string(), self.r.place(at)));
        Some(id.to_string())
    }

    fn matches<'n>(&mut self, at: Option<&At<'n>>, places: &mut Places) -> (Match, NamedOps<'n>) {
        let mut matches = Match {
            op: OpSet::NONE,
            sectors: Vec::new(),
            overlap: Overlap::Any,
            size: Bounds::default(),
            queue: None,
            inflight: Bounds::default(),
            child_of: None,
        };
        let mut op = NamedOps::default();
        let known = ["op", "sectors", "overlap", "size", "queue", "class", "inode", "path", "inflight", "child_of"];
        let Some(fields) = at.and_then(|at| self.r.object(at, &known)) else { return (matches, op) };
        if let Some(at) = fields.get("op") {
            op = self.named_ops(at);
        }
        if let Some(at) = fields.get("sectors") {
            matches.sectors = self.ranges(at, places);
        }
        if let Some(at) = fields.get("overlap") {
            let choices = [("any", Overlap::Any), ("within", Overlap::Within), ("covers", Overlap::Covers)];
            matches.overlap = self.r.choice(at, &choices).unwrap_or_default();
        }
        matches.size = fields.get("size").map(|at| self.bounds(at)).unwrap_or_default();
        matches.inflight = fields.get("inflight").map(|at| self.bounds(at)).unwrap_or_default();
        if let Some(at) = fields.get("queue") {
            places.queue = Some(self.r.place(at));
            matches.queue = self.r.integer(at, 0, 65_535).map(|n| n as u16);
        }
        if let Some(at) = fields.get("child_of") {
            places.child_of = Some(self.r.place(at));
            matches.child_of = self.r.string(at).map(str::to_string);
        }
        self.file_system_parts(&fields);
        (matches, op)
    }

    /// `class`, `inode` and `path` need to know what ext4 keeps where.
    fn file_system_parts(&mut self, fields: &Fields<'_>) {
        const HINT: &str = "match by \"sectors\" instead";
        if let Some(at) = fields.get("class") {
            let items = if at.is_array() { self.r.array(at).unwrap_or_default() } else { vec![at.clone()] };
            for item in &items {
                if self.r.string(item).is_some_and(|class| !class.starts_with("ext4.")) {
                    let hint = "as in ext4.data or ext4.journal.commit".to_string();
                    self.r.report("E102", item, "a class begins with \"ext4.\"", Some(hint));
                }
            }
            self.not_yet(at, "matching by \"class\"", HINT);
        }
        if let Some(at) = fields.get("inode") {
            self.r.integer(at, 1, MAX_INTEGER);
            self.not_yet(at, "matching by \"inode\"", HINT);
        }
        if let Some(at) = fields.get("path") {
            if self.r.string(at).is_some_and(|path| !path.starts_with('/')) {
                self.r.report("E102", at, "a path begins with \"/\"", None);
            }
            self.not_yet(at, "matching by \"path\"", HINT);
        }
    }

    fn named_ops<'n>(&mut self, at: &At<'n>) -> NamedOps<'n> {
        let mut choices: Vec<(&str, Option<crate::Op>)> = OPS.iter().map(|(name, op)| (*name, Some(*op))).collect();
        choices.push(("any", None));
        let items = if at.is_array() { self.r.array(at).unwrap_or_default() } else { vec![at.clone()] };
        if items.is_empty() {
            self.r.report("E103", at, "an empty list of ops matches nothing", Some("leave \"op\" out for any".into()));
        }
        let mut named = NamedOps { at: Some(at.clone()), any: false, ops: OpSet::NONE };
        for item in &items {
            match self.r.choice(item, &choices) {
                Some(Some(op)) => named.ops = named.ops.or(OpSet::of(&[op])),
                Some(None) => named.any = true,
                None => {}
            }
        }
        named
    }

    /// Fixes the types a rule looks at: those named must make sense, "any" shrinks to those that do.
    fn settle_ops(&mut self, rule: &mut Rule, named: &NamedOps<'_>, fields: &Fields<'_>) {
        let matches = &rule.matches;
        let sticky = matches!(rule.scope, Scope::Sticky { .. });
        let placed = sticky || !matches.sectors.is_empty() || !matches.size.is_open() || matches.child_of.is_some();
        let meant = if placed { rule.action.ops().and(OpSet::SECTORED) } else { rule.action.ops() };
        self.refuse_ops(named, rule, meant);
        let any = if named.any || named.ops == OpSet::NONE { OpSet::ANY } else { OpSet::NONE };
        rule.matches.op = named.ops.or(any).and(meant);
        let gate_or_split =
            rule.action.stage() == Stage::Gate || matches!(rule.action, Action::Split { .. } | Action::PowerCut { .. });
        if rule.matches.child_of.is_some() && gate_or_split {
            let at = fields.get("action").unwrap_or(&fields.at);
            let text = format!("{:?} on the child of a split", rule.action.name());
            let hint = "a child takes error, partial, torn, lose, misdirect, corrupt, stale and set; put a gate on the request, or use split's \"order\"";
            self.r.report("E111", at, text, Some(hint.to_string()));
        }
    }

    fn refuse_ops(&mut self, named: &NamedOps<'_>, rule: &Rule, meant: OpSet) {
        let odd = named.ops.without(meant);
        let Some(at) = named.at.as_ref().filter(|_| odd != OpSet::NONE) else { return };
        let names = odd.names().join(", ");
        if rule.action.ops().covers(odd) {
            let text =
                format!("{names} has no sectors: \"sectors\", \"size\", \"child_of\" and \"sticky\" never match it");
            self.r.report("E111", at, text, None);
            return;
        }
        let hint = match rule.action {
            Action::Lose {} if odd.has(crate::Op::Read) => {
                "a read has nothing to lose; old data is \"stale\"".to_string()
            }
            _ => format!("it acts on {}", rule.action.ops().names().join(", ")),
        };
        self.r.report("E111", at, format!("{:?} means nothing on {names}", rule.action.name()), Some(hint));
    }

    fn ranges(&mut self, at: &At<'_>, places: &mut Places) -> Vec<(u64, u64)> {
        let items = self.r.array(at).unwrap_or_default();
        if items.is_empty() && at.is_array() {
            let hint = "leave \"sectors\" out for the whole disk".to_string();
            self.r.report("E103", at, "an empty list of ranges matches nothing", Some(hint));
        }
        let mut ranges: Vec<((u64, u64), Place, At<'_>)> = Vec::new();
        for item in items {
            if let Some(range) = self.range(&item) {
                ranges.push((range, self.r.place(&item), item));
            }
        }
        ranges.sort_by_key(|(range, _, _)| *range);
        for pair in ranges.windows(2) {
            let ((first, _, _), (second, _, at)) = (&pair[0], &pair[1]);
            if second.0 < first.1 {
                let text = format!("[{},{}) overlaps [{},{})", second.0, second.1, first.0, first.1);
                self.r.report("E103", at, text, None);
            }
        }
        places.sectors = ranges.iter().map(|(_, place, _)| place.clone()).collect();
        ranges.into_iter().map(|(range, _, _)| range).collect()
    }

    fn range(&mut self, at: &At<'_>) -> Option<(u64, u64)> {
        let items = self.r.array(at)?;
        let [start, end] = &items[..] else {
            self.r.report("E103", at, format!("a range is [start, end), found {} numbers", items.len()), None);
            return None;
        };
        let (start, end) = (self.r.integer(start, 0, MAX_INTEGER), self.r.integer(end, 0, MAX_INTEGER));
        let (start, end) = (start?, end?);
        if start >= end {
            let hint = "the end is the first sector after the range".to_string();
            self.r.report("E103", at, format!("[{start},{end}) holds no sector"), Some(hint));
            return None;
        }
        Some((start, end))
    }

    fn bounds(&mut self, at: &At<'_>) -> Bounds {
        let Some(fields) = self.r.object(at, &["min", "max"]) else { return Bounds::default() };
        let min = fields.get("min").and_then(|at| self.r.integer(at, 0, MAX_INTEGER));
        let max = fields.get("max").and_then(|at| self.r.integer(at, 0, MAX_INTEGER));
        if let (Some(min), Some(max)) = (min, max)
            && min > max
        {
            self.r.report("E103", at, format!("min {min} is above max {max}"), None);
        }
        Bounds { min, max }
    }

    fn trigger(&mut self, at: &At<'_>) -> Option<Trigger> {
        let known = ["nth", "every", "probability", "after", "until", "limit", "when", "key"];
        let fields = self.r.object(at, &known)?;
        if fields.has("nth") && fields.has("every") {
            self.r.report("E104", at, "\"nth\" and \"every\" exclude each other", None);
        }
        let when = fields.get("when").map(|at| self.state_values(at)).unwrap_or_default();
        let keys = [("address", Some(Key::Address)), ("ordinal", Some(Key::Ordinal)), ("file", None)];
        let key = fields.get("key").and_then(|at| self.r.choice(at, &keys));
        if let (Some(None), Some(at)) = (key, fields.get("key")) {
            self.not_yet(at, "trigger.key \"file\"", "use \"address\" or \"ordinal\"");
        }
        Some(Trigger {
            when,
            after: fields.get("after").and_then(|at| self.point(at)),
            until: fields.get("until").and_then(|at| self.point(at)),
            nth: fields.get("nth").map(|at| self.nth(at)).unwrap_or_default(),
            every: fields.get("every").and_then(|at| self.r.integer(at, 1, MAX_INTEGER)),
            probability: fields.get("probability").and_then(|at| self.r.share(at, "percent")),
            limit: fields.get("limit").and_then(|at| self.r.integer(at, 1, MAX_INTEGER)),
            key: key.flatten().unwrap_or_default(),
        })
    }

    fn nth(&mut self, at: &At<'_>) -> Vec<u64> {
        let items = if at.is_array() { self.r.array(at).unwrap_or_default() } else { vec![at.clone()] };
        if items.is_empty() {
            self.r.report("E103", at, "an empty list never fires", None);
        }
        let mut nth: Vec<u64> = items.iter().filter_map(|at| self.r.integer(at, 1, MAX_INTEGER)).collect();
        nth.sort_unstable();
        nth.dedup();
        nth
    }

    fn point(&mut self, at: &At<'_>) -> Option<Point> {
        let kinds = ["matches", "requests", "writes", "flushes", "bytes", "ms", "mark"];
        let fields = self.r.object(at, &kinds)?;
        let kind = self.r.exactly_one(&fields, &kinds)?;
        let at = fields.get(kind)?;
        if kind == "mark" {
            return self.r.string(at).map(|name| Point::Mark(name.to_string()));
        }
        let n = self.r.integer(at, 0, if kind == "ms" { MAX_POINT_MS } else { MAX_INTEGER })?;
        Some(match kind {
            "matches" => Point::Matches(n),
            "requests" => Point::Requests(n),
            "writes" => Point::Writes(n),
            "flushes" => Point::Flushes(n),
            "bytes" => Point::Bytes(n),
            _ => Point::Ms(n),
        })
    }

    fn scope(&mut self, at: &At<'_>) -> Scope {
        if at.is_string() {
            let device = self.r.choice(at, &[("request", false), ("device", true)]) == Some(true);
            return if device { Scope::Device } else { Scope::Request };
        }
        let Some(fields) = self.r.object(at, &["sticky"]) else { return Scope::Request };
        let Some(sticky) = self.r.required(&fields, "sticky").cloned() else { return Scope::Request };
        let Some(fields) = self.r.object(&sticky, &["sectors", "heal"]) else { return Scope::Request };
        let choices = [("matched", StickySectors::Matched), ("request", StickySectors::Request)];
        let sectors = fields.get("sectors").and_then(|at| self.r.choice(at, &choices)).unwrap_or_default();
        let heal = fields.get("heal").and_then(|at| self.heal(at)).unwrap_or_default();
        Scope::Sticky { sectors, heal }
    }

    fn heal(&mut self, at: &At<'_>) -> Option<Heal> {
        if at.is_object() {
            return self.later_point(at).map(Heal::Point);
        }
        self.r.choice(at, &[("never", 0), ("rewrite", 1), ("reset", 2)]).map(|word| match word {
            0 => Heal::Never,
            1 => Heal::Rewrite,
            _ => Heal::Reset,
        })
    }

    /// What lasts must be able to last: a power cut and a change of state happen once.
    fn refuse_scope(&mut self, rule: &Rule, fields: &Fields<'_>) {
        let Some(at) = fields.get("scope") else { return };
        if rule.scope != Scope::Request && rule.action.stage() == Stage::Device {
            let text = format!("{:?} does not last: it is of the request alone", rule.action.name());
            self.r.report("E111", at, text, Some("leave \"scope\" out".to_string()));
        }
    }

    fn event(&mut self, at: &At<'_>) {
        let before = self.r.problems.len();
        let Some(fields) = self.r.object(at, &["id", "at", "do"]) else { return };
        let id = self.r.required(&fields, "id").cloned().and_then(|at| self.id(&at));
        let point = self.r.required(&fields, "at").cloned().and_then(|at| self.event_point(&at));
        let happens = self.r.required(&fields, "do").cloned().and_then(|at| self.happens(&at));
        if let (Some(id), Some(at), Some(happens), true) = (id, point, happens, self.r.problems.len() == before) {
            self.draft.events.push(Event { id, at, happens });
        }
    }

    /// A point that is not reached before the first request.
    fn later_point(&mut self, at: &At<'_>) -> Option<Point> {
        let point = self.point(at)?;
        let from_the_start = matches!(
            point,
            Point::Matches(0) | Point::Requests(0) | Point::Writes(0) | Point::Flushes(0) | Point::Bytes(0)
        );
        if from_the_start {
            let hint = "count from 1: it happens right after the request that reaches it".to_string();
            self.r.report("E103", at, "nothing comes before this point", Some(hint));
        }
        Some(point)
    }

    fn event_point(&mut self, at: &At<'_>) -> Option<Point> {
        let point = self.later_point(at)?;
        if matches!(point, Point::Matches(_)) {
            let hint = "use \"requests\", \"writes\", \"flushes\", \"bytes\", \"ms\" or \"mark\"".to_string();
            self.r.report("E111", at, "an event matches nothing: \"matches\" means nothing to it", Some(hint));
        }
        Some(point)
    }

    fn happens(&mut self, at: &At<'_>) -> Option<Happens> {
        let kinds = ["capacity_sectors", "fail_class", "heal", "disconnect", "write_cache", "power_cut", "set"];
        let fields = self.r.object(at, &kinds)?;
        let kind = self.r.exactly_one(&fields, &kinds)?;
        let at = fields.get(kind)?;
        match kind {
            "capacity_sectors" => {
                self.r.integer(at, 1, MAX_INTEGER);
                self.not_yet(at, "a change of capacity", "the other events are");
                None
            }
            "fail_class" => {
                let choices = [
                    ("writes", FailClass::Writes),
                    ("reads", FailClass::Reads),
                    ("all", FailClass::All),
                    ("none", FailClass::None),
                ];
                self.r.choice(at, &choices).map(Happens::FailClass)
            }
            "write_cache" => {
                let choices = [("writeback", WriteCache::Writeback), ("writethrough", WriteCache::Writethrough)];
                self.r.choice(at, &choices).map(Happens::WriteCache)
            }
            "set" => Some(Happens::Set(self.state_values(at))),
            "heal" => {
                let fields = self.r.object(at, &["rule"])?;
                let rule = fields.get("rule").and_then(|at| {
                    let place = self.r.place(at);
                    let id = self.r.string(at)?.to_string();
                    self.draft.rule_uses.push((id.clone(), place));
                    Some(id)
                });
                Some(Happens::Heal { rule })
            }
            "disconnect" => {
                let fields = self.r.object(at, &["reconnect_ms"])?;
                let wait = fields.get("reconnect_ms").map_or(Some(0), |at| self.r.integer(at, 0, MAX_MS));
                wait.map(|reconnect_ms| Happens::Disconnect { reconnect_ms })
            }
            _ => self.cut(at).map(|(unflushed, then)| Happens::PowerCut { unflushed, then }),
        }
    }

    fn expect(&mut self, at: &At<'_>) {
        let Some(fields) = self.r.object(at, &["fired"]) else { return };
        let Some(fired) = fields.get("fired").and_then(|at| self.r.any_object(at)) else { return };
        for (id, at) in &fired.entries {
            let Some(items) = self.r.array(at) else { continue };
            let [min, max] = &items[..] else {
                self.r.report("E103", at, format!("expected [min, max], found {} numbers", items.len()), None);
                continue;
            };
            let bound = self.r.integer(min, 0, MAX_INTEGER);
            let max = if max.is_null() { Some(None) } else { self.r.integer(max, 0, MAX_INTEGER).map(Some) };
            let (Some(min), Some(max)) = (bound, max) else { continue };
            if max.is_some_and(|max| min > max) {
                self.r.report("E103", at, format!("[{min},{}] holds no number", max.unwrap_or(0)), None);
            }
            let place = self.r.place(at);
            self.draft.expect.push((Expect { id: id.to_string(), min, max }, place));
        }
    }

    fn action(&mut self, at: &At<'_>) -> Option<Action> {
        let fields = self.r.object(at, &ACTIONS)?;
        let present = fields.present(&ACTIONS);
        let [kind] = present[..] else {
            self.not_one_action(at, &present);
            return None;
        };
        let at = fields.get(kind)?;
        match kind {
            "error" => self.error(at),
            "partial" => self.partial(at),
            "lose" => self.r.object(at, &[]).map(|_| Action::Lose {}),
            "delay" => self.delay(at),
            "hold" => self.hold(at),
            "reorder" => self.reorder(at),
            "split" => self.split(at),
            "torn" => self.torn(at),
            "misdirect" => self.misdirect(at),
            "corrupt" => self.corrupt(at),
            "stale" => self.stale(at),
            "power_cut" => self.cut(at).map(|(unflushed, then)| Action::PowerCut { unflushed, then }),
            _ => Some(Action::Set(self.state_values(at))),
        }
    }

    fn not_one_action(&mut self, at: &At<'_>, present: &[&str]) {
        if present.is_empty() {
            let hint = format!("it is one of {}", ACTIONS.join(", "));
            self.r.report("E104", at, "exactly one action per rule, found none", Some(hint));
            return;
        }
        let mut stages: Vec<&str> = present.iter().map(|kind| stage_of(kind)).collect();
        stages.sort_unstable();
        stages.dedup();
        let hint = if stages.len() == present.len() {
            "use two rules (they are in different stages)".replace("two", number_word(present.len()))
        } else {
            format!("use {} rules (in one stage the first that fires wins)", number_word(present.len()))
        };
        self.r.report("E104", at, format!("exactly one action per rule, found {}", quoted(present)), Some(hint));
    }

    fn status(&mut self, at: &At<'_>) -> Option<Status> {
        if !at.is_string() {
            return self.r.integer(at, 0, 255).map(|n| Status(n as u8));
        }
        let word = self.r.string(at)?;
        let words = ["ok", "ioerr", "unsupp"];
        match word {
            "ok" => Some(Status::OK),
            "ioerr" => Some(Status::IOERR),
            "unsupp" => Some(Status::UNSUPP),
            _ if did_you_mean(word, &words).is_some() => {
                self.r.choice(at, &words.map(|word| (word, ())));
                None
            }
            _ => {
                let hint = "Linux shows every failure as EIO (or EOPNOTSUPP for \"unsupp\")".to_string();
                self.r.report("E105", at, format!("virtio-blk cannot carry {word:?}"), Some(hint));
                None
            }
        }
    }

    fn error(&mut self, at: &At<'_>) -> Option<Action> {
        let fields = self.r.object(at, &["status", "transfer"])?;
        let status = self.r.required(&fields, "status").cloned().and_then(|at| self.status(&at));
        let choices = [("none", Transfer::None), ("all", Transfer::All), ("random", Transfer::Random)];
        let transfer = fields.get("transfer").and_then(|at| self.r.choice(at, &choices)).unwrap_or_default();
        if status == Some(Status::OK) {
            let at = fields.get("status").unwrap_or(at);
            let hint = "use \"lose\" for a write that is answered OK and does not happen".to_string();
            self.r.report("E111", at, "an \"error\" with status ok is none", Some(hint));
        }
        Some(Action::Error { status: status?, transfer })
    }

    fn partial(&mut self, at: &At<'_>) -> Option<Action> {
        let fields = self.r.object(at, &["sectors", "bytes", "fraction", "status", "used_len"])?;
        let status = self.r.required(&fields, "status").cloned().and_then(|at| self.status(&at));
        let choices = [("honest", UsedLen::Honest), ("full", UsedLen::Full)];
        let used_len = fields.get("used_len").and_then(|at| self.r.choice(at, &choices)).unwrap_or(UsedLen::Honest);
        let kind = self.r.exactly_one(&fields, &["sectors", "bytes", "fraction"])?;
        let at = fields.get(kind)?;
        let amount = match kind {
            "sectors" => Amount::Sectors(self.r.integer(at, 0, MAX_INTEGER)?),
            "bytes" => Amount::Bytes(self.r.integer(at, 0, MAX_INTEGER)?),
            _ => Amount::Fraction(self.r.share(at, "percent")?),
        };
        if amount == Amount::Fraction(1.0) {
            let hint = "for \"all of it moved, and it failed\" use \"error\" with \"transfer\": \"all\"".to_string();
            self.r.report("E111", at, "a fraction of 1 leaves nothing out", Some(hint));
        }
        Some(Action::Partial { amount, status: status?, used_len })
    }

    fn when(&mut self, fields: &Fields<'_>) -> GateWhen {
        let choices = [("completion", GateWhen::Completion), ("arrival", GateWhen::Arrival)];
        fields.get("when").and_then(|at| self.r.choice(at, &choices)).unwrap_or(GateWhen::Completion)
    }

    fn delay(&mut self, at: &At<'_>) -> Option<Action> {
        const PARAMETERS: [&str; 5] = ["min_us", "mean_us", "median_us", "p99_us", "max_us"];
        let known = ["us", "ms", "dist", "min_us", "mean_us", "median_us", "p99_us", "max_us", "when"];
        let fields = self.r.object(at, &known)?;
        let when = self.when(&fields);
        let kind = self.r.exactly_one(&fields, &["us", "ms", "dist"])?;
        let at = fields.get(kind)?;
        if kind == "dist" {
            let length = Length::Drawn(self.distribution(&fields, at, &PARAMETERS)?);
            return Some(Action::Delay { length, when });
        }
        self.refuse_parameters(&fields, &PARAMETERS, "a delay of fixed length");
        let us = match kind {
            "us" => self.r.integer(at, 0, MAX_MS * 1000)?,
            _ => self.r.integer(at, 0, MAX_MS)? * 1000,
        };
        Some(Action::Delay { length: Length::Fixed { us }, when })
    }

    fn refuse_parameters(&mut self, fields: &Fields<'_>, odd: &[&str], of: &str) {
        for key in odd {
            if let Some(at) = fields.get(key) {
                self.r.report("E111", at, format!("{key:?} means nothing to {of}"), None);
            }
        }
    }

    fn distribution(&mut self, fields: &Fields<'_>, at: &At<'_>, parameters: &[&str]) -> Option<Distribution> {
        let names = ["uniform", "exponential", "lognormal", "pareto"];
        let name = self.r.choice(at, &names.map(|name| (name, name)))?;
        let used: &[&str] = match name {
            "uniform" => &["min_us", "max_us"],
            "exponential" => &["mean_us", "min_us", "max_us"],
            "lognormal" => &["median_us", "p99_us", "min_us", "max_us"],
            _ => &["min_us", "mean_us", "median_us", "p99_us", "max_us"],
        };
        let odd: Vec<&str> = parameters.iter().copied().filter(|key| !used.contains(key)).collect();
        self.refuse_parameters(fields, &odd, &format!("dist {name:?}"));
        let mut given: Vec<(&str, u64)> = Vec::new();
        for key in used {
            if let Some(at) = fields.get(key) {
                let least = u64::from(!matches!(*key, "min_us" | "max_us") || (name == "pareto" && *key == "min_us"));
                given.push((key, self.r.integer(at, least, MAX_MS * 1000)?));
            }
        }
        self.shape(fields, name, &given)
    }

    /// Puts the parameters together, and checks them against each other.
    fn shape(&mut self, fields: &Fields<'_>, name: &str, given: &[(&str, u64)]) -> Option<Distribution> {
        let get = |key: &str| given.iter().find(|(name, _)| *name == key).map(|(_, n)| *n);
        let needed: &[&str] = match name {
            "uniform" => &["min_us", "max_us"],
            "exponential" => &["mean_us"],
            "lognormal" => &["median_us", "p99_us"],
            _ => &["min_us"],
        };
        let missing: Vec<&str> = needed.iter().copied().filter(|key| get(key).is_none()).collect();
        for key in &missing {
            self.r.report("E107", &fields.at, format!("dist {name:?} needs {key:?}"), None);
        }
        let tail = if name == "pareto" { self.tail(fields, &get) } else { None };
        if !missing.is_empty() {
            return None;
        }
        let (min_us, max_us) = (get("min_us").unwrap_or(0), get("max_us").unwrap_or(DEFAULT_MAX_US));
        let mut rises = |low: u64, high: u64, text: String| {
            if low > high {
                self.r.report("E103", &fields.at, text, None);
            }
            low <= high
        };
        let unless = if get("max_us").is_none() { " (60 seconds unless given)" } else { "" };
        if !rises(min_us, max_us, format!("min_us {min_us} is above max_us {max_us}{unless}")) {
            return None;
        }
        Some(match name {
            "uniform" => Distribution::Uniform { min_us, max_us },
            "exponential" => Distribution::Exponential { mean_us: get("mean_us")?, min_us, max_us },
            "lognormal" => {
                let (median_us, p99_us) = (get("median_us")?, get("p99_us")?);
                if !rises(median_us + 1, p99_us, format!("p99_us {p99_us} is not above median_us {median_us}")) {
                    return None;
                }
                Distribution::Lognormal { median_us, p99_us, min_us, max_us }
            }
            _ => Distribution::Pareto { min_us, tail: tail?, max_us },
        })
    }

    fn tail(&mut self, fields: &Fields<'_>, get: &dyn Fn(&str) -> Option<u64>) -> Option<Tail> {
        let key = self.r.exactly_one(fields, &["mean_us", "median_us", "p99_us"])?;
        let n = get(key)?;
        if n <= get("min_us")? {
            self.r.report("E103", fields.get(key)?, format!("{key} {n} is not above min_us"), None);
            return None;
        }
        Some(match key {
            "mean_us" => Tail::Mean(n),
            "median_us" => Tail::Median(n),
            _ => Tail::P99(n),
        })
    }

    fn hold(&mut self, at: &At<'_>) -> Option<Action> {
        let fields = self.r.object(at, &["until", "max_ms", "when"])?;
        let when = self.when(&fields);
        let given_ms = fields.get("max_ms").and_then(|at| self.r.integer(at, 1, MAX_MS));
        let until = match fields.get("until") {
            None => HoldUntil::Release,
            Some(at) if at.is_object() => HoldUntil::Point(self.point(at)?),
            Some(at) if self.r.choice(at, &[("release", false), ("reset", true)])? => HoldUntil::Reset,
            Some(_) => HoldUntil::Release,
        };
        if until == HoldUntil::Reset {
            if let Some(at) = fields.get("max_ms") {
                self.r.report("E111", at, "\"max_ms\" means nothing to a hold until reset", None);
            }
            return Some(Action::Hold { until, max_ms: None, when });
        }
        Some(Action::Hold { until, max_ms: Some(given_ms.unwrap_or(60_000)), when })
    }

    fn reorder(&mut self, at: &At<'_>) -> Option<Action> {
        let fields = self.r.object(at, &["window", "policy", "max_wait_ms", "when"])?;
        let when = self.when(&fields);
        let choices = [("reverse", Policy::Reverse), ("shuffle", Policy::Shuffle), ("lifo", Policy::Lifo)];
        let policy = fields.get("policy").and_then(|at| self.r.choice(at, &choices)).unwrap_or_default();
        let wait = fields.get("max_wait_ms").and_then(|at| self.r.integer(at, 1, MAX_MS));
        let window = self.r.required(&fields, "window").cloned().and_then(|at| self.r.integer(&at, 2, 256))?;
        Some(Action::Reorder { window: window as u32, policy, max_wait_ms: wait.unwrap_or(20), when })
    }

    fn split(&mut self, at: &At<'_>) -> Option<Action> {
        let fields = self.r.object(at, &["max_sectors", "at", "order"])?;
        let choices =
            [("forward", ChildOrder::Forward), ("reverse", ChildOrder::Reverse), ("shuffle", ChildOrder::Shuffle)];
        let order = fields.get("order").and_then(|at| self.r.choice(at, &choices)).unwrap_or_default();
        let kind = self.r.exactly_one(&fields, &["max_sectors", "at"])?;
        let at = fields.get(kind)?;
        if kind == "max_sectors" {
            return Some(Action::Split { cut: Cut::MaxSectors(self.r.integer(at, 1, MAX_INTEGER)?), order });
        }
        let items = self.r.array(at)?;
        let offsets: Vec<u64> = items.iter().filter_map(|at| self.r.integer(at, 1, MAX_INTEGER)).collect();
        if offsets.is_empty() || offsets.windows(2).any(|pair| pair[0] >= pair[1]) {
            let hint = "offsets from the request's first sector, as in [1, 4]".to_string();
            self.r.report("E103", at, "\"at\" needs rising offsets", Some(hint));
        }
        Some(Action::Split { cut: Cut::At(offsets), order })
    }

    fn torn(&mut self, at: &At<'_>) -> Option<Action> {
        let fields = self.r.object(at, &["unit", "keep"])?;
        let units = [("sector", Unit::Sector), ("byte", Unit::Byte), ("block", Unit::Block)];
        let unit = fields.get("unit").map_or(Some(Unit::Sector), |at| self.r.choice(at, &units));
        let keep = fields.get("keep").map_or(Some(Keep::Prefix), |at| self.keep(at));
        Some(Action::Torn { unit: unit?, keep: keep? })
    }

    fn keep(&mut self, at: &At<'_>) -> Option<Keep> {
        if !at.is_array() {
            return self.r.choice(at, &[("prefix", 0), ("suffix", 1), ("random", 2)]).map(|word| match word {
                0 => Keep::Prefix,
                1 => Keep::Suffix,
                _ => Keep::Random,
            });
        }
        let items = self.r.array(at)?;
        if items.is_empty() {
            let hint = "\"lose\" is a write of which nothing is kept".to_string();
            self.r.report("E103", at, "an empty list keeps nothing", Some(hint));
        }
        let mut units: Vec<u64> = items.iter().filter_map(|at| self.r.integer(at, 0, MAX_INTEGER)).collect();
        units.sort_unstable();
        units.dedup();
        Some(Keep::Units(units))
    }

    fn misdirect(&mut self, at: &At<'_>) -> Option<Action> {
        let fields = self.r.object(at, &["to_sector", "delta_sectors", "original"])?;
        let choices = [("stale", Original::Stale), ("written", Original::Written)];
        let original = fields.get("original").and_then(|at| self.r.choice(at, &choices)).unwrap_or_default();
        let kind = self.r.exactly_one(&fields, &["to_sector", "delta_sectors"])?;
        let at = fields.get(kind)?;
        if kind == "to_sector" {
            let to = Target::ToSector(self.r.integer(at, 0, MAX_INTEGER)?);
            return Some(Action::Misdirect { to, original });
        }
        let delta = self.r.signed(at)?;
        if delta == 0 {
            self.r.report("E103", at, "a delta of 0 goes to the right place", None);
        }
        Some(Action::Misdirect { to: Target::DeltaSectors(delta), original })
    }

    fn corrupt(&mut self, at: &At<'_>) -> Option<Action> {
        let fields = self.r.object(at, &["bits", "bytes", "offset", "value", "pattern", "where"])?;
        let choices = [("wire", Where::Wire), ("media", Where::Media)];
        let place = fields.get("where").and_then(|at| self.r.choice(at, &choices)).unwrap_or_default();
        if fields.present(&["bits", "bytes", "offset"]).is_empty() {
            self.r.report("E104", at, "\"corrupt\" needs bits, or bytes or offset with value or pattern", None);
            return None;
        }
        let damage = if fields.has("bits") { self.bits(&fields) } else { self.bytes(&fields) };
        Some(Action::Corrupt { damage: damage?, place })
    }

    fn bits(&mut self, fields: &Fields<'_>) -> Option<Damage> {
        self.refuse_parameters(fields, &["bytes", "offset", "value", "pattern"], "flipped bits");
        let bits = self.r.integer(fields.get("bits")?, 1, SECTOR_BITS)?;
        Some(Damage::Bits { bits: bits as u32 })
    }

    /// Bytes of each sector, so that a sector is wrong in the same way by whatever request it is read.
    fn bytes(&mut self, fields: &Fields<'_>) -> Option<Damage> {
        let offset = fields.get("offset").map_or(Some(0), |at| self.r.integer(at, 0, SECTOR_BYTES - 1))?;
        let bytes = fields.get("bytes").map_or(Some(1), |at| self.r.integer(at, 1, SECTOR_BYTES))?;
        if offset + bytes > SECTOR_BYTES {
            let hint = "offset and bytes are of each sector; name the sectors in \"match\"".to_string();
            let text = format!("bytes {offset} to {} reach beyond a sector", offset + bytes);
            self.r.report("E103", &fields.at, text, Some(hint));
        }
        if fields.has("value") && fields.has("pattern") {
            self.r.report("E104", &fields.at, "exactly one of value, pattern, found \"value\" and \"pattern\"", None);
        }
        let patterns = [("zero", Pattern::Zero), ("ones", Pattern::Ones), ("random", Pattern::Random)];
        let with = match (fields.get("value"), fields.get("pattern")) {
            (Some(at), _) => With::Value(self.r.integer(at, 0, 255)? as u8),
            (None, Some(at)) => With::Pattern(self.r.choice(at, &patterns)?),
            (None, None) => With::Pattern(Pattern::Random),
        };
        Some(Damage::Bytes { offset: offset as u32, bytes: bytes as u32, with })
    }

    fn stale(&mut self, at: &At<'_>) -> Option<Action> {
        let fields = self.r.object(at, &["versions"])?;
        let versions = fields.get("versions").map_or(Some(1), |at| self.r.integer(at, 1, MAX_VERSIONS))?;
        Some(Action::Stale { versions: versions as u32 })
    }

    fn cut(&mut self, at: &At<'_>) -> Option<(Unflushed, Then)> {
        let fields = self.r.object(at, &["unflushed", "then"])?;
        let unflushed = fields.get("unflushed").map_or(Some(Unflushed::None), |at| self.unflushed(at));
        let choices = [("kill_vm", Then::KillVm), ("snapshot", Then::Snapshot), ("disconnect", Then::Disconnect)];
        let then = fields.get("then").map_or(Some(Then::KillVm), |at| self.r.choice(at, &choices));
        Some((unflushed?, then?))
    }

    fn unflushed(&mut self, at: &At<'_>) -> Option<Unflushed> {
        if !at.is_object() {
            let choices = [("none", Unflushed::None), ("all", Unflushed::All), ("prefix", Unflushed::Prefix)];
            return self.r.choice(at, &choices);
        }
        let fields = self.r.object(at, &["subset"])?;
        let at = self.r.required(&fields, "subset").cloned()?;
        let fields = self.r.object(&at, &["strategy", "max_states"])?;
        let choices = [("reduced", Strategy::Reduced), ("exhaustive", Strategy::Exhaustive)];
        let strategy = fields.get("strategy").map_or(Some(Strategy::Reduced), |at| self.r.choice(at, &choices))?;
        let unless_given = if strategy == Strategy::Reduced { 32 } else { MAX_STATES };
        let most = u64::from(MAX_STATES);
        let max_states =
            fields.get("max_states").map_or(Some(unless_given.into()), |at| self.r.integer(at, 1, most))?;
        Some(Unflushed::Subset(Subset { strategy, max_states: max_states as u32 }))
    }
}

/// `match.op` as written.
#[derive(Clone, Default)]
struct NamedOps<'n> {
    at: Option<At<'n>>,
    any: bool,
    ops: OpSet,
}

const ACTIONS: [&str; 13] = [
    "error",
    "partial",
    "torn",
    "delay",
    "hold",
    "reorder",
    "lose",
    "misdirect",
    "corrupt",
    "stale",
    "split",
    "power_cut",
    "set",
];

fn stage_of(action: &str) -> &'static str {
    match action {
        "delay" | "hold" | "reorder" => "gate",
        "error" => "status",
        "power_cut" | "set" => "device",
        _ => "transfer",
    }
}

fn number_word(n: usize) -> &'static str {
    match n {
        2 => "two",
        3 => "three",
        _ => "several",
    }
}
