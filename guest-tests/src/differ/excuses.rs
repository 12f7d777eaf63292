//! What may excuse a replica from saying what an fsync returns: something failed that it knows too little about.
//!
//! The replica says by itself when it cannot know. A replica that says so too often would never be wrong, so the trace must
//! bear it out: by then a request that carried more than bios' data (journal, metadata, a flush, a read) failed or was answered with
//! what is not true, the disk became smaller, or no memory was found for an io_end. With data_err=abort a failed write of data is enough,
//! and also where two writers' fsyncs of one file overlap: its error is told to one of them.

use super::join::Joined;
use std::collections::BTreeMap;
use std::ops::Range;
use writeback_events::{BlockOp, RequestId, RequestStatus, Stimulus};

/// From where on there is an excuse.
pub(super) struct Excuses {
    first: Option<u64>,
    /// The first request of all that failed.
    first_failed: Option<u64>,
}

impl Excuses {
    pub(super) fn read(joined: &Joined, data_err_abort: bool) -> Excuses {
        let mut reader = Reader { data_err_abort, ..Reader::default() };
        let excuse = joined.stimuli.iter().find(|placed| reader.excuses(&placed.stimulus));
        let failed = |stimulus: &Stimulus| matches!(stimulus, Stimulus::RequestAnswered { status, .. } if *status != RequestStatus::Ok);
        let first_failed = joined.stimuli.iter().find(|placed| failed(&placed.stimulus));
        Excuses { first: excuse.map(|placed| placed.seq), first_failed: first_failed.map(|placed| placed.seq) }
    }

    /// Whether there is one for a result at `seq`.
    pub(super) fn by(&self, seq: u64, told_beside: bool) -> bool {
        let by_then = |first: Option<u64>| first.is_some_and(|first| first <= seq);
        by_then(self.first) || told_beside && by_then(self.first_failed)
    }
}

#[derive(Default)]
struct Reader {
    data_err_abort: bool,
    /// Sectors of bios that were submitted and not answered.
    data: Vec<Range<u64>>,
    /// Sectors of a request with the driver that carries data of bios alone; none: it carries something else.
    requests: BTreeMap<RequestId, Option<Range<u64>>>,
}

impl Reader {
    fn excuses(&mut self, stimulus: &Stimulus) -> bool {
        match *stimulus {
            Stimulus::BioSubmitted { sector, bytes, .. } => {
                self.data.push(sector..sector.saturating_add(bytes.div_ceil(512)));
            }
            Stimulus::RequestIssued { request, op, sector, sectors } => {
                let sectors = sector..sector.saturating_add(sectors);
                let data = op == BlockOp::Write && self.is_data(&sectors);
                self.requests.insert(request, data.then_some(sectors));
            }
            Stimulus::RequestAnswered { request, status } => {
                let data = self.requests.remove(&request).flatten();
                if status != RequestStatus::Ok && (data.is_none() || self.data_err_abort) {
                    return true;
                }
                data.into_iter().for_each(|sectors| self.answered(&sectors));
            }
            Stimulus::AnswerUntrue { request, elsewhere } => {
                return elsewhere || self.requests.get(&request).is_none_or(Option::is_none);
            }
            Stimulus::DiskShrinks => return true,
            Stimulus::InitIoEnd { failed, .. } => return failed,
            _ => {}
        }
        false
    }

    /// Every sector is one of a bio's. Bios in flight do not overlap.
    fn is_data(&self, sectors: &Range<u64>) -> bool {
        let covered =
            self.data.iter().map(|data| data.end.min(sectors.end).saturating_sub(data.start.max(sectors.start)));
        covered.sum::<u64>() == sectors.end - sectors.start
    }

    fn answered(&mut self, sectors: &Range<u64>) {
        let left = |data: Range<u64>| {
            let (before, behind) = (data.start..data.end.min(sectors.start), data.start.max(sectors.end)..data.end);
            [before, behind].into_iter().filter(|part| part.start < part.end)
        };
        self.data = std::mem::take(&mut self.data).into_iter().flat_map(left).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::super::follow::Context;
    use super::super::join::Placed;
    use super::*;
    use writeback_events::TaskId;

    const TASK: TaskId = TaskId(1);

    fn excuse(data_err_abort: bool, stimuli: &[Stimulus]) -> Option<u64> {
        let place = |(seq, stimulus): (usize, &Stimulus)| Placed {
            seq: seq as u64,
            context: Context::Task(TASK),
            stimulus: stimulus.clone(),
        };
        let stimuli = stimuli.iter().enumerate().map(place).collect();
        Excuses::read(&Joined { stimuli, device_of: BTreeMap::new(), after_trace: 0 }, data_err_abort).first
    }

    fn bio(sector: u64, sectors: u64) -> Stimulus {
        Stimulus::BioSubmitted { task: TASK, sector, bytes: sectors * 512, sync: true }
    }

    fn issue(request: u64, sector: u64, sectors: u64) -> Stimulus {
        Stimulus::RequestIssued { request: RequestId(request), op: BlockOp::Write, sector, sectors }
    }

    fn answer(request: u64, status: RequestStatus) -> Stimulus {
        Stimulus::RequestAnswered { request: RequestId(request), status }
    }

    #[test]
    fn a_failed_write_of_data_excuses_nothing_but_with_data_err_abort() {
        let merged = [bio(0, 8), bio(8, 8), issue(1, 0, 16), answer(1, RequestStatus::Ioerr)];
        assert_eq!(excuse(false, &merged), None);
        assert_eq!(excuse(true, &merged), Some(3));
    }

    #[test]
    fn a_failed_write_of_more_than_data_is_an_excuse() {
        let more = [bio(0, 8), issue(1, 0, 16), answer(1, RequestStatus::Ioerr)];
        assert_eq!(excuse(false, &more), Some(2));
        let good = [bio(0, 8), issue(1, 0, 16), answer(1, RequestStatus::Ok)];
        assert_eq!(excuse(false, &good), None);
    }

    /// The journal may come to lie where data lay.
    #[test]
    fn sectors_that_were_answered_are_data_no_more() {
        let reused =
            [bio(0, 8), issue(1, 0, 8), answer(1, RequestStatus::Ok), issue(2, 0, 8), answer(2, RequestStatus::Ioerr)];
        assert_eq!(excuse(false, &reused), Some(4));
    }

    #[test]
    fn an_answer_about_more_than_data_that_is_not_true_is_an_excuse() {
        let untrue = Stimulus::AnswerUntrue { request: RequestId(1), elsewhere: false };
        let elsewhere = Stimulus::AnswerUntrue { request: RequestId(1), elsewhere: true };
        assert_eq!(excuse(false, &[bio(0, 8), issue(1, 0, 8), elsewhere]), Some(2));
        assert_eq!(excuse(false, &[bio(0, 8), issue(1, 0, 8), untrue.clone()]), None);
        assert_eq!(excuse(false, &[bio(0, 8), issue(1, 0, 16), untrue.clone()]), Some(2));
        let read = Stimulus::RequestIssued { request: RequestId(1), op: BlockOp::Read, sector: 0, sectors: 8 };
        assert_eq!(excuse(false, &[read, untrue]), Some(1));
    }

    #[test]
    fn an_allocation_that_failed_is_an_excuse() {
        let failed = Stimulus::InitIoEnd { task: TASK, ino: writeback_events::Ino(12), failed: true };
        assert_eq!(excuse(false, &[failed]), Some(0));
    }
}
