//! `guest-tests crash-states`: from a folder of states and the run they are of to the report.

use super::cuts::{self, Folder};
use super::order::{Order, Seen};
use super::{Promises, Report, examine, kernel};
use crate::args;
use crate::durability::{Expected, Reach, Rules};
use crate::failure::Failure;
use crate::folder::{self, RunFolder};
use crate::interrupt::Interrupt;
use crate::judge::{self, Recorded};
use crate::ops::OpLine;
use crate::programs;
use crate::scenario::Scenario;
use crate::show;
use guest_vm::KernelSpec;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How much of what a cut leaves can be judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judged {
    /// The file system and its files.
    Whole,
    /// The file system alone, and why.
    Structure(String),
    /// Nothing, and why.
    Nothing(String),
}

/// What is judged of this file system.
pub fn judged(scenario: &Scenario) -> Judged {
    let mkfs = scenario.filesystem.mkfs.join(" ");
    match () {
        () if mkfs.contains("fast_commit") => {
            let why = "the file system has fast commits: e2fsck 1.47 replays not all that a kernel replays, so what it finds says nothing";
            Judged::Nothing(why.into())
        }
        () if mkfs.contains("^has_journal") => {
            let why = "the file system has no journal: it promises no more than that e2fsck can make it whole";
            Judged::Structure(why.into())
        }
        () => Judged::Whole,
    }
}

impl Judged {
    /// Why files are not judged; none: they are.
    pub fn without_files(self) -> Option<String> {
        match self {
            Judged::Whole => None,
            Judged::Structure(why) | Judged::Nothing(why) => Some(why),
        }
    }
}

/// What counts as a promise in this run.
pub fn rules(scenario: &Scenario, order: &Order) -> Rules {
    let mount = scenario.filesystem.mount.join(",");
    Rules {
        sync_promises: !order.refused_something,
        past_may_show: mount.split(',').any(|option| option == "data=writeback"),
    }
}

/// What must be on the disk that a cut with `kill_vm` or `disconnect` left: after it the device answers nothing, so every
/// fsync that returned 0 rests on what was answered before. Which operations had begun is not known, so all may have.
pub fn after_the_end(recorded_ops: &[OpLine], scenario: &Scenario, order: &Order) -> Result<Expected, String> {
    if let Some(why) = judged(scenario).without_files() {
        return Err(why);
    }
    let all = recorded_ops.len() as u32;
    Ok(Expected::at(recorded_ops, Reach { returned: all, begun: all }, rules(scenario, order)))
}

/// How far the workload had come at each cut of a folder; an error names a cut that the device's record does not have.
pub fn reaches(
    folder: &Folder,
    order: &Order,
    ops: &[OpLine],
    seen: Option<&Seen>,
) -> Result<BTreeMap<u64, Reach>, Failure> {
    let of_cut = |cut: &cuts::Cut| {
        let reach = order.reach(cut.cut, ops, seen).filter(|_| order.seq(cut.cut) == Some(cut.seq));
        reach.map(|reach| (cut.cut, reach)).ok_or_else(|| {
            Failure::BadInput(format!(
                "the device's record does not have cut {} where the states in {} do: they are of another run",
                cut.cut,
                folder.path.display()
            ))
        })
    };
    folder.cuts.iter().map(of_cut).collect()
}

/// Does it all.
pub fn crash_states(
    wanted: &args::CrashStates,
    vhost_blk: Option<&Path>,
    guest_init: Option<&Path>,
    interrupt: &Interrupt,
) -> Result<Report, Failure> {
    let vhost_blk = programs::locate("vhost-blk", vhost_blk)?;
    programs::same_version("vhost-blk", &vhost_blk)?;
    let folder = Folder::open(&wanted.dir)?;
    let (image, run) = image_and_run(wanted)?;
    let recorded = run.as_deref().map(|run| RunFolder::open(run).and_then(|run| judge::read(&run))).transpose()?;
    let (promises, why, early_bytes) = match (&recorded, &run) {
        (Some(recorded), Some(run)) => promises(recorded, run, &folder)?,
        _ => (None, "--structure-only".to_owned(), 0),
    };
    let view = |state: &Path, out: &Path| cuts::apply(&vhost_blk, &image, state, out);
    let examined = examine(&folder, wanted.state.as_deref(), &promises, interrupt, &view)?;
    let repeat = |file: &str| repeat(wanted, file);
    let mut report = Report::of(&folder, &examined, promises.is_some(), repeat);
    report.early_bytes = early_bytes;
    report.contents.why = why;
    report.contents.wanted = !wanted.structure_only;
    if let (Some(recorded), Some(_), false) = (&recorded, &promises, wanted.no_kernel) {
        let kernel = obtain(wanted, recorded)?;
        let guest_init = programs::locate("guest-init", guest_init)?;
        programs::same_version("guest-init", &guest_init)?;
        let machine = kernel::Machine {
            kernel: &kernel,
            accel: guest_vm::Accel::Auto.choose().map_err(infrastructure)?,
            guest_init: &guest_init,
            mount: recorded.scenario.filesystem.mount.join(","),
        };
        show::progress(&format!("one state of each cut for kernel {}", kernel.release));
        let scratch = folder.scratch()?;
        let seen = kernel::look(&examined, &folder.path, &machine, scratch.path(), interrupt, &view)?;
        report = report.with_kernel(seen);
    }
    if let (Some(run), None) = (&run, &wanted.state) {
        keep(run, &report)?;
    }
    Ok(report)
}

/// Where both are: as the user says, else as the run has written it down.
fn image_and_run(wanted: &args::CrashStates) -> Result<(PathBuf, Option<PathBuf>), Failure> {
    let known = cuts::run_of(&wanted.dir)?.or_else(|| cuts::run_around(&wanted.dir));
    let of_run = |run: &PathBuf| run.join(folder::IMAGE);
    let run = wanted.run.clone().or_else(|| known.as_ref().map(|known| known.run.clone()));
    let image = wanted.image.clone();
    let image = image.or_else(|| wanted.run.as_ref().map(of_run));
    let image = image.or_else(|| known.as_ref().map(|known| known.image.clone()));
    if let (Some(given), Some(known)) = (&wanted.run, known.as_ref().and_then(|known| known.run.canonicalize().ok()))
        && given.canonicalize().is_ok_and(|given| given != known)
    {
        let (given, known) = (given.display(), known.display());
        return Err(Failure::BadInput(format!("--run {given}: the states are of the run in {known}; leave --run out")));
    }
    let missing = |what: &str| {
        Failure::BadInput(format!(
            "{} does not say which run it is of ({} is not there); {what}",
            wanted.dir.display(),
            cuts::RUN
        ))
    };
    let image = image.ok_or_else(|| missing("name the image with --image"))?;
    if !image.is_file() {
        return Err(Failure::BadInput(format!(
            "{} is not there; the states are of an image that must be kept (name it with --image)",
            image.display()
        )));
    }
    match run {
        _ if wanted.structure_only => Ok((image, None)),
        None => Err(missing("name its folder with --run, or look at the file systems alone with --structure-only")),
        run => Ok((image, run)),
    }
}

/// What must be there after each cut, or why that is not known; and what a full cache wrote early.
fn promises(recorded: &Recorded, run: &Path, folder: &Folder) -> Result<(Promises, String, u64), Failure> {
    let text = std::fs::read_to_string(run.join(folder::DEVICE))
        .map_err(|error| Failure::io("read", &run.join(folder::DEVICE), &error))?;
    let order = Order::read(&text).map_err(Failure::BadInput)?;
    let device = recorded.device.as_ref().map_err(|why| Failure::BadInput(why.clone()))?;
    let losses = device.losses();
    let why = judged(&recorded.scenario).without_files();
    if let Some(why) = why.or_else(|| (!losses.is_empty()).then(|| losses.join("; "))) {
        return Ok((None, why, order.early_bytes));
    }
    let seen = recorded.trace.as_ref().map_err(String::clone).and_then(|trace| Seen::join(trace, device));
    if let Err(why) = &seen {
        show::progress(&format!("what had been fsynced is known from marks alone: {why}"));
    }
    let rules = rules(&recorded.scenario, &order);
    let reaches = reaches(folder, &order, &recorded.ops, seen.as_ref().ok())?;
    let promises = reaches.into_iter().map(|(cut, reach)| (cut, Expected::at(&recorded.ops, reach, rules))).collect();
    Ok((Some(promises), String::new(), order.early_bytes))
}

/// The run's own kernel, unless the user names another.
fn obtain(wanted: &args::CrashStates, recorded: &Recorded) -> Result<guest_vm::Kernel, Failure> {
    let name = wanted.kernel.as_ref().unwrap_or(&recorded.host.kernel.release);
    let spec: KernelSpec = name.parse().map_err(|error: guest_vm::Error| Failure::BadInput(error.to_string()))?;
    guest_vm::kernel::obtain(&spec, &guest_vm::kernel::default_cache()).map_err(|error| {
        Failure::infrastructure(
            error.to_string(),
            "name the run's kernel with --kernel, or do without it (--no-kernel)",
        )
    })
}

/// The command that shows one state again.
fn repeat(wanted: &args::CrashStates, file: &str) -> String {
    let path = |path: &Path| show::quote(&path.display().to_string());
    let mut line = format!("guest-tests crash-states {} --state {}", path(&wanted.dir), show::quote(file));
    for (option, value) in [("--run", &wanted.run), ("--image", &wanted.image)] {
        line += &value.as_ref().map_or(String::new(), |value| format!(" {option} {}", path(value)));
    }
    if wanted.structure_only {
        line += " --structure-only";
    }
    line
}

/// Writes the report into the run's folder, and its verdict again, which has an oracle more now.
fn keep(run: &Path, report: &Report) -> Result<(), Failure> {
    let folder = RunFolder::open(run)?;
    let text = serde_json::to_string_pretty(report).expect("a report holds nothing that JSON cannot say");
    folder.write(folder::CRASH_STATES, text + "\n")?;
    let recorded = judge::read(&folder)?;
    let judged = judge::judge(&recorded)?;
    folder.write(folder::VERDICT, judged.verdict.to_json())
}

fn infrastructure(error: guest_vm::Error) -> Failure {
    Failure::infrastructure(error.to_string(), "`guest-tests doctor` lists what a guest needs")
}
