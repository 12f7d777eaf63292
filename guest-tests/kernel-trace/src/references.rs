//! One io_end's reference steps in the order in which they were taken.
//!
//! A probe behind an atomic instruction records the true old count, but a moment after the step: an interrupt on the same
//! CPU, or another CPU, may take and record its own step in between. The old counts say which step came first: from one
//! count to the next, each step starts where the one before ended. A step that does not start at the current count was
//! recorded too early and is held until the one that belongs before it turns up; that one has then to stand before the
//! first one held. Steps that never fit (a lost event, a broken kernel) stay held, and that is told.

/// The count, and the steps that do not follow from it yet.
#[derive(Clone, Debug)]
pub(crate) struct References {
    count: u32,
    held: Vec<(usize, u32, Step)>,
}

/// What a step does to the count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Up,
    Down,
}

impl Step {
    /// The count behind a step that found `old`. A kernel's counter wraps or saturates; this is only told.
    pub(crate) fn from(self, old: u32) -> u32 {
        match self {
            Step::Up => old.wrapping_add(1),
            Step::Down => old.wrapping_sub(1),
        }
    }
}

impl References {
    /// Of an io_end that has just been born with `count` references.
    pub(crate) fn born(count: u32) -> Self {
        References { count, held: Vec::new() }
    }

    /// Takes a step whose old count is known. `at` is its place in the trace; the answer is the place of the step it has
    /// to stand before, if it was recorded too late.
    pub(crate) fn exact(&mut self, at: usize, old: u32, step: Step) -> Option<usize> {
        if old != self.count {
            self.held.push((at, old, step));
            return None;
        }
        self.count = step.from(old);
        let before = self.held.first().map(|&(at, ..)| at);
        while let Some(next) = self.held.iter().position(|&(_, old, _)| old == self.count) {
            let (_, old, step) = self.held.remove(next);
            self.count = step.from(old);
        }
        before
    }

    /// Takes a step of which only a count read shortly before is known: the order is the recorded one. Gives the count
    /// before it.
    pub(crate) fn in_recorded_order(&mut self, step: Step) -> u32 {
        let old = self.count;
        self.count = step.from(old);
        old
    }

    /// Steps that do not follow from any count this io_end had.
    pub(crate) fn misfits(&self) -> usize {
        self.held.len()
    }
}

#[cfg(test)]
mod tests {
    use super::Step::{Down, Up};
    use super::*;

    #[test]
    fn steps_recorded_in_order_stay_where_they_are() {
        let mut references = References::born(1);
        let steps = [(0, 1, Up), (1, 2, Up), (2, 3, Down), (3, 2, Down), (4, 1, Down)];
        assert!(steps.iter().all(|&(at, old, step)| references.exact(at, old, step).is_none()));
        assert_eq!((references.count, references.misfits()), (0, 0));
    }

    /// Guards against taking the recorded order for the true one: an interrupt put between a get and its probe.
    #[test]
    fn a_get_recorded_behind_the_put_that_interrupted_it_moves_before_it() {
        let mut references = References::born(1);
        assert_eq!(references.exact(7, 2, Down), None, "starts at a count that is not there yet");
        assert_eq!(references.exact(8, 1, Up), Some(7));
        assert_eq!((references.count, references.misfits()), (1, 0));
    }

    #[test]
    fn one_late_step_moves_before_all_that_followed_from_it() {
        let mut references = References::born(3);
        assert_eq!(references.exact(5, 2, Down), None);
        assert_eq!(references.exact(6, 1, Down), None);
        assert_eq!(references.exact(9, 3, Down), Some(5));
        assert_eq!((references.count, references.misfits()), (0, 0));
    }

    #[test]
    fn a_step_whose_predecessor_never_turns_up_is_told() {
        let mut references = References::born(1);
        references.exact(1, 2, Down);
        assert_eq!(references.misfits(), 1);
    }
}
