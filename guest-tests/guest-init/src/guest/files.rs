//! Writing to files of the kernel, where one write is one command.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use guest_init::job::Setting;
use guest_init::protocol::Refusal;

use super::{Doing, Outcome};

/// Writes `value` and a line end with one call.
pub fn write(path: impl AsRef<Path>, value: &str) -> io::Result<()> {
    write_with(OpenOptions::new().write(true), path, value)
}

/// The same at the end of a list the kernel keeps, such as `kprobe_events`.
pub fn append(path: impl AsRef<Path>, value: &str) -> io::Result<()> {
    write_with(OpenOptions::new().append(true), path, value)
}

fn write_with(how: &OpenOptions, path: impl AsRef<Path>, value: &str) -> io::Result<()> {
    how.open(path)?.write_all(format!("{value}\n").as_bytes())
}

/// Passes a refusal on if it was allowed for; else it is the end.
pub fn allow(result: io::Result<()>, optional: bool, what: &str, refused: &mut Vec<Refusal>) -> Outcome<()> {
    match result {
        Err(error) if optional => {
            refused.push(Refusal { what: what.into(), error: error.to_string() });
            Ok(())
        }
        other => other.doing(what),
    }
}

pub fn write_settings(settings: &[Setting], refused: &mut Vec<Refusal>) -> Outcome<()> {
    settings.iter().try_for_each(|Setting { path, value, optional }| {
        allow(write(path, value), *optional, &format!("writing {value:?} to {path}"), refused)
    })
}
