//! What a night is asked to do: from the command line, from the nights before, and from the night that goes on.

use super::args::{Nightly, Standing};
use super::before::Before;
use super::canary::{self, Planted};
use super::queue::{Fresh, Group, Kernels, Queue, Source, Work, old};
use super::seeds::SeedRange;
use crate::failure::{At, Failure};
use crate::scenario;
use night_results::{HostFacts, NightJson, Seed, Shard, Unit, Versions};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Scenarios of the repository that are there to show exit codes: they end with 1 and with 3 where all is well.
const SHOWS_EXIT_CODES: &[&str] = &["never-fires", "stale-after-error-unexpected"];

/// The kernels of a night, with the release each has.
#[derive(Clone, Debug)]
pub struct NightKernels {
    /// Which boot gets which.
    pub of_boots: Kernels,
    /// Release by kernel as it was asked for.
    pub releases: BTreeMap<String, String>,
}

/// Which kernels boots get.
pub fn kernels(args: &Nightly) -> Result<Kernels, Failure> {
    if let Some(kernel) = &args.kernel {
        return Ok(Kernels::Always(kernel.clone()));
    }
    let known = scenario_generator::KERNELS;
    if let Some(other) = args.kernels.iter().find(|series| !known.contains(&series.as_str())) {
        return Err(Failure::BadInput(format!(
            "--kernels {other}: seeds are for {}; a kernel of your own goes with --kernel",
            known.join(", ")
        )));
    }
    let wanted = known.iter().filter(|series| args.kernels.is_empty() || args.kernels.iter().any(|one| one == *series));
    Ok(Kernels::OfShapes(wanted.map(|series| (*series).to_owned()).collect()))
}

/// What this command asks for. A night that goes on keeps what its first command found out: where it began, what failed before.
pub fn asked(
    args: &Nightly,
    shard: Shard,
    kernels: &Kernels,
    before: &Before,
    going_on: Option<&NightJson>,
    began: String,
) -> Result<NightJson, Failure> {
    let seeds = seeds(args, before, going_on)?;
    let first = seeds.map_or(Seed::first_of(before.next_boot), |seeds| seeds.from);
    let old = match going_on {
        Some(night) => night.old.clone(),
        None if args.canary_only || args.no_old => Vec::new(),
        None => before.failing.iter().map(ToString::to_string).collect(),
    };
    Ok(NightJson {
        night: NightJson::VERSION,
        began: going_on.map_or(began, |night| night.began.clone()),
        seeds: seeds.iter().map(ToString::to_string).collect(),
        kernels: kernels.all(),
        kernel: args.kernel.clone(),
        budget_s: args.budget().map(|budget| budget.as_secs()),
        jobs: args.jobs(),
        shards: vec![shard],
        canaries: match going_on {
            Some(night) => night.canaries.clone(),
            None => canary::of_night(first).iter().map(Planted::name).collect(),
        },
        canary_only: args.canary_only,
        standing: format!("{:?}", args.standing()).to_lowercase(),
        old,
        versions: vec![versions(args)],
        hosts: vec![host(args)],
    })
}

/// Which fresh seeds; none: none at all.
fn seeds(args: &Nightly, before: &Before, going_on: Option<&NightJson>) -> Result<Option<SeedRange>, Failure> {
    if args.canary_only {
        return Ok(None);
    }
    if let Some(seeds) = args.seeds {
        return Ok(Some(seeds));
    }
    let stored = going_on.and_then(|night| night.seeds.first()?.parse::<SeedRange>().ok());
    let from = stored.map_or(Seed::first_of(before.next_boot), |seeds| seeds.from);
    match args.until {
        Some(until) if until <= from => Err(Failure::BadInput(format!(
            "--until {until}: the last night came up to {from}, which this one begins with; name a later seed, or seeds with --seeds"
        ))),
        until => Ok(Some(SeedRange { from, until })),
    }
}

fn versions(args: &Nightly) -> Versions {
    let qemu = match args.pretend {
        Some(_) => "pretended".into(),
        None => first_line("qemu-system-x86_64"),
    };
    Versions { guest_tests: fault_injection::version(), qemu }
}

fn first_line(program: &str) -> String {
    let output = std::process::Command::new(program).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or_default().to_owned()
}

fn host(args: &Nightly) -> HostFacts {
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib =
        memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    HostFacts {
        accel: if args.pretend.is_some() { "pretended".into() } else { accel(args) },
        cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32),
        memory_mib: kib.unwrap_or_default() >> 10,
        kernel: nix::sys::utsname::uname()
            .map(|name| name.release().to_string_lossy().into_owned())
            .unwrap_or_default(),
    }
}

fn accel(args: &Nightly) -> String {
    let wanted = match args.accel {
        crate::args::Accel::Auto => guest_vm::Accel::Auto,
        crate::args::Accel::Kvm => guest_vm::Accel::Kvm,
        crate::args::Accel::Tcg => guest_vm::Accel::Tcg,
    };
    wanted.choose().map_or("none".into(), |choice| choice.name().to_owned())
}

/// The queue of a night that was asked for this, without what is over.
pub fn queue(
    asked: &NightJson,
    args: &Nightly,
    kernels: &NightKernels,
    over: BTreeSet<Unit>,
) -> Result<Queue, Failure> {
    let shard = asked.shards.first().copied().unwrap_or(Shard::WHOLE);
    let range: Option<SeedRange> = asked.seeds.first().and_then(|seeds| seeds.parse().ok());
    let first = range.map_or(Seed::first_of(0), |range| range.from);
    let mut groups = canaries(asked, &kernels.of_boots, first);
    let seeds: Vec<Seed> = asked.old.iter().filter_map(|seed| seed.parse().ok()).collect();
    groups.extend(old(&seeds, shard, &kernels.of_boots));
    if args.standing() != Standing::None {
        groups.extend(standing(args, kernels, shard, first)?);
    }
    let fresh = range.map(|seeds| Fresh { seeds, shard, kernels: kernels.of_boots.clone() });
    Ok(Queue::new(groups, fresh, over))
}

/// Each in a boot of its own, on a kernel that changes from night to night.
fn canaries(asked: &NightJson, kernels: &Kernels, first: Seed) -> Vec<Group> {
    let kernels = kernels.all();
    let planted = asked.canaries.iter().filter_map(|name| Planted::by_name(name));
    let group = |(n, planted): (usize, Planted)| {
        let kernel = kernels[(first.boot as usize + n) % kernels.len()].clone();
        let work = vec![Work { unit: planted.unit(), source: Source::Planted(planted) }];
        Group { series: kernel.clone(), kernel, work }
    };
    planted.enumerate().map(group).collect()
}

fn standing(args: &Nightly, kernels: &NightKernels, shard: Shard, first: Seed) -> Result<Vec<Group>, Failure> {
    let mut groups: BTreeMap<(String, String), Group> = BTreeMap::new();
    for (n, file) in scenario_files(args)?.into_iter().enumerate() {
        let scenario = scenario::load(&file)?;
        let fits = |kernel: &&String| {
            let release = kernels.releases.get(*kernel).unwrap_or(kernel);
            scenario.kernels.include(release)
        };
        let all = kernels.of_boots.all();
        let all: Vec<&String> = all.iter().filter(fits).collect();
        let chosen: Vec<&String> = match args.standing() {
            Standing::One if !all.is_empty() => vec![all[(first.boot as usize + n) % all.len()]],
            _ => all,
        };
        for kernel in chosen.into_iter().filter(|_| shard.takes(n as u64)) {
            let unit = Unit::Standing { name: scenario.name.clone(), kernel: kernel.clone() };
            let group = groups.entry((kernel.clone(), guest(&scenario)));
            let empty = || Group { kernel: kernel.clone(), series: kernel.clone(), work: Vec::new() };
            group.or_insert_with(empty).work.push(Work { unit, source: Source::File(file.clone()) });
        }
    }
    Ok(groups.into_values().collect())
}

/// What scenarios have in common that can share a boot.
fn guest(scenario: &scenario::Scenario) -> String {
    format!("{:?}", (&scenario.guest, scenario.filesystem.size_mib, scenario.script.device()))
}

/// All but those that are there to fail, sorted by name.
fn scenario_files(args: &Nightly) -> Result<Vec<PathBuf>, Failure> {
    let folder = scenarios(args)?;
    let mut files = Vec::new();
    for folder in [folder.join("known"), folder] {
        if !folder.is_dir() {
            continue;
        }
        for entry in std::fs::read_dir(&folder).at("read", &folder)? {
            files.push(entry.at("read", &folder)?.path());
        }
    }
    let stem = |path: &PathBuf| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    files.retain(|path| {
        path.extension().is_some_and(|end| end == "json") && !SHOWS_EXIT_CODES.contains(&stem(path).as_str())
    });
    files.sort_by_key(stem);
    Ok(files)
}

/// Where they are: here, as in a clone; or above this program, as `scripts/build` leaves it.
fn scenarios(args: &Nightly) -> Result<PathBuf, Failure> {
    if let Some(folder) = &args.scenarios {
        return match folder.is_dir() {
            true => Ok(folder.clone()),
            false => Err(Failure::BadInput(format!("--scenarios {}: there is no such folder", folder.display()))),
        };
    }
    let below = Path::new("guest-tests/scenarios");
    let program = std::env::current_exe().unwrap_or_default();
    let mut places = std::iter::once(PathBuf::new()).chain(program.ancestors().map(Path::to_owned));
    places.find_map(|place| Some(place.join(below)).filter(|folder| folder.is_dir())).ok_or_else(|| {
        Failure::BadInput(
            "the scenarios of the repository are not here; name their folder with --scenarios, or give --no-standing"
                .into(),
        )
    })
}
