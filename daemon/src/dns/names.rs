//! What can be asked for, and by whom; pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;
use raftup_proto::{
    id::NetworkId,
    view::{Route, View},
};

/// Ending under which all names are found as well; nobody outside has it.
const ENDING: &str = ".internal";

/// Names and addresses, as of one view. Looking one up costs a few hash lookups.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// The networks of a task, by each of its addresses, in the task's order.
    askers: HashMap<Ipv4Addr, Vec<NetworkId>>,
    /// Those networks that are internal.
    internal: BTreeSet<NetworkId>,
    /// The networks by their first address, for those whom no view names yet.
    subnets: BTreeMap<Ipv4Addr, (Ipv4Net, NetworkId)>,
    /// The services that a name stands for on a network.
    names: HashMap<NetworkId, HashMap<String, Vec<usize>>>,
    services: Vec<Service>,
    /// Names of addresses, and the network that they are on.
    addresses: HashMap<Ipv4Addr, (NetworkId, String)>,
}

/// A service on one of its networks.
#[derive(Debug)]
struct Service {
    /// Stands for all tasks; without one, names stand for the tasks themselves.
    vip: Option<Ipv4Addr>,
    /// `web.shop`, all lower case.
    name: String,
    /// Ports in the containers that are published.
    ports: Vec<u16>,
    tasks: Vec<Task>,
}

#[derive(Debug)]
struct Task {
    slot: u64,
    address: Ipv4Addr,
    ready: bool,
}

/// What a name stands for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Its addresses.
    pub(super) addresses: Vec<Ipv4Addr>,
    /// The tasks behind it: name, address, and ports.
    pub(super) tasks: Vec<(String, Ipv4Addr, Vec<u16>)>,
}

impl Names {
    /// All names of a view.
    /// `own` as [`View::on_several_networks`] says: a view of names alone has no tasks.
    pub(super) fn of(view: &View, own: BTreeMap<Ipv4Addr, Vec<NetworkId>>) -> Self {
        let mut names = Self { askers: own.into_iter().collect(), ..Self::default() };
        for network in view.networks() {
            if network.internal {
                names.internal.insert(network.network);
            }
            names.subnets.insert(network.subnet.network(), (network.subnet, network.network));
        }
        for route in view.routes() {
            names.add(&route);
        }
        names
    }

    fn add(&mut self, route: &Route<'_>) {
        for endpoint in &route.endpoints {
            let networks: Vec<NetworkId> = endpoint.addresses.iter().map(|(network, _)| *network).collect();
            for (_, address) in &endpoint.addresses {
                self.askers.insert(*address, networks.clone());
            }
        }
        let of_tasks = route.endpoints.iter().flat_map(|endpoint| &endpoint.host_ports);
        let mut ports: Vec<u16> = route.ports.iter().chain(of_tasks).map(|port| port.target).collect();
        ports.sort_unstable();
        ports.dedup();
        let (service, stack) = (lower(route.name.as_str()), lower(route.stack.as_str()));
        for (network, address) in &route.networks {
            let name = format!("{service}.{stack}");
            let tasks = self.tasks(route, *network, &name);
            let index = self.services.len();
            self.addresses.extend(address.vip.map(|vip| (vip, (*network, format!("{name}{ENDING}.")))));
            self.services.push(Service { vip: address.vip, name: name.clone(), ports: ports.clone(), tasks });
            let on_network = self.names.entry(*network).or_default();
            let own = [service.clone(), name, format!("{stack}_{service}")];
            for name in own.into_iter().chain(address.aliases.iter().map(|alias| lower(alias))) {
                let services = on_network.entry(name).or_default();
                if !services.contains(&index) {
                    services.push(index);
                }
            }
        }
    }

    fn tasks(&mut self, route: &Route<'_>, network: NetworkId, name: &str) -> Vec<Task> {
        let mut tasks = Vec::new();
        for endpoint in &route.endpoints {
            let on_network = endpoint.addresses.iter().find(|(on, _)| *on == network);
            let Some((_, address)) = on_network else { continue };
            tasks.push(Task { slot: endpoint.slot, address: *address, ready: endpoint.ready });
            let own_name = format!("{}.{name}{ENDING}.", endpoint.slot);
            self.addresses.insert(*address, (network, own_name));
        }
        tasks
    }

    /// What `name` (lower case, without the final dot) stands for, asked from `asker`; none if it is not one of ours.
    pub(super) fn find(&self, asker: Ipv4Addr, name: &str) -> Option<Found> {
        let scope = self.scope(asker);
        let short = name.strip_suffix(ENDING);
        [Some(name), short].into_iter().flatten().find_map(|name| self.find_in(&scope, name))
    }

    fn find_in(&self, scope: &[NetworkId], name: &str) -> Option<Found> {
        if let Some(services) = self.services(scope, name) {
            let mut found = Found::default();
            for service in services {
                match service.vip {
                    Some(vip) => found.addresses.push(vip),
                    None => found.addresses.extend(service.ready().map(|(_, address, _)| address)),
                }
                found.tasks.extend(service.ready());
            }
            return Some(found);
        }
        if let Some(found) = self.host(scope, name) {
            return Some(found);
        }
        let (first, rest) = name.split_once('.')?;
        let slot = first.parse::<u64>().ok();
        if first != "tasks" && slot.is_none() {
            return None;
        }
        let services = self.services(scope, rest)?;
        let tasks: Vec<_> = match slot {
            Some(slot) => services.filter_map(|service| service.slot(slot)).collect(),
            None => services.flat_map(Service::ready).collect(),
        };
        Some(Found { addresses: tasks.iter().map(|(_, address, _)| *address).collect(), tasks })
    }

    /// `web-2`, also as `web-2.shop`: the host name of a container, where its file gives none. Others may have such a name
    /// outside, so it is ours only while a service has that slot.
    fn host(&self, scope: &[NetworkId], name: &str) -> Option<Found> {
        let (host, stack) = name.split_once('.').map_or((name, None), |(host, stack)| (host, Some(stack)));
        let (service, slot) = host.rsplit_once('-')?;
        let slot = slot.parse::<u64>().ok()?;
        let service = stack.map_or_else(|| service.to_owned(), |stack| format!("{service}.{stack}"));
        let tasks: Vec<_> =
            self.services(scope, &service)?.filter_map(|service| service.slot(slot)).collect();
        let found = Found { addresses: tasks.iter().map(|(_, address, _)| *address).collect(), tasks };
        (!found.addresses.is_empty()).then_some(found)
    }

    /// The services of that name on the first network that has some.
    fn services(&self, scope: &[NetworkId], name: &str) -> Option<impl Iterator<Item = &Service>> {
        let found = scope.iter().find_map(|network| self.names.get(network)?.get(name))?;
        Some(found.iter().filter_map(|index| self.services.get(*index)))
    }

    /// The name of an address, with the final dot, if the asker may know it.
    pub(super) fn name_of(&self, asker: Ipv4Addr, address: Ipv4Addr) -> Option<&str> {
        let (network, name) = self.addresses.get(&address)?;
        self.scope(asker).contains(network).then_some(name.as_str())
    }

    /// The address is of one of our networks, whether anybody has it or not.
    pub(super) fn is_ours(&self, address: Ipv4Addr) -> bool {
        self.network_of(address).is_some()
    }

    /// The asker is on internal networks alone: names of others than the cluster's are not for it, or each of them could
    /// carry a message outside. Source: Docker Engine from 25.0.5 on (CVE-2024-29018).
    pub(super) fn is_shut_in(&self, asker: Ipv4Addr) -> bool {
        self.scope(asker).iter().all(|network| self.internal.contains(network))
    }

    fn scope(&self, asker: Ipv4Addr) -> Vec<NetworkId> {
        match self.askers.get(&asker) {
            Some(networks) => networks.clone(),
            None => self.network_of(asker).into_iter().collect(),
        }
    }

    /// The network that an address is of, whether anybody has it or not.
    pub(super) fn network_of(&self, address: Ipv4Addr) -> Option<NetworkId> {
        let (_, (subnet, network)) = self.subnets.range(..=address).next_back()?;
        subnet.contains(&address).then_some(*network)
    }
}

impl Service {
    fn ready(&self) -> impl Iterator<Item = (String, Ipv4Addr, Vec<u16>)> {
        self.tasks.iter().filter(|task| task.ready).map(|task| self.found(task))
    }

    /// The task of a slot; where an old and a new one overlap, one that is ready.
    fn slot(&self, slot: u64) -> Option<(String, Ipv4Addr, Vec<u16>)> {
        let of_slot = self.tasks.iter().filter(|task| task.slot == slot);
        of_slot.max_by_key(|task| task.ready).map(|task| self.found(task))
    }

    fn found(&self, task: &Task) -> (String, Ipv4Addr, Vec<u16>) {
        (format!("{}.{}{ENDING}.", task.slot, self.name), task.address, self.ports.clone())
    }
}

fn lower(name: &str) -> String {
    name.to_ascii_lowercase()
}
