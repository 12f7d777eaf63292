//! Deadlines of one queue's parked requests, and the timerfd that wakes its thread for the next one.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use fault_injection::RuleIndex;
use vmm_sys_util::timerfd::TimerFd;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// The gate of the request with this `seq` opens.
    Request(u64),
    /// A reorder window has waited long enough.
    Window(RuleIndex, u64),
}

/// Deadlines in rising order; equal ones by `seq`.
#[derive(Debug, Default)]
pub struct Deadlines(BTreeSet<(Instant, Due)>);

impl Deadlines {
    /// Adds one.
    pub fn add(&mut self, at: Instant, due: Due) {
        self.0.insert((at, due));
    }

    /// Takes the first that has passed.
    pub fn take_passed(&mut self, now: Instant) -> Option<Due> {
        let first = *self.0.first()?;
        if first.0 > now {
            return None;
        }
        self.0.remove(&first);
        Some(first.1)
    }

    /// When to wake.
    pub fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Nothing of it is due any more: the queue was drained.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// Arms a timerfd for a deadline, or stops it.
pub fn arm(timer: &mut TimerFd, at: Option<Instant>) -> std::io::Result<()> {
    let result = match at {
        // A timer of length 0 would be a stopped one.
        Some(at) => timer.reset(at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1)), None),
        None => timer.clear(),
    };
    result.map_err(|errno| std::io::Error::from_raw_os_error(errno.errno()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_pass_in_time_order_and_equal_ones_in_arrival_order() {
        let start = Instant::now();
        let later = start + Duration::from_secs(5);
        let mut deadlines = Deadlines::default();
        deadlines.add(later, Due::Request(1));
        deadlines.add(start, Due::Request(9));
        deadlines.add(start, Due::Request(3));
        assert_eq!(deadlines.take_passed(start), Some(Due::Request(3)));
        assert_eq!(deadlines.take_passed(start), Some(Due::Request(9)));
        assert_eq!(deadlines.take_passed(start), None);
        assert_eq!(deadlines.next(), Some(later));
    }
}
