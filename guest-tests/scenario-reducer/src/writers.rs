//! Fewer tasks at once: a stretch of several writers done one after another, or with a writer less.

use crate::Oracle;
use crate::search::{Passed, Search};
use crate::tidy::changed;
use serde_json::Value;
use std::collections::BTreeSet;
use std::ops::Range;

/// Where several writers work at once, in places of the workload.
pub fn stretches(ops: &[Value]) -> Vec<Range<usize>> {
    let mut stretches: Vec<Range<usize>> = Vec::new();
    for place in (0..ops.len()).filter(|place| ops[*place].get("writer").is_some()) {
        match stretches.last_mut() {
            Some(last) if last.end == place => last.end = place + 1,
            _ => stretches.push(place..place + 1),
        }
    }
    stretches
}

/// The writers of a stretch.
pub fn of(ops: &[Value]) -> BTreeSet<String> {
    ops.iter().map(|op| op["writer"].to_string()).collect()
}

/// Its operations, one after another as they stand.
pub fn in_sequence(ops: &mut [Value]) {
    for op in ops.iter_mut().filter_map(Value::as_object_mut) {
        op.remove("writer");
    }
}

impl<O: Oracle> Search<'_, O> {
    /// See the module. From the back, so that places before stay what they are.
    pub fn fewer_writers(&mut self) -> Passed<O> {
        let mut found = false;
        for stretch in stretches(self.ops()).into_iter().rev() {
            let sequence = self.in_workload(|ops| in_sequence(&mut ops[stretch.clone()]));
            if self.attempt_if_any("one operation after another", sequence)? {
                found = true;
                continue;
            }
            let mut end = stretch.end;
            for writer in of(&self.ops()[stretch.clone()]) {
                let before = self.ops().len();
                let range = stretch.start..end;
                let without = self.in_workload(|ops| {
                    let mut place = 0;
                    ops.retain(|op| {
                        place += 1;
                        let its = op["writer"].to_string();
                        !range.contains(&(place - 1)) || its != writer
                    });
                });
                if self.attempt_if_any(&format!("without writer {writer}"), without)? {
                    found = true;
                    end -= before - self.ops().len();
                }
            }
        }
        Ok(found)
    }

    fn ops(&self) -> &[Value] {
        self.best["workload"].as_array().map_or(&[], Vec::as_slice)
    }

    fn in_workload(&self, change: impl FnOnce(&mut Vec<Value>)) -> Option<Value> {
        changed(&self.best, |candidate| {
            if let Some(ops) = candidate.get_mut("workload").and_then(Value::as_array_mut) {
                change(ops);
            }
        })
    }

    fn attempt_if_any(&mut self, what: &str, candidate: Option<Value>) -> Passed<O> {
        candidate.map_or(Ok(false), |candidate| self.attempt(what, candidate))
    }
}
