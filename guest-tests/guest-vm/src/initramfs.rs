//! The initramfs: a cpio archive in "newc" form with PID 1 and the modules it loads.
//!
//! Layout, the contract with the program that becomes PID 1: `/init` itself; `/modules/FILE` each module, unpacked;
//! `/modules/order` one line per module in the order to load them, `early FILE` before the disk may show up, `late FILE`
//! the disk's driver; `/dev/console`, which the kernel opens for PID 1 before anything is mounted.

use std::fs;
use std::path::Path;

use crate::error::{Doing, Error};
use crate::kernel::Kernel;

/// Writes the initramfs for `kernel` with `init` as PID 1 to `path`.
///
/// # Errors
///
/// If a file cannot be read or written.
pub fn write(path: &Path, init: &Path, kernel: &Kernel) -> Result<(), Error> {
    let mut archive = Archive::new();
    for folder in ["dev", "proc", "sys", "mnt", "modules"] {
        archive.folder(folder);
    }
    archive.character_device("dev/console", 5, 1);
    archive.file("init", 0o755, &read(init)?);
    let mut order = String::new();
    for module in &kernel.modules {
        let name = module.path.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("modules/{name}"), 0o644, &read(&module.path)?);
        order += &format!("{} {name}\n", if module.late { "late" } else { "early" });
    }
    archive.file("modules/order", 0o644, order.as_bytes());
    fs::write(path, archive.finish()).doing(|| format!("writing {}", path.display()))
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).doing(|| format!("reading {}", path.display()))
}

/// A cpio archive in the making. Times and owners are zero, so equal content gives equal bytes.
struct Archive {
    bytes: Vec<u8>,
    inode: u32,
}

impl Archive {
    fn new() -> Self {
        Archive { bytes: Vec::new(), inode: 0 }
    }

    fn folder(&mut self, name: &str) {
        self.entry(name, 0o040_755, (0, 0), &[]);
    }

    fn file(&mut self, name: &str, mode: u32, content: &[u8]) {
        self.entry(name, 0o100_000 | mode, (0, 0), content);
    }

    fn character_device(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(name, 0o020_600, (major, minor), &[]);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.inode += 1;
        let size = u32::try_from(content.len()).expect("no file of an initramfs has 4 GiB");
        // inode, mode, uid, gid, links, mtime, size, dev major and minor, device major and minor, name length, checksum
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name.len() as u32 + 1, 0]
            .map(|field| format!("{field:08x}"));
        self.bytes.extend(b"070701");
        self.bytes.extend(fields.concat().as_bytes());
        self.bytes.extend(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_and_contents_start_at_multiples_of_four() {
        let mut archive = Archive::new();
        archive.character_device("dev/console", 5, 1);
        archive.file("init", 0o755, b"hello");
        let bytes = archive.finish();
        let heads: Vec<_> = (0..bytes.len() - 5).filter(|at| &bytes[*at..at + 6] == b"070701").collect();
        assert_eq!(heads, [0, 124, 248]);
        assert_eq!(&bytes[124 + 110..124 + 115], b"init\0");
        assert_eq!(&bytes[124 + 116..124 + 121], b"hello");
        assert!(bytes.ends_with(b"TRAILER!!!\0\0\0\0"));
    }
}
