//! Allowed differences, as data (`exceptions.toml`).
//!
//! Each entry names one kind of response and one condition, a reason with its source, and a recording that exercises it. An
//! entry that no recording exercises fails a test, and one io_end of whose responses more than one in twenty is allowed
//! is different all the same. An empty list is the best list.

use ext4_replica::DialectName;
use serde::Deserialize;
use std::collections::BTreeSet;
use writeback_events::Response;

/// The list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exceptions {
    /// Its entries.
    #[serde(default, rename = "exception")]
    pub entries: Vec<Exception>,
}

/// One allowed difference.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exception {
    /// Its name.
    pub id: String,
    /// Dialects it holds for.
    pub dialects: Vec<DialectName>,
    /// The kind of response, as its `ev`.
    pub response: String,
    /// When it holds.
    pub condition: Condition,
    /// Why the two may differ here.
    pub reason: String,
    /// Where that can be read: kernel file, function and version, or a page.
    pub source: String,
    /// Folder below `recordings/` that exercises it.
    pub recording: String,
}

/// When a difference is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Condition {
    /// Both have the response, and this field of it differs and no other.
    Differs(String),
    /// Only this side has it.
    Only(Side),
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The guest.
    Guest,
    /// The replica.
    Replica,
}

/// What is wrong with a list.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExceptionsError {
    /// It cannot be read.
    #[error("exceptions.toml: {0}")]
    Toml(String),
    /// Two entries have one name.
    #[error("exceptions.toml: two entries are called {0}; give each a name of its own")]
    Twice(String),
    /// An entry leaves out what makes it believable.
    #[error("exceptions.toml: entry {id} has no {field}; say it, or drop the entry")]
    Empty {
        /// The entry.
        id: String,
        /// What is missing.
        field: &'static str,
    },
}

impl Exceptions {
    /// Reads a list.
    pub fn parse(text: &str) -> Result<Exceptions, ExceptionsError> {
        let exceptions: Exceptions = toml::from_str(text).map_err(|error| ExceptionsError::Toml(error.to_string()))?;
        let mut ids = BTreeSet::new();
        for entry in &exceptions.entries {
            if !ids.insert(&entry.id) {
                return Err(ExceptionsError::Twice(entry.id.clone()));
            }
            entry.whole()?;
        }
        Ok(exceptions)
    }

    /// The list that goes with this program.
    pub fn built_in() -> Exceptions {
        Exceptions::parse(include_str!("../../exceptions.toml")).expect("a test reads the list we ship")
    }

    /// The entry that allows the guest's and the replica's next response to differ, if there is one.
    pub(super) fn differ(&self, dialect: DialectName, guest: &Response, replica: &Response) -> Option<&Exception> {
        let field = only_field_that_differs(guest, replica)?;
        self.find(dialect, guest, |condition| *condition == Condition::Differs(field.clone()))
    }

    /// The entry that allows only one side to have this response.
    pub(super) fn only(&self, dialect: DialectName, side: Side, response: &Response) -> Option<&Exception> {
        self.find(dialect, response, |condition| *condition == Condition::Only(side))
    }

    fn find(
        &self,
        dialect: DialectName,
        response: &Response,
        holds: impl Fn(&Condition) -> bool,
    ) -> Option<&Exception> {
        if self.entries.is_empty() {
            return None;
        }
        let kind = kind(response);
        let fits =
            |entry: &&Exception| entry.dialects.contains(&dialect) && entry.response == kind && holds(&entry.condition);
        self.entries.iter().find(fits)
    }
}

impl Exception {
    fn whole(&self) -> Result<(), ExceptionsError> {
        let told = [("reason", &self.reason), ("source", &self.source), ("recording", &self.recording)];
        match told.into_iter().find(|(_, text)| text.trim().is_empty()) {
            Some((field, _)) => Err(ExceptionsError::Empty { id: self.id.clone(), field }),
            None => Ok(()),
        }
    }
}

fn fields(response: &Response) -> serde_json::Map<String, serde_json::Value> {
    match serde_json::to_value(response) {
        Ok(serde_json::Value::Object(fields)) => fields,
        other => unreachable!("a response is an object, not {other:?}"),
    }
}

fn kind(response: &Response) -> String {
    fields(response).get("ev").and_then(|ev| ev.as_str()).unwrap_or_default().to_owned()
}

fn only_field_that_differs(guest: &Response, replica: &Response) -> Option<String> {
    let (guest, replica) = (fields(guest), fields(replica));
    let mut differing = guest.iter().filter(|(name, value)| replica.get(*name) != Some(value));
    let (name, _) = differing.next()?;
    (differing.next().is_none() && name != "ev").then(|| name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = r#"
        [[exception]]
        id = "a"
        dialects = ["v6_1"]
        response = "put_io_end"
        condition = { differs = "count" }
        reason = "r"
        source = "s"
        recording = "clean"
    "#;

    #[test]
    fn the_list_we_ship_can_be_read() {
        let _ = Exceptions::built_in();
    }

    #[test]
    fn an_entry_without_a_reason_or_with_an_unknown_key_is_refused() {
        assert!(Exceptions::parse(ENTRY).is_ok());
        let no_reason = ENTRY.replace("\"r\"", "\" \"");
        assert!(matches!(Exceptions::parse(&no_reason), Err(ExceptionsError::Empty { field: "reason", .. })));
        let unknown = ENTRY.replace("source", "sauce");
        assert!(matches!(Exceptions::parse(&unknown), Err(ExceptionsError::Toml(_))));
        assert!(matches!(Exceptions::parse(&format!("{ENTRY}{ENTRY}")), Err(ExceptionsError::Twice(_))));
    }
}
