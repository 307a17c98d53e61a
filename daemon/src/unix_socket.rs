//! Local sockets that nobody can connect to before their owner, group and mode are set.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{PermissionsExt, chown},
            net::UnixListener,
        },
    },
    path::Path,
};

use rustix::{
    fs::{Mode, fchmod},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with},
};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// Listens at `path` with permission bits `mode`, for this user and `group` if one is given. What was at the path is removed.
///
/// Errors: the directory is missing, the path is too long, or the group cannot be set.
pub fn listen(path: &Path, mode: u32, group: Option<u32>) -> io::Result<UnixListener> {
    let socket = bound(path)?;
    if group.is_some() {
        chown(path, None, group)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    // Connecting fails up to here, whatever the mode.
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// A socket with a name, for this user alone, that does not listen yet.
fn bound(path: &Path) -> io::Result<OwnedFd> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // `bind` makes the file with the mode that the socket has, less the umask.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::MetadataExt, net::UnixStream};

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_socket_is_for_its_owner_alone_until_its_mode_is_set() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let socket = bound(&path).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(UnixStream::connect(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        drop(socket);
        // The one of a process that is gone is replaced.
        let group = fs::metadata(&path).unwrap().gid();
        for wanted in [0o600, 0o660] {
            let listener = listen(&path, wanted, Some(group)).unwrap();
            assert_eq!((mode(&path), fs::metadata(&path).unwrap().gid()), (wanted, group));
            UnixStream::connect(&path).unwrap();
            listener.accept().unwrap();
        }
        assert!(listen(&dir.path().join("missing").join("a.sock"), 0o600, None).is_err());
        assert!(listen(&dir.path().join("a".repeat(200)), 0o600, None).is_err(), "too long for a socket");
    }
}
