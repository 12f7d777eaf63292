//! The search against an oracle that knows what matters.

use super::*;
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeSet;

/// Fails if all of these rules and operations are there. Every rule fires at its third match, unless it is idle.
struct Planted {
    rules: BTreeSet<String>,
    ops: BTreeSet<String>,
    idle: BTreeSet<String>,
    runs: usize,
    /// Ends it all at this run.
    stop_at: usize,
}

fn names<'v>(items: &'v Value, key: &'v str) -> BTreeSet<String> {
    items.as_array().into_iter().flatten().filter_map(|item| item[key].as_str()).map(str::to_owned).collect()
}

impl Planted {
    fn new(rules: &[&str], ops: &[&str]) -> Planted {
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        Planted { rules: owned(rules), ops: owned(ops), idle: BTreeSet::new(), runs: 0, stop_at: usize::MAX }
    }

    fn would_fail(&self, scenario: &Value) -> bool {
        let there = names(&scenario["faults"]["rules"], "id");
        self.rules.is_subset(&there) && self.ops.is_subset(&names(&scenario["workload"], "path"))
    }
}

impl Oracle for Planted {
    type Stop = &'static str;

    fn is_valid(&mut self, scenario: &Value) -> bool {
        ops(scenario) > 0
    }

    fn fails(&mut self, scenario: &Value) -> Result<Option<Hits>, &'static str> {
        self.runs += 1;
        if self.runs >= self.stop_at {
            return Err("Ctrl-C");
        }
        let hit = Hit { match_number: 3, sector: 8, sectors: 8, touch: 1 };
        let fired = names(&scenario["faults"]["rules"], "id").into_iter().filter(|id| !self.idle.contains(id));
        Ok(self.would_fail(scenario).then(|| fired.map(|id| (id, vec![hit])).collect()))
    }
}

fn scenario(rules: usize, ops: usize) -> Value {
    let rule = |place| {
        json!({"id": format!("r{place}"), "match": {"op": "write", "sectors": [[0, 4096]]},
               "trigger": {"after": {"mark": "start"}, "probability": 0.5}, "action": {"error": {"status": "ioerr"}}})
    };
    let op = |place| json!({"op": "write", "path": format!("f{place}"), "len": 1 << 20, "pattern": "p"});
    json!({"scenario": 1, "name": "planted", "why": "to be made smaller", "disk": "lying",
           "guest": {"vcpus": 2, "memory_mib": 768}, "filesystem": {"size_mib": 64, "mount": ["nodelalloc"], "mkfs": ["-O", "bigalloc"]},
           "faults": {"faultscript": 1, "rules": (0..rules).map(rule).collect::<Vec<_>>()},
           "workload": (0..ops).map(op).collect::<Vec<_>>(),
           "expect": [{"fired": {"r0": [1, 1]}}]})
}

fn hits_of(oracle: &mut Planted, scenario: &Value) -> Hits {
    let hits = oracle.fails(scenario).expect("nothing stops it yet").expect("it fails");
    oracle.runs = 0;
    hits
}

/// `scenario` with these writers for its operations; 0: none.
fn with_writers(writers: &[u64]) -> Value {
    let mut scenario = scenario(1, writers.len());
    for (op, writer) in scenario["workload"].as_array_mut().expect("a list").iter_mut().zip(writers) {
        if *writer > 0 {
            op["writer"] = json!(writer);
        }
    }
    scenario
}

/// Fails if two writers are at work, and if these are there.
struct TwoAtOnce(Planted);

impl Oracle for TwoAtOnce {
    type Stop = &'static str;

    fn is_valid(&mut self, scenario: &Value) -> bool {
        self.0.is_valid(scenario)
    }

    fn fails(&mut self, scenario: &Value) -> Result<Option<Hits>, &'static str> {
        let ops = scenario["workload"].as_array().expect("a list");
        let beside = writers::stretches(ops).into_iter().any(|stretch| writers::of(&ops[stretch]).len() > 1);
        Ok(self.0.fails(scenario)?.filter(|_| beside))
    }
}

#[test]
fn writers_that_do_not_matter_go_and_what_needs_two_keeps_two() {
    let start = with_writers(&[0, 1, 1, 2, 2, 3, 0]);
    let mut oracle = TwoAtOnce(Planted::new(&["r0"], &["f2", "f3"]));
    let hits = hits_of(&mut oracle.0, &start);
    let reduced = reduce(start, hits, &mut oracle, 100);
    let ops = reduced.scenario["workload"].as_array().expect("a list");
    let left: Vec<(&str, u64)> =
        ops.iter().map(|op| (op["path"].as_str().unwrap_or("?"), op["writer"].as_u64().unwrap_or(0))).collect();
    assert_eq!(left, [("f2", 1), ("f3", 2)]);
}

#[test]
fn what_shows_in_a_sequence_as_well_becomes_one() {
    let start = with_writers(&[0, 1, 1, 2, 0]);
    let mut oracle = Planted::new(&["r0"], &["f1", "f3"]);
    let hits = hits_of(&mut oracle, &start);
    let reduced = reduce(start, hits, &mut oracle, 100);
    let ops = reduced.scenario["workload"].as_array().expect("a list");
    assert!(ops.len() == 2 && ops.iter().all(|op| op.get("writer").is_none()), "{ops:?}");
}

#[test]
fn a_writer_with_nobody_beside_it_is_none() {
    let alone = crate::tidy::tidy(with_writers(&[0, 2, 2, 0, 1, 2]));
    let writers: Vec<Option<u64>> =
        alone["workload"].as_array().expect("a list").iter().map(|op| op["writer"].as_u64()).collect();
    assert_eq!(writers, [None, None, None, None, Some(1), Some(2)]);
}

#[test]
fn twelve_rules_of_which_two_matter_become_two() {
    let start = scenario(12, 9);
    let mut oracle = Planted::new(&["r3", "r8"], &["f2", "f5"]);
    let hits = hits_of(&mut oracle, &start);
    let reduced = reduce(start, hits, &mut oracle, 100);
    assert_eq!((rules(&reduced.scenario), ops(&reduced.scenario)), (2, 2), "{}", reduced.scenario);
    assert_eq!(reduced.ended, Ended::Smallest);
    assert_eq!(reduced.runs, oracle.runs);
    assert!(reduced.runs <= 60, "{} runs", reduced.runs);
}

#[test]
fn rules_that_never_fired_cost_one_run() {
    let start = scenario(12, 1);
    let mut oracle = Planted::new(&["r3", "r8"], &["f0"]);
    oracle.idle = (0..12).filter(|n| ![3, 8].contains(n)).map(|n| format!("r{n}")).collect();
    let hits = hits_of(&mut oracle, &start);
    let reduced = reduce(start, hits, &mut oracle, 2);
    assert_eq!(rules(&reduced.scenario), 2, "one run for the expectations, one for the rules");
    assert_eq!(reduced.ended, Ended::Budget);
}

#[test]
fn what_is_left_is_as_plain_as_it_can_be() {
    let start = scenario(3, 2);
    let mut oracle = Planted::new(&["r1"], &["f0"]);
    let hits = hits_of(&mut oracle, &start);
    let reduced = reduce(start, hits, &mut oracle, 200);
    let wanted = json!({"scenario": 1, "name": "planted", "why": "to be made smaller",
        "filesystem": {"size_mib": 16},
        "faults": {"faultscript": 1, "rules": [{"id": "r1", "match": {"op": "write", "sectors": [[8, 16]]},
            "trigger": {"nth": 1}, "action": {"error": {"status": "ioerr"}}}]},
        "workload": [{"op": "write", "path": "f0", "len": 512, "pattern": "p"}]});
    assert_eq!(reduced.scenario, wanted);
}

#[test]
fn a_mark_that_goes_takes_its_points_along() {
    let mut start = scenario(1, 1);
    start["workload"].as_array_mut().expect("a list").insert(0, json!({"op": "mark", "name": "start"}));
    let mut oracle = Planted::new(&["r0"], &["f0"]);
    let hits = hits_of(&mut oracle, &start);
    let reduced = reduce(start, hits, &mut oracle, 100);
    assert_eq!(ops(&reduced.scenario), 1);
    assert!(!reduced.scenario.to_string().contains("mark"));
}

/// Fails if the file is written and, behind something that empties the cache or past it, read; a direct read shows it only
/// behind an fsync that was told to expect the error.
struct Stale;

impl Oracle for Stale {
    type Stop = &'static str;

    fn is_valid(&mut self, _: &Value) -> bool {
        true
    }

    fn fails(&mut self, scenario: &Value) -> Result<Option<Hits>, &'static str> {
        let ops: Vec<&Value> = scenario["workload"].as_array().into_iter().flatten().collect();
        let place = |name: &str| ops.iter().position(|op| op["op"] == name);
        let (Some(write), Some(read)) = (place("write"), place("read")) else { return Ok(None) };
        let past = match ops[read]["direct"] == true {
            true => place("fsync").is_some_and(|fsync| write < fsync && fsync < read && ops[fsync]["errno"] == "EIO"),
            false => place("sync").is_some() && place("drop_caches").is_some_and(|drop| write < drop && drop < read),
        };
        Ok((write < read && past).then(Hits::new))
    }
}

#[test]
fn dropped_caches_become_the_shortest_way_to_the_disk() {
    let start = json!({"workload": [
        {"op": "write", "path": "f", "len": 512, "pattern": "p"}, {"op": "sync"}, {"op": "drop_caches"}, {"op": "read", "path": "f"}]});
    let reduced = reduce(start, Hits::new(), &mut Stale, 100);
    let wanted = json!([{"op": "write", "path": "f", "len": 512, "pattern": "p"},
        {"op": "fsync", "path": "f", "errno": "EIO"}, {"op": "read", "path": "f", "direct": true}]);
    assert_eq!(reduced.scenario["workload"], wanted);
}

#[test]
fn what_was_found_before_it_was_stopped_is_kept() {
    let start = scenario(12, 9);
    let mut oracle = Planted::new(&["r3", "r8"], &["f2"]);
    let hits = hits_of(&mut oracle, &start);
    oracle.stop_at = 12;
    let reduced = reduce(start, hits, &mut oracle, 100);
    assert_eq!(reduced.ended, Ended::Stopped("Ctrl-C"));
    assert!(oracle.would_fail(&reduced.scenario) && rules(&reduced.scenario) < 12);
    assert_eq!(reduced.steps.last().expect("some").scenario, reduced.scenario);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// The result fails, and no rule or operation can be left out of it.
    #[test]
    fn the_result_fails_and_nothing_can_be_left_out(
        of_rules in 1usize..14, of_ops in 1usize..12,
        rule_seeds in prop::collection::vec(0usize..14, 0..4), op_seeds in prop::collection::vec(0usize..12, 1..4),
        idle in prop::collection::vec(0usize..14, 0..8),
    ) {
        let start = scenario(of_rules, of_ops);
        let mut oracle = Planted::new(&[], &[]);
        oracle.rules = rule_seeds.iter().map(|seed| format!("r{}", seed % of_rules)).collect();
        oracle.ops = op_seeds.iter().map(|seed| format!("f{}", seed % of_ops)).collect();
        oracle.idle = idle.iter().map(|n| format!("r{n}")).filter(|id| !oracle.rules.contains(id)).collect();
        let hits = hits_of(&mut oracle, &start);
        let reduced = reduce(start, hits, &mut oracle, 1000);
        prop_assert_eq!(&reduced.ended, &Ended::Smallest);
        prop_assert!(oracle.would_fail(&reduced.scenario));
        prop_assert_eq!(rules(&reduced.scenario), oracle.rules.len());
        prop_assert_eq!(ops(&reduced.scenario), oracle.ops.len());
        for place in 0..rules(&reduced.scenario) {
            prop_assert!(!oracle.would_fail(&crate::rules::without(&reduced.scenario, place..place + 1)));
        }
    }

    /// The same start and answers give the same path.
    #[test]
    fn the_same_again_is_the_same_path(of_rules in 1usize..10, needed in 0usize..10) {
        let run = || {
            let start = scenario(of_rules, 4);
            let mut oracle = Planted::new(&[&format!("r{}", needed % of_rules)], &["f1"]);
            let hits = hits_of(&mut oracle, &start);
            reduce(start, hits, &mut oracle, 300)
        };
        prop_assert_eq!(run(), run());
    }
}
