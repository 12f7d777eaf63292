//! The scenario files that come with the program are right, and each says what it expects.
//!
//! tests/bad holds scenarios with something wrong, each beside the exact lines a user sees. To rewrite those after a change
//! on purpose: `REWRITE=1 cargo test -p guest-tests --test scenario_files`, and read the difference.

use guest_tests::scenario;
use std::path::{Path, PathBuf};

fn files() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let all =
        [dir.join("known"), dir].into_iter().flat_map(|dir| std::fs::read_dir(dir).expect("they are in the tree"));
    let mut files: Vec<PathBuf> = all.map(|entry| entry.expect("readable").path()).collect();
    files.retain(|path| path.is_file());
    files.sort();
    files
}

#[test]
fn every_scenario_is_read_and_is_named_like_its_file() {
    assert!(files().len() >= 29);
    for file in files() {
        let scenario = scenario::load(&file).unwrap_or_else(|failure| panic!("{failure}"));
        assert_eq!(file.file_stem().and_then(|stem| stem.to_str()), Some(scenario.name.as_str()));
        assert!(!scenario.expect.is_empty(), "{} expects nothing", file.display());
    }
}

#[test]
fn the_copy_in_a_runs_folder_is_a_scenario_again() {
    for file in files() {
        let scenario = scenario::load(&file).unwrap_or_else(|failure| panic!("{failure}"));
        let copy = scenario::parse(Path::new("scenario.json"), &scenario.to_json()).expect("it was one before");
        assert_eq!((copy.workload, copy.expect), (scenario.workload, scenario.expect));
    }
}

#[test]
fn every_bad_scenario_is_refused_with_all_its_problems_at_once() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad");
    let entries =
        std::fs::read_dir(dir).expect("the folder is in the tree").map(|entry| entry.expect("readable").path());
    let bad: Vec<PathBuf> = entries.filter(|file| file.extension().is_some_and(|is| is == "json")).collect();
    assert!(bad.len() >= 9);
    for file in bad {
        let text = std::fs::read_to_string(&file).expect("readable");
        let name = file.file_name().expect("a file").to_owned();
        let problems = scenario::parse(Path::new(&name), &text).expect_err("a bad scenario");
        let shown = format!("{problems}\n");
        let expected = file.with_extension("txt");
        if std::env::var_os("REWRITE").is_some() {
            std::fs::write(&expected, &shown).expect("writable");
        }
        let expected = std::fs::read_to_string(&expected).expect("the expected problems stand beside the scenario");
        assert_eq!(shown, expected, "{}", file.display());
    }
}
