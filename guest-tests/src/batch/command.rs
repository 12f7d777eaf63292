//! `guest-tests batch`: scenario files one after the other, in as few boots as their guests allow.
//!
//! A scenario that cannot be judged, or a guest that died, ends nothing but its boot. The order is that of the command line:
//! what ran before a scenario in its boot is part of the result.

use super::rate::{self, Rate};
use super::{Boot, BootSpec, cpu};
use crate::args::{Batch, Format};
use crate::failure::{At, Failure, exit};
use crate::host::Phase;
use crate::interrupt::Interrupt;
use crate::nightly::seeds::SeedRange;
use crate::programs::Programs;
use crate::run;
use crate::scenario::{self, Scenario};
use crate::show;
use crate::verdict::Outcome;
use scenario_generator::Seed;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What came of all.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// In the order in which they ran.
    pub scenarios: Vec<Line>,
    /// In order.
    pub boots: Vec<BootLine>,
    /// How fast they came after boot: those whose script holds nothing back, those that wait, and all.
    pub rates: Vec<Rate>,
}

/// What came of one scenario.
#[derive(Debug, Serialize)]
pub struct Line {
    /// Its name.
    pub scenario: String,
    /// Its run's folder.
    pub folder: PathBuf,
    /// None: there is none.
    pub verdict: Option<Outcome>,
    /// As of `guest-tests run`.
    pub exit_code: u8,
    /// The verdict's reason, or what kept us from one.
    pub why: String,
    /// Ids of the findings, sorted.
    pub findings: Vec<String>,
    /// The boot it ran in, from 1.
    pub boot: usize,
    /// Scenarios before it in that boot.
    pub before: u32,
    /// Its script or its workload waits by wall time.
    pub waits: bool,
    /// From its image to its verdict.
    pub took_ms: u64,
    /// CPU time of all our processes meanwhile; none: one of them ended on the way.
    pub cpu_ms: Option<u64>,
    /// The same, by stages.
    pub phases: Vec<Phase>,
}

/// What came of one boot.
#[derive(Debug, Serialize)]
pub struct BootLine {
    /// From QEMU's start to the first scenario.
    pub took_ms: u64,
    /// Scenarios it had.
    pub scenarios: u32,
    /// Why it ended; none: there were no more scenarios for it.
    pub ended: Option<String>,
}

/// Runs all of them, prints what came of them, and gives the exit code.
pub fn batch(wanted: &Batch, format: Format, programs: &Programs, interrupt: &Interrupt) -> Result<u8, Failure> {
    let scenarios = scenarios(wanted)?;
    let kernel = run::obtain_kernel(&wanted.kernel)?;
    scenarios.iter().try_for_each(|(scenario, _)| run::must_be_for(scenario, &kernel))?;
    run::must_know_dialect(wanted.dialect.as_deref(), &kernel)?;
    std::fs::create_dir_all(&wanted.out).at("make", &wanted.out)?;
    let mut batch =
        Running { wanted, programs, interrupt, boot: None, report: Report::default(), names: BTreeMap::new() };
    for (scenario, source) in &scenarios {
        interrupt.check()?;
        batch.one(scenario, source)?;
    }
    batch.leave(None);
    let mut report = batch.report;
    report.rates = rate::rates(&report.scenarios);
    match format {
        Format::Json => println!("{}", serde_json::json!(report)),
        Format::Text => print!("{}", report.text(wanted.verbose)),
    }
    Ok(report.exit_code())
}

/// Where a scenario comes from.
enum Source {
    File(PathBuf),
    Seed(Seed),
}

/// The files, then the seeds.
fn scenarios(wanted: &Batch) -> Result<Vec<(Scenario, Source)>, Failure> {
    let files = wanted.scenarios.iter().map(|path| Ok((scenario::load(path)?, Source::File(path.clone()))));
    let seeds = wanted.seeds.iter().flat_map(SeedRange::seeds);
    files.chain(seeds.map(|seed| Ok((scenario::of_seed(seed)?, Source::Seed(seed))))).collect()
}

struct Running<'a> {
    wanted: &'a Batch,
    programs: &'a Programs,
    interrupt: &'a Interrupt,
    boot: Option<(BootSpec, Boot)>,
    report: Report,
    /// How often a name has come.
    names: BTreeMap<String, u32>,
}

impl Running<'_> {
    fn one(&mut self, scenario: &Scenario, source: &Source) -> Result<(), Failure> {
        let folder = self.folder_for(&scenario.name);
        let repeat = self.repeat(source);
        let line = match self.run(scenario, &folder, &repeat) {
            Ok(line) => line,
            Err(Failure::Interrupted) => return Err(Failure::Interrupted),
            Err(failure) => Line {
                scenario: scenario.name.clone(),
                folder,
                verdict: None,
                exit_code: failure.exit_code(),
                why: failure.to_string(),
                findings: Vec::new(),
                boot: self.report.boots.len() + usize::from(self.boot.is_some()),
                before: self.boot.as_ref().map_or(0, |(_, boot)| boot.scenarios().saturating_sub(1)),
                waits: scenario.waits_by_wall_time(),
                took_ms: 0,
                cpu_ms: None,
                phases: Vec::new(),
            },
        };
        show::progress(&line.text());
        self.report.scenarios.push(line);
        Ok(())
    }

    fn run(&mut self, scenario: &Scenario, folder: &Path, repeat: &str) -> Result<Line, Failure> {
        let seed = self.wanted.seed;
        let number = self.report.boots.len() + 1;
        let boot = self.boot_for(scenario)?;
        let before = boot.scenarios();
        let (began, used_ms) = (Instant::now(), cpu::used_ms(&boot.processes()));
        let mut ran = boot.run(scenario, seed, folder, repeat)?;
        let (recorded, judged) = run::conclude(&mut ran)?;
        if judged.verdict.exit_code != exit::AS_EXPECTED {
            run::draw(&mut ran, &recorded, &judged)?;
        }
        let cpu_ms = boot.usable().is_ok().then(|| cpu::used_ms(&boot.processes()).saturating_sub(used_ms));
        let mut findings: Vec<String> = judged.verdict.findings.iter().map(|finding| finding.id.clone()).collect();
        findings.sort();
        Ok(Line {
            scenario: scenario.name.clone(),
            folder: folder.to_owned(),
            verdict: Some(judged.verdict.verdict),
            exit_code: judged.verdict.exit_code,
            why: judged.verdict.why,
            findings,
            boot: number,
            before,
            waits: scenario.waits_by_wall_time(),
            took_ms: began.elapsed().as_millis() as u64,
            cpu_ms,
            phases: ran.phases.list,
        })
    }

    /// The boot of now, if it is one for this scenario, else a new one.
    fn boot_for(&mut self, scenario: &Scenario) -> Result<&mut Boot, Failure> {
        let why = match &self.boot {
            Some((_, boot)) if boot.usable().is_err() => boot.usable().err().map(|why| why.to_string()),
            Some((spec, _)) => spec.fits(scenario).err().map(|why| why.to_string()),
            None => None,
        };
        if why.is_some() {
            self.leave(why);
        }
        if self.boot.is_none() {
            let wanted = self.wanted;
            let spec = BootSpec {
                accel: wanted.accel,
                dialect: wanted.dialect.clone(),
                time_limit_s: wanted.time_limit,
                most: wanted.most,
                folder: Some(wanted.out.join(format!("boot-{}", self.report.boots.len() + 1))),
                ..BootSpec::of(scenario, &wanted.kernel)
            };
            let boot = Boot::start(&spec, self.programs, self.interrupt)?;
            show::progress(&format!("booted: {}", boot.phases().describe()));
            self.boot = Some((spec, boot));
        }
        Ok(&mut self.boot.as_mut().expect("made above").1)
    }

    fn leave(&mut self, why: Option<String>) {
        if let Some((_, boot)) = self.boot.take() {
            let ended = why.or_else(|| boot.usable().err().map(|why| why.to_string()));
            let took_ms = boot.phases().list.iter().map(|phase| phase.took_ms).sum();
            self.report.boots.push(BootLine { took_ms, scenarios: boot.scenarios(), ended });
        }
    }

    /// A scenario that is named twice has two folders.
    fn folder_for(&mut self, name: &str) -> PathBuf {
        let times = self.names.entry(name.to_owned()).or_default();
        *times += 1;
        self.wanted.out.join(if *times == 1 { name.to_owned() } else { format!("{name}-{times}") })
    }

    /// The same scenario alone.
    fn repeat(&self, source: &Source) -> String {
        let fault_seed = self.wanted.seed.map_or_else(String::new, |seed| format!(" --seed {seed}"));
        let kernel = show::quote(&self.wanted.kernel);
        match source {
            Source::File(path) => {
                let path = show::quote(&path.display().to_string());
                format!("guest-tests run {path} --kernel {kernel}{fault_seed}")
            }
            Source::Seed(seed) => scenario::repeat_of_seed(*seed, &kernel) + &fault_seed,
        }
    }
}

impl Line {
    fn text(&self) -> String {
        let verdict = self.verdict.map_or_else(|| "no verdict".to_owned(), |verdict| verdict.to_string());
        let findings = if self.findings.is_empty() { String::new() } else { format!(" [{}]", self.findings.join(" ")) };
        let why = if self.exit_code == exit::AS_EXPECTED { String::new() } else { format!(": {}", self.why) };
        format!("{}: {verdict}{findings}, {} ms{why}", self.scenario, self.took_ms)
    }
}

impl Report {
    /// The worst there was.
    fn exit_code(&self) -> u8 {
        let worst = [exit::INFRASTRUCTURE, exit::BAD_INPUT, exit::NOT_AS_EXPECTED, exit::NOT_JUDGED];
        let came = |code: &u8| self.scenarios.iter().any(|line| line.exit_code == *code);
        worst.into_iter().find(came).unwrap_or(exit::AS_EXPECTED)
    }

    fn text(&self, verbose: bool) -> String {
        let mut text = String::new();
        for line in &self.scenarios {
            let code = line.exit_code;
            let verdict = line.verdict.map_or_else(|| "-".to_owned(), |verdict| verdict.to_string());
            text += &format!("{:<9} {code}  {:>6} ms  {}\n", verdict, line.took_ms, line.folder.display());
        }
        for (number, boot) in (1..).zip(&self.boots) {
            let ended = boot.ended.as_ref().map_or_else(String::new, |why| format!("; ended: {why}"));
            text += &format!("boot {number}: {} ms, then {} scenarios{ended}\n", boot.took_ms, boot.scenarios);
        }
        text += &rate::text(&self.rates);
        if verbose { text + &self.phases() } else { text }
    }

    /// The mean of each stage.
    fn phases(&self) -> String {
        let mut names: Vec<&str> = Vec::new();
        let mut sums: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for phase in self.scenarios.iter().flat_map(|line| &line.phases) {
            if !names.contains(&phase.name.as_str()) {
                names.push(&phase.name);
            }
            let sum = sums.entry(&phase.name).or_default();
            *sum = (sum.0 + 1, sum.1 + phase.took_ms);
        }
        let mean = |name: &&str| {
            let (count, sum) = sums[name];
            format!("{name} {:.1} ms", sum as f64 / count as f64)
        };
        format!("mean of each stage: {}\n", names.iter().map(mean).collect::<Vec<_>>().join(", "))
    }
}
