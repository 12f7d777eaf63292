//! Results out of nothing, quickly: to try the night itself out, its ledger above all, where no guest matters.
//!
//! What it says of a unit follows from the unit's name. Nothing of it can be taken for a result: its kernel is `pretended`.

use super::queue::{Group, Work};
use super::runner::Runner;
use crate::failure::{At, Failure};
use crate::interrupt::Interrupt;
use night_results::{Outcome, ResultLine, Signature, Unit};
use std::path::Path;
use std::time::{Duration, Instant};

/// See the module.
pub struct Pretend {
    /// Time for each unit.
    pub time: Duration,
    /// Ended by it.
    pub interrupt: Interrupt,
    /// What ran since the last boot.
    pub after: Vec<u32>,
    /// Boots so far.
    pub boots: u64,
}

impl Runner for Pretend {
    fn run(&mut self, group: &Group, work: &Work, folder: &Path) -> Result<ResultLine, Failure> {
        let begun = Instant::now();
        self.boots += u64::from(self.after.is_empty());
        std::fs::create_dir_all(folder).at("make", folder)?;
        for name in ["scenario.json", "disk.img"] {
            let file = folder.join(name);
            std::fs::write(&file, work.unit.to_string()).at("write", &file)?;
        }
        while begun.elapsed() < self.time {
            self.interrupt.check()?;
            std::thread::sleep(Duration::from_millis(1).min(self.time));
        }
        let mut line = ResultLine::new(work.unit.clone(), format!("pretended-{}", work.unit), group.series.clone());
        line.kernel = "pretended".into();
        line.after = self.after.clone();
        line.outcome = outcome(&work.unit);
        line.why = "no guest was started".into();
        line.signature =
            (line.outcome == Outcome::Failed).then(|| Signature::of(format!("pretended {}", number(&work.unit) % 3)));
        line.took_ms = begun.elapsed().as_millis() as u64;
        self.after.extend(work.unit.seed().map(|seed| seed.index));
        Ok(line)
    }

    fn drop_guest(&mut self) {
        self.after.clear();
    }

    fn boots(&self) -> u64 {
        self.boots
    }
}

fn outcome(unit: &Unit) -> Outcome {
    match (unit, number(unit) % 40) {
        (Unit::Canary(_), _) => Outcome::Plain,
        (_, 0) => Outcome::Failed,
        (_, 1) => Outcome::Unjudged,
        _ => Outcome::Plain,
    }
}

fn number(unit: &Unit) -> u64 {
    unit.to_string().bytes().fold(7, |number, byte| number.wrapping_mul(31).wrapping_add(byte.into()))
}
