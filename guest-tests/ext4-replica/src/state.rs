//! What the threads of the path share: inodes with their folios and conversion lists, io_ends, bios.
//!
//! Nothing here decides. io_ends stay after their release, marked, so that a step that touches a released one (only a
//! planted mistake can) shows itself as a wrong count and not as a panic.

use crate::errseq::ErrSeq;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use writeback_events::{BioId, Errno, Ino, IoEndId};

/// Everything that is shared.
#[derive(Clone, Debug, Default)]
pub(crate) struct State {
    pub(crate) inodes: BTreeMap<Ino, Inode>,
    pub(crate) io_ends: BTreeMap<IoEndId, IoEnd>,
    pub(crate) bios: BTreeMap<BioId, Bio>,
}

/// `struct ext4_inode_info` and its mapping, as far as writeback needs them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inode {
    /// Folios under writeback, by first page.
    pub(crate) writeback: BTreeMap<u64, Folio>,
    /// `i_rsv_conversion_list`.
    pub(crate) rsv_conversion_list: VecDeque<IoEndId>,
    /// `i_rsv_conversion_work` is pending.
    pub(crate) work_pending: bool,
    /// The mapping's `wb_err`.
    pub(crate) wb_err: ErrSeq,
}

/// A folio under writeback.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Folio {
    /// File blocks whose buffers carry BH_Async_Write.
    pub(crate) async_write: BTreeSet<u64>,
}

/// `struct ext4_io_end`.
#[derive(Clone, Debug)]
pub(crate) struct IoEnd {
    pub(crate) ino: Ino,
    pub(crate) count: u32,
    /// EXT4_IO_END_UNWRITTEN.
    pub(crate) unwritten: bool,
    /// A bio of it failed. Of later kernels EXT4_IO_END_FAILED; 6.1 does not keep it.
    pub(crate) failed: bool,
    /// `list_vec`.
    pub(crate) list_vec: Vec<IoEndVec>,
    /// The chain on `bio`: each new one is put before the rest.
    pub(crate) bio: VecDeque<BioId>,
}

/// `struct ext4_io_end_vec`, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IoEndVec {
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

/// A bio of the path.
#[derive(Clone, Debug)]
pub(crate) struct Bio {
    /// `bi_private`.
    pub(crate) io_end: IoEndId,
    /// What it writes, in order.
    pub(crate) segments: Vec<Segment>,
    /// `bi_status` as an errno.
    pub(crate) status: Errno,
}

/// The part of a bio that lies in one folio.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// First page of the folio.
    pub(crate) page: u64,
    /// File blocks.
    pub(crate) blocks: Vec<u64>,
}
