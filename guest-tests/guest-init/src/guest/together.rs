//! Several writers at once: each does its ops in their order, in a thread of its own.
//!
//! They begin together, as nearly as threads can. A thread that the kernel ends under us (an oops in one of its calls) never says that it
//! is done. Nobody waits for it for ever: PID 1 ends then, and the kernel panics, as it does when that happens to PID 1 itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process;
use std::sync::RwLock;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use guest_init::job::Op;
use guest_init::protocol::FromGuest;
use guest_init::writers::Writer;

use super::ops::{Mouth, Workload, one};
use super::tracing::Tracer;
use super::{Doing, Outcome};

/// How often it is looked whether a writer that says nothing is still there.
const LOOK: Duration = Duration::from_millis(500);

/// What a writer says to the thread that waits for it.
enum Said {
    /// By this number the kernel knows it.
    Task(i32),
    /// It has done its ops; what is still to be sent to the host.
    Ended(Outcome<Vec<FromGuest>>),
}

/// Does a stretch, whose first op has the index `first`.
pub fn run(mouth: &mut Mouth, tracer: &Tracer, workload: &Workload<'_>, first: u32, ops: &[Op]) -> Outcome<()> {
    let mut by_writer: BTreeMap<Option<Writer>, Vec<(u32, &Op)>> = BTreeMap::new();
    for (index, op) in (first..).zip(ops) {
        by_writer.entry(op.writer).or_default().push((index, op));
    }
    let gate = RwLock::new(());
    let (say, said) = mpsc::channel();
    thread::scope(|scope| {
        // Whatever happens here, it opens.
        let closed = gate.write();
        for (number, its) in by_writer.values().enumerate() {
            let (say, gate, mut mouth) = (say.clone(), &gate, mouth.another());
            let body = move || {
                let _ = say.send((number, Said::Task(nix::unistd::gettid().as_raw())));
                drop(gate.read());
                let ended = in_order(&mut mouth, tracer, workload, its).map(|()| mouth.into_unsaid());
                let _ = say.send((number, Said::Ended(ended)));
            };
            thread::Builder::new().name("writer".into()).spawn_scoped(scope, body).doing("starting a writer")?;
        }
        drop(closed);
        mouth.say_later(all(&said, by_writer.len())?);
        Ok(())
    })
}

fn in_order(mouth: &mut Mouth, tracer: &Tracer, workload: &Workload<'_>, ops: &[(u32, &Op)]) -> Outcome<()> {
    for (index, op) in ops {
        mouth.begins(*index, &op.action)?;
        let ended = one(tracer, workload, *index, &op.action, || Ok(()))?;
        mouth.say_later([ended]);
    }
    Ok(())
}

/// Waits for all of them.
fn all(said: &Receiver<(usize, Said)>, writers: usize) -> Outcome<Vec<FromGuest>> {
    let mut tasks: BTreeMap<usize, i32> = BTreeMap::new();
    let mut gone = BTreeSet::new();
    let (mut ended, mut unsaid) = (0, Vec::new());
    while ended < writers {
        match said.recv_timeout(LOOK) {
            Ok((number, Said::Task(task))) => drop(tasks.insert(number, task)),
            Ok((number, Said::Ended(its))) => {
                tasks.remove(&number);
                ended += 1;
                unsaid.extend(its?);
            }
            Err(RecvTimeoutError::Timeout) => end_if_one_is_gone(&tasks, &mut gone),
            Err(RecvTimeoutError::Disconnected) => return Err("none of them is there").doing("waiting for writers"),
        }
    }
    Ok(unsaid)
}

/// What a writer said before it went is heard before the next look, so one that is missed twice has said nothing.
fn end_if_one_is_gone(tasks: &BTreeMap<usize, i32>, gone: &mut BTreeSet<i32>) {
    for task in tasks.values().filter(|task| !Path::new(&format!("/proc/self/task/{task}")).exists()) {
        if !gone.insert(*task) {
            println!("guest-init: the kernel has ended writer task {task}");
            process::exit(1);
        }
    }
}
