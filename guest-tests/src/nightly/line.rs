//! The line of a unit, from what was recorded and judged.

use crate::coverage;
use crate::failure::exit;
use crate::judge::{Judged, Recorded};
use crate::triage;
use crate::verdict::{self, Verdict};
use night_results::{Compared, Outcome, PowerCuts, ResultLine, VerdictWord};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Fills in what judging gave.
pub fn fill(line: &mut ResultLine, recorded: &Recorded, judged: &Judged) {
    let verdict = &judged.verdict;
    line.kernel.clone_from(&verdict.kernel);
    line.dialect.clone_from(&verdict.dialect);
    line.outcome = outcome(verdict);
    line.verdict = Some(word(verdict.verdict));
    line.oracles = Some(oracles(verdict));
    line.findings =
        verdict.findings.iter().map(|finding| finding.id.clone()).collect::<BTreeSet<_>>().into_iter().collect();
    line.why.clone_from(&verdict.why);
    let coverage = coverage::of(recorded, judged);
    (line.fired, line.armed, line.pairs) = (coverage.fired, coverage.armed, coverage.pairs);
    if line.outcome != Outcome::Plain {
        line.signature = triage::signature(recorded, judged).map(|named| named.for_night());
    }
    line.compared = Compared {
        io_ends: verdict.compared.io_ends,
        bios: verdict.compared.bios,
        requests: verdict.compared.requests,
        responses: verdict.compared.responses,
    };
    line.power_cuts = recorded.host.cuts.as_ref().map(|cuts| PowerCuts {
        cuts: cuts.cuts,
        states: cuts.states,
        judged: cuts.judged,
        promised_files: cuts.promised_files,
        losses: cuts.losses,
        bad: cuts.bad.len() as u64,
    });
}

fn outcome(verdict: &Verdict) -> Outcome {
    match verdict.exit_code {
        exit::AS_EXPECTED => Outcome::Plain,
        exit::NOT_JUDGED => Outcome::Unjudged,
        _ => Outcome::Failed,
    }
}

fn word(outcome: verdict::Outcome) -> VerdictWord {
    match outcome {
        verdict::Outcome::Same => VerdictWord::Same,
        verdict::Outcome::Allowed => VerdictWord::Allowed,
        verdict::Outcome::Different => VerdictWord::Different,
        verdict::Outcome::Unjudged => VerdictWord::Unjudged,
    }
}

/// By their names in verdict.json, whichever there are.
fn oracles(verdict: &Verdict) -> BTreeMap<String, String> {
    let value = serde_json::to_value(&verdict.oracles).unwrap_or_default();
    let says = |(name, says): (&String, &Value)| (name.clone(), says.as_str().unwrap_or_default().to_owned());
    value.as_object().into_iter().flatten().map(says).collect()
}
