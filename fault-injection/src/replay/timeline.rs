//! Events of a recorded run, at their place in the arrival order.
//!
//! What happened after so many requests happens again after so many, whatever its point or the clock say now. Only an
//! event at a mark waits for its mark, which the workload sets where it did then.

use std::collections::BTreeSet;

use crate::event::{EventRecord, Happened};
use crate::rule::Point;
use crate::script::Script;

/// The events of a recorded run.
#[derive(Clone, Debug, Default)]
pub(super) struct Timeline {
    timed: Vec<Timed>,
    /// Events that happened at their marks, and have not yet.
    at_marks: BTreeSet<String>,
}

#[derive(Clone, Debug)]
struct Timed {
    event: EventRecord,
    done: bool,
}

impl Timed {
    /// How many requests had come.
    fn arrivals(&self) -> u64 {
        self.event.seq + u64::from(self.event.after)
    }
}

impl Timeline {
    /// Sorts what was recorded into what goes by its place and what goes by its mark.
    pub fn new(events: Vec<EventRecord>, script: &Script) -> Timeline {
        let mut timeline = Timeline::default();
        for event in events {
            match script.events.iter().find(|of_script| of_script.id == event.rule) {
                Some(of_script) if matches!(of_script.at, Point::Mark(_)) => _ = timeline.at_marks.insert(event.rule),
                Some(_) => timeline.timed.push(Timed { event, done: false }),
                None if is_done_again(&event) => timeline.timed.push(Timed { event, done: false }),
                None => {}
            }
        }
        timeline
    }

    /// What happens now that so many requests have come.
    pub fn take_due(&mut self, arrivals: u64) -> Vec<EventRecord> {
        let due = self.timed.iter_mut().filter(|timed| !timed.done && timed.arrivals() <= arrivals);
        due.map(|timed| {
            timed.done = true;
            timed.event.clone()
        })
        .collect()
    }

    /// An event happens at its mark. False: it did not, then.
    pub fn take_mark(&mut self, id: &str) -> bool {
        self.at_marks.remove(id)
    }

    /// Whether requests have to be counted.
    pub fn is_waiting(&self) -> bool {
        self.timed.iter().any(|timed| !timed.done)
    }

    /// What has not happened, in words.
    pub fn missing(&self) -> impl Iterator<Item = String> {
        let timed = self.timed.iter().filter(|timed| !timed.done).map(|timed| {
            let EventRecord { rule, .. } = &timed.event;
            format!("event {rule:?}: only {} requests had come before it then, and fewer came now", timed.arrivals())
        });
        let marks = self.at_marks.iter().map(|id| format!("event {id:?}: its mark never came"));
        timed.chain(marks)
    }
}

/// What a person did is done again where it says all there is to know. What was done to rules shows in their decisions.
pub(super) fn is_done_again(event: &EventRecord) -> bool {
    event.rule.starts_with('@')
        && matches!(event.event, Happened::FailClass(_) | Happened::Heal { .. } | Happened::CapacitySectors(_))
}
