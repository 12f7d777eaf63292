//! What a power cut may leave, examined state by state: is each one a file system that a journal replay makes whole, and
//! is everything there that had been fsynced before the cut?
//!
//! `vhost-blk` has written the states of each cut as small files (docs/crash-states.md). Each is made into an image of its
//! own, never into the run's; there e2fsck does what a mount would do (it replays the journal and settles orphans; a state
//! in which it repairs more is bad), `e2fsck -fn` then has to find nothing, and what the files hold is read and held
//! against the workload (`durability`). One state of each cut the guest's own kernel mounts and reads, and has to agree.
//!
//! Images that are the same byte for byte are examined once, and judged for each of their cuts.

pub mod check;
pub mod command;
pub mod contents;
pub mod cuts;
pub mod kernel;
mod left;
pub mod order;
mod report;
#[cfg(test)]
mod tests;
pub mod within;

pub use left::{Left, look as look_at_what_is_left};
pub use report::{Bad, Contents, Report, describe};

use crate::durability::{Broken, Expected, Judgement, Tree};
use crate::failure::{At, Failure};
use crate::interrupt::Interrupt;
use check::Damage;
use contents::Pool;
use cuts::{Cut, Folder, State};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Makes an image of a state's file.
pub type View<'a> = dyn Fn(&Path, &Path) -> Result<(), Failure> + Sync + 'a;

/// By cut: what must be on the disk. None: only the file system is looked at.
pub type Promises = Option<BTreeMap<u64, Expected>>;

/// What an image turned out to be.
#[derive(Debug)]
enum Looked {
    Damaged(Damage),
    /// A whole file system with these files; without: nobody asked for them.
    Whole(Option<Tree>),
}

/// What became of one state.
#[derive(Debug)]
pub(crate) struct Examined {
    cut: u64,
    state: State,
    image: [u8; 32],
    damage: Option<Damage>,
    judgement: Judgement,
    /// What the files hold, for those states that the kernel is to see too.
    files: Option<kernel::Files>,
}

impl Examined {
    fn is_good(&self) -> bool {
        self.damage.is_none() && self.judgement.broken.is_empty()
    }
}

/// Examines every state of a folder, or the one that `only` names, on all CPUs.
pub(crate) fn examine(
    folder: &Folder,
    only: Option<&Path>,
    promises: &Promises,
    interrupt: &Interrupt,
    view: &View<'_>,
) -> Result<Vec<Examined>, Failure> {
    let todo = todo(&folder.cuts, only)?;
    let next = AtomicUsize::new(0);
    let shared = Shared { folder, promises, interrupt, view, pool: Pool::default(), looked: Mutex::default() };
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(todo.len()).max(1);
    let work = || shared.work(&todo, &next);
    let results: Vec<Result<Vec<(usize, Examined)>, Failure>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a worker ends by return")).collect()
    });
    let mut examined = Vec::new();
    for result in results {
        examined.extend(result?);
    }
    examined.sort_by_key(|(place, _)| *place);
    Ok(examined.into_iter().map(|(_, examined)| examined).collect())
}

/// A state to be examined.
struct Todo<'a> {
    cut: u64,
    state: &'a State,
    /// The kernel is to see it too.
    for_kernel: bool,
}

/// One state of each cut is the kernel's: with each cut the next one, so that all kinds of them come up.
fn todo<'a>(cuts: &'a [Cut], only: Option<&Path>) -> Result<Vec<Todo<'a>>, Failure> {
    let of_cut = |cut: &'a Cut| {
        let chosen = (cut.cut as usize).checked_rem(cut.states.len()).unwrap_or(0);
        let todo = move |(place, state)| Todo { cut: cut.cut, state, for_kernel: place == chosen || only.is_some() };
        cut.states.iter().enumerate().map(todo)
    };
    let wanted = |todo: &Todo<'_>| only.is_none_or(|only| only.file_name() == todo.state.file.file_name());
    let todo: Vec<Todo<'_>> = cuts.iter().flat_map(of_cut).filter(wanted).collect();
    match (only, todo.is_empty()) {
        (Some(only), true) => Err(Failure::BadInput(format!("{} is no state of {}", only.display(), cuts::CUTS))),
        _ => Ok(todo),
    }
}

/// What all workers use.
struct Shared<'a> {
    folder: &'a Folder,
    promises: &'a Promises,
    interrupt: &'a Interrupt,
    view: &'a View<'a>,
    pool: Pool,
    looked: Mutex<Remembered>,
}

/// By the hash of an image: the last cut it was met in, and what it is.
type Remembered = BTreeMap<[u8; 32], (u64, Arc<Looked>)>;

/// An image is mostly met again at the next cut: what survived one flush is what the next can lose.
const REMEMBERED_CUTS: u64 = 2;

/// Of so many states one is told.
const TELL_EVERY: usize = 256;

impl Shared<'_> {
    fn work(&self, todo: &[Todo<'_>], next: &AtomicUsize) -> Result<Vec<(usize, Examined)>, Failure> {
        let scratch = self.folder.scratch()?;
        let image = scratch.path().join("state.img");
        let mut examined = Vec::new();
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(todo_now) = todo.get(place) else { return Ok(examined) };
            if place > 0 && place.is_multiple_of(TELL_EVERY) {
                crate::show::progress(&format!("  {place} of {} states", todo.len()));
            }
            let done = self.interrupt.check().and_then(|()| self.one(todo_now, &image));
            match done {
                Ok(done) => examined.push((place, done)),
                Err(failure) => {
                    // The other workers need not go on.
                    next.store(todo.len(), Ordering::Relaxed);
                    return Err(failure);
                }
            }
        }
    }

    fn one(&self, todo: &Todo<'_>, image: &Path) -> Result<Examined, Failure> {
        (self.view)(&self.folder.path.join(&todo.state.file), image)?;
        let hash = hash(image)?;
        let looked = self.look(todo.cut, hash, image)?;
        let (mut damage, mut judgement, mut files) = (None, Judgement::default(), None);
        match (&*looked, self.promises) {
            (Looked::Damaged(found), _) => damage = Some(found.clone()),
            (Looked::Whole(Some(tree)), Some(promises)) => {
                if let Some(expected) = promises.get(&todo.cut) {
                    judgement = expected.judge(tree);
                    files = todo.for_kernel.then(|| kernel::Files::of(tree, expected.paths()));
                }
            }
            _ => {}
        }
        Ok(Examined { cut: todo.cut, state: todo.state.clone(), image: hash, damage, judgement, files })
    }

    fn look(&self, cut: u64, hash: [u8; 32], image: &Path) -> Result<Arc<Looked>, Failure> {
        let known = || self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((last, looked)) = known().get_mut(&hash) {
            *last = cut.max(*last);
            return Ok(Arc::clone(looked));
        }
        let looked = Arc::new(look(image, self.promises.is_some(), &self.pool)?);
        let mut known = known();
        known.retain(|_, (last, _)| *last + REMEMBERED_CUTS >= cut);
        known.insert(hash, (cut, Arc::clone(&looked)));
        Ok(looked)
    }
}

/// Replays the journal in `image`, checks it, and reads its files if they are wanted; they lie beside it meanwhile.
fn look(image: &Path, with_files: bool, pool: &Pool) -> Result<Looked, Failure> {
    if let Some(damage) = check::replay_and_check(image)?.damage {
        return Ok(Looked::Damaged(damage));
    }
    if !with_files {
        return Ok(Looked::Whole(None));
    }
    let scratch = image.parent().unwrap_or(Path::new("."));
    Ok(match contents::read(image, scratch, pool, &[])? {
        Ok((tree, _)) => Looked::Whole(Some(tree)),
        Err(said) => Looked::Damaged(Damage { step: "reading its files", said }),
    })
}

/// SHA-256 of a file.
fn hash(path: &Path) -> Result<[u8; 32], Failure> {
    let mut file = std::fs::File::open(path).at("open", path)?;
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut piece).at("read", path)? {
            0 => return Ok(hash.finalize().into()),
            read => hash.update(&piece[..read]),
        }
    }
}

/// The first thing that is wrong, for a line.
fn first_of(broken: &[Broken]) -> &str {
    broken.first().map_or("", |broken| &broken.what)
}
