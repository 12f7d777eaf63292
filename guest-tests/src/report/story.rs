//! The life of each io_end, guest and replica side by side.
//!
//! The differ compares in order and stops at the first difference. Here the rows behind it are aligned as well, for
//! reading only: a row is `same` where both sides hold the same response.

use super::input::ReportInput;
use super::timeline::{Item, Mark, Origin, Timeline};
use super::words;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use writeback_events::{Body, IoEndId, Response, Subject};

/// Cells of the alignment table; above it the middle part is paired in order instead.
const TABLE_MAX: usize = 4_000_000;

/// One io_end.
#[derive(Debug, Serialize)]
pub(super) struct Story {
    pub(super) io_end: IoEndId,
    /// One line: what became of it.
    pub(super) summary: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) marks: Vec<Mark>,
    pub(super) rows: Vec<Row>,
}

/// One row: a response on either side or both, or what happened around it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Row {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) guest: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) replica: Option<usize>,
    /// A stimulus, a request, a device's answer: not compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) around: Option<usize>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) same: bool,
}

/// One side's responses about one io_end: item and response.
type Side<'a> = Vec<(usize, &'a Response)>;

/// All stories; those with a difference, a finding or an error first, then by number.
pub(super) fn stories(input: &ReportInput, timeline: &Timeline, findings: &BTreeSet<IoEndId>) -> Vec<Story> {
    let guest = sides(timeline, |origin| match origin {
        Origin::Guest(index) => match &input.guest[index].body {
            Body::Response(response) => Some(response),
            _ => None,
        },
        _ => None,
    });
    let replica = sides(timeline, |origin| match origin {
        Origin::Replica(index) => Some(&input.replica[index].response),
        _ => None,
    });
    let around = around(timeline);
    let ids: BTreeSet<_> = guest.keys().chain(replica.keys()).copied().collect();
    let none = Side::new();
    let mut stories: Vec<_> = ids
        .into_iter()
        .map(|io_end| {
            let (guest, replica) = (guest.get(&io_end).unwrap_or(&none), replica.get(&io_end).unwrap_or(&none));
            let items = around.get(&io_end).map(Vec::as_slice).unwrap_or_default();
            story(io_end, guest, replica, items, &timeline.items, findings)
        })
        .collect();
    stories.sort_by_key(|story| (std::cmp::Reverse(story.marks.iter().max().copied()), story.io_end));
    stories
}

fn sides<'a>(timeline: &Timeline, response: impl Fn(Origin) -> Option<&'a Response>) -> BTreeMap<IoEndId, Side<'a>> {
    let mut sides = BTreeMap::<IoEndId, Side<'a>>::new();
    // By origin, not by place: the replica's own order counts, and several of its responses share one cause.
    for (origin, index) in &timeline.by_origin {
        if let Some(response) = response(*origin)
            && let Subject::IoEnd(io_end) = response.subject()
        {
            sides.entry(io_end).or_default().push((*index, response));
        }
    }
    sides
}

/// Items that touch an io_end without being its responses.
fn around(timeline: &Timeline) -> BTreeMap<IoEndId, Vec<usize>> {
    let mut around = BTreeMap::<IoEndId, Vec<usize>>::new();
    for (index, item) in timeline.items.iter().enumerate() {
        let wanted = match item.kind.as_str() {
            "extent_mapped" | "device_request" | "conversion_result" => true,
            "request_error" => !item.marks.is_empty(),
            _ => false,
        };
        if let (true, Some(io_end), false) = (wanted, item.io_end, matches!(item.origin, Origin::Replica(_))) {
            around.entry(io_end).or_default().push(index);
        }
    }
    around
}

fn story(
    io_end: IoEndId,
    guest: &Side<'_>,
    replica: &Side<'_>,
    around: &[usize],
    items: &[Item],
    findings: &BTreeSet<IoEndId>,
) -> Story {
    let mut marks: BTreeSet<Mark> =
        guest.iter().chain(replica).flat_map(|(index, _)| items[*index].marks.iter().copied()).collect();
    marks.extend(around.iter().flat_map(|index| items[*index].marks.iter().copied()));
    if findings.contains(&io_end) {
        marks.insert(Mark::Finding);
    }
    let summary = summary(if guest.is_empty() { replica } else { guest });
    Story { io_end, summary, marks: marks.into_iter().collect(), rows: merge(align(guest, replica), around, items) }
}

fn summary(side: &Side<'_>) -> String {
    let mut bios = BTreeSet::new();
    let (mut ino, mut bytes, mut failed, mut converted, mut queued, mut released) = (None, 0, 0, 0, false, false);
    for (_, response) in side {
        match response {
            Response::InitIoEnd { ino: of, .. } => ino = Some(*of),
            Response::SubmitBio { bio, bytes: more, .. } => {
                bios.insert(*bio);
                bytes += more;
            }
            Response::EndBio { error, .. } if *error != 0 => failed += 1,
            Response::AddCompleteIo { .. } => queued = true,
            Response::ConvertUnwritten { .. } => converted += 1,
            Response::ReleaseIoEnd { .. } => released = true,
            _ => {}
        }
    }
    let mut parts = vec![ino.map_or_else(|| "its birth was not seen".into(), |ino| format!("inode {ino}"))];
    parts.push(match bios.len() {
        0 => "no bio".into(),
        1 => format!("1 bio of {}", words::size(bytes)),
        n => format!("{n} bios, {}", words::size(bytes)),
    });
    if failed > 0 {
        parts.push(format!("{failed} failed"));
    }
    parts.push(match (converted, queued) {
        (0, false) => "nothing to convert".into(),
        (0, true) => "queued, not converted".into(),
        (n, true) => format!("{n} extent(s) converted by the worker"),
        (n, false) => format!("{n} extent(s) converted inline"),
    });
    parts.push(if released { "released" } else { "not released" }.into());
    parts.join(" · ")
}

/// Lays both sides next to each other.
fn align(guest: &Side<'_>, replica: &Side<'_>) -> Vec<Row> {
    let head = guest.iter().zip(replica).take_while(|(a, b)| a.1 == b.1).count();
    let (left, right) = (&guest[head..], &replica[head..]);
    let tail = left.iter().rev().zip(right.iter().rev()).take_while(|(a, b)| a.1 == b.1).count();
    let same = |(a, b): (&(usize, &Response), &(usize, &Response))| Row {
        guest: Some(a.0),
        replica: Some(b.0),
        same: true,
        around: None,
    };
    let mut rows: Vec<Row> = guest[..head].iter().zip(&replica[..head]).map(same).collect();
    rows.extend(middle(&left[..left.len() - tail], &right[..right.len() - tail]));
    rows.extend(left[left.len() - tail..].iter().zip(&right[right.len() - tail..]).map(same));
    rows
}

/// The longest common subsequence keeps what is equal in one row; the rest stands opposite each other, pair by pair.
fn middle(guest: &[(usize, &Response)], replica: &[(usize, &Response)]) -> Vec<Row> {
    let (n, m) = (guest.len(), replica.len());
    if (n + 1).saturating_mul(m + 1) > TABLE_MAX {
        return pairs(guest, replica);
    }
    let mut length = vec![0_u32; (n + 1) * (m + 1)];
    let at = |i: usize, j: usize| i * (m + 1) + j;
    for (i, j) in (0..n).rev().flat_map(|i| (0..m).rev().map(move |j| (i, j))) {
        length[at(i, j)] = if guest[i].1 == replica[j].1 {
            length[at(i + 1, j + 1)] + 1
        } else {
            length[at(i + 1, j)].max(length[at(i, j + 1)])
        };
    }
    let (mut rows, mut i, mut j, mut from) = (Vec::new(), 0, 0, (0, 0));
    while i < n && j < m {
        if guest[i].1 == replica[j].1 {
            rows.extend(pairs(&guest[from.0..i], &replica[from.1..j]));
            rows.push(Row { guest: Some(guest[i].0), replica: Some(replica[j].0), same: true, around: None });
            (i, j) = (i + 1, j + 1);
            from = (i, j);
        } else if length[at(i + 1, j)] >= length[at(i, j + 1)] {
            i += 1;
        } else {
            j += 1;
        }
    }
    rows.extend(pairs(&guest[from.0..], &replica[from.1..]));
    rows
}

fn pairs(guest: &[(usize, &Response)], replica: &[(usize, &Response)]) -> Vec<Row> {
    let row = |k: usize| {
        let (a, b) = (guest.get(k), replica.get(k));
        let same = a.zip(b).is_some_and(|(a, b)| a.1 == b.1);
        Row { guest: a.map(|a| a.0), replica: b.map(|b| b.0), same, around: None }
    };
    (0..guest.len().max(replica.len())).map(row).collect()
}

/// Puts what happened around between the rows, by place.
fn merge(rows: Vec<Row>, around: &[usize], items: &[Item]) -> Vec<Row> {
    let mut merged = Vec::with_capacity(rows.len() + around.len());
    let mut waiting = around.iter().copied().peekable();
    for row in rows {
        if let Some(index) = row.guest.or(row.replica) {
            while let Some(next) = waiting.next_if(|next| *next < index && items[*next].at.x <= items[index].at.x) {
                merged.push(Row { around: Some(next), ..Row::default() });
            }
        }
        merged.push(row);
    }
    merged.extend(waiting.map(|next| Row { around: Some(next), ..Row::default() }));
    merged
}

#[cfg(test)]
mod tests {
    use super::*;
    use writeback_events::BioId;

    fn end(bio: u32, error: i32) -> Response {
        Response::EndBio { bio: BioId(bio), io_end: IoEndId(1), error }
    }

    fn side(responses: &[Response], first: usize) -> Side<'_> {
        responses.iter().enumerate().map(|(k, response)| (first + k, response)).collect()
    }

    #[test]
    fn a_response_missing_on_one_side_stands_alone_and_the_rest_stays_together() {
        let guest = [end(1, 0), end(3, 0)];
        let replica = [end(1, 0), end(2, 0), end(3, 0)];
        let rows = align(&side(&guest, 0), &side(&replica, 10));
        let seen: Vec<_> = rows.iter().map(|row| (row.guest, row.replica, row.same)).collect();
        assert_eq!(seen, [(Some(0), Some(10), true), (None, Some(11), false), (Some(1), Some(12), true)]);
    }

    #[test]
    fn a_response_that_differs_stands_opposite_its_counterpart() {
        let guest = [end(1, 0), end(2, -5), end(3, 0)];
        let replica = [end(1, 0), end(2, 0), end(3, 0)];
        let same: Vec<_> = align(&side(&guest, 0), &side(&replica, 10)).iter().map(|row| row.same).collect();
        assert_eq!(same, [true, false, true]);
    }
}
