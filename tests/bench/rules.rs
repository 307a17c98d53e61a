//! Rules of one service and of a thousand with ten endpoints each: what the first table takes, what a change of one
//! endpoint does, in the daemon and in `nft`, and what a new connection costs. In network namespaces of their own.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::fd::AsFd as _,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use ipnet::Ipv4Net;
use raftup_daemon::mesh::{Ruleset, Table};
use raftup_proto::{
    api::FabricMode,
    id::{NetworkId, NodeId, ServiceId, TaskId},
    spec::{PortSpec, Protocol, Routing},
    view::{ClusterItem, Endpoint, Item, NetworkItem, PeerItem, Revision, RouteItem, ServiceAddress, View},
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::table::{Row, Target, note};

const SERVICES: u32 = 1000;
const ENDPOINTS: u32 = 10;
const NODES: u32 = 10;
/// Services of a network, as far as its addresses go.
const OF_A_NETWORK: u32 = 100;
/// Published port of the first service; the others follow.
const PUBLISHED: u16 = 20_000;
const TARGET: u16 = 8080;
/// How often an endpoint drains and comes back in a round.
const CHANGES: usize = 5;
/// How often connections are made in a round, and how long.
const TURNS: usize = 10;
const LENGTH: Duration = Duration::from_millis(200);
/// Fewer connections would say nothing.
const LEAST: u32 = 100;

/// What the container says to whoever connects.
const ANSWER: &[u8] = b"x";

const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// What was measured with so many services, a figure a round.
#[derive(Default)]
struct Figures {
    first_elements: f64,
    first_daemon_ms: Vec<f64>,
    first_nft_ms: Vec<f64>,
    change_elements: Vec<f64>,
    change_daemon_ms: Vec<f64>,
    change_nft_ms: Vec<f64>,
    connections_per_s: Vec<f64>,
}

pub(crate) fn measure(rounds: u32) -> anyhow::Result<Vec<Row>> {
    let sizes = [SERVICES, 1];
    let mut figures: [Figures; 2] = Default::default();
    let spaces = [Spaces::new(&view(SERVICES, true))?, Spaces::new(&view(1, true))?];
    for round in 1..=rounds {
        for ((services, spaces), figures) in sizes.iter().zip(&spaces).zip(&mut figures) {
            first(*services, spaces, figures)?;
            change(*services, spaces, figures)?;
        }
        // In turns, so that what else the machine does hits both.
        let mut made = [0.0; 2];
        for turn in 0..TURNS {
            for at in [turn % 2, 1 - turn % 2] {
                made[at] += spaces[at].connections()? / TURNS as f64;
            }
        }
        for (figures, made) in figures.iter_mut().zip(made) {
            figures.connections_per_s.push(made);
        }
        note(&format!("rules {round}/{rounds}: done"));
    }
    Ok(rows(&figures))
}

fn rows([many, one]: &[Figures; 2]) -> Vec<Row> {
    let row = |what: &str, unit, get: &dyn Fn(&Figures) -> Vec<f64>, target| {
        let what = format!("{what}, {SERVICES} services, {} endpoints", SERVICES * ENDPOINTS);
        Row::new(what, unit, get(many)).beside("1 service", get(one), target)
    };
    vec![
        row("first table: elements and rules", "", &|it| vec![it.first_elements], None),
        row("first table: daemon", "ms", &|it| it.first_daemon_ms.clone(), None),
        row("first table: nft", "ms", &|it| it.first_nft_ms.clone(), None),
        row(
            "one endpoint changes: elements and rules",
            "",
            &|it| it.change_elements.clone(),
            Some(Target::AtMost(1.0)),
        ),
        row("one endpoint changes: daemon", "ms", &|it| it.change_daemon_ms.clone(), None),
        row("one endpoint changes: nft", "ms", &|it| it.change_nft_ms.clone(), None),
        row("new connections", "1/s", &|it| it.connections_per_s.clone(), Some(Target::AtLeast(0.9))),
    ]
}

/// Puts all rules in force, whatever is there.
fn first(services: u32, spaces: &Spaces, figures: &mut Figures) -> anyhow::Result<()> {
    let view = view(services, true);
    let begun = Instant::now();
    let script = Ruleset::of(&table(&view)).replace(None);
    figures.first_daemon_ms.push(ms(begun));
    figures.first_elements = elements(&script);
    figures.first_nft_ms.push(spaces.nft(&script)?);
    Ok(())
}

/// One endpoint of the first service drains, and comes back, [`CHANGES`] times.
fn change(services: u32, spaces: &Spaces, figures: &mut Figures) -> anyhow::Result<()> {
    let mut before = table(&view(services, true));
    for ready in [false, true].repeat(CHANGES) {
        let view = view(services, ready);
        let begun = Instant::now();
        let mut table = table(&view);
        table.keep_numbers(&before);
        let script = table.change_from(&before);
        figures.change_daemon_ms.push(ms(begun));
        figures.change_elements.push(elements(&script));
        figures.change_nft_ms.push(spaces.nft(&script)?);
        before = table;
    }
    Ok(())
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

/// How many elements and rules a script adds or removes.
fn elements(script: &str) -> f64 {
    let of = |line: &str| match line.split_once(" element ") {
        Some((_, list)) => list.matches(", ").count() + 1,
        None => usize::from(line.starts_with("add rule")),
    };
    script.lines().map(of).sum::<usize>() as f64
}

fn table(view: &View) -> Table {
    let cluster =
        ClusterItem { pool: "10.64.0.0/11".parse().expect("a subnet"), fabric: FabricMode::Wireguard };
    let me = view.peers().next().expect("there are nodes");
    Table::of(view, &cluster, me, None, &Default::default())
}

/// So many services; `ready` says whether one endpoint of the first one is.
fn view(services: u32, ready: bool) -> View {
    let peers = (1..=NODES).map(|number| Item::Peer(peer(number)));
    let networks = (0..services.div_ceil(OF_A_NETWORK)).map(|number| Item::Network(network(number)));
    let routes = (0..services).flat_map(|number| route(number, ready));
    let items = peers.chain(networks).chain(routes);
    View::of(Revision::default(), items)
}

fn peer(number: u32) -> PeerItem {
    let underlay = Ipv4Addr::from(u32::from(NODE) + number - 1);
    PeerItem {
        node: NodeId::new(number.into()),
        hostname: format!("h{number}"),
        control: (underlay, 7238).into(),
        underlay: underlay.into(),
        fabric_port: 7239,
        fabric_keys: Vec::new(),
        fabric_turn: 0,
        fabric: Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 64, 0, 0)) + number),
        manager: false,
        alive: true,
        blocks: Vec::new(),
        attached: Vec::new(),
    }
}

fn network(number: u32) -> NetworkItem {
    let first = u32::from(Ipv4Addr::new(10, 64, 32, 0)) + (number << 13);
    NetworkItem {
        network: NetworkId::from_random(number.into()),
        stack: Some("shop".parse().expect("a name")),
        name: "default".parse().expect("a name"),
        subnet: Ipv4Net::new_assert(first.into(), 19),
        internal: false,
        attachable: false,
        plain: false,
    }
}

fn route(number: u32, ready: bool) -> impl Iterator<Item = Item> {
    let on = network(number / OF_A_NETWORK);
    let place = number % OF_A_NETWORK;
    let address = |from: Ipv4Addr, at: u32| Ipv4Addr::from(u32::from(from) + at);
    let endpoint = |index: u32| Endpoint {
        task: TaskId::from_random(u64::from(number * ENDPOINTS + index)),
        slot: u64::from(index) + 1,
        node: NodeId::new(u64::from(index % NODES) + 1),
        addresses: vec![(on.network, address(on.gateway(), 1 + place * ENDPOINTS + index))],
        ready: ready || number > 0 || index != ENDPOINTS / 2,
        host_ports: Vec::new(),
    };
    let vip = address(on.vips().network(), 1 + place);
    let item = RouteItem {
        service: ServiceId::from_random(number.into()),
        stack: "shop".parse().expect("a name"),
        name: format!("web{number}").parse().expect("a name"),
        networks: [(on.network, ServiceAddress { vip: Some(vip), aliases: Vec::new() })].into(),
        ports: vec![PortSpec::new(Protocol::Tcp, PUBLISHED + number as u16, TARGET)],
        routing: Routing::Any,
    };
    let endpoints: Vec<_> = (0..ENDPOINTS).map(endpoint).collect();
    item.with(endpoints)
}

/// A node, a container on it that has all addresses of the first service, and a client.
struct Spaces {
    node: Space,
    container: Space,
    client: Space,
}

impl Spaces {
    fn new(view: &View) -> anyhow::Result<Self> {
        let spaces = Self { node: Space::new()?, container: Space::new()?, client: Space::new()? };
        let network = view.networks().next().context("a view without a network")?;
        let (bridge, gateway) = (network.bridge(), network.gateway());
        let peer = |space: &Space| space.child.id();
        spaces.node.ip(&format!(
            "link set lo up\nlink add {bridge} type bridge forward_delay 0\naddr add {gateway}/19 dev {bridge}\n\
             link set {bridge} up\n\
             link add inside type veth peer name eth0 netns {}\nlink set inside master {bridge}\nlink set inside up\n\
             link add outside type veth peer name eth0 netns {}\naddr add {NODE}/24 dev outside\n\
             link set outside up\n",
            peer(&spaces.container),
            peer(&spaces.client)
        ))?;
        let forward =
            || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("letting packets through");
        spaces.node.inside(forward)?;
        let endpoints = view.routes().next().context("a view without a service")?.endpoints.into_iter();
        let addresses: String = endpoints
            .flat_map(|endpoint| &endpoint.addresses)
            .map(|(_, address)| format!("addr add {address}/19 dev eth0\n"))
            .collect();
        let up = format!("link set lo up\nlink set eth0 up\n{addresses}route add default via {gateway}\n");
        spaces.container.ip(&up)?;
        spaces.client.ip("link set eth0 up\naddr add 192.0.2.100/24 dev eth0\n")?;
        let listener = spaces.container.inside(|| Ok(TcpListener::bind(("0.0.0.0", TARGET))?))?;
        thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that is gone says so itself.
                let _ = stream.and_then(|mut stream| stream.write_all(ANSWER));
            }
        });
        Ok(spaces)
    }

    /// Milliseconds that the script took.
    fn nft(&self, script: &str) -> anyhow::Result<f64> {
        let begun = Instant::now();
        self.node.run(&["nft", "-f", "-"], script)?;
        Ok(ms(begun))
    }

    /// Connections a second, one after the other, each with an answer.
    fn connections(&self) -> anyhow::Result<f64> {
        self.client.inside(|| {
            let begun = Instant::now();
            let mut count = 0;
            while begun.elapsed() < LENGTH {
                let mut stream = TcpStream::connect((NODE, PUBLISHED)).context("connecting")?;
                // To its end: who closes first keeps the port for a while, and the client has only so many.
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).context("waiting for the answer")?;
                ensure!(answer == ANSWER, "the answer was {answer:?}");
                count += 1;
            }
            ensure!(count >= LEAST, "only {count} connections in {LENGTH:?}");
            Ok(f64::from(count) / begun.elapsed().as_secs_f64())
        })
    }
}

/// A network namespace, for as long as its process lives: it ends with this one, however that ends.
struct Space {
    child: Child,
}

impl Space {
    fn new() -> anyhow::Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--net", "--", "sh", "-c", "echo; exec cat"]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("running unshare")?;
        let out = child.stdout.take().context("no output")?;
        let mut line = String::new();
        BufReader::new(out).read_line(&mut line)?;
        ensure!(!line.is_empty(), "unshare has made no network namespace; is this root?");
        Ok(Self { child })
    }

    /// Does something in the namespace, on a thread of its own.
    fn inside<T: Send>(&self, act: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        let name = format!("/proc/{}/ns/net", self.child.id());
        let inside = move || {
            let file = File::open(&name).with_context(|| format!("opening {name}"))?;
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).context("entering")?;
            act()
        };
        thread::scope(|scope| scope.spawn(inside).join()).map_err(|_| anyhow::anyhow!("it panicked"))?
    }

    fn run(&self, argv: &[&str], input: &str) -> anyhow::Result<()> {
        self.inside(|| {
            let [program, args @ ..] = argv else { return Ok(()) };
            let mut child = Command::new(program).args(args).stdin(Stdio::piped()).spawn()?;
            let mut stdin = child.stdin.take().context("no input")?;
            stdin.write_all(input.as_bytes())?;
            drop(stdin);
            let status = child.wait()?;
            ensure!(status.success(), "`{}` ended with {status}", argv.join(" "));
            Ok(())
        })
    }

    fn ip(&self, batch: &str) -> anyhow::Result<()> {
        self.run(&["ip", "-batch", "-"], batch)
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
