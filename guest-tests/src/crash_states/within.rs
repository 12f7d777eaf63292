//! The states of a run's own power cuts, judged as soon as the run is over: some of each cut, so that a night keeps its rate.
//! `guest-tests crash-states` looks at all of them.
//!
//! Each state must be a file system that a journal replay makes whole, and must hold what was promised before the cut
//! (`durability`). A disk whose cache lies loses what was fsynced, and that is counted, not told as a failure; but states that
//! have the first writes in the order in which they were answered must be whole all the same, and hold nothing that nobody wrote.
//!
//! Which states are looked at follows from the scenario. What is bad keeps its files; all others are gone at once.

use super::command::{self, Judged};
use super::contents::Pool;
use super::cuts::{Cut, Folder, State};
use super::order::{Order, Seen};
use super::{Looked, View, cuts, look as look_at_image};
use crate::device_record;
use crate::durability::{Broken, Expected, Reach, Rules};
use crate::failure::{At, Failure};
use crate::folder::{self, RunFolder};
use crate::interrupt::Interrupt;
use crate::judge;
use crate::ops::OpLine;
use crate::scenario::Scenario;
use fault_injection::WriteCache;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;

/// So many states of a run are judged.
pub const MOST_STATES: usize = 12;

/// What came of a run's power cuts. Stands in host.json.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cuts {
    /// Power cuts that came.
    pub cuts: u64,
    /// States that the disk has written down.
    pub states: u64,
    /// Those that were judged.
    pub judged: u64,
    /// Files of which something was promised, summed over the states.
    pub promised_files: u64,
    /// Bytes that were promised and looked for, summed over the states.
    pub promised_bytes: u64,
    /// States without something that was fsynced, of a disk that answers flushes and carries none out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub losses: u64,
    /// The first of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_loss: Option<BadState>,
    /// Why no files were judged, or nothing at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_judged: Option<String>,
    /// States that may not be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bad: Vec<BadState>,
}

/// A state that is no whole file system, or has not what it should.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadState {
    /// The cut it is of, from 1.
    pub cut: u64,
    /// The rule or event that cut the power.
    pub by: String,
    /// Its file, by which `crash-states --state` shows it again.
    pub file: String,
    /// Unflushed writes that survive in it.
    pub survive: u64,
    /// Those that do not.
    pub lost: u64,
    /// Which step found that it is no whole file system, and what it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damage: Option<(String, String)>,
    /// What is missing or wrong in its files.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub broken: Vec<Broken>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Judges the states that lie in a run's folder, and removes them unless one is bad. None: the folder has no states.
pub fn look(
    scenario: &Scenario,
    nonce: u64,
    run: &RunFolder,
    interrupt: &Interrupt,
    view: &View<'_>,
) -> Result<Option<Cuts>, Failure> {
    let place = run.file(folder::STATES);
    if !place.join(cuts::CUTS).is_file() {
        return Ok(None);
    }
    let folder = Folder::open(&place)?;
    let found = judge_states(scenario, nonce, run, &folder, interrupt, view)?;
    if found.bad.is_empty() {
        drop(folder);
        run.remove(folder::STATES)?;
    }
    Ok(Some(found))
}

fn judge_states(
    scenario: &Scenario,
    nonce: u64,
    run: &RunFolder,
    folder: &Folder,
    interrupt: &Interrupt,
    view: &View<'_>,
) -> Result<Cuts, Failure> {
    let states = folder.cuts.iter().map(|cut| cut.states.len() as u64).sum();
    let mut found = Cuts { cuts: folder.cuts.len() as u64, states, ..Cuts::default() };
    if folder.cuts.is_empty() {
        return Ok(found);
    }
    let of_files = command::judged(scenario);
    if let Judged::Nothing(why) = of_files {
        found.not_judged = Some(why);
        return Ok(found);
    }
    let judge = match Judge::of(scenario, run, folder)? {
        Ok(judge) => judge,
        Err(why) => {
            found.not_judged = Some(why);
            return Ok(found);
        }
    };
    let with_files = of_files == Judged::Whole;
    let scratch = folder.scratch()?;
    let (image, pool) = (scratch.path().join("state.img"), Pool::default());
    for (cut, state) in chosen(&folder.cuts, nonce) {
        interrupt.check()?;
        view(&folder.path.join(&state.file), &image)?;
        let looked = look_at_image(&image, with_files, &pool)?;
        judge.one(cut, state, looked, &mut found);
    }
    found.not_judged = of_files.without_files();
    Ok(found)
}

/// Some states of each cut: first one of every cut, then another, until there are enough. The one in which nothing unflushed survives
/// comes first, the others as the scenario's number has it.
pub(super) fn chosen(cuts: &[Cut], nonce: u64) -> Vec<(&Cut, &State)> {
    let rank = |cut: &Cut, place: usize| -> [u8; 32] {
        Sha256::digest([nonce, cut.cut, place as u64].map(u64::to_le_bytes).concat()).into()
    };
    let mut all = Vec::new();
    for cut in cuts {
        let mut places: Vec<usize> = (0..cut.states.len()).collect();
        places.sort_by_key(|place| (!cut.states[*place].survives.is_empty(), rank(cut, *place)));
        let turns = places.into_iter().enumerate();
        all.extend(turns.map(|(turn, place)| (turn, rank(cut, usize::MAX), cut, place)));
    }
    all.sort_by_key(|(turn, rank, ..)| (*turn, *rank));
    all.truncate(MOST_STATES);
    all.sort_by_key(|(_, _, cut, place)| (cut.cut, *place));
    all.into_iter().map(|(_, _, cut, place)| (cut, &cut.states[place])).collect()
}

/// What the states of a run are held against.
struct Judge {
    ops: Vec<OpLine>,
    rules: Rules,
    reaches: BTreeMap<u64, Reach>,
    /// Flushes are answered and not carried out.
    lying: bool,
}

impl Judge {
    /// The inner error: what is missing of the witnesses.
    fn of(scenario: &Scenario, run: &RunFolder, folder: &Folder) -> Result<Result<Judge, String>, Failure> {
        let text = run.read_text(folder::DEVICE)?;
        let (order, device) = match (Order::read(&text), device_record::read(&text)) {
            (Ok(order), Ok(device)) if device.losses().is_empty() => (order, device),
            (Ok(_), Ok(device)) => return Ok(Err(device.losses().join("; "))),
            (Err(why), _) | (_, Err(why)) => return Ok(Err(why)),
        };
        let ops = run.read_text(folder::OPS)?;
        let ops: Vec<OpLine> =
            ops.lines().map(serde_json::from_str).collect::<Result<_, _>>().map_err(|error| {
                Failure::BadInput(format!("{} is damaged: {error}", run.file(folder::OPS).display()))
            })?;
        let seen = judge::decoded(run).and_then(|trace| Seen::join(&trace, &device)).ok();
        let reaches = command::reaches(folder, &order, &ops, seen.as_ref())?;
        let lying = scenario.script.device().write_cache == Some(WriteCache::Lying);
        Ok(Ok(Judge { rules: command::rules(scenario, &order), ops, reaches, lying }))
    }

    fn one(&self, cut: &Cut, state: &State, looked: Looked, found: &mut Cuts) {
        found.judged += 1;
        let told = |damage, broken| BadState {
            cut: cut.cut,
            by: cut.by.clone(),
            file: state.file.display().to_string(),
            survive: state.survives.len() as u64,
            lost: (cut.writes.len() - state.survives.len().min(cut.writes.len())) as u64,
            damage,
            broken,
        };
        let in_order = cut.keeps_order(state);
        let tree = match looked {
            Looked::Damaged(damage) if !self.lying || in_order => {
                return found.bad.push(told(Some((damage.step.to_owned(), damage.said)), Vec::new()));
            }
            Looked::Damaged(damage) => {
                return found.lose(told(Some((damage.step.to_owned(), damage.said)), Vec::new()));
            }
            Looked::Whole(Some(tree)) => tree,
            Looked::Whole(None) => return,
        };
        let reach = self.reaches[&cut.cut];
        let judgement = Expected::at(&self.ops, reach, self.rules).judge(&tree);
        found.promised_files += judgement.promised_files;
        found.promised_bytes += judgement.promised_bytes;
        if judgement.broken.is_empty() {
            return;
        }
        if !self.lying {
            return found.bad.push(told(None, judgement.broken));
        }
        // What may be there if nothing was promised: a disk that forgets is no excuse for what nobody wrote.
        let without = Expected::at(&self.ops, Reach { returned: 0, ..reach }, self.rules).judge(&tree);
        match without.broken.is_empty() || !in_order {
            true => found.lose(told(None, judgement.broken)),
            false => found.bad.push(told(None, without.broken)),
        }
    }
}

impl Cuts {
    fn lose(&mut self, state: BadState) {
        self.losses += 1;
        self.first_loss.get_or_insert(state);
    }
}

impl BadState {
    /// What is wrong with it, in a sentence for each thing.
    pub fn sentence(&self, what: &str) -> String {
        let BadState { cut, by, file, survive, lost, .. } = self;
        format!(
            "after power cut {cut} ({by}), of whose {} unflushed writes {survive} survive ({file}), {what}",
            survive + lost
        )
    }
}

/// Makes an image of a state's file with the run's own image.
pub fn with_image<'a>(
    vhost_blk: &'a Path,
    run: &RunFolder,
) -> impl Fn(&Path, &Path) -> Result<(), Failure> + Sync + use<'a> {
    let image = run.file(folder::IMAGE);
    move |state, out| cuts::apply(vhost_blk, &image, state, out)
}

/// Makes the folder that the states of a scenario's cuts go to; none: it has no cut that leaves states.
pub fn folder_for(scenario: &Scenario, run: &RunFolder) -> Result<Option<std::path::PathBuf>, Failure> {
    let leaves = scenario.script.power_cuts().contains(&fault_injection::Then::Snapshot);
    let place = run.file(folder::STATES);
    if leaves {
        std::fs::create_dir_all(&place).at("make", &place)?;
    }
    Ok(leaves.then_some(place))
}
