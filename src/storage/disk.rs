//! Files as the storage sees them. Everything it does to a disk goes through [`Disk`] and [`DiskFile`], so that a test can
//! put a disk in their place that loses, tears and fails.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

/// One directory of files without subdirectories.
///
/// What is written is durable only once it is synced; that a file is there under its name, or is gone, only after
/// [`Disk::sync_directory`].
pub trait Disk: fmt::Debug + Send + Sync {
    /// The names of the files, in no order in particular.
    ///
    /// # Errors
    /// What the system says.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Opens a file that is there, to read and write.
    ///
    /// # Errors
    /// What the system says; `NotFound` if it is not there.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Makes a new file, or an existing one empty, to read and write.
    ///
    /// # Errors
    /// What the system says.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;

    /// Gives a file another name, in place of whatever had it.
    ///
    /// # Errors
    /// What the system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes durable which files there are.
    ///
    /// # Errors
    /// What the system says.
    fn sync_directory(&self) -> io::Result<()>;

    /// Octets that may still be written.
    ///
    /// # Errors
    /// What the system says.
    fn free_bytes(&self) -> io::Result<u64>;

    /// The path to show to people for a file of that name.
    fn path(&self, name: &str) -> PathBuf;
}

/// An open file.
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// Its length in octets.
    ///
    /// # Errors
    /// What the system says.
    fn len(&self) -> io::Result<u64>;

    /// Whether it is empty.
    ///
    /// # Errors
    /// What the system says.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills the buffer from that offset.
    ///
    /// # Errors
    /// What the system says; `UnexpectedEof` if the file ends before.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all octets at that offset.
    ///
    /// # Errors
    /// What the system says. Some of it may have been written then.
    fn write_all_at(&self, octets: &[u8], offset: u64) -> io::Result<()>;

    /// Makes room for that many octets from the start, so that writing there can't fail for want of space. New octets
    /// read as zeros.
    ///
    /// # Errors
    /// What the system says, `StorageFull` among it.
    fn allocate(&self, len: u64) -> io::Result<()>;

    /// Makes what was written durable, and the length with it.
    ///
    /// # Errors
    /// What the system says. It must not be tried again: the system may have dropped what it could not write.
    fn sync(&self) -> io::Result<()>;
}

/// A directory of the file system.
#[derive(Debug)]
pub struct FileDisk {
    directory: PathBuf,
}

impl FileDisk {
    /// The directory of that path, which must exist.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into() }
    }

    fn join(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

impl Disk for FileDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            // What is not UTF-8 is not ours.
            names.extend(entry?.file_name().into_string().ok());
        }
        Ok(names)
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.join(name);
        Ok(Arc::new(patiently(|| OpenOptions::new().read(true).write(true).open(&path))?))
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.join(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let file = patiently(|| options.open(&path))?;
        Ok(Arc::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.join(from), self.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        patiently(|| File::open(&self.directory))?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        free_bytes(&self.directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.join(name)
    }
}

/// Opens a file, and waits if the process or the system has no descriptor left: clients that hold them all go sooner or
/// later, and are no reason to give up what is stored.
#[expect(clippy::disallowed_methods, reason = "nobody tells when a descriptor is free")]
fn patiently(open: impl Fn() -> io::Result<File>) -> io::Result<File> {
    use rustix::io::Errno;
    let has_none_left = |error: &io::Error| {
        [Errno::MFILE, Errno::NFILE].iter().any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
    };
    loop {
        match open() {
            Err(error) if has_none_left(&error) => thread::sleep(DESCRIPTOR_WAIT),
            opened => return opened,
        }
    }
}

/// How long to wait for a descriptor before it is tried again.
const DESCRIPTOR_WAIT: Duration = Duration::from_millis(10);

/// Octets that an ordinary user may still write to the file system of that path.
///
/// # Errors
/// What the system says.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let status = rustix::fs::statvfs(path)?;
    Ok(status.f_bavail.saturating_mul(status.f_frsize))
}

impl DiskFile for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buffer, offset)
    }

    fn write_all_at(&self, octets: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, octets, offset)
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(self, rustix::fs::FallocateFlags::empty(), 0, len)?)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
