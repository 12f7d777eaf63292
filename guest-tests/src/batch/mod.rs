//! Many scenarios in one boot: for each a disk of its own behind the same device, and a run's folder as `run` leaves it.
//!
//! What a boot costs (a kernel, its probes) is paid once. Between two scenarios nothing is mounted: the guest lets go what it
//! cached, the disk is taken out, another is put in, and the guest reads its nonce before it mounts, so that no scenario can
//! be judged on the disk of another. Image, script, seed, records and trace are each scenario's own. What a kernel keeps over
//! an unmount is told in docs/batch.md.
//!
//! A boot in which something broke is not used again ([`Boot::usable`] says why not); the scenario in which it broke has its
//! folder all the same.

mod boot;
pub mod command;
mod cpu;
mod logs;
pub mod rate;
mod shape;

pub use boot::Boot;
pub use shape::BootSpec;

use std::fmt;

/// Scenarios of one boot, unless something else is asked for. What a kernel collects over many mounts stays small, and a
/// finding that needs what came before it is followed by few.
pub const MOST_SCENARIOS: u32 = 256;

/// Seconds that one scenario may take, unless something else is asked for.
pub const TIME_LIMIT_S: u64 = 60;

/// Why a boot is not used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The guest is not there any more, or hangs: panicked, stuck, or its power was cut.
    Gone(String),
    /// Its kernel has complained, by its taint flags.
    Tainted {
        /// Before the first scenario.
        before: u64,
        /// Now.
        now: u64,
    },
    /// Its kernel has complained while no scenario ran.
    Complained(String),
    /// A file system is left mounted, or the kernel still holds it.
    Held,
    /// The script has left the front-end: what the guest's driver made of that stays.
    FrontEndLeft,
    /// It had so many scenarios as it was to have.
    Enough(u32),
    /// The disk could not be changed.
    Stuck(String),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Gone(why) => write!(f, "the guest is gone: {why}"),
            Why::Tainted { before, now } => {
                write!(f, "the guest's kernel has complained: its taint flags went from {before} to {now}")
            }
            Why::Complained(line) => {
                write!(f, "the guest's kernel has complained between two scenarios: {line}")
            }
            Why::Held => f.write_str("the guest's kernel still holds the file system of the last scenario"),
            Why::FrontEndLeft => f.write_str("the script disconnected the disk"),
            Why::Enough(most) => write!(f, "it had its {most} scenarios"),
            Why::Stuck(why) => write!(f, "the disk could not be taken out: {why}"),
        }
    }
}
