//! `guest-tests replica` as other programs start it: what goes in, what comes out, and how it ends.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Output, Stdio};

fn replica(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_guest-tests"));
    command.arg("replica").args(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn play(words: &[&str], calls: &str) -> Output {
    let mut child = replica(words).spawn().expect("it starts");
    // A program that has refused its arguments reads nothing.
    let _ = child.stdin.take().expect("piped").write_all(calls.as_bytes());
    child.wait_with_output().expect("it ends")
}

const LEAK: &str = r#"{"call":"inode","ino":1,"block_bits":12,"size":4096,"extents":[]}
{"call":"dirty","ino":1,"lblk":0,"len":1}
{"call":"submit_range","ino":1,"first_page":0,"next_page":1,"fail_alloc":true}
"#;

#[test]
fn a_list_of_defects_takes_the_place_of_the_dialects_own() {
    let events = |words: &[&str]| String::from_utf8(play(words, LEAK).stdout).expect("text");
    assert!(events(&["--dialect", "seed"]).contains("page_left_locked"));
    assert!(events(&["--dialect", "seed", "--bugs", "racy_flag,enomem_lock_leak"]).contains("page_left_locked"));
    for words in [["--dialect", "seed", "--bugs", "none"], ["--dialect", "seed", "--bugs", "racy_flag"]] {
        assert!(!events(&words).contains("page_left_locked"), "{words:?}");
    }
}

#[test]
fn a_refused_line_ends_it_with_its_number_and_field() {
    let output = play(&["--dialect", "v6_1"], &format!("{LEAK}{{\"call\":\"end_bio\",\"bio\":1,\"error\":0}}\n{LEAK}"));
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "guest-tests replica: line 4: field `bio`: bio 1 is not there\n"
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 4, "the first three lines have been answered");
}

#[test]
fn the_end_of_input_is_a_good_end_though_the_machine_is_dead() {
    let bug = r#"{"call":"submit_range","ino":1,"first_page":3,"next_page":3}"#;
    let output = play(&["--dialect", "seed"], &format!("{LEAK}{bug}\nanything"));
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stdout).ends_with("{\"ev\":\"dead\"}\n"));
}

#[test]
fn what_is_not_known_is_refused_with_what_is() {
    for (words, named) in [
        (&["--dialect", "v6.1"][..], "v6_12"),
        (&["--dialect", "seed", "--bugs", "b5"], "range_sum"),
        (&[], "--dialect"),
    ] {
        let output = play(words, "");
        assert_eq!(output.status.code(), Some(2), "{words:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(named), "{output:?}");
    }
}

/// A program that waits for each answer before it writes the next line gets them.
#[test]
fn each_answer_comes_before_the_next_line_is_written() {
    let mut child = replica(&["--dialect", "seed"]).spawn().expect("it starts");
    let mut calls = child.stdin.take().expect("piped");
    let mut events = BufReader::new(child.stdout.take().expect("piped"));
    for max_pages in 1..4 {
        writeln!(calls, "{{\"call\":\"device\",\"max_pages\":{max_pages}}}").expect("it reads");
        let mut answer = String::new();
        events.read_line(&mut answer).expect("it answers");
        assert_eq!(answer, "{\"ev\":\"return\",\"call\":\"device\",\"ret\":0}\n");
    }
    drop(calls);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}
