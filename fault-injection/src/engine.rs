//! Plays a script against requests. All state of a run is here: counters, windows, points, touches, states, bad sectors.
//!
//! This file asks the rules about a request and lets one win each stage; `gate`, `transfer` and `split` say what that
//! means; `state` is what a rule remembers, `account` what a run has come to. `live` is what happens between requests:
//! marks, events, verbs.

mod account;
mod files;
mod gate;
mod live;
mod split;
mod state;
mod transfer;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::decision::{Decision, DeviceAction, Reached, Status, Work};
pub use crate::engine::account::{RuleCounters, Unmet};
pub use crate::engine::gate::ClosedWindow;
pub use crate::engine::live::{RuleStatus, ScriptError};
use crate::engine::state::RuleState;
use crate::event::{Draw, FailClass, Header, Key, Outcome, Record};
use crate::files::{FileKey, FileTouches, Stretch, StretchRecord};
pub use crate::index::Filter;
use crate::index::Index;
use crate::power_cut::PowerCut;
use crate::random::{CutDraws, DrawKey};
use crate::replay::Replay;
use crate::request::{Arrival, Op, Request, SECTOR_BYTES};
use crate::rule::{Action, Heal, Point, Rule, Scope, Stage};
use crate::script::Script;
use crate::trigger::{Counts, Drawing, Moment};

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
    /// Which inode each path of the script is now.
    paths: BTreeMap<String, Option<u32>>,
    file_touches: FileTouches,
    /// The device says what requests are in the file system.
    knows_files: bool,
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

/// A request, or a child of one, while rules are asked about it.
struct Unit {
    seq: u64,
    request: Request,
    split: Option<u32>,
    child: Option<u32>,
    touch: u64,
    /// What it is in the file system; empty where nobody looks there.
    known: Vec<Stretch>,
    file: Option<FileKey>,
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

    /// Its parts, if it is more than one thing.
    fn stretches(&self) -> Vec<StretchRecord> {
        if self.known.len() < 2 { Vec::new() } else { self.known.iter().map(StretchRecord::from).collect() }
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
    /// Which recorded firing this is, in a replay.
    pub(crate) recorded: Option<usize>,
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
            paths: BTreeMap::new(),
            file_touches: FileTouches::default(),
            knows_files: false,
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
        // What is forced at its place does not go by its point.
        let events = &self.script.events;
        self.pending.retain(|event| matches!(events[*event].at, Point::Mark(_)));
        for (rule, state) in (0..).zip(&mut self.rules) {
            state.window.number = replay.next_window(rule);
        }
        self.replay = Some(replay);
        self.index_rules();
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
        let count_all = self.replay.as_ref().is_some_and(Replay::is_waiting);
        self.filter = if count_all { Filter::everything() } else { Filter::new(&script, self.failing) };
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
        self.decide_known(arrival, request, &[])
    }

    /// As `decide`, for a request of which it is known what it is in the file system: stretches in rising order that
    /// cover it without gaps.
    pub fn decide_known(&mut self, arrival: Arrival, request: &Request, known: &[Stretch]) -> Decision {
        let script = Arc::clone(&self.script);
        let mut early = Reached::default();
        self.forced_events(&script, (arrival.seq, false), &mut early);
        let before = Counts { requests: arrival.seq, elapsed_ms: arrival.elapsed_ms, ..self.counts };
        let with = before.and(request);
        self.counts = with;
        let mut candidates = std::mem::take(&mut self.candidates);
        self.index.candidates(request, &mut candidates);
        let unit = Unit {
            seq: arrival.seq,
            request: *request,
            split: None,
            child: None,
            touch: 0,
            known: known.to_vec(),
            file: None,
        };
        let (mut decision, sets) = self.decide_unit(&script, unit, &candidates, (before, with));
        self.candidates = candidates;
        self.heal_by(request, &decision.work);
        // After all stages, so that no rule sees what another one has just set.
        sets.into_iter().for_each(|values| self.states.extend(values));
        let reached = self.reach_points(&script, arrival.seq, true);
        decision.released = reached.released;
        decision.device.splice(..0, early.device);
        decision.device.extend(reached.device);
        decision.events = early.events;
        decision.events.extend(reached.events);
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
        if let Some(replay) = &mut self.replay {
            replay.overruled(&by, &unit.request, unit.touch, unit.file.as_ref());
        }
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
            file: unit.file.clone(),
            stretches: unit.stretches(),
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
            self.count_touch(unit);
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
                self.count_touch(unit);
            }
            let fits =
                fits && rule.fits_moment(&unit.request) && rule.fits_files(&unit.request, &unit.known, &self.paths);
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
        let file = unit.file.as_ref().map(|key| key.draw_key(&unit.request));
        let drawing = Drawing { draws: state.probability.as_ref(), address: unit.address(), file };
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
        let key = state.progress.draw_key(rule, &drawing);
        let firing = draw.map(|draw| Firing {
            rule: index,
            match_number: state.progress.matched,
            key,
            draw,
            outcome: None,
            recorded: None,
        });
        match &mut self.replay {
            Some(replay) => replay.force(index, &unit.request, (unit.touch, unit.file.as_ref()), key, rule.trigger.key),
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

    /// The request comes for the so-manieth time. Whatever the file system says it is: that may change.
    fn count_touch(&mut self, unit: &mut Unit) {
        let touch = self.touches.entry(unit.touch_key()).or_insert(0);
        *touch += 1;
        unit.touch = *touch;
        if let Some(first) = unit.known.first() {
            unit.file = Some(self.file_touches.count(unit.split, &unit.request, first));
        }
    }

    fn enter_stage(&mut self, script: &Script, unit: &Unit, played: &mut Played, mut firing: Firing) {
        let rule = &script.rules[firing.rule as usize];
        let stage = rule.action.stage();
        let sticks = matches!(rule.scope, Scope::Sticky { .. });
        let matched = if sticks { self.matched_sectors(rule, unit) } else { Vec::new() };
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
                state.stick(rule, &unit.request, matched);
                played.winners[stage as usize] = Some(played.firings.len());
            }
        }
        played.firings.push(firing);
    }

    /// Draws what the action of this rule needs, and notes it.
    fn draw(&self, firing: &mut Firing) -> u64 {
        let (purpose, draws) =
            self.rules[firing.rule as usize].action.as_ref().expect("draws were prepared for every action that draws");
        let bits = draws.bits(firing.key);
        firing.draw.push(Draw::new(*purpose, bits));
        bits
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
        file: unit.file.clone(),
        stretches: unit.stretches(),
        key: rule.trigger.key,
        draw: firing.draw,
        outcome: firing.outcome.expect("every firing is settled by its stage"),
    }
}
