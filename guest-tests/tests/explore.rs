//! `guest-tests explore` as a user or CI starts it: what it finds in each dialect, how it ends, and that what it keeps can be played.

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The program under test: as built for users, where scripts/test says it is, since that one is fast.
fn program() -> PathBuf {
    match std::env::var_os("GUEST_TESTS_PROGRAMS") {
        Some(folder) => Path::new(&folder).join("guest-tests"),
        None => env!("CARGO_BIN_EXE_guest-tests").into(),
    }
}

fn explore(words: &[&str]) -> Output {
    Command::new(program()).arg("explore").args(words).output().expect("it starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A dialect, its findings, and the scopes to look in; of all with every defect off none.
const EXPECTED: &[(&str, &str, &[&str])] = &[
    (
        "seed",
        "enomem_lock_leak/I14,dio_double_put/I3,dio_double_put/warns,dio_double_done/I12,dio_double_done/waits,range_sum/I9,\
         range_sum/I10,racy_flag,convert_after_error/I9,aio_pointer,enomem_lock_leak/waits,racy_flag/waits,racy_flag/I7",
        &["pages", "blocks", "waits", "two_writers", "two_interrupts", "direct", "two_directs", "mixed", "two_inodes"],
    ),
    ("per_bio", "inflated_range,convert_after_error,dio_free_unwritten/I6", &["two_interrupts", "direct"]),
    (
        "v3_10",
        "inflated_range,uninit_cleared_early,convert_after_error,dio_free_unwritten/I6",
        &["two_interrupts", "direct"],
    ),
    (
        "v3_11",
        "mapped_pages,convert_after_error/I9,dio_flag_zeroed/I7,dio_flag_zeroed/waits,dio_flag_zeroed/warns",
        &["blocks", "waits", "direct"],
    ),
    ("v5_10", "convert_after_error/I9", &["waits", "direct"]),
    ("v6_1", "convert_after_error/I9", &["pages"]),
    ("v6_12", "put_converts_after_error/I9", &["waits"]),
    ("v7_2", "none", &["waits", "direct"]),
];

fn scopes<'a>(names: &[&'a str]) -> Vec<&'a str> {
    names.iter().flat_map(|name| ["--scope", name]).collect()
}

#[test]
fn every_dialect_has_the_findings_it_should_and_no_other() {
    for (dialect, expected, names) in EXPECTED {
        for (bugs, expected) in [(&[][..], *expected), (&["--bugs", "none"], "none")] {
            let words = [&["--dialect", dialect, "--expect", expected], bugs, &scopes(names)].concat();
            let output = explore(&words);
            assert_eq!(output.status.code(), Some(0), "{words:?}: {}{}", text(&output.stdout), text(&output.stderr));
        }
    }
}

#[test]
fn what_it_keeps_is_played_again_and_carried_out_by_calls() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("found");
    let words = ["--dialect", "seed", "--scope", "direct", "--out", out.to_str().expect("text"), "--format", "json"];
    let output = explore(&words);
    assert_eq!(output.status.code(), Some(1), "nothing was expected: {}", text(&output.stderr));
    let explored: Value = serde_json::from_slice(&output.stdout).expect("one document");
    assert_eq!((&explored["exhaustive"], &explored["exit_code"]), (&Value::Bool(true), &Value::from(1)));
    let found = explored["found"].as_array().expect("a list");
    assert!(found.len() >= 5, "{found:#?}");
    for finding in found {
        let play = explore(&["--play", finding["schedule_file"].as_str().expect("a path")]);
        assert_eq!(play.status.code(), Some(0), "{finding}: {}", text(&play.stderr));
        assert!(text(&play.stdout).contains(">>> "), "{}", text(&play.stdout));
    }
    let calls = found.iter().find_map(|finding| finding["calls_file"].as_str()).expect("some interrupt nothing");
    let replica = Command::new(program())
        .args(["replica", "--dialect", "seed"])
        .stdin(std::fs::File::open(calls).expect("kept"))
        .output()
        .expect("it starts");
    assert_eq!(replica.status.code(), Some(0), "{}", text(&replica.stderr));
    let page = std::fs::read_to_string(out.join("report.html")).expect("kept");
    assert_eq!(page.matches("<svg class=\"sequence\"").count(), found.len());
}

#[test]
fn a_schedule_that_cannot_be_played_is_refused_by_its_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("bad.schedule");
    let head = "schedule 1\ndialect seed\nmax_pages 1\nblock_bits 12\nfiles W\n";
    std::fs::write(&file, format!("{head}writer1 start page:12:0\nwriter1 ext4_end_bio -\n")).expect("written");
    let output = explore(&["--play", file.to_str().expect("text")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output.stderr).contains("line 7: writer1 is in ext4_writepage here, not in ext4_end_bio"),
        "{output:?}"
    );
    let output = explore(&["--play", "/nowhere/at/all"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("cannot read the schedule /nowhere/at/all"), "{output:?}");
}

#[test]
fn a_schedule_that_shows_nothing_any_more_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("fixed.schedule");
    let schedule = "schedule 1\ndialect seed\nbugs none\nmax_pages 1\nblock_bits 12\nfiles W\nshows I14 enomem_lock_leak\n\
        writer1 start page:12:0\nwriter1 ext4_writepage -\nwriter1 ext4_writepage no_memory\n";
    std::fs::write(&file, schedule).expect("written");
    let output = explore(&["--play", file.to_str().expect("text")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("does not show I14 enomem_lock_leak any more"), "{output:?}");
}

#[test]
fn findings_that_differ_from_those_expected_are_no_success() {
    for (expect, said) in [("none", "finding    I14"), ("enomem_lock_leak,range_sum", "missing    range_sum")] {
        let words =
            ["--dialect", "seed", "--bugs", "enomem_lock_leak", "--scope", "pages", "--pages", "1", "--expect", expect];
        let output = explore(&words);
        assert_eq!(output.status.code(), Some(1), "{expect}");
        assert!(text(&output.stdout).contains(said), "{}", text(&output.stdout));
    }
}

#[test]
fn a_limit_is_no_pass() {
    for limit in [["--max-states", "500"], ["--max-memory-mib", "1"]] {
        let output = explore(&[&["--dialect", "v7_2", "--scope", "pages"][..], &limit].concat());
        assert_eq!(output.status.code(), Some(3), "{}", text(&output.stdout));
        assert!(text(&output.stdout).contains("what lies beyond was not searched"), "{}", text(&output.stdout));
    }
}

#[test]
fn wrong_arguments_are_refused_with_what_is_right() {
    for (words, named) in [
        (&["--dialect", "seed", "--scope", "page"][..], "two_writers"),
        (&["--dialect", "seed", "--expect", "b5"], "range_sum"),
        (&["--dialect", "seed", "--expect", "range_sum/I99"], "I15"),
        (&["--dialect", "seed", "--pages", "9"], "1..=8"),
        (&["--dialect", "seed", "--block-size", "512"], "1024"),
        (&["--dialect", "seed", "--pages", "8", "--block-size", "1024"], "fewer --pages"),
        (&[], "--dialect"),
        (&["--dialect", "seed", "--play", "x"], "--play"),
    ] {
        let output = explore(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(text(&output.stderr).contains(named), "{output:?}");
    }
}

/// What was searched until then is told.
#[test]
fn ctrl_c_ends_it_with_what_it_has() {
    let words =
        ["explore", "--dialect", "seed", "--scope", "mixed", "--pages", "3", "--writers", "3", "--direct-writes", "3"];
    let mut child =
        Command::new(program()).args(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    // It catches the signal before it says what it searches.
    let mut progress = String::new();
    let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
    stderr.read_line(&mut progress).expect("it says something");
    assert!(progress.starts_with("searching mixed"), "{progress}");
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it is there");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(130));
    let said = text(&output.stdout);
    assert!(said.contains("scope      mixed") && said.contains("stopped    by the user"), "{said}");
}
