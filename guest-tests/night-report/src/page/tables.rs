//! Numbers: scenarios per kernel, what each judge said, what the night was asked.

use super::{Told, section, table};
use html_page::escape;
use night_results::Shard;

pub(super) fn kernels(told: &Told<'_>) -> String {
    let mut rows = String::new();
    for (series, counts) in &told.summary.kernels {
        rows += &format!(
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(series),
            counts.run,
            counts.plain,
            counts.failed,
            counts.unjudged,
            counts.infrastructure
        );
    }
    let heads = ["kernel", "scenarios", "plain", "failed", "not judged", "lost to the machine"];
    let kernels = section("kernels", "Scenarios per kernel", &table(&heads, &rows));
    kernels + &oracles(told)
}

/// Only `pass`, `same` and `allowed` are good news; a judge that did not apply or did not run has said nothing.
fn oracles(told: &Told<'_>) -> String {
    let mut rows = String::new();
    for (judge, words) in &told.summary.oracles {
        let good = |word: &str| ["pass", "same", "allowed"].contains(&word);
        let silent = |word: &str| ["not_applicable", "not_run"].contains(&word);
        let sum = |wanted: &dyn Fn(&str) -> bool| -> u64 {
            words.iter().filter(|(word, _)| wanted(word)).map(|(_, n)| n).sum()
        };
        let all: Vec<String> = words.iter().map(|(word, n)| format!("{word} {n}")).collect();
        rows += &format!(
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            escape(judge),
            sum(&good),
            sum(&|word| !good(word) && !silent(word)),
            sum(&silent),
            escape(&all.join(", "))
        );
    }
    let note = "<p class=\"muted\">A judge that did not apply or did not run has passed nothing.</p>";
    let inside = if rows.is_empty() {
        "<p>No judge has said anything.</p>".to_owned()
    } else {
        table(&["judge", "good", "not good", "said nothing", "words"], &rows) + note
    };
    section("oracles", "What the judges said", &inside)
}

/// What was asked, of which programs, on which machines.
pub(super) fn asked(told: &Told<'_>) -> String {
    let asked = &told.night.asked;
    let list = |all: &[String]| if all.is_empty() { "none".to_owned() } else { all.join(", ") };
    let missing = Shard::missing(&asked.shards);
    let mut facts = vec![
        ("began", asked.began.clone()),
        ("seeds", list(&asked.seeds)),
        ("kernels", list(&asked.kernels)),
        ("kernel of its own", asked.kernel.clone().unwrap_or_else(|| "none".into())),
        ("budget", asked.budget_s.map_or_else(|| "none".into(), |s| format!("{s} s"))),
        ("jobs", asked.jobs.to_string()),
        ("shards", asked.shards.iter().map(Shard::to_string).collect::<Vec<_>>().join(", ")),
        ("old failing seeds", list(&asked.old)),
        ("started", format!("{} times", told.night.state.starts)),
    ];
    if !missing.is_empty() {
        facts.push(("shards that are missing", missing.iter().map(Shard::to_string).collect::<Vec<_>>().join(", ")));
    }
    for versions in &asked.versions {
        facts.push(("programs", format!("guest-tests {}; {}", versions.guest_tests, versions.qemu)));
    }
    for host in &asked.hosts {
        let text = format!("{}, {} CPUs, {} MiB, Linux {}", host.accel, host.cpus, host.memory_mib, host.kernel);
        facts.push(("machine", text));
    }
    let one = |(key, value): &(&str, String)| format!("<div><dt>{key}</dt><dd>{}</dd></div>", escape(value));
    section(
        "asked",
        "What was asked",
        &format!("<dl class=\"facts\">{}</dl>", facts.iter().map(one).collect::<String>()),
    )
}
