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
mod distribution;
pub mod engine;
pub mod event;
mod explain;
pub mod files;
mod index;
mod json;
mod parse;
pub mod power_cut;
pub mod problem;
mod random;
mod ranges;
mod reader;
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
pub use script::{Determinism, DeviceFacts, DeviceLimits, Loaded, Script, Source, WriteCache, load, schema, text_of};
