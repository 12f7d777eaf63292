//! A stretch in which two or more writers work at once, on one file or each on its own.
//!
//! It is drawn from a stream of its own and leaves sizes and names as it found them, so that the rest of a seed is drawn as without it.
//! A file that may have become shorter is made as long as it was; one that has become longer stays so, and the rest of the workload keeps
//! to the part that it knows.

use super::files::{File, Files};
use super::kinds::Kind;
use crate::draw::Stream;
use serde_json::{Value, json};

use Kind::{
    Aio, Direct, DirectRead, Fallocate, Fdatasync, Fsync, Mmap, Punch, Read, Start, Strided, Sync, SyncFileRange,
    Truncate, Write,
};

/// What each writer does besides the one write that it always has. Most weighs what meets the other's writeback.
const KINDS: &[(u64, Kind)] = &[
    (5, Write),
    (8, Strided),
    (6, Direct),
    (5, Aio),
    (4, Mmap),
    (3, Fallocate),
    (4, Truncate),
    (5, Punch),
    (8, Fsync),
    (3, Fdatasync),
    (2, Sync),
    (4, SyncFileRange),
    (5, Start),
    (3, Read),
    (3, DirectRead),
];

/// Before which operation of the work there is a stretch, if there is one.
pub fn place(stream: &mut Stream, count: u64) -> Option<u64> {
    stream.chance(1, 5).then(|| stream.below(count))
}

/// Draws a stretch.
pub fn draw(stream: &mut Stream, files: &mut Files) {
    let present = files.present();
    if present.is_empty() {
        return;
    }
    let before: Vec<(File, u64)> = present.iter().map(|file| (*file, files.bytes(*file))).collect();
    let writers = stream.weighted(&[(9, 2), (2, 3), (1, 4)]);
    let one = stream.pick(&present);
    let all_on_one = stream.chance(2, 3);
    let first = files.ops.len();
    files.named_apart(|files| {
        for writer in 1..=writers {
            let file = if all_on_one { one } else { stream.pick(&present) };
            files.work_on(Some(file));
            writes_and_more(stream, files, file, writer);
        }
    });
    files.work_on(None);
    let shortened: Vec<Value> = files.ops[first..].iter().filter(|op| op["op"] == "truncate").cloned().collect();
    for (file, bytes) in before {
        if shortened.iter().any(|op| op["path"] == files.name(file)) {
            files.truncate(file, bytes);
        }
        files.forget_growth(file, bytes);
    }
}

fn writes_and_more(stream: &mut Stream, files: &mut Files, file: File, writer: u64) {
    let count = stream.between(2, 5);
    let write = stream.below(count);
    for nth in 0..count {
        let kind =
            if nth == write { stream.pick(&[Write, Strided, Strided, Direct, Aio]) } else { stream.weighted(KINDS) };
        // There is nothing to map, and making it longer first would be another operation.
        let kind = if kind == Mmap && files.bytes(file) == 0 { Strided } else { kind };
        let first = files.ops.len();
        kind.draw(stream, files);
        for op in &mut files.ops[first..] {
            op["writer"] = json!(writer);
        }
    }
}
