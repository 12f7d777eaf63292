//! Everything that can keep a run from being judged, and the exit code it has.
//!
//! A failure names what happened, where, and what to do. It is never a finding: what the guest did wrong stands in the
//! verdict, what kept us from looking stands here.

use fault_injection::Problems;
use std::io;
use std::path::{Path, PathBuf};

/// The exit codes that other programs rely on.
pub mod exit {
    /// Verdict `same` or `allowed`, findings exactly those expected.
    pub const AS_EXPECTED: u8 = 0;
    /// Verdict `different`, a finding not expected, or an expected one that did not show.
    pub const NOT_AS_EXPECTED: u8 = 1;
    /// Bad script, scenario or arguments.
    pub const BAD_INPUT: u8 = 2;
    /// Not judged.
    pub const NOT_JUDGED: u8 = 3;
    /// Infrastructure: no QEMU, the guest did not boot, the host's disk is full.
    pub const INFRASTRUCTURE: u8 = 4;
    /// Ended by Ctrl-C.
    pub const INTERRUPTED: u8 = 130;
}

/// Why there is no verdict.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The user's scenario, script or arguments are wrong.
    #[error("{0}")]
    BadInput(String),
    /// What is wrong with a scenario and its script, each with its place.
    #[error("{0}")]
    Mistakes(Problems),
    /// Something outside the guest failed: a tool, the host's disk, QEMU, the boot.
    #[error("{what}{}", and_remedy(.remedy))]
    Infrastructure {
        /// What happened, in one sentence without its full stop.
        what: String,
        /// What mends it; may be empty.
        remedy: String,
    },
    /// The user ended it.
    #[error("ended by Ctrl-C; the guest and the disk are stopped")]
    Interrupted,
}

fn and_remedy(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("; {text}") }
}

impl Failure {
    /// An infrastructure failure with what mends it.
    pub fn infrastructure(what: impl Into<String>, remedy: impl Into<String>) -> Failure {
        Failure::Infrastructure { what: what.into(), remedy: remedy.into() }
    }

    /// A host I/O error on `path`.
    pub fn io(doing: &str, path: &Path, error: &io::Error) -> Failure {
        let remedy = match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => "make room there, or choose another place with --out",
            _ => "",
        };
        Failure::infrastructure(format!("cannot {doing} {}: {error}", path.display()), remedy)
    }

    /// The exit code of the program.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::BadInput(_) | Failure::Mistakes(_) => exit::BAD_INPUT,
            Failure::Infrastructure { .. } => exit::INFRASTRUCTURE,
            Failure::Interrupted => exit::INTERRUPTED,
        }
    }
}

/// Adds the place to an [`io::Error`].
pub trait At<T> {
    /// `doing` is a verb: "read", "write".
    fn at(self, doing: &str, path: impl Into<PathBuf>) -> Result<T, Failure>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, doing: &str, path: impl Into<PathBuf>) -> Result<T, Failure> {
        self.map_err(|error| Failure::io(doing, &path.into(), &error))
    }
}
