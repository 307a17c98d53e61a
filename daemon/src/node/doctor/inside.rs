//! What containers of this node see: names, and containers of other nodes.
//!
//! A thread goes into the network namespace of a running container and sends from there what a container sends: a
//! question to the resolver over UDP and TCP, and connections to containers of other nodes. A port that is closed answers
//! as well, so any will do.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    os::fd::AsFd,
    sync::Arc,
    thread,
    time::Duration,
};

use hickory_proto::{
    op::{Message, Query},
    rr::{Name, RecordType},
};
use raftup_proto::{
    api::Finding,
    id::NodeId,
    view::{NetworkItem, TaskItem, View},
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use super::super::lifecycle::Host;
use crate::{api::Member, engine::Condition};

/// How long an answer may take.
const ANSWER: Duration = Duration::from_millis(500);

/// How often a question is asked: datagrams get lost.
const ASKED: usize = 3;

/// How long a connection may take; a first packet that is lost is sent again after a second.
const CONNECT: Duration = Duration::from_millis(1500);

/// Port that is tried where the service publishes none; nobody listens on it.
const ANY_PORT: u16 = 9;

/// Networks that are looked at.
const MOST: usize = 8;

/// From where and to whom something is sent.
struct Place {
    network: String,
    gateway: Ipv4Addr,
    /// The service that is asked for.
    name: String,
    container: String,
    /// A container on each other node.
    others: BTreeMap<NodeId, SocketAddr>,
}

/// What came of it; errors in words.
struct Seen {
    names: Result<(), String>,
    others: Vec<(NodeId, Result<(), String>)>,
}

pub(super) async fn look(host: &Host, member: Option<&Member>) -> Vec<Finding> {
    let Some(member) = member else { return Vec::new() };
    let view = Arc::clone(&member.agent.view().borrow());
    let engine = host.engine();
    // What is wrong with the engine is said elsewhere.
    let Ok(containers) = engine.containers(member.cluster).await else { return Vec::new() };
    let running = containers.into_iter().filter(|one| matches!(one.condition, Condition::Running(_)));
    let running: BTreeMap<_, _> = running.map(|one| (one.task, one.id)).collect();
    let places = places(&view, member.node, |task| running.get(&task.task).cloned());
    let mut seen = Vec::new();
    for place in places {
        let Ok(Some(process)) = engine.process(&place.container).await else { continue };
        let (tell, told) = oneshot::channel();
        let at = place.network.clone();
        let sent = thread::Builder::new().name("doctor".to_owned()).spawn(move || {
            // Nobody waits any more if this fails.
            let _ = tell.send(send(process, &place));
        });
        if sent.is_ok()
            && let Ok(Ok(found)) = told.await
        {
            seen.push((at, found));
        }
    }
    findings(&view, seen)
}

/// One running container of this node for each network.
fn places(view: &View, me: NodeId, container: impl Fn(&TaskItem) -> Option<String>) -> Vec<Place> {
    let place = |network: &NetworkItem| {
        let mut here = view.tasks().filter(|task| task.networks.iter().any(|(on, _)| *on == network.network));
        let (task, container) = here.find_map(|task| Some((task, container(task)?)))?;
        let mut others = BTreeMap::new();
        for route in view.routes() {
            let port = route.ports.first().map_or(ANY_PORT, |port| port.target);
            for endpoint in route.endpoints.iter().filter(|endpoint| endpoint.ready && endpoint.node != me) {
                let address = endpoint.addresses.iter().find(|(on, _)| *on == network.network);
                if let Some((_, address)) = address {
                    others.entry(endpoint.node).or_insert_with(|| SocketAddr::from((*address, port)));
                }
            }
        }
        Some(Place {
            network: network.engine_name(),
            gateway: network.gateway(),
            name: format!("{}.{}.internal.", task.name, task.stack),
            container,
            others,
        })
    };
    view.networks().filter_map(place).take(MOST).collect()
}

/// Blocks, and leaves the calling thread in the namespace. Errors: the container has ended.
fn send(process: u32, place: &Place) -> io::Result<Seen> {
    let namespace = File::open(format!("/proc/{process}/ns/net"))?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    let names = ask(place).map_err(|error| told(&error));
    // Threads begin in the namespace of the one that starts them.
    let others = thread::scope(|scope| {
        let tries = place.others.iter().map(|(node, to)| (*node, scope.spawn(|| connect(*to))));
        let tries: Vec<_> = tries.collect();
        let joined = tries.into_iter().map(|(node, tried)| {
            let done = tried.join().unwrap_or_else(|_| Err(io::Error::other("the attempt broke off")));
            (node, done.map_err(|error| told(&error)))
        });
        joined.collect()
    });
    Ok(Seen { names, others })
}

/// Asks the resolver over UDP and over TCP; any answer will do.
fn ask(place: &Place) -> io::Result<()> {
    let server = SocketAddr::from((place.gateway, 53));
    let mut message = Message::query();
    let name = Name::from_ascii(&place.name).map_err(io::Error::other)?;
    message.add_query(Query::query(name, RecordType::A));
    let question = message.to_vec().map_err(io::Error::other)?;
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(ANSWER))?;
    let mut last = io::Error::from(io::ErrorKind::TimedOut);
    for _ in 0..ASKED {
        let answered = socket.send(&question).and_then(|_| socket.recv(&mut [0; 512]));
        match answered {
            Ok(_) => return TcpStream::connect_timeout(&server, CONNECT).map(drop),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A connection that is refused by the other container has been there and back.
fn connect(to: SocketAddr) -> io::Result<()> {
    match TcpStream::connect_timeout(&to, CONNECT) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        done => done.map(drop),
    }
}

/// An error as it is told: time-outs of sockets have words of their own.
fn told(error: &io::Error) -> String {
    if matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) {
        return "no answer in time".to_owned();
    }
    error.to_string()
}

const NEXT: &str =
    "is a firewall in the way? See `firewall` of both servers, and `iptables -S`, `nft list ruleset`";

fn findings(view: &View, seen: Vec<(String, Seen)>) -> Vec<Finding> {
    let (mut findings, mut answered) = (Vec::new(), Vec::new());
    let mut others: BTreeMap<NodeId, Result<(), String>> = BTreeMap::new();
    for (network, seen) in seen {
        match seen.names {
            Ok(()) => answered.push(format!("`{network}`")),
            Err(error) => {
                let found = format!("containers on network `{network}` cannot ask for names: {error}");
                findings.push(Finding::problem("names", found, NEXT));
            }
        }
        for (node, reached) in seen.others {
            let reached = reached.map_err(|error| format!("on network `{network}`: {error}"));
            let so_far = others.entry(node).or_insert(Ok(()));
            if so_far.is_ok() {
                *so_far = reached;
            }
        }
    }
    if findings.is_empty() && !answered.is_empty() {
        let found = format!("containers are answered on network {}", answered.join(", "));
        findings.push(Finding::fine("names", found));
    }
    let known: BTreeSet<_> = view.peers().map(|peer| (peer.node, &peer.hostname)).collect();
    for (node, hostname) in known {
        let finding = match others.remove(&node) {
            None => continue,
            Some(Ok(())) => Finding::fine("containers", "a container of this node reaches one there"),
            Some(Err(error)) => {
                let found = format!("no connection from a container of this node to one there, {error}");
                Finding::problem("containers", found, NEXT)
            }
        };
        findings.push(Finding { to: Some(hostname.clone()), ..finding });
    }
    findings
}
