//! What is known of a run beside its operations: what the disk did, and what the file system is.

/// See the module. [`Facts::default`] is a disk without faults and ext4 as mke2fs makes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Block size of the file system.
    pub block_bytes: u64,
    /// What is allocated at once: a block, or a cluster of `bigalloc`.
    pub cluster_bytes: u64,
    /// Size of the disk.
    pub size_bytes: u64,
    /// What the kernel keeps in memory as one piece at most: a page, or a large folio.
    pub folio_bytes: u64,
    /// Direct I/O must be a multiple of it.
    pub direct_bytes: u64,
    /// Files have extents, not lists of blocks.
    pub extents: bool,
    /// Mounted read-only from the start.
    pub read_only: bool,
    /// Changes of names reach the disk in the order in which they were made: there is a journal, and no fast commits beside it.
    pub ordered_names: bool,
    /// The mount lets what nobody promised show the disk's past after a crash (`data=writeback`).
    pub past_may_show: bool,
    /// All operations before this one had returned when the disk first answered any request with an error.
    pub first_error: Option<u32>,
    /// The same for what changes the disk: writes, flushes, discards.
    pub first_write_error: Option<u32>,
    /// Some request was answered with another error than IOERR.
    pub other_status: bool,
    /// Metadata may not have reached the disk: the journal was aborted, the file system went read-only, a metadata write failed.
    pub metadata_failed: bool,
    /// The disk did something else than what it answered (lost, corrupted, misdirected, tore, forgot).
    pub disk_lied: bool,
}

impl Default for Facts {
    fn default() -> Facts {
        Facts {
            block_bytes: 4096,
            cluster_bytes: 4096,
            size_bytes: 64 << 20,
            folio_bytes: 2 << 20,
            direct_bytes: 512,
            extents: true,
            read_only: false,
            ordered_names: true,
            past_may_show: false,
            first_error: None,
            first_write_error: None,
            other_status: false,
            metadata_failed: false,
            disk_lied: false,
        }
    }
}

impl Facts {
    /// Whether the disk may have answered a request with an error before this operation returned.
    pub fn trouble_at(&self, op: u32) -> bool {
        self.first_error.is_some_and(|first| op >= first)
    }

    /// Whether something that was written before this operation returned may have failed to reach the disk.
    pub fn write_trouble_at(&self, op: u32) -> bool {
        self.metadata_failed && self.trouble_at(op) || self.first_write_error.is_some_and(|first| op >= first)
    }

    /// The same for the whole run.
    pub fn any_write_trouble(&self) -> bool {
        self.metadata_failed || self.first_write_error.is_some()
    }
}
