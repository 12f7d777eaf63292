//! What the threads of the path share: inodes with their pages, extents and conversion lists, io_ends, bios, direct writes.
//!
//! Nothing here decides. A released io_end stays, marked, as long as anything can still touch it, so that a step that does
//! shows itself as a wrong count and not as a panic. Everything is ordered and hashable: a search keeps states it has seen.

use crate::errseq::ErrSeq;
use crate::event::IocbId;
use crate::extents::ExtentMap;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use writeback_events::{BioId, Errno, Ino, IoEndId};

/// Bytes of a page.
pub(crate) const PAGE_BYTES: u64 = 4096;

/// Everything that is shared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) inodes: BTreeMap<Ino, Inode>,
    pub(crate) io_ends: BTreeMap<IoEndId, IoEnd>,
    pub(crate) bios: BTreeMap<BioId, Bio>,
    pub(crate) iocbs: BTreeMap<IocbId, Iocb>,
    /// What `bio_get_nr_vecs` answers.
    pub(crate) max_pages: u32,
    /// How many of each have been numbered.
    pub(crate) born: Born,
    /// A BUG was met: nothing steps any more.
    pub(crate) dead: bool,
}

/// Last numbers given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Born {
    pub(crate) io_ends: u32,
    pub(crate) bios: u32,
    pub(crate) iocbs: u32,
}

/// `struct ext4_inode_info`, its inode and its mapping, as far as writeback needs them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Inode {
    /// `i_blkbits`; 0 where blocks are the trace's business.
    pub(crate) block_bits: u32,
    /// `i_size`.
    pub(crate) size: u64,
    pub(crate) extents: ExtentMap,
    /// Pages in the cache, where a driver keeps any.
    pub(crate) pages: BTreeMap<u64, Page>,
    /// Folios under writeback, by first page.
    pub(crate) writeback: BTreeMap<u64, Folio>,
    pub(crate) i_ioend_count: i64,
    pub(crate) i_unwritten: i64,
    pub(crate) i_dio_count: i64,
    /// `i_completed_io_list`, later `i_rsv_conversion_list`.
    pub(crate) completed_io_list: VecDeque<IoEndId>,
    /// `i_unwritten_work`, later `i_rsv_conversion_work`, is pending.
    pub(crate) work_pending: bool,
    /// `i_private`: the io_end of the asynchronous direct write that is mapping its blocks (`ext4_inode_aio`).
    pub(crate) aio: Option<IoEndId>,
    /// EXT4_STATE_DIO_UNWRITTEN.
    pub(crate) dio_unwritten: bool,
    /// The mapping's `wb_err`.
    pub(crate) wb_err: ErrSeq,
}

/// A page in the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Page {
    /// PG_locked.
    pub(crate) locked: bool,
    /// The first `4096 >> block_bits` of them are there.
    pub(crate) buffers: [Buffer; 4],
}

/// `struct buffer_head`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Buffer {
    pub(crate) dirty: bool,
    /// `b_blocknr`, where BH_Mapped.
    pub(crate) pblk: Option<u64>,
    /// BH_Uninit.
    pub(crate) uninit: bool,
}

/// A folio under writeback.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Folio {
    /// File blocks whose buffers carry BH_Async_Write.
    pub(crate) async_write: BTreeSet<u64>,
    /// A bio with a part of it failed since its writeback began.
    pub(crate) error: bool,
}

/// `struct ext4_io_end`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct IoEnd {
    pub(crate) ino: Ino,
    pub(crate) count: i32,
    pub(crate) flag: Flag,
    /// `offset` and `size`, where one range stands for all.
    pub(crate) range: IoEndVec,
    /// `list_vec`.
    pub(crate) list_vec: Vec<IoEndVec>,
    /// The chain on `bio`: each new one is put before the rest.
    pub(crate) bio: VecDeque<BioId>,
    /// `iocb` and `result`.
    pub(crate) aio: Option<(IocbId, i64)>,
    /// It is on the inode's list.
    pub(crate) listed: bool,
    /// The direct write that it belongs to ended with an error.
    pub(crate) direct_failed: bool,
    pub(crate) released: bool,
}

/// `flag` of an io_end. One word: a plain change of it is a read and a write of all three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Flag {
    /// EXT4_IO_END_UNWRITTEN.
    pub(crate) unwritten: bool,
    /// EXT4_IO_END_ERROR, of later kernels EXT4_IO_END_FAILED: a bio of it failed. 6.1 does not keep it.
    pub(crate) error: bool,
    /// EXT4_IO_END_DIRECT.
    pub(crate) direct: bool,
}

/// `struct ext4_io_end_vec`, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct IoEndVec {
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

/// A bio of the path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Bio {
    /// `bi_private`.
    pub(crate) io_end: IoEndId,
    /// What it writes, in order.
    pub(crate) segments: Vec<Segment>,
    /// `bi_status` as an errno.
    pub(crate) status: Errno,
    /// The device has answered. A chained bio is still there then.
    pub(crate) answered: bool,
    /// First block on the disk, bytes, and segments it may have: while it is filled by the path itself.
    pub(crate) pblk: u64,
    pub(crate) bytes: u64,
    pub(crate) max_segments: u32,
}

/// The part of a bio that lies in one folio.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Segment {
    /// First page of the folio.
    pub(crate) page: u64,
    /// File blocks.
    pub(crate) blocks: Vec<u64>,
}

/// A direct write: `struct kiocb`, and what `ext4_ext_direct_IO` keeps of it on its stack.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Iocb {
    pub(crate) ino: Ino,
    pub(crate) offset: u64,
    /// The io_end that `ext4_ext_direct_IO` made.
    pub(crate) io_end: Option<IoEndId>,
    /// `private`: the io_end, until `ext4_end_io_dio` takes it off.
    pub(crate) private: Option<IoEndId>,
    /// It changes nothing but data.
    pub(crate) overwrite: bool,
    /// IOMAP_DIO_UNWRITTEN.
    pub(crate) unwritten: bool,
    /// The generic code has called `ext4_end_io_dio`.
    pub(crate) ended: bool,
    /// What the generic code has returned, if it has.
    pub(crate) returned: Option<i64>,
}

impl IoEnd {
    pub(crate) fn new(ino: Ino, count: i32) -> IoEnd {
        let (flag, range, list_vec, bio) = (Flag::default(), IoEndVec::default(), Vec::new(), VecDeque::new());
        IoEnd {
            ino,
            count,
            flag,
            range,
            list_vec,
            bio,
            aio: None,
            listed: false,
            direct_failed: false,
            released: false,
        }
    }
}

impl Bio {
    pub(crate) fn of(io_end: IoEndId) -> Bio {
        Bio { io_end, segments: Vec::new(), status: 0, answered: false, pblk: 0, bytes: 0, max_segments: 0 }
    }
}

impl Inode {
    /// The buffer of a file block that a driver has put into the cache.
    pub(crate) fn buffer(&mut self, lblk: u64) -> &mut Buffer {
        let per_page = self.blocks_per_page();
        let page = self.pages.get_mut(&(lblk / per_page)).expect("a buffer that is written has a page");
        &mut page.buffers[(lblk % per_page) as usize]
    }

    pub(crate) fn blocks_per_page(&self) -> u64 {
        PAGE_BYTES >> self.block_bits
    }

    /// File blocks of a page, each with its buffer.
    pub(crate) fn buffers_of(&self, page: u64) -> impl Iterator<Item = (u64, Buffer)> {
        let per_page = self.blocks_per_page();
        let buffers = self.pages.get(&page).copied().unwrap_or_default().buffers;
        (0..per_page).map(move |n| (page * per_page + n, buffers[n as usize]))
    }
}
