//! From a descriptor chain to a request: the one place where what the guest wrote is looked at.
//!
//! Header and descriptors are copied once and never read again, so a guest that changes them meanwhile changes nothing.
//! Whatever is wrong with a chain comes out as a `Refusal`, which still knows its head, so that no slot leaks. A
//! `GuestRequest` could lie on the disk, and its buffers lay in the guest's memory when it was made.

use std::ops::Deref;

use fault_injection::{Op, SECTOR_BYTES};
use smallvec::SmallVec;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH, VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT,
    VIRTIO_BLK_T_WRITE_ZEROES,
};
use virtio_queue::DescriptorChain;
use vm_memory::{Address, Bytes, GuestAddress, GuestMemory, GuestMemoryBackend, GuestMemoryMmap};

use crate::config::{MAX_RANGE_SECTORS, MAX_RANGES, Offer};

/// The guest's memory at one moment.
pub type Memory = GuestMemoryMmap<()>;

/// A disk's end in bytes is an offset of a file.
pub const MAX_SECTORS: u64 = i64::MAX as u64 / SECTOR_BYTES;

const HEADER_BYTES: u64 = 16;
const RANGE_BYTES: u64 = 16;
const UNMAP: u32 = 1;

/// Scattered bytes in the guest's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuestBuffer {
    parts: SmallVec<[(GuestAddress, u64); 4]>,
    bytes: u64,
}

/// The guest's memory is not where it was when the request came: a region was taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the request's buffer is not in the guest's memory any more")]
pub struct MemoryGone;

impl GuestBuffer {
    /// Of these addresses and lengths.
    #[cfg(test)]
    pub fn of(parts: &[(u64, u64)]) -> GuestBuffer {
        let mut buffer = GuestBuffer::default();
        parts.iter().for_each(|(addr, len)| buffer.push(GuestAddress(*addr), *len));
        buffer
    }

    /// Addresses and lengths, in order; none is empty.
    pub fn parts(&self) -> &[(GuestAddress, u64)] {
        &self.parts
    }

    /// Length.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Copies out, from `offset` on.
    pub fn read(&self, memory: &Memory, offset: u64, buf: &mut [u8]) -> Result<(), MemoryGone> {
        self.walk(offset, buf.len(), |addr, at, bytes| memory.read_slice(&mut buf[at..at + bytes], addr))
    }

    /// Copies in, from `offset` on.
    pub fn write(&self, memory: &Memory, offset: u64, buf: &[u8]) -> Result<(), MemoryGone> {
        self.walk(offset, buf.len(), |addr, at, bytes| memory.write_slice(&buf[at..at + bytes], addr))
    }

    fn walk<E>(
        &self,
        offset: u64,
        bytes: usize,
        mut copy: impl FnMut(GuestAddress, usize, usize) -> Result<(), E>,
    ) -> Result<(), MemoryGone> {
        let (mut skip, mut done) = (offset, 0);
        for (addr, len) in &self.parts {
            if done == bytes {
                break;
            }
            if skip >= *len {
                skip -= len;
                continue;
            }
            let step = (len - skip).min((bytes - done) as u64) as usize;
            copy(addr.checked_add(skip).ok_or(MemoryGone)?, done, step).map_err(|_| MemoryGone)?;
            done += step;
            skip = 0;
        }
        if done == bytes { Ok(()) } else { Err(MemoryGone) }
    }

    fn push(&mut self, addr: GuestAddress, len: u64) {
        if len > 0 {
            self.parts.push((addr, len));
            self.bytes += len;
        }
    }

    /// Cuts off everything after the first `bytes`, and gives it.
    fn split_off(&mut self, bytes: u64) -> GuestBuffer {
        let (mut head, mut tail) = (GuestBuffer::default(), GuestBuffer::default());
        for (addr, len) in self.parts.drain(..) {
            let kept = len.min(bytes.saturating_sub(head.bytes));
            head.push(addr, kept);
            tail.push(addr.unchecked_add(kept), len - kept);
        }
        *self = head;
        tail
    }

    /// Cuts off the first `bytes`; drivers give a header a part of its own.
    fn cut_front(&mut self, bytes: u64) {
        match self.parts.first() {
            Some((_, len)) if *len == bytes => {
                self.parts.remove(0);
                self.bytes -= bytes;
            }
            _ => *self = self.split_off(bytes),
        }
    }

    /// Cuts off the last byte; drivers give a status a part of its own.
    fn cut_last_byte(&mut self) {
        match self.parts.last_mut() {
            None => return,
            Some((_, 1)) => _ = self.parts.pop(),
            Some((_, len)) => *len -= 1,
        }
        self.bytes -= 1;
    }
}

/// What is asked of which sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First sector.
    pub sector: u64,
    /// How many; never 0.
    pub sectors: u64,
}

impl Range {
    /// Where it begins in the image.
    pub fn offset(&self) -> u64 {
        self.sector * SECTOR_BYTES
    }

    /// Its length.
    pub fn bytes(&self) -> u64 {
        self.sectors * SECTOR_BYTES
    }

    /// Whether they share a sector.
    pub fn overlaps(&self, other: &Range) -> bool {
        self.sector < other.sector + other.sectors && other.sector < self.sector + self.sectors
    }
}

/// A request that can be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// VIRTIO_BLK_T_IN
    Read(Range),
    /// VIRTIO_BLK_T_OUT
    Write(Range),
    /// VIRTIO_BLK_T_FLUSH
    Flush,
    /// VIRTIO_BLK_T_DISCARD
    Discard(Range),
    /// VIRTIO_BLK_T_WRITE_ZEROES
    WriteZeroes {
        /// The range.
        range: Range,
        /// Whether its space may be given back.
        unmap: bool,
    },
    /// VIRTIO_BLK_T_GET_ID
    GetId,
}

impl What {
    /// The script's word for it.
    pub fn op(&self) -> Op {
        match self {
            What::Read(_) => Op::Read,
            What::Write(_) => Op::Write,
            What::Flush => Op::Flush,
            What::Discard(_) => Op::Discard,
            What::WriteZeroes { .. } => Op::WriteZeroes,
            What::GetId => Op::GetId,
        }
    }

    /// The sectors it speaks of.
    pub fn range(&self) -> Option<Range> {
        match self {
            What::Read(range) | What::Write(range) | What::Discard(range) | What::WriteZeroes { range, .. } => {
                Some(*range)
            }
            What::Flush | What::GetId => None,
        }
    }

    /// Whether it changes the disk's content.
    pub fn mutates(&self) -> bool {
        matches!(self, What::Write(_) | What::Discard(_) | What::WriteZeroes { .. })
    }
}

/// A request, copied out of the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestRequest {
    /// The chain's head, to be given back.
    pub head: u16,
    /// What is asked.
    pub what: What,
    /// Data from or for the guest, without header and status.
    pub data: GuestBuffer,
    /// Where the status byte goes.
    pub status: GuestAddress,
}

/// How a chain that is no request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// IOERR where a status byte can be written, and a used length of 0.
    Malformed,
    /// UNSUPP: well-formed, but nothing that we offer.
    Unsupported,
}

/// A chain that is not carried out. Its head goes back to the guest all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The chain's head.
    pub head: u16,
    /// The status byte, where the chain has one that can be written.
    pub status: Option<GuestAddress>,
    /// How it is answered.
    pub answer: Answer,
    /// Why.
    pub why: &'static str,
}

/// The chain's descriptors, copied, before their content is looked at.
struct Chain {
    head: u16,
    readable: GuestBuffer,
    writable: GuestBuffer,
    status: Option<GuestAddress>,
}

/// Reads a chain, and holds it to what the device offers.
pub fn parse<M>(chain: DescriptorChain<M>, memory: &Memory, offer: &Offer) -> Result<GuestRequest, Refusal>
where
    M: Deref,
    M::Target: GuestMemory,
{
    let mut chain = copy(chain, memory)?;
    let head = chain.head;
    let status = chain.status;
    let refuse = |(answer, why)| Refusal { head, status, answer, why };
    let status = status.ok_or_else(|| refuse((Answer::Malformed, "no status byte")))?;
    let what = what_is_asked(&mut chain, memory, offer).map_err(refuse)?;
    let data = if what.mutates() { chain.readable } else { chain.writable };
    Ok(GuestRequest { head, what, data, status })
}

/// Copies the descriptors. A chain is cut short by the iterator for any of: an index out of the table, a loop, an
/// indirect table inside another, more than 4 GiB. All of them show as a last descriptor that names a next one.
fn copy<M>(chain: DescriptorChain<M>, memory: &Memory) -> Result<Chain, Refusal>
where
    M: Deref,
    M::Target: GuestMemory,
{
    let head = chain.head_index();
    let (mut readable, mut writable) = (GuestBuffer::default(), GuestBuffer::default());
    let mut why = None;
    let mut last = None;
    for descriptor in chain {
        let (addr, len) = (descriptor.addr(), u64::from(descriptor.len()));
        if len > 0 && !GuestMemoryBackend::check_range(memory, addr, len as usize) {
            why.get_or_insert("a buffer outside the guest's memory");
        }
        match descriptor.is_write_only() {
            true => writable.push(addr, len),
            false if writable.bytes > 0 => _ = why.get_or_insert("a readable descriptor after a writable one"),
            false => readable.push(addr, len),
        }
        last = Some(descriptor);
    }
    if last.is_none_or(|descriptor| descriptor.has_next()) {
        return Err(Refusal { head, status: None, answer: Answer::Malformed, why: "a chain without an end" });
    }
    if let Some(why) = why {
        let status = status_in_memory(&writable, memory);
        return Err(Refusal { head, status, answer: Answer::Malformed, why });
    }
    let status = status_address(&writable);
    // Not before: a buffer outside the guest's memory may reach past the last address there is.
    writable.cut_last_byte();
    Ok(Chain { head, readable, writable, status })
}

/// The last writable byte (virtio 1.3, 5.2.6), which is not data.
fn status_address(writable: &GuestBuffer) -> Option<GuestAddress> {
    let (addr, len) = writable.parts.last()?;
    addr.checked_add(len - 1)
}

/// The same of buffers one of which is not in the guest's memory: it may be this one.
fn status_in_memory(writable: &GuestBuffer, memory: &Memory) -> Option<GuestAddress> {
    status_address(writable).filter(|status| GuestMemoryBackend::check_range(memory, *status, 1))
}

type Refused = (Answer, &'static str);

fn what_is_asked(chain: &mut Chain, memory: &Memory, offer: &Offer) -> Result<What, Refused> {
    let mut header = [0; HEADER_BYTES as usize];
    chain.readable.read(memory, 0, &mut header).map_err(|_| (Answer::Malformed, "no header"))?;
    chain.readable.cut_front(HEADER_BYTES);
    let kind = u32::from_le_bytes(*header.first_chunk().expect("16 bytes begin with 4"));
    let sector = u64::from_le_bytes(*header.last_chunk().expect("16 bytes end with 8"));
    match kind {
        VIRTIO_BLK_T_IN => Ok(What::Read(transfer_range(sector, chain.writable.bytes, offer)?)),
        VIRTIO_BLK_T_OUT if offer.read_only => Err((Answer::Malformed, "a write to a read-only disk")),
        VIRTIO_BLK_T_OUT => Ok(What::Write(transfer_range(sector, chain.readable.bytes, offer)?)),
        VIRTIO_BLK_T_FLUSH => Ok(What::Flush),
        VIRTIO_BLK_T_DISCARD if offer.discard => match listed_range(chain, memory, offer)? {
            (range, 0) => Ok(What::Discard(range)),
            _ => Err((Answer::Unsupported, "a discard with flags")),
        },
        VIRTIO_BLK_T_WRITE_ZEROES if offer.write_zeroes => match listed_range(chain, memory, offer)? {
            (range, flags) if flags & !UNMAP == 0 => Ok(What::WriteZeroes { range, unmap: flags == UNMAP }),
            _ => Err((Answer::Unsupported, "a write_zeroes with flags it does not have")),
        },
        VIRTIO_BLK_T_GET_ID => Ok(What::GetId),
        _ => Err((Answer::Unsupported, "a request type that is not offered")),
    }
}

fn transfer_range(sector: u64, bytes: u64, offer: &Offer) -> Result<Range, Refused> {
    if !bytes.is_multiple_of(SECTOR_BYTES) {
        return Err((Answer::Malformed, "a length that is not whole sectors"));
    }
    on_disk(Range { sector, sectors: bytes / SECTOR_BYTES }, offer)
}

/// The range and flags of a discard or write_zeroes (virtio 1.3, 5.2.6: struct virtio_blk_discard_write_zeroes).
fn listed_range(chain: &Chain, memory: &Memory, offer: &Offer) -> Result<(Range, u32), Refused> {
    if chain.readable.bytes != RANGE_BYTES * u64::from(MAX_RANGES) {
        return Err((Answer::Malformed, "not exactly one range in a discard or write_zeroes"));
    }
    let mut range = [0; RANGE_BYTES as usize];
    chain.readable.read(memory, 0, &mut range).map_err(|_| (Answer::Malformed, "no range"))?;
    let word = |at: usize| u32::from_le_bytes(*range[at..].first_chunk().expect("16 bytes hold it"));
    let sector = u64::from(word(0)) | u64::from(word(4)) << 32;
    let (sectors, flags) = (word(8), word(12));
    if sectors > MAX_RANGE_SECTORS {
        return Err((Answer::Malformed, "a discard or write_zeroes longer than offered"));
    }
    Ok((on_disk(Range { sector, sectors: u64::from(sectors) }, offer)?, flags))
}

/// A sector that could be one of this disk's. Whether it is one now is seen when the request has its place in the
/// arrival order, since the disk may be resized.
fn on_disk(range: Range, offer: &Offer) -> Result<Range, Refused> {
    let block_sectors = u64::from(offer.block_bytes) / SECTOR_BYTES;
    if range.sectors == 0 {
        return Err((Answer::Malformed, "no sectors"));
    }
    if !range.sector.is_multiple_of(block_sectors) || !range.sectors.is_multiple_of(block_sectors) {
        return Err((Answer::Malformed, "not a multiple of the logical block size"));
    }
    match range.sector.checked_add(range.sectors) {
        Some(end) if end <= MAX_SECTORS => Ok(range),
        _ => Err((Answer::Malformed, "sectors that no disk can have")),
    }
}

#[cfg(test)]
mod tests;
