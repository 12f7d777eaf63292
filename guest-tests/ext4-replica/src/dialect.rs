//! Dialects: how one kernel series differs from another, as named switches.
//!
//! A backport is one switch. Code of the path asks a switch, never a version; so a later dialect is one more row of
//! [`DIALECTS`]. Switches that are defects have names of their own ([`Bug`]) and can be set apart from the dialect.

use crate::bug::{Bug, Bugs};
use crate::mutation::Mutation;
use serde::{Deserialize, Serialize};

/// Name of a dialect, as `--dialect` and verdict.json have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DialectName {
    /// The patch's own parent: one io_end per bio.
    #[serde(rename = "per_bio")]
    PerBio,
    /// Linux 3.10: the patch taken back, `uninit` cleared as a buffer is added.
    #[serde(rename = "v3_10")]
    V3_10,
    /// The patch as posted in April 2013.
    #[serde(rename = "seed")]
    Seed,
    /// Linux 3.11: the patch applied again, with what had been wrong put right.
    #[serde(rename = "v3_11")]
    V3_11,
    /// Linux 5.10 (Debian bullseye).
    #[serde(rename = "v5_10")]
    V5_10,
    /// Linux 6.1 (Debian bookworm).
    #[serde(rename = "v6_1")]
    V6_1,
    /// Linux 6.12 (Debian trixie).
    #[serde(rename = "v6_12")]
    V6_12,
    /// Linux 7.2 (Debian sid).
    #[serde(rename = "v7_2")]
    V7_2,
}

impl DialectName {
    /// The name as users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            DialectName::PerBio => "per_bio",
            DialectName::V3_10 => "v3_10",
            DialectName::Seed => "seed",
            DialectName::V3_11 => "v3_11",
            DialectName::V5_10 => "v5_10",
            DialectName::V6_1 => "v6_1",
            DialectName::V6_12 => "v6_12",
            DialectName::V7_2 => "v7_2",
        }
    }
}

impl std::fmt::Display for DialectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What `ext4_finish_bio` records on the mapping of a folio whose bio failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishErrno {
    /// -EIO, whatever the error was. It comes last, so fsync reports -EIO.
    Eio,
    /// The bio's own error.
    Bio,
}

/// How an io_end knows the blocks to convert, where [`Bug::RangeSum`] does not decide it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Range {
    /// Where the extent was mapped, and one page more for each page of it (3.11).
    MappedPages,
    /// `list_vec`: each stretch by itself.
    Vec,
}

/// Who ends a direct write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DirectIo {
    /// `ext4_end_io_dio`, on an io_end where it is asynchronous.
    IoEnd,
    /// `ext4_dio_write_end_io` of iomap, without one.
    Iomap,
}

/// One kernel series' behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dialect {
    /// Its name.
    pub name: DialectName,
    /// Its defects.
    pub bugs: Bugs,
    /// Each bio has an io_end of its own, without a count (`io_submit_init`).
    pub io_end_per_bio: bool,
    /// `ext4_writepages` asks for the io_end before it locks a page, and maps the extent before it adds the first buffer.
    /// Otherwise `mpage_da_submit_io` finds it mapped.
    pub maps_in_writepages: bool,
    /// The blocks an io_end converts.
    pub range: Range,
    /// Direct writes.
    pub direct_io: DirectIo,
    /// A buffer of a folio that needs no writing closes the open bio (`ext4_bio_write_page`).
    pub hole_ends_bio: bool,
    /// What `ext4_finish_bio` records.
    pub finish_errno: FinishErrno,
    /// A bio's folios leave writeback before its reference is put, and so before the conversion. Otherwise behind the put.
    pub finish_before_put: bool,
    /// Bios of an UNWRITTEN io_end wait, chained on it, and are finished when it is released (`ext4_end_bio`).
    pub finish_after_conversion: bool,
    /// The last `ext4_put_io_end` converts, then and there; otherwise it only releases.
    pub put_converts: bool,
    /// `ext4_writepages` drops its reference by `ext4_put_io_end`, if it holds no journal handle any more.
    pub writepages_puts: bool,
    /// `ext4_put_io_end` converts even where the worker does not, after an error.
    pub put_converts_after_error: bool,
    /// With the mount option data_err=abort, an io_end of which a bio failed goes to the worker whether or not there is
    /// anything to convert, and the worker aborts the journal.
    pub data_err_abort: bool,
    /// A planted mistake. No dialect has one of its own.
    pub(crate) mutation: Option<Mutation>,
}

const SEED: Dialect = Dialect {
    name: DialectName::Seed,
    bugs: Bugs::of(&[
        Bug::EnomemLockLeak,
        Bug::DioDoublePut,
        Bug::DioDoubleDone,
        Bug::RangeSum,
        Bug::RacyFlag,
        Bug::ConvertAfterError,
        Bug::AioPointer,
        Bug::StickyUninit,
    ]),
    io_end_per_bio: false,
    maps_in_writepages: false,
    range: Range::Vec,
    direct_io: DirectIo::IoEnd,
    hole_ends_bio: true,
    finish_errno: FinishErrno::Eio,
    finish_before_put: true,
    finish_after_conversion: false,
    put_converts: true,
    writepages_puts: false,
    put_converts_after_error: false,
    data_err_abort: false,
    mutation: None,
};

const PER_BIO: Dialect = Dialect {
    name: DialectName::PerBio,
    bugs: Bugs::of(&[
        Bug::RangeSum,
        Bug::ConvertAfterError,
        Bug::AioPointer,
        Bug::StickyUninit,
        Bug::InflatedRange,
        Bug::DioFreeUnwritten,
        Bug::EnomemWritebackLeak,
    ]),
    io_end_per_bio: true,
    ..SEED
};

const V3_11: Dialect = Dialect {
    name: DialectName::V3_11,
    bugs: Bugs::of(&[Bug::ConvertAfterError, Bug::AioPointer, Bug::DioFlagZeroed]),
    maps_in_writepages: true,
    range: Range::MappedPages,
    finish_before_put: false,
    finish_after_conversion: true,
    ..SEED
};

const V6_1: Dialect = Dialect {
    name: DialectName::V6_1,
    bugs: Bugs::of(&[Bug::ConvertAfterError]),
    range: Range::Vec,
    direct_io: DirectIo::Iomap,
    writepages_puts: true,
    ..V3_11
};

const V6_12: Dialect = Dialect {
    name: DialectName::V6_12,
    bugs: Bugs::NONE,
    hole_ends_bio: false,
    finish_errno: FinishErrno::Bio,
    put_converts_after_error: true,
    ..V6_1
};

/// All dialects, oldest first.
const DIALECTS: &[Dialect] = &[
    PER_BIO,
    Dialect {
        name: DialectName::V3_10,
        bugs: Bugs::of(&[
            Bug::RangeSum,
            Bug::ConvertAfterError,
            Bug::AioPointer,
            Bug::InflatedRange,
            Bug::UninitClearedEarly,
            Bug::DioFreeUnwritten,
            Bug::EnomemWritebackLeak,
        ]),
        ..PER_BIO
    },
    SEED,
    V3_11,
    Dialect { name: DialectName::V5_10, ..V6_1 },
    V6_1,
    V6_12,
    Dialect { name: DialectName::V7_2, put_converts_after_error: false, data_err_abort: true, ..V6_12 },
];

impl Dialect {
    /// The patch as posted.
    pub const SEED: Dialect = SEED;
    /// Linux 6.1.
    pub const V6_1: Dialect = V6_1;

    /// The dialect of that name, if there is one.
    pub fn by_name(name: &str) -> Option<Dialect> {
        DIALECTS.iter().copied().find(|dialect| dialect.name.as_str() == name)
    }

    /// Names of all dialects, oldest first.
    pub fn names() -> impl Iterator<Item = &'static str> {
        DIALECTS.iter().map(|dialect| dialect.name.as_str())
    }

    /// Whether a guest of today can be followed in it: the older ones stand for kernels no guest of ours runs.
    pub fn runs_in_lockstep(&self) -> bool {
        self.direct_io == DirectIo::Iomap
    }

    /// The same dialect with exactly these defects.
    pub fn with_bugs(self, bugs: Bugs) -> Dialect {
        Dialect { bugs, range: Range::Vec, put_converts_after_error: false, ..self }
    }

    /// The same dialect with a planted mistake.
    pub fn with_mutation(self, mutation: Mutation) -> Dialect {
        Dialect { mutation: Some(mutation), ..self }
    }

    pub(crate) fn has(&self, bug: Bug) -> bool {
        self.bugs.has(bug)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dialect_is_found_by_the_name_it_prints() {
        for name in Dialect::names() {
            assert_eq!(Dialect::by_name(name).map(|dialect| dialect.name.to_string()).as_deref(), Some(name));
        }
        assert_eq!(Dialect::by_name("v6.1"), None);
    }

    #[test]
    fn serde_and_display_agree_on_a_name() {
        for dialect in DIALECTS {
            let json: String = serde_json::to_string(&dialect.name).expect("a plain name");
            assert_eq!(json, format!("\"{}\"", dialect.name));
        }
    }

    #[test]
    fn with_its_own_defects_a_single_range_dialect_is_itself() {
        for name in ["per_bio", "v3_10", "seed", "v5_10", "v6_1", "v7_2"] {
            let dialect = Dialect::by_name(name).expect("it is there");
            assert_eq!(dialect.with_bugs(dialect.bugs), dialect);
        }
    }
}
