//! Makes the kernel forget flows, over netlink.
//!
//! The kernel keeps sending a known flow to the endpoint that it chose first. For TCP that is what a standing connection
//! needs; a flow of UDP, or a connection that nobody answered yet, would go to a dead endpoint for as long as the client
//! tries.
//!
//! The kernel is asked to list only the flows that are meant, and each one is compared again here: kernels before 5.8 ignore
//! such filters and list all flows. Later ones refuse filters that they do not know (6.1 is one); all flows are listed then.

use std::{io, net::Ipv4Addr};

use raftup_proto::spec::Protocol;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use rustix::io::Errno;
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
const NLM_F_DUMP: u16 = 0x300;
const AF_INET: u8 = 2;
/// Bytes of a message before its attributes.
const HEADERS: usize = 16 + 4;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

// Attributes, from linux/netfilter/nfnetlink_conntrack.h.
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_TIMEOUT: u16 = 7;
const CTA_ID: u16 = 12;
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
    let udp = |endpoint: &Ipv4Addr| Flows::answered_by(*endpoint, Protocol::Udp);
    let tcp =
        |endpoint: &Ipv4Addr| Flows { unanswered: true, ..Flows::answered_by(*endpoint, Protocol::Tcp) };
    let at = ports.iter().filter(|port| port.0 == Protocol::Udp).map(|(_, port)| Flows::at(*port));
    let each = endpoints.iter().flat_map(|endpoint| [udp(endpoint), tcp(endpoint)]);
    change(each.chain(at).collect(), forgotten).await;
}

/// Forgets all connections of TCP to `endpoints`, which no table leads to any more. The next packet of a client is led to
/// another endpoint, which knows nothing of it and resets the connection.
pub async fn cut_connections(endpoints: Vec<Ipv4Addr>) {
    let flows = endpoints.into_iter().map(|endpoint| Flows::answered_by(endpoint, Protocol::Tcp));
    change(flows.collect(), forgotten).await;
}

/// Has the kernel forget connections of TCP to `endpoint` that have ended, within a second. Their engine would do that too,
/// when their container is gone: from a list that it made a moment before, one by one, by the client's port. A client that
/// has come again from that port meanwhile would lose its new connection, to whichever endpoint.
///
/// A new connection that takes the place of an ended one here gets a short time as well, until its next packet.
pub async fn forget_ended(endpoint: Ipv4Addr) {
    change(vec![Flows::answered_by(endpoint, Protocol::Tcp)], ended).await;
}

/// Sends the kernel what `request` makes of each of these flows. A failure is logged: what is not forgotten ends by itself.
async fn change(flows: Vec<Flows>, request: fn(&[u8]) -> Option<Vec<u8>>) {
    if flows.is_empty() {
        return;
    }
    let done = tokio::task::spawn_blocking(move || {
        // What is listed is read on one socket while changes are sent on the other.
        let (listing, changes) = (open()?, open()?);
        change_all(&listing, &changes, &flows, Flows::filter, request)
    });
    match done.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => warn!(%error, "connections cannot be forgotten"),
        Err(error) => warn!(%error, "connections were not forgotten"),
    }
}

fn change_all(
    listing: &Socket,
    changes: &Socket,
    flows: &[Flows],
    filter: fn(&Flows) -> Vec<u8>,
    request: fn(&[u8]) -> Option<Vec<u8>>,
) -> io::Result<()> {
    for each in flows {
        match change_each(listing, changes, &filter(each), |flow| each.has(flow), request) {
            // Once for all of them: this list is long.
            Err(error) if is_of_the_filter(&error) => {
                let meant = |flow: &[u8]| flows.iter().any(|flows| flows.has(flow));
                return change_each(listing, changes, &[], meant, request);
            }
            done => done?,
        }
    }
    Ok(())
}

/// The kernel does not know what it is asked to compare.
fn is_of_the_filter(error: &io::Error) -> bool {
    let refusals = [Errno::INVAL, Errno::OPNOTSUPP, Errno::RANGE];
    refusals.iter().any(|refusal| error.raw_os_error() == Some(refusal.raw_os_error()))
}

fn change_each(
    listing: &Socket,
    changes: &Socket,
    filter: &[u8],
    meant: impl Fn(&[u8]) -> bool,
    request: fn(&[u8]) -> Option<Vec<u8>>,
) -> io::Result<()> {
    let mut batch = Vec::new();
    list(listing, filter, |flow| {
        if meant(flow) {
            batch.extend(request(flow).unwrap_or_default());
        }
        if batch.len() >= BATCH_BYTES {
            send(changes, &batch)?;
            batch.clear();
        }
        Ok(())
    })?;
    send(changes, &batch)
}

/// How this kernel lists connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// Those that are asked for.
    Filtered,
    /// All of them, at some cost where there are many.
    Whole,
}

/// Whether connections to an endpoint can be found, so that they can be forgotten. Blocks. Errors: they cannot.
pub fn try_connections() -> io::Result<Listing> {
    let socket = open()?;
    let none = Flows::answered_by(Ipv4Addr::UNSPECIFIED, Protocol::Tcp);
    let none = Flows { unanswered: true, ..none };
    match list(&socket, &none.filter(), |_| Ok(())) {
        Ok(()) => Ok(Listing::Filtered),
        Err(error) if is_of_the_filter(&error) => list(&socket, &[], |_| Ok(())).map(|()| Listing::Whole),
        Err(error) => Err(error),
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
    let timeout = attribute(CTA_TIMEOUT, &LAST.to_be_bytes());
    Some(message(NEW, NLM_F_REQUEST, &[named(flow)?, timeout].concat()))
}

/// What is sent to have a flow forgotten at once. Its number goes along: a later flow that looks the same is left alone.
fn forgotten(flow: &[u8]) -> Option<Vec<u8>> {
    let id = find(flow, CTA_ID).map(|id| attribute(CTA_ID, id)).unwrap_or_default();
    Some(message(DELETE, NLM_F_REQUEST, &[named(flow)?, id].concat()))
}

/// The attributes that say which flow is meant.
fn named(flow: &[u8]) -> Option<Vec<u8>> {
    let zone = find(flow, CTA_ZONE).map(|zone| attribute(CTA_ZONE, zone)).unwrap_or_default();
    Some([nested(CTA_TUPLE_ORIG, find(flow, CTA_TUPLE_ORIG)?), zone].concat())
}

fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
    }
}

/// Flows of a protocol.
#[derive(Clone, Copy, Debug)]
struct Flows {
    protocol: Protocol,
    /// Where answers come from, whatever address the client used.
    answered_by: Option<Ipv4Addr>,
    /// The port that they were sent to, of any address.
    port: Option<u16>,
    /// Those alone that had no answer yet.
    unanswered: bool,
}

impl Flows {
    fn answered_by(endpoint: Ipv4Addr, protocol: Protocol) -> Self {
        Self { protocol, answered_by: Some(endpoint), port: None, unanswered: false }
    }

    fn at(port: u16) -> Self {
        Self { protocol: Protocol::Udp, answered_by: None, port: Some(port), unanswered: false }
    }

    /// What the kernel is asked to list.
    fn filter(&self) -> Vec<u8> {
        let protocol = attribute(CTA_PROTO_NUM, &[number(self.protocol)]);
        let (mut tuples, mut original, mut reply) = (Vec::new(), 0_u32, 0_u32);
        if let Some(port) = self.port {
            let of_port = [protocol.clone(), attribute(CTA_PROTO_DST_PORT, &port.to_be_bytes())].concat();
            tuples.extend(nested(CTA_TUPLE_ORIG, &nested(CTA_TUPLE_PROTO, &of_port)));
            original = COMPARE_PROTO_NUM | COMPARE_DST_PORT;
        }
        if let Some(endpoint) = self.answered_by {
            let of_endpoint = nested(CTA_TUPLE_IP, &attribute(CTA_IP_V4_SRC, &endpoint.octets()));
            let of_endpoint = [of_endpoint, nested(CTA_TUPLE_PROTO, &protocol)].concat();
            tuples.extend(nested(CTA_TUPLE_REPLY, &of_endpoint));
            reply = COMPARE_IP_SRC | COMPARE_PROTO_NUM;
        }
        let flags = [
            attribute(CTA_FILTER_ORIG_FLAGS, &original.to_ne_bytes()),
            attribute(CTA_FILTER_REPLY_FLAGS, &reply.to_ne_bytes()),
        ];
        tuples.extend(nested(CTA_FILTER, &flags.concat()));
        if self.unanswered {
            tuples.extend(attribute(CTA_STATUS, &0_u32.to_be_bytes()));
            tuples.extend(attribute(CTA_STATUS_MASK, &IPS_SEEN_REPLY.to_be_bytes()));
        }
        tuples
    }

    /// A flow that was listed is one of these.
    fn has(&self, flow: &[u8]) -> bool {
        let tuple = |way, part, kind| find(find(find(flow, way)?, part)?, kind);
        let protocol = tuple(CTA_TUPLE_ORIG, CTA_TUPLE_PROTO, CTA_PROTO_NUM);
        let source = tuple(CTA_TUPLE_REPLY, CTA_TUPLE_IP, CTA_IP_V4_SRC);
        let port = tuple(CTA_TUPLE_ORIG, CTA_TUPLE_PROTO, CTA_PROTO_DST_PORT);
        let status =
            find(flow, CTA_STATUS).and_then(|status| status.try_into().ok()).map_or(0, u32::from_be_bytes);
        protocol.and_then(|bytes| bytes.first()) == Some(&number(self.protocol))
            && self.answered_by.is_none_or(|endpoint| source == Some(&endpoint.octets()[..]))
            && self.port.is_none_or(|wanted| port == Some(&wanted.to_be_bytes()[..]))
            && !(self.unanswered && status & IPS_SEEN_REPLY != 0)
    }
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

/// What the kernel answered instead of a list.
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

    const ESTABLISHED: u8 = 3;

    /// A flow to port 53 or 80 that `endpoint` answers, as the kernel lists it.
    fn flow(protocol: Protocol, endpoint: [u8; 4], state: u8, answered: bool) -> Vec<u8> {
        let tuple = |source: &[u8], port: u16| {
            let ports = [
                attribute(CTA_PROTO_NUM, &[number(protocol)]),
                attribute(CTA_PROTO_DST_PORT, &port.to_be_bytes()),
            ];
            let address = nested(CTA_TUPLE_IP, &attribute(CTA_IP_V4_SRC, source));
            [address, nested(CTA_TUPLE_PROTO, &ports.concat())].concat()
        };
        let state = attribute(CTA_PROTOINFO_TCP_STATE, &[state]);
        let status = if answered { IPS_SEEN_REPLY | 1 } else { 1 };
        let port = if protocol == Protocol::Udp { 53 } else { 80 };
        [
            nested(CTA_TUPLE_ORIG, &tuple(&[192, 0, 2, 1], port)),
            nested(CTA_TUPLE_REPLY, &tuple(&endpoint, 40_000)),
            attribute(CTA_STATUS, &status.to_be_bytes()),
            nested(CTA_PROTOINFO, &nested(CTA_PROTOINFO_TCP, &state)),
            attribute(CTA_ID, &9_u32.to_be_bytes()),
            attribute(CTA_ZONE, &7_u16.to_be_bytes()),
        ]
        .concat()
    }

    #[test]
    fn ended_connections_alone_are_forgotten_soon() {
        let of = |state| flow(Protocol::Tcp, [10, 64, 32, 2], state, true);
        assert_eq!(ended(&of(ESTABLISHED)), None);
        assert_eq!(ended(&[]), None);
        let change = ended(&of(TIME_WAIT)).unwrap();
        assert_eq!(change[..4], (change.len() as u32).to_ne_bytes());
        let attributes = &change[HEADERS..];
        let same = |kind| assert_eq!(find(attributes, kind), find(&of(TIME_WAIT), kind));
        same(CTA_TUPLE_ORIG);
        same(CTA_ZONE);
        assert_eq!(find(attributes, CTA_TIMEOUT), Some(&LAST.to_be_bytes()[..]));
        assert_eq!(find(attributes, CTA_TUPLE_REPLY), None, "a change of it is refused");
    }

    #[test]
    fn a_flow_is_forgotten_by_its_number() {
        let listed = flow(Protocol::Tcp, [10, 64, 32, 2], ESTABLISHED, true);
        let change = forgotten(&listed).unwrap();
        for kind in [CTA_TUPLE_ORIG, CTA_ZONE, CTA_ID] {
            assert_eq!(find(&change[HEADERS..], kind), find(&listed, kind));
        }
        assert_eq!(forgotten(&[]), None);
    }

    /// Kernels that ignore the filter list everything.
    #[test]
    fn flows_of_others_are_left_alone_whatever_is_listed() {
        let (ours, other) = ([10, 64, 32, 2], [10, 64, 32, 3]);
        let listed = [
            flow(Protocol::Tcp, ours, ESTABLISHED, true),
            flow(Protocol::Tcp, ours, TIME_WAIT, true),
            flow(Protocol::Tcp, ours, ESTABLISHED, false),
            flow(Protocol::Udp, ours, 0, true),
            flow(Protocol::Tcp, other, TIME_WAIT, true),
            flow(Protocol::Tcp, other, ESTABLISHED, false),
            flow(Protocol::Udp, other, 0, false),
            Vec::new(),
        ];
        let of = |flows: Flows| -> Vec<usize> {
            listed.iter().enumerate().filter(|(_, flow)| flows.has(flow)).map(|(at, _)| at).collect()
        };
        let tcp = Flows::answered_by(ours.into(), Protocol::Tcp);
        assert_eq!(of(tcp), [0, 1, 2]);
        assert_eq!(of(Flows { unanswered: true, ..tcp }), [2]);
        assert_eq!(of(Flows::answered_by(ours.into(), Protocol::Udp)), [3]);
        assert_eq!(of(Flows::at(53)), [3, 6]);
        assert_eq!(of(Flows::at(54)), [0; 0]);
    }

    /// As some kernels refuse the filters above: a part of a tuple is to be compared, and there is no tuple.
    #[test]
    fn where_the_kernel_refuses_the_filter_all_flows_are_listed() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return;
        }
        let (listing, changes) = (open().unwrap(), open().unwrap());
        let refused =
            |_: &Flows| nested(CTA_FILTER, &attribute(CTA_FILTER_ORIG_FLAGS, &COMPARE_IP_SRC.to_ne_bytes()));
        let flows = [Flows::answered_by(Ipv4Addr::UNSPECIFIED, Protocol::Udp)];
        let error = list(&listing, &refused(&flows[0]), |_| Ok(())).unwrap_err();
        assert!(is_of_the_filter(&error), "{error}");
        change_all(&listing, &changes, &flows, refused, forgotten).unwrap();
        assert!(try_connections().is_ok());
    }
}
