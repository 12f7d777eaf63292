//! The known defects of the path, each a switch with a name: what `--bugs` lists.
//!
//! A defect is a place where one kernel series does what a later one was changed to do otherwise. A dialect has a set of
//! its own; any other set can be laid over it ([`Dialect::with_bugs`](crate::Dialect::with_bugs)), so that a search can
//! look at one defect alone, or at none. What each one is, in the kernel's terms: docs/replica.md.

/// One known defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Bug {
    /// Pages stay locked when an io_end could not be allocated (B1, B2).
    EnomemLockLeak,
    /// A direct write that ended with an error after `ext4_end_io_dio` ran puts its io_end once too often (B3).
    DioDoublePut,
    /// An asynchronous direct write that submitted nothing lowers `i_dio_count` twice (B4).
    DioDoubleDone,
    /// One offset and a sum of sizes stand for the blocks of an io_end, though they need not be contiguous (B5).
    RangeSum,
    /// `flag |=` is a read and a write: of two at once, one is lost (B6).
    RacyFlag,
    /// An io_end is converted though a bio of it failed (B8).
    ConvertAfterError,
    /// Direct I/O finds its io_end through a pointer in the inode (B12).
    AioPointer,
    /// A buffer stays `uninit` once it has been written (B13).
    StickyUninit,
    /// A buffer is counted into the io_end before the bio has taken it (P1).
    InflatedRange,
    /// A buffer's `uninit` is cleared before the bio has taken it (P2).
    UninitClearedEarly,
    /// What 3.11 put in the place of B4: all flags of the io_end are dropped, UNWRITTEN with them, and nobody lowers
    /// `i_unwritten` for it.
    DioFlagZeroed,
    /// Before the patch: an asynchronous direct write that mapped unwritten blocks and then submitted nothing frees its io_end
    /// with UNWRITTEN set, which is a BUG.
    DioFreeUnwritten,
    /// Before the patch: no memory for the io_end of a later buffer of a page whose earlier ones have been written already: nobody
    /// is left to end the page's writeback.
    EnomemWritebackLeak,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 13] = [
        Bug::EnomemLockLeak,
        Bug::DioDoublePut,
        Bug::DioDoubleDone,
        Bug::RangeSum,
        Bug::RacyFlag,
        Bug::ConvertAfterError,
        Bug::AioPointer,
        Bug::StickyUninit,
        Bug::InflatedRange,
        Bug::UninitClearedEarly,
        Bug::DioFlagZeroed,
        Bug::DioFreeUnwritten,
        Bug::EnomemWritebackLeak,
    ];

    /// Its name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Bug::EnomemLockLeak => "enomem_lock_leak",
            Bug::DioDoublePut => "dio_double_put",
            Bug::DioDoubleDone => "dio_double_done",
            Bug::RangeSum => "range_sum",
            Bug::RacyFlag => "racy_flag",
            Bug::ConvertAfterError => "convert_after_error",
            Bug::AioPointer => "aio_pointer",
            Bug::StickyUninit => "sticky_uninit",
            Bug::InflatedRange => "inflated_range",
            Bug::UninitClearedEarly => "uninit_cleared_early",
            Bug::DioFlagZeroed => "dio_flag_zeroed",
            Bug::DioFreeUnwritten => "dio_free_unwritten",
            Bug::EnomemWritebackLeak => "enomem_writeback_leak",
        }
    }

    /// The one of that name.
    pub fn by_name(name: &str) -> Option<Bug> {
        Bug::ALL.into_iter().find(|bug| bug.name() == name)
    }
}

/// A set of defects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bugs(u16);

impl Bugs {
    /// No defect at all.
    pub const NONE: Bugs = Bugs(0);

    /// Exactly these.
    pub const fn of(bugs: &[Bug]) -> Bugs {
        let (mut set, mut next) = (0, 0);
        while next < bugs.len() {
            set |= 1 << bugs[next] as u8;
            next += 1;
        }
        Bugs(set)
    }

    /// Whether this one is among them.
    pub const fn has(self, bug: Bug) -> bool {
        self.0 & (1 << bug as u8) != 0
    }

    /// Those in the set, in the order of [`Bug::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Bug> {
        Bug::ALL.into_iter().filter(move |bug| self.has(*bug))
    }

    /// `none`, or names with commas between them.
    pub fn parse(list: &str) -> Result<Bugs, UnknownBug> {
        if list == "none" {
            return Ok(Bugs::NONE);
        }
        let named = |name: &str| Bug::by_name(name.trim()).ok_or_else(|| UnknownBug { name: name.trim().to_owned() });
        let bugs: Vec<Bug> = list.split(',').map(named).collect::<Result<_, _>>()?;
        Ok(Bugs::of(&bugs))
    }
}

/// A list of defects names one that is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no defect is called {name:?}; there are: {}, or `none`", Bug::ALL.map(Bug::name).join(", "))]
pub struct UnknownBug {
    /// What was written.
    pub name: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_name_of_its_own_and_a_place_of_its_own_in_a_set() {
        for bug in Bug::ALL {
            assert_eq!(Bug::by_name(bug.name()), Some(bug));
            assert_eq!(Bugs::of(&[bug]).iter().collect::<Vec<_>>(), [bug]);
        }
    }

    #[test]
    fn a_list_is_exactly_what_it_names() {
        let list = Bugs::parse("range_sum, racy_flag").expect("both are known");
        assert_eq!(list.iter().collect::<Vec<_>>(), [Bug::RangeSum, Bug::RacyFlag]);
        assert_eq!(Bugs::parse("none"), Ok(Bugs::NONE));
        assert_eq!(Bugs::parse(""), Err(UnknownBug { name: String::new() }));
        assert_eq!(Bugs::parse("none,racy_flag"), Err(UnknownBug { name: "none".into() }));
    }
}
