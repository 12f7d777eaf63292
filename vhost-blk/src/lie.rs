//! A lie that the device tells and does not record: what a judge of devices and guests must notice by itself.
//!
//! Only for canaries. A fault script's lies are decided, recorded and kept beside the image; this one is none of that, so a
//! device that tells it is of no use for anything else. It is told once, about the first large transfer, which is the
//! workload's; only the lie about flushes is told of each. Asking for it takes the flag and, by the same name, the environment: nobody meets it by a slip.

use std::sync::atomic::{AtomicBool, Ordering};

use clap::ValueEnum;

/// Must hold the lie's name, or it is refused.
pub const CONSENT: &str = "VHOST_BLK_PLANTED_LIE";

/// Smaller transfers are the file system's own.
const LARGE_BYTES: usize = 64 << 10;

/// What is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Lie {
    /// A write is answered and not done.
    DropWrite,
    /// A write reaches the image with one bit changed.
    FlipBit,
    /// A read gives zeroes.
    ZeroRead,
    /// Flushes are answered and not carried out: what a volatile write cache holds is lost with the power.
    DropFlush,
}

/// A lie that has been told, or not yet.
#[derive(Debug)]
pub struct Planted {
    lie: Lie,
    told: AtomicBool,
}

impl Planted {
    /// Not told yet.
    pub fn new(lie: Lie) -> Planted {
        Planted { lie, told: AtomicBool::new(false) }
    }

    /// What reaches the image of these bytes; none: nothing.
    pub fn write(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut bytes = bytes.to_vec();
        match self.lie {
            Lie::DropWrite if self.is_time(bytes.len()) => return None,
            Lie::FlipBit if self.is_time(bytes.len()) => bytes[LARGE_BYTES / 2] ^= 1,
            _ => {}
        }
        Some(bytes)
    }

    /// What the guest gets of these bytes.
    pub fn read(&self, bytes: &mut [u8]) {
        if self.lie == Lie::ZeroRead && self.is_time(bytes.len()) {
            bytes.fill(0);
        }
    }

    /// Whether a flush is carried out.
    pub fn flushes(&self) -> bool {
        self.lie != Lie::DropFlush
    }

    fn is_time(&self, bytes: usize) -> bool {
        bytes >= LARGE_BYTES && !self.told.swap(true, Ordering::SeqCst)
    }
}

/// The lie, if it was asked for twice; `consent` is what the environment holds.
pub fn agreed(lie: Option<Lie>, consent: Option<&str>) -> Result<Option<Lie>, String> {
    let Some(lie) = lie else { return Ok(None) };
    let name = lie.to_possible_value().expect("none is skipped").get_name().to_owned();
    if consent == Some(name.as_str()) {
        return Ok(Some(lie));
    }
    Err(format!(
        "--planted-lie makes a device that is wrong and does not say so, for canaries alone; who means it sets {CONSENT}={name}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lie_is_told_once_and_about_a_large_transfer() {
        let planted = Planted::new(Lie::DropWrite);
        assert_eq!(planted.write(&[1; 4096]), Some(vec![1; 4096]));
        assert_eq!(planted.write(&[1; LARGE_BYTES]), None);
        assert_eq!(planted.write(&[1; LARGE_BYTES]), Some(vec![1; LARGE_BYTES]));
    }

    #[test]
    fn each_lie_changes_what_it_says() {
        let written = Planted::new(Lie::FlipBit).write(&[0; LARGE_BYTES]).expect("written");
        assert_eq!(written.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
        let mut seen = vec![7; LARGE_BYTES];
        Planted::new(Lie::FlipBit).read(&mut seen);
        assert_eq!(seen, [7; LARGE_BYTES]);
        Planted::new(Lie::ZeroRead).read(&mut seen);
        assert_eq!(seen, [0; LARGE_BYTES]);
    }

    #[test]
    fn nobody_meets_it_by_a_slip() {
        assert_eq!(agreed(None, Some("flip-bit")), Ok(None));
        assert_eq!(agreed(Some(Lie::FlipBit), Some("flip-bit")), Ok(Some(Lie::FlipBit)));
        for consent in [None, Some(""), Some("1"), Some("drop-write")] {
            assert!(
                agreed(Some(Lie::FlipBit), consent).expect_err("refused").contains("VHOST_BLK_PLANTED_LIE=flip-bit")
            );
        }
    }
}
