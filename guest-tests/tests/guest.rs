//! A real guest, on a plain disk without faults: boots, is traced, does every op, and ends in every way it can.
//!
//! What must hold: nothing of the trace is lost, the disk's first request is in it, and whatever happens to the guest,
//! the host hears how it ended. One guest at a time: two cores boot one quickly and two slowly.

#![allow(clippy::unwrap_used, reason = "a test ends there")]

use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use guest_init::frames::{Frame, FrameError, Frames};
use guest_init::host::{HostError, Session};
use guest_init::job::{Errno, Event, Job, Mount, Op, Probe, Setting, Trace};
use guest_init::past;
use guest_init::pattern::Content;
use guest_init::protocol::{CTL_PORT, FromGuest, Hello, OpEnd, Statistics, Symbol, TRACE_PORT};
use guest_vm::{Accel, Disk, DiskImage, DiskSpec, End, Kernel, KernelSpec, Life, Vm, VmSpec, disk, initramfs, kernel};

const NONCE: u64 = 0x5eed;

/// Long for a slow machine under load; a healthy one needs 3 s.
const LIMIT: Duration = Duration::from_secs(300);

fn one_at_a_time() -> MutexGuard<'static, ()> {
    static GUEST: Mutex<()> = Mutex::new(());
    GUEST.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kernel_6_1() -> Kernel {
    kernel::obtain(&KernelSpec::Series("6.1".into()), &kernel::default_cache())
        .unwrap_or_else(|error| panic!("the tests need a stock kernel of series 6.1: {error}"))
}

/// Built here, as `scripts/build` does it, so that no test runs yesterday's PID 1.
fn guest_init() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let test = std::env::current_exe().unwrap();
        let target = test.ancestors().nth(3).unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("CARGO_ENCODED_RUSTFLAGS");
        cargo.env("RUSTFLAGS", "-C target-feature=+crt-static -C relocation-model=static");
        cargo.args(["build", "--quiet", "--locked", "-p", "guest-init", "--bin", "guest-init", "--profile", "guest"]);
        cargo.args(["--target", "x86_64-unknown-linux-gnu", "--target-dir"]).arg(target);
        assert!(cargo.status().unwrap().success(), "guest-init does not build");
        target.join("x86_64-unknown-linux-gnu/guest/guest-init")
    })
}

fn image(folder: &Path) -> DiskImage {
    let spec = DiskSpec { path: folder.join("disk.raw"), size_mib: 64, block_bytes: 4096, mkfs: Vec::new() };
    disk::build(&spec, &|block, bytes| past::fill(NONCE, block, bytes)).unwrap()
}

fn start(folder: &Path, init: &Path, time_limit: Duration) -> Vm {
    let kernel = kernel_6_1();
    let initramfs = folder.join("initramfs.cpio");
    initramfs::write(&initramfs, init, &kernel).unwrap();
    Vm::start(VmSpec {
        vmlinux: kernel.vmlinux,
        initramfs,
        cmdline: String::new(),
        accel: Accel::Auto.choose().unwrap(),
        vcpus: 1,
        memory_mib: 256,
        disk: Disk::File { path: image(folder).path, num_queues: 1 },
        ports: vec![CTL_PORT.into(), TRACE_PORT.into()],
        console_log: folder.join("console.log"),
        qemu_log: folder.join("qemu.log"),
        extra: Vec::new(),
        time_limit,
    })
    .unwrap()
}

/// What one guest said.
struct Told {
    hello: Hello,
    symbols: Vec<Symbol>,
    missing: Vec<String>,
    messages: Vec<FromGuest>,
    statistics: Statistics,
    frames: Vec<Frame>,
    end: End,
}

impl Told {
    fn ops(&self) -> Vec<&OpEnd> {
        self.messages.iter().filter_map(|m| if let FromGuest::OpEnd(end) = m { Some(end) } else { None }).collect()
    }

    fn log(&self) -> impl Iterator<Item = &str> {
        self.messages.iter().filter_map(|m| if let FromGuest::Log(line) = m { Some(line.text.as_str()) } else { None })
    }
}

fn run(job: Job, symbols: &[&str]) -> Told {
    let _one = one_at_a_time();
    let folder = tempfile::tempdir().unwrap();
    let mut vm = start(folder.path(), guest_init(), LIMIT);
    let trace = vm.port(TRACE_PORT).unwrap();
    let frames =
        std::thread::spawn(move || Frames::new(std::io::BufReader::new(trace)).collect::<Result<Vec<_>, FrameError>>());
    let ctl = vm.port(CTL_PORT).unwrap();
    let mut messages = Vec::new();
    let listener = |message: &FromGuest| {
        messages.push(message.clone());
        Ok(())
    };
    let mut session = Session::new(ctl.try_clone().unwrap(), ctl, listener);
    let hello = session.hello().unwrap_or_else(|error| {
        let console = fs::read_to_string(folder.path().join("console.log")).unwrap_or_default();
        panic!("{error}\nconsole.log: {console}\nend: {:?}", vm.kill());
    });
    vm.guest_spoke();
    assert_eq!(*vm.life().unwrap(), Life::Running);
    let names: Vec<String> = symbols.iter().map(ToString::to_string).collect();
    let (symbols, missing) = session.symbols(&names).unwrap();
    let statistics = session.run(job).unwrap();
    session.power_off().unwrap();
    let end = vm.wait().unwrap();
    drop(session);
    Told { hello, symbols, missing, messages, statistics, frames: frames.join().unwrap().unwrap(), end }
}

fn ops(json: &str) -> Vec<Op> {
    serde_json::from_str(json).unwrap()
}

fn traced(probes: &[&str], events: &[&str], ops: Vec<Op>) -> Job {
    let probes = probes.iter().map(|line| Probe { line: (*line).into(), optional: false }).collect();
    let events = events.iter().map(|name| Event { name: (*name).into(), filter: None, optional: false }).collect();
    let trace = Trace { clock: "counter".into(), buffer_kib_per_cpu: 4096, probes, events };
    Job { trace: Some(trace), ..Job::ext4(ops) }
}

#[test]
fn a_traced_guest_does_the_workload_loses_nothing_and_powers_off() {
    let workload = ops(r#"[{"op":"create","path":"f"},{"op":"fallocate","path":"f","len":2097152},
        {"op":"write","path":"f","len":1048576,"pattern":"new","stride":{"chunk":4096,"step":8192,"phases":2}},
        {"op":"fsync","path":"f"},{"op":"mark","name":"written"},{"op":"drop_caches"},{"op":"read","path":"f","len":1114112}]"#);
    let probes = ["p:io/putd ext4_put_io_end_defer+5 io_end=%di", "p:io/endbio ext4_end_bio+5 bio=%di"];
    let events = ["io/putd", "io/endbio", "block/block_rq_issue", "block/block_rq_complete"];
    let mut job = traced(&probes, &events, workload);
    job.on_disk.push(Setting { path: "/sys/block/vda/queue/nomerges".into(), value: "2".into(), optional: false });
    job.on_disk.push(Setting { path: "/sys/block/vda/queue/nothing".into(), value: "2".into(), optional: true });
    let told = run(job, &["ext4_end_bio", "submit_bio", "no_such_function"]);

    assert_eq!(told.end, End::PoweredOff);
    assert!(told.hello.release.starts_with("6.1."), "{}", told.hello.release);
    assert_eq!((told.hello.cpus, told.hello.page_bytes), (1, 4096));
    assert_eq!(told.missing, ["no_such_function"]);
    assert!(told.symbols.iter().all(|s| s.size > 0 && s.size < 4096 && s.address > 1 << 63), "{:?}", told.symbols);

    // Losses show here, and only here.
    let missed: Vec<_> = told.statistics.kprobe_profile.lines().map(|l| l.split_whitespace().last().unwrap()).collect();
    assert_eq!(missed, ["0", "0"], "{}", told.statistics.kprobe_profile);
    assert_eq!(told.statistics.per_cpu.len(), 1);
    for zero in ["overrun: 0", "dropped events: 0", "entries: 0"] {
        assert!(told.statistics.per_cpu[0].contains(zero), "{}", told.statistics.per_cpu[0]);
    }
    let Some((Frame::End(end), pages)) = told.frames.split_last() else { panic!("no END frame") };
    assert_eq!(end.pages, [pages.len() as u64]);
    assert_eq!(told.statistics.pages, pages.len() as u64);

    // The trace begins before the disk does: sector 0 is read by the partition scan, ahead of any op.
    let bytes: Vec<u8> =
        pages.iter().flat_map(|f| if let Frame::Page { bytes, .. } = f { bytes.clone() } else { vec![] }).collect();
    let find = |needle: &[u8]| bytes.windows(needle.len()).position(|window| window == needle);
    assert!(find(b"# mount\n").unwrap() > 100, "requests of the disk's start come before the mount");
    assert!(find(b"B 3 fsync\n").unwrap() < find(b"E 3 0\n").unwrap());

    let tracing =
        told.messages.iter().find_map(|m| if let FromGuest::Tracing(t) = m { Some(t) } else { None }).unwrap();
    let named: Vec<_> = tracing.formats.iter().map(|format| format.event.as_str()).collect();
    assert_eq!(named, [&events[..], &["ftrace/print"]].concat());
    assert_eq!(tracing.clock, "counter");
    let refused =
        told.messages.iter().find_map(|m| if let FromGuest::Disk { refused } = m { Some(refused) } else { None });
    assert_eq!(refused.unwrap().len(), 1);

    let marks = told.messages.iter().filter(|m| matches!(m, FromGuest::Mark { index: 4, name } if name == "written"));
    assert_eq!(marks.count(), 1);
    let results = told.ops();
    assert!(results.iter().all(|op| op.errno.is_none()), "{results:?}");
    assert!(
        results.iter().filter(|op| op.op != "mark" && op.op != "drop_caches").all(|op| op.inode == results[0].inode)
    );
    let read = results[6].read.as_ref().unwrap();
    let kinds: Vec<_> = read.map.runs.iter().map(|run| (run.len, run.content.clone())).collect();
    assert_eq!(kinds, [(1 << 20, Content::Pattern { name: "new".into() }), (65536, Content::Zero)]);
    assert!(told.log().any(|line| line.contains("EXT4-fs (vda): mounted filesystem")));
}

#[test]
fn every_op_does_what_its_system_call_does() {
    let workload = ops(
        r#"[{"op":"mkdir","path":"d"},{"op":"create","path":"d/f"},{"op":"create","path":"d/f","errno":"EEXIST"},
        {"op":"write","path":"d/f","len":16384,"pattern":"a"},{"op":"fdatasync","path":"d/f"},
        {"op":"write","path":"d/f","offset":4096,"len":4096,"pattern":"direct","direct":true},
        {"op":"aio_write","path":"d/f","offset":8192,"len":8192,"pattern":"aio","direct":true,"stride":{"chunk":4096,"step":4096}},
        {"op":"mmap_write","path":"d/f","offset":100,"len":1000,"pattern":"map","msync":true},
        {"op":"sync_file_range","path":"d/f"},{"op":"punch","path":"d/f","offset":12288,"len":4096},
        {"op":"fsync","path":"d"},{"op":"link","path":"d/f","to":"g"},{"op":"unlink","path":"d/f"},{"op":"rename","path":"g","to":"h"},
        {"op":"sleep_ms","ms":1},{"op":"sync"},{"op":"remount"},{"op":"read","path":"h"},
        {"op":"read","path":"h","direct":true,"len":4096,"offset":8192},{"op":"truncate","path":"h","len":10},
        {"op":"read","path":"h"},{"op":"read","path":"d/f","errno":"ENOENT"},
        {"op":"mmap_write","path":"h","offset":8192,"len":1,"pattern":"map","errno":"EFAULT"},
        {"op":"write","path":"nowhere/f","len":1,"pattern":"a","errno":"ENOENT"}]"#,
    );
    let expected: Vec<Option<Errno>> = workload.iter().map(|op| op.errno).collect();
    let told = run(Job::ext4(workload), &[]);
    assert_eq!(told.end, End::PoweredOff);
    let results = told.ops();
    assert_eq!(results.iter().map(|op| op.errno).collect::<Vec<_>>(), expected);
    let map = |index: usize| {
        let runs = &results[index].read.as_ref().unwrap().map.runs;
        let word = |content: &Content| match content {
            Content::Pattern { name } => name.clone(),
            Content::Zero => "zero".into(),
            other => format!("{other:?}"),
        };
        runs.iter().map(|run| (run.offset, run.len, word(&run.content))).collect::<Vec<_>>()
    };
    // 100..1100 was stored through a mapping: its edges lie inside units, which are then neither one nor the other.
    let whole = map(17);
    assert_eq!(whole[1], (512, 512, "map".into()), "{whole:?}");
    assert_eq!(whole[3], (1536, 2560, "a".into()), "{whole:?}");
    assert_eq!(whole[4..], [(4096, 4096, "direct".into()), (8192, 4096, "aio".into()), (12288, 4096, "zero".into())]);
    assert_eq!(map(18), [(8192, 4096, "aio".into())]);
    assert_eq!(map(20), [(0, 10, "a".into())]);
    let Some((Frame::End(end), [])) = told.frames.split_last() else {
        panic!("an untraced job has an END frame alone")
    };
    assert_eq!(end.pages, [0_u64; 0]);
}

#[test]
fn a_probe_the_kernel_refuses_is_a_failure_of_the_run_with_the_probe_in_it() {
    let _one = one_at_a_time();
    let folder = tempfile::tempdir().unwrap();
    let mut vm = start(folder.path(), guest_init(), LIMIT);
    let ctl = vm.port(CTL_PORT).unwrap();
    let mut session = Session::new(ctl.try_clone().unwrap(), ctl, |_: &FromGuest| Ok(()));
    session.hello().unwrap();
    let error = session.run(traced(&["p:io/x no_such_function+5"], &["io/x"], Vec::new())).unwrap_err();
    assert!(matches!(&error, HostError::Failed { doing, .. } if doing.contains("no_such_function+5")), "{error}");
    session.power_off().unwrap();
    assert_eq!(vm.wait().unwrap(), End::PoweredOff);
}

#[test]
fn a_mount_that_fails_is_reported_and_no_op_is_run() {
    let mut job = Job::ext4(ops(r#"[{"op":"sync"}]"#));
    job.mount = Some(Mount { fstype: "ext4".into(), options: "data=nonsense".into() });
    let told = run(job, &[]);
    assert!(told.messages.contains(&FromGuest::Mounted { errno: Some(Errno(libc::EINVAL)) }));
    assert!(told.ops().is_empty());
    assert_eq!(told.end, End::PoweredOff);
}

/// Guards against a scenario that is judged on the disk of another.
#[test]
fn a_guest_that_sees_another_disk_than_it_was_told_of_does_not_mount_it() {
    let _one = one_at_a_time();
    let folder = tempfile::tempdir().unwrap();
    let mut vm = start(folder.path(), guest_init(), LIMIT);
    let _trace = vm.port(TRACE_PORT).unwrap();
    let ctl = vm.port(CTL_PORT).unwrap();
    let mut mounted = 0;
    let listener = |message: &FromGuest| {
        mounted += u32::from(matches!(message, FromGuest::Mounted { errno: None }));
        Ok(())
    };
    let mut session = Session::new(ctl.try_clone().unwrap(), ctl, listener);
    session.hello().unwrap();
    let job = |nonce| Job { nonce: Some(nonce), ..Job::ext4(Vec::new()) };
    session.run(job(NONCE)).unwrap();
    let (_, held) = session.rest("/dev/vda").unwrap();
    assert!(!held);
    // As if the disk had been changed: its bytes are others, and the guest is not told.
    let changed = fs::File::options().write(true).open(folder.path().join("disk.raw")).unwrap();
    changed.write_all_at(&past::nonce_unit(NONCE + 1), 512).unwrap();
    session.run(job(NONCE + 1)).unwrap();
    let Err(HostError::Failed { error, .. }) = session.run(job(NONCE)) else { panic!("it mounted another disk") };
    let says = format!("the guest sees the disk with nonce {}, not the one with {NONCE}", NONCE + 1);
    assert_eq!(error, says);
    drop(session);
    assert_eq!(mounted, 2);
    vm.kill().unwrap();
}

#[test]
fn a_guest_whose_pid_1_dies_has_panicked_and_the_console_says_so() {
    let _one = one_at_a_time();
    let folder = tempfile::tempdir().unwrap();
    let init = folder.path().join("no-program");
    fs::write(&init, "this is no program").unwrap();
    let mut vm = start(folder.path(), &init, LIMIT);
    assert_eq!(vm.wait().unwrap(), End::Panicked);
    let console = fs::read_to_string(folder.path().join("console.log")).unwrap();
    assert!(console.contains("Kernel panic"), "{console}");
}

#[test]
fn a_time_limit_ends_the_guest_and_its_streams() {
    let _one = one_at_a_time();
    let folder = tempfile::tempdir().unwrap();
    let mut vm = start(folder.path(), guest_init(), Duration::from_millis(200));
    let mut trace = vm.port(TRACE_PORT).unwrap();
    assert_eq!(vm.wait().unwrap(), End::TimeLimit);
    let ended = trace.read(&mut [0]);
    assert!(matches!(&ended, Ok(0)) || ended.is_err(), "{ended:?}");
}

#[test]
fn a_dropped_guest_and_one_told_to_quit_leave_no_process() {
    let _one = one_at_a_time();
    let folder = tempfile::tempdir().unwrap();
    let mut vm = start(folder.path(), guest_init(), LIMIT);
    let status = vm.execute("query-status", &serde_json::json!({})).unwrap();
    assert_eq!(status["status"], "running");
    let proc = format!("/proc/{}", vm.id());
    assert_eq!(vm.quit().unwrap(), End::Quit);
    assert!(!Path::new(&proc).exists());

    let folder = tempfile::tempdir().unwrap();
    let vm = start(folder.path(), guest_init(), LIMIT);
    let proc = format!("/proc/{}", vm.id());
    assert!(Path::new(&proc).exists());
    drop(vm);
    assert!(!Path::new(&proc).exists());
}
