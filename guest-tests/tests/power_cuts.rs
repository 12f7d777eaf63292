//! Power cuts under a real guest, and every state that they may leave, through the real programs.
//!
//! One guest at a time. What is missing on the machine fails these tests, with the sentence that mends it.

use serde_json::Value;
use std::ffi::OsStr;
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
    let beside = || Path::new(env!("CARGO_BIN_EXE_guest-tests")).with_file_name("../release");
    let folder = std::env::var_os("GUEST_TESTS_PROGRAMS").map_or_else(beside, PathBuf::from);
    let program = folder.join("guest-tests");
    assert!(program.is_file(), "{} is not there: run scripts/build, or scripts/test", program.display());
    program
}

fn guest_tests<T: AsRef<OsStr>>(args: &[T]) -> (Output, Value) {
    let output = Command::new(program()).args(args).args(["--format", "json"]).output().expect("it is there");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_ne!(output.status.code(), Some(4), "`guest-tests doctor` says what mends it: {said}");
    let document = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {said}"));
    (output, document)
}

struct Ran {
    folder: tempfile::TempDir,
    code: Option<i32>,
    verdict: Value,
}

impl Ran {
    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn crash_states(&self, more: &[&str]) -> (Option<i32>, Value) {
        let mut args: Vec<std::ffi::OsString> = vec!["crash-states".into(), self.path("states").into()];
        args.extend(more.iter().map(std::ffi::OsString::from));
        let (output, report) = guest_tests(&args);
        (output.status.code(), report)
    }

    /// The verdict as it stands in the folder now.
    fn durability(&self) -> Value {
        let text = std::fs::read_to_string(self.path("run/verdict.json")).expect("a run writes it");
        serde_json::from_str::<Value>(&text).expect("JSON")["oracles"]["durability"].clone()
    }

    /// Nothing but what the run and the examination are to leave.
    fn nothing_is_left_behind(&self) {
        let entries = std::fs::read_dir(self.path("states")).expect("listed");
        let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
        let strange: Vec<String> = names
            .filter(|name| !name.ends_with(".snap") && !["cuts.jsonl", "undo.log", "run.json"].contains(&&**name))
            .collect();
        assert_eq!(strange, [""; 0]);
    }
}

fn run(name: &str, snapshots: bool) -> Ran {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(format!("{name}.json"));
    let mut args = vec!["run".into(), scenario.into_os_string(), "--out".into()];
    args.extend([folder.path().join("run").into_os_string(), "--time-limit".into(), "600".into()]);
    if snapshots {
        args.extend(["--snapshot-dir".into(), folder.path().join("states").into_os_string()]);
    }
    let (output, verdict) = guest_tests(&args);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}\n{verdict:#}");
    Ran { folder, code: output.status.code(), verdict }
}

#[test]
fn every_state_of_eight_cuts_is_whole_and_has_what_was_fsynced_and_the_kernel_agrees() {
    let _guard = one_at_a_time();
    let ran = run("power-cuts-few", true);
    let (code, report) = ran.crash_states(&[]);
    assert_eq!(code, Some(0), "{report:#}");
    assert_eq!((&report["cuts"], &report["bad"]), (&Value::from(8), &Value::from(0)));
    assert!(report["distinct"].as_u64() >= Some(40), "{report:#}");
    assert!(report["images"].as_u64() < report["distinct"].as_u64(), "images met again are found");
    assert!(report["contents"]["promised_bytes"].as_u64() > Some(1 << 20), "{report:#}");
    let kernel = &report["kernel"];
    assert_eq!((&kernel["given"], &kernel["mounted"]), (&Value::from(8), &Value::from(8)), "{kernel:#}");
    assert_eq!((&kernel["disagreements"], &kernel["unjudged"]), (&Value::from(Vec::<Value>::new()), &Value::Null));
    assert!(kernel["files_alike"].as_u64() >= Some(16), "{kernel:#}");
    assert_eq!(ran.durability(), "pass");
    ran.nothing_is_left_behind();
}

/// The detector works: the same workload, a disk whose flush persists nothing.
#[test]
fn a_cache_that_lies_loses_what_was_fsynced_and_each_bad_state_is_shown_again_by_its_command() {
    let _guard = one_at_a_time();
    let ran = run("power-cuts-lying", true);
    let (code, report) = ran.crash_states(&["--no-kernel"]);
    assert_eq!(code, Some(1), "{report:#}");
    let bad = report["bad_states"].as_array().expect("a list");
    let promised =
        |state: &&Value| state["broken"].as_array().is_some_and(|list| list.iter().any(|b| b["promised"] == true));
    let lost = bad.iter().find(promised).expect("a state without what was fsynced");
    assert_eq!(ran.durability(), "fail");
    let file = lost["file"].as_str().expect("a file");
    assert!(lost["repeat"].as_str().is_some_and(|command| command.contains(file)), "{lost:#}");
    let (code, alone) = ran.crash_states(&["--no-kernel", "--state", file]);
    assert_eq!((code, &alone["bad_states"]), (Some(1), &Value::from(vec![lost.clone()])));
    ran.nothing_is_left_behind();
}

#[test]
fn a_cut_that_kills_the_guest_leaves_what_was_fsynced() {
    let _guard = one_at_a_time();
    let ran = run("power-cut-kills", false);
    assert_eq!(ran.verdict["oracles"]["durability"], "pass", "{:#}", ran.verdict);
    let why = ran.verdict["why"].as_str().expect("a sentence");
    assert!(why.contains("the script's power cut \"cut\" ended the run"), "{why}");
    let (replayed, verdict) = guest_tests(&["replay".as_ref(), ran.path("run").as_os_str()]);
    assert_eq!((replayed.status.code(), verdict), (ran.code, ran.verdict.clone()));
}

#[test]
fn a_cut_on_a_disk_that_lied_loses_what_was_fsynced_and_that_is_found() {
    let _guard = one_at_a_time();
    let ran = run("power-cut-kills-lying", false);
    assert_eq!(ran.verdict["oracles"]["durability"], "fail", "{:#}", ran.verdict);
    assert_eq!(ran.verdict["findings"][0]["id"], "written-data-lost");
}

/// What the image holds the scenario expects itself: the write that was made again, and the old bytes where one was forgotten.
#[test]
fn a_disk_that_comes_back_without_its_cache_is_found_by_what_is_read_then() {
    let _guard = one_at_a_time();
    let ran = run("power-cut-disconnects", false);
    assert_eq!(ran.verdict["findings"][0]["id"], "written-data-lost", "{:#}", ran.verdict);
    assert_eq!(ran.verdict["oracles"]["end_state"], "fail", "the old bytes are there to the end");
}

#[test]
fn a_run_judges_what_its_cut_may_have_left_and_where_all_is_well_keeps_nothing_of_it() {
    let _guard = one_at_a_time();
    let ran = run("power-cut-after-fsync", false);
    assert_eq!(ran.verdict["oracles"]["durability"], "pass", "{:#}", ran.verdict);
    let host = std::fs::read_to_string(ran.path("run/host.json")).expect("a run writes it");
    let cuts = &serde_json::from_str::<Value>(&host).expect("JSON")["cuts"];
    assert_eq!(cuts["cuts"], 1, "{cuts:#}");
    assert!(cuts["judged"].as_u64() >= Some(2) && cuts["promised_bytes"].as_u64() >= Some(16_384), "{cuts:#}");
    assert!(!ran.path("run/states").exists() && !ran.path("run/disk.img").exists());
}

/// Recorded from 6.1 with `--planted-lie drop-flush`: the disk's record and the guest's trace show flushes that were answered, and nothing
/// else says that they were not carried out. The image at the cut is as it was made, since nothing ever reached it.
#[test]
fn a_disk_that_answers_flushes_and_does_nothing_is_noticed_from_its_recording() {
    use guest_tests::crash_states::within;
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded-cuts/dropped-flush");
    let place = tempfile::tempdir().expect("a temporary folder");
    let folder = guest_tests::folder::RunFolder::take(place.path()).expect("it is new");
    std::fs::create_dir(folder.file("states")).expect("made");
    for part in ["", "states"] {
        for entry in std::fs::read_dir(recorded.join(part)).expect("it is in the tree") {
            let file = entry.expect("an entry").path();
            if file.is_file() {
                std::fs::copy(&file, folder.file(part).join(file.file_name().expect("a name"))).expect("copied");
            }
        }
    }
    let scenario = guest_tests::scenario::load(&folder.file("scenario.json")).expect("a scenario");
    let nonce = guest_tests::run::nonce(&scenario);
    guest_tests::run::build_image(&scenario, nonce, &folder.file("disk.img")).expect("an image");
    let vhost_blk = program().with_file_name("vhost-blk");
    let view = within::with_image(&vhost_blk, &folder);
    let cuts = within::look(&scenario, nonce, &folder, &Default::default(), &view).expect("judged").expect("states");
    assert_eq!((cuts.cuts, cuts.judged, cuts.losses), (1, 6, 0));
    let first = cuts.bad.first().expect("a state without what was fsynced");
    assert_eq!((&*first.file, first.survive), ("cut-0001-state-0000.snap", 0));
    assert_eq!(first.broken[0].what, "f is missing, and its name was fsynced");
    assert!(cuts.bad.iter().all(|state| state.lost > 0), "where everything survives nothing is missing");
}

#[test]
fn wrong_arguments_have_exit_code_2_and_say_what_mends_them() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let states = folder.path().as_os_str();
    let refused = |args: &[&OsStr], says: &str| {
        let (output, _) = guest_tests(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(says), "{said}");
    };
    refused(&["crash-states".as_ref(), states], "name the --snapshot-dir of a run that has ended");
    std::fs::write(folder.path().join("cuts.jsonl"), "").expect("written");
    refused(&["crash-states".as_ref(), states], "name the image with --image");
    refused(&["crash-states".as_ref(), states, "--image".as_ref(), "no-such".as_ref()], "no-such is not there");
    let list = folder.path().join("cuts.jsonl");
    let args: [&OsStr; 4] = ["crash-states".as_ref(), states, "--image".as_ref(), list.as_os_str()];
    refused(&args, "--structure-only");
}
