//! The classes of faults, and how a rule of each is drawn.

use super::Faults;
use super::matching::number;
use crate::draw::Stream;
use serde_json::{Map, Value, json};

/// One class of faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    // A disk that does these keeps its word.
    Error,
    Unsupported,
    ShortFailed,
    Delay,
    Hold,
    Reorder,
    Split,
    SplitFails,
    Latent,
    Grown,
    Dead,
    AllOfType,
    States,
    Cache,
    CutKills,
    CutDisconnects,
    Disconnect,
    // A disk that does these does not.
    ShortOk,
    Lose,
    Torn,
    Misdirect,
    Corrupt,
    Stale,
    SplitLies,
}

use Class::{
    AllOfType, Cache, Corrupt, CutDisconnects, CutKills, Dead, Delay, Disconnect, Error, Grown, Hold, Latent, Lose,
    Misdirect, Reorder, ShortFailed, ShortOk, Split, SplitFails, SplitLies, Stale, States, Torn, Unsupported,
};

const HONEST: &[(u64, Class)] = &[
    (20, Error),
    (2, Unsupported),
    (6, ShortFailed),
    (5, Delay),
    (2, Hold),
    (4, Reorder),
    (4, Split),
    (5, SplitFails),
    (3, Latent),
    (3, Grown),
    (1, Dead),
    (2, AllOfType),
    (4, States),
    (2, Cache),
];

/// What cuts the power or the connection ends the guest, or needs a disk that was started for it; so there are few.
const CUTTING: &[(u64, Class)] = &[(4, CutKills), (1, CutDisconnects), (1, Disconnect)];

const LYING: &[(u64, Class)] =
    &[(4, ShortOk), (4, Lose), (4, Torn), (3, Misdirect), (4, Corrupt), (3, Stale), (2, SplitLies)];

impl Class {
    /// The classes of this seed, by weight. One in eight disks may lie; one in 48 may lose its power or its guest, if the
    /// file system promises anything for that.
    pub fn switched_on(stream: &mut Stream, cuts: bool) -> Vec<(u64, Class)> {
        let mut on: Vec<(u64, Class)> = HONEST.iter().copied().filter(|_| stream.chance(1, 2)).collect();
        if stream.chance(1, 8) {
            on.extend(LYING.iter().copied().filter(|_| stream.chance(1, 2)).map(|(weight, class)| (weight * 4, class)));
        }
        if stream.chance(1, 48) {
            let cutting = stream.weighted(CUTTING);
            if cuts || cutting == Disconnect {
                on.push((40, cutting));
            }
        }
        on
    }

    /// Adds what belongs to one fault of this class.
    pub fn draw(self, stream: &mut Stream, faults: &mut Faults<'_>) {
        faults.lying |= LYING.iter().any(|(_, class)| *class == self);
        match self {
            Error => faults.error(stream),
            Unsupported => faults.unsupported(stream),
            ShortFailed => faults.short(stream, "ioerr"),
            ShortOk => faults.short(stream, "ok"),
            Delay | Hold | Reorder => faults.gate(stream, self),
            Split | SplitFails | SplitLies => faults.split(stream, self),
            Latent | Grown | Dead => faults.lasting(stream, self),
            AllOfType => faults.fail_class(stream),
            States => faults.states(stream),
            Cache => faults.cache(stream),
            CutKills | CutDisconnects => faults.cut(stream, self),
            Disconnect => faults.disconnect(stream),
            Lose | Torn | Misdirect | Corrupt | Stale => faults.lie(stream, self),
        }
    }
}

/// Types of requests that an error is drawn for.
fn failing_ops(stream: &mut Stream) -> &'static [&'static str] {
    const WEIGHTED: &[(u64, &[&str])] = &[
        (12, &["write"]),
        (3, &["read"]),
        (3, &["flush"]),
        (1, &["discard"]),
        (1, &["write_zeroes"]),
        (1, &["any"]),
        (1, &["write", "flush"]),
        (1, &["read", "write"]),
        (1, &["discard", "write_zeroes"]),
    ];
    stream.weighted(WEIGHTED)
}

fn status(stream: &mut Stream) -> Value {
    if stream.chance(1, 12) { stream.between(3, 255).into() } else { "ioerr".into() }
}

impl Faults<'_> {
    fn error(&mut self, stream: &mut Stream) {
        let ops = failing_ops(stream);
        let matches = self.matching(stream, ops);
        let mut error = json!({"status": status(stream)});
        if stream.chance(1, 4) {
            error["transfer"] = stream.pick(&["none", "all", "random"]).into();
        }
        let trigger = self.trigger(stream);
        self.rule("error", matches.into(), trigger.into(), json!({"error": error}));
    }

    fn unsupported(&mut self, stream: &mut Stream) {
        let ops: &[&str] =
            stream.weighted(&[(3, &["discard"][..]), (3, &["write_zeroes"]), (1, &["write"]), (1, &["flush"])]);
        let (matches, trigger) = (self.matching(stream, ops), self.trigger(stream));
        self.rule("unsupported", matches.into(), trigger.into(), json!({"error": {"status": "unsupp"}}));
    }

    /// Part of a request moves. What it may leave out is asked of its length by the device: a request too short for it is no match.
    fn short(&mut self, stream: &mut Stream, status: &str) {
        let ops: &[&str] =
            stream.weighted(&[(6, &["write"][..]), (3, &["read"]), (1, &["discard"]), (1, &["write_zeroes"])]);
        let (matches, trigger) = (self.matching(stream, ops), self.trigger(stream));
        let mut partial = match stream.below(3) {
            0 => json!({"sectors": stream.below(8)}),
            1 => json!({"bytes": stream.below(4096)}),
            _ => json!({"fraction": stream.pick(&[0.25, 0.5, 0.75])}),
        };
        partial["status"] = status.into();
        if stream.chance(1, 4) {
            partial["used_len"] = stream.pick(&["full", "honest"]).into();
        }
        self.rule("short", matches.into(), trigger.into(), json!({"partial": partial}));
    }

    /// Holds back for moments only: a night lives of its rate.
    fn gate(&mut self, stream: &mut Stream, class: Class) {
        let ops = held_ops(stream);
        let matches = self.matching(stream, ops);
        let trigger = self.trigger(stream);
        let (word, mut gate) = match class {
            Delay => ("delay", delay(stream)),
            Hold => ("hold", self.hold(stream)),
            _ => ("reorder", reorder(stream)),
        };
        if stream.chance(1, 4) {
            gate["when"] = stream.pick(&["arrival", "completion"]).into();
        }
        self.rule(word, matches.into(), trigger.into(), json!({word: gate}));
    }

    fn hold(&self, stream: &mut Stream) -> Value {
        let until = match stream.below(4) {
            0 => json!("release"),
            1 => json!({"mark": stream.pick(&["mid", "verify"])}),
            2 => json!({"flushes": number(stream, 8)}),
            _ => json!({"writes": number(stream, 96)}),
        };
        json!({"until": until, "max_ms": stream.between(1, 20)})
    }

    fn split(&mut self, stream: &mut Stream, class: Class) {
        let ops: &[&str] = if stream.chance(1, 4) { &["read"] } else { &["write"] };
        let (matches, trigger) = (self.matching(stream, ops), self.trigger(stream));
        let mut split = match stream.chance(3, 4) {
            true => json!({"max_sectors": stream.pick(&[1, 2, 8, 8, 16, 64])}),
            false => json!({"at": [number(stream, 8), 8 + number(stream, 64)]}),
        };
        split["order"] = stream.pick(&["forward", "reverse", "shuffle"]).into();
        let id = self.rule("split", matches.into(), trigger.into(), json!({"split": split}))["id"].clone();
        let child = match (class, ops) {
            (SplitFails, _) => json!({"error": {"status": "ioerr"}}),
            (SplitLies, ["write"]) => json!({"lose": {}}),
            (SplitLies, _) => json!({"corrupt": {"bits": stream.between(1, 8)}}),
            _ => return,
        };
        let mut taken = Map::new();
        match stream.chance(1, 2) {
            true => drop(taken.insert("nth".into(), number(stream, 12).into())),
            false => drop(taken.insert("probability".into(), stream.pick(&[0.05, 0.25]).into())),
        }
        self.rule("piece", json!({"child_of": id}), taken.into(), child);
    }

    fn lasting(&mut self, stream: &mut Stream, class: Class) {
        let reads = stream.chance(1, 4);
        let ops: &[&str] = if reads { &["read"] } else { &["write"] };
        let mut matches = self.matching(stream, ops);
        let heal = stream.pick(&[
            json!("rewrite"),
            json!("never"),
            json!("reset"),
            json!({"mark": "verify"}),
            json!({"writes": 64}),
        ]);
        let mut sticky = json!({"heal": heal});
        if stream.chance(1, 3) {
            sticky["sectors"] = stream.pick(&["matched", "request"]).into();
        }
        let error = json!({"error": {"status": status(stream)}});
        let (word, trigger, scope) = match class {
            Dead => ("dead", self.trigger(stream), json!("device")),
            Latent => {
                // Bad from the start, wherever the guest comes upon it; what it needs to be mounted lies before the last quarter.
                let quarter = self.sectors() / 4;
                let first = quarter * 3 + stream.below(quarter / 16) * 8;
                let sectors = json!([[first, first + (8 << stream.below(9))]]);
                matches = Map::from_iter([("op".to_owned(), json!(ops[0])), ("sectors".to_owned(), sectors)]);
                ("latent", Map::new(), json!({"sticky": sticky}))
            }
            _ => ("grown", self.trigger(stream), json!({"sticky": sticky})),
        };
        let mut rule = json!({"match": matches, "action": error, "scope": scope});
        if !trigger.is_empty() {
            rule["trigger"] = trigger.into();
        }
        let id = format!("{word}-{}", self.rules.len());
        rule["id"] = id.clone().into();
        self.rules.push(rule);
        let heal = if stream.chance(1, 2) { json!({"heal": {"rule": id}}) } else { json!({"heal": {}}) };
        self.mends(stream, heal);
    }

    fn fail_class(&mut self, stream: &mut Stream) {
        let class = stream.weighted(&[(4, "writes"), (1, "reads"), (1, "all")]);
        let mark = stream.pick(&["work", "mid"]);
        self.event("failing", json!({"mark": mark}), json!({"fail_class": class}));
        self.mends(stream, json!({"fail_class": "none"}));
    }

    /// A write arms it, the next ones fail, and one of them ends it.
    fn states(&mut self, stream: &mut Stream) {
        let state = format!("phase{}", self.states.len());
        self.states.insert(state.clone(), json!(["idle", "armed", "over"]));
        let when = |value: &str| Map::from_iter([("when".to_owned(), json!({state.as_str(): value}))]);
        let mut arm = self.window(stream);
        arm.remove("until");
        let mut idle = when("idle");
        if let Some(Value::Object(begun)) = arm.remove("when") {
            idle["when"].as_object_mut().expect("states and their values").extend(begun);
        }
        arm.extend(idle);
        arm.insert("nth".into(), number(stream, 12).into());
        let matches = self.matching(stream, &["write"]);
        match stream.chance(1, 4) {
            true => self.event(
                "armed",
                json!({"mark": stream.pick(&["work", "mid"])}),
                json!({"set": {state.as_str(): "armed"}}),
            ),
            false => drop(self.rule("arm", matches.into(), arm.into(), json!({"set": {state.as_str(): "armed"}}))),
        }
        let ops = failing_ops(stream);
        let matches = self.matching(stream, ops);
        let mut hit = when("armed");
        hit.insert("limit".into(), number(stream, 6).into());
        self.rule("hit", matches.into(), hit.into(), json!({"error": {"status": "ioerr"}}));
        let mut over = when("armed");
        over.insert("nth".into(), number(stream, 16).into());
        self.rule("over", json!({"op": "write"}), over.into(), json!({"set": {state.as_str(): "over"}}));
    }

    fn cache(&mut self, stream: &mut Stream) {
        // What the driver was offered says whether it flushes; a disk that was offered without a cache gets none.
        if self.shape.device.write_cache == Some("writethrough") {
            return;
        }
        let at = stream.pick(&[
            json!({"mark": "work"}),
            json!({"mark": "mid"}),
            json!({"writes": 30}),
            json!({"flushes": 3}),
        ]);
        self.event("cache", at, json!({"write_cache": stream.pick(&["writethrough", "writeback"])}));
    }

    fn cut(&mut self, stream: &mut Stream, class: Class) {
        let then = if class == CutKills { "kill_vm" } else { "disconnect" };
        let unflushed = match stream.below(5) {
            0 => json!("none"),
            1 => json!("all"),
            2 => json!("prefix"),
            3 => json!({"subset": {"strategy": "exhaustive", "max_states": 16}}),
            _ => json!({"subset": {"strategy": "reduced", "max_states": 16}}),
        };
        let cut = json!({"power_cut": {"unflushed": unflushed, "then": then}});
        self.ends_early = true;
        if stream.chance(1, 6) {
            return self.event("cut", json!({"mark": "mid"}), cut);
        }
        let ops: &[&str] = stream.pick(&[&["write"][..], &["flush"]]);
        let trigger = json!({"after": {"mark": stream.pick(&["work", "mid"])}, "nth": number(stream, 16)});
        self.rule("cut", json!({"op": ops[0]}), trigger, cut);
    }

    fn disconnect(&mut self, stream: &mut Stream) {
        let reconnect_ms = stream.between(0, 20);
        self.event("gone", json!({"mark": "mid"}), json!({"disconnect": {"reconnect_ms": reconnect_ms}}));
    }

    fn lie(&mut self, stream: &mut Stream, class: Class) {
        let either = stream.pick(&["read", "write"]);
        let (word, op, lie) = match class {
            Lose => ("lose", stream.weighted(&[(4, "write"), (1, "discard"), (1, "write_zeroes")]), json!({})),
            Torn => ("torn", "write", torn(stream)),
            Misdirect => ("misdirect", either, self.misdirect(stream)),
            Corrupt => ("corrupt", either, corrupt(stream)),
            _ => ("stale", "read", json!({"versions": stream.between(1, 3)})),
        };
        let mut matches = self.matching(stream, &[op]);
        if word == "stale" {
            matches = Map::from_iter([("op".to_owned(), json!(op)), ("sectors".to_owned(), self.ranges(stream))]);
        }
        let mut trigger = self.trigger(stream);
        // Reads come when the files are read back.
        if op == "read" && stream.chance(3, 4) {
            trigger.remove("until");
        }
        self.rule(word, matches.into(), trigger.into(), json!({word: lie}));
    }

    fn misdirect(&self, stream: &mut Stream) -> Value {
        let mut misdirect = match stream.chance(3, 4) {
            true => {
                let delta = 8 * number(stream, 256) as i64;
                json!({"delta_sectors": if stream.chance(1, 2) { -delta } else { delta }})
            }
            false => json!({"to_sector": stream.below(self.sectors() / 8) * 8}),
        };
        if stream.chance(1, 2) {
            misdirect["original"] = stream.pick(&["stale", "written"]).into();
        }
        misdirect
    }
}

/// Types of requests that are held back.
fn held_ops(stream: &mut Stream) -> &'static [&'static str] {
    const WEIGHTED: &[(u64, &[&str])] =
        &[(8, &["write"]), (3, &["read"]), (2, &["flush"]), (1, &["any"]), (1, &["write", "flush"])];
    stream.weighted(WEIGHTED)
}

fn delay(stream: &mut Stream) -> Value {
    const MOST_US: u64 = 6_000;
    match stream.below(6) {
        0 => json!({"us": stream.between(50, MOST_US)}),
        1 => json!({"ms": stream.between(1, 5)}),
        2 => json!({"dist": "uniform", "min_us": 50, "max_us": stream.between(100, MOST_US)}),
        3 => json!({"dist": "exponential", "mean_us": stream.between(100, 2_000), "max_us": MOST_US}),
        4 => json!({"dist": "lognormal", "median_us": 200, "p99_us": stream.between(400, 4_000), "max_us": MOST_US}),
        _ => json!({"dist": "pareto", "min_us": 50, "mean_us": stream.between(100, 1_000), "max_us": MOST_US}),
    }
}

fn reorder(stream: &mut Stream) -> Value {
    let policy = stream.pick(&["reverse", "shuffle", "lifo"]);
    json!({"window": stream.between(2, 8), "policy": policy, "max_wait_ms": stream.between(1, 6)})
}

fn torn(stream: &mut Stream) -> Value {
    let keep = stream.pick(&[json!("prefix"), json!("suffix"), json!("random"), json!([1]), json!([0, 2, 3])]);
    json!({"unit": stream.pick(&["sector", "sector", "byte", "block"]), "keep": keep})
}

fn corrupt(stream: &mut Stream) -> Value {
    let mut corrupt = match stream.below(3) {
        0 => json!({"bits": stream.between(1, 8)}),
        1 => {
            json!({"offset": stream.below(500), "bytes": stream.between(1, 12), "pattern": stream.pick(&["zero", "ones", "random"])})
        }
        _ => json!({"offset": stream.below(512), "value": stream.below(256)}),
    };
    corrupt["where"] = stream.pick(&["wire", "media"]).into();
    corrupt
}
