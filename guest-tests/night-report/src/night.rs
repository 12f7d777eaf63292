//! A night as it is told: what was asked, what came out, what earlier nights said.

use crate::summary::Summary;
use night_results::{Canary, Known, NightJson, NightState, Outcome, ResultLine, Signature, Unit};
use std::collections::BTreeMap;

/// Everything that a report is made of.
#[derive(Clone, Debug)]
pub struct Night {
    /// night.json.
    pub asked: NightJson,
    /// state.json.
    pub state: NightState,
    /// The ledger.
    pub results: BTreeMap<Unit, ResultLine>,
    /// known.json.
    pub known: Vec<Known>,
    /// summary.json of earlier nights, oldest first; the last is what this one is held against.
    pub before: Vec<Summary>,
    /// What there is to show of a signature, by its id.
    pub shown: BTreeMap<String, Shown>,
}

/// What there is to show of a signature: of one of the units that have it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// What it is, in one sentence.
    pub sentence: String,
    /// The unit that the rest is of.
    pub unit: String,
    /// Its timeline, as an SVG element of class `excerpt`, made safe by whoever drew it; empty: none was drawn.
    pub timeline: String,
    /// Why none was.
    pub no_timeline: String,
    /// The smallest scenario that shows it, as text; none: it was not made smaller.
    pub scenario: Option<String>,
    /// Pages and files of it, each with what it is; paths below the night's folder.
    pub links: Vec<(String, String)>,
}

/// The signature of a failure that has none, so that it is not lost.
pub(crate) fn signature(line: &ResultLine) -> Signature {
    line.signature.clone().unwrap_or_else(|| {
        let what = if line.findings.is_empty() { "different".to_owned() } else { line.findings.join(", ") };
        Signature::of(format!("no signature / {what}"))
    })
}

impl Night {
    /// What was run, without the planted mistakes.
    pub fn scenarios(&self) -> impl Iterator<Item = &ResultLine> {
        self.results.values().filter(|line| !is_canary(line))
    }

    /// The planted mistakes.
    pub fn canaries(&self) -> impl Iterator<Item = &ResultLine> {
        self.results.values().filter(|line| is_canary(line))
    }

    /// Scenarios that came out so.
    pub fn that_are(&self, outcome: Outcome) -> impl Iterator<Item = &ResultLine> {
        self.scenarios().filter(move |line| line.outcome == outcome)
    }

    /// The night before.
    pub fn last(&self) -> Option<&Summary> {
        self.before.last()
    }

    /// Scenarios per hour of wall time; none: it has not worked yet.
    pub fn seeds_per_hour(&self) -> Option<f64> {
        let hours = self.state.worked_ms as f64 / 3_600_000.0;
        (hours > 0.0).then(|| (self.scenarios().count() as f64 / hours * 10.0).round() / 10.0)
    }

    /// Planted mistakes that were not shown to be noticed, with what came out of each; none: it was not run.
    pub fn missed_canaries(&self) -> Vec<(Unit, Option<&ResultLine>)> {
        let all = [Canary::Replica, Canary::Device].map(Unit::Canary);
        let missed = |unit: Unit| match self.results.get(&unit) {
            Some(line) if line.outcome == Outcome::Plain => None,
            line => Some((unit, line)),
        };
        all.into_iter().filter_map(missed).collect()
    }
}

fn is_canary(line: &ResultLine) -> bool {
    matches!(line.unit, Unit::Canary(_))
}
