//! How long a queue's thread looks for more before it sleeps (`--poll-us`).
//!
//! To wake a sleeping thread takes longer than most requests do; to look for what does not come burns a CPU. So the
//! time adapts: it grows when something came soon after the thread had gone to sleep, and shrinks when looking was
//! in vain. Without `--poll-us` there is no looking at all, and no clock.

use std::time::{Duration, Instant};

/// The first time, when looking seems worth while again.
const LEAST: Duration = Duration::from_micros(4);

/// One queue's.
#[derive(Debug, Default)]
pub struct Poll {
    most: Duration,
    now: Duration,
    slept_at: Option<Instant>,
}

impl Poll {
    /// At most so long.
    pub fn new(most_us: u64) -> Poll {
        let most = Duration::from_micros(most_us);
        Poll { most, now: most, slept_at: None }
    }

    /// The thread was woken.
    pub fn woken(&mut self) {
        if let Some(slept_at) = self.slept_at.take() {
            self.adapt(slept_at.elapsed());
        }
    }

    fn adapt(&mut self, slept: Duration) {
        if slept <= self.most {
            self.now = (self.now * 2).clamp(LEAST, self.most);
        }
    }

    /// Looks until there is something. False: the thread may sleep.
    pub fn look(&mut self, mut is_there: impl FnMut() -> bool) -> bool {
        if self.most.is_zero() {
            return false;
        }
        let since = Instant::now();
        while since.elapsed() < self.now {
            if is_there() {
                return true;
            }
            std::hint::spin_loop();
        }
        self.now = if self.now <= LEAST { Duration::ZERO } else { self.now / 2 };
        self.slept_at = Some(Instant::now());
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looking_in_vain_makes_it_shorter_and_a_short_sleep_longer_again() {
        let mut poll = Poll::new(64);
        let mut times = Vec::new();
        while !poll.now.is_zero() {
            times.push(poll.now.as_micros());
            assert!(!poll.look(|| false));
        }
        assert_eq!(times, [64, 32, 16, 8, 4]);
        poll.adapt(Duration::from_micros(65));
        assert!(poll.now.is_zero(), "it came too late for any looking");
        poll.adapt(Duration::from_micros(64));
        poll.adapt(Duration::from_micros(1));
        assert_eq!(poll.now, 2 * LEAST);
        assert!(poll.look(|| true));
    }

    #[test]
    fn without_a_time_nothing_is_looked_for() {
        assert!(!Poll::new(0).look(|| panic!("it looked")));
    }
}
