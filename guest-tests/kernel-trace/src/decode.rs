//! From a `guest.raw` to entries: reads the pages, merges the CPUs, and hands the events on.

use crate::container::{self, Contents};
use crate::contexts::{self, in_interrupt};
use crate::entries::Maker;
use crate::error::DecodeError;
use crate::format::{PageLayout, RecordLayout, Value};
use crate::losses::{Losses, LostPages};
use crate::page::{self, Missed, Record};
use crate::typed::{Event, Formats, Problem};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use writeback_events::{Entry, Errno, OpId};

/// A decoded trace. Judge from `entries` only if `losses` and `unplaced` are empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Stimuli and responses in the order in which they happened; `seq` never falls.
    pub entries: Vec<Entry>,
    /// What is missing from the trace.
    pub losses: Losses,
    /// Events that could not be made into entries though they should have been.
    pub unplaced: Vec<Unplaced>,
    /// The workload's operations as the trace markers show them, in order of their beginning.
    pub ops: Vec<OpSeen>,
    /// How much there was.
    pub totals: Totals,
    /// The header the trace was read with.
    pub header: container::Header,
}

/// An event that does not fit what came before it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unplaced {
    /// Where; none if it concerns the trace as a whole.
    pub place: Option<Place>,
    /// What does not fit.
    pub why: String,
}

/// A place in the trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Trace clock.
    pub seq: u64,
    /// CPU.
    pub cpu: u16,
    /// Task that was running.
    pub task: u32,
}

/// An operation of the workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpSeen {
    /// Its index in the scenario.
    pub op: OpId,
    /// Its name.
    pub name: String,
    /// Trace clock at its beginning.
    pub begins: u64,
    /// Trace clock at its end, and 0 or the negative errno; none if the trace ends before it.
    pub ends: Option<(u64, Errno)>,
}

/// Counts over a whole trace, for the verdict's "how much was compared" and for what is left out on purpose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Ring-buffer pages.
    pub pages: usize,
    /// Events in them.
    pub events: usize,
    /// CPUs that recorded any.
    pub cpus: usize,
    /// io_ends born.
    pub io_ends: usize,
    /// io_ends not released when the trace ended.
    pub io_ends_alive: usize,
    /// Bios of ext4's writeback.
    pub bios: usize,
    /// Block requests, each counted once however often it was requeued.
    pub requests: usize,
    /// Requests never answered.
    pub requests_unanswered: usize,
    /// Requests of equal operation, sector and length in flight at once, each with the one before it: which of them an
    /// answer was for is taken to be first come, first served.
    pub equal_requests_in_flight: Vec<(writeback_events::RequestId, writeback_events::RequestId)>,
    /// Completions without sectors and without a request: the ends of flush sequences, which no device sees.
    pub flush_sequence_ends: usize,
    /// Writes that ended without having been issued, because the flush that was to go before them failed.
    pub ended_by_failed_flush: usize,
    /// Events of block devices other than the one under test.
    pub other_devices: usize,
    /// Conversions of io_ends' extents.
    pub conversions: usize,
    /// Conversions of direct I/O, which no io_end takes part in: no entries.
    pub conversions_without_io_end: usize,
    /// Folios of other file systems and of block devices that left writeback: no entries.
    pub other_folios: usize,
    /// Reference steps that were recorded behind one they came before, and put back.
    pub reordered_steps: usize,
    /// Counts read before an atomic step that differ from the replayed ones; only where no exact count is to be had.
    pub inexact_counts: usize,
}

/// Decodes a `guest.raw`. Errors are for what cannot be understood; what is lost or does not fit is told in the result.
pub fn decode(raw: &[u8]) -> Result<Decoded, DecodeError> {
    let contents = container::read(raw)?;
    let formats = Formats::parse(&contents.header)?;
    let mut losses = Losses::from_container(&contents);
    let typed = |cpu: u16, record: &Record| formats.typed(cpu, record);
    let streams = read_pages(&contents, &mut losses, typed)?;
    let cpus = streams.len();
    let mut events = merge(streams, &mut losses, |event: &Event| event.seq);
    contexts::settle(&mut events);
    losses.no_events = events.is_empty();
    losses.compare_with_stats(&contents, |cpu| events.iter().filter(|event| event.cpu == cpu).count());
    let mut maker = Maker::new(&events, &formats, &contents.header);
    for at in 0..events.len() {
        maker.event(at);
    }
    let (entries, unplaced, ops, mut totals) = maker.finish();
    totals.pages = contents.pages.len();
    totals.events = events.len();
    totals.cpus = cpus;
    Ok(Decoded { entries, losses, unplaced, ops, totals, header: contents.header })
}

/// An event as the kernel recorded it, for people: `probes.txt`, debugging, tests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RingEvent {
    /// Trace clock.
    pub seq: u64,
    /// CPU.
    pub cpu: u16,
    /// `common_pid`.
    pub task: u32,
    /// `common_flags`.
    pub flags: u8,
    /// Whether those flags mean an interrupt.
    pub interrupt: bool,
    /// `system/name`.
    pub event: String,
    /// Its own fields, as text; addresses in hexadecimal.
    pub fields: BTreeMap<String, String>,
}

/// Every event of a `guest.raw` in order of the trace clock, nothing interpreted.
pub fn ring_events(raw: &[u8]) -> Result<Vec<RingEvent>, DecodeError> {
    let contents = container::read(raw)?;
    let formats = Formats::parse(&contents.header)?;
    let mut losses = Losses::default();
    let streams = read_pages(&contents, &mut losses, |cpu, record| {
        let format = formats.of(record).map_err(Problem::UnknownType)?;
        let (flags, task) = formats.common(format, record.bytes);
        let fields = format.values(record.bytes).into_iter().map(|(name, value)| (name, show(value))).collect();
        let event = format.event.clone();
        let interrupt = in_interrupt(flags);
        Ok(RingEvent { seq: record.seq, cpu, task, flags, interrupt, event, fields })
    })?;
    Ok(merge(streams, &mut losses, |event: &RingEvent| event.seq))
}

fn show(value: Value) -> String {
    match value {
        Value::Text(text) => text,
        // Kernel addresses and nothing else are this large.
        Value::Number(number) if number > 0xffff_0000_0000_0000 => format!("{number:#x}"),
        Value::Number(number) => number.to_string(),
    }
}

/// Reads every page into one stream per CPU, in order of arrival.
fn read_pages<T>(
    contents: &Contents,
    losses: &mut Losses,
    make: impl Fn(u16, &Record) -> Result<T, Problem>,
) -> Result<Vec<Vec<T>>, DecodeError> {
    let head = PageLayout::parse(&contents.header.header_page)?;
    let layout = RecordLayout::parse(&contents.header.header_event)?;
    let mut streams: BTreeMap<u16, Vec<T>> = BTreeMap::new();
    for (index, raw) in contents.pages.iter().enumerate() {
        let (records, missed) = page::records(index, raw, &head, &layout)?;
        if let Missed::Yes { events } = missed {
            losses.lost_pages.push(LostPages { page: index, cpu: raw.cpu, events });
        }
        let stream = streams.entry(raw.cpu).or_default();
        for record in &records {
            stream.push(make(raw.cpu, record).map_err(|problem| match problem {
                Problem::Event(error) => error,
                Problem::UnknownType(id) => DecodeError::UnknownEvent { page: index, cpu: raw.cpu, at: record.at, id },
            })?);
        }
    }
    Ok(streams.into_values().collect())
}

/// One sequence out of all CPUs'. Within a CPU the recorded order stays, whatever its clock says.
fn merge<T: HasCpu>(streams: Vec<Vec<T>>, losses: &mut Losses, seq: impl Fn(&T) -> u64) -> Vec<T> {
    let mut all = Vec::with_capacity(streams.iter().map(Vec::len).sum());
    for stream in streams {
        let mut latest = 0;
        for (place, event) in stream.into_iter().enumerate() {
            if seq(&event) < latest && losses.cpus_out_of_order.last() != Some(&event.cpu()) {
                losses.cpus_out_of_order.push(event.cpu());
            }
            latest = latest.max(seq(&event));
            all.push((latest, event.cpu(), place, event));
        }
    }
    all.sort_by_key(|&(latest, cpu, place, _)| (latest, cpu, place));
    all.into_iter().map(|(.., event)| event).collect()
}

trait HasCpu {
    fn cpu(&self) -> u16;
}

impl HasCpu for Event {
    fn cpu(&self) -> u16 {
        self.cpu
    }
}

impl HasCpu for RingEvent {
    fn cpu(&self) -> u16 {
        self.cpu
    }
}

#[cfg(test)]
mod tests;
