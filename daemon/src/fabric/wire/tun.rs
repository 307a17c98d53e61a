//! The device whose packets the tunnel carries.
//!
//! Each read and write moves one packet behind a header that says what the kernel left to be done, or may do
//! (`virtio_net_hdr`). Packets of VXLAN come one by one; those that arrived together are written as one, and the kernel
//! takes them apart again where it hands them to VXLAN.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use raftup_proto::view::WIRE_DEVICE;
use rustix::io::Errno;
use tun_rs::DeviceBuilder;

/// Bytes of the header before each packet.
pub(super) const HEADER: usize = 10;

/// Header: the checksum is to be filled in.
pub(super) const NEEDS_CHECKSUM: u8 = 1;

/// Header: UDP datagrams of one size that were put together (`VIRTIO_NET_HDR_GSO_UDP_L4`).
pub(super) const DATAGRAMS: u8 = 5;

/// Packets that may wait to be read. More only makes them late.
const QUEUE: u32 = 2000;

/// The device. It is there for as long as the process.
#[derive(Debug)]
pub(super) struct Tun {
    fd: OwnedFd,
    /// The kernel takes datagrams apart (Linux 6.2 and newer).
    pub(super) segments: bool,
}

impl Tun {
    /// Makes the device. Errors: no `/dev/net/tun`, or no right to.
    pub(super) fn make() -> io::Result<Self> {
        let device = DeviceBuilder::new().name(WIRE_DEVICE).offload(true).enable(false).build_sync()?;
        device.set_tx_queue_len(QUEUE)?;
        device.set_nonblocking(true)?;
        let segments = device.udp_gso();
        Ok(Self { fd: device.as_fd().try_clone_to_owned()?, segments })
    }

    /// The device of another process.
    pub(super) fn adopt(fd: OwnedFd, segments: bool) -> Self {
        Self { fd, segments }
    }

    /// Reads one packet with its header; none if there is none now.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match rustix::io::read(&self.fd, &mut *buffer) {
                Ok(length) => return Ok(Some(length)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                // The device is not up yet.
                Err(Errno::IO) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes one packet with its header. What the kernel does not want is lost, as on any device.
    pub(super) fn write(&self, packet: &[u8]) {
        while let Err(Errno::INTR) = rustix::io::write(&self.fd, packet) {}
    }
}

impl AsFd for Tun {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
