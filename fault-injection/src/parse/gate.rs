//! The actions of the gate stage: `delay`, `hold` and `reorder`.

use super::{MAX_MS, Parser};
use crate::decision::GateWhen;
use crate::distribution::{DEFAULT_MAX_US, Distribution, Tail};
use crate::reader::{At, Fields};
use crate::rule::{Action, HoldUntil, Length, Policy};

impl Parser<'_> {
    fn when(&mut self, fields: &Fields<'_>) -> GateWhen {
        let choices = [("completion", GateWhen::Completion), ("arrival", GateWhen::Arrival)];
        fields.get("when").and_then(|at| self.r.choice(at, &choices)).unwrap_or(GateWhen::Completion)
    }

    pub(super) fn delay(&mut self, at: &At<'_>) -> Option<Action> {
        const PARAMETERS: [&str; 5] = ["min_us", "mean_us", "median_us", "p99_us", "max_us"];
        let known = ["us", "ms", "dist", "min_us", "mean_us", "median_us", "p99_us", "max_us", "when"];
        let fields = self.r.object(at, &known)?;
        let when = self.when(&fields);
        let kind = self.r.exactly_one(&fields, &["us", "ms", "dist"])?;
        let at = fields.get(kind)?;
        if kind == "dist" {
            let length = Length::Drawn(self.distribution(&fields, at, &PARAMETERS)?);
            return Some(Action::Delay { length, when });
        }
        self.refuse_parameters(&fields, &PARAMETERS, "a delay of fixed length");
        let us = match kind {
            "us" => self.r.integer(at, 0, MAX_MS * 1000)?,
            _ => self.r.integer(at, 0, MAX_MS)? * 1000,
        };
        Some(Action::Delay { length: Length::Fixed { us }, when })
    }

    fn distribution(&mut self, fields: &Fields<'_>, at: &At<'_>, parameters: &[&str]) -> Option<Distribution> {
        let names = ["uniform", "exponential", "lognormal", "pareto"];
        let name = self.r.choice(at, &names.map(|name| (name, name)))?;
        let used: &[&str] = match name {
            "uniform" => &["min_us", "max_us"],
            "exponential" => &["mean_us", "min_us", "max_us"],
            "lognormal" => &["median_us", "p99_us", "min_us", "max_us"],
            _ => &["min_us", "mean_us", "median_us", "p99_us", "max_us"],
        };
        let odd: Vec<&str> = parameters.iter().copied().filter(|key| !used.contains(key)).collect();
        self.refuse_parameters(fields, &odd, &format!("dist {name:?}"));
        let mut given: Vec<(&str, u64)> = Vec::new();
        for key in used {
            if let Some(at) = fields.get(key) {
                let least = u64::from(!matches!(*key, "min_us" | "max_us") || (name == "pareto" && *key == "min_us"));
                given.push((key, self.r.integer(at, least, MAX_MS * 1000)?));
            }
        }
        self.shape(fields, name, &given)
    }

    /// Puts the parameters together, and checks them against each other.
    fn shape(&mut self, fields: &Fields<'_>, name: &str, given: &[(&str, u64)]) -> Option<Distribution> {
        let get = |key: &str| given.iter().find(|(name, _)| *name == key).map(|(_, n)| *n);
        let needed: &[&str] = match name {
            "uniform" => &["min_us", "max_us"],
            "exponential" => &["mean_us"],
            "lognormal" => &["median_us", "p99_us"],
            _ => &["min_us"],
        };
        let missing: Vec<&str> = needed.iter().copied().filter(|key| get(key).is_none()).collect();
        for key in &missing {
            self.r.report("E107", &fields.at, format!("dist {name:?} needs {key:?}"), None);
        }
        let tail = if name == "pareto" { self.tail(fields, &get) } else { None };
        if !missing.is_empty() {
            return None;
        }
        let (min_us, max_us) = (get("min_us").unwrap_or(0), get("max_us").unwrap_or(DEFAULT_MAX_US));
        let mut rises = |low: u64, high: u64, text: String| {
            if low > high {
                self.r.report("E103", &fields.at, text, None);
            }
            low <= high
        };
        let unless = if get("max_us").is_none() { " (60 seconds unless given)" } else { "" };
        if !rises(min_us, max_us, format!("min_us {min_us} is above max_us {max_us}{unless}")) {
            return None;
        }
        Some(match name {
            "uniform" => Distribution::Uniform { min_us, max_us },
            "exponential" => Distribution::Exponential { mean_us: get("mean_us")?, min_us, max_us },
            "lognormal" => {
                let (median_us, p99_us) = (get("median_us")?, get("p99_us")?);
                if !rises(median_us + 1, p99_us, format!("p99_us {p99_us} is not above median_us {median_us}")) {
                    return None;
                }
                Distribution::Lognormal { median_us, p99_us, min_us, max_us }
            }
            _ => Distribution::Pareto { min_us, tail: tail?, max_us },
        })
    }

    fn tail(&mut self, fields: &Fields<'_>, get: &dyn Fn(&str) -> Option<u64>) -> Option<Tail> {
        let key = self.r.exactly_one(fields, &["mean_us", "median_us", "p99_us"])?;
        let n = get(key)?;
        if n <= get("min_us")? {
            self.r.report("E103", fields.get(key)?, format!("{key} {n} is not above min_us"), None);
            return None;
        }
        Some(match key {
            "mean_us" => Tail::Mean(n),
            "median_us" => Tail::Median(n),
            _ => Tail::P99(n),
        })
    }

    pub(super) fn hold(&mut self, at: &At<'_>) -> Option<Action> {
        let fields = self.r.object(at, &["until", "max_ms", "when"])?;
        let when = self.when(&fields);
        let given_ms = fields.get("max_ms").and_then(|at| self.r.integer(at, 1, MAX_MS));
        let until = match fields.get("until") {
            None => HoldUntil::Release,
            Some(at) if at.is_object() => HoldUntil::Point(self.point(at)?),
            Some(at) if self.r.choice(at, &[("release", false), ("reset", true)])? => HoldUntil::Reset,
            Some(_) => HoldUntil::Release,
        };
        if until == HoldUntil::Reset {
            if let Some(at) = fields.get("max_ms") {
                self.r.report("E111", at, "\"max_ms\" means nothing to a hold until reset", None);
            }
            return Some(Action::Hold { until, max_ms: None, when });
        }
        Some(Action::Hold { until, max_ms: Some(given_ms.unwrap_or(60_000)), when })
    }

    pub(super) fn reorder(&mut self, at: &At<'_>) -> Option<Action> {
        let fields = self.r.object(at, &["window", "policy", "max_wait_ms", "when"])?;
        let when = self.when(&fields);
        let choices = [("reverse", Policy::Reverse), ("shuffle", Policy::Shuffle), ("lifo", Policy::Lifo)];
        let policy = fields.get("policy").and_then(|at| self.r.choice(at, &choices)).unwrap_or_default();
        let wait = fields.get("max_wait_ms").and_then(|at| self.r.integer(at, 1, MAX_MS));
        let window = self.r.required(&fields, "window").cloned().and_then(|at| self.r.integer(&at, 2, 256))?;
        Some(Action::Reorder { window: window as u32, policy, max_wait_ms: wait.unwrap_or(20), when })
    }
}
