//! A volatile write cache: writes that are complete for the guest and that no flush has made durable.
//!
//! It holds content only; `media.rs` decides when it is written to the image. Three orders matter and are kept apart:
//! what the guest reads is the *latest* write to each byte; what reaches the image does so in the order in which it came
//! here (so that overlapping writes end as they should); and a crash loses writes by the order in which they were
//! *completed*. The unit that survives a crash or does not is a whole request, named by its `seq`.

use std::collections::BTreeMap;

use crate::disk::Zeroing;

/// What an entry costs beside its data.
const ENTRY_BYTES: u64 = 128;

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// These bytes.
    Data(Box<[u8]>),
    /// So many zeroes: a discard or write_zeroes.
    Zeroes {
        /// How many.
        bytes: u64,
        /// What becomes of the space under them.
        zeroing: Zeroing,
    },
}

/// A stretch of the disk as one request left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The request's place in the arrival order.
    pub seq: u64,
    /// First byte.
    pub offset: u64,
    /// What it holds.
    pub content: Content,
}

impl Entry {
    /// How long it is.
    pub fn bytes(&self) -> u64 {
        match &self.content {
            Content::Data(data) => data.len() as u64,
            Content::Zeroes { bytes, .. } => *bytes,
        }
    }

    /// The byte after its last.
    pub fn end(&self) -> u64 {
        self.offset + self.bytes()
    }

    /// Copies out its bytes from disk offset `at` on, which lies in it with all of `buf`.
    pub fn copy_to(&self, at: u64, buf: &mut [u8]) {
        match &self.content {
            Content::Data(data) => {
                let start = (at - self.offset) as usize;
                buf.copy_from_slice(&data[start..start + buf.len()]);
            }
            Content::Zeroes { .. } => buf.fill(0),
        }
    }

    fn cost(&self) -> u64 {
        ENTRY_BYTES
            + match &self.content {
                Content::Data(data) => data.len() as u64,
                Content::Zeroes { .. } => 0,
            }
    }
}

/// A request that is in the cache, as far as it has not been written to the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// The request.
    pub seq: u64,
    /// First sector it touches.
    pub sector: u64,
    /// The sector after the last it touches.
    pub end_sector: u64,
    /// Whether the guest was told that it is complete.
    pub completed: bool,
}

/// The cache.
#[derive(Debug, Default)]
pub struct Cache {
    /// In the order in which they came.
    entries: BTreeMap<u64, Entry>,
    next: u64,
    /// First byte → byte after the last, and the entry to read there. No two overlap.
    visible: BTreeMap<u64, (u64, u64)>,
    /// How many entries each request has here.
    held: BTreeMap<u64, u32>,
    /// In the order of completion; may name requests that have left.
    completed: Vec<u64>,
    cost: u64,
}

impl Cache {
    /// Takes in what a request writes.
    pub fn insert(&mut self, entry: Entry) {
        if entry.bytes() == 0 {
            return;
        }
        let number = self.next;
        self.next += 1;
        self.cost += entry.cost();
        *self.held.entry(entry.seq).or_default() += 1;
        self.cover(entry.offset, entry.end(), number);
        self.entries.insert(number, entry);
    }

    /// The guest is about to be told that this request is complete.
    pub fn complete(&mut self, seq: u64) {
        if !self.held.contains_key(&seq) {
            return;
        }
        if self.completed.len() > 1024 + 2 * self.held.len() {
            self.completed.retain(|seq| self.held.contains_key(seq));
        }
        self.completed.push(seq);
    }

    /// Lays what is here over what was read from the image.
    pub fn lay_over(&self, offset: u64, buf: &mut [u8]) {
        let end = offset + buf.len() as u64;
        let before = self.visible.range(..offset).next_back();
        for (start, (stop, number)) in before.into_iter().chain(self.visible.range(offset..end)) {
            let (from, to) = (offset.max(*start), end.min(*stop));
            if from < to {
                self.entries[number].copy_to(from, &mut buf[(from - offset) as usize..(to - offset) as usize]);
            }
        }
    }

    /// Takes out the entry that came first. Its bytes are to be on the image before anybody reads again.
    pub fn take_first(&mut self) -> Option<Entry> {
        let (number, entry) = self.entries.pop_first()?;
        let mut shown: Vec<u64> = self.visible.range(entry.offset..entry.end()).map(|(start, _)| *start).collect();
        shown.retain(|start| self.visible[start].1 == number);
        for start in shown {
            self.visible.remove(&start);
        }
        self.cost -= entry.cost();
        if let Some(left) = self.held.get_mut(&entry.seq) {
            *left -= 1;
            if *left == 0 {
                self.held.remove(&entry.seq);
            }
        }
        if self.entries.is_empty() {
            self.completed.clear();
        }
        Some(entry)
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        let next = self.next;
        *self = Cache { next, ..Cache::default() };
    }

    /// Everything, in the order in which it came.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// The requests in it: the completed ones in the order of their completion, then those that are not yet answered.
    pub fn units(&self) -> Vec<Unit> {
        let mut spans: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
        for entry in self.entries.values() {
            let (first, end) = (entry.offset / SECTOR, entry.end().div_ceil(SECTOR));
            let span = spans.entry(entry.seq).or_insert((first, end));
            *span = (span.0.min(first), span.1.max(end));
        }
        let unit = |seq: u64, (sector, end_sector): (u64, u64), completed| Unit { seq, sector, end_sector, completed };
        let mut units = Vec::new();
        for seq in &self.completed {
            units.extend(spans.remove(seq).map(|span| unit(*seq, span, true)));
        }
        units.extend(spans.into_iter().map(|(seq, span)| unit(seq, span, false)));
        units
    }

    /// Memory it takes, about.
    pub fn cost_bytes(&self) -> u64 {
        self.cost
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// From now on, `start..end` reads as this entry.
    fn cover(&mut self, start: u64, end: u64, number: u64) {
        if let Some((&first, &(stop, under))) = self.visible.range(..start).next_back()
            && stop > start
        {
            self.visible.insert(first, (start, under));
            if stop > end {
                self.visible.insert(end, (stop, under));
            }
        }
        let inside: Vec<(u64, (u64, u64))> = self.visible.range(start..end).map(|(at, piece)| (*at, *piece)).collect();
        for (at, (stop, under)) in inside {
            self.visible.remove(&at);
            if stop > end {
                self.visible.insert(end, (stop, under));
            }
        }
        self.visible.insert(start, (end, number));
    }
}

const SECTOR: u64 = fault_injection::SECTOR_BYTES;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn data(seq: u64, offset: u64, bytes: u64) -> Entry {
        Entry { seq, offset, content: Content::Data(vec![seq as u8; bytes as usize].into()) }
    }

    fn seen(cache: &Cache, bytes: usize) -> Vec<u8> {
        let mut buf = vec![0xff; bytes];
        cache.lay_over(0, &mut buf);
        buf
    }

    #[test]
    fn reads_see_the_latest_write_to_each_byte() {
        let mut cache = Cache::default();
        cache.insert(data(1, 0, 6));
        cache.insert(data(2, 2, 2));
        cache.insert(Entry { seq: 3, offset: 5, content: Content::Zeroes { bytes: 2, zeroing: Zeroing::Keep } });
        assert_eq!(seen(&cache, 8), [1, 1, 2, 2, 1, 0, 0, 0xff]);
    }

    #[test]
    fn units_stand_in_the_order_of_completion_and_the_unanswered_last() {
        let mut cache = Cache::default();
        for seq in [4, 5, 6] {
            cache.insert(data(seq, seq * 512, 512));
        }
        cache.complete(6);
        cache.complete(99);
        cache.complete(4);
        let units: Vec<(u64, bool)> = cache.units().iter().map(|unit| (unit.seq, unit.completed)).collect();
        assert_eq!(units, [(6, true), (4, true), (5, false)]);
        assert_eq!((cache.units()[0].sector, cache.units()[0].end_sector), (6, 7));
    }

    #[test]
    fn a_request_that_left_by_halves_is_still_a_unit_and_one_that_left_is_none() {
        let mut cache = Cache::default();
        cache.insert(data(1, 0, 512));
        cache.insert(data(1, 512, 512));
        cache.insert(data(2, 0, 512));
        cache.complete(1);
        cache.take_first();
        assert_eq!(cache.units().iter().map(|unit| unit.seq).collect::<Vec<_>>(), [1, 2]);
        cache.take_first();
        assert_eq!(cache.units().iter().map(|unit| unit.seq).collect::<Vec<_>>(), [2]);
    }

    proptest! {
        /// Against the dumbest model there is: an array of bytes for the image, one for what the guest sees.
        #[test]
        fn the_cache_over_the_image_is_always_what_was_written(
            steps in prop::collection::vec((0u8..4, 0u64..60, 1u64..20), 1..60)
        ) {
            let (mut image, mut seen) = (vec![0xffu8; 80], vec![0xffu8; 80]);
            let mut cache = Cache::default();
            for (seq, (what, offset, bytes)) in (1..).zip(steps) {
                let range = offset as usize..(offset + bytes) as usize;
                match what {
                    0 | 1 => {
                        cache.insert(data(seq, offset, bytes));
                        seen[range].fill(seq as u8);
                    }
                    2 => {
                        let zeroing = Zeroing::Deallocate;
                        cache.insert(Entry { seq, offset, content: Content::Zeroes { bytes, zeroing } });
                        seen[range].fill(0);
                    }
                    _ => if let Some(entry) = cache.take_first() {
                        let at = entry.offset as usize..entry.end() as usize;
                        entry.copy_to(entry.offset, &mut image[at]);
                    }
                }
                let mut read = image.clone();
                cache.lay_over(0, &mut read);
                prop_assert_eq!(&read, &seen);
                let (from, to) = (offset as usize, (offset + bytes) as usize);
                let mut part = image[from..to].to_vec();
                cache.lay_over(offset, &mut part);
                prop_assert_eq!(&part, &seen[from..to]);
            }
            while let Some(entry) = cache.take_first() {
                let at = entry.offset as usize..entry.end() as usize;
                entry.copy_to(entry.offset, &mut image[at]);
            }
            prop_assert_eq!(image, seen);
            prop_assert_eq!((cache.cost_bytes(), cache.units().len()), (0, 0));
        }
    }
}
