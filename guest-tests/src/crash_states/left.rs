//! What a power cut has left of a run's own image (`then` is `kill_vm` or `disconnect`): one state, examined like any other.

use super::contents::Pool;
use super::{Damage, Looked, look as look_at_image};
use crate::durability::{Broken, Expected};
use crate::failure::{At, Failure};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// See the module. Stands in host.json.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// Which step found that it is no whole file system, and what it said.
    pub damage: Option<(String, String)>,
    /// What is missing or wrong in its files.
    pub broken: Vec<Broken>,
    /// Files of which something was promised.
    pub promised_files: u64,
    /// Bytes that were promised and looked for.
    pub promised_bytes: u64,
    /// Why what the files hold was not judged.
    pub not_judged: Option<String>,
}

/// Examines a copy of `image`, which lies in the new folder `scratch` meanwhile. `expected` is an error where files are not
/// judged.
pub fn look(image: &Path, scratch: &Path, expected: Result<Expected, String>) -> Result<Left, Failure> {
    std::fs::create_dir(scratch).at("make", scratch)?;
    let looked = look_at_copy(image, scratch, expected);
    let removed = std::fs::remove_dir_all(scratch).at("remove", scratch);
    looked.and_then(|left| removed.map(|()| left))
}

fn look_at_copy(image: &Path, scratch: &Path, expected: Result<Expected, String>) -> Result<Left, Failure> {
    let copy = scratch.join("state.img");
    std::fs::copy(image, &copy).at("copy", image)?;
    let looked = look_at_image(&copy, expected.is_ok(), &Pool::default())?;
    Ok(match (looked, expected) {
        (Looked::Damaged(Damage { step, said }), _) => {
            Left { damage: Some((step.to_owned(), said)), ..Left::default() }
        }
        (Looked::Whole(Some(tree)), Ok(expected)) => {
            let judgement = expected.judge(&tree);
            Left {
                broken: judgement.broken,
                promised_files: judgement.promised_files,
                promised_bytes: judgement.promised_bytes,
                ..Left::default()
            }
        }
        (Looked::Whole(_), expected) => Left { not_judged: expected.err(), ..Left::default() },
    })
}
