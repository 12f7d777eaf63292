//! Broken properties of the guest itself, whatever the replica says. docs/findings.md defines each.
//!
//! Nothing here knows the replica. The guest's own trace, the device's record and the workload's results are the only
//! witnesses, and what one of them does not say is not guessed: a finding is a sentence that can be shown.

mod content;
mod kernel_log;
mod left;
mod writeback;

pub use content::{not_allowed, unexpected_results};
pub use kernel_log::{complaints, is_grave, is_stall};
pub use left::{find as in_left, in_cuts, is_after_cut, telling};
pub use writeback::{Writeback, find as in_writeback};

/// A bio failed, and the range it was to write was turned from unwritten to written all the same.
pub const CONVERTED_AFTER_FAILED_WRITE: &str = "converted-after-failed-write";
/// A read gave what a disk block held before it belonged to the file.
pub const STALE_DATA_READ: &str = "stale-data-read";
/// The device refused a file's data, and the file's next fsync returned 0.
pub const ERROR_NOT_REPORTED: &str = "error-not-reported";
/// The device refused a file's data, and neither the unmounting nor the file's first fsync of the next mount says so.
pub const ERROR_FORGOTTEN: &str = "error-forgotten";
/// Write and fsync succeeded, and a later read gives neither that data nor newer.
pub const WRITTEN_DATA_LOST: &str = "written-data-lost";
/// A read succeeded, and gave bytes that are neither what was written, nor zeros, nor the disk's past.
pub const CORRUPT_DATA_RETURNED: &str = "corrupt-data-returned";
/// `e2fsck -fn` finds errors on an image that the guest has cleanly unmounted.
pub const FILE_SYSTEM_DAMAGED: &str = "file-system-damaged";
/// The guest's kernel logged a BUG, a WARNING, a hung task, or an error of EXT4-fs or JBD2.
pub const KERNEL_COMPLAINT: &str = "kernel-complaint";
/// An operation of the workload returned another errno than the scenario expects.
pub const UNEXPECTED_RESULT: &str = "unexpected-result";

/// A file holds, or a read gave, something else than the operations' results allow, though nobody had promised it.
pub const CONTENTS_NOT_ALLOWED: &str = "contents-not-allowed";
/// An operation returned an error that nothing explains, or success where names forbid it.
pub const ERRNO_NOT_ALLOWED: &str = "errno-not-allowed";
/// A file's blocks are not those that the operations gave it, or unwritten though they were written.
pub const EXTENT_MAP_NOT_ALLOWED: &str = "extent-map-not-allowed";
/// A name is gone at the end.
pub const FILE_LOST: &str = "file-lost";
/// A name is there at the end that cannot be.
pub const NAME_NOT_ALLOWED: &str = "name-not-allowed";

/// Every kind of finding, by the id that expectations name.
pub const KINDS: &[&str] = &[
    CONVERTED_AFTER_FAILED_WRITE,
    STALE_DATA_READ,
    ERROR_NOT_REPORTED,
    ERROR_FORGOTTEN,
    WRITTEN_DATA_LOST,
    CORRUPT_DATA_RETURNED,
    FILE_SYSTEM_DAMAGED,
    KERNEL_COMPLAINT,
    UNEXPECTED_RESULT,
    CONTENTS_NOT_ALLOWED,
    ERRNO_NOT_ALLOWED,
    EXTENT_MAP_NOT_ALLOWED,
    FILE_LOST,
    NAME_NOT_ALLOWED,
];

/// Those that, where no operation showed them, say that files or file system are not what they should be at the end.
pub const OF_THE_END: &[&str] = &[
    FILE_SYSTEM_DAMAGED,
    STALE_DATA_READ,
    WRITTEN_DATA_LOST,
    CORRUPT_DATA_RETURNED,
    CONTENTS_NOT_ALLOWED,
    EXTENT_MAP_NOT_ALLOWED,
    FILE_LOST,
    NAME_NOT_ALLOWED,
];
