//! Plays a script against requests. All state of a run is here: counters, windows, points, touches.

use std::sync::Arc;

use serde::Serialize;

use crate::decision::{Decision, Gate, Moves, Piece, RuleIndex, Status, UsedLen, Work};
use crate::event::{Header, Record};
use crate::request::{Arrival, Op, Request};
use crate::script::Script;

/// Says without a lock whether a request can matter to the engine. Immutable; clones share.
#[derive(Clone, Debug)]
pub struct Filter {
    ops: u8,
}

impl Filter {
    /// False: no rule, point or counter can care about this request, and the engine need not be asked.
    #[inline]
    pub fn may_match(&self, op: Op, _sector: u64, _sectors: u64, _queue: u16) -> bool {
        self.ops & (1 << op as u8) != 0
    }
}

/// The state of one run. The device keeps it behind one short lock.
#[derive(Debug)]
pub struct Engine {
    #[expect(dead_code, reason = "read as soon as rules are played")]
    script: Arc<Script>,
    seed: u64,
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

impl Engine {
    /// A fresh run. The seed is `seed_override`, else the script's, else 0.
    pub fn new(script: Arc<Script>, seed_override: Option<u64>) -> Engine {
        let seed = seed_override.or(script.seed()).unwrap_or(0);
        Engine { script, seed }
    }

    /// The seed of this run.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// First line of decisions.jsonl.
    pub fn header(&self, queues: u16) -> Header {
        Header { decisions: 1, seed: self.seed, queues, deterministic: true, why: Vec::new(), rules: Vec::new() }
    }

    /// The lock-free test in front of `decide`.
    pub fn filter(&self) -> Filter {
        Filter { ops: 0 }
    }

    /// Decides one request. Call it in rising order of `arrival.seq`; requests the filter turned away may be left out.
    pub fn decide(&mut self, _arrival: Arrival, request: &Request) -> Decision {
        let piece = Piece {
            sector: request.sector,
            sectors: request.sectors,
            moves: Moves::All,
            status: Status::OK,
            used_len: UsedLen::Honest,
        };
        Decision { gate: Gate::Open, work: Work::Whole(piece), released: Vec::new(), log: Vec::new() }
    }

    /// Closes a reorder window whose `max_wait_ms` have passed. Later requests of the rule open the next one.
    pub fn close_window(&mut self, _rule: RuleIndex, _window: u64) -> ClosedWindow {
        ClosedWindow { order: Vec::new(), record: None }
    }

    /// The mark `name` was set, before the request with the next `seq`. Gives the holds it releases.
    pub fn mark(&mut self, _name: &str, _seq: u64, _elapsed_ms: u64) -> Vec<RuleIndex> {
        Vec::new()
    }

    /// Finds the `hold` rule whose requests the user wants released now. Later matches of it are held again.
    pub fn release(&mut self, _rule_id: &str) -> Option<RuleIndex> {
        None
    }

    /// The id of a rule.
    pub fn rule_id(&self, _rule: RuleIndex) -> &str {
        ""
    }

    /// Counters of all rules, in file order.
    pub fn counters(&self) -> Vec<RuleCounters> {
        Vec::new()
    }

    /// Every `expect.fired` that does not hold at this moment.
    pub fn unmet(&self) -> Vec<Unmet> {
        Vec::new()
    }
}
