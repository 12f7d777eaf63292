//! What one inode owns: its blocks, the nodes that say so, and the block of its attributes.

use std::collections::BTreeSet;
use std::sync::Arc;

use zerocopy::FromBytes;

use super::disk_format::{RawExtent, RawExtentHeader, RawExtentIndex, RawInode};
use super::layout::Layout;
use super::owners::{Role, Run};

const EXTENT_MAGIC: u16 = 0xF30A;
/// No tree is deeper: five levels hold more than 2^32 blocks.
const MAX_DEPTH: u16 = 5;
const RESIZE_INODE: u32 = 7;

const FLAG_INDEX: u32 = 0x1000;
const FLAG_EXTENTS: u32 = 0x8_0000;
const FLAG_EA_INODE: u32 = 0x20_0000;
const FLAG_INLINE_DATA: u32 = 0x1000_0000;

/// An inode, as far as it matters here.
#[derive(Debug)]
pub struct Inode {
    /// What its content is.
    pub role: Role,
    /// First block, blocks, what they are.
    pub runs: Vec<(u64, u64, Run)>,
    /// Blocks that say where the others are.
    pub nodes: Vec<u64>,
    /// Blocks of the file that index the directory.
    pub index: BTreeSet<u64>,
    /// Its blocks are found by hash.
    pub is_indexed: bool,
    /// It keeps names in itself.
    pub is_inline: bool,
    /// As the disk has it: to see that nothing has changed, and for names inside it.
    pub bytes: Box<[u8]>,
}

/// What decides over the map. Times and sizes change often, and the map does not.
fn decisive(raw: &RawInode) -> (u16, bool, u32, [u8; 60], u64, bool) {
    (raw.mode.get(), raw.links.get() == 0, raw.flags.get(), raw.block, attributes(raw), is_short_link(raw))
}

fn attributes(raw: &RawInode) -> u64 {
    u64::from(raw.attributes_hi.get()) << 32 | u64::from(raw.attributes_lo.get())
}

/// A symbolic link whose target is where others keep their block numbers.
fn is_short_link(raw: &RawInode) -> bool {
    let size = u64::from(raw.size_hi.get()) << 32 | u64::from(raw.size_lo.get());
    raw.mode.get() >> 12 == 0o12 && size < 60 && raw.flags.get() & FLAG_EXTENTS == 0
}

impl Inode {
    /// Reads an inode and what it points to. `None`: it owns nothing, and holds no names.
    pub fn read(
        layout: &Layout,
        number: u32,
        bytes: &[u8],
        content: &dyn Fn(u64) -> Option<Arc<[u8]>>,
    ) -> Option<Inode> {
        let (raw, _) = RawInode::ref_from_prefix(bytes).ok()?;
        let role = role_of(layout, number, raw);
        let is_inline = raw.flags.get() & FLAG_INLINE_DATA != 0;
        let is_directory = role == Some(Role::Dir);
        let mut walk = Walk {
            layout,
            number,
            role: role.unwrap_or(Role::Other),
            content,
            runs: Vec::new(),
            nodes: Vec::new(),
            seen: BTreeSet::new(),
        };
        if role.is_some() && !is_inline && !is_short_link(raw) {
            match raw.flags.get() & FLAG_EXTENTS != 0 {
                true => walk.extents(&raw.block, None),
                false => walk.numbers(&raw.block),
            }
        }
        walk.attributes(attributes(raw));
        let (runs, nodes) = (walk.runs, walk.nodes);
        if runs.is_empty() && nodes.is_empty() && !is_directory {
            return None;
        }
        let kept = if is_directory && is_inline { bytes } else { &bytes[..size_of::<RawInode>()] };
        let is_indexed = is_directory && raw.flags.get() & FLAG_INDEX != 0;
        let role = role.unwrap_or(Role::Other);
        let inode = Inode { role, runs, nodes, index: BTreeSet::new(), is_indexed, is_inline, bytes: kept.into() };
        Some(inode)
    }

    /// A file of which only fast commits have spoken.
    pub fn of_fast_commits() -> Inode {
        let (runs, nodes, index) = (Vec::new(), Vec::new(), BTreeSet::new());
        let bytes = Box::new([0; size_of::<RawInode>()]);
        Inode { role: Role::Data, runs, nodes, index, is_indexed: false, is_inline: false, bytes }
    }

    /// Whether another version of it would be read as the same.
    pub fn is_same(&self, bytes: &[u8]) -> bool {
        let (Ok((old, _)), Ok((new, _))) = (RawInode::ref_from_prefix(&self.bytes), RawInode::ref_from_prefix(bytes))
        else {
            return false;
        };
        decisive(old) == decisive(new) && (self.bytes.len() == size_of::<RawInode>() || *self.bytes == *bytes)
    }

    /// The block that holds this block of the file.
    pub fn block_of(&self, file_block: u64) -> Option<u64> {
        self.runs.iter().find_map(|(start, blocks, run)| {
            let first = run.file_block?;
            (first <= file_block && file_block - first < *blocks).then(|| start + (file_block - first))
        })
    }

    /// All blocks of its content with their place in the file.
    pub fn content_blocks(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let runs = self.runs.iter().filter_map(|(start, blocks, run)| Some((*start, *blocks, run.file_block?)));
        runs.flat_map(|(start, blocks, first)| (0..blocks).map(move |i| (start + i, first + i)))
    }
}

/// Whether this may be an inode that is in use, or was once.
pub fn is_empty(bytes: &[u8]) -> bool {
    let Ok((raw, _)) = RawInode::ref_from_prefix(bytes) else { return true };
    raw.mode.get() == 0 && raw.block == [0; 60]
}

/// Whether no name leads to it: it may be free, or only open.
pub fn has_no_links(bytes: &[u8]) -> bool {
    RawInode::ref_from_prefix(bytes).is_ok_and(|(raw, _)| raw.links.get() == 0)
}

/// Whether a block begins as a node of an extent tree does.
pub fn looks_like_a_node(bytes: &[u8]) -> bool {
    let Ok((header, rest)) = RawExtentHeader::ref_from_prefix(bytes) else { return false };
    let room = rest.len() / size_of::<RawExtent>();
    header.magic.get() == EXTENT_MAGIC && header.depth.get() < MAX_DEPTH && usize::from(header.most.get()) <= room
}

fn role_of(layout: &Layout, number: u32, raw: &RawInode) -> Option<Role> {
    if layout.journal_inode == Some(number) {
        return Some(Role::Journal);
    }
    if layout.hidden_inodes.contains(&number) || number == RESIZE_INODE {
        return Some(Role::Other);
    }
    match raw.mode.get() >> 12 {
        _ if raw.flags.get() & FLAG_EA_INODE != 0 => Some(Role::Xattr),
        0o4 => Some(Role::Dir),
        0o10 | 0o12 => Some(Role::Data),
        _ => None,
    }
}

/// A walk over what an inode points to. Each node is entered once, so that it ends whatever they say.
struct Walk<'w> {
    layout: &'w Layout,
    number: u32,
    role: Role,
    content: &'w dyn Fn(u64) -> Option<Arc<[u8]>>,
    runs: Vec<(u64, u64, Run)>,
    nodes: Vec<u64>,
    seen: BTreeSet<u64>,
}

impl Walk<'_> {
    fn add(&mut self, start: u64, blocks: u64, file_block: u64) {
        let on_disk = start >= self.layout.first_data_block
            && start.checked_add(blocks).is_some_and(|end| end <= self.layout.blocks);
        if !on_disk || blocks == 0 || start == 0 {
            return;
        }
        if let Some((first, length, run)) = self.runs.last_mut()
            && *first + *length == start
            && run.file_block.map(|block| block + *length) == Some(file_block)
        {
            *length += blocks;
            return;
        }
        let run = Run { role: self.role, inode: Some(self.number), file_block: Some(file_block) };
        self.runs.push((start, blocks, run));
    }

    /// Enters a node, unless it is none or has been entered.
    fn enter(&mut self, block: u64) -> Option<Arc<[u8]>> {
        let on_disk = block > self.layout.first_data_block && block < self.layout.blocks;
        if !on_disk || !self.seen.insert(block) {
            return None;
        }
        self.nodes.push(block);
        (self.content)(block)
    }

    /// A node of the extent tree; `depth` is what its parent makes of it, none for the root.
    fn extents(&mut self, bytes: &[u8], depth: Option<u16>) {
        let Ok((header, entries)) = RawExtentHeader::ref_from_prefix(bytes) else { return };
        let is_due = depth.map_or(header.depth.get() <= MAX_DEPTH, |depth| header.depth.get() == depth);
        if header.magic.get() != EXTENT_MAGIC || !is_due {
            return;
        }
        let entries = entries.chunks_exact(size_of::<RawExtent>()).take(header.entries.get().into());
        for entry in entries {
            if header.depth.get() == 0 {
                let Ok(extent) = RawExtent::ref_from_bytes(entry) else { continue };
                self.add(extent.start(), extent.length(), extent.file_block.get().into());
            } else if let Ok(index) = RawExtentIndex::ref_from_bytes(entry)
                && let Some(node) = self.enter(index.node())
            {
                self.extents(&node, Some(header.depth.get() - 1));
            }
        }
    }

    /// Twelve numbers of blocks, then one each of a block of numbers, of blocks of numbers of those, and so on.
    fn numbers(&mut self, bytes: &[u8]) {
        let number = |i: usize| u64::from(u32::from_le_bytes(std::array::from_fn(|at| bytes[4 * i + at])));
        for i in 0..12 {
            self.add(number(i), 1, i as u64);
        }
        let mut file_block = 12;
        for level in 1..=3 {
            self.number_block(number(11 + level), level as u32, file_block);
            file_block += self.per_block().pow(level as u32);
        }
    }

    fn per_block(&self) -> u64 {
        self.layout.block_bytes / 4
    }

    fn number_block(&mut self, block: u64, level: u32, first: u64) {
        let Some(content) = self.enter(block) else { return };
        let below = self.per_block().pow(level - 1);
        for (i, entry) in (0..).zip(content.chunks_exact(4)) {
            let block = u64::from(u32::from_le_bytes(std::array::from_fn(|at| entry[at])));
            let file_block = first + i * below;
            match level {
                _ if block == 0 => {}
                1 => self.add(block, 1, file_block),
                _ => self.number_block(block, level - 1, file_block),
            }
        }
    }

    fn attributes(&mut self, block: u64) {
        if block > self.layout.first_data_block && block < self.layout.blocks {
            let run = Run { role: Role::Xattr, inode: Some(self.number), file_block: None };
            self.runs.push((block, 1, run));
        }
    }
}
