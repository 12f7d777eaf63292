//! Requests that are with the host: handed in, waited for, answered when they come back.

use std::sync::atomic::Ordering;

use super::QueueWorker;
use crate::clean::{Carried, Clean};
use crate::device::Device;
use crate::request::Range;
use crate::ring::Ring;

impl QueueWorker {
    /// Gives the host what was handed over. Should it refuse, the next turn tries again, and the run ends with the error.
    pub(super) fn hand_in(&mut self, device: &Device) {
        if let Err(error) = self.clean.submit() {
            let error = device.disk.disk().failed("io_uring_enter", 0, 0, &error);
            device.report_failure(&error.to_string(), true);
        }
    }

    /// Answers what the host has done.
    pub(super) fn answer_finished(&mut self, device: &Device, ring: &mut Ring<'_>) {
        if !self.clean.is_under_way() {
            return;
        }
        while let Some(carried) = self.clean.take_finished(device, ring.write_through) {
            self.answer(device, ring, carried);
        }
        // Some may have to go on where they stopped.
        self.hand_in(device);
        self.tell_oldest(device);
    }

    /// Waits for the host while `wanted` says so.
    pub(super) fn wait_while(&mut self, device: &Device, ring: &mut Ring<'_>, wanted: impl Fn(&Clean) -> bool) {
        while wanted(&self.clean) {
            if let Err(error) = self.clean.wait() {
                let error = device.disk.disk().failed("io_uring_enter", 0, 0, &error);
                return device.report_failure(&error.to_string(), true);
            }
            self.answer_finished(device, ring);
        }
    }

    /// A request about sectors that one with the host is about waits for that one, if either changes them.
    pub(super) fn wait_for_conflicts(
        &mut self,
        device: &Device,
        ring: &mut Ring<'_>,
        range: Option<Range>,
        mutates: bool,
    ) {
        let Some(range) = range else { return };
        if self.clean.conflicts(&range, mutates) {
            self.hand_in(device);
            self.wait_while(device, ring, |clean| clean.conflicts(&range, mutates));
        }
    }

    pub(super) fn tell_oldest(&self, device: &Device) {
        let oldest = self.clean.oldest_seq().map_or(0, |seq| seq + 1);
        device.counters(self.queue).oldest_with_host.store(oldest, Ordering::SeqCst);
    }

    /// Answers what is done, and does carefully what cannot be done otherwise.
    pub(super) fn answer(&mut self, device: &Device, ring: &mut Ring<'_>, carried: Carried) {
        match carried {
            Carried::Done(token, outcome) => self.complete(device, ring, token, &outcome),
            Carried::UnderWay if device.counters(self.queue).oldest_with_host.load(Ordering::Relaxed) == 0 => {
                self.tell_oldest(device);
            }
            Carried::UnderWay => {}
            Carried::Careful(token) => {
                let outcome = self.transfer(device, ring).plain(&token.request, token.seq);
                self.complete(device, ring, token, &outcome);
            }
        }
    }
}
