//! Several writers at once: what each of them must take into account of the others.
//!
//! All that a stretch does is known before it is followed. Whoever is followed has a *turn*: what it makes has no order to what the
//! others make, its promises cover what came before it for sure, and where others change a file's size, it may be any of those that are
//! possible meanwhile. How long the file is afterwards follows from all orders there can be.
//!
//! What the kernel does under one lock is one step here: a call that changes the size (`inode_lock` in fs/ext4/file.c and in
//! fs/open.c, do_truncate, v5.10 to v7.2). Bytes need no such thing: each may be what any of those that wrote it left.

use super::{FOLIO_BYTES, Promises, State, is_direct, range};
use crate::file::{By, Others};
use crate::ops::OpLine;
use crate::sizes::Sizes;
use guest_init::job::{Action, Errno};
use guest_init::writers::Writer;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// More orders than these are not gone through; then any size between the smallest and the largest is possible.
const MOST_PLACES: usize = 5_000;

/// See the module.
pub struct Stretch<'a> {
    lines: &'a [OpLine],
    files: BTreeMap<usize, Shared>,
}

/// A file that a stretch works on.
#[derive(Default)]
struct Shared {
    writers: BTreeMap<Writer, Part>,
    before: Sizes,
}

/// What one writer does to it.
#[derive(Default)]
struct Part {
    sizes: Vec<Resize>,
    /// A change of size of which it is not known what came of it.
    sizes_unsure: bool,
    mapped: Vec<Range<u64>>,
    buffered: Vec<Range<u64>>,
    freed: Vec<Range<u64>>,
    given: Vec<Range<u64>>,
    was_told: bool,
}

#[derive(Clone, Copy)]
enum Resize {
    /// At least so long.
    Grow(u64),
    /// Exactly so long.
    Set(u64),
}

impl Resize {
    fn of(self, size: u64) -> u64 {
        match self {
            Resize::Grow(to) => size.max(to),
            Resize::Set(to) => to,
        }
    }

    fn to(self) -> u64 {
        let (Resize::Grow(to) | Resize::Set(to)) = self;
        to
    }
}

impl State {
    /// Takes the effects of operations that were done at once. `promises`: of each.
    pub fn follow_together(&mut self, lines: &[OpLine], promises: impl Fn(&OpLine) -> Promises) {
        let stretch = Stretch::read(self, lines);
        for line in lines {
            self.turn(&stretch, line.args.writer);
            self.follow(line, promises(line));
        }
        self.turn(&stretch, None);
        stretch.end(self);
    }

    /// What one of them finds before it begins: all that the others do, each of it perhaps later.
    pub fn beside(&self, stretch: &Stretch<'_>, writer: Option<Writer>) -> State {
        let mut state = self.clone();
        for line in stretch.lines.iter().filter(|line| line.args.writer != writer) {
            state.turn(stretch, line.args.writer);
            state.follow(line, Promises { returned: false, sync: false });
        }
        state.turn(stretch, writer);
        state
    }

    /// From here on this one is followed; none: all of them are done.
    fn turn(&mut self, stretch: &Stretch<'_>, writer: Option<Writer>) {
        let first = stretch.lines.first().map_or(0, |line| line.index);
        let by = writer.map_or_else(By::default, |writer| By::writer(first, writer));
        let folio_bytes = self.folio_bytes;
        for (id, file) in self.files.iter_mut().enumerate() {
            let shared = stretch.files.get(&id).zip(writer);
            file.turn(by, shared.map_or_else(Others::default, |(shared, writer)| shared.others(writer, folio_bytes)));
        }
    }
}

impl<'a> Stretch<'a> {
    /// Goes through all operations of a stretch before any of them is followed.
    pub fn read(state: &State, lines: &'a [OpLine]) -> Stretch<'a> {
        let mut files: BTreeMap<usize, Shared> = BTreeMap::new();
        for line in lines {
            let action = &line.args.action;
            let id = action.path().and_then(|path| state.target(path, is_direct(action)));
            let (Some(id), Some(writer)) = (id, line.args.writer) else { continue };
            let Some(file) = state.files.get(id) else { continue };
            let shared = files.entry(id).or_default();
            shared.before = file.now();
            shared.writers.entry(writer).or_default().take(line);
        }
        Stretch { lines, files }
    }

    fn end(&self, state: &mut State) {
        let first = self.lines.first().map_or(0, |line| line.index);
        for (id, shared) in &self.files {
            let file = &mut state.files[*id];
            if shared.resized_by().count() > 1 {
                file.sized_together(&shared.meanwhile(), shared.after());
            }
            for (writer, _) in shared.writers.iter().filter(|(_, part)| part.was_told) {
                file.told_beside(By::writer(first, *writer));
            }
        }
    }
}

impl Shared {
    fn resized_by(&self) -> impl Iterator<Item = Writer> {
        self.writers.iter().filter(|(_, part)| !part.sizes.is_empty()).map(|(writer, _)| *writer)
    }

    fn others(&self, writer: Writer, folio_bytes: u64) -> Others {
        let parts = || self.writers.iter().filter(|(other, _)| **other != writer).map(|(_, part)| part);
        Others {
            sizes: self.resized_by().any(|other| other != writer).then(|| self.meanwhile()),
            mapped: whole(parts().flat_map(|part| part.mapped.clone()), folio_bytes),
            buffered: whole(parts().flat_map(|part| part.buffered.clone()), folio_bytes),
            freed: parts().flat_map(|part| part.freed.clone()).collect(),
            given: whole(parts().flat_map(|part| part.given.clone()), FOLIO_BYTES),
            were_told: parts().any(|part| part.was_told),
        }
    }

    /// All sizes that there can be until the last of them is done, and those between.
    fn meanwhile(&self) -> Sizes {
        let resizes = || self.writers.values().flat_map(|part| &part.sizes);
        let set = resizes().filter(|resize| matches!(resize, Resize::Set(_)));
        let least = set.map(|resize| resize.to()).min().unwrap_or(u64::MAX);
        let most = resizes().map(|resize| resize.to()).max().unwrap_or(0);
        Sizes::between(self.before.least.min(least), self.before.most.max(most))
    }

    fn is_unsure(&self) -> bool {
        self.writers.values().any(|part| part.sizes_unsure)
    }

    /// All sizes that there can be when all of them are done.
    fn after(&self) -> Sizes {
        let by: Vec<&[Resize]> = self.writers.values().map(|part| &part.sizes[..]).collect();
        let places = by.iter().map(|sizes| sizes.len() + 1).fold(1, usize::saturating_mul);
        if self.is_unsure() || places > MOST_PLACES {
            return self.meanwhile();
        }
        match self.before.each() {
            Some(before) => Sizes::one_of(in_every_order(before, &by)),
            // No change makes a small size larger than a large one, so all between come to lie between.
            None => {
                let ends = in_every_order([self.before.least, self.before.most].into(), &by);
                Sizes::between(*ends.first().unwrap_or(&0), *ends.last().unwrap_or(&0))
            }
        }
    }
}

/// The sizes that come of it when each list is gone through in its order. A place is how far each of them has come; the later place
/// is the greater one, so all ways to a place have been gone when it is the smallest left.
fn in_every_order(before: BTreeSet<u64>, by: &[&[Resize]]) -> BTreeSet<u64> {
    let mut places = BTreeMap::from([(vec![0; by.len()], before)]);
    while let Some((place, sizes)) = places.pop_first() {
        let mut is_last = true;
        for (list, at) in by.iter().zip(0..) {
            let Some(resize) = list.get(place[at]) else { continue };
            is_last = false;
            let mut next: Vec<usize> = place.clone();
            next[at] += 1;
            places.entry(next).or_default().extend(sizes.iter().map(|size| resize.of(*size)));
        }
        if is_last {
            return sizes;
        }
    }
    BTreeSet::new()
}

impl Part {
    fn take(&mut self, line: &OpLine) {
        let errno = line.result.as_ref().and_then(|result| result.errno);
        let failed = errno.is_some();
        let sizes_before = self.sizes.len();
        match &line.args.action {
            Action::Write(write) | Action::AioWrite(write) => {
                let calls = write.calls();
                let is_aio = matches!(line.args.action, Action::AioWrite(_));
                let asked: u64 = calls.iter().map(|(_, len)| len).sum();
                let short = line.result.as_ref().is_some_and(|result| (0..asked as i64).contains(&result.returned));
                // Calls that are submitted together are done in any order.
                self.sizes_unsure |= short || is_aio && calls.len() > 1;
                self.sizes.extend(ends(&calls).into_iter().map(Resize::Grow));
                let bytes = range(write.offset, write.len);
                if !write.direct {
                    self.buffered.push(bytes.clone());
                }
                self.given.push(bytes);
            }
            Action::MmapWrite { offset, len, msync, .. } => {
                self.mapped.push(range(*offset, *len));
                self.given.push(range(*offset, *len));
                // EFAULT: it never came to the msync.
                self.was_told |= *msync && errno.is_some_and(|errno| errno != Errno(libc::EFAULT));
            }
            Action::Truncate { len, .. } => {
                self.sizes.push(Resize::Set(*len));
                self.freed.push(*len..u64::MAX);
            }
            Action::Punch { offset, len, .. } => self.freed.push(range(*offset, *len)),
            Action::Fallocate { offset, len, keep_size, .. } => {
                if !keep_size {
                    self.sizes.push(Resize::Grow(offset.saturating_add(*len)));
                }
                self.given.push(range(*offset, *len));
            }
            Action::Fsync { .. } | Action::Fdatasync { .. } | Action::SyncFileRange { .. } => self.was_told |= failed,
            _ => {}
        }
        self.sizes_unsure |= failed && self.sizes.len() > sizes_before;
    }
}

/// What a sequence of calls makes of the size from any of them on: only the largest end still to come counts.
fn ends(calls: &[(u64, u64)]) -> Vec<u64> {
    let mut largest: Vec<u64> = Vec::new();
    for (offset, len) in calls.iter().rev() {
        let end = offset.saturating_add(*len);
        if largest.last().is_none_or(|last| end > *last) {
            largest.push(end);
        }
    }
    largest.reverse();
    largest
}

/// Ranges with all that lies in one piece of memory with them.
fn whole(ranges: impl Iterator<Item = Range<u64>>, unit: u64) -> Vec<Range<u64>> {
    let round = |range: Range<u64>| range.start - range.start % unit..range.end.div_ceil(unit).saturating_mul(unit);
    ranges.map(round).collect()
}
