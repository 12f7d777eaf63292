//! A driver of our own: the `vhost` crate's front-end and a split ring laid out by hand, so that tests see what a driver
//! sees (used ring, status byte, memory) and can send what no driver would.

#![allow(dead_code, reason = "each test file uses its part")]

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vhost_blk::args::Serve;
use vhost_blk::serve::{Ending, Server};
use vm_memory::{Address, Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub const OK: u8 = 0;
pub const IOERR: u8 = 1;
pub const UNSUPP: u8 = 2;
/// A status byte nobody has written.
pub const UNTOUCHED: u8 = 0xaa;

pub const IN: u32 = 0;
pub const OUT: u32 = 1;
pub const FLUSH: u32 = 4;
pub const GET_ID: u32 = 8;
pub const DISCARD: u32 = 11;
pub const WRITE_ZEROES: u32 = 13;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;
const RING_SIZE: u16 = 256;
const MEMORY_BYTES: usize = 32 << 20;
const DATA_START: u64 = 1 << 20;

/// Long enough for any machine; a test that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(30);

/// A device in a thread of the test.
pub struct Device {
    pub folder: tempfile::TempDir,
    pub image: PathBuf,
    pub socket: PathBuf,
    stop: UnixStream,
    thread: JoinHandle<Ending>,
}

pub fn pattern(sectors: u64, seed: u8) -> Vec<u8> {
    (0..sectors * 512).map(|i| (i / 512) as u8 ^ (i as u8).wrapping_mul(31) ^ seed).collect()
}

impl Device {
    /// Serves an image of `sectors`, filled with `pattern(sectors, 1)`, with this script.
    pub fn start(sectors: u64, script: &str) -> Device {
        Device::start_with(sectors, script, |_| {})
    }

    pub fn start_with(sectors: u64, script: &str, change: impl FnOnce(&mut Serve)) -> Device {
        let folder = tempfile::tempdir().expect("a folder");
        let image = folder.path().join("disk");
        std::fs::write(&image, pattern(sectors, 1)).expect("an image");
        let mut args = arguments(folder.path(), script);
        change(&mut args);
        let server = Server::prepare(&args).unwrap_or_else(|error| panic!("starts: {error}"));
        let (stop, stopped) = UnixStream::pair().expect("a pair");
        let thread = std::thread::spawn(move || server.run(&stopped));
        Device { image, socket: folder.path().join("s"), folder, stop, thread }
    }

    pub fn control(&self) -> PathBuf {
        self.folder.path().join("c")
    }

    pub fn ask(&self, ask: &vhost_blk::control::Ask) -> Value {
        let answer = vhost_blk::control::ask(&self.control(), ask).expect("the control socket answers");
        answer.expect("the device agrees")
    }

    pub fn image_bytes(&self) -> Vec<u8> {
        std::fs::read(&self.image).expect("the image")
    }

    /// Ends the run and gives its ending and its record.
    pub fn end(self) -> (Ending, Vec<Value>) {
        drop(self.stop);
        let ending = self.thread.join().expect("the device ends");
        let record = read_record(&self.folder.path().join("t"));
        (ending, record)
    }

    /// As `end`, and the folder stays.
    pub fn end_keeping_folder(self) -> (Ending, Vec<Value>, tempfile::TempDir) {
        drop(self.stop);
        let ending = self.thread.join().expect("the device ends");
        let record = read_record(&self.folder.path().join("t"));
        (ending, record, self.folder)
    }

    /// As `end`, with decisions.jsonl.
    pub fn end_with_decisions(self) -> (Ending, Vec<Value>, Vec<Value>) {
        let folder = self.folder.path().to_path_buf();
        drop(self.stop);
        let ending = self.thread.join().expect("the device ends");
        let text = std::fs::read_to_string(folder.join("d")).expect("decisions");
        let decisions = text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
        (ending, read_record(&folder.join("t")), decisions)
    }
}

pub fn arguments(folder: &Path, script: &str) -> Serve {
    let faults = folder.join("faults.json");
    std::fs::write(&faults, script).expect("a script");
    Serve {
        socket_path: Some(folder.join("s")),
        blk_file: Some(folder.join("disk")),
        faults: if script.is_empty() { vec![] } else { vec![faults] },
        num_queues: 4,
        serial: "test-disk".into(),
        trace_file: Some(folder.join("t")),
        decisions_file: Some(folder.join("d")),
        overlay_file: Some(folder.join("o")),
        control_path: Some(folder.join("c")),
        ..Serve::default()
    }
}

pub fn read_record(path: &Path) -> Vec<Value> {
    let mut lines = Vec::new();
    vhost_blk::record::print(File::open(path).expect("a record"), &mut lines).expect("a readable record");
    let text = String::from_utf8(lines).expect("text");
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

/// `(seq, status)` of every answer, in the order of answers.
pub fn answers(record: &[Value]) -> Vec<(u64, u64)> {
    let answered = record.iter().filter(|line| line["ev"] == "complete");
    answered.map(|line| (line["seq"].as_u64().expect("seq"), line["status"].as_u64().expect("status"))).collect()
}

/// One queue as the driver keeps it.
struct Queue {
    base: u64,
    next_descriptor: u16,
    next_avail: u16,
    last_used: u16,
    kick: EventFd,
    call: EventFd,
}

/// A driver in a guest.
pub struct Guest {
    pub frontend: Frontend,
    pub memory: GuestMemoryMmap<()>,
    queues: Vec<Queue>,
    next_data: u64,
}

/// A request on its way.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub queue: usize,
    pub head: u16,
    pub data: GuestAddress,
    pub data_bytes: usize,
    pub status: GuestAddress,
}

/// One descriptor: address, length, whether the device writes it.
pub type Buffer = (GuestAddress, u32, bool);

impl Guest {
    pub fn connect(socket: &Path, queues: usize) -> Guest {
        Guest::over(UnixStream::connect(socket).expect("somebody listens"), queues, !0)
    }

    /// As `connect`, with the socket on which the device may speak unasked.
    pub fn connect_listening(socket: &Path, queues: usize) -> (Guest, UnixStream) {
        let (ours, theirs) = UnixStream::pair().expect("a pair");
        let stream = UnixStream::connect(socket).expect("somebody listens");
        (Guest::negotiate(stream, queues, !0, Some(&theirs)), ours)
    }

    /// Negotiates what is offered, except EVENT_IDX, and only what is in `mask`.
    pub fn over(stream: UnixStream, queues: usize, mask: u64) -> Guest {
        Guest::negotiate(stream, queues, mask, None)
    }

    fn negotiate(stream: UnixStream, queues: usize, mask: u64, channel: Option<&UnixStream>) -> Guest {
        let memory = guest_memory();
        let frontend = negotiate(stream, mask, channel, &memory);
        let mut guest = Guest { frontend, memory, queues: Vec::new(), next_data: DATA_START };
        for index in 0..queues {
            guest.start_queue(index, 0);
        }
        guest
    }

    /// What QEMU does when its backend is back: the same memory and rings, from where the used index stands.
    pub fn reconnect(&mut self, socket: &Path) {
        let stream = UnixStream::connect(socket).expect("somebody listens");
        self.frontend = negotiate(stream, !0, None, &self.memory);
        for (index, was) in std::mem::take(&mut self.queues).into_iter().enumerate() {
            self.start_queue(index, was.last_used);
            let kept = self.queues.pop().expect("it was just started");
            self.queues.push(Queue { kick: kept.kick, call: kept.call, ..was });
        }
    }

    fn start_queue(&mut self, index: usize, next_avail: u16) {
        let base = index as u64 * 0x8000;
        let host = self.memory.get_host_address(GuestAddress(base)).expect("the ring's memory") as u64;
        let frontend = &mut self.frontend;
        frontend.set_vring_num(index, RING_SIZE).expect("set_vring_num");
        let config = VringConfigData {
            queue_max_size: RING_SIZE,
            queue_size: RING_SIZE,
            flags: 0,
            desc_table_addr: host,
            avail_ring_addr: host + 0x2000,
            used_ring_addr: host + 0x4000,
            log_addr: None,
        };
        frontend.set_vring_base(index, next_avail).expect("set_vring_base");
        frontend.set_vring_addr(index, &config).expect("set_vring_addr");
        let kick = EventFd::new(EFD_NONBLOCK).expect("eventfd");
        let call = EventFd::new(EFD_NONBLOCK).expect("eventfd");
        frontend.set_vring_call(index, &call).expect("set_vring_call");
        frontend.set_vring_kick(index, &kick).expect("set_vring_kick");
        frontend.set_vring_enable(index, true).expect("set_vring_enable");
        self.queues.push(Queue { base, next_descriptor: 0, next_avail, last_used: 0, kick, call });
    }

    /// Starts the first ring again, where it stopped.
    pub fn restart_queue(&mut self) {
        let was = self.queues.remove(0);
        self.start_queue(0, was.next_avail);
        let kept = self.queues.pop().expect("it was just started");
        self.queues.insert(0, Queue { kick: kept.kick, call: kept.call, ..was });
    }

    /// Stops a ring, as a front-end does before it leaves or resets the device.
    pub fn stop_queue(&mut self, queue: usize) -> u32 {
        self.frontend.get_vring_base(queue).expect("get_vring_base")
    }

    pub fn config(&mut self, bytes: u32) -> Vec<u8> {
        let (_, payload) = self
            .frontend
            .get_config(0, bytes, VhostUserConfigFlags::empty(), &vec![0; bytes as usize])
            .expect("get_config");
        payload
    }

    pub fn set_config(&mut self, offset: u32, bytes: &[u8]) {
        self.frontend.set_config(offset, VhostUserConfigFlags::WRITABLE, bytes).expect("set_config");
    }

    pub fn allocate(&mut self, bytes: usize) -> GuestAddress {
        let at = GuestAddress(self.next_data);
        self.next_data += (bytes as u64).next_multiple_of(512);
        assert!(self.next_data < MEMORY_BYTES as u64, "the test's guest is out of memory");
        at
    }

    /// Memory of requests that were answered is used again.
    pub fn forget_data(&mut self) {
        self.next_data = DATA_START;
    }

    pub fn place(&mut self, bytes: &[u8]) -> GuestAddress {
        let at = self.allocate(bytes.len());
        self.memory.write_slice(bytes, at).expect("guest memory");
        at
    }

    pub fn header(&mut self, kind: u32, sector: u64) -> GuestAddress {
        let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        self.place(&header)
    }

    /// Puts descriptors into the table, linked, and gives the head.
    pub fn chain(&mut self, queue: usize, buffers: &[Buffer]) -> u16 {
        let count = buffers.len() as u16;
        let state = &mut self.queues[queue];
        if state.next_descriptor + count > RING_SIZE {
            state.next_descriptor = 0;
        }
        let head = state.next_descriptor;
        state.next_descriptor += count;
        for (i, (addr, len, writable)) in (0..).zip(buffers) {
            let last = i + 1 == count;
            let flags = if last { 0 } else { NEXT } | if *writable { WRITE } else { 0 };
            self.descriptor(queue, head + i, *addr, *len, flags, head + i + 1);
        }
        head
    }

    /// Writes one descriptor, however wrong.
    pub fn descriptor(&mut self, queue: usize, index: u16, addr: GuestAddress, len: u32, flags: u16, next: u16) {
        let bytes =
            [&addr.raw_value().to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()]
                .concat();
        let at = GuestAddress(self.queues[queue].base + u64::from(index) * 16);
        self.memory.write_slice(&bytes, at).expect("descriptor table");
    }

    /// Makes a head available, without a kick.
    pub fn offer(&mut self, queue: usize, head: u16) {
        let state = &mut self.queues[queue];
        let slot = state.base + 0x2000 + 4 + u64::from(state.next_avail % RING_SIZE) * 2;
        self.memory.write_obj(head, GuestAddress(slot)).expect("avail ring");
        state.next_avail = state.next_avail.wrapping_add(1);
        let index = GuestAddress(state.base + 0x2000 + 2);
        self.memory.store(state.next_avail, index, std::sync::atomic::Ordering::SeqCst).expect("avail index");
    }

    /// Claims an avail index that the ring cannot have.
    pub fn break_avail_index(&mut self, queue: usize) {
        let index = GuestAddress(self.queues[queue].base + 0x2000 + 2);
        let wrong = self.queues[queue].next_avail.wrapping_add(RING_SIZE + 1);
        self.memory.store(wrong, index, std::sync::atomic::Ordering::SeqCst).expect("avail index");
    }

    pub fn repair_avail_index(&mut self, queue: usize) {
        let index = GuestAddress(self.queues[queue].base + 0x2000 + 2);
        self.memory.store(self.queues[queue].next_avail, index, std::sync::atomic::Ordering::SeqCst).expect("avail");
    }

    pub fn kick(&self, queue: usize) {
        self.queues[queue].kick.write(1).expect("kick");
    }

    /// The next used entry, waited for.
    pub fn used(&mut self, queue: usize) -> (u16, u32) {
        let begun = Instant::now();
        loop {
            if let Some(used) = self.poll_used(queue) {
                return used;
            }
            assert!(begun.elapsed() < PATIENCE, "queue {queue} gave nothing back");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    pub fn poll_used(&mut self, queue: usize) -> Option<(u16, u32)> {
        let state = &mut self.queues[queue];
        let index = GuestAddress(state.base + 0x4000 + 2);
        let now: u16 = self.memory.load(index, std::sync::atomic::Ordering::SeqCst).expect("used index");
        if now == state.last_used {
            return None;
        }
        let slot = GuestAddress(state.base + 0x4000 + 4 + u64::from(state.last_used % RING_SIZE) * 8);
        state.last_used = state.last_used.wrapping_add(1);
        let (id, len): (u32, u32) = (
            self.memory.read_obj(slot).expect("used id"),
            self.memory.read_obj(slot.unchecked_add(4)).expect("used length"),
        );
        Some((id as u16, len))
    }

    /// Waits for a signal on the call descriptor, and empties it.
    pub fn wait_for_signal(&self, queue: usize) {
        let begun = Instant::now();
        while self.queues[queue].call.read().is_err() {
            assert!(begun.elapsed() < PATIENCE, "queue {queue} was not signalled");
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    pub fn empty_signal(&self, queue: usize) {
        let _ = self.queues[queue].call.read();
    }

    /// Sends a request whose data is `out` for the device, or room for `room` bytes from it. No kick.
    pub fn queue_request(&mut self, queue: usize, kind: u32, sector: u64, out: &[u8], room: usize) -> Sent {
        let header = self.header(kind, sector);
        let status = self.place(&[UNTOUCHED]);
        let (data, writable) = if room > 0 { (self.place(&vec![0xee; room]), true) } else { (self.place(out), false) };
        let data_bytes = if room > 0 { room } else { out.len() };
        let mut buffers = vec![(header, 16, false)];
        if data_bytes > 0 {
            buffers.push((data, data_bytes as u32, writable));
        }
        buffers.push((status, 1, true));
        let head = self.chain(queue, &buffers);
        self.offer(queue, head);
        Sent { queue, head, data, data_bytes, status }
    }

    pub fn send(&mut self, queue: usize, kind: u32, sector: u64, out: &[u8], room: usize) -> Sent {
        let sent = self.queue_request(queue, kind, sector, out, room);
        self.kick(queue);
        sent
    }

    pub fn status(&self, sent: &Sent) -> u8 {
        self.memory.read_obj(sent.status).expect("status byte")
    }

    pub fn data(&self, sent: &Sent) -> Vec<u8> {
        let mut data = vec![0; sent.data_bytes];
        self.memory.read_slice(&mut data, sent.data).expect("guest memory");
        data
    }

    /// Sends a request and waits for it alone: status, used length, data.
    pub fn request(&mut self, kind: u32, sector: u64, out: &[u8], room: usize) -> (u8, u32, Vec<u8>) {
        let sent = self.send(0, kind, sector, out, room);
        let (head, used_len) = self.used(0);
        assert_eq!(head, sent.head, "another request was answered");
        (self.status(&sent), used_len, self.data(&sent))
    }

    pub fn read(&mut self, sector: u64, sectors: usize) -> (u8, u32, Vec<u8>) {
        self.request(IN, sector, &[], sectors * 512)
    }

    pub fn write(&mut self, sector: u64, data: &[u8]) -> (u8, u32) {
        let (status, used_len, _) = self.request(OUT, sector, data, 0);
        (status, used_len)
    }

    /// A discard or write_zeroes of one range.
    pub fn range(&mut self, kind: u32, sector: u64, sectors: u32, flags: u32) -> (u8, u32) {
        let range = [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat();
        let (status, used_len, _) = self.request(kind, 0, &range, 0);
        (status, used_len)
    }

    /// Sends a chain as it is, and gives its used length.
    pub fn odd(&mut self, buffers: &[Buffer]) -> u32 {
        let head = self.chain(0, buffers);
        self.offer(0, head);
        self.kick(0);
        let (given_back, used_len) = self.used(0);
        assert_eq!(given_back, head);
        used_len
    }

    pub fn indirect_flag() -> u16 {
        INDIRECT
    }
}

fn negotiate(stream: UnixStream, mask: u64, channel: Option<&UnixStream>, memory: &GuestMemoryMmap<()>) -> Frontend {
    let mut frontend = Frontend::from_stream(stream, 64);
    frontend.set_owner().expect("set_owner");
    let offered = frontend.get_features().expect("get_features");
    let protocol = frontend.get_protocol_features().expect("get_protocol_features");
    let unwanted = match channel {
        Some(_) => VhostUserProtocolFeatures::empty(),
        None => VhostUserProtocolFeatures::BACKEND_REQ,
    };
    frontend.set_protocol_features(protocol.difference(unwanted)).expect("set_protocol_features");
    frontend.set_hdr_flags(vhost::vhost_user::message::VhostUserHeaderFlag::NEED_REPLY);
    if let Some(channel) = channel {
        frontend.set_backend_request_fd(channel).expect("set_backend_request_fd");
    }
    let event_idx = 1 << 29;
    frontend
        .set_features(offered & !event_idx & mask | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits())
        .expect("set_features");
    let region = memory.iter().next().expect("one region");
    let info = VhostUserMemoryRegionInfo::from_guest_region(region).expect("a shared region");
    frontend.set_mem_table(&[info]).expect("set_mem_table");
    frontend
}

fn guest_memory() -> GuestMemoryMmap<()> {
    let file = tempfile::tempfile().expect("a file");
    file.set_len(MEMORY_BYTES as u64).expect("its size");
    GuestMemoryMmap::from_ranges_with_files([(GuestAddress(0), MEMORY_BYTES, Some(FileOffset::new(file, 0)))])
        .expect("guest memory")
}
