//! The fault script of a scenario: inside it, or in a file that it names.
//!
//! Its own grammar is `fault-injection`'s. Here its problems get the pointer they have in the scenario file, and what only the
//! two together can say is checked: the disk that the script is for, and the rules that expectations name.

use super::grammar::Outline;
use super::{Disk, Script};
use fault_injection::reader::{At, Reader, did_you_mean};
use fault_injection::{DeviceFacts, Place, Problem, Source, json};
use std::path::Path;

/// The script as written, and loaded as far as that is possible. What is wrong with it is noted in `reader`.
pub fn read(reader: &mut Reader<'_>, path: &Path, outline: &Outline<'_>) -> (Option<Script>, fault_injection::Script) {
    let written = outline.faults.as_ref().and_then(|at| written(reader, path, at));
    let loaded = match &written {
        None if outline.faults.is_some() || outline.faults_are_wrong => None,
        None => Some(fault_injection::Script::empty()),
        Some(script) => load(reader, script, outline),
    };
    if let Some(loaded) = &loaded {
        check_names(reader, loaded, outline);
        check_disk(reader, loaded, outline);
    }
    (written, loaded.unwrap_or_else(fault_injection::Script::empty))
}

fn written(reader: &mut Reader<'_>, path: &Path, at: &At<'_>) -> Option<Script> {
    if let json::Value::String(name) = at.node.get_ref() {
        return file(reader, path, at, name);
    }
    let blank = |c: char| if c == '\n' { '\n' } else { ' ' };
    let before: String = reader.text_before(at).chars().map(blank).collect();
    Some(Script { file: path.to_owned(), text: before + reader.text_of(at)?, inside: true })
}

fn file(reader: &mut Reader<'_>, path: &Path, at: &At<'_>, name: &str) -> Option<Script> {
    let file = path.parent().unwrap_or(Path::new("")).join(name);
    match std::fs::read_to_string(&file) {
        Ok(text) => Some(Script { file, text, inside: false }),
        Err(error) => {
            let text = format!("cannot read the fault script {}: {error}", file.display());
            reader.report("E112", at, text, Some("a name is relative to the scenario".into()));
            None
        }
    }
}

fn load(reader: &mut Reader<'_>, script: &Script, outline: &Outline<'_>) -> Option<fault_injection::Script> {
    let name = script.file.display().to_string();
    let loaded = match fault_injection::load(&[Source { name: &name, text: &script.text }]) {
        Ok(loaded) => loaded,
        Err(problems) => {
            note(reader, script, problems.0);
            return None;
        }
    };
    note(reader, script, loaded.warnings);
    let defaults = (super::Filesystem::default(), super::Guest::default());
    let facts = DeviceFacts {
        capacity_sectors: outline.size_mib.unwrap_or(defaults.0.size_mib) << 11,
        queues: super::queues(outline.queues.unwrap_or(defaults.1.vcpus.into())),
        logical_block_bytes: loaded.script.device().logical_block_bytes.unwrap_or(512),
    };
    note(reader, script, loaded.script.check_device(&facts));
    Some(loaded.script)
}

/// The problems of a script, in their place among those of the scenario.
fn note(reader: &mut Reader<'_>, script: &Script, problems: Vec<Problem>) {
    for mut problem in problems {
        if script.inside {
            problem.pointer.insert_str(0, "/faults");
        }
        let place = Place {
            source: usize::from(!script.inside),
            line: problem.line,
            column: problem.column,
            file: problem.file.clone(),
            pointer: problem.pointer.clone(),
        };
        reader.problems.push((place, problem));
    }
}

/// What a scenario says of its disk is what its script makes of it, so that nobody is told of an honest disk that lies.
fn check_disk(reader: &mut Reader<'_>, script: &fault_injection::Script, outline: &Outline<'_>) {
    let Some((said, at)) = &outline.disk else { return };
    let lies = script.lies();
    match said {
        Disk::Honest if !lies.is_empty() => {
            let text = format!("the script makes the disk answer OK to what is not so: {}", lies.join(", "));
            reader.report("E111", at, text, Some("say \"lying\", or leave the field out".into()));
        }
        Disk::Lying if lies.is_empty() => {
            let text = "nothing in the script makes the disk lie: it may fail, but what it answers OK is so";
            reader.report("E111", at, text, Some("say \"honest\", or leave the field out".into()));
        }
        Disk::Honest | Disk::Lying => {}
    }
}

/// A range for what the script does not have is a check that nothing counts.
fn check_names(reader: &mut Reader<'_>, script: &fault_injection::Script, outline: &Outline<'_>) {
    let known = script.ids();
    for (name, at) in outline.fired.iter().filter(|(name, _)| !known.contains(&name.as_str())) {
        let all = match known.is_empty() {
            true => "it has none".to_owned(),
            false => format!("it has {}", known.join(", ")),
        };
        let text = format!("the script has no rule or event {name:?}");
        reader.report("E110", at, text, did_you_mean(name, &known).or(Some(all)));
    }
}
