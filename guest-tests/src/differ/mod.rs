//! Lays what the guest did beside what the replica says it should have done.
//!
//! Pure: decoded trace and device record in, judgement out. Three parts: [`join`] gives the guest's answered requests the
//! device's statuses, so that they become stimuli; [`follow`] steps the replica through them; `compare` holds the two sides
//! against each other. The replica is handed stimuli only, the comparison responses only.
//!
//! Nothing is passed over to find a place where the two agree again: the first response of a subject that has no
//! counterpart makes it different. Where nothing could be compared the judgement is `unjudged`, never `same`.

mod capacity;
mod compare;
mod exceptions;
mod excuses;
mod flip;
mod follow;
mod join;

#[cfg(test)]
pub(crate) mod tests;

pub use capacity::Resized;
pub use compare::{Allowed, Difference, IoEndJudgement};
pub use exceptions::{Condition, Exception, Exceptions, ExceptionsError, Side};
pub use flip::{Flip, FlipTest, MayStay, When, flip_test, flips};
pub use follow::{Caused, Context, Followed, follow};
pub use join::{DeviceRequest, JoinError, Joined, Placed, Untrue, join};

use crate::verdict::{Compared, Outcome};
use ext4_replica::Setup;
use serde::Serialize;
use std::collections::BTreeMap;
use writeback_events::{Entry, IoEndId, RequestId, Response};

/// A wrong guess about a worker shows at the very io_end that was queued behind its start: one of the two sides says that the
/// list was empty. So only the last few starts before that can have to do with it: one for each inode that is written back at
/// the time.
const RACES_LOOKED_AT: usize = 8;

/// What there is to judge.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    /// The guest's trace, decoded, whole and in order.
    pub entries: &'a [Entry],
    /// The device's requests in the order in which they arrived.
    pub device: &'a [DeviceRequest],
    /// Changes of the disk's size, in order.
    pub resized: &'a [Resized],
    /// Virtqueues the device had.
    pub queues: u16,
    /// CPUs the guest had.
    pub cpus: u16,
    /// The replica to compare with.
    pub setup: Setup,
    /// Differences that are allowed.
    pub exceptions: &'a Exceptions,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Judgement {
    /// The one word.
    pub verdict: Outcome,
    /// The reason, as a sentence.
    pub why: String,
    /// How much was compared.
    pub compared: Compared,
    /// Where the two part first.
    pub first_difference: Option<Difference>,
    /// Verdict of each io_end the guest or the replica saw.
    pub io_ends: BTreeMap<IoEndId, IoEndJudgement>,
    /// Differences that a listed exception allows, and results that could not be predicted.
    pub allowed: Vec<Allowed>,
    /// What the replica answered, each with the `seq` of the stimulus that caused it.
    #[serde(skip)]
    pub replica: Vec<(u64, Response)>,
    /// Which of the device's requests (by place in its record) each of the guest's is.
    #[serde(skip)]
    pub joined: BTreeMap<RequestId, usize>,
}

/// Judges a case.
pub fn judge(case: &Case<'_>) -> Judgement {
    match joined(case) {
        Ok(joined) => judge_joined(case, joined),
        Err(error) => unjudged(error),
    }
}

fn joined(case: &Case<'_>) -> Result<Joined, JoinError> {
    let joined = join(case.entries, case.device, case.queues)?;
    let stimuli = capacity::place(joined.stimuli, case.resized, &joined.device_of)?;
    Ok(Joined { stimuli, ..joined })
}

fn judge_joined(case: &Case<'_>, joined: Joined) -> Judgement {
    let (followed, mut judgement) = settle(case, &joined);
    judgement.replica = followed.responses.into_iter().map(|caused| (caused.seq, caused.response)).collect();
    judgement.joined = joined.device_of;
    judgement
}

/// Follows and compares; and where the two part, tries what a trace leaves open the other way.
///
/// A worker's trace shows that it starts, not when it takes the list. Where the two sides part at a worker start that was
/// raced for, its worker is made to take the list one io_end later, and that is kept if they then part later or not at all.
/// Which starts are raced for depends on those before them, so they are asked for again each time.
fn settle(case: &Case<'_>, joined: &Joined) -> (Followed, Judgement) {
    let mut setup = case.setup.clone();
    let mut followed = follow(&setup, joined);
    let mut judgement = compare::compare(case, joined, &followed);
    while let Some(parts) =
        judgement.first_difference.as_ref().filter(|parts| parts.is_of_a_list()).map(|parts| parts.seq)
    {
        let later = one_later(&setup, &followed, parts).into_iter().find_map(|other| {
            let followed = follow(&other, joined);
            let judgement = compare::compare(case, joined, &followed);
            let better = judgement.first_difference.as_ref().is_none_or(|difference| difference.seq > parts);
            better.then_some((other, followed, judgement))
        });
        match later {
            Some(later) => (setup, followed, judgement) = later,
            None => break,
        }
    }
    judgement.compared.late_splices = setup.late_splices.len() as u64;
    (followed, judgement)
}

/// The ways in which one worker that was raced for before `parts` takes the list one io_end later; the nearest first.
fn one_later(setup: &Setup, followed: &Followed, parts: u64) -> Vec<Setup> {
    let begun = followed.worker_starts.partition_point(|seq| *seq <= parts) as u32;
    let raced = followed.raced.range(..=begun).rev().take(RACES_LOOKED_AT);
    let later = raced.filter_map(|(start, queued)| {
        let waits_for = setup.late_splices.get(start).copied().unwrap_or_default();
        (waits_for < *queued).then(|| {
            let mut later = setup.clone();
            later.late_splices.insert(*start, waits_for + 1);
            later
        })
    });
    later.collect()
}

fn unjudged(error: JoinError) -> Judgement {
    Judgement {
        verdict: if error.guest_is_to_blame() { Outcome::Different } else { Outcome::Unjudged },
        why: error.to_string(),
        compared: Compared::default(),
        first_difference: None,
        io_ends: BTreeMap::new(),
        allowed: Vec::new(),
        replica: Vec::new(),
        joined: BTreeMap::new(),
    }
}
