//! The host's side of the port `ctl`: asks, hands over the job, and listens to the end.
//!
//! It knows no clock. A guest that says nothing is ended from outside, by killing its QEMU;
//! here that shows as [`HostError::Gone`].

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::job::Job;
use crate::protocol::{EventFormat, FromGuest, Hello, PROTOCOL, Statistics, Symbol, ToGuest};

/// Why the talk ended early.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The stream broke.
    #[error("talking to the guest failed: {0}")]
    Io(#[from] io::Error),
    /// The other end closed.
    #[error("the guest went away {while_doing}; console.log and qemu.log say more")]
    Gone {
        /// What was expected of it.
        while_doing: &'static str,
    },
    /// Not a message of ours.
    #[error("the guest said something that is no message: {line:?} ({error})")]
    Malformed {
        /// The line.
        line: String,
        /// What the parser says.
        error: serde_json::Error,
    },
    /// A message at the wrong time.
    #[error("the guest said {said:?} {while_doing}")]
    Unexpected {
        /// The message.
        said: Box<FromGuest>,
        /// What was expected of it.
        while_doing: &'static str,
    },
    /// Host and guest are of different builds.
    #[error(
        "guest-init {guest} speaks protocol {guest_protocol}, this program ({host}) speaks {PROTOCOL}; build both with scripts/build"
    )]
    Version {
        /// Version in the guest.
        guest: String,
        /// Protocol in the guest.
        guest_protocol: u32,
        /// Version on the host.
        host: &'static str,
    },
    /// The guest could not carry out the job.
    #[error("the guest failed {doing}: {error}")]
    Failed {
        /// What it was doing.
        doing: String,
        /// What went wrong.
        error: String,
    },
    /// The caller's own work at a message failed.
    #[error("{0}")]
    Caller(String),
}

/// What the caller hears of while the session runs.
pub trait Listener {
    /// Called for every message of the guest, kernel log lines included, in order.
    ///
    /// A mark is acknowledged when this returns, so tell the device before returning.
    ///
    /// # Errors
    ///
    /// A sentence; it ends the session as [`HostError::Caller`].
    fn heard(&mut self, message: &FromGuest) -> Result<(), String>;
}

impl<F: FnMut(&FromGuest) -> Result<(), String>> Listener for F {
    fn heard(&mut self, message: &FromGuest) -> Result<(), String> {
        self(message)
    }
}

/// A talk with one guest.
pub struct Session<R, W, L> {
    from: BufReader<R>,
    to: W,
    listener: L,
}

impl<R: Read, W: Write, L: Listener> Session<R, W, L> {
    /// Talks over two ends of the same stream (`UnixStream::try_clone` gives the second).
    pub fn new(from: R, to: W, listener: L) -> Self {
        Session { from: BufReader::new(from), to, listener }
    }

    /// Waits until the guest is up, and checks that both sides speak alike.
    ///
    /// # Errors
    ///
    /// See [`HostError`].
    pub fn hello(&mut self) -> Result<Hello, HostError> {
        match self.next("before its hello")? {
            FromGuest::Hello(hello) if hello.protocol == PROTOCOL && hello.version == env!("CARGO_PKG_VERSION") => {
                Ok(hello)
            }
            FromGuest::Hello(hello) => Err(HostError::Version {
                guest: hello.version,
                guest_protocol: hello.protocol,
                host: env!("CARGO_PKG_VERSION"),
            }),
            other => Err(unexpected(other, "instead of hello")),
        }
    }

    /// Addresses of kernel symbols, and the names the kernel does not have.
    ///
    /// # Errors
    ///
    /// See [`HostError`].
    pub fn symbols(&mut self, names: &[String]) -> Result<(Vec<Symbol>, Vec<String>), HostError> {
        self.send(&ToGuest::Symbols { names: names.to_vec() })?;
        match self.next("while reading kallsyms")? {
            FromGuest::Symbols { symbols, missing } => Ok((symbols, missing)),
            other => Err(unexpected(other, "instead of symbols")),
        }
    }

    /// Like [`Session::symbols`], but asks the guest only if the file `kept` does not hold the answer.
    ///
    /// Reading kallsyms takes a guest under TCG half a second. The addresses of one build are the same at each boot,
    /// because guests boot with nokaslr; `hello` says which build it is, and an answer for another is not used.
    ///
    /// # Errors
    ///
    /// See [`HostError`]. A file that cannot be read or written costs time and nothing else.
    pub fn symbols_kept(
        &mut self,
        names: &[String],
        hello: &Hello,
        kept: &Path,
    ) -> Result<(Vec<Symbol>, Vec<String>), HostError> {
        let earlier = std::fs::read(kept).ok().and_then(|bytes| serde_json::from_slice::<KeptSymbols>(&bytes).ok());
        let fits =
            |kept: &KeptSymbols| kept.build == hello.build && kept.release == hello.release && kept.answers(names);
        let answer = match earlier.filter(fits) {
            Some(answer) => answer,
            None => {
                let (symbols, missing) = self.symbols(names)?;
                let answer =
                    KeptSymbols { release: hello.release.clone(), build: hello.build.clone(), symbols, missing };
                // Two runs may write at once: each renames a whole file of its own.
                let own = kept.with_extension(format!("{}.new", std::process::id()));
                let _ = std::fs::write(&own, serde_json::to_vec(&answer).map_err(io::Error::from)?)
                    .and_then(|()| std::fs::rename(&own, kept));
                answer
            }
        };
        let asked = |name: &String| names.contains(name);
        let symbols = answer.symbols.into_iter().filter(|symbol| asked(&symbol.name)).collect();
        Ok((symbols, answer.missing.into_iter().filter(asked).collect()))
    }

    /// Formats of events the kernel has without any probe of ours, and the names it does not have.
    ///
    /// # Errors
    ///
    /// See [`HostError`].
    pub fn formats(&mut self, events: &[String]) -> Result<(Vec<EventFormat>, Vec<String>), HostError> {
        self.send(&ToGuest::Formats { events: events.to_vec() })?;
        match self.next("while reading event formats")? {
            FromGuest::Formats { formats, missing } => Ok((formats, missing)),
            other => Err(unexpected(other, "instead of formats")),
        }
    }

    /// Hands over the job and listens until the guest is done. Marks are acknowledged on the way.
    ///
    /// The listener sees every message; what comes back is the last one, the trace's trailer.
    ///
    /// # Errors
    ///
    /// See [`HostError`].
    pub fn run(&mut self, job: Job) -> Result<Statistics, HostError> {
        self.send(&ToGuest::Job(Box::new(job)))?;
        loop {
            match self.next("during the job")? {
                FromGuest::Mark { index, .. } => self.send(&ToGuest::Ack { index })?,
                FromGuest::Done(statistics) => return Ok(statistics),
                FromGuest::Hello(_) | FromGuest::Symbols { .. } | FromGuest::Formats { .. } => {
                    return Err(HostError::Caller("the guest answered a question that was not asked".into()));
                }
                _ => {}
            }
        }
    }

    /// Has the guest let go what it keeps of the disk: its taint flags, and whether the kernel still holds the file system.
    ///
    /// # Errors
    ///
    /// See [`HostError`].
    pub fn rest(&mut self, device: &str) -> Result<(u64, bool), HostError> {
        self.send(&ToGuest::Rest { device: device.to_owned() })?;
        match self.next("between two jobs")? {
            FromGuest::AtRest { tainted, held } => Ok((tainted, held)),
            other => Err(unexpected(other, "instead of coming to rest")),
        }
    }

    /// Tells the guest that everything has arrived, and listens to what it still has to say.
    ///
    /// # Errors
    ///
    /// See [`HostError`].
    pub fn power_off(&mut self) -> Result<(), HostError> {
        self.send(&ToGuest::PowerOff)?;
        loop {
            match self.next("at power off") {
                Ok(_) => {}
                Err(HostError::Gone { .. }) => return Ok(()),
                Err(other) => return Err(other),
            }
        }
    }

    /// Gives the listener back.
    pub fn into_listener(self) -> L {
        self.listener
    }

    fn send(&mut self, message: &ToGuest) -> Result<(), HostError> {
        let mut line = serde_json::to_vec(message).map_err(io::Error::from)?;
        line.push(b'\n');
        Ok(self.to.write_all(&line)?)
    }

    /// The next message that is not a log line; the listener has seen both.
    fn next(&mut self, while_doing: &'static str) -> Result<FromGuest, HostError> {
        loop {
            let message = self.message(while_doing)?;
            self.listener.heard(&message).map_err(HostError::Caller)?;
            match message {
                FromGuest::Log(_) => {}
                FromGuest::Failed { doing, error } => return Err(HostError::Failed { doing, error }),
                other => return Ok(other),
            }
        }
    }

    fn message(&mut self, while_doing: &'static str) -> Result<FromGuest, HostError> {
        let mut line = String::new();
        let read = self.from.read_line(&mut line);
        let gone =
            matches!(&read, Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe));
        if gone || (read? == 0) || !line.ends_with('\n') {
            return Err(HostError::Gone { while_doing });
        }
        serde_json::from_str(&line).map_err(|error| HostError::Malformed { line, error })
    }
}

/// An answer about symbols, and the build it is true of.
#[derive(Serialize, Deserialize)]
struct KeptSymbols {
    release: String,
    build: String,
    symbols: Vec<Symbol>,
    missing: Vec<String>,
}

impl KeptSymbols {
    fn answers(&self, names: &[String]) -> bool {
        names.iter().all(|name| self.missing.contains(name) || self.symbols.iter().any(|symbol| symbol.name == *name))
    }
}

fn unexpected(said: FromGuest, while_doing: &'static str) -> HostError {
    HostError::Unexpected { said: Box::new(said), while_doing }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;

    fn hello(build: &str) -> Hello {
        let version = env!("CARGO_PKG_VERSION").into();
        let release = "6.1.0".into();
        Hello { protocol: PROTOCOL, version, release, build: build.into(), cpus: 1, page_bytes: 4096, uptime_ms: 1 }
    }

    fn lines(messages: &[FromGuest]) -> Vec<u8> {
        messages.iter().flat_map(|message| serde_json::to_vec(message).unwrap().into_iter().chain(*b"\n")).collect()
    }

    fn symbol(address: u64) -> FromGuest {
        let symbols = vec![Symbol { name: "f".into(), address, size: 8, kind: 't' }];
        FromGuest::Symbols { symbols, missing: vec!["g".into()] }
    }

    #[test]
    fn symbols_are_asked_for_once_per_build() {
        let folder = tempfile::tempdir().unwrap();
        let kept = folder.path().join("symbols.json");
        let names = ["f".to_owned(), "g".to_owned()];
        // What the guest would answer, and what must come back.
        for (build, guest, expected) in [("#1", 16, 16), ("#1", 99, 16), ("#2", 32, 32), ("#2", 99, 32)] {
            let from = lines(&[symbol(guest)]);
            let mut session = Session::new(&from[..], Vec::new(), |_: &FromGuest| Ok(()));
            let (symbols, missing) = session.symbols_kept(&names, &hello(build), &kept).unwrap();
            assert_eq!((symbols[0].address, &missing[..]), (expected, &["g".to_owned()][..]), "build {build}");
        }
        let from = lines(&[symbol(7)]);
        let mut session = Session::new(&from[..], Vec::new(), |_: &FromGuest| Ok(()));
        let another = [names[0].clone(), "h".to_owned()];
        assert_eq!(session.symbols_kept(&another, &hello("#2"), &kept).unwrap().0[0].address, 7);
    }

    #[test]
    fn marks_are_acknowledged_after_the_listener_heard_of_them() {
        let from = lines(&[FromGuest::Mark { index: 3, name: "m".into() }, FromGuest::Done(Statistics::default())]);
        let mut to = Vec::new();
        let mut heard = 0;
        let listener = |_: &FromGuest| {
            heard += 1;
            Ok(())
        };
        Session::new(&from[..], &mut to, listener).run(Job::ext4(Vec::new())).unwrap();
        assert_eq!(heard, 2);
        assert!(to.ends_with(b"{\"msg\":\"ack\",\"index\":3}\n"));
    }

    #[test]
    fn a_guest_of_another_build_one_that_fails_and_one_that_goes_are_told_apart() {
        let run = |messages: &[FromGuest], cut: usize| {
            let from = lines(messages);
            let mut session = Session::new(&from[..from.len() - cut], Vec::new(), |_: &FromGuest| Ok(()));
            session.hello().and_then(|_| session.run(Job::ext4(Vec::new()))).unwrap_err()
        };
        let other = FromGuest::Hello(Hello { protocol: PROTOCOL + 1, ..hello("#1") });
        assert!(matches!(run(&[other], 0), HostError::Version { .. }));
        let failed = FromGuest::Failed { doing: "x".into(), error: "y".into() };
        assert!(matches!(run(&[FromGuest::Hello(hello("#1")), failed], 0), HostError::Failed { .. }));
        assert!(matches!(run(&[FromGuest::Hello(hello("#1"))], 0), HostError::Gone { .. }));
        let done = FromGuest::Done(Statistics::default());
        assert!(matches!(run(&[FromGuest::Hello(hello("#1")), done], 1), HostError::Gone { .. }));
    }
}
