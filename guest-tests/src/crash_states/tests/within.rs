//! States that a run judges itself: which of them, what is told of each, and what stays of them.

use super::*;
use crate::crash_states::cuts::{Cut, State};
use crate::crash_states::within::{self, Cuts, MOST_STATES};
use crate::folder::{self, RunFolder};
use crate::scenario::{self, Scenario};

fn scenario(cache: &str, mkfs: &str) -> Scenario {
    let text = serde_json::json!({
        "scenario": 1, "name": "s", "why": "w", "filesystem": {"mkfs": ["-O", mkfs]},
        "faults": {"faultscript": 1, "device": {"write_cache": cache}, "events": [
            {"id": "cut", "at": {"mark": "go"}, "do": {"power_cut": {"unflushed": "prefix", "then": "snapshot"}}},
        ]},
        "workload": [{"op": "mark", "name": "go"}],
    });
    scenario::parse(Path::new("scenario.json"), &text.to_string()).expect("a scenario")
}

/// A run's folder in which `f` was fsynced, then a mark, then the cut. States are whole images.
struct Run {
    states: States,
    folder: RunFolder,
    _place: tempfile::TempDir,
}

impl Run {
    /// `states`: names of images with the writes that survive in them, of 3 and 4.
    fn new(states: &[(&str, &[u64])]) -> Run {
        let source = with_a_file(&[]);
        source.copy("kept", "strange");
        let blocks = super::run("debugfs", &["-R", "blocks f"], &source.path("kept"));
        let second: u64 = blocks.split_whitespace().nth(1).and_then(|block| block.parse().ok()).expect("a block");
        let image = std::fs::OpenOptions::new().write(true).open(source.path("strange")).expect("opened");
        image.write_all_at(&[7; 1024], second * 1024).expect("written");
        source.copy("empty", "rootless");
        super::run("debugfs", &["-w", "-R", "clri <2>"], &source.path("rootless"));
        let place = tempfile::tempdir().expect("a folder");
        let folder = RunFolder::take(place.path()).expect("a new one");
        let all = folder.file(folder::STATES);
        std::fs::create_dir(&all).expect("made");
        let listed: Vec<serde_json::Value> = states
            .iter()
            .map(|(file, survives)| {
                std::fs::copy(source.path(file), all.join(file)).expect("copied");
                serde_json::json!({"file": file, "survives": survives, "bytes": 1})
            })
            .collect();
        let cut = serde_json::json!({
            "cut": 1, "seq": 0, "by": "cut", "tried": states.len(), "complete": false,
            "writes": [{"seq": 3}, {"seq": 4}], "states": listed,
        });
        let text = if states.is_empty() { String::new() } else { format!("{cut}\n") };
        std::fs::write(all.join(cuts::CUTS), text).expect("written");
        let mut ops = workload();
        let result = ops[0].result.clone();
        let mark = serde_json::from_str(r#"{"op":"mark","name":"go"}"#).expect("an operation");
        ops.push(OpLine { index: 3, args: mark, result });
        folder.write_lines(folder::OPS, &ops).expect("written");
        folder.write(folder::DEVICE, DEVICE).expect("written");
        Run { states: source, folder, _place: place }
    }

    fn look(&self, scenario: &Scenario) -> Cuts {
        let view = |from: &Path, to: &Path| std::fs::copy(from, to).map(drop).at("copy", from);
        let looked = within::look(scenario, 7, &self.folder, &Interrupt::default(), &view);
        looked.expect("judged").expect("there are states")
    }

    fn has_states(&self) -> bool {
        self.folder.file(folder::STATES).exists()
    }
}

const DEVICE: &str = concat!(
    r#"{"block_bytes":512,"capacity_sectors":8192,"deterministic":true,"ev":"header","image":"i","queues":1,"read_only":false,"rules":[],"seed":1,"seg_max":126,"trace":1,"version":"0.1.0","why":[]}"#,
    "\n",
    r#"{"ev":"mark","n":0,"name":"go","seq":0,"session":1,"t_ns":1}"#,
    "\n",
    r#"{"ev":"power_cut","n":1,"cut":1,"seq":0,"by":"cut","then":"snapshot","t_ns":2}"#,
    "\n",
    r#"{"abandoned":0,"complete":true,"decisions_waited":0,"deterministic":true,"dropped":0,"ev":"trailer","events":2,"fired":{},"host_error":null,"malformed":0,"queues_used":1,"requests":0,"unanswered":0,"unmet":[],"why":[]}"#,
    "\n"
);

fn bad(cuts: &Cuts) -> Vec<&str> {
    cuts.bad.iter().map(|state| &*state.file).collect()
}

#[test]
fn a_state_without_what_was_fsynced_is_bad_and_the_states_stay_to_be_looked_at() {
    let run = Run::new(&[("empty", &[]), ("kept", &[3, 4]), ("dropped", &[4])]);
    let cuts = run.look(&scenario("writeback", "^dir_index"));
    assert_eq!((cuts.cuts, cuts.states, cuts.judged, cuts.losses), (1, 3, 3, 0));
    assert_eq!(bad(&cuts), ["empty", "dropped"]);
    let told = cuts.bad[0].sentence(&cuts.bad[0].broken[0].what);
    let expected = "after power cut 1 (cut), of whose 2 unflushed writes 0 survive (empty), f is missing, and its name was fsynced";
    assert_eq!(told, expected);
    assert!(run.has_states());
    assert_eq!(run.states.scratch_folders(), 0);
}

#[test]
fn where_all_is_well_nothing_stays() {
    let run = Run::new(&[("kept", &[])]);
    let cuts = run.look(&scenario("writeback", "^dir_index"));
    assert_eq!((cuts.judged, cuts.bad.len(), cuts.promised_files, cuts.promised_bytes), (1, 0, 1, 8192));
    assert!(!run.has_states());
}

/// Forgetting is what such a cache does. What nobody wrote, in a state that kept the order of writes, it does not explain.
#[test]
fn a_cache_that_lies_loses_what_was_fsynced_and_is_no_excuse_for_what_nobody_wrote() {
    let states: [(&str, &[u64]); 4] = [("empty", &[]), ("dropped", &[4]), ("strange", &[3]), ("rootless", &[3, 4])];
    let cuts = Run::new(&states).look(&scenario("lying", "^dir_index"));
    assert_eq!((bad(&cuts), cuts.losses), (vec!["strange", "rootless"], 2));
    assert_eq!(cuts.first_loss.expect("there are some").file, "empty");
    let out_of_order = Run::new(&[("strange", &[4]), ("rootless", &[4])]).look(&scenario("lying", "^dir_index"));
    assert_eq!((bad(&out_of_order), out_of_order.losses), (vec![""; 0], 2));
}

#[test]
fn without_a_journal_no_file_is_promised_and_with_fast_commits_nothing_is_judged_and_both_are_said() {
    let run = Run::new(&[("empty", &[])]);
    let cuts = run.look(&scenario("writeback", "^has_journal"));
    assert_eq!((cuts.judged, cuts.promised_files, cuts.bad.len()), (1, 0, 0));
    assert!(cuts.not_judged.is_some_and(|why| why.contains("no journal")));
    let cuts = Run::new(&[("rootless", &[])]).look(&scenario("writeback", "fast_commit"));
    assert_eq!((cuts.judged, cuts.bad.len()), (0, 0));
    assert!(cuts.not_judged.is_some_and(|why| why.contains("fast commits")));
}

#[test]
fn a_cut_that_never_came_is_told_and_judged_is_nothing() {
    let cuts = Run::new(&[]).look(&scenario("writeback", "^dir_index"));
    assert_eq!(cuts, Cuts::default());
}

#[test]
fn of_many_states_a_few_of_every_cut_are_chosen_and_always_the_same() {
    let state =
        |file: u64| State { file: file.to_string().into(), survives: vec![file; usize::from(file > 0)], bytes: 0 };
    let cut = |cut: u64, states: u64| Cut {
        cut,
        seq: 0,
        by: String::new(),
        writes: Vec::new(),
        tried: states,
        complete: false,
        states: (0..states).map(state).collect(),
    };
    let files = |cuts: &[Cut], nonce: u64| -> Vec<(u64, String)> {
        let chosen = within::chosen(cuts, nonce);
        chosen.into_iter().map(|(cut, state)| (cut.cut, state.file.display().to_string())).collect()
    };
    let three = [cut(1, 8), cut(2, 2), cut(3, 8)];
    let chosen = files(&three, 7);
    let of = |n: u64| chosen.iter().filter(|(cut, _)| *cut == n).count();
    assert_eq!((of(1), of(2), of(3)), (5, 2, 5));
    assert!((1..4).all(|n| chosen.contains(&(n, "0".to_owned()))), "nothing survives: the worst comes first");
    assert_eq!(chosen, files(&three, 7));
    assert_ne!(chosen, files(&three, 8));
    let many: Vec<Cut> = (1..=64).map(|n| cut(n, 32)).collect();
    assert_eq!(files(&many, 7).len(), MOST_STATES);
}
