//! `guest-tests replica`: calls in, events out, line by line, so that any other implementation of the path can be held
//! against ours.
//!
//! What is said must be there before we wait for more: a program at the other end of a pipe may want to read the answer to
//! one line before it writes the next. So the answers are written out whenever no whole line is left to read, and else in
//! large pieces.

use crate::args;
use crate::failure::exit;
use ext4_replica::{Calls, Refused};
use std::io::{self, BufRead, BufReader, Read, Write};

/// Bytes read at once, and answers gathered before they are written.
const PIECE_BYTES: usize = 64 * 1024;

/// Why it ended before the input did.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// A line is no call, or names what is not there.
    #[error("line {line}: {refused}")]
    Refused {
        /// Which line, from 1.
        line: u64,
        /// What is wrong with it.
        refused: Refused,
    },
    /// The calls could not be read.
    #[error("cannot read the calls: {0}")]
    Read(io::Error),
    /// The events could not be written.
    #[error("cannot write the events: {0}")]
    Write(io::Error),
}

/// Carries out what stands on stdin and returns the program's exit code.
pub fn replica(args: &args::Replica) -> u8 {
    let dialect = args.bugs.map_or(args.dialect, |bugs| args.dialect.with_bugs(bugs));
    match carry_out(&mut Calls::new(dialect), io::stdin().lock(), io::stdout().lock()) {
        Ok(()) => exit::AS_EXPECTED,
        // Whoever read the events has seen enough.
        Err(Ended::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => exit::AS_EXPECTED,
        Err(ended) => {
            eprintln!("guest-tests replica: {ended}");
            match ended {
                Ended::Refused { .. } => exit::BAD_INPUT,
                Ended::Read(_) | Ended::Write(_) => exit::INFRASTRUCTURE,
            }
        }
    }
}

/// Reads to the end, or to the first line that is refused. What was said before it has been written.
pub fn carry_out(machine: &mut Calls, input: impl Read, mut output: impl Write) -> Result<(), Ended> {
    let mut input = BufReader::with_capacity(PIECE_BYTES, input);
    let (mut line, mut events) = (Vec::new(), Vec::with_capacity(2 * PIECE_BYTES));
    for number in 1.. {
        if events.len() >= PIECE_BYTES || !input.buffer().contains(&b'\n') {
            say(&mut events, &mut output)?;
        }
        line.clear();
        if input.read_until(b'\n', &mut line).map_err(Ended::Read)? == 0 {
            break;
        }
        let call = line.strip_suffix(b"\n").unwrap_or(&line);
        if let Err(refused) = machine.line(call, &mut events) {
            say(&mut events, &mut output)?;
            return Err(Ended::Refused { line: number, refused });
        }
    }
    say(&mut events, &mut output)
}

fn say(events: &mut Vec<u8>, output: &mut impl Write) -> Result<(), Ended> {
    output.write_all(events).and_then(|()| output.flush()).map_err(Ended::Write)?;
    events.clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ext4_replica::Dialect;
    use std::io::pipe;

    fn play(calls: &str) -> (String, Result<(), String>) {
        let mut said = Vec::new();
        let done = carry_out(&mut Calls::new(Dialect::SEED), calls.as_bytes(), &mut said);
        (String::from_utf8(said).expect("events are text"), done.map_err(|ended| ended.to_string()))
    }

    #[test]
    fn what_came_before_a_refused_line_has_been_written() {
        let (said, done) =
            play("{\"call\":\"device\",\"max_pages\":3}\n{\"call\":\"run_work\",\"ino\":5}\n{\"call\":\"state\"}\n");
        assert_eq!(said, "{\"ev\":\"return\",\"call\":\"device\",\"ret\":0}\n");
        assert_eq!(done, Err("line 2: field `ino`: inode 5 is not there".into()));
    }

    #[test]
    fn the_last_line_needs_no_end() {
        let (said, done) = play("{\"call\":\"device\",\"max_pages\":3}");
        assert_eq!((said.lines().count(), done), (1, Ok(())));
        assert_eq!(play(""), (String::new(), Ok(())));
    }

    #[test]
    fn a_dead_machine_answers_every_line_and_ends_well() {
        let inode = r#"{"call":"inode","ino":1,"block_bits":12,"size":0,"extents":[]}"#;
        let bug = r#"{"call":"submit_range","ino":1,"first_page":1,"next_page":1}"#;
        let (said, done) = play(&format!("{inode}\n{bug}\n\nno JSON\n{inode}"));
        let dead = "{\"ev\":\"dead\"}\n".repeat(3);
        assert!(said.ends_with(&format!("\"what\":\"empty_range\"}}\n{dead}")), "{said}");
        assert_eq!(done, Ok(()));
    }

    /// One line is answered before the next is written, though the pipe stays open.
    #[test]
    fn an_answer_does_not_wait_for_the_next_line() {
        let (their_calls, mut calls) = pipe().expect("a pipe");
        let (events, their_events) = pipe().expect("a pipe");
        let other = std::thread::spawn(move || carry_out(&mut Calls::new(Dialect::SEED), their_calls, their_events));
        let mut events = BufReader::new(events);
        for _ in 0..3 {
            calls.write_all(b"{\"call\":\"device\",\"max_pages\":3}\n").expect("it reads");
            let mut answer = String::new();
            events.read_line(&mut answer).expect("it answers");
            assert_eq!(answer, "{\"ev\":\"return\",\"call\":\"device\",\"ret\":0}\n");
        }
        drop(calls);
        other.join().expect("it ends").expect("and well");
    }
}
