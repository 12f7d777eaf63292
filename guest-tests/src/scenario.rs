//! A scenario file: what the guest is, what it does, what the disk does to it, and what that should give.
//!
//! Parsed once, here. Every way it can be wrong has a sentence with file, place and remedy, and nothing has been started by then.
//! docs/scenarios.md tells the format by example.

use crate::expectation::{Expectation, fits};
use crate::failure::Failure;
use crate::findings;
use guest_init::job::Op;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The version of the format that this program knows.
const FORMAT: u32 = 1;

/// A scenario, checked.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Short name: small letters, digits, `-`.
    pub name: String,
    /// Which behaviour it shows, in a sentence or two.
    pub why: String,
    /// Kernels it is meant for.
    pub kernels: Kernels,
    /// The virtual machine.
    pub guest: Guest,
    /// The file system under test.
    pub filesystem: Filesystem,
    /// The fault script; none: a disk without faults.
    pub faults: Option<Script>,
    /// What the guest does, in order.
    pub workload: Vec<Op>,
    /// Whether guest and replica are compared.
    pub lockstep: LockstepMode,
    /// What should come out; the first entry that fits the kernel counts.
    pub expect: Vec<Expectation>,
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
    pub queues: Option<u32>,
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
            queues: None,
            memory_mib: 512,
            scheduler: "none".into(),
            nomerges: 2,
            wbt_lat_usec: 0,
            qemu: Vec::new(),
        }
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

/// The file as it stands, before it is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<'a> {
    scenario: u32,
    name: String,
    why: String,
    #[serde(default)]
    kernels: Kernels,
    #[serde(default)]
    guest: Guest,
    #[serde(default)]
    filesystem: Filesystem,
    #[serde(borrow, default)]
    faults: Option<&'a RawValue>,
    #[serde(borrow)]
    workload: Vec<&'a RawValue>,
    #[serde(default)]
    lockstep: LockstepMode,
    #[serde(default)]
    expect: Vec<Expectation>,
}

/// One thing that is wrong with a scenario file.
#[derive(Debug, thiserror::Error)]
#[error("{}{}: {}{text}", .file.display(), place(.line_column), pointer_prefix(.pointer))]
pub struct ScenarioError {
    file: PathBuf,
    line_column: Option<(usize, usize)>,
    pointer: String,
    text: String,
}

fn place(line_column: &Option<(usize, usize)>) -> String {
    line_column.map(|(line, column)| format!(":{line}:{column}")).unwrap_or_default()
}

fn pointer_prefix(pointer: &str) -> String {
    if pointer.is_empty() { String::new() } else { format!("{pointer}: ") }
}

impl From<ScenarioError> for Failure {
    fn from(error: ScenarioError) -> Failure {
        Failure::BadInput(error.to_string())
    }
}

/// Reads and checks a scenario file, and the script file that it names.
pub fn load(path: &Path) -> Result<Scenario, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::BadInput(format!("cannot read the scenario {}: {error}", path.display())))?;
    Ok(parse(path, &text)?)
}

/// Checks the text of a scenario file.
pub fn parse(path: &Path, text: &str) -> Result<Scenario, ScenarioError> {
    let reader = Reader { path, text };
    let document = reader.document()?;
    let workload = reader.workload(&document.workload)?;
    let faults = document.faults.map(|raw| reader.script(raw)).transpose()?;
    let scenario = Scenario {
        name: document.name,
        why: document.why,
        kernels: document.kernels,
        guest: document.guest,
        filesystem: document.filesystem,
        faults,
        workload,
        lockstep: document.lockstep,
        expect: document.expect,
        document: serde_json::from_str(text).expect("it was read as JSON just now"),
    };
    reader.check(document.scenario, &scenario)?;
    Ok(scenario)
}

impl Scenario {
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

/// The one place where a scenario file turns into types.
struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

impl<'a> Reader<'a> {
    fn document(&self) -> Result<Document<'a>, ScenarioError> {
        let mut json = serde_json::Deserializer::from_str(self.text);
        let document: Document<'a> = serde_path_to_error::deserialize(&mut json).map_err(|error| ScenarioError {
            file: self.path.to_owned(),
            line_column: Some((error.inner().line(), error.inner().column())),
            pointer: pointer_of(error.path()),
            text: without_place(&error.inner().to_string()),
        })?;
        json.end().map_err(|error| ScenarioError {
            file: self.path.to_owned(),
            line_column: Some((error.line(), error.column())),
            pointer: String::new(),
            text: "something follows the scenario; a file holds one".into(),
        })?;
        Ok(document)
    }

    fn workload(&self, raw: &[&'a RawValue]) -> Result<Vec<Op>, ScenarioError> {
        let op = |(index, raw): (usize, &&'a RawValue)| {
            serde_json::from_str(raw.get()).map_err(|error: serde_json::Error| ScenarioError {
                line_column: Some(self.line_column(raw.get())),
                ..self.wrong(format!("/workload/{index}"), without_place(&error.to_string()))
            })
        };
        raw.iter().enumerate().map(op).collect()
    }

    fn script(&self, raw: &'a RawValue) -> Result<Script, ScenarioError> {
        if let Ok(name) = serde_json::from_str::<String>(raw.get()) {
            return self.script_file(&name);
        }
        let blank = |c: char| if c == '\n' { '\n' } else { ' ' };
        let before: String = self.text[..self.offset(raw.get())].chars().map(blank).collect();
        Ok(Script { file: self.path.to_owned(), text: before + raw.get() })
    }

    fn script_file(&self, name: &str) -> Result<Script, ScenarioError> {
        let file = self.path.parent().unwrap_or(Path::new("")).join(name);
        let text = std::fs::read_to_string(&file).map_err(|error| {
            self.wrong("/faults", format!("cannot read the fault script {}: {error}", file.display()))
        })?;
        Ok(Script { file, text })
    }

    fn check(&self, format: u32, scenario: &Scenario) -> Result<(), ScenarioError> {
        self.check_head(format, scenario)?;
        self.check_machine(&scenario.guest, &scenario.filesystem)?;
        scenario.expect.iter().enumerate().try_for_each(|(index, entry)| self.check_expectation(index, entry))
    }

    fn check_head(&self, format: u32, scenario: &Scenario) -> Result<(), ScenarioError> {
        let speakable = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if format != FORMAT {
            return Err(self.wrong("/scenario", format!("version {format} is unknown here; write {FORMAT}")));
        }
        if scenario.name.is_empty() || !scenario.name.chars().all(speakable) {
            return Err(self.wrong("/name", "a name has small letters, digits and '-' only (it names folders)"));
        }
        if scenario.workload.is_empty() {
            return Err(
                self.wrong("/workload", "nothing is done, so nothing could be judged; name at least one operation")
            );
        }
        Ok(())
    }

    fn check_machine(&self, guest: &Guest, filesystem: &Filesystem) -> Result<(), ScenarioError> {
        let within = |pointer: &str, value: u64, least: u64, most: u64| {
            if (least..=most).contains(&value) {
                return Ok(());
            }
            Err(self.wrong(pointer, format!("{value} is outside {least}..{most}")))
        };
        within("/guest/vcpus", guest.vcpus.into(), 1, 16)?;
        within("/guest/queues", guest.queues.unwrap_or(1).into(), 1, 16)?;
        within("/guest/memory_mib", guest.memory_mib.into(), 256, 65_536)?;
        within("/guest/nomerges", guest.nomerges.into(), 0, 2)?;
        within("/filesystem/size_mib", filesystem.size_mib, 16, 65_536)?;
        if ![1024, 2048, 4096].contains(&filesystem.block_bytes) {
            return Err(self.wrong("/filesystem/block_bytes", "ext4's block size is 1024, 2048 or 4096"));
        }
        Ok(())
    }

    fn check_expectation(&self, index: usize, entry: &Expectation) -> Result<(), ScenarioError> {
        for id in &entry.findings {
            if !findings::KINDS.contains(&id.as_str()) {
                let text = format!("no finding is called {id:?}{}", did_you_mean(id, findings::KINDS));
                return Err(self.wrong(format!("/expect/{index}/findings"), text));
            }
        }
        if let Some(path) = entry.image.keys().find(|path| path.contains(['"', '\n'])) {
            let text = format!("{path:?} holds a quote or a line end, which debugfs cannot take");
            return Err(self.wrong(format!("/expect/{index}/image"), text));
        }
        let times: &BTreeMap<_, _> = &entry.fired.clone().unwrap_or_default();
        match times.iter().find(|(_, times)| times.1.is_some_and(|most| most < times.0)) {
            Some((rule, _)) => Err(self.wrong(format!("/expect/{index}/fired/{rule}"), "a range rises: [least, most]")),
            None => Ok(()),
        }
    }

    fn wrong(&self, pointer: impl Into<String>, text: impl Into<String>) -> ScenarioError {
        ScenarioError { file: self.path.to_owned(), line_column: None, pointer: pointer.into(), text: text.into() }
    }

    /// Where `part`, a piece of the text, begins.
    fn offset(&self, part: &str) -> usize {
        part.as_ptr() as usize - self.text.as_ptr() as usize
    }

    fn line_column(&self, part: &str) -> (usize, usize) {
        let before = &self.text[..self.offset(part)];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

/// The nearest of `known`, as the end of a sentence.
fn did_you_mean(word: &str, known: &[&str]) -> String {
    let nearest = known.iter().min_by_key(|candidate| strsim::levenshtein(word, candidate));
    nearest.map(|candidate| format!("; did you mean {candidate:?}?")).unwrap_or_default()
}

/// serde_json ends its sentences with the place, which stands in front of ours already.
fn without_place(text: &str) -> String {
    match text.rfind(" at line ") {
        Some(at) => text[..at].to_owned(),
        None => text.to_owned(),
    }
}

fn pointer_of(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let part = |segment: &Segment| match segment {
        Segment::Seq { index } => format!("/{index}"),
        Segment::Map { key } => format!("/{key}"),
        Segment::Enum { variant } => format!("/{variant}"),
        Segment::Unknown => String::new(),
    };
    path.iter().map(part).collect()
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
    fn every_mistake_has_its_place_and_its_sentence() {
        for (key_and_value, says) in [
            (r#""guest": {"vcpu": 2}"#, "s.json:1:17: /guest/vcpu: unknown field `vcpu`"),
            (r#""guest": {"vcpus": 0}"#, "/guest/vcpus: 0 is outside 1..16"),
            (r#""guest": {"queues": 17}"#, "/guest/queues: 17 is outside 1..16"),
            (r#""guest": {"vcpus": "two"}"#, "/guest/vcpus: invalid type: string \"two\""),
            (r#""kernels": "6.1""#, "/kernels: kernels is \"any\" or a list of versions"),
            (r#""filesystem": {"block_bytes": 512}"#, "ext4's block size is 1024, 2048 or 4096"),
            (r#""lockstep": "half""#, "unknown variant `half`"),
            (r#""expect": [{"findings": ["stale-data"]}]"#, "did you mean \"stale-data-read\"?"),
            (r#""expect": [{"fired": {"w3": [2, 1]}}]"#, "/expect/0/fired/w3: a range rises"),
            (r#""faults": "missing.json""#, "/faults: cannot read the fault script missing.json"),
        ] {
            let error = with(key_and_value).unwrap_err();
            assert!(error.contains(says), "{key_and_value}: {error}");
        }
    }

    #[test]
    fn a_wrong_operation_is_named_by_its_place() {
        let error = read(&SMALL.replace("create", "creat")).unwrap_err();
        assert!(error.starts_with("s.json:2:15: /workload/0: "), "{error}");
        assert!(error.contains("creat"), "{error}");
    }

    #[test]
    fn an_empty_workload_another_version_and_a_second_document_are_refused() {
        assert!(read(&SMALL.replace(r#"{"op": "create", "path": "f"}"#, "")).unwrap_err().contains("/workload"));
        assert!(read(&SMALL.replace("1, \"name\"", "2, \"name\"")).unwrap_err().contains("version 2 is unknown"));
        assert!(read(&format!("{SMALL} {{}}")).unwrap_err().contains("something follows the scenario"));
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
