//! What follows from leaving something out: marks that nobody sets, states that nobody asks for, writers with nobody beside them, empty
//! lists.
//!
//! None of this needs a run of its own.

use crate::writers;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// Rules and events of a scenario's script.
pub fn rules(scenario: &Value) -> usize {
    list(scenario, "rules").len() + list(scenario, "events").len()
}

/// Operations of its workload.
pub fn ops(scenario: &Value) -> usize {
    scenario["workload"].as_array().map_or(0, Vec::len)
}

/// A list of the script; empty where there is none.
pub fn list<'s>(scenario: &'s Value, key: &str) -> &'s [Value] {
    scenario["faults"][key].as_array().map_or(&[], Vec::as_slice)
}

/// The script, if the scenario has one inside.
pub fn script(scenario: &mut Value) -> Option<&mut Map<String, Value>> {
    scenario.get_mut("faults").and_then(Value::as_object_mut)
}

/// See the module.
pub fn tidy(mut scenario: Value) -> Value {
    let marks = marks(&scenario);
    if let Some(ops) = scenario.get_mut("workload").and_then(Value::as_array_mut) {
        for stretch in writers::stretches(ops) {
            if writers::of(&ops[stretch.clone()]).len() == 1 {
                writers::in_sequence(&mut ops[stretch]);
            }
        }
    }
    if let Some(script) = script(&mut scenario) {
        for rule in script.get_mut("rules").and_then(Value::as_array_mut).into_iter().flatten() {
            forget_marks(rule, &marks);
        }
        forget_states(script);
        for key in ["rules", "events", "states", "device"] {
            if script.get(key).is_some_and(is_empty) {
                script.remove(key);
            }
        }
        let says_nothing = script.keys().all(|key| key == "faultscript" || key == "seed");
        if says_nothing && let Some(scenario) = scenario.as_object_mut() {
            scenario.remove("faults");
        }
    }
    // Whether the disk keeps its word follows from the script; what was said of a larger one need not be so.
    if let Some(scenario) = scenario.as_object_mut() {
        scenario.remove("disk");
    }
    for key in ["guest", "filesystem"] {
        if let Some(part) = scenario.get_mut(key).and_then(Value::as_object_mut) {
            part.retain(|_, value| !is_empty(value));
        }
        if scenario.get(key).is_some_and(is_empty)
            && let Some(scenario) = scenario.as_object_mut()
        {
            scenario.remove(key);
        }
    }
    scenario
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty)
}

/// Names that a mark of the workload sets.
fn marks(scenario: &Value) -> BTreeSet<String> {
    let ops = scenario["workload"].as_array().map_or(&[][..], Vec::as_slice);
    let names = ops.iter().filter(|op| op["op"] == "mark").filter_map(|op| op["name"].as_str());
    names.map(str::to_owned).collect()
}

/// `after` a mark that never comes is a rule that never fires; without it the rule can at least be tried. `until` such a
/// mark says nothing.
fn forget_marks(rule: &mut Value, marks: &BTreeSet<String>) {
    let Some(trigger) = rule.get_mut("trigger").and_then(Value::as_object_mut) else { return };
    for key in ["after", "until"] {
        let never = trigger.get(key).and_then(|point| point["mark"].as_str()).is_some_and(|mark| !marks.contains(mark));
        if never {
            trigger.remove(key);
        }
    }
    if trigger.is_empty()
        && let Some(rule) = rule.as_object_mut()
    {
        rule.remove("trigger");
    }
}

/// States that no rule asks for, and no rule or event sets.
fn forget_states(script: &mut Map<String, Value>) {
    let mut used = BTreeSet::new();
    for rule in script.get("rules").and_then(Value::as_array).into_iter().flatten() {
        used.extend(keys(&rule["trigger"]["when"]));
        used.extend(keys(&rule["action"]["set"]));
    }
    for event in script.get("events").and_then(Value::as_array).into_iter().flatten() {
        used.extend(keys(&event["do"]["set"]));
    }
    if let Some(states) = script.get_mut("states").and_then(Value::as_object_mut) {
        states.retain(|state, _| used.contains(state));
    }
}

fn keys(value: &Value) -> Vec<String> {
    value.as_object().into_iter().flat_map(|map| map.keys().cloned()).collect()
}

/// A copy in which `change` was made; none: it changed nothing.
pub fn changed(scenario: &Value, change: impl FnOnce(&mut Value)) -> Option<Value> {
    let mut candidate = scenario.clone();
    change(&mut candidate);
    (candidate != *scenario).then_some(candidate)
}

/// The value at `key`, made if need be an object.
pub fn object<'v>(value: &'v mut Value, key: &str) -> &'v mut Map<String, Value> {
    if !value[key].is_object() {
        value[key] = json!({});
    }
    value[key].as_object_mut().expect("it was made one just now")
}
