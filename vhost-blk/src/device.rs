//! The device as a whole: image, overlay, script, record and counters, shared by all queue threads.
//!
//! It outlives front-ends: a guest that comes back finds the same disk, the same counters and the same lies. There is no
//! lock around it. A request that no rule can touch takes none at all; one that may match takes `gates` for the time of
//! its decision.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fault_injection::{Determinism, DeviceAction, DeviceFacts, Engine, Op, Reached, Script};
use nix::sys::eventfd::{EfdFlags, EventFd};
use serde::Serialize;
use serde_json::{Value, json};

use crate::config::Offer;
use crate::disk::HostError;
use crate::files::Files;
use crate::gate::Gates;
use crate::history::History;
use crate::listeners::Listeners;
use crate::media::Media;
use crate::order::{Epoch, Order};
use crate::overlay::Overlay;
use crate::power::Power;
use crate::record::{Kind, Session};
use crate::recorder::{Recorder, Replayed, Totals};
use crate::resize::Size;
use crate::restart::Past;
use crate::transfer::ID_BYTES;
use crate::way::Ways;
use crate::writes::BlockedWrites;

/// One line of the log per this time for each kind of complaint; a hostile guest fills no disk.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// What one queue has seen. On its own cache line: queues do not share what they write for every request.
#[repr(align(128))]
#[derive(Default)]
pub struct QueueCounters {
    /// Chains taken.
    pub taken: AtomicU64,
    /// Chains taken and answered, given up or parked: those the queue's thread is done with for now.
    pub handled: AtomicU64,
    /// Chains answered.
    pub answered: AtomicU64,
    /// Chains that were no request we could carry out.
    pub malformed: AtomicU64,
    /// Requests given up.
    pub abandoned: AtomicU64,
    /// Requests by `Op`.
    pub ops: [AtomicU64; 6],
    /// Arrival number of the earliest request that is with the host, plus one; 0 if there is none.
    pub oldest_with_host: AtomicU64,
}

/// One more. Only for counters that nobody else writes to meanwhile: those of a queue, in its own thread.
pub fn count(counter: &AtomicU64) {
    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Release);
}

/// A complaint that is said once a second at most, with how many were not said.
#[derive(Default)]
struct Complaint {
    last: Mutex<(Option<Instant>, u64)>,
}

impl Complaint {
    fn say(&self, text: &str) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0.is_some_and(|at| at.elapsed() < LOG_EVERY) {
            last.1 += 1;
            return;
        }
        match last.1 {
            0 => tell!("vhost-blk: {text}"),
            more => tell!("vhost-blk: {text} (and {more} more like this, not shown)"),
        }
        *last = (Some(Instant::now()), 0);
    }
}

/// Everything a device is made of.
pub struct Parts {
    /// The image, and its cache.
    pub disk: Media,
    /// Lies beside it.
    pub overlay: Overlay,
    /// What is offered.
    pub offer: Offer,
    /// What it needs to lose its power, if that may happen.
    pub power: Option<Power>,
    /// What the script decides.
    pub engine: Engine,
    /// The merged script.
    pub script: Arc<Script>,
    /// The record, if one is kept.
    pub recorder: Recorder,
    /// GET_ID's answer.
    pub serial: String,
    /// Which way clean requests go.
    pub ways: Ways,
    /// Longest look for more requests before a queue sleeps.
    pub poll_us: u64,
    /// The file system, if the script asks for it.
    pub files: Option<Files>,
}

/// The device.
pub struct Device {
    /// The image, and its cache.
    pub disk: Media,
    /// Lies beside it.
    pub overlay: Overlay,
    /// What is offered.
    pub offer: Offer,
    /// GET_ID's answer, padded.
    pub serial: [u8; ID_BYTES],
    /// Which filter of the engine's is valid.
    pub epoch: Epoch,
    /// The file system, for scripts that ask for it.
    pub files: Option<Files>,
    /// Old content, for scripts that ask for it.
    pub history: History,
    /// Whether the write cache is on, as the driver or an event has switched it.
    pub writeback: AtomicBool,
    /// The front-end is to be left, and let in again after so many milliseconds.
    leave: Mutex<Option<u64>>,
    /// The next place at the last session event.
    session_seq: AtomicU64,
    /// One arrival order over all queues.
    pub order: Order,
    /// Only a device that may lose its power: it handles one request at a time.
    pub power: Option<Power>,
    /// Who hears of what happens.
    pub listeners: Listeners,
    /// What is known of processes before this one.
    pub past: Past,
    /// Its size now, and who is to hear of another one.
    pub size: Size,
    /// Readable when the thread that waits for the front-end has something else to do.
    pub call: Arc<EventFd>,
    /// The run is ending: nothing more is taken from the rings.
    pub stopping: AtomicBool,
    /// Which way clean requests go.
    pub ways: Ways,
    /// Longest look for more requests before a queue sleeps.
    pub poll_us: u64,
    /// Writes that the host made wait.
    pub writes: BlockedWrites,
    /// Queues that have been used: those from this one on have seen nothing.
    used_queues: AtomicU16,
    recorder: Recorder,
    gates: Mutex<Gates>,
    counters: Vec<QueueCounters>,
    started: Instant,
    session: AtomicU32,
    connected: AtomicBool,
    malformed: Complaint,
    failures: Complaint,
    cache_full: Complaint,
    determinism: Determinism,
}

/// The descriptor that wakes the thread that waits for the front-end.
pub fn new_call() -> std::io::Result<Arc<EventFd>> {
    Ok(Arc::new(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?))
}

impl Device {
    /// A device that no front-end has seen yet.
    pub fn new(parts: Parts, call: Arc<EventFd>) -> Device {
        let queues = parts.offer.queues;
        let write_cache = parts.offer.write_cache;
        let history = History::default();
        history.track(parts.script.history());
        let mut serial = [0; ID_BYTES];
        let length = parts.serial.len().min(ID_BYTES);
        serial[..length].copy_from_slice(&parts.serial.as_bytes()[..length]);
        Device {
            past: Past::default(),
            size: Size::new(parts.offer.capacity_sectors),
            disk: parts.disk,
            overlay: parts.overlay,
            offer: parts.offer,
            serial,
            epoch: Epoch::new(parts.engine.generation()),
            files: parts.files,
            history,
            writeback: AtomicBool::new(write_cache),
            leave: Mutex::new(None),
            session_seq: AtomicU64::new(0),
            order: Order::new(),
            power: parts.power,
            listeners: Listeners::default(),
            call,
            stopping: AtomicBool::new(false),
            ways: parts.ways,
            poll_us: parts.poll_us,
            writes: BlockedWrites::default(),
            used_queues: AtomicU16::new(0),
            recorder: parts.recorder,
            gates: Mutex::new(Gates::new(parts.engine, queues)),
            counters: (0..queues).map(|_| QueueCounters::default()).collect(),
            started: Instant::now(),
            session: AtomicU32::new(0),
            connected: AtomicBool::new(false),
            malformed: Complaint::default(),
            failures: Complaint::default(),
            cache_full: Complaint::default(),
            determinism: parts.script.determinism(queues),
        }
    }

    /// The script's state and the parked requests.
    pub fn gates(&self) -> MutexGuard<'_, Gates> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In a device that may lose its power: no other queue does anything while this lives.
    pub fn alone(&self) -> Option<MutexGuard<'_, Gates>> {
        self.power.as_ref().map(|_| self.gates())
    }

    /// Whether a request that no rule touches has nothing between guest and image, lies aside.
    pub fn is_plain(&self) -> bool {
        self.power.is_none() && self.disk.is_bare()
    }

    /// A queue takes its first request.
    pub fn use_queue(&self, queue: u16) {
        self.used_queues.fetch_max(queue + 1, Ordering::SeqCst);
    }

    /// Whether the power is cut: nothing is answered.
    pub fn is_off(&self) -> bool {
        self.power.as_ref().is_some_and(Power::is_off)
    }

    /// Records something that happened to the device as a whole, and tells who listens. Gives how many those are.
    pub fn note(&self, kind: Kind, seq: u64, text: &Value) -> usize {
        self.recorder.note(kind, seq, self.session(), text);
        let mut event = text.clone();
        event["event"] = kind.word().into();
        event["seq"] = seq.into();
        self.listeners.tell(&event)
    }

    /// Wakes the thread that waits for the front-end.
    pub fn call_frontend_thread(&self) {
        // It can fail only when its counter is full, and then it is readable.
        let _ = self.call.write(1);
    }

    /// Ends the virtual machine through QEMU's QMP socket.
    pub fn kill_vm(&self, qmp: &Path) {
        if let Err(error) = crate::qmp::quit(qmp) {
            let (path, why) = (qmp.to_path_buf(), error.to_string());
            let what = "ending the virtual machine through QMP";
            let error = HostError { path, what, offset: 0, bytes: 0, why };
            self.disk.remember(&error);
            self.report_failure(&error.to_string(), true);
        }
    }

    /// Says that the write cache was full, if it was.
    pub fn note_overflow(&self) {
        if let Some(overflow) = self.disk.take_overflow() {
            let text = json!({"limit_bytes": overflow.limit_bytes, "early_bytes": overflow.early_bytes});
            self.note(Kind::CacheFull, overflow.seq, &text);
            let (limit, early) = (overflow.limit_bytes >> 10, overflow.early_bytes >> 10);
            self.cache_full.say(&format!(
                "the write cache is full ({limit} KiB): the oldest {early} KiB reached the image before a flush"
            ));
        }
    }

    /// Writes down what was decided, and tells who listens.
    pub fn log(&self, records: &[impl Serialize]) {
        if records.is_empty() {
            return;
        }
        self.recorder.decisions(records);
        if self.listeners.is_empty() {
            return;
        }
        for record in records {
            self.listeners.tell(&json!({"decision": record}));
        }
    }

    /// After a change of the rules or of what fails: queues take the new filter with their next request.
    pub fn refilter(&self, engine: &Engine) {
        let generation = engine.generation();
        if self.epoch.tell(generation) {
            self.history.track(engine.script().history());
        }
    }

    /// Does what a mark, the clock or a verb has reached. Gives how many requests it lets go.
    pub fn apply(&self, gates: &mut Gates, reached: &Reached) -> usize {
        self.log(&reached.events);
        self.refilter(&gates.engine);
        self.act(&reached.device);
        let released = gates.release(&reached.released);
        if let Some(cut) = crate::power::cut_of(&reached.device) {
            // One that could not be carried out has been reported as the host's failure.
            let _ = crate::power::cut(self, gates, cut);
        }
        released
    }

    /// Does what is asked of the device as a whole, power cuts aside: those need all queues to stand still.
    pub fn act(&self, actions: &[DeviceAction]) {
        for action in actions {
            match action {
                DeviceAction::PowerCut(_) => {}
                DeviceAction::Disconnect { reconnect_ms } => {
                    *self.leave.lock().unwrap_or_else(PoisonError::into_inner) = Some(*reconnect_ms);
                    self.call_frontend_thread();
                }
                DeviceAction::Resize { capacity_sectors } => self.resize_by_event(*capacity_sectors),
                DeviceAction::WriteCache(on) => self.switch_write_cache(*on),
            }
        }
    }

    fn switch_write_cache(&self, on: bool) {
        self.writeback.store(on && self.offer.write_cache, Ordering::SeqCst);
        // What was answered while it was on is durable when it is off. A failure is remembered by the disk.
        if !on && let Err(error) = self.disk.flush() {
            self.report_failure(&error.to_string(), true);
        }
    }

    /// Whether the front-end is to be left, and after how many milliseconds it is let in again.
    pub fn is_leaving(&self) -> bool {
        self.leave.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// The front-end has been left.
    pub fn take_leave(&self) -> Option<u64> {
        self.leave.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// How long until an event of the script is due by the clock.
    pub fn until_tick(&self) -> Option<Duration> {
        let due_ms = self.gates().engine.next_tick_ms()?;
        Some(Duration::from_millis(due_ms.saturating_sub(self.elapsed_ms())))
    }

    /// Events that are due by the clock happen.
    pub fn tick(&self) {
        let mut gates = self.gates();
        let reached = gates.engine.tick(self.order.next_seq(), self.elapsed_ms());
        self.apply(&mut gates, &reached);
    }

    /// Waits until every request that was taken before now has left. An error names those that still wait.
    pub fn settle_earlier(&self, limit: Duration) -> Result<(), String> {
        let seq = self.order.next_seq();
        let count = |of: fn(&QueueCounters) -> &AtomicU64| -> Vec<u64> {
            self.counters.iter().map(|c| of(c).load(Ordering::SeqCst)).collect()
        };
        let taken = count(|c| &c.taken);
        let since = Instant::now();
        loop {
            let handled = count(|c| &c.handled).iter().zip(&taken).all(|(handled, taken)| handled >= taken);
            let mut waiting = self.gates().waiting_before(seq);
            let oldest = self.counters.iter().map(|c| c.oldest_with_host.load(Ordering::SeqCst));
            waiting.extend(oldest.filter(|oldest| *oldest > 0 && *oldest <= seq).map(|oldest| oldest - 1));
            match (handled, waiting.is_empty(), since.elapsed() > limit) {
                (true, true, _) => return Ok(()),
                (_, _, true) => {
                    return Err(format!("it is done, but earlier requests still wait: {waiting:?} (release them)"));
                }
                _ => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    /// What a rule that is added must fit.
    pub fn facts(&self) -> DeviceFacts {
        DeviceFacts {
            capacity_sectors: self.size.capacity_sectors(),
            queues: self.offer.queues,
            logical_block_bytes: self.offer.block_bytes,
        }
    }

    /// The record.
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// One queue's counters.
    pub fn counters(&self, queue: u16) -> &QueueCounters {
        &self.counters[usize::from(queue)]
    }

    /// Requests taken and not yet left, over all queues.
    pub fn inflight(&self) -> u32 {
        let left = |c: &QueueCounters| c.answered.load(Ordering::SeqCst) + c.abandoned.load(Ordering::SeqCst);
        let used = usize::from(self.used_queues.load(Ordering::SeqCst));
        let inflight: u64 =
            self.counters[..used].iter().map(|c| c.taken.load(Ordering::SeqCst).saturating_sub(left(c))).sum();
        u32::try_from(inflight).unwrap_or(u32::MAX)
    }

    /// The clock of points in `ms`.
    pub fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The session that requests now belong to.
    pub fn session(&self) -> u32 {
        self.session.load(Ordering::SeqCst)
    }

    /// A front-end or driver came or went: what follows belongs to a new session.
    pub fn begin_session(&self, why: Session) {
        match why {
            Session::Connect => self.connected.store(true, Ordering::SeqCst),
            Session::Disconnect => {
                self.connected.store(false, Ordering::SeqCst);
                // Nobody is left who could see the difference: the next front-end finds a disk that is on.
                self.power.iter().for_each(Power::restore);
            }
            Session::Features | Session::Reset => {}
        }
        // A driver that starts over after requests were made has reset the device, however it went about it.
        let seq = self.order.next_seq();
        if self.session_seq.swap(seq, Ordering::SeqCst) != seq || why == Session::Reset {
            self.gates().engine.reset();
        }
        let session = self.session.fetch_add(1, Ordering::SeqCst) + 1;
        self.recorder.session(session, why);
    }

    /// Says that a guest sent something that is no request. Once a second at most.
    pub fn report_malformed(&self, queue: u16, why: &str) {
        self.malformed.say(&format!("refused a request on queue {queue}: {why}"));
    }

    /// Says that a request could not be carried out.
    pub fn report_failure(&self, text: &str, host_error: bool) {
        let rest = if host_error { "; the guest is told IOERR, and this run will end with exit code 4" } else { "" };
        self.failures.say(&format!("{text}{rest}"));
    }

    /// A lie that could not be kept is the host's failure.
    pub fn overlay_error(&self, offset: u64, bytes: u64, error: &std::io::Error) -> HostError {
        let path = self.disk.path().to_path_buf();
        let error = HostError { path, what: "keeping the overlay", offset, bytes, why: error.to_string() };
        self.disk.remember(&error);
        error
    }

    /// What the trailer of the record says.
    pub fn totals(&self) -> Totals {
        let sum = |count: fn(&QueueCounters) -> &AtomicU64| -> u64 {
            self.counters.iter().map(|c| count(c).load(Ordering::SeqCst)).sum()
        };
        let gates = self.gates();
        let used = self.counters.iter().filter(|c| c.taken.load(Ordering::SeqCst) != 0).count();
        let queues_used = u16::try_from(used).unwrap_or(u16::MAX);
        let end = gates.engine.header(queues_used.max(1));
        Totals {
            requests: sum(|c| &c.taken),
            malformed: sum(|c| &c.malformed),
            abandoned: sum(|c| &c.abandoned),
            unanswered: u64::from(self.inflight()),
            queues_used,
            deterministic: end.deterministic,
            why: end.why,
            fired: gates.engine.counters().into_iter().map(|rule| (rule.id, rule.fired)).collect(),
            unmet: unmet(&gates.engine),
            replay: gates.engine.replay().map(|replay| Replayed {
                forced: replay.forced(),
                missing: replay.missing(),
                differs: replay.differs(),
            }),
            host_error: self.disk.first_error().cloned(),
        }
    }

    /// For the control socket's `status`.
    pub fn status(&self) -> Value {
        let gates = self.gates();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "connected": self.connected.load(Ordering::SeqCst),
            "session": self.session(),
            "image": self.disk.path(),
            "capacity_sectors": self.size.capacity_sectors(),
            "next_seq": self.order.next_seq(),
            "inflight": self.inflight(),
            "power": self.power_json(),
            "parked": gates.list(),
            "overlay": self.overlay.lock().list(),
            "bad_sectors": bad_sectors(&gates.engine),
            "states": gates.engine.states(),
            "fail_class": gates.engine.failing(),
            "write_cache": if self.writeback.load(Ordering::SeqCst) { "writeback" } else { "writethrough" },
            "seed": gates.engine.seed(),
            "deterministic": self.determinism.deterministic,
            "why": self.determinism.why,
            "host_error": self.disk.first_error(),
        })
    }

    /// Null for a device that cannot lose its power.
    fn power_json(&self) -> Value {
        let Some(power) = &self.power else { return Value::Null };
        let cache = self.disk.cache();
        json!({
            "on": !power.is_off(),
            "cuts": power.cuts(),
            "unflushed_writes": cache.as_ref().map(|cache| cache.units().len()),
            "unflushed_bytes": cache.as_ref().map(|cache| cache.cost_bytes()),
        })
    }

    /// For the control socket's `counters`.
    pub fn counters_json(&self) -> Value {
        let totals = self.totals();
        let ops = [Op::Read, Op::Write, Op::Flush, Op::Discard, Op::WriteZeroes, Op::GetId];
        let of = |op: Op| -> u64 { self.counters.iter().map(|c| c.ops[op as usize].load(Ordering::SeqCst)).sum() };
        let by_op: BTreeMap<String, u64> = ops.into_iter().map(|op| (op_word(op), of(op))).collect();
        json!({
            "requests": totals.requests,
            "malformed": totals.malformed,
            "abandoned": totals.abandoned,
            "ops": by_op,
            "host_flushes": self.disk.flushes(),
            "blocked_writes": {"count": self.writes.count(), "total_ms": self.writes.total_ms()},
            "rules": self.gates().engine.counters(),
        })
    }
}

/// What sticks, by rule.
fn bad_sectors(engine: &Engine) -> Value {
    let sticks = engine.rules().into_iter().filter(|rule| rule.everywhere || !rule.bad.is_empty());
    sticks.map(|rule| json!({"rule": rule.id, "sectors": rule.bad, "everywhere": rule.everywhere})).collect()
}

/// The script's word for an op.
pub fn op_word(op: Op) -> String {
    serde_json::to_value(op).ok().and_then(|word| word.as_str().map(str::to_string)).unwrap_or_default()
}

/// Every unmet `expect`, in words.
pub fn unmet(engine: &Engine) -> Vec<String> {
    let words = |unmet: fault_injection::Unmet| match unmet.max {
        Some(max) => format!("rule {} fired {} times, expected {} to {max}", unmet.id, unmet.fired, unmet.min),
        None => format!("rule {} fired {} times, expected {} or more", unmet.id, unmet.fired, unmet.min),
    };
    engine.unmet().into_iter().map(words).collect()
}
