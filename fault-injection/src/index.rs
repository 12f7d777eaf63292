//! Finds the rules that can look at a request without asking each rule, and the requests no rule can look at without
//! asking the engine.
//!
//! For each type the disk is cut into cells at the ends of all ranges; a cell lists the rules whose range covers it.
//! Lookups cost one binary search, however many rules there are.

use std::sync::Arc;

use crate::directory::Directory;
use crate::event::FailClass;
use crate::ranges::Ranges;
use crate::request::{Op, Request};
use crate::rule::{Heal, OPS, OpSet, Point, Rule, Scope};
use crate::script::Script;

/// Rules by type and place. Children of splits are not in it: they never arrive.
#[derive(Debug)]
pub struct Index {
    ops: [OpIndex; OPS.len()],
}

#[derive(Debug, Default)]
struct OpIndex {
    /// Rules without ranges, in file order.
    everywhere: Vec<u32>,
    /// Cell i reaches from `starts[i]` to `starts[i + 1]`.
    starts: Vec<u64>,
    /// Rules with a range over the cell, in file order.
    cells: Vec<Vec<u32>>,
}

impl Index {
    pub fn new(rules: &[Rule]) -> Index {
        Index { ops: OPS.map(|(_, op)| OpIndex::new(rules, op)) }
    }

    /// Puts into `found` the rules that may match, in file order. The rule itself has the last word.
    pub fn candidates(&self, request: &Request, found: &mut Vec<u32>) {
        let of_op = &self.ops[request.op as usize];
        found.clear();
        found.extend_from_slice(&of_op.everywhere);
        for cell in of_op.cells_of(request) {
            found.extend_from_slice(cell);
        }
        found.sort_unstable();
        found.dedup();
    }
}

impl OpIndex {
    fn new(rules: &[Rule], op: Op) -> OpIndex {
        let of_op = || (0u32..).zip(rules).filter(|(_, rule)| arrives(rule) && rule.matches.op.has(op));
        let everywhere = of_op().filter(|(_, rule)| looks_at(rule).is_empty()).map(|(i, _)| i).collect();
        let mut starts: Vec<u64> = of_op().flat_map(|(_, rule)| looks_at(rule)).flat_map(|r| [r.0, r.1]).collect();
        starts.sort_unstable();
        starts.dedup();
        let mut cells = vec![Vec::new(); starts.len()];
        for (i, rule) in of_op() {
            for &(start, end) in looks_at(rule) {
                let (first, after) = (starts.partition_point(|&s| s < start), starts.partition_point(|&s| s < end));
                cells[first..after].iter_mut().for_each(|cell: &mut Vec<u32>| cell.push(i));
            }
        }
        OpIndex { everywhere, starts, cells }
    }

    fn cells_of(&self, request: &Request) -> &[Vec<u32>] {
        let end = request.sector.saturating_add(request.sectors);
        // The cell a request begins in starts at or before it; the first cell of all may start after it.
        let first = self.starts.partition_point(|&start| start <= request.sector).saturating_sub(1);
        let after = self.starts.partition_point(|&start| start < end).max(first);
        &self.cells[first..after]
    }
}

fn arrives(rule: &Rule) -> bool {
    rule.enabled && rule.matches.child_of.is_none()
}

/// Where requests lie that a rule may act on; empty is everywhere.
fn looks_at(rule: &Rule) -> &[(u64, u64)] {
    if rule.may_stick_anywhere() { &[] } else { &rule.matches.sectors }
}

/// Whether a rule must see writes it does not match, because they heal what stuck.
fn watches_writes(rule: &Rule) -> bool {
    rule.enabled && matches!(rule.scope, Scope::Sticky { heal: Heal::Rewrite, .. })
}

/// Says without a lock whether a request can matter to the engine. Immutable; clones share.
///
/// The queue is not looked at: touches of an extent are counted over all queues, so that draws keyed by address do not
/// depend on the queue a request came by.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Types that matter anywhere at all.
    some: OpSet,
    /// Types that matter everywhere.
    all: OpSet,
    places: Arc<[Directory; OPS.len()]>,
}

impl Filter {
    pub(crate) fn new(script: &Script, failing: FailClass) -> Filter {
        let mut all = counted(script).or(failing.ops());
        let mut ranges: [Ranges; OPS.len()] = Default::default();
        for rule in &script.rules {
            let ops = if arrives(rule) { rule.matches.op } else { OpSet::NONE };
            let ops = if watches_writes(rule) { ops.or(OpSet::CHANGING) } else { ops };
            match looks_at(rule) {
                [] => all = all.or(ops),
                places => OPS.iter().filter(|(_, op)| ops.has(*op)).for_each(|(_, op)| {
                    places.iter().for_each(|(start, end)| ranges[*op as usize].add(*start, *end));
                }),
            }
        }
        let placed = OPS.iter().filter(|(_, op)| !ranges[*op as usize].is_empty());
        let some = placed.fold(all, |some, (_, op)| some.or(OpSet::of(&[*op])));
        Filter { some, all, places: Arc::new(ranges.map(|ranges| Directory::new(&ranges))) }
    }

    /// Everything matters.
    pub(crate) fn everything() -> Filter {
        Filter { some: OpSet::ALL, all: OpSet::ALL, places: Arc::default() }
    }

    /// False: no rule, point or counter can care about this request, and the engine need not be asked.
    #[inline]
    pub fn may_match(&self, op: Op, sector: u64, sectors: u64, _queue: u16) -> bool {
        let meets = || self.places[op as usize].meets(sector, sector.saturating_add(sectors));
        self.some.has(op) && (self.all.has(op) || meets())
    }
}

/// Types that must be counted wherever they lie, because a point speaks of them.
fn counted(script: &Script) -> OpSet {
    let mut ops = OpSet::NONE;
    for rule in script.rules.iter().filter(|rule| rule.enabled) {
        // A trigger takes the number of requests from `Arrival::seq`; what happens by itself needs the very request.
        for point in [rule.trigger.after.as_ref(), rule.trigger.until.as_ref()].into_iter().flatten() {
            ops = ops.or(counted_for(point, OpSet::NONE));
        }
        for point in [rule.hold_point(), rule.heal_point()].into_iter().flatten() {
            ops = ops.or(counted_for(point, OpSet::ALL));
        }
    }
    script.events.iter().fold(ops, |ops, event| ops.or(counted_for(&event.at, OpSet::ALL)))
}

fn counted_for(point: &Point, any: OpSet) -> OpSet {
    match point {
        Point::Writes(_) => OpSet::of(&[Op::Write]),
        Point::Flushes(_) => OpSet::of(&[Op::Flush]),
        Point::Bytes(_) => OpSet::of(&[Op::Read, Op::Write]),
        Point::Requests(_) => any,
        Point::Matches(_) | Point::Ms(_) | Point::Mark(_) => OpSet::NONE,
    }
}
