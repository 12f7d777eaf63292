//! The names: which paths there were at which moment, and from which moment on the disk must be.

use crate::durability::{Broken, Node, Tree};
use std::collections::{BTreeMap, BTreeSet};

/// What a name is given to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
}

/// What a path leads to now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lookup {
    /// A regular file.
    File(usize),
    /// A folder, or the root.
    Folder,
    /// Nothing; its folder is there.
    Absent,
    /// A folder on the way is not there.
    NoParent,
    /// A file stands where a folder should.
    ThroughFile,
}

/// How a name fits no moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrongName {
    /// It is not there.
    Missing {
        /// It was to be there at the moment of the last promise.
        promised: bool,
    },
    /// It should not be there.
    Extra,
    /// A file where a folder was made, or the other way round.
    Kind,
    /// Each name is possible by itself, and all of them together are not.
    NoMoment,
}

/// A name that fits no moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameMisfit {
    /// The name.
    pub path: String,
    /// What is wrong with it.
    pub wrong: WrongName,
}

impl NameMisfit {
    /// As something that may not be after a power cut.
    pub fn broken(&self) -> Broken {
        let (promised, what) = match self.wrong {
            WrongName::Missing { promised: true } => (true, "is missing, and its name was fsynced"),
            WrongName::Missing { promised: false } => (false, "is missing, though a later change of names is there"),
            WrongName::Extra => (true, "is there, though its name was not, or no more"),
            WrongName::Kind => (true, "is not of the kind that was made"),
            WrongName::NoMoment => (true, "has names that fit no moment of the workload"),
        };
        let what = format!("{} {what}", self.path);
        Broken { path: self.path.clone(), offset: None, bytes: None, promised, what }
    }
}

/// All names between two changes of names.
type Moment = BTreeMap<String, usize>;

/// See the module.
#[derive(Clone, Debug)]
pub struct Names {
    /// The first is the empty file system.
    moments: Vec<Moment>,
    /// The disk is at this moment or a later one.
    at_least: usize,
    kinds: BTreeMap<usize, Kind>,
    /// By file or folder: the last moment that was a change of it; of a folder also of what it holds.
    touched: BTreeMap<usize, usize>,
    made: BTreeMap<usize, usize>,
    /// The same for the root.
    root_touched: usize,
    /// A change failed half way: what came of it is not known.
    lost_track: bool,
}

impl Default for Names {
    fn default() -> Names {
        Names {
            moments: vec![Moment::new()],
            at_least: 0,
            kinds: BTreeMap::new(),
            touched: BTreeMap::new(),
            made: BTreeMap::new(),
            root_touched: 0,
            lost_track: false,
        }
    }
}

impl Names {
    /// Whose name this is now.
    pub fn get(&self, path: &str) -> Option<usize> {
        self.now().get(&plain(path)).copied()
    }

    /// A new file or folder.
    pub fn make(&mut self, path: &str, id: usize, kind: Kind) {
        let path = plain(path);
        self.kinds.insert(id, kind);
        let mut moment = self.now().clone();
        moment.insert(path.clone(), id);
        self.changed(moment, &[id], &[&path]);
        self.made.insert(id, self.last());
    }

    /// One more name.
    pub fn link(&mut self, path: &str, to: &str) {
        let (path, to) = (plain(path), plain(to));
        let mut moment = self.now().clone();
        let Some(&id) = moment.get(&path) else { return };
        moment.insert(to.clone(), id);
        self.changed(moment, &[id], &[&to]);
    }

    /// One name less.
    pub fn unlink(&mut self, path: &str) {
        let path = plain(path);
        let mut moment = self.now().clone();
        let Some(id) = moment.remove(&path) else { return };
        self.changed(moment, &[id], &[&path]);
    }

    /// Another name, also for everything below it.
    pub fn rename(&mut self, path: &str, to: &str) {
        let (path, to) = (plain(path), plain(to));
        let mut moment = self.now().clone();
        // Two names of one file: nothing is done.
        if moment.get(&path) == moment.get(&to) {
            return;
        }
        let Some(id) = moment.remove(&path) else { return };
        let replaced = moment.insert(to.clone(), id);
        let below: Vec<String> = moment.keys().filter(|name| is_below(name, &path)).cloned().collect();
        for name in below {
            let moved = format!("{to}{}", &name[path.len()..]);
            let held = moment.remove(&name);
            moment.extend(held.map(|held| (moved, held)));
        }
        let ids: Vec<usize> = [Some(id), replaced].into_iter().flatten().collect();
        self.changed(moment, &ids, &[&path, &to]);
    }

    /// An fsync of this file or folder returned 0. A fdatasync owes no more than that the file is there at all.
    pub fn synced(&mut self, path: &str, with_names: bool) {
        let touched = match self.get(path) {
            Some(id) if with_names => self.touched.get(&id).copied(),
            Some(id) => self.made.get(&id).copied(),
            None if plain(path).is_empty() && with_names => Some(self.root_touched),
            None => None,
        };
        self.at_least = self.at_least.max(touched.unwrap_or(0));
    }

    /// Everything is on the disk.
    pub fn all_synced(&mut self) {
        self.at_least = self.last();
    }

    /// Whether it is a regular file.
    pub fn is_file(&self, id: usize) -> bool {
        self.kinds.get(&id) == Some(&Kind::File)
    }

    /// Whether a change failed half way, so that it is not known what came of it.
    pub fn track_is_lost(&self) -> bool {
        self.lost_track
    }

    /// What a path leads to, and by which way it fails to.
    pub fn lookup(&self, path: &str) -> Lookup {
        let path = plain(path);
        if path.is_empty() {
            return Lookup::Folder;
        }
        let mut end = 0;
        while let Some(at) = path[end..].find('/') {
            match self.now().get(&path[..end + at]).map(|id| self.is_file(*id)) {
                None => return Lookup::NoParent,
                Some(true) => return Lookup::ThroughFile,
                Some(false) => end += at + 1,
            }
        }
        match self.now().get(&path) {
            None => Lookup::Absent,
            Some(id) if self.is_file(*id) => Lookup::File(*id),
            Some(_) => Lookup::Folder,
        }
    }

    /// Whether a folder holds anything.
    pub fn is_empty_folder(&self, path: &str) -> bool {
        let path = plain(path);
        !self.now().keys().any(|name| is_below(name, &path))
    }

    /// From here on nothing is said about names that do not fit.
    pub fn lose_track(&mut self) {
        self.lost_track = true;
    }

    /// The moments that had exactly the names that were found. Where a change failed half way and none fits: the last
    /// moment, of which then only those files are judged that are there.
    pub fn moments(&self, found: &Tree) -> Vec<&Moment> {
        let fit: Vec<&Moment> = self.possible().filter(|moment| self.fits(moment, found)).collect();
        if fit.is_empty() && self.lost_track { vec![self.now()] } else { fit }
    }

    /// What is wrong with names that fit no moment.
    pub fn misfits(&self, found: &Tree) -> Vec<NameMisfit> {
        let wrong = |moment: &Moment| {
            let missing = moment.keys().filter(|path| !found.0.contains_key(*path)).count();
            missing + found.0.keys().filter(|path| !moment.contains_key(*path)).count()
        };
        let Some(nearest) = self.possible().min_by_key(|moment| wrong(moment)) else { return Vec::new() };
        let misfit = |path: &String, wrong| NameMisfit { path: path.clone(), wrong };
        let promised = |path: &String| self.moments[self.at_least].contains_key(path);
        let missing = nearest.keys().filter(|path| !found.0.contains_key(*path));
        let more = found.0.keys().filter(|path| !nearest.contains_key(*path));
        let of_other_kind = nearest
            .iter()
            .filter(|(path, id)| found.0.contains_key(*path) && !self.kind_fits(**id, found.0.get(*path)));
        let mut all: Vec<NameMisfit> =
            missing.map(|path| misfit(path, WrongName::Missing { promised: promised(path) })).collect();
        all.extend(more.map(|path| misfit(path, WrongName::Extra)));
        all.extend(of_other_kind.map(|(path, _)| misfit(path, WrongName::Kind)));
        if all.is_empty() {
            all.push(misfit(&"/".to_owned(), WrongName::NoMoment));
        }
        all
    }

    /// Every path there ever was.
    pub fn all_paths(&self) -> impl Iterator<Item = &str> {
        self.moments.iter().flat_map(Moment::keys).map(String::as_str).collect::<BTreeSet<_>>().into_iter()
    }

    fn possible(&self) -> impl Iterator<Item = &Moment> {
        self.moments[self.at_least..].iter()
    }

    fn fits(&self, moment: &Moment, found: &Tree) -> bool {
        let same = moment.len() == found.0.len() && moment.keys().eq(found.0.keys());
        same && moment.iter().all(|(path, id)| self.kind_fits(*id, found.0.get(path)))
    }

    fn kind_fits(&self, id: usize, node: Option<&Node>) -> bool {
        match self.kinds.get(&id) {
            Some(Kind::File) => matches!(node, Some(Node::File(_) | Node::Mapped(_))),
            Some(Kind::Folder) => matches!(node, Some(Node::Folder)),
            None => false,
        }
    }

    fn now(&self) -> &Moment {
        self.moments.last().expect("there is the first one")
    }

    fn last(&self) -> usize {
        self.moments.len() - 1
    }

    /// `paths`: whose folders changed.
    fn changed(&mut self, moment: Moment, ids: &[usize], paths: &[&String]) {
        let folders: Vec<Option<usize>> = paths.iter().map(|path| self.folder_of(path)).collect();
        self.moments.push(moment);
        let last = self.last();
        for id in ids.iter().copied().chain(folders.iter().copied().flatten()) {
            self.touched.insert(id, last);
        }
        if folders.contains(&None) {
            self.root_touched = last;
        }
    }

    /// None: the root.
    fn folder_of(&self, path: &str) -> Option<usize> {
        let (folder, _) = path.rsplit_once('/')?;
        self.now().get(folder).copied()
    }
}

/// One spelling for a path: `./d//f` is `d/f`, and the root is nothing.
pub fn plain(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    parts.join("/")
}

/// Whether `name` lies below `folder`, both in one spelling.
pub fn is_below(name: &str, folder: &str) -> bool {
    name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}
