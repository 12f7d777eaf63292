//! A simpler guest and file system: defaults where they show the same.
//!
//! Another guest is another boot, so it is tried once for everything before each part is tried alone.

use crate::Oracle;
use crate::search::{Passed, Search};
use crate::tidy::changed;
use serde_json::{Value, json};

/// Sizes of the disk that are tried, smallest first.
const SIZES_MIB: [u64; 2] = [16, 32];

/// The size of a scenario that names none.
const DEFAULT_MIB: u64 = 64;

fn part(scenario: &mut Value, name: &str, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
    if let Some(part) = scenario.get_mut(name).and_then(Value::as_object_mut) {
        change(part);
    }
}

fn keys(scenario: &Value, name: &str) -> Vec<String> {
    scenario[name].as_object().into_iter().flat_map(|part| part.keys().cloned()).collect()
}

/// Arguments of mke2fs in the pieces that can be left out: an option goes with its value, and of a list each item.
fn arguments(mkfs: &[Value]) -> Vec<Vec<Value>> {
    let mut groups: Vec<Vec<Value>> = Vec::new();
    for word in mkfs {
        match groups.last_mut() {
            Some(group) if !is_option(word) && group.len() == 1 && is_option(&group[0]) => group.push(word.clone()),
            _ => groups.push(vec![word.clone()]),
        }
    }
    groups
}

fn is_option(word: &Value) -> bool {
    word.as_str().is_some_and(|word| word.starts_with('-'))
}

impl<O: Oracle> Search<'_, O> {
    /// See the module.
    pub fn simpler_shape(&mut self) -> Passed<O> {
        let mut found = self.without_part("default file system and guest", &["filesystem", "guest"])?;
        if !found {
            found |= self.without_part("default file system", &["filesystem"])?;
            found |= self.fewer_options()?;
            found |= self.without_part("default guest", &["guest"])?;
            for key in keys(&self.best, "guest") {
                found |= self.change(&format!("default {key} of the guest"), |scenario| {
                    part(scenario, "guest", |guest| {
                        guest.remove(&key);
                    });
                })?;
            }
        }
        Ok(self.smaller_disk()? || found)
    }

    fn without_part(&mut self, what: &str, parts: &[&str]) -> Passed<O> {
        // A disk's size is tried by itself: where the workload fills the disk, a default would hide the rest.
        self.change(what, |scenario| {
            for name in parts {
                part(scenario, name, |part| part.retain(|key, _| key == "size_mib"));
            }
        })
    }

    fn fewer_options(&mut self) -> Passed<O> {
        let mut found = false;
        for key in ["mount", "mkfs", "block_bytes"] {
            found |= self.change(&format!("default {key}"), |scenario| {
                part(scenario, "filesystem", |filesystem| {
                    filesystem.remove(key);
                });
            })?;
        }
        let mount = |scenario: &Value| scenario["filesystem"]["mount"].as_array().map_or(0, Vec::len);
        found |= self.fewer("mount options", mount, |scenario, range| {
            let mut candidate = scenario.clone();
            candidate["filesystem"]["mount"].as_array_mut().map(|options| options.drain(range).count());
            candidate
        })?;
        let groups =
            |scenario: &Value| scenario["filesystem"]["mkfs"].as_array().map_or(0, |mkfs| arguments(mkfs).len());
        found |= self.fewer("arguments of mke2fs", groups, |scenario, range| {
            let mut candidate = scenario.clone();
            if let Some(mkfs) = candidate["filesystem"]["mkfs"].as_array_mut() {
                let mut kept = arguments(mkfs);
                kept.drain(range);
                *mkfs = kept.concat();
            }
            candidate
        })?;
        Ok(found)
    }

    fn smaller_disk(&mut self) -> Passed<O> {
        let now = self.best["filesystem"]["size_mib"].as_u64().unwrap_or(DEFAULT_MIB);
        for size_mib in SIZES_MIB.into_iter().filter(|&size_mib| size_mib < now) {
            let what = format!("a disk of {size_mib} MiB");
            if self.change(&what, |scenario| {
                crate::tidy::object(scenario, "filesystem").insert("size_mib".into(), json!(size_mib));
            })? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn change(&mut self, what: &str, change: impl FnOnce(&mut Value)) -> Passed<O> {
        changed(&self.best, change).map_or(Ok(false), |candidate| self.attempt(what, candidate))
    }
}
