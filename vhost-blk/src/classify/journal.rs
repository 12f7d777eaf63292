//! The log of jbd2: what kind of block this is, and which blocks a transaction brings.
//!
//! Kinds are told by the header, not by the place. A transaction counts when its commit record has been written: its
//! blocks are those between the descriptors before it, and they are all there.
//! (Documentation/filesystems/ext4/journal.rst and include/linux/jbd2.h, v6.12.)

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fault_injection::Class;
use zerocopy::big_endian::U32;
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use super::disk_format::RawExtent;

const MAGIC: u32 = 0xC03B_3998;
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const SUPERBLOCK_V1: u32 = 3;
const SUPERBLOCK_V2: u32 = 4;
const REVOKE: u32 = 5;

const INCOMPAT_64BIT: u32 = 0x2;
/// Commit records do not wait for the blocks before them.
const INCOMPAT_ASYNC_COMMIT: u32 = 0x4;
const INCOMPAT_CSUM_V2: u32 = 0x8;
const INCOMPAT_CSUM_V3: u32 = 0x10;
const INCOMPAT_FAST_COMMIT: u32 = 0x20;
/// What the fast commit area takes where the superblock does not say.
const FAST_COMMIT_BLOCKS: u32 = 256;

const TAG_ESCAPED: u32 = 1;
const TAG_SAME_UUID: u32 = 2;
const TAG_LAST: u32 = 8;

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    magic: U32,
    kind: U32,
    sequence: U32,
}

#[derive(FromBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawJournalSuperblock {
    header: RawHeader,
    block_bytes: U32,
    blocks: U32,
    first: U32,
    sequence: U32,
    start: U32,
    _errno: U32,
    _compat: U32,
    incompat: U32,
    _ro_compat: U32,
    _uuid: [u8; 16],
    _users: [u8; 16],
    _checksum_type: U32,
    fast_commit_blocks: U32,
}

/// A log that is followed.
#[derive(Debug)]
pub struct Journal {
    first: u32,
    /// One behind the last block that transactions use; what follows is the fast commit area.
    pub(super) end: u32,
    incompat: u32,
    /// Where a replay would begin, and with which transaction.
    start: u32,
    sequence: u32,
    /// Written, and in no transaction that was committed.
    pending: BTreeMap<u32, Arc<[u8]>>,
    /// Commit records some of whose blocks have not come.
    waiting: BTreeSet<u32>,
}

/// What a committed transaction brings.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Transaction {
    /// Blocks of the file system, and what they will hold.
    pub blocks: BTreeMap<u64, Arc<[u8]>>,
    /// Blocks whose earlier versions in the log are void.
    pub revoked: Vec<u64>,
}

/// A range that a fast commit gives to a file, or takes from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FastRange {
    /// From block `start` on, beginning with this block of the file.
    Added { inode: u32, file_block: u64, start: u64, blocks: u64 },
    /// From this block of the file on.
    Removed { inode: u32, file_block: u64, blocks: u64 },
}

/// A block of the log, opened.
enum Record {
    /// Tags: block, whether its first word was taken out.
    Descriptor(Vec<(u64, bool)>),
    Revoke(Vec<u64>),
    Commit,
}

fn header(block: &[u8]) -> Option<&RawHeader> {
    RawHeader::ref_from_prefix(block).ok().map(|(header, _)| header).filter(|header| header.magic.get() == MAGIC)
}

impl Journal {
    /// Opens a log by its superblock, which is its first block.
    pub fn open(superblock: &[u8], block_bytes: u64) -> Option<Journal> {
        let (raw, _) = RawJournalSuperblock::ref_from_prefix(superblock).ok()?;
        header(superblock).filter(|header| matches!(header.kind.get(), SUPERBLOCK_V1 | SUPERBLOCK_V2))?;
        if u64::from(raw.block_bytes.get()) != block_bytes {
            return None;
        }
        // The first version has no features, and other things where they would be.
        let is_v2 = raw.header.kind.get() == SUPERBLOCK_V2;
        let incompat = if is_v2 { raw.incompat.get() } else { 0 };
        let fast = match raw.fast_commit_blocks.get() {
            _ if incompat & INCOMPAT_FAST_COMMIT == 0 => 0,
            0 => FAST_COMMIT_BLOCKS,
            blocks => blocks,
        };
        let (first, end) = (raw.first.get(), raw.blocks.get().saturating_sub(fast));
        let (pending, waiting) = (BTreeMap::new(), BTreeSet::new());
        let (start, sequence) = (raw.start.get(), raw.sequence.get());
        (first > 0 && first < end).then_some(Journal { first, end, incompat, start, sequence, pending, waiting })
    }

    /// Whether fast commits write this block.
    pub fn is_fast(&self, index: u64) -> bool {
        index >= self.end.into()
    }

    /// What a block of the log is, by its first bytes.
    pub fn kind(&self, index: u64, block: &[u8]) -> Class {
        let kind = header(block).map(|header| header.kind.get());
        match kind {
            _ if self.is_fast(index) => Class::Journal,
            Some(SUPERBLOCK_V1 | SUPERBLOCK_V2) if index == 0 => Class::JournalSuperblock,
            Some(DESCRIPTOR) => Class::JournalDescriptor,
            Some(COMMIT) => Class::JournalCommit,
            Some(REVOKE) => Class::JournalRevoke,
            _ if index < self.first.into() => Class::Journal,
            _ => Class::JournalData,
        }
    }

    /// A block of the log was written. Gives the transactions that are whole now.
    pub fn write(&mut self, index: u64, block: Arc<[u8]>) -> Vec<Transaction> {
        let Ok(index) = u32::try_from(index) else { return Vec::new() };
        if index == 0 {
            // A mount begins the log anew where it says; what was not committed before is void.
            if let Some(fresh) = Journal::open(&block, block.len() as u64) {
                let is_new = (fresh.first, fresh.end, fresh.incompat) != (self.first, self.end, self.incompat);
                let pending =
                    if is_new || fresh.start == 0 { BTreeMap::new() } else { std::mem::take(&mut self.pending) };
                *self = Journal { pending, waiting: std::mem::take(&mut self.waiting), ..fresh };
            }
            return Vec::new();
        }
        if index < self.first || index >= self.end {
            return Vec::new();
        }
        let is_commit = header(&block).is_some_and(|header| header.kind.get() == COMMIT);
        self.pending.insert(index, block);
        match is_commit {
            true => self.waiting.insert(index),
            false => self.waiting.remove(&index),
        };
        let due: Vec<u32> = self.waiting.iter().copied().collect();
        due.into_iter().filter_map(|commit| self.commit(commit)).collect()
    }

    /// The transaction that this commit record ends, if all of it is there.
    fn commit(&mut self, commit: u32) -> Option<Transaction> {
        let Some(sequence) =
            self.pending.get(&commit).and_then(|block| header(block)).map(|header| header.sequence.get())
        else {
            self.waiting.remove(&commit);
            return None;
        };
        let members = self.members(commit, sequence);
        if members.is_empty() && self.has(INCOMPAT_ASYNC_COMMIT) {
            return None;
        }
        let mut transaction = Transaction::default();
        let mut used = vec![commit];
        // In the order of the log: the later of two versions of a block counts.
        for &index in members.iter().rev() {
            used.push(index);
            match self.record(self.pending.get(&index)?)? {
                Record::Descriptor(tags) => {
                    let mut at = index;
                    for (block, escaped) in tags {
                        at = self.next(at);
                        used.push(at);
                        transaction.blocks.insert(block, restored(self.pending.get(&at)?, escaped));
                    }
                }
                Record::Revoke(blocks) => transaction.revoked.extend(blocks),
                Record::Commit => {}
            }
        }
        self.waiting.remove(&commit);
        used.iter().for_each(|index| drop(self.pending.remove(index)));
        Some(transaction)
    }

    /// Descriptors and revocations that lead up to a commit record, the last one first.
    fn members(&self, commit: u32, sequence: u32) -> Vec<u32> {
        let mut leading: BTreeMap<u32, u32> = BTreeMap::new();
        for (index, block) in &self.pending {
            let of_it = header(block).is_some_and(|header| header.sequence.get() == sequence);
            match self.record(block).filter(|_| of_it) {
                Some(Record::Descriptor(tags)) => drop(leading.insert(self.after(*index, tags.len()), *index)),
                Some(Record::Revoke(_)) => drop(leading.insert(self.next(*index), *index)),
                _ => {}
            }
        }
        let mut members = Vec::new();
        let mut next = commit;
        while let Some(index) = leading.remove(&next) {
            members.push(index);
            next = index;
        }
        members
    }

    /// What a mount would replay, in the order of the log. `read` gives a block of it.
    pub fn replay(&self, read: impl Fn(u32) -> Option<Arc<[u8]>>) -> BTreeMap<u64, Arc<[u8]>> {
        let mut revoked: BTreeMap<u64, usize> = BTreeMap::new();
        let transactions = self.committed(read);
        for (number, transaction) in transactions.iter().enumerate() {
            revoked.extend(transaction.revoked.iter().map(|block| (*block, number)));
        }
        let mut blocks = BTreeMap::new();
        for (number, transaction) in transactions.into_iter().enumerate() {
            let stands = |block: &u64| revoked.get(block).is_none_or(|until| *until < number);
            blocks.extend(transaction.blocks.into_iter().filter(|(block, _)| stands(block)));
        }
        blocks
    }

    fn committed(&self, read: impl Fn(u32) -> Option<Arc<[u8]>>) -> Vec<Transaction> {
        let (mut index, mut sequence) = (self.start, self.sequence);
        let mut transactions = Vec::new();
        let mut open = Transaction::default();
        let in_log = |index: u32| index >= self.first && index < self.end;
        // A log of so many blocks has no more records.
        for _ in self.first..self.end {
            let Some(block) = Some(index).filter(|index| in_log(*index)).and_then(&read) else { break };
            let of_it = header(&block).is_some_and(|header| header.sequence.get() == sequence);
            match self.record(&block).filter(|_| of_it) {
                Some(Record::Descriptor(tags)) => {
                    for (to, escaped) in tags {
                        index = self.next(index);
                        let Some(content) = read(index) else { return transactions };
                        open.blocks.insert(to, restored(&content, escaped));
                    }
                }
                Some(Record::Revoke(blocks)) => open.revoked.extend(blocks),
                Some(Record::Commit) => {
                    transactions.push(std::mem::take(&mut open));
                    sequence = sequence.wrapping_add(1);
                }
                None => break,
            }
            index = self.next(index);
        }
        transactions
    }

    fn next(&self, index: u32) -> u32 {
        if index + 1 >= self.end { self.first } else { index + 1 }
    }

    /// Behind a descriptor and its blocks.
    fn after(&self, index: u32, tags: usize) -> u32 {
        (0..=tags).fold(index, |at, _| self.next(at))
    }

    fn record(&self, block: &[u8]) -> Option<Record> {
        match header(block)?.kind.get() {
            DESCRIPTOR => Some(Record::Descriptor(self.tags(block))),
            REVOKE => Some(Record::Revoke(self.revoked(block))),
            COMMIT => Some(Record::Commit),
            _ => None,
        }
    }

    fn has(&self, feature: u32) -> bool {
        self.incompat & feature != 0
    }

    fn tags(&self, block: &[u8]) -> Vec<(u64, bool)> {
        let wide = self.has(INCOMPAT_64BIT);
        let (v2, v3) = (self.has(INCOMPAT_CSUM_V2), self.has(INCOMPAT_CSUM_V3));
        let bytes = if v3 { 16 } else { 8 + if wide { 4 } else { 0 } + if v2 { 2 } else { 0 } };
        let tail = if v2 || v3 { 4 } else { 0 };
        let mut rest = &block[size_of::<RawHeader>()..block.len() - tail];
        let mut tags = Vec::new();
        while let Some(tag) = rest.get(..bytes) {
            let word = |at: usize| u32::from_be_bytes(std::array::from_fn(|i| tag[at + i]));
            let flags = if v3 { word(4) } else { word(4) & 0xffff };
            let high = if wide { u64::from(word(8)) << 32 } else { 0 };
            tags.push((high | u64::from(word(0)), flags & TAG_ESCAPED != 0));
            let uuid = if flags & TAG_SAME_UUID == 0 { 16 } else { 0 };
            if flags & TAG_LAST != 0 {
                break;
            }
            rest = rest.get(bytes + uuid..).unwrap_or_default();
        }
        tags
    }

    fn revoked(&self, block: &[u8]) -> Vec<u64> {
        let used = block.get(12..16).map_or(0, |bytes| u32::from_be_bytes(std::array::from_fn(|i| bytes[i])) as usize);
        let list = block.get(16..used.min(block.len())).unwrap_or_default();
        let number = |bytes: &[u8]| bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
        list.chunks_exact(if self.has(INCOMPAT_64BIT) { 8 } else { 4 }).map(number).collect()
    }
}

/// The ranges that a block of fast commits speaks of: tags of 2 bytes, lengths of 2, then that much.
pub fn fast_ranges(block: &[u8]) -> Vec<FastRange> {
    const ADD_RANGE: u16 = 1;
    const DELETE_RANGE: u16 = 2;
    let mut ranges = Vec::new();
    let mut rest = block;
    while let Some((head, behind)) = rest.split_at_checked(4) {
        let (tag, bytes) = (u16::from_le_bytes([head[0], head[1]]), u16::from_le_bytes([head[2], head[3]]));
        let Some((value, after)) = behind.split_at_checked(bytes.into()) else { break };
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| value[at + i]));
        match (tag, value.get(4..).map(RawExtent::ref_from_prefix)) {
            (ADD_RANGE, Some(Ok((extent, _)))) => {
                let (start, blocks) = (extent.start(), extent.length());
                ranges.push(FastRange::Added {
                    inode: word(0),
                    file_block: extent.file_block.get().into(),
                    start,
                    blocks,
                });
            }
            (DELETE_RANGE, _) if value.len() >= 12 => {
                ranges.push(FastRange::Removed { inode: word(0), file_block: word(4).into(), blocks: word(8).into() });
            }
            (0, _) => break,
            _ => {}
        }
        rest = after;
    }
    ranges
}

/// A block that began like a block of the log has its first word taken out there.
fn restored(block: &Arc<[u8]>, escaped: bool) -> Arc<[u8]> {
    if !escaped {
        return block.clone();
    }
    let mut content = block.to_vec();
    content[..4].copy_from_slice(&MAGIC.to_be_bytes());
    content.into()
}
