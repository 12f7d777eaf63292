//! A new process under a guest that lives.
//!
//! Which of the requests in the ring an earlier process took, and which of those it carried out, is known to nobody: a
//! ring tells how many were answered, and with reordered answers not even which. To guess would lose writes or answer
//! reads twice. So the first front-end of a process may bring a ring that is in use only if everything in it was
//! answered. (In-flight recovery, which would tell, is not offered.)

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use virtio_queue::{Queue, QueueT};

use crate::device::Device;
use crate::request::Memory;

/// What a process knows of those before it.
#[derive(Default)]
pub struct Past {
    /// A front-end that this process served has left, with everything settled: its rings are known.
    known: AtomicBool,
    /// Requests found in a ring that this process cannot account for.
    unsettled: AtomicU64,
}

impl Past {
    /// From now on, what is found in a ring was made for this process.
    pub fn is_known_from_now_on(&self) {
        self.known.store(true, Ordering::SeqCst);
    }

    /// How many requests stand in the way of serving, if any do.
    pub fn unsettled(&self) -> Option<u64> {
        Some(self.unsettled.load(Ordering::SeqCst)).filter(|requests| *requests > 0)
    }
}

/// Requests without an answer in a ring that starts, if it has been in use before. One from which nothing was ever
/// answered begins here, whoever looked at it before; one outside the guest's memory is refused where it is taken from.
pub fn unanswered(queue: &Queue, memory: &Memory) -> u16 {
    let made = queue.avail_idx(memory, Ordering::SeqCst);
    let answered = queue.used_idx(memory, Ordering::SeqCst);
    match (made, answered) {
        (Ok(made), Ok(answered)) if answered.0 != 0 => (made - answered).0,
        _ => 0,
    }
}

/// Whether the requests of a ring that is looked at for the first time are ours to take, when so many stood in it as it
/// was started.
pub fn may_take(device: &Device, unanswered: u16) -> bool {
    if unanswered == 0 || device.past.known.load(Ordering::SeqCst) {
        return true;
    }
    device.past.unsettled.store(unanswered.into(), Ordering::SeqCst);
    device.call_frontend_thread();
    false
}
