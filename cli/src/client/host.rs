//! Which daemon is asked.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};

/// A daemon's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    path: PathBuf,
}

impl Host {
    /// The daemon of this server.
    pub(crate) const DEFAULT: &str = "unix:///run/raftup/raftup.sock";

    /// The socket's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// It is the daemon of this server, where it usually is.
    pub(crate) fn is_default(&self) -> bool {
        Self::DEFAULT.strip_prefix("unix://").is_some_and(|path| self.path == Path::new(path))
    }
}

/// A text that names no socket.
#[derive(Debug)]
pub(crate) struct BadHost;

impl fmt::Display for BadHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a host is written like `unix:///run/raftup/raftup.sock`")
    }
}

impl std::error::Error for BadHost {}

impl FromStr for Host {
    type Err = BadHost;

    fn from_str(text: &str) -> Result<Self, BadHost> {
        let path = text.strip_prefix("unix://").unwrap_or(text);
        if path.starts_with('/') { Ok(Self { path: PathBuf::from(path) }) } else { Err(BadHost) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_sockets() {
        assert!(Host::DEFAULT.parse::<Host>().unwrap().is_default());
        assert_eq!("/tmp/a.sock".parse::<Host>().unwrap().path(), Path::new("/tmp/a.sock"));
        for text in ["", "unix://", "tcp://h1:2375", "ssh://h1", "a.sock"] {
            assert!(text.parse::<Host>().is_err(), "{text}");
        }
    }
}
