//! Sets of sectors as half-open ranges: rising, apart, never touching.

/// Which sectors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// The union of these ranges.
    pub fn of(ranges: impl IntoIterator<Item = (u64, u64)>) -> Ranges {
        let mut set = Ranges::default();
        ranges.into_iter().for_each(|(start, end)| set.add(start, end));
        set
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn list(&self) -> &[(u64, u64)] {
        &self.0
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds `start..end`.
    pub fn add(&mut self, mut start: u64, mut end: u64) {
        if start >= end {
            return;
        }
        let (first, after) = (self.0.partition_point(|r| r.1 < start), self.0.partition_point(|r| r.0 <= end));
        if first < after {
            start = start.min(self.0[first].0);
            end = end.max(self.0[after - 1].1);
        }
        self.0.splice(first..after, [(start, end)]);
    }

    /// Takes `start..end` out.
    pub fn remove(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let (first, after) = (self.0.partition_point(|r| r.1 <= start), self.0.partition_point(|r| r.0 < end));
        let kept: Vec<(u64, u64)> = self.0[first..after]
            .iter()
            .flat_map(|r| [(r.0, r.1.min(start)), (r.0.max(end), r.1)])
            .filter(|r| r.0 < r.1)
            .collect();
        self.0.splice(first..after, kept);
    }

    /// Whether a sector of `start..end` is in it.
    pub fn meet(&self, start: u64, end: u64) -> bool {
        let first = self.0.partition_point(|r| r.1 <= start);
        start < end && self.0.get(first).is_some_and(|r| r.0 < end)
    }

    /// The part of `start..end` that is in it.
    pub fn within(&self, start: u64, end: u64) -> Vec<(u64, u64)> {
        within(&self.0, start, end)
    }
}

/// The part of `start..end` that lies in rising ranges.
pub fn within(ranges: &[(u64, u64)], start: u64, end: u64) -> Vec<(u64, u64)> {
    let first = ranges.partition_point(|r| r.1 <= start);
    let meeting = ranges[first..].iter().take_while(|r| r.0 < end);
    meeting.map(|r| (r.0.max(start), r.1.min(end))).filter(|r| r.0 < r.1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_are_the_set_of_their_sectors(steps in prop::collection::vec((any::<bool>(), 0..40u64, 0..12u64), 0..30)) {
            let (mut ranges, mut sectors) = (Ranges::default(), std::collections::BTreeSet::new());
            for (add, start, length) in steps {
                let end = start + length;
                if add {
                    ranges.add(start, end);
                    sectors.extend(start..end);
                } else {
                    ranges.remove(start, end);
                    sectors.retain(|s| !(start..end).contains(s));
                }
                prop_assert!(ranges.list().iter().all(|r| r.0 < r.1));
                prop_assert!(ranges.list().windows(2).all(|pair| pair[0].1 < pair[1].0));
                let listed: std::collections::BTreeSet<u64> = ranges.list().iter().flat_map(|r| r.0..r.1).collect();
                prop_assert_eq!(&listed, &sectors);
                prop_assert_eq!(ranges.meet(start, end), sectors.range(start..end).next().is_some());
                let inside: Vec<u64> = ranges.within(start, end).iter().flat_map(|r| r.0..r.1).collect();
                prop_assert_eq!(inside, sectors.range(start..end).copied().collect::<Vec<_>>());
            }
        }
    }
}
