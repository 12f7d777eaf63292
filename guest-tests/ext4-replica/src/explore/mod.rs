//! The explore driver: every thread whose step could be next, one move at a time.
//!
//! A [`World`] is a moment: what the threads share, the threads, what they may still begin, and the judge's tally. It is a value:
//! cloned, compared, hashed. From it [`World::moves`] gives every move that is possible now, within bounds, and
//! [`World::take`] takes one and says what happened and what no longer holds. Which moves are tried, and in which order, is the
//! searcher's business; so is what has been seen before, for which [`World::fingerprint`] is the same for worlds that differ only in
//! which of several like threads or files is which.
//!
//! What a thread does between two accesses to what is shared belongs to the move before it (`frames.rs` says why that loses
//! nothing). Here the whole kernel around the path is as little as it needs: the device answers, the generic code of direct I/O
//! comes to one of five ends, `i_mutex` keeps direct writes apart, and some threads wait.

mod activity;
mod frames;
mod judge;
mod layout;
mod start;
mod symmetry;
mod waits;

pub use activity::{Activity, Choice, Move, Outcome, Role, ThreadName};
pub use judge::{Broken, Property};
pub use layout::{BadLayout, Layout};

use crate::cause::Causes;
use crate::dialect::Dialect;
use crate::direct_io::{EIOCBQUEUED, EndDirectIo, EndDirectIoAt, ReturnAt};
use crate::event::{Event, IocbId};
use crate::page_io::{EIO, Path};
use crate::state::{IoEndVec, PAGE_BYTES};
use crate::thread::{Frame, Progress};
use activity::{Part, Slot, Wait};
use judge::{Seen, Tally};
use writeback_events::{Ino, IoEndId};

/// -EFAULT: the memory of a direct write is not there.
const EFAULT: i64 = -14;

/// How far a search goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Files.
    pub inodes: u8,
    /// Pages of each.
    pub pages: u8,
    /// log2 of the bytes of a block: 10 to 12.
    pub block_bits: u32,
    /// Segments that a bio may have room for: each of these is tried.
    pub max_pages: Vec<u32>,
    /// Passes of writeback, over one extent or one page each.
    pub writers: u8,
    /// Direct writes.
    pub direct_writes: u8,
    /// fsyncs, each with its wait.
    pub fsyncs: u8,
    /// Truncates, of which only the wait for direct writes is there.
    pub truncates: u8,
    /// Evictions of an inode.
    pub evicts: u8,
    /// Bios and direct writes that end at the same time.
    pub interrupts: u8,
    /// Bios of one io_end. What needs more is left out.
    pub bios: u32,
    /// io_ends of one inode. What needs more is left out.
    pub io_ends: u32,
    /// Bios and direct writes that fail.
    pub errors: u8,
    /// Allocations of an io_end that fail.
    pub alloc_failures: u8,
    /// Conversions that fail.
    pub convert_failures: u8,
    /// Steps that nobody else can see are moves of their own. Finds the same, only slower.
    pub every_step: bool,
    /// Threads and files that are alike are told apart by their names. Finds the same, only slower.
    pub every_name: bool,
}

impl Bounds {
    /// Most files there can be.
    pub const MOST_INODES: u8 = 3;
    /// Most pages a file can have.
    pub const MOST_PAGES: u8 = 8;
}

impl Bounds {
    /// Bounds that keep nothing back: for a schedule that says by itself what happens.
    pub fn none() -> Bounds {
        let most = u8::MAX;
        Bounds {
            writers: most,
            direct_writes: most,
            fsyncs: most,
            truncates: most,
            evicts: most,
            interrupts: most,
            bios: u32::MAX,
            io_ends: u32::MAX,
            errors: most,
            alloc_failures: most,
            convert_failures: most,
            ..Bounds::default()
        }
    }
}

impl Default for Bounds {
    /// One file of two pages, and nobody who does anything.
    fn default() -> Bounds {
        Bounds {
            inodes: 1,
            pages: 2,
            block_bits: 12,
            max_pages: vec![1, 256],
            writers: 0,
            direct_writes: 0,
            fsyncs: 0,
            truncates: 0,
            evicts: 0,
            interrupts: 1,
            bios: 4,
            io_ends: 8,
            errors: 0,
            alloc_failures: 0,
            convert_failures: 0,
            every_step: false,
            every_name: false,
        }
    }
}

/// What may still be begun, or fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Left {
    writers: u8,
    direct_writes: u8,
    fsyncs: u8,
    truncates: u8,
    evicts: u8,
    errors: u8,
    alloc_failures: u8,
    convert_failures: u8,
}

/// A direct write that goes on behind its caller's back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Queued {
    iocb: IocbId,
    ino: Ino,
    first: u64,
    len: u64,
}

/// A moment of a search.
#[derive(Clone, Debug)]
pub struct World {
    path: Path,
    slots: Vec<Slot>,
    queued: Vec<Queued>,
    left: Left,
    /// Inodes that are being evicted, a bit each: nobody begins anything on them.
    going: u8,
    tally: Tally,
    /// How many of each role have begun something.
    numbers: [u8; Role::ALL.len()],
    /// Who moved last. It goes on first, so that of equally short ways the one with the fewest interruptions is found.
    last: Option<ThreadName>,
}

/// What came of a move.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// The kernel function that the step belongs to.
    pub function: &'static str,
    /// What happened, in order.
    pub events: Vec<Event>,
    /// What does not hold any more.
    pub broken: Vec<Broken>,
    /// A bio or io_end too many was made: what follows is outside the bounds.
    pub beyond: bool,
    /// The thread has done what it began.
    pub done: bool,
}

/// The counts of one inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as in the kernel")]
pub struct InodeCounts {
    pub ino: Ino,
    pub i_ioend_count: i64,
    pub i_unwritten: i64,
    pub i_dio_count: i64,
}

/// An io_end that has not been released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "named as in the kernel")]
pub struct IoEndCounts {
    pub io_end: IoEndId,
    pub count: i32,
    pub unwritten: bool,
    pub error: bool,
}

impl World {
    /// Where a search begins.
    pub fn new(dialect: Dialect, bounds: &Bounds, layout: &Layout) -> World {
        let mut path = Path::new(dialect, None, PAGE_BYTES);
        path.state.max_pages = layout.max_pages;
        path.state.inodes.extend(layout.inodes());
        let left = Left {
            writers: bounds.writers,
            direct_writes: bounds.direct_writes,
            fsyncs: bounds.fsyncs,
            truncates: bounds.truncates,
            evicts: bounds.evicts,
            errors: bounds.errors,
            alloc_failures: bounds.alloc_failures,
            convert_failures: bounds.convert_failures,
        };
        let tally = Tally::new(layout);
        World {
            path,
            slots: Vec::new(),
            queued: Vec::new(),
            left,
            going: 0,
            tally,
            numbers: [0; Role::ALL.len()],
            last: None,
        }
    }

    /// What has made a difference so far.
    pub fn causes(&self) -> Causes {
        self.path.acted
    }

    /// The counts of the inodes, rising.
    pub fn inodes(&self) -> Vec<InodeCounts> {
        let one = |(ino, inode): (&Ino, &crate::state::Inode)| InodeCounts {
            ino: *ino,
            i_ioend_count: inode.i_ioend_count,
            i_unwritten: inode.i_unwritten,
            i_dio_count: inode.i_dio_count,
        };
        self.path.state.inodes.iter().map(one).collect()
    }

    /// The io_ends that are not released, rising.
    pub fn io_ends(&self) -> Vec<IoEndCounts> {
        let alive = self.path.state.io_ends.iter().filter(|(_, io_end)| !io_end.released);
        let one = |(id, io_end): (&IoEndId, &crate::state::IoEnd)| IoEndCounts {
            io_end: *id,
            count: io_end.count,
            unwritten: io_end.flag.unwritten,
            error: io_end.flag.error,
        };
        alive.map(one).collect()
    }

    /// Every move that is possible, in an order that is always the same.
    pub fn moves(&self, bounds: &Bounds, moves: &mut Vec<Move>) {
        moves.clear();
        if self.path.state.dead {
            return;
        }
        let last = self.slots.iter().filter(|slot| Some(slot.name) == self.last);
        let others = self.slots.iter().filter(|slot| Some(slot.name) != self.last);
        last.chain(others).for_each(|slot| self.steps(slot, moves));
        self.answers(bounds, moves);
        self.beginnings(moves);
    }

    /// Nothing moves by itself any more.
    fn is_at_rest(&self, bounds: &Bounds) -> bool {
        let mut moves = Vec::new();
        self.slots.iter().for_each(|slot| self.steps(slot, &mut moves));
        self.answers(bounds, &mut moves);
        moves.is_empty()
    }

    /// What one thread's next step can come to.
    fn steps(&self, slot: &Slot, moves: &mut Vec<Move>) {
        let mut step = |choice| moves.push(Move::Step(slot.name, choice));
        if let Some(may) = slot.part.may_go_on(&self.path, slot.ino) {
            if may {
                step(Choice::Go);
            }
            return;
        }
        if let Part::Generic { len, is_async, .. } = slot.part {
            let partly = |outcome| matches!(outcome, Outcome::Partial | Outcome::PartialError) && len < 2;
            let outcomes = Outcome::ALL.into_iter().map(|(outcome, _)| outcome);
            let possible = outcomes.filter(|one| !partly(*one) && (!one.costs_an_error() || self.left.errors > 0));
            // The device's word on a queued write comes later, and is a choice of its own then.
            return possible
                .filter(|one| !is_async || *one != Outcome::WholeFails)
                .for_each(|one| step(Choice::Generic(one)));
        }
        step(Choice::Go);
        if self.left.alloc_failures > 0 && self.path.next_allocates(&slot.thread) {
            step(Choice::NoMemory);
        }
        if self.left.convert_failures > 0 && slot.thread.converts().is_some() {
            step(Choice::ConvertFails);
        }
    }

    /// The kernel function that a thread's next step belongs to.
    pub fn function(&self, name: ThreadName) -> Option<&'static str> {
        let slot = self.slots.iter().find(|slot| slot.name == name)?;
        let waits = slot.part.may_go_on(&self.path, slot.ino).is_some() || matches!(slot.part, Part::Generic { .. });
        Some(if waits { slot.part.waits_in() } else { self.path.next_function(&slot.thread) })
    }

    /// What a thread's next step does, where no event says it; for people.
    pub fn about(&self, name: ThreadName) -> String {
        let slot = self.slots.iter().find(|slot| slot.name == name);
        slot.map_or_else(String::new, |slot| match slot.part {
            Part::Unwritten(wait) | Part::IoEnds(wait) => wait.to_string(),
            Part::Pages | Part::Dio => "what it waits for has come".into(),
            _ => slot.thread.stack.last().map_or_else(String::new, Frame::does),
        })
    }

    /// Takes a move that [`World::moves`] gave.
    pub fn take(&mut self, next: Move, bounds: &Bounds) -> Taken {
        let before = Tally::before(&self.path);
        let mut broken = Vec::new();
        let (function, part) = match next {
            Move::Start(name, activity) => self.start(name, activity),
            Move::Step(name, choice) => {
                let function = self.function(name).expect("who moves is there");
                (function, Some(self.step(name, choice)))
            }
        };
        let place = self.slots.iter().position(|slot| slot.name == next.thread());
        if let Some(place) = place {
            self.local_steps(place, bounds);
        }
        let events = std::mem::take(&mut self.path.events);
        waits::wake(&self.path, &events, &mut self.slots);
        let mover = place.map(|place| &self.slots[place]);
        let seen = Seen { path: &self.path, slots: &self.slots, part, mover };
        self.tally.see(&before, &events, &seen, &mut broken);
        let stepped = matches!(next, Move::Step(..));
        let done = place.is_some_and(|place| self.advance(place, stepped));
        self.last = Some(next.thread());
        let beyond = self.is_beyond(bounds);
        self.forget();
        if !self.path.state.dead && !beyond && self.is_at_rest(bounds) {
            self.tally.at_rest(&self.path, &self.slots, &mut broken);
        }
        Taken { function, events, broken, beyond, done }
    }

    fn step(&mut self, name: ThreadName, choice: Choice) -> Part {
        let place = self.slots.iter().position(|slot| slot.name == name).expect("who moves is there");
        let part = self.slots[place].part;
        match (part, choice) {
            (Part::Generic { first, len, is_async }, Choice::Generic(outcome)) => {
                self.generic(place, first, len, is_async, outcome);
            }
            (Part::Unwritten(_) | Part::IoEnds(_) | Part::Pages | Part::Dio, _) => {}
            _ => self.kernel_step(place, choice),
        }
        part
    }

    fn kernel_step(&mut self, place: usize, choice: Choice) {
        let World { path, slots, left, .. } = self;
        let slot = &mut slots[place];
        if slot.thread.converts().is_some() {
            let fails = choice == Choice::ConvertFails;
            left.convert_failures -= u8::from(fails);
            slot.thread.conversion_returns(if fails { EIO } else { 0 });
        }
        if choice == Choice::NoMemory {
            left.alloc_failures -= 1;
            slot.thread.fail_alloc = true;
        }
        // A release tells the judge which direct write its count was dropped by.
        if let (Part::DirectReturn { own_put: false }, Some(Frame::DirectIoReturn { at: ReturnAt::SecondPut, .. })) =
            (slot.part, slot.thread.stack.last())
        {
            slot.part = Part::DirectReturn { own_put: true };
        }
        path.step(&mut slot.thread);
    }

    /// What follows that nobody else can see.
    fn local_steps(&mut self, place: usize, bounds: &Bounds) {
        let World { path, slots, .. } = self;
        let thread = &mut slots[place].thread;
        while !bounds.every_step && path.next_is_local(thread) && path.step(thread) == Progress::Stepped {}
    }

    /// The generic code has submitted what it could.
    fn generic(&mut self, place: usize, first: u64, len: u64, is_async: bool, outcome: Outcome) {
        let slot = &self.slots[place];
        let (ino, Some(iocb)) = (slot.ino, slot.thread.iocb) else { return };
        self.left.errors -= u8::from(outcome.costs_an_error());
        let bits = self.path.inode(ino).block_bits;
        let bytes = |blocks: u64| (blocks << bits) as i64;
        let (blocks, end, ret) = match outcome {
            Outcome::Whole if is_async => {
                self.queued.push(Queued { iocb, ino, first, len });
                self.tally.direct_queued(iocb);
                return self.returns(place, EIOCBQUEUED);
            }
            Outcome::Nothing => {
                self.tally.promises_nothing(ino, judge::mask(first, first + len));
                return self.returns(place, EFAULT);
            }
            Outcome::Whole => (len, bytes(len), bytes(len)),
            Outcome::WholeFails => (len, i64::from(EIO), i64::from(EIO)),
            Outcome::Partial => (1, bytes(1), bytes(1)),
            Outcome::PartialError => (1, EFAULT, EFAULT),
        };
        let written = judge::mask(first, first + blocks);
        self.tally.direct_ends(&self.path, iocb, written, outcome != Outcome::WholeFails, ret < 0);
        if ret < 0 {
            self.tally.promises_nothing(ino, judge::mask(first, first + len));
        }
        let end = self.end_of(iocb, first, blocks, end, false, ino);
        let slot = &mut self.slots[place];
        slot.part = Part::DirectEnd { ret };
        slot.thread.call(end);
    }

    fn end_of(&mut self, iocb: IocbId, first: u64, blocks: u64, ret: i64, is_async: bool, ino: Ino) -> Frame {
        let bits = self.path.inode(ino).block_bits;
        let range = IoEndVec { offset: first << bits, size: blocks << bits };
        Frame::EndIoDio { end: EndDirectIo { iocb, range, ret, is_async }, at: EndDirectIoAt::Enter }
    }

    fn returns(&mut self, place: usize, ret: i64) {
        let slot = &mut self.slots[place];
        let Some(iocb) = slot.thread.iocb else { return };
        slot.part = Part::DirectReturn { own_put: false };
        slot.thread.ret = 0;
        slot.thread.call(Frame::DirectIoReturn { iocb, ret, at: ReturnAt::Generic });
    }

    /// Whoever has left all functions of the path goes on with what comes behind them. True if nothing does.
    fn advance(&mut self, place: usize, stepped: bool) -> bool {
        let Slot { name, ino, part, ref thread, .. } = self.slots[place];
        let iocb = thread.iocb;
        let inode = self.path.inode(ino);
        let next = match part {
            Part::Unwritten(_) | Part::IoEnds(_) | Part::Pages | Part::Dio if !stepped => return false,
            Part::Unwritten(wait) => waits::wait(wait, inode.i_unwritten == 0).map(Part::Unwritten),
            Part::IoEnds(wait) => waits::wait(wait, inode.i_ioend_count == 0).map(Part::IoEnds),
            Part::Pages if name.role == Role::Evict && !self.path.iomap() => Some(Part::IoEnds(Wait::Prepare)),
            Part::Pages | Part::Dio => None,
            _ if !thread.is_done() => return false,
            Part::DirectSubmit { first, len, is_async } if iocb.is_some() => {
                Some(Part::Generic { first, len, is_async })
            }
            Part::Generic { .. } => return false,
            Part::DirectEnd { ret } => {
                self.returns(place, ret);
                return false;
            }
            Part::Flush => Some(Part::Unwritten(Wait::Prepare)),
            Part::Call
            | Part::EndBio(_)
            | Part::EndDirect(_)
            | Part::DirectSubmit { .. }
            | Part::DirectReturn { .. } => None,
        };
        if let (Some(Part::Generic { .. }), Some(iocb)) = (next, iocb) {
            self.tally.direct_begins(iocb);
        }
        match next {
            Some(part) => self.slots[place].part = part,
            None => drop(self.slots.remove(place)),
        }
        next.is_none()
    }

    fn is_beyond(&self, bounds: &Bounds) -> bool {
        let bios_of = |io_end: IoEndId| self.path.state.bios.values().filter(|bio| bio.io_end == io_end).count();
        let many_bios = self.path.state.io_ends.keys().any(|io_end| bios_of(*io_end) > bounds.bios as usize);
        many_bios || self.path.state.inodes.values().any(|inode| inode.i_ioend_count > i64::from(bounds.io_ends))
    }

    /// While no thread is in the path, nobody but a bio or a direct write can still touch what has been released.
    fn forget(&mut self) {
        if self.slots.iter().any(|slot| !slot.thread.is_done()) {
            return;
        }
        let World { path, slots, queued, tally, .. } = self;
        let state = &mut path.state;
        let goes_on = |id: &IocbId| {
            slots.iter().any(|slot| slot.thread.iocb == Some(*id)) || queued.iter().any(|write| write.iocb == *id)
        };
        state.iocbs.retain(|id, _| goes_on(id));
        let of_iocb = |id: &IoEndId| state.iocbs.values().any(|iocb| iocb.io_end == Some(*id));
        let of_bio = |id: &IoEndId| state.bios.values().any(|bio| bio.io_end == *id);
        state.io_ends.retain(|id, io_end| !io_end.released || of_iocb(id) || of_bio(id));
        tally.keep(path);
    }
}
