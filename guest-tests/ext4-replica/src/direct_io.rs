//! Direct writes within the file's size: `ext4_ext_direct_IO` and `ext4_end_io_dio` (fs/ext4/inode.c, up to 3.11), and what
//! iomap has put in their place (`ext4_dio_write_end_io`, fs/ext4/file.c, 5.10 and later), as steps.
//!
//! What the generic code does in between is said from outside: that it called end_io, with what, and what it returned.

use crate::bug::Bug;
use crate::event::{Event, IocbId};
use crate::mutation::Mutation;
use crate::page_io::{ENOMEM, Path};
use crate::state::{IoEndVec, Iocb};
use crate::thread::{Convert, Frame, OrFlag, Put, Release, Thread};
use writeback_events::{BioId, Ino, IoEndId};

/// -EIOCBQUEUED: the write goes on behind the caller's back.
pub(crate) const EIOCBQUEUED: i64 = -529;

/// What a direct write asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DirectWrite {
    pub(crate) ino: Ino,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    pub(crate) is_async: bool,
    /// All its blocks are written already, and its caller knows: it converts nothing. Calls say nothing of it.
    pub(crate) overwrite: bool,
}

/// Steps of `ext4_ext_direct_IO` up to the point where the generic code waits or has queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum DirectIoAt {
    Enter,
    InitIoEnd,
    GetIoEnd(IoEndId),
    SetAio(IoEndId),
    /// With the io_end that was made, if any.
    Generic(Option<IoEndId>),
    GetBlock(Option<IoEndId>),
}

/// What the generic code tells `ext4_end_io_dio`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct EndDirectIo {
    pub(crate) iocb: IocbId,
    pub(crate) range: IoEndVec,
    pub(crate) ret: i64,
    pub(crate) is_async: bool,
}

/// Steps of `ext4_end_io_dio`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum EndDirectIoAt {
    Enter,
    /// Of iomap alone.
    Converted,
}

/// Steps of `ext4_ext_direct_IO` once the generic code has returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum ReturnAt {
    Generic,
    OwnPut,
    SecondPut,
    Convert,
    Converted,
}

impl Path {
    pub(crate) fn ext4_ext_direct_io(&mut self, thread: &mut Thread, write: DirectWrite, at: DirectIoAt) {
        let DirectWrite { ino, offset, len, is_async, overwrite } = write;
        let go = |thread: &mut Thread, at| thread.call(Frame::DirectIo { write, at });
        match at {
            DirectIoAt::Enter => {
                if offset.checked_add(len).is_none_or(|end| end > self.inode(ino).size) {
                    return;
                }
                self.inode(ino).aio = None;
                let needs_io_end = is_async && !self.iomap();
                go(thread, if needs_io_end { DirectIoAt::InitIoEnd } else { DirectIoAt::Generic(None) });
            }
            DirectIoAt::InitIoEnd => match self.alloc_io_end(thread, ino) {
                Some(io_end) => {
                    go(thread, DirectIoAt::GetIoEnd(io_end));
                    thread.call(Frame::InitIoEnd { io_end, ino });
                }
                None => thread.ret = ENOMEM,
            },
            DirectIoAt::GetIoEnd(io_end) => {
                self.io_end_mut(io_end).flag.direct = true;
                if !self.dialect.io_end_per_bio {
                    self.get_for_iocb(io_end);
                }
                go(thread, DirectIoAt::SetAio(io_end));
            }
            DirectIoAt::SetAio(io_end) => {
                self.inode(ino).aio = Some(io_end);
                go(thread, DirectIoAt::Generic(Some(io_end)));
            }
            DirectIoAt::Generic(io_end) => {
                self.state.born.iocbs += 1;
                let id = IocbId(self.state.born.iocbs);
                self.state.iocbs.insert(id, Iocb { overwrite, ..Iocb::new(ino, offset, io_end) });
                thread.iocb = Some(id);
                self.inode(ino).i_dio_count += 1;
                go(thread, DirectIoAt::GetBlock(io_end));
            }
            DirectIoAt::GetBlock(io_end) => self.dio_get_block(thread, write, io_end),
        }
    }

    fn get_for_iocb(&mut self, io_end: IoEndId) {
        let skipped = self.planted(Mutation::DioGetSkipped);
        let state = self.io_end_mut(io_end);
        state.count += i32::from(!skipped);
        let (count, unwritten) = (state.count, state.flag.unwritten);
        self.tell(Event::GetIoEnd { io_end, bio: None::<BioId>, count, unwritten });
    }

    /// Up to 4.6 the block mapping code finds the io_end through the inode, whosever it is by then.
    fn dio_get_block(&mut self, thread: &mut Thread, write: DirectWrite, own: Option<IoEndId>) {
        let inode = self.inode(write.ino);
        let end = (write.offset + write.len).div_ceil(1 << inode.block_bits);
        if !inode.extents.any_unwritten_or_hole(write.offset >> inode.block_bits, end) {
            return;
        }
        let found = inode.aio;
        let io_end = if self.has(Bug::AioPointer) { found } else { own };
        if io_end != own {
            self.acts(Bug::AioPointer);
        }
        match (io_end, thread.iocb) {
            (Some(io_end), _) => thread.call(Frame::SetIoUnwrittenFlag { io_end, at: OrFlag::Test }),
            (None, Some(iocb)) if self.iomap() => {
                self.state.iocbs.entry(iocb).and_modify(|iocb| iocb.unwritten = true);
            }
            (None, _) => self.inode(write.ino).dio_unwritten = true,
        }
    }

    /// Called where the last piece ends, in an interrupt or not.
    pub(crate) fn ext4_end_io_dio(&mut self, thread: &mut Thread, end: EndDirectIo, at: EndDirectIoAt) {
        let iocb = self.iocb_mut(end.iocb);
        iocb.ended = true;
        let (ino, private, unwritten) = (iocb.ino, iocb.private, iocb.unwritten);
        if at == EndDirectIoAt::Converted {
            let ret = if thread.ret != 0 { thread.ret } else { end.ret };
            return self.call_plain_end(thread, ino, EndDirectIo { ret, ..end });
        }
        if self.iomap() && unwritten && end.ret >= 0 && end.range.size > 0 {
            thread.call(Frame::EndIoDio { end, at: EndDirectIoAt::Converted });
            let range = end.range;
            return thread.call(Frame::ConvertUnwrittenExtents { ino, io_end: None, range, at: Convert::Enter });
        }
        match private {
            Some(io_end) if !self.dialect.io_end_per_bio || end.range.size > 0 => self.end_with(thread, io_end, end),
            _ => self.call_plain_end(thread, ino, end),
        }
    }

    fn end_with(&mut self, thread: &mut Thread, io_end: IoEndId, end: EndDirectIo) {
        self.iocb_mut(end.iocb).private = None;
        let per_bio = self.dialect.io_end_per_bio;
        let state = self.io_end_mut(io_end);
        if per_bio && !state.flag.unwritten {
            let ino = state.ino;
            self.call_plain_end(thread, ino, end);
            return thread.call(Frame::ReleaseIoEnd { io_end, at: Release::Check });
        }
        state.range = end.range;
        // Whether what was not written is converted all the same is a question of its own (74c66bcb7eda, 4.6).
        state.direct_failed = end.ret < 0;
        if end.is_async {
            state.aio = Some((end.iocb, end.ret));
        }
        if self.planted(Mutation::DioPutSkipped) {
            return;
        }
        thread.call(match per_bio {
            true => Frame::AddCompleteIo { io_end },
            false => Frame::PutIoEndDefer { io_end, at: Put::DecAndTest },
        });
    }

    fn call_plain_end(&self, thread: &mut Thread, ino: Ino, end: EndDirectIo) {
        if end.is_async {
            thread.call(Frame::AioComplete { iocb: end.iocb, result: end.ret });
        }
        thread.call(Frame::InodeDioDone { ino });
    }

    /// The rest of `ext4_ext_direct_IO`.
    pub(crate) fn ext4_ext_direct_io_returns(&mut self, thread: &mut Thread, iocb: IocbId, ret: i64, at: ReturnAt) {
        let go = |thread: &mut Thread, at| thread.call(Frame::DirectIoReturn { iocb, ret, at });
        let Iocb { ino, offset, io_end, ended, overwrite, .. } = *self.iocb_mut(iocb);
        match at {
            ReturnAt::Generic => {
                self.iocb_mut(iocb).returned = Some(ret);
                go(thread, ReturnAt::OwnPut);
                if !ended && ret != EIOCBQUEUED {
                    thread.call(Frame::InodeDioDone { ino });
                }
            }
            ReturnAt::OwnPut => {
                go(thread, ReturnAt::SecondPut);
                if let Some(io_end) = io_end {
                    self.inode(ino).aio = None;
                    if !self.dialect.io_end_per_bio {
                        thread.call(Frame::PutIoEnd { io_end, at: Put::DecAndTest });
                    }
                }
            }
            ReturnAt::SecondPut => {
                go(thread, ReturnAt::Convert);
                if ret <= 0 && ret != EIOCBQUEUED {
                    self.second_put(thread, iocb);
                }
            }
            ReturnAt::Convert if ret > 0 && !overwrite && self.inode(ino).dio_unwritten => {
                go(thread, ReturnAt::Converted);
                let range = IoEndVec { offset, size: ret as u64 };
                thread.call(Frame::ConvertUnwrittenExtents { ino, io_end: None, range, at: Convert::Enter });
            }
            ReturnAt::Convert => thread.ret = ret,
            ReturnAt::Converted => {
                self.inode(ino).dio_unwritten = false;
                thread.ret = if thread.ret != 0 { thread.ret } else { ret };
            }
        }
    }

    /// The iocb's reference, where `ext4_end_io_dio` has not dropped it.
    fn second_put(&mut self, thread: &mut Thread, id: IocbId) {
        let iocb = self.iocb_mut(id);
        let Some(io_end) = iocb.io_end else { return };
        let (private, ended) = (iocb.private.take(), iocb.ended);
        if self.dialect.io_end_per_bio {
            if private.is_some() {
                thread.call(Frame::ReleaseIoEnd { io_end, at: Release::Check });
                if self.has(Bug::DioFreeUnwritten) && self.io_end(io_end).flag.unwritten {
                    self.acts(Bug::DioFreeUnwritten);
                } else {
                    thread.call(Frame::ClearIoUnwrittenFlag { io_end, at: OrFlag::Test });
                }
            }
            return;
        }
        if private.is_none() {
            if !self.has(Bug::DioDoublePut) {
                return;
            }
            self.acts(Bug::DioDoublePut);
            self.tell(Event::Warn { function: "ext4_ext_direct_IO", what: "private_not_io_end" });
        }
        if self.planted(Mutation::SecondPutSkipped) {
            return;
        }
        match self.has(Bug::DioDoubleDone) {
            true if !ended => self.acts(Bug::DioDoubleDone),
            false if !ended => self.drop_direct(io_end),
            _ => {}
        }
        thread.call(Frame::PutIoEnd { io_end, at: Put::DecAndTest });
    }

    /// The generic code has called `inode_dio_done` already.
    fn drop_direct(&mut self, io_end: IoEndId) {
        let zeroed = self.has(Bug::DioFlagZeroed);
        let flag = &mut self.io_end_mut(io_end).flag;
        flag.direct = false;
        if zeroed && std::mem::take(&mut flag.unwritten) {
            self.acts(Bug::DioFlagZeroed);
            self.tell(Event::Warn { function: "ext4_ext_direct_IO", what: "unwritten" });
        }
    }

    fn iocb_mut(&mut self, id: IocbId) -> &mut Iocb {
        self.state.iocbs.get_mut(&id).expect("an iocb is kept until it has ended and returned")
    }
}

impl Iocb {
    fn new(ino: Ino, offset: u64, io_end: Option<IoEndId>) -> Iocb {
        Iocb { ino, offset, io_end, private: io_end, unwritten: false, overwrite: false, ended: false, returned: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dialect;
    use crate::bug::Bugs;
    use crate::extents::{Extent, ExtentMap};
    use crate::state::Inode;
    use crate::thread::Progress;

    const INO: Ino = Ino(12);

    fn path(bugs: Bugs) -> Path {
        let mut path = Path::new(Dialect::SEED.with_bugs(bugs), None, 4096);
        let extents = ExtentMap::new(&[Extent { lblk: 0, len: 2, pblk: 100, unwritten: true }]);
        path.state.inodes.insert(INO, Inode { block_bits: 12, size: 8192, extents, ..Inode::default() });
        path
    }

    fn begin(offset: u64, is_async: bool) -> Thread {
        let write = DirectWrite { ino: INO, offset, len: 4096, is_async, overwrite: false };
        Thread::calling(Frame::DirectIo { write, at: DirectIoAt::Enter })
    }

    /// B12: while one asynchronous write is about to map its blocks, another begins. The inode has room for one pointer.
    #[test]
    fn two_writes_share_one_pointer_to_an_io_end() {
        for (bugs, flags, state) in
            [(Bugs::NONE, [true, true], false), (Bugs::of(&[Bug::AioPointer]), [false, true], false)]
        {
            let mut path = path(bugs);
            let (mut first, mut second) = (begin(0, true), begin(4096, true));
            while first.iocb.is_none() && path.step(&mut first) == Progress::Stepped {}
            path.run(&mut second);
            path.run(&mut first);
            let unwritten = [1, 2].map(|io_end| path.io_end(IoEndId(io_end)).flag.unwritten);
            assert_eq!((unwritten, path.inode(INO).dio_unwritten), (flags, state));
        }
    }

    #[test]
    fn a_synchronous_write_in_between_sends_the_flag_to_the_inode() {
        let mut path = path(Bugs::of(&[Bug::AioPointer]));
        let mut first = begin(0, true);
        while first.iocb.is_none() && path.step(&mut first) == Progress::Stepped {}
        path.inode(INO).extents.convert(1, 2);
        path.run(&mut begin(4096, false));
        path.run(&mut first);
        assert!(!path.io_end(IoEndId(1)).flag.unwritten && path.inode(INO).dio_unwritten);
    }
}
