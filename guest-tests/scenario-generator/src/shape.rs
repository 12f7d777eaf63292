//! What a guest is booted as: all scenarios of a boot share it.

use crate::draw::{Stream, Streams};
use serde::Serialize;
use serde_json::{Value, json};

/// The series that boots are spread over.
pub const KERNELS: &[&str] = &["5.10", "6.1", "6.12", "7.2"];

/// A guest and its disk, as far as they cannot change while the guest is up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shape {
    /// The series of its kernel.
    pub kernel: &'static str,
    /// Virtual CPUs.
    pub vcpus: u32,
    /// Queues of the disk.
    pub queues: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// `queue/scheduler` of the disk.
    pub scheduler: &'static str,
    /// `queue/nomerges` of the disk.
    pub nomerges: u8,
    /// `queue/wbt_lat_usec` of the disk.
    pub wbt_lat_usec: u64,
    /// Size of the disk in MiB.
    pub size_mib: u64,
    /// What the disk offers when the driver negotiates: `device` of every fault script of the boot.
    pub device: Device,
}

/// `device` of a fault script; what is not said stays the disk's own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Most segments of a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seg_max: Option<u32>,
    /// Most bytes of a segment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_max_bytes: Option<u32>,
    /// Smallest unit of a request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logical_block_bytes: Option<u32>,
    /// When a write that was answered is on media.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_cache: Option<&'static str>,
    /// Whether discards are offered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discard: Option<bool>,
    /// Whether write_zeroes are offered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_zeroes: Option<bool>,
}

impl Shape {
    /// All of it.
    pub fn json(&self) -> Value {
        json!(self)
    }

    /// `guest` of a scenario.
    pub fn guest(&self) -> Value {
        json!({
            "vcpus": self.vcpus,
            "queues": self.queues,
            "memory_mib": self.memory_mib,
            "scheduler": self.scheduler,
            "nomerges": self.nomerges,
            "wbt_lat_usec": self.wbt_lat_usec,
        })
    }
}

/// The shape of a boot.
pub fn shape(boot: u32) -> Shape {
    let mut streams = Streams::of(&boot.to_string());
    let mut machine = streams.named("machine");
    let vcpus = machine.weighted(&[(6, 1), (3, 2), (1, 4)]);
    let kernel = kernel(boot);
    Shape {
        kernel,
        vcpus,
        queues: if machine.chance(1, 4) { 1 } else { vcpus },
        memory_mib: machine.weighted(&[(1, 256), (3, 512)]),
        scheduler: scheduler_of(kernel, machine.weighted(&[(4, "none"), (1, "mq-deadline")])),
        nomerges: machine.weighted(&[(3, 2), (1, 0)]),
        wbt_lat_usec: 0,
        size_mib: machine.weighted(&[(2, 16), (4, 32), (1, 64)]),
        device: device(&mut streams.named("device")),
    }
}

/// What the kernel can be asked for: from 6.12 on Debian's has mq-deadline as a module, which a guest does not carry.
fn scheduler_of(kernel: &str, drawn: &'static str) -> &'static str {
    if ["5.10", "6.1"].contains(&kernel) { drawn } else { "none" }
}

/// Each four boots in a row have all four kernels, in a drawn order: neither a short night nor a shard misses one for long.
fn kernel(boot: u32) -> &'static str {
    let round = boot / KERNELS.len() as u32;
    let order = Streams::of(&format!("boots {round}")).named("kernels").shuffled(KERNELS);
    order[boot as usize % KERNELS.len()]
}

fn device(stream: &mut Stream) -> Device {
    let mut device = Device::default();
    if stream.chance(1, 3) {
        device.seg_max = Some(stream.pick(&[1, 2, 4, 16]));
    }
    if stream.chance(1, 3) {
        device.size_max_bytes = Some(stream.pick(&[4096, 8192, 65_536]));
    }
    if stream.chance(1, 12) {
        device.logical_block_bytes = Some(4096);
    }
    device.write_cache = stream.weighted(&[(4, None), (2, Some("writeback")), (1, Some("writethrough"))]);
    device.discard = stream.chance(1, 6).then_some(false);
    device.write_zeroes = stream.chance(1, 6).then_some(false);
    device
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_scheduler_that_is_a_module_is_asked_of_no_kernel() {
        let asked: BTreeSet<_> = (0..1_000).map(shape).map(|shape| (shape.kernel, shape.scheduler)).collect();
        let deadline: Vec<_> = asked.iter().filter(|(_, scheduler)| *scheduler != "none").collect();
        assert_eq!(deadline, [&("5.10", "mq-deadline"), &("6.1", "mq-deadline")]);
    }

    #[test]
    fn every_four_boots_in_a_row_have_all_kernels_and_the_order_changes() {
        let kernels: Vec<&str> = (0..1_000).map(|boot| shape(boot).kernel).collect();
        let orders: BTreeSet<&[&str]> = kernels.chunks(KERNELS.len()).collect();
        for order in &orders {
            assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), KERNELS.len());
        }
        assert_eq!(orders.len(), 24);
    }

    #[test]
    fn a_disk_has_no_more_queues_than_there_are_cpus() {
        for boot in 0..1_000 {
            let shape = shape(boot);
            assert!((1..=shape.vcpus).contains(&shape.queues), "{shape:?}");
        }
    }
}
