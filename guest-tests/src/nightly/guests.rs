//! Units in real guests: makes the scenario, runs it, judges it, and says what came out.

use super::canary::{self, Planted, Shown};
use super::line;
use super::queue::{Group, Source, Work};
use super::runner::Runner;
use crate::args::{Accel, Run};
use crate::failure::Failure;
use crate::folder;
use crate::interrupt::Interrupt;
use crate::judge::{self, Judged, Recorded};
use crate::programs::Programs;
use crate::scenario::{self, Scenario};
use crate::{page, run};
use night_results::{Canary, Outcome, ResultLine, Unit};
use std::path::{Path, PathBuf};
use std::time::Instant;

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
}

/// See the module.
pub struct Guests {
    common: Common,
    boots: u64,
}

impl Guests {
    /// For one worker.
    pub fn new(common: Common) -> Guests {
        Guests { common, boots: 0 }
    }

    fn arguments(&self, group: &Group, folder: &Path) -> Run {
        Run {
            scenario: PathBuf::new(),
            out: Some(folder.to_owned()),
            kernel: group.kernel.clone(),
            dialect: self.common.dialect.clone(),
            accel: self.common.accel,
            seed: None,
            time_limit: self.common.time_limit_s,
            keep_image: false,
            snapshot_dir: None,
            verbose: false,
            canary: None,
            planted_lie: None,
        }
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

    fn canary(&mut self, planted: &Planted, args: &mut Run, line: &mut ResultLine) -> Result<Judged, Failure> {
        let scenario = scenario::parse(Path::new("canary.json"), canary::SCENARIO)?;
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
        (line.outcome, line.why) = (outcome, format!("{}: {why}", planted.name()));
        Ok(judged)
    }
}

impl Runner for Guests {
    fn run(&mut self, group: &Group, work: &Work, folder: &Path) -> Result<ResultLine, Failure> {
        let begun = Instant::now();
        let mut args = self.arguments(group, folder);
        let mut line = ResultLine::new(work.unit.clone(), name(work), group.series.clone());
        line.repro = repro(&self.common, group, work);
        if let Source::Planted(planted) = &work.source {
            self.canary(planted, &mut args, &mut line)?;
        } else {
            let scenario = load(work)?;
            line.scenario.clone_from(&scenario.name);
            let recorded = self.run_alone(&args, scenario, &line.repro.clone())?;
            let judged = judge::judge(&recorded)?;
            line::fill(&mut line, &recorded, &judged);
            if line.outcome != Outcome::Plain {
                write_all(folder, &recorded, &judged)?;
            }
        }
        line.took_ms = begun.elapsed().as_millis() as u64;
        line.boot_ms = Some(line.took_ms);
        Ok(line)
    }

    fn drop_guest(&mut self) {}

    fn boots(&self) -> u64 {
        self.boots
    }
}

/// The scenario of a unit that has one of its own.
fn load(work: &Work) -> Result<Scenario, Failure> {
    match &work.source {
        Source::File(path) => scenario::load(path),
        Source::Seed(seed) => {
            let text = scenario_generator::text(&scenario_generator::scenario(*seed));
            Ok(scenario::parse(Path::new(&format!("seed-{seed}.json")), &text)?)
        }
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

/// The one command that shows it again: a seed needs no file, and what is kept lies in the night's folder.
fn repro(common: &Common, group: &Group, work: &Work) -> String {
    use crate::show::quote;
    let kernel = quote(&group.kernel);
    let kept = common.night.join(super::folder::FAILURES).join(work.unit.folder()).join(folder::SCENARIO);
    let kept = quote(&kept.display().to_string());
    match (&work.unit, &work.source) {
        (Unit::Canary(Canary::Replica), Source::Planted(Planted::Replica(mistake))) => {
            format!(
                "guest-tests run guest-tests/scenarios/clean-interleaved.json --kernel {kernel} --canary {}",
                mistake.name()
            )
        }
        (_, Source::Planted(Planted::Device(lie))) => {
            format!(
                "guest-tests run guest-tests/scenarios/clean-interleaved.json --kernel {kernel} --planted-lie {lie}"
            )
        }
        (_, Source::File(path)) => format!("guest-tests run {} --kernel {kernel}", quote(&path.display().to_string())),
        _ => format!("guest-tests run {kept} --kernel {kernel}"),
    }
}
