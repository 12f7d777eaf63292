//! What was found in a file, held against what it may be.

use super::{Fault, File, Given, Layer, Mapped, PIECE_BYTES, Sure, overlap};
use crate::durability::Broken;
use guest_init::pattern::{Content, Run};
use std::ops::Range;

impl File {
    /// Holds what was found after a power cut against the model. Gives how many promised bytes were looked at.
    pub fn judge(&self, path: &str, data: &[u8], past_may_show: bool, broken: &mut Vec<Broken>) -> u64 {
        let size = data.len() as u64;
        if !self.on_disk.allow(size) {
            let what = format!("{path} is {size} bytes long, expected was {}", self.on_disk.describe());
            let promised = size < self.on_disk.least && self.size_promised;
            broken.push(Broken { path: path.to_owned(), offset: None, bytes: None, promised, what });
        }
        let (mut looked_at, mut wrong) = (0, Vec::<(Range<u64>, bool, String)>::new());
        for bytes in self.pieces(&(0..size), true) {
            let (from, promised) = self.from(&bytes, Sure::Promised);
            looked_at += if promised { bytes.end - bytes.start } else { 0 };
            let found = &data[bytes.start as usize..bytes.end as usize];
            let zero_is_fine = !promised && found.iter().all(|byte| *byte == 0);
            let fine = zero_is_fine || from.iter().any(|layer| layer.may_show(bytes.start, found));
            if fine || (!promised && past_may_show) {
                continue;
            }
            let wanted = name_of(&from);
            match wrong.last_mut() {
                Some((last, was_promised, name))
                    if last.end == bytes.start && (*was_promised, &*name) == (promised, &wanted) =>
                {
                    last.end = bytes.end;
                }
                _ => wrong.push((bytes, promised, wanted)),
            }
        }
        broken.extend(wrong.into_iter().map(|(bytes, promised, wanted)| broken_bytes(path, &bytes, promised, &wanted)));
        looked_at
    }

    /// Holds a pattern map against the model. A map knows bytes by whole sectors, so one that several layers share says little.
    pub fn judge_map(&self, runs: &[Run], sure: Sure) -> Mapped {
        let mut mapped = Mapped::default();
        for run in runs {
            let bytes = run.offset..run.offset + run.len;
            match run.content {
                Content::Other { .. } => self.judge_unknown_bytes(&bytes, sure, &mut mapped),
                Content::Past { .. } => mapped.faults.push((bytes, Fault::Stale(run.content.clone()))),
                _ => {
                    let pieces = self.pieces(&bytes, false);
                    let judge = |piece: Range<u64>| Some((piece.clone(), self.fault_in(&piece, &run.content, sure)?));
                    mapped.faults.extend(pieces.into_iter().filter_map(judge));
                }
            }
        }
        mapped
    }

    /// The bytes of a range, where the model leaves nothing open.
    pub fn exactly(&self, range: &Range<u64>, sure: Sure) -> Option<Vec<u8>> {
        let mut data = vec![0; usize::try_from(range.end - range.start).ok()?];
        for piece in self.pieces(range, false) {
            let (from, is_sure) = self.from(&piece, sure);
            match (from.as_slice(), is_sure) {
                ([only], true) | ([only @ Layer { given: Given::Zero, .. }], false) => {
                    let at = (piece.start - range.start) as usize..(piece.end - range.start) as usize;
                    only.fill(piece.start, &mut data[at]);
                }
                ([], _) => {}
                _ => return None,
            }
        }
        Some(data)
    }

    /// What is wrong with a piece in which no layer begins or ends.
    fn fault_in(&self, piece: &Range<u64>, found: &Content, sure: Sure) -> Option<Fault> {
        let (from, is_sure) = self.from(piece, sure);
        let zero_is_fine = !is_sure && *found == Content::Zero;
        if zero_is_fine || from.iter().any(|layer| layer.shows(piece, found)) {
            return None;
        }
        let was_given = |name: &str| {
            let mut over = self.layers.iter().filter(|layer| overlap(&layer.bytes, piece).is_some());
            over.any(|layer| matches!(&layer.given, Given::Pattern(pattern) if pattern.name() == name))
        };
        match found {
            Content::Pattern { name } | Content::Misplaced { name, .. } if !was_given(name) => {
                return Some(Fault::Stale(found.clone()));
            }
            _ => {}
        }
        Some(self.lost_promise(piece, found).unwrap_or_else(|| Fault::Expected(name_of(&from))))
    }

    /// What is missing was not only written but fsynced.
    fn lost_promise(&self, piece: &Range<u64>, found: &Content) -> Option<Fault> {
        let (from, promised) = self.from(piece, Sure::Promised);
        let kept = from.iter().any(|layer| layer.shows(piece, found));
        (promised && !kept).then(|| Fault::Lost(name_of(&from)))
    }

    /// Bytes that are nothing known: sector by sector they are wrong where no mixture of layers can be.
    fn judge_unknown_bytes(&self, bytes: &Range<u64>, sure: Sure, mapped: &mut Mapped) {
        let first = bytes.start - bytes.start % PIECE_BYTES;
        for start in (first..bytes.end).step_by(PIECE_BYTES as usize) {
            let Some(part) = overlap(&(start..start + PIECE_BYTES), bytes) else { continue };
            if !self.must_be_whole(&part, sure) {
                mapped.unknown_bytes += part.end - part.start;
                continue;
            }
            match mapped.faults.last_mut() {
                Some((last, Fault::Corrupt)) if last.end == part.start => last.end = part.end,
                _ => mapped.faults.push((part, Fault::Corrupt)),
            }
        }
    }

    /// Nothing was ever written there, or one sure layer covers it, and nothing came after or beside it.
    fn must_be_whole(&self, part: &Range<u64>, sure: Sure) -> bool {
        let over = self.over(part);
        let Some(last) = over.last() else { return true };
        let covers = last.bytes.start <= part.start && part.end <= last.bytes.end;
        covers && self.is_sure(last, sure) && over.iter().all(|layer| !layer.by.beside(last.by))
    }
}

fn name_of(layers: &[&Layer]) -> String {
    layers.first().map_or("zeros".to_owned(), |layer| layer.name())
}

fn broken_bytes(path: &str, bytes: &Range<u64>, promised: bool, wanted: &str) -> Broken {
    let Range { start, end } = bytes;
    let what = match promised {
        true => format!("bytes {start}..{end} of {path} hold neither {wanted}, which was fsynced, nor anything newer"),
        false => format!("bytes {start}..{end} of {path} hold what nobody has written there"),
    };
    Broken { path: path.to_owned(), offset: Some(*start), bytes: Some(end - start), promised, what }
}
