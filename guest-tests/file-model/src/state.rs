//! Where the operations have led: names, files, open descriptors. Both questions ([`crate::durability`], [`crate::live`]) follow
//! the workload with it.

mod blocks;
mod together;

pub use blocks::{Blocks, Wanted};
pub use together::Stretch;

use crate::file::File;
use crate::names::{Kind, Names};
use crate::ops::OpLine;
use guest_init::job::{Action, Errno, Op, Write};
use guest_init::pattern::Pattern;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// A fault on a page of a large folio may allocate as much around it.
const FOLIO_BYTES: u64 = 2 << 20;

/// A page in memory: what lies behind the end of a file in its last one can be stored to and is nobody's.
const PAGE_BYTES: u64 = 4096;

/// What counts as a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promises {
    /// It had surely returned.
    pub returned: bool,
    /// `sync` and `remount` are promises. They cannot report an error.
    pub sync: bool,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct State {
    /// Paths at every moment.
    pub names: Names,
    /// By number.
    pub files: Vec<File>,
    /// What the guest holds open, by the path it used and whether with O_DIRECT.
    open: BTreeMap<(String, bool), usize>,
    /// What is dirtied at once in memory at most.
    folio_bytes: u64,
}

impl Default for State {
    fn default() -> State {
        State { names: Names::default(), files: Vec::new(), open: BTreeMap::new(), folio_bytes: FOLIO_BYTES }
    }
}

impl State {
    /// Nothing yet, under a kernel with pieces of memory of this size.
    pub fn with_folios_of(folio_bytes: u64) -> State {
        State { folio_bytes, ..State::default() }
    }

    /// The file that an operation on this path works on: a path stays open from the first operation that names it.
    pub fn target(&self, path: &str, direct: bool) -> Option<usize> {
        self.open.get(&(path.to_owned(), direct)).copied().or_else(|| self.names.get(path))
    }

    /// Whether the guest has the path open, so that no name is looked up.
    pub fn is_open(&self, path: &str, direct: bool) -> bool {
        self.open.contains_key(&(path.to_owned(), direct))
    }

    /// Takes an operation's effect. One without a result may have done all, a part or nothing.
    pub fn follow(&mut self, line: &OpLine, promises: Promises) {
        let Op { action, .. } = &line.args;
        match line.result.as_ref().and_then(|result| Some((result.errno?, result.returned))) {
            Some((errno, returned)) => self.failed(action, errno, returned),
            None => self.done(action, line, promises),
        }
    }

    fn done(&mut self, action: &Action, line: &OpLine, promises: Promises) {
        let promised = line.succeeded() && promises.returned;
        match action {
            Action::Create { path } => {
                self.make(path, Kind::File);
                self.opened(path, false);
            }
            Action::Mkdir { path } => self.make(path, Kind::Folder),
            Action::Rename { path, to } => {
                self.names.rename(path, to);
                self.renamed(path, to);
            }
            Action::Link { path, to } => self.names.link(path, to),
            Action::Unlink { path } => {
                self.close(path);
                self.names.unlink(path);
            }
            Action::Fsync { path } | Action::Fdatasync { path } if promised => {
                self.synced(path, matches!(action, Action::Fsync { .. }));
            }
            Action::Sync {} if promised && promises.sync => self.all_synced(),
            Action::Remount {} if promised => {
                self.open.clear();
                if promises.sync {
                    self.all_synced();
                }
            }
            other => {
                if let Some(path) = other.path() {
                    self.change(path, is_direct(other), |file| change(file, other, line));
                }
                if let (Action::MmapWrite { path, offset, len, msync: true, .. }, true) = (other, promised) {
                    self.change(path, false, |file| file.promise(*offset..offset.saturating_add(*len)));
                }
            }
        }
    }

    /// What an operation that ended with an error may have left.
    fn failed(&mut self, action: &Action, errno: Errno, returned: i64) {
        if let Action::Unlink { path } = action {
            self.close(path);
        }
        match action {
            Action::Create { .. }
            | Action::Mkdir { .. }
            | Action::Rename { .. }
            | Action::Link { .. }
            | Action::Unlink { .. } => {
                if !did_nothing(errno) {
                    self.names.lose_track();
                }
            }
            Action::Fsync { path } | Action::Fdatasync { path } | Action::SyncFileRange { path, .. } => {
                self.change(path, false, File::sync_failed);
            }
            other => {
                if let Some(path) = other.path() {
                    self.change(path, is_direct(other), |file| may_change(file, other, returned));
                }
                if let Action::MmapWrite { path, msync: true, .. } = other {
                    self.change(path, false, File::sync_failed);
                }
            }
        }
    }

    fn make(&mut self, path: &str, kind: Kind) {
        self.files.push(File::default());
        self.names.make(path, self.files.len() - 1, kind);
    }

    fn change(&mut self, path: &str, direct: bool, how: impl FnOnce(&mut File)) {
        self.opened(path, direct);
        if let Some(id) = self.target(path, direct) {
            how(&mut self.files[id]);
        }
    }

    fn opened(&mut self, path: &str, direct: bool) {
        if let Some(id) = self.names.get(path).filter(|id| self.names.is_file(*id)) {
            self.open.entry((path.to_owned(), direct)).or_insert(id);
        }
    }

    fn close(&mut self, path: &str) {
        self.open.retain(|(open, _), _| open != path);
    }

    fn renamed(&mut self, path: &str, to: &str) {
        self.close(to);
        for direct in [false, true] {
            if let Some(id) = self.open.remove(&(path.to_owned(), direct)) {
                self.open.insert((to.to_owned(), direct), id);
            }
        }
    }

    fn synced(&mut self, path: &str, with_names: bool) {
        self.change(path, false, |file| {
            file.promise(0..u64::MAX);
            file.promise_size();
        });
        self.names.synced(path, with_names);
    }

    /// Everything is on the disk.
    pub fn all_synced(&mut self) {
        for file in &mut self.files {
            file.promise(0..u64::MAX);
            file.promise_size();
        }
        self.names.all_synced();
    }
}

/// Whether the operation goes by the descriptor with O_DIRECT.
pub fn is_direct(action: &Action) -> bool {
    match action {
        Action::Write(write) | Action::AioWrite(write) => write.direct,
        Action::Read { direct, .. } => *direct,
        _ => false,
    }
}

/// These say that nothing was done.
fn did_nothing(errno: Errno) -> bool {
    let nothing = [
        libc::EEXIST,
        libc::ENOENT,
        libc::ENOTDIR,
        libc::EISDIR,
        libc::ENOTEMPTY,
        libc::EROFS,
        libc::EINVAL,
        libc::ENOSPC,
        libc::EMLINK,
        libc::EACCES,
        libc::EPERM,
    ];
    nothing.contains(&errno.0)
}

/// What an operation does to a file's bytes and size. One whose end is not known may have done a part of it, which is the
/// same as long as nothing of it is promised.
fn change(file: &mut File, action: &Action, line: &OpLine) {
    match action {
        Action::Write(write) => written(file, write, line, false),
        Action::AioWrite(write) => written(file, write, line, true),
        Action::MmapWrite { offset, len, pattern, .. } => stored(file, &range(*offset, *len), pattern),
        Action::Truncate { len, .. } => file.truncate(*len),
        Action::Punch { offset, len, .. } => file.punch(range(*offset, *len)),
        Action::Fallocate { offset, len, keep_size, .. } => {
            file.allocate(&range(*offset, *len), true);
            if !keep_size {
                file.grow(offset.saturating_add(*len));
            }
        }
        _ => {}
    }
}

/// A success that did less than was asked for did an unknown part of it: AIO tells only the sum.
fn written(file: &mut File, write: &Write, line: &OpLine, only_submitted: bool) {
    let calls = write.calls();
    let asked: u64 = calls.iter().map(|(_, len)| len).sum();
    let short = line.result.as_ref().is_some_and(|result| result.returned > 0 && (result.returned as u64) < asked);
    let pattern = Arc::new(Pattern::new(&write.pattern));
    for (offset, len) in calls {
        match range(offset, len) {
            bytes if short => may_be_written(file, bytes, &pattern),
            bytes if write.direct => file.write_directly(bytes, &pattern, only_submitted),
            bytes => file.write(bytes, &pattern),
        }
    }
}

fn may_be_written(file: &mut File, bytes: Range<u64>, pattern: &Arc<Pattern>) {
    file.may_grow(bytes.end);
    file.may_hold(bytes, pattern);
}

/// What is stored behind the end of the file, in its last page, is not the file's.
fn stored(file: &mut File, bytes: &Range<u64>, pattern: &str) {
    let pattern = Arc::new(Pattern::new(pattern));
    let end = file.now().least.clamp(bytes.start, bytes.end);
    let behind = file.now().most.next_multiple_of(PAGE_BYTES).clamp(end, bytes.end);
    file.may_allocate_around(bytes, FOLIO_BYTES);
    if bytes.start < end {
        file.store(bytes.start..end, &pattern);
    }
    if end < behind {
        file.may_hold(end..behind, &pattern);
    }
}

/// The same where it failed. `returned` is what had been written until then, call by call; negative: nothing was begun.
fn may_change(file: &mut File, action: &Action, returned: i64) {
    match action {
        Action::Write(write) => {
            if let Ok(done) = u64::try_from(returned) {
                partly_written(file, write, done);
            }
        }
        Action::AioWrite(write) => {
            let pattern = Arc::new(Pattern::new(&write.pattern));
            for (offset, len) in write.calls() {
                may_be_written(file, range(offset, len), &pattern);
            }
        }
        Action::MmapWrite { offset, len, pattern, .. } => {
            let bytes = range(*offset, *len);
            file.may_allocate_around(&bytes, FOLIO_BYTES);
            let reach = file.now().most.next_multiple_of(PAGE_BYTES).clamp(bytes.start, bytes.end);
            file.may_hold(bytes.start..reach, &Arc::new(Pattern::new(pattern)));
        }
        Action::Punch { offset, len, .. } => file.may_punch(range(*offset, *len)),
        Action::Truncate { len, .. } => file.may_truncate(*len),
        Action::Fallocate { offset, len, keep_size, .. } => {
            file.allocate(&range(*offset, *len), false);
            if !keep_size {
                file.may_grow(offset.saturating_add(*len));
            }
        }
        _ => {}
    }
}

/// Whole calls until the error, then a part of one; the rest was never begun.
fn partly_written(file: &mut File, write: &Write, done: u64) {
    let pattern = Arc::new(Pattern::new(&write.pattern));
    let mut left = done;
    for (offset, len) in write.calls() {
        let whole = left.min(len);
        match range(offset, whole) {
            bytes if bytes.is_empty() => {}
            bytes if write.direct => file.write_directly(bytes, &pattern, false),
            bytes => file.write(bytes, &pattern),
        }
        left -= whole;
        if whole < len {
            return may_be_written(file, range(offset + whole, len - whole), &pattern);
        }
    }
}

fn range(offset: u64, len: u64) -> Range<u64> {
    offset..offset.saturating_add(len)
}
