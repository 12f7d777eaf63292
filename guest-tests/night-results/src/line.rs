//! One line of the ledger: what came out of one unit.

use crate::Unit;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// See the module. docs/nightly.md tells each field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResultLine {
    /// What was run.
    pub unit: Unit,
    /// Name of its scenario.
    pub scenario: String,
    /// Release of the guest's kernel; empty: no guest came up to say it.
    pub kernel: String,
    /// The kernel's series, as it was asked for.
    pub series: String,
    /// The replica's dialect; empty: nothing was judged.
    pub dialect: String,
    /// The one word.
    pub outcome: Outcome,
    /// The verdict; none: there is none.
    pub verdict: Option<VerdictWord>,
    /// What each judge says, as in verdict.json.
    pub oracles: Option<BTreeMap<String, String>>,
    /// Ids of the findings, sorted, each once.
    pub findings: Vec<String>,
    /// The reason for the outcome, in a sentence.
    pub why: String,
    /// What tells this failure from others.
    pub signature: Option<Signature>,
    /// What looking again gave.
    pub triage: Option<Triage>,
    /// Indices run before it in the same boot, in their order.
    pub after: Vec<u32>,
    /// What the script did, by what it did it to.
    pub fired: Vec<Fired>,
    /// What the script could have done.
    pub armed: Vec<Armed>,
    /// Pairs of states that the replica was seen in.
    pub pairs: Vec<String>,
    /// How much was compared.
    pub compared: Compared,
    /// What became of the script's power cuts that leave states; none: it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub power_cuts: Option<PowerCuts>,
    /// Wall time of the unit, its judging included.
    pub took_ms: u64,
    /// Wall time of the boot that it was the first unit of.
    pub boot_ms: Option<u64>,
    /// The command that shows it again.
    pub repro: String,
    /// After a merge of machines that disagree: the lines this one was made of, one for each thing that was said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub merged: Vec<ResultLine>,
}

/// What came out. The order is from what weighs least to what weighs most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Something outside the guest failed, twice: nothing is known of the unit.
    Infrastructure,
    /// Nothing to report. Of a canary: it was noticed.
    Plain,
    /// Not enough was seen to say.
    Unjudged,
    /// A difference, or a finding not expected. Of a canary: it went unnoticed.
    Failed,
}

/// The word of verdict.json.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VerdictWord {
    /// Guest and replica did the same.
    Same,
    /// They differ only where a listed exception allows it.
    Allowed,
    /// They differ.
    Different,
    /// Not enough was seen to say.
    Unjudged,
}

/// What tells one failure from another: words without numbers, and a short name of them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// First 12 hexadecimal digits of the text's SHA-256.
    pub id: String,
    /// The words.
    pub text: String,
    /// What else was found; no part of the name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub with: Vec<String>,
}

impl Signature {
    /// The signature with these words.
    pub fn of(text: impl Into<String>) -> Signature {
        let text = text.into();
        let hash = Sha256::digest(text.as_bytes());
        Signature { id: hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect(), text, with: Vec::new() }
    }
}

/// What looking at a failure again gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Triage {
    /// Whether it showed again.
    pub again: Again,
    /// What was needed for that.
    pub needed: Option<Needed>,
    /// How often it showed.
    pub shown: u32,
    /// How often it was tried.
    pub tried: u32,
    /// What it was made smaller to.
    pub shrunk: Option<Shrunk>,
}

/// Whether a failure showed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Again {
    /// Every time.
    Reproducible,
    /// Sometimes.
    Flaky,
    /// The machine failed, not the guest.
    Infrastructure,
    /// Nobody looked.
    NotTried,
}

/// What a failure needs in order to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Needed {
    /// Its scenario alone, in a fresh boot.
    Alone,
    /// The scenarios that ran before it in the same boot.
    Predecessors,
}

/// What a failure was made smaller to: counts before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shrunk {
    /// Rules of the script.
    pub rules: [u32; 2],
    /// Operations of the workload.
    pub ops: [u32; 2],
    /// Where the small one lies, below the night's folder.
    pub folder: String,
}

/// A fault that happened.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fired {
    /// What was done.
    pub action: String,
    /// The request it was done to.
    pub op: String,
    /// What the block is to ext4.
    pub class: String,
    /// What the guest was answered.
    pub outcome: String,
    /// How often.
    pub n: u64,
}

/// A fault that a script was ready for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Armed {
    /// What would be done.
    pub action: String,
    /// The request.
    pub op: String,
    /// What the block is to ext4.
    pub class: String,
}

/// How much was compared, as in verdict.json.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compared {
    /// io_ends that lived.
    pub io_ends: u64,
    /// Bios on them.
    pub bios: u64,
    /// Block requests issued.
    pub requests: u64,
    /// Responses laid side by side.
    pub responses: u64,
}

/// Power cuts of a run, and the states they may have left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PowerCuts {
    /// Cuts that came; none: the script's never did, and nothing is known of durability.
    pub cuts: u64,
    /// States that the disk wrote down.
    pub states: u64,
    /// Those that were judged.
    pub judged: u64,
    /// Files of which something had been promised, summed over these.
    pub promised_files: u64,
    /// States of a cache that lies, without what was fsynced: as they must be.
    pub losses: u64,
    /// States that may not be.
    pub bad: u64,
}

impl ResultLine {
    /// A line that says nothing yet.
    pub fn new(unit: Unit, scenario: impl Into<String>, series: impl Into<String>) -> ResultLine {
        ResultLine {
            unit,
            scenario: scenario.into(),
            kernel: String::new(),
            series: series.into(),
            dialect: String::new(),
            outcome: Outcome::Unjudged,
            verdict: None,
            oracles: None,
            findings: Vec::new(),
            why: String::new(),
            signature: None,
            triage: None,
            after: Vec::new(),
            fired: Vec::new(),
            armed: Vec::new(),
            pairs: Vec::new(),
            compared: Compared::default(),
            power_cuts: None,
            took_ms: 0,
            boot_ms: None,
            repro: String::new(),
            merged: Vec::new(),
        }
    }

    /// The line as it stands in the ledger, with its end.
    pub fn to_text(&self) -> String {
        let mut text = serde_json::to_string(self).expect("a line holds nothing that JSON cannot say");
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signatures_id_is_the_head_of_its_words_hash() {
        // printf 'x' | sha256sum
        assert_eq!(Signature::of("x").id, "2d711642b726");
    }

    #[test]
    fn the_fields_have_the_names_that_others_read() {
        let mut line = ResultLine::new("3.17".parse().unwrap(), "seed-3.17", "6.1");
        line.fired.push(Fired {
            action: "fail".into(),
            op: "write".into(),
            class: "data".into(),
            outcome: "io_error".into(),
            n: 2,
        });
        let text = concat!(
            r#"{"unit":"3.17","scenario":"seed-3.17","kernel":"","series":"6.1","dialect":"","outcome":"unjudged","#,
            r#""verdict":null,"oracles":null,"findings":[],"why":"","signature":null,"triage":null,"after":[],"#,
            r#""fired":[{"action":"fail","op":"write","class":"data","outcome":"io_error","n":2}],"armed":[],"#,
            r#""pairs":[],"compared":{"io_ends":0,"bios":0,"requests":0,"responses":0},"took_ms":0,"boot_ms":null,"#,
            r#""repro":""}"#,
            "\n"
        );
        assert_eq!(line.to_text(), text);
    }
}
