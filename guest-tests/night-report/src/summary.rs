//! summary.json: the night in numbers, for programs and for the next night.
//!
//! docs/nightly-report.md lists the fields. They are added to, never renamed.

use crate::cards::{Absent, Status, absent, cards};
use crate::coverage::{self, Covered};
use crate::night::Night;
use crate::rate::Rate;
use night_results::Outcome;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// See the module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Version of this form: 1.
    pub summary: u32,
    /// When the night began.
    pub began: String,
    /// Why it ended; none: it is at work, or was killed.
    pub ended: Option<String>,
    /// Wall time that it has worked.
    pub worked_s: u64,
    /// Boots of a guest.
    pub boots: u64,
    /// The night in one word.
    pub result: Result,
    /// Scenarios by what came out.
    pub scenarios: Counts,
    /// Scenarios per hour of wall time.
    pub seeds_per_hour: Option<f64>,
    /// Failures among what was judged.
    pub failure_rate: Rate,
    /// What could not be judged, of all scenarios.
    pub unjudged_rate: Rate,
    /// Scenarios by series of the kernel.
    pub kernels: BTreeMap<String, Counts>,
    /// What each judge said: judge, word, how often.
    pub oracles: BTreeMap<String, BTreeMap<String, u64>>,
    /// Planted mistakes, and whether they were noticed.
    pub canaries: BTreeMap<String, bool>,
    /// Failures by signature.
    pub signatures: Vec<Seen>,
    /// What was there and is not any more.
    pub absent: Vec<Absent>,
    /// What was tried.
    pub coverage: Covered,
}

/// The night in one word, worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Result {
    /// Judged, and nothing that known.json does not have.
    NothingNew,
    /// A failure that known.json does not have.
    New,
    /// Nothing was judged: this says nothing good.
    NothingJudged,
    /// A planted mistake went unnoticed, or was not tried: nothing of this night can be trusted.
    CanaryMissed,
}

/// Scenarios by what came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All of them.
    pub run: u64,
    /// Nothing to report.
    pub plain: u64,
    /// Failures.
    pub failed: u64,
    /// Not enough was seen to say.
    pub unjudged: u64,
    /// The machine failed.
    pub infrastructure: u64,
}

/// A signature, as the next night reads it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// Its short name.
    pub id: String,
    /// Its words.
    pub text: String,
    /// New or known.
    pub status: Status,
    /// The day it was seen first.
    pub since: String,
    /// Series of the kernels it showed on.
    pub kernels: Vec<String>,
    /// How many of the judged scenarios on these kernels have it.
    pub rate: Rate,
    /// Of those that showed only sometimes when run again: how often.
    pub flaky: Option<Rate>,
    /// Why it is known.
    pub reason: Option<String>,
    /// Where it is spoken of.
    pub link: Option<String>,
    /// The first of its units.
    pub units: Vec<String>,
}

/// summary.json could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {what}; make it again from its folder with `guest-tests report DIR`, or take the file away")]
pub struct SummaryError {
    /// The file, as the caller named it.
    pub file: String,
    /// What is wrong.
    pub what: String,
}

impl Summary {
    /// The version that this program writes and reads.
    pub const VERSION: u32 = 1;

    /// Counts a night.
    pub fn of(night: &Night) -> Summary {
        let scenarios = Counts::of(night.scenarios().map(|line| line.outcome));
        Summary {
            summary: Self::VERSION,
            began: night.asked.began.clone(),
            ended: night.state.ended.clone(),
            worked_s: night.state.worked_ms / 1000,
            boots: night.state.boots,
            result: result(night, &scenarios),
            seeds_per_hour: night.seeds_per_hour(),
            failure_rate: Rate::of(scenarios.failed, scenarios.judged()),
            unjudged_rate: Rate::of(scenarios.unjudged, scenarios.run),
            scenarios,
            kernels: kernels(night),
            oracles: oracles(night),
            canaries: canaries(night),
            signatures: cards(night).iter().map(crate::cards::Card::seen).collect(),
            absent: absent(night),
            coverage: coverage::Coverage::of(night).covered(),
        }
    }

    /// Reads summary.json; `file` is what an error calls it.
    pub fn read(file: &str, text: &str) -> std::result::Result<Summary, SummaryError> {
        let error = |what: String| SummaryError { file: file.to_owned(), what };
        let mut json = serde_json::Deserializer::from_str(text);
        let summary: Summary = serde_path_to_error::deserialize(&mut json).map_err(|wrong| error(wrong.to_string()))?;
        match summary.summary {
            Self::VERSION => Ok(summary),
            other => {
                Err(error(format!("this is form {other} of summary.json; this program reads form {}", Self::VERSION)))
            }
        }
    }

    /// The text of summary.json.
    pub fn to_text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("a summary holds nothing that JSON cannot say");
        text.push('\n');
        text
    }

    /// What this night said of a signature.
    pub fn seen(&self, id: &str) -> Option<&Seen> {
        self.signatures.iter().find(|seen| seen.id == id)
    }

    /// The day it began.
    pub fn day(&self) -> &str {
        self.began.get(..10).unwrap_or(&self.began)
    }

    /// Signatures with this status.
    pub fn count(&self, status: Status) -> usize {
        self.signatures.iter().filter(|seen| seen.status == status).count()
    }

    /// Signatures that showed only sometimes.
    pub fn flaky(&self) -> usize {
        self.signatures.iter().filter(|seen| seen.flaky.is_some()).count()
    }

    /// Known ones that are gone.
    pub fn fixed(&self) -> usize {
        self.absent.iter().filter(|absent| absent.known && absent.fixed).count()
    }
}

impl Counts {
    fn of(outcomes: impl Iterator<Item = Outcome>) -> Counts {
        outcomes.fold(Counts::default(), |mut counts, outcome| {
            counts.run += 1;
            *match outcome {
                Outcome::Plain => &mut counts.plain,
                Outcome::Failed => &mut counts.failed,
                Outcome::Unjudged => &mut counts.unjudged,
                Outcome::Infrastructure => &mut counts.infrastructure,
            } += 1;
            counts
        })
    }

    /// Those of which something can be said.
    pub fn judged(&self) -> u64 {
        self.plain + self.failed
    }
}

/// The worst that is true. A night of canaries alone that were all noticed did what it was asked.
fn result(night: &Night, scenarios: &Counts) -> Result {
    let missed = !night.missed_canaries().is_empty();
    match scenarios.judged() {
        _ if missed => Result::CanaryMissed,
        0 if !night.asked.canary_only => Result::NothingJudged,
        _ if cards(night).iter().any(|card| card.status == Status::New) => Result::New,
        _ => Result::NothingNew,
    }
}

fn canaries(night: &Night) -> BTreeMap<String, bool> {
    let noticed = night.canaries().map(|line| (line.unit.to_string(), line.outcome == Outcome::Plain));
    let missed = night.missed_canaries().into_iter().map(|(unit, _)| (unit.to_string(), false));
    noticed.chain(missed).collect()
}

fn kernels(night: &Night) -> BTreeMap<String, Counts> {
    let mut by_series: BTreeMap<String, Vec<Outcome>> = BTreeMap::new();
    for line in night.scenarios() {
        by_series.entry(line.series.clone()).or_default().push(line.outcome);
    }
    by_series.into_iter().map(|(series, outcomes)| (series, Counts::of(outcomes.into_iter()))).collect()
}

/// What each judge said. `not_applicable` and `not_run` stand for themselves: neither is a pass.
fn oracles(night: &Night) -> BTreeMap<String, BTreeMap<String, u64>> {
    let mut said: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for (judge, word) in night.scenarios().filter_map(|line| line.oracles.as_ref()).flatten() {
        *said.entry(judge.clone()).or_default().entry(word.clone()).or_default() += 1;
    }
    said
}
