//! Everything that can be seen on the timeline: events as items, lives as bars, each with its track, row and place.

use super::axis::{Axis, Place};
use super::bars::bars;
use super::input::{FirstDifference, ReplicaResponse, ReportInput};
use super::items::items;
use super::links::Links;
use super::rows;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use writeback_events::{BioId, Body, Entry, IoEndId, RequestId};

/// The tracks, from top to bottom. The page draws them in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Track {
    Operations,
    Writeback,
    GuestRequests,
    GuestIoEnds,
    Device,
    ReplicaIoEnds,
    ReplicaOther,
}

impl Track {
    const ALL: [(Track, &str, &str); 7] = [
        (Track::Operations, "guest", "operations"),
        (Track::Writeback, "guest", "writeback calls"),
        (Track::GuestRequests, "guest", "block requests"),
        (Track::GuestIoEnds, "guest", "io_ends"),
        (Track::Device, "device", "requests"),
        (Track::ReplicaIoEnds, "replica", "io_ends"),
        (Track::ReplicaOther, "replica", "other responses"),
    ];

    /// The one with this place among all.
    pub(super) fn of_index(index: usize) -> Track {
        Track::ALL[index].0
    }

    /// guest, device or replica.
    pub(super) fn lane(self) -> &'static str {
        Track::ALL[self as usize].1
    }

    /// What stands beside it.
    pub(super) fn name(self) -> &'static str {
        Track::ALL[self as usize].2
    }
}

/// A track as the page sees it.
#[derive(Debug, Serialize)]
pub(super) struct TrackView {
    lane: &'static str,
    name: &'static str,
    rows: usize,
}

/// Why an item or bar stands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Mark {
    Fault,
    Error,
    HostError,
    Finding,
    Difference,
}

/// Where an item comes from: its index in the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    Guest(usize),
    Device(usize),
    Replica(usize),
}

/// One event.
#[derive(Debug, Serialize)]
pub(super) struct Item {
    #[serde(skip)]
    pub(super) origin: Origin,
    pub(super) track: usize,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) row: usize,
    pub(super) kind: String,
    pub(super) label: String,
    pub(super) text: String,
    /// The guest's sequence number, or that of the replica's cause; none for the device, which has its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) seq: Option<u64>,
    #[serde(flatten, serialize_with = "start")]
    pub(super) at: Place,
    #[serde(flatten, serialize_with = "end", skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<Place>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) io_end: Option<IoEndId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bio: Option<BioId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request: Option<RequestId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) device: Option<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) marks: Vec<Mark>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub(super) fields: Map<String, Value>,
}

/// One life: an operation, an io_end, a request at the device.
#[derive(Debug, Serialize)]
pub(super) struct Bar {
    pub(super) track: usize,
    pub(super) row: usize,
    pub(super) label: String,
    #[serde(flatten, serialize_with = "start")]
    pub(super) at: Place,
    #[serde(flatten, serialize_with = "end", skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<Place>,
    /// The item that a click on it selects.
    pub(super) item: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) io_end: Option<IoEndId>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) marks: Vec<Mark>,
}

/// The whole picture.
#[derive(Debug, Serialize)]
pub(super) struct Timeline {
    pub(super) has_time: bool,
    pub(super) tracks: Vec<TrackView>,
    /// In reading order: along the sequence; at one place guest, device, replica.
    pub(super) items: Vec<Item>,
    pub(super) bars: Vec<Bar>,
    /// The items that the first difference is about.
    pub(super) difference: Vec<usize>,
    #[serde(skip)]
    pub(super) by_origin: BTreeMap<Origin, usize>,
}

impl Timeline {
    pub(super) fn new(input: &ReportInput, links: &Links, findings: &BTreeSet<IoEndId>) -> Timeline {
        let axis = Axis::new(input, links);
        let mut items = items(input, links, &axis);
        let io_end_rows = rows::place_io_ends(&mut items);
        let device_rows = rows::place_requests(&mut items);
        let operation_rows = rows::place_operations(&mut items, input);
        mark_difference(&mut items, input);
        items.sort_by(|a, b| a.at.x.total_cmp(&b.at.x).then(a.origin.cmp(&b.origin)));
        let rows = |track| match track {
            Track::GuestIoEnds | Track::ReplicaIoEnds => io_end_rows,
            Track::Device => device_rows,
            Track::Operations => operation_rows,
            _ => 1,
        };
        Timeline {
            has_time: axis.has_time(),
            tracks: Track::ALL.map(|(track, lane, name)| TrackView { lane, name, rows: rows(track) }).into(),
            bars: bars(&items, input, findings),
            difference: difference(&items),
            by_origin: items.iter().enumerate().map(|(i, item)| (item.origin, i)).collect(),
            items,
        }
    }
}

/// The guest's item first: its place is the difference's.
fn difference(items: &[Item]) -> Vec<usize> {
    let mut marked: Vec<_> = (0..items.len()).filter(|i| items[*i].marks.contains(&Mark::Difference)).collect();
    marked.sort_by_key(|i| items[*i].origin);
    marked
}

fn mark_difference(items: &mut [Item], input: &ReportInput) {
    let Some(difference) = &input.first_difference else { return };
    let replica = counterpart(difference, &input.replica);
    let is_guests = |item: &Item| match item.origin {
        Origin::Guest(index) => is_response(&input.guest[index], difference),
        _ => false,
    };
    let mut marked = false;
    for item in items.iter_mut() {
        if is_guests(item) || replica.is_some_and(|index| item.origin == Origin::Replica(index)) {
            item.marks.push(Mark::Difference);
            marked = true;
        }
    }
    // A rule of the path itself is broken: then the place is all there is.
    let there = |item: &&mut Item| matches!(item.origin, Origin::Guest(_)) && item.seq == Some(difference.seq);
    if let (false, Some(item)) = (marked, items.iter_mut().find(there)) {
        item.marks.push(Mark::Difference);
    }
}

fn is_response(entry: &Entry, difference: &FirstDifference) -> bool {
    let Body::Response(response) = &entry.body else { return false };
    entry.seq == difference.seq && difference.guest.as_ref() == Some(response)
}

/// The replica's response that stood against the guest's: the last equal one up to there, for equal ones can come again.
pub(super) fn counterpart(difference: &FirstDifference, replica: &[ReplicaResponse]) -> Option<usize> {
    let wanted = difference.replica.as_ref()?;
    let equal = |one: &ReplicaResponse| one.response == *wanted;
    let before = replica.iter().rposition(|one| one.cause <= difference.seq && equal(one));
    before.or_else(|| replica.iter().position(equal))
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Thousandths of a step and whole nanoseconds: enough for the eye, and short.
fn rounded(place: Place) -> (f64, i64) {
    ((place.x * 1000.0).round() / 1000.0, place.t.round() as i64)
}

fn start<S: Serializer>(place: &Place, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Start {
        x: f64,
        t: i64,
    }
    let (x, t) = rounded(*place);
    Start { x, t }.serialize(serializer)
}

fn end<S: Serializer>(place: &Option<Place>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct End {
        x_end: f64,
        t_end: i64,
    }
    place.map(rounded).map(|(x_end, t_end)| End { x_end, t_end }).serialize(serializer)
}
