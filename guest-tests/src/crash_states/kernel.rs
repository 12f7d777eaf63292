//! The guest's own kernel mounts and reads one state of each cut, and has to agree: one boot for all.
//!
//! The guest has one plain disk. It is handed one job after the other: mount, read every file, unmount; between two jobs
//! nobody has the disk open, and the host puts the next state into its file. A state that e2fsck calls whole has to mount
//! without a complaint and every file has to hold what the host's reader read after e2fsck's journal replay. Of a state
//! that is damaged nothing is demanded: a mount looks at little.

use super::cuts::State;
use super::{Examined, View};
use crate::durability::{Node, Tree};
use crate::failure::{At, Failure};
use crate::findings;
use crate::interrupt::Interrupt;
use crate::patient::{Patient, Reason, Stop};
use guest_init::host::{HostError, Session};
use guest_init::job::{Action, Job, Mount, Op};
use guest_init::pattern::fnv1a64;
use guest_init::protocol::{FromGuest, OpEnd};
use guest_vm::{AccelChoice, Disk, Kernel, Vm, VmSpec, initramfs};
use serde::Serialize;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Boot, and a job more than the last.
const PATIENCE: Duration = Duration::from_secs(120);
/// What a slow machine may take for one state.
const PATIENCE_PER_STATE: Duration = Duration::from_secs(30);

/// The files of a state as the host's reader found them: length and FNV-1a digest; none: it is not there, or no file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files(BTreeMap<String, Option<(u64, u64)>>);

impl Files {
    /// Of every path that was found, and of those the workload names besides.
    pub fn of<'a>(tree: &Tree, named: impl Iterator<Item = &'a str>) -> Files {
        let mut files: BTreeMap<String, Option<(u64, u64)>> = named.map(|path| (path.to_owned(), None)).collect();
        for (path, node) in &tree.0 {
            let found = match node {
                Node::File(data) => Some((data.len() as u64, fnv1a64(data))),
                Node::Mapped(found) => u64::from_str_radix(&found.fnv1a64, 16).ok().map(|digest| (found.size, digest)),
                Node::Folder | Node::Other => None,
            };
            files.insert(path.clone(), found);
        }
        Files(files)
    }
}

/// What the kernel said of the states it saw.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Its release.
    pub kernel: String,
    /// States it was given.
    pub given: u64,
    /// Mounted, read and unmounted.
    pub mounted: u64,
    /// Files that it read and that hold what the host's reader found.
    pub files_alike: u64,
    /// Where it does not agree with a state that e2fsck calls whole.
    pub disagreements: Vec<Disagreement>,
    /// Why it did not see all of them.
    pub unjudged: Option<String>,
}

/// The kernel and e2fsck part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Disagreement {
    /// The state's file.
    pub file: String,
    /// In a sentence.
    pub what: String,
}

impl Report {
    /// For people.
    pub fn describe(&self) -> String {
        let Report { kernel, given, mounted, files_alike, disagreements, unjudged } = self;
        let mut text = format!(
            "kernel {kernel}: {mounted} of {given} states mounted in one boot, {files_alike} files as read on the host, {} disagreements\n",
            disagreements.len()
        );
        for Disagreement { file, what } in disagreements {
            text += &format!("disagrees: {file}: {what}\n");
        }
        if let Some(why) = unjudged {
            text += &format!("the kernel saw not all of them: {why}\n");
        }
        text
    }
}

/// What the guest is made of.
#[derive(Debug)]
pub struct Machine<'a> {
    /// Its kernel.
    pub kernel: &'a Kernel,
    /// KVM or TCG.
    pub accel: AccelChoice,
    /// Its first process.
    pub guest_init: &'a Path,
    /// Options of its mount.
    pub mount: String,
}

/// Boots once and shows the kernel its states. `scratch` is a folder for what the guest needs meanwhile.
pub(crate) fn look(
    examined: &[Examined],
    folder: &Path,
    machine: &Machine<'_>,
    scratch: &Path,
    interrupt: &Interrupt,
    view: &View<'_>,
) -> Result<Report, Failure> {
    let chosen: Vec<(&State, &Files)> =
        examined.iter().filter_map(|state| Some((&state.state, state.files.as_ref()?))).collect();
    let mut report = Report { kernel: machine.kernel.release.clone(), given: chosen.len() as u64, ..Report::default() };
    let Some((first, _)) = chosen.first() else { return Ok(report) };
    let disk = scratch.join("disk.raw");
    view(&folder.join(&first.file), &disk)?;
    let mut guest = Guest::boot(machine, scratch, &disk, chosen.len(), interrupt)?;
    for (number, (state, files)) in chosen.iter().enumerate() {
        interrupt.check()?;
        if number > 0 {
            view(&folder.join(&state.file), &disk)?;
        }
        match guest.show(files, &machine.mount) {
            Ok(seen) => seen.compare(&state.file, files, &mut report),
            Err(Gone::Ours(failure)) => return Err(failure),
            Err(Gone::Guest(why)) => {
                // A kernel that dies of a state that e2fsck calls whole does not agree; the rest it did not see.
                let what = format!("the guest did not survive it: {why}");
                report.disagreements.push(Disagreement { file: state.file.display().to_string(), what: what.clone() });
                report.unjudged = Some(what);
                break;
            }
        }
    }
    guest.end()?;
    Ok(report)
}

/// What the kernel said of one state.
#[derive(Debug, Default)]
struct Seen {
    mount: Option<Result<(), String>>,
    unmount: Option<Result<(), String>>,
    reads: Vec<OpEnd>,
    log: String,
}

impl Seen {
    fn hear(&mut self, message: &FromGuest) {
        let result = |errno: &Option<guest_init::job::Errno>| errno.map_or(Ok(()), |errno| Err(errno.to_string()));
        match message {
            FromGuest::Mounted { errno } => self.mount = Some(result(errno)),
            FromGuest::Unmounted { errno } => self.unmount = Some(result(errno)),
            FromGuest::OpEnd(end) => self.reads.push(end.clone()),
            FromGuest::Log(line) => {
                self.log += &line.text;
                self.log.push('\n');
            }
            _ => {}
        }
    }

    fn compare(&self, file: &Path, files: &Files, report: &mut Report) {
        let mut parts = Vec::new();
        match &self.mount {
            Some(Ok(())) => report.mounted += 1,
            Some(Err(errno)) => parts.push(format!("it does not mount: {errno}")),
            None => parts.push("it was not mounted".to_owned()),
        }
        if let Some(Err(errno)) = &self.unmount {
            parts.push(format!("it does not unmount: {errno}"));
        }
        parts.extend(findings::complaints(&self.log, false).first().map(|line| format!("the kernel says: {line}")));
        if self.mount == Some(Ok(())) {
            for (number, (path, found)) in files.0.iter().enumerate() {
                let read = self.reads.iter().find(|end| end.index as usize == number);
                match part(path, *found, read) {
                    None => report.files_alike += u64::from(found.is_some()),
                    Some(part) => parts.push(part),
                }
            }
        }
        if let Some(what) = parts.first() {
            report.disagreements.push(Disagreement { file: file.display().to_string(), what: what.clone() });
        }
    }
}

/// Where the kernel's reading of a file and the host's part.
fn part(path: &str, found: Option<(u64, u64)>, read: Option<&OpEnd>) -> Option<String> {
    let Some(read) = read else { return Some(format!("{path} was not read")) };
    let by_kernel = match (read.errno, &read.read) {
        (None, Some(data)) => Some((read.returned as u64, data.fnv1a64.clone())),
        // Folders and paths that are not there are no files.
        (Some(guest_init::job::Errno(libc::ENOENT | libc::EISDIR | libc::ENOTDIR)), _) => None,
        (errno, _) => return Some(format!("the kernel reads {path} with {errno:?}")),
    };
    let by_host = found.map(|(len, digest)| (len, format!("{digest:016x}")));
    let say = |file: &Option<(u64, String)>| match file {
        Some((len, digest)) => format!("{len} bytes with digest {digest}"),
        None => "no file".to_owned(),
    };
    (by_kernel != by_host)
        .then(|| format!("{path} is {} for the kernel, {} on the host", say(&by_kernel), say(&by_host)))
}

/// Why there is no more to hear.
enum Gone {
    Guest(String),
    Ours(Failure),
}

type Talk<'a> = Session<Patient<Box<dyn FnMut() -> Result<(), Stop> + 'a>>, std::os::unix::net::UnixStream, Ears>;
type Ears = Box<dyn FnMut(&FromGuest) -> Result<(), String>>;

/// A guest that waits for the next state.
struct Guest<'a> {
    session: Talk<'a>,
    heard: std::rc::Rc<RefCell<Seen>>,
    reason: Reason,
    vm: Vm,
    /// The guest closes each job's trace, which is empty, on this port.
    _trace: std::os::unix::net::UnixStream,
    console: PathBuf,
}

impl<'a> Guest<'a> {
    fn boot(
        machine: &Machine<'_>,
        scratch: &Path,
        disk: &Path,
        states: usize,
        interrupt: &'a Interrupt,
    ) -> Result<Guest<'a>, Failure> {
        let time_limit = PATIENCE + PATIENCE_PER_STATE * u32::try_from(states).unwrap_or(u32::MAX);
        let spec = vm_spec(machine, scratch, disk, time_limit)?;
        let console = spec.console_log.clone();
        let mut vm = Vm::start(spec).map_err(infrastructure)?;
        let port = |vm: &mut Vm, name: &str| {
            vm.port(name).ok_or_else(|| Failure::infrastructure(format!("QEMU has no port {name}"), ""))
        };
        let ctl = port(&mut vm, guest_init::protocol::CTL_PORT)?;
        let trace = port(&mut vm, guest_init::protocol::TRACE_PORT)?;
        let out = ctl.try_clone().at("duplicate the socket of", &console)?;
        let (reason, deadline) = (Reason::default(), Instant::now() + time_limit);
        let watch: Box<dyn FnMut() -> Result<(), Stop> + 'a> = Box::new(move || {
            interrupt.check()?;
            let late = Instant::now() >= deadline;
            if late { Err(Stop::TimeLimit { seconds: time_limit.as_secs() }) } else { Ok(()) }
        });
        let patient = Patient::new(ctl, watch, reason.clone()).at("set up the socket of", &console)?;
        let heard = std::rc::Rc::new(RefCell::new(Seen::default()));
        let ears: Ears = {
            let heard = std::rc::Rc::clone(&heard);
            Box::new(move |message: &FromGuest| {
                heard.borrow_mut().hear(message);
                Ok(())
            })
        };
        let mut guest = Guest { session: Session::new(patient, out, ears), heard, reason, vm, _trace: trace, console };
        let hello = guest.session.hello();
        guest.ok(hello).map_err(|gone| match gone {
            Gone::Ours(failure) => failure,
            Gone::Guest(why) => Failure::infrastructure(
                format!("the guest that was to mount the states did not come up: {why}"),
                format!("{} may say more; --no-kernel does without it", guest.console.display()),
            ),
        })?;
        Ok(guest)
    }

    /// One job: mount, read, unmount.
    fn show(&mut self, files: &Files, mount: &str) -> Result<Seen, Gone> {
        *self.heard.borrow_mut() = Seen::default();
        let read = |path: &String| Op {
            action: Action::Read { path: path.clone(), offset: 0, len: None, direct: false },
            errno: None,
            writer: None,
        };
        let job = Job {
            mount: Some(Mount { fstype: "ext4".into(), options: mount.to_owned() }),
            ..Job::ext4(files.0.keys().map(read).collect())
        };
        let done = self.session.run(job);
        self.ok(done)?;
        Ok(self.heard.take())
    }

    fn end(mut self) -> Result<(), Failure> {
        // It has nothing that needs an orderly end.
        self.vm.kill().map(drop).map_err(infrastructure)
    }

    fn ok<T>(&self, result: Result<T, HostError>) -> Result<T, Gone> {
        match (result, self.reason.take()) {
            (Ok(value), _) => Ok(value),
            (Err(_), Some(Stop::Failure(failure))) => Err(Gone::Ours(failure)),
            (Err(_), Some(Stop::TimeLimit { seconds })) => {
                Err(Gone::Guest(format!("it was still at work after {seconds} s")))
            }
            (Err(error), Some(Stop::PowerCut { .. }) | None) => {
                Err(Gone::Guest(format!("{error}{}", last_words(&self.console))))
            }
        }
    }
}

fn last_words(console: &Path) -> String {
    let text = std::fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    text.lines().last().map_or(String::new(), |line| format!(" (console: {line})"))
}

fn vm_spec(machine: &Machine<'_>, scratch: &Path, disk: &Path, time_limit: Duration) -> Result<VmSpec, Failure> {
    let initramfs = scratch.join("initramfs.cpio");
    initramfs::write(&initramfs, machine.guest_init, machine.kernel).map_err(infrastructure)?;
    Ok(VmSpec {
        vmlinux: machine.kernel.vmlinux.clone(),
        initramfs,
        cmdline: String::new(),
        accel: machine.accel.clone(),
        vcpus: 1,
        memory_mib: 512,
        disk: Disk::File { path: disk.to_owned(), num_queues: 1 },
        ports: vec![guest_init::protocol::CTL_PORT.into(), guest_init::protocol::TRACE_PORT.into()],
        console_log: scratch.join("console.log"),
        qemu_log: scratch.join("qemu.log"),
        extra: Vec::new(),
        time_limit: time_limit + Duration::from_secs(10),
    })
}

fn infrastructure(error: guest_vm::Error) -> Failure {
    Failure::infrastructure(error.to_string(), "`guest-tests doctor` lists what a guest needs")
}

#[cfg(test)]
mod tests {
    use super::*;
    use guest_init::protocol::ReadBack;

    fn read(index: u32, errno: Option<i32>, data: &[u8]) -> OpEnd {
        let read = ReadBack { fnv1a64: format!("{:016x}", fnv1a64(data)), map: Default::default() };
        OpEnd {
            index,
            op: "read".into(),
            returned: data.len() as i64,
            errno: errno.map(guest_init::job::Errno),
            inode: None,
            read: errno.is_none().then_some(read),
            elapsed_us: 1,
        }
    }

    fn report(seen: &Seen) -> Report {
        let tree = Tree([("a".into(), Node::File(b"data"[..].into())), ("d".into(), Node::Folder)].into());
        let mut report = Report::default();
        seen.compare(Path::new("s"), &Files::of(&tree, ["a", "gone"].into_iter()), &mut report);
        report
    }

    fn seen(reads: Vec<OpEnd>) -> Seen {
        Seen { mount: Some(Ok(())), unmount: Some(Ok(())), reads, log: String::new() }
    }

    #[test]
    fn a_kernel_that_reads_the_same_agrees() {
        let report = report(&seen(vec![
            read(0, None, b"data"),
            read(1, Some(libc::EISDIR), b""),
            read(2, Some(libc::ENOENT), b""),
        ]));
        assert_eq!((report.mounted, report.files_alike, report.disagreements), (1, 1, vec![]));
    }

    #[test]
    fn another_content_another_error_a_complaint_and_no_mount_are_told() {
        let whole = || vec![read(0, None, b"data"), read(1, Some(libc::EISDIR), b""), read(2, Some(libc::ENOENT), b"")];
        let mut other = whole();
        other[0] = read(0, None, b"dada");
        let mut more = whole();
        more[2] = read(2, None, b"");
        let mut failing = whole();
        failing[0] = read(0, Some(libc::EIO), b"");
        let complaint = "EXT4-fs error (device vda): ext4_lookup:1: bad inode\n".to_owned();
        for (seen, says) in [
            (seen(other), "a is 4 bytes"),
            (seen(more), "gone is 0 bytes"),
            (seen(failing), "the kernel reads a with"),
            (seen(vec![]), "a was not read"),
            (Seen { log: complaint, ..seen(whole()) }, "the kernel says: EXT4-fs error"),
            (Seen { mount: Some(Err("EUCLEAN".into())), ..seen(vec![]) }, "does not mount: EUCLEAN"),
        ] {
            let report = report(&seen);
            assert!(
                report.disagreements.len() == 1 && report.disagreements[0].what.contains(says),
                "{report:?}: {says}"
            );
        }
    }
}
