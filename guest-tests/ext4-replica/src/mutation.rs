//! Planted mistakes: a replica that is wrong on purpose, so that a judge that notices nothing is noticed.
//!
//! Each is one deviation at one place of the path, and one line of the list below: its name, what a judge would have to look
//! at, the function, and what that does instead. The place itself asks [`Path::planted`](crate::page_io::Path::planted).
//! They are never part of a dialect: only a canary and `guest-tests mutants` plant one.

/// What a mistake shows in: the response to one kind of stimulus (docs/mutants.md has the table), or what only a search of
/// the older dialects looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ShowsIn {
    /// A task leaves `ext4_writepages`: nothing is held.
    Leave,
    /// A task asks for an io_end: born, or the allocation fails.
    Birth,
    /// An extent is mapped: UNWRITTEN, and the ranges.
    Mapping,
    /// A folio is handed over: folios under writeback.
    Folios,
    /// A bio is opened and submitted: its io_end, the count, its place.
    Bio,
    /// A request is answered: the errno, and which bios end with what.
    Answer,
    /// A reference is dropped: the count, and what follows from the last one.
    Put,
    /// The worker starts: which io_ends it takes.
    Worker,
    /// A conversion: of what, when, how often, and what follows.
    Conversion,
    /// An operation ends: its errno, and folios that have left writeback by then.
    Operation,
    /// Nothing that a guest of today does: pages to bios by the path itself, direct I/O with an io_end, waiters.
    Search,
}

impl ShowsIn {
    /// All of them.
    pub const ALL: [ShowsIn; 11] = [
        ShowsIn::Leave,
        ShowsIn::Birth,
        ShowsIn::Mapping,
        ShowsIn::Folios,
        ShowsIn::Bio,
        ShowsIn::Answer,
        ShowsIn::Put,
        ShowsIn::Worker,
        ShowsIn::Conversion,
        ShowsIn::Operation,
        ShowsIn::Search,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            ShowsIn::Leave => "leave",
            ShowsIn::Birth => "birth",
            ShowsIn::Mapping => "mapping",
            ShowsIn::Folios => "folios",
            ShowsIn::Bio => "bio",
            ShowsIn::Answer => "answer",
            ShowsIn::Put => "put",
            ShowsIn::Worker => "worker",
            ShowsIn::Conversion => "conversion",
            ShowsIn::Operation => "operation",
            ShowsIn::Search => "search",
        }
    }
}

macro_rules! mutations {
    ($($variant:ident $name:literal $shows_in:ident $function:literal $what:literal;)*) => {
        /// One planted mistake.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Mutation {
            $(#[doc = concat!("`", $function, "`: ", $what, ".")] $variant,)*
        }

        impl Mutation {
            /// All of them.
            pub const ALL: &[Mutation] = &[$(Mutation::$variant,)*];

            /// Its name on a command line.
            pub fn name(self) -> &'static str {
                match self { $(Mutation::$variant => $name,)* }
            }

            /// What it shows in.
            pub fn shows_in(self) -> ShowsIn {
                match self { $(Mutation::$variant => ShowsIn::$shows_in,)* }
            }

            /// The function that is wrong.
            pub fn function(self) -> &'static str {
                match self { $(Mutation::$variant => $function,)* }
            }

            /// What it does instead.
            pub fn what(self) -> &'static str {
                match self { $(Mutation::$variant => $what,)* }
            }
        }
    };
}

mutations! {
    ReferenceKept "reference_kept" Leave "ext4_writepages" "goes on with an io_end whose reference it has dropped";

    BornWithTwo "born_with_two" Birth "ext4_init_io_end" "the count begins at 2";
    BornUnwritten "born_unwritten" Birth "ext4_init_io_end" "UNWRITTEN is set from the start";
    AllocFailedSilent "alloc_failed_silent" Birth "ext4_init_io_end" "a failed allocation is not told";

    UnwrittenFlagLost "unwritten_flag_lost" Mapping "ext4_set_io_unwritten_flag" "UNWRITTEN is not set";
    UnwrittenAlways "unwritten_always" Mapping "mpage_map_one_extent" "UNWRITTEN is set for a written extent too";
    RangeNeverLengthened "range_never_lengthened" Mapping "mpage_map_and_submit_extent" "each extent is a range of its own, also where it goes on";
    RangeLost "range_lost" Mapping "mpage_map_and_submit_extent" "an extent does not become part of the io_end once it has a range";

    EmptyFolioStays "empty_folio_stays" Folios "ext4_bio_write_page" "a folio of which nothing is written stays under writeback";
    MarksFirstBufferOnly "marks_first_buffer_only" Folios "ext4_bio_write_page" "only the first buffer that is written is marked beforehand";
    FolioEndsTwice "folio_ends_twice" Folios "folio_end_writeback" "a folio leaves writeback twice";
    FirstBufferEndsFolio "first_buffer_ends_folio" Folios "ext4_finish_bio" "a folio leaves writeback with its first segment";
    LastSegmentStays "last_segment_stays" Folios "ext4_finish_bio" "the last segment of a bio is not finished";
    FailedFoliosStay "failed_folios_stay" Folios "ext4_finish_bio" "folios of a failed bio stay under writeback";

    GetNotCounted "get_not_counted" Bio "ext4_get_io_end" "the count is not raised";
    GetCountsTwice "get_counts_twice" Bio "ext4_get_io_end" "the count is raised by 2";
    BioOfFirstIoEnd "bio_of_first_io_end" Bio "io_submit_init_bio" "every bio belongs to the first io_end";
    SubmitOneSectorShort "submit_one_sector_short" Bio "ext4_io_submit" "a bio is submitted with one sector less";
    WrongSync "wrong_sync" Bio "ext4_io_submit_init" "REQ_SYNC exactly where it should not be";
    HoleEndsBio "hole_ends_bio" Bio "ext4_bio_write_page" "a hole ends the open bio in every dialect";

    RequestErrorDropped "request_error_dropped" Answer "virtblk_result" "a failed request is told as good";
    UnsuppIsEio "unsupp_is_eio" Answer "virtblk_result" "UNSUPP is -EIO";
    BioErrorDropped "bio_error_dropped" Answer "ext4_end_bio" "a bio's error is not seen";
    BioEndsWithFirstRequest "bio_ends_with_first_request" Answer "bio_endio" "a bio ends with its first answered request";
    LastErrorStays "last_error_stays" Answer "__bio_chain_endio" "of several errors of a bio the last to arrive stays";
    FirstErrorStays "first_error_stays" Answer "req_bio_endio" "the last piece does not write over an error that is there";
    FrontErrorLost "front_error_lost" Answer "__bio_chain_endio" "only the last piece's error counts";
    MergedBioForgotten "merged_bio_forgotten" Answer "blk_update_request" "only the first bio of a merged request ends";
    MergedBiosEndBackwards "merged_bios_end_backwards" Answer "blk_update_request" "the bios of a merged request end backwards";
    RequeueForgotten "requeue_forgotten" Answer "blk_mq_requeue_request" "a requeued request is still with the driver";

    SkipDeferredPut "skip_deferred_put" Put "ext4_end_bio" "a bio's reference is not put";
    PutCountsTwice "put_counts_twice" Put "ext4_put_io_end" "a put lowers the count by 2";
    LastAtOne "last_at_one" Put "ext4_put_io_end_defer" "the last put is taken to be the one that leaves 1";
    ReleaseWithoutConvert "release_without_convert" Put "ext4_put_io_end_defer" "an UNWRITTEN io_end is released, not queued";
    FailedNotQueued "failed_not_queued" Put "ext4_put_io_end_defer" "an io_end of which a bio failed is released, not queued";
    WorkNotQueued "work_not_queued" Put "ext4_add_complete_io" "the work is not queued when the list was empty";
    WorkAlwaysQueued "work_always_queued" Put "ext4_add_complete_io" "the work is queued though the list was not empty";
    InlineNotConverted "inline_not_converted" Put "ext4_put_io_end" "the last put of the submitter does not convert";
    InlineQueues "inline_queues" Put "ext4_put_io_end" "the last put of the submitter leaves the conversion to the worker";
    AbortIgnored "abort_ignored" Put "ext4_io_end_defer_completion" "data_err=abort sends no failed io_end to the worker";
    FinishBeforePut "finish_before_put" Put "ext4_end_bio" "folios leave writeback before the put of their bio";

    WorkerTakesLastFirst "worker_takes_last_first" Worker "ext4_do_flush_completed_IO" "last in, first out";
    WorkerTakesOne "worker_takes_one" Worker "ext4_do_flush_completed_IO" "takes the first io_end alone off the list";

    ConvertOneBlockLess "convert_one_block_less" Conversion "ext4_convert_unwritten_io_end_vec" "a block less than the range";
    ConvertOneBlockOn "convert_one_block_on" Conversion "ext4_convert_unwritten_io_end_vec" "a range one block further on";
    ConvertTwice "convert_twice" Conversion "ext4_convert_unwritten_extents" "twice";
    FirstRangeOnly "first_range_only" Conversion "ext4_convert_unwritten_io_end_vec" "the first range alone";
    RangesLastFirst "ranges_last_first" Conversion "ext4_convert_unwritten_io_end_vec" "the last range first";
    NoConvertAfterError "no_convert_after_error" Conversion "ext4_end_io_end" "a failed bio keeps its io_end from being converted";
    ConvertAllTheSame "convert_all_the_same" Conversion "ext4_end_io_end" "converts though a bio failed, also where the kernel no longer does";
    ReleaseBeforeConvert "release_before_convert" Conversion "ext4_end_io_end" "releases first and converts then";
    NeverReleased "never_released" Conversion "ext4_end_io_end" "does not release";
    ReleasedTwice "released_twice" Conversion "ext4_release_io_end" "twice";
    FoliosEndEarly "folios_end_early" Conversion "ext4_end_bio" "folios of an UNWRITTEN io_end leave writeback before the conversion";
    FinishBeforeRelease "finish_before_release" Conversion "ext4_release_io_end" "chained bios are finished first, then the io_end is released";
    FinishFirstBioFirst "finish_first_bio_first" Conversion "ext4_release_io_end" "chained bios are finished first in, first out";
    ChainedBioForgotten "chained_bio_forgotten" Conversion "ext4_end_bio" "the second bio is not chained";

    MappingErrorDropped "mapping_error_dropped" Operation "mapping_set_error" "a failed bio leaves no error on the mapping";
    EndBioLeavesMapping "end_bio_leaves_mapping" Operation "ext4_end_bio" "leaves the mapping's error to ext4_finish_bio";
    FirstErrorTold "first_error_told" Operation "mapping_set_error" "an error that has not been told is not written over";
    FinishErrnoSwapped "finish_errno_swapped" Operation "ext4_finish_bio" "-EIO where the kernel has the bio's own error, and the other way round";
    ErrorToldTwice "error_told_twice" Operation "file_check_and_advance_wb_err" "an fsync does not take the error away";
    FsyncDoubted "fsync_doubted" Operation "ext4_sync_file" "an fsync is told 0, and the result is always doubted";
    OtherFailureIgnored "other_failure_ignored" Operation "ext4_sync_file" "a failed journal write or flush is no reason to doubt an fsync";

    OwnPutSkipped "own_put_skipped" Search "mpage_da_submit_io" "the submitter keeps its reference";
    RetryForgetsBuffer "retry_forgets_buffer" Search "io_submit_add_bh" "a buffer that the full bio refused is not added to the next";
    PageStaysLocked "page_stays_locked" Search "ext4_bio_write_page" "the page is not unlocked";
    BufferFlagLost "buffer_flag_lost" Search "io_submit_add_bh" "an uninit buffer does not set UNWRITTEN";
    BufferNotCounted "buffer_not_counted" Search "io_submit_add_bh" "the io_end does not grow by the buffer";
    UnwrittenNotLowered "unwritten_not_lowered" Search "ext4_clear_io_unwritten_flag" "i_unwritten stays up";
    IoendCountNotLowered "ioend_count_not_lowered" Search "ext4_release_io_end" "i_ioend_count stays up";
    DioGetSkipped "dio_get_skipped" Search "ext4_ext_direct_IO" "the iocb has no reference of its own";
    DioPutSkipped "dio_put_skipped" Search "ext4_end_io_dio" "the iocb's reference is not put";
    SecondPutSkipped "second_put_skipped" Search "ext4_ext_direct_IO" "the iocb's reference is kept where nothing was submitted";
    DioDoneSkipped "dio_done_skipped" Search "ext4_release_io_end" "i_dio_count is not lowered";
    AioCompleteSkipped "aio_complete_skipped" Search "ext4_release_io_end" "the AIO is not completed";
    AioCompletedTwice "aio_completed_twice" Search "ext4_release_io_end" "the AIO is completed twice";
}

impl Mutation {
    /// The one of that name.
    pub fn by_name(name: &str) -> Option<Mutation> {
        Mutation::ALL.iter().copied().find(|mutation| mutation.name() == name)
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
            assert_eq!(Mutation::by_name(mutation.name()), Some(*mutation));
        }
    }

    #[test]
    fn every_response_has_a_mistake_that_shows_in_it() {
        for shows_in in ShowsIn::ALL {
            assert!(Mutation::ALL.iter().any(|mutation| mutation.shows_in() == shows_in), "{}", shows_in.name());
        }
    }
}
