//! Parts of the daemon that are processes of their own, and outlive it: `raftupd PART`.
//!
//! Owns: how one is started and spoken to. Leaves alone: what is said. Holds: only root can connect to its socket, at every
//! moment; killed or upgraded, the daemon finds the part again at its socket.
//!
//! A part has a socket that listens as its standard input. One JSON value a line goes over it: the part greets whoever
//! connects, and then answers each order with one value.

use std::{
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::Path,
    process::Stdio,
    time::Duration,
};

use serde::{
    Serialize,
    de::{DeserializeOwned, IgnoredAny},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    process::Command,
    time::timeout,
};
use zeroize::Zeroizing;

use crate::unix_socket;

/// What one process runs. A daemon that finds another version in a part has it replaced.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long a part may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// Starts the part of that name; it can be spoken to at `socket` as soon as this returns.
///
/// Errors: the socket cannot be made, or the program not be started. Panics: outside of a tokio runtime.
pub fn start(part: &str, socket: &Path) -> io::Result<()> {
    let listener = unix_socket::listen(socket, 0o600, None)?;
    let program = std::env::current_exe()?;
    let mut command = if in_a_unit_of_systemd() {
        // It would be ended with the daemon's unit, and so has one of its own.
        let mut command = Command::new("systemd-run");
        command.args(scope(part)).arg(program);
        command
    } else {
        Command::new(program)
    };
    command.arg(part).current_dir("/").stdin(Stdio::from(OwnedFd::from(listener)));
    command.stdout(Stdio::null()).kill_on_drop(false);
    let mut child = command.spawn()?;
    tokio::spawn(async move {
        // Collected, or it would stay in the table of processes.
        let _ = child.wait().await;
    });
    Ok(())
}

/// How `systemd-run` is called for a part's scope.
///
/// At shutdown units stop in the reverse of the order in which they start. Containers that Docker stops then still need
/// names and other hosts, so the part stops after Docker, and before the network.
fn scope(part: &str) -> [String; 7] {
    [
        "--scope".to_owned(),
        "--quiet".to_owned(),
        "--collect".to_owned(),
        format!("--description=raftup {part}"),
        "--property=Before=docker.service".to_owned(),
        "--property=After=network.target".to_owned(),
        "--".to_owned(),
    ]
}

/// This process belongs to a service of systemd's, all of which is ended together.
fn in_a_unit_of_systemd() -> bool {
    let ours = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    Path::new("/run/systemd/system").is_dir() && ours.trim_end().ends_with(".service")
}

/// The socket of the part that this process is. Errors: its standard input is none.
pub fn listener() -> io::Result<UnixListener> {
    // Out of the daemon's session: what ends that one must not end this one. Fails where it is the first of one already.
    let _ = rustix::process::setsid();
    Ok(UnixListener::from(io::stdin().as_fd().try_clone_to_owned()?))
}

/// Says one value. Errors: the other end is gone.
pub fn say(stream: &std::os::unix::net::UnixStream, value: &impl Serialize) -> io::Result<()> {
    (&mut &*stream).write_all(&line(value)?)
}

/// Gives one order to the part at `socket`, after which something is handed over. What is read from the stream next is the
/// answer to it. Errors: the part does not answer.
pub fn order(socket: &Path, order: &impl Serialize) -> io::Result<std::os::unix::net::UnixStream> {
    let stream = std::os::unix::net::UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    let _: IgnoredAny = hear(&stream)?;
    say(&stream, order)?;
    Ok(stream)
}

/// The next value that the other end says, and not a byte more: what is handed over may come right after it. Errors: none
/// comes in time, or one that is not understood.
pub fn hear<T: DeserializeOwned>(stream: &std::os::unix::net::UnixStream) -> io::Result<T> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    loop {
        (&mut &*stream).read_exact(&mut byte)?;
        if byte == *b"\n" {
            return Ok(serde_json::from_slice(&line)?);
        }
        line.extend(byte);
    }
}

/// Values may hold keys: no copy stays in memory.
fn line(value: &impl Serialize) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(serde_json::to_vec(value)?);
    line.push(b'\n');
    Ok(line)
}

/// The daemon's way to a part.
#[derive(Debug)]
pub struct Link(BufReader<UnixStream>);

impl Link {
    /// Errors: no part listens there.
    pub async fn open(socket: &Path) -> io::Result<Self> {
        Ok(Self(BufReader::new(UnixStream::connect(socket).await?)))
    }

    /// The next value that the part says. Errors: none in time, the end of the part, or one that is not understood.
    pub async fn hear<T: DeserializeOwned>(&mut self) -> io::Result<T> {
        let mut line = String::new();
        match timeout(ANSWER, self.0.read_line(&mut line)).await {
            Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Ok(_)) => Ok(serde_json::from_str(&line)?),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Gives an order and answers what the part says. Errors: as [`Link::hear`].
    pub async fn ask<T: DeserializeOwned>(&mut self, order: &impl Serialize) -> io::Result<T> {
        self.0.get_mut().write_all(&line(order)?).await?;
        self.hear().await
    }

    /// Waits until the part is gone. Cancel-safe.
    pub async fn gone(&mut self) {
        // It says nothing that it was not asked, so whatever comes is its end.
        let _ = self.0.fill_buf().await;
    }
}
