//! Makes the kernel forget flows, over netlink.
//!
//! The kernel keeps sending a known flow to the endpoint that it chose first. For TCP that is what a standing connection
//! needs; a flow of UDP, or a connection that nobody answered yet, would go to a dead endpoint for as long as the client
//! tries.

use std::{io, net::Ipv4Addr};

use raftup_proto::spec::Protocol;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use tracing::warn;

use super::table::Port;

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE`
const DELETE: u16 = 1 << 8 | 2;
const NLM_F_REQUEST_ACK: u16 = 0x1 | 0x4;
const AF_INET: u8 = 2;
const NLMSG_ERROR: u16 = 2;
const ENOENT: i32 = 2;

// Attributes, from linux/netfilter/nfnetlink_conntrack.h.
const NESTED: u16 = 1 << 15;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_FILTER: u16 = 25;
const CTA_STATUS_MASK: u16 = 26;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;

// Which parts of a tuple are compared, from net/netfilter/nf_internals.h.
const COMPARE_IP_SRC: u32 = 1 << 0;
const COMPARE_PROTO_NUM: u32 = 1 << 3;
const COMPARE_DST_PORT: u32 = 1 << 5;

/// The other side has sent something.
const IPS_SEEN_REPLY: u32 = 1 << 1;

/// Forgets flows of UDP to `endpoints`, connections of TCP to them that were never answered, and all flows of UDP to the
/// `ports` of this node. What cannot be forgotten is logged and ends by itself.
pub(super) async fn forget(endpoints: Vec<Ipv4Addr>, ports: Vec<Port>) {
    if endpoints.is_empty() && ports.iter().all(|port| port.0 == Protocol::Tcp) {
        return;
    }
    let done = tokio::task::spawn_blocking(move || {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        for endpoint in endpoints {
            delete(&socket, &flows_to(endpoint, Protocol::Udp))?;
            delete(&socket, &flows_to(endpoint, Protocol::Tcp))?;
        }
        for (_, port) in ports.into_iter().filter(|port| port.0 == Protocol::Udp) {
            delete(&socket, &flows_at(port))?;
        }
        io::Result::Ok(())
    });
    match done.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "flows to endpoints that are gone cannot be forgotten"),
        Err(error) => warn!(%error, "flows to endpoints that are gone were not forgotten"),
    }
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}

/// Flows whose answers come from `endpoint`: whatever address the client used.
fn flows_to(endpoint: Ipv4Addr, protocol: Protocol) -> Vec<u8> {
    let tuple = [
        nested(CTA_TUPLE_IP, &attribute(CTA_IP_V4_SRC, &endpoint.octets())),
        nested(CTA_TUPLE_PROTO, &attribute(CTA_PROTO_NUM, &[number(protocol)])),
    ];
    let flags = COMPARE_IP_SRC | COMPARE_PROTO_NUM;
    let filter = [
        attribute(CTA_FILTER_ORIG_FLAGS, &0_u32.to_ne_bytes()),
        attribute(CTA_FILTER_REPLY_FLAGS, &flags.to_ne_bytes()),
    ];
    let mut message =
        [nested(CTA_TUPLE_REPLY, &tuple.concat()), nested(CTA_FILTER, &filter.concat())].concat();
    if protocol == Protocol::Tcp {
        message.extend(attribute(CTA_STATUS, &0_u32.to_be_bytes()));
        message.extend(attribute(CTA_STATUS_MASK, &IPS_SEEN_REPLY.to_be_bytes()));
    }
    message
}

/// Flows of UDP that were sent to `port` of any address.
fn flows_at(port: u16) -> Vec<u8> {
    let protocol = [
        attribute(CTA_PROTO_NUM, &[number(Protocol::Udp)]),
        attribute(CTA_PROTO_DST_PORT, &port.to_be_bytes()),
    ];
    let flags = COMPARE_PROTO_NUM | COMPARE_DST_PORT;
    let filter = [
        attribute(CTA_FILTER_ORIG_FLAGS, &flags.to_ne_bytes()),
        attribute(CTA_FILTER_REPLY_FLAGS, &0_u32.to_ne_bytes()),
    ];
    [
        nested(CTA_TUPLE_ORIG, &nested(CTA_TUPLE_PROTO, &protocol.concat())),
        nested(CTA_FILTER, &filter.concat()),
    ]
    .concat()
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = Vec::with_capacity(length + 3);
    bytes.extend((length as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
    attribute(kind | NESTED, value)
}

/// Sends one request and reads the answer to it.
fn delete(socket: &Socket, attributes: &[u8]) -> io::Result<()> {
    let length = 16 + 4 + attributes.len();
    let mut message = Vec::with_capacity(length);
    message.extend((length as u32).to_ne_bytes());
    message.extend(DELETE.to_ne_bytes());
    message.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    message.extend([0; 8]); // sequence and port: one request at a time
    message.extend([AF_INET, 0, 0, 0]); // nfgenmsg
    message.extend(attributes);
    socket.send_to(&message, &SocketAddr::new(0, 0), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let code = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(NLMSG_ERROR), Some(code)) if code == 0 || -code == ENOENT => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::Error::other("the kernel gave an answer of another kind")),
    }
}
