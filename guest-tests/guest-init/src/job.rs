//! What the host wants done in the guest: probes, settings, a mount, and the workload.
//!
//! [`Op`] is also the workload op of `scenario.json`; unknown keys are refused there and here.
//! A job is complete in itself: the guest decides nothing that is not written in it.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::writers::{self, Writer};

/// One operation of the workload: what to do, and the error it is expected to end with.
///
/// In JSON they lie side by side: `{"op":"fsync","path":"f","errno":"EIO","writer":2}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Op {
    /// What to do.
    pub action: Action,
    /// The error the operation is expected to end with; `None`: it is expected to succeed.
    /// The guest does not look at it; it carries on either way.
    pub errno: Option<Errno>,
    /// Which of several tasks does it, beside the others ([`crate::writers`]); `None`: nothing else is done meanwhile.
    pub writer: Option<Writer>,
}

/// What an operation does. Paths are relative to the mount point; numbers are bytes.
///
/// A file stays open from the first operation that names it until `unlink`, `remount` or the
/// end, one descriptor for buffered and one for direct I/O, as one program would hold it.
// Ops without arguments are `{}` variants: only those refuse unknown keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// Creates an empty file; `EEXIST` if there is one.
    Create {
        /// The file.
        path: String,
    },
    /// `fallocate(2)`, mode 0 unless `keep_size`.
    Fallocate {
        /// The file.
        path: String,
        /// First byte.
        #[serde(default)]
        offset: u64,
        /// Bytes to allocate.
        len: u64,
        /// Keep the file's size (FALLOC_FL_KEEP_SIZE).
        #[serde(default, skip_serializing_if = "is_false")]
        keep_size: bool,
    },
    /// `pwrite(2)` of a pattern: one call, or one per chunk of `stride`.
    Write(Write),
    /// `pread(2)`; reports what was read as a digest and a pattern map.
    Read {
        /// The file.
        path: String,
        /// First byte.
        #[serde(default)]
        offset: u64,
        /// Bytes to read; up to the end of the file if left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        len: Option<u64>,
        /// O_DIRECT.
        #[serde(default, skip_serializing_if = "is_false")]
        direct: bool,
    },
    /// `fsync(2)`.
    Fsync {
        /// The file, or a directory.
        path: String,
    },
    /// `fdatasync(2)`.
    Fdatasync {
        /// The file.
        path: String,
    },
    /// `sync(2)`: starts and awaits writeback of everything, and cannot fail.
    Sync {},
    /// `sync_file_range(2)`.
    SyncFileRange {
        /// The file.
        path: String,
        /// First byte.
        #[serde(default)]
        offset: u64,
        /// Bytes; 0 or left out: to the end of the file.
        #[serde(default)]
        len: u64,
        /// Only start writeback, do not wait before or after.
        #[serde(default, skip_serializing_if = "is_false")]
        start_only: bool,
    },
    /// `ftruncate(2)`.
    Truncate {
        /// The file.
        path: String,
        /// The new size.
        len: u64,
    },
    /// Punches a hole.
    Punch {
        /// The file.
        path: String,
        /// First byte.
        offset: u64,
        /// Bytes to give back.
        len: u64,
    },
    /// `rename(2)`.
    Rename {
        /// The old name.
        path: String,
        /// The new name.
        to: String,
    },
    /// `unlink(2)`; descriptors kept for it are closed first.
    Unlink {
        /// The file.
        path: String,
    },
    /// `link(2)`.
    Link {
        /// The existing name.
        path: String,
        /// The name to add.
        to: String,
    },
    /// `mkdir(2)`.
    Mkdir {
        /// The directory.
        path: String,
    },
    /// `FITRIM` on the whole file system: tells the disk which blocks are free. Returns the bytes it was told of.
    Fstrim {},
    /// Drops clean page cache, dentries and inodes. Dirty pages stay: `sync` before it.
    DropCaches {},
    /// Stores a pattern through a shared mapping; `msync(MS_SYNC)` afterwards if asked for.
    MmapWrite {
        /// The file; it must be long enough already.
        path: String,
        /// First byte.
        #[serde(default)]
        offset: u64,
        /// Bytes to store.
        len: u64,
        /// Name of the pattern.
        pattern: String,
        /// `msync(MS_SYNC)` before the mapping goes.
        #[serde(default, skip_serializing_if = "is_false")]
        msync: bool,
    },
    /// Like `write`, but all calls are submitted at once with `io_submit(2)` and then awaited.
    AioWrite(Write),
    /// A point both sides know: returns after the host has acknowledged it.
    Mark {
        /// What the device and the report call it.
        name: String,
    },
    /// Sleeps.
    SleepMs {
        /// Milliseconds.
        ms: u64,
    },
    /// Waits until the kernel has taken this size of the disk from its driver; `ETIMEDOUT` after a minute.
    AwaitCapacity {
        /// As in `/sys/block/vda/size`.
        sectors: u64,
    },
    /// Unmounts and mounts again, so that what follows is read from the disk.
    Remount {},
}

/// The arguments of `write` and `aio_write`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Write {
    /// The file.
    pub path: String,
    /// First byte.
    #[serde(default)]
    pub offset: u64,
    /// Length of the range in bytes, gaps of the stride included.
    pub len: u64,
    /// Name of the pattern; the bytes follow from it and from the place in the file.
    pub pattern: String,
    /// O_DIRECT.
    #[serde(default, skip_serializing_if = "is_false")]
    pub direct: bool,
    /// Cuts the range into calls; left out: one call for all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stride: Option<Stride>,
}

/// Which pieces of a range are written, and in which order.
///
/// With `chunk` 4096, `step` 8192 and `phases` 2: all even 4 KiB pages, then all odd ones,
/// so that no two neighbours in the page cache merge into one bio vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stride {
    /// Bytes of one call.
    pub chunk: u64,
    /// Distance between the starts of two calls of one phase; at least `chunk`.
    pub step: u64,
    /// How many times to go through the range, each time `chunk` further on. 1 if left out.
    #[serde(default = "one")]
    pub phases: u64,
}

fn one() -> u64 {
    1
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_false(value: &bool) -> bool {
    !*value
}

impl Write {
    /// The calls in order, each as (file offset, length).
    #[must_use]
    pub fn calls(&self) -> Vec<(u64, u64)> {
        let Some(stride) = self.stride else {
            return vec![(self.offset, self.len)];
        };
        let starts = |phase: u64| (phase * stride.chunk..self.len).step_by(stride.step as usize);
        (0..stride.phases)
            .flat_map(starts)
            .map(|start| (self.offset + start, stride.chunk.min(self.len - start)))
            .collect()
    }

    fn check(&self) -> Result<(), String> {
        if self.len == 0 {
            return Err("`len` must not be 0".into());
        }
        check_len(self.len)?;
        let Some(Stride { chunk, step, phases }) = self.stride else { return Ok(()) };
        if chunk == 0 || step < chunk {
            return Err(format!("`stride` needs 0 < chunk <= step, not chunk {chunk}, step {step}"));
        }
        if phases == 0 || phases.saturating_mul(chunk) > step {
            return Err(format!("`stride` needs 1 <= phases and phases * chunk <= step, not {phases} phases"));
        }
        Ok(())
    }
}

impl Action {
    /// The word `op` carries in JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Action::Create { .. } => "create",
            Action::Fallocate { .. } => "fallocate",
            Action::Write(_) => "write",
            Action::Read { .. } => "read",
            Action::Fsync { .. } => "fsync",
            Action::Fdatasync { .. } => "fdatasync",
            Action::Sync {} => "sync",
            Action::SyncFileRange { .. } => "sync_file_range",
            Action::Truncate { .. } => "truncate",
            Action::Punch { .. } => "punch",
            Action::Rename { .. } => "rename",
            Action::Unlink { .. } => "unlink",
            Action::Link { .. } => "link",
            Action::Mkdir { .. } => "mkdir",
            Action::Fstrim {} => "fstrim",
            Action::DropCaches {} => "drop_caches",
            Action::MmapWrite { .. } => "mmap_write",
            Action::AioWrite(_) => "aio_write",
            Action::Mark { .. } => "mark",
            Action::SleepMs { .. } => "sleep_ms",
            Action::AwaitCapacity { .. } => "await_capacity",
            Action::Remount {} => "remount",
        }
    }

    /// The file the operation is about, if it is about one.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        match self {
            Action::Create { path }
            | Action::Fallocate { path, .. }
            | Action::Read { path, .. }
            | Action::Fsync { path }
            | Action::Fdatasync { path }
            | Action::SyncFileRange { path, .. }
            | Action::Truncate { path, .. }
            | Action::Punch { path, .. }
            | Action::Rename { path, .. }
            | Action::Unlink { path }
            | Action::Link { path, .. }
            | Action::Mkdir { path }
            | Action::MmapWrite { path, .. } => Some(path),
            Action::Write(write) | Action::AioWrite(write) => Some(&write.path),
            Action::Sync {}
            | Action::Fstrim {}
            | Action::DropCaches {}
            | Action::Mark { .. }
            | Action::SleepMs { .. }
            | Action::AwaitCapacity { .. }
            | Action::Remount {} => None,
        }
    }

    fn check(&self) -> Result<(), String> {
        let paths = match self {
            Action::Rename { path, to } | Action::Link { path, to } => vec![path.as_str(), to],
            _ => self.path().into_iter().collect(),
        };
        paths.into_iter().try_for_each(check_path)?;
        match self {
            Action::Write(write) | Action::AioWrite(write) => write.check(),
            Action::Read { len: Some(len), .. } | Action::MmapWrite { len, .. } => check_len(*len),
            Action::Mark { name } if name.is_empty() => Err("`name` must not be empty".into()),
            _ => Ok(()),
        }
    }
}

/// Longest range of one op that reads or writes: the guest holds it in memory.
pub const MAX_LEN_BYTES: u64 = 128 << 20;

fn check_len(len: u64) -> Result<(), String> {
    if len > MAX_LEN_BYTES {
        return Err(format!("`len` {len} is more than the guest holds in memory ({MAX_LEN_BYTES})"));
    }
    Ok(())
}

/// A path stays below the mount point: the workload must not reach the guest's own root.
fn check_path(path: &str) -> Result<(), String> {
    let escapes = path.starts_with('/') || path.split('/').any(|part| part == "..");
    if path.is_empty() || escapes || path.contains('\0') {
        return Err(format!("path {path:?} must be relative to the mount point, without `..`"));
    }
    Ok(())
}

impl<'de> Deserialize<'de> for Op {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut map = Map::<String, Value>::deserialize(deserializer)?;
        let errno = map.remove("errno").map(Errno::deserialize).transpose().map_err(D::Error::custom)?;
        let writer = map.remove("writer").map(Writer::deserialize).transpose().map_err(D::Error::custom)?;
        let op = map.get("op").and_then(Value::as_str).unwrap_or("?").to_owned();
        let action = Action::deserialize(Value::Object(map)).map_err(|e| D::Error::custom(format!("op {op}: {e}")))?;
        action.check().map_err(|e| D::Error::custom(format!("op {op}: {e}")))?;
        if writer.is_some() {
            writers::may_be_done_beside_others(&action).map_err(|e| D::Error::custom(format!("op {op}: {e}")))?;
        }
        Ok(Op { action, errno, writer })
    }
}

impl Serialize for Op {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Flat<'a> {
            #[serde(flatten)]
            action: &'a Action,
            #[serde(skip_serializing_if = "Option::is_none")]
            errno: Option<Errno>,
            #[serde(skip_serializing_if = "Option::is_none")]
            writer: Option<Writer>,
        }
        Flat { action: &self.action, errno: self.errno, writer: self.writer }.serialize(serializer)
    }
}

/// A Linux error number; in JSON its name (`"EIO"`), or the number where it has no name here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Errno(pub i32);

/// The errors a file system or a block device may answer with.
const ERRNO_NAMES: &[(i32, &str)] = &[
    (libc::EPERM, "EPERM"),
    (libc::ENOENT, "ENOENT"),
    (libc::EINTR, "EINTR"),
    (libc::EIO, "EIO"),
    (libc::ENXIO, "ENXIO"),
    (libc::E2BIG, "E2BIG"),
    (libc::EBADF, "EBADF"),
    (libc::EAGAIN, "EAGAIN"),
    (libc::ENOMEM, "ENOMEM"),
    (libc::EACCES, "EACCES"),
    (libc::EFAULT, "EFAULT"),
    (libc::EBUSY, "EBUSY"),
    (libc::EEXIST, "EEXIST"),
    (libc::ENODEV, "ENODEV"),
    (libc::ENOTDIR, "ENOTDIR"),
    (libc::EISDIR, "EISDIR"),
    (libc::EINVAL, "EINVAL"),
    (libc::EFBIG, "EFBIG"),
    (libc::ENOSPC, "ENOSPC"),
    (libc::EROFS, "EROFS"),
    (libc::EMLINK, "EMLINK"),
    (libc::ENOSYS, "ENOSYS"),
    (libc::ENOTEMPTY, "ENOTEMPTY"),
    (libc::ENODATA, "ENODATA"),
    (libc::ETIME, "ETIME"),
    (libc::EBADMSG, "EBADMSG"),
    (libc::ENOLINK, "ENOLINK"),
    (libc::EUCLEAN, "EUCLEAN"),
    (libc::EOPNOTSUPP, "EOPNOTSUPP"),
    (libc::ETIMEDOUT, "ETIMEDOUT"),
    (libc::EREMOTEIO, "EREMOTEIO"),
    (libc::EILSEQ, "EILSEQ"),
];

impl Errno {
    /// The names that stand for error numbers.
    pub fn names() -> impl Iterator<Item = &'static str> {
        ERRNO_NAMES.iter().map(|(_, name)| *name)
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match ERRNO_NAMES.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

impl std::str::FromStr for Errno {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = ERRNO_NAMES.iter().find(|(_, name)| *name == text);
        named
            .map(|(number, _)| Errno(*number))
            .ok_or_else(|| format!("{text:?} is not the name of an error, such as \"EIO\""))
    }
}

impl Serialize for Errno {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match ERRNO_NAMES.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => serializer.serialize_str(name),
            None => serializer.serialize_i32(self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Errno {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(name) => name.parse().map_err(D::Error::custom),
            Value::Number(number) => {
                let small = number.as_i64().and_then(|n| i32::try_from(n).ok()).filter(|n| (1..4096).contains(n));
                small.map(Errno).ok_or_else(|| D::Error::custom(format!("{number} is not an error number (1 to 4095)")))
            }
            other => Err(D::Error::custom(format!("{other} is not an error: give its name, such as \"EIO\""))),
        }
    }
}

/// Everything the guest is to do between hello and power off.
///
/// Order in the guest: `at_start` settings, trace settings, probes, events, tracing on,
/// `virtio_blk` loaded, `on_disk` settings, nonce, mount, ops, unmount, tracing off, drain.
///
/// A second job of the same boot finds the driver loaded, and the probes set if an earlier one set them: then it says
/// `trace_as_before`. A second `trace` is refused, since what the first set is not taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// What to trace; `None`: nothing, and no END frame but an empty one.
    pub trace: Option<Trace>,
    /// Trace what an earlier job of this boot traced, from empty buffers and new statistics. [`crate::protocol::Tracing`] is
    /// not sent again.
    #[serde(default, skip_serializing_if = "is_false")]
    pub trace_as_before: bool,
    /// Written before anything else, such as `/proc/sys/kernel/hung_task_timeout_secs`.
    #[serde(default)]
    pub at_start: Vec<Setting>,
    /// Written when the disk is there, such as `/sys/block/vda/queue/nomerges`.
    #[serde(default)]
    pub on_disk: Vec<Setting>,
    /// The disk's device node.
    pub device: String,
    /// What the disk must hold as the past of block 0 ([`crate::past::NONCE_UNIT`]); it is read when tracing is on and before
    /// the mount, and past everything that the kernel may have kept of another disk. `None`: nobody looks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nonce: Option<u64>,
    /// What to mount, and how. `None`: the ops find no file system (a raw-device run).
    pub mount: Option<Mount>,
    /// The workload.
    pub ops: Vec<Op>,
}

impl Job {
    /// A job on `/dev/vda` with ext4 and nothing else set.
    #[must_use]
    pub fn ext4(ops: Vec<Op>) -> Self {
        let mount = Some(Mount { fstype: "ext4".into(), options: String::new() });
        Job {
            trace: None,
            trace_as_before: false,
            at_start: Vec::new(),
            on_disk: Vec::new(),
            device: "/dev/vda".into(),
            nonce: None,
            mount,
            ops,
        }
    }
}

/// A file system to mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// `ext4`.
    pub fstype: String,
    /// As after `mount -o`, comma-separated; may be empty. `ro` is understood.
    #[serde(default)]
    pub options: String,
}

/// One file to write in `/proc/sys` or `/sys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting {
    /// Absolute path.
    pub path: String,
    /// What to write; a line end is added.
    pub value: String,
    /// A kernel without it is fine; the refusal is reported all the same.
    #[serde(default)]
    pub optional: bool,
}

/// What to trace and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trace {
    /// `counter`: one sequence over all CPUs.
    #[serde(default = "counter")]
    pub clock: String,
    /// Ring buffer per CPU. An overrun is visible in the statistics, never silent.
    #[serde(default = "buffer_kib")]
    pub buffer_kib_per_cpu: u32,
    /// Kprobe definitions as `kprobe_events` takes them, in order.
    pub probes: Vec<Probe>,
    /// Events to enable; those of the probes among them.
    pub events: Vec<Event>,
}

fn counter() -> String {
    "counter".into()
}

fn buffer_kib() -> u32 {
    8192
}

/// One line for `kprobe_events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Such as `p:io/putd ext4_put_io_end_defer+5 io_end=%di`.
    pub line: String,
    /// A kernel that refuses it is fine; the refusal is reported all the same.
    #[serde(default)]
    pub optional: bool,
}

/// One trace event to enable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// `group/name`, such as `block/block_rq_issue` or `io/putd`.
    pub name: String,
    /// As the event's `filter` file takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<String>,
    /// A kernel without it is fine; the refusal is reported all the same.
    #[serde(default)]
    pub optional: bool,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;

    fn op(json: &str) -> Result<Op, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn an_op_and_its_expected_errno_lie_side_by_side() {
        let text = r#"{"op":"fsync","path":"f","errno":"EIO"}"#;
        let parsed = op(text).unwrap();
        let action = Action::Fsync { path: "f".into() };
        assert_eq!(parsed, Op { action, errno: Some(Errno(libc::EIO)), writer: None });
        assert_eq!(serde_json::to_string(&parsed).unwrap(), text);
    }

    #[test]
    fn every_op_survives_json_and_its_name_is_the_tag() {
        let all = r#"[{"op":"create","path":"f"},{"op":"fallocate","path":"f","offset":0,"len":4096},
            {"op":"write","path":"f","offset":0,"len":8192,"pattern":"a","direct":true,"stride":{"chunk":512,"step":1024,"phases":2}},
            {"op":"read","path":"f","offset":4},{"op":"fsync","path":"f"},{"op":"fdatasync","path":"f"},{"op":"sync"},
            {"op":"sync_file_range","path":"f","offset":0,"len":0},{"op":"truncate","path":"f","len":1},
            {"op":"punch","path":"f","offset":0,"len":1},{"op":"rename","path":"f","to":"g"},{"op":"unlink","path":"f"},
            {"op":"link","path":"f","to":"g"},{"op":"mkdir","path":"d"},{"op":"fstrim"},{"op":"drop_caches"},
            {"op":"mmap_write","path":"f","offset":0,"len":1,"pattern":"a"},
            {"op":"aio_write","path":"f","offset":0,"len":1,"pattern":"a"},{"op":"mark","name":"m"},
            {"op":"sleep_ms","ms":1},{"op":"await_capacity","sectors":8},{"op":"remount"}]"#;
        let before: Value = serde_json::from_str(all).unwrap();
        let ops: Vec<Op> = serde_json::from_value(before.clone()).unwrap();
        assert_eq!(serde_json::to_value(&ops).unwrap(), before);
        let tags: Vec<_> = before.as_array().unwrap().iter().map(|v| v["op"].as_str().unwrap()).collect();
        assert_eq!(ops.iter().map(|op| op.action.name()).collect::<Vec<_>>(), tags);
    }

    #[test]
    fn what_an_op_does_not_know_is_refused_with_its_name() {
        for (json, says) in [
            (r#"{"op":"fsync","path":"f","len":3}"#, "op fsync: unknown field `len`"),
            (r#"{"op":"write","path":"f","len":3}"#, "op write: missing field `pattern`"),
            (r#"{"op":"sync","path":"f"}"#, "unknown field `path`"),
            (r#"{"op":"write","path":"f","len":3,"pattern":"a","ofset":1}"#, "unknown field `ofset`"),
            (r#"{"op":"fsnyc","path":"f"}"#, "unknown variant `fsnyc`"),
            (r#"{"op":"fsync","path":"../etc"}"#, "without `..`"),
            (r#"{"op":"fsync","path":"/f"}"#, "relative to the mount point"),
            (r#"{"op":"fsync","path":"f","errno":"EIOO"}"#, "\"EIOO\" is not the name of an error"),
            (r#"{"op":"fsync","path":"f","errno":-5}"#, "-5 is not an error number"),
            (r#"{"op":"write","path":"f","len":0,"pattern":"a"}"#, "`len` must not be 0"),
            (r#"{"op":"fsync","path":"f","writer":0}"#, "0 is no writer: they are 1 to 4"),
            (r#"{"op":"fsync","path":"f","writer":5}"#, "5 is no writer: they are 1 to 4"),
            (r#"{"op":"create","path":"f","writer":1}"#, "op create: it cannot have a `writer`"),
            (r#"{"op":"mark","name":"m","writer":2}"#, "op mark: it cannot have a `writer`"),
            (r#"{"op":"read","path":"f","len":1099511627776}"#, "more than the guest holds"),
            (r#"{"op":"write","path":"f","len":9,"pattern":"a","stride":{"chunk":4,"step":2}}"#, "0 < chunk <= step"),
            (r#"{"op":"write","path":"f","len":9,"pattern":"a","stride":{"chunk":4,"step":8,"phases":3}}"#, "3 phases"),
        ] {
            let said = op(json).unwrap_err();
            assert!(said.contains(says), "{json}: {said}");
        }
    }

    #[test]
    fn two_phases_write_even_pages_then_odd_pages_and_stop_at_the_end() {
        let Action::Write(write) = op(
            r#"{"op":"write","path":"f","offset":4096,"len":18432,"pattern":"a","stride":{"chunk":4096,"step":8192,"phases":2}}"#,
        )
        .unwrap()
        .action
        else {
            panic!("a write");
        };
        assert_eq!(write.calls(), [(4096, 4096), (12288, 4096), (20480, 2048), (8192, 4096), (16384, 4096)]);
    }
}
