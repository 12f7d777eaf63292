//! One queue's io_uring: requests that the host may make wait, each with all it needs to be answered later.
//!
//! A request is handed over whole and comes back whole: a short transfer goes on where it stopped, EINTR and EAGAIN go
//! again. Nothing is given to the kernel before `submit`, which takes a batch at once. The ring's descriptor is readable
//! when something came back, so the queue's thread waits for it as it waits for the guest.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::{IoUring, cqueue, opcode, squeue, types};

use crate::disk::Disk;
use crate::inflight::InFlight;
use crate::iovec::{Iovecs, MemoryGuard};
use crate::request::Range;

/// Requests given to the kernel at once; more are given in several goes.
const ENTRIES: u32 = 128;

/// Requests that may come back before we look: a ring's size.
const COMPLETIONS: u32 = 1024;

/// What the kernel is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Read into the guest's memory.
    Read,
    /// Write from the guest's memory.
    Write,
    /// Make durable what was written.
    Sync,
}

/// One request under way.
#[derive(Debug)]
pub struct Op {
    /// The request.
    pub token: InFlight,
    /// What.
    pub kind: Kind,
    /// Where the next byte lies.
    pub offset: u64,
    /// The guest's buffer; none for `Sync`.
    pub iovecs: Option<Iovecs<MemoryGuard>>,
}

impl Op {
    fn range(&self) -> Option<Range> {
        self.token.request.what.range()
    }

    fn entry(&self, slot: usize, file: usize) -> squeue::Entry {
        let file = types::Fixed(file as u32);
        let (list, parts) = self.iovecs.as_ref().map_or((std::ptr::null(), 0), Iovecs::as_raw);
        let entry = match self.kind {
            Kind::Read => opcode::Readv::new(file, list, parts).offset(self.offset).build(),
            Kind::Write => opcode::Writev::new(file, list, parts).offset(self.offset).build(),
            Kind::Sync => opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build(),
        };
        entry.user_data(slot as u64)
    }
}

/// The ring and what is under way in it.
pub struct Uring {
    ring: IoUring,
    /// Boxed: the kernel is given addresses inside.
    slots: Vec<Option<Box<Op>>>,
    free: Vec<usize>,
    under_way: usize,
    /// Of those: writes.
    writes: usize,
}

impl Uring {
    /// A ring for this image. With `polled`, what came back is seen without a system call.
    pub fn new(disk: &Disk, polled: bool) -> io::Result<Uring> {
        let (file, data) = disk.reopen()?;
        let plain = || IoUring::builder().setup_cqsize(COMPLETIONS).build(ENTRIES);
        // Before Linux 5.19 there is no COOP_TASKRUN.
        let cooperative = || IoUring::builder().setup_coop_taskrun().setup_cqsize(COMPLETIONS).build(ENTRIES);
        let ring = if polled { plain()? } else { cooperative().or_else(|_| plain())? };
        ring.submitter().register_files(&[file.as_raw_fd(), data.as_raw_fd()])?;
        Ok(Uring { ring, slots: Vec::new(), free: Vec::new(), under_way: 0, writes: 0 })
    }

    /// Requests that have not come back.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// Whether one has come back and was not taken.
    pub fn has_finished(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    /// Arrival number of the earliest of them.
    pub fn oldest_seq(&self) -> Option<u64> {
        self.ops().map(|op| op.token.seq).min()
    }

    /// Whether one of them shares a sector with this range, and one of the two changes it.
    pub fn conflicts(&self, range: &Range, mutates: bool) -> bool {
        if self.under_way == 0 || (!mutates && self.writes == 0) {
            return false;
        }
        let meets = |op: &Op| op.range().is_some_and(|other| other.overlaps(range));
        self.ops().any(|op| (mutates || op.kind == Kind::Write) && meets(op))
    }

    fn ops(&self) -> impl Iterator<Item = &Op> {
        self.slots.iter().flatten().map(Box::as_ref)
    }

    /// Takes a request. The kernel hears of it with the next `submit`.
    pub fn push(&mut self, op: Box<Op>) -> Result<(), (Box<Op>, io::Error)> {
        self.under_way += 1;
        self.writes += usize::from(op.kind == Kind::Write);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[slot] = Some(op);
        let queued = self.queue(slot);
        queued.map_err(|error| (self.take(slot).expect("it was put there above"), error))
    }

    fn take(&mut self, slot: usize) -> Option<Box<Op>> {
        let op = self.slots.get_mut(slot)?.take()?;
        self.free.push(slot);
        self.under_way -= 1;
        self.writes -= usize::from(op.kind == Kind::Write);
        Some(op)
    }

    #[allow(unsafe_code, reason = "the kernel is given addresses")]
    fn queue(&mut self, slot: usize) -> io::Result<()> {
        let Some(op) = &self.slots[slot] else { return Ok(()) };
        let entry = op.entry(slot, usize::from(op.kind != Kind::Sync));
        loop {
            // SAFETY: the list of parts is inside a box that stays in its slot, unchanged, until the kernel has answered;
            // so does the guard that keeps the guest's memory mapped. `drop` keeps what has not been answered for ever.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return Ok(());
            }
            self.submit()?;
        }
    }

    /// Gives the kernel what was taken since.
    pub fn submit(&mut self) -> io::Result<()> {
        self.enter(0)
    }

    /// Waits until something has come back, if anything is under way.
    pub fn wait(&mut self) -> io::Result<()> {
        self.enter(usize::from(self.under_way > 0))
    }

    fn enter(&mut self, want: usize) -> io::Result<()> {
        if want == 0 && self.ring.submission().is_empty() {
            return Ok(());
        }
        loop {
            match self.ring.submit_and_wait(want) {
                Ok(_) => return Ok(()),
                // The kernel has not taken them all: it wants us to look at what came back first. We do, after this.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes one that has come back, done or failed.
    pub fn take_finished(&mut self) -> Option<(Box<Op>, io::Result<()>)> {
        loop {
            let completion = self.ring.completion().next()?;
            let slot = completion.user_data() as usize;
            let result = self.went(slot, &completion);
            let result = match result {
                Ok(true) => Ok(()),
                Ok(false) => match self.queue(slot) {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                },
                Err(error) => Err(error),
            };
            return self.take(slot).map(|op| (op, result));
        }
    }

    /// Whether a request is done; if not, it is to go on.
    fn went(&mut self, slot: usize, completion: &cqueue::Entry) -> io::Result<bool> {
        let Some(op) = self.slots.get_mut(slot).and_then(Option::as_mut) else { return Ok(true) };
        let result = completion.result();
        match (-result, &mut op.iovecs) {
            (libc::EINTR | libc::EAGAIN, _) => Ok(false),
            (errno, _) if errno > 0 => Err(io::Error::from_raw_os_error(errno)),
            (0, Some(iovecs)) if iovecs.left_bytes() > 0 => Err(io::ErrorKind::UnexpectedEof.into()),
            (_, Some(iovecs)) => {
                let bytes = u64::from(result.unsigned_abs());
                iovecs.advance(bytes);
                op.offset += bytes;
                Ok(iovecs.left_bytes() == 0)
            }
            (_, None) => Ok(true),
        }
    }
}

impl AsRawFd for Uring {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // The host did not answer in time. Its kernel may still write to that memory: it stays mapped for ever.
        self.slots.iter_mut().filter_map(Option::take).for_each(std::mem::forget);
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use vm_memory::{Bytes, GuestAddress, GuestAddressSpace, GuestMemoryAtomic};

    use super::*;
    use crate::disk::DiskOptions;
    use crate::recorder::Recorder;
    use crate::request::{GuestBuffer, GuestRequest, Memory, What};
    use crate::transfer::Outcome;

    fn memory() -> MemoryGuard {
        let memory = Memory::from_ranges(&[(GuestAddress(0), 0x10000)]).expect("guest memory");
        GuestMemoryAtomic::new(memory).memory()
    }

    fn op(seq: u64, what: What, memory: &MemoryGuard) -> Box<Op> {
        let range = what.range().expect("a transfer");
        let data = GuestBuffer::of(&[(0x1000 * (seq + 1), range.bytes())]);
        let iovecs = Iovecs::of(&data, 0, memory.clone()).expect("inside");
        let kind = if what.mutates() { Kind::Write } else { Kind::Read };
        let request = GuestRequest { head: 0, what, data, status: GuestAddress(0) };
        let token = InFlight::new(request, seq, 0, 0);
        Box::new(Op { token, kind, offset: range.offset(), iovecs: Some(iovecs) })
    }

    fn all_back(uring: &mut Uring) -> Vec<(u64, io::Result<()>)> {
        let recorder = Recorder::start(None, None).expect("starts");
        let mut back = Vec::new();
        while uring.under_way() > 0 {
            uring.wait().expect("entered");
            while let Some((op, result)) = uring.take_finished() {
                back.push((op.token.seq, result));
                op.token.abandon(&recorder, &Outcome::NOTHING);
            }
        }
        back.sort_by_key(|(seq, _)| *seq);
        back
    }

    fn ring(path: &Path) -> Uring {
        let disk = Disk::open(path, DiskOptions::default()).expect("opens");
        Uring::new(&disk, false).expect("this host has io_uring")
    }

    #[test]
    fn what_is_under_way_conflicts_with_the_same_sectors_if_either_changes_them() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), [7; 16384]).expect("its content");
        let (mut uring, memory) = (ring(file.path()), memory());
        let range = |sector| Range { sector, sectors: 8 };
        assert!(!uring.conflicts(&range(0), true));
        uring.push(op(0, What::Read(range(0)), &memory)).map_err(|(_, error)| error).expect("taken");
        assert!(uring.conflicts(&range(7), true) && !uring.conflicts(&range(7), false), "two reads share");
        uring.push(op(1, What::Write(range(16)), &memory)).map_err(|(_, error)| error).expect("taken");
        assert!(
            uring.conflicts(&range(23), false) && !uring.conflicts(&range(24), true) && uring.oldest_seq() == Some(0)
        );
        assert!(all_back(&mut uring).iter().all(|(_, result)| result.is_ok()));
        assert!(
            !uring.conflicts(&range(0), true) && !uring.conflicts(&range(16), true) && uring.oldest_seq().is_none()
        );
        assert_eq!(std::fs::read(file.path()).expect("read")[16 * 512..24 * 512], [0; 4096]);
    }

    #[test]
    fn a_short_transfer_goes_on_and_the_end_of_the_image_is_an_error() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), [7; 6144]).expect("its content");
        let (mut uring, memory) = (ring(file.path()), memory());
        uring.push(op(0, What::Read(Range { sector: 8, sectors: 4 }), &memory)).map_err(|(_, e)| e).expect("taken");
        uring.push(op(1, What::Read(Range { sector: 8, sectors: 8 }), &memory)).map_err(|(_, e)| e).expect("taken");
        let back = all_back(&mut uring);
        assert!(back[0].1.is_ok());
        assert_eq!(back[1].1.as_ref().expect_err("it ends").kind(), io::ErrorKind::UnexpectedEof);
        let mut seen = [0; 2048];
        memory.read_slice(&mut seen, GuestAddress(0x2000)).expect("inside");
        assert_eq!(seen, [7; 2048], "what there was has come");
    }

    #[test]
    fn more_than_the_ring_holds_at_once_come_back_each_once() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), vec![7; 1 << 20]).expect("its content");
        let (mut uring, memory) = (ring(file.path()), memory());
        for seq in 0..1000 {
            let mut op = op(0, What::Read(Range { sector: seq % 2000, sectors: 1 }), &memory);
            op.token.seq = seq;
            uring.push(op).map_err(|(_, error)| error).expect("taken");
        }
        let back: Vec<u64> = all_back(&mut uring)
            .into_iter()
            .map(|(seq, result)| {
                result.expect("read");
                seq
            })
            .collect();
        assert_eq!(back, (0..1000).collect::<Vec<_>>());
    }
}
