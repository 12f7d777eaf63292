//! `guest-tests bisect`: the first kernel, or the first commit of our own, where a failure comes or goes.
//!
//! The failure is named by the recording of a run's folder, or it is the first that a scenario shows. Kernels are few, so each
//! is looked at and nothing is taken for granted; commits are halved.

mod commits;
mod search;

pub use search::{Change, Halved, Seen, changes, halve, sweep};

use super::runs::{self, Alone, Common, Runs};
use crate::args;
use crate::failure::{Failure, exit};
use crate::folder::{self, RunFolder};
use crate::host::Host;
use crate::interrupt::Interrupt;
use crate::programs::{self, Programs};
use crate::scenario::{self, Scenario};
use crate::show;
use serde::Serialize;
use std::path::Path;

/// What was seen at a kernel or commit.
#[derive(Clone, Debug, Serialize)]
pub struct Looked {
    /// Its name.
    pub place: String,
    /// `shows`, `shows not` or `skipped`.
    pub seen: &'static str,
    /// What showed instead, or why it was skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The failure; none: nothing failed anywhere.
    pub signature: Option<String>,
    /// Everything that was looked at, in the order of the line.
    pub looked: Vec<Looked>,
    /// The answer, a sentence each.
    pub found: Vec<String>,
    /// It comes and goes once at most.
    pub monotone: bool,
}

impl Report {
    /// What the program exits with: 3 where nothing changes, so nothing was found.
    pub fn exit_code(&self) -> u8 {
        if self.found.is_empty() { exit::NOT_JUDGED } else { exit::AS_EXPECTED }
    }
}

/// What fails, and how.
struct Wanted {
    scenario: Scenario,
    /// None: whatever shows first.
    signature: Option<String>,
    /// Of the run, where there is one.
    host: Option<Host>,
}

/// The command.
pub fn command(
    wanted: &args::Bisect,
    vhost_blk: Option<&Path>,
    guest_init: Option<&Path>,
    interrupt: &Interrupt,
) -> Result<Report, Failure> {
    let from = read(&wanted.from)?;
    match (&wanted.kernels, &wanted.commits) {
        (Some(kernels), None) => {
            let programs = programs::find(vhost_blk, guest_init)?;
            over_kernels(&from, wanted, kernels, &programs, interrupt)
        }
        (None, Some(range)) => commits::over(&from, wanted, range, interrupt),
        _ => Err(Failure::BadInput("give either --kernels or --commits".into())),
    }
}

/// A run's folder, or a scenario file.
fn read(from: &Path) -> Result<Wanted, Failure> {
    if !from.is_dir() {
        return Ok(Wanted { scenario: scenario::load(from)?, signature: None, host: None });
    }
    let run = RunFolder::open(from)?;
    let signature = runs::look(from)?.signature.ok_or_else(|| {
        Failure::BadInput(format!(
            "the run in {} has nothing to report, so there is nothing to look for",
            from.display()
        ))
    })?;
    let (scenario, host) = (scenario::load(&run.file(folder::SCENARIO))?, Host::read(&run)?);
    Ok(Wanted { scenario, signature: Some(signature.to_string()), host: Some(host) })
}

/// Holds what showed against what is looked for; without that, the first failure is it.
struct Judge {
    wanted: Option<String>,
    looked: Vec<(usize, Looked)>,
}

impl Judge {
    fn new(wanted: Option<String>) -> Judge {
        Judge { wanted, looked: Vec::new() }
    }

    fn shown(&mut self, place: usize, name: &str, signature: Option<String>) -> Seen {
        if self.wanted.is_none() {
            self.wanted.clone_from(&signature);
        }
        match signature {
            Some(signature) if Some(&signature) == self.wanted.as_ref() => self.note(place, name, Seen::Shows, None),
            other => self.note(place, name, Seen::ShowsNot, other),
        }
    }

    fn skipped(&mut self, place: usize, name: &str, why: String) -> Seen {
        self.note(place, name, Seen::Skipped(why.clone()), Some(why))
    }

    fn note(&mut self, place: usize, name: &str, seen: Seen, what: Option<String>) -> Seen {
        let word = match &seen {
            Seen::Shows => "shows",
            Seen::ShowsNot => "shows not",
            Seen::Skipped(_) => "skipped",
        };
        let other = what.as_ref().map_or(String::new(), |what| format!(" ({what})"));
        show::progress(&format!("{name}: {word}{other}"));
        self.looked.push((place, Looked { place: name.to_owned(), seen: word, what }));
        seen
    }

    fn report(mut self, found: Vec<String>, monotone: bool) -> Report {
        self.looked.sort_by_key(|(place, _)| *place);
        let looked = self.looked.into_iter().map(|(_, looked)| looked).collect();
        Report { signature: self.wanted, looked, found, monotone }
    }
}

fn over_kernels(
    from: &Wanted,
    wanted: &args::Bisect,
    kernels: &[String],
    programs: &Programs,
    interrupt: &Interrupt,
) -> Result<Report, Failure> {
    let scratch = tempfile::tempdir()
        .map_err(|error| Failure::infrastructure(format!("cannot make a folder for the runs: {error}"), ""))?;
    let out = scratch.path().join("run");
    let mut judge = Judge::new(from.signature.clone());
    let look = |place: usize| -> Result<Seen, Failure> {
        let name = &kernels[place];
        let common = common(from, wanted, programs.clone(), name.clone(), interrupt);
        match times(wanted.tries, judge.wanted.as_deref(), || run_once(&common, &from.scenario, &out)) {
            Ok(signature) => Ok(judge.shown(place, name, signature)),
            Err(Failure::Interrupted) => Err(Failure::Interrupted),
            Err(failure) => Ok(judge.skipped(place, name, failure.to_string())),
        }
    };
    let seen = sweep(kernels.len(), look)?;
    let changes = changes(&seen);
    let say = |change: &Change| {
        let word = if change.comes { "appears" } else { "disappears" };
        format!("it {word} with kernel {} (looked at before it: {})", kernels[change.after], kernels[change.before])
    };
    Ok(judge.report(changes.iter().map(say).collect(), changes.len() <= 1))
}

fn common(from: &Wanted, wanted: &args::Bisect, programs: Programs, kernel: String, interrupt: &Interrupt) -> Common {
    let host = from.host.as_ref();
    Common {
        programs,
        interrupt: interrupt.clone(),
        kernel,
        // A dialect belongs to one kernel; each gets that of the table.
        dialect: None,
        accel: wanted.accel,
        seed: wanted.seed.or(host.and_then(|host| host.seed)),
        time_limit_s: wanted.time_limit,
    }
}

/// The first run that shows what is wanted, else the last one.
fn times(
    tries: u32,
    wanted: Option<&str>,
    mut run: impl FnMut() -> Result<Option<String>, Failure>,
) -> Result<Option<String>, Failure> {
    let mut last = run()?;
    for _ in 1..tries {
        if last.is_some() && (wanted.is_none() || last.as_deref() == wanted) {
            break;
        }
        last = run()?;
    }
    Ok(last)
}

fn run_once(common: &Common, scenario: &Scenario, out: &Path) -> Result<Option<String>, Failure> {
    Alone(common).run(scenario.clone(), out)?;
    Ok(runs::look(out)?.signature.map(|signature| signature.to_string()))
}

/// What a person reads.
pub fn text(report: &Report) -> String {
    let mut text = String::new();
    let failure = report.signature.as_deref().unwrap_or("none: nothing failed anywhere");
    text += &format!("failure    {failure}\n");
    for looked in &report.looked {
        let what = looked.what.as_ref().map_or(String::new(), |what| format!(": {what}"));
        text += &format!("{:<10} {}{what}\n", looked.seen, looked.place);
    }
    if report.found.is_empty() {
        text += "found      no change\n";
    }
    for found in &report.found {
        text += &format!("found      {found}\n");
    }
    if !report.monotone {
        text += "careful    it comes and goes: no single change explains it\n";
    }
    text
}
