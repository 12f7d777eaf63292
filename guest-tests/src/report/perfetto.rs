//! A run as a trace that Perfetto and Chrome open: the timeline of report.html in another form, nothing computed anew.
//!
//! Three processes are the three lanes, device, guest and replica. A life (operation, request, io_end) is a slice, anything
//! else an instant, and an arrow leads from a request's issue in the guest to the device and back to its answer. The time
//! axis is the device's clock, exact where requests are matched and spread evenly by sequence in between (`axis.rs`); where
//! nothing is matched, one event is one microsecond and `otherData.axis` says so. Of events at one time the order in the
//! file is the order that was judged; instants among them stand one nanosecond apart, for viewers stack those that coincide.
//!
//! The format is the trace event format's JSON object form: phases X (slice), i (instant), s, t, f (arrow), M (name).

use super::axis::Place;
use super::input::ReportInput;
use super::links::Links;
use super::summary::Summary;
use super::timeline::{Bar, Item, Origin, Timeline, Track};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Tracks' ids lie so far apart: rows of one lie between.
const ROWS: usize = 1 << 20;
/// Nanoseconds an event without a clock takes, so that steps become microseconds.
const STEP_NS: f64 = 1000.0;
/// Device, guest, replica.
const LANES: usize = 3;
/// Microseconds between instants that fall on one time.
const APART_US: f64 = 0.001;

/// The document.
#[derive(Serialize)]
struct Trace {
    #[serde(rename = "displayTimeUnit")]
    display_time_unit: &'static str,
    #[serde(rename = "otherData")]
    other_data: Value,
    #[serde(rename = "traceEvents")]
    events: Vec<Event>,
}

/// One event; fields as the format names them.
#[derive(Clone, Debug, Serialize)]
struct Event {
    name: String,
    cat: &'static str,
    ph: char,
    pid: usize,
    tid: usize,
    /// Microseconds.
    ts: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dur: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
    /// An instant's width: its own track. An arrow's end: the slice that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    s: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bp: Option<&'static str>,
    #[serde(skip_serializing_if = "Map::is_empty")]
    args: Map<String, Value>,
}

/// A life, before it has a row.
struct Life {
    track: Track,
    name: String,
    from: f64,
    to: Option<f64>,
    /// Which of its kind, for what is to stand in its row.
    key: u64,
    args: Map<String, Value>,
}

/// trace.json of a run.
pub fn trace(input: &ReportInput) -> String {
    let links = Links::new(input);
    let timeline = Timeline::new(input, &links, &Summary::new(&input.verdict).io_ends());
    let clock = Clock { has_time: timeline.has_time };
    let mut lives = Lives::place(lives(input, &timeline, clock));
    lives.end_all(timeline.items.iter().map(|item| clock.of(item.until.unwrap_or(item.at))));
    let mut events = lives.slices();
    events.extend(timeline.items.iter().filter_map(|item| instant(item, &timeline, &lives, clock)));
    events.extend(arrows(input, &links, &lives));
    sort(&mut events);
    part_instants(&mut events);
    let mut all = names(&events);
    all.extend(events);
    number_tracks(&mut all);
    let trace = Trace { display_time_unit: "ms", other_data: about(input, clock), events: all };
    serde_json::to_string(&trace).expect("plain data with string keys becomes JSON") + "\n"
}

/// Stable: what stands at one time on one track keeps its order, a slice before what lies in it.
fn sort(events: &mut [Event]) {
    events.sort_by(|a, b| (a.pid, a.tid).cmp(&(b.pid, b.tid)).then(a.ts.total_cmp(&b.ts)));
}

/// No two instants of a track at the same time.
fn part_instants(events: &mut [Event]) {
    let mut last = BTreeMap::new();
    for event in events.iter_mut().filter(|event| event.ph == 'i') {
        let free = last
            .get(&event.tid)
            .map_or(event.ts, |last: &f64| event.ts.max(((last + APART_US) * 1000.0).round() / 1000.0));
        event.ts = free;
        last.insert(event.tid, free);
    }
    sort(events);
}

/// Small numbers for tracks, in the page's order: viewers show them behind the names. Above the lanes' own, since a thread with its
/// process's number is taken for the main one.
fn number_tracks(events: &mut [Event]) {
    let numbers: BTreeMap<usize, usize> = events
        .iter()
        .map(|event| event.tid)
        .filter(|tid| *tid > 0)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .zip(LANES + 1..)
        .collect();
    for event in events {
        event.tid = numbers.get(&event.tid).copied().unwrap_or(0);
    }
}

/// Microseconds on the device's clock, or by sequence.
#[derive(Clone, Copy)]
struct Clock {
    has_time: bool,
}

impl Clock {
    fn of(self, place: Place) -> f64 {
        let ns = if self.has_time { place.t } else { place.x * STEP_NS };
        ns.round() / 1000.0
    }
}

fn about(input: &ReportInput, clock: Clock) -> Value {
    let axis = match clock.has_time {
        true => "the device's clock; guest and replica are exact at matched requests and spread by sequence in between",
        false => "sequence: one event is one microsecond, for no request could be matched with the device's clock",
    };
    json!({
        "scenario": input.scenario.name,
        "kernel": input.verdict["kernel"],
        "verdict": input.verdict["verdict"],
        "axis": axis,
        "order": "taken from sequence numbers, never from this axis",
        "repeat": input.repeat,
    })
}

fn lives(input: &ReportInput, timeline: &Timeline, clock: Clock) -> Vec<Life> {
    let mut lives: Vec<Life> = timeline.bars.iter().map(|bar| of_bar(bar, timeline, clock)).collect();
    lives.extend(guest_requests(input, timeline, clock));
    lives
}

fn of_bar(bar: &Bar, timeline: &Timeline, clock: Clock) -> Life {
    let track = Track::of_index(bar.track);
    let item = &timeline.items[bar.item];
    let mut args = item.fields.clone();
    args.insert("text".into(), item.text.clone().into());
    if !bar.marks.is_empty() {
        args.insert("marks".into(), json!(bar.marks));
    }
    let key = match track {
        Track::Device => item.device.unwrap_or(0),
        _ => bar.io_end.map_or(bar.item as u64, |io_end| io_end.0.into()),
    };
    Life { track, name: bar.label.clone(), from: clock.of(bar.at), to: bar.until.map(|at| clock.of(at)), key, args }
}

/// From each issue in the guest to what ended it there: the answer, or that it was put back.
fn guest_requests(input: &ReportInput, timeline: &Timeline, clock: Clock) -> Vec<Life> {
    let mut open = BTreeMap::new();
    let mut lives: Vec<Life> = Vec::new();
    for item in timeline.items.iter().filter(|item| item.track == Track::GuestRequests as usize) {
        let Some(request) = item.request else { continue };
        match item.kind.as_str() {
            "request_issued" => {
                open.insert(request, lives.len());
                lives.push(guest_request(item, input, clock));
            }
            "answered" | "request_answered" | "request_requeued" => {
                if let Some(life) = open.remove(&request) {
                    lives[life].to = Some(clock.of(item.at));
                }
            }
            _ => {}
        }
    }
    lives
}

fn guest_request(item: &Item, input: &ReportInput, clock: Clock) -> Life {
    let mut args = item.fields.clone();
    args.insert("text".into(), item.text.clone().into());
    let at = |origin| match origin {
        Origin::Guest(index) => input.guest[index].seq,
        _ => 0,
    };
    let op = item.fields.get("op").and_then(Value::as_str).unwrap_or("request");
    let name = format!("{op} {}", item.request.map_or(0, |request| request.0));
    Life { track: Track::GuestRequests, name, from: clock.of(item.at), to: None, key: at(item.origin), args }
}

/// Lives in rows: two of one row never overlap, so each is a slice of its own.
struct Lives {
    lives: Vec<(Life, usize)>,
    /// Places in `lives`.
    index: BTreeMap<(Track, u64), usize>,
}

impl Lives {
    fn place(mut lives: Vec<Life>) -> Lives {
        lives.sort_by(|a, b| a.from.total_cmp(&b.from));
        let mut ends: BTreeMap<Track, Vec<f64>> = BTreeMap::new();
        let mut placed = Vec::with_capacity(lives.len());
        for life in lives {
            let rows = ends.entry(life.track).or_default();
            let end = life.to.unwrap_or(f64::INFINITY);
            let row = rows.iter().position(|until| *until <= life.from).unwrap_or(rows.len());
            match rows.get_mut(row) {
                Some(until) => *until = end,
                None => rows.push(end),
            }
            placed.push((life, row));
        }
        let index = placed.iter().enumerate().map(|(at, (life, _))| ((life.track, life.key), at)).collect();
        Lives { lives: placed, index }
    }

    /// What did not end ends with the trace, and says so.
    fn end_all(&mut self, times: impl Iterator<Item = f64>) {
        let last = times.fold(0.0, f64::max);
        for (life, _) in self.lives.iter_mut().filter(|(life, _)| life.to.is_none()) {
            life.to = Some(last.max(life.from));
            life.args.insert("unfinished".into(), true.into());
        }
    }

    fn slices(&self) -> Vec<Event> {
        let one = |(life, row): &(Life, usize)| Event {
            dur: life.to.map(|to| (to - life.from).max(0.0)),
            args: life.args.clone(),
            ..event('X', life.name.clone(), life.track, *row, life.from)
        };
        self.lives.iter().map(one).collect()
    }

    fn find(&self, track: Track, key: u64) -> Option<&(Life, usize)> {
        self.index.get(&(track, key)).map(|at| &self.lives[*at])
    }

    /// Row of an io_end in its lane.
    fn row(&self, track: Track, io_end: u64) -> usize {
        self.find(track, io_end).map_or(0, |(_, row)| *row)
    }
}

fn event(ph: char, name: String, track: Track, row: usize, ts: f64) -> Event {
    let (pid, category) = match track.lane() {
        "device" => (1, "device"),
        "guest" => (2, "guest"),
        _ => (3, "replica"),
    };
    let tid = (track as usize + 1) * ROWS + row;
    Event { name, cat: category, ph, pid, tid, ts, dur: None, id: None, s: None, bp: None, args: Map::new() }
}

/// What is no life's begin: one is told by its slice.
fn instant(item: &Item, timeline: &Timeline, lives: &Lives, clock: Clock) -> Option<Event> {
    let track = Track::of_index(item.track);
    if matches!(track, Track::Device) || ["request_issued", "op_begins"].contains(&item.kind.as_str()) {
        return None;
    }
    let row = match (track, item.io_end) {
        (Track::GuestIoEnds | Track::ReplicaIoEnds, Some(io_end)) => lives.row(track, io_end.0.into()),
        _ => 0,
    };
    let mut args = item.fields.clone();
    args.insert("text".into(), item.text.clone().into());
    args.extend(item.seq.map(|seq| ("seq".to_owned(), seq.into())));
    if !item.marks.is_empty() {
        args.insert("marks".into(), json!(item.marks));
    }
    if timeline.difference.iter().any(|index| std::ptr::eq(&timeline.items[*index], item)) {
        args.insert("first_difference".into(), true.into());
    }
    let name = if item.label.is_empty() { item.kind.clone() } else { item.label.clone() };
    Some(Event { s: Some("t"), args, ..event('i', name, track, row, clock.of(item.at)) })
}

/// Issue in the guest, arrival at the device, answer in the guest: as far as each is known.
fn arrows(input: &ReportInput, links: &Links, lives: &Lives) -> Vec<Event> {
    let mut events = Vec::new();
    for request in &input.device {
        let issued = links.guest_side.get(&request.seq).and_then(|side| side.issued);
        let (Some((guest, guest_row)), Some((device, device_row))) =
            (issued.and_then(|seq| lives.find(Track::GuestRequests, seq)), lives.find(Track::Device, request.seq))
        else {
            continue;
        };
        let end = |life: &Life| life.to.unwrap_or(life.from);
        let arrow = |ph, track, row, ts| Event {
            id: Some(request.seq),
            bp: Some("e"),
            ..event(ph, "request".into(), track, row, ts)
        };
        events.push(arrow('s', Track::GuestRequests, *guest_row, guest.from));
        events.push(arrow('t', Track::Device, *device_row, device.from));
        events.push(arrow('f', Track::GuestRequests, *guest_row, end(guest)));
    }
    events
}

/// Names of the lanes and of the tracks in use, in the page's order.
fn names(events: &[Event]) -> Vec<Event> {
    let named = |ph_name: &str, pid, tid, args: Value| Event {
        pid,
        tid,
        args: args.as_object().cloned().unwrap_or_default(),
        ..event('M', ph_name.to_owned(), Track::Operations, 0, 0.0)
    };
    let mut all = Vec::new();
    for (pid, lane) in [(1, "device"), (2, "guest"), (3, "replica")] {
        all.push(named("process_name", pid, 0, json!({ "name": lane })));
        all.push(named("process_sort_index", pid, 0, json!({ "sort_index": pid })));
    }
    let tracks: BTreeSet<(usize, usize)> = events.iter().map(|event| (event.pid, event.tid)).collect();
    for (pid, tid) in tracks {
        let (track, row) = (Track::of_index(tid / ROWS - 1), tid % ROWS);
        let name = if row == 0 { track.name().to_owned() } else { format!("{} {}", track.name(), row + 1) };
        all.push(named("thread_name", pid, tid, json!({ "name": name })));
        all.push(named("thread_sort_index", pid, tid, json!({ "sort_index": tid })));
    }
    all
}

#[cfg(test)]
mod tests;
