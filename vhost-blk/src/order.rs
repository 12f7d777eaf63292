//! What queues must know of each other without a lock: one arrival order, whether somebody waits who must not be
//! overtaken, and whether the rules have changed.
//!
//! What must hold, and is tried over all interleavings (`tests/order.rs`, which puts other atomics under this file):
//! - a request that arrives after one that waits sees `is_gating`, and looks for it under the lock;
//! - once a change of the rules has been told, the next request of every queue meets the new ones.

use super::atomics::{AtomicU64, Ordering};

/// One arrival order over all queues.
#[derive(Debug)]
pub struct Order {
    next_seq: AtomicU64,
    /// How many requests are being decided or are parked.
    gating: AtomicU64,
}

impl Order {
    /// Nothing has arrived.
    pub fn new() -> Order {
        Order { next_seq: AtomicU64::new(0), gating: AtomicU64::new(0) }
    }

    /// Gives the next place. Whoever decides calls `begin_gating` before.
    pub fn arrive(&self) -> u64 {
        self.next_seq.fetch_add(1, Ordering::SeqCst)
    }

    /// The place that the next request will have.
    pub fn next_seq(&self) -> u64 {
        self.next_seq.load(Ordering::SeqCst)
    }

    /// A request may have to wait. Call it under the lock, and before the request has its place.
    pub fn begin_gating(&self) {
        self.gating.fetch_add(1, Ordering::SeqCst);
    }

    /// It does not wait, or waits no more.
    pub fn end_gating(&self) {
        self.gating.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether a request that has its place must look under the lock for earlier ones.
    pub fn is_gating(&self) -> bool {
        self.gating.load(Ordering::SeqCst) > 0
    }
}

impl Default for Order {
    fn default() -> Order {
        Order::new()
    }
}

/// Which rules are valid. Queues keep their own copies, and look whether they are stale.
#[derive(Debug)]
pub struct Epoch(AtomicU64);

impl Epoch {
    /// The first rules.
    pub fn new(generation: u64) -> Epoch {
        Epoch(AtomicU64::new(generation))
    }

    /// The rules are these now. Call it under the lock under which they changed. Gives whether that is news.
    pub fn tell(&self, generation: u64) -> bool {
        self.0.swap(generation, Ordering::SeqCst) != generation
    }

    /// The rules to be copied, unless a copy is of these. The copy may turn out newer than the answer, never older.
    pub fn is_other_than(&self, mine: u64) -> Option<u64> {
        let generation = self.0.load(Ordering::SeqCst);
        (generation != mine).then_some(generation)
    }
}
