//! What the path says as it happens: one event per thing that a reader outside can see.
//!
//! As JSON an event is one line of the replica's calls. A lockstep run tells of some of them as a [`Response`], with
//! fields of its own that no line of a call has.

use crate::extents::Extent;
use serde::Serialize;
use writeback_events::{BioId, Errno, Ino, IoEndId, Response};

/// Number of a direct write, from 1 in the order in which the generic code was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct IocbId(pub u32);

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "ev", rename_all = "snake_case")]
#[allow(missing_docs, reason = "docs/replica.md has a table of all events and their fields")]
pub enum Event {
    InitIoEnd {
        io_end: IoEndId,
        ino: Ino,
        count: i32,
        i_ioend_count: i64,
    },
    AllocFailed {
        ino: Ino,
    },
    GetIoEnd {
        io_end: IoEndId,
        count: i32,
        #[serde(skip)]
        bio: Option<BioId>,
        #[serde(skip)]
        unwritten: bool,
    },
    SubmitBio {
        bio: BioId,
        io_end: IoEndId,
        sector: u64,
        bytes: u64,
        sync: bool,
    },
    SetUnwritten {
        io_end: IoEndId,
        i_unwritten: i64,
    },
    EndBio {
        bio: BioId,
        io_end: IoEndId,
        error: Errno,
    },
    EndPageWriteback {
        ino: Ino,
        page: u64,
        error: bool,
    },
    PutIoEndDefer {
        io_end: IoEndId,
        count: i32,
        #[serde(skip)]
        unwritten: bool,
    },
    PutIoEnd {
        io_end: IoEndId,
        count: i32,
        #[serde(skip)]
        unwritten: bool,
    },
    AddCompleteIo {
        io_end: IoEndId,
        queued: bool,
    },
    /// `ext4_convert_unwritten_extents` is entered; its result is not known yet. Not a line.
    #[serde(skip)]
    ConvertBegins {
        ino: Ino,
        io_end: IoEndId,
        offset: u64,
        size: u64,
    },
    ConvertUnwritten {
        ino: Ino,
        io_end: Option<IoEndId>,
        offset: u64,
        size: u64,
        result: Errno,
    },
    ClearUnwritten {
        io_end: IoEndId,
        i_unwritten: i64,
    },
    ReleaseIoEnd {
        io_end: IoEndId,
        i_ioend_count: i64,
        #[serde(skip)]
        unwritten: bool,
    },
    InodeDioDone {
        ino: Ino,
        i_dio_count: i64,
    },
    AioComplete {
        iocb: IocbId,
        result: i64,
    },
    PageLeftLocked {
        ino: Ino,
        page: u64,
    },
    RedirtyPage {
        ino: Ino,
        page: u64,
    },
    Bug {
        function: &'static str,
        what: &'static str,
    },
    Warn {
        function: &'static str,
        what: &'static str,
    },
    Return {
        call: &'static str,
        ret: i64,
        /// Of `dio_submit` alone.
        #[serde(skip_serializing_if = "Option::is_none")]
        iocb: Option<Option<IocbId>>,
    },
    State(Box<InodeState>),
    Dead,
}

/// What `state` says of one inode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[allow(missing_docs, reason = "docs/replica.md has a table of all events and their fields")]
pub struct InodeState {
    pub ino: Ino,
    pub i_ioend_count: i64,
    pub i_unwritten: i64,
    pub i_dio_count: i64,
    pub extents: Vec<Extent>,
    pub splits: u64,
    pub merges: u64,
    pub locked_pages: Vec<u64>,
    pub writeback_pages: Vec<u64>,
}

impl Event {
    /// What a lockstep run says of it.
    pub(crate) fn response(&self) -> Option<Response> {
        Some(match *self {
            Event::InitIoEnd { io_end, ino, count, .. } => {
                Response::InitIoEnd { io_end, ino, count: count as u32, unwritten: false }
            }
            Event::AllocFailed { ino } => Response::AllocFailed { ino },
            Event::GetIoEnd { io_end, count, bio, unwritten } => {
                Response::GetIoEnd { io_end, bio: bio?, count: count as u32, unwritten }
            }
            Event::SubmitBio { bio, io_end, sector, bytes, .. } => Response::SubmitBio { bio, io_end, sector, bytes },
            Event::EndBio { bio, io_end, error } => Response::EndBio { bio, io_end, error },
            Event::EndPageWriteback { ino, page, .. } => Response::EndPageWriteback { ino, page },
            Event::PutIoEndDefer { io_end, count, unwritten } => {
                Response::PutIoEndDefer { io_end, count: count as u32, unwritten }
            }
            Event::PutIoEnd { io_end, count, unwritten } => {
                Response::PutIoEnd { io_end, count: count as u32, unwritten }
            }
            Event::AddCompleteIo { io_end, queued } => Response::AddCompleteIo { io_end, queued },
            Event::ConvertBegins { ino, io_end, offset, size } => {
                Response::ConvertUnwritten { ino, io_end, offset, size }
            }
            Event::ReleaseIoEnd { io_end, unwritten, .. } => Response::ReleaseIoEnd { io_end, unwritten },
            _ => return None,
        })
    }
}
