//! The verdict in plain words: what was run, what was found, what it means.
//!
//! Reads the contract fields of verdict.json. A field that is missing is never read as good news.

use super::input::ReportInput;
use serde_json::Value;
use std::collections::BTreeSet;
use writeback_events::IoEndId;

/// verdict.json's `verdict`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    Same,
    Allowed,
    Different,
    Unjudged,
}

/// How the page looks at first sight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tone {
    /// As it should be.
    Good,
    /// As expected, and that is a broken property of this kernel.
    Known,
    /// Somebody has to look.
    Bad,
    /// Nothing can be said.
    Open,
}

impl Tone {
    pub(super) fn class(self) -> &'static str {
        match self {
            Tone::Good => "good",
            Tone::Known => "known",
            Tone::Bad => "bad",
            Tone::Open => "open",
        }
    }

    /// A sign beside the colour, for those who do not see it.
    pub(super) fn sign(self) -> &'static str {
        match self {
            Tone::Good => "✓",
            Tone::Known => "!",
            Tone::Bad => "✗",
            Tone::Open => "?",
        }
    }
}

/// A finding of verdict.json.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Finding {
    pub(super) id: String,
    /// What was seen, in one sentence.
    pub(super) what: String,
    pub(super) io_end: Option<IoEndId>,
    /// Every other field, as text.
    pub(super) details: Vec<(String, String)>,
}

/// What the page says of the verdict.
pub(super) struct Summary {
    pub(super) word: Word,
    pub(super) as_expected: Option<bool>,
    exit_code: Option<u64>,
    pub(super) findings: Vec<Finding>,
    pub(super) why: String,
    pub(super) kernel: String,
    pub(super) dialect: String,
    pub(super) dialect_exact: bool,
    /// io_ends, bios, requests, responses.
    pub(super) compared: [(&'static str, Option<u64>); 4],
    pub(super) oracles: Vec<(String, String)>,
    pub(super) allowed: Vec<String>,
    pub(super) fired: Vec<(String, u64)>,
}

impl Summary {
    pub(super) fn new(verdict: &Value) -> Summary {
        let text = |key: &str| verdict[key].as_str().unwrap_or_default().to_owned();
        let count = |key| verdict["compared"][key].as_u64();
        let compared = ["io_ends", "bios", "requests", "responses"].map(|key| (key, count(key)));
        Summary {
            word: word(&text("verdict")),
            as_expected: verdict["as_expected"].as_bool(),
            exit_code: verdict["exit_code"].as_u64(),
            findings: list(&verdict["findings"]).map(finding).collect(),
            why: text("why"),
            kernel: text("kernel"),
            dialect: text("dialect"),
            dialect_exact: verdict["dialect_exact"].as_bool().unwrap_or(false),
            compared,
            oracles: oracles(&verdict["oracles"]),
            allowed: list(&verdict["allowed"]).map(plain).collect(),
            fired: counts(&verdict["fired"]),
        }
    }

    pub(super) fn tone(&self) -> Tone {
        match (self.word, self.as_expected) {
            // A finding nobody expected is a judgement, even where lockstep could not be judged.
            (Word::Unjudged, _) if self.exit_code == Some(1) => Tone::Bad,
            (Word::Unjudged, _) => Tone::Open,
            (Word::Different, _) | (_, Some(false)) => Tone::Bad,
            (_, None) if !self.findings.is_empty() => Tone::Bad,
            (_, _) if !self.findings.is_empty() => Tone::Known,
            (_, None) => Tone::Open,
            (_, Some(true)) => Tone::Good,
        }
    }

    pub(super) fn headline(&self) -> String {
        let n = plural(self.findings.len(), "finding");
        match (self.word, self.tone()) {
            (Word::Unjudged, _) if self.findings.is_empty() => "Not judged".into(),
            (Word::Unjudged, _) => format!("The path was not judged, and the guest shows {n}"),
            (Word::Different, _) => "The guest and the replica part".into(),
            (_, Tone::Good) => "The guest did what it should".into(),
            (_, Tone::Known) => format!("As expected: the replica agrees, and the guest shows {n}"),
            (_, Tone::Bad) if self.findings.is_empty() => "The replica agrees, but an expectation is not met".into(),
            (_, Tone::Bad) => format!("The replica agrees, but the guest shows {n}, not those expected"),
            (_, Tone::Open) => "The replica agrees; whether that was expected is not known".into(),
        }
    }

    /// io_ends that a finding names.
    pub(super) fn io_ends(&self) -> BTreeSet<IoEndId> {
        self.findings.iter().filter_map(|finding| finding.io_end).collect()
    }

    /// What was run.
    pub(super) fn run(&self, input: &ReportInput) -> String {
        let kernel = if self.kernel.is_empty() { "A guest kernel that is not known" } else { &self.kernel };
        let faults = input.device.iter().filter(|request| !request.fired.is_empty()).count();
        let device = match input.device.len() {
            0 => "The device's record is empty.".to_owned(),
            n => format!("The device got {}; {}.", plural(n, "request"), met(faults)),
        };
        format!("{kernel} did {} on ext4. {device}", plural(input.ops.len(), "operation"))
    }

    /// What was found.
    pub(super) fn found(&self, input: &ReportInput) -> String {
        let mut parts = vec![self.comparison()];
        if let Some(difference) = &input.first_difference {
            parts.push(format!("First difference, at {}: {}", difference.seq, sentence(&difference.text)));
        }
        if !self.allowed.is_empty() {
            parts.push(format!("{} with a known reason.", plural(self.allowed.len(), "allowed difference")));
        }
        parts.push(match self.findings.len() {
            0 => self.no_finding().into(),
            _ => format!("Broken in the guest itself: {}.", self.finding_ids()),
        });
        parts.join(" ")
    }

    /// What can be said where nothing was found: less, where not all was seen.
    pub(super) fn no_finding(&self) -> &'static str {
        match self.word {
            Word::Unjudged => "Nothing was found broken in the guest itself, but not all that could show it was seen.",
            _ => "Nothing was found broken in the guest itself.",
        }
    }

    fn comparison(&self) -> String {
        let counts: Vec<_> = self.compared.iter().filter_map(|(key, n)| n.map(|n| format!("{n} {key}"))).collect();
        match (counts.is_empty(), self.word) {
            (true, _) => "Nothing is known to have been compared.".into(),
            (_, Word::Different) => format!("Compared until they part: {}.", counts.join(", ")),
            (_, Word::Unjudged) => format!("Compared before judging stopped: {}.", counts.join(", ")),
            (_, _) => format!("Compared: {}, all the same.", counts.join(", ")),
        }
    }

    fn finding_ids(&self) -> String {
        let ids: BTreeSet<_> = self.findings.iter().map(|finding| finding.id.as_str()).collect();
        ids.into_iter().collect::<Vec<_>>().join(", ")
    }

    /// What it means.
    pub(super) fn meaning(&self, input: &ReportInput) -> String {
        let faulty = input.device.iter().any(|request| !request.fired.is_empty());
        let first = match (self.word, self.tone()) {
            (Word::Unjudged, _) if self.findings.is_empty() => {
                "This run says nothing about the kernel, neither good nor bad."
            }
            (Word::Unjudged, _) => {
                "Whether the path took the right steps is not known. The findings hold all the same."
            }
            (Word::Different, _) => {
                "This kernel took a step that the replica of its dialect would not have taken. Either the kernel is \
                 broken here, or it is not the dialect it was judged by, or the replica is wrong."
            }
            (_, Tone::Good) if faulty => "Under these faults ext4's writeback path kept every rule that was checked.",
            (_, Tone::Good) => "Without a fault ext4's writeback path kept every rule that was checked.",
            (_, Tone::Known) => {
                "The kernel's code does what it was known to do, and that is not right: the scenario names these \
                 findings for this kernel."
            }
            (_, Tone::Bad) => {
                "The path took the steps it was known to take, but what the scenario expects did not come out."
            }
            (_, Tone::Open) => "The path took the steps it was known to take.",
        };
        let mut parts = vec![first.to_owned()];
        let ids: BTreeSet<_> = self.findings.iter().map(|finding| finding.id.as_str()).collect();
        parts.extend(ids.into_iter().filter_map(finding_meaning).map(str::to_owned));
        parts.join(" ")
    }
}

/// What a finding says of a kernel, for someone who has not met it.
pub fn finding_meaning(id: &str) -> Option<&'static str> {
    Some(match id {
        "converted-after-failed-write" => {
            "An extent was marked as written although a write into it had failed: from now on reads return what was on \
             those blocks before."
        }
        "stale-data-read" => "A read gave data that was never written to this file: what the blocks held before.",
        "error-not-reported" => "A write failed, and no fsync told the program so.",
        "error-forgotten" => "A write failed, and after an unmount nobody knows of it any more.",
        "written-data-lost" => "Data that an fsync had confirmed was not there any more.",
        "file-system-damaged" => "The file system is damaged although the guest unmounted it cleanly.",
        "kernel-complaint" => "The guest's kernel itself logged that something is wrong.",
        "unexpected-result" => "A program saw another result than the scenario says it must.",
        "corrupt-data-returned" => "A read succeeded and gave bytes that nobody had ever written.",
        "contents-not-allowed" => {
            "A file did not hold what the operations' results say it must, although nothing had failed."
        }
        "errno-not-allowed" => "A program saw an error that nothing explains, or success where there could be none.",
        "extent-map-not-allowed" => "A file's blocks at the end are not those that the operations gave it.",
        "file-lost" => "A file is gone at the end, and nothing took it away.",
        "name-not-allowed" => "A name is there at the end that nothing explains.",
        _ => return None,
    })
}

fn word(text: &str) -> Word {
    match text {
        "same" => Word::Same,
        "allowed" => Word::Allowed,
        "different" => Word::Different,
        _ => Word::Unjudged,
    }
}

fn finding(value: &Value) -> Finding {
    let details =
        pairs(value).into_iter().filter(|(key, _)| !["id", "what", "io_end"].contains(&key.as_str())).collect();
    Finding {
        id: value["id"].as_str().unwrap_or("(a finding without a name)").to_owned(),
        what: value["what"].as_str().unwrap_or_default().to_owned(),
        io_end: value["io_end"].as_u64().and_then(|n| u32::try_from(n).ok()).map(IoEndId),
        details,
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

fn pairs(value: &Value) -> Vec<(String, String)> {
    let fields = value.as_object().into_iter().flatten();
    fields.filter(|(_, value)| !value.is_null()).map(|(key, value)| (key.clone(), plain(value))).collect()
}

/// Lockstep first, for it makes the verdict.
fn oracles(value: &Value) -> Vec<(String, String)> {
    let mut oracles = pairs(value);
    oracles.sort_by_key(|(name, _)| name != "lockstep");
    oracles
}

fn counts(value: &Value) -> Vec<(String, u64)> {
    let fields = value.as_object().into_iter().flatten();
    fields.map(|(key, value)| (key.clone(), value.as_u64().unwrap_or(0))).collect()
}

/// A string as it is, anything else as JSON.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

pub(super) fn plural(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

fn met(faults: usize) -> String {
    match faults {
        0 => "none of them met an injected fault".into(),
        1 => "1 of them met an injected fault".into(),
        n => format!("{n} of them met an injected fault"),
    }
}

fn sentence(text: &str) -> String {
    if text.ends_with(['.', '!', '?']) { text.to_owned() } else { format!("{text}.") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tone(verdict: &Value) -> Tone {
        Summary::new(verdict).tone()
    }

    #[test]
    fn a_verdict_that_is_missing_or_unknown_is_never_good_news() {
        for verdict in [json!(null), json!({}), json!({"verdict": "fine", "as_expected": true})] {
            assert_eq!(tone(&verdict), Tone::Open, "{verdict}");
        }
        assert_ne!(tone(&json!({"verdict": "same"})), Tone::Good);
    }

    #[test]
    fn only_an_expected_agreement_without_findings_is_good() {
        let finding = json!([{"id": "stale-data-read", "io_end": 1}]);
        let case = |word: &str, as_expected: bool, findings: &Value| {
            tone(&json!({"verdict": word, "as_expected": as_expected, "findings": findings}))
        };
        assert_eq!(case("same", true, &json!([])), Tone::Good);
        assert_eq!(case("allowed", true, &json!([])), Tone::Good);
        assert_eq!(case("same", true, &finding), Tone::Known);
        assert_eq!(case("same", false, &finding), Tone::Bad);
        assert_eq!(case("same", false, &json!([])), Tone::Bad);
        assert_eq!(case("different", true, &json!([])), Tone::Bad);
        assert_eq!(case("unjudged", true, &json!([])), Tone::Open);
    }
}
