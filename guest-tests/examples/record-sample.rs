//! Boots a kernel on a plain disk without faults, traces a workload, and keeps what the guest sent.
//!
//! For looking at a raw trace by hand, and for making samples: the folder gets the frames as they came, every message of
//! the guest, and the image. Usage: `record-sample FOLDER GUEST_INIT [KERNEL [PROBES]]`; PROBES is a file of kprobe_events lines.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use guest_init::frames::{Frame, Frames, write_end, write_page};
use guest_init::host::Session;
use guest_init::job::{Event, Job, Op, Probe, Setting, Trace};
use guest_init::past;
use guest_init::protocol::{CTL_PORT, FromGuest, TRACE_PORT};
use guest_vm::{Accel, Disk, DiskSpec, KernelSpec, Vm, VmSpec, disk, initramfs, kernel};

const WORKLOAD: &str = r#"[
    {"op":"create","path":"f"},
    {"op":"fallocate","path":"f","len":8388608},
    {"op":"write","path":"f","len":4194304,"pattern":"new","stride":{"chunk":4096,"step":8192,"phases":2}},
    {"op":"fsync","path":"f"},
    {"op":"mark","name":"written"},
    {"op":"drop_caches"},
    {"op":"read","path":"f","len":4259840}
]"#;

const EVENTS: [&str; 12] = [
    "block/block_bio_queue",
    "block/block_split",
    "block/block_rq_insert",
    "block/block_rq_issue",
    "block/block_rq_merge",
    "block/block_rq_requeue",
    "block/block_rq_complete",
    "ext4/ext4_writepages",
    "ext4/ext4_writepages_result",
    "ext4/ext4_da_write_pages_extent",
    "ext4/ext4_sync_file_enter",
    "ext4/ext4_sync_file_exit",
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, init, rest @ ..] = &arguments[..] else {
        anyhow::bail!("usage: record-sample FOLDER GUEST_INIT [KERNEL [PROBES]]");
    };
    let folder = Path::new(folder);
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    let spec: KernelSpec = rest.first().map_or("6.1", String::as_str).parse()?;
    let probes = rest.get(1).map(fs::read_to_string).transpose()?.unwrap_or_default();

    let started = Instant::now();
    let kernel = kernel::obtain(&spec, &kernel::default_cache())?;
    println!("{:?} kernel {} {:?}", started.elapsed(), kernel.release, kernel.version);
    let started = Instant::now();
    let disk_spec = DiskSpec { path: folder.join("disk.raw"), size_mib: 96, block_bytes: 4096, mkfs: Vec::new() };
    let image = disk::build(&disk_spec, &|block, bytes| past::fill(7, block, bytes))?;
    println!("{:?} image, {} free blocks filled", started.elapsed(), image.free_blocks());
    let started = Instant::now();
    let initramfs = folder.join("initramfs.cpio");
    initramfs::write(&initramfs, Path::new(init), &kernel)?;
    let accel = Accel::Auto.choose()?;
    println!("{:?} initramfs; {}", started.elapsed(), accel.why);

    let started = Instant::now();
    let mut vm = Vm::start(VmSpec {
        vmlinux: kernel.vmlinux.clone(),
        initramfs,
        cmdline: String::new(),
        accel,
        vcpus: 1,
        memory_mib: 512,
        disk: Disk::File { path: image.path.clone(), num_queues: 1 },
        ports: vec![CTL_PORT.into(), TRACE_PORT.into()],
        console_log: folder.join("console.log"),
        qemu_log: folder.join("qemu.log"),
        extra: Vec::new(),
        time_limit: Duration::from_secs(120),
    })?;
    let trace = vm.port(TRACE_PORT).context("the trace port")?;
    let raw = folder.join("frames.raw");
    let keeper = std::thread::spawn(move || keep(trace, &raw));
    let ctl = vm.port(CTL_PORT).context("the ctl port")?;
    let mut messages = File::create(folder.join("messages.jsonl"))?;
    let listener = move |message: &FromGuest| {
        if !matches!(message, FromGuest::Log(_) | FromGuest::Tracing(_) | FromGuest::Symbols { .. }) {
            println!("{:?} {}", started.elapsed(), serde_json::to_string(message).map_err(|e| e.to_string())?);
        }
        serde_json::to_writer(&mut messages, message).map_err(|e| e.to_string())?;
        messages.write_all(b"\n").map_err(|e| e.to_string())
    };
    let mut session = Session::new(ctl.try_clone()?, ctl, listener);
    let hello = session.hello()?;
    vm.guest_spoke();
    session.symbols_kept(&symbols_of(&probes), &hello, &kernel.folder.join("symbols.json"))?;
    session.run(job(&probes)?)?;
    session.power_off()?;
    println!("{:?} {}", started.elapsed(), vm.wait()?);
    let (pages, bytes) = keeper.join().expect("the keeper does not panic")?;
    println!("{pages} pages, {bytes} bytes");
    Ok(())
}

fn job(probes: &str) -> Result<Job> {
    let ops: Vec<Op> = serde_json::from_str(WORKLOAD)?;
    let probes: Vec<Probe> = probes.lines().map(|line| Probe { line: line.into(), optional: false }).collect();
    let name = |probe: &Probe| {
        probe.line.split_whitespace().next().unwrap_or_default().split(':').nth(1).unwrap_or_default().to_owned()
    };
    let events = EVENTS.iter().map(ToString::to_string).chain(probes.iter().map(name));
    let events = events.map(|name| Event { name, filter: None, optional: false }).collect();
    let setting = |name: &str, value: &str| Setting {
        path: format!("/sys/block/vda/queue/{name}"),
        value: value.into(),
        optional: false,
    };
    Ok(Job {
        trace: Some(Trace { clock: "counter".into(), buffer_kib_per_cpu: 8192, probes, events }),
        on_disk: vec![setting("nomerges", "2"), setting("scheduler", "none")],
        ..Job::ext4(ops)
    })
}

/// The functions the probes sit in.
fn symbols_of(probes: &str) -> Vec<String> {
    let place = |line: &str| line.split_whitespace().nth(1).and_then(|word| word.split('+').next()).map(str::to_owned);
    probes.lines().filter_map(place).collect()
}

fn keep(stream: impl std::io::Read, path: &PathBuf) -> Result<(u64, u64)> {
    let mut out = std::io::BufWriter::new(File::create(path)?);
    let (mut pages, mut total) = (0, 0);
    for frame in Frames::new(std::io::BufReader::new(stream)) {
        match frame? {
            Frame::Page { cpu, bytes } => {
                pages += 1;
                total += bytes.len() as u64;
                write_page(&mut out, cpu, &bytes)?;
            }
            Frame::End(end) => write_end(&mut out, &end)?,
        }
    }
    Ok((pages, total))
}
