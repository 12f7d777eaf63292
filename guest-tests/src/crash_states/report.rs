//! What became of all states, for people and for programs.

use super::{Examined, Folder, first_of, kernel};
use crate::durability::Broken;
use crate::failure::exit;
use crate::verdict::Check;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// A state that is no whole file system, or has not what it should.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Bad {
    /// The cut it is of.
    pub cut: u64,
    /// Its file in the folder.
    pub file: String,
    /// `seq`s of the unflushed writes that survive in it.
    pub survives: Vec<u64>,
    /// Which step found it.
    pub step: String,
    /// What the step said.
    pub said: String,
    /// What is missing or wrong in its files.
    pub broken: Vec<Broken>,
    /// The command that shows it again.
    pub repeat: String,
}

/// What was done about the contents of files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Contents {
    /// They were to be.
    pub wanted: bool,
    /// They were held against the workload.
    pub judged: bool,
    /// Why not.
    pub why: String,
    /// Files of which something was promised, summed over all states.
    pub promised_files: u64,
    /// Bytes that were promised and held against what was there, summed over all states.
    pub promised_bytes: u64,
}

/// What became of all states.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// pass, fail or not_run, as it then stands in verdict.json.
    pub durability: Verdict,
    /// Power cuts.
    pub cuts: u64,
    /// Sets of surviving writes that the device tried.
    pub tried: u64,
    /// States that differ within their cut, each judged.
    pub distinct: u64,
    /// Images that differ over all cuts, each examined.
    pub images: u64,
    /// States that are as they should be.
    pub good: u64,
    /// The others.
    pub bad: u64,
    /// Cuts of which not every state that was allowed was tried.
    pub sampled_cuts: u64,
    /// What all states' files hold, together.
    pub snapshot_bytes: u64,
    /// Bytes that the device's cache, full, wrote to the image before a flush: they survive every cut.
    pub early_bytes: u64,
    /// About the files.
    pub contents: Contents,
    /// About the guest's own kernel; none: it was not asked.
    pub kernel: Option<kernel::Report>,
    /// Each bad one.
    pub bad_states: Vec<Bad>,
}

/// [`Check`] with a default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Verdict(pub Check);

impl Default for Verdict {
    fn default() -> Verdict {
        Verdict(Check::NotRun)
    }
}

impl Report {
    /// Counts. `repeat` is the command for one state's file.
    pub(crate) fn of(folder: &Folder, examined: &[Examined], judged: bool, repeat: impl Fn(&str) -> String) -> Report {
        let cuts: BTreeSet<u64> = examined.iter().map(|state| state.cut).collect();
        let of_them = || folder.cuts.iter().filter(|cut| cuts.contains(&cut.cut) || cut.states.is_empty());
        let images: BTreeSet<&[u8; 32]> = examined.iter().map(|state| &state.image).collect();
        let bad = |state: &&Examined| !state.is_good();
        let sum = |what: fn(&Examined) -> u64| examined.iter().map(what).sum();
        let bad_states: Vec<Bad> = examined.iter().filter(bad).map(|state| bad_state(state, &repeat)).collect();
        Report {
            durability: Verdict::default(),
            cuts: of_them().count() as u64,
            tried: of_them().map(|cut| cut.tried).sum(),
            distinct: examined.len() as u64,
            images: images.len() as u64,
            good: (examined.len() - bad_states.len()) as u64,
            bad: bad_states.len() as u64,
            sampled_cuts: of_them().filter(|cut| !cut.complete).count() as u64,
            snapshot_bytes: sum(|state| state.state.bytes),
            early_bytes: 0,
            contents: Contents {
                wanted: true,
                judged,
                why: String::new(),
                promised_files: sum(|state| state.judgement.promised_files),
                promised_bytes: sum(|state| state.judgement.promised_bytes),
            },
            kernel: None,
            bad_states,
        }
        .concluded()
    }

    /// With what the guest's kernel said of some of them.
    pub fn with_kernel(self, kernel: kernel::Report) -> Report {
        Report { kernel: Some(kernel), ..self }.concluded()
    }

    fn concluded(mut self) -> Report {
        self.durability = Verdict(match (self.all_good(), self.contents.judged) {
            (false, _) => Check::Fail,
            (true, true) if self.contents.promised_files > 0 => Check::Pass,
            _ => Check::NotRun,
        });
        self
    }

    fn all_good(&self) -> bool {
        self.bad == 0 && self.kernel.as_ref().is_none_or(|kernel| kernel.disagreements.is_empty())
    }

    /// Why nothing is judged although nothing is bad; none: it is.
    pub fn nothing_judged(&self) -> Option<String> {
        let sentence = match self {
            Report { distinct: 0, .. } => "there is no state: the script cut no power with \"then\": \"snapshot\"",
            Report { contents: Contents { wanted: true, judged: false, why, .. }, .. } => why,
            Report { contents: Contents { judged: true, promised_files: 0, .. }, .. } => {
                "before none of the cuts anything had surely been fsynced, so nothing was promised"
            }
            Report { kernel: Some(kernel::Report { unjudged: Some(_), .. }), .. } => {
                "the guest's kernel did not see all the states it was to see"
            }
            _ => return None,
        };
        Some(sentence.to_owned())
    }

    /// The program's exit code.
    pub fn exit_code(&self) -> u8 {
        match self.nothing_judged() {
            _ if !self.all_good() => exit::NOT_AS_EXPECTED,
            Some(_) => exit::NOT_JUDGED,
            None => exit::AS_EXPECTED,
        }
    }
}

fn bad_state(state: &Examined, repeat: &impl Fn(&str) -> String) -> Bad {
    let file = state.state.file.display().to_string();
    let (step, said) = match &state.damage {
        Some(damage) => (damage.step, damage.said.clone()),
        None => ("contents", first_of(&state.judgement.broken).to_owned()),
    };
    let repeat = repeat(&file);
    let survives = state.state.survives.clone();
    Bad { cut: state.cut, file, survives, step: step.to_owned(), said, broken: state.judgement.broken.clone(), repeat }
}

/// The line that says what is wrong, among those that say what was done.
fn telling(said: &str) -> &str {
    let done = |line: &&str| line.starts_with("Pass") || line.ends_with("recovering journal") || line.trim().is_empty();
    said.lines().find(|line| !done(line)).unwrap_or(said.trim())
}

/// So many bad states are told one by one; JSON has them all.
const TOLD: usize = 20;

/// The report for people.
pub fn describe(report: &Report) -> String {
    let Report { cuts, tried, distinct, images, good, bad, sampled_cuts, contents, .. } = report;
    let mut text = format!(
        "{cuts} power cuts, {tried} states tried, {distinct} distinct ({images} images): {good} good, {bad} bad\n"
    );
    match contents.judged {
        true => {
            let Contents { promised_files, promised_bytes, .. } = contents;
            text +=
                &format!("contents: {promised_bytes} bytes of {promised_files} files were promised and looked for\n");
        }
        false => text += &format!("contents: not looked at: {}\n", contents.why),
    }
    if *sampled_cuts > 0 {
        text += &format!("of {sampled_cuts} cuts only a part of the states was tried\n");
    }
    if report.early_bytes > 0 {
        let early = report.early_bytes;
        text += &format!(
            "the device's cache was full: {early} bytes reached the image before a flush and survive every cut\n"
        );
    }
    text += &report.kernel.as_ref().map(kernel::Report::describe).unwrap_or_default();
    for state in report.bad_states.iter().take(TOLD) {
        let said = telling(&state.said);
        let (file, writes) = (&state.file, state.survives.len());
        text += &format!("bad: {file} ({writes} unflushed writes survive), {}: {said}\n", state.step);
        text += &format!("     again: {}\n", state.repeat);
    }
    if report.bad_states.len() > TOLD {
        text += &format!("and {} more; --format json has them all\n", report.bad_states.len() - TOLD);
    }
    if let Some(why) = report.nothing_judged() {
        text += &format!("not judged: {why}\n");
    }
    text
}
