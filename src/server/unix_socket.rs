//! A socket for AMQP within the machine.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt as _, PermissionsExt as _},
        net::UnixStream,
    },
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;
use tracing::warn;

use super::{
    RunError,
    listener::{ACCEPT_RETRY, Connections},
};
use crate::config::FileMode;

/// A socket that accepts connections. Its file is removed when this is dropped.
#[derive(Debug)]
pub(super) struct UnixSocket {
    socket: UnixListener,
    path: PathBuf,
}

impl UnixSocket {
    /// Listens at that path. A socket that an earlier broker has left there is replaced.
    ///
    /// # Errors
    /// If somebody listens there, something else is there, or the system refuses.
    pub(super) fn bind(path: &Path, FileMode(mode): FileMode) -> Result<Self, RunError> {
        let failed = |source| RunError::UnixSocket { path: path.to_owned(), source };
        remove_stale(path).map_err(failed)?;
        let socket = UnixListener::bind(path).map_err(failed)?;
        let bound = Self { socket, path: path.to_owned() };
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
        Ok(bound)
    }

    /// Its path.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Accepts connections until the broker stops.
    pub(super) async fn accept(self, connections: Connections) {
        loop {
            tokio::select! {
                accepted = self.socket.accept() => match accepted {
                    Ok((stream, _)) => connections.start_unix(stream),
                    Err(error) => {
                        warn!("cannot accept a connection on {}: {error}", self.path.display());
                        tokio::time::sleep(ACCEPT_RETRY).await;
                    }
                },
                () = connections.stopped() => return,
            }
        }
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // If it can't be removed, the next start does.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes a socket that nobody listens on any more.
fn remove_stale(path: &Path) -> io::Result<()> {
    let status = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        status => status?,
    };
    if !status.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is something else, not a socket"));
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MODE: FileMode = FileMode(0o600);

    fn refusal(path: &Path) -> String {
        UnixSocket::bind(path, MODE).expect_err("a refusal").to_string()
    }

    #[tokio::test]
    async fn only_a_socket_that_nobody_listens_on_is_replaced() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socket");
        // The standard library's listener leaves its file behind, as a process that is killed does.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
        let socket = UnixSocket::bind(&path, MODE).expect("the place of the stale one");
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        assert!(refusal(&path).contains("another process listens there"));
        drop(socket);
        assert!(!path.exists());

        fs::write(&path, "precious").expect("a file");
        assert!(refusal(&path).contains("something else"));
        assert_eq!(fs::read_to_string(&path).expect("the file"), "precious");
        assert!(refusal(&directory.path().join("missing/socket")).contains("No such file"));
    }
}
