//! `guest-tests shrink`: the smallest scenario that fails as a run did.
//!
//! The failure is named from the folder's recording, shown again in a fresh boot, made smaller for as long as it has that
//! name, and shown once more by itself at the end. Ctrl-C keeps the smallest that was found.

use super::repro::{self, Repro};
use super::runs::{self, Alone, Common, Runs, Seen};
use super::signature::Signature;
use super::together::Together;
use crate::args;
use crate::failure::{At, Failure, exit};
use crate::folder::{self, RunFolder};
use crate::host::Host;
use crate::interrupt::Interrupt;
use crate::programs::{self, Programs};
use crate::scenario;
use crate::show;
use scenario_reducer::{Ended, Hits, Oracle, Reduced, ops, reduce, rules};
use serde::Serialize;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Tries before a failure counts as one that does not show again.
const FIRST_TRIES: u32 = 5;

/// Failures of the machine in a row before the search gives up.
const MACHINE_FAILURES: u32 = 3;

/// What came of it: shrunk.json.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Short name of the failure.
    pub id: String,
    /// Its signature.
    pub signature: String,
    /// Rules and events, before and after.
    pub rules: [usize; 2],
    /// Operations, before and after.
    pub ops: [usize; 2],
    /// Runs of the search.
    pub runs: usize,
    /// `smallest`, `budget` or `interrupted`.
    pub ended: &'static str,
    /// The smallest scenario showed the failure once more, alone in a fresh boot. None: nobody looked.
    pub confirmed: Option<bool>,
    /// What was left out, in order; runs are counted anew where the search went on alone.
    pub steps: Vec<String>,
    /// Release of the kernel.
    pub kernel: String,
    /// The folder with scenario.json, script.json and repro.sh.
    pub folder: PathBuf,
    /// The command that shows it again.
    pub repro: String,
}

impl Report {
    /// `from 12 rules 9 ops to 2 rules 4 ops in 37 runs`
    pub fn path(&self) -> String {
        let [rules, fewer_rules] = self.rules;
        let [ops, fewer_ops] = self.ops;
        format!("from {rules} rules {ops} ops to {fewer_rules} rules {fewer_ops} ops in {} runs", self.runs)
    }

    /// What the program exits with.
    pub fn exit_code(&self) -> u8 {
        match (self.ended, self.confirmed) {
            ("interrupted", _) => exit::INTERRUPTED,
            (_, Some(false)) => exit::NOT_JUDGED,
            _ => exit::AS_EXPECTED,
        }
    }
}

/// The command.
pub fn command(
    wanted: &args::Shrink,
    vhost_blk: Option<&Path>,
    guest_init: Option<&Path>,
    interrupt: &Interrupt,
) -> Result<Report, Failure> {
    let from = From::folder(&wanted.run)?;
    let common = common(wanted, &from, programs::find(vhost_blk, guest_init)?, interrupt);
    let out = wanted.out.clone().unwrap_or_else(|| wanted.run.join("shrunk"));
    take(&out)?;
    shrink(&from, &common, &out, wanted.budget_runs)
}

/// A failure to be made smaller.
pub struct From {
    scenario: Value,
    signature: Signature,
    host: Host,
}

impl From {
    /// The failure of a run, named by its recording.
    pub fn folder(path: &Path) -> Result<From, Failure> {
        let run = RunFolder::open(path)?;
        let host = Host::read(&run)?;
        let signature = runs::look(path)?.signature.ok_or_else(|| {
            Failure::BadInput(format!(
                "the run in {} has nothing to report, so there is nothing to shrink",
                path.display()
            ))
        })?;
        let scenario = scenario::load(&run.file(folder::SCENARIO))?.to_json();
        let scenario = serde_json::from_str(&scenario).expect("a scenario writes JSON");
        Ok(From { scenario, signature, host })
    }
}

fn common(wanted: &args::Shrink, from: &From, programs: Programs, interrupt: &Interrupt) -> Common {
    let host = &from.host;
    Common {
        programs,
        interrupt: interrupt.clone(),
        kernel: wanted.kernel.clone().unwrap_or_else(|| host.kernel.release.clone()),
        dialect: host.dialect.clone(),
        accel: wanted.accel,
        seed: wanted.seed.or(host.seed),
        time_limit_s: wanted.time_limit,
    }
}

/// The folder for the result: new, empty, or an earlier result.
pub fn take(out: &Path) -> Result<(), Failure> {
    fs::create_dir_all(out).at("make", out)?;
    for entry in fs::read_dir(out).at("read", out)? {
        let name = entry.at("read", out)?.file_name();
        if !OURS.iter().any(|ours| name == **ours) {
            let text = format!("{} holds {}, which is not of a shrink", out.display(), name.to_string_lossy());
            return Err(Failure::BadInput(format!("{text}; name an empty folder with --out")));
        }
    }
    Ok(())
}

/// Every file of a result.
const OURS: &[&str] = &[folder::SCENARIO, "script.json", "repro.sh", "shrunk.json", "run", "candidate"];

/// Makes a failure smaller and leaves the result in `out`. Candidates share boots; the failure is shown alone in a fresh boot
/// before and behind.
pub fn shrink(from: &From, common: &Common, out: &Path, budget_runs: usize) -> Result<Report, Failure> {
    let Scratch(candidate) = &Scratch(out.join("candidate"));
    let (first, tries) = show_again(from, &mut Alone(common), candidate)?;
    show::progress(&format!("shrinking {}: {}", from.signature.id(), from.signature));
    let mut together = Together::new(common);
    let search = Search { from, common, folder: candidate, tries };
    let start = (from.scenario.clone(), first.hits);
    let mut reduced = search.reduce(&mut together, start, budget_runs);
    drop(together);
    let mut confirmed = confirm(from, common, out, &reduced)?;
    if confirmed == Some(false) {
        show::progress("the smallest shows in company only; going back to one that shows alone");
        reduced = search.reduce_alone(reduced, budget_runs)?;
        confirmed = confirm(from, common, out, &reduced)?;
    }
    finish(from, out, reduced, &first.kernel, confirmed)
}

/// Where candidates run; gone when the search is over, however it ends.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs it as it is until it shows; then how often a candidate is tried: once, unless it took more than one run here.
fn show_again(from: &From, runs: &mut impl Runs, folder: &Path) -> Result<(Seen, u32), Failure> {
    for run in 1..=FIRST_TRIES {
        runs.run(runs::parse(&from.scenario)?, folder)?;
        let seen = runs::look(folder)?;
        if seen.signature.as_ref() == Some(&from.signature) {
            return Ok((seen, if run == 1 { 1 } else { 3 * run }));
        }
    }
    Err(Failure::BadInput(format!(
        "the failure does not show again in {FIRST_TRIES} runs alone in a fresh boot: {}",
        from.signature
    )))
}

/// What the searches of one shrink have in common.
struct Search<'s> {
    from: &'s From,
    common: &'s Common,
    folder: &'s Path,
    tries: u32,
}

impl Search<'_> {
    fn reduce(&self, runs: &mut impl Runs, start: (Value, Hits), budget: usize) -> Reduced<Failure> {
        let mut oracle = Guests {
            runs,
            wanted: &self.from.signature,
            folder: self.folder,
            tries: self.tries,
            machine_failures: 0,
            runs_done: 0,
        };
        reduce(start.0, start.1, &mut oracle, budget)
    }

    fn alone(&self, scenario: &Value) -> Result<Option<Hits>, Failure> {
        for _ in 0..self.tries {
            Alone(self.common).run(runs::parse(scenario)?, self.folder)?;
            let seen = runs::look(self.folder)?;
            if seen.signature.as_ref() == Some(&self.from.signature) {
                return Ok(Some(seen.hits));
            }
        }
        Ok(None)
    }

    /// From the last step that shows alone, with what is left of the budget, every candidate alone.
    fn reduce_alone(&self, company: Reduced<Failure>, budget: usize) -> Result<Reduced<Failure>, Failure> {
        let mut steps = company.steps;
        let mut runs_done = company.runs;
        let start = loop {
            steps.pop();
            let scenario = steps.last().map_or(&self.from.scenario, |step| &step.scenario);
            runs_done += 1;
            match self.alone(scenario)? {
                Some(hits) => break (scenario.clone(), hits),
                None if steps.is_empty() => break (scenario.clone(), Hits::new()),
                None => {}
            }
        };
        let mut reduced = self.reduce(&mut Alone(self.common), start, budget.saturating_sub(runs_done));
        reduced.runs += runs_done;
        reduced.steps.splice(0..0, steps);
        Ok(reduced)
    }
}

/// Asks guests whether a scenario fails in the way that is looked for.
struct Guests<'g, R: Runs> {
    runs: &'g mut R,
    wanted: &'g Signature,
    folder: &'g Path,
    /// A candidate is given up after so many runs without the failure.
    tries: u32,
    /// In a row.
    machine_failures: u32,
    runs_done: usize,
}

impl<R: Runs> Oracle for Guests<'_, R> {
    type Stop = Failure;

    fn is_valid(&mut self, scenario: &Value) -> bool {
        ops(scenario) > 0 && runs::parse(scenario).is_ok()
    }

    fn fails(&mut self, scenario: &Value) -> Result<Option<Hits>, Failure> {
        self.runs_done += 1;
        let size = format!("{} rules, {} ops", rules(scenario), ops(scenario));
        for _ in 0..self.tries {
            if let Some(hits) = self.once(scenario)? {
                show::progress(&format!("run {}: it shows with {size}", self.runs_done));
                return Ok(Some(hits));
            }
        }
        show::progress(&format!("run {}: not with {size}", self.runs_done));
        Ok(None)
    }
}

impl<R: Runs> Guests<'_, R> {
    /// A candidate with which the machine fails (mke2fs refuses its options, the guest does not boot) is not taken; several
    /// in a row are the machine's fault.
    fn once(&mut self, scenario: &Value) -> Result<Option<Hits>, Failure> {
        let ran = self.runs.run(runs::parse(scenario)?, self.folder).and_then(|()| runs::look(self.folder));
        match ran {
            Ok(seen) => {
                self.machine_failures = 0;
                Ok((seen.signature.as_ref() == Some(self.wanted)).then_some(seen.hits))
            }
            Err(failure @ Failure::Interrupted) => Err(failure),
            Err(failure) => {
                self.machine_failures += 1;
                if self.machine_failures >= MACHINE_FAILURES { Err(failure) } else { Ok(None) }
            }
        }
    }
}

/// Keeps the result, and shows it once more, alone in a fresh boot. None: the search was ended, so nobody looked.
fn confirm(from: &From, common: &Common, out: &Path, reduced: &Reduced<Failure>) -> Result<Option<bool>, Failure> {
    write(&reduced.scenario, from, common, out)?;
    if matches!(reduced.ended, Ended::Stopped(_)) {
        return Ok(None);
    }
    let run = out.join("run");
    for _ in 0..FIRST_TRIES {
        Alone(common).run(runs::parse(&reduced.scenario)?, &run)?;
        if runs::judge_and_write(&run)?.signature.as_ref() == Some(&from.signature) {
            return Ok(Some(true));
        }
    }
    Ok(Some(false))
}

/// Says what came of it. What stopped the search, other than Ctrl-C, is told when its result has been kept.
fn finish(
    from: &From,
    out: &Path,
    reduced: Reduced<Failure>,
    kernel: &str,
    confirmed: Option<bool>,
) -> Result<Report, Failure> {
    let ended = match reduced.ended {
        Ended::Smallest => "smallest",
        Ended::Budget => "budget",
        Ended::Stopped(_) => "interrupted",
    };
    let report = Report {
        id: from.signature.id(),
        signature: from.signature.to_string(),
        rules: [rules(&from.scenario), rules(&reduced.scenario)],
        ops: [ops(&from.scenario), ops(&reduced.scenario)],
        runs: reduced.runs,
        ended,
        confirmed,
        steps: reduced.steps.iter().map(|step| format!("run {}: {}", step.run, step.what)).collect(),
        kernel: kernel.to_owned(),
        folder: out.to_owned(),
        repro: show::quote(&out.join("repro.sh").display().to_string()),
    };
    let path = out.join("shrunk.json");
    fs::write(&path, pretty(&report)).at("write", path)?;
    match reduced.ended {
        Ended::Stopped(failure) if !matches!(failure, Failure::Interrupted) => Err(failure),
        _ => Ok(report),
    }
}

fn write(scenario: &Value, from: &From, common: &Common, out: &Path) -> Result<(), Failure> {
    let mut scenario = scenario.clone();
    let name = scenario["name"].as_str().unwrap_or("a scenario").to_owned();
    scenario["why"] = format!("{name} made smaller for as long as it shows: {}", from.signature).into();
    let text = pretty(&scenario);
    let put = |name: &str, text: &str| fs::write(out.join(name), text).at("write", out.join(name));
    put(folder::SCENARIO, &text)?;
    put("script.json", &scenario.get("faults").map_or_else(|| "{\"faultscript\": 1}\n".to_owned(), pretty))?;
    let program = std::env::current_exe().unwrap_or_else(|_| "guest-tests".into());
    let signature = from.signature.to_string();
    let options = common.options();
    let repro = Repro { name: &name, signature: &signature, scenario: &text, options: &options, program: &program };
    put("repro.sh", &repro::text(&repro))?;
    let executable = fs::Permissions::from_mode(0o755);
    fs::set_permissions(out.join("repro.sh"), executable).at("make executable", out.join("repro.sh"))
}

fn pretty(value: &(impl Serialize + ?Sized)) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("it holds nothing that JSON cannot say");
    text.push('\n');
    text
}

impl Report {
    /// The same for a night's result line; `folder` as seen from the night's folder.
    pub fn for_night(&self, folder: &str) -> night_results::Shrunk {
        let pair = |[before, after]: [usize; 2]| [before, after].map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        night_results::Shrunk { rules: pair(self.rules), ops: pair(self.ops), folder: folder.to_owned() }
    }
}

/// What a person reads.
pub fn text(report: &Report) -> String {
    let mut text = format!("{}\n", report.path());
    text += &format!("failure    {} {}\n", report.id, report.signature);
    let ended = match report.ended {
        "smallest" => "nothing more can be left out",
        "budget" => "the runs of --budget-runs are used up; it may be made smaller yet",
        _ => "ended by Ctrl-C; this is the smallest so far",
    };
    text += &format!("ended      {ended}\n");
    let confirmed = match report.confirmed {
        Some(true) => "yes, alone in a fresh boot",
        Some(false) => "NO: it showed in the search and not at the end",
        None => "not tried",
    };
    text += &format!("confirmed  {confirmed}\n");
    text += &format!("folder     {}\nagain      {}\n", report.folder.display(), report.repro);
    text
}
