//! The disk of a run: a `vhost-blk` process, its control socket and its end.
//!
//! It is killed when the value is dropped and when this program dies, however it dies. Its front-end socket is a
//! descriptor handed over at birth, so nobody else can connect; only a disk that leaves its front-end and lets it in again
//! listens, in a folder that nobody else can enter.

use crate::failure::{At, Failure};
use crate::folder::{self, RunFolder};
use crate::interrupt::Interrupt;
use crate::programs::Programs;
use crate::sockets::SocketFolder;
use guest_vm::child::Child;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long an orderly end may take before it is called stuck.
const END_LIMIT: Duration = Duration::from_secs(20);

/// How soon QEMU tries again to connect.
const RECONNECT_MS: u64 = 100;

/// What the disk is to be.
#[derive(Debug)]
pub struct Config<'a> {
    /// The image.
    pub image: &'a Path,
    /// The fault script, if there is one.
    pub script: Option<&'a Path>,
    /// Seed on the command line.
    pub seed: Option<u64>,
    /// Queues to offer.
    pub queues: u16,
    /// It leaves the front-end and lets it in again.
    pub reconnects: bool,
    /// Where the states of its power cuts go.
    pub snapshot_dir: Option<&'a Path>,
    /// The lie that it tells without recording it; for canaries alone.
    pub planted_lie: Option<&'a str>,
    /// It keeps records in the folder.
    pub records: bool,
}

/// The disk that takes the place of another one.
#[derive(Debug)]
pub struct Next<'a> {
    /// The image.
    pub image: &'a Path,
    /// The fault script, if there is one.
    pub script: Option<&'a Path>,
    /// Seed, if it is not the script's own.
    pub seed: Option<u64>,
    /// Where its records go; none: it keeps none.
    pub records: Option<&'a RunFolder>,
    /// Where the states of its power cuts go.
    pub snapshot_dir: Option<&'a Path>,
}

/// A running disk.
#[derive(Debug)]
pub struct Disk {
    child: Child,
    control_path: PathBuf,
    control: Option<BufReader<UnixStream>>,
    log: PathBuf,
    next_id: u64,
}

/// How a disk ended in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskEnd {
    /// Exit code 0.
    Clean,
    /// Exit code 3: the script's own `expect` was not met.
    ExpectUnmet,
}

impl Disk {
    /// Starts it. What comes with it is the front-end's side of the connection, for QEMU.
    pub fn start(
        programs: &Programs,
        run: &RunFolder,
        sockets: &SocketFolder,
        config: &Config<'_>,
    ) -> Result<(Disk, guest_vm::Disk), Failure> {
        let (front_end, inherit, place) = front_end(sockets, config)?;
        let log = run.file(folder::DISK_LOG);
        let control_path = sockets.socket("control");
        let mut command = command(programs, run, config, &control_path, &place);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).at("create", &log)?);
        let child = Child::spawn(command, inherit).at("start", &programs.vhost_blk)?;
        let mut disk = Disk { child, control_path, control: None, log, next_id: 1 };
        if let guest_vm::Disk::VhostUserPath { path, .. } = &front_end {
            disk.wait_for(path)?;
        }
        Ok((disk, front_end))
    }

    /// Its process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it listens here, which QEMU expects of it from the start.
    fn wait_for(&mut self, socket: &Path) -> Result<(), Failure> {
        let since = Instant::now();
        while !socket.exists() {
            if let Some(status) = self.child.try_wait().at("ask after", "vhost-blk")? {
                return Err(self.ended_early(status));
            }
            if since.elapsed() > END_LIMIT {
                let text = format!("vhost-blk does not listen on {}: {}", socket.display(), last_line(&self.log));
                return Err(Failure::infrastructure(text, ""));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Whether it still runs. One that ended by itself because its front-end left is no failure here; whoever knows the
    /// front-end asks why.
    pub fn is_running(&mut self) -> Result<bool, Failure> {
        match self.child.try_wait().at("ask after", "vhost-blk")? {
            None => Ok(true),
            Some(status) if status.success() => Ok(false),
            Some(status) => Err(self.ended_early(status)),
        }
    }

    /// Fails if it ended because it would not or could not serve: a script or an image it refuses, a host that fails it.
    pub fn refused(&mut self) -> Result<(), Failure> {
        match self.child.try_wait().at("ask after", "vhost-blk")? {
            Some(status) if matches!(status.code(), Some(2 | 4)) => Err(self.ended_early(status)),
            _ => Ok(()),
        }
    }

    /// Sets a mark and waits until the device has acknowledged it.
    pub fn mark(&mut self, name: &str, interrupt: &Interrupt) -> Result<(), Failure> {
        let answer = self.ask("mark", serde_json::json!({ "name": name }), interrupt)?;
        match answer.get("error") {
            Some(error) if !error.is_null() => {
                Err(Failure::infrastructure(format!("vhost-blk refused the mark {name:?}: {error}"), ""))
            }
            _ => Ok(()),
        }
    }

    /// Takes the disk out and puts another one in, while the guest has nothing of it. Gives how the one before ended.
    pub fn change(&mut self, next: &Next<'_>, interrupt: &Interrupt) -> Result<DiskEnd, Failure> {
        let mut args =
            serde_json::json!({ "blk_file": next.image, "seed": next.seed, "snapshot_dir": next.snapshot_dir });
        args["faults"] = next.script.iter().map(|script| serde_json::json!(script)).collect();
        if let Some(folder) = next.records {
            args["trace_file"] = serde_json::json!(folder.file(folder::DEVICE_TRACE));
            args["decisions_file"] = serde_json::json!(folder.file(folder::DECISIONS));
        }
        let answer = self.ask("change", args, interrupt)?;
        if let Some(error) = answer["error"].as_str() {
            let text = format!("vhost-blk refused the disk {}: {error}", next.image.display());
            return Err(match answer["exit_code"].as_u64() {
                Some(2) => Failure::BadInput(text),
                _ => Failure::infrastructure(text, ""),
            });
        }
        let ended = &answer["result"]["ended"];
        match ended["outcome"].as_str() {
            Some("clean") => Ok(DiskEnd::Clean),
            Some("expect_unmet") => Ok(DiskEnd::ExpectUnmet),
            _ => Err(Failure::infrastructure(format!("the disk failed on the host: {ended}"), "")),
        }
    }

    /// Hears of power cuts from now on.
    pub fn power_cuts(&mut self, interrupt: &Interrupt) -> Result<PowerCuts, Failure> {
        let path = self.control_path.clone();
        // The socket answers once it is there.
        self.control(interrupt)?;
        let stream = UnixStream::connect(&path).at("connect to", &path)?;
        writeln!(&stream, "{}", serde_json::json!({"id": 0, "verb": "subscribe"})).at("write to", &path)?;
        stream.set_nonblocking(true).at("set up", &path)?;
        Ok(PowerCuts { stream, heard: Vec::new() })
    }

    fn ask(
        &mut self,
        verb: &str,
        args: serde_json::Value,
        interrupt: &Interrupt,
    ) -> Result<serde_json::Value, Failure> {
        let id = self.next_id;
        self.next_id += 1;
        let mut request = serde_json::json!({ "id": id, "verb": verb });
        request.as_object_mut().expect("an object").extend(args.as_object().cloned().unwrap_or_default());
        let path = self.control_path.clone();
        let control = self.control(interrupt)?;
        writeln!(control.get_mut(), "{request}").at("write to", &path)?;
        loop {
            let mut line = String::new();
            if control.read_line(&mut line).at("read from", &path)? == 0 {
                return Err(Failure::infrastructure("vhost-blk closed its control socket", ""));
            }
            let answer: serde_json::Value = serde_json::from_str(&line).map_err(|error| {
                Failure::infrastructure(format!("vhost-blk's control socket answered {line:?}: {error}"), "")
            })?;
            if answer["id"] == id {
                return Ok(answer);
            }
        }
    }

    /// Connects on first use; the socket appears a moment after the process.
    fn control(&mut self, interrupt: &Interrupt) -> Result<&mut BufReader<UnixStream>, Failure> {
        while self.control.is_none() {
            interrupt.check()?;
            if !self.is_running()? {
                return Err(Failure::infrastructure("vhost-blk is gone, so no mark can be set", ""));
            }
            match UnixStream::connect(&self.control_path) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(END_LIMIT)).at("set up", &self.control_path)?;
                    self.control = Some(BufReader::new(stream));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        Ok(self.control.as_mut().expect("set above"))
    }

    /// Lets it end: it answers what it holds, flushes and writes out its records.
    pub fn end(mut self) -> Result<DiskEnd, Failure> {
        self.control = None;
        let status = self.child.terminate(END_LIMIT).at("wait for", "vhost-blk")?;
        match status.signal() {
            Some(libc::SIGKILL) => {
                let limit = END_LIMIT.as_secs();
                Err(Failure::infrastructure(
                    format!("vhost-blk was killed, or did not end within {limit} s of SIGTERM"),
                    "",
                ))
            }
            _ => self.ended(status),
        }
    }

    fn ended(&self, status: ExitStatus) -> Result<DiskEnd, Failure> {
        match status.code() {
            Some(0) => Ok(DiskEnd::Clean),
            Some(3) => Ok(DiskEnd::ExpectUnmet),
            _ => Err(self.ended_early(status)),
        }
    }

    /// Its exit codes 2 and 4 come with a sentence of its own in the log.
    fn ended_early(&self, status: ExitStatus) -> Failure {
        let said = last_line(&self.log);
        match (status.code(), status.signal()) {
            (Some(2), _) => Failure::BadInput(said),
            (Some(4), _) => Failure::infrastructure(format!("the disk failed on the host: {said}"), ""),
            (_, Some(signal)) => Failure::infrastructure(
                format!("vhost-blk was killed by signal {signal}, so the run is not judged"),
                "",
            ),
            _ => Failure::infrastructure(format!("vhost-blk ended too early ({status}): {said}"), ""),
        }
    }
}

/// QEMU's side, what the disk inherits, and the argument that tells it where its own side is.
fn front_end(sockets: &SocketFolder, config: &Config<'_>) -> Result<(guest_vm::Disk, Vec<OwnedFd>, OsString), Failure> {
    let num_queues = config.queues;
    if config.reconnects {
        let path = sockets.socket("disk");
        let mut place = OsString::from("--socket-path=");
        place.push(&path);
        return Ok((guest_vm::Disk::VhostUserPath { path, num_queues, reconnect_ms: RECONNECT_MS }, vec![], place));
    }
    let (socket, theirs) = UnixStream::pair()
        .map_err(|error| Failure::infrastructure(format!("cannot make a socket pair: {error}"), ""))?;
    let place = format!("--fd={}", theirs.as_raw_fd());
    Ok((guest_vm::Disk::VhostUser { socket, num_queues }, vec![theirs.into()], place.into()))
}

/// What the disk says of power cuts that end the run.
#[derive(Debug)]
pub struct PowerCuts {
    stream: UnixStream,
    /// The beginning of a line.
    heard: Vec<u8>,
}

impl PowerCuts {
    /// The cut that ended the run, if there was one; in a sentence. Does not wait.
    pub fn last(&mut self) -> Option<String> {
        let mut piece = [0; 4096];
        // A disk that has gone has nothing more to say; whoever watches it says why.
        while let Ok(read @ 1..) = self.stream.read(&mut piece) {
            self.heard.extend_from_slice(&piece[..read]);
        }
        let whole = self.heard.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let lines: Vec<u8> = self.heard.drain(..whole).collect();
        lines.split(|byte| *byte == b'\n').find_map(ending_cut)
    }
}

fn ending_cut(line: &[u8]) -> Option<String> {
    let event: serde_json::Value = serde_json::from_slice(line).ok()?;
    let then = event["then"].as_str()?;
    (event["event"] == "power_cut" && then == "kill_vm").then(|| {
        let by = event["by"].as_str().unwrap_or("?");
        format!("the script's power cut {by:?} ended the run (then: {then})")
    })
}

fn command(programs: &Programs, run: &RunFolder, config: &Config<'_>, control: &Path, place: &OsStr) -> Command {
    let mut command = Command::new(&programs.vhost_blk);
    command.arg(place);
    command.arg("--blk-file").arg(config.image);
    command.arg("--num-queues").arg(config.queues.to_string());
    if config.records {
        command.arg("--trace-file").arg(run.file(folder::DEVICE_TRACE));
        command.arg("--decisions-file").arg(run.file(folder::DECISIONS));
    }
    command.arg("--control-path").arg(control);
    if let Some(script) = config.script {
        command.arg("--faults").arg(script);
    }
    if let Some(dir) = config.snapshot_dir {
        command.arg("--snapshot-dir").arg(dir);
    }
    if let Some(lie) = config.planted_lie {
        command.arg("--planted-lie").arg(lie).env("VHOST_BLK_PLANTED_LIE", lie);
    }
    if let Some(seed) = config.seed {
        command.arg("--seed").arg(seed.to_string());
    }
    command
}

/// Prints the device's record as the lines of device.jsonl.
pub fn print_trace(programs: &Programs, trace: &Path) -> Result<Vec<u8>, Failure> {
    let output = Command::new(&programs.vhost_blk).arg("trace").arg(trace).output().at("start", &programs.vhost_blk)?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Failure::infrastructure(format!("vhost-blk cannot read its record {}: {}", trace.display(), said.trim()), ""))
}

fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    match text.lines().rev().find(|line| !line.trim().is_empty()) {
        Some(line) => line.to_owned(),
        None => format!("it said nothing (see {})", log.display()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;

    #[test]
    fn only_a_cut_that_is_for_good_ends_a_run_and_a_line_may_come_in_pieces() {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut cuts = PowerCuts { stream: ours, heard: Vec::new() };
        theirs
            .write_all(
                b"{\"event\":\"power_cut\",\"by\":\"s\",\"then\":\"snapshot\"}\n{\"event\":\"power_cut\",\"by\":\"d\",\"then\":\"disconnect\"}\n{\"event\":",
            )
            .unwrap();
        assert_eq!(cuts.last(), None);
        theirs.write_all(b"\"power_cut\",\"by\":\"k\",\"then\":\"kill_vm\"}\n").unwrap();
        assert_eq!(cuts.last().unwrap(), "the script's power cut \"k\" ended the run (then: kill_vm)");
        drop(theirs);
        assert_eq!(cuts.last(), None);
    }
}
