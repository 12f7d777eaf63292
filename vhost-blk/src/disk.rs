//! The image: a raw file or a block device, locked against a second writer.
//!
//! With `memory:SIZE` it is an anonymous file in memory, gone with the process.
//!
//! It holds what the device claims is on media, and nothing else. Every failure of the host here is a `HostError`: the
//! guest is told IOERR, the first one is remembered, and the run ends with exit code 4. None of them is a finding.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use fault_injection::SECTOR_BYTES;
use nix::fcntl::{FallocateFlags, FcntlArg, OFlag, fallocate, fcntl};

use crate::error::ImageError;
use crate::iovec::Iovecs;
use crate::way::ImageTraits;

/// Zeroes are written in steps of this many bytes where the file system cannot do it by itself.
const ZERO_STEP: usize = 1 << 20;

/// How the name of a disk in memory begins.
pub const MEMORY: &str = "memory:";

/// What O_DIRECT may ask of addresses, offsets and lengths, at most.
pub const DIRECT_ALIGN: usize = 4096;

/// An I/O error of the host's own making.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize)]
#[error("host I/O error: {what} of {bytes} bytes at byte {offset} of {path}: {why}")]
pub struct HostError {
    /// The image.
    pub path: PathBuf,
    /// Which call.
    pub what: &'static str,
    /// Where in the image.
    pub offset: u64,
    /// How much.
    pub bytes: u64,
    /// What the host said.
    pub why: String,
}

/// How an image is opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct DiskOptions {
    /// No writing, and a shared lock.
    pub read_only: bool,
    /// O_DIRECT.
    pub direct: bool,
    /// Do not look at the first bytes.
    pub raw: bool,
}

/// What becomes of the space under zeroes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Zeroing {
    /// Given back to the host.
    Deallocate,
    /// Kept allocated.
    Keep,
}

/// An open image.
#[derive(Debug)]
pub struct Disk {
    file: File,
    /// The same file through O_DIRECT; takes what is aligned.
    direct: Option<File>,
    path: PathBuf,
    bytes: AtomicU64,
    direct_bytes: u64,
    read_only: bool,
    traits: ImageTraits,
    flushes: AtomicU64,
    first_error: OnceLock<HostError>,
}

impl Disk {
    /// Opens, recognises and locks an image.
    pub fn open(path: &Path, options: DiskOptions) -> Result<Disk, ImageError> {
        if let Some(size) = path.to_str().and_then(|path| path.strip_prefix(MEMORY)) {
            return Disk::in_memory(path, size, options);
        }
        let open_error = |source| ImageError::Open { path: path.to_path_buf(), source };
        let mut how = OpenOptions::new();
        how.read(true).write(!options.read_only);
        let file = how.open(path).map_err(open_error)?;
        leave_access_time(&file);
        let kind = file.metadata().map_err(open_error)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(ImageError::Kind { path: path.to_path_buf() });
        }
        lock(&file, options.read_only).map_err(|errno| match errno {
            nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES => ImageError::Locked { path: path.to_path_buf() },
            other => open_error(other.into()),
        })?;
        let bytes = length(&file).map_err(open_error)? / SECTOR_BYTES * SECTOR_BYTES;
        if bytes == 0 {
            return Err(ImageError::Empty { path: path.to_path_buf() });
        }
        if !options.raw {
            refuse_other_formats(&file, path).map_err(open_error)??;
        }
        let direct = match options.direct {
            true => Some(how.custom_flags(libc::O_DIRECT).open(path).map_err(open_error)?),
            false => None,
        };
        direct.iter().for_each(leave_access_time);
        let direct_bytes = direct.as_ref().map_or(SECTOR_BYTES, direct_unit);
        let traits = ImageTraits {
            in_memory: kind.is_file() && lies_in_memory(&file),
            nowait_reads: nowait_works(&file),
            regular: kind.is_file(),
            direct: direct.is_some(),
        };
        let (path, flushes, first_error) = (path.to_path_buf(), AtomicU64::new(0), OnceLock::new());
        let (bytes, read_only) = (AtomicU64::new(bytes), options.read_only);
        Ok(Disk { file, direct, path, bytes, direct_bytes, read_only, traits, flushes, first_error })
    }

    /// A disk of zeroes that only this process has.
    fn in_memory(path: &Path, size: &str, options: DiskOptions) -> Result<Disk, ImageError> {
        let path = path.to_path_buf();
        let bytes = size_bytes(size).ok_or_else(|| ImageError::MemorySize { size: size.to_string() })?;
        if options.direct {
            return Err(ImageError::MemoryDirect);
        }
        let made = nix::sys::memfd::memfd_create(c"vhost-blk", nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
        let file = made.map(File::from).map_err(io::Error::from).inspect(leave_access_time);
        let file = file.and_then(|file| file.set_len(bytes).map(|()| file));
        let file = file.map_err(|source| ImageError::Open { path: path.clone(), source })?;
        let traits = ImageTraits { in_memory: true, nowait_reads: false, regular: true, direct: false };
        let (flushes, first_error) = (AtomicU64::new(0), OnceLock::new());
        let (direct, direct_bytes, read_only) = (None, SECTOR_BYTES, options.read_only);
        let bytes = AtomicU64::new(bytes);
        Ok(Disk { file, direct, path, bytes, direct_bytes, read_only, traits, flushes, first_error })
    }

    /// What kind of image it is.
    pub fn traits(&self) -> ImageTraits {
        self.traits
    }

    /// The image for an io_uring: for syncs, and for transfers. Opened anew, since a ring lets go of its files only some
    /// time after its process has died, and the lock would last as long.
    pub fn reopen(&self) -> io::Result<(File, File)> {
        let open = |file: &File, flags: i32| -> io::Result<File> {
            let mut how = OpenOptions::new();
            how.read(true).write(!self.read_only).custom_flags(flags);
            let file = how.open(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
            leave_access_time(&file);
            Ok(file)
        };
        let file = open(&self.file, 0)?;
        let data = if self.direct.is_some() { open(&self.file, libc::O_DIRECT)? } else { file.try_clone()? };
        Ok((file, data))
    }

    fn data(&self) -> &File {
        self.direct.as_ref().unwrap_or(&self.file)
    }

    /// Whole sectors in the image.
    pub fn capacity_sectors(&self) -> u64 {
        self.bytes() / SECTOR_BYTES
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    /// Whether the image may be made larger: it is a file, and ours to write.
    pub fn can_grow(&self) -> bool {
        self.traits.regular && !self.read_only
    }

    /// Makes the image at least so large, by a hole. It is never made smaller.
    pub fn grow(&self, sectors: u64) -> io::Result<()> {
        let bytes = sectors * SECTOR_BYTES;
        if bytes <= self.bytes() {
            return Ok(());
        }
        if !self.can_grow() {
            let why = "only an image that is a file and may be written can be made larger";
            return Err(io::Error::new(io::ErrorKind::Unsupported, why));
        }
        self.still_whole()?;
        self.file.set_len(bytes)?;
        self.bytes.store(bytes, Ordering::SeqCst);
        Ok(())
    }

    /// The image.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The smallest unit O_DIRECT takes here; 512 without --direct.
    pub fn direct_bytes(&self) -> u64 {
        self.direct_bytes
    }

    /// How often the host was asked to make it durable.
    pub fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::Relaxed)
    }

    /// The first host error, if there was one.
    pub fn first_error(&self) -> Option<&HostError> {
        self.first_error.get()
    }

    /// Remembers a host error that was met elsewhere.
    pub fn remember(&self, error: &HostError) {
        let _ = self.first_error.set(error.clone());
    }

    /// Says beforehand that a sparse image may not fit where it lies. It may never be filled, so it is no error.
    pub fn warn_if_space_is_short(&self) {
        use std::os::unix::fs::MetadataExt;
        let (Ok(about), Ok(host)) = (self.file.metadata(), nix::sys::statvfs::fstatvfs(&self.file)) else { return };
        let missing = self.bytes().saturating_sub(about.blocks() * SECTOR_BYTES);
        let free = host.blocks_available() * host.fragment_size();
        if self.traits.regular && missing > free {
            let (path, missing, free) = (self.path.display(), missing >> 20, free >> 20);
            tell!("vhost-blk: warning: {path} may still grow by {missing} MiB, its file system has {free} MiB free");
        }
    }

    /// Says that bytes after the last whole sector are not served.
    pub fn warn_of_a_tail(&self) {
        let tail = length(&self.file).map_or(0, |bytes| bytes % SECTOR_BYTES);
        if tail > 0 {
            let path = self.path.display();
            tell!("vhost-blk: warning: the last {tail} bytes of {path} are no whole sector, and are not served");
        }
    }

    /// Reads exactly `buf`.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), HostError> {
        let bytes = buf.len();
        let result = self.for_transfer(offset, buf).read_exact_at(buf, offset);
        result.map_err(|error| self.host_error("read", offset, bytes as u64, &error))
    }

    /// Writes exactly `buf`. An image that was truncated under us is not made whole again: that would hide it.
    pub fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), HostError> {
        let result = self.still_whole().and_then(|()| self.for_transfer(offset, buf).write_all_at(buf, offset));
        result.map_err(|error| self.host_error("write", offset, buf.len() as u64, &error))
    }

    /// Reads exactly a buffer of the guest's, without a copy of ours.
    pub fn read_in_place<M>(&self, iovecs: &mut Iovecs<M>, mut offset: u64) -> Result<(), HostError> {
        let (bytes, begin) = (iovecs.left_bytes(), offset);
        let result = whole(iovecs, |iovecs| {
            let moved = iovecs.read_once(self.data(), offset, 0)?;
            offset += moved;
            Ok(moved)
        });
        result.map_err(|error| self.host_error("read", begin, bytes, &error))
    }

    /// Reads what is there without waiting. Gives how much that was.
    pub fn read_now<M>(&self, iovecs: &mut Iovecs<M>, offset: u64) -> Result<u64, HostError> {
        match iovecs.read_once(&self.file, offset, libc::RWF_NOWAIT) {
            Ok(moved) => {
                iovecs.advance(moved);
                Ok(moved)
            }
            // Not without waiting, or not here: a file system may know RWF_NOWAIT for some of its files only.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR | libc::EOPNOTSUPP)) => Ok(0),
            Err(error) => Err(self.host_error("read", offset, iovecs.left_bytes(), &error)),
        }
    }

    /// Writes exactly a buffer of the guest's, without a copy of ours. Ask `check_whole` first.
    pub fn write_in_place<M>(&self, iovecs: &mut Iovecs<M>, mut offset: u64) -> Result<(), HostError> {
        let (bytes, begin) = (iovecs.left_bytes(), offset);
        let result = whole(iovecs, |iovecs| {
            let moved = iovecs.write_once(self.data(), offset)?;
            offset += moved;
            Ok(moved)
        });
        result.map_err(|error| self.host_error("write", begin, bytes, &error))
    }

    /// An image that was truncated under us is not made whole again: that would hide it.
    pub fn check_whole(&self) -> Result<(), HostError> {
        self.still_whole().map_err(|error| self.host_error("write", 0, 0, &error))
    }

    /// A flush is going to be asked of the host elsewhere.
    pub fn count_flush(&self) {
        self.flushes.fetch_add(1, Ordering::Relaxed);
    }

    /// A request that the host failed elsewhere.
    pub fn failed(&self, what: &'static str, offset: u64, bytes: u64, error: &io::Error) -> HostError {
        self.host_error(what, offset, bytes, error)
    }

    /// Makes what was written durable.
    pub fn flush(&self) -> Result<(), HostError> {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        let result = self.still_whole().and_then(|()| self.file.sync_data());
        result.map_err(|error| self.host_error("fdatasync", 0, 0, &error))
    }

    /// Makes a range read as zeroes.
    pub fn zero(&self, offset: u64, bytes: u64, zeroing: Zeroing) -> Result<(), HostError> {
        let result = self.still_whole().and_then(|()| self.try_zero(offset, bytes, zeroing));
        result.map_err(|error| self.host_error("zeroing", offset, bytes, &error))
    }

    fn try_zero(&self, offset: u64, bytes: u64, zeroing: Zeroing) -> io::Result<()> {
        let how = match zeroing {
            Zeroing::Deallocate => FallocateFlags::FALLOC_FL_PUNCH_HOLE,
            Zeroing::Keep => FallocateFlags::FALLOC_FL_ZERO_RANGE,
        } | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        match fallocate(&self.file, how, offset.cast_signed(), bytes.cast_signed()) {
            Ok(()) => Ok(()),
            Err(nix::errno::Errno::EOPNOTSUPP | nix::errno::Errno::ENODEV | nix::errno::Errno::ENOSYS) => {
                self.write_zeroes(offset, bytes)
            }
            // A block device with blocks larger than ours.
            Err(nix::errno::Errno::EINVAL) if !self.traits.regular => self.write_zeroes(offset, bytes),
            Err(errno) => Err(errno.into()),
        }
    }

    fn write_zeroes(&self, mut offset: u64, mut bytes: u64) -> io::Result<()> {
        let zeroes = vec![0; ZERO_STEP.min(usize::try_from(bytes).unwrap_or(ZERO_STEP))];
        while bytes > 0 {
            let step = bytes.min(zeroes.len() as u64);
            self.file.write_all_at(&zeroes[..step as usize], offset)?;
            offset += step;
            bytes -= step;
        }
        Ok(())
    }

    /// O_DIRECT where it can be, the page cache where an odd length (a fault's) forbids it. Linux keeps both coherent.
    fn for_transfer(&self, offset: u64, buf: &[u8]) -> &File {
        let odd = |n: u64| !n.is_multiple_of(self.direct_bytes);
        match &self.direct {
            Some(direct)
                if !odd(offset) && !odd(buf.len() as u64) && (buf.as_ptr() as usize).is_multiple_of(DIRECT_ALIGN) =>
            {
                direct
            }
            _ => &self.file,
        }
    }

    fn still_whole(&self) -> io::Result<()> {
        if !self.traits.regular || self.file.metadata()?.len() >= self.bytes() {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the image was truncated while it was served"))
    }

    fn host_error(&self, what: &'static str, offset: u64, bytes: u64, error: &io::Error) -> HostError {
        let host_error = HostError { path: self.path.clone(), what, offset, bytes, why: error.to_string() };
        self.remember(&host_error);
        host_error
    }
}

/// Moves until nothing is left. No progress is the end of the image.
fn whole<M>(iovecs: &mut Iovecs<M>, mut once: impl FnMut(&mut Iovecs<M>) -> io::Result<u64>) -> io::Result<()> {
    while iovecs.left_bytes() > 0 {
        match once(iovecs) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(moved) => iovecs.advance(moved),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// 512M, 1G, or bytes; whole sectors, and not none.
fn size_bytes(text: &str) -> Option<u64> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let shift = match &text[split..] {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        _ => return None,
    };
    let bytes = text[..split].parse::<u64>().ok()?.checked_mul(1 << shift)?;
    (bytes > 0 && bytes <= i64::MAX as u64 && bytes.is_multiple_of(SECTOR_BYTES)).then_some(bytes)
}

fn lies_in_memory(file: &File) -> bool {
    let fs = nix::sys::statfs::fstatfs(file).map(|fs| fs.filesystem_type());
    const RAMFS_MAGIC: i64 = 0x8584_58f6;
    fs.is_ok_and(|fs| fs == nix::sys::statfs::TMPFS_MAGIC || fs.0 == RAMFS_MAGIC)
}

/// Not every file system can say that it would have to wait.
fn nowait_works(file: &File) -> bool {
    let mut sector = [0; SECTOR_BYTES as usize];
    let mut parts = [io::IoSliceMut::new(&mut sector)];
    let read = crate::iovec::read_nowait(file, &mut parts);
    match read {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// A read need not look whether the access time is due (O_NOATIME): it is the guest that reads. Only a file's owner may ask
/// for that; for others reads are a little slower.
fn leave_access_time(file: &File) {
    let _ = fcntl(file, FcntlArg::F_GETFL)
        .map(|flags| OFlag::from_bits_retain(flags) | OFlag::O_NOATIME)
        .and_then(|flags| fcntl(file, FcntlArg::F_SETFL(flags)));
}

/// Over the whole file, and tied to the open file, so that it ends with us however we end. QEMU's own locks on raw
/// images are of the same kind and conflict with it.
fn lock(file: &File, shared: bool) -> nix::Result<()> {
    let kind = if shared { libc::F_RDLCK } else { libc::F_WRLCK };
    let whole = libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 };
    fcntl(file, FcntlArg::F_OFD_SETLK(&whole)).map(drop)
}

/// A block device's metadata says nothing of its size; its end does.
fn length(mut file: &File) -> io::Result<u64> {
    use std::io::Seek;
    file.seek(io::SeekFrom::End(0))
}

fn refuse_other_formats(file: &File, path: &Path) -> io::Result<Result<(), ImageError>> {
    let mut start = [0; 512];
    file.read_exact_at(&mut start, 0)?;
    Ok(match format_of(&start) {
        Some(format) => Err(ImageError::Format { path: path.to_path_buf(), format }),
        None => Ok(()),
    })
}

/// By the magic of each format's own specification.
fn format_of(start: &[u8]) -> Option<&'static str> {
    let magics: [(&[u8], &str); 5] = [
        (b"QFI\xfb", "qcow2"),
        (b"vhdxfile", "VHDX"),
        (b"KDMV", "VMDK"),
        (b"COWD", "VMDK"),
        (b"# Disk DescriptorFile", "VMDK"),
    ];
    magics.iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, name)| *name)
}

/// 512 if a sector can be read by itself, else what every disk can do.
fn direct_unit(direct: &File) -> u64 {
    let mut room = vec![0; 2 * DIRECT_ALIGN];
    let start = room.as_ptr().align_offset(DIRECT_ALIGN);
    match direct.read_at(&mut room[start..start + SECTOR_BYTES as usize], 0) {
        Ok(_) => SECTOR_BYTES,
        Err(_) => DIRECT_ALIGN as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(content: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), content).expect("its content");
        file
    }

    #[test]
    fn refuses_each_format_that_is_not_raw_and_names_the_remedy() {
        for (magic, name) in [(&b"QFI\xfb"[..], "qcow2"), (b"vhdxfile", "VHDX"), (b"KDMV", "VMDK")] {
            let mut content = vec![0; 1024];
            content[..magic.len()].copy_from_slice(magic);
            let file = image(&content);
            let error = Disk::open(file.path(), DiskOptions::default()).expect_err("refused").to_string();
            assert!(error.contains(name) && error.contains("qemu-img convert -O raw"), "{error}");
            Disk::open(file.path(), DiskOptions { raw: true, ..Default::default() }).expect("--raw serves it");
        }
    }

    #[test]
    fn a_second_writer_is_refused_and_two_readers_are_not() {
        let file = image(&[0; 4096]);
        let reading = DiskOptions { read_only: true, ..Default::default() };
        let first = Disk::open(file.path(), DiskOptions::default()).expect("the first");
        assert!(matches!(Disk::open(file.path(), DiskOptions::default()), Err(ImageError::Locked { .. })));
        assert!(matches!(Disk::open(file.path(), reading), Err(ImageError::Locked { .. })));
        drop(first);
        let _one = Disk::open(file.path(), reading).expect("a reader");
        let _two = Disk::open(file.path(), reading).expect("another reader");
    }

    #[test]
    fn zeroing_touches_its_range_and_no_byte_beside_it() {
        for zeroing in [Zeroing::Deallocate, Zeroing::Keep] {
            let file = image(&[7; 8192]);
            let disk = Disk::open(file.path(), DiskOptions::default()).expect("opens");
            disk.zero(512, 1024, zeroing).expect("zeroed");
            let mut expected = vec![7; 8192];
            expected[512..1536].fill(0);
            assert_eq!(std::fs::read(file.path()).expect("read"), expected);
        }
    }

    #[test]
    fn a_truncated_image_is_a_host_error_and_is_not_grown_again() {
        let file = image(&[7; 8192]);
        let disk = Disk::open(file.path(), DiskOptions::default()).expect("opens");
        file.as_file().set_len(4096).expect("truncated");
        assert!(disk.write_at(&[1; 512], 6144).is_err());
        assert!(disk.read_at(&mut [0; 512], 6144).is_err());
        assert_eq!(file.as_file().metadata().expect("metadata").len(), 4096);
        assert_eq!(disk.first_error().map(|error| error.what), Some("write"));
    }
}
