//! Runs a guest on a faulty disk and judges where its kernel and the replica part.
//!
//! The one place where everything meets. `run` starts the disk and the guest and fills a folder; from there on there is no
//! VM: `judge` makes the verdict from that folder alone, so `replay` gives the same bytes.

pub use file_model::{durability, ops};

pub mod aftermath;
pub mod args;
pub mod batch;
pub mod bench;
pub mod compare_dialects;
pub mod coverage;
pub mod crash_states;
pub mod device_record;
pub mod dialect;
pub mod differ;
pub mod disk;
pub mod doctor;
pub mod end_state;
pub mod expectation;
pub mod explained;
pub mod explore;
pub mod failure;
pub mod findings;
pub mod folder;
pub mod folder_lines;
pub mod guest;
pub mod host;
pub mod interrupt;
pub mod judge;
pub mod machine;
pub mod modelled;
pub mod mutants;
pub mod nightly;
pub mod page;
pub mod patient;
pub mod phases;
pub mod probe_dialect;
pub mod programs;
pub mod replica;
pub mod report;
pub mod run;
pub mod scenario;
pub mod show;
pub mod sockets;
pub mod space;
pub mod trace_stream;
pub mod triage;
pub mod verdict;
