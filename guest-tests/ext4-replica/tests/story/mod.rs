//! Stories: a guest's trace as text, one event per line, for tests of the replica and of the differ.
//!
//! A line begins with whose it is: `t1` (task 1) or `irq`. Then, for a stimulus:
//!
//! | line | stimulus |
//! |---|---|
//! | `enter INO`, `leave INO` | a WB_SYNC_ALL `ext4_writepages` call |
//! | `init INO`, `init_fails INO` | an io_end is asked for |
//! | `map INO LBLK PBLK LEN u` (or `w`) | an extent, unwritten or written |
//! | `folio INO FIRST END` | single pages, handed over in turn |
//! | `large INO INDEX ORDER` | one large folio |
//! | `open`, `submit SECTOR BYTES` | a bio |
//! | `issue RQ OP SECTOR SECTORS`, `requeue RQ`, `answer RQ STATUS` | a request; OP is r w f d o |
//! | `goes_on RQ` | with `# cpus 2`: the interrupt that answers a request takes its next step |
//! | `untrue RQ` | what the request is about to be answered with is not true |
//! | `shrinks`, `disk_has SECTORS` | the disk becomes smaller; the guest knows its size |
//! | `put`, `put_defer` | the task's own reference |
//! | `worker INO`, `converted ERRNO` | a conversion |
//! | `begin OP fsync INO`, `begin OP other`, `end OP` | an operation |
//!
//! A response of the guest is `> ` and its JSON, or `> pages INO PAGE…` for folios that leave writeback; `A..B` stands for
//! rising pages.

use writeback_events::{
    BlockOp, Body, Entry, Ino, OpId, OpKind, PutBy, RequestId, RequestStatus, Response, Stimulus, TaskId,
};

/// All entries of a story, numbered from 1. A response shares the number of its line, not that of its cause.
pub fn parse(text: &str) -> Vec<Entry> {
    let mut entries: Vec<Entry> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bodies = bodies(line).unwrap_or_else(|| panic!("line {} says nothing known: {line}", number + 1));
        let (task, interrupt) = whose(line).unwrap_or_else(|| panic!("line {} is nobody's: {line}", number + 1));
        for body in bodies {
            let seq = entries.len() as u64 + 1;
            entries.push(Entry { seq, cpu: 0, task, interrupt, body });
        }
    }
    entries
}

fn whose(line: &str) -> Option<(TaskId, bool)> {
    match line.split_whitespace().next()? {
        "irq" => Some((TaskId(0), true)),
        task => Some((TaskId(task.strip_prefix('t')?.parse().ok()?), false)),
    }
}

fn bodies(line: &str) -> Option<Vec<Body>> {
    let (who, what) = line.split_once(' ')?;
    if let Some(response) = what.strip_prefix("> ") {
        return Some(responses(response)?.into_iter().map(Body::Response).collect());
    }
    let task = TaskId(who.strip_prefix('t').map_or(Some(0), |task| task.parse().ok())?);
    let words: Vec<&str> = what.split_whitespace().collect();
    if let ["folio", ino, first, end] = words[..] {
        let ino = Ino(number(ino)?);
        let folio = |index| Body::Stimulus(Stimulus::FolioSubmitted { task, ino, index, order: 0 });
        return Some((number(first)?..number(end)?).map(folio).collect());
    }
    Some(vec![Body::Stimulus(stimulus(task, &words)?)])
}

fn responses(text: &str) -> Option<Vec<Response>> {
    let Some(pages) = text.strip_prefix("pages ") else { return Some(vec![serde_json::from_str(text).ok()?]) };
    let mut words = pages.split_whitespace();
    let ino = Ino(number(words.next()?)?);
    let mut responses = Vec::new();
    for word in words {
        let (first, end) = match word.split_once("..") {
            Some((first, end)) => (number(first)?, number(end)?),
            None => (number(word)?, number(word)? + 1),
        };
        responses.extend((first..end).map(|page| Response::EndPageWriteback { ino, page }));
    }
    Some(responses)
}

fn stimulus(task: TaskId, words: &[&str]) -> Option<Stimulus> {
    let inode = |word: &str| number(word).map(Ino);
    let request = |word: &str| number(word).map(RequestId);
    let op_id = |word: &str| word.parse().ok().map(OpId);
    Some(match *words {
        ["enter", ino] => Stimulus::WritepagesEnter { task, ino: inode(ino)?, sync: true },
        ["leave", ino] => Stimulus::WritepagesLeave { task, ino: inode(ino)? },
        ["init", ino] => Stimulus::InitIoEnd { task, ino: inode(ino)?, failed: false },
        ["init_fails", ino] => Stimulus::InitIoEnd { task, ino: inode(ino)?, failed: true },
        ["map", ino, lblk, pblk, len, kind] => Stimulus::ExtentMapped {
            task,
            ino: inode(ino)?,
            lblk: number(lblk)?,
            pblk: number(pblk)?,
            len: len.parse().ok()?,
            unwritten: kind == "u",
        },
        ["place", ino, lblk, pblk, len] => Stimulus::BlocksMapped {
            ino: inode(ino)?,
            lblk: number(lblk)?,
            pblk: number(pblk)?,
            len: len.parse().ok()?,
        },
        ["large", ino, index, order] => {
            Stimulus::FolioSubmitted { task, ino: inode(ino)?, index: number(index)?, order: order.parse().ok()? }
        }
        ["goes_on", rq] => Stimulus::CompletionGoesOn { request: request(rq)? },
        ["skip", ino, index] => Stimulus::FolioSkipped { task, ino: inode(ino)?, index: number(index)? },
        ["open"] => Stimulus::BioOpened { task },
        ["submit", sector, bytes] => {
            Stimulus::BioSubmitted { task, sector: number(sector)?, bytes: number(bytes)?, sync: true }
        }
        ["issue", rq, op, sector, sectors] => Stimulus::RequestIssued {
            request: request(rq)?,
            op: block_op(op)?,
            sector: number(sector)?,
            sectors: number(sectors)?,
        },
        ["requeue", rq] => Stimulus::RequestRequeued { request: request(rq)? },
        ["answer", rq, status] => Stimulus::RequestAnswered { request: request(rq)?, status: self::status(status)? },
        ["untrue", rq] => Stimulus::AnswerUntrue { request: request(rq)?, elsewhere: false },
        ["shrinks"] => Stimulus::DiskShrinks,
        ["disk_has", sectors] => Stimulus::DiskHas { sectors: number(sectors)? },
        ["put"] => Stimulus::RefDropped { task, by: PutBy::PutIoEnd },
        ["put_defer"] => Stimulus::RefDropped { task, by: PutBy::PutIoEndDefer },
        ["evict", ino] => Stimulus::InodeEvicted { ino: inode(ino)?, deleted: false },
        ["worker", ino] => Stimulus::WorkerStarts { task, ino: inode(ino)? },
        ["converted", errno] => Stimulus::ConversionResult { task, errno: errno.parse().ok()? },
        ["begin", op, "fsync", ino] => {
            Stimulus::OpBegins { task, op: op_id(op)?, kind: OpKind::Fsync { ino: inode(ino)? } }
        }
        ["begin", op, "other"] => Stimulus::OpBegins { task, op: op_id(op)?, kind: OpKind::Other },
        ["end", op] => Stimulus::OpEnds { task, op: op_id(op)? },
        _ => return None,
    })
}

fn block_op(word: &str) -> Option<BlockOp> {
    Some(match word {
        "r" => BlockOp::Read,
        "w" => BlockOp::Write,
        "f" => BlockOp::Flush,
        "d" => BlockOp::Discard,
        "o" => BlockOp::Other,
        _ => return None,
    })
}

fn status(word: &str) -> Option<RequestStatus> {
    Some(match word {
        "ok" => RequestStatus::Ok,
        "ioerr" => RequestStatus::Ioerr,
        "unsupp" => RequestStatus::Unsupp,
        other => RequestStatus::Other(other.parse().ok()?),
    })
}

fn number(word: &str) -> Option<u64> {
    word.parse().ok()
}
