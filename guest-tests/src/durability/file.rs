//! One file: what each of its bytes may be, and how long it may be.
//!
//! A list of layers in the order in which they were made, and above them nothing. A byte may show any layer from the newest
//! promised one on; without a promised one also zero, since a block that was never written reads as zeros.

use super::Broken;
use guest_init::pattern::Pattern;
use std::ops::Range;
use std::sync::Arc;

/// Data is held against the model in pieces of this size at most: what is a sector's, and is told as one.
const PIECE_BYTES: u64 = 512;

/// What a stretch was given.
#[derive(Clone, Debug)]
enum Content {
    Pattern(Arc<Pattern>),
    Zero,
    /// Nobody can say: an operation on it failed.
    Anything,
}

#[derive(Clone, Debug)]
struct Layer {
    bytes: Range<u64>,
    content: Content,
    promised: bool,
}

/// The sizes a file may have; both ends are possible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sizes {
    least: u64,
    most: u64,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct File {
    layers: Vec<Layer>,
    /// After the last operation.
    now: Sizes,
    /// On the disk: since the last promise.
    on_disk: Sizes,
    size_promised: bool,
}

impl File {
    /// Data that also makes the file longer.
    pub fn write(&mut self, bytes: Range<u64>, pattern: &Arc<Pattern>) {
        self.grow(bytes.end);
        self.store(bytes, pattern);
    }

    /// Data within the file.
    pub fn store(&mut self, bytes: Range<u64>, pattern: &Arc<Pattern>) {
        self.add(bytes, Content::Pattern(Arc::clone(pattern)));
    }

    /// The file ends here; what comes behind it later is zero.
    pub fn truncate(&mut self, len: u64) {
        self.add(len..u64::MAX, Content::Zero);
        self.now = Sizes { least: len, most: len };
        self.may_be_on_disk();
    }

    /// A hole; the size stays.
    pub fn punch(&mut self, bytes: Range<u64>) {
        self.add(bytes, Content::Zero);
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

    /// A write that failed, perhaps half way.
    pub fn blur(&mut self, bytes: Range<u64>) {
        self.may_grow(bytes.end);
        self.add(bytes, Content::Anything);
    }

    /// A truncate that failed, perhaps half way.
    pub fn truncate_failed(&mut self, len: u64) {
        self.add(len..u64::MAX, Content::Anything);
        self.now = Sizes { least: self.now.least.min(len), most: self.now.most.max(len) };
        self.may_be_on_disk();
    }

    /// What was written to these bytes until now is on the disk.
    pub fn promise(&mut self, bytes: Range<u64>) {
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in self.layers.drain(..) {
            let both = overlap(&layer.bytes, &bytes);
            match both {
                Some(both) if !layer.promised && !matches!(layer.content, Content::Anything) => {
                    let part = |bytes: Range<u64>, promised| Layer { bytes, promised, ..layer.clone() };
                    let parts = [
                        part(layer.bytes.start..both.start, false),
                        part(both.clone(), true),
                        part(both.end..layer.bytes.end, false),
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
        for layer in self.layers.iter_mut().filter(|layer| !layer.promised) {
            layer.content = Content::Anything;
        }
        self.now.least = self.on_disk.least.min(self.now.least);
    }

    /// Whether anything about it was promised.
    pub fn anything_promised(&self) -> bool {
        self.size_promised || self.layers.iter().any(|layer| layer.promised)
    }

    /// Holds what was found against the model. Gives how many promised bytes were looked at.
    pub fn judge(&self, path: &str, data: &[u8], past_may_show: bool, broken: &mut Vec<Broken>) -> u64 {
        let size = data.len() as u64;
        let Sizes { least, most } = self.on_disk;
        if !(least..=most).contains(&size) {
            let allowed = if least == most { format!("{least}") } else { format!("{least} to {most}") };
            let what = format!("{path} is {size} bytes long, expected was {allowed}");
            let promised = size < least && self.size_promised;
            broken.push(Broken { path: path.to_owned(), offset: None, bytes: None, promised, what });
        }
        let (mut looked_at, mut wrong) = (0, Vec::<(Range<u64>, bool, String)>::new());
        for bytes in self.pieces(size) {
            let over: Vec<&Layer> =
                self.layers.iter().filter(|layer| overlap(&layer.bytes, &bytes).is_some()).collect();
            let since = over.iter().rposition(|layer| layer.promised);
            let promised = since.is_some();
            looked_at += if promised { bytes.end - bytes.start } else { 0 };
            let found = &data[bytes.start as usize..bytes.end as usize];
            let from = &over[since.unwrap_or(0)..];
            let zero_is_fine = !promised && found.iter().all(|byte| *byte == 0);
            let fine = zero_is_fine || from.iter().any(|layer| layer.content.shows(bytes.start, found));
            if fine || (!promised && past_may_show) {
                continue;
            }
            let wanted = from.first().map_or("zeros".to_owned(), |layer| layer.content.name());
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

    fn add(&mut self, bytes: Range<u64>, content: Content) {
        if !bytes.is_empty() {
            self.layers.push(Layer { bytes, content, promised: false });
        }
    }

    fn may_be_on_disk(&mut self) {
        self.on_disk =
            Sizes { least: self.on_disk.least.min(self.now.least), most: self.on_disk.most.max(self.now.most) };
    }

    /// Stretches in which no layer begins or ends.
    fn pieces(&self, size: u64) -> Vec<Range<u64>> {
        let mut edges: Vec<u64> = (0..size).step_by(PIECE_BYTES as usize).collect();
        edges.extend(self.layers.iter().flat_map(|layer| [layer.bytes.start, layer.bytes.end]).filter(|at| *at < size));
        edges.push(size);
        edges.sort_unstable();
        edges.dedup();
        edges.windows(2).map(|edge| edge[0]..edge[1]).collect()
    }
}

impl Content {
    fn shows(&self, offset: u64, found: &[u8]) -> bool {
        match self {
            Content::Anything => true,
            Content::Zero => found.iter().all(|byte| *byte == 0),
            Content::Pattern(pattern) => {
                let mut wanted = [0; PIECE_BYTES as usize];
                let wanted = &mut wanted[..found.len()];
                pattern.fill(offset, wanted);
                wanted == found
            }
        }
    }

    fn name(&self) -> String {
        match self {
            Content::Pattern(pattern) => format!("the pattern {:?}", pattern.name()),
            Content::Zero => "zeros".to_owned(),
            Content::Anything => "anything".to_owned(),
        }
    }
}

fn broken_bytes(path: &str, bytes: &Range<u64>, promised: bool, wanted: &str) -> Broken {
    let Range { start, end } = bytes;
    let what = match promised {
        true => format!("bytes {start}..{end} of {path} hold neither {wanted}, which was fsynced, nor anything newer"),
        false => format!("bytes {start}..{end} of {path} hold what nobody has written there"),
    };
    Broken { path: path.to_owned(), offset: Some(*start), bytes: Some(end - start), promised, what }
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> Option<Range<u64>> {
    let both = a.start.max(b.start)..a.end.min(b.end);
    (both.start < both.end).then_some(both)
}
