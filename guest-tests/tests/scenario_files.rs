//! The scenario files that come with the program are right, and each says what it expects.

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
    assert!(files().len() >= 14);
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
