//! What the loader accepts and how it refuses, over script files.
//!
//! tests/bad holds scripts with something wrong, each beside the exact lines a user sees. To rewrite those after a
//! change on purpose: `REWRITE=1 cargo test -p fault-injection --test scripts`, and read the difference.

use std::fs;
use std::path::{Path, PathBuf};

use fault_injection::{DeviceFacts, Problems, Source, explain, load};

fn folder(name: &str) -> Vec<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let mut files: Vec<PathBuf> =
        fs::read_dir(path).expect("the folder is in the tree").map(|e| e.expect("an entry").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    assert!(!files.is_empty(), "{name} is empty");
    files
}

fn load_file(file: &Path) -> Result<fault_injection::Loaded, Problems> {
    let text = fs::read_to_string(file).expect("readable");
    let name = file.file_name().expect("a file").to_string_lossy();
    load(&[Source { name: &name, text: &text }])
}

#[test]
fn every_bad_script_is_refused_with_all_its_problems() {
    for file in folder("tests/bad") {
        let problems = load_file(&file).expect_err("a bad script");
        let shown = format!("{problems}\n");
        let expected = file.with_extension("txt");
        if std::env::var_os("REWRITE").is_some() {
            fs::write(&expected, &shown).expect("writable");
        }
        let expected = fs::read_to_string(&expected).expect("the expected problems stand beside the script");
        assert_eq!(shown, expected, "{}", file.display());
    }
}

/// All twelve examples of the language, without a word against them.
#[test]
fn every_example_of_the_language_loads() {
    let examples = folder("examples");
    assert_eq!(examples.len(), 12);
    for file in examples {
        let script = load_file(&file).unwrap_or_else(|problems| panic!("{problems}"));
        assert!(script.warnings.is_empty(), "{:?}", script.warnings);
    }
}

fn shown(sources: &[(&str, &str)]) -> String {
    let sources: Vec<Source<'_>> = sources.iter().map(|(name, text)| Source { name, text }).collect();
    match load(&sources) {
        Ok(loaded) => loaded.warnings.iter().map(|warning| format!("{warning}\n")).collect(),
        Err(problems) => format!("{problems}\n"),
    }
}

#[test]
fn several_files_are_one_script_and_may_not_contradict_each_other() {
    let a = r#"{"faultscript": 1, "seed": 1, "device": {"queues": 2}, "states": {"s": ["a", "b"]},
 "rules": [{"id": "x", "match": {"op": "write"}, "action": {"split": {"max_sectors": 8}}}], "expect": {"fired": {"y": [1, 1]}}}"#;
    let b = r#"{"faultscript": 1, "seed": 2, "device": {"queues": 3, "seg_max": 4}, "states": {"s": ["a", "c"]},
 "rules": [{"id": "x", "action": {"lose": {}}},
           {"id": "y", "match": {"child_of": "x"}, "action": {"lose": {}}}], "expect": {"fired": {"y": [1, 1]}}}"#;
    let expected = "\
b.json:1:28: E109 /seed: seed is set already: a.json:1:28
b.json:1:52: E109 /device/queues: device.queues is set already: a.json:1:52
b.json:1:86: E109 /states/s: state \"s\" has other values already: a.json:1:72; states of several files must be identical
b.json:2:19: E109 /rules/0/id: id \"x\" is used already: a.json:2:19
b.json:3:104: E109 /expect/fired/y: rule \"y\" has an expectation already: a.json:2:119
";
    assert_eq!(shown(&[("a.json", a), ("b.json", b)]), expected);
}

#[test]
fn two_files_make_the_rules_of_both_in_order() {
    let a = r#"{"faultscript": 1, "name": "one", "rules": [{"id": "a", "action": {"lose": {}}}]}"#;
    let b = r#"{"faultscript": 1, "name": "two", "seed": 3, "rules": [{"id": "b", "action": {"error": {"status": "ioerr"}}}]}"#;
    let loaded = load(&[Source { name: "a", text: a }, Source { name: "b", text: b }]).expect("nothing is wrong");
    assert_eq!((loaded.script.name(), loaded.script.seed()), (Some("one + two"), Some(3)));
    let expected = r#"{
  "faultscript": 1,
  "name": "one + two",
  "seed": 3,
  "device": {},
  "rules": [
    {
      "id": "a",
      "enabled": true,
      "match": {
        "op": [
          "write",
          "discard",
          "write_zeroes"
        ],
        "overlap": "any"
      },
      "trigger": {
        "key": "address"
      },
      "action": {
        "lose": {}
      },
      "scope": "request"
    },
    {
      "id": "b",
      "enabled": true,
      "match": {
        "op": [
          "read",
          "write",
          "flush",
          "discard",
          "write_zeroes"
        ],
        "overlap": "any"
      },
      "trigger": {
        "key": "address"
      },
      "action": {
        "error": {
          "status": "ioerr",
          "transfer": "none"
        }
      },
      "scope": "request"
    }
  ]
}
"#;
    assert_eq!(loaded.script.normalized(), expected);
}

#[test]
fn a_rule_that_can_never_win_or_fire_is_a_warning() {
    let script = r#"{"faultscript": 1, "rules": [
 {"id": "wide", "match": {"op": "write", "sectors": [[0, 100]]}, "action": {"error": {"status": "ioerr"}}},
 {"id": "narrow", "match": {"op": "write", "sectors": [[8, 16]], "size": {"min": 8}}, "trigger": {"nth": 3}, "action": {"error": {"status": "ioerr"}}},
 {"id": "twin", "match": {"op": "write", "sectors": [[0, 100]]}, "action": {"error": {"status": "unsupp"}}},
 {"id": "beyond", "match": {"op": "write", "sectors": [[96, 104]]}, "action": {"error": {"status": "ioerr"}}},
 {"id": "other-stage", "match": {"op": "write", "sectors": [[8, 16]]}, "action": {"lose": {}}},
 {"id": "limited", "match": {"op": "read"}, "trigger": {"limit": 1}, "action": {"error": {"status": "ioerr"}}},
 {"id": "after-limited", "match": {"op": "read"}, "action": {"error": {"status": "ioerr"}}},
 {"id": "zero", "match": {"op": "flush"}, "trigger": {"probability": 0}, "action": {"error": {"status": "ioerr"}}},
 {"id": "empty", "match": {"op": "discard"}, "trigger": {"after": {"writes": 5}, "until": {"writes": 5}}, "action": {"error": {"status": "ioerr"}}}
]}"#;
    let expected = "\
s.json:3:2: W301 /rules/1: can never win: rule \"wide\" (status stage, wider match, no limit) precedes it
s.json:4:2: W301 /rules/2: can never win: rule \"wide\" (status stage, same match, no limit) precedes it
s.json:9:2: W302 /rules/7: rule \"zero\" can never fire: its probability is 0
s.json:10:2: W302 /rules/8: rule \"empty\" can never fire: \"until\" is not after \"after\"
";
    assert_eq!(shown(&[("s.json", script)]), expected);
}

#[test]
fn what_the_device_cannot_do_is_said_with_line_and_column() {
    let script = r#"{"faultscript": 1,
 "device": {"queues": 4, "capacity_sectors": 1000, "logical_block_bytes": 4096},
 "rules": [{"id": "a", "match": {"sectors": [[0, 8], [992, 1001]], "queue": 2}, "action": {"lose": {}}}]}"#;
    let script = load(&[Source { name: "s.json", text: script }]).expect("nothing wrong without a device").script;
    let facts = DeviceFacts { capacity_sectors: 800, queues: 2, logical_block_bytes: 4096 };
    let problems: String = script.check_device(&facts).iter().map(|problem| format!("{problem}\n")).collect();
    let expected = "\
s.json:2:23: E204 /device/queues: the script needs 4 queues, the device has 2; start it with --num-queues 4
s.json:2:46: E205 /device/capacity_sectors: the script needs 1000 sectors, the image has 800; enlarge the image with truncate -s
s.json:3:54: E201 /rules/0/match/sectors/1: [992,1001) lies beyond the device (800 sectors)
s.json:3:77: E206 /rules/0/match/queue: queue 2 does not exist: the device has 2; queues count from 0
";
    assert_eq!(problems, expected);
    let facts = DeviceFacts { capacity_sectors: 1001, queues: 4, logical_block_bytes: 4096 };
    let codes: Vec<&str> = script.check_device(&facts).iter().map(|problem| problem.code).collect();
    assert_eq!(codes, ["E201"]);
    let odd = r#"{"faultscript": 1, "device": {"logical_block_bytes": 4096}}"#;
    let script = load(&[Source { name: "odd.json", text: odd }]).expect("nothing wrong without a device").script;
    let facts = DeviceFacts { capacity_sectors: 1001, queues: 4, logical_block_bytes: 4096 };
    assert_eq!(
        script.check_device(&facts)[0].to_string(),
        "odd.json:1:54: E207 /device/logical_block_bytes: 1001 sectors are not a whole number of blocks of 4096 bytes"
    );
}

#[test]
fn sectors_that_an_event_makes_room_for_may_be_spoken_of_and_a_capacity_is_whole_blocks() {
    let script = r#"{"faultscript": 1, "device": {"logical_block_bytes": 4096},
 "rules": [{"id": "a", "match": {"sectors": [[800, 1600], [1600, 1601]]}, "action": {"lose": {}}}],
 "events": [{"id": "grow", "at": {"mark": "M"}, "do": {"capacity_sectors": 1600}},
            {"id": "odd", "at": {"mark": "N"}, "do": {"capacity_sectors": 100}}]}"#;
    let script = load(&[Source { name: "s.json", text: script }]).expect("nothing wrong without a device").script;
    assert_eq!(script.largest_capacity(), Some(1600));
    let facts = DeviceFacts { capacity_sectors: 800, queues: 2, logical_block_bytes: 4096 };
    let problems: String = script.check_device(&facts).iter().map(|problem| format!("{problem}\n")).collect();
    let expected = "\
s.json:2:59: E201 /rules/0/match/sectors/1: [1600,1601) lies beyond the device (1600 sectors)
s.json:4:75: E207 /events/1/do/capacity_sectors: 100 sectors are not a whole number of blocks of 4096 bytes
";
    assert_eq!(problems, expected);
}

#[test]
fn what_a_run_owes_to_chance_is_named() {
    let script = r#"{"faultscript": 1, "rules": [
 {"id": "always", "match": {"op": "read"}, "action": {"error": {"status": "ioerr"}}},
 {"id": "drawn", "match": {"op": "write"}, "trigger": {"probability": 0.5}, "action": {"error": {"status": "ioerr"}}},
 {"id": "third", "match": {"op": "flush"}, "trigger": {"nth": 3}, "action": {"error": {"status": "ioerr"}}}]}"#;
    let script = load(&[Source { name: "s.json", text: script }]).expect("nothing wrong").script;
    assert!(script.determinism(1).deterministic);
    assert_eq!(script.determinism(2).why, ["rule \"third\" counts requests, and 2 queues have no order among them"]);
    let queues = r#"{"faultscript": 1, "rules": [
 {"id": "mark", "match": {"op": "read"}, "trigger": {"after": {"mark": "A"}}, "action": {"error": {"status": "ioerr"}}},
 {"id": "own-third", "match": {"op": "flush", "queue": 1}, "trigger": {"nth": 3}, "action": {"error": {"status": "ioerr"}}},
 {"id": "own-drawn", "match": {"op": "write", "queue": 1}, "trigger": {"probability": 0.5}, "action": {"error": {"status": "ioerr"}}}]}"#;
    let script = load(&[Source { name: "s.json", text: queues }]).expect("nothing wrong").script;
    assert!(script.determinism(1).deterministic);
    let why = [
        "rule \"mark\" has a point, and 2 queues have no order among them",
        "rule \"own-drawn\" draws for one queue, and touches of an extent are counted over all 2",
    ];
    assert_eq!(script.determinism(2).why, why);
    let clock = r#"{"faultscript": 1, "rules": [
 {"id": "clock", "trigger": {"after": {"ms": 5}}, "action": {"lose": {}}},
 {"id": "load", "match": {"inflight": {"min": 2}}, "action": {"error": {"status": "ioerr"}}}]}"#;
    let script = load(&[Source { name: "s.json", text: clock }]).expect("nothing wrong").script;
    let why = [
        "rule \"clock\" has a point in ms: it follows the clock",
        "rule \"load\" matches by inflight: it follows the speed of the disk",
    ];
    assert_eq!(
        (script.determinism(1).deterministic, script.determinism(1).why),
        (false, why.map(str::to_string).to_vec())
    );
}

#[test]
fn a_write_that_ends_within_a_sector_breaks_the_disks_word_whatever_is_answered() {
    let script = r#"{"faultscript":1,"rules":[
        {"id":"torn","match":{"op":"write"},"action":{"partial":{"bytes":700,"status":"ioerr"}}},
        {"id":"whole","match":{"op":"write"},"action":{"partial":{"bytes":1024,"status":"ioerr"}}},
        {"id":"read","match":{"op":"read"},"action":{"partial":{"bytes":700,"status":"ioerr"}}}]}"#;
    let script = load(&[Source { name: "s.json", text: script }]).expect("nothing wrong").script;
    assert_eq!(script.tears_sectors(), ["torn"]);
    assert!(script.lies().is_empty(), "an error is no lie");
}

#[test]
fn a_script_explains_itself() {
    let script = r#"{"faultscript": 1, "name": "n", "seed": 7, "device": {"seg_max": 4}, "rules": [
 {"id": "slow", "match": {"op": "read"}, "action": {"delay": {"dist": "uniform", "min_us": 1, "max_us": 9}}},
 {"id": "cut", "match": {"op": "write", "sectors": [[0, 64]]}, "action": {"split": {"max_sectors": 8}}},
 {"id": "bad", "match": {"child_of": "cut"}, "trigger": {"after": {"mark": "A"}, "probability": 0.5, "limit": 2}, "action": {"error": {"status": "ioerr"}}, "note": "why"}],
 "expect": {"fired": {"bad": [1, null]}}}"#;
    let script = load(&[Source { name: "s.json", text: script }]).expect("nothing wrong").script;
    let expected = "\
Script: n. Seed: 7.
The device is offered with seg_max 4.
A request passes four stages; in each, the first rule below that fires wins.

gate stage (when it is answered):
  slow: read, every match: answer late by {\"dist\":\"uniform\",\"min_us\":1,\"max_us\":9}.

transfer stage (what moves):
  cut: write touching [0,64) with 9 sectors or more, every match: cut every 8 sectors; the children reach the disk forward.

status stage (what status it carries):
  bad: read|write|discard|write_zeroes children of \"cut\", after mark \"A\", then with probability 0.5 drawn by address, then at most 2 times: answer ioerr; unless a transfer rule decides, nothing moves.
    note: why

device stage (what becomes of the device after it; every \"set\" takes place, and then the first power cut): no rules
Expected: rule \"bad\" is carried out 1 to any number of times.
";
    assert_eq!(explain(&script), expected);
}

#[test]
fn every_effect_is_explained_and_rules_that_can_never_win_are_named() {
    let script = r#"{"faultscript": 1, "states": {"phase": ["idle", "armed"]}, "rules": [
 {"id": "bad", "match": {"op": "read", "sectors": [[8, 16]]}, "action": {"error": {"status": "ioerr"}}, "scope": {"sticky": {}}},
 {"id": "tear", "match": {"op": "write"}, "trigger": {"when": {"phase": "armed"}}, "action": {"torn": {"unit": "block", "keep": "random"}}},
 {"id": "astray", "match": {"op": "write"}, "action": {"misdirect": {"delta_sectors": -8}}},
 {"id": "lost", "match": {"op": "write"}, "action": {"lose": {}}},
 {"id": "late", "match": {"op": "write", "size": {"min": 8}}, "action": {"torn": {"keep": [0]}}},
 {"id": "flip", "match": {"op": "read"}, "trigger": {"nth": 1}, "action": {"corrupt": {"bits": 1, "where": "media"}}, "scope": "device"},
 {"id": "stamp", "match": {"op": "read"}, "trigger": {"nth": 2}, "action": {"corrupt": {"offset": 4, "bytes": 2, "value": 9}}},
 {"id": "old", "match": {"op": "read"}, "action": {"stale": {"versions": 2}}},
 {"id": "arm", "match": {"op": "flush"}, "action": {"set": {"phase": "armed"}}},
 {"id": "cut", "match": {"op": "flush"}, "action": {"power_cut": {"unflushed": {"subset": {}}, "then": "snapshot"}}}],
 "events": [
 {"id": "ro", "at": {"writes": 5}, "do": {"fail_class": "writes"}},
 {"id": "gone", "at": {"mark": "M"}, "do": {"disconnect": {"reconnect_ms": 9}}}]}"#;
    let script = load(&[Source { name: "s.json", text: script }]).expect("nothing wrong").script;
    let expected = "\
Script: unnamed. Seed: 0 unless --seed says otherwise.
State \"phase\" begins as \"idle\", and may become \"armed\".
A request passes four stages; in each, the first rule below that fires wins.

gate stage (when it is answered): no rules

transfer stage (what moves):
  tear: write with 9 sectors or more, when \"phase\" is \"armed\": torn at drawn places between blocks of 4096 bytes, every other stretch moves; propose ok.
  astray: write, every match: a write goes to -8 sectors from there (the right place keeps what it had), a read is answered from -8 sectors from there; propose ok.
  lost: write, every match: nothing moves; propose ok.
  late: write with 8 sectors or more, every match: of its sectors only those numbered [0] move; propose ok.
    can never win: rule \"lost\" (transfer stage, wider match, no limit) precedes it.
  flip: read, match number 1 of these: 1 bits of each matched sector flip, on the medium, for later reads too; propose ok.
    once it has fired it acts on every request of these types, until it is healed by hand.
  stamp: read, match number 2 of these: bytes 4 to 5 of each matched sector become 9, on the way; propose ok.
  old: read, every match: matched sectors are read as they were 2 writes ago; propose ok.

status stage (what status it carries):
  bad: read touching [8,16), every match: answer ioerr; unless a transfer rule decides, nothing moves.
    these sectors are bad from the start, each until it is written.

device stage (what becomes of the device after it; every \"set\" takes place, and then the first power cut):
  arm: flush, every match: from the next request on \"phase\" is \"armed\".
  cut: flush, every match: the power goes: of what was not flushed a subset (32 states at most) survives; the states are written out, and the guest goes on.

Events, each once, after the request that reaches its point:
  ro: at 5 writes: all writes, discards, write_zeroes and flushes fail from then on.
  gone: at mark \"M\": what was taken is settled, the front-end is left, and let in again after 9 ms.
";
    assert_eq!(explain(&script), expected);
}

/// docs/fault-scripts.md teaches by example; an example that does not load teaches the wrong thing.
#[test]
fn every_example_in_the_documentation_loads_without_a_warning() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/fault-scripts.md");
    let text = fs::read_to_string(docs).expect("the page is in the tree");
    let examples: Vec<&str> = text.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(examples.len(), 20);
    for example in examples {
        assert_eq!(shown(&[("docs", example)]), "", "{example}");
    }
}

/// Every code a user can meet is explained, and no other.
#[test]
fn the_documentation_lists_every_code() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_to_string(root.join("../docs/fault-scripts.md")).expect("the page is in the tree");
    let listed: Vec<&str> =
        docs.lines().filter_map(|line| line.strip_prefix("| ")?.get(..4)).filter(|code| is_code(code)).collect();
    let parts = fs::read_dir(root.join("src/parse")).expect("a folder").map(|entry| entry.expect("an entry").path());
    let whole = ["parse.rs", "reader.rs", "check.rs"].map(|file| root.join("src").join(file));
    let sources: Vec<String> =
        whole.into_iter().chain(parts).map(|file| fs::read_to_string(file).expect("readable")).collect();
    let mut used: Vec<&str> = sources.iter().flat_map(|text| text.split('"')).filter(|word| is_code(word)).collect();
    used.sort_unstable();
    used.dedup();
    assert_eq!(listed, used);
}

fn is_code(word: &str) -> bool {
    word.len() == 4 && word.starts_with(['E', 'W']) && word[1..].chars().all(|c| c.is_ascii_digit())
}
