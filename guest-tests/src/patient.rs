//! A stream to the guest whose reads end when the run has to end.
//!
//! A read that waits for the guest also looks, ten times a second, at what else can happen: Ctrl-C, the time limit, a disk
//! that died. That ends the read with an error; the reason is kept for whoever asks.

use crate::failure::Failure;
use std::cell::RefCell;
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Why waiting for the guest makes no sense any more.
#[derive(Debug)]
pub enum Stop {
    /// The host's side failed, or the user wants to end.
    Failure(Failure),
    /// The time is up.
    TimeLimit {
        /// The limit.
        seconds: u64,
    },
    /// The script cut the power for good.
    PowerCut {
        /// Rule or event, and what was to happen then.
        what: String,
    },
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failure(failure)
    }
}

/// Why a wait was ended, shared between the stream and its owner.
#[derive(Clone, Debug, Default)]
pub struct Reason(Rc<RefCell<Option<Stop>>>);

impl Reason {
    /// Keeps the first reason.
    pub fn set(&self, stop: Stop) {
        self.0.borrow_mut().get_or_insert(stop);
    }

    /// The reason, if there is one.
    pub fn take(&self) -> Option<Stop> {
        self.0.borrow_mut().take()
    }
}

/// See the module.
pub struct Patient<W> {
    stream: UnixStream,
    watch: W,
    reason: Reason,
}

impl<W: FnMut() -> Result<(), Stop>> Patient<W> {
    /// `watch` says whether waiting still makes sense.
    pub fn new(stream: UnixStream, watch: W, reason: Reason) -> io::Result<Patient<W>> {
        stream.set_read_timeout(Some(LOOK_EVERY))?;
        Ok(Patient { stream, watch, reason })
    }
}

impl<W: FnMut() -> Result<(), Stop>> Read for Patient<W> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(buffer) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                other => return other,
            }
            if let Err(stop) = (self.watch)() {
                self.reason.set(stop);
                // Not `Interrupted`: a buffered reader would try again.
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the run has to end"));
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};

    #[test]
    fn a_wait_ends_when_the_watch_says_so_and_keeps_the_reason() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let reason = Reason::default();
        let mut looks = 0;
        let watch = || {
            looks += 1;
            if looks == 2 { Err(Stop::TimeLimit { seconds: 1 }) } else { Ok(()) }
        };
        let mut reader = BufReader::new(Patient::new(ours, watch, reason.clone()).unwrap());
        assert!(reader.read_line(&mut String::new()).is_err());
        assert!(matches!(reason.take(), Some(Stop::TimeLimit { seconds: 1 })));
    }

    #[test]
    fn what_comes_is_read() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"hello\n").unwrap();
        let patient = Patient::new(ours, || Err(Failure::Interrupted.into()), Reason::default()).unwrap();
        let mut line = String::new();
        BufReader::new(patient).read_line(&mut line).unwrap();
        assert_eq!(line, "hello\n");
    }
}
