//! Ring-buffer pages to records: bytes with a time stamp, in the order of one CPU.

use crate::container::Page;
use crate::error::DecodeError;
use crate::format::{PageLayout, RecordLayout};

/// Events were lost before this page.
const MISSED_EVENTS: u64 = 1 << 31;
/// The number of lost events stands behind the last one.
const MISSED_STORED: u64 = 1 << 30;
/// Bits of `commit` that are a length.
const COMMIT_LEN: u64 = (1 << 27) - 1;
/// Bits of a time stamp that an absolute record holds; the higher ones go on from before.
const TIME_STAMP_BITS: u32 = 59;

/// One event as it lies in its page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Record<'a> {
    pub seq: u64,
    pub at: usize,
    pub bytes: &'a [u8],
}

/// What a page says about events that are missing before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missed {
    No,
    Yes { events: Option<u64> },
}

/// Reads one page. `page` is its place in the file, for errors.
pub(crate) fn records<'a>(
    page: usize,
    raw: &'a Page,
    head: &PageLayout,
    layout: &RecordLayout,
) -> Result<(Vec<Record<'a>>, Missed), DecodeError> {
    let bytes = &raw.bytes[..];
    let wrong = |at: usize, why: &str| DecodeError::Page { page, cpu: raw.cpu, at, why: why.into() };
    let start = word(bytes, head.timestamp, 8).ok_or_else(|| wrong(0, "too short for a page head"))?;
    let commit = word(bytes, head.commit, head.commit_size).ok_or_else(|| wrong(0, "too short for a page head"))?;
    let len = (commit & COMMIT_LEN) as usize;
    if len > head.data_size {
        return Err(wrong(head.commit, "its commit is larger than a page"));
    }
    let end = head.data + len;
    let data = bytes.get(..end).ok_or_else(|| wrong(bytes.len(), "the page is shorter than its commit"))?;
    let missed = match commit & MISSED_EVENTS {
        0 => Missed::No,
        _ => Missed::Yes { events: if commit & MISSED_STORED != 0 { word(bytes, end, 8) } else { None } },
    };
    Ok((walk(data, head.data, start, layout).map_err(|(at, why)| wrong(at, why))?, missed))
}

/// Walks the records of `data` from byte `at`.
fn walk<'a>(
    data: &'a [u8],
    mut at: usize,
    mut now: u64,
    layout: &RecordLayout,
) -> Result<Vec<Record<'a>>, (usize, &'static str)> {
    let mut records = Vec::new();
    let short = "an event that reaches past the end of the page";
    while at < data.len() {
        let head = word(data, at, 4).ok_or((at, short))?;
        let kind = head as u32 & ((1 << layout.type_bits) - 1);
        let delta = head >> layout.type_bits;
        let delta_bits = 32 - layout.type_bits;
        let second = || word(data, at + 4, 4).ok_or((at, short));
        if kind == layout.padding {
            if delta == 0 {
                break;
            }
            // A discarded event. Its successors count from its time stamp.
            now = now.wrapping_add(delta);
            at = at.saturating_add(4 + round_up(second()?));
        } else if kind == layout.time_extend {
            now = now.wrapping_add(second()? << delta_bits | delta);
            at += 8;
        } else if kind == layout.time_stamp {
            let low = (second()? << delta_bits | delta) & ((1 << TIME_STAMP_BITS) - 1);
            now = now >> TIME_STAMP_BITS << TIME_STAMP_BITS | low;
            at += 8;
        } else if kind <= layout.max_data {
            // Length 0: the length stands in the next word and counts that word.
            let (from, to) = match kind {
                0 => (at + 8, at.saturating_add(4 + round_up(second()?))),
                words => (at + 4, at + 4 + 4 * words as usize),
            };
            now = now.wrapping_add(delta);
            let bytes = data.get(from..to).ok_or((at, short))?;
            records.push(Record { seq: now, at, bytes });
            at = to;
        } else {
            return Err((at, "an event of a kind the kernel does not describe"));
        }
    }
    Ok(records)
}

fn round_up(len: u64) -> usize {
    (len as usize).saturating_add(3) & !3
}

fn word(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let mut wide = [0; 8];
    wide.get_mut(..size)?.copy_from_slice(bytes.get(at..at.checked_add(size)?)?);
    Some(u64::from_le_bytes(wide))
}
