//! An inode's extent map: what lies where, what is unwritten, and how often it was split and joined.
//!
//! No tree: what its depth would change (credits, index blocks) is not part of the path. Extents are keyed by their first
//! file block and never overlap; what lies between them is a hole.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The longest extent that is written (`EXT_INIT_MAX_LEN`). An unwritten one has a block less.
pub const MAX_LEN: u32 = 32768;

/// One extent, in file system blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extent {
    /// First block in the file.
    pub lblk: u64,
    /// Blocks.
    pub len: u32,
    /// First block on the disk.
    pub pblk: u64,
    /// Allocated, but never written: reads as zeros.
    pub unwritten: bool,
}

impl Extent {
    fn end(&self) -> u64 {
        self.lblk + u64::from(self.len)
    }
}

/// All extents of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct ExtentMap {
    by_lblk: BTreeMap<u64, Extent>,
    /// Of extents so far.
    pub(crate) splits: u64,
    pub(crate) merges: u64,
}

impl ExtentMap {
    /// Takes extents that rise and do not overlap.
    pub(crate) fn new(extents: &[Extent]) -> ExtentMap {
        ExtentMap { by_lblk: extents.iter().map(|extent| (extent.lblk, *extent)).collect(), splits: 0, merges: 0 }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Extent> {
        self.by_lblk.values()
    }

    /// The same, that far away on the disk.
    pub(crate) fn lies(&mut self, further: i64) {
        self.by_lblk.values_mut().for_each(|extent| extent.pblk = extent.pblk.wrapping_add_signed(further));
    }

    /// The extent that holds a block.
    pub(crate) fn at(&self, lblk: u64) -> Option<Extent> {
        self.by_lblk.range(..=lblk).next_back().map(|(_, extent)| *extent).filter(|extent| lblk < extent.end())
    }

    /// Whether any block of `first..end` is unwritten or a hole.
    pub(crate) fn any_unwritten_or_hole(&self, first: u64, end: u64) -> bool {
        let mut next = first;
        while next < end {
            match self.at(next) {
                Some(extent) if !extent.unwritten => next = extent.end(),
                _ => return true,
            }
        }
        false
    }

    /// Makes what is unwritten in `first..end` written, rising. Each piece is then joined to what follows and to what
    /// precedes it, where that can be; nothing else is touched.
    pub(crate) fn convert(&mut self, first: u64, end: u64) {
        let mut next = first;
        while let Some(extent) = self.next_unwritten(next, end) {
            let (from, to) = (extent.lblk.max(first), extent.end().min(end));
            self.cut_out(extent, from, to);
            self.join_at(to);
            self.join_at(from);
            next = to;
        }
    }

    /// The first unwritten extent that has a block in `first..end`.
    fn next_unwritten(&self, first: u64, end: u64) -> Option<Extent> {
        let within = self.at(first).filter(|extent| extent.unwritten && first < end);
        within.or_else(|| {
            let behind = (first < end).then(|| self.by_lblk.range(first..end))?;
            behind.map(|(_, extent)| *extent).find(|extent| extent.unwritten)
        })
    }

    /// Blocks `from..to` of `extent` become a written extent; one split for each side that is left over.
    fn cut_out(&mut self, extent: Extent, from: u64, to: u64) {
        let part = |lblk: u64, end: u64, unwritten| Extent {
            lblk,
            len: (end - lblk) as u32,
            pblk: extent.pblk + (lblk - extent.lblk),
            unwritten,
        };
        self.by_lblk.remove(&extent.lblk);
        for piece in [part(extent.lblk, from, true), part(from, to, false), part(to, extent.end(), true)] {
            if piece.len > 0 {
                self.by_lblk.insert(piece.lblk, piece);
            }
        }
        self.splits += u64::from(extent.lblk < from) + u64::from(to < extent.end());
    }

    /// Joins the two extents that meet at `lblk`, if both are written and adjoin on the disk too.
    fn join_at(&mut self, lblk: u64) {
        let Some(behind) = self.by_lblk.get(&lblk).copied() else { return };
        let Some((_, before)) = self.by_lblk.range_mut(..lblk).next_back() else { return };
        let adjoin = before.end() == lblk && before.pblk + u64::from(before.len) == behind.pblk;
        if adjoin && !before.unwritten && !behind.unwritten && before.len + behind.len <= MAX_LEN {
            before.len += behind.len;
            self.by_lblk.remove(&lblk);
            self.merges += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn extent(lblk: u64, len: u32, pblk: u64, unwritten: bool) -> Extent {
        Extent { lblk, len, pblk, unwritten }
    }

    fn list(map: &ExtentMap) -> Vec<Extent> {
        map.iter().copied().collect()
    }

    #[test]
    fn what_lies_before_and_behind_the_range_is_split_off() {
        let mut map = ExtentMap::new(&[extent(0, 10, 100, true)]);
        map.convert(3, 5);
        assert_eq!(list(&map), [extent(0, 3, 100, true), extent(3, 2, 103, false), extent(5, 5, 105, true)]);
        assert_eq!((map.splits, map.merges), (2, 0));
    }

    #[test]
    fn a_piece_is_joined_to_the_next_and_to_the_previous_extent() {
        let mut map = ExtentMap::new(&[extent(0, 2, 100, false), extent(2, 2, 102, true), extent(4, 2, 104, false)]);
        map.convert(0, 6);
        assert_eq!(list(&map), [extent(0, 6, 100, false)]);
        assert_eq!((map.splits, map.merges), (0, 2));
    }

    #[test]
    fn what_does_not_adjoin_on_the_disk_stays_apart() {
        let mut map = ExtentMap::new(&[extent(0, 2, 100, false), extent(2, 2, 200, true)]);
        map.convert(0, 4);
        assert_eq!(list(&map), [extent(0, 2, 100, false), extent(2, 2, 200, false)]);
    }

    #[test]
    fn an_extent_grows_no_longer_than_32768_blocks() {
        let mut map = ExtentMap::new(&[extent(0, 32767, 0, true), extent(32767, 2, 32767, true)]);
        map.convert(0, 32768);
        let expected = [extent(0, 32768, 0, false), extent(32768, 1, 32768, true)];
        assert_eq!(list(&map), expected);
        map.convert(32768, 32769);
        assert_eq!(list(&map), [expected[0], extent(32768, 1, 32768, false)]);
        assert_eq!((map.splits, map.merges), (1, 1));
    }

    #[test]
    fn holes_stay_holes() {
        let mut map = ExtentMap::new(&[extent(2, 2, 100, true), extent(6, 2, 200, true)]);
        map.convert(0, 100);
        assert_eq!(list(&map), [extent(2, 2, 100, false), extent(6, 2, 200, false)]);
        assert!(map.any_unwritten_or_hole(2, 5) && !map.any_unwritten_or_hole(6, 8));
    }

    /// What a file is, block by block: (block on the disk, unwritten).
    fn blocks(map: &ExtentMap) -> BTreeMap<u64, (u64, bool)> {
        map.iter()
            .flat_map(|extent| {
                (0..u64::from(extent.len)).map(|n| (extent.lblk + n, (extent.pblk + n, extent.unwritten)))
            })
            .collect()
    }

    fn any_map() -> impl Strategy<Value = ExtentMap> {
        prop::collection::vec((0u64..3, 1u32..6, 0u64..2, any::<bool>()), 0..8).prop_map(|pieces| {
            let (mut lblk, mut pblk, mut extents) = (0, 1000, Vec::new());
            for (hole, len, jump, unwritten) in pieces {
                (lblk, pblk) = (lblk + hole, pblk + jump);
                extents.push(extent(lblk, len, pblk, unwritten));
                (lblk, pblk) = (lblk + u64::from(len), pblk + u64::from(len));
            }
            ExtentMap::new(&extents)
        })
    }

    proptest! {
        /// Against a file held block by block: a conversion changes exactly the unwritten blocks of its range, and splits
        /// and merges account for every extent that came or went.
        #[test]
        fn a_conversion_does_what_it_does_to_each_block_alone(mut map in any_map(), first in 0u64..40, len in 0u64..40) {
            let (before, extents) = (blocks(&map), map.iter().count() as u64);
            map.convert(first, first + len);
            for (lblk, (pblk, unwritten)) in before {
                let within = (first..first + len).contains(&lblk);
                prop_assert_eq!(blocks(&map).get(&lblk).copied(), Some((pblk, unwritten && !within)));
            }
            prop_assert_eq!(map.iter().count() as u64 + map.merges, extents + map.splits);
        }
    }
}
