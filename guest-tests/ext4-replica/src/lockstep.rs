//! The lockstep driver: a guest's trace says whose step is next.
//!
//! Each stimulus starts a kernel function on the thread it names, or lets one go on that waits. The function then runs to
//! its end, as no other stimulus falls between. What the driver knows and the path does not is where bios begin and end
//! ([`Survey`]), which requests they travel in ([`BlockLayer`]), and what an operation of the workload is told.

use crate::block_layer::{Answered, BlockLayer, Unfit};
use crate::dialect::Dialect;
use crate::misfit::{Misfit, MisfitKind};
use crate::mutation::Mutation;
use crate::page_io::{EIO, Path, add_to_list_vec};
use crate::state::IoEndVec;
use crate::survey::{MAX_ORDER, Survey, Written};
use crate::thread::{EndBio, Frame, OrFlag, Progress, Put, Thread};
use crate::writeback::BioWritePage;
use std::collections::{BTreeMap, VecDeque};
use writeback_events::{
    BioId, BlockOp, Errno, Ino, IoEndId, OpId, OpKind, PutBy, RequestId, RequestStatus, Response, Stimulus, Subject,
    TaskId,
};

/// The replica, before a driver has taken hold of it.
#[derive(Clone, Copy, Debug)]
pub struct Replica;

/// Why no fsync can be predicted once that has happened.
const JOURNAL_ABORTED: &str = "the journal was aborted over a failed write of file data (data_err=abort)";

/// Why neither of two fsyncs can be predicted.
const TOLD_BESIDE: &str = "another writer's fsync of the file was under way, and an error is told to one of them";

/// What a lockstep run is made for.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How the kernel behaves.
    pub dialect: Dialect,
    /// A planted mistake. None, save for a canary.
    pub mutation: Option<Mutation>,
    /// Bytes of a file system block: 1024, 2048 or 4096.
    pub block_bytes: u32,
    /// Worker starts, counted from 1 over the whole run, whose worker takes the list only after so many more io_ends have
    /// been queued. The guest's trace shows that a worker starts, not when it takes the list; see [`Lockstep::raced`].
    pub late_splices: BTreeMap<u32, usize>,
    /// The file system is mounted with data_err=abort.
    pub data_err_abort: bool,
    /// CPUs of the guest. With more than one, an interrupt takes its steps where [`Stimulus::CompletionGoesOn`] says.
    pub cpus: u16,
}

impl Setup {
    /// A true replica of `dialect` for a file system with 4096-byte blocks.
    pub fn new(dialect: Dialect) -> Setup {
        let late_splices = BTreeMap::new();
        Setup { dialect, mutation: None, block_bytes: 4096, late_splices, data_err_abort: false, cpus: 1 }
    }
}

/// An operation whose result the replica is not sure of: what it answers is the file's own error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotPredicted {
    /// Which one.
    pub op: OpId,
    /// Why not.
    pub why: String,
    /// Another writer's overlaps it, which may have been told the file's error in its place: any failed request is reason enough.
    pub told_beside: bool,
}

impl Replica {
    /// A replica to be driven in lockstep with a guest. `stimuli` are all of the trace, in order: those that
    /// [`Lockstep::step`] is then given one by one.
    pub fn lockstep<'a>(setup: Setup, stimuli: impl IntoIterator<Item = &'a Stimulus>) -> Lockstep {
        let block_bytes = u64::from(setup.block_bytes).clamp(512, 4096);
        let mut path = Path::new(setup.dialect, setup.mutation, block_bytes);
        path.data_err_abort = setup.data_err_abort;
        Lockstep {
            path,
            responses: Vec::new(),
            survey: Survey::read(stimuli, block_bytes),
            block_layer: BlockLayer::new(setup.mutation.or(setup.dialect.mutation)),
            block_bytes,
            dialect: setup.dialect,
            late_splices: setup.late_splices,
            cpus: setup.cpus,
            completions: BTreeMap::new(),
            tasks: BTreeMap::new(),
            workers: BTreeMap::new(),
            raced: BTreeMap::new(),
            ops: BTreeMap::new(),
            doubt: None,
            not_predicted: Vec::new(),
            io_ends: 0,
            bios: 0,
            folios: 0,
            worker_starts: 0,
            woken: None,
        }
    }
}

/// A replica that follows a guest.
#[derive(Clone, Debug)]
pub struct Lockstep {
    path: Path,
    /// Answers to the stimulus that is being taken.
    responses: Vec<Response>,
    survey: Survey,
    block_layer: BlockLayer,
    block_bytes: u64,
    dialect: Dialect,
    late_splices: BTreeMap<u32, usize>,
    cpus: u16,
    /// Answers whose bios have not all ended and been put: only with several CPUs.
    completions: BTreeMap<RequestId, Completion>,
    tasks: BTreeMap<TaskId, Task>,
    /// Workers that have started and have shown nothing else yet.
    workers: BTreeMap<Ino, Window>,
    raced: BTreeMap<u32, usize>,
    ops: BTreeMap<OpId, Op>,
    /// Why no fsync's result is sure any more.
    doubt: Option<String>,
    not_predicted: Vec<NotPredicted>,
    io_ends: u32,
    bios: u32,
    folios: usize,
    worker_starts: u32,
    woken: Option<(usize, TaskId)>,
}

/// A guest task, as far as the path knows it.
#[derive(Clone, Debug, Default)]
struct Task {
    /// The `ext4_writepages` call it is in.
    writepages: Option<(Ino, bool)>,
    /// `struct ext4_io_submit`: its io_end and the bio it has open.
    io_end: Option<IoEndId>,
    io_bio: Option<BioId>,
    /// The conversion it is in.
    thread: Thread,
}

/// An interrupt that ends the bios of a request.
#[derive(Clone, Debug, Default)]
struct Completion {
    /// Those it has not begun to end.
    bios: VecDeque<(BioId, Errno)>,
    /// Within `ext4_end_bio` of the one before them.
    thread: Thread,
}

impl Completion {
    fn is_over(&self) -> bool {
        self.bios.is_empty() && self.thread.is_done()
    }
}

/// A worker whose moment of taking the list cannot be told.
#[derive(Clone, Copy, Debug)]
struct Window {
    worker: TaskId,
    start: u32,
    /// It takes the list once so many have been queued behind its start; 0: it has taken it.
    waits_for: usize,
    /// Of those queued behind its start, the ones that it has taken.
    taken: usize,
    /// io_ends on the list once it had started, or had taken the list.
    listed: usize,
}

#[derive(Clone, Debug)]
struct Op {
    task: TaskId,
    kind: OpKind,
    doubt: Option<String>,
}

type Stepped = Result<(), Misfit>;

impl Lockstep {
    /// What the path answers to the next stimulus. A misfit has no effect.
    pub fn step(&mut self, stimulus: &Stimulus) -> Result<Vec<Response>, Misfit> {
        self.woken = None;
        let stepped = self.take(stimulus);
        self.let_late_workers_go();
        let responses = std::mem::take(&mut self.responses);
        stepped.map(|()| responses)
    }

    /// Operations so far whose result the replica could not know.
    pub fn not_predicted(&self) -> &[NotPredicted] {
        &self.not_predicted
    }

    /// Worker starts, counted from 1, after which io_ends were queued before the worker showed that it had taken the list
    /// (by coming back from a conversion, or by starting again), and how many: in the guest the first of them may have
    /// belonged to this round, and the others to the next.
    pub fn raced(&self) -> &BTreeMap<u32, usize> {
        &self.raced
    }

    /// Of the last step: the place from which on its responses are not those of the stimulus's own thread, but of a worker
    /// that had waited for it (see [`Setup::late_splices`]), and that worker.
    pub fn woken(&self) -> Option<(usize, TaskId)> {
        self.woken
    }

    /// Numbers of io_ends born and bios opened so far.
    pub fn numbered(&self) -> (u32, u32) {
        (self.io_ends, self.bios)
    }

    fn take(&mut self, stimulus: &Stimulus) -> Stepped {
        match *stimulus {
            Stimulus::WritepagesEnter { task, ino, sync } => self.writepages_enter(task, ino, sync),
            Stimulus::WritepagesLeave { task, ino } => self.writepages_leave(task, ino),
            Stimulus::InitIoEnd { task, ino, failed: true } => self.alloc_failed(task, ino),
            Stimulus::InitIoEnd { task, ino, failed: false } => self.init_io_end(task, ino),
            Stimulus::ExtentMapped { task, ino, lblk, len, unwritten, .. } => {
                self.extent_mapped(task, ino, lblk, len, unwritten)
            }
            Stimulus::FolioSubmitted { task, ino, index, order } => self.folio_submitted(task, ino, index, order),
            Stimulus::FolioSkipped { task, ino, index } => self.folio_skipped(task, ino, index),
            Stimulus::BioOpened { task } => self.bio_opened(task),
            Stimulus::BioSubmitted { task, sector, bytes, sync } => self.bio_submitted(task, sector, bytes, sync),
            Stimulus::RequestIssued { request, op, sector, sectors } => {
                self.request_issued(request, op, sector, sectors)
            }
            Stimulus::RequestRequeued { request } => {
                let requeued = self.block_layer.requeue(request);
                requeued.map_err(|unfit| self.unfit_request(request, unfit))
            }
            Stimulus::RequestAnswered { request, status } => self.request_answered(request, status),
            Stimulus::AnswerUntrue { request, elsewhere } => self.answer_untrue(request, elsewhere),
            Stimulus::DiskShrinks => {
                self.doubt.get_or_insert_with(|| "the disk became smaller before it ended".to_owned());
                Ok(())
            }
            Stimulus::DiskHas { sectors } => {
                self.block_layer.disk_sectors = Some(sectors);
                Ok(())
            }
            Stimulus::CompletionGoesOn { request } => self.completion_goes_on(request),
            Stimulus::RefDropped { task, by } => self.ref_dropped(task, by),
            Stimulus::BlocksMapped { .. } => Ok(()),
            Stimulus::InodeEvicted { ino, .. } => {
                self.inode_evicted(ino);
                Ok(())
            }
            Stimulus::WorkerStarts { task, ino } => self.worker_starts(task, ino),
            Stimulus::ConversionResult { task, errno } => self.conversion_result(task, errno),
            Stimulus::OpBegins { task, op, kind } => self.op_begins(task, op, kind),
            Stimulus::OpEnds { op, .. } => self.op_ends(op),
        }
    }

    fn writepages_enter(&mut self, task: TaskId, ino: Ino, sync: bool) -> Stepped {
        if let Some((ino, _)) = self.task(task).writepages {
            return Err(about_inode(ino, MisfitKind::AlreadyInWritepages { task, ino }));
        }
        self.task(task).writepages = Some((ino, sync));
        Ok(())
    }

    fn writepages_leave(&mut self, task: TaskId, ino: Ino) -> Stepped {
        let state = self.task(task);
        if state.writepages.take().is_none_or(|(entered, _)| entered != ino) {
            return Err(about_inode(ino, MisfitKind::NotInWritepages { task, ino }));
        }
        state.io_bio = None;
        if let Some(io_end) = state.io_end.take() {
            self.responses.push(Response::HeldAtLeave { io_end });
        }
        Ok(())
    }

    fn alloc_failed(&mut self, task: TaskId, ino: Ino) -> Stepped {
        for op in self.ops.values_mut().filter(|op| op.task == task) {
            op.doubt =
                Some("an io_end could not be allocated while it ran, and what became of that is not modelled".into());
        }
        if !self.path.planted(Mutation::AllocFailedSilent) {
            self.responses.push(Response::AllocFailed { ino });
        }
        Ok(())
    }

    fn init_io_end(&mut self, task: TaskId, ino: Ino) -> Stepped {
        self.io_ends += 1;
        let io_end = IoEndId(self.io_ends);
        let state = self.task(task);
        if let Some(held) = state.io_end {
            return Err(about_io_end(io_end, MisfitKind::HoldsAnother { task, held }));
        }
        state.io_end = Some(io_end);
        self.run(Frame::InitIoEnd { io_end, ino });
        Ok(())
    }

    fn extent_mapped(&mut self, task: TaskId, ino: Ino, lblk: u64, len: u32, unwritten: bool) -> Stepped {
        let io_end = self.current_of(task, ino, "the extent it has mapped")?;
        let offset = lblk.saturating_mul(self.block_bytes);
        let size = u64::from(len).saturating_mul(self.block_bytes);
        let (apart, lost) = (self.path.planted(Mutation::RangeNeverLengthened), self.path.planted(Mutation::RangeLost));
        if let Some(io_end) = self.path.state.io_ends.get_mut(&io_end) {
            match &mut io_end.list_vec {
                list_vec if apart => list_vec.push(IoEndVec { offset, size }),
                list_vec if lost && !list_vec.is_empty() => {}
                list_vec => add_to_list_vec(list_vec, offset, size),
            }
        }
        if unwritten || self.path.planted(Mutation::UnwrittenAlways) {
            self.run(Frame::SetIoUnwrittenFlag { io_end, at: OrFlag::Test });
        }
        Ok(())
    }

    fn folio_submitted(&mut self, task: TaskId, ino: Ino, page: u64, order: u8) -> Stepped {
        let written = self.survey.folios.get(self.folios).cloned().unwrap_or_default();
        self.folios += 1;
        let io_end = self.current_of(task, ino, "the folio it hands over")?;
        if order > MAX_ORDER {
            return Err(about_io_end(io_end, MisfitKind::FolioTooLarge { page, order }));
        }
        if self.path.state.inodes.get(&ino).is_some_and(|inode| inode.writeback.contains_key(&page)) {
            return Err(about_io_end(io_end, MisfitKind::StillUnderWriteback { ino, page }));
        }
        self.no_bio_across_hole(task, io_end, page, &written)?;
        self.run(Frame::BioWritePage { ino, page, at: BioWritePage::MarkBuffers(written.blocks) });
        Ok(())
    }

    /// Whether a folio is clean is in no witness: the trace tells it. That it is within writepages, and not under writeback, is ours to say.
    fn folio_skipped(&mut self, task: TaskId, ino: Ino, page: u64) -> Stepped {
        if self.task(task).writepages.is_none_or(|(entered, _)| entered != ino) {
            return Err(about_inode(ino, MisfitKind::NotInWritepages { task, ino }));
        }
        if self.path.state.inodes.get(&ino).is_some_and(|inode| inode.writeback.contains_key(&page)) {
            return Err(about_inode(ino, MisfitKind::StillUnderWriteback { ino, page }));
        }
        self.responses.push(Response::EndPageWriteback { ino, page });
        Ok(())
    }

    /// A buffer that needs no writing closes the open bio before any of the folio's own is added to it. Those behind the
    /// last one written may lie past the end of the file, where nothing is closed.
    fn no_bio_across_hole(&mut self, task: TaskId, io_end: IoEndId, page: u64, written: &Written) -> Stepped {
        let (Some(first), Some(last)) = (written.blocks.first(), written.blocks.last()) else { return Ok(()) };
        let first_of_folio = crate::survey::blocks_of(page, 0, self.block_bytes).start;
        let hole = *first != first_of_folio || last - first + 1 != written.blocks.len() as u64;
        let across = self.task(task).io_bio.filter(|bio| written.bios.contains(bio));
        match across {
            Some(bio) if hole && (self.dialect.hole_ends_bio || self.path.planted(Mutation::HoleEndsBio)) => {
                Err(about_io_end(io_end, MisfitKind::BioAcrossHole { bio, page }))
            }
            _ => Ok(()),
        }
    }

    fn bio_opened(&mut self, task: TaskId) -> Stepped {
        self.bios += 1;
        let bio = BioId(self.bios);
        let io_end = self.current(task, "the bio it opens")?;
        let state = self.task(task);
        if let Some(open) = state.io_bio {
            return Err(about_io_end(io_end, MisfitKind::BioStillOpen { task, open }));
        }
        state.io_bio = Some(bio);
        self.run(Frame::GetIoEnd { io_end, bio });
        Ok(())
    }

    fn bio_submitted(&mut self, task: TaskId, sector: u64, bytes: u64, sync: bool) -> Stepped {
        let io_end = self.current(task, "the bio it submits")?;
        let wrong_sync = self.path.planted(Mutation::WrongSync);
        let state = self.task(task);
        let Some(bio) = state.io_bio.take() else {
            return Err(about_io_end(io_end, MisfitKind::NoOpenBio { task }));
        };
        if state.writepages.is_some_and(|(_, asked)| (asked != sync) != wrong_sync) {
            return Err(about_io_end(io_end, MisfitKind::WrongSync { bio, sync }));
        }
        let sectors = sector..sector.saturating_add(bytes.div_ceil(512));
        let refused = self.block_layer.is_past_end(&sectors);
        if !refused {
            self.block_layer.submit(bio, sectors).map_err(|(kind, _)| about_io_end(io_end, kind))?;
        }
        let shape = self.survey.bios.get(&bio).cloned().unwrap_or_default();
        // On a machine that met a BUG it was never opened.
        if let Some(state) = self.path.state.bios.get_mut(&bio) {
            state.segments = shape.segments;
        }
        self.run(Frame::IoSubmit { bio, sector, bytes, sync });
        if shape.outside {
            self.responses.push(Response::BioOutsideFolios { bio, io_end });
        }
        if refused {
            self.end_bio(bio, EIO);
        }
        Ok(())
    }

    fn request_issued(&mut self, request: RequestId, op: BlockOp, sector: u64, sectors: u64) -> Stepped {
        let issued = self.block_layer.issue(request, op, sector..sector.saturating_add(sectors));
        issued.map_err(|unfit| self.unfit_request(request, unfit))
    }

    /// What is left once the trace is over: steps of interrupts that the guest never took. With one CPU there are none.
    pub fn finish(&mut self) -> Vec<(RequestId, Vec<Response>)> {
        let mut left = Vec::new();
        // A machine that met a BUG takes no step any more.
        while !self.path.state.dead
            && let Some((&request, _)) = self.completions.first_key_value()
        {
            let _ = self.completion_goes_on(request);
            left.push((request, std::mem::take(&mut self.responses)));
        }
        left
    }

    /// In interrupt context: every bio that ends runs `ext4_end_bio` to its end before the next one does.
    fn request_answered(&mut self, request: RequestId, status: RequestStatus) -> Stepped {
        let answered = self.block_layer.answer(request, status);
        let Answered { errno, ended, other_data_failed } =
            answered.map_err(|unfit| self.unfit_request(request, unfit))?;
        self.responses.push(Response::RequestError { request, errno });
        let ignored = self.path.planted(Mutation::OtherFailureIgnored);
        if other_data_failed && self.doubt.is_none() && !ignored {
            self.doubt = Some(format!("request {request}, which carries no file data alone, failed before it ended"));
        }
        if self.cpus > 1 && !ended.is_empty() {
            let completion = Completion { bios: ended.into(), thread: Thread::default() };
            self.completions.insert(request, completion);
            return Ok(());
        }
        for (bio, error) in ended {
            self.end_bio(bio, error);
        }
        Ok(())
    }

    /// What it does to file data no fsync is told of; what it does to the rest no one can say.
    fn answer_untrue(&mut self, request: RequestId, elsewhere: bool) -> Stepped {
        if elsewhere || self.block_layer.carries_other_data(request) {
            let what = format!("the answer to request {request} was not true, and not of file data alone");
            self.doubt.get_or_insert(what);
        }
        Ok(())
    }

    /// Up to the atomic step of the put, where another CPU's may come first, or from there to the end.
    fn completion_goes_on(&mut self, request: RequestId) -> Stepped {
        let Some(mut completion) = self.completions.remove(&request) else {
            let kind = MisfitKind::NothingToEnd { request };
            return Err(Misfit { subject: Some(Subject::Request(request)), io_end: None, kind });
        };
        if completion.thread.is_done()
            && let Some((bio, error)) = completion.bios.pop_front()
            && let Some(state) = self.path.state.bios.get_mut(&bio)
        {
            state.status = error;
            completion.thread = Thread::calling(Frame::EndBio { bio, at: EndBio::MappingError });
        } else {
            self.path.step(&mut completion.thread);
        }
        while !completion.thread.about_to_put() && self.path.step(&mut completion.thread) == Progress::Stepped {}
        self.responses.extend(self.path.events.drain(..).filter_map(|event| event.response()));
        if !completion.is_over() {
            self.completions.insert(request, completion);
        }
        Ok(())
    }

    fn end_bio(&mut self, bio: BioId, error: Errno) {
        if let Some(state) = self.path.state.bios.get_mut(&bio) {
            state.status = error;
            self.run(Frame::EndBio { bio, at: EndBio::MappingError });
        }
    }

    fn ref_dropped(&mut self, task: TaskId, by: PutBy) -> Stepped {
        let io_end = self.current(task, "the reference it drops")?;
        let keeps = self.path.planted(Mutation::ReferenceKept);
        let state = self.task(task);
        if let Some(open) = state.io_bio {
            return Err(about_io_end(io_end, MisfitKind::DropsWithOpenBio { task, open }));
        }
        state.io_end = state.io_end.filter(|_| keeps);
        let mut thread = Thread::calling(match by {
            PutBy::PutIoEnd => Frame::PutIoEnd { io_end, at: Put::DecAndTest },
            PutBy::PutIoEndDefer => Frame::PutIoEndDefer { io_end, at: Put::DecAndTest },
        });
        self.run_thread(&mut thread);
        self.task(task).thread = thread;
        Ok(())
    }

    fn worker_starts(&mut self, task: TaskId, ino: Ino) -> Stepped {
        self.worker_starts += 1;
        let start = self.worker_starts;
        if !self.path.state.inodes.get(&ino).is_some_and(|inode| inode.work_pending) {
            return Err(about_inode(ino, MisfitKind::WorkerNotQueued { ino }));
        }
        if !self.task(task).thread.is_done() {
            return Err(about_inode(ino, MisfitKind::WorkerBusy { task }));
        }
        let mut thread = Thread::calling(Frame::EndIoRsvWork { ino });
        let waits_for = self.late_splices.get(&start).copied().unwrap_or_default();
        if waits_for > 0 {
            // The first step takes the work off the queue; the next one takes the list.
            self.path.step(&mut thread);
        } else {
            self.run_thread(&mut thread);
        }
        self.workers.retain(|_, window| window.worker != task);
        self.workers.insert(ino, Window { worker: task, start, waits_for, taken: 0, listed: self.listed(ino) });
        self.task(task).thread = thread;
        Ok(())
    }

    /// Notes workers that io_ends were queued behind, and lets those that waited for them take the list.
    fn let_late_workers_go(&mut self) {
        for (ino, window) in self.workers.clone() {
            let behind = window.taken + self.listed(ino).saturating_sub(window.listed);
            if behind > 0 {
                let most = self.raced.entry(window.start).or_default();
                *most = behind.max(*most);
            }
            if behind >= window.waits_for {
                self.splice(ino, Window { taken: behind, ..window });
            }
        }
    }

    fn listed(&self, ino: Ino) -> usize {
        self.path.state.inodes.get(&ino).map_or(0, |inode| inode.completed_io_list.len())
    }

    fn splice(&mut self, ino: Ino, window: Window) {
        if window.waits_for > 0 {
            self.woken.get_or_insert((self.responses.len(), window.worker));
            self.run_task(window.worker);
            self.workers.insert(ino, Window { waits_for: 0, listed: 0, ..window });
        }
    }

    fn conversion_result(&mut self, task: TaskId, errno: Errno) -> Stepped {
        let window = self.workers.iter().find(|(_, window)| window.worker == task).map(|(ino, window)| (*ino, *window));
        if let Some((ino, window)) = window {
            self.splice(ino, window);
            self.workers.remove(&ino);
        }
        if self.task(task).thread.converts().is_none() {
            return Err(Misfit { subject: None, io_end: None, kind: MisfitKind::NoConversion { task } });
        }
        self.task(task).thread.conversion_returns(errno);
        self.run_task(task);
        Ok(())
    }

    fn op_begins(&mut self, task: TaskId, op: OpId, kind: OpKind) -> Stepped {
        if self.ops.contains_key(&op) {
            return Err(about_op(op, MisfitKind::OpBegunTwice { op }));
        }
        let beside = self.told_beside(task, kind);
        let doubt = self.path.journal_aborted.then(|| JOURNAL_ABORTED.to_owned()).or(beside);
        self.ops.insert(op, Op { task, kind, doubt });
        Ok(())
    }

    /// Two writers' fsyncs of one file ask one descriptor, and which of them asked first nobody says: what one is told, the other is not.
    fn told_beside(&mut self, task: TaskId, kind: OpKind) -> Option<String> {
        let OpKind::Fsync { ino } = kind else { return None };
        let mut beside = None;
        let beside_it = |other: &&mut Op| other.task != task && other.kind == OpKind::Fsync { ino };
        for other in self.ops.values_mut().filter(beside_it) {
            other.doubt.get_or_insert_with(|| TOLD_BESIDE.to_owned());
            beside = Some(TOLD_BESIDE.to_owned());
        }
        beside
    }

    fn op_ends(&mut self, op: OpId) -> Stepped {
        let Some(Op { kind, doubt, .. }) = self.ops.remove(&op) else {
            return Err(about_op(op, MisfitKind::OpNotBegun { op }));
        };
        let OpKind::Fsync { ino } = kind else { return Ok(()) };
        let doubted = self.path.planted(Mutation::FsyncDoubted);
        let keeps = self.path.planted(Mutation::ErrorToldTwice);
        let told = &mut self.path.state.inodes.entry(ino).or_default().wb_err;
        let wb_err = if keeps { told.clone().check_and_advance() } else { told.check_and_advance() };
        let wb_err = if doubted { 0 } else { wb_err };
        self.responses.push(Response::OpResult { op, errno: wb_err });
        // An fsync that was waiting for the failed write is told of that, whatever became of the journal.
        let too_late = (self.path.journal_aborted && wb_err == 0).then(|| JOURNAL_ABORTED.to_owned());
        let planted = doubted.then(|| "a planted mistake".to_owned());
        let doubt = doubt.or(too_late).or_else(|| self.doubt.clone()).or(planted);
        let told_beside = doubt.as_deref() == Some(TOLD_BESIDE);
        self.not_predicted.extend(doubt.map(|why| NotPredicted { op, why, told_beside }));
        Ok(())
    }

    /// `lib/errseq.c`: the error lives in the inode's mapping, so an inode that is read anew has none.
    fn inode_evicted(&mut self, ino: Ino) {
        if let Some(inode) = self.path.state.inodes.get_mut(&ino) {
            inode.wb_err = Default::default();
        }
    }

    fn task(&mut self, task: TaskId) -> &mut Task {
        self.tasks.entry(task).or_default()
    }

    fn current(&mut self, task: TaskId, what: &'static str) -> Result<IoEndId, Misfit> {
        let state = self.task(task);
        let subject = state.writepages.map(|(ino, _)| Subject::Inode(ino));
        state.io_end.ok_or(Misfit { subject, io_end: None, kind: MisfitKind::NoIoEnd { task, what } })
    }

    fn current_of(&mut self, task: TaskId, ino: Ino, what: &'static str) -> Result<IoEndId, Misfit> {
        let io_end = self.current(task, what)?;
        match self.path.state.io_ends.get(&io_end).map(|io_end| io_end.ino) {
            Some(of) if of != ino => Err(about_io_end(io_end, MisfitKind::OtherInode { task, ino, io_end, of })),
            _ => Ok(io_end),
        }
    }

    /// Runs a function that cannot wait.
    fn run(&mut self, frame: Frame) {
        self.run_thread(&mut Thread::calling(frame));
    }

    fn run_thread(&mut self, thread: &mut Thread) {
        self.path.run(thread);
        self.responses.extend(self.path.events.drain(..).filter_map(|event| event.response()));
    }

    fn run_task(&mut self, task: TaskId) {
        let mut thread = std::mem::take(&mut self.task(task).thread);
        self.run_thread(&mut thread);
        self.task(task).thread = thread;
    }

    fn unfit_request(&self, request: RequestId, (kind, bio): Unfit) -> Misfit {
        let io_end = bio.and_then(|bio| self.path.state.bios.get(&bio)).map(|bio| bio.io_end);
        Misfit { subject: Some(Subject::Request(request)), io_end, kind }
    }
}

fn about_io_end(io_end: IoEndId, kind: MisfitKind) -> Misfit {
    Misfit { subject: Some(Subject::IoEnd(io_end)), io_end: Some(io_end), kind }
}

fn about_inode(ino: Ino, kind: MisfitKind) -> Misfit {
    Misfit { subject: Some(Subject::Inode(ino)), io_end: None, kind }
}

fn about_op(op: OpId, kind: MisfitKind) -> Misfit {
    Misfit { subject: Some(Subject::Op(op)), io_end: None, kind }
}
