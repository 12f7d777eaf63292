//! The workload: each op is done, reported with its result, and never judged.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use guest_init::job::{Action, Errno, Job, MAX_LEN_BYTES, Mount, Write};
use guest_init::pattern::{Pattern, PatternMap, fnv1a64};
use guest_init::protocol::{FromGuest, OpEnd, ReadBack, ToGuest};
use guest_init::writers;
use nix::errno::Errno as Sys;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::mount::{MsFlags, mount, umount};

use super::ctl::{Ctl, Sender};
use super::descriptors::Descriptors;
use super::tracing::Tracer;
use super::{Doing, Outcome, aio, together};

pub const MOUNT_POINT: &str = "/mnt";
/// A driver that has not taken a new size by then never will.
const CAPACITY_LIMIT: Duration = Duration::from_secs(60);

/// Mounts, does all ops, unmounts. What the file system answers is reported; only a lost host is an error.
pub fn run(ctl: &mut Ctl, job: &Job, tracer: &Tracer) -> Outcome<()> {
    let workload = Workload::new(job);
    if job.mount.is_some() {
        tracer.remark("mount")?;
        let errno = workload.mount().err();
        tracer.remark("mounted")?;
        ctl.send(&FromGuest::Mounted { errno })?;
        if errno.is_some() {
            return Ok(());
        }
    }
    let mut mouth = Mouth { sender: ctl.sender(), unsaid: Vec::new() };
    for step in writers::steps(&job.ops) {
        let (first, ops) = (step.start as u32, &job.ops[step]);
        match ops[0].writer {
            Some(_) => together::run(&mut mouth, tracer, &workload, first, ops)?,
            None => alone(ctl, &mut mouth, tracer, &workload, first, &ops[0].action)?,
        }
    }
    ctl.send_all(&mouth.into_unsaid())?;
    if job.mount.is_some() {
        tracer.remark("unmount")?;
        let errno = workload.unmount().err();
        tracer.remark("unmounted")?;
        ctl.send(&FromGuest::Unmounted { errno })?;
    }
    Ok(())
}

/// An op beside which nothing else is done.
fn alone(
    ctl: &mut Ctl,
    mouth: &mut Mouth,
    tracer: &Tracer,
    workload: &Workload<'_>,
    index: u32,
    action: &Action,
) -> Outcome<()> {
    mouth.begins(index, action)?;
    let ended = one(tracer, workload, index, action, || match action {
        Action::Mark { name } => wait_for_ack(ctl, index, name),
        _ => Ok(()),
    })?;
    mouth.say_later([ended]);
    Ok(())
}

/// What a task says of its ops. Each end travels with the next begin: at each message the guest waits for the host.
pub struct Mouth {
    sender: Sender,
    unsaid: Vec<FromGuest>,
}

impl Mouth {
    /// For another task.
    pub fn another(&self) -> Mouth {
        Mouth { sender: self.sender.clone(), unsaid: Vec::new() }
    }

    pub fn begins(&mut self, index: u32, action: &Action) -> Outcome<()> {
        self.unsaid.push(FromGuest::OpBegin { index, op: action.name().into() });
        self.sender.send(&std::mem::take(&mut self.unsaid))
    }

    pub fn say_later(&mut self, messages: impl IntoIterator<Item = FromGuest>) {
        self.unsaid.extend(messages);
    }

    pub fn into_unsaid(self) -> Vec<FromGuest> {
        self.unsaid
    }
}

/// Does one op; `first` is done where it has begun in the trace. Gives what is to be sent of its end.
pub fn one(
    tracer: &Tracer,
    workload: &Workload<'_>,
    index: u32,
    action: &Action,
    first: impl FnOnce() -> Outcome<()>,
) -> Outcome<FromGuest> {
    let op = action.name();
    let inode_before = workload.inode(action);
    let start = Instant::now();
    tracer.op_begins(index, op, inode_before.filter(|_| tells_errors(action)))?;
    first()?;
    let result = workload.perform(action);
    tracer.op_ended(index, result.errno)?;
    let elapsed_us = start.elapsed().as_micros() as u64;
    let inode = workload.inode(action).or(inode_before);
    let read = result.data.map(|data| workload.read_back(&data));
    Ok(FromGuest::OpEnd(OpEnd {
        index,
        op: op.into(),
        returned: result.returned,
        errno: result.errno,
        inode,
        read,
        elapsed_us,
    }))
}

/// Whether the op tells the errors of its file although the trace does not show it in `ext4_sync_file`: msync is called by
/// another process.
fn tells_errors(action: &Action) -> bool {
    matches!(action, Action::SyncFileRange { start_only: false, .. } | Action::MmapWrite { msync: true, .. })
}

fn wait_for_ack(ctl: &mut Ctl, index: u32, name: &str) -> Outcome<()> {
    ctl.send(&FromGuest::Mark { index, name: name.into() })?;
    match ctl.receive()? {
        ToGuest::Ack { index: acked } if acked == index => Ok(()),
        other => {
            Err(format!("the host said {other:?}")).doing(format!("waiting for the acknowledgement of op {index}"))
        }
    }
}

/// What a call gave back.
struct Done {
    returned: i64,
    errno: Option<Errno>,
    data: Option<Data>,
}

/// Bytes read, and from where.
struct Data {
    offset: u64,
    bytes: Vec<u8>,
}

/// A call that stops at its first error, with what it had done until then.
struct Progress {
    bytes: u64,
    error: Option<Errno>,
}

type Call<T> = Result<T, Errno>;

fn errno(error: &io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(libc::EIO))
}

fn sys<T>(result: nix::Result<T>) -> Call<T> {
    result.map_err(|error| Errno(error as i32))
}

fn io<T>(result: io::Result<T>) -> Call<T> {
    result.map_err(|error| errno(&error))
}

pub struct Workload<'a> {
    device: &'a str,
    mount: Option<&'a Mount>,
    patterns: Vec<Pattern>,
    block_bytes: AtomicU64,
    open: Descriptors,
}

impl<'a> Workload<'a> {
    fn new(job: &'a Job) -> Self {
        let named = job.ops.iter().filter_map(|op| match &op.action {
            Action::Write(write) | Action::AioWrite(write) => Some(write.pattern.as_str()),
            Action::MmapWrite { pattern, .. } => Some(pattern),
            _ => None,
        });
        let mut patterns: Vec<Pattern> = Vec::new();
        for name in named {
            if patterns.iter().all(|known| known.name() != name) {
                patterns.push(Pattern::new(name));
            }
        }
        Workload {
            device: &job.device,
            mount: job.mount.as_ref(),
            patterns,
            block_bytes: AtomicU64::new(4096),
            open: Descriptors::default(),
        }
    }

    fn mount(&self) -> Call<()> {
        let Some(wanted) = self.mount else { return Ok(()) };
        let (flags, data) = mount_flags(&wanted.options);
        sys(mount(Some(self.device), MOUNT_POINT, Some(wanted.fstype.as_str()), flags, Some(data.as_str())))?;
        self.block_bytes.store(sys(nix::sys::statvfs::statvfs(MOUNT_POINT))?.block_size(), Ordering::Relaxed);
        Ok(())
    }

    fn unmount(&self) -> Call<()> {
        self.open.close_all();
        sys(umount(MOUNT_POINT))
    }

    fn perform(&self, action: &Action) -> Done {
        match action {
            Action::Write(write) => match self.write(write) {
                Ok(progress) => Done { returned: progress.bytes as i64, errno: progress.error, data: None },
                Err(errno) => Done { returned: -1, errno: Some(errno), data: None },
            },
            Action::Read { path, offset, len, direct } => match self.read(path, *offset, *len, *direct) {
                Ok((bytes, errno)) => {
                    let data = Some(Data { offset: *offset, bytes });
                    Done { returned: data.as_ref().map_or(0, |d| d.bytes.len() as i64), errno, data }
                }
                Err(errno) => Done { returned: -1, errno: Some(errno), data: None },
            },
            other => match self.call(other) {
                Ok(returned) => Done { returned, errno: None, data: None },
                Err(errno) => Done { returned: -1, errno: Some(errno), data: None },
            },
        }
    }

    /// The ops that are one call, or as good as one.
    fn call(&self, action: &Action) -> Call<i64> {
        match action {
            Action::Create { path } => io(self.open.create(path))?,
            Action::Fallocate { path, offset, len, keep_size } => {
                let mode = if *keep_size { FallocateFlags::FALLOC_FL_KEEP_SIZE } else { FallocateFlags::empty() };
                sys(fallocate(&*self.file(path, false)?, mode, *offset as i64, *len as i64))?;
            }
            Action::Punch { path, offset, len } => {
                let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                sys(fallocate(&*self.file(path, false)?, mode, *offset as i64, *len as i64))?;
            }
            Action::Fsync { path } => io(self.file_or_folder(path)?.sync_all())?,
            Action::Fdatasync { path } => io(self.file_or_folder(path)?.sync_data())?,
            Action::Sync {} => nix::unistd::sync(),
            Action::SyncFileRange { path, offset, len, start_only } => {
                sync_file_range(&*self.file(path, false)?, *offset, *len, *start_only)?;
            }
            Action::Truncate { path, len } => io(self.file(path, false)?.set_len(*len))?,
            Action::Rename { path, to } => self.rename(path, to)?,
            Action::Unlink { path } => {
                self.open.close(path);
                io(fs::remove_file(under(path)))?;
            }
            Action::Link { path, to } => io(fs::hard_link(under(path), under(to)))?,
            Action::Mkdir { path } => io(fs::create_dir(under(path)))?,
            Action::Fstrim {} => return fstrim(&io(File::open(MOUNT_POINT))?),
            Action::DropCaches {} => io(super::files::write("/proc/sys/vm/drop_caches", "3"))?,
            Action::MmapWrite { path, offset, len, pattern, msync } => {
                let bytes = self.bytes(pattern, *offset, *len);
                aio::mmap_write(&*self.file(path, false)?, *offset, bytes.bytes(), *msync)?;
                return Ok(*len as i64);
            }
            Action::AioWrite(write) => return self.aio_write(write),
            Action::SleepMs { ms } => thread::sleep(Duration::from_millis(*ms)),
            Action::AwaitCapacity { sectors } => self.await_capacity(*sectors)?,
            Action::Remount {} => {
                self.unmount()?;
                self.mount()?;
            }
            Action::Mark { .. } | Action::Write(_) | Action::Read { .. } => {}
        }
        Ok(0)
    }

    /// The driver takes a new size in its own time, some while after the device has told it.
    fn await_capacity(&self, sectors: u64) -> Call<()> {
        let name = self.device.rsplit('/').next().unwrap_or_default();
        let size = format!("/sys/block/{name}/size");
        let since = Instant::now();
        while io(fs::read_to_string(&size))?.trim() != sectors.to_string() {
            if since.elapsed() > CAPACITY_LIMIT {
                return Err(Errno(libc::ETIMEDOUT));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    fn rename(&self, path: &str, to: &str) -> Call<()> {
        io(fs::rename(under(path), under(to)))?;
        self.open.rename(path, to);
        Ok(())
    }

    /// The descriptor kept for `path`, opened now if there is none.
    fn file(&self, path: &str, direct: bool) -> Call<Arc<File>> {
        io(self.open.get(path, direct))
    }

    /// Like `file`; a folder or a file on a read-only mount is opened for this once only.
    fn file_or_folder(&self, path: &str) -> Call<Arc<File>> {
        match self.file(path, false) {
            Err(Errno(libc::EISDIR | libc::EROFS)) => Ok(Arc::new(io(File::open(under(path)))?)),
            other => other,
        }
    }

    fn write(&self, write: &Write) -> Call<Progress> {
        let calls = write.calls();
        let pattern = Pattern::new(&write.pattern);
        let file = self.file(&write.path, write.direct)?;
        let mut progress = Progress { bytes: 0, error: None };
        for (offset, len) in calls {
            let buffer = Aligned::filled(&pattern, offset, len);
            if let Err(error) = write_all_at(&file, buffer.bytes(), offset, &mut progress.bytes) {
                progress.error = Some(error);
                break;
            }
        }
        Ok(progress)
    }

    fn aio_write(&self, write: &Write) -> Call<i64> {
        let pattern = Pattern::new(&write.pattern);
        let buffers: Vec<_> =
            write.calls().into_iter().map(|(offset, len)| (offset, Aligned::filled(&pattern, offset, len))).collect();
        let pieces: Vec<_> = buffers.iter().map(|(offset, buffer)| (*offset, buffer.bytes())).collect();
        aio::write(&*self.file(&write.path, write.direct)?, &pieces)
    }

    fn bytes(&self, pattern: &str, offset: u64, len: u64) -> Aligned {
        Aligned::filled(&Pattern::new(pattern), offset, len)
    }

    /// What could be read, and the error that stopped it.
    fn read(&self, path: &str, offset: u64, len: Option<u64>, direct: bool) -> Call<(Vec<u8>, Option<Errno>)> {
        let file = if direct { self.file(path, true)? } else { self.file_or_folder(path)? };
        let rest = io(file.metadata())?.len().saturating_sub(offset);
        let wanted = len.unwrap_or(rest);
        if wanted > MAX_LEN_BYTES {
            return Err(Errno(libc::EFBIG));
        }
        // Direct I/O reads whole blocks, also the one behind the end of the file.
        let mut buffer = Aligned::new(wanted as usize);
        let mut done = 0;
        while done < buffer.bytes().len() {
            match file.read_at(&mut buffer.bytes_mut()[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Ok((buffer.bytes()[..done].to_vec(), Some(errno(&error)))),
            }
        }
        Ok((buffer.bytes()[..done].to_vec(), None))
    }

    fn read_back(&self, data: &Data) -> ReadBack {
        let map = PatternMap::of(&data.bytes, data.offset, &self.patterns, self.block_bytes.load(Ordering::Relaxed));
        ReadBack { fnv1a64: format!("{:016x}", fnv1a64(&data.bytes)), map }
    }

    fn inode(&self, action: &Action) -> Option<u64> {
        let path = action.path()?;
        let open = self.open.kept(path, false).and_then(|file| file.metadata().ok());
        open.or_else(|| fs::symlink_metadata(under(path)).ok()).map(|meta| meta.ino())
    }
}

pub fn under(path: &str) -> PathBuf {
    Path::new(MOUNT_POINT).join(path)
}

fn write_all_at(file: &File, bytes: &[u8], offset: u64, done: &mut u64) -> Call<()> {
    let mut written = 0;
    while written < bytes.len() {
        match file.write_at(&bytes[written..], offset + written as u64) {
            Ok(0) => return Err(Errno(libc::EIO)),
            Ok(len) => {
                written += len;
                *done += len as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(errno(&error)),
        }
    }
    Ok(())
}

#[allow(unsafe_code, reason = "no safe wrapper for this system call")]
fn sync_file_range(file: &File, offset: u64, len: u64, start_only: bool) -> Call<()> {
    use std::os::fd::AsRawFd;
    let wait = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    let flags = libc::SYNC_FILE_RANGE_WRITE | if start_only { 0 } else { wait };
    // SAFETY: takes numbers only; the descriptor is open while `file` lives.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), offset as i64, len as i64, flags) };
    sys(Sys::result(result).map(drop))
}

/// The kernel writes back how many bytes it gave to the disk.
#[allow(unsafe_code, reason = "no safe wrapper for this system call")]
fn fstrim(folder: &File) -> Call<i64> {
    use std::os::fd::AsRawFd;
    /// `struct fstrim_range`: start, length, shortest extent, in bytes.
    type Range = [u64; 3];
    const FITRIM: libc::Ioctl = libc::_IOWR::<Range>(b'X' as u32, 121);
    let mut range: Range = [0, u64::MAX, 0];
    // SAFETY: the kernel reads and writes one `Range`, which lives past the call; the descriptor is open.
    let result = unsafe { libc::ioctl(folder.as_raw_fd(), FITRIM, &raw mut range) };
    sys(Sys::result(result))?;
    Ok(range[1] as i64)
}

/// What `mount -o` would make flags of; the rest is for the file system.
fn mount_flags(options: &str) -> (MsFlags, String) {
    let mut flags = MsFlags::empty();
    let mut data = Vec::new();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => flags |= MsFlags::MS_RDONLY,
            "rw" => flags -= MsFlags::MS_RDONLY,
            "sync" => flags |= MsFlags::MS_SYNCHRONOUS,
            "dirsync" => flags |= MsFlags::MS_DIRSYNC,
            "noatime" => flags |= MsFlags::MS_NOATIME,
            "nodiratime" => flags |= MsFlags::MS_NODIRATIME,
            "strictatime" => flags |= MsFlags::MS_STRICTATIME,
            "relatime" => flags |= MsFlags::MS_RELATIME,
            "lazytime" => flags |= MsFlags::MS_LAZYTIME,
            _ => data.push(option),
        }
    }
    (flags, data.join(","))
}

/// Memory at a page boundary, as O_DIRECT wants it.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        const ALIGN: usize = 4096;
        let memory = vec![0; len + ALIGN];
        let start = memory.as_ptr().align_offset(ALIGN);
        Aligned { memory, start, len }
    }

    fn filled(pattern: &Pattern, offset: u64, len: u64) -> Self {
        let mut buffer = Aligned::new(len as usize);
        pattern.fill(offset, buffer.bytes_mut());
        buffer
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.len]
    }
}
