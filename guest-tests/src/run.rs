//! One run: starts the disk and the guest, lets the guest work, and fills the run's folder. Judges nothing.
//!
//! Everything that can be known to be wrong is looked at before anything is started. Whatever ends the run (an error,
//! Ctrl-C, a time limit) leaves by return, so that the values that own processes and scratch files clean up behind it.

use crate::args;
use crate::crash_states::{self, command::after_the_end, order::Order};
use crate::disk::{self, Disk, DiskEnd, PowerCuts};
use crate::end_state;
use crate::failure::{At, Failure};
use crate::folder::{self, RunFolder};
use crate::guest::{self, Point, Surroundings, Task, Told};
use crate::host::{GuestEnd, Host};
use crate::interrupt::Interrupt;
use crate::ops::OpLine;
use crate::patient::Stop;
use crate::phases::Phases;
use crate::programs::Programs;
use crate::scenario::{self, Scenario};
use crate::show;
use crate::sockets::SocketFolder;
use crate::{dialect, host, space};
use ext4_replica::Mutation;
use fault_injection::Then;
use guest_init::job::{Job, Mount, Setting};
use guest_init::past;
use guest_vm::{Accel, DiskSpec, End, Kernel, KernelSpec, Life, Vm, VmSpec, initramfs, kernel};
use kernel_trace::{KernelFacts, ProbePlan, SymbolAddress};
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// What a guest may take to end once everything has arrived.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(20);

/// How long QEMU may outlive its disk; both end at power off, in no certain order.
const ALONE_LIMIT: Duration = Duration::from_secs(2);

/// Room for a trace, logs and a report, beside the image.
const RECORDS_BYTES: u64 = 256 << 20;

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

/// Everything that was checked before anything starts.
struct Plan {
    scenario: Scenario,
    kernel: Kernel,
    accel: guest_vm::AccelChoice,
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
    build_image(&plan, &scratch.image)?;
    phases.done("image");
    interrupt.check()?;
    let sockets = SocketFolder::new()?;
    let worked = work(&plan, args, programs, &folder, &scratch, &sockets, interrupt, &mut phases);
    let (told, disk_end) = worked.map_err(|failure| with_own_arguments(failure, &plan.scenario.guest.qemu))?;
    let host = look_at_what_is_left(&plan, args, programs, &folder, &mut scratch, told, disk_end, repeat)?;
    if let Some(dir) = &args.snapshot_dir {
        crash_states::cuts::write_run_of(dir, folder.path(), &scratch.image)?;
    }
    phases.done("end state");
    Ok(Ran { folder, host, phases })
}

fn plan(args: &args::Run, scenario: Scenario) -> Result<Plan, Failure> {
    if let Some(name) = &args.canary {
        canary(name)?;
    }
    let spec: KernelSpec =
        args.kernel.parse().map_err(|error: guest_vm::Error| Failure::BadInput(error.to_string()))?;
    if let KernelSpec::Path(path) = &spec
        && !path.exists()
    {
        return Err(Failure::BadInput(format!("--kernel {}: there is no such file or folder", path.display())));
    }
    let kernel = kernel::obtain(&spec, &kernel::default_cache()).map_err(infrastructure)?;
    if !scenario.kernels.include(&kernel.release) {
        let text = format!("{} is for kernels {}, not for {}", scenario.name, scenario.kernels, kernel.release);
        return Err(Failure::BadInput(text));
    }
    // Without one in the table lockstep will be unjudged; findings and end state are judged all the same.
    if args.dialect.is_some() {
        let identity = dialect::Identity { release: &kernel.release, build: "" };
        dialect::choose(args.dialect.as_deref(), identity).map_err(Failure::BadInput)?;
    }
    let accel = match args.accel {
        args::Accel::Auto => Accel::Auto,
        args::Accel::Kvm => Accel::Kvm,
        args::Accel::Tcg => Accel::Tcg,
    };
    if crate::programs::on_host("qemu-system-x86_64").is_none() {
        return Err(Failure::infrastructure("qemu-system-x86_64 is not installed", "run scripts/setup"));
    }
    let nonce = nonce(&scenario);
    Ok(Plan { scenario, kernel, accel: accel.choose().map_err(infrastructure)?, nonce })
}

/// A planted mistake by its name.
pub fn canary(name: &str) -> Result<Mutation, Failure> {
    let known = || Mutation::ALL.iter().map(|mutation| mutation.name()).collect::<Vec<_>>().join(", ");
    Mutation::by_name(name)
        .ok_or_else(|| Failure::BadInput(format!("no mistake is called {name:?}; there are: {}", known())))
}

/// The past of the disk names the scenario, so that the same scenario has the same image.
fn nonce(scenario: &Scenario) -> u64 {
    let hash = Sha256::digest(scenario.to_json().as_bytes());
    let bytes = hash.iter().take(6).copied();
    // 48 bits: a number that every JSON reader keeps.
    bytes.fold(0, |number, byte| number << 8 | u64::from(byte))
}

/// A guest that did not work may not have worked because of what the scenario gave QEMU.
fn with_own_arguments(failure: Failure, qemu: &[String]) -> Failure {
    match failure {
        Failure::Infrastructure { what, remedy } if !qemu.is_empty() => {
            let hint = format!("the scenario gives QEMU arguments of its own, /guest/qemu: {}", qemu.join(" "));
            let remedy = if remedy.is_empty() { hint } else { format!("{remedy}; {hint}") };
            Failure::Infrastructure { what, remedy }
        }
        other => other,
    }
}

fn infrastructure(error: guest_vm::Error) -> Failure {
    Failure::infrastructure(error.to_string(), "`guest-tests doctor` lists what a run needs")
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

fn build_image(plan: &Plan, path: &std::path::Path) -> Result<(), Failure> {
    let filesystem = &plan.scenario.filesystem;
    let spec = DiskSpec {
        path: path.to_owned(),
        size_mib: filesystem.size_mib,
        block_bytes: filesystem.block_bytes,
        mkfs: filesystem.mkfs.clone(),
    };
    let nonce = plan.nonce;
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
    phases: &mut Phases,
) -> Result<(Told, DiskEnd), Failure> {
    let script = folder.file(folder::SCRIPT);
    let config = disk::Config {
        image: &scratch.image,
        script: plan.scenario.faults.is_some().then_some(script.as_path()),
        seed: args.seed,
        queues: plan.scenario.guest.queues(),
        reconnects: plan.scenario.script.leaves_front_end(),
        snapshot_dir: args.snapshot_dir.as_deref(),
        planted_lie: args.planted_lie.as_deref(),
    };
    let (mut disk, front_end) = Disk::start(programs, folder, sockets, &config)?;
    initramfs::write(&scratch.initramfs, &programs.guest_init, &plan.kernel).map_err(infrastructure)?;
    let deadline = Instant::now() + Duration::from_secs(args.time_limit);
    let started = Vm::start(vm_spec(plan, args, folder, scratch, front_end));
    if started.is_err() {
        disk.refused()?;
    }
    let mut vm = started.map_err(infrastructure)?;
    let ctl = port(&mut vm, guest_init::protocol::CTL_PORT)?;
    let trace = port(&mut vm, guest_init::protocol::TRACE_PORT)?;
    let tracing = Tracing::new(plan)?;
    let task = Task {
        symbols: tracing.symbols(),
        kept_symbols: plan.kernel.folder.join("symbols.json"),
        job: job(&plan.scenario),
        image_sha256: plan.kernel.image_hash.clone(),
    };
    let ends = plan.scenario.script.power_cuts().contains(&Then::KillVm);
    let power_cuts = ends.then(|| disk.power_cuts(interrupt)).transpose()?;
    let around = RefCell::new(Around {
        disk,
        power_cuts,
        vm,
        tracing,
        interrupt,
        deadline,
        limit_s: args.time_limit,
        alone_since: None,
        phases,
    });
    let told = guest::talk(ctl, trace, &task, folder, &around);
    let Around { mut disk, mut vm, phases, tracing, .. } = around.into_inner();
    let told = the_more_telling(told, &mut disk, &mut vm, interrupt)?;
    let told = Told { not_traced: tracing.not_traced, ..end_of_vm(told, vm, interrupt)? };
    phases.done("power off");
    let disk_end = disk.end()?;
    phases.done("disk end");
    Ok((told, disk_end))
}

fn vm_spec(plan: &Plan, args: &args::Run, folder: &RunFolder, scratch: &Scratch, disk: guest_vm::Disk) -> VmSpec {
    let guest = &plan.scenario.guest;
    VmSpec {
        vmlinux: plan.kernel.vmlinux.clone(),
        initramfs: scratch.initramfs.clone(),
        cmdline: String::new(),
        accel: plan.accel.clone(),
        vcpus: guest.vcpus,
        memory_mib: guest.memory_mib,
        disk,
        ports: vec![guest_init::protocol::CTL_PORT.into(), guest_init::protocol::TRACE_PORT.into()],
        console_log: folder.file(folder::CONSOLE),
        qemu_log: folder.file(folder::QEMU_LOG),
        extra: guest.qemu.clone(),
        // Our own limit comes first and can say more; this one holds if we cannot look.
        time_limit: Duration::from_secs(args.time_limit) + POWER_OFF_LIMIT,
    }
}

fn port(vm: &mut Vm, name: &str) -> Result<std::os::unix::net::UnixStream, Failure> {
    vm.port(name).ok_or_else(|| Failure::infrastructure(format!("QEMU has no port {name}"), ""))
}

fn job(scenario: &Scenario) -> Job {
    let queue = |file: &str, value: String, optional: bool| Setting {
        path: format!("/sys/block/vda/queue/{file}"),
        value,
        optional,
    };
    let guest = &scenario.guest;
    Job {
        on_disk: vec![
            queue("scheduler", guest.scheduler.clone(), false),
            queue("nomerges", guest.nomerges.to_string(), false),
            // A kernel without write-back throttling needs no setting of it.
            queue("wbt_lat_usec", guest.wbt_lat_usec.to_string(), true),
        ],
        mount: Some(Mount { fstype: "ext4".into(), options: scenario.filesystem.mount.join(",") }),
        ..Job::ext4(scenario.workload.clone())
    }
}

/// What is known of the kernel before it runs, and the plan made from it.
struct Tracing {
    facts: Option<KernelFacts>,
    elf: Vec<u8>,
    /// Why it cannot be traced.
    not_traced: Option<String>,
}

impl Tracing {
    /// A kernel without type information is run all the same: findings and end state need no trace.
    fn new(plan: &Plan) -> Result<Tracing, Failure> {
        let elf = std::fs::read(&plan.kernel.vmlinux).at("read", &plan.kernel.vmlinux)?;
        match KernelFacts::from_vmlinux(&elf) {
            Ok(facts) => Ok(Tracing { facts: Some(facts), elf, not_traced: None }),
            Err(error) => {
                show::progress(&format!("no lockstep: {error}"));
                Ok(Tracing { facts: None, elf, not_traced: Some(error.to_string()) })
            }
        }
    }

    fn symbols(&self) -> Vec<String> {
        let facts = self.facts.iter();
        facts.flat_map(|facts| facts.needed_symbols()).map(str::to_owned).collect()
    }
}

/// What the talk with the guest needs of everything else.
struct Around<'a> {
    disk: Disk,
    /// Where the script may end the run by cutting the power.
    power_cuts: Option<PowerCuts>,
    vm: Vm,
    tracing: Tracing,
    interrupt: &'a Interrupt,
    deadline: Instant,
    limit_s: u64,
    /// Since when the disk has been gone although QEMU runs.
    alone_since: Option<Instant>,
    phases: &'a mut Phases,
}

impl Around<'_> {
    /// A disk ends when QEMU does. Where it ends before, the guest would wait for ever.
    fn check_disk(&mut self) -> Result<(), Failure> {
        if self.disk.is_running()? {
            return Ok(());
        }
        check_qemu(&mut self.vm)?;
        let since = *self.alone_since.get_or_insert_with(Instant::now);
        if since.elapsed() < ALONE_LIMIT {
            return Ok(());
        }
        Err(Failure::infrastructure("vhost-blk ended while the guest was at work", "the run is not judged"))
    }
}

/// Fails if QEMU has ended otherwise than by its guest.
fn check_qemu(vm: &mut Vm) -> Result<(), Failure> {
    match vm.life().map_err(infrastructure)? {
        Life::Ended(end @ End::Failed { .. }) => Err(Failure::infrastructure(end.to_string(), "the run is not judged")),
        _ => Ok(()),
    }
}

impl Surroundings for Around<'_> {
    fn watch(&mut self) -> Result<(), Stop> {
        self.interrupt.check()?;
        if let Some(what) = self.power_cuts.as_mut().and_then(PowerCuts::last) {
            return Err(Stop::PowerCut { what });
        }
        self.check_disk()?;
        if Instant::now() >= self.deadline {
            return Err(Stop::TimeLimit { seconds: self.limit_s });
        }
        Ok(())
    }

    fn mark(&mut self, name: &str) -> Result<(), Failure> {
        self.disk.mark(name, self.interrupt)
    }

    fn plan(&mut self, symbols: &[SymbolAddress]) -> Result<Option<ProbePlan>, Failure> {
        let Some(facts) = &self.tracing.facts else { return Ok(None) };
        match kernel_trace::plan(facts, &self.tracing.elf, symbols) {
            Ok(plan) => Ok(Some(plan)),
            Err(error) => {
                show::progress(&format!("no lockstep: {error}"));
                self.tracing.not_traced = Some(error.to_string());
                Ok(None)
            }
        }
    }

    fn reached(&mut self, point: Point<'_>) {
        match point {
            Point::Up => {
                self.vm.guest_spoke();
                self.phases.done("boot");
            }
            Point::Mounted => self.phases.done("probes and mount"),
            Point::Op(op) => show::progress(&format!("  {op}")),
            Point::Done => self.phases.done("workload"),
        }
    }
}

/// A process that ends takes its streams along, and the break is seen before its reason. So when a talk broke off, what
/// may have broken it is looked at again.
fn the_more_telling(
    told: Result<Told, Failure>,
    disk: &mut Disk,
    vm: &mut Vm,
    interrupt: &Interrupt,
) -> Result<Told, Failure> {
    interrupt.check()?;
    match &told {
        Ok(Told { end: GuestEnd::Done, .. }) => told,
        Ok(Told { end: GuestEnd::TimeLimit { .. } | GuestEnd::PowerCut { .. }, .. }) => told,
        _ => {
            std::thread::sleep(Duration::from_millis(100));
            interrupt.check()?;
            // A disk that would not serve takes QEMU along; its own sentence is the cause.
            disk.refused()?;
            check_qemu(vm)?;
            disk.is_running()?;
            told
        }
    }
}

/// Waits for QEMU's end where the guest has powered off, and ends it where the guest is stuck.
fn end_of_vm(mut told: Told, mut vm: Vm, interrupt: &Interrupt) -> Result<Told, Failure> {
    let deadline = Instant::now() + POWER_OFF_LIMIT;
    let patience = |told: &Told| matches!(told.end, GuestEnd::Done | GuestEnd::Died { .. });
    while patience(&told) && Instant::now() < deadline && !matches!(vm.life().map_err(infrastructure)?, Life::Ended(_))
    {
        interrupt.check()?;
        std::thread::sleep(Duration::from_millis(2));
    }
    if matches!(told.end, GuestEnd::PowerCut { .. }) {
        // As when the plug is pulled: at once, and the guest is asked nothing. A QEMU that does not listen is killed.
        let _ = vm.quit();
    }
    let end = vm.kill().map_err(infrastructure)?;
    match (&told.end, &end) {
        (GuestEnd::Done, End::PoweredOff) | (GuestEnd::TimeLimit { .. } | GuestEnd::PowerCut { .. }, _) => {}
        (GuestEnd::Done, End::Failed { .. }) | (GuestEnd::Died { .. }, End::Failed { .. }) => {
            return Err(Failure::infrastructure(end.to_string(), "the run is not judged"));
        }
        (GuestEnd::Done, _) => told.end = GuestEnd::Died { why: format!("the guest did not power off: {end}") },
        (GuestEnd::Died { why }, _) => told.end = GuestEnd::Died { why: format!("{why}: {end}") },
    }
    Ok(told)
}

#[allow(clippy::too_many_arguments, reason = "the parts of one run, each owned by another place")]
fn look_at_what_is_left(
    plan: &Plan,
    args: &args::Run,
    programs: &Programs,
    folder: &RunFolder,
    scratch: &mut Scratch,
    told: Told,
    disk_end: DiskEnd,
    repeat: &str,
) -> Result<Host, Failure> {
    let device = disk::print_trace(programs, &scratch.device_trace)?;
    folder.write(folder::DEVICE, &device)?;
    let ops = OpLine::pair(&plan.scenario.workload, &told.ops);
    folder.write_lines(folder::OPS, &ops)?;
    let left = match told.end {
        GuestEnd::PowerCut { .. } => Some(left(plan, scratch, folder, &ops, &device)?),
        _ => None,
    };
    let sound = told.unmounted && told.end == GuestEnd::Done;
    let e2fsck = if sound { Some(end_state::e2fsck(&scratch.image)?) } else { None };
    let paths: BTreeSet<String> =
        plan.scenario.expect.iter().flat_map(|entry| entry.image.keys().cloned()).filter(|_| sound).collect();
    let image = end_state::contents(
        &scratch.image,
        &folder.file(folder::INITRAMFS),
        &paths,
        &plan.scenario.workload,
        plan.scenario.filesystem.block_bytes.into(),
    )?;
    Ok(Host {
        guest_tests: crate::programs::VERSION.to_owned(),
        kernel: host::Kernel {
            release: told.hello.release,
            build: told.hello.build,
            image_sha256: plan.kernel.image_hash.clone(),
        },
        dialect: args.dialect.clone(),
        canary: args.canary.clone(),
        seed: args.seed,
        nonce: plan.nonce,
        accel: plan.accel.name().to_owned(),
        not_traced: told.not_traced,
        guest_end: told.end,
        mount_errors: told.mount_errors,
        expect_unmet: disk_end == DiskEnd::ExpectUnmet,
        e2fsck,
        image,
        left,
        phases: Vec::new(),
        repeat: repeat.to_owned(),
    })
}

/// What the cut that ended the run left on the image.
fn left(
    plan: &Plan,
    scratch: &Scratch,
    folder: &RunFolder,
    ops: &[OpLine],
    device: &[u8],
) -> Result<crash_states::Left, Failure> {
    let order = Order::read(&String::from_utf8_lossy(device));
    let expected = order.and_then(|order| after_the_end(ops, &plan.scenario, &order));
    crash_states::look_at_what_is_left(&scratch.image, &folder.file(folder::LEFT), expected)
}
