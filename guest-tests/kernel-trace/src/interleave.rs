//! Reference steps of several CPUs, in the order in which they were taken.
//!
//! A probe behind an atomic instruction records the true old count, but a moment after the step, and another CPU may take
//! and record its own in between. What is certain of a step: it came behind the event that its own context (a task, or a
//! CPU's interrupts) recorded before it, not behind its own record, and at the count it found. So of one io_end the order
//! is searched for that keeps all three, taking what was recorded first where there is a choice. Counts repeat, so the
//! count alone does not tell; the two places in between which a step lies nearly always do.

use crate::references::Step;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How many choices may be taken back for one io_end before its steps count as ones that fit no order.
const MOST_TAKEN_BACK: usize = 100_000;

/// Whose step it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Context {
    Task(u32),
    Interrupt(u16),
}

/// A step, as its record says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Recorded {
    /// Place of its record in the trace.
    pub(crate) at: usize,
    /// Place of the event that its context recorded before; none: there is none.
    pub(crate) after: Option<usize>,
    pub(crate) context: Context,
    pub(crate) old: u32,
    pub(crate) step: Step,
}

/// Where a step belongs: before the event at `place` (its own record or an earlier event), as number `turn` of its io_end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) place: usize,
    pub(crate) turn: usize,
}

/// The place of each step of one io_end born with `count`, by the place of its record; none if no order fits.
pub(crate) fn places(count: u32, steps: &[Recorded]) -> Option<BTreeMap<usize, Place>> {
    let order = order(count, steps)?;
    let mut places = BTreeMap::new();
    let mut before = usize::MAX;
    for (turn, step) in order.iter().enumerate().rev() {
        before = before.min(step.at);
        places.insert(step.at, Place { place: before, turn });
    }
    Some(places)
}

fn order(count: u32, steps: &[Recorded]) -> Option<Vec<Recorded>> {
    let mut contexts: BTreeMap<Context, Vec<Recorded>> = BTreeMap::new();
    for step in steps {
        contexts.entry(step.context).or_default().push(*step);
    }
    let lanes: Vec<Vec<Recorded>> = contexts.into_values().collect();
    let mut search = Search { lanes: &lanes, taken: vec![0; lanes.len()], dead_ends: BTreeSet::new() };
    let mut order: Vec<(usize, Recorded)> = Vec::with_capacity(steps.len());
    let mut choices: Vec<VecDeque<usize>> = vec![search.candidates(count)];
    while order.len() < steps.len() {
        match choices.last_mut().and_then(VecDeque::pop_front) {
            Some(lane) => {
                let step = search.take(lane);
                order.push((lane, step));
                choices.push(search.candidates(step.step.from(step.old)));
            }
            None => {
                search.note_dead_end()?;
                choices.pop();
                let (lane, _) = order.pop()?;
                search.taken[lane] -= 1;
            }
        }
    }
    Some(order.into_iter().map(|(_, step)| step).collect())
}

struct Search<'a> {
    /// One per context, in the order recorded.
    lanes: &'a [Vec<Recorded>],
    /// How many of each are in the order so far.
    taken: Vec<usize>,
    /// From here no order leads to the end.
    dead_ends: BTreeSet<Vec<usize>>,
}

impl Search<'_> {
    fn next(&self, lane: usize) -> Option<&Recorded> {
        self.lanes[lane].get(self.taken[lane])
    }

    fn take(&mut self, lane: usize) -> Recorded {
        self.taken[lane] += 1;
        self.lanes[lane][self.taken[lane] - 1]
    }

    /// Lanes whose next step may come now, the one recorded first in front.
    fn candidates(&self, count: u32) -> VecDeque<usize> {
        if self.dead_ends.contains(&self.taken) {
            return VecDeque::new();
        }
        let heads = || (0..self.lanes.len()).filter_map(|lane| Some((lane, self.next(lane)?)));
        let first_record = heads().map(|(_, step)| step.at).min();
        // A step recorded before this one can have begun comes before it.
        let may = |step: &Recorded| step.after.is_none_or(|after| first_record.is_none_or(|first| first >= after));
        let mut fits: Vec<(usize, usize)> =
            heads().filter(|(_, step)| step.old == count && may(step)).map(|(lane, step)| (step.at, lane)).collect();
        fits.sort_unstable();
        fits.into_iter().map(|(_, lane)| lane).collect()
    }

    fn note_dead_end(&mut self) -> Option<()> {
        self.dead_ends.insert(self.taken.clone());
        (self.dead_ends.len() <= MOST_TAKEN_BACK).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::Step::{Down, Up};
    use super::*;
    use proptest::prelude::*;

    const TASK: Context = Context::Task(1);
    const IRQ: Context = Context::Interrupt(1);

    fn step(at: usize, after: usize, context: Context, old: u32, step: Step) -> Recorded {
        Recorded { at, after: Some(after), context, old, step }
    }

    fn turns(count: u32, steps: &[Recorded]) -> Option<Vec<(usize, usize)>> {
        let places = places(count, steps)?;
        Some(places.into_values().map(|place| (place.place, place.turn)).collect())
    }

    #[test]
    fn steps_recorded_as_they_were_taken_stay_where_they_are() {
        let steps = [step(3, 2, TASK, 1, Up), step(7, 5, IRQ, 2, Down), step(9, 4, TASK, 1, Up)];
        assert_eq!(turns(1, &steps), Some(vec![(3, 0), (7, 1), (9, 2)]));
    }

    /// Guards against going by the count alone: the second put finds the count that the late get found too.
    #[test]
    fn a_late_get_is_not_left_behind_where_its_count_comes_again() {
        let steps = [
            step(10, 8, IRQ, 15, Down),
            step(14, 12, IRQ, 14, Down),
            step(15, 3, TASK, 14, Up),
            step(20, 16, TASK, 13, Up),
        ];
        assert_eq!(turns(14, &steps), Some(vec![(10, 1), (14, 2), (10, 0), (20, 3)]));
    }

    #[test]
    fn a_step_that_had_not_begun_is_not_put_before_one_that_was_recorded() {
        let steps = [step(5, 4, IRQ, 2, Down), step(9, 8, TASK, 1, Up)];
        assert_eq!(turns(1, &steps), None, "the get began only behind the put's record");
    }

    proptest! {
        /// Whatever two CPUs do and however late each records it: an order is found, every count in it follows from the one
        /// before, and what a context recorded first it did first.
        #[test]
        fn an_order_is_found_that_keeps_counts_and_contexts(
            moves in proptest::collection::vec((any::<bool>(), any::<bool>(), 0usize..3), 1..60),
        ) {
            // Steps are taken at 100, 200, …; a record comes up to two steps later, but before its context's next step begins.
            let (mut count, mut steps) = (4u32, Vec::new());
            for (n, &(on_irq, up, late)) in moves.iter().enumerate() {
                let way = if up || count <= 2 { Up } else { Down };
                let (context, begins) = (if on_irq { IRQ } else { TASK }, (n + 1) * 100);
                let own_next = moves[n + 1..].iter().position(|(other, ..)| *other == on_irq).map_or(3, |next| next + 1);
                let record = begins + 1 + 100 * late.min(own_next - 1) + usize::from(on_irq);
                steps.push(Recorded { at: record, after: Some(begins - 1), context, old: count, step: way });
                count = way.from(count);
            }
            steps.sort_by_key(|step| step.at);
            let order = order(4, &steps).expect("the one in which they were taken fits");
            let mut count = 4;
            for step in &order {
                prop_assert_eq!(step.old, count);
                count = step.step.from(count);
            }
            for context in [TASK, IRQ] {
                let of: Vec<usize> = order.iter().filter(|step| step.context == context).map(|step| step.at).collect();
                prop_assert!(of.windows(2).all(|pair| pair[0] < pair[1]));
            }
        }
    }
}
