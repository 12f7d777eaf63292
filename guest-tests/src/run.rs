//! One run: starts the disk and the guest, lets the guest work, and fills the run's folder. Judges nothing.
//!
//! Everything that can be known to be wrong is looked at before anything is started. Whatever ends the run (an error,
//! Ctrl-C, a time limit) leaves by return, so that the values that own processes and scratch files clean up behind it.

use crate::aftermath;
use crate::args;
use crate::crash_states::{self, within};
use crate::dialect;
use crate::disk::{self, Disk, DiskEnd};
use crate::failure::Failure;
use crate::folder::{self, RunFolder};
use crate::guest::{self, Task, Told};
use crate::host::Host;
use crate::interrupt::Interrupt;
use crate::judge::{self, Judged, Recorded};
use crate::machine::{self, Limit, Machine, Tracing, infrastructure, with_own_arguments};
use crate::page;
use crate::phases::Phases;
use crate::programs::Programs;
use crate::scenario::{self, Scenario};
use crate::show;
use crate::sockets::SocketFolder;
use crate::space;
use ext4_replica::Mutation;
use guest_init::past;
use guest_vm::{Accel, AccelChoice, DiskSpec, Kernel, KernelSpec, initramfs, kernel};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Room for a trace, logs and a report, beside the image.
pub const RECORDS_BYTES: u64 = 256 << 20;

/// A run that is over.
#[derive(Debug)]
pub struct Ran {
    /// Its folder, filled.
    pub folder: RunFolder,
    /// What the host saw.
    pub host: Host,
    /// How long each stage took.
    pub phases: Phases,
}

/// Judges a run that is over, and writes down what came of it.
pub fn conclude(ran: &mut Ran) -> Result<(Recorded, Judged), Failure> {
    ran.host.phases = ran.phases.list.clone();
    ran.host.write(&ran.folder)?;
    let mut recorded = judge::read(&ran.folder)?;
    let judged = judge::judge(&recorded)?;
    judge::write(&ran.folder, &recorded, &judged)?;
    ran.phases.done("judge");
    recorded.host.phases = ran.phases.list.clone();
    Ok((recorded, judged))
}

/// Draws the page of a run that was judged.
pub fn draw(ran: &mut Ran, recorded: &Recorded, judged: &Judged) -> Result<(), Failure> {
    ran.folder.write(folder::REPORT, page::render(recorded, judged))?;
    ran.phases.done("report");
    ran.host.phases = ran.phases.list.clone();
    ran.host.write(&ran.folder)
}

/// Everything that was checked before anything starts.
struct Plan {
    scenario: Scenario,
    kernel: Kernel,
    accel: AccelChoice,
    nonce: u64,
}

/// Runs the scenario that `args` names.
pub fn run(args: &args::Run, programs: &Programs, interrupt: &Interrupt, repeat: &str) -> Result<Ran, Failure> {
    run_scenario(args, scenario::load(&args.scenario)?, programs, interrupt, repeat)
}

/// Runs a scenario that was read before.
pub fn run_scenario(
    args: &args::Run,
    scenario: Scenario,
    programs: &Programs,
    interrupt: &Interrupt,
    repeat: &str,
) -> Result<Ran, Failure> {
    let mut phases = Phases::start();
    let plan = plan(args, scenario)?;
    show::progress(&format!("{}: kernel {}, {}", plan.scenario.name, plan.kernel.release, plan.accel.why));
    phases.done("kernel");
    let folder = match &args.out {
        Some(path) => RunFolder::take(path)?,
        None => RunFolder::fresh(&plan.scenario.name)?,
    };
    space::require(folder.path(), (plan.scenario.filesystem.size_mib << 20) + RECORDS_BYTES)?;
    folder.write(folder::SCENARIO, plan.scenario.to_json())?;
    folder.write(folder::SCRIPT, plan.scenario.script.normalized())?;
    // States say nothing without the image they are of.
    let mut scratch = Scratch::new(&folder, args.keep_image || args.snapshot_dir.is_some());
    interrupt.check()?;
    build_image(&plan.scenario, plan.nonce, &scratch.image)?;
    phases.done("image");
    interrupt.check()?;
    let sockets = SocketFolder::new()?;
    let worked = work(&plan, args, programs, &folder, &scratch, &sockets, interrupt, phases);
    let (told, disk_end, mut phases) =
        worked.map_err(|failure| with_own_arguments(failure, &plan.scenario.guest.qemu))?;
    let case = aftermath::Case {
        scenario: &plan.scenario,
        kernel: &plan.kernel,
        nonce: plan.nonce,
        accel: plan.accel.name(),
        seed: args.seed,
        dialect: args.dialect.as_deref(),
        canary: args.canary.as_deref(),
        repeat,
    };
    let mut host = aftermath::look(&case, programs, &folder, told, disk_end)?;
    phases.done("end state");
    if let Some(dir) = &args.snapshot_dir {
        crash_states::cuts::write_run_of(dir, folder.path(), &scratch.image)?;
    }
    let view = within::with_image(&programs.vhost_blk, &folder);
    host.cuts = within::look(&plan.scenario, plan.nonce, &folder, interrupt, &view)?;
    if let Some(cuts) = &host.cuts {
        phases.done("crash states");
        scratch.keep_image |= !cuts.bad.is_empty();
    }
    Ok(Ran { folder, host, phases })
}

fn plan(args: &args::Run, scenario: Scenario) -> Result<Plan, Failure> {
    if let Some(name) = &args.canary {
        canary(name)?;
    }
    let kernel = obtain_kernel(&args.kernel)?;
    must_be_for(&scenario, &kernel)?;
    must_know_dialect(args.dialect.as_deref(), &kernel)?;
    let accel = choose_accel(args.accel)?;
    let nonce = nonce(&scenario);
    Ok(Plan { scenario, kernel, accel, nonce })
}

/// The kernel that `--kernel` names, fetched if need be.
pub fn obtain_kernel(name: &str) -> Result<Kernel, Failure> {
    let spec: KernelSpec = name.parse().map_err(|error: guest_vm::Error| Failure::BadInput(error.to_string()))?;
    if let KernelSpec::Path(path) = &spec
        && !path.exists()
    {
        return Err(Failure::BadInput(format!("--kernel {}: there is no such file or folder", path.display())));
    }
    kernel::obtain(&spec, &kernel::default_cache()).map_err(infrastructure)
}

/// Refuses a scenario that is not meant for this kernel.
pub fn must_be_for(scenario: &Scenario, kernel: &Kernel) -> Result<(), Failure> {
    if scenario.kernels.include(&kernel.release) {
        return Ok(());
    }
    let text = format!("{} is for kernels {}, not for {}", scenario.name, scenario.kernels, kernel.release);
    Err(Failure::BadInput(text))
}

/// Refuses a dialect that does not exist. A kernel without one in the table is run all the same: lockstep will be unjudged;
/// findings and end state are judged.
pub fn must_know_dialect(name: Option<&str>, kernel: &Kernel) -> Result<(), Failure> {
    if name.is_none() {
        return Ok(());
    }
    let identity = dialect::Identity { release: &kernel.release, build: "" };
    dialect::choose(name, identity).map(drop).map_err(Failure::BadInput)
}

/// How guests are to be run here; a machine without QEMU runs none.
pub fn choose_accel(asked: args::Accel) -> Result<AccelChoice, Failure> {
    let accel = match asked {
        args::Accel::Auto => Accel::Auto,
        args::Accel::Kvm => Accel::Kvm,
        args::Accel::Tcg => Accel::Tcg,
    };
    if crate::programs::on_host("qemu-system-x86_64").is_none() {
        return Err(Failure::infrastructure("qemu-system-x86_64 is not installed", "run scripts/setup"));
    }
    accel.choose().map_err(infrastructure)
}

/// A planted mistake by its name.
pub fn canary(name: &str) -> Result<Mutation, Failure> {
    let known = || Mutation::ALL.iter().map(|mutation| mutation.name()).collect::<Vec<_>>().join(", ");
    Mutation::by_name(name)
        .ok_or_else(|| Failure::BadInput(format!("no mistake is called {name:?}; there are: {}", known())))
}

/// The past of the disk names the scenario, so that the same scenario has the same image.
pub fn nonce(scenario: &Scenario) -> u64 {
    let hash = Sha256::digest(scenario.to_json().as_bytes());
    let bytes = hash.iter().take(6).copied();
    // 48 bits: a number that every JSON reader keeps.
    bytes.fold(0, |number, byte| number << 8 | u64::from(byte))
}

/// Files of a run that are gone when it is over, however it ends.
struct Scratch {
    image: PathBuf,
    initramfs: PathBuf,
    device_trace: PathBuf,
    keep_image: bool,
}

impl Scratch {
    fn new(run: &RunFolder, keep_image: bool) -> Scratch {
        Scratch {
            image: run.file(folder::IMAGE),
            initramfs: run.file(folder::INITRAMFS),
            device_trace: run.file(folder::DEVICE_TRACE),
            keep_image,
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mut files = vec![&self.initramfs, &self.device_trace];
        if !self.keep_image {
            files.push(&self.image);
        }
        for file in files {
            // What cannot be removed lies in the run's own folder, where the next run removes it.
            let _ = std::fs::remove_file(file);
        }
    }
}

/// Makes the disk of a scenario.
pub fn build_image(scenario: &Scenario, nonce: u64, path: &Path) -> Result<(), Failure> {
    let filesystem = &scenario.filesystem;
    let spec = DiskSpec {
        path: path.to_owned(),
        size_mib: filesystem.size_mib,
        block_bytes: filesystem.block_bytes,
        mkfs: filesystem.mkfs.clone(),
    };
    guest_vm::disk::build(&spec, &|block, bytes| past::fill(nonce, block, bytes)).map_err(infrastructure)?;
    Ok(())
}

/// From the start of the disk to its end: the guest's whole life lies between.
#[allow(clippy::too_many_arguments, reason = "the parts of one run, each owned by another place")]
fn work(
    plan: &Plan,
    args: &args::Run,
    programs: &Programs,
    folder: &RunFolder,
    scratch: &Scratch,
    sockets: &SocketFolder,
    interrupt: &Interrupt,
    phases: Phases,
) -> Result<(Told, DiskEnd, Phases), Failure> {
    let script = folder.file(folder::SCRIPT);
    let states = match &args.snapshot_dir {
        Some(dir) => Some(dir.clone()),
        None => within::folder_for(&plan.scenario, folder)?,
    };
    let config = disk::Config {
        image: &scratch.image,
        script: plan.scenario.faults.is_some().then_some(script.as_path()),
        seed: args.seed,
        queues: plan.scenario.guest.queues(),
        reconnects: plan.scenario.script.leaves_front_end(),
        snapshot_dir: states.as_deref(),
        planted_lie: args.planted_lie.as_deref(),
        records: true,
    };
    let (mut disk, front_end) = Disk::start(programs, folder, sockets, &config)?;
    initramfs::write(&scratch.initramfs, &programs.guest_init, &plan.kernel).map_err(infrastructure)?;
    let limit = Limit::from_now(args.time_limit);
    let shape = machine::Shape {
        guest: &plan.scenario.guest,
        kernel: &plan.kernel,
        accel: &plan.accel,
        initramfs: &scratch.initramfs,
        console: &folder.file(folder::CONSOLE),
        qemu_log: &folder.file(folder::QEMU_LOG),
        // Our own limit comes first and can say more; this one holds if we cannot look.
        time_limit: Duration::from_secs(args.time_limit) + machine::POWER_OFF_LIMIT,
    };
    let started = machine::start(&shape, front_end);
    if started.is_err() {
        disk.refused()?;
    }
    let mut vm = started.map_err(infrastructure)?;
    let ctl = machine::port(&mut vm, guest_init::protocol::CTL_PORT)?;
    let trace = machine::port(&mut vm, guest_init::protocol::TRACE_PORT)?;
    let tracing = Tracing::new(&plan.kernel)?;
    let task = Task {
        symbols: tracing.symbols(),
        kept_symbols: plan.kernel.folder.join("symbols.json"),
        job: machine::job(&plan.scenario),
        image_sha256: plan.kernel.image_hash.clone(),
    };
    let mut machine = Machine::new(disk, vm, tracing, interrupt, limit, phases);
    machine.hear_of_power_cuts(&plan.scenario)?;
    let (told, mut machine) = guest::talk(ctl, trace, task, folder, machine)?;
    let told = machine.the_more_telling(told)?;
    let told = machine.end_of_vm(told)?;
    let Machine { disk, mut phases, tracing, .. } = machine;
    let told = Told { not_traced: tracing.not_traced, ..told };
    phases.done("power off");
    let disk_end = disk.end()?;
    phases.done("disk end");
    Ok((told, disk_end, phases))
}
