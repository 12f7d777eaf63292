//! What sectors held before they were written to, for scripts whose reads go back in time (`stale`).
//!
//! Kept for the sectors that such a script speaks of, as far back as it asks; without one nothing is kept and nothing is
//! paid. What is kept is what the guest would have read, lies included.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use fault_injection::SECTOR_BYTES;

const SECTOR: usize = SECTOR_BYTES as usize;

/// Beyond this the device says that it cannot go on, rather than eat the host's memory or answer with the present.
pub const MAX_SECTORS: usize = (256 << 20) / SECTOR;

/// Old content of sectors.
#[derive(Default)]
pub struct History {
    tracking: AtomicBool,
    past: Mutex<Past>,
}

#[derive(Default)]
struct Past {
    /// Half-open, rising, apart.
    ranges: Vec<(u64, u64)>,
    depth: usize,
    /// Oldest first.
    sectors: BTreeMap<u64, VecDeque<Box<[u8; SECTOR]>>>,
    kept: usize,
}

impl History {
    /// Keeps these sectors from now on, so many versions of each.
    pub fn track(&self, wanted: Option<(Vec<(u64, u64)>, u32)>) {
        let mut past = self.lock();
        let (ranges, depth) = wanted.unwrap_or_default();
        self.tracking.store(!ranges.is_empty(), Ordering::SeqCst);
        (past.ranges, past.depth) = (ranges, depth as usize);
    }

    /// Whether anything is kept: the one thing that a request without faults looks at.
    pub fn is_tracking(&self) -> bool {
        self.tracking.load(Ordering::SeqCst)
    }

    /// The part of some sectors that is to be kept before it changes.
    pub fn wanted(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        let past = self.lock();
        let first = past.ranges.partition_point(|range| range.1 <= start);
        let meeting = past.ranges[first..].iter().take_while(|range| range.0 < end);
        meeting.map(|range| (range.0.max(start), range.1.min(end))).collect()
    }

    /// Keeps what sectors hold now. Call it before they change.
    pub fn keep(&self, sector: u64, content: &[u8]) -> io::Result<()> {
        let mut past = self.lock();
        let depth = past.depth;
        for (content, number) in content.as_chunks::<SECTOR>().0.iter().zip(sector..) {
            let versions = past.sectors.entry(number).or_default();
            versions.push_back(Box::new(*content));
            let dropped = versions.len().saturating_sub(depth);
            versions.drain(..dropped);
            past.kept = past.kept + 1 - dropped;
        }
        match past.kept > MAX_SECTORS {
            true => Err(io::Error::other("more than 256 MiB of old data; name fewer sectors or versions in \"stale\"")),
            false => Ok(()),
        }
    }

    /// Puts sectors as they were so many writes ago over what was read; a sector with a shorter past as it was first.
    pub fn lay_over(&self, versions: u32, sector: u64, buf: &mut [u8]) {
        let past = self.lock();
        for (content, number) in buf.as_chunks_mut::<SECTOR>().0.iter_mut().zip(sector..) {
            let Some(kept) = past.sectors.get(&number) else { continue };
            if let Some(old) = kept.get(kept.len().saturating_sub(versions as usize)) {
                content.copy_from_slice(&old[..]);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_past_goes_back_as_far_as_was_asked_and_no_further() {
        let history = History::default();
        history.track(Some((vec![(4, 8)], 2)));
        assert_eq!(history.wanted(0, 6), [(4, 6)]);
        for version in 1..=3 {
            history.keep(4, &[version; SECTOR]).expect("room");
        }
        let seen = |versions| {
            let mut buf = [9; 2 * SECTOR];
            history.lay_over(versions, 4, &mut buf);
            (buf[0], buf[SECTOR])
        };
        assert_eq!((seen(1), seen(2), seen(5)), ((3, 9), (2, 9), (2, 9)));
        history.track(None);
        assert!(!history.is_tracking());
    }
}
