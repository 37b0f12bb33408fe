//! `NODE`: the file that says what a data directory is, for people and for other versions.
//!
//! Lines of text, one of which is `format_version = ` and the version of the latest format that anything in the directory
//! may have. It is durable before anything of that format is written, so an earlier program never takes what it does not
//! know for damage.

use std::io;

use super::{
    FORMAT_VERSION, StorageError,
    disk::Disk,
    is_readable,
    segment::{io_error, other_version},
};

const NAME: &str = "NODE";
const NEW: &str = "NODE.new";
const KEY: &str = "format_version = ";

/// Refuses a directory of a later version. One without the file is new, or its other files tell.
///
/// # Errors
/// If it is, or can't be read.
pub(super) fn check(disk: &dyn Disk) -> Result<(), StorageError> {
    let text = match read(disk) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        text => text.map_err(|error| io_error(disk, "read", NAME, error))?,
    };
    match version(&text) {
        Some(version) if is_readable(version) => Ok(()),
        Some(found) => Err(other_version(disk, NAME, found)),
        None => {
            let error = io::Error::other(format!("it has no line {KEY}{FORMAT_VERSION}"));
            Err(io_error(disk, "understand", NAME, error))
        }
    }
}

fn version(text: &str) -> Option<u32> {
    text.lines().find_map(|line| line.strip_prefix(KEY)?.trim().parse().ok())
}

fn read(disk: &dyn Disk) -> io::Result<String> {
    let file = disk.open(NAME)?;
    let mut octets = vec![0; usize::try_from(file.len()?).map_err(io::Error::other)?];
    file.read_exact_at(&mut octets, 0)?;
    String::from_utf8(octets).map_err(io::Error::other)
}

/// Writes the file durably if it is not there, or says an earlier version.
///
/// # Errors
/// If it can't be written.
pub(super) fn write(disk: &dyn Disk) -> Result<(), StorageError> {
    if read(disk).is_ok_and(|text| version(&text) == Some(FORMAT_VERSION)) {
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
