//! Writes a night's page, and the same for programs, into its folder.
//!
//! What is told is counted from the ledger; pictures and scripts of a signature come from the folder of one unit that has
//! it. What cannot be drawn is said on the page and never ends a night.

use super::folder::{FAILURES, NightFolder, read_results};
use super::{before, told};
use crate::failure::{At, Failure};
use crate::folder::{REPORT, RunFolder, SCENARIO};
use crate::judge;
use crate::report::finding_meaning;
use crate::{args, page, show};
use night_report::{Card, Night, Shown, Summary, cards};
use night_results::{Again, Known, NightJson, NightState, ResultLine};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// So many signatures have their timeline on the page; those of others are on their runs' pages.
const DRAWN: usize = 100;
/// Every file that is written.
pub const SUMMARY: &str = "summary.json";

/// Writes the page, and the same for programs.
pub fn tell(
    folder: &NightFolder,
    asked: &NightJson,
    state: &NightState,
    known: &[Known],
    last: Option<&Path>,
) -> Result<(), Failure> {
    let mut night = Night {
        asked: asked.clone(),
        state: state.clone(),
        results: read_results(folder.path())?.lines,
        known: known.to_vec(),
        before: summaries(folder.path(), last, &asked.began)?,
        shown: BTreeMap::new(),
    };
    night.shown = shown(&night, folder.path());
    folder.write(REPORT, &night_report::page(&night))?;
    folder.write("junit.xml", &night_report::junit(&night))?;
    folder.write("ktap.txt", &night_report::ktap(&night))?;
    // Last: whoever looks for the newest night with a report looks for this one.
    folder.write(SUMMARY, &Summary::of(&night).to_text())
}

/// `guest-tests report` on a night's folder.
pub fn again(wanted: &args::Report) -> Result<PathBuf, Failure> {
    let known = told::known(wanted.known.as_deref(), &wanted.run)?;
    let last = before::look(&wanted.run, wanted.last.as_deref(), &[])?.last;
    let asked = super::folder::read_asked(&wanted.run)?;
    let asked =
        asked.ok_or_else(|| Failure::BadInput(format!("{} is not the folder of a night", wanted.run.display())))?;
    let (folder, _) = NightFolder::take(&wanted.run)?;
    tell(&folder, &asked, &folder.state()?, &known, last.as_deref())?;
    Ok(folder.path().join(REPORT))
}

/// What earlier nights said, oldest first: of those beside this one, and of the one it is compared with. One that cannot be
/// read is left out, and that is said.
fn summaries(night: &Path, last: Option<&Path>, began: &str) -> Result<Vec<Summary>, Failure> {
    // Parts of a night lie in its folder: the nights beside it are meant, not its other parts.
    let is_part = night.file_name().is_some_and(|name| name.to_string_lossy().starts_with("shard-"));
    let whole = if is_part { night.parent().unwrap_or(night) } else { night };
    let mut found = Vec::new();
    for path in before::beside(whole)?.into_iter().chain(last.map(Path::to_owned)) {
        let file = path.join(SUMMARY);
        if !file.is_file() {
            continue;
        }
        let text = std::fs::read_to_string(&file).at("read", &file)?;
        match Summary::read(&file.display().to_string(), &text) {
            Ok(summary) => found.push((last == Some(path.as_path()), summary)),
            Err(error) => show::say(&format!("left out of the report: {error}")),
        }
    }
    // Not itself, nor what it was merged from, which began with it or later.
    found.retain(|(_, summary)| summary.began.as_str() < began);
    found.sort_by(|a, b| (a.0, &a.1.began).cmp(&(b.0, &b.1.began)));
    let mut summaries: Vec<Summary> = found.into_iter().map(|(_, summary)| summary).collect();
    // The one that is compared with may lie beside this night too: it counts once, and last.
    if let Some(last) = summaries.pop() {
        summaries.retain(|summary| summary.began != last.began);
        summaries.push(last);
    }
    Ok(summaries)
}

fn shown(night: &Night, folder: &Path) -> BTreeMap<String, Shown> {
    let mut shown = BTreeMap::new();
    for card in cards(night).iter().take(DRAWN) {
        shown.entry(card.signature.id.clone()).or_insert_with(|| of_card(card, folder));
    }
    shown
}

/// Of the unit that says most: made smaller, else reproducible, else the first.
fn of_card(card: &Card<'_>, night: &Path) -> Shown {
    let triage = |line: &&&ResultLine| line.triage.clone();
    let small = card.lines.iter().find(|line| triage(line).is_some_and(|triage| triage.shrunk.is_some()));
    let sure = || card.lines.iter().find(|line| triage(line).is_some_and(|triage| triage.again == Again::Reproducible));
    let line = small.or_else(sure).unwrap_or(&card.lines[0]);
    let place = format!("{FAILURES}/{}", line.unit.folder());
    let mut shown = match drawn(&night.join(&place)) {
        Ok((timeline, sentence)) => Shown { timeline, sentence, ..Shown::default() },
        Err(failure) => Shown { no_timeline: failure.to_string(), ..Shown::default() },
    };
    shown.unit = line.unit.to_string();
    if shown.sentence.is_empty() {
        shown.sentence = line.findings.iter().find_map(|id| finding_meaning(id)).unwrap_or_default().to_owned();
    }
    let shrunk = line.triage.as_ref().and_then(|triage| triage.shrunk.as_ref()).map(|shrunk| shrunk.folder.as_str());
    shown.scenario = shrunk.and_then(|shrunk| std::fs::read_to_string(night.join(shrunk).join(SCENARIO)).ok());
    let files =
        [(REPORT, "the run's page"), (SCENARIO, "its scenario")].map(|(file, what)| (what, format!("{place}/{file}")));
    let small = shrunk.into_iter().flat_map(|shrunk| {
        [("repro.sh", "repro.sh"), ("the smallest fault script", "script.json")]
            .map(|(what, file)| (what, format!("{shrunk}/{file}")))
    });
    let there = files.into_iter().chain(small).filter(|(_, path)| night.join(path).is_file());
    shown.links = there.map(|(what, path)| (what.to_owned(), path)).collect();
    shown
}

/// The picture of a run, and what is wrong with it in one sentence.
fn drawn(run: &Path) -> Result<(String, String), Failure> {
    let recorded = judge::read(&RunFolder::open(run)?)?;
    let judged = judge::judge(&recorded)?;
    let finding = judged.verdict.findings.iter().find_map(|finding| finding_meaning(&finding.id).map(str::to_owned));
    let difference = judged.comparison.as_ref().and_then(|judgement| judgement.first_difference.as_ref());
    let sentence = difference.map(|difference| format!("Guest and replica part: {}", difference.why)).or(finding);
    Ok((page::excerpt(&recorded, &judged), sentence.unwrap_or_default()))
}

#[cfg(test)]
mod tests;
