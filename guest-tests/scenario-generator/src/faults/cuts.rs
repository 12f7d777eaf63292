//! Power cuts after which the guest goes on: the disk writes down what might have been left, and the host looks at it when the run
//! is over.
//!
//! They have a stream of their own and are added to a script that is there, so that everything else of a seed is as without them. The guest
//! meets the same disk: which writes a volatile cache holds back is between the disk and its image.

use super::Drawn;
use super::matching::number;
use crate::draw::Stream;
use crate::filesystem::Filesystem;
use crate::shape::Shape;
use serde_json::json;

/// Sets of surviving writes that the disk writes down for each cut. Few of them are judged.
const STATES: u32 = 8;

impl Drawn {
    /// About one script in six gets one to three. Left out: a disk without a volatile cache, one that goes away, and a file system that asks for
    /// a weaker order than a cut can be held against.
    pub fn cut_the_power(&mut self, stream: &mut Stream, shape: &Shape, filesystem: &Filesystem) {
        let has_cache = shape.device.write_cache != Some("writethrough");
        if !stream.chance(1, 5) || !has_cache || self.ends_early || self.disconnects || !filesystem.keeps_order() {
            return;
        }
        let lying = stream.chance(1, 12);
        self.lying |= lying;
        self.script["device"]["write_cache"] = json!(if lying { "lying" } else { "writeback" });
        for n in 0..stream.weighted(&[(5, 1), (3, 2), (2, 3)]) {
            self.cut(stream, n);
        }
    }

    /// At a flush: what it would have made durable is still at risk. At a write: amidst what goes with it. At a mark: wherever
    /// writeback has come to.
    fn cut(&mut self, stream: &mut Stream, n: u32) {
        let unflushed = json!({"subset": {"strategy": "drawn", "max_states": STATES}});
        let cut = json!({"power_cut": {"unflushed": unflushed, "then": "snapshot"}});
        let id = format!("power-cut-{n}");
        if stream.chance(1, 6) {
            let mark = stream.pick(&["mid", "verify"]);
            return self.list("events").push(json!({"id": id, "at": {"mark": mark}, "do": cut}));
        }
        let (op, most) = stream.pick(&[("flush", 6), ("write", 32)]);
        let trigger = json!({"after": {"mark": stream.pick(&["work", "mid"])}, "nth": number(stream, most)});
        self.list("rules").push(json!({"id": id, "match": {"op": op}, "trigger": trigger, "action": cut}));
    }

    fn list(&mut self, name: &str) -> &mut Vec<serde_json::Value> {
        let script = self.script.as_object_mut().expect("a script is an object");
        script.entry(name).or_insert_with(|| json!([])).as_array_mut().expect("it is a list")
    }
}
