//! The guest's side, from the first mount to power off.

mod aio;
mod boot;
mod ctl;
mod descriptors;
mod disk;
mod files;
mod kernel_log;
mod ops;
mod stream;
mod symbols;
mod together;
mod tracing;

use std::convert::Infallible;
use std::fmt::Display;
use std::sync::Arc;

use guest_init::job::Job;
use guest_init::protocol::{FromGuest, Statistics, ToGuest};

use ctl::Ctl;
use kernel_log::KernelLog;
use tracing::Probes;

/// Why the job could not be carried out.
pub struct Failure {
    /// What the guest was doing.
    pub doing: String,
    /// What went wrong.
    pub error: String,
}

type Outcome<T> = Result<T, Failure>;

/// Names what was being done when something failed.
trait Doing<T> {
    fn doing(self, what: impl Display) -> Outcome<T>;
}

impl<T, E: Display> Doing<T> for Result<T, E> {
    fn doing(self, what: impl Display) -> Outcome<T> {
        self.map_err(|error| Failure { doing: what.to_string(), error: error.to_string() })
    }
}

/// Everything PID 1 does. An error means that there was nobody left to report it to.
pub fn run() -> Outcome<()> {
    boot::mount_kernel_file_systems()?;
    boot::load_modules(boot::When::Early)?;
    let mut ctl = Ctl::open()?;
    ctl.send(&FromGuest::Hello(boot::hello()?))?;
    let log = KernelLog::start(ctl.sender())?;
    if let Err(failure) = serve(&mut ctl, &log) {
        log.drain();
        ctl.send(&FromGuest::Failed { doing: failure.doing, error: failure.error })?;
        while !matches!(ctl.receive()?, ToGuest::PowerOff) {}
    }
    Ok(())
}

fn serve(ctl: &mut Ctl, log: &Arc<KernelLog>) -> Outcome<()> {
    let mut probes = Probes::default();
    loop {
        match ctl.receive()? {
            ToGuest::Symbols { names } => ctl.send(&symbols::find(&names)?)?,
            ToGuest::Formats { events } => ctl.send(&tracing::formats(&events))?,
            ToGuest::Job(job) => {
                // What the kernel has said since the last job is not this one's, and is heard before it begins.
                log.drain();
                let statistics = work(ctl, &job, &mut probes)?;
                log.drain();
                ctl.send(&FromGuest::Done(statistics))?;
            }
            ToGuest::Rest { device } => {
                let at_rest = disk::rest(&device)?;
                log.drain();
                ctl.send(&at_rest)?;
            }
            ToGuest::Ack { index } => return Err(format!("nobody waits for op {index}")).doing("acknowledging"),
            ToGuest::PowerOff => {
                log.drain();
                return Ok(());
            }
        }
    }
}

/// The job from first setting to drained trace. The workload's own errors are reported and do not stop it.
fn work(ctl: &mut Ctl, job: &Job, probes: &mut Probes) -> Outcome<Statistics> {
    let mut refused = Vec::new();
    files::write_settings(&job.at_start, &mut refused)?;
    let tracer = tracing::Tracer::start(job, ctl, probes)?;
    // Only now: the probes must see the disk's first request.
    boot::load_modules(boot::When::Late)?;
    boot::wait_for(&job.device)?;
    files::write_settings(&job.on_disk, &mut refused)?;
    ctl.send(&FromGuest::Disk { refused })?;
    job.nonce.map_or(Ok(()), |nonce| disk::must_hold(&job.device, nonce))?;
    ops::run(ctl, job, &tracer)?;
    tracer.stop()
}

/// Ends the guest.
pub fn power_off() -> ! {
    let end: Result<Infallible, _> = nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_POWER_OFF);
    panic!("power off was refused: {end:?}")
}
