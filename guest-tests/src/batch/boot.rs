//! A guest that is up, and one scenario after the other in it.

use super::logs::Growing;
use super::{BootSpec, Why};
use crate::aftermath::{self, Case};
use crate::crash_states::within;
use crate::disk::{Config, Disk, DiskEnd, Next};
use crate::failure::{At, Failure};
use crate::folder::{self, RunFolder};
use crate::guest::{Talk, Told};
use crate::host::GuestEnd;
use crate::interrupt::Interrupt;
use crate::machine::{self, Limit, Machine, Tracing, infrastructure, with_own_arguments};
use crate::phases::Phases;
use crate::programs::Programs;
use crate::run::{self, Ran};
use crate::scenario::Scenario;
use crate::sockets::SocketFolder;
use crate::space;
use guest_init::job::Job;
use guest_vm::{AccelChoice, Kernel, initramfs};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Nobody waits for a boot to end by itself; this is for one that nobody looks after any more.
const LIFE_LIMIT: Duration = Duration::from_secs(7 * 24 * 3600);

/// A boot takes 3 s under TCG, and twenty times that on a machine that is full of them: patience costs nothing here.
const BOOT_LIMIT_S: u64 = 300;

/// See the module.
pub struct Boot {
    spec: BootSpec,
    programs: Programs,
    kernel: Kernel,
    accel: AccelChoice,
    /// None: the guest is gone.
    talk: Option<Talk<Machine>>,
    /// The disk that is in between two scenarios.
    idle: Idle,
    console: Growing,
    qemu_log: Growing,
    disk_log: Growing,
    tainted_before: u64,
    scenarios: u32,
    broken: Option<Why>,
    not_traced: Option<String>,
    phases: Phases,
    // Last: they go when nobody uses them any more.
    _folder: RunFolder,
    _sockets: SocketFolder,
}

struct Idle {
    image: PathBuf,
    script: PathBuf,
}

impl Boot {
    /// Boots, sets the probes and lets the driver find a disk. Everything that can be known to be wrong is looked at before.
    pub fn start(spec: &BootSpec, programs: &Programs, interrupt: &Interrupt) -> Result<Boot, Failure> {
        let mut phases = Phases::start();
        if let Some(name) = &spec.canary {
            run::canary(name)?;
        }
        let kernel = run::obtain_kernel(&spec.kernel)?;
        run::must_know_dialect(spec.dialect.as_deref(), &kernel)?;
        let accel = run::choose_accel(spec.accel)?;
        phases.done("kernel");
        let sockets = SocketFolder::new()?;
        let folder = RunFolder::take(spec.folder.as_deref().unwrap_or(&sockets.socket("boot")))?;
        space::require(folder.path(), run::RECORDS_BYTES)?;
        let idle = Idle { image: format!("memory:{}M", spec.size_mib).into(), script: folder.file(folder::SCRIPT) };
        folder.write(folder::SCRIPT, spec.idle_script())?;
        interrupt.check()?;
        let began = begin(spec, programs, &folder, &sockets, &idle, (&kernel, &accel), interrupt, phases);
        let (talk, tainted_before) = began.map_err(|failure| with_own_arguments(failure, &spec.guest.qemu))?;
        let log = |name: &str| Growing::new(folder.file(name));
        let (console, qemu_log, disk_log) = (log(folder::CONSOLE), log(folder::QEMU_LOG), log(folder::DISK_LOG));
        let phases = std::mem::replace(&mut talk.surroundings().phases, Phases::start());
        let not_traced = talk.surroundings().tracing.not_traced.clone();
        Ok(Boot {
            spec: spec.clone(),
            programs: programs.clone(),
            kernel,
            accel,
            talk: Some(talk),
            idle,
            console,
            qemu_log,
            disk_log,
            tainted_before,
            scenarios: 0,
            broken: None,
            not_traced,
            phases,
            _folder: folder,
            _sockets: sockets,
        })
    }

    /// Runs a scenario and fills its folder as `run` does. `seed` is that of the fault script, if it is not the script's own;
    /// `repeat` the command that shows it again. A guest that dies or hangs on the way is a result; [`Boot::usable`] then says
    /// that the boot is over. After an error it is over too.
    pub fn run(&mut self, scenario: &Scenario, seed: Option<u64>, out: &Path, repeat: &str) -> Result<Ran, Failure> {
        self.usable()
            .map_err(|why| Failure::infrastructure(format!("this boot is over: {why}"), "start another one"))?;
        self.spec.fits(scenario)?;
        run::must_be_for(scenario, &self.kernel)?;
        let folder = RunFolder::take(out)?;
        self.scenarios += 1;
        let ran = self.run_in(scenario, seed, folder, repeat);
        if let Err(failure) = &ran
            && !matches!(failure, Failure::BadInput(_))
        {
            self.broken.get_or_insert_with(|| Why::Gone(failure.to_string()));
        }
        ran.map_err(|failure| with_own_arguments(failure, &self.spec.guest.qemu))
    }

    /// Whether another scenario may run in it; if not, why.
    pub fn usable(&self) -> Result<(), Why> {
        match &self.broken {
            Some(why) => Err(why.clone()),
            None if self.scenarios >= self.spec.most => Err(Why::Enough(self.spec.most)),
            None => Ok(()),
        }
    }

    /// The kernel that was booted.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// How long its start took, by stages.
    pub fn phases(&self) -> &Phases {
        &self.phases
    }

    /// Scenarios it has had.
    pub fn scenarios(&self) -> u32 {
        self.scenarios
    }

    /// Its processes, while they live.
    pub fn processes(&self) -> Vec<u32> {
        let of = |talk: &Talk<Machine>| {
            let machine = talk.surroundings();
            vec![machine.vm.id(), machine.disk.id()]
        };
        self.talk.as_ref().map_or_else(Vec::new, of)
    }

    fn run_in(
        &mut self,
        scenario: &Scenario,
        seed: Option<u64>,
        folder: RunFolder,
        repeat: &str,
    ) -> Result<Ran, Failure> {
        let phases = Phases::start();
        let mut scratch = Scratch(vec![folder.file(folder::DEVICE_TRACE), folder.file(folder::IMAGE)]);
        space::require(folder.path(), (scenario.filesystem.size_mib << 20) + run::RECORDS_BYTES)?;
        folder.write(folder::SCENARIO, scenario.to_json())?;
        folder.write(folder::SCRIPT, scenario.script.normalized())?;
        let nonce = run::nonce(scenario);
        run::build_image(scenario, nonce, &folder.file(folder::IMAGE))?;
        let (told, disk_end, mut phases) = self.work(scenario, seed, nonce, &folder, phases)?;
        self.console.pass_on(&folder.file(folder::CONSOLE))?;
        self.qemu_log.pass_on(&folder.file(folder::QEMU_LOG))?;
        self.disk_log.pass_on(&folder.file(folder::DISK_LOG))?;
        let case = Case {
            scenario,
            kernel: &self.kernel,
            nonce,
            accel: self.accel.name(),
            seed,
            dialect: self.spec.dialect.as_deref(),
            canary: self.spec.canary.as_deref(),
            repeat,
        };
        let mut host = aftermath::look(&case, &self.programs, &folder, told, disk_end)?;
        phases.done("end state");
        let interrupt = self.talk.as_ref().map(|talk| talk.surroundings().interrupt.clone()).unwrap_or_default();
        host.cuts =
            within::look(scenario, nonce, &folder, &interrupt, &within::with_image(&self.programs.vhost_blk, &folder))?;
        if let Some(cuts) = &host.cuts {
            phases.done("crash states");
            // States say nothing without the image they are of.
            scratch.0.truncate(if cuts.bad.is_empty() { 2 } else { 1 });
        }
        drop(scratch);
        Ok(Ran { folder, host, phases })
    }

    /// From the change of the disk to the next one, or to the end of the guest.
    fn work(
        &mut self,
        scenario: &Scenario,
        seed: Option<u64>,
        nonce: u64,
        folder: &RunFolder,
        phases: Phases,
    ) -> Result<(Told, DiskEnd, Phases), Failure> {
        let Some(mut talk) = self.talk.take() else {
            return Err(Failure::infrastructure("the guest of this boot is gone", "start another one"));
        };
        let console = if self.scenarios > 1 { self.console.news()? } else { Vec::new() };
        talk.turn_to(folder.path(), &String::from_utf8_lossy(&console))?;
        let put_in = put_in(&mut talk.surroundings(), &self.spec, scenario, seed, folder, phases);
        if let Err(failure) = put_in {
            if matches!(failure, Failure::BadInput(_)) {
                // It was refused, and the disk that was in stays in.
                self.talk = Some(talk);
            }
            return Err(failure);
        }
        let job = Job { nonce: Some(nonce), ..machine::job(scenario) };
        let device = job.device.clone();
        let worked = talk.job(job).and_then(|()| talk.rest(&device));
        let at_rest = worked.as_ref().ok().copied();
        let told = talk.told(worked.map(drop));
        let complaint = talk.complaint_before();
        let (told, disk_end, phases) = match (told, at_rest) {
            (Ok(told), Some(at_rest)) if told.end == GuestEnd::Done => self.goes_on(talk, scenario, told, at_rest)?,
            (told, _) => self.ends(talk, told)?,
        };
        // What a kernel says at its start it says at every start.
        if let Some(line) = complaint.filter(|_| self.scenarios > 1) {
            self.broken.get_or_insert(Why::Complained(line));
        }
        Ok((Told { not_traced: self.not_traced.clone(), ..told }, disk_end, phases))
    }

    /// The guest is at rest: its disk is taken out, which ends the disk's records.
    fn goes_on(
        &mut self,
        talk: Talk<Machine>,
        scenario: &Scenario,
        told: Told,
        at_rest: AtRest,
    ) -> Result<(Told, DiskEnd, Phases), Failure> {
        self.broken = why_not(scenario, at_rest, self.tainted_before);
        let next = Next {
            image: &self.idle.image,
            script: Some(&self.idle.script),
            seed: None,
            records: None,
            snapshot_dir: None,
        };
        let mut machine = talk.surroundings();
        let interrupt = machine.interrupt.clone();
        let changed = machine.disk.change(&next, &interrupt);
        machine.power_cuts = None;
        drop(machine);
        match changed {
            Ok(disk_end) => {
                let mut phases = std::mem::replace(&mut talk.surroundings().phases, Phases::start());
                phases.done("disk end");
                self.talk = Some(talk);
                Ok((told, disk_end, phases))
            }
            // Its end as a process answers whatever is still held; what the guest has told is whole.
            Err(failure) => {
                interrupt.check()?;
                self.broken = Some(Why::Stuck(failure.to_string()));
                let mut machine = talk.end();
                machine.vm.kill().map_err(infrastructure)?;
                let disk_end = machine.disk.end()?;
                Ok((told, disk_end, machine.phases))
            }
        }
    }

    /// The guest is gone, hangs, or lost its power: it is ended, and the disk with it.
    fn ends(&mut self, talk: Talk<Machine>, told: Result<Told, Failure>) -> Result<(Told, DiskEnd, Phases), Failure> {
        let mut machine = talk.end();
        let told = machine.the_more_telling(told)?;
        let told = machine.end_of_vm(told)?;
        self.broken = Some(Why::Gone(match &told.end {
            GuestEnd::Done => "it powered off".to_owned(),
            GuestEnd::Died { why } | GuestEnd::PowerCut { why } => why.clone(),
            GuestEnd::TimeLimit { seconds } => format!("it was still at work after {seconds} s"),
        }));
        let Machine { disk, mut phases, .. } = machine;
        phases.done("power off");
        let disk_end = disk.end()?;
        phases.done("disk end");
        Ok((told, disk_end, phases))
    }
}

/// Taint flags, and whether the file system is still held.
type AtRest = (u64, bool);

/// Why a guest that is at rest is not used again, if it is not.
fn why_not(scenario: &Scenario, (now, held): AtRest, before: u64) -> Option<Why> {
    match () {
        () if now != before => Some(Why::Tainted { before, now }),
        () if held => Some(Why::Held),
        () if scenario.script.leaves_front_end() => Some(Why::FrontEndLeft),
        () => None,
    }
}

/// Puts a scenario's disk in, under a guest that is at rest.
fn put_in(
    machine: &mut Machine,
    spec: &BootSpec,
    scenario: &Scenario,
    seed: Option<u64>,
    folder: &RunFolder,
    mut phases: Phases,
) -> Result<(), Failure> {
    phases.done("image");
    let script = folder.file(folder::SCRIPT);
    let script = scenario.faults.is_some().then_some(script.as_path());
    let states = within::folder_for(scenario, folder)?;
    let image = folder.file(folder::IMAGE);
    let next = Next { image: &image, script, seed, records: Some(folder), snapshot_dir: states.as_deref() };
    let interrupt = machine.interrupt.clone();
    machine.disk.change(&next, &interrupt)?;
    machine.hear_of_power_cuts(scenario)?;
    machine.limit = Limit::from_now(spec.time_limit_s);
    phases.done("disk");
    machine.phases = phases;
    Ok(())
}

/// Boots, and has the guest do a first job of nothing: it sets the probes, loads the disk's driver and sets the disk up.
#[allow(clippy::too_many_arguments, reason = "the parts of one boot, each owned by another place")]
fn begin(
    spec: &BootSpec,
    programs: &Programs,
    folder: &RunFolder,
    sockets: &SocketFolder,
    idle: &Idle,
    (kernel, accel): (&Kernel, &AccelChoice),
    interrupt: &Interrupt,
    phases: Phases,
) -> Result<(Talk<Machine>, u64), Failure> {
    let config = Config {
        image: &idle.image,
        script: Some(&idle.script),
        seed: None,
        queues: spec.guest.queues(),
        // Any scenario may leave the front-end.
        reconnects: true,
        snapshot_dir: None,
        planted_lie: None,
        records: false,
    };
    let (mut disk, front_end) = Disk::start(programs, folder, sockets, &config)?;
    let initramfs = folder.file(folder::INITRAMFS);
    initramfs::write(&initramfs, &programs.guest_init, kernel).map_err(infrastructure)?;
    let limit = Limit::from_now(spec.time_limit_s.max(BOOT_LIMIT_S));
    let shape = machine::Shape {
        guest: &spec.guest,
        kernel,
        accel,
        initramfs: &initramfs,
        console: &folder.file(folder::CONSOLE),
        qemu_log: &folder.file(folder::QEMU_LOG),
        time_limit: LIFE_LIMIT,
    };
    let started = machine::start(&shape, front_end);
    if started.is_err() {
        disk.refused()?;
    }
    let mut vm = started.map_err(infrastructure)?;
    let ctl = machine::port(&mut vm, guest_init::protocol::CTL_PORT)?;
    let trace = machine::port(&mut vm, guest_init::protocol::TRACE_PORT)?;
    let tracing = Tracing::new(kernel)?;
    let (symbols, kept) = (tracing.symbols(), kernel.folder.join("symbols.json"));
    let mut machine = Machine::new(disk, vm, tracing, interrupt, limit, phases);
    machine.tells_ops = false;
    let mut talk = Talk::begin(ctl, trace, folder.path(), &kernel.image_hash, machine)?;
    let first = Job { on_disk: machine::disk_settings(&spec.guest), mount: None, ..Job::ext4(Vec::new()) };
    let device = first.device.clone();
    let began = talk.up(&symbols, &kept).and_then(|()| talk.job(first)).and_then(|()| talk.rest(&device));
    let at_rest = began.as_ref().ok().copied();
    let told = talk.told(began.map(drop));
    match (told, at_rest) {
        (Ok(_), Some((tainted, _))) => {
            // Removed only now: QEMU reads it while it starts.
            std::fs::remove_file(&initramfs).at("remove", &initramfs)?;
            Ok((talk, tainted))
        }
        (told, _) => {
            let told = talk.end().the_more_telling(told)?;
            Err(Failure::infrastructure(
                format!("the guest did not get as far as its first scenario: {:?}", told.end),
                "console.log and qemu.log of the boot say more",
            ))
        }
    }
}

/// Files that are gone when a scenario is over, however it ends.
struct Scratch(Vec<PathBuf>);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed lies in the run's own folder, where the next run removes it.
        self.0.iter().for_each(|file| drop(std::fs::remove_file(file)));
    }
}
