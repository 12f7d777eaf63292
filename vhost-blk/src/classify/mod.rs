//! What is this block to ext4? For scripts that match by `class`, `inode` or `path`, or draw by file; others build none.
//!
//! At the start the whole file system is read once. After that nothing is read but what the guest writes: a request is
//! classified by the allocation that is known *when it arrives*, and then what it says is learned. A transaction of the
//! journal counts from its commit record on, which is earlier than its blocks come to their places. What nothing has
//! said is `unknown`: above all the first write to blocks that were just allocated.
//!
//! It follows what the guest *wrote*, whatever the device then did with it: a lost write of an inode is known here and
//! not on the disk. Every number that comes from the disk is checked; damage ends in `unknown`, never in a loop or panic.
//!
//! `find` finds the file system, `layout` says what is where by the superblock, `map` what an inode owns, `owners` whose
//! a block is, `journal` reads the log, `names` the directories; `scan` is the first look, `follow` what is written from then on.

mod disk_format;
mod find;
mod follow;
mod journal;
mod layout;
mod map;
mod names;
mod owners;
mod scan;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use fault_injection::{Class, Stretch, Wanted};

use self::disk_format::Descriptor;
use self::find::locate;
use self::journal::Journal;
use self::layout::{Layout, SUPERBLOCK_OFFSET};
use self::map::Inode;
use self::names::Watch;
use self::owners::{Owners, Role};

pub(crate) const SECTOR: u64 = fault_injection::SECTOR_BYTES;

/// The disk as the guest has written it.
pub trait Blocks {
    /// Reads at a byte offset of the disk.
    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// How large it is now.
    fn bytes(&self) -> u64;
}

/// Data of a write, or zeroes.
pub trait Data {
    /// Copies from byte `at` of the request on. False: the guest's memory is gone.
    fn copy(&mut self, at: u64, buf: &mut [u8]) -> bool;
}

/// What a request does to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// Nothing.
    Read,
    /// It has data.
    Write,
    /// The content is nobody's business any more.
    Discard,
}

/// Why no file system could be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// What is on the disk instead, and what to do.
    #[error("{0}")]
    Found(String),
    /// The host would not read.
    #[error("reading the image failed: {0}")]
    Host(String),
}

/// Everything that is known of one ext4.
pub struct Classifier {
    /// Of the disk, in bytes.
    start: u64,
    partition: Option<u32>,
    layout: Layout,
    descriptors: Vec<Descriptor>,
    owners: Owners,
    inodes: BTreeMap<u32, Inode>,
    /// Content of nodes, directories and inode bitmaps that the guest has written: the disk may not have it, or not yet.
    written: BTreeMap<u64, Arc<[u8]>>,
    journal: Option<Journal>,
    watches: Vec<Watch>,
    /// Paths that lead elsewhere since they were last asked for.
    news: Vec<(String, Option<u32>)>,
    names_changed: bool,
}

impl Classifier {
    /// Reads the file system of a disk: on the whole of it, or in its one partition with ext4, or in
    /// the partition of this number (from 1).
    pub fn new(disk: &dyn Blocks, partition: Option<u32>) -> Result<Classifier, Unreadable> {
        let (start, end) = locate(disk, partition)?;
        let mut superblock = [0; 1024];
        disk.read(&mut superblock, start + SUPERBLOCK_OFFSET).map_err(|error| Unreadable::Host(error.to_string()))?;
        let layout = Layout::parse(&superblock, end - start)?;
        let mut classifier = Classifier {
            start,
            partition,
            owners: Owners::default(),
            descriptors: Vec::new(),
            inodes: BTreeMap::new(),
            written: BTreeMap::new(),
            journal: None,
            watches: Vec::new(),
            news: Vec::new(),
            names_changed: false,
            layout,
        };
        classifier.scan(disk)?;
        Ok(classifier)
    }

    /// Reads everything again, as after a loss of power. What cannot be read any more is unknown.
    pub fn read_again(&mut self, disk: &dyn Blocks) {
        let paths: Vec<String> = self.watches.iter().map(|watch| watch.path().to_string()).collect();
        match Classifier::new(disk, self.partition) {
            Ok(again) => *self = again,
            Err(_) => self.forget(),
        }
        self.watches = paths.iter().map(|path| Watch::new(path)).collect();
        self.names_changed = true;
        self.follow_names(disk);
    }

    /// From now on where this path leads is news. Gives where it leads now.
    pub fn watch(&mut self, disk: &dyn Blocks, path: &str) -> Option<u32> {
        if self.watches.iter().all(|watch| watch.path() != path) {
            let mut watch = Watch::new(path);
            self.resolve(disk, &mut watch);
            self.watches.push(watch);
        }
        self.watches.iter().find(|watch| watch.path() == path).and_then(Watch::inode)
    }

    /// Paths that lead elsewhere since this was last asked.
    pub fn take_news(&mut self) -> Vec<(String, Option<u32>)> {
        std::mem::take(&mut self.news)
    }

    /// All sectors that are now what is wanted.
    pub fn sectors(&self, disk: &dyn Blocks, wanted: &Wanted) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        let most = 1 << 16;
        let mut block = 0;
        while block < self.layout.blocks {
            let blocks = most.min(self.layout.blocks - block);
            let sector = (self.start + block * self.layout.block_bytes) / SECTOR;
            let stretches = self.classify(disk, sector, blocks * self.layout.block_sectors(), None);
            let fitting = stretches.iter().filter(|stretch| wanted.has(stretch.class, stretch.inode));
            found.extend(fitting.map(|stretch| (stretch.sector, stretch.sector + stretch.sectors)));
            block += blocks;
        }
        found
    }

    /// Classifies a request that arrives now, by what is known before it, and learns from it.
    pub fn arrive(
        &mut self,
        disk: &dyn Blocks,
        touch: Touch,
        (sector, sectors): (u64, u64),
        data: &mut dyn Data,
    ) -> Vec<Stretch> {
        if touch != Touch::Write {
            return self.classify(disk, sector, sectors, None);
        }
        let known = self.classify(disk, sector, sectors, Some(data));
        self.learn(disk, &known, sector, data);
        known
    }

    /// What these sectors are, in rising order, without gaps. `data`: what they are about to hold.
    fn classify(&self, disk: &dyn Blocks, sector: u64, sectors: u64, data: Option<&mut dyn Data>) -> Vec<Stretch> {
        let mut found = Stretches { block_sectors: self.layout.block_sectors(), list: Vec::new() };
        let end = sector.saturating_add(sectors);
        let (fs_start, fs_end) = (self.start / SECTOR, (self.start + self.layout.bytes()) / SECTOR);
        let (first, after) = (sector.clamp(fs_start, fs_end), end.clamp(fs_start, fs_end));
        found.outside(sector, first.min(end));
        let mut kinds = Kinds { classifier: self, disk, data, request_sector: sector };
        if first < after {
            self.classify_inside(&mut found, (first, after), &mut kinds);
        }
        found.outside(after.max(sector), end);
        found.list
    }

    fn classify_inside(&self, found: &mut Stretches, (first, after): (u64, u64), kinds: &mut Kinds<'_, '_>) {
        let block_sectors = self.layout.block_sectors();
        let fs_start = self.start / SECTOR;
        let mut block = (first - fs_start) / block_sectors;
        let last = (after - fs_start).div_ceil(block_sectors);
        while block < last {
            let (run, blocks) = self.owners.at(block, last - block);
            // Journal and directories are looked at block by block.
            let blocks = if matches!(run.role, Role::Journal | Role::Dir) { 1 } else { blocks };
            let class = match run.role {
                Role::Fixed(class) => class,
                Role::Node => Class::ExtentNode,
                Role::Data => Class::Data,
                Role::Xattr => Class::Xattr,
                Role::Other => Class::Other,
                Role::Unowned => Class::Unknown,
                Role::Dir => self.directory_class(run.inode, run.file_block),
                Role::Journal => kinds.of_journal(block),
            };
            let sector = (fs_start + block * block_sectors).max(first);
            let end = (fs_start + (block + blocks) * block_sectors).min(after);
            let (inode, file_block) = (run.inode, run.file_block);
            found.add(Stretch { sector, sectors: end - sector, class, inode, file_block, block_sectors: 0 });
            block += blocks;
        }
    }

    fn directory_class(&self, inode: Option<u32>, file_block: Option<u64>) -> Class {
        let is_index = |inode: &Inode| file_block.is_some_and(|block| inode.index.contains(&block));
        let index = inode.and_then(|number| self.inodes.get(&number)).is_some_and(is_index);
        if index { Class::DirIndex } else { Class::Dir }
    }

    /// Content of a block as the guest wrote it.
    fn content(&self, disk: &dyn Blocks, block: u64) -> Option<Arc<[u8]>> {
        if let Some(content) = self.written.get(&block) {
            return Some(content.clone());
        }
        let bytes = self.layout.block_bytes;
        if block >= self.layout.blocks {
            return None;
        }
        let mut content = vec![0; bytes as usize];
        disk.read(&mut content, self.start + block * bytes).ok()?;
        Some(content.into())
    }
}

/// Collects stretches, and makes one of neighbours that are the same.
struct Stretches {
    block_sectors: u64,
    list: Vec<Stretch>,
}

impl Stretches {
    fn outside(&mut self, start: u64, end: u64) {
        if start < end {
            let (inode, file_block) = (None, None);
            self.add(Stretch {
                sector: start,
                sectors: end - start,
                class: Class::Other,
                inode,
                file_block,
                block_sectors: 0,
            });
        }
    }

    fn add(&mut self, stretch: Stretch) {
        let stretch = Stretch { block_sectors: self.block_sectors as u32, ..stretch };
        if let Some(last) = self.list.last_mut() {
            let blocks = last.sectors.div_ceil(self.block_sectors);
            let follows = last.file_block.map(|first| first + blocks) == stretch.file_block;
            let whole = last.file_block.is_none() || (last.sectors % self.block_sectors == 0);
            if (last.class, last.inode) == (stretch.class, stretch.inode) && follows && whole {
                last.sectors += stretch.sectors;
                return;
            }
        }
        self.list.push(stretch);
    }
}

/// Tells the kinds of journal blocks by their content: what is about to be written, or what is there.
struct Kinds<'c, 'd> {
    classifier: &'c Classifier,
    disk: &'c dyn Blocks,
    data: Option<&'d mut dyn Data>,
    request_sector: u64,
}

impl Kinds<'_, '_> {
    fn of_journal(&mut self, block: u64) -> Class {
        let offset = self.classifier.start + block * self.classifier.layout.block_bytes;
        let mut header = [0; 12];
        let read = match &mut self.data {
            Some(data) => {
                let from = self.request_sector * SECTOR;
                offset >= from && data.copy(offset - from, &mut header)
            }
            None => self.disk.read(&mut header, offset).is_ok(),
        };
        let journal = self.classifier.journal.as_ref();
        let index = self.classifier.owners.at(block, 1).0.file_block;
        match (read, journal, index) {
            (true, Some(journal), Some(index)) => journal.kind(index, &header),
            _ => Class::Journal,
        }
    }
}

#[cfg(test)]
mod tests;
