//! What can be under way, and the moves by which it goes on: the words of a schedule.

use super::layout::FIRST_INO;
use crate::event::IocbId;
use crate::thread::Thread;
use writeback_events::{BioId, Errno, Ino};

/// What a thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Writes pages back.
    Writer,
    /// A bio or a direct write ends.
    Interrupt,
    /// The conversion worker.
    Worker,
    /// A direct write.
    Direct,
    /// fsync: takes the list, then waits for conversions.
    Fsync,
    /// Truncate: waits for direct writes.
    Truncate,
    /// The inode is evicted: waits for pages, then for io_ends.
    Evict,
}

impl Role {
    pub(super) const ALL: [(Role, &str); 7] = [
        (Role::Writer, "writer"),
        (Role::Interrupt, "interrupt"),
        (Role::Worker, "worker"),
        (Role::Direct, "direct"),
        (Role::Fsync, "fsync"),
        (Role::Truncate, "truncate"),
        (Role::Evict, "evict"),
    ];
}

/// A thread, by what it does and its number among those that do the same, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ThreadName {
    /// What it does.
    pub role: Role,
    /// From 1.
    pub number: u8,
}

impl std::fmt::Display for ThreadName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = Role::ALL.iter().find(|(role, _)| *role == self.role).map_or("", |(_, name)| *name);
        write!(f, "{name}{}", self.number)
    }
}

impl std::str::FromStr for ThreadName {
    type Err = String;

    fn from_str(text: &str) -> Result<ThreadName, String> {
        let word = text.trim_end_matches(|c: char| c.is_ascii_digit());
        let role = Role::ALL.iter().find(|(_, name)| *name == word).map(|(role, _)| *role);
        match (role, text[word.len()..].parse()) {
            (Some(role), Ok(number)) if number > 0 => Ok(ThreadName { role, number }),
            _ => {
                let names: Vec<_> = Role::ALL.iter().map(|(_, name)| *name).collect();
                Err(format!("no thread is called {text:?}: one of {} with a number from 1", names.join(", ")))
            }
        }
    }
}

/// What a thread begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the fields are those of the replica's calls")]
pub enum Activity {
    SubmitRange { ino: Ino, first_page: u64, next_page: u64 },
    Writepage { ino: Ino, page: u64 },
    EndBio { bio: BioId, error: Errno },
    EndDirect { iocb: IocbId, error: Errno },
    Work { ino: Ino },
    Direct { ino: Ino, first: u64, len: u64, is_async: bool },
    Fsync { ino: Ino },
    Truncate { ino: Ino },
    Evict { ino: Ino },
}

impl Activity {
    /// Who does it.
    pub fn role(&self) -> Role {
        match self {
            Activity::SubmitRange { .. } | Activity::Writepage { .. } => Role::Writer,
            Activity::EndBio { .. } | Activity::EndDirect { .. } => Role::Interrupt,
            Activity::Work { .. } => Role::Worker,
            Activity::Direct { .. } => Role::Direct,
            Activity::Fsync { .. } => Role::Fsync,
            Activity::Truncate { .. } => Role::Truncate,
            Activity::Evict { .. } => Role::Evict,
        }
    }
}

/// What the generic code comes to with a direct write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// All of it is submitted. An asynchronous one is queued.
    Whole,
    /// All of it is submitted, and the device fails it.
    WholeFails,
    /// The first block is written, and so much is returned.
    Partial,
    /// The first block is written, then the next one's memory is not there: -EFAULT.
    PartialError,
    /// Nothing could be submitted: -EFAULT.
    Nothing,
}

impl Outcome {
    pub(super) const ALL: [(Outcome, &str); 5] = [
        (Outcome::Whole, "whole"),
        (Outcome::WholeFails, "whole_fails"),
        (Outcome::Partial, "partial"),
        (Outcome::PartialError, "partial_error"),
        (Outcome::Nothing, "nothing"),
    ];

    pub(super) fn costs_an_error(self) -> bool {
        !matches!(self, Outcome::Whole | Outcome::Partial)
    }
}

/// What a step comes to, where it can come to several things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Choice {
    /// What it comes to by itself.
    Go,
    /// The allocation fails.
    NoMemory,
    /// The conversion fails.
    ConvertFails,
    /// Of a direct write.
    Generic(Outcome),
}

/// One move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Move {
    /// A thread begins something.
    Start(ThreadName, Activity),
    /// A thread goes on: one access to what is shared, and what follows of it that nobody else can see.
    Step(ThreadName, Choice),
}

impl Move {
    /// Whose move it is.
    pub fn thread(&self) -> ThreadName {
        match self {
            Move::Start(name, _) | Move::Step(name, _) => *name,
        }
    }

    /// What a schedule's third word is.
    pub fn choice(&self) -> String {
        match *self {
            Move::Start(_, activity) => activity.to_string(),
            Move::Step(_, Choice::Go) => "-".into(),
            Move::Step(_, Choice::NoMemory) => "no_memory".into(),
            Move::Step(_, Choice::ConvertFails) => "fails".into(),
            Move::Step(_, Choice::Generic(outcome)) => {
                Outcome::ALL.iter().find(|(one, _)| *one == outcome).map_or("", |(_, name)| *name).into()
            }
        }
    }

    /// Reads a schedule's words back.
    pub fn parse(thread: &str, step: &str, choice: &str) -> Result<Move, String> {
        let name: ThreadName = thread.parse()?;
        if step == "start" {
            let activity = choice.parse::<Activity>()?.of(name.role);
            if activity.role() != name.role {
                return Err(format!("{name} does not do {choice:?}"));
            }
            return Ok(Move::Start(name, activity));
        }
        let outcome =
            Outcome::ALL.iter().find(|(_, name)| *name == choice).map(|(outcome, _)| Choice::Generic(*outcome));
        let known = match choice {
            "-" => Some(Choice::Go),
            "no_memory" => Some(Choice::NoMemory),
            "fails" => Some(Choice::ConvertFails),
            _ => outcome,
        };
        known.map(|choice| Move::Step(name, choice)).ok_or_else(|| {
            let outcomes: Vec<_> = Outcome::ALL.iter().map(|(_, name)| *name).collect();
            format!("no choice is called {choice:?}: one of -, no_memory, fails, {}", outcomes.join(", "))
        })
    }
}

impl std::fmt::Display for Activity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Activity::SubmitRange { ino, first_page, next_page } => write!(f, "pages:{ino}:{first_page}:{next_page}"),
            Activity::Writepage { ino, page } => write!(f, "page:{ino}:{page}"),
            Activity::EndBio { bio, error } => write!(f, "bio:{bio}:{error}"),
            Activity::EndDirect { iocb, error } => write!(f, "iocb:{}:{error}", iocb.0),
            Activity::Direct { ino, first, len, is_async } => {
                write!(f, "{}:{ino}:{first}:{len}", if is_async { "async" } else { "sync" })
            }
            Activity::Work { ino } | Activity::Fsync { ino } | Activity::Truncate { ino } | Activity::Evict { ino } => {
                write!(f, "inode:{ino}")
            }
        }
    }
}

impl std::str::FromStr for Activity {
    type Err = String;

    /// Of the four that name an inode alone it is the worker: [`Activity::of`] makes it the thread's own.
    fn from_str(text: &str) -> Result<Activity, String> {
        let (word, numbers) = text.split_once(':').unwrap_or((text, ""));
        let bad = || {
            format!(
                "{text:?} begins nothing: pages:INO:FIRST:NEXT, page:INO:PAGE, bio:BIO:ERROR, iocb:IOCB:ERROR, \
            async:INO:BLOCK:BLOCKS, sync:INO:BLOCK:BLOCKS or inode:INO"
            )
        };
        let numbers: Vec<i64> = numbers.split(':').map(str::parse).collect::<Result<_, _>>().map_err(|_| bad())?;
        let unsigned = |n: i64| u64::try_from(n).map_err(|_| bad());
        let id = |n: i64| u32::try_from(n).map_err(|_| bad());
        Ok(match (word, numbers.as_slice()) {
            ("pages", [ino, first, next]) => Activity::SubmitRange {
                ino: Ino(unsigned(*ino)?),
                first_page: unsigned(*first)?,
                next_page: unsigned(*next)?,
            },
            ("page", [ino, page]) => Activity::Writepage { ino: Ino(unsigned(*ino)?), page: unsigned(*page)? },
            ("bio", [bio, error]) => {
                Activity::EndBio { bio: BioId(id(*bio)?), error: Errno::try_from(*error).map_err(|_| bad())? }
            }
            ("iocb", [iocb, error]) => {
                Activity::EndDirect { iocb: IocbId(id(*iocb)?), error: Errno::try_from(*error).map_err(|_| bad())? }
            }
            ("async" | "sync", [ino, first, len]) => Activity::Direct {
                ino: Ino(unsigned(*ino)?),
                first: unsigned(*first)?,
                len: unsigned(*len)?,
                is_async: word == "async",
            },
            ("inode", [ino]) => Activity::Work { ino: Ino(unsigned(*ino)?) },
            _ => return Err(bad()),
        })
    }
}

impl Activity {
    /// What `inode:INO` means to a thread of that role.
    fn of(self, role: Role) -> Activity {
        match (self, role) {
            (Activity::Work { ino }, Role::Fsync) => Activity::Fsync { ino },
            (Activity::Work { ino }, Role::Truncate) => Activity::Truncate { ino },
            (Activity::Work { ino }, Role::Evict) => Activity::Evict { ino },
            (activity, _) => activity,
        }
    }
}

/// A thread under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Slot {
    pub(super) name: ThreadName,
    pub(super) ino: Ino,
    pub(super) thread: Thread,
    pub(super) part: Part,
    /// It holds the inode's `i_mutex`.
    pub(super) holds_mutex: bool,
}

/// What a thread is in the midst of. In all but the first ones it takes no step of a kernel function of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Part {
    /// When its functions have returned it is done.
    Call,
    /// Which bio's reference it drops.
    EndBio(BioId),
    /// Which direct write's reference it drops.
    EndDirect(IocbId),
    DirectSubmit {
        first: u64,
        len: u64,
        is_async: bool,
    },
    /// The generic code has it.
    Generic {
        first: u64,
        len: u64,
        is_async: bool,
    },
    /// The generic code has called `ext4_end_io_dio` and will return this.
    DirectEnd {
        ret: i64,
    },
    DirectReturn {
        own_put: bool,
    },
    Flush,
    /// On a wait queue: `ext4_unwritten_wait` and `ext4_ioend_wait`.
    Unwritten(Wait),
    IoEnds(Wait),
    /// Until no page is locked or under writeback; then `ext4_ioend_wait` if it evicts.
    Pages,
    /// `inode_dio_wait`.
    Dio,
}

/// `wait_event`: onto the queue, look, sleep until woken, look again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Wait {
    Prepare,
    Check { woken: bool },
    Sleep,
}

impl std::fmt::Display for Wait {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Wait::Prepare => "goes onto the wait queue",
            Wait::Check { woken: true } => "was woken; looks at the counter",
            Wait::Check { woken: false } => "looks at the counter; sleeps unless it is 0",
            Wait::Sleep => "sleeps",
        })
    }
}

/// Numbers of files, from 0.
pub(super) fn place(ino: Ino) -> usize {
    (ino.0 - FIRST_INO) as usize
}
