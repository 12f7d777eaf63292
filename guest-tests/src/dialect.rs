//! Which dialect a kernel speaks: from the user or from the table, never from the run that is judged.
//!
//! A kernel is known by what it says it is: `uname -r`, and in `uname -v` the distribution and the version of its package.
//! What it *does* is judged, so that must not decide by what it is judged: a kernel that has lost a check has to come out
//! `different`, not be taken for an older one. `probe-dialect` looks at what a kernel does, in boots of its own.

use ext4_replica::{Dialect, Switch};
use serde::Deserialize;
use std::cmp::Ordering;
use std::collections::BTreeMap;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    series: Vec<Row>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    upstream: String,
    /// The last series the row is for; without it the row is for one.
    through: Option<String>,
    dialect: String,
    #[serde(default = "yes")]
    exact: bool,
    #[serde(default)]
    backport: Vec<Backport>,
}

fn yes() -> bool {
    true
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Backport {
    #[allow(dead_code, reason = "for the reader of the table; a test looks that it is there")]
    commit: String,
    /// Switches as they were without it.
    before: BTreeMap<String, String>,
    /// First upstream version with it.
    upstream: String,
    /// First version of Debian's package with it.
    debian: String,
}

/// A dialect, and how sure the table is of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// How the replica is to behave.
    pub dialect: Dialect,
    /// The table names this kernel. What the user names is exact by definition.
    pub exact: bool,
}

/// What a kernel says it is.
#[derive(Clone, Copy, Debug)]
pub struct Identity<'a> {
    /// `uname -r`
    pub release: &'a str,
    /// `uname -v`, where it is known: `#1 SMP Debian 6.1.192-2 (2026-…)`.
    pub build: &'a str,
}

impl<'a> Identity<'a> {
    /// The version of its Debian package.
    fn debian(&self) -> Option<&'a str> {
        let (_, version) = self.build.split_once("Debian ")?;
        version.split_whitespace().next()
    }

    /// Its upstream version: that of a Debian package without the revision, else `uname -r` without what follows the numbers.
    /// Distributions that put a count of their own there (`6.8.0-31-generic`) have none that can be told.
    fn upstream(&self) -> Option<&'a str> {
        if let Some(debian) = self.debian() {
            return debian.split(['-', '+', '~']).next();
        }
        let end = self.release.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(self.release.len());
        let (version, suffix) = self.release.split_at(end);
        let counts = suffix.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        (!counts).then_some(version)
    }
}

/// The dialect for a kernel. The error is a sentence.
pub fn choose(given: Option<&str>, kernel: Identity<'_>) -> Result<Chosen, String> {
    match given {
        Some(name) => Ok(Chosen { dialect: by_name(name)?, exact: true }),
        None => from_table(&table(), kernel),
    }
}

fn table() -> Vec<Row> {
    let table: Table = toml::from_str(include_str!("../dialects.toml")).expect("dialects.toml is checked by a test");
    table.series
}

/// One that a guest can be followed in: those of 2013 are for the replica alone.
fn by_name(name: &str) -> Result<Dialect, String> {
    let dialect = Dialect::parse(name).map_err(|error| error.to_string())?;
    if dialect.runs_in_lockstep() {
        return Ok(dialect);
    }
    let follows = |name: &&str| Dialect::by_name(name).is_some_and(|dialect| dialect.runs_in_lockstep());
    let known = Dialect::names().filter(follows).collect::<Vec<_>>().join(", ");
    Err(format!("no guest can be followed in the dialect {name:?}; there are: {known}"))
}

fn from_table(rows: &[Row], kernel: Identity<'_>) -> Result<Chosen, String> {
    let series = numbers(kernel.release, 2);
    let last_of = |row: &Row| numbers(row.through.as_ref().unwrap_or(&row.upstream), 2);
    let holds = |row: &&Row| (numbers(&row.upstream, 2)..=last_of(row)).contains(&series);
    if let Some(row) = rows.iter().find(holds) {
        return of_row(row, kernel);
    }
    match rows.last() {
        Some(last) if series > last_of(last) => Ok(Chosen { exact: false, ..of_row(last, kernel)? }),
        _ => Err(format!("dialects.toml has no dialect for kernel {}; name one with --dialect", kernel.release)),
    }
}

fn of_row(row: &Row, kernel: Identity<'_>) -> Result<Chosen, String> {
    let mut chosen = Chosen { dialect: by_name(&row.dialect)?, exact: row.exact };
    for backport in &row.backport {
        match backport.is_in(kernel) {
            Some(true) => {}
            Some(false) => chosen.dialect = backport.without(chosen.dialect)?,
            // Kernels that are kept up to date have it.
            None => chosen.exact = false,
        }
    }
    Ok(chosen)
}

impl Backport {
    /// None: what the kernel says does not tell.
    fn is_in(&self, kernel: Identity<'_>) -> Option<bool> {
        let (has, first) = match kernel.debian() {
            Some(version) => (version, &self.debian),
            None => (kernel.upstream()?, &self.upstream),
        };
        Some(versions(has, first) != Ordering::Less)
    }

    fn without(&self, dialect: Dialect) -> Result<Dialect, String> {
        let switches = self.before.iter();
        let set = switches.into_iter().try_fold(dialect, |dialect, (name, value)| {
            Switch::by_name(name).and_then(|switch| switch.set(dialect, value))
        });
        set.map_err(|error| format!("dialects.toml, {}: {error}", self.commit))
    }
}

/// Compares the numbers of two versions, place by place. Enough for kernels' own: neither letters nor epochs occur.
fn versions(a: &str, b: &str) -> Ordering {
    numbers(a, usize::MAX).cmp(&numbers(b, usize::MAX))
}

/// The first `count` numbers: of "6.12.107+deb13" the first two are [6, 12].
fn numbers(version: &str, count: usize) -> Vec<u32> {
    let words = version.split(|c: char| !c.is_ascii_digit()).filter(|word| !word.is_empty());
    words.take(count).map(|word| word.parse().unwrap_or(u32::MAX)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;

    fn of(release: &str, build: &str) -> Result<(String, bool), String> {
        choose(None, Identity { release, build }).map(|chosen| (chosen.dialect.describe(), chosen.exact))
    }

    #[test]
    fn every_row_of_the_table_names_a_dialect_and_switches_that_exist() {
        let rows = table();
        for row in &rows {
            let dialect = by_name(&row.dialect).unwrap();
            for backport in &row.backport {
                assert!(backport.commit.len() >= 12, "{}", backport.commit);
                assert_ne!(backport.without(dialect).unwrap(), dialect, "{} changes nothing", backport.commit);
            }
        }
        let rise = |pair: &[Row]| numbers(&pair[0].upstream, 2) < numbers(&pair[1].upstream, 2);
        assert!(rows.windows(2).all(rise), "rows rise");
    }

    #[test]
    fn a_listed_kernel_is_exact_a_newer_one_is_not_and_an_older_one_has_none() {
        let debian = "#1 SMP Debian 5.10.262-1 (2026-01-01)";
        assert_eq!(of("5.10.0-46-cloud-amd64", debian), Ok(("v5_10".into(), true)));
        assert_eq!(
            of("6.1.0-56-cloud-amd64", "#1 SMP PREEMPT_DYNAMIC Debian 6.1.192-2 (2026-…)"),
            Ok(("v6_1".into(), true))
        );
        assert_eq!(of("7.2.13+deb14-cloud-amd64", "Debian 7.2.13-1"), Ok(("v7_2".into(), true)));
        assert_eq!(of("6.18.3", ""), Ok(("v7_2".into(), false)));
        assert_eq!(of("7.9.1", ""), Ok(("v7_2".into(), false)));
        assert!(of("5.4.0-1", "").unwrap_err().contains("--dialect"));
        assert!(of("6.6.90", "").unwrap_err().contains("--dialect"), "between two rows");
    }

    #[test]
    fn a_backport_is_looked_up_by_the_distributions_own_version() {
        let debian = |version: &str| of("6.12.0+deb13-cloud-amd64", &format!("#1 SMP Debian {version} (2026-…)"));
        assert_eq!(debian("6.12.117-1"), Ok(("v6_12".into(), true)));
        assert_eq!(debian("6.12.27-1"), Ok(("v6_12".into(), true)));
        assert_eq!(debian("6.12.95-1~bpo12+1"), Ok(("v6_12".into(), true)));
        assert_eq!(debian("6.12.22-1"), Ok(("v6_12,convert_after_error=yes".into(), true)));
        assert_eq!(of("6.12.26-mine", "#3 SMP"), Ok(("v6_12,convert_after_error=yes".into(), true)));
        assert_eq!(of("6.12.30+", "#3 SMP"), Ok(("v6_12".into(), true)));
        assert_eq!(of("6.12.0-31-generic", "#31-Ubuntu SMP"), Ok(("v6_12".into(), false)), "that count says nothing");
    }

    #[test]
    fn what_the_user_names_counts() {
        let kernel = Identity { release: "5.10.0", build: "" };
        assert_eq!(choose(Some("v6_1"), kernel).unwrap().dialect, Dialect::V6_1);
        let fixed = choose(Some("v6_1,convert_after_error=no"), kernel).unwrap();
        assert_eq!((fixed.dialect.describe().as_str(), fixed.exact), ("v6_1,convert_after_error=no", true));
        assert!(choose(Some("v9"), kernel).unwrap_err().contains("v6_1"));
        assert!(choose(Some("v6_1,nothing=no"), kernel).unwrap_err().contains("hole_ends_bio"));
        assert!(choose(Some("seed"), kernel).is_err(), "no guest of ours runs a kernel of 2013");
    }
}
