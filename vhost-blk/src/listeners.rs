//! Clients of the control socket that want to hear of what happens, as it happens.
//!
//! Whoever tells never waits: a listener that does not read is left behind once its queue is full, and finds its
//! connection closed instead of a gap.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use serde_json::Value;

/// Lines that may wait for one listener.
const CAPACITY: usize = 1024;

/// All listeners.
#[derive(Default)]
pub struct Listeners {
    senders: Mutex<Vec<SyncSender<String>>>,
}

impl Listeners {
    /// One more.
    pub fn add(&self) -> Receiver<String> {
        let (send, receive) = sync_channel(CAPACITY);
        self.senders.lock().unwrap_or_else(PoisonError::into_inner).push(send);
        receive
    }

    /// Nobody listens: the one thing that a decision looks at.
    pub fn is_empty(&self) -> bool {
        self.senders.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Tells all of them. Gives how many there are.
    pub fn tell(&self, event: &Value) -> usize {
        let mut senders = self.senders.lock().unwrap_or_else(PoisonError::into_inner);
        if !senders.is_empty() {
            let line = event.to_string();
            senders.retain(|send| send.try_send(line.clone()).is_ok());
        }
        senders.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_that_does_not_read_is_left_and_the_others_hear_all() {
        let listeners = Listeners::default();
        let (deaf, good) = (listeners.add(), listeners.add());
        for i in 0..=CAPACITY {
            assert_eq!(listeners.tell(&Value::from(i)), if i < CAPACITY { 2 } else { 1 });
            assert_eq!(good.recv().expect("told"), i.to_string());
        }
        assert_eq!(deaf.iter().count(), CAPACITY, "what it was told, and then the end");
        drop(good);
        assert_eq!(listeners.tell(&Value::Null), 0);
    }
}
