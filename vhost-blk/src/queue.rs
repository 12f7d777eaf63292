//! One queue: takes chains from its ring, has them decided and carried out, answers them, signals once per batch.
//!
//! Everything here runs in the queue's own thread, which never sleeps for a fault: a request that has to wait is parked
//! (`gate.rs`), and timer or eventfd bring the thread back to it.

mod host;

use std::os::fd::RawFd;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;
use std::time::Instant;

use fault_injection::event::Outcome as RuleOutcome;
use fault_injection::{Arrival, Decision, DeviceAction, Filter, Gate, Request, Status, Stretch, Work};
use virtio_queue::QueueT;

use crate::clean::Clean;
use crate::device::{Device, count};
use crate::gate::{Gates, Parked, targets};
use crate::inflight::{InFlight, write_status};
use crate::poll::Poll;
use crate::power::{self, cut_of, is_last_word};
use crate::request::{Answer, GuestRequest, Range, Refusal, What, parse};
use crate::ring::{BATCH, BATCH_BYTES, Chains, Ring};
use crate::transfer::{Outcome, Scratch, Transfer, whole};

/// No engine gives it: the first request takes a filter.
const NO_GENERATION: u64 = u64::MAX;

/// How far a batch came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Took {
    /// The ring is empty.
    All,
    /// There may be more.
    Some,
    /// The ring makes no sense; it is left alone until the guest kicks again.
    Broken,
}

/// What the thread of one queue keeps between two turns.
pub struct QueueWorker {
    queue: u16,
    scratch: Option<Scratch>,
    clean: Clean,
    poll: Poll,
    is_used: bool,
    /// Our copy, and which one it is.
    filter: Filter,
    generation: u64,
}

impl QueueWorker {
    /// The worker of a queue.
    pub fn new(queue: u16, device: &Device) -> QueueWorker {
        QueueWorker {
            queue,
            scratch: None,
            clean: Clean::new(device),
            poll: Poll::new(device.poll_us),
            is_used: false,
            filter: Filter::default(),
            generation: NO_GENERATION,
        }
    }

    /// Readable when the host is done with something.
    pub fn descriptor(&self) -> Option<RawFd> {
        self.clean.descriptor()
    }

    /// Does all there is to do now. `take` says whether the ring may be asked for new requests.
    pub fn turn(&mut self, device: &Device, ring: &mut Ring<'_>, take: bool) {
        self.poll.woken();
        self.answer_finished(device, ring);
        self.leave_gates(device, ring);
        if take {
            self.empty(device, ring);
        }
        ring.signal();
    }

    /// Handles what is in the ring until it is empty.
    fn empty(&mut self, device: &Device, ring: &mut Ring<'_>) {
        loop {
            let _ = ring.queue.disable_notification(ring.memory);
            let took = loop {
                let took = self.batch(device, ring);
                self.hand_in(device);
                self.answer_finished(device, ring);
                self.leave_gates(device, ring);
                ring.signal();
                if took != Took::Some && !(took == Took::All && self.look_for_more(device, ring)) {
                    break took;
                }
            };
            // A request that came between the last look and this one would otherwise wait for the next kick.
            let more = ring.queue.enable_notification(ring.memory).unwrap_or(false);
            if took == Took::Broken || !more || is_to_rest(device, ring) || device.is_off() {
                return;
            }
        }
    }

    /// Looks for a while whether the guest or the host has something for us.
    fn look_for_more(&mut self, device: &Device, ring: &Ring<'_>) -> bool {
        let clean = &mut self.clean;
        self.poll.look(|| !ring.is_empty() || clean.has_finished() || is_to_rest(device, ring))
            && !is_to_rest(device, ring)
    }

    /// Answers or gives up everything that is parked here, in arrival order, whatever it waited for.
    pub fn drain(&mut self, device: &Device, ring: &mut Ring<'_>) {
        self.hand_in(device);
        self.wait_while(device, ring, Clean::is_under_way);
        let mut gates = device.gates();
        let (parked, records) = gates.drain(self.queue);
        device.log(&records);
        for parked in parked {
            self.leave(device, ring, &mut gates, parked);
        }
        drop(gates);
        ring.signal();
    }

    /// Takes and handles up to a batch of chains.
    fn batch(&mut self, device: &Device, ring: &mut Ring<'_>) -> Took {
        self.clean.begin_batch();
        // A device that may lose its power takes a request only when no other queue has one in its hands.
        let (times, most) = if device.power.is_some() { (BATCH, 1) } else { (1, BATCH) };
        for _ in 0..times {
            if is_to_rest(device, ring) {
                return Took::All;
            }
            let alone = device.alone();
            if device.is_off() {
                return Took::All;
            }
            match ring.take(most) {
                Ok(chains) if chains.is_empty() => return Took::All,
                Ok(chains) => self.handle_all(device, ring, chains, alone),
                Err(error) => {
                    count(&device.counters(self.queue).malformed);
                    device.report_malformed(self.queue, &format!("the ring itself: {error}"));
                    return Took::Broken;
                }
            }
        }
        Took::Some
    }

    fn handle_all<'a>(
        &mut self,
        device: &Device,
        ring: &mut Ring<'a>,
        chains: Chains<'a>,
        mut alone: Option<Alone<'_>>,
    ) {
        if !self.is_used {
            device.use_queue(self.queue);
            self.is_used = true;
        }
        let counters = device.counters(self.queue);
        for chain in chains {
            count(&counters.taken);
            match parse(chain, ring.memory, &device.offer) {
                Ok(request) => self.handle(device, ring, request, alone.take()),
                Err(refusal) => self.refuse(device, ring, &refusal),
            }
            count(&counters.handled);
            if ring.handled_bytes > BATCH_BYTES {
                ring.handled_bytes = 0;
                self.hand_in(device);
                ring.signal();
            }
        }
    }

    fn refuse(&mut self, device: &Device, ring: &mut Ring<'_>, refusal: &Refusal) {
        let seq = device.order.arrive();
        let (status, used_len) = match refusal.answer {
            Answer::Malformed => (Status::IOERR, 0),
            Answer::Unsupported => (Status::UNSUPP, 1),
        };
        if refusal.answer == Answer::Malformed {
            count(&device.counters(self.queue).malformed);
            device.report_malformed(self.queue, refusal.why);
        }
        let written = refusal.status.map(|_| status.0);
        device.recorder().refused(device.session(), seq, self.queue, written, used_len);
        if let Some(at) = refusal.status {
            write_status(ring.memory, at, status.0);
        }
        count(&device.counters(self.queue).answered);
        ring.give_back(refusal.head, used_len);
    }

    fn handle(&mut self, device: &Device, ring: &mut Ring<'_>, request: GuestRequest, mut alone: Option<Alone<'_>>) {
        let what = request.what;
        let (sector, sectors) = what.range().map_or((0, 0), |range| (range.sector, range.sectors));
        count(&device.counters(self.queue).ops[what.op() as usize]);
        ring.handled_bytes += request.data.bytes();
        self.wait_for_conflicts(device, ring, what.range(), what.mutates());
        self.take_filter(device, alone.as_deref());
        let known = device.know(ring.memory, &request, alone.as_deref_mut());
        if self.filter.may_match(what.op(), sector, sectors, self.queue) {
            self.decide(device, ring, request, alone, &known);
        } else {
            self.pass(device, ring, request, alone);
        }
    }

    /// The filter of now. Rules change rarely; to see that they have not costs one look.
    fn take_filter(&mut self, device: &Device, alone: Option<&Gates>) {
        let Some(generation) = device.epoch.is_other_than(self.generation) else { return };
        self.filter = match alone {
            Some(gates) => gates.engine.filter(),
            None => device.gates().engine.filter(),
        };
        self.generation = generation;
    }

    /// A request beyond the end of the disk. No rule is asked about it.
    fn refuse_past_end(&self, device: &Device, ring: &mut Ring<'_>, mut token: InFlight) {
        token.past_end = true;
        let outcome = Outcome { used_len: 1, ..Outcome::NOTHING };
        self.complete(device, ring, token, &outcome);
    }

    /// A request that no rule can touch: no lock, unless an earlier one waits that it must not overtake.
    fn pass(&mut self, device: &Device, ring: &mut Ring<'_>, request: GuestRequest, mut alone: Option<Alone<'_>>) {
        let token = self.issue(device, request);
        if device.is_past_end(&token.request.what) {
            return self.refuse_past_end(device, ring, token);
        }
        if let Some(gates) = &mut alone {
            self.settle(device, ring, gates, (&token, &[]));
        } else if device.order.is_gating() {
            self.settle(device, ring, &mut device.gates(), (&token, &[]));
        }
        let carried = self.clean.carry_out(device, ring.guard, ring.write_through, token);
        self.answer(device, ring, carried);
    }

    /// A request that a rule may touch. Its place in the arrival order, its decision and its parking are one step: a
    /// later request on another queue either comes after all of it or sees `gating`.
    fn decide(
        &mut self,
        device: &Device,
        ring: &mut Ring<'_>,
        request: GuestRequest,
        alone: Option<Alone<'_>>,
        known: &[Stretch],
    ) {
        let mut gates = alone.unwrap_or_else(|| device.gates());
        device.order.begin_gating();
        let mut token = self.issue(device, request);
        if device.is_past_end(&token.request.what) {
            device.order.end_gating();
            return self.refuse_past_end(device, ring, token);
        }
        let elapsed_ms = device.elapsed_ms();
        let decision = ask(&mut gates.engine, device, &token, elapsed_ms, known);
        device.log(&decision.log);
        device.log(&decision.events);
        device.refilter(&gates.engine);
        device.act(&decision.device);
        token.fired = decision.log.iter().any(|record| !matches!(record.outcome, RuleOutcome::Shadowed { .. }));
        gates.release(&decision.released);
        if decision.gate != Gate::Open {
            let mut transfer = self.transfer(device, ring);
            gates.park(token, &decision.gate, (decision.work, decision.device), elapsed_ms, &mut transfer);
            return;
        }
        // What this arrival let go was there first.
        self.answer_ready(device, ring, &mut gates);
        if device.is_off() {
            device.order.end_gating();
            return self.abandon(device, token, &Outcome::NOTHING);
        }
        self.settle(device, ring, &mut gates, (&token, &targets(&decision.work)));
        let mut gates = device.power.as_ref().map(|_| gates);
        if gates.is_none() && decision.device.is_empty() && decision.work == Work::Whole(whole(&token.request)) {
            device.order.end_gating();
            let carried = self.clean.carry_out(device, ring.guard, ring.write_through, token);
            return self.answer(device, ring, carried);
        }
        let done = self.carry_out(device, ring, gates.as_deref_mut(), &token, &decision.work, &decision.device);
        device.order.end_gating();
        match done {
            Ok(outcome) => self.complete(device, ring, token, &outcome),
            Err(outcome) => self.abandon(device, token, &outcome),
        }
    }

    /// Carries out a plan and the device stage behind it. An error is what had become of the request when the power went.
    fn carry_out(
        &mut self,
        device: &Device,
        ring: &Ring<'_>,
        gates: Option<&mut Gates>,
        token: &InFlight,
        work: &Work,
        actions: &[DeviceAction],
    ) -> Result<Outcome, Outcome> {
        let mut transfer = self.transfer(device, ring);
        transfer.answers = !is_last_word(actions);
        let mut carry_out = || transfer.carry_out(&token.request, work, token.seq);
        let Some(gates) = gates else { return Ok(carry_out()) };
        // What a flush would make durable is still at risk when the power goes at this flush.
        if token.request.what == What::Flush {
            act(device, gates, actions).map_err(|PowerOff| Outcome::NOTHING)?;
            return Ok(carry_out());
        }
        let outcome = carry_out();
        act(device, gates, actions).map_err(|PowerOff| outcome)?;
        Ok(outcome)
    }

    /// A parked request's way out: answered, or given up.
    fn leave(&mut self, device: &Device, ring: &mut Ring<'_>, gates: &mut Gates, mut parked: Parked) {
        device.order.end_gating();
        if parked.until_reset() || device.is_off() {
            let outcome = parked.outcome_so_far();
            return self.abandon(device, parked.token, &outcome);
        }
        self.settle(device, ring, gates, (&parked.token, &Gates::targets_of(&parked)));
        let actions = parked.device.clone();
        if parked.token.request.what == What::Flush && act(device, gates, &actions).is_err() {
            let outcome = parked.outcome_so_far();
            return self.abandon(device, parked.token, &outcome);
        }
        let outcome = parked.touch(&mut self.transfer(device, ring));
        if parked.token.request.what != What::Flush && act(device, gates, &actions).is_err() {
            return self.abandon(device, parked.token, &outcome);
        }
        self.complete(device, ring, parked.token, &outcome);
    }

    fn issue(&self, device: &Device, request: GuestRequest) -> InFlight {
        let seq = device.order.arrive();
        let token = InFlight::new(request, seq, self.queue, device.session());
        device.recorder().issue(&token, || device.inflight().saturating_sub(1));
        token
    }

    /// Makes earlier parked writes to the same sectors touch the disk before this request does.
    fn settle(
        &mut self,
        device: &Device,
        ring: &mut Ring<'_>,
        gates: &mut Gates,
        (token, more): (&InFlight, &[Range]),
    ) {
        let mutates = token.request.what.mutates();
        more.iter().for_each(|range| self.wait_for_conflicts(device, ring, Some(*range), mutates));
        for range in token.request.what.range().iter().chain(more) {
            gates.settle_before(token.seq, *range, &mut self.transfer(device, ring));
        }
    }

    /// Lets go what is due, and answers what was let go.
    fn leave_gates(&mut self, device: &Device, ring: &mut Ring<'_>) {
        if !device.order.is_gating() {
            return;
        }
        let mut gates = device.gates();
        if device.is_off() {
            return;
        }
        let records = gates.expire(self.queue, Instant::now());
        device.log(&records);
        self.answer_ready(device, ring, &mut gates);
    }

    fn answer_ready(&mut self, device: &Device, ring: &mut Ring<'_>, gates: &mut Gates) {
        while !device.is_off()
            && let Some(parked) = gates.take_ready(self.queue)
        {
            let line = Gates::line_of(&parked);
            self.leave(device, ring, gates, parked);
            // The next of the line may be another queue's: its guest must not hear of that one first.
            if gates.turn_passes(line, self.queue) {
                ring.signal();
            }
            gates.answered(line);
        }
    }

    fn complete(&self, device: &Device, ring: &mut Ring<'_>, token: InFlight, outcome: &Outcome) {
        count(&device.counters(self.queue).answered);
        if device.disk.has_cache() {
            device.disk.completed(token.seq);
            device.note_overflow();
        }
        token.complete(ring, device.recorder(), outcome);
    }

    fn abandon(&self, device: &Device, token: InFlight, outcome: &Outcome) {
        count(&device.counters(self.queue).abandoned);
        token.abandon(device.recorder(), outcome);
    }

    fn transfer<'a>(&'a mut self, device: &'a Device, ring: &'a Ring<'_>) -> Transfer<'a> {
        let scratch = self.scratch.get_or_insert_default();
        let (memory, write_through) = (ring.memory, ring.write_through);
        Transfer { device, memory, scratch, write_through, answers: true }
    }
}

/// Nothing more is to be taken from this ring.
fn is_to_rest(device: &Device, ring: &Ring<'_>) -> bool {
    device.stopping.load(Ordering::SeqCst) || ring.asked.load(Ordering::SeqCst)
}

/// The lock of a device that handles one request at a time.
type Alone<'a> = MutexGuard<'a, Gates>;

/// The power went: nothing is answered.
struct PowerOff;

/// Does what the device stage asks of the device as a whole.
fn act(device: &Device, gates: &mut Gates, actions: &[DeviceAction]) -> Result<(), PowerOff> {
    if let Some(cut) = cut_of(actions) {
        // A cut that could not be carried out has been reported as the host's failure, and the run ends with that.
        let _ = power::cut(device, gates, cut);
    }
    if device.is_off() { Err(PowerOff) } else { Ok(()) }
}

/// Puts the request to the script.
fn ask(
    engine: &mut fault_injection::Engine,
    device: &Device,
    token: &InFlight,
    elapsed_ms: u64,
    known: &[Stretch],
) -> Decision {
    let piece = whole(&token.request);
    let request = Request {
        op: token.request.what.op(),
        sector: piece.sector,
        sectors: piece.sectors,
        queue: token.queue,
        inflight: device.inflight().saturating_sub(1),
    };
    engine.decide_known(Arrival { seq: token.seq, elapsed_ms }, &request, known)
}
