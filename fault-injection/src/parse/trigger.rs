//! `trigger` and `scope`: which matches fire, and how long it lasts.

use super::{MAX_POINT_MS, Parser};
use crate::event::Key;
use crate::reader::{At, Fields, MAX_INTEGER};
use crate::rule::{Heal, Point, Rule, Scope, Stage, StickySectors, Trigger};

impl Parser<'_> {
    pub(super) fn trigger(&mut self, at: &At<'_>) -> Option<Trigger> {
        let known = ["nth", "every", "probability", "after", "until", "limit", "when", "key"];
        let fields = self.r.object(at, &known)?;
        if fields.has("nth") && fields.has("every") {
            self.r.report("E104", at, "\"nth\" and \"every\" exclude each other", None);
        }
        let when = fields.get("when").map(|at| self.state_values(at)).unwrap_or_default();
        let keys = [("address", Key::Address), ("ordinal", Key::Ordinal), ("file", Key::File)];
        let key = fields.get("key").and_then(|at| self.r.choice(at, &keys));
        Some(Trigger {
            when,
            after: fields.get("after").and_then(|at| self.point(at)),
            until: fields.get("until").and_then(|at| self.point(at)),
            nth: fields.get("nth").map(|at| self.nth(at)).unwrap_or_default(),
            every: fields.get("every").and_then(|at| self.r.integer(at, 1, MAX_INTEGER)),
            probability: fields.get("probability").and_then(|at| self.r.share(at, "percent")),
            limit: fields.get("limit").and_then(|at| self.r.integer(at, 1, MAX_INTEGER)),
            key: key.unwrap_or_default(),
        })
    }

    fn nth(&mut self, at: &At<'_>) -> Vec<u64> {
        let items = if at.is_array() { self.r.array(at).unwrap_or_default() } else { vec![at.clone()] };
        if items.is_empty() {
            self.r.report("E103", at, "an empty list never fires", None);
        }
        let mut nth: Vec<u64> = items.iter().filter_map(|at| self.r.integer(at, 1, MAX_INTEGER)).collect();
        nth.sort_unstable();
        nth.dedup();
        nth
    }

    pub(super) fn point(&mut self, at: &At<'_>) -> Option<Point> {
        let kinds = ["matches", "requests", "writes", "flushes", "bytes", "ms", "mark"];
        let fields = self.r.object(at, &kinds)?;
        let kind = self.r.exactly_one(&fields, &kinds)?;
        let at = fields.get(kind)?;
        if kind == "mark" {
            return self.r.string(at).map(|name| Point::Mark(name.to_string()));
        }
        let n = self.r.integer(at, 0, if kind == "ms" { MAX_POINT_MS } else { MAX_INTEGER })?;
        Some(match kind {
            "matches" => Point::Matches(n),
            "requests" => Point::Requests(n),
            "writes" => Point::Writes(n),
            "flushes" => Point::Flushes(n),
            "bytes" => Point::Bytes(n),
            _ => Point::Ms(n),
        })
    }

    /// A point that is not reached before the first request.
    pub(super) fn later_point(&mut self, at: &At<'_>) -> Option<Point> {
        let point = self.point(at)?;
        let from_the_start = matches!(
            point,
            Point::Matches(0) | Point::Requests(0) | Point::Writes(0) | Point::Flushes(0) | Point::Bytes(0)
        );
        if from_the_start {
            let hint = "count from 1: it happens right after the request that reaches it".to_string();
            self.r.report("E103", at, "nothing comes before this point", Some(hint));
        }
        Some(point)
    }

    pub(super) fn scope(&mut self, at: &At<'_>) -> Scope {
        if at.is_string() {
            let device = self.r.choice(at, &[("request", false), ("device", true)]) == Some(true);
            return if device { Scope::Device } else { Scope::Request };
        }
        let Some(fields) = self.r.object(at, &["sticky"]) else { return Scope::Request };
        let Some(sticky) = self.r.required(&fields, "sticky").cloned() else { return Scope::Request };
        let Some(fields) = self.r.object(&sticky, &["sectors", "heal"]) else { return Scope::Request };
        let choices = [("matched", StickySectors::Matched), ("request", StickySectors::Request)];
        let sectors = fields.get("sectors").and_then(|at| self.r.choice(at, &choices)).unwrap_or_default();
        let heal = fields.get("heal").and_then(|at| self.heal(at)).unwrap_or_default();
        Scope::Sticky { sectors, heal }
    }

    fn heal(&mut self, at: &At<'_>) -> Option<Heal> {
        if at.is_object() {
            return self.later_point(at).map(Heal::Point);
        }
        self.r.choice(at, &[("never", 0), ("rewrite", 1), ("reset", 2)]).map(|word| match word {
            0 => Heal::Never,
            1 => Heal::Rewrite,
            _ => Heal::Reset,
        })
    }

    /// What lasts must be able to last: a power cut and a change of state happen once.
    pub(super) fn refuse_scope(&mut self, rule: &Rule, fields: &Fields<'_>) {
        let Some(at) = fields.get("scope") else { return };
        if rule.scope != Scope::Request && rule.action.stage() == Stage::Device {
            let text = format!("{:?} does not last: it is of the request alone", rule.action.name());
            self.r.report("E111", at, text, Some("leave \"scope\" out".to_string()));
        }
    }
}
