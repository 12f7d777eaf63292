//! Every effect of the fault language from the driver's side of the ring: status, used length, memory, media, lies.

mod common;

use common::*;
use serde_json::{Value, json};
use vhost_blk::control::Ask;
use vhost_blk::serve::Ending;

fn sectors(bytes: &[u8], from: usize, count: usize) -> &[u8] {
    &bytes[from * 512..(from + count) * 512]
}

fn rule(rest: &str) -> String {
    format!(r#"{{"faultscript":1,"seed":4,"rules":[{{"id":"r",{rest}}}]}}"#)
}

fn with_events(events: &str) -> String {
    format!(r#"{{"faultscript":1,"states":{{"s":["a","b"]}},"events":[{events}]}}"#)
}

fn overlay(device: &Device) -> Value {
    device.ask(&Ask::Status)["overlay"].clone()
}

/// The stretches that a torn write kept, by the decisions.
fn kept(decisions: &[Value]) -> Vec<(usize, usize)> {
    let torn = decisions.iter().find_map(|line| line["outcome"]["torn"]["kept"].as_array()).expect("a torn write");
    let number = |value: &Value| value.as_u64().expect("a number") as usize;
    torn.iter().map(|stretch| (number(&stretch[0]), number(&stretch[1]))).collect()
}

#[test]
fn a_torn_write_is_whole_in_the_image_and_torn_to_the_guest() {
    for unit in ["sector", "byte", "block"] {
        for keep in [r#""prefix""#, r#""suffix""#, r#""random""#] {
            let action = format!(r#""match":{{"op":"write"}},"action":{{"torn":{{"unit":"{unit}","keep":{keep}}}}}"#);
            let device = Device::start(64, &rule(&action));
            let mut guest = Guest::connect(&device.socket, 1);
            let (new, old) = (pattern(20, 77), pattern(64, 1));
            assert_eq!(guest.write(8, &new), (OK, 1));
            let seen = guest.read(8, 20).2;
            assert_eq!(sectors(&device.image_bytes(), 8, 20), new, "the image holds what is claimed");
            let lies = overlay(&device);
            assert!(lies.as_array().expect("a list").iter().all(|lie| lie["kind"] == "lost"), "{lies}");
            let (_, _, decisions) = device.end_with_decisions();
            let mut expected = sectors(&old, 8, 20).to_vec();
            let kept = kept(&decisions);
            kept.iter().for_each(|(start, end)| expected[*start..*end].copy_from_slice(&new[*start..*end]));
            assert_eq!(seen, expected, "{unit} {keep}: {kept:?}");
            assert_ne!(seen, new);
        }
    }
}

#[test]
fn a_torn_write_that_fails_leaves_exactly_its_stretches_on_the_image() {
    let script = r#"{"faultscript":1,"rules":[
        {"id":"t","match":{"op":"write"},"action":{"torn":{"keep":[0,2]}}},
        {"id":"e","match":{"op":"write"},"action":{"error":{"status":"ioerr"}}}]}"#;
    let device = Device::start(64, script);
    let mut guest = Guest::connect(&device.socket, 1);
    assert_eq!(guest.write(8, &pattern(4, 9)), (IOERR, 1));
    let mut expected = pattern(64, 1);
    for sector in [0, 2] {
        expected[(8 + sector) * 512..(9 + sector) * 512].copy_from_slice(sectors(&pattern(4, 9), sector, 1));
    }
    assert_eq!(device.image_bytes(), expected);
    assert_eq!(guest.read(8, 4).2, sectors(&expected, 8, 4));
    assert_eq!(overlay(&device), json!([]), "no claim, no lie");
}

#[test]
fn a_misdirected_write_is_where_it_should_be_in_the_image_and_elsewhere_to_the_guest() {
    let device = Device::start(
        64,
        &rule(r#""match":{"op":"write"},"trigger":{"nth":1},"action":{"misdirect":{"delta_sectors":16}}"#),
    );
    let mut guest = Guest::connect(&device.socket, 1);
    let past = pattern(64, 1);
    assert_eq!(guest.write(8, &pattern(4, 9)), (OK, 1));
    let mut claimed = past.clone();
    claimed[8 * 512..12 * 512].copy_from_slice(&pattern(4, 9));
    assert_eq!(device.image_bytes(), claimed);
    assert_eq!(guest.read(8, 4).2, sectors(&past, 8, 4), "the right place keeps the past");
    assert_eq!(guest.read(22, 8).2, [sectors(&past, 22, 2), &pattern(4, 9), sectors(&past, 28, 2)].concat());
    let lies =
        json!([{"sector":8,"sectors":4,"seq":0,"kind":"lost"}, {"sector":24,"sectors":4,"seq":0,"kind":"astray"}]);
    assert_eq!(overlay(&device), lies);
    let list = vhost_blk::overlay::list_file(&device.folder.path().join("o")).expect("the list");
    assert_eq!(serde_json::to_value(list).expect("json"), lies);

    guest.write(25, &pattern(1, 3));
    assert_eq!(guest.read(24, 2).2, [sectors(&pattern(4, 9), 0, 1), &pattern(1, 3)].concat());
    guest.range(WRITE_ZEROES, 0, 64, 0);
    assert_eq!(overlay(&device), json!([]));
}

#[test]
fn a_misdirected_write_may_reach_both_places_and_may_overlap_itself() {
    let action = r#""match":{"op":"write"},"action":{"misdirect":{"delta_sectors":2,"original":"written"}}"#;
    let device = Device::start(64, &rule(action));
    let mut guest = Guest::connect(&device.socket, 1);
    assert_eq!(guest.write(8, &pattern(4, 9)), (OK, 1));
    let (new, past) = (pattern(4, 9), pattern(64, 1));
    assert_eq!(sectors(&device.image_bytes(), 8, 8), [&new[..], sectors(&past, 12, 4)].concat());
    assert_eq!(guest.read(8, 8).2, [sectors(&new, 0, 2), &new, sectors(&past, 14, 2)].concat());
    assert_eq!(guest.write(62, &pattern(2, 5)), (OK, 1), "nowhere to go");
    assert_eq!(guest.read(62, 2).2, pattern(2, 5));
}

#[test]
fn a_misdirected_write_that_fails_has_harmed_its_victim_and_nothing_else() {
    let script = r#"{"faultscript":1,"rules":[
        {"id":"m","match":{"op":"write"},"trigger":{"nth":1},"action":{"misdirect":{"to_sector":40}}},
        {"id":"e","match":{"op":"write"},"trigger":{"nth":1},"action":{"error":{"status":"ioerr"}}}]}"#;
    let device = Device::start(64, script);
    let mut guest = Guest::connect(&device.socket, 1);
    assert_eq!(guest.write(8, &pattern(2, 9)), (IOERR, 1));
    assert_eq!(device.image_bytes(), pattern(64, 1));
    assert_eq!(guest.read(8, 2).2, sectors(&pattern(64, 1), 8, 2));
    assert_eq!(guest.read(40, 2).2, pattern(2, 9));
}

#[test]
fn a_misdirected_read_gets_the_data_of_another_place() {
    let device = Device::start(
        64,
        &rule(r#""match":{"op":"read"},"trigger":{"nth":1},"action":{"misdirect":{"to_sector":32}}"#),
    );
    let mut guest = Guest::connect(&device.socket, 1);
    let past = pattern(64, 1);
    assert_eq!(guest.read(8, 4), (OK, 2049, sectors(&past, 32, 4).to_vec()));
    assert_eq!(guest.read(8, 4).2, sectors(&past, 8, 4));
}

#[test]
fn a_parked_misdirected_write_reaches_its_victim_before_a_later_write_there() {
    let script = r#"{"faultscript":1,"rules":[
        {"id":"h","match":{"op":"write"},"trigger":{"nth":1},"action":{"hold":{}}},
        {"id":"m","match":{"op":"write"},"trigger":{"nth":1},"action":{"misdirect":{"to_sector":40}}}]}"#;
    let device = Device::start(64, script);
    let mut guest = Guest::connect(&device.socket, 1);
    let held = guest.send(0, OUT, 8, &pattern(4, 9), 0);
    let later = guest.send(0, OUT, 42, &pattern(1, 3), 0);
    assert_eq!(guest.used(0).0, later.head);
    device.ask(&Ask::Release { rule: "h".into() });
    assert_eq!(guest.used(0).0, held.head);
    let new = pattern(4, 9);
    assert_eq!(guest.read(40, 4).2, [sectors(&new, 0, 2), &pattern(1, 3), sectors(&new, 3, 1)].concat());
}

fn flipped(one: &[u8], other: &[u8]) -> Vec<u32> {
    let bits = |(a, b): (&[u8], &[u8])| a.iter().zip(b).map(|(a, b)| (a ^ b).count_ones()).sum();
    one.chunks(512).zip(other.chunks(512)).map(bits).collect()
}

#[test]
fn a_read_that_is_wrong_on_the_wire_is_wrong_in_the_same_way_however_it_is_cut() {
    let action = r#""match":{"op":"read","sectors":[[10,12]]},"trigger":{"until":{"matches":4}},"action":{"corrupt":{"bits":3}}"#;
    let device = Device::start(64, &rule(action));
    let mut guest = Guest::connect(&device.socket, 1);
    let past = pattern(64, 1);
    let (status, used_len, wrong) = guest.read(8, 8);
    assert_eq!((status, used_len), (OK, 4097));
    assert_eq!(flipped(&wrong, sectors(&past, 8, 8)), [0, 0, 3, 3, 0, 0, 0, 0]);
    assert_eq!(guest.read(8, 8).2, wrong, "the same wrong bytes again");
    assert_eq!(guest.read(11, 1).2, sectors(&wrong, 3, 1), "and by another request");
    let new = pattern(2, 7);
    guest.write(10, &new);
    let other = guest.read(10, 2).2;
    assert_eq!(flipped(&other, &new), [3, 3]);
    let flips = |wrong: &[u8], right: &[u8]| wrong.iter().zip(right).map(|(a, b)| a ^ b).collect::<Vec<u8>>();
    assert_ne!(
        flips(&other, &new),
        flips(sectors(&wrong, 2, 2), sectors(&past, 10, 2)),
        "another version, other bytes"
    );
    assert_eq!(guest.read(10, 2).2, new, "the medium is whole");
    assert_eq!(overlay(&device), json!([]));
}

#[test]
fn media_that_went_wrong_stays_wrong_until_it_is_written_and_the_image_does_not() {
    let action = r#""match":{"op":"read","sectors":[[10,11]]},"trigger":{"limit":2},"action":{"corrupt":{"offset":500,"bytes":4,"value":0,"where":"media"}}"#;
    let device = Device::start(64, &rule(action));
    let mut guest = Guest::connect(&device.socket, 1);
    let mut wrong = sectors(&pattern(64, 1), 8, 4).to_vec();
    wrong[2 * 512 + 500..2 * 512 + 504].fill(0);
    for _ in 0..4 {
        assert_eq!(guest.read(8, 4).2, wrong, "also when the rule fires twice, and when it fires no more");
    }
    assert_eq!(device.image_bytes(), pattern(64, 1));
    assert_eq!(overlay(&device), json!([{"sector":10,"sectors":1,"seq":0,"kind":"corrupt"}]));
    guest.write(10, &pattern(1, 5));
    assert_eq!(guest.read(10, 1).2, pattern(1, 5));
    assert_eq!(overlay(&device), json!([]));
}

#[test]
fn data_of_a_write_goes_wrong_on_its_way_and_the_image_holds_the_claim() {
    for place in ["wire", "media"] {
        let action = format!(
            r#""match":{{"op":"write","sectors":[[9,10]]}},"trigger":{{"nth":1}},"action":{{"corrupt":{{"bits":1,"where":"{place}"}}}}"#
        );
        let device = Device::start(64, &rule(&action));
        let mut guest = Guest::connect(&device.socket, 1);
        assert_eq!(guest.write(8, &pattern(4, 9)), (OK, 1));
        assert_eq!(sectors(&device.image_bytes(), 8, 4), pattern(4, 9));
        let seen = guest.read(8, 4).2;
        assert_eq!(flipped(&seen, &pattern(4, 9)), [0, 1, 0, 0]);
        assert_eq!(guest.read(8, 4).2, seen);
        assert_eq!(overlay(&device), json!([{"sector":9,"sectors":1,"seq":0,"kind":"corrupt"}]));
    }
}

#[test]
fn a_stale_read_goes_back_as_many_writes_as_it_says() {
    let script = r#"{"faultscript":1,"rules":[
        {"id":"two","match":{"op":"read","sectors":[[8,10]]},"trigger":{"nth":1},"action":{"stale":{"versions":2}}},
        {"id":"one","match":{"op":"read","sectors":[[8,10]]},"trigger":{"nth":2},"action":{"stale":{}}}]}"#;
    let device = Device::start(64, script);
    let mut guest = Guest::connect(&device.socket, 1);
    let past = pattern(64, 1);
    for version in 2..5 {
        guest.write(8, &pattern(1, version));
    }
    guest.range(DISCARD, 9, 1, 0);
    let now = [pattern(1, 4), vec![0; 512], sectors(&past, 10, 1).to_vec()].concat();
    let stale = [&pattern(1, 2)[..], sectors(&past, 9, 1), sectors(&past, 10, 1)].concat();
    assert_eq!(guest.read(8, 3), (OK, 1537, stale), "two writes ago, or as far back as there was one");
    assert_eq!(guest.read(8, 3).2, [&pattern(1, 3)[..], sectors(&past, 9, 2)].concat());
    assert_eq!(guest.read(8, 3).2, now);
    assert_eq!(overlay(&device), json!([]));
}

#[test]
fn the_children_of_a_split_go_wrong_each_by_itself() {
    let script = r#"{"faultscript":1,"rules":[
        {"id":"s","match":{"op":"write"},"action":{"split":{"max_sectors":2}}},
        {"id":"t","match":{"child_of":"s","sectors":[[10,12]]},"action":{"misdirect":{"to_sector":40}}},
        {"id":"c","match":{"child_of":"s","op":"write","sectors":[[12,13]]},"action":{"corrupt":{"offset":0,"value":7}}}]}"#;
    let device = Device::start(64, script);
    let mut guest = Guest::connect(&device.socket, 1);
    let (new, past) = (pattern(6, 9), pattern(64, 1));
    assert_eq!(guest.write(8, &new), (OK, 1));
    assert_eq!(sectors(&device.image_bytes(), 8, 6), new);
    let mut seen = [sectors(&new, 0, 2), sectors(&past, 10, 2), sectors(&new, 4, 2)].concat();
    seen[4 * 512] = 7;
    assert_eq!(guest.read(8, 6).2, seen);
    assert_eq!(guest.read(40, 2).2, sectors(&new, 2, 2));
}

#[test]
fn a_latent_sector_fails_until_it_is_written_whatever_queue_comes() {
    let script = rule(
        r#""match":{"op":"read","sectors":[[8,10]]},"action":{"error":{"status":"ioerr"}},"scope":{"sticky":{"heal":"rewrite"}}"#,
    );
    let device = Device::start(64, &script);
    let mut guest = Guest::connect(&device.socket, 1);
    assert_eq!(guest.read(0, 16), (IOERR, 1, vec![0xee; 8192]));
    assert_eq!(guest.read(0, 8).0, OK);
    assert_eq!(device.ask(&Ask::Status)["bad_sectors"], json!([{"rule":"r","sectors":[[8,10]],"everywhere":false}]));
    assert_eq!(guest.write(8, &pattern(1, 3)), (OK, 1));
    assert_eq!((guest.read(8, 1).0, guest.read(9, 1).0), (OK, IOERR));
    device.ask(&Ask::Heal { rule: Some("r".into()) });
    assert_eq!(guest.read(0, 16).0, OK);
    assert_eq!(device.ask(&Ask::Status)["bad_sectors"], json!([]));
}

#[test]
fn what_is_healed_by_a_reset_is_whole_for_the_next_driver() {
    let script = rule(
        r#""match":{"op":"write"},"trigger":{"nth":1},"action":{"error":{"status":"ioerr"}},"scope":{"sticky":{"heal":"reset"}}"#,
    );
    let device = Device::start(64, &script);
    let mut guest = Guest::connect(&device.socket, 1);
    assert_eq!((guest.write(8, &pattern(1, 3)).0, guest.write(8, &pattern(1, 3)).0), (IOERR, IOERR));
    assert_eq!(guest.write(9, &pattern(1, 3)).0, OK);
    drop(guest);
    let mut guest = Guest::connect(&device.socket, 1);
    assert_eq!(guest.write(8, &pattern(1, 3)).0, OK);
}

#[test]
fn a_state_is_set_after_the_request_and_the_next_one_meets_it() {
    let script = r#"{"faultscript":1,"states":{"phase":["idle","armed","healed"]},"rules":[
        {"id":"arm","match":{"op":"write","sectors":[[0,1]]},"trigger":{"when":{"phase":"idle"}},"action":{"set":{"phase":"armed"}}},
        {"id":"hit","match":{"op":"write"},"trigger":{"when":{"phase":"armed"}},"action":{"error":{"status":"ioerr"}}},
        {"id":"heal","match":{"op":"write"},"trigger":{"when":{"phase":"armed"}},"action":{"set":{"phase":"healed"}}}],
        "expect":{"fired":{"arm":[1,1],"hit":[1,1],"heal":[1,1]}}}"#;
    let device = Device::start(64, script);
    let mut guest = Guest::connect(&device.socket, 1);
    let statuses: Vec<u8> = (0..4).map(|i| guest.write(if i == 1 { 0 } else { 8 }, &pattern(1, 3)).0).collect();
    assert_eq!(statuses, [OK, OK, IOERR, OK]);
    assert_eq!(device.ask(&Ask::Status)["states"], json!({"phase": "healed"}));
    assert_eq!(device.end().0, Ending::Clean);
}

#[test]
fn events_fail_classes_and_heal_them_at_their_points() {
    let events = r#"{"id":"ro","at":{"writes":2},"do":{"fail_class":"writes"}},{"id":"rw","at":{"mark":"M"},"do":{"heal":{}}},
        {"id":"b","at":{"mark":"M"},"do":{"set":{"s":"b"}}}"#;
    let device = Device::start(64, &with_events(events));
    let mut guest = Guest::connect(&device.socket, 1);
    let image = |n: u8| pattern(1, n);
    assert_eq!(
        [guest.write(0, &image(2)).0, guest.write(1, &image(3)).0, guest.write(2, &image(4)).0],
        [OK, OK, IOERR]
    );
    assert_eq!(
        [guest.request(FLUSH, 0, &[], 0).0, guest.range(DISCARD, 0, 1, 0).0, guest.read(0, 1).0],
        [IOERR, IOERR, OK]
    );
    assert_eq!(device.ask(&Ask::Status)["fail_class"], "writes");
    device.ask(&Ask::Mark { name: "M".into() });
    assert_eq!(guest.write(2, &image(4)).0, OK);
    assert_eq!(device.ask(&Ask::Status)["states"], json!({"s": "b"}));
    let (_, _, decisions) = device.end_with_decisions();
    let ids: Vec<&str> = decisions[1..].iter().map(|line| line["rule"].as_str().expect("an id")).collect();
    assert_eq!(ids, ["ro", "ro", "ro", "ro", "rw", "b"]);
    assert_eq!(decisions[1]["event"], json!({"fail_class": "writes"}));
    assert_eq!(decisions[2]["outcome"], json!({"error": {"status": 1, "moved_bytes": 0}}));
}

#[test]
fn an_event_switches_the_write_cache_and_what_was_answered_before_is_durable() {
    let device =
        Device::start(64, &with_events(r#"{"id":"wt","at":{"writes":1},"do":{"write_cache":"writethrough"}}"#));
    let mut guest = Guest::connect(&device.socket, 1);
    let flushes = || device.ask(&Ask::Counters)["host_flushes"].as_u64().expect("a number");
    guest.write(0, &pattern(1, 2));
    let before = flushes();
    assert!(before >= 1, "made durable by the switch");
    guest.write(1, &pattern(1, 2));
    assert_eq!(flushes(), before + 1, "durable when answered");
    assert_eq!(guest.config(60)[32], 0);
}

#[test]
fn a_disconnect_settles_what_was_taken_closes_and_lets_the_next_in_later() {
    let script = r#"{"faultscript":1,"rules":[
        {"id":"h","match":{"op":"write","sectors":[[0,1]]},"action":{"hold":{"until":"release"}}}],
        "events":[{"id":"gone","at":{"writes":2},"do":{"disconnect":{"reconnect_ms":1000}}}]}"#;
    let device = Device::start(64, script);
    let mut guest = Guest::connect(&device.socket, 1);
    let held = guest.send(0, OUT, 0, &pattern(1, 2), 0);
    while device.ask(&Ask::Status)["parked"].as_array().is_none_or(Vec::is_empty) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let since = std::time::Instant::now();
    let last = guest.send(0, OUT, 8, &pattern(1, 3), 0);
    let answered = [guest.used(0).0, guest.used(0).0];
    assert!(answered.contains(&held.head) && answered.contains(&last.head), "both were settled");
    assert_eq!((guest.status(&held), guest.status(&last)), (OK, OK));
    while device.ask(&Ask::Status)["connected"] == true {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let waiting = guest.queue_request(0, OUT, 16, &pattern(1, 4), 0);
    assert_eq!(guest.poll_used(0), None, "a request made meanwhile waits in the ring");
    assert_eq!(guest.status(&waiting), UNTOUCHED);
    for is_there in [false, true] {
        while device.socket.exists() != is_there {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
    assert!(since.elapsed().as_millis() >= 1000);
    guest.reconnect(&device.socket);
    guest.kick(0);
    assert_eq!(guest.used(0).0, waiting.head, "and is carried out when the front-end is back");
    assert_eq!(guest.status(&waiting), OK);
    assert_eq!([guest.read(8, 1).2, guest.read(16, 1).2], [pattern(1, 3), pattern(1, 4)]);
    drop(guest);
    let (ending, record) = device.end();
    assert_eq!(ending, Ending::Clean);
    assert_eq!(record.last().expect("a trailer")["unanswered"], 0);
}

#[test]
fn an_event_by_the_clock_needs_no_request() {
    let device = Device::start(64, &with_events(r#"{"id":"b","at":{"ms":30},"do":{"set":{"s":"b"}}}"#));
    while device.ask(&Ask::Status)["states"]["s"] != "b" {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let (_, _, decisions) = device.end_with_decisions();
    assert_eq!(decisions[0]["deterministic"], false);
    assert_eq!(decisions[1]["rule"], "b");
}

#[test]
fn a_running_script_is_changed_by_the_control_socket() {
    let device = Device::start(64, &rule(r#""match":{"op":"write"},"action":{"error":{"status":"ioerr"}}"#));
    let mut guest = Guest::connect(&device.socket, 1);
    let rule_id = || "r".to_string();
    assert_eq!(guest.write(0, &pattern(1, 2)).0, IOERR);
    device.ask(&Ask::RulesDisable { rule: rule_id() });
    assert_eq!(guest.write(0, &pattern(1, 2)).0, OK);
    device.ask(&Ask::RulesEnable { rule: rule_id() });
    assert_eq!(guest.write(0, &pattern(1, 2)).0, IOERR);
    device.ask(&Ask::RulesRemove { rule: rule_id() });
    let added = json!({"id": "r", "match": {"op": "read", "sectors": [[4, 5]]}, "action": {"stale": {}}});
    assert_eq!(guest.write(4, &pattern(1, 2)).0, OK);
    device.ask(&Ask::RulesAdd { rule: added.clone() });
    assert_eq!(guest.read(4, 1).2, pattern(1, 2), "the past begins when somebody asks for it");
    guest.write(4, &pattern(1, 3));
    assert_eq!(guest.read(4, 1).2, pattern(1, 2));
    let list = device.ask(&Ask::RulesList);
    assert_eq!(
        (&list[0]["id"], &list[0]["action"], &list[0]["fired"], list[1].is_null()),
        (&json!("r"), &json!("stale"), &json!(2), true)
    );
    for (bad, says) in [
        (Ask::RulesAdd { rule: added }, "E109"),
        (Ask::RulesAdd { rule: json!({"id": "x", "match": {"sectors": [[64, 65]]}, "action": {"lose": {}}}) }, "E201"),
        (Ask::RulesAdd { rule: json!({"id": "x", "action": {"power_cut": {}}}) }, "lose its power"),
        (Ask::RulesRemove { rule: "nobody".into() }, "nobody"),
        (Ask::Heal { rule: Some("nobody".into()) }, "nobody"),
    ] {
        let refused = vhost_blk::control::ask(&device.control(), &bad).expect("an answer").expect_err("refused");
        assert!(refused.contains(says), "{refused}");
    }
    let (_, _, decisions) = device.end_with_decisions();
    let by_hand: Vec<&str> =
        decisions.iter().filter_map(|l| l["rule"].as_str()).filter(|id| id.starts_with('@')).collect();
    assert_eq!(by_hand, ["@rules.disable", "@rules.enable", "@rules.remove", "@rules.add"]);
}

#[test]
fn fail_class_answers_when_earlier_requests_have_left() {
    let device = Device::start(64, &rule(r#""match":{"op":"write","sectors":[[0,1]]},"action":{"delay":{"ms":300}}"#));
    let mut guest = Guest::connect(&device.socket, 1);
    let slow = guest.send(0, OUT, 0, &pattern(1, 2), 0);
    while device.ask(&Ask::Status)["parked"].as_array().is_none_or(Vec::is_empty) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    device.ask(&Ask::FailClass { class: fault_injection::FailClass::All });
    assert_eq!(guest.poll_used(0).expect("it left before the answer").0, slow.head);
    assert_eq!(guest.status(&slow), OK, "it was taken before");
    assert_eq!([guest.write(8, &pattern(1, 2)).0, guest.read(8, 1).0], [IOERR, IOERR]);
    assert_eq!(guest.request(GET_ID, 0, &[], 20).0, OK);
    device.ask(&Ask::FailClass { class: fault_injection::FailClass::None });
    assert_eq!(guest.write(8, &pattern(1, 2)).0, OK);
}

#[test]
fn a_subscriber_hears_decisions_as_they_happen_and_one_that_does_not_read_blocks_nobody() {
    use std::io::{BufRead, BufReader, Write};
    let device = Device::start(64, &rule(r#""match":{"op":"write"},"action":{"lose":{}}"#));
    let mut guest = Guest::connect(&device.socket, 1);
    let subscribe = || {
        let mut stream = std::os::unix::net::UnixStream::connect(device.control()).expect("connects");
        stream.write_all(b"{\"id\":1,\"verb\":\"subscribe\"}\n").expect("asked");
        let mut lines = BufReader::new(stream.try_clone().expect("a handle")).lines();
        assert!(lines.next().expect("a line").expect("text").contains("true"));
        (stream, lines)
    };
    let (_stream, mut lines) = subscribe();
    let _deaf = subscribe();
    guest.write(8, &pattern(1, 2));
    let heard: Value = serde_json::from_str(&lines.next().expect("a line").expect("text")).expect("JSON");
    assert_eq!((&heard["decision"]["rule"], &heard["decision"]["sector"]), (&json!("r"), &json!(8)));
    for _ in 0..3000 {
        assert_eq!(guest.write(8, &pattern(1, 2)).0, OK);
    }
}

/// Addresses that fail among 10,000 writes at p = 0.01, over so many queues, in this order.
fn failing(order: &[u64], queues: usize, unrelated: &str) -> (std::collections::BTreeSet<u64>, Vec<Value>) {
    let script = format!(
        r#"{{"faultscript":1,"seed":11,"rules":[{unrelated}{{"id":"flaky","match":{{"op":"write"}},"trigger":{{"probability":0.01}},"action":{{"error":{{"status":"ioerr"}}}}}}]}}"#
    );
    let device = Device::start(10_000, &script);
    let mut guest = Guest::connect(&device.socket, queues);
    let data = pattern(1, 9);
    let mut failed = std::collections::BTreeSet::new();
    for batch in order.chunks(80) {
        let sent: Vec<(u64, Sent)> = batch
            .iter()
            .map(|sector| (*sector, guest.queue_request(*sector as usize % queues, OUT, *sector, &data, 0)))
            .collect();
        (0..queues).for_each(|queue| guest.kick(queue));
        for (_, sent) in &sent {
            guest.used(sent.queue);
        }
        failed.extend(sent.iter().filter(|(_, sent)| guest.status(sent) == IOERR).map(|(sector, _)| *sector));
        guest.forget_data();
    }
    let (_, _, decisions) = device.end_with_decisions();
    (failed, decisions)
}

#[test]
fn of_ten_thousand_writes_the_same_ones_fail_whatever_the_order_the_queues_and_other_rules() {
    let forward: Vec<u64> = (0..10_000).collect();
    let shuffled: Vec<u64> = (0..10_000).map(|i| i * 7919 % 10_000).collect();
    let (first, decisions) = failing(&forward, 1, "");
    assert!((50..200).contains(&first.len()), "about one in a hundred: {}", first.len());
    assert_eq!(decisions[0]["deterministic"], true);
    assert_eq!(failing(&forward, 1, "").0, first, "again");
    assert_eq!(failing(&shuffled, 1, "").0, first, "in another order");
    assert_eq!(failing(&forward, 2, "").0, first, "over two queues");
    assert_eq!(failing(&shuffled, 2, "").0, first, "over two queues in another order");
    let unrelated =
        r#"{"id":"other","match":{"sectors":[[0,5000]]},"trigger":{"probability":0.3},"action":{"delay":{"us":0}}},"#;
    assert_eq!(failing(&forward, 1, unrelated).0, first, "with another rule before it");
}

#[test]
fn a_recorded_run_is_forced_by_key_and_what_never_came_is_named() {
    let script = rule(
        r#""match":{"op":"write"},"trigger":{"nth":[2,5],"key":"ordinal"},"action":{"error":{"status":"ioerr","transfer":"random"}}"#,
    );
    let device = Device::start(64, &script);
    let mut guest = Guest::connect(&device.socket, 1);
    let places = [0, 8, 16, 24, 32];
    let statuses: Vec<u8> = places.iter().map(|sector| guest.write(*sector, &pattern(4, 9)).0).collect();
    assert_eq!(statuses, [OK, IOERR, OK, OK, IOERR]);
    let image = device.image_bytes();
    let folder = tempfile::tempdir().expect("a folder");
    let recorded = folder.path().join("decisions.jsonl");
    let replay = |order: &[u64]| {
        let device = Device::start_with(64, &script, |args| args.replay = Some(recorded.clone()));
        let mut guest = Guest::connect(&device.socket, 1);
        let failed: Vec<u64> = order.iter().copied().filter(|s| guest.write(*s, &pattern(4, 9)).0 == IOERR).collect();
        drop(guest);
        let image = device.image_bytes();
        let (ending, record) = device.end();
        (failed, image, ending, record.last().expect("a trailer")["replay"].clone())
    };
    let from = device.folder.path().join("d");
    drop(guest);
    let kept = device.folder.path().to_path_buf();
    let (_, _, decisions) = device.end_with_decisions();
    let lines: Vec<String> = decisions.iter().map(Value::to_string).collect();
    assert!(!from.exists() || kept.exists());
    std::fs::write(&recorded, lines.join("\n")).expect("written");

    let (failed, again, ending, replayed) = replay(&[32, 24, 16, 8, 0]);
    assert_eq!((failed, ending), (vec![32, 8], Ending::Clean), "by address, in whatever order");
    assert_eq!(again, image, "and as many bytes of each had moved");
    assert_eq!(replayed, json!({"forced": 2, "missing": [], "differs": []}));

    let (failed, _, ending, replayed) = replay(&[0, 8]);
    assert_eq!(failed, [8]);
    assert_eq!(replayed["forced"], 1);
    let Ending::Unmet(lines) = ending else { panic!("{ending:?}") };
    assert_eq!(lines.len(), 1);
    assert!(lines[0].contains("32+4") && lines[0].contains("never came"), "{lines:?}");
}

#[test]
fn decisions_of_another_script_are_not_replayed() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("disk"), pattern(64, 1)).expect("an image");
    let mut args = arguments(folder.path(), &rule(r#""action":{"lose":{}}"#));
    let header = r#"{"decisions":1,"seed":4,"queues":1,"deterministic":true,"why":[],"rules":["other"]}"#;
    for (text, says) in [(header, "other"), ("", "header"), ("{}", "line 1"), ("{\"decisions\":1}\nx", "line 1")] {
        std::fs::write(folder.path().join("decisions"), text).expect("written");
        args.replay = Some(folder.path().join("decisions"));
        let error = vhost_blk::serve::Server::prepare(&args).err().expect("refused");
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(says), "{error}");
    }
}
