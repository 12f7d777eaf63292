//! What happens between requests: marks, the clock, events of the script, and what a person does to a running script.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::Engine;
use super::state::RuleState;
use crate::decision::{DeviceAction, Reached, RuleIndex};
use crate::event::{EventRecord, FailClass, Happened, RuleChange};
use crate::power_cut::PowerCut;
use crate::problem::{Problem, Problems};
use crate::random::CutDraws;
use crate::rule::{Heal, Point, Scope};
use crate::script::{DeviceFacts, Event, Happens, Script, Source, WriteCache, load};

/// A rule as it stands now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleStatus {
    /// Its id.
    pub id: String,
    /// Whether it may fire.
    pub enabled: bool,
    /// The stage it competes in.
    pub stage: &'static str,
    /// Its action.
    pub action: &'static str,
    /// Requests that it matched.
    pub matched: u64,
    /// Times it was carried out.
    pub fired: u64,
    /// Times it fired and another rule had won.
    pub shadowed: u64,
    /// Sectors that are bad by it.
    pub bad: Vec<(u64, u64)>,
    /// It acts on all requests of its types.
    pub everywhere: bool,
}

/// Why a rule cannot be added or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ScriptError {
    /// There is no such rule.
    NoSuchRule(String),
    /// It is named elsewhere in the script.
    Named {
        /// The rule.
        id: String,
        /// Where.
        by: String,
    },
    /// The device was started without looking into the file system, and the rule asks for it.
    NeedsFileSystem,
    /// The new rule is no rule.
    Problems(Problems),
}

impl std::fmt::Display for ScriptError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ScriptError::NoSuchRule(id) => write!(f, "no rule {id:?}; rules.list names those there are"),
            ScriptError::Named { id, by } => write!(f, "rule {id:?} is named by {by}; disable it instead"),
            ScriptError::NeedsFileSystem => write!(
                f,
                "the device does not follow the file system, as no rule asked for it when it was started; start it with a \
                 (disabled) rule that matches by \"class\""
            ),
            ScriptError::Problems(problems) => write!(f, "{problems}"),
        }
    }
}

impl std::error::Error for ScriptError {}

impl Engine {
    /// The mark `name` was set, before the request with the next `seq`.
    pub fn mark(&mut self, name: &str, seq: u64, elapsed_ms: u64) -> Reached {
        self.marks.insert(name.to_string());
        self.file_touches.mark(name);
        self.tick(seq, elapsed_ms)
    }

    /// Time has passed. Points in `ms` of events need it where no request comes.
    pub fn tick(&mut self, seq: u64, elapsed_ms: u64) -> Reached {
        self.counts.requests = self.counts.requests.max(seq);
        self.counts.elapsed_ms = self.counts.elapsed_ms.max(elapsed_ms);
        let script = Arc::clone(&self.script);
        self.reach_points(&script, seq, false)
    }

    /// When `tick` is due next, in milliseconds.
    pub fn next_tick_ms(&self) -> Option<u64> {
        let ms = |event: &usize| match self.script.events[*event].at {
            Point::Ms(ms) => Some(ms),
            _ => None,
        };
        self.pending.iter().filter_map(ms).min()
    }

    /// Holds that end, bad sectors that are healed and events that happen because of where we are: before the request
    /// `seq`, or right after it.
    pub(super) fn reach_points(&mut self, script: &Script, seq: u64, after: bool) -> Reached {
        let mut reached = Reached::default();
        for &index in &self.until_point {
            let (rule, state) = (&script.rules[index as usize], &mut self.rules[index as usize]);
            let is_reached = |point: &Point| point.is_reached(state.progress.matched, &self.counts, &self.marks);
            if state.holding && rule.hold_point().is_some_and(is_reached) {
                state.holding = false;
                reached.released.push(RuleIndex(index));
            }
            if !state.healed_for_good && rule.heal_point().is_some_and(is_reached) {
                state.healed_for_good = true;
                state.heal();
            }
        }
        if !self.pending.is_empty() {
            self.events_that_happen(script, (seq, after), &mut reached);
        }
        self.forced_events(script, (seq, after), &mut reached);
        reached
    }

    /// In a replay: what happened at this place of the arrival order.
    pub(super) fn forced_events(&mut self, script: &Script, (seq, after): (u64, bool), reached: &mut Reached) {
        let Some(replay) = &mut self.replay else { return };
        let due = replay.take_due(seq + u64::from(after));
        if due.is_empty() {
            return;
        }
        for EventRecord { rule, event, .. } in due {
            let event = match script.events.iter().find(|of_script| of_script.id == rule) {
                Some(of_script) => self.happen(of_script, reached),
                None => self.done_by_hand(event, reached),
            };
            reached.events.push(EventRecord { seq, after, rule, event });
        }
        // It is time to look at less again, if nothing more is waited for.
        self.index_rules();
    }

    fn done_by_hand(&mut self, event: Happened, reached: &mut Reached) -> Happened {
        match &event {
            Happened::FailClass(class) => self.set_failing(*class, "@fail_class"),
            Happened::Heal { rule } => self.heal_rules(rule.as_deref()),
            Happened::CapacitySectors(sectors) => {
                self.set_capacity(*sectors);
                reached.device.push(DeviceAction::Resize { capacity_sectors: *sectors });
            }
            _ => {}
        }
        event
    }

    fn events_that_happen(&mut self, script: &Script, (seq, after): (u64, bool), reached: &mut Reached) {
        let (counts, marks) = (self.counts, &self.marks);
        let (now, later) = std::mem::take(&mut self.pending)
            .into_iter()
            .partition(|i| script.events[*i].at.is_reached(0, &counts, marks));
        self.pending = later;
        let now: Vec<usize> = now;
        for event in now {
            let event = &script.events[event];
            if let Some(replay) = &mut self.replay {
                replay.happens_at_mark(&event.id);
            }
            let happened = self.happen(event, reached);
            reached.events.push(EventRecord { seq, after, rule: event.id.clone(), event: happened });
        }
    }

    fn happen(&mut self, event: &Event, reached: &mut Reached) -> Happened {
        match &event.happens {
            Happens::CapacitySectors(sectors) => {
                self.set_capacity(*sectors);
                reached.device.push(DeviceAction::Resize { capacity_sectors: *sectors });
                Happened::CapacitySectors(*sectors)
            }
            Happens::FailClass(class) => {
                self.set_failing(*class, &event.id);
                Happened::FailClass(*class)
            }
            Happens::Heal { rule } => {
                self.heal_rules(rule.as_deref());
                Happened::Heal { rule: rule.clone() }
            }
            Happens::Disconnect { reconnect_ms } => {
                reached.device.push(DeviceAction::Disconnect { reconnect_ms: *reconnect_ms });
                Happened::Disconnect { reconnect_ms: *reconnect_ms }
            }
            Happens::WriteCache(cache) => {
                reached.device.push(DeviceAction::WriteCache(*cache != WriteCache::Writethrough));
                Happened::WriteCache(*cache)
            }
            Happens::PowerCut { unflushed, then } => {
                let draws = CutDraws::new(self.seed, &event.id, 1);
                let cut = PowerCut { by: event.id.clone(), unflushed: *unflushed, then: *then, draws };
                reached.device.push(DeviceAction::PowerCut(cut));
                Happened::PowerCut {}
            }
            Happens::Set(values) => {
                self.states.extend(values.clone());
                Happened::Set(values.clone())
            }
        }
    }

    fn set_failing(&mut self, class: FailClass, by: &str) {
        self.failing = class;
        self.failing_by = (by.to_string(), 0);
        self.index_rules();
    }

    fn heal_rules(&mut self, rule: Option<&str>) {
        for (of_script, state) in self.script.rules.iter().zip(&mut self.rules) {
            if rule.is_none_or(|id| of_script.id == id) {
                state.heal();
            }
        }
        if rule.is_none() && self.failing != FailClass::None {
            self.set_failing(FailClass::None, "");
        }
    }

    /// All requests of a class fail from now on, whatever the rules say.
    pub fn fail_class(&mut self, class: FailClass, seq: u64) -> EventRecord {
        self.set_failing(class, "@fail_class");
        EventRecord { seq, after: false, rule: "@fail_class".to_string(), event: Happened::FailClass(class) }
    }

    /// The disk has this many sectors from now on.
    pub fn resize(&mut self, capacity_sectors: u64, seq: u64) -> EventRecord {
        self.set_capacity(capacity_sectors);
        EventRecord {
            seq,
            after: false,
            rule: "@resize".to_string(),
            event: Happened::CapacitySectors(capacity_sectors),
        }
    }

    /// Heals everything that stuck, and ends `fail_class`; or heals what stuck by one rule.
    pub fn heal(&mut self, rule: Option<&str>, seq: u64) -> Result<EventRecord, ScriptError> {
        if let Some(id) = rule {
            self.position(id)?;
        }
        self.heal_rules(rule);
        let event = Happened::Heal { rule: rule.map(str::to_string) };
        Ok(EventRecord { seq, after: false, rule: "@heal".to_string(), event })
    }

    /// The driver has reset the device, or another front-end has come.
    pub fn reset(&mut self) {
        for (rule, state) in self.script.rules.iter().zip(&mut self.rules) {
            if matches!(rule.scope, Scope::Sticky { heal: Heal::Reset, .. }) {
                state.heal();
            }
        }
    }

    /// What fails whatever the rules say.
    pub fn failing(&self) -> FailClass {
        self.failing
    }

    /// The states and their values.
    pub fn states(&self) -> &BTreeMap<String, String> {
        &self.states
    }

    /// The script as it is played now.
    pub fn script(&self) -> &Arc<Script> {
        &self.script
    }

    /// Every rule as it stands.
    pub fn rules(&self) -> Vec<RuleStatus> {
        let all = self.script.rules.iter().zip(&self.rules).filter(|(_, state)| !state.removed);
        let status = |(rule, state): (&crate::rule::Rule, &RuleState)| RuleStatus {
            id: rule.id.clone(),
            enabled: rule.enabled,
            stage: rule.action.stage().name(),
            action: rule.action.name(),
            matched: state.progress.matched,
            fired: state.carried_out,
            shadowed: state.shadowed,
            bad: state.bad.list().to_vec(),
            everywhere: state.everywhere,
        };
        all.map(status).collect()
    }

    /// Switches a rule on or off. Its counters stay.
    pub fn enable(&mut self, id: &str, enabled: bool, seq: u64) -> Result<EventRecord, ScriptError> {
        let index = self.position(id)?;
        Arc::make_mut(&mut self.script).rules[index].enabled = enabled;
        self.index_rules();
        Ok(changed(id, if enabled { RuleChange::Enabled } else { RuleChange::Disabled }, seq))
    }

    /// Reads a rule and puts it last. Nothing changes unless it is sound in itself, in the script and on the device.
    pub fn add(&mut self, rule: &Value, facts: &DeviceFacts, seq: u64) -> Result<EventRecord, ScriptError> {
        let script = self.with_rule(rule, facts).map_err(ScriptError::Problems)?;
        let new = script.rules.last().expect("a rule was just added");
        if new.needs_the_file_system() && !self.knows_files {
            return Err(ScriptError::NeedsFileSystem);
        }
        let record = changed(&new.id, RuleChange::Added, seq);
        self.rules.push(RuleState::new(new, self.seed));
        self.script = Arc::new(script);
        self.index_rules();
        Ok(record)
    }

    fn with_rule(&self, rule: &Value, facts: &DeviceFacts) -> Result<Script, Problems> {
        let mut whole: Value = serde_json::from_str(&self.script.normalized()).expect("a normalized script is JSON");
        // Alone first, so that places are those of what was sent.
        let mut alone = serde_json::json!({"faultscript": 1, "rules": [rule]});
        alone["states"] = whole.get("states").cloned().unwrap_or_else(|| serde_json::json!({}));
        let text = alone.to_string();
        let own_problems = match load(&[Source { name: "rule", text: &text }]) {
            Ok(_) => Vec::new(),
            // What names other rules is judged with them.
            Err(problems) => problems.0.into_iter().filter(|p| p.code != "E110" && !p.is_warning()).collect(),
        };
        if !own_problems.is_empty() {
            return Err(Problems(own_problems));
        }
        whole["rules"].as_array_mut().expect("a normalized script has rules").push(rule.clone());
        let text = whole.to_string();
        let loaded = load(&[Source { name: "rule", text: &text }])?;
        let at_fault = |problem: &Problem| !problem.is_warning();
        let paths = loaded.script.check_paths(|path| self.paths.get(path).copied().flatten());
        let problems =
            loaded.script.check_device(facts).into_iter().chain(if self.knows_files { paths } else { Vec::new() });
        let problems: Vec<Problem> = problems.filter(at_fault).collect();
        if problems.is_empty() { Ok(loaded.script) } else { Err(Problems(problems)) }
    }

    /// Takes a rule out. What it holds stays held until it is released by time or by a stopping ring.
    pub fn remove(&mut self, id: &str, seq: u64) -> Result<EventRecord, ScriptError> {
        let index = self.position(id)?;
        if let Some(by) = self.who_names(id) {
            return Err(ScriptError::Named { id: id.to_string(), by });
        }
        // Its place stays, so that the numbers of the others do.
        let rule = &mut Arc::make_mut(&mut self.script).rules[index];
        rule.enabled = false;
        rule.id = format!("removed.{index}");
        self.rules[index].removed = true;
        self.index_rules();
        Ok(changed(id, RuleChange::Removed, seq))
    }

    fn who_names(&self, id: &str) -> Option<String> {
        if self.script.expect.iter().any(|expect| expect.id == id) {
            return Some("\"expect\"".to_string());
        }
        let heals = |event: &&Event| matches!(&event.happens, Happens::Heal { rule: Some(rule) } if rule == id);
        if let Some(event) = self.script.events.iter().find(heals) {
            return Some(format!("event {:?}", event.id));
        }
        let child = self.script.rules.iter().find(|rule| rule.matches.child_of.as_deref() == Some(id));
        child.map(|rule| format!("\"child_of\" of rule {:?}", rule.id))
    }

    fn position(&self, id: &str) -> Result<usize, ScriptError> {
        let found = self.script.rules.iter().zip(&self.rules).position(|(rule, state)| rule.id == id && !state.removed);
        found.ok_or_else(|| ScriptError::NoSuchRule(id.to_string()))
    }
}

fn changed(id: &str, change: RuleChange, seq: u64) -> EventRecord {
    EventRecord {
        seq,
        after: false,
        rule: format!("@rules.{}", verb(change)),
        event: Happened::Rule { id: id.to_string(), change },
    }
}

fn verb(change: RuleChange) -> &'static str {
    match change {
        RuleChange::Added => "add",
        RuleChange::Removed => "remove",
        RuleChange::Enabled => "enable",
        RuleChange::Disabled => "disable",
    }
}
