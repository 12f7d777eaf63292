//! Images made by mke2fs and debugfs with each combination of features; the class of every block is compared with what
//! dumpe2fs and debugfs say of it. And damaged images: whatever is on the disk, nothing panics or hangs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const MIB: u64 = 1 << 20;

impl Blocks for Vec<u8> {
    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let part = from.checked_add(buf.len()).and_then(|end| self.get(from..end));
        buf.copy_from_slice(part.ok_or_else(|| io::Error::other("beyond the end"))?);
        Ok(())
    }

    fn bytes(&self) -> u64 {
        self.len() as u64
    }
}

/// Data of a test's write.
struct Bytes<'b>(&'b [u8]);

impl Data for Bytes<'_> {
    fn copy(&mut self, at: u64, buf: &mut [u8]) -> bool {
        buf.copy_from_slice(&self.0[at as usize..at as usize + buf.len()]);
        true
    }
}

/// Runs one of the e2fsprogs; they lie where an ordinary user's PATH may not lead.
fn tool(name: &str, args: &[&str], input: &str) -> String {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let mut child = Command::new(name)
        .args(args)
        .env("PATH", path)
        .env("DEBUGFS_PAGER", "cat")
        .env("E2FSPROGS_FAKE_TIME", "1000000")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{name}: {error}; scripts/setup installs e2fsprogs"));
    io::Write::write_all(&mut child.stdin.take().expect("piped"), input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{name} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    text
}

/// A tree with something of each kind, made for an image.
fn populate(folder: &Path, names: u32) {
    std::fs::create_dir_all(folder.join("sub/deep")).expect("made");
    std::fs::write(folder.join("tiny"), "in the inode, if it may be there").expect("written");
    std::fs::write(folder.join("sub/plain"), vec![7; 300_000]).expect("written");
    std::os::unix::fs::symlink("sub/plain", folder.join("short")).expect("linked");
    std::os::unix::fs::symlink(format!("sub/{}", "x".repeat(200)), folder.join("long")).expect("linked");
    // Every other 4 KiB: as many extents as there are pieces, for a deep tree.
    let holes = File::create(folder.join("sub/deep/holes")).expect("made");
    for i in 0..700 {
        holes.write_all_at(&[(i % 250) as u8 + 1; 4096], i * 8192).expect("written");
    }
    let many = folder.join("many");
    std::fs::create_dir(&many).expect("made");
    for i in 0..names {
        std::fs::write(many.join(format!("a-rather-long-name-so-that-few-fit-into-a-block-{i:05}")), "")
            .expect("written");
    }
}

const TWO_LEVELS: &[&str] = &["-b", "1024", "-N", "2500"];

/// An image of its own folder, with an attribute block and an indexed directory beside the tree.
fn image(features: &[&str], mib: u64) -> (TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let tree = folder.path().join("tree");
    // With so many, and small blocks, the index of the directory has two levels.
    let names = if features == TWO_LEVELS { 2000 } else { 250 };
    populate(&tree, names);
    let path = folder.path().join("disk.img");
    File::create(&path).and_then(|file| file.set_len(mib * MIB)).expect("an image");
    let (image, tree) = (path.display().to_string(), tree.display().to_string());
    let mut args = vec!["-q", "-F", "-t", "ext4", "-N", "600", "-E", "lazy_itable_init=1", "-d", &tree];
    if !features.contains(&"-b") {
        args.extend(["-b", "4096"]);
    }
    args.extend_from_slice(features);
    args.push(&image);
    tool("mke2fs", &args, "");
    let value = "v".repeat(700);
    let commands = format!("ea_set /sub/plain user.large {value}\nea_set /tiny user.large {value}\n");
    tool("debugfs", &["-w", "-f", "/dev/stdin", &image], &commands);
    // Makes the index of large directories; it says 1 when it has changed something, which it is to do.
    let _ = Command::new("e2fsck").args(["-fyD", &image]).env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin").output();
    (folder, path)
}

/// What dumpe2fs and debugfs say of each block: class, inode, place in the file.
struct Told {
    blocks: BTreeMap<u64, (Class, Option<u32>, Option<u64>)>,
    count: u64,
    block_bytes: u64,
}

fn numbers(text: &str) -> Vec<u64> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect()
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
    numbers(line.split_once(':').expect("a value").1)[0]
}

impl Told {
    fn by_the_tools(image: &Path) -> Told {
        let image = image.display().to_string();
        let text = tool("dumpe2fs", &[&image], "");
        let mut told = Told {
            blocks: BTreeMap::new(),
            count: field(&text, "Block count"),
            block_bytes: field(&text, "Block size"),
        };
        told.groups(&text);
        let inodes = field(&text, "Inode count") - field(&text, "Free inodes") + 40;
        let named = |name: &str| text.lines().any(|line| line.starts_with(name)).then(|| field(&text, name));
        let journal = named("Journal inode");
        let hidden = ["Project quota inode", "Orphan file inode"].map(named);
        let commands = (1..=inodes).fold(String::new(), |mut text, inode| {
            writeln!(text, "stat <{inode}>").expect("a string");
            text
        });
        let stats = tool("debugfs", &["-f", "/dev/stdin", &image], &commands);
        for stat in stats.split("debugfs: stat").skip(1) {
            told.inode(stat, journal, hidden);
        }
        told.index_blocks(&image);
        told
    }

    fn put(&mut self, first: u64, last: u64, class: Class) {
        self.blocks.extend((first..=last).map(|block| (block, (class, None, None))));
    }

    fn groups(&mut self, text: &str) {
        let range = |text: &str| {
            let text = text.split('(').next().expect("a part");
            let numbers = numbers(text);
            (numbers[0], *numbers.last().expect("one"))
        };
        for line in text.lines().map(str::trim) {
            let parts: Vec<&str> = line.split(", ").collect();
            for part in parts {
                for (mark, class) in [
                    ("Primary superblock at ", Class::Superblock),
                    ("Backup superblock at ", Class::Superblock),
                    ("Group descriptors at ", Class::Gdt),
                    ("Group descriptor at ", Class::Gdt),
                    ("Reserved GDT blocks at ", Class::Gdt),
                    ("Block bitmap at ", Class::BlockBitmap),
                    ("Inode bitmap at ", Class::InodeBitmap),
                    ("Inode table at ", Class::InodeTable),
                ] {
                    if let Some(rest) = part.strip_prefix(mark) {
                        let (first, last) = range(rest);
                        self.put(first, last, class);
                    }
                }
            }
        }
    }

    fn inode(&mut self, stat: &str, journal: Option<u64>, hidden: [Option<u64>; 2]) {
        let Some(head) = stat.lines().find(|line| line.starts_with("Inode:")) else { return };
        let inode = numbers(head)[0] as u32;
        if stat.contains("dtime: 0x") || !self.is_used(stat) {
            return;
        }
        let class = match inode {
            _ if journal == Some(inode.into()) => Class::Journal,
            3 | 4 | 7 | 9 | 10 => Class::Other,
            _ if hidden.contains(&Some(inode.into())) => Class::Other,
            _ if head.contains("Type: directory") => Class::Dir,
            _ if is_ea_inode(head) => Class::Xattr,
            _ => Class::Data,
        };
        let acl = stat.split_once("File ACL: ").map_or(0, |(_, rest)| numbers(rest)[0]);
        if acl != 0 {
            self.blocks.insert(acl, (Class::Xattr, Some(inode), None));
        }
        let list = stat.split_once("EXTENTS:\n").or_else(|| stat.split_once("BLOCKS:\n")).map_or("", |(_, list)| list);
        let list = list.split("TOTAL").next().expect("a part");
        for part in list.split(", ").filter(|part| part.starts_with('(')) {
            let (name, places) = part.trim().split_once(':').expect("(what):where");
            let places = numbers(places);
            let (first, last) = (places[0], *places.last().expect("one"));
            let is_node = name.contains("ETB") || name.contains("IND");
            for block in first..=last {
                // What the layout has fixed goes before what the resize inode claims.
                let what = match is_node {
                    true => (Class::ExtentNode, Some(inode), None),
                    false => (class, Some(inode), Some(numbers(name)[0] + block - first)),
                };
                self.blocks.entry(block).or_insert(what);
            }
        }
    }

    fn is_used(&self, stat: &str) -> bool {
        !stat.contains("Links: 0") || stat.contains("EXTENTS:\n(") || stat.contains("BLOCKS:\n(")
    }

    /// Blocks of an indexed directory that are its index: the tool names their place in the file.
    fn index_blocks(&mut self, image: &str) {
        let dump = tool("debugfs", &["-R", "htree_dump /many", image], "");
        if !dump.contains("Root node dump") {
            return;
        }
        let mut index = vec![0];
        if !dump.contains("Indirect levels: 0") {
            // The entries of the root stand together; then each of them is opened.
            let root = dump.lines().skip_while(|line| !line.starts_with("Entry #")).take_while(|line| !line.is_empty());
            index.extend(root.map(|line| *numbers(line).last().expect("block N")));
        }
        let stat = tool("debugfs", &["-R", "stat /many", image], "");
        let inode = numbers(stat.lines().find(|line| line.starts_with("Inode:")).expect("a head"))[0] as u32;
        for what in self.blocks.values_mut() {
            if what.1 == Some(inode) && what.2.is_some_and(|block| index.contains(&block)) {
                what.0 = Class::DirIndex;
            }
        }
    }
}

/// Whether the flags of a head line have the mark of an inode that holds a value.
fn is_ea_inode(head: &str) -> bool {
    let flags = head.split_once("Flags: 0x").and_then(|(_, flags)| u32::from_str_radix(flags.trim(), 16).ok());
    flags.is_some_and(|flags| flags & 0x20_0000 != 0)
}

/// Every block, as the classifier sees it. Kinds of journal blocks are one class here.
fn classes(classifier: &Classifier, disk: &Vec<u8>) -> BTreeMap<u64, (Class, Option<u32>, Option<u64>)> {
    let block_sectors = classifier.layout.block_sectors();
    let known = classifier.classify(disk, classifier.start / SECTOR, classifier.layout.blocks * block_sectors, None);
    let mut blocks = BTreeMap::new();
    for stretch in known {
        for i in 0..stretch.sectors / block_sectors {
            let block = (stretch.sector - classifier.start / SECTOR) / block_sectors + i;
            let class = if stretch.class.word().starts_with("ext4.journal") { Class::Journal } else { stretch.class };
            blocks.insert(block, (class, stretch.inode, stretch.file_block.map(|first| first + i)));
        }
    }
    blocks
}

fn must_agree(image: &Path, name: &str) -> BTreeMap<&'static str, u64> {
    let told = Told::by_the_tools(image);
    let disk = std::fs::read(image).expect("readable");
    let classifier = Classifier::new(&disk, None).unwrap_or_else(|why| panic!("{name}: {why}"));
    assert_eq!((classifier.layout.blocks, classifier.layout.block_bytes), (told.count, told.block_bytes), "{name}");
    let known = classes(&classifier, &disk);
    let mut seen = BTreeMap::new();
    for block in 0..told.count {
        let (class, inode, file_block) = known[&block];
        *seen.entry(class.word()).or_insert(0) += 1;
        let Some(expected) = told.blocks.get(&block) else {
            assert!(
                matches!(class, Class::Unknown | Class::Other),
                "{name}: block {block} is {class:?} of {inode:?}, and nobody says so"
            );
            continue;
        };
        // Copies of attributes may be shared; whose the block is then is the first one's.
        let inode = if expected.0 == Class::Xattr { expected.1 } else { inode };
        assert_eq!((class, inode, file_block), *expected, "{name}: block {block}");
    }
    seen
}

#[test]
fn every_block_is_what_dumpe2fs_and_debugfs_say_whatever_the_features() {
    let combinations: &[(&str, &[&str], u64)] = &[
        ("4 KiB blocks, as they are made today", &[], 24),
        ("1 KiB blocks, an index of two levels", TWO_LEVELS, 24),
        ("2 KiB blocks, many groups", &["-b", "2048", "-g", "2048"], 24),
        ("no 64bit, no checksums", &["-O", "^64bit,^metadata_csum"], 24),
        ("no flex_bg, sparse_super2", &["-O", "^flex_bg,sparse_super2,^resize_inode", "-b", "1024", "-g", "4096"], 24),
        ("meta_bg", &["-O", "meta_bg,^resize_inode", "-b", "1024", "-g", "2048"], 40),
        ("bigalloc", &["-O", "bigalloc", "-C", "16384"], 24),
        ("bigalloc with 1 KiB blocks", &["-O", "bigalloc", "-b", "1024", "-C", "8192"], 24),
        ("inline_data", &["-O", "inline_data", "-I", "256"], 24),
        ("quota, project, orphan_file or not, ea_inode", &["-O", "quota,project,ea_inode"], 24),
        ("no journal, no index", &["-O", "^has_journal,^dir_index"], 24),
        ("block numbers instead of extents", &["-O", "^extents,^64bit,^flex_bg,^metadata_csum", "-b", "1024"], 24),
        ("fast_commit", &["-O", "fast_commit"], 24),
        ("small inodes", &["-I", "128"], 24),
    ];
    for (name, features, mib) in combinations {
        let (_folder, path) = image(features, *mib);
        let seen = must_agree(&path, name);
        for class in [
            "ext4.superblock",
            "ext4.gdt",
            "ext4.inode_table",
            "ext4.extent_node",
            "ext4.dir",
            "ext4.data",
            "ext4.xattr",
        ] {
            assert!(seen.contains_key(class), "{name}: no block is {class}: {seen:?}");
        }
    }
}

/// The images of one file system before and after debugfs did something to it.
fn changed(image: &Path, commands: &str) -> (Vec<u8>, Vec<u8>) {
    let before = std::fs::read(image).expect("readable");
    tool("debugfs", &["-w", "-f", "/dev/stdin", &image.display().to_string()], commands);
    (before, std::fs::read(image).expect("readable"))
}

/// Writes everything in which two images differ, block by block in this order, and gives what is known then.
fn follow(before: &[u8], after: &[u8], block_bytes: usize, order: impl Fn(&mut Vec<usize>)) -> Classifier {
    let mut disk = before.to_vec();
    let mut classifier = Classifier::new(&disk, None).expect("ext4");
    let differs =
        |i: &usize| before[i * block_bytes..(i + 1) * block_bytes] != after[i * block_bytes..(i + 1) * block_bytes];
    let mut blocks: Vec<usize> = (0..before.len() / block_bytes).filter(differs).collect();
    order(&mut blocks);
    for block in blocks {
        let part = block * block_bytes..(block + 1) * block_bytes;
        let (sector, sectors) = ((part.start as u64) / SECTOR, block_bytes as u64 / SECTOR);
        classifier.arrive(&disk, Touch::Write, (sector, sectors), &mut Bytes(&after[part.clone()]));
        // It is decided, and learned from, before it reaches the disk.
        disk[part.clone()].copy_from_slice(&after[part]);
    }
    classifier
}

const CHANGES: &str = "rm /sub/deep/holes\nwrite /dev/null /sub/new\nfallocate /sub/new 0 600\nmkdir /sub/dir\n\
                       rm /sub/plain\nfallocate /tiny2 0 0\nln /sub/new /sub/dir/again\n";

/// Whatever the order in which the blocks of a change come, what is known afterwards is what a fresh look finds.
#[test]
fn a_change_that_is_followed_is_known_as_if_it_had_been_read() {
    for (features, block_bytes) in [(&["-b", "1024", "-O", "^has_journal"][..], 1024), (&["-O", "^has_journal"], 4096)]
    {
        let (_folder, path) = image(features, 24);
        let commands = CHANGES.replace("fallocate /tiny2 0 0\n", "");
        let (before, after) = changed(&path, &commands);
        let fresh = Classifier::new(&after, None).expect("ext4");
        let expected = classes(&fresh, &after);
        assert_ne!(expected, classes(&Classifier::new(&before, None).expect("ext4"), &before));
        let orders: [fn(&mut Vec<usize>); 3] =
            [|_| {}, |blocks| blocks.reverse(), |blocks| blocks.sort_by_key(|b| b * 7919 % 1009)];
        for order in orders {
            let followed = follow(&before, &after, block_bytes, order);
            let known = classes(&followed, &after);
            let differ: Vec<_> = expected.iter().filter(|(block, what)| known[block] != **what).take(5).collect();
            assert!(
                differ.is_empty(),
                "{differ:?}, known as {:?}",
                differ.iter().map(|(b, _)| known[b]).collect::<Vec<_>>()
            );
        }
    }
}

/// What a transaction brings is known with its commit record, and not before; and a mount would find the same in the log.
#[test]
fn a_committed_transaction_counts_before_its_blocks_are_in_their_places() {
    for (features, block_bytes, open) in [
        (&["-b", "1024"][..], 1024, "jo -c"),
        (&["-O", "64bit"], 4096, "jo -c"),
        (&["-O", "^64bit,^metadata_csum"], 4096, "jo"),
    ] {
        let (folder, path) = image(features, 24);
        let bare = folder.path().join("bare.img");
        std::fs::copy(&path, &bare).expect("copied");
        let (before, after) =
            changed(&bare, "rm /sub/deep/holes\nwrite /dev/null /sub/new\nfallocate /sub/new 0 500\n");
        let differs =
            |i: &usize| before[i * block_bytes..(i + 1) * block_bytes] != after[i * block_bytes..(i + 1) * block_bytes];
        let blocks: Vec<usize> = (1..before.len() / block_bytes).filter(differs).collect();
        let content: Vec<u8> =
            blocks.iter().flat_map(|i| after[i * block_bytes..(i + 1) * block_bytes].to_vec()).collect();
        let file = folder.path().join("blocks");
        std::fs::write(&file, content).expect("written");
        let numbers: Vec<String> = blocks.iter().map(usize::to_string).collect();
        let commands = format!("{open}\njw -b {} {}\njc\n", numbers.join(","), file.display());
        let (before, logged) = changed(&path, &commands);
        let expected = classes(&Classifier::new(&after, None).expect("ext4"), &after);
        let old = classes(&Classifier::new(&before, None).expect("ext4"), &before);
        assert_ne!(expected, old);
        // A mount finds it.
        let found = Classifier::new(&logged, None).expect("ext4");
        let known = classes(&found, &logged);
        let differ: Vec<_> = expected.iter().filter(|(block, what)| known[block] != **what).take(5).collect();
        assert!(
            differ.is_empty(),
            "{features:?}: the log is not what the change is: {differ:?}, known as {:?}",
            differ.iter().map(|(b, _)| known[b]).collect::<Vec<_>>()
        );
        assert_eq!(found.inodes.len(), Classifier::new(&after, None).expect("ext4").inodes.len());
        // And who watches sees it with the commit record, which is the last block of the log.
        let log_order = |blocks: &mut Vec<usize>| {
            let classifier = Classifier::new(&before, None).expect("ext4");
            let index = |block: &usize| match classifier.owners.at(*block as u64, 1).0 {
                run if run.role == Role::Journal => run.file_block.unwrap_or(0) + 1,
                _ => 0,
            };
            blocks.sort_by_key(index);
        };
        let all = follow(&before, &logged, block_bytes, log_order);
        assert!(classes(&all, &logged) == expected, "{features:?}: what was followed is not what the change is");
        let without_commit = follow(&before, &logged, block_bytes, |blocks| {
            log_order(blocks);
            blocks.pop();
        });
        assert!(classes(&without_commit, &before) == old, "{features:?}: known before it was committed");
    }
}

#[test]
fn a_path_leads_to_what_the_directories_say_and_moves_with_them() {
    for features in [&["-b", "1024"][..], &["-O", "inline_data"]] {
        let (_folder, path) = image(features, 24);
        let number = |path: &Path, name: &str| {
            let stat = tool("debugfs", &["-R", &format!("stat {name}"), &path.display().to_string()], "");
            numbers(stat.lines().find(|line| line.starts_with("Inode:")).expect("a head"))[0] as u32
        };
        let disk = std::fs::read(&path).expect("readable");
        let mut classifier = Classifier::new(&disk, None).expect("ext4");
        let many = "/many/a-rather-long-name-so-that-few-fit-into-a-block-00077";
        for name in ["/", "/tiny", "/sub/plain", "/sub/deep/holes", many] {
            assert_eq!(classifier.watch(&disk, name), Some(number(&path, name)), "{name} {features:?}");
        }
        for name in ["/no", "/sub/no/more", "/tiny/file", "/short/x"] {
            assert_eq!(classifier.watch(&disk, name), None, "{name}");
        }
        assert_eq!(classifier.take_news(), []);
        let block_bytes = classifier.layout.block_bytes as usize;
        let (mut disk, after) = changed(&path, "ln /sub/plain /sub/no\nunlink /sub/plain\nmkdir /no\n");
        for block in 0..disk.len() / block_bytes {
            let part = block * block_bytes..(block + 1) * block_bytes;
            if disk[part.clone()] != after[part.clone()] {
                let place = (part.start as u64 / SECTOR, block_bytes as u64 / SECTOR);
                classifier.arrive(&disk, Touch::Write, place, &mut Bytes(&after[part.clone()]));
                disk[part.clone()].copy_from_slice(&after[part]);
            }
        }
        let news: BTreeMap<String, Option<u32>> = classifier.take_news().into_iter().collect();
        let expected = [("/no".to_string(), Some(number(&path, "/no"))), ("/sub/plain".to_string(), None)];
        assert_eq!(news, expected.into());
    }
}

fn small_image() -> &'static [u8] {
    static IMAGE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    IMAGE.get_or_init(|| {
        let (_folder, path) = image(&["-b", "1024"], 12);
        std::fs::read(path).expect("readable")
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..Default::default() })]

    /// Any bytes of what is read may be anything: it ends, and says something of every sector.
    #[test]
    fn a_damaged_image_ends_in_an_error_or_in_classes_and_never_in_a_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<[u8; 4]>(), 0..4u8), 1..24),
        journaled in any::<bool>(),
    ) {
        let mut disk = small_image().to_vec();
        let classifier = Classifier::new(&disk, None).expect("ext4");
        // Where it hurts: superblock, descriptors, the first inodes, nodes, directories, the log.
        let mut places: Vec<usize> = vec![1, 2];
        let wanted = [Class::ExtentNode, Class::Dir, Class::DirIndex, Class::InodeTable, Class::JournalSuperblock];
        let known = classifier.classify(&disk, 0, disk.len() as u64 / SECTOR, None);
        let blocks = known.iter().filter(|stretch| wanted.contains(&stretch.class));
        places.extend(blocks.flat_map(|stretch| (stretch.sector / 2..(stretch.sector + stretch.sectors) / 2).map(|b| b as usize)));
        let mut live = classifier;
        for (place, bytes, how) in damage {
            // Half of the time in the front of the block, where the headers are.
            let within = if how < 2 { usize::from(bytes[3]) % 64 } else { place.index(1020) };
            let at = places[place.index(places.len())] * 1024 + within.min(1020);
            let mut content = disk[at / 1024 * 1024..at / 1024 * 1024 + 1024].to_vec();
            let value = [bytes, [0xff; 4], [0; 4], [bytes[0], 0, 0, 0]][usize::from(how)];
            content[at % 1024..at % 1024 + 4].copy_from_slice(&value);
            live.arrive(&disk, Touch::Write, (at as u64 / 1024 * 2, 2), &mut Bytes(&content));
            disk[at / 1024 * 1024..at / 1024 * 1024 + 1024].copy_from_slice(&content);
        }
        if journaled {
            // A log that says it must be replayed, from wherever.
            let log = known.iter().find(|stretch| stretch.class == Class::JournalSuperblock).expect("a journal");
            let at = log.sector as usize * 512;
            disk[at + 28..at + 32].copy_from_slice(&1u32.to_be_bytes());
        }
        let fresh = Classifier::new(&disk, None);
        for classifier in [Ok(live), fresh].into_iter().flatten() {
            let known = classifier.classify(&disk, 0, disk.len() as u64 / SECTOR, None);
            prop_assert_eq!(known.iter().map(|stretch| stretch.sectors).sum::<u64>(), disk.len() as u64 / SECTOR);
        }
    }
}

/// A disk of 16 MiB with these contents at these sectors.
fn disk_of(parts: &[(usize, &[u8])]) -> Vec<u8> {
    let mut disk = vec![0; 16 << 20];
    for (sector, content) in parts {
        disk[sector * 512..sector * 512 + content.len()].copy_from_slice(content);
    }
    disk
}

/// Writes a table with partitions from, sectors, type.
fn mbr(disk: &mut [u8], at: usize, entries: &[(u32, u32, u8)]) {
    for (i, (start, sectors, kind)) in entries.iter().enumerate() {
        let entry = at * 512 + 446 + 16 * i;
        disk[entry + 4] = *kind;
        disk[entry + 8..entry + 12].copy_from_slice(&start.to_le_bytes());
        disk[entry + 12..entry + 16].copy_from_slice(&sectors.to_le_bytes());
    }
    disk[at * 512 + 510..at * 512 + 512].copy_from_slice(&[0x55, 0xaa]);
}

fn gpt(disk: &mut [u8], sector_bytes: usize, entries: &[(u64, u64)]) {
    mbr(disk, 0, &[(1, u32::MAX, 0xee)]);
    let header = sector_bytes;
    disk[header..header + 8].copy_from_slice(b"EFI PART");
    disk[header + 72..header + 80].copy_from_slice(&2u64.to_le_bytes());
    disk[header + 80..header + 84].copy_from_slice(&128u32.to_le_bytes());
    disk[header + 84..header + 88].copy_from_slice(&128u32.to_le_bytes());
    for (i, (first, last)) in entries.iter().enumerate() {
        let entry = 2 * sector_bytes + 128 * i;
        disk[entry..entry + 16].fill(7);
        disk[entry + 32..entry + 40].copy_from_slice(&first.to_le_bytes());
        disk[entry + 40..entry + 48].copy_from_slice(&last.to_le_bytes());
    }
}

#[test]
fn the_file_system_is_found_on_the_disk_or_in_its_partition_and_else_it_is_said_what_is_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fs");
    File::create(&path).and_then(|file| file.set_len(4 * MIB)).expect("an image");
    tool("mke2fs", &["-q", "-F", "-t", "ext4", "-b", "1024", &path.display().to_string()], "");
    let ext4 = std::fs::read(&path).expect("readable");
    let start = |disk: &Vec<u8>, wanted| Classifier::new(disk, wanted).map(|classifier| classifier.start / SECTOR);
    let why = |disk: &Vec<u8>, wanted| Classifier::new(disk, wanted).err().expect("refused").to_string();

    assert_eq!(start(&disk_of(&[(0, &ext4)]), None), Ok(0));
    let mut in_mbr = disk_of(&[(63, &ext4)]);
    mbr(&mut in_mbr, 0, &[(63, 8192, 0x83)]);
    assert_eq!((start(&in_mbr, None), start(&in_mbr, Some(1))), (Ok(63), Ok(63)));
    assert_eq!(why(&in_mbr, Some(2)), "there is no partition 2; there are 1");
    let mut logical = disk_of(&[(2048, b"XFSB"), (6063, &ext4)]);
    mbr(&mut logical, 0, &[(2048, 2048, 0x83), (6000, 20000, 0x05)]);
    mbr(&mut logical, 6000, &[(63, 8192, 0x83)]);
    assert_eq!((start(&logical, None), start(&logical, Some(5))), (Ok(6063), Ok(6063)));
    assert_eq!(why(&logical, Some(1)), "partition 1 holds XFS, which is not ext4");
    let mut ring = disk_of(&[]);
    mbr(&mut ring, 0, &[(6000, 20000, 0x05)]);
    mbr(&mut ring, 6000, &[(63, 8, 0x83), (100, 100, 0x05)]);
    mbr(&mut ring, 6100, &[(63, 8, 0x83), (100, 100, 0x05)]);
    assert!(why(&ring, None).starts_with("none of its partitions is ext4"));

    for (sector_bytes, first, second) in [(512, 80, 9000), (4096, 80, 1200)] {
        let per = sector_bytes / 512;
        let last = |first: u64| first + 8192 / per as u64 - 1;
        let mut two = disk_of(&[(first as usize * per, &ext4), (second as usize * per, &ext4)]);
        gpt(&mut two, sector_bytes, &[(first, last(first)), (second, last(second))]);
        assert_eq!(start(&two, Some(2)), Ok(second * per as u64));
        assert_eq!(why(&two, None), "partitions 1, 2 are ext4; say which: \"filesystem\": {\"partition\": 1}");
    }
    for (sector, mark, name) in
        [(0, &b"LUKS\xba\xbe"[..], "LUKS"), (1, b"LABELONE", "LVM"), (8, b"\xfc\x4e\x2b\xa9", "md array")]
    {
        let why = why(&disk_of(&[(sector, mark)]), None);
        assert!(why.contains(name), "{why}");
    }
    assert_eq!(why(&vec![7; 1 << 20], None), "the disk holds no file system that is known here");
    assert_eq!(why(&vec![], None), "the disk holds no file system that is known here");
    assert_eq!(why(&disk_of(&[]), Some(1)), "the disk has no partitions");
    let mut cut = ext4.clone();
    cut.truncate(2 << 20);
    assert!(why(&cut, None).contains("it was cut off"));
}

#[test]
fn a_journal_on_another_device_is_refused_in_one_sentence() {
    let folder = tempfile::tempdir().expect("a folder");
    let [log, path] = ["log", "fs"].map(|name| folder.path().join(name));
    for file in [&log, &path] {
        File::create(file).and_then(|file| file.set_len(8 * MIB)).expect("an image");
    }
    let [log_name, name] = [&log, &path].map(|path| path.display().to_string());
    tool("mke2fs", &["-q", "-F", "-b", "1024", "-O", "journal_dev", &log_name], "");
    let of_log = Classifier::new(&std::fs::read(&log).expect("readable"), None).err().expect("refused");
    assert_eq!(of_log.to_string(), "it is the journal device of an ext4 elsewhere");
    // mke2fs takes a device only; the two fields of the superblock are all that says so.
    tool("mke2fs", &["-q", "-F", "-b", "1024", "-t", "ext4", &name], "");
    let mut disk = std::fs::read(&path).expect("readable");
    disk[1024 + 0xe0..1024 + 0xe4].fill(0);
    disk[1024 + 0xe4..1024 + 0xe8].copy_from_slice(&0x801u32.to_le_bytes());
    let why = Classifier::new(&disk, None).err().expect("refused").to_string();
    assert!(why.contains("keeps its journal on another device"), "{why}");
}

/// As the kernel lays a fast commit out: a range added to a file, one taken from another, padding.
#[test]
fn a_fast_commit_says_which_blocks_a_file_got_and_lost() {
    let (_folder, path) = image(&["-O", "fast_commit"], 24);
    let disk = std::fs::read(&path).expect("readable");
    let mut classifier = Classifier::new(&disk, None).expect("ext4");
    let journal = classifier.journal.as_mut().expect("a journal");
    // The kernel reserves the area when it first mounts the file system.
    journal.end -= 8;
    let fast = journal.end + 1;
    let block = classifier.inodes[&8].block_of(fast.into()).expect("in the log");
    let whose = |classifier: &Classifier, block: u64| {
        let stretch = classifier.classify(&disk, block * 8, 8, None)[0];
        (stretch.class, stretch.inode, stretch.file_block)
    };
    let file = classifier.watch(&disk, "/sub/plain").expect("a file");
    let old = classifier.inodes[&file].block_of(3).expect("its fourth block");
    let free =
        (0..classifier.layout.blocks).rev().find(|block| whose(&classifier, *block).0 == Class::Unknown).expect("room");
    let mut content = vec![0; 4096];
    let mut tags =
        [&[1u8, 0, 16, 0][..], &500u32.to_le_bytes(), &7u32.to_le_bytes(), &[1, 0, 0, 0], &(free as u32).to_le_bytes()]
            .concat();
    tags.extend([&[2u8, 0, 12, 0][..], &file.to_le_bytes(), &3u32.to_le_bytes(), &1u32.to_le_bytes()].concat());
    content[..tags.len()].copy_from_slice(&tags);
    let known = classifier.arrive(&disk, Touch::Write, (block * 8, 8), &mut Bytes(&content));
    assert_eq!(known[0].class, Class::Journal);
    assert_eq!(whose(&classifier, free), (Class::Data, Some(500), Some(7)));
    assert_eq!(whose(&classifier, old).0, Class::Unknown);
    assert_eq!(whose(&classifier, old - 1), (Class::Data, Some(file), Some(2)));
}
