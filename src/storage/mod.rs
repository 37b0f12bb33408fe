//! Durability: the facts of the broker as records of a log, and back.
//!
//! Synchronous, and behind the [`disk::Disk`] trait. [`open`] recovers what a directory holds. The log thread then has the
//! [`Log`]: it writes batches of facts and syncs them. Whoever needs messages that are only on disk has the [`Reader`].

mod backlog;
mod batch;
mod checkpoint;
mod cleaner;
mod defined;
mod definition_log;
mod definitions;
pub mod disk;
mod index;
mod log;
mod node;
mod positions;
mod reader;
mod record;
mod recovery;
mod seen;
mod segment;
#[cfg(test)]
#[path = "../../tests/disk/mod.rs"]
mod sim_disk;
#[cfg(test)]
mod tests;

use std::{io, path::PathBuf, sync::Arc};

use self::{
    defined::Defined, definition_log::DefinitionLog, disk::Disk, log::Shared, recovery::Recovery,
    segment::Spares,
};
pub use self::{log::Log, reader::Reader};
use crate::broker::restore::Recovered;

/// The format of everything that is written. A directory of a version before it is read and becomes one of this version;
/// one of a later version is refused.
///
/// 1. is the first one.
/// 2. has deadlines, priorities that are 0 and said so, messages that are held, and keys of duplicates.
/// 3. has what is said about virtual hosts, users without a password or with one hashed by MD5, and which file of
///    definitions was loaded.
pub const FORMAT_VERSION: u32 = 3;

/// Whether files of that version can be read.
fn is_readable(version: u32) -> bool {
    (1..=FORMAT_VERSION).contains(&version)
}

/// What can be set.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The length of a segment of the log, in octets; at least 64 KiB.
    pub segment_bytes: u64,
    /// Whether to go on when what was promised is damaged: without what can't be read.
    pub salvage: bool,
}

/// Why storage can't go on.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The system refuses to read or write. A failed write or sync is never tried again.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The data directory is of a later version.
    #[error(
        "{} has format version {found}, this is leveret for format version {FORMAT_VERSION}; use the version of \
         leveret that wrote it", path.display()
    )]
    Version {
        /// The file that says so.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Something that was promised to be durable is damaged or missing.
    #[error("{damage}; start with --salvage to go on without it")]
    Damaged {
        /// What, where, and what is lost by it.
        damage: String,
    },
}

/// An open data directory.
#[derive(Debug)]
pub struct Opened {
    /// For the log thread.
    pub log: Log,
    /// For whoever loads messages.
    pub reader: Reader,
    /// What to put back into the broker.
    pub recovered: Recovered,
    /// What was damaged, a line each; only with [`Options::salvage`].
    pub salvaged: Vec<String>,
}

/// Opens a data directory that nobody else uses, and recovers what it holds. An empty directory becomes a new one, and one
/// of an earlier version becomes one of this version, which earlier programs refuse.
/// Progress of long work goes to the program's log.
///
/// # Errors
/// If it can't be read or written, is of a later version, or is damaged.
pub fn open(disk: Arc<dyn Disk>, options: Options) -> Result<Opened, StorageError> {
    let recovery = recover_checked(&disk, options.salvage)?;
    node::write(&*disk)?;
    let queues = recovery.make_durable(&*disk)?;
    let seen = recovery.seen();
    let Recovery { names, definitions: read, next_id, index, chain, replayed, leftover, damage, .. } =
        recovery;
    let defined = Defined::new(&read.definitions);
    let (definition_log, definitions) = DefinitionLog::open(Arc::clone(&disk), read)?;
    let spares = Spares::open(Arc::clone(&disk), options.segment_bytes, &names)?;
    let newest = names.iter().filter_map(|name| segment::id_of(name)).max();
    // A number is not used twice, though what had it may have been let go of behind a checkpoint, even a damaged one.
    let checkpoints = names.iter().filter_map(|name| checkpoint::replay_from(name)).max();
    let next_segment = newest.map_or(1, |id| id + 1).max(checkpoints.unwrap_or(1));
    let shared = Arc::new(Shared::new(disk, index));
    let reader = Reader::new(Arc::clone(&shared));
    let mut log = Log::start(shared, definition_log, defined, spares, chain, next_segment, &options)?;
    log.dead.extend(leftover);
    if !replayed.is_empty() || !damage.is_empty() {
        log.checkpoint(next_segment)?;
    }
    let recovered = Recovered { definitions, next_id, queues, seen };
    Ok(Opened { log, reader, recovered, salvaged: damage })
}

fn recover_checked(disk: &Arc<dyn Disk>, salvage: bool) -> Result<Recovery, StorageError> {
    node::check(&**disk)?;
    let recovery = recovery::recover(disk)?;
    match recovery.damage.split_first() {
        Some((first, rest)) if !salvage => {
            let more = if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
            Err(StorageError::Damaged { damage: format!("{first}{more}") })
        }
        _ => Ok(recovery),
    }
}

/// What a check of a data directory has found.
#[derive(Debug, Default)]
pub struct Report {
    /// What is there, a line each.
    pub contents: Vec<String>,
    /// What is damaged, a line each, with file, offset, queues and counts.
    pub damage: Vec<String>,
}

/// Checks every record of a data directory, and changes nothing.
///
/// # Errors
/// If it can't be read, or is of a later version.
pub fn check(disk: Arc<dyn Disk>) -> Result<Report, StorageError> {
    node::check(&*disk)?;
    let recovery = recovery::recover(&disk)?;
    recovery.report(&*disk)
}
