//! How fast the host's time stamp counter runs: under TCG the guest's is the same one.
//!
//! A kernel measures it at boot against a timer that QEMU emulates. Where the vCPU is not run for a while, it counts too few ticks,
//! and a guest on a busy host was seen to take 185 MHz for 2445: its seconds were then thirteen times too short, and its watchdog
//! saw soft lockups that were none.

use std::time::{Duration, Instant};

/// Long against what a reading costs.
const SPAN: Duration = Duration::from_millis(10);

/// A reading this short was not interrupted.
const AT_ONCE: Duration = Duration::from_micros(5);

/// On a host that is so busy that no reading is short, the shortest of these is taken.
const READINGS: u32 = 1000;

/// Ticks a millisecond; none: the host's CPU has no such counter.
#[must_use]
pub fn tsc_khz() -> Option<u64> {
    let (began, first) = reading()?;
    std::thread::sleep(SPAN);
    let (ended, last) = reading()?;
    khz(last.checked_sub(first)?, ended.duration_since(began))
}

fn khz(ticks: u64, took: Duration) -> Option<u64> {
    let khz = u128::from(ticks) * 1_000_000 / took.as_nanos().max(1);
    u64::try_from(khz).ok().filter(|khz| *khz > 0)
}

/// Both clocks at the same moment, as nearly as can be.
fn reading() -> Option<(Instant, u64)> {
    let mut best: Option<(Duration, Instant, u64)> = None;
    for _ in 0..READINGS {
        let before = Instant::now();
        let ticks = tsc()?;
        let took = before.elapsed();
        if best.is_none_or(|(shortest, _, _)| took < shortest) {
            best = Some((took, before, ticks));
        }
        if took < AT_ONCE {
            break;
        }
    }
    best.map(|(_, at, ticks)| (at, ticks))
}

#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code, reason = "the instruction has no safe wrapper")]
fn tsc() -> Option<u64> {
    // SAFETY: every x86-64 CPU has RDTSC, it reads a register and touches no memory, and Linux lets a process use it.
    Some(unsafe { std::arch::x86_64::_rdtsc() })
}

#[cfg(not(target_arch = "x86_64"))]
fn tsc() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_and_time_give_a_rate() {
        assert_eq!(khz(24_454_290, Duration::from_millis(10)), Some(2_445_429));
        assert_eq!(khz(0, Duration::from_millis(10)), None);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_host_has_a_rate() {
        assert!(tsc_khz().is_some_and(|khz| khz > 100_000));
    }
}
