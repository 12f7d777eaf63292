//! Findings in the trace of the writeback path: what was converted although it was not written, which errors were kept from fsync.

use super::{CONVERTED_AFTER_FAILED_WRITE, ERROR_FORGOTTEN, ERROR_NOT_REPORTED};
use crate::verdict::Finding;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use writeback_events::{
    BioId, BlockOp, Body, Entry, Errno, Ino, IoEndId, OpId, OpKind, RequestId, RequestStatus, Response, Stimulus,
    TaskId,
};

const SECTOR_BYTES: u64 = 512;

/// What the trace-based findings are made from.
#[derive(Clone, Copy, Debug)]
pub struct Writeback<'a> {
    /// The guest's decoded trace, in order.
    pub guest: &'a [Entry],
    /// What the device answered, by the guest's number of the request.
    pub statuses: &'a BTreeMap<RequestId, RequestStatus>,
    /// Block size of the file system.
    pub block_bytes: u64,
    /// Operations that unmount the file system and mount it again.
    pub remounts: &'a BTreeSet<OpId>,
}

/// Walks the trace once.
pub fn find(input: &Writeback<'_>) -> Vec<Finding> {
    let mut walk = Walk { block_bytes: input.block_bytes, remounts: input.remounts.clone(), ..Walk::default() };
    for (at, entry) in input.guest.iter().enumerate() {
        walk.see(at, entry, input.statuses);
    }
    let mut findings = walk.converted;
    findings.extend(walk.unreported);
    findings.extend(unreported(&walk.refused, &walk.syncs));
    findings
}

#[derive(Clone, Debug)]
struct Bio {
    io_end: IoEndId,
    sectors: Range<u64>,
    in_flight: bool,
}

/// A mapped piece of a file: where its blocks lie on the disk.
#[derive(Clone, Copy, Debug)]
struct Extent {
    lblk: u64,
    pblk: u64,
    len: u64,
}

/// Data of a file that the device answered with an error.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Refused {
    at: usize,
    ino: Ino,
    io_end: IoEndId,
    request: RequestId,
    /// The file system was unmounted before anybody was told.
    forgotten: bool,
}

/// One fsync of a file.
#[derive(Clone, Copy, Debug)]
struct Sync {
    op: OpId,
    ino: Ino,
    begin: usize,
    end: Option<(usize, Errno)>,
}

#[derive(Debug, Default)]
struct Walk {
    block_bytes: u64,
    remounts: BTreeSet<OpId>,
    /// The last operation that began is one of them.
    remounts_now: bool,
    inode_of: BTreeMap<IoEndId, Ino>,
    bios: BTreeMap<BioId, Bio>,
    extents: BTreeMap<Ino, Vec<Extent>>,
    failed: BTreeMap<IoEndId, Vec<BioId>>,
    /// The conversion that a task is in.
    converting: BTreeMap<TaskId, (IoEndId, Range<u64>)>,
    /// Bios whose data each request in flight carries.
    carried: BTreeMap<RequestId, BTreeSet<BioId>>,
    refused: Vec<Refused>,
    syncs: Vec<Sync>,
    converted: Vec<Finding>,
    /// Of files that are gone.
    unreported: Vec<Finding>,
}

impl Walk {
    fn see(&mut self, at: usize, entry: &Entry, statuses: &BTreeMap<RequestId, RequestStatus>) {
        match &entry.body {
            Body::Stimulus(stimulus) => self.stimulus(at, stimulus),
            Body::Response(response) => self.response(at, entry.task, response),
            Body::Answered { request } => self.answered(at, *request, statuses.get(request).copied()),
        }
    }

    fn stimulus(&mut self, at: usize, stimulus: &Stimulus) {
        match *stimulus {
            Stimulus::ExtentMapped { ino, lblk, pblk, len, .. } => {
                self.extents.entry(ino).or_default().push(Extent { lblk, pblk, len: len.into() });
            }
            Stimulus::RequestIssued { request, op: BlockOp::Write, sector, sectors } => {
                let carried = self.bios_over(sector..sector + sectors);
                self.carried.insert(request, carried);
            }
            Stimulus::RequestAnswered { request, status } => self.answered(at, request, Some(status)),
            Stimulus::ConversionResult { task, errno } => self.conversion_result(task, errno),
            Stimulus::InodeEvicted { ino, deleted: true } => self.deleted(ino),
            Stimulus::OpBegins { op, kind, .. } => self.op_begins(at, op, kind),
            _ => {}
        }
    }

    fn response(&mut self, at: usize, task: TaskId, response: &Response) {
        match *response {
            Response::InitIoEnd { io_end, ino, .. } => {
                self.inode_of.insert(io_end, ino);
            }
            Response::SubmitBio { bio, io_end, sector, bytes } => {
                let sectors = sector..sector + bytes / SECTOR_BYTES;
                self.bios.insert(bio, Bio { io_end, sectors, in_flight: true });
            }
            Response::EndBio { bio, io_end, error } => self.bio_ended(bio, io_end, error),
            Response::ConvertUnwritten { io_end, offset, size, .. } => {
                self.converting.insert(task, (io_end, offset..offset + size));
            }
            Response::OpResult { op, errno } => self.op_ended(at, op, errno),
            _ => {}
        }
    }

    fn op_begins(&mut self, at: usize, op: OpId, kind: OpKind) {
        if self.remounts_now {
            self.remounted();
        }
        self.remounts_now = self.remounts.contains(&op);
        if let OpKind::Fsync { ino } = kind {
            self.syncs.push(Sync { op, ino, begin: at, end: None });
        }
    }

    /// A new mount knows nothing of what an earlier one could not write. What no fsync was asked about by then is forgotten.
    fn remounted(&mut self) {
        let syncs = std::mem::take(&mut self.syncs);
        let was_asked = |refused: &Refused| !syncs_after(refused, &syncs).is_empty();
        let (asked, rest) = self.refused.drain(..).partition(was_asked);
        self.refused = rest;
        self.refused.iter_mut().for_each(|refused| refused.forgotten = true);
        self.unreported.extend(unreported(&asked, &syncs));
    }

    /// A file is gone. Another may get its number, and that one owes nothing.
    fn deleted(&mut self, ino: Ino) {
        let (its, others) = self.refused.drain(..).partition(|refused| refused.ino == ino);
        self.refused = others;
        self.unreported.extend(unreported(&its, &self.syncs));
        self.syncs.retain(|sync| sync.ino != ino);
    }

    fn bios_over(&self, sectors: Range<u64>) -> BTreeSet<BioId> {
        let over = |bio: &Bio| bio.in_flight && bio.sectors.start < sectors.end && sectors.start < bio.sectors.end;
        self.bios.iter().filter(|(_, bio)| over(bio)).map(|(id, _)| *id).collect()
    }

    fn answered(&mut self, at: usize, request: RequestId, status: Option<RequestStatus>) {
        let Some(carried) = self.carried.remove(&request) else { return };
        if status.is_none_or(|status| status == RequestStatus::Ok) {
            return;
        }
        let io_ends: BTreeSet<IoEndId> = carried.iter().map(|bio| self.bios[bio].io_end).collect();
        for io_end in io_ends {
            if let Some(&ino) = self.inode_of.get(&io_end) {
                self.refused.push(Refused { at, ino, io_end, request, forgotten: false });
            }
        }
    }

    fn bio_ended(&mut self, id: BioId, io_end: IoEndId, error: Errno) {
        if let Some(bio) = self.bios.get_mut(&id) {
            bio.in_flight = false;
        }
        if error != 0 {
            self.failed.entry(io_end).or_default().push(id);
        }
    }

    fn op_ended(&mut self, at: usize, op: OpId, errno: Errno) {
        if let Some(sync) = self.syncs.iter_mut().rev().find(|sync| sync.op == op) {
            sync.end = Some((at, errno));
        }
    }

    /// A conversion came back: every failed bio of its io_end whose place in the file lies in its range is now readable
    /// without having been written.
    fn conversion_result(&mut self, task: TaskId, errno: Errno) {
        let Some((io_end, range)) = self.converting.remove(&task) else { return };
        let (true, Some(&ino)) = (errno == 0, self.inode_of.get(&io_end)) else { return };
        let failed = self.failed.get(&io_end).map(Vec::as_slice).unwrap_or_default();
        let parts: Vec<Range<u64>> = failed.iter().filter_map(|bio| self.converted_part(ino, *bio, &range)).collect();
        let (Some(first), Some(last)) =
            (parts.iter().map(|part| part.start).min(), parts.iter().map(|part| part.end).max())
        else {
            return;
        };
        let what = format!(
            "bytes {first}..{last} of inode {ino} were converted to written although {} of io_end {io_end} failed",
            if parts.len() == 1 { "a bio".to_owned() } else { format!("{} bios", parts.len()) }
        );
        self.converted.push(Finding {
            io_end: Some(io_end.0),
            ino: Some(ino.0),
            offset: Some(first),
            bytes: Some(last - first),
            ..Finding::new(CONVERTED_AFTER_FAILED_WRITE, what)
        });
    }

    /// The part of a conversion that a bio was to write. Where the trace does not say how the bio's sectors belong to
    /// the file, nothing is claimed.
    fn converted_part(&self, ino: Ino, bio: BioId, range: &Range<u64>) -> Option<Range<u64>> {
        let bytes = self.place_in_file(ino, &self.bios.get(&bio)?.sectors)?;
        let part = bytes.start.max(range.start)..bytes.end.min(range.end);
        (part.start < part.end).then_some(part)
    }

    fn place_in_file(&self, ino: Ino, sectors: &Range<u64>) -> Option<Range<u64>> {
        let disk = sectors.start * SECTOR_BYTES..sectors.end * SECTOR_BYTES;
        // The newest mapping counts: a block may have belonged to the file at another place before.
        self.extents.get(&ino)?.iter().rev().find_map(|extent| {
            let start = extent.pblk * self.block_bytes;
            let end = (extent.pblk + extent.len) * self.block_bytes;
            let inside = start <= disk.start && disk.start < end;
            let offset = extent.lblk * self.block_bytes + disk.start.saturating_sub(start);
            inside.then(|| offset..offset + (disk.end.min(end) - disk.start))
        })
    }
}

/// An error is owed to the first fsync of the file that ends after it; one that was under way may have looked before the
/// error came, so then the next one may report it as well. Where no fsync follows, nothing is owed. One of another writer that
/// begins before that one ends may look before it, and be told in its place: the file has one descriptor.
fn unreported(refused: &[Refused], syncs: &[Sync]) -> Vec<Finding> {
    let mut told: BTreeMap<(Ino, OpId, bool), (&Refused, usize)> = BTreeMap::new();
    for refusal in refused {
        if let Some(silent) = silent_sync(refusal, syncs) {
            told.entry((refusal.ino, silent, refusal.forgotten))
                .and_modify(|(_, count)| *count += 1)
                .or_insert((refusal, 1));
        }
    }
    told.into_iter().map(|((ino, op, _), (first, count))| finding_of_silence(ino, op, first, count)).collect()
}

/// Those of the file that ended after it was refused, in the order they began, with what they returned.
fn syncs_after(refusal: &Refused, syncs: &[Sync]) -> Vec<(Sync, Errno)> {
    let mut after: Vec<(Sync, Errno)> = Vec::new();
    for sync in syncs.iter().filter(|sync| sync.ino == refusal.ino) {
        match sync.end {
            Some((end, errno)) if end > refusal.at => after.push((*sync, errno)),
            _ => {}
        }
    }
    after.sort_by_key(|(sync, _)| sync.begin);
    after
}

/// The fsync that should have reported, if none did.
fn silent_sync(refusal: &Refused, syncs: &[Sync]) -> Option<OpId> {
    let after = syncs_after(refusal, syncs);
    let under_way = after.iter().take_while(|(sync, _)| sync.begin < refusal.at).count();
    let next_ends = after.get(under_way).and_then(|(sync, _)| sync.end).map_or(0, |(end, _)| end);
    let beside = after.iter().skip(under_way + 1).take_while(|(sync, _)| sync.begin < next_ends).count();
    let owed_to = &after[..after.len().min(under_way + 1 + beside)];
    let last = owed_to.last()?;
    owed_to.iter().all(|(_, errno)| *errno == 0).then_some(last.0.op)
}

fn finding_of_silence(ino: Ino, op: OpId, first: &Refused, count: usize) -> Finding {
    let (id, of_which) = match first.forgotten {
        true => (ERROR_FORGOTTEN, " of the next mount"),
        false => (ERROR_NOT_REPORTED, ""),
    };
    let what = format!(
        "the device refused {count} write(s) of inode {ino} (first: request {}), and fsync{of_which} (operation {op}) returned 0",
        first.request
    );
    Finding { io_end: Some(first.io_end.0), op: Some(op.0), ino: Some(ino.0), ..Finding::new(id, what) }
}

#[cfg(test)]
mod tests;
