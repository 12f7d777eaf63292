//! Writing to files of the kernel, where one write is one command.

use std::fs::{self, OpenOptions};
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

/// Writes what is not so already: to set anything of a disk's queue, a kernel freezes the queue and waits for a grace period
/// of RCU, several ticks of its clock.
pub fn write_settings(settings: &[Setting], refused: &mut Vec<Refusal>) -> Outcome<()> {
    settings.iter().try_for_each(|Setting { path, value, optional }| {
        if fs::read_to_string(path).is_ok_and(|text| says(&text, value)) {
            return Ok(());
        }
        allow(write(path, value), *optional, &format!("writing {value:?} to {path}"), refused)
    })
}

/// Whether a setting that reads like this has the value: alone, or as the one in brackets among all there are.
fn says(text: &str, value: &str) -> bool {
    let chosen = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    chosen.map_or(text.trim(), |(chosen, _)| chosen) == value
}

#[cfg(test)]
mod tests {
    use super::says;

    #[test]
    fn a_setting_is_read_alone_or_among_its_choices() {
        for (text, value, expected) in [
            ("2\n", "2", true),
            ("0\n", "2", false),
            ("20\n", "2", false),
            ("[none] mq-deadline\n", "none", true),
            ("none [mq-deadline]\n", "none", false),
            ("none [mq-deadline]\n", "mq-deadline", true),
            ("", "0", false),
        ] {
            assert_eq!(says(text, value), expected, "{text:?} for {value:?}");
        }
    }
}
