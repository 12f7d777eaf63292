use super::*;
use ext4_replica::Mutation;
use serde_json::Value;
use std::path::Path;

/// Every sample, by name.
pub(super) fn all() -> Vec<(&'static str, ReportInput)> {
    vec![
        ("clean", samples::clean()),
        ("error", samples::error_on_one_bio()),
        ("different", samples::different()),
        ("unjudged", samples::unjudged()),
        ("many", samples::many(10_000)),
        ("hostile", samples::hostile()),
        ("tiny", samples::tiny()),
        ("recorded", samples::recorded(None)),
        ("recorded-canary", samples::recorded(Some(Mutation::SkipDeferredPut))),
        ("empty", ReportInput::default()),
    ]
}

fn data_of(page: &str) -> Value {
    let (_, rest) = page.split_once("id=\"data\">").expect("the page has data");
    let (json, _) = rest.split_once("</script>").expect("the data ends");
    serde_json::from_str(json).expect("the data is JSON")
}

fn items(data: &Value) -> &[Value] {
    data["items"].as_array().expect("items")
}

/// One line per item and story row: enough to see order, place, links and marks.
fn in_short(data: &Value) -> String {
    let mut text = String::new();
    for item in items(data) {
        let track = &data["tracks"][item["track"].as_u64().expect("a track") as usize];
        let links = ["io_end", "bio", "request", "device"].map(|key| item.get(key).map(|id| format!(" {key} {id}")));
        text += &format!(
            "x {} t {} {}/{}: {}{} {}\n",
            item["x"],
            item["t"],
            track["lane"].as_str().unwrap_or_default(),
            track["name"].as_str().unwrap_or_default(),
            item["text"].as_str().unwrap_or_default(),
            links.into_iter().flatten().collect::<String>(),
            item.get("marks").unwrap_or(&Value::Null),
        );
    }
    for bar in data["bars"].as_array().expect("bars") {
        text += &format!("bar {}\n", serde_json::to_string(bar).expect("JSON"));
    }
    for story in data["stories"].as_array().expect("stories") {
        text += &format!("story {}\n", serde_json::to_string(story).expect("JSON"));
    }
    text
}

/// Guards everything between the input and the page at once: a change shows here line by line.
#[test]
fn the_data_of_a_small_run_is_as_it_was_read_and_found_right() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/report/snapshots/tiny.txt");
    let now = in_short(&data_of(&render(&samples::tiny())));
    if std::env::var_os("REWRITE_SNAPSHOTS").is_some() {
        std::fs::write(&path, &now).expect("the snapshot can be written");
    }
    let then = std::fs::read_to_string(&path).expect("the snapshot is in the tree");
    assert_eq!(now, then, "set REWRITE_SNAPSHOTS=1 to rewrite it, then read the difference before committing");
}

#[test]
fn the_same_run_gives_the_same_page_byte_for_byte() {
    for (name, input) in all() {
        let stored = serde_json::to_string(&input).expect("the input is plain data");
        let again: ReportInput = serde_json::from_str(&stored).expect("and reads back");
        assert!(render(&input) == render(&again), "{name}");
    }
}

#[test]
fn the_page_names_no_resource_outside_itself() {
    let page = render(&samples::different());
    for loader in ["http:", "https:", "src=", "href=\"//", "@import", "url(", "fetch(", "XMLHttpRequest", "import("] {
        assert!(!page.contains(loader), "{loader}");
    }
}

#[test]
fn the_policy_allows_the_script_that_is_in_the_page_and_no_other() {
    let page = render(&samples::hostile());
    let (_, rest) = page.rsplit_once("<script>").expect("a script");
    let (script, _) = rest.split_once("</script>").expect("that ends");
    assert!(page.contains(&format!("script-src {};", html_page::allow_inline(script))));
    assert_eq!(page.matches("<script").count(), 2, "the data and the one script");
}

#[test]
fn no_text_from_outside_becomes_markup() {
    let page = render(&samples::hostile());
    assert!(!page.contains("<img"));
    assert!(page.contains("&lt;img src=x onerror="));
    assert_eq!(page.matches("id=\"data\"").count(), 1, "a placeholder in a text is not filled");
}

#[test]
fn every_event_of_the_run_is_on_the_timeline() {
    let input = samples::error_on_one_bio();
    let data = data_of(&render(&input));
    let single = |item: &Value| item["fields"]["folios"].as_u64().unwrap_or(1);
    let on_it: u64 = items(&data).iter().map(single).sum();
    assert_eq!(on_it, (input.guest.len() + input.device.len() + input.replica.len()) as u64);
}

#[test]
fn the_guest_lane_keeps_the_order_of_the_trace_on_both_axes() {
    for (name, input) in all() {
        let data = data_of(&render(&input));
        let guest: Vec<&Value> = items(&data).iter().filter(|item| item["track"].as_u64() < Some(4)).collect();
        for pair in guest.windows(2) {
            assert!(pair[0]["seq"].as_u64() <= pair[1]["seq"].as_u64(), "{name}: {pair:?}");
            assert!(pair[0]["x"].as_f64() <= pair[1]["x"].as_f64(), "{name}: {pair:?}");
            assert!(pair[0]["t"].as_i64() <= pair[1]["t"].as_i64(), "{name}: {pair:?}");
        }
    }
}

#[test]
fn a_request_is_issued_no_later_than_it_arrives_and_answered_no_later_than_the_guest_sees_it() {
    let mut input = samples::many(2000);
    // As with several queues: what was issued first can arrive last.
    for round in input.device.chunks_exact_mut(16) {
        (round[2].arrived_ns, round[5].arrived_ns) = (round[5].arrived_ns, round[2].arrived_ns);
    }
    let data = data_of(&render(&input));
    let at = |kind: &str, request: &Value| {
        let of_it = |item: &&Value| item["kind"] == kind && &item["request"] == request;
        items(&data).iter().find(of_it).and_then(|item| item["t"].as_i64()).expect("in the trace")
    };
    let mut seen = 0;
    for device in items(&data).iter().filter(|item| item["kind"] == "device_request") {
        assert!(at("request_issued", &device["request"]) <= device["t"].as_i64().expect("a time"));
        assert!(at("request_answered", &device["request"]) >= device["t_end"].as_i64().expect("a time"));
        seen += 1;
    }
    assert!(seen > 100, "{seen}");
}

#[test]
fn the_first_difference_marks_one_event_of_the_guest_and_one_of_the_replica() {
    let data = data_of(&render(&samples::different()));
    let marked: Vec<_> = data["difference"].as_array().expect("a list").iter().filter_map(Value::as_u64).collect();
    let texts: Vec<_> = marked.iter().map(|index| items(&data)[*index as usize]["text"].as_str()).collect();
    let put = "a reference on io_end 2 is dropped by ext4_put_io_end_defer, count";
    assert_eq!(texts, [Some(&*format!("{put} 3")), Some(&*format!("{put} 4"))]);
}

#[test]
fn in_a_real_trace_every_request_of_the_io_ends_has_its_bio_and_both_sides_stand_side_by_side() {
    let data = data_of(&render(&samples::recorded(None)));
    let story =
        data["stories"].as_array().expect("stories").iter().max_by_key(|story| story["rows"].as_array().map(Vec::len));
    let rows = story.expect("a story")["rows"].as_array().expect("rows");
    let compared: Vec<_> = rows.iter().filter(|row| row.get("around").is_none()).collect();
    assert!(compared.len() > 15 && compared.iter().all(|row| row["same"] == true), "{compared:?}");
    let requests = rows
        .iter()
        .filter(|row| row["around"].as_u64().is_some_and(|at| items(&data)[at as usize]["kind"] == "device_request"));
    assert!(requests.count() >= 8);
}

#[test]
fn the_canary_in_a_real_trace_marks_where_the_judge_saw_it() {
    let input = samples::recorded(Some(Mutation::SkipDeferredPut));
    let data = data_of(&render(&input));
    let difference = input.first_difference.expect("it is noticed");
    let first = data["difference"][0].as_u64().expect("it is marked") as usize;
    assert_eq!(items(&data)[first]["seq"], difference.seq);
    assert_eq!(items(&data)[first]["io_end"], difference.io_end.map_or(0, |io_end| io_end.0));
}

#[test]
fn a_fault_carries_its_rule_and_what_it_did() {
    let data = data_of(&render(&samples::error_on_one_bio()));
    let faults: Vec<_> = items(&data)
        .iter()
        .filter(|item| item["marks"].as_array().is_some_and(|m| m.contains(&"fault".into())))
        .collect();
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0]["fields"]["fault w3"], "error: write 35160 + 1008 answered ioerr, nothing transferred");
    assert_eq!((&faults[0]["io_end"], &faults[0]["bio"]), (&2.into(), &2.into()));
}

#[test]
fn every_decision_of_a_rule_about_one_request_is_told() {
    let mut input = samples::tiny();
    let again = FaultDecision { text: "child 1 answered 9 ms later".into(), ..input.decisions[0].clone() };
    input.decisions.push(again);
    input.device[0].fired.push("slow".into());
    let data = data_of(&render(&input));
    let device = items(&data).iter().find(|item| item["kind"] == "device_request").expect("it is there");
    assert_eq!(device["fields"]["fault slow"], "delay: answered 5 ms later; delay: child 1 answered 9 ms later");
    assert_eq!(device["label"], "slow write");
}

#[test]
fn a_device_record_without_a_trace_keeps_its_own_clock() {
    let mut input = samples::clean();
    (input.guest, input.replica, input.matched) = Default::default();
    let data = data_of(&render(&input));
    assert_eq!(data["has_time"], true);
    assert_eq!(items(&data)[3]["t"], input.device[3].arrived_ns);
}

#[test]
fn a_run_of_which_nothing_is_known_is_not_judged_and_says_so() {
    let page = render(&ReportInput::default());
    assert!(page.contains("data-verdict=\"unjudged\""));
    assert!(page.contains("Nothing is known to have been compared."));
}
