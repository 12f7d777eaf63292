//! What the path says as it happens: one event per thing that a reader outside can see.
//!
//! As JSON an event is one line of the replica's calls. A lockstep run tells of some of them as a [`Response`], with
//! fields of its own that no line of a call has.

use crate::extents::Extent;
use serde::Serialize;
use writeback_events::{BioId, Errno, Ino, IoEndId, Response};

/// Number of a direct write, from 1 in the order in which the generic code was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IocbId(pub u32);

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
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
        bio: Option<BioId>,
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
        unwritten: bool,
    },
    PutIoEnd {
        io_end: IoEndId,
        count: i32,
        unwritten: bool,
    },
    AddCompleteIo {
        io_end: IoEndId,
        queued: bool,
    },
    /// `ext4_convert_unwritten_extents` is entered; its result is not known yet. Not a line.
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

/// One line: the event's name, then fields by the names of their bindings.
macro_rules! line {
    ($out:ident, $name:literal $(, $field:ident)*) => {{
        $out.extend_from_slice(concat!("{\"ev\":\"", $name, "\"").as_bytes());
        $(
            $out.extend_from_slice(concat!(",\"", stringify!($field), "\":").as_bytes());
            $field.put($out);
        )*
        $out.extend_from_slice(b"}\n");
    }};
}

impl Event {
    /// Appends its line, if it is one. Written by hand, since a run of calls does little else.
    pub(crate) fn write_line(&self, out: &mut Vec<u8>) {
        match *self {
            Event::InitIoEnd { io_end, ino, count, i_ioend_count } => {
                line!(out, "init_io_end", io_end, ino, count, i_ioend_count);
            }
            Event::AllocFailed { ino } => line!(out, "alloc_failed", ino),
            Event::GetIoEnd { io_end, count, .. } => line!(out, "get_io_end", io_end, count),
            Event::SubmitBio { bio, io_end, sector, bytes, sync } => {
                line!(out, "submit_bio", bio, io_end, sector, bytes, sync);
            }
            Event::SetUnwritten { io_end, i_unwritten } => line!(out, "set_unwritten", io_end, i_unwritten),
            Event::EndBio { bio, io_end, error } => line!(out, "end_bio", bio, io_end, error),
            Event::EndPageWriteback { ino, page, error } => line!(out, "end_page_writeback", ino, page, error),
            Event::PutIoEndDefer { io_end, count, .. } => line!(out, "put_io_end_defer", io_end, count),
            Event::PutIoEnd { io_end, count, .. } => line!(out, "put_io_end", io_end, count),
            Event::AddCompleteIo { io_end, queued } => line!(out, "add_complete_io", io_end, queued),
            Event::ConvertBegins { .. } => {}
            Event::ConvertUnwritten { ino, io_end, offset, size, result } => {
                line!(out, "convert_unwritten", ino, io_end, offset, size, result);
            }
            Event::ClearUnwritten { io_end, i_unwritten } => line!(out, "clear_unwritten", io_end, i_unwritten),
            Event::ReleaseIoEnd { io_end, i_ioend_count, .. } => line!(out, "release_io_end", io_end, i_ioend_count),
            Event::InodeDioDone { ino, i_dio_count } => line!(out, "inode_dio_done", ino, i_dio_count),
            Event::AioComplete { iocb, result } => line!(out, "aio_complete", iocb, result),
            Event::PageLeftLocked { ino, page } => line!(out, "page_left_locked", ino, page),
            Event::RedirtyPage { ino, page } => line!(out, "redirty_page", ino, page),
            Event::Bug { function, what } => line!(out, "bug", function, what),
            Event::Warn { function, what } => line!(out, "warn", function, what),
            Event::Return { call, ret, iocb: None } => line!(out, "return", call, ret),
            Event::Return { call, ret, iocb: Some(iocb) } => line!(out, "return", call, ret, iocb),
            Event::State(ref state) => state.write_line(out),
            Event::Dead => line!(out, "dead"),
        }
    }

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

impl InodeState {
    fn write_line(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"{\"ev\":\"state\",");
        let rest = out.len();
        serde_json::to_writer(&mut *out, self).expect("a plain object, and memory takes it");
        out.remove(rest);
        out.push(b'\n');
    }
}

/// A value of a field, as JSON.
trait Put {
    fn put(&self, out: &mut Vec<u8>);
}

macro_rules! put_number {
    ($($type:ty),*) => {
        $(impl Put for $type {
            fn put(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(itoa::Buffer::new().format(*self).as_bytes());
            }
        })*
    };
}

macro_rules! put_id {
    ($($type:ty),*) => {
        $(impl Put for $type {
            fn put(&self, out: &mut Vec<u8>) {
                self.0.put(out);
            }
        })*
    };
}

put_number!(u32, i32, u64, i64);
put_id!(IoEndId, BioId, Ino, IocbId);

impl Put for bool {
    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(if *self { b"true" } else { b"false" });
    }
}

/// Names of our own, which need no escaping.
impl Put for &'static str {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(b'"');
        out.extend_from_slice(self.as_bytes());
        out.push(b'"');
    }
}

impl<T: Put> Put for Option<T> {
    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Some(value) => value.put(out),
            None => out.extend_from_slice(b"null"),
        }
    }
}
