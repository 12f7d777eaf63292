//! Responses: what is judged. Each carries the state after it, so that the first difference shows where it arose.

use crate::id::{BioId, Ino, IoEndId, OpId, RequestId};
use crate::stimulus::Errno;
use serde::{Deserialize, Serialize};

/// One step of the writeback path, as the guest's trace shows it or as the replica takes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ev", rename_all = "snake_case")]
pub enum Response {
    /// An io_end is born.
    InitIoEnd {
        /// Its number.
        io_end: IoEndId,
        /// Its inode.
        ino: Ino,
        /// References: 1.
        count: u32,
        /// EXT4_IO_END_UNWRITTEN: not set.
        unwritten: bool,
    },
    /// An io_end could not be allocated. Uses up no number.
    AllocFailed {
        /// The inode it was for.
        ino: Ino,
    },
    /// A bio takes its reference.
    GetIoEnd {
        /// On which io_end.
        io_end: IoEndId,
        /// The bio.
        bio: BioId,
        /// References afterwards.
        count: u32,
        /// EXT4_IO_END_UNWRITTEN at that moment.
        unwritten: bool,
    },
    /// A bio is submitted.
    SubmitBio {
        /// Which one.
        bio: BioId,
        /// Its io_end.
        io_end: IoEndId,
        /// First sector.
        sector: u64,
        /// Length in bytes.
        bytes: u64,
    },
    /// A submitted bio reaches outside the folios handed over for its io_end. Only the replica can say so, so it is
    /// always a difference.
    BioOutsideFolios {
        /// Which one.
        bio: BioId,
        /// Its io_end.
        io_end: IoEndId,
    },
    /// The block layer ends a request with this error.
    RequestError {
        /// Which one.
        request: RequestId,
        /// 0 or a negative errno.
        errno: Errno,
    },
    /// `ext4_end_bio` runs for a bio.
    EndBio {
        /// Which one.
        bio: BioId,
        /// Its io_end.
        io_end: IoEndId,
        /// 0 or the negative errno of the first of its requests that failed.
        error: Errno,
    },
    /// A reference is dropped by `ext4_put_io_end_defer`.
    PutIoEndDefer {
        /// On which io_end.
        io_end: IoEndId,
        /// References afterwards.
        count: u32,
        /// EXT4_IO_END_UNWRITTEN at that moment.
        unwritten: bool,
    },
    /// A reference is dropped by `ext4_put_io_end`.
    PutIoEnd {
        /// On which io_end.
        io_end: IoEndId,
        /// References afterwards.
        count: u32,
        /// EXT4_IO_END_UNWRITTEN at that moment.
        unwritten: bool,
    },
    /// The last reference is gone and the io_end waits for the worker.
    AddCompleteIo {
        /// Which one.
        io_end: IoEndId,
        /// The list was empty, so the work was queued.
        queued: bool,
    },
    /// An extent of an io_end is converted (`ext4_convert_unwritten_extents` is entered).
    ConvertUnwritten {
        /// The inode.
        ino: Ino,
        /// The io_end.
        io_end: IoEndId,
        /// First byte.
        offset: u64,
        /// Bytes.
        size: u64,
    },
    /// An io_end ends (`ext4_release_io_end`).
    ReleaseIoEnd {
        /// Which one.
        io_end: IoEndId,
        /// EXT4_IO_END_UNWRITTEN: not set any more.
        unwritten: bool,
    },
    /// A folio leaves writeback.
    EndPageWriteback {
        /// The inode.
        ino: Ino,
        /// First page of the folio.
        page: u64,
    },
    /// A task leaves `ext4_writepages` still holding a reference. Only the replica can say so.
    HeldAtLeave {
        /// On which io_end.
        io_end: IoEndId,
    },
    /// What an operation returned.
    OpResult {
        /// Which one.
        op: OpId,
        /// 0 or a negative errno.
        errno: Errno,
    },
}

/// What a response is about. Responses about one subject come in one order; between subjects no order is judged but that a
/// response follows the stimulus that caused it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// An io_end, with its bios.
    IoEnd(IoEndId),
    /// An inode: allocation failures and folios that leave writeback.
    Inode(Ino),
    /// A block request.
    Request(RequestId),
    /// An operation of the workload.
    Op(OpId),
}

impl Response {
    /// What this response is about.
    pub fn subject(&self) -> Subject {
        match *self {
            Response::InitIoEnd { io_end, .. }
            | Response::GetIoEnd { io_end, .. }
            | Response::SubmitBio { io_end, .. }
            | Response::BioOutsideFolios { io_end, .. }
            | Response::EndBio { io_end, .. }
            | Response::PutIoEndDefer { io_end, .. }
            | Response::PutIoEnd { io_end, .. }
            | Response::AddCompleteIo { io_end, .. }
            | Response::ConvertUnwritten { io_end, .. }
            | Response::ReleaseIoEnd { io_end, .. }
            | Response::HeldAtLeave { io_end } => Subject::IoEnd(io_end),
            Response::AllocFailed { ino } | Response::EndPageWriteback { ino, .. } => Subject::Inode(ino),
            Response::RequestError { request, .. } => Subject::Request(request),
            Response::OpResult { op, .. } => Subject::Op(op),
        }
    }
}
