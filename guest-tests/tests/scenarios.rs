//! Every scenario through the real programs: a real QEMU, a stock kernel, a faulty disk, a verdict.
//!
//! One guest at a time. Where QEMU, a program of ours or the kernel is missing, these tests fail and say what mends it:
//! a skipped guest would look like a judged one.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One guest at a time: they share the machine.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The three programs side by side, as scripts/build leaves them.
fn program() -> PathBuf {
    let folder = match std::env::var_os("GUEST_TESTS_PROGRAMS") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_BIN_EXE_guest-tests")).with_file_name("../release"),
    };
    let program = folder.join("guest-tests");
    assert!(
        program.is_file(),
        "{} is not there: run scripts/build, or scripts/test, which does (GUEST_TESTS_PROGRAMS names the folder)",
        program.display()
    );
    program
}

fn scenario(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(format!("{name}.json"))
}

struct Ran {
    folder: tempfile::TempDir,
    code: Option<i32>,
    verdict: Value,
    stderr: String,
}

impl Ran {
    fn lines(&self, file: &str) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.path().join(file)).expect("a run writes it");
        text.lines().map(|line| serde_json::from_str(line).expect("one JSON document per line")).collect()
    }

    fn findings(&self) -> Vec<&str> {
        let list = self.verdict["findings"].as_array().expect("findings is a list");
        list.iter().map(|finding| finding["id"].as_str().expect("an id")).collect()
    }

    /// Exit code and word, with everything there is to know if they are others.
    fn must_be(&self, code: i32, word: &str) {
        let is = (self.code, self.verdict["verdict"].as_str());
        assert_eq!(is, (Some(code), Some(word)), "{}\n{:#}", self.stderr, self.verdict);
    }

    /// Judging the folder again gives the same bytes.
    fn must_replay(&self) {
        let output = start(&["replay".as_ref(), self.folder.path().as_ref(), "--format".as_ref(), "json".as_ref()]);
        let recorded = std::fs::read(self.folder.path().join("verdict.json")).expect("a run writes it");
        assert!(output.stdout == recorded, "another verdict: {}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(output.status.code(), self.code);
    }

    fn must_have_every_file(&self) {
        for file in [
            "scenario.json",
            "script.normalized.json",
            "device.jsonl",
            "decisions.jsonl",
            "ops.jsonl",
            "guest.raw",
            "guest.log",
            "probes.txt",
            "guest.jsonl",
            "replica.jsonl",
            "verdict.json",
            "console.log",
            "qemu.log",
            "report.html",
        ] {
            assert!(self.folder.path().join(file).is_file(), "{file} is missing");
        }
        assert!(!self.folder.path().join("disk.img").exists(), "the image is kept only on request");
    }
}

fn start(args: &[&std::ffi::OsStr]) -> Output {
    Command::new(program()).args(args).output().expect("it was there a moment ago")
}

/// Runs a scenario. A slow machine may take long; a guest that hangs is ended by the run's own limit.
fn run(name: &str, more: &[&str]) -> Ran {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let scenario = scenario(name);
    let mut args: Vec<&std::ffi::OsStr> =
        vec!["run".as_ref(), scenario.as_ref(), "--out".as_ref(), folder.path().as_ref()];
    args.extend(["--format", "json", "--time-limit", "600"].map(std::ffi::OsStr::new));
    args.extend(more.iter().map(std::ffi::OsStr::new));
    let output = start(&args);
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let verdict =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("no JSON on stdout ({error}): {stderr}"));
    let ran = Ran { folder, code: output.status.code(), verdict, stderr };
    assert_ne!(
        ran.code,
        Some(4),
        "this machine cannot run guests; `guest-tests doctor` says what mends it: {}",
        ran.stderr
    );
    ran
}

/// A scenario that must come out as its file says, with exit code 0.
fn as_expected(name: &str) -> Ran {
    let ran = run(name, &[]);
    ran.must_be(0, "same");
    assert_eq!(ran.verdict["as_expected"], true);
    assert_eq!(ran.verdict["oracles"]["end_state"], "pass");
    ran.must_have_every_file();
    ran.must_replay();
    ran
}

fn count(lines: &[Value], ev: &str, io_end: &Value) -> usize {
    lines.iter().filter(|line| line["ev"] == ev && line["io_end"] == *io_end).count()
}

#[test]
fn four_bios_share_one_io_end_and_the_worker_converts() {
    let _guard = one_at_a_time();
    let ran = as_expected("clean-interleaved");
    assert_eq!(ran.findings(), [""; 0]);
    let guest = ran.lines("guest.jsonl");
    let mut queued = guest.iter().filter(|line| line["ev"] == "add_complete_io").map(|line| &line["io_end"]);
    let shared = queued.find(|io_end| count(&guest, "submit_bio", io_end) >= 4);
    assert!(shared.is_some(), "no io_end with four bios went to the worker");
}

#[test]
fn a_limit_of_segments_makes_many_requests_of_one_bio() {
    let _guard = one_at_a_time();
    let ran = as_expected("guest-splits");
    let device = ran.lines("device.jsonl");
    let sectors = |line: &Value| line["sectors"].as_u64().unwrap_or(0);
    let writes = device.iter().filter(|line| line["ev"] == "issue" && line["op"] == "write");
    assert!(writes.clone().all(|line| sectors(line) <= 64), "a request has more than 8 pages");
    assert!(writes.count() >= 128, "4 MiB in requests of 32 KiB");
}

#[test]
fn pieces_in_shuffled_order_do_not_show() {
    let _guard = one_at_a_time();
    let ran = as_expected("split-shuffled");
    assert!(ran.lines("device.jsonl").iter().any(|line| line["ev"] == "piece"), "no request was split");
}

#[test]
fn answers_in_reverse_order_do_not_show() {
    let _guard = one_at_a_time();
    as_expected("reorder-reverse");
}

#[test]
fn a_disk_that_grows_in_use_is_taken_at_its_new_size() {
    let _guard = one_at_a_time();
    let ran = as_expected("disk-grows");
    let device = ran.lines("device.jsonl");
    let resized = device.iter().find(|line| line["ev"] == "resize").expect("the device's record says so");
    assert_eq!((&resized["capacity_sectors"], &resized["notified"]), (&262_144.into(), &true.into()));
    let log = std::fs::read_to_string(ran.folder.path().join("guest.log")).expect("a run writes it");
    assert!(log.contains("new size: 262144 512-byte logical blocks"), "{log}");
}

#[test]
fn a_disk_that_leaves_in_the_middle_of_a_writeback_and_comes_back_does_not_show() {
    let _guard = one_at_a_time();
    let ran = as_expected("disk-comes-back");
    let device = ran.lines("device.jsonl");
    let whys: Vec<&Value> = device.iter().filter(|line| line["ev"] == "session").map(|line| &line["why"]).collect();
    assert_eq!(
        whys.iter().filter(|why| **why == "disconnect").count(),
        3,
        "two of the script, one of the end: {whys:?}"
    );
    let left =
        device.iter().rposition(|line| line["ev"] == "session" && line["why"] == "connect").expect("it came back");
    assert!(
        device[left..].iter().any(|line| line["ev"] == "issue" && line["op"] == "write"),
        "and the writeback went on"
    );
}

#[test]
fn answers_late_by_a_distribution_do_not_show() {
    let _guard = one_at_a_time();
    as_expected("delay-distribution");
}

#[test]
fn three_sectors_reach_the_disk_and_the_image_shows_exactly_that() {
    let _guard = one_at_a_time();
    let ran = as_expected("partial");
    let errnos: Vec<Value> = ran
        .lines("ops.jsonl")
        .into_iter()
        .filter(|line| line["args"]["op"] == "fsync")
        .map(|line| line["result"]["errno"].clone())
        .collect();
    assert_eq!(errnos, [Value::Null, Value::from("EIO"), Value::Null], "EIO once, then 0");
}

#[test]
fn an_extent_converted_after_a_failed_write_shows_the_disks_past() {
    let _guard = one_at_a_time();
    let ran = as_expected("stale-after-error");
    assert_eq!(ran.findings(), ["converted-after-failed-write", "stale-data-read"]);
    assert!(ran.verdict["findings"][1]["disk_block"].is_u64(), "the finding names the block");
}

#[test]
fn a_finding_nobody_expected_fails_the_run() {
    let _guard = one_at_a_time();
    let ran = run("stale-after-error-unexpected", &[]);
    ran.must_be(1, "same");
    assert_eq!(ran.verdict["as_expected"], false);
    ran.must_replay();
}

#[test]
fn a_script_that_never_fires_is_not_judged() {
    let _guard = one_at_a_time();
    run("never-fires", &[]).must_be(3, "unjudged");
}

#[test]
fn a_planted_mistake_is_found_at_its_place() {
    let _guard = one_at_a_time();
    let ran = run("clean-interleaved", &["--canary", "convert_one_block_less"]);
    ran.must_be(1, "different");
    let difference = &ran.verdict["first_difference"];
    assert_eq!(difference["guest"]["ev"], "convert_unwritten", "{difference:#}");
    assert_eq!(difference["replica"]["ev"], "convert_unwritten", "{difference:#}");
    ran.must_replay();
}

#[test]
fn what_is_wrong_before_anything_starts_has_exit_code_2_and_starts_nothing() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let bad = dir.path().join("bad.json");
    let text = std::fs::read_to_string(scenario("never-fires")).expect("it is in the tree");
    std::fs::write(&bad, text.replace("\"nth\"", "\"nht\"")).expect("written");
    let out = dir.path().join("out");
    let output = start(&["run".as_ref(), bad.as_ref(), "--out".as_ref(), out.as_ref()]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("nht") && said.contains("did you mean"), "{said}");
    assert!(!out.exists(), "a run was begun");
    assert_eq!(start(&["explore".as_ref()]).status.code(), Some(2));
}

/// A run that a test breaks, and the processes it has started.
struct Broken {
    folder: tempfile::TempDir,
    run: std::process::Child,
    children: Vec<(i32, String)>,
}

/// Starts a run and waits until disk and guest are there.
fn start_to_break() -> Broken {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new(program());
    command.arg("run").arg(scenario("clean-interleaved")).arg("--out").arg(folder.path());
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
    let mut run = command.spawn().expect("it was there a moment ago");
    loop {
        let children = children(run.id());
        if children.len() == 2 {
            // Not at the very start: QEMU shall be at work.
            std::thread::sleep(std::time::Duration::from_millis(300));
            return Broken { folder, run, children };
        }
        assert!(run.try_wait().expect("our own child").is_none(), "the run ended before its guest was up");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// Processes whose parent is `parent`, with their names; not the short-lived tools that make the image.
fn children(parent: u32) -> Vec<(i32, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("Linux has /proc").flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let (Some(open), Some(close)) = (stat.find('('), stat.rfind(')')) else { continue };
        let name = &stat[open + 1..close];
        let of_parent = stat[close + 1..].split_whitespace().nth(1) == Some(&parent.to_string());
        if of_parent && (name.starts_with("qemu-system") || name == "vhost-blk") {
            found.push((stat[..open].trim().parse().expect("a pid"), name.to_owned()));
        }
    }
    found
}

impl Broken {
    fn pid_of(&self, name: &str) -> i32 {
        self.children.iter().find(|(_, child)| child.starts_with(name)).expect("it was started").0
    }

    fn signal(&self, pid: i32, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("it lives");
    }

    /// Exit code and stderr; and nothing that was started is left, on the machine or of the image.
    fn end(self) -> (Option<i32>, String) {
        let output = self.run.wait_with_output().expect("our own child");
        for (pid, name) in &self.children {
            let gone = || !Path::new(&format!("/proc/{pid}")).exists();
            let waited = (0..2000).find(|_| {
                std::thread::sleep(std::time::Duration::from_millis(10));
                gone()
            });
            assert!(waited.is_some(), "{name} ({pid}) outlived its run");
        }
        if output.status.code().is_some() {
            assert!(!self.folder.path().join("disk.img").exists(), "the image is left behind");
        }
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

#[test]
fn ctrl_c_ends_everything_with_130() {
    let _guard = one_at_a_time();
    let broken = start_to_break();
    broken.signal(broken.run.id().cast_signed(), nix::sys::signal::Signal::SIGINT);
    let (code, said) = broken.end();
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("ended by Ctrl-C"), "{said}");
}

#[test]
fn a_killed_qemu_or_disk_is_named_and_the_run_is_not_judged() {
    let _guard = one_at_a_time();
    for (victim, sentence) in
        [("qemu", "QEMU ended (killed by signal 9)"), ("vhost-blk", "vhost-blk was killed by signal 9")]
    {
        let broken = start_to_break();
        broken.signal(broken.pid_of(victim), nix::sys::signal::Signal::SIGKILL);
        let (code, said) = broken.end();
        assert_eq!(code, Some(4), "{said}");
        assert!(said.contains(sentence), "{said}");
    }
}

#[test]
fn nothing_outlives_a_killed_run_and_its_folder_is_no_recording() {
    let _guard = one_at_a_time();
    let broken = start_to_break();
    broken.signal(broken.run.id().cast_signed(), nix::sys::signal::Signal::SIGKILL);
    let folder = broken.folder.path().to_owned();
    let left = start(&["replay".as_ref(), folder.as_ref()]);
    assert_eq!(left.status.code(), Some(2), "a folder that was never finished is no recording");
    assert_eq!(broken.end().0, None);
}
