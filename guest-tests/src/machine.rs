//! A guest and its disk while they run: what the talk with the guest needs of them, and how they end.
//!
//! One run has a machine of its own; a boot has one for many scenarios, and sets limits and power cuts anew for each.

use crate::disk::{Disk, PowerCuts};
use crate::failure::{At, Failure};
use crate::guest::{Point, Surroundings, Told};
use crate::host::GuestEnd;
use crate::interrupt::Interrupt;
use crate::patient::Stop;
use crate::phases::Phases;
use crate::scenario::{Guest, Scenario};
use crate::show;
use fault_injection::Then;
use guest_init::job::{Job, Mount, Setting};
use guest_vm::{AccelChoice, End, Kernel, Life, Vm, VmSpec};
use kernel_trace::{KernelFacts, ProbePlan, SymbolAddress};
use std::path::Path;
use std::time::{Duration, Instant};

/// What a guest may take to end once everything has arrived.
pub const POWER_OFF_LIMIT: Duration = Duration::from_secs(20);

/// How long QEMU may outlive its disk; both end at power off, in no certain order.
const ALONE_LIMIT: Duration = Duration::from_secs(2);

/// What a virtual machine is made from.
pub struct Shape<'a> {
    /// CPUs, memory, QEMU's further arguments.
    pub guest: &'a Guest,
    /// What is booted.
    pub kernel: &'a Kernel,
    /// How its instructions are carried out.
    pub accel: &'a AccelChoice,
    /// Its first files.
    pub initramfs: &'a Path,
    /// Where its console goes.
    pub console: &'a Path,
    /// Where QEMU's own words go.
    pub qemu_log: &'a Path,
    /// QEMU is killed after this time, whoever watches it.
    pub time_limit: Duration,
}

/// Starts QEMU with its front-end of the disk.
pub fn start(shape: &Shape<'_>, front_end: guest_vm::Disk) -> Result<Vm, guest_vm::Error> {
    Vm::start(VmSpec {
        vmlinux: shape.kernel.vmlinux.clone(),
        initramfs: shape.initramfs.to_owned(),
        cmdline: String::new(),
        accel: shape.accel.clone(),
        vcpus: shape.guest.vcpus,
        memory_mib: shape.guest.memory_mib,
        disk: front_end,
        ports: vec![guest_init::protocol::CTL_PORT.into(), guest_init::protocol::TRACE_PORT.into()],
        console_log: shape.console.to_owned(),
        qemu_log: shape.qemu_log.to_owned(),
        extra: shape.guest.qemu.clone(),
        time_limit: shape.time_limit,
    })
}

/// One of the guest's ports, once.
pub fn port(vm: &mut Vm, name: &str) -> Result<std::os::unix::net::UnixStream, Failure> {
    vm.port(name).ok_or_else(|| Failure::infrastructure(format!("QEMU has no port {name}"), ""))
}

/// What the guest is to set on its disk.
pub fn disk_settings(guest: &Guest) -> Vec<Setting> {
    let queue = |file: &str, value: String, optional: bool| Setting {
        path: format!("/sys/block/vda/queue/{file}"),
        value,
        optional,
    };
    vec![
        queue("scheduler", guest.scheduler.clone(), false),
        queue("nomerges", guest.nomerges.to_string(), false),
        // A kernel without write-back throttling needs no setting of it.
        queue("wbt_lat_usec", guest.wbt_lat_usec.to_string(), true),
    ]
}

/// What the guest is to do, its trace aside.
pub fn job(scenario: &Scenario) -> Job {
    Job {
        on_disk: disk_settings(&scenario.guest),
        mount: Some(Mount { fstype: "ext4".into(), options: scenario.filesystem.mount.join(",") }),
        ..Job::ext4(scenario.workload.clone())
    }
}

/// A failure of the machine's making.
pub fn infrastructure(error: guest_vm::Error) -> Failure {
    Failure::infrastructure(error.to_string(), "`guest-tests doctor` lists what a run needs")
}

/// A guest that did not work may not have worked because of what the scenario gave QEMU.
pub fn with_own_arguments(failure: Failure, qemu: &[String]) -> Failure {
    match failure {
        Failure::Infrastructure { what, remedy } if !qemu.is_empty() => {
            let hint = format!("the scenario gives QEMU arguments of its own, /guest/qemu: {}", qemu.join(" "));
            let remedy = if remedy.is_empty() { hint } else { format!("{remedy}; {hint}") };
            Failure::Infrastructure { what, remedy }
        }
        other => other,
    }
}

/// What is known of the kernel before it runs, and the plan made from it.
pub struct Tracing {
    facts: Option<KernelFacts>,
    elf: Vec<u8>,
    /// Why it cannot be traced.
    pub not_traced: Option<String>,
}

impl Tracing {
    /// A kernel without type information is run all the same: findings and end state need no trace.
    pub fn new(kernel: &Kernel) -> Result<Tracing, Failure> {
        let elf = std::fs::read(&kernel.vmlinux).at("read", &kernel.vmlinux)?;
        match KernelFacts::from_vmlinux(&elf) {
            Ok(facts) => Ok(Tracing { facts: Some(facts), elf, not_traced: None }),
            Err(error) => {
                show::progress(&format!("no lockstep: {error}"));
                Ok(Tracing { facts: None, elf, not_traced: Some(error.to_string()) })
            }
        }
    }

    /// Symbols whose addresses the plan needs.
    pub fn symbols(&self) -> Vec<String> {
        let facts = self.facts.iter();
        facts.flat_map(|facts| facts.needed_symbols()).map(str::to_owned).collect()
    }

    fn plan(&mut self, symbols: &[SymbolAddress]) -> Option<ProbePlan> {
        let facts = self.facts.as_ref()?;
        match kernel_trace::plan(facts, &self.elf, symbols) {
            Ok(plan) => Some(plan),
            Err(error) => {
                show::progress(&format!("no lockstep: {error}"));
                self.not_traced = Some(error.to_string());
                None
            }
        }
    }
}

/// A time until which the guest has to be done.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    seconds: u64,
    until: Instant,
}

impl Limit {
    /// So many seconds from now.
    pub fn from_now(seconds: u64) -> Limit {
        Limit { seconds, until: Instant::now() + Duration::from_secs(seconds) }
    }
}

/// See the module.
pub struct Machine {
    /// The disk.
    pub disk: Disk,
    /// Where the script may end the run by cutting the power.
    pub power_cuts: Option<PowerCuts>,
    /// QEMU.
    pub vm: Vm,
    /// The kernel's traceability.
    pub tracing: Tracing,
    /// Ctrl-C.
    pub interrupt: Interrupt,
    /// When patience ends.
    pub limit: Limit,
    /// Each operation is told as it begins.
    pub tells_ops: bool,
    /// How long what took.
    pub phases: Phases,
    /// Since when the disk has been gone although QEMU runs.
    alone_since: Option<Instant>,
}

impl Machine {
    /// A machine that has just been started.
    pub fn new(disk: Disk, vm: Vm, tracing: Tracing, interrupt: &Interrupt, limit: Limit, phases: Phases) -> Machine {
        let interrupt = interrupt.clone();
        Machine { disk, power_cuts: None, vm, tracing, interrupt, limit, tells_ops: true, phases, alone_since: None }
    }

    /// Hears of the cuts of a script that may end the run; of no others.
    pub fn hear_of_power_cuts(&mut self, scenario: &Scenario) -> Result<(), Failure> {
        let ends = scenario.script.power_cuts().contains(&Then::KillVm);
        self.power_cuts = ends.then(|| self.disk.power_cuts(&self.interrupt)).transpose()?;
        Ok(())
    }

    /// A disk ends when QEMU does. Where it ends before, the guest would wait for ever.
    fn check_disk(&mut self) -> Result<(), Failure> {
        if self.disk.is_running()? {
            return Ok(());
        }
        self.check_qemu()?;
        let since = *self.alone_since.get_or_insert_with(Instant::now);
        if since.elapsed() < ALONE_LIMIT {
            return Ok(());
        }
        Err(Failure::infrastructure("vhost-blk ended while the guest was at work", "the run is not judged"))
    }

    /// Fails if QEMU has ended otherwise than by its guest.
    fn check_qemu(&mut self) -> Result<(), Failure> {
        match self.vm.life().map_err(infrastructure)? {
            Life::Ended(end @ End::Failed { .. }) => {
                Err(Failure::infrastructure(end.to_string(), "the run is not judged"))
            }
            _ => Ok(()),
        }
    }

    /// A process that ends takes its streams along, and the break is seen before its reason. So when a talk broke off, what
    /// may have broken it is looked at again.
    pub fn the_more_telling(&mut self, told: Result<Told, Failure>) -> Result<Told, Failure> {
        self.interrupt.check()?;
        match &told {
            Ok(Told { end: GuestEnd::Done | GuestEnd::TimeLimit { .. } | GuestEnd::PowerCut { .. }, .. }) => told,
            _ => {
                std::thread::sleep(Duration::from_millis(100));
                self.interrupt.check()?;
                // A disk that would not serve takes QEMU along; its own sentence is the cause.
                self.disk.refused()?;
                self.check_qemu()?;
                self.disk.is_running()?;
                told
            }
        }
    }

    /// Waits for QEMU's end where the guest has powered off, and ends it where the guest is stuck.
    pub fn end_of_vm(&mut self, mut told: Told) -> Result<Told, Failure> {
        let deadline = Instant::now() + POWER_OFF_LIMIT;
        let vm = &mut self.vm;
        let patience = |told: &Told| matches!(told.end, GuestEnd::Done | GuestEnd::Died { .. });
        while patience(&told)
            && Instant::now() < deadline
            && !matches!(vm.life().map_err(infrastructure)?, Life::Ended(_))
        {
            self.interrupt.check()?;
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
}

impl Surroundings for Machine {
    fn watch(&mut self) -> Result<(), Stop> {
        self.interrupt.check()?;
        if let Some(what) = self.power_cuts.as_mut().and_then(PowerCuts::last) {
            return Err(Stop::PowerCut { what });
        }
        self.check_disk()?;
        if Instant::now() >= self.limit.until {
            return Err(Stop::TimeLimit { seconds: self.limit.seconds });
        }
        Ok(())
    }

    fn mark(&mut self, name: &str) -> Result<(), Failure> {
        self.disk.mark(name, &self.interrupt)
    }

    fn plan(&mut self, symbols: &[SymbolAddress]) -> Result<Option<ProbePlan>, Failure> {
        Ok(self.tracing.plan(symbols))
    }

    fn reached(&mut self, point: Point<'_>) {
        match point {
            Point::Up => {
                self.vm.guest_spoke();
                self.phases.done("boot");
            }
            Point::Mounted => self.phases.done("probes and mount"),
            Point::Op(op) if self.tells_ops => show::progress(&format!("  {op}")),
            Point::Op(_) => {}
            Point::Done => self.phases.done("workload"),
        }
    }
}
