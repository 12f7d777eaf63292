//! Runs a guest on a faulty disk and judges where its kernel and the replica part.
//!
//! The one place where everything meets. `run` starts the disk and the guest and fills a folder; from there on there is no
//! VM: `judge` makes the verdict from that folder alone, so `replay` gives the same bytes.

pub mod args;
pub mod differ;
pub mod disk;
pub mod end_state;
pub mod expectation;
pub mod failure;
pub mod findings;
pub mod folder;
pub mod host;
pub mod interrupt;
pub mod ops;
pub mod patient;
pub mod programs;
pub mod report;
pub mod scenario;
pub mod sockets;
pub mod space;
pub mod verdict;
