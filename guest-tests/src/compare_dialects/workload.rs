//! The workloads on which two dialects are compared: extent size × pages per bio × layout × completion order × worker.
//!
//! Each is a list of replica calls that depends on nothing but the workload, save for the order of answers: which bios there
//! are is for the dialect to say.

use ext4_replica::Extent;
use serde::Serialize;

/// Pages of 4096 bytes.
pub const PAGE_BYTES: u64 = 4096;
/// First disk block of the file.
const FIRST_PBLK: u64 = 10_000;

/// One workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Workload {
    /// How the file's blocks lie and which of them are written.
    pub layout: Layout,
    /// Pages of the file, all preallocated.
    pub extent_pages: u32,
    /// Segments that a bio has room for.
    pub pages_per_bio: u32,
    /// In which order the device answers.
    pub order: Order,
    /// When the worker runs.
    pub worker: Worker,
}

/// How the file's blocks lie and which of them are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// One unwritten extent, written whole in one pass.
    Whole,
    /// Four extents that do not adjoin on the disk, each written in a pass of its own.
    Fragments,
    /// One extent, written in four passes.
    Passes,
    /// One extent; of each eight pages the first four are written, a pass each.
    Stripes,
    /// One extent of 1 KiB blocks; of each page the third block is left out. One pass.
    Gaps,
}

/// In which order the device answers the bios, all of which are in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// As they were submitted.
    Forward,
    /// The other way round.
    Backward,
    /// Every second one, then those between.
    Interleaved,
}

/// When the worker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Worker {
    /// Behind each answer.
    Prompt,
    /// Once, behind the last answer.
    Late,
}

impl Layout {
    /// All of them.
    pub const ALL: [Layout; 5] = [Layout::Whole, Layout::Fragments, Layout::Passes, Layout::Stripes, Layout::Gaps];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Layout::Whole => "whole",
            Layout::Fragments => "fragments",
            Layout::Passes => "passes",
            Layout::Stripes => "stripes",
            Layout::Gaps => "gaps",
        }
    }

    /// What it is, in a sentence.
    pub fn meaning(self) -> &'static str {
        match self {
            Layout::Whole => "one extent, written whole in one pass",
            Layout::Fragments => "four extents that do not adjoin on the disk, a pass each",
            Layout::Passes => "one extent, written in four passes",
            Layout::Stripes => "one extent, four of each eight pages written, a pass per stripe",
            Layout::Gaps => "one extent of 1 KiB blocks, the third of each page left out, one pass",
        }
    }
}

impl Order {
    /// All of them.
    pub const ALL: [Order; 3] = [Order::Forward, Order::Backward, Order::Interleaved];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Order::Forward => "forward",
            Order::Backward => "backward",
            Order::Interleaved => "interleaved",
        }
    }

    /// `bios` in this order.
    pub fn of<T: Copy>(self, bios: &[T]) -> Vec<T> {
        match self {
            Order::Forward => bios.to_vec(),
            Order::Backward => bios.iter().rev().copied().collect(),
            Order::Interleaved => {
                let every_second = |from| bios.iter().skip(from).step_by(2).copied();
                every_second(0).chain(every_second(1)).collect()
            }
        }
    }
}

impl Worker {
    /// Both.
    pub const ALL: [Worker; 2] = [Worker::Prompt, Worker::Late];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Worker::Prompt => "prompt",
            Worker::Late => "late",
        }
    }
}

/// Sizes of the file, in pages: 64 KiB to 4 MiB.
pub const EXTENT_PAGES: [u32; 4] = [16, 64, 256, 1024];
/// Room of a bio, in pages.
pub const PAGES_PER_BIO: [u32; 4] = [4, 16, 64, 256];

impl Workload {
    /// All workloads, in the order of the table.
    pub fn all() -> Vec<Workload> {
        let mut all = Vec::new();
        for layout in Layout::ALL {
            for extent_pages in EXTENT_PAGES {
                for pages_per_bio in PAGES_PER_BIO {
                    for order in Order::ALL {
                        for worker in Worker::ALL {
                            all.push(Workload { layout, extent_pages, pages_per_bio, order, worker });
                        }
                    }
                }
            }
        }
        all
    }

    /// All of it but what happens once it is written.
    pub(super) fn writes(&self) -> (Layout, u32, u32) {
        (self.layout, self.extent_pages, self.pages_per_bio)
    }

    /// log2 of the block's bytes.
    pub fn block_bits(&self) -> u32 {
        if self.layout == Layout::Gaps { 10 } else { 12 }
    }

    /// Bytes of the file.
    pub fn file_bytes(&self) -> u64 {
        u64::from(self.extent_pages) * PAGE_BYTES
    }

    /// The file's extents, all unwritten.
    pub fn extents(&self) -> Vec<Extent> {
        let blocks = self.file_bytes() >> self.block_bits();
        let count = if self.layout == Layout::Fragments { 4 } else { 1 };
        let len = blocks / count;
        // Twice as far apart as they are long: none adjoins the next.
        let extent = |n| Extent { lblk: n * len, len: len as u32, pblk: FIRST_PBLK + 2 * n * len, unwritten: true };
        (0..count).map(extent).collect()
    }

    /// Stretches of blocks that are written, as first block and count.
    pub fn written(&self) -> Vec<(u64, u64)> {
        let pages = u64::from(self.extent_pages);
        match self.layout {
            Layout::Whole | Layout::Fragments | Layout::Passes => vec![(0, pages)],
            Layout::Stripes => (0..pages / 8).map(|stripe| (8 * stripe, 4)).collect(),
            Layout::Gaps => (0..pages).flat_map(|page| [(4 * page, 2), (4 * page + 3, 1)]).collect(),
        }
    }

    /// Ranges of pages that are handed over together, as first and next page.
    pub fn passes(&self) -> Vec<(u64, u64)> {
        let pages = u64::from(self.extent_pages);
        match self.layout {
            Layout::Whole | Layout::Gaps => vec![(0, pages)],
            Layout::Fragments | Layout::Passes => (0..4).map(|n| (n * pages / 4, (n + 1) * pages / 4)).collect(),
            Layout::Stripes => (0..pages / 8).map(|stripe| (8 * stripe, 8 * stripe + 4)).collect(),
        }
    }

    /// Bytes that are written.
    pub fn written_bytes(&self) -> u64 {
        self.written().iter().map(|(_, len)| len << self.block_bits()).sum()
    }

    /// Whether every pass fits into one bio. Then there is nothing for the patch to join.
    pub fn one_bio_per_pass(&self) -> bool {
        let longest = self.passes().iter().map(|(first, next)| next - first).max().unwrap_or(0);
        self.layout != Layout::Gaps && longest <= u64::from(self.pages_per_bio)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(layout: Layout) -> Workload {
        Workload { layout, extent_pages: 16, pages_per_bio: 4, order: Order::Forward, worker: Worker::Late }
    }

    #[test]
    fn every_second_answer_comes_before_those_between() {
        assert_eq!(Order::Interleaved.of(&[1, 2, 3, 4, 5]), [1, 3, 5, 2, 4]);
        assert_eq!(Order::Backward.of(&[1, 2, 3]), [3, 2, 1]);
    }

    #[test]
    fn each_layout_writes_what_it_says() {
        let bytes = Layout::ALL.map(|layout| workload(layout).written_bytes());
        assert_eq!(bytes, [65536, 65536, 65536, 32768, 49152]);
        let passes = Layout::ALL.map(|layout| workload(layout).passes().len());
        assert_eq!(passes, [1, 4, 4, 2, 1]);
    }

    #[test]
    fn fragments_do_not_adjoin_on_the_disk() {
        let extents = workload(Layout::Fragments).extents();
        assert_eq!(extents.len(), 4);
        for pair in extents.windows(2) {
            assert_eq!(pair[0].lblk + u64::from(pair[0].len), pair[1].lblk);
            assert!(pair[0].pblk + u64::from(pair[0].len) < pair[1].pblk);
        }
    }
}
