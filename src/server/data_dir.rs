//! The data directory, which one broker at a time may use.

use std::{
    fs::{self, File, TryLockError},
    path::Path,
};

use super::RunError;

/// A data directory that is locked until this is dropped, or the process ends in any way.
#[derive(Debug)]
pub(super) struct DataDir {
    _lock: File,
}

impl DataDir {
    /// Makes the directory if it is missing, and locks it.
    ///
    /// # Errors
    /// If it can't be made or written to, or another broker has it.
    pub(super) fn lock(path: &Path) -> Result<Self, RunError> {
        let failed = |source| RunError::Storage { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(failed)?;
        let lock = File::create(path.join("LOCK")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(RunError::DataDirLocked { path: path.to_owned() }),
            Err(TryLockError::Error(source)) => Err(failed(source)),
        }
    }
}
