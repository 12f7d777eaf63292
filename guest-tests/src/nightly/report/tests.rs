#![allow(clippy::unwrap_used, reason = "a test ends there")]

use super::*;
use night_report::samples;
use std::fs;

/// A night's folder as `nightly` leaves it, without its report. The run of unit 0.55 is a recorded one.
fn left(path: &Path, night: &Night) -> NightFolder {
    let (mut folder, _) = NightFolder::take(path).unwrap();
    folder.write(super::super::folder::NIGHT, &night.asked.to_text()).unwrap();
    folder.write(super::super::folder::STATE, &night.state.to_text()).unwrap();
    for line in night.results.values() {
        folder.count(line, None).unwrap();
    }
    let run = path.join(FAILURES).join("0.55");
    fs::create_dir_all(&run).unwrap();
    let recorded = Path::new(env!("CARGO_MANIFEST_DIR")).join("recordings/stale-after-error");
    for entry in fs::read_dir(recorded).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), run.join(entry.file_name())).unwrap();
    }
    folder
}

fn told(path: &Path, night: &Night) -> Summary {
    let folder = left(path, night);
    let last = before::look(path, None, &[]).unwrap().last;
    tell(&folder, &night.asked, &night.state, &night.known, last.as_deref()).unwrap();
    read(path)
}

fn read(path: &Path) -> Summary {
    Summary::read(SUMMARY, &fs::read_to_string(path.join(SUMMARY)).unwrap()).unwrap()
}

#[test]
fn a_night_leaves_all_four_files_with_the_timeline_of_its_recorded_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    told(&path, &samples::busy());
    for file in super::super::folder::TOLD {
        assert!(fs::metadata(path.join(file)).unwrap().len() > 500, "{file}");
    }
    let page = fs::read_to_string(path.join(REPORT)).unwrap();
    assert_eq!(page.matches("<svg class=\"excerpt\"").count(), 1, "one unit has a folder");
    assert!(page.contains("No timeline: "), "and of the others it says why");
    assert!(page.contains("<a href=\"failures/0.55/scenario.json\">its scenario</a>"));
    assert!(page.contains("An extent was marked as written although a write into it had failed"));
}

#[test]
fn a_night_is_held_against_the_one_before_it_and_never_against_itself_or_a_later_one() {
    let dir = tempfile::tempdir().unwrap();
    told(&dir.path().join("a"), &samples::quiet(20, 30));
    let busy = Night { before: Vec::new(), ..samples::busy() };
    told(&dir.path().join("c"), &busy);
    let middle = samples::quiet(21, 30);
    told(&dir.path().join("b"), &middle);
    let page = |name: &str| fs::read_to_string(dir.path().join(name).join(REPORT)).unwrap();
    assert!(page("a").contains("first night"));
    assert!(page("b").contains("Since the night of 2026-11-20"), "c is later");
    assert!(page("c").contains("Since the night of 2026-11-20"));
}

#[test]
fn a_summary_that_cannot_be_read_is_left_out_and_ends_nothing() {
    let dir = tempfile::tempdir().unwrap();
    told(&dir.path().join("a"), &samples::quiet(20, 30));
    let file = dir.path().join("a").join(SUMMARY);
    fs::write(&file, "{}").unwrap();
    told(&dir.path().join("b"), &samples::quiet(21, 30));
}

#[test]
fn the_report_of_a_night_is_made_again_byte_for_byte() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a");
    told(&path, &Night { before: Vec::new(), known: Vec::new(), ..samples::busy() });
    let all = || super::super::folder::TOLD.iter().map(|file| fs::read(path.join(file)).unwrap()).collect::<Vec<_>>();
    let then = all();
    super::super::folder::TOLD.iter().for_each(|file| fs::remove_file(path.join(file)).unwrap());
    again(&args::Report { run: path.clone(), known: None, last: None }).unwrap();
    assert!(then == all());
}
