//! Steps the replica through a joined trace, and notes for each response what caused it and on which thread.

use super::join::Joined;
use ext4_replica::{Misfit, NotPredicted, Replica, Setup};
use serde::Serialize;
use std::collections::BTreeMap;
use writeback_events::{Entry, RequestId, Response, Stimulus, TaskId};

/// The thread of execution that something belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Context {
    /// A task.
    Task(TaskId),
    /// Interrupts of a CPU.
    Interrupt(u16),
}

impl Context {
    /// That of a trace entry.
    pub fn of(entry: &Entry) -> Context {
        if entry.interrupt { Context::Interrupt(entry.cpu) } else { Context::Task(entry.task) }
    }
}

impl std::fmt::Display for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Context::Task(task) => write!(f, "task {task}"),
            Context::Interrupt(cpu) => write!(f, "an interrupt on CPU {cpu}"),
        }
    }
}

/// A response of the replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caused {
    /// `seq` of the stimulus that caused it.
    pub seq: u64,
    /// The thread that takes this step.
    pub context: Context,
    /// The step.
    pub response: Response,
}

/// What the replica made of a trace.
#[derive(Clone, Debug, Default)]
pub struct Followed {
    /// Its responses, in order.
    pub responses: Vec<Caused>,
    /// Stimuli that did not fit, with their `seq`.
    pub misfits: Vec<(u64, Misfit)>,
    /// Operations whose result it was not sure of.
    pub not_predicted: Vec<NotPredicted>,
    /// Worker starts that were raced for: by their number, how many io_ends were queued behind them.
    pub raced: BTreeMap<u32, usize>,
    /// `seq` of each worker start.
    pub worker_starts: Vec<u64>,
}

impl Followed {
    /// Whether the replica answered this.
    pub fn answered(&self, response: &Response) -> bool {
        self.responses.iter().any(|caused| caused.response == *response)
    }
}

/// Steps a replica through the stimuli of `joined`.
pub fn follow(setup: &Setup, joined: &Joined) -> Followed {
    let mut lockstep = Replica::lockstep(setup.clone(), joined.stimuli.iter().map(|placed| &placed.stimulus));
    let mut followed = Followed::default();
    // The interrupt that answers a request takes all its steps, wherever among another CPU's they fall.
    let mut answers: BTreeMap<RequestId, Context> = BTreeMap::new();
    for placed in &joined.stimuli {
        let context_of_cause = match placed.stimulus {
            Stimulus::RequestAnswered { request, .. } => {
                answers.insert(request, placed.context);
                placed.context
            }
            Stimulus::CompletionGoesOn { request } => answers.get(&request).copied().unwrap_or(placed.context),
            Stimulus::WorkerStarts { .. } => {
                followed.worker_starts.push(placed.seq);
                placed.context
            }
            _ => placed.context,
        };
        let responses = match lockstep.step(&placed.stimulus) {
            Ok(responses) => responses,
            Err(misfit) => {
                followed.misfits.push((placed.seq, misfit));
                continue;
            }
        };
        let (woken_at, worker) = lockstep.woken().unwrap_or((usize::MAX, TaskId(0)));
        for (place, response) in responses.into_iter().enumerate() {
            let context = if place >= woken_at { Context::Task(worker) } else { context_of_cause };
            followed.responses.push(Caused { seq: placed.seq, context, response });
        }
    }
    let end = joined.stimuli.last().map_or(0, |placed| placed.seq);
    for (request, responses) in lockstep.finish() {
        let context = answers.get(&request).copied().unwrap_or(Context::Interrupt(0));
        followed.responses.extend(responses.into_iter().map(|response| Caused { seq: end, context, response }));
    }
    followed.not_predicted = lockstep.not_predicted().to_vec();
    followed.raced = lockstep.raced().clone();
    followed
}
