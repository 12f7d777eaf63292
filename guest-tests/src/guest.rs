//! The talk with a guest that is up: symbols, probes, the job, its results, and the trace streamed to the folder meanwhile.
//!
//! Two streams: messages on this thread, the trace on another, so that neither waits for the other. The guest powers off only
//! when it is told that everything has arrived.

use crate::failure::{At, Failure};
use crate::findings;
use crate::folder::{self, RunFolder};
use crate::host::GuestEnd;
use crate::patient::{Patient, Reason, Stop};
use crate::trace_stream::TraceStream;
use guest_init::host::{HostError, Session};
use guest_init::job::{Event, Job, Probe, Setting, Trace};
use guest_init::protocol::{FromGuest, Hello, OpEnd, Statistics, Symbol, Tracing};
use kernel_trace::container::{self, Header, Trailer};
use kernel_trace::{EventSetting, ProbePlan, SymbolAddress};
use std::cell::{RefCell, RefMut};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// What the talk needs from the outside.
pub trait Surroundings {
    /// Whether waiting for the guest still makes sense; asked some ten times a second.
    fn watch(&mut self) -> Result<(), Stop>;
    /// Sets a mark in the device and returns when it is acknowledged.
    fn mark(&mut self, name: &str) -> Result<(), Failure>;
    /// The probes for this kernel; none: it cannot be traced.
    fn plan(&mut self, symbols: &[SymbolAddress]) -> Result<Option<ProbePlan>, Failure>;
    /// The guest has reached this point.
    fn reached(&mut self, point: Point<'_>);
}

/// Points of a run that a user or a clock may want to know of.
#[derive(Clone, Copy, Debug)]
pub enum Point<'a> {
    /// The guest's first process speaks.
    Up,
    /// The file system is mounted.
    Mounted,
    /// An operation begins.
    Op(&'a str),
    /// The trace is drained.
    Done,
}

/// What the guest is asked to do.
#[derive(Clone, Debug)]
pub struct Task {
    /// Symbols whose addresses the plan needs; empty: nothing is traced.
    pub symbols: Vec<String>,
    /// Where this kernel's symbols are kept, so that its guests are asked once.
    pub kept_symbols: PathBuf,
    /// Settings, mount and workload; the trace is added here.
    pub job: Job,
    /// SHA-256 of the kernel image, for the header of the trace.
    pub image_sha256: String,
}

/// What came of it.
#[derive(Debug)]
pub struct Told {
    /// Who the guest is.
    pub hello: Hello,
    /// Operations that came back.
    pub ops: Vec<OpEnd>,
    /// The file system could not be mounted or unmounted.
    pub mount_errors: Vec<String>,
    /// The file system was unmounted without an error.
    pub unmounted: bool,
    /// Why the kernel could not be traced; none: it was.
    pub not_traced: Option<String>,
    /// How it ended.
    pub end: GuestEnd,
}

/// One job and power off. An error means that the talk could not begin; what comes with the surroundings is an error if
/// the host's side failed, the user ended it, or the guest never came up. A guest that goes away later is told in
/// [`Told::end`].
pub fn talk<S: Surroundings + 'static>(
    ctl: UnixStream,
    trace: UnixStream,
    task: Task,
    run: &RunFolder,
    surroundings: S,
) -> Result<(Result<Told, Failure>, S), Failure> {
    let mut talk = Talk::begin(ctl, trace, run.path(), &task.image_sha256, surroundings)?;
    let result = talk
        .up(&task.symbols, &task.kept_symbols)
        .and_then(|()| talk.job(task.job))
        .and_then(|()| Ok(talk.session.power_off()?));
    let told = talk.told(result);
    Ok((told, talk.end()))
}

type Watch = Box<dyn FnMut() -> Result<(), Stop>>;
type Listener = Box<dyn FnMut(&FromGuest) -> Result<(), String>>;

/// A talk with one guest, from its hello to its end, over one job or many.
pub struct Talk<S> {
    session: Session<Patient<Watch>, UnixStream, Listener>,
    ears: Rc<RefCell<Ears>>,
    surroundings: Rc<RefCell<S>>,
    reason: Reason,
    trace: UnixStream,
}

impl<S: Surroundings + 'static> Talk<S> {
    /// Begins to listen; what is heard goes into the folder `run`.
    pub fn begin(
        ctl: UnixStream,
        trace: UnixStream,
        run: &Path,
        image_sha256: &str,
        surroundings: S,
    ) -> Result<Talk<S>, Failure> {
        let out = ctl.try_clone().at("duplicate the guest's socket for", run)?;
        let reason = Reason::default();
        let ears = Rc::new(RefCell::new(Ears::new(run, &trace, image_sha256)?));
        let surroundings = Rc::new(RefCell::new(surroundings));
        let watch: Watch = {
            let (ears, surroundings) = (Rc::clone(&ears), Rc::clone(&surroundings));
            Box::new(move || {
                ears.borrow_mut().heard.trace.as_mut().map_or(Ok(()), TraceStream::check)?;
                surroundings.borrow_mut().watch()
            })
        };
        let patient = Patient::new(ctl, watch, reason.clone()).at("set up the guest's socket for", run)?;
        let listener: Listener = {
            let (ears, surroundings, reason) = (Rc::clone(&ears), Rc::clone(&surroundings), reason.clone());
            Box::new(move |message: &FromGuest| {
                ears.borrow_mut().hear(message, &surroundings).map_err(|failure| {
                    reason.set(Stop::Failure(failure));
                    "the host's side failed".to_owned()
                })
            })
        };
        Ok(Talk { session: Session::new(patient, out, listener), ears, surroundings, reason, trace })
    }

    /// Waits until the guest is up, and plans its probes.
    pub fn up(&mut self, symbols: &[String], kept_symbols: &Path) -> Result<(), Ended> {
        let hello = self.session.hello()?;
        self.surroundings.borrow_mut().reached(Point::Up);
        if symbols.is_empty() {
            return Ok(());
        }
        let (symbols, _) = self.session.symbols_kept(symbols, &hello, kept_symbols)?;
        let plan = self.surroundings.borrow_mut().plan(&addresses(&symbols)).map_err(Ended::Ours)?;
        self.ears.borrow_mut().plan = plan;
        Ok(())
    }

    /// From here on, what is heard goes into this folder. `console`: what came on the console since the folder before.
    pub fn turn_to(&mut self, run: &Path, console: &str) -> Result<(), Failure> {
        let before = Some(console.lines().map(str::to_owned).collect());
        self.ears.borrow_mut().heard = Heard { before, ..Heard::new(run, &self.trace)? };
        Ok(())
    }

    /// A complaint of the kernel's from between the scenario before and this one.
    pub fn complaint_before(&self) -> Option<String> {
        self.ears.borrow().heard.complaint_before.clone()
    }

    /// Has the guest do a job, traced if it can be.
    pub fn job(&mut self, mut job: Job) -> Result<(), Ended> {
        self.ears.borrow_mut().prepare(&mut job)?;
        let statistics = self.session.run(job)?;
        self.surroundings.borrow_mut().reached(Point::Done);
        self.ears.borrow_mut().close_trace(&statistics).map_err(Ended::Ours)
    }

    /// Has the guest let go what it keeps of its disk: its taint flags, and whether the disk is still in use.
    pub fn rest(&mut self, device: &str) -> Result<(u64, bool), Ended> {
        Ok(self.session.rest(device)?)
    }

    /// What came of a job, or of what came before it.
    pub fn told(&mut self, result: Result<(), Ended>) -> Result<Told, Failure> {
        self.ears.borrow_mut().told(result, self.reason.take())
    }

    /// What the talk needs of the outside.
    pub fn surroundings(&self) -> RefMut<'_, S> {
        self.surroundings.borrow_mut()
    }

    /// Ends the talk.
    pub fn end(self) -> S {
        let Talk { session, surroundings, .. } = self;
        drop(session);
        match Rc::try_unwrap(surroundings) {
            Ok(surroundings) => surroundings.into_inner(),
            Err(_) => unreachable!("only the session's two closures share it, and they are gone"),
        }
    }
}

/// Why a talk ended early.
#[derive(Debug)]
pub enum Ended {
    /// The guest, or the way to it.
    Guest(HostError),
    /// The host's side.
    Ours(Failure),
}

impl From<HostError> for Ended {
    fn from(error: HostError) -> Ended {
        Ended::Guest(error)
    }
}

/// Optimised probes are jumps, whose handlers run with interrupts on: every probe hit within such an interrupt is lost.
fn no_jump_probes() -> Setting {
    Setting { path: "/proc/sys/debug/kprobes-optimization".into(), value: "0".into(), optional: true }
}

fn addresses(symbols: &[Symbol]) -> Vec<SymbolAddress> {
    let address = |symbol: &Symbol| SymbolAddress {
        name: symbol.name.clone(),
        address: symbol.address,
        end: symbol.address + symbol.size,
    };
    symbols.iter().map(address).collect()
}

fn trace_of(plan: &ProbePlan) -> Trace {
    let probe = |line: &String| Probe { line: line.clone(), optional: false };
    let event = |event: &EventSetting| Event {
        name: format!("{}/{}", event.system, event.name),
        filter: event.filter.clone(),
        optional: false,
    };
    Trace {
        clock: "counter".into(),
        buffer_kib_per_cpu: 8192,
        probes: plan.kprobe_events.iter().map(probe).collect(),
        events: plan.events.iter().map(event).collect(),
    }
}

/// Everything the guest says, sorted to where it belongs.
struct Ears {
    plan: Option<ProbePlan>,
    /// What the guest said of its probes when it set them.
    tracing: Option<Tracing>,
    image_sha256: String,
    hello: Option<Hello>,
    heard: Heard,
}

/// What is heard of one job.
struct Heard {
    run: PathBuf,
    log: BufWriter<File>,
    trace: Option<TraceStream>,
    ops: Vec<OpEnd>,
    op_begun: Option<(u32, String)>,
    mount_errors: Vec<String>,
    unmounted: bool,
    /// Lines of the kernel's that belong to what came before this job; none: it has begun.
    before: Option<Vec<String>>,
    complaint_before: Option<String>,
}

impl Heard {
    fn new(run: &Path, trace: &UnixStream) -> Result<Heard, Failure> {
        let (log, raw) = (run.join(folder::GUEST_LOG), run.join(folder::GUEST_RAW));
        let trace = trace.try_clone().at("duplicate the guest's socket for", &raw)?;
        Ok(Heard {
            run: run.to_owned(),
            log: BufWriter::new(File::create(&log).at("create", &log)?),
            trace: Some(TraceStream::start(trace, &raw)?),
            ops: Vec::new(),
            op_begun: None,
            mount_errors: Vec::new(),
            unmounted: false,
            before: None,
            complaint_before: None,
        })
    }

    /// A `remount` took the file system off and could not put it back (its result is in `ops`): nothing is left to unmount.
    fn is_off(&self) -> bool {
        self.ops.iter().rev().find(|op| op.op == "remount").is_some_and(|op| op.errno.is_some())
    }

    /// The job begins: what the kernel said until now is laid aside.
    fn begins(&mut self) -> Result<(), Failure> {
        let Some(before) = self.before.take().filter(|before| !before.is_empty()) else { return Ok(()) };
        let text = before.join("\n") + "\n";
        self.complaint_before = findings::complaints(&text, false).first().map(|line| (*line).to_owned());
        let file = self.run.join(folder::BEFORE);
        std::fs::write(&file, text).at("write", file)
    }

    fn write_log(&mut self, line: &str) -> Result<(), Failure> {
        writeln!(self.log, "{line}").at("write", self.run.join(folder::GUEST_LOG))
    }
}

impl Ears {
    fn new(run: &Path, trace: &UnixStream, image_sha256: &str) -> Result<Ears, Failure> {
        let heard = Heard::new(run, trace)?;
        Ok(Ears { plan: None, tracing: None, image_sha256: image_sha256.to_owned(), hello: None, heard })
    }

    /// The first job sets the probes; those after it find them set, and the host knows what they were told to be.
    fn prepare(&mut self, job: &mut Job) -> Result<(), Ended> {
        let Some(plan) = &self.plan else { return Ok(()) };
        match self.tracing.take() {
            Some(tracing) => {
                job.trace_as_before = true;
                let told = self.tracing(&tracing).map_err(Ended::Ours);
                self.tracing = Some(tracing);
                told
            }
            None => {
                job.trace = Some(trace_of(plan));
                job.at_start.push(no_jump_probes());
                Ok(())
            }
        }
    }

    fn hear<S: Surroundings>(&mut self, message: &FromGuest, surroundings: &RefCell<S>) -> Result<(), Failure> {
        if matches!(message, FromGuest::Disk { .. }) {
            self.heard.begins()?;
        }
        self.write_log(message)?;
        match message {
            FromGuest::Hello(hello) => self.hello = Some(hello.clone()),
            FromGuest::Tracing(tracing) => {
                self.tracing(tracing)?;
                self.tracing = Some(tracing.clone());
            }
            FromGuest::Mounted { errno: None } => surroundings.borrow_mut().reached(Point::Mounted),
            FromGuest::Mounted { errno: Some(errno) } => {
                self.heard.mount_errors.push(format!("mount failed with {errno}"))
            }
            FromGuest::OpBegin { index, op } => {
                self.heard.op_begun = Some((*index, op.clone()));
                surroundings.borrow_mut().reached(Point::Op(op));
            }
            FromGuest::OpEnd(end) => self.heard.ops.push(end.clone()),
            FromGuest::Mark { name, .. } => surroundings.borrow_mut().mark(name)?,
            FromGuest::Unmounted { errno: None } => self.heard.unmounted = true,
            FromGuest::Unmounted { errno: Some(errno) } if self.heard.is_off() && errno.to_string() == "EINVAL" => {
                self.heard.unmounted = true;
            }
            FromGuest::Unmounted { errno: Some(errno) } => {
                self.heard.mount_errors.push(format!("umount failed with {errno}"))
            }
            _ => {}
        }
        Ok(())
    }

    /// Kernel lines as the kernel writes them, the rest as it was said; what others files hold whole is left out.
    fn write_log(&mut self, message: &FromGuest) -> Result<(), Failure> {
        let line = match message {
            FromGuest::Log(log) => {
                let seconds = log.time_us as f64 / 1e6;
                let line = format!("[{seconds:12.6}] {}", log.text);
                if let Some(before) = &mut self.heard.before {
                    before.push(line);
                    return Ok(());
                }
                line
            }
            FromGuest::Symbols { .. } | FromGuest::Formats { .. } | FromGuest::Tracing(_) | FromGuest::Done(_) => {
                return Ok(());
            }
            other => serde_json::to_string(other).expect("it came as JSON"),
        };
        self.heard.write_log(&line)
    }

    fn tracing(&mut self, tracing: &Tracing) -> Result<(), Failure> {
        let (Some(plan), Some(hello)) = (&self.plan, &self.hello) else { return Ok(()) };
        let probes = self.heard.run.join(folder::PROBES);
        std::fs::write(&probes, plan.kprobe_events.join("\n") + "\n").at("write", probes)?;
        let header = Header {
            version: container::VERSION,
            kernel_release: hello.release.clone(),
            image_sha256: self.image_sha256.clone(),
            vcpus: u16::try_from(hello.cpus).unwrap_or(u16::MAX),
            clock: tracing.clock.clone(),
            header_page: tracing.header_page.clone(),
            header_event: tracing.header_event.clone(),
            formats: tracing.formats.iter().map(event_format).collect(),
            plan: plan.clone(),
        };
        if let Some(trace) = &mut self.heard.trace {
            trace.header(header);
        }
        Ok(())
    }

    fn close_trace(&mut self, statistics: &Statistics) -> Result<(), Failure> {
        let trailer =
            Trailer { kprobe_profile: statistics.kprobe_profile.clone(), cpu_stats: statistics.per_cpu.clone() };
        let missing = match self.heard.trace.take() {
            Some(trace) => trace.finish(Some(&trailer))?,
            None => None,
        };
        match missing {
            Some(missing) => self.heard.write_log(&missing),
            None => Ok(()),
        }
    }

    fn told(&mut self, result: Result<(), Ended>, stop: Option<Stop>) -> Result<Told, Failure> {
        let heard = &mut self.heard;
        // A guest that never came so far: it is this job's folder that tells of it.
        for line in heard.before.take().unwrap_or_default() {
            heard.write_log(&line)?;
        }
        if let Some(trace) = heard.trace.take() {
            trace.finish(None)?;
        }
        heard.log.flush().at("write", heard.run.join(folder::GUEST_LOG))?;
        let end = self.end(result, stop)?;
        let Some(hello) = self.hello.clone() else {
            return Err(Failure::infrastructure("the guest did not come up", "console.log and qemu.log say more"));
        };
        let heard = &mut self.heard;
        Ok(Told {
            hello,
            ops: std::mem::take(&mut heard.ops),
            mount_errors: std::mem::take(&mut heard.mount_errors),
            unmounted: heard.unmounted,
            not_traced: None,
            end,
        })
    }

    fn end(&self, result: Result<(), Ended>, stop: Option<Stop>) -> Result<GuestEnd, Failure> {
        match (result, stop) {
            (Ok(()), _) => Ok(GuestEnd::Done),
            (_, Some(Stop::Failure(failure))) | (Err(Ended::Ours(failure)), None) => Err(failure),
            (_, Some(Stop::TimeLimit { seconds })) if self.hello.is_none() => Err(Failure::infrastructure(
                format!("the guest did not come up within {seconds} s"),
                "console.log and qemu.log say more; a slow machine may need a longer --time-limit",
            )),
            (_, Some(Stop::TimeLimit { seconds })) => Ok(GuestEnd::TimeLimit { seconds }),
            (_, Some(Stop::PowerCut { what })) if self.hello.is_none() => Err(Failure::BadInput(format!(
                "{what} before the guest was up, so there is nothing to judge; let the rule wait for a mark or a write"
            ))),
            (_, Some(Stop::PowerCut { what })) => {
                let during = match self.heard.op_begun.as_ref() {
                    Some((index, op)) => format!("operation {index} ({op}) was the last to begin"),
                    None => "no operation had begun".to_owned(),
                };
                Ok(GuestEnd::PowerCut { why: format!("{what}; {during}") })
            }
            (Err(Ended::Guest(HostError::Gone { while_doing })), None) => {
                Ok(GuestEnd::Died { why: format!("the guest went away {while_doing}") })
            }
            (Err(Ended::Guest(error)), None) => Err(Failure::infrastructure(error.to_string(), "")),
        }
    }
}

fn event_format(format: &guest_init::protocol::EventFormat) -> container::EventFormat {
    container::EventFormat { event: format.event.clone(), text: format.text.clone() }
}
