//! Rows of a track: lives that overlap stand below each other.

use super::input::ReportInput;
use super::timeline::{Item, Origin, Track};
use std::collections::BTreeMap;
use writeback_events::{Body, IoEndId, OpId, Response, Stimulus, TaskId};

/// Rows of a track. More lives at once than this share rows.
const ROWS_MAX: usize = 32;
/// Free steps between two bars of one row.
const ROW_GAP: f64 = 0.5;

/// Gives every io_end the same row in both lanes, and its items with it. Returns the rows in use.
pub(super) fn place_io_ends(items: &mut [Item]) -> usize {
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

/// The same for tasks that do operations: several writers at once have a row each. Returns the rows in use.
pub(super) fn place_operations(items: &mut [Item], input: &ReportInput) -> usize {
    let mut spans = BTreeMap::<TaskId, (f64, f64)>::new();
    let mut task_of = BTreeMap::<OpId, TaskId>::new();
    for item in items.iter() {
        let Origin::Guest(index) = item.origin else { continue };
        if let Body::Stimulus(Stimulus::OpBegins { task, op, .. } | Stimulus::OpEnds { task, op }) =
            input.guest[index].body
        {
            task_of.insert(op, task);
            let span = spans.entry(task).or_insert((item.at.x, item.at.x));
            *span = (span.0.min(item.at.x), span.1.max(item.at.x));
        }
    }
    let mut order: Vec<_> = spans.into_iter().collect();
    order.sort_by(|a, b| a.1.0.total_cmp(&b.1.0));
    let mut rows = Rows::default();
    let row_of: BTreeMap<_, _> = order.into_iter().map(|(task, span)| (task, rows.place(span))).collect();
    for item in items.iter_mut().filter(|item| item.track == Track::Operations as usize) {
        let Origin::Guest(index) = item.origin else { continue };
        let op = match &input.guest[index].body {
            Body::Stimulus(Stimulus::OpBegins { op, .. } | Stimulus::OpEnds { op, .. })
            | Body::Response(Response::OpResult { op, .. }) => op,
            _ => continue,
        };
        item.row = task_of.get(op).and_then(|task| row_of.get(task)).copied().unwrap_or(0);
    }
    rows.used()
}

pub(super) fn is_io_end_track(track: usize) -> bool {
    track == Track::GuestIoEnds as usize || track == Track::ReplicaIoEnds as usize
}

/// The same for the device's requests.
pub(super) fn place_requests(items: &mut [Item]) -> usize {
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
