//! What is fuzzed: everything that reads what somebody else wrote. Each target takes any bytes and returns, or there is
//! a bug. tests/corpus.rs plays the kept inputs without a fuzzer.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use fault_injection::{Arrival, DeviceFacts, DeviceLimits, Engine, Op, Replay, Request, Source, load};
use vhost_blk::config::Offer;
use vhost_blk::control::respond;
use vhost_blk::device::{Device, Parts, new_call};
use vhost_blk::disk::{Disk, DiskOptions};
use vhost_blk::drive::{Change, Refusal};
use vhost_blk::media::{Caching, Media};
use vhost_blk::overlay::Overlay;
use vhost_blk::power::Power;
use vhost_blk::recorder::Recorder;
use vhost_blk::request::{Memory, What, parse};
use vhost_blk::way::{IoMode, Ways};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress};

const SECTORS: u64 = 2048;

/// A fault script: what loads is explained, comes back from its normal form, fits a device or not, and is played.
pub fn script(input: &[u8]) {
    let Ok(text) = fault_injection::text_of("script.json", input) else { return };
    let loaded = match load(&[Source { name: "script.json", text }]) {
        Ok(loaded) => loaded,
        Err(problems) => {
            assert!(!problems.to_string().is_empty());
            return;
        }
    };
    let script = loaded.script;
    assert!(!fault_injection::explain(&script).is_empty());
    let normal = script.normalized();
    let again = load(&[Source { name: "normal.json", text: &normal }]);
    assert_eq!(again.expect("a normal form loads").script.normalized(), normal);
    script.check_device(&DeviceFacts { capacity_sectors: SECTORS, queues: 2, logical_block_bytes: 512 });
    play(Engine::new(Arc::new(script), None));
}

fn play(mut engine: Engine) {
    engine.set_capacity(SECTORS);
    for seq in 0..64 {
        let op = [Op::Write, Op::Read, Op::Write, Op::Flush, Op::Write, Op::Discard, Op::WriteZeroes, Op::GetId]
            [seq as usize % 8];
        let placed = !matches!(op, Op::Flush | Op::GetId);
        let (sector, sectors) = if placed { (seq % 7 * 8, 1 + seq % 16) } else { (0, 0) };
        let request = Request { op, sector, sectors, queue: (seq % 2) as u16, inflight: (seq % 3) as u32 };
        engine.decide(Arrival { seq, elapsed_ms: seq * 10 }, &request);
        if seq == 32 {
            engine.mark("M", seq, seq * 10);
        }
    }
    engine.tick(64, u64::MAX);
}

/// A decisions.jsonl that is to be replayed.
pub fn replay(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(replay) = Replay::parse(text) else { return };
    let script = Arc::new(load(&[Source { name: "script.json", text: SCRIPT }]).expect("a script").script);
    let mut engine = Engine::new(script, Some(replay.seed()));
    if engine.force(replay).is_ok() {
        play(engine);
    }
}

/// Lines for the control socket of a device with rules, states and a write cache: each has one answer with its id, and
/// afterwards the device says how it is.
pub fn control(input: &[u8]) {
    let device = device();
    for line in input.split_inclusive(|byte| *byte == b'\n').take(32) {
        let answer = respond(line, &device, &mut None, no_change);
        let ok = answer["ok"].as_bool().expect("an answer says whether it is one");
        assert!(answer.get(if ok { "result" } else { "error" }).is_some(), "{answer}");
        assert!(answer.get("id").is_some(), "{answer}");
    }
    assert_eq!(respond(b"{\"verb\":\"status\"}\n", &device, &mut None, no_change)["ok"], true);
    play(std::mem::replace(&mut device.gates().engine, Engine::new(Arc::new(fault_injection::Script::empty()), None)));
    device.recorder().finish(device.totals()).expect("nothing to write to");
}

/// Another disk names files of the host, which no input of chance may open.
fn no_change(_: &Change) -> Result<serde_json::Value, Refusal> {
    Err("not here".to_owned().into())
}

const SCRIPT: &str = r#"{"faultscript": 1, "device": {"write_cache": "writeback"}, "states": {"s": ["a", "b"]}, "rules": [
 {"id": "bad", "match": {"op": "write", "sectors": [[0, 8]]}, "action": {"error": {"status": "ioerr"}}, "scope": {"sticky": {"sectors": "matched", "heal": "never"}}},
 {"id": "held", "match": {"op": "read"}, "trigger": {"when": {"s": "b"}}, "action": {"hold": {"until": "release"}}},
 {"id": "cut", "match": {"op": "write"}, "action": {"split": {"max_sectors": 2}}},
 {"id": "child", "match": {"child_of": "cut"}, "trigger": {"nth": 2}, "action": {"lose": {}}}],
 "events": [{"id": "grow", "at": {"mark": "M"}, "do": {"capacity_sectors": 4096}},
            {"id": "set", "at": {"mark": "N"}, "do": {"set": {"s": "b"}}}]}"#;

fn device() -> Device {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    let image = FOLDER.get_or_init(|| tempfile::tempdir().expect("a folder")).path().join("disk");
    // As it was for every input, whatever the one before made of it.
    std::fs::File::create(&image).and_then(|file| file.set_len(SECTORS * 512)).expect("an image");
    let script = load(&[Source { name: "script.json", text: SCRIPT }]).expect("a script").script;
    let disk = Disk::open(Path::new(&image), DiskOptions::default()).expect("opens");
    let offer = Offer::new(disk.capacity_sectors(), 512, 2, false, script.device());
    let script = Arc::new(script);
    let mut engine = Engine::new(script.clone(), None);
    engine.set_capacity(SECTORS);
    let traits = disk.traits();
    let parts = Parts {
        disk: Media::new(disk, Caching::Volatile { lying: false, limit_bytes: 1 << 20 }),
        overlay: Overlay::new(None),
        offer,
        power: Some(Power::new(None, None).expect("no folder is made")),
        engine,
        script,
        recorder: Recorder::start(None, None).expect("a thread"),
        serial: "fuzz".into(),
        ways: Ways::of(IoMode::default(), traits),
        poll_us: 0,
        files: None,
    };
    Device::new(parts, new_call().expect("an eventfd"))
}

const RING_SIZE: u16 = 16;
const AVAIL: u64 = RING_SIZE as u64 * 16;
const USED: u64 = 0x8000;
const MEMORY_BYTES: usize = 0x10000;

/// A ring: descriptor table, available ring, and behind them whatever their addresses lead to.
pub fn ring(input: &[u8]) {
    let memory = Memory::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)]).expect("memory");
    memory.write_slice(&input[..input.len().min(USED as usize)], GuestAddress(0)).expect("it fits");
    let mut queue = Queue::new(RING_SIZE).expect("a queue");
    queue.set_size(RING_SIZE);
    queue.set_desc_table_address(Some(0), Some(0));
    queue.set_avail_ring_address(Some(AVAIL as u32), Some(0));
    queue.set_used_ring_address(Some(USED as u32), Some(0));
    queue.set_ready(true);
    let offer = Offer::new(SECTORS, 512, 1, false, &DeviceLimits::default());
    for _ in 0..2 * RING_SIZE {
        let Ok(mut chains) = queue.iter(&memory) else { return };
        let Some(chain) = chains.next() else { return };
        let Ok(request) = parse(chain, &memory, &offer) else { continue };
        assert!(request.head < RING_SIZE);
        let mut room = vec![0; request.data.bytes().min(1 << 16) as usize];
        match request.what {
            What::Read(range) => {
                assert_eq!(request.data.bytes(), range.bytes());
                request.data.write(&memory, 0, &room).expect("it was looked at");
            }
            What::Write(range) => {
                assert_eq!(request.data.bytes(), range.bytes());
                request.data.read(&memory, 0, &mut room).expect("it was looked at");
            }
            _ => {}
        }
        queue.add_used(&memory, request.head, 0).expect("the used ring is there");
    }
}
