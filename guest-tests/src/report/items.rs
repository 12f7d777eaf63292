//! Events as items: the guest's entries, the device's requests, the replica's responses.
//!
//! Nothing is left out. Folios handed over or finished one after another become one item that says how many it is.

use super::axis::{Axis, Place};
use super::input::{DeviceRequest, FaultDecision, ReplicaResponse, ReportInput};
use super::links::{About, Links};
use super::timeline::{Item, Mark, Origin, Track, counterpart};
use super::words::{self, Words};
use serde::Serialize;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use writeback_events::{Body, Entry, OpId, Response, Stimulus};

/// Every event of a run, not yet in reading order and without rows.
pub(super) fn items(input: &ReportInput, links: &Links, axis: &Axis) -> Vec<Item> {
    let mut items = guest_items(input, links, axis);
    items.extend(device_items(input, links, axis));
    items.extend(replica_items(input, links, axis));
    items
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
        if run.takes(folio(&entry.body).filter(|_| Some(entry.seq) != whole)) {
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
    /// Whether the event continues the run; if not, a new run begins with it. None is no such event, or one to keep apart.
    fn takes(&mut self, folio: Option<Folio>) -> bool {
        let Some((ino, is_end, page, pages)) = folio else {
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
type Folio = (u64, bool, u64, u64);

fn folio(body: &Body) -> Option<Folio> {
    match *body {
        Body::Stimulus(Stimulus::FolioSubmitted { ino, index, order, .. }) => {
            Some((ino.0, false, index, 1_u64.checked_shl(order.into()).unwrap_or(1)))
        }
        Body::Response(Response::EndPageWriteback { ino, page }) => Some((ino.0, true, page, 1)),
        _ => None,
    }
}

fn device_items(input: &ReportInput, links: &Links, axis: &Axis) -> Vec<Item> {
    let mut faults = BTreeMap::<u64, Vec<&FaultDecision>>::new();
    for decision in &input.decisions {
        faults.entry(decision.seq).or_default().push(decision);
    }
    let one = |(index, request): (usize, &DeviceRequest)| {
        let faults = faults.get(&request.seq).map(Vec::as_slice).unwrap_or_default();
        device_item(index, request, faults, links, axis)
    };
    input.device.iter().enumerate().map(one).collect()
}

fn device_item(index: usize, request: &DeviceRequest, faults: &[&FaultDecision], links: &Links, axis: &Axis) -> Item {
    let side = links.guest_side.get(&request.seq);
    let about = side.map(|side| links.request(side.request)).unwrap_or_default();
    let (at, until) = axis.of_request(request, links);
    let mut item = item(Origin::Device(index), Track::Device, at, device_words(request), about);
    item.kind = "device_request".into();
    item.until = until;
    item.device = Some(request.seq);
    item.marks = device_marks(request);
    item.fields = device_fields(request, faults);
    item
}

fn device_words(request: &DeviceRequest) -> Words {
    let range = if request.sectors == 0 {
        request.op.clone()
    } else {
        format!("{} sector {}, {} sectors", request.op, request.sector, request.sectors)
    };
    let status = request.status.map_or_else(|| "never answered".into(), words::status_byte);
    let mut rules = request.fired.clone();
    rules.dedup();
    let fired = if rules.is_empty() { String::new() } else { format!("; fault {}", rules.join(", ")) };
    let mark = if rules.is_empty() { String::new() } else { format!("{} ", rules.join(" ")) };
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

fn device_fields(request: &DeviceRequest, faults: &[&FaultDecision]) -> Map<String, Value> {
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
    // A rule can decide several times about one request: once for each child of a split.
    let mut of_rule = BTreeMap::<&str, Vec<String>>::new();
    for decision in faults {
        of_rule.entry(&decision.rule).or_default().push(format!("{}: {}", decision.action, decision.text));
    }
    for (rule, texts) in of_rule {
        put(&format!("fault {rule}"), texts.join("; ").into());
    }
    if let Some(error) = &request.host_error {
        put("host error", error.clone().into());
    }
    fields
}

fn replica_items(input: &ReportInput, links: &Links, axis: &Axis) -> Vec<Item> {
    let whole = input.first_difference.as_ref().and_then(|difference| counterpart(difference, &input.replica));
    let mut items: Vec<Item> = Vec::new();
    let (mut run, mut cause) = (FolioRun::default(), None);
    for (index, one) in input.replica.iter().enumerate() {
        if cause.replace(one.cause) != Some(one.cause) {
            run = FolioRun::default();
        }
        let body = Body::Response(one.response.clone());
        if run.takes(folio(&body).filter(|_| Some(index) != whole)) {
            run.lengthen(items.last_mut().expect("a run began with an item"), axis.of_seq(one.cause));
        } else {
            items.push(replica_item(index, one, links, axis));
        }
    }
    items
}

fn replica_item(index: usize, one: &ReplicaResponse, links: &Links, axis: &Axis) -> Item {
    let track = match guest_track(&one.response) {
        Track::GuestIoEnds => Track::ReplicaIoEnds,
        _ => Track::ReplicaOther,
    };
    let about = links.response(&one.response);
    let mut item = item(Origin::Replica(index), track, axis.of_seq(one.cause), words::response(&one.response), about);
    (item.kind, item.fields) = tagged(&one.response, "ev");
    item.seq = Some(one.cause);
    item.marks.extend(error_mark(&one.response));
    item
}
