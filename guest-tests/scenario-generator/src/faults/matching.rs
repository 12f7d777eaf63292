//! Which requests a rule looks at, and which of them it takes.

use super::Faults;
use crate::draw::Stream;
use serde_json::{Map, Value, json};

/// Classes of blocks, by how much the path in question depends on them.
const CLASSES: &[(u64, &str)] = &[
    (24, "ext4.data"),
    (8, "ext4.unknown"),
    (2, "ext4.journal"),
    (1, "ext4.journal.superblock"),
    (1, "ext4.journal.descriptor"),
    (1, "ext4.journal.commit"),
    (1, "ext4.journal.revoke"),
    (1, "ext4.journal.data"),
    (2, "ext4.extent_node"),
    (2, "ext4.inode_table"),
    (1, "ext4.block_bitmap"),
    (1, "ext4.inode_bitmap"),
    (1, "ext4.superblock"),
    (1, "ext4.gdt"),
    (1, "ext4.dir"),
    (1, "ext4.dir_index"),
    (1, "ext4.xattr"),
    (1, "ext4.other"),
];

/// The first inode of a file on a fresh file system.
const FIRST_INODE: u64 = 12;

impl Faults<'_> {
    /// A match on requests of these types. `flush` among them leaves no room for anything about sectors.
    pub(super) fn matching(&self, stream: &mut Stream, ops: &[&str]) -> Map<String, Value> {
        let mut matches = Map::new();
        matches.insert("op".into(), if let [op] = ops { json!(op) } else { json!(ops) });
        if !ops.contains(&"flush") {
            self.narrow(stream, &mut matches);
        }
        if stream.chance(1, 16) && self.shape.queues > 1 {
            matches.insert("queue".into(), stream.below(self.shape.queues.into()).into());
        }
        if stream.chance(1, 24) {
            let load = stream.pick(&[json!({"min": 1}), json!({"max": 0}), json!({"min": 1, "max": 6})]);
            matches.insert("inflight".into(), load);
        }
        matches
    }

    fn narrow(&self, stream: &mut Stream, matches: &mut Map<String, Value>) {
        match stream.below(12) {
            0..=3 => {}
            4..=7 => self.by_class(stream, matches),
            8 => self.by_path(stream, matches),
            9 => drop(matches.insert("inode".into(), (FIRST_INODE + stream.below(3)).into())),
            10 => drop(matches.insert("sectors".into(), self.ranges(stream))),
            _ => drop(matches.insert("size".into(), size(stream))),
        }
        if matches.contains_key("class") && stream.chance(1, 8) {
            matches.insert("overlap".into(), "within".into());
        }
        if matches.contains_key("sectors") && stream.chance(1, 4) {
            matches.insert("overlap".into(), stream.pick(&["within", "covers"]).into());
        }
    }

    fn by_class(&self, stream: &mut Stream, matches: &mut Map<String, Value>) {
        let class = match stream.chance(1, 6) {
            true => json!(["ext4.data", "ext4.unknown"]),
            false => json!(stream.weighted(CLASSES)),
        };
        matches.insert("class".into(), class);
    }

    /// The path follows the name, and need not be there when the disk is started.
    fn by_path(&self, stream: &mut Stream, matches: &mut Map<String, Value>) {
        matches.insert("path".into(), format!("/{}", stream.pick(self.names)).into());
        matches.insert("must_exist".into(), false.into());
        if stream.chance(1, 2) {
            matches.insert("class".into(), "ext4.data".into());
        }
    }

    /// One to three ranges that rise and do not overlap.
    pub(super) fn ranges(&self, stream: &mut Stream) -> Value {
        let sectors = self.sectors();
        let count = stream.between(1, 3);
        let part = sectors / count;
        let range = |nth: u64| {
            let start = nth * part + stream.below(part / 16) * 8;
            json!([start, start + (8 << stream.below(10)).min((nth + 1) * part - start)])
        };
        (0..count).map(range).collect()
    }

    /// Sectors of the disk.
    pub(super) fn sectors(&self) -> u64 {
        self.shape.size_mib << 11
    }

    /// A trigger for something that happens now and then.
    pub(super) fn trigger(&mut self, stream: &mut Stream) -> Map<String, Value> {
        let mut trigger = self.window(stream);
        match stream.below(10) {
            0..=3 => drop(trigger.insert("nth".into(), number(stream, 24).into())),
            4 => {
                let first = number(stream, 12);
                trigger.insert("nth".into(), json!([first, first + number(stream, 6)]));
            }
            5 => drop(trigger.insert("every".into(), stream.between(2, 9).into())),
            6 | 7 => {
                trigger.insert("probability".into(), stream.pick(&[0.05, 0.125, 0.25, 0.5]).into());
                if stream.chance(1, 2) {
                    trigger.insert("key".into(), stream.pick(&["address", "ordinal", "file"]).into());
                }
            }
            _ => drop(trigger.insert("limit".into(), number(stream, 8).into())),
        }
        trigger
    }

    /// From when, and until when. What counts requests waits for a state besides, so that nothing befalls the mount, and nothing that
    /// came before the workload is counted.
    pub(super) fn window(&mut self, stream: &mut Stream) -> Map<String, Value> {
        let mut trigger = Map::new();
        let count = number(stream, 48);
        let after = match stream.below(16) {
            0 => json!({"writes": count}),
            1 => json!({"flushes": number(stream, 6)}),
            2 => json!({"matches": number(stream, 12)}),
            3..=6 => json!({"mark": "start"}),
            7..=9 => json!({"mark": "mid"}),
            _ => json!({"mark": "work"}),
        };
        if after.get("mark").is_none() {
            trigger.insert("when".into(), self.begun());
        }
        trigger.insert("after".into(), after);
        if stream.chance(5, 6) {
            trigger.insert("until".into(), json!({"mark": "verify"}));
        }
        trigger
    }

    /// The state that says that the workload has begun.
    fn begun(&mut self) -> Value {
        if !self.states.contains_key("mounted") {
            self.states.insert("mounted".into(), json!(["no", "yes"]));
            self.event("mounted", json!({"mark": "start"}), json!({"set": {"mounted": "yes"}}));
        }
        json!({"mounted": "yes"})
    }
}

fn size(stream: &mut Stream) -> Value {
    match stream.below(3) {
        0 => json!({"min": stream.pick(&[8, 16, 64, 256])}),
        1 => json!({"max": stream.pick(&[8, 16, 64])}),
        _ => json!({"min": 8, "max": stream.pick(&[8, 32, 128])}),
    }
}

/// A number from 1 to `most`, small ones more often.
pub(super) fn number(stream: &mut Stream, most: u64) -> u64 {
    let most = stream.between(1, most);
    stream.between(1, most)
}
