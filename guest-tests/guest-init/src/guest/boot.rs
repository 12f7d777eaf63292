//! From the kernel's hand to hello: mounts and modules.
//!
//! The initramfs holds `/modules/order`, one line per module in the order to load them:
//! `early FILE` before hello, `late FILE` when the probes are set.

use std::ffi::CString;
use std::fs::{self, File};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use guest_init::protocol::{Hello, PROTOCOL};
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};

use super::{Doing, Outcome};

const MODULES: &str = "/modules";

/// A disk that has not shown up by then has no working driver.
const DEVICE_WAIT: Duration = Duration::from_secs(60);

/// When a module is loaded.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before hello: what the ports need.
    Early,
    /// After the probes: the disk's driver.
    Late,
}

pub fn mount_kernel_file_systems() -> Outcome<()> {
    for (kind, target) in
        [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tracefs", "/sys/kernel/tracing")]
    {
        fs::create_dir_all(target).doing(format!("creating {target}"))?;
        mount(Some(kind), target, Some(kind), MsFlags::empty(), None::<&str>).doing(format!("mounting {target}"))?;
    }
    fs::create_dir_all("/mnt").doing("creating /mnt")
}

pub fn load_modules(when: When) -> Outcome<()> {
    let word = if when == When::Early { "early" } else { "late" };
    let order = Path::new(MODULES).join("order");
    let order = fs::read_to_string(&order).doing(format!("reading {}", order.display()))?;
    order
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(w, _)| *w == word)
        .try_for_each(|(_, file)| load(file))
}

/// A module that is there is not offered again: the kernel would check its signature before it says so, which takes a guest
/// under TCG tens of milliseconds.
fn load(file: &str) -> Outcome<()> {
    if is_loaded(file) {
        return Ok(());
    }
    let path = Path::new(MODULES).join(file);
    let module = File::open(&path).doing(format!("opening {}", path.display()))?;
    match finit_module(&module, &CString::default(), ModuleInitFlags::empty()) {
        Err(nix::Error::EEXIST) | Ok(()) => Ok(()),
        Err(error) => Err(error).doing(format!("loading the module {file}")),
    }
}

/// Only what was loaded, not what is built in, has a state there.
fn is_loaded(file: &str) -> bool {
    let name = file.split('.').next().unwrap_or_default().replace('-', "_");
    Path::new("/sys/module").join(name).join("initstate").exists()
}

pub fn wait_for(device: &str) -> Outcome<()> {
    let start = Instant::now();
    while !Path::new(device).exists() {
        if start.elapsed() > DEVICE_WAIT {
            return Err(format!("it did not appear within {} s", DEVICE_WAIT.as_secs()))
                .doing(format!("waiting for {device}"));
        }
        thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

pub fn hello() -> Outcome<Hello> {
    let read =
        |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned()).doing(format!("reading {path}"));
    let uptime = read("/proc/uptime")?;
    let seconds: f64 = uptime.split(' ').next().unwrap_or_default().parse().doing("reading the uptime")?;
    Ok(Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").into(),
        release: read("/proc/sys/kernel/osrelease")?,
        build: read("/proc/sys/kernel/version")?,
        cpus: u32::try_from(thread::available_parallelism().doing("counting CPUs")?.get()).doing("counting CPUs")?,
        page_bytes: u32::try_from(page_bytes()).doing("reading the page size")?,
        uptime_ms: (seconds * 1000.0) as u64,
    })
}

pub fn page_bytes() -> usize {
    let size = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE);
    size.ok().flatten().and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(4096)
}
