//! Forces what a decisions.jsonl says, by key: the request's type, sector, length and touch; or, where the device knows the
//! file system, its type, class, inode, file block, length, touch and mark.
//!
//! Triggers are not asked: a rule fires where it fired then, and nowhere else, whatever order the requests come in.
//! Events and states go on by their points. A recorded firing whose request never comes is a divergence.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use crate::engine::Firing;
use crate::event::{Draw, Header, Key, Outcome, Purpose, Record};
use crate::files::{self, FileKey};
use crate::random::DrawKey;
use crate::request::{Op, Request};
use crate::script::Script;

/// A recorded run, to be forced on another.
#[derive(Clone, Debug)]
pub struct Replay {
    header: Header,
    records: Vec<Record>,
    by: By,
    /// What happened by hand, which is not done again.
    by_hand: Vec<String>,
    forced: HashMap<Place, usize>,
    came: BTreeMap<usize, bool>,
}

/// What a request is recognised by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// Its place on the disk.
    #[default]
    Address,
    /// Its place in a file: for a guest whose allocation has shifted.
    File,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Place {
    rule: u32,
    op: Op,
    sectors: u64,
    touch: u64,
    at: At,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum At {
    Sector(u64),
    File(files::Place, Option<String>),
}

impl Place {
    fn of(by: By, rule: u32, request: &Request, touch: u64, file: Option<&FileKey>) -> Option<Place> {
        let Request { op, sector, sectors, .. } = *request;
        match by {
            By::Address => Some(Place { rule, op, sectors, touch, at: At::Sector(sector) }),
            By::File => {
                let file = file?;
                let at = At::File(files::Place::of_key(file, sector), file.mark.clone());
                Some(Place { rule, op, sectors, touch: file.touch, at })
            }
        }
    }
}

impl Replay {
    /// Reads a decisions.jsonl. The error says which line is none.
    pub fn parse(text: &str) -> Result<Replay, String> {
        let mut lines = (1..).zip(text.lines());
        let (_, first) = lines.next().ok_or("it is empty: not even a header")?;
        let header: Header = serde_json::from_str(first).map_err(|error| format!("line 1 is no header: {error}"))?;
        if header.decisions != 1 {
            return Err(format!("version {} is not known; this program reads version 1", header.decisions));
        }
        let (mut records, mut by_hand) = (Vec::new(), Vec::new());
        for (number, line) in lines {
            let value: Value = serde_json::from_str(line).map_err(|error| format!("line {number}: {error}"))?;
            let rule = value["rule"].as_str().unwrap_or_default().to_string();
            if value.get("event").is_some() {
                // Where a path leads follows from what the guest writes.
                if rule.starts_with('@') && rule != "@path" {
                    by_hand.push(format!("line {number}: {}", rule.trim_start_matches('@')));
                }
                continue;
            }
            let record: Record = serde_json::from_value(value).map_err(|error| format!("line {number}: {error}"))?;
            // A window that starved is a second line about a request; a class that fails is an event's doing.
            if !matches!(record.outcome, Outcome::ReorderStarved { .. }) {
                records.push(record);
            }
        }
        Ok(Replay { header, records, by: By::Address, by_hand, forced: HashMap::new(), came: BTreeMap::new() })
    }

    /// Recognises requests by something else than their address. The error says why this record cannot.
    pub fn by(mut self, by: By) -> Result<Replay, String> {
        let without = self.records.iter().find(|record| record.file.is_none());
        if let (By::File, Some(record)) = (by, without) {
            return Err(format!(
                "rule {:?} decided about request {} without knowing the file system, so it cannot be found by file; record \
                 with a script in which a rule has \"key\": \"file\", or matches by class, inode or path",
                record.rule, record.seq
            ));
        }
        self.by = by;
        Ok(self)
    }

    /// The seed of the recorded run.
    pub fn seed(&self) -> u64 {
        self.header.seed
    }

    /// What was done by hand in the recorded run, and is not done again.
    pub fn by_hand(&self) -> &[String] {
        &self.by_hand
    }

    /// Finds the recorded rules in this script.
    pub(crate) fn resolve(mut self, script: &Script) -> Result<Replay, String> {
        let ids: Vec<&str> = script.rules.iter().map(|rule| rule.id.as_str()).collect();
        if self.header.rules != ids {
            return Err(format!(
                "it was recorded with the rules {:?}, and the script has {ids:?}; give the same --faults",
                self.header.rules
            ));
        }
        let is_event = |id: &str| id.starts_with('@') || script.events.iter().any(|event| event.id == id);
        for (i, record) in self.records.iter().enumerate().filter(|(_, record)| !is_event(&record.rule)) {
            let rule = ids.iter().position(|id| *id == record.rule);
            let rule =
                rule.ok_or_else(|| format!("it speaks of a rule {:?} that its header does not name", record.rule))?;
            let Record { op, sector, sectors, touch, .. } = *record;
            let request = Request { op, sector, sectors, queue: 0, inflight: 0 };
            if let Some(place) = Place::of(self.by, rule as u32, &request, touch, record.file.as_ref()) {
                self.forced.insert(place, i);
            }
            self.came.insert(i, false);
        }
        Ok(self)
    }

    /// The firing that was recorded for this rule and request, if one was.
    pub(crate) fn force(
        &mut self,
        rule: u32,
        request: &Request,
        (touch, file): (u64, Option<&FileKey>),
        key: DrawKey,
        of_rule: Key,
    ) -> Option<Firing> {
        let found = *self.forced.get(&Place::of(self.by, rule, request, touch, file)?)?;
        self.came.insert(found, true);
        let record = &self.records[found];
        let key = match of_rule {
            Key::Address | Key::File => key,
            Key::Ordinal => DrawKey::Ordinal(record.match_number),
        };
        // What the action drew it draws again: from the same seed by the same key.
        let draw: Vec<Draw> = record.draw.iter().filter(|draw| draw.purpose == Purpose::Probability).cloned().collect();
        Some(Firing { rule, match_number: record.match_number, key, draw, outcome: None })
    }

    /// Recorded firings that came again.
    pub fn forced(&self) -> u64 {
        self.came.values().filter(|came| **came).count() as u64
    }

    /// Recorded firings whose request never came, in words.
    pub fn missing(&self) -> Vec<String> {
        let words = |i: &usize| {
            let Record { seq, rule, op, sector, sectors, touch, .. } = &self.records[*i];
            let op =
                serde_json::to_value(op).ok().and_then(|word| word.as_str().map(str::to_string)).unwrap_or_default();
            format!("rule {rule:?}: {op} {sector}+{sectors}, touch {touch} (request {seq} then) never came")
        };
        self.came.iter().filter(|(_, came)| !**came).map(|(i, _)| words(i)).collect()
    }
}

impl crate::engine::Engine {
    /// Forces a recorded run. The script must be the recorded one, and the engine fresh.
    pub fn force(&mut self, replay: Replay) -> Result<(), String> {
        let replay = replay.resolve(self.script())?;
        if replay.seed() != self.seed() {
            return Err(format!("it was recorded with seed {}, this run has {}", replay.seed(), self.seed()));
        }
        self.set_replay(replay);
        Ok(())
    }
}
