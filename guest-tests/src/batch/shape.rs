//! What a boot is made from, and which scenarios fit it: those that ask for the same guest and for a disk that offers the same.

use super::{MOST_SCENARIOS, TIME_LIMIT_S};
use crate::args::Accel;
use crate::failure::Failure;
use crate::scenario::{Guest, Scenario};
use fault_injection::{DeviceLimits, WriteCache};
use std::path::PathBuf;

/// See the module.
#[derive(Clone, Debug)]
pub struct BootSpec {
    /// The virtual machine.
    pub guest: Guest,
    /// Size of the disk.
    pub size_mib: u64,
    /// What the disk offers: `device` of every script.
    pub device: DeviceLimits,
    /// As after `--kernel`.
    pub kernel: String,
    /// As after `--accel`.
    pub accel: Accel,
    /// As after `--dialect`, for every scenario.
    pub dialect: Option<String>,
    /// As after `--canary`, for every scenario.
    pub canary: Option<String>,
    /// Seconds that a scenario may take, and the boot.
    pub time_limit_s: u64,
    /// Scenarios after which the boot is to be replaced.
    pub most: u32,
    /// Where the boot's own files go (console, logs, the trace of its start), kept; none: nowhere, and they are gone with it.
    pub folder: Option<PathBuf>,
}

impl BootSpec {
    /// The boot that suits a scenario, with this kernel.
    pub fn of(scenario: &Scenario, kernel: &str) -> BootSpec {
        BootSpec {
            guest: scenario.guest.clone(),
            size_mib: scenario.filesystem.size_mib,
            device: scenario.script.device().clone(),
            kernel: kernel.to_owned(),
            accel: Accel::Auto,
            dialect: None,
            canary: None,
            time_limit_s: TIME_LIMIT_S,
            most: MOST_SCENARIOS,
            folder: None,
        }
    }

    /// Whether the scenario can run in this boot; an error names what it wants otherwise.
    pub fn fits(&self, scenario: &Scenario) -> Result<(), Failure> {
        let wants = |what: &str| Err(Failure::BadInput(format!("{} needs a boot of its own: {what}", scenario.name)));
        if scenario.guest != self.guest {
            return wants("its guest is not that of the boot");
        }
        let size_mib = scenario.filesystem.size_mib;
        if size_mib != self.size_mib {
            return wants(&format!("its disk has {size_mib} MiB, that of the boot {}", self.size_mib));
        }
        if offered(scenario.script.device()) != offered(&self.device) {
            return wants("its disk offers something else (`device` of its script) than that of the boot");
        }
        Ok(())
    }

    /// The script of the disk that is in when no scenario's is.
    pub(super) fn idle_script(&self) -> String {
        serde_json::json!({"faultscript": 1, "device": self.device}).to_string()
    }
}

/// As far as the driver is told: that a cache lies, or forgets, is between the disk and its script.
fn offered(limits: &DeviceLimits) -> DeviceLimits {
    let write_cache = limits.write_cache.filter(|cache| *cache == WriteCache::Writethrough);
    DeviceLimits { write_cache, queues: None, ..limits.clone() }
}
