//! What the disk does to it: a fault script.
//!
//! Swarm: each seed switches classes of faults on and off, so that one does not hide what another would show. Classes come in two kinds. An
//! *honest* disk may fail, delay, reorder, split and lose its power, but what it answered OK is as it says. A *lying* one does not keep
//! that, and then a file system may show anything without being at fault; the scenario says beforehand which of the two its disk is.
//!
//! Rules wait for a mark of the workload, and count from there: so the same scenario meets the same decisions whether the guest had other
//! scenarios before it or not. Points in `ms`, `requests` and `bytes` are left out for that reason, as reads before the mount and the speed
//! of the machine would move them.

mod actions;
mod cuts;
mod matching;

use crate::draw::{Stream, Streams};
use crate::filesystem::Filesystem;
use crate::shape::Shape;
use crate::workload::Shrink;
use actions::Class;
use serde_json::{Map, Value, json};

/// Largest seed that a script may name.
const MOST_SEED: u64 = (1 << 53) - 1;

/// A fault script under way.
pub struct Faults<'a> {
    shape: &'a Shape,
    names: &'a [String],
    rules: Vec<Value>,
    events: Vec<Value>,
    states: Map<String, Value>,
    lying: bool,
    ends_early: bool,
}

/// A drawn fault script.
pub struct Drawn {
    /// The script.
    pub script: Value,
    /// One of its rules makes the disk answer OK to what is not so.
    pub lying: bool,
    /// The power may go before the workload is over.
    pub ends_early: bool,
    /// The disk may leave the guest for a while.
    disconnects: bool,
}

/// Draws a script for a disk of this shape and a workload with files of these names.
pub fn draw(
    streams: &mut Streams,
    shape: &Shape,
    filesystem: &Filesystem,
    names: &[String],
    shrink: Option<Shrink>,
) -> Drawn {
    let mut stream = streams.named("faults");
    let mut faults = Faults {
        shape,
        names,
        rules: Vec::new(),
        events: Vec::new(),
        states: Map::new(),
        // A cache that lies shows when the power goes.
        lying: shape.device.write_cache == Some("lying"),
        ends_early: false,
    };
    let on = Class::switched_on(&mut stream, filesystem.survives_power_cuts());
    let count = stream.weighted(&[(1, 0), (5, 1), (4, 2), (3, 3), (1, 5)]);
    for _ in 0..if on.is_empty() { 0 } else { count } {
        stream.weighted(&on).draw(&mut stream, &mut faults);
    }
    if let Some(shrink) = shrink {
        faults.event("smaller", json!({"mark": "small"}), json!({"capacity_sectors": shrink.small_sectors}));
        faults.event("larger", json!({"mark": "large"}), json!({"capacity_sectors": shrink.large_sectors}));
    }
    let seed = streams.named("decisions").between(0, MOST_SEED);
    let disconnects = faults.events.iter().any(|event| event["do"].get("disconnect").is_some());
    Drawn { lying: faults.lying, ends_early: faults.ends_early, disconnects, script: faults.script(seed) }
}

impl Faults<'_> {
    fn script(self, seed: u64) -> Value {
        let mut script = json!({"faultscript": 1, "seed": seed, "rules": self.rules});
        if self.shape.device != Default::default() {
            script["device"] = json!(self.shape.device);
        }
        if !self.states.is_empty() {
            script["states"] = self.states.into();
        }
        if !self.events.is_empty() {
            script["events"] = self.events.into();
        }
        script
    }

    /// A rule; its id says what it does, and which rule it is.
    fn rule(&mut self, word: &str, matches: Value, trigger: Value, action: Value) -> &mut Value {
        let id = format!("{word}-{}", self.rules.len());
        self.rules.push(json!({"id": id, "match": matches, "trigger": trigger, "action": action}));
        self.rules.last_mut().expect("it was added just now")
    }

    /// An event; its id says what happens, and which event it is.
    fn event(&mut self, word: &str, at: Value, happens: Value) {
        let id = format!("{word}-at-{}", self.events.len());
        self.events.push(json!({"id": id, "at": at, "do": happens}));
    }

    /// What lasts ends before the files are read back, mostly: else nothing could be read that a fault had left.
    fn mends(&mut self, stream: &mut Stream, happens: Value) {
        if stream.chance(5, 6) {
            self.event("mended", json!({"mark": "verify"}), happens);
        }
    }
}
