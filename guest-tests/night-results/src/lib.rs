//! What a night writes down, as types: units, result lines, the ledger, what is known.
//!
//! Pure: text in, values out, and back. It knows no files, clocks or guests. The names of the fields are a contract
//! (docs/nightly.md): other programs read them; fields are added, never renamed. Reading is strict: a ledger that was cut
//! off in the middle of its last line is a machine that died and is mended by running that unit again; any other damage is
//! an error with its place.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test ends there"))]

mod asked;
mod error;
mod known;
mod ledger;
mod line;
mod merge;
mod unit;

pub use asked::{HostFacts, NightJson, NightState, Shard, Versions};
pub use error::Damage;
pub use known::{Known, KnownKernels, known_as, read_known};
pub use ledger::{Ledger, Torn, read_ledger};
pub use line::{
    Again, Armed, Compared, Fired, Needed, Outcome, PowerCuts, ResultLine, Shrunk, Signature, Triage, VerdictWord,
};
pub use merge::{merge, merge_asked};
pub use scenario_generator::Seed;
pub use unit::{Canary, Unit, UnitError};
