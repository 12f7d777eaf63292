//! What made the path do otherwise than its fixed form would have, on the way to where it is now.
//!
//! A switch that is on and changes nothing is no cause: [`Path::acts`](crate::page_io::Path) is called at the place where the
//! two forms part, and only when they do. A search reads from it which defect a broken property is owed to.

use crate::bug::Bug;

/// One reason for a deviation: a defect, or what a dialect does by design.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// A known defect.
    Defect(Bug),
    /// 3.11 counts a page for each page that it maps, wherever the blocks lie.
    MappedPages,
    /// 6.12 converts in `ext4_put_io_end` after an error, where its worker no longer does.
    PutConvertsAfterError,
}

impl Cause {
    /// All of them, defects first.
    pub fn all() -> impl Iterator<Item = Cause> {
        Bug::ALL.into_iter().map(Cause::Defect).chain([Cause::MappedPages, Cause::PutConvertsAfterError])
    }

    /// Its name on a command line: that of the switch.
    pub fn name(self) -> &'static str {
        match self {
            Cause::Defect(bug) => bug.name(),
            Cause::MappedPages => "mapped_pages",
            Cause::PutConvertsAfterError => "put_converts_after_error",
        }
    }

    /// The one of that name.
    pub fn by_name(name: &str) -> Option<Cause> {
        Cause::all().find(|cause| cause.name() == name)
    }

    fn bit(self) -> u32 {
        match self {
            Cause::Defect(bug) => 1 << bug as u8,
            Cause::MappedPages => 1 << 30,
            Cause::PutConvertsAfterError => 1 << 31,
        }
    }
}

/// A set of causes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Causes(u32);

impl Causes {
    /// Adds one.
    pub fn add(&mut self, cause: Cause) {
        self.0 |= cause.bit();
    }

    /// Exactly these.
    pub fn of(causes: impl IntoIterator<Item = Cause>) -> Causes {
        let mut set = Causes::default();
        causes.into_iter().for_each(|cause| set.add(cause));
        set
    }

    /// Whether this one is among them.
    pub fn has(self, cause: Cause) -> bool {
        self.0 & cause.bit() != 0
    }

    /// No known cause at all.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether the other set has all of these.
    pub fn is_subset(self, other: Causes) -> bool {
        self.0 & !other.0 == 0
    }

    /// Those in the set, in the order of [`Cause::all`].
    pub fn iter(self) -> impl Iterator<Item = Cause> {
        Cause::all().filter(move |cause| self.has(*cause))
    }
}

impl std::fmt::Display for Causes {
    /// Names with `+` between them, or `none`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.iter().map(Cause::name).collect();
        f.write_str(if names.is_empty() { "none" } else { "" })?;
        f.write_str(&names.join("+"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_name_and_a_place_of_its_own() {
        for cause in Cause::all() {
            assert_eq!(Cause::by_name(cause.name()), Some(cause));
            assert_eq!(Causes::of([cause]).iter().collect::<Vec<_>>(), [cause]);
        }
    }

    #[test]
    fn a_set_says_its_names() {
        let two = Causes::of([Cause::MappedPages, Cause::Defect(Bug::RangeSum)]);
        assert_eq!((two.to_string(), Causes::default().to_string()), ("range_sum+mapped_pages".into(), "none".into()));
        assert!(Causes::of([Cause::MappedPages]).is_subset(two) && !two.is_subset(Causes::default()));
    }
}
