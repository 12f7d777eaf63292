//! Invariants of the path, checked on what one side says: the guest's responses or the replica's.
//!
//! They keep a tally of their own and know no replica, so they hold a guest to its own word even where the replica agrees
//! with it. Numbers are those of docs/replica.md. I9 and I10 (what was converted against what was written) are findings about a
//! guest, not assertions: kernels break them by design. I7 and I12 to I14 belong to dialects before 2014.

use crate::{Bug, Dialect};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use writeback_events::{BioId, Errno, Ino, IoEndId, Response, Stimulus, Subject};

/// Which invariant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Invariant {
    /// The count is the submitter's reference plus one per bio that has not given its own back.
    I1,
    /// The count never rises from 0.
    I2,
    /// It falls to 0 once, and then only conversion and release follow.
    I3,
    /// An UNWRITTEN io_end is converted after its last reference is gone and before it is released, each range once; any
    /// other is not.
    I4,
    /// It is queued exactly if a deferred put was the last and UNWRITTEN was set.
    I5,
    /// At its release it is on no list and not UNWRITTEN, and there is one release.
    I6,
    /// The work is queued exactly if the list was empty.
    I8,
    /// A folio leaves writeback once for each time it enters it.
    I11,
    /// The worker takes io_ends in the order in which they were queued.
    I15,
}

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// Which one.
    pub invariant: Invariant,
    /// About what.
    pub subject: Subject,
    /// What was seen, as a sentence.
    pub what: String,
}

/// Checks one side's account, event by event.
#[derive(Clone, Debug, Default)]
pub struct Assertions {
    io_ends: BTreeMap<IoEndId, Life>,
    inodes: BTreeMap<Ino, Line>,
    /// The count an event carries was read some way from the atomic operation it tells of, so on several CPUs it is no
    /// witness.
    counts_are_witness: bool,
    /// The worker releases an io_end of which a bio failed without converting it (e856f93e0fb2).
    keeps_failed_unwritten: bool,
    /// So does the last put where it is not deferred (2f94b537c48d).
    put_keeps_failed_unwritten: bool,
    /// A failed bio alone sends an io_end to the worker (data_err=abort since ce51afb8cc5e).
    defers_failed: bool,
    violations: Vec<Violation>,
}

/// The life of one io_end.
#[derive(Clone, Debug, Default)]
struct Life {
    ino: Option<Ino>,
    submitter: bool,
    /// One of its bios ended with an error.
    failed: bool,
    bios: BTreeSet<BioId>,
    /// Bios that have ended and not given their reference back.
    to_put: u32,
    /// How the count fell to 0.
    last_put: Option<LastPut>,
    listed: bool,
    taken: bool,
    converted: Vec<(u64, u64)>,
    released: bool,
}

#[derive(Clone, Copy, Debug)]
struct LastPut {
    deferred: bool,
    unwritten: bool,
}

/// An inode's list and its folios.
#[derive(Clone, Debug, Default)]
struct Line {
    /// Queued and not converted yet.
    waiting: VecDeque<IoEndId>,
    /// Those of them that no worker has started for.
    listed: usize,
    /// A worker has started and not converted anything yet: it may or may not have taken the list.
    taking: bool,
    /// Of `listed`: those that came while a worker was taking. It may have taken them with the others.
    doubtful: Vec<IoEndId>,
    writeback: BTreeSet<u64>,
}

impl Line {
    /// Lists an io_end. Says whether the list was empty, and whether that is certain.
    fn add(&mut self, io_end: IoEndId, queued: bool) -> (bool, bool) {
        let was_empty = self.listed == 0;
        let certain = !self.taking && (was_empty || self.listed > self.doubtful.len());
        if self.taking {
            self.doubtful.push(io_end);
        } else if !certain {
            // What is said of this one says of the others whether they were taken.
            self.listed = if queued { 0 } else { self.listed };
            self.doubtful.clear();
        }
        self.listed += 1;
        self.waiting.push_back(io_end);
        (was_empty, certain)
    }

    /// The worker has it, so it had taken it with the others.
    fn is_of_this_round(&mut self, io_end: IoEndId) {
        let before = self.doubtful.len();
        self.doubtful.retain(|doubtful| *doubtful != io_end);
        self.listed -= before - self.doubtful.len();
    }
}

impl Assertions {
    /// For a trace of `cpus` virtual CPUs, of a kernel that speaks `dialect`.
    pub fn new(cpus: u16, dialect: &Dialect) -> Assertions {
        Assertions {
            counts_are_witness: cpus <= 1,
            keeps_failed_unwritten: !dialect.has(Bug::ConvertAfterError),
            put_keeps_failed_unwritten: !dialect.has(Bug::ConvertAfterError) && !dialect.put_converts_after_error,
            ..Assertions::default()
        }
    }

    /// The same for a file system mounted with data_err=abort, where the dialect carries that out: an io_end of which a
    /// bio failed goes to the worker, UNWRITTEN or not.
    pub fn under_data_err_abort(self, dialect: &Dialect) -> Assertions {
        Assertions { defers_failed: dialect.data_err_abort, ..self }
    }

    /// What was violated so far, in order.
    pub fn violations(&self) -> &[Violation] {
        &self.violations
    }

    /// Takes a stimulus into account. They are the same for both sides.
    pub fn stimulus(&mut self, stimulus: &Stimulus) {
        match *stimulus {
            Stimulus::FolioSubmitted { ino, index, .. } | Stimulus::FolioSkipped { ino, index, .. } => {
                let fresh = self.inodes.entry(ino).or_default().writeback.insert(index);
                self.check(fresh, Invariant::I11, Subject::Inode(ino), || {
                    format!("page {index} enters writeback while it is under writeback")
                });
            }
            Stimulus::WorkerStarts { ino, .. } => {
                let line = self.inodes.entry(ino).or_default();
                (line.listed, line.taking) = (0, true);
                line.doubtful.clear();
            }
            _ => {}
        }
    }

    /// Checks a response of the side that is being watched.
    pub fn response(&mut self, response: &Response) {
        match *response {
            Response::InitIoEnd { io_end, ino, count, .. } => self.init(io_end, ino, count),
            Response::GetIoEnd { io_end, bio, count, .. } => self.get(io_end, bio, count),
            Response::EndBio { bio, io_end, error } => self.end_bio(bio, io_end, error),
            Response::PutIoEndDefer { io_end, count, unwritten } => self.put(io_end, count, unwritten, true),
            Response::PutIoEnd { io_end, count, unwritten } => self.put(io_end, count, unwritten, false),
            Response::AddCompleteIo { io_end, queued } => self.add_complete_io(io_end, queued),
            Response::ConvertUnwritten { ino, io_end, offset, size } => self.convert(ino, io_end, (offset, size)),
            Response::ReleaseIoEnd { io_end, unwritten } => self.release(io_end, unwritten),
            Response::EndPageWriteback { ino, page } => {
                let was = self.inodes.entry(ino).or_default().writeback.remove(&page);
                self.check(was, Invariant::I11, Subject::Inode(ino), || {
                    format!("page {page} leaves writeback without being under writeback")
                });
            }
            Response::AllocFailed { .. }
            | Response::SubmitBio { .. }
            | Response::BioOutsideFolios { .. }
            | Response::RequestError { .. }
            | Response::HeldAtLeave { .. }
            | Response::OpResult { .. } => {}
        }
    }

    fn init(&mut self, io_end: IoEndId, ino: Ino, count: u32) {
        let life = Life { ino: Some(ino), submitter: true, ..Life::default() };
        let fresh = self.io_ends.insert(io_end, life).is_none();
        self.check_io_end(fresh, Invariant::I3, io_end, || "it is born a second time".into());
        self.check_count(io_end, count);
    }

    fn get(&mut self, io_end: IoEndId, bio: BioId, count: u32) {
        let life = self.io_ends.entry(io_end).or_default();
        life.bios.insert(bio);
        let alive = life.last_put.is_none();
        self.check_io_end(alive, Invariant::I2, io_end, || {
            format!("bio {bio} takes a reference after the last one was gone")
        });
        self.check_count(io_end, count);
    }

    fn end_bio(&mut self, bio: BioId, io_end: IoEndId, error: Errno) {
        let life = self.io_ends.entry(io_end).or_default();
        life.failed |= error != 0;
        let held = life.bios.remove(&bio);
        life.to_put += u32::from(held);
        self.check_io_end(held, Invariant::I1, io_end, || format!("bio {bio} ends without a reference on it"));
    }

    fn put(&mut self, io_end: IoEndId, count: u32, unwritten: bool, deferred: bool) {
        let life = self.io_ends.entry(io_end).or_default();
        let alive = life.last_put.is_none();
        let held = life.to_put > 0 || life.submitter;
        if life.to_put > 0 {
            life.to_put -= 1;
        } else {
            life.submitter = false;
        }
        if life.references() == 0 && alive {
            life.last_put = Some(LastPut { deferred, unwritten });
        }
        self.check_io_end(alive, Invariant::I3, io_end, || "a reference is dropped after the last one was gone".into());
        self.check_io_end(held, Invariant::I1, io_end, || "a reference is dropped that nobody holds".into());
        self.check_count(io_end, count);
    }

    fn add_complete_io(&mut self, io_end: IoEndId, queued: bool) {
        let life = self.io_ends.entry(io_end).or_default();
        let last_put = life.last_put;
        life.listed = true;
        let ino = life.ino;
        let failed = self.defers_failed && life.failed;
        let due = last_put.is_some_and(|put| put.deferred && (put.unwritten || failed));
        self.check_io_end(due, Invariant::I5, io_end, || {
            "it is queued, but not by a last, deferred put with UNWRITTEN set".into()
        });
        let Some(line) = ino.map(|ino| self.inodes.entry(ino).or_default()) else { return };
        let (was_empty, certain) = line.add(io_end, queued);
        self.check_io_end(!certain || queued == was_empty, Invariant::I8, io_end, || {
            let list = if was_empty { "empty" } else { "not empty" };
            let work = if queued { "queued" } else { "not queued" };
            format!("the work is {work} though the list was {list}")
        });
    }

    fn convert(&mut self, ino: Ino, io_end: IoEndId, range: (u64, u64)) {
        let life = self.io_ends.entry(io_end).or_default();
        let due = life.last_put.is_some_and(|put| put.unwritten) && !life.released;
        let fresh = !life.converted.contains(&range);
        life.converted.push(range);
        let from_list = life.listed && !std::mem::replace(&mut life.taken, true);
        self.check_io_end(due, Invariant::I4, io_end, || {
            "it is converted, but not between its last put with UNWRITTEN set and its release".into()
        });
        self.check_io_end(fresh, Invariant::I4, io_end, || {
            format!("{} bytes at {} are converted twice", range.1, range.0)
        });
        if from_list {
            self.take_from_list(ino, io_end);
        }
    }

    fn take_from_list(&mut self, ino: Ino, io_end: IoEndId) {
        let line = self.inodes.entry(ino).or_default();
        line.taking = false;
        line.is_of_this_round(io_end);
        let first = line.waiting.front().copied();
        line.waiting.retain(|waiting| *waiting != io_end);
        self.check_io_end(first == Some(io_end), Invariant::I15, io_end, || {
            let first = first.map_or_else(|| "nothing".into(), |first| format!("io_end {first}"));
            format!("the worker takes it while {first} is first in the list")
        });
    }

    /// The worker takes an io_end to release it as it is; its turn in the list is judged all the same.
    fn take_unconverted(&mut self, io_end: IoEndId) {
        let life = self.io_ends.entry(io_end).or_default();
        life.taken = true;
        if let Some(ino) = life.ino {
            self.take_from_list(ino, io_end);
        }
    }

    fn release(&mut self, io_end: IoEndId, unwritten: bool) {
        let is = |kept: fn(&Life) -> bool| self.io_ends.get(&io_end).is_some_and(kept);
        let kept_by_worker = self.keeps_failed_unwritten && is(Life::is_kept);
        let kept = kept_by_worker || self.put_keeps_failed_unwritten && is(Life::is_kept_by_put);
        if kept_by_worker {
            self.take_unconverted(io_end);
        }
        let life = self.io_ends.entry(io_end).or_default();
        let again = std::mem::replace(&mut life.released, true);
        let was_unwritten = life.last_put.is_some_and(|put| put.unwritten);
        let (converted, listed, taken) = (!life.converted.is_empty(), life.listed, life.taken);
        let failed = self.defers_failed && life.failed;
        let due_for_list = life.last_put.is_some_and(|put| put.deferred && (put.unwritten || failed));
        let references = life.references();
        self.check_io_end(references == 0, Invariant::I3, io_end, || {
            format!("it is released with {references} references on it")
        });
        self.check_io_end(!again, Invariant::I6, io_end, || "it is released a second time".into());
        self.check_io_end(!unwritten, Invariant::I6, io_end, || "it is released with UNWRITTEN set".into());
        self.check_io_end(!listed || taken, Invariant::I6, io_end, || "it is released while on the list".into());
        self.check_io_end(converted == (was_unwritten && !kept), Invariant::I4, io_end, || match converted {
            true => "it was converted though UNWRITTEN was not set at its last put".into(),
            false => "UNWRITTEN was set at its last put, and it is released without a conversion".into(),
        });
        self.check_io_end(!due_for_list || listed, Invariant::I5, io_end, || {
            "its last put was deferred with UNWRITTEN set, and it was not queued".into()
        });
    }

    fn check_count(&mut self, io_end: IoEndId, count: u32) {
        let references = self.io_ends.entry(io_end).or_default().references();
        self.check_io_end(!self.counts_are_witness || count == references, Invariant::I1, io_end, || {
            format!("its count is {count}, but {references} references are held")
        });
    }

    fn check_io_end(&mut self, holds: bool, invariant: Invariant, io_end: IoEndId, what: impl FnOnce() -> String) {
        self.check(holds, invariant, Subject::IoEnd(io_end), what);
    }

    fn check(&mut self, holds: bool, invariant: Invariant, subject: Subject, what: impl FnOnce() -> String) {
        if !holds {
            self.violations.push(Violation { invariant, subject, what: what() });
        }
    }
}

impl Life {
    /// Queued for the worker after a bio failed, and not converted.
    fn is_kept(&self) -> bool {
        self.failed && self.listed && !self.taken && self.converted.is_empty()
    }

    /// Given up by a last put that is not deferred after a bio failed, and not converted.
    fn is_kept_by_put(&self) -> bool {
        self.failed && self.last_put.is_some_and(|put| !put.deferred) && self.converted.is_empty()
    }

    fn references(&self) -> u32 {
        u32::from(self.submitter) + self.to_put + self.bios.len() as u32
    }
}

#[cfg(test)]
mod tests;
