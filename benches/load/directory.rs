//! A directory for the files of one measurement.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::statfs;
use tempfile::TempDir;

/// What `statfs` calls a tmpfs (Linux: `TMPFS_MAGIC`).
const TMPFS: u64 = 0x0102_1994;
/// Bytes of a block of `st_blocks`, whatever the file system's own (stat(2)).
const BLOCK_BYTES: u64 = 512;

/// A new directory, removed when dropped.
pub(crate) struct Directory(TempDir);

impl Directory {
    /// Makes one in `parent`, which should be on a disk.
    pub(crate) fn create(parent: &Path) -> Result<Directory> {
        let directory = tempfile::Builder::new()
            .prefix("load.")
            .tempdir_in(parent)
            .with_context(|| format!("cannot make a directory in {}", parent.display()))?;
        if statfs(directory.path())?.f_type as u64 == TMPFS {
            eprintln!("NOTE: {} is in memory, where a sync costs nothing: see --directory", parent.display());
        }
        Ok(Directory(directory))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// What the files below one of its entries take on the disk, in bytes.
    pub(crate) fn used_bytes(&self, entry: &str) -> Result<u64> {
        used_bytes(&self.0.path().join(entry))
    }
}

fn used_bytes(path: &Path) -> Result<u64> {
    let metadata = match path.symlink_metadata() {
        Ok(metadata) => metadata,
        // The broker at work may have removed it since it was listed.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error.into()),
    };
    let mut bytes = metadata.blocks() * BLOCK_BYTES;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            bytes += used_bytes(&entry?.path())?;
        }
    }
    Ok(bytes)
}
