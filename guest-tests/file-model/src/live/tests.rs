//! Small workloads against a file system that never fails, and against what the model must not let pass.

use super::*;
use crate::testing::{bytes, create, fsync, ops, two, write};
use guest_init::job::Op;
use guest_init::pattern::{Pattern, PatternMap};

const FAULTY: Facts = Facts { first_error: Some(0), first_write_error: Some(0), ..NO_FAULTS };
const NO_FAULTS: Facts = Facts {
    block_bytes: 4096,
    cluster_bytes: 4096,
    size_bytes: 64 << 20,
    folio_bytes: 4096,
    direct_bytes: 512,
    extents: true,
    read_only: false,
    ordered_names: true,
    past_may_show: false,
    first_error: None,
    first_write_error: None,
    other_status: false,
    metadata_failed: false,
    disk_lied: false,
};

fn known() -> Vec<Pattern> {
    ["a", "b", "c", "secret"].map(Pattern::new).to_vec()
}

/// A read of `f` that gave these bytes.
fn read(data: &[u8]) -> OpLine {
    let mut line = ops(&[r#"{"op":"read","path":"f"}"#]).remove(0);
    let result = line.result.as_mut().expect("it came back");
    let map = PatternMap::of(data, 0, &known(), 4096);
    result.read = Some(ReadBack { fnv1a64: format!("{:016x}", fnv1a64(data)), map });
    result.returned = data.len() as i64;
    line
}

fn with_read(lines: &[String], data: &[u8]) -> Vec<OpLine> {
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut all = ops(&lines);
    all.push(OpLine { index: all.len() as u32, ..read(data) });
    all
}

fn mapped(data: &[u8], blocks: &[(u64, u64, bool)]) -> Node {
    let runs = PatternMap::of(data, 0, &known(), 4096).runs;
    let fnv1a64 = format!("{:016x}", fnv1a64(data));
    Node::Mapped(Mapped { size: data.len() as u64, fnv1a64, runs, blocks: Some(blocks.to_vec()) })
}

fn tree(files: &[(&str, Node)]) -> Tree {
    Tree(files.iter().map(|(path, node)| ((*path).to_owned(), node.clone())).collect())
}

fn kinds(followed: &Followed) -> Vec<&'static str> {
    let word = |misfit: &Misfit| match misfit.kind {
        MisfitKind::Stale(_) => "stale",
        MisfitKind::Lost(_) => "lost",
        MisfitKind::Corrupt => "corrupt",
        MisfitKind::Contents(_) => "contents",
        MisfitKind::Size { .. } => "size",
        MisfitKind::Result { .. } => "result",
        MisfitKind::NameLost => "name lost",
        MisfitKind::NameWrong(_) => "name wrong",
        MisfitKind::Blocks(_) => "blocks",
    };
    followed.misfits.iter().map(word).collect()
}

fn reads(lines: &[String], data: &[u8], facts: &Facts) -> Vec<&'static str> {
    kinds(&follow(&with_read(lines, data), facts, None))
}

fn ends(lines: &[String], files: &[(&str, Node)], facts: &Facts) -> Vec<&'static str> {
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    kinds(&follow(&ops(&lines), facts, Some(&tree(files))))
}

#[test]
fn without_faults_a_read_gives_the_newest_bytes_and_nothing_else() {
    let lines = [create("f"), write("f", 0, 8192, "a"), fsync("f"), write("f", 100, 50, "b")];
    let data = [&bytes("a", 0, 100)[..], &bytes("b", 100, 50), &bytes("a", 150, 8042)].concat();
    assert_eq!(reads(&lines, &data, &NO_FAULTS), [""; 0]);
    assert_eq!(reads(&lines, &bytes("a", 0, 8192), &NO_FAULTS), ["contents"]);
    assert_eq!(reads(&lines, &data[..8000], &NO_FAULTS), ["size"]);
    let mut wrong = data.clone();
    wrong[120] ^= 1;
    assert_eq!(reads(&lines, &wrong, &NO_FAULTS), ["contents"], "every byte counts, also in a shared sector");
    wrong[5000] ^= 1;
    assert_eq!(reads(&lines, &wrong, &NO_FAULTS), ["corrupt"]);
}

#[test]
fn once_a_write_failed_what_was_not_fsynced_may_be_old_or_zero_and_what_was_fsynced_may_not() {
    let eio = format!("{} ! EIO", fsync("f"));
    let lines = [create("f"), write("f", 0, 4096, "a"), fsync("f"), write("f", 0, 8192, "b"), eio, fsync("f")];
    let (a, b, zeros) = (bytes("a", 0, 4096), bytes("b", 0, 8192), [0; 4096]);
    for good in [[&a[..], &zeros].concat(), b.clone(), [&a[..], &b[4096..]].concat(), [&b[..4096], &zeros].concat()] {
        assert_eq!(reads(&lines, &good, &FAULTY), [""; 0]);
    }
    assert_eq!(reads(&lines, &[&zeros, &b[4096..]].concat(), &FAULTY), ["lost"]);
    let secret = bytes("secret", 4096, 4096);
    assert_eq!(reads(&lines, &[&a[..], &secret].concat(), &FAULTY), ["stale"]);
    let mut past = [0; 4096];
    guest_init::past::fill(1, 77, &mut past);
    assert_eq!(reads(&lines, &[&a[..], &past].concat(), &FAULTY), ["stale"]);
}

#[test]
fn what_unmounting_could_not_write_no_fsync_of_the_new_mount_promises_and_what_was_fsynced_before_stays_promised() {
    let remount = r#"{"op":"remount"}"#.to_owned();
    let lines = [create("f"), write("f", 0, 4096, "a"), fsync("f"), write("f", 0, 4096, "b"), remount, fsync("f")];
    assert_eq!(reads(&lines, &bytes("a", 0, 4096), &FAULTY), [""; 0]);
    assert_eq!(reads(&lines, &[0; 4096], &FAULTY), ["lost"]);
    let again = [&lines[..5], &[write("f", 0, 4096, "c"), fsync("f")]].concat();
    assert_eq!(reads(&again, &bytes("c", 0, 4096), &FAULTY), [""; 0]);
    assert_eq!(reads(&again, &bytes("b", 0, 4096), &FAULTY), ["lost"], "what the new mount wrote it promises");
}

#[test]
fn what_came_back_before_the_first_error_is_held_to_the_letter() {
    let lines = [create("f"), write("f", 0, 4096, "a")];
    let later = Facts { first_error: Some(3), first_write_error: Some(3), ..NO_FAULTS };
    assert_eq!(reads(&lines, &[0; 4096], &later), ["contents"]);
    assert_eq!(reads(&lines, &[0; 4096], &FAULTY), [""; 0]);
}

#[test]
fn a_write_that_the_disk_had_no_room_for_is_there_as_far_as_it_said() {
    let lines = [create("f"), format!("{} ! ENOSPC", write("f", 0, 8192, "a"))];
    let mut all = with_read(&lines, &bytes("a", 0, 4096));
    all[1].result.as_mut().expect("it came back").returned = 4096;
    let full = Facts { size_bytes: 16384, ..NO_FAULTS };
    assert_eq!(kinds(&follow(&all, &full, None)), [""; 0]);
    assert_eq!(kinds(&follow(&all, &NO_FAULTS, None)), ["result"], "64 MiB are not full after 8 KiB");
    let mut nothing = with_read(&lines, &[]);
    nothing[1].result.as_mut().expect("it came back").returned = 4096;
    assert_eq!(kinds(&follow(&nothing, &full, None)), ["size"]);
}

#[test]
fn errors_need_a_reason_and_names_decide_exactly() {
    let said = |line: &str| {
        let lines = [create("f"), r#"{"op":"mkdir","path":"d"}"#.to_owned(), line.to_owned()];
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        kinds(&follow(&ops(&lines), &NO_FAULTS, None))
    };
    let ok = [
        r#"{"op":"create","path":"f"} ! EEXIST"#,
        r#"{"op":"create","path":"d/f/g"} ! ENOENT"#,
        r#"{"op":"create","path":"f/g"} ! ENOTDIR"#,
        r#"{"op":"write","path":"d","len":1,"pattern":"a"} ! EISDIR"#,
        r#"{"op":"read","path":"d"} ! EISDIR"#,
        r#"{"op":"fsync","path":"d"}"#,
        r#"{"op":"fsync","path":"g"} ! ENOENT"#,
        r#"{"op":"unlink","path":"d"} ! EISDIR"#,
        r#"{"op":"link","path":"f","to":"d"} ! EEXIST"#,
        r#"{"op":"link","path":"d","to":"e"} ! EPERM"#,
        r#"{"op":"rename","path":"f","to":"d"} ! EISDIR"#,
        r#"{"op":"rename","path":"d","to":"f"} ! ENOTDIR"#,
        r#"{"op":"rename","path":"d","to":"d/e"} ! EINVAL"#,
        r#"{"op":"rename","path":"f","to":"f"}"#,
        r#"{"op":"fallocate","path":"f","len":0} ! EINVAL"#,
        r#"{"op":"write","path":"f","len":100,"pattern":"a","direct":true} ! EINVAL"#,
        r#"{"op":"mmap_write","path":"f","len":100,"pattern":"a"} ! EFAULT"#,
    ];
    for line in ok {
        assert_eq!(said(line), [""; 0], "{line}");
    }
    let wrong = [
        r#"{"op":"create","path":"f"}"#,
        r#"{"op":"create","path":"g"} ! EEXIST"#,
        r#"{"op":"fsync","path":"f"} ! EIO"#,
        r#"{"op":"fsync","path":"f"} ! EROFS"#,
        r#"{"op":"write","path":"f","len":1,"pattern":"a"} ! ENOSPC"#,
        r#"{"op":"write","path":"f","len":512,"pattern":"a","direct":true} ! EINVAL"#,
        r#"{"op":"write","path":"g","len":1,"pattern":"a"}"#,
        r#"{"op":"unlink","path":"f"} ! ENOENT"#,
        r#"{"op":"fallocate","path":"f","len":4096} ! EOPNOTSUPP"#,
        r#"{"op":"truncate","path":"f","len":4096} ! EFBIG"#,
        r#"{"op":"remount"} ! EBUSY"#,
    ];
    for line in wrong {
        assert_eq!(said(line), ["result"], "{line}");
    }
}

#[test]
fn eio_is_explained_by_an_error_of_the_disk_before_it_and_erofs_by_metadata_that_failed() {
    let lines = [create("f"), format!("{} ! EIO", fsync("f")), format!("{} ! EROFS", create("g"))];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let said = |facts: &Facts| kinds(&follow(&ops(&lines), facts, None)).len();
    assert_eq!(said(&NO_FAULTS), 2);
    assert_eq!(said(&Facts { first_error: Some(2), ..NO_FAULTS }), 2, "it came later");
    assert_eq!(said(&Facts { first_error: Some(1), ..NO_FAULTS }), 1);
    assert_eq!(said(&Facts { first_error: Some(1), metadata_failed: true, ..NO_FAULTS }), 0);
}

#[test]
fn at_the_end_names_sizes_contents_and_blocks_are_held_against_the_model() {
    let fallocate = r#"{"op":"fallocate","path":"f","offset":4096,"len":8192}"#.to_owned();
    let lines = [create("f"), write("f", 0, 4096, "a"), fallocate, create("g")];
    let data = [&bytes("a", 0, 4096)[..], &[0; 8192]].concat();
    let (f, g) = (mapped(&data, &[(0, 1, false), (1, 2, true)]), mapped(&[], &[]));
    assert_eq!(ends(&lines, &[("f", f.clone()), ("g", g.clone())], &NO_FAULTS), [""; 0]);
    assert_eq!(ends(&lines, &[("f", f.clone())], &NO_FAULTS), ["name lost"]);
    assert_eq!(ends(&lines, &[("f", f.clone()), ("g", g.clone()), ("h", g.clone())], &NO_FAULTS), ["name wrong"]);
    assert_eq!(ends(&lines, &[("f", Node::Folder), ("g", g.clone())], &NO_FAULTS), ["name wrong"]);
    for blocks in [&[(0, 1, true), (1, 2, true)][..], &[(0, 1, false)], &[(0, 4, false)], &[(1, 2, true)]] {
        assert_eq!(
            ends(&lines, &[("f", mapped(&data, blocks)), ("g", g.clone())], &NO_FAULTS),
            ["blocks"],
            "{blocks:?}"
        );
    }
    let ends_short = mapped(&data, &[(0, 1, false), (1, 1, true)]);
    assert_eq!(
        ends(&lines, &[("f", ends_short), ("g", g.clone())], &NO_FAULTS),
        ["blocks"],
        "its last block is missing"
    );
    let zeroed_out = mapped(&data, &[(0, 3, false)]);
    assert_eq!(ends(&lines, &[("f", zeroed_out), ("g", g.clone())], &NO_FAULTS), [""; 0]);
    let zeros = mapped(&[0; 12288], &[(0, 3, false)]);
    assert_eq!(ends(&lines, &[("f", zeros.clone()), ("g", g.clone())], &NO_FAULTS), ["contents"]);
    assert_eq!(ends(&lines, &[("f", zeros), ("g", g)], &FAULTY), [""; 0]);
}

#[test]
fn what_was_reserved_behind_the_end_is_given_back_by_a_truncate_unless_it_makes_the_file_longer() {
    let fallocate = r#"{"op":"fallocate","path":"f","offset":0,"len":16384,"keep_size":true}"#.to_owned();
    let truncate = |len: u64| format!(r#"{{"op":"truncate","path":"f","len":{len}}}"#);
    let (all, one) = ([(0, 4, true)], [(0, 1, true)]);
    let longer = [create("f"), fallocate.clone(), truncate(100)];
    assert_eq!(ends(&longer, &[("f", mapped(&[0; 100], &all))], &NO_FAULTS), [""; 0]);
    assert_eq!(ends(&longer, &[("f", mapped(&[0; 100], &[]))], &NO_FAULTS), ["blocks"]);
    let as_long = [create("f"), truncate(100), fallocate, truncate(100)];
    assert_eq!(ends(&as_long, &[("f", mapped(&[0; 100], &one))], &NO_FAULTS), [""; 0]);
    assert_eq!(ends(&as_long, &[("f", mapped(&[0; 100], &all))], &NO_FAULTS), ["blocks"]);
}

#[test]
fn names_are_those_of_some_moment_only_where_metadata_failed() {
    let lines = [create("f"), fsync("f"), create("g"), two("rename", "f", "h")];
    let empty = || mapped(&[], &[]);
    let aborted = Facts { metadata_failed: true, ..FAULTY };
    assert_eq!(ends(&lines, &[("f", empty())], &aborted), [""; 0]);
    assert_eq!(ends(&lines, &[("f", empty())], &FAULTY), ["name lost", "name lost", "name wrong"]);
    assert_eq!(ends(&lines, &[("h", empty())], &aborted), ["name lost"]);
    let unordered = Facts { ordered_names: false, ..aborted };
    assert_eq!(ends(&lines, &[("h", empty())], &unordered), [""; 0]);
}

#[test]
fn behind_an_operation_that_never_came_back_or_a_mount_that_failed_nothing_is_claimed() {
    for line in [r#"{"op":"sync"} ?"#, r#"{"op":"remount"} ! EIO"#] {
        let lines = [create("f"), write("f", 0, 512, "a"), line.to_owned()];
        let mut all = with_read(&lines, &[1; 512]);
        all[2].result = all[2].result.take().filter(|result| result.errno.is_some());
        assert_eq!(kinds(&follow(&all, &FAULTY, Some(&tree(&[])))), [""; 0], "{line}");
    }
}

mod against_a_file_system_that_never_fails {
    use super::*;
    use guest_init::job::{Stride, Write};
    use proptest::prelude::*;

    /// Bytes and blocks, at once on the disk. What it reads and holds at the end the model must allow, and with any byte changed must
    /// not.
    #[derive(Default)]
    struct Plain {
        names: BTreeMap<String, usize>,
        files: Vec<(Vec<u8>, BTreeMap<u64, bool>)>,
        lines: Vec<OpLine>,
    }

    const BLOCK: u64 = 1024;

    impl Plain {
        fn said(&mut self, action: Action, errno: Option<i32>, returned: i64, read: Option<(u64, Vec<u8>)>) {
            let read = read.map(|(offset, data)| {
                let map = PatternMap::of(&data, offset, &known(), BLOCK);
                ReadBack { fnv1a64: format!("{:016x}", fnv1a64(&data)), map }
            });
            let result = OpResult { returned, errno: errno.map(Errno), inode: None, read, elapsed_us: 0 };
            let args = Op { action, errno: None, writer: None };
            self.lines.push(OpLine { index: self.lines.len() as u32, args, result: Some(result) });
        }

        fn step(&mut self, (what, name, other, place, len): (u8, u8, u8, u16, u16)) {
            let path = ["f", "g", "h"][usize::from(name) % 3].to_owned();
            let to = ["f", "g", "h"][usize::from(other) % 3].to_owned();
            let (offset, len) = (u64::from(place) % 9000, u64::from(len) % 5000 + 1);
            if what == 0 {
                let action = Action::Create { path: path.clone() };
                let there = self.names.contains_key(&path);
                if !there {
                    self.files.push(Default::default());
                    self.names.insert(path, self.files.len() - 1);
                }
                return self.said(action, there.then_some(libc::EEXIST), 0, None);
            }
            let action = action(what, path.clone(), to.clone(), offset, len, other);
            let general = matches!(action, Action::Sync {} | Action::Remount {} | Action::DropCaches {});
            let id = match self.names.get(&path) {
                _ if general => 0,
                Some(id) => *id,
                None => return self.said(action, Some(libc::ENOENT), -1, None),
            };
            match &action {
                Action::Write(write) | Action::AioWrite(write) => {
                    for (offset, len) in write.calls() {
                        self.put(id, offset, len, &write.pattern);
                    }
                }
                Action::MmapWrite { offset, len, pattern, .. } => {
                    if self.files[id].0.len() as u64 >= offset + len {
                        self.put(id, *offset, *len, pattern);
                    } else {
                        // What a store behind the end leaves in the last page is for another test.
                        return;
                    }
                }
                Action::Truncate { len, .. } => {
                    self.files[id].0.resize(*len as usize, 0);
                    self.files[id].1.retain(|block, _| *block < len.div_ceil(BLOCK));
                }
                Action::Punch { offset, len, .. } => {
                    let (data, blocks) = &mut self.files[id];
                    let size = data.len() as u64;
                    data[(*offset).min(size) as usize..(offset + len).min(size) as usize].fill(0);
                    let whole = offset.div_ceil(BLOCK)..(offset + len) / BLOCK;
                    blocks.retain(|block, _| !whole.contains(block));
                }
                Action::Fallocate { offset, len, keep_size, .. } => {
                    let (data, blocks) = &mut self.files[id];
                    for block in offset / BLOCK..(offset + len).div_ceil(BLOCK) {
                        blocks.entry(block).or_insert(true);
                    }
                    if !keep_size {
                        data.resize(data.len().max((offset + len) as usize), 0);
                    }
                }
                Action::Rename { .. } if self.names.get(&to) != Some(&id) => {
                    self.names.remove(&path);
                    self.names.insert(to, id);
                }
                Action::Link { .. } => {
                    if self.names.contains_key(&to) {
                        return self.said(action, Some(libc::EEXIST), -1, None);
                    }
                    self.names.insert(to, id);
                }
                Action::Unlink { .. } => {
                    self.names.remove(&path);
                }
                Action::Read { offset, len, .. } => {
                    let (offset, data) = (*offset, &self.files[id].0);
                    let start = (offset as usize).min(data.len());
                    let end = len.map_or(data.len(), |len| (start + len as usize).min(data.len()));
                    let read = data[start..end].to_vec();
                    return self.said(action, None, read.len() as i64, Some((offset, read)));
                }
                _ => {}
            }
            self.said(action, None, 0, None);
        }

        fn put(&mut self, id: usize, offset: u64, len: u64, pattern: &str) {
            let (data, blocks) = &mut self.files[id];
            let end = (offset + len) as usize;
            data.resize(data.len().max(end), 0);
            Pattern::new(pattern).fill(offset, &mut data[offset as usize..end]);
            blocks.extend((offset / BLOCK..(offset + len).div_ceil(BLOCK)).map(|block| (block, false)));
        }

        fn tree(&self) -> Tree {
            let node = |id: &usize| {
                let (data, blocks) = &self.files[*id];
                let blocks: Vec<_> = blocks.iter().map(|(block, unwritten)| (*block, 1, *unwritten)).collect();
                let Node::Mapped(mut node) = mapped(data, &blocks) else { unreachable!("it is made as such") };
                node.runs = PatternMap::of(data, 0, &known(), BLOCK).runs;
                Node::Mapped(node)
            };
            Tree(self.names.iter().map(|(path, id)| (path.clone(), node(id))).collect())
        }
    }

    fn action(what: u8, path: String, to: String, offset: u64, len: u64, other: u8) -> Action {
        let pattern = ["a", "b", "c"][usize::from(other) % 3].to_owned();
        let stride = other.is_multiple_of(4).then_some(Stride { chunk: 700, step: 1500, phases: 2 });
        let write = Write { path: path.clone(), offset, len, pattern: pattern.clone(), direct: false, stride };
        match what {
            1..=3 => Action::Write(write),
            4 => Action::AioWrite(write),
            5 => Action::MmapWrite { path, offset, len, pattern, msync: other.is_multiple_of(2) },
            6 => Action::Truncate { path, len: offset },
            7 => Action::Punch { path, offset, len },
            8 => Action::Fallocate { path, offset, len, keep_size: other.is_multiple_of(2) },
            9 => Action::Rename { path, to },
            10 => Action::Link { path, to },
            11 => Action::Unlink { path },
            12 | 13 => Action::Read { path, offset, len: other.is_multiple_of(2).then_some(len), direct: false },
            14 => Action::Fsync { path },
            15 => Action::Sync {},
            16 => Action::DropCaches {},
            _ => Action::Remount {},
        }
    }

    fn steps() -> impl Strategy<Value = Vec<(u8, u8, u8, u16, u16)>> {
        prop::collection::vec((0u8..18, any::<u8>(), any::<u8>(), any::<u16>(), any::<u16>()), 1..60)
    }

    fn run(steps: Vec<(u8, u8, u8, u16, u16)>) -> Plain {
        let mut plain = Plain::default();
        for step in [(0, 0, 0, 0, 0), (0, 1, 0, 0, 0)].into_iter().chain(steps) {
            plain.step(step);
        }
        plain
    }

    const FACTS: Facts = Facts { block_bytes: BLOCK, cluster_bytes: BLOCK, ..NO_FAULTS };

    proptest! {
        #[test]
        fn all_it_does_is_allowed(steps in steps()) {
            let plain = run(steps);
            let followed = follow(&plain.lines, &FACTS, Some(&plain.tree()));
            prop_assert_eq!(&followed.misfits, &[]);
            prop_assert_eq!(followed.counts.unknown_bytes, 0);
            prop_assert_eq!(followed.counts.unknown_results, 0);
            let faulty = Facts { first_error: Some(0), first_write_error: Some(0), metadata_failed: true, ..FACTS };
            prop_assert_eq!(follow(&plain.lines, &faulty, Some(&plain.tree())).misfits, []);
        }

        #[test]
        fn a_changed_byte_at_the_end_is_noticed(steps in steps(), which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>()) {
            let mut plain = run(steps);
            let ids: Vec<usize> = plain.names.values().copied().filter(|id| !plain.files[*id].0.is_empty()).collect();
            prop_assume!(!ids.is_empty());
            let data = &mut plain.files[ids[which.index(ids.len())]].0;
            let at = at.index(data.len());
            data[at] ^= 0x40;
            prop_assert!(!follow(&plain.lines, &FACTS, Some(&plain.tree())).misfits.is_empty());
        }

        #[test]
        fn a_result_that_is_another_error_is_noticed(steps in steps(), which in any::<prop::sample::Index>(), errno in prop::sample::select(vec![
            libc::EIO, libc::ENOENT, libc::EEXIST, libc::EROFS, libc::ENOSPC, libc::EISDIR, libc::EOPNOTSUPP
        ])) {
            let mut plain = run(steps);
            let at = which.index(plain.lines.len());
            let line = &mut plain.lines[at];
            let result = line.result.as_mut().expect("all came back");
            prop_assume!(result.errno != Some(Errno(errno)));
            result.errno = Some(Errno(errno));
            let followed = follow(&plain.lines, &FACTS, None);
            let noticed = followed.misfits.iter().any(|misfit| {
                misfit.op == Some(at as u32) && matches!(misfit.kind, MisfitKind::Result { .. })
            });
            prop_assert!(noticed);
        }

        #[test]
        fn a_name_that_is_gone_is_noticed(steps in steps()) {
            let plain = run(steps);
            let mut tree = plain.tree();
            prop_assume!(tree.0.pop_first().is_some());
            let followed = follow(&plain.lines, &FACTS, Some(&tree));
            prop_assert!(followed.misfits.iter().any(|misfit| misfit.kind == MisfitKind::NameLost));
        }
    }
}
