//! Reads what the guest kernel said: probe plans from its BTF, raw ring-buffer pages to stimuli and responses.
//!
//! Two halves that never meet in one process step:
//!
//! - Before a boot, [`KernelFacts`] takes struct offsets from the kernel image's BTF and [`plan`] turns them, the function
//!   addresses and the machine code into the probes a guest shall set ([`ProbePlan`]).
//! - After it, [`decode`] reads a `guest.raw` ([`container`]) and gives the entries of `writeback-events`, in the order of
//!   the trace clock, with everything that was lost or could not be placed told beside them.
//!
//! What must hold: pure (no clock, no file, no thread), the same bytes give the same answer; no byte sequence makes it
//! panic; nothing is skipped silently. Whoever judges looks at [`Decoded::losses`] and [`Decoded::unplaced`] first.
//!
//! It does not know the replica. Offsets, field positions and record layouts come from the kernel at hand (BTF, the
//! events' `format` texts, `header_page`), never from a table in here.
#![forbid(unsafe_code)]

mod btf;
pub mod container;
mod contexts;
mod decode;
mod entries;
mod error;
mod facts;
mod format;
mod interleave;
mod losses;
mod page;
mod plan;
mod references;
mod text;
mod typed;

pub use decode::{Decoded, OpSeen, Place, RingEvent, Totals, Unplaced, decode, ring_events};
pub use error::{ContainerError, DecodeError, FactsError, PlanError};
pub use facts::KernelFacts;
pub use losses::{Losses, LostPages, MissedProbe, Overrun};
pub use plan::{EventName, EventSetting, ProbePlan, SymbolAddress, TraceAbilities, plan};
