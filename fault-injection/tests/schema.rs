//! fault-script.schema.json, which users hand to their editors, and the loader say the same.
//!
//! The loader knows more than a schema can express, so it may refuse what the schema lets pass; never the reverse.
//! The schema is interpreted here in the few keywords it uses; one not known here fails the test.

use std::fs;
use std::path::Path;

use fault_injection::{Source, load, schema};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

fn whole_schema() -> Value {
    serde_json::from_str(schema()).expect("the schema is JSON")
}

fn fits(value: &Value, schema: &Value, root: &Value) -> bool {
    let schema = schema.as_object().expect("a schema is an object");
    schema.iter().all(|(keyword, argument)| keyword_holds(value, keyword, argument, schema, root))
}

fn keyword_holds(value: &Value, keyword: &str, argument: &Value, schema: &Map<String, Value>, root: &Value) -> bool {
    let list = |argument: &Value| argument.as_array().expect("a list").clone();
    let size = |n: usize| n as u64;
    let object = value.as_object();
    let array = value.as_array();
    match keyword {
        "$schema" | "$defs" | "$comment" => true,
        "$ref" => {
            let pointer = argument.as_str().expect("text").trim_start_matches('#');
            fits(value, root.pointer(pointer).expect("a definition"), root)
        }
        "const" => value == argument,
        "enum" => list(argument).contains(value),
        "type" if argument.is_array() => list(argument).iter().any(|name| is_type(value, name)),
        "type" => is_type(value, argument),
        "minimum" => value.as_f64().is_none_or(|n| n >= argument.as_f64().expect("a number")),
        "maximum" => value.as_f64().is_none_or(|n| n <= argument.as_f64().expect("a number")),
        "minItems" => array.is_none_or(|items| Some(size(items.len())) >= argument.as_u64()),
        "maxItems" => array.is_none_or(|items| Some(size(items.len())) <= argument.as_u64()),
        "minProperties" => object.is_none_or(|fields| Some(size(fields.len())) >= argument.as_u64()),
        "maxProperties" => object.is_none_or(|fields| Some(size(fields.len())) <= argument.as_u64()),
        "items" => array.is_none_or(|items| items.iter().all(|item| fits(item, argument, root))),
        "prefixItems" => {
            array.is_none_or(|items| items.iter().zip(list(argument)).all(|(item, schema)| fits(item, &schema, root)))
        }
        "required" => object
            .is_none_or(|fields| list(argument).iter().all(|key| fields.contains_key(key.as_str().expect("text")))),
        "properties" => object.is_none_or(|fields| {
            fields.iter().all(|(key, value)| argument.get(key).is_none_or(|schema| fits(value, schema, root)))
        }),
        "additionalProperties" => object.is_none_or(|fields| {
            let named = |key: &str| schema.get("properties").is_some_and(|properties| properties.get(key).is_some());
            let others = fields.iter().filter(|(key, _)| !named(key));
            match argument {
                Value::Bool(allowed) => *allowed || others.count() == 0,
                schema => others.map(|(_, value)| value).all(|value| fits(value, schema, root)),
            }
        }),
        "oneOf" => list(argument).iter().filter(|schema| fits(value, schema, root)).count() == 1,
        "anyOf" => list(argument).iter().any(|schema| fits(value, schema, root)),
        "not" => !fits(value, argument, root),
        "pattern" => value.as_str().is_none_or(|text| fits_pattern(text, argument.as_str().expect("text"))),
        _ => panic!("keyword {keyword} is not known here"),
    }
}

fn is_type(value: &Value, name: &Value) -> bool {
    match name.as_str().expect("text") {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "number" => value.is_number(),
        "integer" => value.as_f64().is_some_and(|n| n.fract() == 0.0),
        other => panic!("type {other} is not known here"),
    }
}

fn fits_pattern(text: &str, pattern: &str) -> bool {
    match pattern {
        "^ext4\\." => text.starts_with("ext4."),
        "^/" => text.starts_with('/'),
        "^[a-z0-9][a-z0-9_.-]{0,62}$" => {
            let first = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
            text.starts_with(first) && text.len() <= 63 && text.chars().all(|c| first(c) || "_.-".contains(c))
        }
        _ => panic!("pattern {pattern} is not known here"),
    }
}

fn scripts(folder: &str) -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(path).expect("the folder is in the tree").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = entries.filter(|file| file.extension().is_some_and(|e| e == "json")).collect();
    files.sort();
    let read = |file: &std::path::PathBuf| fs::read_to_string(file).expect("readable");
    files.iter().map(|file| (file.display().to_string(), read(file))).collect()
}

fn loader_accepts(text: &str) -> bool {
    load(&[Source { name: "script.json", text }]).is_ok()
}

#[test]
fn the_schema_accepts_every_example() {
    let schema = whole_schema();
    let examples = scripts("examples");
    assert_eq!(examples.len(), 12);
    for (name, text) in examples {
        let script: Value = serde_json::from_str(&text).expect("an example is JSON");
        assert!(fits(&script, &schema, &schema), "{name}");
    }
}

/// The plays use every part of the language; what is played must be what editors accept.
#[test]
fn the_schema_accepts_every_script_that_is_played() {
    let schema = whole_schema();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/play");
    let mut words = std::collections::BTreeSet::new();
    for entry in fs::read_dir(folder).expect("in the tree") {
        let path = entry.expect("an entry").path();
        let text = fs::read_to_string(&path).expect("readable");
        let (text, _) = text.split_once("\n====\n").expect("a script and its commands");
        let script: Value = serde_json::from_str(text).expect("JSON");
        assert!(fits(&script, &schema, &schema), "{}", path.display());
        let normalized = load(&[Source { name: "play", text }]).expect("it is played").script;
        let normalized_value = serde_json::from_str(&normalized.normalized()).expect("JSON");
        assert!(fits(&normalized_value, &schema, &schema), "{}, normalized", path.display());
        words.extend(normalized.words());
    }
    let actions = whole_schema()["$defs"]["action"]["properties"].as_object().expect("actions").clone();
    for action in actions.keys() {
        assert!(words.contains(action.as_str()), "no play of {action:?}");
    }
    let events =
        whole_schema()["$defs"]["event"]["properties"]["do"]["properties"].as_object().expect("events").clone();
    for event in events.keys().filter(|event| *event != "heal") {
        assert!(words.contains(event.as_str()), "no play of {event:?}");
    }
}

#[test]
fn what_the_schema_refuses_the_loader_refuses_and_some_more() {
    let schema = whole_schema();
    let (mut refused_by_both, mut refused_by_loader) = (0, 0);
    for (name, text) in scripts("tests/bad") {
        let Ok(script) = serde_json::from_str::<Value>(&text) else { continue };
        match (fits(&script, &schema, &schema), loader_accepts(&text)) {
            (false, true) => panic!("{name}: the schema refuses it, the loader does not"),
            (false, false) => refused_by_both += 1,
            (true, false) => refused_by_loader += 1,
            (true, true) => {}
        }
    }
    assert!(refused_by_both > 0 && refused_by_loader > 0, "{refused_by_both} {refused_by_loader}");
}

/// Every place in a document, as JSON pointers.
fn places(value: &Value, at: String, out: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(key, value)| places(value, format!("{at}/{key}"), out)),
        Value::Array(items) => items.iter().enumerate().for_each(|(i, item)| places(item, format!("{at}/{i}"), out)),
        _ => {}
    }
    out.push(at);
}

fn odd_values() -> impl Strategy<Value = Value> {
    prop_oneof![
        prop::sample::select(vec![
            json!(null),
            json!(true),
            json!({}),
            json!([]),
            json!(""),
            json!("any"),
            json!("write"),
            json!("request"),
            json!({"ms": 3}),
            json!({"mark": "x"}),
            json!([[0, 8]]),
            json!([1, null]),
            json!(0.5),
            json!(-1),
        ]),
        (0u64..5_000).prop_map(Value::from),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Guards against a key or bound that one of the two forgot: examples with one or two places changed.
    #[test]
    fn a_mutated_example_that_the_loader_accepts_fits_the_schema(
        example in 0usize..12,
        changes in prop::collection::vec((any::<prop::sample::Index>(), odd_values(), 0..3), 1..3),
    ) {
        let (name, text) = scripts("examples").swap_remove(example);
        let mut script: Value = serde_json::from_str(&text).expect("an example is JSON");
        for (at, odd, how) in changes {
            let mut all = Vec::new();
            places(&script, String::new(), &mut all);
            let place: &String = at.get(&all);
            let target = script.pointer_mut(place).expect("a place in the document");
            match (how, &mut *target) {
                (0, Value::Object(fields)) => { fields.insert("extra".to_string(), odd); }
                (1, Value::Object(fields)) => { let key = fields.keys().next().cloned(); key.and_then(|key| fields.remove(&key)); }
                (_, target) => *target = odd,
            }
        }
        let text = script.to_string();
        let schema = whole_schema();
        prop_assert!(fits(&script, &schema, &schema) || !loader_accepts(&text), "{} as {}", name, text);
    }
}
