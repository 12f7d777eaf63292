//! The two horizontal axes: the trace's sequence, and the device's clock.
//!
//! Order comes from the sequence alone. The device's clock is known at matched requests only: the guest issued one at
//! its arrival or before, and saw the answer when it was given or later. Between them time is interpolated by sequence,
//! and it never runs against the sequence.

use super::input::{DeviceRequest, ReportInput};
use super::links::Links;
use std::collections::BTreeMap;
use writeback_events::{Body, Entry, Response, Stimulus};

/// Room of an event on the sequence axis.
const STEP: f64 = 1.0;
/// Room of a folio's event: they come by the hundred and would push the rest off the page.
const FOLIO_STEP: f64 = 1.0 / 64.0;
/// Nanoseconds per event where only one matched request tells the time.
const LONE_STEP_NS: f64 = 1000.0;

/// A place on both axes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Place {
    /// Steps along the sequence axis.
    pub(super) x: f64,
    /// Nanoseconds of the device's clock.
    pub(super) t: f64,
}

/// Where things lie.
pub(super) struct Axis {
    /// Steps by guest `seq`, rising in both.
    steps: Vec<(f64, f64)>,
    /// Nanoseconds by guest `seq`, rising in `seq`, never falling in time.
    times: Vec<(f64, f64)>,
    /// Steps by device arrival and by device answer, from matched requests.
    arrivals: Vec<(f64, f64)>,
    answers: Vec<(f64, f64)>,
    /// There is a device's record and nothing else, so its own clock serves all that is shown.
    device_alone: bool,
}

impl Axis {
    pub(super) fn new(input: &ReportInput, links: &Links) -> Axis {
        let steps = steps(&input.guest);
        let x = |seq: u64| along(&steps, seq as f64, STEP);
        let mut arrivals = Vec::new();
        let mut answers = Vec::new();
        for request in &input.device {
            let Some(side) = links.guest_side.get(&request.seq) else { continue };
            arrivals.extend(side.issued.map(|seq| (request.seq as f64, x(seq))));
            answers.extend(side.answered.zip(request.answered_order).map(|(seq, order)| (order as f64, x(seq))));
        }
        let times = times(&input.device, links);
        let (arrivals, answers) = (never_falling(arrivals), never_falling(answers));
        let device_alone = input.guest.is_empty() && input.replica.is_empty() && !input.device.is_empty();
        Axis { steps, times, arrivals, answers, device_alone }
    }

    /// Whether the device's clock can place everything that is shown.
    pub(super) fn has_time(&self) -> bool {
        self.device_alone || !self.times.is_empty()
    }

    /// Place of a guest's entry, or of the replica's response to it.
    pub(super) fn of_seq(&self, seq: u64) -> Place {
        Place { x: along(&self.steps, seq as f64, STEP), t: along(&self.times, seq as f64, self.step_ns()) }
    }

    /// Places of a device request's arrival and answer. Its time is its own; its step is the guest's issue and answer
    /// where they are known, else between its neighbours in the device's order.
    pub(super) fn of_request(&self, request: &DeviceRequest, links: &Links) -> (Place, Option<Place>) {
        let side = links.guest_side.get(&request.seq);
        let arrived = match side.and_then(|side| side.issued) {
            Some(seq) => self.of_seq(seq).x,
            None => along(&self.arrivals, request.seq as f64, STEP),
        };
        let answered = request.answered_order.map(|order| match side.and_then(|side| side.answered) {
            Some(seq) => self.of_seq(seq).x,
            None => along(&self.answers, order as f64, STEP).max(arrived),
        });
        let end = answered.zip(request.answered_ns).map(|(x, ns)| Place { x, t: ns as f64 });
        (Place { x: arrived, t: request.arrived_ns as f64 }, end)
    }

    /// Mean nanoseconds per sequence number, for what lies outside the matched requests.
    fn step_ns(&self) -> f64 {
        match (self.times.first(), self.times.last()) {
            (Some(a), Some(b)) if b.0 > a.0 && b.1 > a.1 => (b.1 - a.1) / (b.0 - a.0),
            _ => LONE_STEP_NS,
        }
    }
}

fn steps(guest: &[Entry]) -> Vec<(f64, f64)> {
    let mut at = 0.0;
    let mut steps: Vec<(f64, f64)> = Vec::new();
    for entry in guest {
        if steps.last().is_some_and(|last| last.0 >= entry.seq as f64) {
            continue;
        }
        at += if is_folio(&entry.body) { FOLIO_STEP } else { STEP };
        steps.push((entry.seq as f64, at));
    }
    steps
}

/// Whether an entry is one of the many about single folios.
pub(super) fn is_folio(body: &Body) -> bool {
    matches!(body, Body::Stimulus(Stimulus::FolioSubmitted { .. }) | Body::Response(Response::EndPageWriteback { .. }))
}

/// Known times: an issue lies at its request's arrival or before, so at the earliest arrival among it and later issues; an
/// answer lies at its request's answer or after. Taken together and never falling.
fn times(device: &[DeviceRequest], links: &Links) -> Vec<(f64, f64)> {
    let mut issued = BTreeMap::<u64, u64>::new();
    let mut known = BTreeMap::<u64, u64>::new();
    for request in device {
        let Some(side) = links.guest_side.get(&request.seq) else { continue };
        if let Some(seq) = side.issued {
            issued.insert(seq, request.arrived_ns);
        }
        if let Some((seq, ns)) = side.answered.zip(request.answered_ns) {
            known.insert(seq, ns);
        }
    }
    let mut earliest = u64::MAX;
    for (seq, ns) in issued.into_iter().rev() {
        earliest = earliest.min(ns);
        known.insert(seq, earliest);
    }
    never_falling(known.into_iter().map(|(seq, ns)| (seq as f64, ns as f64)).collect())
}

fn never_falling(mut points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut highest = f64::NEG_INFINITY;
    for point in &mut points {
        highest = highest.max(point.1);
        point.1 = highest;
    }
    points
}

/// Straight between the two known points around `at`; beyond the ends by `step` per unit.
fn along(points: &[(f64, f64)], at: f64, step: f64) -> f64 {
    let after = points.partition_point(|point| point.0 < at);
    match (after.checked_sub(1).map(|before| points[before]), points.get(after)) {
        (_, Some(next)) if next.0 == at => next.1,
        (Some(last), Some(next)) => last.1 + (next.1 - last.1) * (at - last.0) / (next.0 - last.0),
        (Some(last), None) => last.1 + (at - last.0) * step,
        (None, Some(next)) => next.1 - (next.0 - at) * step,
        (None, None) => at * step,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lies_straight_between_known_points_and_steps_on_beyond_them() {
        let points = [(10.0, 100.0), (20.0, 200.0)];
        let all: Vec<_> = [8.0, 10.0, 15.0, 20.0, 21.0].iter().map(|at| along(&points, *at, 2.0)).collect();
        assert_eq!(all, [96.0, 100.0, 150.0, 200.0, 202.0]);
    }

    #[test]
    fn time_never_runs_against_the_sequence() {
        let points = never_falling(vec![(1.0, 50.0), (3.0, 70.0), (2.0, 90.0)]);
        assert_eq!(points, [(1.0, 50.0), (2.0, 90.0), (3.0, 90.0)]);
    }
}
