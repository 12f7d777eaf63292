//! How long each stage of a run took. For people; nothing is decided by it.

use crate::host::Phase;
use std::time::Instant;

/// A clock with laps.
#[derive(Debug)]
pub struct Phases {
    began: Instant,
    last: Instant,
    /// The laps so far.
    pub list: Vec<Phase>,
}

impl Phases {
    /// Begins the first lap.
    pub fn start() -> Phases {
        let now = Instant::now();
        Phases { began: now, last: now, list: Vec::new() }
    }

    /// Ends a lap.
    pub fn done(&mut self, name: &str) {
        let now = Instant::now();
        let took_ms = now.duration_since(self.last).as_millis() as u64;
        self.list.push(Phase { name: name.to_owned(), took_ms });
        self.last = now;
    }

    /// One line for people.
    pub fn describe(&self) -> String {
        let lap = |phase: &Phase| format!("{} {:.2} s", phase.name, phase.took_ms as f64 / 1000.0);
        let laps: Vec<String> = self.list.iter().map(lap).collect();
        format!("{} = {:.2} s", laps.join(", "), self.last.duration_since(self.began).as_secs_f64())
    }
}
