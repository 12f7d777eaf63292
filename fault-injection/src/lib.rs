//! Decides which fault a block request meets.
//!
//! Pure: no clock, no files, no threads. The same script, seed and sequence of requests give the same decisions, byte
//! for byte. The device (`vhost-blk`) asks once per request and carries out what it is told.
#![forbid(unsafe_code)]

mod check;
pub mod decision;
mod distribution;
pub mod engine;
pub mod event;
mod explain;
mod index;
mod json;
mod parse;
pub mod problem;
mod random;
mod reader;
pub mod request;
mod rule;
pub mod script;
mod trigger;

pub use decision::{Decision, Gate, GateWhen, Moves, Piece, RuleIndex, Status, UsedLen, Work};
pub use engine::{ClosedWindow, Engine, Filter, RuleCounters, Unmet};
pub use event::{Header, Record};
pub use explain::explain;
pub use problem::{Problem, Problems};
pub use request::{Arrival, Op, Request, SECTOR_BYTES};
pub use script::{Determinism, DeviceFacts, DeviceLimits, Loaded, Script, Source, WriteCache, load, schema};
