//! Lines of decisions.jsonl: a `Header`, then one `Record` for every firing of a rule, in the order decided.
//!
//! A match that does not fire is counted (`RuleCounters::matched`), not written. Draws are written as 16 hex digits,
//! since JSON readers that keep numbers as floats would round them.

use serde::{Deserialize, Serialize};

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
    /// What its draws were keyed by.
    pub key: Key,
    /// The numbers drawn, in the order drawn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub draw: Vec<Draw>,
    /// What came of it.
    pub outcome: Outcome,
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
    /// Nothing moved, and OK was proposed.
    Lose {},
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
