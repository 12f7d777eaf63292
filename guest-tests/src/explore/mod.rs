//! `guest-tests explore`: searches the replica, tells what it found, keeps it, and plays it again.
//!
//! A search that could not be finished is never a pass: 3 if a limit stopped it, 130 if the user did; what was found until then
//! is told all the same.

mod page;
mod report;

use crate::args::{self, Format};
use crate::failure::{At, Failure, exit};
use crate::interrupt::Interrupt;
use crate::show;
use explorer::schedule::{Schedule, Shows};
use explorer::scope::Scope;
use explorer::search::{Ended, Found, Limits, search};
use explorer::{calls, picture, story};
use ext4_replica::explore::{Bounds, Layout};
use ext4_replica::{Bug, Cause, Dialect};
use report::{Explored, Finding};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Instant;

/// More starts than this are not listed, let alone searched.
const MOST_STARTS: u64 = 1 << 20;

/// Does what the command line says, prints the result, and returns the program's exit code.
pub fn explore(wanted: &args::Explore, format: Format, repeat: &str) -> Result<u8, Failure> {
    match &wanted.play {
        Some(file) => play(file, format),
        None => look(wanted, format, repeat),
    }
}

fn look(wanted: &args::Explore, format: Format, repeat: &str) -> Result<u8, Failure> {
    let interrupt = Interrupt::catch()?;
    let dialect = wanted.dialect.ok_or_else(|| Failure::BadInput("--dialect or --play is needed".into()))?;
    let dialect = wanted.bugs.map_or(dialect, |bugs| dialect.with_bugs(bugs));
    let scopes = scopes(wanted, &dialect)?;
    if let Some(out) = &wanted.out {
        std::fs::create_dir_all(out).at("make the folder", out)?;
    }
    let searched = search_all(wanted, dialect, &scopes, &interrupt)?;
    let explored = tell(wanted, dialect, searched, repeat)?;
    if let Some(out) = &wanted.out {
        let page = out.join("report.html");
        std::fs::write(&page, page::render(&explored)).at("write", &page)?;
    }
    match format {
        Format::Json => println!("{}", serde_json::json!(explored)),
        Format::Text => print!("{}", explored.text()),
    }
    Ok(explored.exit_code)
}

/// What is to be searched, with the user's bounds in the place of its own.
fn scopes(wanted: &args::Explore, dialect: &Dialect) -> Result<Vec<Scope>, Failure> {
    let unknown = |name: &String| {
        Failure::BadInput(format!("no scope is called {name:?}; there are: {}", Scope::names().join(", ")))
    };
    let named = |name: &String| Scope::by_name(name, dialect).ok_or_else(|| unknown(name));
    let mut scopes = match wanted.scope.is_empty() {
        true => Scope::standard(dialect),
        false => wanted.scope.iter().map(named).collect::<Result<_, _>>()?,
    };
    scopes.iter_mut().for_each(|scope| wanted.bounds.lay_over(&mut scope.bounds));
    for scope in &scopes {
        let starts = Layout::at_most(&scope.bounds);
        if starts > MOST_STARTS {
            return Err(Failure::BadInput(format!(
                "scope {} would have up to {starts} starts, more than {MOST_STARTS}; give fewer --pages or --inodes, or larger blocks",
                scope.name
            )));
        }
    }
    Ok(scopes)
}

fn search_all(
    wanted: &args::Explore,
    dialect: Dialect,
    scopes: &[Scope],
    interrupt: &Interrupt,
) -> Result<Vec<report::Scope>, Failure> {
    let (mut done, mut states) = (Vec::new(), wanted.max_states);
    let threads = wanted.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    for scope in scopes {
        show::progress(&format!("searching {}: {}", scope.name, scope.who));
        let began = Instant::now();
        let limits = Limits { states, memory_bytes: wanted.max_memory_mib << 20, threads };
        let starts = Layout::all(&scope.bounds, &dialect);
        let searched = search(dialect, &scope.bounds, &starts, limits, &interrupt.flag());
        states = states.saturating_sub(searched.states);
        let ended = searched.ended;
        let took_ms = began.elapsed().as_millis() as u64;
        done.push(report::Scope { name: scope.name, who: scope.who, searched, took_ms });
        if ended != Ended::Exhaustive {
            break;
        }
    }
    Ok(done)
}

fn tell(wanted: &args::Explore, dialect: Dialect, done: Vec<report::Scope>, repeat: &str) -> Result<Explored, Failure> {
    let found = shortest(&done);
    let list: Vec<Found> = found.iter().map(|(_, found)| (*found).clone()).collect();
    let unexpected = wanted.expect.unexpected(&list);
    let mut explored = Explored {
        dialect: dialect.name.to_string(),
        bugs: dialect.bugs.iter().map(|bug| Bug::name(bug).to_owned()).collect(),
        exhaustive: done.iter().all(|one| one.searched.ended == Ended::Exhaustive),
        stopped: done.last().and_then(|one| stopped(wanted, one)),
        may_have_missed: done.iter().map(|one| one.searched.may_have_missed()).sum(),
        scopes: Vec::new(),
        found: Vec::new(),
        missing: wanted.expect.missing(&list),
        exit_code: 0,
        repeat: repeat.to_owned(),
    };
    let mut names = BTreeMap::new();
    for (scope, one) in &found {
        let expected = !unexpected.contains(one);
        explored.found.push(finding(wanted, dialect, scope, one, expected, &mut names)?);
    }
    let ended = done.iter().map(|one| one.searched.ended).max().unwrap_or(Ended::Exhaustive);
    explored.exit_code = exit_code(ended, !unexpected.is_empty(), !explored.missing.is_empty());
    explored.scopes = done;
    Ok(explored)
}

/// What was found is a finding, searched whole or not; that nothing more was found says something only of a whole search.
fn exit_code(ended: Ended, unexpected: bool, missing: bool) -> u8 {
    match ended {
        Ended::Interrupted => exit::INTERRUPTED,
        _ if unexpected => exit::NOT_AS_EXPECTED,
        Ended::States | Ended::Memory => exit::NOT_JUDGED,
        Ended::Exhaustive if missing => exit::NOT_AS_EXPECTED,
        Ended::Exhaustive => exit::AS_EXPECTED,
    }
}

/// Of what several scopes found the shortest; and nothing that is something else with more causes.
fn shortest(done: &[report::Scope]) -> Vec<(&'static str, &Found)> {
    let mut all: Vec<(&'static str, &Found)> = Vec::new();
    for one in done {
        for found in &one.searched.found {
            let same = |(_, known): &&mut (&str, &Found)| known.broken == found.broken && known.causes == found.causes;
            match all.iter_mut().find(same) {
                Some(known) if known.1.moves.len() > found.moves.len() => *known = (one.name, found),
                Some(_) => {}
                None => all.push((one.name, found)),
            }
        }
    }
    let known = all.clone();
    let needless = |one: &Found| {
        let fewer = |other: &Found| other.causes != one.causes && other.causes.is_subset(one.causes);
        known.iter().any(|(_, other)| other.broken == one.broken && fewer(other))
    };
    all.retain(|(_, one)| !needless(one));
    all.sort_by_key(|(_, one)| (one.broken.property, one.causes, one.moves.len()));
    all
}

fn stopped(wanted: &args::Explore, done: &report::Scope) -> Option<String> {
    let rest = "what lies beyond was not searched";
    match done.searched.ended {
        Ended::Exhaustive => None,
        Ended::States => Some(format!("after {} states (--max-states); {rest}", wanted.max_states)),
        Ended::Memory => Some(format!("at {} MiB of memory (--max-memory-mib); {rest}", wanted.max_memory_mib)),
        Ended::Interrupted => Some(format!("by the user, in scope {}; {rest}", done.name)),
    }
}

fn finding(
    wanted: &args::Explore,
    dialect: Dialect,
    scope: &str,
    found: &Found,
    expected: bool,
    names: &mut BTreeMap<String, u32>,
) -> Result<Finding, Failure> {
    let property = found.broken.property;
    let shows = Some(Shows { property, causes: found.causes });
    let schedule = Schedule::of(dialect, &found.layout, &found.moves, shows);
    let played = schedule
        .play()
        .map_err(|bad| Failure::infrastructure(format!("a way just found cannot be played: {bad}"), ""))?;
    let steps = story::steps(&played);
    let text = schedule.to_text(&format!("{}: {}", property.name(), found.broken.how));
    let calls = calls::calls(&schedule, &played);
    let name = format!("{}-{}", property.name(), found.causes);
    let number = names.entry(name.clone()).and_modify(|number| *number += 1).or_insert(1);
    let name = if *number > 1 { format!("{name}-{number}") } else { name };
    let schedule_file = keep(wanted, &format!("{name}.schedule"), Some(&text))?;
    let calls_file = keep(wanted, &format!("{name}.calls.jsonl"), calls.as_deref())?;
    Ok(Finding {
        property: property.name().into(),
        sentence: property.sentence().into(),
        how: found.broken.how.into(),
        causes: found.causes.iter().map(|cause| Cause::name(cause).to_owned()).collect(),
        expected,
        scope: scope.into(),
        moves: found.moves.len(),
        files: found.layout.files(),
        max_pages: found.layout.max_pages,
        picture: picture::svg(&steps, &played),
        story: story::text(&schedule, &steps),
        steps,
        schedule: text,
        calls,
        play: schedule_file.as_ref().map(|file| format!("guest-tests explore --play {}", show::quote(file))),
        schedule_file,
        calls_file,
    })
}

/// Writes a file under --out, if there is one, and returns its path.
fn keep(wanted: &args::Explore, name: &str, text: Option<&str>) -> Result<Option<String>, Failure> {
    let (Some(out), Some(text)) = (&wanted.out, text) else { return Ok(None) };
    let path = out.join(name);
    std::fs::write(&path, text).at("write", &path)?;
    Ok(Some(path.display().to_string()))
}

/// Plays a schedule and says whether it still shows what it says it does; one that says nothing shows whatever breaks.
fn play(file: &Path, format: Format) -> Result<u8, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::BadInput(format!("cannot read the schedule {}: {error}", file.display())))?;
    let bad = |bad: explorer::schedule::BadSchedule| Failure::BadInput(format!("{}: {bad}", file.display()));
    let schedule = Schedule::parse(&text).map_err(bad)?;
    let played = schedule.play().map_err(bad)?;
    let steps = story::steps(&played);
    let broken = played.iter().any(|step| !step.broken.is_empty());
    let shown = match schedule.shows {
        None => !broken,
        Some(Shows { property, causes }) => played
            .last()
            .is_some_and(|last| last.causes == causes && last.broken.iter().any(|broken| broken.property == property)),
    };
    let said = match (schedule.shows, shown) {
        (None, true) => "nothing breaks".to_owned(),
        (None, false) => "something breaks; a line `shows PROPERTY CAUSES` in its head would say so".to_owned(),
        (Some(shows), true) => format!("it shows {} {} again", shows.property.name(), shows.causes),
        (Some(shows), false) => format!("it does not show {} {} any more", shows.property.name(), shows.causes),
    };
    let code = if shown { exit::AS_EXPECTED } else { exit::NOT_AS_EXPECTED };
    match format {
        Format::Json => {
            let calls = calls::calls(&schedule, &played);
            println!("{}", serde_json::json!({ "as_said": shown, "steps": steps, "calls": calls, "exit_code": code }));
        }
        Format::Text => {
            print!("{}", story::text(&schedule, &steps));
            println!("played     {said} (exit code {code})");
        }
    }
    Ok(code)
}

impl args::ExploreBounds {
    fn lay_over(&self, bounds: &mut Bounds) {
        let small = [
            (self.inodes, &mut bounds.inodes),
            (self.pages, &mut bounds.pages),
            (self.writers, &mut bounds.writers),
            (self.direct_writes, &mut bounds.direct_writes),
            (self.fsyncs, &mut bounds.fsyncs),
            (self.truncates, &mut bounds.truncates),
            (self.evicts, &mut bounds.evicts),
            (self.interrupts, &mut bounds.interrupts),
            (self.errors, &mut bounds.errors),
            (self.alloc_failures, &mut bounds.alloc_failures),
            (self.convert_failures, &mut bounds.convert_failures),
        ];
        small.into_iter().for_each(|(wanted, bound)| *bound = wanted.unwrap_or(*bound));
        bounds.bios = self.bios.unwrap_or(bounds.bios);
        bounds.io_ends = self.io_ends.unwrap_or(bounds.io_ends);
        bounds.block_bits = self.block_size.map_or(bounds.block_bits, u32::ilog2);
        if !self.max_pages.is_empty() {
            bounds.max_pages.clone_from(&self.max_pages);
        }
    }
}

#[cfg(test)]
mod tests;
