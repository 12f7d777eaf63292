//! The grammar of a script: one function for each kind of object in fault-script.schema.json.
//!
//! This file reads the whole and its rules; `matching`, `trigger`, `action`, `gate` and `event` the parts of a rule.
//!
//! Everything in the schema is read and checked here. What needs more than one rule or file is checked in `check`.

mod action;
mod event;
mod gate;
mod matching;
mod trigger;

use std::collections::BTreeMap;

use crate::json;
use crate::problem::Problem;
use crate::reader::{At, MAX_INTEGER, Reader};
use crate::rule::{Place, Places, Rule};
use crate::script::{DeviceLimits, Event, Source, WriteCache};

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
    /// The partition that holds the file system.
    pub partition: Option<(u32, Place)>,
    pub device: DeviceLimits,
    /// The `device` keys of this file.
    pub device_places: Vec<(&'static str, Place)>,
    pub states: Vec<(String, Vec<String>, Place)>,
    pub state_uses: Vec<StateUse>,
    pub rules: Vec<Rule>,
    pub events: Vec<Event>,
    /// Capacities that events ask for.
    pub capacities: Vec<(u64, Place)>,
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
            let hint = json::remedy(source.text, &error.text).map(str::to_string);
            parser.r.report_at("E100", place, format!("not JSON: {}", error.text), hint);
        }
    }
    (parser.draft, parser.r.problems)
}

struct Parser<'s> {
    r: Reader<'s>,
    draft: Draft,
}

impl Parser<'_> {
    fn script(&mut self, at: &At<'_>) {
        let known = [
            "faultscript",
            "name",
            "description",
            "seed",
            "device",
            "filesystem",
            "states",
            "rules",
            "events",
            "expect",
        ];
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
        if let Some(at) = fields.get("filesystem") {
            self.file_system(at);
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

    /// Where the file system lies that `class`, `inode` and `path` speak of.
    fn file_system(&mut self, at: &At<'_>) {
        let Some(fields) = self.r.object(at, &["partition"]) else { return };
        let Some(at) = self.r.required(&fields, "partition").cloned() else { return };
        let place = self.r.place(&at);
        self.draft.partition = self.r.integer(&at, 1, 128).map(|number| (number as u32, place));
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
        let mut places = Places {
            rule: self.r.place(at),
            sectors: Vec::new(),
            queue: None,
            path: None,
            child_of: None,
            to_sector: None,
        };
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
}
