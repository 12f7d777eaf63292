//! Flips: a recording with one response changed, dropped, doubled or swapped, to see that a judge notices.
//!
//! A judge that says `same` of a flipped recording does not look at what was flipped. Each must come out `different` or
//! `unjudged`; the few that may not are listed in `flips-that-may-stay.toml`, each with the reason.

use super::follow::Followed;
use super::{Case, JoinError, compare, settle};
use crate::verdict::Outcome;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeSet;
use writeback_events::{Body, Entry, OpId, OpKind, Response, Stimulus};

/// One flipped recording.
#[derive(Clone, Debug)]
pub struct Flip {
    /// What was done to it: `change`, `drop`, `double`, `swap`.
    pub done: &'static str,
    /// Kind of the response, by its `ev`.
    pub ev: String,
    /// The field that was changed, if one was.
    pub field: Option<String>,
    /// Place of the response in the trace.
    pub seq: u64,
    /// The recording.
    pub entries: Vec<Entry>,
}

/// When a flip need not be noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// The operation's result does not come from writeback.
    OperationWithoutErrorReport,
    /// The replica was not sure of the operation's result.
    NotPredicted,
}

/// A kind of flip that need not be noticed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MayStay {
    /// As [`Flip::done`].
    pub done: String,
    /// As [`Flip::ev`].
    pub ev: String,
    /// When it may stay.
    pub when: When,
    /// Why.
    pub reason: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    #[serde(default)]
    may_stay: Vec<MayStay>,
}

impl MayStay {
    /// The list that goes with this program.
    pub fn built_in() -> Vec<MayStay> {
        let list: List = toml::from_str(include_str!("../../flips-that-may-stay.toml")).expect("a test reads it");
        list.may_stay
    }

    fn lists(&self, flip: &Flip, flipped: &Response, ops: &QuietOps) -> bool {
        let Response::OpResult { op, .. } = flipped else { return false };
        let quiet = match self.when {
            When::OperationWithoutErrorReport => ops.without_report.contains(op),
            When::NotPredicted => ops.not_predicted.contains(op),
        };
        quiet && self.ev == flip.ev && ["any", flip.done].contains(&self.done.as_str())
    }
}

/// What a flip test gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlipTest {
    /// Flips judged.
    pub tried: usize,
    /// Those that came out `same` or `allowed` and are not listed.
    pub unnoticed: Vec<String>,
    /// Those that came out so and are listed.
    pub listed: usize,
}

/// Flips every response of a recording that `picks` picks, and judges each. The recording itself must agree with the
/// replica: what differs beforehand hides what a flip does.
pub fn flip_test(case: &Case<'_>, picks: impl Fn(&Entry) -> bool) -> Result<FlipTest, JoinError> {
    let joined = super::joined(case)?;
    // A flip changes no stimulus, so the replica need not follow again.
    let (followed, _) = settle(case, &joined);
    let ops = QuietOps::read(case.entries, &followed);
    let may_stay = MayStay::built_in();
    let mut test = FlipTest { tried: 0, unnoticed: Vec::new(), listed: 0 };
    for (flip, flipped) in flips_with(case.entries, picks) {
        test.tried += 1;
        let verdict = compare::compare(&Case { entries: &flip.entries, ..case.clone() }, &joined, &followed).verdict;
        if matches!(verdict, Outcome::Different | Outcome::Unjudged) {
            continue;
        }
        match may_stay.iter().any(|listed| listed.lists(&flip, &flipped, &ops)) {
            true => test.listed += 1,
            false => test.unnoticed.push(flip.describe()),
        }
    }
    Ok(test)
}

/// Operations whose result nobody compares.
struct QuietOps {
    without_report: BTreeSet<OpId>,
    not_predicted: BTreeSet<OpId>,
}

impl QuietOps {
    fn read(entries: &[Entry], followed: &Followed) -> QuietOps {
        let without_report = entries.iter().filter_map(|entry| match entry.body {
            Body::Stimulus(Stimulus::OpBegins { op, kind: OpKind::Other, .. }) => Some(op),
            _ => None,
        });
        let not_predicted = followed.not_predicted.iter().map(|not| not.op);
        QuietOps { without_report: without_report.collect(), not_predicted: not_predicted.collect() }
    }
}

impl Flip {
    /// The flip in words.
    pub fn describe(&self) -> String {
        let field = self.field.as_ref().map_or_else(String::new, |field| format!(".{field}"));
        format!("{} {}{field} at {}", self.done, self.ev, self.seq)
    }
}

/// All flips of the responses that `picks` picks.
pub fn flips<'a>(entries: &'a [Entry], picks: impl Fn(&Entry) -> bool + 'a) -> impl Iterator<Item = Flip> + 'a {
    flips_with(entries, picks).map(|(flip, _)| flip)
}

/// The same, each with the response that was flipped.
fn flips_with<'a>(
    entries: &'a [Entry],
    picks: impl Fn(&Entry) -> bool + 'a,
) -> impl Iterator<Item = (Flip, Response)> + 'a {
    let places = entries.iter().enumerate().filter(move |(_, entry)| picks(entry));
    let responses = places.filter_map(|(place, entry)| match &entry.body {
        Body::Response(response) => Some((place, response)),
        _ => None,
    });
    responses.flat_map(|(place, response)| {
        flips_at(entries, place, response).into_iter().map(|flip| (flip, response.clone()))
    })
}

fn flips_at(entries: &[Entry], place: usize, response: &Response) -> Vec<Flip> {
    let ev = ev(response);
    let seq = entries[place].seq;
    let flip = |done, field, entries: Vec<Entry>| Flip { done, ev: ev.clone(), field, seq, entries };
    let mut flips = Vec::new();
    for (field, changed) in changes(response) {
        let mut entries = entries.to_vec();
        entries[place].body = Body::Response(changed);
        flips.push(flip("change", Some(field), entries));
    }
    let mut doubled = entries.to_vec();
    doubled.insert(place, entries[place].clone());
    flips.push(flip("double", None, doubled));
    if let Some(swapped) = swapped(entries, place) {
        flips.push(flip("swap", None, swapped));
    }
    let mut dropped = entries.to_vec();
    dropped.remove(place);
    flips.push(flip("drop", None, dropped));
    flips
}

/// The response and the next one change places; nothing if there is no next one or it is the same.
fn swapped(entries: &[Entry], place: usize) -> Option<Vec<Entry>> {
    let is_response = |entry: &Entry| matches!(entry.body, Body::Response(_));
    let next = (place + 1..entries.len()).find(|next| is_response(&entries[*next]))?;
    if entries[place].body == entries[next].body {
        return None;
    }
    let mut swapped = entries.to_vec();
    swapped[place].body = entries[next].body.clone();
    swapped[next].body = entries[place].body.clone();
    Some(swapped)
}

fn ev(response: &Response) -> String {
    serde_json::to_value(response)
        .ok()
        .and_then(|value| Some(value.get("ev")?.as_str()?.to_owned()))
        .expect("every response says what it is")
}

/// The response with each of its fields changed in turn.
fn changes(response: &Response) -> Vec<(String, Response)> {
    let Ok(Value::Object(fields)) = serde_json::to_value(response) else { unreachable!("a response is an object") };
    let changed = |(name, value): (&String, &Value)| {
        let mut fields = fields.clone();
        fields.insert(name.clone(), change(value)?);
        let response = serde_json::from_value(Value::Object(fields)).expect("only a value has changed, not its type");
        Some((name.clone(), response))
    };
    fields.iter().filter(|(name, _)| *name != "ev").filter_map(changed).collect()
}

fn change(value: &Value) -> Option<Value> {
    match value {
        Value::Bool(flag) => Some(Value::Bool(!flag)),
        Value::Number(number) => match number.as_i64() {
            Some(number) if number < i64::from(i32::MAX) => Some((number + 1).into()),
            Some(number) => Some((number - 1).into()),
            None => Some((number.as_u64()? - 1).into()),
        },
        other => unreachable!("a response has no field like {other}"),
    }
}
