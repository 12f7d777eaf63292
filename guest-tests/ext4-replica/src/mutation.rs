//! Planted mistakes: a replica that is wrong on purpose, so that a judge that notices nothing is noticed.
//!
//! Each is one deviation at one place of the path. They are never part of a dialect.

/// One planted mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutation {
    /// `ext4_put_io_end_defer` does nothing when a bio calls it.
    SkipDeferredPut,
    /// `ext4_get_io_end` does not count.
    GetNotCounted,
    /// An UNWRITTEN io_end is released by its last deferred put, without a conversion.
    ReleaseWithoutConvert,
    /// `ext4_end_io_end` releases first and converts then.
    ReleaseBeforeConvert,
    /// A conversion covers one block less.
    ConvertOneBlockLess,
    /// The conversion is done twice.
    ConvertTwice,
    /// A failed bio keeps its io_end from being converted.
    NoConvertAfterError,
    /// UNWRITTEN is not set when an unwritten extent is mapped.
    UnwrittenFlagLost,
    /// The work is not queued when the list was empty.
    WorkNotQueued,
    /// The worker takes the io_ends last in, first out.
    WorkerTakesLastFirst,
    /// A failed bio leaves no error on the mapping.
    MappingErrorDropped,
    /// A bio's error is not seen.
    BioErrorDropped,
    /// Folios of an UNWRITTEN io_end leave writeback before the conversion.
    FoliosEndEarly,
    /// Chained bios are finished first in, first out.
    FinishFirstBioFirst,
    /// A folio leaves writeback twice.
    FolioEndsTwice,
    /// A folio whose writeback was begun and for which nothing was written stays under writeback.
    EmptyFolioStays,
    /// An io_end begins with two references.
    BornWithTwo,
    /// A bio ends with its first answered request.
    BioEndsWithFirstRequest,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Mutation; 18] = [
        Mutation::SkipDeferredPut,
        Mutation::GetNotCounted,
        Mutation::ReleaseWithoutConvert,
        Mutation::ReleaseBeforeConvert,
        Mutation::ConvertOneBlockLess,
        Mutation::ConvertTwice,
        Mutation::NoConvertAfterError,
        Mutation::UnwrittenFlagLost,
        Mutation::WorkNotQueued,
        Mutation::WorkerTakesLastFirst,
        Mutation::MappingErrorDropped,
        Mutation::BioErrorDropped,
        Mutation::FoliosEndEarly,
        Mutation::FinishFirstBioFirst,
        Mutation::FolioEndsTwice,
        Mutation::EmptyFolioStays,
        Mutation::BornWithTwo,
        Mutation::BioEndsWithFirstRequest,
    ];

    /// Its name on a command line.
    pub fn name(self) -> &'static str {
        match self {
            Mutation::SkipDeferredPut => "skip_deferred_put",
            Mutation::GetNotCounted => "get_not_counted",
            Mutation::ReleaseWithoutConvert => "release_without_convert",
            Mutation::ReleaseBeforeConvert => "release_before_convert",
            Mutation::ConvertOneBlockLess => "convert_one_block_less",
            Mutation::ConvertTwice => "convert_twice",
            Mutation::NoConvertAfterError => "no_convert_after_error",
            Mutation::UnwrittenFlagLost => "unwritten_flag_lost",
            Mutation::WorkNotQueued => "work_not_queued",
            Mutation::WorkerTakesLastFirst => "worker_takes_last_first",
            Mutation::MappingErrorDropped => "mapping_error_dropped",
            Mutation::BioErrorDropped => "bio_error_dropped",
            Mutation::FoliosEndEarly => "folios_end_early",
            Mutation::FinishFirstBioFirst => "finish_first_bio_first",
            Mutation::FolioEndsTwice => "folio_ends_twice",
            Mutation::EmptyFolioStays => "empty_folio_stays",
            Mutation::BornWithTwo => "born_with_two",
            Mutation::BioEndsWithFirstRequest => "bio_ends_with_first_request",
        }
    }

    /// The one of that name.
    pub fn by_name(name: &str) -> Option<Mutation> {
        Mutation::ALL.into_iter().find(|mutation| mutation.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_has_a_name_of_its_own_and_is_found_by_it() {
        let names: BTreeSet<_> = Mutation::ALL.iter().map(|mutation| mutation.name()).collect();
        assert_eq!(names.len(), Mutation::ALL.len());
        for mutation in Mutation::ALL {
            assert_eq!(Mutation::by_name(mutation.name()), Some(mutation));
        }
    }
}
