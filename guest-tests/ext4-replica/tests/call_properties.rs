//! Random calls against a naive model: who holds what, and which block has been written, kept by the simplest means there
//! are. With every defect off, each dialect must keep the invariants.
//!
//! The model reads calls and events alone. It knows nothing of steps, flags or buffers: counts are recounted from what is
//! under way, and a conversion is judged block by block.

use ext4_replica::{Bug, Bugs, Call, Calls, Dialect, Event, Extent};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use writeback_events::{BioId, Ino, IoEndId};

const INO: Ino = Ino(12);
/// Blocks of the file.
const BLOCKS: u64 = 32;

/// What to do next. Numbers choose among what is under way then.
#[derive(Clone, Debug)]
enum Act {
    Dirty(u64, u64),
    SubmitRange(u64, u64),
    Writepage(u64),
    EndBio(usize, bool),
    RunWork,
    Flush,
    NoMemory(u64, u64),
    DioSubmit(u64, u64, bool),
    DioEnd(usize, bool),
    DioReturn(usize),
}

fn act(errors: bool) -> impl Strategy<Value = Act> {
    let block = 0..BLOCKS;
    prop_oneof![
        4 => (block.clone(), 1..6u64).prop_map(|(lblk, len)| Act::Dirty(lblk, len.min(BLOCKS - lblk))),
        4 => (0..8u64, 1..9u64).prop_map(|(first, len)| Act::SubmitRange(first, first + len)),
        1 => (0..8u64).prop_map(Act::Writepage),
        8 => (any::<usize>(), prop::bool::weighted(if errors { 0.3 } else { 0.0 })).prop_map(|(n, e)| Act::EndBio(n, e)),
        2 => Just(Act::RunWork),
        1 => Just(Act::Flush),
        u32::from(errors) => (0..8u64, 1..9u64).prop_map(|(first, len)| Act::NoMemory(first, first + len)),
        2 => (block, 1..6u64, any::<bool>()).prop_map(|(b, len, a)| Act::DioSubmit(b, len.min(BLOCKS - b), a)),
        2 => (any::<usize>(), prop::bool::weighted(if errors { 0.3 } else { 0.0 })).prop_map(|(n, e)| Act::DioEnd(n, e)),
        2 => any::<usize>().prop_map(Act::DioReturn),
    ]
}

/// Pieces of random length, written, unwritten or a hole, on the disk apart or adjoining.
fn extents() -> impl Strategy<Value = Vec<Extent>> {
    prop::collection::vec((1..7u32, 0..3u8, 0..2u64), 1..10).prop_map(|pieces| {
        let (mut lblk, mut pblk, mut extents) = (0u64, 1000, Vec::new());
        for (len, kind, jump) in pieces {
            let len = len.min((BLOCKS - lblk) as u32);
            if len > 0 && kind < 2 {
                pblk += jump;
                extents.push(Extent { lblk, len, pblk, unwritten: kind == 0 });
                pblk += u64::from(len);
            }
            lblk += u64::from(len);
        }
        extents
    })
}

/// An io_end as far as anyone can tell from outside.
#[derive(Clone, Debug, Default)]
struct Known {
    count: i32,
    bios: u32,
    unwritten: bool,
    converted: u32,
    listed: bool,
    released: bool,
    failed: bool,
    submitted: bool,
    blocks: BTreeSet<u64>,
}

#[derive(Clone, Debug, Default)]
struct Direct {
    io_end: Option<IoEndId>,
    first: u64,
    len: u64,
    is_async: bool,
    ended: bool,
    /// Its end was told to be that of a queued write.
    queued: bool,
    /// What its end was told.
    bytes: i64,
    returned: Option<i64>,
    completed: u32,
}

struct Model {
    machine: Calls,
    bits: u32,
    counted: bool,
    pages_end_early: bool,
    /// File block by block on the disk; blocks that began as unwritten.
    lblk_of: BTreeMap<u64, u64>,
    began_unwritten: BTreeSet<u64>,
    written_ok: BTreeSet<u64>,
    /// Blocks of an io_end of which a part failed: nothing is promised of them.
    exempt: BTreeSet<u64>,
    io_ends: BTreeMap<IoEndId, Known>,
    bios: BTreeMap<BioId, (IoEndId, BTreeSet<u64>)>,
    iocbs: Vec<Direct>,
    list: Vec<IoEndId>,
}

impl Model {
    fn new(dialect: Dialect, bits: u32, max_pages: u32, extents: &[Extent]) -> Model {
        let mut machine = Calls::new(dialect);
        let call = Call::Inode { ino: INO, block_bits: bits, size: BLOCKS << bits, extents: extents.to_vec() };
        machine.call(&call).expect("the extents are sound");
        machine.call(&Call::Device { max_pages }).expect("1 or more");
        let blocks = |extent: &Extent| 0..u64::from(extent.len);
        let lblk_of = extents.iter().flat_map(|e| blocks(e).map(|n| (e.pblk + n, e.lblk + n))).collect();
        let unwritten = extents.iter().filter(|e| e.unwritten);
        Model {
            machine,
            bits,
            counted: !dialect.io_end_per_bio,
            pages_end_early: dialect.finish_before_put,
            lblk_of,
            began_unwritten: unwritten.flat_map(|e| blocks(e).map(|n| e.lblk + n)).collect(),
            written_ok: BTreeSet::new(),
            exempt: BTreeSet::new(),
            io_ends: BTreeMap::new(),
            bios: BTreeMap::new(),
            iocbs: Vec::new(),
            list: Vec::new(),
        }
    }

    fn act(&mut self, act: &Act) {
        let (ino, sync) = (INO, false);
        match *act {
            Act::Dirty(lblk, len) => self.call(Call::Dirty { ino, lblk, len }),
            Act::SubmitRange(first_page, next_page) => {
                self.call(Call::SubmitRange { ino, first_page, next_page, sync, fail_alloc: false, race_error: None });
            }
            Act::NoMemory(first_page, next_page) => {
                self.call(Call::SubmitRange { ino, first_page, next_page, sync, fail_alloc: true, race_error: None });
            }
            Act::Writepage(page) => self.call(Call::Writepage { ino, page, sync, fail_alloc: false }),
            Act::EndBio(choice, fails) => {
                let open: Vec<BioId> = self.bios.keys().copied().collect();
                if !open.is_empty() {
                    self.end_bio(open[choice % open.len()], if fails { -5 } else { 0 });
                }
            }
            Act::RunWork => self.call(Call::RunWork { ino }),
            Act::Flush => self.call(Call::FlushCompleted { ino }),
            Act::DioSubmit(first, len, is_async) => self.dio_submit(first, len, is_async),
            Act::DioEnd(choice, fails) => self.dio_end(choice, fails),
            Act::DioReturn(choice) => self.dio_return(choice),
        }
    }

    fn end_bio(&mut self, bio: BioId, error: i32) {
        let (io_end, blocks) = self.bios.get(&bio).cloned().expect("it is under way");
        match error {
            0 => self.written_ok.extend(&blocks),
            _ => self.io_ends.get_mut(&io_end).expect("it is there").failed = true,
        }
        self.call(Call::EndBio { bio, error });
    }

    /// `i_mutex` is not modelled, and EXT4_STATE_DIO_UNWRITTEN is one per inode: one synchronous write at a time.
    fn dio_submit(&mut self, first: u64, len: u64, is_async: bool) {
        let busy = self.iocbs.iter().any(|iocb| !iocb.is_async && iocb.returned.is_none());
        if is_async || !busy {
            let (offset, len_bytes) = (first << self.bits, len << self.bits);
            let born = self.io_ends.len();
            self.iocbs.push(Direct { first, len, is_async, ..Direct::default() });
            self.call(Call::DioSubmit { ino: INO, offset, len: len_bytes, is_async, fail_alloc: false });
            if self.io_ends.len() > born {
                let io_end = *self.io_ends.keys().next_back().expect("one was born");
                self.iocbs.last_mut().expect("just pushed").io_end = Some(io_end);
            }
            self.check_counts();
        }
    }

    /// All of it, or its first block and then an error.
    fn dio_end(&mut self, choice: usize, fails: bool) {
        let open: Vec<usize> = (0..self.iocbs.len()).filter(|n| self.iocbs[*n].may_end()).collect();
        if open.is_empty() {
            return;
        }
        let n = open[choice % open.len()];
        let Direct { first, len, returned, is_async, .. } = self.iocbs[n].clone();
        let blocks = if fails { 1 } else { len };
        self.written_ok.extend(first..first + blocks);
        self.iocbs[n].ended = true;
        if let Some(io_end) = self.iocbs[n].io_end {
            self.known(io_end).submitted = true;
        }
        let bytes = blocks << self.bits;
        let queued = is_async && (returned == Some(-529) || choice.is_multiple_of(2));
        self.iocbs[n].queued = queued;
        self.iocbs[n].bytes = bytes as i64;
        let ret = bytes as i64;
        let offset = first << self.bits;
        self.call(Call::DioEnd { iocb: n as u32 + 1, offset, bytes, ret, is_async: queued });
    }

    /// What the generic code can return: queued; what was written; an error, with or without anything submitted.
    fn dio_return(&mut self, choice: usize) {
        let open: Vec<usize> = (0..self.iocbs.len()).filter(|n| self.iocbs[*n].returned.is_none()).collect();
        if open.is_empty() {
            return;
        }
        let n = open[choice % open.len()];
        let Direct { bytes, ended, queued, is_async, .. } = self.iocbs[n].clone();
        let waited_for = self.iocbs.iter().any(|iocb| !iocb.is_async && iocb.returned.is_none());
        let ret = match (ended, is_async) {
            (true, true) if queued => -529,
            // The flag in the inode is the synchronous write's, and goes with the first write that returns bytes.
            (true, true) if waited_for || choice.is_multiple_of(2) => -14,
            (true, _) => bytes,
            (false, true) if !choice.is_multiple_of(3) => -529,
            (false, _) => -14,
        };
        self.iocbs[n].returned = Some(ret);
        self.call(Call::DioReturn { iocb: n as u32 + 1, ret });
    }

    fn call(&mut self, call: Call) {
        let events = self.machine.call(&call).expect("the call is sound");
        events.iter().for_each(|event| self.see(event));
        assert!(!self.machine.is_dead(), "{call:?} met a BUG: {events:?}");
        if !matches!(call, Call::DioSubmit { .. }) {
            self.check_counts();
        }
        self.check_blocks();
    }

    fn see(&mut self, event: &Event) {
        match *event {
            Event::InitIoEnd { io_end, count, i_ioend_count, .. } => {
                assert_eq!(count, 1);
                self.io_ends.insert(io_end, Known { count: 1, ..Known::default() });
                assert_eq!(i_ioend_count, self.living(), "I7");
            }
            Event::GetIoEnd { io_end, count, .. } => {
                let known = self.known(io_end);
                assert!(known.count > 0, "I2: io_end {io_end} is taken from nothing");
                known.count += 1;
                assert_eq!(known.count, count, "I1");
            }
            Event::PutIoEnd { io_end, count, .. } | Event::PutIoEndDefer { io_end, count, .. } => {
                let known = self.known(io_end);
                known.count -= 1;
                assert!(known.count >= 0 && !known.released, "I3: io_end {io_end} is put once too often");
                assert_eq!(known.count, count, "I1");
            }
            Event::SubmitBio { bio, io_end, sector, bytes, .. } => {
                let first = sector >> (self.bits - 9);
                let blocks: BTreeSet<u64> =
                    (first..first + (bytes >> self.bits)).map(|pblk| self.lblk_of[&pblk]).collect();
                let known = self.known(io_end);
                known.bios += 1;
                known.submitted = true;
                known.blocks.extend(&blocks);
                self.bios.insert(bio, (io_end, blocks));
            }
            Event::EndBio { bio, io_end, .. } => {
                assert!(self.bios.remove(&bio).is_some(), "bio {bio} ends twice");
                self.known(io_end).bios -= 1;
            }
            Event::SetUnwritten { io_end, i_unwritten } => {
                let known = self.known(io_end);
                assert!(!std::mem::replace(&mut known.unwritten, true) && !known.released);
                assert_eq!(i_unwritten, self.unwritten(), "I7");
            }
            Event::AddCompleteIo { io_end, queued } => {
                assert_eq!(queued, self.list.is_empty(), "I8");
                let known = self.known(io_end);
                assert!(known.unwritten && known.count <= 1 && known.bios == 0, "I5: {known:?}");
                known.listed = true;
                self.list.push(io_end);
            }
            Event::ConvertUnwritten { io_end: Some(io_end), .. } => {
                self.take_off_list(io_end);
                let known = self.known(io_end);
                assert!(known.unwritten && known.bios == 0 && !known.released && !known.failed, "I4: {known:?}");
                known.converted += 1;
            }
            Event::ClearUnwritten { io_end, i_unwritten } => {
                self.take_off_list(io_end);
                let known = self.known(io_end);
                // Of a direct write that submitted nothing, no conversion is owed.
                let owed = !known.failed && known.submitted;
                assert!(known.converted > 0 || !owed, "I4: {known:?}");
                known.unwritten = false;
                assert_eq!(i_unwritten, self.unwritten(), "I7");
            }
            Event::ReleaseIoEnd { io_end, i_ioend_count, .. } => {
                let known = self.known(io_end);
                assert!(!known.unwritten && !known.listed && !known.released && known.bios == 0, "I6: {known:?}");
                known.released = true;
                let Known { failed, blocks, .. } = known.clone();
                if failed {
                    self.exempt.extend(blocks);
                }
                assert_eq!(i_ioend_count, self.living(), "I7");
            }
            Event::InodeDioDone { i_dio_count, .. } => assert!(i_dio_count >= 0, "I12: {i_dio_count}"),
            Event::AioComplete { iocb, .. } => {
                let iocb = &mut self.iocbs[iocb.0 as usize - 1];
                iocb.completed += 1;
                assert!(iocb.completed == 1 && iocb.ended, "I13: {iocb:?}");
            }
            Event::PageLeftLocked { page, .. } => panic!("I14: page {page} is left locked"),
            Event::Warn { function, what } => panic!("{function} warns: {what}"),
            _ => {}
        }
    }

    /// I15: what is taken is what has waited longest.
    fn take_off_list(&mut self, io_end: IoEndId) {
        if self.known(io_end).listed {
            assert_eq!(self.list.remove(0), io_end, "I15");
            self.known(io_end).listed = false;
        }
    }

    fn known(&mut self, io_end: IoEndId) -> &mut Known {
        self.io_ends.get_mut(&io_end).expect("it was born")
    }

    fn living(&self) -> i64 {
        self.io_ends.values().filter(|known| !known.released).count() as i64
    }

    fn unwritten(&self) -> i64 {
        self.io_ends.values().filter(|known| known.unwritten).count() as i64
    }

    /// I1 between calls: no submitter is at work, so an io_end is held by its bios and its direct write alone.
    fn check_counts(&self) {
        for (id, known) in self.io_ends.iter().filter(|(_, known)| self.counted && !known.released) {
            let direct = self.iocbs.iter().filter(|iocb| iocb.io_end == Some(*id));
            let held: u32 = direct.map(Direct::holds).sum();
            let count = if known.count < 0 { 0 } else { known.count as u32 };
            assert_eq!(count, known.bios + held, "I1: io_end {id}, {known:?}");
        }
    }

    /// I9: what has become written was written. And pages: those under writeback are those with a bio under way.
    fn check_blocks(&mut self) {
        let events = self.machine.call(&Call::State).expect("always");
        let Some(Event::State(state)) = events.first() else { panic!("no state in {events:?}") };
        for extent in state.extents.iter().filter(|extent| !extent.unwritten) {
            for lblk in extent.lblk..extent.lblk + u64::from(extent.len) {
                let sound = !self.began_unwritten.contains(&lblk) || self.written_ok.contains(&lblk);
                assert!(sound, "I9: block {lblk} is converted and was never written");
            }
        }
        let per_page = 4096 >> self.bits;
        let busy: BTreeSet<u64> =
            self.bios.values().flat_map(|(_, blocks)| blocks.iter().map(|lblk| lblk / per_page)).collect();
        let under_way: BTreeSet<u64> = state.writeback_pages.iter().copied().collect();
        match self.pages_end_early {
            true => assert_eq!(under_way, busy, "I11"),
            false => assert!(under_way.is_superset(&busy), "I11"),
        }
        assert!(state.locked_pages.is_empty(), "I14");
        let dios = self.iocbs.iter().filter(|iocb| !iocb.returned.is_some_and(|ret| iocb.ended || ret != -529)).count();
        assert!(state.i_dio_count <= dios as i64 + self.list.len() as i64 + 1, "I12");
    }

    /// Everything ends well; then nothing may be left, and what was written is written.
    fn settle(&mut self) {
        for bio in self.bios.keys().copied().collect::<Vec<_>>() {
            self.end_bio(bio, 0);
        }
        for n in 0..self.iocbs.len() {
            while self.iocbs[n].returned.is_none() {
                self.dio_return(n);
            }
        }
        while self.iocbs.iter().any(Direct::may_end) {
            self.dio_end(0, false);
        }
        self.call(Call::RunWork { ino: INO });
        self.call(Call::RunWork { ino: INO });
        let events = self.machine.call(&Call::State).expect("always");
        let Some(Event::State(state)) = events.first() else { panic!("no state in {events:?}") };
        assert_eq!((state.i_ioend_count, state.i_unwritten, state.i_dio_count), (0, 0, 0), "I7, I12");
        assert!(state.writeback_pages.is_empty(), "I11: {:?}", state.writeback_pages);
        for iocb in self.iocbs.iter().filter(|iocb| iocb.returned == Some(-529)) {
            assert_eq!(iocb.completed, 1, "I13: {iocb:?}");
        }
        for extent in state.extents.iter().filter(|extent| extent.unwritten) {
            for lblk in extent.lblk..extent.lblk + u64::from(extent.len) {
                let lost = self.written_ok.contains(&lblk) && !self.exempt.contains(&lblk);
                assert!(!lost, "I10: block {lblk} was written and reads as zeros");
            }
        }
    }
}

impl Direct {
    fn may_end(&self) -> bool {
        !self.ended && self.returned.is_none_or(|ret| ret == -529)
    }

    /// The submitter's reference, and the iocb's.
    fn holds(&self) -> u32 {
        let over = self.returned.is_some_and(|ret| ret != -529);
        u32::from(self.returned.is_none()) + u32::from(!self.ended && !over)
    }
}

fn run(dialect: Dialect, bits: u32, max_pages: u32, extents: &[Extent], acts: &[Act]) {
    let mut model = Model::new(dialect, bits, max_pages, extents);
    acts.iter().for_each(|act| model.act(act));
    model.settle();
}

proptest! {
    #[test]
    fn without_defects_every_dialect_keeps_the_invariants(
        name in prop::sample::select(Dialect::names().collect::<Vec<_>>()),
        bits in 10..=12u32,
        max_pages in 1..5u32,
        extents in extents(),
        acts in prop::collection::vec(act(true), 1..60),
    ) {
        let dialect = Dialect::by_name(name).expect("it names itself").with_bugs(Bugs::NONE);
        run(dialect, bits, max_pages, &extents, &acts);
    }

    /// Where nothing fails, blocks are as large as pages and lie in one extent, and none is written twice, the patch as
    /// posted does what its own fixed form does, event by event.
    #[test]
    fn where_no_defect_can_show_the_patch_is_its_own_fixed_form(
        unwritten in any::<bool>(),
        max_pages in 1..5u32,
        order in any::<u64>(),
        cut in 1..8u64,
    ) {
        let answers = [Bugs::NONE, Dialect::SEED.bugs].map(|bugs| {
            let mut machine = Calls::new(Dialect::SEED.with_bugs(bugs));
            let mut answers = Vec::new();
            let mut call = |call| answers.extend(machine.call(&call).expect("sound"));
            let extents = vec![Extent { lblk: 0, len: 8, pblk: 100, unwritten }];
            call(Call::Inode { ino: INO, block_bits: 12, size: 8 << 12, extents });
            call(Call::Device { max_pages });
            call(Call::Dirty { ino: INO, lblk: 0, len: 8 });
            for (first_page, next_page) in [(0, cut), (cut, 8)].into_iter().filter(|(a, b)| a < b) {
                call(Call::SubmitRange { ino: INO, first_page, next_page, sync: true, fail_alloc: false, race_error: None });
            }
            let in_extent = |pages: u64| pages.div_ceil(u64::from(max_pages));
            let bios = in_extent(cut) + in_extent(8 - cut);
            for n in 0..bios {
                let bio = BioId(((n + order) % bios) as u32 + 1);
                call(Call::EndBio { bio, error: 0 });
            }
            call(Call::RunWork { ino: INO });
            call(Call::State);
            answers
        });
        prop_assert_eq!(&answers[0], &answers[1]);
    }
}

/// The model notices: with each of these defects it stops on some calls.
#[test]
fn the_model_catches_a_defect_when_there_is_one() {
    let defects = [Bug::EnomemLockLeak, Bug::DioDoublePut, Bug::DioDoubleDone, Bug::RangeSum, Bug::ConvertAfterError];
    for bug in defects {
        let dialect = Dialect::SEED.with_bugs(Bugs::of(&[bug]));
        let mut runner = proptest::test_runner::TestRunner::deterministic();
        let strategy = (10..=12u32, 1..5u32, extents(), prop::collection::vec(act(true), 1..60));
        let caught = (0..2000).any(|_| {
            let tree = strategy.new_tree(&mut runner).expect("it generates");
            let (bits, max_pages, extents, acts) = proptest::strategy::ValueTree::current(&tree);
            std::panic::catch_unwind(|| run(dialect, bits, max_pages, &extents, &acts)).is_err()
        });
        assert!(caught, "{} keeps every invariant", bug.name());
    }
}
