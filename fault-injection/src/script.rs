//! A script after loading: merged, complete, with every default filled in. Nothing in it needs checking again,
//! except what only the device can know (`check_device`).

use serde::Serialize;

use crate::problem::{Problem, Problems};

/// One script file.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// Name for messages.
    pub name: &'a str,
    /// The file's text.
    pub text: &'a str,
}

/// What `load` gives when nothing is wrong.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The merged script.
    pub script: Script,
    /// W-codes: print them, and start all the same.
    pub warnings: Vec<Problem>,
}

/// The merged script.
#[derive(Clone, Debug)]
pub struct Script {
    device: DeviceLimits,
    seed: Option<u64>,
}

/// What a script asks of the device; `None` leaves it to the device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DeviceLimits {
    /// Capacity to offer; at most the image's.
    pub capacity_sectors: Option<u64>,
    /// Most segments of a request.
    pub seg_max: Option<u32>,
    /// Most bytes of a segment.
    pub size_max_bytes: Option<u32>,
    /// Logical block size.
    pub logical_block_bytes: Option<u32>,
    /// Queues the script needs. A requirement to check: the front-end decides how many there are.
    pub queues: Option<u16>,
    /// Write cache.
    pub write_cache: Option<WriteCache>,
    /// Offer the device read-only.
    pub read_only: Option<bool>,
    /// Offer DISCARD.
    pub discard: Option<bool>,
    /// Offer WRITE_ZEROES.
    pub write_zeroes: Option<bool>,
}

/// `device.write_cache`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WriteCache {
    /// Volatile: a flush makes writes durable.
    Writeback,
    /// Every write is durable when answered.
    Writethrough,
}

/// What the device knows of itself, for `Script::check_device`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceFacts {
    /// Capacity of the image, before the script limits it.
    pub capacity_sectors: u64,
    /// Queues the device offers.
    pub queues: u16,
    /// Logical block size the device offers (the script's where it sets one).
    pub logical_block_bytes: u32,
}

/// Whether a run follows from script, seed and requests alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Determinism {
    /// True: same script, seed and requests in each queue, same decisions.
    pub deterministic: bool,
    /// Why not; empty when deterministic.
    pub why: Vec<String>,
}

/// Reads, merges and checks scripts, in order. All problems of all files are found in one pass; nothing is started.
pub fn load(sources: &[Source<'_>]) -> Result<Loaded, Problems> {
    let problem = |source: &Source<'_>| Problem {
        file: source.name.to_string(),
        line: 1,
        column: 1,
        code: "E400",
        pointer: String::new(),
        text: "scripts are not loaded yet".to_string(),
        hint: None,
    };
    let problems: Vec<_> = sources.iter().map(problem).collect();
    if problems.is_empty() {
        return Ok(Loaded { script: Script { device: DeviceLimits::default(), seed: None }, warnings: Vec::new() });
    }
    Err(Problems(problems))
}

impl Script {
    /// A script without rules: the device behaves.
    pub fn empty() -> Script {
        Script { device: DeviceLimits::default(), seed: None }
    }

    /// What only the device can know: ranges beyond its end, queues it does not have. E2xx and W3xx.
    pub fn check_device(&self, _facts: &DeviceFacts) -> Vec<Problem> {
        Vec::new()
    }

    /// The static limits to offer.
    pub fn device(&self) -> &DeviceLimits {
        &self.device
    }

    /// The script's own seed.
    pub fn seed(&self) -> Option<u64> {
        self.seed
    }

    /// The merged script as JSON with all defaults written out, for script.normalized.json. Loading it gives the same.
    pub fn normalized(&self) -> String {
        String::new()
    }

    /// Whether runs with this many queues follow from the seed.
    pub fn determinism(&self, _queues: u16) -> Determinism {
        Determinism { deterministic: true, why: Vec::new() }
    }
}

/// What the script does, in sentences: stages, order, defaults, who can shadow whom.
pub fn explain(_script: &Script) -> String {
    String::new()
}

/// The JSON Schema (draft 2020-12) of the language.
pub fn schema() -> &'static str {
    include_str!("../fault-script.schema.json")
}
