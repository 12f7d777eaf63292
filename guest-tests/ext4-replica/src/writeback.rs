//! Writeback from pages to bios: `mpage_da_submit_io`, `ext4_writepage`, `ext4_writepages`, `ext4_bio_write_page`,
//! `io_submit_add_bh` (fs/ext4/inode.c and page-io.c), as steps.
//!
//! How many segments a bio may have is the device's answer as of the bio's birth; nothing else here is decided outside.
//! A thread that follows a guest's trace has no `ext4_io_submit` of its own: it only marks buffers, and its bios begin
//! and end where the trace says.

use crate::bug::Bug;
use crate::cause::Cause;
use crate::dialect::Range;
use crate::event::Event;
use crate::mutation::Mutation;
use crate::page_io::{ENOMEM, Path, add_to_list_vec};
use crate::state::{Bio, Buffer, Inode, IoEndVec, PAGE_BYTES, Segment};
use crate::thread::{Frame, IoSubmit, OrFlag, Put, Thread};
use std::collections::{BTreeSet, VecDeque};
use writeback_events::{BioId, Ino, IoEndId};

/// `BIO_MAX_PAGES`.
const BIO_MAX_PAGES: u32 = 256;

/// The function that hands pages over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Submitter {
    /// `mpage_da_submit_io`, or from 3.11 on one round of `ext4_writepages`.
    Range { first: u64, next: u64 },
    /// `ext4_writepage`.
    Page(u64),
}

/// Steps of a submitter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SubmitAt {
    Enter,
    Lock,
    Init,
    Map,
    /// Pages left, and the first error.
    Pages(VecDeque<u64>, i64),
    LastBio(i64),
    Put(i64),
    Return(i64),
}

/// Steps of `ext4_bio_write_page`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum BioWritePage {
    LookAtBuffers,
    MarkBuffers(BTreeSet<u64>),
    /// The blocks to add, and which of them is next.
    AddBuffer(Vec<u64>, usize),
    Unlock {
        submitted: bool,
        ret: i64,
    },
    EndIfNothingSubmitted,
}

/// Steps of `io_submit_add_bh`. What the thread alone can see (its open bio, a buffer of a page it has locked) is no step of
/// its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum AddBh {
    Enter,
    Bio,
    FillBio,
    /// Of a buffer that was counted before it is added.
    AddPage,
    Count {
        /// The bio has taken the buffer.
        added: bool,
    },
}

impl Thread {
    /// A thread that enters a submitter.
    pub(crate) fn submitting(by: Submitter, ino: Ino, sync: bool, fail_alloc: bool) -> Thread {
        let mut thread = Thread::calling(Frame::Submit { by, ino, at: SubmitAt::Enter });
        thread.io = Some(IoSubmit { sync, ..IoSubmit::default() });
        thread.fail_alloc = fail_alloc;
        thread
    }
}

impl Path {
    /// From 3.11 on the io_end is asked for before a page is locked, save by `ext4_writepage`.
    pub(crate) fn submit_pages(&mut self, thread: &mut Thread, by: Submitter, ino: Ino, at: SubmitAt) {
        let late_lock = self.dialect.maps_in_writepages && matches!(by, Submitter::Range { .. });
        let go = |thread: &mut Thread, at| thread.call(Frame::Submit { by, ino, at });
        match at {
            SubmitAt::Enter => match by {
                Submitter::Range { first, next } if next <= first && !late_lock => {
                    self.bug("mpage_da_submit_io", "empty_range");
                }
                _ if late_lock => go(thread, SubmitAt::Init),
                _ => go(thread, SubmitAt::Lock),
            },
            SubmitAt::Lock => {
                thread.taken = self.lock_pages(ino, by);
                let nothing = thread.taken.is_empty() && matches!(by, Submitter::Page(_));
                if !nothing {
                    let at = if late_lock { SubmitAt::Map } else { SubmitAt::Init };
                    thread.call(Frame::Submit { by, ino, at });
                }
            }
            SubmitAt::Init => self.init_for_pages(thread, by, ino, late_lock),
            SubmitAt::Map => {
                let pages = thread.taken.iter().copied().collect();
                thread.call(Frame::Submit { by, ino, at: SubmitAt::Pages(pages, 0) });
                if self.dialect.maps_in_writepages {
                    self.mpage_map_extents(thread, ino);
                }
            }
            SubmitAt::Pages(mut pages, ret) => {
                let first_error = if ret == 0 { std::mem::take(&mut thread.ret) } else { ret };
                match pages.pop_front() {
                    Some(page) => {
                        thread.ret = 0;
                        thread.call(Frame::Submit { by, ino, at: SubmitAt::Pages(pages, first_error) });
                        thread.call(Frame::BioWritePage { ino, page, at: BioWritePage::LookAtBuffers });
                    }
                    None => thread.call(Frame::Submit { by, ino, at: SubmitAt::LastBio(first_error) }),
                }
            }
            SubmitAt::LastBio(ret) => {
                go(thread, SubmitAt::Put(ret));
                self.call_io_submit(thread, ino);
            }
            SubmitAt::Put(ret) => {
                go(thread, SubmitAt::Return(ret));
                self.call_own_put(thread);
            }
            SubmitAt::Return(ret) => thread.ret = ret,
        }
    }

    /// Pages that exist, have a dirty buffer and are neither locked nor under writeback.
    fn lock_pages(&mut self, ino: Ino, by: Submitter) -> Vec<u64> {
        let (first, next) = match by {
            Submitter::Range { first, next } => (first, next.max(first)),
            Submitter::Page(page) => (page, page.saturating_add(1)),
        };
        let Inode { pages, writeback, .. } = self.inode(ino);
        let mut taken = Vec::new();
        for (index, page) in pages.range_mut(first..next) {
            let dirty = page.buffers.iter().any(|buffer| buffer.dirty);
            if dirty && !page.locked && !writeback.contains_key(index) {
                page.locked = true;
                taken.push(*index);
            }
        }
        taken
    }

    fn init_for_pages(&mut self, thread: &mut Thread, by: Submitter, ino: Ino, late_lock: bool) {
        if self.dialect.io_end_per_bio {
            return thread.call(Frame::Submit { by, ino, at: SubmitAt::Map });
        }
        match self.alloc_io_end(thread, ino) {
            Some(io_end) => {
                thread.io().io_end = Some(io_end);
                let at = if late_lock { SubmitAt::Lock } else { SubmitAt::Map };
                thread.call(Frame::Submit { by, ino, at });
                thread.call(Frame::InitIoEnd { io_end, ino });
            }
            None => {
                thread.ret = ENOMEM;
                if self.has(Bug::EnomemLockLeak) && !thread.taken.is_empty() {
                    self.acts(Bug::EnomemLockLeak);
                }
                self.give_pages_back(ino, by, &thread.taken);
            }
        }
    }

    /// Without an io_end nothing is written. `ext4_writepage` has always made its page dirty again; that the pages must also
    /// be unlocked was seen later.
    fn give_pages_back(&mut self, ino: Ino, by: Submitter, taken: &[u64]) {
        let leak = self.has(Bug::EnomemLockLeak);
        for page in taken {
            if !leak || matches!(by, Submitter::Page(_)) {
                self.tell(Event::RedirtyPage { ino, page: *page });
            }
            if !leak {
                self.unlock_page(ino, *page);
            }
        }
    }

    fn unlock_page(&mut self, ino: Ino, page: u64) {
        if let Some(page) = self.inode(ino).pages.get_mut(&page) {
            page.locked = false;
        }
    }

    /// `mpage_map_and_submit_extent` from 3.11 on: what is unwritten becomes part of the io_end before its first bio is opened,
    /// and its buffers need no conversion of their own any more.
    fn mpage_map_extents(&mut self, thread: &mut Thread, ino: Ino) {
        let Some(io_end) = thread.io().io_end else { return };
        let mut unwritten = false;
        for page in &thread.taken {
            let blocks = self.inode(ino).uninit_blocks(*page);
            unwritten |= !blocks.is_empty();
            self.extend_range(ino, io_end, &blocks);
            if !self.has(Bug::StickyUninit) {
                blocks.iter().for_each(|lblk| self.inode(ino).buffer(*lblk).uninit = false);
            }
        }
        if unwritten {
            thread.call(Frame::SetIoUnwrittenFlag { io_end, at: OrFlag::Test });
        }
    }

    fn extend_range(&mut self, ino: Ino, io_end: IoEndId, blocks: &[u64]) {
        let bits = self.inode(ino).block_bits;
        let (sum, rule) = (self.has(Bug::RangeSum), self.dialect.range);
        let IoEndLists { range, list_vec } = IoEndLists::of(self, io_end);
        match (blocks.first(), rule) {
            (None, _) => {}
            // Then each buffer counts as it is added.
            (Some(_), _) if sum => {}
            (Some(first), Range::MappedPages) => {
                range.offset = if range.size == 0 { first << bits } else { range.offset };
                let starts_there = first << bits == range.offset + range.size;
                range.size += PAGE_BYTES;
                if !starts_there || blocks.len() << bits != PAGE_BYTES as usize {
                    self.acted.add(Cause::MappedPages);
                }
            }
            (Some(_), Range::Vec) => blocks.iter().for_each(|lblk| add_to_list_vec(list_vec, lblk << bits, 1 << bits)),
        }
    }

    /// All buffers are marked before the first one is added, so that an early end of a bio finds the others still
    /// under way. A folio of which nothing is written leaves writeback at once.
    pub(crate) fn ext4_bio_write_page(&mut self, thread: &mut Thread, ino: Ino, page: u64, at: BioWritePage) {
        match at {
            BioWritePage::LookAtBuffers => {
                let (marked, gap) = self.inode(ino).look_at_buffers(page);
                thread.call(Frame::BioWritePage { ino, page, at: BioWritePage::MarkBuffers(marked) });
                if gap && self.dialect.hole_ends_bio {
                    self.call_io_submit(thread, ino);
                }
            }
            BioWritePage::MarkBuffers(marked) => {
                let first_only = self.planted(Mutation::MarksFirstBufferOnly);
                let blocks: Vec<u64> = if thread.io.is_some() { marked.iter().copied().collect() } else { Vec::new() };
                let at = match marked.is_empty() || thread.io.is_none() {
                    true => BioWritePage::Unlock { submitted: !marked.is_empty(), ret: 0 },
                    false => BioWritePage::AddBuffer(blocks, 0),
                };
                let marked = if first_only { marked.into_iter().take(1).collect() } else { marked };
                self.inode(ino).writeback.entry(page).or_default().async_write = marked;
                thread.call(Frame::BioWritePage { ino, page, at });
            }
            BioWritePage::AddBuffer(blocks, next) => self.add_buffer(thread, ino, page, blocks, next),
            BioWritePage::Unlock { submitted, ret } => {
                if !self.planted(Mutation::PageStaysLocked) {
                    self.unlock_page(ino, page);
                }
                thread.ret = ret;
                if !submitted && !self.planted(Mutation::EmptyFolioStays) {
                    thread.call(Frame::BioWritePage { ino, page, at: BioWritePage::EndIfNothingSubmitted });
                }
            }
            BioWritePage::EndIfNothingSubmitted => self.folio_end_writeback(ino, page),
        }
    }

    /// Once a buffer could not be added (no memory for its io_end), it and those behind it are no longer marked.
    fn add_buffer(&mut self, thread: &mut Thread, ino: Ino, page: u64, blocks: Vec<u64>, next: usize) {
        let failed = std::mem::take(&mut thread.ret);
        if failed != 0 {
            self.tell(Event::RedirtyPage { ino, page });
            let all_ended = next > 1 && self.unmark_buffers(ino, page, &blocks[next - 1..]);
            let leak = all_ended && self.has(Bug::EnomemWritebackLeak);
            if leak {
                self.acts(Bug::EnomemWritebackLeak);
            }
            let at = BioWritePage::Unlock { submitted: next > 1 && (leak || !all_ended), ret: failed };
            return thread.call(Frame::BioWritePage { ino, page, at });
        }
        match blocks.get(next).copied() {
            Some(lblk) => {
                thread.call(Frame::BioWritePage { ino, page, at: BioWritePage::AddBuffer(blocks, next + 1) });
                thread.call(Frame::IoSubmitAddBh { ino, lblk, at: AddBh::Enter });
            }
            None => {
                let at = BioWritePage::Unlock { submitted: true, ret: 0 };
                thread.call(Frame::BioWritePage { ino, page, at });
            }
        }
    }

    /// Whether no other buffer of the page is under way: then no bio will end the page's writeback any more.
    fn unmark_buffers(&mut self, ino: Ino, page: u64, blocks: &[u64]) -> bool {
        let Some(folio) = self.inode(ino).writeback.get_mut(&page) else { return false };
        blocks.iter().for_each(|lblk| {
            folio.async_write.remove(lblk);
        });
        folio.async_write.is_empty()
    }

    /// Which blocks follow each other on the disk alone decides whether the open bio goes on.
    pub(crate) fn io_submit_add_bh(&mut self, thread: &mut Thread, ino: Ino, lblk: u64, at: AddBh) {
        match at {
            AddBh::Enter => {
                let pblk = self.inode(ino).buffer(lblk).pblk;
                let IoSubmit { io_bio, io_next_block, .. } = *thread.io();
                if io_bio.is_none() {
                    self.io_submit_init_bio(thread, ino, lblk);
                } else if pblk == Some(io_next_block) {
                    self.add_to_bio(thread, ino, lblk);
                } else {
                    self.submit_and_retry(thread, ino, lblk);
                }
            }
            AddBh::Bio => self.io_submit_init_bio(thread, ino, lblk),
            AddBh::FillBio => {
                self.fill_bio(thread, ino, lblk);
                self.add_to_bio(thread, ino, lblk);
            }
            AddBh::AddPage if self.bio_add_page(thread, ino, lblk) => self.buffer_added(ino, lblk),
            AddBh::AddPage => self.submit_and_retry(thread, ino, lblk),
            AddBh::Count { added } => {
                self.count_in(thread, ino, lblk);
                if added {
                    self.buffer_added(ino, lblk);
                }
            }
        }
    }

    fn submit_and_retry(&mut self, thread: &mut Thread, ino: Ino, lblk: u64) {
        if !self.planted(Mutation::RetryForgetsBuffer) {
            thread.call(Frame::IoSubmitAddBh { ino, lblk, at: AddBh::Bio });
        }
        self.call_io_submit(thread, ino);
    }

    /// Added, then counted into the io_end; before the patch the other way round, and counted even if there is no room.
    fn add_to_bio(&mut self, thread: &mut Thread, ino: Ino, lblk: u64) {
        let count_first = self.has(Bug::InflatedRange);
        let clear_early = self.has(Bug::UninitClearedEarly);
        let flag_lost = self.planted(Mutation::BufferFlagLost);
        let buffer = self.inode(ino).buffer(lblk);
        let uninit = buffer.uninit && !flag_lost;
        buffer.uninit &= !clear_early;
        if (count_first || clear_early && uninit) && !self.has_room(thread, ino, lblk) {
            self.too_early(count_first, clear_early && uninit);
        }
        if !count_first && !self.bio_add_page(thread, ino, lblk) {
            return self.submit_and_retry(thread, ino, lblk);
        }
        if count_first {
            thread.call(Frame::IoSubmitAddBh { ino, lblk, at: AddBh::AddPage });
        }
        thread.call(Frame::IoSubmitAddBh { ino, lblk, at: AddBh::Count { added: !count_first } });
        if let (true, Some(io_end)) = (uninit, thread.io().io_end) {
            thread.call(Frame::SetIoUnwrittenFlag { io_end, at: OrFlag::Test });
        }
    }

    /// The bio will refuse a buffer that has been counted, or whose `uninit` is gone, already.
    fn too_early(&mut self, counted: bool, cleared: bool) {
        if counted {
            self.acts(Bug::InflatedRange);
        }
        if cleared {
            self.acts(Bug::UninitClearedEarly);
        }
    }

    fn buffer_added(&mut self, ino: Ino, lblk: u64) {
        let sticky = self.has(Bug::StickyUninit);
        let buffer = self.inode(ino).buffer(lblk);
        buffer.dirty = false;
        buffer.uninit &= sticky;
    }

    /// Before the patch (`io_submit_init`) each bio had an io_end of its own, and it is here that memory ran out.
    fn io_submit_init_bio(&mut self, thread: &mut Thread, ino: Ino, lblk: u64) {
        let per_bio = self.dialect.io_end_per_bio;
        if per_bio {
            thread.io().io_end = self.alloc_io_end(thread, ino);
        }
        let Some(io_end) = thread.io().io_end else {
            thread.ret = ENOMEM;
            return;
        };
        self.state.born.bios += 1;
        let bio = BioId(self.state.born.bios);
        thread.io().io_bio = Some(bio);
        thread.call(Frame::IoSubmitAddBh { ino, lblk, at: AddBh::FillBio });
        if per_bio {
            self.state.bios.insert(bio, Bio::of(io_end));
            thread.call(Frame::InitIoEnd { io_end, ino });
        } else {
            thread.call(Frame::GetIoEnd { io_end, bio });
        }
    }

    fn fill_bio(&mut self, thread: &mut Thread, ino: Ino, lblk: u64) {
        let bits = self.inode(ino).block_bits;
        let pblk = self.inode(ino).buffer(lblk).pblk.expect("only a mapped buffer is marked");
        let max_segments = self.state.max_pages.min(BIO_MAX_PAGES);
        let io = thread.io();
        io.io_next_block = pblk;
        if let Some(bio) = io.io_bio {
            let bio = self.bio_mut(bio);
            (bio.pblk, bio.max_segments) = (pblk, max_segments);
        }
        if let (Some(io_end), true) = (io.io_end, self.has(Bug::RangeSum)) {
            let range = &mut self.io_end_mut(io_end).range;
            if range.size == 0 {
                range.offset = lblk << bits;
            }
        }
    }

    /// A buffer right behind the last segment, in the same page, lengthens it; any other takes a new one, if there is room.
    fn bio_add_page(&mut self, thread: &mut Thread, ino: Ino, lblk: u64) -> bool {
        if !self.has_room(thread, ino, lblk) {
            return false;
        }
        let inode = self.inode(ino);
        let (page, bytes) = (lblk / inode.blocks_per_page(), 1 << inode.block_bits);
        let bio = thread.io().io_bio.expect("an open bio has room");
        let bio = self.bio_mut(bio);
        match bio.segments.last_mut() {
            Some(last) if last.goes_on(page, lblk) => last.blocks.push(lblk),
            _ => bio.segments.push(Segment { page, blocks: vec![lblk] }),
        }
        bio.bytes += bytes;
        true
    }

    fn has_room(&mut self, thread: &mut Thread, ino: Ino, lblk: u64) -> bool {
        let page = lblk / self.inode(ino).blocks_per_page();
        let Some(bio) = thread.io().io_bio else { return false };
        let bio = self.bio(bio);
        let room = bio.segments.len() < bio.max_segments as usize;
        room || bio.segments.last().is_some_and(|last| last.goes_on(page, lblk))
    }

    /// The io_end grows by the buffer.
    fn count_in(&mut self, thread: &mut Thread, ino: Ino, lblk: u64) {
        let bits = self.inode(ino).block_bits;
        let (sum, mapped_before) = (self.has(Bug::RangeSum), self.dialect.maps_in_writepages);
        let io = thread.io();
        io.io_next_block += 1;
        let Some(io_end) = io.io_end else { return };
        if self.planted(Mutation::BufferNotCounted) {
            return;
        }
        let IoEndLists { range, list_vec } = IoEndLists::of(self, io_end);
        if sum {
            let elsewhere = lblk << bits != range.offset + range.size;
            range.size += 1 << bits;
            if elsewhere {
                self.acts(Bug::RangeSum);
            }
        } else if !mapped_before {
            add_to_list_vec(list_vec, lblk << bits, 1 << bits);
        }
    }

    /// `ext4_io_submit` of the open bio, if there is one.
    fn call_io_submit(&mut self, thread: &mut Thread, ino: Ino) {
        let bits = self.inode(ino).block_bits;
        let per_bio = self.dialect.io_end_per_bio;
        let io = thread.io();
        let Some(bio) = io.io_bio.take() else { return };
        io.first_submitted.get_or_insert(bio);
        if per_bio {
            io.io_end = None;
        }
        let sync = io.sync;
        let Bio { pblk, bytes, .. } = *self.bio(bio);
        thread.call(Frame::IoSubmit { bio, sector: pblk << (bits - 9), bytes, sync });
    }

    /// The submitter's own reference.
    fn call_own_put(&self, thread: &mut Thread) {
        let Some(io_end) = thread.io().io_end.take().filter(|_| !self.planted(Mutation::OwnPutSkipped)) else { return };
        // The io_end of pages that need no mapping is dropped while the handle of the last round may still be held.
        let inline = self.dialect.writepages_puts && self.io_end(io_end).flag.unwritten;
        thread.call(match inline {
            true => Frame::PutIoEnd { io_end, at: Put::DecAndTest },
            false => Frame::PutIoEndDefer { io_end, at: Put::DecAndTest },
        });
    }
}

/// The two ways in which an io_end knows its blocks.
struct IoEndLists<'a> {
    range: &'a mut IoEndVec,
    list_vec: &'a mut Vec<IoEndVec>,
}

impl IoEndLists<'_> {
    fn of(path: &mut Path, io_end: IoEndId) -> IoEndLists<'_> {
        let io_end = path.io_end_mut(io_end);
        IoEndLists { range: &mut io_end.range, list_vec: &mut io_end.list_vec }
    }
}

impl Segment {
    /// A block lies right behind this segment, in its page.
    fn goes_on(&self, page: u64, lblk: u64) -> bool {
        self.page == page && self.blocks.last().is_some_and(|last| last + 1 == lblk)
    }
}

impl Inode {
    /// The page's writeback begins. What lies behind the file's end or has no block needs no writing and becomes clean; the
    /// second value says whether a buffer in the file needs none.
    fn look_at_buffers(&mut self, page: u64) -> (BTreeSet<u64>, bool) {
        self.writeback.insert(page, crate::state::Folio::default());
        let (mut marked, mut gap) = (BTreeSet::new(), false);
        let buffers: Vec<_> = self.buffers_of(page).collect();
        for (lblk, Buffer { dirty, pblk, .. }) in buffers {
            let behind_the_end = self.behind_the_end(page, lblk);
            if !behind_the_end && dirty && pblk.is_some() {
                marked.insert(lblk);
                continue;
            }
            gap |= !behind_the_end;
            let buffer = self.buffer(lblk);
            buffer.dirty &= !behind_the_end && pblk.is_some();
        }
        (marked, gap)
    }

    fn behind_the_end(&self, page: u64, lblk: u64) -> bool {
        page == self.size / PAGE_BYTES && lblk << self.block_bits >= self.size
    }

    /// Blocks of a page that are about to be written for the first time.
    fn uninit_blocks(&self, page: u64) -> Vec<u64> {
        let needs = |(lblk, buffer): &(u64, Buffer)| buffer.dirty && buffer.uninit && !self.behind_the_end(page, *lblk);
        self.buffers_of(page).filter(needs).map(|(lblk, _)| lblk).collect()
    }

    /// Makes the unwritten blocks of a range written.
    pub(crate) fn convert(&mut self, IoEndVec { offset, size }: IoEndVec) {
        let end = offset.saturating_add(size).div_ceil(1 << self.block_bits);
        self.extents.convert(offset >> self.block_bits, end);
    }
}
