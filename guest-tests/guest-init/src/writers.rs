//! Which operations of a workload are done at once.
//!
//! Operations with a `writer` that stand one after another are a *stretch*: each writer does its own in their order, and nothing is
//! known of the order between those of different writers. The stretch is over when all of them are done. An operation without a writer
//! ends a stretch, and is alone. So a workload stays one list, and the place in it still names an operation.

use std::fmt;
use std::ops::Range;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use crate::job::{Action, Op};

/// Most writers of one stretch.
pub const MOST: u8 = 4;

/// One of the tasks that work at once, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Writer(u8);

impl Writer {
    /// Writer `number`, counted from 1; none: there are not so many.
    #[must_use]
    pub fn new(number: u8) -> Option<Writer> {
        (1..=MOST).contains(&number).then_some(Writer(number))
    }
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for Writer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = serde_json::Value::deserialize(deserializer)?;
        let small = number.as_u64().and_then(|n| u8::try_from(n).ok()).and_then(Writer::new);
        small.ok_or_else(|| D::Error::custom(format!("{number} is no writer: they are 1 to {MOST}")))
    }
}

/// Whether an operation can be done while others are.
///
/// Names, the mount, and what host and guest wait for together are one task's: which path leads where would depend on who came first.
///
/// # Errors
///
/// A sentence that says why not, and what to do instead.
pub fn may_be_done_beside_others(action: &Action) -> Result<(), String> {
    match action {
        Action::Create { .. }
        | Action::Mkdir { .. }
        | Action::Rename { .. }
        | Action::Link { .. }
        | Action::Unlink { .. }
        | Action::Remount {}
        | Action::Mark { .. }
        | Action::AwaitCapacity { .. } => {
            Err("it cannot have a `writer`: names, mounts and marks are not changed by several at once; \
                 put it before or after the operations that have one"
                .into())
        }
        _ => Ok(()),
    }
}

/// The workload in steps, in order: places of operations that are done at once, or of one that is done alone.
#[must_use]
pub fn steps<'o>(ops: impl IntoIterator<Item = &'o Op>) -> Vec<Range<usize>> {
    let mut steps: Vec<Range<usize>> = Vec::new();
    let mut before = None;
    for (place, op) in ops.into_iter().enumerate() {
        match steps.last_mut() {
            Some(last) if op.writer.and(before).is_some() => last.end = place + 1,
            _ => steps.push(place..place + 1),
        }
        before = op.writer;
    }
    steps
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;

    fn ops(writers: &[u8]) -> Vec<Op> {
        let op = |number: &u8| Op { action: Action::Sync {}, errno: None, writer: Writer::new(*number) };
        writers.iter().map(op).collect()
    }

    #[test]
    fn what_stands_together_with_a_writer_is_one_step_and_the_rest_are_steps_of_their_own() {
        assert_eq!(steps(&ops(&[])), []);
        assert_eq!(steps(&ops(&[0, 0, 1, 2, 1, 0, 3, 3])), [0..1, 1..2, 2..5, 5..6, 6..8]);
        assert_eq!(steps(&ops(&[1, 2, 0])), [0..2, 2..3]);
    }

    #[test]
    fn the_writer_lies_beside_the_operation() {
        let text = r#"{"op":"fsync","path":"f","writer":2}"#;
        let op: Op = serde_json::from_str(text).unwrap();
        assert_eq!(op.writer, Writer::new(2));
        assert_eq!(serde_json::to_string(&op).unwrap(), text);
    }
}
