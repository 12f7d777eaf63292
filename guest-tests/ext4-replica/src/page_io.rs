//! The kernel functions of the path (fs/ext4/page-io.c and its callers in inode.c, v6.1), each as a sequence of steps.
//!
//! [`Path::step`] takes one step of one thread: one access to shared state, what the kernel does under one lock, or by one
//! atomic operation, being one access, and a plain read-modify-write of a flag two. Between two steps any other thread may
//! step; who does is for a driver to say. Here is the life of an io_end and of a bio that has been submitted; how pages
//! get into bios is in `writeback.rs`, direct I/O in `direct_io.rs`.

use crate::bug::Bug;
use crate::cause::{Cause, Causes};
use crate::dialect::{Dialect, DirectIo, FinishErrno, Range};
use crate::event::Event;
use crate::mutation::Mutation;
use crate::state::{Bio, Flag, Inode, IoEnd, IoEndVec, Segment, State};
use crate::thread::{
    Convert, EndBio, EndIoEnd, FinishBio, FlushCompleted, Frame, OrFlag, Progress, Put, Release, Thread,
};
use writeback_events::{BioId, Errno, Ino, IoEndId};

/// -EIO, as the kernel has it.
pub(crate) const EIO: Errno = -5;
/// -ENOMEM.
pub(crate) const ENOMEM: i64 = -12;

/// The path: shared state, and the one implementation of every function on it.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    pub(crate) state: State,
    pub(crate) dialect: Dialect,
    block_bytes: u64,
    /// The file system is mounted with data_err=abort. Where the dialect has [`Dialect::data_err_abort`], that is carried out.
    pub(crate) data_err_abort: bool,
    /// The worker, or a last put, has aborted the journal over a failed bio.
    pub(crate) journal_aborted: bool,
    /// What happened since it was last taken. No part of the state.
    pub(crate) events: Vec<Event>,
    /// What has made a difference so far.
    pub(crate) acted: Causes,
}

impl Path {
    /// `block_bytes` is that of a trace's file system; inodes that a driver creates have their own.
    pub(crate) fn new(dialect: Dialect, mutation: Option<Mutation>, block_bytes: u64) -> Path {
        let dialect = Dialect { mutation: mutation.or(dialect.mutation), ..dialect };
        let (data_err_abort, journal_aborted) = (false, false);
        let (state, events, acted) = (State::default(), Vec::new(), Causes::default());
        Path { state, dialect, block_bytes, data_err_abort, journal_aborted, events, acted }
    }

    pub(crate) fn planted(&self, mutation: Mutation) -> bool {
        self.dialect.mutation == Some(mutation)
    }

    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.dialect.has(bug)
    }

    /// This defect makes a difference here.
    pub(crate) fn acts(&mut self, bug: Bug) {
        self.acted.add(Cause::Defect(bug));
    }

    pub(crate) fn tell(&mut self, event: Event) {
        self.events.push(event);
    }

    /// BUG_ON: nothing steps any more.
    pub(crate) fn bug(&mut self, function: &'static str, what: &'static str) {
        self.tell(Event::Bug { function, what });
        self.state.dead = true;
    }

    /// Steps `thread` until it is done or must wait.
    pub(crate) fn run(&mut self, thread: &mut Thread) {
        while self.step(thread) == Progress::Stepped {}
    }

    /// Takes one step of `thread`.
    pub(crate) fn step(&mut self, thread: &mut Thread) -> Progress {
        if self.state.dead {
            return Progress::Done;
        }
        let Some(frame) = thread.stack.pop() else { return Progress::Done };
        match frame {
            Frame::InitIoEnd { io_end, ino } => self.ext4_init_io_end(io_end, ino),
            Frame::SetIoUnwrittenFlag { io_end, at } => self.ext4_set_io_unwritten_flag(thread, io_end, at),
            Frame::Submit { by, ino, at } => self.submit_pages(thread, by, ino, at),
            Frame::BioWritePage { ino, page, at } => self.ext4_bio_write_page(thread, ino, page, at),
            Frame::IoSubmitAddBh { ino, lblk, at } => self.io_submit_add_bh(thread, ino, lblk, at),
            Frame::GetIoEnd { io_end, bio } => self.ext4_get_io_end(io_end, bio),
            Frame::IoSubmit { bio, sector, bytes, sync } => self.ext4_io_submit(bio, sector, bytes, sync),
            Frame::EndBio { bio, at } => self.ext4_end_bio(thread, bio, at),
            Frame::SetErrorFlag { io_end, at } => self.set_error_flag(thread, io_end, at),
            Frame::FinishBio { bio, segment, at } => self.ext4_finish_bio(thread, bio, segment, at),
            Frame::PutIoEndDefer { io_end, at } => self.ext4_put_io_end_defer(thread, io_end, at),
            Frame::PutIoEnd { io_end, at } => self.ext4_put_io_end(thread, io_end, at),
            Frame::AddCompleteIo { io_end } => self.ext4_add_complete_io(io_end),
            Frame::EndIoRsvWork { ino } => self.ext4_end_io_rsv_work(thread, ino),
            Frame::DoFlushCompletedIo { at } => self.ext4_do_flush_completed_io(thread, at),
            Frame::EndIoEnd { io_end, at } => self.ext4_end_io_end(thread, io_end, at),
            Frame::ConvertUnwrittenIoEndVec { io_end, next } => {
                self.ext4_convert_unwritten_io_end_vec(thread, io_end, next);
            }
            Frame::ConvertUnwrittenExtents { ino, io_end, range, at } => {
                return self.ext4_convert_unwritten_extents(thread, ino, io_end, range, at);
            }
            Frame::ClearIoUnwrittenFlag { io_end, at } => self.ext4_clear_io_unwritten_flag(thread, io_end, at),
            Frame::ReleaseIoEnd { io_end, at } => self.ext4_release_io_end(thread, io_end, at),
            Frame::InodeDioDone { ino } => self.inode_dio_done(ino),
            Frame::AioComplete { iocb, result } => self.tell(Event::AioComplete { iocb, result }),
            Frame::DirectIo { write, at } => self.ext4_ext_direct_io(thread, write, at),
            Frame::EndIoDio { end, at } => self.ext4_end_io_dio(thread, end, at),
            Frame::DirectIoReturn { iocb, ret, at } => self.ext4_ext_direct_io_returns(thread, iocb, ret, at),
        }
        Progress::Stepped
    }

    /// A number for the io_end that is to be allocated, or none if the allocation fails.
    pub(crate) fn alloc_io_end(&mut self, thread: &mut Thread, ino: Ino) -> Option<IoEndId> {
        if std::mem::take(&mut thread.fail_alloc) {
            self.tell(Event::AllocFailed { ino });
            return None;
        }
        self.state.born.io_ends += 1;
        Some(IoEndId(self.state.born.io_ends))
    }

    fn ext4_init_io_end(&mut self, io_end: IoEndId, ino: Ino) {
        let count = if self.planted(Mutation::BornWithTwo) { 2 } else { 1 };
        let inode = self.inode(ino);
        inode.i_ioend_count += 1;
        let i_ioend_count = inode.i_ioend_count;
        let mut new = IoEnd::new(ino, count);
        new.flag.unwritten = self.planted(Mutation::BornUnwritten);
        self.state.io_ends.insert(io_end, new);
        self.tell(Event::InitIoEnd { io_end, ino, count, i_ioend_count });
    }

    /// In the older kernels called for each buffer that needs it (`io_submit_add_bh`), later once the extent is mapped and
    /// before any bio of it is opened (`mpage_map_one_extent`).
    fn ext4_set_io_unwritten_flag(&mut self, thread: &mut Thread, io_end: IoEndId, at: OrFlag) {
        let next = match at {
            OrFlag::Test if self.io_end(io_end).flag.unwritten => return,
            OrFlag::Test => OrFlag::Read,
            OrFlag::Read | OrFlag::Write(_) => {
                let set = !self.planted(Mutation::UnwrittenFlagLost);
                self.change_flag(io_end, at, |flag| flag.unwritten = set).unwrap_or(OrFlag::Count)
            }
            OrFlag::Count => return self.count_unwritten(io_end, 1),
        };
        thread.call(Frame::SetIoUnwrittenFlag { io_end, at: next });
    }

    /// One half of a plain change of `flag`, and which half comes next; or all of it at once where it is atomic.
    fn change_flag(&mut self, io_end: IoEndId, at: OrFlag, change: impl FnOnce(&mut Flag)) -> Option<OrFlag> {
        let mut flag = match at {
            OrFlag::Write(read) => read,
            _ => self.io_end(io_end).flag,
        };
        if matches!(at, OrFlag::Read) && self.has(Bug::RacyFlag) {
            return Some(OrFlag::Write(flag));
        }
        if flag != self.io_end(io_end).flag {
            self.acts(Bug::RacyFlag);
        }
        change(&mut flag);
        self.io_end_mut(io_end).flag = flag;
        None
    }

    fn count_unwritten(&mut self, io_end: IoEndId, by: i64) {
        let keep = by < 0 && self.planted(Mutation::UnwrittenNotLowered);
        let ino = self.io_end(io_end).ino;
        let inode = self.inode(ino);
        inode.i_unwritten += if keep { 0 } else { by };
        let i_unwritten = inode.i_unwritten;
        self.tell(match by {
            1 => Event::SetUnwritten { io_end, i_unwritten },
            _ => Event::ClearUnwritten { io_end, i_unwritten },
        });
    }

    /// Called by `io_submit_init_bio`, once per bio.
    fn ext4_get_io_end(&mut self, io_end: IoEndId, bio: BioId) {
        let by =
            1 - i32::from(self.planted(Mutation::GetNotCounted)) + i32::from(self.planted(Mutation::GetCountsTwice));
        let count = &mut self.io_end_mut(io_end).count;
        *count = count.wrapping_add(by);
        let IoEnd { count, flag: Flag { unwritten, .. }, .. } = *self.io_end(io_end);
        let owner = if self.planted(Mutation::BioOfFirstIoEnd) { IoEndId(1) } else { io_end };
        self.state.bios.insert(bio, Bio::of(owner));
        self.tell(Event::GetIoEnd { io_end, bio: Some(bio), count, unwritten });
    }

    fn ext4_io_submit(&mut self, bio: BioId, sector: u64, bytes: u64, sync: bool) {
        let io_end = self.bio(bio).io_end;
        let bytes = bytes - u64::from(self.planted(Mutation::SubmitOneSectorShort)) * 512;
        self.tell(Event::SubmitBio { bio, io_end, sector, bytes, sync });
    }

    /// From 3.11 on put before finishing the bio, unless it is chained: once its folios have left writeback the inode may
    /// go away, and the put still needs it. Before, the folios leave writeback first.
    fn ext4_end_bio(&mut self, thread: &mut Thread, bio: BioId, at: EndBio) {
        let Bio { io_end, status, .. } = *self.bio(bio);
        match at {
            EndBio::MappingError => {
                let error = if self.planted(Mutation::BioErrorDropped) { 0 } else { status };
                self.bio_mut(bio).status = error;
                self.tell(Event::EndBio { bio, io_end, error });
                if !self.planted(Mutation::EndBioLeavesMapping) {
                    self.mapping_set_error(io_end, error);
                }
                self.call_rest_of_end_bio(thread, bio, io_end, error);
            }
            EndBio::TestFlag if self.chains(io_end) => thread.call(Frame::EndBio { bio, at: EndBio::ChainBio }),
            EndBio::TestFlag => {
                thread.call(Frame::FinishBio { bio, segment: 0, at: FinishBio::MappingError });
                self.call_put_of_bio(thread, io_end);
                if self.planted(Mutation::FinishBeforePut) {
                    thread.last_two_swapped();
                }
            }
            EndBio::ChainBio => {
                let forgets = self.planted(Mutation::ChainedBioForgotten);
                let chain = &mut self.io_end_mut(io_end).bio;
                if chain.is_empty() || !forgets {
                    chain.push_front(bio);
                }
                self.call_put_of_bio(thread, io_end);
            }
        }
    }

    fn call_rest_of_end_bio(&self, thread: &mut Thread, bio: BioId, io_end: IoEndId, error: Errno) {
        let set_error = Frame::SetErrorFlag { io_end, at: OrFlag::Read };
        if self.dialect.finish_before_put {
            self.call_put_of_bio(thread, io_end);
            if error != 0 {
                thread.call(set_error);
            }
            thread.call(Frame::FinishBio { bio, segment: 0, at: FinishBio::MappingError });
        } else {
            thread.call(Frame::EndBio { bio, at: EndBio::TestFlag });
            if error != 0 {
                thread.call(set_error);
            }
        }
    }

    fn set_error_flag(&mut self, thread: &mut Thread, io_end: IoEndId, at: OrFlag) {
        if let Some(at) = self.change_flag(io_end, at, |flag| flag.error = true) {
            thread.call(Frame::SetErrorFlag { io_end, at });
        }
    }

    fn chains(&self, io_end: IoEndId) -> bool {
        let waits = self.io_end(io_end).flag.unwritten || self.aborts(io_end);
        self.dialect.finish_after_conversion && waits && !self.planted(Mutation::FoliosEndEarly)
    }

    /// A bio of it failed, and that is to abort the journal (`ext4_io_end_defer_completion`, v7.2).
    fn aborts(&self, io_end: IoEndId) -> bool {
        self.data_err_abort
            && self.dialect.data_err_abort
            && self.io_end(io_end).flag.error
            && !self.planted(Mutation::AbortIgnored)
    }

    fn call_put_of_bio(&self, thread: &mut Thread, io_end: IoEndId) {
        // An io_end that belongs to one bio has no count to lower.
        let at = if self.dialect.io_end_per_bio { Put::TestFlag } else { Put::DecAndTest };
        if !self.planted(Mutation::SkipDeferredPut) {
            thread.call(Frame::PutIoEndDefer { io_end, at });
        }
    }

    /// The buffers of one segment are cleared under their folio's lock, and the folio leaves writeback with its last
    /// marked buffer.
    fn ext4_finish_bio(&mut self, thread: &mut Thread, bio: BioId, segment: usize, at: FinishBio) {
        let Bio { io_end, status, ref segments, .. } = *self.bio(bio);
        let stays = segment + 1 == segments.len() && self.planted(Mutation::LastSegmentStays)
            || status != 0 && self.planted(Mutation::FailedFoliosStay);
        let Some(Segment { page, blocks }) = segments.get(segment).cloned() else {
            self.state.bios.remove(&bio);
            return;
        };
        match at {
            FinishBio::MappingError => {
                let own = (self.dialect.finish_errno == FinishErrno::Bio) != self.planted(Mutation::FinishErrnoSwapped);
                self.mapping_set_error(io_end, if status == 0 || own { status } else { EIO });
                thread.call(Frame::FinishBio { bio, segment, at: FinishBio::ClearAsyncWrite });
            }
            FinishBio::ClearAsyncWrite => {
                let ino = self.io_end(io_end).ino;
                if !stays {
                    self.clear_async_write(ino, page, &blocks, status != 0);
                }
                thread.call(Frame::FinishBio { bio, segment: segment + 1, at: FinishBio::MappingError });
            }
        }
    }

    fn clear_async_write(&mut self, ino: Ino, page: u64, blocks: &[u64], failed: bool) {
        let first_ends = self.planted(Mutation::FirstBufferEndsFolio);
        let Some(folio) = self.inode(ino).writeback.get_mut(&page) else { return };
        folio.error |= failed;
        for block in blocks {
            folio.async_write.remove(block);
        }
        if folio.async_write.is_empty() || first_ends {
            self.folio_end_writeback(ino, page);
        }
    }

    pub(crate) fn folio_end_writeback(&mut self, ino: Ino, page: u64) {
        let error = self.inode(ino).writeback.remove(&page).is_some_and(|folio| folio.error);
        self.tell(Event::EndPageWriteback { ino, page, error });
        if self.planted(Mutation::FolioEndsTwice) {
            self.tell(Event::EndPageWriteback { ino, page, error });
        }
    }

    fn mapping_set_error(&mut self, io_end: IoEndId, errno: Errno) {
        let ino = self.io_end(io_end).ino;
        let first_stays = self.planted(Mutation::FirstErrorTold) && self.inode(ino).wb_err.is_untold();
        if !self.planted(Mutation::MappingErrorDropped) && !first_stays {
            self.inode(ino).wb_err.set(errno);
        }
    }

    /// The last one hands an io_end that has something to convert to the worker: its caller may be an interrupt, or hold
    /// a journal handle.
    fn ext4_put_io_end_defer(&mut self, thread: &mut Thread, io_end: IoEndId, at: Put) {
        match at {
            Put::DecAndTest => {
                let (count, unwritten) = self.dec_count(io_end, "ext4_put_io_end_defer");
                self.tell(Event::PutIoEndDefer { io_end, count, unwritten });
                if self.is_last(count) {
                    thread.call(Frame::PutIoEndDefer { io_end, at: Put::TestFlag });
                }
            }
            Put::TestFlag if self.releases_unconverted(io_end) => {
                self.io_end_mut(io_end).flag.unwritten = false;
                thread.call(Frame::ReleaseIoEnd { io_end, at: Release::Check });
            }
            Put::TestFlag if self.aborts(io_end) => thread.call(Frame::AddCompleteIo { io_end }),
            Put::TestFlag if self.io_end(io_end).flag.unwritten && self.has_range(io_end) => {
                thread.call(Frame::AddCompleteIo { io_end });
            }
            Put::TestFlag => thread.call(Frame::ReleaseIoEnd { io_end, at: Release::Check }),
        }
    }

    fn is_last(&self, count: i32) -> bool {
        count == i32::from(self.planted(Mutation::LastAtOne))
    }

    fn releases_unconverted(&self, io_end: IoEndId) -> bool {
        let failed = self.planted(Mutation::FailedNotQueued) && self.io_end(io_end).flag.error;
        failed || self.planted(Mutation::ReleaseWithoutConvert)
    }

    fn ext4_put_io_end(&mut self, thread: &mut Thread, io_end: IoEndId, at: Put) {
        match at {
            Put::DecAndTest => {
                let (count, unwritten) = self.dec_count(io_end, "ext4_put_io_end");
                self.tell(Event::PutIoEnd { io_end, count, unwritten });
                if self.is_last(count) {
                    thread.call(Frame::PutIoEnd { io_end, at: Put::TestFlag });
                }
            }
            Put::TestFlag if self.planted(Mutation::InlineQueues) => {
                thread.call(Frame::PutIoEndDefer { io_end, at: Put::TestFlag });
            }
            Put::TestFlag => {
                self.journal_aborted |= self.aborts(io_end);
                thread.call(Frame::ReleaseIoEnd { io_end, at: Release::Check });
                if self.io_end(io_end).flag.unwritten {
                    thread.call(Frame::ClearIoUnwrittenFlag { io_end, at: OrFlag::Test });
                    let after_error = self.dialect.put_converts_after_error;
                    let converts = self.converts(io_end);
                    if self.dialect.put_converts
                        && !self.planted(Mutation::InlineNotConverted)
                        && (after_error || converts)
                    {
                        if !converts {
                            self.acted.add(Cause::PutConvertsAfterError);
                        }
                        thread.call(Frame::ConvertUnwrittenIoEndVec { io_end, next: 0 });
                    }
                }
            }
        }
    }

    /// The count afterwards, and UNWRITTEN at that moment.
    fn dec_count(&mut self, io_end: IoEndId, function: &'static str) -> (i32, bool) {
        if self.io_end(io_end).released {
            self.tell(Event::Warn { function, what: "use_after_free" });
        }
        let by = 1 + i32::from(self.planted(Mutation::PutCountsTwice));
        let io_end = self.io_end_mut(io_end);
        io_end.count = io_end.count.wrapping_sub(by);
        (io_end.count, io_end.flag.unwritten)
    }

    /// One step: the list is looked at, the work queued and the io_end added under one lock.
    fn ext4_add_complete_io(&mut self, io_end: IoEndId) {
        if !self.io_end(io_end).flag.unwritten && !self.aborts(io_end) {
            return self.bug("ext4_add_complete_io", "not_unwritten");
        }
        let (never, always) = (self.planted(Mutation::WorkNotQueued), self.planted(Mutation::WorkAlwaysQueued));
        let ino = self.io_end(io_end).ino;
        let inode = self.inode(ino);
        let queued = (inode.completed_io_list.is_empty() || always) && !never;
        inode.work_pending |= queued;
        inode.completed_io_list.push_back(io_end);
        self.io_end_mut(io_end).listed = true;
        self.tell(Event::AddCompleteIo { io_end, queued });
    }

    fn ext4_end_io_rsv_work(&mut self, thread: &mut Thread, ino: Ino) {
        self.inode(ino).work_pending = false;
        thread.call(Frame::DoFlushCompletedIo { at: FlushCompleted::Splice(ino) });
    }

    /// The whole list is taken under its lock, then worked on without it, first in first out.
    fn ext4_do_flush_completed_io(&mut self, thread: &mut Thread, at: FlushCompleted) {
        let last = std::mem::take(&mut thread.ret);
        match at {
            FlushCompleted::Splice(ino) => {
                let mut unwritten = std::mem::take(&mut self.inode(ino).completed_io_list);
                if self.planted(Mutation::WorkerTakesOne) && !unwritten.is_empty() {
                    self.inode(ino).completed_io_list = unwritten.split_off(1);
                }
                thread.call(Frame::DoFlushCompletedIo { at: FlushCompleted::Next(unwritten, 0) });
            }
            FlushCompleted::Next(mut unwritten, first) => {
                let error = if first == 0 { last } else { first };
                let last_first = self.planted(Mutation::WorkerTakesLastFirst);
                let next = if last_first { unwritten.pop_back() } else { unwritten.pop_front() };
                match next {
                    Some(io_end) if !self.io_end(io_end).flag.unwritten && !self.aborts(io_end) => {
                        self.bug("ext4_do_flush_completed_IO", "not_unwritten");
                    }
                    Some(io_end) => {
                        self.io_end_mut(io_end).listed = false;
                        thread.call(Frame::DoFlushCompletedIo { at: FlushCompleted::Next(unwritten, error) });
                        thread.call(Frame::EndIoEnd { io_end, at: EndIoEnd::Convert });
                    }
                    None => thread.ret = error,
                }
            }
        }
    }

    /// A failed conversion is printed, and changes nothing in what follows.
    fn ext4_end_io_end(&mut self, thread: &mut Thread, io_end: IoEndId, at: EndIoEnd) {
        match at {
            EndIoEnd::Convert if self.planted(Mutation::ReleaseBeforeConvert) => {
                self.io_end_mut(io_end).flag.unwritten = false;
                thread.call(Frame::ConvertUnwrittenIoEndVec { io_end, next: 0 });
                thread.call(Frame::EndIoEnd { io_end, at: EndIoEnd::Release(0) });
            }
            EndIoEnd::Convert => {
                self.journal_aborted |= self.aborts(io_end);
                thread.call(Frame::EndIoEnd { io_end, at: EndIoEnd::ClearFlag });
                if self.converts(io_end) {
                    thread.call(Frame::ConvertUnwrittenIoEndVec { io_end, next: 0 });
                }
            }
            EndIoEnd::ClearFlag => {
                let error = std::mem::take(&mut thread.ret);
                thread.call(Frame::EndIoEnd { io_end, at: EndIoEnd::Release(error) });
                thread.call(Frame::ClearIoUnwrittenFlag { io_end, at: OrFlag::Test });
            }
            EndIoEnd::Release(error) => {
                thread.call(Frame::EndIoEnd { io_end, at: EndIoEnd::Return(error) });
                if !self.planted(Mutation::NeverReleased) {
                    thread.call(Frame::ReleaseIoEnd { io_end, at: Release::Check });
                }
                if self.dialect.io_end_per_bio {
                    self.call_end_of_dio(thread, io_end);
                }
            }
            EndIoEnd::Return(error) => thread.ret = error,
        }
    }

    fn converts(&mut self, io_end: IoEndId) -> bool {
        let always = self.has(Bug::ConvertAfterError) && !self.planted(Mutation::NoConvertAfterError);
        let state = self.io_end(io_end);
        let failed = state.flag.error || state.direct_failed;
        if always && failed {
            self.acts(Bug::ConvertAfterError);
        }
        always || !failed || self.planted(Mutation::ConvertAllTheSame)
    }

    /// Ranges in the order in which they were mapped; the first error ends it.
    fn ext4_convert_unwritten_io_end_vec(&mut self, thread: &mut Thread, io_end: IoEndId, next: usize) {
        if next > 0 && (thread.ret != 0 || self.planted(Mutation::FirstRangeOnly)) {
            return;
        }
        thread.ret = 0;
        let Some(mut range) = self.range(io_end, next) else { return };
        if self.planted(Mutation::ConvertOneBlockLess) {
            range.size = range.size.saturating_sub(self.block_bytes);
        }
        range.offset += u64::from(self.planted(Mutation::ConvertOneBlockOn)) * self.block_bytes;
        let ino = self.io_end(io_end).ino;
        thread.call(Frame::ConvertUnwrittenIoEndVec { io_end, next: next + 1 });
        thread.call(Frame::ConvertUnwrittenExtents { ino, io_end: Some(io_end), range, at: Convert::Enter });
    }

    /// The range of an io_end that is converted as number `next`, from 0.
    fn range(&self, io_end: IoEndId, next: usize) -> Option<IoEndVec> {
        let state = self.io_end(io_end);
        match self.one_range(state) {
            true => (next == 0).then_some(state.range),
            false if self.planted(Mutation::RangesLastFirst) => state.list_vec.iter().rev().nth(next).copied(),
            false => state.list_vec.get(next).copied(),
        }
    }

    /// `offset` and `size` stand for all its blocks. A direct write has always been one range.
    pub(crate) fn one_range(&self, io_end: &IoEnd) -> bool {
        io_end.flag.direct || self.has(Bug::RangeSum) || self.dialect.range == Range::MappedPages
    }

    fn has_range(&self, io_end: IoEndId) -> bool {
        let state = self.io_end(io_end);
        let some = if self.one_range(state) { state.range.size != 0 } else { !state.list_vec.is_empty() };
        some || self.dialect.io_end_per_bio
    }

    fn ext4_convert_unwritten_extents(
        &mut self,
        thread: &mut Thread,
        ino: Ino,
        io_end: Option<IoEndId>,
        range: IoEndVec,
        at: Convert,
    ) -> Progress {
        let IoEndVec { offset, size } = range;
        match (at, thread.conversion.take()) {
            (Convert::Enter, _) => {
                if let Some(io_end) = io_end {
                    self.tell(Event::ConvertBegins { ino, io_end, offset, size });
                    if self.planted(Mutation::ConvertTwice) {
                        self.tell(Event::ConvertBegins { ino, io_end, offset, size });
                    }
                }
                thread.call(Frame::ConvertUnwrittenExtents { ino, io_end, range, at: Convert::Return });
                Progress::Stepped
            }
            (Convert::Return, Some(result)) => {
                if result == 0 {
                    self.inode(ino).convert(range);
                }
                self.tell(Event::ConvertUnwritten { ino, io_end, offset, size, result });
                thread.ret = i64::from(result);
                Progress::Stepped
            }
            (Convert::Return, None) => {
                thread.call(Frame::ConvertUnwrittenExtents { ino, io_end, range, at });
                Progress::WaitsForConversion
            }
        }
    }

    fn ext4_clear_io_unwritten_flag(&mut self, thread: &mut Thread, io_end: IoEndId, at: OrFlag) {
        let next = match at {
            OrFlag::Test if !self.io_end(io_end).flag.unwritten => return,
            OrFlag::Test => OrFlag::Read,
            OrFlag::Read | OrFlag::Write(_) => {
                self.change_flag(io_end, at, |flag| flag.unwritten = false).unwrap_or(OrFlag::Count)
            }
            OrFlag::Count => return self.count_unwritten(io_end, -1),
        };
        thread.call(Frame::ClearIoUnwrittenFlag { io_end, at: next });
    }

    /// Nobody else holds the io_end any more. Chained bios are finished last in, first out.
    fn ext4_release_io_end(&mut self, thread: &mut Thread, io_end: IoEndId, at: Release) {
        match at {
            Release::Check if self.planted(Mutation::FinishBeforeRelease) && !self.io_end(io_end).bio.is_empty() => {
                thread.call(Frame::ReleaseIoEnd { io_end, at: Release::Check });
                thread.call(Frame::ReleaseIoEnd { io_end, at: Release::NextBio });
            }
            Release::Check => {
                let IoEnd { ino, listed, flag: Flag { unwritten, .. }, .. } = *self.io_end(io_end);
                let per_bio = self.dialect.io_end_per_bio;
                let function = if per_bio { "ext4_free_io_end" } else { "ext4_release_io_end" };
                if listed || unwritten {
                    return self.bug(function, if listed { "list_not_empty" } else { "unwritten" });
                }
                self.inode(ino).i_ioend_count -= i64::from(!self.planted(Mutation::IoendCountNotLowered));
                let i_ioend_count = self.inode(ino).i_ioend_count;
                self.io_end_mut(io_end).released = true;
                self.tell(Event::ReleaseIoEnd { io_end, i_ioend_count, unwritten });
                if self.planted(Mutation::ReleasedTwice) {
                    self.tell(Event::ReleaseIoEnd { io_end, i_ioend_count, unwritten });
                }
                thread.call(Frame::ReleaseIoEnd { io_end, at: Release::NextBio });
                if !per_bio {
                    self.call_end_of_dio(thread, io_end);
                }
            }
            Release::NextBio => {
                let first_first = self.planted(Mutation::FinishFirstBioFirst);
                let chain = &mut self.io_end_mut(io_end).bio;
                let next = if first_first { chain.pop_back() } else { chain.pop_front() };
                if let Some(bio) = next {
                    thread.call(Frame::ReleaseIoEnd { io_end, at: Release::NextBio });
                    thread.call(Frame::FinishBio { bio, segment: 0, at: FinishBio::MappingError });
                }
            }
        }
    }

    /// What waits for a direct write: the inode, then whoever issued it.
    fn call_end_of_dio(&self, thread: &mut Thread, io_end: IoEndId) {
        let IoEnd { ino, aio, flag: Flag { direct, .. }, .. } = *self.io_end(io_end);
        if let Some((iocb, result)) = aio.filter(|_| !self.planted(Mutation::AioCompleteSkipped)) {
            thread.call(Frame::AioComplete { iocb, result });
            if self.planted(Mutation::AioCompletedTwice) {
                thread.call(Frame::AioComplete { iocb, result });
            }
        }
        if direct && !self.planted(Mutation::DioDoneSkipped) {
            thread.call(Frame::InodeDioDone { ino });
        }
    }

    fn inode_dio_done(&mut self, ino: Ino) {
        let inode = self.inode(ino);
        inode.i_dio_count -= 1;
        let i_dio_count = inode.i_dio_count;
        self.tell(Event::InodeDioDone { ino, i_dio_count });
    }

    pub(crate) fn io_end(&self, id: IoEndId) -> &IoEnd {
        self.state.io_ends.get(&id).expect("an io_end is kept as long as anything can touch it")
    }

    pub(crate) fn io_end_mut(&mut self, id: IoEndId) -> &mut IoEnd {
        self.state.io_ends.get_mut(&id).expect("an io_end is kept as long as anything can touch it")
    }

    pub(crate) fn bio(&self, id: BioId) -> &Bio {
        self.state.bios.get(&id).expect("a bio is kept until it is finished")
    }

    pub(crate) fn bio_mut(&mut self, id: BioId) -> &mut Bio {
        self.state.bios.get_mut(&id).expect("a bio is kept until it is finished")
    }

    pub(crate) fn inode(&mut self, ino: Ino) -> &mut Inode {
        self.state.inodes.entry(ino).or_default()
    }

    pub(crate) fn iomap(&self) -> bool {
        self.dialect.direct_io == DirectIo::Iomap
    }
}

/// `mpage_map_and_submit_extent`: an extent that goes on where the last range of the io_end stops lengthens it, any other
/// begins a new one.
pub(crate) fn add_to_list_vec(list_vec: &mut Vec<IoEndVec>, offset: u64, size: u64) {
    match list_vec.last_mut() {
        Some(last) if last.offset.checked_add(last.size) == Some(offset) => last.size += size,
        _ => list_vec.push(IoEndVec { offset, size }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bug::Bugs;
    use writeback_events::Response;

    const INO: Ino = Ino(12);
    const IO_END: IoEndId = IoEndId(1);

    /// An UNWRITTEN io_end of one block whose submitter alone still holds it, after a bio of it has failed.
    fn failed(dialect: &str) -> Path {
        let mut path = Path::new(Dialect::by_name(dialect).expect("it is there"), None, 4096);
        path.run(&mut Thread::calling(Frame::InitIoEnd { io_end: IO_END, ino: INO }));
        path.run(&mut Thread::calling(Frame::SetIoUnwrittenFlag { io_end: IO_END, at: OrFlag::Test }));
        path.run(&mut Thread::calling(Frame::SetErrorFlag { io_end: IO_END, at: OrFlag::Read }));
        add_to_list_vec(&mut path.io_end_mut(IO_END).list_vec, 0, 4096);
        path.events.clear();
        path
    }

    fn converts(mut path: Path, frame: Frame) -> bool {
        path.run(&mut Thread::calling(frame));
        path.events.iter().any(|event| matches!(event.response(), Some(Response::ConvertUnwritten { .. })))
    }

    /// 6.12 took over only the half of the fix that is in the worker.
    #[test]
    fn the_last_put_after_an_error_converts_up_to_6_12() {
        for (dialect, put, worker) in [("v6_1", true, true), ("v6_12", true, false), ("v7_2", false, false)] {
            let own_put = Frame::PutIoEnd { io_end: IO_END, at: Put::DecAndTest };
            assert_eq!(converts(failed(dialect), own_put), put, "ext4_put_io_end in {dialect}");
            let end_io_end = Frame::EndIoEnd { io_end: IO_END, at: EndIoEnd::Convert };
            assert_eq!(converts(failed(dialect), end_io_end), worker, "ext4_end_io_end in {dialect}");
        }
    }

    #[test]
    fn of_two_plain_changes_of_a_flag_at_once_one_is_lost() {
        for (bugs, lost) in [(Bugs::NONE, false), (Bugs::of(&[Bug::RacyFlag]), true)] {
            let mut path = Path::new(Dialect::SEED.with_bugs(bugs), None, 4096);
            path.run(&mut Thread::calling(Frame::InitIoEnd { io_end: IO_END, ino: INO }));
            let mut submitter = Thread::calling(Frame::SetIoUnwrittenFlag { io_end: IO_END, at: OrFlag::Test });
            let mut interrupt = Thread::calling(Frame::SetErrorFlag { io_end: IO_END, at: OrFlag::Read });
            while path.step(&mut submitter) == Progress::Stepped && !submitter.about_to_set_unwritten() {}
            path.step(&mut interrupt);
            path.run(&mut submitter);
            path.run(&mut interrupt);
            assert_eq!(path.io_end(IO_END).flag, Flag { unwritten: !lost, error: true, direct: false });
            assert_eq!(path.inode(INO).i_unwritten, 1);
        }
    }
}
