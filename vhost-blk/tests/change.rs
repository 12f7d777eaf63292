//! Another disk under a driver that stays: what it serves, decides and writes down is what a process of its own would have
//! served, decided and written down; and what must not be changed stays.

mod common;

use std::path::Path;

use common::{Device, Guest, IN, IOERR, OK, OUT, pattern, read_record};
use serde_json::{Value, json};
use vhost_blk::control::{Ask, ask};
use vhost_blk::drive::Change;
use vhost_blk::serve::Ending;

/// States, counters, probabilities, a lie, a past: everything that could leak from one disk into the next.
const EVERYTHING: &str = r#"{"faultscript":1,"seed":3,"states":{"s":["a","b"]},
 "events":[{"id":"go","at":{"mark":"start"},"do":{"set":{"s":"b"}}}],
 "rules":[{"id":"nth","match":{"op":"write"},"trigger":{"nth":2},"action":{"error":{"status":"ioerr"}}},
          {"id":"state","match":{"op":"read"},"trigger":{"when":{"s":"b"}},"action":{"corrupt":{"bits":1}}},
          {"id":"drawn","match":{"op":"write"},"trigger":{"probability":0.5},"action":{"lose":{}}},
          {"id":"bad","match":{"op":"write","sectors":[[40,48]]},"action":{"error":{"status":"ioerr"}},"scope":{"sticky":{"sectors":"matched","heal":"never"}}}]}"#;

fn wanted(folder: &Path, name: &str, script: &str, seed: Option<u64>) -> Change {
    let at = |what: &str| folder.join(format!("{name}.{what}"));
    std::fs::write(at("img"), pattern(64, 9)).expect("an image");
    let faults = match script {
        "" => vec![],
        script => {
            std::fs::write(at("json"), script).expect("a script");
            vec![at("json")]
        }
    };
    let (trace_file, decisions_file, overlay_file) = (Some(at("t")), Some(at("d")), Some(at("o")));
    Change { blk_file: at("img"), faults, seed, trace_file, decisions_file, overlay_file, ..Change::default() }
}

/// Writes, reads and a mark: most rules of `EVERYTHING` fire.
fn work(guest: &mut Guest, mark: impl Fn()) -> Vec<u8> {
    let mut seen = Vec::new();
    for round in 0..12 {
        if round == 6 {
            mark();
        }
        seen.push(guest.write(round * 4, &pattern(4, round as u8)).0);
        let (status, _, data) = guest.read(round * 4, 4);
        seen.push(status);
        seen.extend(data);
    }
    guest.forget_data();
    seen
}

/// The record without times and without the image's name.
fn told(record: &Path) -> Vec<Value> {
    let mut lines = read_record(record);
    for line in &mut lines {
        let line = line.as_object_mut().expect("an object");
        line.retain(|key, _| !key.ends_with("_ns") && key != "image");
    }
    lines
}

fn mark(device: &Device) {
    device.ask(&Ask::Mark { name: "start".into() });
}

#[test]
fn a_disk_that_was_put_in_is_served_decided_and_recorded_as_by_a_process_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    let device = Device::start_with(64, EVERYTHING, |args| args.seed = Some(1));
    let mut guest = Guest::connect(&device.socket, 2);
    work(&mut guest, || mark(&device));
    let again = wanted(folder.path(), "again", EVERYTHING, Some(7));
    let answer = device.ask(&Ask::Change(again.clone()));
    assert_eq!((&answer["seed"], &answer["capacity_sectors"]), (&json!(7), &json!(64)));
    let in_place = work(&mut guest, || mark(&device));
    let after = wanted(folder.path(), "after", "", None);
    assert_eq!(device.ask(&Ask::Change(after))["ended"]["outcome"], "clean");

    let fresh = Device::start_with(64, EVERYTHING, |args| args.seed = Some(7));
    std::fs::write(&fresh.image, pattern(64, 9)).expect("the same image");
    let mut guest = Guest::connect(&fresh.socket, 2);
    let alone = work(&mut guest, || mark(&fresh));
    drop(guest);
    let image = fresh.image_bytes();
    let (_, _, fresh_folder) = fresh.end_keeping_folder();
    assert_eq!(in_place, alone, "what the driver saw");
    let bytes = |path: &Path| std::fs::read(path).expect("a file");
    assert_eq!(bytes(&again.blk_file), image);
    assert_eq!(bytes(again.decisions_file.as_deref().expect("given")), bytes(&fresh_folder.path().join("d")));
    assert_eq!(told(again.trace_file.as_deref().expect("given")), told(&fresh_folder.path().join("t")));
    assert_eq!(bytes(again.overlay_file.as_deref().expect("given")), bytes(&fresh_folder.path().join("o")));
}

#[test]
fn the_old_disk_ends_as_at_the_end_of_its_process_and_its_unmet_expect_is_in_the_answer() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = r#"{"faultscript":1,"device":{"write_cache":"writeback"},"rules":[
        {"id":"r","match":{"op":"read"},"action":{"error":{"status":"ioerr"}}}],
        "expect":{"fired":{"r":[1,1]}}}"#;
    let device = Device::start(64, script);
    let mut guest = Guest::connect(&device.socket, 1);
    assert_eq!(guest.write(8, &pattern(4, 5)), (OK, 1));
    let answer = device.ask(&Ask::Change(wanted(folder.path(), "next", "", None)));
    assert_eq!(answer["ended"]["outcome"], "expect_unmet");
    assert!(answer["ended"]["why"][0].as_str().expect("text").contains("rule r fired 0 times"), "{answer}");
    assert_eq!(device.image_bytes()[8 * 512..12 * 512], pattern(4, 5), "what the cache held is written");
    let record = read_record(&device.folder.path().join("t"));
    let last: Vec<&Value> = record.iter().rev().take(2).map(|line| &line["ev"]).collect();
    assert_eq!(last, [&json!("trailer"), &json!("session")], "{record:?}");
    // Nobody holds its lock any more: another process may have it.
    Device::start_with(64, "", |args| args.blk_file = Some(device.image.clone())).end();
    assert_eq!(guest.read(8, 1), (OK, 513, pattern(64, 9)[8 * 512..9 * 512].to_vec()));
    drop(guest);
    assert_eq!(device.end().0, Ending::Clean, "of the disk that is in now");
}

#[test]
fn what_does_not_suit_is_refused_with_a_reason_and_the_old_disk_stays() {
    let folder = tempfile::tempdir().expect("a folder");
    let held = r#"{"faultscript":1,"rules":[{"id":"h","match":{"op":"write"},"action":{"hold":{"until":"release"}}}]}"#;
    let device = Device::start(64, held);
    let mut guest = Guest::connect(&device.socket, 1);
    let good = wanted(folder.path(), "good", "", None);
    let refused = |what: Change| ask(&device.control(), &Ask::Change(what)).expect("an answer").expect_err("refused");
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(folder.path().join(name), bytes).expect("a file");
        folder.path().join(name)
    };
    let small = Change { blk_file: write("small", &pattern(32, 1)), ..good.clone() };
    assert!(refused(small).contains("capacity_sectors 32 (it was told capacity_sectors 64)"));
    let bad = Change { faults: vec![write("bad.json", b"{\"faultscript\":1,\"rules\":[{}]}")], ..good.clone() };
    assert!(refused(bad).contains("bad.json:1"));
    assert!(refused(Change { blk_file: "/nowhere/at/all".into(), ..good.clone() }).contains("/nowhere/at/all"));
    assert!(refused(Change { blk_file: device.image.clone(), ..good.clone() }).contains("in use"));
    let same_record = Change { trace_file: Some(device.folder.path().join("t")), ..good.clone() };
    assert!(refused(same_record).contains("is written for the disk of now"));
    let sent = guest.send(0, OUT, 8, &pattern(1, 4), 0);
    while device.ask(&Ask::Status)["parked"].as_array().expect("a list").is_empty() {}
    assert!(refused(good.clone()).contains("1 requests are in flight"));
    assert!(!good.trace_file.clone().expect("given").exists(), "no file is made for what is refused");
    device.ask(&Ask::Release { rule: "h".into() });
    guest.used(0);
    assert_eq!((guest.status(&sent), &guest.read(8, 1).2), (OK, &pattern(1, 4)));
    device.ask(&Ask::Resize { capacity_sectors: 128 });
    assert!(refused(good).contains("128 sectors, 64 at first"));
    drop(guest);
    let (ending, record) = device.end();
    assert_eq!(ending, Ending::Clean);
    assert_eq!(record.iter().filter(|line| line["ev"] == "session" && line["why"] == "disconnect").count(), 1);
}

/// Guards against a queue that keeps the old disk, or a request that is lost, when both happen at the same moment.
#[test]
fn requests_that_come_while_disks_are_changed_are_each_answered_by_one_of_them() {
    let folder = tempfile::tempdir().expect("a folder");
    let device = Device::start(64, "");
    let control = device.control();
    let mut guest = Guest::connect(&device.socket, 2);
    let mut changed = 0;
    for round in 0..40 {
        let wanted = Change {
            trace_file: None,
            decisions_file: None,
            overlay_file: None,
            ..wanted(folder.path(), &format!("{round}"), "", None)
        };
        let sent: Vec<_> = (0..20).map(|i| guest.queue_request(i % 2, IN, i as u64, &[], 512)).collect();
        (0..2).for_each(|queue| guest.kick(queue));
        changed += usize::from(ask(&control, &Ask::Change(wanted)).expect("an answer").is_ok());
        for _ in 0..10 {
            guest.used(0);
            guest.used(1);
        }
        for (sector, sent) in sent.iter().enumerate() {
            assert_eq!(guest.status(sent), OK);
            let data = guest.data(sent);
            let of = |seed| pattern(64, seed)[sector * 512..(sector + 1) * 512] == data[..];
            assert!(of(1) || of(9), "neither disk holds that");
        }
        guest.forget_data();
    }
    assert!(changed > 0, "never idle");
    assert_eq!(guest.read(0, 1).2, pattern(64, 9)[..512]);
    drop(guest);
    assert_eq!(device.end().0, Ending::Clean);
}

#[test]
fn a_disk_can_be_changed_while_nobody_is_connected_and_the_next_driver_finds_the_new_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let device = Device::start(64, "");
    drop(Guest::connect(&device.socket, 1));
    while device.ask(&Ask::Status)["connected"] == true {}
    let script =
        r#"{"faultscript":1,"rules":[{"id":"r","match":{"op":"write"},"action":{"error":{"status":"ioerr"}}}]}"#;
    device.ask(&Ask::Change(wanted(folder.path(), "next", script, None)));
    let mut guest = Guest::connect(&device.socket, 1);
    assert_eq!(guest.write(0, &pattern(1, 2)), (IOERR, 1));
    assert_eq!(guest.read(0, 64).2, pattern(64, 9));
}
