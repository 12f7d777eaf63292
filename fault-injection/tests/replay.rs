//! What a replay forces beside single firings: windows, events, and what a person did. And what it cannot force, it says.

use std::sync::Arc;

use fault_injection::{Arrival, Decision, DeviceAction, Engine, FailClass, Gate, Op, Replay, Request, Source, load};

fn engine(script: &str) -> Engine {
    let loaded = load(&[Source { name: "script.json", text: script }]).unwrap_or_else(|problems| panic!("{problems}"));
    Engine::new(Arc::new(loaded.script), Some(3))
}

fn write(sector: u64, queue: u16) -> Request {
    Request { op: Op::Write, sector, sectors: 8, queue, inflight: 0 }
}

/// A run, and its decisions.jsonl as it grows.
struct Run {
    engine: Engine,
    seq: u64,
    lines: String,
}

impl Run {
    fn new(script: &str) -> Run {
        let engine = engine(script);
        let lines = serde_json::to_string(&engine.header(2)).expect("plain data") + "\n";
        Run { engine, seq: 0, lines }
    }

    fn again(script: &str, recorded: &str) -> Run {
        let mut run = Run::new(script);
        run.engine.force(Replay::parse(recorded).expect("readable")).expect("the same script");
        run
    }

    fn decide(&mut self, request: Request) -> Decision {
        let decision = self.engine.decide(Arrival { seq: self.seq, elapsed_ms: 0 }, &request);
        self.seq += 1;
        for line in &decision.log {
            self.lines += &(serde_json::to_string(line).expect("plain data") + "\n");
        }
        self.note(&decision.events);
        decision
    }

    fn note(&mut self, events: &[fault_injection::EventRecord]) {
        for line in events {
            self.lines += &(serde_json::to_string(line).expect("plain data") + "\n");
        }
    }

    fn statuses(&mut self, sectors: &[u64]) -> Vec<u8> {
        let status = |decision: Decision| match decision.work {
            fault_injection::Work::Whole(piece) => piece.status.0,
            fault_injection::Work::Split { .. } => panic!("nothing is split here"),
        };
        sectors.iter().map(|sector| status(self.decide(write(*sector, 0)))).collect()
    }

    fn said(&self) -> Vec<String> {
        let replay = self.engine.replay().expect("it is one");
        replay.missing().into_iter().chain(replay.differs()).collect()
    }
}

const WINDOWS: &str = r#"{"faultscript": 1, "rules": [
  {"id": "w", "match": {"op": "write"}, "action": {"reorder": {"window": 3, "policy": "shuffle"}}}]}"#;

/// Sectors of each window in the order in which they are answered.
fn windows(decided: &[(u64, Decision)]) -> Vec<(u64, Vec<u64>)> {
    let mut ordered = Vec::new();
    let placed = |window: u64, slot: u32| {
        let found = decided.iter().find(|(_, decision)| {
            matches!(decision.gate, Gate::Reorder { window: w, slot: s, .. } if (w, s) == (window, slot))
        });
        found.expect("somebody has this place").0
    };
    for (_, decision) in decided {
        if let Gate::Reorder { window, order: Some(order), .. } = &decision.gate {
            ordered.push((*window, order.iter().map(|slot| placed(*window, *slot)).collect()));
        }
    }
    ordered.sort();
    ordered
}

#[test]
fn windows_hold_what_they_held_and_are_answered_as_they_were_in_whatever_order_requests_come() {
    let mut first = Run::new(WINDOWS);
    let decide = |run: &mut Run, sectors: &[u64]| -> Vec<(u64, Decision)> {
        sectors.iter().map(|sector| (*sector, run.decide(write(*sector, (*sector % 2) as u16)))).collect()
    };
    let then = windows(&decide(&mut first, &[0, 8, 16, 24, 32, 40]));
    let mut again = Run::again(WINDOWS, &first.lines);
    let now = decide(&mut again, &[40, 0, 24, 16, 8, 32]);
    assert_eq!(windows(&now), then);
    assert_eq!(now[1].1.gate, decide(&mut Run::again(WINDOWS, &first.lines), &[0])[0].1.gate, "its place is its own");
    assert_eq!(again.said(), Vec::<String>::new());
    // The record of the replay is as good as the first one.
    let mut once_more = Run::again(WINDOWS, &again.lines);
    assert_eq!(windows(&decide(&mut once_more, &[8, 16, 0, 32, 40, 24])), then);
}

#[test]
fn a_window_that_time_closes_too_early_is_a_divergence() {
    let mut first = Run::new(WINDOWS);
    first.statuses(&[0, 8, 16]);
    let mut again = Run::again(WINDOWS, &first.lines);
    let Gate::Reorder { rule, window, .. } = again.decide(write(8, 0)).gate else { panic!("a window") };
    let closed = again.engine.close_window(rule, window);
    assert_eq!(closed.order.len(), 3, "the order of all places, of which one is taken");
    assert_eq!(closed.record.expect("a line").sector, 8);
    assert_eq!(
        again.said(),
        [
            "rule \"w\": write 0+8, touch 1 (request 0 then) never came",
            "rule \"w\": write 16+8, touch 1 (request 2 then) never came",
            "rule \"w\": window 0 was closed by time with 1 of its 3 requests",
        ]
    );
}

const CLASS: &str = r#"{"faultscript": 1, "events": [
  {"id": "ro", "at": {"ms": 500}, "do": {"fail_class": "writes"}},
  {"id": "small", "at": {"writes": 3}, "do": {"capacity_sectors": 64}},
  {"id": "rw", "at": {"mark": "M"}, "do": {"fail_class": "none"}}]}"#;

fn recorded_class() -> Run {
    let mut first = Run::new(CLASS);
    assert_eq!(first.statuses(&[0, 8]), [0, 0]);
    let reached = first.engine.tick(2, 500);
    first.note(&reached.events);
    assert_eq!(first.statuses(&[16, 24]), [1, 1]);
    let reached = first.engine.mark("M", 4, 600);
    first.note(&reached.events);
    assert_eq!(first.statuses(&[32]), [0]);
    first
}

#[test]
fn events_happen_after_as_many_requests_as_then_and_not_by_the_clock() {
    let first = recorded_class();
    let mut again = Run::again(CLASS, &first.lines);
    assert_eq!(again.engine.next_tick_ms(), None, "no clock");
    assert!(again.engine.tick(0, 100_000).events.is_empty());
    assert_eq!(again.statuses(&[0]), [0]);
    assert_eq!(again.statuses(&[8]), [0]);
    let third = again.decide(write(16, 0));
    assert_eq!(third.device, [DeviceAction::Resize { capacity_sectors: 64 }]);
    assert_eq!(again.statuses(&[24]), [1]);
    assert_eq!(again.engine.mark("M", 4, 0).events.len(), 1, "a mark is where the workload sets it");
    assert_eq!(again.statuses(&[32]), [0]);
    assert_eq!(again.said(), Vec::<String>::new());
    assert_eq!(
        again.lines.lines().count() + 1,
        first.lines.lines().count(),
        "all but the one at the mark, not noted here"
    );
}

#[test]
fn who_fails_now_and_did_not_then_is_named_and_so_is_what_never_happened() {
    let first = recorded_class();
    let mut again = Run::again(CLASS, &first.lines);
    assert_eq!(again.statuses(&[16, 24, 0]), [0, 0, 1]);
    assert_eq!(
        again.said(),
        [
            "rule \"ro\": write 16+8, touch 1 (request 2 then) never came",
            "rule \"ro\": write 24+8, touch 1 (request 3 then) never came",
            "event \"rw\": its mark never came",
            "\"ro\" fails write 0+8, touch 1, and did not then",
        ]
    );
    let mut short = Run::again(CLASS, &first.lines);
    short.statuses(&[0]);
    assert!(
        short.said().iter().any(|line| line.contains("event \"small\": only 3 requests had come")),
        "{:?}",
        short.said()
    );
}

#[test]
fn what_a_person_did_to_the_device_is_done_again_at_its_place() {
    let script = r#"{"faultscript": 1}"#;
    let mut first = Run::new(script);
    first.statuses(&[0]);
    let by_hand = [first.engine.fail_class(FailClass::Writes, 1), first.engine.resize(128, 1)];
    first.note(&by_hand);
    assert_eq!(first.statuses(&[8]), [1]);
    let healed = first.engine.heal(None, 2).expect("nothing to name");
    first.note(&[healed]);
    assert_eq!(first.statuses(&[16]), [0]);
    let mut again = Run::again(script, &first.lines);
    assert!(again.engine.filter().may_match(Op::GetId, 0, 0, 0), "every request counts");
    let decision = again.decide(write(0, 0));
    assert_eq!(decision.device, [DeviceAction::Resize { capacity_sectors: 128 }]);
    assert_eq!(again.statuses(&[8, 16]), [1, 0]);
    assert_eq!(again.said(), Vec::<String>::new());
    assert!(!again.engine.filter().may_match(Op::GetId, 0, 0, 0), "nothing more is waited for");
}
