//! Units in real guests: makes the scenario, runs it, judges it, and says what came out.

use super::again::{self, Done};
use super::canary::{self, Planted, Shown};
use super::line;
use super::queue::{Group, Source, Work};
use super::runner::Runner;
use crate::args::{Accel, Run};
use crate::batch::{Boot, BootSpec};
use crate::failure::Failure;
use crate::folder;
use crate::interrupt::Interrupt;
use crate::judge::{self, Judged, Recorded};
use crate::programs::Programs;
use crate::scenario::{self, Scenario};
use crate::triage::runs;
use crate::{page, run};
use night_results::{Canary, Outcome, ResultLine, Unit};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What all guests of a night have in common.
#[derive(Clone, Debug)]
pub struct Common {
    /// Our programs.
    pub programs: Programs,
    /// Ends what is under way.
    pub interrupt: Interrupt,
    /// `--accel`
    pub accel: Accel,
    /// `--dialect`
    pub dialect: Option<String>,
    /// `--time-limit`
    pub time_limit_s: u64,
    /// The night's folder, for commands that show a result again.
    pub night: PathBuf,
    /// Failures that were looked at again.
    pub done: Arc<Done>,
    /// How long making a failure smaller may take.
    pub shrink: Duration,
    /// When the night's time is up.
    pub deadline: Option<Instant>,
}

impl Common {
    /// The boot that suits a scenario.
    pub fn boot_spec(&self, group: &Group, scenario: &Scenario) -> BootSpec {
        BootSpec {
            accel: self.accel,
            dialect: self.dialect.clone(),
            time_limit_s: self.time_limit_s,
            ..BootSpec::of(scenario, &group.kernel)
        }
    }

    /// Runs in boots of their own.
    pub fn runs(&self, group: &Group) -> runs::Common {
        runs::Common {
            programs: self.programs.clone(),
            interrupt: self.interrupt.clone(),
            kernel: group.kernel.clone(),
            dialect: self.dialect.clone(),
            accel: self.accel,
            seed: None,
            time_limit_s: self.time_limit_s,
        }
    }
}

/// See the module.
pub struct Guests {
    common: Common,
    boots: u64,
    live: Option<Live>,
}

/// A guest that is up, and what it had so far.
struct Live {
    boot: Boot,
    spec: BootSpec,
    kernel: String,
    /// The boot of its seeds; none: it had none.
    of: Option<u32>,
    after: Vec<u32>,
}

impl Guests {
    /// For one worker.
    pub fn new(common: Common) -> Guests {
        Guests { common, boots: 0, live: None }
    }

    /// Runs a scenario by itself, in a boot of its own.
    fn run_alone(&mut self, args: &Run, scenario: Scenario, repro: &str) -> Result<Recorded, Failure> {
        self.boots += 1;
        let ran = run::run_scenario(args, scenario, &self.common.programs, &self.common.interrupt, repro)?;
        let mut host = ran.host;
        host.phases.clone_from(&ran.phases.list);
        host.write(&ran.folder)?;
        judge::read(&ran.folder)
    }

    /// Runs a scenario in the boot that is up, or in a new one if that is not fit for it.
    fn run_in_boot(
        &mut self,
        group: &Group,
        work: &Work,
        scenario: &Scenario,
        folder: &Path,
        line: &mut ResultLine,
    ) -> Result<Recorded, Failure> {
        let of = work.unit.seed().map(|seed| seed.boot);
        if !self.live.as_ref().is_some_and(|live| live.suits(group, of, scenario)) {
            self.live = None;
            self.live = Some(self.start(group, of, scenario, line)?);
        }
        let live = self.live.as_mut().expect("started above");
        line.after.clone_from(&live.after);
        let ran = live.boot.run(scenario, None, folder, &line.repro);
        live.after.extend(work.unit.seed().map(|seed| seed.index));
        let ran = ran.inspect_err(|_| self.live = None)?;
        let mut host = ran.host;
        host.phases.clone_from(&ran.phases.list);
        host.write(&ran.folder)?;
        judge::read(&ran.folder)
    }

    fn start(
        &mut self,
        group: &Group,
        of: Option<u32>,
        scenario: &Scenario,
        line: &mut ResultLine,
    ) -> Result<Live, Failure> {
        let begun = Instant::now();
        let spec = self.common.boot_spec(group, scenario);
        self.boots += 1;
        let boot = Boot::start(&spec, &self.common.programs, &self.common.interrupt)?;
        line.boot_ms = Some(begun.elapsed().as_millis() as u64);
        Ok(Live { boot, spec, kernel: group.kernel.clone(), of, after: Vec::new() })
    }

    /// Of what is not plain: leaves what there is to look at, looks at failures again, and keeps no more of one kind than helps.
    fn look_closer(
        &mut self,
        line: &mut ResultLine,
        group: &Group,
        work: &Work,
        folder: &Path,
        (recorded, judged): (&Recorded, &Judged),
    ) -> Result<(), Failure> {
        let turn = self.common.done.turn(line);
        if turn >= again::KEPT {
            line.repro = repro_of_nothing(group, work).unwrap_or_else(|| line.repro.clone());
            super::folder::remove(folder)?;
        } else {
            write_all(folder, recorded, judged)?;
            if turn >= again::STATES_KEPT {
                let run = folder::RunFolder::open(folder)?;
                [folder::STATES, folder::IMAGE].into_iter().try_for_each(|name| run.remove(name))?;
            }
        }
        if line.outcome != Outcome::Failed {
            return Ok(());
        }
        match again::look(line, turn, group, work, folder, &self.common) {
            Err(Failure::Interrupted) => Err(Failure::Interrupted),
            // What was found stays found, also where the machine keeps us from looking at it again.
            Err(failure) => {
                line.why = format!("{}; it was not looked at again: {failure}", line.why);
                line.triage = Some(again::not_tried());
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    fn canary(&mut self, planted: &Planted, args: &mut Run, line: &mut ResultLine) -> Result<Judged, Failure> {
        let scenario = scenario::parse(Path::new("canary.json"), planted.scenario().1)?;
        match planted {
            Planted::Replica(mistake) => args.canary = Some(mistake.name().to_owned()),
            Planted::Device(lie) => args.planted_lie = Some((*lie).to_owned()),
        }
        let repro = line.repro.clone();
        let mut recorded = self.run_alone(args, scenario, &repro)?;
        let judged = judge::judge(&recorded)?;
        line::fill(line, &recorded, &judged);
        let shown = match planted {
            Planted::Device(_) => canary::device(&judged.verdict),
            Planted::Replica(_) => {
                recorded.host.canary = None;
                canary::replica(&judged.verdict, &judge::judge(&recorded)?.verdict)
            }
        };
        let (outcome, why) = match shown {
            Shown::Noticed(why) => (Outcome::Plain, format!("noticed: {why}")),
            Shown::Missed(why) => (Outcome::Failed, why),
            Shown::Unclear(why) => (Outcome::Unjudged, why),
        };
        // What was noticed is the planted thing: no failure of the night.
        line.signature = None;
        (line.outcome, line.why) = (outcome, format!("{}: {why}", planted.name()));
        Ok(judged)
    }
}

impl Runner for Guests {
    fn run(&mut self, group: &Group, work: &Work, folder: &Path) -> Result<ResultLine, Failure> {
        let begun = Instant::now();
        let mut args = self.common.runs(group).arguments(folder);
        let mut line = ResultLine::new(work.unit.clone(), name(work), group.series.clone());
        line.repro = repro(&self.common, group, work);
        if let Source::Planted(planted) = &work.source {
            self.canary(planted, &mut args, &mut line)?;
            line.boot_ms = Some(begun.elapsed().as_millis() as u64);
        } else {
            let scenario = load(work)?;
            line.scenario.clone_from(&scenario.name);
            let recorded = self.run_in_boot(group, work, &scenario, folder, &mut line)?;
            let judged = judge::judge(&recorded)?;
            line::fill(&mut line, &recorded, &judged);
            if line.outcome != Outcome::Plain {
                self.look_closer(&mut line, group, work, folder, (&recorded, &judged))?;
            }
        }
        line.took_ms = begun.elapsed().as_millis() as u64;
        Ok(line)
    }

    fn drop_guest(&mut self) {
        self.live = None;
    }

    fn boots(&self) -> u64 {
        self.boots
    }
}

impl Live {
    /// Whether the scenario can run in it: all seeds of a boot in one guest, and standing scenarios one after another.
    fn suits(&self, group: &Group, of: Option<u32>, scenario: &Scenario) -> bool {
        let same = self.kernel == group.kernel && self.of == of;
        same && self.boot.usable().is_ok() && self.spec.fits(scenario).is_ok()
    }
}

/// The scenario of a unit that has one of its own.
pub fn load(work: &Work) -> Result<Scenario, Failure> {
    match &work.source {
        Source::File(path) => scenario::load(path),
        Source::Seed(seed) => scenario::of_seed(*seed),
        Source::Planted(_) => unreachable!("a planted mistake brings its own"),
    }
}

fn name(work: &Work) -> String {
    match (&work.source, &work.unit) {
        (Source::Seed(seed), _) => format!("seed-{seed}"),
        (_, Unit::Standing { name, .. }) => name.clone(),
        (Source::Planted(planted), _) => planted.name(),
        (Source::File(path), _) => path.display().to_string(),
    }
}

/// What whoever wants to look closer finds in the folder, as after `run`.
fn write_all(folder: &Path, recorded: &Recorded, judged: &Judged) -> Result<(), Failure> {
    let run = folder::RunFolder::open(folder)?;
    judge::write(&run, recorded, judged)?;
    run.write(folder::REPORT, page::render(recorded, judged))
}

/// The same of a seed whose folder is not kept: nothing is needed but its number.
fn repro_of_nothing(group: &Group, work: &Work) -> Option<String> {
    let seed = work.unit.seed()?;
    let kernel = crate::show::quote(&group.kernel);
    Some(scenario::repeat_of_seed(seed, &kernel))
}

/// The one command that shows it again, from what is kept in the night's folder.
fn repro(common: &Common, group: &Group, work: &Work) -> String {
    use crate::show::quote;
    let kernel = quote(&group.kernel);
    let kept = common.night.join(super::folder::FAILURES).join(work.unit.folder()).join(folder::SCENARIO);
    let kept = quote(&kept.display().to_string());
    match (&work.unit, &work.source) {
        (Unit::Canary(Canary::Replica), Source::Planted(Planted::Replica(mistake))) => {
            format!(
                "guest-tests run guest-tests/scenarios/{}.json --kernel {kernel} --canary {}",
                Planted::Replica(*mistake).scenario().0,
                mistake.name()
            )
        }
        (_, Source::Planted(Planted::Device(lie))) => {
            format!(
                "guest-tests run guest-tests/scenarios/{}.json --kernel {kernel} --planted-lie {lie}",
                Planted::Device(lie).scenario().0
            )
        }
        (_, Source::File(path)) => format!("guest-tests run {} --kernel {kernel}", quote(&path.display().to_string())),
        _ => format!("guest-tests run {kept} --kernel {kernel}"),
    }
}
