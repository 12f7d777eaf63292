//! What belongs to what: the io_end a task works on, the bio a request carries, the device request behind a guest's.
//!
//! Follows the trace once, in its order. A link that the trace does not bear out is left out, never guessed.

use super::input::{Match, ReportInput};
use std::collections::BTreeMap;
use writeback_events::{BioId, BlockOp, Body, Entry, IoEndId, RequestId, Response, Stimulus, TaskId};

/// Bytes of a sector.
const SECTOR_BYTES: u64 = 512;

/// What one entry, response or request is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct About {
    pub(super) io_end: Option<IoEndId>,
    pub(super) bio: Option<BioId>,
    pub(super) request: Option<RequestId>,
}

/// Where a guest request shows in the guest's trace.
#[derive(Clone, Debug, Default)]
struct Life {
    /// `seq` of each issue that was not taken back by a requeue.
    issued: Vec<u64>,
    answered: Vec<u64>,
}

/// A device request's guest side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GuestSide {
    pub(super) request: RequestId,
    pub(super) issued: Option<u64>,
    pub(super) answered: Option<u64>,
}

/// All links of one run.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// One per guest entry, in their order.
    pub(super) of_entry: Vec<About>,
    /// By `DeviceRequest::seq`.
    pub(super) guest_side: BTreeMap<u64, GuestSide>,
    io_end_of_bio: BTreeMap<BioId, IoEndId>,
    bio_of_request: BTreeMap<RequestId, BioId>,
}

impl Links {
    pub(super) fn new(input: &ReportInput) -> Links {
        let mut walk = Walk::default();
        let of_entry = input.guest.iter().map(|entry| walk.step(entry)).collect();
        Links {
            of_entry,
            guest_side: guest_sides(&input.matched, &walk.lives),
            io_end_of_bio: walk.io_end_of_bio,
            bio_of_request: walk.bio_of_request,
        }
    }

    /// What a request carries.
    pub(super) fn request(&self, request: RequestId) -> About {
        let bio = self.bio_of_request.get(&request).copied();
        About { io_end: bio.and_then(|bio| self.io_end_of_bio.get(&bio).copied()), bio, request: Some(request) }
    }

    /// What a response is about.
    pub(super) fn response(&self, response: &Response) -> About {
        match *response {
            Response::RequestError { request, .. } => self.request(request),
            _ => named_in(response),
        }
    }
}

/// The ids a response names itself.
fn named_in(response: &Response) -> About {
    match *response {
        Response::GetIoEnd { io_end, bio, .. }
        | Response::SubmitBio { io_end, bio, .. }
        | Response::BioOutsideFolios { io_end, bio }
        | Response::EndBio { io_end, bio, .. } => About { io_end: Some(io_end), bio: Some(bio), request: None },
        Response::InitIoEnd { io_end, .. }
        | Response::PutIoEndDefer { io_end, .. }
        | Response::PutIoEnd { io_end, .. }
        | Response::AddCompleteIo { io_end, .. }
        | Response::ConvertUnwritten { io_end, .. }
        | Response::ReleaseIoEnd { io_end, .. }
        | Response::HeldAtLeave { io_end } => About { io_end: Some(io_end), ..About::default() },
        Response::RequestError { request, .. } => About { request: Some(request), ..About::default() },
        Response::AllocFailed { .. } | Response::EndPageWriteback { .. } | Response::OpResult { .. } => {
            About::default()
        }
    }
}

/// The k-th device request of a guest request is its k-th issue.
fn guest_sides(matched: &[Match], lives: &BTreeMap<RequestId, Life>) -> BTreeMap<u64, GuestSide> {
    let mut nth = BTreeMap::<RequestId, usize>::new();
    let mut sorted = matched.to_vec();
    sorted.sort_by_key(|m| m.device);
    let side = |m: &Match, k: usize| {
        let life = lives.get(&m.guest);
        GuestSide {
            request: m.guest,
            issued: life.and_then(|life| life.issued.get(k).copied()),
            answered: life.and_then(|life| life.answered.get(k).copied()),
        }
    };
    sorted
        .iter()
        .map(|m| {
            let k = nth.entry(m.guest).or_default();
            *k += 1;
            (m.device, side(m, *k - 1))
        })
        .collect()
}

/// The state of the walk along the trace.
#[derive(Default)]
struct Walk {
    /// The io_end each task asked for and has not dropped.
    current: BTreeMap<TaskId, IoEndId>,
    /// The io_end each task converts.
    converting: BTreeMap<TaskId, IoEndId>,
    /// Submitted bios that have not ended: first sector to end sector.
    in_flight: BTreeMap<u64, (u64, BioId)>,
    io_end_of_bio: BTreeMap<BioId, IoEndId>,
    bio_of_request: BTreeMap<RequestId, BioId>,
    lives: BTreeMap<RequestId, Life>,
}

impl Walk {
    fn step(&mut self, entry: &Entry) -> About {
        match &entry.body {
            Body::Stimulus(stimulus) => self.stimulus(entry.seq, stimulus),
            Body::Answered { request } => self.answered(entry.seq, *request),
            Body::Response(response) => self.response(entry.task, response),
        }
    }

    fn stimulus(&mut self, seq: u64, stimulus: &Stimulus) -> About {
        match *stimulus {
            Stimulus::ExtentMapped { task, .. }
            | Stimulus::FolioSubmitted { task, .. }
            | Stimulus::BioOpened { task }
            | Stimulus::BioSubmitted { task, .. } => self.of_task(task),
            Stimulus::RefDropped { task, .. } => About { io_end: self.current.remove(&task), ..About::default() },
            Stimulus::ConversionResult { task, .. } => {
                About { io_end: self.converting.remove(&task), ..About::default() }
            }
            Stimulus::RequestIssued { request, op, sector, sectors } => self.issued(seq, request, op, sector, sectors),
            Stimulus::RequestRequeued { request } => {
                self.lives.entry(request).or_default().issued.pop();
                self.of_request(request)
            }
            Stimulus::RequestAnswered { request, .. } => self.answered(seq, request),
            Stimulus::CompletionGoesOn { request } | Stimulus::AnswerUntrue { request, .. } => self.of_request(request),
            Stimulus::DiskShrinks
            | Stimulus::DiskHas { .. }
            | Stimulus::WritepagesEnter { .. }
            | Stimulus::WritepagesLeave { .. }
            | Stimulus::InitIoEnd { .. }
            | Stimulus::WorkerStarts { .. }
            | Stimulus::BlocksMapped { .. }
            | Stimulus::FolioSkipped { .. }
            | Stimulus::InodeEvicted { .. }
            | Stimulus::OpBegins { .. }
            | Stimulus::OpEnds { .. } => About::default(),
        }
    }

    fn response(&mut self, task: TaskId, response: &Response) -> About {
        match *response {
            Response::InitIoEnd { io_end, .. } => {
                self.current.insert(task, io_end);
            }
            Response::GetIoEnd { io_end, bio, .. } => {
                self.io_end_of_bio.insert(bio, io_end);
            }
            Response::SubmitBio { io_end, bio, sector, bytes } => {
                self.io_end_of_bio.insert(bio, io_end);
                self.in_flight.insert(sector, (sector + bytes.div_ceil(SECTOR_BYTES), bio));
            }
            Response::EndBio { bio, .. } => self.in_flight.retain(|_, (_, other)| *other != bio),
            Response::ConvertUnwritten { io_end, .. } => {
                self.converting.insert(task, io_end);
            }
            Response::RequestError { request, .. } => return self.of_request(request),
            _ => {}
        }
        named_in(response)
    }

    fn issued(&mut self, seq: u64, request: RequestId, op: BlockOp, sector: u64, sectors: u64) -> About {
        self.lives.entry(request).or_default().issued.push(seq);
        let below = self.in_flight.range(..=sector).next_back();
        if let (BlockOp::Write, Some((_, &(end, bio)))) = (op, below)
            && sector + sectors <= end
        {
            self.bio_of_request.insert(request, bio);
        }
        self.of_request(request)
    }

    fn answered(&mut self, seq: u64, request: RequestId) -> About {
        self.lives.entry(request).or_default().answered.push(seq);
        self.of_request(request)
    }

    fn of_task(&self, task: TaskId) -> About {
        About { io_end: self.current.get(&task).copied(), ..About::default() }
    }

    fn of_request(&self, request: RequestId) -> About {
        let bio = self.bio_of_request.get(&request).copied();
        About { io_end: bio.and_then(|bio| self.io_end_of_bio.get(&bio).copied()), bio, request: Some(request) }
    }
}
