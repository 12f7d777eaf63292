//! Decides which fault a block request meets.
//!
//! Pure: no clock, no files, no threads. The same script, seed and sequence of requests give the same decisions, byte
//! for byte. The device (`vhost-blk`) asks once per request and carries out what it is told.
//!
//! `load` turns script files into a `Script` or into all their problems; `Engine` plays it: its `Filter` says without a
//! lock which requests matter, `decide` gives the plan for one, and counters, `expect` and decisions.jsonl come from it.
//!
//! ```
//! use std::sync::Arc;
//! use fault_injection::{Arrival, Engine, Op, Request, Source, Status, Work, load};
//!
//! let text = r#"{"faultscript": 1, "rules": [
//!     {"id": "second", "match": {"op": "write"}, "trigger": {"nth": 2}, "action": {"error": {"status": "ioerr"}}}]}"#;
//! let loaded = load(&[Source { name: "script.json", text }]).expect("nothing is wrong with it");
//! let mut engine = Engine::new(Arc::new(loaded.script), None);
//! let write = Request { op: Op::Write, sector: 0, sectors: 8, queue: 0, inflight: 0 };
//! let statuses: Vec<Status> = (0..3)
//!     .map(|seq| match engine.decide(Arrival { seq, elapsed_ms: 0 }, &write).work {
//!         Work::Whole(piece) => piece.status,
//!         Work::Split { .. } => unreachable!("no rule splits"),
//!     })
//!     .collect();
//! assert_eq!(statuses, [Status::OK, Status::IOERR, Status::OK]);
//! ```
#![forbid(unsafe_code)]

mod check;
pub mod class;
pub mod corrupt;
pub mod decision;
mod directory;
mod distribution;
pub mod engine;
pub mod event;
mod explain;
pub mod files;
mod index;
pub mod json;
pub mod kinds;
mod parse;
pub mod power_cut;
pub mod problem;
mod random;
mod ranges;
pub mod reader;
pub mod replay;
pub mod request;
mod rule;
pub mod script;
mod tear;
mod trigger;

pub use class::{CLASSES, Class, ClassSet};
pub use corrupt::Corruption;
pub use decision::{Decision, DeviceAction, Gate, GateWhen, Moves, Piece, Reached, RuleIndex, Status, UsedLen, Work};
pub use engine::{ClosedWindow, Engine, Filter, RuleCounters, RuleStatus, ScriptError, Unmet};
pub use event::{EventRecord, FailClass, Happened, Header, Record};
pub use explain::explain;
pub use files::{FileKey, Stretch, StretchRecord, Wanted};
pub use power_cut::{CutStates, PowerCut, Strategy, Subset, Then, Unflushed};
pub use problem::{Problem, Problems};
pub use random::CutDraws;
pub use replay::{By, Replay};
pub use request::{Arrival, Op, Request, SECTOR_BYTES};
pub use rule::Place;
pub use script::{Determinism, DeviceFacts, DeviceLimits, Loaded, Script, Source, WriteCache, load, schema, text_of};

/// Names what this program and one that reads its scripts' normal form and its decisions must agree on: the code that both
/// are made from. `vhost-blk --version` prints it, so that one of another build is refused.
pub const CONTRACT: u64 = {
    let hash = fnv1a64(0xcbf2_9ce4_8422_2325, include_bytes!("../fault-script.schema.json"));
    let hash = fnv1a64(hash, include_bytes!("event.rs"));
    let hash = fnv1a64(hash, include_bytes!("decision.rs"));
    let hash = fnv1a64(hash, include_bytes!("rule.rs"));
    fnv1a64(hash, include_bytes!("script.rs"))
};

const fn fnv1a64(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

/// Version and contract, as `--version` prints them.
pub fn version() -> String {
    format!("{} (contract {CONTRACT:016x})", env!("CARGO_PKG_VERSION"))
}
