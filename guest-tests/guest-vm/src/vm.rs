//! One QEMU from start to end.
//!
//! All connections are descriptors made before QEMU starts: no socket has a name, so any number of runs go side by
//! side and nothing is left in the file system. QEMU is killed on drop, on the time limit, and when this process dies.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::accel::AccelChoice;
use crate::child::Child;
use crate::error::{Doing, Error};
use crate::host_clock;
use crate::qmp::{Event, Qmp};
use crate::reconnect;

/// What every guest is told. Each word saves boot time or makes runs alike; panic=-1 ends a guest that panicked.
/// loglevel is 1 and not 0: at 0 a panic stays silent (kernel/panic.c raises the level only if it is not 0).
const CMDLINE: &str = "console=ttyS0 quiet loglevel=1 panic=-1 nokaslr mitigations=off tsc=reliable no_timer_check audit=0 \
    apparmor=0 selinux=0 cryptomgr.notests random.trust_cpu=on i8042.noaux i8042.nokbd i8042.nopnp \
    rcupdate.rcu_expedited=1 lpj=4000000";

/// The disk under test.
#[derive(Debug)]
pub enum Disk {
    /// A vhost-user-blk backend at the other end of this stream. It cannot reconnect.
    VhostUser {
        /// Our end; QEMU gets it.
        socket: UnixStream,
        /// As many as the backend offers, at most.
        num_queues: u16,
    },
    /// A backend that listens at `path`; QEMU connects, and connects again after a loss.
    VhostUserPath {
        /// The socket, in a folder only we may enter.
        path: PathBuf,
        /// As many as the backend offers, at most.
        num_queues: u16,
        /// Milliseconds between attempts.
        reconnect_ms: u64,
    },
    /// A raw image served by QEMU itself, without faults.
    File {
        /// The image.
        path: PathBuf,
        /// Queues.
        num_queues: u16,
    },
}

/// What QEMU to start.
#[derive(Debug)]
pub struct VmSpec {
    /// The ELF kernel.
    pub vmlinux: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// Words added to the kernel's command line.
    pub cmdline: String,
    /// KVM or TCG.
    pub accel: AccelChoice,
    /// vCPUs.
    pub vcpus: u32,
    /// Memory, shared with the disk's backend.
    pub memory_mib: u32,
    /// The disk.
    pub disk: Disk,
    /// Names of virtio-serial ports; [`Vm::port`] hands out their host ends.
    pub ports: Vec<String>,
    /// Where the serial console is kept.
    pub console_log: PathBuf,
    /// Where QEMU's own output is kept.
    pub qemu_log: PathBuf,
    /// Further arguments for QEMU.
    pub extra: Vec<String>,
    /// QEMU is killed after this time.
    pub time_limit: Duration,
}

/// How a VM's life ended, in the order they are looked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// The time limit was reached and QEMU killed.
    TimeLimit,
    /// Killed by [`Vm::kill`].
    Killed,
    /// The guest's kernel panicked, or reset the machine (which it does after a panic); console.log says why.
    Panicked,
    /// The guest powered off.
    PoweredOff,
    /// QEMU was told to quit over its control connection.
    Quit,
    /// QEMU ended without a reason of the guest: a signal from outside, a crash, bad arguments.
    Failed {
        /// Exit status or signal.
        status: String,
        /// The last line of qemu.log.
        said: String,
    },
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            End::TimeLimit => f.write_str("the time limit was reached and QEMU was killed"),
            End::Killed => f.write_str("QEMU was killed"),
            End::Panicked => f.write_str("the guest's kernel panicked; see console.log"),
            End::PoweredOff => f.write_str("the guest powered off"),
            End::Quit => f.write_str("QEMU was told to quit"),
            End::Failed { status, said } if said.is_empty() => write!(f, "QEMU ended ({status})"),
            End::Failed { status, said } => write!(f, "QEMU ended ({status}): {said}"),
        }
    }
}

/// Where a VM is in its life; later is greater.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Life {
    /// QEMU runs; nothing was heard of the guest yet.
    Booting,
    /// The guest spoke ([`Vm::guest_spoke`]).
    Running,
    /// QEMU is gone and reaped.
    Ended(End),
}

/// Why we killed it, if we did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KilledFor {
    TimeLimit,
    Caller,
}

/// QEMU and what decides its end; shared with the thread that watches the time.
#[derive(Debug)]
struct Process {
    child: Child,
    killed_for: Option<KilledFor>,
}

impl Process {
    fn kill(&mut self, why: KilledFor) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.killed_for = Some(why);
            let _ = self.child.kill();
        }
    }
}

/// A running guest.
#[derive(Debug)]
pub struct Vm {
    process: Arc<Mutex<Process>>,
    qmp: Qmp,
    ports: BTreeMap<String, UnixStream>,
    life: Life,
    qemu_log: PathBuf,
    /// Dropping it ends the thread that watches the time.
    _watch: Sender<()>,
}

impl Vm {
    /// Starts QEMU and talks to its control connection; the guest begins to boot.
    ///
    /// # Errors
    ///
    /// If QEMU is missing, or ends at once; the last line of its log is in the error.
    pub fn start(spec: VmSpec) -> Result<Self, Error> {
        let qemu_log = spec.qemu_log.clone();
        let log = File::create(&qemu_log).doing(|| format!("creating {}", qemu_log.display()))?;
        let time_limit = spec.time_limit;
        let mut line = CommandLine::new(spec)?;
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(&line.arguments)
            .stdin(Stdio::null())
            .stderr(log.try_clone().doing(|| "sharing qemu.log".into())?)
            .stdout(log);
        let child = Child::spawn(command, std::mem::take(&mut line.inherit)).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => {
                Error::Missing { program: "qemu-system-x86_64".into(), package: "qemu-system-x86" }
            }
            _ => Error::Io { doing: "starting qemu-system-x86_64".into(), error },
        })?;
        let process = Arc::new(Mutex::new(Process { child, killed_for: None }));
        let qmp = Qmp::connect(line.qmp).map_err(|error| at_start(&process, &qemu_log, error))?;
        let watch = watch(&process, time_limit)?;
        Ok(Vm { process, qmp, ports: line.ports, life: Life::Booting, qemu_log, _watch: watch })
    }

    /// The host's end of a port; once for each name of [`VmSpec::ports`].
    pub fn port(&mut self, name: &str) -> Option<UnixStream> {
        self.ports.remove(name)
    }

    /// QEMU's process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process().child.id()
    }

    /// The caller has heard of the guest: it is not booting any more.
    pub fn guest_spoke(&mut self) {
        if self.life == Life::Booting {
            self.life = Life::Running;
        }
    }

    /// Where the VM is in its life, now.
    ///
    /// # Errors
    ///
    /// If the host cannot say whether QEMU ended.
    pub fn life(&mut self) -> Result<&Life, Error> {
        if !matches!(self.life, Life::Ended(_)) {
            let status = self.process().child.try_wait().doing(|| "waiting for QEMU".into())?;
            if let Some(status) = status {
                self.life = Life::Ended(self.end(status));
            }
        }
        Ok(&self.life)
    }

    /// Waits for the end, which comes at the latest with the time limit.
    ///
    /// # Errors
    ///
    /// If the host cannot say whether QEMU ended.
    pub fn wait(&mut self) -> Result<End, Error> {
        loop {
            if let Life::Ended(end) = self.life()? {
                return Ok(end.clone());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Kills QEMU at once and says how the VM ended: it may have ended by itself before.
    ///
    /// # Errors
    ///
    /// If the host cannot say whether QEMU ended.
    pub fn kill(&mut self) -> Result<End, Error> {
        self.process().kill(KilledFor::Caller);
        self.wait()
    }

    /// Tells QEMU to quit: an orderly end without the guest.
    ///
    /// # Errors
    ///
    /// If QEMU does not take the command.
    pub fn quit(&mut self) -> Result<End, Error> {
        self.qmp.execute("quit", &json!({}))?;
        self.wait()
    }

    /// Any command of QEMU's control connection, such as `query-status`.
    ///
    /// # Errors
    ///
    /// What QEMU answers.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<Value, Error> {
        self.qmp.execute(command, arguments)
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&mut self, status: ExitStatus) -> End {
        self.qmp.finish();
        let killed_for = self.process().killed_for;
        let events = self.qmp.events();
        let shutdown = events.iter().find_map(|event| match event {
            Event::Shutdown(reason) => Some(reason.as_str()),
            Event::Panicked => None,
        });
        match (killed_for, shutdown) {
            (Some(KilledFor::TimeLimit), _) => End::TimeLimit,
            (Some(KilledFor::Caller), _) => End::Killed,
            _ if events.contains(&Event::Panicked) => End::Panicked,
            (None, Some("guest-reset" | "guest-panic")) => End::Panicked,
            (None, Some("guest-shutdown")) if status.success() => End::PoweredOff,
            (None, Some("host-qmp-quit")) => End::Quit,
            _ => End::Failed { status: status_text(status), said: last_line(&self.qemu_log) },
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        self.process().kill(KilledFor::Caller);
    }
}

fn status_text(status: ExitStatus) -> String {
    status.signal().map_or_else(|| status.to_string(), |signal| format!("killed by signal {signal}"))
}

/// QEMU that ends before it ever answers says why in its log.
fn at_start(process: &Mutex<Process>, qemu_log: &Path, error: Error) -> Error {
    let mut process = process.lock().unwrap_or_else(PoisonError::into_inner);
    match process.child.wait_for(Duration::from_secs(2)) {
        Ok(Some(status)) => Error::Program {
            command: "qemu-system-x86_64".into(),
            status: status_text(status),
            said: last_line(qemu_log),
        },
        _ => error,
    }
}

fn last_line(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&text).trim().lines().last().unwrap_or_default().to_owned()
}

/// Kills QEMU when the time is up, unless the returned sender is dropped before.
fn watch(process: &Arc<Mutex<Process>>, limit: Duration) -> Result<Sender<()>, Error> {
    let (send, receive) = mpsc::channel();
    let process = Arc::clone(process);
    let body = move || {
        if receive.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            process.lock().unwrap_or_else(PoisonError::into_inner).kill(KilledFor::TimeLimit);
        }
    };
    thread::Builder::new().name("time-limit".into()).spawn(body).doing(|| "starting a thread".into())?;
    Ok(send)
}

/// Under TCG the guest is told how fast its clock runs, see [`host_clock`]; KVM tells it by itself.
fn clock(accel: &AccelChoice) -> String {
    let khz = if accel.kvm { None } else { host_clock::tsc_khz() };
    khz.map_or_else(String::new, |khz| format!("tsc_early_khz={khz} "))
}

/// As many ports as are used, and port 0, which is a console's. QEMU offers 31 unless told: each has two queues, and QEMU's main
/// loop polls a descriptor for each of them at every message and timer.
fn serial_bus(ports: usize) -> String {
    format!("virtio-serial-pci,max_ports={}", ports + 1)
}

/// QEMU's arguments, and both sides of the streams they name.
struct CommandLine {
    arguments: Vec<OsString>,
    inherit: Vec<OwnedFd>,
    ports: BTreeMap<String, UnixStream>,
    qmp: UnixStream,
}

impl CommandLine {
    fn new(spec: VmSpec) -> Result<Self, Error> {
        let (qmp, theirs) = pair()?;
        let mut line = CommandLine { arguments: Vec::new(), inherit: Vec::new(), ports: BTreeMap::new(), qmp };
        line.machine(&spec);
        line.boot(&spec);
        line.socket("qmp", theirs);
        line.add(["-mon", "chardev=qmp,mode=control"]);
        line.add(["-device", &serial_bus(spec.ports.len())]);
        for name in &spec.ports {
            let (ours, theirs) = pair()?;
            line.socket(&format!("port-{name}"), theirs);
            line.add(["-device", &format!("virtserialport,chardev=port-{name},name={name}")]);
            line.ports.insert(name.clone(), ours);
        }
        line.disk(spec.disk);
        line.add(&spec.extra);
        Ok(line)
    }

    fn add<T: AsRef<str>>(&mut self, arguments: impl IntoIterator<Item = T>) {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().into()));
    }

    fn machine(&mut self, spec: &VmSpec) {
        let VmSpec { accel, vcpus, memory_mib, .. } = spec;
        self.add(["-name", "guest-tests", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        self.add(["-accel", accel.name(), "-cpu", accel.cpu()]);
        self.add(["-smp", &vcpus.to_string(), "-m", &format!("{memory_mib}M")]);
        self.add(["-object", &format!("memory-backend-memfd,id=mem,size={memory_mib}M,share=on")]);
        self.add(["-machine", "q35,memory-backend=mem"]);
    }

    fn boot(&mut self, spec: &VmSpec) {
        self.add(["-kernel", &spec.vmlinux.display().to_string(), "-initrd", &spec.initramfs.display().to_string()]);
        self.add(["-append", format!("{CMDLINE} {}{}", clock(&spec.accel), spec.cmdline).trim()]);
        self.add([
            "-chardev",
            &format!("file,id=console,path={}", escaped(&spec.console_log)),
            "-serial",
            "chardev:console",
        ]);
    }

    /// A chardev on a stream that is there already.
    fn socket(&mut self, id: &str, theirs: UnixStream) {
        self.add(["-chardev", &format!("socket,id={id},fd={}", theirs.as_raw_fd())]);
        self.inherit.push(theirs.into());
    }

    fn disk(&mut self, disk: Disk) {
        let num_queues = match disk {
            Disk::File { path, num_queues } => {
                let node = format!("driver=file,filename={},node-name=disk,discard=unmap", escaped(&path));
                self.add([
                    "-blockdev",
                    &node,
                    "-device",
                    &format!("virtio-blk-pci,drive=disk,num-queues={num_queues}"),
                ]);
                return;
            }
            Disk::VhostUser { socket, num_queues } => {
                self.socket("disk", socket);
                num_queues
            }
            Disk::VhostUserPath { path, num_queues, reconnect_ms } => {
                let again = reconnect::option(reconnect_ms);
                let chardev = format!("socket,id=disk,path={},{again}", escaped(&path));
                self.add(["-chardev", &chardev]);
                num_queues
            }
        };
        self.add(["-device", &format!("vhost-user-blk-pci,chardev=disk,num-queues={num_queues}")]);
    }
}

fn pair() -> Result<(UnixStream, UnixStream), Error> {
    UnixStream::pair().doing(|| "creating a socket pair".into())
}

/// QEMU splits option values at commas; a doubled comma is one.
fn escaped(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bus_has_port_0_and_those_that_are_used() {
        assert_eq!(serial_bus(2), "virtio-serial-pci,max_ports=3");
    }

    #[test]
    fn only_under_tcg_a_guest_is_told_how_fast_its_clock_runs() {
        let choice = |kvm| AccelChoice { kvm, why: String::new() };
        assert_eq!(clock(&choice(true)), "");
        assert_eq!(clock(&choice(false)).starts_with("tsc_early_khz="), cfg!(target_arch = "x86_64"));
    }
}
