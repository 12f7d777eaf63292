//! A set of sectors that answers at once whether a request meets it.
//!
//! The stretch from the first range to the last is cut into equal cells, about one for each range, and a directory names
//! the first range that reaches into or past each cell. A request outside that stretch costs two comparisons, one inside it
//! a look at the directory and at the ranges of one cell. However the ranges are spread, it is never more than a binary search.

use crate::ranges::Ranges;

/// See the top of the file.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    /// Rising, apart.
    ranges: Vec<(u64, u64)>,
    first_sector: u64,
    /// Behind the last range.
    end_sector: u64,
    /// A cell is this power of two of sectors.
    cell_bits: u32,
    /// For each cell the first range that ends behind the cell's begin; one more for the end.
    cells: Vec<u32>,
}

impl Directory {
    pub fn new(ranges: &Ranges) -> Directory {
        let ranges = ranges.list().to_vec();
        let (Some(first), Some(last)) = (ranges.first(), ranges.last()) else { return Directory::default() };
        let (first_sector, end_sector) = (first.0, last.1);
        let cell_sectors = (end_sector - first_sector) / ranges.len() as u64;
        let cell_bits = cell_sectors.max(1).ilog2();
        let count = ((end_sector - 1 - first_sector) >> cell_bits) + 1;
        let first_in = |cell: u64| {
            let begin = first_sector + (cell << cell_bits);
            ranges.partition_point(|range| range.1 <= begin) as u32
        };
        let cells = (0..count).map(first_in).chain([ranges.len() as u32 - 1]).collect();
        Directory { ranges, first_sector, end_sector, cell_bits, cells }
    }

    /// Whether a sector of `start..end` is in it; `start < end`.
    #[inline]
    pub fn meets(&self, start: u64, end: u64) -> bool {
        if end <= self.first_sector || start >= self.end_sector {
            return false;
        }
        let cell = (start.saturating_sub(self.first_sector) >> self.cell_bits) as usize;
        // The range that the next cell begins with may be the one asked for: it may begin in this cell.
        let (from, to) = (self.cells[cell] as usize, self.cells[cell + 1] as usize);
        let candidates = &self.ranges[from..=to];
        let at = candidates.partition_point(|range| range.1 <= start);
        candidates.get(at).is_some_and(|range| range.0 < end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_says_what_the_ranges_say(
            ranges in prop::collection::vec((0..1u64 << 14, 1..40u64), 0..60),
            far in prop::option::of(1u64 << 40..1 << 62),
            asked in prop::collection::vec((0..1u64 << 14, 1..200u64), 1..60),
        ) {
            let placed = ranges.iter().map(|(start, sectors)| (*start, start + sectors));
            let ranges = Ranges::of(placed.chain(far.map(|start| (start, start + 8))));
            let directory = Directory::new(&ranges);
            let edges = ranges.list().iter().flat_map(|r| [(r.0.saturating_sub(1), 1), (r.0, 1), (r.1 - 1, 1), (r.1, 1)]);
            let ends = [(u64::MAX - 1, 1), (0, u64::MAX)];
            for (start, sectors) in asked.iter().copied().chain(edges).chain(ends) {
                prop_assert_eq!(directory.meets(start, start + sectors), ranges.meet(start, start + sectors), "{}+{}", start, sectors);
            }
        }
    }
}
