//! JSON text to a tree that remembers where everything stood.
//!
//! `json-spanned-value` keeps the positions; the tree is ours, because a script must not lose what its maps would drop:
//! a key given twice, and the difference between `3` and `3.0`.

use std::fmt;

use json_spanned_value::Spanned;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A value and where it begins.
pub type Node = Spanned<Value>;

/// Any JSON value.
#[derive(Clone, Debug)]
pub enum Value {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// Written without a fraction or exponent.
    Integer(i128),
    /// Written with one, or too large for an integer.
    Float(f64),
    /// Text.
    String(String),
    /// A list.
    Array(Vec<Node>),
    /// In the order written, keys given twice included.
    Object(Vec<(Spanned<String>, Node)>),
}

impl Value {
    /// The kind, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a number with a fraction",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        }
    }
}

/// What stands in the way of a tree.
#[derive(Debug)]
pub struct SyntaxError {
    /// Line, from 1.
    pub line: u32,
    /// Column, from 1.
    pub column: u32,
    /// What is wrong there.
    pub text: String,
}

/// Parses one document.
pub fn parse(text: &str) -> Result<Node, SyntaxError> {
    json_spanned_value::from_str(text).map_err(|error| {
        let whole = error.to_string();
        let text = whole.rsplit_once(" at line ").map_or(whole.as_str(), |(text, _)| text);
        SyntaxError { line: at_least_one(error.line()), column: at_least_one(error.column()), text: text.to_string() }
    })
}

/// What to do about the mistakes that people make most.
pub fn remedy(text: &str, error: &str) -> Option<&'static str> {
    match error {
        _ if text.starts_with('\u{feff}') => {
            Some("the file begins with a byte order mark: save it as UTF-8 without one")
        }
        "trailing comma" => Some("nothing follows the last comma: take that away"),
        "key must be a string" => Some("a key stands in double quotes; there are no comments, use \"note\""),
        "expected value" => Some("text stands in double quotes; there are no comments, use \"note\""),
        _ => None,
    }
}

/// The text of a file. Where it is none: the line, and the column in characters, both from 1.
pub fn text_of(bytes: &[u8]) -> Result<&str, (u32, u32)> {
    std::str::from_utf8(bytes).map_err(|error| {
        let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        (at_least_one(line), at_least_one(column))
    })
}

fn at_least_one(n: usize) -> u32 {
    u32::try_from(n.max(1)).unwrap_or(u32::MAX)
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_string()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every value and key with the text at its position.
    fn positions(text: &str) -> Vec<String> {
        fn walk(text: &str, node: &Node, out: &mut Vec<String>) {
            out.push(text[node.start()..].chars().take(3).collect());
            match node.get_ref() {
                Value::Array(items) => items.iter().for_each(|item| walk(text, item, out)),
                Value::Object(fields) => fields.iter().for_each(|(key, value)| {
                    out.push(text[key.start()..].chars().take(3).collect());
                    walk(text, value, out);
                }),
                _ => {}
            }
        }
        let mut out = Vec::new();
        walk(text, &parse(text).expect("valid JSON"), &mut out);
        out
    }

    #[test]
    fn every_value_and_key_knows_where_it_stands() {
        let text = "{ \"ab\" : [12,\n 34 , {\"cd\":null}, true], \"ef\":\"gh\" , \"ij\": 1.5}";
        let expected =
            ["{ \"", "\"ab", "[12", "12,", "34 ", "{\"c", "\"cd", "nul", "tru", "\"ef", "\"gh", "\"ij", "1.5"];
        assert_eq!(positions(text), expected);
    }

    #[test]
    fn a_key_given_twice_is_kept_twice() {
        let Value::Object(fields) = parse("{\"a\":1,\"a\":2}").expect("valid JSON").into_inner() else {
            panic!("not an object")
        };
        assert_eq!(fields.len(), 2);
    }

    #[test]
    fn three_and_three_point_zero_differ() {
        assert!(matches!(parse("3").expect("valid").into_inner(), Value::Integer(3)));
        assert!(matches!(parse("3.0").expect("valid").into_inner(), Value::Float(_)));
    }

    #[test]
    fn a_syntax_error_knows_its_place() {
        let error = parse("{\"a\": 1,\n \"b\" 2}").expect_err("a colon is missing");
        assert_eq!((error.line, error.column, error.text.as_str()), (2, 6, "expected `:`"));
    }
}
