//! Makes a failing scenario smaller for as long as it fails in the same way.
//!
//! Pure: it proposes scenarios as JSON and is told by an [`Oracle`] which of them still fail. It knows the formats of scenario
//! and fault script as far as it takes them apart, and neither guests nor judges. What must hold: the result is one that the
//! oracle said fails; unless the budget ended or the oracle stopped it, no rule and no operation can be left out of it.
//!
//! Runs are what costs, so the order is: rules that never fired, halves of the rest, operations, and only then details. A rule
//! that counts (`nth`, `probability`) would miss once operations before its hit are gone; so it is made to fire always where
//! that shows the same, and tied to single hits, taken from the decisions of the smaller run, when the operations are few.
#![forbid(unsafe_code)]

mod rules;
mod search;
mod shape;
mod tidy;
mod workload;
mod writers;

#[cfg(test)]
mod tests;

pub use search::{Ended, Reduced, Step, reduce};
pub use tidy::{ops, rules};

use serde_json::Value;
use std::collections::BTreeMap;

/// One firing of a rule that was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Which match of the rule it was, from 1.
    pub match_number: u64,
    /// First sector of the request.
    pub sector: u64,
    /// Its sectors; 0: it has none, as a flush.
    pub sectors: u64,
    /// How many requests of this very type, sector and length had come, this one included.
    pub touch: u64,
}

/// What the script did in a run that failed: the hits of each rule and event, in order. One that is not named did nothing.
pub type Hits = BTreeMap<String, Vec<Hit>>;

/// Says whether a scenario fails in the way that is looked for.
pub trait Oracle {
    /// Why it cannot go on: Ctrl-C, a host that is full.
    type Stop;

    /// Whether it is a scenario at all. Costs nothing, so it is asked first.
    fn is_valid(&mut self, scenario: &Value) -> bool;

    /// Runs it. None: it does not fail, or otherwise.
    fn fails(&mut self, scenario: &Value) -> Result<Option<Hits>, Self::Stop>;
}
