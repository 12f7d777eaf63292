//! A schedule: one way through a machine, as text that a person can read, change and play again.
//!
//! After a head (`schedule 1`, then a word and its value per line) each line is one move: who, which kernel function it is in, and
//! what it comes to. `#` begins a comment. A line is taken only if that move is possible there, so a schedule that no longer fits
//! the replica says where it parts.

use ext4_replica::explore::{Bounds, Broken, InodeCounts, IoEndCounts, Layout, Move, Property, World};
use ext4_replica::{Bugs, Cause, Causes, Dialect, Event};
use std::fmt::Write as _;

/// What a schedule is meant to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shows {
    /// What does not hold.
    pub property: Property,
    /// Owed to this.
    pub causes: Causes,
}

/// A way through a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// How the kernel behaves, its defects included.
    pub dialect: Dialect,
    /// Where it starts.
    pub layout: Layout,
    /// What it shows at its end, if that is known.
    pub shows: Option<Shows>,
    /// Move by move, each with the line it stands in (0: in none).
    pub moves: Vec<(usize, Planned)>,
}

/// A move as it stands in a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// The move.
    pub by: Move,
    /// The kernel function it is said to be in; `start` where something begins.
    pub step: String,
}

/// A schedule that cannot be read or played.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {why}")]
pub struct BadSchedule {
    /// Which line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub why: String,
}

fn bad<T>(line: usize, why: impl Into<String>) -> Result<T, BadSchedule> {
    Err(BadSchedule { line, why: why.into() })
}

/// One move, and the machine after it.
#[derive(Clone, Debug)]
pub struct Played {
    /// The move.
    pub by: Move,
    /// The kernel function that it was in.
    pub function: &'static str,
    /// What the step does, where no event says it.
    pub about: String,
    /// What happened, in order.
    pub events: Vec<Event>,
    /// What no longer holds.
    pub broken: Vec<Broken>,
    /// The thread has done what it began.
    pub done: bool,
    /// Counts afterwards.
    pub inodes: Vec<InodeCounts>,
    /// io_ends that are not released, afterwards.
    pub io_ends: Vec<IoEndCounts>,
    /// What had made a difference by then.
    pub causes: Causes,
}

impl Schedule {
    /// The one of a finding.
    pub fn of(dialect: Dialect, layout: &Layout, moves: &[Move], shows: Option<Shows>) -> Schedule {
        let planned = |by: &Move| (0, Planned { by: *by, step: String::new() });
        let mut schedule =
            Schedule { dialect, layout: layout.clone(), shows, moves: moves.iter().map(planned).collect() };
        let mut world = schedule.start();
        for (_, planned) in &mut schedule.moves {
            planned.step = match planned.by {
                Move::Start(..) => "start".into(),
                Move::Step(name, _) => world.function(name).unwrap_or("-").into(),
            };
            world.take(planned.by, &Bounds::none());
        }
        schedule
    }

    fn start(&self) -> World {
        World::new(self.dialect, &Bounds::none(), &self.layout)
    }

    /// Plays it. Ends with the first line that is not possible where it stands.
    pub fn play(&self) -> Result<Vec<Played>, BadSchedule> {
        let bounds = Bounds::none();
        let (mut world, mut possible, mut played) = (self.start(), Vec::new(), Vec::new());
        for (line, Planned { by, step }) in &self.moves {
            world.moves(&bounds, &mut possible);
            let function = world.function(by.thread());
            if !possible.contains(by) {
                return bad(*line, not_possible(&world, *by, step, &possible));
            }
            match (by, function) {
                (Move::Step(name, _), Some(function)) if function != step => {
                    return bad(*line, format!("{name} is in {function} here, not in {step}"));
                }
                _ => {}
            }
            let about = world.about(by.thread());
            let taken = world.take(*by, &bounds);
            played.push(Played {
                by: *by,
                function: function.unwrap_or(taken.function),
                about,
                events: taken.events,
                broken: taken.broken,
                done: taken.done,
                inodes: world.inodes(),
                io_ends: world.io_ends(),
                causes: world.causes(),
            });
        }
        Ok(played)
    }

    /// As text.
    pub fn to_text(&self, comment: &str) -> String {
        let bugs: Vec<_> = self.dialect.bugs.iter().map(ext4_replica::Bug::name).collect();
        let own = Dialect::by_name(self.dialect.name.as_str()) == Some(self.dialect);
        let mut text = String::new();
        comment.lines().for_each(|line| put(&mut text, &format!("# {line}")));
        put(&mut text, "schedule 1");
        put(&mut text, &format!("dialect {}", self.dialect.name));
        match (own, bugs.is_empty()) {
            (true, _) => {}
            (false, true) => put(&mut text, "bugs none"),
            (false, false) => put(&mut text, &format!("bugs {}", bugs.join(","))),
        }
        put(&mut text, &format!("max_pages {}", self.layout.max_pages));
        put(&mut text, &format!("block_bits {}", self.layout.block_bits));
        put(&mut text, &format!("files {}", self.layout.files().join(" ")));
        if let Some(shows) = self.shows {
            put(&mut text, &format!("shows {} {}", shows.property.name(), shows.causes));
        }
        for (_, Planned { by, step }) in &self.moves {
            put(&mut text, &format!("{:<11} {step:<30} {}", by.thread().to_string(), by.choice()));
        }
        text
    }

    /// Reads it.
    pub fn parse(text: &str) -> Result<Schedule, BadSchedule> {
        let mut head = Head::default();
        let mut moves = Vec::new();
        for (line, text) in (1..).zip(text.lines()) {
            let words: Vec<&str> = text.split('#').next().unwrap_or_default().split_whitespace().collect();
            match (words.as_slice(), head.begun) {
                ([], _) => {}
                (["schedule", "1"], false) => head.begun = true,
                (_, false) => return bad(line, "a schedule begins with the line `schedule 1`"),
                ([word, values @ ..], true) if moves.is_empty() && Head::has(word) => head.take(line, word, values)?,
                ([thread, step, choice], true) => {
                    let by = Move::parse(thread, step, choice).map_err(|why| BadSchedule { line, why })?;
                    moves.push((line, Planned { by, step: (*step).to_owned() }));
                }
                (_, true) => return bad(line, "a move is three words: thread, step, choice"),
            }
        }
        head.finish(text.lines().count().max(1), moves)
    }
}

fn put(text: &mut String, line: &str) {
    writeln!(text, "{}", line.trim_end()).expect("a string takes all");
}

fn not_possible(world: &World, by: Move, step: &str, possible: &[Move]) -> String {
    let line = |one: &Move| match one {
        Move::Start(name, _) => format!("{name} start {}", one.choice()),
        Move::Step(name, _) => format!("{name} {} {}", world.function(*name).unwrap_or("-"), one.choice()),
    };
    let list: Vec<_> = possible.iter().map(line).collect();
    let list = if list.is_empty() { "nothing: all is at rest, or a BUG was met".to_owned() } else { list.join("; ") };
    format!("`{} {step} {}` is not possible here. What is: {list}", by.thread(), by.choice())
}

/// What stands before the moves.
#[derive(Default)]
struct Head {
    begun: bool,
    dialect: Option<Dialect>,
    bugs: Option<Bugs>,
    max_pages: Option<u32>,
    block_bits: Option<u32>,
    files: Option<(usize, Vec<String>)>,
    shows: Option<Shows>,
}

impl Head {
    fn has(word: &str) -> bool {
        ["dialect", "bugs", "max_pages", "block_bits", "files", "shows"].contains(&word)
    }

    fn take(&mut self, line: usize, word: &str, values: &[&str]) -> Result<(), BadSchedule> {
        let number = |text: &str| text.parse::<u32>().ok();
        let understood = match (word, values) {
            ("dialect", [name]) => Dialect::by_name(name).map(|dialect| self.dialect = Some(dialect)),
            ("bugs", [list]) => {
                let bugs = Bugs::parse(list).map_err(|unknown| BadSchedule { line, why: unknown.to_string() })?;
                self.bugs = Some(bugs);
                Some(())
            }
            ("max_pages", [text]) => number(text).map(|number| self.max_pages = Some(number)),
            ("block_bits", [text]) => number(text).map(|number| self.block_bits = Some(number)),
            ("files", words) if !words.is_empty() => {
                self.files = Some((line, words.iter().map(|word| (*word).to_owned()).collect()));
                Some(())
            }
            ("shows", [property, causes]) => shows(property, causes).map(|shows| self.shows = Some(shows)),
            _ => None,
        };
        understood.ok_or_else(|| BadSchedule { line, why: format!("`{word} {}` says nothing", values.join(" ")) })
    }

    fn finish(self, last: usize, moves: Vec<(usize, Planned)>) -> Result<Schedule, BadSchedule> {
        let missing = |what: &str| BadSchedule { line: last, why: format!("the head has no line `{what} …`") };
        if !self.begun {
            return bad(last, "a schedule begins with the line `schedule 1`");
        }
        let dialect = self.dialect.ok_or_else(|| missing("dialect"))?;
        let (line, files) = self.files.ok_or_else(|| missing("files"))?;
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        let max_pages = self.max_pages.ok_or_else(|| missing("max_pages"))?;
        let block_bits = self.block_bits.ok_or_else(|| missing("block_bits"))?;
        let layout = Layout::parse(max_pages, block_bits, &files)
            .map_err(|layout| BadSchedule { line, why: layout.to_string() })?;
        let dialect = self.bugs.map_or(dialect, |bugs| dialect.with_bugs(bugs));
        Ok(Schedule { dialect, layout, shows: self.shows, moves })
    }
}

fn shows(property: &str, causes: &str) -> Option<Shows> {
    let property = Property::by_name(property)?;
    let names = causes.split('+').filter(|name| *name != "none");
    let causes: Option<Vec<Cause>> = names.map(Cause::by_name).collect();
    Some(Shows { property, causes: Causes::of(causes?) })
}

#[cfg(test)]
mod tests;
