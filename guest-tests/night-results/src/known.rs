//! known.json: failures that somebody has looked at, with the reason.

use crate::{Damage, ResultLine, Signature};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// The signature: its id or its text.
    pub signature: String,
    /// What may be found beside it, in the signature's words; anything else makes a failure of that name news.
    #[serde(default)]
    pub with: Vec<String>,
    /// Why it is known.
    pub reason: String,
    /// The commit that mends it, or where it is spoken of.
    pub link: String,
    /// Kernels that are known to have it.
    #[serde(default)]
    pub kernels: KnownKernels,
    /// The day from which on it is news again, as 2027-01-31.
    #[serde(default)]
    pub expires: Option<String>,
}

/// Kernels by their series.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KnownKernels {
    /// `"any"`
    #[default]
    Any,
    /// `["6.1", "6.12"]`
    These(Vec<String>),
}

impl Known {
    /// Whether a failure with this signature, on a kernel of this series, is this one. `today` is a day as 2027-01-31.
    pub fn covers(&self, signature: &Signature, series: &str, today: &str) -> bool {
        let beside = signature.with.iter().all(|with| self.with.contains(with));
        self.names(signature) && beside && self.kernels.include(series) && !self.expired(today)
    }

    /// Whether it is about failures of this name.
    pub fn names(&self, signature: &Signature) -> bool {
        self.signature == signature.id || self.signature == signature.text
    }

    /// Whether its day has come.
    pub fn expired(&self, today: &str) -> bool {
        self.expires.as_deref().is_some_and(|day| day <= today)
    }
}

/// The entry that a result is, if any.
pub fn known_as<'a>(known: &'a [Known], line: &ResultLine, today: &str) -> Option<&'a Known> {
    let signature = line.signature.as_ref()?;
    known.iter().find(|known| known.covers(signature, &line.series, today))
}

impl KnownKernels {
    /// Whether a kernel of this series is meant.
    pub fn include(&self, series: &str) -> bool {
        match self {
            KnownKernels::Any => true,
            KnownKernels::These(list) => list.iter().any(|one| one == series),
        }
    }
}

/// Reads known.json; `file` is what an error calls it.
pub fn read_known(file: &str, text: &str) -> Result<Vec<Known>, Damage> {
    let damage = |line: usize, what: String| Damage {
        file: file.to_owned(),
        line,
        what,
        remedy: "docs/nightly.md tells what an entry holds".to_owned(),
    };
    let mut json = serde_json::Deserializer::from_str(text);
    let list: Vec<Known> = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let line = error.inner().line().max(1);
        damage(line, error.to_string())
    })?;
    json.end().map_err(|error| damage(error.line().max(1), error.to_string()))?;
    for (n, known) in list.iter().enumerate() {
        check(known).map_err(|what| damage(line_of(text, n), format!("entry {n}: {what}")))?;
    }
    Ok(list)
}

fn check(known: &Known) -> Result<(), String> {
    if known.signature.is_empty() || known.reason.trim().is_empty() {
        return Err("signature and reason may not be empty".into());
    }
    match &known.expires {
        Some(day) if !is_day(day) => Err(format!("expires is {day:?}, which is no day such as 2027-01-31")),
        _ => Ok(()),
    }
}

/// Days compare as their texts do only if all are written alike.
fn is_day(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let number = |text: &str, digits: usize| (text.len() == digits).then(|| text.parse::<u32>().ok()).flatten();
    let [year, month, day] = parts[..] else { return false };
    number(year, 4).is_some()
        && number(month, 2).is_some_and(|month| (1..=12).contains(&month))
        && number(day, 2).is_some_and(|day| (1..=31).contains(&day))
}

/// Where the n-th entry begins, as near as can be said without a second parser: the n-th "signature".
fn line_of(text: &str, n: usize) -> usize {
    let at = text.match_indices("\"signature\"").nth(n).map_or(0, |(at, _)| at);
    text[..at].matches('\n').count() + 1
}

impl<'de> Deserialize<'de> for KnownKernels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<KnownKernels, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Word(String),
            List(Vec<String>),
        }
        let wanted = "kernels is \"any\" or a list of series such as [\"6.1\"]";
        match Written::deserialize(deserializer) {
            Ok(Written::Word(word)) if word == "any" => Ok(KnownKernels::Any),
            Ok(Written::List(list)) if !list.is_empty() => Ok(KnownKernels::These(list)),
            _ => Err(serde::de::Error::custom(wanted)),
        }
    }
}

impl Serialize for KnownKernels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            KnownKernels::Any => serializer.serialize_str("any"),
            KnownKernels::These(list) => list.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = r#"[
 {"signature": "different / put", "reason": "seen", "link": "e856f93e0fb2", "kernels": ["6.1"], "expires": "2027-01-31"}
]"#;

    #[test]
    fn a_known_failure_is_known_on_its_kernels_until_its_day() {
        let known = read_known("known.json", ONE).unwrap().remove(0);
        let signature = Signature::of("different / put");
        assert!(known.covers(&signature, "6.1", "2027-01-30"));
        assert!(!known.covers(&signature, "6.1", "2027-01-31"), "expired");
        assert!(!known.covers(&signature, "6.12", "2027-01-30"), "another kernel");
        assert!(!known.covers(&Signature::of("other"), "6.1", "2027-01-30"), "another failure");
    }

    #[test]
    fn what_is_found_beside_a_known_failure_is_news_unless_it_is_known_too() {
        let beside = |with: &[&str]| Signature {
            with: with.iter().map(|&with| with.into()).collect(),
            ..Signature::of("different / put")
        };
        let known = |text: &str| read_known("k", text).unwrap().remove(0);
        let covers = |known: &Known, with: &[&str]| known.covers(&beside(with), "6.1", "2026-01-01");
        let strict = known(ONE);
        assert!(covers(&strict, &[]) && !covers(&strict, &["stale-data-read"]));
        let wide = known(&ONE.replace("\"reason\"", "\"with\": [\"stale-data-read\"], \"reason\""));
        assert!(covers(&wide, &[]) && covers(&wide, &["stale-data-read"]));
        assert!(!covers(&wide, &["file-lost", "stale-data-read"]));
    }

    #[test]
    fn a_known_failure_may_be_named_by_the_short_id() {
        let text = ONE.replace("different / put", &Signature::of("x").id);
        assert!(read_known("k", &text).unwrap()[0].covers(&Signature::of("x"), "6.1", "2026-01-01"));
    }

    #[test]
    fn every_mistake_names_file_line_and_what_was_wanted() {
        for (from, to, wanted) in [
            ("2027-01-31", "next year", "known.json:2: entry 0: expires is \"next year\""),
            ("\"seen\"", "\"\"", "known.json:2: entry 0: signature and reason may not be empty"),
            ("[\"6.1\"]", "\"some\"", "kernels is \"any\" or a list of series"),
            ("\"reason\"", "\"raison\"", "raison"),
            ("\n]", "", "known.json:2"),
        ] {
            let said = read_known("known.json", &ONE.replace(from, to)).unwrap_err().to_string();
            assert!(said.contains(wanted), "{said}");
        }
    }
}
