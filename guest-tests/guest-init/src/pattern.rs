//! The bytes a workload writes, and what bytes read back turn out to be.
//!
//! A pattern is a name; the byte at a file offset follows from both, so any write of any part
//! of a file gives the same bytes for the same place. Each 512-byte unit carries the name's hash
//! and its own offset: data that comes back at the wrong place says where it belongs.

use serde::{Deserialize, Serialize};

use crate::past::{self, Past, UNIT_BYTES};

const MAGIC: u64 = u64::from_le_bytes(*b"PATTERN\n");

/// A named stream of bytes over all file offsets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    name: String,
    id: u64,
}

impl Pattern {
    /// The pattern of that name.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Pattern { name: name.to_owned(), id: fnv1a64(name.as_bytes()) }
    }

    /// The name it was made from.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Fills `buf` with the bytes that belong at file offset `offset`.
    pub fn fill(&self, offset: u64, buf: &mut [u8]) {
        let unit = UNIT_BYTES as u64;
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let skip = (at % unit) as usize;
            let take = (UNIT_BYTES - skip).min(buf.len() - done);
            let bytes = unit_bytes(self.id, at - skip as u64);
            buf[done..done + take].copy_from_slice(&bytes[skip..skip + take]);
            done += take;
        }
    }
}

fn unit_bytes(id: u64, offset: u64) -> [u8; UNIT_BYTES] {
    let mut bytes = [0; UNIT_BYTES];
    let salt = id ^ offset.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for (i, word) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        let value = match i {
            0 => MAGIC,
            1 => id,
            2 => offset,
            _ => salt.wrapping_add(i as u64).rotate_left(i as u32),
        };
        *word = value.to_le_bytes();
    }
    bytes
}

fn recognise_unit(unit: &[u8]) -> Option<(u64, u64)> {
    let word = |i: usize| unit.get(8 * i..8 * i + 8).map(|b| u64::from_le_bytes(b.try_into().expect("eight bytes")));
    if word(0)? != MAGIC {
        return None;
    }
    let (id, offset) = (word(1)?, word(2)?);
    (unit_bytes(id, offset)[..] == *unit).then_some((id, offset))
}

/// What a stretch of data is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case", deny_unknown_fields)]
pub enum Content {
    /// All zero.
    Zero,
    /// A pattern at the very place it was made for.
    Pattern {
        /// The pattern's name.
        name: String,
    },
    /// A pattern that belongs elsewhere in the file (or in another file).
    Misplaced {
        /// The pattern's name.
        name: String,
        /// The file offset the first byte belongs at; the stretch follows from there.
        from: u64,
    },
    /// What the disk held before the run: stale data.
    Past {
        /// The nonce of the run that filled the block.
        nonce: u64,
        /// The disk sector (512 bytes) of the first unit; the stretch follows from there.
        sector: u64,
    },
    /// None of these.
    Other {
        /// FNV-1a, 64 bit, of the stretch.
        fnv1a64: String,
    },
}

/// One stretch of the data read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// File offset of its first byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// What it is.
    #[serde(flatten)]
    pub content: Content,
}

/// What the bytes of a range are, as runs without gaps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PatternMap {
    /// In order of file offset.
    pub runs: Vec<Run>,
}

/// What a unit is, with the numbers a run is built from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Zero,
    Pattern { id: usize, offset: u64 },
    Past { nonce: u64, sector: u64 },
    Other,
}

impl PatternMap {
    /// Classifies `data`, read at file offset `offset`, in 512-byte units of the file.
    ///
    /// `known` are the patterns the workload may have written; `block_bytes` is the file
    /// system's block size, which turns a block's past into disk sectors.
    #[must_use]
    pub fn of(data: &[u8], offset: u64, known: &[Pattern], block_bytes: u64) -> Self {
        let mut builder = Builder { data, offset, known, runs: Vec::new() };
        let whole = |start: usize| Some(classify(data.get(start..start + UNIT_BYTES)?, known, block_bytes));
        let mut start = 0;
        while start < data.len() {
            let at = offset + start as u64;
            let to_edge = UNIT_BYTES - (at % UNIT_BYTES as u64) as usize;
            let end = (start + to_edge).min(data.len());
            let unit = match end - start {
                UNIT_BYTES => classify(&data[start..end], known, block_bytes),
                // A few bytes fit many things: first try what the neighbour is.
                _ => classify_part(&data[start..end], at, known, builder.last().or_else(|| whole(end))),
            };
            builder.push(start, end, unit);
            start = end;
        }
        builder.finish()
    }

    /// The runs that hold the disk's past.
    pub fn stale(&self) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(|run| matches!(run.content, Content::Past { .. }))
    }
}

fn classify(unit: &[u8], known: &[Pattern], block_bytes: u64) -> Unit {
    if unit.iter().all(|byte| *byte == 0) {
        return Unit::Zero;
    }
    if let Some(Past { nonce, block, unit }) = past::recognise(unit) {
        return Unit::Past { nonce, sector: block * (block_bytes / UNIT_BYTES as u64) + u64::from(unit) };
    }
    let recognised =
        recognise_unit(unit).and_then(|(id, offset)| Some((known.iter().position(|p| p.id == id)?, offset)));
    recognised.map_or(Unit::Other, |(id, offset)| Unit::Pattern { id, offset })
}

/// Less than a unit carries no name of its own; it can only be compared with what belongs here.
fn classify_part(part: &[u8], at: u64, known: &[Pattern], neighbour: Option<Unit>) -> Unit {
    let fits = |id: &usize| {
        let mut expected = vec![0; part.len()];
        known[*id].fill(at, &mut expected);
        expected == part
    };
    let beside = match neighbour {
        Some(Unit::Pattern { id, .. }) => Some(id),
        _ => None,
    };
    if beside.is_none() && part.iter().all(|byte| *byte == 0) {
        return Unit::Zero;
    }
    match beside.into_iter().chain(0..known.len()).find(fits) {
        Some(id) => Unit::Pattern { id, offset: at },
        None if part.iter().all(|byte| *byte == 0) => Unit::Zero,
        None => Unit::Other,
    }
}

struct Builder<'a> {
    data: &'a [u8],
    offset: u64,
    known: &'a [Pattern],
    /// (start, end, first unit), indexes into `data`.
    runs: Vec<(usize, usize, Unit)>,
}

impl Builder<'_> {
    fn last(&self) -> Option<Unit> {
        self.runs.last().map(|(_, _, unit)| *unit)
    }

    fn push(&mut self, start: usize, end: usize, unit: Unit) {
        match self.runs.last_mut() {
            Some((first, last_end, head)) if follows(*head, (start - *first) as u64, unit) => *last_end = end,
            _ => self.runs.push((start, end, unit)),
        }
    }

    fn finish(self) -> PatternMap {
        let run = |&(start, end, unit): &(usize, usize, Unit)| {
            let offset = self.offset + start as u64;
            Run { offset, len: (end - start) as u64, content: self.content(unit, offset, &self.data[start..end]) }
        };
        PatternMap { runs: self.runs.iter().map(run).collect() }
    }

    fn content(&self, unit: Unit, at: u64, bytes: &[u8]) -> Content {
        match unit {
            Unit::Zero => Content::Zero,
            Unit::Pattern { id, offset } if offset == at => Content::Pattern { name: self.known[id].name.clone() },
            Unit::Pattern { id, offset } => Content::Misplaced { name: self.known[id].name.clone(), from: offset },
            Unit::Past { nonce, sector } => Content::Past { nonce, sector },
            Unit::Other => Content::Other { fnv1a64: format!("{:016x}", fnv1a64(bytes)) },
        }
    }
}

/// Whether `next`, `distance` bytes after the head of a run, continues that run.
fn follows(head: Unit, distance: u64, next: Unit) -> bool {
    match (head, next) {
        (Unit::Pattern { id, offset }, Unit::Pattern { id: next_id, offset: next_offset }) => {
            id == next_id && offset + distance == next_offset
        }
        (Unit::Past { nonce, sector }, Unit::Past { nonce: next_nonce, sector: next_sector }) => {
            nonce == next_nonce && sector + distance / UNIT_BYTES as u64 == next_sector
        }
        _ => head == next,
    }
}

/// FNV-1a, 64 bit: tells two contents apart; no protection against anyone who wants to fool it.
#[must_use]
pub const fn fnv1a64(bytes: &[u8]) -> u64 {
    fnv1a64_more(0xcbf2_9ce4_8422_2325, bytes)
}

/// Goes on with a hash.
pub(crate) const fn fnv1a64_more(mut hash: u64, bytes: &[u8]) -> u64 {
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(name: &str, offset: u64, len: usize) -> Vec<u8> {
        let mut buf = vec![0; len];
        Pattern::new(name).fill(offset, &mut buf);
        buf
    }

    fn map(data: &[u8], offset: u64) -> Vec<Run> {
        PatternMap::of(data, offset, &[Pattern::new("old"), Pattern::new("new")], 4096).runs
    }

    fn run(offset: u64, len: u64, content: Content) -> Run {
        Run { offset, len, content }
    }

    #[test]
    fn data_is_told_apart_unit_by_unit() {
        let mut data = bytes("new", 8192, 1536);
        data.extend([0; 512]);
        data.extend(bytes("old", 0, 1024));
        let mut block = [0; 4096];
        past::fill(9, 3, &mut block);
        data.extend(&block[1024..3072]);
        data.extend([7; 512]);
        let hash = format!("{:016x}", fnv1a64(&[7; 512]));
        assert_eq!(
            map(&data, 8192),
            [
                run(8192, 1536, Content::Pattern { name: "new".into() }),
                run(9728, 512, Content::Zero),
                run(10240, 1024, Content::Misplaced { name: "old".into(), from: 0 }),
                run(11264, 2048, Content::Past { nonce: 9, sector: 26 }),
                run(13312, 512, Content::Other { fnv1a64: hash }),
            ]
        );
    }

    #[test]
    fn two_neighbouring_blocks_of_the_past_are_one_run_and_distant_ones_two() {
        let block = |n| {
            let mut block = vec![0; 4096];
            past::fill(1, n, &mut block);
            block
        };
        let past = |offset, len, sector| run(offset, len, Content::Past { nonce: 1, sector });
        assert_eq!(map(&[block(5), block(6)].concat(), 0), [past(0, 8192, 40)]);
        assert_eq!(map(&[block(6), block(5)].concat(), 0), [past(0, 4096, 48), past(4096, 4096, 40)]);
    }

    #[test]
    fn a_pattern_nobody_said_would_be_written_is_other() {
        let found = PatternMap::of(&bytes("new", 0, 512), 0, &[Pattern::new("old")], 4096);
        assert!(matches!(found.runs[..], [Run { content: Content::Other { .. }, .. }]));
    }

    proptest! {
        #[test]
        fn what_was_written_in_pieces_reads_back_as_one_run(offset in 0u64..5000, cuts in prop::collection::vec(1usize..1500, 1..8)) {
            let mut data = Vec::new();
            for len in cuts {
                data.extend(bytes("new", offset + data.len() as u64, len));
            }
            let whole = bytes("new", offset, data.len());
            prop_assert_eq!(&data, &whole);
            prop_assert_eq!(map(&data, offset), [run(offset, data.len() as u64, Content::Pattern { name: "new".into() })]);
        }

        #[test]
        fn runs_cover_the_data_without_gap(data in prop::collection::vec(0u8..2, 0..3000), offset in 0u64..2000) {
            let mut at = offset;
            for run in map(&data, offset) {
                prop_assert_eq!(run.offset, at);
                at += run.len;
            }
            prop_assert_eq!(at, offset + data.len() as u64);
        }
    }
}
