//! One front-end connection, as the `vhost-user-backend` crate sees it: negotiation, and a thread per queue.
//!
//! When a ring stops, its thread is asked to drain it and the answer to the front-end waits for that, so that nothing is
//! written into the guest's memory once the front-end believes the ring to be at rest.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use vhost::vhost_user::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon, VringEpollHandler, VringT};
use virtio_bindings::virtio_blk::VIRTIO_BLK_F_FLUSH;
use virtio_queue::QueueT;
use vm_memory::GuestAddressSpace;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use vmm_sys_util::timerfd::TimerFd;

use crate::backend_channel::BackendChannel;
use crate::device::Device;
use crate::drive::{Drive, refuse_unless_idle};
use crate::queue::QueueWorker;
use crate::record::Session as SessionEvent;
use crate::request::Memory;
use crate::restart::may_take;
use crate::ring::Ring;
use crate::timer::arm;
use crate::vring::{SharedMemory, Vring, notify};

/// virtio-blk rings need no more; 1024 is QEMU's own limit.
const MAX_QUEUE_SIZE: usize = 1024;

/// A host whose disk hangs longer than this under a stopping ring gets an error instead of a front-end that waits for ever.
const DRAIN_LIMIT: Duration = Duration::from_secs(30);

/// What a queue's thread works with. Whoever holds it keeps the queue from doing anything.
struct Seat {
    device: Arc<Device>,
    worker: QueueWorker,
}

struct QueueThread {
    seat: Mutex<Seat>,
    timer: Mutex<TimerFd>,
    armed: AtomicBool,
    wake: Arc<EventFd>,
    drains: Mutex<Vec<Sender<()>>>,
    /// Somebody waits for the queue to come to rest.
    asked: AtomicBool,
    /// Its ring was looked at.
    looked: AtomicBool,
}

type Handler = Arc<VringEpollHandler<Arc<Session>>>;

/// A connection.
pub struct Session {
    drive: Arc<Drive>,
    /// Queues offered.
    num_queues: u16,
    /// How the queue threads hear of more descriptors, while there are any.
    handlers: Mutex<Vec<Handler>>,
    /// The cache mode as the driver wrote it last.
    writeback: AtomicBool,
    /// The guest's memory as the front-end changes it.
    pub memory: SharedMemory,
    queues: Vec<QueueThread>,
    acked_features: AtomicU64,
    /// The connection is ending: nothing more is taken from its rings.
    closing: AtomicBool,
    channel: Arc<BackendChannel>,
}

impl Session {
    /// A connection that has negotiated nothing yet.
    pub fn new(drive: Arc<Drive>, channel: Arc<BackendChannel>) -> io::Result<Session> {
        let device = drive.device();
        let num_queues = device.offer.queues;
        let queues: Vec<QueueThread> =
            (0..num_queues).map(|queue| queue_thread(queue, &device)).collect::<io::Result<_>>()?;
        let (acked_features, closing) = (AtomicU64::new(0), AtomicBool::new(false));
        let memory = SharedMemory::new(Memory::new());
        let writeback = AtomicBool::new(device.offer.write_cache);
        let handlers = Mutex::default();
        let session =
            Session { drive, num_queues, handlers, writeback, memory, queues, acked_features, closing, channel };
        session.adopt(&device);
        Ok(session)
    }

    /// The device finds this connection: whom to wake, whom to tell of its size, and the cache mode the driver knows.
    fn adopt(&self, device: &Device) {
        let mut gates = device.gates();
        for (queue, thread) in (0..).zip(&self.queues) {
            gates.set_wake(queue, Some(thread.wake.clone()));
        }
        drop(gates);
        device.writeback.store(self.writeback.load(Ordering::SeqCst), Ordering::SeqCst);
        device.size.tell(Some(self.channel.clone()));
    }

    /// Adds timer and wake-up of every queue to its thread's epoll.
    pub fn register(self: &Arc<Self>, daemon: &VhostUserDaemon<Arc<Session>>) -> io::Result<()> {
        for (thread, handler) in self.queues.iter().zip(daemon.get_epoll_handlers()) {
            let timer = lock(&thread.timer).as_raw_fd();
            handler.register_listener(timer, EventSet::IN, self.timer_event().into())?;
            handler.register_listener(thread.wake.as_raw_fd(), EventSet::IN, self.wake_event().into())?;
            self.register_host(&handler, &lock(&thread.seat).worker)?;
            lock(&self.handlers).push(handler);
        }
        Ok(())
    }

    fn register_host(&self, handler: &Handler, worker: &QueueWorker) -> io::Result<()> {
        match worker.descriptor() {
            Some(host) => handler.register_listener(host, EventSet::IN, self.host_event().into()),
            None => Ok(()),
        }
    }

    /// Puts another device behind the rings, while nothing is in flight. Requests that come meanwhile are the new one's. An
    /// error says why not, and changes nothing.
    pub fn change(&self, old: &Arc<Device>, new: &Arc<Device>) -> Result<(), String> {
        let mut seats: Vec<_> = self.queues.iter().map(|thread| lock(&thread.seat)).collect();
        refuse_unless_idle(old)?;
        let workers: Vec<_> = (0..self.num_queues).map(|queue| QueueWorker::new(queue, new)).collect();
        let handlers = lock(&self.handlers);
        for (handler, worker) in handlers.iter().zip(&workers) {
            self.register_host(handler, worker).map_err(|error| format!("cannot watch the new image: {error}"))?;
        }
        old.begin_session(SessionEvent::Disconnect);
        old.size.tell(None);
        self.forget_wakes(old);
        self.adopt(new);
        new.past.is_known_from_now_on();
        new.begin_session(SessionEvent::Connect);
        if self.was_used() {
            new.begin_session(SessionEvent::Features);
        }
        for (seat, worker) in seats.iter_mut().zip(workers) {
            **seat = Seat { device: new.clone(), worker };
        }
        Ok(())
    }

    /// Whether a driver ever spoke: a mere look at the socket is no front-end.
    pub fn was_used(&self) -> bool {
        self.acked_features.load(Ordering::SeqCst) != 0
    }

    /// Takes nothing more, and answers or gives up everything in flight.
    pub fn settle(&self) -> io::Result<()> {
        self.closing.store(true, Ordering::SeqCst);
        self.drain_all()
    }

    /// Answers or gives up everything in flight, on every queue.
    fn drain_all(&self) -> io::Result<()> {
        (0..self.queues.len()).try_for_each(|queue| self.drain(queue))
    }

    /// Nobody is to wake these queue threads any more. Settle first.
    fn forget_wakes(&self, device: &Device) {
        let mut gates = device.gates();
        (0..self.num_queues).for_each(|queue| gates.set_wake(queue, None));
    }

    /// The connection is over, and its queue threads have ended.
    pub fn leave(&self, device: &Device) {
        // The handlers know this session: without this, neither would ever go.
        lock(&self.handlers).clear();
        self.forget_wakes(device);
        device.size.tell(None);
    }

    fn drain(&self, queue: usize) -> io::Result<()> {
        let thread = self.queues.get(queue).ok_or(io::ErrorKind::InvalidInput)?;
        let (done, wait) = channel();
        lock(&thread.drains).push(done);
        thread.asked.store(true, Ordering::SeqCst);
        thread.wake.write(1)?;
        wait.recv_timeout(DRAIN_LIMIT)
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, format!("queue {queue} did not come to rest in 30 s")))
    }

    /// Data must be durable before a write is answered, unless the driver flushes (virtio 1.3, 5.2.5.2).
    fn write_through(&self, device: &Device) -> bool {
        let acked = |bit: u32| self.acked_features.load(Ordering::SeqCst) & 1 << bit != 0;
        !acked(VIRTIO_BLK_F_FLUSH) || !device.writeback.load(Ordering::SeqCst)
    }

    fn timer_event(&self) -> u16 {
        self.num_queues + 1
    }

    fn wake_event(&self) -> u16 {
        self.num_queues + 2
    }

    fn host_event(&self) -> u16 {
        self.num_queues + 3
    }

    fn turn(&self, queue: u16, vring: &Vring) {
        let thread = &self.queues[usize::from(queue)];
        let mut seat = lock(&thread.seat);
        let Seat { device, worker } = &mut *seat;
        let write_through = self.write_through(device);
        thread.asked.store(false, Ordering::SeqCst);
        let drains = std::mem::take(&mut *lock(&thread.drains));
        let mut state = vring.get_mut();
        let open = !self.closing.load(Ordering::SeqCst) && drains.is_empty();
        let take = open && state.is_enabled() && state.get_queue().ready();
        if take && !thread.looked.swap(true, Ordering::SeqCst) {
            let ours = may_take(device, vring.unanswered_at_start());
            self.closing.fetch_or(!ours, Ordering::SeqCst);
        }
        let take = take && !self.closing.load(Ordering::SeqCst);
        let call = vring.call();
        let signal = || call.iter().for_each(|call| notify(call));
        let memory = self.memory.memory();
        let mut ring = Ring::new(state.get_queue_mut(), &memory, write_through, (&signal, &thread.asked));
        worker.turn(device, &mut ring, take);
        if !drains.is_empty() {
            worker.drain(device, &mut ring);
        }
        drop(state);
        self.arm_timer(device, queue);
        for done in drains {
            let _ = done.send(());
        }
    }
}

impl Session {
    /// Sets the timer for the queue's next deadline. Without faults it is neither set nor looked at.
    fn arm_timer(&self, device: &Device, queue: u16) {
        let thread = &self.queues[usize::from(queue)];
        // Without power, nothing that waits is let go, however late it is.
        let parked = device.order.is_gating() && !device.is_off();
        if !parked && !thread.armed.load(Ordering::SeqCst) {
            return;
        }
        let next = parked.then(|| device.gates().next_deadline(queue)).flatten();
        thread.armed.store(next.is_some(), Ordering::SeqCst);
        if let Err(error) = arm(&mut lock(&thread.timer), next) {
            device.report_failure(&format!("cannot set the timer of queue {queue}: {error}"), false);
        }
    }
}

fn queue_thread(queue: u16, device: &Arc<Device>) -> io::Result<QueueThread> {
    Ok(QueueThread {
        seat: Mutex::new(Seat { device: device.clone(), worker: QueueWorker::new(queue, device) }),
        timer: Mutex::new(TimerFd::new().map_err(|errno| io::Error::from_raw_os_error(errno.errno()))?),
        armed: AtomicBool::new(false),
        wake: Arc::new(EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?),
        drains: Mutex::new(Vec::new()),
        asked: AtomicBool::new(false),
        looked: AtomicBool::new(false),
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl VhostUserBackend for Session {
    type Bitmap = ();
    type Vring = Vring;

    fn num_queues(&self) -> usize {
        self.queues.len()
    }

    fn max_queue_size(&self) -> usize {
        MAX_QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        self.drive.device().offer.features() | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn acked_features(&self, features: u64) {
        self.acked_features.store(features, Ordering::SeqCst);
        self.drive.device().begin_session(SessionEvent::Features);
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        use VhostUserProtocolFeatures as Feature;
        Feature::CONFIG
            | Feature::MQ
            | Feature::REPLY_ACK
            | Feature::CONFIGURE_MEM_SLOTS
            | Feature::BACKEND_REQ
            | Feature::RESET_DEVICE
    }

    fn reset_device(&self) {
        let drained = self.drain_all();
        let device = self.drive.device();
        if let Err(error) = drained {
            device.report_failure(&format!("reset: {error}"), false);
        }
        self.writeback.store(device.offer.write_cache, Ordering::SeqCst);
        device.writeback.store(device.offer.write_cache, Ordering::SeqCst);
        device.begin_session(SessionEvent::Reset);
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        self.channel.config_read();
        let device = self.drive.device();
        device.offer_now().read_space(device.writeback.load(Ordering::SeqCst), offset, size)
    }

    fn set_config(&self, offset: u32, buf: &[u8]) -> io::Result<()> {
        let device = self.drive.device();
        if let Some(writeback) = device.offer.written_cache_mode(offset, buf) {
            self.writeback.store(writeback, Ordering::SeqCst);
            device.writeback.store(writeback, Ordering::SeqCst);
            // What was answered under the old mode is durable under the new one.
            if !writeback {
                device.disk.flush().map_err(io::Error::other)?;
            }
        }
        Ok(())
    }

    fn update_memory(&self, _memory: SharedMemory) -> io::Result<()> {
        Ok(())
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        (0..self.queues.len()).map(|queue| 1 << queue).collect()
    }

    fn exit_event(&self, _thread_index: usize) -> Option<(EventConsumer, EventNotifier)> {
        new_event_consumer_and_notifier(EventFlag::CLOEXEC | EventFlag::NONBLOCK).ok()
    }

    fn stop_vring(&self, queue_index: u32) -> io::Result<()> {
        self.drain(queue_index as usize)
    }

    fn handle_event(&self, event: u16, _evset: EventSet, vrings: &[Vring], thread_id: usize) -> io::Result<()> {
        // The timer needs no reading: `turn` sets it anew, and that empties it. To read it could wait for ever, since the
        // event may be older than the last setting.
        if event == self.wake_event() {
            let _ = self.queues[thread_id].wake.read();
        }
        self.turn(thread_id as u16, &vrings[0]);
        Ok(())
    }
}
