//! How often a plain write did not come back at once, and how long the host took then.
//!
//! A write into the page cache is a copy, until the host has too much to write back: then it waits, and with it the
//! whole queue. Seen by the clock that the kernel keeps ready, a few milliseconds coarse, so that looking costs nothing.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Counted over all queues.
#[derive(Debug, Default)]
pub struct BlockedWrites {
    count: AtomicU64,
    total_ms: AtomicU64,
}

impl BlockedWrites {
    /// A write begins.
    pub fn begin(&self) -> Duration {
        clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map(Duration::from).unwrap_or_default()
    }

    /// It ended. One that the clock did not move in was not blocked.
    pub fn end(&self, begun: Duration) {
        let took = self.begin().saturating_sub(begun);
        // Over one tick of the clock, which may fall into any write.
        if took > Duration::from_millis(10) {
            self.count.fetch_add(1, Ordering::Relaxed);
            self.total_ms.fetch_add(took.as_millis() as u64, Ordering::Relaxed);
        }
    }

    /// Writes that took longer than 10 ms.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// How long those took, all together.
    pub fn total_ms(&self) -> u64 {
        self.total_ms.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_took_long_is_counted_and_one_that_did_not_is_not() {
        let writes = BlockedWrites::default();
        let begun = writes.begin();
        writes.end(begun);
        assert_eq!(writes.count(), 0);
        writes.end(begun.saturating_sub(Duration::from_millis(50)));
        assert_eq!(writes.count(), 1);
        assert!(writes.total_ms() >= 50);
    }
}
