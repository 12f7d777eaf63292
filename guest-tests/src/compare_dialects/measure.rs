//! Drives the replica of one dialect through one workload and counts.

use super::workload::{Worker, Workload};
use ext4_replica::{Call, Calls, Dialect, Event, Extent, InodeState};
use serde::Serialize;
use writeback_events::{BioId, Ino};

const INO: Ino = Ino(12);

/// What one dialect did in one workload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// io_ends born.
    pub io_ends: u64,
    /// Bios submitted.
    pub bios: u64,
    /// Calls of `ext4_convert_unwritten_extents`.
    pub conversions: u64,
    /// Runs of the conversion worker.
    pub worker_runs: u64,
    /// Extents split.
    pub splits: u64,
    /// Extents joined.
    pub merges: u64,
    /// Blocks whose data was written and that still read as zeros: lost.
    pub lost_blocks: u64,
    /// Blocks that nobody wrote and that read as what the disk held before: stale.
    pub stale_blocks: u64,
}

impl Counts {
    /// Splits and joins together: what the patch is said to save.
    pub fn split_and_joined(&self) -> u64 {
        self.splits + self.merges
    }
}

/// Counts what `dialect` does in `workload`.
pub fn measure(dialect: Dialect, workload: &Workload) -> Counts {
    Machine::after_writing(dialect, workload).answered(workload)
}

/// A replica of which bios are in flight.
#[derive(Clone)]
pub(super) struct Machine {
    calls: Calls,
    counts: Counts,
    /// In flight, in the order in which they were submitted.
    bios: Vec<BioId>,
    state: Option<Box<InodeState>>,
}

impl Machine {
    /// All passes have handed their pages over. Neither completion order nor worker has had a part in it.
    pub(super) fn after_writing(dialect: Dialect, workload: &Workload) -> Machine {
        let calls = Calls::new(dialect);
        let mut machine = Machine { calls, counts: Counts::default(), bios: Vec::new(), state: None };
        machine.write(workload);
        machine
    }

    /// What it comes to once the device has answered and the worker has run.
    pub(super) fn answered(mut self, workload: &Workload) -> Counts {
        for bio in workload.order.of(&self.bios) {
            self.call(&Call::EndBio { bio, error: 0 });
            if workload.worker == Worker::Prompt {
                self.call(&Call::RunWork { ino: INO });
            }
        }
        self.call(&Call::RunWork { ino: INO });
        self.call(&Call::State);
        self.conclude(workload)
    }

    fn write(&mut self, workload: &Workload) {
        let (block_bits, size, extents) = (workload.block_bits(), workload.file_bytes(), workload.extents());
        self.call(&Call::Device { max_pages: workload.pages_per_bio });
        self.call(&Call::Inode { ino: INO, block_bits, size, extents });
        for (lblk, len) in workload.written() {
            self.call(&Call::Dirty { ino: INO, lblk, len });
        }
        for (first_page, next_page) in workload.passes() {
            let (sync, fail_alloc, race_error) = (true, false, None);
            self.call(&Call::SubmitRange { ino: INO, first_page, next_page, sync, fail_alloc, race_error });
        }
    }

    fn call(&mut self, call: &Call) {
        let events = self.calls.call(call).expect("a workload names only what is there");
        events.into_iter().for_each(|event| self.count(event));
    }

    fn count(&mut self, event: Event) {
        match event {
            Event::InitIoEnd { .. } => self.counts.io_ends += 1,
            Event::SubmitBio { bio, .. } => {
                self.counts.bios += 1;
                self.bios.push(bio);
            }
            Event::ConvertUnwritten { .. } => self.counts.conversions += 1,
            Event::AddCompleteIo { queued: true, .. } => self.counts.worker_runs += 1,
            Event::State(state) => self.state = Some(state),
            _ => {}
        }
    }

    fn conclude(self, workload: &Workload) -> Counts {
        let state = self.state.expect("a machine that is not dead tells its state");
        assert!(
            state.writeback_pages.is_empty() && state.i_ioend_count == 0,
            "every bio was answered and the worker ran: {state:?}"
        );
        let (lost_blocks, stale_blocks) = wrong_blocks(workload, &state.extents);
        Counts { splits: state.splits, merges: state.merges, lost_blocks, stale_blocks, ..self.counts }
    }
}

/// Written blocks that are still unwritten, and the reverse.
fn wrong_blocks(workload: &Workload, extents: &[Extent]) -> (u64, u64) {
    let written_in = |extent: &Extent| -> u64 {
        let (first, end) = (extent.lblk, extent.lblk + u64::from(extent.len));
        let part = |(lblk, len): &(u64, u64)| (lblk + len).min(end).saturating_sub((*lblk).max(first));
        workload.written().iter().map(part).sum()
    };
    extents.iter().fold((0, 0), |(lost, stale), extent| match extent.unwritten {
        true => (lost + written_in(extent), stale),
        false => (lost, stale + u64::from(extent.len) - written_in(extent)),
    })
}

#[cfg(test)]
mod tests {
    use super::super::workload::{Layout, Order};
    use super::*;
    use ext4_replica::Bugs;

    fn dialect(name: &str) -> Dialect {
        Dialect::by_name(name).expect("it is there")
    }

    fn workload(layout: Layout, extent_pages: u32, pages_per_bio: u32) -> Workload {
        Workload { layout, extent_pages, pages_per_bio, order: Order::Forward, worker: Worker::Prompt }
    }

    /// 64 blocks in bios of 16: four io_ends, each converted by itself. The first three conversions leave something behind
    /// them (a split each), the last three find a written neighbour in front (a join each).
    #[test]
    fn four_bios_of_one_extent_are_four_conversions_before_the_patch_and_one_with_it() {
        let four_bios = workload(Layout::Whole, 64, 16);
        for bugs in [None, Some(Bugs::NONE)] {
            let with = |dialect: Dialect| bugs.map_or(dialect, |bugs| dialect.with_bugs(bugs));
            let before = measure(with(dialect("per_bio")), &four_bios);
            let whole = Counts { io_ends: 4, bios: 4, conversions: 4, worker_runs: 4, ..Counts::default() };
            assert_eq!(before, Counts { splits: 3, merges: 3, ..whole });
            let after = measure(with(dialect("seed")), &four_bios);
            assert_eq!(after, Counts { io_ends: 1, bios: 4, conversions: 1, worker_runs: 1, ..Counts::default() });
        }
    }

    /// Without P1: blocks 0 to 15 (one split), 32 to 47 (two), 16 to 31 (none; joined on both sides), 48 to 63 (joined in front).
    #[test]
    fn answered_interleaved_it_is_as_many_splits_and_joins() {
        let interleaved = Workload { order: Order::Interleaved, ..workload(Layout::Whole, 64, 16) };
        let before = measure(dialect("per_bio").with_bugs(Bugs::NONE), &interleaved);
        assert_eq!((before.conversions, before.splits, before.merges), (4, 3, 3));
    }

    #[test]
    fn a_worker_that_comes_late_runs_once_and_converts_as_often() {
        let late = Workload { worker: Worker::Late, ..workload(Layout::Whole, 64, 16) };
        let before = measure(dialect("per_bio"), &late);
        assert_eq!((before.conversions, before.worker_runs, before.splits, before.merges), (4, 1, 3, 3));
    }

    /// What fits into one bio is converted once either way.
    #[test]
    fn with_one_bio_there_is_nothing_to_save() {
        for layout in [Layout::Whole, Layout::Fragments, Layout::Passes] {
            let one = workload(layout, 64, 64);
            assert_eq!(measure(dialect("per_bio"), &one), measure(dialect("seed"), &one), "{layout:?}");
        }
        // Passes: the second, third and fourth each join the one before; the first three each leave a rest.
        let passes = measure(dialect("seed"), &workload(Layout::Passes, 64, 64));
        assert_eq!((passes.conversions, passes.splits, passes.merges), (4, 3, 3));
        // Fragments are extents of their own and stay so.
        let fragments = measure(dialect("seed"), &workload(Layout::Fragments, 64, 64));
        assert_eq!((fragments.conversions, fragments.splits, fragments.merges), (4, 0, 0));
    }

    /// Two pages of 1 KiB blocks, the third of each left out: 0 1 3 and 4 5 7. As posted, one range of six blocks from block
    /// 0 stands for them: 2 was never written and is converted, 7 was written and is not. Without defects there are
    /// three stretches: 0 1, 3 4 5, 7.
    #[test]
    fn across_gaps_the_patch_as_posted_converts_the_wrong_blocks() {
        let gaps = workload(Layout::Gaps, 2, 256);
        let posted = measure(dialect("seed"), &gaps);
        assert_eq!((posted.conversions, posted.lost_blocks, posted.stale_blocks), (1, 1, 1));
        let clean = measure(dialect("seed").with_bugs(Bugs::NONE), &gaps);
        assert_eq!((clean.conversions, clean.lost_blocks, clean.stale_blocks), (3, 0, 0));
    }

    #[test]
    fn no_dialect_without_defects_converts_a_wrong_block() {
        for name in Dialect::names() {
            for layout in Layout::ALL {
                for order in Order::ALL {
                    let workload = Workload { order, ..workload(layout, 16, 4) };
                    let counts = measure(dialect(name).with_bugs(Bugs::NONE), &workload);
                    assert_eq!((counts.lost_blocks, counts.stale_blocks), (0, 0), "{name} {workload:?}");
                }
            }
        }
    }
}
