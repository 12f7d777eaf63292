//! What is written changes what is known.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use fault_injection::{Class, Stretch};

use super::disk_format::Descriptor;
use super::journal::{FastRange, Transaction, fast_ranges};
use super::layout::{Layout, SUPERBLOCK_OFFSET};
use super::map::{self, Inode};
use super::names::index_blocks;
use super::owners::{Role, Run};
use super::{Blocks, Classifier, Data, SECTOR};

type Written = BTreeMap<u64, Arc<[u8]>>;

impl Classifier {
    /// Learns from a write that is about to be made.
    pub(super) fn learn(&mut self, disk: &dyn Blocks, known: &[Stretch], sector: u64, data: &mut dyn Data) {
        let mut blocks: Vec<u64> = Vec::new();
        for stretch in known.iter().filter(|stretch| says_something(stretch.class)) {
            let offset = (stretch.sector * SECTOR).saturating_sub(self.start);
            let end = offset + stretch.sectors * SECTOR;
            let block_bytes = self.layout.block_bytes;
            blocks
                .extend((offset / block_bytes..end.div_ceil(block_bytes)).filter(|block| *block < self.layout.blocks));
        }
        blocks.dedup();
        let sectors: u64 = known.iter().map(|stretch| stretch.sectors).sum();
        let request = sector * SECTOR..(sector + sectors) * SECTOR;
        for block in blocks {
            if let Some(content) = self.new_content(disk, block, &request, data) {
                self.block_written(disk, block, content);
            }
        }
        self.follow_names(disk);
    }

    /// A block as it is after a request, of which it may be only a part.
    fn new_content(
        &self,
        disk: &dyn Blocks,
        block: u64,
        request: &Range<u64>,
        data: &mut dyn Data,
    ) -> Option<Arc<[u8]>> {
        let start = self.start + block * self.layout.block_bytes;
        let end = start + self.layout.block_bytes;
        let (from, to) = (start.max(request.start), end.min(request.end));
        let mut content = match (from, to) == (start, end) {
            true => vec![0; self.layout.block_bytes as usize],
            false => self.content(disk, block)?.to_vec(),
        };
        let part = content.get_mut((from - start) as usize..(to - start) as usize)?;
        data.copy(from - request.start, part).then(|| content.into())
    }

    fn block_written(&mut self, disk: &dyn Blocks, block: u64, content: Arc<[u8]>) {
        let (run, _) = self.owners.at(block, 1);
        match run.role {
            Role::Fixed(_) => self.fixed_written(disk, block, &content),
            Role::Journal => self.log_written(disk, run.file_block, content),
            Role::Node | Role::Dir if self.written.get(&block) == Some(&content) => {}
            Role::Node => {
                self.written.insert(block, content);
                self.walk_again(disk, run.inode);
            }
            Role::Dir => self.directory_written(disk, block, content),
            // Without a journal a node may come before the inode that leads to it.
            Role::Unowned if map::looks_like_a_node(&content) => drop(self.written.insert(block, content)),
            Role::Unowned => drop(self.written.remove(&block)),
            Role::Data | Role::Xattr | Role::Other => {}
        }
    }

    fn log_written(&mut self, disk: &dyn Blocks, index: Option<u64>, content: Arc<[u8]>) {
        let (Some(journal), Some(index)) = (&mut self.journal, index) else { return };
        if journal.is_fast(index) {
            return fast_ranges(&content).into_iter().for_each(|range| self.fast_range(range));
        }
        for transaction in journal.write(index, content) {
            self.commit(disk, transaction);
        }
    }

    /// A fast commit says what a file got or lost; the next full one says it again, with the inode.
    fn fast_range(&mut self, range: FastRange) {
        match range {
            FastRange::Added { inode, file_block, start, blocks } => {
                let on_disk = start > self.layout.first_data_block
                    && start.checked_add(blocks).is_some_and(|end| end <= self.layout.blocks);
                if !on_disk || blocks == 0 || self.layout.inode_place(inode).is_none() {
                    return;
                }
                let known = self.inodes.entry(inode).or_insert_with(Inode::of_fast_commits);
                let run = Run { role: known.role, inode: Some(inode), file_block: Some(file_block) };
                known.runs.push((start, blocks, run));
                self.owners.claim(start, blocks, run);
            }
            FastRange::Removed { inode, file_block, blocks } => {
                let Some(known) = self.inodes.get(&inode) else { return };
                let gone = file_block..file_block.saturating_add(blocks);
                for (block, place) in known.content_blocks().filter(|(_, place)| gone.contains(place)) {
                    if self.owners.at(block, 1).0.file_block == Some(place) {
                        self.owners.give_up(block, 1, inode);
                    }
                }
            }
        }
    }

    /// A transaction is committed: its blocks are as if they were in their places.
    fn commit(&mut self, disk: &dyn Blocks, transaction: Transaction) {
        let Transaction { blocks, revoked } = transaction;
        revoked.iter().filter(|block| !blocks.contains_key(block)).for_each(|block| drop(self.written.remove(block)));
        self.stage(disk, &blocks);
        // What the inodes say first: only then is known which blocks are nodes and names.
        for (block, content) in &blocks {
            match self.owners.at(*block, 1).0.role {
                Role::Fixed(Class::InodeTable) => self.inodes_written(disk, *block, content),
                Role::Fixed(Class::InodeBitmap) => self.inode_bitmap_written(disk, *block, content),
                _ => {}
            }
        }
        for (block, content) in blocks {
            let (run, _) = self.owners.at(block, 1);
            match run.role {
                Role::Node => self.walk_again(disk, run.inode),
                Role::Dir => self.directory_written(disk, block, content),
                Role::Fixed(Class::InodeBitmap) => {}
                _ => drop(self.written.remove(&block)),
            }
        }
    }

    /// Takes what several blocks say of the layout, and keeps the rest until it is known what it is.
    pub(super) fn stage(&mut self, disk: &dyn Blocks, blocks: &Written) {
        for (block, content) in blocks.iter().filter(|(block, _)| **block < self.layout.blocks) {
            if content.len() as u64 == self.layout.block_bytes {
                self.written.insert(*block, content.clone());
            }
        }
        let superblock = self.layout.superblock_block();
        if let Some(content) = blocks.get(&superblock) {
            self.superblock_written(disk, content);
        }
        for (block, content) in blocks {
            if matches!(self.owners.at(*block, 1).0.role, Role::Fixed(Class::Gdt)) {
                self.descriptors_written(*block, content);
            }
        }
    }

    fn fixed_written(&mut self, disk: &dyn Blocks, block: u64, content: &[u8]) {
        match self.owners.at(block, 1).0.role {
            Role::Fixed(Class::Superblock) if block == self.layout.superblock_block() => {
                self.superblock_written(disk, content);
            }
            Role::Fixed(Class::Gdt) => self.descriptors_written(block, content),
            Role::Fixed(Class::InodeTable) => self.inodes_written(disk, block, content),
            Role::Fixed(Class::InodeBitmap) => self.inode_bitmap_written(disk, block, content),
            _ => {}
        }
    }

    /// The file system may have grown, or be another one.
    fn superblock_written(&mut self, disk: &dyn Blocks, content: &[u8]) {
        let at = (SUPERBLOCK_OFFSET % self.layout.block_bytes) as usize;
        let Some(bytes) = content.get(at..at + 1024).and_then(|bytes| bytes.try_into().ok()) else { return };
        let Ok(layout) = Layout::parse(bytes, disk.bytes().saturating_sub(self.start)) else { return };
        if layout == self.layout {
            return;
        }
        let is_same = layout.is_same(&self.layout);
        self.layout = layout;
        if is_same {
            // What the descriptors of new groups say comes with them; those of old groups stay.
            let old = std::mem::take(&mut self.descriptors);
            if self.read_descriptors(disk).is_ok() {
                old.into_iter().zip(&mut self.descriptors).for_each(|(old, new)| *new = old);
            }
            self.fix_layout();
            return;
        }
        self.forget();
        // What cannot be read is unknown.
        let _ = self.scan(disk);
        self.names_changed = true;
    }

    /// Nothing is known any more.
    pub(super) fn forget(&mut self) {
        self.owners = Default::default();
        self.inodes.clear();
        self.written.clear();
        self.journal = None;
    }

    fn descriptors_written(&mut self, block: u64, content: &[u8]) {
        let per_block = self.layout.descriptors_per_block();
        let numbers = 0..u64::from(self.layout.groups).div_ceil(per_block);
        // The first copies follow each other but for meta groups, of which each is in its own place.
        let number = match block.checked_sub(self.layout.descriptor_block(0)) {
            Some(number) if numbers.contains(&number) && self.layout.descriptor_block(number) == block => Some(number),
            _ => numbers.clone().find(|number| self.layout.descriptor_block(*number) == block),
        };
        if number.is_some_and(|number| self.take_descriptors(number, content)) {
            self.fix_layout();
        }
    }

    fn inodes_written(&mut self, disk: &dyn Blocks, block: u64, content: &[u8]) {
        let blocks = self.layout.inode_table_blocks();
        let holds = |descriptor: &Descriptor| {
            block >= descriptor.inode_table && block - descriptor.inode_table < blocks && descriptor.inode_table != 0
        };
        let Some(group) = self.descriptors.iter().position(holds) else { return };
        let inode_bytes = self.layout.inode_bytes;
        let place = (block - self.descriptors[group].inode_table) * self.layout.block_bytes / inode_bytes;
        for (place, bytes) in
            (place..self.layout.inodes_per_group.into()).zip(content.chunks_exact(inode_bytes as usize))
        {
            let number = group as u64 * u64::from(self.layout.inodes_per_group) + place + 1;
            self.take_inode(disk, number as u32, bytes, false);
        }
    }

    /// Inodes that no name led to may be free now.
    fn inode_bitmap_written(&mut self, disk: &dyn Blocks, block: u64, content: &[u8]) {
        self.written.insert(block, content.into());
        let Some(group) = self.descriptors.iter().position(|descriptor| descriptor.inode_bitmap == block) else {
            return;
        };
        let first = group as u32 * self.layout.inodes_per_group + 1;
        let group = first..=first - 1 + self.layout.inodes_per_group;
        let nameless = self.inodes.range(group).filter(|(_, inode)| map::has_no_links(&inode.bytes));
        let nameless: Vec<(u32, Box<[u8]>)> = nameless.map(|(number, inode)| (*number, inode.bytes.clone())).collect();
        nameless.into_iter().for_each(|(number, bytes)| self.take_inode(disk, number, &bytes, true));
    }

    /// An inode is as these bytes say.
    pub(super) fn take_inode(&mut self, disk: &dyn Blocks, number: u32, bytes: &[u8], again: bool) {
        match self.inodes.get(&number) {
            Some(known) if !again && known.is_same(bytes) => return,
            None if map::is_empty(bytes) => return,
            _ => {}
        }
        // One that no name leads to may be open still, or a leftover that only the bitmap knows to be free.
        let is_free = map::has_no_links(bytes) && !self.is_allocated(disk, number);
        let read = || Inode::read(&self.layout, number, bytes, &|block| self.content(disk, block));
        let mut inode = if is_free { None } else { read() };
        if let Some(inode) = inode.as_mut().filter(|inode| inode.is_indexed) {
            inode.index = index_blocks(inode, &|block| self.content(disk, block));
        }
        if let Some(old) = self.inodes.remove(&number) {
            self.give_up(number, &old);
        }
        if let Some(inode) = inode {
            self.claim(number, &inode);
            self.inodes.insert(number, inode);
        }
        self.directory_changed(number);
    }

    fn claim(&mut self, number: u32, inode: &Inode) {
        for (start, blocks, run) in &inode.runs {
            self.owners.claim(*start, *blocks, *run);
        }
        for node in &inode.nodes {
            let run = Run { role: Role::Node, inode: Some(number), file_block: None };
            self.owners.claim(*node, 1, run);
        }
    }

    fn give_up(&mut self, number: u32, old: &Inode) {
        old.runs.iter().for_each(|(start, blocks, _)| self.owners.give_up(*start, *blocks, number));
        old.nodes.iter().for_each(|node| self.owners.give_up(*node, 1, number));
    }

    /// A node has new content: the inode's map is another.
    fn walk_again(&mut self, disk: &dyn Blocks, inode: Option<u32>) {
        let Some(number) = inode else { return };
        let Some(bytes) = self.inodes.get(&number).map(|inode| inode.bytes.clone()) else { return };
        self.take_inode(disk, number, &bytes, true);
    }

    fn directory_written(&mut self, disk: &dyn Blocks, block: u64, content: Arc<[u8]>) {
        let (run, _) = self.owners.at(block, 1);
        let Some((number, file_block)) = run.inode.zip(run.file_block) else { return };
        let Some(inode) = self.inodes.get(&number) else { return };
        let is_index = inode.is_indexed && inode.index.contains(&file_block);
        self.names_written(number, block, &content);
        match is_index || self.watches_names() {
            true => drop(self.written.insert(block, content)),
            false => drop(self.written.remove(&block)),
        }
        if is_index && let Some(inode) = self.inodes.get(&number) {
            let index = index_blocks(inode, &|block| self.content(disk, block));
            if let Some(inode) = self.inodes.get_mut(&number) {
                inode.index = index;
            }
        }
    }

    /// Whether what was written to a block is worth keeping.
    pub(super) fn is_kept(&self, block: u64) -> bool {
        matches!(self.owners.at(block, 1).0.role, Role::Node | Role::Dir | Role::Fixed(Class::InodeBitmap))
    }
}

/// Whether a write to such a block changes what is known.
fn says_something(class: Class) -> bool {
    !matches!(class, Class::Data | Class::Xattr | Class::BlockBitmap | Class::Other)
}
