//! The night itself, without guests: what is killed loses nothing and counts nothing twice, parts come to the same as a whole,
//! and every way to ask for the wrong thing is told.
//!
//! `--pretend` makes results up in a few milliseconds each; everything else is what a real night does.

#![allow(clippy::unwrap_used, reason = "a test ends there")]

use night_results::{Ledger, read_ledger};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A night without guests, in a working directory of its own.
fn nightly(dir: &Path, out: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_guest-tests"));
    command.current_dir(dir).args(["nightly", "--pretend", "2", "--no-standing", "--out", out]).args(more);
    if !more.contains(&"--jobs") {
        command.args(["--jobs", "2"]);
    }
    for name in ["SLURM_ARRAY_TASK_ID", "PARALLEL_SEQ", "JOB_COMPLETION_INDEX", "GUEST_TESTS_SHARDS"] {
        command.env_remove(name);
    }
    command
}

fn run(dir: &Path, out: &str, more: &[&str]) -> Output {
    nightly(dir, out, more).output().unwrap()
}

fn ledger(night: &Path) -> Ledger {
    read_ledger("results.jsonl", &std::fs::read(night.join("results.jsonl")).unwrap()).unwrap()
}

/// Outcome by unit: what may not depend on how a night was run.
fn outcomes(night: &Path) -> BTreeMap<String, String> {
    let line = |line: &night_results::ResultLine| (line.unit.to_string(), format!("{:?}", line.outcome));
    ledger(night).lines.values().map(line).collect()
}

/// The same units with the same outcome; of a difference only what differs is told.
fn must_be_the_same(one: &Path, other: &Path) {
    let (one, other) = (outcomes(one), outcomes(other));
    let only = |these: &BTreeMap<String, String>, those: &BTreeMap<String, String>| {
        these
            .iter()
            .filter(|(unit, outcome)| those.get(*unit) != Some(outcome))
            .map(|(unit, _)| unit.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!((only(&one, &other), only(&other, &one)), (Vec::new(), Vec::new()));
}

fn names(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Ended with this code, and said this.
fn must(output: &Output, code: i32, text: &str) {
    assert_eq!(output.status.code(), Some(code), "{}", said(output));
    assert!(said(output).contains(text), "{text:?} is not in: {}", said(output));
}

/// Numbers that are not the same twice in one run, and the same in every run.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[test]
fn killed_at_twenty_moments_a_night_loses_nothing_and_counts_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    // Nights that lie side by side: each would run first what failed in the other.
    let asked = ["--seeds", "0..2", "--no-old"];
    let whole = run(dir.path(), "whole", &asked);
    assert_eq!(whole.status.code(), Some(1), "{}", said(&whole));
    let mut chance = Chance(6);
    let night = dir.path().join("killed");
    let mut over = 0;
    for kill in 0..20 {
        let mut child = quiet(nightly(dir.path(), "killed", &asked));
        // After a moment of work, so that no kill falls before the first and none after the last of them.
        let wanted = over + 1 + chance.below(20) as usize;
        wait_for_lines(&night, wanted, &mut child);
        std::thread::sleep(Duration::from_micros(chance.below(4000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let now = ledger(&night).lines.len();
        assert!(now >= wanted.min(514), "kill {kill}: {now} units are over, {wanted} were");
        over = now;
    }
    assert!(over < 514, "the last kill came after the end");
    let ended = run(dir.path(), "killed", &asked);
    assert_eq!(ended.status.code(), Some(1), "{}", said(&ended));
    must_be_the_same(&night, &dir.path().join("whole"));
    assert_eq!(names(&night.join("failures")), names(&dir.path().join("whole/failures")));
    assert_eq!(names(&night.join("working")), [""; 0], "nothing is left of units under way");
}

fn quiet(mut command: Command) -> Child {
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits until so many lines are whole. Reading while another writes sees what a kill at this moment would leave.
fn wait_for_lines(night: &Path, wanted: usize, child: &mut Child) {
    let since = Instant::now();
    let file = night.join("results.jsonl");
    while std::fs::read(&file).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count() < wanted {
        assert!(since.elapsed() < Duration::from_secs(120), "{} does not grow", file.display());
        if child.try_wait().unwrap().is_some() {
            return;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

#[test]
fn parts_come_to_the_same_as_the_whole_in_any_order() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), "whole", &["--seeds", "0.240..3.10", "--no-old"]);
    for shard in ["0/3", "1/3", "2/3"] {
        run(dir.path(), "parts", &["--seeds", "0.240..3.10", "--no-old", "--shard", shard]);
    }
    let part = |n: u32| format!("parts/shard-{n}-of-3");
    let merged = |out: &str, parts: &[String]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_guest-tests"));
        let output = command.current_dir(dir.path()).arg("merge").args(parts).args(["--out", out]).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        std::fs::read(dir.path().join(out).join("results.jsonl")).unwrap()
    };
    let all = merged("parts", &[part(0), part(1), part(2)]);
    assert_eq!(merged("other", &[part(2), part(0), part(1)]), all, "another order");
    merged("two", &[part(1), part(2)]);
    assert_eq!(merged("steps", &["two".into(), part(0)]), all, "merged in two steps");
    assert_eq!(merged("twice", &["other".into(), "parts".into(), part(0)]), all, "the same results twice");
    must_be_the_same(&dir.path().join("parts"), &dir.path().join("whole"));
    assert_eq!(names(&dir.path().join("parts/failures")), names(&dir.path().join("whole/failures")));
    let whole = dir.path().join("whole");
    let again = run(dir.path(), "whole", &["--seeds", "0.240..3.10", "--no-old"]);
    assert_eq!((again.status.code(), ledger(&whole).lines.len()), (Some(1), outcomes(&whole).len()));
}

#[test]
fn the_environment_of_an_engine_says_which_part_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let seeds = ["--seeds", "0.250..2.5"];
    let slurm = [("SLURM_ARRAY_TASK_ID", "1"), ("SLURM_ARRAY_TASK_MIN", "0"), ("SLURM_ARRAY_TASK_MAX", "1")];
    let slurm = nightly(dir.path(), "slurm", &seeds).envs(slurm).env("SLURM_ARRAY_TASK_COUNT", "2").output().unwrap();
    let parallel = nightly(dir.path(), "parallel", &["--seeds", "0.250..2.5", "--shards", "2"])
        .env("PARALLEL_SEQ", "2")
        .output()
        .unwrap();
    for (output, name) in [(slurm, "slurm"), (parallel, "parallel")] {
        let part = dir.path().join(name).join("shard-1-of-2");
        let fresh = outcomes(&part).into_keys().filter(|unit| !unit.starts_with("canary")).collect::<Vec<_>>();
        assert!(fresh.len() == 256 && fresh.iter().all(|unit| unit.starts_with("1.")), "{}", said(&output));
    }
    let both = nightly(dir.path(), "both", &seeds).env("PARALLEL_SEQ", "1").output().unwrap();
    must(&both, 2, "--shards N");
}

#[test]
fn a_night_that_goes_on_is_asked_the_same_and_by_one_process() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), "night", &["--seeds", "0.0..0.5"]);
    must(&run(dir.path(), "night", &["--seeds", "0.0..0.6"]), 2, "--seeds: 0.0..0.5 there, 0.0..0.6 here");
    must(&run(dir.path(), "night", &["--seeds", "0.0..0.5", "--kernels", "6.1"]), 2, "--kernels");
    let mut first = quiet(nightly(dir.path(), "long", &["--seeds", "0..9"]));
    wait_for_lines(&dir.path().join("long"), 1, &mut first);
    must(&run(dir.path(), "long", &["--seeds", "0..9"]), 2, "another process is at work");
    first.kill().unwrap();
    first.wait().unwrap();
}

#[test]
fn the_next_night_begins_behind_the_last_one_with_what_failed() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), "nights/1", &["--seeds", "0..1"]);
    std::fs::write(dir.path().join("nights/1/summary.json"), "{}").unwrap();
    // One job: two of them end their first units in either order.
    let second = run(dir.path(), "nights/2", &["--until", "2", "--jobs", "1"]);
    let units = outcomes(&dir.path().join("nights/2"));
    assert!(units.contains_key("1.0") && !units.contains_key("0.0"), "{}", said(&second));
    let old: Vec<&String> = units.keys().filter(|unit| unit.starts_with("old/0.")).collect();
    assert!(!old.is_empty(), "{units:?}");
    let file = std::fs::read_to_string(dir.path().join("nights/2/results.jsonl")).unwrap();
    assert!(file.find("\"old/").unwrap() < file.find("\"1.0\"").unwrap(), "what failed before runs first");
    std::fs::write(dir.path().join("nights/2/summary.json"), "{}").unwrap();
    must(&run(dir.path(), "nights/3", &["--until", "1"]), 2, "the last night came up to 2.0");
}

#[test]
fn time_ends_a_night_and_so_does_the_user_with_a_report_of_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let short = run(dir.path(), "short", &["--minutes", "0.01"]);
    assert!(matches!(short.status.code(), Some(0 | 1)), "{}", said(&short));
    assert!(ledger(&dir.path().join("short")).lines.len() > 2);
    for signal in [nix::sys::signal::SIGINT, nix::sys::signal::SIGTERM] {
        let out = format!("{signal}");
        let mut child = nightly(dir.path(), &out, &["--hours", "1"]).stdout(Stdio::piped()).spawn().unwrap();
        wait_for_lines(&dir.path().join(&out), 3, &mut child);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id() as i32), signal).unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130));
        assert!(String::from_utf8_lossy(&output.stdout).contains("night "), "what there is, is told");
        let state = std::fs::read_to_string(dir.path().join(&out).join("state.json")).unwrap();
        assert!(state.contains("interrupted"), "{state}");
    }
}

#[test]
fn what_cannot_be_asked_is_told_before_anything_is_run() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("mine")).unwrap();
    std::fs::write(dir.path().join("mine/thesis.tex"), "precious").unwrap();
    std::fs::write(
        dir.path().join("bad.json"),
        r#"[{"signature": "x", "reason": "r", "link": "l", "expires": "soon"}]"#,
    )
    .unwrap();
    let cases: &[(&str, &[&str], &str)] = &[
        ("a", &[], "--hours, --minutes, --until or --seeds"),
        ("a", &["--seeds", "3..3"], "there are no seeds in 3..3"),
        ("a", &["--seeds", "3"], "FROM..UNTIL"),
        ("a", &["--seeds", "0..1", "--hours", "0"], "above 0"),
        ("a", &["--seeds", "0..1", "--shard", "2/2"], "there is no shard 2/2"),
        ("a", &["--seeds", "0..1", "--shards", "2"], "--shard I/2"),
        ("a", &["--seeds", "0..1", "--kernels", "4.19"], "a kernel of your own goes with --kernel"),
        ("a", &["--seeds", "0..1", "--last", "nowhere"], "is not the folder of a night"),
        ("a", &["--seeds", "0..1", "--known", "nowhere.json"], "cannot read nowhere.json"),
        ("a", &["--seeds", "0..1", "--known", "bad.json"], "bad.json:1: entry 0: expires is \"soon\""),
        ("mine", &["--seeds", "0..1"], "mine holds thesis.tex"),
    ];
    for (out, more, text) in cases {
        must(&run(dir.path(), out, more), 2, text);
    }
    assert_eq!(names(dir.path()), ["bad.json", "mine"], "nothing was begun");
}

#[test]
fn a_damaged_ledger_is_refused_with_its_line_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), "night", &["--seeds", "0.0..0.5"]);
    let file: PathBuf = dir.path().join("night/results.jsonl");
    let damaged = std::fs::read_to_string(&file).unwrap().replacen("\"plain\"", "\"plian\"", 1);
    std::fs::write(&file, &damaged).unwrap();
    must(&run(dir.path(), "night", &["--seeds", "0.0..0.5"]), 2, "results.jsonl:1: ");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), damaged);
}

#[test]
fn without_qemu_a_night_ends_before_the_first_scenario() {
    if Path::new("/usr/sbin/qemu-system-x86_64").exists() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_guest-tests"))
        .current_dir(dir.path())
        .args(["nightly", "--no-standing", "--seeds", "0..1", "--out", "night"])
        .env("PATH", dir.path())
        .output()
        .unwrap();
    must(&output, 4, "qemu-system-x86_64 is not installed; run scripts/setup");
    assert!(!dir.path().join("night").exists());
}

#[test]
fn a_host_that_has_no_room_ends_the_night_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let full = dir.path().join("full");
    std::fs::create_dir(&full).unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "none"]).arg(&full).output();
    if !mount.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: only root may mount a small file system");
        return;
    }
    let output = run(dir.path(), "full/night", &["--seeds", "0..1"]);
    Command::new("umount").arg(&full).status().unwrap();
    must(&output, 4, "MiB free");
}
