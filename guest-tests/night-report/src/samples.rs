//! Nights for tests and for looking at the page: made up, from numbers alone, the same each time.

use crate::night::{Night, Shown};
use crate::summary::Summary;
use crate::universe;
use night_results::{
    Again, Armed, Canary, Fired, HostFacts, Known, KnownKernels, Needed, NightJson, NightState, Outcome, ResultLine,
    Seed, Shard, Shrunk, Signature, Triage, Unit, VerdictWord, Versions,
};
use std::collections::BTreeMap;
use std::sync::LazyLock;

const KERNELS: [&str; 4] = ["5.10", "6.1", "6.12", "7.2"];

/// A night that went on for a while: nothing failed, both planted mistakes were noticed.
pub fn quiet(day: u32, scenarios: u32) -> Night {
    let mut night = Night {
        asked: asked(day),
        state: NightState { worked_ms: 1_200_000, starts: 1, boots: 12, ended: Some("budget".into()) },
        results: BTreeMap::new(),
        known: Vec::new(),
        before: Vec::new(),
        shown: BTreeMap::new(),
    };
    for canary in [Canary::Replica, Canary::Device] {
        add(
            &mut night,
            ResultLine { outcome: Outcome::Plain, ..ResultLine::new(Unit::Canary(canary), "canary", "6.1") },
        );
    }
    for n in 0..scenarios {
        add(&mut night, plain(n));
    }
    night
}

/// A night with everything that a page can show: new, known, fixed, flaky, not judged, lost; the seventh here.
pub fn busy() -> Night {
    let mut night = quiet(23, 400);
    night.before = (17..23).map(|day| Summary::of(&earlier(day))).collect();
    night.known = vec![
        known("stale-data-read / ioerr / data", "the first bio's error is forgotten", "e856f93e0fb2"),
        known("gone for good", "mended", "8f5b1ca2d2c1"),
    ];
    for n in [3, 90, 91, 200] {
        fail(&mut night, n, "stale-data-read / ioerr / data", Again::Reproducible);
    }
    for n in [17, 40] {
        fail(&mut night, n, "different / put_io_end_defer / split / data", Again::Flaky);
    }
    fail(&mut night, 55, "error-not-reported / partial / journal.commit", Again::Reproducible);
    for n in [60, 61, 62] {
        of(&mut night, n, Outcome::Unjudged, "the trace lost 12 events on CPU 1");
    }
    of(&mut night, 63, Outcome::Infrastructure, "QEMU did not start, twice: no memory");
    let text = "error-not-reported / partial / journal.commit";
    night.shown.insert(Signature::of(text).id, shown());
    night
}

/// A night of nothing but failures, each with a signature of its own if `apart`.
pub fn failures(n: u32, apart: bool) -> Night {
    let mut night = quiet(23, n);
    for index in 0..n {
        let text =
            if apart { format!("different / {} / data", words(index)) } else { "different / one / data".to_owned() };
        fail(&mut night, index, &text, Again::Reproducible);
        // As many as `nightly` draws.
        if apart && index < 100 {
            night.shown.insert(Signature::of(&text).id, shown());
        }
    }
    night
}

/// A signature has no numbers.
fn words(n: u32) -> String {
    n.to_string().chars().map(|digit| char::from(b'a' + (digit as u8 - b'0'))).collect()
}

fn earlier(day: u32) -> Night {
    let mut night = quiet(day, 300 + day * 4);
    for n in 0..day % 5 {
        fail(&mut night, 30 + n, "stale-data-read / ioerr / data", Again::Reproducible);
        fail(&mut night, 50 + n, "gone for good", Again::Reproducible);
    }
    fail(&mut night, 80, "unexpected-result / delay / dir", Again::Reproducible);
    of(&mut night, 81, Outcome::Unjudged, "the guest was still at work after 120 s");
    night
}

fn asked(day: u32) -> NightJson {
    NightJson {
        night: NightJson::VERSION,
        began: format!("2026-11-{day:02}T01:00:00Z"),
        seeds: vec![format!("{day}.0..")],
        kernels: KERNELS.map(str::to_owned).into(),
        kernel: None,
        budget_s: Some(1200),
        jobs: 2,
        shards: vec![Shard::WHOLE],
        canaries: vec!["replica".into(), "device".into()],
        canary_only: false,
        standing: "all".into(),
        old: Vec::new(),
        versions: vec![Versions { guest_tests: "0.1.0".into(), qemu: "QEMU emulator version 10.0.2".into() }],
        hosts: vec![HostFacts { accel: "tcg".into(), cpus: 2, memory_mib: 7936, kernel: "6.12.0".into() }],
    }
}

fn add(night: &mut Night, line: ResultLine) {
    night.results.insert(line.unit.clone(), line);
}

fn seed(n: u32) -> Seed {
    Seed { boot: n / 64, index: n % 64 }
}

fn plain(n: u32) -> ResultLine {
    let series = KERNELS[(n / 64) as usize % KERNELS.len()];
    let faults: Vec<universe::Fault> = universe::faults().collect();
    let fault = faults[n as usize % (faults.len() - 5)];
    let classes = universe::classes(fault.op);
    let class = classes[(n as usize / 7) % classes.len()];
    static PAIRS: LazyLock<Vec<String>> = LazyLock::new(|| universe::pairs().into_iter().collect());
    let lockstep = if n.is_multiple_of(9) { "not_applicable" } else { "same" };
    let oracles = [("lockstep", lockstep), ("end_state", "pass"), ("kernel_log", "pass"), ("durability", "not_run")];
    let name = |text: &str| text.to_owned();
    ResultLine {
        scenario: format!("seed-{}", seed(n)),
        kernel: format!("{series}.0-amd64"),
        dialect: format!("v{}", series.replace('.', "_")),
        outcome: Outcome::Plain,
        verdict: Some(VerdictWord::Same),
        oracles: Some(oracles.iter().map(|(judge, word)| (name(judge), name(word))).collect()),
        why: "guest and replica agree in 712 responses".into(),
        fired: (!n.is_multiple_of(3))
            .then(|| Fired {
                action: name(fault.action),
                op: name(fault.op),
                class: name(class),
                outcome: name(fault.answers[n as usize / 3 % fault.answers.len()]),
                n: u64::from(n % 5) + 1,
            })
            .into_iter()
            .collect(),
        armed: vec![Armed { action: name(fault.action), op: name(fault.op), class: name(class) }],
        pairs: PAIRS.iter().skip(n as usize % 50).take(6).cloned().collect(),
        took_ms: 250 + u64::from(n % 90),
        repro: format!("guest-tests nightly --seeds {0} --out repro", seed(n)),
        ..ResultLine::new(Unit::Fresh(seed(n)), String::new(), series)
    }
}

fn fail(night: &mut Night, n: u32, signature: &str, again: Again) {
    let (shown, tried) = if again == Again::Flaky { (3, 10) } else { (10, 10) };
    let shrunk = Shrunk { rules: [12, 2], ops: [17, 4], folder: format!("failures/{}/shrunk", seed(n)) };
    let kind = signature.split(" / ").next().unwrap_or_default().to_owned();
    let line = ResultLine {
        outcome: Outcome::Failed,
        verdict: Some(VerdictWord::Different),
        why: format!("the guest drops a reference that the replica keeps, in operation {}", n % 12),
        findings: if kind == "different" { Vec::new() } else { vec![kind] },
        signature: Some(Signature::of(signature)),
        triage: Some(Triage { again, needed: Some(Needed::Alone), shown, tried, shrunk: Some(shrunk) }),
        ..plain(n)
    };
    add(night, line);
}

fn of(night: &mut Night, n: u32, outcome: Outcome, why: &str) {
    add(night, ResultLine { outcome, why: why.into(), verdict: None, signature: None, ..plain(n) });
}

fn known(signature: &str, reason: &str, link: &str) -> Known {
    Known {
        signature: signature.into(),
        reason: reason.into(),
        link: link.into(),
        with: Vec::new(),
        kernels: KnownKernels::Any,
        expires: Some("2027-01-31".into()),
    }
}

/// About as much as a real one.
fn shown() -> Shown {
    let bar = |n: u32| {
        format!(
            "<rect class=\"bar guest\" x=\"{x}\" y=\"{y}\" width=\"40\" height=\"13\"><title>write {n}</title></rect>\
             <text x=\"{x}\" y=\"{y}\">write</text>",
            x = n * 18,
            y = n % 10 * 17
        )
    };
    let bars: String = (0..60).map(bar).collect();
    Shown {
        sentence: "A write failed, and no fsync told the program so".into(),
        unit: String::new(),
        no_timeline: String::new(),
        timeline: format!(
            "<svg class=\"excerpt\" viewBox=\"0 0 1102 170\" width=\"1102\" height=\"170\" role=\"img\" aria-label=\"timeline\">{bars}</svg>"
        ),
        scenario: Some(SCENARIO.into()),
        links: vec![("repro.sh".into(), "failures/0.55/shrunk/repro.sh".into())],
    }
}

const SCENARIO: &str = r#"{
  "scenario": 1,
  "name": "small",
  "kernels": "any",
  "faults": {"faultscript": 1, "rules": [{"id": "r", "match": {"op": "write"}, "action": {"error": {"status": "ioerr"}}}]},
  "workload": [
    {"op": "mark", "name": "start"},
    {"op": "write", "path": "f", "len": 4096},
    {"op": "fsync", "path": "f"}
  ]
}
"#;
