//! Takes a JSON tree apart and notes everything that is wrong with it, where it stands, and what was meant.
//!
//! Every helper reports its own problem and returns `None`; the caller goes on with the next part, so that one pass
//! finds all problems. Scripts are read with it, and other documents that people write by hand may be.

use crate::json::{Node, Value};
use crate::problem::Problem;
use crate::rule::Place;

/// Largest integer that every JSON reader keeps exactly.
pub const MAX_INTEGER: u64 = (1 << 53) - 1;

/// Reads one file.
pub struct Reader<'s> {
    source: usize,
    name: &'s str,
    text: &'s str,
    line_starts: Vec<usize>,
    /// What was found so far.
    pub problems: Vec<(Place, Problem)>,
}

/// A value and how one gets there.
#[derive(Clone, Debug)]
pub struct At<'n> {
    /// The value.
    pub node: &'n Node,
    /// Its JSON pointer.
    pub pointer: String,
}

impl<'n> At<'n> {
    /// The document itself.
    pub fn root(node: &'n Node) -> At<'n> {
        At { node, pointer: String::new() }
    }

    fn child(&self, key: &str, node: &'n Node) -> At<'n> {
        At { node, pointer: format!("{}/{}", self.pointer, key.replace('~', "~0").replace('/', "~1")) }
    }

    /// It is text.
    pub fn is_string(&self) -> bool {
        matches!(self.node.get_ref(), Value::String(_))
    }

    /// It is an object.
    pub fn is_object(&self) -> bool {
        matches!(self.node.get_ref(), Value::Object(_))
    }

    /// It is a list.
    pub fn is_array(&self) -> bool {
        matches!(self.node.get_ref(), Value::Array(_))
    }

    /// It is `null`.
    pub fn is_null(&self) -> bool {
        matches!(self.node.get_ref(), Value::Null)
    }
}

/// The fields of an object, each key once.
pub struct Fields<'n> {
    /// The object.
    pub at: At<'n>,
    /// Its fields in the order written.
    pub entries: Vec<(&'n str, At<'n>)>,
    /// Keys that nobody knows stood here too, and have been reported: one of them may be what is missing.
    pub some_unknown: bool,
}

impl<'n> Fields<'n> {
    /// The value of a field.
    pub fn get(&self, key: &str) -> Option<&At<'n>> {
        self.entries.iter().find(|(name, _)| *name == key).map(|(_, at)| at)
    }

    /// The field is there.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Those of `keys` that are present.
    pub fn present<'k>(&self, keys: &[&'k str]) -> Vec<&'k str> {
        keys.iter().copied().filter(|key| self.has(key)).collect()
    }
}

impl<'s> Reader<'s> {
    /// Begins to read `text`; `name` is for messages, `source` orders several files.
    pub fn new(source: usize, name: &'s str, text: &'s str) -> Reader<'s> {
        let line_starts = std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect();
        Reader { source, name, text, line_starts, problems: Vec::new() }
    }

    /// A value as it is written.
    pub fn text_of(&self, at: &At<'_>) -> Option<&'s str> {
        self.text.get(at.node.start()..at.node.end())
    }

    /// Everything that is written before a value.
    pub fn text_before(&self, at: &At<'_>) -> &'s str {
        self.text.get(..at.node.start()).unwrap_or_default()
    }

    /// Where a value stands.
    pub fn place(&self, at: &At<'_>) -> Place {
        self.place_of(at.node.start(), at.pointer.clone())
    }

    fn place_of(&self, offset: usize, pointer: String) -> Place {
        let line = self.line_starts.partition_point(|&start| start <= offset);
        let start = self.line_starts[line - 1];
        let column = self.text.get(start..offset).map_or(0, |before| before.chars().count()) + 1;
        self.place_at(line as u32, column as u32, pointer)
    }

    /// A place whose line and column are known.
    pub fn place_at(&self, line: u32, column: u32, pointer: String) -> Place {
        Place { source: self.source, line, column, file: self.name.to_string(), pointer }
    }

    /// Notes what is wrong with a value.
    pub fn report(&mut self, code: &'static str, at: &At<'_>, text: impl Into<String>, hint: Option<String>) {
        let place = self.place(at);
        self.report_at(code, place, text, hint);
    }

    /// Notes what is wrong at a place.
    pub fn report_at(&mut self, code: &'static str, place: Place, text: impl Into<String>, hint: Option<String>) {
        let problem = problem(code, &place, text.into(), hint);
        self.problems.push((place, problem));
    }

    /// Notes that a value is of another type than it should be.
    pub fn wrong_type(&mut self, at: &At<'_>, expected: &str) {
        let hint = match (expected, at.node.get_ref()) {
            ("an integer", Value::String(_)) => Some("the unit is in the key, the number stands bare".to_string()),
            _ => None,
        };
        self.report("E106", at, format!("expected {expected}, found {}", at.node.kind()), hint);
    }

    /// An object in which any key may stand.
    pub fn any_object<'n>(&mut self, at: &At<'n>) -> Option<Fields<'n>> {
        let Value::Object(written) = at.node.get_ref() else {
            self.wrong_type(at, "an object");
            return None;
        };
        let mut fields = Fields { at: at.clone(), entries: Vec::new(), some_unknown: false };
        for (key, node) in written {
            let child = at.child(key.get_ref(), node);
            if fields.has(key.get_ref()) {
                let place = self.place_of(key.start(), child.pointer);
                self.report_at("E108", place, format!("{:?} is given twice", key.get_ref()), None);
            } else {
                fields.entries.push((key.get_ref(), child));
            }
        }
        Some(fields)
    }

    /// An object in which only these keys may stand.
    pub fn object<'n>(&mut self, at: &At<'n>, known: &[&str]) -> Option<Fields<'n>> {
        let mut fields = self.any_object(at)?;
        if let Value::Object(written) = at.node.get_ref() {
            for (key, node) in written.iter().filter(|(key, _)| !known.contains(&key.get_ref().as_str())) {
                let place = self.place_of(key.start(), at.child(key.get_ref(), node).pointer);
                let hint = did_you_mean(key.get_ref(), known)
                    .or_else(|| Some(format!("known here: {}", known.join(", "))).filter(|_| !known.is_empty()));
                self.report_at("E101", place, format!("unknown field {:?}", key.get_ref()), hint);
            }
        }
        fields.some_unknown = fields.entries.iter().any(|(key, _)| !known.contains(key));
        fields.entries.retain(|(key, _)| known.contains(key));
        Some(fields)
    }

    /// A field that must be there.
    pub fn required<'f, 'n>(&mut self, fields: &'f Fields<'n>, key: &str) -> Option<&'f At<'n>> {
        let found = fields.get(key);
        if found.is_none() {
            self.report("E107", &fields.at, format!("field {key:?} is missing"), None);
        }
        found
    }

    /// Of these keys exactly one must be there.
    pub fn exactly_one<'k>(&mut self, fields: &Fields<'_>, keys: &[&'k str]) -> Option<&'k str> {
        let present = fields.present(keys);
        match present[..] {
            [one] => Some(one),
            [] if fields.some_unknown => None,
            [] => {
                self.report(
                    "E104",
                    &fields.at,
                    format!("exactly one of {} is needed, found none", keys.join(", ")),
                    None,
                );
                None
            }
            _ => {
                self.report(
                    "E104",
                    &fields.at,
                    format!("exactly one of {}, found {}", keys.join(", "), quoted(&present)),
                    None,
                );
                None
            }
        }
    }

    /// Text.
    pub fn string<'n>(&mut self, at: &At<'n>) -> Option<&'n str> {
        match at.node.get_ref() {
            Value::String(text) => Some(text),
            _ => {
                self.wrong_type(at, "a string");
                None
            }
        }
    }

    /// `true` or `false`.
    pub fn boolean(&mut self, at: &At<'_>) -> Option<bool> {
        match at.node.get_ref() {
            Value::Bool(value) => Some(*value),
            _ => {
                self.wrong_type(at, "true or false");
                None
            }
        }
    }

    /// A list.
    pub fn array<'n>(&mut self, at: &At<'n>) -> Option<Vec<At<'n>>> {
        match at.node.get_ref() {
            Value::Array(items) => {
                Some(items.iter().enumerate().map(|(i, item)| at.child(&i.to_string(), item)).collect())
            }
            _ => {
                self.wrong_type(at, "an array");
                None
            }
        }
    }

    /// An integer within bounds.
    pub fn integer(&mut self, at: &At<'_>, min: u64, max: u64) -> Option<u64> {
        match *at.node.get_ref() {
            Value::Integer(n) if n >= i128::from(min) && n <= i128::from(max) => u64::try_from(n).ok(),
            Value::Integer(n) => {
                let bounds = if max == MAX_INTEGER { format!("{min}..2^53-1") } else { format!("{min}..{max}") };
                self.report("E103", at, format!("{n} is outside {bounds}"), None);
                None
            }
            Value::Float(n) => {
                self.report("E106", at, format!("{n:?} is not an integer below 2^53"), None);
                None
            }
            _ => {
                self.wrong_type(at, "an integer");
                None
            }
        }
    }

    /// An integer that may be negative.
    pub fn signed(&mut self, at: &At<'_>) -> Option<i64> {
        match *at.node.get_ref() {
            Value::Integer(n) if n.unsigned_abs() <= u128::from(MAX_INTEGER) => i64::try_from(n).ok(),
            Value::Integer(n) => {
                self.report("E103", at, format!("{n} is outside -2^53+1..2^53-1"), None);
                None
            }
            _ => self.integer(at, 0, MAX_INTEGER).map(|n| n as i64),
        }
    }

    /// A number in 0..1.
    pub fn share(&mut self, at: &At<'_>, unit: &str) -> Option<f64> {
        let n = match *at.node.get_ref() {
            Value::Integer(n) => n as f64,
            Value::Float(n) => n,
            _ => {
                self.wrong_type(at, "a number");
                return None;
            }
        };
        if (0.0..=1.0).contains(&n) {
            return Some(n);
        }
        let mut text = format!("{n} is outside 0..1");
        if n > 1.0 && n <= 100.0 {
            text += &format!(" (write {} for {n} {unit})", n / 100.0);
        }
        self.report("E103", at, text, None);
        None
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&mut self, at: &At<'_>, choices: &[(&str, T)]) -> Option<T> {
        let word = self.string(at)?;
        let found = choices.iter().find(|(name, _)| *name == word);
        if found.is_none() {
            let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
            let hint = did_you_mean(word, &names);
            self.report("E102", at, format!("{word:?} is not one of {}", names.join(", ")), hint);
        }
        found.map(|(_, value)| *value)
    }
}

/// Puts a problem into words at a place.
pub fn problem(code: &'static str, place: &Place, text: String, hint: Option<String>) -> Problem {
    let Place { line, column, file, pointer, .. } = place.clone();
    Problem { file, line, column, code, pointer, text, hint }
}

/// The nearest known word, if one is near.
pub fn did_you_mean(word: &str, known: &[&str]) -> Option<String> {
    let near = |name: &&str| strsim::damerau_levenshtein(word, name);
    let best = known.iter().copied().min_by_key(near)?;
    (near(&best) <= 1 + word.chars().count() / 4).then(|| format!("did you mean {best:?}?"))
}

/// `"a" and "b"`
pub fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" and ")
}
