//! Draws stay what they are, whatever a dependency's next version does.
//!
//! Recorded seeds of failing runs are worth nothing once draws change. If a change is on purpose, raise the number in
//! `Draws::new` and in `Header::decisions`, run `REWRITE=1 cargo test -p fault-injection --test golden`, and say so in
//! the release notes.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use fault_injection::{Arrival, Engine, Gate, Op, Request, Source, load};

const DELAYS: [(&str, &str); 6] = [
    ("uniform", r#""dist": "uniform", "min_us": 10, "max_us": 1000000"#),
    ("exponential", r#""dist": "exponential", "mean_us": 1000"#),
    ("lognormal", r#""dist": "lognormal", "median_us": 400, "p99_us": 20000, "max_us": 200000"#),
    ("pareto-mean", r#""dist": "pareto", "min_us": 100, "mean_us": 300"#),
    ("pareto-median", r#""dist": "pareto", "min_us": 100, "median_us": 300"#),
    ("pareto-p99", r#""dist": "pareto", "min_us": 100, "p99_us": 50000"#),
];

fn draws(seed: u64) -> String {
    let mut out = String::new();
    for (id, parameters) in DELAYS {
        writeln!(out, "seed {seed} {id}: {}", delays(seed, id, parameters)).expect("a string");
    }
    for (what, rule) in [
        (
            "probability",
            r#""trigger": {"probability": 0.5}, "action": {"error": {"status": "ioerr", "transfer": "random"}}"#,
        ),
        ("order of children", r#""action": {"split": {"max_sectors": 1, "order": "shuffle"}}"#),
        (
            "order of a window",
            r#""trigger": {"key": "ordinal"}, "action": {"reorder": {"window": 6, "policy": "shuffle"}}"#,
        ),
    ] {
        writeln!(out, "seed {seed} {what}:").expect("a string");
        out += &records(seed, rule);
    }
    out
}

fn engine(seed: u64, id: &str, rest: &str) -> Engine {
    let text = format!(r#"{{"faultscript": 1, "rules": [{{"id": "{id}", "match": {{"op": "write"}}, {rest}}}]}}"#);
    let loaded = load(&[Source { name: "golden.json", text: &text }]).unwrap_or_else(|problems| panic!("{problems}"));
    Engine::new(Arc::new(loaded.script), Some(seed))
}

fn write(n: u64) -> (Arrival, Request) {
    let request = Request { op: Op::Write, sector: n % 4 * 8, sectors: 8, queue: 0, inflight: 0 };
    (Arrival { seq: n, elapsed_ms: 0 }, request)
}

fn delays(seed: u64, id: &str, parameters: &str) -> String {
    let mut engine = engine(seed, id, &format!(r#""action": {{"delay": {{{parameters}}}}}"#));
    let delay = |n| {
        let (arrival, request) = write(n);
        match engine.decide(arrival, &request).gate {
            Gate::Delay { us, .. } => us.to_string(),
            other => panic!("{other:?} is no delay"),
        }
    };
    (0..24).map(delay).collect::<Vec<_>>().join(" ")
}

fn records(seed: u64, rest: &str) -> String {
    let mut engine = engine(seed, "golden", rest);
    let mut out = String::new();
    for n in 0..12 {
        let (arrival, request) = write(n);
        for record in engine.decide(arrival, &request).log {
            writeln!(out, "{}", serde_json::to_string(&record).expect("plain data")).expect("a string");
        }
    }
    out
}

#[test]
fn draws_are_those_of_the_golden_file() {
    let drawn = draws(0) + &draws(1) + &draws(9_007_199_254_740_991);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/draws.txt");
    if std::env::var_os("REWRITE").is_some() {
        std::fs::write(&file, &drawn).expect("writable");
    }
    let golden = std::fs::read_to_string(&file).expect("the golden file is in the tree");
    assert_eq!(drawn, golden);
}
