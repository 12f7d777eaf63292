//! What a probing run shows of the dialect's switches. Pure: recorded run in, positions out.
//!
//! Each observation names the events it rests on, and says why where they did not come: a switch is never guessed. Nothing
//! here asks the replica, so what is found can be held against any dialect.

use crate::judge::Recorded;
use ext4_replica::Switch;
use writeback_events::{Body, Entry, Ino, IoEndId, Response, Stimulus};

/// A switch's position, and what shows it; an error: why nothing does.
pub type Observed = Result<(&'static str, String), String>;

/// What the run of one probe shows.
pub fn observe(probe: &str, recorded: &Recorded) -> Vec<(Switch, Observed)> {
    let whole = whole(recorded);
    let of = |switch: Switch, look: &dyn Fn(&[Entry]) -> Observed| (switch, whole.clone().and_then(look));
    match probe {
        "failed-write" => vec![
            of(Switch::ConvertAfterError, &|entries| worker_after_error(entries)),
            (Switch::FinishErrno, errno_of_fsync(recorded)),
        ],
        "hole" => vec![of(Switch::HoleEndsBio, &|entries| bios_over_a_hole(entries))],
        "data-err-abort" => vec![(Switch::DataErrAbort, create_afterwards(recorded))],
        "failed-in-submit" => vec![of(Switch::PutConvertsAfterError, &|entries| put_after_error(entries))],
        _ => Vec::new(),
    }
}

/// The trace, if nothing of it is missing.
fn whole(recorded: &Recorded) -> Result<&[Entry], String> {
    let trace = recorded.trace.as_ref().map_err(Clone::clone)?;
    if let Some(loss) = trace.losses.describe().into_iter().next() {
        return Err(format!("the trace is not whole: {loss}"));
    }
    match trace.unplaced.first() {
        Some(unplaced) => Err(format!("the trace is not understood: {}", unplaced.why)),
        None => Ok(&trace.entries),
    }
}

fn responses(entries: &[Entry]) -> impl Iterator<Item = &Response> {
    entries.iter().filter_map(|entry| match &entry.body {
        Body::Response(response) => Some(response),
        _ => None,
    })
}

/// The first io_end of which a bio failed, and what follows that on it.
fn after_error(entries: &[Entry]) -> Result<(IoEndId, Vec<&Response>), String> {
    let all: Vec<&Response> = responses(entries).collect();
    let failed = all.iter().enumerate().find_map(|(place, response)| match response {
        Response::EndBio { io_end, error, .. } if *error != 0 => Some((place, *io_end)),
        _ => None,
    });
    let (place, io_end) = failed.ok_or("no bio failed")?;
    let of_it = |response: &&&Response| response.subject() == writeback_events::Subject::IoEnd(io_end);
    Ok((io_end, all[place..].iter().filter(of_it).copied().collect()))
}

fn worker_after_error(entries: &[Entry]) -> Observed {
    let (io_end, then) = after_error(entries)?;
    if !then.iter().any(|response| matches!(response, Response::AddCompleteIo { .. })) {
        return Err(format!("io_end {io_end}, of which a bio failed, did not go to the worker"));
    }
    converted(io_end, &then, "the worker")
}

fn put_after_error(entries: &[Entry]) -> Observed {
    let (io_end, then) = after_error(entries)?;
    let last = |response: &&Response| matches!(response, Response::PutIoEnd { count: 0, unwritten: true, .. });
    if !then.iter().any(last) {
        return Err(format!(
            "the last reference on io_end {io_end} was not dropped by writepages with something to convert"
        ));
    }
    converted(io_end, &then, "the put of writepages")
}

fn converted(io_end: IoEndId, then: &[&Response], who: &str) -> Observed {
    for response in then {
        match response {
            Response::ConvertUnwritten { .. } => {
                return Ok(("yes", format!("a bio of io_end {io_end} failed, and {who} converted it")));
            }
            Response::ReleaseIoEnd { .. } => {
                return Ok((
                    "no",
                    format!("a bio of io_end {io_end} failed, and {who} released it without converting it"),
                ));
            }
            _ => {}
        }
    }
    Err(format!("io_end {io_end} was neither converted nor released"))
}

/// The last fsync came behind a write that was answered UNSUPP.
fn errno_of_fsync(recorded: &Recorded) -> Observed {
    let fsync = recorded.ops.iter().rev().find(|op| op.args.action.name() == "fsync");
    let result = fsync.and_then(|op| op.result.as_ref()).ok_or("the fsync never came back")?;
    match result.errno.map(|errno| errno.0) {
        Some(libc::EIO) => Ok(("eio", "a write answered UNSUPP made fsync return EIO".to_owned())),
        Some(libc::EOPNOTSUPP) => Ok(("own", "a write answered UNSUPP made fsync return EOPNOTSUPP".to_owned())),
        Some(other) => Err(format!("fsync returned errno {other}")),
        None => Err("fsync returned 0: the failed write did not show".to_owned()),
    }
}

fn create_afterwards(recorded: &Recorded) -> Observed {
    let create = recorded.ops.iter().rev().find(|op| op.args.action.name() == "create");
    let result = create.and_then(|op| op.result.as_ref()).ok_or("the create never came back")?;
    let failed = recorded
        .ops
        .iter()
        .any(|op| op.args.action.name() == "fsync" && op.result.as_ref().is_some_and(|result| result.errno.is_some()));
    match result.errno {
        _ if !failed => Err("no fsync told of the failed write".to_owned()),
        None => Ok(("no", "a file could be created after the failed write".to_owned())),
        Some(errno) => Ok(("yes", format!("creating a file after the failed write gave {errno}"))),
    }
}

/// A page and a block behind a clean one, overwritten in one pass, side by side on the disk.
fn bios_over_a_hole(entries: &[Entry]) -> Observed {
    let handed = entries.iter().rev().find_map(|entry| match entry.body {
        Body::Stimulus(Stimulus::FolioSubmitted { task, ino, index: 0, .. }) => Some((task, ino)),
        _ => None,
    });
    let (task, ino) = handed.ok_or("no page was handed to writeback")?;
    let bios: Vec<(u64, u64)> = bios_of_last_writepages(entries, task, ino);
    match bios[..] {
        [(_, 5120)] => Ok((
            "no",
            "a page and a block travelled in one bio, with a clean block between them in the file".to_owned(),
        )),
        [(first, 4096), (second, 1024)] if second == first + 8 => {
            let why =
                "a page and a block side by side on the disk travelled in two bios, for the clean block between them";
            Ok(("yes", why.to_owned()))
        }
        [(_, 4096), (_, 1024)] => Err("page and block do not lie side by side on the disk".to_owned()),
        _ => Err(format!("page and block travelled in {} bios", bios.len())),
    }
}

/// Sector and length of each.
fn bios_of_last_writepages(entries: &[Entry], task: writeback_events::TaskId, ino: Ino) -> Vec<(u64, u64)> {
    let mut bios = Vec::new();
    for entry in entries {
        match entry.body {
            Body::Stimulus(Stimulus::WritepagesEnter { task: who, ino: of, .. }) if (who, of) == (task, ino) => {
                bios.clear()
            }
            // Bios of two io_ends are two in any case, and show nothing.
            Body::Stimulus(Stimulus::InitIoEnd { task: who, .. }) if who == task => bios.clear(),
            Body::Stimulus(Stimulus::BioSubmitted { task: who, sector, bytes, .. }) if who == task => {
                bios.push((sector, bytes));
            }
            _ => {}
        }
    }
    bios
}

#[cfg(test)]
mod tests {
    use super::*;
    use writeback_events::{BioId, PutBy, TaskId};

    const T: TaskId = TaskId(1);
    const IO_END: IoEndId = IoEndId(1);

    fn entries(bodies: Vec<Body>) -> Vec<Entry> {
        let at = |(seq, body)| Entry { seq: seq as u64, cpu: 0, task: T, interrupt: false, body };
        bodies.into_iter().enumerate().map(at).collect()
    }

    fn response(response: Response) -> Body {
        Body::Response(response)
    }

    fn failed() -> Body {
        response(Response::EndBio { bio: BioId(1), io_end: IO_END, error: -95 })
    }

    fn convert() -> Body {
        response(Response::ConvertUnwritten { ino: Ino(12), io_end: IO_END, offset: 0, size: 4096 })
    }

    fn release() -> Body {
        response(Response::ReleaseIoEnd { io_end: IO_END, unwritten: false })
    }

    fn queued() -> Body {
        response(Response::AddCompleteIo { io_end: IO_END, queued: true })
    }

    fn value(observed: Observed) -> Result<&'static str, String> {
        observed.map(|(value, _)| value)
    }

    #[test]
    fn the_worker_converts_after_an_error_or_does_not_or_was_never_asked() {
        let of = |bodies| value(worker_after_error(&entries(bodies)));
        assert_eq!(of(vec![failed(), queued(), convert(), release()]), Ok("yes"));
        assert_eq!(of(vec![failed(), queued(), release()]), Ok("no"));
        assert!(of(vec![failed(), release()]).is_err_and(|why| why.contains("did not go to the worker")));
        assert!(of(vec![queued(), convert(), release()]).is_err_and(|why| why.contains("no bio failed")));
        assert!(of(vec![failed(), queued()]).is_err(), "the trace ends before it shows");
    }

    #[test]
    fn a_put_shows_only_if_it_was_the_last_and_had_something_to_convert() {
        let put = |count, unwritten| {
            [
                Body::Stimulus(Stimulus::RefDropped { task: T, by: PutBy::PutIoEnd }),
                response(Response::PutIoEnd { io_end: IO_END, count, unwritten }),
            ]
        };
        let of = |count, unwritten, then: Vec<Body>| {
            let bodies = std::iter::once(failed()).chain(put(count, unwritten)).chain(then).collect();
            value(put_after_error(&entries(bodies)))
        };
        assert_eq!(of(0, true, vec![convert(), release()]), Ok("yes"));
        assert_eq!(of(0, true, vec![release()]), Ok("no"));
        assert!(of(1, true, vec![release()]).is_err());
        assert!(of(0, false, vec![release()]).is_err());
    }

    #[test]
    fn a_hole_shows_only_between_blocks_that_lie_side_by_side() {
        let of = |bios: &[(u64, u64)]| {
            let enter = Stimulus::WritepagesEnter { task: T, ino: Ino(12), sync: true };
            let folio = Stimulus::FolioSubmitted { task: T, ino: Ino(12), index: 0, order: 0 };
            let bio = |&(sector, bytes): &(u64, u64)| Stimulus::BioSubmitted { task: T, sector, bytes, sync: true };
            let stimuli = [enter, folio].into_iter().chain(bios.iter().map(bio));
            value(bios_over_a_hole(&entries(stimuli.map(Body::Stimulus).collect())))
        };
        assert_eq!(of(&[(100, 5120)]), Ok("no"));
        assert_eq!(of(&[(100, 4096), (108, 1024)]), Ok("yes"));
        assert!(of(&[(100, 4096), (110, 1024)]).is_err());
        assert!(of(&[]).is_err());
    }
}
