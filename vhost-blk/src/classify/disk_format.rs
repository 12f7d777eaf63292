//! The structures of ext4 on the disk, as far as they are read: typed views on bytes, nothing checked.
//!
//! Field by field as the kernel documents them (Documentation/filesystems/ext4, v6.12); what is not read is room.

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

#[derive(FromBytes, Immutable, KnownLayout, Unaligned, Clone)]
#[repr(C)]
pub struct RawSuperblock {
    pub inodes: U32,
    pub blocks_lo: U32,
    _reserved_blocks: [u8; 12],
    pub first_data_block: U32,
    pub log_block_bytes: U32,
    _log_cluster: U32,
    pub blocks_per_group: U32,
    _clusters_per_group: U32,
    pub inodes_per_group: U32,
    _times: [u8; 12],
    pub magic: U16,
    _state: [u8; 18],
    pub revision: U32,
    _owner: U32,
    _first_inode: U32,
    pub inode_bytes: U16,
    _group: U16,
    pub compat: U32,
    pub incompat: U32,
    pub ro_compat: U32,
    pub uuid: [u8; 16],
    _names: [u8; 86],
    pub reserved_gdt_blocks: U16,
    _journal_uuid: [u8; 16],
    pub journal_inode: U32,
    pub journal_device: U32,
    _hash: [u8; 22],
    pub descriptor_bytes: U16,
    _mount_options: U32,
    pub first_meta_bg: U32,
    _journal_backup: [u8; 72],
    pub blocks_hi: U32,
    _sizes: [u8; 20],
    pub mmp_block_lo: U32,
    pub mmp_block_hi: U32,
    _raid: [u8; 16],
    pub snapshot_inode: U32,
    _errors: [u8; 188],
    pub user_quota_inode: U32,
    pub group_quota_inode: U32,
    _overhead: U32,
    pub backup_groups: [U32; 2],
    _encryption: [u8; 24],
    pub project_quota_inode: U32,
    _seed: [u8; 16],
    pub orphan_file_inode: U32,
    _rest: [u8; 380],
}

const _: () = assert!(size_of::<RawSuperblock>() == 1024);

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawDescriptor {
    pub block_bitmap_lo: U32,
    pub inode_bitmap_lo: U32,
    pub inode_table_lo: U32,
    _counts: [u8; 6],
    pub flags: U16,
    _checksums: [u8; 8],
    pub unused_inodes_lo: U16,
    _checksum: U16,
}

/// What descriptors of 64 bytes and more have besides.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawDescriptorHigh {
    pub block_bitmap_hi: U32,
    pub inode_bitmap_hi: U32,
    pub inode_table_hi: U32,
    _counts: [u8; 6],
    pub unused_inodes_hi: U16,
}

/// A group, as its descriptor says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Descriptor {
    pub block_bitmap: u64,
    pub inode_bitmap: u64,
    pub inode_table: u64,
    /// The inode table was never used (INODE_UNINIT).
    pub no_inodes: bool,
    /// Inodes at the end of the table that were never used.
    pub unused_inodes: u32,
}

impl Descriptor {
    pub fn parse(bytes: &[u8]) -> Option<Descriptor> {
        let (low, rest) = RawDescriptor::ref_from_prefix(bytes).ok()?;
        let high = RawDescriptorHigh::ref_from_prefix(rest).ok().map(|(high, _)| high);
        let join = |low: U32, high: Option<U32>| u64::from(high.map_or(0, U32::get)) << 32 | u64::from(low.get());
        let unused_hi = high.map_or(0, |high| high.unused_inodes_hi.get());
        Some(Descriptor {
            block_bitmap: join(low.block_bitmap_lo, high.map(|high| high.block_bitmap_hi)),
            inode_bitmap: join(low.inode_bitmap_lo, high.map(|high| high.inode_bitmap_hi)),
            inode_table: join(low.inode_table_lo, high.map(|high| high.inode_table_hi)),
            no_inodes: low.flags.get() & 1 != 0,
            unused_inodes: u32::from(unused_hi) << 16 | u32::from(low.unused_inodes_lo.get()),
        })
    }
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned, Clone, PartialEq, Eq)]
#[repr(C)]
pub struct RawInode {
    pub mode: U16,
    _owner: U16,
    pub size_lo: U32,
    _times: [u8; 16],
    _group: U16,
    pub links: U16,
    pub sectors_lo: U32,
    pub flags: U32,
    _version: U32,
    /// Extents, block numbers, inline data, or the target of a short symbolic link.
    pub block: [u8; 60],
    _generation: U32,
    pub attributes_lo: U32,
    pub size_hi: U32,
    _fragment: U32,
    _sectors_hi: U16,
    pub attributes_hi: U16,
    _rest: [u8; 8],
}

const _: () = assert!(size_of::<RawInode>() == 128);

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawExtentHeader {
    pub magic: U16,
    pub entries: U16,
    pub most: U16,
    pub depth: U16,
    _generation: U32,
}

/// A leaf's entry.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawExtent {
    pub file_block: U32,
    /// Above 32768: unwritten, and so much shorter.
    pub blocks: U16,
    pub start_hi: U16,
    pub start_lo: U32,
}

impl RawExtent {
    pub fn start(&self) -> u64 {
        u64::from(self.start_hi.get()) << 32 | u64::from(self.start_lo.get())
    }

    pub fn length(&self) -> u64 {
        let blocks = self.blocks.get();
        u64::from(if blocks > 32_768 { blocks - 32_768 } else { blocks })
    }
}

/// An inner node's entry.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawExtentIndex {
    _file_block: U32,
    pub node_lo: U32,
    pub node_hi: U16,
    _unused: U16,
}

impl RawExtentIndex {
    pub fn node(&self) -> u64 {
        u64::from(self.node_hi.get()) << 32 | u64::from(self.node_lo.get())
    }
}

/// What a name begins with in a directory.
#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct RawEntry {
    pub inode: U32,
    pub bytes: U16,
    pub name_bytes: u8,
    _kind: u8,
}
