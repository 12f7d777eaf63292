//! The text of a scenario: the same bytes whatever order a JSON library keeps keys in, and made to be read.

use serde_json::{Map, Value};

/// Keys that say what a thing is come first, in this order; the rest follow by the alphabet.
const FIRST: &[&str] = &[
    "scenario",
    "op",
    "name",
    "why",
    "kernels",
    "disk",
    "lockstep",
    "guest",
    "filesystem",
    "faults",
    "faultscript",
    "seed",
    "device",
    "states",
    "rules",
    "events",
    "workload",
    "expect",
    "op",
    "path",
    "id",
    "match",
    "trigger",
    "action",
    "scope",
    "at",
    "do",
    "offset",
    "len",
    "size_mib",
    "block_bytes",
    "min",
    "max",
    "dist",
];

/// Longest object or list that stands on one line of its own.
const LINE: usize = 150;

/// The text, with a line end.
pub fn text(value: &Value) -> String {
    let mut text = String::new();
    put(&mut text, value, 0);
    text.push('\n');
    text
}

fn put(text: &mut String, value: &Value, depth: usize) {
    let one_line = flat(value);
    if depth > 0 && one_line.len() <= LINE {
        return text.push_str(&one_line);
    }
    match value {
        Value::Object(map) => lines(text, depth, '{', '}', &ordered(map), |text, (key, value)| {
            text.push_str(&format!("{}: ", Value::from(key.as_str())));
            put(text, value, depth + 1);
        }),
        Value::Array(list) => lines(text, depth, '[', ']', list, |text, value| put(text, value, depth + 1)),
        _ => text.push_str(&one_line),
    }
}

fn lines<T>(text: &mut String, depth: usize, open: char, close: char, items: &[T], item: impl Fn(&mut String, &T)) {
    text.push(open);
    for (number, each) in items.iter().enumerate() {
        text.push_str(if number == 0 { "\n" } else { ",\n" });
        text.push_str(&"  ".repeat(depth + 1));
        item(text, each);
    }
    text.push('\n');
    text.push_str(&"  ".repeat(depth));
    text.push(close);
}

fn flat(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let fields: Vec<String> = ordered(map)
                .into_iter()
                .map(|(key, value)| format!("{}: {}", Value::from(key.as_str()), flat(value)))
                .collect();
            format!("{{{}}}", fields.join(", "))
        }
        Value::Array(list) => format!("[{}]", list.iter().map(flat).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

fn ordered(map: &Map<String, Value>) -> Vec<(&String, &Value)> {
    let place = |key: &str| FIRST.iter().position(|first| *first == key).unwrap_or(FIRST.len());
    let mut fields: Vec<(&String, &Value)> = map.iter().collect();
    fields.sort_by(|(a, _), (b, _)| place(a).cmp(&place(b)).then(a.cmp(b)));
    fields
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_short_stands_on_a_line_and_what_says_what_it_is_stands_first() {
        let value =
            json!({"workload": [{"path": "a", "op": "create"}, {"op": "sync"}], "name": "n", "b": "x".repeat(LINE)});
        let expected = format!(
            "{{\n  \"name\": \"n\",\n  \"workload\": [{{\"op\": \"create\", \"path\": \"a\"}}, {{\"op\": \"sync\"}}],\n  \"b\": \"{}\"\n}}\n",
            "x".repeat(LINE)
        );
        assert_eq!(text(&value), expected);
    }

    #[test]
    fn the_text_is_the_value() {
        let value =
            json!({"a": [1, {"b": null, "c": [true, "\"\n"]}], "d": {"e": {}, "f": [], "long": ["x".repeat(200)]}});
        assert_eq!(serde_json::from_str::<Value>(&text(&value)).expect("it is JSON"), value);
    }
}
