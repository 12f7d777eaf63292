//! Random extents written, overwritten and read back by a client of different make, at depth 128 on four queues, while
//! rules delay, reorder and split: every byte that comes back is the one that was written last.
//!
//! Small by default. The whole of it: INTEGRITY_MIB=256 cargo test --release -p vhost-blk --test integrity

mod common;

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt;

use blkio::{Blkio, Blkioq, Completion, ReqFlags};
use common::Device;
use vhost_blk::serve::Ending;
use vhost_blk::way::IoMode;

const BLOCK: usize = 4096;
const MOST_BLOCKS: u64 = 16;
const QUEUES: u64 = 4;
const DEPTH: usize = 128;

const SCRIPT: &str = r#"{"faultscript": 1, "name": "everything that changes no data", "seed": 5, "rules": [
  {"id": "late", "match": {"op": ["read", "write"]}, "trigger": {"probability": 0.02}, "action": {"delay": {"us": 300}}},
  {"id": "mixed", "match": {"op": "write", "size": {"max": 32}}, "trigger": {"probability": 0.05},
   "action": {"reorder": {"window": 4, "policy": "shuffle", "max_wait_ms": 5}}},
  {"id": "cut", "match": {"op": ["read", "write"], "size": {"min": 64}}, "trigger": {"probability": 0.2},
   "action": {"split": {"max_sectors": 24, "order": "shuffle"}}}
]}"#;

fn mib() -> u64 {
    std::env::var("INTEGRITY_MIB").map_or(16, |text| text.parse().expect("INTEGRITY_MIB is a number"))
}

/// What a block holds after it was written so often: every word tells where and when.
fn fill(block: u64, version: u64, buf: &mut [u8]) {
    for (i, word) in (0u64..).zip(buf.as_chunks_mut::<8>().0) {
        *word = ((block << 40) ^ (version << 16) ^ i).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
    }
}

fn holds(block: u64, version: u64, buf: &[u8]) -> bool {
    let mut expected = [0; BLOCK];
    fill(block, version, &mut expected);
    buf == expected
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

#[derive(Clone, Copy)]
struct Extent {
    first: u64,
    blocks: u64,
    write: bool,
}

/// One queue, and its own part of the disk.
struct Lane<'a> {
    queue: &'a mut Blkioq,
    memory: &'a mut [u8],
    random: Random,
    first: u64,
    /// How often each block was written.
    versions: Vec<u64>,
    busy: BTreeSet<u64>,
    slots: Vec<Option<Extent>>,
    to_do: u64,
    under_way: usize,
}

impl Lane<'_> {
    fn step(&mut self) -> bool {
        for slot in 0..DEPTH {
            if self.slots[slot].is_none() && self.to_do > 0 {
                self.submit(slot);
            }
        }
        let mut completions = [const { MaybeUninit::<Completion>::uninit() }; 64];
        let done = self.queue.do_io(&mut completions, 0, None, None).expect("the server answers");
        for completion in &completions[..done] {
            #[allow(unsafe_code, reason = "do_io has filled it")]
            // SAFETY: it is among the first `done`, which do_io has written.
            let completion = unsafe { completion.assume_init_ref() };
            assert_eq!(completion.ret, 0);
            self.finish(completion.user_data);
        }
        self.under_way > 0 || self.to_do > 0
    }

    /// An extent that shares no block with one under way: what such a pair would do is anybody's guess.
    fn choose(&mut self) -> Option<Extent> {
        let blocks = 1 + self.random.below(MOST_BLOCKS);
        let first = self.first + self.random.below(self.versions.len() as u64 - blocks + 1);
        let free = self.busy.range(first..first + blocks).next().is_none();
        free.then(|| Extent { first, blocks, write: self.random.below(3) > 0 })
    }

    fn submit(&mut self, slot: usize) {
        let Some(extent) = self.choose() else { return };
        self.busy.extend(extent.first..extent.first + extent.blocks);
        let buf = &mut self.memory[slot * MOST_BLOCKS as usize * BLOCK..][..extent.blocks as usize * BLOCK];
        let at = extent.first * BLOCK as u64;
        if extent.write {
            for (block, buf) in (extent.first..).zip(buf.chunks_mut(BLOCK)) {
                let version = &mut self.versions[(block - self.first) as usize];
                *version += 1;
                fill(block, *version, buf);
            }
            self.to_do -= 1;
            self.queue.write(at, buf.as_ptr(), buf.len(), slot, ReqFlags::empty());
        } else {
            buf.fill(0xee);
            self.queue.read(at, buf.as_mut_ptr(), buf.len(), slot, ReqFlags::empty());
        }
        self.slots[slot] = Some(extent);
        self.under_way += 1;
    }

    fn finish(&mut self, slot: usize) {
        let extent = self.slots[slot].take().expect("it was under way");
        self.under_way -= 1;
        (extent.first..extent.first + extent.blocks).for_each(|block| _ = self.busy.remove(&block));
        if extent.write {
            return;
        }
        let buf = &self.memory[slot * MOST_BLOCKS as usize * BLOCK..][..extent.blocks as usize * BLOCK];
        for (block, buf) in (extent.first..).zip(buf.chunks(BLOCK)) {
            let version = self.versions[(block - self.first) as usize];
            assert!(version == 0 || holds(block, version, buf), "block {block} read back wrong at version {version}");
        }
    }
}

fn lanes_of<'a>(queues: &'a mut [Blkioq], memory: &'a mut [u8], blocks: u64) -> Vec<Lane<'a>> {
    let each = blocks / QUEUES;
    let per_lane = memory.len() / QUEUES as usize;
    // A write is 8.5 blocks long on average: every block is written about twice.
    let to_do = each * 2 / 8;
    let lane = |((i, queue), memory)| Lane {
        queue,
        memory,
        random: Random(i + 1),
        first: i * each,
        versions: vec![0; each as usize],
        busy: BTreeSet::new(),
        slots: vec![None; DEPTH],
        to_do,
        under_way: 0,
    };
    (0u64..).zip(queues).zip(memory.chunks_mut(per_lane)).map(lane).collect()
}

fn run(io: IoMode, direct: bool) {
    let blocks = mib() << 8;
    let device = Device::start_with(blocks * 8, SCRIPT, |args| {
        (args.io, args.direct) = (io, direct);
        args.poll_us = if io == IoMode::Uring { 20 } else { 0 };
    });
    let mut client = Blkio::new("virtio-blk-vhost-user").expect("the driver");
    client.set_str("path", device.socket.to_str().expect("text")).expect("a path");
    client.connect().unwrap_or_else(|error| panic!("connects: {error}"));
    client.set_i32("num-queues", QUEUES as i32).expect("queues");
    client.set_i32("queue-size", 512).expect("a ring for 128 requests");
    let mut started = client.start().unwrap_or_else(|error| panic!("starts: {error}"));
    let bytes = QUEUES as usize * DEPTH * MOST_BLOCKS as usize * BLOCK;
    let region = client.alloc_mem_region(bytes).unwrap_or_else(|error| panic!("memory: {error}"));
    client.map_mem_region(&region).unwrap_or_else(|error| panic!("mapped: {error}"));
    #[allow(unsafe_code, reason = "the region is plain shared memory of the client")]
    // SAFETY: the region is mapped for as long as `client` lives. The server writes to the buffers of requests under way
    // only, and a lane looks at a buffer only before it sends and after it has got back its request.
    let memory = unsafe { std::slice::from_raw_parts_mut(region.addr as *mut u8, region.len) };

    let mut lanes = lanes_of(&mut started.queues, memory, blocks);
    while lanes.iter_mut().map(Lane::step).fold(false, |busy, lane| busy | lane) {
        std::thread::yield_now();
    }
    let versions: Vec<u64> = lanes.iter().flat_map(|lane| lane.versions.iter().copied()).collect();
    drop(lanes);
    drop(started);
    drop(client);

    let image = std::fs::File::open(&device.image).expect("the image");
    let mut buf = [0; BLOCK];
    for (block, version) in (0..).zip(&versions) {
        image.read_exact_at(&mut buf, block * BLOCK as u64).expect("read");
        assert!(*version == 0 || holds(block, *version, &buf), "block {block} lies wrong on the image");
    }
    assert!(versions.iter().filter(|version| **version > 1).count() > versions.len() / 4, "much was overwritten");
    let (ending, record) = device.end();
    assert_eq!(ending, Ending::Clean);
    let trailer = record.last().expect("a trailer");
    for rule in ["late", "mixed", "cut"] {
        assert!(trailer["fired"][rule].as_u64() > Some(0), "{rule} never fired: {trailer}");
    }
    assert_eq!(trailer["unanswered"], 0);
}

#[test]
fn every_byte_comes_back_by_the_fastest_way() {
    run(IoMode::Auto, false);
}

#[test]
fn every_byte_comes_back_by_io_uring() {
    run(IoMode::Uring, false);
}

#[test]
fn every_byte_comes_back_by_plain_calls() {
    run(IoMode::Sync, false);
}

#[test]
fn every_byte_comes_back_past_the_page_cache() {
    let probe = tempfile::NamedTempFile::new().expect("a file");
    let direct = vhost_blk::disk::DiskOptions { direct: true, ..Default::default() };
    std::fs::write(probe.path(), [0; 8192]).expect("its content");
    if let Err(error) = vhost_blk::disk::Disk::open(probe.path(), direct) {
        return eprintln!("skipped: the folder for temporary files has no O_DIRECT ({error})");
    }
    run(IoMode::Auto, true);
}
