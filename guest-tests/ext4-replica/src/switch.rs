//! The switches of a dialect that a backport can throw, by name.
//!
//! A distribution takes single commits into an old series, and somebody's own kernel may have any of them. So a dialect can be
//! named with switches behind it: `v6_1,convert_after_error=no` is 6.1 with commit e856f93e0fb2. Only what shows in a
//! guest's trace is here; the older dialects' defects have [`Bugs`](crate::Bugs).

use crate::bug::{Bug, Bugs};
use crate::dialect::{Dialect, FinishErrno};

/// One switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Switch {
    /// [`Bug::ConvertAfterError`].
    ConvertAfterError,
    /// [`Dialect::put_converts_after_error`].
    PutConvertsAfterError,
    /// [`Dialect::hole_ends_bio`].
    HoleEndsBio,
    /// [`Dialect::finish_errno`].
    FinishErrno,
    /// [`Dialect::data_err_abort`].
    DataErrAbort,
}

/// Why a dialect cannot be had as it was named.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SwitchError {
    /// No dialect of that name.
    #[error("no dialect is called {name:?}; there are: {}", Dialect::names().collect::<Vec<_>>().join(", "))]
    Dialect {
        /// What was written.
        name: String,
    },
    /// No switch of that name.
    #[error("no switch is called {name:?}; there are: {}", Switch::ALL.map(Switch::name).join(", "))]
    Name {
        /// What was written.
        name: String,
    },
    /// The switch has no such position.
    #[error("{} is {} or {}, not {value:?}", .switch.name(), .switch.values()[0], .switch.values()[1])]
    Value {
        /// Which one.
        switch: Switch,
        /// What was written.
        value: String,
    },
}

impl Switch {
    /// All of them.
    pub const ALL: [Switch; 5] = [
        Switch::ConvertAfterError,
        Switch::PutConvertsAfterError,
        Switch::HoleEndsBio,
        Switch::FinishErrno,
        Switch::DataErrAbort,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Switch::ConvertAfterError => "convert_after_error",
            Switch::PutConvertsAfterError => "put_converts_after_error",
            Switch::HoleEndsBio => "hole_ends_bio",
            Switch::FinishErrno => "finish_errno",
            Switch::DataErrAbort => "data_err_abort",
        }
    }

    /// What it decides, in one sentence.
    pub fn decides(self) -> &'static str {
        match self {
            Switch::ConvertAfterError => "the worker converts an extent although a write of it failed",
            Switch::PutConvertsAfterError => {
                "a last put by writepages itself converts after a failed write, although the worker does not"
            }
            Switch::HoleEndsBio => "a buffer that needs no writing closes the open bio",
            Switch::FinishErrno => "the errno that fsync reports of a failed write: EIO always, or the bio's own",
            Switch::DataErrAbort => "under data_err=abort a failed write of file data aborts the journal",
        }
    }

    /// The two positions it has.
    pub fn values(self) -> [&'static str; 2] {
        match self {
            Switch::FinishErrno => ["eio", "own"],
            _ => ["yes", "no"],
        }
    }

    /// The one of that name.
    pub fn by_name(name: &str) -> Result<Switch, SwitchError> {
        let found = Switch::ALL.into_iter().find(|switch| switch.name() == name);
        found.ok_or_else(|| SwitchError::Name { name: name.to_owned() })
    }

    /// Its position in a dialect.
    pub fn of(self, dialect: &Dialect) -> &'static str {
        let first = match self {
            Switch::ConvertAfterError => dialect.has(Bug::ConvertAfterError),
            Switch::PutConvertsAfterError => dialect.put_converts_after_error,
            Switch::HoleEndsBio => dialect.hole_ends_bio,
            Switch::FinishErrno => dialect.finish_errno == FinishErrno::Eio,
            Switch::DataErrAbort => dialect.data_err_abort,
        };
        self.values()[usize::from(!first)]
    }

    /// The position that a kernel of this dialect shows. Where the worker converts after an error, so does a put.
    pub fn shows(self, dialect: &Dialect) -> &'static str {
        match self {
            Switch::PutConvertsAfterError if dialect.has(Bug::ConvertAfterError) => "yes",
            _ => self.of(dialect),
        }
    }

    /// The dialect with this switch at that position.
    pub fn set(self, dialect: Dialect, value: &str) -> Result<Dialect, SwitchError> {
        let wrong = || SwitchError::Value { switch: self, value: value.to_owned() };
        let first = self.values().iter().position(|known| *known == value).ok_or_else(wrong)? == 0;
        let mut dialect = dialect;
        match self {
            Switch::ConvertAfterError => dialect.bugs = with(dialect.bugs, Bug::ConvertAfterError, first),
            Switch::PutConvertsAfterError => dialect.put_converts_after_error = first,
            Switch::HoleEndsBio => dialect.hole_ends_bio = first,
            Switch::FinishErrno => dialect.finish_errno = if first { FinishErrno::Eio } else { FinishErrno::Bio },
            Switch::DataErrAbort => dialect.data_err_abort = first,
        }
        Ok(dialect)
    }
}

fn with(bugs: Bugs, bug: Bug, on: bool) -> Bugs {
    let kept: Vec<Bug> = bugs.iter().filter(|other| *other != bug).chain(on.then_some(bug)).collect();
    Bugs::of(&kept)
}

impl Dialect {
    /// `v6_1`, or `v6_1,convert_after_error=no,…`.
    pub fn parse(text: &str) -> Result<Dialect, SwitchError> {
        let mut words = text.split(',').map(str::trim);
        let name = words.next().unwrap_or_default();
        let dialect = Dialect::by_name(name).ok_or_else(|| SwitchError::Dialect { name: name.to_owned() })?;
        words.try_fold(dialect, |dialect, word| {
            let (name, value) = word.split_once('=').unwrap_or((word, "yes"));
            Switch::by_name(name)?.set(dialect, value)
        })
    }

    /// As [`Dialect::parse`] takes it: the name, and every switch that is not as the dialect of that name has it.
    pub fn describe(&self) -> String {
        let named = Dialect::by_name(self.name.as_str()).expect("a dialect goes by its own name");
        let differs = |switch: &Switch| switch.of(self) != switch.of(&named);
        let others = Switch::ALL.into_iter().filter(differs);
        let words = others.map(|switch| format!(",{}={}", switch.name(), switch.of(self)));
        std::iter::once(self.name.to_string()).chain(words).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backport_is_a_dialect_with_one_switch_thrown() {
        let fixed = Dialect::parse("v6_1,convert_after_error=no").expect("both are known");
        assert!(!fixed.has(Bug::ConvertAfterError));
        assert_eq!(Dialect { bugs: Dialect::V6_1.bugs, ..fixed }, Dialect::V6_1, "nothing else has changed");
        let early = Dialect::parse("v6_12,convert_after_error=yes").expect("both are known");
        assert!(early.has(Bug::ConvertAfterError));
    }

    #[test]
    fn every_switch_of_every_dialect_is_described_as_it_is_parsed() {
        for name in Dialect::names() {
            let dialect = Dialect::by_name(name).expect("it is there");
            assert_eq!(dialect.describe(), name);
            for switch in Switch::ALL {
                assert_eq!(
                    switch.set(dialect, switch.of(&dialect)).map(|same| switch.of(&same)),
                    Ok(switch.of(&dialect))
                );
                for value in switch.values() {
                    let set = switch.set(dialect, value).expect("it is one of its two");
                    assert_eq!(Dialect::parse(&set.describe()).map(|parsed| switch.of(&parsed)), Ok(switch.of(&set)));
                }
            }
        }
    }

    #[test]
    fn what_is_not_known_is_named_with_what_is() {
        let says = |text: &str| Dialect::parse(text).expect_err("it is not known").to_string();
        assert!(says("v9").contains("v7_2"));
        assert!(says("v6_1,hole").contains("hole_ends_bio"));
        assert!(says("v6_1,finish_errno=maybe").contains("eio or own"));
    }
}
