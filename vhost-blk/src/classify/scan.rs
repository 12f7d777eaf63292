//! The first look at a file system: everything that the superblock, the descriptors and the inodes say.

use std::collections::BTreeSet;

use fault_injection::Class;

use super::disk_format::Descriptor;
use super::journal::Journal;
use super::map;
use super::{Blocks, Classifier, Unreadable};

/// Inode tables are read in steps of so many bytes.
const SCAN_BYTES: u64 = 1 << 20;

impl Classifier {
    /// Reads the whole file system as it is on the disk, a journal that waits for its replay included.
    pub(super) fn scan(&mut self, disk: &dyn Blocks) -> Result<(), Unreadable> {
        self.read_descriptors(disk)?;
        self.fix_layout();
        self.open_journal(disk);
        self.replay(disk);
        for group in 0..self.layout.groups {
            self.scan_group(disk, group)?;
        }
        let keep: BTreeSet<u64> = self.written.keys().copied().filter(|block| self.is_kept(*block)).collect();
        self.written.retain(|block, _| keep.contains(block));
        Ok(())
    }

    pub(super) fn read_descriptors(&mut self, disk: &dyn Blocks) -> Result<(), Unreadable> {
        let per_block = self.layout.descriptors_per_block();
        self.descriptors = vec![Descriptor::default(); self.layout.groups as usize];
        for number in 0..u64::from(self.layout.groups).div_ceil(per_block) {
            let content = self.content(disk, self.layout.descriptor_block(number));
            let content = content.ok_or_else(|| Unreadable::Host("group descriptors cannot be read".into()))?;
            self.take_descriptors(number, &content);
        }
        Ok(())
    }

    /// Gives whether anything lies elsewhere now.
    pub(super) fn take_descriptors(&mut self, number: u64, content: &[u8]) -> bool {
        let mut moved = false;
        let first = (number * self.layout.descriptors_per_block()) as usize;
        let parsed = content.chunks_exact(self.layout.descriptor_bytes as usize).map(Descriptor::parse);
        for (known, new) in self.descriptors.iter_mut().skip(first).zip(parsed) {
            let Some(new) = new else { continue };
            let place = |of: &Descriptor| (of.block_bitmap, of.inode_bitmap, of.inode_table);
            moved |= place(known) != place(&new);
            *known = new;
        }
        moved
    }

    /// Superblocks, descriptors, bitmaps and inode tables. What lies off the disk is left out.
    pub(super) fn fix_layout(&mut self) {
        let layout = &self.layout;
        let mut places: Vec<(u64, u64, Class)> = Vec::new();
        for (group, descriptor) in (0..layout.groups).zip(&self.descriptors) {
            let class = |is_superblock| if is_superblock { Class::Superblock } else { Class::Gdt };
            places.extend(layout.copies(group).into_iter().map(|(start, blocks, is)| (start, blocks, class(is))));
            places.push((descriptor.block_bitmap, 1, Class::BlockBitmap));
            places.push((descriptor.inode_bitmap, 1, Class::InodeBitmap));
            places.push((descriptor.inode_table, layout.inode_table_blocks(), Class::InodeTable));
        }
        places.push((layout.mmp_block, 1, Class::Other));
        let on_disk = |place: &(u64, u64, Class)| {
            place.0 != 0 && place.0.checked_add(place.1).is_some_and(|end| end <= layout.blocks)
        };
        let block_0 = if layout.superblock_block() == 0 { Class::Superblock } else { Class::Other };
        let places: Vec<_> = places.into_iter().filter(on_disk).collect();
        self.owners.unfix();
        self.owners.fix(0, 1, block_0);
        places.into_iter().for_each(|(start, blocks, class)| self.owners.fix(start, blocks, class));
    }

    fn open_journal(&mut self, disk: &dyn Blocks) {
        self.journal = None;
        let Some(number) = self.layout.journal_inode else { return };
        let Some(bytes) = self.inode_bytes(disk, number) else { return };
        self.take_inode(disk, number, &bytes, true);
        let superblock = self.inodes.get(&number).and_then(|inode| inode.block_of(0));
        let superblock = superblock.and_then(|block| self.content(disk, block));
        self.journal = superblock.and_then(|superblock| Journal::open(&superblock, self.layout.block_bytes));
    }

    /// A mount would replay the journal before anything else; so it is known as if it had been.
    fn replay(&mut self, disk: &dyn Blocks) {
        let (Some(journal), Some(number)) = (&self.journal, self.layout.journal_inode) else { return };
        let Some(log) = self.inodes.get(&number) else { return };
        let read = |index: u32| log.block_of(index.into()).and_then(|block| self.content(disk, block));
        let blocks = journal.replay(read);
        self.stage(disk, &blocks);
    }

    fn scan_group(&mut self, disk: &dyn Blocks, group: u32) -> Result<(), Unreadable> {
        let descriptor = self.descriptors[group as usize];
        let (layout, table) = (&self.layout, descriptor.inode_table);
        let mut inodes = layout.inodes_per_group;
        if layout.knows_unused {
            inodes -= if descriptor.no_inodes { inodes } else { descriptor.unused_inodes.min(inodes) };
        }
        let bytes = u64::from(inodes) * layout.inode_bytes;
        let on_disk = table.checked_add(layout.inode_table_blocks()).is_some_and(|end| end <= layout.blocks);
        if table == 0 || !on_disk {
            return Ok(());
        }
        let (block_bytes, inode_bytes) = (layout.block_bytes, layout.inode_bytes);
        let mut done = 0;
        while done < bytes {
            // Whole blocks, so that what a replay brings can be laid over them.
            let step = SCAN_BYTES.min((bytes - done).next_multiple_of(block_bytes));
            let mut content = vec![0; step as usize];
            let read = disk.read(&mut content, self.start + table * block_bytes + done);
            read.map_err(|error| Unreadable::Host(error.to_string()))?;
            for (i, block) in content.chunks_exact_mut(block_bytes as usize).enumerate() {
                if let Some(written) = self.written.get(&(table + done / block_bytes + i as u64)) {
                    block.copy_from_slice(written);
                }
            }
            let first = u64::from(group) * u64::from(self.layout.inodes_per_group) + done / inode_bytes;
            self.scan_inodes(disk, first as u32, &content, ((bytes - done) / inode_bytes) as usize);
            done += step;
        }
        Ok(())
    }

    fn scan_inodes(&mut self, disk: &dyn Blocks, first: u32, content: &[u8], most: usize) {
        let inode_bytes = self.layout.inode_bytes as usize;
        for (i, bytes) in (1..).zip(content.chunks_exact(inode_bytes).take(most)) {
            let number = first + i;
            if !map::is_empty(bytes) {
                self.take_inode(disk, number, bytes, true);
            }
        }
    }

    pub(super) fn is_allocated(&self, disk: &dyn Blocks, inode: u32) -> bool {
        let Some((group, place)) = self.layout.inode_place(inode) else { return false };
        let bitmap = self.content(disk, self.descriptors[group as usize].inode_bitmap);
        bitmap.and_then(|bits| bits.get((place / 8) as usize).copied()).is_some_and(|byte| byte >> (place % 8) & 1 == 1)
    }

    fn inode_bytes(&self, disk: &dyn Blocks, inode: u32) -> Option<Vec<u8>> {
        let (group, place) = self.layout.inode_place(inode)?;
        let (block_bytes, inode_bytes) = (self.layout.block_bytes, self.layout.inode_bytes);
        let block = self.descriptors[group as usize].inode_table + place * inode_bytes / block_bytes;
        let at = (place * inode_bytes % block_bytes) as usize;
        Some(self.content(disk, block)?.get(at..at + inode_bytes as usize)?.to_vec())
    }
}
