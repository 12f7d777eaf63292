//! Decides which fault a block request meets.
//!
//! Pure: no clock, no files, no threads. The same script, seed and sequence of requests give the same decisions, byte
//! for byte. The device (`vhost-blk`) asks once per request and carries out what it is told.
#![forbid(unsafe_code)]

pub mod decision;
pub mod engine;
pub mod event;
pub mod problem;
pub mod request;
pub mod script;

pub use decision::{Decision, Gate, GateWhen, Moves, Piece, RuleIndex, Status, UsedLen, Work};
pub use engine::{ClosedWindow, Engine, Filter, RuleCounters, Unmet};
pub use event::{Header, Record};
pub use problem::{Problem, Problems};
pub use request::{Arrival, Op, Request, SECTOR_BYTES};
pub use script::{Determinism, DeviceFacts, DeviceLimits, Loaded, Script, Source, WriteCache, explain, load, schema};
