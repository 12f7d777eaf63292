//! repro.sh: one file that shows a failure again, on any machine that has `guest-tests`.
//!
//! The scenario is inside, so the file can be sent by itself. It ends as `guest-tests run` does: 1 where the failure shows,
//! 0 where it does not, 4 where something is missing.

use crate::show;
use std::path::Path;

/// What goes into it.
#[derive(Clone, Copy, Debug)]
pub struct Repro<'a> {
    /// The scenario's name.
    pub name: &'a str,
    /// The failure, in words.
    pub signature: &'a str,
    /// The scenario file's text.
    pub scenario: &'a str,
    /// Options for `guest-tests run`, each with a blank in front.
    pub options: &'a str,
    /// Where `guest-tests` was when this was written; used if it is nowhere else.
    pub program: &'a Path,
}

/// The text of repro.sh.
pub fn text(repro: &Repro<'_>) -> String {
    let Repro { name, signature, scenario, options, program } = repro;
    let program = show::quote(&program.display().to_string());
    // What a person wrote may hold a line break; a comment may not.
    let [name, signature] = [name, signature].map(|text| text.replace(['\n', '\r'], " "));
    format!(
        r#"#!/bin/sh
# Shows a failure again: {name}
#   {signature}
# Usage: ./repro.sh [FURTHER OPTIONS OF guest-tests run]
# Ends as guest-tests run does: 1 the failure shows, 0 it does not, 3 not judged, 4 something is missing.
# GUEST_TESTS: the program (else: in PATH, else where this was written). OUT: a folder to keep the run in.
set -u
missing() {{ echo "repro.sh: $1" >&2; exit 4; }}
program=${{GUEST_TESTS:-$(command -v guest-tests || echo {program})}}
command -v "$program" >/dev/null || missing "there is no $program; run scripts/build and set GUEST_TESTS"
command -v qemu-system-x86_64 >/dev/null || missing "qemu-system-x86_64 is not installed; run scripts/setup"
scratch=$(mktemp -d) || missing "no folder for the run can be made"
trap 'rm -rf "$scratch"' EXIT
cat >"$scratch/scenario.json" <<'END_OF_SCENARIO' || missing "$scratch cannot be written"
{scenario}
END_OF_SCENARIO
"$program" run "$scratch/scenario.json" --out "${{OUT:-$scratch/run}}"{options} "$@"
"#,
        scenario = scenario.trim_end(),
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends there")]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    fn written(dir: &Path, scenario: &str) -> std::path::PathBuf {
        let repro = Repro {
            name: "it's one\nof two",
            signature: "finding: stale-data-read",
            scenario,
            options: " --kernel 6.1",
            program: Path::new("/nowhere/guest-tests"),
        };
        let path = dir.join("repro.sh");
        std::fs::write(&path, text(&repro)).unwrap();
        path
    }

    fn executable(dir: &Path, name: &str, text: &str) {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Its arguments, and the scenario as it got it; then the exit code of a failure.
    const FAKE: &str = "#!/bin/sh\nshift; cat \"$1\"; shift 3; echo \"$@\"; exit 1\n";

    #[test]
    fn it_hands_over_the_scenario_and_ends_as_the_run_does() {
        let dir = tempfile::tempdir().unwrap();
        executable(dir.path(), "guest-tests", FAKE);
        executable(dir.path(), "qemu-system-x86_64", "#!/bin/sh\n");
        let script = written(dir.path(), "{\"why\": \"$HOME and `date` and 'quotes'\"}\n");
        let path = format!("{}:/usr/bin:/bin", dir.path().display());
        let ended = Command::new("sh").arg(&script).arg("--accel").arg("tcg").env("PATH", path).output().unwrap();
        assert_eq!(ended.status.code(), Some(1), "{}", String::from_utf8_lossy(&ended.stderr));
        let said = String::from_utf8(ended.stdout).unwrap();
        assert_eq!(said, "{\"why\": \"$HOME and `date` and 'quotes'\"}\n--kernel 6.1 --accel tcg\n");
    }

    #[test]
    fn what_is_missing_is_named_and_ends_it_with_4() {
        let dir = tempfile::tempdir().unwrap();
        let script = written(dir.path(), "{}");
        let ended = Command::new("/bin/sh").arg(&script).env("PATH", dir.path()).output().unwrap();
        assert_eq!(ended.status.code(), Some(4));
        let said = String::from_utf8(ended.stderr).unwrap();
        assert!(said.contains("there is no /nowhere/guest-tests; run scripts/build"), "{said}");
    }
}
