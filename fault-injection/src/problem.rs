//! What is wrong with a script, and where: one line per problem, all problems of all files in one pass.

use std::fmt;

/// One thing that is wrong with a script. Codes that begin with W are warnings and do not stop a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Name of the file, as the caller gave it.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// `E101`, `W301`, …: docs/fault-scripts.md lists them.
    pub code: &'static str,
    /// JSON pointer of the place.
    pub pointer: String,
    /// What is wrong.
    pub text: String,
    /// What to write instead, where we know it.
    pub hint: Option<String>,
}

impl Problem {
    /// Warnings are printed and nothing more, unless the user asked for strictness.
    pub fn is_warning(&self) -> bool {
        self.code.starts_with('W')
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {} {}: {}", self.file, self.line, self.column, self.code, self.pointer, self.text)?;
        match &self.hint {
            Some(hint) => write!(f, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// All problems of a set of scripts, in the order of files, lines and columns. Never empty when returned as an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.0.iter().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}
