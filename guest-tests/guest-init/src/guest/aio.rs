//! The two ways of writing that need raw pointers: kernel AIO and a shared mapping.

#![allow(unsafe_code, reason = "io_submit and mmap take pointers; each function here says why its pointers live")]

use std::fs::File;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd;

use guest_init::job::Errno;
use nix::errno::Errno as Sys;
use nix::sys::mman::{MapFlags, MsFlags, ProtFlags, mmap, msync, munmap};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};

/// `struct io_event` of linux/aio_abi.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct IoEvent {
    data: u64,
    obj: u64,
    res: i64,
    res2: i64,
}

/// `struct iocb` of linux/aio_abi.h, little-endian.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Iocb {
    data: u64,
    key: u32,
    rw_flags: i32,
    opcode: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_fd: u32,
}

const IOCB_CMD_PWRITE: u16 = 1;

/// Submits all pieces at once and waits for all. Bytes written, or the first error in order of submission.
pub fn write(file: &File, pieces: &[(u64, &[u8])]) -> Result<i64, Errno> {
    let mut context: libc::c_ulong = 0;
    // SAFETY: `context` is a live c_ulong the kernel writes once.
    call(unsafe { libc::syscall(libc::SYS_io_setup, pieces.len(), &raw mut context) })?;
    let result = submit_and_wait(context, file, pieces);
    // SAFETY: `context` came from io_setup and is not used after this. It waits for what is still in flight.
    call(unsafe { libc::syscall(libc::SYS_io_destroy, context) })?;
    result
}

fn submit_and_wait(context: libc::c_ulong, file: &File, pieces: &[(u64, &[u8])]) -> Result<i64, Errno> {
    let iocb = |(index, (offset, bytes)): (usize, &(u64, &[u8]))| Iocb {
        data: index as u64,
        opcode: IOCB_CMD_PWRITE,
        fd: file.as_raw_fd() as u32,
        buffer: bytes.as_ptr() as u64,
        bytes: bytes.len() as u64,
        offset: *offset as i64,
        ..Iocb::default()
    };
    let blocks: Vec<Iocb> = pieces.iter().enumerate().map(iocb).collect();
    let pointers: Vec<*const Iocb> = blocks.iter().map(std::ptr::from_ref).collect();
    let mut submitted = 0;
    while submitted < pointers.len() {
        let rest = &pointers[submitted..];
        // SAFETY: the blocks and the buffers they name outlive every request: `write` keeps them until io_destroy.
        submitted += call(unsafe { libc::syscall(libc::SYS_io_submit, context, rest.len(), rest.as_ptr()) })? as usize;
    }
    let mut events = vec![IoEvent::default(); pieces.len()];
    let mut seen = 0;
    while seen < events.len() {
        let rest = &mut events[seen..];
        let no_timeout = std::ptr::null::<libc::timespec>();
        // SAFETY: `rest` has room for as many events as are asked for.
        let got =
            unsafe { libc::syscall(libc::SYS_io_getevents, context, 1, rest.len(), rest.as_mut_ptr(), no_timeout) };
        seen += call(got)? as usize;
    }
    events.sort_by_key(|event| event.data);
    events
        .iter()
        .try_fold(0, |sum, event| if event.res < 0 { Err(Errno(-event.res as i32)) } else { Ok(sum + event.res) })
}

fn call(result: libc::c_long) -> Result<i64, Errno> {
    Sys::result(result).map_err(|error| Errno(error as i32))
}

/// Stores `bytes` through a shared mapping of `file`, in a child process: a page that cannot be had
/// means SIGBUS, and PID 1 must not die of it. The op's error is then EFAULT.
pub fn mmap_write(file: &File, offset: u64, bytes: &[u8], sync: bool) -> Result<(), Errno> {
    let skip = (offset % 4096) as usize;
    let len = NonZeroUsize::new(skip + bytes.len()).ok_or(Errno(libc::EINVAL))?;
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice; nothing of ours lies there.
    let map = unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, file, (offset - skip as u64) as i64) };
    let map = map.map_err(|error| Errno(error as i32))?;
    // SAFETY: the child only copies into the mapping, calls msync and _exit, all fit for a child of a threaded process.
    let result = match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            // SAFETY: the mapping has `skip + bytes.len()` bytes and overlaps no Rust memory.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), map.as_ptr().cast::<u8>().add(skip), bytes.len()) };
            // SAFETY: the whole mapping, made above.
            let synced = if sync { unsafe { msync(map, len.get(), MsFlags::MS_SYNC) } } else { Ok(()) };
            // SAFETY: ends the child at once, without destructors.
            unsafe { libc::_exit(synced.err().map_or(0, |error| error as i32)) }
        }
        Ok(ForkResult::Parent { child }) => waitpid(child, None),
        Err(error) => Err(error),
    };
    // SAFETY: the mapping made above, not used any more.
    unsafe { munmap(map, len.get()) }.map_err(|error| Errno(error as i32))?;
    match result.map_err(|error| Errno(error as i32))? {
        WaitStatus::Exited(_, 0) => Ok(()),
        WaitStatus::Exited(_, code) => Err(Errno(code)),
        _ => Err(Errno(libc::EFAULT)),
    }
}
