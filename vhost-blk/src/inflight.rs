//! A request that was taken from the ring and is not yet answered.
//!
//! It leaves by `complete` or by `abandon`. There is no third door: dropping it leaks a slot of the guest's ring, is
//! counted, said on stderr, and ends the run with exit code 4.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::recorder::{Ending, Recorder};
use crate::request::{GuestRequest, Memory};
use crate::ring::Ring;
use crate::transfer::Outcome;
use vm_memory::{Bytes, GuestAddress};

static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Requests that were neither answered nor abandoned. Anything but 0 is a bug of ours.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// The token of one request.
#[derive(Debug)]
pub struct InFlight {
    /// What the guest asked.
    pub request: GuestRequest,
    /// Place in the arrival order.
    pub seq: u64,
    /// The queue that owns it.
    pub queue: u16,
    /// Session it came in.
    pub session: u32,
    /// Whether a rule fired on it.
    pub fired: bool,
    /// Whether it lies past the end of the disk.
    pub past_end: bool,
    left: bool,
}

impl InFlight {
    /// A request that has just been taken from its ring.
    pub fn new(request: GuestRequest, seq: u64, queue: u16, session: u32) -> InFlight {
        InFlight { request, seq, queue, session, fired: false, past_end: false, left: false }
    }

    /// Answers it: status byte, used ring, record. The signal is the ring's affair, once per batch.
    pub fn complete(mut self, ring: &mut Ring<'_>, recorder: &Recorder, outcome: &Outcome) {
        self.left = true;
        recorder.complete(&self, Ending::Answered, outcome);
        write_status(ring.memory, self.request.status, outcome.status.0);
        ring.give_back(self.request.head, outcome.used_len);
    }

    /// Gives it up without an answer. The guest never hears of it again until it resets the device.
    pub fn abandon(mut self, recorder: &Recorder, outcome: &Outcome) {
        self.left = true;
        recorder.complete(&self, Ending::Abandoned, outcome);
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if !self.left {
            DROPPED.fetch_add(1, Ordering::Relaxed);
            tell!("vhost-blk: bug: request {} on queue {} was dropped without an answer", self.seq, self.queue);
        }
    }
}

/// A status byte whose memory was taken away meanwhile has no reader either.
pub fn write_status(memory: &Memory, at: GuestAddress, status: u8) {
    let _ = memory.write_obj(status, at);
}
