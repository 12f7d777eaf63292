//! Stock kernels, one real boot per scenario: the known bugs, several CPUs, and what `probe-dialect` says.
//!
//! Without more this runs the default kernel, as CI does. `GUEST_TESTS_KERNELS` names others: `all` (every series of
//! kernels.toml), `pinned` (every pin), or a list like `5.10,6.12.117-1`:
//!
//!     GUEST_TESTS_KERNELS=all scripts/test --test kernels
//!
//! A kernel that cannot be fetched is left out, with the reason, and counted; it makes nothing red, and nothing green: if none is left,
//! the test fails.

use guest_tests::args::DEFAULT_KERNEL;
use guest_vm::{Kernel, KernelSpec, kernel};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What CI runs of every scenario already, on the default kernel (tests/scenarios.rs).
const FIRST: [&str; 4] = ["clean-interleaved", "guest-splits", "partial", "stale-after-error"];

const KNOWN: [&str; 6] = [
    "known/stale-after-failed-write",
    "known/whole-extent-lost",
    "known/data-err-abort-ignored",
    "known/fsync-forgets",
    "known/metadata-error-logged",
    "known/converted-in-submit",
];

const SEVERAL_CPUS: [&str; 2] = ["two-cpus", "two-cpus-one-queue"];

/// Kernels to judge, each with how it is asked for; those that cannot be fetched are told.
fn kernels() -> Vec<(String, Kernel)> {
    let wanted = wanted();
    let mut found = Vec::new();
    let mut skipped = Vec::new();
    for name in &wanted {
        let spec: KernelSpec = name.parse().unwrap_or_else(|error| panic!("GUEST_TESTS_KERNELS: {error}"));
        match kernel::obtain(&spec, &kernel::default_cache()) {
            Ok(kernel) => found.push((name.clone(), kernel)),
            Err(guest_vm::Error::CannotFetch { spec, why }) => skipped.push(format!("{spec}: {why}")),
            Err(error) => panic!("{name}: {error}"),
        }
    }
    eprintln!("kernels: {} to judge, {} skipped", found.len(), skipped.len());
    skipped.iter().for_each(|why| eprintln!("skipped  {why}"));
    assert!(!found.is_empty(), "no kernel of {wanted:?} could be fetched, so nothing was judged");
    found
}

fn wanted() -> Vec<String> {
    let series = || kernel::listed().into_iter();
    match std::env::var("GUEST_TESTS_KERNELS").ok().filter(|text| !text.trim().is_empty()) {
        None => vec![DEFAULT_KERNEL.to_owned()],
        Some(text) if text == "all" => series().map(|(name, _)| name).collect(),
        Some(text) if text == "pinned" => series().flat_map(|(_, pins)| pins).collect(),
        Some(text) => text.split(',').map(|name| name.trim().to_owned()).collect(),
    }
}

fn program() -> PathBuf {
    let folder = match std::env::var_os("GUEST_TESTS_PROGRAMS") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_BIN_EXE_guest-tests")).with_file_name("../release"),
    };
    let program = folder.join("guest-tests");
    assert!(program.is_file(), "{} is not there: run scripts/build, or scripts/test, which does", program.display());
    program
}

/// Runs a scenario; it must come out as its file says for this kernel. Gives the verdict.
fn as_expected(name: &str, kernel: &str) -> Value {
    let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(format!("{name}.json"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new(program());
    command.arg("run").arg(scenario).arg("--out").arg(folder.path());
    let output = command
        .args(["--kernel", kernel, "--format", "json", "--time-limit", "600"])
        .output()
        .expect("it was there a moment ago");
    let said = String::from_utf8_lossy(&output.stderr);
    let verdict: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{name} on {kernel}: no JSON on stdout ({error}): {said}"));
    assert_eq!(output.status.code(), Some(0), "{name} on {kernel}: {said}\n{verdict:#}");
    verdict
}

/// The table must know what the mirror serves today: a stock kernel that is followed by guess is a table to be mended.
#[test]
fn stock_kernels_do_what_their_dialect_and_the_list_of_known_bugs_say() {
    for (name, kernel) in kernels() {
        let first = if name == DEFAULT_KERNEL { &FIRST[..1] } else { &FIRST[..] };
        for scenario in first.iter().chain(&KNOWN).chain(&SEVERAL_CPUS) {
            eprintln!("{scenario} on {name} ({})", kernel.release);
            let verdict = as_expected(scenario, &name);
            assert_eq!(verdict["dialect_exact"], true, "{name}: dialects.toml does not know {}", kernel.release);
            if SEVERAL_CPUS.contains(scenario) {
                assert_eq!(verdict["trace"]["cpus"], 2, "{scenario}");
            }
        }
    }
}

#[test]
fn no_stock_kernel_behaves_like_another_dialect_than_the_tables() {
    for (name, _) in kernels() {
        let output = Command::new(program())
            .args(["probe-dialect", "--kernel", &name, "--format", "json", "--time-limit", "600"])
            .output()
            .expect("it was there a moment ago");
        let said = String::from_utf8_lossy(&output.stderr);
        let report: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{name}: no JSON on stdout ({error}): {said}"));
        assert_eq!(output.status.code(), Some(0), "{name}: {report:#}");
        let seen = report["switches"].as_array().expect("a list").iter().filter(|line| !line["seen"].is_null()).count();
        assert_eq!(seen, 5, "{name}: a switch did not show: {report:#}");
    }
}
