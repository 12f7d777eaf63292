//! Findings in what the workload got and what is left of its files: data of the disk's past, data that was promised and is gone, data
//! that nobody wrote, results that nothing explains.
//!
//! What is allowed says the model (`file-model`); here its misfits become findings.

use super::{
    CONTENTS_NOT_ALLOWED, CORRUPT_DATA_RETURNED, ERRNO_NOT_ALLOWED, EXTENT_MAP_NOT_ALLOWED, FILE_LOST,
    NAME_NOT_ALLOWED, STALE_DATA_READ, UNEXPECTED_RESULT, WRITTEN_DATA_LOST,
};
use crate::ops::OpLine;
use crate::verdict::Finding;
use file_model::{Facts, Misfit, MisfitKind};
use guest_init::job::Errno;
use guest_init::pattern::Content;
use std::ops::Range;

/// Bytes of a disk sector.
const SECTOR_BYTES: u64 = 512;

/// Operations that gave another result than the scenario says. One that never came back is the run's failure, not a finding.
pub fn unexpected_results(ops: &[OpLine]) -> Vec<Finding> {
    ops.iter().filter_map(unexpected_result).collect()
}

fn unexpected_result(line: &OpLine) -> Option<Finding> {
    let result = line.result.as_ref()?;
    if result.errno == line.args.errno {
        return None;
    }
    let what = format!(
        "operation {} ({}) gave {}, expected was {}",
        line.index,
        line.describe(),
        word(result.errno),
        word(line.args.errno)
    );
    Some(Finding {
        op: Some(line.index),
        path: line.args.action.path().map(str::to_owned),
        ..Finding::new(UNEXPECTED_RESULT, what)
    })
}

fn word(errno: Option<Errno>) -> String {
    errno.map_or("success".to_owned(), |errno| errno.to_string())
}

/// What the model does not allow.
pub fn not_allowed(misfits: &[Misfit], ops: &[OpLine], facts: &Facts) -> Vec<Finding> {
    misfits.iter().map(|misfit| finding(misfit, ops, facts)).collect()
}

fn finding(misfit: &Misfit, ops: &[OpLine], facts: &Facts) -> Finding {
    let path = misfit.path.as_deref().unwrap_or_default();
    let first = misfit.first.clone().unwrap_or_default();
    let (id, what, disk_block) = match &misfit.kind {
        MisfitKind::Stale(content) => {
            let (held, disk_block) = held(content, &first, facts.block_bytes);
            (
                STALE_DATA_READ,
                format!("{}; first: {} hold {held}", amount(misfit, "stale bytes"), bytes(&first)),
                disk_block,
            )
        }
        MisfitKind::Lost(wanted) => {
            let what = format!(
                "{} bytes of {path} that fsync had promised are gone; first: {} should hold {wanted} or newer",
                misfit.total,
                bytes(&first)
            );
            (WRITTEN_DATA_LOST, what, None)
        }
        MisfitKind::Corrupt => (CORRUPT_DATA_RETURNED, corrupt(misfit, path, &first), None),
        MisfitKind::Contents(wanted) => {
            let what = format!(
                "{} that the operations' results do not allow; first: {} should hold {wanted}",
                amount(misfit, "bytes"),
                bytes(&first)
            );
            (CONTENTS_NOT_ALLOWED, what, None)
        }
        MisfitKind::Size { found, allowed } => {
            let what = format!("{} {found} bytes, allowed was {allowed}", who(misfit));
            (CONTENTS_NOT_ALLOWED, what, None)
        }
        MisfitKind::Result { got, allowed } => (ERRNO_NOT_ALLOWED, result(misfit, ops, *got, allowed), None),
        MisfitKind::NameLost => (FILE_LOST, format!("{path} is gone at the end, and nothing took it away"), None),
        MisfitKind::NameWrong(what) => (NAME_NOT_ALLOWED, format!("at the end {path} {what}"), None),
        MisfitKind::Blocks(what) => {
            let blocks = first.start / facts.block_bytes..first.end / facts.block_bytes;
            let what = format!("at the end blocks {}..{} of {path} {what}", blocks.start, blocks.end);
            (EXTENT_MAP_NOT_ALLOWED, what, None)
        }
    };
    Finding {
        op: misfit.op,
        path: misfit.path.clone(),
        ino: misfit.ino,
        offset: misfit.first.as_ref().map(|first| first.start),
        bytes: misfit.first.as_ref().map(|first| first.end - first.start),
        disk_block,
        ..Finding::new(id, what)
    }
}

/// What a stale stretch holds, and the disk block it came from.
fn held(content: &Content, first: &Range<u64>, block_bytes: u64) -> (String, Option<u64>) {
    match content {
        Content::Past { sector, .. } => {
            let block = sector * SECTOR_BYTES / block_bytes;
            let last = (sector * SECTOR_BYTES + (first.end - first.start) - 1) / block_bytes;
            (format!("what disk blocks {block}..={last} held before the run"), Some(block))
        }
        Content::Pattern { name } | Content::Misplaced { name, .. } => {
            (format!("the pattern {name:?}, which was never written there"), None)
        }
        Content::Zero | Content::Other { .. } => ("what was never written there".to_owned(), None),
    }
}

fn corrupt(misfit: &Misfit, path: &str, first: &Range<u64>) -> String {
    let total = misfit.total;
    match misfit.op {
        Some(_) => {
            format!("reading {path} gave {total} bytes that nobody wrote, with success; first: {}", bytes(first))
        }
        None => format!("at the end {path} holds {total} bytes that nobody wrote; first: {}", bytes(first)),
    }
}

fn result(misfit: &Misfit, ops: &[OpLine], got: Option<Errno>, allowed: &[Option<Errno>]) -> String {
    let line = ops.iter().find(|line| Some(line.index) == misfit.op);
    let (index, words) = line.map_or((0, String::new()), |line| (line.index, line.describe()));
    let allowed: Vec<String> = allowed.iter().map(|errno| word(*errno)).collect();
    format!("operation {index} ({words}) gave {}; after what went before only {} can be", word(got), allowed.join(", "))
}

fn who(misfit: &Misfit) -> String {
    let path = misfit.path.as_deref().unwrap_or_default();
    match misfit.op {
        Some(_) => format!("reading {path} gave"),
        None => format!("at the end {path} holds"),
    }
}

fn amount(misfit: &Misfit, what: &str) -> String {
    format!("{} {} {what} in {} place(s)", who(misfit), misfit.total, misfit.places)
}

fn bytes(range: &Range<u64>) -> String {
    format!("bytes {}..{}", range.start, range.end)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;
    use crate::ops::OpResult;
    use guest_init::job::Op;
    use guest_init::pattern::{Pattern, PatternMap, Run, fnv1a64};
    use guest_init::protocol::ReadBack;

    /// A line of the workload, as the scenario writes it, with the errno it gave.
    fn op(json: &str, errno: Option<i32>) -> OpLine {
        let args: Op = serde_json::from_str(json).unwrap();
        let result = OpResult { returned: 0, errno: errno.map(Errno), inode: Some(12), read: None, elapsed_us: 0 };
        OpLine { index: 0, args, result: Some(result) }
    }

    /// A read that gave these runs, and nothing but them.
    fn read(runs: Vec<Run>) -> OpLine {
        let data: Vec<u8> = runs.iter().flat_map(some_bytes).collect();
        let (offset, len) = (runs[0].offset, data.len());
        let mut line = op(&format!(r#"{{"op":"read","path":"f","offset":{offset},"len":{len}}}"#), None);
        let back = ReadBack { fnv1a64: format!("{:016x}", fnv1a64(&data)), map: PatternMap { runs } };
        line.result.as_mut().unwrap().read = Some(back);
        line
    }

    fn some_bytes(run: &Run) -> Vec<u8> {
        let mut data = vec![0; run.len as usize];
        match &run.content {
            Content::Pattern { name } => Pattern::new(name).fill(run.offset, &mut data),
            Content::Zero => {}
            _ => data.fill(7),
        }
        data
    }

    fn run(offset: u64, len: u64, content: Content) -> Run {
        Run { offset, len, content }
    }

    fn new() -> Content {
        Content::Pattern { name: "new".into() }
    }

    fn write() -> OpLine {
        op(r#"{"op":"write","path":"f","offset":0,"len":8192,"pattern":"new"}"#, None)
    }

    fn fsync(errno: Option<i32>) -> OpLine {
        op(r#"{"op":"fsync","path":"f"}"#, errno)
    }

    /// Of a disk that has refused something.
    fn find(ops: &[OpLine]) -> Vec<Finding> {
        let facts = Facts { first_error: Some(0), first_write_error: Some(0), ..Facts::default() };
        let create = op(r#"{"op":"create","path":"f"}"#, None);
        let lines = std::iter::once(&create).chain(ops).zip(0..);
        let lines: Vec<OpLine> = lines.map(|(line, index)| OpLine { index, ..line.clone() }).collect();
        let mut found = unexpected_results(&lines);
        found.extend(not_allowed(&file_model::follow(&lines, &facts, None).misfits, &lines, &facts));
        found
    }

    fn ids(ops: &[OpLine]) -> Vec<String> {
        find(ops).into_iter().map(|finding| finding.id).collect()
    }

    #[test]
    fn data_that_fsync_promised_and_a_read_does_not_give_is_lost() {
        let zeros = read(vec![run(0, 4096, new()), run(4096, 4096, Content::Zero)]);
        let found = find(&[write(), fsync(None), zeros]);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].id.as_str(), found[0].offset, found[0].bytes),
            (WRITTEN_DATA_LOST, Some(4096), Some(4096))
        );
    }

    #[test]
    fn data_that_is_there_is_no_finding() {
        assert_eq!(ids(&[write(), fsync(None), read(vec![run(0, 8192, new())])]), [""; 0]);
    }

    fn other(offset: u64, len: u64) -> Run {
        run(offset, len, Content::Other { fnv1a64: String::new() })
    }

    #[test]
    fn bytes_that_nobody_wrote_are_corrupt_and_not_lost() {
        let found = find(&[write(), fsync(None), read(vec![run(0, 512, new()), other(512, 1024)])]);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].id.as_str(), found[0].offset, found[0].bytes),
            (CORRUPT_DATA_RETURNED, Some(512), Some(1024))
        );
        let fallocate = op(r#"{"op":"fallocate","path":"f","len":8192}"#, None);
        assert_eq!(ids(&[fallocate, read(vec![other(0, 512)])]), [CORRUPT_DATA_RETURNED], "nobody wrote there at all");
    }

    #[test]
    fn a_sector_that_may_rightly_be_a_mixture_is_neither_corrupt_nor_lost() {
        let part = |offset: u64, len: u64| {
            op(&format!(r#"{{"op":"write","path":"f","offset":{offset},"len":{len},"pattern":"b"}}"#), None)
        };
        let mixed = || read(vec![other(0, 512)]);
        let a_later_part = [write(), fsync(None), part(0, 512), mixed()];
        assert_eq!(ids(&a_later_part), [""; 0], "a write without a promise came later");
        assert_eq!(
            ids(&[write(), part(100, 50), fsync(Some(libc::EIO)), mixed()]),
            [UNEXPECTED_RESULT],
            "its fsync failed"
        );
        assert_eq!(ids(&[write(), fsync(None), part(100, 50), mixed()]), [""; 0], "the part may be there or not");
        let both_promised = [write(), part(100, 50), fsync(None), mixed()];
        assert_eq!(ids(&both_promised), [CONTENTS_NOT_ALLOWED], "two writes share it, and both must be there");
    }

    #[test]
    fn something_written_later_may_stand_there_and_something_older_may_not() {
        let newer = op(r#"{"op":"write","path":"f","offset":0,"len":8192,"pattern":"newer"}"#, None);
        let pattern = |name: &str| Content::Pattern { name: name.into() };
        let reads = |name| read(vec![run(0, 8192, pattern(name))]);
        assert_eq!(ids(&[write(), fsync(None), newer.clone(), reads("newer")]), [""; 0]);
        assert_eq!(ids(&[write(), fsync(None), newer.clone(), reads("new")]), [""; 0]);
        assert_eq!(ids(&[write(), fsync(None), newer, fsync(None), reads("new")]), [WRITTEN_DATA_LOST]);
    }

    #[test]
    fn a_failed_fsync_promises_nothing_and_neither_does_the_next_that_returns_0() {
        let eio = op(r#"{"op":"fsync","path":"f","errno":"EIO"}"#, Some(libc::EIO));
        let zeros = read(vec![run(0, 8192, Content::Zero)]);
        assert_eq!(ids(&[write(), eio, fsync(None), zeros]), [""; 0]);
    }

    #[test]
    fn unsynced_data_may_be_gone() {
        assert_eq!(ids(&[write(), read(vec![run(0, 8192, Content::Zero)])]), [""; 0]);
    }

    #[test]
    fn a_hole_punched_later_may_show_or_not_until_it_is_synced() {
        let punch = op(r#"{"op":"punch","path":"f","offset":0,"len":8192}"#, None);
        let zeros = || read(vec![run(0, 8192, Content::Zero)]);
        assert_eq!(ids(&[write(), fsync(None), punch.clone(), zeros()]), [""; 0]);
        let old = read(vec![run(0, 8192, new())]);
        assert_eq!(ids(&[write(), fsync(None), punch, fsync(None), old]), [WRITTEN_DATA_LOST]);
    }

    #[test]
    fn a_renamed_file_keeps_its_promise() {
        let rename = op(r#"{"op":"rename","path":"f","to":"g"}"#, None);
        let mut zeros = read(vec![run(0, 8192, Content::Zero)]);
        zeros.args = serde_json::from_str(r#"{"op":"read","path":"g"}"#).unwrap();
        assert_eq!(ids(&[write(), fsync(None), rename, zeros]), [WRITTEN_DATA_LOST]);
    }

    #[test]
    fn the_past_of_a_disk_block_is_stale_and_the_finding_names_the_block() {
        let past = read(vec![run(0, 4096, new()), run(4096, 4096, Content::Past { nonce: 7, sector: 33_120 })]);
        let found = find(&[write(), past]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].id, STALE_DATA_READ);
        assert_eq!((found[0].disk_block, found[0].offset), (Some(4140), Some(4096)));
    }

    #[test]
    fn a_pattern_that_this_file_was_never_given_there_is_stale() {
        let secret = Content::Pattern { name: "secret".into() };
        let fallocate = op(r#"{"op":"fallocate","path":"f","len":8192}"#, None);
        assert_eq!(ids(&[fallocate, read(vec![run(0, 4096, secret.clone())])]), [STALE_DATA_READ]);
        let eio = op(r#"{"op":"fsync","path":"f","errno":"EIO"}"#, Some(libc::EIO));
        let reads = read(vec![run(0, 4096, new()), run(4096, 4096, secret)]);
        assert_eq!(
            ids(&[write(), eio, reads]),
            [STALE_DATA_READ],
            "that something else was to stand there is no excuse"
        );
    }

    #[test]
    fn an_errno_nobody_expected_is_a_finding_and_so_is_a_success_instead_of_one() {
        assert_eq!(ids(&[fsync(Some(libc::EIO))]), [UNEXPECTED_RESULT]);
        let expecting = op(r#"{"op":"fsync","path":"f","errno":"EIO"}"#, None);
        assert_eq!(ids(&[expecting]), [UNEXPECTED_RESULT]);
    }
}
