//! Packets that are moved together; pure.
//!
//! [`Joined`] puts datagrams of one flow and one size behind one header, [`finish_checksum`] does what the kernel left to
//! the device.

use super::tun::{DATAGRAMS, HEADER, NEEDS_CHECKSUM};

/// Bytes of the headers of IPv4, without options, and of UDP.
const IP: usize = 20;
const UDP: usize = 8;
const HEADERS: usize = IP + UDP;

/// Largest IPv4 packet.
const PACKET_MAX: usize = 65_535;

/// Most datagrams in one; the kernel's own bound (`UDP_MAX_SEGMENTS`) on older kernels.
const DATAGRAMS_MAX: usize = 64;

const PROTOCOL_UDP: u8 = 17;

/// Datagrams put together, with room for the device's header in front.
pub(super) struct Joined {
    buffer: Vec<u8>,
    /// Payload bytes of each datagram but the last.
    size: usize,
    count: usize,
    /// The last one was smaller, so none may follow.
    closed: bool,
}

impl Joined {
    pub(super) fn new() -> Self {
        Self { buffer: Vec::with_capacity(HEADER + PACKET_MAX), size: 0, count: 0, closed: true }
    }

    /// Adds a packet. Errors: it does not fit behind the others; they must be [taken](Self::take) first.
    pub(super) fn add(&mut self, packet: &[u8]) -> Result<(), ()> {
        if self.count == 0 {
            self.buffer.clear();
            self.buffer.resize(HEADER, 0);
            self.buffer.extend_from_slice(packet);
            self.count = 1;
            self.size = packet.len().saturating_sub(HEADERS);
            self.closed = !is_datagram(packet) || self.size == 0;
            return Ok(());
        }
        let payload = packet.get(HEADERS..).unwrap_or_default();
        let fits = !self.closed
            && self.count < DATAGRAMS_MAX
            && !payload.is_empty()
            && payload.len() <= self.size
            && self.buffer.len() - HEADER + payload.len() <= PACKET_MAX
            && is_datagram(packet)
            && same_flow(self.buffer.get(HEADER..).unwrap_or_default(), packet);
        if !fits {
            return Err(());
        }
        self.closed = payload.len() < self.size;
        self.buffer.extend_from_slice(payload);
        self.count += 1;
        Ok(())
    }

    /// What was put together, with the device's header; none if nothing was added. Empty afterwards.
    pub(super) fn take(&mut self) -> Option<&[u8]> {
        match std::mem::take(&mut self.count) {
            0 => None,
            1 => Some(&self.buffer),
            _ => {
                self.seal();
                Some(&self.buffer)
            }
        }
    }

    /// Makes the headers those of one packet that the kernel takes apart.
    fn seal(&mut self) {
        let (header, packet) = self.buffer.split_at_mut(HEADER);
        let put = |bytes: &mut [u8], at: usize, value: u16, order: fn(u16) -> [u8; 2]| {
            if let Some(place) = bytes.get_mut(at..at + 2) {
                place.copy_from_slice(&order(value));
            }
        };
        // `virtio_net_hdr` has the byte order of the machine, the packet that of the network.
        let lead = [NEEDS_CHECKSUM, DATAGRAMS];
        header[..2].copy_from_slice(&lead);
        put(header, 2, HEADERS as u16, u16::to_ne_bytes);
        put(header, 4, self.size as u16, u16::to_ne_bytes);
        put(header, 6, IP as u16, u16::to_ne_bytes);
        put(header, 8, 6, u16::to_ne_bytes);
        let length = packet.len();
        put(packet, 2, length as u16, u16::to_be_bytes);
        put(packet, 10, 0, u16::to_be_bytes);
        let checksum = !sum(packet.get(..IP).unwrap_or_default(), 0);
        put(packet, 10, checksum, u16::to_be_bytes);
        let udp_length = (length - IP) as u16;
        put(packet, IP + 4, udp_length, u16::to_be_bytes);
        let pseudo =
            sum(packet.get(12..IP).unwrap_or_default(), u32::from(PROTOCOL_UDP) + u32::from(udp_length));
        put(packet, IP + 6, pseudo, u16::to_be_bytes);
    }
}

/// A whole UDP datagram over IPv4 without options. Its checksum is not looked at: who sent it, and that it is as it was
/// sent, is known by other means here.
fn is_datagram(packet: &[u8]) -> bool {
    let whole = packet.get(2..4).is_some_and(|length| length == (packet.len() as u16).to_be_bytes());
    // Neither "more fragments" nor an offset.
    let unbroken = packet.get(6).is_some_and(|byte| byte & 0x3f == 0) && packet.get(7) == Some(&0);
    packet.first() == Some(&0x45)
        && packet.get(9) == Some(&PROTOCOL_UDP)
        && packet.len() >= HEADERS
        && whole
        && unbroken
}

/// The same kind of service, life time, addresses and ports.
fn same_flow(one: &[u8], other: &[u8]) -> bool {
    [1..2, 8..10, 12..IP + 4].into_iter().all(|part| one.get(part.clone()) == other.get(part))
}

/// Fills in the checksum that the kernel left to the device, which is the one at `start + offset` over all from `start`.
pub(super) fn finish_checksum(packet: &mut [u8], start: usize, offset: usize) {
    let whole = !sum(packet.get(start..).unwrap_or_default(), 0);
    if let Some(place) = packet.get_mut(start + offset..start + offset + 2) {
        // A checksum of 0 means "none" to UDP.
        place.copy_from_slice(&if whole == 0 { 0xffff } else { whole }.to_be_bytes());
    }
}

/// The Internet's checksum of `bytes` on top of `begin`, not yet inverted. Source: RFC 1071.
fn sum(bytes: &[u8], begin: u32) -> u16 {
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    let mut sum = words.fold(begin, |sum, word| {
        let sum = sum + word;
        (sum & 0xffff) + (sum >> 16)
    });
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(port: u16, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0];
        packet.extend(((HEADERS + payload.len()) as u16).to_be_bytes());
        packet.extend([0, 0, 0x40, 0, 64, PROTOCOL_UDP, 0, 0, 10, 64, 16, 1, 10, 64, 16, 2]);
        packet.extend(port.to_be_bytes());
        packet.extend(7240_u16.to_be_bytes());
        packet.extend(((UDP + payload.len()) as u16).to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(payload);
        packet
    }

    #[test]
    fn datagrams_of_one_flow_are_joined_up_to_a_smaller_one() {
        let mut joined = Joined::new();
        for payload in [b"aaaa", b"bbbb"] {
            joined.add(&datagram(9, payload)).unwrap();
        }
        assert_eq!(joined.add(&datagram(8, b"cccc")), Err(()), "another flow");
        assert_eq!(joined.add(&datagram(9, b"ccccc")), Err(()), "a larger one");
        joined.add(&datagram(9, b"cc")).unwrap();
        assert_eq!(joined.add(&datagram(9, b"dd")), Err(()), "one after a smaller one");
        let out = joined.take().unwrap();
        let (header, packet) = out.split_at(HEADER);
        let mut expected = vec![NEEDS_CHECKSUM, DATAGRAMS];
        expected.extend([28_u16, 4, 20, 6].into_iter().flat_map(u16::to_ne_bytes));
        assert_eq!(header, expected);
        assert_eq!(&packet[HEADERS..], b"aaaabbbbcc");
        assert_eq!(packet[2..4], 38_u16.to_be_bytes());
        assert_eq!(packet[IP + 4..IP + 6], 18_u16.to_be_bytes());
        assert_eq!(sum(&packet[..IP], 0), 0xffff, "the header's checksum is right");
        assert!(joined.take().is_none());
    }

    #[test]
    fn a_packet_alone_is_left_as_it_is() {
        let mut joined = Joined::new();
        for packet in [datagram(9, b"alone"), vec![0x60; 60], vec![1]] {
            joined.add(&packet).unwrap();
            let out = joined.take().unwrap();
            assert_eq!((&out[..HEADER], &out[HEADER..]), (&[0; HEADER][..], &packet[..]));
        }
        let broken = [(6, 0x20), (7, 1), (9, 6)];
        for (at, value) in broken {
            let mut packet = datagram(9, b"aaaa");
            packet[at] = value;
            joined.add(&packet).unwrap();
            assert_eq!(joined.add(&packet), Err(()), "byte {at}");
            joined.take();
        }
    }

    #[test]
    fn a_checksum_that_was_left_is_filled_in() {
        let mut packet = datagram(9, b"odd");
        let pseudo = sum(&packet[12..IP], u32::from(PROTOCOL_UDP) + 11);
        packet[IP + 6..IP + 8].copy_from_slice(&pseudo.to_be_bytes());
        finish_checksum(&mut packet, IP, 6);
        assert_eq!(sum(&packet[IP..], u32::from(sum(&packet[12..IP], 0)) + 17 + 11), 0xffff);
    }
}
