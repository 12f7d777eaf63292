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
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What CI runs of every scenario already, on the default kernel (tests/scenarios.rs).
const FIRST: [&str; 4] = ["clean-interleaved", "guest-splits", "partial", "stale-after-error"];

const KNOWN: [&str; 7] = [
    "known/stale-after-failed-write",
    "known/whole-extent-lost",
    "known/rewrite-lost",
    "known/data-err-abort-ignored",
    "known/fsync-forgets",
    "known/metadata-error-logged",
    "known/converted-in-submit",
];

const SEVERAL_CPUS: [&str; 2] = ["two-cpus", "two-cpus-one-queue"];

/// One guest at a time: they share the machine.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static LOCK: Mutex<()> = Mutex::new(());
    LOCK.lock().unwrap_or_else(PoisonError::into_inner)
}

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

/// Runs a scenario. Gives exit code, verdict and what was said.
fn run(name: &str, kernel: &str) -> (Option<i32>, Value, String) {
    let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(format!("{name}.json"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new(program());
    command.arg("run").arg(scenario).arg("--out").arg(folder.path());
    let output = command
        .args(["--kernel", kernel, "--format", "json", "--time-limit", "600"])
        .output()
        .expect("it was there a moment ago");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let verdict = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{name} on {kernel}: no JSON on stdout ({error}): {said}"));
    (output.status.code(), verdict, said)
}

/// A scenario that must come out as its file says for this kernel. Gives the verdict.
fn as_expected(name: &str, kernel: &str) -> Value {
    let (code, verdict, said) = run(name, kernel);
    assert_eq!(code, Some(0), "{name} on {kernel}: {said}\n{verdict:#}");
    verdict
}

/// A kernel of one's own without types: what can be judged without a trace is judged, and it is said what cannot be and why.
#[test]
fn a_kernel_without_btf_is_run_for_its_findings_and_says_what_lockstep_would_need() {
    let _guard = one_at_a_time();
    let Some((_, stock)) = kernels().into_iter().find(|(name, _)| name.starts_with("6.1")) else {
        return eprintln!("skipped: no 6.1 among the kernels");
    };
    let own = tempfile::tempdir().expect("a temporary folder");
    let modules = own.path().join("lib/modules/own");
    std::fs::create_dir_all(&modules).expect("created");
    for module in &stock.modules {
        std::fs::copy(&module.path, modules.join(module.path.file_name().expect("a module has a name")))
            .expect("copied");
    }
    std::fs::write(modules.join("modules.builtin"), "kernel/fs/ext4/ext4.ko\n").expect("written");
    let mut objcopy = Command::new("objcopy");
    objcopy.args(["--remove-section", ".BTF"]).arg(&stock.vmlinux).arg(own.path().join("vmlinux"));
    let stripped = objcopy.status().expect("objcopy comes with binutils, which gcc needs (scripts/setup)");
    assert!(stripped.success());
    let (code, verdict, said) = run("stale-after-error", &own.path().display().to_string());
    assert_eq!((code, &verdict["trace"]["btf"]), (Some(3), &Value::Bool(false)), "{said}\n{verdict:#}");
    assert!(verdict["why"].as_str().is_some_and(|why| why.contains("CONFIG_DEBUG_INFO_BTF=y")), "{verdict:#}");
    assert_eq!(verdict["findings"][0]["id"], "stale-data-read", "{verdict:#}");
    assert_eq!(verdict["oracles"]["end_state"], "fail");
}

/// Debian's full flavour has ext4 as a module, whose types are not among the kernel's own. 70 MiB, so only where kernels were
/// asked for.
#[test]
fn a_kernel_with_ext4_as_a_module_is_run_for_its_findings() {
    let _guard = one_at_a_time();
    if std::env::var_os("GUEST_TESTS_KERNELS").is_none() {
        return eprintln!("skipped: GUEST_TESTS_KERNELS is not set, so no other kernel is fetched");
    }
    let Some((_, cloud)) = kernels().into_iter().find(|(name, _)| name.starts_with("6.1")) else {
        return eprintln!("skipped: no 6.1 among the kernels");
    };
    let full = cloud.release.replace("-cloud", "");
    match kernel::obtain(&full.parse().expect("a release"), &kernel::default_cache()) {
        Err(guest_vm::Error::CannotFetch { why, .. }) => return eprintln!("skipped: {full}: {why}"),
        obtained => drop(obtained.unwrap_or_else(|error| panic!("{error}"))),
    }
    let (code, verdict, said) = run("stale-after-error", &full);
    assert_eq!(code, Some(3), "{said}\n{verdict:#}");
    assert!(verdict["why"].as_str().is_some_and(|why| why.contains("CONFIG_EXT4_FS=y")), "{verdict:#}");
    assert_eq!(verdict["findings"][0]["id"], "stale-data-read", "{verdict:#}");
}

/// The table must know what the mirror serves today: a stock kernel that is followed by guess is a table to be mended.
#[test]
fn stock_kernels_do_what_their_dialect_and_the_list_of_known_bugs_say() {
    let _guard = one_at_a_time();
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
    let _guard = one_at_a_time();
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
        // Where page and block have an io_end each, as on 6.12, `hole_ends_bio` does not show, and is told as not seen.
        assert!(seen >= 4, "{name}: switches did not show: {report:#}");
    }
}
