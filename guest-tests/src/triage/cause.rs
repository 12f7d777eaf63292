//! The fault that came before a failure, and what it hit.
//!
//! Which of several faults was the cause cannot be known from one run. What is chosen is the same for the same bug as far as
//! that goes: of the faults before the place, the last one on data of the very io_end, else of the very inode, else the last
//! one; and what changes an answer or the data goes before what only makes requests late.

use crate::device_record::{self, DeviceRecord};
use crate::differ;
use crate::judge::Recorded;
use crate::page::op_word;
use fault_injection::event::Outcome;
use fault_injection::{EventRecord, Happened, Op, Record};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use writeback_events::{BioId, BlockOp, Body, Ino, IoEndId, OpId, RequestId, Response, Stimulus};

const SECTOR_BYTES: u64 = 512;

/// A fault without its numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// The action's word, with the status where it has one.
    pub action: String,
    /// What the request asked; none: the fault was no request's.
    pub op: Option<Op>,
    /// What the request's first block is to ext4, as far as trace or device tell.
    pub class: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.op {
            Some(op) => write!(f, "{} on {} of {}", self.action, op_word(op), self.class),
            None => f.write_str(&self.action),
        }
    }
}

/// What is known of the place of a failure.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    /// In the guest's trace.
    pub seq: Option<u64>,
    /// The io_end it is about.
    pub io_end: Option<IoEndId>,
    /// The inode it is about.
    pub ino: Option<Ino>,
    /// The operation that showed it.
    pub op: Option<OpId>,
}

/// The fault before `place`; none: nothing was carried out before it.
pub fn before(recorded: &Recorded, place: Place) -> Option<Fault> {
    let decisions = recorded.decisions.as_ref().ok()?;
    let requests = Requests::of(recorded);
    let end = requests.end_of(place);
    let mut faults: Vec<Told> = decisions.records.iter().filter_map(|record| of_record(record, &requests)).collect();
    faults.extend(decisions.events.iter().filter_map(of_event));
    faults.retain(|told| end.is_none_or(|end| told.seq <= end));
    faults.sort_by_key(|told| told.seq);
    let rank = |told: &Told| {
        let carried = requests.carried.get(&told.seq);
        let of_io_end = place.io_end.is_some_and(|io_end| carried.is_some_and(|data| data.io_ends.contains(&io_end)));
        let of_inode = place.ino.is_some_and(|ino| carried.is_some_and(|data| data.inodes.contains(&ino)));
        (told.harmful, of_io_end, of_inode)
    };
    // Of equals `max_by_key` takes the last.
    faults.into_iter().max_by_key(rank).map(|told| told.fault)
}

struct Told {
    /// `seq` of the request in the device's record.
    seq: u64,
    /// It changes an answer or the data.
    harmful: bool,
    fault: Fault,
}

fn of_record(record: &Record, requests: &Requests) -> Option<Told> {
    let (action, harmful) = action(&record.outcome)?;
    let class = match (&record.file, requests.carried.get(&record.seq)) {
        // The trace knows the data of a file that the device has not yet seen to be one.
        (_, Some(data)) if !data.io_ends.is_empty() => "ext4.data".to_owned(),
        (Some(file), _) => file.class.word().to_owned(),
        (None, _) => "what the device was not asked to tell".to_owned(),
    };
    Some(Told { seq: record.seq, harmful, fault: Fault { action, op: Some(record.op), class } })
}

fn action(outcome: &Outcome) -> Option<(String, bool)> {
    let status = |status: &u8| match status {
        0 => "ok",
        1 => "ioerr",
        2 => "unsupp",
        _ => "an unknown status",
    };
    Some(match outcome {
        Outcome::Error { status: code, .. } => (format!("error {}", status(code)), true),
        Outcome::Partial { status: code, .. } => (format!("partial {}", status(code)), true),
        Outcome::Torn { .. } => ("torn".to_owned(), true),
        Outcome::Lose {} => ("lose".to_owned(), true),
        Outcome::Misdirect { .. } => ("misdirect".to_owned(), true),
        Outcome::Corrupt { .. } => ("corrupt".to_owned(), true),
        Outcome::Stale { .. } => ("stale".to_owned(), true),
        Outcome::PowerCut {} => ("power_cut".to_owned(), true),
        Outcome::Delay { .. } => ("delay".to_owned(), false),
        Outcome::Hold {} => ("hold".to_owned(), false),
        Outcome::Reorder { .. } => ("reorder".to_owned(), false),
        Outcome::Split { .. } => ("split".to_owned(), false),
        Outcome::ReorderStarved { .. } | Outcome::Set(_) | Outcome::Shadowed { .. } => return None,
    })
}

fn of_event(event: &EventRecord) -> Option<Told> {
    use fault_injection::FailClass;
    let (action, harmful) = match &event.event {
        Happened::FailClass(FailClass::None) => return None,
        Happened::FailClass(FailClass::Writes) => ("fail_class writes", true),
        Happened::FailClass(FailClass::Reads) => ("fail_class reads", true),
        Happened::FailClass(FailClass::All) => ("fail_class all", true),
        Happened::PowerCut {} => ("power_cut", true),
        Happened::CapacitySectors(_) => ("capacity_sectors", true),
        Happened::Disconnect { .. } => ("disconnect", false),
        Happened::WriteCache(_) => ("write_cache", false),
        Happened::Heal { .. } | Happened::Path { .. } | Happened::Set(_) | Happened::Rule { .. } => return None,
    };
    Some(Told { seq: event.seq, harmful, fault: Fault { action: action.to_owned(), op: None, class: String::new() } })
}

/// Whose data the device's requests carried, and when the guest issued them.
#[derive(Default)]
struct Requests {
    /// By `seq` of the device's record.
    carried: BTreeMap<u64, Carried>,
    /// (place in the trace, `seq` of the device's record), in the order of the trace.
    issued: Vec<(u64, u64)>,
    /// Where each operation ends in the trace.
    op_ends: BTreeMap<OpId, u64>,
}

#[derive(Default)]
struct Carried {
    io_ends: BTreeSet<IoEndId>,
    inodes: BTreeSet<Ino>,
}

#[derive(Clone, Copy)]
struct Bio {
    io_end: IoEndId,
    first: u64,
    end: u64,
}

impl Requests {
    /// Walks the trace once. Without a trace, or where it does not go with the record, nothing is known.
    fn of(recorded: &Recorded) -> Requests {
        let (Ok(trace), Ok(device)) = (&recorded.trace, &recorded.device) else { return Requests::default() };
        let device_of = device_of(&trace.entries, device);
        let mut known = Requests::default();
        let mut inode_of: BTreeMap<IoEndId, Ino> = BTreeMap::new();
        let mut bios: BTreeMap<BioId, Bio> = BTreeMap::new();
        for entry in &trace.entries {
            match &entry.body {
                Body::Response(Response::InitIoEnd { io_end, ino, .. }) => {
                    inode_of.insert(*io_end, *ino);
                }
                Body::Response(Response::SubmitBio { bio, io_end, sector, bytes }) => {
                    let bio_of = Bio { io_end: *io_end, first: *sector, end: sector + bytes / SECTOR_BYTES };
                    bios.insert(*bio, bio_of);
                }
                Body::Response(Response::EndBio { bio, .. }) => {
                    bios.remove(bio);
                }
                Body::Stimulus(Stimulus::OpEnds { op, .. }) => {
                    known.op_ends.insert(*op, entry.seq);
                }
                Body::Stimulus(Stimulus::RequestIssued { request, op, sector, sectors }) => {
                    let Some(&seq) = device_of.get(request) else { continue };
                    known.issued.push((entry.seq, seq));
                    if *op == BlockOp::Write {
                        let its = bios.values().filter(|bio| bio.first < sector + sectors && *sector < bio.end);
                        known.carried.insert(seq, carried(its, &inode_of));
                    }
                }
                _ => {}
            }
        }
        known
    }

    /// The last request of the device that the guest had issued by then; none: any.
    fn end_of(&self, place: Place) -> Option<u64> {
        let at = place.seq.or_else(|| self.op_ends.get(&place.op?).copied())?;
        self.issued.iter().filter(|(issued, _)| *issued <= at).map(|(_, seq)| *seq).max()
    }
}

fn carried<'a>(bios: impl Iterator<Item = &'a Bio>, inode_of: &BTreeMap<IoEndId, Ino>) -> Carried {
    let mut carried = Carried::default();
    for bio in bios {
        carried.io_ends.insert(bio.io_end);
        carried.inodes.extend(inode_of.get(&bio.io_end));
    }
    carried
}

fn device_of(entries: &[writeback_events::Entry], device: &DeviceRecord) -> BTreeMap<RequestId, u64> {
    let traced = device.traced();
    let requests: Vec<differ::DeviceRequest> =
        traced.iter().map(|request| device_record::for_differ(request)).collect();
    let joined = differ::join(entries, &requests, device.queues).map(|joined| joined.device_of).unwrap_or_default();
    joined.into_iter().filter_map(|(request, place)| Some((request, traced.get(place)?.seq))).collect()
}
