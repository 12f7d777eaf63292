//! `guest-tests probe-dialect`: which switches of a dialect a kernel behaves like, and whether the table says so too.
//!
//! In boots of its own, with workloads and faults made for it: the dialect of a run that is judged must never come from that
//! run. Each probe is a scenario of `probes/`; what it shows is read from the guest's trace and the results alone
//! ([`observe`]). A switch that did not show is reported with the reason, never filled in from the table.

mod observe;

pub use observe::{Observed, observe};

use crate::args::{self, ProbeDialect};
use crate::dialect::{self, Identity};
use crate::failure::{At, Failure, exit};
use crate::interrupt::Interrupt;
use crate::judge;
use crate::programs::Programs;
use crate::run;
use crate::show;
use ext4_replica::{Dialect, Switch};
use serde::Serialize;
use std::fmt::Write as _;
use std::path::Path;

/// Name and text of each probe.
const PROBES: [(&str, &str); 4] = [
    ("failed-write", include_str!("../../probes/failed-write.json")),
    ("hole", include_str!("../../probes/hole.json")),
    ("data-err-abort", include_str!("../../probes/data-err-abort.json")),
    ("failed-in-submit", include_str!("../../probes/failed-in-submit.json")),
];

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// `uname -r`
    pub kernel: String,
    /// `uname -v`
    pub build: String,
    /// What the table (or `--dialect`) says; none: the table does not know this kernel.
    pub dialect: Option<String>,
    /// The table names this very kernel.
    pub dialect_exact: bool,
    /// Each switch.
    pub switches: Vec<Line>,
    /// What to give as `--dialect`: the expected one, or the newest, with every switch as it was seen.
    pub behaves_like: String,
    /// Every switch that was seen is as expected. None where nothing was expected, or nothing seen.
    pub as_expected: Option<bool>,
}

/// One switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Line {
    /// Its name.
    pub switch: &'static str,
    /// What it decides.
    pub decides: &'static str,
    /// Its position in the expected dialect.
    pub expected: Option<&'static str>,
    /// The position the kernel behaves like; none: it did not show.
    pub seen: Option<&'static str>,
    /// What was seen, or why nothing was.
    pub why: String,
}

/// Boots the kernel once per probe and reports.
pub fn probe(
    wanted: &ProbeDialect,
    programs: &Programs,
    interrupt: &Interrupt,
    repeat: &str,
) -> Result<Report, Failure> {
    let scratch = tempfile::tempdir().at("make a temporary folder in", std::env::temp_dir())?;
    let out = wanted.out.as_deref().unwrap_or(scratch.path());
    let mut observed = Vec::new();
    let mut identity = None;
    for (name, text) in PROBES {
        interrupt.check()?;
        let recorded = run_probe(wanted, out, name, text, programs, interrupt, repeat)?;
        observed.extend(observe(name, &recorded));
        identity = Some(recorded.host.kernel);
    }
    let Some(kernel) = identity else { unreachable!("there are probes") };
    let expected =
        dialect::choose(wanted.dialect.as_deref(), Identity { release: &kernel.release, build: &kernel.build });
    if wanted.dialect.is_some() {
        expected.as_ref().map_err(|why| Failure::BadInput(why.clone()))?;
    }
    Ok(report(kernel.release, kernel.build, expected.ok(), observed))
}

fn run_probe(
    wanted: &ProbeDialect,
    out: &Path,
    name: &str,
    text: &str,
    programs: &Programs,
    interrupt: &Interrupt,
    repeat: &str,
) -> Result<judge::Recorded, Failure> {
    show::progress(&format!("probe {name}"));
    std::fs::create_dir_all(out).at("create", out)?;
    let scenario = out.join(format!("{name}.json"));
    std::fs::write(&scenario, text).at("write", &scenario)?;
    let args = args::Run {
        scenario,
        out: Some(out.join(name)),
        kernel: wanted.kernel.clone(),
        dialect: None,
        accel: wanted.accel,
        seed: None,
        time_limit: wanted.time_limit,
        keep_image: false,
        snapshot_dir: None,
        verbose: false,
        canary: None,
        planted_lie: None,
    };
    let ran = run::run(&args, programs, interrupt, repeat)?;
    ran.host.write(&ran.folder)?;
    judge::read(&ran.folder)
}

fn report(
    kernel: String,
    build: String,
    expected: Option<dialect::Chosen>,
    observed: Vec<(Switch, Observed)>,
) -> Report {
    let line = |(switch, observed): &(Switch, Observed)| {
        let (seen, why) = match observed {
            Ok((value, why)) => (Some(*value), why.clone()),
            Err(why) => (None, why.clone()),
        };
        let expected = expected.map(|chosen| switch.shows(&chosen.dialect));
        Line { switch: switch.name(), decides: switch.decides(), expected, seen, why }
    };
    let switches: Vec<Line> = observed.iter().map(line).collect();
    let any_seen = switches.iter().any(|line| line.seen.is_some());
    let agrees = switches.iter().all(|line| line.seen.is_none() || line.seen == line.expected);
    Report {
        kernel,
        build,
        dialect: expected.map(|chosen| chosen.dialect.describe()),
        dialect_exact: expected.is_some_and(|chosen| chosen.exact),
        behaves_like: behaves_like(expected.map(|chosen| chosen.dialect), &observed).describe(),
        as_expected: (expected.is_some() && any_seen).then_some(agrees),
        switches,
    }
}

/// The dialect that needs the fewest switches thrown; of several the expected one, then the newest.
fn behaves_like(expected: Option<Dialect>, observed: &[(Switch, Observed)]) -> Dialect {
    let seen: Vec<(Switch, &'static str)> =
        observed.iter().filter_map(|(switch, observed)| Some((*switch, observed.as_ref().ok()?.0))).collect();
    let named = Dialect::names().filter_map(Dialect::by_name).filter(Dialect::runs_in_lockstep);
    let newest_first: Vec<Dialect> = named.collect::<Vec<_>>().into_iter().rev().collect();
    let others = |dialect: &Dialect| seen.iter().filter(|(switch, value)| switch.shows(dialect) != *value).count();
    let nearest = expected.into_iter().chain(newest_first).min_by_key(|dialect| others(dialect));
    let nearest = nearest.unwrap_or(Dialect::V6_1);
    let set = |dialect: Dialect, (switch, value): &(Switch, &'static str)| match switch.shows(&dialect) == *value {
        true => dialect,
        false => switch.set(dialect, value).expect("an observation is one of the switch's positions"),
    };
    seen.iter().fold(nearest, set)
}

impl Report {
    /// 0: as expected · 1: otherwise · 3: nothing showed, or there was nothing to hold it against.
    pub fn exit_code(&self) -> u8 {
        match self.as_expected {
            Some(true) => exit::AS_EXPECTED,
            Some(false) => exit::NOT_AS_EXPECTED,
            None => exit::NOT_JUDGED,
        }
    }
}

/// The report for a person.
pub fn text(report: &Report) -> String {
    let mut text = format!("kernel     {} ({})\n", report.kernel, report.build);
    let inexact = if report.dialect_exact { "" } else { " (not exact)" };
    let _ = match &report.dialect {
        Some(dialect) => writeln!(text, "expected   {dialect}{inexact}"),
        None => writeln!(text, "expected   nothing: dialects.toml does not know this kernel"),
    };
    for line in &report.switches {
        let seen = line.seen.unwrap_or("not seen");
        let otherwise = match line.expected {
            Some(expected) if line.seen.is_some_and(|seen| seen != expected) => format!(" (expected {expected})"),
            _ => String::new(),
        };
        let _ = writeln!(text, "  {:<26} {seen}{otherwise}: {}", line.switch, line.why);
    }
    let conclusion = match report.as_expected {
        Some(true) => "it behaves as the table says".to_owned(),
        Some(false) => format!(
            "it does NOT behave as expected; follow it with --dialect {}, and if it is a stock kernel, correct dialects.toml",
            report.behaves_like
        ),
        None if report.dialect.is_none() => format!("follow it with --dialect {}", report.behaves_like),
        None => "no switch showed; the reasons stand above".to_owned(),
    };
    let _ = writeln!(text, "result     {conclusion}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::Chosen;
    use crate::scenario;

    fn of(dialect: &str, seen: &[(Switch, &'static str)]) -> Report {
        let expected = Dialect::by_name(dialect).map(|dialect| Chosen { dialect, exact: true });
        let observed = seen.iter().map(|&(switch, value)| (switch, Ok((value, "seen".to_owned())))).collect();
        report("1".into(), "#1".into(), expected, observed)
    }

    #[test]
    fn every_probe_is_a_scenario_that_looks_at_a_switch() {
        for (name, text) in PROBES {
            let scenario = scenario::parse(Path::new(name), text).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(scenario.name, name);
        }
    }

    #[test]
    fn a_kernel_that_does_what_the_table_says_is_as_expected() {
        let report = of("v6_1", &[(Switch::ConvertAfterError, "yes"), (Switch::FinishErrno, "eio")]);
        assert_eq!((report.as_expected, report.exit_code(), report.behaves_like.as_str()), (Some(true), 0, "v6_1"));
    }

    #[test]
    fn a_kernel_with_a_backport_is_told_and_how_to_follow_it() {
        let report = of("v6_1", &[(Switch::ConvertAfterError, "no"), (Switch::FinishErrno, "eio")]);
        assert_eq!((report.as_expected, report.exit_code()), (Some(false), 1));
        assert_eq!(report.behaves_like, "v6_1,convert_after_error=no");
        assert!(text(&report).contains("(expected yes)"), "{}", text(&report));
    }

    #[test]
    fn a_kernel_the_table_does_not_know_gets_the_newest_dialect_that_fits() {
        let all = [(Switch::ConvertAfterError, "no"), (Switch::FinishErrno, "own"), (Switch::HoleEndsBio, "no")];
        let report = of("none", &all);
        assert_eq!((report.as_expected, report.exit_code(), report.behaves_like.as_str()), (None, 3, "v7_2"));
        assert_eq!(of("v6_1", &[]).exit_code(), 3, "nothing showed");
    }
}
