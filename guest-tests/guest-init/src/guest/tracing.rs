//! tracefs: probes, events, markers, and the numbers that say whether anything was lost.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use guest_init::job::{Errno, Event, Job, Trace};
use guest_init::profile;
use guest_init::protocol::{EventFormat, FromGuest, Refusal, Statistics, TRACE_PORT, Tracing};

use super::ctl::{self, Ctl};
use super::stream::Stream;
use super::{Doing, Outcome, files};

const TRACEFS: &str = "/sys/kernel/tracing";

fn tracefs(path: &str) -> PathBuf {
    Path::new(TRACEFS).join(path)
}

fn read(path: &str) -> Outcome<String> {
    read_in_large_pieces(&tracefs(path)).doing(format!("reading {path} of tracefs"))
}

/// `header_page` and `header_event` give only what the first read asks for, then the end: `fs::read_to_string` begins
/// with 32 bytes, and gets no more.
fn read_in_large_pieces(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut text = Vec::new();
    let mut piece = vec![0; 1 << 16];
    loop {
        match file.read(&mut piece)? {
            0 => return String::from_utf8(text).map_err(io::Error::other),
            len => text.extend_from_slice(&piece[..len]),
        }
    }
}

fn set(path: &str, value: &str) -> Outcome<()> {
    files::write(tracefs(path), value).doing(format!("writing {value:?} to {path} of tracefs"))
}

/// Answers [`guest_init::protocol::ToGuest::Formats`].
pub fn formats(events: &[String]) -> FromGuest {
    let found = |event: &String| format(event).map_err(|_| event.clone());
    let (formats, missing): (Vec<_>, Vec<_>) = events.iter().map(found).partition(Result::is_ok);
    FromGuest::Formats {
        formats: formats.into_iter().filter_map(Result::ok).collect(),
        missing: missing.into_iter().filter_map(Result::err).collect(),
    }
}

fn format(event: &str) -> Outcome<EventFormat> {
    Ok(EventFormat { event: event.into(), text: read(&format!("events/{event}/format"))? })
}

/// What stays from one job to the next: the port, and the probes and events once they are set.
#[derive(Default)]
pub struct Probes {
    port: Option<File>,
    set: Option<Set>,
}

struct Set {
    marker: File,
    per_cpu: Vec<PathBuf>,
}

impl Probes {
    fn port(&mut self) -> Outcome<File> {
        if self.port.is_none() {
            let port = ctl::port(TRACE_PORT)?;
            self.port = Some(File::options().write(true).open(&port).doing("opening the port trace")?);
        }
        let port = self.port.as_ref().map(File::try_clone);
        port.ok_or("it is not open").doing("using the port trace")?.doing("opening the port trace twice")
    }

    /// Sets what a job wants traced, and says so; or empties the buffers of what is set.
    fn ready(&mut self, job: &Job, ctl: &Ctl) -> Outcome<Option<&Set>> {
        match (&job.trace, &self.set) {
            (None, _) if !job.trace_as_before => return Ok(None),
            (Some(trace), None) if !job.trace_as_before => {
                let (set, tracing) = Set::new(trace)?;
                ctl.send(&FromGuest::Tracing(tracing))?;
                self.set = Some(set);
            }
            (None, Some(_)) => empty_buffers()?,
            (None, None) => return Err("no earlier job of this boot traced anything").doing("tracing as before"),
            (Some(_), _) => return Err("an earlier job of this boot has set some").doing("setting the probes"),
        }
        Ok(self.set.as_ref())
    }
}

impl Set {
    fn new(trace: &Trace) -> Outcome<(Set, Tracing)> {
        let mut refused = Vec::new();
        prepare(trace)?;
        set_probes(trace, &mut refused)?;
        let enabled = enable_events(&trace.events, &mut refused)?;
        let tracing = describe(&enabled, refused)?;
        let set = Set {
            marker: File::options().write(true).open(tracefs("trace_marker")).doing("opening trace_marker")?,
            per_cpu: per_cpu()?,
        };
        Ok((set, tracing))
    }
}

/// Whoever truncates `trace` empties the buffers and begins their statistics anew.
fn empty_buffers() -> Outcome<()> {
    let emptied = File::options().write(true).truncate(true).open(tracefs("trace"));
    emptied.map(drop).doing("emptying the trace buffers")
}

/// Tracing from switched on to drained. Without a [`Trace`] the stream is an END frame alone.
pub struct Tracer {
    marker: Option<File>,
    stream: Stream,
    /// `kprobe_profile` as it was before: the kernel never begins it anew.
    profile_before: String,
}

impl Tracer {
    pub fn start(job: &Job, ctl: &Ctl, probes: &mut Probes) -> Outcome<Self> {
        let port = probes.port()?;
        let Some(set) = probes.ready(job, ctl)? else {
            return Ok(Tracer { marker: None, stream: Stream::start(port, &[])?, profile_before: String::new() });
        };
        let marker = set.marker.try_clone().doing("opening trace_marker twice")?;
        let stream = Stream::start(port, &set.per_cpu)?;
        let profile_before = read("kprobe_profile")?;
        set_tracing(true)?;
        Ok(Tracer { marker: Some(marker), stream, profile_before })
    }

    /// `B INDEX NAME` or `B INDEX NAME INODE`: the op begins; with the inode if it will tell that file's errors although it
    /// does not itself pass through `ext4_sync_file`.
    pub fn op_begins(&self, index: u32, name: &str, tells_errors_of: Option<u64>) -> Outcome<()> {
        let inode = tells_errors_of.map_or_else(String::new, |inode| format!(" {inode}"));
        self.mark(&format!("B {index} {name}{inode}"))
    }

    /// `E INDEX ERRNO`: it ended; 0 without an error.
    pub fn op_ended(&self, index: u32, errno: Option<Errno>) -> Outcome<()> {
        self.mark(&format!("E {index} {}", errno.map_or(0, |e| e.0)))
    }

    /// `# TEXT`: a remark, not an op.
    pub fn remark(&self, text: &str) -> Outcome<()> {
        self.mark(&format!("# {text}"))
    }

    fn mark(&self, text: &str) -> Outcome<()> {
        self.marker
            .as_ref()
            .map_or(Ok(()), |mut marker| marker.write_all(text.as_bytes()).doing("writing a trace marker"))
    }

    /// Switches tracing off, drains the buffers, and counts.
    pub fn stop(self) -> Outcome<Statistics> {
        let traced = self.marker.is_some();
        if traced {
            set_tracing(false)?;
        }
        let end = self.stream.finish()?;
        let (pages, bytes) = (end.pages.iter().sum(), end.bytes.iter().sum());
        if !traced {
            return Ok(Statistics { pages, bytes, ..Statistics::default() });
        }
        let stats = (0..end.pages.len()).map(|cpu| read(&format!("per_cpu/cpu{cpu}/stats")));
        Ok(Statistics {
            kprobe_profile: profile::since(&self.profile_before, &read("kprobe_profile")?)
                .doing("counting the probes' hits")?,
            per_cpu: stats.collect::<Outcome<_>>()?,
            pages,
            bytes,
        })
    }
}

fn set_tracing(on: bool) -> Outcome<()> {
    set("tracing_on", if on { "1" } else { "0" })
}

fn prepare(trace: &Trace) -> Outcome<()> {
    set_tracing(false)?;
    // Optimised kprobes drop hits of interrupts that arrive while a handler runs; kprobe_profile alone would say so.
    files::write("/proc/sys/debug/kprobes-optimization", "0").doing("switching kprobe optimisation off")?;
    set("trace_clock", &trace.clock)?;
    set("buffer_size_kb", &trace.buffer_kib_per_cpu.to_string())
}

fn set_probes(trace: &Trace, refused: &mut Vec<Refusal>) -> Outcome<()> {
    trace.probes.iter().try_for_each(|probe| {
        let set = files::append(tracefs("kprobe_events"), &probe.line);
        files::allow(set, probe.optional, &format!("setting the probe `{}`", probe.line), refused)
    })
}

fn enable_events<'a>(events: &'a [Event], refused: &mut Vec<Refusal>) -> Outcome<Vec<&'a str>> {
    let mut enabled = Vec::new();
    for event in events {
        let before = refused.len();
        let folder = tracefs(&format!("events/{}", event.name));
        let filter = event.filter.as_ref().map_or(Ok(()), |filter| files::write(folder.join("filter"), filter));
        let enable = filter.and_then(|()| files::write(folder.join("enable"), "1"));
        files::allow(enable, event.optional, &format!("enabling the event {}", event.name), refused)?;
        if refused.len() == before {
            enabled.push(event.name.as_str());
        }
    }
    Ok(enabled)
}

fn describe(enabled: &[&str], refused: Vec<Refusal>) -> Outcome<Tracing> {
    let clocks = read("trace_clock")?;
    let clock = clocks.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map_or("", |(clock, _)| clock);
    Ok(Tracing {
        formats: enabled.iter().copied().chain(["ftrace/print"]).map(format).collect::<Outcome<_>>()?,
        header_page: read("events/header_page")?,
        header_event: read("events/header_event")?,
        clock: clock.into(),
        refused,
    })
}

/// The folders of all possible CPUs, in order.
fn per_cpu() -> Outcome<Vec<PathBuf>> {
    let folder = |cpu: u32| tracefs(&format!("per_cpu/cpu{cpu}"));
    Ok((0..).map(folder).take_while(|folder| folder.exists()).collect())
}
