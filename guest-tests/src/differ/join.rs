//! Joins the guest's trace and the device's record.
//!
//! The guest says when a request was answered, the device says with what. Every request that the guest issued and did not
//! requeue is one request of the device. With one queue the k-th is the k-th, unless the driver took a plugged list: it then
//! issues the list's requests in one order and queues them in the other (`drivers/block/virtio_blk.c, virtio_queue_rqs`;
//! seen with 6.1.192). There, and with more queues, it is the k-th of the same operation, sector and length. What cannot be
//! told apart with certainty is never guessed.

use super::follow::Context;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use writeback_events::{BlockOp, Body, Entry, RequestId, RequestStatus, Stimulus};

/// A request as the device's record has it, in order of arrival.
///
/// Only operations that the guest's block layer traces: no GET_ID. A flush has sector and length 0; a discard or
/// write-zeroes request has the first sector of its first range and the sectors of all its ranges.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRequest {
    /// Connection it came in by, from 1.
    pub session: u32,
    /// What it does.
    pub op: BlockOp,
    /// First sector.
    pub sector: u64,
    /// Length in sectors.
    pub sectors: u64,
    /// What the device answered; none if it never did.
    pub status: Option<RequestStatus>,
    /// What is not true after the answer, where a script had the device lie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untrue: Option<Untrue>,
}

/// What a device that lied has made untrue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Untrue {
    /// What this request read or wrote.
    Itself,
    /// Other sectors too: it was written to the wrong place, or the power took what had been answered.
    Elsewhere,
}

/// A trace whose answered requests have their statuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The trace's stimuli, in order.
    pub stimuli: Vec<Placed>,
    /// Which of the device's requests each of the guest's is.
    pub device_of: BTreeMap<RequestId, usize>,
    /// Device requests behind the last one that the guest's trace shows: made after it had ended.
    pub after_trace: usize,
}

/// A stimulus at its place in the trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// Its `seq`.
    pub seq: u64,
    /// The thread it belongs to.
    pub context: Context,
    /// The stimulus, complete.
    pub stimulus: Stimulus,
}

impl Placed {
    fn at(entry: &Entry, stimulus: Stimulus) -> Placed {
        Placed { seq: entry.seq, context: Context::of(entry), stimulus }
    }
}

/// Why the two do not go together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each variant's message says what it is")]
pub enum JoinError {
    #[error(
        "the guest's request {request} ({guest}) is not what the device got at that place ({device}); a trace or a record is not whole"
    )]
    Mismatch { request: RequestId, guest: String, device: String },
    #[error("the guest's request {request} ({guest}) never reached the device; a trace or a record is not whole")]
    NeverArrived { request: RequestId, guest: String },
    #[error("the guest's request {request} ({guest}) was answered in the guest, but the device never answered it")]
    NeverAnswered { request: RequestId, guest: String },
    #[error("the guest's trace answers request {request}, but it was not issued; the trace is not whole")]
    NeverIssued { request: RequestId },
    #[error(
        "requests {one} and {other} (sectors {first}..{end}) were in flight at once with different answers, so which of them got which cannot be told"
    )]
    Ambiguous { one: RequestId, other: RequestId, first: u64, end: u64 },
    #[error(
        "sectors {first}..{end} were submitted while the disk's size changed: whether the guest knew the new one cannot be told"
    )]
    SizeInDoubt { first: u64, end: u64 },
    #[error(
        "the device got {extra} requests more between those of the guest, the first a {device}; a trace is not whole"
    )]
    NeverTraced { extra: usize, device: String },
}

impl JoinError {
    /// Whether this is the guest's doing and not a trace or a record that is not whole.
    pub fn guest_is_to_blame(&self) -> bool {
        matches!(self, JoinError::NeverAnswered { .. })
    }
}

/// What a request is recognised by.
type Key = (BlockOp, u64, u64);

struct Issued {
    request: RequestId,
    key: Key,
}

/// Gives each answered request of the guest the status that the device answered it with.
pub fn join(entries: &[Entry], device: &[DeviceRequest], queues: u16) -> Result<Joined, JoinError> {
    let issued = issued(entries);
    let in_turn = if queues <= 1 { in_turn(&issued, device).ok() } else { None };
    let device_of = match in_turn {
        Some(device_of) => device_of,
        None => by_content(&issued, device)?,
    };
    // Also where all went in turn: equal requests of one list may have been queued the other way round.
    none_ambiguous(entries, &issued, device, &device_of)?;
    let after_trace = device.len() - device_of.len();
    Ok(Joined { stimuli: stimuli(entries, &issued, device, &device_of)?, device_of, after_trace })
}

/// The guest's requests that went to the device, in the order in which they were last issued.
fn issued(entries: &[Entry]) -> Vec<Issued> {
    let mut issued: Vec<Issued> = Vec::new();
    for entry in entries {
        match entry.body {
            Body::Stimulus(Stimulus::RequestIssued { request, op, sector, sectors }) => {
                issued.push(Issued { request, key: key(op, sector, sectors) });
            }
            Body::Stimulus(Stimulus::RequestRequeued { request }) => {
                if let Some(last) = issued.iter().rposition(|issued| issued.request == request) {
                    issued.remove(last);
                }
            }
            _ => {}
        }
    }
    issued
}

/// A flush has no place; what a trace shows for it says nothing.
fn key(op: BlockOp, sector: u64, sectors: u64) -> Key {
    if op == BlockOp::Flush { (op, 0, 0) } else { (op, sector, sectors) }
}

fn key_of(request: &DeviceRequest) -> Key {
    key(request.op, request.sector, request.sectors)
}

fn in_turn(issued: &[Issued], device: &[DeviceRequest]) -> Result<BTreeMap<RequestId, usize>, JoinError> {
    let mut device_of = BTreeMap::new();
    for (place, Issued { request, key }) in issued.iter().enumerate() {
        let (request, guest) = (*request, describe(*key));
        let Some(got) = device.get(place) else { return Err(JoinError::NeverArrived { request, guest }) };
        if key_of(got) != *key {
            return Err(JoinError::Mismatch { request, guest, device: describe(key_of(got)) });
        }
        device_of.insert(request, place);
    }
    Ok(device_of)
}

fn by_content(issued: &[Issued], device: &[DeviceRequest]) -> Result<BTreeMap<RequestId, usize>, JoinError> {
    let mut places: BTreeMap<Key, VecDeque<usize>> = BTreeMap::new();
    for (place, got) in device.iter().enumerate() {
        places.entry(key_of(got)).or_default().push_back(place);
    }
    let mut device_of = BTreeMap::new();
    for Issued { request, key } in issued {
        let Some(place) = places.get_mut(key).and_then(VecDeque::pop_front) else {
            return Err(JoinError::NeverArrived { request: *request, guest: describe(*key) });
        };
        device_of.insert(*request, place);
    }
    match unmatched_before_the_last(&device_of, places.into_values().flatten().collect()) {
        Some((extra, first)) => Err(JoinError::NeverTraced { extra, device: describe(key_of(&device[first])) }),
        None => Ok(device_of),
    }
}

/// Device requests that no request of the guest is, though a later one is.
fn unmatched_before_the_last(device_of: &BTreeMap<RequestId, usize>, mut left: Vec<usize>) -> Option<(usize, usize)> {
    let last = device_of.values().max().copied().unwrap_or(0);
    left.retain(|place| *place < last);
    left.iter().min().map(|first| (left.len(), *first))
}

/// Overlapping requests that are in flight at once must have been answered alike.
fn none_ambiguous(
    entries: &[Entry],
    issued: &[Issued],
    device: &[DeviceRequest],
    device_of: &BTreeMap<RequestId, usize>,
) -> Result<(), JoinError> {
    let keys: BTreeMap<RequestId, Key> = issued.iter().map(|issued| (issued.request, issued.key)).collect();
    let status = |request: &RequestId| device_of.get(request).and_then(|place| device[*place].status);
    let mut flying: BTreeMap<RequestId, Key> = BTreeMap::new();
    for entry in entries {
        match entry.body {
            Body::Stimulus(Stimulus::RequestIssued { request: one, .. }) => {
                let Some(key) = keys.get(&one).copied() else { continue };
                let alike = |other: &RequestId| status(other) == status(&one);
                let clash = flying.iter().find(|(other, theirs)| overlap(**theirs, key) && !alike(other));
                if let Some((other, _)) = clash {
                    let (_, first, sectors) = key;
                    let end = first.saturating_add(sectors);
                    return Err(JoinError::Ambiguous { one, other: *other, first, end });
                }
                flying.insert(one, key);
            }
            Body::Answered { request } | Body::Stimulus(Stimulus::RequestRequeued { request }) => {
                flying.remove(&request);
            }
            _ => {}
        }
    }
    Ok(())
}

fn overlap((op, a, len_a): Key, (other_op, b, len_b): Key) -> bool {
    let equal = (op, a, len_a) == (other_op, b, len_b);
    equal || (a < b.saturating_add(len_b) && b < a.saturating_add(len_a))
}

fn stimuli(
    entries: &[Entry],
    issued: &[Issued],
    device: &[DeviceRequest],
    device_of: &BTreeMap<RequestId, usize>,
) -> Result<Vec<Placed>, JoinError> {
    let mut stimuli = Vec::new();
    for entry in entries {
        match &entry.body {
            Body::Stimulus(stimulus) => stimuli.push(Placed::at(entry, stimulus.clone())),
            Body::Answered { request } => {
                let status = status_of(*request, issued, device, device_of)?;
                let untrue = device_of.get(request).and_then(|place| device[*place].untrue);
                stimuli.extend(untrue.map(|untrue| {
                    let elsewhere = untrue == Untrue::Elsewhere;
                    Placed::at(entry, Stimulus::AnswerUntrue { request: *request, elsewhere })
                }));
                stimuli.push(Placed::at(entry, Stimulus::RequestAnswered { request: *request, status }));
            }
            Body::Response(_) => {}
        }
    }
    Ok(stimuli)
}

fn status_of(
    request: RequestId,
    issued: &[Issued],
    device: &[DeviceRequest],
    device_of: &BTreeMap<RequestId, usize>,
) -> Result<RequestStatus, JoinError> {
    let place = device_of.get(&request).ok_or(JoinError::NeverIssued { request })?;
    device[*place].status.ok_or_else(|| {
        let key = issued.iter().find(|issued| issued.request == request).map(|issued| issued.key);
        JoinError::NeverAnswered { request, guest: key.map_or_else(String::new, describe) }
    })
}

fn describe((op, sector, sectors): Key) -> String {
    let op = match op {
        BlockOp::Read => "read",
        BlockOp::Write => "write",
        BlockOp::Flush => return "flush".into(),
        BlockOp::Discard => "discard",
        BlockOp::Other => "write-zeroes or other",
    };
    format!("{op} of {sectors} sectors at {sector}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use writeback_events::TaskId;

    fn entries(bodies: Vec<Body>) -> Vec<Entry> {
        let at = |(seq, body)| Entry { seq: seq as u64, cpu: 0, task: TaskId(1), interrupt: false, body };
        bodies.into_iter().enumerate().map(at).collect()
    }

    fn issue(request: u64, sector: u64) -> Body {
        let request = RequestId(request);
        Body::Stimulus(Stimulus::RequestIssued { request, op: BlockOp::Write, sector, sectors: 8 })
    }

    fn requeue(request: u64) -> Body {
        Body::Stimulus(Stimulus::RequestRequeued { request: RequestId(request) })
    }

    fn answered(request: u64) -> Body {
        Body::Answered { request: RequestId(request) }
    }

    fn got(sector: u64, status: Option<RequestStatus>) -> DeviceRequest {
        DeviceRequest { session: 1, op: BlockOp::Write, sector, sectors: 8, status, untrue: None }
    }

    const OK: Option<RequestStatus> = Some(RequestStatus::Ok);
    const BAD: Option<RequestStatus> = Some(RequestStatus::Ioerr);

    fn statuses(joined: &Joined) -> Vec<(u64, RequestStatus)> {
        let answered = joined.stimuli.iter().filter_map(|placed| match &placed.stimulus {
            Stimulus::RequestAnswered { request, status } => Some((request.0, *status)),
            _ => None,
        });
        answered.collect()
    }

    #[test]
    fn one_queue_goes_k_th_by_k_th_and_leaves_what_was_requeued_aside() {
        let guest = entries(vec![issue(1, 0), requeue(1), issue(2, 8), issue(1, 0), answered(1), answered(2)]);
        let joined = join(&guest, &[got(8, OK), got(0, BAD), got(16, OK)], 1).expect("they fit");
        assert_eq!(statuses(&joined), [(1, RequestStatus::Ioerr), (2, RequestStatus::Ok)]);
        assert_eq!((joined.device_of[&RequestId(1)], joined.after_trace), (1, 1));
    }

    #[test]
    fn a_plugged_list_that_is_queued_the_other_way_round_goes_by_what_the_requests_are() {
        let guest = entries(vec![issue(1, 16), issue(2, 8), issue(3, 0), answered(3), answered(2), answered(1)]);
        let joined = join(&guest, &[got(0, OK), got(8, BAD), got(16, OK)], 1).expect("they fit");
        let expected = [(3, RequestStatus::Ok), (2, RequestStatus::Ioerr), (1, RequestStatus::Ok)];
        assert_eq!(statuses(&joined), expected);
    }

    #[test]
    fn equal_requests_of_one_list_with_different_answers_are_not_guessed() {
        let guest = entries(vec![issue(1, 0), issue(2, 0), answered(1), answered(2)]);
        assert!(matches!(join(&guest, &[got(0, OK), got(0, BAD)], 1), Err(JoinError::Ambiguous { .. })));
    }

    #[test]
    fn many_queues_go_by_what_the_requests_are() {
        let guest = entries(vec![issue(1, 0), issue(2, 8), answered(2), answered(1)]);
        let joined = join(&guest, &[got(8, BAD), got(0, OK)], 2).expect("they fit");
        assert_eq!(statuses(&joined), [(2, RequestStatus::Ioerr), (1, RequestStatus::Ok)]);
    }

    #[test]
    fn a_flush_is_a_flush_wherever_the_trace_puts_it() {
        let flush = |sector| Stimulus::RequestIssued { request: RequestId(1), op: BlockOp::Flush, sector, sectors: 0 };
        let device = DeviceRequest { session: 1, op: BlockOp::Flush, sector: 0, sectors: 0, status: OK, untrue: None };
        for sector in [0, u64::MAX] {
            assert!(join(&entries(vec![Body::Stimulus(flush(sector))]), std::slice::from_ref(&device), 1).is_ok());
        }
    }

    #[test]
    fn overlapping_requests_in_flight_with_different_answers_are_not_guessed() {
        let both = [got(0, OK), got(0, BAD)];
        let at_once = entries(vec![issue(1, 0), issue(2, 0), answered(1), answered(2)]);
        assert!(matches!(join(&at_once, &both, 2), Err(JoinError::Ambiguous { .. })));
        assert!(join(&at_once, &[got(0, OK), got(0, OK)], 2).is_ok());
        let in_turn = entries(vec![issue(1, 0), answered(1), issue(2, 0), answered(2)]);
        assert!(join(&in_turn, &both, 2).is_ok());
    }

    #[test]
    fn what_does_not_go_together_says_where() {
        let two = || entries(vec![issue(1, 0), issue(2, 8), answered(1)]);
        let says = |error: Result<Joined, JoinError>| error.expect_err("they do not fit").to_string();
        assert!(says(join(&two(), &[got(0, OK), got(16, OK)], 1)).contains("write of 8 sectors at 8"));
        assert!(says(join(&two(), &[got(0, OK)], 1)).contains("never reached the device"));
        assert!(says(join(&two(), &[got(0, OK)], 2)).contains("never reached the device"));
        assert!(says(join(&two(), &[got(0, OK), got(16, OK), got(8, OK)], 2)).contains("requests more"));
        assert!(says(join(&entries(vec![answered(1)]), &[], 1)).contains("was not issued"));
    }

    #[test]
    fn an_answer_the_device_never_gave_is_the_guest_s_doing() {
        let guest = entries(vec![issue(1, 0), answered(1)]);
        let error = join(&guest, &[got(0, None)], 1).expect_err("there is no status");
        assert!(error.guest_is_to_blame(), "{error}");
        assert!(join(&entries(vec![issue(1, 0)]), &[got(0, None)], 1).is_ok(), "held for good is no difference");
    }
}
