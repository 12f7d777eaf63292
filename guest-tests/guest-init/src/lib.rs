//! Both ends of the talk between a host and the program that is PID 1 in its guest.
//!
//! The library is what the two share: the job ([`job`], [`writers`]), the messages ([`protocol`]) and
//! their host side ([`host`]), the frames of the trace stream ([`frames`]), and what the
//! bytes on the disk say about themselves ([`pattern`], [`past`]). The program `guest-init`
//! is the guest's side. It judges nothing: it does, and reports what came back.

pub mod frames;
pub mod host;
pub mod job;
pub mod past;
pub mod pattern;
pub mod profile;
pub mod protocol;
pub mod writers;

/// Names what host and guest must agree on: the code that both ends are made from. `--version` prints it, so that a program
/// of another build is refused before it misunderstands anything.
pub const CONTRACT: u64 = {
    let hash = pattern::fnv1a64(include_bytes!("frames.rs"));
    let hash = pattern::fnv1a64_more(hash, include_bytes!("job.rs"));
    let hash = pattern::fnv1a64_more(hash, include_bytes!("past.rs"));
    let hash = pattern::fnv1a64_more(hash, include_bytes!("pattern.rs"));
    let hash = pattern::fnv1a64_more(hash, include_bytes!("protocol.rs"));
    pattern::fnv1a64_more(hash, include_bytes!("writers.rs"))
};

/// Version and contract, as `--version` prints them.
#[must_use]
pub fn version() -> String {
    format!("{} (contract {CONTRACT:016x})", env!("CARGO_PKG_VERSION"))
}
