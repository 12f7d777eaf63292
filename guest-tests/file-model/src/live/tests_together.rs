//! Several writers at once, against a file in memory whose calls are done one after another in some order.

use super::*;
use crate::durability::{Expected, Reach, Rules};
use guest_init::job::{Op, Write};
use guest_init::pattern::{Pattern, PatternMap};
use guest_init::writers::Writer;
use proptest::prelude::*;

/// Everything lies on sectors, so that each is one write's and a pattern map tells it.
const UNIT: u64 = 512;
const UNITS: u64 = 64;
const FACTS: fn() -> Facts = || Facts { folio_bytes: 4096, ..Facts::default() };

fn patterns() -> Vec<Pattern> {
    (0..64).map(|number| Pattern::new(&format!("p{number}"))).collect()
}

/// What is done under one lock.
#[derive(Clone, Debug)]
enum Call {
    Store(u64, u64, String, bool),
    Resize(u64),
    Zero(u64, u64),
    Grow(u64),
    Read(u64, u64),
    Sync,
}

fn calls(action: &Action) -> Vec<Call> {
    let store = |(offset, len), pattern: &String| Call::Store(offset, len, pattern.clone(), true);
    match action {
        Action::Write(write) | Action::AioWrite(write) => {
            write.calls().into_iter().map(|call| store(call, &write.pattern)).collect()
        }
        Action::MmapWrite { offset, len, pattern, .. } => {
            let pages = (*offset..offset + len).step_by(UNIT as usize);
            pages.map(|at| Call::Store(at, UNIT, pattern.clone(), false)).collect()
        }
        Action::Truncate { len, .. } => vec![Call::Resize(*len)],
        Action::Punch { offset, len, .. } => vec![Call::Zero(*offset, *len)],
        Action::Fallocate { offset, len, keep_size: false, .. } => vec![Call::Grow(offset + len)],
        Action::Read { offset, len, .. } => {
            let end = offset + len.unwrap_or(0);
            (*offset..end).step_by(4 * UNIT as usize).map(|at| Call::Read(at, (end - at).min(4 * UNIT))).collect()
        }
        Action::Fsync { .. } => vec![Call::Sync],
        _ => Vec::new(),
    }
}

/// The file, and what it was after each call since the last fsync.
#[derive(Default)]
struct Plain {
    data: Vec<u8>,
    since_sync: Vec<Vec<u8>>,
}

impl Plain {
    /// Gives what was read; none: a store found no page.
    fn call(&mut self, call: &Call) -> Option<Vec<u8>> {
        let mut read = Vec::new();
        match call {
            Call::Store(offset, len, pattern, grows) => {
                let (start, end) = (*offset as usize, (offset + len) as usize);
                if end > self.data.len() {
                    if !grows {
                        return None;
                    }
                    self.data.resize(end, 0);
                }
                Pattern::new(pattern).fill(*offset, &mut self.data[start..end]);
            }
            Call::Resize(len) => self.data.resize(*len as usize, 0),
            Call::Grow(len) => self.data.resize(self.data.len().max(*len as usize), 0),
            Call::Zero(offset, len) => {
                let end = self.data.len().min((offset + len) as usize);
                if (*offset as usize) < end {
                    self.data[*offset as usize..end].fill(0);
                }
            }
            Call::Read(offset, len) => {
                let end = self.data.len().min((offset + len) as usize);
                read = self.data.get(*offset as usize..end).unwrap_or_default().to_vec();
            }
            Call::Sync => self.since_sync.clear(),
        }
        self.since_sync.push(self.data.clone());
        Some(read)
    }
}

/// A drawn operation, before it has a place in the workload.
type Drawn = (u8, u64, u64, bool);

fn action(number: usize, (what, offset, len, flag): Drawn) -> Action {
    let (path, pattern) = ("f".to_owned(), format!("p{number}"));
    let (offset, len) = (offset * UNIT, len * UNIT);
    let stride = flag.then_some(guest_init::job::Stride { chunk: UNIT, step: 2 * UNIT, phases: 1 + offset / UNIT % 2 });
    let write = |direct, stride| Write { path: path.clone(), offset, len, pattern: pattern.clone(), direct, stride };
    match what {
        0..=3 => Action::Write(write(false, stride)),
        4 | 5 => Action::Write(write(true, stride)),
        6 => Action::AioWrite(write(true, stride)),
        7 => Action::MmapWrite { path, offset, len, pattern, msync: false },
        8 => Action::Truncate { path, len: offset },
        9 => Action::Punch { path, offset, len },
        10 => Action::Fallocate { path, offset, len, keep_size: flag },
        11 => Action::Fsync { path },
        _ => Action::Read { path, offset, len: Some(len), direct: false },
    }
}

/// What a run left: its lines, the file, and what a power cut at its end may leave.
struct Ran {
    lines: Vec<OpLine>,
    plain: Plain,
}

/// A file is made, then the writers work in an order that `order` draws, then one more reads it all.
fn run(before: &[Drawn], by: &[Vec<Drawn>], order: &[u8]) -> Ran {
    let mut ran = Ran { lines: Vec::new(), plain: Plain::default() };
    ran.alone(Action::Create { path: "f".to_owned() });
    for drawn in before {
        let number = ran.lines.len();
        ran.alone(action(number, *drawn));
    }
    ran.together(by, order);
    let whole = Action::Read { path: "f".to_owned(), offset: 0, len: Some(4 * UNITS * UNIT), direct: false };
    ran.alone(whole);
    ran
}

impl Ran {
    fn alone(&mut self, action: Action) {
        let results: Vec<Option<Vec<u8>>> = calls(&action).iter().map(|call| self.plain.call(call)).collect();
        self.said(action, None, &results);
    }

    fn together(&mut self, by: &[Vec<Drawn>], order: &[u8]) {
        let mut actions: Vec<(Option<Writer>, Action, usize)> = Vec::new();
        for (writer, drawn) in (1..).zip(by) {
            for drawn in drawn {
                let number = self.lines.len() + actions.len();
                actions.push((Writer::new(writer), action(number, *drawn), 0));
            }
        }
        let mut results: Vec<Vec<Option<Vec<u8>>>> = vec![Vec::new(); actions.len()];
        for at in 0.. {
            // The next call of each writer that has one left.
            let mut next: BTreeMap<Option<Writer>, usize> = BTreeMap::new();
            for (place, (writer, action, done)) in actions.iter().enumerate() {
                let failed = results[place].last().is_some_and(Option::is_none);
                if *done < calls(action).len() && !failed {
                    next.entry(*writer).or_insert(place);
                }
            }
            let Some(nth) = usize::from(order[at % order.len()]).checked_rem(next.len()) else { break };
            let place = *next.values().nth(nth).expect("it is less than their number");
            let (_, action, done) = &mut actions[place];
            results[place].push(self.plain.call(&calls(action)[*done]));
            *done += 1;
        }
        for ((writer, action, _), results) in actions.into_iter().zip(results) {
            self.said(action, writer, &results);
        }
    }

    fn said(&mut self, action: Action, writer: Option<Writer>, results: &[Option<Vec<u8>>]) {
        let failed = results.iter().any(Option::is_none);
        let data = told(results);
        let read = if let (Action::Read { offset, .. }, false) = (&action, failed) { Some(*offset) } else { None };
        let wrote = match &action {
            Action::Write(write) | Action::AioWrite(write) => write.calls().iter().map(|(_, len)| *len as i64).sum(),
            _ => data.len() as i64,
        };
        let result = OpResult {
            returned: if failed { -1 } else { wrote },
            errno: failed.then_some(Errno(libc::EFAULT)),
            inode: None,
            read: read.map(|offset| read_back(&data, offset)),
            elapsed_us: 0,
        };
        let index = self.lines.len() as u32;
        self.lines.push(OpLine { index, args: Op { action, errno: None, writer }, result: Some(result) });
    }

    fn end(&self) -> Tree {
        ends_with(&self.plain.data)
    }
}

/// A read ends where it first gets less than it asked for.
fn told(results: &[Option<Vec<u8>>]) -> Vec<u8> {
    let mut data = Vec::new();
    for piece in results.iter().flatten() {
        data.extend_from_slice(piece);
        if piece.len() < 4 * UNIT as usize {
            break;
        }
    }
    data
}

fn read_back(data: &[u8], offset: u64) -> ReadBack {
    ReadBack { fnv1a64: format!("{:016x}", fnv1a64(data)), map: PatternMap::of(data, offset, &patterns(), 4096) }
}

fn ends_with(data: &[u8]) -> Tree {
    let ReadBack { fnv1a64, map } = read_back(data, 0);
    let node = Node::Mapped(Mapped { size: data.len() as u64, fnv1a64, runs: map.runs, blocks: None });
    Tree([("f".to_owned(), node)].into())
}

fn drawn(most: usize) -> impl Strategy<Value = Vec<Drawn>> {
    prop::collection::vec((0..13u8, 0..UNITS, 1..16u64, any::<bool>()), 0..most)
}

fn writers() -> impl Strategy<Value = Vec<Vec<Drawn>>> {
    prop::collection::vec(drawn(5), 2..4)
}

fn resizes(drawn: &[Drawn]) -> bool {
    drawn.iter().any(|(what, ..)| !matches!(what, 7 | 9 | 11 | 12))
}

/// Which writers touch each unit; what is dirtied with it is touched too, and what is stored where another writer puts the end of the file
/// is everybody's: behind the end it is lost.
fn touched(by: &[Vec<Drawn>]) -> Vec<BTreeSet<usize>> {
    let mut touched = vec![BTreeSet::new(); 4 * UNITS as usize];
    for (writer, drawn) in by.iter().enumerate() {
        let others_submit = by.iter().enumerate().any(|(other, its)| other != writer && its.iter().any(|op| op.0 == 6));
        let others_resize = by.iter().enumerate().any(|(other, drawn)| other != writer && resizes(drawn));
        for (what, offset, len, _) in drawn {
            let page = 4096 / UNIT;
            let units = match what {
                0..=3 if !others_submit => *offset..offset + len,
                4 | 5 | 9 => *offset..offset + len,
                0..=3 | 6 | 7 => offset - offset % page..(offset + len).next_multiple_of(page),
                8 => *offset..4 * UNITS,
                _ => continue,
            };
            units.for_each(|unit| {
                touched[unit as usize].insert(writer);
                if *what == 7 && others_resize {
                    touched[unit as usize].insert(usize::MAX);
                }
            });
        }
    }
    touched
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_order_they_come_to_is_allowed(
        before in drawn(4), by in writers(), order in prop::collection::vec(any::<u8>(), 1..40),
    ) {
        let ran = run(&before, &by, &order);
        let followed = follow(&ran.lines, &FACTS(), Some(&ran.end()));
        prop_assert_eq!(followed.misfits, []);
    }

    #[test]
    fn what_one_of_them_alone_wrote_is_known_to_the_sector(
        before in drawn(4), by in writers(), order in prop::collection::vec(any::<u8>(), 1..40),
        which in any::<prop::sample::Index>(), with in 0..3u8,
    ) {
        let ran = run(&before, &by, &order);
        let touched = touched(&by);
        let known: Vec<usize> =
            (0..ran.plain.data.len() / UNIT as usize).filter(|unit| touched[*unit].len() < 2).collect();
        prop_assume!(!known.is_empty());
        let at = which.get(&known) * UNIT as usize;
        let mut data = ran.plain.data.clone();
        let sector = &mut data[at..at + UNIT as usize];
        match with {
            0 => sector[17] ^= 1,
            1 => Pattern::new("p63").fill(at as u64, sector),
            _ if sector.iter().all(|byte| *byte == 0) => sector.fill(1),
            _ => sector.fill(0),
        }
        let followed = follow(&ran.lines, &FACTS(), Some(&ends_with(&data)));
        prop_assert!(!followed.misfits.is_empty(), "unit {} of {:?}", at / UNIT as usize, ran.lines);
    }

    #[test]
    fn the_size_of_a_file_that_one_of_them_alone_makes_longer_or_shorter_is_known(
        before in drawn(4), mut by in writers(), order in prop::collection::vec(any::<u8>(), 1..40), size in 0..2 * UNITS,
    ) {
        let theirs = by.iter_mut().skip(1).flatten();
        theirs.filter(|op| resizes(&[**op])).for_each(|op| op.0 = 9);
        let ran = run(&before, &by, &order);
        let size = (size * UNIT) as usize;
        prop_assume!(size != ran.plain.data.len());
        let mut data = ran.plain.data.clone();
        data.resize(size, 0);
        let misfits = follow(&ran.lines, &FACTS(), Some(&ends_with(&data))).misfits;
        let noticed = misfits.iter().any(|misfit| matches!(misfit.kind, MisfitKind::Size { .. }));
        prop_assert!(noticed, "{misfits:?}");
    }

    #[test]
    fn after_a_power_cut_each_sector_may_be_any_since_the_last_fsync(
        before in drawn(4), by in writers(), order in prop::collection::vec(any::<u8>(), 1..40),
        picks in prop::collection::vec(any::<prop::sample::Index>(), 1..20),
    ) {
        let ran = run(&before, &by, &order);
        let mut data = picks[0].get(&ran.plain.since_sync).clone();
        for ((number, bytes), pick) in data.chunks_mut(UNIT as usize).enumerate().zip(picks.iter().cycle()) {
            let then = pick.get(&ran.plain.since_sync);
            let there = then.get(number * UNIT as usize..).unwrap_or_default();
            let len = bytes.len().min(there.len());
            bytes.fill(0);
            bytes[..len].copy_from_slice(&there[..len]);
        }
        let all = ran.lines.len() as u32;
        let rules = Rules { sync_promises: true, past_may_show: false };
        let found = Tree([("f".to_owned(), Node::File(data.into()))].into());
        let judged = Expected::at(&ran.lines, Reach { returned: all, begun: all }, rules).judge(&found);
        prop_assert_eq!(judged.broken, []);
    }
}

/// Lines with a writer's number before each; `! ERRNO` behind it: it failed.
fn lines(text: &[(u8, &str)]) -> Vec<OpLine> {
    let words: Vec<&str> = text.iter().map(|(_, line)| *line).collect();
    let mut lines = crate::testing::ops(&words);
    for (line, (writer, _)) in lines.iter_mut().zip(text) {
        line.args.writer = Writer::new(*writer);
        if let Action::Write(write) = &line.args.action
            && let Some(result) = &mut line.result
        {
            result.returned = if result.errno.is_some() { 0 } else { write.len as i64 };
        }
    }
    lines
}

const CREATE: &str = r#"{"op":"create","path":"f"}"#;
const FSYNC: &str = r#"{"op":"fsync","path":"f"}"#;
const FSYNC_EIO: &str = r#"{"op":"fsync","path":"f"} ! EIO"#;

fn put(len: u64, pattern: &str) -> String {
    format!(r#"{{"op":"write","path":"f","offset":0,"len":{len},"pattern":"{pattern}"}}"#)
}

fn filled(pattern: &str, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    Pattern::new(pattern).fill(0, &mut data);
    data
}

fn faulty() -> Facts {
    Facts { first_error: Some(0), first_write_error: Some(0), ..FACTS() }
}

#[test]
fn an_fsync_beside_a_write_promises_what_came_before_and_not_that_write() {
    let (a, b) = (put(4096, "p0"), put(4096, "p1"));
    let lines = lines(&[(0, CREATE), (0, &a), (1, FSYNC), (2, &b)]);
    let ends = |data: &[u8]| follow(&lines, &faulty(), Some(&ends_with(data))).misfits.len();
    assert_eq!((ends(&filled("p0", 4096)), ends(&filled("p1", 4096))), (0, 0));
    assert_eq!(ends(&[0; 4096]), 1, "the first write was promised, whatever became of the second");
}

#[test]
fn an_error_that_another_writers_fsync_was_told_promises_nothing_to_this_one() {
    let a = put(4096, "p0");
    let ends = |text: &[(u8, &str)]| follow(&lines(text), &faulty(), Some(&ends_with(&[0; 4096]))).misfits.len();
    assert_eq!(ends(&[(0, CREATE), (0, &a), (1, FSYNC), (2, FSYNC_EIO)]), 0);
    assert_eq!(ends(&[(0, CREATE), (0, &a), (1, FSYNC), (2, FSYNC)]), 1);
    assert_eq!(ends(&[(0, CREATE), (0, &a), (0, FSYNC), (1, FSYNC_EIO), (2, FSYNC)]), 1, "it was promised before");
}

#[test]
fn a_page_that_is_stored_to_comes_back_over_what_is_written_directly_beside_it() {
    let direct = r#"{"op":"write","path":"f","offset":0,"len":512,"pattern":"p1","direct":true}"#;
    let beside = r#"{"op":"mmap_write","path":"f","offset":1024,"len":512,"pattern":"p2"}"#;
    let far = r#"{"op":"mmap_write","path":"f","offset":4096,"len":512,"pattern":"p2"}"#;
    let ends = |mapped: &str, first: &str, at: usize| {
        let lines = lines(&[(0, CREATE), (0, &put(8192, "p0")), (1, direct), (2, mapped)]);
        let mut data = filled("p0", 8192);
        data[..512].copy_from_slice(&filled(first, 512));
        Pattern::new("p2").fill(at as u64, &mut data[at..at + 512]);
        follow(&lines, &FACTS(), Some(&ends_with(&data))).misfits.len()
    };
    assert_eq!((ends(beside, "p0", 1024), ends(beside, "p1", 1024)), (0, 0));
    assert_eq!((ends(far, "p0", 4096), ends(far, "p1", 4096)), (1, 0));
}

#[test]
fn of_blocks_that_one_gives_back_and_another_writes_nothing_is_said_and_of_the_rest_everything() {
    let punch = r#"{"op":"punch","path":"f","offset":0,"len":8192}"#;
    let lines = lines(&[(0, CREATE), (0, &put(4 << 20, "p0")), (1, punch), (2, &put(4096, "p1"))]);
    let ends = |blocks: &[(u64, u64, bool)]| {
        let mut data = filled("p0", 4 << 20);
        data[..8192].fill(0);
        let ReadBack { fnv1a64, map } = read_back(&data, 0);
        let node = Mapped { size: data.len() as u64, fnv1a64, runs: map.runs, blocks: Some(blocks.to_vec()) };
        follow(&lines, &FACTS(), Some(&Tree([("f".to_owned(), Node::Mapped(node))].into()))).misfits.len()
    };
    assert_eq!((ends(&[(2, 1022, false)]), ends(&[(0, 1, false), (2, 1022, false)])), (0, 0));
    let gaps = [&[(3, 1021, false)][..], &[(2, 500, false), (503, 521, false)]];
    assert_eq!(gaps.map(ends), [1, 1], "written by one alone");
}

#[test]
fn a_size_that_two_of_them_change_is_one_of_those_that_some_order_gives() {
    let shorter = r#"{"op":"truncate","path":"f","len":512}"#;
    let lines = lines(&[(0, CREATE), (0, &put(4096, "p0")), (1, shorter), (2, &put(1024, "p1"))]);
    let ends = |size: usize| follow(&lines, &FACTS(), Some(&ends_with(&filled("p1", size)))).misfits.len();
    assert_eq!([512, 1024].map(ends), [0, 0]);
    assert_eq!([0, 768, 4096].map(|size| ends(size).min(1)), [1, 1, 1]);
}

#[test]
fn behind_a_writer_that_never_came_back_nothing_is_claimed() {
    let b = format!("{} ?", put(4096, "p1"));
    let lines = lines(&[(0, CREATE), (1, FSYNC_EIO), (2, &b)]);
    assert_eq!(follow(&lines, &FACTS(), Some(&ends_with(&[7; 9]))).misfits, []);
}

#[test]
fn an_error_of_one_of_several_needs_a_reason_too() {
    let lines = lines(&[(0, CREATE), (1, FSYNC_EIO), (2, FSYNC)]);
    let misfits = follow(&lines, &FACTS(), None).misfits;
    assert!(matches!(&misfits[..], [Misfit { op: Some(1), kind: MisfitKind::Result { .. }, .. }]), "{misfits:?}");
}
