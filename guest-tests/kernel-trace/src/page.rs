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

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER_PAGE: &str = "\tfield: u64 timestamp;\toffset:0;\tsize:8;\tsigned:0;\n\
        \tfield: local_t commit;\toffset:8;\tsize:8;\tsigned:1;\n\
        \tfield: int overwrite;\toffset:8;\tsize:1;\tsigned:1;\n\
        \tfield: char data;\toffset:16;\tsize:4080;\tsigned:1;\n";
    const HEADER_EVENT: &str = "# compressed entry header\n\ttype_len    :    5 bits\n\ttime_delta  :   27 bits\n\
        \tarray       :   32 bits\n\n\tpadding     : type == 29\n\ttime_extend : type == 30\n\ttime_stamp : type == 31\n\
        \tdata max type_len  == 28\n";

    /// Time stamp and bytes of an event.
    type Stamped = (u64, Vec<u8>);

    fn head(kind: u32, delta: u32) -> [u8; 4] {
        (delta << 5 | kind).to_le_bytes()
    }

    fn read(start: u64, commit_flags: u64, data: &[u8], behind: &[u8]) -> Result<(Vec<Stamped>, Missed), DecodeError> {
        let commit = data.len() as u64 | commit_flags;
        let bytes = [&start.to_le_bytes()[..], &commit.to_le_bytes(), data, behind].concat();
        let page = Page { cpu: 3, bytes };
        let head = PageLayout::parse(HEADER_PAGE)?;
        let layout = RecordLayout::parse(HEADER_EVENT)?;
        let (records, missed) = records(0, &page, &head, &layout)?;
        Ok((records.into_iter().map(|record| (record.seq, record.bytes.to_vec())).collect(), missed))
    }

    #[test]
    fn every_event_counts_its_time_from_the_one_before() {
        let word = |byte: u8| [byte; 4];
        let data = [
            &head(1, 5)[..],
            &word(1), // one word, 5 later
            &head(29, 3),
            &8u32.to_le_bytes(),
            &word(0), // discarded: 4 + 8 bytes, but its time counts
            &head(2, 2),
            &word(2),
            &word(2), // two words
            &head(30, 1),
            &1u32.to_le_bytes(), // time extend: 1 << 27, and 1
            &head(0, 4),
            &8u32.to_le_bytes(),
            &word(3), // length in the next word, which counts itself
            &head(31, 7),
            &2u32.to_le_bytes(), // absolute: 2 << 27, and 7
            &head(1, 1),
            &word(4),
            &head(29, 0),
            &word(9), // the rest is padding
        ]
        .concat();
        let (records, missed) = read(100, 0, &data, &[]).expect("sound");
        let extended = 110 + (1 << 27) + 1 + 4;
        let absolute = (2 << 27) + 7 + 1;
        let expected = [(105, vec![1; 4]), (110, vec![2; 8]), (extended, vec![3; 4]), (absolute, vec![4; 4])];
        assert_eq!(records, expected);
        assert_eq!(missed, Missed::No);
    }

    #[test]
    fn an_absolute_time_stamp_keeps_the_high_bits_it_cannot_hold() {
        let data = [&head(31, 7)[..], &0u32.to_le_bytes(), &head(1, 0), &[0; 4]].concat();
        let (records, _) = read(1 << 60, 0, &data, &[]).expect("sound");
        assert_eq!(records[0].0, (1 << 60) + 7);
    }

    #[test]
    fn a_page_tells_what_is_missing_before_it() {
        assert_eq!(read(0, 1 << 31, &[], &[]).expect("sound").1, Missed::Yes { events: None });
        let stored = read(0, 3 << 30, &[], &42u64.to_le_bytes()).expect("sound").1;
        assert_eq!(stored, Missed::Yes { events: Some(42) });
    }

    #[test]
    fn what_contradicts_the_layout_is_an_error_with_its_place() {
        let said = |data: &[u8]| read(0, 0, data, &[]).expect_err("it cannot be so").to_string();
        let short = "ring-buffer page 0 (CPU 3), byte 16: an event that reaches past the end of the page";
        assert_eq!(said(&head(1, 1)), short);
        assert_eq!(said(&[1, 2]), short);
        assert_eq!(said(&[&head(0, 1)[..], &u32::MAX.to_le_bytes()].concat()), short);
        let page = Page { cpu: 0, bytes: [[0; 8], 9000u64.to_le_bytes()].concat() };
        let head = PageLayout::parse(HEADER_PAGE).expect("a layout");
        let layout = RecordLayout::parse(HEADER_EVENT).expect("a layout");
        let error = records(0, &page, &head, &layout).expect_err("longer than a page");
        assert!(error.to_string().contains("its commit is larger than a page"), "{error}");
    }
}
