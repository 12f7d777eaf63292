//! Which of a rule's matches fire. Counters advance here and nowhere else.

use std::collections::{BTreeMap, BTreeSet};

use crate::event::{Draw, Key, Purpose};
use crate::random::{DrawKey, Draws, happens};
use crate::rule::{Point, Rule};

/// What the whole device had seen at some moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub requests: u64,
    pub writes: u64,
    pub flushes: u64,
    pub bytes: u64,
    pub elapsed_ms: u64,
}

/// What points are compared with while one request is decided.
#[derive(Debug)]
pub struct Moment<'e> {
    /// Without the request.
    pub before: Counts,
    /// With it.
    pub with: Counts,
    pub marks: &'e BTreeSet<String>,
    pub states: &'e BTreeMap<String, String>,
}

impl Point {
    pub fn is_reached(&self, matches: u64, counts: &Counts, marks: &BTreeSet<String>) -> bool {
        match self {
            Point::Matches(n) => matches >= *n,
            Point::Requests(n) => counts.requests >= *n,
            Point::Writes(n) => counts.writes >= *n,
            Point::Flushes(n) => counts.flushes >= *n,
            Point::Bytes(n) => counts.bytes >= *n,
            Point::Ms(n) => counts.elapsed_ms >= *n,
            Point::Mark(name) => marks.contains(name),
        }
    }
}

/// How far a rule has come.
#[derive(Debug, Default)]
pub struct Progress {
    /// Matches, whatever the trigger said.
    pub matched: u64,
    /// Matches in the right states and between `after` and `until`: what `nth` and `every` count.
    pub in_window: u64,
    /// Times the whole trigger said yes: what `limit` counts. Whether the rule then won its stage does not matter, so
    /// that no other rule can shift it.
    pub triggered: u64,
}

/// What is drawn for one match.
pub struct Drawing<'d> {
    pub draws: Option<&'d Draws>,
    pub address: DrawKey,
    /// By what the request is in the file system.
    pub file: Option<DrawKey>,
}

impl Progress {
    /// One more match that the trigger is not asked about.
    pub fn matches(&mut self) -> Option<Vec<Draw>> {
        self.matched += 1;
        None
    }

    /// One more match. Some: it fires, having drawn this.
    pub fn fires(&mut self, rule: &Rule, moment: &Moment<'_>, drawing: &Drawing<'_>) -> Option<Vec<Draw>> {
        let matched_before = self.matched;
        self.matched += 1;
        let in_state = |(state, value): (&String, &String)| moment.states.get(state) == Some(value);
        if !rule.trigger.when.iter().all(in_state) || !self.is_open(rule, matched_before, moment) {
            return None;
        }
        self.in_window += 1;
        let trigger = &rule.trigger;
        if !trigger.nth.is_empty() && trigger.nth.binary_search(&self.in_window).is_err() {
            return None;
        }
        if trigger.every.is_some_and(|every| !self.in_window.is_multiple_of(every)) {
            return None;
        }
        let mut drawn = Vec::new();
        if let (Some(probability), Some(draws)) = (trigger.probability, drawing.draws) {
            let bits = draws.bits(self.draw_key(rule, drawing));
            if !happens(bits, probability) {
                return None;
            }
            drawn.push(Draw::new(Purpose::Probability, bits));
        }
        if trigger.limit.is_some_and(|limit| self.triggered >= limit) {
            return None;
        }
        self.triggered += 1;
        Some(drawn)
    }

    /// What the match in hand draws by.
    pub fn draw_key(&self, rule: &Rule, drawing: &Drawing<'_>) -> DrawKey {
        match rule.trigger.key {
            Key::Address => drawing.address,
            // The device knows the file system whenever a rule asks for this key; without it the address is all there is.
            Key::File => drawing.file.unwrap_or(drawing.address),
            Key::Ordinal => DrawKey::Ordinal(self.matched),
        }
    }

    /// `after` n means that n have come before this one; `until` n, that fewer than n have.
    fn is_open(&self, rule: &Rule, matched_before: u64, moment: &Moment<'_>) -> bool {
        let reached = |point: &Point| point.is_reached(matched_before, &moment.before, moment.marks);
        rule.trigger.after.as_ref().is_none_or(reached)
            && !rule.trigger.until.as_ref().is_some_and(reached)
            && !self.hold_is_over(rule, moment)
    }

    /// A hold whose point has come, with this request or before, holds no more.
    pub fn hold_is_over(&self, rule: &Rule, moment: &Moment<'_>) -> bool {
        rule.hold_point().is_some_and(|point| point.is_reached(self.matched, &moment.with, moment.marks))
    }
}
