//! The control socket: one JSON object per line in, one per line out, with the id it came with.
//!
//! `{"id":1,"verb":"mark","name":"A"}` is answered by `{"id":1,"ok":true,"result":{…}}`, or by `{"id":1,"ok":false,
//! "error":"…"}`. Each client has a thread of its own and a limit on what it may send, so that a stuck or babbling one
//! disturbs nobody, least of all the guest.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use fault_injection::{
    CutDraws, Engine, EventRecord, FailClass, PowerCut, ScriptError, Strategy, Subset, Then, Unflushed,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::args::{RulesVerb, Verb};
use crate::device::Device;
use crate::drive::{Change, Drive, Refusal};
use crate::error::SocketError;
use crate::power;

/// Longer lines are not read.
const MAX_LINE_BYTES: u64 = 64 << 10;
/// More clients at once are turned away.
const MAX_CLIENTS: usize = 16;
/// A client that does not read its answer for so long is left.
const WRITE_LIMIT: Duration = Duration::from_secs(5);
/// Earlier requests are waited for no longer than this: one may be held for ever.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);
const VERBS: &str = "status, mark, release, counters, rules.list, rules.enable, rules.disable, rules.add, rules.remove, \
                     heal, fail_class, power_cut, snapshot, resize, change, subscribe";
/// How soon it is seen that a listener has left while nothing happens.
const LOOK_AT_CLIENT: Duration = Duration::from_secs(1);

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// What the device is doing.
    Status,
    /// Sets a mark.
    Mark {
        /// Its name.
        name: String,
    },
    /// Lets go what a rule holds.
    Release {
        /// The rule's id.
        rule: String,
    },
    /// How often what happened.
    Counters,
    /// Cuts the power now.
    PowerCut {
        /// What survives of the unflushed writes.
        #[serde(default)]
        unflushed: Survivors,
        /// Most states of a subset.
        #[serde(default = "default_max_states")]
        max_states: u32,
        /// What happens then.
        #[serde(default)]
        then: AfterCut,
    },
    /// Writes down what a power cut now would leave, and changes nothing.
    Snapshot {
        /// What survives of the unflushed writes.
        #[serde(default = "default_survivors")]
        unflushed: Survivors,
        /// Most states of a subset.
        #[serde(default = "default_max_states")]
        max_states: u32,
    },
    /// Every rule: on or off, how often it fired, what is bad by it.
    #[serde(rename = "rules.list")]
    RulesList,
    /// A rule may fire again.
    #[serde(rename = "rules.enable")]
    RulesEnable {
        /// Its id.
        rule: String,
    },
    /// A rule fires no more.
    #[serde(rename = "rules.disable")]
    RulesDisable {
        /// Its id.
        rule: String,
    },
    /// A rule more, behind the others.
    #[serde(rename = "rules.add")]
    RulesAdd {
        /// As in a script.
        rule: Value,
    },
    /// A rule less.
    #[serde(rename = "rules.remove")]
    RulesRemove {
        /// Its id.
        rule: String,
    },
    /// Heals what stuck, and ends `fail_class`; with a rule, what stuck by that one. Answered when earlier requests have
    /// left.
    Heal {
        /// Its id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rule: Option<String>,
    },
    /// All requests of a class fail. Answered when earlier requests have left.
    FailClass {
        /// Which.
        class: FailClass,
    },
    /// Gives the disk another size, and tells the guest.
    Resize {
        /// Its new size.
        capacity_sectors: u64,
    },
    /// Puts another disk in the place of this one, while nothing is in flight.
    Change(Change),
    /// After its answer, what happens comes as it happens, one object per line; nothing more can be asked.
    Subscribe,
}

/// `unflushed`, in one word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Survivors {
    /// Nothing.
    #[default]
    None,
    /// Everything.
    All,
    /// The first ones, in the order in which they were completed.
    Prefix,
    /// Some: the subsets that find most, then drawn ones.
    Reduced,
    /// Some: every subset, as far as there are no more than 2^12.
    Exhaustive,
    /// Some: drawn prefixes and subsets.
    Drawn,
}

/// `then` of a cut that was asked for here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum AfterCut {
    /// The virtual machine is ended: through --qmp, else by whoever asked.
    #[default]
    KillVm,
    /// The front-end is disconnected.
    Disconnect,
}

/// States of one snapshot, unless something else is asked for.
pub const DEFAULT_MAX_STATES: u32 = 32;

fn default_max_states() -> u32 {
    DEFAULT_MAX_STATES
}

fn default_survivors() -> Survivors {
    Survivors::Reduced
}

impl Survivors {
    fn unflushed(self, max_states: u32) -> Unflushed {
        let subset = |strategy| Unflushed::Subset(Subset { strategy, max_states });
        match self {
            Survivors::None => Unflushed::None,
            Survivors::All => Unflushed::All,
            Survivors::Prefix => Unflushed::Prefix,
            Survivors::Reduced => subset(Strategy::Reduced),
            Survivors::Exhaustive => subset(Strategy::Exhaustive),
            Survivors::Drawn => subset(Strategy::Drawn),
        }
    }
}

impl From<&Verb> for Ask {
    fn from(verb: &Verb) -> Ask {
        match verb {
            Verb::Status => Ask::Status,
            Verb::Mark { name } => Ask::Mark { name: name.clone() },
            Verb::Release { rule } => Ask::Release { rule: rule.clone() },
            Verb::Counters => Ask::Counters,
            Verb::PowerCut { unflushed, then } => {
                Ask::PowerCut { unflushed: *unflushed, max_states: DEFAULT_MAX_STATES, then: *then }
            }
            Verb::Snapshot { unflushed, max_states } => {
                Ask::Snapshot { unflushed: *unflushed, max_states: *max_states }
            }
            Verb::Resize { capacity_sectors } => Ask::Resize { capacity_sectors: *capacity_sectors },
            Verb::Change(change) => Ask::Change(change.clone()),
            Verb::Subscribe => Ask::Subscribe,
            Verb::Rules(rules) => Ask::from(rules),
            Verb::Heal { rule } => Ask::Heal { rule: rule.clone() },
            Verb::FailClass { class } => Ask::FailClass { class: *class },
        }
    }
}

impl From<&RulesVerb> for Ask {
    fn from(verb: &RulesVerb) -> Ask {
        match verb {
            RulesVerb::List => Ask::RulesList,
            RulesVerb::Enable { rule } => Ask::RulesEnable { rule: rule.clone() },
            RulesVerb::Disable { rule } => Ask::RulesDisable { rule: rule.clone() },
            RulesVerb::Add { rule } => Ask::RulesAdd { rule: rule.clone() },
            RulesVerb::Remove { rule } => Ask::RulesRemove { rule: rule.clone() },
        }
    }
}

/// The socket file; removed when this is dropped.
pub struct Control {
    path: PathBuf,
}

impl Control {
    /// Starts to answer.
    pub fn start(path: &Path, drive: Arc<Drive>) -> Result<Control, SocketError> {
        let listener = crate::frontend::listen(path)?;
        let bind = |source| SocketError::Bind { path: path.to_path_buf(), source };
        let control = Control { path: path.to_path_buf() };
        let run = move || accept(&listener, &drive);
        std::thread::Builder::new().name("control".into()).spawn(run).map_err(bind)?;
        Ok(control)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

fn accept(listener: &UnixListener, drive: &Arc<Drive>) {
    let clients = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else {
            // Out of descriptors, most likely: not to spin until there are some again.
            std::thread::sleep(Duration::from_millis(100));
            continue;
        };
        if clients.fetch_add(1, Ordering::SeqCst) >= MAX_CLIENTS {
            clients.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let (drive, counted) = (drive.clone(), clients.clone());
        let run = move || {
            // The client's end of the socket is the client's affair.
            let _ = converse(&stream, &drive);
            counted.fetch_sub(1, Ordering::SeqCst);
        };
        if std::thread::Builder::new().name("control-client".into()).spawn(run).is_err() {
            clients.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn converse(stream: &UnixStream, drive: &Drive) -> io::Result<()> {
    stream.set_write_timeout(Some(WRITE_LIMIT))?;
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let bytes = reader.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
        if bytes == 0 {
            return Ok(());
        }
        let mut events = None;
        let answer = if line.ends_with(b"\n") {
            respond(&line, &drive.device(), &mut events, |wanted| drive.change(wanted))
        } else {
            json!({"id": null, "ok": false, "error": format!("a line longer than {MAX_LINE_BYTES} bytes, or cut short")})
        };
        writeln!(&mut &*stream, "{answer}")?;
        if !line.ends_with(b"\n") {
            return Ok(());
        }
        if let Some(events) = events {
            return pass_on(&events, stream);
        }
    }
}

/// Passes on what happens until the client leaves or says something, which a listener has no reason to.
fn pass_on(events: &Receiver<String>, mut stream: &UnixStream) -> io::Result<()> {
    loop {
        match events.recv_timeout(LOOK_AT_CLIENT) {
            Ok(line) => writeln!(stream, "{line}")?,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let mut client = [PollFd::new(stream.as_fd(), PollFlags::POLLIN)];
        if poll(&mut client, PollTimeout::ZERO)? > 0 {
            return Ok(());
        }
    }
}

/// Answers one line, whatever it is. After `subscribe`, `events` is what the client is to hear; `change` puts another disk
/// in the place of this one.
pub fn respond(
    line: &[u8],
    device: &Device,
    events: &mut Option<Receiver<String>>,
    change: impl FnOnce(&Change) -> Result<Value, Refusal>,
) -> Value {
    let mut ask = match serde_json::from_slice::<Value>(line) {
        Ok(Value::Object(ask)) => ask,
        Ok(_) => return json!({"id": null, "ok": false, "error": "not a JSON object"}),
        Err(error) => return json!({"id": null, "ok": false, "error": format!("not JSON: {error}")}),
    };
    let id = ask.remove("id").unwrap_or(Value::Null);
    let result = match serde_json::from_value::<Ask>(Value::Object(ask)) {
        Ok(Ask::Subscribe) => {
            *events = Some(device.listeners.add());
            Ok(json!({}))
        }
        Ok(Ask::Change(wanted)) => change(&wanted),
        Ok(ask) => carry_out(&ask, device).map_err(Refusal::from),
        Err(error) => Err(Refusal::from(format!("{error} (verbs: {VERBS})"))),
    };
    match result {
        Ok(result) => json!({"id": id, "ok": true, "result": result}),
        Err(Refusal { why, exit_code: None }) => json!({"id": id, "ok": false, "error": why}),
        Err(Refusal { why, exit_code }) => json!({"id": id, "ok": false, "error": why, "exit_code": exit_code}),
    }
}

fn carry_out(ask: &Ask, device: &Device) -> Result<Value, String> {
    match ask {
        Ask::Status => Ok(device.status()),
        Ask::Counters => Ok(device.counters_json()),
        Ask::Mark { name } => Ok(mark(name, device)),
        Ask::PowerCut { unflushed, max_states, then } => {
            let then = match then {
                AfterCut::KillVm => Then::KillVm,
                AfterCut::Disconnect => Then::Disconnect,
            };
            cut_power(device, unflushed.unflushed(*max_states), then)
        }
        Ask::Snapshot { unflushed, max_states } => cut_power(device, unflushed.unflushed(*max_states), Then::Snapshot),
        // Whoever called has done those two.
        Ask::Subscribe | Ask::Change(_) => Ok(json!({})),
        Ask::RulesList => Ok(json!(device.gates().engine.rules())),
        Ask::RulesEnable { rule } => change(device, |engine, seq| engine.enable(rule, true, seq)),
        Ask::RulesDisable { rule } => change(device, |engine, seq| engine.enable(rule, false, seq)),
        Ask::RulesAdd { rule } => add_rule(rule, device),
        Ask::RulesRemove { rule } => change(device, |engine, seq| engine.remove(rule, seq)),
        Ask::Heal { rule } => {
            let done = change(device, |engine, seq| engine.heal(rule.as_deref(), seq))?;
            device.settle_earlier(SETTLE_LIMIT).map(|()| done)
        }
        Ask::FailClass { class } => {
            let done = change(device, |engine, seq| Ok(engine.fail_class(*class, seq)))?;
            device.settle_earlier(SETTLE_LIMIT).map(|()| done)
        }
        Ask::Resize { capacity_sectors } => {
            let mut gates = device.gates();
            let done = device.resize(*capacity_sectors)?;
            let event = gates.engine.resize(*capacity_sectors, done["seq"].as_u64().unwrap_or_default());
            device.log(&[event]);
            Ok(done)
        }
        Ask::Release { rule } => {
            let mut gates = device.gates();
            let known = gates
                .engine
                .release(rule)
                .ok_or_else(|| format!("no rule \"{rule}\" with a hold action in the script"))?;
            Ok(json!({"released": gates.release(&[known])}))
        }
    }
}

/// Recorded and applied when it returns; requests that it lets go are on their way to their rings.
fn mark(name: &str, device: &Device) -> Value {
    let mut gates = device.gates();
    let seq = device.order.next_seq();
    let n = device.recorder().mark(name, seq, device.session());
    let reached = gates.engine.mark(name, seq, device.elapsed_ms());
    json!({"name": name, "seq": seq, "n": n, "released": device.apply(&mut gates, &reached)})
}

/// Changes the running script. It holds for every request that is taken after the answer.
fn change(
    device: &Device,
    what: impl FnOnce(&mut Engine, u64) -> Result<EventRecord, ScriptError>,
) -> Result<Value, String> {
    let mut gates = device.gates();
    let seq = device.order.next_seq();
    let event = what(&mut gates.engine, seq).map_err(|error| error.to_string())?;
    device.refilter(&gates.engine);
    device.log(&[event]);
    Ok(json!({"seq": seq}))
}

fn add_rule(rule: &Value, device: &Device) -> Result<Value, String> {
    let cuts = |rule: &Value| rule["action"].get("power_cut").is_some();
    if cuts(rule) && device.power.is_none() {
        return Err("this device was not started to lose its power: see power_cut in docs/vhost-blk.md".into());
    }
    if let Some(path) = rule["match"]["path"].as_str() {
        device.follow_path(path);
    }
    let facts = device.facts();
    change(device, |engine, seq| engine.add(rule, &facts, seq))
}

/// With all queues at rest between two requests.
fn cut_power(device: &Device, unflushed: Unflushed, then: Then) -> Result<Value, String> {
    let Some(power) = &device.power else {
        return Err("nothing to lose: the script needs \"device\": {\"write_cache\": \"writeback\"} or a power_cut, \
                    or the device a --snapshot-dir"
            .into());
    };
    if then == Then::Snapshot && !power.takes_snapshots() {
        return Err("a snapshot needs a place: start the device with --snapshot-dir DIR".into());
    }
    let mut gates = device.gates();
    let (by, seed) = ("control", gates.engine.seed());
    let draws = CutDraws::new(seed, by, power.cuts() + 1);
    power::cut(device, &mut gates, &PowerCut { by: by.into(), unflushed, then, draws })
}

/// The other end of `subscribe`: gives every line to `told` until the device ends or `told` has enough.
pub fn listen_to(path: &Path, mut told: impl FnMut(&str) -> bool) -> io::Result<()> {
    let stream = UnixStream::connect(path)?;
    writeln!(&mut &stream, "{}", json!({"id": 1, "verb": "subscribe"}))?;
    let mut lines = BufReader::new(&stream).lines();
    let agreed = lines.next().transpose()?.unwrap_or_default();
    if serde_json::from_str::<Value>(&agreed).is_ok_and(|answer| answer["ok"] != true) {
        return Err(io::Error::other(agreed));
    }
    for line in lines {
        if !told(&line?) {
            break;
        }
    }
    Ok(())
}

/// The other end: asks one thing, and gives the result.
pub fn ask(path: &Path, ask: &Ask) -> io::Result<Result<Value, String>> {
    let stream = UnixStream::connect(path)?;
    let mut line = serde_json::to_value(ask)?;
    line["id"] = 1.into();
    writeln!(&mut &stream, "{line}")?;
    let mut answer = String::new();
    if BufReader::new(&stream).read_line(&mut answer)? == 0 {
        let why = format!("it closed the connection without an answer (it speaks to {MAX_CLIENTS} clients at once)");
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
    }
    let answer: Value = serde_json::from_str(&answer)?;
    Ok(match answer["ok"].as_bool() {
        Some(true) => Ok(answer["result"].clone()),
        _ => Err(answer["error"].as_str().unwrap_or("the device gave no reason").to_string()),
    })
}
