//! The gate stage: delays, holds, and windows of requests that are answered in another order.

use super::{Engine, Firing, Played, Unit, record};
use crate::decision::{Gate, RuleIndex};
use crate::event::{Draw, Outcome, Record};
use crate::random::DrawKey;
use crate::replay::{Closed, Placed};
use crate::rule::{Action, HoldUntil, Length, Policy, Stage};
use crate::script::Script;

/// A reorder window that was closed before it was full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClosedWindow {
    /// Slots in the order in which they are to be answered; empty if the window was closed already.
    pub order: Vec<u32>,
    /// The `reorder_starved` line for decisions.jsonl.
    pub record: Option<Record>,
}

/// What `Gate::Hold::max_ms` says of a hold that no time ends: a century.
const UNTIL_RESET_MS: u64 = 3_155_760_000_000;

impl Engine {
    pub(super) fn resolve_gate(&mut self, script: &Script, unit: &Unit, played: &mut Played) -> Gate {
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
                let placed = self.replay.as_mut().and_then(|replay| replay.place_in_window(&played.firings[firing]));
                let Placed { window, slot, order, draw } =
                    placed.unwrap_or_else(|| self.place_in_window(index, *size, *policy));
                played.firings[firing].draw.extend(draw);
                played.settle(firing, Outcome::Reorder { window, slot, order: order.clone() });
                self.remember_last(script, (index, window), unit, &played.firings[firing]);
                Gate::Reorder { rule, window, slot, order, max_wait_ms: *max_wait_ms, when: *when }
            }
            _ => unreachable!("only delay, hold and reorder are in the gate stage"),
        }
    }

    fn place_in_window(&mut self, rule: u32, size: u32, policy: Policy) -> Placed {
        let state = &mut self.rules[rule as usize].window;
        let (window, slot) = (state.number, state.filled);
        state.filled += 1;
        if state.filled < size {
            return Placed { window, slot, order: None, draw: Vec::new() };
        }
        let order = Some(self.end_window(rule, policy));
        Placed { window, slot, order, draw: self.order_draws(rule, policy, window) }
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

    /// What the order of a window was drawn from, if it was.
    fn order_draws(&self, rule: u32, policy: Policy, window: u64) -> Vec<Draw> {
        match (policy, &self.rules[rule as usize].action) {
            (Policy::Shuffle, Some((purpose, draws))) => {
                vec![Draw::new(*purpose, draws.bits(DrawKey::Ordinal(window)))]
            }
            _ => Vec::new(),
        }
    }

    fn remember_last(&mut self, script: &Script, (rule, window): (u32, u64), unit: &Unit, firing: &Firing) {
        let outcome = firing.outcome.clone();
        let last = Firing {
            rule,
            match_number: firing.match_number,
            key: firing.key,
            draw: Vec::new(),
            outcome,
            recorded: None,
        };
        let last = record(script, unit, last);
        if let Some(replay) = &mut self.replay {
            replay.remember_last(rule, window, last.clone());
        }
        self.rules[rule as usize].window.last = Some(last);
    }

    /// Closes a reorder window whose `max_wait_ms` have passed. Later requests of the rule open the next one.
    pub fn close_window(&mut self, rule: RuleIndex, window: u64) -> ClosedWindow {
        let closed = ClosedWindow { order: Vec::new(), record: None };
        let Some(state) = self.rules.get_mut(rule.0 as usize) else { return closed };
        let Action::Reorder { policy, .. } = self.script.rules[rule.0 as usize].action else { return closed };
        let forced = self.replay.as_mut().and_then(|replay| replay.close_window(rule.0, window));
        if let Some(Closed { order, draw, last }) = forced {
            let outcome = Outcome::ReorderStarved { window, order: order.clone() };
            return ClosedWindow { order, record: last.map(|last| Record { outcome, draw, ..last }) };
        }
        if state.window.number != window || state.window.filled == 0 {
            return closed;
        }
        let last = state.window.last.take();
        let order = self.end_window(rule.0, policy);
        let draw = self.order_draws(rule.0, policy, window);
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
}
