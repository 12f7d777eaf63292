//! Signatures of real recordings: written down in tests/triage/signatures.txt (`REWRITE=1` writes them anew; read before
//! committing), the same whatever the numbers, another for another mistake.

mod guests;

use guest_tests::folder::RunFolder;
use guest_tests::judge::{self, Recorded};
use guest_tests::triage::{Signature, signature};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};

fn recordings() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings");
    let entries = std::fs::read_dir(dir).expect("the recordings are in the tree");
    let mut folders: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    folders.sort();
    folders
}

fn read(path: &Path) -> Recorded {
    let folder = RunFolder::open(path).unwrap_or_else(|failure| panic!("{failure}"));
    judge::read(&folder).unwrap_or_else(|failure| panic!("{failure}"))
}

fn named(recorded: &Recorded) -> Option<Signature> {
    let judged = judge::judge(recorded).unwrap_or_else(|failure| panic!("{failure}"));
    signature(recorded, &judged)
}

fn name(path: &Path) -> String {
    path.file_name().expect("a folder").to_string_lossy().into_owned()
}

/// Mistakes of the replica that a recording shows; each must have a name of its own.
const MISTAKES: &[(&str, &str)] = &[
    ("stale-after-error", "unwritten_flag_lost"),
    ("stale-after-error", "get_counts_twice"),
    ("stale-after-error", "bio_error_dropped"),
    ("data-err-abort-6.12", "abort_ignored"),
    ("clean-interleaved", "release_without_convert"),
];

#[test]
fn the_signatures_of_the_recordings_are_those_written_down() {
    let mut text = String::new();
    let mut line = |what: &str, signature: Option<Signature>| match signature {
        Some(signature) => {
            let with: String = signature.with.iter().map(|with| format!("\n    with {with}")).collect();
            writeln!(text, "{what}\n    {} {signature}{with}", signature.id())
        }
        None => writeln!(text, "{what}\n    nothing to report"),
    };
    for path in recordings() {
        line(&name(&path), named(&read(&path))).expect("a String takes everything");
    }
    for (recording, mistake) in MISTAKES {
        let mut recorded = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings").join(recording));
        recorded.host.canary = Some((*mistake).to_owned());
        line(&format!("{recording}, judged by a replica with {mistake}"), named(&recorded))
            .expect("a String takes everything");
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/triage/signatures.txt");
    if std::env::var_os("REWRITE").is_some() {
        std::fs::write(&file, &text).expect("writable");
    }
    assert_eq!(text, std::fs::read_to_string(&file).expect("it is in the tree"));
}

/// A copy of a recording before which `by` more requests had come.
fn behind_other_requests(path: &Path, by: u64) -> tempfile::TempDir {
    let copy = tempfile::tempdir().expect("a temporary folder");
    for entry in std::fs::read_dir(path).expect("the recordings are in the tree") {
        let (from, name) = entry.map(|entry| (entry.path(), entry.file_name())).expect("readable");
        let to = copy.path().join(&name);
        if name != "device.jsonl" && name != "decisions.jsonl" {
            std::fs::copy(&from, &to).expect("room");
            continue;
        }
        let text = std::fs::read_to_string(&from).expect("readable");
        let lines = text.lines().map(|line| {
            let mut line: serde_json::Value = serde_json::from_str(line).expect("JSON");
            if let Some(seq) = line["seq"].as_u64() {
                line["seq"] = (seq + by).into();
            }
            line.to_string() + "\n"
        });
        std::fs::write(&to, lines.collect::<String>()).expect("room");
    }
    copy
}

/// Every number that a recording has of its own: where in the trace, how many requests came before, when and where.
fn with_other_numbers(recorded: &mut Recorded, by: u64) {
    let trace = recorded.trace.as_mut().expect("the recording has a trace");
    trace.entries.iter_mut().for_each(|entry| entry.seq = entry.seq * 3 + by);
    for op in &mut trace.ops {
        op.begins = op.begins * 3 + by;
        op.ends = op.ends.map(|(seq, errno)| (seq * 3 + by, errno));
    }
    let device = recorded.device.as_mut().expect("the recording has a device's record");
    device.requests.iter_mut().for_each(|request| request.arrived_ns += by);
    let decisions = recorded.decisions.as_mut().expect("the recording has decisions");
    for record in &mut decisions.records {
        record.match_number += by;
        record.touch += by;
    }
    for line in &mut recorded.ops {
        line.result.iter_mut().for_each(|result| result.elapsed_us += by);
    }
    recorded.host.phases.iter_mut().for_each(|phase| phase.took_ms += by);
    // Its numbers are those of the record, which are others now; without it an error of the disk is possible at any time.
    recorded.order = Err("renumbered".to_owned());
    recorded.kernel_log = recorded.kernel_log.replace("[    ", &format!("[   {}", by % 10));
}

#[test]
fn other_numbers_in_a_recording_do_not_change_its_signature() {
    for name in ["stale-after-error", "stale-after-error-6.12", "data-err-abort-7.2"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings").join(name);
        let before = named(&read(&path));
        assert!(before.is_some(), "{name} has something to report");
        for by in [1, 17, 4096] {
            let copy = behind_other_requests(&path, by);
            let mut other = read(copy.path());
            with_other_numbers(&mut other, by);
            assert_eq!(named(&other), before, "{name} by {by}");
        }
    }
}

#[test]
fn what_broke_differently_is_named_differently() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings/stale-after-error");
    let mut seen = BTreeSet::new();
    let mut look = |change: &dyn Fn(&mut Recorded)| {
        let mut recorded = read(&path);
        change(&mut recorded);
        let signature = named(&recorded).expect("it is still a failure");
        assert!(seen.insert(signature.id()), "a second time: {signature}");
    };
    look(&|_| {});
    look(&|recorded| recorded.host.canary = Some("unwritten_flag_lost".into()));
    look(&|recorded| {
        recorded.kernel_log.push_str("[ 9.0] WARNING: CPU: 0 PID: 9 at fs/ext4/inode.c:17 ext4_writepages+0x1/0x2")
    });
    look(&|recorded| {
        recorded.kernel_log.push_str("[ 9.0] BUG: unable to handle page fault\nRIP: 0010:ext4_end_bio+0x1/0x2")
    });
    look(&|recorded| {
        recorded.decisions.as_mut().expect("decisions").records.clear();
        recorded.device.as_mut().expect("a record").requests.iter_mut().for_each(|request| request.answer = None);
    });
    look(&|recorded| recorded.trace = Err("cut off".into()));
    look(&|recorded| recorded.host.guest_end = guest_tests::host::GuestEnd::TimeLimit { seconds: 120 });
}

/// The script's means, the machine's pace, and what else was found are no part of a name.
#[test]
fn one_bug_has_one_name_however_it_was_brought_about() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings/stale-after-error");
    let original = named(&read(&path)).expect("a failure");
    assert_eq!(original.with, ["stale-data-read"]);
    let look = |change: &dyn Fn(&mut Recorded)| {
        let mut recorded = read(&path);
        change(&mut recorded);
        let signature = named(&recorded).expect("it is still a failure");
        assert_eq!(signature, original);
        signature.with
    };
    // Refused by an event, by a disk that says "unsupported", by one of whose answers nobody knows the meaning.
    look(&|recorded| recorded.decisions.as_mut().expect("decisions").records.clear());
    look(&|recorded| {
        for record in &mut recorded.decisions.as_mut().expect("decisions").records {
            if let fault_injection::event::Outcome::Error { status, .. } = &mut record.outcome {
                *status = 2;
            }
        }
    });
    let stall =
        "[ 9.0] rcu: INFO: rcu_preempt self-detected stall on CPU\n[ 9.0] Call Trace:\n[ 9.0]  delay_tsc+0x1/0x2\n";
    let with = look(&|recorded| recorded.kernel_log.push_str(stall));
    assert_eq!(with, original.with, "a machine that is slow is no finding");
    // A read that gave it away is gone.
    look(&|recorded| recorded.ops.clear());
}

#[test]
fn stale_data_has_another_name_where_blocks_count_as_written_at_once() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings/stale-after-error");
    let with = |change: &dyn Fn(&mut Recorded)| {
        let mut recorded = read(&path);
        change(&mut recorded);
        named(&recorded).expect("a failure").with
    };
    let mount = |options: &'static str| {
        move |recorded: &mut Recorded| recorded.scenario.filesystem.mount = vec![options.to_owned()]
    };
    let as_written = ["stale-data-read (blocks allocated as written)"];
    assert_eq!(with(&mount("dioread_lock")), as_written);
    assert_eq!(with(&mount("nodelalloc")), as_written);
    assert_eq!(with(&mount("data=journal")), ["stale-data-read (data in the journal)"]);
    let small = |recorded: &mut Recorded| recorded.scenario.filesystem.block_bytes = 1024;
    assert_eq!(with(&small), as_written, "6.1");
    let newer = |recorded: &mut Recorded| {
        small(recorded);
        recorded.host.kernel.release = "6.12.117+deb13-cloud-amd64".into();
    };
    assert_eq!(with(&newer), ["stale-data-read"]);
    assert_eq!(
        with(&|recorded| {
            small(recorded);
            mount("dioread_nolock")(recorded)
        }),
        ["stale-data-read"]
    );
}

#[test]
fn an_fsync_after_an_abort_is_told_from_one_before_it() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/triage/fsync-after-abort");
    let look = |change: &dyn Fn(&mut Recorded)| {
        let mut recorded = read(&path);
        change(&mut recorded);
        named(&recorded).expect("a failure").to_string()
    };
    let after = look(&|_| {});
    assert_eq!(after, "finding: what fsync promised after the journal aborted is not there");
    // The same loss, had the file been fsynced while the disk was in order.
    let before = look(&|recorded| {
        let fsync = recorded.ops[3].clone();
        recorded.ops[1] = guest_tests::ops::OpLine { index: 1, ..fsync };
    });
    assert_eq!(before, "finding: file-lost; after the journal aborted");
    let alive = look(&|recorded| recorded.kernel_log.clear());
    assert!(!alive.contains("abort"), "{alive}");
}

/// A real failure, just so many runs that the first operations go: what is left still fails, and repro.sh shows it. (The whole way, by hand: docs/triage.md.)
#[test]
fn a_recorded_failure_is_made_smaller_by_real_guests() {
    let _alone = guests::one_at_a_time();
    let out = tempfile::tempdir().expect("a temporary folder");
    let recording = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings/stale-after-error");
    let words = ["shrink", "--kernel", "6.1", "--budget-runs", "8", "--time-limit", "600", "--format", "json", "--out"];
    let mut words: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
    words.extend([out.path().as_os_str(), recording.as_os_str()]);
    let ended = guests::start(&words);
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(0), "{said}");
    let report: serde_json::Value = serde_json::from_slice(&ended.stdout).expect("one JSON document");
    assert_eq!((&report["confirmed"], &report["ended"]), (&true.into(), &"budget".into()), "{said}");
    let (before, after) = (report["ops"][0].as_u64(), report["ops"][1].as_u64());
    assert!(before > after, "{report}");
    let confirmed = named(&read(&out.path().join("run"))).expect("it fails");
    assert_eq!(Some(confirmed), named(&read(&recording)), "in the same way");
    for name in ["scenario.json", "script.json", "repro.sh", "shrunk.json"] {
        assert!(out.path().join(name).is_file(), "{name}");
    }
    assert!(!out.path().join("candidate").exists());
}

#[test]
fn a_bisect_of_nothing_is_refused_before_anything_starts() {
    let scenario = guests::scenario("stale-after-error");
    let clean = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings/clean-interleaved");
    let refused = |words: &[&OsStr], wanted: &str| {
        let ended = guests::start(&[&[OsStr::new("bisect")], words].concat());
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(2), "{said}");
        assert!(said.contains(wanted), "{said}");
    };
    let (kernels, commits) = (OsStr::new("--kernels"), OsStr::new("--commits"));
    refused(&[scenario.as_os_str()], "--kernels");
    refused(&[clean.as_os_str(), kernels, OsStr::new("5.10,6.1")], "nothing to report");
    refused(&[scenario.as_os_str(), commits, OsStr::new("HEAD")], "GOOD..BAD");
    refused(&[Path::new("nowhere.json").as_os_str(), kernels, OsStr::new("6.1")], "nowhere.json");
}
