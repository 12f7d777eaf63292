//! The kernels kept on this machine.
//!
//! `kernels/NAME/` holds one kernel with `kernel.json`, its description with paths relative to the folder. A folder is
//! filled under another name and renamed; a lock keeps two runs from filling at once. A kernel of one's own stays where it is,
//! and its description leads there; one that leads nowhere any more is made again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use sha2::{Digest, Sha256};

use super::{Kernel, KernelSpec, apt, deb_fields, describe, pin_of, row_of, unpack_deb};
use crate::disk::sha256;
use crate::error::{Doing, Error};

/// Where kernels are kept if nothing else is said: `guest-tests` under the user's cache folder.
#[must_use]
pub fn default_cache() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")));
    base.unwrap_or_else(std::env::temp_dir).join("guest-tests")
}

pub fn cached(spec: &KernelSpec, cache: &Path) -> Result<Option<Kernel>, Error> {
    read(&entry(spec, cache)?)
}

pub fn obtain(spec: &KernelSpec, cache: &Path) -> Result<Kernel, Error> {
    let entry = entry(spec, cache)?;
    if let Some(kernel) = read(&entry)? {
        return Ok(kernel);
    }
    let _lock = lock(cache)?;
    // Another run may have filled it while this one waited.
    if let Some(kernel) = read(&entry)? {
        return Ok(kernel);
    }
    remove_half_filled(cache);
    let filling = tempfile::Builder::new().prefix("filling-").tempdir_in(cache);
    let filling = filling.doing(|| format!("creating a folder in {}", cache.display()))?;
    let kernel = keep_what_is_used(fill(spec, filling.path())?, filling.path())?;
    write(&kernel, filling.path())?;
    // Kept from here on: a rename moves it away from the guard that would delete it.
    let filled = filling.keep();
    let place = || format!("moving the kernel to {}", entry.display());
    fs::create_dir_all(entry.parent().unwrap_or(cache)).doing(place)?;
    if entry.exists() {
        fs::remove_dir_all(&entry).doing(place)?;
    }
    fs::rename(&filled, &entry).doing(place)?;
    read(&entry)?.ok_or_else(|| Error::BadKernel { path: entry.clone(), why: "it was filled and is empty".into() })
}

/// What a kill left behind. Only called with the lock held: nobody else is filling.
fn remove_half_filled(cache: &Path) {
    let Ok(entries) = fs::read_dir(cache) else { return };
    for entry in entries.filter_map(Result::ok) {
        if entry.file_name().to_string_lossy().starts_with("filling-") {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A stock kernel is kept by its name, a kernel of one's own by its content and its place: it may be rebuilt at any time, and
/// its modules lie beside it.
fn entry(spec: &KernelSpec, cache: &Path) -> Result<PathBuf, Error> {
    let name = match spec {
        KernelSpec::Series(name) | KernelSpec::Release(name) => name.clone(),
        KernelSpec::Path(path) => {
            let path = path.canonicalize().doing(|| format!("looking for the kernel {}", path.display()))?;
            let image = super::find_image(&path, spec)?;
            let place = Sha256::digest(path.as_os_str().as_encoded_bytes());
            let place: String = place.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
            format!("own-{}-{place}", &sha256(&image)?[..16])
        }
    };
    Ok(cache.join("kernels").join(name))
}

fn lock(cache: &Path) -> Result<Flock<File>, Error> {
    fs::create_dir_all(cache).doing(|| format!("creating the cache folder {}", cache.display()))?;
    let path = cache.join("lock");
    let doing = || format!("locking {}", path.display());
    let file = File::options().create(true).truncate(false).write(true).open(&path).doing(doing)?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| std::io::Error::from(error)).doing(doing)
}

fn fill(spec: &KernelSpec, folder: &Path) -> Result<Kernel, Error> {
    let tree = folder.join("tree");
    match spec {
        KernelSpec::Path(path) if path.extension().is_some_and(|extension| extension == "deb") => {
            unpack_deb(path, &tree)?;
            let (package, version) = deb_fields(path)?;
            Ok(Kernel { package: Some(package), version: Some(version), ..describe(&tree, folder, spec)? })
        }
        KernelSpec::Path(path) => {
            let path = path.canonicalize().doing(|| format!("looking for the kernel {}", path.display()))?;
            describe(&path, folder, spec)
        }
        KernelSpec::Series(name) | KernelSpec::Release(name) => {
            let row = row_of(spec, name)?;
            let downloads =
                tempfile::tempdir_in(folder).doing(|| format!("creating a folder in {}", folder.display()))?;
            let debs = match (pin_of(&row, spec), spec) {
                (Some(pin), _) => apt::download_pinned(&row, pin, downloads.path())?,
                (None, KernelSpec::Release(release)) => {
                    apt::download(&row, &format!("linux-image-{release}"), spec, downloads.path())?
                }
                (None, _) => apt::download(&row, &row.package, spec, downloads.path())?,
            };
            debs.iter().try_for_each(|deb| unpack_deb(deb, &tree))?;
            let (package, version) = deb_fields(&debs[0])?;
            Ok(Kernel { package: Some(package), version: Some(version), ..describe(&tree, folder, spec)? })
        }
    }
}

/// A package unpacked is 100 MiB, of which a guest uses one image and seven modules.
fn keep_what_is_used(mut kernel: Kernel, folder: &Path) -> Result<Kernel, Error> {
    let tree = folder.join("tree");
    let modules = folder.join("modules");
    let doing = || format!("arranging the kernel in {}", folder.display());
    fs::create_dir_all(&modules).doing(doing)?;
    let image_is_elf = kernel.vmlinux == kernel.image;
    let image = [(&mut kernel.image, folder)];
    let all = image.into_iter().chain(kernel.modules.iter_mut().map(|module| (&mut module.path, modules.as_path())));
    for (path, to) in all.filter(|(path, _)| path.starts_with(&tree)) {
        let kept = to.join(path.file_name().unwrap_or_default());
        fs::rename(&*path, &kept).doing(doing)?;
        *path = kept;
    }
    if image_is_elf {
        kernel.vmlinux.clone_from(&kernel.image);
    }
    if tree.exists() {
        fs::remove_dir_all(&tree).doing(doing)?;
    }
    Ok(kernel)
}

const DESCRIPTION: &str = "kernel.json";

/// Paths inside the folder are kept relative, for the folder is about to be renamed.
fn write(kernel: &Kernel, folder: &Path) -> Result<(), Error> {
    let relative = map_paths(kernel, |path| path.strip_prefix(folder).map_or_else(|_| path.to_owned(), Path::to_owned));
    let text = serde_json::to_vec_pretty(&relative).expect("a kernel's description has only strings");
    let path = folder.join(DESCRIPTION);
    fs::write(&path, text).doing(|| format!("writing {}", path.display()))
}

fn read(entry: &Path) -> Result<Option<Kernel>, Error> {
    let path = entry.join(DESCRIPTION);
    let text = match fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.doing(|| format!("reading {}", path.display()))?,
    };
    let bad =
        |error: serde_json::Error| Error::BadKernel { path: path.clone(), why: format!("{error}; remove its folder") };
    let kernel: Kernel = serde_json::from_slice(&text).map_err(bad)?;
    let kernel = Kernel { folder: entry.to_owned(), ..map_paths(&kernel, |path| entry.join(path)) };
    let modules_there = kernel.modules.iter().all(|module| module.path.exists());
    let whole = modules_there && kernel.image.exists() && kernel.vmlinux.exists();
    Ok(whole.then_some(kernel))
}

fn map_paths(kernel: &Kernel, map: impl Fn(&Path) -> PathBuf) -> Kernel {
    let mut mapped = kernel.clone();
    mapped.image = map(&kernel.image);
    mapped.vmlinux = map(&kernel.vmlinux);
    for module in &mut mapped.modules {
        module.path = map(&module.path);
    }
    mapped
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::super::Module;
    use super::*;

    #[test]
    fn a_kernel_whose_files_were_taken_away_is_not_in_the_cache() {
        let (own, entry) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = |name: &str| {
            let path = own.path().join(name);
            fs::write(&path, name).unwrap();
            path
        };
        let module = file("virtio.ko");
        let kernel = Kernel {
            series: "6.1".into(),
            package: None,
            version: None,
            release: "6.1.0-own".into(),
            image_hash: "0".repeat(64),
            image: file("vmlinux"),
            vmlinux: file("vmlinux"),
            modules: vec![Module { path: module.clone(), late: false }],
            folder: entry.path().to_owned(),
        };
        write(&kernel, entry.path()).unwrap();
        assert_eq!(read(entry.path()).unwrap(), Some(kernel));
        fs::remove_file(module).unwrap();
        assert_eq!(read(entry.path()).unwrap(), None);
    }

    #[test]
    fn two_trees_with_the_same_image_have_entries_of_their_own() {
        let entry_of = |tree: &tempfile::TempDir| {
            fs::write(tree.path().join("vmlinux"), "the same").unwrap();
            entry(&KernelSpec::Path(tree.path().to_owned()), Path::new("cache")).unwrap()
        };
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert_ne!(entry_of(&one), entry_of(&other));
        assert_eq!(entry_of(&one), entry_of(&one));
    }
}
