//! Holds a guest's responses against the replica's.
//!
//! Four things must hold for a response of the guest and its counterpart:
//!
//! 1. **Same, in turn.** Of an io_end, a request or an operation the two sides say the same, in the same order. Of an
//!    inode's folios, each stimulus's responses come in order; those of several may interleave, as an interrupt ends folios
//!    in the midst of a worker that does so.
//! 2. **After its cause.** It stands behind the stimulus that made the replica answer; an operation's result also before the
//!    next operation.
//! 3. **On its thread.** The task or interrupt that the cause belongs to takes the step.
//! 4. **In program order.** One thread's responses come in the replica's order, across all subjects. (Interrupts of several
//!    CPUs' guests can nest, so there it is asked of each cause by itself.)
//!
//! Beside them the guest's own account must keep the invariants (`Assertions`), and every stimulus must have fitted.
//! The first thing that does not hold makes its subject different; nothing more is compared of that subject.

use super::exceptions::{Exceptions, Side};
use super::excuses::Excuses;
use super::follow::{Caused, Context, Followed};
use super::join::Joined;
use super::{Case, Judgement};
use crate::verdict::{Compared, Outcome};
use ext4_replica::{Assertions, DialectName};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use writeback_events::{Body, Ino, IoEndId, OpId, OpKind, Response, Stimulus, Subject, TaskId};

/// More than one allowed response in so many makes an io_end different.
const ALLOWED_ONE_IN: usize = 20;

fn op_begins(joined: &Joined) -> Vec<(u64, TaskId)> {
    let begins = joined.stimuli.iter().filter_map(|placed| match placed.stimulus {
        Stimulus::OpBegins { task, .. } => Some((placed.seq, task)),
        _ => None,
    });
    begins.collect()
}

/// A place where guest and replica part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Place in the guest's trace: of the guest's response if there is one, else of the stimulus.
    pub seq: u64,
    /// The io_end it is about, if it is about one.
    pub io_end: Option<IoEndId>,
    /// What the guest did; none: nothing where the replica did something.
    pub guest: Option<Response>,
    /// What the replica did; none: nothing where the guest did something.
    pub replica: Option<Response>,
    /// One sentence about it.
    pub why: String,
    #[serde(skip)]
    subject: Option<Subject>,
    #[serde(skip)]
    rank: Rank,
}

impl Difference {
    /// The two sides do not agree whether an io_end found others on the list.
    pub(super) fn is_of_a_list(&self) -> bool {
        let listed = |response: &Option<Response>| matches!(response, Some(Response::AddCompleteIo { .. }));
        listed(&self.guest) && listed(&self.replica)
    }
}

/// Of several at one place, what names the cause best comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Compared,
    Misfit,
    Violation,
}

/// A difference that is allowed, or a result that could not be predicted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Allowed {
    /// Name of the exception; `not-predicted` where the replica was not sure of its own result.
    pub id: String,
    /// Place in the guest's trace.
    pub seq: u64,
    /// The io_end it is about, if it is about one.
    pub io_end: Option<IoEndId>,
    /// What the guest did.
    pub guest: Option<Response>,
    /// What the replica did.
    pub replica: Option<Response>,
    /// Why it is allowed.
    pub why: String,
}

/// What came of one io_end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct IoEndJudgement {
    /// The one word.
    pub verdict: Outcome,
    /// Responses compared and found the same.
    pub responses: u64,
}

/// A response of the guest.
struct Seen<'a> {
    seq: u64,
    context: Context,
    response: &'a Response,
}

struct Comparison<'a> {
    exceptions: &'a Exceptions,
    dialect: DialectName,
    cpus: u16,
    guest: Vec<Seen<'a>>,
    replica: &'a [Caused],
    owners: Owners,
    /// Where operations begin, and whose they are.
    op_begins: Vec<(u64, TaskId)>,
    /// Places in `guest` and `replica` of what was found the same.
    pairs: Vec<(usize, usize)>,
    differences: Vec<Difference>,
    allowed: Vec<Allowed>,
    /// Operations whose result is another than the replica's, which was not sure of it.
    excused: BTreeSet<OpId>,
}

pub(super) fn compare(case: &Case<'_>, joined: &Joined, followed: &Followed) -> Judgement {
    let mut comparison = Comparison {
        exceptions: case.exceptions,
        dialect: case.setup.dialect.name,
        cpus: case.cpus,
        guest: Vec::new(),
        replica: &followed.responses,
        owners: Owners::read(joined),
        op_begins: op_begins(joined),
        pairs: Vec::new(),
        differences: Vec::new(),
        allowed: Vec::new(),
        excused: BTreeSet::new(),
    };
    comparison.take_guest(case, joined, followed);
    comparison.match_subjects();
    comparison.check_pairs();
    comparison.add_misfits(followed);
    comparison.add_violations(case, joined);
    comparison.conclude()
}

impl<'a> Comparison<'a> {
    /// Leaves out what the replica has nothing to say about: results of operations that do not depend on writeback. Where it
    /// was not sure of a result and the guest's is another, that is reported and both are left out.
    fn take_guest(&mut self, case: &Case<'a>, joined: &Joined, followed: &Followed) {
        let judged = judged_ops(joined);
        let excuses = Excuses::read(joined, case.setup.data_err_abort);
        for entry in case.entries {
            let Body::Response(response) = &entry.body else { continue };
            let seen = Seen { seq: entry.seq, context: Context::of(entry), response };
            let Response::OpResult { op, .. } = response else {
                self.guest.push(seen);
                continue;
            };
            // An operation has one result: what excuses the first excuses no second.
            let otherwise = !followed.answered(response) && !self.excused.contains(op);
            match followed.not_predicted.iter().find(|not| not.op == *op) {
                Some(not) if otherwise && !excuses.by(seen.seq, not.told_beside) => {
                    self.without_excuse(&seen);
                    self.excused.insert(*op);
                }
                Some(not) if otherwise => {
                    self.allow("not-predicted", &not.why, Some(&seen), None);
                    self.excused.insert(*op);
                }
                _ if judged.contains(op) => self.guest.push(seen),
                _ => {}
            }
        }
    }

    fn without_excuse(&mut self, seen: &Seen<'_>) {
        self.differences.push(Difference {
            seq: seen.seq,
            io_end: None,
            guest: Some(seen.response.clone()),
            replica: None,
            why: "the replica does not say what it returns, and nothing had failed that would excuse it".to_owned(),
            subject: Some(seen.response.subject()),
            rank: Rank::Compared,
        });
    }

    fn match_subjects(&mut self) {
        let mut subjects: BTreeMap<Subject, (VecDeque<usize>, VecDeque<usize>)> = BTreeMap::new();
        for (place, seen) in self.guest.iter().enumerate() {
            subjects.entry(seen.response.subject()).or_default().0.push_back(place);
        }
        let excused =
            |caused: &Caused| matches!(caused.response.subject(), Subject::Op(op) if self.excused.contains(&op));
        for (place, caused) in self.replica.iter().enumerate().filter(|(_, caused)| !excused(caused)) {
            subjects.entry(caused.response.subject()).or_default().1.push_back(place);
        }
        for (subject, (guest, replica)) in subjects {
            match subject {
                Subject::Inode(_) => self.match_by_cause(guest, replica),
                Subject::IoEnd(_) | Subject::Request(_) | Subject::Op(_) => self.match_in_turn(guest, replica),
            }
        }
    }

    fn match_in_turn(&mut self, mut guest: VecDeque<usize>, mut replica: VecDeque<usize>) {
        while !(guest.is_empty() && replica.is_empty()) {
            let (ours, theirs) = (guest.front().copied(), replica.front().copied());
            match (ours, theirs) {
                (Some(g), Some(r)) if *self.guest[g].response == self.replica[r].response => self.pairs.push((g, r)),
                _ => match self.exception(ours, theirs) {
                    Some(Some(Side::Guest)) => {
                        guest.pop_front();
                        continue;
                    }
                    Some(Some(Side::Replica)) => {
                        replica.pop_front();
                        continue;
                    }
                    Some(None) => {}
                    None => return self.part(ours, theirs, "they do not say the same"),
                },
            }
            guest.pop_front();
            replica.pop_front();
        }
    }

    /// Notes the exception that allows the two to differ: which side alone has its response, or neither alone.
    fn exception(&mut self, guest: Option<usize>, replica: Option<usize>) -> Option<Option<Side>> {
        let exceptions = self.exceptions;
        let ours = guest.map(|place| self.guest[place].response);
        let theirs = replica.map(|place| &self.replica[place].response);
        let differ = ours.zip(theirs).and_then(|(ours, theirs)| exceptions.differ(self.dialect, ours, theirs));
        let only = |side, response| exceptions.only(self.dialect, side, response);
        let (entry, side) = (differ.map(|entry| (entry, None)))
            .or_else(|| ours.and_then(|ours| only(Side::Guest, ours)).map(|entry| (entry, Some(Side::Guest))))
            .or_else(|| {
                theirs.and_then(|theirs| only(Side::Replica, theirs)).map(|entry| (entry, Some(Side::Replica)))
            })?;
        let (id, why) = (entry.id.clone(), entry.reason.clone());
        let (guest, replica) = match side {
            None => (guest, replica),
            Some(Side::Guest) => (guest, None),
            Some(Side::Replica) => (None, replica),
        };
        self.allow_places(&id, &why, guest, replica);
        Some(side)
    }

    /// The guest's are an interleaving of the replica's, cause by cause.
    fn match_by_cause(&mut self, guest: VecDeque<usize>, replica: VecDeque<usize>) {
        let mut causes: BTreeMap<u64, VecDeque<usize>> = BTreeMap::new();
        for r in replica {
            causes.entry(self.replica[r].seq).or_default().push_back(r);
        }
        for g in guest {
            let seen = &self.guest[g];
            let next = |(_, waiting): &(&u64, &VecDeque<usize>)| {
                waiting.front().is_some_and(|r| self.replica[*r].response == *seen.response)
            };
            let cause = causes.range(..=seen.seq).find(next).map(|(cause, _)| *cause);
            let Some(cause) = cause else {
                if self.exception(Some(g), None).is_some() {
                    continue;
                }
                let expected = causes.values().next().and_then(|waiting| waiting.front().copied());
                return self.part(Some(g), expected, "it has no cause here, or comes before its turn");
            };
            if let Some(waiting) = causes.get_mut(&cause) {
                self.pairs.extend(waiting.pop_front().map(|r| (g, r)));
                if waiting.is_empty() {
                    causes.remove(&cause);
                }
            }
        }
        for r in causes.into_values().flatten() {
            if self.exception(None, Some(r)).is_none() {
                return self.part(None, Some(r), "they do not say the same");
            }
        }
    }

    fn check_pairs(&mut self) {
        self.pairs.sort_unstable();
        let mut last_of: BTreeMap<(Context, u64), usize> = BTreeMap::new();
        for (g, r) in std::mem::take(&mut self.pairs) {
            let (seen, caused) = (&self.guest[g], &self.replica[r]);
            let cause = caused.seq;
            let program_order = match caused.context {
                Context::Interrupt(_) if self.cpus > 1 => (caused.context, cause),
                context => (context, 0),
            };
            let last = last_of.insert(program_order, r);
            if seen.seq < cause {
                let why = format!("it stands before the stimulus that causes it, at {cause}");
                self.part(Some(g), Some(r), &why);
            } else if self.op_begins_between(cause, seen) {
                self.part(Some(g), Some(r), "another operation has begun by then");
            } else if seen.context != caused.context {
                let why = format!("{} takes this step, and should be {}", seen.context, caused.context);
                self.part(Some(g), Some(r), &why);
            } else if last.is_some_and(|last| last > r) {
                self.part(Some(g), Some(r), "its thread takes this step later than it should");
            } else {
                self.pairs.push((g, r));
            }
        }
    }

    /// A task does one operation after the other, so a result comes before its next one begins. Other writers begin when they will.
    fn op_begins_between(&self, cause: u64, seen: &Seen<'_>) -> bool {
        let result = matches!(seen.response, Response::OpResult { .. });
        let its = |task: &TaskId| seen.context == Context::Task(*task);
        result && self.op_begins.iter().any(|(begins, task)| its(task) && (cause..seen.seq).contains(begins))
    }

    fn add_misfits(&mut self, followed: &Followed) {
        for (seq, misfit) in &followed.misfits {
            let (seq, io_end, why) = (*seq, misfit.io_end, format!("what the guest does does not fit: {misfit}"));
            let (subject, rank) = (misfit.subject, Rank::Misfit);
            self.differences.push(Difference { seq, io_end, guest: None, replica: None, why, subject, rank });
        }
    }

    /// Holds the guest to its own word.
    fn add_violations(&mut self, case: &Case<'_>, joined: &Joined) {
        let mut assertions = Assertions::new(case.cpus, &case.setup.dialect);
        if case.setup.data_err_abort {
            assertions = assertions.under_data_err_abort(&case.setup.dialect);
        }
        let mut stimuli = joined.stimuli.iter().peekable();
        for entry in case.entries {
            // Of one event that is both, the stimulus comes first.
            while let Some(placed) = stimuli.next_if(|placed| placed.seq <= entry.seq) {
                assertions.stimulus(&placed.stimulus);
            }
            let Body::Response(response) = &entry.body else { continue };
            let known = assertions.violations().len();
            assertions.response(response);
            for violation in &assertions.violations()[known..] {
                let io_end = match violation.subject {
                    Subject::IoEnd(io_end) => Some(io_end),
                    _ => self.owners.of(response, entry.seq),
                };
                self.differences.push(Difference {
                    seq: entry.seq,
                    io_end,
                    guest: Some(response.clone()),
                    replica: None,
                    why: format!("{:?} does not hold: {}", violation.invariant, violation.what),
                    subject: Some(violation.subject),
                    rank: Rank::Violation,
                });
            }
        }
    }

    fn part(&mut self, guest: Option<usize>, replica: Option<usize>, why: &str) {
        let seen = guest.map(|place| &self.guest[place]);
        let caused = replica.map(|place| &self.replica[place]);
        let why = match (seen, caused) {
            (Some(_), None) => "the guest does this, and the replica does not".to_owned(),
            (None, Some(_)) => "the replica does this, and the guest does not".to_owned(),
            _ => why.to_owned(),
        };
        let seq = seen.map(|seen| seen.seq).or(caused.map(|caused| caused.seq)).unwrap_or(0);
        let response = seen.map(|seen| seen.response).or(caused.map(|caused| &caused.response));
        let io_end = response.and_then(|response| self.owners.of(response, seq));
        let subject = response.map(Response::subject);
        let (guest, replica) = (seen.map(|seen| seen.response.clone()), caused.map(|caused| caused.response.clone()));
        self.differences.push(Difference { seq, io_end, guest, replica, why, subject, rank: Rank::Compared });
    }

    fn allow_places(&mut self, id: &str, why: &str, guest: Option<usize>, replica: Option<usize>) {
        let seen = guest.map(|place| {
            let Seen { seq, context, response } = self.guest[place];
            Seen { seq, context, response }
        });
        let caused = replica.map(|place| &self.replica[place]);
        self.allow(id, why, seen.as_ref(), caused);
    }

    fn allow(&mut self, id: &str, why: &str, seen: Option<&Seen<'_>>, caused: Option<&Caused>) {
        let seq = seen.map(|seen| seen.seq).or(caused.map(|caused| caused.seq)).unwrap_or(0);
        let response = seen.map(|seen| seen.response).or(caused.map(|caused| &caused.response));
        self.allowed.push(Allowed {
            id: id.to_owned(),
            seq,
            io_end: response.and_then(|response| self.owners.of(response, seq)),
            guest: seen.map(|seen| seen.response.clone()),
            replica: caused.map(|caused| caused.response.clone()),
            why: why.to_owned(),
        });
    }

    fn conclude(mut self) -> Judgement {
        let mut io_ends = self.judge_io_ends();
        self.too_much_allowed(&io_ends);
        for io_end in self.differences.iter().filter_map(|difference| difference.io_end) {
            io_ends.entry(io_end).or_insert(IoEndJudgement { verdict: Outcome::Different, responses: 0 }).verdict =
                Outcome::Different;
        }
        self.differences.sort_by_key(|difference| (difference.seq, difference.rank));
        self.allowed.sort_by_key(|allowed| allowed.seq);
        let compared = self.compared();
        let (verdict, why) = self.verdict(&compared);
        Judgement {
            verdict,
            why,
            compared,
            first_difference: self.differences.into_iter().next(),
            io_ends,
            allowed: self.allowed,
            replica: Vec::new(),
            joined: BTreeMap::new(),
        }
    }

    fn judge_io_ends(&self) -> BTreeMap<IoEndId, IoEndJudgement> {
        let mut io_ends: BTreeMap<IoEndId, IoEndJudgement> = BTreeMap::new();
        for (g, _) in &self.pairs {
            let Seen { seq, response, .. } = self.guest[*g];
            if let Some(io_end) = self.owners.of(response, seq) {
                let same = IoEndJudgement { verdict: Outcome::Same, responses: 0 };
                io_ends.entry(io_end).or_insert(same).responses += 1;
            }
        }
        for io_end in self.allowed.iter().filter_map(|allowed| allowed.io_end) {
            let fresh = IoEndJudgement { verdict: Outcome::Allowed, responses: 0 };
            io_ends.entry(io_end).or_insert(fresh).verdict = Outcome::Allowed;
        }
        io_ends
    }

    fn too_much_allowed(&mut self, io_ends: &BTreeMap<IoEndId, IoEndJudgement>) {
        for (io_end, judged) in io_ends {
            let allowed: Vec<_> = self.allowed.iter().filter(|allowed| allowed.io_end == Some(*io_end)).collect();
            let all = allowed.len() + judged.responses as usize;
            let Some(first) = allowed.first().filter(|_| allowed.len() * ALLOWED_ONE_IN > all) else { continue };
            self.differences.push(Difference {
                seq: first.seq,
                io_end: Some(*io_end),
                guest: first.guest.clone(),
                replica: first.replica.clone(),
                why: format!(
                    "{} of {all} responses of io_end {io_end} differ where it is allowed; that is too many",
                    allowed.len()
                ),
                subject: Some(Subject::IoEnd(*io_end)),
                rank: Rank::Compared,
            });
        }
    }

    fn compared(&self) -> Compared {
        let mut compared = Compared { responses: self.pairs.len() as u64, ..Compared::default() };
        for (g, _) in &self.pairs {
            match self.guest[*g].response {
                Response::InitIoEnd { .. } => compared.io_ends += 1,
                Response::GetIoEnd { .. } => compared.bios += 1,
                Response::RequestError { .. } => compared.requests += 1,
                _ => {}
            }
        }
        compared
    }

    fn verdict(&self, compared: &Compared) -> (Outcome, String) {
        let Compared { io_ends, bios, requests, responses, .. } = compared;
        let much = format!("{responses} responses of {io_ends} io_ends, {bios} bios and {requests} requests");
        match self.differences.first() {
            Some(first) => (Outcome::Different, sentence(first)),
            None if *io_ends == 0 => {
                (Outcome::Unjudged, "no io_end was seen in the guest's trace, so there is nothing to compare".into())
            }
            None if self.allowed.is_empty() => (Outcome::Same, format!("guest and replica agree in {much}")),
            None => {
                let allowed = self.allowed.len();
                (
                    Outcome::Allowed,
                    format!("guest and replica agree in {much}, and differ in {allowed} where it is allowed"),
                )
            }
        }
    }
}

fn sentence(difference: &Difference) -> String {
    let about = match (difference.io_end, difference.subject) {
        (Some(io_end), _) => format!(" on io_end {io_end}"),
        (None, Some(Subject::Inode(ino))) => format!(" on inode {ino}"),
        (None, Some(Subject::Request(request))) => format!(" on request {request}"),
        (None, Some(Subject::Op(op))) => format!(" on operation {op}"),
        (None, _) => String::new(),
    };
    format!("guest and replica part at {}{about}: {}", difference.seq, difference.why)
}

/// Operations whose result depends on writeback.
fn judged_ops(joined: &Joined) -> BTreeSet<OpId> {
    let fsync = joined.stimuli.iter().filter_map(|placed| match placed.stimulus {
        Stimulus::OpBegins { op, kind: OpKind::Fsync { .. }, .. } => Some(op),
        _ => None,
    });
    fsync.collect()
}

/// Which io_end a folio was handed over for, and when.
struct Owners(BTreeMap<(Ino, u64), Vec<(u64, IoEndId)>>);

impl Owners {
    fn read(joined: &Joined) -> Owners {
        let mut owners: BTreeMap<_, Vec<_>> = BTreeMap::new();
        let mut current: BTreeMap<TaskId, IoEndId> = BTreeMap::new();
        let mut born = 0;
        for placed in &joined.stimuli {
            match placed.stimulus {
                Stimulus::InitIoEnd { task, failed: false, .. } => {
                    born += 1;
                    current.insert(task, IoEndId(born));
                }
                Stimulus::FolioSubmitted { task, ino, index, .. } => {
                    let owner = current.get(&task).map(|io_end| (placed.seq, *io_end));
                    owners.entry((ino, index)).or_default().extend(owner);
                }
                _ => {}
            }
        }
        Owners(owners)
    }

    /// The io_end that a response at `seq` is about.
    fn of(&self, response: &Response, seq: u64) -> Option<IoEndId> {
        match *response {
            Response::EndPageWriteback { ino, page } => {
                let handed = self.0.get(&(ino, page))?;
                handed.iter().rev().find(|(at, _)| *at <= seq).map(|(_, io_end)| *io_end)
            }
            _ => match response.subject() {
                Subject::IoEnd(io_end) => Some(io_end),
                _ => None,
            },
        }
    }
}
