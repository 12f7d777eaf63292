//! Who is measured: `vhost-blk` with and without faults, and QEMU's storage daemon.

use super::cases::{Case, Media};
use super::images::TAIL_BYTES;
use crate::failure::{At, Failure};
use crate::sockets::SocketFolder;
use crate::{args::Bench, programs};
use guest_vm::child::Child;
use serde_json::json;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A server that does not listen by then will not.
const START_LIMIT: Duration = Duration::from_secs(20);
const END_LIMIT: Duration = Duration::from_secs(20);

/// One way to serve a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// `vhost-blk` with nothing to do but serve.
    Plain,
    /// With so many rules on sectors that nobody touches.
    IdleRules(u32),
    /// With `--trace-file`.
    Traced,
    /// With `--decisions-file` and a rule that looks at every request.
    Decided,
    /// What the same crates can do at most (guest-tests/raw-client/examples/ceiling.rs).
    Ceiling,
    /// QEMU's storage daemon, a pool of threads.
    QsdThreads,
    /// The same with io_uring.
    QsdUring,
    /// The same, and blkdebug with one rule that never matches.
    QsdBlkdebug,
}

impl Server {
    /// Those of most cases.
    pub const COMPARED: &[Server] = &[Server::Plain, Server::QsdThreads, Server::QsdUring];

    /// For people and JSON.
    pub fn name(self) -> String {
        match self {
            Server::Plain => "vhost-blk".into(),
            Server::IdleRules(1) => "vhost-blk, 1 idle rule".into(),
            Server::IdleRules(rules) => format!("vhost-blk, {rules} idle rules"),
            Server::Traced => "vhost-blk, trace".into(),
            Server::Decided => "vhost-blk, every request decided".into(),
            Server::Ceiling => "ceiling of the crates".into(),
            Server::QsdThreads => "QSD threads".into(),
            Server::QsdUring => "QSD io_uring".into(),
            Server::QsdBlkdebug => "QSD io_uring, blkdebug".into(),
        }
    }

    /// One of ours.
    pub fn is_ours(self) -> bool {
        !matches!(self, Server::Ceiling) && !self.is_qsd()
    }

    fn is_qsd(self) -> bool {
        matches!(self, Server::QsdThreads | Server::QsdUring | Server::QsdBlkdebug)
    }
}

/// The programs, as far as they are there.
#[derive(Clone, Debug)]
pub struct Peers {
    vhost_blk: PathBuf,
    qsd: Option<PathBuf>,
    ceiling: Option<PathBuf>,
    taskset: PathBuf,
    /// What they say of their versions.
    pub versions: Vec<String>,
    /// What is not measured, and why.
    pub skipped: Vec<String>,
}

impl Peers {
    /// Looks for them.
    pub fn find(vhost_blk: &Path) -> Result<Peers, Failure> {
        let taskset = programs::on_host("taskset")
            .ok_or_else(|| Failure::infrastructure("there is no taskset", "install util-linux"))?;
        let qsd = programs::on_host("qemu-storage-daemon");
        let mut skipped = Vec::new();
        if qsd.is_none() {
            skipped.push("qemu-storage-daemon is not installed (Debian: qemu-utils)".into());
        }
        let ceiling = vhost_blk.with_file_name("examples").join("ceiling");
        let ceiling = ceiling.is_file().then_some(ceiling);
        if ceiling.is_none() {
            skipped.push(
                "the ceiling of the crates is not built (cargo build --release -p raw-client --example ceiling)".into(),
            );
        }
        let versions = [Some(vhost_blk), qsd.as_deref()].into_iter().flatten().filter_map(version).collect();
        Ok(Peers { vhost_blk: vhost_blk.to_owned(), qsd, ceiling, taskset, versions, skipped })
    }

    /// Whether this one can be measured.
    pub fn has(&self, server: Server) -> bool {
        match server {
            Server::Ceiling => self.ceiling.is_some(),
            _ => server.is_ours() || self.qsd.is_some(),
        }
    }
}

fn version(program: &Path) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(str::to_owned)
}

/// A server at work.
pub struct Running {
    child: Child,
    /// Where it listens.
    pub socket: PathBuf,
    log: PathBuf,
    // Last: the socket's folder goes when the server has.
    _sockets: SocketFolder,
}

impl Running {
    /// Starts it and waits until it listens.
    pub fn start(
        server: Server,
        case: &Case,
        image: &Path,
        (wanted, peers): (&Bench, &Peers),
    ) -> Result<Running, Failure> {
        let sockets = SocketFolder::new()?;
        let socket = sockets.socket("disk");
        let mut command = Command::new(&peers.taskset);
        let cpu = wanted.cpu();
        command.arg("-c").arg(if case.same_cpu {
            cpu.to_string()
        } else {
            format!("0-{}", super::measure::last_cpu())
        });
        match server {
            Server::Ceiling => ceiling(&mut command, case, (image, &socket), peers),
            _ if server.is_ours() => ours(&mut command, server, case, (image, &socket, &sockets), (wanted, peers))?,
            _ => qsd(&mut command, server, case, (image, &socket), peers),
        }
        let log = sockets.socket("log");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log).at("create", &log)?);
        let child = Child::spawn(command, Vec::new()).at("start", &peers.taskset)?;
        let mut running = Running { child, socket, log, _sockets: sockets };
        running.await_socket(server)?;
        Ok(running)
    }

    fn await_socket(&mut self, server: Server) -> Result<(), Failure> {
        let since = Instant::now();
        while !self.socket.exists() {
            let ended = self.child.try_wait().at("ask after", "the server")?;
            if ended.is_some() || since.elapsed() > START_LIMIT {
                return Err(self.failure(server, "does not start"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // Bound already, listening in a moment.
        std::thread::sleep(Duration::from_millis(20));
        Ok(())
    }

    /// What it left in its log.
    pub fn failure(&self, server: Server, what: &str) -> Failure {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let last: Vec<&str> = log.trim().lines().rev().take(3).collect();
        let said = if last.is_empty() { "it said nothing".to_owned() } else { last.join(" | ") };
        Failure::infrastructure(format!("{} {what}: {said}", server.name()), "")
    }

    /// CPU time of all its threads so far.
    pub fn cpu(&self) -> Duration {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        let clock = nix::time::clock_getcpuclockid(pid);
        clock.and_then(nix::time::clock_gettime).map(Duration::from).unwrap_or_default()
    }

    /// The most it had in memory, and how much of that is its own now, in KiB.
    pub fn memory_kib(&self) -> (u64, u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name));
            line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
        };
        (field("VmHWM:"), field("RssAnon:"))
    }

    /// Ends it in order.
    pub fn end(mut self, server: Server) -> Result<(), Failure> {
        let ended = self.child.terminate(END_LIMIT).at("end", "the server")?;
        if server.is_ours() && !ended.success() {
            return Err(self.failure(server, "did not end in order"));
        }
        Ok(())
    }
}

fn ours(
    command: &mut Command,
    server: Server,
    case: &Case,
    (image, socket, sockets): (&Path, &Path, &SocketFolder),
    (wanted, peers): (&Bench, &Peers),
) -> Result<(), Failure> {
    command.arg(&peers.vhost_blk).arg("--socket-path").arg(socket).arg("--blk-file").arg(image);
    command.arg(format!("--num-queues={}", case.queues)).args(&wanted.vhost_blk_arg);
    if case.media == Media::Direct {
        command.arg("--direct");
    }
    match server {
        Server::IdleRules(rules) => {
            let path = sockets.socket("faults.json");
            fs::write(&path, idle_rules(rules, wanted.span_bytes()).to_string()).at("write", &path)?;
            command.arg("--faults").arg(path);
        }
        Server::Traced => _ = command.arg("--trace-file").arg(sockets.socket("trace")),
        Server::Decided => {
            let path = sockets.socket("faults.json");
            fs::write(&path, rule_that_looks().to_string()).at("write", &path)?;
            command.arg("--faults").arg(path).arg("--decisions-file").arg(sockets.socket("decisions"));
        }
        _ => {}
    }
    Ok(())
}

/// Rules on the tail of the image, which no request touches.
fn idle_rules(rules: u32, span_bytes: u64) -> serde_json::Value {
    let tail = (span_bytes / 512, TAIL_BYTES / 512);
    let step = tail.1 / u64::from(rules.max(1));
    let rule = |i: u32| {
        let start = tail.0 + u64::from(i) * step;
        json!({"id": format!("idle{i}"), "match": {"op": ["read", "write"], "sectors": [[start, start + 1]]},
            "action": {"error": {"status": "ioerr"}}})
    };
    json!({"faultscript": 1, "name": "idle", "rules": (0..rules).map(rule).collect::<Vec<_>>()})
}

/// It has to be asked about every request, and never fires.
fn rule_that_looks() -> serde_json::Value {
    json!({"faultscript": 1, "name": "looks", "rules": [{"id": "never", "match": {"op": ["read", "write"]},
        "trigger": {"nth": 1_000_000_000_000_u64}, "action": {"error": {"status": "ioerr"}}}]})
}

fn ceiling(command: &mut Command, case: &Case, (image, socket): (&Path, &Path), peers: &Peers) {
    command.args(peers.ceiling.as_deref());
    command.arg(format!("--socket-path={}", socket.display())).arg(format!("--blk-file={}", image.display()));
    command.arg(format!("--num-queues={}", case.queues));
}

fn qsd(command: &mut Command, server: Server, case: &Case, (image, socket): (&Path, &Path), peers: &Peers) {
    let aio = if server == Server::QsdThreads { "threads" } else { "io_uring" };
    let direct = if case.media == Media::Direct { "on" } else { "off" };
    let (image, socket) = (image.display(), socket.display());
    command.args(peers.qsd.as_deref());
    command
        .arg("--blockdev")
        .arg(format!("driver=file,node-name=file,filename={image},aio={aio},cache.direct={direct}"));
    command.arg("--blockdev").arg(format!("driver=raw,node-name=raw,file=file,cache.direct={direct}"));
    let top = if server == Server::QsdBlkdebug { "debug" } else { "raw" };
    if server == Server::QsdBlkdebug {
        command.arg("--blockdev").arg(
            "driver=blkdebug,node-name=debug,image=raw,inject-error.0.event=read_aio,inject-error.0.errno=5,\
             inject-error.0.sector=1099511627776",
        );
    }
    let export = format!("type=vhost-user-blk,id=export,node-name={top},addr.type=unix,addr.path={socket}");
    command.arg("--export").arg(format!("{export},num-queues={},writable=on", case.queues));
}
