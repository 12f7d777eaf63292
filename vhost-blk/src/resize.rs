//! Another size for a disk that is in use.
//!
//! A request is held to the size of the moment it took its place in the arrival order: beyond the end it answers IOERR,
//! as every disk does, and the record says `past_end`. The image is never cut: a disk that shrinks and grows again shows
//! what it held. One that grows beyond its image makes the image larger by a hole, before any guest hears of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use fault_injection::SECTOR_BYTES;
use serde_json::{Value, json};

use crate::backend_channel::BackendChannel;
use crate::config::Offer;
use crate::device::Device;
use crate::disk::HostError;
use crate::record::Kind;
use crate::request::{MAX_SECTORS, What};

/// The size of a disk now, and who is to hear of another one.
pub struct Size {
    capacity_sectors: AtomicU64,
    channel: Mutex<Option<Arc<BackendChannel>>>,
}

impl Size {
    /// A size that nobody has to be told of.
    pub fn new(capacity_sectors: u64) -> Size {
        Size { capacity_sectors: AtomicU64::new(capacity_sectors), channel: Mutex::new(None) }
    }

    /// Sectors.
    pub fn capacity_sectors(&self) -> u64 {
        self.capacity_sectors.load(Ordering::SeqCst)
    }

    /// From now on, this front-end is to hear of it.
    pub fn tell(&self, channel: Option<Arc<BackendChannel>>) {
        *self.channel.lock().unwrap_or_else(PoisonError::into_inner) = channel;
    }

    /// Gives whether somebody could be told. Nobody is where no front-end is: the next one reads it.
    fn set(&self, capacity_sectors: u64) -> bool {
        self.capacity_sectors.store(capacity_sectors, Ordering::SeqCst);
        let channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        channel.as_ref().is_some_and(|channel| channel.config_changed())
    }
}

impl Device {
    /// What is offered, with the size of now.
    pub fn offer_now(&self) -> Offer {
        Offer { capacity_sectors: self.size.capacity_sectors(), ..self.offer.clone() }
    }

    /// Whether a request speaks of sectors that the disk does not have.
    pub fn is_past_end(&self, what: &What) -> bool {
        what.range().is_some_and(|range| range.sector + range.sectors > self.size.capacity_sectors())
    }

    /// A verb asks for another size. The gates are locked, so that it has a place in the arrival order.
    pub fn resize(&self, capacity_sectors: u64) -> Result<Value, String> {
        let block_sectors = u64::from(self.offer.block_bytes) / SECTOR_BYTES;
        let is_size = (1..=MAX_SECTORS).contains(&capacity_sectors) && capacity_sectors.is_multiple_of(block_sectors);
        if !is_size {
            let block_bytes = self.offer.block_bytes;
            return Err(format!(
                "{capacity_sectors} sectors are no size for this disk: it is whole blocks of {block_bytes} bytes, at \
                 least one of them, and at most {MAX_SECTORS} sectors"
            ));
        }
        let refuse = |error| format!("the image cannot hold {capacity_sectors} sectors: {error}");
        self.disk.grow(capacity_sectors).map_err(refuse)?;
        Ok(self.resized(capacity_sectors, "control"))
    }

    /// An event asks for another size. It was checked with the script; what the host refuses now is the host's failure.
    pub(crate) fn resize_by_event(&self, capacity_sectors: u64) {
        match self.disk.grow(capacity_sectors) {
            Ok(()) => drop(self.resized(capacity_sectors, "event")),
            Err(error) => {
                let (path, offset) = (self.disk.path().to_path_buf(), capacity_sectors * SECTOR_BYTES);
                let what = "making the image larger";
                let error = HostError { path, what, offset, bytes: 0, why: error.to_string() };
                self.disk.remember(&error);
                self.report_failure(&error.to_string(), true);
            }
        }
    }

    fn resized(&self, capacity_sectors: u64, by: &str) -> Value {
        let was = self.size.capacity_sectors();
        let notified = self.size.set(capacity_sectors);
        let seq = self.order.next_seq();
        let text = json!({"capacity_sectors": capacity_sectors, "was_sectors": was, "by": by, "notified": notified});
        self.note(Kind::Resize, seq, &text);
        json!({"seq": seq, "capacity_sectors": capacity_sectors, "was_sectors": was, "notified": notified})
    }
}
