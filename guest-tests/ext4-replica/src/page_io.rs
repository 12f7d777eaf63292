//! The kernel functions of the path (fs/ext4/page-io.c and its callers in inode.c, v6.1), each as a sequence of steps.
//!
//! A [`Frame`] is one function under way and the step it takes next; a [`Thread`] is a stack of them. [`Path::step`]
//! takes one step of one thread: one access to shared state, what the kernel does under one lock, or by one atomic
//! operation, being one access, and a plain read-modify-write of a flag two. Between two steps any other thread may step;
//! who does is for a driver to say. So is where a bio ends: nothing here opens or submits one by itself.

use crate::dialect::{Dialect, FinishErrno};
use crate::mutation::Mutation;
use crate::state::{Bio, Folio, IoEnd, IoEndVec, Segment, State};
use std::collections::{BTreeSet, VecDeque};
use writeback_events::{BioId, Errno, Ino, IoEndId, Response};

/// -EIO, as the kernel has it.
pub(crate) const EIO: Errno = -5;

/// A kernel function under way, at its next step.
#[derive(Clone, Debug)]
pub(crate) enum Frame {
    InitIoEnd { io_end: IoEndId, ino: Ino },
    SetIoUnwrittenFlag { io_end: IoEndId, at: OrFlag },
    BioWritePage { ino: Ino, page: u64, marked: BTreeSet<u64>, at: BioWritePage },
    GetIoEnd { io_end: IoEndId, bio: BioId },
    IoSubmit { bio: BioId, sector: u64, bytes: u64, segments: Vec<Segment> },
    EndBio { bio: BioId, at: EndBio },
    FinishBio { bio: BioId, segment: usize, at: FinishBio },
    PutIoEndDefer { io_end: IoEndId, at: Put },
    PutIoEnd { io_end: IoEndId, at: Put },
    AddCompleteIo { io_end: IoEndId },
    EndIoRsvWork { ino: Ino },
    DoFlushCompletedIo { at: FlushCompleted },
    EndIoEnd { io_end: IoEndId, at: EndIoEnd },
    ConvertUnwrittenIoEndVec { io_end: IoEndId, next: usize },
    ConvertUnwrittenExtents { io_end: IoEndId, range: IoEndVec, at: Convert },
    ClearIoUnwrittenFlag { io_end: IoEndId, at: OrFlag },
    ReleaseIoEnd { io_end: IoEndId, at: Release },
}

/// Steps of a plain `flag |=` or `flag &=`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum OrFlag {
    Read,
    Write,
}

/// Steps of `ext4_bio_write_page` on either side of its buffers being added to bios.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BioWritePage {
    MarkBuffers,
    EndIfNothingSubmitted,
}

/// Steps of `ext4_end_bio`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum EndBio {
    MappingError,
    TestFlag,
    ChainBio,
}

/// Steps of `ext4_finish_bio`, once per segment.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FinishBio {
    MappingError,
    ClearAsyncWrite,
}

/// Steps of both puts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Put {
    DecAndTest,
    TestFlag,
}

/// Steps of `ext4_do_flush_completed_IO`.
#[derive(Clone, Debug)]
pub(crate) enum FlushCompleted {
    Splice(Ino),
    Next(VecDeque<IoEndId>),
}

/// Steps of `ext4_end_io_end`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum EndIoEnd {
    Convert,
    ClearFlag,
    Release,
}

/// `ext4_convert_unwritten_extents` is one call outwards: it is entered, and comes back with a result.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Convert {
    Enter,
    Return,
}

/// Steps of `ext4_release_io_end`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Release {
    Check,
    NextBio,
}

/// A kernel thread, or an interrupt: the functions it is in, the innermost last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Thread {
    stack: Vec<Frame>,
    /// What `ext4_convert_unwritten_extents` came back with, once it has.
    conversion: Option<Errno>,
    /// What the last function returned.
    ret: Errno,
}

/// What became of a thread by one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It took a step.
    Stepped,
    /// It is in `ext4_convert_unwritten_extents`, whose result is not known yet.
    WaitsForConversion,
    /// It is in no function of the path any more.
    Done,
}

impl Thread {
    pub(crate) fn calling(frame: Frame) -> Thread {
        Thread { stack: vec![frame], ..Thread::default() }
    }

    pub(crate) fn call(&mut self, frame: Frame) {
        self.stack.push(frame);
    }

    /// `ext4_convert_unwritten_extents` comes back.
    pub(crate) fn conversion_returns(&mut self, errno: Errno) {
        self.conversion = Some(errno);
    }

    pub(crate) fn is_done(&self) -> bool {
        self.stack.is_empty()
    }

    /// Whether it waits for the result of a conversion.
    pub(crate) fn converts(&self) -> Option<IoEndId> {
        match self.stack.last() {
            Some(Frame::ConvertUnwrittenExtents { io_end, at: Convert::Return, .. }) => Some(*io_end),
            _ => None,
        }
    }
}

/// The path: shared state, and the one implementation of every function on it.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    pub(crate) state: State,
    dialect: Dialect,
    mutation: Option<Mutation>,
    block_bytes: u64,
    /// What happened since it was last taken.
    responses: Vec<Response>,
}

impl Path {
    pub(crate) fn new(dialect: Dialect, mutation: Option<Mutation>, block_bytes: u64) -> Path {
        Path { state: State::default(), dialect, mutation, block_bytes, responses: Vec::new() }
    }

    pub(crate) fn planted(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    pub(crate) fn take_responses(&mut self) -> Vec<Response> {
        std::mem::take(&mut self.responses)
    }

    /// Responses not taken yet.
    pub(crate) fn responded(&self) -> usize {
        self.responses.len()
    }

    pub(crate) fn respond(&mut self, response: Response) {
        self.responses.push(response);
    }

    /// Steps `thread` until it is done or must wait.
    pub(crate) fn run(&mut self, thread: &mut Thread) {
        while self.step(thread) == Progress::Stepped {}
    }

    /// Takes one step of `thread`.
    pub(crate) fn step(&mut self, thread: &mut Thread) -> Progress {
        let Some(frame) = thread.stack.pop() else { return Progress::Done };
        match frame {
            Frame::InitIoEnd { io_end, ino } => self.ext4_init_io_end(io_end, ino),
            Frame::SetIoUnwrittenFlag { io_end, at } => self.ext4_set_io_unwritten_flag(thread, io_end, at),
            Frame::BioWritePage { ino, page, marked, at } => self.ext4_bio_write_page(thread, ino, page, marked, at),
            Frame::GetIoEnd { io_end, bio } => self.ext4_get_io_end(io_end, bio),
            Frame::IoSubmit { bio, sector, bytes, segments } => self.ext4_io_submit(bio, sector, bytes, segments),
            Frame::EndBio { bio, at } => self.ext4_end_bio(thread, bio, at),
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
            Frame::ConvertUnwrittenExtents { io_end, range, at } => {
                return self.ext4_convert_unwritten_extents(thread, io_end, range, at);
            }
            Frame::ClearIoUnwrittenFlag { io_end, at } => self.ext4_clear_io_unwritten_flag(thread, io_end, at),
            Frame::ReleaseIoEnd { io_end, at } => self.ext4_release_io_end(thread, io_end, at),
        }
        Progress::Stepped
    }

    fn ext4_init_io_end(&mut self, io_end: IoEndId, ino: Ino) {
        let count = if self.planted(Mutation::BornWithTwo) { 2 } else { 1 };
        let (list_vec, bio) = (Vec::new(), VecDeque::new());
        self.state.io_ends.insert(io_end, IoEnd { ino, count, unwritten: false, failed: false, list_vec, bio });
        self.respond(Response::InitIoEnd { io_end, ino, count, unwritten: false });
    }

    /// Called by `mpage_map_one_extent` once the extent is mapped, before any bio of it is opened.
    fn ext4_set_io_unwritten_flag(&mut self, thread: &mut Thread, io_end: IoEndId, at: OrFlag) {
        match at {
            OrFlag::Read if self.io_end(io_end).unwritten => {}
            OrFlag::Read => thread.call(Frame::SetIoUnwrittenFlag { io_end, at: OrFlag::Write }),
            OrFlag::Write => self.io_end_mut(io_end).unwritten = !self.planted(Mutation::UnwrittenFlagLost),
        }
    }

    /// All buffers are marked before the first one is added, so that an early end of a bio finds the others still
    /// under way. A folio of which nothing is written leaves writeback at once.
    fn ext4_bio_write_page(
        &mut self,
        thread: &mut Thread,
        ino: Ino,
        page: u64,
        marked: BTreeSet<u64>,
        at: BioWritePage,
    ) {
        match at {
            BioWritePage::MarkBuffers => {
                let nothing = marked.is_empty();
                self.inode(ino).writeback.insert(page, Folio { async_write: marked });
                if nothing && !self.planted(Mutation::EmptyFolioStays) {
                    let at = BioWritePage::EndIfNothingSubmitted;
                    thread.call(Frame::BioWritePage { ino, page, marked: BTreeSet::new(), at });
                }
            }
            BioWritePage::EndIfNothingSubmitted => self.folio_end_writeback(ino, page),
        }
    }

    /// Called by `io_submit_init_bio`, once per bio.
    fn ext4_get_io_end(&mut self, io_end: IoEndId, bio: BioId) {
        if !self.planted(Mutation::GetNotCounted) {
            let count = &mut self.io_end_mut(io_end).count;
            *count = count.wrapping_add(1);
        }
        let IoEnd { count, unwritten, .. } = *self.io_end(io_end);
        self.state.bios.insert(bio, Bio { io_end, segments: Vec::new(), status: 0 });
        self.respond(Response::GetIoEnd { io_end, bio, count, unwritten });
    }

    fn ext4_io_submit(&mut self, bio: BioId, sector: u64, bytes: u64, segments: Vec<Segment>) {
        let io_end = self.bio(bio).io_end;
        self.bio_mut(bio).segments = segments;
        self.respond(Response::SubmitBio { bio, io_end, sector, bytes });
    }

    /// Put before finishing the bio, unless it is chained: once its folios have left writeback the inode may go away,
    /// and the put still needs it.
    fn ext4_end_bio(&mut self, thread: &mut Thread, bio: BioId, at: EndBio) {
        let Bio { io_end, status, .. } = *self.bio(bio);
        match at {
            EndBio::MappingError => {
                let error = if self.planted(Mutation::BioErrorDropped) { 0 } else { status };
                self.bio_mut(bio).status = error;
                self.respond(Response::EndBio { bio, io_end, error });
                self.io_end_mut(io_end).failed |= error != 0;
                self.mapping_set_error(io_end, error);
                thread.call(Frame::EndBio { bio, at: EndBio::TestFlag });
            }
            EndBio::TestFlag if self.chains(io_end) => thread.call(Frame::EndBio { bio, at: EndBio::ChainBio }),
            EndBio::TestFlag => {
                thread.call(Frame::FinishBio { bio, segment: 0, at: FinishBio::MappingError });
                self.call_put_of_bio(thread, io_end);
            }
            EndBio::ChainBio => {
                self.io_end_mut(io_end).bio.push_front(bio);
                self.call_put_of_bio(thread, io_end);
            }
        }
    }

    fn chains(&self, io_end: IoEndId) -> bool {
        self.dialect.finish_after_conversion && self.io_end(io_end).unwritten && !self.planted(Mutation::FoliosEndEarly)
    }

    fn call_put_of_bio(&self, thread: &mut Thread, io_end: IoEndId) {
        if !self.planted(Mutation::SkipDeferredPut) {
            thread.call(Frame::PutIoEndDefer { io_end, at: Put::DecAndTest });
        }
    }

    /// The buffers of one segment are cleared under their folio's lock, and the folio leaves writeback with its last
    /// marked buffer.
    fn ext4_finish_bio(&mut self, thread: &mut Thread, bio: BioId, segment: usize, at: FinishBio) {
        let Bio { io_end, status, ref segments } = *self.bio(bio);
        let Some(Segment { page, blocks }) = segments.get(segment).cloned() else {
            self.state.bios.remove(&bio);
            return;
        };
        match at {
            FinishBio::MappingError => {
                let errno = match self.dialect.finish_errno {
                    FinishErrno::Eio if status != 0 => EIO,
                    FinishErrno::Eio | FinishErrno::Bio => status,
                };
                self.mapping_set_error(io_end, errno);
                thread.call(Frame::FinishBio { bio, segment, at: FinishBio::ClearAsyncWrite });
            }
            FinishBio::ClearAsyncWrite => {
                let ino = self.io_end(io_end).ino;
                self.clear_async_write(ino, page, &blocks);
                thread.call(Frame::FinishBio { bio, segment: segment + 1, at: FinishBio::MappingError });
            }
        }
    }

    fn clear_async_write(&mut self, ino: Ino, page: u64, blocks: &[u64]) {
        let Some(folio) = self.inode(ino).writeback.get_mut(&page) else { return };
        for block in blocks {
            folio.async_write.remove(block);
        }
        if folio.async_write.is_empty() {
            self.folio_end_writeback(ino, page);
        }
    }

    fn folio_end_writeback(&mut self, ino: Ino, page: u64) {
        self.inode(ino).writeback.remove(&page);
        self.respond(Response::EndPageWriteback { ino, page });
        if self.planted(Mutation::FolioEndsTwice) {
            self.respond(Response::EndPageWriteback { ino, page });
        }
    }

    fn mapping_set_error(&mut self, io_end: IoEndId, errno: Errno) {
        if !self.planted(Mutation::MappingErrorDropped) {
            let ino = self.io_end(io_end).ino;
            self.inode(ino).wb_err.set(errno);
        }
    }

    /// The last one hands an io_end that has something to convert to the worker: its caller may be an interrupt, or hold
    /// a journal handle.
    fn ext4_put_io_end_defer(&mut self, thread: &mut Thread, io_end: IoEndId, at: Put) {
        match at {
            Put::DecAndTest => {
                let (count, unwritten) = self.refcount_dec(io_end);
                self.respond(Response::PutIoEndDefer { io_end, count, unwritten });
                if count == 0 {
                    thread.call(Frame::PutIoEndDefer { io_end, at: Put::TestFlag });
                }
            }
            Put::TestFlag if self.planted(Mutation::ReleaseWithoutConvert) => {
                self.io_end_mut(io_end).unwritten = false;
                thread.call(Frame::ReleaseIoEnd { io_end, at: Release::Check });
            }
            Put::TestFlag if self.io_end(io_end).unwritten && !self.io_end(io_end).list_vec.is_empty() => {
                thread.call(Frame::AddCompleteIo { io_end });
            }
            Put::TestFlag => thread.call(Frame::ReleaseIoEnd { io_end, at: Release::Check }),
        }
    }

    fn ext4_put_io_end(&mut self, thread: &mut Thread, io_end: IoEndId, at: Put) {
        match at {
            Put::DecAndTest => {
                let (count, unwritten) = self.refcount_dec(io_end);
                self.respond(Response::PutIoEnd { io_end, count, unwritten });
                if count == 0 {
                    thread.call(Frame::PutIoEnd { io_end, at: Put::TestFlag });
                }
            }
            Put::TestFlag => {
                thread.call(Frame::ReleaseIoEnd { io_end, at: Release::Check });
                if self.io_end(io_end).unwritten {
                    thread.call(Frame::ClearIoUnwrittenFlag { io_end, at: OrFlag::Read });
                    if self.dialect.put_converts {
                        thread.call(Frame::ConvertUnwrittenIoEndVec { io_end, next: 0 });
                    }
                }
            }
        }
    }

    fn refcount_dec(&mut self, io_end: IoEndId) -> (u32, bool) {
        let io_end = self.io_end_mut(io_end);
        io_end.count = io_end.count.wrapping_sub(1);
        (io_end.count, io_end.unwritten)
    }

    /// One step: the list is looked at, the work queued and the io_end added under one lock.
    fn ext4_add_complete_io(&mut self, io_end: IoEndId) {
        let never_queue = self.planted(Mutation::WorkNotQueued);
        let ino = self.io_end(io_end).ino;
        let inode = self.inode(ino);
        let queued = inode.rsv_conversion_list.is_empty() && !never_queue;
        inode.work_pending |= queued;
        inode.rsv_conversion_list.push_back(io_end);
        self.respond(Response::AddCompleteIo { io_end, queued });
    }

    fn ext4_end_io_rsv_work(&mut self, thread: &mut Thread, ino: Ino) {
        self.inode(ino).work_pending = false;
        thread.call(Frame::DoFlushCompletedIo { at: FlushCompleted::Splice(ino) });
    }

    /// The whole list is taken under its lock, then worked on without it, first in first out.
    fn ext4_do_flush_completed_io(&mut self, thread: &mut Thread, at: FlushCompleted) {
        match at {
            FlushCompleted::Splice(ino) => {
                let unwritten = std::mem::take(&mut self.inode(ino).rsv_conversion_list);
                thread.call(Frame::DoFlushCompletedIo { at: FlushCompleted::Next(unwritten) });
            }
            FlushCompleted::Next(mut unwritten) => {
                let last_first = self.planted(Mutation::WorkerTakesLastFirst);
                let next = if last_first { unwritten.pop_back() } else { unwritten.pop_front() };
                if let Some(io_end) = next {
                    thread.call(Frame::DoFlushCompletedIo { at: FlushCompleted::Next(unwritten) });
                    thread.call(Frame::EndIoEnd { io_end, at: EndIoEnd::Convert });
                }
            }
        }
    }

    /// A failed conversion is printed, and changes nothing in what follows: the error reaches nobody.
    fn ext4_end_io_end(&mut self, thread: &mut Thread, io_end: IoEndId, at: EndIoEnd) {
        match at {
            EndIoEnd::Convert if self.planted(Mutation::ReleaseBeforeConvert) => {
                self.io_end_mut(io_end).unwritten = false;
                thread.call(Frame::ConvertUnwrittenIoEndVec { io_end, next: 0 });
                thread.call(Frame::EndIoEnd { io_end, at: EndIoEnd::Release });
            }
            EndIoEnd::Convert => {
                thread.call(Frame::EndIoEnd { io_end, at: EndIoEnd::ClearFlag });
                if self.converts(io_end) {
                    thread.call(Frame::ConvertUnwrittenIoEndVec { io_end, next: 0 });
                }
            }
            EndIoEnd::ClearFlag => {
                thread.call(Frame::EndIoEnd { io_end, at: EndIoEnd::Release });
                thread.call(Frame::ClearIoUnwrittenFlag { io_end, at: OrFlag::Read });
            }
            EndIoEnd::Release => thread.call(Frame::ReleaseIoEnd { io_end, at: Release::Check }),
        }
    }

    fn converts(&self, io_end: IoEndId) -> bool {
        let keep = !self.dialect.convert_after_error || self.planted(Mutation::NoConvertAfterError);
        !(keep && self.io_end(io_end).failed)
    }

    /// Ranges in the order in which they were mapped; the first error ends it.
    fn ext4_convert_unwritten_io_end_vec(&mut self, thread: &mut Thread, io_end: IoEndId, next: usize) {
        if std::mem::take(&mut thread.ret) != 0 {
            return;
        }
        let Some(mut range) = self.io_end(io_end).list_vec.get(next).copied() else { return };
        if self.planted(Mutation::ConvertOneBlockLess) {
            range.size = range.size.saturating_sub(self.block_bytes);
        }
        thread.call(Frame::ConvertUnwrittenIoEndVec { io_end, next: next + 1 });
        thread.call(Frame::ConvertUnwrittenExtents { io_end, range, at: Convert::Enter });
    }

    fn ext4_convert_unwritten_extents(
        &mut self,
        thread: &mut Thread,
        io_end: IoEndId,
        range: IoEndVec,
        at: Convert,
    ) -> Progress {
        match (at, thread.conversion.take()) {
            (Convert::Enter, _) => {
                let ino = self.io_end(io_end).ino;
                let IoEndVec { offset, size } = range;
                self.respond(Response::ConvertUnwritten { ino, io_end, offset, size });
                if self.planted(Mutation::ConvertTwice) {
                    self.respond(Response::ConvertUnwritten { ino, io_end, offset, size });
                }
                thread.call(Frame::ConvertUnwrittenExtents { io_end, range, at: Convert::Return });
                Progress::Stepped
            }
            (Convert::Return, Some(errno)) => {
                thread.ret = errno;
                Progress::Stepped
            }
            (Convert::Return, None) => {
                thread.call(Frame::ConvertUnwrittenExtents { io_end, range, at });
                Progress::WaitsForConversion
            }
        }
    }

    fn ext4_clear_io_unwritten_flag(&mut self, thread: &mut Thread, io_end: IoEndId, at: OrFlag) {
        match at {
            OrFlag::Read if !self.io_end(io_end).unwritten => {}
            OrFlag::Read => thread.call(Frame::ClearIoUnwrittenFlag { io_end, at: OrFlag::Write }),
            OrFlag::Write => self.io_end_mut(io_end).unwritten = false,
        }
        thread.ret = 0;
    }

    /// Nobody else holds the io_end any more. Chained bios are finished last in, first out.
    fn ext4_release_io_end(&mut self, thread: &mut Thread, io_end: IoEndId, at: Release) {
        match at {
            Release::Check => {
                let unwritten = self.io_end(io_end).unwritten;
                self.respond(Response::ReleaseIoEnd { io_end, unwritten });
                thread.call(Frame::ReleaseIoEnd { io_end, at: Release::NextBio });
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

    fn io_end(&self, id: IoEndId) -> &IoEnd {
        self.state.io_ends.get(&id).expect("an io_end is kept for good once it is born")
    }

    fn io_end_mut(&mut self, id: IoEndId) -> &mut IoEnd {
        self.state.io_ends.get_mut(&id).expect("an io_end is kept for good once it is born")
    }

    fn bio(&self, id: BioId) -> &Bio {
        self.state.bios.get(&id).expect("a bio is kept until it is finished")
    }

    fn bio_mut(&mut self, id: BioId) -> &mut Bio {
        self.state.bios.get_mut(&id).expect("a bio is kept until it is finished")
    }

    fn inode(&mut self, ino: Ino) -> &mut crate::state::Inode {
        self.state.inodes.entry(ino).or_default()
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
