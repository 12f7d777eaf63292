//! The grammar of a scenario file: everything that is wrong with it, in one pass, with the place of each.
//!
//! Only finds mistakes. A file without any becomes a `Scenario` by serde, which knows the same keys; a test holds the two
//! together. The fault script inside has its own grammar and is checked by `fault-injection`.

use super::Disk;
use super::ops::{self, Reads};
use crate::findings;
use fault_injection::json::Value;
use fault_injection::reader::{At, Fields, MAX_INTEGER, Reader, did_you_mean};

/// The version of the format that this program knows.
pub const FORMAT: u64 = 1;

/// What the rest of the checks needs from a file, as far as it could be understood.
#[derive(Default)]
pub struct Outline<'n> {
    /// The fault script, or the name of a file with one.
    pub faults: Option<At<'n>>,
    /// There is something in its place that can be neither.
    pub faults_are_wrong: bool,
    /// Whether the disk keeps its word, and where that is said.
    pub disk: Option<(Disk, At<'n>)>,
    /// Size of the disk.
    pub size_mib: Option<u64>,
    /// Queues of the disk.
    pub queues: Option<u64>,
    /// Rules and events that expectations name.
    pub fired: Vec<(String, At<'n>)>,
}

/// Checks a whole document, and notes its mistakes in `reader`.
pub fn check<'n>(reader: &mut Reader<'_>, root: &At<'n>) -> Outline<'n> {
    let mut grammar = Grammar { r: reader, outline: Outline::default(), reads: Reads::default() };
    grammar.scenario(root);
    grammar.outline
}

struct Grammar<'r, 's, 'n> {
    r: &'r mut Reader<'s>,
    outline: Outline<'n>,
    reads: Reads,
}

impl<'n> Grammar<'_, '_, 'n> {
    fn scenario(&mut self, at: &At<'n>) {
        let known = [
            "scenario",
            "name",
            "why",
            "kernels",
            "guest",
            "filesystem",
            "disk",
            "faults",
            "workload",
            "lockstep",
            "expect",
        ];
        let Some(fields) = self.r.object(at, &known) else { return };
        if let Some(at) = self.r.required(&fields, "scenario").cloned() {
            self.version(&at);
        }
        if let Some(at) = self.r.required(&fields, "name").cloned() {
            self.name(&at);
        }
        if let Some(at) = self.r.required(&fields, "why").cloned() {
            self.r.string(&at);
        }
        self.field(&fields, "kernels", Self::kernels);
        self.field(&fields, "guest", Self::guest);
        self.field(&fields, "filesystem", Self::filesystem);
        self.field(&fields, "disk", |grammar, at| {
            let disk = grammar.r.choice(at, &[("honest", Disk::Honest), ("lying", Disk::Lying)]);
            grammar.outline.disk = disk.map(|disk| (disk, at.clone()));
        });
        self.field(&fields, "faults", Self::faults);
        if let Some(at) = self.r.required(&fields, "workload").cloned() {
            self.reads = ops::workload(self.r, &at);
        }
        self.field(&fields, "lockstep", |grammar, at| {
            grammar.r.choice(at, &[("full", ()), ("none", ())]);
        });
        self.field(&fields, "expect", Self::expect);
    }

    fn field(&mut self, fields: &Fields<'n>, key: &str, check: impl FnOnce(&mut Self, &At<'n>)) {
        if let Some(at) = fields.get(key) {
            check(self, at);
        }
    }

    fn version(&mut self, at: &At<'_>) {
        if let Some(version) = self.r.integer(at, 0, MAX_INTEGER).filter(|version| *version != FORMAT) {
            let hint = Some(format!("this program reads version {FORMAT}"));
            self.r.report("E102", at, format!("version {version} of the format is not known"), hint);
        }
    }

    fn name(&mut self, at: &At<'_>) {
        let speakable = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        let Some(name) = self.r.string(at) else { return };
        if name.is_empty() || name.starts_with('.') || !name.chars().all(speakable) {
            let text = format!(
                "{name:?} cannot name a folder; a name has small letters, digits, '-' and '.' only, and begins with no dot"
            );
            self.r.report("E103", at, text, None);
        }
    }

    fn kernels(&mut self, at: &At<'_>) {
        let any = matches!(at.node.get_ref(), Value::String(word) if word == "any");
        if any {
            return;
        }
        if at.is_array() {
            return self.versions(at);
        }
        let hint = match at.node.get_ref() {
            Value::String(version) => Some(format!("write [{version:?}]")),
            _ => None,
        };
        self.r.report("E106", at, "kernels is \"any\" or a list of versions such as [\"6.1\"]", hint);
    }

    fn versions(&mut self, at: &At<'_>) {
        let versions = self.r.array(at).unwrap_or_default();
        if versions.is_empty() {
            self.r.report("E103", at, "no kernel is named", Some("leave the field out for every kernel".into()));
        }
        for version in versions {
            self.r.string(&version);
        }
    }

    fn guest(&mut self, at: &At<'n>) {
        let known = ["vcpus", "queues", "memory_mib", "scheduler", "nomerges", "wbt_lat_usec", "qemu"];
        let Some(fields) = self.r.object(at, &known) else { return };
        let vcpus = self.integer(&fields, "vcpus", 1, 16);
        self.outline.queues = self.integer(&fields, "queues", 1, 16).or(vcpus);
        self.integer(&fields, "memory_mib", 256, 65_536);
        self.integer(&fields, "nomerges", 0, 2);
        self.integer(&fields, "wbt_lat_usec", 0, MAX_INTEGER);
        self.field(&fields, "scheduler", |grammar, at| {
            grammar.r.string(at);
        });
        self.field(&fields, "qemu", Self::strings);
    }

    fn filesystem(&mut self, at: &At<'n>) {
        let Some(fields) = self.r.object(at, &["size_mib", "block_bytes", "mkfs", "mount"]) else { return };
        self.outline.size_mib = self.integer(&fields, "size_mib", 16, 65_536);
        if let Some(bytes) = self.integer(&fields, "block_bytes", 0, MAX_INTEGER)
            && ![1024, 2048, 4096].contains(&bytes)
        {
            let at = &fields.get("block_bytes").expect("it was read just now");
            self.r.report("E102", at, format!("{bytes} is not one of 1024, 2048, 4096, ext4's block sizes"), None);
        }
        self.field(&fields, "mkfs", Self::strings);
        self.field(&fields, "mount", Self::strings);
    }

    fn integer(&mut self, fields: &Fields<'_>, key: &str, min: u64, max: u64) -> Option<u64> {
        fields.get(key).and_then(|at| self.r.integer(at, min, max))
    }

    fn strings(&mut self, at: &At<'n>) {
        for item in self.r.array(at).unwrap_or_default() {
            self.r.string(&item);
        }
    }

    fn faults(&mut self, at: &At<'n>) {
        match at.is_string() || at.is_object() {
            true => self.outline.faults = Some(at.clone()),
            false => {
                self.outline.faults_are_wrong = true;
                self.r.wrong_type(at, "a fault script or the name of a file with one");
            }
        }
    }

    fn expect(&mut self, at: &At<'n>) {
        let mut for_all: Option<usize> = None;
        for (index, entry) in self.r.array(at).unwrap_or_default().iter().enumerate() {
            if let Some(before) = for_all {
                let text = format!("never looked at: entry {before} before it fits every kernel");
                self.r.report("W301", entry, text, Some("the first entry that fits counts".into()));
            }
            let known = ["kernels", "open", "verdict", "findings", "fired", "reads", "image"];
            let Some(fields) = self.r.object(entry, &known) else { continue };
            for_all = for_all.or((!fields.has("kernels")).then_some(index));
            self.expectation(&fields);
        }
    }

    fn expectation(&mut self, fields: &Fields<'n>) {
        self.field(fields, "kernels", |grammar, at| grammar.versions(at));
        self.field(fields, "open", |grammar, at| {
            grammar.r.boolean(at);
        });
        self.field(fields, "verdict", |grammar, at| {
            grammar.r.choice(at, &[("same", ()), ("allowed", ()), ("different", ()), ("unjudged", ())]);
        });
        self.field(fields, "findings", Self::findings);
        self.field(fields, "fired", Self::fired);
        self.field(fields, "reads", Self::reads);
        self.field(fields, "image", Self::image);
    }

    fn findings(&mut self, at: &At<'n>) {
        let kinds: Vec<(&str, ())> = findings::KINDS.iter().map(|id| (*id, ())).collect();
        for item in self.r.array(at).unwrap_or_default() {
            self.r.choice(&item, &kinds);
        }
    }

    fn fired(&mut self, at: &At<'n>) {
        let Some(fields) = self.r.any_object(at) else { return };
        for (rule, at) in &fields.entries {
            self.outline.fired.push(((*rule).to_owned(), at.clone()));
            self.times(at);
        }
    }

    /// `[least, most]`, without bound where `most` is null.
    fn times(&mut self, at: &At<'_>) {
        let Some(items) = self.r.array(at) else { return };
        let [least, most] = &items[..] else {
            return self.r.report("E106", at, "expected [least, most]", Some("null as most is no bound".into()));
        };
        let least = self.r.integer(least, 0, MAX_INTEGER);
        if most.is_null() {
            return;
        }
        if let (Some(least), Some(most)) = (least, self.r.integer(most, 0, MAX_INTEGER))
            && most < least
        {
            self.r.report("E103", at, format!("[{least}, {most}] falls; a range rises: [least, most]"), None);
        }
    }

    /// What is not read, or not so often, would be a check that fails whatever the guest does.
    fn reads(&mut self, at: &At<'n>) {
        let Some(fields) = self.r.any_object(at) else { return };
        for (path, at) in &fields.entries {
            let Some(wanted) = self.r.array(at) else { continue };
            let done = self.reads.of(path);
            if done != wanted.len() {
                let text =
                    format!("{path:?} is read {done} times in the workload, and here are {} reads", wanted.len());
                let hint = if done == 0 { did_you_mean(path, &self.reads.paths()) } else { None };
                self.r.report("E110", at, text, hint);
            }
            wanted.iter().for_each(|read| self.stretches(read));
        }
    }

    fn image(&mut self, at: &At<'n>) {
        let Some(fields) = self.r.any_object(at) else { return };
        for (path, at) in &fields.entries {
            if path.contains(['"', '\n']) {
                let text = format!("{path:?} holds a quote or a line end, which debugfs cannot take");
                self.r.report("E103", at, text, None);
            }
            self.stretches(at);
        }
    }

    fn stretches(&mut self, at: &At<'n>) {
        for stretch in self.r.array(at).unwrap_or_default() {
            self.stretch(&stretch);
        }
    }

    fn stretch(&mut self, at: &At<'n>) {
        let known = ["offset", "len", "is", "name", "from", "sector"];
        let Some(fields) = self.r.object(at, &known) else { return };
        for key in ["offset", "len"] {
            if let Some(at) = self.r.required(&fields, key).cloned() {
                self.r.integer(&at, u64::from(key == "len"), MAX_INTEGER);
            }
        }
        let Some(is) = self.r.required(&fields, "is").cloned() else { return };
        // Each content with what more may be said of it.
        let contents: [(&str, &[&str]); 5] = [
            ("zero", &[]),
            ("pattern", &["name"]),
            ("misplaced", &["name", "from"]),
            ("past", &["sector"]),
            ("other", &[]),
        ];
        let Some(may) = self.r.choice(&is, &contents) else { return };
        for key in fields.present(&["name", "from", "sector"]) {
            let at = fields.get(key).expect("it is present").clone();
            match key {
                "name" => drop(self.r.string(&at)),
                _ => drop(self.r.integer(&at, 0, MAX_INTEGER)),
            }
            if !may.contains(&key) {
                self.r.report("E111", &at, format!("{key:?} means nothing for this content"), None);
            }
        }
    }
}
