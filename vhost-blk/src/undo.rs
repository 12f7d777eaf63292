//! What the image held at each power cut, so that a snapshot stays good while the guest goes on writing.
//!
//! A log of stretches and what they held before they were written to, each written here before the image changes. A
//! snapshot remembers how long the log was; laying everything after that back over the image, last first, gives the image
//! as it was then. A log that was cut short is as good: its last stretch had not been changed yet.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::disk::{Disk, HostError};

/// How a log begins.
pub const UNDO_MAGIC: &[u8; 8] = b"VBLKUND1";

/// Old content is read in steps of this many bytes.
const STEP: u64 = 1 << 20;

const RECORD_BYTES: usize = 24;

/// A stretch of a disk in a file: the header of a record, before its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// What stands behind the header.
    pub kind: StretchKind,
    /// First byte on the disk.
    pub offset: u64,
    /// How long.
    pub bytes: u64,
}

/// What stands behind the header of a stretch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StretchKind {
    /// Its bytes.
    Data,
    /// Nothing: it is all zeroes.
    Zeroes,
    /// Nothing: the file ends here, and `offset` says how many stretches it has.
    End,
}

impl Stretch {
    /// As bytes.
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[0] = match self.kind {
            StretchKind::Data => 1,
            StretchKind::Zeroes => 2,
            StretchKind::End => 3,
        };
        bytes[8..16].copy_from_slice(&self.offset.to_le_bytes());
        bytes[16..].copy_from_slice(&self.bytes.to_le_bytes());
        bytes
    }

    /// Reads the next header. `None` where the file ends or was cut short.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Stretch>> {
        let mut bytes = [0; RECORD_BYTES];
        match from.read_exact(&mut bytes) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other?,
        }
        let word = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().expect("inside the record"));
        let kind = match bytes[0] {
            1 => StretchKind::Data,
            2 => StretchKind::Zeroes,
            3 => StretchKind::End,
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "a damaged stretch")),
        };
        Ok(Some(Stretch { kind, offset: word(8), bytes: word(16) }))
    }
}

/// The log, open for writing.
#[derive(Debug)]
pub struct Undo {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// Saved since the last cut: first byte → byte after the last. Later changes to it need no saving.
    saved: BTreeMap<u64, u64>,
}

impl Undo {
    /// Starts a log. The file must not exist.
    pub fn create(path: &Path) -> io::Result<Undo> {
        let mut file = File::create_new(path)?;
        file.write_all(UNDO_MAGIC)?;
        Ok(Undo { path: path.to_path_buf(), file, bytes: UNDO_MAGIC.len() as u64, saved: BTreeMap::new() })
    }

    /// A power cut: how long the log is now. What is changed from here on is saved anew.
    pub fn mark(&mut self) -> u64 {
        self.saved.clear();
        self.bytes
    }

    /// Saves what a stretch of the image holds, as far as that has not been done since the last cut.
    pub fn save(&mut self, disk: &Disk, offset: u64, bytes: u64) -> Result<(), HostError> {
        for (start, end) in gaps(&self.saved, offset, offset + bytes) {
            let mut at = start;
            while at < end {
                let mut old = vec![0; (end - at).min(STEP) as usize];
                disk.read_at(&mut old, at)?;
                self.append(at, &old).map_err(|error| {
                    let (path, why) = (self.path.clone(), error.to_string());
                    let what = "keeping what a snapshot needs";
                    let error = HostError { path, what, offset: at, bytes: old.len() as u64, why };
                    disk.remember(&error);
                    error
                })?;
                at += old.len() as u64;
            }
        }
        join(&mut self.saved, offset, offset + bytes);
        Ok(())
    }

    fn append(&mut self, offset: u64, old: &[u8]) -> io::Result<()> {
        let record = stretch(offset, old);
        self.file.write_all(&record)?;
        self.bytes += record.len() as u64;
        Ok(())
    }
}

/// A stretch with its data, as short as it can be.
pub fn stretch(offset: u64, content: &[u8]) -> Vec<u8> {
    let bytes = content.len() as u64;
    if content.iter().all(|byte| *byte == 0) {
        return Stretch { kind: StretchKind::Zeroes, offset, bytes }.encode().to_vec();
    }
    [&Stretch { kind: StretchKind::Data, offset, bytes }.encode()[..], content].concat()
}

/// What of `start..end` is in none of these ranges.
fn gaps(ranges: &BTreeMap<u64, u64>, start: u64, end: u64) -> Vec<(u64, u64)> {
    let before = ranges.range(..start).next_back();
    let mut at = before.map_or(start, |(_, stop)| start.max(*stop));
    let mut gaps = Vec::new();
    for (first, stop) in ranges.range(start..end) {
        if at < *first {
            gaps.push((at, *first));
        }
        at = at.max(*stop);
    }
    if at < end {
        gaps.push((at, end));
    }
    gaps
}

/// Adds `start..end` to ranges that neither overlap nor touch.
fn join(ranges: &mut BTreeMap<u64, u64>, mut start: u64, mut end: u64) {
    if let Some((first, stop)) = ranges.range(..start).next_back()
        && *stop >= start
    {
        (start, end) = (*first, end.max(*stop));
    }
    let inside: Vec<(u64, u64)> = ranges.range(start..=end).map(|(first, stop)| (*first, *stop)).collect();
    for (first, stop) in inside {
        ranges.remove(&first);
        end = end.max(stop);
    }
    ranges.insert(start, end);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn gaps_and_joined_ranges_are_what_a_bitmap_says(
            ranges in prop::collection::vec((0u64..60, 1u64..12), 0..12)
        ) {
            let mut joined = BTreeMap::new();
            let mut bits = [false; 80];
            for (start, length) in ranges {
                let missing: Vec<u64> = (start..start + length).filter(|at| !bits[*at as usize]).collect();
                let found: Vec<u64> =
                    gaps(&joined, start, start + length).into_iter().flat_map(|(from, to)| from..to).collect();
                prop_assert_eq!(found, missing);
                join(&mut joined, start, start + length);
                bits[start as usize..(start + length) as usize].fill(true);
                let covered: Vec<u64> = joined.iter().flat_map(|(from, to)| *from..*to).collect();
                let set: Vec<u64> = (0..80).filter(|at| bits[*at as usize]).collect();
                prop_assert_eq!(covered, set);
            }
        }
    }
}
