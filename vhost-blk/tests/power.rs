//! The write cache and power cuts from the driver's side of the ring: what is on media after each cut, compared whole.

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use common::*;
use serde_json::{Value, json};
use vhost_blk::control::{AfterCut, Ask, Survivors};
use vhost_blk::serve::Ending;
use vhost_blk::snapshot::apply;

const WRITEBACK: &str = r#"{"faultscript":1,"device":{"write_cache":"writeback"}}"#;
const LYING: &str = r#"{"faultscript":1,"device":{"write_cache":"lying"}}"#;

/// A device of 64 sectors that keeps snapshots.
fn device(script: &str) -> Device {
    Device::start_with(64, script, |args| {
        args.snapshot_dir = Some(args.blk_file.clone().expect("an image").with_file_name("snap"))
    })
}

fn snapshot(device: &Device, unflushed: Survivors) -> Value {
    device.ask(&Ask::Snapshot { unflushed, max_states: 4096 })
}

/// What is on the disk where the test writes: one byte per sector of `sectors`, its seed, or '.' for what was there.
fn letters(image: &[u8], sectors: &[usize]) -> String {
    let name = |i: &usize| {
        let here = &image[i * 512..(i + 1) * 512];
        (b'A'..=b'Z').find(|letter| piece(*letter, *i, 1) == here).map_or('.', char::from)
    };
    sectors.iter().map(name).collect()
}

/// A stretch of a disk that is written with one letter: a sector in the wrong place shows.
fn piece(seed: u8, sector: usize, sectors: usize) -> Vec<u8> {
    pattern(64, seed)[sector * 512..(sector + sectors) * 512].to_vec()
}

/// Every state of the cuts in a folder, made into an image.
fn images(folder: &Path, cut: u64) -> Vec<Vec<u8>> {
    let text = std::fs::read_to_string(folder.join("snap/cuts.jsonl")).expect("the list of cuts");
    let cuts: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let cut = cuts.iter().find(|line| line["cut"] == cut).expect("the cut is listed");
    let states = cut["states"].as_array().expect("states");
    assert_eq!(cut["distinct"], states.len());
    // A copy, since this process had the image open; the way back from it is the same.
    std::fs::copy(folder.join("disk"), folder.join("copy")).expect("copied");
    let image = |state: &Value| {
        let (file, out) = (folder.join("snap").join(state["file"].as_str().expect("a file")), folder.join("out"));
        apply(&file, &folder.join("copy"), &out).unwrap_or_else(|error| panic!("{error}"));
        std::fs::read(out).expect("an image")
    };
    states.iter().map(image).collect()
}

fn states(folder: &Path, cut: u64, sectors: &[usize]) -> BTreeSet<String> {
    let images = images(folder, cut);
    let found: BTreeSet<String> = images.iter().map(|image| letters(image, sectors)).collect();
    assert_eq!(found.len(), images.len(), "no state twice");
    for image in &images {
        for at in (0..64).filter(|at| !sectors.contains(at)) {
            assert_eq!(image[at * 512..(at + 1) * 512], pattern(64, 1)[at * 512..(at + 1) * 512], "sector {at}");
        }
    }
    found
}

fn set(states: &[&str]) -> BTreeSet<String> {
    states.iter().map(|state| (*state).to_string()).collect()
}

/// Writes A and flushes it, then B and C; and then writes more and flushes, which is after the cut.
fn abc(device: &Device) -> Value {
    let mut guest = Guest::connect(&device.socket, 1);
    assert_eq!(guest.write(4, &piece(b'A', 4, 1)).0, OK);
    assert_eq!(guest.request(FLUSH, 0, &[], 0).0, OK);
    assert_eq!(guest.write(8, &piece(b'B', 8, 1)).0, OK);
    assert_eq!(guest.write(12, &piece(b'C', 12, 1)).0, OK);
    let summary = snapshot(device, Survivors::Exhaustive);
    assert_eq!(guest.read(4, 1).2, piece(b'A', 4, 1));
    assert_eq!(guest.read(12, 1).2, piece(b'C', 12, 1));
    for sector in [4, 8, 12, 20] {
        assert_eq!(guest.write(sector, &piece(b'Z', sector as usize, 1)).0, OK);
    }
    assert_eq!(guest.request(FLUSH, 0, &[], 0).0, OK);
    summary
}

#[test]
fn two_unflushed_writes_leave_exactly_four_states_and_the_flushed_one_is_in_each() {
    let device = device(WRITEBACK);
    let summary = abc(&device);
    assert_eq!((&summary["tried"], &summary["distinct"], &summary["complete"]), (&json!(4), &json!(4), &json!(true)));
    assert_eq!(summary["writes"][0]["sector"], 8);
    let (ending, record, folder) = device.end_keeping_folder();
    assert_eq!(ending, Ending::Clean);
    assert_eq!(states(folder.path(), 1, &[4, 8, 12]), set(&["A..", "AB.", "A.C", "ABC"]));
    let cut = record.iter().find(|line| line["ev"] == "power_cut").expect("it is in the record");
    assert_eq!((&cut["seq"], &cut["unflushed_writes"], &cut["by"]), (&json!(4), &json!(2), &json!("control")));
    assert!(record.iter().any(|line| line["ev"] == "snapshot" && line["distinct"] == 4));
}

#[test]
fn a_lying_cache_leaves_states_without_what_was_flushed() {
    let device = device(LYING);
    let summary = abc(&device);
    assert_eq!((&summary["tried"], &summary["distinct"]), (&json!(8), &json!(8)));
    let (_, _, folder) = device.end_keeping_folder();
    let expected = set(&["...", "A..", ".B.", "..C", "AB.", "A.C", ".BC", "ABC"]);
    assert_eq!(states(folder.path(), 1, &[4, 8, 12]), expected);
    let image = std::fs::read(folder.path().join("disk")).expect("the image");
    assert_eq!(letters(&image, &[4, 8, 12, 20]), "ZZZZ", "an orderly end writes what is left");
}

#[test]
fn the_image_holds_what_was_flushed_and_the_guest_sees_all_of_it() {
    let device = Device::start(64, WRITEBACK);
    let mut guest = Guest::connect(&device.socket, 1);
    guest.write(4, &piece(b'A', 4, 2));
    assert_eq!(guest.range(WRITE_ZEROES, 5, 2, 0).0, OK);
    assert_eq!(guest.range(DISCARD, 9, 1, 0).0, OK);
    assert_eq!(guest.read(4, 4).2, [piece(b'A', 4, 1), vec![0; 1024], piece(1, 7, 1)].concat());
    assert_eq!(device.image_bytes(), pattern(64, 1), "nothing was flushed");
    assert_eq!(device.ask(&Ask::Status)["power"]["unflushed_writes"], 3);
    assert_eq!(guest.request(FLUSH, 0, &[], 0).0, OK);
    let mut expected = pattern(64, 1);
    expected[4 * 512..5 * 512].copy_from_slice(&piece(b'A', 4, 1));
    expected[5 * 512..7 * 512].fill(0);
    expected[9 * 512..10 * 512].fill(0);
    assert_eq!(device.image_bytes(), expected);
    assert_eq!(device.ask(&Ask::Status)["power"]["unflushed_writes"], 0);
}

#[test]
fn overlapping_unflushed_writes_end_as_the_later_one_wherever_it_survives() {
    let device = device(WRITEBACK);
    let mut guest = Guest::connect(&device.socket, 1);
    guest.write(4, &piece(b'A', 4, 3));
    guest.write(5, &piece(b'B', 5, 1));
    guest.write(6, &piece(b'C', 6, 2));
    snapshot(&device, Survivors::Exhaustive);
    snapshot(&device, Survivors::Prefix);
    snapshot(&device, Survivors::None);
    snapshot(&device, Survivors::All);
    let (_, _, folder) = device.end_keeping_folder();
    let at = [4, 5, 6, 7];
    let every = set(&["....", "AAA.", ".B..", "..CC", "ABA.", "AACC", ".BCC", "ABCC"]);
    assert_eq!(states(folder.path(), 1, &at), every);
    assert_eq!(states(folder.path(), 2, &at), set(&["....", "AAA.", "ABA.", "ABCC"]));
    assert_eq!(states(folder.path(), 3, &at), set(&["...."]));
    assert_eq!(states(folder.path(), 4, &at), set(&["ABCC"]));
}

#[test]
fn writes_that_leave_the_same_bytes_make_one_state() {
    let device = device(WRITEBACK);
    let mut guest = Guest::connect(&device.socket, 1);
    guest.write(4, &piece(1, 4, 1));
    guest.write(8, &piece(b'B', 8, 1));
    guest.write(8, &piece(b'B', 8, 1));
    let summary = snapshot(&device, Survivors::Exhaustive);
    assert_eq!((&summary["tried"], &summary["distinct"]), (&json!(8), &json!(2)));
    let (_, _, folder) = device.end_keeping_folder();
    assert_eq!(states(folder.path(), 1, &[8]), set(&[".", "B"]));
}

#[test]
fn discards_and_zeroes_survive_a_cut_or_do_not_like_writes() {
    let device = device(WRITEBACK);
    let mut guest = Guest::connect(&device.socket, 1);
    guest.write(4, &piece(b'A', 4, 2));
    guest.request(FLUSH, 0, &[], 0);
    guest.range(DISCARD, 4, 1, 0);
    guest.range(WRITE_ZEROES, 5, 1, 0);
    guest.write(4, &piece(b'B', 4, 1));
    snapshot(&device, Survivors::Exhaustive);
    let (_, _, folder) = device.end_keeping_folder();
    let found: BTreeSet<(bool, bool, bool)> = images(folder.path(), 1)
        .iter()
        .map(|image| {
            let zero = |at: usize| image[at * 512..(at + 1) * 512].iter().all(|byte| *byte == 0);
            (zero(4), letters(image, &[4]) == "B", zero(5))
        })
        .collect();
    let expected = [(false, false), (true, false), (false, true)];
    assert_eq!(found, expected.iter().flat_map(|(a, b)| [(*a, *b, false), (*a, *b, true)]).collect());
}

#[test]
fn a_driver_that_switches_to_write_through_has_nothing_at_risk() {
    let device = device(WRITEBACK);
    let mut guest = Guest::connect(&device.socket, 1);
    guest.write(4, &piece(b'A', 4, 1));
    guest.set_config(32, &[0]);
    assert_eq!(letters(&device.image_bytes(), &[4]), "A", "the switch itself makes durable what came before");
    guest.write(8, &piece(b'B', 8, 1));
    let summary = snapshot(&device, Survivors::Exhaustive);
    assert_eq!((&summary["tried"], &summary["writes"]), (&json!(1), &json!([])));
    guest.set_config(32, &[1]);
    guest.write(12, &piece(b'C', 12, 1));
    assert_eq!(snapshot(&device, Survivors::Exhaustive)["tried"], 2);
    let (_, _, folder) = device.end_keeping_folder();
    assert_eq!(states(folder.path(), 1, &[4, 8, 12]), set(&["AB."]));
    assert_eq!(states(folder.path(), 2, &[4, 8, 12]), set(&["AB.", "ABC"]));
}

#[test]
fn a_driver_that_cannot_flush_and_a_writethrough_disk_have_nothing_at_risk() {
    let no_flush = !(1 << 9);
    for (script, mask) in [(WRITEBACK, no_flush), (r#"{"faultscript":1,"device":{"write_cache":"writethrough"}}"#, !0)]
    {
        let device = device(script);
        let stream = UnixStream::connect(&device.socket).expect("connects");
        let mut guest = Guest::over(stream, 1, mask);
        guest.write(4, &piece(b'A', 4, 1));
        assert_eq!(letters(&device.image_bytes(), &[4]), "A", "{script}");
        assert_eq!(snapshot(&device, Survivors::Exhaustive)["tried"], 1);
    }
}

#[test]
fn what_a_script_lost_is_in_no_state() {
    let script = r#"{"faultscript":1,"device":{"write_cache":"writeback"},
        "rules":[{"id":"lost","match":{"op":"write","sectors":[[8,9]]},"action":{"lose":{}}}]}"#;
    let device = device(script);
    let mut guest = Guest::connect(&device.socket, 1);
    guest.write(8, &piece(b'L', 8, 1));
    guest.request(FLUSH, 0, &[], 0);
    guest.write(12, &piece(b'B', 12, 1));
    snapshot(&device, Survivors::Exhaustive);
    let (_, _, folder) = device.end_keeping_folder();
    assert_eq!(states(folder.path(), 1, &[8, 12]), set(&["..", ".B"]));
    let image = std::fs::read(folder.path().join("disk")).expect("the image");
    assert_eq!(letters(&image, &[8]), "L", "the image holds the claim");
}

#[test]
fn a_full_cache_writes_the_oldest_and_says_so() {
    let device = Device::start_with(4096, WRITEBACK, |args| args.cache_limit_mib = Some(1));
    let mut guest = Guest::connect(&device.socket, 1);
    let whole = pattern(4096, 9);
    for at in (0..3072).step_by(512) {
        assert_eq!(guest.write(at, &whole[at as usize * 512..(at as usize + 512) * 512]).0, OK);
    }
    assert_eq!(guest.read(0, 512).2, whole[..512 * 512]);
    let image = device.image_bytes();
    assert_eq!(image[..512 * 512], whole[..512 * 512], "the oldest is there");
    assert_eq!(image[2560 * 512..3072 * 512], pattern(4096, 1)[2560 * 512..3072 * 512], "the newest is not");
    let (_, record) = device.end();
    let full: Vec<&Value> = record.iter().filter(|line| line["ev"] == "cache_full").collect();
    assert_eq!(full[0]["limit_bytes"], 1 << 20);
    let early: u64 = full.iter().map(|line| line["early_bytes"].as_u64().expect("bytes")).sum();
    assert!((512 << 10..=5 * (256 << 10)).contains(&early), "{early}");
}

#[test]
fn after_a_cut_nothing_is_answered_until_the_front_end_has_left() {
    let device = Device::start(64, WRITEBACK);
    let mut guest = Guest::connect(&device.socket, 2);
    guest.write(4, &piece(b'A', 4, 1));
    guest.request(FLUSH, 0, &[], 0);
    guest.write(8, &piece(b'B', 8, 1));
    let listener = UnixStream::connect(device.control()).expect("listens");
    writeln!(&mut &listener, r#"{{"id":1,"verb":"subscribe"}}"#).expect("asked");
    let mut told = BufReader::new(&listener)
        .lines()
        .map(|line| serde_json::from_str::<Value>(&line.expect("a line")).expect("JSON"));
    assert_eq!(told.next().expect("an answer")["ok"], true);

    let result = device.ask(&Ask::PowerCut { unflushed: Survivors::None, max_states: 32, then: AfterCut::KillVm });
    assert_eq!(result["lost"], json!([2]));
    let event = told.next().expect("an event");
    assert_eq!((&event["event"], &event["then"], &event["seq"]), (&json!("power_cut"), &json!("kill_vm"), &json!(3)));
    let requests = [guest.send(0, IN, 4, &[], 512), guest.send(1, OUT, 12, &piece(b'C', 12, 1), 0)];
    std::thread::sleep(std::time::Duration::from_millis(100));
    for sent in requests {
        assert_eq!((guest.poll_used(sent.queue), guest.status(&sent)), (None, UNTOUCHED));
    }
    let again = vhost_blk::control::ask(
        &device.control(),
        &Ask::PowerCut { unflushed: Survivors::None, max_states: 32, then: AfterCut::Disconnect },
    );
    assert!(again.expect("answers").expect_err("refused").contains("off already"));
    assert_eq!(letters(&device.image_bytes(), &[4, 8, 12]), "A..");
    drop(guest);

    let mut guest = Guest::connect(&device.socket, 1);
    assert_eq!(guest.read(8, 1), (OK, 513, piece(1, 8, 1)), "the next guest finds what survived");
    assert_eq!(guest.read(4, 1), (OK, 513, piece(b'A', 4, 1)));
    drop(guest);
    let (ending, record) = device.end();
    assert_eq!(ending, Ending::Clean);
    assert_eq!(record.last().expect("a trailer")["unanswered"], 0);
}

#[test]
fn a_cut_that_disconnects_gives_up_what_was_held_and_keeps_what_it_should() {
    for (unflushed, left) in [(Survivors::None, "A..."), (Survivors::All, "AB.D")] {
        let script = r#"{"faultscript":1,"device":{"write_cache":"writeback"},"rules":[
            {"id":"held","match":{"op":"write","sectors":[[12,13]]},"action":{"hold":{"until":"release"}}},
            {"id":"late","match":{"op":"write","sectors":[[16,17]]},"action":{"hold":{"until":"release","when":"arrival"}}}]}"#;
        let device = Device::start(64, script);
        let mut guest = Guest::connect(&device.socket, 1);
        guest.write(4, &piece(b'A', 4, 1));
        guest.request(FLUSH, 0, &[], 0);
        guest.write(8, &piece(b'B', 8, 1));
        let held = [guest.send(0, OUT, 12, &piece(b'C', 12, 1), 0), guest.send(0, OUT, 16, &piece(b'D', 16, 1), 0)];
        guest.read(0, 1);
        device.ask(&Ask::PowerCut { unflushed, max_states: 32, then: AfterCut::Disconnect });
        while device.ask(&Ask::Status)["connected"] == true {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert!(held.iter().all(|sent| guest.status(sent) == UNTOUCHED));
        assert_eq!(letters(&device.image_bytes(), &[4, 8, 12, 16]), left);
        let mut guest = Guest::connect(&device.socket, 1);
        assert_eq!(guest.read(0, 1).0, OK);
        drop(guest);
        let (ending, record) = device.end();
        assert_eq!(ending, Ending::Clean);
        let kinds = ["power_cut", "abandon", "session"];
        let after: Vec<&str> =
            record.iter().filter_map(|line| line["ev"].as_str()).filter(|ev| kinds.contains(ev)).collect();
        let from = after.iter().position(|ev| *ev == "power_cut").expect("a cut");
        assert_eq!(after[from..from + 4], ["power_cut", "abandon", "abandon", "session"]);
    }
}

#[test]
fn a_device_that_keeps_nothing_apart_refuses_to_be_cut() {
    let device = Device::start(64, "");
    let cut = Ask::PowerCut { unflushed: Survivors::None, max_states: 32, then: AfterCut::KillVm };
    let answer = vhost_blk::control::ask(&device.control(), &cut).expect("answers");
    assert!(answer.expect_err("refused").contains("write_cache"));
    let device = Device::start(64, WRITEBACK);
    let ask = Ask::Snapshot { unflushed: Survivors::All, max_states: 1 };
    let answer = vhost_blk::control::ask(&device.control(), &ask).expect("answers");
    assert!(answer.expect_err("refused").contains("--snapshot-dir"));
}

fn cutting(write_cache: &str, matching: &str, cut: &str) -> String {
    format!(
        r#"{{"faultscript":1,"device":{{{write_cache}}},"rules":[
            {{"id":"cut","match":{{{matching}}},"action":{{"power_cut":{{{cut}}}}}}}],"expect":{{"fired":{{"cut":[1,1]}}}}}}"#
    )
}

const CACHE: &str = r#""write_cache":"writeback""#;

#[test]
fn a_cut_at_a_flush_comes_before_the_flush_and_the_guest_goes_on() {
    let cut = r#""unflushed":{"subset":{"strategy":"exhaustive","max_states":4096}},"then":"snapshot""#;
    let device = device(&cutting(CACHE, r#""op":"flush""#, cut));
    let mut guest = Guest::connect(&device.socket, 1);
    guest.write(4, &piece(b'A', 4, 1));
    guest.write(8, &piece(b'B', 8, 1));
    assert_eq!(guest.request(FLUSH, 0, &[], 0), (OK, 1, vec![]));
    assert_eq!(letters(&device.image_bytes(), &[4, 8]), "AB", "the flush was carried out after the cut");
    let (ending, record, folder) = device.end_keeping_folder();
    assert_eq!(ending, Ending::Clean);
    assert_eq!(states(folder.path(), 1, &[4, 8]), set(&["..", "A.", ".B", "AB"]));
    let kinds: Vec<&str> = record.iter().filter_map(|line| line["ev"].as_str()).collect();
    let at = kinds.iter().position(|ev| *ev == "power_cut").expect("a cut");
    assert_eq!(kinds[at - 1..at + 3], ["issue", "power_cut", "snapshot", "complete"]);
}

#[test]
fn a_cut_at_a_write_comes_after_it_and_leaves_it_unanswered() {
    for (unflushed, left) in [(r#""none""#, ".."), (r#""all""#, "AB")] {
        let cut = format!(r#""unflushed":{unflushed},"then":"disconnect""#);
        let device = Device::start(64, &cutting(CACHE, r#""op":"write","sectors":[[8,9]]"#, &cut));
        let mut guest = Guest::connect(&device.socket, 1);
        assert_eq!(guest.write(4, &piece(b'A', 4, 1)).0, OK);
        let sent = guest.send(0, OUT, 8, &piece(b'B', 8, 1), 0);
        while device.ask(&Ask::Status)["connected"] == true {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        assert_eq!((guest.status(&sent), guest.poll_used(0)), (UNTOUCHED, None));
        assert_eq!(letters(&device.image_bytes(), &[4, 8]), left);
        let (ending, record) = device.end();
        assert_eq!(ending, Ending::Clean);
        let abandoned: Vec<&Value> = record.iter().filter(|line| line["ev"] == "abandon").collect();
        assert_eq!((abandoned.len(), &abandoned[0]["seq"], &abandoned[0]["status"]), (1, &json!(1), &Value::Null));
    }
}

#[test]
fn without_a_cache_of_its_own_a_cut_finds_everything_on_media_and_an_unanswered_write_is_no_lie() {
    let script = r#"{"faultscript":1,"rules":[
        {"id":"short","match":{"op":"write","sectors":[[8,12]]},"action":{"partial":{"sectors":1,"status":"ok"}}},
        {"id":"cut","match":{"op":"write","sectors":[[8,12]]},"action":{"power_cut":{"unflushed":"none","then":"kill_vm"}}}]}"#;
    let device = Device::start(64, script);
    let mut guest = Guest::connect(&device.socket, 1);
    guest.write(4, &piece(b'A', 4, 1));
    guest.send(0, OUT, 8, &piece(b'B', 8, 4), 0);
    while device.ask(&Ask::Status)["power"]["on"] == true {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(letters(&device.image_bytes(), &[4, 8, 9, 10, 11]), "AB...");
    assert_eq!(device.ask(&Ask::Status)["overlay"], json!([]));
}

#[test]
fn a_gated_request_meets_its_cut_when_it_leaves_the_gate() {
    let script = r#"{"faultscript":1,"device":{"write_cache":"writeback"},"rules":[
        {"id":"held","match":{"op":"write","sectors":[[8,9]]},"action":{"hold":{"until":"release"}}},
        {"id":"cut","match":{"op":"write","sectors":[[8,9]]},"action":{"power_cut":{"unflushed":"prefix","then":"snapshot"}}}]}"#;
    let device = device(script);
    let mut guest = Guest::connect(&device.socket, 1);
    let held = guest.send(0, OUT, 8, &piece(b'H', 8, 1), 0);
    guest.send(0, OUT, 4, &piece(b'A', 4, 1), 0);
    assert_ne!(guest.used(0).0, held.head);
    assert_eq!(device.ask(&Ask::Status)["power"]["cuts"], 0);
    device.ask(&Ask::Release { rule: "held".into() });
    assert_eq!(guest.used(0), (held.head, 1));
    let (_, _, folder) = device.end_keeping_folder();
    assert_eq!(states(folder.path(), 1, &[4, 8]), set(&["..", "A.", "AH"]));
}

#[test]
fn a_prefix_goes_by_the_order_of_answers() {
    let script = r#"{"faultscript":1,"device":{"write_cache":"writeback"},"rules":[
        {"id":"back","match":{"op":"write"},"action":{"reorder":{"window":3,"policy":"reverse","max_wait_ms":60000,"when":"arrival"}}}]}"#;
    let device = device(script);
    let mut guest = Guest::connect(&device.socket, 1);
    for (letter, sector) in [(b'A', 4), (b'B', 8), (b'C', 12)] {
        guest.send(0, OUT, sector, &piece(letter, sector as usize, 1), 0);
    }
    for _ in 0..3 {
        guest.used(0);
    }
    snapshot(&device, Survivors::Prefix);
    let (_, _, folder) = device.end_keeping_folder();
    assert_eq!(states(folder.path(), 1, &[4, 8, 12]), set(&["...", "..C", ".BC", "ABC"]));
}

#[test]
fn a_drawn_survivor_follows_from_the_seed() {
    let left_by = |seed: u64| {
        let cut = r#""unflushed":{"subset":{"strategy":"reduced","max_states":32}},"then":"disconnect""#;
        let script = cutting(CACHE, r#""op":"flush""#, cut);
        let device = Device::start_with(64, &script, |args| args.seed = Some(seed));
        let mut guest = Guest::connect(&device.socket, 1);
        for at in 0..16 {
            guest.write(at, &piece(b'A', at as usize, 1));
        }
        guest.send(0, FLUSH, 0, &[], 0);
        while device.ask(&Ask::Status)["connected"] == true {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        letters(&device.image_bytes(), &(0..16).collect::<Vec<_>>())
    };
    assert_eq!(left_by(1), left_by(1));
    assert!((2..6).any(|seed| left_by(seed) != left_by(1)));
}

#[test]
fn a_cut_that_nobody_could_carry_out_is_refused_before_anything_starts() {
    let kill = cutting(CACHE, r#""op":"flush""#, r#""unflushed":"none","then":"kill_vm""#);
    let snap = cutting(CACHE, r#""op":"flush""#, r#""unflushed":"all","then":"snapshot""#);
    for (script, remedies) in [(kill, ["--qmp", "--control-path"]), (snap, ["--snapshot-dir", "--snapshot-dir"])] {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("disk"), [0; 8192]).expect("an image");
        let mut args = arguments(folder.path(), &script);
        args.control_path = None;
        let error = vhost_blk::serve::Server::prepare(&args).err().expect("refused");
        assert!(remedies.iter().all(|remedy| error.to_string().contains(remedy)), "{error}");
        assert_eq!(error.exit_code(), 2);
        assert!(!folder.path().join("s").exists());
    }
}

#[test]
fn a_snapshot_folder_of_another_run_is_refused() {
    let first = device(WRITEBACK);
    let mut args = arguments(first.folder.path(), WRITEBACK);
    args.blk_file = Some(first.folder.path().join("other"));
    args.socket_path = Some(first.folder.path().join("s2"));
    args.control_path = None;
    args.snapshot_dir = Some(first.folder.path().join("snap"));
    std::fs::write(first.folder.path().join("other"), [0; 8192]).expect("an image");
    let error = vhost_blk::serve::Server::prepare(&args).err().expect("refused");
    assert!(error.to_string().contains("earlier run"), "{error}");
}

#[test]
fn over_two_queues_every_answered_write_is_in_the_cache_and_in_one_order() {
    let device = device(WRITEBACK);
    let mut guest = Guest::connect(&device.socket, 2);
    for round in 0..4usize {
        for queue in 0..2 {
            let at = 8 * round + 4 * queue;
            guest.queue_request(queue, OUT, at as u64, &piece(b'A', at, 1), 0);
        }
    }
    (0..2).for_each(|queue| guest.kick(queue));
    for queue in [0, 0, 0, 0, 1, 1, 1, 1] {
        guest.used(queue);
    }
    let summary = snapshot(&device, Survivors::Prefix);
    assert_eq!(summary["distinct"], 9);
    let (_, record, folder) = device.end_keeping_folder();
    let answered: Vec<u64> = answers(&record).iter().map(|(seq, _)| *seq).collect();
    let listed: Vec<u64> =
        summary["writes"].as_array().expect("writes").iter().filter_map(|w| w["seq"].as_u64()).collect();
    assert_eq!(listed, answered, "the order of the record is the order of the prefix");
    assert_eq!(images(folder.path(), 1).len(), 9);
}

#[test]
fn an_event_cuts_the_power_at_its_mark() {
    let script = r#"{"faultscript":1,"device":{"write_cache":"writeback"},
        "events":[{"id":"cut","at":{"mark":"now"},"do":{"power_cut":{"unflushed":"prefix","then":"snapshot"}}}]}"#;
    let device = device(script);
    let mut guest = Guest::connect(&device.socket, 1);
    guest.write(4, &piece(b'A', 4, 1));
    device.ask(&Ask::Mark { name: "now".into() });
    guest.write(8, &piece(b'B', 8, 1));
    let (ending, _, folder) = device.end_keeping_folder();
    assert_eq!(ending, Ending::Clean);
    assert_eq!(states(folder.path(), 1, &[4, 8]), set(&["..", "A."]));
}

/// The fifth example of the language: what a cut leaves of a torn write is the torn write.
#[test]
fn a_write_that_is_torn_and_cut_is_on_media_as_it_was_torn() {
    let script = r#"{"faultscript":1,"rules":[
        {"id":"tear","match":{"op":"write","sectors":[[8,12]]},"action":{"torn":{"keep":[0,2]}}},
        {"id":"cut","match":{"op":"write","sectors":[[8,12]]},"action":{"power_cut":{"unflushed":"none","then":"kill_vm"}}}]}"#;
    let device = Device::start(64, script);
    let mut guest = Guest::connect(&device.socket, 1);
    guest.send(0, OUT, 8, &piece(b'T', 8, 4), 0);
    while device.ask(&Ask::Status)["power"]["on"] == true {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(letters(&device.image_bytes(), &[8, 9, 10, 11]), "T.T.");
    assert_eq!(device.ask(&Ask::Status)["overlay"], json!([]));
}
