//! What must hold, judged after every move: I1 to I15 of docs/replica.md, that no warning is met and that nothing waits for ever.
//!
//! The judge keeps a tally of its own (who holds which reference, which block's data is on the disk) from what it is told happened,
//! and holds the path's counts against it. It decides nothing that the path does.

use super::activity::{Part, Slot, place};
use super::layout::Layout;
use crate::bug::Bug;
use crate::event::{Event, IocbId};
use crate::page_io::Path;
use crate::state::{Inode, PAGE_BYTES};
use crate::thread::{FlushCompleted, Frame};
use std::collections::{BTreeMap, BTreeSet};
use writeback_events::{BioId, Ino, IoEndId};

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "each has its sentence in `Property::sentence`")]
pub enum Property {
    I1,
    I2,
    I3,
    I4,
    I5,
    I6,
    I7,
    I8,
    I9,
    I10,
    I11,
    I12,
    I13,
    I14,
    I15,
    Waits,
    Warns,
}

impl Property {
    /// All of them, with name and sentence.
    pub const ALL: [(Property, &str, &str); 17] = [
        (Property::I1, "I1", "the count of an io_end is the number of those who hold it"),
        (Property::I2, "I2", "the count of an io_end never rises from 0"),
        (Property::I3, "I3", "the count of an io_end falls to 0 once, and nobody touches it behind its release"),
        (Property::I4, "I4", "an io_end with unwritten blocks is converted once, behind its last bio and its last put"),
        (Property::I5, "I5", "an io_end is on the list exactly if its last put was deferred and UNWRITTEN was set"),
        (Property::I6, "I6", "an io_end is released once, off the list and not UNWRITTEN"),
        (Property::I7, "I7", "i_unwritten and i_ioend_count count the io_ends there are"),
        (Property::I8, "I8", "the work is queued exactly if the list was empty"),
        (Property::I9, "I9", "no block becomes written whose data is not on the disk"),
        (Property::I10, "I10", "a block whose data is on the disk becomes written"),
        (Property::I11, "I11", "a page leaves writeback once for each time it enters it"),
        (Property::I12, "I12", "i_dio_count counts the direct writes under way"),
        (Property::I13, "I13", "an asynchronous direct write is completed once"),
        (Property::I14, "I14", "a locked page is unlocked"),
        (Property::I15, "I15", "io_ends are converted in the order in which they were queued"),
        (Property::Waits, "waits", "nothing waits for ever"),
        (Property::Warns, "warns", "no warning is met"),
    ];

    fn row(self) -> (Property, &'static str, &'static str) {
        Property::ALL.into_iter().find(|row| row.0 == self).expect("every property has a row")
    }

    /// Its name on a command line.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// What must hold, as a sentence.
    pub fn sentence(self) -> &'static str {
        self.row().2
    }

    /// The one of that name.
    pub fn by_name(name: &str) -> Option<Property> {
        Property::ALL.into_iter().find(|row| row.1 == name).map(|row| row.0)
    }
}

/// Something that does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Broken {
    /// What should.
    pub property: Property,
    /// In which way, as a sentence.
    pub how: &'static str,
}

/// The judge's own tally.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Tally {
    files: Vec<File>,
    io_ends: BTreeMap<IoEndId, Known>,
    /// Submitted and not answered yet.
    pub(super) in_flight: BTreeSet<BioId>,
    directs: BTreeMap<IocbId, Direct>,
}

/// Blocks of a file, a bit each.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct File {
    began_unwritten: u64,
    on_disk: u64,
    failed: u64,
    /// Nothing is promised of them: a bio of their io_end, their conversion or their direct write failed.
    exempt: u64,
}

/// An io_end, as far as its holders go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Known {
    submitter: bool,
    iocb: bool,
    bios: u8,
    fell_to_0: bool,
    released: bool,
    failed: bool,
    /// Unwritten blocks whose data was sent with it.
    carries: u64,
    converted: Vec<(u64, u64)>,
    /// Its place among those queued.
    queued_as: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Direct {
    queued: bool,
    completed: bool,
}

/// What was there before the move.
pub(super) struct Before {
    writeback: Vec<u64>,
}

/// What the judge is told beside the events.
pub(super) struct Seen<'a> {
    pub(super) path: &'a Path,
    pub(super) slots: &'a [Slot],
    /// What the thread that moved was in the midst of.
    pub(super) part: Option<Part>,
    pub(super) mover: Option<&'a Slot>,
}

impl Tally {
    pub(super) fn new(layout: &Layout) -> Tally {
        let file = |(_, inode): (Ino, Inode)| File { began_unwritten: unwritten(&inode), ..File::default() };
        Tally { files: layout.inodes().map(file).collect(), ..Tally::default() }
    }

    pub(super) fn before(path: &Path) -> Before {
        Before { writeback: path.state.inodes.values().map(writeback).collect() }
    }

    /// Data lies on the disk now, or could not be written.
    pub(super) fn lands(&mut self, ino: Ino, blocks: u64, well: bool) {
        let file = &mut self.files[place(ino)];
        // What another write has put there stays there.
        match well {
            true => file.on_disk |= blocks,
            false => file.failed |= blocks,
        }
    }

    /// A bio is answered.
    pub(super) fn answered(&mut self, path: &Path, bio: BioId, well: bool) {
        self.in_flight.remove(&bio);
        let state = path.bio(bio);
        let (io_end, ino) = (state.io_end, path.io_end(state.io_end).ino);
        let blocks = state.segments.iter().flat_map(|segment| &segment.blocks).fold(0, |mask, lblk| mask | 1 << lblk);
        self.lands(ino, blocks, well);
        self.known(io_end).failed |= !well;
    }

    /// A direct write's data has been dealt with. It may be there, and the write fail all the same.
    pub(super) fn direct_ends(&mut self, path: &Path, iocb: IocbId, blocks: u64, well: bool, failed: bool) {
        let Some(state) = path.state.iocbs.get(&iocb) else { return };
        self.lands(state.ino, blocks, well);
        let carries = path.state.inodes.get(&state.ino).map_or(0, unwritten) & blocks;
        if let Some(io_end) = state.io_end {
            let known = self.known(io_end);
            known.carries |= carries;
            known.failed |= failed;
        }
    }

    pub(super) fn direct_begins(&mut self, iocb: IocbId) {
        self.directs.insert(iocb, Direct { queued: false, completed: false });
    }

    pub(super) fn direct_queued(&mut self, iocb: IocbId) {
        self.directs.entry(iocb).and_modify(|direct| direct.queued = true);
    }

    /// Its caller has been told that it failed, so nothing is promised of these blocks.
    pub(super) fn promises_nothing(&mut self, ino: Ino, blocks: u64) {
        self.files[place(ino)].exempt |= blocks;
    }

    /// What nobody can touch any more is forgotten.
    pub(super) fn keep(&mut self, path: &Path) {
        self.io_ends.retain(|id, _| path.state.io_ends.contains_key(id));
        self.directs.retain(|id, direct| path.state.iocbs.contains_key(id) || direct.queued && !direct.completed);
    }

    /// File number `n` becomes number `order[n]`.
    pub(super) fn rename(&mut self, order: &[u64]) {
        let files = std::mem::replace(&mut self.files, vec![File::default(); order.len()]);
        files.into_iter().zip(order).for_each(|(file, n)| self.files[*n as usize] = file);
    }

    fn known(&mut self, io_end: IoEndId) -> &mut Known {
        self.io_ends.entry(io_end).or_default()
    }

    /// After one move.
    pub(super) fn see(&mut self, before: &Before, events: &[Event], seen: &Seen, broken: &mut Vec<Broken>) {
        let mut writeback = before.writeback.clone();
        for event in events {
            self.event(event, seen, &mut writeback, broken);
        }
        self.taken_from_list(seen, broken);
        self.counters(seen, broken);
    }

    fn event(&mut self, event: &Event, seen: &Seen, writeback: &mut [u64], broken: &mut Vec<Broken>) {
        let mut check = |holds: bool, property, how| {
            if !holds {
                broken.push(Broken { property, how });
            }
        };
        match *event {
            Event::InitIoEnd { io_end, count, .. } => {
                // Before the patch nothing was counted.
                self.known(io_end).submitter = !seen.path.dialect.io_end_per_bio;
                check(count == 1, Property::I1, "an io_end begins with a count other than 1");
            }
            Event::GetIoEnd { io_end, count, bio, .. } => {
                let known = self.known(io_end);
                check(known.holders() > 0, Property::I2, "a reference is taken behind the last put");
                known.bios += u8::from(bio.is_some());
                known.iocb |= bio.is_none();
                check(known.holders() == count, Property::I1, "the count is not the number of holders");
            }
            Event::PutIoEnd { io_end, count, .. } | Event::PutIoEndDefer { io_end, count, .. } => {
                let known = self.known(io_end);
                let held = known.drops(seen.part);
                if !known.released {
                    check(held, Property::I1, "a reference is dropped that its dropper does not hold");
                    check(known.holders() == count, Property::I1, "the count is not the number of holders");
                    check(count != 0 || !known.fell_to_0, Property::I3, "the count falls to 0 a second time");
                }
                known.fell_to_0 |= count == 0;
            }
            Event::SubmitBio { bio, io_end, .. } => {
                self.in_flight.insert(bio);
                let blocks = seen.path.bio(bio).segments.iter().flat_map(|segment| &segment.blocks);
                let blocks = blocks.fold(0, |mask, lblk| mask | 1 << lblk);
                let ino = seen.path.io_end(io_end).ino;
                let carries = seen.path.state.inodes.get(&ino).map_or(0, unwritten) & blocks;
                self.known(io_end).carries |= carries;
            }
            Event::AddCompleteIo { io_end, queued } => {
                let state = seen.path.io_end(io_end);
                let list = seen.path.state.inodes.get(&state.ino).map_or(0, |inode| inode.completed_io_list.len());
                check(queued == (list == 1), Property::I8, "the work is not queued as the list was");
                let number = 1 + self.io_ends.values().filter_map(|known| known.queued_as).max().unwrap_or(0);
                let known = self.known(io_end);
                let due = state.flag.unwritten && known.holders() == 0;
                check(due, Property::I5, "an io_end is queued that is held or not UNWRITTEN");
                known.queued_as = Some(number);
            }
            Event::ConvertUnwritten { ino, io_end, offset, size, result } => {
                self.converted(seen, ino, io_end, (offset, size), result != 0, &mut check);
            }
            Event::ReleaseIoEnd { io_end, .. } => self.released(seen, io_end, &mut check),
            Event::EndPageWriteback { ino, page, .. } => {
                let mask = &mut writeback[place(ino)];
                check(*mask & 1 << page != 0, Property::I11, "a page leaves writeback that is not under writeback");
                *mask &= !(1 << page);
            }
            Event::AioComplete { iocb, .. } => {
                let again =
                    self.directs.get_mut(&iocb).is_none_or(|direct| std::mem::replace(&mut direct.completed, true));
                check(!again, Property::I13, "an asynchronous write is completed a second time");
            }
            Event::Warn { what: "use_after_free", .. } => {
                check(false, Property::I3, "a reference of an io_end is dropped that has been freed");
            }
            Event::Warn { what: "private_not_io_end", .. } => {
                check(false, Property::Warns, "WARN_ON in ext4_ext_direct_IO: the iocb has no io_end any more");
            }
            Event::Warn { .. } => check(false, Property::Warns, "WARN_ON in ext4_ext_direct_IO: UNWRITTEN is set"),
            Event::Bug { what: "not_unwritten", .. } => {
                check(false, Property::I5, "BUG_ON: an io_end that is not UNWRITTEN is queued");
            }
            Event::Bug { what: "unwritten", .. } => {
                check(false, Property::I6, "BUG_ON: an io_end is released with UNWRITTEN set");
            }
            Event::Bug { .. } => check(false, Property::I6, "BUG_ON: an io_end is released while it is on the list"),
            _ => {}
        }
    }

    fn converted(
        &mut self,
        seen: &Seen,
        ino: Ino,
        io_end: Option<IoEndId>,
        range: (u64, u64),
        failed: bool,
        check: &mut impl FnMut(bool, Property, &'static str),
    ) {
        if let Some(id) = io_end {
            let under_way = self.in_flight.iter().any(|bio| seen.path.bio(*bio).io_end == id);
            let known = self.known(id);
            check(known.holders() == 0, Property::I4, "an io_end is converted that somebody holds");
            check(!under_way, Property::I4, "an io_end is converted while a bio of it is under way");
            check(!known.released, Property::I4, "an io_end is converted behind its release");
            check(!known.converted.contains(&range), Property::I4, "an io_end is converted twice");
            known.converted.push(range);
        }
        if failed {
            let bits = seen.path.state.inodes.get(&ino).map_or(12, |inode| inode.block_bits);
            let blocks = mask(range.0 >> bits, (range.0 + range.1).div_ceil(1 << bits));
            // The first range that fails ends it: the kernel says that data may be lost, and tries none behind it.
            let behind = io_end.map_or(0, |id| self.known(id).carries);
            return self.promises_nothing(ino, blocks | behind);
        }
        self.blocks_are_on_disk(seen, ino, check);
    }

    fn blocks_are_on_disk(&self, seen: &Seen, ino: Ino, check: &mut impl FnMut(bool, Property, &'static str)) {
        let file = &self.files[place(ino)];
        let Some(inode) = seen.path.state.inodes.get(&ino) else { return };
        let stale = file.began_unwritten & !unwritten(inode) & !file.on_disk;
        let under_way = self.under_way(seen.path, ino);
        check(stale & file.failed == 0, Property::I9, "a block becomes written whose write failed");
        check(
            stale & !file.failed & under_way == 0,
            Property::I9,
            "a block becomes written before its data is on the disk",
        );
        check(stale & !file.failed & !under_way == 0, Property::I9, "a block becomes written that nobody wrote");
    }

    /// Blocks of bios that have not been answered, or that somebody is about to put into one.
    fn under_way(&self, path: &Path, ino: Ino) -> u64 {
        // Before the patch a bio is there a step before its io_end.
        let of_inode = |io_end| path.state.io_ends.get(io_end).is_some_and(|io_end| io_end.ino == ino);
        let bios = path.state.bios.values().filter(|bio| !bio.answered && of_inode(&bio.io_end));
        let in_bios = bios.flat_map(|bio| &bio.segments).flat_map(|segment| &segment.blocks);
        let folios = path.state.inodes.get(&ino).into_iter().flat_map(|inode| inode.writeback.values());
        in_bios.chain(folios.flat_map(|folio| &folio.async_write)).fold(0, |mask, lblk| mask | 1 << lblk)
    }

    fn released(&mut self, seen: &Seen, id: IoEndId, check: &mut impl FnMut(bool, Property, &'static str)) {
        let after_error = seen.path.has(Bug::ConvertAfterError);
        let ino = seen.path.io_end(id).ino;
        let known = self.known(id);
        let owed = known.carries != 0 && known.converted.is_empty();
        let kept = known.failed && !after_error;
        check(!known.released, Property::I6, "an io_end is released a second time");
        check(!owed || kept, Property::I4, "an io_end that carried unwritten blocks is released without a conversion");
        known.released = true;
        let (failed, carries) = (kept, known.carries);
        if failed {
            self.promises_nothing(ino, carries);
        }
    }

    /// I15: those that the same thread has still to take were queued later.
    fn taken_from_list(&mut self, seen: &Seen, broken: &mut Vec<Broken>) {
        let Tally { io_ends, .. } = self;
        let taken = io_ends.iter().find(|(id, known)| known.queued_as.is_some() && !seen.path.io_end(**id).listed);
        let Some((id, number)) = taken.map(|(id, known)| (*id, known.queued_as)) else { return };
        let stacks = seen.mover.into_iter().flat_map(|slot| &slot.thread.stack);
        let left = stacks.filter_map(|frame| match frame {
            Frame::DoFlushCompletedIo { at: FlushCompleted::Next(left, _) } => Some(left),
            _ => None,
        });
        if left.flatten().any(|later| io_ends.get(later).is_some_and(|later| later.queued_as < number)) {
            broken.push(Broken { property: Property::I15, how: "an io_end is taken before one that was queued first" });
        }
        self.known(id).queued_as = None;
    }

    /// Counters between two steps of the functions that change a flag and count it.
    fn counters(&self, seen: &Seen, broken: &mut Vec<Broken>) {
        let counting = |slot: &Slot| slot.thread.stack.iter().any(Frame::changes_flag);
        let settled = !seen.slots.iter().any(counting);
        for (ino, inode) in &seen.path.state.inodes {
            let mut check = |holds: bool, property, how| {
                if !holds {
                    broken.push(Broken { property, how });
                }
            };
            let alive = || seen.path.state.io_ends.values().filter(|io_end| io_end.ino == *ino && !io_end.released);
            let unwritten = alive().filter(|io_end| io_end.flag.unwritten).count() as i64;
            let (more, less) = (inode.i_unwritten > unwritten, inode.i_unwritten < unwritten);
            check(!settled || !more, Property::I7, "i_unwritten counts an io_end that is not UNWRITTEN");
            check(!settled || !less, Property::I7, "an io_end is UNWRITTEN that i_unwritten does not count");
            let living = alive().count() as i64;
            check(inode.i_ioend_count == living, Property::I7, "i_ioend_count is not the number of io_ends");
            check(inode.i_dio_count >= 0, Property::I12, "i_dio_count is below 0");
        }
    }

    /// Nothing is under way: then nothing may be left over.
    pub(super) fn at_rest(&self, path: &Path, slots: &[Slot], broken: &mut Vec<Broken>) {
        let mut check = |holds: bool, property, how| {
            if !holds {
                broken.push(Broken { property, how });
            }
        };
        for (file, inode) in self.files.iter().zip(path.state.inodes.values()) {
            check(inode.pages.values().all(|page| !page.locked), Property::I14, "a page stays locked for ever");
            check(inode.writeback.is_empty(), Property::I11, "a page stays under writeback for ever");
            check(inode.i_ioend_count == 0, Property::I7, "an io_end is never released");
            check(
                inode.completed_io_list.is_empty(),
                Property::I8,
                "an io_end stays on the list, and no work is queued",
            );
            check(inode.i_dio_count == 0, Property::I12, "i_dio_count does not come back to 0");
            let lost = file.began_unwritten & file.on_disk & !file.exempt & unwritten(inode);
            check(lost == 0, Property::I10, "a block that was written is never converted: it reads as zeros");
        }
        let complete = self.directs.values().all(|direct| !direct.queued || direct.completed);
        check(complete, Property::I13, "an asynchronous write is never completed");
        for slot in slots {
            check(false, Property::Waits, slot.part.waits_for(path, slot.ino));
        }
    }
}

impl Known {
    fn holders(&self) -> i32 {
        i32::from(self.submitter) + i32::from(self.iocb) + i32::from(self.bios)
    }

    /// Whoever drops a reference had one; what it was in the midst of says which.
    fn drops(&mut self, part: Option<Part>) -> bool {
        match part {
            Some(Part::EndBio(_)) => {
                let held = self.bios > 0;
                self.bios = self.bios.saturating_sub(1);
                held
            }
            Some(Part::EndDirect(_) | Part::DirectEnd { .. }) => std::mem::take(&mut self.iocb),
            Some(Part::DirectReturn { own_put: true }) => std::mem::take(&mut self.iocb),
            _ => std::mem::take(&mut self.submitter),
        }
    }
}

impl Frame {
    fn changes_flag(&self) -> bool {
        matches!(
            self,
            Frame::SetIoUnwrittenFlag { .. } | Frame::ClearIoUnwrittenFlag { .. } | Frame::SetErrorFlag { .. }
        )
    }
}

/// Blocks `first..end`.
pub(super) fn mask(first: u64, end: u64) -> u64 {
    (first..end.min(64)).fold(0, |mask, lblk| mask | 1 << lblk)
}

fn unwritten(inode: &Inode) -> u64 {
    let extents = inode.extents.iter().filter(|extent| extent.unwritten);
    extents.fold(0, |blocks, extent| blocks | mask(extent.lblk, extent.lblk + u64::from(extent.len)))
}

fn writeback(inode: &Inode) -> u64 {
    debug_assert!(inode.size <= 64 * PAGE_BYTES, "a page is a bit");
    inode.writeback.keys().fold(0, |mask, page| mask | 1 << page)
}
