//! One file: what each of its bytes may be, and how long it may be.
//!
//! A list of layers in the order in which they were made, and above them nothing. A byte may show any layer from the newest
//! *sure* one on; without a sure one also zero, since a block that was never written reads as zeros. What is sure depends on the
//! question ([`Sure`]): after a power cut only what was promised, while nothing failed everything that returned.
//!
//! Layers of writers that worked at once ([`By`]) have no order between them: neither hides the other, and both hide what is older.

mod judged;

use crate::sizes::Sizes;
use crate::state::Blocks;
use guest_init::pattern::{Content, Pattern};
use guest_init::writers::Writer;
use std::ops::Range;
use std::sync::Arc;

/// Data is held against the model in pieces of this size at most: what is a sector's, and is told as one.
const PIECE_BYTES: u64 = 512;

/// Two patterns share some of their words, so that fewer bytes than these may be the same in both.
const TELLING_BYTES: u64 = 64;

/// What a stretch was given.
#[derive(Clone, Debug)]
enum Given {
    Pattern(Arc<Pattern>),
    Zero,
}

/// How far a layer can be relied on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It returned success, and nothing was said since.
    Pending,
    /// An fsync that returned 0 came after it.
    Promised,
    /// Its operation failed, or an fsync has told that writing it back did. It may be there, wholly, in part or not at all, and no
    /// later promise changes that.
    Doubtful,
}

#[derive(Clone, Debug)]
struct Layer {
    bytes: Range<u64>,
    given: Given,
    standing: Standing,
    by: By,
}

/// Whose operation it is: of one of several writers at once, or of the only one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct By(Option<(u32, Writer)>);

impl By {
    /// A writer of the stretch that begins with this operation.
    pub fn writer(stretch: u32, writer: Writer) -> By {
        By(Some((stretch, writer)))
    }

    /// Whether nothing is known of the order between the two.
    fn beside(self, other: By) -> bool {
        let both = self.0.zip(other.0);
        both.is_some_and(|((stretch, writer), (of, another))| stretch == of && writer != another)
    }
}

/// What others do to the file while the one does it whose turn it is to be followed.
#[derive(Clone, Debug, Default)]
pub struct Others {
    /// They change its size: it may be any of these meanwhile.
    pub sizes: Option<Sizes>,
    /// They store through a mapping here.
    pub mapped: Vec<Range<u64>>,
    /// They write through memory here.
    pub buffered: Vec<Range<u64>>,
    /// They may give back the blocks of this.
    pub freed: Vec<Range<u64>>,
    /// They may give blocks to this.
    pub given: Vec<Range<u64>>,
    /// One of them was told of an error that is told once: whoever was told of none was promised nothing.
    pub were_told: bool,
}

/// Which layers must show or be covered by a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sure {
    /// What an fsync has promised: all that counts once the disk or the power has failed.
    Promised,
    /// Everything that returned success: nothing has failed.
    Returned,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct File {
    layers: Vec<Layer>,
    blocks: Blocks,
    /// After the last operation.
    now: Sizes,
    /// On the disk: since the last promise.
    on_disk: Sizes,
    size_promised: bool,
    /// Who works on it or looks at it.
    by: By,
    others: Others,
}

/// Why what was found may not be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What the disk held before the run, or what was written to another file.
    Stale(Content),
    /// This was fsynced.
    Lost(String),
    /// Nobody wrote such bytes.
    Corrupt,
    /// This was to be there: nothing was fsynced, and nothing has failed.
    Expected(String),
}

/// What holding a map against the model gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapped {
    /// Stretches that may not be as they are, in order.
    pub faults: Vec<(Range<u64>, Fault)>,
    /// Bytes of which the model cannot say what they are.
    pub unknown_bytes: u64,
}

impl File {
    /// Data that also makes the file longer.
    pub fn write(&mut self, bytes: Range<u64>, pattern: &Arc<Pattern>) {
        self.grow(bytes.end);
        self.store(bytes, pattern);
    }

    /// Data within the file.
    pub fn store(&mut self, bytes: Range<u64>, pattern: &Arc<Pattern>) {
        self.given(&bytes, Blocks::written, true);
        self.add(bytes, Given::Pattern(Arc::clone(pattern)), Standing::Pending);
    }

    /// Data that goes past what is kept in memory. A page that another writer dirties meanwhile comes back over it, with what was there
    /// before (mm/filemap.c, invalidate_inode_pages2_range: nobody takes a dirty page away). Stores through a mapping wait for no lock; a
    /// buffered write waits for the direct one before it (i_rwsem), but not for what that has only submitted.
    pub fn write_directly(&mut self, bytes: Range<u64>, pattern: &Arc<Pattern>, only_submitted: bool) {
        self.grow(bytes.end);
        let mut dirtied = self.others.mapped.clone();
        if only_submitted {
            dirtied.extend_from_slice(&self.others.buffered);
        }
        for (part, unsure) in split(&bytes, &dirtied) {
            match unsure {
                true => self.may_hold(part, pattern),
                false => self.store(part, pattern),
            }
        }
    }

    /// Data that may be there or not: its operation failed.
    pub fn may_hold(&mut self, bytes: Range<u64>, pattern: &Arc<Pattern>) {
        self.given(&bytes, Blocks::written, false);
        self.add(bytes, Given::Pattern(Arc::clone(pattern)), Standing::Doubtful);
    }

    /// The file ends here; what comes behind it later is zero. Only one that does not grow gives back what was reserved behind its end.
    pub fn truncate(&mut self, len: u64) {
        self.freed(&(len..u64::MAX), len <= self.now().least);
        self.add(len..u64::MAX, Given::Zero, Standing::Pending);
        self.set_now(Sizes::exactly(len));
    }

    /// A truncate that failed, perhaps half way.
    pub fn may_truncate(&mut self, len: u64) {
        self.freed(&(len..u64::MAX), false);
        self.add(len..u64::MAX, Given::Zero, Standing::Doubtful);
        self.set_now(self.now.hull(&Sizes::exactly(len)));
    }

    /// A hole; the size stays. Behind the end of the file nothing need be given back.
    pub fn punch(&mut self, bytes: Range<u64>) {
        self.freed(&(bytes.start..bytes.end.min(self.now().least)), true);
        self.freed(&bytes, false);
        self.add(bytes, Given::Zero, Standing::Pending);
    }

    /// A hole that may be there or not.
    pub fn may_punch(&mut self, bytes: Range<u64>) {
        self.freed(&bytes, false);
        self.add(bytes, Given::Zero, Standing::Doubtful);
    }

    /// Blocks for these bytes.
    pub fn allocate(&mut self, bytes: &Range<u64>, done: bool) {
        self.given(bytes, Blocks::reserved, done);
    }

    /// What a page fault may allocate beside the bytes that are stored.
    pub fn may_allocate_around(&mut self, bytes: &Range<u64>, around: u64) {
        let start = bytes.start - bytes.start % around;
        let end = bytes.end.next_multiple_of(around).min(self.now().most);
        self.given(&(start..end), Blocks::written, false);
    }

    /// At least so long.
    pub fn grow(&mut self, len: u64) {
        self.set_now(self.now.map(|size| size.max(len)));
    }

    /// An operation that would have made it so long failed.
    pub fn may_grow(&mut self, len: u64) {
        self.set_now(Sizes::between(self.now.least, self.now.most.max(len)));
    }

    /// What was written to these bytes until now is on the disk; what others write meanwhile may be.
    pub fn promise(&mut self, bytes: Range<u64>) {
        if self.others.were_told {
            return;
        }
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in self.layers.drain(..) {
            match overlap(&layer.bytes, &bytes) {
                Some(both) if layer.standing == Standing::Pending && !layer.by.beside(self.by) => {
                    let part = |bytes: Range<u64>, standing| Layer { bytes, standing, ..layer.clone() };
                    let parts = [
                        part(layer.bytes.start..both.start, Standing::Pending),
                        part(both.clone(), Standing::Promised),
                        part(both.end..layer.bytes.end, Standing::Pending),
                    ];
                    layers.extend(parts.into_iter().filter(|part| !part.bytes.is_empty()));
                }
                _ => layers.push(layer),
            }
        }
        self.layers = layers;
    }

    /// Its size as it is now is on the disk.
    pub fn promise_size(&mut self) {
        if !self.others.were_told {
            self.on_disk = self.now();
            self.size_promised = true;
        }
    }

    /// An fsync has told its error: what was written before it may be on the disk or not, also after one that returns 0.
    pub fn sync_failed(&mut self) {
        for layer in self.layers.iter_mut().filter(|layer| layer.standing == Standing::Pending) {
            layer.standing = Standing::Doubtful;
        }
        if self.on_disk.least < self.now.least {
            self.now = Sizes::between(self.on_disk.least, self.now.most);
        }
    }

    /// It is read from the disk anew, and something may have failed before: it is as long as the disk says. What was not promised by
    /// then no later fsync promises either, for what unmounting could not write the new mount has never known.
    pub fn read_anew(&mut self) {
        self.sync_failed();
        self.now = self.on_disk.clone();
    }

    /// From here on this one works on it, or looks at it, and others do this meanwhile.
    pub fn turn(&mut self, by: By, others: Others) {
        (self.by, self.others) = (by, others);
    }

    /// All that was done at once is over: its size is one of these, and was one of `meanwhile`.
    pub fn sized_together(&mut self, meanwhile: &Sizes, after: Sizes) {
        self.now = after;
        self.on_disk = self.on_disk.hull(meanwhile);
    }

    /// One of those who worked at once was told of an error, which may be that of the others' data.
    pub fn told_beside(&mut self, by: By) {
        for layer in self.layers.iter_mut().filter(|layer| layer.by.beside(by)) {
            if layer.standing == Standing::Pending {
                layer.standing = Standing::Doubtful;
            }
        }
        self.now = Sizes::between(self.now.least.min(self.on_disk.least), self.now.most);
    }

    /// How long it may be now, as the kernel sees it.
    pub fn now(&self) -> Sizes {
        self.others.sizes.as_ref().unwrap_or(&self.now).clone()
    }

    /// How long it may be on the disk.
    pub fn on_disk(&self) -> Sizes {
        self.on_disk.clone()
    }

    /// Where blocks are or were given.
    pub fn blocks(&self) -> &Blocks {
        &self.blocks
    }

    /// Whether anything about it was promised.
    pub fn anything_promised(&self) -> bool {
        self.size_promised || self.layers.iter().any(|layer| layer.standing == Standing::Promised)
    }

    /// The layers that a piece may show, oldest first, and whether a sure one is among them: all that no sure one hides.
    fn from(&self, piece: &Range<u64>, sure: Sure) -> (Vec<&Layer>, bool) {
        let over = self.over(piece);
        let sure: Vec<usize> = (0..over.len()).filter(|place| self.is_sure(over[*place], sure)).collect();
        let hidden = |place: usize| sure.iter().any(|by| *by > place && !over[place].by.beside(over[*by].by));
        let may_show = (0..over.len()).filter(|place| !hidden(*place)).map(|place| over[place]).collect();
        (may_show, !sure.is_empty())
    }

    fn over(&self, piece: &Range<u64>) -> Vec<&Layer> {
        self.layers.iter().filter(|layer| overlap(&layer.bytes, piece).is_some()).collect()
    }

    /// What is done beside the one who looks may have come later.
    fn is_sure(&self, layer: &Layer, sure: Sure) -> bool {
        layer.is(sure) && !layer.by.beside(self.by)
    }

    fn add(&mut self, bytes: Range<u64>, given: Given, standing: Standing) {
        if !bytes.is_empty() {
            self.layers.push(Layer { bytes, given, standing, by: self.by });
        }
    }

    /// Where others may free them at the same time, blocks may be there or not.
    fn given(&mut self, bytes: &Range<u64>, how: fn(&mut Blocks, &Range<u64>, bool), done: bool) {
        for (part, unsure) in split(bytes, &self.others.freed) {
            how(&mut self.blocks, &part, done && !unsure);
        }
    }

    /// Where others may be given blocks at the same time, some may be left. Only blocks that lie in it as a whole are freed, so the parts do
    /// not stand for the whole.
    fn freed(&mut self, bytes: &Range<u64>, done: bool) {
        let parts = split(bytes, &self.others.given);
        let sure: Vec<Range<u64>> =
            parts.into_iter().filter(|(_, unsure)| done && !unsure).map(|(part, _)| part).collect();
        if sure != [bytes.clone()] {
            self.blocks.freed(bytes, false);
        }
        sure.iter().for_each(|part| self.blocks.freed(part, true));
    }

    /// Where others change it as well, only all together say what it is.
    fn set_now(&mut self, now: Sizes) {
        if self.others.sizes.is_none() {
            self.now = now;
        }
        self.may_be_on_disk();
    }

    fn may_be_on_disk(&mut self) {
        self.on_disk = self.on_disk.hull(&self.now());
    }

    /// Stretches of a range in which no layer begins or ends, cut at every sector if wanted.
    fn pieces(&self, range: &Range<u64>, by_sector: bool) -> Vec<Range<u64>> {
        let mut edges = vec![range.start, range.end];
        edges.extend(self.layers.iter().flat_map(|layer| [layer.bytes.start, layer.bytes.end]));
        if by_sector {
            let first = range.start.next_multiple_of(PIECE_BYTES);
            edges.extend((first..range.end).step_by(PIECE_BYTES as usize));
        }
        edges.retain(|at| (range.start..=range.end).contains(at));
        edges.sort_unstable();
        edges.dedup();
        edges.windows(2).map(|edge| edge[0]..edge[1]).collect()
    }
}

impl Layer {
    fn is(&self, sure: Sure) -> bool {
        match sure {
            Sure::Promised => self.standing == Standing::Promised,
            Sure::Returned => self.standing != Standing::Doubtful,
        }
    }

    /// After a power cut nothing is said of what is doubtful: the cut may have torn it too.
    fn may_show(&self, offset: u64, found: &[u8]) -> bool {
        let same = || {
            let mut wanted = [0; PIECE_BYTES as usize];
            let wanted = &mut wanted[..found.len()];
            self.fill(offset, wanted);
            wanted == found
        };
        self.standing == Standing::Doubtful || same()
    }

    fn shows(&self, piece: &Range<u64>, found: &Content) -> bool {
        match (&self.given, found) {
            (Given::Zero, Content::Zero) => true,
            (Given::Pattern(pattern), Content::Pattern { name }) if pattern.name() == name => true,
            (_, Content::Zero | Content::Pattern { .. }) if piece.end - piece.start < TELLING_BYTES => {
                self.has_the_same_bytes(piece, found)
            }
            _ => false,
        }
    }

    fn has_the_same_bytes(&self, piece: &Range<u64>, found: &Content) -> bool {
        let mut both = [[0; TELLING_BYTES as usize]; 2];
        let [wanted, there] = both.each_mut().map(|bytes| &mut bytes[..(piece.end - piece.start) as usize]);
        self.fill(piece.start, wanted);
        if let Content::Pattern { name } = found {
            Pattern::new(name).fill(piece.start, there);
        }
        wanted == there
    }

    fn fill(&self, offset: u64, bytes: &mut [u8]) {
        match &self.given {
            Given::Pattern(pattern) => pattern.fill(offset, bytes),
            Given::Zero => bytes.fill(0),
        }
    }

    fn name(&self) -> String {
        match &self.given {
            Given::Pattern(pattern) => format!("the pattern {:?}", pattern.name()),
            Given::Zero => "zeros".to_owned(),
        }
    }
}

/// A range in parts that lie in one of the others, or in none of them.
fn split(range: &Range<u64>, others: &[Range<u64>]) -> Vec<(Range<u64>, bool)> {
    let mut edges = vec![range.start, range.end];
    edges.extend(others.iter().flat_map(|other| [other.start, other.end]));
    edges.retain(|at| (range.start..=range.end).contains(at));
    edges.sort_unstable();
    edges.dedup();
    let inside = |part: &Range<u64>| others.iter().any(|other| overlap(other, part).is_some());
    edges.windows(2).map(|edge| edge[0]..edge[1]).map(|part| (part.clone(), inside(&part))).collect()
}

/// What two ranges share.
pub fn overlap(a: &Range<u64>, b: &Range<u64>) -> Option<Range<u64>> {
    let both = a.start.max(b.start)..a.end.min(b.end);
    (both.start < both.end).then_some(both)
}
