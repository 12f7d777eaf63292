//! The guest's memory as the kernel takes it: lists of addresses and lengths, for reads and writes without a copy of ours.
//!
//! Every part was looked up in the guest's memory, piece by piece, so all of it is mapped; and a list keeps that mapping
//! alive by holding the memory itself, by reference or by its own count. The guest may change its buffers meanwhile, as
//! it may under any disk: the bytes are its own, and nothing here or in the kernel decides by them.

use std::fs::File;
use std::io;
use std::ops::Deref;
use std::os::fd::AsRawFd;

use smallvec::SmallVec;
use vm_memory::{GuestMemoryBackend, GuestMemoryLoadGuard};

use crate::request::{GuestBuffer, Memory, MemoryGone};

/// The guest's memory, kept mapped for as long as the value lives.
pub type MemoryGuard = GuestMemoryLoadGuard<Memory>;

/// What one call takes (UIO_MAXIOV).
const MAX_PARTS: usize = 1024;

/// As `struct iovec`, but a plain value: nothing is reached through it except by the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Part {
    address: usize,
    bytes: usize,
}

/// A buffer of the guest, in mapped memory.
#[derive(Debug)]
pub struct Iovecs<M> {
    parts: SmallVec<[Part; 4]>,
    /// Parts before this one are done.
    first: usize,
    left_bytes: u64,
    /// Keeps the addresses valid.
    _memory: M,
}

impl<M: Deref<Target = Memory>> Iovecs<M> {
    /// Looks up a buffer from its byte `skip` on. More pieces than one call takes are refused like memory that is gone:
    /// the caller copies then.
    pub fn of(buffer: &GuestBuffer, skip: u64, memory: M) -> Result<Iovecs<M>, MemoryGone> {
        let mut parts = SmallVec::new();
        for (address, bytes) in buffer.parts() {
            let bytes = usize::try_from(*bytes).map_err(|_| MemoryGone)?;
            for slice in GuestMemoryBackend::get_slices(&*memory, *address, bytes) {
                let slice = slice.map_err(|_| MemoryGone)?;
                parts.push(Part { address: slice.ptr_guard_mut().as_ptr() as usize, bytes: slice.len() });
            }
        }
        if parts.len() > MAX_PARTS {
            return Err(MemoryGone);
        }
        let mut iovecs = Iovecs { parts, first: 0, left_bytes: buffer.bytes(), _memory: memory };
        iovecs.advance(skip);
        Ok(iovecs)
    }
}

impl<M> Iovecs<M> {
    /// What is still to be moved.
    pub fn left_bytes(&self) -> u64 {
        self.left_bytes
    }

    /// Whether every part begins and ends on a multiple of `unit`, as O_DIRECT asks.
    pub fn is_aligned(&self, unit: u64) -> bool {
        let unit = unit as usize;
        self.parts.iter().all(|part| part.address.is_multiple_of(unit) && part.bytes.is_multiple_of(unit))
    }

    /// So many bytes have been moved.
    pub fn advance(&mut self, mut bytes: u64) {
        self.left_bytes = self.left_bytes.saturating_sub(bytes);
        while let Some(part) = self.parts.get_mut(self.first)
            && bytes > 0
        {
            let step = bytes.min(part.bytes as u64) as usize;
            (part.address, part.bytes) = (part.address + step, part.bytes - step);
            bytes -= step as u64;
            self.first += usize::from(part.bytes == 0);
        }
    }

    /// The list for a system call: valid while `self` is neither moved nor changed.
    pub fn as_raw(&self) -> (*const libc::iovec, u32) {
        let parts = &self.parts[self.first..];
        (parts.as_ptr().cast(), parts.len() as u32)
    }

    /// preadv2(2), once; the cheaper pread(2) for a single part. Gives the bytes read; 0 is the end of the file.
    #[allow(unsafe_code, reason = "the kernel writes into the guest's memory, which is no Rust buffer")]
    pub fn read_once(&mut self, file: &File, offset: u64, flags: i32) -> io::Result<u64> {
        let (fd, offset, (list, parts)) = (file.as_raw_fd(), offset.cast_signed(), self.as_raw());
        // SAFETY: `Part` is laid out as `struct iovec`. Each names memory that was looked up in the guest's memory and
        // that `_memory` keeps mapped while `self` lives; the kernel checks it against faults. No reference of ours
        // points into it: the guest's memory is reached by volatile access only.
        let read = unsafe {
            match self.single().filter(|_| flags == 0) {
                Some(part) => libc::pread(fd, part.address as *mut libc::c_void, part.bytes, offset),
                None => libc::preadv2(fd, list, parts as i32, offset, flags),
            }
        };
        moved(read)
    }

    /// pwritev(2), once, or pwrite(2). Gives the bytes written.
    #[allow(unsafe_code, reason = "the kernel reads from the guest's memory, which is no Rust buffer")]
    pub fn write_once(&mut self, file: &File, offset: u64) -> io::Result<u64> {
        let (fd, offset, (list, parts)) = (file.as_raw_fd(), offset.cast_signed(), self.as_raw());
        // SAFETY: as in `read_once`; here the kernel only reads.
        let written = unsafe {
            match self.single() {
                Some(part) => libc::pwrite(fd, part.address as *const libc::c_void, part.bytes, offset),
                None => libc::pwritev(fd, list, parts as i32, offset),
            }
        };
        moved(written)
    }

    fn single(&self) -> Option<Part> {
        match self.parts[self.first..] {
            [part] => Some(part),
            _ => None,
        }
    }
}

/// Asks for the beginning of a file, if that needs no waiting.
#[allow(unsafe_code, reason = "the standard library has no preadv2")]
pub fn read_nowait(file: &File, parts: &mut [io::IoSliceMut<'_>]) -> io::Result<u64> {
    let (list, count) = (parts.as_ptr().cast(), parts.len() as i32);
    // SAFETY: `IoSliceMut` is laid out as `struct iovec`, and borrows what it names for as long as the call takes.
    moved(unsafe { libc::preadv2(file.as_raw_fd(), list, count, 0, libc::RWF_NOWAIT) })
}

fn moved(result: isize) -> io::Result<u64> {
    u64::try_from(result).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::os::unix::fs::FileExt;
    use vm_memory::{Bytes, GuestAddress};

    /// Two regions, next to each other for the guest and far apart for us.
    fn memory() -> Memory {
        Memory::from_ranges(&[(GuestAddress(0), 0x1000), (GuestAddress(0x1000), 0x1000)]).expect("guest memory")
    }

    #[test]
    fn a_buffer_that_reaches_out_of_the_memory_has_no_list() {
        let memory = memory();
        let outside = GuestBuffer::of(&[(0x1ff0, 0x11)]);
        assert_eq!(Iovecs::of(&outside, 0, &memory).map(|_| ()), Err(MemoryGone));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn moving_a_buffer_in_steps_moves_the_bytes_that_a_copy_moves(
            parts in prop::collection::vec((0..0x1f00u64, 1..0x100u64), 1..12),
            steps in prop::collection::vec(100..700u64, 1..8),
        ) {
            let memory = memory();
            let content: Vec<u8> = (0..0x2000u32).map(|i| ((i * 7) >> 3) as u8).collect();
            memory.write_slice(&content, GuestAddress(0)).expect("guest memory");
            let buffer = GuestBuffer::of(&parts);
            let mut copied = vec![0; buffer.bytes() as usize];
            buffer.read(&memory, 0, &mut copied).expect("inside");

            let file = tempfile::tempfile().expect("a file");
            let mut offset = 0;
            for step in steps.into_iter().cycle() {
                if offset >= buffer.bytes() {
                    break;
                }
                let mut iovecs = Iovecs::of(&buffer, offset, &memory).expect("inside");
                prop_assert_eq!(iovecs.left_bytes(), buffer.bytes() - offset);
                let written = iovecs.write_once(&file, offset).expect("written");
                prop_assert_eq!(written, iovecs.left_bytes());
                offset += step;
            }
            let mut seen = vec![0; copied.len()];
            file.read_exact_at(&mut seen, 0).expect("read back");
            prop_assert_eq!(seen, copied);
        }
    }
}
