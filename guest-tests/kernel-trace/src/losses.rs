//! What the trace itself says is missing from it. Anything here, and nothing may be judged from the run.

use crate::container::{Contents, Trailer};
use crate::plan::GROUP;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// Everything known to be missing. [`Losses::is_empty`] is the condition for a verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// Probes that were passed without being recorded.
    pub missed_probes: Vec<MissedProbe>,
    /// Probes of the plan that `kprobe_profile` does not list.
    pub unlisted_probes: Vec<String>,
    /// CPUs whose buffer was too small.
    pub overruns: Vec<Overrun>,
    /// Pages before which the kernel says that events are missing.
    pub lost_pages: Vec<LostPages>,
    /// CPUs of which the file holds another number of events than the kernel has handed out.
    pub lost_on_the_way: Vec<Shortfall>,
    /// CPUs whose statistics are not there.
    pub cpus_without_stats: Vec<u16>,
    /// CPUs whose time stamps went backwards.
    pub cpus_out_of_order: Vec<u16>,
    /// The trace has no END: guest or stream ended early.
    pub no_end: bool,
    /// The trace holds no event at all.
    pub no_events: bool,
    /// The trace clock is not `counter`, so the order across CPUs is not known.
    pub wrong_clock: Option<String>,
}

/// A probe with misses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MissedProbe {
    /// Its event.
    pub event: String,
    /// How often.
    pub missed: u64,
}

/// A CPU that lost events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overrun {
    /// Which.
    pub cpu: u16,
    /// Line of its statistics: `overrun`, `commit overrun`, `dropped events`.
    pub counter: String,
    /// How many events.
    pub events: u64,
}

/// A CPU whose events did not all arrive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortfall {
    /// Which.
    pub cpu: u16,
    /// Events read from its buffer, as the kernel counted, and left in it.
    pub recorded: u64,
    /// Events in the file.
    pub arrived: u64,
}

/// A gap before a page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostPages {
    /// Place of the page in the file, from 0.
    pub page: usize,
    /// Its CPU.
    pub cpu: u16,
    /// How many events, if the kernel says so.
    pub events: Option<u64>,
}

impl Losses {
    /// Nothing is known to be missing.
    pub fn is_empty(&self) -> bool {
        *self == Losses::default()
    }

    /// One sentence per kind of loss, for the verdict's `why`; empty if there is none.
    pub fn describe(&self) -> Vec<String> {
        let mut told = Vec::new();
        if self.no_end {
            told.push("the guest's trace has no END: it was cut off".to_string());
        }
        if self.no_events {
            told.push("the guest's trace is empty".to_string());
        }
        if let Some(clock) = &self.wrong_clock {
            told.push(format!("the trace clock was {clock:?}, not \"counter\""));
        }
        for probe in &self.missed_probes {
            told.push(format!("probe {} missed {} hits", probe.event, probe.missed));
        }
        for probe in &self.unlisted_probes {
            told.push(format!("probe {probe} was not set: kprobe_profile does not list it"));
        }
        for overrun in &self.overruns {
            told.push(format!("CPU {}: {} {}", overrun.cpu, overrun.counter, overrun.events));
        }
        for gap in &self.lost_pages {
            let events = gap.events.map_or("some".to_string(), |events| events.to_string());
            told.push(format!("CPU {}: {events} events lost before page {}", gap.cpu, gap.page));
        }
        for shortfall in &self.lost_on_the_way {
            let Shortfall { cpu, recorded, arrived } = shortfall;
            told.push(format!("CPU {cpu}: {recorded} events were recorded, {arrived} arrived"));
        }
        for cpu in &self.cpus_without_stats {
            told.push(format!("CPU {cpu}: no usable buffer statistics"));
        }
        for cpu in &self.cpus_out_of_order {
            told.push(format!("CPU {cpu}: time stamps went backwards"));
        }
        told
    }

    /// What header and trailer say; pages are added while they are read.
    pub(crate) fn from_container(contents: &Contents) -> Self {
        let mut losses = Losses { no_end: !contents.ended, ..Losses::default() };
        let clock = &contents.header.clock;
        losses.wrong_clock = (clock != "counter").then(|| clock.clone());
        if let Some(trailer) = &contents.trailer {
            losses.read_profile(trailer, &contents.header.plan.kprobe_events);
            losses.read_stats(trailer, contents.header.vcpus);
        }
        losses
    }

    /// What was read from a buffer, and what was left in it, must be what arrived.
    pub(crate) fn compare_with_stats(&mut self, contents: &Contents, arrived: impl Fn(u16) -> usize) {
        let Some(trailer) = &contents.trailer else { return };
        let seen = contents.pages.iter().map(|page| page.cpu);
        for cpu in (0..contents.header.vcpus).chain(seen).collect::<BTreeSet<_>>() {
            let text = trailer.cpu_stats.get(usize::from(cpu)).map_or("", String::as_str);
            let (Some(read), Some(left)) = (counter_of(text, "read events"), counter_of(text, "entries")) else {
                self.add_without_stats(cpu);
                continue;
            };
            let (recorded, arrived) = (read.saturating_add(left), arrived(cpu) as u64);
            if recorded != arrived {
                self.lost_on_the_way.push(Shortfall { cpu, recorded, arrived });
            }
        }
    }

    /// `  putd        12        0`: event, hits, misses.
    fn read_profile(&mut self, trailer: &Trailer, definitions: &[String]) {
        let lines: Vec<Vec<&str>> =
            trailer.kprobe_profile.lines().map(|line| line.split_whitespace().collect()).collect();
        for event in definitions.iter().filter_map(|line| event_name(line)) {
            let counts = lines.iter().find(|columns| columns.first() == Some(&event));
            let missed = counts.and_then(|columns| columns.get(2)).and_then(|missed| missed.parse().ok());
            match missed {
                Some(0) => {}
                Some(missed) => self.missed_probes.push(MissedProbe { event: event.into(), missed }),
                None => self.unlisted_probes.push(event.into()),
            }
        }
    }

    fn read_stats(&mut self, trailer: &Trailer, vcpus: u16) {
        for cpu in 0..vcpus {
            let text = trailer.cpu_stats.get(usize::from(cpu)).map_or("", String::as_str);
            for counter in ["overrun", "commit overrun", "dropped events"] {
                match counter_of(text, counter) {
                    Some(0) => {}
                    Some(events) => self.overruns.push(Overrun { cpu, counter: counter.into(), events }),
                    None => self.add_without_stats(cpu),
                }
            }
        }
    }

    fn add_without_stats(&mut self, cpu: u16) {
        if !self.cpus_without_stats.contains(&cpu) {
            self.cpus_without_stats.push(cpu);
        }
    }
}

/// `overrun: 0`
fn counter_of(stats: &str, counter: &str) -> Option<u64> {
    let value = stats.lines().find_map(|line| line.strip_prefix(counter)?.strip_prefix(':'))?;
    value.trim().parse().ok()
}

/// `p:io/putd ext4_put_io_end_defer+5 …`
fn event_name(definition: &str) -> Option<&str> {
    let (head, _) = definition.split_once(' ')?;
    head.strip_prefix("p:")?.strip_prefix(GROUP)?.strip_prefix('/')
}
