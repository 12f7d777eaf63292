//! What a viewer relies on, held against every sample: it shows a broken trace without a word.

use super::super::samples;
use super::super::tests::all;
use super::*;
use std::collections::BTreeSet;

fn read(input: &ReportInput) -> Vec<Value> {
    let trace: Value = serde_json::from_str(&trace(input)).expect("it is JSON");
    assert!(trace["otherData"]["axis"].is_string());
    trace["traceEvents"].as_array().expect("events").clone()
}

fn of<'a>(events: &'a [Value], phase: &str) -> impl Iterator<Item = &'a Value> {
    events.iter().filter(move |event| event["ph"] == phase)
}

fn track(event: &Value) -> (u64, u64) {
    (event["pid"].as_u64().expect("a process"), event["tid"].as_u64().expect("a thread"))
}

fn ts(event: &Value) -> f64 {
    event["ts"].as_f64().expect("a time")
}

fn end(event: &Value) -> f64 {
    ts(event) + event["dur"].as_f64().expect("a slice has a length")
}

#[test]
fn every_event_has_the_fields_of_its_phase_and_a_named_track() {
    for (name, input) in all() {
        let events = read(&input);
        let named: BTreeSet<_> = of(&events, "M").filter(|event| event["name"] == "thread_name").map(track).collect();
        for event in &events {
            let phase = event["ph"].as_str().expect("a phase");
            let fits = match phase {
                "M" => event["args"]["name"].is_string() || event["args"]["sort_index"].is_u64(),
                "X" => event["dur"].as_f64().is_some_and(|dur| dur >= 0.0),
                "i" => event["s"] == "t",
                "s" | "t" | "f" => event["id"].is_u64() && event["bp"] == "e",
                _ => false,
            };
            assert!(fits && event["name"].is_string() && ts(event).is_finite(), "{name}: {event}");
            assert!(phase == "M" || named.contains(&track(event)), "{name}: {event} stands on no track");
        }
    }
}

#[test]
fn time_never_falls_along_a_track_and_slices_of_one_never_overlap() {
    for (name, input) in all() {
        let (mut last, mut ends) = (BTreeMap::new(), BTreeMap::new());
        for event in read(&input).iter().filter(|event| event["ph"] != "M") {
            let before = last.insert(track(event), ts(event)).unwrap_or(f64::MIN);
            assert!(before <= ts(event), "{name}: {event} after {before}");
            if event["ph"] == "X" {
                let until = ends.insert(track(event), end(event)).unwrap_or(f64::MIN);
                assert!(until <= ts(event) + 1e-6, "{name}: {event} before {until}");
            }
        }
    }
}

/// Instants at one time would be drawn as a stack of rows.
#[test]
fn no_two_instants_of_a_track_coincide() {
    for (name, input) in all() {
        let mut seen = BTreeSet::new();
        for event in of(&read(&input), "i") {
            let place = (track(event), (ts(event) * 1000.0).round() as i64);
            assert!(seen.insert(place), "{name}: {event}");
        }
    }
}

/// An arrow's ends bind to the slices that hold them; one without would be dropped by the viewer.
#[test]
fn every_arrow_goes_from_the_guests_request_to_the_device_and_back() {
    for (name, input) in all() {
        let events = read(&input);
        let held = |event: &Value| {
            of(&events, "X")
                .any(|slice| track(slice) == track(event) && ts(slice) <= ts(event) && ts(event) <= end(slice) + 1e-6)
        };
        let few = |phase| of(&events, phase).take(200);
        for phase in ["s", "t", "f"] {
            assert_eq!(of(&events, phase).count(), of(&events, "s").count(), "{name}");
            for event in few(phase) {
                assert_eq!(event["pid"], if phase == "t" { 1 } else { 2 }, "{name}: {event}");
                assert!(held(event), "{name}: {event} is in no slice");
            }
        }
    }
    assert_eq!(of(&read(&samples::clean()), "s").count(), samples::clean().matched.len());
}

#[test]
fn all_three_lanes_are_there_and_nothing_of_the_run_is_missing() {
    let input = samples::error_on_one_bio();
    let events = read(&input);
    let lanes: Vec<_> =
        of(&events, "M").filter(|event| event["name"] == "process_name").map(|event| &event["args"]["name"]).collect();
    assert_eq!(lanes, ["device", "guest", "replica"]);
    let slices = |pid: u64| of(&events, "X").filter(|event| event["pid"] == pid).count();
    assert_eq!(slices(1), input.device.len());
    let folios = |event: &Value| event["args"]["folios"].as_u64().unwrap_or(1);
    let instants = |pid: u64| of(&events, "i").filter(|event| event["pid"] == pid).map(folios).sum::<u64>();
    assert_eq!(instants(3), input.replica.len() as u64);
    let begins = |entry: &&writeback_events::Entry| {
        let tagged = serde_json::to_value(&entry.body).expect("plain data").to_string();
        tagged.contains("request_issued") || tagged.contains("op_begins")
    };
    let begun = input.guest.iter().filter(begins).count() as u64;
    assert_eq!(instants(2) + begun, input.guest.len() as u64, "a begin is told by its slice");
}

#[test]
fn without_a_matched_request_the_axis_is_the_sequence_and_says_so() {
    let mut input = samples::clean();
    input.matched.clear();
    let trace: Value = serde_json::from_str(&trace(&input)).expect("it is JSON");
    assert!(trace["otherData"]["axis"].as_str().expect("a text").starts_with("sequence"));
}
