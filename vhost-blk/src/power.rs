//! Power cuts: who is told, what survives, and what happens then.
//!
//! A device that may lose its power handles one request at a time, over all queues, under the lock of `gate.rs`. So
//! whoever holds that lock has all queues stopped between two requests, which is what a cut needs; that is why every
//! function here asks for `Gates`. Other devices pay nothing for it.
//!
//! From the cut until the front-end has left, nothing is answered and nothing is taken from a ring. Only a snapshot lets
//! the guest go on: it writes down what would be left, and changes nothing.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use fault_injection::{DeviceAction, PowerCut, Then};
use serde_json::{Value, json};

use crate::cache::{Content, Entry, Unit};
use crate::device::Device;
use crate::disk::HostError;
use crate::gate::Gates;
use crate::record::Kind;
use crate::snapshot::{CUTS_FILE, Layer, Mosaic, StateHeader, UNDO_FILE};
use crate::undo::Undo;

/// What a device needs to lose its power.
pub struct Power {
    off: AtomicBool,
    cuts: AtomicU64,
    snapshots: Option<Mutex<Folder>>,
    qmp: Option<PathBuf>,
    /// What the thread that waits for the front-end has still to do.
    errand: Mutex<Option<Errand>>,
}

/// What follows a cut and cannot be done by a queue's thread, for which it may have to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Errand {
    /// End the virtual machine through this QMP socket.
    KillVm(PathBuf),
    /// Leave the front-end.
    Disconnect,
}

/// Where snapshots go.
struct Folder {
    path: PathBuf,
    cuts: File,
}

/// What became of one cut.
struct Cut<'a> {
    number: u64,
    seq: u64,
    cut: &'a PowerCut,
    units: Vec<Unit>,
}

impl Power {
    /// Snapshots go to a folder of this path, which must not hold any yet; a virtual machine is ended through `qmp`.
    pub fn new(snapshots: Option<&Path>, qmp: Option<PathBuf>) -> io::Result<Power> {
        let snapshots = snapshots.map(open_folder).transpose()?.map(Mutex::new);
        let (off, cuts, errand) = (AtomicBool::new(false), AtomicU64::new(0), Mutex::new(None));
        Ok(Power { off, cuts, snapshots, qmp, errand })
    }

    /// Whether nothing is answered.
    pub fn is_off(&self) -> bool {
        self.off.load(Ordering::SeqCst)
    }

    /// How often it was cut.
    pub fn cuts(&self) -> u64 {
        self.cuts.load(Ordering::SeqCst)
    }

    /// Whether snapshots have a place to go to.
    pub fn takes_snapshots(&self) -> bool {
        self.snapshots.is_some()
    }

    /// The front-end has left: the next one finds the disk powered.
    pub fn restore(&self) {
        *self.errand.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.off.store(false, Ordering::SeqCst);
    }

    /// What is to be done, once.
    pub fn take_errand(&self) -> Option<Errand> {
        self.errand.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn leave_errand(&self, errand: Errand) {
        *self.errand.lock().unwrap_or_else(PoisonError::into_inner) = Some(errand);
    }
}

fn open_folder(path: &Path) -> io::Result<Folder> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)?;
    let cuts = File::create_new(path.join(CUTS_FILE))?;
    Ok(Folder { path: path.to_path_buf(), cuts })
}

/// The cut among what a decision asks of the device.
pub fn cut_of(actions: &[DeviceAction]) -> Option<&PowerCut> {
    actions.iter().find_map(|action| match action {
        DeviceAction::PowerCut(cut) => Some(cut),
        _ => None,
    })
}

/// Whether a request with these actions is never answered.
pub fn is_last_word(actions: &[DeviceAction]) -> bool {
    cut_of(actions).is_some_and(|cut| cut.then != Then::Snapshot)
}

/// Cuts the power. What it gives says what survived. All queues stand still: `gates` is the proof.
pub fn cut(device: &Device, gates: &mut Gates, cut: &PowerCut) -> Result<Value, String> {
    let Some(power) = &device.power else { return Err("this device cannot lose its power".into()) };
    if power.is_off() {
        return Err("the power is off already".into());
    }
    let number = power.cuts.fetch_add(1, Ordering::SeqCst) + 1;
    if cut.then != Then::Snapshot {
        power.off.store(true, Ordering::SeqCst);
    }
    let units = device.disk.cache().map(|cache| cache.units()).unwrap_or_default();
    let seq = device.order.next_seq();
    let cut = Cut { number, seq, cut, units };
    announce(device, gates, &cut);
    let done = match cut.cut.then {
        Then::Snapshot => take_snapshot(device, power, &cut),
        Then::KillVm | Then::Disconnect => lose(device, power, &cut),
    };
    if let Err(error) = &done {
        device.report_failure(&error.to_string(), true);
    }
    done.map_err(|error| error.to_string())
}

/// Says that the power goes, before anything else happens.
fn announce(device: &Device, gates: &Gates, cut: &Cut<'_>) {
    let waiting = gates.waiting();
    let text = json!({
        "cut": cut.number, "by": cut.cut.by, "unflushed": cut.cut.unflushed, "then": cut.cut.then,
        "unflushed_writes": cut.units.len(), "waiting": waiting,
    });
    let listeners = device.note(Kind::PowerCut, cut.seq, &text);
    if cut.cut.then == Then::KillVm && device.power.as_ref().is_some_and(|power| power.qmp.is_none()) {
        let who = if listeners == 0 { "nobody listens on the control socket; " } else { "" };
        tell!("vhost-blk: the power was cut by \"{}\"; {who}end the virtual machine now", cut.cut.by);
    }
}

/// The power is gone: one state is what is left.
fn lose(device: &Device, power: &Power, cut: &Cut<'_>) -> Result<Value, HostError> {
    let survivors = cut.cut.state(cut.units.len());
    let survives: BTreeSet<u64> = survivors.iter().map(|i| cut.units[*i].seq).collect();
    let lost: BTreeSet<u64> = cut.units.iter().map(|unit| unit.seq).filter(|seq| !survives.contains(seq)).collect();
    device.disk.lose_all_but(|seq| survives.contains(&seq))?;
    if let Some(files) = &device.files {
        files.read_again(&device.disk);
    }
    // What was never on media cannot have been lied about.
    let mut lies = device.overlay.lock();
    device.overlay.forget(&mut lies, |seq| lost.contains(&seq)).map_err(|error| device.overlay_error(0, 0, &error))?;
    drop(lies);
    let result = json!({"cut": cut.number, "seq": cut.seq, "survives": survives, "lost": lost});
    match (cut.cut.then, &power.qmp) {
        (Then::KillVm, Some(qmp)) => power.leave_errand(Errand::KillVm(qmp.clone())),
        (Then::Disconnect, _) => power.leave_errand(Errand::Disconnect),
        _ => {}
    }
    device.call_frontend_thread();
    Ok(result)
}

/// Writes down every state that may be left, and lets the guest go on.
fn take_snapshot(device: &Device, power: &Power, cut: &Cut<'_>) -> Result<Value, HostError> {
    let Some(folder) = &power.snapshots else {
        return Err(folder_error(device, Path::new(""), &io::Error::other("there is no --snapshot-dir")));
    };
    let mut folder = folder.lock().unwrap_or_else(PoisonError::into_inner);
    let path = folder.path.clone();
    let host = |error: io::Error| folder_error(device, &path, &error);
    let undo_bytes = mark_undo(device, &path).map_err(host)?;
    let layers = layers(device);
    let mosaic = Mosaic::new(layers, |buf, offset| device.disk.read_image(buf, offset))?;
    let seqs: Vec<u64> = cut.units.iter().map(|unit| unit.seq).collect();
    let classes = device.files.as_ref().map_or_else(|| vec![None; seqs.len()], |files| files.classes(&seqs));
    let states = cut.cut.states(&classes);
    let mut seen = BTreeSet::new();
    let mut files = Vec::new();
    for survivors in &states.states {
        let survives: Vec<u64> = survivors.iter().map(|i| cut.units[*i].seq).collect();
        let state = mosaic.state(&survives.iter().copied().collect());
        if seen.contains(&state) {
            continue;
        }
        let header = header(device, cut, files.len(), undo_bytes, &survives);
        let name = format!("cut-{:04}-state-{:04}.snap", cut.number, files.len());
        let bytes = mosaic.write(&state, &header, &path.join(&name)).map_err(host)?;
        files.push(json!({"file": name, "survives": survives, "bytes": bytes}));
        seen.insert(state);
    }
    let writes: Vec<Value> = cut.units.iter().map(unit_json).collect();
    let summary = json!({
        "cut": cut.number, "seq": cut.seq, "by": cut.cut.by, "unflushed": cut.cut.unflushed, "writes": writes,
        "tried": states.states.len(), "distinct": files.len(), "complete": states.complete, "states": files,
    });
    writeln!(folder.cuts, "{summary}").map_err(host)?;
    let told = json!({"cut": cut.number, "tried": states.states.len(), "distinct": files.len(), "dir": path});
    device.note(Kind::Snapshot, cut.seq, &told);
    Ok(summary)
}

fn unit_json(unit: &Unit) -> Value {
    json!({
        "seq": unit.seq, "sector": unit.sector, "sectors": unit.end_sector - unit.sector, "completed": unit.completed,
    })
}

fn header(device: &Device, cut: &Cut<'_>, state: usize, undo_bytes: u64, survives: &[u64]) -> StateHeader {
    StateHeader {
        snapshot: 1,
        cut: cut.number,
        state,
        image: device.disk.path().to_path_buf(),
        capacity_sectors: device.disk.capacity_sectors(),
        seq: cut.seq,
        undo: UNDO_FILE.into(),
        undo_bytes,
        survives: survives.to_vec(),
        lost: cut.units.iter().map(|unit| unit.seq).filter(|seq| !survives.contains(seq)).collect(),
    }
}

/// How long the undo log is at this cut. The first cut starts it.
fn mark_undo(device: &Device, folder: &Path) -> io::Result<u64> {
    if device.disk.undo().is_none() {
        device.disk.undo_into(Undo::create(&folder.join(UNDO_FILE))?);
    }
    Ok(device.disk.undo().as_mut().map_or(0, Undo::mark))
}

/// Unflushed writes in the order in which they came, and over them the lies: what was lost is not in any state.
fn layers(device: &Device) -> Vec<Layer> {
    let cached: Vec<Entry> = device.disk.cache().map(|cache| cache.entries().cloned().collect()).unwrap_or_default();
    let unflushed: BTreeSet<u64> = cached.iter().map(|entry| entry.seq).collect();
    let lies = device.overlay.lock();
    let lie = |(offset, seq, content): (u64, u64, &[u8])| {
        let entry = Entry { seq, offset, content: Content::Data(content.into()) };
        // A lie about a write that does not survive is none: the image is what it was before that write.
        Layer { needs: unflushed.contains(&seq).then_some(seq), entry }
    };
    let lies: Vec<Layer> = lies.contents().map(lie).collect();
    cached.into_iter().map(|entry| Layer { needs: Some(entry.seq), entry }).chain(lies).collect()
}

fn folder_error(device: &Device, path: &Path, error: &io::Error) -> HostError {
    let error =
        HostError { path: path.to_path_buf(), what: "keeping a snapshot", offset: 0, bytes: 0, why: error.to_string() };
    device.disk.remember(&error);
    error
}
