//! What a run has come to: counters, and what was expected of them.

use super::Engine;
use super::state::RuleState;
use crate::decision::RuleIndex;
use crate::rule::Rule;
use serde::Serialize;

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
