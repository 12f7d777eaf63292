//! What must hold for every script and every sequence of requests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use fault_injection::event::{Outcome, Purpose};
use fault_injection::{
    Arrival, Decision, Engine, Gate, Moves, Op, Replay, Request, Script, Source, Status, Work, load,
};
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

const DISK: u64 = 64;

fn matches() -> impl Strategy<Value = Value> {
    let op = prop_oneof![
        2 => Just(None),
        3 => select(vec![json!("write"), json!("read"), json!(["write", "read"])]).prop_map(Some),
    ];
    let range = (0..DISK, 1..24u64).prop_map(|(start, length)| json!([[start, start + length]]));
    let overlap = select(vec!["any", "within", "covers"]);
    let size = (0..6u64, 6..20u64).prop_map(|(min, max)| json!({"min": min, "max": max}));
    (op, prop::option::of((range, overlap)), prop::option::of(size), prop::option::weighted(0.2, 0..2u16)).prop_map(
        |(op, place, size, queue)| {
            let mut fields = serde_json::Map::new();
            fields.extend(op.map(|op| ("op".to_string(), op)));
            if let Some((range, overlap)) = place {
                fields.insert("sectors".to_string(), range);
                fields.insert("overlap".to_string(), overlap.into());
            }
            fields.extend(size.map(|size| ("size".to_string(), size)));
            fields.extend(queue.map(|queue| ("queue".to_string(), queue.into())));
            Value::Object(fields)
        },
    )
}

fn point() -> impl Strategy<Value = Value> {
    points_from(0)
}

fn points_from(least: u64) -> impl Strategy<Value = Value> {
    (select(vec!["matches", "requests", "writes", "flushes", "bytes"]), least..12u64)
        .prop_map(|(kind, n)| json!({kind: if kind == "bytes" { n * 512 } else { n }}))
}

fn trigger() -> impl Strategy<Value = Value> {
    prop_oneof![
        3 => Just(json!({})),
        2 => select(vec![0.1, 0.5, 0.9]).prop_map(|p| json!({"probability": p})),
        1 => (1..5u64).prop_map(|n| json!({"nth": [n, n + 2], "key": "ordinal"})),
        1 => (1..4u64, 1..3u64).prop_map(|(every, limit)| json!({"every": every, "limit": limit})),
        2 => point().prop_map(|after| json!({"after": after})),
        1 => (point(), point()).prop_map(|(after, until)| json!({"after": after, "until": until, "probability": 0.7})),
    ]
}

fn action() -> impl Strategy<Value = Value> {
    prop_oneof![
        select(vec!["none", "all", "random"]).prop_map(|t| json!({"error": {"status": "ioerr", "transfer": t}})),
        (0..6u64).prop_map(|n| json!({"partial": {"sectors": n, "status": "ok"}})),
        (0..3000u64).prop_map(|n| json!({"partial": {"bytes": n, "status": "ioerr", "used_len": "full"}})),
        Just(json!({"lose": {}})),
        Just(json!({"delay": {"dist": "exponential", "mean_us": 100}})),
        Just(json!({"delay": {"ms": 1, "when": "arrival"}})),
        point().prop_map(|point| json!({"hold": {"until": point}})),
        (2..5u64, select(vec!["reverse", "shuffle", "lifo"]))
            .prop_map(|(window, policy)| json!({"reorder": {"window": window, "policy": policy}})),
        (1..6u64, select(vec!["forward", "reverse", "shuffle"]))
            .prop_map(|(n, order)| json!({"split": {"max_sectors": n, "order": order}})),
        (1..4u64).prop_map(|n| json!({"split": {"at": [n, n + 3]}})),
        (
            select(vec!["sector", "byte", "block"]),
            select(vec![json!("prefix"), json!("suffix"), json!("random"), json!([0, 2])])
        )
            .prop_map(|(unit, keep)| json!({"torn": {"unit": unit, "keep": keep}})),
        (0..DISK).prop_map(|to| json!({"misdirect": {"to_sector": to}})),
        (1..9u64, select(vec!["wire", "media"]))
            .prop_map(|(bits, place)| json!({"corrupt": {"bits": bits, "where": place}})),
        (1..4u64).prop_map(|versions| json!({"stale": {"versions": versions}})),
        select(vec!["kill_vm", "snapshot"])
            .prop_map(|then| json!({"power_cut": {"unflushed": "prefix", "then": then}})),
    ]
}

/// Rules r0, r1, …, of which some of those after a split look at its children. Rules that make no sense are left out.
fn rules() -> impl Strategy<Value = Vec<Value>> {
    prop::collection::vec((matches(), trigger(), action(), any::<bool>()), 0..7).prop_map(|parts| {
        let mut rules: Vec<Value> = Vec::new();
        let mut split: Option<String> = None;
        for (i, (mut matches, trigger, action, child)) in parts.into_iter().enumerate() {
            let id = format!("r{i}");
            if let (Some(split), true) = (&split, child) {
                matches["child_of"] = split.as_str().into();
            }
            let rule = json!({"id": id, "match": matches, "trigger": trigger, "action": action});
            let mut with_rule = rules.clone();
            with_rule.push(rule.clone());
            if try_load(&with_rule, 1).is_some() {
                if rule["action"].get("split").is_some() {
                    split = Some(id);
                }
                rules.push(rule);
            }
        }
        rules
    })
}

fn requests() -> impl Strategy<Value = Vec<Request>> {
    let op = select(vec![Op::Read, Op::Write, Op::Write, Op::Flush, Op::Discard, Op::WriteZeroes, Op::GetId]);
    let request = (op, 0..DISK / 4, 1..6u64, 0..2u16).prop_map(|(op, sector, sectors, queue)| {
        let sectored = !matches!(op, Op::Flush | Op::GetId);
        // Few places, so that the same extent comes again.
        let (sector, sectors) = if sectored { (sector * 4, sectors * 3) } else { (0, 0) };
        Request { op, sector, sectors, queue, inflight: 0 }
    });
    prop::collection::vec(request, 0..40)
}

fn try_load(rules: &[Value], seed: u64) -> Option<Arc<Script>> {
    let text = json!({"faultscript": 1, "seed": seed, "rules": rules}).to_string();
    load(&[Source { name: "script.json", text: &text }]).ok().map(|loaded| Arc::new(loaded.script))
}

fn script(rules: &[Value], seed: u64) -> Arc<Script> {
    try_load(rules, seed).expect("the generator keeps only rules that load")
}

fn run(script: &Arc<Script>, requests: &[Request]) -> Vec<Decision> {
    let mut engine = Engine::new(Arc::clone(script), None);
    (0u64..).zip(requests).map(|(seq, request)| engine.decide(Arrival { seq, elapsed_ms: 0 }, request)).collect()
}

fn lines(decisions: &[Decision]) -> String {
    let lines = decisions.iter().flat_map(|decision| &decision.log);
    lines.map(|record| serde_json::to_string(record).expect("plain data") + "\n").collect()
}

/// What a rule drew and did, without what other rules made of it.
fn by_rule(decisions: &[Decision], rule: &str) -> Vec<(u64, u64, Option<u32>, Vec<String>)> {
    let records = decisions.iter().flat_map(|decision| &decision.log).filter(|record| record.rule == rule);
    let draws = |record: &fault_injection::Record| {
        let probability =
            record.draw.iter().filter(|draw| draw.purpose == fault_injection::event::Purpose::Probability);
        probability.map(|draw| draw.value.clone()).collect()
    };
    records.map(|record| (record.seq, record.match_number, record.child, draws(record))).collect()
}

fn is_inert(decision: &Decision) -> bool {
    let whole = matches!(&decision.work, Work::Whole(piece) if piece.moves == Moves::All && piece.status == Status::OK);
    let quiet = decision.released.is_empty() && decision.device.is_empty() && decision.events.is_empty();
    whole && quiet && decision.gate == Gate::Open && decision.log.is_empty()
}

fn scope() -> impl Strategy<Value = Value> {
    let heal = prop_oneof![select(vec![json!("rewrite"), json!("never"), json!("reset")]), points_from(1),];
    prop_oneof![
        1 => Just(json!("device")),
        4 => (select(vec!["matched", "request"]), heal).prop_map(|(sectors, heal)| json!({"sticky": {"sectors": sectors, "heal": heal}})),
    ]
}

fn event() -> impl Strategy<Value = Value> {
    let at = points_from(1).prop_filter("an event matches nothing", |point| point.get("matches").is_none());
    let happens = prop_oneof![
        select(vec!["writes", "reads", "all", "none"]).prop_map(|class| json!({"fail_class": class})),
        Just(json!({"heal": {}})),
        (1u64..4096).prop_map(|sectors| json!({"capacity_sectors": sectors})),
        Just(json!({"disconnect": {"reconnect_ms": 5}})),
        select(vec!["writeback", "writethrough"]).prop_map(|cache| json!({"write_cache": cache})),
        select(vec!["a", "b"]).prop_map(|value| json!({"set": {"s": value}})),
        Just(json!({"power_cut": {"unflushed": {"subset": {}}, "then": "snapshot"}})),
    ];
    (at, happens).prop_map(|(at, happens)| json!({"at": at, "do": happens}))
}

/// Scripts with everything in them: what lasts, states, events.
fn whole_scripts() -> impl Strategy<Value = Arc<Script>> {
    let parts = prop::collection::vec(
        (prop::option::of(scope()), prop::option::weighted(0.3, select(vec!["a", "b"])), 0..4u8),
        7,
    );
    (rules(), parts, prop::collection::vec(event(), 0..4)).prop_map(|(rules, parts, events)| {
        let mut whole = json!({"faultscript": 1, "seed": 3, "states": {"s": ["a", "b"]}, "rules": [], "events": []});
        let loads = |whole: &Value| load(&[Source { name: "s", text: &whole.to_string() }]).ok();
        for (rule, (scope, when, sets)) in rules.into_iter().zip(parts) {
            let mut more = rule.clone();
            if let Some(scope) = scope {
                more["scope"] = scope;
            }
            if let Some(when) = when {
                more["trigger"]["when"] = json!({"s": when});
            }
            if sets == 0 {
                more["action"] = json!({"set": {"s": "b"}});
            }
            // A change that makes no sense for this rule is left out.
            for rule in [more, rule] {
                let mut with = whole.clone();
                with["rules"].as_array_mut().expect("a list").push(rule);
                if loads(&with).is_some() {
                    whole = with;
                    break;
                }
            }
        }
        for (i, mut event) in events.into_iter().enumerate() {
            event["id"] = format!("e{i}").into();
            whole["events"].as_array_mut().expect("a list").push(event);
        }
        Arc::new(loads(&whole).expect("the generator keeps only what loads").script)
    })
}

fn all_lines(script: &Arc<Script>, decisions: &[Decision]) -> String {
    let mut text = serde_json::to_string(&Engine::new(script.clone(), None).header(1)).expect("plain data") + "\n";
    for decision in decisions {
        decision.log.iter().for_each(|line| text += &(serde_json::to_string(line).expect("plain data") + "\n"));
        decision.events.iter().for_each(|line| text += &(serde_json::to_string(line).expect("plain data") + "\n"));
    }
    text
}

/// The lines about a request, without their place in the arrival order, and without the order of a window, which stands
/// in the line of whichever request came last.
fn met_by(decision: &Decision) -> Vec<String> {
    let lines = decision.log.iter().cloned().map(|mut record| {
        record.seq = 0;
        if let Outcome::Reorder { order, .. } = &mut record.outcome {
            *order = None;
            record.draw.retain(|draw| draw.purpose != Purpose::Order);
        }
        serde_json::to_string(&record).expect("plain data")
    });
    lines.collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// As below, with filters that change while the script runs.
    #[test]
    fn what_lasts_and_what_happens_passes_no_filter_unseen(script in whole_scripts(), requests in requests()) {
        let mut asked_always = Engine::new(Arc::clone(&script), None);
        let mut asked_if_needed = Engine::new(Arc::clone(&script), None);
        for (seq, request) in (0u64..).zip(&requests) {
            let arrival = Arrival { seq, elapsed_ms: 0 };
            let asked = asked_if_needed.filter().may_match(request.op, request.sector, request.sectors, request.queue);
            let decision = asked_always.decide(arrival, request);
            if asked {
                prop_assert_eq!(&decision, &asked_if_needed.decide(arrival, request));
            } else {
                prop_assert!(is_inert(&decision), "{:?}: {:?}", request, decision);
            }
        }
        prop_assert_eq!(asked_always.rules(), asked_if_needed.rules());
    }

    #[test]
    fn a_whole_script_written_back_is_the_same_script(script in whole_scripts(), requests in requests()) {
        let text = script.normalized();
        let again = load(&[Source { name: "again", text: &text }]).map_err(|problems| TestCaseError::fail(problems.to_string()))?;
        prop_assert_eq!(&again.script.normalized(), &text);
        prop_assert_eq!(run(&script, &requests), run(&Arc::new(again.script), &requests));
    }

    /// The record of a run is enough to run it again.
    #[test]
    fn a_run_that_is_replayed_decides_the_same_and_misses_nothing(script in whole_scripts(), requests in requests()) {
        let decided = run(&script, &requests);
        let recorded = all_lines(&script, &decided);
        let replay = Replay::parse(&recorded).map_err(TestCaseError::fail)?;
        let mut engine = Engine::new(Arc::clone(&script), Some(replay.seed()));
        engine.force(replay).map_err(TestCaseError::fail)?;
        let again: Vec<Decision> =
            (0u64..).zip(&requests).map(|(seq, request)| engine.decide(Arrival { seq, elapsed_ms: 0 }, request)).collect();
        prop_assert_eq!(all_lines(&script, &again), recorded);
        prop_assert_eq!(again, decided);
        let replay = engine.replay().expect("it is forced");
        prop_assert_eq!((replay.missing(), replay.differs()), (Vec::<String>::new(), Vec::<String>::new()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every request is met by what met it then, whatever order they come in: also the windows of the reorder rules.
    #[test]
    fn a_replay_does_not_depend_on_the_order_of_requests(
        rules in rules(), requests in requests(), shuffle in prop::collection::vec(any::<u32>(), 40),
    ) {
        let mut seen = std::collections::BTreeSet::new();
        let address = |request: &Request| (request.op as u8, request.sector, request.sectors);
        // Children of splits are recognised by their own sectors: where two requests share some, their order counts.
        let splits = rules.iter().any(|rule| rule["action"].get("split").is_some());
        let mut taken: Vec<Request> = Vec::new();
        let mut is_alone = |request: &Request| {
            let meets = |other: &Request| {
                other.op == request.op
                    && other.sector < request.sector + request.sectors
                    && request.sector < other.sector + other.sectors
            };
            let alone = !splits || !taken.iter().any(meets);
            taken.extend(alone.then_some(*request));
            alone
        };
        let requests: Vec<Request> =
            requests.into_iter().filter(|request| seen.insert(address(request)) && is_alone(request)).collect();
        let script = script(&rules, 7);
        let decided = run(&script, &requests);
        let replay = Replay::parse(&all_lines(&script, &decided)).map_err(TestCaseError::fail)?;
        let mut engine = Engine::new(Arc::clone(&script), Some(replay.seed()));
        engine.force(replay).map_err(TestCaseError::fail)?;
        let mut order: Vec<usize> = (0..requests.len()).collect();
        order.sort_by_key(|i| shuffle[*i]);
        let mut again: Vec<(usize, Decision)> = (0u64..)
            .zip(&order)
            .map(|(seq, i)| (*i, engine.decide(Arrival { seq, elapsed_ms: 0 }, &requests[*i])))
            .collect();
        again.sort_by_key(|(i, _)| *i);
        for ((_, now), then) in again.iter().zip(&decided) {
            prop_assert_eq!((met_by(now), &now.work), (met_by(then), &then.work));
        }
        let replay = engine.replay().expect("it is forced");
        prop_assert_eq!((replay.missing(), replay.differs()), (Vec::<String>::new(), Vec::<String>::new()));
    }

    #[test]
    fn the_same_script_seed_and_requests_give_the_same_decisions(
        rules in rules(), requests in requests(), seed in 0..1000u64,
    ) {
        let first = run(&script(&rules, seed), &requests);
        let second = run(&script(&rules, seed), &requests);
        prop_assert_eq!(lines(&first), lines(&second));
        prop_assert_eq!(first, second);
    }

    /// The device may leave out what the filter turns away, and nothing changes.
    #[test]
    fn the_filter_turns_away_only_what_cannot_matter(rules in rules(), requests in requests()) {
        let script = script(&rules, 5);
        let mut asked_always = Engine::new(Arc::clone(&script), None);
        let mut asked_if_needed = Engine::new(Arc::clone(&script), None);
        let filter = asked_always.filter();
        for (seq, request) in (0u64..).zip(&requests) {
            let arrival = Arrival { seq, elapsed_ms: 0 };
            let decision = asked_always.decide(arrival, request);
            if filter.may_match(request.op, request.sector, request.sectors, request.queue) {
                prop_assert_eq!(&decision, &asked_if_needed.decide(arrival, request));
            } else {
                prop_assert!(is_inert(&decision), "{:?}: {:?}", request, decision);
            }
        }
        prop_assert_eq!(asked_always.counters(), asked_if_needed.counters());
    }

    /// Whoever adds a rule to a script finds the others firing where they fired.
    #[test]
    fn an_added_rule_does_not_shift_the_others(
        rules in rules(), requests in requests(), added in (matches(), trigger(), action()), at in 0..7usize,
    ) {
        // An added split brings children into being, and a shadowed one takes them away: others' matches, then, do change.
        prop_assume!(added.2.get("split").is_none());
        let shadows_split = rules.iter().any(|rule| rule["action"].get("split").is_some());
        let transfers = ["lose", "partial", "torn", "misdirect", "corrupt", "stale"];
        prop_assume!(!(shadows_split && transfers.iter().any(|action| added.2.get(action).is_some())));
        let mut more = rules.clone();
        more.insert(at.min(rules.len()), json!({"id": "added", "match": added.0, "trigger": added.1, "action": added.2}));
        let Some(more) = try_load(&more, 9) else { return Ok(()) };
        let (without, with) = (run(&script(&rules, 9), &requests), run(&more, &requests));
        for rule in &rules {
            let id = rule["id"].as_str().expect("an id");
            prop_assert_eq!(by_rule(&without, id), by_rule(&with, id), "{}", id);
        }
    }

    /// With several queues the guest's requests come in any order; draws by address do not care.
    #[test]
    fn the_order_of_requests_does_not_change_which_addresses_fail(
        requests in requests(), order in any::<u64>(), seed in 0..1000u64,
    ) {
        let rule = json!({"id": "flaky", "trigger": {"probability": 0.3}, "action": {"error": {"status": "ioerr", "transfer": "random"}}});
        let script = script(&[rule], seed);
        let mut shuffled = requests.clone();
        shuffled.sort_by_key(|request| (order.wrapping_mul(request.sector * 31 + request.sectors * 7 + request.op as u64)) >> 7);
        prop_assert_eq!(failures(&run(&script, &requests)), failures(&run(&script, &shuffled)));
    }

    #[test]
    fn pieces_cover_the_request_and_the_order_names_each_once(rules in rules(), requests in requests()) {
        for (request, decision) in requests.iter().zip(run(&script(&rules, 1), &requests)) {
            let Work::Split { pieces, order, .. } = decision.work else { continue };
            let mut next = request.sector;
            for piece in &pieces {
                prop_assert_eq!(piece.sector, next);
                prop_assert!(piece.sectors > 0);
                next += piece.sectors;
            }
            prop_assert_eq!(next, request.sector + request.sectors);
            prop_assert!(pieces.len() > 1, "a split that cuts nothing must not count as fired");
            let each: BTreeSet<u32> = order.iter().copied().collect();
            prop_assert_eq!(each, (0..pieces.len() as u32).collect::<BTreeSet<_>>());
            prop_assert_eq!(order.len(), pieces.len());
        }
    }

    #[test]
    fn a_prefix_is_shorter_than_its_piece_and_only_ok_can_lie(rules in rules(), requests in requests()) {
        for decision in run(&script(&rules, 2), &requests) {
            let pieces = match decision.work {
                Work::Whole(piece) => vec![piece],
                Work::Split { pieces, .. } => pieces,
            };
            for piece in pieces {
                match piece.moves {
                    Moves::Torn { kept } => {
                        let bytes: u64 = kept.iter().map(|stretch| stretch.1 - stretch.0).sum();
                        prop_assert!(bytes > 0 && bytes < piece.sectors * 512);
                        prop_assert!(kept.iter().all(|stretch| stretch.0 < stretch.1 && stretch.1 <= piece.sectors * 512));
                    }
                    Moves::Misdirected { .. } | Moves::Corrupt(_) | Moves::Stale { .. } => {}
                    Moves::Prefix { bytes } => prop_assert!(bytes < piece.sectors.max(1) * 512),
                    Moves::Lost => prop_assert_eq!(piece.status, Status::OK),
                    Moves::All => {}
                }
            }
        }
    }

    #[test]
    fn a_normalized_script_loads_as_itself_and_decides_the_same(rules in rules(), requests in requests()) {
        let original = script(&rules, 4);
        let text = original.normalized();
        let again = load(&[Source { name: "script.normalized.json", text: &text }]).map_err(|problems| TestCaseError::fail(problems.to_string()))?;
        prop_assert_eq!(&again.script.normalized(), &text);
        prop_assert_eq!(run(&original, &requests), run(&Arc::new(again.script), &requests));
    }

    #[test]
    fn no_text_makes_the_loader_panic(text in ".{0,80}", cut in any::<prop::sample::Index>(), rules in rules()) {
        let _ = load(&[Source { name: "a", text: &text }]);
        let script = json!({"faultscript": 1, "rules": rules}).to_string();
        let _ = load(&[Source { name: "b", text: &script[..cut.index(script.len())] }]);
    }
}

/// How often which extent failed, and with how much moved.
fn failures(decisions: &[Decision]) -> BTreeMap<String, u32> {
    let mut failures = BTreeMap::new();
    for record in decisions.iter().flat_map(|decision| &decision.log) {
        let what =
            format!("{:?} {}+{} touch {} {:?}", record.op, record.sector, record.sectors, record.touch, record.outcome);
        *failures.entry(what).or_default() += 1;
    }
    failures
}
