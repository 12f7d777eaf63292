//! How fast a server on the same crates can be that does nothing but its duty: one thread per queue, preadv and pwritev
//! of single-part requests in place, one signal per batch. No checks of its own, no flush, no faults. `guest-tests bench`
//! measures `vhost-blk` against it; it is of no other use, and is not to be trusted with a guest.
//!
//!     cargo build --release -p raw-client --example ceiling
//!     ceiling --socket-path=PATH --blk-file=PATH --num-queues=N

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon, VringMutex, VringT};
use virtio_bindings::virtio_blk::{VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_T_OUT};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

type Memory = GuestMemoryMmap<()>;
type Shared = GuestMemoryAtomic<Memory>;

const BATCH: usize = 32;

struct Ceiling {
    file: File,
    sectors: u64,
    queues: usize,
    memory: Shared,
    features: AtomicU64,
}

impl VhostUserBackend for Ceiling {
    type Bitmap = ();
    type Vring = VringMutex<Shared>;

    fn num_queues(&self) -> usize {
        self.queues
    }

    fn max_queue_size(&self) -> usize {
        1024
    }

    fn features(&self) -> u64 {
        let bits = [VIRTIO_F_VERSION_1, VIRTIO_RING_F_EVENT_IDX, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_FLUSH];
        bits.iter().fold(VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits(), |all, bit| all | 1 << bit)
    }

    fn acked_features(&self, features: u64) {
        self.features.store(features, Ordering::SeqCst);
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        use VhostUserProtocolFeatures as Feature;
        Feature::CONFIG | Feature::MQ | Feature::REPLY_ACK | Feature::CONFIGURE_MEM_SLOTS
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let mut space = [0; 256];
        space[..8].copy_from_slice(&self.sectors.to_le_bytes());
        space[12..16].copy_from_slice(&126u32.to_le_bytes());
        space[34..36].copy_from_slice(&(self.queues as u16).to_le_bytes());
        space.iter().skip(offset as usize).take(size as usize).copied().collect()
    }

    fn update_memory(&self, _memory: Shared) -> io::Result<()> {
        Ok(())
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        (0..self.queues).map(|queue| 1 << queue).collect()
    }

    fn handle_event(&self, _event: u16, _set: EventSet, vrings: &[Self::Vring], _thread: usize) -> io::Result<()> {
        let memory = self.memory.memory();
        let vring = &vrings[0];
        loop {
            vring.disable_notification().map_err(io::Error::other)?;
            while self.batch(&memory, vring)? == BATCH {}
            if !vring.enable_notification().map_err(io::Error::other)? {
                return Ok(());
            }
        }
    }
}

impl Ceiling {
    fn batch(&self, memory: &Memory, vring: &VringMutex<Shared>) -> io::Result<usize> {
        let mut state = vring.get_mut();
        let queue = state.get_queue_mut();
        let chains: Vec<_> = queue.iter(memory).map_err(io::Error::other)?.take(BATCH).collect();
        for chain in &chains {
            let head = chain.head_index();
            let parts: Vec<_> = chain.clone().collect();
            let [header, data, status] = parts[..] else { return Err(io::Error::other("not three parts")) };
            let kind: u32 = memory.read_obj(header.addr()).map_err(io::Error::other)?;
            let sector: u64 =
                memory.read_obj(vm_memory::GuestAddress(header.addr().0 + 8)).map_err(io::Error::other)?;
            let slice = GuestMemoryBackend::get_slice(memory, data.addr(), data.len() as usize);
            let slice = slice.map_err(io::Error::other)?;
            let moved = transfer(&self.file, slice.ptr_guard_mut().as_ptr(), slice.len(), sector * 512, kind);
            memory.write_obj(u8::from(moved != slice.len() as isize), status.addr()).map_err(io::Error::other)?;
            queue.add_used(memory, head, data.len() + 1).map_err(io::Error::other)?;
        }
        let signals = !chains.is_empty() && queue.needs_notification(memory).unwrap_or(true);
        if signals {
            state.signal_used_queue()?;
        }
        Ok(chains.len())
    }
}

#[allow(unsafe_code, reason = "the guest's memory is no Rust buffer")]
fn transfer(file: &File, address: *mut u8, bytes: usize, offset: u64, kind: u32) -> isize {
    let (fd, offset) = (file.as_raw_fd(), offset.cast_signed());
    // SAFETY: address and length were looked up in the guest's memory, which the caller keeps mapped.
    unsafe {
        match kind {
            VIRTIO_BLK_T_OUT => libc::pwrite(fd, address.cast(), bytes, offset),
            _ => libc::pread(fd, address.cast(), bytes, offset),
        }
    }
}

fn main() -> anyhow::Result<()> {
    let value = |name: &str| {
        let found = std::env::args().find_map(|arg| arg.strip_prefix(name).map(str::to_owned));
        found.ok_or_else(|| anyhow::anyhow!("give {name}…"))
    };
    let (socket, image, queues) = (value("--socket-path=")?, value("--blk-file=")?, value("--num-queues=")?);
    let file = File::options().read(true).write(true).open(&image)?;
    let (sectors, queues) = (file.metadata()?.len() / 512, queues.parse()?);
    let memory = Shared::new(Memory::new());
    let server = Arc::new(Ceiling { file, sectors, queues, memory: memory.clone(), features: AtomicU64::new(0) });
    let mut daemon = VhostUserDaemon::new("ceiling".into(), server, memory).map_err(|e| anyhow::anyhow!("{e}"))?;
    daemon.serve(&socket).map_err(|error| anyhow::anyhow!("{error}"))
}
