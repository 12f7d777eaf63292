//! Plays a script against requests. All state of a run is here: counters, windows, points, touches, states, bad sectors.
//!
//! This file decides requests; `live` is what happens between them: marks, events, verbs.

mod live;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::Serialize;

use crate::corrupt::Corruption;
use crate::decision::{Decision, DeviceAction, Gate, Moves, Piece, RuleIndex, Status, UsedLen, Work};
pub use crate::engine::live::{RuleStatus, ScriptError};
use crate::event::{Draw, FailClass, Header, Key, Outcome, Purpose, Record};
pub use crate::index::Filter;
use crate::index::Index;
use crate::power_cut::PowerCut;
use crate::random::{CutDraws, DrawKey, Draws, below};
use crate::ranges::Ranges;
use crate::replay::Replay;
use crate::request::{Arrival, Op, Request, SECTOR_BYTES};
use crate::rule::{
    Action, ChildOrder, Heal, HoldUntil, Keep, Length, OpSet, Original, Policy, Rule, Scope, Stage, StickySectors,
    Transfer, Where,
};
use crate::script::Script;
use crate::tear;
use crate::trigger::{Counts, Drawing, Moment, Progress};

/// The state of one run. The device keeps it behind one short lock.
#[derive(Debug)]
pub struct Engine {
    script: Arc<Script>,
    seed: u64,
    index: Index,
    filter: Filter,
    rules: Vec<RuleState>,
    /// Raised with every new filter.
    generation: u64,
    /// Rules that hold or stick until a point; asked after every request.
    until_point: Vec<u32>,
    /// Rules whose bad sectors a write heals.
    healed_by_writes: Vec<u32>,
    /// Events that have not happened.
    pending: Vec<usize>,
    states: BTreeMap<String, String>,
    failing: FailClass,
    /// Who set `failing`, and how many requests have failed by it.
    failing_by: (String, u64),
    /// Misdirected requests must lie on the disk too.
    capacity_sectors: u64,
    replay: Option<Replay>,
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
    /// Sectors on which the rule acts whatever its trigger says.
    bad: Ranges,
    /// It acts on every request of its types.
    everywhere: bool,
    /// Its heal point has come: nothing sticks any more.
    healed_for_good: bool,
    removed: bool,
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
pub(crate) struct Firing {
    pub(crate) rule: u32,
    pub(crate) match_number: u64,
    pub(crate) key: DrawKey,
    pub(crate) draw: Vec<Draw>,
    /// Set when the firing is settled; each one is.
    pub(crate) outcome: Option<Outcome>,
}

/// What the rules say to one unit: all firings in file order, and which of them won each stage.
#[derive(Default)]
struct Played {
    firings: Vec<Firing>,
    winners: [Option<usize>; 4],
    /// The request fails by this event or verb, whatever transfer and status rules say.
    overruled: Option<String>,
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
        let filter = Filter::new(&script, FailClass::None);
        let rules = script.rules.iter().map(|rule| RuleState::new(rule, seed)).collect();
        let states = script.states.iter().filter_map(|(name, values)| Some((name.clone(), values.first()?.clone())));
        let mut engine = Engine {
            seed,
            index,
            filter,
            rules,
            generation: 0,
            until_point: Vec::new(),
            healed_by_writes: Vec::new(),
            pending: (0..script.events.len()).collect(),
            states: states.collect(),
            failing: FailClass::None,
            failing_by: Default::default(),
            capacity_sectors: script.device.capacity_sectors.unwrap_or(u64::MAX),
            replay: None,
            counts: Counts::default(),
            marks: BTreeSet::new(),
            touches: HashMap::new(),
            candidates: Vec::new(),
            script,
        };
        engine.index_rules();
        engine
    }

    /// The recorded run that is forced on this one.
    pub fn replay(&self) -> Option<&Replay> {
        self.replay.as_ref()
    }

    pub(crate) fn set_replay(&mut self, replay: Replay) {
        self.replay = Some(replay);
    }

    /// The disk is this large: what would be misdirected beyond its end is not.
    pub fn set_capacity(&mut self, sectors: u64) {
        self.capacity_sectors = sectors;
    }

    /// Finds rules by what they look at. After every change of the rules.
    fn index_rules(&mut self) {
        let script = Arc::clone(&self.script);
        let those = |wanted: &dyn Fn(&Rule) -> bool| -> Vec<u32> {
            let found = (0..).zip(&script.rules).filter(|(_, rule)| rule.enabled && wanted(rule));
            found.map(|(i, _)| i).collect()
        };
        self.index = Index::new(&script.rules);
        self.filter = Filter::new(&script, self.failing);
        self.generation += 1;
        self.until_point = those(&|rule| rule.hold_point().is_some() || rule.heal_point().is_some());
        self.healed_by_writes = those(&|rule| matches!(rule.scope, Scope::Sticky { heal: Heal::Rewrite, .. }));
        for (rule, state) in script.rules.iter().zip(&mut self.rules) {
            state.children = those(&|other| other.matches.child_of.as_deref() == Some(&rule.id));
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

    /// The lock-free test in front of `decide`. Valid for as long as `generation` stays what it is.
    pub fn filter(&self) -> Filter {
        self.filter.clone()
    }

    /// Another number, another filter.
    pub fn generation(&self) -> u64 {
        self.generation
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
        let (mut decision, sets) = self.decide_unit(&script, unit, &candidates, (before, with));
        self.candidates = candidates;
        self.heal_by(request, &decision.work);
        // After all stages, so that no rule sees what another one has just set.
        sets.into_iter().for_each(|values| self.states.extend(values));
        let reached = self.reach_points(&script, arrival.seq);
        decision.released = reached.released;
        decision.device.extend(reached.device);
        decision.events = reached.events;
        last_the_cut(&mut decision.device);
        decision
    }

    fn decide_unit(
        &mut self,
        script: &Script,
        mut unit: Unit,
        candidates: &[u32],
        counts: (Counts, Counts),
    ) -> (Decision, Vec<BTreeMap<String, String>>) {
        let mut played = self.play(script, &mut unit, candidates, counts);
        let gate = self.resolve_gate(script, &unit, &mut played);
        let mut log: Vec<Record> = self.overruled_record(&unit, &played).into_iter().collect();
        let mut of_children = Vec::new();
        let mut sets = sets_of(script, &played);
        let work = match self.split_winner(script, &played) {
            Some(firing) => {
                let (work, mut children) =
                    self.resolve_split(script, &unit, &mut played, firing, counts, &mut of_children);
                sets.append(&mut children);
                work
            }
            None => Work::Whole(self.resolve_piece(script, &unit, &mut played)),
        };
        let device = self.resolve_device(script, &mut played);
        // The request's own lines stand before its children's.
        log.extend(played.firings.into_iter().map(|firing| record(script, &unit, firing)));
        log.append(&mut of_children);
        (Decision { gate, work, device, released: Vec::new(), log, events: Vec::new() }, sets)
    }

    /// The line that says why a request failed that no rule failed.
    fn overruled_record(&mut self, unit: &Unit, played: &Played) -> Option<Record> {
        let by = played.overruled.clone()?;
        self.failing_by.1 += 1;
        let Request { op, sector, sectors, .. } = unit.request;
        Some(Record {
            seq: unit.seq,
            rule: by,
            match_number: self.failing_by.1,
            op,
            sector,
            sectors,
            touch: unit.touch,
            child: None,
            key: Key::Address,
            draw: Vec::new(),
            outcome: Outcome::Error { status: Status::IOERR.0, moved_bytes: 0 },
        })
    }

    fn resolve_device(&self, script: &Script, played: &mut Played) -> Vec<DeviceAction> {
        let Some(firing) = played.winner(Stage::Device) else { return Vec::new() };
        let (index, match_number) = (played.firings[firing].rule as usize, played.firings[firing].match_number);
        let Action::PowerCut { unflushed, then } = script.rules[index].action else {
            unreachable!("only power cuts compete for the device stage")
        };
        played.settle(firing, Outcome::PowerCut {});
        let by = script.rules[index].id.clone();
        let draws = CutDraws::new(self.seed, &by, match_number);
        vec![DeviceAction::PowerCut(PowerCut { by, unflushed, then, draws })]
    }

    /// Asks the rules in file order, and lets the first of each stage win.
    fn play(&mut self, script: &Script, unit: &mut Unit, candidates: &[u32], counts: (Counts, Counts)) -> Played {
        let Request { op, sector, sectors, .. } = unit.request;
        let mut played = Played::default();
        if self.failing.ops().has(op) {
            unit.touch = self.count_touch(unit.touch_key());
            played.overruled = Some(self.failing_by.0.clone());
        }
        for &index in candidates {
            let rule = &script.rules[index as usize];
            let fits = rule.fits_place(op, sector, sectors) && self.has_a_target(rule, sector, sectors);
            let sticks =
                self.rules[index as usize].sticks_to(rule, &unit.request) && self.has_a_target(rule, sector, sectors);
            if !fits && !sticks {
                continue;
            }
            if unit.touch == 0 {
                unit.touch = self.count_touch(unit.touch_key());
            }
            let fits = fits && rule.fits_moment(&unit.request);
            if fits || sticks {
                let firing = self.ask(rule, index, unit, (fits, sticks), counts);
                firing.into_iter().for_each(|firing| self.enter_stage(script, unit, &mut played, firing));
            }
        }
        played
    }

    /// Whether a rule fires on a request that it fits or that it sticks to.
    fn ask(
        &mut self,
        rule: &Rule,
        index: u32,
        unit: &Unit,
        (fits, sticks): (bool, bool),
        counts: (Counts, Counts),
    ) -> Option<Firing> {
        let moment = Moment { before: counts.0, with: counts.1, marks: &self.marks, states: &self.states };
        let state = &mut self.rules[index as usize];
        let drawing = Drawing { draws: state.probability.as_ref(), address: unit.address() };
        let triggered = match fits {
            true => state.progress.fires(rule, &moment, &drawing),
            false => state.progress.matches(),
        };
        let sticks = sticks && !state.progress.hold_is_over(rule, &moment);
        let draw = match triggered {
            // Sectors that were bad from the start and have been healed stay good.
            Some(draw) if sticks || !rule.is_latent() => Some(draw),
            _ if sticks => Some(Vec::new()),
            _ => None,
        };
        let key = state.progress.draw_key(rule, unit.address());
        let firing =
            draw.map(|draw| Firing { rule: index, match_number: state.progress.matched, key, draw, outcome: None });
        match &mut self.replay {
            Some(replay) => replay.force(index, &unit.request, unit.touch, unit.address(), rule.trigger.key),
            None => firing,
        }
    }

    /// A misdirected request has to go somewhere.
    fn has_a_target(&self, rule: &Rule, sector: u64, sectors: u64) -> bool {
        let Action::Misdirect { to, .. } = rule.action else { return true };
        let target = to.of(sector);
        target != Some(sector)
            && target.and_then(|to| to.checked_add(sectors)).is_some_and(|end| end <= self.capacity_sectors)
    }

    fn count_touch(&mut self, key: TouchKey) -> u64 {
        let touch = self.touches.entry(key).or_insert(0);
        *touch += 1;
        *touch
    }

    fn enter_stage(&mut self, script: &Script, unit: &Unit, played: &mut Played, mut firing: Firing) {
        let rule = &script.rules[firing.rule as usize];
        let stage = rule.action.stage();
        let state = &mut self.rules[firing.rule as usize];
        let fails_anyway = played.overruled.as_ref().filter(|_| matches!(stage, Stage::Transfer | Stage::Status));
        match played.winner(stage) {
            _ if fails_anyway.is_some() => {
                state.shadowed += 1;
                firing.outcome = fails_anyway.cloned().map(|by| Outcome::Shadowed { by });
            }
            _ if !rule.action.competes() => {
                state.carried_out += 1;
                if let Action::Set(values) = &rule.action {
                    firing.outcome = Some(Outcome::Set(values.clone()));
                }
            }
            Some(winner) => {
                state.shadowed += 1;
                let by = script.rules[played.firings[winner].rule as usize].id.clone();
                firing.outcome = Some(Outcome::Shadowed { by });
            }
            None => {
                state.carried_out += 1;
                state.stick(rule, &unit.request);
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
        if played.overruled.is_some() {
            return Piece { moves: Moves::Prefix { bytes: 0 }, status: Status::IOERR, ..piece };
        }
        if let Some(firing) = transfer {
            let index = played.firings[firing].rule;
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
                Action::Torn { unit: size, keep } => {
                    let drawn = self.rules[index as usize].action.as_ref().map(|(_, draws)| draws);
                    let kept = tear::kept(*size, keep, unit.bytes(), drawn, played.firings[firing].key);
                    if drawn.is_some() {
                        self.draw(&mut played.firings[firing]);
                    }
                    piece.moves = Moves::Torn { kept: kept.clone() };
                    played.settle(firing, Outcome::Torn { kept });
                }
                Action::Misdirect { to, original } => {
                    let to_sector = to.of(sector).expect("a rule without a target does not fire");
                    let original_written = *original == Original::Written;
                    piece.moves = Moves::Misdirected { to_sector, original_written };
                    played.settle(firing, Outcome::Misdirect { to_sector });
                }
                Action::Corrupt { damage, place } => {
                    let (_, draws) = self.rules[index as usize].action.as_ref().expect("prepared for every corruption");
                    let sectors = self.affected(script, index, &unit.request);
                    played.settle(firing, Outcome::Corrupt { sectors: sectors.clone() });
                    let (rule, media, draws) = (RuleIndex(index), *place == Where::Media, draws.clone());
                    piece.moves = Moves::Corrupt(Corruption { rule, media, sectors, damage: *damage, draws });
                }
                Action::Stale { versions } => {
                    let sectors = self.affected(script, index, &unit.request);
                    piece.moves = Moves::Stale { versions: *versions, sectors };
                    played.settle(firing, Outcome::Stale { versions: *versions });
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

    /// Sectors of a request that the rule is about: those in its ranges, and those that are bad by it.
    fn affected(&self, script: &Script, rule: u32, request: &Request) -> Vec<(u64, u64)> {
        let (state, rule) = (&self.rules[rule as usize], &script.rules[rule as usize]);
        let (start, end) = (request.sector, request.sector + request.sectors);
        if state.everywhere {
            return vec![(start, end)];
        }
        let bad = state.bad.within(start, end);
        let matched = if rule.is_latent() { Vec::new() } else { rule.matched_sectors(start, request.sectors) };
        Ranges::of(bad.into_iter().chain(matched)).list().to_vec()
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
    ) -> (Work, Vec<BTreeMap<String, String>>) {
        let index = played.firings[firing].rule;
        let Action::Split { cut, order } = &script.rules[index as usize].action else {
            unreachable!("the caller found a split")
        };
        let sectors = cut.lengths(unit.request.sectors);
        let order = self.child_order(*order, sectors.len() as u32, &mut played.firings[firing]);
        let (mut pieces, sets) = self.decide_children(script, unit, index, &sectors, counts, log);
        played.settle(firing, Outcome::Split { sectors, order: order.clone() });
        if let Some(firing) = played.winner(Stage::Status)
            && let Action::Error { status, .. } = &script.rules[played.firings[firing].rule as usize].action
        {
            pieces.iter_mut().for_each(|piece| fail(piece, *status));
            let moved_bytes = pieces.iter().map(moved_bytes).sum();
            played.settle(firing, Outcome::Error { status: status.0, moved_bytes });
        }
        (Work::Split { rule: RuleIndex(index), pieces, order }, sets)
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
    ) -> (Vec<Piece>, Vec<BTreeMap<String, String>>) {
        let mut sets = Vec::new();
        let candidates = std::mem::take(&mut self.rules[split as usize].children);
        let mut pieces = Vec::with_capacity(lengths.len());
        let mut sector = parent.request.sector;
        for (child, &sectors) in (0u32..).zip(lengths) {
            let request = Request { sector, sectors, ..parent.request };
            let mut unit = Unit { seq: parent.seq, request, split: Some(split), child: Some(child), touch: 0 };
            let mut played = self.play(script, &mut unit, &candidates, counts);
            pieces.push(self.resolve_piece(script, &unit, &mut played));
            sets.append(&mut sets_of(script, &played));
            log.extend(played.firings.into_iter().map(|firing| record(script, &unit, firing)));
            sector += sectors;
        }
        self.rules[split as usize].children = candidates;
        (pieces, sets)
    }

    /// A write heals what it reaches.
    fn heal_by(&mut self, request: &Request, work: &Work) {
        if self.healed_by_writes.is_empty() || !OpSet::CHANGING.has(request.op) {
            return;
        }
        let pieces = match work {
            Work::Whole(piece) => std::slice::from_ref(piece),
            Work::Split { pieces, .. } => pieces,
        };
        for (start, end) in pieces.iter().flat_map(rewritten) {
            for index in &self.healed_by_writes {
                self.rules[*index as usize].bad.remove(start, end);
            }
        }
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
        self.script.rules.iter().zip(&self.rules).filter(|(_, state)| !state.removed).map(counters).collect()
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
    fn new(rule: &Rule, seed: u64) -> RuleState {
        let key = rule.trigger.key;
        let draws = |purpose, key| Draws::new(seed, &rule.id, purpose, key);
        let action = match rule.action {
            Action::Delay { length: Length::Drawn(_), .. } => Some((Purpose::Delay, key)),
            Action::Error { transfer: Transfer::Random, .. } => Some((Purpose::Transfer, key)),
            Action::Split { order: ChildOrder::Shuffle, .. } => Some((Purpose::Order, key)),
            Action::Torn { keep: Keep::Prefix | Keep::Suffix | Keep::Random, .. } => Some((Purpose::Tear, key)),
            // Keyed by what the sector holds.
            Action::Corrupt { .. } => Some((Purpose::Damage, Key::Address)),
            // A window has no address, only a number.
            Action::Reorder { policy: Policy::Shuffle, .. } => Some((Purpose::Order, Key::Ordinal)),
            _ => None,
        };
        let mut bad = Ranges::default();
        if rule.is_latent() {
            bad = Ranges::of(rule.matched_sectors(0, u64::MAX));
        }
        RuleState {
            progress: Progress::default(),
            carried_out: 0,
            shadowed: 0,
            probability: rule.trigger.probability.map(|_| draws(Purpose::Probability, key)),
            action: action.map(|(purpose, key)| (purpose, draws(purpose, key))),
            children: Vec::new(),
            window: Window::default(),
            holding: false,
            bad,
            everywhere: false,
            healed_for_good: false,
            removed: false,
        }
    }

    /// Whether the rule acts on a request because it has fired before.
    fn sticks_to(&self, rule: &Rule, request: &Request) -> bool {
        let Request { op, sector, sectors, .. } = *request;
        let touches = self.everywhere || self.bad.meet(sector, sector.saturating_add(sectors));
        touches && rule.matches.op.has(op) && sectors >= rule.action.least_sectors()
    }

    /// The rule was carried out on a request: what of it lasts.
    fn stick(&mut self, rule: &Rule, request: &Request) {
        let (start, end) = (request.sector, request.sector.saturating_add(request.sectors));
        match &rule.scope {
            Scope::Request => {}
            Scope::Device => self.everywhere = true,
            Scope::Sticky { .. } if self.healed_for_good => {}
            Scope::Sticky { sectors: StickySectors::Request, .. } => self.bad.add(start, end),
            // What was bad from the start and has been healed does not go bad again.
            Scope::Sticky { .. } if rule.is_latent() => {}
            Scope::Sticky { .. } => {
                let matched = rule.matched_sectors(start, request.sectors);
                matched.into_iter().for_each(|(start, end)| self.bad.add(start, end));
            }
        }
    }

    /// Nothing of the rule lasts any more.
    fn heal(&mut self) {
        self.bad.clear();
        self.everywhere = false;
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
    match &piece.moves {
        Moves::All | Moves::Misdirected { .. } | Moves::Corrupt(_) | Moves::Stale { .. } => {
            piece.sectors * SECTOR_BYTES
        }
        Moves::Prefix { bytes } => *bytes,
        Moves::Torn { kept } => kept.iter().map(|stretch| stretch.1 - stretch.0).sum(),
        Moves::Lost => 0,
    }
}

/// Sectors that a write leaves with new content, whole ones only.
fn rewritten(piece: &Piece) -> Vec<(u64, u64)> {
    let stretches = match &piece.moves {
        Moves::All | Moves::Corrupt(_) | Moves::Misdirected { original_written: true, .. } => {
            vec![(0, piece.sectors * SECTOR_BYTES)]
        }
        Moves::Prefix { bytes } => vec![(0, *bytes)],
        Moves::Torn { kept } => kept.clone(),
        Moves::Lost | Moves::Misdirected { .. } | Moves::Stale { .. } => Vec::new(),
    };
    let whole = |(start, end): (u64, u64)| (start.div_ceil(SECTOR_BYTES), end / SECTOR_BYTES);
    let in_place = |(start, end): (u64, u64)| (piece.sector + start, piece.sector + end);
    stretches.into_iter().map(whole).filter(|(start, end)| start < end).map(in_place).collect()
}

/// What the `set` rules among the firings set, in file order.
fn sets_of(script: &Script, played: &Played) -> Vec<BTreeMap<String, String>> {
    let values = |firing: &Firing| match &script.rules[firing.rule as usize].action {
        Action::Set(values) => Some(values.clone()),
        _ => None,
    };
    played.firings.iter().filter_map(values).collect()
}

/// A power cut comes after everything else, and there is one at most.
fn last_the_cut(device: &mut Vec<DeviceAction>) {
    let is_cut = |action: &DeviceAction| matches!(action, DeviceAction::PowerCut(_));
    if let Some(first) = device.iter().position(is_cut) {
        let cut = device.remove(first);
        device.retain(|action| !is_cut(action));
        device.push(cut);
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
