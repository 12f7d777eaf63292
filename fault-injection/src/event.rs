//! Lines of decisions.jsonl: a `Header`, then one `Record` for every firing of a rule, in the order decided.
//!
//! A match that does not fire is counted (`RuleCounters::matched`), not written. Draws are written as 16 hex digits,
//! since JSON readers that keep numbers as floats would round them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::files::{FileKey, StretchRecord};
use crate::request::Op;

/// The first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Version of this format: 1.
    pub decisions: u32,
    /// The seed of the run.
    pub seed: u64,
    /// Queues the device had.
    pub queues: u16,
    /// Whether the decisions follow from script, seed and each queue's requests alone.
    pub deterministic: bool,
    /// Why not.
    pub why: Vec<String>,
    /// Ids of all rules, in file order.
    pub rules: Vec<String>,
}

/// One decision of one rule about one request, or about one child of a split.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// `Arrival::seq` of the request.
    pub seq: u64,
    /// The rule's id.
    pub rule: String,
    /// Which match of the rule this is, from 1.
    #[serde(rename = "match")]
    pub match_number: u64,
    /// What the request (or child) asked.
    pub op: Op,
    /// Its first sector.
    pub sector: u64,
    /// Its sectors.
    pub sectors: u64,
    /// How many requests of this very op, sector and length had come, this one included.
    pub touch: u64,
    /// For a child of a split: its place among the children, from 0 in rising sector order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child: Option<u32>,
    /// What it is in the file system, where the device looks there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<FileKey>,
    /// Its parts, where it is more than one thing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stretches: Vec<StretchRecord>,
    /// What its draws were keyed by.
    pub key: Key,
    /// The numbers drawn, in the order drawn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub draw: Vec<Draw>,
    /// What came of it.
    pub outcome: Outcome,
}

/// Something happened to the device: an event of the script, or a verb of the control socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventRecord {
    /// It came before the request with this `seq`.
    pub seq: u64,
    /// No: right after it, which reached its point.
    #[serde(default, skip_serializing_if = "is_false")]
    pub after: bool,
    /// The event's id, or `@` and the verb.
    pub rule: String,
    /// What happened.
    pub event: Happened,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

/// What happened to the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Happened {
    /// This class of requests fails from now on.
    FailClass(FailClass),
    /// Everything that stuck is healed, or what stuck by this rule.
    Heal {
        /// The rule.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<String>,
    },
    /// The front-end is left.
    Disconnect {
        /// Nobody is let in for so long.
        reconnect_ms: u64,
    },
    /// The disk is larger or smaller.
    CapacitySectors(u64),
    /// The write cache is switched on (`writeback`) or off (`writethrough`).
    WriteCache(crate::script::WriteCache),
    /// The power went.
    PowerCut {},
    /// A path of the script is another inode than it was, or none any more.
    Path {
        /// The path.
        path: String,
        /// Its inode.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        inode: Option<u32>,
    },
    /// States have new values.
    Set(BTreeMap<String, String>),
    /// A rule was added, removed, enabled or disabled while the device ran.
    Rule {
        /// Which.
        id: String,
        /// What was done to it.
        change: RuleChange,
    },
}

/// What was done to a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RuleChange {
    /// It is the last one now.
    Added,
    /// It is no more.
    Removed,
    /// It fires again.
    Enabled,
    /// It does not fire until it is enabled.
    Disabled,
}

/// Which requests fail, whatever the rules say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailClass {
    /// No one.
    #[default]
    None,
    /// Writes, discards, write_zeroes and flushes: a disk that cannot write cannot promise that anything is durable.
    Writes,
    /// Reads.
    Reads,
    /// All of these. `get_id` never fails.
    All,
}

/// `trigger.key`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// (op, sector, length, touch): the same whatever order requests come in.
    #[default]
    Address,
    /// The match number.
    Ordinal,
    /// (op, class, inode, file block, length, touch since the mark): the same whatever the allocation.
    File,
}

/// One number drawn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draw {
    /// What for.
    pub purpose: Purpose,
    /// 16 hex digits.
    pub value: String,
}

impl Draw {
    /// A number as it was drawn.
    pub fn new(purpose: Purpose, bits: u64) -> Draw {
        Draw { purpose, value: format!("{bits:016x}") }
    }
}

/// What a number is drawn for. Each has a stream of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// `trigger.probability`
    Probability,
    /// The length of a delay.
    Delay,
    /// `error.transfer: random`
    Transfer,
    /// The order of a window or of children.
    Order,
    /// Which states a power cut leaves.
    States,
    /// Where a write tears.
    Tear,
    /// Which bits go wrong; keyed by the sector and its content.
    Damage,
}

/// What came of a rule that fired.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The status was replaced; so many bytes moved.
    Error {
        /// Status byte.
        status: u8,
        /// Bytes that moved all the same.
        moved_bytes: u64,
    },
    /// A prefix moved.
    Partial {
        /// Status byte proposed.
        status: u8,
        /// Bytes that moved.
        moved_bytes: u64,
    },
    /// Stretches moved, and OK was proposed.
    Torn {
        /// In bytes from the first one.
        kept: Vec<(u64, u64)>,
    },
    /// Nothing moved, and OK was proposed.
    Lose {},
    /// It went to, or came from, another place.
    Misdirect {
        /// Which begins here.
        to_sector: u64,
    },
    /// Some of it is wrong.
    Corrupt {
        /// In these sectors.
        sectors: Vec<(u64, u64)>,
    },
    /// Some of what was read was old.
    Stale {
        /// So many writes ago.
        versions: u32,
    },
    /// The power went with it.
    PowerCut {},
    /// States have new values from the next request on.
    Set(BTreeMap<String, String>),
    /// Answered late.
    Delay {
        /// Microseconds.
        us: u64,
    },
    /// Held.
    Hold {},
    /// Placed in a window.
    Reorder {
        /// The window, from 0.
        window: u64,
        /// The place in it, from 0.
        slot: u32,
        /// The order, in the request that filled the window.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        order: Option<Vec<u32>>,
    },
    /// A window was closed by time before it was full. The address is the one of the last request in it.
    ReorderStarved {
        /// The window.
        window: u64,
        /// The order of those that were in it.
        order: Vec<u32>,
    },
    /// Cut into children.
    Split {
        /// Sectors of each child, in rising sector order.
        sectors: Vec<u64>,
        /// The order in which they reach the disk.
        order: Vec<u32>,
    },
    /// Fired, and not carried out: this earlier rule of its stage had won.
    Shadowed {
        /// The winner's id.
        by: String,
    },
}
