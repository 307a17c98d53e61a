//! From the resolver of one version to the daemon, and from the daemon to a resolver: the sockets themselves, so that no
//! question is lost.
//!
//! One message for each gateway with its two sockets, then one of the address 0.0.0.0 without. The older one reads on
//! until all of them are handed over; what is asked then waits in them.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    os::{fd::AsFd, unix::net::UnixStream},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// Sockets of a gateway.
const SOCKETS: usize = 2;

/// The sockets of one gateway.
#[derive(Debug)]
pub(super) struct Sockets {
    pub(super) gateway: Ipv4Addr,
    pub(super) udp: UdpSocket,
    pub(super) tcp: TcpListener,
}

/// Hands sockets over `stream`. Errors: the other end is gone.
pub(super) fn give(stream: &UnixStream, all: &[Sockets]) -> io::Result<()> {
    for sockets in all {
        let fds = [sockets.udp.as_fd(), sockets.tcp.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        if !beside.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        send(stream, sockets.gateway, &mut beside)?;
    }
    send(stream, Ipv4Addr::UNSPECIFIED, &mut SendAncillaryBuffer::default())
}

fn send(
    stream: &UnixStream,
    gateway: Ipv4Addr,
    beside: &mut SendAncillaryBuffer<'_, '_, '_>,
) -> io::Result<()> {
    sendmsg(stream, &[IoSlice::new(&gateway.octets())], beside, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Takes what is handed over `stream`. Errors: not all of it comes.
pub(super) fn take(stream: &UnixStream) -> io::Result<Vec<Sockets>> {
    let mut all = Vec::new();
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SOCKETS))];
        let mut beside = RecvAncillaryBuffer::new(&mut space);
        let mut address = [0; 4];
        let mut parts = [IoSliceMut::new(&mut address)];
        let length = recvmsg(stream, &mut parts, &mut beside, RecvFlags::CMSG_CLOEXEC)?.bytes;
        let mut fds = beside.drain().flat_map(|message| {
            if let RecvAncillaryMessage::ScmRights(fds) = message { fds.collect() } else { Vec::new() }
        });
        let gateway = Ipv4Addr::from(address);
        match (fds.next(), fds.next()) {
            (Some(udp), Some(tcp)) => {
                all.push(Sockets { gateway, udp: udp.into(), tcp: tcp.into() });
            }
            _ if length == address.len() && gateway.is_unspecified() => return Ok(all),
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_that_are_handed_over_are_the_same() {
        let sockets = |last| {
            let gateway = Ipv4Addr::new(127, 0, 0, last);
            let (udp, tcp) =
                (UdpSocket::bind((gateway, 0)).unwrap(), TcpListener::bind((gateway, 0)).unwrap());
            Sockets { gateway, udp, tcp }
        };
        let addresses = |all: &[Sockets]| {
            let of = |one: &Sockets| (one.udp.local_addr().unwrap(), one.tcp.local_addr().unwrap());
            all.iter().map(of).collect::<Vec<_>>()
        };
        // More than one message could carry.
        let given: Vec<Sockets> = (1..=200).map(sockets).collect();
        let (here, there) = UnixStream::pair().unwrap();
        let taken = std::thread::scope(|scope| {
            let taken = scope.spawn(move || take(&there).unwrap());
            give(&here, &given).unwrap();
            taken.join().unwrap()
        });
        assert_eq!(addresses(&taken), addresses(&given));

        let (here, there) = UnixStream::pair().unwrap();
        send(&here, Ipv4Addr::LOCALHOST, &mut SendAncillaryBuffer::default()).unwrap();
        assert!(take(&there).is_err(), "no sockets");
        let (here, there) = UnixStream::pair().unwrap();
        drop(here);
        assert!(take(&there).is_err(), "broken off");
    }
}
