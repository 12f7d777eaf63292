//! Many runs of a triage in one boot, and a failure looked at again by guests.

use super::again::{Limits, Told, Trials, again};
use super::runs::{self, Alone, Common, Runs};
use super::shrink::{self, From};
use crate::batch::{Boot, BootSpec};
use crate::failure::Failure;
use crate::folder::{self, RunFolder};
use crate::scenario::{self, Scenario};
use night_results::Needed;
use std::path::{Path, PathBuf};

/// Runs in the boot of the run before, where the scenario fits it and the guest is in order; else in a new one.
pub struct Together<'c> {
    common: &'c Common,
    boot: Option<(BootSpec, Boot)>,
    boots: u32,
}

impl<'c> Together<'c> {
    /// Boots nothing yet.
    pub fn new(common: &'c Common) -> Together<'c> {
        Together { common, boot: None, boots: 0 }
    }

    /// Guests booted so far.
    pub fn boots(&self) -> u32 {
        self.boots
    }

    fn boot_for(&mut self, scenario: &Scenario) -> Result<(BootSpec, Boot), Failure> {
        if let Some((spec, boot)) = self.boot.take()
            && boot.usable().is_ok()
            && spec.fits(scenario).is_ok()
        {
            return Ok((spec, boot));
        }
        let spec = BootSpec {
            accel: self.common.accel,
            dialect: self.common.dialect.clone(),
            time_limit_s: self.common.time_limit_s,
            ..BootSpec::of(scenario, &self.common.kernel)
        };
        self.boots += 1;
        let boot = Boot::start(&spec, &self.common.programs, &self.common.interrupt)?;
        Ok((spec, boot))
    }
}

impl Runs for Together<'_> {
    fn run(&mut self, scenario: Scenario, out: &Path) -> Result<(), Failure> {
        let (spec, mut boot) = self.boot_for(&scenario)?;
        let repeat = self.common.repeat(&out.join(folder::SCENARIO));
        let mut ran = boot.run(&scenario, self.common.seed, out, &repeat)?;
        self.boot = Some((spec, boot));
        ran.host.phases.clone_from(&ran.phases.list);
        ran.host.write(&ran.folder)
    }
}

/// What is to be done with a failure of a night.
#[derive(Clone, Debug)]
pub struct Wanted<'w> {
    /// The folder of its run.
    pub recording: &'w Path,
    /// The text of its signature.
    pub signature: &'w str,
    /// What ran before it in the same boot, in order.
    pub predecessors: Vec<Scenario>,
    /// Where its runs may lie meanwhile; removed afterwards.
    pub scratch: &'w Path,
    /// How often it is tried.
    pub limits: Limits,
    /// Where its smallest scenario goes, below the night's folder, and in how many runs at most; none: it is not made smaller.
    pub shrink: Option<(&'w Path, &'w str, usize)>,
}

/// Looks again at a failure and, where it shows alone, makes it smaller. That it could not be made smaller is told and ends
/// nothing.
pub fn examine(common: &Common, wanted: &Wanted<'_>) -> Result<Told, Failure> {
    let told = look_again(common, wanted);
    let _ = std::fs::remove_dir_all(wanted.scratch);
    let mut told = told?;
    let alone = told.triage.needed == Some(Needed::Alone);
    if let (true, Some((night, folder, budget_runs))) = (alone, wanted.shrink) {
        let out = night.join(folder);
        match shrink::take(&out)
            .and_then(|()| shrink::shrink(&From::folder(wanted.recording)?, common, &out, budget_runs))
        {
            Ok(report) if report.ended == "interrupted" => return Err(Failure::Interrupted),
            Ok(report) => {
                told.why += &format!("; {}", report.path());
                told.triage.shrunk = Some(report.for_night(folder));
            }
            Err(Failure::Interrupted) => return Err(Failure::Interrupted),
            Err(failure) => told.why += &format!("; it could not be made smaller: {failure}"),
        }
    }
    Ok(told)
}

/// See [`again`].
fn look_again(common: &Common, wanted: &Wanted<'_>) -> Result<Told, Failure> {
    let recording = wanted.recording;
    let scenario = scenario::load(&RunFolder::open(recording)?.file(folder::SCENARIO))?;
    let predecessors = wanted.predecessors.clone();
    let mut trials = InGuests { common, recording, scenario, predecessors, scratch: wanted.scratch.to_owned() };
    again(wanted.signature, &mut trials, wanted.limits)
}

struct InGuests<'c> {
    common: &'c Common,
    recording: &'c Path,
    scenario: Scenario,
    predecessors: Vec<Scenario>,
    scratch: PathBuf,
}

impl InGuests<'_> {
    fn signature(&self) -> Result<Option<String>, Failure> {
        Ok(runs::look(&self.scratch)?.signature.map(|signature| signature.to_string()))
    }
}

impl Trials for InGuests<'_> {
    fn judged_again(&mut self) -> Result<Option<String>, Failure> {
        Ok(runs::look(self.recording)?.signature.map(|signature| signature.to_string()))
    }

    fn alone(&mut self) -> Result<Option<String>, Failure> {
        Alone(self.common).run(self.scenario.clone(), &self.scratch)?;
        self.signature()
    }

    fn predecessors(&self) -> usize {
        self.predecessors.len()
    }

    /// A predecessor that ends the boot leaves nothing to run after: that is no try.
    fn after_predecessors(&mut self) -> Result<Option<String>, Failure> {
        let mut together = Together::new(self.common);
        for scenario in self.predecessors.iter().chain([&self.scenario]) {
            together.run(scenario.clone(), &self.scratch)?;
            if together.boots() > 1 {
                let what = format!("the guest did not live until {}", scenario.name);
                return Err(Failure::infrastructure(what, "run them alone"));
            }
        }
        self.signature()
    }
}
