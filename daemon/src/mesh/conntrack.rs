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
use crate::netlink::{NESTED, cut, find};

/// `NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_DELETE`
const DELETE: u16 = 1 << 8 | 2;
/// The same with `IPCTNL_MSG_CT_GET`.
const GET: u16 = 1 << 8 | 1;
/// The same with `IPCTNL_MSG_CT_NEW`: what is listed, and a change of it.
const NEW: u16 = 1 << 8;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const AF_INET: u8 = 2;
/// Bytes of a message before its attributes.
const HEADERS: usize = 16 + 4;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const ENOENT: i32 = 2;

// Attributes, from linux/netfilter/nfnetlink_conntrack.h.
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_TIMEOUT: u16 = 7;
const CTA_ZONE: u16 = 18;
const CTA_FILTER: u16 = 25;
const CTA_STATUS_MASK: u16 = 26;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_TCP_STATE: u16 = 1;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const CTA_FILTER_REPLY_FLAGS: u16 = 2;

// Which parts of a tuple are compared, from net/netfilter/nf_internals.h.
const COMPARE_IP_SRC: u32 = 1 << 0;
const COMPARE_PROTO_NUM: u32 = 1 << 3;
const COMPARE_DST_PORT: u32 = 1 << 5;

/// Both sides have closed; the kernel remembers that for two minutes.
const TIME_WAIT: u8 = 7;

/// What is remembered of ended connections to an endpoint that is about to stop lasts for so many seconds more.
const LAST: u32 = 1;

/// Bytes of changes that are sent at a time.
const BATCH_BYTES: usize = 16 << 10;

/// The other side has sent something.
const IPS_SEEN_REPLY: u32 = 1 << 1;

/// Forgets flows of UDP to `endpoints`, connections of TCP to them that were never answered, and all flows of UDP to the
/// `ports` of this node. What cannot be forgotten is logged and ends by itself.
pub(super) async fn forget(endpoints: Vec<Ipv4Addr>, ports: Vec<Port>) {
    if endpoints.is_empty() && ports.iter().all(|port| port.0 == Protocol::Tcp) {
        return;
    }
    ask(move |socket| {
        for endpoint in endpoints {
            delete(socket, &flows_to(endpoint, Protocol::Udp))?;
            delete(socket, &flows_to(endpoint, Protocol::Tcp))?;
        }
        for (_, port) in ports.into_iter().filter(|port| port.0 == Protocol::Udp) {
            delete(socket, &flows_at(port))?;
        }
        Ok(())
    })
    .await;
}

/// Forgets all connections of TCP to `endpoints`, which no table leads to any more. The next packet of a client is led to
/// another endpoint, which knows nothing of it and resets the connection.
pub async fn cut_connections(endpoints: Vec<Ipv4Addr>) {
    if endpoints.is_empty() {
        return;
    }
    ask(move |socket| {
        endpoints.iter().try_for_each(|endpoint| delete(socket, &answered_by(*endpoint, Protocol::Tcp)))
    })
    .await;
}

/// Has the kernel forget connections of TCP to `endpoint` that have ended, within a second. Their engine would do that too,
/// when their container is gone: from a list that it made a moment before, one by one, by the client's port. A client that
/// has come again from that port meanwhile would lose its new connection, to whichever endpoint.
///
/// A new connection that takes the place of an ended one here gets a short time as well, until its next packet.
pub async fn forget_ended(endpoint: Ipv4Addr) {
    ask(move |socket| {
        // What is listed is read on the other one meanwhile.
        let (changes, mut batch) = (open()?, Vec::new());
        list(socket, &answered_by(endpoint, Protocol::Tcp), |flow| {
            batch.extend(ended(flow).unwrap_or_default());
            if batch.len() >= BATCH_BYTES {
                send(&changes, &batch)?;
                batch.clear();
            }
            Ok(())
        })?;
        send(&changes, &batch)
    })
    .await;
}

/// Has the kernel do what `requests` asks of it. A failure is logged: what is not forgotten ends by itself.
async fn ask(requests: impl FnOnce(&Socket) -> io::Result<()> + Send + 'static) {
    let done = tokio::task::spawn_blocking(move || requests(&open()?));
    match done.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "connections cannot be forgotten"),
        Err(error) => warn!(%error, "connections were not forgotten"),
    }
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    Ok(socket)
}

fn send(socket: &Socket, messages: &[u8]) -> io::Result<()> {
    if !messages.is_empty() {
        socket.send_to(messages, &SocketAddr::new(0, 0), 0)?;
    }
    Ok(())
}

/// Shows the attributes of each flow that fits to `each`.
fn list(socket: &Socket, filter: &[u8], mut each: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    send(socket, &message(GET, NLM_F_REQUEST | NLM_F_DUMP, filter))?;
    loop {
        let (messages, _) = socket.recv_from_full()?;
        let mut rest = messages.as_slice();
        while let Some((message, more)) = cut(rest, 0, 4) {
            rest = more;
            let kind = message.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
            match kind {
                Some(NEW) => each(message.get(HEADERS..).unwrap_or_default())?,
                Some(NLMSG_DONE) => return Ok(()),
                Some(NLMSG_ERROR) => return Err(refusal(message)),
                _ => {}
            }
        }
        if messages.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// What is sent to have a flow forgotten soon; none if it has not ended.
fn ended(flow: &[u8]) -> Option<Vec<u8>> {
    let state = find(find(find(flow, CTA_PROTOINFO)?, CTA_PROTOINFO_TCP)?, CTA_PROTOINFO_TCP_STATE)?;
    if state.first() != Some(&TIME_WAIT) {
        return None;
    }
    let mut attributes = nested(CTA_TUPLE_ORIG, find(flow, CTA_TUPLE_ORIG)?);
    attributes.extend(find(flow, CTA_ZONE).map(|zone| attribute(CTA_ZONE, zone)).unwrap_or_default());
    attributes.extend(attribute(CTA_TIMEOUT, &LAST.to_be_bytes()));
    Some(message(NEW, NLM_F_REQUEST, &attributes))
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}

/// Flows whose answers come from `endpoint`, whatever address the client used; of TCP, those that had none yet.
fn flows_to(endpoint: Ipv4Addr, protocol: Protocol) -> Vec<u8> {
    let mut filter = answered_by(endpoint, protocol);
    if protocol == Protocol::Tcp {
        filter.extend(attribute(CTA_STATUS, &0_u32.to_be_bytes()));
        filter.extend(attribute(CTA_STATUS_MASK, &IPS_SEEN_REPLY.to_be_bytes()));
    }
    filter
}

/// Flows whose answers come from `endpoint`, whatever address the client used.
fn answered_by(endpoint: Ipv4Addr, protocol: Protocol) -> Vec<u8> {
    let tuple = [
        nested(CTA_TUPLE_IP, &attribute(CTA_IP_V4_SRC, &endpoint.octets())),
        nested(CTA_TUPLE_PROTO, &attribute(CTA_PROTO_NUM, &[number(protocol)])),
    ];
    let flags = COMPARE_IP_SRC | COMPARE_PROTO_NUM;
    let filter = [
        attribute(CTA_FILTER_ORIG_FLAGS, &0_u32.to_ne_bytes()),
        attribute(CTA_FILTER_REPLY_FLAGS, &flags.to_ne_bytes()),
    ];
    [nested(CTA_TUPLE_REPLY, &tuple.concat()), nested(CTA_FILTER, &filter.concat())].concat()
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
fn delete(socket: &Socket, filter: &[u8]) -> io::Result<()> {
    send(socket, &message(DELETE, NLM_F_REQUEST | NLM_F_ACK, filter))?;
    let (answer, _) = socket.recv_from_full()?;
    match refusal(&answer) {
        error if error.raw_os_error().is_some_and(|code| code == 0 || code == ENOENT) => Ok(()),
        error => Err(error),
    }
}

/// A request; one is under way at a time, so it needs no number.
fn message(kind: u16, flags: u16, attributes: &[u8]) -> Vec<u8> {
    let length = HEADERS + attributes.len();
    let mut message = Vec::with_capacity(length);
    message.extend((length as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]); // number and port
    message.extend([AF_INET, 0, 0, 0]); // nfgenmsg
    message.extend(attributes);
    message
}

/// What the kernel answered instead of anything else; the number 0 is a yes.
fn refusal(answer: &[u8]) -> io::Error {
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let code = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(NLMSG_ERROR), Some(code)) => io::Error::from_raw_os_error(-code),
        _ => io::Error::other("the kernel gave an answer of another kind"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(state: u8) -> Vec<u8> {
        let tuple = nested(CTA_TUPLE_IP, &attribute(CTA_IP_V4_SRC, &[192, 0, 2, 1]));
        let state = attribute(CTA_PROTOINFO_TCP_STATE, &[state]);
        [
            nested(CTA_TUPLE_ORIG, &tuple),
            nested(CTA_TUPLE_REPLY, &[]),
            nested(CTA_PROTOINFO, &nested(CTA_PROTOINFO_TCP, &state)),
            attribute(CTA_ZONE, &7_u16.to_be_bytes()),
        ]
        .concat()
    }

    #[test]
    fn ended_connections_alone_are_forgotten() {
        const ESTABLISHED: u8 = 3;
        assert_eq!(ended(&flow(ESTABLISHED)), None);
        assert_eq!(ended(&[]), None);
        let change = ended(&flow(TIME_WAIT)).unwrap();
        assert_eq!(change[..4], (change.len() as u32).to_ne_bytes());
        let attributes = &change[HEADERS..];
        let same = |kind| assert_eq!(find(attributes, kind), find(&flow(TIME_WAIT), kind));
        same(CTA_TUPLE_ORIG);
        same(CTA_ZONE);
        assert_eq!(find(attributes, CTA_TIMEOUT), Some(&LAST.to_be_bytes()[..]));
        assert_eq!(find(attributes, CTA_TUPLE_REPLY), None, "a change of it is refused");
    }
}
