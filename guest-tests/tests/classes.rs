//! What every request of a real guest was to ext4, as the disk said when it came, against debugfs and dumpe2fs on the
//! image the guest has left.
//!
//! Blocks that were two things in the run (freed, and given to another) are left out: the image knows the last one only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const BLOCK_SECTORS: u64 = 8;

/// The three programs side by side, as scripts/build leaves them.
fn program() -> PathBuf {
    let beside = || Path::new(env!("CARGO_BIN_EXE_guest-tests")).with_file_name("../release");
    std::env::var_os("GUEST_TESTS_PROGRAMS").map_or_else(beside, PathBuf::from).join("guest-tests")
}

fn tool(name: &str, args: &[&str]) -> String {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(name).args(args).env("PATH", path).env("DEBUGFS_PAGER", "cat").output();
    let output = output.unwrap_or_else(|error| panic!("{name}: {error}; scripts/setup installs e2fsprogs"));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn numbers(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}

/// Class and inode that each block was in the run, if it was one thing throughout.
fn seen(decisions: &Path) -> BTreeMap<u64, (String, Option<u64>)> {
    let mut seen: BTreeMap<u64, Option<(String, Option<u64>)>> = BTreeMap::new();
    let text = std::fs::read_to_string(decisions).expect("a run writes it");
    for line in text.lines().map(|line| serde_json::from_str::<Value>(line).expect("one JSON document per line")) {
        if line["rule"] != "log" {
            continue;
        }
        let whole = serde_json::json!([{"sector": line["sector"], "sectors": line["sectors"],
            "class": line["file"]["class"], "inode": line["file"]["inode"]}]);
        let stretches = if line["stretches"].is_array() { &line["stretches"] } else { &whole };
        for stretch in stretches.as_array().expect("a list") {
            let number = |key: &str| stretch[key].as_u64().expect("a number");
            let class = stretch["class"].as_str().expect("a class").to_string();
            // Kinds of journal blocks come and go with the log's rounds.
            let class = if class.starts_with("ext4.journal") { "ext4.journal".to_string() } else { class };
            let what = (class, stretch["inode"].as_u64());
            let (first, end) =
                (number("sector") / BLOCK_SECTORS, (number("sector") + number("sectors")).div_ceil(BLOCK_SECTORS));
            for block in first..end {
                let known = seen.entry(block).or_insert_with(|| Some(what.clone()));
                if known.as_ref().is_some_and(|known| known.0 == "ext4.unknown") {
                    *known = Some(what.clone());
                } else if what.0 != "ext4.unknown" && known.as_ref() != Some(&what) {
                    *known = None;
                }
            }
        }
    }
    seen.into_iter().filter_map(|(block, what)| Some((block, what?))).collect()
}

/// What the layout fixes, by dumpe2fs.
fn fixed(image: &str) -> BTreeMap<u64, &'static str> {
    let marks = [
        ("superblock at ", "ext4.superblock"),
        ("Group descriptors at ", "ext4.gdt"),
        ("Reserved GDT blocks at ", "ext4.gdt"),
        ("Block bitmap at ", "ext4.block_bitmap"),
        ("Inode bitmap at ", "ext4.inode_bitmap"),
        ("Inode table at ", "ext4.inode_table"),
    ];
    let mut fixed = BTreeMap::new();
    for part in tool("dumpe2fs", &[image]).lines().flat_map(|line| line.split(", ")) {
        for (mark, class) in marks {
            if let Some((_, places)) = part.split_once(mark) {
                let places = numbers(places.split('(').next().expect("a part"));
                fixed.extend((places[0]..=*places.last().expect("one")).map(|block| (block, class)));
            }
        }
    }
    fixed
}

/// The inode that each of these blocks belongs to on the image.
fn owners(image: &str, blocks: impl Iterator<Item = u64>) -> BTreeMap<u64, u64> {
    let list: Vec<String> = blocks.map(|block| block.to_string()).collect();
    let said = tool("debugfs", &["-R", &format!("icheck {}", list.join(" ")), image]);
    let pair =
        |line: &str| line.split_once('\t').and_then(|(block, inode)| Some((block.parse().ok()?, inode.parse().ok()?)));
    said.lines().filter_map(pair).collect()
}

/// The class that a block of an inode has, by debugfs: nodes are listed by name.
fn class_of(stat: &str, inode: u64, block: u64) -> &'static str {
    let is_node = stat.split(", ").any(|part| part.contains("(ETB") && numbers(part).last() == Some(&block));
    let acl = stat.split_once("File ACL: ").map_or(0, |(_, rest)| numbers(rest)[0]);
    match inode {
        8 => "ext4.journal",
        7 => "ext4.gdt",
        _ if is_node => "ext4.extent_node",
        _ if acl == block => "ext4.xattr",
        _ if stat.contains("Type: directory") => "ext4.dir",
        _ => "ext4.data",
    }
}

#[test]
fn what_every_request_was_is_what_debugfs_finds_on_the_image() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let scenario = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/every-class.json");
    let mut command = Command::new(program());
    command.arg("run").arg(&scenario).arg("--out").arg(folder.path());
    let output = command.args(["--keep-image", "--time-limit", "600"]).output().expect("scripts/build puts it there");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));

    let image = folder.path().join("disk.img").display().to_string();
    let seen = seen(&folder.path().join("decisions.jsonl"));
    let fixed = fixed(&image);
    let owners = owners(&image, seen.keys().copied());
    let mut stats: BTreeMap<u64, String> = BTreeMap::new();
    let mut agreed: BTreeMap<&str, u64> = BTreeMap::new();
    for (block, (class, inode)) in &seen {
        let told = match (fixed.get(block), owners.get(block)) {
            (Some(class), _) => (*class, None),
            (None, Some(owner)) => {
                let stat =
                    stats.entry(*owner).or_insert_with(|| tool("debugfs", &["-R", &format!("stat <{owner}>"), &image]));
                (class_of(stat, *owner, *block), Some(*owner))
            }
            // Freed since, or never anything.
            (None, None) => continue,
        };
        if class == "ext4.unknown" {
            *agreed.entry("ext4.unknown").or_default() += 1;
            continue;
        }
        assert_eq!((class.as_str(), *inode), told, "block {block}");
        *agreed.entry(told.0).or_default() += 1;
    }
    for class in [
        "ext4.superblock",
        "ext4.gdt",
        "ext4.block_bitmap",
        "ext4.inode_bitmap",
        "ext4.inode_table",
        "ext4.extent_node",
        "ext4.dir",
        "ext4.data",
        "ext4.journal",
    ] {
        assert!(agreed.contains_key(class), "no request was {class}: {agreed:?}");
    }
    assert!(agreed["ext4.data"] >= 256, "the overwritten file is known: {agreed:?}");
}
