//! When the guest's block layer knows what size the disk has.
//!
//! The device's record says before which request the disk changed, an operation of the workload that waits for the new size
//! says when the guest knew. In between it may or may not: a bio for which that matters ends the judging, and nothing is guessed.

use super::join::{JoinError, Placed};
use std::collections::{BTreeMap, BTreeSet};
use writeback_events::{OpId, RequestId, Stimulus};

const SECTOR_BYTES: u64 = 512;

/// A change of the disk's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resized {
    /// Sectors from then on.
    pub sectors: u64,
    /// The first request, by its place in the device's record, that met it.
    pub before: usize,
    /// It came after this operation had begun; none: any time.
    pub behind: Option<OpId>,
    /// The operation at whose end the guest knew; none: it never told.
    pub seen: Option<OpId>,
}

/// Puts what the guest knows of the disk's size among the stimuli.
pub(super) fn place(
    stimuli: Vec<Placed>,
    resized: &[Resized],
    device_of: &BTreeMap<RequestId, usize>,
) -> Result<Vec<Placed>, JoinError> {
    if resized.is_empty() {
        return Ok(stimuli);
    }
    let mut sizes = Sizes::new(resized);
    let mut placed_all = Vec::with_capacity(stimuli.len() + 2 * resized.len());
    for placed in stimuli {
        let here = |stimulus| Placed { stimulus, ..placed.clone() };
        match placed.stimulus {
            Stimulus::BioSubmitted { sector, bytes, .. } => {
                sizes.must_be_sure(sector, sector.saturating_add(bytes.div_ceil(SECTOR_BYTES)))?;
            }
            Stimulus::OpEnds { op, .. } => {
                placed_all.extend(sizes.seen_at(op).map(|sectors| here(Stimulus::DiskHas { sectors })));
            }
            _ => {}
        }
        let shrinks = match placed.stimulus {
            Stimulus::RequestIssued { request, .. } => sizes.issued(device_of.get(&request).copied()),
            Stimulus::OpBegins { op, .. } => sizes.begins(op),
            _ => false,
        };
        let behind = shrinks.then(|| here(Stimulus::DiskShrinks));
        placed_all.push(placed);
        placed_all.extend(behind);
    }
    Ok(placed_all)
}

struct Sizes<'a> {
    /// Of the disk.
    latest: u64,
    /// What the guest last was sure of.
    known: u64,
    /// Sizes that the disk may have taken on since.
    pending: Vec<u64>,
    to_come: &'a [Resized],
    /// Requests of the device, by place, that the guest had issued.
    issued: usize,
    begun: BTreeSet<OpId>,
}

impl<'a> Sizes<'a> {
    fn new(to_come: &'a [Resized]) -> Sizes<'a> {
        let (issued, begun) = (0, BTreeSet::new());
        Sizes { latest: u64::MAX, known: u64::MAX, pending: Vec::new(), to_come, issued, begun }
    }

    fn issued(&mut self, place: Option<usize>) -> bool {
        self.issued = self.issued.max(place.map_or(0, |place| place + 1));
        self.may_change()
    }

    fn begins(&mut self, op: OpId) -> bool {
        self.begun.insert(op);
        self.may_change()
    }

    /// A change may happen once the last request before it is issued, and what it lies behind has begun. Whether the disk may now
    /// be smaller.
    fn may_change(&mut self) -> bool {
        let mut shrinks = false;
        let coming = self.to_come.iter().skip(self.pending.len());
        let (issued, begun) = (self.issued, &self.begun);
        let may = |next: &&Resized| next.before <= issued && next.behind.is_none_or(|op| begun.contains(&op));
        for next in coming.take_while(may) {
            shrinks |= next.sectors < self.latest;
            self.latest = next.sectors;
            self.pending.push(next.sectors);
        }
        shrinks
    }

    /// The size that the guest knows when this operation has ended, if it tells one.
    fn seen_at(&mut self, op: OpId) -> Option<u64> {
        let place = self.to_come.iter().position(|resized| resized.seen == Some(op))?;
        self.known = self.to_come[place].sectors;
        self.to_come = &self.to_come[place + 1..];
        self.pending.drain(..self.pending.len().min(place + 1));
        Some(self.known)
    }

    fn must_be_sure(&self, first: u64, end: u64) -> Result<(), JoinError> {
        let refused = |sectors: u64| end > sectors;
        match self.pending.iter().any(|sectors| refused(*sectors) != refused(self.known)) {
            true => Err(JoinError::SizeInDoubt { first, end }),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::super::follow::Context;
    use super::*;
    use writeback_events::{BlockOp, OpKind, TaskId};

    const TASK: TaskId = TaskId(1);
    const SMALLER: Resized = Resized { sectors: 64, before: 1, behind: None, seen: Some(OpId(2)) };
    const LARGER: Resized = Resized { sectors: 128, before: 1, behind: Some(OpId(3)), seen: Some(OpId(4)) };

    fn issue(request: u64) -> Stimulus {
        Stimulus::RequestIssued { request: RequestId(request), op: BlockOp::Write, sector: 0, sectors: 8 }
    }

    fn bio(sector: u64) -> Stimulus {
        Stimulus::BioSubmitted { task: TASK, sector, bytes: 4096, sync: true }
    }

    fn begins(op: u32) -> Stimulus {
        Stimulus::OpBegins { task: TASK, op: OpId(op), kind: OpKind::Other }
    }

    fn ends(op: u32) -> Stimulus {
        Stimulus::OpEnds { task: TASK, op: OpId(op) }
    }

    /// The guest's n-th request is the device's.
    fn placed(resized: &[Resized], stimuli: &[Stimulus]) -> Result<Vec<Stimulus>, JoinError> {
        let at = |stimulus: &Stimulus| Placed { seq: 0, context: Context::Task(TASK), stimulus: stimulus.clone() };
        let device_of = (0..4).map(|place| (RequestId(place as u64), place)).collect();
        let all = place(stimuli.iter().map(at).collect(), resized, &device_of)?;
        Ok(all.into_iter().map(|placed| placed.stimulus).collect())
    }

    #[test]
    fn the_guest_knows_the_size_when_the_operation_that_waits_for_it_has_ended() {
        let told = placed(&[SMALLER, LARGER], &[issue(0), ends(2), bio(60), begins(3), ends(4), bio(60)]).unwrap();
        let has = |sectors| Stimulus::DiskHas { sectors };
        let expected =
            [issue(0), Stimulus::DiskShrinks, has(64), ends(2), bio(60), begins(3), has(128), ends(4), bio(60)];
        assert_eq!(told, expected);
    }

    #[test]
    fn a_bio_that_may_or_may_not_be_past_the_end_is_not_guessed() {
        let in_between = |sector| placed(&[SMALLER], &[issue(0), bio(sector), ends(2)]);
        assert!(in_between(56).is_ok(), "on both");
        assert_eq!(in_between(60), Err(JoinError::SizeInDoubt { first: 60, end: 68 }));
        assert!(placed(&[SMALLER], &[bio(60), issue(0), ends(2)]).is_ok(), "the disk changes only behind its request");
        let never_told = Resized { seen: None, ..SMALLER };
        assert!(placed(&[never_told], &[issue(0), ends(2), bio(60)]).is_err());
    }

    #[test]
    fn without_a_change_nothing_is_said() {
        assert_eq!(placed(&[], &[issue(0), bio(u64::MAX)]).unwrap(), [issue(0), bio(u64::MAX)]);
    }
}
