//! The count itself, and that it cannot pass from nothing.

use super::frozen::{Frozen, FrozenRecording, Survivor};
use super::*;
use ext4_replica::ShowsIn;
use std::path::PathBuf;

fn recordings() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings")
}

#[test]
fn of_all_wrong_replicas_at_least_95_of_100_are_told_and_every_survivor_is_explained() {
    let count = count(Mutation::ALL, &Frozen::built_in(), &recordings()).expect("the recordings are what they were");
    assert!(count.is_enough(), "{}", text(&count));
    assert!(count.mutants.len() >= 40);
    let by_guests =
        count.mutants.iter().filter(|mutant| !mutant.survived() && mutant.shows_in != ShowsIn::Search.name());
    assert!(by_guests.count() >= 30, "{}", text(&count));
    for shows_in in ShowsIn::ALL.map(ShowsIn::name) {
        let told = count.mutants.iter().any(|mutant| mutant.shows_in == shows_in && !mutant.survived());
        assert!(told, "nothing tells a mistake that shows in {shows_in}\n{}", text(&count));
    }
}

/// A mistake that nobody runs is no success.
#[test]
fn with_no_recording_every_mistake_survives_unexplained() {
    let count = count(&Mutation::ALL[..3], &Frozen::default(), &recordings()).expect("nothing to check");
    assert_eq!((count.told, count.exit_code()), (0, 1));
    assert!(text(&count).contains("NOT EXPLAINED"));
}

#[test]
fn a_listed_survivor_that_is_told_fails_the_count() {
    let clean =
        Frozen::built_in().recordings.into_iter().find(|one| one.name == "clean-interleaved").expect("it is there");
    let survivor = Survivor { name: "convert_twice".into(), reason: "a fixture".into() };
    let frozen = Frozen { recordings: vec![clean], survivors: vec![survivor], ..Frozen::default() };
    let count = count(&[Mutation::ConvertTwice], &frozen, &recordings()).expect("it is whole");
    assert_eq!((count.told, count.exit_code()), (1, 1));
    assert!(text(&count).contains("drop it from mutants.toml"));
}

#[test]
fn a_recording_that_is_not_there_is_named_with_the_remedy() {
    let missing = FrozenRecording { name: "nowhere".into(), sha256: String::new() };
    let frozen = Frozen { recordings: vec![missing], ..Frozen::default() };
    let failure = count(&[], &frozen, &recordings()).expect_err("it is not there");
    assert_eq!(failure.exit_code(), 2);
    assert!(failure.to_string().contains("nowhere") && failure.to_string().contains("--recordings"), "{failure}");
}
