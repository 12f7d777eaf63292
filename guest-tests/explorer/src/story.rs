//! A schedule told: who did what in which kernel function, and the counts after each step.

use crate::schedule::{Played, Schedule};
use crate::words;

/// One step of a story.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Step {
    /// From 1.
    pub number: usize,
    /// Who.
    pub thread: String,
    /// In which kernel function; `start` where something begins.
    pub function: String,
    /// What happened.
    pub what: String,
    /// Counts afterwards.
    pub counts: String,
    /// What does not hold any more, as sentences. Once said it is not said again.
    pub broken: Vec<String>,
}

/// The steps of a schedule that has been played.
pub fn steps(played: &[Played]) -> Vec<Step> {
    let mut said = Vec::new();
    let mut step = |(number, step): (usize, &Played)| {
        let fresh: Vec<_> = step.broken.iter().filter(|broken| !said.contains(*broken)).copied().collect();
        said.extend(fresh.iter().copied());
        let mut broken: Vec<String> =
            fresh.iter().map(|broken| format!("{}: {}", broken.property.name(), broken.how)).collect();
        broken.dedup();
        Step {
            number,
            thread: step.by.thread().to_string(),
            function: step.function.to_owned(),
            what: what(step),
            counts: words::counts(&step.inodes, &step.io_ends),
            broken,
        }
    };
    (1..).zip(played).map(&mut step).collect()
}

fn what(step: &Played) -> String {
    let events = step.events.iter().filter_map(words::event);
    let all: Vec<String> = words::intent(&step.by).into_iter().chain(events).collect();
    if all.is_empty() { step.about.clone() } else { all.join("; ") }
}

/// The story as lines.
pub fn text(schedule: &Schedule, steps: &[Step]) -> String {
    let files = schedule.layout.files().join(" and ");
    let mut text = format!(
        "  at first: {files} (blocks of {} bytes: W written, U unwritten, capitals dirty, . a hole, | apart on the disk); a bio has room \
         for {} segment(s)\n",
        1_u32 << schedule.layout.block_bits,
        schedule.layout.max_pages
    );
    for step in steps {
        text += &format!("  {:>3}  {:<11} {:<30} {}\n", step.number, step.thread, step.function, step.what);
        text += &format!("       {:<11} {:<30} [{}]\n", "", "", step.counts);
        for broken in &step.broken {
            text += &format!("       {:<11} >>> {broken}\n", "");
        }
    }
    text
}

/// Threads in the order in which they come in.
pub fn threads(steps: &[Step]) -> Vec<&str> {
    let mut threads: Vec<&str> = Vec::new();
    for step in steps {
        if !threads.contains(&step.thread.as_str()) {
            threads.push(&step.thread);
        }
    }
    threads
}
