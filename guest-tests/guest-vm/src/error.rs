//! What can go wrong around a guest, said so that a person can mend it.

use std::io;
use std::path::PathBuf;

/// Every error of this crate. All of them are the host's troubles, none is a finding.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program is not there.
    #[error(
        "{program} is not installed or not in PATH; it comes with the package {package} (apt-get install {package})"
    )]
    Missing {
        /// What was called.
        program: String,
        /// The Debian package that brings it.
        package: &'static str,
    },
    /// A program ran and failed.
    #[error("{command} failed ({status}){}", if .said.is_empty() { String::new() } else { format!(": {said}") })]
    Program {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// The end of what it said.
        said: String,
    },
    /// The host's file system or kernel refused something.
    #[error("{doing}: {error}")]
    Io {
        /// What was being done, with the path.
        doing: String,
        /// Why not.
        error: io::Error,
    },
    /// No such kernel.
    #[error("no kernel for {spec:?}: {why}")]
    NoKernel {
        /// As asked for.
        spec: String,
        /// What was tried.
        why: String,
    },
    /// A stock kernel exists, or did, and cannot be had from here and now. No fault of the kernel's or of a test's: who asks for
    /// several kernels leaves this one out and says so.
    #[error(
        "the kernel {spec} cannot be fetched: {why}; check the network and the machine's apt sources (apt-get update), or name a kernel of your own with --kernel PATH"
    )]
    CannotFetch {
        /// As asked for.
        spec: String,
        /// What was tried.
        why: String,
    },
    /// The archive served other bytes than were pinned.
    #[error(
        "{package} {version}: its SHA-256 is {found}, and kernels.toml pins {expected}; nothing was kept. Take the series' newest (--kernel {series}), or correct the pin if it is wrong"
    )]
    WrongHash {
        /// The package.
        package: String,
        /// Its version.
        version: String,
        /// What kernels.toml says.
        expected: String,
        /// What was served.
        found: String,
        /// The series the pin stands in.
        series: String,
    },
    /// A kernel file is not what it should be.
    #[error("{}: {why}", path.display())]
    BadKernel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// KVM was asked for by name and cannot be had.
    #[error("KVM cannot be used: {why}; take --accel tcg, or auto")]
    NoKvm {
        /// Why not.
        why: String,
    },
    /// The image is not what mke2fs should have made.
    #[error("{}: {why}", path.display())]
    BadImage {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// QEMU does not answer as it should.
    #[error("QEMU's control connection: {why}")]
    Qmp {
        /// What happened.
        why: String,
    },
    /// Host or guest of another architecture.
    #[error("guests are x86-64 and so must be the host; this machine is {arch}")]
    Architecture {
        /// The machine's.
        arch: &'static str,
    },
}

/// Says what was being done when the host refused.
pub(crate) trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|error| Error::Io { doing: what(), error })
    }
}
