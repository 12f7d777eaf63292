//! One file: what each of its bytes may be, and how long it may be.
//!
//! A list of layers in the order in which they were made, and above them nothing. A byte may show any layer from the newest
//! *sure* one on; without a sure one also zero, since a block that was never written reads as zeros. What is sure depends on the
//! question ([`Sure`]): after a power cut only what was promised, while nothing failed everything that returned.

use crate::durability::Broken;
use guest_init::pattern::{Content, Pattern, Run};
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
}

/// Which layers must show or be covered by a newer one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sure {
    /// What an fsync has promised: all that counts once the disk or the power has failed.
    Promised,
    /// Everything that returned success: nothing has failed.
    Returned,
}

/// The sizes a file may have; both ends are possible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Smallest.
    pub least: u64,
    /// Largest.
    pub most: u64,
}

impl Sizes {
    /// Whether a file may be so long.
    pub fn allow(self, size: u64) -> bool {
        (self.least..=self.most).contains(&size)
    }

    /// For a person.
    pub fn describe(self) -> String {
        let Sizes { least, most } = self;
        if least == most { format!("{least}") } else { format!("{least} to {most}") }
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct File {
    layers: Vec<Layer>,
    blocks: crate::state::Blocks,
    /// After the last operation.
    now: Sizes,
    /// On the disk: since the last promise.
    on_disk: Sizes,
    size_promised: bool,
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
        self.blocks.written(&bytes, true);
        self.add(bytes, Given::Pattern(Arc::clone(pattern)), Standing::Pending);
    }

    /// Data that may be there or not: its operation failed.
    pub fn may_hold(&mut self, bytes: Range<u64>, pattern: &Arc<Pattern>) {
        self.blocks.written(&bytes, false);
        self.add(bytes, Given::Pattern(Arc::clone(pattern)), Standing::Doubtful);
    }

    /// The file ends here; what comes behind it later is zero. Only one that does not grow gives back what was reserved behind its end.
    pub fn truncate(&mut self, len: u64) {
        self.blocks.freed(&(len..u64::MAX), len <= self.now.least);
        self.add(len..u64::MAX, Given::Zero, Standing::Pending);
        self.now = Sizes { least: len, most: len };
        self.may_be_on_disk();
    }

    /// A truncate that failed, perhaps half way.
    pub fn may_truncate(&mut self, len: u64) {
        self.blocks.freed(&(len..u64::MAX), false);
        self.add(len..u64::MAX, Given::Zero, Standing::Doubtful);
        self.now = Sizes { least: self.now.least.min(len), most: self.now.most.max(len) };
        self.may_be_on_disk();
    }

    /// A hole; the size stays. Behind the end of the file nothing need be given back.
    pub fn punch(&mut self, bytes: Range<u64>) {
        self.blocks.freed(&(bytes.start..bytes.end.min(self.now.least)), true);
        self.blocks.freed(&bytes, false);
        self.add(bytes, Given::Zero, Standing::Pending);
    }

    /// A hole that may be there or not.
    pub fn may_punch(&mut self, bytes: Range<u64>) {
        self.blocks.freed(&bytes, false);
        self.add(bytes, Given::Zero, Standing::Doubtful);
    }

    /// Blocks for these bytes.
    pub fn allocate(&mut self, bytes: &Range<u64>, done: bool) {
        self.blocks.reserved(bytes, done);
    }

    /// What a page fault may allocate beside the bytes that are stored.
    pub fn may_allocate_around(&mut self, bytes: &Range<u64>, around: u64) {
        let start = bytes.start - bytes.start % around;
        let end = bytes.end.next_multiple_of(around).min(self.now.most);
        self.blocks.written(&(start..end), false);
    }

    /// At least so long.
    pub fn grow(&mut self, len: u64) {
        self.now = Sizes { least: self.now.least.max(len), most: self.now.most.max(len) };
        self.may_be_on_disk();
    }

    /// An operation that would have made it so long failed.
    pub fn may_grow(&mut self, len: u64) {
        self.now.most = self.now.most.max(len);
        self.may_be_on_disk();
    }

    /// What was written to these bytes until now is on the disk.
    pub fn promise(&mut self, bytes: Range<u64>) {
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in self.layers.drain(..) {
            match overlap(&layer.bytes, &bytes) {
                Some(both) if layer.standing == Standing::Pending => {
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
        self.on_disk = self.now;
        self.size_promised = true;
    }

    /// An fsync has told its error: what was written before it may be on the disk or not, also after one that returns 0.
    pub fn sync_failed(&mut self) {
        for layer in self.layers.iter_mut().filter(|layer| layer.standing == Standing::Pending) {
            layer.standing = Standing::Doubtful;
        }
        self.now.least = self.on_disk.least.min(self.now.least);
    }

    /// It is read from the disk anew, and something may have failed before: it is as long as the disk says. An error that nobody was told
    /// of is still owed to the next fsync, unless the file system was `given_up` with everything that was under way.
    pub fn read_anew(&mut self, given_up: bool) {
        if given_up {
            self.sync_failed();
        }
        self.now = self.on_disk;
    }

    /// How long it may be now, as the kernel sees it.
    pub fn now(&self) -> Sizes {
        self.now
    }

    /// How long it may be on the disk.
    pub fn on_disk(&self) -> Sizes {
        self.on_disk
    }

    /// Where blocks are or were given.
    pub fn blocks(&self) -> &crate::state::Blocks {
        &self.blocks
    }

    /// Whether anything about it was promised.
    pub fn anything_promised(&self) -> bool {
        self.size_promised || self.layers.iter().any(|layer| layer.standing == Standing::Promised)
    }

    /// Holds what was found after a power cut against the model. Gives how many promised bytes were looked at.
    pub fn judge(&self, path: &str, data: &[u8], past_may_show: bool, broken: &mut Vec<Broken>) -> u64 {
        let size = data.len() as u64;
        if !self.on_disk.allow(size) {
            let what = format!("{path} is {size} bytes long, expected was {}", self.on_disk.describe());
            let promised = size < self.on_disk.least && self.size_promised;
            broken.push(Broken { path: path.to_owned(), offset: None, bytes: None, promised, what });
        }
        let (mut looked_at, mut wrong) = (0, Vec::<(Range<u64>, bool, String)>::new());
        for bytes in self.pieces(&(0..size), true) {
            let (from, promised) = self.from(&bytes, Sure::Promised);
            looked_at += if promised { bytes.end - bytes.start } else { 0 };
            let found = &data[bytes.start as usize..bytes.end as usize];
            let zero_is_fine = !promised && found.iter().all(|byte| *byte == 0);
            let fine = zero_is_fine || from.iter().any(|layer| layer.may_show(bytes.start, found));
            if fine || (!promised && past_may_show) {
                continue;
            }
            let wanted = name_of(&from);
            match wrong.last_mut() {
                Some((last, was_promised, name))
                    if last.end == bytes.start && (*was_promised, &*name) == (promised, &wanted) =>
                {
                    last.end = bytes.end;
                }
                _ => wrong.push((bytes, promised, wanted)),
            }
        }
        broken.extend(wrong.into_iter().map(|(bytes, promised, wanted)| broken_bytes(path, &bytes, promised, &wanted)));
        looked_at
    }

    /// Holds a pattern map against the model. A map knows bytes by whole sectors, so one that several layers share says little.
    pub fn judge_map(&self, runs: &[Run], sure: Sure) -> Mapped {
        let mut mapped = Mapped::default();
        for run in runs {
            let bytes = run.offset..run.offset + run.len;
            match run.content {
                Content::Other { .. } => self.judge_unknown_bytes(&bytes, sure, &mut mapped),
                Content::Past { .. } => mapped.faults.push((bytes, Fault::Stale(run.content.clone()))),
                _ => {
                    let pieces = self.pieces(&bytes, false);
                    let judge = |piece: Range<u64>| Some((piece.clone(), self.fault_in(&piece, &run.content, sure)?));
                    mapped.faults.extend(pieces.into_iter().filter_map(judge));
                }
            }
        }
        mapped
    }

    /// The bytes of a range, where the model leaves nothing open.
    pub fn exactly(&self, range: &Range<u64>, sure: Sure) -> Option<Vec<u8>> {
        let mut data = vec![0; usize::try_from(range.end - range.start).ok()?];
        for piece in self.pieces(range, false) {
            let (from, is_sure) = self.from(&piece, sure);
            match (from.as_slice(), is_sure) {
                ([only], true) | ([only @ Layer { given: Given::Zero, .. }], false) => {
                    let at = (piece.start - range.start) as usize..(piece.end - range.start) as usize;
                    only.fill(piece.start, &mut data[at]);
                }
                ([], _) => {}
                _ => return None,
            }
        }
        Some(data)
    }

    /// What is wrong with a piece in which no layer begins or ends.
    fn fault_in(&self, piece: &Range<u64>, found: &Content, sure: Sure) -> Option<Fault> {
        let (from, is_sure) = self.from(piece, sure);
        let zero_is_fine = !is_sure && *found == Content::Zero;
        if zero_is_fine || from.iter().any(|layer| layer.shows(piece, found)) {
            return None;
        }
        let was_given = |name: &str| {
            let mut over = self.layers.iter().filter(|layer| overlap(&layer.bytes, piece).is_some());
            over.any(|layer| matches!(&layer.given, Given::Pattern(pattern) if pattern.name() == name))
        };
        match found {
            Content::Pattern { name } | Content::Misplaced { name, .. } if !was_given(name) => {
                return Some(Fault::Stale(found.clone()));
            }
            _ => {}
        }
        Some(self.lost_promise(piece, found).unwrap_or_else(|| Fault::Expected(name_of(&from))))
    }

    /// What is missing was not only written but fsynced.
    fn lost_promise(&self, piece: &Range<u64>, found: &Content) -> Option<Fault> {
        let (from, promised) = self.from(piece, Sure::Promised);
        let kept = from.iter().any(|layer| layer.shows(piece, found));
        (promised && !kept).then(|| Fault::Lost(name_of(&from)))
    }

    /// Bytes that are nothing known: sector by sector they are wrong where no mixture of layers can be.
    fn judge_unknown_bytes(&self, bytes: &Range<u64>, sure: Sure, mapped: &mut Mapped) {
        let first = bytes.start - bytes.start % PIECE_BYTES;
        for start in (first..bytes.end).step_by(PIECE_BYTES as usize) {
            let Some(part) = overlap(&(start..start + PIECE_BYTES), bytes) else { continue };
            if !self.must_be_whole(&part, sure) {
                mapped.unknown_bytes += part.end - part.start;
                continue;
            }
            match mapped.faults.last_mut() {
                Some((last, Fault::Corrupt)) if last.end == part.start => last.end = part.end,
                _ => mapped.faults.push((part, Fault::Corrupt)),
            }
        }
    }

    /// Nothing was ever written there, or one sure layer covers it and nothing came after.
    fn must_be_whole(&self, part: &Range<u64>, sure: Sure) -> bool {
        let mut over = self.layers.iter().filter(|layer| overlap(&layer.bytes, part).is_some());
        let covers = |layer: &Layer| layer.is(sure) && layer.bytes.start <= part.start && part.end <= layer.bytes.end;
        over.next_back().is_none_or(covers)
    }

    /// The layers that a piece may show, oldest first, and whether the first of them is sure.
    fn from(&self, piece: &Range<u64>, sure: Sure) -> (Vec<&Layer>, bool) {
        let mut over: Vec<&Layer> = self.layers.iter().filter(|layer| overlap(&layer.bytes, piece).is_some()).collect();
        let since = over.iter().rposition(|layer| layer.is(sure));
        over.drain(..since.unwrap_or(0));
        (over, since.is_some())
    }

    fn add(&mut self, bytes: Range<u64>, given: Given, standing: Standing) {
        if !bytes.is_empty() {
            self.layers.push(Layer { bytes, given, standing });
        }
    }

    fn may_be_on_disk(&mut self) {
        self.on_disk =
            Sizes { least: self.on_disk.least.min(self.now.least), most: self.on_disk.most.max(self.now.most) };
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

fn name_of(layers: &[&Layer]) -> String {
    layers.first().map_or("zeros".to_owned(), |layer| layer.name())
}

fn broken_bytes(path: &str, bytes: &Range<u64>, promised: bool, wanted: &str) -> Broken {
    let Range { start, end } = bytes;
    let what = match promised {
        true => format!("bytes {start}..{end} of {path} hold neither {wanted}, which was fsynced, nor anything newer"),
        false => format!("bytes {start}..{end} of {path} hold what nobody has written there"),
    };
    Broken { path: path.to_owned(), offset: Some(*start), bytes: Some(end - start), promised, what }
}

/// What two ranges share.
pub fn overlap(a: &Range<u64>, b: &Range<u64>) -> Option<Range<u64>> {
    let both = a.start.max(b.start)..a.end.min(b.end);
    (both.start < both.end).then_some(both)
}
