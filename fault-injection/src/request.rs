//! A block request as the engine sees it: what the guest asked, not its data.

use serde::{Deserialize, Serialize};

/// Bytes of a sector. Sectors are 512 bytes always (virtio 1.3, 5.2), whatever the device's block size.
pub const SECTOR_BYTES: u64 = 512;

/// A virtio-blk request type, in the script's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// VIRTIO_BLK_T_IN
    Read,
    /// VIRTIO_BLK_T_OUT
    Write,
    /// VIRTIO_BLK_T_FLUSH
    Flush,
    /// VIRTIO_BLK_T_DISCARD
    Discard,
    /// VIRTIO_BLK_T_WRITE_ZEROES
    WriteZeroes,
    /// VIRTIO_BLK_T_GET_ID
    GetId,
}

/// One well-formed request, as it arrived. The device has checked it against the capacity already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked.
    pub op: Op,
    /// First sector; 0 for flush and get_id.
    pub sector: u64,
    /// Length in sectors; 0 for flush and get_id. A discard or write_zeroes of several segments is asked about one
    /// segment at a time.
    pub sectors: u64,
    /// The virtqueue it came by.
    pub queue: u16,
    /// Requests taken and not yet answered when this one arrived, itself not counted.
    pub inflight: u32,
}

/// When a request arrived, in the terms a script can speak of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Place in the one arrival order of the device, from 0. Rises with every request, asked about or not.
    pub seq: u64,
    /// Milliseconds since the device was started. Only points in `ms` read it.
    pub elapsed_ms: u64,
}
