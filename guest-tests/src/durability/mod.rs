//! What must be on a disk after a power cut: the durability oracle. Pure: operations with their results in, a judgement out.
//!
//! The workload is one thread, so at a cut a beginning of it had surely returned, and what comes after a further beginning
//! had surely not begun ([`Reach`]). From the first follows what was promised: after an fsync that returned 0 the file's
//! bytes, size and names are there, or what a later operation put in their place. From the second follows what may be there
//! at all: a byte that nobody wrote, nor left zero, is wrong even where nothing was promised.
//!
//! The names are those of one moment: ext4 logs changes of names in the order in which they were made, and a transaction
//! holds a beginning of them. The moment is not before the last change that a promise covers. docs/crash-states.md says what
//! counts as a promise and what is not looked at.

mod file;
mod names;
#[cfg(test)]
mod tests;

use crate::ops::OpLine;
use file::File;
use guest_init::job::{Action, Errno, Op};
use guest_init::pattern::Pattern;
use names::{Kind, Names};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How far the workload had come at a moment, in operations from the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Reach {
    /// So many had surely returned.
    pub returned: u32,
    /// No more than so many had begun.
    pub begun: u32,
}

/// What else decides what counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// A `sync` is a promise. It cannot report an error, so where the disk refused a request it is none.
    pub sync_promises: bool,
    /// What nobody promised may show what the disk held before (`data=writeback`).
    pub past_may_show: bool,
}

/// A file system as it was found: every path without a leading `/`, `lost+found` left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree(pub BTreeMap<String, Node>);

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// A folder.
    Folder,
    /// A regular file with its bytes.
    File(Arc<[u8]>),
    /// Neither.
    Other,
}

/// A promise that was not kept, or something that may not be there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Broken {
    /// The file.
    pub path: String,
    /// First byte, where it is about bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// How many bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// It was promised; else: nobody promised anything, but what is there cannot come from the workload.
    pub promised: bool,
    /// In a sentence.
    pub what: String,
}

/// What became of a judgement.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judgement {
    /// Everything that is wrong.
    pub broken: Vec<Broken>,
    /// Files of which anything was promised.
    pub promised_files: u64,
    /// Bytes of files that were promised and held against what was found.
    pub promised_bytes: u64,
}

/// What may be on the disk after a cut.
#[derive(Debug)]
pub struct Expected {
    names: Names,
    files: Vec<File>,
    rules: Rules,
}

impl Expected {
    /// Follows the workload up to a cut.
    pub fn at(ops: &[OpLine], reach: Reach, rules: Rules) -> Expected {
        let mut expected = Expected { names: Names::default(), files: Vec::new(), rules };
        for line in ops.iter().filter(|line| line.index < reach.begun) {
            expected.follow(line, line.index < reach.returned);
        }
        expected
    }

    /// Holds what was found against it.
    pub fn judge(&self, found: &Tree) -> Judgement {
        let moments = self.names.moments(found);
        let judge = |moment: &&BTreeMap<String, usize>| self.contents(moment, found);
        // Several moments may have had these very names: one that fits is enough.
        let mut contents = moments.iter().map(judge);
        let Some(first) = contents.next() else {
            return Judgement { broken: self.names.describe_misfit(found), ..Judgement::default() };
        };
        match first.broken.is_empty() {
            true => first,
            false => contents.find(|other| other.broken.is_empty()).unwrap_or(first),
        }
    }

    /// Every path that the workload names, whether it is to be there or not.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.names.all_paths()
    }

    fn contents(&self, moment: &BTreeMap<String, usize>, found: &Tree) -> Judgement {
        let mut judgement = Judgement::default();
        for (path, id) in moment {
            if let Some(Node::File(data)) = found.0.get(path) {
                let file = &self.files[*id];
                judgement.promised_files += u64::from(file.anything_promised());
                judgement.promised_bytes += file.judge(path, data, self.rules.past_may_show, &mut judgement.broken);
            }
        }
        judgement
    }

    fn follow(&mut self, line: &OpLine, returned: bool) {
        let done = line.succeeded();
        let Op { action, .. } = &line.args;
        let failed = line.result.as_ref().and_then(|result| result.errno);
        if let Some(errno) = failed {
            return self.follow_failed(action, errno);
        }
        match action {
            Action::Create { path } => self.make(path, Kind::File),
            Action::Mkdir { path } => self.make(path, Kind::Folder),
            Action::Rename { path, to } => self.names.rename(path, to),
            Action::Link { path, to } => self.names.link(path, to),
            Action::Unlink { path } => self.names.unlink(path),
            Action::Fsync { path } if done && returned => self.synced(path, true),
            Action::Fdatasync { path } if done && returned => self.synced(path, false),
            Action::Sync {} if done && returned && self.rules.sync_promises => self.all_synced(),
            Action::Remount {} if done && returned => self.all_synced(),
            Action::MmapWrite { path, offset, len, msync: true, .. } if done && returned => {
                self.change(path, |file| change(file, action));
                self.change(path, |file| file.promise(*offset..offset.saturating_add(*len)));
            }
            other => {
                if let Some(path) = other.path() {
                    self.change(path, |file| change(file, action));
                }
            }
        }
    }

    /// What an operation that ended with an error may have left.
    fn follow_failed(&mut self, action: &Action, errno: Errno) {
        match action {
            Action::Create { .. }
            | Action::Mkdir { .. }
            | Action::Rename { .. }
            | Action::Link { .. }
            | Action::Unlink { .. }
                if !did_nothing(errno) =>
            {
                self.names.lose_track();
            }
            Action::Fsync { path } | Action::Fdatasync { path } | Action::SyncFileRange { path, .. } => {
                self.change(path, File::sync_failed);
            }
            Action::MmapWrite { path, msync: true, .. } => self.change(path, |file| {
                blur(file, action);
                file.sync_failed();
            }),
            other => {
                if let Some(path) = other.path() {
                    self.change(path, |file| blur(file, other));
                }
            }
        }
    }

    fn make(&mut self, path: &str, kind: Kind) {
        self.files.push(File::default());
        self.names.make(path, self.files.len() - 1, kind);
    }

    fn change(&mut self, path: &str, how: impl FnOnce(&mut File)) {
        if let Some(id) = self.names.get(path) {
            how(&mut self.files[id]);
        }
    }

    fn synced(&mut self, path: &str, with_names: bool) {
        self.change(path, |file| file.promise(0..u64::MAX));
        self.change(path, File::promise_size);
        self.names.synced(path, with_names);
    }

    fn all_synced(&mut self) {
        for file in &mut self.files {
            file.promise(0..u64::MAX);
            file.promise_size();
        }
        self.names.all_synced();
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
fn change(file: &mut File, action: &Action) {
    match action {
        Action::Write(write) | Action::AioWrite(write) => {
            let pattern = Arc::new(Pattern::new(&write.pattern));
            for (offset, len) in write.calls() {
                file.write(offset..offset.saturating_add(len), &pattern);
            }
        }
        Action::MmapWrite { offset, len, pattern, .. } => {
            file.store(*offset..offset.saturating_add(*len), &Arc::new(Pattern::new(pattern)));
        }
        Action::Truncate { len, .. } => file.truncate(*len),
        Action::Punch { offset, len, .. } => file.punch(*offset..offset.saturating_add(*len)),
        Action::Fallocate { offset, len, keep_size: false, .. } => file.grow(offset.saturating_add(*len)),
        _ => {}
    }
}

/// The same with an unknown outcome.
fn blur(file: &mut File, action: &Action) {
    match action {
        Action::Write(write) | Action::AioWrite(write) => {
            for (offset, len) in write.calls() {
                file.blur(offset..offset.saturating_add(len));
            }
        }
        Action::MmapWrite { offset, len, .. } | Action::Punch { offset, len, .. } => {
            file.blur(*offset..offset.saturating_add(*len));
        }
        Action::Truncate { len, .. } => file.truncate_failed(*len),
        Action::Fallocate { offset, len, keep_size: false, .. } => file.may_grow(offset.saturating_add(*len)),
        _ => {}
    }
}
