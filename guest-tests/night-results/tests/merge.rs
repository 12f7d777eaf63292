//! Merging is a union: any partition of any results, merged in any order and any grouping, gives the same bytes.

use night_results::{Again, Outcome, ResultLine, Signature, Triage, Unit, merge, read_ledger};
use proptest::prelude::*;

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![Just(Outcome::Infrastructure), Just(Outcome::Plain), Just(Outcome::Unjudged), Just(Outcome::Failed)]
}

prop_compose! {
    /// Few units, so that many lines speak of the same.
    fn line()(
        unit in prop::sample::select(vec!["0.0", "0.1", "1.0", "old/0.1", "canary/device", "standing/torn@6.1"]),
        outcome in outcome(),
        took_ms in 0_u64..3,
        signature in prop::option::of(prop::sample::select(vec!["a", "b"])),
        counts in prop::option::of((0_u32..3, 0_u32..3)),
        after in prop::collection::vec(0_u32..3, 0..3),
    ) -> ResultLine {
        let triage = counts.map(|(shown, tried)| Triage { again: Again::Reproducible, needed: None, shown, tried, shrunk: None });
        let unit: Unit = unit.parse().expect("a unit");
        let base = ResultLine::new(unit, "s", "6.1");
        ResultLine { outcome, took_ms, signature: signature.map(Signature::of), triage, after, ..base }
    }
}

fn bytes(lines: impl IntoIterator<Item = ResultLine>) -> String {
    merge(lines).values().map(ResultLine::to_text).collect()
}

proptest! {
    #[test]
    fn any_partition_and_order_and_grouping_gives_the_same_bytes(
        lines in prop::collection::vec((line(), 0_usize..4), 0..24),
        order in any::<prop::sample::Index>(),
    ) {
        let whole = bytes(lines.iter().map(|(line, _)| line.clone()));
        let mut shards: Vec<Vec<ResultLine>> = (0..4)
            .map(|shard| lines.iter().filter(|(_, of)| *of == shard).map(|(line, _)| line.clone()).collect())
            .collect();
        shards.rotate_left(order.index(4));
        let flat = bytes(shards.iter().rev().flatten().cloned());
        prop_assert_eq!(&flat, &whole, "another order");
        let merged: Vec<ResultLine> = shards.iter().flat_map(|shard| merge(shard.clone()).into_values()).collect();
        prop_assert_eq!(&bytes(merged), &whole, "merged in two steps");
    }

    #[test]
    fn merging_again_what_is_merged_changes_nothing(lines in prop::collection::vec(line(), 0..24)) {
        let once = merge(lines);
        let text: String = once.values().map(ResultLine::to_text).collect();
        prop_assert_eq!(bytes(once.into_values()), text.clone());
        let read = read_ledger("merged", text.as_bytes()).expect("what we write we can read");
        prop_assert_eq!(bytes(read.lines.into_values()), text);
    }

    #[test]
    fn no_unit_is_lost_and_none_is_counted_twice(lines in prop::collection::vec(line(), 0..24)) {
        let units: std::collections::BTreeSet<Unit> = lines.iter().map(|line| line.unit.clone()).collect();
        let merged = merge(lines);
        prop_assert_eq!(merged.keys().cloned().collect::<std::collections::BTreeSet<_>>(), units);
    }
}

fn of(outcome: Outcome, why: &str) -> ResultLine {
    ResultLine { outcome, why: why.into(), ..ResultLine::new("3.17".parse().expect("a unit"), "seed-3.17", "6.1") }
}

#[test]
fn machines_that_disagree_give_one_flaky_line_with_the_worse_outcome() {
    let merged = merge([of(Outcome::Plain, ""), of(Outcome::Failed, "stale data")]);
    let line = &merged[&"3.17".parse().expect("a unit")];
    let triage = line.triage.as_ref().expect("that they disagree is said");
    assert_eq!((line.outcome, triage.again, triage.shown, triage.tried), (Outcome::Failed, Again::Flaky, 1, 2));
    assert_eq!(line.why, "machines disagree: plain; failed (stale data)");
}

#[test]
fn a_machine_that_could_not_look_does_not_make_a_unit_flaky() {
    let merged = merge([of(Outcome::Infrastructure, "no QEMU"), of(Outcome::Plain, "")]);
    assert_eq!(merged.into_values().collect::<Vec<_>>(), [of(Outcome::Plain, "")]);
}

#[test]
fn the_same_said_twice_counts_once() {
    let slow = ResultLine { took_ms: 9, ..of(Outcome::Plain, "") };
    let quick = ResultLine { took_ms: 1, ..of(Outcome::Plain, "") };
    assert_eq!(merge([slow, quick.clone()]).into_values().collect::<Vec<_>>(), [quick]);
}
