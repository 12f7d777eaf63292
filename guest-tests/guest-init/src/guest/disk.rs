//! The disk between two jobs: nothing of it may stay in the kernel's cache when another one takes its place.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use guest_init::past::{self, NONCE_UNIT, Past, UNIT_BYTES};
use guest_init::protocol::FromGuest;

use super::ops::MOUNT_POINT;
use super::{Doing, Outcome};

nix::ioctl_none!(
    /// BLKFLSBUF: writes back and drops the pages of a block device.
    flush_buffers,
    0x12,
    97
);

/// Answers [`guest_init::protocol::ToGuest::Rest`].
pub fn rest(device: &str) -> Outcome<FromGuest> {
    drop_cached(&open(device)?, device)?;
    let tainted = fs::read_to_string("/proc/sys/kernel/tainted").doing("reading the taint flags")?;
    Ok(FromGuest::AtRest {
        tainted: tainted.trim().parse().doing("reading the taint flags")?,
        held: is_mounted()? || has_super_block(device),
    })
}

/// Fails unless the disk holds this nonce now, as the kernel reads it. The kernel keeps nothing of what was read: nobody
/// else has the disk open, and the last close drops its pages.
pub fn must_hold(device: &str, nonce: u64) -> Outcome<()> {
    let disk = open(device)?;
    drop_cached(&disk, device)?;
    // Alone: a read ahead would be requests that no file system made.
    let doing = || format!("reading the nonce of {device}");
    nix::fcntl::posix_fadvise(&disk, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_RANDOM).doing(doing())?;
    let mut unit = [0; UNIT_BYTES];
    disk.read_exact_at(&mut unit, u64::from(NONCE_UNIT) * UNIT_BYTES as u64).doing(doing())?;
    match past::recognise(&unit) {
        Some(found) if found == (Past { nonce, block: 0, unit: NONCE_UNIT }) => Ok(()),
        Some(found) => Err(format!("the guest sees the disk with nonce {}, not the one with {nonce}", found.nonce)),
        None => Err(format!("the guest sees a disk without a nonce, not the one with {nonce}")),
    }
    .doing("looking whether the disk is the new one")
}

fn is_mounted() -> Outcome<bool> {
    let mounts = fs::read_to_string("/proc/mounts").doing("reading /proc/mounts")?;
    Ok(mounts.lines().any(|line| line.split(' ').nth(1) == Some(MOUNT_POINT)))
}

/// A file system that was unmounted lives on for as long as somebody in the kernel holds it.
fn has_super_block(device: &str) -> bool {
    Path::new(device).file_name().is_some_and(|name| Path::new("/sys/fs/ext4").join(name).exists())
}

fn open(device: &str) -> Outcome<File> {
    File::open(device).doing(format!("opening {device}"))
}

#[allow(unsafe_code, reason = "an ioctl without an argument")]
fn drop_cached(disk: &File, device: &str) -> Outcome<()> {
    // SAFETY: the descriptor is open for as long as `disk` lives, and BLKFLSBUF takes no memory.
    unsafe { flush_buffers(disk.as_raw_fd()) }.map(drop).doing(format!("dropping what is cached of {device}"))
}
