//! What stays while disks come and go: the front-end's connection, the control socket, and the descriptor that calls us.
//!
//! A disk is changed as a whole. The new device is built as a process of its own would build it (image, script, seed, record,
//! every counter and state), and takes the old one's place behind the rings at one moment, when nothing is in flight; so
//! nothing of the old one can be left in the new one. What is refused leaves the old one as it was. The driver is told
//! nothing, hence the new device must offer exactly what it knows of the old one.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::eventfd::EventFd;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::args::Serve;
use crate::config::Offer;
use crate::device::Device;
use crate::error::StartError;
use crate::serve::{Ending, finish, refuse_disconnect};
use crate::session::Session;

/// Another disk: the arguments of the same names. What is left out is as if its flag had not been given; everything else of
/// the command line stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::Args)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The new image, or memory:SIZE.
    #[arg(long, value_name = "PATH")]
    pub blk_file: PathBuf,
    /// Fault script; may be given several times.
    #[arg(long, value_name = "FILE")]
    #[serde(default)]
    pub faults: Vec<PathBuf>,
    /// Root of all randomness.
    #[arg(long, value_name = "N")]
    #[serde(default)]
    pub seed: Option<u64>,
    /// Write the device record here.
    #[arg(long, value_name = "PATH")]
    #[serde(default)]
    pub trace_file: Option<PathBuf>,
    /// Write every decision here.
    #[arg(long, value_name = "PATH")]
    #[serde(default)]
    pub decisions_file: Option<PathBuf>,
    /// Force the outcomes recorded in a decisions file.
    #[arg(long, value_name = "DECISIONS")]
    #[serde(default)]
    pub replay: Option<PathBuf>,
    /// Keep a list of the lies here.
    #[arg(long, value_name = "PATH")]
    #[serde(default)]
    pub overlay_file: Option<PathBuf>,
    /// Keep the snapshots of power cuts in this folder.
    #[arg(long, value_name = "DIR")]
    #[serde(default)]
    pub snapshot_dir: Option<PathBuf>,
}

/// Why a disk was not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// In words.
    pub why: String,
    /// What a process would have ended with: 2, what was asked for is wrong; 4, the host would not do it. None: this is not
    /// the moment.
    pub exit_code: Option<u8>,
}

impl From<String> for Refusal {
    fn from(why: String) -> Refusal {
        Refusal { why, exit_code: None }
    }
}

/// See the module.
pub struct Drive {
    device: Mutex<Arc<Device>>,
    /// Wakes the thread that waits for the front-end; every device of this drive uses it.
    pub call: Arc<EventFd>,
    state: Mutex<State>,
    /// The front-end cannot come back.
    single: bool,
}

/// Held while a disk is changed and while a connection begins or ends: neither may see the other half done.
pub struct State {
    args: Serve,
    session: Option<Arc<Session>>,
}

impl Drive {
    /// A drive with its first disk, made from these arguments.
    pub fn new(device: Arc<Device>, args: Serve, single: bool) -> Drive {
        let call = device.call.clone();
        let state = Mutex::new(State { args, session: None });
        Drive { device: Mutex::new(device), call, state, single }
    }

    /// The disk of now.
    pub fn device(&self) -> Arc<Device> {
        lock(&self.device).clone()
    }

    /// The last disk: none comes after it.
    pub fn last(&self) -> Arc<Device> {
        let _held = self.hold();
        let device = self.device();
        device.stopping.store(true, Ordering::SeqCst);
        device
    }

    /// While this lives, no disk is changed.
    pub fn hold(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Puts another disk in the place of this one. Gives how the old one ended.
    pub fn change(&self, wanted: &Change) -> Result<Value, Refusal> {
        let mut state = self.hold();
        let old = self.device();
        refuse_unless_changeable(&old)?;
        refuse_unless_idle(&old)?;
        let args = arguments(&state.args, wanted);
        refuse_files_in_use(&state.args, &args)?;
        let new = self.build(&args, &old.offer)?;
        match &state.session {
            Some(session) => session.change(&old, &new)?,
            None => refuse_unless_idle(&old)?,
        }
        *lock(&self.device) = new.clone();
        state.args = args;
        drop(state);
        // Its clock may have something due sooner than the old one's had.
        new.call_frontend_thread();
        Ok(
            json!({"capacity_sectors": new.size.capacity_sectors(), "seed": new.gates().engine.seed(), "ended": ended(&old)}),
        )
    }

    fn build(&self, args: &Serve, offered: &Offer) -> Result<Arc<Device>, Refusal> {
        let device = crate::serve::device(args, self.call.clone(), |script, offer| {
            refuse_disconnect(script, self.single)?;
            match difference(offer, offered) {
                None => Ok(()),
                Some(what) => Err(StartError::Arguments(format!(
                    "the driver was told something else of the disk it has: {what}; start another vhost-blk for this one"
                ))),
            }
        });
        device.map_err(|error| Refusal { why: error.to_string(), exit_code: Some(error.exit_code()) })
    }
}

impl State {
    /// A front-end has connected.
    pub fn begin(&mut self, session: &Arc<Session>) {
        self.session = Some(session.clone());
    }

    /// It has left.
    pub fn end(&mut self) {
        self.session = None;
    }
}

/// A disk that answers something, or may do so, is not taken out.
pub fn refuse_unless_idle(old: &Device) -> Result<(), String> {
    match old.inflight() {
        0 => Ok(()),
        requests => Err(format!(
            "{requests} requests are in flight: unmount, and release what is held (`status` names it), before the disk is changed"
        )),
    }
}

fn refuse_unless_changeable(old: &Device) -> Result<(), String> {
    let capacity_sectors = old.size.capacity_sectors();
    let why = match () {
        () if old.stopping.load(Ordering::SeqCst) => "this device is ending".to_owned(),
        () if old.is_off() => "its power is cut; end this device".to_owned(),
        () if old.is_leaving() => "its script is just leaving the front-end; try again when that is back".to_owned(),
        () if capacity_sectors != old.offer.capacity_sectors => format!(
            "it was made another size ({capacity_sectors} sectors, {} at first), which the driver may still believe; start \
             another vhost-blk",
            old.offer.capacity_sectors
        ),
        () => return Ok(()),
    };
    Err(format!("the disk cannot be changed: {why}"))
}

fn arguments(now: &Serve, wanted: &Change) -> Serve {
    let wanted = wanted.clone();
    Serve {
        blk_file: Some(wanted.blk_file),
        faults: wanted.faults,
        seed: wanted.seed,
        trace_file: wanted.trace_file,
        decisions_file: wanted.decisions_file,
        replay: wanted.replay,
        overlay_file: wanted.overlay_file,
        snapshot_dir: wanted.snapshot_dir,
        ..now.clone()
    }
}

/// What the old disk still writes must not be overwritten by the new one.
fn refuse_files_in_use(now: &Serve, wanted: &Serve) -> Result<(), String> {
    let outputs = |args: &Serve| -> Vec<PathBuf> {
        [&args.trace_file, &args.decisions_file, &args.overlay_file].into_iter().flatten().cloned().collect()
    };
    let used = outputs(now);
    match outputs(wanted).into_iter().find(|path| used.iter().any(|used| is_same(path, used))) {
        Some(path) => Err(format!("{} is written for the disk of now; give another file", path.display())),
        None => Ok(()),
    }
}

fn is_same(one: &Path, other: &Path) -> bool {
    let inode = |path: &Path| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    one == other || inode(one).is_some_and(|found| Some(found) == inode(other))
}

/// What the driver would have to be told, in words.
fn difference(new: &Offer, old: &Offer) -> Option<String> {
    let words = |offer: &Offer| {
        [
            format!("capacity_sectors {}", offer.capacity_sectors),
            format!("logical_block_bytes {}", offer.block_bytes),
            format!("seg_max {}", offer.seg_max),
            format!("size_max_bytes {:?}", offer.size_max_bytes),
            format!("num-queues {}", offer.queues),
            format!("read_only {}", offer.read_only),
            format!("write_cache {}", offer.write_cache),
            format!("discard {}", offer.discard),
            format!("write_zeroes {}", offer.write_zeroes),
        ]
    };
    let pairs = words(new).into_iter().zip(words(old)).filter(|(new, old)| new != old);
    let pairs: Vec<String> = pairs.map(|(new, old)| format!("{new} (it was told {old})")).collect();
    (!pairs.is_empty()).then(|| pairs.join(", "))
}

fn ended(old: &Device) -> Value {
    let (outcome, why) = match finish(old) {
        Ending::Clean => ("clean", Vec::new()),
        Ending::Unmet(unmet) => ("expect_unmet", unmet),
        Ending::HostFailed(why) => ("host_failed", vec![why]),
    };
    json!({"image": old.disk.path(), "outcome": outcome, "why": why})
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
