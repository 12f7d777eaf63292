//! Several ledgers as one.
//!
//! A union by unit. What two machines say alike counts once; what they say differently stays, in one line that holds both.
//! So merging is the union of sets, and neither the order nor the grouping of what is merged can show in the result.

use crate::asked::each_once;
use crate::{Again, Canary, NightJson, Outcome, ResultLine, Shard, Signature, Triage, Unit, VerdictWord};
use std::collections::BTreeMap;

/// What was said of a unit: lines that agree in this tell the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Said {
    outcome: Outcome,
    verdict: Option<VerdictWord>,
    findings: Vec<String>,
    signature: Option<Signature>,
    kernel: String,
}

/// The union of all lines, by unit.
pub fn merge(lines: impl IntoIterator<Item = ResultLine>) -> BTreeMap<Unit, ResultLine> {
    let mut said: BTreeMap<Unit, BTreeMap<Said, (String, ResultLine)>> = BTreeMap::new();
    for line in lines.into_iter().flat_map(parts) {
        let of_unit = said.entry(line.unit.clone()).or_default();
        let text = line.to_text();
        match of_unit.get(&Said::of(&line)) {
            Some((kept, _)) if *kept <= text => {}
            _ => drop(of_unit.insert(Said::of(&line), (text, line))),
        }
    }
    said.into_iter().map(|(unit, lines)| (unit, one(lines.into_values().map(|(_, line)| line).collect()))).collect()
}

/// A line that was merged before says what each of its parts said.
fn parts(line: ResultLine) -> Vec<ResultLine> {
    if line.merged.is_empty() { vec![line] } else { line.merged }
}

/// One line for what was said of a unit, which is at least one thing.
fn one(mut lines: Vec<ResultLine>) -> ResultLine {
    // Where one machine has judged, another's failure to do so tells nothing of the unit.
    if lines.iter().any(|line| line.outcome != Outcome::Infrastructure) {
        lines.retain(|line| line.outcome != Outcome::Infrastructure);
    }
    if lines.len() == 1 {
        return lines.remove(0);
    }
    let worst = lines.iter().max_by_key(|line| line.outcome).expect("there is at least one");
    let why = format!("machines disagree: {}", lines.iter().map(brief).collect::<Vec<_>>().join("; "));
    ResultLine { why, triage: Some(disagreeing(worst, &lines)), merged: lines.clone(), ..worst.clone() }
}

fn brief(line: &ResultLine) -> String {
    let words = format!("{:?}", line.outcome).to_lowercase();
    if line.why.is_empty() { words } else { format!("{words} ({})", line.why) }
}

/// How often a failure showed, over all who tried. Who has not looked again has seen it once, or has not.
fn disagreeing(worst: &ResultLine, lines: &[ResultLine]) -> Triage {
    let counts = lines.iter().map(|line| match &line.triage {
        Some(triage) if triage.tried > 0 => (triage.shown, triage.tried),
        _ => (u32::from(line.outcome == worst.outcome), 1),
    });
    let (shown, tried) = counts.fold((0, 0), |(shown, tried), (more, times)| (shown + more, tried + times));
    let triage = worst.triage.as_ref();
    Triage {
        again: Again::Flaky,
        needed: triage.and_then(|triage| triage.needed),
        shown,
        tried,
        shrunk: triage.and_then(|triage| triage.shrunk.clone()),
    }
}

impl Said {
    fn of(line: &ResultLine) -> Said {
        Said {
            outcome: line.outcome,
            verdict: line.verdict,
            findings: line.findings.clone(),
            signature: line.signature.clone(),
            kernel: line.kernel.clone(),
        }
    }
}

/// What the merged nights were asked, or why they cannot be merged: a unit of one kernel is not a unit of another.
pub fn merge_asked(nights: &[NightJson]) -> Result<NightJson, String> {
    let Some(first) = nights.iter().min_by(|a, b| a.began.cmp(&b.began)) else {
        return Err("no night to merge".into());
    };
    if let Some(other) = nights.iter().find(|night| night.kernel != first.kernel) {
        let name = |night: &NightJson| night.kernel.clone().unwrap_or_else(|| "those of the seeds".into());
        return Err(format!(
            "these nights ran different kernels ({} and {}), so that the same seed is not the same unit",
            name(first),
            name(other)
        ));
    }
    let all = || nights.iter();
    Ok(NightJson {
        night: NightJson::VERSION,
        began: first.began.clone(),
        seeds: each_once(all().flat_map(|night| night.seeds.clone())),
        kernels: each_once(all().flat_map(|night| night.kernels.clone())),
        kernel: first.kernel.clone(),
        budget_s: all().filter_map(|night| night.budget_s).max(),
        jobs: all().map(|night| night.jobs).sum(),
        shards: each_once(all().flat_map(|night| night.shards.clone())),
        canaries: each_once(all().flat_map(|night| night.canaries.clone())),
        canary_only: all().all(|night| night.canary_only),
        standing: each_once(all().map(|night| night.standing.clone())).join(","),
        old: each_once(all().flat_map(|night| night.old.clone())),
        versions: each_once(all().flat_map(|night| night.versions.clone())),
        hosts: each_once(all().flat_map(|night| night.hosts.clone())),
    })
}

impl ResultLine {
    /// A planted mistake that nobody noticed.
    pub fn is_missed_canary(&self) -> bool {
        matches!(self.unit, Unit::Canary(Canary::Replica | Canary::Device)) && self.outcome != Outcome::Plain
    }
}

impl Shard {
    /// The parts that are missing of a night of which these are there.
    pub fn missing(there: &[Shard]) -> Vec<Shard> {
        let count = there.iter().map(|shard| shard.count).max().unwrap_or(1);
        let all = (0..count).map(|index| Shard { index, count });
        all.filter(|shard| !there.contains(shard) && !there.contains(&Shard::WHOLE)).collect()
    }
}
