//! What the loader accepts and how it refuses, over script files.
//!
//! tests/bad holds scripts with something wrong, each beside the exact lines a user sees. To rewrite those after a
//! change on purpose: `REWRITE=1 cargo test -p fault-injection --test scripts`, and read the difference.

use std::fs;
use std::path::{Path, PathBuf};

use fault_injection::{Problems, Source, load};

fn folder(name: &str) -> Vec<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let mut files: Vec<PathBuf> =
        fs::read_dir(path).expect("the folder is in the tree").map(|e| e.expect("an entry").path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    assert!(!files.is_empty(), "{name} is empty");
    files
}

fn load_file(file: &Path) -> Result<fault_injection::Loaded, Problems> {
    let text = fs::read_to_string(file).expect("readable");
    let name = file.file_name().expect("a file").to_string_lossy();
    load(&[Source { name: &name, text: &text }])
}

#[test]
fn every_bad_script_is_refused_with_all_its_problems() {
    for file in folder("tests/bad") {
        let problems = load_file(&file).expect_err("a bad script");
        let shown = format!("{problems}\n");
        let expected = file.with_extension("txt");
        if std::env::var_os("REWRITE").is_some() {
            fs::write(&expected, &shown).expect("writable");
        }
        let expected = fs::read_to_string(&expected).expect("the expected problems stand beside the script");
        assert_eq!(shown, expected, "{}", file.display());
    }
}
