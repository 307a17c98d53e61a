//! What daemon and resolver say to each other; pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use imbl::{OrdMap, ordmap::DiffItem};
use ipnet::Ipv4Net;
use raftup_proto::{
    id::NetworkId,
    view::{Item, Key, Revision, View, ViewUpdate},
};
use serde::{Deserialize, Serialize};

/// What the daemon asks of the resolver.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Answer with this from now on.
    Set(Change),
    /// Answer at sockets as well that are handed over after [`Answer::Ready`].
    Adopt,
    /// Hand the sockets over to who asks: nothing but them comes as an answer.
    HandOver,
    /// End.
    Stop,
}

/// A change of what is answered, or all of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Change {
    /// All of our addresses.
    pub(super) pool: Ipv4Net,
    /// Where to answer, and nowhere else.
    pub(super) gateways: BTreeSet<Ipv4Addr>,
    /// Networks and services.
    pub(super) update: ViewUpdate,
    /// As [`View::on_several_networks`] says.
    pub(super) own: BTreeMap<Ipv4Addr, Vec<NetworkId>>,
}

/// What the resolver answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// First of all: the program that it runs, and the generation of its names, if it was told any.
    Hello { version: String, generation: Option<Revision> },
    /// It was done, but there are no sockets of these gateways.
    Done(BTreeSet<Ipv4Addr>),
    /// The sockets can come.
    Ready,
    /// It cannot be done.
    Failed(String),
}

/// What makes names of `now`, as a change of those of `before`; all of it without that. Costs what differs between the two.
pub(super) fn update(before: Option<(&View, Revision)>, now: &View) -> ViewUpdate {
    let (nothing, told) = (OrdMap::default(), before.map(|(_, told)| told));
    let items = before.map_or(&nothing, |(view, _)| &view.items);
    let mut update =
        ViewUpdate { base: told, generation: now.generation, put: Vec::new(), remove: Vec::new() };
    for difference in items.diff(&now.items) {
        match difference {
            DiffItem::Add(_, item) | DiffItem::Update { new: (_, item), .. } => match &**item {
                Item::Network(_) | Item::Route(_) | Item::Endpoint(..) => update.put.push(Item::clone(item)),
                Item::Cluster(_) | Item::Peer(_) | Item::Task(_) => {}
            },
            DiffItem::Remove(key @ (Key::Network(_) | Key::Route(_) | Key::Endpoint(..)), _) => {
                update.remove.push(*key)
            }
            DiffItem::Remove(Key::Cluster | Key::Peer(_) | Key::Task(_), _) => {}
        }
    }
    update
}

/// [`View::on_several_networks`] may differ between the two.
pub(super) fn own_differs(before: &View, now: &View) -> bool {
    before.items.diff(&now.items).any(|difference| {
        let (DiffItem::Add(key, _) | DiffItem::Update { new: (key, _), .. } | DiffItem::Remove(key, _)) =
            difference;
        matches!(key, Key::Task(_))
    })
}

#[cfg(test)]
mod tests {
    use raftup_proto::{
        id::{NetworkId, ServiceId},
        view::{NetworkItem, RouteItem, ServiceAddress},
    };

    use super::*;

    fn network() -> Item {
        Item::Network(NetworkItem {
            network: NetworkId::from_random(1),
            stack: Some("shop".parse().unwrap()),
            name: "default".parse().unwrap(),
            subnet: "10.64.32.0/19".parse().unwrap(),
            internal: false,
            attachable: false,
            plain: false,
        })
    }

    fn route(service: u64, vip: &str) -> Item {
        let address = ServiceAddress { vip: vip.parse().ok(), aliases: vec!["www".to_owned()] };
        Item::Route(RouteItem {
            service: ServiceId::from_random(service),
            stack: "shop".parse().unwrap(),
            name: "web".parse().unwrap(),
            networks: [(NetworkId::from_random(1), address)].into(),
            ports: Vec::new(),
            routing: Default::default(),
        })
    }

    fn view(generation: u64, items: Vec<Item>) -> View {
        View::of(Revision(generation), items)
    }

    #[test]
    fn what_was_told_and_what_changed_is_what_there_is() {
        let steps = [
            view(3, vec![network(), route(1, "10.64.63.1"), route(2, "10.64.63.2")]),
            view(4, vec![network(), route(1, "10.64.63.1"), route(2, "10.64.63.3"), route(4, "10.64.63.4")]),
            view(9, vec![network(), route(4, "10.64.63.4")]),
            view(10, vec![]),
        ];
        let mut told = View::default();
        let mut before = None;
        for (now, changes) in steps.iter().zip([3, 2, 2, 2]) {
            let update = update(before.map(|view: &View| (view, told.generation)), now);
            assert_eq!(update.put.len() + update.remove.len(), changes);
            // As it goes to the resolver.
            let text = serde_json::to_vec(&update).unwrap();
            told.update(serde_json::from_slice(&text).unwrap()).unwrap();
            assert_eq!(told, *now);
            before = Some(now);
        }
    }

    /// Views that share much, as those of a node do from one change to the next.
    #[test]
    fn many_services_that_change_a_few_at_a_time() {
        let mut random = 7_u64;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) % below
        };
        let all = (1..500).map(|service| route(service, "10.64.63.1")).chain([network()]);
        let mut now = view(1, all.collect());
        let (mut told, mut before) = (View::default(), None::<View>);
        for generation in 2..200 {
            let update = update(before.as_ref().map(|view| (view, told.generation)), &now);
            assert!(before.is_none() || update.put.len() + update.remove.len() <= 3, "{update:?}");
            told.update(update).unwrap();
            assert_eq!(told, now);
            before = Some(now.clone());
            let change = ViewUpdate {
                base: Some(now.generation),
                generation: Revision(generation),
                put: (0..draw(3)).map(|_| route(1 + draw(520), &format!("10.64.63.{}", draw(250)))).collect(),
                remove: (0..draw(2)).map(|_| route(1 + draw(520), "").key()).collect(),
            };
            now.update(change).unwrap();
        }
    }
}
