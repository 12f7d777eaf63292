//! How QEMU is asked to connect again: by milliseconds since 9.2, by whole seconds before.

use std::process::Command;

/// The option of a client socket's chardev.
pub fn option(ms: u64) -> String {
    // One that does not run says so itself when it is started.
    let output = Command::new("qemu-system-x86_64").arg("--version").output();
    let said = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    for_version(ms, &said)
}

fn for_version(ms: u64, said: &str) -> String {
    match version(said) {
        Some(version) if version < (9, 2) => format!("reconnect={}", ms.div_ceil(1000)),
        _ => format!("reconnect-ms={ms}"),
    }
}

fn version(said: &str) -> Option<(u32, u32)> {
    let mut numbers = said.split_once("version ")?.1.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_qemu_counts_in_seconds() {
        assert_eq!(for_version(100, "QEMU emulator version 7.2.19 (Debian 1:7.2+dfsg-7+deb12u16)"), "reconnect=1");
        assert_eq!(for_version(100, "QEMU emulator version 9.2.0"), "reconnect-ms=100");
        assert_eq!(for_version(100, "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)"), "reconnect-ms=100");
        assert_eq!(for_version(100, "a build of somebody's own"), "reconnect-ms=100");
    }
}
