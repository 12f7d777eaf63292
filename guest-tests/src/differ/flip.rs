//! Flips: a recording with one response changed, dropped, doubled or swapped, to see that a judge notices.
//!
//! A judge that says `same` of a flipped recording does not look at what was flipped. Each must come out `different` or
//! `unjudged`; the few that may not are listed in `flips-that-may-stay.toml`, each with the reason.

use serde::Deserialize;
use serde_json::Value;
use writeback_events::{Body, Entry, Response};

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

/// A kind of flip that need not be noticed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MayStay {
    /// As [`Flip::done`].
    pub done: String,
    /// As [`Flip::ev`].
    pub ev: String,
    /// When it may stay: a word that the test knows.
    pub when: String,
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
    /// Reads the list.
    pub fn parse(text: &str) -> Result<Vec<MayStay>, String> {
        toml::from_str::<List>(text).map(|list| list.may_stay).map_err(|error| error.to_string())
    }
}

impl Flip {
    /// The flip in words.
    pub fn describe(&self) -> String {
        let field = self.field.as_ref().map_or_else(String::new, |field| format!(".{field}"));
        format!("{} {}{field} at {}", self.done, self.ev, self.seq)
    }
}

/// All flips of the responses at the places (in `entries`) that `picks` picks.
pub fn flips<'a>(entries: &'a [Entry], picks: impl Fn(&Entry) -> bool + 'a) -> impl Iterator<Item = Flip> + 'a {
    let places = entries.iter().enumerate().filter(move |(_, entry)| picks(entry));
    places
        .filter_map(|(place, entry)| match &entry.body {
            Body::Response(response) => Some(flips_at(entries, place, response)),
            _ => None,
        })
        .flatten()
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
