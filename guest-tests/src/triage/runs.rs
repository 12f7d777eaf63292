//! Real guests for triage: runs a scenario into a folder, judges it, and says what failure it was.

use super::signature::{Signature, signature};
use crate::args::{self, Accel};
use crate::expectation::Expectation;
use crate::failure::Failure;
use crate::folder::{self, RunFolder};
use crate::interrupt::Interrupt;
use crate::judge::{self, Recorded};
use crate::programs::Programs;
use crate::scenario::{self, Scenario};
use crate::{page, run, show};
use fault_injection::event::Outcome;
use scenario_reducer::{Hit, Hits};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// What all runs of a triage have in common.
#[derive(Clone, Debug)]
pub struct Common {
    /// Our programs.
    pub programs: Programs,
    /// Ends what is under way.
    pub interrupt: Interrupt,
    /// `--kernel`
    pub kernel: String,
    /// `--dialect`
    pub dialect: Option<String>,
    /// `--accel`
    pub accel: Accel,
    /// `--seed`
    pub seed: Option<u64>,
    /// `--time-limit`
    pub time_limit_s: u64,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The failure; none: there was none.
    pub signature: Option<Signature>,
    /// What the script did.
    pub hits: Hits,
    /// Release of the kernel.
    pub kernel: String,
}

/// Runs scenarios one after the other.
pub trait Runs {
    /// Runs one into this folder, which holds a whole run afterwards. What ran before in the same boot is the caller's to
    /// know: see who implements this.
    fn run(&mut self, scenario: Scenario, out: &Path) -> Result<(), Failure>;
}

/// Each run in a boot of its own.
#[derive(Debug)]
pub struct Alone<'c>(pub &'c Common);

impl Runs for Alone<'_> {
    fn run(&mut self, scenario: Scenario, out: &Path) -> Result<(), Failure> {
        let args = self.0.arguments(out);
        let repeat = self.0.repeat(&out.join(folder::SCENARIO));
        let mut ran = run::run_scenario(&args, scenario, &self.0.programs, &self.0.interrupt, &repeat)?;
        ran.host.phases.clone_from(&ran.phases.list);
        ran.host.write(&ran.folder)
    }
}

impl Common {
    /// The arguments of `guest-tests run` for one run.
    pub fn arguments(&self, out: &Path) -> args::Run {
        args::Run {
            scenario: PathBuf::new(),
            out: Some(out.to_owned()),
            kernel: self.kernel.clone(),
            dialect: self.dialect.clone(),
            accel: self.accel,
            seed: self.seed,
            time_limit: self.time_limit_s,
            keep_image: false,
            snapshot_dir: None,
            verbose: false,
            canary: None,
            planted_lie: None,
        }
    }

    /// The command that runs a scenario file as these runs did.
    pub fn repeat(&self, scenario: &Path) -> String {
        format!("guest-tests run {}{}", show::quote(&scenario.display().to_string()), self.options())
    }

    /// The options of such a command, each with a blank in front.
    pub fn options(&self) -> String {
        let mut options = format!(" --kernel {}", show::quote(&self.kernel));
        if let Some(dialect) = &self.dialect {
            options += &format!(" --dialect {}", show::quote(dialect));
        }
        if let Some(seed) = self.seed {
            options += &format!(" --seed {seed}");
        }
        options
    }
}

/// Judges a run's folder from what it holds.
pub fn look(path: &Path) -> Result<Seen, Failure> {
    let recorded = judge::read(&RunFolder::open(path)?)?;
    let judged = judge::judge(&recorded)?;
    Ok(seen(&recorded, &judged))
}

/// Names the failure by the verdict that the folder holds, whoever judged it.
pub fn look_as_judged(run: &RunFolder) -> Result<Option<Signature>, Failure> {
    let recorded = judge::read(run)?;
    let verdict = serde_json::from_str(&run.read_text(folder::VERDICT)?)
        .map_err(|error| Failure::BadInput(format!("{}: {error}", run.file(folder::VERDICT).display())))?;
    let judged = judge::Judged { verdict, comparison: None, expected: Expectation::default() };
    Ok(signature(&recorded, &judged))
}

/// Judges a run's folder and leaves the result there, as `run` does.
pub fn judge_and_write(path: &Path) -> Result<Seen, Failure> {
    let folder = RunFolder::open(path)?;
    let recorded = judge::read(&folder)?;
    let judged = judge::judge(&recorded)?;
    judge::write(&folder, &recorded, &judged)?;
    folder.write(folder::REPORT, page::render(&recorded, &judged))?;
    Ok(seen(&recorded, &judged))
}

fn seen(recorded: &Recorded, judged: &judge::Judged) -> Seen {
    Seen { signature: signature(recorded, judged), hits: hits(recorded), kernel: recorded.host.kernel.release.clone() }
}

/// The firings of each rule that were carried out, and the events that happened.
fn hits(recorded: &Recorded) -> Hits {
    let mut hits = Hits::new();
    let Ok(decisions) = &recorded.decisions else { return hits };
    for record in &decisions.records {
        if matches!(record.outcome, Outcome::Shadowed { .. } | Outcome::ReorderStarved { .. }) {
            continue;
        }
        let hit = Hit {
            match_number: record.match_number,
            sector: record.sector,
            sectors: record.sectors,
            touch: record.touch,
        };
        hits.entry(record.rule.clone()).or_default().push(hit);
    }
    for event in decisions.events.iter().filter(|event| !event.rule.starts_with('@')) {
        hits.entry(event.rule.clone()).or_default();
    }
    hits
}

/// A scenario that was made here.
pub fn parse(scenario: &Value) -> Result<Scenario, Failure> {
    let text = serde_json::to_string_pretty(scenario).expect("JSON can be said in JSON");
    Ok(scenario::parse(Path::new(folder::SCENARIO), &text)?)
}
