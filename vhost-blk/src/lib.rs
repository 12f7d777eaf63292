//! A virtio disk that misbehaves on purpose: a vhost-user-blk backend that carries out fault scripts.
//!
//! `fault-injection` decides; this crate carries out. The way of a request: `session` (a queue's thread wakes) →
//! `queue` (takes the chain) → `request` (reads it once, and refuses what is none) → the engine decides → `gate` (may
//! make it wait) → `transfer` (moves bytes between guest, `disk` and `overlay`) → `inflight` (answers it) → `recorder`.
//! A request that no rule can touch goes by `clean` instead: no lock, no copy, and io_uring where the host would wait.

/// Says something on stderr. Whoever read that may be gone, which is no reason to leave a guest: `eprintln` would panic.
#[macro_export]
macro_rules! tell {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

pub mod args;
pub mod backend_channel;
pub mod cache;
pub mod classify;
pub mod clean;
pub mod config;
pub mod control;
pub mod device;
pub mod disk;
pub mod drive;
pub mod error;
pub mod files;
pub mod frontend;
pub mod gate;
pub mod history;
pub mod inflight;
pub mod iovec;
pub mod lie;
pub mod listeners;
pub mod media;
pub mod order;
pub mod overlay;
pub mod poll;
pub mod power;
pub mod qmp;
pub mod queue;
pub mod record;
pub mod recorder;
pub mod relay;
pub mod request;
pub mod resize;
pub mod restart;
pub mod ring;
pub mod serve;
pub mod session;
pub mod snapshot;
pub mod timer;
pub mod transfer;
pub mod undo;
pub mod uring;
pub mod vring;
pub mod way;
pub mod writes;

/// What `order` is built on. Its test puts others here.
mod atomics {
    pub use std::sync::atomic::{AtomicU64, Ordering};
}
