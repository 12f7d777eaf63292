//! What the lockstep driver knows before it starts: which blocks of each folio were written, and in which bio.
//!
//! The kernel marks all buffers of a folio that need writing before it adds the first one to a bio. Which ones need it is
//! no stimulus by itself, but it shows in the bios that follow: every sector of a bio is a block of a folio that the task
//! handed over for the same io_end. So the stimuli are read through once, ahead of the replica.
//!
//! A block is recognised by its place on the disk where it was mapped in this trace, at writeback or by what wrote or read it,
//! and that mapping lives on. One whose place the trace does not tell (it is in the image, and the kernel knew it) is recognised by its turn: a bio takes blocks in the order in which they
//! were handed over, and none of a folio that was left behind before the bio was opened: by the time the next folio is handed
//! over, every block of this one that is written is in a bio (fs/ext4/page-io.c, ext4_bio_write_folio, v6.12).

use crate::state::Segment;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use writeback_events::{BioId, Ino, Stimulus, TaskId};

/// Bytes of a page.
const PAGE_BYTES: u64 = 4096;
/// Order of the largest folio there is on x86-64 (PUD_ORDER).
pub(crate) const MAX_ORDER: u8 = 18;

/// Longest extent there is (EXT_INIT_MAX_LEN): more than that is no extent, and shall not fill the memory.
const MAX_EXTENT_BLOCKS: u32 = 32768;

/// What was written where.
#[derive(Clone, Debug, Default)]
pub(crate) struct Survey {
    /// By ordinal of the folio's hand-over, from 0.
    pub(crate) folios: Vec<Written>,
    pub(crate) bios: BTreeMap<BioId, Shape>,
}

/// What was written of one folio.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// File blocks.
    pub(crate) blocks: BTreeSet<u64>,
    /// Bios they went into.
    pub(crate) bios: BTreeSet<BioId>,
}

/// What a bio writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) segments: Vec<Segment>,
    /// Some of its sectors belong to no folio handed over for its io_end.
    pub(crate) outside: bool,
}

/// File blocks of one page or folio, by its first page.
pub(crate) fn blocks_of(page: u64, order: u8, block_bytes: u64) -> Range<u64> {
    let per_page = (PAGE_BYTES / block_bytes).max(1);
    let pages = 1u64 << order.min(MAX_ORDER);
    page.saturating_mul(per_page)..page.saturating_add(pages).saturating_mul(per_page)
}

impl Survey {
    /// Reads all stimuli of a trace, in their order.
    pub(crate) fn read<'a>(stimuli: impl IntoIterator<Item = &'a Stimulus>, block_bytes: u64) -> Survey {
        let mut surveyor = Surveyor { block_bytes, ..Surveyor::default() };
        for stimulus in stimuli {
            surveyor.take(stimulus);
        }
        surveyor.survey
    }
}

#[derive(Default)]
struct Surveyor {
    survey: Survey,
    block_bytes: u64,
    bios_opened: u32,
    /// File block to disk block.
    mapped: BTreeMap<(Ino, u64), u64>,
    tasks: BTreeMap<TaskId, Hand>,
}

/// What a task has handed over for its current io_end and not yet seen in a bio.
#[derive(Default)]
struct Hand {
    /// The bio, and the folio that was handed over last when it was opened.
    open: Option<(BioId, usize)>,
    /// The folio handed over last.
    last: usize,
    /// By disk block.
    placed: BTreeMap<u64, Block>,
    unplaced: VecDeque<Block>,
}

impl Hand {
    /// Folios before the one at which the bio was opened have no more blocks to be written. Where it was not seen when that was, too
    /// few blocks would be left for the bio, and all stay.
    fn leave_behind(&mut self, opened_at: usize, on_disk: Range<u64>) {
        let known = self.placed.range(on_disk.clone()).count() as u64;
        let wanted = on_disk.end.saturating_sub(on_disk.start).saturating_sub(known);
        let since = self.unplaced.iter().filter(|block| block.folio >= opened_at).count() as u64;
        if since >= wanted {
            self.unplaced.retain(|block| block.folio >= opened_at);
        }
    }
}

#[derive(Clone, Copy)]
struct Block {
    folio: usize,
    ino: Ino,
    page: u64,
    lblk: u64,
}

impl Surveyor {
    fn take(&mut self, stimulus: &Stimulus) {
        match *stimulus {
            Stimulus::InitIoEnd { task, failed: false, .. } | Stimulus::RefDropped { task, .. } => {
                self.tasks.remove(&task);
            }
            Stimulus::ExtentMapped { ino, lblk, pblk, len, .. } | Stimulus::BlocksMapped { ino, lblk, pblk, len } => {
                let blocks = (0..u64::from(len.min(MAX_EXTENT_BLOCKS)))
                    .map(|n| ((ino, lblk.wrapping_add(n)), pblk.wrapping_add(n)));
                self.mapped.extend(blocks);
            }
            Stimulus::FolioSubmitted { task, ino, index, order } => self.hand_over(task, ino, index, order),
            Stimulus::BioOpened { task } => {
                self.bios_opened += 1;
                let hand = self.tasks.entry(task).or_default();
                hand.open = Some((BioId(self.bios_opened), hand.last));
            }
            Stimulus::BioSubmitted { task, sector, bytes, .. } => self.place(task, sector, bytes),
            _ => {}
        }
    }

    fn hand_over(&mut self, task: TaskId, ino: Ino, page: u64, order: u8) {
        let folio = self.survey.folios.len();
        self.survey.folios.push(Written::default());
        let hand = self.tasks.entry(task).or_default();
        hand.last = folio;
        for lblk in blocks_of(page, order, self.block_bytes) {
            let block = Block { folio, ino, page, lblk };
            match self.mapped.get(&(ino, lblk)) {
                Some(pblk) => drop(hand.placed.insert(*pblk, block)),
                None => hand.unplaced.push_back(block),
            }
        }
    }

    fn place(&mut self, task: TaskId, sector: u64, bytes: u64) {
        let hand = self.tasks.entry(task).or_default();
        let Some((bio, opened_at)) = hand.open.take() else { return };
        let sectors_per_block = self.block_bytes / 512;
        let first = sector / sectors_per_block;
        let end = sector.saturating_add(bytes.div_ceil(512)).div_ceil(sectors_per_block);
        hand.leave_behind(opened_at, first..end);
        let mut shape = Shape::default();
        for pblk in first..end {
            let Some(block) = hand.placed.remove(&pblk).or_else(|| hand.unplaced.pop_front()) else {
                shape.outside = true;
                break;
            };
            self.mapped.insert((block.ino, block.lblk), pblk);
            add(&mut shape.segments, block);
            let written = &mut self.survey.folios[block.folio];
            written.blocks.insert(block.lblk);
            written.bios.insert(bio);
        }
        self.survey.bios.insert(bio, shape);
    }
}

/// Lengthens the last segment, or begins one with the next folio.
fn add(segments: &mut Vec<Segment>, block: Block) {
    match segments.last_mut() {
        Some(last) if last.page == block.page => last.blocks.push(block.lblk),
        _ => segments.push(Segment { page: block.page, blocks: vec![block.lblk] }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T: TaskId = TaskId(1);
    const INO: Ino = Ino(12);

    fn folio(index: u64) -> Stimulus {
        Stimulus::FolioSubmitted { task: T, ino: INO, index, order: 0 }
    }

    fn bio(sector: u64, bytes: u64) -> [Stimulus; 2] {
        [Stimulus::BioOpened { task: T }, Stimulus::BioSubmitted { task: T, sector, bytes, sync: true }]
    }

    fn mapped(lblk: u64, pblk: u64, len: u32) -> Stimulus {
        Stimulus::ExtentMapped { task: T, ino: INO, lblk, pblk, len, unwritten: true }
    }

    fn init() -> Stimulus {
        Stimulus::InitIoEnd { task: T, ino: INO, failed: false }
    }

    fn segment(page: u64, blocks: &[u64]) -> Segment {
        Segment { page, blocks: blocks.to_vec() }
    }

    #[test]
    fn a_mapped_block_is_found_by_its_place_on_the_disk() {
        let [opened, submitted] = bio(101 * 8, 4096);
        let stimuli = [init(), mapped(4, 100, 2), folio(4), folio(5), opened, submitted];
        let survey = Survey::read(&stimuli, 4096);
        assert_eq!(survey.bios[&BioId(1)], Shape { segments: vec![segment(5, &[5])], outside: false });
        assert_eq!(survey.folios[0].blocks.len(), 0);
    }

    #[test]
    fn a_mapping_lives_on_and_one_that_is_not_known_is_learnt() {
        let [opened, submitted] = bio(800, 8192);
        let [again, elsewhere] = bio(816, 4096);
        let stimuli = [init(), folio(7), folio(8), opened, submitted, init(), folio(8), again, elsewhere];
        let survey = Survey::read(&stimuli, 4096);
        assert_eq!(survey.bios[&BioId(1)].segments, [segment(7, &[7]), segment(8, &[8])]);
        assert!(survey.bios[&BioId(2)].outside, "page 8 lies at sector 808");
    }

    /// nodelalloc: a hole is punched, and the write that fills it gets another block.
    #[test]
    fn a_block_that_a_write_has_mapped_elsewhere_is_found_there() {
        let [opened, submitted] = bio(800, 4096);
        let [again, elsewhere] = bio(4000, 4096);
        let remapped = Stimulus::BlocksMapped { ino: INO, lblk: 7, pblk: 500, len: 1 };
        let stimuli = [init(), folio(7), opened, submitted, remapped, init(), folio(7), again, elsewhere];
        let survey = Survey::read(&stimuli, 4096);
        assert_eq!(survey.bios[&BioId(2)], Shape { segments: vec![segment(7, &[7])], outside: false });
    }

    #[test]
    fn blocks_smaller_than_a_page_are_told_apart() {
        let [opened, submitted] = bio(200, 1024);
        let [opened_2, submitted_2] = bio(204, 1024);
        let stimuli = [init(), mapped(0, 100, 4), folio(0), opened, submitted, opened_2, submitted_2];
        let survey = Survey::read(&stimuli, 1024);
        assert_eq!(survey.folios[0].blocks, BTreeSet::from([0, 2]));
        assert_eq!(survey.folios[0].bios, BTreeSet::from([BioId(1), BioId(2)]));
        assert_eq!(survey.bios[&BioId(2)].segments, [segment(0, &[2])]);
    }

    /// Overwrites of one block in each page, where direct I/O or the image has mapped them.
    #[test]
    fn a_block_whose_place_is_not_known_is_of_the_folio_at_which_its_bio_was_opened() {
        let [opened, submitted] = bio(200, 1024);
        let [opened_2, submitted_2] = bio(208, 1024);
        let stimuli = [init(), folio(1), opened, folio(2), submitted, opened_2, submitted_2];
        let survey = Survey::read(&stimuli, 1024);
        assert_eq!(survey.bios[&BioId(1)].segments, [segment(1, &[4])]);
        assert_eq!(survey.bios[&BioId(2)].segments, [segment(2, &[8])]);
    }

    #[test]
    fn a_bio_longer_than_what_was_handed_over_reaches_outside() {
        let [opened, submitted] = bio(800, 8192);
        let survey = Survey::read(&[init(), mapped(0, 100, 1), folio(0), opened, submitted], 4096);
        assert_eq!(survey.bios[&BioId(1)], Shape { segments: vec![segment(0, &[0])], outside: true });
    }
}
