//! What is where by the superblock alone: sizes, groups, and where copies of superblock and descriptors lie.
//!
//! A layout that was parsed is sound: no size is zero, every group and descriptor lies on the disk.

use zerocopy::FromBytes;

use super::Unreadable;
use super::disk_format::RawSuperblock;

/// Where the superblock lies in the file system, whatever the block size.
pub const SUPERBLOCK_OFFSET: u64 = 1024;
/// Superblock and magic of every ext2, ext3 and ext4.
pub const MAGIC: u16 = 0xEF53;
/// mke2fs makes no smaller groups; the bound keeps their number in proportion to the disk.
const LEAST_BLOCKS_PER_GROUP: u64 = 256;

/// Features that change where things are.
mod feature {
    pub const COMPAT_HAS_JOURNAL: u32 = 0x4;
    pub const COMPAT_SPARSE_SUPER2: u32 = 0x200;
    pub const INCOMPAT_JOURNAL_DEVICE: u32 = 0x8;
    pub const INCOMPAT_META_BG: u32 = 0x10;
    pub const INCOMPAT_64BIT: u32 = 0x80;
    pub const RO_SPARSE_SUPER: u32 = 0x1;
    pub const RO_GDT_CSUM: u32 = 0x10;
    pub const RO_METADATA_CSUM: u32 = 0x400;

    /// Those that a reader must know, and we do: filetype, recover, meta_bg, extents, 64bit, mmp, flex_bg, ea_inode,
    /// csum_seed, largedir, inline_data, encrypt, casefold.
    pub const INCOMPAT_KNOWN: u32 =
        0x2 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x1_0000 | 0x2_0000;
}

/// Which groups have copies of superblock and descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backups {
    All,
    /// 0, 1, and the powers of 3, 5 and 7.
    Sparse,
    /// 0, and these two.
    Two([u32; 2]),
}

/// Sizes and places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub block_bytes: u64,
    pub blocks: u64,
    pub first_data_block: u64,
    pub blocks_per_group: u64,
    pub groups: u32,
    pub inodes_per_group: u32,
    pub inode_bytes: u64,
    pub descriptor_bytes: u64,
    /// The descriptors say how much of an inode table was never used.
    pub knows_unused: bool,
    /// Inode of the journal, if there is one.
    pub journal_inode: Option<u32>,
    /// Inodes whose content is nobody's data.
    pub hidden_inodes: Vec<u32>,
    /// Block of multi-mount protection; 0 is none.
    pub mmp_block: u64,
    uuid: [u8; 16],
    reserved_gdt_blocks: u64,
    /// From this meta group on descriptors lie in the groups they describe.
    first_meta_bg: u64,
    backups: Backups,
}

impl Layout {
    /// Reads the superblock of a file system that may take so many bytes.
    pub fn parse(superblock: &[u8; 1024], bytes: u64) -> Result<Layout, Unreadable> {
        let raw = RawSuperblock::ref_from_bytes(superblock).expect("the sizes are the same");
        refuse_features(raw)?;
        let damaged =
            |what: &str| Unreadable::Found(format!("its ext4 superblock is damaged: {what}; run e2fsck on it"));
        if raw.log_block_bytes.get() > 6 {
            return Err(damaged("the block size is none"));
        }
        let block_bytes = 1024u64 << raw.log_block_bytes.get();
        let wide = raw.incompat.get() & feature::INCOMPAT_64BIT != 0;
        let blocks = u64::from(raw.blocks_lo.get()) | if wide { u64::from(raw.blocks_hi.get()) << 32 } else { 0 };
        let first_data_block = u64::from(raw.first_data_block.get());
        let blocks_per_group = u64::from(raw.blocks_per_group.get());
        if blocks > bytes / block_bytes {
            return Err(Unreadable::Found(format!(
                "its ext4 has {blocks} blocks of {block_bytes} bytes and there are {bytes} bytes: it was cut off"
            )));
        }
        if first_data_block > 1 || blocks <= first_data_block || blocks_per_group < LEAST_BLOCKS_PER_GROUP {
            return Err(damaged("blocks and groups make no sense"));
        }
        let groups = u32::try_from((blocks - first_data_block).div_ceil(blocks_per_group))
            .map_err(|_| damaged("there are too many groups"))?;
        let inode_bytes = if raw.revision.get() == 0 { 128 } else { u64::from(raw.inode_bytes.get()) };
        let descriptor_bytes = if wide { u64::from(raw.descriptor_bytes.get()) } else { 32 };
        let inodes_per_group = raw.inodes_per_group.get();
        let is_size = |n: u64, least: u64| n.is_power_of_two() && n >= least && n <= block_bytes;
        if !is_size(inode_bytes, 128) || !is_size(descriptor_bytes, if wide { 64 } else { 32 }) {
            return Err(damaged("the size of inodes or descriptors is none"));
        }
        let table_bytes = u64::from(inodes_per_group) * inode_bytes;
        if inodes_per_group == 0
            || u64::from(inodes_per_group) > 8 * block_bytes
            || table_bytes > blocks_per_group * block_bytes
        {
            return Err(damaged("the number of inodes is none"));
        }
        if u64::from(inodes_per_group) * u64::from(groups) > u64::from(u32::MAX) {
            return Err(damaged("there are too many inodes"));
        }
        let meta_bg = raw.incompat.get() & feature::INCOMPAT_META_BG != 0;
        let has_journal = raw.compat.get() & feature::COMPAT_HAS_JOURNAL != 0;
        Ok(Layout {
            block_bytes,
            blocks,
            first_data_block,
            blocks_per_group,
            groups,
            inodes_per_group,
            inode_bytes,
            descriptor_bytes,
            knows_unused: raw.ro_compat.get() & (feature::RO_GDT_CSUM | feature::RO_METADATA_CSUM) != 0,
            journal_inode: has_journal.then(|| raw.journal_inode.get()),
            hidden_inodes: hidden_inodes(raw),
            mmp_block: u64::from(raw.mmp_block_hi.get()) << 32 | u64::from(raw.mmp_block_lo.get()),
            uuid: raw.uuid,
            reserved_gdt_blocks: u64::from(raw.reserved_gdt_blocks.get()),
            first_meta_bg: if meta_bg { u64::from(raw.first_meta_bg.get()) } else { u64::MAX },
            backups: backups(raw),
        })
    }

    /// Whether this is the same file system, though it may have grown.
    pub fn is_same(&self, other: &Layout) -> bool {
        let key = |layout: &Layout| {
            let Layout { uuid, block_bytes, blocks_per_group, inodes_per_group, inode_bytes, .. } = *layout;
            (uuid, block_bytes, blocks_per_group, inodes_per_group, inode_bytes, layout.journal_inode)
        };
        key(self) == key(other)
    }

    pub fn bytes(&self) -> u64 {
        self.blocks * self.block_bytes
    }

    pub fn block_sectors(&self) -> u64 {
        self.block_bytes / super::SECTOR
    }

    /// The block that holds the superblock.
    pub fn superblock_block(&self) -> u64 {
        SUPERBLOCK_OFFSET / self.block_bytes
    }

    pub fn group_start(&self, group: u32) -> u64 {
        self.first_data_block + u64::from(group) * self.blocks_per_group
    }

    pub fn inode_table_blocks(&self) -> u64 {
        (u64::from(self.inodes_per_group) * self.inode_bytes).div_ceil(self.block_bytes)
    }

    pub fn inodes(&self) -> u32 {
        self.groups * self.inodes_per_group
    }

    /// Whether a group begins with a copy of the superblock.
    pub fn has_superblock(&self, group: u32) -> bool {
        match self.backups {
            _ if group == 0 => true,
            Backups::All => true,
            Backups::Two(groups) => groups.contains(&group),
            Backups::Sparse => group == 1 || [3, 5, 7].into_iter().any(|base| is_power_of(group, base)),
        }
    }

    pub fn descriptors_per_block(&self) -> u64 {
        self.block_bytes / self.descriptor_bytes
    }

    fn descriptor_blocks(&self) -> u64 {
        u64::from(self.groups).div_ceil(self.descriptors_per_block())
    }

    /// Descriptor blocks that lie behind the superblock and its copies, those reserved for growth included.
    fn classic_descriptor_blocks(&self) -> (u64, u64) {
        let classic = self.descriptor_blocks().min(self.first_meta_bg);
        (classic, self.reserved_gdt_blocks)
    }

    /// Where the descriptors of this number lie first: the copy that counts.
    pub fn descriptor_block(&self, number: u64) -> u64 {
        if number < self.first_meta_bg {
            return self.superblock_block() + 1 + number;
        }
        self.meta_bg_copy((number * self.descriptors_per_block()) as u32)
    }

    fn meta_bg_copy(&self, group: u32) -> u64 {
        // The first superblock of a file system with small blocks lies in the block before group 0 has any other.
        self.group_start(group).max(if group == 0 { self.superblock_block() } else { 0 })
            + u64::from(self.has_superblock(group))
    }

    /// Superblock and descriptors that lie at the start of a group: (block, blocks, is it a superblock).
    pub fn copies(&self, group: u32) -> Vec<(u64, u64, bool)> {
        let start = if group == 0 { self.superblock_block() } else { self.group_start(group) };
        let mut copies = Vec::new();
        if self.has_superblock(group) {
            copies.push((start, 1, true));
            let (classic, reserved) = self.classic_descriptor_blocks();
            copies.push((start + 1, classic + reserved, false));
        }
        let per_block = self.descriptors_per_block();
        let (meta_group, place) = (u64::from(group) / per_block, u64::from(group) % per_block);
        if meta_group >= self.first_meta_bg && (place < 2 || place == per_block - 1) {
            copies.push((self.meta_bg_copy(group), 1, false));
        }
        copies
    }

    /// The group and place in its table of an inode (from 1).
    pub fn inode_place(&self, inode: u32) -> Option<(u32, u64)> {
        let number = inode.checked_sub(1)?;
        (number < self.inodes()).then(|| (number / self.inodes_per_group, u64::from(number % self.inodes_per_group)))
    }
}

fn refuse_features(raw: &RawSuperblock) -> Result<(), Unreadable> {
    let found = |text: String| Err(Unreadable::Found(text));
    if raw.magic.get() != MAGIC {
        return found("there is no ext4 superblock".into());
    }
    let incompat = raw.incompat.get();
    if incompat & feature::INCOMPAT_JOURNAL_DEVICE != 0 {
        return found("it is the journal device of an ext4 elsewhere".into());
    }
    let unknown = incompat & !feature::INCOMPAT_KNOWN;
    if unknown != 0 {
        return found(format!("its ext4 has features that are not known here (incompat {unknown:#x})"));
    }
    let has_journal = raw.compat.get() & feature::COMPAT_HAS_JOURNAL != 0;
    if has_journal && (raw.journal_inode.get() == 0 || raw.journal_device.get() != 0) {
        return found(
            "its ext4 keeps its journal on another device, and what is on its way there cannot be followed; make it with \
             an internal journal (tune2fs -O ^has_journal, then tune2fs -j)"
                .into(),
        );
    }
    Ok(())
}

/// Bad blocks, quotas, boot loader, the exclude and snapshot inodes of others, the orphan file.
fn hidden_inodes(raw: &RawSuperblock) -> Vec<u32> {
    let named = [
        raw.user_quota_inode.get(),
        raw.group_quota_inode.get(),
        raw.project_quota_inode.get(),
        raw.snapshot_inode.get(),
        raw.orphan_file_inode.get(),
    ];
    [1, 3, 4, 5, 6, 9, 10].into_iter().chain(named.into_iter().filter(|inode| *inode != 0)).collect()
}

fn backups(raw: &RawSuperblock) -> Backups {
    if raw.compat.get() & feature::COMPAT_SPARSE_SUPER2 != 0 {
        return Backups::Two(raw.backup_groups.map(|group| group.get()));
    }
    if raw.ro_compat.get() & feature::RO_SPARSE_SUPER != 0 { Backups::Sparse } else { Backups::All }
}

fn is_power_of(mut n: u32, base: u32) -> bool {
    while n > 1 && n.is_multiple_of(base) {
        n /= base;
    }
    n == 1
}
