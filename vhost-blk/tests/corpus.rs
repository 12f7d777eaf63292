//! Every input that fuzzing has found worth keeping (fuzz/corpus, docs/fuzzing.md), without a fuzzer.

#[path = "../fuzz/src/targets.rs"]
mod targets;

use std::path::Path;

fn play(name: &str, target: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut inputs: Vec<_> = std::fs::read_dir(&folder)
        .expect("the corpus is in the tree")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    inputs.sort();
    assert!(inputs.len() > 10, "{} is nearly empty", folder.display());
    for input in inputs {
        // A panic is then said to be this one's.
        println!("{}", input.display());
        target(&std::fs::read(&input).expect("readable"));
    }
}

#[test]
fn scripts() {
    play("script", targets::script);
}

#[test]
fn lines_for_the_control_socket() {
    play("control", targets::control);
}

#[test]
fn rings() {
    play("ring", targets::ring);
}

#[test]
fn recorded_decisions() {
    play("replay", targets::replay);
}
