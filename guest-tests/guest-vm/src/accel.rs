//! KVM or TCG. `auto` takes KVM only where the CPU really virtualises.
//!
//! A `/dev/kvm` that opens proves little: without hardware virtualisation a guest on it is slower than
//! under TCG, or hangs. So the CPU's flags are asked too, and the answer says why it fell as it did.

use std::fs::{self, File};

use crate::error::Error;

/// What the user asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Accel {
    /// KVM where it works, else TCG.
    #[default]
    Auto,
    /// KVM or an error.
    Kvm,
    /// TCG.
    Tcg,
}

impl std::str::FromStr for Accel {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Accel::Auto),
            "kvm" => Ok(Accel::Kvm),
            "tcg" => Ok(Accel::Tcg),
            other => Err(format!("{other:?} is none of auto, kvm, tcg")),
        }
    }
}

/// What is taken, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccelChoice {
    /// KVM, else TCG.
    pub kvm: bool,
    /// One sentence for doctor and the run's log.
    pub why: String,
}

impl AccelChoice {
    /// QEMU's word.
    #[must_use]
    pub fn name(&self) -> &'static str {
        if self.kvm { "kvm" } else { "tcg" }
    }

    pub(crate) fn cpu(&self) -> &'static str {
        if self.kvm { "host" } else { "max" }
    }
}

impl Accel {
    /// Looks at the machine.
    ///
    /// # Errors
    ///
    /// [`Error::NoKvm`] if KVM was asked for by name and cannot be had.
    pub fn choose(self) -> Result<AccelChoice, Error> {
        let opened = File::options().read(true).write(true).open("/dev/kvm").map(drop).map_err(|e| e.to_string());
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        self.decide(opened, virtualises(&cpuinfo))
    }

    fn decide(self, dev_kvm: Result<(), String>, cpu_virtualises: bool) -> Result<AccelChoice, Error> {
        let missing = match dev_kvm {
            Err(error) => Some(format!("/dev/kvm cannot be opened ({error})")),
            Ok(()) if !cpu_virtualises => Some("the CPU has neither vmx nor svm, though /dev/kvm opens".into()),
            Ok(()) => None,
        };
        match (self, missing) {
            (Accel::Tcg, _) => Ok(AccelChoice { kvm: false, why: "TCG, as asked for".into() }),
            (Accel::Kvm, Some(why)) => Err(Error::NoKvm { why }),
            (Accel::Auto, Some(why)) => Ok(AccelChoice { kvm: false, why: format!("TCG: {why}") }),
            (_, None) => Ok(AccelChoice { kvm: true, why: "KVM: /dev/kvm opens and the CPU virtualises".into() }),
        }
    }
}

fn virtualises(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().filter(|line| line.starts_with("flags")).flat_map(str::split_whitespace);
    flags.into_iter().any(|flag| flag == "vmx" || flag == "svm")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn auto_takes_kvm_only_if_device_and_cpu_agree() {
        let choose = |dev: Result<(), String>, cpu| Accel::Auto.decide(dev, cpu).map(|choice| choice.kvm).ok();
        assert_eq!(choose(Ok(()), true), Some(true));
        assert_eq!(choose(Ok(()), false), Some(false));
        assert_eq!(choose(Err("permission denied".into()), true), Some(false));
        assert!(Accel::Kvm.decide(Ok(()), false).is_err());
        assert_eq!(Accel::Tcg.decide(Ok(()), true).map(|choice| choice.kvm).ok(), Some(false));
    }

    #[test]
    fn a_flag_is_a_whole_word_of_the_flags_line() {
        assert!(virtualises("model name\t: vmx\nflags\t\t: fpu svm sse"));
        assert!(!virtualises("model name\t: vmx\nflags\t\t: fpu vmxx sse"));
    }
}
