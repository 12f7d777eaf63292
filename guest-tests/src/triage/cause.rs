//! The fault that came before a failure, as the guest saw it, and what it hit.
//!
//! What the guest sees is an answer: refused, wrong, lost, late. Which rule or event did it is the script's affair, and so are
//! statuses and parts: ext4 makes EIO of all of them. Which of several faults was the cause cannot be known from one run. What is
//! chosen is the same for the same bug as far as that goes: of the faults before the place, the last one on data of the very
//! io_end, else of the very inode, else the last one; and what changes an answer or the data goes before what only makes
//! requests late.

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

/// What a file holds.
const DATA: &str = "file data";

/// What the guest sees of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seen {
    /// It came late, or in another order, or in pieces.
    Late,
    /// The disk became another: its cache, its connection.
    Changed,
    /// An answer with an error.
    Error,
    /// OK was answered, and other bytes were given or kept.
    Wrong,
    /// OK was answered, and nothing was kept.
    Lost,
    /// The power was cut.
    Cut,
}

impl Seen {
    fn word(self) -> &'static str {
        match self {
            Seen::Late => "delay",
            Seen::Changed => "another disk",
            Seen::Error => "error",
            Seen::Wrong => "wrong data",
            Seen::Lost => "loss",
            Seen::Cut => "power cut",
        }
    }

    /// It changes an answer or the data.
    fn harms(self) -> bool {
        self > Seen::Changed
    }
}

/// A fault without its numbers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// What the guest sees of it.
    pub seen: Seen,
    /// What the request asked; none: the fault was no request's.
    pub op: Option<Op>,
    /// What the request's first block is to ext4, as far as trace or device tell; empty: it has none.
    pub class: &'static str,
    /// It hit data of the io_end or the inode that the failure is about.
    pub own: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.op {
            Some(op) if self.class.is_empty() => write!(f, "{} on {}", self.seen.word(), op_word(op)),
            Some(op) => write!(f, "{} on {} of {}", self.seen.word(), op_word(op), self.class),
            None => f.write_str(self.seen.word()),
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
    let requests = Requests::of(recorded);
    let end = requests.end_of(place);
    let mut faults = all(recorded, &requests);
    faults.retain(|told| end.is_none_or(|end| told.seq <= end));
    for told in &mut faults {
        let carried = requests.carried.get(&told.seq);
        told.of_io_end = place.io_end.is_some_and(|io_end| carried.is_some_and(|data| data.io_ends.contains(&io_end)));
        let of_inode = place.ino.is_some_and(|ino| carried.is_some_and(|data| data.inodes.contains(&ino)));
        told.fault.own = told.of_io_end || of_inode;
    }
    let rank = |told: &Told| (told.fault.seen.harms(), told.of_io_end, told.fault.own);
    // Of equals `max_by_key` takes the last.
    faults.into_iter().max_by_key(rank).map(|told| told.fault)
}

/// Everything that the guest could see, in its order: what the script did to requests, what happened to the disk as a whole,
/// and requests that were refused because of that.
fn all(recorded: &Recorded, requests: &Requests) -> Vec<Told> {
    let Ok(decisions) = &recorded.decisions else { return Vec::new() };
    let mut faults: Vec<Told> = decisions.records.iter().filter_map(|record| of_record(record, requests)).collect();
    faults.extend(decisions.events.iter().filter_map(of_event));
    let told: BTreeSet<u64> = faults.iter().map(|told| told.seq).collect();
    let answered = recorded.device.as_ref().map_or(&[][..], |device| &device.requests);
    let refused = |request: &&device_record::Request| request.answer.is_some_and(|answer| answer.status != 0);
    let untold = answered.iter().filter(refused).filter(|request| !told.contains(&request.seq));
    faults.extend(untold.map(|request| {
        Told::new(request.seq, Seen::Error, Some(request.op), requests.class(request.seq, request.op, None))
    }));
    faults.sort_by_key(|told| told.seq);
    faults
}

struct Told {
    /// `seq` of the request in the device's record.
    seq: u64,
    /// It hit data of the io_end that the failure is about.
    of_io_end: bool,
    fault: Fault,
}

impl Told {
    fn new(seq: u64, seen: Seen, op: Option<Op>, class: &'static str) -> Told {
        Told { seq, of_io_end: false, fault: Fault { seen, op, class, own: false } }
    }
}

fn of_record(record: &Record, requests: &Requests) -> Option<Told> {
    let word = record.file.as_ref().map(|file| file.class.word());
    let class = requests.class(record.seq, record.op, word);
    Some(Told::new(record.seq, seen(&record.outcome)?, Some(record.op), class))
}

fn seen(outcome: &Outcome) -> Option<Seen> {
    Some(match outcome {
        Outcome::Error { status, .. } | Outcome::Partial { status, .. } if *status != 0 => Seen::Error,
        Outcome::Error { .. } | Outcome::Lose {} => Seen::Lost,
        Outcome::Partial { .. }
        | Outcome::Torn { .. }
        | Outcome::Misdirect { .. }
        | Outcome::Corrupt { .. }
        | Outcome::Stale { .. } => Seen::Wrong,
        Outcome::PowerCut {} => Seen::Cut,
        Outcome::Delay { .. } | Outcome::Hold {} | Outcome::Reorder { .. } | Outcome::Split { .. } => Seen::Late,
        Outcome::ReorderStarved { .. } | Outcome::Set(_) | Outcome::Shadowed { .. } => return None,
    })
}

/// That the disk refuses a whole class of requests is seen by those it refuses.
fn of_event(event: &EventRecord) -> Option<Told> {
    let seen = match &event.event {
        Happened::PowerCut {} => Seen::Cut,
        // What lies behind the end of a smaller disk the kernel refuses by itself.
        Happened::CapacitySectors(_) => Seen::Error,
        Happened::Disconnect { .. } | Happened::WriteCache(_) => Seen::Changed,
        Happened::FailClass(_)
        | Happened::Heal { .. }
        | Happened::Path { .. }
        | Happened::Set(_)
        | Happened::Rule { .. } => return None,
    };
    Some(Told::new(event.seq, seen, None, ""))
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
    /// What a request is about: data of files, the journal, or metadata. The trace knows the data of a file that the device has not
    /// yet seen to be one.
    fn class(&self, seq: u64, op: Op, told: Option<&str>) -> &'static str {
        let is_data = self.carried.get(&seq).is_some_and(|data| !data.io_ends.is_empty());
        match told {
            _ if op == Op::Flush => "",
            _ if is_data => DATA,
            Some("ext4.data") => DATA,
            Some(class) if class.starts_with("ext4.journal") => "the journal",
            Some("ext4.unknown") | None => "what nobody told",
            Some(_) => "metadata",
        }
    }

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
