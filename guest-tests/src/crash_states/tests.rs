//! States made by hand: images of e2fsprogs, a view that copies them, and workloads of a few operations.

mod within;

use super::*;
use crate::durability::{Reach, Rules};
use crate::failure::exit;
use crate::ops::{OpLine, OpResult};
use crate::programs;
use crate::verdict::Check;
use std::os::unix::fs::FileExt;
use std::process::Command;

fn run(program: &str, args: &[&str], image: &Path) -> String {
    let path = programs::on_host(program).expect("e2fsprogs");
    let output = Command::new(path).args(args).arg(image).output().expect("started");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A folder of states: each file is an image itself.
struct States(tempfile::TempDir);

impl States {
    fn new(cuts: &[&str]) -> States {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join(cuts::CUTS), cuts.join("\n") + "\n").expect("written");
        States(folder)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }

    fn image(&self, name: &str) {
        let image = self.path(name);
        std::fs::File::create(&image).and_then(|file| file.set_len(4 << 20)).expect("an image");
        run("mke2fs", &["-q", "-t", "ext4", "-F", "-J", "size=1"], &image);
    }

    fn copy(&self, from: &str, to: &str) {
        std::fs::copy(self.path(from), self.path(to)).expect("copied");
    }

    fn examine(&self, only: Option<&str>, promises: &Promises, interrupt: &Interrupt) -> Result<Report, Failure> {
        let view = |from: &Path, to: &Path| std::fs::copy(from, to).map(drop).at("copy", from);
        let folder = Folder::open(self.0.path())?;
        let examined = examine(&folder, only.map(Path::new), promises, interrupt, &view)?;
        let mut report = Report::of(&folder, &examined, promises.is_some(), |file| format!("again {file}"));
        report.contents.wanted = promises.is_some();
        Ok(report)
    }

    fn scratch_folders(&self) -> usize {
        let entries = std::fs::read_dir(self.0.path()).expect("listed");
        entries.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.path().is_dir())).count()
    }
}

fn cut(number: u64, files: &[&str]) -> String {
    let state = |file: &&str| format!("{{\"file\":\"{file}\",\"survives\":[3],\"bytes\":4096}}");
    let states: Vec<String> = files.iter().map(state).collect();
    format!(
        "{{\"cut\":{number},\"tried\":{},\"complete\":{},\"states\":[{}]}}",
        files.len(),
        number == 1,
        states.join(",")
    )
}

/// A file `f` of the pattern "a", written and fsynced.
fn workload() -> Vec<OpLine> {
    let lines = [
        r#"{"op":"create","path":"f"}"#,
        r#"{"op":"write","path":"f","len":8192,"pattern":"a"}"#,
        r#"{"op":"fsync","path":"f"}"#,
    ];
    let op = |(index, line): (u32, &&str)| OpLine {
        index,
        args: serde_json::from_str(line).expect("an operation"),
        result: Some(OpResult { returned: 0, errno: None, inode: None, read: None, elapsed_us: 0 }),
    };
    (0..).zip(&lines).map(op).collect()
}

fn expected(returned: u32) -> Expected {
    let rules = Rules { sync_promises: true, past_may_show: false };
    Expected::at(&workload(), Reach { returned, begun: 3 }, rules)
}

/// `empty`: nothing was written; `kept`: the file is there; `dropped`: one of its blocks is not.
fn with_a_file(cuts: &[&str]) -> States {
    let states = States::new(cuts);
    states.image("empty");
    states.copy("empty", "kept");
    let mut data = vec![0; 8192];
    guest_init::pattern::Pattern::new("a").fill(0, &mut data);
    let source = states.path("source");
    std::fs::write(&source, data).expect("written");
    run("debugfs", &["-w", "-R", &format!("write {} f", source.display())], &states.path("kept"));
    states.copy("kept", "dropped");
    let blocks = run("debugfs", &["-R", "blocks f"], &states.path("kept"));
    let second: u64 = blocks.split_whitespace().nth(1).and_then(|block| block.parse().ok()).expect("a block");
    let image = std::fs::OpenOptions::new().write(true).open(states.path("dropped")).expect("opened");
    image.write_all_at(&[0; 1024], second * 1024).expect("written");
    states
}

#[test]
fn a_whole_file_system_is_good_and_a_damaged_one_and_none_are_bad() {
    let states = States::new(&[&cut(2, &["good", "rootless", "unlogged", "nothing"])]);
    for name in ["good", "rootless", "unlogged"] {
        states.image(name);
    }
    std::fs::File::create(states.path("nothing")).and_then(|file| file.set_len(4 << 20)).expect("an image");
    run("debugfs", &["-w", "-R", "clri <2>"], &states.path("rootless"));
    run("debugfs", &["-w", "-R", "clri <8>"], &states.path("unlogged"));
    let report = states.examine(None, &None, &Interrupt::default()).expect("examined");
    let counts = (report.cuts, report.tried, report.distinct, report.good, report.bad, report.sampled_cuts);
    assert_eq!(counts, (1, 4, 4, 1, 3, 1));
    assert_eq!((report.exit_code(), report.durability.0), (exit::NOT_AS_EXPECTED, Check::Fail));
    let found: Vec<(&str, &str)> = report.bad_states.iter().map(|bad| (&*bad.file, &*bad.step)).collect();
    assert_eq!(found, [("rootless", "e2fsck -fn"), ("unlogged", "journal replay"), ("nothing", "superblock")]);
    let text = describe(&report);
    assert!(text.starts_with("1 power cuts, 4 states tried, 4 distinct (4 images): 1 good, 3 bad\n"), "{text}");
    assert!(text.contains("again: again rootless\n"), "{text}");
    assert_eq!(states.scratch_folders(), 0);
}

/// The checker broken each way: a write taken out of a state, the file gone, and the state as it should be.
#[test]
fn one_fsynced_block_that_is_dropped_from_a_state_makes_it_bad() {
    let states = with_a_file(&[&cut(1, &["kept", "dropped", "empty"])]);
    let promises = Some([(1, expected(3))].into());
    let report = states.examine(None, &promises, &Interrupt::default()).expect("examined");
    assert_eq!((report.good, report.bad, report.exit_code()), (1, 2, exit::NOT_AS_EXPECTED));
    let found: Vec<(&str, &str, &str)> =
        report.bad_states.iter().map(|bad| (&*bad.file, &*bad.step, &*bad.said)).collect();
    let lost = "bytes 1024..2048 of f hold neither the pattern \"a\", which was fsynced, nor anything newer";
    let expected = [("dropped", "contents", lost), ("empty", "contents", "f is missing, and its name was fsynced")];
    assert_eq!(found, expected);
    assert_eq!(report.contents.promised_bytes, 2 * 8192);
}

#[test]
fn an_image_that_is_met_again_is_judged_by_the_promises_of_each_of_its_cuts() {
    let states = with_a_file(&[&cut(1, &["empty", "kept"]), &cut(2, &["again", "kept-again"])]);
    states.copy("empty", "again");
    states.copy("kept", "kept-again");
    // At the first cut the fsync had not returned; at the second it had.
    let promises = Some([(1, expected(2)), (2, expected(3))].into());
    let report = states.examine(None, &promises, &Interrupt::default()).expect("examined");
    assert_eq!((report.distinct, report.images, report.good, report.bad), (4, 2, 3, 1));
    assert_eq!(report.bad_states[0].file, "again");
    let alone = states.examine(Some("anywhere/kept-again"), &promises, &Interrupt::default()).expect("examined");
    assert_eq!((alone.cuts, alone.distinct, alone.good), (1, 1, 1));
    assert_eq!((alone.exit_code(), alone.durability.0), (exit::AS_EXPECTED, Check::Pass));
    let unknown = states.examine(Some("no-such"), &promises, &Interrupt::default()).expect_err("refused");
    assert_eq!(unknown.exit_code(), exit::BAD_INPUT);
}

#[test]
fn states_of_which_nothing_was_promised_are_not_judged() {
    let states = with_a_file(&[&cut(1, &["empty", "kept"])]);
    let promises = Some([(1, expected(0))].into());
    let report = states.examine(None, &promises, &Interrupt::default()).expect("examined");
    assert_eq!((report.bad, report.exit_code(), report.durability.0), (0, exit::NOT_JUDGED, Check::NotRun));
    assert!(describe(&report).contains("nothing was promised"));
}

#[test]
fn no_state_at_all_is_not_judged_and_another_folder_is_refused() {
    let states = States::new(&[]);
    std::fs::write(states.path(cuts::CUTS), "").expect("written");
    let report = states.examine(None, &None, &Interrupt::default()).expect("examined");
    assert_eq!((report.exit_code(), report.durability.0), (exit::NOT_JUDGED, Check::NotRun));
    let elsewhere = tempfile::tempdir().expect("a folder");
    let refused = Folder::open(elsewhere.path()).expect_err("refused");
    assert_eq!(refused.exit_code(), exit::BAD_INPUT);
    assert!(refused.to_string().contains("--snapshot-dir"), "{refused}");
}

#[test]
fn two_at_once_in_one_folder_are_refused_and_what_a_killed_one_left_is_removed() {
    let states = States::new(&[&cut(1, &["a"])]);
    std::fs::create_dir(states.path(".examine-old")).expect("made");
    let first = Folder::open(states.0.path()).expect("opened");
    assert_eq!(states.scratch_folders(), 0);
    assert!(Folder::open(states.0.path()).expect_err("refused").to_string().contains("another program"));
    drop(first);
}

#[test]
fn ctrl_c_ends_it_and_leaves_nothing_behind() {
    let states = with_a_file(&[&cut(1, &["kept", "empty"])]);
    let interrupt = Interrupt::default();
    interrupt.flag().store(true, Ordering::Relaxed);
    let ended = states.examine(None, &None, &interrupt).expect_err("ended");
    assert_eq!(ended.exit_code(), exit::INTERRUPTED);
    assert_eq!(states.scratch_folders(), 0);
}

#[test]
fn what_a_cut_left_of_a_runs_image_is_examined_in_a_copy() {
    let states = with_a_file(&[]);
    let look = |name: &str, expected: Result<Expected, String>| {
        let before = std::fs::read(states.path(name)).expect("read");
        let left = look_at_what_is_left(&states.path(name), &states.path("left"), expected).expect("examined");
        assert!(before == std::fs::read(states.path(name)).expect("read"), "{name} was changed");
        left
    };
    let kept = look("kept", Ok(expected(3)));
    assert_eq!((kept.damage, kept.broken.len(), kept.promised_bytes), (None, 0, 8192));
    assert_eq!(look("dropped", Ok(expected(3))).broken.len(), 1);
    assert_eq!(look("kept", Err("no journal".into())).not_judged.as_deref(), Some("no journal"));
    std::fs::write(states.path("none"), vec![0; 1 << 20]).expect("written");
    assert_eq!(look("none", Ok(expected(3))).damage.map(|(step, _)| step).as_deref(), Some("superblock"));
}
