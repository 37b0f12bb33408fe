//! Files for their owner's eyes: with password hashes or passwords in them.

use std::{
    fs::{OpenOptions, Permissions},
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// Read and written by the owner, and by nobody else.
const MODE: u32 = 0o600;

/// Writes a file that only its owner can read, over one that is there. What is no regular file, such as `/dev/stdout`,
/// keeps its mode.
///
/// # Errors
/// If it can't be opened or written, or is somebody else's.
pub(super) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(MODE).open(path)?;
    let metadata = file.metadata()?;
    if metadata.is_file() && metadata.permissions().mode() & 0o777 != MODE {
        file.set_permissions(Permissions::from_mode(MODE))?;
    }
    file.write_all(text.as_bytes())
}
