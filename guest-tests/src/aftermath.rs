//! What is left when the guest is done with its disk: the device's record in lines, the operations with their results, and
//! the state of the image. All of it goes into the run's folder; nothing is judged here.

use crate::crash_states::command::{Judged, after_the_end, judged};
use crate::crash_states::{self, order::Order};
use crate::disk::{self, DiskEnd};
use crate::end_state;
use crate::failure::Failure;
use crate::folder::{self, RunFolder};
use crate::guest::Told;
use crate::host::{self, GuestEnd, Host};
use crate::ops::OpLine;
use crate::programs::Programs;
use crate::scenario::Scenario;
use guest_vm::Kernel;
use std::collections::BTreeMap;
use std::path::Path;

/// What was run, for host.json.
pub struct Case<'a> {
    /// The scenario.
    pub scenario: &'a Scenario,
    /// What was booted.
    pub kernel: &'a Kernel,
    /// Whose past the free blocks hold.
    pub nonce: u64,
    /// `kvm` or `tcg`.
    pub accel: &'a str,
    /// Seed of the fault script, where one was given.
    pub seed: Option<u64>,
    /// The dialect that was asked for.
    pub dialect: Option<&'a str>,
    /// The planted mistake.
    pub canary: Option<&'a str>,
    /// The command that shows it again.
    pub repeat: &'a str,
}

/// Looks at everything. The disk must have let go of image and record.
pub fn look(
    case: &Case<'_>,
    programs: &Programs,
    folder: &RunFolder,
    told: Told,
    disk_end: DiskEnd,
) -> Result<Host, Failure> {
    let scenario = case.scenario;
    let image_file = folder.file(folder::IMAGE);
    let device = disk::print_trace(programs, &folder.file(folder::DEVICE_TRACE))?;
    folder.write(folder::DEVICE, &device)?;
    let ops = OpLine::pair(&scenario.workload, &told.ops);
    folder.write_lines(folder::OPS, &ops)?;
    let left = match told.end {
        GuestEnd::PowerCut { .. } => Some(left(scenario, folder, &image_file, &ops, &device)?),
        _ => None,
    };
    let sound = told.unmounted && told.end == GuestEnd::Done;
    let (mut e2fsck, mut image) = (None, BTreeMap::new());
    if sound {
        let (said, end) = end_state::look(&image_file, &folder.file(folder::LEFT), scenario)?;
        end.write(folder)?;
        let expected = scenario.expect.iter().flat_map(|entry| entry.image.keys().cloned());
        (e2fsck, image) = (Some(said), end.contents(&expected.collect()));
    }
    Ok(Host {
        guest_tests: crate::programs::VERSION.to_owned(),
        kernel: host::Kernel {
            release: told.hello.release,
            build: told.hello.build,
            image_sha256: case.kernel.image_hash.clone(),
        },
        dialect: case.dialect.map(str::to_owned),
        canary: case.canary.map(str::to_owned),
        seed: case.seed,
        nonce: case.nonce,
        accel: case.accel.to_owned(),
        not_traced: told.not_traced,
        guest_end: told.end,
        mount_errors: told.mount_errors,
        expect_unmet: disk_end == DiskEnd::ExpectUnmet,
        e2fsck,
        image,
        left,
        cuts: None,
        phases: Vec::new(),
        repeat: case.repeat.to_owned(),
    })
}

/// What the cut that ended the run left on the image.
fn left(
    scenario: &Scenario,
    folder: &RunFolder,
    image: &Path,
    ops: &[OpLine],
    device: &[u8],
) -> Result<crash_states::Left, Failure> {
    let order = Order::read(&String::from_utf8_lossy(device));
    if let Judged::Nothing(why) = judged(scenario) {
        return Ok(crash_states::Left { not_judged: Some(why), ..Default::default() });
    }
    let expected = order.and_then(|order| after_the_end(ops, scenario, &order));
    crash_states::look_at_what_is_left(image, &folder.file(folder::LEFT), expected)
}
