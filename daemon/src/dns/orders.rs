//! What daemon and resolver say to each other; pure.

use std::{collections::BTreeSet, net::Ipv4Addr, path::PathBuf};

use ipnet::Ipv4Net;
use raftup_proto::view::{Item, Key, Revision, View, ViewUpdate};
use serde::{Deserialize, Serialize};

/// What the daemon asks of the resolver.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Answer with this from now on.
    Set(Change),
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
    /// Where to listen, and nowhere else.
    pub(super) gateways: BTreeSet<Ipv4Addr>,
    /// Networks and services.
    pub(super) update: ViewUpdate,
    /// As [`View::outgoing`] says.
    pub(super) outgoing: BTreeSet<Ipv4Addr>,
    /// Where one of another version answers that has the sockets.
    pub(super) older: Option<PathBuf>,
}

/// What the resolver answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// First of all: the program that it runs, and the generation of its names, if it was told any.
    Hello { version: String, generation: Option<Revision> },
    /// It was done, but for these matters, one line each.
    Done(Vec<String>),
    /// It cannot be done.
    Failed(String),
}

/// What makes names of `now`, as a change of those of `before`; all of it without that.
pub(super) fn update(before: Option<(&View, Revision)>, now: &View) -> ViewUpdate {
    let of_names = |view: &'_ View, key: &Key| match view.items.get(key) {
        Some(Item::Network(_) | Item::Route(_)) => true,
        Some(Item::Cluster(_) | Item::Peer(_) | Item::Task(_)) | None => false,
    };
    let before_items = before.map(|(view, _)| view);
    let keys = |view: &View| view.items.keys().copied().filter(|key| of_names(view, key)).collect::<Vec<_>>();
    let changed = |key: &Key| before_items.is_none_or(|before| before.items.get(key) != now.items.get(key));
    let put = keys(now).into_iter().filter(changed).filter_map(|key| now.items.get(&key).cloned()).collect();
    let remove = before_items.map(keys).unwrap_or_default();
    ViewUpdate {
        base: before.map(|(_, told)| told),
        generation: now.generation,
        put,
        remove: remove.into_iter().filter(|key| !now.items.contains_key(key)).collect(),
    }
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
            stack: "shop".parse().unwrap(),
            name: "default".parse().unwrap(),
            subnet: "10.64.32.0/19".parse().unwrap(),
            internal: false,
            attachable: false,
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
            endpoints: Vec::new(),
        })
    }

    fn view(generation: u64, items: Vec<Item>) -> View {
        let items = items.into_iter().map(|item| (item.key(), item)).collect();
        View { generation: Revision(generation), items }
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
}
