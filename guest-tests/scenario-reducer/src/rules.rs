//! Smaller scripts: fewer rules, explicit hits, narrower matches.

use crate::search::{Passed, Search};
use crate::tidy::{changed, list, object, script};
use crate::{Hit, Oracle};
use serde_json::{Value, json};
use std::ops::Range;

/// More hits than this make no script that a person would read.
const HITS_MAX: usize = 100;

/// The id of the rule, or behind the rules the event, at `place`.
pub fn id(scenario: &Value, place: usize) -> Option<&str> {
    let rules = list(scenario, "rules");
    let item = rules.get(place).or_else(|| list(scenario, "events").get(place - rules.len()))?;
    item["id"].as_str()
}

/// Without these rules; places behind the rules are events.
pub fn without(scenario: &Value, places: Range<usize>) -> Value {
    let mut candidate = scenario.clone();
    let rules = list(scenario, "rules").len();
    let Some(script) = script(&mut candidate) else { return candidate };
    for place in places.rev() {
        let (key, place) = if place < rules { ("rules", place) } else { ("events", place - rules) };
        if let Some(items) = script.get_mut(key).and_then(Value::as_array_mut) {
            items.remove(place);
        }
    }
    candidate
}

/// A copy in which one rule was changed; none: that changed nothing.
fn with_rule(scenario: &Value, place: usize, change: impl FnOnce(&mut Value)) -> Option<Value> {
    changed(scenario, |candidate| {
        if let Some(rule) = candidate["faults"]["rules"].get_mut(place) {
            change(rule);
        }
    })
}

/// Ties a rule to these hits, whatever it asked for before. `nth` without anything else counts all matches.
fn tie(rule: &mut Value, hits: &[Hit]) {
    let numbers: Vec<u64> = hits.iter().map(|hit| hit.match_number).collect();
    set_nth(rule, &numbers);
    if let Some(rule) = rule.as_object_mut() {
        rule.remove("scope");
    }
}

fn set_nth(rule: &mut Value, numbers: &[u64]) {
    rule["trigger"] = match numbers {
        [only] => json!({ "nth": only }),
        several => json!({ "nth": several }),
    };
}

/// The hits a rule is tied to already; none: it is not.
fn tied_to(rule: &Value) -> Option<Vec<u64>> {
    let trigger = rule["trigger"].as_object().filter(|trigger| trigger.len() == 1)?;
    match trigger.get("nth")? {
        Value::Array(numbers) => numbers.iter().map(Value::as_u64).collect(),
        number => Some(vec![number.as_u64()?]),
    }
}

impl<O: Oracle> Search<'_, O> {
    /// A rule that fires on all it matches depends on no count, so operations before its hit can go.
    pub fn fire_always(&mut self) -> Passed<O> {
        self.each_rule("fires on every match", |rule| {
            let trigger = object(rule, "trigger");
            trigger.retain(|key, _| key == "after" || key == "when");
        })
    }

    /// Probabilities, points, lasting scopes: whatever makes a rule fire, it is tied to where it fired, and then to as few
    /// of those as will do.
    pub fn explicit_hits(&mut self) -> Passed<O> {
        let all: Vec<usize> = (0..list(&self.best, "rules").len()).collect();
        let mut found = self.tie_to_hits(&all)?;
        if !found {
            for place in all {
                found |= self.tie_to_hits(&[place])?;
            }
        }
        for place in 0..list(&self.best, "rules").len() {
            found |= self.fewer_hits(place)?;
        }
        Ok(found)
    }

    fn tie_to_hits(&mut self, places: &[usize]) -> Passed<O> {
        let mut candidate = self.best.clone();
        for &place in places {
            let rule = &mut candidate["faults"]["rules"][place];
            let hits = rule["id"].as_str().and_then(|id| self.hits.get(id)).map(Vec::as_slice).unwrap_or_default();
            let free = tied_to(rule).is_none() || rule.get("scope").is_some();
            if free && (1..=HITS_MAX).contains(&hits.len()) {
                tie(rule, hits);
            }
        }
        self.attempt("rules tied to the requests they hit", candidate)
    }

    /// One hit if one will do: the last, the first, any; else halves of them.
    fn fewer_hits(&mut self, place: usize) -> Passed<O> {
        let Some(numbers) = tied_to(&list(&self.best, "rules")[place]).filter(|numbers| numbers.len() > 1) else {
            return Ok(false);
        };
        for number in [numbers[numbers.len() - 1], numbers[0]] {
            let one = with_rule(&self.best, place, |rule| set_nth(rule, &[number]));
            if let Some(one) = one
                && self.attempt("one hit of a rule", one)?
            {
                return Ok(true);
            }
        }
        let (mut numbers, mut chunk, mut found) = (numbers.clone(), numbers.len().div_ceil(2), false);
        while chunk > 0 {
            let mut end = numbers.len();
            while end > 0 {
                let start = end.saturating_sub(chunk);
                let kept = [&numbers[..start], &numbers[end..]].concat();
                let candidate = with_rule(&self.best, place, |rule| set_nth(rule, &kept));
                if let (false, Some(candidate)) = (kept.is_empty(), candidate)
                    && self.attempt(format!("{} hits of a rule fewer", end - start), candidate)?
                {
                    (numbers, found) = (kept, true);
                }
                end = start;
            }
            chunk = if chunk == 1 { 0 } else { chunk.div_ceil(2) };
        }
        Ok(found)
    }

    /// Sectors narrowed to those that were hit; keys of a match that are not needed left out; what the device offers left
    /// as it is.
    pub fn narrower_matches(&mut self) -> Passed<O> {
        let mut found = false;
        for place in 0..list(&self.best, "rules").len() {
            found |= self.narrower_sectors(place)?;
        }
        for key in ["inflight", "queue", "overlap", "path", "inode", "class", "size"] {
            found |= self.each_rule(&format!("matches whatever the {key}"), |rule| {
                object(rule, "match").remove(key);
            })?;
        }
        found |= self.each_rule("no note", |rule| {
            rule.as_object_mut().map(|rule| rule.remove("note"));
        })?;
        for key in device_limits(&self.best) {
            let candidate = changed(&self.best, |candidate| {
                candidate["faults"]["device"].as_object_mut().map(|device| device.remove(&key));
            });
            if let Some(candidate) = candidate {
                found |= self.attempt(format!("device without {key}"), candidate)?;
            }
        }
        Ok(found)
    }

    /// A rule about ranges becomes one about the very extent of its hit.
    fn narrower_sectors(&mut self, place: usize) -> Passed<O> {
        let rule = &list(&self.best, "rules")[place];
        let hits = rule["id"].as_str().and_then(|id| self.hits.get(id)).map(Vec::as_slice).unwrap_or_default();
        let (Some(ranges), &[hit]) = (rule["match"]["sectors"].as_array(), hits) else { return Ok(false) };
        let wide = ranges.len() > 1 || ranges != &[json!([hit.sector, hit.sector + hit.sectors])];
        if !wide || hit.sectors == 0 {
            return Ok(false);
        }
        let candidate = with_rule(&self.best, place, |rule| {
            let wanted = object(rule, "match");
            wanted.insert("sectors".into(), json!([[hit.sector, hit.sector + hit.sectors]]));
            wanted.insert("overlap".into(), json!("within"));
            wanted.insert("size".into(), json!({ "min": hit.sectors, "max": hit.sectors }));
            set_nth(rule, &[hit.touch]);
        });
        candidate.map_or(Ok(false), |candidate| self.attempt("sectors narrowed to the hit", candidate))
    }

    /// The same change to every rule at once, else to one after the other.
    fn each_rule(&mut self, what: &str, change: impl Fn(&mut Value)) -> Passed<O> {
        let count = list(&self.best, "rules").len();
        let all = changed(&self.best, |candidate| {
            candidate["faults"]["rules"].as_array_mut().into_iter().flatten().for_each(&change);
        });
        if let Some(all) = all
            && self.attempt(format!("every rule: {what}"), all)?
        {
            return Ok(true);
        }
        let mut found = false;
        for place in 0..count {
            if let Some(candidate) = with_rule(&self.best, place, &change) {
                found |= self.attempt(format!("one rule: {what}"), candidate)?;
            }
        }
        Ok(found)
    }
}

fn device_limits(scenario: &Value) -> Vec<String> {
    scenario["faults"]["device"].as_object().into_iter().flat_map(|device| device.keys().cloned()).collect()
}
