//! Tells a night: one page for people, summary.json, junit.xml and KTAP for programs.
//!
//! Pure: results in, text out. No files, clocks or guests; the same night gives the same bytes. What the page says is counted
//! from result lines alone, so it can be made again wherever the night's folder is.
//!
//! ```text
//! ledger, known.json, earlier summaries ─► cards (by signature), coverage, rates ─► page, summary.json
//!                                     └──────────────────────────────────────────► junit.xml, ktap.txt
//! ```

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test ends there"))]

mod cards;
mod coverage;
mod junit;
mod ktap;
mod night;
mod page;
mod rate;
pub mod samples;
mod summary;
pub mod universe;

pub use cards::{Absent, Card, Status, absent, cards};
pub use coverage::{Cell, Coverage, Covered, FaultsCovered, PairsCovered};
pub use junit::junit;
pub use ktap::ktap;
pub use night::{Night, Shown};
pub use page::page;
pub use rate::Rate;
pub use summary::{Counts, Result, Seen, Summary, SummaryError};
