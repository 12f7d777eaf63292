//! The search: one best scenario, and candidates that are tried against it.

use crate::tidy::{ops, rules, tidy};
use crate::{Hits, Oracle};
use serde_json::Value;
use std::collections::BTreeSet;
use std::ops::Range;

/// A smaller scenario that was found to fail.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What was done to the one before it.
    pub what: String,
    /// The scenario.
    pub scenario: Value,
    /// The run that showed it, from 1.
    pub run: usize,
}

/// Why the search is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended<S> {
    /// Nothing more can be left out.
    Smallest,
    /// The runs are used up.
    Budget,
    /// The oracle stopped it.
    Stopped(S),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Reduced<S> {
    /// The smallest that failed; without steps the one it began with.
    pub scenario: Value,
    /// What the script did in it.
    pub hits: Hits,
    /// How it came to that, in order.
    pub steps: Vec<Step>,
    /// Runs it took.
    pub runs: usize,
    /// Why it is over.
    pub ended: Ended<S>,
}

/// Makes `start`, which fails with these hits, smaller, in at most `budget` runs.
pub fn reduce<O: Oracle>(start: Value, hits: Hits, oracle: &mut O, budget: usize) -> Reduced<O::Stop> {
    let mut search =
        Search { oracle, best: start, hits, tried: BTreeSet::new(), steps: Vec::new(), runs: 0, budget, rounds: 0 };
    search.tried.insert(search.best.to_string());
    let ended = match search.all_rounds() {
        Ok(()) => Ended::Smallest,
        Err(Over::Budget) => Ended::Budget,
        Err(Over::Stopped(why)) => Ended::Stopped(why),
    };
    Reduced { scenario: search.best, hits: search.hits, steps: search.steps, runs: search.runs, ended }
}

/// The search cannot go on.
pub enum Over<S> {
    Budget,
    Stopped(S),
}

/// See the module.
pub struct Search<'o, O: Oracle> {
    oracle: &'o mut O,
    /// The smallest that fails.
    pub best: Value,
    /// What its script did.
    pub hits: Hits,
    /// Everything that was proposed: nothing is run twice.
    tried: BTreeSet<String>,
    steps: Vec<Step>,
    runs: usize,
    budget: usize,
    /// Rounds that are over.
    pub rounds: usize,
}

/// What a pass gives: whether it found something smaller.
pub type Passed<O> = Result<bool, Over<<O as Oracle>::Stop>>;

impl<O: Oracle> Search<'_, O> {
    /// Rounds of all passes until one finds nothing.
    fn all_rounds(&mut self) -> Result<(), Over<O::Stop>> {
        loop {
            let before = self.steps.len();
            self.expectations()?;
            self.fewer_rules()?;
            if self.rounds == 0 {
                self.fire_always()?;
            }
            self.fewer_writers()?;
            self.fewer_operations()?;
            self.explicit_hits()?;
            self.narrower_matches()?;
            self.smaller_operations()?;
            self.simpler_shape()?;
            self.rounds += 1;
            if self.steps.len() == before {
                return Ok(());
            }
        }
    }

    /// Tries a candidate; true: it is the best now.
    pub fn attempt(&mut self, what: impl Into<String>, candidate: Value) -> Passed<O> {
        let candidate = tidy(candidate);
        if !self.tried.insert(candidate.to_string()) || !self.oracle.is_valid(&candidate) {
            return Ok(false);
        }
        if self.runs == self.budget {
            return Err(Over::Budget);
        }
        self.runs += 1;
        let Some(hits) = self.oracle.fails(&candidate).map_err(Over::Stopped)? else { return Ok(false) };
        self.steps.push(Step { what: what.into(), scenario: candidate.clone(), run: self.runs });
        self.best = candidate;
        self.hits = hits;
        Ok(true)
    }

    /// Leaves out items of a list, in halves first and one by one at last, from the back: what comes after a failure is
    /// needed least.
    pub fn fewer(
        &mut self,
        what: &str,
        count: fn(&Value) -> usize,
        without: impl Fn(&Value, Range<usize>) -> Value,
    ) -> Passed<O> {
        let before = self.steps.len();
        let mut chunk = count(&self.best).div_ceil(2).max(1);
        loop {
            let found_before = self.steps.len();
            let mut end = count(&self.best);
            while end > 0 {
                let start = end.saturating_sub(chunk);
                self.attempt(format!("{} {what} fewer", end - start), without(&self.best, start..end))?;
                end = start;
            }
            match chunk {
                1 if self.steps.len() == found_before => return Ok(self.steps.len() > before),
                1 => {}
                _ => chunk = chunk.div_ceil(2),
            }
        }
    }

    /// What a scenario expects matters only where not meeting it is the failure.
    fn expectations(&mut self) -> Passed<O> {
        let mut candidate = self.best.clone();
        if let Some(scenario) = candidate.as_object_mut() {
            scenario.remove("expect");
        }
        if let Some(script) = candidate.get_mut("faults").and_then(Value::as_object_mut) {
            script.remove("expect");
        }
        self.attempt("no expectations", candidate)
    }

    fn fewer_operations(&mut self) -> Passed<O> {
        self.fewer("operations", ops, |scenario, range| {
            let mut candidate = scenario.clone();
            if let Some(Value::Array(ops)) = candidate.get_mut("workload") {
                ops.drain(range);
            }
            candidate
        })
    }

    fn fewer_rules(&mut self) -> Passed<O> {
        let fired = self.only_what_fired();
        let found = self.attempt("rules and events that never fired left out", fired)?;
        Ok(self.fewer("rules or events", rules, crate::rules::without)? || found)
    }

    fn only_what_fired(&self) -> Value {
        let idle: Vec<usize> = (0..rules(&self.best))
            .filter(|&place| crate::rules::id(&self.best, place).is_none_or(|id| !self.hits.contains_key(id)))
            .collect();
        idle.into_iter()
            .rev()
            .fold(self.best.clone(), |candidate, place| crate::rules::without(&candidate, place..place + 1))
    }
}
