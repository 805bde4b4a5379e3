//! Tells systemd, when it started this process and asked to be told, that the replica is ready or stops.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// The replica listens and answers.
pub(crate) const READY: &str = "READY=1";
/// The replica was told to end.
pub(crate) const STOPPING: &str = "STOPPING=1";

/// Sends a state to the socket named in `NOTIFY_SOCKET`, if there is one.
pub(crate) fn notify(state: &str) {
    if let Some(socket) = std::env::var_os("NOTIFY_SOCKET")
        && let Err(error) = send(&socket, state)
    {
        tracing::warn!("systemd could not be told {state}: {error}");
    }
}

fn send(socket: &OsStr, state: &str) -> io::Result<()> {
    let address = match socket.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_arrives_at_a_path_and_at_an_abstract_name() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("notify");
        let name = format!("keyturn-test-{}", std::process::id());
        let check = |server: UnixDatagram, socket: &OsStr| {
            send(socket, READY).expect("sends");
            let mut buffer = [0; 32];
            let length = server.recv(&mut buffer).expect("receives");
            assert_eq!(&buffer[..length], READY.as_bytes());
        };
        check(UnixDatagram::bind(&path).expect("binds"), path.as_os_str());
        let address = SocketAddr::from_abstract_name(&name).expect("valid");
        check(UnixDatagram::bind_addr(&address).expect("binds"), OsStr::new(&format!("@{name}")));
    }
}
