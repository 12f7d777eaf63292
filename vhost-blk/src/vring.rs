//! The crate's vring, with habits of our own.
//!
//! A new call descriptor is signalled once: what was answered between the guest's old descriptor and its new one is then
//! not lost, and a signal too many is harmless. And a kick descriptor that somebody else has emptied is no reason for the
//! queue's thread to end, as it would be for the crate. What stands in a ring when it starts is counted (`restart.rs`).

use std::fs::File;
use std::io::{self, Write};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vhost_user_backend::{VringMutex, VringState, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::Error as QueueError;
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic};

use crate::request::Memory;
use crate::restart::unanswered;

/// The guest's memory, as it changes.
pub type SharedMemory = GuestMemoryAtomic<Memory>;

/// One vring.
#[derive(Clone)]
pub struct Vring {
    vring: VringMutex<SharedMemory>,
    call: Arc<Mutex<Option<Arc<File>>>>,
    memory: SharedMemory,
    /// See `unanswered_at_start`.
    unanswered: Arc<AtomicU16>,
}

impl Vring {
    /// How the guest is signalled, to be used while the ring itself is borrowed.
    pub fn call(&self) -> Option<Arc<File>> {
        self.call.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Requests that stood in the ring without an answer when it was started, if it had been in use before.
    pub fn unanswered_at_start(&self) -> u16 {
        self.unanswered.load(Ordering::SeqCst)
    }
}

/// Adds one to an eventfd. A front-end that is gone needs no signal, and a counter that is full is one already.
pub fn notify(mut call: &File) {
    let _ = call.write(&1u64.to_ne_bytes());
}

impl<'a> VringStateGuard<'a, SharedMemory> for Vring {
    type G = MutexGuard<'a, VringState<SharedMemory>>;
}

impl<'a> VringStateMutGuard<'a, SharedMemory> for Vring {
    type G = MutexGuard<'a, VringState<SharedMemory>>;
}

impl VringT<SharedMemory> for Vring {
    fn new(mem: SharedMemory, max_queue_size: u16) -> Result<Self, QueueError> {
        let vring = VringMutex::new(mem.clone(), max_queue_size)?;
        Ok(Vring { vring, call: Arc::default(), memory: mem, unanswered: Arc::default() })
    }

    fn get_ref(&self) -> <Self as VringStateGuard<'_, SharedMemory>>::G {
        self.vring.get_ref()
    }

    fn get_mut(&self) -> <Self as VringStateMutGuard<'_, SharedMemory>>::G {
        self.vring.get_mut()
    }

    fn add_used(&self, desc_index: u16, len: u32) -> Result<(), QueueError> {
        self.vring.add_used(desc_index, len)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        self.vring.signal_used_queue()
    }

    fn enable_notification(&self) -> Result<bool, QueueError> {
        self.vring.enable_notification()
    }

    fn disable_notification(&self) -> Result<(), QueueError> {
        self.vring.disable_notification()
    }

    fn needs_notification(&self) -> Result<bool, QueueError> {
        self.vring.needs_notification()
    }

    fn set_enabled(&self, enabled: bool) {
        self.vring.set_enabled(enabled);
    }

    fn set_queue_info(&self, desc_table: u64, avail_ring: u64, used_ring: u64) -> Result<(), QueueError> {
        self.vring.set_queue_info(desc_table, avail_ring, used_ring)
    }

    fn queue_next_avail(&self) -> u16 {
        self.vring.queue_next_avail()
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.vring.set_queue_next_avail(base);
    }

    fn set_queue_next_used(&self, idx: u16) {
        self.vring.set_queue_next_used(idx);
    }

    fn queue_used_idx(&self) -> Result<u16, QueueError> {
        self.vring.queue_used_idx()
    }

    fn set_queue_size(&self, num: u16) {
        self.vring.set_queue_size(num);
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.vring.set_queue_event_idx(enabled);
    }

    fn set_queue_ready(&self, ready: bool) {
        let found = if ready { unanswered(self.get_ref().get_queue(), &self.memory.memory()) } else { 0 };
        self.unanswered.store(found, Ordering::SeqCst);
        self.vring.set_queue_ready(ready);
    }

    fn set_kick(&self, file: Option<File>) {
        self.vring.set_kick(file);
    }

    fn read_kick(&self) -> io::Result<bool> {
        match self.vring.read_kick() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(self.get_ref().is_enabled()),
            other => other,
        }
    }

    fn set_call(&self, file: Option<File>) {
        let ours = file.as_ref().and_then(|file| file.try_clone().ok()).map(Arc::new);
        // Waits for a batch that still signals the old descriptor.
        self.vring.set_call(file);
        if let Some(call) = &ours {
            notify(call);
        }
        *self.call.lock().unwrap_or_else(PoisonError::into_inner) = ours;
    }

    fn set_err(&self, file: Option<File>) {
        self.vring.set_err(file);
    }
}
