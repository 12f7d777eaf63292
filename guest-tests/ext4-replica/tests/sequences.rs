//! What the replica answers, line by line: `sequences/*.txt` hold a story, `----`, and the answer.
//!
//! `UPDATE_SEQUENCES=1 cargo test -p ext4-replica --test sequences` writes the answers anew. Commit them only once you
//! understand what changed them and that the kernel does so.

mod story;

use ext4_replica::{Assertions, Dialect, Lockstep, Replica, Setup};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use writeback_events::{Body, Response, Stimulus};

fn sequences() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sequences");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    files
}

/// The story's lines with what the replica answers to each, and what is left to say at the end.
fn play(text: &str) -> String {
    let number = |key: &str, default: u32| {
        let found = text.lines().find_map(|line| line.strip_prefix(key));
        found.map_or(default, |number| number.trim().parse().expect("a number"))
    };
    let (block_bytes, cpus) = (number("# block_bytes ", 4096), number("# cpus ", 1) as u16);
    let stimuli: Vec<Stimulus> = story::parse(text)
        .into_iter()
        .map(|entry| match entry.body {
            Body::Stimulus(stimulus) => stimulus,
            other => panic!("a sequence holds stimuli alone, not {other:?}"),
        })
        .collect();
    let setup = Setup { block_bytes, cpus, ..Setup::new(Dialect::V6_1) };
    let mut lockstep = Replica::lockstep(setup, &stimuli);
    let mut assertions = Assertions::new(cpus, &Dialect::V6_1);
    let mut answer = String::new();
    for (number, stimulus) in stimuli.iter().enumerate() {
        assertions.stimulus(stimulus);
        tell(&mut answer, number + 1, &mut lockstep, stimulus, &mut assertions);
    }
    for (request, responses) in lockstep.finish() {
        write!(answer, "never: request {request} goes on\n{}", told(&responses)).expect("a string takes all");
    }
    for not in lockstep.not_predicted() {
        writeln!(answer, "not predicted: operation {}: {}", not.op, not.why).expect("a string takes all");
    }
    assert_eq!(assertions.violations(), [], "the true replica keeps every invariant");
    answer
}

fn tell(answer: &mut String, number: usize, lockstep: &mut Lockstep, stimulus: &Stimulus, assertions: &mut Assertions) {
    let line = match lockstep.step(stimulus) {
        Ok(responses) => {
            responses.iter().for_each(|response| assertions.response(response));
            told(&responses)
        }
        Err(misfit) => format!("  misfit: {misfit}\n"),
    };
    if !line.is_empty() {
        let said = serde_json::to_string(stimulus).expect("a plain value");
        write!(answer, "{number} {said}\n{line}").expect("a string takes all");
    }
}

/// Responses one per line; pages that leave writeback in a row, on one.
fn told(responses: &[Response]) -> String {
    let mut lines = String::new();
    let mut pages: Vec<u64> = Vec::new();
    for response in responses {
        if let Response::EndPageWriteback { page, .. } = response {
            pages.push(*page);
            continue;
        }
        tell_pages(&mut lines, &mut pages);
        writeln!(lines, "  {}", serde_json::to_string(response).expect("a plain value")).expect("a string takes all");
    }
    tell_pages(&mut lines, &mut pages);
    lines
}

fn tell_pages(lines: &mut String, pages: &mut Vec<u64>) {
    if !pages.is_empty() {
        let list: Vec<_> = pages.drain(..).map(|page| page.to_string()).collect();
        writeln!(lines, "  end_page_writeback {}", list.join(" ")).expect("a string takes all");
    }
}

#[test]
fn every_sequence_is_answered_as_written() {
    let update = std::env::var_os("UPDATE_SEQUENCES").is_some();
    let files = sequences();
    assert!(files.len() >= 8, "only {} sequences found", files.len());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("readable");
        let (story, expected) = text.split_once("\n----\n").unwrap_or((&text, ""));
        let answer = play(story);
        if update {
            std::fs::write(&file, format!("{}\n----\n{answer}", story.trim_end())).expect("writable");
        } else {
            assert_eq!(answer, expected, "in {}", file.display());
        }
    }
}

#[test]
fn the_same_story_gives_the_same_answer() {
    for file in sequences() {
        let text = std::fs::read_to_string(&file).expect("readable");
        let (story, _) = text.split_once("\n----\n").unwrap_or((&text, ""));
        assert_eq!(play(story), play(story));
    }
}
