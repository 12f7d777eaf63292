//! Failures by signature: new or known, since when, how often, and what is known but did not show.

use crate::night::{Night, signature};
use crate::rate::Rate;
use crate::summary::{Seen, Summary};
use night_results::{Again, Known, Outcome, ResultLine, Signature, Unit};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Units that a summary names of one signature; the ledger has all.
const NAMED: usize = 20;

/// What becomes of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// No entry of known.json covers it.
    New,
    /// One does.
    Known,
}

/// One signature, with all units that have it.
#[derive(Clone, Debug)]
pub struct Card<'a> {
    /// Its words.
    pub signature: Signature,
    /// New or known.
    pub status: Status,
    /// The entry that covers it.
    pub known: Option<&'a Known>,
    /// An entry that would, had its day not come.
    pub expired: Option<&'a Known>,
    /// When it was seen first, of all nights at hand.
    pub since: String,
    /// It was there last night; none: there was none.
    pub last_night: Option<bool>,
    /// Units, in a night's order.
    pub lines: Vec<&'a ResultLine>,
    /// How many of the judged scenarios on its kernels have it.
    pub rate: Rate,
}

/// Something that was there and is not any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Absent {
    /// Its short name.
    pub id: String,
    /// Its words.
    pub text: String,
    /// known.json has it.
    pub known: bool,
    /// It should have shown: absent for a reason. Otherwise too little was run to say.
    pub fixed: bool,
    /// What that rests on, in a sentence.
    pub why: String,
}

impl Card<'_> {
    /// It showed sometimes: of how many tries.
    pub fn flaky(&self) -> Option<Rate> {
        let triages = self.lines.iter().filter_map(|line| line.triage.as_ref());
        let flaky: Vec<_> = triages.filter(|triage| triage.again == Again::Flaky).collect();
        let sum = |of: fn(&night_results::Triage) -> u32| flaky.iter().map(|triage| u64::from(of(triage))).sum();
        (!flaky.is_empty()).then(|| Rate::of(sum(|triage| triage.shown), sum(|triage| triage.tried)))
    }

    /// Series of the kernels that it showed on.
    pub fn kernels(&self) -> BTreeSet<&str> {
        self.lines.iter().map(|line| line.series.as_str()).collect()
    }

    /// What the next night is told of it.
    pub fn seen(&self) -> Seen {
        Seen {
            id: self.signature.id.clone(),
            text: self.signature.text.clone(),
            status: self.status,
            since: self.since.clone(),
            kernels: self.kernels().into_iter().map(str::to_owned).collect(),
            rate: self.rate,
            flaky: self.flaky(),
            reason: self.known.map(|known| known.reason.clone()),
            link: self.known.map(|known| known.link.clone()),
            units: self.lines.iter().take(NAMED).map(|line| line.unit.to_string()).collect(),
        }
    }
}

/// All failures by signature: the new ones first, then by how many units have it.
pub fn cards(night: &Night) -> Vec<Card<'_>> {
    let mut by_id: BTreeMap<(Status, String), Vec<(&ResultLine, Signature)>> = BTreeMap::new();
    for line in night.that_are(Outcome::Failed) {
        let signature = signature(line);
        // On one kernel it may be known, on another not: then it is both, each with its units.
        let status = if covering(night, &signature, line).is_some() { Status::Known } else { Status::New };
        by_id.entry((status, signature.id.clone())).or_default().push((line, signature));
    }
    let mut cards: Vec<Card<'_>> = by_id.into_iter().map(|((status, _), lines)| card(night, status, lines)).collect();
    cards.sort_by_key(|card| (card.status, std::cmp::Reverse(card.lines.len()), card.signature.id.clone()));
    cards
}

fn covering<'a>(night: &'a Night, signature: &Signature, line: &ResultLine) -> Option<&'a Known> {
    night.known.iter().find(|known| known.covers(signature, &line.series, night.asked.day()))
}

fn card<'a>(night: &'a Night, status: Status, lines: Vec<(&'a ResultLine, Signature)>) -> Card<'a> {
    let signature = lines[0].1.clone();
    let known = lines.iter().find_map(|(line, signature)| covering(night, signature, line));
    let lines: Vec<&ResultLine> = lines.into_iter().map(|(line, _)| line).collect();
    let earlier = |summary: &&Summary| summary.seen(&signature.id).is_some();
    let kernels: BTreeSet<&str> = lines.iter().map(|line| line.series.as_str()).collect();
    Card {
        status,
        known,
        expired: night.known.iter().find(|known| known.names(&signature) && known.expired(night.asked.day())),
        since: since(night, &signature),
        last_night: night.last().map(|last| earlier(&last)),
        rate: Rate::of(lines.len() as u64, judged_on(night, &kernels)),
        signature,
        lines,
    }
}

/// The earliest night that saw it; a summary says so even of nights that are gone.
fn since(night: &Night, signature: &Signature) -> String {
    let earlier = night.before.iter().filter_map(|summary| summary.seen(&signature.id));
    let first = earlier.map(|seen| seen.since.as_str()).min();
    first.unwrap_or(night.asked.day()).to_owned()
}

/// Scenarios that were judged on these kernels.
fn judged_on(night: &Night, kernels: &BTreeSet<&str>) -> u64 {
    let judged = |line: &&ResultLine| {
        matches!(line.outcome, Outcome::Plain | Outcome::Failed) && kernels.contains(line.series.as_str())
    };
    night.scenarios().filter(judged).count() as u64
}

/// Below this chance of missing it a failure that did not show is said to be fixed.
const CHANCE: f64 = 0.05;

/// What was there last night, or is known and was there in any night, and did not show.
pub fn absent(night: &Night) -> Vec<Absent> {
    let here: BTreeMap<String, Signature> =
        night.that_are(Outcome::Failed).map(signature).map(|signature| (signature.id.clone(), signature)).collect();
    let mut absent: BTreeMap<String, Absent> = BTreeMap::new();
    // The newest word on each counts.
    for (place, summary) in night.before.iter().enumerate().rev() {
        let is_last = place + 1 == night.before.len();
        for seen in summary.signatures.iter().filter(|seen| !here.contains_key(&seen.id)) {
            let signature = Signature { id: seen.id.clone(), text: seen.text.clone(), with: Vec::new() };
            let known = night.known.iter().any(|known| known.names(&signature) && !known.expired(night.asked.day()));
            if known || is_last {
                absent.entry(seen.id.clone()).or_insert_with(|| missing(night, seen, known, &signature, &here));
            }
        }
    }
    absent.into_values().collect()
}

fn missing(
    night: &Night,
    seen: &Seen,
    known: bool,
    signature: &Signature,
    here: &BTreeMap<String, Signature>,
) -> Absent {
    let (fixed, why) = match same_bug(night, signature, here) {
        Some(other) => (false, format!("the same bug showed as {} {}", other.id, other.text)),
        None => evidence(night, seen),
    };
    Absent { id: seen.id.clone(), text: seen.text.clone(), known, fixed, why }
}

/// A failure of this night that known.json gives the same link as this one: one bug may have several names.
fn same_bug<'a>(night: &Night, signature: &Signature, here: &'a BTreeMap<String, Signature>) -> Option<&'a Signature> {
    let links: BTreeSet<&str> =
        night.known.iter().filter(|known| known.names(signature)).map(|known| known.link.as_str()).collect();
    let entries = || night.known.iter().filter(|known| !known.link.is_empty() && links.contains(known.link.as_str()));
    here.values().find(|other| entries().any(|known| known.names(other)))
}

/// Whether it would have shown: its own seeds came out clean, or so much was run that chance does not explain it.
fn evidence(night: &Night, seen: &Seen) -> (bool, String) {
    let again: Vec<&ResultLine> = night.scenarios().filter(|line| is_again(&line.unit, seen)).collect();
    let clean = again.iter().filter(|line| line.outcome == Outcome::Plain).count();
    if clean > 0 && clean == again.len() && seen.flaky.is_none() {
        return (true, format!("{clean} of its units ran again and came out clean"));
    }
    let kernels: BTreeSet<&str> = seen.kernels.iter().map(String::as_str).collect();
    let judged = judged_on(night, &kernels);
    // The lower end: what it surely was.
    let chance = (1.0 - seen.rate.low).powf(judged as f64);
    let run = format!("it had {} and did not show in {judged} judged scenarios on its kernels", seen.rate.text());
    match chance < CHANCE {
        true => (true, format!("{run}: by chance at most {}", crate::rate::percent(chance))),
        false => (false, format!("{run}: too few to say that it is gone")),
    }
}

fn is_again(unit: &Unit, seen: &Seen) -> bool {
    let plain = unit.seed().map_or_else(|| unit.to_string(), |seed| seed.to_string());
    seen.units.iter().any(|name| name.strip_prefix("old/").unwrap_or(name) == plain)
}
