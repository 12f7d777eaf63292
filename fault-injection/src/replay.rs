//! Forces what a decisions.jsonl says, by key: the request's type, sector, length and touch; or, where the device knows the
//! file system, its type, class, inode, file block, length, touch and mark.
//!
//! Triggers are not asked: a rule fires where it fired then, and nowhere else, whatever order the requests come in. The
//! windows of `reorder` rules hold what they held (`windows`), events happen after as many requests as then (`timeline`).
//! What cannot be forced is a divergence, and said: a recorded firing whose request never comes, a window that the clock
//! closes too early, an event that does not happen, a request that fails by its class and did not.

mod timeline;
mod windows;

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use crate::engine::Firing;
use crate::event::{Draw, EventRecord, Header, Key, Outcome, Purpose, Record};
use crate::files::{self, FileKey};
use crate::random::DrawKey;
use crate::replay::timeline::{Timeline, is_done_again};
use crate::replay::windows::Windows;
pub(crate) use crate::replay::windows::{Closed, Placed};
use crate::request::{Op, Request};
use crate::script::Script;

/// Divergences that are told one by one; a run that has left the record altogether has as many as requests.
const MOST_TOLD: usize = 100;

/// A recorded run, to be forced on another.
#[derive(Clone, Debug)]
pub struct Replay {
    header: Header,
    records: Vec<Record>,
    by: By,
    /// What was done to rules by hand, which is not done again: what came of it is in the records.
    by_hand: Vec<String>,
    events: Vec<EventRecord>,
    forced: HashMap<Place, usize>,
    came: BTreeMap<usize, bool>,
    windows: Windows,
    timeline: Timeline,
    /// Who can make requests fail by their class. Their numbers come after those of the rules.
    overrulers: Vec<String>,
    /// What came otherwise than recorded, and how often in all.
    differs: Vec<String>,
    differences: u64,
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
        let (mut records, mut by_hand, mut events) = (Vec::new(), Vec::new(), Vec::new());
        for (number, line) in lines {
            let value: Value = serde_json::from_str(line).map_err(|error| format!("line {number}: {error}"))?;
            let rule = value["rule"].as_str().unwrap_or_default().to_string();
            if value.get("event").is_some() {
                let event: EventRecord =
                    serde_json::from_value(value).map_err(|error| format!("line {number}: {error}"))?;
                // Where a path leads follows from what the guest writes.
                if rule.starts_with('@') && rule != "@path" && !is_done_again(&event) {
                    by_hand.push(format!("line {number}: {}", rule.trim_start_matches('@')));
                }
                events.push(event);
                continue;
            }
            let record: Record = serde_json::from_value(value).map_err(|error| format!("line {number}: {error}"))?;
            records.push(record);
        }
        Ok(Replay {
            header,
            records,
            by: By::Address,
            by_hand,
            events,
            forced: HashMap::new(),
            came: BTreeMap::new(),
            windows: Windows::default(),
            timeline: Timeline::default(),
            overrulers: Vec::new(),
            differs: Vec::new(),
            differences: 0,
        })
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

    /// What was done to rules by hand in the recorded run, and is not done again.
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
        self.overrulers = script.events.iter().map(|event| event.id.clone()).collect();
        self.overrulers.push("@fail_class".to_string());
        self.timeline = Timeline::new(std::mem::take(&mut self.events), script);
        let named = || ids.iter().copied().chain(self.overrulers.iter().map(String::as_str));
        for (i, record) in self.records.iter().enumerate() {
            let rule = named().position(|id| id == record.rule);
            let rule =
                rule.ok_or_else(|| format!("it speaks of a rule {:?} that its header does not name", record.rule))?;
            self.windows.remember(rule as u32, record);
            // A second line about a request.
            if matches!(record.outcome, Outcome::ReorderStarved { .. }) {
                continue;
            }
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
        Some(Firing { rule, match_number: record.match_number, key, draw, outcome: None, recorded: Some(found) })
    }

    /// The window and place that a firing had; none if the record knows of none.
    pub(crate) fn place_in_window(&mut self, firing: &Firing) -> Option<Placed> {
        let placed = self.windows.place(firing.rule, &self.records[firing.recorded?]);
        if placed.is_none() {
            let record = &self.records[firing.recorded?];
            let text =
                format!("rule {:?}: request {} then was in no window, and is in one now", record.rule, record.seq);
            self.differ(text);
        }
        placed
    }

    /// The request that came last to a window.
    pub(crate) fn remember_last(&mut self, rule: u32, window: u64, record: Record) {
        self.windows.remember_last(rule, window, record);
    }

    /// The clock closes a window that still waits for requests; none for a window that the record does not know.
    pub(crate) fn close_window(&mut self, rule: u32, window: u64) -> Option<Closed> {
        let (closed, said) = self.windows.close(rule, window)?;
        let id = self.header.rules.get(rule as usize).cloned().unwrap_or_default();
        self.differ(format!("rule {id:?}: {said}"));
        Some(closed)
    }

    /// The first number for windows that were not recorded.
    pub(crate) fn next_window(&self, rule: u32) -> u64 {
        self.windows.next(rule)
    }

    /// Events that happen now that so many requests have come.
    pub(crate) fn take_due(&mut self, arrivals: u64) -> Vec<EventRecord> {
        self.timeline.take_due(arrivals)
    }

    /// Whether every request has to be counted.
    pub(crate) fn is_waiting(&self) -> bool {
        self.timeline.is_waiting()
    }

    /// An event happens at its mark.
    pub(crate) fn happens_at_mark(&mut self, id: &str) {
        if !self.timeline.take_mark(id) {
            self.differ(format!("event {id:?} happens now, and did not then"));
        }
    }

    /// A request fails by its class.
    pub(crate) fn overruled(&mut self, by: &str, request: &Request, touch: u64, file: Option<&FileKey>) {
        let Some(number) = self.overrulers.iter().position(|id| id == by) else { return };
        let rule = (self.header.rules.len() + number) as u32;
        let place = Place::of(self.by, rule, request, touch, file);
        match place.and_then(|place| self.forced.get(&place)) {
            Some(found) => _ = self.came.insert(*found, true),
            None => {
                let Request { op, sector, sectors, .. } = *request;
                let text = format!("{by:?} fails {} {sector}+{sectors}, touch {touch}, and did not then", word(op));
                self.differ(text);
            }
        }
    }

    fn differ(&mut self, text: String) {
        self.differences += 1;
        if self.differs.len() < MOST_TOLD {
            self.differs.push(text);
        }
    }

    /// What came otherwise than recorded, in words.
    pub fn differs(&self) -> Vec<String> {
        let untold = self.differences - self.differs.len() as u64;
        let rest = (untold > 0).then(|| format!("and {untold} more like these"));
        self.differs.iter().cloned().chain(rest).collect()
    }

    /// Recorded firings that came again.
    pub fn forced(&self) -> u64 {
        self.came.values().filter(|came| **came).count() as u64
    }

    /// Recorded firings whose request never came, and events that did not happen, in words.
    pub fn missing(&self) -> Vec<String> {
        let words = |i: &usize| {
            let Record { seq, rule, op, sector, sectors, touch, .. } = &self.records[*i];
            let op = word(*op);
            format!("rule {rule:?}: {op} {sector}+{sectors}, touch {touch} (request {seq} then) never came")
        };
        let requests = self.came.iter().filter(|(_, came)| !**came).map(|(i, _)| words(i));
        requests.chain(self.timeline.missing()).collect()
    }
}

fn word(op: Op) -> String {
    serde_json::to_value(op).ok().and_then(|word| word.as_str().map(str::to_string)).unwrap_or_default()
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
