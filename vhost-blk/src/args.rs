//! The command line. Nothing else lives here; the doc comments are the help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use fault_injection::{By, FailClass};

use crate::lie::Lie;
use crate::way::IoMode;

use crate::drive::Change;

use crate::control::{AfterCut, DEFAULT_MAX_STATES, Survivors};

/// With the contract, by which guest-tests knows a program of another build.
static VERSION: std::sync::LazyLock<String> = std::sync::LazyLock::new(fault_injection::version);

/// A virtio disk that misbehaves on purpose: serves a raw image over vhost-user-blk and carries out fault scripts.
///
/// Exit codes: 0 ended cleanly; 2 bad arguments, script or image, nothing was started; 3 an `expect` of the script was
/// not met; 4 the host failed (image I/O error, socket, lock).
#[derive(Debug, Parser)]
#[command(name = "vhost-blk", version = VERSION.as_str(), args_conflicts_with_subcommands = true)]
pub struct CommandLine {
    /// Something else than serving a disk.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// How to serve.
    #[command(flatten)]
    pub serve: Serve,
}

/// `--by`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ReplayBy {
    /// Op, sector, length and touch.
    #[default]
    Address,
    /// Op, class, inode, file block, length, touch and mark: for a guest whose allocation has shifted.
    File,
}

impl From<ReplayBy> for By {
    fn from(by: ReplayBy) -> By {
        match by {
            ReplayBy::Address => By::Address,
            ReplayBy::File => By::File,
        }
    }
}

/// Serving a disk: QEMU's conventions for vhost-user backend programs, and ours beside them.
#[derive(Clone, Debug, Default, Args)]
pub struct Serve {
    /// Listen on this Unix socket. A stale one is taken over.
    #[arg(long, value_name = "PATH", conflicts_with = "fd")]
    pub socket_path: Option<PathBuf>,
    /// Serve this inherited descriptor: a connected or a listening Unix socket.
    #[arg(long, value_name = "N")]
    pub fd: Option<i32>,
    /// The raw image (regular file or block device), or memory:SIZE, e.g. memory:1G: zeroes that are gone at the end.
    #[arg(long, value_name = "PATH")]
    pub blk_file: Option<PathBuf>,
    /// Offer the disk read-only.
    #[arg(long)]
    pub read_only: bool,
    /// Print what this program can do, as one JSON object, and end.
    #[arg(long)]
    pub print_capabilities: bool,
    /// Fault script; may be given several times, rules keep their order.
    #[arg(long, value_name = "FILE")]
    pub faults: Vec<PathBuf>,
    /// Root of all randomness; the script's own seed otherwise, else 0.
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = seed)]
    pub seed: Option<u64>,
    /// Queues to offer. One costs nothing until the guest enables it.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub num_queues: u16,
    /// What GET_ID answers (at most 20 bytes).
    #[arg(long, value_name = "TEXT", default_value = "vhost-blk")]
    pub serial: String,
    /// Open the image with O_DIRECT.
    #[arg(long)]
    pub direct: bool,
    /// How requests without faults reach the image.
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    pub io: IoMode,
    /// Look this long for more requests before a queue's thread sleeps: answers come sooner, and a CPU is burnt.
    #[arg(long, value_name = "US", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    pub poll_us: u64,
    /// End when the first front-end leaves.
    #[arg(long)]
    pub once: bool,
    /// Serve the image's bytes even if they look like qcow2, VHDX or VMDK.
    #[arg(long)]
    pub raw: bool,
    /// Write the device record here; `vhost-blk trace PATH` prints it.
    #[arg(long, value_name = "PATH")]
    pub trace_file: Option<PathBuf>,
    /// Write every decision of the script here, as JSON lines.
    #[arg(long, value_name = "PATH")]
    pub decisions_file: Option<PathBuf>,
    /// Force the outcomes recorded in a decisions file.
    #[arg(long, value_name = "DECISIONS")]
    pub replay: Option<PathBuf>,
    /// What the requests of a replay are recognised by: their place on the disk, or their place in a file.
    #[arg(long, value_name = "KEY", default_value = "address", requires = "replay")]
    pub by: ReplayBy,
    /// Keep a list of the lies here (data kept beside the image); `vhost-blk overlay list PATH` prints it.
    #[arg(long, value_name = "PATH")]
    pub overlay_file: Option<PathBuf>,
    /// Listen for `vhost-blk ctl` on this Unix socket.
    #[arg(long, value_name = "PATH")]
    pub control_path: Option<PathBuf>,
    /// Keep the snapshots of power cuts in this folder; `vhost-blk snapshot apply` makes images of them.
    #[arg(long, value_name = "DIR")]
    pub snapshot_dir: Option<PathBuf>,
    /// End the virtual machine through this QMP socket when a power cut says so.
    #[arg(long, value_name = "PATH")]
    pub qmp: Option<PathBuf>,
    /// Memory for writes that no flush made durable (`"write_cache": "writeback"`); beyond it, 256 unless given, the
    /// oldest reach the image.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub cache_limit_mib: Option<u64>,
    /// Tell this lie once and record nothing of it, to see that it is noticed.
    #[arg(long, value_enum, value_name = "LIE", hide = true)]
    pub planted_lie: Option<Lie>,
}

/// Everything that is not serving a disk.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Fault scripts: check them, explain them, print their schema.
    #[command(subcommand)]
    Script(ScriptCommand),
    /// Talk to a serving device by its control socket.
    Ctl {
        /// The device's --control-path.
        socket: PathBuf,
        /// What to do.
        #[command(subcommand)]
        verb: Verb,
    },
    /// Lies kept beside the image.
    #[command(subcommand)]
    Overlay(OverlayCommand),
    /// States that a power cut may leave.
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// Print a device record as JSON lines.
    Trace {
        /// A file written by --trace-file.
        file: PathBuf,
    },
}

/// `vhost-blk script`
#[derive(Clone, Debug, Subcommand)]
pub enum ScriptCommand {
    /// Print every problem; exit code 2 if there is one.
    Check {
        /// Scripts, in the order in which they would be given to --faults.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Warnings count as errors.
        #[arg(long)]
        strict: bool,
        /// Check sector ranges and limits against this image too.
        #[arg(long, value_name = "PATH")]
        blk_file: Option<PathBuf>,
        /// Queues the device would offer.
        #[arg(long, value_name = "N", default_value_t = 16)]
        num_queues: u16,
    },
    /// Say what each rule does, stage by stage.
    Explain {
        /// Scripts, in order.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Print the merged script with all defaults written out.
    Normalize {
        /// Scripts, in order.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Print the JSON schema of the language.
    Schema,
}

/// `vhost-blk overlay`
#[derive(Clone, Debug, Subcommand)]
pub enum OverlayCommand {
    /// Print the sectors whose content is still a lie, as JSON lines.
    List {
        /// A file written by --overlay-file.
        file: PathBuf,
    },
}

/// A verb of the control socket.
#[derive(Clone, Debug, Subcommand)]
pub enum Verb {
    /// What the device is doing: session, requests held, lies, host error.
    Status,
    /// Set the mark NAME: points of the script that wait for it are reached.
    Mark {
        /// The mark.
        name: String,
    },
    /// Let go the requests that the rule RULE holds.
    Release {
        /// The rule's id.
        rule: String,
    },
    /// How often each rule matched and fired, and how many requests came.
    Counters,
    /// Cut the power: from now on nothing is answered until the front-end has left.
    PowerCut {
        /// What survives of the writes that no flush made durable.
        #[arg(long, value_enum, default_value_t)]
        unflushed: Survivors,
        /// What happens then.
        #[arg(long, value_enum, default_value_t)]
        then: AfterCut,
    },
    /// Write down what a power cut now would leave (needs --snapshot-dir); the guest goes on.
    Snapshot {
        /// What survives of the writes that no flush made durable.
        #[arg(long, value_enum, default_value_t = Survivors::Reduced)]
        unflushed: Survivors,
        /// Most states of a subset.
        #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_STATES)]
        max_states: u32,
    },
    /// Look at the rules of the running script, and change them.
    #[command(subcommand)]
    Rules(RulesVerb),
    /// Heal bad sectors, and end fail_class; with a rule, heal what is bad by that one. Waits for earlier requests.
    Heal {
        /// The rule's id.
        rule: Option<String>,
    },
    /// Make all requests of a class fail: writes, reads, all or none. Waits for earlier requests.
    #[command(name = "fail_class", alias = "fail-class")]
    FailClass {
        /// Which.
        #[arg(value_parser = fail_class)]
        class: FailClass,
    },
    /// Give the disk another size, and tell the guest. The image is made larger if need be, and never smaller.
    Resize {
        /// Its new size, in sectors of 512 bytes.
        capacity_sectors: u64,
    },
    /// Put another disk in the place of this one, under a guest that does not use it: image, script, seed and record.
    Change(Change),
    /// Print what happens (decisions, power cuts, snapshots, resizes, a full write cache) as it happens, one JSON object per line.
    Subscribe,
}

fn seed(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("a seed is a whole number from 0 to {}", u64::MAX))
}

fn fail_class(word: &str) -> Result<FailClass, String> {
    serde_json::from_value(word.into()).map_err(|_| "it is one of writes, reads, all, none".to_string())
}

fn json(text: &str) -> Result<serde_json::Value, String> {
    serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))
}

/// `vhost-blk ctl SOCKET rules`
#[derive(Clone, Debug, Subcommand)]
pub enum RulesVerb {
    /// Every rule: on or off, how often it fired, which sectors are bad by it.
    List,
    /// Let a rule fire again.
    Enable {
        /// The rule's id.
        rule: String,
    },
    /// Let a rule fire no more.
    Disable {
        /// The rule's id.
        rule: String,
    },
    /// Add a rule behind the others.
    Add {
        /// As in a script, e.g. {"id":"x","match":{"op":"write"},"action":{"lose":{}}}.
        #[arg(value_parser = json)]
        rule: serde_json::Value,
    },
    /// Take a rule out.
    Remove {
        /// The rule's id.
        rule: String,
    },
}

/// `vhost-blk snapshot`
#[derive(Clone, Debug, Subcommand)]
pub enum SnapshotCommand {
    /// Make a whole image of a state: the image as it was at the cut, with the state over it. The run must have ended.
    Apply {
        /// A .snap file of a --snapshot-dir.
        file: PathBuf,
        /// The image of the run.
        #[arg(long, value_name = "IMAGE")]
        image: PathBuf,
        /// Where to; sparse, and sharing blocks with the image where the file system can.
        #[arg(long, value_name = "OUT")]
        out: PathBuf,
    },
    /// Print what a state says of itself: the cut, and which writes survive.
    Show {
        /// A .snap file of a --snapshot-dir.
        file: PathBuf,
    },
}
