//! Plays a script against requests. All state of a run is here: counters, windows, points, touches.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::Serialize;

use crate::decision::{Decision, Gate, Moves, Piece, RuleIndex, Status, UsedLen, Work};
use crate::event::{Draw, Header, Key, Outcome, Purpose, Record};
pub use crate::index::Filter;
use crate::index::Index;
use crate::random::{DrawKey, Draws, below};
use crate::request::{Arrival, Op, Request, SECTOR_BYTES};
use crate::rule::{Action, ChildOrder, HoldUntil, Length, Policy, Rule, Stage, Transfer};
use crate::script::Script;
use crate::trigger::{Counts, Drawing, Moment, Progress};

/// The state of one run. The device keeps it behind one short lock.
#[derive(Debug)]
pub struct Engine {
    script: Arc<Script>,
    seed: u64,
    index: Index,
    filter: Filter,
    rules: Vec<RuleState>,
    /// Hold rules that end at a point; asked after every request.
    holds_until_point: Vec<u32>,
    counts: Counts,
    marks: BTreeSet<String>,
    /// Looked up, never walked: its order is chance.
    touches: HashMap<TouchKey, u64>,
    /// Kept to save an allocation per request.
    candidates: Vec<u32>,
}

/// What a touch is counted for. Children of a split count apart from requests, and from children of other splits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct TouchKey {
    split: Option<u32>,
    op: Op,
    sector: u64,
    sectors: u64,
}

#[derive(Debug)]
struct RuleState {
    progress: Progress,
    carried_out: u64,
    shadowed: u64,
    probability: Option<Draws>,
    /// For what the action itself draws.
    action: Option<(Purpose, Draws)>,
    /// Rules that look at the children of this split.
    children: Vec<u32>,
    window: Window,
    /// A hold that holds something and has not been released.
    holding: bool,
}

/// The open window of a reorder rule.
#[derive(Debug, Default)]
struct Window {
    number: u64,
    filled: u32,
    last: Option<Record>,
}

/// A reorder window that was closed before it was full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedWindow {
    /// Slots in the order in which they are to be answered; empty if the window was closed already.
    pub order: Vec<u32>,
    /// The `reorder_starved` line for decisions.jsonl.
    pub record: Option<Record>,
}

/// How often a rule did what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleCounters {
    /// The rule.
    pub id: String,
    /// Requests (or children) that its `match` fitted.
    pub matched: u64,
    /// Times it fired and was carried out.
    pub fired: u64,
    /// Times it fired, and an earlier rule of its stage had won.
    pub shadowed: u64,
}

/// An `expect` of the script that the run did not meet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unmet {
    /// The rule.
    pub id: String,
    /// Times it was carried out.
    pub fired: u64,
    /// Least expected.
    pub min: u64,
    /// Most expected; `None` is no bound.
    pub max: Option<u64>,
}

/// A request, or a child of one, while rules are asked about it.
struct Unit {
    seq: u64,
    request: Request,
    split: Option<u32>,
    child: Option<u32>,
    touch: u64,
}

impl Unit {
    fn address(&self) -> DrawKey {
        let Request { op, sector, sectors, .. } = self.request;
        DrawKey::Address { op, sector, sectors, touch: self.touch }
    }

    fn touch_key(&self) -> TouchKey {
        let Request { op, sector, sectors, .. } = self.request;
        TouchKey { split: self.split, op, sector, sectors }
    }

    fn bytes(&self) -> u64 {
        self.request.sectors * SECTOR_BYTES
    }
}

/// A rule whose trigger said yes.
struct Firing {
    rule: u32,
    match_number: u64,
    key: DrawKey,
    draw: Vec<Draw>,
    /// Set when the firing is settled; each one is.
    outcome: Option<Outcome>,
}

/// What the rules say to one unit: all firings in file order, and which of them won the gate, transfer, status stage.
#[derive(Default)]
struct Played {
    firings: Vec<Firing>,
    winners: [Option<usize>; 3],
}

impl Played {
    fn winner(&self, stage: Stage) -> Option<usize> {
        self.winners[stage as usize]
    }

    fn settle(&mut self, firing: usize, outcome: Outcome) {
        self.firings[firing].outcome = Some(outcome);
    }
}

impl Engine {
    /// A fresh run. The seed is `seed_override`, else the script's, else 0.
    pub fn new(script: Arc<Script>, seed_override: Option<u64>) -> Engine {
        let seed = seed_override.or(script.seed()).unwrap_or(0);
        let index = Index::new(&script.rules);
        let filter = Filter::new(&script.rules, &index);
        let rules = script.rules.iter().map(|rule| RuleState::new(rule, &script.rules, seed)).collect();
        let ends_at_point =
            |rule: &Rule| rule.enabled && matches!(&rule.action, Action::Hold { until: HoldUntil::Point(_), .. });
        let holds_until_point =
            (0..).zip(&script.rules).filter(|(_, rule)| ends_at_point(rule)).map(|(i, _)| i).collect();
        Engine {
            script,
            seed,
            index,
            filter,
            rules,
            holds_until_point,
            counts: Counts::default(),
            marks: BTreeSet::new(),
            touches: HashMap::new(),
            candidates: Vec::new(),
        }
    }

    /// The seed of this run.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// First line of decisions.jsonl.
    pub fn header(&self, queues: u16) -> Header {
        let determinism = self.script.determinism(queues);
        Header {
            decisions: 1,
            seed: self.seed,
            queues,
            deterministic: determinism.deterministic,
            why: determinism.why,
            rules: self.script.rules.iter().map(|rule| rule.id.clone()).collect(),
        }
    }

    /// The lock-free test in front of `decide`.
    pub fn filter(&self) -> Filter {
        self.filter.clone()
    }

    /// Decides one request. Call it in rising order of `arrival.seq`; requests the filter turned away may be left out.
    pub fn decide(&mut self, arrival: Arrival, request: &Request) -> Decision {
        let script = Arc::clone(&self.script);
        let before = Counts { requests: arrival.seq, elapsed_ms: arrival.elapsed_ms, ..self.counts };
        let with = before.and(request);
        self.counts = with;
        let mut candidates = std::mem::take(&mut self.candidates);
        self.index.candidates(request, &mut candidates);
        let unit = Unit { seq: arrival.seq, request: *request, split: None, child: None, touch: 0 };
        let mut decision = self.decide_unit(&script, unit, &candidates, (before, with));
        self.candidates = candidates;
        decision.released = self.released_by_points(&script);
        decision
    }

    fn decide_unit(
        &mut self,
        script: &Script,
        mut unit: Unit,
        candidates: &[u32],
        counts: (Counts, Counts),
    ) -> Decision {
        let mut played = self.play(script, &mut unit, candidates, counts);
        let gate = self.resolve_gate(script, &unit, &mut played);
        let mut log = Vec::new();
        let work = match self.split_winner(script, &played) {
            Some(firing) => self.resolve_split(script, &unit, &mut played, firing, counts, &mut log),
            None => Work::Whole(self.resolve_piece(script, &unit, &mut played)),
        };
        // The request's own lines stand before its children's.
        let mut lines: Vec<Record> = played.firings.into_iter().map(|firing| record(script, &unit, firing)).collect();
        lines.append(&mut log);
        Decision { gate, work, device: Vec::new(), released: Vec::new(), log: lines }
    }

    /// Asks the rules in file order, and lets the first of each stage win.
    fn play(&mut self, script: &Script, unit: &mut Unit, candidates: &[u32], counts: (Counts, Counts)) -> Played {
        let mut played = Played::default();
        for &index in candidates {
            let rule = &script.rules[index as usize];
            let Request { op, sector, sectors, .. } = unit.request;
            if !rule.fits_place(op, sector, sectors) {
                continue;
            }
            if unit.touch == 0 {
                unit.touch = self.count_touch(unit.touch_key());
            }
            if !rule.fits_moment(&unit.request) {
                continue;
            }
            let moment = Moment { before: counts.0, with: counts.1, marks: &self.marks };
            let state = &mut self.rules[index as usize];
            let drawing = Drawing { draws: state.probability.as_ref(), address: unit.address() };
            if let Some(draw) = state.progress.fires(rule, &moment, &drawing) {
                let key = state.progress.draw_key(rule, unit.address());
                let match_number = state.progress.matched;
                let firing = Firing { rule: index, match_number, key, draw, outcome: None };
                self.enter_stage(script, &mut played, firing);
            }
        }
        played
    }

    fn count_touch(&mut self, key: TouchKey) -> u64 {
        let touch = self.touches.entry(key).or_insert(0);
        *touch += 1;
        *touch
    }

    fn enter_stage(&mut self, script: &Script, played: &mut Played, mut firing: Firing) {
        let stage = script.rules[firing.rule as usize].action.stage();
        let state = &mut self.rules[firing.rule as usize];
        match played.winner(stage) {
            Some(winner) => {
                state.shadowed += 1;
                let by = script.rules[played.firings[winner].rule as usize].id.clone();
                firing.outcome = Some(Outcome::Shadowed { by });
            }
            None => {
                state.carried_out += 1;
                played.winners[stage as usize] = Some(played.firings.len());
            }
        }
        played.firings.push(firing);
    }

    fn resolve_gate(&mut self, script: &Script, unit: &Unit, played: &mut Played) -> Gate {
        let Some(firing) = played.winner(Stage::Gate) else { return Gate::Open };
        let index = played.firings[firing].rule;
        let rule = RuleIndex(index);
        match &script.rules[index as usize].action {
            Action::Delay { length, when } => {
                let us = match length {
                    Length::Fixed { us } => *us,
                    Length::Drawn(distribution) => distribution.us(self.draw(&mut played.firings[firing])),
                };
                played.settle(firing, Outcome::Delay { us });
                Gate::Delay { rule, us, when: *when }
            }
            Action::Hold { until, max_ms, when } => {
                self.rules[index as usize].holding = true;
                played.settle(firing, Outcome::Hold {});
                let until_ms = match until {
                    HoldUntil::Point(crate::rule::Point::Ms(ms)) => Some(*ms),
                    _ => None,
                };
                let until_reset = *until == HoldUntil::Reset;
                Gate::Hold { rule, max_ms: max_ms.unwrap_or(UNTIL_RESET_MS), until_reset, until_ms, when: *when }
            }
            Action::Reorder { window: size, policy, max_wait_ms, when } => {
                let (window, slot, order) = self.place_in_window(index, *size, *policy);
                if order.is_some() && *policy == Policy::Shuffle {
                    played.firings[firing].draw.push(self.order_draw(index, window));
                }
                played.settle(firing, Outcome::Reorder { window, slot, order: order.clone() });
                self.remember_last(script, index, unit, &played.firings[firing]);
                Gate::Reorder { rule, window, slot, order, max_wait_ms: *max_wait_ms, when: *when }
            }
            _ => unreachable!("only delay, hold and reorder are in the gate stage"),
        }
    }

    /// Draws what the action of this rule needs, and notes it.
    fn draw(&self, firing: &mut Firing) -> u64 {
        let (purpose, draws) =
            self.rules[firing.rule as usize].action.as_ref().expect("draws were prepared for every action that draws");
        let bits = draws.bits(firing.key);
        firing.draw.push(Draw::new(*purpose, bits));
        bits
    }

    fn place_in_window(&mut self, rule: u32, size: u32, policy: Policy) -> (u64, u32, Option<Vec<u32>>) {
        let window = &mut self.rules[rule as usize].window;
        let (number, slot) = (window.number, window.filled);
        window.filled += 1;
        let full = window.filled == size;
        (number, slot, full.then(|| self.end_window(rule, policy)))
    }

    fn end_window(&mut self, rule: u32, policy: Policy) -> Vec<u32> {
        let state = &mut self.rules[rule as usize];
        let (number, filled) = (state.window.number, state.window.filled);
        state.window.number += 1;
        state.window.filled = 0;
        match (policy, &state.action) {
            (Policy::Shuffle, Some((_, draws))) => draws.shuffled(DrawKey::Ordinal(number), filled),
            _ => (0..filled).rev().collect(),
        }
    }

    fn order_draw(&self, rule: u32, window: u64) -> Draw {
        let (purpose, draws) =
            self.rules[rule as usize].action.as_ref().expect("draws were prepared for every action that draws");
        Draw::new(*purpose, draws.bits(DrawKey::Ordinal(window)))
    }

    fn remember_last(&mut self, script: &Script, rule: u32, unit: &Unit, firing: &Firing) {
        let outcome = firing.outcome.clone();
        let last = Firing { rule, match_number: firing.match_number, key: firing.key, draw: Vec::new(), outcome };
        self.rules[rule as usize].window.last = Some(record(script, unit, last));
    }

    fn split_winner(&self, script: &Script, played: &Played) -> Option<usize> {
        let is_split =
            |firing: &usize| matches!(script.rules[played.firings[*firing].rule as usize].action, Action::Split { .. });
        played.winner(Stage::Transfer).filter(is_split)
    }

    /// Transfer and status stages of what is carried out as one.
    fn resolve_piece(&self, script: &Script, unit: &Unit, played: &mut Played) -> Piece {
        let Request { sector, sectors, .. } = unit.request;
        let mut piece = Piece { sector, sectors, moves: Moves::All, status: Status::OK, used_len: UsedLen::Honest };
        let transfer = played.winner(Stage::Transfer);
        if let Some(firing) = transfer {
            match &script.rules[played.firings[firing].rule as usize].action {
                Action::Partial { amount, status, used_len } => {
                    let moved_bytes = amount.bytes_of(sectors);
                    piece.moves = prefix(moved_bytes, unit.bytes());
                    piece.status = *status;
                    piece.used_len = *used_len;
                    played.settle(firing, Outcome::Partial { status: status.0, moved_bytes });
                }
                Action::Lose {} => {
                    piece.moves = Moves::Lost;
                    played.settle(firing, Outcome::Lose {});
                }
                _ => unreachable!("a split is resolved apart, and no other action is in the transfer stage"),
            }
        }
        if let Some(firing) = played.winner(Stage::Status) {
            let Action::Error { status, transfer: passes } = &script.rules[played.firings[firing].rule as usize].action
            else {
                unreachable!("only error is in the status stage")
            };
            if transfer.is_none() {
                piece.moves = self.error_moves(*passes, unit, &mut played.firings[firing]);
            }
            fail(&mut piece, *status);
            let moved_bytes = moved_bytes(&piece);
            played.settle(firing, Outcome::Error { status: status.0, moved_bytes });
        }
        piece
    }

    fn error_moves(&self, passes: Transfer, unit: &Unit, firing: &mut Firing) -> Moves {
        match passes {
            Transfer::None => Moves::Prefix { bytes: 0 },
            Transfer::All => Moves::All,
            Transfer::Random => {
                // A request without sectors is served or not.
                let steps = unit.request.sectors.max(1);
                let sectors = below(self.draw(firing), steps + 1);
                if sectors == steps { Moves::All } else { Moves::Prefix { bytes: sectors * SECTOR_BYTES } }
            }
        }
    }

    fn resolve_split(
        &mut self,
        script: &Script,
        unit: &Unit,
        played: &mut Played,
        firing: usize,
        counts: (Counts, Counts),
        log: &mut Vec<Record>,
    ) -> Work {
        let index = played.firings[firing].rule;
        let Action::Split { cut, order } = &script.rules[index as usize].action else {
            unreachable!("the caller found a split")
        };
        let sectors = cut.lengths(unit.request.sectors);
        let order = self.child_order(*order, sectors.len() as u32, &mut played.firings[firing]);
        let mut pieces = self.decide_children(script, unit, index, &sectors, counts, log);
        played.settle(firing, Outcome::Split { sectors, order: order.clone() });
        if let Some(firing) = played.winner(Stage::Status)
            && let Action::Error { status, .. } = &script.rules[played.firings[firing].rule as usize].action
        {
            pieces.iter_mut().for_each(|piece| fail(piece, *status));
            let moved_bytes = pieces.iter().map(moved_bytes).sum();
            played.settle(firing, Outcome::Error { status: status.0, moved_bytes });
        }
        Work::Split { rule: RuleIndex(index), pieces, order }
    }

    fn child_order(&self, order: ChildOrder, children: u32, firing: &mut Firing) -> Vec<u32> {
        match order {
            ChildOrder::Forward => (0..children).collect(),
            ChildOrder::Reverse => (0..children).rev().collect(),
            ChildOrder::Shuffle => {
                self.draw(firing);
                let (_, draws) =
                    self.rules[firing.rule as usize].action.as_ref().expect("a draw was just made from it");
                draws.shuffled(firing.key, children)
            }
        }
    }

    /// Children are asked about in rising sector order, whatever the order in which they reach the disk.
    fn decide_children(
        &mut self,
        script: &Script,
        parent: &Unit,
        split: u32,
        lengths: &[u64],
        counts: (Counts, Counts),
        log: &mut Vec<Record>,
    ) -> Vec<Piece> {
        let candidates = std::mem::take(&mut self.rules[split as usize].children);
        let mut pieces = Vec::with_capacity(lengths.len());
        let mut sector = parent.request.sector;
        for (child, &sectors) in (0u32..).zip(lengths) {
            let request = Request { sector, sectors, ..parent.request };
            let mut unit = Unit { seq: parent.seq, request, split: Some(split), child: Some(child), touch: 0 };
            let mut played = self.play(script, &mut unit, &candidates, counts);
            pieces.push(self.resolve_piece(script, &unit, &mut played));
            log.extend(played.firings.into_iter().map(|firing| record(script, &unit, firing)));
            sector += sectors;
        }
        self.rules[split as usize].children = candidates;
        pieces
    }

    fn released_by_points(&mut self, script: &Script) -> Vec<RuleIndex> {
        let mut released = Vec::new();
        for &index in &self.holds_until_point {
            let state = &mut self.rules[index as usize];
            let Action::Hold { until: HoldUntil::Point(point), .. } = &script.rules[index as usize].action else {
                continue;
            };
            if state.holding && point.is_reached(state.progress.matched, &self.counts, &self.marks) {
                state.holding = false;
                released.push(RuleIndex(index));
            }
        }
        released
    }

    /// Closes a reorder window whose `max_wait_ms` have passed. Later requests of the rule open the next one.
    pub fn close_window(&mut self, rule: RuleIndex, window: u64) -> ClosedWindow {
        let closed = ClosedWindow { order: Vec::new(), record: None };
        let Some(state) = self.rules.get_mut(rule.0 as usize) else { return closed };
        let Action::Reorder { policy, .. } = self.script.rules[rule.0 as usize].action else { return closed };
        if state.window.number != window || state.window.filled == 0 {
            return closed;
        }
        let last = state.window.last.take();
        let order = self.end_window(rule.0, policy);
        let draw = if policy == Policy::Shuffle { vec![self.order_draw(rule.0, window)] } else { Vec::new() };
        let outcome = Outcome::ReorderStarved { window, order: order.clone() };
        ClosedWindow { order, record: last.map(|last| Record { outcome, draw, ..last }) }
    }

    /// The mark `name` was set, before the request with the next `seq`. Gives the holds it releases.
    pub fn mark(&mut self, name: &str, seq: u64, elapsed_ms: u64) -> Vec<RuleIndex> {
        self.counts.requests = self.counts.requests.max(seq);
        self.counts.elapsed_ms = self.counts.elapsed_ms.max(elapsed_ms);
        self.marks.insert(name.to_string());
        let script = Arc::clone(&self.script);
        self.released_by_points(&script)
    }

    /// Finds the `hold` rule whose requests the user wants released now. Later matches of it are held again. `None`: no
    /// such rule, or no hold that can be released (`"until": "reset"` cannot).
    pub fn release(&mut self, rule_id: &str) -> Option<RuleIndex> {
        let index = self.script.rules.iter().position(|rule| rule.id == rule_id)?;
        match self.script.rules[index].action {
            Action::Hold { until: HoldUntil::Reset, .. } => None,
            Action::Hold { .. } => {
                self.rules[index].holding = false;
                Some(RuleIndex(index as u32))
            }
            _ => None,
        }
    }

    /// The id of a rule; empty for an index this engine never gave.
    pub fn rule_id(&self, rule: RuleIndex) -> &str {
        self.script.rules.get(rule.0 as usize).map_or("", |rule| &rule.id)
    }

    /// Counters of all rules, in file order.
    pub fn counters(&self) -> Vec<RuleCounters> {
        let counters = |(rule, state): (&Rule, &RuleState)| RuleCounters {
            id: rule.id.clone(),
            matched: state.progress.matched,
            fired: state.carried_out,
            shadowed: state.shadowed,
        };
        self.script.rules.iter().zip(&self.rules).map(counters).collect()
    }

    /// Every `expect.fired` that does not hold at this moment.
    pub fn unmet(&self) -> Vec<Unmet> {
        let fired = |id: &str| {
            let index = self.script.rules.iter().position(|rule| rule.id == id);
            index.map_or(0, |index| self.rules[index].carried_out)
        };
        let mut unmet = Vec::new();
        for expect in &self.script.expect {
            let fired = fired(&expect.id);
            if fired < expect.min || expect.max.is_some_and(|max| fired > max) {
                unmet.push(Unmet { id: expect.id.clone(), fired, min: expect.min, max: expect.max });
            }
        }
        unmet
    }
}

/// What `Gate::Hold::max_ms` says of a hold that no time ends: a century.
const UNTIL_RESET_MS: u64 = 3_155_760_000_000;

impl RuleState {
    fn new(rule: &Rule, all: &[Rule], seed: u64) -> RuleState {
        let key = rule.trigger.key;
        let draws = |purpose, key| Draws::new(seed, &rule.id, purpose, key);
        let action = match rule.action {
            Action::Delay { length: Length::Drawn(_), .. } => Some((Purpose::Delay, key)),
            Action::Error { transfer: Transfer::Random, .. } => Some((Purpose::Transfer, key)),
            Action::Split { order: ChildOrder::Shuffle, .. } => Some((Purpose::Order, key)),
            // A window has no address, only a number.
            Action::Reorder { policy: Policy::Shuffle, .. } => Some((Purpose::Order, Key::Ordinal)),
            _ => None,
        };
        let looks_here = |other: &Rule| other.enabled && other.matches.child_of.as_deref() == Some(&rule.id);
        RuleState {
            progress: Progress::default(),
            carried_out: 0,
            shadowed: 0,
            probability: rule.trigger.probability.map(|_| draws(Purpose::Probability, key)),
            action: action.map(|(purpose, key)| (purpose, draws(purpose, key))),
            children: (0..).zip(all).filter(|(_, other)| looks_here(other)).map(|(i, _)| i).collect(),
            window: Window::default(),
            holding: false,
        }
    }
}

impl Counts {
    fn and(self, request: &Request) -> Counts {
        let is = |op: Op| u64::from(request.op == op);
        Counts {
            requests: self.requests + 1,
            writes: self.writes + is(Op::Write),
            flushes: self.flushes + is(Op::Flush),
            bytes: self.bytes + (is(Op::Write) + is(Op::Read)) * request.sectors.saturating_mul(SECTOR_BYTES),
            ..self
        }
    }
}

fn prefix(bytes: u64, of: u64) -> Moves {
    if bytes < of { Moves::Prefix { bytes } } else { Moves::All }
}

/// Replaces the status. A loss that is owned up to is no lie.
fn fail(piece: &mut Piece, status: Status) {
    piece.status = status;
    if piece.moves == Moves::Lost {
        piece.moves = Moves::Prefix { bytes: 0 };
    }
}

fn moved_bytes(piece: &Piece) -> u64 {
    match piece.moves {
        Moves::All => piece.sectors * SECTOR_BYTES,
        Moves::Prefix { bytes } => bytes,
        Moves::Lost => 0,
    }
}

fn record(script: &Script, unit: &Unit, firing: Firing) -> Record {
    let rule = &script.rules[firing.rule as usize];
    Record {
        seq: unit.seq,
        rule: rule.id.clone(),
        match_number: firing.match_number,
        op: unit.request.op,
        sector: unit.request.sector,
        sectors: unit.request.sectors,
        touch: unit.touch,
        child: unit.child,
        key: rule.trigger.key,
        draw: firing.draw,
        outcome: firing.outcome.expect("every firing is settled by its stage"),
    }
}
