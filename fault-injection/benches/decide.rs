//! What rules cost a request: `cargo bench -p fault-injection --bench decide`.
//!
//! The rules lie on other sectors than the requests, so none of them ever fires. `filter` is what the device asks first,
//! without a lock; in `filter_between` the requests lie in the gaps between the rules, and not before them all. `decide` is the
//! engine behind it, as if the filter had let the request through. In `one_of_them_matches` it has: the rule in the middle
//! matches every request, and fires on none. What it takes to make up a request is in all of them: `a_request_alone`.

use std::sync::Arc;

use divan::{Bencher, black_box};
use fault_injection::{Arrival, Engine, Op, Request, Source, load};

const RULES: [u64; 4] = [0, 1, 100, 10_000];
/// Requests lie below, rules above.
const REQUESTS_END: u64 = 1 << 20;

fn main() {
    divan::main();
}

fn engine(rules: u64, matching: bool) -> Engine {
    let rule = |i: u64| {
        let (sector, op) = (REQUESTS_END + i * 64, if i.is_multiple_of(2) { "write" } else { "read" });
        let place = if matching && i == rules / 2 {
            r#""sectors":[[0,1048576]]"#.to_string()
        } else {
            format!(r#""op":"{op}","sectors":[[{sector},{}]]"#, sector + 8)
        };
        format!(
            r#"{{"id":"r{i}","match":{{{place}}},"trigger":{{"nth":9007199254740991}},"action":{{"error":{{"status":"ioerr"}}}}}}"#
        )
    };
    let rules: Vec<String> = (0..rules).map(rule).collect();
    let script = format!(r#"{{"faultscript":1,"rules":[{}]}}"#, rules.join(","));
    let loaded = load(&[Source { name: "bench.json", text: &script }]).unwrap_or_else(|problems| panic!("{problems}"));
    Engine::new(Arc::new(loaded.script), None)
}

/// 4 KiB requests all over the lower half, three reads to a write.
fn requests() -> impl Iterator<Item = Request> {
    (0u64..).map(|n| {
        let op = if n.is_multiple_of(4) { Op::Write } else { Op::Read };
        let sector = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (REQUESTS_END / 8) * 8;
        Request { op, sector, sectors: 8, queue: 0, inflight: 31 }
    })
}

#[divan::bench(args = RULES)]
fn filter(bencher: Bencher<'_, '_>, rules: u64) {
    let filter = engine(rules, false).filter();
    let mut requests = requests();
    bencher.bench_local(|| {
        let Request { op, sector, sectors, queue, .. } = requests.next().expect("there is no end of them");
        black_box(filter.may_match(op, sector, sectors, queue))
    });
}

#[divan::bench(args = RULES)]
fn filter_between(bencher: Bencher<'_, '_>, rules: u64) {
    let filter = engine(rules, false).filter();
    let mut requests = requests();
    bencher.bench_local(|| {
        let Request { op, sector, queue, .. } = requests.next().expect("there is no end of them");
        // A rule's range is the first 8 of 64 sectors.
        let gap = REQUESTS_END + sector / 8 % rules.max(1) * 64 + 16;
        black_box(filter.may_match(op, gap, 8, queue))
    });
}

#[divan::bench]
fn a_request_alone(bencher: Bencher<'_, '_>) {
    let mut requests = requests();
    bencher.bench_local(|| black_box(requests.next().expect("there is no end of them")));
}

#[divan::bench(args = RULES)]
fn decide(bencher: Bencher<'_, '_>, rules: u64) {
    let mut engine = engine(rules, false);
    let mut requests = (0..).zip(requests());
    bencher.bench_local(|| {
        let (seq, request) = requests.next().expect("there is no end of them");
        black_box(engine.decide(Arrival { seq, elapsed_ms: 0 }, &request))
    });
}

#[divan::bench(args = [1, 100, 10_000])]
fn one_of_them_matches(bencher: Bencher<'_, '_>, rules: u64) {
    let mut engine = engine(rules, true);
    let mut requests = (0..).zip(requests());
    bencher.bench_local(|| {
        let (seq, request) = requests.next().expect("there is no end of them");
        black_box(engine.decide(Arrival { seq, elapsed_ms: 0 }, &request))
    });
}
