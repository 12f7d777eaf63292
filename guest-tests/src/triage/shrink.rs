//! `guest-tests shrink`: the smallest scenario that fails as a run did.
//!
//! The failure is named from the folder's recording, shown again in a fresh boot, made smaller for as long as it has that
//! name, and shown once more by itself at the end. Ctrl-C keeps the smallest that was found.

use super::repro::{self, Repro};
use super::runs::{self, Alone, Common, Runs, Seen};
use super::signature::Signature;
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
    /// What was left out, in order.
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
    let (from, common) = prepare(wanted, programs::find(vhost_blk, guest_init)?, interrupt)?;
    let out = wanted.out.clone().unwrap_or_else(|| wanted.run.join("shrunk"));
    take(&out)?;
    shrink(&from, &common, &out, wanted.budget_runs)
}

/// A failure to be made smaller.
pub struct From {
    scenario: Value,
    signature: Signature,
}

fn prepare(wanted: &args::Shrink, programs: Programs, interrupt: &Interrupt) -> Result<(From, Common), Failure> {
    let run = RunFolder::open(&wanted.run)?;
    let host = Host::read(&run)?;
    let seen = runs::look(&wanted.run)?;
    let signature = seen.signature.ok_or_else(|| {
        Failure::BadInput(format!(
            "the run in {} has nothing to report, so there is nothing to shrink",
            wanted.run.display()
        ))
    })?;
    let scenario = scenario::load(&run.file(folder::SCENARIO))?.to_json();
    let scenario = serde_json::from_str(&scenario).expect("a scenario writes JSON");
    let common = Common {
        programs,
        interrupt: interrupt.clone(),
        kernel: wanted.kernel.clone().unwrap_or(host.kernel.release),
        dialect: host.dialect,
        accel: wanted.accel,
        seed: wanted.seed.or(host.seed),
        time_limit_s: wanted.time_limit,
    };
    Ok((From { scenario, signature }, common))
}

/// The folder for the result: new, empty, or an earlier result.
fn take(out: &Path) -> Result<(), Failure> {
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

/// Makes a failure smaller and leaves the result in `out`.
pub fn shrink(from: &From, common: &Common, out: &Path, budget_runs: usize) -> Result<Report, Failure> {
    let candidate = out.join("candidate");
    let mut runs = Alone(common);
    let (first, tries) = show_again(from, &mut runs, &candidate)?;
    show::progress(&format!("shrinking {}: {}", from.signature.id(), from.signature));
    let mut oracle = Guests {
        runs: &mut runs,
        wanted: &from.signature,
        folder: &candidate,
        tries,
        machine_failures: 0,
        runs_done: 0,
    };
    let reduced = reduce(from.scenario.clone(), first.hits, &mut oracle, budget_runs);
    finish(from, common, out, reduced, &first.kernel)
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

/// Writes the result, and shows it once more where nobody has ended the search.
fn finish(
    from: &From,
    common: &Common,
    out: &Path,
    reduced: Reduced<Failure>,
    kernel: &str,
) -> Result<Report, Failure> {
    let ended = match &reduced.ended {
        Ended::Smallest => "smallest",
        Ended::Budget => "budget",
        Ended::Stopped(_) => "interrupted",
    };
    let mut report = Report {
        id: from.signature.id(),
        signature: from.signature.to_string(),
        rules: [rules(&from.scenario), rules(&reduced.scenario)],
        ops: [ops(&from.scenario), ops(&reduced.scenario)],
        runs: reduced.runs,
        ended,
        confirmed: None,
        steps: reduced.steps.iter().map(|step| format!("run {}: {}", step.run, step.what)).collect(),
        kernel: kernel.to_owned(),
        folder: out.to_owned(),
        repro: show::quote(&out.join("repro.sh").display().to_string()),
    };
    write(&reduced.scenario, from, common, out)?;
    write_report(&report, out)?;
    if let Ended::Stopped(failure) = reduced.ended
        && !matches!(failure, Failure::Interrupted)
    {
        return Err(failure);
    }
    if ended != "interrupted" {
        report.confirmed = Some(confirm(from, common, out, &reduced.scenario)?);
        write_report(&report, out)?;
    }
    remove(&out.join("candidate"))?;
    Ok(report)
}

fn confirm(from: &From, common: &Common, out: &Path, scenario: &Value) -> Result<bool, Failure> {
    let run = out.join("run");
    for _ in 0..FIRST_TRIES {
        Alone(common).run(runs::parse(scenario)?, &run)?;
        if runs::judge_and_write(&run)?.signature.as_ref() == Some(&from.signature) {
            return Ok(true);
        }
    }
    Ok(false)
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

fn write_report(report: &Report, out: &Path) -> Result<(), Failure> {
    let path = out.join("shrunk.json");
    fs::write(&path, pretty(report)).at("write", path)
}

fn pretty(value: &(impl Serialize + ?Sized)) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("it holds nothing that JSON cannot say");
    text.push('\n');
    text
}

fn remove(folder: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Failure::io("remove", folder, &error)),
        _ => Ok(()),
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
