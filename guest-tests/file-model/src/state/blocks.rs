//! Which blocks a file must have, may have, and must have written.
//!
//! A history like that of the bytes, and coarser: what reserves, writes and frees. Only looked at where nothing failed.

use std::ops::Range;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Written,
    Reserved,
    Freed,
}

#[derive(Clone, Debug)]
struct Event {
    bytes: Range<u64>,
    what: What,
    /// It happened; else it may have.
    done: bool,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Blocks(Vec<Event>);

/// What is wanted of one block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// It must be mapped.
    pub mapped: bool,
    /// It may be mapped.
    pub may_be_mapped: bool,
    /// It must not be unwritten.
    pub written: bool,
}

impl Blocks {
    /// Data was put there, or may have been.
    pub fn written(&mut self, bytes: &Range<u64>, done: bool) {
        self.add(bytes, What::Written, done);
    }

    /// Space was reserved, or may have been.
    pub fn reserved(&mut self, bytes: &Range<u64>, done: bool) {
        self.add(bytes, What::Reserved, done);
    }

    /// Blocks that lie wholly in there were given back, or may have been.
    pub fn freed(&mut self, bytes: &Range<u64>, done: bool) {
        self.add(bytes, What::Freed, done);
    }

    /// Blocks at which what is wanted changes, ascending, each with what is wanted from there on.
    pub fn wanted(&self, block_bytes: u64, cluster_bytes: u64) -> Vec<(u64, Wanted)> {
        let mut edges = vec![0];
        for event in &self.0 {
            for at in [event.bytes.start, event.bytes.end] {
                edges.extend([at / block_bytes, at.div_ceil(block_bytes)]);
                edges.extend(
                    [at / cluster_bytes, at.div_ceil(cluster_bytes)].map(|n| n * (cluster_bytes / block_bytes)),
                );
            }
        }
        edges.sort_unstable();
        edges.dedup();
        edges.into_iter().map(|block| (block, self.of(block, block_bytes, cluster_bytes))).collect()
    }

    fn of(&self, block: u64, block_bytes: u64, cluster_bytes: u64) -> Wanted {
        let start = block.saturating_mul(block_bytes);
        let bytes = start..start.saturating_add(block_bytes);
        let cluster = start - start % cluster_bytes;
        let cluster = cluster..cluster.saturating_add(cluster_bytes);
        let touches =
            |event: &Event, bytes: &Range<u64>| event.bytes.start < bytes.end && bytes.start < event.bytes.end;
        let mut wanted = Wanted::default();
        for event in &self.0 {
            match event.what {
                What::Freed if event.bytes.start <= bytes.start && bytes.end <= event.bytes.end => {
                    wanted = Wanted { may_be_mapped: wanted.may_be_mapped && !event.done, ..Wanted::default() };
                }
                What::Freed => {}
                what => {
                    wanted.may_be_mapped |= touches(event, &cluster);
                    let done = event.done && touches(event, &bytes);
                    wanted.mapped |= done;
                    wanted.written |= done && what == What::Written;
                }
            }
        }
        wanted
    }

    fn add(&mut self, bytes: &Range<u64>, what: What, done: bool) {
        if !bytes.is_empty() {
            self.0.push(Event { bytes: bytes.clone(), what, done });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(mapped: bool, may_be_mapped: bool, written: bool) -> Wanted {
        Wanted { mapped, may_be_mapped, written }
    }

    #[test]
    fn what_is_reserved_written_and_freed_adds_up_block_by_block() {
        let mut blocks = Blocks::default();
        blocks.reserved(&(0..16384), true);
        blocks.written(&(5000..5001), true);
        blocks.freed(&(8000..12288), true);
        blocks.freed(&(40960..u64::MAX), true);
        let expected = [
            (0, wanted(true, true, false)),
            (1, wanted(true, true, true)),
            (2, wanted(false, false, false)),
            (3, wanted(true, true, false)),
            (4, wanted(false, false, false)),
        ];
        let found = blocks.wanted(4096, 4096);
        for (block, wanted) in expected {
            let at = found.iter().rev().find(|(from, _)| *from <= block).expect("it begins at 0");
            assert_eq!(at.1, wanted, "block {block}: {found:?}");
        }
    }

    #[test]
    fn what_may_have_happened_is_neither_wanted_nor_forbidden() {
        let mut blocks = Blocks::default();
        blocks.written(&(0..4096), false);
        blocks.reserved(&(4096..8192), true);
        blocks.freed(&(4096..8192), false);
        let found = blocks.wanted(4096, 4096);
        assert_eq!(found[..2], [(0, wanted(false, true, false)), (1, wanted(false, true, false))]);
    }
}
