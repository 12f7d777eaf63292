//! host.json: what the host saw in a run and nothing else in the folder holds.
//!
//! The judge reads it instead of the machine, so that judging again gives the same.

use crate::crash_states::Left;
use crate::crash_states::within::Cuts;
use crate::failure::Failure;
use crate::folder::{self, RunFolder};
use guest_init::pattern::Run;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// Version of the program that made the run.
    pub guest_tests: String,
    /// The guest's kernel.
    pub kernel: Kernel,
    /// `--dialect`
    pub dialect: Option<String>,
    /// The planted mistake, if the run is to show that one is noticed.
    pub canary: Option<String>,
    /// `--seed`
    pub seed: Option<u64>,
    /// What free blocks were filled with.
    pub nonce: u64,
    /// `kvm` or `tcg`.
    pub accel: String,
    /// Why the guest's kernel could not be traced; none: it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_traced: Option<String>,
    /// How the guest's part ended.
    pub guest_end: GuestEnd,
    /// The workload could not be mounted, or the file system not be unmounted.
    pub mount_errors: Vec<String>,
    /// vhost-blk ended with the exit code that says that the script's own `expect` was not met.
    pub expect_unmet: bool,
    /// What e2fsck said; none: the file system was not cleanly unmounted, so it was not asked.
    pub e2fsck: Option<E2fsck>,
    /// Content of files on the image, for those that the scenario names; none: the file is not there.
    pub image: BTreeMap<String, Option<Vec<Run>>>,
    /// What a power cut that ended the run left; none: there was no such cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<Left>,
    /// What the run's other power cuts may have left; none: the script has none, or somebody else looks at them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cuts: Option<Cuts>,
    /// How long each stage took.
    pub phases: Vec<Phase>,
    /// The command that shows it again.
    pub repeat: String,
}

/// The guest's kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernel {
    /// `uname -r`
    pub release: String,
    /// `uname -v`
    pub build: String,
    /// SHA-256 of the image that was booted.
    pub image_sha256: String,
}

/// How the guest's part ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "end")]
pub enum GuestEnd {
    /// It did everything and powered off.
    Done,
    /// It went away before that: a panic, or a guest-init that could not go on.
    Died {
        /// While doing what.
        why: String,
    },
    /// The script cut the disk's power, and with that the run.
    PowerCut {
        /// What the guest was doing.
        why: String,
    },
    /// It was still at it when the time limit came.
    TimeLimit {
        /// The limit.
        seconds: u64,
    },
}

impl GuestEnd {
    /// It died or hung, and no script asked for that.
    pub fn unasked(&self) -> bool {
        match self {
            GuestEnd::Done | GuestEnd::PowerCut { .. } => false,
            GuestEnd::Died { .. } | GuestEnd::TimeLimit { .. } => true,
        }
    }
}

/// What `e2fsck -fn` said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct E2fsck {
    /// Its exit code; 0 is a sound file system.
    pub exit_code: i32,
    /// What it printed.
    pub text: String,
    /// What a copy was after its journal had been replayed; none: there was nothing to replay, and nothing was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replayed: Option<Replayed>,
    /// The kernel has written into the superblock that it met an error.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub error_recorded: bool,
}

/// A copy of an image whose journal was replayed, as the next mount would.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replayed {
    /// Which step found that it is no whole file system, and what it said; none: it is one.
    pub damage: Option<(String, String)>,
}

impl E2fsck {
    /// The image was left with a journal that the next mount must replay.
    pub fn journal_waits(&self) -> bool {
        self.text.contains("skipping journal recovery")
    }

    /// Which step found damage that a mount would not make good, and what it said.
    pub fn damage(&self) -> Option<(String, &str)> {
        match &self.replayed {
            Some(Replayed { damage }) => {
                damage.as_ref().map(|(step, said)| (format!("after a replay of the journal, {step}"), said.as_str()))
            }
            None => {
                (self.exit_code != 0).then(|| (format!("e2fsck -fn ended with {}", self.exit_code), self.text.as_str()))
            }
        }
    }
}

/// A stage of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Phase {
    /// image, boot, workload, …
    pub name: String,
    /// How long it took.
    pub took_ms: u64,
}

impl Host {
    /// Reads it from a run's folder.
    pub fn read(folder: &RunFolder) -> Result<Host, Failure> {
        let text = folder.read_text(folder::HOST)?;
        serde_json::from_str(&text).map_err(|error| {
            Failure::BadInput(format!(
                "{} is damaged or of another version: {error}; {}",
                folder.file(folder::HOST).display(),
                folder::RUN_AGAIN
            ))
        })
    }

    /// Writes it.
    pub fn write(&self, folder: &RunFolder) -> Result<(), Failure> {
        let mut text = serde_json::to_string_pretty(self).expect("it holds nothing that JSON cannot say");
        text.push('\n');
        folder.write(folder::HOST, text)
    }
}
