//! The host's side of the port `ctl`: asks, hands over the job, and listens to the end.
//!
//! It knows no clock. A guest that says nothing is ended from outside, by killing its QEMU;
//! here that shows as [`HostError::Gone`].

use std::io::{self, BufRead, BufReader, Read, Write};

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

fn unexpected(said: FromGuest, while_doing: &'static str) -> HostError {
    HostError::Unexpected { said: Box::new(said), while_doing }
}
