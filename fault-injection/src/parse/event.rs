//! `events`, and the power cut that an event and a rule can both ask for.

use super::{MAX_MS, Parser};
use crate::event::FailClass;
use crate::power_cut::{MAX_STATES, Strategy, Subset, Then, Unflushed};
use crate::reader::{At, MAX_INTEGER};
use crate::rule::Point;
use crate::script::{Event, Happens, WriteCache};

impl Parser<'_> {
    pub(super) fn event(&mut self, at: &At<'_>) {
        let before = self.r.problems.len();
        let Some(fields) = self.r.object(at, &["id", "at", "do"]) else { return };
        let id = self.r.required(&fields, "id").cloned().and_then(|at| self.id(&at));
        let point = self.r.required(&fields, "at").cloned().and_then(|at| self.event_point(&at));
        let happens = self.r.required(&fields, "do").cloned().and_then(|at| self.happens(&at));
        if let (Some(id), Some(at), Some(happens), true) = (id, point, happens, self.r.problems.len() == before) {
            self.draft.events.push(Event { id, at, happens });
        }
    }

    fn event_point(&mut self, at: &At<'_>) -> Option<Point> {
        let point = self.later_point(at)?;
        if matches!(point, Point::Matches(_)) {
            let hint = "use \"requests\", \"writes\", \"flushes\", \"bytes\", \"ms\" or \"mark\"".to_string();
            self.r.report("E111", at, "an event matches nothing: \"matches\" means nothing to it", Some(hint));
        }
        Some(point)
    }

    fn happens(&mut self, at: &At<'_>) -> Option<Happens> {
        let kinds = ["capacity_sectors", "fail_class", "heal", "disconnect", "write_cache", "power_cut", "set"];
        let fields = self.r.object(at, &kinds)?;
        let kind = self.r.exactly_one(&fields, &kinds)?;
        let at = fields.get(kind)?;
        match kind {
            "capacity_sectors" => {
                let capacity_sectors = self.r.integer(at, 1, MAX_INTEGER)?;
                self.draft.capacities.push((capacity_sectors, self.r.place(at)));
                Some(Happens::CapacitySectors(capacity_sectors))
            }
            "fail_class" => {
                let choices = [
                    ("writes", FailClass::Writes),
                    ("reads", FailClass::Reads),
                    ("all", FailClass::All),
                    ("none", FailClass::None),
                ];
                self.r.choice(at, &choices).map(Happens::FailClass)
            }
            "write_cache" => {
                let choices = [("writeback", WriteCache::Writeback), ("writethrough", WriteCache::Writethrough)];
                self.r.choice(at, &choices).map(Happens::WriteCache)
            }
            "set" => Some(Happens::Set(self.state_values(at))),
            "heal" => {
                let fields = self.r.object(at, &["rule"])?;
                let rule = fields.get("rule").and_then(|at| {
                    let place = self.r.place(at);
                    let id = self.r.string(at)?.to_string();
                    self.draft.rule_uses.push((id.clone(), place));
                    Some(id)
                });
                Some(Happens::Heal { rule })
            }
            "disconnect" => {
                let fields = self.r.object(at, &["reconnect_ms"])?;
                let wait = fields.get("reconnect_ms").map_or(Some(0), |at| self.r.integer(at, 0, MAX_MS));
                wait.map(|reconnect_ms| Happens::Disconnect { reconnect_ms })
            }
            _ => self.cut(at).map(|(unflushed, then)| Happens::PowerCut { unflushed, then }),
        }
    }

    pub(super) fn cut(&mut self, at: &At<'_>) -> Option<(Unflushed, Then)> {
        let fields = self.r.object(at, &["unflushed", "then"])?;
        let unflushed = fields.get("unflushed").map_or(Some(Unflushed::None), |at| self.unflushed(at));
        let choices = [("kill_vm", Then::KillVm), ("snapshot", Then::Snapshot), ("disconnect", Then::Disconnect)];
        let then = fields.get("then").map_or(Some(Then::KillVm), |at| self.r.choice(at, &choices));
        Some((unflushed?, then?))
    }

    fn unflushed(&mut self, at: &At<'_>) -> Option<Unflushed> {
        if !at.is_object() {
            let choices = [("none", Unflushed::None), ("all", Unflushed::All), ("prefix", Unflushed::Prefix)];
            return self.r.choice(at, &choices);
        }
        let fields = self.r.object(at, &["subset"])?;
        let at = self.r.required(&fields, "subset").cloned()?;
        let fields = self.r.object(&at, &["strategy", "max_states"])?;
        let choices =
            [("reduced", Strategy::Reduced), ("exhaustive", Strategy::Exhaustive), ("drawn", Strategy::Drawn)];
        let strategy = fields.get("strategy").map_or(Some(Strategy::Reduced), |at| self.r.choice(at, &choices))?;
        let unless_given = if strategy == Strategy::Exhaustive { MAX_STATES } else { 32 };
        let most = u64::from(MAX_STATES);
        let max_states =
            fields.get("max_states").map_or(Some(unless_given.into()), |at| self.r.integer(at, 1, most))?;
        Some(Unflushed::Subset(Subset { strategy, max_states: max_states as u32 }))
    }
}
