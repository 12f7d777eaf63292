//! Directories: where a path leads, and which of their blocks are index.
//!
//! A path is looked up name by name, as the directories have them; symbolic links are not followed. What leads to it is
//! remembered, so that only a change there makes it be looked up again.

use std::collections::BTreeSet;
use std::sync::Arc;

use zerocopy::FromBytes;

use super::disk_format::{RawEntry, RawInode};
use super::map::Inode;
use super::owners::Role;
use super::{Blocks, Classifier};

const ROOT: u32 = 2;

/// A path somebody wants to know about.
#[derive(Debug)]
pub struct Watch {
    path: String,
    steps: Vec<Step>,
    inode: Option<u32>,
}

/// One name on the way.
#[derive(Debug)]
struct Step {
    directory: u32,
    name: String,
    /// What the name leads to, and the block that says so.
    found: Option<(u32, Option<u64>)>,
}

impl Watch {
    pub fn new(path: &str) -> Watch {
        Watch { path: path.to_string(), steps: Vec::new(), inode: None }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub fn inode(&self) -> Option<u32> {
        self.inode
    }

    /// Whether this new content of a directory's block makes it lead elsewhere.
    fn is_moved_by(&self, directory: u32, block: u64, content: &[u8]) -> bool {
        let step = self.steps.iter().filter(|step| step.directory == directory);
        step.into_iter().any(|step| {
            let here = find_name(content, step.name.as_bytes());
            match step.found {
                Some((inode, Some(at))) if at == block => here != Some(inode),
                _ => here.is_some(),
            }
        })
    }
}

impl Classifier {
    /// Looks a path up from the root.
    pub(super) fn resolve(&self, disk: &dyn Blocks, watch: &mut Watch) {
        watch.steps.clear();
        let mut inode = Some(ROOT);
        for name in watch.path.split('/').filter(|name| !name.is_empty()) {
            let Some(directory) = inode else { break };
            let found = self.find(disk, directory, name.as_bytes());
            inode = found.map(|(inode, _)| inode);
            watch.steps.push(Step { directory, name: name.to_string(), found });
        }
        watch.inode = inode;
    }

    fn find(&self, disk: &dyn Blocks, directory: u32, name: &[u8]) -> Option<(u32, Option<u64>)> {
        let inode = self.inodes.get(&directory).filter(|inode| inode.role == Role::Dir)?;
        if inode.is_inline {
            return find_inline(&inode.bytes, name).map(|found| (found, None));
        }
        inode.content_blocks().find_map(|(block, _)| {
            let content = self.content(disk, block)?;
            find_name(&content, name).map(|found| (found, Some(block)))
        })
    }

    /// A block of a directory has new content.
    pub(super) fn names_written(&mut self, directory: u32, block: u64, content: &[u8]) {
        self.names_changed |= self.watches.iter().any(|watch| watch.is_moved_by(directory, block, content));
    }

    /// An inode has other blocks.
    pub(super) fn directory_changed(&mut self, inode: u32) {
        let leads = |watch: &Watch| watch.steps.iter().any(|step| step.directory == inode);
        self.names_changed |= self.watches.iter().any(leads);
    }

    /// Looks up again what may lead elsewhere now.
    pub(super) fn follow_names(&mut self, disk: &dyn Blocks) {
        if !std::mem::take(&mut self.names_changed) {
            return;
        }
        let mut watches = std::mem::take(&mut self.watches);
        for watch in &mut watches {
            let before = watch.inode;
            self.resolve(disk, watch);
            if watch.inode != before {
                self.news.push((watch.path.clone(), watch.inode));
            }
        }
        self.watches = watches;
    }

    /// Whether somebody asks for names.
    pub(super) fn watches_names(&self) -> bool {
        !self.watches.is_empty()
    }
}

/// The inode of a name in a block of a directory.
fn find_name(block: &[u8], name: &[u8]) -> Option<u32> {
    let mut rest = block;
    loop {
        let (entry, behind) = RawEntry::ref_from_prefix(rest).ok()?;
        let inode = entry.inode.get();
        if inode != 0 && behind.get(..entry.name_bytes.into()) == Some(name) {
            return Some(inode);
        }
        // The largest blocks write their own length as 0 or 65535.
        let bytes = match entry.bytes.get() {
            0 | u16::MAX => 1 << 16,
            bytes => usize::from(bytes),
        };
        rest = rest.get(bytes.max(size_of::<RawEntry>())..)?;
    }
}

/// A directory inside its inode: the parent's number, then entries; more of them in the attribute "data".
fn find_inline(inode: &[u8], name: &[u8]) -> Option<u32> {
    let (raw, rest) = RawInode::ref_from_prefix(inode).ok()?;
    let more = inline_attribute(rest).unwrap_or_default();
    find_name(&raw.block[4..], name).or_else(|| find_name(more, name))
}

/// The value of "system.data" among the attributes inside an inode.
fn inline_attribute(behind: &[u8]) -> Option<&[u8]> {
    const MAGIC: u32 = 0xEA02_0000;
    const SYSTEM: u8 = 7;
    let extra = u16::from_le_bytes([*behind.first()?, *behind.get(1)?]);
    let attributes = behind.get(usize::from(extra)..)?;
    let word = |bytes: &[u8], at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    if word(attributes, 0)? != MAGIC {
        return None;
    }
    let values = attributes.get(4..)?;
    let mut entry = values;
    // An entry without name and number ends the list.
    while word(entry, 0)? != 0 {
        let (name_bytes, kind) = (usize::from(*entry.first()?), *entry.get(1)?);
        let offset = usize::from(u16::from_le_bytes([*entry.get(2)?, *entry.get(3)?]));
        let size = word(entry, 8)? as usize;
        if kind == SYSTEM && entry.get(16..16 + name_bytes)? == b"data" {
            return values.get(offset..offset.checked_add(size)?);
        }
        entry = entry.get((16 + name_bytes).next_multiple_of(4)..)?;
    }
    None
}

/// Blocks of the file that index an indexed directory; the first always does.
pub fn index_blocks(inode: &Inode, content: &dyn Fn(u64) -> Option<Arc<[u8]>>) -> BTreeSet<u64> {
    const ROOT_ENTRIES: usize = 32;
    const NODE_ENTRIES: usize = 8;
    const LEVELS: usize = 30;
    let mut index = BTreeSet::from([0]);
    let Some(root) = inode.block_of(0).and_then(content) else { return index };
    let mut level: Vec<u64> = entries(&root, ROOT_ENTRIES);
    // With no level of nodes the root's entries are names already; large directories have two.
    for depth in (0..root.get(LEVELS).copied().unwrap_or(0).min(3)).rev() {
        let nodes: Vec<u64> = level.into_iter().filter(|block| index.insert(*block)).collect();
        if depth == 0 {
            break;
        }
        let below = nodes.iter().filter_map(|node| inode.block_of(*node).and_then(content));
        level = below.flat_map(|node| entries(&node, NODE_ENTRIES)).collect();
    }
    index
}

/// The blocks that a root or node of the index leads to.
fn entries(block: &[u8], at: usize) -> Vec<u64> {
    let Some(table) = block.get(at..) else { return Vec::new() };
    let count = table.get(2..4).map_or(0, |count| usize::from(u16::from_le_bytes([count[0], count[1]])));
    let number = |entry: &[u8]| u64::from(u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]) & 0x0fff_ffff);
    table.chunks_exact(8).take(count).map(number).collect()
}
