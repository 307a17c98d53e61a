//! Sees when someone else takes away what is ours of links and routes: `ip link del`, `ip route flush`, a network service
//! that starts anew.
//!
//! The kernel tells every change on a socket, ours as well; those are told before the change returns, and
//! [`Guard::settle`] passes over them. What was added by others is not looked at.
#![expect(clippy::wildcard_enum_match_arm, reason = "the kernel has many attributes and we need few of them")]

use std::io;

use raftup_proto::view::{Lane, WIRE_DEVICE};
use rtnetlink::{
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        RouteNetlinkMessage,
        address::AddressAttribute,
        link::{LinkAttribute, LinkFlags},
        route::RouteAttribute,
        rule::RuleAttribute,
    },
    sys::protocols::NETLINK_ROUTE,
};

use super::kernel::is_place_of_ours;
use crate::netlink::Listener;

/// Groups of a netlink socket, from linux/rtnetlink.h: links, neighbours, addresses, routes, rules.
const GROUPS: [u32; 5] = [1, 3, 5, 7, 8];

/// Listens. Dropping it ends that.
pub struct Guard(Listener);

impl Guard {
    /// Listens from now on. Errors: no netlink socket.
    pub fn start() -> io::Result<Self> {
        Listener::start(NETLINK_ROUTE, &GROUPS).map(Self)
    }

    /// Passes over all that was told until now.
    pub fn settle(&self) {
        self.0.settle();
    }

    /// Returns when someone has taken away what is ours; `indices` are those of the lanes' devices. Cancel-safe.
    pub async fn disturbed(&mut self, indices: Vec<u32>) {
        self.0.heard(|messages| takes_away(messages, &indices).then_some(())).await;
    }
}

/// One of the messages says that something of ours is gone.
fn takes_away(mut messages: &[u8], indices: &[u32]) -> bool {
    while let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(messages) {
        if let NetlinkPayload::InnerMessage(message) = &message.payload
            && is_loss(message, indices)
        {
            return true;
        }
        let length = (message.header.length as usize).next_multiple_of(4);
        match messages.get(length..) {
            Some(rest) if length > 0 => messages = rest,
            _ => return false,
        }
    }
    false
}

fn is_loss(message: &RouteNetlinkMessage, indices: &[u32]) -> bool {
    let ours = |name: &str| name == WIRE_DEVICE || Lane::ALL.iter().any(|lane| lane.device() == name);
    match message {
        RouteNetlinkMessage::DelLink(link) => named(&link.attributes).is_some_and(ours),
        // The kernel does not tell of each route that goes with a device that is set down.
        RouteNetlinkMessage::NewLink(link) => {
            !link.header.flags.contains(LinkFlags::Up) && named(&link.attributes).is_some_and(ours)
        }
        RouteNetlinkMessage::DelAddress(address) => {
            address.attributes.iter().any(|attribute| match attribute {
                AddressAttribute::Label(label) => ours(label),
                _ => false,
            })
        }
        RouteNetlinkMessage::DelNeighbour(neighbour) => indices.contains(&neighbour.header.ifindex),
        RouteNetlinkMessage::DelRoute(route) => route.attributes.iter().any(|attribute| match attribute {
            RouteAttribute::Oif(device) => indices.contains(device),
            _ => false,
        }),
        RouteNetlinkMessage::DelRule(rule) => rule.attributes.iter().any(|attribute| match attribute {
            RuleAttribute::Priority(place) => is_place_of_ours(*place),
            _ => false,
        }),
        _ => false,
    }
}

fn named(attributes: &[LinkAttribute]) -> Option<&str> {
    attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::{
        address::AddressMessage, link::LinkMessage, neighbour::NeighbourMessage, route::RouteMessage,
        rule::RuleMessage,
    };

    use super::*;

    fn bytes(message: RouteNetlinkMessage) -> Vec<u8> {
        let mut message = NetlinkMessage::from(message);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    fn link(name: &str, flags: LinkFlags) -> LinkMessage {
        let mut link = LinkMessage::default();
        link.header.flags = flags;
        link.attributes = vec![LinkAttribute::IfName(name.to_owned())];
        link
    }

    #[test]
    fn only_what_is_ours_and_goes_counts() {
        use RouteNetlinkMessage::{DelAddress, DelLink, DelNeighbour, DelRoute, DelRule, NewLink, NewRoute};
        let route = |device| {
            let mut route = RouteMessage::default();
            route.attributes = vec![RouteAttribute::Oif(device)];
            route
        };
        let rule = |place| {
            let mut rule = RuleMessage::default();
            rule.attributes = vec![RuleAttribute::Priority(place)];
            rule
        };
        let neighbour = |device| {
            let mut neighbour = NeighbourMessage::default();
            neighbour.header.ifindex = device;
            neighbour
        };
        let address = |label: &str| {
            let mut address = AddressMessage::default();
            address.attributes = vec![AddressAttribute::Label(label.to_owned())];
            address
        };
        let lost = [
            DelLink(link("ru-fabric", LinkFlags::Up)),
            DelLink(link("ru-wire", LinkFlags::Up)),
            DelLink(link("ru-plain", LinkFlags::Up)),
            NewLink(link("ru-fabric", LinkFlags::empty())),
            DelAddress(address("ru-fabric")),
            DelNeighbour(neighbour(7)),
            DelRoute(route(7)),
            DelRoute(route(9)),
            DelRule(rule(7238)),
        ];
        let others = [
            DelLink(link("eth0", LinkFlags::Up)),
            NewLink(link("ru-fabric", LinkFlags::Up)),
            NewLink(link("eth0", LinkFlags::empty())),
            DelAddress(address("eth0")),
            DelNeighbour(neighbour(8)),
            DelRoute(route(8)),
            NewRoute(route(7)),
            DelRule(rule(100)),
        ];
        let mut all = Vec::new();
        for message in others {
            let message = bytes(message);
            assert!(!takes_away(&message, &[7, 9]), "{message:?}");
            all.extend(message);
        }
        assert!(!takes_away(&all, &[7, 9]));
        for message in lost {
            let message = bytes(message);
            assert!(takes_away(&message, &[7, 9]), "{message:?}");
            assert!(takes_away(&[all.clone(), message].concat(), &[7, 9]));
        }
    }
}
