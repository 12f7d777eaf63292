//! What files may hold, and what calls may return: a model of POSIX files on a disk with faults.
//!
//! In go the operations of a workload with their results, and what is known of the disk; out comes what a read, the end of the run or
//! a power cut may show. Pure: no clock, no files, nothing of the machine. It knows neither the replica nor the device's record.
//!
//! Each byte of a file has a history of layers ([`file`]), and every question is asked of that one history: after a power cut
//! ([`durability`]) any layer may show from the newest promised one on; while nothing failed, the newest alone ([`live`]). What a call
//! may return follows from the names there are and from what the disk did ([`errno`]). Where the model cannot say, it says so: such
//! a place is counted as unknown, neither allowed silently nor guessed.
#![forbid(unsafe_code)]

pub mod durability;
pub mod errno;
pub mod facts;
mod file;
pub mod live;
mod names;
pub mod ops;
mod sizes;
mod state;
#[cfg(test)]
mod testing;

pub use facts::Facts;
pub use live::{Followed, Misfit, MisfitKind, follow};
