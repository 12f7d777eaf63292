//! The count for people.

use super::{Count, Fate, LEAST_PERCENT, Mutant};
use ext4_replica::{Mutation, ShowsIn};
use std::fmt::Write;

/// All mistakes, by what they show in.
pub fn list(mutations: &[Mutation]) -> String {
    let mut text = String::new();
    for shows_in in ShowsIn::ALL {
        for mutation in mutations.iter().filter(|mutation| mutation.shows_in() == shows_in) {
            let (name, function, what) = (mutation.name(), mutation.function(), mutation.what());
            let _ = writeln!(text, "{:<10} {name:<28} {function}: {what}", shows_in.name());
        }
    }
    text
}

/// The same as one JSON document.
pub fn list_json(mutations: &[Mutation]) -> serde_json::Value {
    let one = |mutation: &Mutation| {
        serde_json::json!({
            "name": mutation.name(), "shows_in": mutation.shows_in().name(), "function": mutation.function(), "what": mutation.what(),
        })
    };
    mutations.iter().map(one).collect()
}

/// Each mistake with what became of it, survivors again at the end, and the sum.
pub fn text(count: &Count) -> String {
    let mut text = String::new();
    for mutant in &count.mutants {
        let fate = match &mutant.fate {
            Fate::Told { by, why } => format!("told      {by}: {why}"),
            Fate::Survived { .. } => "SURVIVED".to_owned(),
        };
        let _ = writeln!(text, "{:<10} {:<28} {fate}", mutant.shows_in, mutant.name);
    }
    text.push('\n');
    count.mutants.iter().filter(|mutant| mutant.survived()).for_each(|mutant| text += &survivor(mutant));
    for name in &count.told_after_all {
        let _ = writeln!(text, "{name} is listed as a survivor, but is told: drop it from mutants.toml");
    }
    text + &sum(count)
}

fn survivor(mutant: &Mutant) -> String {
    let Fate::Survived { says_otherwise_in, reason } = &mutant.fate else { return String::new() };
    let effect = match says_otherwise_in {
        Some(recording) => format!("the replica says something else in {recording}, and the judge does not mind"),
        None => "it changes nothing that the replica says in any recording, and breaks no searched machine".to_owned(),
    };
    let reason =
        reason.as_deref().unwrap_or("NOT EXPLAINED: record a guest that shows it, or say in mutants.toml why none can");
    format!("survived: {} ({}: {})\n  {effect}\n  {reason}\n", mutant.name, mutant.function, mutant.what)
}

fn sum(count: &Count) -> String {
    let (told, all) = (count.told, count.mutants.len());
    let percent = if all == 0 { 0.0 } else { told as f64 * 100.0 / all as f64 };
    let least = if count.whole { format!(" (at least {LEAST_PERCENT} % must be)") } else { String::new() };
    format!(
        "{told} of {all} wrong replicas are told from the true one: {percent:.1} %{least}, on {} recordings and {} searched machines\n",
        count.recordings.len(),
        count.machines.len()
    )
}
