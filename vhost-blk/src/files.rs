//! What a request is to the file system on the disk: the one place where device and classifier meet.
//!
//! A device whose script does not ask has none of this. With it every request is shown to the classifier before it is
//! decided, also those that no rule looks at: what they write may say what later ones are.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use fault_injection::{Class, Engine, EventRecord, Problem, SECTOR_BYTES, Script, Stretch};

use crate::classify::{Blocks, Classifier, Data, Touch, Unreadable};
use crate::device::Device;
use crate::disk::Disk;
use crate::error::StartError;
use crate::gate::Gates;
use crate::media::Media;
use crate::request::{GuestRequest, Memory, What};

/// More remembered writes than this, and those that were flushed are forgotten.
const REMEMBERED: usize = 8192;

/// The file system, as far as it is known.
pub struct Files {
    classifier: Mutex<Classifier>,
    /// What writes were that may be lost with the power: for states that lose or keep one class.
    unflushed: Mutex<BTreeMap<u64, Class>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Blocks for Disk {
    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_at(buf, offset).map_err(io::Error::other)
    }

    fn bytes(&self) -> u64 {
        self.capacity_sectors() * SECTOR_BYTES
    }
}

impl Blocks for Media {
    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.read_at(buf, offset).map_err(io::Error::other)
    }

    fn bytes(&self) -> u64 {
        self.capacity_sectors() * SECTOR_BYTES
    }
}

/// Data of a write in the guest's memory.
struct GuestData<'a> {
    request: &'a GuestRequest,
    memory: &'a Memory,
}

impl Data for GuestData<'_> {
    fn copy(&mut self, at: u64, buf: &mut [u8]) -> bool {
        self.request.data.read(self.memory, at, buf).is_ok()
    }
}

struct Zeroes;

impl Data for Zeroes {
    fn copy(&mut self, _at: u64, buf: &mut [u8]) -> bool {
        buf.fill(0);
        true
    }
}

/// Reads the file system, if the script asks for it, and tells the engine where its paths lead. Gives the lines for
/// decisions.jsonl that say so.
pub fn read(
    script: &Script,
    disk: &Disk,
    engine: &mut Engine,
) -> Result<(Option<Files>, Vec<EventRecord>), StartError> {
    if !script.needs_the_file_system() {
        return Ok((for_states(script, disk), Vec::new()));
    }
    let mut classifier = match Classifier::new(disk, script.partition()) {
        Ok(classifier) => classifier,
        Err(why) => return Err(StartError::Script(script.without_file_system(&why.to_string()))),
    };
    let missing = missing_paths(script, disk, &mut classifier);
    if !missing.is_empty() {
        return Err(StartError::Script(missing));
    }
    engine.know_files();
    let bound = script.paths().into_iter().filter_map(|path| {
        let inode = classifier.watch(disk, path);
        engine.bind(path, inode, 0)
    });
    let bound: Vec<EventRecord> = bound.collect();
    engine.begin_bad(|wanted| classifier.sectors(disk, wanted));
    Ok((Some(Files::new(classifier)), bound))
}

/// States of a power cut are grouped by class where that can be had; nobody asked for it.
fn for_states(script: &Script, disk: &Disk) -> Option<Files> {
    let wanted = script.groups_states_by_class();
    wanted.then(|| Classifier::new(disk, script.partition()).ok().map(Files::new)).flatten()
}

/// Paths of the script that are not there and must be; `script check` asks too.
pub fn missing_paths(script: &Script, disk: &Disk, classifier: &mut Classifier) -> Vec<Problem> {
    let paths: BTreeMap<&str, Option<u32>> =
        script.paths().into_iter().map(|path| (path, classifier.watch(disk, path))).collect();
    script.check_paths(|path| paths.get(path).copied().flatten())
}

/// What is wrong with a script on this disk, as far as its file system is concerned.
pub fn check(script: &Script, disk: &Disk) -> Vec<Problem> {
    if !script.needs_the_file_system() {
        return Vec::new();
    }
    match Classifier::new(disk, script.partition()) {
        Ok(mut classifier) => missing_paths(script, disk, &mut classifier),
        Err(why @ (Unreadable::Found(_) | Unreadable::Host(_))) => script.without_file_system(&why.to_string()),
    }
}

impl Files {
    fn new(classifier: Classifier) -> Files {
        Files { classifier: Mutex::new(classifier), unflushed: Mutex::default() }
    }

    /// What each of these writes was, if it is remembered. Others are forgotten.
    pub fn classes(&self, seqs: &[u64]) -> Vec<Option<&'static str>> {
        let wanted: BTreeSet<&u64> = seqs.iter().collect();
        let mut unflushed = lock(&self.unflushed);
        unflushed.retain(|seq, _| wanted.contains(seq));
        seqs.iter().map(|seq| unflushed.get(seq).map(|class| class.word())).collect()
    }

    /// The power is back: what was not on the disk is gone.
    pub fn read_again(&self, disk: &Media) {
        lock(&self.classifier).read_again(disk);
        lock(&self.unflushed).clear();
    }

    fn remember(&self, disk: &Media, seq: u64, known: &[Stretch]) {
        let mut unflushed = lock(&self.unflushed);
        if let Some(first) = known.first() {
            unflushed.insert(seq, first.class);
        }
        if unflushed.len() > REMEMBERED
            && let Some(oldest) = disk.cache().and_then(|cache| cache.units().iter().map(|unit| unit.seq).min())
        {
            *unflushed = unflushed.split_off(&oldest);
        }
    }
}

impl Device {
    /// What a request is that arrives now, and what it teaches. Empty: nobody asks. `gates` is the lock, where the caller
    /// has it.
    pub fn know(&self, memory: &Memory, request: &GuestRequest, gates: Option<&mut Gates>) -> Vec<Stretch> {
        let (Some(files), Some(range)) = (&self.files, request.what.range()) else { return Vec::new() };
        let mut guest = GuestData { request, memory };
        let (touch, data): (Touch, &mut dyn Data) = match request.what {
            What::Write(_) => (Touch::Write, &mut guest),
            What::WriteZeroes { .. } => (Touch::Write, &mut Zeroes),
            What::Discard(_) => (Touch::Discard, &mut Zeroes),
            _ => (Touch::Read, &mut Zeroes),
        };
        let mut classifier = lock(&files.classifier);
        let known = classifier.arrive(&self.disk, touch, (range.sector, range.sectors), data);
        let news = classifier.take_news();
        drop(classifier);
        if touch == Touch::Write && self.disk.has_cache() {
            // A device with a cache handles one request at a time, so this is the number it is about to get.
            let seq = self.order.next_seq();
            files.remember(&self.disk, seq, &known);
        }
        if !news.is_empty() {
            match gates {
                Some(gates) => self.bind(gates, &news),
                None => self.bind(&mut self.gates(), &news),
            }
        }
        known
    }

    /// Paths of rules lead elsewhere.
    fn bind(&self, gates: &mut Gates, news: &[(String, Option<u32>)]) {
        let seq = self.order.next_seq();
        let bound = news.iter().filter_map(|(path, inode)| gates.engine.bind(path, *inode, seq));
        let bound: Vec<EventRecord> = bound.collect();
        self.log(&bound);
    }

    /// A path that a rule is about to name is followed from now on.
    pub fn follow_path(&self, path: &str) {
        if let Some(files) = &self.files {
            let inode = lock(&files.classifier).watch(&self.disk, path);
            self.bind(&mut self.gates(), &[(path.to_string(), inode)]);
        }
    }
}
