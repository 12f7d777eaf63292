//! The program `guest-init`: PID 1 of the guest.
//!
//! It says hello, does the one job it is handed, reports, and powers off when told to. It never
//! decides whether something is right. What it cannot do it reports as `failed`; if it panics, so
//! does the kernel, and QEMU ends: nothing in here can make a run look better than it was.

mod guest;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::process::id() != 1 {
        if std::env::args().nth(1).as_deref() == Some("--version") {
            println!("guest-init {}", guest_init::version());
            return ExitCode::SUCCESS;
        }
        eprintln!("guest-init is PID 1 of a guest that guest-tests boots; it does nothing elsewhere.");
        return ExitCode::from(2);
    }
    if let Err(failure) = guest::run() {
        println!("guest-init: failed {}: {}", failure.doing, failure.error);
    }
    guest::power_off()
}
