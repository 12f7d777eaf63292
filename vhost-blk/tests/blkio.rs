//! A client of different make: the `blkio` crate's virtio-blk-vhost-user driver.
//!
//! It negotiates EVENT_IDX, adds its memory while the rings run, and reads 60 bytes of configuration space.

mod common;

use std::mem::MaybeUninit;

use blkio::{Blkio, Blkioq, Completion, ReqFlags};
use common::{Device, pattern};

fn one(queue: &mut Blkioq) -> i32 {
    let mut completions = [const { MaybeUninit::<Completion>::uninit() }; 1];
    assert_eq!(queue.do_io(&mut completions, 1, None, None).expect("completes"), 1);
    let [completion] = completions;
    #[allow(unsafe_code, reason = "do_io has filled it")]
    // SAFETY: do_io returned 1, so the first element was written.
    unsafe { completion.assume_init() }.ret
}

#[test]
fn blkio_reads_writes_flushes_and_discards() {
    let device = Device::start(2048, "");
    let mut client = Blkio::new("virtio-blk-vhost-user").expect("the driver");
    client.set_str("path", device.socket.to_str().expect("text")).expect("a path");
    client.connect().unwrap_or_else(|error| panic!("connects: {error}"));
    client.set_i32("num-queues", 2).expect("two queues");
    assert_eq!(client.get_u64("capacity").expect("capacity"), 2048 * 512);
    let mut started = client.start().unwrap_or_else(|error| panic!("starts: {error}"));
    let region = client.alloc_mem_region(1 << 16).unwrap_or_else(|error| panic!("memory: {error}"));
    client.map_mem_region(&region).unwrap_or_else(|error| panic!("mapped: {error}"));
    #[allow(unsafe_code, reason = "the region is plain shared memory of the client")]
    // SAFETY: the region is mapped for as long as `client` lives, and no request is under way while it is looked at.
    let memory = unsafe { std::slice::from_raw_parts_mut(region.addr as *mut u8, region.len) };

    for (i, queue) in (0..).zip(started.queues.iter_mut()) {
        let at = i * 64 * 512;
        memory[..4096].copy_from_slice(&pattern(8, 40 + i as u8));
        queue.write(at, region.addr as *const u8, 4096, 0, ReqFlags::empty());
        assert_eq!(one(queue), 0);
        queue.flush(0, ReqFlags::empty());
        assert_eq!(one(queue), 0);
        queue.read(at, (region.addr + 8192) as *mut u8, 4096, 0, ReqFlags::empty());
        assert_eq!(one(queue), 0);
        assert_eq!(memory[8192..8192 + 4096], pattern(8, 40 + i as u8));
        queue.discard(at, 512, 0, ReqFlags::empty());
        assert_eq!(one(queue), 0);
        queue.write_zeroes(at + 512, 512, 0, ReqFlags::empty());
        assert_eq!(one(queue), 0);
    }
    let mut expected = pattern(2048, 1);
    for i in 0..2usize {
        let at = i * 64 * 512;
        expected[at..at + 4096].copy_from_slice(&pattern(8, 40 + i as u8));
        expected[at..at + 1024].fill(0);
    }
    assert_eq!(device.image_bytes(), expected);
    drop(started);
    drop(client);
    assert_eq!(device.end().0, vhost_blk::serve::Ending::Clean);
}
