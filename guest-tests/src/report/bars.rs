//! Lives as bars: operations, io_ends, requests at the device.

use super::input::ReportInput;
use super::rows::is_io_end_track;
use super::timeline::{Bar, Item, Mark, Origin, Track};
use super::words;
use std::collections::{BTreeMap, BTreeSet};
use writeback_events::{Body, IoEndId, OpId, Stimulus};

/// All bars; `items` must be in their final order, for a bar names its item by place.
pub(super) fn bars(items: &[Item], input: &ReportInput, findings: &BTreeSet<IoEndId>) -> Vec<Bar> {
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
        row: item.row,
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
