//! Threads: which kernel functions they are in, and the step each takes next.
//!
//! A [`Frame`] is one function under way; a [`Thread`] is a stack of them. What a step does is in `page_io.rs`,
//! `writeback.rs` and `direct_io.rs`. Threads are ordered values like the state: a search keeps those it has seen.

use crate::direct_io::{DirectIoAt, DirectWrite, EndDirectIo, EndDirectIoAt, ReturnAt};
use crate::event::IocbId;
use crate::state::{Flag, IoEndVec};
use crate::writeback::{AddBh, BioWritePage, SubmitAt, Submitter};
use std::collections::VecDeque;
use writeback_events::{BioId, Errno, Ino, IoEndId};

/// A kernel function under way, at its next step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Frame {
    InitIoEnd { io_end: IoEndId, ino: Ino },
    SetIoUnwrittenFlag { io_end: IoEndId, at: OrFlag },
    Submit { by: Submitter, ino: Ino, at: SubmitAt },
    BioWritePage { ino: Ino, page: u64, at: BioWritePage },
    IoSubmitAddBh { ino: Ino, lblk: u64, at: AddBh },
    GetIoEnd { io_end: IoEndId, bio: BioId },
    IoSubmit { bio: BioId, sector: u64, bytes: u64, sync: bool },
    EndBio { bio: BioId, at: EndBio },
    SetErrorFlag { io_end: IoEndId, at: OrFlag },
    FinishBio { bio: BioId, segment: usize, at: FinishBio },
    PutIoEndDefer { io_end: IoEndId, at: Put },
    PutIoEnd { io_end: IoEndId, at: Put },
    AddCompleteIo { io_end: IoEndId },
    EndIoRsvWork { ino: Ino },
    DoFlushCompletedIo { at: FlushCompleted },
    EndIoEnd { io_end: IoEndId, at: EndIoEnd },
    ConvertUnwrittenIoEndVec { io_end: IoEndId, next: usize },
    ConvertUnwrittenExtents { ino: Ino, io_end: Option<IoEndId>, range: IoEndVec, at: Convert },
    ClearIoUnwrittenFlag { io_end: IoEndId, at: OrFlag },
    ReleaseIoEnd { io_end: IoEndId, at: Release },
    InodeDioDone { ino: Ino },
    AioComplete { iocb: IocbId, result: i64 },
    DirectIo { write: DirectWrite, at: DirectIoAt },
    EndIoDio { end: EndDirectIo, at: EndDirectIoAt },
    DirectIoReturn { iocb: IocbId, ret: i64, at: ReturnAt },
}

/// Steps of a plain `flag |=` or `flag &=`, and of the counter that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum OrFlag {
    Test,
    Read,
    /// What was read is written back, changed. One step with the read where the change is atomic.
    Write(Flag),
    Count,
}

/// Steps of `ext4_end_bio`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum EndBio {
    MappingError,
    TestFlag,
    ChainBio,
}

/// Steps of `ext4_finish_bio`, once per segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FinishBio {
    MappingError,
    ClearAsyncWrite,
}

/// Steps of both puts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Put {
    DecAndTest,
    TestFlag,
}

/// Steps of `ext4_do_flush_completed_IO`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum FlushCompleted {
    Splice(Ino),
    /// What is left, and the first error so far.
    Next(VecDeque<IoEndId>, i64),
}

/// Steps of `ext4_end_io_end` (`ext4_end_io`), with the conversion's error once it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum EndIoEnd {
    Convert,
    ClearFlag,
    Release(i64),
    Return(i64),
}

/// `ext4_convert_unwritten_extents` is one call outwards: it is entered, and comes back with a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Convert {
    Enter,
    Return,
}

/// Steps of `ext4_release_io_end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Release {
    Check,
    NextBio,
}

/// A kernel thread, or an interrupt: the functions it is in, the innermost last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Thread {
    pub(crate) stack: Vec<Frame>,
    /// What `ext4_convert_unwritten_extents` came back with, once it has.
    pub(crate) conversion: Option<Errno>,
    /// What the last function returned.
    pub(crate) ret: i64,
    /// `struct ext4_io_submit` of a thread that fills its bios itself. One that follows a trace has none.
    pub(crate) io: Option<IoSubmit>,
    /// The next allocation of an io_end fails.
    pub(crate) fail_alloc: bool,
    /// Pages it has locked, whether or not they still are.
    pub(crate) taken: Vec<u64>,
    /// The direct write it has begun.
    pub(crate) iocb: Option<IocbId>,
}

/// `struct ext4_io_submit`, and the first bio that has left it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct IoSubmit {
    pub(crate) io_end: Option<IoEndId>,
    pub(crate) io_bio: Option<BioId>,
    pub(crate) io_next_block: u64,
    /// `io_op` is WRITE_SYNC.
    pub(crate) sync: bool,
    pub(crate) first_submitted: Option<BioId>,
}

/// What became of a thread by one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// It took a step.
    Stepped,
    /// It is in `ext4_convert_unwritten_extents`, whose result is not known yet.
    WaitsForConversion,
    /// It is in no function of the path any more, or the machine is dead.
    Done,
}

impl Thread {
    pub(crate) fn calling(frame: Frame) -> Thread {
        Thread { stack: vec![frame], ..Thread::default() }
    }

    /// The two functions called last change places: a planted mistake.
    pub(crate) fn last_two_swapped(&mut self) {
        if let [.., before, last] = &mut self.stack[..] {
            std::mem::swap(before, last);
        }
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

    /// The next step is the atomic one of `ext4_put_io_end_defer`.
    pub(crate) fn about_to_put(&self) -> bool {
        matches!(self.stack.last(), Some(Frame::PutIoEndDefer { at: Put::DecAndTest, .. }))
    }

    /// The inode whose conversion it waits for, if it does.
    pub(crate) fn converts(&self) -> Option<Ino> {
        match self.stack.last() {
            Some(Frame::ConvertUnwrittenExtents { ino, at: Convert::Return, .. }) => Some(*ino),
            _ => None,
        }
    }

    /// It has found UNWRITTEN not set and is about to set it.
    pub(crate) fn about_to_set_unwritten(&self) -> bool {
        matches!(self.stack.last(), Some(Frame::SetIoUnwrittenFlag { at: OrFlag::Read, .. }))
    }

    /// It is within the function that sets UNWRITTEN.
    pub(crate) fn sets_unwritten(&self) -> bool {
        matches!(self.stack.last(), Some(Frame::SetIoUnwrittenFlag { .. }))
    }

    /// Its next step changes the word that UNWRITTEN is in, for a failed bio.
    pub(crate) fn about_to_write_error(&self, racy: bool) -> bool {
        match self.stack.last() {
            Some(Frame::SetErrorFlag { at: OrFlag::Write(_), .. }) => true,
            Some(Frame::SetErrorFlag { at: OrFlag::Read, .. }) => !racy,
            _ => false,
        }
    }

    /// The `ext4_io_submit` of a thread that fills its bios itself.
    pub(crate) fn io(&mut self) -> &mut IoSubmit {
        self.io.as_mut().expect("only a thread with an ext4_io_submit adds buffers")
    }
}
