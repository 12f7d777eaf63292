//! Runs the queue with several workers, counts what comes out, and knows when to stop.
//!
//! One thread counts: it alone writes into the night's folder, so that a line is whole or not there. Workers run units and
//! hand over what came out. A failure of the machine is tried once more in a fresh boot and then counted as one; many in
//! a row end the night, and so does a ledger that cannot be written. What a night was killed in leaves no line.

use super::folder::NightFolder;
use super::progress::{Counts, Progress};
use super::queue::{Group, Queue, Work};
use super::runner::Runner;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::space;
use night_results::{NightState, Outcome, ResultLine};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many units in a row of which nothing can be said: it is the machine.
const HOPELESS: u32 = 5;

/// Room that a unit may need: an image, a trace, logs.
const UNIT_BYTES: u64 = 512 << 20;

/// How often state.json is written.
const STATE_EVERY: Duration = Duration::from_secs(20);

/// Why no more units are begun.
#[derive(Debug)]
pub enum Ended {
    /// All were run.
    Seeds,
    /// Time is up.
    Budget,
    /// The user, or whoever owns the machine, said so.
    Interrupted,
    /// The machine cannot.
    Broken(Failure),
}

impl Ended {
    /// The word in state.json.
    pub fn word(&self) -> &'static str {
        match self {
            Ended::Seeds => "seeds",
            Ended::Budget => "budget",
            Ended::Interrupted => "interrupted",
            Ended::Broken(_) => "infrastructure",
        }
    }
}

/// What the engine is given.
pub struct Engine<'a> {
    /// What is to be run.
    pub queue: Mutex<Queue>,
    /// Workers.
    pub jobs: u32,
    /// What is left of the budget.
    pub budget: Option<Duration>,
    /// The user's.
    pub interrupt: &'a Interrupt,
    /// Begins a worker's way to run units.
    pub runner: &'a (dyn Fn() -> Box<dyn Runner> + Sync),
    /// How often the report is written.
    pub report_every: Duration,
    /// Writes it.
    pub report: &'a mut dyn FnMut(&NightFolder, &NightState) -> Result<(), Failure>,
}

/// A unit that is over, from a worker.
struct Over {
    line: ResultLine,
    folder: PathBuf,
    boots: u64,
}

enum Said {
    Over(Box<Over>),
    Broken(Failure),
}

impl Engine<'_> {
    /// Runs until there is nothing more to run, or a reason to stop.
    pub fn run(mut self, folder: &mut NightFolder, counts: Counts, state: &mut NightState) -> Result<Ended, Failure> {
        let deadline = self.budget.map(|budget| Instant::now() + budget);
        let stop = Stop { deadline, interrupt: self.interrupt };
        let workings: Vec<PathBuf> = (0..self.jobs).map(|worker| folder.working(worker)).collect();
        let (sender, receiver) = channel();
        let mut counting = Counting {
            progress: Progress::start(counts.of, self.budget),
            counts,
            begun: Instant::now(),
            worked_before_ms: state.worked_ms,
            in_a_row: 0,
            stated: Instant::now(),
            reported: Instant::now(),
        };
        let broken = std::thread::scope(|scope| {
            for working in &workings {
                let (queue, stop, runner, sender) = (&self.queue, &stop, self.runner, sender.clone());
                scope.spawn(move || work(queue, stop, runner(), working, &sender));
            }
            drop(sender);
            let counted = counting.count_all(&receiver, folder, state, self.report_every, &mut self.report);
            if counted.is_err() {
                // Guests under way end, and the workers with them.
                self.interrupt.set();
            }
            counted.err()
        });
        counting.progress.end(&counting.counts);
        Ok(match broken {
            Some(failure) => Ended::Broken(failure),
            None if self.interrupt.check().is_err() => Ended::Interrupted,
            None if stop.is_late() => Ended::Budget,
            None => Ended::Seeds,
        })
    }
}

struct Stop<'a> {
    deadline: Option<Instant>,
    interrupt: &'a Interrupt,
}

impl Stop<'_> {
    fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn now(&self) -> bool {
        self.is_late() || self.interrupt.check().is_err()
    }
}

/// One worker: takes groups, runs their units, hands over what came out.
fn work(queue: &Mutex<Queue>, stop: &Stop<'_>, mut runner: Box<dyn Runner>, working: &Path, say: &Sender<Said>) {
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next_group();
    let mut number = 0_u64;
    while !stop.now() {
        let Some(group) = next() else { return };
        for unit in group.work.iter().take_while(|_| !stop.now()) {
            // A folder for each: the last one's may not have been put away yet.
            number += 1;
            let folder = working.join(number.to_string());
            let said = match run_unit(runner.as_mut(), &group, unit, &folder) {
                Ok(line) => Said::Over(Box::new(Over { line, folder, boots: runner.boots() })),
                Err(Failure::Interrupted) => return,
                Err(failure) => Said::Broken(failure),
            };
            let broken = matches!(said, Said::Broken(_));
            if say.send(said).is_err() || broken {
                return;
            }
        }
        runner.drop_guest();
    }
}

/// One unit, whatever happens. An error ends the night.
fn run_unit(runner: &mut dyn Runner, group: &Group, work: &Work, folder: &Path) -> Result<ResultLine, Failure> {
    let begun = Instant::now();
    super::folder::remove(folder)?;
    let parent = folder.parent().expect("a folder of a worker's");
    std::fs::create_dir_all(parent).map_err(|error| Failure::io("make", parent, &error))?;
    space::require(parent, UNIT_BYTES)?;
    let mut why = String::new();
    for _ in 0..2 {
        let tried = catch_unwind(AssertUnwindSafe(|| runner.run(group, work, folder)));
        match tried {
            Ok(Ok(line)) => return Ok(line),
            Ok(Err(Failure::Interrupted)) => return Err(Failure::Interrupted),
            // A scenario that we made and do not take is ours to mend: no second try makes it better.
            Ok(Err(wrong @ (Failure::BadInput(_) | Failure::Mistakes(_)))) => {
                return Ok(without_result(group, work, Outcome::Unjudged, format!("cannot be run: {wrong}"), begun));
            }
            Ok(Err(failure)) => why = failure.to_string(),
            Err(panic) => {
                let text = format!("guest-tests: a bug of this program: {}", panic_text(&*panic));
                runner.drop_guest();
                return Ok(without_result(group, work, Outcome::Unjudged, text, begun));
            }
        }
        runner.drop_guest();
    }
    Ok(without_result(group, work, Outcome::Infrastructure, format!("twice, in fresh boots: {why}"), begun))
}

fn without_result(group: &Group, work: &Work, outcome: Outcome, why: String, begun: Instant) -> ResultLine {
    let took_ms = begun.elapsed().as_millis() as u64;
    let line = ResultLine::new(work.unit.clone(), work.unit.to_string(), group.series.clone());
    ResultLine { outcome, why, took_ms, ..line }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it did not say what")
}

/// The one that writes.
struct Counting {
    progress: Progress,
    counts: Counts,
    begun: Instant,
    worked_before_ms: u64,
    in_a_row: u32,
    stated: Instant,
    reported: Instant,
}

impl Counting {
    fn count_all(
        &mut self,
        receiver: &Receiver<Said>,
        folder: &mut NightFolder,
        state: &mut NightState,
        report_every: Duration,
        report: &mut dyn FnMut(&NightFolder, &NightState) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut boots = std::collections::BTreeMap::new();
        let boots_before = state.boots;
        loop {
            match receiver.recv_timeout(Duration::from_millis(200)) {
                Ok(Said::Broken(failure)) => return Err(failure),
                Ok(Said::Over(over)) => {
                    boots.insert(over.folder.parent().map(Path::to_owned), over.boots);
                    state.boots = boots_before + boots.values().sum::<u64>();
                    self.count(&over, folder)?;
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            self.progress.show(&self.counts);
            state.worked_ms = self.worked_before_ms + self.begun.elapsed().as_millis() as u64;
            if self.stated.elapsed() >= STATE_EVERY {
                self.stated = Instant::now();
                folder.write(super::folder::STATE, &state.to_text())?;
            }
            if self.reported.elapsed() >= report_every {
                report(folder, state)?;
                self.reported = Instant::now();
            }
        }
    }

    fn count(&mut self, over: &Over, folder: &mut NightFolder) -> Result<(), Failure> {
        let line = &over.line;
        folder.count(line, Some(&over.folder))?;
        self.counts.add(line.outcome);
        match line.outcome {
            Outcome::Failed if line.is_missed_canary() => {
                self.progress.say(&format!("MISSED {}: {}", line.unit, line.why));
            }
            Outcome::Failed => self.progress.say(&format!("FAILED {}: {}", line.unit, line.why)),
            Outcome::Infrastructure => self.progress.say(&format!("no result {}: {}", line.unit, line.why)),
            Outcome::Plain | Outcome::Unjudged => {}
        }
        self.in_a_row = if line.outcome == Outcome::Infrastructure { self.in_a_row + 1 } else { 0 };
        if self.in_a_row >= HOPELESS {
            let what = format!("{HOPELESS} units in a row could not be run, the last one since {}", line.why);
            return Err(Failure::infrastructure(
                what,
                "`guest-tests doctor` lists what a run needs; the same command goes on",
            ));
        }
        Ok(())
    }
}
