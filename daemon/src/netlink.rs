//! Hears what the kernel tells of changes, over netlink.
//!
//! Changes of this process's own are told as well, before the call that made them returns. Leaves alone: what the messages
//! say, but for where one ends and what its attributes hold.

use std::io;

use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};

/// Bytes of changes that wait to be read; after more of them everything counts as changed.
const WAITING: usize = 1 << 20;

/// Bytes of one datagram that are read; the kernel makes none longer.
const BUFFER: usize = 64 << 10;

/// Listens. Dropping it ends that.
pub(crate) struct Listener(TokioSocket);

impl Listener {
    /// Listens to these groups of a family from now on. Errors: the kernel does not have them.
    pub(crate) fn start(family: isize, groups: &[u32]) -> io::Result<Self> {
        let mut socket = TokioSocket::new(family)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        socket.socket_ref().set_rx_buf_sz(i32::try_from(WAITING).unwrap_or(i32::MAX))?;
        for group in groups {
            socket.socket_mut().add_membership(*group)?;
        }
        Ok(Self(socket))
    }

    /// Passes over all that was told until now.
    pub(crate) fn settle(&self) {
        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            buffer.clear();
            match self.0.socket_ref().recv(&mut buffer, 0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // Interrupted, or told that some were lost: there may be more.
                Ok(_) | Err(_) => {}
            }
        }
    }

    /// What `read` makes of the next messages that it makes something of; none when more was told than can wait.
    /// Cancel-safe: what was read and does not matter is of no use later.
    pub(crate) async fn heard<T>(&mut self, read: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
        let mut buffer = Vec::with_capacity(BUFFER);
        loop {
            buffer.clear();
            self.0.recv(&mut buffer).await.ok()?;
            if let Some(news) = read(&buffer) {
                return Some(news);
            }
        }
    }
}

/// The first item of a list whose items say their own length at `at`, in `width` bytes, and what follows it.
pub(crate) fn cut(list: &[u8], at: usize, width: usize) -> Option<(&[u8], &[u8])> {
    let length = match list.get(at..at + width)? {
        [a, b] => usize::from(u16::from_ne_bytes([*a, *b])),
        [a, b, c, d] => usize::try_from(u32::from_ne_bytes([*a, *b, *c, *d])).ok()?,
        _ => return None,
    };
    let item = list.get(..length.max(4))?;
    Some((item, list.get(length.max(4).next_multiple_of(4)..).unwrap_or_default()))
}

/// Bit of an attribute's kind: it holds attributes itself.
pub(crate) const NESTED: u16 = 1 << 15;

/// What the first attribute of that kind holds.
pub(crate) fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let Some((attribute, rest)) = cut(attributes, 0, 2) {
        attributes = rest;
        let kind = u16::from_ne_bytes(attribute.get(2..4)?.try_into().ok()?);
        if kind & !NESTED == wanted {
            return attribute.get(4..);
        }
    }
    None
}
