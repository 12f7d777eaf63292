//! What a search came to, as one value: printed as text, as JSON, drawn as a page.

use crate::failure::exit;
use explorer::search::{Ended, Searched};
use explorer::story::Step;
use serde::Serialize;
use std::fmt::Write as _;

/// All of it.
#[derive(Debug, Serialize)]
pub struct Explored {
    /// How the kernel behaves.
    pub dialect: String,
    /// Defects that were on.
    pub bugs: Vec<String>,
    /// Everything within bounds has been tried.
    pub exhaustive: bool,
    /// What stopped the search, if something did; as a sentence.
    pub stopped: Option<String>,
    /// How likely it is that two states were taken for one.
    pub may_have_missed: f64,
    /// Scope by scope.
    pub scopes: Vec<Scope>,
    /// What does not hold.
    pub found: Vec<Finding>,
    /// Expected, and not found.
    pub missing: Vec<String>,
    /// The program's exit code.
    pub exit_code: u8,
    /// The command that shows it again.
    #[serde(skip)]
    pub repeat: String,
}

/// One scope, and how far it was searched.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "docs/explore.md has a table of all fields")]
pub struct Scope {
    pub name: &'static str,
    pub who: &'static str,
    #[serde(flatten)]
    pub searched: Searched,
    pub took_ms: u64,
}

/// One thing that does not hold.
#[derive(Debug, Serialize)]
#[allow(missing_docs, reason = "docs/explore.md has a table of all fields")]
pub struct Finding {
    pub property: String,
    pub sentence: String,
    pub how: String,
    pub causes: Vec<String>,
    pub expected: bool,
    pub scope: String,
    pub moves: usize,
    pub files: Vec<String>,
    pub max_pages: u32,
    pub steps: Vec<Step>,
    /// As text.
    pub schedule: String,
    /// Replica calls, if no call is interrupted.
    pub calls: Option<String>,
    /// Files that hold them, under --out.
    pub schedule_file: Option<String>,
    pub calls_file: Option<String>,
    #[serde(skip)]
    pub play: Option<String>,
    #[serde(skip)]
    pub picture: String,
    #[serde(skip)]
    pub story: String,
}

impl Explored {
    /// In a few words.
    pub fn outcome(&self) -> String {
        let whole = if self.exhaustive { "searched whole" } else { "not searched whole" };
        match self.found.len() {
            0 => format!("{whole}, nothing found"),
            1 => format!("{whole}, 1 finding"),
            n => format!("{whole}, {n} findings"),
        }
    }

    /// Which defects were on.
    pub fn defects(&self) -> String {
        match self.bugs.is_empty() {
            true => "All defects off.".into(),
            false => format!("Defects: {}.", self.bugs.join(", ")),
        }
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut text = format!("explored   {}. {}\n", self.dialect, self.defects());
        self.scopes.iter().for_each(|scope| text += &scope.text());
        for finding in &self.found {
            text += &finding.text();
        }
        self.missing.iter().for_each(|item| text += &format!("missing    {item} was expected and not found\n"));
        if let Some(stopped) = &self.stopped {
            let _ = writeln!(text, "stopped    {stopped}");
        }
        let _ = writeln!(text, "outcome    {} (exit code {})", self.outcome(), self.exit_code);
        let _ = writeln!(text, "missed     chance that two states were taken for one: {:.0e}", self.may_have_missed);
        if self.exit_code != exit::AS_EXPECTED {
            let _ = writeln!(text, "again      {}", self.repeat);
        }
        text
    }
}

impl Scope {
    fn text(&self) -> String {
        let Searched { starts, starts_done, states, moves, depth, beyond, ended, .. } = self.searched;
        let beyond = if beyond > 0 { format!(", {beyond} moves led outside the bounds") } else { String::new() };
        let ended = if ended == Ended::Exhaustive { String::new() } else { format!(", ended by {}", ended.word()) };
        format!(
            "scope      {:<12} {states:>9} states, {moves:>9} moves tried, longest way {depth:>3}, {starts_done} of {starts} starts, \
             {:.1} s{beyond}{ended}\n",
            self.name,
            self.took_ms as f64 / 1000.0,
        )
    }
}

impl Finding {
    fn text(&self) -> String {
        let causes = if self.causes.is_empty() { "no known defect".to_owned() } else { self.causes.join("+") };
        let mut text = format!(
            "finding    {} {causes}: {} ({} moves, scope {}{})\n{}",
            self.property,
            self.how,
            self.moves,
            self.scope,
            if self.expected { ", as expected" } else { "" },
            self.story
        );
        if let Some(play) = &self.play {
            let _ = writeln!(text, "  again: {play}");
        }
        text
    }
}
