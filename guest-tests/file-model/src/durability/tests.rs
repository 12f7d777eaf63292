//! Small workloads and what may be left of them.

use super::*;
use crate::testing::{bytes, create, fsync, ops, two, write};

const SYNC: Rules = Rules { sync_promises: true, past_may_show: false };

/// Everything had returned, nothing more had begun.
fn whole(lines: &[String]) -> Expected {
    at(lines, lines.len() as u32, lines.len() as u32)
}

fn at(lines: &[String], returned: u32, begun: u32) -> Expected {
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    Expected::at(&ops(&lines), Reach { returned, begun }, SYNC)
}

fn tree(files: &[(&str, &[u8])]) -> Tree {
    Tree(files.iter().map(|(path, data)| ((*path).to_owned(), Node::File((*data).into()))).collect())
}

fn broken(expected: &Expected, files: &[(&str, &[u8])]) -> Vec<String> {
    expected.judge(&tree(files)).broken.into_iter().map(|broken| broken.what).collect()
}

fn good(expected: &Expected, files: &[(&str, &[u8])]) {
    assert_eq!(broken(expected, files), [""; 0]);
}

fn bad(expected: &Expected, files: &[(&str, &[u8])], says: &str) {
    let said = broken(expected, files);
    assert!(said.iter().any(|what| what.contains(says)), "{said:?} does not say {says:?}");
}

#[test]
fn what_was_fsynced_must_be_there_and_nothing_else_will_do() {
    let expected = whole(&[create("f"), write("f", 0, 4096, "a"), fsync("f")]);
    let a = bytes("a", 0, 4096);
    good(&expected, &[("f", &a)]);
    assert_eq!(expected.judge(&tree(&[("f", &a)])).promised_bytes, 4096);
    bad(&expected, &[], "f is missing, and its name was fsynced");
    bad(&expected, &[("f", &[])], "0 bytes long, expected was 4096");
    bad(&expected, &[("f", &[0; 4096])], r#"bytes 0..4096 of f hold neither the pattern "a", which was fsynced"#);
    let mut torn = a.clone();
    torn[1024..1536].fill(0);
    bad(&expected, &[("f", &torn)], "bytes 1024..1536 of f");
    torn = a;
    torn[4095] ^= 1;
    bad(&expected, &[("f", &torn)], "bytes 3584..4096 of f");
}

#[test]
fn an_fsync_that_had_not_surely_returned_promises_nothing() {
    let lines = [create("f"), write("f", 0, 4096, "a"), fsync("f")];
    let expected = at(&lines, 2, 3);
    for found in [vec![], vec![0; 4096], bytes("a", 0, 4096)] {
        good(&expected, &[("f", &found)]);
    }
    good(&expected, &[]);
}

#[test]
fn without_a_promise_a_file_may_be_gone_short_or_zero_but_never_hold_what_nobody_wrote() {
    let expected = whole(&[create("f"), write("f", 0, 4096, "a")]);
    good(&expected, &[]);
    good(&expected, &[("f", &[])]);
    good(&expected, &[("f", &[0; 4096])]);
    good(&expected, &[("f", &bytes("a", 0, 1024))]);
    bad(&expected, &[("f", &[7; 4096])], "what nobody has written there");
    bad(&expected, &[("f", &bytes("b", 0, 4096))], "what nobody has written there");
    bad(&expected, &[("f", &bytes("a", 512, 4096))], "what nobody has written there");
    bad(&expected, &[("f", &[0; 8192])], "8192 bytes long, expected was 0 to 4096");
}

#[test]
fn a_later_write_may_be_there_for_each_sector_on_its_own_and_what_it_replaced_before_the_fsync_may_not() {
    let lines = [
        create("f"),
        write("f", 0, 2048, "oldest"),
        write("f", 0, 2048, "old"),
        fsync("f"),
        write("f", 512, 1024, "new"),
        write("f", 1024, 512, "newer"),
    ];
    let expected = whole(&lines);
    let (old, new, newer) = (bytes("old", 0, 2048), bytes("new", 0, 2048), bytes("newer", 0, 2048));
    for (second, third) in [(&old, &old), (&new, &old), (&old, &new), (&new, &newer)] {
        let found = [&old[..512], &second[512..1024], &third[1024..1536], &old[1536..]].concat();
        good(&expected, &[("f", &found)]);
    }
    let wrong = [&old[..512], &newer[512..1024], &old[1024..]].concat();
    bad(&expected, &[("f", &wrong)], "bytes 512..1024");
    let oldest = bytes("oldest", 0, 2048);
    bad(&expected, &[("f", &oldest)], "bytes 0..2048");
    bad(&expected, &[("f", &[0; 2048])], "nor anything newer");
}

#[test]
fn a_write_that_began_after_the_cut_may_not_be_there() {
    let lines = [create("f"), write("f", 0, 512, "a"), fsync("f"), write("f", 0, 512, "b")];
    let a_only = at(&lines, 3, 3);
    bad(&a_only, &[("f", &bytes("b", 0, 512))], "nor anything newer");
    good(&at(&lines, 3, 4), &[("f", &bytes("b", 0, 512))]);
}

#[test]
fn a_truncate_or_a_hole_that_was_not_fsynced_may_be_there_or_not() {
    let truncate = r#"{"op":"truncate","path":"f","len":512}"#.to_owned();
    let punch = r#"{"op":"punch","path":"f","offset":0,"len":512}"#.to_owned();
    let start = [create("f"), write("f", 0, 1024, "a"), fsync("f")];
    let a = bytes("a", 0, 1024);
    let cut = whole(&[&start[..], std::slice::from_ref(&truncate)].concat());
    good(&cut, &[("f", &a)]);
    good(&cut, &[("f", &a[..512])]);
    bad(&cut, &[("f", &a[..511])], "511 bytes long, expected was 512 to 1024");
    let kept = whole(&[&start[..], &[truncate, fsync("f")]].concat());
    good(&kept, &[("f", &a[..512])]);
    bad(&kept, &[("f", &a)], "1024 bytes long, expected was 512");
    let holed = whole(&[&start[..], &[punch]].concat());
    let hole = [&[0; 512], &a[512..]].concat();
    good(&holed, &[("f", &a)]);
    good(&holed, &[("f", &hole)]);
    bad(&holed, &[("f", &[0; 1024])], "bytes 512..1024");
}

#[test]
fn behind_a_truncate_that_was_taken_back_are_zeros() {
    let truncate = |len: u64| format!(r#"{{"op":"truncate","path":"f","len":{len}}}"#);
    let lines = [create("f"), write("f", 0, 1024, "a"), truncate(512), truncate(1024), fsync("f")];
    let expected = whole(&lines);
    let a = bytes("a", 0, 1024);
    good(&expected, &[("f", &[&a[..512], &[0; 512]].concat())]);
    bad(&expected, &[("f", &a)], "bytes 512..1024 of f hold neither zeros");
}

#[test]
fn space_that_was_allocated_reads_as_zeros_and_only_with_a_size_makes_the_file_longer() {
    let fallocate = |keep: bool| format!(r#"{{"op":"fallocate","path":"f","offset":0,"len":4096,"keep_size":{keep}}}"#);
    let long = whole(&[create("f"), fallocate(false), fsync("f")]);
    good(&long, &[("f", &[0; 4096])]);
    bad(&long, &[("f", &[])], "0 bytes long");
    bad(&long, &[("f", &[5; 4096])], "what nobody has written there");
    let kept = whole(&[create("f"), fallocate(true), fsync("f")]);
    good(&kept, &[("f", &[])]);
    bad(&kept, &[("f", &[0; 4096])], "4096 bytes long");
}

#[test]
fn a_write_that_failed_promises_nothing_also_not_by_an_fsync_that_returns_0() {
    let failed = format!("{} ! EIO", write("f", 0, 512, "b"));
    let expected = whole(&[create("f"), write("f", 0, 1024, "a"), fsync("f"), failed, fsync("f")]);
    let a = bytes("a", 0, 1024);
    good(&expected, &[("f", &[&[9; 512], &a[512..]].concat())]);
    bad(&expected, &[("f", &[9; 1024])], "bytes 512..1024");
}

#[test]
fn after_an_fsync_that_failed_what_it_was_for_is_not_promised_by_the_next() {
    let failed = format!("{} ! EIO", fsync("f"));
    let lines = [create("f"), write("f", 0, 512, "a"), fsync("f"), write("f", 512, 512, "b"), failed, fsync("f")];
    let expected = whole(&lines);
    let a = bytes("a", 0, 512);
    good(&expected, &[("f", &a)]);
    good(&expected, &[("f", &[&a[..], &[3; 512]].concat())]);
    bad(&expected, &[("f", &[3; 1024])], "bytes 0..512");
}

#[test]
fn an_operation_that_never_came_back_may_have_done_all_a_part_or_nothing() {
    let lines = [create("f"), write("f", 0, 512, "a"), fsync("f"), format!("{} ?", write("f", 0, 1024, "b"))];
    let expected = whole(&lines);
    let (a, b) = (bytes("a", 0, 512), bytes("b", 0, 1024));
    good(&expected, &[("f", &a)]);
    good(&expected, &[("f", &b)]);
    good(&expected, &[("f", &[&a[..], &b[512..]].concat())]);
    bad(&expected, &[("f", &b[..511])], "511 bytes long");
}

#[test]
fn the_names_are_those_of_one_moment_that_no_promise_forbids() {
    let lines = [create("a"), create("b"), fsync("a"), create("c"), two("rename", "c", "d")];
    let expected = whole(&lines);
    good(&expected, &[("a", &[]), ("b", &[])]);
    good(&expected, &[("a", &[])]);
    good(&expected, &[("a", &[]), ("b", &[]), ("d", &[])]);
    bad(&expected, &[], "a is missing, and its name was fsynced");
    bad(&expected, &[("a", &[]), ("c", &[])], "c is there, though");
    bad(&expected, &[("a", &[]), ("b", &[]), ("c", &[]), ("d", &[])], "is there, though its name was not");
    bad(&expected, &[("a", &[]), ("b", &[]), ("x", &[])], "x is there");
}

#[test]
fn a_file_that_was_fsynced_and_renamed_has_one_of_its_names_always() {
    let lines = [create("a"), write("a", 0, 512, "x"), fsync("a"), two("rename", "a", "b")];
    let (expected, x) = (whole(&lines), bytes("x", 0, 512));
    good(&expected, &[("a", &x)]);
    good(&expected, &[("b", &x)]);
    bad(&expected, &[], "is missing");
    bad(&expected, &[("a", &x), ("b", &x)], "is there, though");
}

#[test]
fn a_file_put_in_the_place_of_another_is_there_whole_or_the_other_still_is() {
    let lines = [
        create("a"),
        write("a", 0, 512, "old"),
        fsync("a"),
        create("new"),
        write("new", 0, 1024, "new"),
        fsync("new"),
        two("rename", "new", "a"),
    ];
    let (old, new) = (bytes("old", 0, 512), bytes("new", 0, 1024));
    let expected = whole(&lines);
    good(&expected, &[("a", &old), ("new", &new)]);
    good(&expected, &[("a", &new)]);
    bad(&expected, &[("a", &old)], "512 bytes long, expected was 1024");
    bad(&expected, &[("a", &new[..512])], "512 bytes long, expected was 1024");
    let synced = whole(&[&lines[..], &[fsync("a")]].concat());
    good(&synced, &[("a", &new)]);
    bad(&synced, &[("a", &old), ("new", &new)], "new is there");
}

#[test]
fn an_fsync_of_a_folder_keeps_what_was_made_and_removed_in_it_and_a_fdatasync_only_that_a_file_is_there() {
    let mkdir = r#"{"op":"mkdir","path":"d"}"#.to_owned();
    let unlink = r#"{"op":"unlink","path":"d/a"}"#.to_owned();
    let lines = [mkdir, create("d/a"), create("d/b"), unlink, fsync("d")];
    let expected = whole(&lines);
    let found = |names: &[&str]| {
        let mut tree = tree(&names.iter().map(|name| (*name, &[][..])).collect::<Vec<_>>());
        tree.0.insert("d".into(), Node::Folder);
        expected.judge(&tree).broken.len()
    };
    assert_eq!((found(&["d/b"]), found(&["d/a", "d/b"]), found(&["d/a"])), (0, 1, 2));
    let fdatasync = r#"{"op":"fdatasync","path":"b"}"#.to_owned();
    let renamed = whole(&[create("a"), two("rename", "a", "b"), fdatasync]);
    good(&renamed, &[("a", &[])]);
    good(&renamed, &[("b", &[])]);
    bad(&renamed, &[], "is missing");
}

#[test]
fn the_root_is_a_folder_like_any_other() {
    let expected = whole(&[create("a"), fsync("."), create("b")]);
    good(&expected, &[("a", &[])]);
    bad(&expected, &[], "a is missing");
}

#[test]
fn a_folder_that_is_renamed_takes_along_what_it_holds() {
    let mkdir = r#"{"op":"mkdir","path":"d"}"#.to_owned();
    let expected = whole(&[mkdir, create("d/f"), create("dx"), two("rename", "d", "e"), fsync("e/f")]);
    let mut found = tree(&[("d/f", &[]), ("dx", &[])]);
    found.0.insert("d".into(), Node::Folder);
    assert_eq!(expected.judge(&found).broken.len(), 0, "the folder's new name is not the file's");
    let mut found = tree(&[("e/f", &[]), ("dx", &[])]);
    found.0.insert("e".into(), Node::Folder);
    assert_eq!(expected.judge(&found).broken.len(), 0);
}

#[test]
fn both_names_of_a_linked_file_hold_what_it_holds() {
    let expected = whole(&[create("a"), write("a", 0, 512, "x"), two("link", "a", "b"), fsync("b")]);
    let x = bytes("x", 0, 512);
    good(&expected, &[("a", &x), ("b", &x)]);
    bad(&expected, &[("a", &x), ("b", &[0; 512])], "bytes 0..512 of b");
    bad(&expected, &[("b", &x)], "a is missing");
}

#[test]
fn sync_is_a_promise_unless_the_disk_refused_something() {
    let lines = [create("a"), write("a", 0, 512, "x"), r#"{"op":"sync"}"#.to_owned()];
    bad(&whole(&lines), &[], "a is missing");
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let refused = Rules { sync_promises: false, ..SYNC };
    let expected = Expected::at(&ops(&lines), Reach { returned: 3, begun: 3 }, refused);
    good(&expected, &[]);
}

#[test]
fn msync_promises_the_bytes_of_the_mapping_and_no_others() {
    let mapped = r#"{"op":"mmap_write","path":"f","offset":512,"len":512,"pattern":"m","msync":true}"#.to_owned();
    let lines = [create("f"), write("f", 0, 2048, "a"), fsync("f"), write("f", 0, 512, "b"), mapped];
    let expected = whole(&lines);
    let (a, b, m) = (bytes("a", 0, 2048), bytes("b", 0, 512), bytes("m", 0, 2048));
    let found = |first: &[u8], second: &[u8]| [&first[..512], &second[512..1024], &a[1024..]].concat();
    good(&expected, &[("f", &found(&a, &m))]);
    good(&expected, &[("f", &found(&b, &m))]);
    bad(&expected, &[("f", &found(&b, &a))], "bytes 512..1024");
}

#[test]
fn a_change_of_names_that_failed_half_way_makes_names_unsure_and_contents_not() {
    let failed = format!("{} ! EIO", two("rename", "a", "b"));
    let expected = whole(&[create("a"), write("a", 0, 512, "x"), fsync("a"), failed]);
    let x = bytes("x", 0, 512);
    good(&expected, &[("b", &x)]);
    bad(&expected, &[("a", &[1; 512]), ("b", &x)], "bytes 0..512 of a");
    let refused = format!("{} ! ENOENT", two("rename", "a", "b"));
    let expected = whole(&[create("a"), fsync("a"), refused]);
    bad(&expected, &[("b", &[])], "a is missing");
}

#[test]
fn only_where_the_mount_allows_it_may_the_past_show_in_what_nobody_promised() {
    let lines = [create("f"), write("f", 0, 512, "a"), fsync("f"), write("f", 512, 512, "b")];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let rules = Rules { past_may_show: true, ..SYNC };
    let expected = Expected::at(&ops(&lines), Reach { returned: 4, begun: 4 }, rules);
    good(&expected, &[("f", &[bytes("a", 0, 512), vec![7; 512]].concat())]);
    bad(&expected, &[("f", &[7; 1024])], "bytes 0..512");
}

#[test]
fn a_remount_keeps_everything() {
    let expected = whole(&[create("f"), write("f", 0, 512, "a"), r#"{"op":"remount"}"#.to_owned(), create("g")]);
    good(&expected, &[("f", &bytes("a", 0, 512))]);
    good(&expected, &[("f", &bytes("a", 0, 512)), ("g", &[])]);
    bad(&expected, &[], "f is missing");
    bad(&expected, &[("f", &[])], "0 bytes long");
}

mod against_a_disk_that_keeps_everything {
    use super::*;
    use proptest::prelude::*;

    /// The dumbest file system there is: each operation is on the disk at once. Its state after any number of operations
    /// between `returned` and `begun` must be allowed; and with any promised byte changed it must not be.
    #[derive(Default)]
    struct Dumb(BTreeMap<String, Vec<u8>>);

    impl Dumb {
        fn apply(&mut self, step: (u8, u8, u8, u8)) -> Option<String> {
            let (what, file, place, len) = step;
            let path = format!("f{}", file % 3);
            let (offset, len) = (u64::from(place % 6) * 256, (u64::from(len % 4) + 1) * 256);
            let end = (offset + len) as usize;
            if !self.0.contains_key(&path) {
                self.0.insert(path.clone(), Vec::new());
                return Some(create(&path));
            }
            let data = self.0.get_mut(&path)?;
            match what % 7 {
                0 | 1 => {
                    let pattern = format!("p{place}{len}");
                    data.resize(data.len().max(end), 0);
                    data[offset as usize..end].copy_from_slice(&bytes(&pattern, offset, len as usize));
                    Some(write(&path, offset, len, &pattern))
                }
                2 => {
                    data.resize(offset as usize, 0);
                    Some(format!(r#"{{"op":"truncate","path":"{path}","len":{offset}}}"#))
                }
                3 => {
                    let end = end.min(data.len());
                    data[end.min(offset as usize)..end].fill(0);
                    Some(format!(r#"{{"op":"punch","path":"{path}","offset":{offset},"len":{len}}}"#))
                }
                4 => {
                    let to = format!("f{}", (file + 1 + place % 2) % 3);
                    let data = self.0.remove(&path)?;
                    self.0.insert(to.clone(), data);
                    Some(two("rename", &path, &to))
                }
                5 => {
                    self.0.remove(&path);
                    Some(format!(r#"{{"op":"unlink","path":"{path}"}}"#))
                }
                _ => Some(fsync(&path)),
            }
        }

        fn tree(&self) -> Tree {
            tree(&self.0.iter().map(|(path, data)| (path.as_str(), &data[..])).collect::<Vec<_>>())
        }
    }

    proptest! {
        #[test]
        fn every_moment_of_it_is_allowed(
            steps in prop::collection::vec((0u8..7, 0u8..3, 0u8..6, 0u8..4), 1..40), returned in 0usize..40, more in 0usize..10
        ) {
            let mut disk = Dumb::default();
            let (mut lines, mut trees) = (Vec::new(), vec![disk.tree()]);
            for step in steps {
                lines.extend(disk.apply(step));
                trees.push(disk.tree());
            }
            let returned = returned.min(lines.len());
            let begun = (returned + more).min(lines.len());
            let expected = at(&lines, returned as u32, begun as u32);
            for tree in &trees[returned..=begun] {
                prop_assert_eq!(expected.judge(tree).broken, []);
            }
        }

        #[test]
        fn a_changed_byte_of_what_was_fsynced_last_is_always_noticed(
            steps in prop::collection::vec((0u8..4, 0u8..3, 0u8..6, 0u8..4), 1..30), at_byte in any::<prop::sample::Index>()
        ) {
            let mut disk = Dumb::default();
            let mut lines: Vec<String> = steps.into_iter().filter_map(|step| disk.apply(step)).collect();
            let path = disk.0.keys().next().expect("the first step makes a file").clone();
            lines.push(fsync(&path));
            let data = disk.0.get_mut(&path).expect("it is there");
            prop_assume!(!data.is_empty());
            let place = at_byte.index(data.len());
            data[place] ^= 0x55;
            prop_assert!(!whole(&lines).judge(&disk.tree()).broken.is_empty());
        }
    }
}
