//! A stimulus that does not fit the replica's state.
//!
//! Either the guest did what the dialect says it cannot do, or an earlier difference has led the two apart. It is never
//! passed over: the judge makes the io_end it names different.

use writeback_events::{BioId, Ino, IoEndId, OpId, RequestId, Subject, TaskId};

/// A stimulus that cannot happen in the state the replica is in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct Misfit {
    /// What it is about, where that can be named.
    pub subject: Option<Subject>,
    /// The io_end it touches, as far as one can be named.
    pub io_end: Option<IoEndId>,
    /// What does not fit.
    pub kind: MisfitKind,
}

/// What does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each variant's message says what it is")]
pub enum MisfitKind {
    #[error("task {task} enters ext4_writepages on inode {ino}, but is already in it")]
    AlreadyInWritepages { task: TaskId, ino: Ino },
    #[error("task {task} leaves ext4_writepages on inode {ino} or is at work in it, but has not entered it")]
    NotInWritepages { task: TaskId, ino: Ino },
    #[error("task {task} asks for an io_end while it still holds io_end {held}")]
    HoldsAnother { task: TaskId, held: IoEndId },
    #[error("task {task} has no io_end for {what}")]
    NoIoEnd { task: TaskId, what: &'static str },
    #[error("task {task} works on inode {ino}, but its io_end {io_end} is of inode {of}")]
    OtherInode { task: TaskId, ino: Ino, io_end: IoEndId, of: Ino },
    #[error("page {page} of inode {ino} is handed to writeback while it is still under writeback")]
    StillUnderWriteback { ino: Ino, page: u64 },
    #[error("task {task} opens a bio while bio {open} is still open")]
    BioStillOpen { task: TaskId, open: BioId },
    #[error("task {task} submits a bio, but has none open")]
    NoOpenBio { task: TaskId },
    #[error("task {task} drops its io_end while bio {open} is still open")]
    DropsWithOpenBio { task: TaskId, open: BioId },
    #[error("bio {bio} is submitted {}REQ_SYNC, but its ext4_writepages call is {}WB_SYNC_ALL", with(.sync), not(.sync))]
    WrongSync { bio: BioId, sync: bool },
    #[error("bio {bio} stays open across a buffer of page {page} that needs no writing")]
    BioAcrossHole { bio: BioId, page: u64 },
    #[error("bio {bio} (sectors {first}..{end}) overlaps bio {other}, which is in flight")]
    BioOverlaps { bio: BioId, first: u64, end: u64, other: BioId },
    #[error("request {request} is issued a second time without having been requeued")]
    IssuedTwice { request: RequestId },
    #[error("request {request} issues sectors of bio {bio} that are in flight already")]
    SectorsIssuedTwice { request: RequestId, bio: BioId },
    #[error("request {request} is {what}, but is not with the driver")]
    NotIssued { request: RequestId, what: &'static str },
    #[error("the interrupt that answers request {request} takes a step more than its bios have")]
    NothingToEnd { request: RequestId },
    #[error("the worker starts on inode {ino}, but was not queued for it")]
    WorkerNotQueued { ino: Ino },
    #[error("task {task} starts as a worker while it is still converting")]
    WorkerBusy { task: TaskId },
    #[error("a conversion comes back to task {task}, which has none under way")]
    NoConversion { task: TaskId },
    #[error("operation {op} ends, but has not begun")]
    OpNotBegun { op: OpId },
    #[error("operation {op} begins a second time")]
    OpBegunTwice { op: OpId },
    #[error("page {page} with order {order} is larger than the replica can count")]
    FolioTooLarge { page: u64, order: u8 },
}

fn with(sync: &bool) -> &'static str {
    if *sync { "with " } else { "without " }
}

fn not(sync: &bool) -> &'static str {
    if *sync { "not " } else { "" }
}
