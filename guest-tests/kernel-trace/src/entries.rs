//! From typed events to entries: addresses become numbers by life, and each event the stimulus and response it stands for.
//!
//! The mapping, event by event (docs/trace-format.md has it for readers of guest.jsonl):
//!
//! - An io_end lives from `ext4_init_io_end` to `ext4_release_io_end`; its address may live again at once. A put's life is
//!   looked up at the put's entry, while the reference is held: when its step is recorded the io_end may be gone.
//! - A bio is numbered when it takes its reference, and known by its address from `submit_bio` to `ext4_end_bio`.
//! - A put is the task's own if it is called from writepages, else it belongs to the bio that ended last on that CPU.
//! - A last put by `ext4_put_io_end_defer` that is followed by neither a queued work nor a release in the same context has
//!   put the io_end on a list that was not empty.
//! - Block requests are known by (operation, sector, length) while in flight, first come, first served.
//!
//! What does not fit is told in `unplaced`, with its place; nothing is dropped silently.

use crate::container::Header;
use crate::decode::{OpSeen, Place, Totals, Unplaced};
use crate::interleave::{self, Context, Place as StepPlace, Recorded};
use crate::plan::SymbolAddress;
use crate::references::{References, Step};
use crate::typed::{Count, Event, Formats, Kind, RequestKey};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use writeback_events::{
    BioId, BlockOp, Body, Entry, Errno, Ino, IoEndId, OpId, OpKind, PutBy, RequestId, Response, Stimulus, TaskId,
};

/// What an operation returns whose process died at a page it could not have: its msync never came.
const EFAULT: Errno = -14;

/// Where an entry stands: before or at an event, then by the event it came from, then by its order within that.
type Key = (usize, Side, usize, usize);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Before,
    At,
}

/// An io_end from birth to release, and after.
struct Life {
    id: IoEndId,
    ino: Ino,
    inode: u64,
    references: References,
    /// Steps of several CPUs that fit no order.
    misfits: usize,
    last_put: Option<LastPut>,
    /// Its waiting for the worker has been told.
    waits: bool,
    released: bool,
}

/// A put to 0 by `ext4_put_io_end_defer`.
#[derive(Clone, Copy)]
struct LastPut {
    at: usize,
    key: Key,
}

/// A put between its entry and its atomic step.
struct OpenPut {
    by: PutBy,
    address: u64,
    life: Option<usize>,
    cpu: u16,
    task: u32,
    unwritten: bool,
    caller: u64,
}

#[derive(Default)]
struct Task {
    writepages: Option<Ino>,
    io_end: Option<usize>,
    open_bio: Option<(BioId, usize)>,
    worker_since: Option<usize>,
    converting: Option<usize>,
    /// Extents converted of the io_end at hand.
    conversions: usize,
    /// A conversion is under way; true: an io_end's.
    conversion: Option<bool>,
    /// The operation under way, and where the entry of its beginning is.
    op: Option<(usize, usize)>,
}

/// Builds the entries, one event after the other.
pub(crate) struct Maker<'a> {
    events: &'a [Event],
    formats: &'a Formats<'a>,
    symbols: &'a [SymbolAddress],
    inode_to_work: u64,
    has_get: bool,
    fs_dev: Option<u64>,
    /// Inodes of which blocks could not be mapped for writeback.
    unmapped: BTreeSet<Ino>,
    /// Folios that were handed over and have not left writeback since, by inode and first page.
    handed_over: BTreeSet<(Ino, u64)>,
    disk: Option<u64>,
    out: Vec<(Key, Entry)>,
    /// Entries made of the event at hand so far.
    made: usize,
    lives: Vec<Life>,
    alive: BTreeMap<u64, usize>,
    open_puts: Vec<OpenPut>,
    bios: BTreeMap<u64, (BioId, usize)>,
    /// By CPU: io_ends whose bio has ended and not put yet.
    ended: BTreeMap<u16, Vec<usize>>,
    tasks: BTreeMap<u32, Task>,
    in_flight: BTreeMap<RequestKey, VecDeque<RequestId>>,
    /// Several CPUs: where an interrupt takes its steps has to be told.
    several_cpus: bool,
    /// With several CPUs: where each reference step belongs, by the place of its record.
    steps: BTreeMap<usize, StepPlace>,
    /// By CPU: the request that was answered last.
    completing: BTreeMap<u16, RequestId>,
    /// By CPU: the error of the flush that was answered last, if that failed and nothing else was answered since.
    failed_flush: BTreeMap<u16, i64>,
    requeued: BTreeMap<RequestKey, VecDeque<RequestId>>,
    ops: Vec<OpSeen>,
    unplaced: Vec<Unplaced>,
    totals: Totals,
}

impl<'a> Maker<'a> {
    pub(crate) fn new(events: &'a [Event], formats: &'a Formats<'a>, header: &'a Header) -> Self {
        let fs_dev = only(events.iter().filter_map(|event| match event.kind {
            Kind::WritepagesEnter { dev, .. } | Kind::WritepagesLeave { dev, .. } => Some(dev),
            _ => None,
        }));
        let disk = only(events.iter().filter_map(|event| match &event.kind {
            Kind::Issue(key) => Some(key.dev),
            _ => None,
        }));
        Maker {
            events,
            formats,
            symbols: &header.plan.symbols,
            inode_to_work: header.plan.constants.get("inode_to_conversion_work").copied().unwrap_or_default(),
            has_get: header.plan.summary.get,
            fs_dev,
            unmapped: BTreeSet::new(),
            handed_over: BTreeSet::new(),
            disk: disk.or(fs_dev),
            out: Vec::new(),
            made: 0,
            lives: Vec::new(),
            alive: BTreeMap::new(),
            open_puts: Vec::new(),
            bios: BTreeMap::new(),
            ended: BTreeMap::new(),
            tasks: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            several_cpus: header.vcpus > 1,
            steps: if header.vcpus > 1 { places_of_steps(events) } else { BTreeMap::new() },
            completing: BTreeMap::new(),
            failed_flush: BTreeMap::new(),
            requeued: BTreeMap::new(),
            ops: Vec::new(),
            unplaced: Vec::new(),
            totals: Totals::default(),
        }
    }

    /// Takes the event at place `at`; places are to be given in order.
    pub(crate) fn event(&mut self, at: usize) {
        self.made = 0;
        let events = self.events;
        match &events[at].kind {
            &Kind::WritepagesEnter { dev, ino, sync } => self.writepages_enter(at, dev, Ino(ino), sync),
            &Kind::WritepagesLeave { ino, .. } => self.writepages_leave(at, Ino(ino)),
            Kind::Mapped { .. } => self.mapped(at),
            &Kind::EvictInode { ino, links } => {
                self.stimulus(at, Stimulus::InodeEvicted { ino: Ino(ino), deleted: links == 0 });
            }
            &Kind::SyncFile { ino } => self.sync_file(at, Ino(ino)),
            &Kind::Init { io_end, count, unwritten, inode, ino } => {
                self.init(at, io_end, count, unwritten, inode, Ino(ino));
            }
            &Kind::Release { io_end, unwritten } => self.release(at, io_end, unwritten),
            &Kind::Folio { io_end, ino, index, order } => self.folio(at, io_end, Ino(ino), index, order),
            &Kind::Get { io_end, count, unwritten } => self.get(at, io_end, count, unwritten),
            Kind::PutIn { .. } => self.put_in(at),
            &Kind::PutDone { by, io_end, old } => self.put_done(at, by, io_end, old),
            Kind::SubmitBio { .. } => self.submit_bio(at),
            &Kind::EndBio { bio, status, io_end } => self.end_bio(at, bio, status, io_end),
            &Kind::WorkerStarts { ino } => self.worker_starts(at, Ino(ino)),
            &Kind::ConvertIoEnd { io_end } => self.convert_io_end(at, io_end),
            &Kind::ConvertIoEndDone { ret } => self.convert_io_end_done(at, ret),
            &Kind::Convert { ino, offset, len } => self.convert(at, Ino(ino), offset, len),
            &Kind::ConvertDone { ret } => self.convert_done(at, ret),
            &Kind::EndWriteback { dev, ino, index } => self.end_writeback(at, dev, Ino(ino), index),
            Kind::Issue(key) => self.issue(at, key),
            Kind::Requeue(key) => self.requeue(at, key),
            Kind::Complete { key, errno } => self.complete(at, key, *errno),
            &Kind::QueueWork { work, function } => self.queue_work(at, work, function),
            Kind::Marker(text) => self.marker(at, text),
        }
    }

    /// The entries in order, and what is told beside them.
    pub(crate) fn finish(mut self) -> (Vec<Entry>, Vec<Unplaced>, Vec<OpSeen>, Totals) {
        for life in 0..self.lives.len() {
            if !self.lives[life].released {
                self.tell_waiting(life);
            }
            let misfits = self.lives[life].misfits + self.lives[life].references.misfits();
            if misfits > 0 {
                let id = self.lives[life].id;
                self.unplaced_anywhere(format!(
                    "io_end {id}: {misfits} reference steps do not follow from one another"
                ));
            }
        }
        if !self.open_puts.is_empty() {
            self.unplaced_anywhere(format!("{} puts were entered but took no step", self.open_puts.len()));
        }
        self.totals.io_ends = self.lives.len();
        self.totals.io_ends_alive = self.alive.len();
        self.totals.requests_unanswered =
            self.in_flight.values().chain(self.requeued.values()).map(VecDeque::len).sum();
        self.out.sort_by_key(|&(key, _)| key);
        let entries = self.out.into_iter().map(|(_, entry)| entry).collect();
        (entries, self.unplaced, self.ops, self.totals)
    }

    // ---- writepages, io_ends and their references ----

    fn writepages_enter(&mut self, at: usize, dev: u64, ino: Ino, sync: bool) {
        if self.fs_dev != Some(dev) {
            return self.unplaced(at, "writeback of a second ext4 file system".into());
        }
        let task = self.task_id(at);
        self.task(at).writepages = Some(ino);
        self.stimulus(at, Stimulus::WritepagesEnter { task, ino, sync });
    }

    fn writepages_leave(&mut self, at: usize, ino: Ino) {
        let task = self.task_id(at);
        self.task(at).writepages = None;
        self.stimulus(at, Stimulus::WritepagesLeave { task, ino });
    }

    fn init(&mut self, at: usize, address: u64, count: u32, unwritten: bool, inode: u64, ino: Ino) {
        let task = self.task_id(at);
        if address == 0 {
            return self.init_failed(at, task);
        }
        if let Some(&old) = self.alive.get(&address) {
            let id = self.lives[old].id;
            self.unplaced(at, format!("an io_end is born where io_end {id} still lives: its release is missing"));
        }
        let life = self.lives.len();
        let io_end = IoEndId(life as u32 + 1);
        let references = References::born(count);
        self.lives.push(Life {
            id: io_end,
            ino,
            inode,
            references,
            misfits: 0,
            last_put: None,
            waits: false,
            released: false,
        });
        self.alive.insert(address, life);
        self.task(at).io_end = Some(life);
        self.stimulus(at, Stimulus::InitIoEnd { task, ino, failed: false });
        self.response(at, Response::InitIoEnd { io_end, ino, count, unwritten });
    }

    fn init_failed(&mut self, at: usize, task: TaskId) {
        let Some(ino) = self.task(at).writepages else {
            return self.unplaced(at, "an io_end could not be allocated, and for which inode is not known".into());
        };
        self.stimulus(at, Stimulus::InitIoEnd { task, ino, failed: true });
        self.response(at, Response::AllocFailed { ino });
    }

    fn mapped(&mut self, at: usize) {
        let Kind::Mapped { ino, lblk, pblk, ret, unwritten, for_writeback } = self.events[at].kind else { return };
        if for_writeback && ret < 0 {
            self.unmapped.insert(Ino(ino));
        }
        // A mapping that failed gives the io_end nothing; what follows from it shows in other events.
        if ret <= 0 {
            return;
        }
        let (task, ino, len) = (self.task_id(at), Ino(ino), ret as u32);
        if !for_writeback {
            return self.stimulus(at, Stimulus::BlocksMapped { ino, lblk, pblk, len });
        }
        let current = self.task(at).io_end;
        match current {
            Some(life) if self.lives[life].ino == ino => {
                self.stimulus(at, Stimulus::ExtentMapped { task, ino, lblk, pblk, len, unwritten });
            }
            _ => {
                self.unplaced(at, "an extent is mapped for writeback by a task without an io_end of that inode".into())
            }
        }
    }

    fn folio(&mut self, at: usize, address: u64, ino: Ino, index: u64, order: u8) {
        let task = self.task_id(at);
        let current = self.task(at).io_end;
        if current.is_none() || current != self.alive.get(&address).copied() {
            self.unplaced(at, format!("page {index} is handed over for an io_end that is not the task's"));
        }
        self.handed_over.insert((ino, index));
        self.stimulus(at, Stimulus::FolioSubmitted { task, ino, index, order });
    }

    fn get(&mut self, at: usize, address: u64, count: Count, unwritten: bool) {
        let Some(&life) = self.alive.get(&address) else {
            return self.unplaced(at, "a bio takes a reference on an io_end that is not known".into());
        };
        if self.task(at).io_end != Some(life) {
            self.unplaced(at, "a bio takes a reference on an io_end that is not the task's".into());
        }
        if self.task(at).open_bio.is_some() {
            self.unplaced(at, "a bio is opened while the task has another one open".into());
        }
        let (task, io_end) = (self.task_id(at), self.lives[life].id);
        let bio = self.new_bio();
        self.task(at).open_bio = Some((bio, life));
        let (key, old) = self.step(at, life, count, Step::Up);
        self.put_out(key, Body::Stimulus(Stimulus::BioOpened { task }), at);
        let count = Step::Up.from(old);
        self.put_out(key, Body::Response(Response::GetIoEnd { io_end, bio, count, unwritten }), at);
    }

    fn put_in(&mut self, at: usize) {
        let event = &self.events[at];
        let Kind::PutIn { by, io_end, count, unwritten, caller } = event.kind else { return };
        let life = self.alive.get(&io_end).copied();
        if life.is_none() {
            self.unplaced(at, "a reference is dropped on an io_end that is not known".into());
        }
        let put = OpenPut { by, address: io_end, life, cpu: event.cpu, task: event.task, unwritten, caller };
        if self.formats.put_is_exact(by) {
            self.open_puts.push(put);
        } else {
            self.put(at, &put, Count::Read(count));
        }
    }

    fn put_done(&mut self, at: usize, by: PutBy, address: u64, old: u32) {
        let (cpu, task) = (self.events[at].cpu, self.events[at].task);
        // The innermost one: what interrupts a put has finished its own before the put goes on.
        let same = |put: &OpenPut| put.by == by && put.address == address;
        let on_cpu = self.open_puts.iter().rposition(|put| same(put) && put.cpu == cpu);
        let place = on_cpu.or_else(|| self.open_puts.iter().rposition(|put| same(put) && put.task == task));
        match place {
            Some(place) => {
                let put = self.open_puts.remove(place);
                self.put(at, &put, Count::Exact(old));
            }
            None => self.unplaced(at, "a put takes its step without having been entered".into()),
        }
    }

    fn put(&mut self, at: usize, put: &OpenPut, count: Count) {
        let Some(life) = put.life else { return };
        let own = self.is_within(put.caller, &["ext4_writepages", "ext4_do_writepages", "ext4_writepage"]);
        let (key, old) = self.step(at, life, count, Step::Down);
        if own {
            self.own_put(at, life, put.by, key);
        } else {
            self.completion_put(at, life);
            self.completion_goes_on(at, key);
        }
        let (io_end, unwritten, count) = (self.lives[life].id, put.unwritten, Step::Down.from(old));
        let response = match put.by {
            PutBy::PutIoEnd => Response::PutIoEnd { io_end, count, unwritten },
            PutBy::PutIoEndDefer => Response::PutIoEndDefer { io_end, count, unwritten },
        };
        self.put_out(key, Body::Response(response), at);
        if count == 0 && put.by == PutBy::PutIoEndDefer {
            let key = (key.0, key.1, key.2, self.made);
            self.lives[life].last_put = Some(LastPut { at, key });
        }
    }

    fn own_put(&mut self, at: usize, life: usize, by: PutBy, key: Key) {
        let task = self.task_id(at);
        if self.task(at).io_end == Some(life) {
            self.task(at).io_end = None;
        } else {
            self.unplaced(at, "a task drops a reference it does not hold".into());
        }
        self.put_out(key, Body::Stimulus(Stimulus::RefDropped { task, by }), at);
    }

    fn completion_put(&mut self, at: usize, life: usize) {
        let ended = self.ended.entry(self.events[at].cpu).or_default();
        match ended.iter().rposition(|&other| other == life) {
            Some(place) => {
                ended.remove(place);
            }
            None => self.unplaced(at, "a reference is dropped neither by writepages nor by a bio that ended".into()),
        }
    }

    /// Tells that the interrupt of this CPU takes a step, which with one CPU follows from the answer alone. A bio that ends in
    /// a task's own hands was refused where it was submitted; that belongs to no answer.
    fn completion_goes_on(&mut self, at: usize, key: Key) {
        let event = &self.events[at];
        let request = self.completing.get(&event.cpu).copied();
        if let Some(request) = request.filter(|_| self.several_cpus && event.interrupt) {
            self.put_out(key, Body::Stimulus(Stimulus::CompletionGoesOn { request }), at);
        }
    }

    /// Takes a reference step: where it belongs, and the count before it.
    fn step(&mut self, at: usize, life: usize, count: Count, step: Step) -> (Key, u32) {
        let in_place = (at, Side::At, at, 0);
        match count {
            Count::Exact(old) if self.several_cpus => {
                let Some(&StepPlace { place, turn }) = self.steps.get(&at) else {
                    self.lives[life].misfits += 1;
                    return (in_place, old);
                };
                self.totals.reordered_steps += usize::from(place != at);
                (if place == at { in_place } else { (place, Side::Before, turn, 0) }, old)
            }
            Count::Exact(old) => match self.lives[life].references.exact(at, old, step) {
                None => (in_place, old),
                Some(held) => {
                    self.totals.reordered_steps += 1;
                    ((self.before_episode(at, held), Side::Before, at, 0), old)
                }
            },
            Count::Read(read) => {
                let old = self.lives[life].references.in_recorded_order(step);
                self.totals.inexact_counts += usize::from(read != old);
                (in_place, old)
            }
        }
    }

    /// Place of the first event of the interrupt that the step `held` was taken in (or of `held` itself, in a task), but
    /// not before anything the context of `at` has done: the step at `at` came before all of it.
    fn before_episode(&self, at: usize, held: usize) -> usize {
        let late = &self.events[at];
        let own = |event: &&Event| match late.interrupt {
            true => event.cpu == late.cpu && event.interrupt,
            false => event.task == late.task && !event.interrupt,
        };
        let cpu = self.events[held].cpu;
        let episode = self.events[..=held].iter().enumerate().rev().filter(|(_, event)| event.cpu == cpu);
        let first = episode.take_while(|(_, event)| event.interrupt).last().map_or(held, |(place, _)| place);
        let own_last = self.events[..held].iter().rposition(|event| own(&event));
        own_last.map_or(first, |last| first.max(last + 1))
    }

    fn release(&mut self, at: usize, address: u64, unwritten: bool) {
        let Some(life) = self.alive.remove(&address) else {
            return self.unplaced(at, "an io_end is released that is not known".into());
        };
        if !self.is_released_by_its_last_put(at, life) {
            self.tell_waiting(life);
        }
        self.lives[life].released = true;
        if self.task(at).converting == Some(life) {
            self.task(at).converting = None;
        }
        let io_end = self.lives[life].id;
        self.response(at, Response::ReleaseIoEnd { io_end, unwritten });
    }

    fn is_released_by_its_last_put(&mut self, at: usize, life: usize) -> bool {
        let Some(last) = self.lives[life].last_put else { return true };
        let (put, release) = (&self.events[last.at], &self.events[at]);
        let same_context = put.cpu == release.cpu && put.task == release.task && put.interrupt == release.interrupt;
        let worker_since = self.tasks.get(&release.task).and_then(|task| task.worker_since);
        same_context && (release.interrupt || worker_since.is_none_or(|since| since < last.at))
    }

    // ---- bios ----

    fn submit_bio(&mut self, at: usize) {
        let Kind::SubmitBio { bio: address, sector, bytes, sync, end_io, io_end } = self.events[at].kind else {
            return;
        };
        if self.symbol("ext4_end_bio").is_none_or(|symbol| symbol.address != end_io) {
            return;
        }
        let Some(&life) = self.alive.get(&io_end) else {
            return self.unplaced(at, "a bio is submitted for an io_end that is not known".into());
        };
        let task = self.task_id(at);
        let bio = match self.task(at).open_bio.take() {
            Some((bio, opened_for)) if opened_for == life => bio,
            None if !self.has_get => {
                self.stimulus(at, Stimulus::BioOpened { task });
                self.new_bio()
            }
            _ => return self.unplaced(at, "a bio is submitted that its task has not opened for that io_end".into()),
        };
        if let Some((old, _)) = self.bios.insert(address, (bio, life)) {
            self.unplaced(at, format!("a bio is submitted where bio {old} has not ended"));
        }
        let io_end = self.lives[life].id;
        self.stimulus(at, Stimulus::BioSubmitted { task, sector, bytes, sync });
        self.response(at, Response::SubmitBio { bio, io_end, sector, bytes });
    }

    fn end_bio(&mut self, at: usize, address: u64, status: u8, io_end: u64) {
        let Some((bio, life)) = self.bios.remove(&address) else {
            return self.unplaced(at, "a bio ends that was not submitted".into());
        };
        if self.alive.get(&io_end) != Some(&life) {
            self.unplaced(at, format!("bio {bio} ends on another io_end than it was submitted for"));
        }
        self.ended.entry(self.events[at].cpu).or_default().push(life);
        let Some(error) = errno_of_status(status) else {
            return self.unplaced(at, format!("bio {bio} ends with block status {status}, which has no errno here"));
        };
        let io_end = self.lives[life].id;
        self.completion_goes_on(at, (at, Side::At, at, 0));
        self.response(at, Response::EndBio { bio, io_end, error });
    }

    fn new_bio(&mut self) -> BioId {
        self.totals.bios += 1;
        BioId(self.totals.bios as u32)
    }

    // ---- worker and conversion ----

    fn queue_work(&mut self, at: usize, work: u64, function: u64) {
        if self.symbol("ext4_end_io_rsv_work").is_none_or(|symbol| symbol.address != function) {
            return;
        }
        // The last put and the queueing are one step of one CPU; another CPU may do the same for another io_end meanwhile.
        let cpu = self.events[at].cpu;
        let last_put = |life: &Life| life.last_put.map(|last| last.at).filter(|&put| self.events[put].cpu == cpu);
        let fits = |life: &Life| {
            !life.waits
                && !life.released
                && life.inode.wrapping_add(self.inode_to_work) == work
                && last_put(life).is_some()
        };
        let candidates = self.lives.iter().enumerate().filter(|(_, life)| fits(life));
        let Some((life, _)) = candidates.max_by_key(|(_, life)| last_put(life)) else {
            return self.unplaced(at, "the conversion work is queued without a last put before it".into());
        };
        self.lives[life].waits = true;
        let io_end = self.lives[life].id;
        self.response(at, Response::AddCompleteIo { io_end, queued: true });
    }

    /// The io_end waits on a list that was not empty: told where its last put was, as nothing else shows it.
    fn tell_waiting(&mut self, life: usize) {
        let Some(last) = self.lives[life].last_put else { return };
        if self.lives[life].waits {
            return;
        }
        self.lives[life].waits = true;
        let io_end = self.lives[life].id;
        let entry = self.entry(last.at, Body::Response(Response::AddCompleteIo { io_end, queued: false }), last.key);
        self.out.push((last.key, entry));
    }

    fn worker_starts(&mut self, at: usize, ino: Ino) {
        let task = self.task_id(at);
        self.task(at).worker_since = Some(at);
        self.stimulus(at, Stimulus::WorkerStarts { task, ino });
    }

    fn convert_io_end(&mut self, at: usize, address: u64) {
        let Some(&life) = self.alive.get(&address) else {
            return self.unplaced(at, "an io_end is converted that is not known".into());
        };
        self.tell_waiting(life);
        let task = self.task(at);
        task.converting = Some(life);
        task.conversions = 0;
    }

    fn convert_io_end_done(&mut self, at: usize, ret: i64) {
        if ret < 0 && self.task(at).conversions == 0 {
            self.unplaced(at, format!("a conversion failed ({ret}) before its first extent"));
        }
    }

    fn convert(&mut self, at: usize, ino: Ino, offset: i64, len: i64) {
        let Some(life) = self.task(at).converting else {
            self.totals.conversions_without_io_end += 1;
            self.task(at).conversion = Some(false);
            return;
        };
        self.totals.conversions += 1;
        self.task(at).conversions += 1;
        self.task(at).conversion = Some(true);
        let io_end = self.lives[life].id;
        self.response(at, Response::ConvertUnwritten { ino, io_end, offset: offset as u64, size: len as u64 });
    }

    fn convert_done(&mut self, at: usize, ret: i64) {
        let task = self.task_id(at);
        match self.task(at).conversion.take() {
            Some(true) => self.stimulus(at, Stimulus::ConversionResult { task, errno: ret as Errno }),
            Some(false) => {}
            None => self.unplaced(at, "a conversion ends that has not begun".into()),
        }
    }

    fn end_writeback(&mut self, at: usize, dev: u64, ino: Ino, page: u64) {
        if self.fs_dev != Some(dev) {
            self.totals.other_folios += 1;
            return;
        }
        if !self.handed_over.remove(&(ino, page)) {
            if !self.events[at].interrupt && self.task(at).writepages == Some(ino) {
                let task = self.task_id(at);
                self.stimulus(at, Stimulus::FolioSkipped { task, ino, index: page });
            } else if self.unmapped.contains(&ino) {
                // What becomes of folios whose blocks could not be mapped, elsewhere than in writepages, nobody follows.
                let what =
                    format!("page {page} of inode {ino}, of which blocks could not be mapped before, leaves writeback");
                return self.unplaced(at, format!("{what} without having been handed over"));
            }
        }
        self.response(at, Response::EndPageWriteback { ino, page });
    }

    // ---- block requests ----

    fn is_other_disk(&mut self, key: &RequestKey) -> bool {
        let other = self.disk != Some(key.dev);
        self.totals.other_devices += usize::from(other);
        other
    }

    fn issue(&mut self, at: usize, key: &RequestKey) {
        if self.is_other_disk(key) {
            return;
        }
        let again = self.requeued.get_mut(key).and_then(VecDeque::pop_front);
        let request = again.unwrap_or_else(|| {
            self.totals.requests += 1;
            RequestId(self.totals.requests as u64)
        });
        let equal = self.in_flight.entry(key.clone()).or_default();
        self.totals.equal_requests_in_flight.extend(equal.back().map(|&other| (other, request)));
        equal.push_back(request);
        let (op, sector, sectors) = (block_op(key.op), key.sector, key.sectors);
        self.stimulus(at, Stimulus::RequestIssued { request, op, sector, sectors });
    }

    fn requeue(&mut self, at: usize, key: &RequestKey) {
        if self.is_other_disk(key) {
            return;
        }
        let Some(request) = self.take_in_flight(key) else {
            return self.unplaced(at, format!("a request is requeued that is not in flight: {key:?}"));
        };
        self.requeued.entry(key.clone()).or_default().push_back(request);
        self.stimulus(at, Stimulus::RequestRequeued { request });
    }

    fn complete(&mut self, at: usize, key: &RequestKey, errno: i64) {
        if self.is_other_disk(key) {
            return;
        }
        let cpu = self.events[at].cpu;
        match self.take_in_flight(key) {
            Some(request) => {
                self.completing.insert(cpu, request);
                self.failed_flush.remove(&cpu);
                if key.sectors == 0 && errno != 0 {
                    self.failed_flush.insert(cpu, errno);
                }
                self.emit(at, Body::Answered { request });
                self.response(at, Response::RequestError { request, errno: errno as Errno });
            }
            None if key.sectors == 0 => self.totals.flush_sequence_ends += 1,
            // block/blk-flush.c, blk_flush_complete_seq, v5.10 to v7.2: where the flush before a write fails, the write ends
            // there with its error, and no device has seen it.
            None if errno != 0 && self.failed_flush.get(&cpu) == Some(&errno) => self.totals.ended_by_failed_flush += 1,
            None => self.unplaced(at, format!("a request completes that is not in flight: {key:?}")),
        }
    }

    fn take_in_flight(&mut self, key: &RequestKey) -> Option<RequestId> {
        let queue = self.in_flight.get_mut(key)?;
        let request = queue.pop_front();
        if queue.is_empty() {
            self.in_flight.remove(key);
        }
        request
    }

    // ---- operations of the workload ----

    /// `B INDEX NAME [INODE]`, `E INDEX ERRNO`, `# REMARK`
    fn marker(&mut self, at: usize, text: &str) {
        let mut words = text.split_whitespace();
        let (head, index, rest) = (words.next(), words.next().and_then(|index| index.parse().ok()), words.next());
        match (head, index, rest) {
            (Some("#"), ..) => {}
            (Some("B"), Some(index), Some(name)) => {
                let ino = words.next().and_then(|ino| ino.parse().ok());
                self.op_begins(at, OpId(index), name, ino.map(Ino));
            }
            (Some("E"), Some(index), Some(errno)) => match errno.parse::<Errno>() {
                Ok(errno) => self.op_ends(at, OpId(index), -errno.saturating_abs()),
                Err(_) => self.unplaced(at, format!("the trace marker {text:?} has no errno")),
            },
            _ => self.unplaced(at, format!("the trace marker {text:?} is not one of guest-init's")),
        }
    }

    fn op_begins(&mut self, at: usize, op: OpId, name: &str, tells_errors_of: Option<Ino>) {
        let task = self.task_id(at);
        let place = (self.ops.len(), self.out.len());
        self.task(at).op = Some(place);
        self.ops.push(OpSeen { op, name: name.into(), begins: self.events[at].seq, ends: None });
        let kind = tells_errors_of.map_or(OpKind::Other, |ino| OpKind::Fsync { ino });
        self.stimulus(at, Stimulus::OpBegins { task, op, kind });
    }

    /// Which file an fsync is on is only known once the file system is called.
    fn sync_file(&mut self, at: usize, ino: Ino) {
        let Some((op, entry)) = self.task(at).op else { return };
        if !matches!(self.ops[op].name.as_str(), "fsync" | "fdatasync") {
            return;
        }
        self.set_kind(entry, OpKind::Fsync { ino });
    }

    fn set_kind(&mut self, entry: usize, is: OpKind) {
        if let Body::Stimulus(Stimulus::OpBegins { kind, .. }) = &mut self.out[entry].1.body {
            *kind = is;
        }
    }

    fn op_ends(&mut self, at: usize, op: OpId, errno: Errno) {
        let task = self.task_id(at);
        match self.task(at).op.take() {
            Some((place, entry)) if self.ops[place].op == op => {
                if errno == EFAULT {
                    self.set_kind(entry, OpKind::Other);
                }
                self.ops[place].ends = Some((self.events[at].seq, errno));
                self.stimulus(at, Stimulus::OpEnds { task, op });
                self.response(at, Response::OpResult { op, errno });
            }
            _ => self.unplaced(at, format!("operation {op} ends but has not begun")),
        }
    }

    // ---- common ----

    fn stimulus(&mut self, at: usize, stimulus: Stimulus) {
        self.emit(at, Body::Stimulus(stimulus));
    }

    fn response(&mut self, at: usize, response: Response) {
        self.emit(at, Body::Response(response));
    }

    fn emit(&mut self, at: usize, body: Body) {
        self.put_out((at, Side::At, at, 0), body, at);
    }

    fn put_out(&mut self, key: Key, body: Body, at: usize) {
        let key = (key.0, key.1, key.2, self.made);
        self.made += 1;
        let entry = self.entry(at, body, key);
        self.out.push((key, entry));
    }

    /// An entry that is put before an event gets that event's place in the sequence, so that `seq` never falls.
    fn entry(&self, at: usize, body: Body, key: Key) -> Entry {
        let event = &self.events[at];
        let task = TaskId(event.task);
        Entry { seq: self.events[key.0].seq, cpu: event.cpu, task, interrupt: event.interrupt, body }
    }

    fn task(&mut self, at: usize) -> &mut Task {
        self.tasks.entry(self.events[at].task).or_default()
    }

    fn task_id(&self, at: usize) -> TaskId {
        TaskId(self.events[at].task)
    }

    fn symbol(&self, name: &str) -> Option<&'a SymbolAddress> {
        self.symbols.iter().find(|symbol| symbol.name == name)
    }

    fn is_within(&self, address: u64, names: &[&str]) -> bool {
        let holds = |symbol: &SymbolAddress| (symbol.address..symbol.end).contains(&address);
        names.iter().any(|name| self.symbol(name).is_some_and(holds))
    }

    fn unplaced(&mut self, at: usize, why: String) {
        let event = &self.events[at];
        let place = Some(Place { seq: event.seq, cpu: event.cpu, task: event.task });
        self.unplaced.push(Unplaced { place, why });
    }

    fn unplaced_anywhere(&mut self, why: String) {
        self.unplaced.push(Unplaced { place: None, why });
    }
}

/// Where the reference steps of a trace of several CPUs belong; those of an io_end that fit no order are left out.
fn places_of_steps(events: &[Event]) -> BTreeMap<usize, StepPlace> {
    let mut lives: Vec<(u32, Vec<Recorded>)> = Vec::new();
    let mut alive: BTreeMap<u64, usize> = BTreeMap::new();
    let mut open: Vec<(Context, u64, usize)> = Vec::new();
    let mut last: BTreeMap<Context, usize> = BTreeMap::new();
    for (at, event) in events.iter().enumerate() {
        let context = if event.interrupt { Context::Interrupt(event.cpu) } else { Context::Task(event.task) };
        let step = match event.kind {
            Kind::Init { io_end, count, .. } => {
                alive.insert(io_end, lives.len());
                lives.push((count, Vec::new()));
                None
            }
            Kind::Release { io_end, .. } => {
                alive.remove(&io_end);
                None
            }
            Kind::Get { io_end, count: Count::Exact(old), .. } => alive.get(&io_end).map(|&life| (life, old, Step::Up)),
            Kind::PutIn { io_end, .. } => {
                // While the reference is held: once its step is recorded the io_end may be gone.
                open.extend(alive.get(&io_end).map(|&life| (context, io_end, life)));
                None
            }
            Kind::PutDone { io_end, old, .. } => {
                let own = open.iter().rposition(|&(whose, address, _)| (whose, address) == (context, io_end));
                own.map(|place| (open.remove(place).2, old, Step::Down))
            }
            _ => None,
        };
        if let Some((life, old, step)) = step {
            let after = last.get(&context).copied();
            lives[life].1.push(Recorded { at, after, context, old, step });
        }
        last.insert(context, at);
    }
    lives.iter().filter_map(|(count, steps)| interleave::places(*count, steps)).flatten().collect()
}

/// The value all items have, if they all have the same.
fn only(items: impl Iterator<Item = u64>) -> Option<u64> {
    let distinct: BTreeSet<_> = items.collect();
    distinct.first().copied().filter(|_| distinct.len() == 1)
}

fn block_op(letter: char) -> BlockOp {
    match letter {
        'R' => BlockOp::Read,
        'W' => BlockOp::Write,
        'F' => BlockOp::Flush,
        'D' => BlockOp::Discard,
        _ => BlockOp::Other,
    }
}

/// `block/blk-core.c, blk_errors`: the statuses whose numbers are the same in 5.10 to 7.2.
fn errno_of_status(status: u8) -> Option<Errno> {
    Some(match status {
        0 => 0,
        1 => -95,  // NOTSUPP: EOPNOTSUPP
        2 => -110, // TIMEOUT: ETIMEDOUT
        3 => -28,  // NOSPC: ENOSPC
        4 => -67,  // TRANSPORT: ENOLINK
        5 => -121, // TARGET: EREMOTEIO
        6 => -52,  // RESV_CONFLICT: EBADE
        7 => -61,  // MEDIUM: ENODATA
        8 => -84,  // PROTECTION: EILSEQ
        9 => -12,  // RESOURCE: ENOMEM
        10 => -5,  // IOERR: EIO
        11 => -78, // DM_REQUEUE: EREMCHG
        12 => -11, // AGAIN: EAGAIN
        13 => -16, // DEV_RESOURCE: EBUSY
        _ => return None,
    })
}
