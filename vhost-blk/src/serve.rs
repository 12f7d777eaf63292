//! A run of the device, from its arguments to its exit code.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fault_injection::{DeviceFacts, DeviceLimits, Engine, Problem, Replay, Script, Source, Then, WriteCache};
use nix::sys::eventfd::EventFd;
use serde_json::json;

use crate::args::Serve;
use crate::config::Offer;
use crate::control::Control;
use crate::device::{Device, Parts, new_call};
use crate::disk::{Disk, DiskOptions};
use crate::drive::Drive;
use crate::error::StartError;
use crate::files;
use crate::frontend::{Frontend, Left};
use crate::lie;
use crate::media::{CACHE_LIMIT_BYTES, Caching, Media};
use crate::overlay::Overlay;
use crate::power::Power;
use crate::recorder::{Output, Recorder};
use crate::snapshot::CUTS_FILE;
use crate::transfer::ID_BYTES;
use crate::uring::Uring;
use crate::way::{IoMode, Ways};

/// How a run ended, in the terms of DESIGN's exit codes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// 0
    Clean,
    /// 3: these `expect`s were not met, or these recorded decisions were not made again.
    Unmet(Vec<String>),
    /// 4: the host failed.
    HostFailed(String),
}

impl Ending {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Ending::Clean => 0,
            Ending::Unmet(_) => 3,
            Ending::HostFailed(_) => 4,
        }
    }
}

/// A device that is ready for front-ends.
pub struct Server {
    drive: Arc<Drive>,
    frontend: Frontend,
    once: bool,
    _control: Option<Control>,
}

impl Server {
    /// Checks everything, and only then makes files and sockets.
    pub fn prepare(args: &Serve) -> Result<Server, StartError> {
        let call = new_call().map_err(|source| StartError::Host { what: "make an eventfd", source })?;
        let mut frontend = None;
        let device = device(args, call, |script, _| {
            let found = match (&args.socket_path, args.fd) {
                (Some(path), None) => Frontend::listen(path)?,
                (None, Some(fd)) => Frontend::inherit(fd)?,
                _ => return Err(StartError::Arguments("give --socket-path PATH or --fd N, and not both".into())),
            };
            refuse_disconnect(script, found.is_single())?;
            frontend = Some(found);
            Ok(())
        })?;
        let frontend = frontend.ok_or_else(|| StartError::Arguments("there is no front-end to wait for".into()))?;
        let drive = Arc::new(Drive::new(device, args.clone(), frontend.is_single()));
        let control = match &args.control_path {
            Some(path) => Some(Control::start(path, drive.clone())?),
            None => None,
        };
        Ok(Server { drive, frontend, once: args.once, _control: control })
    }

    /// Serves until `stop` is readable, or until the one front-end has left.
    pub fn run(mut self, stop: &impl AsFd) -> Ending {
        let served = self.serve(stop);
        let device = self.drive.last();
        let ended = finish(&device);
        match (ended, served) {
            (Ending::HostFailed(why), _) => Ending::HostFailed(why),
            (_, Err(error)) => Ending::HostFailed(error.to_string()),
            (ended, Ok(())) => ended,
        }
    }

    fn serve(&mut self, stop: &impl AsFd) -> Result<(), StartError> {
        loop {
            let Some(connection) = self.frontend.accept(&self.drive, stop)? else { return Ok(()) };
            let served = connection.serve(&self.drive, stop);
            match served.map_err(|source| StartError::Host { what: "bring the queues to rest", source })? {
                Left::RunEnds => return Ok(()),
                Left::Unknown => {
                    let requests = self.drive.device().past.unsettled().unwrap_or_default();
                    return Err(StartError::Unsettled { requests });
                }
                Left::Asked { reconnect_ms } => {
                    if !self.frontend.pause(reconnect_ms, stop)? {
                        return Ok(());
                    }
                }
                Left::FrontEnd { .. } if self.frontend.is_single() => return Ok(()),
                Left::FrontEnd { was_used: true } if self.once => return Ok(()),
                Left::FrontEnd { .. } => {}
            }
        }
    }
}

/// Ends a device that nothing is in flight of any more: what it keeps reaches the image, and its records are written out.
pub fn finish(device: &Device) -> Ending {
    device.stopping.store(true, Ordering::SeqCst);
    let flushed = device.disk.finish();
    let totals = device.totals();
    let diverged = totals.replay.iter().flat_map(|replay| replay.missing.iter().chain(&replay.differs));
    let unmet = totals.unmet.iter().map(|line| format!("expect not met: {line}"));
    let unmet: Vec<String> = unmet.chain(diverged.map(|line| format!("replay diverged: {line}"))).collect();
    let recorded = device.recorder().finish(totals);
    if let Some(error) = device.disk.first_error() {
        return Ending::HostFailed(error.to_string());
    }
    if let Err(error) = flushed {
        return Ending::HostFailed(error.to_string());
    }
    if let Err(error) = recorded {
        return Ending::HostFailed(error.to_string());
    }
    if crate::inflight::dropped() > 0 {
        return Ending::HostFailed("a request was dropped without an answer: a bug of vhost-blk".into());
    }
    if unmet.is_empty() { Ending::Clean } else { Ending::Unmet(unmet) }
}

/// A device as its arguments ask for it, that no front-end has seen yet. `fits` is asked when everything else has been
/// looked at, before any file is made.
pub fn device(
    args: &Serve,
    call: Arc<EventFd>,
    fits: impl FnOnce(&Script, &Offer) -> Result<(), StartError>,
) -> Result<Arc<Device>, StartError> {
    let image = check_arguments(args)?;
    let planted = lie::agreed(args.planted_lie, std::env::var(lie::CONSENT).ok().as_deref());
    let planted = planted.map_err(StartError::Arguments)?;
    let (script, warnings) = load_scripts(&args.faults)?;
    for warning in &warnings {
        tell!("{warning}");
    }
    let limits = script.device();
    let read_only = args.read_only || limits.read_only.unwrap_or(false);
    let disk = Disk::open(image, DiskOptions { read_only, direct: args.direct, raw: args.raw })?;
    let offer = Offer::new(disk.capacity_sectors(), disk.direct_bytes(), args.num_queues, read_only, limits);
    check_against_image(&script, &disk, &offer)?;
    let caching = caching(args, limits);
    check_power_cuts(args, &script)?;
    disk.warn_if_space_is_short();
    let ways = ways(args, &disk)?;
    disk.warn_of_a_tail();
    let script = Arc::new(script);
    let mut engine = engine(args, &script)?;
    engine.set_capacity(offer.capacity_sectors);
    fits(&script, &offer)?;
    let (files, bound) = files::read(&script, &disk, &mut engine)?;
    let recorder = recorder(args, &engine, &offer, &disk)?;
    let power = power(args, &script, caching)?;
    let disk = Media::new(disk, caching).with_planted(planted);
    let overlay = Overlay::new(args.overlay_file.as_deref().map(create).transpose()?);
    let serial = args.serial.clone();
    let poll_us = args.poll_us;
    let device = Device::new(
        Parts { disk, overlay, offer, power, engine, script, recorder, serial, ways, poll_us, files },
        call,
    );
    device.log(&bound);
    Ok(Arc::new(device))
}

/// A script may not leave a front-end that could not come back.
pub fn refuse_disconnect(script: &Script, single: bool) -> Result<(), StartError> {
    if single && script.words().contains("disconnect") {
        let text = "the script disconnects, and a connection given by --fd cannot come back; use --socket-path";
        return Err(StartError::Arguments(text.into()));
    }
    Ok(())
}

fn check_arguments(args: &Serve) -> Result<&Path, StartError> {
    let refuse = |text: &str| Err(StartError::Arguments(text.to_string()));
    if args.serial.len() > ID_BYTES {
        return refuse("--serial takes at most 20 bytes (virtio 1.3, 5.2.6)");
    }
    if args.socket_path.is_some() == args.fd.is_some() {
        return refuse("give --socket-path PATH or --fd N");
    }
    match &args.blk_file {
        Some(image) => Ok(image),
        None => refuse("give the image: --blk-file PATH (make one with: truncate -s 1G PATH)"),
    }
}

/// A fresh run of the script, with a recorded one forced on it if that is asked for.
fn engine(args: &Serve, script: &Arc<Script>) -> Result<Engine, StartError> {
    let Some(path) = &args.replay else { return Ok(Engine::new(script.clone(), args.seed)) };
    let text = std::fs::read_to_string(path)
        .map_err(|error| StartError::Arguments(format!("cannot read the decisions {}: {error}", path.display())))?;
    let refuse = |why: String| StartError::Arguments(format!("cannot replay {}: {why}", path.display()));
    let replay = Replay::parse(&text).map_err(refuse)?;
    for line in replay.by_hand() {
        tell!(
            "vhost-blk: warning: {}: {line} was done by hand then; what came of it is forced, and it is not done again",
            path.display()
        );
    }
    let mut engine = Engine::new(script.clone(), args.seed.or(Some(replay.seed())));
    engine.force(replay.by(args.by.into()).map_err(refuse)?).map_err(refuse)?;
    Ok(engine)
}

/// Loads and merges scripts; none at all is a device that behaves.
pub fn load_scripts(files: &[PathBuf]) -> Result<(Script, Vec<Problem>), StartError> {
    if files.is_empty() {
        return Ok((Script::empty(), Vec::new()));
    }
    let read = |path: &PathBuf| match std::fs::read(path) {
        Ok(bytes) => Ok((path.display().to_string(), bytes)),
        Err(source) => Err(StartError::ReadScript { path: path.clone(), source }),
    };
    let files: Vec<(String, Vec<u8>)> = files.iter().map(read).collect::<Result<_, _>>()?;
    let text = |(name, bytes)| fault_injection::text_of(name, bytes).map(|text| Source { name, text });
    let texts = files.iter().map(|(name, bytes)| text((name, bytes)));
    let sources: Vec<Source<'_>> =
        texts.collect::<Result<_, _>>().map_err(|problem| StartError::Script(vec![problem]))?;
    let loaded = fault_injection::load(&sources).map_err(|problems| StartError::Script(problems.0))?;
    Ok((loaded.script, loaded.warnings))
}

fn check_against_image(script: &Script, disk: &Disk, offer: &Offer) -> Result<(), StartError> {
    let facts = DeviceFacts {
        capacity_sectors: disk.capacity_sectors(),
        queues: offer.queues,
        logical_block_bytes: offer.block_bytes,
    };
    let (warnings, errors): (Vec<_>, Vec<_>) = script.check_device(&facts).into_iter().partition(Problem::is_warning);
    for warning in &warnings {
        tell!("{warning}");
    }
    if !errors.is_empty() {
        return Err(StartError::Script(errors));
    }
    if offer.capacity_sectors == 0 {
        let text = format!("{} is smaller than one block of {} bytes", disk.path().display(), offer.block_bytes);
        return Err(StartError::Arguments(text));
    }
    if let Some(sectors) = script.largest_capacity().filter(|s| *s > disk.capacity_sectors() && !disk.can_grow()) {
        let text = format!(
            "an event of the script makes the disk {sectors} sectors large, and {} has {}: only an image that is a \
             file, and not read-only, can be made larger",
            disk.path().display(),
            disk.capacity_sectors()
        );
        return Err(StartError::Arguments(text));
    }
    if u64::from(offer.block_bytes) < disk.direct_bytes() {
        let text = format!(
            "--direct on this host disk needs blocks of {} bytes, the script asks for {}; leave out --direct",
            disk.direct_bytes(),
            offer.block_bytes
        );
        return Err(StartError::Arguments(text));
    }
    Ok(())
}

/// Which way clean requests go to this image. A host without io_uring is served by plain calls, unless io_uring was asked for.
fn ways(args: &Serve, disk: &Disk) -> Result<Ways, StartError> {
    let ways = Ways::of(args.io, disk.traits());
    if !ways.need_uring() {
        return Ok(ways);
    }
    match Uring::new(disk, args.poll_us > 0) {
        Ok(_) => Ok(ways),
        Err(source) if args.io == IoMode::Uring => {
            Err(StartError::Host { what: "set up io_uring (--io uring)", source })
        }
        Err(error) => {
            tell!("vhost-blk: warning: no io_uring on this host ({error}); a slow disk will stop its queue");
            Ok(Ways::PLAIN)
        }
    }
}

/// Only a script that says so keeps unflushed writes apart.
fn caching(args: &Serve, limits: &DeviceLimits) -> Caching {
    let limit_bytes = args.cache_limit_mib.map_or(CACHE_LIMIT_BYTES, |mib| mib << 20);
    match limits.write_cache {
        Some(WriteCache::Writeback) => Caching::Volatile { lying: false, limit_bytes },
        Some(WriteCache::Lying) => Caching::Volatile { lying: true, limit_bytes },
        Some(WriteCache::Writethrough) | None => Caching::Off,
    }
}

/// A power cut that nobody could carry out is refused.
fn check_power_cuts(args: &Serve, script: &Script) -> Result<(), StartError> {
    let cuts = script.power_cuts();
    let refuse = |text: &str| Err(StartError::Arguments(text.to_string()));
    if cuts.contains(&Then::KillVm) && args.qmp.is_none() && args.control_path.is_none() {
        return refuse(
            "a power cut of the script ends the virtual machine, and nobody could do it: give --qmp PATH (QEMU: \
             -qmp unix:PATH,server=on,wait=off), or --control-path PATH for whoever is to hear of it",
        );
    }
    if cuts.contains(&Then::Snapshot) && args.snapshot_dir.is_none() {
        return refuse("a power cut of the script takes snapshots: give --snapshot-dir DIR for them");
    }
    Ok(())
}

/// What a device needs to lose its power, if this one may.
fn power(args: &Serve, script: &Script, caching: Caching) -> Result<Option<Power>, StartError> {
    if caching == Caching::Off && script.power_cuts().is_empty() && args.snapshot_dir.is_none() {
        return Ok(None);
    }
    let dir = args.snapshot_dir.as_deref();
    let power = Power::new(dir, args.qmp.clone()).map_err(|source| {
        let path = dir.unwrap_or(Path::new("")).join(CUTS_FILE);
        match source.kind() {
            io::ErrorKind::AlreadyExists => {
                let path = path.display();
                StartError::Arguments(format!("{path} is of an earlier run; give a new --snapshot-dir, or remove it"))
            }
            _ => StartError::Output { path, source },
        }
    })?;
    Ok(Some(power))
}

fn recorder(args: &Serve, engine: &Engine, offer: &Offer, disk: &Disk) -> Result<Recorder, StartError> {
    let decisions = engine.header(offer.queues);
    let trace = json!({
        "ev": "header",
        "trace": 1,
        "version": env!("CARGO_PKG_VERSION"),
        "image": disk.path(),
        "capacity_sectors": offer.capacity_sectors,
        "block_bytes": offer.block_bytes,
        "seg_max": offer.seg_max,
        "queues": offer.queues,
        "read_only": offer.read_only,
        "seed": decisions.seed,
        "deterministic": decisions.deterministic,
        "why": decisions.why,
        "rules": decisions.rules,
    });
    let decisions = serde_json::to_string(&decisions).map_err(io::Error::other);
    let host = |source| StartError::Host { what: "start the record", source };
    let output = |path: &Option<PathBuf>, header: String| match path {
        Some(path) => Ok::<_, StartError>(Some(Output { path: path.clone(), file: create(path)?, header })),
        None => Ok(None),
    };
    let trace = output(&args.trace_file, trace.to_string())?;
    let decisions = output(&args.decisions_file, decisions.map_err(host)?)?;
    Recorder::start(trace, decisions).map_err(host)
}

fn create(path: &Path) -> Result<File, StartError> {
    File::create(path).map_err(|source| StartError::Output { path: path.to_path_buf(), source })
}
