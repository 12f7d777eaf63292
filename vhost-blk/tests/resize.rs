//! Another size while the disk is in use, from the front-end's side: the bytes on the backend channel, the configuration
//! space, what requests beyond the end are answered, and what becomes of the image.

mod common;

use std::io::{ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::{DISCARD, Device, GET_ID, Guest, IOERR, OK, pattern};
use serde_json::json;
use vhost_blk::control::{Ask, ask};
use vhost_blk::serve::Ending;

/// VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, version 1, no reply asked for, no body.
const CONFIG_CHANGE: [u8; 12] = [2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];

fn hears_of_a_change(channel: &mut UnixStream) {
    channel.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
    let mut message = [0; 12];
    channel.read_exact(&mut message).expect("a message");
    assert_eq!(message, CONFIG_CHANGE);
}

fn hears_nothing(channel: &mut UnixStream) {
    channel.set_nonblocking(true).expect("nonblocking");
    assert_eq!(channel.read(&mut [0]).expect_err("nothing is said").kind(), ErrorKind::WouldBlock);
    channel.set_nonblocking(false).expect("blocking");
}

fn capacity(guest: &mut Guest) -> u64 {
    u64::from_le_bytes(guest.config(60)[..8].try_into().expect("8 bytes"))
}

#[test]
fn a_disk_that_grows_says_so_and_its_new_sectors_can_be_written_and_read() {
    let device = Device::start(64, "");
    let (mut guest, mut channel) = Guest::connect_listening(&device.socket, 1);
    assert_eq!(guest.write(64, &pattern(1, 3)), (IOERR, 1), "beyond the end");
    let answer = device.ask(&Ask::Resize { capacity_sectors: 4096 });
    assert_eq!(answer, json!({"seq": 1, "capacity_sectors": 4096, "was_sectors": 64, "notified": true}));
    hears_of_a_change(&mut channel);
    assert_eq!(capacity(&mut guest), 4096);
    assert_eq!(guest.write(4095, &pattern(1, 4)), (OK, 1));
    assert_eq!(guest.read(4095, 1).2, pattern(1, 4));
    assert_eq!(guest.read(64, 1).2, [0; 512], "a hole");
    assert_eq!(device.ask(&Ask::Status)["capacity_sectors"], 4096);
    let expected = [pattern(64, 1), vec![0; 4031 * 512], pattern(1, 4)].concat();
    assert_eq!(device.image_bytes(), expected);
    let (ending, record, decisions) = device.end_with_decisions();
    assert_eq!(ending, Ending::Clean);
    let past = record.iter().find(|line| line["ev"] == "complete" && line["seq"] == 0).expect("answered");
    assert_eq!((&past["past_end"], &past["host_error"], &past["fired"]), (&json!(true), &json!(false), &json!(false)));
    assert_eq!((&past["op"], &past["sector"], &past["status"]), (&json!("write"), &json!(64), &json!(1)));
    let resized = record.iter().find(|line| line["ev"] == "resize").expect("recorded");
    assert_eq!((&resized["capacity_sectors"], &resized["notified"]), (&json!(4096), &json!(true)));
    assert_eq!(decisions[1], json!({"seq": 1, "rule": "@resize", "event": {"capacity_sectors": 4096}}));
}

#[test]
fn a_disk_that_shrinks_fails_what_lies_beyond_and_its_image_is_never_cut() {
    let script = r#"{"faultscript":1,
        "rules":[{"id":"late","match":{"op":"write","sectors":[[56,64]]},"action":{"hold":{"until":"release"}}}],
        "events":[{"id":"shrink","at":{"writes":2},"do":{"capacity_sectors":32}}]}"#;
    let device = Device::start(64, script);
    let (mut guest, mut channel) = Guest::connect_listening(&device.socket, 1);
    let held = guest.send(0, common::OUT, 56, &pattern(8, 7), 0);
    assert_eq!(guest.write(0, &pattern(1, 2)), (OK, 1), "the request that reaches the point is not touched by it");
    hears_of_a_change(&mut channel);
    assert_eq!(capacity(&mut guest), 32);
    assert_eq!(guest.read(24, 8), (OK, 4097, pattern(64, 1)[24 * 512..32 * 512].to_vec()));
    let (status, used_len, data) = guest.read(31, 2);
    assert_eq!((status, used_len, data), (IOERR, 1, vec![0xee; 1024]), "nothing is read across the end");
    assert_eq!(guest.write(32, &pattern(1, 9)), (IOERR, 1));
    assert_eq!(guest.range(DISCARD, 56, 8, 0), (IOERR, 1));
    assert_eq!(guest.request(GET_ID, 0, &[], 20).0, OK);
    // What was taken before goes on as it was decided.
    device.ask(&Ask::Release { rule: "late".into() });
    assert_eq!(guest.used(0).0, held.head);
    assert_eq!(guest.status(&held), OK);
    let mut expected = pattern(64, 1);
    expected[..512].copy_from_slice(&pattern(1, 2));
    expected[56 * 512..].copy_from_slice(&pattern(8, 7));
    assert_eq!(device.image_bytes(), expected);
    device.ask(&Ask::Resize { capacity_sectors: 64 });
    assert_eq!(guest.read(56, 8).2, pattern(8, 7), "it shows what it held");
    let (ending, record) = device.end();
    assert_eq!(ending, Ending::Clean);
    let past: Vec<_> = record.iter().filter(|line| line["past_end"] == true).map(|line| line["op"].clone()).collect();
    assert_eq!(past, ["read", "write", "discard"]);
    let trailer = record.last().expect("a trailer");
    assert_eq!((&trailer["malformed"], &trailer["host_error"]), (&json!(0), &json!(null)));
}

#[test]
fn a_front_end_that_starts_its_rings_without_having_looked_is_told_again() {
    let device = Device::start(64, "");
    let (mut guest, mut channel) = Guest::connect_listening(&device.socket, 1);
    device.ask(&Ask::Resize { capacity_sectors: 128 });
    hears_of_a_change(&mut channel);
    guest.stop_queue(0);
    guest.restart_queue();
    hears_of_a_change(&mut channel);
    assert_eq!(capacity(&mut guest), 128);
    guest.stop_queue(0);
    guest.restart_queue();
    hears_nothing(&mut channel);
    assert_eq!(guest.read(127, 1).0, OK);
    assert_eq!(device.end().0, Ending::Clean);
}

#[test]
fn a_front_end_without_a_channel_is_not_told_and_the_next_one_finds_the_new_size() {
    let device = Device::start(64, "");
    let mut guest = Guest::connect(&device.socket, 1);
    let answer = device.ask(&Ask::Resize { capacity_sectors: 16 });
    assert_eq!(answer["notified"], false);
    assert_eq!(guest.read(16, 1).0, IOERR);
    drop(guest);
    let mut guest = Guest::connect(&device.socket, 1);
    assert_eq!(capacity(&mut guest), 16);
    assert_eq!(device.end().0, Ending::Clean);
}

#[test]
fn no_size_is_taken_that_the_disk_cannot_have() {
    let device = Device::start(64, r#"{"faultscript":1,"device":{"logical_block_bytes":4096}}"#);
    for (sectors, why) in [(0, "at least one"), (9, "whole blocks of 4096 bytes"), (1 << 54, "at most")] {
        let error = ask(&device.control(), &Ask::Resize { capacity_sectors: sectors }).expect("it answers");
        assert!(error.as_ref().expect_err("refused").contains(why), "{error:?}");
    }
    assert_eq!(device.ask(&Ask::Status)["capacity_sectors"], 64);
    assert_eq!(device.image_bytes().len(), 64 * 512);
    let (ending, record) = device.end();
    assert_eq!(ending, Ending::Clean);
    assert!(record.iter().all(|line| line["ev"] != "resize"));
}

#[test]
fn an_image_that_cannot_grow_is_refused_before_anything_starts() {
    let script = r#"{"faultscript":1,"events":[{"id":"grow","at":{"mark":"M"},"do":{"capacity_sectors":128}}]}"#;
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("disk"), pattern(64, 1)).expect("an image");
    let mut args = common::arguments(folder.path(), script);
    args.read_only = true;
    let error = vhost_blk::serve::Server::prepare(&args).err().expect("refused").to_string();
    assert!(error.contains("128 sectors") && error.contains("not read-only"), "{error}");
    assert!(!folder.path().join("s").exists());
}
