//! Which dialect a kernel speaks: from the user or from the table, never from the run that is judged.

use crate::expectation::fits;
use ext4_replica::Dialect;
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    dialect: Vec<Row>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    kernel: String,
    dialect: String,
}

/// A dialect, and how sure the table is of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// How the replica is to behave.
    pub dialect: Dialect,
    /// The table names this kernel. What the user names is exact by definition.
    pub exact: bool,
}

/// The dialect for a kernel release. The error is a sentence.
pub fn choose(given: Option<&str>, release: &str) -> Result<Chosen, String> {
    match given {
        Some(name) => Ok(Chosen { dialect: by_name(name)?, exact: true }),
        None => from_table(&table(), release),
    }
}

fn table() -> Vec<Row> {
    let table: Table = toml::from_str(include_str!("../dialects.toml")).expect("dialects.toml is checked by a test");
    table.dialect
}

/// One that a guest can be followed in: those of 2013 are for the replica alone.
fn by_name(name: &str) -> Result<Dialect, String> {
    let follows = |name: &&str| Dialect::by_name(name).is_some_and(|dialect| dialect.runs_in_lockstep());
    let known = Dialect::names().filter(follows).collect::<Vec<_>>().join(", ");
    let found = Dialect::by_name(name).filter(Dialect::runs_in_lockstep);
    found.ok_or_else(|| format!("no dialect that a guest can be followed in is called {name:?}; there are: {known}"))
}

fn from_table(rows: &[Row], release: &str) -> Result<Chosen, String> {
    if let Some(row) = rows.iter().find(|row| fits(&row.kernel, release)) {
        return Ok(Chosen { dialect: by_name(&row.dialect)?, exact: true });
    }
    match rows.last() {
        Some(last) if numbers(release) > numbers(&last.kernel) => {
            Ok(Chosen { dialect: by_name(&last.dialect)?, exact: false })
        }
        _ => Err(format!("dialects.toml has no dialect for kernel {release}; name one with --dialect")),
    }
}

/// Series as numbers: "6.12.107+deb13" is [6, 12].
fn numbers(version: &str) -> Vec<u32> {
    let number = |part: &str| part.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap_or(0);
    version.split('.').take(2).map(number).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_the_table_names_a_dialect_of_the_replica() {
        for row in table() {
            by_name(&row.dialect).unwrap();
        }
    }

    #[test]
    fn a_listed_kernel_is_exact_a_newer_one_is_not_and_an_older_one_has_none() {
        let of = |release| choose(None, release).map(|chosen| (chosen.dialect.name.to_string(), chosen.exact));
        assert_eq!(of("5.10.0-32-cloud-amd64"), Ok(("v5_10".into(), true)));
        assert_eq!(of("6.1.0-56-cloud-amd64"), Ok(("v6_1".into(), true)));
        assert_eq!(of("6.12.107+deb13-cloud-amd64"), Ok(("v6_12".into(), true)));
        assert_eq!(of("7.2.13+deb14-cloud-amd64").map(|(_, exact)| exact), Ok(false));
        assert!(of("5.4.0-1").unwrap_err().contains("--dialect"));
    }

    #[test]
    fn what_the_user_names_counts() {
        assert_eq!(choose(Some("v6_1"), "5.10.0").unwrap().dialect, Dialect::V6_1);
        assert!(choose(Some("v9"), "6.1.0").unwrap_err().contains("v6_1"));
        assert!(choose(Some("seed"), "6.1.0").is_err(), "no guest of ours runs a kernel of 2013");
    }
}
