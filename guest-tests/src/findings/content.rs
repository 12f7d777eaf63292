//! Findings in what the workload read: data of the disk's past, data that was promised and is gone, data that nobody wrote.
//!
//! The model of a file is the list of what was written into it, in order. What an fsync that returned 0 has promised must
//! be there, or something written later. A write or an fsync that failed promises nothing, so such a stretch may hold
//! anything; that is for other findings to say.
//!
//! Bytes that are nothing known are told apart from data that is gone. They are known by whole sectors only, so a sector
//! that two writes share, or that a write without a promise has touched, says nothing: it may rightly be a mixture.

use super::{CORRUPT_DATA_RETURNED, STALE_DATA_READ, UNEXPECTED_RESULT, WRITTEN_DATA_LOST};
use crate::ops::OpLine;
use crate::verdict::Finding;
use guest_init::job::{Action, Write};
use guest_init::pattern::{Content, Run};
use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes of a disk sector.
const SECTOR_BYTES: u64 = 512;

/// Walks the workload once. `block_bytes` is the file system's block size.
pub fn find(ops: &[OpLine], block_bytes: u64) -> Vec<Finding> {
    let mut files = Files::default();
    let mut findings = Vec::new();
    for line in ops {
        findings.extend(unexpected_result(line));
        findings.extend(files.read_back(line, block_bytes));
        files.apply(line);
    }
    findings
}

/// An operation that never came back is the run's failure, not a finding.
fn unexpected_result(line: &OpLine) -> Option<Finding> {
    let result = line.result.as_ref()?;
    if result.errno == line.args.errno {
        return None;
    }
    let word = |errno: Option<guest_init::job::Errno>| errno.map_or("success".to_owned(), |errno| errno.to_string());
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

/// What a write, a hole or an error left of a stretch.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Layer {
    /// Bytes of a named pattern.
    Pattern(String),
    /// Zeros.
    Zero,
    /// Nobody can say: an operation on it failed.
    Anything,
}

#[derive(Clone, Debug)]
struct Written {
    bytes: Range<u64>,
    layer: Layer,
    /// The pattern it was to bring, also where the operation failed.
    pattern: Option<String>,
    /// An fsync that returned 0 came after it, and none that failed before that.
    promised: bool,
}

#[derive(Clone, Debug, Default)]
struct File {
    written: Vec<Written>,
}

/// Files by name; hard links share one.
#[derive(Debug, Default)]
struct Files {
    names: BTreeMap<String, usize>,
    files: Vec<File>,
}

impl Files {
    fn id(&mut self, name: &str) -> usize {
        if let Some(&id) = self.names.get(name) {
            return id;
        }
        self.files.push(File::default());
        self.names.insert(name.to_owned(), self.files.len() - 1);
        self.files.len() - 1
    }

    fn file(&mut self, name: &str) -> &mut File {
        let id = self.id(name);
        &mut self.files[id]
    }

    fn apply(&mut self, line: &OpLine) {
        let done = line.succeeded();
        match &line.args.action {
            Action::Write(write) | Action::AioWrite(write) => self.file(&write.path).write(write, done),
            Action::MmapWrite { path, offset, len, pattern, .. } => {
                self.file(path).add(*offset..offset + len, layer(pattern, done), Some(pattern));
            }
            Action::Truncate { path, len } => self.file(path).add(*len..u64::MAX, zero(done), None),
            Action::Punch { path, offset, len } => self.file(path).add(*offset..offset + len, zero(done), None),
            Action::Fsync { path } | Action::Fdatasync { path } => self.file(path).synced(done),
            // It promises nothing, but an error it reports is reported: nothing written before is promised any more.
            Action::SyncFileRange { path, .. } if !done => self.file(path).synced(false),
            Action::Rename { path, to } if done => {
                let id = self.id(path);
                self.names.remove(path);
                self.names.insert(to.clone(), id);
            }
            Action::Link { path, to } if done => {
                let id = self.id(path);
                self.names.insert(to.clone(), id);
            }
            Action::Unlink { path } if done => {
                self.names.remove(path);
            }
            _ => {}
        }
    }

    fn read_back(&mut self, line: &OpLine, block_bytes: u64) -> Vec<Finding> {
        let read = line.result.as_ref().and_then(|result| result.read.as_ref());
        let (Action::Read { path, .. }, Some(read)) = (&line.args.action, read) else { return Vec::new() };
        let file = self.file(path).clone();
        let stale: Vec<&Run> = read.map.runs.iter().filter(|run| file.is_stale(run)).collect();
        let lost: Vec<(Range<u64>, String)> = read.map.runs.iter().flat_map(|run| file.lost_in(run)).collect();
        let mut findings = Vec::new();
        findings.extend(stale_finding(line, path, &stale, block_bytes));
        findings.extend(lost_finding(line, path, &lost));
        let others = read.map.runs.iter().filter(|run| matches!(run.content, Content::Other { .. }));
        let corrupt: Vec<Range<u64>> = others.flat_map(|run| file.corrupt_in(run)).collect();
        findings.extend(corrupt_finding(line, path, &corrupt));
        findings
    }
}

fn layer(pattern: &str, done: bool) -> Layer {
    if done { Layer::Pattern(pattern.to_owned()) } else { Layer::Anything }
}

fn zero(done: bool) -> Layer {
    if done { Layer::Zero } else { Layer::Anything }
}

impl File {
    fn write(&mut self, write: &Write, done: bool) {
        for (offset, len) in write.calls() {
            self.add(offset..offset + len, layer(&write.pattern, done), Some(&write.pattern));
        }
    }

    fn add(&mut self, bytes: Range<u64>, layer: Layer, pattern: Option<&String>) {
        self.written.push(Written { bytes, layer, pattern: pattern.cloned(), promised: false });
    }

    /// An fsync came back. One that failed has told its error, and the next may return 0 without the data being there.
    fn synced(&mut self, done: bool) {
        for written in self.written.iter_mut().filter(|written| !written.promised) {
            match done {
                true => written.promised = written.layer != Layer::Anything,
                false => written.layer = Layer::Anything,
            }
        }
    }

    /// What nobody has written into this file at this place, but what the disk or another file once held.
    fn is_stale(&self, run: &Run) -> bool {
        match &run.content {
            Content::Past { .. } => true,
            Content::Pattern { name } | Content::Misplaced { name, .. } => {
                let given = |written: &Written| written.pattern.as_ref() == Some(name);
                let mut over = self.written.iter().filter(|written| overlap(&written.bytes, &bytes_of(run)).is_some());
                !over.any(given)
            }
            Content::Zero | Content::Other { .. } => false,
        }
    }

    /// Sectors of unknown content that cannot be a mixture of what was written.
    fn corrupt_in(&self, run: &Run) -> Vec<Range<u64>> {
        let bytes = bytes_of(run);
        let first = bytes.start - bytes.start % SECTOR_BYTES;
        let sectors = (first..bytes.end).step_by(SECTOR_BYTES as usize);
        let parts = sectors.filter_map(|start| overlap(&(start..start + SECTOR_BYTES), &bytes));
        parts.filter(|part| self.must_be_whole(part)).collect()
    }

    /// Nothing was ever written there, or one promised write covers it and nothing came after.
    fn must_be_whole(&self, part: &Range<u64>) -> bool {
        let over: Vec<&Written> =
            self.written.iter().filter(|written| overlap(&written.bytes, part).is_some()).collect();
        let covers =
            |written: &&Written| written.promised && written.bytes.start <= part.start && part.end <= written.bytes.end;
        over.last().is_none_or(covers)
    }

    /// Stretches of a run that hold neither what was promised nor anything later. Unknown bytes are no loss: see `corrupt_in`.
    fn lost_in(&self, run: &Run) -> Vec<(Range<u64>, String)> {
        if matches!(run.content, Content::Other { .. }) {
            return Vec::new();
        }
        let mut edges: Vec<u64> = vec![run.offset, run.offset + run.len];
        for part in self.written.iter().filter_map(|written| overlap(&written.bytes, &bytes_of(run))) {
            edges.extend([part.start, part.end]);
        }
        edges.sort_unstable();
        edges.dedup();
        let stretches = edges.windows(2).map(|edge| edge[0]..edge[1]);
        stretches.filter_map(|stretch| Some((stretch.clone(), self.promise_broken(&stretch, &run.content)?))).collect()
    }

    /// The pattern that should be in a stretch with no edge inside, if what was read breaks the promise.
    fn promise_broken(&self, stretch: &Range<u64>, read: &Content) -> Option<String> {
        let over: Vec<&Written> =
            self.written.iter().filter(|written| overlap(&written.bytes, stretch).is_some()).collect();
        let promised = over.iter().rposition(|written| written.promised)?;
        let kept = over[promised..].iter().any(|written| shows(&written.layer, read));
        match &over[promised].layer {
            _ if kept => None,
            Layer::Pattern(name) => Some(name.clone()),
            Layer::Zero => Some("zeros".to_owned()),
            Layer::Anything => None,
        }
    }
}

fn shows(layer: &Layer, read: &Content) -> bool {
    match (layer, read) {
        (Layer::Anything, _) | (Layer::Zero, Content::Zero) => true,
        (Layer::Pattern(written), Content::Pattern { name }) => written == name,
        _ => false,
    }
}

fn bytes_of(run: &Run) -> Range<u64> {
    run.offset..run.offset + run.len
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> Option<Range<u64>> {
    let both = a.start.max(b.start)..a.end.min(b.end);
    (both.start < both.end).then_some(both)
}

fn stale_finding(line: &OpLine, path: &str, stale: &[&Run], block_bytes: u64) -> Option<Finding> {
    let first = *stale.first()?;
    let total: u64 = stale.iter().map(|run| run.len).sum();
    let (held, disk_block) = match &first.content {
        Content::Past { sector, .. } => {
            let block = sector * SECTOR_BYTES / block_bytes;
            let last = (sector * SECTOR_BYTES + first.len - 1) / block_bytes;
            (format!("what disk blocks {block}..={last} held before the run"), Some(block))
        }
        Content::Pattern { name } | Content::Misplaced { name, .. } => {
            (format!("the pattern {name:?}, which was never written there"), None)
        }
        Content::Zero | Content::Other { .. } => return None,
    };
    let range = bytes_of(first);
    let what = format!(
        "reading {path} gave {total} stale bytes in {} place(s); first: bytes {}..{} hold {held}",
        stale.len(),
        range.start,
        range.end
    );
    Some(Finding {
        op: Some(line.index),
        path: Some(path.to_owned()),
        ino: line.result.as_ref().and_then(|result| result.inode),
        offset: Some(range.start),
        bytes: Some(first.len),
        disk_block,
        ..Finding::new(STALE_DATA_READ, what)
    })
}

fn lost_finding(line: &OpLine, path: &str, lost: &[(Range<u64>, String)]) -> Option<Finding> {
    let (first, content) = lost.first()?;
    let total: u64 = lost.iter().map(|(range, _)| range.end - range.start).sum();
    let what = format!(
        "{total} bytes of {path} that fsync had promised are gone; first: bytes {}..{} should hold {content:?} or newer",
        first.start, first.end
    );
    Some(Finding {
        op: Some(line.index),
        path: Some(path.to_owned()),
        ino: line.result.as_ref().and_then(|result| result.inode),
        offset: Some(first.start),
        bytes: Some(first.end - first.start),
        ..Finding::new(WRITTEN_DATA_LOST, what)
    })
}

fn corrupt_finding(line: &OpLine, path: &str, corrupt: &[Range<u64>]) -> Option<Finding> {
    let first = corrupt.first()?;
    let total: u64 = corrupt.iter().map(|part| part.end - part.start).sum();
    let what = format!(
        "reading {path} gave {total} bytes that nobody wrote, with success; first: bytes {}..{}",
        first.start, first.end
    );
    Some(Finding {
        op: Some(line.index),
        path: Some(path.to_owned()),
        ino: line.result.as_ref().and_then(|result| result.inode),
        offset: Some(first.start),
        bytes: Some(total),
        ..Finding::new(CORRUPT_DATA_RETURNED, what)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;
    use crate::ops::OpResult;
    use guest_init::job::{Errno, Op};
    use guest_init::pattern::PatternMap;
    use guest_init::protocol::ReadBack;

    /// A line of the workload, as the scenario writes it, with the errno it gave.
    fn op(json: &str, errno: Option<i32>) -> OpLine {
        let args: Op = serde_json::from_str(json).unwrap();
        let result = OpResult { returned: 0, errno: errno.map(Errno), inode: Some(12), read: None, elapsed_us: 0 };
        OpLine { index: 0, args, result: Some(result) }
    }

    fn read(runs: Vec<Run>) -> OpLine {
        let mut line = op(r#"{"op":"read","path":"f"}"#, None);
        let back = ReadBack { fnv1a64: String::new(), map: PatternMap { runs } };
        line.result.as_mut().unwrap().read = Some(back);
        line
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

    fn ids(ops: &[OpLine]) -> Vec<String> {
        find(ops, 4096).into_iter().map(|finding| finding.id).collect()
    }

    #[test]
    fn data_that_fsync_promised_and_a_read_does_not_give_is_lost() {
        let zeros = read(vec![run(0, 4096, new()), run(4096, 4096, Content::Zero)]);
        let found = find(&[write(), fsync(None), zeros], 4096);
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
        let found = find(&[write(), fsync(None), read(vec![run(0, 512, new()), other(512, 1024)])], 4096);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].id.as_str(), found[0].offset, found[0].bytes),
            (CORRUPT_DATA_RETURNED, Some(512), Some(1024))
        );
        assert_eq!(ids(&[read(vec![other(0, 512)])]), [CORRUPT_DATA_RETURNED], "nobody wrote there at all");
    }

    #[test]
    fn a_sector_that_may_rightly_be_a_mixture_is_neither_corrupt_nor_lost() {
        let part = |offset: u64, len: u64| {
            op(&format!(r#"{{"op":"write","path":"f","offset":{offset},"len":{len},"pattern":"b"}}"#), None)
        };
        let mixed = || read(vec![other(0, 512)]);
        assert_eq!(ids(&[write(), part(100, 50), fsync(None), mixed()]), [""; 0], "two writes share it");
        assert_eq!(
            ids(&[write(), fsync(None), part(0, 512), mixed()]),
            [""; 0],
            "a write without a promise came later"
        );
        assert_eq!(ids(&[write(), fsync(Some(libc::EIO)), mixed()]), [UNEXPECTED_RESULT], "its fsync failed");
        assert_eq!(ids(&[part(100, 50), fsync(None), mixed()]), [""; 0], "the rest was never written");
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
        let found = find(&[write(), past], 4096);
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
