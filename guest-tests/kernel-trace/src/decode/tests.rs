//! Decoding, by sequences of events and on a recording of a real guest.
//!
//! `testdata/failed-write.raw` is a 6.1.192 guest (1 CPU) that writes 8 pages into a fallocated file on a disk that fails
//! that write once, then overwrites 4 pages strided. The sequences in `testdata/sequences/` are written in its formats:
//! before `----` one event per line, after it what comes of them. `UPDATE_SEQUENCES=1 cargo test -p kernel-trace` rewrites
//! what comes after; read it before committing.

use super::*;
use crate::container::{Header, Trailer, Writer};
use crate::format::Format;
use proptest::prelude::*;
use std::fmt::Write as _;
use std::path::Path;
use writeback_events::{Body, Entry, OpKind, Response, Stimulus};

const RECORDING: &[u8] = include_bytes!("../../testdata/failed-write.raw");

fn header() -> Header {
    container::read(RECORDING).expect("it is whole").header
}

/// A line: `CPU TASK task|irq EVENT FIELD=VALUE …`. Its place in the text is its time stamp.
struct Line<'a> {
    seq: u64,
    cpu: u16,
    task: i128,
    irq: bool,
    event: &'a str,
    fields: Vec<(&'a str, Value)>,
}

fn parse<'a>(header: &Header, seq: u64, line: &'a str) -> Line<'a> {
    let mut words = line.split_whitespace();
    let mut next = || words.next().expect("a word");
    let (cpu, task, context, event) = (next(), next(), next(), next());
    let fields = match event {
        "ftrace/print" => vec![("buf", Value::Text(words.collect::<Vec<_>>().join(" ")))],
        _ => words.map(|word| field(header, word)).collect(),
    };
    let task = task.parse().expect("a pid");
    Line { seq, cpu: cpu.parse().expect("a CPU"), task, irq: context == "irq", event, fields }
}

/// `count=1`, `rwbs="WS"`, `caller=ext4_writepages` (an address within that function).
fn field<'a>(header: &Header, word: &'a str) -> (&'a str, Value) {
    let (name, value) = word.split_once('=').expect("NAME=VALUE");
    let symbol = header.plan.symbols.iter().find(|symbol| symbol.name == value);
    let number = symbol.map(|symbol| i128::from(symbol.address)).or_else(|| value.parse().ok());
    (name, number.map_or_else(|| Value::Text(value.trim_matches('"').into()), Value::Number))
}

fn record(formats: &BTreeMap<String, Format>, header: &Header, line: &Line) -> Vec<u8> {
    let format = formats.get(line.event).unwrap_or_else(|| panic!("no format {}", line.event));
    let address = |name: &str| header.plan.symbols.iter().find(|symbol| symbol.name == name).map(|found| found.address);
    let mut bytes = Vec::new();
    let breakpoint = line.event.starts_with("io/");
    let flags = if line.irq { 0x01 } else { 0 } | if breakpoint { 0x48 } else { 0 } | if line.irq { 0x08 } else { 0 };
    let common = [("common_type", i128::from(format.id)), ("common_flags", flags), ("common_pid", line.task)];
    let defaults =
        [("dev", Some(1)), ("end_io", address("ext4_end_bio")), ("function", address("ext4_end_io_rsv_work"))];
    let defaults = defaults.into_iter().filter_map(|(name, value)| Some((name, i128::from(value?))));
    for (name, value) in common.into_iter().chain(defaults.filter(|(name, _)| format.has(name))) {
        format.write(&mut bytes, name, &Value::Number(value));
    }
    for name in format.values(&[0; 512]).into_keys().filter(|name| name != "buf") {
        let kept = Value::Number(format.number(&bytes, &name).unwrap_or(0));
        format.write(&mut bytes, &name, &kept);
    }
    line.fields.iter().for_each(|(name, value)| format.write(&mut bytes, name, value));
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// One page per event: time stamp, length, event.
fn page_of(line: &Line, record: &[u8]) -> Vec<u8> {
    let words = record.len() as u32 / 4;
    let event = [&words.to_le_bytes()[..], record].concat();
    [&line.seq.to_le_bytes()[..], &(event.len() as u64).to_le_bytes(), &event].concat()
}

fn trailer(header: &Header, events: &[u64]) -> Trailer {
    let names = header.plan.kprobe_events.iter().filter_map(|line| line.split_once(' ')?.0.strip_prefix("p:io/"));
    let stats =
        |read: &u64| format!("entries: 0\noverrun: 0\ncommit overrun: 0\ndropped events: 0\nread events: {read}\n");
    Trailer {
        kprobe_profile: names.map(|name| format!("  {name}   7   0\n")).collect(),
        cpu_stats: events.iter().map(stats).collect(),
    }
}

fn raw_of(text: &str) -> Vec<u8> {
    let mut header = header();
    let formats: BTreeMap<String, Format> = header
        .formats
        .iter()
        .map(|format| (format.event.clone(), Format::parse(format.event.clone(), &format.text).expect("a format")))
        .collect();
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
    let lines: Vec<_> = lines.map(|(at, line)| parse(&header, at as u64 + 1, line)).collect();
    let cpus = lines.iter().map(|line| line.cpu).max().map_or(1, |cpu| cpu + 1);
    header.vcpus = cpus;
    let mut writer = Writer::new(Vec::new()).expect("a vector takes all");
    writer.header(&header).expect("first");
    for line in &lines {
        writer.page(line.cpu, &page_of(line, &record(&formats, &header, line))).expect("behind the header");
    }
    let counts: Vec<u64> = (0..cpus).map(|cpu| lines.iter().filter(|line| line.cpu == cpu).count() as u64).collect();
    writer.finish(&trailer(&header, &counts)).expect("behind the pages")
}

fn shown(decoded: &Decoded) -> String {
    let mut text = String::new();
    for entry in &decoded.entries {
        let body = match &entry.body {
            Body::Stimulus(stimulus) => serde_json::to_string(stimulus),
            Body::Answered { request } => Ok(format!("{{\"answered\":{request}}}")),
            Body::Response(response) => serde_json::to_string(response),
        };
        let context = if entry.interrupt { "irq" } else { "task" };
        let _ = writeln!(text, "{} {} {} {context} {}", entry.seq, entry.cpu, entry.task, body.expect("plain data"));
    }
    for unplaced in &decoded.unplaced {
        let place = unplaced.place.map_or("the whole".into(), |place| place.seq.to_string());
        let _ = writeln!(text, "unplaced at {place}: {}", unplaced.why);
    }
    decoded.losses.describe().iter().for_each(|loss| text.push_str(&format!("lost: {loss}\n")));
    text
}

#[test]
fn every_sequence_comes_out_as_written_down() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/sequences");
    let mut paths: Vec<_> =
        std::fs::read_dir(&folder).expect("it is there").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(paths.len() >= 8, "{paths:?}");
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("readable");
        let (events, expected) = text.split_once("----\n").unwrap_or((&text, ""));
        let decoded = decode(&raw_of(events)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let came = shown(&decoded);
        if std::env::var_os("UPDATE_SEQUENCES").is_some() {
            std::fs::write(&path, format!("{events}----\n{came}")).expect("writable");
            continue;
        }
        assert_eq!(came, expected, "{}", path.display());
        assert!(decoded.entries.is_sorted_by_key(|entry| entry.seq), "{}", path.display());
    }
}

#[test]
fn the_recording_of_a_failed_write_is_whole_and_says_what_6_1_does() {
    let decoded = decode(RECORDING).expect("it can be decoded");
    assert_eq!((decoded.losses.describe(), &decoded.unplaced[..]), (vec![], &[][..]));
    let totals = &decoded.totals;
    assert_eq!((totals.io_ends, totals.bios, totals.io_ends_alive, totals.requests_unanswered), (3, 5, 0, 0));
    let of_io_end_2: Vec<String> = decoded
        .entries
        .iter()
        .filter_map(|entry| match &entry.body {
            Body::Response(response)
                if response.subject() == writeback_events::Subject::IoEnd(writeback_events::IoEndId(2)) =>
            {
                Some(serde_json::to_string(response).expect("plain data"))
            }
            _ => None,
        })
        .collect();
    assert_eq!(
        of_io_end_2,
        [
            r#"{"ev":"init_io_end","io_end":2,"ino":12,"count":1,"unwritten":false}"#,
            r#"{"ev":"get_io_end","io_end":2,"bio":1,"count":2,"unwritten":true}"#,
            r#"{"ev":"submit_bio","bio":1,"io_end":2,"sector":33112,"bytes":32768}"#,
            r#"{"ev":"put_io_end","io_end":2,"count":1,"unwritten":true}"#,
            r#"{"ev":"end_bio","bio":1,"io_end":2,"error":-5}"#,
            r#"{"ev":"put_io_end_defer","io_end":2,"count":0,"unwritten":true}"#,
            r#"{"ev":"add_complete_io","io_end":2,"queued":true}"#,
            r#"{"ev":"convert_unwritten","ino":12,"io_end":2,"offset":0,"size":32768}"#,
            r#"{"ev":"release_io_end","io_end":2,"unwritten":false}"#,
        ]
    );
    let errnos: Vec<_> = decoded.ops.iter().map(|op| (op.name.as_str(), op.ends.map(|(_, errno)| errno))).collect();
    assert_eq!(errnos[5..], [("fsync", Some(-5)), ("write", Some(0)), ("fsync", Some(0)), ("fsync", Some(0))]);
}

#[test]
fn the_same_bytes_give_the_same_answer() {
    assert_eq!(decode(RECORDING).expect("once"), decode(RECORDING).expect("twice"));
}

#[test]
fn the_file_of_an_fsync_is_known_from_the_file_system_itself() {
    let text =
        "0 1 task ftrace/print B 3 fsync\n0 1 task ext4/ext4_sync_file_enter ino=12\n0 1 task ftrace/print E 3 5\n";
    let decoded = decode(&raw_of(text)).expect("whole");
    let Body::Stimulus(Stimulus::OpBegins { kind, .. }) = &decoded.entries[0].body else { panic!("a beginning") };
    assert_eq!(*kind, OpKind::Fsync { ino: writeback_events::Ino(12) });
    assert!(matches!(decoded.entries[2].body, Body::Response(Response::OpResult { errno: -5, .. })));
}

#[test]
fn the_marker_itself_names_the_file_whose_errors_a_waiting_sync_file_range_tells() {
    let text = "0 1 task ftrace/print B 3 sync_file_range 12\n0 1 task ftrace/print E 3 5\n\
                0 1 task ftrace/print B 4 sync_file_range\n0 1 task ftrace/print E 4 0\n";
    let decoded = decode(&raw_of(text)).expect("whole");
    let kind = |entry: &Entry| match entry.body {
        Body::Stimulus(Stimulus::OpBegins { kind, .. }) => Some(kind),
        _ => None,
    };
    let kinds: Vec<OpKind> = decoded.entries.iter().filter_map(kind).collect();
    assert_eq!(kinds, [OpKind::Fsync { ino: writeback_events::Ino(12) }, OpKind::Other]);
}

/// Each kind of loss, produced once: the trace must not look whole.
#[test]
fn whatever_is_missing_is_told() {
    let contents = container::read(RECORDING).expect("whole");
    let tell = |change: &dyn Fn(&mut Contents)| {
        let mut contents = contents.clone();
        change(&mut contents);
        decode(&write(&contents)).expect("still readable").losses.describe().join("; ")
    };
    assert_eq!(tell(&|_| {}), "");
    assert_eq!(tell(&|contents| contents.ended = false), "the guest's trace has no END: it was cut off");
    let trailer =
        |contents: &mut Contents, change: &dyn Fn(&mut Trailer)| change(contents.trailer.as_mut().expect("there"));
    let stats = |from: &'static str, to: &'static str| {
        tell(&|contents| trailer(contents, &|trailer| trailer.cpu_stats[0] = trailer.cpu_stats[0].replace(from, to)))
    };
    assert_eq!(stats("\noverrun: 0", "\noverrun: 3"), "CPU 0: overrun 3");
    assert_eq!(stats("commit overrun: 0", "commit overrun: 1"), "CPU 0: commit overrun 1");
    assert_eq!(stats("dropped events: 0", "dropped events: 2"), "CPU 0: dropped events 2");
    assert_eq!(stats("read events: 214", "read events: 215"), "CPU 0: 215 events were recorded, 214 arrived");
    assert_eq!(stats("dropped events: 0\n", ""), "CPU 0: no usable buffer statistics");
    let missed = tell(&|contents| {
        trailer(contents, &|trailer| {
            let line = trailer.kprobe_profile.lines().find(|line| line.contains(" endbio ")).expect("it was set");
            let changed = format!("{}4", &line[..line.len() - 1]);
            trailer.kprobe_profile = trailer.kprobe_profile.replace(line, &changed);
        })
    });
    assert_eq!(missed, "probe endbio missed 4 hits");
    let unset = tell(&|contents| {
        trailer(contents, &|trailer| trailer.kprobe_profile = trailer.kprobe_profile.replace("putd_in", "x"))
    });
    assert_eq!(unset, "probe putd_in was not set: kprobe_profile does not list it");
    assert_eq!(
        tell(&|contents| contents.header.clock = "local".into()),
        "the trace clock was \"local\", not \"counter\""
    );
    assert_eq!(tell(&|contents| contents.pages[1].bytes[11] |= 0x80), "CPU 0: some events lost before page 1");
    assert!(tell(&|contents| contents.pages.truncate(1)).contains("events were recorded"));
    assert!(tell(&|contents| contents.pages.clear()).contains("the guest's trace is empty"));
    assert!(tell(&|contents| contents.pages.swap(0, 1)).contains("CPU 0: time stamps went backwards"));
}

#[test]
fn an_event_whose_format_is_not_there_is_an_error() {
    let mut contents = container::read(RECORDING).expect("whole");
    contents.header.formats.retain(|format| format.event != "io/endbio");
    let error = decode(&write(&contents)).expect_err("one event is unknown");
    assert!(matches!(error, DecodeError::UnknownEvent { .. }), "{error}");
}

#[test]
fn an_event_this_program_does_not_know_is_an_error() {
    let mut contents = container::read(RECORDING).expect("whole");
    let format = contents.header.formats.iter_mut().find(|format| format.event == "io/endbio").expect("there");
    format.event = "io/something_new".into();
    let error = decode(&write(&contents)).expect_err("what it means is not known");
    assert!(error.to_string().contains("does not know what this probe means"), "{error}");
}

#[test]
fn a_file_cut_anywhere_is_an_error_or_has_no_end() {
    for len in (0..RECORDING.len()).step_by(131).chain([RECORDING.len() - 1]) {
        if let Ok(decoded) = decode(&RECORDING[..len]) {
            assert!(decoded.losses.no_end, "cut at {len}");
        }
    }
}

#[test]
fn ring_events_show_every_event_with_its_fields() {
    let events = ring_events(RECORDING).expect("readable");
    assert_eq!(events.len(), 214);
    let failed = events.iter().find(|event| event.event == "io/endbio").expect("a bio ended");
    assert_eq!((failed.fields["status"].as_str(), failed.interrupt), ("10", true));
}

fn write(contents: &Contents) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new()).expect("a vector takes all");
    writer.header(&contents.header).expect("first");
    contents.pages.iter().for_each(|page| writer.page(page.cpu, &page.bytes).expect("in order"));
    match &contents.trailer {
        Some(trailer) if contents.ended => writer.finish(trailer).expect("last"),
        _ => writer.abandon().expect("a vector takes all"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    /// Bytes of pages and file changed at will: an error or an answer, never a panic.
    #[test]
    fn no_bytes_make_it_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12), pages_only: bool) {
        let contents = container::read(RECORDING).expect("whole");
        let pages: usize = contents.pages.iter().map(|page| page.bytes.len()).sum();
        let mut raw = RECORDING.to_vec();
        for (at, byte) in changes {
            // The pages lie between the header and the trailer, which is short.
            let at = if pages_only { RECORDING.len() - pages - 1500 + at.index(pages) } else { at.index(raw.len()) };
            raw[at] = byte;
        }
        let _ = decode(&raw);
        let _ = ring_events(&raw);
    }

    /// A page dropped, doubled or exchanged never leaves a trace that looks whole.
    #[test]
    fn a_page_lost_doubled_or_moved_is_never_unnoticed(at in 0..3usize, other in 0..3usize, how in 0..3u8) {
        let mut contents = container::read(RECORDING).expect("whole");
        match how {
            0 => drop(contents.pages.remove(at)),
            1 => contents.pages.insert(other, contents.pages[at].clone()),
            _ => contents.pages.swap(at, other),
        }
        let same = how == 2 && at == other;
        let decoded = decode(&write(&contents)).expect("still readable");
        prop_assert_eq!(decoded.losses.is_empty(), same);
    }
}
