//! The images that are measured on: full of data, since a hole is read faster than anything else.

use super::cases::Media;
use crate::args::Bench;
use crate::failure::{At, Failure};
use crate::space;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Behind what the client touches, there for rules to lie on that never match.
pub const TAIL_BYTES: u64 = 1 << 20;

const STEP: usize = 1 << 20;

/// One in memory, one on disk; both are gone when the value is.
pub struct Images {
    memory: tempfile::NamedTempFile,
    disk: tempfile::NamedTempFile,
}

impl Images {
    /// Fills both.
    pub fn make(wanted: &Bench) -> Result<Images, Failure> {
        Ok(Images { memory: image(Path::new("/dev/shm"), wanted)?, disk: image(&wanted.disk_dir(), wanted)? })
    }

    /// Why the numbers on disk are none, if they are none.
    pub fn warning(&self) -> Option<String> {
        let fs = nix::sys::statfs::fstatfs(self.disk.as_file()).ok()?.filesystem_type();
        let dir = self.disk.path().parent()?.display();
        let text = format!("a disk: {dir} is in memory, and the cases on disk say nothing; give --disk-dir");
        (fs == nix::sys::statfs::TMPFS_MAGIC).then_some(text)
    }

    /// The one for this case.
    pub fn path(&self, media: Media) -> PathBuf {
        let image = if media == Media::Memory { &self.memory } else { &self.disk };
        image.path().to_owned()
    }

    /// Puts the page cache into the state that the case asks for.
    pub fn prepare(&self, media: Media) -> Result<(), Failure> {
        let path = self.disk.path();
        match media {
            Media::Memory => Ok(()),
            Media::Hot => read_through(path).at("read", path),
            Media::Cold | Media::Direct => forget(self.disk.as_file()).at("drop from the page cache", path),
        }
    }
}

fn image(dir: &Path, wanted: &Bench) -> Result<tempfile::NamedTempFile, Failure> {
    let bytes = wanted.span_bytes() + TAIL_BYTES;
    space::require(dir, bytes)?;
    let file = tempfile::Builder::new().prefix("guest-tests-bench-").tempfile_in(dir).at("make an image in", dir)?;
    fill(file.as_file(), bytes).at("fill", file.path())?;
    Ok(file)
}

fn fill(mut file: &File, mut bytes: u64) -> std::io::Result<()> {
    let block: Vec<u8> = (0..STEP).map(|i| ((i / 7) as u8 ^ (i >> 9) as u8) | 1).collect();
    while bytes > 0 {
        let step = bytes.min(STEP as u64);
        file.write_all(&block[..step as usize])?;
        bytes -= step;
    }
    file.sync_all()
}

fn read_through(path: &Path) -> std::io::Result<()> {
    let (mut file, mut buf) = (File::open(path)?, vec![0; STEP]);
    while file.read(&mut buf)? > 0 {}
    Ok(())
}

/// What was written must be on disk first, or it stays.
fn forget(file: &File) -> std::io::Result<()> {
    file.sync_all()?;
    Ok(posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
}
