//! A disk in memory for tests of what must survive: it loses and tears what was not synced, fails, fills up and rots.
//!
//! A [`SimDisk`] is what the system shows, as a page cache does, and what is on the medium. A change is pending until a
//! sync takes it from the first to the second: a change of a file until that file is synced, a change of names until
//! the directory is. [`SimDisk::crash`] decides about what is pending.
//!
//! Operations are what changes or syncs something: write, allocate, sync, create, rename, remove, sync of the
//! directory. They are counted from 0, so that a test can crash or fail at each of them in turn.

#![allow(dead_code, missing_docs, unreachable_pub, reason = "each ring of tests uses a part")]

use std::{
    collections::BTreeMap,
    fmt, io,
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use leveret::storage::disk::{Disk, DiskFile};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

/// What a disk writes whole or not at all, in octets.
pub const SECTOR_BYTES: usize = 512;

/// Octets that fit on a disk unless [`SimDisk::set_capacity`] says less.
const CAPACITY_BYTES: u64 = 1 << 40;

/// How a process or its machine ends, and what becomes of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process was killed: the system still shows everything, and what is pending stays so. A power cut that comes
    /// later can still take it.
    Killed,
    /// The power went, and everything pending is gone.
    Lost,
    /// The power went just after the last of it had reached the medium.
    Kept,
    /// The power went, and each sector of each pending write is there or not, in no order; each change of a name or
    /// a length likewise.
    Random,
    /// The power went, and what is pending is there in order up to a change that is torn, between sectors or anywhere.
    Torn,
}

impl Crash {
    pub const ALL: [Self; 5] = [Self::Killed, Self::Lost, Self::Kept, Self::Random, Self::Torn];
}

/// See the module's text. A clone is the same disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

impl SimDisk {
    /// An empty disk. Whatever happens by chance depends on the seed.
    pub fn new(seed: u64) -> Self {
        let state = State {
            random: StdRng::seed_from_u64(seed),
            operations: 0,
            crash_at: None,
            failures: BTreeMap::new(),
            capacity: CAPACITY_BYTES,
            last: 0,
            names: Names::new(),
            durable_names: Names::new(),
            renamings: Vec::new(),
            inodes: BTreeMap::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// How many operations there were: the number of the next one.
    pub fn operations(&self) -> u64 {
        self.lock().operations
    }

    /// From that operation on everything fails, reads included. It fails too, but may have happened: it is pending.
    pub fn crash_at(&self, operation: u64) {
        self.lock().crash_at = Some(operation);
    }

    /// Whether the operation of [`SimDisk::crash_at`] was tried.
    pub fn is_crashed(&self) -> bool {
        self.lock().check_alive().is_err()
    }

    /// That operation fails, once, and does nothing. A sync that fails loses what was pending: it can still be read, but
    /// no later sync makes it durable, and no power cut leaves any of it.
    pub fn fail_at(&self, operation: u64, error: io::ErrorKind) {
        self.fail_short_at(operation, error, 0);
    }

    /// That operation fails, once; if it is a write, so many octets of it were written.
    pub fn fail_short_at(&self, operation: u64, error: io::ErrorKind, written: usize) {
        self.lock().failures.insert(operation, Failure { error, written });
    }

    /// What fits on the disk, in octets. A file takes what its length says, a removed one nothing.
    pub fn set_capacity(&self, octets: u64) {
        self.lock().capacity = octets;
    }

    /// The disk as the next process finds it; it fails no more. This one goes on as it is, so that a test can see
    /// what many crashes leave. Those by chance differ.
    pub fn crash(&self, mode: Crash) -> Self {
        let mut state = self.lock();
        let random = StdRng::seed_from_u64(state.random.random());
        let mut after = State { random, operations: 0, crash_at: None, ..state.clone() };
        after.failures.clear();
        after.inodes.values_mut().for_each(|inode| inode.handles = 0);
        after.cut(mode);
        after.forget_unlinked();
        Self { state: Arc::new(Mutex::new(after)) }
    }

    /// The names of the files, sorted.
    pub fn names(&self) -> Vec<String> {
        self.lock().names.keys().cloned().collect()
    }

    /// What the system shows of a file.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn content(&self, name: &str) -> Vec<u8> {
        self.lock().inode(name).content.clone()
    }

    /// Rot: another bit than was written.
    ///
    /// # Panics
    /// If there is no such file, or it is shorter.
    pub fn flip_bit(&self, name: &str, offset: u64, bit: u8) {
        self.lock().rot(name, offset..offset + 1, |octets| octets[0] ^= 1 << bit);
    }

    /// Rot: zeros.
    ///
    /// # Panics
    /// If there is no such file, or it is shorter.
    pub fn zero(&self, name: &str, range: Range<u64>) {
        self.lock().rot(name, range, |octets| octets.fill(0));
    }

    /// Rot: two blocks of that length, each in the place of the other.
    ///
    /// # Panics
    /// If there is no such file, it is shorter, or the blocks overlap.
    pub fn swap_blocks(&self, name: &str, one: u64, other: u64, len: u64) {
        let (first, second) = (one.min(other), one.max(other));
        self.lock().rot(name, first..second + len, |octets| {
            let (head, tail) = octets.split_at_mut((second - first) as usize);
            head[..len as usize].swap_with_slice(tail);
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, state: &mut State, inode: u64) -> Arc<dyn DiskFile> {
        state.inodes.get_mut(&inode).expect("a name has a file").handles += 1;
        Arc::new(SimFile { disk: self.clone(), inode })
    }
}

impl fmt::Debug for SimDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("SimDisk")
            .field("operations", &state.operations)
            .field("names", &state.names.keys())
            .finish_non_exhaustive()
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.lock().check_alive()?;
        Ok(self.names())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        state.check_alive()?;
        let inode = state.find(name)?;
        Ok(self.handle(&mut state, inode))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.lock();
        let fate = state.begin()?;
        fate.check()?;
        let inode = match state.find(name) {
            Ok(inode) => {
                state.change(inode, Change::Truncate);
                inode
            }
            Err(_) => state.create(name),
        };
        fate.result()?;
        Ok(self.handle(&mut state, inode))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.lock();
        let fate = state.begin()?;
        fate.check()?;
        let inode = state.find(from)?;
        state.rename(Renaming::Move { from: from.to_owned(), to: to.to_owned(), inode });
        fate.result()
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.lock();
        let fate = state.begin()?;
        fate.check()?;
        let inode = state.find(name)?;
        state.rename(Renaming::Remove { name: name.to_owned(), inode });
        fate.result()
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.lock();
        let fate = state.begin()?;
        if fate != Fate::Dies {
            let renamings = std::mem::take(&mut state.renamings);
            if fate == Fate::Happens {
                renamings.iter().for_each(|(_, renaming)| renaming.apply(&mut state.durable_names));
            }
            state.forget_unlinked();
        }
        fate.result()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let state = self.lock();
        state.check_alive()?;
        Ok(state.free_bytes())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("sim").join(name)
    }
}

/// An open file, which outlives its name.
struct SimFile {
    disk: SimDisk,
    inode: u64,
}

impl fmt::Debug for SimFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimFile").field("inode", &self.inode).finish_non_exhaustive()
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        let mut state = self.disk.lock();
        state.file(self.inode).handles -= 1;
        state.forget_unlinked();
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> io::Result<u64> {
        let mut state = self.disk.lock();
        state.check_alive()?;
        Ok(state.file(self.inode).content.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        state.check_alive()?;
        let content = &state.file(self.inode).content;
        let octets = content.get(offset as usize..).and_then(|rest| rest.get(..buffer.len()));
        buffer.copy_from_slice(octets.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, octets: &[u8], offset: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        let fate = state.begin()?;
        let written = fate.written(octets.len()).min(state.fitting(self.inode, offset, octets.len()));
        if written > 0 {
            state.change(self.inode, Change::Write { offset, octets: octets[..written].to_vec() });
        }
        fate.result()?;
        if written < octets.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let mut state = self.disk.lock();
        let fate = state.begin()?;
        fate.check()?;
        if len.saturating_sub(state.file(self.inode).content.len() as u64) > state.free_bytes() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.change(self.inode, Change::Extend { len });
        fate.result()
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.lock();
        let fate = state.begin()?;
        if fate != Fate::Dies {
            let file = state.file(self.inode);
            let pending = std::mem::take(&mut file.pending);
            if fate == Fate::Happens {
                pending.iter().for_each(|(_, change)| change.apply(&mut file.durable));
            }
        }
        fate.result()
    }
}

/// Files by name: their numbers.
type Names = BTreeMap<String, u64>;

#[derive(Clone)]
struct State {
    random: StdRng,
    operations: u64,
    crash_at: Option<u64>,
    /// By operation.
    failures: BTreeMap<u64, Failure>,
    capacity: u64,
    /// The last number that a file or a change got.
    last: u64,
    names: Names,
    durable_names: Names,
    /// Pending changes of names, numbered in order with those of files.
    renamings: Vec<(u64, Renaming)>,
    inodes: BTreeMap<u64, Inode>,
}

/// A file without its name.
#[derive(Clone, Default)]
struct Inode {
    /// What the system shows.
    content: Vec<u8>,
    /// What is on the medium.
    durable: Vec<u8>,
    /// What was done to the one and not the other, numbered.
    pending: Vec<(u64, Change)>,
    handles: usize,
}

#[derive(Clone)]
enum Change {
    Write { offset: u64, octets: Vec<u8> },
    Extend { len: u64 },
    Truncate,
}

#[derive(Clone)]
enum Renaming {
    Create { name: String, inode: u64 },
    Move { from: String, to: String, inode: u64 },
    Remove { name: String, inode: u64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Failure {
    error: io::ErrorKind,
    written: usize,
}

/// What becomes of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Happens,
    Fails(Failure),
    /// The machine stops in the middle of it.
    Dies,
}

impl Fate {
    /// For operations that happen whole or not at all: whether it fails without having happened.
    fn check(self) -> io::Result<()> {
        if self == Self::Dies { Ok(()) } else { self.result() }
    }

    fn result(self) -> io::Result<()> {
        match self {
            Self::Happens => Ok(()),
            Self::Fails(failure) => Err(failure.error.into()),
            Self::Dies => Err(gone()),
        }
    }

    fn written(self, len: usize) -> usize {
        if let Self::Fails(failure) = self { failure.written.min(len) } else { len }
    }
}

fn gone() -> io::Error {
    io::Error::other("the machine has crashed")
}

/// How much of a pending change a power cut leaves.
#[derive(Clone, Copy)]
enum Survival {
    Whole,
    Nothing,
    /// Each part of it with that probability.
    Parts(f64),
    Prefix,
}

impl State {
    fn check_alive(&self) -> io::Result<()> {
        if self.crash_at.is_some_and(|crash_at| self.operations > crash_at) { Err(gone()) } else { Ok(()) }
    }

    fn begin(&mut self) -> io::Result<Fate> {
        self.check_alive()?;
        let operation = self.operations;
        self.operations += 1;
        if self.crash_at == Some(operation) {
            return Ok(Fate::Dies);
        }
        Ok(self.failures.remove(&operation).map_or(Fate::Happens, Fate::Fails))
    }

    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn find(&self, name: &str) -> io::Result<u64> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn file(&mut self, inode: u64) -> &mut Inode {
        self.inodes.get_mut(&inode).expect("an open file is kept")
    }

    fn inode(&self, name: &str) -> &Inode {
        let inode = self.names.get(name).unwrap_or_else(|| panic!("there is no file {name}"));
        &self.inodes[inode]
    }

    fn create(&mut self, name: &str) -> u64 {
        let inode = self.next();
        self.inodes.insert(inode, Inode::default());
        self.rename(Renaming::Create { name: name.to_owned(), inode });
        inode
    }

    fn rename(&mut self, renaming: Renaming) {
        renaming.apply(&mut self.names);
        let number = self.next();
        self.renamings.push((number, renaming));
    }

    fn change(&mut self, inode: u64, change: Change) {
        let number = self.next();
        let file = self.file(inode);
        change.apply(&mut file.content);
        file.pending.push((number, change));
    }

    fn free_bytes(&self) -> u64 {
        let used: usize = self.names.values().map(|inode| self.inodes[inode].content.len()).sum();
        self.capacity.saturating_sub(used as u64)
    }

    /// How many octets of a write there is room for.
    fn fitting(&mut self, inode: u64, offset: u64, len: usize) -> usize {
        let free = self.free_bytes();
        let end = self.file(inode).content.len() as u64 + free;
        end.saturating_sub(offset).min(len as u64) as usize
    }

    /// Drops files that no name leads to, not even after a crash, and that nobody has open.
    fn forget_unlinked(&mut self) {
        let Self { names, durable_names, renamings, inodes, .. } = self;
        let renamed = renamings.iter().map(|(_, renaming)| renaming.inode());
        let named: Vec<u64> = names.values().chain(durable_names.values()).copied().chain(renamed).collect();
        inodes.retain(|inode, file| file.handles > 0 || named.contains(inode));
    }

    fn rot(&mut self, name: &str, range: Range<u64>, rot: impl Fn(&mut [u8])) {
        let range = range.start as usize..range.end as usize;
        let inode = self.names.get(name).copied().unwrap_or_else(|| panic!("there is no file {name}"));
        let file = self.file(inode);
        rot(&mut file.content[range.clone()]);
        // What was not synced has nothing there yet that could rot.
        file.durable.get_mut(range).map(rot);
    }

    /// Decides about what is pending.
    fn cut(&mut self, mode: Crash) {
        if mode == Crash::Killed {
            return;
        }
        let torn = self.choose_torn();
        let probability = *[0.05, 0.5, 0.9, 0.99].choose(&mut self.random).expect("some");
        let survival = |number: u64| match mode {
            Crash::Lost => Survival::Nothing,
            Crash::Random => Survival::Parts(probability),
            Crash::Torn if number == torn => Survival::Prefix,
            Crash::Torn if number > torn => Survival::Nothing,
            Crash::Killed | Crash::Kept | Crash::Torn => Survival::Whole,
        };
        for (number, renaming) in std::mem::take(&mut self.renamings) {
            if renaming.survives(survival(number), &mut self.random) {
                renaming.apply(&mut self.durable_names);
            }
        }
        for file in self.inodes.values_mut() {
            for (number, change) in std::mem::take(&mut file.pending) {
                let left = change.left(survival(number), &mut self.random);
                left.iter().for_each(|change| change.apply(&mut file.durable));
            }
            file.content.clone_from(&file.durable);
        }
        self.names.clone_from(&self.durable_names);
    }

    /// The number of the pending change that is torn, or a number above all.
    fn choose_torn(&mut self) -> u64 {
        let changes = self.inodes.values().flat_map(|file| &file.pending).map(|(number, _)| *number);
        let mut numbers: Vec<u64> = changes.chain(self.renamings.iter().map(|(number, _)| *number)).collect();
        numbers.push(u64::MAX);
        *numbers.choose(&mut self.random).expect("one at least")
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, octets } => {
                let range = *offset as usize..*offset as usize + octets.len();
                content.resize(content.len().max(range.end), 0);
                content[range].copy_from_slice(octets);
            }
            Self::Extend { len } => content.resize(content.len().max(*len as usize), 0),
            Self::Truncate => content.clear(),
        }
    }

    fn left(self, survival: Survival, random: &mut StdRng) -> Vec<Self> {
        match survival {
            Survival::Whole => vec![self],
            Survival::Nothing => Vec::new(),
            Survival::Parts(probability) => {
                let mut parts = self.parts();
                parts.retain(|_| random.random_bool(probability));
                parts
            }
            Survival::Prefix => self.prefix(random),
        }
    }

    /// What reaches the medium each by itself: the length, and the sectors.
    fn parts(self) -> Vec<Self> {
        let Self::Write { offset, octets } = self else { return vec![self] };
        let mut parts = vec![Self::Extend { len: offset + octets.len() as u64 }];
        let mut start = 0;
        while start < octets.len() {
            let at = offset as usize + start;
            let end = octets.len().min(start + SECTOR_BYTES - at % SECTOR_BYTES);
            parts.push(Self::Write { offset: at as u64, octets: octets[start..end].to_vec() });
            start = end;
        }
        parts
    }

    fn prefix(self, random: &mut StdRng) -> Vec<Self> {
        let Self::Write { offset, mut octets } = self else { return Vec::new() };
        let mut len = random.random_range(0..=octets.len());
        if random.random_bool(0.5) {
            len = len.saturating_sub((offset as usize + len) % SECTOR_BYTES);
        }
        octets.truncate(len);
        if len == 0 { Vec::new() } else { vec![Self::Write { offset, octets }] }
    }
}

impl Renaming {
    fn inode(&self) -> u64 {
        let (Self::Create { inode, .. } | Self::Move { inode, .. } | Self::Remove { inode, .. }) = self;
        *inode
    }

    /// Says where its file is or is not, whatever became of the changes before it.
    fn apply(&self, names: &mut Names) {
        match self {
            Self::Create { name, inode } => drop(names.insert(name.clone(), *inode)),
            Self::Move { from, to, inode } => {
                names.retain(|name, other| name != from || other != inode);
                names.insert(to.clone(), *inode);
            }
            Self::Remove { name, inode } => names.retain(|other, file| other != name || file != inode),
        }
    }

    fn survives(&self, survival: Survival, random: &mut StdRng) -> bool {
        match survival {
            Survival::Whole => true,
            Survival::Nothing | Survival::Prefix => false,
            Survival::Parts(probability) => random.random_bool(probability),
        }
    }
}
