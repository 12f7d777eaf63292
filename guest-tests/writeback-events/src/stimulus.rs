//! Stimuli: what the replica cannot know by itself. Their place in the trace says who won each race.

use crate::id::{Ino, OpId, RequestId, TaskId};
use serde::{Deserialize, Serialize};

/// 0 or a negative errno, as the kernel has it.
pub type Errno = i32;

/// One thing that happens to the writeback path from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "st", rename_all = "snake_case")]
pub enum Stimulus {
    /// A task enters `ext4_writepages`.
    WritepagesEnter {
        /// Who.
        task: TaskId,
        /// On which inode.
        ino: Ino,
        /// WB_SYNC_ALL.
        sync: bool,
    },
    /// It leaves again.
    WritepagesLeave {
        /// Who.
        task: TaskId,
        /// On which inode.
        ino: Ino,
    },
    /// A task asks for an io_end (`ext4_init_io_end`).
    InitIoEnd {
        /// Who.
        task: TaskId,
        /// For which inode.
        ino: Ino,
        /// The allocation failed.
        failed: bool,
    },
    /// `mpage_map_one_extent` has mapped an extent for the task's current io_end.
    ExtentMapped {
        /// Who.
        task: TaskId,
        /// Of which inode.
        ino: Ino,
        /// First file block.
        lblk: u64,
        /// First disk block.
        pblk: u64,
        /// Blocks.
        len: u32,
        /// The extent is unwritten.
        unwritten: bool,
    },
    /// Outside of writeback, blocks of a file were looked up or allocated (`ext4_map_blocks` of a write, of a direct write,
    /// of a fault or of a read). It gives no io_end anything; it only says where on the disk the file lies.
    BlocksMapped {
        /// Of which inode.
        ino: Ino,
        /// First file block.
        lblk: u64,
        /// First disk block.
        pblk: u64,
        /// Blocks.
        len: u32,
    },
    /// A folio is handed to `ext4_bio_write_page` (6.12 and later: `ext4_bio_write_folio`).
    FolioSubmitted {
        /// Who.
        task: TaskId,
        /// Of which inode.
        ino: Ino,
        /// First page of the folio.
        index: u64,
        /// The folio has `1 << order` pages.
        order: u8,
    },
    /// `ext4_writepages` has a folio locked of which no buffer is to be written, and hands it to nobody: in kernels that clear the page cache's
    /// tags there (6.12.117, 7.2) it enters and leaves writeback at once.
    FolioSkipped {
        /// Who.
        task: TaskId,
        /// Of which inode.
        ino: Ino,
        /// First page of the folio.
        index: u64,
    },
    /// The task opens a bio for its current io_end (`io_submit_init_bio`).
    BioOpened {
        /// Who.
        task: TaskId,
    },
    /// The task submits the bio it has open.
    BioSubmitted {
        /// Who.
        task: TaskId,
        /// First sector.
        sector: u64,
        /// Length in bytes.
        bytes: u64,
        /// REQ_SYNC is set.
        sync: bool,
    },
    /// The block layer hands a request to the driver.
    RequestIssued {
        /// Number of the request; a requeued one keeps it.
        request: RequestId,
        /// What it does.
        op: BlockOp,
        /// First sector.
        sector: u64,
        /// Length in sectors.
        sectors: u64,
    },
    /// The driver gave it back to be issued again.
    RequestRequeued {
        /// Which one.
        request: RequestId,
    },
    /// The device has answered: position from the guest's trace, status from the device's record.
    RequestAnswered {
        /// Which one.
        request: RequestId,
        /// What the device says it answered.
        status: RequestStatus,
    },
    /// What the device is about to answer to this request is not true: what is read is not what was written, or what was written is
    /// not there. From the device's record.
    AnswerUntrue {
        /// Which one.
        request: RequestId,
        /// Other sectors than its own are not what was written either.
        elsewhere: bool,
    },
    /// The disk becomes smaller. Until the next [`Stimulus::DiskHas`] the guest may know or not.
    DiskShrinks,
    /// The guest's block layer knows by now that the disk has so many sectors.
    DiskHas {
        /// Sectors of 512 bytes.
        sectors: u64,
    },
    /// The interrupt that answers a request takes its next step: it ends the request's next bio, or drops that bio's
    /// reference. Only of guests with several CPUs, where steps of another CPU may fall between; with one CPU all of
    /// them follow from the answer.
    CompletionGoesOn {
        /// The request.
        request: RequestId,
    },
    /// A task drops its own reference on its current io_end.
    RefDropped {
        /// Who.
        task: TaskId,
        /// By which function. In 5.10 and later that depends on the journal handle, which the replica does not know.
        by: PutBy,
    },
    /// `ext4_end_io_rsv_work` starts on an inode.
    WorkerStarts {
        /// The worker's task.
        task: TaskId,
        /// The inode.
        ino: Ino,
    },
    /// `ext4_convert_unwritten_extents` came back to this task.
    ConversionResult {
        /// Who converted: a worker, or a task that dropped the last reference itself.
        task: TaskId,
        /// 0 or a negative errno.
        errno: Errno,
    },
    /// An operation of the workload begins.
    OpBegins {
        /// Who.
        task: TaskId,
        /// Which operation.
        op: OpId,
        /// What it does, as far as it matters here.
        kind: OpKind,
    },
    /// It ends.
    OpEnds {
        /// Who.
        task: TaskId,
        /// Which operation.
        op: OpId,
    },
    /// An inode leaves memory, and takes along the errors that nobody was told of.
    InodeEvicted {
        /// Which one.
        ino: Ino,
        /// No name is left: the number may come again as another file.
        deleted: bool,
    },
}

/// Operation of a block request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockOp {
    /// REQ_OP_READ
    Read,
    /// REQ_OP_WRITE
    Write,
    /// REQ_OP_FLUSH
    Flush,
    /// REQ_OP_DISCARD
    Discard,
    /// REQ_OP_WRITE_ZEROES and what else the trace shows as `N`.
    Other,
}

/// What the device answered, as virtio-blk's status byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestStatus {
    /// VIRTIO_BLK_S_OK
    Ok,
    /// VIRTIO_BLK_S_IOERR
    Ioerr,
    /// VIRTIO_BLK_S_UNSUPP
    Unsupp,
    /// Any other value, which a device that breaks the specification can give.
    Other(u8),
}

/// The function by which a reference is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PutBy {
    /// `ext4_put_io_end`: the last one converts inline.
    PutIoEnd,
    /// `ext4_put_io_end_defer`: the last one leaves the conversion to the worker.
    PutIoEndDefer,
}

/// Kind of an operation, as far as its result depends on writeback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum OpKind {
    /// What tells the file's errors, once each: fsync, fdatasync, msync, or a sync_file_range that waits, on a file that the
    /// workload keeps one descriptor for.
    Fsync {
        /// The file.
        ino: Ino,
    },
    /// Writeback without an error report to this caller (sync, a sync_file_range that only starts it), or nothing to do with it.
    Other,
}
