//! Ctrl-C and its relatives, as a flag that whoever waits looks at.
//!
//! Nothing is torn down in the handler: the wait ends with [`Failure::Interrupted`], and the values that own a process
//! kill it when they are dropped on the way out.

use crate::failure::Failure;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Whether the user wants us to end.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Catches SIGINT, SIGTERM and SIGHUP from now on. A second one ends the program at once; its children die with it.
    pub fn catch() -> Result<Interrupt, Failure> {
        let interrupt = Interrupt::default();
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let flag = &interrupt.0;
            signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(flag))
                .and_then(|_| signal_hook::flag::register(signal, Arc::clone(flag)))
                .map_err(|error| Failure::infrastructure(format!("cannot catch signals: {error}"), ""))?;
        }
        Ok(interrupt)
    }

    /// Ends whatever is under way, if the user wants that.
    pub fn check(&self) -> Result<(), Failure> {
        if self.0.load(Ordering::Relaxed) { Err(Failure::Interrupted) } else { Ok(()) }
    }

    /// Ends whatever is under way, for a reason of our own.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Does something that is interrupted when this is, or when its time is up.
    pub fn until<T>(&self, time: Instant, work: impl FnOnce(&Interrupt) -> T) -> T {
        let (inner, done) = (Interrupt::default(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    if self.check().is_err() || Instant::now() >= time {
                        return inner.set();
                    }
                    std::thread::sleep(Duration::from_millis(50));
                }
            });
            // Also when the work panics: the scope waits for the other thread.
            let _done = SetOnDrop(&done);
            work(&inner)
        })
    }

    /// The flag itself, for whoever waits elsewhere.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.0)
    }
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_a_time_is_ended_by_it_and_by_whoever_ends_the_whole() {
        let ends = |outer: &Interrupt, time| {
            let begun = Instant::now();
            outer.until(time, |inner| {
                while inner.check().is_ok() && begun.elapsed() < Duration::from_secs(60) {
                    std::thread::sleep(Duration::from_millis(1));
                }
                inner.check().is_err()
            })
        };
        let outer = Interrupt::default();
        assert!(ends(&outer, Instant::now() + Duration::from_millis(20)));
        assert!(outer.check().is_ok(), "the whole goes on");
        assert!(outer.until(Instant::now() + Duration::from_secs(60), |inner| inner.check().is_ok()));
        outer.set();
        assert!(ends(&outer, Instant::now() + Duration::from_secs(60)));
    }
}
