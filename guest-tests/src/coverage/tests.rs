#![allow(clippy::unwrap_used, reason = "a test ends there")]

use super::*;
use crate::folder::RunFolder;
use crate::judge;
use std::path::{Path, PathBuf};

fn recordings() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings");
    let mut all: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.sort();
    all
}

fn coverage(folder: &Path) -> Coverage {
    let recorded = judge::read(&RunFolder::open(folder).unwrap()).unwrap();
    of(&recorded, &judge::judge(&recorded).unwrap())
}

fn named(name: &str) -> Coverage {
    coverage(&Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings").join(name))
}

#[test]
fn a_fault_is_told_with_what_it_did_to_what_and_the_answer() {
    let seen = named("stale-after-error");
    let fired =
        Fired { action: "error".into(), op: "write".into(), class: "any".into(), outcome: "ioerr".into(), n: 1 };
    assert_eq!(seen.fired, [fired]);
    assert_eq!(seen.armed, [Armed { action: "error".into(), op: "write".into(), class: "any".into() }]);
}

#[test]
fn a_run_without_faults_has_tried_none() {
    let seen = named("clean-interleaved");
    assert_eq!((seen.fired, seen.armed), (vec![], vec![]));
}

#[test]
fn the_steps_after_a_failed_bio_are_other_pairs_than_without() {
    let clean = named("clean-interleaved").pairs;
    let failed = named("stale-after-error").pairs;
    assert!(clean.iter().any(|pair| pair == "unwritten 2 > put_io_end_defer"), "{clean:?}");
    assert!(!clean.iter().any(|pair| pair.contains("failed")), "{clean:?}");
    assert!(failed.iter().any(|pair| pair.starts_with("unwritten") && pair.contains("failed")), "{failed:?}");
}

#[test]
fn what_is_told_lies_within_the_stated_sets() {
    use night_report::universe;
    let pairs = universe::pairs();
    for folder in recordings() {
        let seen = coverage(&folder);
        for pair in &seen.pairs {
            assert!(pairs.contains(pair), "{}: {pair}", folder.display());
        }
    }
    let kinds: BTreeSet<_> = fault_injection::kinds::all().collect();
    let stated: BTreeSet<_> = universe::faults().map(|fault| (fault.action, fault.op)).collect();
    assert_eq!(stated, kinds, "the sets are the language's");
    let classes: Vec<&str> = fault_injection::CLASSES.iter().map(|(word, _)| *word).collect();
    assert_eq!(universe::CLASSES[..], classes);
}
