//! From the tunnel of one version to that of another, without a lost packet.
//!
//! The old process hands device and socket over, and reads neither from then on. The new one has no sessions yet: what
//! needs one of the old's, in either direction, it passes on to the old process, which has the same device and socket and
//! does as before. As soon as all links of the new one stand, the old one is let go.
//!
//! ```text
//! new -> old   0, packet of the device with its header
//!              1, where it came from, datagram
//! ```

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::{IpAddr, SocketAddr},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg, socketpair,
};

/// What is handed over: device, socket, and the way to the old process.
const HANDED: usize = 3;

/// Says whether the device takes datagrams apart; beside it travels what is handed over.
const SEGMENTS: u8 = 1;

const PACKET: u8 = 0;
const DATAGRAM: u8 = 1;

/// Longest message: a packet, and where it came from.
pub(super) const MESSAGE_MAX: usize = 1 << 17;

/// Bytes of an address and a port.
const ENDPOINT: usize = 18;

/// The way to the old process.
#[derive(Debug)]
pub(super) struct Old(OwnedFd);

/// The way from the new process.
#[derive(Debug)]
pub(super) struct New(OwnedFd);

/// What a new process asks.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Asked<'a> {
    /// Send this packet of the device.
    Send(&'a mut [u8]),
    /// Take this datagram in.
    TakeIn(SocketAddr, &'a mut [u8]),
}

/// Hands device and socket over `stream`. Answers the way from the new process. Errors: the other end is gone.
pub(super) fn give(
    stream: &UnixStream,
    device: impl AsFd,
    segments: bool,
    socket: impl AsFd,
) -> io::Result<New> {
    let (old, new) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(HANDED))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    let fds = [device.as_fd(), socket.as_fd(), old.as_fd()];
    if !beside.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let word = [if segments { SEGMENTS } else { 0 }];
    sendmsg(stream, &[IoSlice::new(&word)], &mut beside, SendFlags::NOSIGNAL)?;
    Ok(New(new))
}

/// Takes what is handed over `stream`: device, whether it takes datagrams apart, socket, and the way to the old process.
/// Errors: it is not handed over.
pub(super) fn take(stream: &UnixStream) -> io::Result<(OwnedFd, bool, OwnedFd, Old)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(HANDED))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let mut word = [0];
    let mut parts = [IoSliceMut::new(&mut word)];
    recvmsg(stream, &mut parts, &mut beside, RecvFlags::CMSG_CLOEXEC)?;
    let mut fds = beside.drain().flat_map(|message| {
        if let RecvAncillaryMessage::ScmRights(fds) = message { fds.collect() } else { Vec::new() }
    });
    match (fds.next(), fds.next(), fds.next()) {
        (Some(device), Some(socket), Some(old)) => Ok((device, word == [SEGMENTS], socket, Old(old))),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

impl Old {
    /// Has it send a packet of the device.
    pub(super) fn send(&self, packet: &[u8]) {
        self.pass(&[&[PACKET], packet].concat());
    }

    /// Has it take a datagram in.
    pub(super) fn take_in(&self, from: SocketAddr, datagram: &[u8]) {
        let mut message = vec![DATAGRAM];
        message.extend(match from.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
            IpAddr::V6(address) => address.octets(),
        });
        message.extend(from.port().to_be_bytes());
        message.extend(datagram);
        self.pass(&message);
    }

    fn pass(&self, message: &[u8]) {
        // It may be gone; then it has no session either.
        let _ = send(&self.0, message, SendFlags::NOSIGNAL);
    }
}

impl New {
    /// The next thing that the new process asks; none if it asks no more. A message that is not understood is skipped.
    pub(super) fn next<'a>(&self, buffer: &'a mut [u8]) -> Option<Option<Asked<'a>>> {
        let length = match recv(&self.0, &mut *buffer, RecvFlags::empty()) {
            Ok((0, _)) | Err(_) => return None,
            Ok((length, _)) => length,
        };
        Some(buffer.get_mut(..length).and_then(asked))
    }
}

fn asked(message: &mut [u8]) -> Option<Asked<'_>> {
    let (kind, rest) = message.split_first_mut()?;
    if *kind == PACKET {
        return Some(Asked::Send(rest));
    }
    let (from, datagram) = rest.split_at_mut_checked(ENDPOINT)?;
    let (address, port) = from.split_first_chunk::<16>()?;
    let address = IpAddr::from(*address).to_canonical();
    let port = u16::from_be_bytes(<[u8; 2]>::try_from(port).ok()?);
    Some(Asked::TakeIn(SocketAddr::new(address, port), datagram))
}

#[cfg(test)]
mod tests {
    use std::{io::Read, io::Write, net::UdpSocket};

    use super::*;

    #[test]
    fn what_is_handed_over_is_the_same_and_the_old_one_is_heard() {
        let (here, there) = UnixStream::pair().unwrap();
        let (mut device, copy) = UnixStream::pair().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let new = give(&here, &copy, true, &socket).unwrap();
        let (taken, segments, taken_socket, old) = take(&there).unwrap();
        assert!(segments);
        UnixStream::from(taken).write_all(b"through").unwrap();
        let mut text = [0; 7];
        device.read_exact(&mut text).unwrap();
        assert_eq!(&text, b"through");
        assert_eq!(UdpSocket::from(taken_socket).local_addr().unwrap(), socket.local_addr().unwrap());

        let mut buffer = vec![0; MESSAGE_MAX];
        old.send(b"packet");
        assert_eq!(new.next(&mut buffer), Some(Some(Asked::Send(&mut b"packet".to_vec()))));
        for from in ["192.0.2.7:7239", "[2001:db8::7]:9"] {
            let from: SocketAddr = from.parse().unwrap();
            old.take_in(from, b"datagram");
            assert_eq!(new.next(&mut buffer), Some(Some(Asked::TakeIn(from, &mut b"datagram".to_vec()))));
        }
        old.pass(&[DATAGRAM, 1, 2]);
        assert_eq!(new.next(&mut buffer), Some(None), "too short");
        drop(old);
        assert_eq!(new.next(&mut buffer), None);
    }
}
