//! Many scenarios in one boot, through the real programs: what comes out of each is what comes out of it alone.

mod guests;

use std::ffi::OsStr;
use std::path::Path;

use guests::{one_at_a_time, scenario, start};
use serde_json::Value;

fn read(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("JSON")
}

/// What a verdict says of the guest and the disk; how much was compared depends on what came before the mount.
fn said(folder: &Path) -> Value {
    let mut verdict = read(&folder.join("verdict.json"));
    for finding in verdict["findings"].as_array_mut().expect("a list") {
        *finding = finding["id"].clone();
    }
    let keys = [
        "verdict",
        "as_expected",
        "exit_code",
        "kernel",
        "dialect",
        "oracles",
        "findings",
        "fired",
        "first_difference",
    ];
    verdict.as_object_mut().expect("an object").retain(|key, _| keys.contains(&key.as_str()));
    verdict
}

fn decisions(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("decisions.jsonl")).expect("a run writes it")
}

fn alone(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let file = scenario(name);
    start(&["run".as_ref(), file.as_ref(), "--out".as_ref(), folder.path().as_ref()]);
    folder
}

#[test]
fn a_clean_a_faulty_and_again_the_clean_scenario_say_in_one_boot_what_each_says_alone() {
    let _one = one_at_a_time();
    let folder = tempfile::tempdir().expect("a folder");
    let (clean, faulty) = (scenario("clean-interleaved"), scenario("stale-after-error"));
    let out = folder.path().join("batch");
    let args: [&OsStr; 8] = [
        "batch".as_ref(),
        clean.as_ref(),
        faulty.as_ref(),
        clean.as_ref(),
        "--out".as_ref(),
        out.as_ref(),
        "--format".as_ref(),
        "json".as_ref(),
    ];
    let output = start(&args);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("one JSON document");
    assert_eq!(report["boots"].as_array().map(Vec::len), Some(1), "{report:#}");
    assert_eq!(report["boots"][0]["scenarios"], 3);
    let alone = [alone("clean-interleaved"), alone("stale-after-error")];
    for (name, alone) in
        [("clean-interleaved", &alone[0]), ("stale-after-error", &alone[1]), ("clean-interleaved-2", &alone[0])]
    {
        let folder = out.join(name);
        assert_eq!(said(&folder), said(alone.path()), "{name}");
        assert!(!folder.join("disk.img").exists(), "the image is kept by nobody");
        let again = start(&["replay".as_ref(), folder.as_ref(), "--format".as_ref(), "json".as_ref()]);
        assert!(
            again.stdout == std::fs::read(folder.join("verdict.json")).expect("a verdict"),
            "{name} replays otherwise"
        );
    }
    // Nothing of the first is in the third: same seed, same requests, same decisions.
    assert_eq!(decisions(&out.join("clean-interleaved")), decisions(&out.join("clean-interleaved-2")));
}
