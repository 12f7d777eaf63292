//! The guest's side of a queue: chains come out of it in batches and go back into it, and the guest is signalled once for
//! each batch.

use std::sync::atomic::{AtomicBool, Ordering};

use smallvec::SmallVec;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};

use crate::iovec::MemoryGuard;
use crate::request::Memory;

/// Requests between two looks at the clock, the wake-ups, and the guest's wish for a signal. A longer batch would save
/// little and keep the guest waiting for its first answer.
pub const BATCH: usize = 32;

/// Nor more data than this.
pub const BATCH_BYTES: u64 = 1 << 20;

/// Chains of one batch.
pub type Chains<'a> = SmallVec<[DescriptorChain<&'a Memory>; BATCH]>;

/// The guest's side of a queue, borrowed for one turn of its thread.
pub struct Ring<'a> {
    /// The ring itself.
    pub(crate) queue: &'a mut Queue,
    /// The guest's memory now.
    pub memory: &'a Memory,
    /// The same, to be kept.
    pub(crate) guard: &'a MemoryGuard,
    /// Whether a write must be durable before it is answered.
    pub(crate) write_through: bool,
    /// Somebody waits for this queue to come to rest.
    pub(crate) asked: &'a AtomicBool,
    signal: &'a dyn Fn(),
    given_back: u32,
    /// Data of requests handled since the last signal for their sake.
    pub(crate) handled_bytes: u64,
}

impl<'a> Ring<'a> {
    /// A ring in this memory; `signal` tells the guest to look at it. Nothing more is taken from it once `asked` is set.
    pub fn new(
        queue: &'a mut Queue,
        guard: &'a MemoryGuard,
        write_through: bool,
        (signal, asked): (&'a dyn Fn(), &'a AtomicBool),
    ) -> Ring<'a> {
        let memory = &**guard;
        Ring { queue, memory, guard, write_through, asked, signal, given_back: 0, handled_bytes: 0 }
    }

    /// Takes up to so many chains. An error is a ring that makes no sense.
    pub(crate) fn take(&mut self, most: usize) -> Result<Chains<'a>, virtio_queue::Error> {
        let memory = self.memory;
        Ok(self.queue.iter(memory)?.take(most).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        let avail = self.queue.avail_idx(self.memory, Ordering::Acquire);
        avail.is_ok_and(|avail| avail.0 == self.queue.next_avail())
    }

    /// Puts a chain into the used ring. A used ring outside the guest's memory is the guest's own doing.
    pub fn give_back(&mut self, head: u16, used_len: u32) {
        if self.queue.add_used(self.memory, head, used_len).is_ok() {
            self.given_back += 1;
        }
    }

    /// Signals what has been given back since the last signal, if the guest wants to hear of it.
    pub fn signal(&mut self) {
        if self.given_back > 0 {
            self.given_back = 0;
            if self.queue.needs_notification(self.memory).unwrap_or(true) {
                (self.signal)();
            }
        }
    }
}
