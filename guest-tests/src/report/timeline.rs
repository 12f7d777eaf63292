//! Everything that can be seen on the timeline: events as items, lives as bars, each with its track, row and place.
//!
//! Nothing is left out. Folios handed over or finished one after another become one item that says how many it is.

use super::axis::{Axis, Place, is_folio};
use super::input::{DeviceRequest, FirstDifference, ReplicaResponse, ReportInput};
use super::links::{About, Links};
use super::words::{self, Words};
use serde::{Serialize, Serializer};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use writeback_events::{BioId, Body, Entry, IoEndId, OpId, RequestId, Response, Stimulus};

/// Rows of a track. More lives at once than this share rows.
const ROWS_MAX: usize = 32;
/// Free steps between two bars of one row.
const ROW_GAP: f64 = 0.5;

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
        let mut items = guest_items(input, links, &axis);
        items.extend(device_items(input, links, &axis));
        items.extend(replica_items(&input.replica, links, &axis));
        let io_end_rows = place_io_ends(&mut items);
        let device_rows = place_requests(&mut items);
        mark_difference(&mut items, input);
        items.sort_by(|a, b| a.at.x.total_cmp(&b.at.x).then(a.origin.cmp(&b.origin)));
        let rows = |track| match track {
            Track::GuestIoEnds | Track::ReplicaIoEnds => io_end_rows,
            Track::Device => device_rows,
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

fn item(origin: Origin, track: Track, at: Place, words: Words, about: About) -> Item {
    Item {
        origin,
        track: track as usize,
        row: 0,
        kind: String::new(),
        label: words.label,
        text: words.text,
        seq: None,
        at,
        until: None,
        io_end: about.io_end,
        bio: about.bio,
        request: about.request,
        device: None,
        marks: Vec::new(),
        fields: Map::new(),
    }
}

fn guest_items(input: &ReportInput, links: &Links, axis: &Axis) -> Vec<Item> {
    let whole = input.first_difference.as_ref().map(|difference| difference.seq);
    let mut items: Vec<Item> = Vec::new();
    let mut run = FolioRun::default();
    for (index, entry) in input.guest.iter().enumerate() {
        if run.takes(entry, whole) {
            run.lengthen(items.last_mut().expect("a run began with an item"), axis.of_seq(entry.seq));
        } else {
            items.push(guest_item(index, entry, input, links.of_entry[index], axis));
        }
    }
    items
}

fn guest_item(index: usize, entry: &Entry, input: &ReportInput, about: About, axis: &Axis) -> Item {
    let (track, words, kind_and_fields) = match &entry.body {
        Body::Stimulus(stimulus) => (stimulus_track(stimulus), stimulus_words(stimulus, input), tagged(stimulus, "st")),
        Body::Answered { request } => (
            Track::GuestRequests,
            Words { text: format!("request {request} is answered"), label: format!("answer {request}") },
            ("answered".into(), Map::from_iter([("request".into(), request.0.into())])),
        ),
        Body::Response(response) => (guest_track(response), words::response(response), tagged(response, "ev")),
    };
    let mut item = item(Origin::Guest(index), track, axis.of_seq(entry.seq), words, about);
    (item.kind, item.fields) = kind_and_fields;
    item.seq = Some(entry.seq);
    item.fields.insert("cpu".into(), entry.cpu.into());
    item.fields.insert(if entry.interrupt { "interrupted task" } else { "task" }.into(), entry.task.0.into());
    if let Body::Response(response) = &entry.body {
        item.marks.extend(error_mark(response));
    }
    item
}

fn stimulus_words(stimulus: &Stimulus, input: &ReportInput) -> Words {
    match stimulus {
        Stimulus::OpBegins { op, .. } => {
            let what = op_name(input, *op);
            Words { text: format!("operation {op} begins: {what}"), label: what }
        }
        Stimulus::OpEnds { op, .. } => {
            Words { text: format!("operation {op} ends: {}", op_name(input, *op)), label: "end".into() }
        }
        _ => words::stimulus(stimulus),
    }
}

fn op_name(input: &ReportInput, op: OpId) -> String {
    let run = input.ops.iter().find(|run| run.op == op);
    run.map_or_else(|| format!("operation {op}"), |run| format!("{} {}", run.kind, run.args).trim().to_owned())
}

fn stimulus_track(stimulus: &Stimulus) -> Track {
    match stimulus {
        Stimulus::OpBegins { .. } | Stimulus::OpEnds { .. } => Track::Operations,
        Stimulus::RequestIssued { .. } | Stimulus::RequestRequeued { .. } | Stimulus::RequestAnswered { .. } => {
            Track::GuestRequests
        }
        _ => Track::Writeback,
    }
}

fn guest_track(response: &Response) -> Track {
    match response {
        Response::OpResult { .. } => Track::Operations,
        Response::RequestError { .. } => Track::GuestRequests,
        Response::AllocFailed { .. } | Response::EndPageWriteback { .. } => Track::Writeback,
        _ => Track::GuestIoEnds,
    }
}

fn error_mark(response: &Response) -> Option<Mark> {
    let errno = match *response {
        Response::RequestError { errno, .. } | Response::OpResult { errno, .. } => errno,
        Response::EndBio { error, .. } => error,
        Response::AllocFailed { .. } => -12,
        _ => 0,
    };
    (errno != 0).then_some(Mark::Error)
}

/// The name and the fields of an event, from the form in which it is stored.
fn tagged(event: &impl Serialize, tag: &str) -> (String, Map<String, Value>) {
    let Ok(Value::Object(mut fields)) = serde_json::to_value(event) else {
        unreachable!("an event is a struct with a tag");
    };
    let kind = fields.remove(tag).and_then(|kind| kind.as_str().map(str::to_owned)).unwrap_or_default();
    (kind, fields)
}

/// Folio events that follow each other without a gap, in the trace and in the file.
#[derive(Default)]
struct FolioRun {
    next: Option<(u64, bool, u64)>,
    count: u64,
}

impl FolioRun {
    /// Whether `entry` continues the run; if not, a new run begins with it. `whole` is kept apart.
    fn takes(&mut self, entry: &Entry, whole: Option<u64>) -> bool {
        let Some((ino, is_end, page, pages)) = folio(&entry.body).filter(|_| Some(entry.seq) != whole) else {
            self.next = None;
            return false;
        };
        let goes_on = self.next == Some((ino, is_end, page));
        self.count = if goes_on { self.count + 1 } else { 1 };
        self.next = Some((ino, is_end, page + pages));
        goes_on
    }

    fn lengthen(&self, item: &mut Item, until: Place) {
        let (_, is_end, next) = self.next.expect("lengthen follows takes");
        let what = if is_end { "leave writeback" } else { "are handed to the bio code" };
        let first = ["page", "index"].iter().find_map(|key| item.fields.get(*key)).and_then(Value::as_u64);
        item.text = format!("pages {} to {} {what}, {} folios one by one", first.unwrap_or(0), next - 1, self.count);
        item.label = "pages".into();
        item.fields.insert("folios".into(), self.count.into());
        item.until = Some(until);
    }
}

/// Inode, whether it ends, first page and pages of a folio event.
fn folio(body: &Body) -> Option<(u64, bool, u64, u64)> {
    debug_assert!(
        is_folio(body)
            == matches!(
                body,
                Body::Stimulus(Stimulus::FolioSubmitted { .. }) | Body::Response(Response::EndPageWriteback { .. })
            )
    );
    match *body {
        Body::Stimulus(Stimulus::FolioSubmitted { ino, index, order, .. }) => {
            Some((ino.0, false, index, 1_u64.checked_shl(order.into()).unwrap_or(1)))
        }
        Body::Response(Response::EndPageWriteback { ino, page }) => Some((ino.0, true, page, 1)),
        _ => None,
    }
}

fn device_items(input: &ReportInput, links: &Links, axis: &Axis) -> Vec<Item> {
    input.device.iter().enumerate().map(|(index, request)| device_item(index, request, input, links, axis)).collect()
}

fn device_item(index: usize, request: &DeviceRequest, input: &ReportInput, links: &Links, axis: &Axis) -> Item {
    let side = links.guest_side.get(&request.seq);
    let about = side.map(|side| links.request(side.request)).unwrap_or_default();
    let (at, until) = axis.of_request(request, links);
    let mut item = item(Origin::Device(index), Track::Device, at, device_words(request), about);
    item.kind = "device_request".into();
    item.until = until;
    item.device = Some(request.seq);
    item.marks = device_marks(request);
    item.fields = device_fields(request, input);
    item
}

fn device_words(request: &DeviceRequest) -> Words {
    let range = if request.sectors == 0 {
        request.op.clone()
    } else {
        format!("{} sector {}, {} sectors", request.op, request.sector, request.sectors)
    };
    let status = request.status.map_or_else(|| "never answered".into(), words::status_byte);
    let fired = if request.fired.is_empty() { String::new() } else { format!("; fault {}", request.fired.join(", ")) };
    let mark = if request.fired.is_empty() { String::new() } else { format!("{} ", request.fired.join(" ")) };
    Words {
        text: format!("device request {}: {range}: {status}{fired}", request.seq),
        label: format!("{mark}{} {}", request.op, if request.status == Some(0) { String::new() } else { status })
            .trim()
            .to_owned(),
    }
}

fn device_marks(request: &DeviceRequest) -> Vec<Mark> {
    let marks = [
        (!request.fired.is_empty()).then_some(Mark::Fault),
        (request.status != Some(0)).then_some(Mark::Error),
        request.host_error.is_some().then_some(Mark::HostError),
    ];
    marks.into_iter().flatten().collect()
}

fn device_fields(request: &DeviceRequest, input: &ReportInput) -> Map<String, Value> {
    let mut fields = Map::new();
    let mut put = |key: &str, value: Value| {
        fields.insert(key.into(), value);
    };
    put("queue", request.queue.into());
    put("arrived_ns", request.arrived_ns.into());
    if let Some(answered) = request.answered_ns {
        put("answered_ns", answered.into());
        put("took_us", (answered.saturating_sub(request.arrived_ns) / 1000).into());
    }
    if let Some(order) = request.answered_order {
        put("answered as number", order.into());
    }
    for decision in input.decisions.iter().filter(|decision| decision.seq == request.seq) {
        put(&format!("fault {}", decision.rule), format!("{}: {}", decision.action, decision.text).into());
    }
    if let Some(error) = &request.host_error {
        put("host error", error.clone().into());
    }
    fields
}

fn replica_items(replica: &[ReplicaResponse], links: &Links, axis: &Axis) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    for (index, one) in replica.iter().enumerate() {
        let track = match guest_track(&one.response) {
            Track::GuestIoEnds => Track::ReplicaIoEnds,
            _ => Track::ReplicaOther,
        };
        let at = axis.of_seq(one.cause);
        let about = links.response(&one.response);
        let mut item = item(Origin::Replica(index), track, at, words::response(&one.response), about);
        (item.kind, item.fields) = tagged(&one.response, "ev");
        item.seq = Some(one.cause);
        item.marks.extend(error_mark(&one.response));
        items.push(item);
    }
    items
}

/// Gives every io_end the same row in both lanes, and its items with it. Returns the rows in use.
fn place_io_ends(items: &mut [Item]) -> usize {
    let mut spans = BTreeMap::<IoEndId, (f64, f64)>::new();
    for item in items.iter().filter(|item| is_io_end_track(item.track)) {
        let Some(io_end) = item.io_end else { continue };
        let span = spans.entry(io_end).or_insert((item.at.x, item.at.x));
        *span = (span.0.min(item.at.x), span.1.max(item.at.x));
    }
    let mut order: Vec<_> = spans.into_iter().collect();
    order.sort_by(|a, b| a.1.0.total_cmp(&b.1.0));
    let mut rows = Rows::default();
    let row_of: BTreeMap<_, _> = order.into_iter().map(|(io_end, span)| (io_end, rows.place(span))).collect();
    for item in items.iter_mut().filter(|item| is_io_end_track(item.track)) {
        item.row = item.io_end.and_then(|io_end| row_of.get(&io_end).copied()).unwrap_or(0);
    }
    rows.used()
}

fn is_io_end_track(track: usize) -> bool {
    track == Track::GuestIoEnds as usize || track == Track::ReplicaIoEnds as usize
}

fn place_requests(items: &mut [Item]) -> usize {
    let mut rows = Rows::default();
    for item in items.iter_mut().filter(|item| item.track == Track::Device as usize) {
        item.row = rows.place((item.at.x, item.until.map_or(f64::INFINITY, |until| until.x)));
    }
    rows.used()
}

/// Puts lives side by side into the first row that is free.
#[derive(Default)]
struct Rows {
    ends: Vec<f64>,
    next_shared: usize,
}

impl Rows {
    fn place(&mut self, (from, to): (f64, f64)) -> usize {
        let free = self.ends.iter().position(|end| end + ROW_GAP <= from);
        let row = match free {
            Some(row) => row,
            None if self.ends.len() < ROWS_MAX => {
                self.ends.push(to);
                self.ends.len() - 1
            }
            None => {
                self.next_shared += 1;
                self.next_shared % ROWS_MAX
            }
        };
        self.ends[row] = self.ends[row].max(to);
        row
    }

    fn used(&self) -> usize {
        self.ends.len().max(1)
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
fn counterpart(difference: &FirstDifference, replica: &[ReplicaResponse]) -> Option<usize> {
    let wanted = difference.replica.as_ref()?;
    let equal = |one: &ReplicaResponse| one.response == *wanted;
    let before = replica.iter().rposition(|one| one.cause <= difference.seq && equal(one));
    before.or_else(|| replica.iter().position(equal))
}

fn bars(items: &[Item], input: &ReportInput, findings: &BTreeSet<IoEndId>) -> Vec<Bar> {
    let mut bars = op_bars(items, input);
    bars.extend(io_end_bars(items, findings));
    bars.extend(items.iter().enumerate().filter(|(_, item)| item.track == Track::Device as usize).map(
        |(index, item)| Bar {
            track: item.track,
            row: item.row,
            label: item.label.clone(),
            at: item.at,
            until: item.until,
            item: index,
            io_end: item.io_end,
            marks: item.marks.clone(),
        },
    ));
    bars
}

fn op_bars(items: &[Item], input: &ReportInput) -> Vec<Bar> {
    let mut bars = BTreeMap::<OpId, Bar>::new();
    for (index, item) in items.iter().enumerate() {
        let Origin::Guest(origin) = item.origin else { continue };
        match &input.guest[origin].body {
            Body::Stimulus(Stimulus::OpBegins { op, .. }) => {
                bars.insert(*op, op_bar(index, item, *op, input));
            }
            Body::Stimulus(Stimulus::OpEnds { op, .. }) => {
                if let Some(bar) = bars.get_mut(op) {
                    bar.until = Some(item.at);
                }
            }
            _ => {}
        }
    }
    bars.into_values().collect()
}

fn op_bar(index: usize, item: &Item, op: OpId, input: &ReportInput) -> Bar {
    let errno = input.ops.iter().find(|run| run.op == op).and_then(|run| run.errno);
    let failed = errno.is_some_and(|errno| errno != 0);
    let result = errno.filter(|_| failed).map(|errno| format!(" → {}", words::errno_name(errno))).unwrap_or_default();
    Bar {
        track: item.track,
        row: 0,
        label: format!("{}{result}", item.label),
        at: item.at,
        until: None,
        item: index,
        io_end: None,
        marks: if failed { vec![Mark::Error] } else { Vec::new() },
    }
}

fn io_end_bars(items: &[Item], findings: &BTreeSet<IoEndId>) -> Vec<Bar> {
    let mut bars = BTreeMap::<(usize, IoEndId), Bar>::new();
    for (index, item) in items.iter().enumerate().filter(|(_, item)| is_io_end_track(item.track)) {
        let Some(io_end) = item.io_end else { continue };
        let guest = item.track == Track::GuestIoEnds as usize;
        let bar = bars.entry((item.track, io_end)).or_insert_with(|| Bar {
            track: item.track,
            row: item.row,
            label: format!("io_end {io_end}"),
            at: item.at,
            until: None,
            item: index,
            io_end: Some(io_end),
            marks: if guest && findings.contains(&io_end) { vec![Mark::Finding] } else { Vec::new() },
        });
        if item.kind == "release_io_end" {
            bar.until = Some(item.at);
        }
        bar.marks.extend(item.marks.iter().filter(|mark| **mark == Mark::Difference));
    }
    bars.into_values().collect()
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
