//! The calls driver: each call is a thread that runs to its end before the next one begins.
//!
//! What the path cannot know comes from the calls: when a bio ends and how, when the worker runs, what a conversion
//! returns. `race_error` is the one place where two threads are stepped in turn.

use crate::bug::Bug;
use crate::call::{Call, Refused, refuse};
use crate::dialect::Dialect;
use crate::direct_io::{DirectIoAt, DirectWrite, EIOCBQUEUED, EndDirectIo, EndDirectIoAt, ReturnAt};
use crate::event::{Event, InodeState, IocbId};
use crate::extents::ExtentMap;
use crate::page_io::Path;
use crate::state::{Inode, IoEndVec, PAGE_BYTES};
use crate::thread::{EndBio, FlushCompleted, Frame, Progress, Thread};
use crate::writeback::Submitter;
use std::collections::{BTreeMap, VecDeque};
use writeback_events::{BioId, Errno, Ino, IoEndId};

/// What `bio_get_nr_vecs` answers before the first `device` call.
const MAX_PAGES: u32 = 256;

/// A replica that is driven one call at a time.
#[derive(Clone, Debug)]
pub struct Calls {
    path: Path,
    /// Results of each inode's next conversions; behind the last one, each does its work.
    conversions: BTreeMap<Ino, VecDeque<Errno>>,
    /// io_ends of direct writes that were released before the write returned.
    outlived: Vec<IoEndId>,
}

impl Calls {
    /// A machine without inodes.
    pub fn new(dialect: Dialect) -> Calls {
        let mut path = Path::new(dialect, None, PAGE_BYTES);
        path.state.max_pages = MAX_PAGES;
        Calls { path, conversions: BTreeMap::new(), outlived: Vec::new() }
    }

    /// Carries one line out and appends its events, one JSON object per line, to `out`. A dead machine reads nothing.
    pub fn line(&mut self, line: &[u8], out: &mut Vec<u8>) -> Result<(), Refused> {
        if self.is_dead() {
            Event::Dead.write_line(out);
            return Ok(());
        }
        let call = Call::from_json(line)?;
        self.check(&call)?;
        self.carry_out(&call);
        self.path.events.iter().for_each(|event| event.write_line(out));
        self.path.events.clear();
        Ok(())
    }

    /// Carries one call out.
    pub fn call(&mut self, call: &Call) -> Result<Vec<Event>, Refused> {
        if self.is_dead() {
            return Ok(vec![Event::Dead]);
        }
        self.check(call)?;
        self.carry_out(call);
        Ok(std::mem::take(&mut self.path.events).into_iter().filter(is_line).collect())
    }

    /// A BUG was met.
    pub fn is_dead(&self) -> bool {
        self.path.state.dead
    }

    /// Whether what a call names is there. Nothing has happened yet.
    fn check(&self, call: &Call) -> Result<(), Refused> {
        match *call {
            Call::Inode { ino, .. } if self.path.state.inodes.contains_key(&ino) => {
                refuse("ino", format!("inode {ino} is there already"))
            }
            Call::Inode { .. } | Call::Device { .. } | Call::State => Ok(()),
            Call::Dirty { ino, lblk, len } => self.check_dirty(ino, lblk, len),
            Call::SubmitRange { ino, .. }
            | Call::Writepage { ino, .. }
            | Call::RunWork { ino }
            | Call::FlushCompleted { ino }
            | Call::FailConvert { ino, .. }
            | Call::DioSubmit { ino, .. } => self.inode(ino).map(|_| ()),
            Call::EndBio { bio, .. } => self.check_bio(bio),
            Call::DioEnd { iocb, .. } => self.check_dio_end(IocbId(iocb)),
            Call::DioReturn { iocb, ret } => self.check_dio_return(IocbId(iocb), ret),
        }
    }

    fn inode(&self, ino: Ino) -> Result<&Inode, Refused> {
        self.path.state.inodes.get(&ino).ok_or(()).or_else(|()| refuse("ino", format!("inode {ino} is not there")))
    }

    fn check_dirty(&self, ino: Ino, lblk: u64, len: u64) -> Result<(), Refused> {
        let inode = self.inode(ino)?;
        let end = inode.size.div_ceil(PAGE_BYTES) * inode.blocks_per_page();
        if lblk >= end {
            return refuse(
                "lblk",
                format!("block {lblk} is beyond the page of the file's last byte, blocks end at {end}"),
            );
        }
        if len > end - lblk {
            let why =
                format!("{len} blocks from {lblk} reach beyond the page of the file's last byte, blocks end at {end}");
            return refuse("len", why);
        }
        Ok(())
    }

    fn check_bio(&self, bio: BioId) -> Result<(), Refused> {
        match self.path.state.bios.get(&bio) {
            Some(state) if state.answered => refuse("bio", format!("bio {bio} has been answered already")),
            Some(_) => Ok(()),
            None if (1..=self.path.state.born.bios).contains(&bio.0) => {
                refuse("bio", format!("bio {bio} has been answered already"))
            }
            None => refuse("bio", format!("bio {bio} is not there")),
        }
    }

    fn check_dio_end(&self, id: IocbId) -> Result<(), Refused> {
        let iocb = id.0;
        match self.path.state.iocbs.get(&id) {
            Some(state) if state.ended => refuse("iocb", format!("iocb {iocb} has had its dio_end already")),
            Some(state) if state.returned.is_some_and(|ret| ret != EIOCBQUEUED) => {
                refuse("iocb", format!("iocb {iocb} has had a dio_return other than {EIOCBQUEUED} already"))
            }
            Some(_) => Ok(()),
            None if (1..=self.path.state.born.iocbs).contains(&iocb) => {
                refuse("iocb", format!("iocb {iocb} has ended already"))
            }
            None => refuse("iocb", format!("iocb {iocb} is not there")),
        }
    }

    fn check_dio_return(&self, id: IocbId, ret: i64) -> Result<(), Refused> {
        let iocb = id.0;
        match self.path.state.iocbs.get(&id) {
            Some(state) if state.returned.is_some() => {
                refuse("iocb", format!("iocb {iocb} has had its dio_return already"))
            }
            Some(state) if ret > 0 && !state.ended => {
                refuse("ret", format!("{ret} is more than 0, but iocb {iocb} has had no dio_end"))
            }
            Some(_) => Ok(()),
            None if (1..=self.path.state.born.iocbs).contains(&iocb) => {
                refuse("iocb", format!("iocb {iocb} has had its dio_return already"))
            }
            None => refuse("iocb", format!("iocb {iocb} is not there")),
        }
    }

    fn carry_out(&mut self, call: &Call) {
        match *call {
            Call::Inode { ino, block_bits, size, ref extents } => {
                let inode = Inode { block_bits, size, extents: ExtentMap::new(extents), ..Inode::default() };
                self.path.state.inodes.insert(ino, inode);
                self.returns("inode", 0);
            }
            Call::Device { max_pages } => {
                self.path.state.max_pages = max_pages;
                self.returns("device", 0);
            }
            Call::Dirty { ino, lblk, len } => {
                (lblk..lblk + len).for_each(|lblk| self.path.inode(ino).dirty(lblk));
                self.returns("dirty", 0);
            }
            Call::SubmitRange { ino, first_page: first, next_page: next, sync, fail_alloc, race_error } => {
                let thread = Thread::submitting(Submitter::Range { first, next }, ino, sync, fail_alloc);
                self.submit("submit_range", ino, thread, race_error);
            }
            Call::Writepage { ino, page, sync, fail_alloc } => {
                let thread = Thread::submitting(Submitter::Page(page), ino, sync, fail_alloc);
                self.submit("writepage", ino, thread, None);
            }
            Call::EndBio { bio, error } => {
                let mut thread = self.ending(bio, error);
                self.run(&mut thread);
                self.returns("end_bio", 0);
            }
            Call::RunWork { ino } => self.run_work(ino),
            Call::FlushCompleted { ino } => {
                let at = FlushCompleted::Splice(ino);
                let ret = self.run(&mut Thread::calling(Frame::DoFlushCompletedIo { at }));
                self.returns("flush_completed", ret);
            }
            Call::FailConvert { ino, ref errors } => {
                self.conversions.entry(ino).or_default().extend(errors);
                self.returns("fail_convert", 0);
            }
            Call::DioSubmit { ino, offset, len, is_async, fail_alloc } => {
                let write = DirectWrite { ino, offset, len, is_async, overwrite: false };
                let mut thread = Thread::calling(Frame::DirectIo { write, at: DirectIoAt::Enter });
                thread.fail_alloc = fail_alloc;
                let ret = self.run(&mut thread);
                self.end_call("dio_submit", ret, Some(thread.iocb));
            }
            Call::DioEnd { iocb, offset, bytes, ret, is_async } => {
                let end = EndDirectIo { iocb: IocbId(iocb), range: IoEndVec { offset, size: bytes }, ret, is_async };
                self.run(&mut Thread::calling(Frame::EndIoDio { end, at: EndDirectIoAt::Enter }));
                self.forget_iocb(end.iocb);
                self.returns("dio_end", 0);
            }
            Call::DioReturn { iocb, ret } => {
                let iocb = IocbId(iocb);
                let at = ReturnAt::Generic;
                let ret = self.run(&mut Thread::calling(Frame::DirectIoReturn { iocb, ret, at }));
                self.forget_iocb(iocb);
                self.returns("dio_return", ret);
            }
            Call::State => self.tell_state(),
        }
        self.forget_released();
    }

    fn returns(&mut self, call: &'static str, ret: i64) {
        self.end_call(call, ret, None);
    }

    /// A call that met a BUG does not return.
    fn end_call(&mut self, call: &'static str, ret: i64, iocb: Option<Option<IocbId>>) {
        if !self.is_dead() {
            self.path.tell(Event::Return { call, ret, iocb });
        }
    }

    /// Runs a thread to its end, and says what it returned.
    fn run(&mut self, thread: &mut Thread) -> i64 {
        while self.step(thread) {}
        thread.ret
    }

    /// One step. A conversion that is waited for comes back first.
    fn step(&mut self, thread: &mut Thread) -> bool {
        if let Some(ino) = thread.converts() {
            let result = self.conversions.get_mut(&ino).and_then(VecDeque::pop_front).unwrap_or(0);
            thread.conversion_returns(result);
        }
        self.path.step(thread) == Progress::Stepped
    }

    fn submit(&mut self, call: &'static str, ino: Ino, mut thread: Thread, mut race_error: Option<Errno>) {
        loop {
            if race_error.is_some() && thread.about_to_set_unwritten() {
                let first = thread.io().first_submitted.filter(|_| !self.path.dialect.io_end_per_bio);
                if let (Some(error), Some(bio)) = (race_error.take(), first) {
                    self.race(&mut thread, bio, error);
                }
            }
            if !self.step(&mut thread) {
                break;
            }
        }
        self.tell_left_locked(ino, &thread.taken);
        self.returns(call, thread.ret);
    }

    /// On another CPU the first bio fails: that CPU gets as far as to write `flag`, we set UNWRITTEN, it goes on.
    fn race(&mut self, thread: &mut Thread, bio: BioId, error: Errno) {
        let racy = self.path.has(Bug::RacyFlag);
        let mut other = self.ending(bio, error);
        while !other.about_to_write_error(racy) && self.step(&mut other) {}
        while thread.sets_unwritten() && self.step(thread) {}
        self.run(&mut other);
    }

    fn ending(&mut self, bio: BioId, error: Errno) -> Thread {
        let state = self.path.bio_mut(bio);
        (state.status, state.answered) = (error, true);
        Thread::calling(Frame::EndBio { bio, at: EndBio::MappingError })
    }

    fn tell_left_locked(&mut self, ino: Ino, taken: &[u64]) {
        if self.is_dead() {
            return;
        }
        for page in taken {
            if self.path.inode(ino).pages.get(page).is_some_and(|page| page.locked) {
                self.path.tell(Event::PageLeftLocked { ino, page: *page });
            }
        }
    }

    fn run_work(&mut self, ino: Ino) {
        if self.path.inode(ino).work_pending {
            self.run(&mut Thread::calling(Frame::EndIoRsvWork { ino }));
        }
        // The worker returns nothing to anyone.
        self.returns("run_work", 0);
    }

    fn tell_state(&mut self) {
        let states: Vec<_> = self.path.state.inodes.iter().map(|(ino, inode)| inode.tell(*ino)).collect();
        states.into_iter().for_each(|state| self.path.tell(Event::State(Box::new(state))));
    }

    /// An iocb that has ended and returned is touched no more.
    fn forget_iocb(&mut self, id: IocbId) {
        let iocbs = &mut self.path.state.iocbs;
        if iocbs.get(&id).is_some_and(|iocb| iocb.returned.is_some_and(|ret| iocb.ended || ret != EIOCBQUEUED)) {
            iocbs.remove(&id);
        }
    }

    /// A released io_end is touched by nobody but a direct write that has not returned yet.
    fn forget_released(&mut self) {
        let Path { state, events, .. } = &mut self.path;
        let mut released = std::mem::take(&mut self.outlived);
        released.extend(events.iter().filter_map(|event| match event {
            Event::ReleaseIoEnd { io_end, .. } => Some(*io_end),
            _ => None,
        }));
        for io_end in released {
            let direct = state.io_ends.get(&io_end).is_some_and(|io_end| io_end.flag.direct);
            if direct && state.iocbs.values().any(|iocb| iocb.io_end == Some(io_end)) {
                self.outlived.push(io_end);
            } else {
                state.io_ends.remove(&io_end);
            }
        }
    }
}

/// What happens within a call and is no line of its own.
fn is_line(event: &Event) -> bool {
    !matches!(event, Event::ConvertBegins { .. })
}

impl Inode {
    /// A buffer becomes dirty; one that has no block yet gets that of the extent, as it is now.
    pub(crate) fn dirty(&mut self, lblk: u64) {
        let page = lblk / self.blocks_per_page();
        let extent = self.extents.at(lblk);
        self.pages.entry(page).or_default();
        let buffer = self.buffer(lblk);
        buffer.dirty = true;
        if let (None, Some(extent)) = (buffer.pblk, extent) {
            buffer.pblk = Some(extent.pblk + (lblk - extent.lblk));
            buffer.uninit = extent.unwritten;
        }
    }

    fn tell(&self, ino: Ino) -> InodeState {
        InodeState {
            ino,
            i_ioend_count: self.i_ioend_count,
            i_unwritten: self.i_unwritten,
            i_dio_count: self.i_dio_count,
            extents: self.extents.iter().copied().collect(),
            splits: self.extents.splits,
            merges: self.extents.merges,
            locked_pages: self.pages.iter().filter(|(_, page)| page.locked).map(|(index, _)| *index).collect(),
            writeback_pages: self.writeback.keys().copied().collect(),
        }
    }
}
