//! What a kernel's writeback path is told (stimuli) and what it answers (responses). Types only.
//!
//! Both come out of a guest's trace. The replica is handed stimuli alone and gives responses of its own; the differ is
//! handed responses alone. A field that would tell the replica the answer (an io_end's address, its count, its flag)
//! must therefore never stand in a [`Stimulus`].
//!
//! Names of responses and their fields are those of the replica's event lines (docs/trace-format.md). Offsets and sizes are
//! in bytes, sectors have 512 bytes, `lblk` and `pblk` count file system blocks.
#![forbid(unsafe_code)]

mod id;
mod response;
mod stimulus;

pub use id::{BioId, Ino, IoEndId, OpId, RequestId, TaskId};
pub use response::{Response, Subject};
pub use stimulus::{BlockOp, Errno, OpKind, PutBy, RequestStatus, Stimulus};

use serde::{Deserialize, Serialize};

/// One entry of a guest's decoded trace.
///
/// A raw event can stand for a stimulus and a response at once (a task takes a reference: that it does is a stimulus, the
/// count afterwards a response). It then becomes two entries with the same `seq`, the stimulus first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The trace clock `counter`: one sequence over all CPUs.
    pub seq: u64,
    /// CPU the event was recorded on.
    pub cpu: u16,
    /// Task that was running: the owner of the event outside interrupts, the interrupted one within.
    pub task: TaskId,
    /// Whether the event was recorded in a hard or soft interrupt, so that `task` says nothing.
    pub interrupt: bool,
    /// What happened.
    pub body: Body,
}

/// What an [`Entry`] holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// For the replica.
    Stimulus(Stimulus),
    /// The guest was answered this request. A stimulus still without its content: the status is the device record's, and
    /// whoever has that record makes it a [`Stimulus::RequestAnswered`].
    Answered {
        /// Which one.
        request: RequestId,
    },
    /// For the differ.
    Response(Response),
}
