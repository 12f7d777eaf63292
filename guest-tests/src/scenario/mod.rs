//! A scenario file: what the guest is, what it does, what the disk does to it, and what that should give.
//!
//! Parsed once, here. All that is wrong, in the scenario and in its fault script, comes in one pass, each with file, place and
//! remedy, and nothing has been started by then. docs/scenarios.md tells the format by example.

mod grammar;
mod ops;
mod script;

use crate::expectation::{Expectation, fits};
use crate::failure::Failure;
use fault_injection::json;
use fault_injection::reader::{At, Reader};
use fault_injection::{Place, Problem, Problems};
use guest_init::job::{Action, Op};
use scenario_generator::Seed;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::path::{Path, PathBuf};

/// A scenario, checked.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Short name: small letters, digits, `-`, `.`.
    pub name: String,
    /// Which behaviour it shows, in a sentence or two.
    pub why: String,
    /// Kernels it is meant for.
    pub kernels: Kernels,
    /// The virtual machine.
    pub guest: Guest,
    /// The file system under test.
    pub filesystem: Filesystem,
    /// The fault script as it was written; none: a disk without faults.
    pub faults: Option<Script>,
    /// The same, loaded: with every default, and fit for the disk.
    pub script: fault_injection::Script,
    /// What the guest does, in order.
    pub workload: Vec<Op>,
    /// Whether what the disk answers OK is so.
    pub disk: Disk,
    /// Whether guest and replica are compared.
    pub lockstep: LockstepMode,
    /// What should come out; the first entry that fits the kernel counts.
    pub expect: Vec<Expectation>,
    /// What may be meant otherwise, and stops nothing.
    pub warnings: Vec<Problem>,
    /// The file itself, for the run's folder.
    document: serde_json::Value,
}

/// A fault script as it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// The file it stands in, for error messages.
    pub file: PathBuf,
    /// Its text. Where it stands inside the scenario file, blanks take the place of what comes before, so that the line and
    /// column of an error are those of the file.
    pub text: String,
    /// It stands inside the scenario file.
    pub inside: bool,
}

/// Kernels a scenario is meant for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Kernels {
    /// `"any"`
    #[default]
    Any,
    /// Versions or beginnings of versions.
    These(Vec<String>),
}

/// The virtual machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Guest {
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Queues of the disk. Without it: as many as virtual CPUs, each with an interrupt on its own.
    #[serde(rename = "queues")]
    pub disk_queues: Option<u32>,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// `queue/scheduler` of the disk.
    pub scheduler: String,
    /// `queue/nomerges` of the disk.
    pub nomerges: u8,
    /// `queue/wbt_lat_usec` of the disk.
    pub wbt_lat_usec: u64,
    /// Further arguments for QEMU.
    pub qemu: Vec<String>,
}

impl Default for Guest {
    fn default() -> Guest {
        Guest {
            vcpus: 1,
            disk_queues: None,
            memory_mib: 512,
            scheduler: "none".into(),
            nomerges: 2,
            wbt_lat_usec: 0,
            qemu: Vec::new(),
        }
    }
}

impl Guest {
    /// Queues of the disk.
    pub fn queues(&self) -> u16 {
        queues(self.disk_queues.unwrap_or(self.vcpus).into())
    }
}

/// The file system under test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filesystem {
    /// Size of the disk in MiB.
    pub size_mib: u64,
    /// Block size in bytes.
    pub block_bytes: u32,
    /// Further arguments for mke2fs.
    pub mkfs: Vec<String>,
    /// Mount options.
    pub mount: Vec<String>,
}

impl Default for Filesystem {
    fn default() -> Filesystem {
        Filesystem { size_mib: 64, block_bytes: 4096, mkfs: Vec::new(), mount: Vec::new() }
    }
}

/// Whether what the disk answers OK is so. It follows from the script; a file that says it too is held to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Disk {
    /// It may fail, be slow and lose its power, and keeps its word.
    Honest,
    /// It may break its word; then a file system can show anything without being at fault.
    Lying,
}

impl Disk {
    /// Of a script.
    pub fn of(script: &fault_injection::Script) -> Disk {
        if script.lies().is_empty() { Disk::Honest } else { Disk::Lying }
    }
}

/// Whether guest and replica are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LockstepMode {
    /// Every io_end.
    #[default]
    Full,
    /// Not at all: the workload does not pass through io_ends.
    None,
}

/// The file as it stands, once it is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(rename = "scenario")]
    _version: u64,
    name: String,
    why: String,
    #[serde(default)]
    kernels: Kernels,
    #[serde(default)]
    guest: Guest,
    #[serde(default)]
    filesystem: Filesystem,
    #[serde(default, rename = "faults")]
    _faults: serde_json::Value,
    workload: Vec<Op>,
    #[serde(default, rename = "disk")]
    _disk: Option<Disk>,
    #[serde(default)]
    lockstep: LockstepMode,
    #[serde(default)]
    expect: Vec<Expectation>,
}

impl From<Problems> for Failure {
    fn from(problems: Problems) -> Failure {
        Failure::Mistakes(problems)
    }
}

/// Reads and checks a scenario file, and the script file that it names.
pub fn load(path: &Path) -> Result<Scenario, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::BadInput(format!("cannot read the scenario {}: {error}", path.display())))?;
    Ok(parse(path, &text)?)
}

/// The scenario of a seed, as it would be in a file.
pub fn of_seed(seed: Seed) -> Result<Scenario, Failure> {
    let text = scenario_generator::text(&scenario_generator::scenario(seed));
    Ok(parse(Path::new(&format!("seed-{seed}.json")), &text)?)
}

/// The commands that run the scenario of a seed alone, on a kernel that is quoted already.
pub fn repeat_of_seed(seed: Seed, kernel: &str) -> String {
    format!("guest-tests generate {seed} > seed-{seed}.json && guest-tests run seed-{seed}.json --kernel {kernel}")
}

/// Checks the text of a scenario file. All problems, in the order of their places, those of a script file last.
pub fn parse(path: &Path, text: &str) -> Result<Scenario, Problems> {
    let name = path.display().to_string();
    let mut reader = Reader::new(0, &name, text);
    let root = match json::parse(text) {
        Ok(root) => root,
        Err(error) => {
            let place = reader.place_at(error.line, error.column, String::new());
            reader.report_at("E100", place, format!("not JSON: {}", error.text), None);
            return Err(told(reader.problems));
        }
    };
    let root = At::root(&root);
    let outline = grammar::check(&mut reader, &root);
    let (faults, loaded) = script::read(&mut reader, path, &outline);
    let document = document(&mut reader, &root, text);
    let (warnings, wrong): (Vec<_>, Vec<_>) =
        reader.problems.into_iter().partition(|(_, problem)| problem.is_warning());
    let (Some(document), true) = (document, wrong.is_empty()) else { return Err(told(wrong)) };
    Ok(Scenario {
        name: document.name,
        why: document.why,
        kernels: document.kernels,
        guest: document.guest,
        filesystem: document.filesystem,
        faults,
        disk: Disk::of(&loaded),
        script: loaded,
        workload: document.workload,
        lockstep: document.lockstep,
        expect: document.expect,
        warnings: told(warnings).0,
        document: serde_json::from_str(text).expect("it was read as JSON just now"),
    })
}

/// The file as types. What the grammar lets pass and serde does not is told all the same.
fn document(reader: &mut Reader<'_>, root: &At<'_>, text: &str) -> Option<Document> {
    if reader.problems.iter().any(|(_, problem)| !problem.is_warning()) {
        return None;
    }
    match serde_json::from_str(text) {
        Ok(document) => Some(document),
        Err(error) => {
            reader.report("E106", root, error.to_string(), None);
            None
        }
    }
}

fn queues(asked_for: u64) -> u16 {
    u16::try_from(asked_for.min(16)).expect("at most 16")
}

/// In the order in which a person reads the file.
fn told(mut problems: Vec<(Place, Problem)>) -> Problems {
    problems.sort_by(|(a, _), (b, _)| a.cmp(b));
    Problems(problems.into_iter().map(|(_, problem)| problem).collect())
}

/// serde_json ends its sentences with the place, which stands in front of ours already.
fn without_place(text: &str) -> &str {
    text.rfind(" at line ").map_or(text, |at| &text[..at])
}

impl Scenario {
    /// Whether it takes wall time whatever the machine: a rule or event of the script that holds requests back or leaves the
    /// front-end, or a sleep in the workload. Where the rule never fires, it might have.
    pub fn waits_by_wall_time(&self) -> bool {
        let words = self.script.words();
        ["delay", "hold", "reorder", "disconnect"].iter().any(|word| words.contains(word))
            || self.workload.iter().any(|op| matches!(op.action, Action::SleepMs { .. }))
    }

    /// What goes into the run's folder: the same, with the script inside, so that the folder needs no other file.
    pub fn to_json(&self) -> String {
        let mut document = self.document.clone();
        if let Some(script) = &self.faults {
            // A script that is no JSON was refused before anything could be written.
            document["faults"] = serde_json::from_str(&script.text).unwrap_or_default();
        }
        let mut text = serde_json::to_string_pretty(&document).expect("it came from JSON");
        text.push('\n');
        text
    }
}

impl Kernels {
    /// Whether a kernel of this release is meant.
    pub fn include(&self, release: &str) -> bool {
        match self {
            Kernels::Any => true,
            Kernels::These(patterns) => patterns.iter().any(|pattern| fits(pattern, release)),
        }
    }
}

impl std::fmt::Display for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Kernels::Any => f.write_str("any"),
            Kernels::These(patterns) => f.write_str(&patterns.join(", ")),
        }
    }
}

impl<'de> Deserialize<'de> for Kernels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Kernels, D::Error> {
        use serde::de::Error;
        let wanted = "kernels is \"any\" or a list of versions such as [\"6.1\"]";
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(word) if word == "any" => Ok(Kernels::Any),
            serde_json::Value::Array(list) if !list.is_empty() => {
                let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
                let versions: Option<Vec<String>> = list.iter().map(text).collect();
                versions.map(Kernels::These).ok_or_else(|| D::Error::custom(wanted))
            }
            _ => Err(D::Error::custom(wanted)),
        }
    }
}

impl Serialize for Kernels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Kernels::Any => serializer.serialize_str("any"),
            Kernels::These(patterns) => patterns.serialize(serializer),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;

    const SMALL: &str = r#"{"scenario": 1, "name": "small", "why": "to be parsed",
 "workload": [{"op": "create", "path": "f"}]}"#;

    fn read(text: &str) -> Result<Scenario, String> {
        parse(Path::new("s.json"), text).map_err(|error| error.to_string())
    }

    /// `SMALL` with one more key.
    fn with(key_and_value: &str) -> Result<Scenario, String> {
        read(&SMALL.replacen('{', &format!("{{{key_and_value}, "), 1))
    }

    #[test]
    fn what_is_left_out_has_the_documented_default() {
        let scenario = read(SMALL).unwrap();
        assert_eq!((scenario.guest.vcpus, scenario.guest.memory_mib, scenario.guest.nomerges), (1, 512, 2));
        assert_eq!(scenario.guest.scheduler, "none");
        assert_eq!((scenario.kernels, scenario.lockstep), (Kernels::Any, LockstepMode::Full));
    }

    #[test]
    fn a_later_entry_of_expect_that_is_never_looked_at_is_warned_of() {
        let scenario = with(r#""expect": [{"verdict": "same"}, {"kernels": ["6.1"]}]"#).unwrap();
        let said: Vec<String> = scenario.warnings.iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), 1);
        assert!(said[0].contains("W301 /expect/1: never looked at: entry 0 before it fits every kernel"), "{said:?}");
    }

    #[test]
    fn a_script_inside_keeps_the_files_lines_and_columns() {
        let scenario = with("\n \"faults\": {\"faultscript\": 1}").unwrap();
        let script = scenario.faults.unwrap();
        assert_eq!(script.text.lines().nth(1), Some("           {\"faultscript\": 1}"));
        assert_eq!(script.text.trim(), r#"{"faultscript": 1}"#);
    }

    #[test]
    fn the_copy_in_the_runs_folder_has_a_script_file_inside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f.json"), r#"{"faultscript": 1}"#).unwrap();
        let text = SMALL.replacen('{', r#"{"faults": "f.json", "#, 1);
        let scenario = parse(&dir.path().join("s.json"), &text).unwrap();
        let copy = parse(Path::new("elsewhere/scenario.json"), &scenario.to_json()).unwrap();
        assert_eq!(copy.faults.unwrap().text.trim().replace([' ', '\n'], ""), r#"{"faultscript":1}"#);
    }
}
