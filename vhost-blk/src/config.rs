//! What the device offers: virtio features, the configuration space, and the limits a request is held to.

use fault_injection::{SECTOR_BYTES, script::DeviceLimits, script::WriteCache};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ,
    VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_SIZE_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

/// Segments of a request by default: what a ring of 128 leaves beside header and status.
pub const DEFAULT_SEG_MAX: u32 = 126;

/// One discard or write_zeroes request speaks of one range, so that a rule, a record and a judge mean the same by it.
pub const MAX_RANGES: u32 = 1;

/// Sectors of one discard or write_zeroes at most: 2 GiB. A request stays short of what one fallocate does quickly.
pub const MAX_RANGE_SECTORS: u32 = 1 << 22;

/// Where the driver reads and writes the cache mode (virtio 1.3, 5.2.4).
const WRITEBACK_OFFSET: u32 = 32;

const SPACE_BYTES: usize = 60;

/// Fixed while the device lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Size of the disk.
    pub capacity_sectors: u64,
    /// What addresses and lengths must be multiples of.
    pub block_bytes: u32,
    /// Most segments of a request.
    pub seg_max: u32,
    /// Most bytes of a segment; not offered unless a script asks.
    pub size_max_bytes: Option<u32>,
    /// Queues offered.
    pub queues: u16,
    /// No writing.
    pub read_only: bool,
    /// A volatile cache, which a flush makes durable. Without it every write is durable when answered.
    pub write_cache: bool,
    /// DISCARD offered.
    pub discard: bool,
    /// WRITE_ZEROES offered.
    pub write_zeroes: bool,
}

impl Offer {
    /// What the image is, as far as the script does not ask for something else.
    pub fn new(image_sectors: u64, direct_bytes: u64, queues: u16, read_only: bool, limits: &DeviceLimits) -> Offer {
        let block_bytes = limits.logical_block_bytes.unwrap_or(direct_bytes as u32);
        let blocks = limits.capacity_sectors.unwrap_or(image_sectors).min(image_sectors);
        let block_sectors = u64::from(block_bytes) / SECTOR_BYTES;
        let read_only = read_only || limits.read_only.unwrap_or(false);
        Offer {
            capacity_sectors: blocks / block_sectors * block_sectors,
            block_bytes,
            seg_max: limits.seg_max.unwrap_or(DEFAULT_SEG_MAX),
            size_max_bytes: limits.size_max_bytes,
            queues,
            read_only,
            write_cache: limits.write_cache != Some(WriteCache::Writethrough),
            discard: !read_only && limits.discard.unwrap_or(true),
            write_zeroes: !read_only && limits.write_zeroes.unwrap_or(true),
        }
    }

    /// Virtio feature bits.
    pub fn features(&self) -> u64 {
        let always = [
            VIRTIO_F_VERSION_1,
            VIRTIO_RING_F_INDIRECT_DESC,
            VIRTIO_RING_F_EVENT_IDX,
            VIRTIO_BLK_F_SEG_MAX,
            VIRTIO_BLK_F_BLK_SIZE,
            VIRTIO_BLK_F_TOPOLOGY,
            VIRTIO_BLK_F_MQ,
        ];
        let sometimes = [
            (VIRTIO_BLK_F_SIZE_MAX, self.size_max_bytes.is_some()),
            (VIRTIO_BLK_F_RO, self.read_only),
            (VIRTIO_BLK_F_FLUSH, self.write_cache),
            (VIRTIO_BLK_F_CONFIG_WCE, self.write_cache),
            (VIRTIO_BLK_F_DISCARD, self.discard),
            (VIRTIO_BLK_F_WRITE_ZEROES, self.write_zeroes),
        ];
        let chosen = sometimes.iter().filter(|(_, offered)| *offered).map(|(bit, _)| *bit);
        always.into_iter().chain(chosen).fold(0, |bits, bit| bits | 1 << bit)
    }

    /// `struct virtio_blk_config` (virtio 1.3, 5.2.4), up to and with the write_zeroes fields.
    pub fn space(&self, writeback: bool) -> [u8; SPACE_BYTES] {
        let mut space = [0; SPACE_BYTES];
        let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
        let block_sectors = self.block_bytes / SECTOR_BYTES as u32;
        put(0, &self.capacity_sectors.to_le_bytes());
        put(8, &self.size_max_bytes.unwrap_or(0).to_le_bytes());
        put(12, &self.seg_max.to_le_bytes());
        put(20, &self.block_bytes.to_le_bytes());
        // Topology: one logical block per physical one, aligned, and one block the least sensible I/O.
        put(26, &1u16.to_le_bytes());
        put(WRITEBACK_OFFSET as usize, &[u8::from(writeback)]);
        put(34, &self.queues.to_le_bytes());
        if self.discard {
            put(36, &MAX_RANGE_SECTORS.to_le_bytes());
            put(40, &MAX_RANGES.to_le_bytes());
            put(44, &block_sectors.to_le_bytes());
        }
        if self.write_zeroes {
            put(48, &MAX_RANGE_SECTORS.to_le_bytes());
            put(52, &MAX_RANGES.to_le_bytes());
            put(56, &[1]);
        }
        space
    }

    /// What GET_CONFIG answers. A front-end that knows a longer space reads zeroes there.
    pub fn read_space(&self, writeback: bool, offset: u32, size: u32) -> Vec<u8> {
        let space = self.space(writeback);
        let byte = |at: u64| usize::try_from(at).ok().and_then(|at| space.get(at)).copied().unwrap_or(0);
        (u64::from(offset)..u64::from(offset) + u64::from(size)).map(byte).collect()
    }

    /// The cache mode a SET_CONFIG asks for. Everything else in the space is read-only for the driver.
    pub fn written_cache_mode(&self, offset: u32, bytes: &[u8]) -> Option<bool> {
        let at = WRITEBACK_OFFSET.checked_sub(offset)? as usize;
        if !self.write_cache {
            return None;
        }
        bytes.get(at).map(|mode| *mode != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain() -> Offer {
        Offer::new(2048, 512, 16, false, &DeviceLimits::default())
    }

    #[test]
    fn the_space_starts_in_writeback_so_that_a_driver_that_reads_it_sends_flushes() {
        let space = plain().space(true);
        assert_eq!(space[..8], 2048u64.to_le_bytes());
        assert_eq!(space[12..16], 126u32.to_le_bytes());
        assert_eq!(space[20..24], 512u32.to_le_bytes());
        assert_eq!(space[32], 1);
        assert_eq!(space[34..36], 16u16.to_le_bytes());
    }

    #[test]
    fn size_max_is_offered_only_when_a_script_sets_it() {
        assert_eq!(plain().features() & 1 << VIRTIO_BLK_F_SIZE_MAX, 0);
        let limits = DeviceLimits { size_max_bytes: Some(4096), ..Default::default() };
        let limited = Offer::new(2048, 512, 1, false, &limits);
        assert_ne!(limited.features() & 1 << VIRTIO_BLK_F_SIZE_MAX, 0);
        assert_eq!(limited.space(true)[8..12], 4096u32.to_le_bytes());
    }

    #[test]
    fn a_read_only_disk_offers_nothing_that_writes() {
        let offer = Offer::new(2048, 512, 1, true, &DeviceLimits::default());
        assert_ne!(offer.features() & 1 << VIRTIO_BLK_F_RO, 0);
        assert_eq!(offer.features() & (1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES), 0);
    }

    #[test]
    fn reading_beyond_the_space_gives_zeroes_and_as_many_bytes_as_asked() {
        assert_eq!(plain().read_space(true, 56, 8), [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(plain().read_space(true, u32::MAX, 2), [0, 0]);
    }

    #[test]
    fn only_the_cache_mode_can_be_written() {
        let offer = plain();
        assert_eq!(offer.written_cache_mode(32, &[0]), Some(false));
        assert_eq!(offer.written_cache_mode(0, &[1; 60]), Some(true));
        assert_eq!(offer.written_cache_mode(0, &[0; 8]), None);
        assert_eq!(offer.written_cache_mode(33, &[0]), None);
    }
}
