//! A guest: its kernel, its disk image, its initramfs, and the QEMU that runs it.
//!
//! Knows nothing of what the guest does. It hands out streams (the guest's ports), boots, waits, and
//! leaves nothing running: children die with this process, on drop, and on the time limit.

pub mod accel;
pub mod child;
pub mod disk;
mod error;
mod host_clock;
pub mod initramfs;
pub mod kernel;
mod qmp;
mod reconnect;
pub mod vm;

pub use accel::{Accel, AccelChoice};
pub use disk::{DiskImage, DiskSpec};
pub use error::Error;
pub use kernel::{Kernel, KernelSpec};
pub use vm::{Disk, End, Life, Vm, VmSpec};
