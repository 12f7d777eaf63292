//! What to make of a failure: which one it is, whether it comes again, and what of its scenario it needs.
//!
//! `signature` names a failure so that the same bug has the same name whatever the seed. `again` tells what comes again from
//! what was chance. `reduce` makes a scenario smaller for as long as the name stays, `bisect` finds where the name appears.
//! These decide; they are handed a way to run things and can be tested without one. `runs` is that way: guests.

pub mod again;
pub mod bisect;
mod cause;
mod frames;
mod promise;
pub mod repro;
pub mod runs;
pub mod shrink;
pub mod signature;
pub mod together;
mod words;

pub use signature::{Signature, signature};
