//! Dialects: how one kernel series differs from another, as named switches.
//!
//! A backport is one switch. Code of the path asks a switch, never a version; so a later dialect is one more row of
//! [`DIALECTS`].

use serde::{Deserialize, Serialize};

/// Name of a dialect, as `--dialect` and verdict.json have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DialectName {
    /// Linux 6.1 (Debian bookworm).
    #[serde(rename = "v6_1")]
    V6_1,
}

impl DialectName {
    /// The name as users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            DialectName::V6_1 => "v6_1",
        }
    }
}

impl std::fmt::Display for DialectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What `ext4_finish_bio` records on the mapping of a folio whose bio failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishErrno {
    /// -EIO, whatever the error was. It comes last, so fsync reports -EIO.
    Eio,
    /// The bio's own error.
    Bio,
}

/// One kernel series' behaviour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// Its name.
    pub name: DialectName,
    /// An UNWRITTEN io_end is converted although one of its bios failed (`ext4_end_io_end`, `ext4_put_io_end`).
    pub convert_after_error: bool,
    /// A buffer of a folio that needs no writing closes the open bio (`ext4_bio_write_page`).
    pub hole_ends_bio: bool,
    /// What `ext4_finish_bio` records.
    pub finish_errno: FinishErrno,
    /// Bios of an UNWRITTEN io_end wait, chained on it, and are finished when it is released (`ext4_end_bio`).
    pub finish_after_conversion: bool,
    /// The last `ext4_put_io_end` converts, then and there; otherwise it only releases.
    pub put_converts: bool,
}

const DIALECTS: &[Dialect] = &[Dialect {
    name: DialectName::V6_1,
    convert_after_error: true,
    hole_ends_bio: true,
    finish_errno: FinishErrno::Eio,
    finish_after_conversion: true,
    put_converts: true,
}];

impl Dialect {
    /// Linux 6.1.
    pub const V6_1: Dialect = DIALECTS[0];

    /// The dialect of that name, if there is one.
    pub fn by_name(name: &str) -> Option<Dialect> {
        DIALECTS.iter().copied().find(|dialect| dialect.name.as_str() == name)
    }

    /// Names of all dialects, oldest first.
    pub fn names() -> impl Iterator<Item = &'static str> {
        DIALECTS.iter().map(|dialect| dialect.name.as_str())
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
        let json: String = serde_json::to_string(&DialectName::V6_1).expect("a plain name");
        assert_eq!(json, format!("\"{}\"", DialectName::V6_1));
    }
}
