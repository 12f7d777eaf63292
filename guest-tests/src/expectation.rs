//! What a scenario expects, and whether a run was that. Decides the exit code; looks at no file.

use crate::failure::exit;
use crate::verdict::{Finding, Outcome};
use guest_init::pattern::{Content, Run};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// How often a rule has to fire: at least, at most; without the second there is no bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times(pub u64, pub Option<u64>);

impl Times {
    fn holds(self, count: u64) -> bool {
        self.0 <= count && self.1.is_none_or(|most| count <= most)
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Times(least, Some(most)) if least == most => write!(f, "{least}"),
            Times(least, Some(most)) => write!(f, "{least} to {most}"),
            Times(least, None) => write!(f, "{least} or more"),
        }
    }
}

/// One entry of `expect`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// Kernels it is for, as in [`fits`]. Without it: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernels: Option<Vec<String>>,
    /// Nobody knows beforehand which rules fire and which operations fail: that no rule fired is no reproach, and what the disk's
    /// failures and lies explain is no finding ([`crate::explained`]).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub open: bool,
    /// The verdict. Without it: `same` or `allowed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Outcome>,
    /// Kinds of findings that must show, each at least once; no other may.
    #[serde(default)]
    pub findings: BTreeSet<String>,
    /// How often rules must have fired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fired: Option<BTreeMap<String, Times>>,
    /// What the reads of a file must give, in the order of the workload; a read that gives nothing is an empty list.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reads: BTreeMap<String, Vec<Vec<Stretch>>>,
    /// What files must hold on the image after the run, read on the host without the guest or the disk.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub image: BTreeMap<String, Vec<Stretch>>,
}

/// Content of a stretch of a file, as a pattern map tells it. What is left out may be anything.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stretch {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
    /// What it is.
    pub is: Is,
    /// Name of a `pattern`, also of a `misplaced` one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where in the file a `misplaced` pattern belongs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// Disk sector whose `past` it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sector: Option<u64>,
}

/// The word for a content, as in a pattern map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Is {
    /// All zero.
    Zero,
    /// A pattern in its place.
    Pattern,
    /// A pattern in another place.
    Misplaced,
    /// What the disk held before the run.
    Past,
    /// None of these.
    Other,
}

impl Stretch {
    /// Whether a run of a pattern map is this.
    pub fn fits(&self, run: &Run) -> bool {
        let (is, name, from, sector) = match &run.content {
            Content::Zero => (Is::Zero, None, None, None),
            Content::Pattern { name } => (Is::Pattern, Some(name), None, None),
            Content::Misplaced { name, from } => (Is::Misplaced, Some(name), Some(from), None),
            Content::Past { sector, .. } => (Is::Past, None, None, Some(sector)),
            Content::Other { .. } => (Is::Other, None, None, None),
        };
        (self.offset, self.len, self.is) == (run.offset, run.len, is)
            && self.name.as_ref().is_none_or(|wanted| Some(wanted) == name)
            && self.from.as_ref().is_none_or(|wanted| Some(wanted) == from)
            && self.sector.as_ref().is_none_or(|wanted| Some(wanted) == sector)
    }
}

/// What is held against an expectation.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// Verdict by the oracles alone, with its reason.
    pub outcome: Outcome,
    /// Why that verdict.
    pub why: &'a str,
    /// All findings.
    pub findings: &'a [Finding],
    /// Every rule of the script with how often it fired; a rule that never fired stands here with 0.
    pub fired: &'a BTreeMap<String, u64>,
    /// What the script's own `expect` found missing, from vhost-blk.
    pub script_unmet: Option<&'a str>,
    /// What the reads of each file gave, in the order of the workload.
    pub reads: &'a BTreeMap<String, Vec<Vec<Run>>>,
    /// What files hold on the image; none: the file is not there.
    pub image: &'a BTreeMap<String, Option<Vec<Run>>>,
}

/// What becomes of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conclusion {
    /// The verdict; `Unjudged` where nothing of the script happened and nobody expected that.
    pub outcome: Outcome,
    /// All is as the scenario expects.
    pub as_expected: bool,
    /// Exit code of the program.
    pub exit_code: u8,
    /// The verdict's reason, then what is not as expected.
    pub why: String,
}

/// `pattern` is a version or the beginning of one, up to a place where a number ends: "6.1" fits "6.1.0-56-cloud-amd64",
/// not "6.12.1".
pub fn fits(pattern: &str, release: &str) -> bool {
    release.strip_prefix(pattern).is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// The first entry whose `kernels` fits; without one: `same` or `allowed`, and no findings.
pub fn choose(expect: &[Expectation], release: &str) -> Expectation {
    let for_this = |entry: &&Expectation| match &entry.kernels {
        None => true,
        Some(kernels) => kernels.iter().any(|pattern| fits(pattern, release)),
    };
    expect.iter().find(for_this).cloned().unwrap_or_default()
}

/// Holds a run against what was expected.
pub fn conclude(expected: &Expectation, seen: &Seen<'_>) -> Conclusion {
    let (outcome, mut why) = outcome_of(expected, seen);
    let unexpected = unexpected_findings(expected, seen.findings);
    let mut complaints = Vec::new();
    complaints.extend(verdict_complaint(expected, outcome));
    complaints.extend(unexpected.iter().map(|id| format!("the finding {id} was not expected")));
    complaints.extend(missing_findings(expected, seen.findings));
    complaints.extend(fired_complaints(expected, seen.fired));
    complaints.extend(read_complaints(expected, seen.reads));
    complaints.extend(image_complaints(expected, seen.image));
    complaints.extend(seen.script_unmet.map(|what| format!("the script's own expect is not met: {what}")));
    for complaint in &complaints {
        why.push_str("; ");
        why.push_str(complaint);
    }
    let as_expected = complaints.is_empty();
    let exit_code = exit_code(outcome, as_expected, !unexpected.is_empty());
    Conclusion { outcome, as_expected, exit_code, why }
}

/// A script of which nothing happened tested nothing, unless `fired` says that this was the point.
fn outcome_of(expected: &Expectation, seen: &Seen<'_>) -> (Outcome, String) {
    let idle = !seen.fired.is_empty() && seen.fired.values().all(|&count| count == 0);
    let agreed = matches!(seen.outcome, Outcome::Same | Outcome::Allowed);
    if idle && agreed && expected.fired.is_none() && !expected.open {
        let why = "no rule of the script fired, so the run shows nothing about it (say so in expect.fired where that is meant)";
        return (Outcome::Unjudged, why.to_owned());
    }
    (seen.outcome, seen.why.to_owned())
}

/// A finding is a judgement even where lockstep could not be judged, so an unexpected one goes first.
fn exit_code(outcome: Outcome, as_expected: bool, unexpected_finding: bool) -> u8 {
    match outcome {
        _ if unexpected_finding => exit::NOT_AS_EXPECTED,
        Outcome::Different => exit::NOT_AS_EXPECTED,
        Outcome::Unjudged => exit::NOT_JUDGED,
        Outcome::Same | Outcome::Allowed if as_expected => exit::AS_EXPECTED,
        Outcome::Same | Outcome::Allowed => exit::NOT_AS_EXPECTED,
    }
}

fn verdict_complaint(expected: &Expectation, outcome: Outcome) -> Option<String> {
    let met = match expected.verdict {
        Some(wanted) => outcome == wanted,
        None => matches!(outcome, Outcome::Same | Outcome::Allowed),
    };
    let wanted = expected.verdict.map_or("same or allowed".to_owned(), |wanted| wanted.to_string());
    (!met).then(|| format!("the verdict is {outcome}, expected was {wanted}"))
}

fn unexpected_findings(expected: &Expectation, findings: &[Finding]) -> BTreeSet<String> {
    findings.iter().map(|finding| finding.id.clone()).filter(|id| !expected.findings.contains(id)).collect()
}

fn missing_findings(expected: &Expectation, findings: &[Finding]) -> Vec<String> {
    let shown = |id: &&String| findings.iter().any(|finding| finding.id == **id);
    let missing = expected.findings.iter().filter(|id| !shown(id));
    missing.map(|id| format!("the expected finding {id} did not show")).collect()
}

fn fired_complaints(expected: &Expectation, fired: &BTreeMap<String, u64>) -> Vec<String> {
    let wanted = expected.fired.iter().flatten();
    let count = |rule: &String| fired.get(rule).copied().unwrap_or(0);
    wanted
        .filter(|(rule, times)| !times.holds(count(rule)))
        .map(|(rule, times)| format!("rule {rule} fired {} times, expected was {times}", count(rule)))
        .collect()
}

fn read_complaints(expected: &Expectation, reads: &BTreeMap<String, Vec<Vec<Run>>>) -> Vec<String> {
    let complaints = |(path, wanted): (&String, &Vec<Vec<Stretch>>)| {
        let gave = reads.get(path).map(Vec::as_slice).unwrap_or_default();
        let mut complaints = Vec::new();
        if gave.len() != wanted.len() {
            complaints.push(format!("{path} was read {} times, expected was {}", gave.len(), wanted.len()));
        }
        let differing = gave.iter().zip(wanted).enumerate().filter(|(_, (gave, wanted))| !holds(gave, wanted));
        complaints.extend(differing.map(|(nth, (gave, wanted))| {
            format!("read {} of {path} gave {}, expected was {}", nth + 1, say(gave), say(wanted))
        }));
        complaints
    };
    expected.reads.iter().flat_map(complaints).collect()
}

fn image_complaints(expected: &Expectation, image: &BTreeMap<String, Option<Vec<Run>>>) -> Vec<String> {
    let complaint = |(path, wanted): (&String, &Vec<Stretch>)| match image.get(path) {
        None => Some(format!("the image was not looked at, so what {path} holds is not known")),
        Some(None) => Some(format!("{path} is not on the image")),
        Some(Some(held)) if holds(held, wanted) => None,
        Some(Some(held)) => Some(format!("{path} on the image is {}, expected was {}", say(held), say(wanted))),
    };
    expected.image.iter().filter_map(complaint).collect()
}

fn holds(held: &[Run], wanted: &[Stretch]) -> bool {
    held.len() == wanted.len() && wanted.iter().zip(held).all(|(wanted, run)| wanted.fits(run))
}

fn say<T: Serialize>(stretches: &[T]) -> String {
    serde_json::to_string(stretches).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    static NO_IMAGE: BTreeMap<String, Option<Vec<Run>>> = BTreeMap::new();
    static NO_READS: BTreeMap<String, Vec<Vec<Run>>> = BTreeMap::new();

    fn fired(count: u64) -> BTreeMap<String, u64> {
        BTreeMap::from([("w3".to_owned(), count)])
    }

    fn seen<'a>(outcome: Outcome, findings: &'a [Finding], fired: &'a BTreeMap<String, u64>) -> Seen<'a> {
        Seen { outcome, why: "", findings, fired, script_unmet: None, reads: &NO_READS, image: &NO_IMAGE }
    }

    fn expecting(findings: &[&str]) -> Expectation {
        Expectation { findings: findings.iter().map(|&id| id.to_owned()).collect(), ..Expectation::default() }
    }

    fn stale() -> Vec<Finding> {
        vec![Finding::new("stale-data-read", "")]
    }

    #[test]
    fn a_version_fits_up_to_where_a_number_ends() {
        assert!(fits("6.1", "6.1.0-56-cloud-amd64"));
        assert!(fits("6.1", "6.1"));
        assert!(fits("6.12.107", "6.12.107+deb13-cloud-amd64"));
        assert!(!fits("6.1", "6.12.107+deb13-cloud-amd64"));
        assert!(!fits("6.12", "6.1.0-56-cloud-amd64"));
    }

    #[test]
    fn the_first_entry_that_fits_counts_and_one_without_kernels_fits_all() {
        let old = Expectation { kernels: Some(vec!["5.10".into(), "6.1".into()]), ..expecting(&["stale-data-read"]) };
        let expect = [old.clone(), expecting(&[])];
        assert_eq!(choose(&expect, "6.1.0-56-cloud-amd64"), old);
        assert_eq!(choose(&expect, "6.12.107+deb13-cloud-amd64"), expecting(&[]));
        assert_eq!(choose(&expect[..1], "7.2.13"), Expectation::default());
    }

    #[test]
    fn exit_codes_follow_verdict_findings_and_fired() {
        use Outcome::{Allowed, Different, Same, Unjudged};
        let none = vec![];
        type Case<'a> = (Outcome, &'a [Finding], &'a [&'a str], u8, bool);
        let cases: &[Case<'_>] = &[
            (Same, &none, &[], 0, true),
            (Allowed, &none, &[], 0, true),
            (Different, &none, &[], 1, false),
            (Unjudged, &none, &[], 3, false),
            (Same, &stale(), &["stale-data-read"], 0, true),
            (Same, &stale(), &[], 1, false),
            (Same, &none, &["stale-data-read"], 1, false),
            (Unjudged, &stale(), &[], 1, false),
            (Unjudged, &none, &["stale-data-read"], 3, false),
            (Different, &stale(), &["stale-data-read"], 1, false),
        ];
        for (outcome, findings, expected, code, as_expected) in cases {
            let conclusion = conclude(&expecting(expected), &seen(*outcome, findings, &fired(1)));
            assert_eq!((conclusion.exit_code, conclusion.as_expected), (*code, *as_expected), "{conclusion:?}");
        }
    }

    #[test]
    fn a_script_none_of_whose_rules_fired_is_unjudged_unless_fired_says_so() {
        let idle = fired(0);
        let conclusion = conclude(&Expectation::default(), &seen(Outcome::Same, &[], &idle));
        assert_eq!((conclusion.outcome, conclusion.exit_code), (Outcome::Unjudged, 3));
        let meant =
            Expectation { fired: Some([("w3".to_owned(), Times(0, Some(0)))].into()), ..Expectation::default() };
        assert_eq!(conclude(&meant, &seen(Outcome::Same, &[], &idle)).exit_code, 0);
        let open = Expectation { open: true, ..Expectation::default() };
        let conclusion = conclude(&open, &seen(Outcome::Same, &[], &idle));
        assert_eq!(
            (conclusion.outcome, conclusion.exit_code),
            (Outcome::Same, 0),
            "nobody knew which rules would fire"
        );
        assert_eq!(conclude(&open, &seen(Outcome::Same, &stale(), &idle)).exit_code, 1);
        let no_rules = BTreeMap::new();
        assert_eq!(conclude(&Expectation::default(), &seen(Outcome::Same, &[], &no_rules)).exit_code, 0);
    }

    #[test]
    fn an_idle_script_does_not_hide_a_difference() {
        let idle = fired(0);
        let conclusion = conclude(&Expectation::default(), &seen(Outcome::Different, &[], &idle));
        assert_eq!((conclusion.outcome, conclusion.exit_code), (Outcome::Different, 1));
    }

    #[test]
    fn an_expected_unjudged_is_as_expected_and_still_not_judged() {
        let expected = Expectation { verdict: Some(Outcome::Unjudged), ..Expectation::default() };
        let conclusion = conclude(&expected, &seen(Outcome::Same, &[], &fired(0)));
        assert_eq!((conclusion.exit_code, conclusion.as_expected), (3, true));
    }

    #[test]
    fn a_rule_outside_its_range_fails_the_run_and_the_reason_names_it() {
        let expected =
            Expectation { fired: Some([("w3".to_owned(), Times(1, Some(1)))].into()), ..Expectation::default() };
        let conclusion = conclude(&expected, &seen(Outcome::Same, &[], &fired(2)));
        assert_eq!(conclusion.exit_code, 1);
        assert!(conclusion.why.contains("rule w3 fired 2 times, expected was 1"), "{}", conclusion.why);
    }

    #[test]
    fn the_image_must_hold_exactly_what_is_expected() {
        let runs = |len| vec![Run { offset: 0, len, content: Content::Zero }];
        let expected = Expectation { image: [("f".to_owned(), vec![zeros(512)])].into(), ..Expectation::default() };
        let fired = fired(1);
        for (held, code) in [(Some(Some(512)), 0), (Some(Some(1024)), 1), (Some(None), 1), (None, 1)] {
            let image = held.map(|held| ("f".to_owned(), held.map(runs))).into_iter().collect();
            let seen = Seen { image: &image, ..seen(Outcome::Same, &[], &fired) };
            assert_eq!(conclude(&expected, &seen).exit_code, code, "{held:?}");
        }
    }

    fn zeros(len: u64) -> Stretch {
        Stretch { offset: 0, len, is: Is::Zero, name: None, from: None, sector: None }
    }

    #[test]
    fn every_read_must_give_what_is_expected_and_none_may_be_missing() {
        let runs = |len| vec![Run { offset: 0, len, content: Content::Zero }];
        let reads = [("f".to_owned(), vec![vec![zeros(512)], vec![]])].into();
        let expected = Expectation { reads, ..Expectation::default() };
        let fired = fired(1);
        for (gave, code) in [
            (vec![runs(512), vec![]], 0),
            (vec![runs(512), runs(512)], 1),
            (vec![runs(1024), vec![]], 1),
            (vec![runs(512)], 1),
            (vec![runs(512), vec![], vec![]], 1),
        ] {
            let reads = [("f".to_owned(), gave.clone())].into();
            let seen = Seen { reads: &reads, ..seen(Outcome::Same, &[], &fired) };
            assert_eq!(conclude(&expected, &seen).exit_code, code, "{gave:?}");
        }
    }

    #[test]
    fn a_stretch_fits_by_what_it_says_and_not_by_what_it_leaves_out() {
        let stretch = |json: &str| serde_json::from_str::<Stretch>(json).expect("a stretch");
        let run = |content| Run { offset: 0, len: 512, content };
        let past = run(Content::Past { nonce: 7, sector: 80 });
        assert!(stretch(r#"{"offset": 0, "len": 512, "is": "past"}"#).fits(&past));
        assert!(stretch(r#"{"offset": 0, "len": 512, "is": "past", "sector": 80}"#).fits(&past));
        assert!(!stretch(r#"{"offset": 0, "len": 512, "is": "past", "sector": 81}"#).fits(&past));
        let astray = run(Content::Misplaced { name: "new".into(), from: 4096 });
        assert!(stretch(r#"{"offset": 0, "len": 512, "is": "misplaced", "name": "new", "from": 4096}"#).fits(&astray));
        assert!(!stretch(r#"{"offset": 0, "len": 512, "is": "misplaced", "name": "old"}"#).fits(&astray));
        assert!(!stretch(r#"{"offset": 0, "len": 512, "is": "pattern", "name": "new"}"#).fits(&astray));
    }

    #[test]
    fn a_scripts_own_unmet_expect_fails_the_run() {
        let fired = fired(1);
        let seen = Seen { script_unmet: Some("w3 fired 1 times"), ..seen(Outcome::Same, &[], &fired) };
        assert_eq!(conclude(&Expectation::default(), &seen).exit_code, 1);
    }
}
