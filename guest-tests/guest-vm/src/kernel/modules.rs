//! Which modules a virtio guest has to load, from the kernel's own files.
//!
//! Wanted: the transport, the ports, the disk, and ext4. What is built in is skipped, what a module depends on
//! (the `depends=` of its .modinfo, and the `softdep=pre:` where such a module is there) comes before it. Compressed modules are unpacked, for the guest has no tools.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Module, files_below, unpack};
use crate::child;
use crate::error::{Doing, Error};

/// In this order; the disk's driver last and late, so that probes see its first request.
const EARLY: [&str; 3] = ["virtio_pci", "virtio_console", "ext4"];
const LATE: &str = "virtio_blk";

/// Modules in loading order. Without a tree everything must be built in.
pub fn resolve(tree: Option<&Path>, folder: &Path, release: &str) -> Result<Vec<Module>, Error> {
    let Some(tree) = tree else { return Ok(Vec::new()) };
    let mut resolver = Resolver { index: index(tree), unpacked: folder.join("modules"), order: Vec::new() };
    let built_in = built_in(tree);
    for name in EARLY.into_iter().chain([LATE]) {
        if !built_in.contains(&name.to_owned()) {
            resolver.add(name, name == LATE, release)?;
        }
    }
    Ok(resolver.order.into_iter().map(|(_, module)| module).collect())
}

struct Resolver {
    index: BTreeMap<String, PathBuf>,
    unpacked: PathBuf,
    order: Vec<(String, Module)>,
}

impl Resolver {
    fn add(&mut self, name: &str, late: bool, release: &str) -> Result<(), Error> {
        if self.order.iter().any(|(known, _)| known == name) {
            return Ok(());
        }
        let Some(path) = self.index.get(name).cloned() else {
            let why = format!("it brings neither the module {name} nor a modules.builtin that names it");
            return Err(Error::NoKernel { spec: release.into(), why });
        };
        let path = unpack(&path, name, &self.unpacked)?;
        let bytes = fs::read(&path).doing(|| format!("reading {}", path.display()))?;
        for wanted in soft_depends(&bytes) {
            // An algorithm (crypto-crc32c), asked for by name at run time; in a guest nobody could load it then. It may be
            // built in.
            let algorithm = wanted.strip_prefix("crypto_").unwrap_or(&wanted);
            let names = [wanted.clone(), format!("{algorithm}_generic")];
            let known = names.into_iter().find(|name| self.index.contains_key(name));
            known.map_or(Ok(()), |name| self.add(&name, false, release))?;
        }
        for needed in depends(&bytes) {
            // What the disk alone needs may be loaded early: it starts no request.
            self.add(&needed, false, release)?;
        }
        self.order.push((name.into(), Module { path, late }));
        Ok(())
    }
}

/// Every module file of the tree by module name; `-` and `_` mean the same.
fn index(tree: &Path) -> BTreeMap<String, PathBuf> {
    let roots =
        ["lib/modules", "usr/lib/modules"].map(|below| tree.join(below)).into_iter().filter(|path| path.is_dir());
    let mut roots: Vec<PathBuf> = roots.collect();
    if roots.is_empty() {
        roots.push(tree.to_owned());
    }
    let files = roots.iter().flat_map(|root| files_below(root, 12));
    files.filter_map(|path| Some((module_name(&path)?, path))).collect()
}

fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let stem = name.strip_suffix(".ko").or_else(|| name.rsplit_once(".ko.").map(|(stem, _)| stem))?;
    Some(stem.replace('-', "_"))
}

fn built_in(tree: &Path) -> Vec<String> {
    let lists =
        files_below(tree, 5).into_iter().filter(|path| path.file_name().is_some_and(|name| name == "modules.builtin"));
    let lines = lists.filter_map(|list| fs::read_to_string(list).ok());
    lines.flat_map(|text| text.lines().filter_map(|line| module_name(Path::new(line))).collect::<Vec<_>>()).collect()
}

/// The names after `depends=` in a module's .modinfo.
fn depends(module: &[u8]) -> Vec<String> {
    names(module, b"\0depends=", ',')
}

/// Those after `softdep=pre:`.
fn soft_depends(module: &[u8]) -> Vec<String> {
    names(module, b"\0softdep=pre:", ' ')
}

/// .modinfo is a list of zero-ended strings.
fn names(module: &[u8], key: &[u8], between: char) -> Vec<String> {
    let Some(at) = module.windows(key.len()).position(|window| window == key) else { return Vec::new() };
    let value = module[at + key.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value);
    names.split(between).filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

fn unpack(path: &Path, name: &str, into: &Path) -> Result<PathBuf, Error> {
    let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
    if extension == "ko" {
        return Ok(path.to_owned());
    }
    fs::create_dir_all(into).doing(|| format!("creating {}", into.display()))?;
    let bytes = match extension.as_str() {
        "zst" => unpack::zstd(&fs::read(path).doing(|| format!("reading {}", path.display()))?, path)?,
        "gz" => child::output(Command::new("gzip").arg("-dc").arg(path), "gzip")?,
        _ => child::output(Command::new("xz").arg("-dc").arg(path), "xz-utils")?,
    };
    let to = into.join(format!("{name}.ko"));
    fs::write(&to, bytes).doing(|| format!("writing {}", to.display()))?;
    Ok(to)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;

    fn tree(modules: &[(&str, &str)], built_in: &str) -> tempfile::TempDir {
        let tree = tempfile::tempdir().unwrap();
        let folder = tree.path().join("lib/modules/1.2/kernel");
        fs::create_dir_all(&folder).unwrap();
        for (name, depends) in modules {
            fs::write(folder.join(format!("{name}.ko")), format!("ELF\0license=GPL\0depends={depends}\0name=x\0"))
                .unwrap();
        }
        fs::write(tree.path().join("lib/modules/1.2/modules.builtin"), built_in).unwrap();
        tree
    }

    fn order(tree: &tempfile::TempDir) -> Vec<String> {
        let modules = resolve(Some(tree.path()), tree.path(), "1.2").unwrap();
        let word = |module: &Module| {
            format!("{}{}", module_name(&module.path).unwrap(), if module.late { " late" } else { "" })
        };
        modules.iter().map(word).collect()
    }

    #[test]
    fn what_a_module_depends_on_comes_before_it_and_the_disk_last() {
        let tree = tree(
            &[
                ("virtio_blk", "virtio,virtio_ring"),
                ("virtio_console", "virtio_ring,virtio"),
                ("virtio_pci", "virtio_ring,virtio-pci-modern-dev"),
                ("virtio-pci-modern-dev", ""),
                ("virtio_ring", ""),
                ("virtio", ""),
            ],
            "kernel/fs/ext4/ext4.ko\n",
        );
        assert_eq!(
            order(&tree),
            ["virtio_ring", "virtio_pci_modern_dev", "virtio_pci", "virtio", "virtio_console", "virtio_blk late"]
        );
    }

    #[test]
    fn an_algorithm_that_ext4_asks_for_by_name_comes_before_it_where_it_is_a_module() {
        let modules =
            [("ext4", "jbd2\0softdep=pre: crypto-crc32c"), ("jbd2", ""), ("crc32c_generic", ""), ("virtio_blk", "")];
        let tree = tree(&modules, "kernel/virtio_pci.ko\nkernel/virtio_console.ko\n");
        assert_eq!(order(&tree), ["crc32c_generic", "jbd2", "ext4", "virtio_blk late"]);
    }

    #[test]
    fn a_module_that_is_nowhere_is_named() {
        let tree = tree(&[], "kernel/virtio_pci.ko\nkernel/virtio_console.ko\nkernel/ext4.ko\n");
        let said = resolve(Some(tree.path()), tree.path(), "1.2").unwrap_err().to_string();
        assert!(said.contains("virtio_blk"), "{said}");
    }
}
