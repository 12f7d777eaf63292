//! One sentence and one short label for everything that can stand on the timeline.

use writeback_events::{BlockOp, Errno, PutBy, RequestStatus, Response, Stimulus};

/// A sentence, and the label for a crowded timeline.
pub(super) struct Words {
    pub(super) text: String,
    pub(super) label: String,
}

fn words(text: String, label: impl Into<String>) -> Words {
    Words { text, label: label.into() }
}

/// What the guest or the replica did.
pub(super) fn response(response: &Response) -> Words {
    match *response {
        Response::InitIoEnd { io_end, ino, count, .. } => {
            words(format!("io_end {io_end} is born for inode {ino}, count {count}"), "born")
        }
        Response::AllocFailed { ino } => words(format!("no memory for an io_end of inode {ino}"), "no memory"),
        Response::GetIoEnd { io_end, bio, count, .. } => {
            words(format!("bio {bio} takes a reference on io_end {io_end}, count {count}"), format!("get {count}"))
        }
        Response::SubmitBio { bio, sector, bytes, .. } => {
            words(format!("bio {bio} is submitted: sector {sector}, {}", size(bytes)), format!("bio {bio}"))
        }
        Response::BioOutsideFolios { io_end, bio } => {
            words(format!("bio {bio} reaches outside the folios of io_end {io_end}"), "outside")
        }
        Response::RequestError { request, errno } => {
            words(format!("request {request} ends {}", outcome(errno)), failure(errno))
        }
        Response::EndBio { bio, error, .. } => {
            words(format!("bio {bio} ends {}", outcome(error)), format!("end {bio} {}", failure(error)).trim_end())
        }
        Response::PutIoEndDefer { io_end, count, .. } => put(io_end.0, count, "ext4_put_io_end_defer"),
        Response::PutIoEnd { io_end, count, .. } => put(io_end.0, count, "ext4_put_io_end"),
        Response::AddCompleteIo { io_end, queued } => {
            let work = if queued { "its work is queued" } else { "the work was queued already" };
            words(format!("io_end {io_end} is left to the worker; {work}"), "queued")
        }
        Response::ConvertUnwritten { ino, io_end, offset, size: bytes } => {
            words(format!("io_end {io_end}: inode {ino}, offset {offset}, {} become written", size(bytes)), "convert")
        }
        Response::ReleaseIoEnd { io_end, .. } => words(format!("io_end {io_end} is released"), "release"),
        Response::EndPageWriteback { ino, page } => {
            words(format!("page {page} of inode {ino} leaves writeback"), "page")
        }
        Response::HeldAtLeave { io_end } => {
            words(format!("io_end {io_end} is still held as ext4_writepages is left"), "held")
        }
        Response::OpResult { op, errno } => {
            words(format!("operation {op} returns {}", errno_name(errno)), errno_name(errno))
        }
    }
}

fn put(io_end: u32, count: u32, function: &str) -> Words {
    words(format!("a reference on io_end {io_end} is dropped by {function}, count {count}"), format!("put {count}"))
}

/// What happened to the path from outside.
pub(super) fn stimulus(stimulus: &Stimulus) -> Words {
    match *stimulus {
        Stimulus::WritepagesEnter { ino, sync, .. } => {
            let mode = if sync { "waiting for data (WB_SYNC_ALL)" } else { "in the background" };
            words(format!("ext4_writepages on inode {ino} begins, {mode}"), "writepages")
        }
        Stimulus::WritepagesLeave { ino, .. } => words(format!("ext4_writepages on inode {ino} ends"), "leave"),
        Stimulus::InitIoEnd { ino, failed, .. } => {
            let end = if failed { "; the allocation fails" } else { "" };
            words(format!("an io_end is asked for, inode {ino}{end}"), "ask")
        }
        Stimulus::ExtentMapped { lblk, pblk, len, unwritten, .. } => {
            let kind = if unwritten { "unwritten" } else { "written" };
            words(format!("an {kind} extent is mapped: file block {lblk}, disk block {pblk}, {len} blocks"), "extent")
        }
        Stimulus::BlocksMapped { ino, lblk, pblk, len } => {
            words(format!("inode {ino}: file block {lblk} lies at disk block {pblk}, {len} blocks"), "place")
        }
        Stimulus::FolioSubmitted { index, order, .. } => {
            words(format!("page {index} (order {order}) is handed to the bio code"), "page")
        }
        Stimulus::FolioSkipped { index, .. } => words(format!("page {index} is clean, and passed over"), "skip"),
        Stimulus::BioOpened { .. } => words("a bio is opened".into(), "open"),
        Stimulus::BioSubmitted { sector, bytes, .. } => {
            words(format!("the open bio is submitted: sector {sector}, {}", size(bytes)), "submit")
        }
        Stimulus::RequestIssued { request, op, sector, sectors } => words(
            format!("request {request} is issued: {} sector {sector}, {sectors} sectors", block_op(op)),
            format!("issue {request}"),
        ),
        Stimulus::RequestRequeued { request } => words(format!("request {request} is put back"), "requeue"),
        Stimulus::RequestAnswered { request, status } => {
            words(format!("request {request} is answered {}", status_name(status)), format!("answer {request}"))
        }
        Stimulus::AnswerUntrue { request, .. } => {
            words(format!("what request {request} is answered with is not true"), format!("untrue {request}"))
        }
        Stimulus::DiskShrinks => words("the disk becomes smaller".into(), "shrinks"),
        Stimulus::DiskHas { sectors } => words(format!("the guest knows a disk of {sectors} sectors"), "size"),
        Stimulus::CompletionGoesOn { request } => {
            words(format!("the interrupt that answers request {request} goes on"), "goes on")
        }
        Stimulus::RefDropped { by, .. } => words(format!("the task drops its own reference by {}", put_by(by)), "drop"),
        Stimulus::WorkerStarts { ino, .. } => words(format!("the conversion worker starts on inode {ino}"), "worker"),
        Stimulus::ConversionResult { errno, .. } => {
            words(format!("the conversion returns {}", errno_name(errno)), format!("conv {}", errno_name(errno)))
        }
        Stimulus::InodeEvicted { ino, .. } => words(format!("inode {ino} leaves memory"), "evict"),
        Stimulus::OpBegins { op, .. } => words(format!("operation {op} begins"), "begin"),
        Stimulus::OpEnds { op, .. } => words(format!("operation {op} ends"), "end"),
    }
}

/// 0, or the errno's name.
pub(super) fn errno_name(errno: Errno) -> String {
    let name = match -errno {
        0 => return "0".into(),
        1 => "EPERM",
        2 => "ENOENT",
        4 => "EINTR",
        5 => "EIO",
        11 => "EAGAIN",
        12 => "ENOMEM",
        17 => "EEXIST",
        22 => "EINVAL",
        27 => "EFBIG",
        28 => "ENOSPC",
        30 => "EROFS",
        95 => "EOPNOTSUPP",
        110 => "ETIMEDOUT",
        117 => "EUCLEAN",
        _ => return errno.to_string(),
    };
    name.into()
}

/// The errno's name, nothing without an error.
fn failure(errno: Errno) -> String {
    if errno == 0 { String::new() } else { errno_name(errno) }
}

fn outcome(errno: Errno) -> String {
    if errno == 0 { "without error".into() } else { format!("with {}", errno_name(errno)) }
}

/// virtio-blk's name of a status byte.
pub(super) fn status_byte(status: u8) -> String {
    match status {
        0 => "ok".into(),
        1 => "ioerr".into(),
        2 => "unsupp".into(),
        other => format!("status {other}"),
    }
}

fn status_name(status: RequestStatus) -> String {
    match status {
        RequestStatus::Ok => status_byte(0),
        RequestStatus::Ioerr => status_byte(1),
        RequestStatus::Unsupp => status_byte(2),
        RequestStatus::Other(byte) => status_byte(byte),
    }
}

fn block_op(op: BlockOp) -> &'static str {
    match op {
        BlockOp::Read => "read",
        BlockOp::Write => "write",
        BlockOp::Flush => "flush",
        BlockOp::Discard => "discard",
        BlockOp::Other => "other operation,",
    }
}

fn put_by(by: PutBy) -> &'static str {
    match by {
        PutBy::PutIoEnd => "ext4_put_io_end",
        PutBy::PutIoEndDefer => "ext4_put_io_end_defer",
    }
}

/// Bytes as a person writes them, exact.
pub(super) fn size(bytes: u64) -> String {
    const KIB: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    match bytes {
        0 => "0 bytes".into(),
        b if b % MIB == 0 => format!("{} MiB", b / MIB),
        b if b % KIB == 0 => format!("{} KiB", b / KIB),
        b => format!("{b} bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact() {
        let all: Vec<_> = [0, 512, 4096, 516_096, 1 << 20, 4 << 20].map(size).into();
        assert_eq!(all, ["0 bytes", "512 bytes", "4 KiB", "504 KiB", "1 MiB", "4 MiB"]);
    }

    #[test]
    fn an_errno_without_a_name_keeps_its_number() {
        assert_eq!([errno_name(0), errno_name(-5), errno_name(-4095)], ["0", "EIO", "-4095"]);
    }
}
