//! Which findings are expected.

use crate::search::Found;
use ext4_replica::Cause;
use ext4_replica::explore::Property;

/// One item of a list: a cause, a property, or both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    cause: Option<Cause>,
    property: Option<Property>,
}

/// A list as a command line has it: `range_sum/I9,racy_flag`, or `none`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expectation {
    items: Vec<Expected>,
}

impl Expectation {
    /// Reads a list.
    pub fn parse(list: &str) -> Result<Expectation, String> {
        if list == "none" {
            return Ok(Expectation::default());
        }
        let items = list.split(',').map(|item| item.trim().parse()).collect::<Result<_, _>>()?;
        Ok(Expectation { items })
    }

    /// Those found that no item stands for.
    pub fn unexpected<'a>(&self, found: &'a [Found]) -> Vec<&'a Found> {
        found.iter().filter(|one| !self.items.iter().any(|item| item.stands_for(one))).collect()
    }

    /// Items that stand for nothing that was found.
    pub fn missing(&self, found: &[Found]) -> Vec<String> {
        self.items
            .iter()
            .filter(|item| !found.iter().any(|one| item.stands_for(one)))
            .map(ToString::to_string)
            .collect()
    }
}

impl Expected {
    fn stands_for(&self, found: &Found) -> bool {
        self.cause.is_none_or(|cause| found.causes.has(cause))
            && self.property.is_none_or(|property| found.broken.property == property)
    }
}

impl std::str::FromStr for Expected {
    type Err = String;

    fn from_str(item: &str) -> Result<Expected, String> {
        let (first, second) = item.split_once('/').map_or((item, None), |(first, second)| (first, Some(second)));
        let known = match (Cause::by_name(first), Property::by_name(first), second) {
            (cause @ Some(_), _, None) => Some(Expected { cause, property: None }),
            (_, property @ Some(_), None) => Some(Expected { cause: None, property }),
            (cause @ Some(_), _, Some(second)) => {
                Property::by_name(second).map(|property| Expected { cause, property: Some(property) })
            }
            _ => None,
        };
        known.ok_or_else(|| {
            let causes: Vec<_> = Cause::all().map(Cause::name).collect();
            let properties: Vec<_> = Property::ALL.iter().map(|row| row.1).collect();
            format!(
                "{item:?} is no finding: a cause ({}), a property ({}), or CAUSE/PROPERTY; `none` alone expects nothing",
                causes.join(", "),
                properties.join(", ")
            )
        })
    }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = [self.cause.map(Cause::name), self.property.map(Property::name)];
        f.write_str(&words.into_iter().flatten().collect::<Vec<_>>().join("/"))
    }
}
