//! Which part of a night this process is: from the command line, else from whoever started many of us.
//!
//! Pure: the environment comes in as a map. Whatever is not certain is refused with the flag that says it: a part that is run
//! twice, or by nobody, would not be noticed in the results of one.

use night_results::Shard;
use std::collections::BTreeMap;

/// How many parts there are, where whoever started us does not say it: GNU parallel and Kubernetes do not.
pub const SHARDS: &str = "GUEST_TESTS_SHARDS";

type Variables = BTreeMap<String, String>;

/// The part, or what is not clear. `flag` is `--shard`, `count` is `--shards`.
pub fn shard(flag: Option<Shard>, count: Option<u32>, variables: &Variables) -> Result<Shard, String> {
    if let Some(shard) = flag {
        return Ok(shard);
    }
    let count = match count {
        Some(count) => Some(("--shards", count)),
        None => number(variables, SHARDS)?.map(|count| (SHARDS, count)),
    };
    let found: Vec<Found> =
        [slurm(variables)?, parallel(variables)?, kubernetes(variables)?].into_iter().flatten().collect();
    match &found[..] {
        [] => nobody(count),
        [one] => one.with(count),
        many => {
            let names: Vec<&str> = many.iter().map(|found| found.who).collect();
            Err(format!("{} each say which part of the night this is; say it with --shard I/N", names.join(" and ")))
        }
    }
}

/// What one starter says.
struct Found {
    who: &'static str,
    index: u32,
    count: Option<u32>,
}

impl Found {
    fn with(&self, given: Option<(&str, u32)>) -> Result<Shard, String> {
        let count = match (self.count, given) {
            (Some(own), Some((name, given))) if own != given => {
                return Err(format!("{} says there are {own} parts, {name} says {given}; drop one of them", self.who));
            }
            (Some(count), _) | (None, Some((_, count))) => count,
            (None, None) => {
                return Err(format!(
                    "{} says that this is part {}, and nobody how many there are; say it with --shards N or {SHARDS}",
                    self.who, self.index
                ));
            }
        };
        if self.index >= count {
            return Err(format!(
                "{} says that this is part {}, counted from 0, of {count}; there is none such",
                self.who, self.index
            ));
        }
        Ok(Shard { index: self.index, count })
    }
}

/// Nobody has started many of us.
fn nobody(count: Option<(&str, u32)>) -> Result<Shard, String> {
    match count {
        None => Ok(Shard::WHOLE),
        Some((name, count)) => Err(format!(
            "{name} says that there are {count} parts, and nobody which of them this is; say it with --shard I/{count}"
        )),
    }
}

/// `sbatch --array`: tasks MIN, MIN+STEP, … MAX.
fn slurm(variables: &Variables) -> Result<Option<Found>, String> {
    let Some(id) = number(variables, "SLURM_ARRAY_TASK_ID")? else { return Ok(None) };
    let part = |name: &str| {
        let name = format!("SLURM_ARRAY_TASK_{name}");
        number(variables, &name)?.ok_or(format!("SLURM_ARRAY_TASK_ID is set, {name} is not; say it with --shard I/N"))
    };
    let (min, max, count) = (part("MIN")?, part("MAX")?, part("COUNT")?);
    let step = number(variables, "SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
    let regular = max >= min && (max - min) % step == 0 && (max - min) / step + 1 == count;
    let placed = id >= min && id <= max && (id - min) % step == 0;
    if !regular || !placed {
        return Err(format!(
            "task {id} of Slurm's array of {count} from {min} to {max} has no certain place in it; \
             take an array without gaps, such as --array=0-3, or say it with --shard I/N"
        ));
    }
    Ok(Some(Found { who: "Slurm", index: (id - min) / step, count: Some(count) }))
}

/// GNU parallel numbers its jobs from 1. A slot is taken again by later jobs, so it names no part.
fn parallel(variables: &Variables) -> Result<Option<Found>, String> {
    match number(variables, "PARALLEL_SEQ")? {
        None => Ok(None),
        Some(0) => Err("PARALLEL_SEQ is 0, and GNU parallel counts from 1; say it with --shard I/N".into()),
        Some(seq) => Ok(Some(Found { who: "GNU parallel", index: seq - 1, count: None })),
    }
}

/// Indexed Jobs number their pods from 0.
fn kubernetes(variables: &Variables) -> Result<Option<Found>, String> {
    let index = number(variables, "JOB_COMPLETION_INDEX")?;
    Ok(index.map(|index| Found { who: "Kubernetes", index, count: None }))
}

fn number(variables: &Variables, name: &str) -> Result<Option<u32>, String> {
    match variables.get(name).map(|text| text.trim()) {
        None | Some("") => Ok(None),
        Some(text) => {
            let wrong = |_| format!("{name} is {text:?}, which is no number; say the part with --shard I/N");
            text.parse().map(Some).map_err(wrong)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;

    fn told(text: &str) -> Result<String, String> {
        told_with(None, None, text)
    }

    fn told_with(flag: Option<&str>, count: Option<u32>, text: &str) -> Result<String, String> {
        let pairs = text.split_whitespace().map(|pair| pair.split_once('=').expect("NAME=VALUE"));
        let variables = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let flag = flag.map(|text| text.parse().expect("a shard"));
        shard(flag, count, &variables).map(|shard| shard.to_string())
    }

    #[test]
    fn alone_it_is_the_whole_night() {
        assert_eq!(told(""), Ok("0/1".into()));
    }

    #[test]
    fn a_task_of_a_slurm_array_is_its_place_in_the_array() {
        let array = "SLURM_ARRAY_TASK_MIN=10 SLURM_ARRAY_TASK_MAX=16 SLURM_ARRAY_TASK_STEP=2 SLURM_ARRAY_TASK_COUNT=4";
        for (id, part) in [(10, "0/4"), (12, "1/4"), (16, "3/4")] {
            assert_eq!(told(&format!("{array} SLURM_ARRAY_TASK_ID={id}")), Ok(part.into()));
        }
        assert!(told(&format!("{array} SLURM_ARRAY_TASK_ID=11")).is_err());
    }

    #[test]
    fn an_array_with_gaps_is_refused() {
        let said = told(
            "SLURM_ARRAY_TASK_ID=7 SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_MAX=7 SLURM_ARRAY_TASK_STEP=1 SLURM_ARRAY_TASK_COUNT=3",
        );
        assert!(said.unwrap_err().contains("--array=0-3"));
        assert!(told("SLURM_ARRAY_TASK_ID=7").unwrap_err().contains("SLURM_ARRAY_TASK_MIN is not"));
    }

    #[test]
    fn the_first_job_of_gnu_parallel_is_part_0() {
        assert_eq!(told_with(None, Some(4), "PARALLEL_SEQ=1 PARALLEL_JOBSLOT=3"), Ok("0/4".into()));
        assert_eq!(told("PARALLEL_SEQ=4 GUEST_TESTS_SHARDS=4"), Ok("3/4".into()));
        assert!(told("PARALLEL_SEQ=5 GUEST_TESTS_SHARDS=4").unwrap_err().contains("there is none such"));
        assert!(told("PARALLEL_SEQ=1").unwrap_err().contains("--shards N"));
        assert!(told("PARALLEL_SEQ=0 GUEST_TESTS_SHARDS=4").is_err());
    }

    #[test]
    fn a_pod_of_an_indexed_job_is_its_index() {
        assert_eq!(told("JOB_COMPLETION_INDEX=0 GUEST_TESTS_SHARDS=3"), Ok("0/3".into()));
        assert!(told("JOB_COMPLETION_INDEX=0").unwrap_err().contains("GUEST_TESTS_SHARDS"));
    }

    #[test]
    fn what_the_user_says_wins() {
        assert_eq!(told_with(Some("2/3"), None, "JOB_COMPLETION_INDEX=x PARALLEL_SEQ=9"), Ok("2/3".into()));
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let both = "PARALLEL_SEQ=1 JOB_COMPLETION_INDEX=0 GUEST_TESTS_SHARDS=2";
        assert!(told(both).unwrap_err().contains("GNU parallel and Kubernetes"));
        let slurm = "SLURM_ARRAY_TASK_ID=0 SLURM_ARRAY_TASK_MIN=0 SLURM_ARRAY_TASK_MAX=1 SLURM_ARRAY_TASK_COUNT=2";
        assert!(told_with(None, Some(3), slurm).unwrap_err().contains("drop one"));
        assert_eq!(told_with(None, Some(2), slurm), Ok("0/2".into()));
        assert!(told_with(None, Some(2), "").unwrap_err().contains("--shard I/2"));
        assert!(told("GUEST_TESTS_SHARDS=many PARALLEL_SEQ=1").unwrap_err().contains("no number"));
    }
}
