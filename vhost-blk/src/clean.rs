//! The fast way of a request that no rule touches: between the guest's memory and the image, without a copy of ours.
//!
//! It is taken only where nothing stands between guest and image: no lie, no cache, no past to keep, no power to lose.
//! Everything else goes the careful way (`transfer`), which a request can still be sent when it has come this far.
//! What the host would make wait is handed to io_uring and answered when it comes back; it counts as in flight.

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use fault_injection::Status;

use crate::device::Device;
use crate::disk::HostError;
use crate::inflight::InFlight;
use crate::iovec::{Iovecs, MemoryGuard};
use crate::request::{Range, What};
use crate::transfer::Outcome;
use crate::uring::{Kind, Op, Uring};
use crate::way::{Way, Ways};

/// What became of a request.
pub enum Carried {
    /// It is done, and is to be answered.
    Done(InFlight, Outcome),
    /// It is answered when it comes back.
    UnderWay,
    /// It has to go the careful way.
    Careful(InFlight),
}

/// What the thread of one queue keeps for it.
pub struct Clean {
    ways: Ways,
    uring: Option<Uring>,
    /// The image was seen to be whole since the last look at the clock.
    whole: bool,
}

impl Clean {
    /// For one queue of this device. A host that gives no more rings is served by plain calls.
    pub fn new(device: &Device) -> Clean {
        let ways = if device.is_plain() { device.ways } else { Ways::PLAIN };
        let plain = Clean { ways: Ways::PLAIN, uring: None, whole: false };
        if !ways.need_uring() {
            return plain;
        }
        match Uring::new(device.disk.disk(), device.poll_us > 0) {
            Ok(uring) => Clean { ways, uring: Some(uring), whole: false },
            Err(error) => {
                device.report_failure(&format!("no io_uring for a queue ({error}): a slow disk will stop it"), false);
                plain
            }
        }
    }

    /// Readable when something has come back.
    pub fn descriptor(&self) -> Option<RawFd> {
        self.uring.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Before a batch. The image is looked at once in each, and not for each write: it may be truncated under us at any
    /// moment, and this is soon enough not to grow it again unseen.
    pub fn begin_batch(&mut self) {
        self.whole = false;
    }

    /// Whether something has not come back.
    pub fn is_under_way(&self) -> bool {
        self.uring.as_ref().is_some_and(|uring| uring.under_way() > 0)
    }

    /// Whether something has come back.
    pub fn has_finished(&mut self) -> bool {
        self.uring.as_mut().is_some_and(Uring::has_finished)
    }

    /// Arrival number of the earliest that has not come back.
    pub fn oldest_seq(&self) -> Option<u64> {
        self.uring.as_ref().and_then(Uring::oldest_seq)
    }

    /// Whether a request must wait for one under way, since both are about the same sectors.
    pub fn conflicts(&self, range: &Range, mutates: bool) -> bool {
        self.uring.as_ref().is_some_and(|uring| uring.conflicts(range, mutates))
    }

    /// Gives the kernel what was handed over.
    pub fn submit(&mut self) -> io::Result<()> {
        self.uring.as_mut().map_or(Ok(()), Uring::submit)
    }

    /// Waits until something has come back.
    pub fn wait(&mut self) -> io::Result<()> {
        self.uring.as_mut().map_or(Ok(()), Uring::wait)
    }

    /// Carries a request out, or hands it over.
    pub fn carry_out(
        &mut self,
        device: &Device,
        memory: &MemoryGuard,
        write_through: bool,
        token: InFlight,
    ) -> Carried {
        if !device.is_plain() || !device.overlay.is_empty() {
            return Carried::Careful(token);
        }
        match token.request.what {
            What::Read(range) => self.read(device, memory, token, range),
            What::Write(range) if !device.history.is_tracking() => {
                self.write(device, memory, write_through, token, range)
            }
            What::Flush if self.ways.flush == Way::Uring => self.flush(device, token),
            _ => Carried::Careful(token),
        }
    }

    fn read(&mut self, device: &Device, memory: &MemoryGuard, token: InFlight, range: Range) -> Carried {
        let Ok(mut iovecs) = Iovecs::of(&token.request.data, 0, &**memory) else { return Carried::Careful(token) };
        let disk = device.disk.disk();
        let read = match self.ways.read {
            Way::Plain if !self.fits(device, &iovecs) => return Carried::Careful(token),
            Way::Plain => disk.read_in_place(&mut iovecs, range.offset()).map(|()| range.bytes()),
            Way::NowaitThenUring => disk.read_now(&mut iovecs, range.offset()),
            Way::Uring => Ok(0),
        };
        match read {
            Ok(moved) if moved == range.bytes() => done(device, token),
            Ok(moved) => self.hand_over(device, memory, token, (Kind::Read, moved)),
            Err(error) => failed(device, token, &error),
        }
    }

    fn write(
        &mut self,
        device: &Device,
        memory: &MemoryGuard,
        write_through: bool,
        token: InFlight,
        range: Range,
    ) -> Carried {
        let disk = device.disk.disk();
        if !self.whole {
            if let Err(error) = disk.check_whole() {
                return failed(device, token, &error);
            }
            self.whole = true;
        }
        if self.ways.write != Way::Plain {
            return self.hand_over(device, memory, token, (Kind::Write, 0));
        }
        let Ok(mut iovecs) = Iovecs::of(&token.request.data, 0, &**memory) else { return Carried::Careful(token) };
        if !self.fits(device, &iovecs) {
            return Carried::Careful(token);
        }
        let begun = device.writes.begin();
        let written = disk.write_in_place(&mut iovecs, range.offset());
        device.writes.end(begun);
        let durable = written.and_then(|()| if write_through { disk.flush() } else { Ok(()) });
        match durable {
            Ok(()) => done(device, token),
            Err(error) => failed(device, token, &error),
        }
    }

    fn flush(&mut self, device: &Device, token: InFlight) -> Carried {
        let disk = device.disk.disk();
        if let Err(error) = disk.check_whole() {
            return failed(device, token, &error);
        }
        disk.count_flush();
        self.give(device, Op { token, kind: Kind::Sync, offset: 0, iovecs: None })
    }

    /// O_DIRECT is particular about addresses; what does not suit goes through an aligned buffer.
    fn fits<M>(&self, device: &Device, iovecs: &Iovecs<M>) -> bool {
        let disk = device.disk.disk();
        !disk.traits().direct || iovecs.is_aligned(disk.direct_bytes())
    }

    /// Hands over what is behind the first `moved` bytes.
    fn hand_over(
        &mut self,
        device: &Device,
        memory: &MemoryGuard,
        token: InFlight,
        (kind, moved): (Kind, u64),
    ) -> Carried {
        let Ok(iovecs) = Iovecs::of(&token.request.data, moved, memory.clone()) else {
            return Carried::Careful(token);
        };
        if !self.fits(device, &iovecs) {
            return Carried::Careful(token);
        }
        let offset = token.request.what.range().map_or(0, |range| range.offset()) + moved;
        self.give(device, Op { token, kind, offset, iovecs: Some(iovecs) })
    }

    fn give(&mut self, device: &Device, op: Op) -> Carried {
        let Some(uring) = &mut self.uring else { return Carried::Careful(op.token) };
        match uring.push(Box::new(op)) {
            Ok(()) => Carried::UnderWay,
            Err((op, error)) => {
                let error = host_error(device, &op, &error);
                failed(device, op.token, &error)
            }
        }
    }

    /// Takes one that has come back.
    pub fn take_finished(&mut self, device: &Device, write_through: bool) -> Option<Carried> {
        let (op, result) = self.uring.as_mut()?.take_finished()?;
        let kind = op.kind;
        let result = result
            .map_err(|error| host_error(device, &op, &error))
            .and_then(|()| if write_through && kind == Kind::Write { device.disk.disk().flush() } else { Ok(()) });
        Some(match result {
            Ok(()) => done(device, op.token),
            Err(error) => failed(device, op.token, &error),
        })
    }
}

/// A lie that was told meanwhile is laid over the answer, the careful way.
fn done(device: &Device, token: InFlight) -> Carried {
    let read_bytes = match token.request.what {
        What::Read(_) if !device.overlay.is_empty() => return Carried::Careful(token),
        What::Read(range) => range.bytes(),
        _ => 0,
    };
    let moved_bytes = token.request.what.range().map_or(0, |range| range.bytes());
    let used_len = u32::try_from(read_bytes + 1).unwrap_or(u32::MAX);
    Carried::Done(token, Outcome { status: Status::OK, used_len, moved_bytes, host_error: false })
}

fn failed(device: &Device, token: InFlight, error: &HostError) -> Carried {
    device.report_failure(&error.to_string(), true);
    Carried::Done(token, Outcome { used_len: 1, host_error: true, ..Outcome::NOTHING })
}

fn host_error(device: &Device, op: &Op, error: &io::Error) -> HostError {
    let what = match op.kind {
        Kind::Read => "read",
        Kind::Write => "write",
        Kind::Sync => "fdatasync",
    };
    let bytes = op.iovecs.as_ref().map_or(0, Iovecs::left_bytes);
    device.disk.disk().failed(what, op.offset, bytes, error)
}
