//! What the device stores: the image, and before it, where a script asks for one, a volatile write cache.
//!
//! The image holds what would be there after a power cut that loses every unflushed write. Without a cache that is all
//! that was written, and this file is a plain way to the image. With one, writes stay in memory until a flush takes them
//! to the image in the order in which they came; reads see both. A *lying* cache answers a flush and persists nothing.
//!
//! The cache is bounded by what was written since the last flush. A soft limit bounds it further: beyond it the oldest
//! writes go to the image early, as a disk whose cache is full would do it, and that is said (`take_overflow`).

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::cache::{Cache, Content, Entry};
use crate::disk::{Disk, HostError, Zeroing};
use crate::lie::{Lie, Planted};
use crate::undo::Undo;

/// Memory for unflushed writes, unless `--cache-limit-mib` says something else.
pub const CACHE_LIMIT_BYTES: u64 = 256 << 20;

/// How writes become durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// Writes go to the image at once.
    Off,
    /// Unflushed writes are kept apart.
    Volatile {
        /// Whether a flush persists nothing.
        lying: bool,
        /// Soft limit.
        limit_bytes: u64,
    },
}

/// The cache was full, and the oldest writes went to the image before any flush asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Overflow {
    /// The request that found it full.
    pub seq: u64,
    /// The limit.
    pub limit_bytes: u64,
    /// What went to the image early, since the last time this was said.
    pub early_bytes: u64,
}

struct Volatile {
    cache: Mutex<Cache>,
    lying: bool,
    limit_bytes: u64,
    full_at: AtomicU64,
    early_bytes: AtomicU64,
}

/// Image and cache.
pub struct Media {
    disk: Disk,
    volatile: Option<Volatile>,
    /// Keeps what the image held at earlier power cuts; there is none before the first snapshot.
    undo: Mutex<Option<Undo>>,
    undoing: AtomicBool,
    /// For canaries alone.
    planted: Option<Planted>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Media {
    /// An image and its cache.
    pub fn new(disk: Disk, caching: Caching) -> Media {
        let volatile = match caching {
            Caching::Off => None,
            Caching::Volatile { lying, limit_bytes } => {
                let (full_at, early_bytes) = (AtomicU64::new(0), AtomicU64::new(0));
                Some(Volatile { cache: Mutex::default(), lying, limit_bytes, full_at, early_bytes })
            }
        };
        Media { disk, volatile, undo: Mutex::new(None), undoing: AtomicBool::new(false), planted: None }
    }

    /// The same, with a lie that nobody records.
    pub fn with_planted(self, lie: Option<Lie>) -> Media {
        Media { planted: lie.map(Planted::new), ..self }
    }

    /// Reads what the guest is to see, lies of the script aside.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), HostError> {
        self.read_honestly(buf, offset)?;
        if let Some(planted) = &self.planted {
            planted.read(buf);
        }
        Ok(())
    }

    fn read_honestly(&self, buf: &mut [u8], offset: u64) -> Result<(), HostError> {
        let Some(volatile) = &self.volatile else { return self.disk.read_at(buf, offset) };
        // Held over both: a flush in between would take out of the cache what was not yet read from the image.
        let cache = lock(&volatile.cache);
        self.disk.read_at(buf, offset)?;
        cache.lay_over(offset, buf);
        Ok(())
    }

    /// Writes for the request `seq`.
    pub fn write_at(&self, buf: &[u8], offset: u64, seq: u64) -> Result<(), HostError> {
        match &self.planted {
            None => self.write_honestly(buf, offset, seq),
            Some(planted) => planted.write(buf).map_or(Ok(()), |buf| self.write_honestly(&buf, offset, seq)),
        }
    }

    fn write_honestly(&self, buf: &[u8], offset: u64, seq: u64) -> Result<(), HostError> {
        match &self.volatile {
            None => self.write_image(buf, offset),
            Some(volatile) => self.keep(volatile, Entry { seq, offset, content: Content::Data(buf.into()) }),
        }
    }

    /// Makes a range read as zeroes, for the request `seq`.
    pub fn zero(&self, offset: u64, bytes: u64, zeroing: Zeroing, seq: u64) -> Result<(), HostError> {
        match &self.volatile {
            None => self.zero_image(offset, bytes, zeroing),
            Some(volatile) => self.keep(volatile, Entry { seq, offset, content: Content::Zeroes { bytes, zeroing } }),
        }
    }

    /// A flush of the guest's.
    pub fn flush(&self) -> Result<(), HostError> {
        if self.planted.as_ref().is_some_and(|planted| !planted.flushes()) {
            return Ok(());
        }
        if let Some(volatile) = &self.volatile {
            if volatile.lying {
                return Ok(());
            }
            self.write_out(&mut lock(&volatile.cache))?;
        }
        self.disk.flush()
    }

    /// The device ends, and not by a power cut: what is in the cache is written, also by one that lies.
    pub fn finish(&self) -> Result<(), HostError> {
        if let Some(volatile) = &self.volatile {
            self.write_out(&mut lock(&volatile.cache))?;
        }
        self.disk.flush()
    }

    /// The guest is about to be told that the request `seq` is complete.
    pub fn completed(&self, seq: u64) {
        if let Some(volatile) = &self.volatile {
            lock(&volatile.cache).complete(seq);
        }
    }

    /// Gives, once, that the cache was full.
    pub fn take_overflow(&self) -> Option<Overflow> {
        let volatile = self.volatile.as_ref()?;
        let early_bytes = volatile.early_bytes.swap(0, Ordering::SeqCst);
        let (seq, limit_bytes) = (volatile.full_at.load(Ordering::SeqCst), volatile.limit_bytes);
        (early_bytes > 0).then_some(Overflow { seq, limit_bytes, early_bytes })
    }

    /// The cache, for a power cut: nothing else reads or writes while the guard lives.
    pub fn cache(&self) -> Option<MutexGuard<'_, Cache>> {
        self.volatile.as_ref().map(|volatile| lock(&volatile.cache))
    }

    /// Whether unflushed writes are kept apart.
    pub fn has_cache(&self) -> bool {
        self.volatile.is_some()
    }

    /// The power is gone: of the cache, what these requests wrote reached the image, in the order in which it came, and
    /// nothing else did.
    pub fn lose_all_but(&self, survives: impl Fn(u64) -> bool) -> Result<(), HostError> {
        if let Some(mut cache) = self.cache() {
            for entry in cache.entries().filter(|entry| survives(entry.seq)) {
                self.write_entry(entry)?;
            }
            cache.clear();
        }
        self.disk.flush()
    }

    /// From now on, what the image loses by being written to is kept.
    pub fn undo_into(&self, undo: Undo) {
        *lock(&self.undo) = Some(undo);
        self.undoing.store(true, Ordering::SeqCst);
    }

    /// The log of what the image lost, if it is kept.
    pub fn undo(&self) -> MutexGuard<'_, Option<Undo>> {
        lock(&self.undo)
    }

    /// The image itself, for who has seen that nothing stands before it (`is_bare`).
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Neither a cache nor anything to be undone, nor a planted lie: what reads and writes the image does all there is to do.
    pub fn is_bare(&self) -> bool {
        self.volatile.is_none() && self.planted.is_none() && !self.undoing.load(Ordering::SeqCst)
    }

    /// Reads the image without its cache.
    pub fn read_image(&self, buf: &mut [u8], offset: u64) -> Result<(), HostError> {
        self.disk.read_at(buf, offset)
    }

    /// The image's path.
    pub fn path(&self) -> &Path {
        self.disk.path()
    }

    /// Whole sectors in the image.
    pub fn capacity_sectors(&self) -> u64 {
        self.disk.capacity_sectors()
    }

    /// Makes the image at least so large.
    pub fn grow(&self, sectors: u64) -> std::io::Result<()> {
        self.disk.grow(sectors)?;
        self.disk.warn_if_space_is_short();
        Ok(())
    }

    /// How often the host was asked to make the image durable.
    pub fn flushes(&self) -> u64 {
        self.disk.flushes()
    }

    /// The first host error, if there was one.
    pub fn first_error(&self) -> Option<&HostError> {
        self.disk.first_error()
    }

    /// Remembers a host error that was met elsewhere.
    pub fn remember(&self, error: &HostError) {
        self.disk.remember(error);
    }

    fn keep(&self, volatile: &Volatile, entry: Entry) -> Result<(), HostError> {
        let seq = entry.seq;
        let mut cache = lock(&volatile.cache);
        cache.insert(entry);
        while cache.cost_bytes() > volatile.limit_bytes {
            let Some(oldest) = cache.take_first() else { break };
            self.write_entry(&oldest)?;
            volatile.full_at.store(seq, Ordering::SeqCst);
            volatile.early_bytes.fetch_add(oldest.bytes(), Ordering::SeqCst);
        }
        Ok(())
    }

    fn write_out(&self, cache: &mut Cache) -> Result<(), HostError> {
        while let Some(entry) = cache.take_first() {
            self.write_entry(&entry)?;
        }
        Ok(())
    }

    fn write_entry(&self, entry: &Entry) -> Result<(), HostError> {
        match &entry.content {
            Content::Data(data) => self.write_image(data, entry.offset),
            Content::Zeroes { bytes, zeroing } => self.zero_image(entry.offset, *bytes, *zeroing),
        }
    }

    fn write_image(&self, buf: &[u8], offset: u64) -> Result<(), HostError> {
        self.save_old(offset, buf.len() as u64)?;
        self.disk.write_at(buf, offset)
    }

    fn zero_image(&self, offset: u64, bytes: u64, zeroing: Zeroing) -> Result<(), HostError> {
        self.save_old(offset, bytes)?;
        self.disk.zero(offset, bytes, zeroing)
    }

    fn save_old(&self, offset: u64, bytes: u64) -> Result<(), HostError> {
        if !self.undoing.load(Ordering::SeqCst) {
            return Ok(());
        }
        match &mut *lock(&self.undo) {
            Some(undo) => undo.save(&self.disk, offset, bytes),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::DiskOptions;

    fn media(caching: Caching) -> (tempfile::NamedTempFile, Media) {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), [7; 8192]).expect("its content");
        let disk = Disk::open(file.path(), DiskOptions::default()).expect("opens");
        let media = Media::new(disk, caching);
        (file, media)
    }

    fn image(file: &tempfile::NamedTempFile) -> Vec<u8> {
        std::fs::read(file.path()).expect("the image")
    }

    const WRITEBACK: Caching = Caching::Volatile { lying: false, limit_bytes: 1 << 20 };

    #[test]
    fn a_write_is_read_back_at_once_and_reaches_the_image_with_the_flush() {
        let (file, media) = media(WRITEBACK);
        media.write_at(&[1; 1024], 512, 0).expect("written");
        media.zero(1024, 1024, Zeroing::Keep, 1).expect("zeroed");
        let mut seen = vec![9; 2560];
        media.read_at(&mut seen, 0).expect("read");
        let expected = [vec![7; 512], vec![1; 512], vec![0; 1024], vec![7; 512]].concat();
        assert_eq!(seen, expected);
        assert_eq!(image(&file), [7; 8192]);
        media.flush().expect("flushed");
        assert_eq!(image(&file)[..2560], expected);
        assert!(media.cache().expect("a cache").is_empty());
    }

    #[test]
    fn a_lying_flush_persists_nothing_and_an_orderly_end_does() {
        let (file, media) = media(Caching::Volatile { lying: true, limit_bytes: 1 << 20 });
        media.write_at(&[1; 512], 0, 0).expect("written");
        media.flush().expect("answered");
        assert_eq!((image(&file), media.flushes()), (vec![7; 8192], 0));
        media.finish().expect("ended");
        assert_eq!(image(&file)[..512], [1; 512]);
    }

    #[test]
    fn a_planted_lie_answers_flushes_of_a_cache_that_does_not_lie_and_carries_none_out() {
        let (file, media) = media(WRITEBACK);
        let media = media.with_planted(Some(Lie::DropFlush));
        media.write_at(&[1; 512], 0, 0).expect("written");
        media.flush().expect("answered");
        assert_eq!((image(&file), media.flushes()), (vec![7; 8192], 0));
        assert!(!media.cache().expect("a cache").is_empty(), "a power cut may lose it");
        media.finish().expect("ended");
        assert_eq!(image(&file)[..512], [1; 512]);
    }

    #[test]
    fn beyond_the_limit_the_oldest_writes_reach_the_image_and_that_is_said_once() {
        let (file, media) = media(Caching::Volatile { lying: false, limit_bytes: 1400 });
        media.write_at(&[1; 512], 0, 0).expect("written");
        media.write_at(&[2; 512], 512, 1).expect("written");
        assert_eq!((media.take_overflow(), image(&file)), (None, vec![7; 8192]));
        media.write_at(&[3; 512], 1024, 2).expect("written");
        assert_eq!(media.take_overflow(), Some(Overflow { seq: 2, limit_bytes: 1400, early_bytes: 512 }));
        assert_eq!(media.take_overflow(), None);
        assert_eq!(image(&file)[..1024], [[1; 512], [7; 512]].concat());
    }

    #[test]
    fn what_survives_reaches_the_image_in_the_order_in_which_it_came() {
        let (file, media) = media(WRITEBACK);
        media.write_at(&[1; 1024], 0, 0).expect("written");
        media.write_at(&[2; 1024], 512, 1).expect("written");
        media.write_at(&[3; 512], 1024, 2).expect("written");
        media.lose_all_but(|seq| seq != 1).expect("lost");
        assert_eq!(image(&file)[..2048], [[1; 512], [1; 512], [3; 512], [7; 512]].concat());
        let mut seen = vec![0; 8192];
        media.read_at(&mut seen, 0).expect("read");
        assert_eq!(seen, image(&file));
    }
}
