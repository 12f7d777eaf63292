//! The device from the driver's side of the ring: status byte, used length, memory, media, record, compared exactly.

mod common;

use common::*;
use serde_json::{Value, json};
use vhost_blk::control::Ask;
use vhost_blk::serve::Ending;

fn sectors(image: &[u8], from: usize, count: usize) -> &[u8] {
    &image[from * 512..(from + count) * 512]
}

fn rule(matching: &str, trigger: &str, action: &str) -> String {
    format!(
        r#"{{"faultscript":1,"rules":[{{"id":"r","match":{{{matching}}},"trigger":{{{trigger}}},"action":{{{action}}}}}]}}"#
    )
}

#[test]
fn every_kind_of_request_is_answered_as_virtio_says() {
    let device = Device::start(64, "");
    let mut guest = Guest::connect(&device.socket, 1);
    let old = pattern(64, 1);

    assert_eq!(guest.read(8, 4), (OK, 4 * 512 + 1, sectors(&old, 8, 4).to_vec()));
    assert_eq!(guest.write(8, &pattern(2, 7)), (OK, 1));
    assert_eq!(guest.read(8, 2), (OK, 1025, pattern(2, 7)));
    assert_eq!(guest.request(FLUSH, 0, &[], 0), (OK, 1, vec![]));
    assert_eq!(guest.range(DISCARD, 16, 8, 0), (OK, 1));
    assert_eq!(guest.range(WRITE_ZEROES, 32, 4, 0), (OK, 1));
    assert_eq!(guest.range(WRITE_ZEROES, 36, 4, 1), (OK, 1));
    let mut id = b"test-disk".to_vec();
    id.resize(20, 0);
    assert_eq!(guest.request(GET_ID, 0, &[], 20), (OK, 21, id));
    assert_eq!(guest.request(25, 0, &[], 512), (UNSUPP, 1, vec![0xee; 512]));

    let mut expected = old;
    expected[8 * 512..10 * 512].copy_from_slice(&pattern(2, 7));
    expected[16 * 512..24 * 512].fill(0);
    expected[32 * 512..40 * 512].fill(0);
    assert_eq!(device.image_bytes(), expected);

    let (ending, record) = device.end();
    assert_eq!(ending, Ending::Clean);
    let trailer = record.last().expect("a trailer");
    assert_eq!(
        (&trailer["complete"], &trailer["requests"], &trailer["unanswered"]),
        (&json!(true), &json!(9), &json!(0))
    );
    let n: Vec<u64> = record.iter().filter_map(|line| line["n"].as_u64()).collect();
    assert_eq!(n, (0..n.len() as u64).collect::<Vec<_>>(), "every event has its place and none is missing");
}

#[test]
fn the_configuration_space_says_what_is_offered() {
    let script = r#"{"faultscript":1,"device":{"seg_max":2,"size_max_bytes":4096,"logical_block_bytes":1024,"capacity_sectors":32}}"#;
    let device = Device::start(64, script);
    let mut guest = Guest::connect(&device.socket, 1);
    let space = guest.config(60);
    assert_eq!(space[0..8], 32u64.to_le_bytes());
    assert_eq!(space[8..12], 4096u32.to_le_bytes());
    assert_eq!(space[12..16], 2u32.to_le_bytes());
    assert_eq!(space[20..24], 1024u32.to_le_bytes());
    assert_eq!(space[32], 1, "writeback, so that the driver sends flushes");
    assert_eq!(space[34..36], 4u16.to_le_bytes());
    assert_eq!(guest.read(30, 2).0, OK);
    assert_eq!(guest.read(31, 1).0, IOERR, "not a whole block");
    assert_eq!(guest.read(32, 2).0, IOERR, "past the script's capacity");
}

#[test]
fn chains_that_are_no_requests_come_back_with_length_0_and_leave_the_image_alone() {
    let device = Device::start(16, "");
    let mut guest = Guest::connect(&device.socket, 1);
    let status = guest.place(&[UNTOUCHED]);
    let data = guest.place(&[5; 2048]);
    let header = |guest: &mut Guest, kind, sector| (guest.header(kind, sector), 16, false);
    let outside = vm_memory::GuestAddress(1 << 40);

    let write_at_end = header(&mut guest, OUT, 15);
    let overflow = header(&mut guest, OUT, u64::MAX);
    let read = header(&mut guest, IN, 0);
    let write = header(&mut guest, OUT, 0);
    let discard = header(&mut guest, DISCARD, 0);
    let far = guest.place(&[&u64::MAX.to_le_bytes()[..], &8u32.to_le_bytes(), &[0; 4]].concat());
    let long = guest.place(&[&0u64.to_le_bytes()[..], &u32::MAX.to_le_bytes(), &[0; 4]].concat());
    let answered: [(&str, Vec<Buffer>); 9] = [
        ("sector overflow", vec![overflow, (data, 512, false), (status, 1, true)]),
        ("zero length", vec![write, (status, 1, true)]),
        ("not whole sectors", vec![write, (data, 511, false), (status, 1, true)]),
        ("a read into readable memory", vec![read, (data, 512, false), (status, 1, true)]),
        ("half a header", vec![(write.0, 8, false), (status, 1, true)]),
        ("data outside the guest", vec![write, (outside, 512, false), (status, 1, true)]),
        ("a discard past the end", vec![discard, (far, 16, false), (status, 1, true)]),
        ("a discard too long", vec![discard, (long, 16, false), (status, 1, true)]),
        ("a discard without its range", vec![discard, (long, 15, false), (status, 1, true)]),
    ];
    for (why, chain) in answered {
        let sent = Sent { queue: 0, head: 0, data, data_bytes: 0, status };
        vm_memory::Bytes::write_obj(&guest.memory, UNTOUCHED, status).expect("guest memory");
        assert_eq!(guest.odd(&chain), 0, "{why}");
        assert_eq!(guest.status(&sent), IOERR, "{why}");
    }
    let past_end = guest.odd(&[write_at_end, (data, 1024, false), (status, 1, true)]);
    assert_eq!(past_end, 1, "well-formed, and no such sectors");
    let silent: [(&str, Vec<Buffer>); 3] = [
        ("no status byte", vec![write, (data, 512, false)]),
        ("a status byte outside the guest", vec![write, (data, 512, false), (outside, 1, true)]),
        ("readable after writable", vec![write, (status, 1, true), (data, 512, false)]),
    ];
    for (why, chain) in silent {
        assert_eq!(guest.odd(&chain), 0, "{why}");
    }
    assert_eq!(guest.read(0, 1).0, OK, "the queue lives on");
    assert_eq!(device.image_bytes(), pattern(16, 1));
    let (ending, record) = device.end();
    assert_eq!(ending, Ending::Clean);
    assert_eq!(record.last().expect("a trailer")["malformed"], 12);
}

#[test]
fn loops_wild_indices_and_bad_tables_come_back_and_the_queue_lives_on() {
    let device = Device::start(16, "");
    let mut guest = Guest::connect(&device.socket, 1);
    let header = guest.header(OUT, 0);
    let data = guest.place(&[5; 512]);
    let table = guest.place(&[0xff; 64]);
    const NEXT: u16 = 1;
    // A loop, an index out of the table, an indirect table of odd length, one outside the guest, one inside another.
    guest.descriptor(0, 200, header, 16, NEXT, 201);
    guest.descriptor(0, 201, data, 512, NEXT, 200);
    guest.descriptor(0, 202, header, 16, NEXT, 9999);
    guest.descriptor(0, 203, table, 17, Guest::indirect_flag(), 0);
    guest.descriptor(0, 204, vm_memory::GuestAddress(1 << 40), 32, Guest::indirect_flag(), 0);
    guest.descriptor(0, 205, table, 64, Guest::indirect_flag(), 0);
    // Whole requests by their first three descriptors, but for a status byte that names another one.
    let status = guest.place(&[UNTOUCHED]);
    guest.descriptor(0, 210, header, 16, NEXT, 211);
    guest.descriptor(0, 211, data, 512, NEXT, 212);
    guest.descriptor(0, 212, status, 1, NEXT | 2, 9999);
    guest.descriptor(0, 220, header, 16, NEXT, 221);
    guest.descriptor(0, 221, data, 512, NEXT, 222);
    guest.descriptor(0, 222, status, 1, NEXT | 2, 222);
    for head in [200, 202, 203, 204, 205, 210, 220] {
        guest.offer(0, head);
        guest.kick(0);
        assert_eq!(guest.used(0), (head, 0), "head {head}");
    }
    let sent = Sent { queue: 0, head: 0, data, data_bytes: 0, status };
    assert_eq!(guest.status(&sent), UNTOUCHED, "where the status byte would be is not known");
    guest.break_avail_index(0);
    guest.kick(0);
    while device.ask(&Ask::Counters)["malformed"] != 8 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    guest.repair_avail_index(0);
    assert_eq!(guest.read(0, 1).0, OK);
    assert_eq!(device.image_bytes(), pattern(16, 1));
    assert_eq!(device.end().0, Ending::Clean);
}

#[test]
fn an_indirect_table_of_scattered_buffers_is_one_request() {
    let device = Device::start(16, "");
    let mut guest = Guest::connect(&device.socket, 1);
    let header = guest.header(OUT, 4);
    let data = guest.place(&pattern(2, 9));
    let status = guest.place(&[UNTOUCHED]);
    let entry = |addr: vm_memory::GuestAddress, len: u32, flags: u16, next: u16| {
        [&addr.0.to_le_bytes()[..], &len.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat()
    };
    let at = |offset: u64| vm_memory::GuestAddress(data.0 + offset);
    let table =
        [entry(header, 16, 1, 1), entry(at(0), 100, 1, 2), entry(at(100), 924, 1, 3), entry(status, 1, 2, 0)].concat();
    let table = guest.place(&table);
    guest.descriptor(0, 0, table, 64, Guest::indirect_flag(), 0);
    guest.offer(0, 0);
    guest.kick(0);
    assert_eq!(guest.used(0), (0, 1));
    assert_eq!(sectors(&device.image_bytes(), 4, 2), pattern(2, 9));
}

#[test]
fn an_error_moves_nothing_unless_the_script_says_it_landed() {
    for (transfer, lands) in [("none", false), ("all", true)] {
        let action = format!(r#""error":{{"status":"ioerr","transfer":"{transfer}"}}"#);
        let device = Device::start(64, &rule(r#""op":"write""#, r#""nth":2"#, &action));
        let mut guest = Guest::connect(&device.socket, 1);
        assert_eq!(guest.write(0, &pattern(1, 2)), (OK, 1));
        assert_eq!(guest.write(8, &pattern(4, 3)), (IOERR, 1));
        assert_eq!(guest.write(16, &pattern(1, 4)), (OK, 1));
        let mut expected = pattern(64, 1);
        expected[..512].copy_from_slice(&pattern(1, 2));
        expected[16 * 512..17 * 512].copy_from_slice(&pattern(1, 4));
        if lands {
            expected[8 * 512..12 * 512].copy_from_slice(&pattern(4, 3));
        }
        assert_eq!(device.image_bytes(), expected);
        let (ending, record, decisions) = device.end_with_decisions();
        assert_eq!(ending, Ending::Clean);
        assert_eq!(answers(&record), [(0, 0), (1, 1), (2, 0)]);
        let fired: Vec<&Value> = record.iter().filter(|line| line["fired"] == true).map(|line| &line["seq"]).collect();
        assert_eq!(fired, [1]);
        assert_eq!(decisions[1]["seq"], 1);
        assert_eq!(decisions[1]["rule"], "r");
    }
}

#[test]
fn unsupp_and_statuses_beyond_the_specification_reach_the_status_byte() {
    for (status, byte) in [(r#""unsupp""#, UNSUPP), ("77", 77)] {
        let action = format!(r#""error":{{"status":{status}}}"#);
        let device = Device::start(64, &rule(r#""op":"flush""#, "", &action));
        let mut guest = Guest::connect(&device.socket, 1);
        assert_eq!(guest.request(FLUSH, 0, &[], 0), (byte, 1, vec![]));
    }
}

#[test]
fn a_failed_read_leaves_the_guests_memory_as_it_was() {
    let device = Device::start(64, &rule(r#""op":"read","sectors":[[8,9]]"#, "", r#""error":{"status":"ioerr"}"#));
    let mut guest = Guest::connect(&device.socket, 1);
    assert_eq!(guest.read(4, 4), (OK, 2049, sectors(&pattern(64, 1), 4, 4).to_vec()));
    assert_eq!(guest.read(8, 1), (IOERR, 1, vec![0xee; 512]));
    assert_eq!(guest.read(6, 4), (IOERR, 1, vec![0xee; 2048]));
}

#[test]
fn a_partial_write_that_fails_leaves_exactly_its_sectors_on_the_image() {
    let device =
        Device::start(64, &rule(r#""op":"write""#, r#""nth":1"#, r#""partial":{"sectors":3,"status":"ioerr"}"#));
    let mut guest = Guest::connect(&device.socket, 1);
    assert_eq!(guest.write(8, &pattern(8, 9)), (IOERR, 1));
    let mut expected = pattern(64, 1);
    expected[8 * 512..11 * 512].copy_from_slice(&pattern(8, 9)[..3 * 512]);
    assert_eq!(device.image_bytes(), expected);
    assert_eq!(guest.read(8, 8).2, sectors(&expected, 8, 8), "and the guest reads what is there");
    assert_eq!(device.ask(&Ask::Status)["overlay"], json!([]), "no claim, no lie");
    let (_, record) = device.end();
    let complete = record.iter().find(|line| line["ev"] == "complete").expect("an answer");
    assert_eq!(complete["moved_bytes"], 3 * 512);
}

#[test]
fn a_partial_read_is_short_in_memory_and_honest_or_not_in_its_length() {
    for (length, used_len) in [("honest", 3 * 512 + 1), ("full", 8 * 512 + 1)] {
        let action = format!(r#""partial":{{"sectors":3,"status":"ok","used_len":"{length}"}}"#);
        let device = Device::start(64, &rule(r#""op":"read""#, r#""nth":1"#, &action));
        let mut guest = Guest::connect(&device.socket, 1);
        let (status, len, data) = guest.read(0, 8);
        assert_eq!((status, len), (OK, used_len));
        assert_eq!(data[..3 * 512], pattern(64, 1)[..3 * 512]);
        assert_eq!(data[3 * 512..], [0xee; 5 * 512]);
    }
}

#[test]
fn what_was_lost_is_in_the_image_and_the_guest_goes_on_reading_the_past() {
    let device = Device::start(64, &rule(r#""op":"write""#, r#""nth":1"#, r#""lose":{}"#));
    let mut guest = Guest::connect(&device.socket, 1);
    let past = pattern(64, 1);
    assert_eq!(guest.write(8, &pattern(4, 9)), (OK, 1));
    assert_eq!(sectors(&device.image_bytes(), 8, 4), pattern(4, 9), "the image holds what is claimed");
    assert_eq!(guest.read(6, 8).2, sectors(&past, 6, 8), "the guest reads what was there before");
    assert_eq!(device.ask(&Ask::Status)["overlay"], json!([{"sector": 8, "sectors": 4, "seq": 0, "kind": "lost"}]));

    assert_eq!(guest.write(10, &pattern(1, 5)), (OK, 1));
    let visible = [sectors(&past, 8, 2), &pattern(1, 5), sectors(&past, 11, 1)].concat();
    assert_eq!(guest.read(8, 4).2, visible, "a later write ends the lie where it wrote");
    let list = vhost_blk::overlay::list_file(&device.folder.path().join("o")).expect("the list");
    assert_eq!(
        serde_json::to_value(list).expect("json"),
        json!([{"sector": 8, "sectors": 2, "seq": 0, "kind": "lost"}, {"sector": 11, "sectors": 1, "seq": 0, "kind": "lost"}])
    );

    guest.range(WRITE_ZEROES, 8, 4, 0);
    assert_eq!(guest.read(8, 4).2, vec![0; 2048]);
    assert_eq!(device.ask(&Ask::Status)["overlay"], json!([]));
}

#[test]
fn a_partial_write_that_lies_keeps_the_rest_of_the_past_to_the_byte() {
    let device = Device::start(64, &rule(r#""op":"write""#, r#""nth":1"#, r#""partial":{"bytes":700,"status":"ok"}"#));
    let mut guest = Guest::connect(&device.socket, 1);
    assert_eq!(guest.write(8, &pattern(3, 9)), (OK, 1));
    assert_eq!(sectors(&device.image_bytes(), 8, 3), pattern(3, 9));
    let visible = [&pattern(3, 9)[..700], &sectors(&pattern(64, 1), 8, 3)[700..]].concat();
    assert_eq!(guest.read(8, 3).2, visible);
    assert_eq!(device.ask(&Ask::Status)["overlay"], json!([{"sector": 9, "sectors": 2, "seq": 0, "kind": "lost"}]));
}

#[test]
fn a_delayed_request_is_overtaken_and_answered_without_a_kick() {
    let device = Device::start(64, &rule(r#""op":"write","sectors":[[0,1]]"#, "", r#""delay":{"ms":60}"#));
    let mut guest = Guest::connect(&device.socket, 1);
    let slow = guest.queue_request(0, OUT, 0, &pattern(1, 2), 0);
    let fast = guest.queue_request(0, OUT, 8, &pattern(1, 3), 0);
    guest.kick(0);
    assert_eq!(guest.used(0).0, fast.head);
    assert_eq!(guest.used(0).0, slow.head);
    assert_eq!((guest.status(&slow), guest.status(&fast)), (OK, OK));
    let (_, record) = device.end();
    assert_eq!(answers(&record), [(1, 0), (0, 0)]);
    let at =
        |ev: &str| record.iter().find(|l| l["ev"] == ev && l["seq"] == 0).expect("it")["t_ns"].as_u64().expect("ns");
    assert!(at("complete") - at("issue") >= 60_000_000, "not before its time");
}

#[test]
fn a_held_request_waits_for_its_release_and_touches_the_disk_only_then() {
    let device = Device::start(64, &rule(r#""op":"write""#, r#""nth":1"#, r#""hold":{"until":"release"}"#));
    let mut guest = Guest::connect(&device.socket, 1);
    let held = guest.send(0, OUT, 0, &pattern(1, 2), 0);
    let other = guest.send(0, OUT, 8, &pattern(1, 3), 0);
    assert_eq!(guest.used(0).0, other.head);
    assert_eq!(sectors(&device.image_bytes(), 0, 1), sectors(&pattern(64, 1), 0, 1), "not yet on the disk");
    let parked = device.ask(&Ask::Status)["parked"].clone();
    assert_eq!((&parked[0]["seq"], &parked[0]["rule"], &parked[0]["gate"]), (&json!(0), &json!("r"), &json!("hold")));

    guest.empty_signal(0);
    assert_eq!(device.ask(&Ask::Release { rule: "r".into() })["released"], 1);
    assert_eq!(guest.used(0).0, held.head);
    guest.wait_for_signal(0);
    assert_eq!(sectors(&device.image_bytes(), 0, 1), pattern(1, 2));
    assert_eq!(guest.poll_used(0), None, "answered once");
}

#[test]
fn a_mark_lets_go_what_waits_for_it_and_is_recorded_before_its_answer() {
    let device = Device::start(64, &rule(r#""op":"write""#, r#""nth":1"#, r#""hold":{"until":{"mark":"go"}}"#));
    let mut guest = Guest::connect(&device.socket, 1);
    let held = guest.send(0, OUT, 0, &pattern(1, 2), 0);
    guest.read(8, 1_usize);
    let _ = held;
    let mark = device.ask(&Ask::Mark { name: "go".into() });
    assert_eq!((&mark["seq"], &mark["released"]), (&json!(2), &json!(1)));
    assert_eq!(guest.used(0).0, held.head);
    let (_, record) = device.end();
    let line = record.iter().find(|line| line["ev"] == "mark").expect("the mark");
    assert_eq!((&line["name"], &line["n"]), (&json!("go"), &mark["n"]));
}

#[test]
fn overlapping_writes_reach_the_disk_in_arrival_order_whatever_the_gate_says() {
    let device = Device::start(64, &rule(r#""op":"write""#, r#""nth":1"#, r#""hold":{"until":"release"}"#));
    let mut guest = Guest::connect(&device.socket, 1);
    let held = guest.send(0, OUT, 0, &pattern(4, 2), 0);
    assert_eq!(guest.send(0, OUT, 2, &pattern(1, 3), 0).head, guest.used(0).0);
    let mut expected = pattern(64, 1);
    expected[..4 * 512].copy_from_slice(&pattern(4, 2));
    expected[2 * 512..3 * 512].copy_from_slice(&pattern(1, 3));
    assert_eq!(device.image_bytes(), expected, "the held write went first");
    device.ask(&Ask::Release { rule: "r".into() });
    assert_eq!(guest.used(0).0, held.head);
    assert_eq!(device.image_bytes(), expected, "and not again");
}

#[test]
fn a_read_gated_behind_an_overlapping_write_sees_it() {
    let script = r#"{"faultscript":1,"rules":[
        {"id":"w","match":{"op":"write"},"action":{"hold":{"until":"release"}}},
        {"id":"d","match":{"op":"read"},"action":{"delay":{"ms":5}}}]}"#;
    let device = Device::start(64, script);
    let mut guest = Guest::connect(&device.socket, 1);
    let write = guest.send(0, OUT, 0, &pattern(1, 2), 0);
    let read = guest.send(0, IN, 0, &[], 512);
    assert_eq!(guest.used(0).0, read.head);
    assert_eq!(guest.data(&read), pattern(1, 2));
    device.ask(&Ask::Release { rule: "w".into() });
    assert_eq!(guest.used(0).0, write.head);
}

#[test]
fn a_window_is_answered_in_reverse_and_the_record_shows_it() {
    let action = r#""reorder":{"window":4,"policy":"reverse","max_wait_ms":20000}"#;
    let device = Device::start(64, &rule(r#""op":"write""#, "", action));
    let mut guest = Guest::connect(&device.socket, 1);
    let sent: Vec<Sent> =
        (0..4u8).map(|i| guest.queue_request(0, OUT, 8 * u64::from(i), &pattern(1, i + 2), 0)).collect();
    guest.kick(0);
    let heads: Vec<u16> = (0..4).map(|_| guest.used(0).0).collect();
    assert_eq!(heads, sent.iter().rev().map(|sent| sent.head).collect::<Vec<_>>());
    let image = device.image_bytes();
    for i in 0..4u8 {
        assert_eq!(sectors(&image, 8 * usize::from(i), 1), pattern(1, i + 2));
    }
    assert_eq!(answers(&device.end().1), [(3, 0), (2, 0), (1, 0), (0, 0)]);
}

#[test]
fn a_window_over_two_queues_is_answered_in_its_order_across_them() {
    let action = r#""reorder":{"window":4,"policy":"reverse","max_wait_ms":20000}"#;
    let device = Device::start(64, &rule(r#""op":"write""#, "", action));
    let mut guest = Guest::connect(&device.socket, 2);
    let mut sent = Vec::new();
    for i in 0..4u64 {
        sent.push(guest.send(i as usize % 2, OUT, 8 * i, &pattern(1, i as u8), 0));
        while i < 3 && device.ask(&Ask::Status)["parked"].as_array().expect("a list").len() as u64 != i + 1 {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
    assert_eq!([guest.used(1).0, guest.used(1).0], [sent[3].head, sent[1].head]);
    assert_eq!([guest.used(0).0, guest.used(0).0], [sent[2].head, sent[0].head]);
    assert_eq!(answers(&device.end().1), [(3, 0), (2, 0), (1, 0), (0, 0)]);
}

#[test]
fn a_window_that_starves_is_answered_all_the_same_and_the_decisions_say_so() {
    let action = r#""reorder":{"window":8,"policy":"reverse","max_wait_ms":20}"#;
    let device = Device::start(64, &rule(r#""op":"write""#, "", action));
    let mut guest = Guest::connect(&device.socket, 1);
    let first = guest.queue_request(0, OUT, 0, &pattern(1, 2), 0);
    let second = guest.queue_request(0, OUT, 8, &pattern(1, 3), 0);
    guest.kick(0);
    assert_eq!([guest.used(0).0, guest.used(0).0], [second.head, first.head]);
    let (_, _, decisions) = device.end_with_decisions();
    assert!(decisions.iter().any(|line| line["outcome"].get("reorder_starved").is_some()), "{decisions:?}");
}

#[test]
fn the_children_of_a_split_reach_the_disk_in_their_own_order_and_all_of_them_do() {
    let script = r#"{"faultscript":1,"seed":3,"rules":[
        {"id":"s","match":{"op":"write","size":{"min":9}},"action":{"split":{"max_sectors":2,"order":"reverse"}}},
        {"id":"c","match":{"op":"write","child_of":"s"},"trigger":{"nth":3},"action":{"error":{"status":"ioerr"}}}]}"#;
    let device = Device::start(64, script);
    let mut guest = Guest::connect(&device.socket, 1);
    assert_eq!(guest.write(8, &pattern(10, 9)), (IOERR, 1));
    let (image, record) = (device.image_bytes(), device.end().1);
    let pieces: Vec<(u64, u64, u64)> = record
        .iter()
        .filter(|line| line["ev"] == "piece")
        .map(|line| [&line["piece"], &line["sector"], &line["status"]].map(|v| v.as_u64().expect("a number")))
        .map(|[piece, sector, status]| (piece, sector, status))
        .collect();
    assert_eq!(pieces.iter().map(|p| p.0).collect::<Vec<_>>(), [4, 3, 2, 1, 0], "in the script's order");
    let failed: Vec<u64> = pieces.iter().filter(|p| p.2 == 1).map(|p| p.1).collect();
    assert_eq!(failed.len(), 1);
    let mut expected = pattern(64, 1);
    expected[8 * 512..18 * 512].copy_from_slice(&pattern(10, 9));
    let hole = failed[0] as usize;
    expected[hole * 512..(hole + 2) * 512].copy_from_slice(sectors(&pattern(64, 1), hole, 2));
    assert_eq!(image, expected, "the failed child alone is missing");
}

#[test]
fn a_stopping_ring_answers_what_it_holds_in_arrival_order_with_the_status_decided() {
    let script = r#"{"faultscript":1,"rules":[
        {"id":"h","match":{"op":"write"},"action":{"hold":{"until":"release"}}},
        {"id":"e","match":{"op":"write","sectors":[[8,9]]},"action":{"error":{"status":"ioerr"}}}]}"#;
    let device = Device::start(64, script);
    let mut guest = Guest::connect(&device.socket, 1);
    let first = guest.send(0, OUT, 0, &pattern(1, 2), 0);
    let second = guest.send(0, OUT, 8, &pattern(1, 3), 0);
    while device.ask(&Ask::Status)["inflight"] != 2 {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    assert_eq!(guest.stop_queue(0), 2);
    assert_eq!(guest.poll_used(0).expect("answered before the ring stopped").0, first.head);
    assert_eq!(guest.poll_used(0).expect("answered before the ring stopped").0, second.head);
    assert_eq!((guest.status(&first), guest.status(&second)), (OK, IOERR));
}

#[test]
fn what_is_held_until_reset_is_abandoned_and_the_record_says_so() {
    let device = Device::start(64, &rule(r#""op":"write""#, r#""nth":1"#, r#""hold":{"until":"reset"}"#));
    let mut guest = Guest::connect(&device.socket, 1);
    let held = guest.send(0, OUT, 0, &pattern(1, 2), 0);
    assert_eq!(guest.read(8, 1).0, OK);
    guest.stop_queue(0);
    assert_eq!(guest.poll_used(0), None);
    assert_eq!(guest.status(&held), UNTOUCHED);
    assert_eq!(device.image_bytes(), pattern(64, 1));
    let (ending, record) = device.end();
    assert_eq!(ending, Ending::Clean);
    assert!(record.iter().any(|line| line["ev"] == "abandon" && line["seq"] == 0));
    let trailer = record.last().expect("a trailer");
    assert_eq!((&trailer["abandoned"], &trailer["unanswered"]), (&json!(1), &json!(0)));
}

#[test]
fn a_front_end_that_leaves_and_comes_back_finds_the_same_device() {
    let device = Device::start(64, &rule(r#""op":"write""#, r#""nth":3"#, r#""error":{"status":"ioerr"}"#));
    let mut guest = Guest::connect(&device.socket, 1);
    assert_eq!(guest.write(0, &pattern(1, 2)).0, OK);
    drop(guest);
    let mut guest = Guest::connect(&device.socket, 2);
    assert_eq!(guest.read(0, 1).2, pattern(1, 2));
    assert_eq!(guest.write(1, &pattern(1, 3)).0, OK);
    assert_eq!(guest.write(2, &pattern(1, 4)).0, IOERR, "counters go on over the reconnect");
    drop(guest);
    let (ending, record) = device.end();
    assert_eq!(ending, Ending::Clean);
    let sessions: Vec<&str> =
        record.iter().filter(|l| l["ev"] == "session").map(|l| l["why"].as_str().expect("why")).collect();
    assert_eq!(sessions, ["connect", "features", "disconnect", "connect", "features", "disconnect"]);
}

/// How often the image was made durable so far.
fn host_flushes(device: &Device) -> u64 {
    device.ask(&Ask::Counters)["host_flushes"].as_u64().expect("a number")
}

#[test]
fn without_a_driver_that_flushes_every_write_is_durable_when_answered() {
    let device = Device::start(64, "");
    let stream = std::os::unix::net::UnixStream::connect(&device.socket).expect("connects");
    let mut guest = Guest::over(stream, 1, !(1 << 9 | 1 << 11));
    assert_eq!(guest.write(0, &pattern(1, 2)), (OK, 1));
    assert_eq!(guest.range(WRITE_ZEROES, 1, 1, 1), (OK, 1));
    assert_eq!(guest.read(0, 1).0, OK);
    assert_eq!(host_flushes(&device), 2);
}

#[test]
fn a_driver_that_clears_the_write_cache_gets_write_through() {
    let device = Device::start(64, "");
    let mut guest = Guest::connect(&device.socket, 1);
    guest.write(0, &pattern(1, 2));
    assert_eq!(host_flushes(&device), 0, "a write-back cache may keep it");
    guest.request(FLUSH, 0, &[], 0);
    assert_eq!(host_flushes(&device), 1);
    guest.set_config(32, &[0]);
    assert_eq!(guest.config(60)[32], 0);
    assert_eq!(host_flushes(&device), 2, "what was answered before is durable after");
    guest.write(1, &pattern(1, 3));
    assert_eq!(host_flushes(&device), 3);
    guest.set_config(32, &[1]);
    guest.write(2, &pattern(1, 3));
    assert_eq!(host_flushes(&device), 3);
}

#[test]
fn a_flush_that_fails_makes_nothing_durable_unless_the_script_says_it_landed() {
    for (transfer, flushes) in [("none", 0), ("all", 1)] {
        let action = format!(r#""error":{{"status":"ioerr","transfer":"{transfer}"}}"#);
        let device = Device::start(64, &rule(r#""op":"flush""#, r#""nth":1"#, &action));
        let mut guest = Guest::connect(&device.socket, 1);
        assert_eq!(guest.request(FLUSH, 0, &[], 0), (IOERR, 1, vec![]));
        assert_eq!(host_flushes(&device), flushes, "{transfer}");
        assert_eq!(guest.request(FLUSH, 0, &[], 0), (OK, 1, vec![]));
        assert_eq!(host_flushes(&device), flushes + 1);
    }
}

#[test]
fn a_read_only_disk_refuses_to_be_written() {
    let device = Device::start_with(64, "", |args| args.read_only = true);
    let mut guest = Guest::connect(&device.socket, 1);
    assert_eq!(guest.read(0, 1).0, OK);
    assert_eq!(guest.write(0, &pattern(1, 2)).0, IOERR);
    assert_eq!(guest.range(DISCARD, 0, 1, 0).0, UNSUPP);
    assert_eq!(device.image_bytes(), pattern(64, 1));
}

#[test]
fn requests_larger_than_our_buffer_are_carried_out_whole() {
    let device = Device::start(8192, "");
    let mut guest = Guest::connect(&device.socket, 1);
    let data = pattern(5000, 6);
    assert_eq!(guest.write(100, &data), (OK, 1));
    assert_eq!(guest.read(100, 5000).2, data);
    let device2 = Device::start_with(8192, "", |args| args.direct = true);
    let mut guest = Guest::connect(&device2.socket, 1);
    assert_eq!(guest.write(8, &data), (OK, 1));
    assert_eq!(guest.read(8, 5000).2, data);
}

#[test]
fn a_truncated_image_is_the_hosts_fault_and_ends_the_run_with_4() {
    let device = Device::start(64, "");
    let mut guest = Guest::connect(&device.socket, 1);
    std::fs::OpenOptions::new().write(true).open(&device.image).expect("opens").set_len(4096).expect("truncated");
    assert_eq!(guest.write(32, &pattern(1, 2)), (IOERR, 1));
    assert_eq!(guest.read(32, 1).0, IOERR);
    assert_eq!(guest.read(0, 1).0, OK);
    let image = device.image.display().to_string();
    let (ending, record) = device.end();
    assert!(matches!(&ending, Ending::HostFailed(why) if why.contains(&image)), "{ending:?}");
    let failed: Vec<&Value> =
        record.iter().filter(|line| line["host_error"] == true).map(|line| &line["seq"]).collect();
    assert_eq!(failed, [0, 1]);
    assert_eq!(record.last().expect("a trailer")["host_error"]["path"], image);
}

#[test]
fn garbage_on_the_control_socket_is_answered_and_disturbs_nothing() {
    use std::io::{BufRead, BufReader, Write};
    let device = Device::start(64, "");
    let mut guest = Guest::connect(&device.socket, 1);
    let mut stuck = std::os::unix::net::UnixStream::connect(device.control()).expect("connects");
    stuck.write_all(b"{\"id\":1,\"verb\":").expect("half a line");
    let babbler = std::os::unix::net::UnixStream::connect(device.control()).expect("connects");
    let mut lines = BufReader::new(&babbler).lines();
    for (sent, id) in [("nonsense", json!(null)), ("[]", json!(null)), (r#"{"id":7,"verb":"dance"}"#, json!(7))] {
        writeln!(&babbler, "{sent}").expect("sent");
        let answer: Value = serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON");
        assert_eq!((&answer["ok"], &answer["id"]), (&json!(false), &id), "{sent}");
    }
    writeln!(&babbler, r#"{{"id":"x","verb":"counters"}}"#).expect("sent");
    let answer: Value = serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON");
    assert_eq!((&answer["ok"], &answer["id"]), (&json!(true), &json!("x")));
    assert_eq!(guest.read(0, 1).0, OK);
}

/// Sixteen clients, which is all there may be: some stuck in the middle of a line, some deaf to their answers, some with
/// lines that never end, some with as much nonsense as the socket takes.
#[test]
fn a_flood_on_the_control_socket_disturbs_no_request() {
    use std::io::Write;
    use std::sync::atomic::{AtomicBool, Ordering};
    let device = Device::start(64, &rule(r#""op":"write""#, r#""nth":7"#, r#""error":{"status":"ioerr"}"#));
    let mut guest = Guest::connect(&device.socket, 2);
    let flooding = AtomicBool::new(true);
    let flood = |sent: &[u8]| {
        while flooding.load(Ordering::SeqCst) {
            let Ok(mut client) = std::os::unix::net::UnixStream::connect(device.control()) else { continue };
            client.set_write_timeout(Some(std::time::Duration::from_millis(20))).expect("a limit");
            // Until the device has had enough of it, or does not read because its answers are not read.
            while flooding.load(Ordering::SeqCst) {
                if client.write_all(sent).is_err() {
                    break;
                }
            }
        }
    };
    let _stuck: Vec<_> = (0..4)
        .map(|_| {
            let mut client = std::os::unix::net::UnixStream::connect(device.control()).expect("connects");
            client.write_all(b"{\"id\":1,\"verb\":").expect("half a line");
            client
        })
        .collect();
    let endless = vec![b'['; 100_000];
    let sent: [&[u8]; 4] =
        [b"nonsense\n", b"{\"verb\":\"status\"}\n{\"verb\":\"counters\"}\n", b"\xff\xfe\0\n", &endless];
    std::thread::scope(|scope| {
        (0..12).for_each(|i| drop(scope.spawn(move || flood(sent[i % 4]))));
        for i in 0..1000u32 {
            let data = pattern(1, i as u8);
            let expected = if i == 6 { IOERR } else { OK };
            assert_eq!(guest.write(u64::from(i % 64), &data).0, expected, "write {i}");
            let held = if i == 6 { pattern(64, 1)[6 * 512..7 * 512].to_vec() } else { data };
            assert_eq!(guest.read(u64::from(i % 64), 1).2, held, "read {i}");
            guest.forget_data();
        }
        flooding.store(false, Ordering::SeqCst);
    });
    let (ending, record) = device.end();
    assert_eq!(ending, Ending::Clean);
    let trailer = record.last().expect("a trailer");
    assert_eq!(
        (&trailer["requests"], &trailer["unanswered"], &trailer["dropped"]),
        (&json!(2000), &json!(0), &json!(0))
    );
}

#[test]
fn a_script_that_lies_beyond_the_disk_or_is_not_carried_out_starts_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("disk"), pattern(64, 1)).expect("an image");
    let script = rule(r#""op":"write","sectors":[[4096,4104]]"#, "", r#""error":{"status":"ioerr"}"#);
    let mut args = arguments(folder.path(), &script);
    let error = vhost_blk::serve::Server::prepare(&args).err().expect("refused");
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("E201"), "{error}");
    assert!(!folder.path().join("s").exists() && !folder.path().join("t").exists(), "nothing was started");
    args.faults.clear();
    args.replay = Some(folder.path().join("d"));
    assert_eq!(vhost_blk::serve::Server::prepare(&args).err().expect("refused").exit_code(), 2);
}
