//! Who runs a unit: real guests, or nobody at all (to try the night itself out).

use super::queue::{Group, Work};
use crate::failure::Failure;
use night_results::ResultLine;
use std::path::Path;

/// Runs units, one at a time. Each worker of a night has its own, made in its thread.
pub trait Runner {
    /// Runs a unit into `folder` and says what came out. An error says that nothing can be said of it.
    fn run(&mut self, group: &Group, work: &Work, folder: &Path) -> Result<ResultLine, Failure>;

    /// The next unit gets a fresh boot.
    fn drop_guest(&mut self);

    /// Guests that were booted so far.
    fn boots(&self) -> u64;
}
