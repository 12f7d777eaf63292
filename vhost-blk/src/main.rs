//! The program `vhost-blk`: serves a disk, or one of the small commands beside it.

use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use fault_injection::{DeviceFacts, Problem};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use vhost_blk::args::{Command, CommandLine, OverlayCommand, ScriptCommand, Serve, SnapshotCommand, Verb};
use vhost_blk::control::{Ask, ask, listen_to};
use vhost_blk::disk::{Disk, DiskOptions};
use vhost_blk::error::StartError;
use vhost_blk::record::{Completeness, print};
use vhost_blk::serve::{Ending, Server, load_scripts};
use vhost_blk::snapshot::{ApplyError, StateHeader, apply, read_header};
use vhost_blk::tell;

/// What the conventions for vhost-user backend programs ask for (QEMU, docs/interop/vhost-user.rst).
const CAPABILITIES: &str = r#"{"type":"block","features":["read-only","blk-file"]}"#;

fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    let code = match &command_line.command {
        None if command_line.serve.print_capabilities => say(CAPABILITIES),
        None => serve(&command_line.serve),
        Some(Command::Script(command)) => script(command),
        Some(Command::Ctl { socket, verb: Verb::Subscribe }) => subscribe(socket),
        Some(Command::Ctl { socket, verb }) => ctl(socket, &Ask::from(verb)),
        Some(Command::Overlay(OverlayCommand::List { file })) => overlay(file),
        Some(Command::Snapshot(command)) => snapshot(command),
        Some(Command::Trace { file }) => trace(file),
    };
    ExitCode::from(code)
}

fn serve(args: &Serve) -> u8 {
    end_on_panic();
    let stop = match stop_signals() {
        Ok(stop) => stop,
        Err(error) => return fail(4, &format!("cannot watch for signals: {error}")),
    };
    let server = match Server::prepare(args) {
        Ok(server) => server,
        Err(error) => return refuse_start(&error),
    };
    // Whoever starts this program waits for this line.
    let place = args.socket_path.as_ref().map_or_else(|| "its descriptor".into(), |path| path.display().to_string());
    tell!("vhost-blk: ready on {place}");
    let ending = server.run(&stop);
    match &ending {
        Ending::Clean => {}
        Ending::Unmet(unmet) => unmet.iter().for_each(|line| tell!("vhost-blk: {line}")),
        Ending::HostFailed(why) => tell!("vhost-blk: {why}"),
    }
    ending.exit_code()
}

/// SIGTERM and SIGINT become readable on a descriptor. Blocked before any thread starts, so that no other gets them.
fn stop_signals() -> nix::Result<SignalFd> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC)
}

/// A queue thread that panics would leave a guest waiting for ever. The record then has no trailer, which says enough.
fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        tell!("vhost-blk: a bug of this program, please report it with the lines above");
        std::process::exit(4);
    }));
}

fn refuse_start(error: &StartError) -> u8 {
    match error {
        // Lines of the form file:line:col, for editors: nothing before them.
        StartError::Script(_) => tell!("{error}"),
        _ => tell!("vhost-blk: {error}"),
    }
    error.exit_code()
}

fn script(command: &ScriptCommand) -> u8 {
    match command {
        ScriptCommand::Check { files, strict, blk_file, num_queues } => {
            check(files, *strict, blk_file.as_deref(), *num_queues)
        }
        ScriptCommand::Explain { files } => {
            with_script(files, |script| say(fault_injection::explain(script).trim_end()))
        }
        ScriptCommand::Normalize { files } => with_script(files, |script| say(script.normalized().trim_end())),
        ScriptCommand::Schema => say(fault_injection::schema().trim_end()),
    }
}

fn with_script(files: &[PathBuf], then: impl FnOnce(&fault_injection::Script) -> u8) -> u8 {
    match load_scripts(files) {
        Ok((script, warnings)) => {
            warnings.iter().for_each(|warning| tell!("{warning}"));
            then(&script)
        }
        Err(error) => refuse_start(&error),
    }
}

fn check(files: &[PathBuf], strict: bool, image: Option<&Path>, queues: u16) -> u8 {
    let (script, mut problems) = match load_scripts(files) {
        Ok(loaded) => loaded,
        Err(error) => return refuse_start(&error),
    };
    if let Some(image) = image {
        // Shared, so that a served image can be checked against while it is read-only, and nobody else is disturbed.
        let disk = match Disk::open(image, DiskOptions { read_only: true, ..Default::default() }) {
            Ok(disk) => disk,
            Err(error) => return refuse_start(&error.into()),
        };
        let facts = DeviceFacts {
            capacity_sectors: disk.capacity_sectors(),
            queues,
            logical_block_bytes: script.device().logical_block_bytes.unwrap_or(512),
        };
        problems.extend(script.check_device(&facts));
        problems.extend(vhost_blk::files::check(&script, &disk));
    }
    problems.iter().for_each(|problem| tell!("{problem}"));
    let bad = problems.iter().any(|problem| strict || !Problem::is_warning(problem));
    if bad { 2 } else { 0 }
}

fn ctl(socket: &Path, question: &Ask) -> u8 {
    match ask(socket, question) {
        Ok(Ok(result)) => say(&result.to_string()),
        Ok(Err(why)) => fail(2, &why),
        Err(error) => no_device(socket, &error),
    }
}

fn subscribe(socket: &Path) -> u8 {
    let mut code = 0;
    let told = |line: &str| {
        code = say(line);
        code == 0
    };
    match listen_to(socket, told) {
        Ok(()) => code,
        Err(error) => no_device(socket, &error),
    }
}

fn no_device(socket: &Path, error: &io::Error) -> u8 {
    let socket = socket.display();
    fail(4, &format!("cannot talk to {socket}: {error}; is that the --control-path of a running vhost-blk?"))
}

fn snapshot(command: &SnapshotCommand) -> u8 {
    let header = match command {
        SnapshotCommand::Apply { file, image, out } => apply(file, image, out),
        SnapshotCommand::Show { file } => read_header(file),
    };
    match header {
        Ok(header) => say_header(&header),
        Err(ApplyError::Io { path, source }) if source.kind() == io::ErrorKind::NotFound => {
            fail(2, &format!("cannot open {}: {source}", path.display()))
        }
        Err(error @ ApplyError::Io { .. }) => fail(4, &error.to_string()),
        Err(error) => fail(2, &error.to_string()),
    }
}

fn say_header(header: &StateHeader) -> u8 {
    match serde_json::to_string(header) {
        Ok(line) => say(&line),
        Err(error) => fail(4, &error.to_string()),
    }
}

fn overlay(file: &Path) -> u8 {
    let lies = match vhost_blk::overlay::list_file(file) {
        Ok(lies) => lies,
        Err(error) => return fail(2, &format!("cannot read the overlay list {}: {error}", file.display())),
    };
    for lie in lies {
        let Ok(line) = serde_json::to_string(&lie) else { continue };
        let code = say(&line);
        if code != 0 {
            return code;
        }
    }
    0
}

fn trace(file: &Path) -> u8 {
    let opened = match std::fs::File::open(file) {
        Ok(opened) => opened,
        Err(error) => return fail(2, &format!("cannot open {}: {error}", file.display())),
    };
    let mut out = BufWriter::new(io::stdout().lock());
    match print(BufReader::new(opened), &mut out).and_then(|completeness| out.flush().map(|()| completeness)) {
        Ok(Completeness::Complete) => 0,
        Ok(Completeness::CutShort) => {
            fail(4, &format!("{} was cut short: vhost-blk did not end by itself", file.display()))
        }
        Err(error) => fail(4, &format!("{}: {error}", file.display())),
    }
}

fn say(text: &str) -> u8 {
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => 0,
        Err(error) => fail(4, &format!("cannot write to stdout: {error}")),
    }
}

fn fail(code: u8, text: &str) -> u8 {
    tell!("vhost-blk: {text}");
    code
}
