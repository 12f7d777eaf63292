//! The kinds of operations that are drawn for the middle of a workload.

use super::files::Files;
use crate::draw::Stream;
use serde_json::{Value, json};

/// One kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Write,
    Strided,
    Direct,
    Aio,
    Mmap,
    Fallocate,
    Truncate,
    Punch,
    Fsync,
    Fdatasync,
    Sync,
    SyncFileRange,
    /// Starts writeback and does not wait: what follows meets it under way.
    Start,
    Read,
    DirectRead,
    DropCaches,
    Remount,
    Create,
    Mkdir,
    Rename,
    Link,
    Unlink,
    Fstrim,
    Sleep,
}

use Kind::{
    Aio, Create, Direct, DirectRead, DropCaches, Fallocate, Fdatasync, Fstrim, Fsync, Link, Mkdir, Mmap, Punch, Read,
    Remount, Rename, Sleep, Start, Strided, Sync, SyncFileRange, Truncate, Unlink, Write,
};

/// Each with its weight where it is on. What the shared io_end is about weighs most.
const KINDS: &[(u64, Kind)] = &[
    (8, Write),
    (10, Strided),
    (4, Direct),
    (4, Aio),
    (4, Mmap),
    (6, Fallocate),
    (3, Truncate),
    (4, Punch),
    (8, Fsync),
    (3, Fdatasync),
    (4, Sync),
    (4, SyncFileRange),
    (5, Start),
    (2, Read),
    (2, DirectRead),
    (2, DropCaches),
    (1, Remount),
    (2, Create),
    (1, Mkdir),
    (2, Rename),
    (1, Link),
    (2, Unlink),
    (1, Fstrim),
    (1, Sleep),
];

impl Kind {
    /// Swarm: each workload has some kinds and not the others, and always one that writes and one that syncs.
    pub fn switched_on(stream: &mut Stream, trims: bool) -> Vec<(u64, Kind)> {
        let mut on: Vec<(u64, Kind)> = KINDS.iter().copied().filter(|_| stream.chance(1, 2)).collect();
        on.retain(|(_, kind)| trims || *kind != Fstrim);
        let always =
            [stream.pick(&[Write, Strided, Strided, Direct, Mmap]), stream.pick(&[Fsync, Sync, SyncFileRange])];
        on.extend(always.map(|kind| (10, kind)));
        on
    }

    /// Draws one operation of this kind, and what it needs before it.
    pub fn draw(self, stream: &mut Stream, files: &mut Files) {
        match self {
            Write | Strided | Direct | Aio | Mmap => self.writes(stream, files),
            Fallocate | Truncate | Punch => self.reshapes(stream, files),
            Fsync | Fdatasync | Sync | SyncFileRange | Start => self.syncs(stream, files),
            Read | DirectRead => self.reads(stream, files),
            Create | Mkdir | Rename | Link | Unlink => self.names(stream, files),
            DropCaches => files.op(json!({"op": "drop_caches"})),
            Remount => files.op(json!({"op": "remount"})),
            Fstrim => files.op(json!({"op": "fstrim"})),
            Sleep => files.op(json!({"op": "sleep_ms", "ms": stream.between(1, 12)})),
        }
    }

    fn writes(self, stream: &mut Stream, files: &mut Files) {
        let file = files.any(stream);
        let bytes = files.bytes(file);
        let direct = ("direct", Value::from(true));
        match self {
            Strided => {
                let (offset, len) = files.range(stream, bytes);
                let stride = ("stride", files.stride(stream, len, files.block_bytes.min(1024)));
                files.write(file, offset, len, &[stride]);
            }
            Direct => {
                let (offset, len) = files.direct_range(stream, bytes);
                files.write(file, offset, len, &[direct]);
            }
            Aio if stream.chance(2, 3) => {
                let (offset, len) = files.direct_range(stream, bytes);
                // Whole units only: the last call of a stride ends with the range.
                let stride = ("stride", files.stride(stream, len, 4096));
                files.writing("aio_write", file, offset, len, &[direct, stride]);
            }
            Aio => {
                let (offset, len) = files.range(stream, bytes);
                files.writing("aio_write", file, offset, len, &[]);
            }
            Mmap => {
                if bytes == 0 {
                    let bytes = files.size(stream);
                    files.truncate(file, bytes);
                }
                let (offset, len) = files.range_within(stream, files.bytes(file));
                let msync = ("msync", Value::from(stream.chance(1, 3)));
                files.writing("mmap_write", file, offset, len, &[msync]);
            }
            _ => {
                let (offset, len) = files.range(stream, bytes);
                files.write(file, offset, len, &[]);
            }
        }
    }

    fn reshapes(self, stream: &mut Stream, files: &mut Files) {
        let file = files.any(stream);
        let (offset, len) = files.range(stream, files.bytes(file));
        match self {
            Truncate if stream.chance(1, 3) => {
                let bytes = files.size(stream);
                files.truncate(file, bytes);
            }
            Truncate => files.truncate(file, offset),
            Punch => files.punch(file, offset, len),
            _ => files.fallocate(file, offset, len, stream.chance(1, 4)),
        }
    }

    fn syncs(self, stream: &mut Stream, files: &mut Files) {
        let file = files.any(stream);
        match self {
            Fsync => files.on(file, "fsync"),
            Fdatasync => files.on(file, "fdatasync"),
            Sync => files.op(json!({"op": "sync"})),
            _ => files.sync_file_range(stream, file, self == Start),
        }
    }

    fn reads(self, stream: &mut Stream, files: &mut Files) {
        let file = files.any(stream);
        match (self, files.bytes(file)) {
            (_, 0) => files.read(file),
            (DirectRead, bytes) => {
                let (offset, len) = files.direct_range(stream, bytes);
                files.read_range(file, offset, len, true);
            }
            (_, bytes) => {
                let (offset, len) = files.range_within(stream, bytes);
                files.read_range(file, offset, len, false);
            }
        }
    }

    fn names(self, stream: &mut Stream, files: &mut Files) {
        match self {
            Create => drop(files.create_anywhere(stream)),
            Mkdir => files.mkdir(),
            Link => {
                let file = files.any(stream);
                files.link(file);
            }
            Unlink => {
                let file = files.any(stream);
                files.unlink(file);
            }
            _ => {
                let file = files.any(stream);
                let others: Vec<_> = files.present().into_iter().filter(|other| *other != file).collect();
                let over = (!others.is_empty() && stream.chance(1, 2)).then(|| stream.pick(&others));
                files.rename(stream, file, over);
            }
        }
    }
}
