//! Rules that ask what blocks are, from the driver's side of the ring: ext4 made by mke2fs, requests made by hand.

mod common;

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use common::*;
use serde_json::Value;
use vhost_blk::args::Serve;
use vhost_blk::control::Ask;
use vhost_blk::error::StartError;
use vhost_blk::serve::{Ending, Server};

const BLOCK: u64 = 8;

fn tool(name: &str, args: &[&str], input: &str) -> String {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(name);
    let piped = command.args(args).env("PATH", path).env("DEBUGFS_PAGER", "cat");
    let mut child = piped
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{name}: {error}; scripts/setup installs e2fsprogs"));
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    String::from_utf8_lossy(&child.wait_with_output().expect("it ends").stdout).into_owned()
}

/// ext4 of 4 KiB blocks with /f and /other, 16 blocks each.
fn make(image: &Path) {
    let tree = image.with_file_name("tree");
    std::fs::create_dir(&tree).expect("made");
    for name in ["f", "other"] {
        std::fs::write(tree.join(name), [7; 16 * 4096]).expect("written");
    }
    File::create(image).and_then(|file| file.set_len(16 << 20)).expect("an image");
    let (image, tree) = (image.display().to_string(), tree.display().to_string());
    tool("mke2fs", &["-q", "-F", "-t", "ext4", "-b", "4096", "-d", &tree, &image], "");
}

fn made(args: &mut Serve) {
    make(args.blk_file.as_ref().expect("an image"));
}

/// First sector of a file, by debugfs.
fn place(image: &Path, name: &str) -> u64 {
    let text = tool("debugfs", &["-R", &format!("blocks {name}"), &image.display().to_string()], "");
    let first = text.split_whitespace().next().expect("a block");
    first.parse::<u64>().expect("a number") * BLOCK
}

fn inode(image: &Path, name: &str) -> u64 {
    let text = tool("debugfs", &["-R", &format!("stat {name}"), &image.display().to_string()], "");
    let number = text.split_whitespace().nth(1).expect("Inode: N");
    number.parse().expect("a number")
}

fn script(rules: &str) -> String {
    format!(r#"{{"faultscript":1,"rules":[{rules}]}}"#)
}

fn refused(rules: &str, make: impl FnOnce(&Path)) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    make(&folder.path().join("disk"));
    match Server::prepare(&arguments(folder.path(), &script(rules))) {
        Err(error @ StartError::Script(_)) => error.to_string().replace(&folder.path().display().to_string(), ""),
        Err(error) => panic!("another error: {error}"),
        Ok(_) => panic!("it starts"),
    }
}

#[test]
fn an_error_on_one_file_by_path_leaves_the_other_whole_and_says_what_it_met() {
    let rules = script(r#"{"id":"r","match":{"path":"/f","class":"ext4.data"},"action":{"error":{"status":"ioerr"}}}"#);
    let device = Device::start_with(64, &rules, made);
    let (f, other, number) = (place(&device.image, "/f"), place(&device.image, "/other"), inode(&device.image, "/f"));
    let mut guest = Guest::connect(&device.socket, 1);
    let data = vec![9; 8 * 512];
    assert_eq!((guest.write(f, &data).0, guest.write(other, &data).0), (IOERR, OK));
    assert_eq!((guest.read(f + 5 * BLOCK, 8).0, guest.read(other, 8).0, guest.read(0, 8).0), (IOERR, OK, OK));
    // The last block of one and the first of the other, where they are neighbours.
    let across = guest.read(f + 15 * BLOCK, 16).0;
    assert_eq!(across, IOERR);
    let (_, _, decisions) = device.end_with_decisions();
    assert_eq!(decisions[1]["event"]["path"], serde_json::json!({"path": "/f", "inode": number}));
    let files: Vec<&Value> = decisions.iter().skip(2).map(|line| &line["file"]).collect();
    assert_eq!(files.len(), 3);
    assert_eq!(files[0], &serde_json::json!({"class":"ext4.data","inode":number,"file_block":0,"touch":1}));
    assert_eq!(files[1]["file_block"], 5);
}

#[test]
fn what_cannot_be_asked_of_this_disk_is_refused_at_start() {
    let by_path = r#"{"id":"r","match":{"path":"/g"},"action":{"error":{"status":"ioerr"}}}"#;
    assert_eq!(
        refused(by_path, make),
        "/faults.json:1:53: E202 /rules/0/match/path: \"/g\" not found on the image at start; use \"inode\", create it in \
         the image, or add \"must_exist\": false to follow it from when it is there"
    );
    let by_class = r#"{"id":"r","match":{"class":"ext4.data"},"action":{"error":{"status":"ioerr"}}}"#;
    let plain = |image: &Path| std::fs::write(image, vec![0; 1 << 20]).expect("an image");
    assert_eq!(
        refused(by_class, plain),
        "/faults.json:1:27: E208 /rules/0: what a block is cannot be told: the disk holds no file system that is known \
         here; match by \"sectors\" instead"
    );
}

/// The directory, the inode and the bitmap are written as they would be without a journal.
#[test]
fn a_path_that_need_not_exist_is_followed_from_when_it_is_there() {
    let rules =
        script(r#"{"id":"r","match":{"path":"/new","must_exist":false},"action":{"error":{"status":"ioerr"}}}"#);
    let device = Device::start_with(64, &rules, made);
    let after = device.folder.path().join("after");
    std::fs::copy(&device.image, &after).expect("copied");
    tool("debugfs", &["-w", "-f", "/dev/stdin", &after.display().to_string()], "ln /f /new\nunlink /f\n");
    let (before, after) = (device.image_bytes(), std::fs::read(after).expect("readable"));
    let f = place(&device.image, "/f");
    let mut guest = Guest::connect(&device.socket, 1);
    assert_eq!(guest.read(f, 8).0, OK);
    for block in 0..before.len() / 4096 {
        let part = block * 4096..(block + 1) * 4096;
        if before[part.clone()] != after[part.clone()] {
            assert_eq!(guest.write(block as u64 * BLOCK, &after[part]).0, OK);
        }
    }
    assert_eq!(guest.read(f, 8).0, IOERR);
    let (_, _, decisions) = device.end_with_decisions();
    assert!(decisions.iter().any(|line| line["event"]["path"]["path"] == "/new"), "{decisions:?}");
}

#[test]
fn sectors_of_a_file_are_bad_from_the_start_until_they_are_written() {
    let rules = script(
        r#"{"id":"r","match":{"op":"read","path":"/f"},"action":{"error":{"status":"ioerr"}},"scope":{"sticky":{}}}"#,
    );
    let device = Device::start_with(64, &rules, made);
    let (f, other) = (place(&device.image, "/f"), place(&device.image, "/other"));
    let bad = device.ask(&Ask::Status)["bad_sectors"][0]["sectors"].clone();
    assert_eq!(bad, serde_json::json!([[f, f + 16 * BLOCK]]));
    let mut guest = Guest::connect(&device.socket, 1);
    assert_eq!((guest.read(f, 8).0, guest.read(other, 8).0), (IOERR, OK));
    assert_eq!(guest.write(f, &vec![1; 4096]).0, OK);
    assert_eq!((guest.read(f, 8).0, guest.read(f + BLOCK, 8).0), (OK, IOERR));
}

#[test]
fn a_rule_for_a_path_can_be_added_where_the_file_system_is_followed_and_nowhere_else() {
    let rule = serde_json::json!({"id":"x","match":{"path":"/f"},"action":{"error":{"status":"ioerr"}}});
    let add = |device: &Device| vhost_blk::control::ask(&device.control(), &Ask::RulesAdd { rule: rule.clone() });
    let follows = script(r#"{"id":"r","enabled":false,"match":{"class":"ext4.gdt"},"action":{"lose":{}}}"#);
    let device = Device::start_with(64, &follows, made);
    let f = place(&device.image, "/f");
    let mut guest = Guest::connect(&device.socket, 1);
    assert_eq!(guest.read(f, 8).0, OK);
    add(&device).expect("answers").expect("added");
    assert_eq!(guest.read(f, 8).0, IOERR);
    let device = Device::start_with(64, &script(r#"{"id":"r","action":{"lose":{}}}"#), made);
    let why = add(&device).expect("answers").expect_err("refused");
    assert!(why.contains("does not follow the file system"), "{why}");
}

/// The file lies elsewhere, and the same decisions are made about it.
#[test]
fn a_replay_by_file_finds_its_requests_where_the_file_lies_now() {
    let rules = script(
        r#"{"id":"r","match":{"op":"write"},"trigger":{"key":"file","probability":0.4},"action":{"error":{"status":"ioerr"}}}"#,
    );
    let run = |make: &dyn Fn(&mut Serve), name: &str| {
        let device = Device::start_with(64, &rules, |args| make(args));
        let f = place(&device.image, name);
        let mut guest = Guest::connect(&device.socket, 1);
        let failed: Vec<u64> = (0..16).filter(|i| guest.write(f + i * BLOCK, &vec![3; 4096]).0 == IOERR).collect();
        let folder = device.folder.path().to_path_buf();
        let decisions = std::fs::read(folder.join("d"));
        let (ending, _, kept) = device.end_keeping_folder();
        let decisions = std::fs::read(folder.join("d")).or(decisions).expect("decisions");
        drop(kept);
        (f, failed, ending, decisions)
    };
    let (first, failed, _, decisions) = run(&made, "/f");
    assert!((1..15).contains(&failed.len()), "{failed:?}");
    let elsewhere = |args: &mut Serve| {
        made(args);
        let image = args.blk_file.as_ref().expect("an image").display().to_string();
        // The same inode, and another place.
        let commands = "rm /f\nwrite /dev/null /f\nwrite /dev/null /hog\nfallocate /hog 0 40\nfallocate /f 0 15\n";
        tool("debugfs", &["-w", "-f", "/dev/stdin", &image], commands);
        let recorded = args.decisions_file.as_ref().expect("a file").with_file_name("recorded");
        std::fs::write(&recorded, &decisions).expect("written");
        args.replay = Some(recorded);
        args.by = vhost_blk::args::ReplayBy::File;
    };
    let (second, again, ending, _) = run(&elsewhere, "/f");
    assert_ne!(first, second, "it lies where it lay");
    assert_eq!((again, ending), (failed, Ending::Clean));
}

/// Of writes to two classes, states lose and keep each class as a whole.
#[test]
fn states_of_a_power_cut_lose_and_keep_whole_classes() {
    let rules = r#"{"faultscript":1,"device":{"write_cache":"writeback"},"rules":[
        {"id":"cut","match":{"op":"flush"},"action":{"power_cut":{"unflushed":{"subset":{"max_states":12}},"then":"snapshot"}}}]}"#;
    let device = Device::start_with(64, rules, |args| {
        made(args);
        args.snapshot_dir = Some(args.blk_file.as_ref().expect("an image").with_file_name("snapshots"));
    });
    let f = place(&device.image, "/f");
    let mut guest = Guest::connect(&device.socket, 1);
    // Data, a block of group descriptors, data, another of them.
    for (sector, seed) in [(f, 1), (BLOCK, 2), (f + BLOCK, 3), (2 * BLOCK, 4)] {
        assert_eq!(guest.write(sector, &vec![seed; 4096]).0, OK);
    }
    assert_eq!(guest.request(FLUSH, 0, &[], 0).0, OK);
    let cuts = std::fs::read_to_string(device.folder.path().join("snapshots/cuts.jsonl")).expect("a cut");
    let cut: Value = serde_json::from_str(cuts.lines().next().expect("one")).expect("JSON");
    let states: Vec<&Value> =
        cut["states"].as_array().expect("a list").iter().map(|state| &state["survives"]).collect();
    assert!(states.contains(&&serde_json::json!([0, 2])) && states.contains(&&serde_json::json!([1, 3])), "{states:?}");
}
