//! What is known of the blocks a request touches, and which part of a request a rule with `class`, `inode` or `path` is
//! about.
//!
//! The device reads the file system; here it is an input like the request's sector, so that deciding stays pure.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::class::{Class, ClassSet};
use crate::event::Key;
use crate::random::DrawKey;
use crate::ranges::within;
use crate::request::{Op, Request};
use crate::rule::{Overlap, Rule};

/// Part of a request that is one thing to the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// First sector.
    pub sector: u64,
    /// Sectors.
    pub sectors: u64,
    /// What it is.
    pub class: Class,
    /// Whose it is, where it is somebody's.
    pub inode: Option<u32>,
    /// Place in that file in its blocks, of the stretch's first sector.
    pub file_block: Option<u64>,
    /// Sectors of a block.
    pub block_sectors: u32,
}

/// What a rule looks for in the file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// One of these classes.
    pub classes: Option<ClassSet>,
    /// Of this inode.
    pub inode: Option<u32>,
}

impl Wanted {
    /// Whether a block is looked for.
    pub fn has(&self, class: Class, inode: Option<u32>) -> bool {
        self.classes.is_none_or(|classes| classes.has(class)) && self.inode.is_none_or(|wanted| inode == Some(wanted))
    }
}

/// A request by what it touches in the file system, for records and for keys that survive another allocation.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileKey {
    /// Class of the request's first sector.
    pub class: Class,
    /// Its inode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<u32>,
    /// Its block in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_block: Option<u64>,
    /// How many requests of this op and length had come for this class, inode and file block since the mark, this one
    /// included. Where there is no inode the first sector stands for inode and file block.
    pub touch: u64,
    /// The mark set last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
}

/// One more stretch of a request, for the record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StretchRecord {
    /// First sector.
    pub sector: u64,
    /// Sectors.
    pub sectors: u64,
    /// What it is.
    pub class: Class,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inode: Option<u32>,
    /// Its first block in the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_block: Option<u64>,
}

impl From<&Stretch> for StretchRecord {
    fn from(stretch: &Stretch) -> StretchRecord {
        let Stretch { sector, sectors, class, inode, file_block, .. } = *stretch;
        StretchRecord { sector, sectors, class, inode, file_block }
    }
}

/// Counts what the keys need, over a run.
#[derive(Debug, Default)]
pub(crate) struct FileTouches {
    mark: Option<String>,
    /// Looked up, never walked.
    touches: HashMap<TouchKey, u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct TouchKey {
    split: Option<u32>,
    op: Op,
    place: Place,
    sectors: u64,
    mark: Option<String>,
}

/// Where a request begins, in terms that another allocation leaves alone where they can be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    InFile { class: Class, inode: u32, file_block: Option<u64> },
    OnDisk { class: Class, sector: u64 },
}

impl Place {
    fn of(class: Class, inode: Option<u32>, file_block: Option<u64>, sector: u64) -> Place {
        match inode {
            Some(inode) => Place::InFile { class, inode, file_block },
            None => Place::OnDisk { class, sector },
        }
    }

    pub(crate) fn of_key(key: &FileKey, sector: u64) -> Place {
        Place::of(key.class, key.inode, key.file_block, sector)
    }
}

impl FileTouches {
    pub(crate) fn mark(&mut self, name: &str) {
        self.mark = Some(name.to_string());
    }

    /// One more request (or child of `split`) that begins with this stretch.
    pub(crate) fn count(&mut self, split: Option<u32>, request: &Request, first: &Stretch) -> FileKey {
        let Stretch { class, inode, file_block, .. } = *first;
        let place = Place::of(class, inode, file_block, request.sector);
        let key = TouchKey { split, op: request.op, place, sectors: request.sectors, mark: self.mark.clone() };
        let touch = self.touches.entry(key).or_insert(0);
        *touch += 1;
        FileKey { class, inode, file_block, touch: *touch, mark: self.mark.clone() }
    }
}

impl FileKey {
    /// What `"key": "file"` draws by.
    pub(crate) fn draw_key(&self, request: &Request) -> DrawKey {
        let mut hash = Sha256::new();
        hash.update(b"file key 1\0");
        hash.update([request.op as u8]);
        hash.update(self.class.word());
        let place = match Place::of_key(self, request.sector) {
            Place::InFile { inode, file_block, .. } => [1, u64::from(inode), file_block.map_or(0, |block| block + 1)],
            Place::OnDisk { sector, .. } => [0, sector, 0],
        };
        let mark = self.mark.as_deref().unwrap_or("");
        for n in place.into_iter().chain([request.sectors, self.touch, u64::from(self.mark.is_some())]) {
            hash.update(n.to_le_bytes());
        }
        hash.update(mark);
        let digest: [u8; 32] = hash.finalize().into();
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| digest[at + i]));
        DrawKey::File(word(0), word(8))
    }
}

/// The stretches of a request that lie in `sector..sector + sectors`, cut to it.
pub(crate) fn part(known: &[Stretch], sector: u64, sectors: u64) -> Vec<Stretch> {
    let end = sector + sectors;
    let cut = |stretch: &Stretch| {
        let (start, stop) = (stretch.sector.max(sector), (stretch.sector + stretch.sectors).min(end));
        let blocks = start.saturating_sub(stretch.sector) / u64::from(stretch.block_sectors.max(1));
        let file_block = stretch.file_block.map(|first| first + blocks);
        // Not `then_some`: what lies elsewhere has no length to be worked out.
        (start < stop).then(|| Stretch { sector: start, sectors: stop - start, file_block, ..*stretch })
    };
    known.iter().filter_map(cut).collect()
}

impl Rule {
    /// What it looks for in the file system; `paths` says which inode a path is now. `None`: it does not look there.
    pub(crate) fn wanted(&self, paths: &BTreeMap<String, Option<u32>>) -> Option<Result<Wanted, Nowhere>> {
        let part = &self.matches;
        if !self.asks_the_file_system() {
            return None;
        }
        let of_path = match &part.path {
            None => None,
            Some(path) => match paths.get(path).copied().flatten() {
                Some(inode) => Some(inode),
                None => return Some(Err(Nowhere)),
            },
        };
        match (part.inode, of_path) {
            (Some(inode), Some(of_path)) if inode != of_path => Some(Err(Nowhere)),
            (inode, of_path) => Some(Ok(Wanted { classes: part.class, inode: inode.or(of_path) })),
        }
    }

    /// Whether the device must look into the file system for this rule.
    pub(crate) fn needs_the_file_system(&self) -> bool {
        self.asks_the_file_system() || self.trigger.key == Key::File
    }

    /// Whether `match` speaks of the file system.
    pub(crate) fn asks_the_file_system(&self) -> bool {
        let part = &self.matches;
        part.class.is_some() || part.inode.is_some() || part.path.is_some()
    }

    /// Whether a request with these stretches, which lies as `sectors` wants it, also is what the rule looks for.
    pub(crate) fn fits_files(
        &self,
        request: &Request,
        known: &[Stretch],
        paths: &BTreeMap<String, Option<u32>>,
    ) -> bool {
        let wanted = match self.wanted(paths) {
            None => return true,
            Some(Err(Nowhere)) => return false,
            Some(Ok(wanted)) => wanted,
        };
        let fits = |stretch: &&Stretch| wanted.has(stretch.class, stretch.inode);
        match self.matches.overlap {
            Overlap::Any => !self.stretches_matched(known, wanted).is_empty(),
            Overlap::Within => !known.is_empty() && known.iter().all(|stretch| fits(&stretch)),
            Overlap::Covers => {
                let end = request.sector.saturating_add(request.sectors);
                let whole = |range: &&(u64, u64)| request.sector <= range.0 && range.1 <= end;
                self.matches.sectors.iter().filter(whole).any(|range| {
                    let inside = part(known, range.0, range.1 - range.0);
                    !inside.is_empty() && inside.iter().all(|stretch| fits(&stretch))
                })
            }
        }
    }

    /// Sectors that are what is looked for, and lie in the rule's ranges.
    pub(crate) fn stretches_matched(&self, known: &[Stretch], wanted: Wanted) -> Vec<(u64, u64)> {
        let fitting = known.iter().filter(|stretch| wanted.has(stretch.class, stretch.inode));
        let in_ranges = |stretch: &Stretch| {
            let (start, end) = (stretch.sector, stretch.sector + stretch.sectors);
            if self.matches.sectors.is_empty() { vec![(start, end)] } else { within(&self.matches.sectors, start, end) }
        };
        fitting.flat_map(in_ranges).collect()
    }
}

/// A path that nothing has, or an inode and a path that are two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Nowhere;
