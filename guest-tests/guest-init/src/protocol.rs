//! The messages on the port `ctl`: one JSON object per line, in both directions.
//!
//! The guest speaks first ([`FromGuest::Hello`]). Log lines may come at any time (those before [`FromGuest::Disk`] of a later job are of the
//! time before that job); everything
//! else follows the order written at [`crate::job::Job`]. Nothing is sent twice, and the guest powers off
//! only when told to: until then all it said has arrived.

use serde::{Deserialize, Serialize};

use crate::job::{Errno, Job};
use crate::pattern::PatternMap;

/// Raised when a message changes its meaning; host and guest must agree on it.
pub const PROTOCOL: u32 = 1;

/// The port for these messages.
pub const CTL_PORT: &str = "ctl";

/// The port for the trace ([`crate::frames`]).
pub const TRACE_PORT: &str = "trace";

/// What the host says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "msg", rename_all = "snake_case", deny_unknown_fields)]
pub enum ToGuest {
    /// Answered by [`FromGuest::Symbols`].
    Symbols {
        /// Names as in `/proc/kallsyms`.
        names: Vec<String>,
    },
    /// Answered by [`FromGuest::Formats`].
    Formats {
        /// `group/name` of each event.
        events: Vec<String>,
    },
    /// Answered by [`FromGuest::Done`] at its end; then there may be another one.
    Job(Box<Job>),
    /// The disk is about to be changed: answered by [`FromGuest::AtRest`] when nothing of it is kept.
    Rest {
        /// The disk's device node.
        device: String,
    },
    /// The device has acknowledged the mark of that op.
    Ack {
        /// The op's index.
        index: u32,
    },
    /// Everything has arrived.
    PowerOff,
}

/// What the guest says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "msg", rename_all = "snake_case", deny_unknown_fields)]
pub enum FromGuest {
    /// The guest is up.
    Hello(Hello),
    /// One record of the kernel log.
    Log(LogLine),
    /// Answer to [`ToGuest::Symbols`].
    Symbols {
        /// Every symbol of each asked name; a name may belong to several functions.
        symbols: Vec<Symbol>,
        /// Names the kernel does not have.
        missing: Vec<String>,
    },
    /// Answer to [`ToGuest::Formats`].
    Formats {
        /// Those the kernel has.
        formats: Vec<EventFormat>,
        /// Those it has not.
        missing: Vec<String>,
    },
    /// Probes are set, tracing is on, the disk's driver is not loaded yet.
    Tracing(Tracing),
    /// The disk is there, its settings are written.
    Disk {
        /// Optional settings the kernel refused.
        refused: Vec<Refusal>,
    },
    /// The file system was mounted, or the attempt failed; then no op is run.
    Mounted {
        /// Why not.
        errno: Option<Errno>,
    },
    /// An op begins.
    OpBegin {
        /// Its place in the workload, from 0.
        index: u32,
        /// Its name.
        op: String,
    },
    /// An op ended.
    OpEnd(OpEnd),
    /// The op `index` is a mark, waiting for [`ToGuest::Ack`].
    Mark {
        /// Its place in the workload.
        index: u32,
        /// Its name.
        name: String,
    },
    /// After the last op.
    Unmounted {
        /// Why not.
        errno: Option<Errno>,
    },
    /// The trace is off and drained; the END frame has been written.
    Done(Statistics),
    /// Everything logged so far has been sent, and the kernel has let go what it had cached of the disk.
    AtRest {
        /// `/proc/sys/kernel/tainted`.
        tainted: u64,
        /// It is still mounted, or the kernel still has its super block.
        held: bool,
    },
    /// The guest could not carry out the job. A failure of the set-up, never of the workload.
    Failed {
        /// What it was doing.
        doing: String,
        /// What went wrong.
        error: String,
    },
}

/// The first message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`PROTOCOL`] of the guest's side.
    pub protocol: u32,
    /// Version of this package in the guest.
    pub version: String,
    /// `uname -r`.
    pub release: String,
    /// `uname -v`: the build, with the distribution's package version.
    pub build: String,
    /// CPUs online.
    pub cpus: u32,
    /// Bytes of a page, and of a ring-buffer page.
    pub page_bytes: u32,
    /// Milliseconds from the kernel's start to this message.
    pub uptime_ms: u64,
}

/// One kernel log record, as `/dev/kmsg` gives it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// syslog level, 0 (emergency) to 7 (debug).
    pub level: u8,
    /// The record's number.
    pub seq: u64,
    /// Microseconds since boot.
    pub time_us: u64,
    /// The text.
    pub text: String,
}

/// A kernel symbol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Symbol {
    /// Its name.
    pub name: String,
    /// Where it starts.
    pub address: u64,
    /// Bytes to the next symbol.
    pub size: u64,
    /// `t` or `T` for functions, as in kallsyms.
    pub kind: char,
}

/// The `format` file of an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventFormat {
    /// `group/name`.
    pub event: String,
    /// The file's text.
    pub text: String,
}

/// Something optional the kernel did not take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// The probe line, event or file.
    pub what: String,
    /// What the kernel said.
    pub error: String,
}

/// What is needed to read the trace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracing {
    /// Formats of all enabled events, and of `ftrace/print`, the markers.
    pub formats: Vec<EventFormat>,
    /// `events/header_page`.
    pub header_page: String,
    /// `events/header_event`.
    pub header_event: String,
    /// The clock in use.
    pub clock: String,
    /// Optional probes and events the kernel refused.
    pub refused: Vec<Refusal>,
}

/// How an op ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpEnd {
    /// Its place in the workload, from 0.
    pub index: u32,
    /// Its name.
    pub op: String,
    /// What the call returned; for writes and reads the bytes done before any error.
    pub returned: i64,
    /// The error, if it ended with one.
    pub errno: Option<Errno>,
    /// Inode number of the file it was about.
    pub inode: Option<u64>,
    /// What was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<ReadBack>,
    /// How long it took in the guest. For people; order never comes from it.
    pub elapsed_us: u64,
}

/// What a `read` read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadBack {
    /// FNV-1a, 64 bit, of all bytes.
    pub fnv1a64: String,
    /// What they are.
    pub map: PatternMap,
}

/// The trailer of a trace: what says whether anything was lost.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Statistics {
    /// `kprobe_profile`: name, hits, misses per line. Empty without probes.
    pub kprobe_profile: String,
    /// `per_cpu/cpuN/stats`, by CPU.
    pub per_cpu: Vec<String>,
    /// Ring-buffer pages sent.
    pub pages: u64,
    /// Their bytes.
    pub bytes: u64,
}
