//! What happened, as a kernel developer would say it.

use ext4_replica::Event;
use ext4_replica::explore::{Activity, Choice, InodeCounts, IoEndCounts, Move, Outcome};

/// What a move comes to, before anything happens.
pub fn intent(by: &Move) -> Option<String> {
    Some(match *by {
        Move::Start(_, activity) => beginning(&activity),
        Move::Step(_, Choice::Go) => return None,
        Move::Step(_, Choice::NoMemory) => "there is no memory for an io_end".into(),
        Move::Step(_, Choice::ConvertFails) => "the conversion fails: -EIO".into(),
        Move::Step(_, Choice::Generic(outcome)) => match outcome {
            Outcome::Whole => "all of it is submitted",
            Outcome::WholeFails => "all of it is submitted, and the device fails it",
            Outcome::Partial => "its first block is written, no more",
            Outcome::PartialError => "its first block is written; the memory of the rest is not there: -EFAULT",
            Outcome::Nothing => "nothing can be submitted: -EFAULT",
        }
        .into(),
    })
}

fn beginning(activity: &Activity) -> String {
    match activity {
        Activity::SubmitRange { ino, first_page, next_page } => {
            format!("writeback of inode {ino}, pages {first_page} to {}", next_page - 1)
        }
        Activity::Writepage { ino, page } => format!("writeback of inode {ino}, page {page}"),
        Activity::EndBio { bio, error: 0 } => format!("the device has written bio {bio}"),
        Activity::EndBio { bio, error } => {
            format!("the device fails bio {bio} with {error}; nothing of it is on the disk")
        }
        Activity::EndDirect { iocb, error: 0 } => format!("the device has written direct write {}", iocb.0),
        Activity::EndDirect { iocb, error } => format!("the device fails direct write {} with {error}", iocb.0),
        Activity::Work { ino } => format!("the conversion work of inode {ino} runs"),
        Activity::Direct { ino, first, len, is_async } => {
            let how = if *is_async { "an asynchronous" } else { "a synchronous" };
            format!("{how} direct write to inode {ino}, {len} block(s) from {first}")
        }
        Activity::Fsync { ino } => format!("fsync of inode {ino}"),
        Activity::Truncate { ino } => format!("truncate of inode {ino}: waits for direct writes"),
        Activity::Evict { ino } => format!("inode {ino} is evicted: waits for its pages"),
    }
}

/// One event; nothing for one that says no more than the step itself.
pub fn event(event: &Event) -> Option<String> {
    Some(match *event {
        Event::InitIoEnd { io_end, .. } => format!("io_end {io_end} is born"),
        Event::AllocFailed { .. } => "kmem_cache_zalloc gives none".into(),
        Event::GetIoEnd { io_end, bio: Some(bio), .. } => format!("a reference on io_end {io_end} for bio {bio}"),
        Event::GetIoEnd { io_end, bio: None, .. } => format!("a reference on io_end {io_end} for the iocb"),
        Event::SubmitBio { bio, io_end, sector, bytes, .. } => {
            format!("submits bio {bio} of io_end {io_end}: {bytes} bytes at sector {sector}")
        }
        Event::SetUnwritten { io_end, .. } => format!("sets UNWRITTEN on io_end {io_end}"),
        Event::EndBio { bio, error: 0, .. } => format!("bio {bio} ends"),
        Event::EndBio { bio, error, .. } => format!("bio {bio} ends with {error}"),
        Event::EndPageWriteback { page, error, .. } => {
            format!("page {page} leaves writeback{}", if error { ", with an error" } else { "" })
        }
        Event::PutIoEnd { io_end, .. } | Event::PutIoEndDefer { io_end, .. } => {
            format!("drops a reference on io_end {io_end}")
        }
        Event::AddCompleteIo { io_end, queued } => {
            format!("puts io_end {io_end} on the list{}", if queued { " and queues the work" } else { "" })
        }
        Event::ConvertBegins { .. } => return None,
        Event::ConvertUnwritten { offset, size, result, .. } => {
            let failed = if result == 0 { String::new() } else { format!(": fails with {result}") };
            format!("converts {size} bytes from {offset}{failed}")
        }
        Event::ClearUnwritten { io_end, .. } => format!("clears UNWRITTEN on io_end {io_end}"),
        Event::ReleaseIoEnd { io_end, .. } => format!("releases io_end {io_end}"),
        Event::InodeDioDone { .. } => "one direct write less".into(),
        Event::AioComplete { iocb, result } => format!("completes direct write {} with {result}", iocb.0),
        Event::PageLeftLocked { page, .. } => format!("leaves page {page} locked"),
        Event::RedirtyPage { page, .. } => format!("makes page {page} dirty again"),
        Event::Bug { function, what } => format!("BUG in {function}: {what}"),
        Event::Warn { function, what } => format!("WARN in {function}: {what}"),
        Event::Return { .. } | Event::State(_) | Event::Dead => return None,
    })
}

/// Counts of every io_end that lives, then of every inode.
pub fn counts(inodes: &[InodeCounts], io_ends: &[IoEndCounts]) -> String {
    let io_end = |one: &IoEndCounts| {
        let flags = match (one.unwritten, one.error) {
            (false, false) => "",
            (true, false) => " UNWRITTEN",
            (false, true) => " ERROR",
            (true, true) => " UNWRITTEN|ERROR",
        };
        format!("io_end {} count {}{flags}", one.io_end, one.count)
    };
    let inode = |one: &InodeCounts| {
        let name = if inodes.len() > 1 { format!("inode {}: ", one.ino) } else { String::new() };
        format!(
            "{name}i_ioend_count {} i_unwritten {} i_dio_count {}",
            one.i_ioend_count, one.i_unwritten, one.i_dio_count
        )
    };
    io_ends.iter().map(io_end).chain(inodes.iter().map(inode)).collect::<Vec<_>>().join(", ")
}
