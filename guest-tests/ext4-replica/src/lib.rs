//! A replica of ext4's shared io_end writeback path, stepped by whoever knows the stimuli. Pure.
//!
//! Every kernel function of the path is a resumable sequence of steps (`page_io`), a step being one access to what
//! threads share: a count, a flag, a list, a folio's buffers, an error sequence. What steps it is a driver. Here is one,
//! [`Lockstep`]: a guest's trace says whose step is next, and where each bio ends. It is handed stimuli and gives
//! responses; it never sees the guest's responses, so it cannot agree by copying.
//!
//! What is kept of each kernel function, what is left out and why: docs/replica.md.
#![forbid(unsafe_code)]

mod assertions;
mod block_layer;
mod bug;
mod call;
mod calls;
mod cause;
mod dialect;
mod direct_io;
mod errseq;
mod event;
pub mod explore;
mod extents;
mod lockstep;
mod misfit;
mod mutation;
mod page_io;
mod state;
mod survey;
mod switch;
mod thread;
mod writeback;

pub use assertions::{Assertions, Invariant, Violation};
pub use bug::{Bug, Bugs, UnknownBug};
pub use call::{Call, Refused};
pub use calls::Calls;
pub use cause::{Cause, Causes};
pub use dialect::{Dialect, DialectName, DirectIo, FinishErrno, Range};
pub use event::{Event, InodeState, IocbId};
pub use extents::Extent;
pub use lockstep::{Lockstep, NotPredicted, Replica, Setup};
pub use misfit::{Misfit, MisfitKind};
pub use mutation::{Mutation, ShowsIn};
pub use switch::{Switch, SwitchError};
