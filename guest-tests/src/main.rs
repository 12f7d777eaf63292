//! The program `guest-tests`: reads the command line, does one thing, prints the result to stdout and ends with its code.

use clap::Parser;
use ext4_replica::Mutation;
use guest_tests::args::{
    Args, Batch, Bench, Bisect, Command, CompareDialects, CrashStates, Doctor, Format, Generate, Merge, Mutants,
    Nightly, Perfetto, ProbeDialect, Replay, Report, Run, Shrink,
};
use guest_tests::failure::{At, Failure, exit};
use guest_tests::folder::{self, RunFolder};
use guest_tests::interrupt::Interrupt;
use guest_tests::judge::{Judged, Recorded};
use guest_tests::mutants::{self, frozen, frozen::Frozen};
use guest_tests::verdict::Verdict;
use guest_tests::{
    batch, bench, compare_dialects, crash_states, doctor, explore, judge, nightly, page, probe_dialect, programs,
    replica, run, scenario, show, triage,
};
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.command {
        Command::Doctor(doctor) => Ok(examine(&args, doctor)),
        Command::Run(run) => run_scenario(&args, run),
        Command::Generate(wanted) => Ok(generate(wanted)),
        Command::Replay(replay) => judge_again(&args, replay),
        Command::Report(report) => draw_again(report),
        Command::Perfetto(wanted) => write_trace(wanted),
        Command::Replica(wanted) => Ok(replica::replica(wanted)),
        Command::CompareDialects(wanted) => compare(&args, wanted),
        Command::Explore(wanted) => explore::explore(wanted, args.format, &command_line()),
        Command::ProbeDialect(wanted) => probe(&args, wanted),
        Command::Mutants(wanted) => count_mutants(&args, wanted),
        Command::CrashStates(states) => examine_states(&args, states),
        Command::Shrink(wanted) => make_smaller(&args, wanted),
        Command::Bisect(wanted) => find_change(&args, wanted),
        Command::Bench(wanted) => measure(&args, wanted),
        Command::Nightly(wanted) => run_night(&args, wanted),
        Command::Merge(wanted) => merge_nights(&args, wanted),
        Command::Batch(wanted) => run_batch(&args, wanted),
    };
    ExitCode::from(done.unwrap_or_else(|failure| tell(&args, &failure)))
}

/// What went wrong, and the command that shows it again.
fn tell(args: &Args, failure: &Failure) -> u8 {
    match failure {
        // Editors find the places where each line begins with one.
        Failure::Mistakes(problems) => eprintln!("{problems}"),
        failure => eprintln!("guest-tests: {failure}"),
    }
    if !matches!(failure, Failure::Interrupted) {
        eprintln!("guest-tests: to see this again: {}", command_line());
    }
    if args.format == Format::Json {
        let error = serde_json::json!({ "error": failure.to_string(), "exit_code": failure.exit_code() });
        println!("{error}");
    }
    failure.exit_code()
}

fn command_line() -> String {
    std::env::args().map(|word| show::quote(&word)).collect::<Vec<_>>().join(" ")
}

fn run_scenario(args: &Args, run: &Run) -> Result<u8, Failure> {
    let interrupt = Interrupt::catch()?;
    let scenario = scenario::load(&run.scenario)?;
    scenario.warnings.iter().for_each(|warning| show::progress(&warning.to_string()));
    let programs = programs::find(args.vhost_blk.as_deref(), args.guest_init.as_deref())?;
    let repeat = command_line();
    let mut ran = run::run_scenario(run, scenario, &programs, &interrupt, &repeat)?;
    let (recorded, judged) = run::conclude(&mut ran)?;
    run::draw(&mut ran, &recorded, &judged)?;
    name(&recorded, &judged);
    if run.verbose {
        show::progress(&ran.phases.describe());
    }
    Ok(print(args, &judged.verdict, ran.folder.path(), &repeat))
}

/// JSON whatever the format: what is printed is a file for `run`.
fn generate(wanted: &Generate) -> u8 {
    match wanted.shape {
        true => print!("{}", scenario_generator::text(&scenario_generator::shape(wanted.seed.boot).json())),
        false => print!("{}", scenario_generator::text(&scenario_generator::scenario(wanted.seed))),
    }
    exit::AS_EXPECTED
}

fn run_batch(args: &Args, wanted: &Batch) -> Result<u8, Failure> {
    let interrupt = Interrupt::catch()?;
    let programs = programs::find(args.vhost_blk.as_deref(), args.guest_init.as_deref())?;
    batch::command::batch(wanted, args.format, &programs, &interrupt)
}

fn judge_again(args: &Args, replay: &Replay) -> Result<u8, Failure> {
    let folder = RunFolder::open(&replay.run)?;
    let mut recorded = judge::read(&folder)?;
    recorded.host.dialect = replay.dialect.clone().or(recorded.host.dialect);
    recorded.host.canary = replay.canary.clone().or(recorded.host.canary);
    let judged = judge::judge(&recorded)?;
    let before = folder.read(folder::VERDICT).unwrap_or_default();
    let same = judged.verdict.to_json().as_bytes() == before;
    show::progress(if same {
        "the same verdict as in the folder, byte for byte"
    } else {
        "not the verdict in the folder"
    });
    name(&recorded, &judged);
    Ok(print(args, &judged.verdict, folder.path(), &command_line()))
}

/// The failure by the name that triage gives it, in the words of known.json.
fn name(recorded: &Recorded, judged: &Judged) {
    if judged.verdict.exit_code == exit::AS_EXPECTED {
        return;
    }
    if let Some(signature) = triage::signature(recorded, judged) {
        show::progress(&format!("failure    {} {signature}", signature.id()));
        signature.with.iter().for_each(|with| show::progress(&format!("with       {with}")));
    }
}

fn draw_again(report: &Report) -> Result<u8, Failure> {
    if report.run.join(nightly::NIGHT_FILE).is_file() {
        println!("{}", nightly::report::again(report)?.display());
        return Ok(exit::AS_EXPECTED);
    }
    let folder = RunFolder::open(&report.run)?;
    let recorded = judge::read(&folder)?;
    let judged = judge::judge(&recorded)?;
    folder.write(folder::REPORT, page::render(&recorded, &judged))?;
    println!("{}", folder.file(folder::REPORT).display());
    Ok(exit::AS_EXPECTED)
}

fn write_trace(wanted: &Perfetto) -> Result<u8, Failure> {
    let folder = RunFolder::open(&wanted.run)?;
    let recorded = judge::read(&folder)?;
    let judged = judge::judge(&recorded)?;
    let path = wanted.out.clone().unwrap_or_else(|| folder.file(folder::PERFETTO));
    std::fs::write(&path, page::trace(&recorded, &judged)).at("write", &path)?;
    println!("{}", path.display());
    Ok(exit::AS_EXPECTED)
}

fn compare(args: &Args, wanted: &CompareDialects) -> Result<u8, Failure> {
    let comparison = compare_dialects::compare(wanted.before, wanted.after)?;
    if let Some(page) = &wanted.out {
        std::fs::write(page, compare_dialects::render(&comparison)).at("write", page)?;
        show::progress(&format!("tables and plots: {}", page.display()));
    }
    match args.format {
        Format::Json => println!("{}", serde_json::json!(comparison)),
        Format::Text => print!("{}", compare_dialects::text(&comparison)),
    }
    Ok(exit::AS_EXPECTED)
}

fn probe(args: &Args, wanted: &ProbeDialect) -> Result<u8, Failure> {
    let interrupt = Interrupt::catch()?;
    let programs = programs::find(args.vhost_blk.as_deref(), args.guest_init.as_deref())?;
    let report = probe_dialect::probe(wanted, &programs, &interrupt, &command_line())?;
    match args.format {
        Format::Json => println!("{}", serde_json::json!(report)),
        Format::Text => print!("{}", probe_dialect::text(&report)),
    }
    Ok(report.exit_code())
}

fn count_mutants(args: &Args, wanted: &Mutants) -> Result<u8, Failure> {
    let mutations = if wanted.only.is_empty() { Mutation::ALL } else { &wanted.only };
    let frozen = Frozen::built_in();
    if wanted.freeze {
        print!("{}", frozen::freeze(&wanted.recordings, &frozen.survivors)?);
        return Ok(exit::AS_EXPECTED);
    }
    if wanted.list {
        match args.format {
            Format::Json => println!("{}", mutants::list_json(mutations)),
            Format::Text => print!("{}", mutants::list(mutations)),
        }
        return Ok(exit::AS_EXPECTED);
    }
    let count = mutants::count(mutations, &frozen, &wanted.recordings)?;
    match args.format {
        Format::Json => println!("{}", serde_json::json!(count)),
        Format::Text => print!("{}", mutants::text(&count)),
    }
    Ok(count.exit_code())
}

fn examine_states(args: &Args, wanted: &CrashStates) -> Result<u8, Failure> {
    let interrupt = Interrupt::catch()?;
    let report =
        crash_states::command::crash_states(wanted, args.vhost_blk.as_deref(), args.guest_init.as_deref(), &interrupt)?;
    match args.format {
        Format::Json => println!("{}", serde_json::json!(report)),
        Format::Text => print!("{}", crash_states::describe(&report)),
    }
    Ok(report.exit_code())
}

fn make_smaller(args: &Args, wanted: &Shrink) -> Result<u8, Failure> {
    let interrupt = Interrupt::catch()?;
    let report = triage::shrink::command(wanted, args.vhost_blk.as_deref(), args.guest_init.as_deref(), &interrupt)?;
    match args.format {
        Format::Json => println!("{}", serde_json::json!(report)),
        Format::Text => print!("{}", triage::shrink::text(&report)),
    }
    Ok(report.exit_code())
}

fn find_change(args: &Args, wanted: &Bisect) -> Result<u8, Failure> {
    let interrupt = Interrupt::catch()?;
    let report = triage::bisect::command(wanted, args.vhost_blk.as_deref(), args.guest_init.as_deref(), &interrupt)?;
    match args.format {
        Format::Json => println!("{}", serde_json::json!(report)),
        Format::Text => print!("{}", triage::bisect::text(&report)),
    }
    Ok(report.exit_code())
}

fn measure(args: &Args, wanted: &Bench) -> Result<u8, Failure> {
    let interrupt = Interrupt::catch()?;
    let vhost_blk = programs::locate("vhost-blk", args.vhost_blk.as_deref())?;
    programs::same_version("vhost-blk", &vhost_blk)?;
    let ran = bench::bench(wanted, &vhost_blk, &command_line(), &interrupt)?;
    match args.format {
        Format::Json => println!("{}", ran.report.to_json()),
        Format::Text => print!("{}", ran.text),
    }
    Ok(exit::AS_EXPECTED)
}

fn run_night(args: &Args, wanted: &Nightly) -> Result<u8, Failure> {
    let interrupt = Interrupt::catch()?;
    // Many runs at once: the progress of each is nobody's.
    show::be_quiet();
    let night = nightly::nightly(wanted, args.vhost_blk.as_deref(), args.guest_init.as_deref(), &interrupt)?;
    print_night(args, &night.sum, &night.folder, night.exit_code);
    Ok(night.exit_code)
}

fn merge_nights(args: &Args, wanted: &Merge) -> Result<u8, Failure> {
    let merged = nightly::merge_nights(wanted)?;
    print_night(args, &merged.sum, &wanted.out, merged.exit_code);
    Ok(merged.exit_code)
}

fn print_night(args: &Args, sum: &nightly::sum::Sum, folder: &Path, exit_code: u8) {
    match args.format {
        Format::Json => println!("{}", serde_json::json!({ "sum": sum, "folder": folder, "exit_code": exit_code })),
        Format::Text => {
            print!("{}", nightly::sum::text(sum));
            println!("folder     {} (exit code {exit_code})", folder.display());
        }
    }
}

fn print(args: &Args, verdict: &Verdict, folder: &Path, repeat: &str) -> u8 {
    match args.format {
        Format::Json => {
            print!("{}", verdict.to_json());
            if verdict.exit_code != exit::AS_EXPECTED {
                show::progress(&format!("to see this again: {repeat}"));
            }
        }
        Format::Text => print!("{}", show::verdict(verdict, folder, repeat)),
    }
    verdict.exit_code
}

fn examine(args: &Args, wanted: &Doctor) -> u8 {
    let cleaned = if wanted.clean { doctor::clean() } else { Vec::new() };
    let needs = doctor::examine(args.vhost_blk.as_deref(), args.guest_init.as_deref(), wanted.kernel.as_deref());
    match args.format {
        Format::Json => println!("{}", serde_json::json!({ "needs": needs, "cleaned": cleaned })),
        Format::Text => {
            cleaned.iter().for_each(|path| println!("removed  {path}"));
            print!("{}", doctor::table(&needs));
        }
    }
    doctor::exit_code(&needs)
}
