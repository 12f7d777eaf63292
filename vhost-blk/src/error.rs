//! What can go wrong before the device serves, and with which exit code it is answered.

use std::path::PathBuf;

use fault_injection::Problem;

/// Why the device did not start. Each message says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Arguments that do not go together.
    #[error("{0}")]
    Arguments(String),
    /// A script file that cannot be read.
    #[error("cannot read the fault script {path}: {source}")]
    ReadScript {
        /// The script.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A script with problems, one line each.
    #[error("{}", lines(.0))]
    Script(Vec<Problem>),
    /// The image does not suit.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// The socket cannot be had.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// A file that was asked for cannot be written.
    #[error("cannot write {path}: {source}")]
    Output {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A guest that another process served, with requests under way.
    #[error(
        "the guest's ring holds {requests} requests that an earlier vhost-blk may have taken, and nobody knows which of \
         them it carried out; reset the guest (QMP: system_reset) or end it, then start this device again"
    )]
    Unsettled {
        /// How many.
        requests: u64,
    },
    /// The host refused something that it hardly ever refuses: a thread, a descriptor.
    #[error("cannot {what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
}

/// Why an image is not served.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Cannot be opened.
    #[error("cannot open the image {path}: {source}")]
    Open {
        /// The image.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// `memory:` and something that is no size.
    #[error("memory:{size} is no disk; give a size in whole sectors, e.g. memory:512M or memory:1G")]
    MemorySize {
        /// What stands behind the colon.
        size: String,
    },
    /// There is nothing to go past.
    #[error("--direct goes past the page cache, and a disk in memory has none; leave it out")]
    MemoryDirect,
    /// Not a regular file and not a block device.
    #[error("{path} is neither a regular file nor a block device; give a raw image, e.g. from: truncate -s 1G {path}")]
    Kind {
        /// The path.
        path: PathBuf,
    },
    /// Not a raw image by its first bytes.
    #[error(
        "{path} is a {format} image; this device serves raw images only. Convert it: \
         qemu-img convert -O raw {path} {path}.raw   (or serve its bytes as they are with --raw)"
    )]
    Format {
        /// The image.
        path: PathBuf,
        /// What it looks like.
        format: &'static str,
    },
    /// Not one block long.
    #[error("{path} is empty; make it a disk, e.g.: truncate -s 1G {path}")]
    Empty {
        /// The image.
        path: PathBuf,
    },
    /// Somebody else has it.
    #[error("{path} is in use by another process (lslocks shows which); two writers would destroy it")]
    Locked {
        /// The image.
        path: PathBuf,
    },
}

/// Why there is no socket to serve.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody listens there.
    #[error("somebody already listens on {path}; choose another --socket-path or end that process")]
    Taken {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is not a socket lies there.
    #[error("{path} exists and is not a socket; choose another path")]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The kernel's limit.
    #[error("{path} is longer than the 107 bytes a socket path may have; choose a shorter one")]
    TooLong {
        /// The path.
        path: PathBuf,
    },
    /// Cannot listen.
    #[error("cannot listen on {path}: {source}")]
    Bind {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// `--fd` is not what it should be.
    #[error("--fd={fd} is not a connected or listening Unix stream socket: {source}")]
    Descriptor {
        /// The number.
        fd: i32,
        /// Why.
        source: std::io::Error,
    },
}

impl StartError {
    /// 2 for what the user wrote, 4 for what the host would not give.
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::Arguments(_) | StartError::ReadScript { .. } | StartError::Script(_) => 2,
            StartError::Image(ImageError::Locked { .. }) => 4,
            StartError::Image(_) => 2,
            StartError::Socket(_) | StartError::Output { .. } => 4,
            StartError::Host { .. } | StartError::Unsettled { .. } => 4,
        }
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
