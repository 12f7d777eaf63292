//! Who knows whom. The two arrows that matter most: the replica cannot import the decoder, so it cannot copy the answer;
//! and the device does not know that there is a judge.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// What each member may depend on, among the members.
const ALLOWED: &[(&str, &[&str])] = &[
    ("fault-injection", &[]),
    ("vhost-blk", &["fault-injection"]),
    ("writeback-events", &[]),
    ("kernel-trace", &["writeback-events"]),
    ("ext4-replica", &["writeback-events"]),
    ("explorer", &["ext4-replica", "writeback-events", "html-page"]),
    ("guest-vm", &[]),
    ("guest-init", &[]),
    ("raw-client", &[]),
    ("scenario-generator", &[]),
    ("file-model", &["guest-init"]),
    ("night-results", &["scenario-generator"]),
    ("scenario-reducer", &[]),
    ("html-page", &[]),
    ("night-report", &["night-results", "html-page"]),
    (
        "guest-tests",
        &[
            "fault-injection",
            "writeback-events",
            "kernel-trace",
            "ext4-replica",
            "explorer",
            "guest-vm",
            "guest-init",
            "raw-client",
            "scenario-generator",
            "file-model",
            "night-results",
            "scenario-reducer",
            "html-page",
            "night-report",
        ],
    ),
];

fn members() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline", "--manifest-path"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .expect("cargo runs this test, so it can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let packages = metadata["packages"].as_array().expect("packages is a list");
    packages.iter().map(|package| (text(&package["name"]), dependencies(package))).collect()
}

/// Every kind of dependency counts: a test that reads the answer would be as bad.
fn dependencies(package: &serde_json::Value) -> BTreeSet<String> {
    let list = package["dependencies"].as_array().expect("dependencies is a list");
    list.iter().map(|dependency| text(&dependency["name"])).collect()
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().expect("a name is a string").to_owned()
}

#[test]
fn every_member_knows_only_those_it_may() {
    let members = members();
    let names: BTreeSet<&str> = members.keys().map(String::as_str).collect();
    let listed: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, listed, "a new member needs its line here");
    for (name, allowed) in ALLOWED {
        let known: BTreeSet<&str> =
            members[*name].iter().map(String::as_str).filter(|dep| names.contains(dep)).collect();
        let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
        assert!(known.is_subset(&allowed), "{name} may know {allowed:?}, but knows {known:?}");
    }
}
