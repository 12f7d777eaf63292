//! What a request costs between the ring and the host, without the host: `cargo bench -p vhost-blk --bench ring`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use fault_injection::DeviceLimits;
use vhost_blk::config::Offer;
use vhost_blk::iovec::Iovecs;
use vhost_blk::request::{Memory, parse};
use virtio_queue::desc::{RawDescriptor, split::Descriptor};
use virtio_queue::mock::MockSplitQueue;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

const QUEUE_SIZE: u16 = 256;
/// Half of them: the mock's used ring lies over the last entries of its available ring.
const CHAINS: u16 = QUEUE_SIZE / 2;
const RUNS: usize = 200;
const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// A ring of reads of 4 KiB: header, data, status.
fn chains(memory: &Memory, data_parts: u16) -> MockSplitQueue<'_, Memory> {
    let queue = MockSplitQueue::new(memory, QUEUE_SIZE);
    memory.write_slice(&[0; 16], GuestAddress(0x10_0000)).expect("inside");
    let part = 4096 / u32::from(data_parts);
    let mut descriptors = vec![Descriptor::new(0x10_0000, 16, NEXT, 1)];
    for i in 0..data_parts {
        let at = 0x20_0000 + u64::from(i) * 0x2000;
        descriptors.push(Descriptor::new(at, part, NEXT | WRITE, i + 2));
    }
    descriptors.push(Descriptor::new(0x10_1000, 1, WRITE, 0));
    let raw: Vec<RawDescriptor> = descriptors.into_iter().map(RawDescriptor::from).collect();
    for i in 0..CHAINS {
        // All heads are the same chain: its content is what is looked at.
        queue.avail().ring().ref_at(i.into()).expect("inside").store(0);
    }
    for (i, descriptor) in (0..).zip(&raw) {
        queue.desc_table().store(i, *descriptor).expect("inside");
    }
    queue.avail().idx().store(CHAINS.to_le());
    queue
}

fn per_request(mut work: impl FnMut() -> usize) -> f64 {
    let once = |_| {
        let since = Instant::now();
        let requests = work();
        since.elapsed().div_f64(requests as f64)
    };
    (0..RUNS).map(once).min().unwrap_or(Duration::ZERO).as_secs_f64() * 1e9
}

fn main() {
    let memory = Memory::from_ranges(&[(GuestAddress(0), 0x100_0000)]).expect("guest memory");
    let offer = Offer::new(2048, 512, 1, false, &DeviceLimits::default());
    for parts in [1, 8] {
        let mock = chains(&memory, parts);
        let round = |with_list: bool| {
            let mut queue: Queue = mock.create_queue().expect("a queue");
            let chains: Vec<_> = queue.iter(&memory).expect("a ring").collect();
            let count = chains.len();
            for chain in chains {
                let request = parse(chain, &memory, &offer).expect("a request");
                if with_list {
                    black_box(Iovecs::of(&request.data, 0, &memory).expect("mapped"));
                }
                queue.add_used(&memory, request.head, 4097).expect("a used ring");
            }
            count
        };
        println!(
            "{parts} data descriptors: taken, read and given back {:.0} ns; with the list for the host {:.0} ns",
            per_request(|| round(false)),
            per_request(|| round(true)),
        );
    }
}
