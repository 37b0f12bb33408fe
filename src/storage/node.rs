//! `NODE`: the file that says what a data directory is, for people and for other versions.

use std::io;

use super::{
    FORMAT_VERSION, StorageError,
    disk::Disk,
    segment::{io_error, other_version},
};

const NAME: &str = "NODE";
const NEW: &str = "NODE.new";
const KEY: &str = "format_version = ";

/// Refuses a directory of another version. One without the file is new, or its other files tell.
///
/// # Errors
/// If it is, or can't be read.
pub(super) fn check(disk: &dyn Disk) -> Result<(), StorageError> {
    let text = match read(disk) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        text => text.map_err(|error| io_error(disk, "read", NAME, error))?,
    };
    let version = text.lines().find_map(|line| line.strip_prefix(KEY)?.trim().parse().ok());
    match version {
        Some(FORMAT_VERSION) => Ok(()),
        Some(found) => Err(other_version(disk, NAME, found)),
        None => {
            let error = io::Error::other(format!("it has no line {KEY}{FORMAT_VERSION}"));
            Err(io_error(disk, "understand", NAME, error))
        }
    }
}

fn read(disk: &dyn Disk) -> io::Result<String> {
    let file = disk.open(NAME)?;
    let mut octets = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
    file.read_exact_at(&mut octets, 0)?;
    String::from_utf8(octets).map_err(io::Error::other)
}

/// Writes the file if it is not there.
///
/// # Errors
/// If it can't be written.
pub(super) fn write_if_missing(disk: &dyn Disk) -> Result<(), StorageError> {
    if read(disk).is_ok() {
        return Ok(());
    }
    let text =
        format!("# A data directory of Leveret. Everything in it belongs together.\n{KEY}{FORMAT_VERSION}\n");
    let written = (|| {
        let file = disk.create(NEW)?;
        file.write_all_at(text.as_bytes(), 0)?;
        file.sync()?;
        disk.rename(NEW, NAME)?;
        disk.sync_directory()
    })();
    written.map_err(|error| io_error(disk, "write", NAME, error))
}
