//! What the guest does: files are made ready, worked on, and read back from the disk.
//!
//! Every workload has the same three parts, told apart by marks, so that a rule can wait for the part it is about: `start` (the files are
//! made), `work` (and in the middle of it `mid`; in every fifth, somewhere, several writers at once), `verify` (all is synced, the caches are dropped, every file is read). What a faulty disk
//! left shows in the last part at the latest.
//!
//! The draw keeps a model of sizes and names as they are if every operation succeeds, so that without faults every one does.

mod files;
mod kinds;
mod together;

use crate::draw::{Stream, Streams};
use crate::filesystem::Filesystem;
use files::Files;
use kinds::Kind;
use serde_json::{Value, json};

/// A drawn workload.
pub struct Workload {
    /// The operations, in order.
    pub ops: Vec<Value>,
    /// The names that files have at some time.
    pub names: Vec<String>,
}

/// A disk that is another size for a while, from the mark `small` to the mark `large`.
#[derive(Clone, Copy, Debug)]
pub struct Shrink {
    /// Its sectors in between.
    pub small_sectors: u64,
    /// Its sectors before and after.
    pub large_sectors: u64,
}

/// Draws a workload on this file system, on a disk that knows discards or not.
pub fn draw(
    streams: &mut Streams,
    filesystem: &Filesystem,
    logical_bytes: u64,
    trims: bool,
    shrink: Option<Shrink>,
) -> Workload {
    let stream = &mut streams.named("workload");
    let beside = &mut streams.named("writers");
    let kinds = Kind::switched_on(stream, trims);
    let mut files = Files::new(filesystem.block_bytes, logical_bytes);
    files.op(json!({"op": "mark", "name": "start"}));
    prepare(stream, &mut files);
    files.op(json!({"op": "mark", "name": "work"}));
    let count = stream.weighted(&[(4, 4), (4, 6), (2, 9), (1, 14)]);
    let middle = stream.below(count);
    let stretch = together::place(beside, count);
    for nth in 0..count {
        if nth == middle {
            files.op(json!({"op": "mark", "name": "mid"}));
            shrink.iter().for_each(|shrink| resize(&mut files, "small", shrink.small_sectors));
        }
        if stretch == Some(nth) {
            together::draw(beside, &mut files);
        }
        let kind = stream.weighted(&kinds);
        kind.draw(stream, &mut files);
    }
    if let Some(shrink) = shrink {
        // While the disk is small, so that something is written where it has no end yet.
        files.op(json!({"op": "sync"}));
        resize(&mut files, "large", shrink.large_sectors);
    }
    verify(stream, &mut files);
    Workload { names: files.all_names(), ops: files.ops }
}

/// Files as they may lie on a disk: empty, a hole, unwritten, written, or written in part.
///
/// The first is written and synced in any case: whatever is drawn after it, something has passed through an io_end then, so
/// that guest and replica can be compared.
fn prepare(stream: &mut Stream, files: &mut Files) {
    let first = files.create();
    files.write(first, 0, 4096 * stream.between(2, 16), &[]);
    files.on(first, "fsync");
    for _ in 0..stream.weighted(&[(5, 1), (4, 2), (2, 3)]) {
        let file = files.create();
        let bytes = files.size(stream);
        let fallocate = |files: &mut Files| files.fallocate(file, 0, bytes, false);
        match stream.below(8) {
            0 => {}
            1 => files.truncate(file, bytes),
            2..=4 => fallocate(files),
            5 => files.fallocate(file, 0, bytes, true),
            6 => files.write(file, 0, bytes, &[]),
            _ => {
                fallocate(files);
                let (offset, len) = files.range_within(stream, bytes);
                files.write(file, offset, len, &[]);
            }
        }
        if stream.chance(2, 3) {
            files.on(file, "fsync");
        }
    }
    if stream.chance(1, 3) {
        files.op(json!({"op": "sync"}));
    }
    if stream.chance(1, 6) {
        files.op(json!({"op": "drop_caches"}));
    }
}

fn resize(files: &mut Files, mark: &str, sectors: u64) {
    files.op(json!({"op": "mark", "name": mark}));
    files.op(json!({"op": "await_capacity", "sectors": sectors}));
}

fn verify(stream: &mut Stream, files: &mut Files) {
    for file in files.present() {
        if stream.chance(1, 2) {
            files.on(file, "fsync");
        }
    }
    files.op(json!({"op": "mark", "name": "verify"}));
    files.op(json!({"op": "sync"}));
    files.op(match stream.chance(1, 6) {
        true => json!({"op": "remount"}),
        false => json!({"op": "drop_caches"}),
    });
    for file in files.present() {
        files.read(file);
    }
}
