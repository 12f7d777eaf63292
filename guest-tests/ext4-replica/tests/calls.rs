//! Replica calls, line by line: `calls/*.txt` hold calls, then for each dialect a head (`---- seed --bugs none`) and what
//! it answers. A line of the answer is the number of the call that it answers, then the event.
//!
//! `UPDATE_SEQUENCES=1 cargo test -p ext4-replica --test calls` writes the answers anew. Commit them only once you
//! understand what changed them and that the kernel does so.

use ext4_replica::{Bug, Bugs, Calls, Dialect};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/calls");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    files
}

/// `seed --bugs none`, as on a command line.
fn machine(head: &str) -> Calls {
    let (name, list) = head.split_once(" --bugs ").map_or((head, None), |(name, list)| (name, Some(list)));
    let dialect = Dialect::by_name(name).unwrap_or_else(|| panic!("no dialect is called {name:?}"));
    Calls::new(list.map_or(dialect, |list| dialect.with_bugs(Bugs::parse(list).expect("known defects"))))
}

fn play(calls: &str, head: &str) -> String {
    let mut machine = machine(head);
    let mut answer = String::new();
    for (number, line) in calls.lines().filter(|line| !line.starts_with('#')).enumerate() {
        let mut out = Vec::new();
        let done = machine.line(line.as_bytes(), &mut out);
        for event in String::from_utf8(out).expect("events are text").lines() {
            writeln!(answer, "{} {event}", number + 1).expect("a string takes all");
        }
        if let Err(refused) = done {
            writeln!(answer, "{} refused: {refused}", number + 1).expect("a string takes all");
        }
    }
    answer
}

/// Calls, and each dialect with its answer.
fn sections(text: &str) -> (&str, Vec<(&str, &str)>) {
    let mut parts = text.split("\n---- ");
    let calls = parts.next().unwrap_or_default();
    (calls, parts.map(|part| part.split_once('\n').unwrap_or((part, ""))).collect())
}

#[test]
fn every_call_is_answered_as_written() {
    let update = std::env::var_os("UPDATE_SEQUENCES").is_some();
    let files = files();
    assert!(files.len() >= 15, "only {} sequences found", files.len());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("readable");
        let (calls, dialects) = sections(&text);
        assert!(!dialects.is_empty(), "{} names no dialect", file.display());
        let mut whole = calls.to_owned();
        for (head, expected) in dialects {
            let answer = play(calls, head);
            if !update {
                assert_eq!(answer.trim_end(), expected.trim_end(), "in {}, {head}", file.display());
            }
            write!(whole, "\n---- {head}\n{}", answer.trim_end()).expect("a string takes all");
        }
        if update {
            std::fs::write(&file, whole + "\n").expect("writable");
        }
    }
}

#[test]
fn the_same_calls_give_the_same_answer() {
    for file in files() {
        let text = std::fs::read_to_string(&file).expect("readable");
        let (calls, dialects) = sections(&text);
        for (head, _) in dialects {
            assert_eq!(play(calls, head), play(calls, head));
        }
    }
}

/// Each defect that whole calls can show makes a difference in one of the sequences.
#[test]
fn each_defect_alone_changes_an_answer() {
    let texts: Vec<String> = files().iter().map(|file| std::fs::read_to_string(file).expect("readable")).collect();
    // These need something else to happen in the middle of a call; src/direct_io.rs and the explorer's tests show them.
    let between_calls = |bug: &Bug| ![Bug::AioPointer, Bug::EnomemWritebackLeak].contains(bug);
    for bug in Bug::ALL.into_iter().filter(between_calls) {
        let shows = |name: &str| {
            texts.iter().any(|text| {
                let (calls, _) = sections(text);
                play(calls, &format!("{name} --bugs {}", bug.name())) != play(calls, &format!("{name} --bugs none"))
            })
        };
        let dialect = if bug == Bug::DioFreeUnwritten { "per_bio" } else { "seed" };
        assert!(shows(dialect), "{} changes nothing in {dialect}", bug.name());
    }
}

#[test]
fn each_dialect_answers_something_otherwise_than_every_other() {
    let texts: Vec<String> = files().iter().map(|file| std::fs::read_to_string(file).expect("readable")).collect();
    let answers = |name: &str| -> Vec<String> { texts.iter().map(|text| play(sections(text).0, name)).collect() };
    let mut seen: Vec<(&str, Vec<String>)> = Vec::new();
    // 5.10 and 6.1 differ in how a count saturates, 6.12 and 7.2 in a put after a failed bio, which no whole calls reach.
    for name in Dialect::names().filter(|name| !["v5_10", "v7_2"].contains(name)) {
        let mine = answers(name);
        for (other, theirs) in &seen {
            assert!(&mine != theirs, "{name} and {other} answer everything alike");
        }
        seen.push((name, mine));
    }
}
