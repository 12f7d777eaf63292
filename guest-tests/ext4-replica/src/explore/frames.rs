//! What a search asks of a function under way: its name, whether its next step allocates, and whether anyone else could
//! tell that the step was taken.

use crate::direct_io::{DirectIoAt, EndDirectIoAt, ReturnAt};
use crate::page_io::Path;
use crate::thread::{Convert, EndBio, EndIoEnd, FinishBio, FlushCompleted, Frame, OrFlag, Put, Release, Thread};
use crate::writeback::{AddBh, BioWritePage, SubmitAt, Submitter};

impl Frame {
    /// The kernel function that the next step belongs to.
    pub(crate) fn function(&self, path: &Path) -> &'static str {
        match self {
            Frame::InitIoEnd { .. } => "ext4_init_io_end",
            Frame::SetIoUnwrittenFlag { .. } => "ext4_set_io_unwritten_flag",
            Frame::Submit { by: Submitter::Page(_), .. } => "ext4_writepage",
            Frame::Submit { .. } if path.dialect.maps_in_writepages => "ext4_writepages",
            Frame::Submit { .. } => "mpage_da_submit_io",
            Frame::BioWritePage { .. } => "ext4_bio_write_page",
            Frame::IoSubmitAddBh { .. } => "io_submit_add_bh",
            Frame::GetIoEnd { .. } => "ext4_get_io_end",
            Frame::IoSubmit { .. } => "ext4_io_submit",
            Frame::EndBio { .. } | Frame::SetErrorFlag { .. } => "ext4_end_bio",
            Frame::FinishBio { .. } => "ext4_finish_bio",
            Frame::PutIoEndDefer { .. } => "ext4_put_io_end_defer",
            Frame::PutIoEnd { .. } => "ext4_put_io_end",
            Frame::AddCompleteIo { .. } => "ext4_add_complete_io",
            Frame::EndIoRsvWork { .. } => "ext4_end_io_work",
            Frame::DoFlushCompletedIo { .. } => "ext4_do_flush_completed_IO",
            Frame::EndIoEnd { .. } => "ext4_end_io",
            Frame::ConvertUnwrittenIoEndVec { .. } | Frame::ConvertUnwrittenExtents { .. } => {
                "ext4_convert_unwritten_extents"
            }
            Frame::ClearIoUnwrittenFlag { .. } => "ext4_clear_io_unwritten_flag",
            Frame::ReleaseIoEnd { .. } if path.dialect.io_end_per_bio => "ext4_free_io_end",
            Frame::ReleaseIoEnd { .. } => "ext4_release_io_end",
            Frame::InodeDioDone { .. } => "inode_dio_done",
            Frame::AioComplete { .. } => "aio_complete",
            Frame::DirectIo { at: DirectIoAt::GetBlock(_), .. } => "ext4_get_block_write",
            Frame::DirectIo { .. } | Frame::DirectIoReturn { .. } => "ext4_ext_direct_IO",
            Frame::EndIoDio { .. } => "ext4_end_io_dio",
        }
    }

    /// What the next step does, where no event says it.
    pub(crate) fn does(&self) -> String {
        let flag = |at: &OrFlag, what: &str| match at {
            OrFlag::Test => "looks whether UNWRITTEN is set".to_owned(),
            OrFlag::Read => format!("reads flag, to {what}"),
            OrFlag::Write(_) => format!("writes flag back, to {what}"),
            OrFlag::Count => String::new(),
        };
        match self {
            Frame::Submit { at: SubmitAt::Lock, .. } => "locks the pages".into(),
            Frame::Submit { at: SubmitAt::Init, .. } => "asks for an io_end".into(),
            Frame::Submit { at: SubmitAt::Map, .. } => "begins with the pages".into(),
            Frame::Submit { at: SubmitAt::Put(_), .. } => "has done all pages".into(),
            Frame::SetIoUnwrittenFlag { at, .. } => flag(at, "set UNWRITTEN"),
            Frame::ClearIoUnwrittenFlag { at, .. } => flag(at, "clear UNWRITTEN"),
            Frame::SetErrorFlag { at, .. } => flag(at, "set ERROR"),
            Frame::BioWritePage { page, at: BioWritePage::LookAtBuffers, .. } => {
                format!("looks at the buffers of page {page}")
            }
            Frame::BioWritePage { page, at: BioWritePage::MarkBuffers(_), .. } => {
                format!("page {page} enters writeback")
            }
            Frame::BioWritePage { page, at: BioWritePage::Unlock { .. }, .. } => format!("unlocks page {page}"),
            Frame::IoSubmitAddBh { lblk, at: AddBh::Count { .. }, .. } => {
                format!("counts block {lblk} into the io_end")
            }
            Frame::IoSubmitAddBh { lblk, .. } => format!("adds block {lblk} to a bio"),
            Frame::EndBio { at: EndBio::ChainBio, .. } => "chains the bio on the io_end".into(),
            Frame::EndBio { at: EndBio::TestFlag, .. }
            | Frame::PutIoEnd { at: Put::TestFlag, .. }
            | Frame::PutIoEndDefer { at: Put::TestFlag, .. } => "looks at UNWRITTEN".into(),
            Frame::FinishBio { at: FinishBio::ClearAsyncWrite, .. } => "the bio's buffers in a page are done".into(),
            Frame::FinishBio { .. } => "the bio is gone".into(),
            Frame::DoFlushCompletedIo { at: FlushCompleted::Splice(_) } => "takes the whole list".into(),
            Frame::DoFlushCompletedIo { .. } => "takes the next io_end off it".into(),
            Frame::EndIoEnd { at: EndIoEnd::Convert, .. } => "decides whether to convert".into(),
            Frame::ConvertUnwrittenIoEndVec { .. } => "looks for a range to convert".into(),
            Frame::ReleaseIoEnd { at: Release::NextBio, .. } => "finishes the next chained bio, if any".into(),
            Frame::DirectIo { at, .. } => match at {
                DirectIoAt::Enter => "the inode's aio pointer is cleared",
                DirectIoAt::InitIoEnd => "asks for an io_end",
                DirectIoAt::SetAio(_) => "the inode's aio pointer is this io_end",
                DirectIoAt::Generic(_) => "the generic code counts the write",
                DirectIoAt::GetBlock(_) => "the blocks are mapped",
                DirectIoAt::GetIoEnd(_) => "",
            }
            .into(),
            Frame::EndIoDio { at: EndDirectIoAt::Enter, .. } => "takes the io_end off the iocb, if there is one".into(),
            Frame::DirectIoReturn { ret, at, .. } => match at {
                ReturnAt::Generic => format!("the generic code returns {ret}"),
                ReturnAt::OwnPut => "the inode's aio pointer is cleared".into(),
                ReturnAt::SecondPut => "looks at what was returned".into(),
                ReturnAt::Convert => "looks at EXT4_STATE_DIO_UNWRITTEN".into(),
                ReturnAt::Converted => "clears EXT4_STATE_DIO_UNWRITTEN".into(),
            },
            _ => String::new(),
        }
    }

    /// The step reads and writes nothing that another thread could see, now or later, and is no event. So it commutes with
    /// every step of every other thread, and no property can tell before it from behind it.
    fn is_local(&self, thread: &Thread, path: &Path) -> bool {
        match self {
            Frame::Submit { at, .. } => match at {
                // The open bio is handed to no one before `IoSubmit` has been taken.
                SubmitAt::Enter | SubmitAt::Pages(..) | SubmitAt::LastBio(_) | SubmitAt::Return(_) => true,
                SubmitAt::Init => path.dialect.io_end_per_bio,
                SubmitAt::Lock | SubmitAt::Map | SubmitAt::Put(_) => false,
            },
            Frame::BioWritePage { at: BioWritePage::AddBuffer(..), .. } => thread.ret == 0,
            // Nobody in a search reads the mapping's error.
            Frame::FinishBio { bio, segment, at: FinishBio::MappingError } => {
                path.state.bios.get(bio).is_some_and(|bio| *segment < bio.segments.len())
            }
            Frame::EndIoEnd { at: EndIoEnd::ClearFlag | EndIoEnd::Return(_), .. } => true,
            Frame::EndIoEnd { at: EndIoEnd::Release(_), .. } => !path.dialect.io_end_per_bio,
            Frame::DoFlushCompletedIo { at: FlushCompleted::Next(left, _) } => left.is_empty(),
            Frame::ConvertUnwrittenExtents { at: Convert::Enter, .. } => true,
            Frame::DirectIoReturn { ret, at: ReturnAt::Convert, .. } => *ret <= 0,
            Frame::EndBio { at: EndBio::MappingError | EndBio::ChainBio | EndBio::TestFlag, .. }
            | Frame::EndIoDio { at: EndDirectIoAt::Enter | EndDirectIoAt::Converted, .. } => false,
            _ => false,
        }
    }
}

impl Path {
    /// The thread's next step can be taken along with the one before it.
    pub(crate) fn next_is_local(&self, thread: &Thread) -> bool {
        thread.stack.last().is_some_and(|frame| frame.is_local(thread, self))
    }

    /// The thread's next step asks for an io_end.
    pub(crate) fn next_allocates(&self, thread: &Thread) -> bool {
        let per_bio = self.dialect.io_end_per_bio;
        match thread.stack.last() {
            Some(Frame::Submit { at: SubmitAt::Init, .. }) => !per_bio,
            Some(Frame::IoSubmitAddBh { at: AddBh::Bio, .. }) => per_bio,
            Some(Frame::IoSubmitAddBh { at: AddBh::Enter, .. }) => {
                per_bio && thread.io.is_some_and(|io| io.io_bio.is_none())
            }
            Some(Frame::DirectIo { at: DirectIoAt::InitIoEnd, .. }) => true,
            _ => false,
        }
    }

    /// The function that the thread's next step belongs to.
    pub(crate) fn next_function(&self, thread: &Thread) -> &'static str {
        thread.stack.last().map_or("-", |frame| frame.function(self))
    }
}
