//! The data directory, which one broker at a time may use.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::Path,
};

use super::RunError;

/// A data directory that is locked until this is dropped, or the process ends in any way.
#[derive(Debug)]
pub(super) struct DataDir {
    /// None if no broker has ever had the directory, so that there is no file to lock.
    _lock: Option<File>,
}

/// The file in it whose lock is the directory's.
const LOCK: &str = "LOCK";

impl DataDir {
    /// Makes the directory if it is missing, and locks it.
    ///
    /// # Errors
    /// If it can't be made or written to, or another broker has it.
    pub(super) fn lock(path: &Path) -> Result<Self, RunError> {
        let failed = |source| RunError::DataDir { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(failed)?;
        let lock = File::create(path.join(LOCK)).map_err(failed)?;
        try_lock(&lock, path)?;
        Ok(Self { _lock: Some(lock) })
    }

    /// Locks the directory in order to look at it, and changes nothing.
    ///
    /// # Errors
    /// If there is none, it can't be read, or a broker has it.
    pub(super) fn lock_as_is(path: &Path) -> Result<Self, RunError> {
        let failed = |source| RunError::DataDir { path: path.to_owned(), source };
        if !path.is_dir() {
            return Err(RunError::NoDataDir { path: path.to_owned() });
        }
        match File::open(path.join(LOCK)) {
            Ok(lock) => {
                try_lock(&lock, path)?;
                Ok(Self { _lock: Some(lock) })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self { _lock: None }),
            Err(error) => Err(failed(error)),
        }
    }
}

fn try_lock(lock: &File, path: &Path) -> Result<(), RunError> {
    lock.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => RunError::DataDirLocked { path: path.to_owned() },
        TryLockError::Error(source) => RunError::DataDir { path: path.to_owned(), source },
    })
}
