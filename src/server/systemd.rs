//! What systemd is told of a service of `Type=notify` (`sd_notify(3)`).

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

use tracing::warn;

/// Everything listens.
pub(super) const READY: &str = "READY=1";
/// The broker is on its way to its end.
pub(super) const STOPPING: &str = "STOPPING=1";

/// Tells systemd, if it has started the broker and wants to know.
pub(super) fn notify(state: &str) {
    let Some(socket) = env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return };
    if let Err(error) = send(socket.as_bytes(), state) {
        warn!("cannot tell systemd {state} at NOTIFY_SOCKET {}: {error}", socket.display());
    }
}

/// Sends to a path, or to a name without a file, which begins with `@`.
fn send(socket: &[u8], state: &str) -> io::Result<()> {
    let address = match socket.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(socket))?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(socket: &UnixDatagram) -> String {
        let mut octets = [0; 64];
        let count = socket.recv(&mut octets).expect("a datagram");
        String::from_utf8_lossy(&octets[..count]).into_owned()
    }

    #[test]
    fn a_path_and_a_name_are_told() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        send(path.as_os_str().as_bytes(), READY).expect("sent");
        assert_eq!(received(&socket), "READY=1");

        let name = format!("leveret-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let socket = UnixDatagram::bind_addr(&address).expect("a socket");
        send(format!("@{name}").as_bytes(), STOPPING).expect("sent");
        assert_eq!(received(&socket), "STOPPING=1");
    }

    #[test]
    fn nobody_there_is_an_error_and_no_more() {
        assert!(send(b"/no/such/socket", READY).is_err());
        assert!(send(&[b'x'; 200], READY).is_err());
    }
}
