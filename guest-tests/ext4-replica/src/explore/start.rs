//! What can be begun: what the device and the work queue begin by themselves, and what somebody may or may not want.

use super::activity::{Activity, Move, Part, Role, Slot, ThreadName, place};
use super::{Bounds, Queued, World, judge};
use crate::dialect::Dialect;
use crate::direct_io::{DirectIoAt, DirectWrite};
use crate::page_io::EIO;
use crate::state::{Buffer, Inode};
use crate::thread::{EndBio, FlushCompleted, Frame, Thread};
use crate::writeback::Submitter;
use writeback_events::{BioId, Ino};

/// Longest direct write, in blocks: enough for one that is cut short.
const MOST_DIRECT_BLOCKS: u64 = 2;

impl World {
    /// The device answers; the worker runs once it was queued, one for each inode.
    pub(super) fn answers(&self, bounds: &Bounds, moves: &mut Vec<Move>) {
        let fails = |error| error == 0 || self.left.errors > 0;
        if let Some(name) = self.free_interrupt(bounds) {
            for bio in &self.tally.in_flight {
                let answers = [0, EIO].into_iter().filter(|error| fails(*error));
                moves.extend(answers.map(|error| Move::Start(name, Activity::EndBio { bio: *bio, error })));
            }
            for Queued { iocb, .. } in &self.queued {
                let answers = [0, EIO].into_iter().filter(|error| fails(*error));
                moves.extend(answers.map(|error| Move::Start(name, Activity::EndDirect { iocb: *iocb, error })));
            }
        }
        for (ino, inode) in &self.path.state.inodes {
            let name = ThreadName { role: Role::Worker, number: place(*ino) as u8 + 1 };
            if inode.work_pending && !self.slots.iter().any(|slot| slot.name == name) {
                moves.push(Move::Start(name, Activity::Work { ino: *ino }));
            }
        }
    }

    fn free_interrupt(&self, bounds: &Bounds) -> Option<ThreadName> {
        let named = |number| ThreadName { role: Role::Interrupt, number };
        (1..=bounds.interrupts).map(named).find(|name| !self.slots.iter().any(|slot| slot.name == *name))
    }

    /// What somebody may want.
    pub(super) fn beginnings(&self, moves: &mut Vec<Move>) {
        for (ino, inode) in &self.path.state.inodes {
            if self.going & 1 << place(*ino) != 0 {
                continue;
            }
            let mutex_is_free = !self.slots.iter().any(|slot| slot.ino == *ino && slot.holds_mutex);
            if self.left.writers > 0 {
                self.passes(*ino, inode, moves);
            }
            if self.left.direct_writes > 0 && mutex_is_free {
                self.direct_writes(*ino, inode, moves);
            }
            self.waits(*ino, mutex_is_free, moves);
        }
    }

    fn new_name(&self, role: Role) -> ThreadName {
        ThreadName { role, number: self.numbers[role as usize] + 1 }
    }

    /// Writeback of one extent, or of one page.
    fn passes(&self, ino: Ino, inode: &Inode, moves: &mut Vec<Move>) {
        let name = self.new_name(Role::Writer);
        let dialect = &self.path.dialect;
        for (first_page, next_page) in inode.extents_to_write(dialect) {
            moves.push(Move::Start(name, Activity::SubmitRange { ino, first_page, next_page }));
        }
        // From 6.12 on there is no ext4_writepage; from 3.11 on it refuses what has no block of its own yet.
        let maps = dialect.maps_in_writepages;
        let takes = |page: &u64| inode.to_write(*page).is_some_and(|uninit| !(maps && uninit));
        for page in inode.pages.keys().copied().filter(|page| dialect.hole_ends_bio && takes(page)) {
            moves.push(Move::Start(name, Activity::Writepage { ino, page }));
        }
    }

    fn direct_writes(&self, ino: Ino, inode: &Inode, moves: &mut Vec<Move>) {
        let name = self.new_name(Role::Direct);
        let blocks = inode.size >> inode.block_bits;
        for first in 0..blocks {
            for len in 1..=MOST_DIRECT_BLOCKS.min(blocks - first) {
                let write = |is_async| Move::Start(name, Activity::Direct { ino, first, len, is_async });
                moves.extend([false, true].map(write));
            }
        }
    }

    fn waits(&self, ino: Ino, mutex_is_free: bool, moves: &mut Vec<Move>) {
        let on_inode = |slot: &&Slot| slot.ino == ino;
        let held =
            self.slots.iter().filter(on_inode).any(|slot| !matches!(slot.name.role, Role::Interrupt | Role::Worker));
        let queued = self.queued.iter().any(|write| write.ino == ino);
        let wanted = [
            (self.left.fsyncs > 0 && mutex_is_free, Role::Fsync, Activity::Fsync { ino }),
            (self.left.truncates > 0 && mutex_is_free, Role::Truncate, Activity::Truncate { ino }),
            // An open file is not evicted.
            (self.left.evicts > 0 && !held && !queued, Role::Evict, Activity::Evict { ino }),
        ];
        for (_, role, activity) in wanted.into_iter().filter(|(may, ..)| *may) {
            moves.push(Move::Start(self.new_name(role), activity));
        }
    }

    /// Makes the thread. What an interrupt or a worker does first belongs to it.
    pub(super) fn start(&mut self, name: ThreadName, activity: Activity) -> (&'static str, Option<Part>) {
        let (ino, part, thread) = self.thread_of(activity);
        self.numbers[name.role as usize] += 1;
        let mut slot = Slot { name, ino, thread, part, holds_mutex: self.takes_mutex(activity) };
        let waits = part.may_go_on(&self.path, ino).is_some();
        let function = if waits { part.waits_in() } else { self.path.next_function(&slot.thread) };
        let began = matches!(name.role, Role::Interrupt | Role::Worker);
        if began {
            self.path.step(&mut slot.thread);
        }
        let at = self.slots.partition_point(|other| other.name < name);
        self.slots.insert(at, slot);
        (function, began.then_some(part))
    }

    fn thread_of(&mut self, activity: Activity) -> (Ino, Part, Thread) {
        let submitting = |by, ino| (ino, Part::Call, Thread::submitting(by, ino, false, false));
        match activity {
            Activity::SubmitRange { ino, first_page: first, next_page: next } => {
                self.left.writers -= 1;
                submitting(Submitter::Range { first, next }, ino)
            }
            Activity::Writepage { ino, page } => {
                self.left.writers -= 1;
                submitting(Submitter::Page(page), ino)
            }
            Activity::EndBio { bio, error } => self.ending(bio, error),
            Activity::EndDirect { iocb, error } => self.ending_direct(iocb, error),
            Activity::Work { ino } => (ino, Part::Call, Thread::calling(Frame::EndIoRsvWork { ino })),
            Activity::Direct { ino, first, len, is_async } => {
                self.left.direct_writes -= 1;
                let bits = self.path.inode(ino).block_bits;
                let overwrite = !self.takes_mutex(activity);
                let write = DirectWrite { ino, offset: first << bits, len: len << bits, is_async, overwrite };
                let thread = Thread::calling(Frame::DirectIo { write, at: DirectIoAt::Enter });
                (ino, Part::DirectSubmit { first, len, is_async }, thread)
            }
            Activity::Fsync { ino } => {
                self.left.fsyncs -= 1;
                self.fsync(ino)
            }
            Activity::Truncate { ino } => {
                self.left.truncates -= 1;
                (ino, Part::Dio, Thread::default())
            }
            Activity::Evict { ino } => {
                self.left.evicts -= 1;
                self.going |= 1 << place(ino);
                (ino, Part::Pages, Thread::default())
            }
        }
    }

    fn ending(&mut self, bio: BioId, error: i32) -> (Ino, Part, Thread) {
        self.left.errors -= u8::from(error != 0);
        self.tally.answered(&self.path, bio, error == 0);
        let state = self.path.bio_mut(bio);
        (state.status, state.answered) = (error, true);
        let ino = self.path.io_end(self.path.bio(bio).io_end).ino;
        (ino, Part::EndBio(bio), Thread::calling(Frame::EndBio { bio, at: EndBio::MappingError }))
    }

    fn ending_direct(&mut self, iocb: crate::IocbId, error: i32) -> (Ino, Part, Thread) {
        self.left.errors -= u8::from(error != 0);
        let at = self.queued.iter().position(|write| write.iocb == iocb).expect("only a queued write ends");
        let Queued { ino, first, len, .. } = self.queued.remove(at);
        let blocks = judge::mask(first, first + len);
        self.tally.direct_ends(&self.path, iocb, blocks, error == 0, error != 0);
        if error != 0 {
            self.tally.promises_nothing(ino, blocks);
        }
        let bytes = (len << self.path.inode(ino).block_bits) as i64;
        let ret = if error == 0 { bytes } else { i64::from(error) };
        (ino, Part::EndDirect(iocb), Thread::calling(self.end_of(iocb, first, len, ret, true, ino)))
    }

    /// Up to 3.11 the list is worked on, then conversions are waited for; later only pages are.
    fn fsync(&self, ino: Ino) -> (Ino, Part, Thread) {
        let flush = Frame::DoFlushCompletedIo { at: FlushCompleted::Splice(ino) };
        match self.path.iomap() {
            true => (ino, Part::Pages, Thread::default()),
            false => (ino, Part::Flush, Thread::calling(flush)),
        }
    }

    /// A write that changes nothing but data drops `i_mutex` at once.
    fn takes_mutex(&self, activity: Activity) -> bool {
        match activity {
            Activity::Direct { ino, first, len, .. } => {
                self.path.state.inodes[&ino].extents.any_unwritten_or_hole(first, first + len)
            }
            Activity::Fsync { .. } => !self.path.iomap(),
            Activity::Truncate { .. } => true,
            _ => false,
        }
    }
}

impl Inode {
    /// Whether a page that could be taken now needs a conversion; none if it cannot be.
    fn to_write(&self, page: u64) -> Option<bool> {
        let state = self.pages.get(&page)?;
        let dirty = state.buffers.iter().any(|buffer| buffer.dirty);
        let free = dirty && !state.locked && !self.writeback.contains_key(&page);
        free.then(|| self.to_convert(page).next().is_some())
    }

    fn to_convert(&self, page: u64) -> impl Iterator<Item = u64> {
        let needs = |(_, buffer): &(u64, Buffer)| buffer.dirty && buffer.uninit;
        self.buffers_of(page).filter(needs).map(|(lblk, _)| lblk)
    }

    /// The ranges that one call each would be given: pages in turn, of which those blocks that need a conversion lie in one
    /// stretch of the file. From 3.11 on what needs none is not taken behind one, and a page with several stretches is taken whole.
    fn extents_to_write(&self, dialect: &Dialect) -> Vec<(u64, u64)> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        let mut stretch_end = None;
        for (page, uninit) in self.pages.keys().filter_map(|page| Some((*page, self.to_write(*page)?))) {
            let starts = self.to_convert(page).next();
            let joins = match (stretch_end, starts) {
                (None, _) => true,
                (Some(_), None) => !dialect.maps_in_writepages,
                (Some(end), Some(start)) => end == start,
            };
            match ranges.last_mut() {
                Some((_, next)) if *next == page && joins => *next = page + 1,
                _ => {
                    ranges.push((page, page + 1));
                    stretch_end = None;
                }
            }
            if uninit {
                stretch_end = self.to_convert(page).last().map(|lblk| lblk + 1);
            }
        }
        ranges
    }
}
