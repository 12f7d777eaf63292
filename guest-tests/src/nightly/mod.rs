//! `guest-tests nightly`: thousands of scenarios over kernels and seeds, judged, counted once, told in one page.
//!
//! `plan` says what is run, `queue` in which order, `engine` runs it with workers that each have a [`runner::Runner`], `folder` keeps
//! what came out so that a killed night goes on where it was, `sum` says what it comes to. `environment` finds out which
//! part of a night this process is.

mod again;
pub mod args;
mod before;
mod canary;
mod engine;
mod environment;
mod folder;
mod guests;
mod line;
mod merge;
mod plan;
mod pretend;
mod progress;
mod queue;
pub mod report;
mod runner;
pub mod seeds;
pub mod sum;
mod told;

pub use merge::{Merged, merge_nights};

use crate::failure::{Failure, exit};
use crate::interrupt::Interrupt;
use crate::programs;
use again::Done;
use args::Nightly;
use engine::{Ended, Engine};
pub use folder::NIGHT as NIGHT_FILE;
use folder::{NIGHT, NightFolder, STATE};
use guest_vm::{KernelSpec, kernel};
use guests::{Common, Guests};
use night_results::{NightJson, Shard};
use plan::NightKernels;
use progress::Counts;
use queue::Kernels;
use runner::Runner;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A night that is over, or was ended.
pub struct Night {
    /// What it comes to.
    pub sum: sum::Sum,
    /// Why it ended.
    pub ended: &'static str,
    /// Its folder.
    pub folder: PathBuf,
    /// The exit code.
    pub exit_code: u8,
}

/// Runs a night, or goes on with one.
pub fn nightly(
    args: &Nightly,
    vhost_blk: Option<&Path>,
    guest_init: Option<&Path>,
    interrupt: &Interrupt,
) -> Result<Night, Failure> {
    if !args.ends() {
        return Err(Failure::BadInput(
            "say when the night ends: --hours, --minutes, --until or --seeds FROM..UNTIL".into(),
        ));
    }
    let shard = environment::shard(args.shard, args.shards, &std::env::vars_os().filter_map(text).collect());
    let shard = shard.map_err(Failure::BadInput)?;
    let known = told::known(args.known.as_deref(), &args.out)?;
    let before = before::look(&args.out, args.last.as_deref(), &args.old)?;
    let wanted = plan::kernels(args)?;
    let ready = ready(args, wanted, vhost_blk, guest_init)?;

    let (mut folder, ledger) = NightFolder::take(&part(&args.out, shard))?;
    let asked = asked(args, shard, &ready.kernels, &before, &folder, !ledger.lines.is_empty())?;
    let mut state = folder.state()?;
    state.starts += 1;
    state.ended = None;
    folder.write(STATE, &state.to_text())?;

    let over: BTreeSet<_> = ledger.lines.keys().cloned().collect();
    let queue = plan::queue(&asked, args, &ready.kernels, over)?;
    let mut counts = Counts { of: queue.left().map(|left| left + ledger.lines.len() as u64), ..Counts::default() };
    ledger.lines.values().for_each(|line| counts.add_before(line.outcome));
    let last = before.last.clone();
    let mut tell = |night: &NightFolder, state: &_| report::tell(night, &asked, state, &known, last.as_deref());
    let night = folder.path().to_owned();
    let budget = args.budget().map(|budget| budget.saturating_sub(Duration::from_millis(state.worked_ms)));
    let deadline = budget.map(|budget| Instant::now() + budget);
    let done = Arc::new(Done::of(ledger.lines.values(), &known, asked.day()));
    let engine = Engine {
        queue: queue.into(),
        jobs: args.jobs(),
        budget,
        interrupt,
        runner: &|| ready.runner(args, interrupt, &night, &done, deadline),
        report_every: Duration::from_secs_f64(args.report_every * 60.0),
        report: &mut tell,
    };
    let ended = engine.run(&mut folder, counts, &mut state)?;

    folder::remove(&folder.path().join(folder::WORKING))?;
    state.ended = Some(ended.word().to_owned());
    folder.write(STATE, &state.to_text())?;
    report::tell(&folder, &asked, &state, &known, before.last.as_deref())?;
    let ledger = folder::read_results(folder.path())?;
    let sum = sum::sum(ledger.lines.values(), &known, asked.day());
    let exit_code = match &ended {
        Ended::Interrupted => exit::INTERRUPTED,
        Ended::Broken(failure) => {
            crate::show::say(&format!("guest-tests: {failure}"));
            failure.exit_code()
        }
        Ended::Seeds | Ended::Budget => sum.exit_code(asked.canary_only),
    };
    Ok(Night { exit_code, sum, ended: ended.word(), folder: folder.path().to_owned() })
}

/// Variables that are no text are not ours to read.
fn text((name, value): (std::ffi::OsString, std::ffi::OsString)) -> Option<(String, String)> {
    Some((name.into_string().ok()?, value.into_string().ok()?))
}

/// A part of a night has a folder of its own, so that all parts are given the same --out.
fn part(out: &Path, shard: Shard) -> PathBuf {
    match shard {
        Shard::WHOLE => out.to_owned(),
        Shard { index, count } => out.join(format!("shard-{index}-of-{count}")),
    }
}

/// What the night is asked; a night that goes on must be asked the same.
fn asked(
    args: &Nightly,
    shard: Shard,
    kernels: &NightKernels,
    before: &before::Before,
    folder: &NightFolder,
    has_results: bool,
) -> Result<NightJson, Failure> {
    let going_on = folder.asked()?;
    let asked = plan::asked(args, shard, &kernels.of_boots, before, going_on.as_ref(), told::now())?;
    let place = folder.path().display();
    match going_on {
        None if has_results => Err(Failure::BadInput(format!(
            "{place} has results and no {NIGHT}, which says of what; name a new folder with --out"
        ))),
        None => folder.write(NIGHT, &asked.to_text()).map(|()| asked),
        Some(there) => match &there.differs_from(&asked)[..] {
            [] => Ok(there),
            differences => Err(Failure::BadInput(format!(
                "{place} holds a night that was asked something else ({}); ask the same to go on with it, or name a new folder with --out",
                differences.join("; ")
            ))),
        },
    }
}

/// Everything that is looked at before the first scenario.
struct Ready {
    kernels: NightKernels,
    programs: Option<programs::Programs>,
}

impl Ready {
    fn runner(
        &self,
        args: &Nightly,
        interrupt: &Interrupt,
        night: &Path,
        done: &Arc<Done>,
        deadline: Option<Instant>,
    ) -> Box<dyn Runner> {
        match (&self.programs, args.pretend) {
            (Some(programs), None) => Box::new(Guests::new(Common {
                programs: programs.clone(),
                interrupt: interrupt.clone(),
                accel: args.accel,
                dialect: args.dialect.clone(),
                time_limit_s: args.time_limit,
                night: night.to_owned(),
                done: done.clone(),
                shrink: Duration::from_secs_f64(args.shrink_minutes * 60.0),
                deadline,
            })),
            (_, time) => Box::new(pretend::Pretend {
                time: Duration::from_millis(time.unwrap_or_default()),
                interrupt: interrupt.clone(),
                after: Vec::new(),
                boots: 0,
            }),
        }
    }
}

fn ready(
    args: &Nightly,
    wanted: Kernels,
    vhost_blk: Option<&Path>,
    guest_init: Option<&Path>,
) -> Result<Ready, Failure> {
    if args.pretend.is_some() {
        let kernels = NightKernels { of_boots: wanted, releases: [].into() };
        return Ok(Ready { kernels, programs: None });
    }
    if programs::on_host("qemu-system-x86_64").is_none() {
        return Err(Failure::infrastructure("qemu-system-x86_64 is not installed", "run scripts/setup"));
    }
    let programs = programs::find(vhost_blk, guest_init)?;
    // Of each kernel, so that the last of them does not stop a night in its fifth hour.
    let mut releases = std::collections::BTreeMap::new();
    for name in wanted.all() {
        let spec: KernelSpec = name.parse().map_err(|error: guest_vm::Error| Failure::BadInput(error.to_string()))?;
        if let KernelSpec::Path(path) = &spec
            && !path.exists()
        {
            return Err(Failure::BadInput(format!("--kernel {}: there is no such file or folder", path.display())));
        }
        let kernel = kernel::obtain(&spec, &kernel::default_cache()).map_err(|error| {
            Failure::infrastructure(
                error.to_string(),
                "`guest-tests doctor` lists what a run needs; --kernels chooses others",
            )
        })?;
        releases.insert(name, kernel.release);
    }
    Ok(Ready { kernels: NightKernels { of_boots: wanted, releases }, programs: Some(programs) })
}
