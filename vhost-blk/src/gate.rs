//! The gate stage carried out: requests that wait, what they wait for, and in which order they leave.
//!
//! A parked request is in flight like any other. It leaves in one of three ways, each of which ends in its owner's
//! thread: its time came, its rule was released (or its window was ordered), or its ring stopped. Requests that are let
//! go together form a *line*: the next is let go only when the one before has been answered, whichever queues they are
//! on, so the order of answers is the line's order and not the scheduler's.
//!
//! Overlapping writes reach the disk in arrival order whatever a gate says: a request that touches the disk first makes
//! every earlier parked write to the same sectors touch it before (`settle_before`); their answers stay where they are.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fault_injection::{DeviceAction, Engine, Gate, GateWhen, Moves, Piece, RuleIndex, Work};
use serde_json::{Value, json};
use vmm_sys_util::eventfd::EventFd;

use crate::inflight::InFlight;
use crate::request::Range;
use crate::timer::{Deadlines, Due};
use crate::transfer::{Outcome, Transfer};

/// Whether a parked request has touched the disk.
#[derive(Clone, Copy, Debug)]
enum Media {
    Untouched,
    Touched(Outcome),
}

/// A request that waits.
pub struct Parked {
    /// The request.
    pub token: InFlight,
    work: Work,
    /// What the device does before this is answered.
    pub device: Vec<DeviceAction>,
    media: Media,
    rule: RuleIndex,
    gate: &'static str,
    until_reset: bool,
    let_go: bool,
    line: Option<u64>,
}

impl Parked {
    /// Carries the request out unless that has been done already, and gives what is to be answered.
    pub fn touch(&mut self, transfer: &mut Transfer<'_>) -> Outcome {
        if let Media::Touched(outcome) = self.media {
            return outcome;
        }
        transfer.answers = !crate::power::is_last_word(&self.device);
        let outcome = transfer.carry_out(&self.token.request, &self.work, self.token.seq);
        transfer.answers = true;
        self.media = Media::Touched(outcome);
        outcome
    }

    /// Whether it is never answered (`"until": "reset"`).
    pub fn until_reset(&self) -> bool {
        self.until_reset
    }

    /// What had become of it when it is given up.
    pub fn outcome_so_far(&self) -> Outcome {
        match self.media {
            Media::Touched(outcome) => outcome,
            Media::Untouched => Outcome::NOTHING,
        }
    }
}

/// Requests let go together; `current` is the one that has been let go and is not yet answered.
struct Line {
    current: u64,
    rest: VecDeque<u64>,
}

#[derive(Default)]
struct Queue {
    ready: VecDeque<u64>,
    deadlines: Deadlines,
    wake: Option<Arc<EventFd>>,
}

/// The engine and all parked requests, behind one lock.
pub struct Gates {
    /// The script's state.
    pub engine: Engine,
    parked: BTreeMap<u64, Parked>,
    lines: BTreeMap<u64, Line>,
    next_line: u64,
    windows: BTreeMap<(RuleIndex, u64), BTreeMap<u32, u64>>,
    queues: Vec<Queue>,
}

impl Gates {
    /// Nothing waits yet.
    pub fn new(engine: Engine, queues: u16) -> Gates {
        Gates {
            engine,
            parked: BTreeMap::new(),
            lines: BTreeMap::new(),
            next_line: 0,
            windows: BTreeMap::new(),
            queues: (0..queues).map(|_| Queue::default()).collect(),
        }
    }

    /// How the thread of a queue is woken.
    pub fn set_wake(&mut self, queue: u16, wake: Option<Arc<EventFd>>) {
        self.queues[usize::from(queue)].wake = wake;
    }

    /// When a queue's thread has to look again.
    pub fn next_deadline(&self, queue: u16) -> Option<Instant> {
        self.queues[usize::from(queue)].deadlines.next()
    }

    /// Parks a request as its gate says. One that touches the disk on arrival has done so by `transfer` when this
    /// returns. `elapsed_ms` is the script's clock now.
    pub fn park(
        &mut self,
        token: InFlight,
        gate: &Gate,
        (work, device): (Work, Vec<DeviceAction>),
        elapsed_ms: u64,
        transfer: &mut Transfer<'_>,
    ) {
        let now = Instant::now();
        let (seq, queue) = (token.seq, token.queue);
        let Some((rule, word, when, until_reset)) = waits(gate) else { return self.bug_open_gate(token, transfer) };
        let mut parked = Parked {
            token,
            work,
            device,
            media: Media::Untouched,
            rule,
            gate: word,
            until_reset,
            let_go: false,
            line: None,
        };
        if when == GateWhen::Arrival {
            for range in parked.token.request.what.range().into_iter().chain(targets(&parked.work)) {
                self.settle_before(seq, range, transfer);
            }
            parked.touch(transfer);
        }
        self.parked.insert(seq, parked);
        let deadlines = &mut self.queues[usize::from(queue)].deadlines;
        match gate {
            Gate::Open => {}
            Gate::Delay { us, .. } => deadlines.add(later(now, Duration::from_micros(*us)), Due::Request(seq)),
            Gate::Hold { until_reset: true, .. } => {}
            Gate::Hold { max_ms, until_ms, .. } => {
                let wait_ms = until_ms.map_or(*max_ms, |at| at.saturating_sub(elapsed_ms).min(*max_ms));
                deadlines.add(later(now, Duration::from_millis(wait_ms)), Due::Request(seq));
            }
            Gate::Reorder { window, slot, order, max_wait_ms, .. } => {
                let members = self.windows.entry((rule, *window)).or_default();
                members.insert(*slot, seq);
                match order {
                    Some(order) => self.order_window(rule, *window, order),
                    None if members.len() == 1 => {
                        deadlines.add(later(now, Duration::from_millis(*max_wait_ms)), Due::Window(rule, *window));
                    }
                    None => {}
                }
            }
        }
    }

    /// An open gate is no reason to park. Should it happen all the same, the request is let go at once.
    fn bug_open_gate(&mut self, token: InFlight, transfer: &mut Transfer<'_>) {
        debug_assert!(false, "a request with an open gate was parked");
        let (seq, work) = (token.seq, Work::Whole(crate::transfer::whole(&token.request)));
        let rule = RuleIndex(0);
        let mut parked = Parked {
            token,
            work,
            device: Vec::new(),
            media: Media::Untouched,
            rule,
            gate: "open",
            until_reset: false,
            let_go: false,
            line: None,
        };
        parked.touch(transfer);
        self.parked.insert(seq, parked);
        self.let_go_in_line(vec![seq]);
    }

    /// Every earlier parked write that shares a sector with `range` touches the disk now, in arrival order.
    pub fn settle_before(&mut self, seq: u64, range: Range, transfer: &mut Transfer<'_>) {
        for (_, parked) in self.parked.range_mut(..seq) {
            let what = &parked.token.request.what;
            let places = || what.range().into_iter().chain(targets(&parked.work));
            if what.mutates() && places().any(|earlier| earlier.overlaps(&range)) {
                parked.touch(transfer);
            }
        }
    }

    /// Lets go everything that these rules hold, in arrival order. Gives how many.
    pub fn release(&mut self, rules: &[RuleIndex]) -> usize {
        let held = |parked: &Parked| parked.gate == "hold" && !parked.let_go && !parked.until_reset;
        let seqs: Vec<u64> =
            self.parked.iter().filter(|(_, p)| held(p) && rules.contains(&p.rule)).map(|(seq, _)| *seq).collect();
        let released = seqs.len();
        self.let_go_in_line(seqs);
        released
    }

    /// Lets go what is due on this queue. Windows that starved are closed in the engine; their records come back.
    pub fn expire(&mut self, queue: u16, now: Instant) -> Vec<fault_injection::Record> {
        let mut records = Vec::new();
        while let Some(due) = self.queues[usize::from(queue)].deadlines.take_passed(now) {
            match due {
                Due::Request(seq) if self.parked.get(&seq).is_some_and(|parked| !parked.let_go) => {
                    self.let_go_in_line(vec![seq]);
                }
                Due::Request(_) => {}
                Due::Window(rule, window) if self.windows.contains_key(&(rule, window)) => {
                    let closed = self.engine.close_window(rule, window);
                    records.extend(closed.record);
                    self.order_window(rule, window, &closed.order);
                }
                Due::Window(..) => {}
            }
        }
        records
    }

    /// The next request of this queue that may be answered now.
    pub fn take_ready(&mut self, queue: u16) -> Option<Parked> {
        loop {
            let seq = self.queues[usize::from(queue)].ready.pop_front()?;
            if let Some(parked) = self.parked.remove(&seq) {
                return Some(parked);
            }
        }
    }

    /// A request that was let go has been answered: the next of its line follows. Gives the queue of that one.
    pub fn answered(&mut self, parked_line: Option<u64>) -> Option<u16> {
        let id = parked_line?;
        let line = self.lines.get_mut(&id)?;
        while let Some(seq) = line.rest.pop_front() {
            let Some(parked) = self.parked.get_mut(&seq) else { continue };
            line.current = seq;
            let queue = parked.token.queue;
            self.make_ready(seq, queue);
            return Some(queue);
        }
        self.lines.remove(&id);
        None
    }

    /// The line a request was let go in.
    pub fn line_of(parked: &Parked) -> Option<u64> {
        parked.line
    }

    /// Whether the next of a line is on another queue than this one.
    pub fn turn_passes(&self, line: Option<u64>, queue: u16) -> bool {
        let line = line.and_then(|id| self.lines.get(&id));
        let next = line.and_then(|line| line.rest.iter().find_map(|seq| self.parked.get(seq)));
        next.is_some_and(|parked| parked.token.queue != queue)
    }

    /// Takes everything that is parked on a queue, in arrival order. Windows that it was part of are closed, and what
    /// else was in them is let go. Nothing of the queue is due or ready afterwards.
    pub fn drain(&mut self, queue: u16) -> (Vec<Parked>, Vec<fault_injection::Record>) {
        let mine: Vec<u64> =
            self.parked.iter().filter(|(_, parked)| parked.token.queue == queue).map(|(seq, _)| *seq).collect();
        let touched: Vec<(RuleIndex, u64)> = self
            .windows
            .iter()
            .filter(|(_, members)| members.values().any(|seq| mine.contains(seq)))
            .map(|(key, _)| *key)
            .collect();
        let mut records = Vec::new();
        let mut others = Vec::new();
        for (rule, window) in touched {
            records.extend(self.engine.close_window(rule, window).record);
            let members = self.windows.remove(&(rule, window)).unwrap_or_default();
            others.extend(members.into_values().filter(|seq| !mine.contains(seq)));
        }
        let drained: Vec<Parked> = mine.iter().filter_map(|seq| self.parked.remove(seq)).collect();
        let queue = &mut self.queues[usize::from(queue)];
        queue.ready.clear();
        queue.deadlines.clear();
        others.sort_unstable();
        self.let_go_in_line(others);
        self.skip_what_left();
        (drained, records)
    }

    /// Requests of before `seq` that still wait.
    pub fn waiting_before(&self, seq: u64) -> Vec<u64> {
        self.parked.range(..seq).map(|(seq, _)| *seq).collect()
    }

    /// Where a parked request's data goes beside its own place.
    pub fn targets_of(parked: &Parked) -> Vec<Range> {
        targets(&parked.work)
    }

    /// How many requests wait.
    pub fn waiting(&self) -> usize {
        self.parked.len()
    }

    /// What waits, for people.
    pub fn list(&self) -> Value {
        let line = |parked: &Parked| {
            let token = &parked.token;
            let range = token.request.what.range();
            json!({
                "seq": token.seq, "queue": token.queue, "op": token.request.what.op(),
                "sector": range.map_or(0, |r| r.sector), "sectors": range.map_or(0, |r| r.sectors),
                "rule": self.engine.rule_id(parked.rule), "gate": parked.gate,
                "touched": matches!(parked.media, Media::Touched(_)),
            })
        };
        self.parked.values().map(line).collect()
    }

    fn order_window(&mut self, rule: RuleIndex, window: u64, order: &[u32]) {
        let mut members = self.windows.remove(&(rule, window)).unwrap_or_default();
        let mut seqs: Vec<u64> = order.iter().filter_map(|slot| members.remove(slot)).collect();
        // An order that forgets a slot would leave its request waiting for ever.
        seqs.extend(members.into_values());
        self.let_go_in_line(seqs);
    }

    fn let_go_in_line(&mut self, seqs: Vec<u64>) {
        let id = self.next_line;
        let mut rest: VecDeque<u64> = seqs.into_iter().filter(|seq| self.parked.contains_key(seq)).collect();
        for seq in &rest {
            if let Some(parked) = self.parked.get_mut(seq) {
                parked.let_go = true;
                parked.line = Some(id);
            }
        }
        let Some(current) = rest.pop_front() else { return };
        self.next_line += 1;
        let queue = self.parked[&current].token.queue;
        self.lines.insert(id, Line { current, rest });
        self.make_ready(current, queue);
    }

    fn make_ready(&mut self, seq: u64, queue: u16) {
        let queue = &mut self.queues[usize::from(queue)];
        queue.ready.push_back(seq);
        if let Some(wake) = &queue.wake {
            // It can fail only when its counter is full, and then the thread is awake.
            let _ = wake.write(1);
        }
    }

    /// Lines whose current request was drained go on with the next one.
    fn skip_what_left(&mut self) {
        let stuck: Vec<u64> =
            self.lines.iter().filter(|(_, line)| !self.parked.contains_key(&line.current)).map(|(id, _)| *id).collect();
        for id in stuck {
            self.answered(Some(id));
        }
    }
}

/// Where a plan's data goes, or comes from, beside the request's own place.
pub fn targets(work: &Work) -> Vec<Range> {
    let pieces = match work {
        Work::Whole(piece) => std::slice::from_ref(piece),
        Work::Split { pieces, .. } => pieces,
    };
    let target = |piece: &Piece| match piece.moves {
        Moves::Misdirected { to_sector, .. } => Some(Range { sector: to_sector, sectors: piece.sectors }),
        _ => None,
    };
    pieces.iter().filter_map(target).collect()
}

/// Who makes a request wait, in which word, when it touches the disk, and whether it is never answered.
fn waits(gate: &Gate) -> Option<(RuleIndex, &'static str, GateWhen, bool)> {
    match gate {
        Gate::Open => None,
        Gate::Delay { rule, when, .. } => Some((*rule, "delay", *when, false)),
        Gate::Hold { rule, when, until_reset, .. } => Some((*rule, "hold", *when, *until_reset)),
        Gate::Reorder { rule, when, .. } => Some((*rule, "reorder", *when, false)),
    }
}

/// A deadline so late that the clock cannot say it is a century away.
fn later(now: Instant, wait: Duration) -> Instant {
    now.checked_add(wait).unwrap_or_else(|| now + Duration::from_secs(100 * 365 * 86_400))
}
