//! The command lines of `nightly` and `merge`. Their doc comments are the help.

use super::seeds::{SeedRange, seed};
use crate::args::Accel;
use clap::{Args as ClapArgs, ValueEnum};
use night_results::{Seed, Shard};
use std::path::PathBuf;
use std::time::Duration;

/// `guest-tests nightly`
///
/// Exit codes: 0 nothing new; 1 something new; 2 bad arguments; 3 a planted mistake went unnoticed, or nothing was judged;
/// 4 infrastructure; 130 ended by Ctrl-C or SIGTERM, with a report of what there is.
#[derive(Debug, ClapArgs)]
pub struct Nightly {
    /// Folder of this night; made if need be. One that holds a night goes on with it. With a shard: its parent, where the shard has a folder
    /// of its own.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Begin nothing new after so many hours, e.g. 8 or 0.5.
    #[arg(long, value_name = "H", value_parser = positive, conflicts_with = "minutes")]
    pub hours: Option<f64>,
    /// Begin nothing new after so many minutes.
    #[arg(long, value_name = "M", value_parser = positive)]
    pub minutes: Option<f64>,
    /// Try fresh seeds up to this one, itself not: BOOT.INDEX, or a boot. They begin behind those of the last night.
    #[arg(long, value_name = "SEED", value_parser = seed, conflicts_with = "seeds")]
    pub until: Option<Seed>,
    /// Try these fresh seeds, the last not: 3..5 are two whole boots, 3.0..3.20 are 20 seeds, 3.. are all from there.
    #[arg(long, value_name = "FROM..UNTIL")]
    pub seeds: Option<SeedRange>,
    /// Guests at the same time. Without it: one per processor.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub jobs: Option<u32>,
    /// Do this part of the night alone, counted from 0: of four parts the first is 0/4. Without it: what Slurm, GNU parallel or Kubernetes say
    /// (docs/nightly.md), else all.
    #[arg(long, value_name = "I/N", conflicts_with = "shards")]
    pub shard: Option<Shard>,
    /// How many parts there are, under GNU parallel and Kubernetes, which say only which one this is. Or GUEST_TESTS_SHARDS.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub shards: Option<u32>,
    /// Only boots of these kernels, with commas between them.
    #[arg(long, value_name = "SERIES", value_delimiter = ',', conflicts_with = "kernel")]
    pub kernels: Vec<String>,
    /// Run everything with this kernel: a series, a version, a bzImage or vmlinux, a .deb or a build tree.
    #[arg(long, value_name = "SERIES|VERSION|PATH")]
    pub kernel: Option<String>,
    /// The replica's dialect for --kernel. Without it: the table's.
    #[arg(long, value_name = "DIALECT", requires = "kernel")]
    pub dialect: Option<String>,
    /// How the guests' instructions are carried out.
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub accel: Accel,
    /// Failures that are known, with the reason (docs/nightly.md). Without it: known.json beside --out or in this folder, else the
    /// repository's own.
    #[arg(long, value_name = "FILE")]
    pub known: Option<PathBuf>,
    /// The night to compare with, whose failing seeds run first. Without it: the newest beside --out that has a summary.json.
    #[arg(long, value_name = "DIR")]
    pub last: Option<PathBuf>,
    /// A further night whose failing seeds run first; may be given several times.
    #[arg(long, value_name = "DIR")]
    pub old: Vec<PathBuf>,
    /// Run nothing first that failed in an earlier night.
    #[arg(long, conflicts_with = "old")]
    pub no_old: bool,
    /// How the scenarios of the repository are run: each on one kernel, another every night; each on all kernels; or not.
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Standing::One)]
    pub standing: Standing,
    /// As --standing none.
    #[arg(long, conflicts_with = "standing")]
    pub no_standing: bool,
    /// Where those scenarios are. Without it: guest-tests/scenarios, here or above this program.
    #[arg(long, value_name = "DIR")]
    pub scenarios: Option<PathBuf>,
    /// Only see whether the planted mistakes are noticed.
    #[arg(long, conflicts_with_all = ["hours", "minutes", "until", "seeds", "old"])]
    pub canary_only: bool,
    /// End a scenario after this many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub time_limit: u64,
    /// Spend at most so many minutes on making the first failure of each signature smaller; 0: none.
    #[arg(long, value_name = "M", default_value_t = 5.0, value_parser = not_negative)]
    pub shrink_minutes: f64,
    /// Write the report anew every so many minutes.
    #[arg(long, value_name = "M", default_value_t = 5.0, value_parser = positive)]
    pub report_every: f64,
    /// Start no guest: make results up, each in this many milliseconds. To try the night itself out.
    #[arg(long, value_name = "MS", hide = true)]
    pub pretend: Option<u64>,
}

/// How the scenarios of the repository are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Standing {
    /// Each on one kernel, another every night.
    One,
    /// Each on every kernel.
    All,
    /// Not at all.
    None,
}

/// `guest-tests merge`
///
/// The result does not depend on the order of the folders, nor on how the night was parted. Exit codes are those of `nightly`.
#[derive(Debug, ClapArgs)]
pub struct Merge {
    /// Folders of nights, or of parts of one.
    #[arg(required = true, value_name = "DIR")]
    pub nights: Vec<PathBuf>,
    /// Folder for all of them together; made if need be. What an earlier merge left in it is replaced.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Failures that are known. Without it: known.json beside --out or in this folder, else the
    /// repository's own.
    #[arg(long, value_name = "FILE")]
    pub known: Option<PathBuf>,
    /// The night to compare with. Without it: the newest beside --out that has a summary.json.
    #[arg(long, value_name = "DIR")]
    pub last: Option<PathBuf>,
}

impl Nightly {
    /// Wall time that is given.
    pub fn budget(&self) -> Option<Duration> {
        let seconds = self.hours.map(|hours| hours * 3600.0).or(self.minutes.map(|minutes| minutes * 60.0));
        seconds.map(Duration::from_secs_f64)
    }

    /// How the scenarios of the repository are run.
    pub fn standing(&self) -> Standing {
        if self.no_standing || self.canary_only { Standing::None } else { self.standing }
    }

    /// Guests at the same time.
    pub fn jobs(&self) -> u32 {
        let cpus = || std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
        self.jobs.unwrap_or_else(cpus)
    }

    /// Fresh seeds have an end, or the night has one.
    pub fn ends(&self) -> bool {
        self.canary_only
            || self.budget().is_some()
            || self.until.is_some()
            || self.seeds.is_some_and(|seeds| seeds.until.is_some())
    }
}

fn not_negative(text: &str) -> Result<f64, String> {
    if text == "0" { Ok(0.0) } else { positive(text) }
}

/// At most a year: what is longer is a slip, and larger than clocks add up.
fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    if number > 0.0 && number <= 525_600.0 { Ok(number) } else { Err("a number above 0, at most a year".into()) }
}
