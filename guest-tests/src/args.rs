//! The command line. Its doc comments are the help.

pub use crate::nightly::args::{Merge, Nightly};
use crate::nightly::seeds::{SeedRange, ended as ended_seeds};
use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use explorer::expect::Expectation;
use ext4_replica::{Bugs, Dialect, Mutation};
use scenario_generator::Seed;
use std::path::PathBuf;

/// The kernel of a run that names none.
pub const DEFAULT_KERNEL: &str = "6.1";

/// Runs a guest on a disk that misbehaves, and judges where its kernel and the replica part.
///
/// Exit codes: 0 verdict `same` or `allowed` and findings as expected; 1 `different`, a finding not expected or an
/// expected one that did not show; 2 bad script, scenario or arguments; 3 not judged; 4 infrastructure; 130 Ctrl-C.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 120)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How the result on stdout is written. Progress and diagnostics go to stderr.
    #[arg(long, value_enum, default_value_t = Format::Text, global = true)]
    pub format: Format,
    /// The `vhost-blk` to start. Without it: the one beside this program.
    #[arg(long, value_name = "PATH", global = true)]
    pub vhost_blk: Option<PathBuf>,
    /// The `guest-init` to put into the guest. Without it: the one beside this program.
    #[arg(long, value_name = "PATH", global = true)]
    pub guest_init: Option<PathBuf>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List every need with its state and the command that mends it.
    Doctor(Doctor),
    /// Run a scenario in a guest and judge it.
    Run(Run),
    /// Print the scenario of a seed, as a night would run it (docs/scenarios.md).
    Generate(Generate),
    /// Run scenarios one after the other in as few boots as can be, each with a folder as `run` makes it (docs/batch.md).
    Batch(Batch),
    /// Judge the folder of a run again, with no VM.
    Replay(Replay),
    /// Write report.html of a run's folder again, or the report of a night.
    Report(Report),
    /// Write a run as trace.json, which Perfetto's and Chrome's trace viewers open (docs/report.md).
    Perfetto(Perfetto),
    /// Drive the replica alone: calls as JSON lines on stdin, events as JSON lines on stdout (docs/replica.md).
    Replica(Replica),
    /// Try every order of steps and every fault of the replica, within bounds (docs/explore.md).
    Explore(Explore),
    /// Count what a change of the path is worth: two dialects on the same workloads (docs/compare-dialects.md).
    CompareDialects(CompareDialects),
    /// Boot a kernel a few times, see which switches of a dialect it behaves like, and hold that against the table.
    ProbeDialect(ProbeDialect),
    /// Count how many wrong replicas the recordings tell from the true one (docs/mutants.md).
    Mutants(Mutants),
    /// Examine every state that the power cuts of a run may leave: replay its journal, then check it.
    CrashStates(CrashStates),
    /// Run random scenarios for a night, judge them, and tell what is new (docs/nightly.md).
    Nightly(Nightly),
    /// Put nights, or the parts of one, together.
    Merge(Merge),
    /// Make the scenario of a failed run smaller for as long as it fails in the same way (docs/triage.md).
    Shrink(Shrink),
    /// Find the first kernel, or the first commit of this project, where a failure comes or goes (docs/triage.md).
    Bisect(Bisect),
    /// Measure the disk beside its peers, in turns, with one client (docs/performance.md).
    Bench(Bench),
}

/// Text for people, JSON for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Lines for people.
    Text,
    /// One JSON document.
    Json,
}

/// How the guest's instructions are carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// KVM where the CPU really virtualises, else TCG.
    Auto,
    /// KVM or nothing.
    Kvm,
    /// QEMU's translator.
    Tcg,
}

impl Accel {
    /// The word on a command line.
    pub fn word(self) -> &'static str {
        match self {
            Accel::Auto => "auto",
            Accel::Kvm => "kvm",
            Accel::Tcg => "tcg",
        }
    }
}

/// `guest-tests doctor`
#[derive(Debug, ClapArgs)]
pub struct Doctor {
    /// Say what would be judged with this kernel: a series (6.1), a version, a bzImage or vmlinux, or a .deb.
    #[arg(long, value_name = "SERIES|VERSION|PATH")]
    pub kernel: Option<String>,
    /// Remove what ended runs left behind.
    #[arg(long)]
    pub clean: bool,
}

/// `guest-tests run`
#[derive(Debug, ClapArgs)]
pub struct Run {
    /// The scenario file.
    pub scenario: PathBuf,
    /// Folder for this run; made if need be. An earlier run's files are replaced, other files refused. Without it: a new folder under `runs/`.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// The guest's kernel: a series (6.1), a version, a bzImage or vmlinux, or a .deb.
    #[arg(long, value_name = "SERIES|VERSION|PATH", default_value = DEFAULT_KERNEL)]
    pub kernel: String,
    /// The replica's dialect. Without it: the table's for this kernel.
    #[arg(long, value_name = "DIALECT")]
    pub dialect: Option<String>,
    /// How the guest's instructions are carried out. `kvm` on a machine that cannot has exit code 4.
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub accel: Accel,
    /// Seed of the fault script. Without it: the script's own, else 0.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// End the run after this many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub time_limit: u64,
    /// Keep the disk image as disk.img in the run's folder.
    #[arg(long)]
    pub keep_image: bool,
    /// Keep the states of the script's power cuts in this new folder, for `guest-tests crash-states`, and the image they are of.
    #[arg(long, value_name = "DIR")]
    pub snapshot_dir: Option<PathBuf>,
    /// Say how long each phase took.
    #[arg(long, short)]
    pub verbose: bool,
    /// Judge with a replica that has this planted mistake, to see that it is noticed.
    #[arg(long, value_name = "MISTAKE", hide = true)]
    pub canary: Option<String>,
    /// Run with a disk that tells this lie and does not record it, to see that it is noticed.
    #[arg(long, value_name = "LIE", hide = true)]
    pub planted_lie: Option<String>,
}

/// `guest-tests generate`
#[derive(Debug, ClapArgs)]
pub struct Generate {
    /// The seed: BOOT.INDEX, such as 3.17.
    pub seed: Seed,
    /// Print what its guest is booted as instead: kernel, machine, disk.
    #[arg(long)]
    pub shape: bool,
}

/// `guest-tests batch`
#[derive(Debug, ClapArgs)]
pub struct Batch {
    /// The scenario files, in the order in which they run.
    #[arg(required_unless_present = "seeds")]
    pub scenarios: Vec<PathBuf>,
    /// Run the scenarios of these seeds too, after the files: 6.0..6.50 are fifty of boot 6. They run on the kernel that is
    /// asked for here, whatever a night would take.
    #[arg(long, value_name = "FROM..UNTIL", value_parser = ended_seeds)]
    pub seeds: Option<SeedRange>,
    /// Folder for the runs; made if need be. Each run has a folder of its scenario's name in it, each boot a folder `boot-N`.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The guest's kernel: a series (6.1), a version, a bzImage or vmlinux, or a .deb.
    #[arg(long, value_name = "SERIES|VERSION|PATH", default_value = DEFAULT_KERNEL)]
    pub kernel: String,
    /// The replica's dialect. Without it: the table's for this kernel.
    #[arg(long, value_name = "DIALECT")]
    pub dialect: Option<String>,
    /// How the guest's instructions are carried out. `kvm` on a machine that cannot has exit code 4.
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub accel: Accel,
    /// Seed of the fault scripts. Without it: each script's own, else 0.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// End a scenario, and the boot with it, after this many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = crate::batch::TIME_LIMIT_S, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub time_limit: u64,
    /// Begin a new boot after this many scenarios.
    #[arg(long, value_name = "N", default_value_t = crate::batch::MOST_SCENARIOS, value_parser = clap::value_parser!(u32).range(1..))]
    pub most: u32,
    /// Say how long each phase took, on average and for each scenario.
    #[arg(long, short)]
    pub verbose: bool,
}

/// `guest-tests replay`
#[derive(Debug, ClapArgs)]
pub struct Replay {
    /// Folder of one run, as `guest-tests run` left it.
    pub run: PathBuf,
    /// The replica's dialect. Without it: the one of the run.
    #[arg(long, value_name = "DIALECT")]
    pub dialect: Option<String>,
    /// Judge with a replica that has this planted mistake.
    #[arg(long, value_name = "MISTAKE", hide = true)]
    pub canary: Option<String>,
}

/// `guest-tests shrink`
#[derive(Debug, ClapArgs)]
pub struct Shrink {
    /// Folder of the failed run, as `guest-tests run` or a night left it.
    pub run: PathBuf,
    /// Folder for the result. Without it: `shrunk` in the run's folder.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Candidates that are run at most.
    #[arg(long, value_name = "N", default_value_t = 150)]
    pub budget_runs: usize,
    /// The guest's kernel. Without it: the release of the run.
    #[arg(long, value_name = "SERIES|VERSION|PATH")]
    pub kernel: Option<String>,
    /// How the guest's instructions are carried out.
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub accel: Accel,
    /// Seed of the fault script. Without it: the one of the run.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// End each run after this many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub time_limit: u64,
}

/// `guest-tests bisect`
#[derive(Debug, ClapArgs)]
pub struct Bisect {
    /// Folder of the failed run, whose failure is looked for; or a scenario file, then the first failure that shows.
    #[arg(value_name = "DIR|SCENARIO")]
    pub from: PathBuf,
    /// Kernels to look at, oldest first: series, versions, bzImages, .debs.
    #[arg(long, value_name = "LIST", value_delimiter = ',', required_unless_present = "commits", conflicts_with_all = ["commits", "kernel"])]
    pub kernels: Option<Vec<String>>,
    /// Commits of this project, by a clone in the current folder. Each is built, runs and judges the scenario itself.
    #[arg(long, value_name = "GOOD..BAD")]
    pub commits: Option<String>,
    /// With --commits, the guest's kernel. Without it: 6.1.
    #[arg(long, value_name = "SERIES|VERSION|PATH")]
    pub kernel: Option<String>,
    /// With --commits, where work tree and builds lie meanwhile. Without it: the clone's `target`.
    #[arg(long, value_name = "DIR", requires = "commits")]
    pub scratch: Option<PathBuf>,
    /// How the guest's instructions are carried out.
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub accel: Accel,
    /// Seed of the fault script. Without it: the one of the run.
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Runs in which the failure may show, for one that does not show every time.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub tries: u32,
    /// End each run after this many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub time_limit: u64,
}

/// `guest-tests crash-states`
#[derive(Debug, ClapArgs)]
pub struct CrashStates {
    /// The --snapshot-dir of a run that has ended.
    pub dir: PathBuf,
    /// Folder of that run. Without it: the one that `run` has written down in DIR.
    #[arg(long, value_name = "RUN")]
    pub run: Option<PathBuf>,
    /// The image of that run. Without it: disk.img of its folder.
    #[arg(long, value_name = "IMAGE")]
    pub image: Option<PathBuf>,
    /// Examine this state alone, by its file.
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Look at the file systems alone, not at what their files hold; no run is needed.
    #[arg(long)]
    pub structure_only: bool,
    /// Show no state to a guest's kernel.
    #[arg(long)]
    pub no_kernel: bool,
    /// The kernel that is shown one state of each cut. Without it: the run's.
    #[arg(long, value_name = "SERIES|VERSION|PATH")]
    pub kernel: Option<String>,
}

/// `guest-tests bench`
#[derive(Debug, ClapArgs)]
pub struct Bench {
    /// Where bench.json, bench.html and bench.md go; made if need be.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Only the cases that the goals speak of, three short samples each.
    #[arg(long)]
    pub quick: bool,
    /// What to measure.
    #[arg(long, value_enum, default_value_t = BenchSet::All)]
    pub set: BenchSet,
    /// Only the cases whose name contains this.
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Samples of each server in each case [5, or 3 with --quick].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,
    /// Length of a sample [800, or 300 with --quick].
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub time_ms: Option<u64>,
    /// Size of the disk that is touched.
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(16..=65_536))]
    pub disk_mib: u64,
    /// Where the image on disk is made; must not be tmpfs to mean anything. Without it: --out.
    #[arg(long, value_name = "DIR")]
    pub disk_dir: Option<PathBuf>,
    /// The CPU that client and server share. Without it: the last one.
    #[arg(long, value_name = "N")]
    pub cpu: Option<usize>,
    /// One more argument for vhost-blk, e.g. --vhost-blk-arg=--io=uring; may be given several times.
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub vhost_blk_arg: Vec<String>,
}

impl Bench {
    /// Samples of each server in each case.
    pub fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 3 } else { 5 })
    }

    /// Length of a sample.
    pub fn time(&self) -> std::time::Duration {
        std::time::Duration::from_millis(self.time_ms.unwrap_or(if self.quick { 300 } else { 800 }))
    }

    /// Size of the disk that is touched.
    pub fn span_bytes(&self) -> u64 {
        self.disk_mib << 20
    }

    /// Where the image on disk is made.
    pub fn disk_dir(&self) -> PathBuf {
        self.disk_dir.clone().unwrap_or_else(|| self.out.clone())
    }

    /// The CPU that client and server share.
    pub fn cpu(&self) -> usize {
        self.cpu.unwrap_or_else(|| std::thread::available_parallelism().map_or(0, |cpus| cpus.get() - 1))
    }
}

/// Which cases are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BenchSet {
    /// Those that the goals speak of.
    Goals,
    /// Every combination of length, depth, queues and page cache.
    All,
}

/// `guest-tests report`
#[derive(Debug, ClapArgs)]
pub struct Report {
    /// Folder of one run, as `guest-tests run` left it; or of a night, as `nightly` or `merge` did.
    pub run: PathBuf,
    /// Of a night: failures that are known. Without it: known.json beside the night's folder, or here, else the
    /// repository's own.
    #[arg(long, value_name = "FILE")]
    pub known: Option<PathBuf>,
    /// Of a night: the one to compare with. Without it: the newest beside it that has a summary.json.
    #[arg(long, value_name = "DIR")]
    pub last: Option<PathBuf>,
}

/// `guest-tests perfetto`
#[derive(Debug, ClapArgs)]
pub struct Perfetto {
    /// Folder of one run, as `guest-tests run` left it.
    pub run: PathBuf,
    /// The file to write; its folder must be there. Without it: trace.json in the run's folder.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

/// `guest-tests explore`
///
/// Exit codes: 0 everything within bounds was tried, and the findings are those expected (none, if none are named); 1 others;
/// 2 bad arguments or schedule; 3 a limit stopped it; 130 Ctrl-C.
#[derive(Debug, ClapArgs)]
pub struct Explore {
    /// How the kernel behaves: per_bio, v3_10, seed, v3_11, v5_10, v6_1, v6_12 or v7_2.
    #[arg(long, value_name = "DIALECT", value_parser = dialect, required_unless_present = "play")]
    pub dialect: Option<Dialect>,
    /// Exactly these defects, with commas between them, or `none`. Without it: the dialect's own.
    #[arg(long, value_name = "LIST", value_parser = Bugs::parse)]
    pub bugs: Option<Bugs>,
    /// Search this machine alone: pages, blocks, waits, two_writers, two_interrupts, direct, two_directs, mixed, two_inodes, or custom, which begins
    /// with nobody in it. May be given several times. Without it: all but custom.
    #[arg(long, value_name = "NAME")]
    pub scope: Vec<String>,
    /// Bounds in the place of each scope's own.
    #[command(flatten)]
    pub bounds: ExploreBounds,
    /// Findings that are expected, with commas between them: CAUSE, PROPERTY or CAUSE/PROPERTY; or `none`.
    #[arg(long, value_name = "LIST", value_parser = Expectation::parse, default_value = "none")]
    pub expect: Expectation,
    /// Folder for schedules, calls and report.html; made if need be.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Stop after this many states.
    #[arg(long, value_name = "N", default_value_t = 50_000_000)]
    pub max_states: u64,
    /// Stop when the search takes more memory than this.
    #[arg(long, value_name = "MIB", default_value_t = 4096)]
    pub max_memory_mib: u64,
    /// Starts that are searched at the same time. Without it: one per processor. The result does not depend on it.
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Play a schedule instead, and say whether it still shows what its head says.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dialect", "bugs", "scope", "expect", "out"])]
    pub play: Option<PathBuf>,
}

/// How far `guest-tests explore` goes.
#[derive(Debug, Default, ClapArgs)]
pub struct ExploreBounds {
    /// Files.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=3))]
    pub inodes: Option<u8>,
    /// Pages of each.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8))]
    pub pages: Option<u8>,
    /// Bytes of a block: 1024, 2048 or 4096.
    #[arg(long, value_name = "BYTES", value_parser = block_size)]
    pub block_size: Option<u32>,
    /// Segments that a bio may have room for; each of a list with commas is tried.
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..))]
    pub max_pages: Vec<u32>,
    /// Passes of writeback.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(..=9))]
    pub writers: Option<u8>,
    /// Direct writes.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(..=9))]
    pub direct_writes: Option<u8>,
    /// fsyncs.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(..=9))]
    pub fsyncs: Option<u8>,
    /// Truncates, which wait for direct writes.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(..=9))]
    pub truncates: Option<u8>,
    /// Evictions of an inode.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(..=3))]
    pub evicts: Option<u8>,
    /// Bios and direct writes that end at the same time.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=9))]
    pub interrupts: Option<u8>,
    /// Bios of one io_end.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub bios: Option<u32>,
    /// io_ends of one inode at the same time.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub io_ends: Option<u32>,
    /// Bios and direct writes that fail.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(..=9))]
    pub errors: Option<u8>,
    /// Allocations of an io_end that fail.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(..=9))]
    pub alloc_failures: Option<u8>,
    /// Conversions that fail.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(..=9))]
    pub convert_failures: Option<u8>,
}

/// `guest-tests replica`
#[derive(Debug, ClapArgs)]
pub struct Replica {
    /// How the kernel behaves: per_bio, v3_10, seed, v3_11, v5_10, v6_1, v6_12 or v7_2.
    #[arg(long, value_name = "DIALECT", value_parser = dialect)]
    pub dialect: Dialect,
    /// Exactly these defects, with commas between them, or `none`. Without it: the dialect's own.
    #[arg(long, value_name = "LIST", value_parser = Bugs::parse)]
    pub bugs: Option<Bugs>,
}

/// `guest-tests probe-dialect`
///
/// Exit codes: 0 as the table (or --dialect) says; 1 otherwise; 3 no switch showed, or the table does not know the kernel.
#[derive(Debug, ClapArgs)]
pub struct ProbeDialect {
    /// The kernel: a series (6.1), a version, a bzImage or vmlinux, or a .deb.
    #[arg(long, value_name = "SERIES|VERSION|PATH", default_value = DEFAULT_KERNEL)]
    pub kernel: String,
    /// What to hold it against. Without it: the table's dialect for this kernel.
    #[arg(long, value_name = "DIALECT")]
    pub dialect: Option<String>,
    /// Folder for the runs, one below it per probe. Without it they are not kept.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// How the guest's instructions are carried out.
    #[arg(long, value_enum, default_value_t = Accel::Auto)]
    pub accel: Accel,
    /// End each boot after this many seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub time_limit: u64,
}

/// `guest-tests compare-dialects`
#[derive(Debug, ClapArgs)]
pub struct CompareDialects {
    /// The dialect without the change, for instance per_bio.
    #[arg(value_parser = dialect)]
    pub before: Dialect,
    /// The dialect with it, for instance seed.
    #[arg(value_parser = dialect)]
    pub after: Dialect,
    /// Write tables and plots to this HTML file too; its folder must be there.
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

fn block_size(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|bytes| [1024, 2048, 4096].contains(bytes)).ok_or_else(|| "1024, 2048 or 4096".into())
}

/// `guest-tests mutants`
#[derive(Debug, ClapArgs)]
pub struct Mutants {
    /// Name all planted mistakes and what each does, and count nothing.
    #[arg(long, conflicts_with = "freeze")]
    pub list: bool,
    /// Only this mistake; may be given several times.
    #[arg(long, value_name = "NAME", value_parser = mistake)]
    pub only: Vec<Mutation>,
    /// Folder of the recordings that mutants.toml names.
    #[arg(long, value_name = "DIR", default_value = "guest-tests/recordings")]
    pub recordings: PathBuf,
    /// Print a new mutants.toml for the recordings as they are now.
    #[arg(long, conflicts_with = "only")]
    pub freeze: bool,
}

fn mistake(name: &str) -> Result<Mutation, String> {
    Mutation::by_name(name)
        .ok_or_else(|| "no mistake is called that; `guest-tests mutants --list` names all".to_owned())
}

fn dialect(name: &str) -> Result<Dialect, String> {
    let known = || Dialect::names().collect::<Vec<_>>().join(", ");
    Dialect::by_name(name).ok_or_else(|| format!("there are: {}", known()))
}
