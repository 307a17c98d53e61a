//! Applies the rules, with `nft`, and keeps what goes with them.

use std::{collections::BTreeSet, io, path::Path, process::Stdio, time::Duration};

use ipnet::Ipv4Net;
use raftup_proto::{peer::Deaf, view::Revision};
use tokio::{io::AsyncWriteExt, process::Command, time::Instant};
use tracing::{debug, warn};

use super::{
    Ruleset, Table, conntrack,
    docker::Docker,
    found::Found,
    relay::Relay,
    reserve::Reserved,
    ruleset::{GENERATION, TABLE, generation_mark},
    table::{Front, Port},
};

/// Rules could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// A program that must be on the host cannot be run.
    #[error("`{program}` cannot be run")]
    Program {
        /// Its name.
        program: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It ran and refused.
    #[error("`{program}` refused: {said}")]
    Refused {
        /// Its name.
        program: &'static str,
        /// What it wrote.
        said: String,
    },
}

/// The mesh of this node.
#[derive(Debug, Default)]
pub struct Mesh {
    /// What was put in force last.
    last: Option<Table>,
    /// Others may have changed it since: it is replaced as a whole.
    doubted: bool,
    reserved: Reserved,
    relay: Relay,
    /// Ports that this node should answer on, those that others have among them.
    fronts: BTreeSet<Front>,
    pool: Option<Ipv4Net>,
    /// Of the table that was seen last.
    docker: Docker,
    /// When our rules were last put before those of others.
    came_first: Option<Instant>,
}

/// Our rules are put before those of others no more often: others may insist on being first as well.
const COME_FIRST: Duration = Duration::from_secs(10);

impl Mesh {
    /// Others may have changed the rules: replace them as a whole at the next change.
    pub fn forget(&mut self) {
        self.doubted = true;
    }

    /// Docker's chains or the host's own were changed: makes them lead to our rules again. Answers whether something was
    /// missing.
    pub async fn stand_in_docker(&mut self) -> Result<bool, MeshError> {
        let first = self.came_first.is_none_or(|at| at.elapsed() >= COME_FIRST);
        let amiss = self.docker.accept_ours(first).await?;
        if amiss && first {
            self.came_first = Some(Instant::now());
        }
        Ok(amiss)
    }

    /// Whether nobody reports changes of those chains, so that they have to be looked at from time to time.
    pub async fn stands_unheard() -> bool {
        Docker::is_unheard().await
    }

    /// Whether rules that an earlier process has put in force still are, and are those of `generation` or of a later one.
    pub async fn has_in_force(generation: Revision) -> bool {
        let set = run("nft", &["list", "set", "ip", TABLE, GENERATION], "").await.unwrap_or_default();
        let elements = set.split_once("elements = {").and_then(|(_, rest)| rest.split_once('}'));
        let mark =
            elements.and_then(|(mark, _)| u32::from_str_radix(mark.trim().strip_prefix("0x")?, 16).ok());
        mark.is_some_and(|mark| mark >= generation_mark(generation))
    }

    /// Makes the rules those of `table`, but for ports that other programs of this host have.
    ///
    /// Errors: nothing of the table is in force; the next call starts over.
    pub async fn apply(&mut self, mut table: Table) -> Result<Vec<String>, MeshError> {
        self.reserve(&table).await;
        table.withhold(self.reserved.taken());
        if let Some(last) = &self.last {
            table.keep_numbers(last);
        }
        let known = self.last.as_ref().filter(|_| !self.doubted);
        let applied = apply_rules(&table, known).await;
        // Docker drops what it does not know; it also makes the chain anew when it is started first. After our table, whose
        // mark the rules there ask for.
        let accepted = if known.is_none() { self.docker.accept_ours(true).await } else { Ok(false) };
        self.doubted = applied.is_err() || accepted.is_err();
        applied.and(accepted)?;
        if let Some(last) = &self.last {
            forget_flows(last, &table).await;
        }
        self.reserved.release(&self.fronts);
        self.last = Some(table);
        Ok(self.hold_ipv6())
    }

    /// Holds the published ports of `table`, and leads those who come to them over IPv6 to it. Answers what an operator
    /// should know, one line a matter.
    pub async fn hold(&mut self, table: &Table) -> Vec<String> {
        self.reserve(table).await;
        self.hold_ipv6()
    }

    async fn reserve(&mut self, table: &Table) {
        self.fronts = table.published.keys().copied().collect();
        self.pool = Some(table.pool);
        self.docker = Docker::of(table);
        self.reserved.hold(&self.fronts, table.pool, &self.relay.held()).await;
    }

    fn hold_ipv6(&mut self) -> Vec<String> {
        let ports = self.for_ipv6();
        self.relay.hold(&ports)
    }

    /// The ports that are answered on over IPv6: those of all addresses that this node holds. A program that listens on
    /// 127.0.0.1 alone is for no one outside, whatever the rules are at the moment.
    fn for_ipv6(&self) -> BTreeSet<Port> {
        let ours = |front: &&Front| front.0.is_none() && self.reserved.has(front);
        self.fronts.iter().filter(ours).map(|(_, port)| *port).collect()
    }

    /// The published ports that this node does not answer on, in order.
    pub fn deaf(&self) -> Vec<Deaf> {
        self.reserved.deaf()
    }

    /// Looks again at ports that could not be had, and at addresses that come and go. Answers whether the table has to be
    /// applied anew for that.
    pub async fn look_again(&mut self) -> bool {
        let Some(pool) = self.pool.filter(|_| self.reserved.may_change(&self.fronts)) else { return false };
        let before = (self.reserved.deaf(), self.for_ipv6());
        self.reserved.hold(&self.fronts, pool, &self.relay.held()).await;
        (self.reserved.deaf(), self.for_ipv6()) != before
    }

    /// Takes all of it away.
    pub async fn remove_all(&mut self) -> Result<(), MeshError> {
        self.last = None;
        self.relay.hold(&BTreeSet::new());
        self.reserved = Reserved::default();
        let ipv6 =
            if has_ipv6() { format!("table ip6 {TABLE}\ndelete table ip6 {TABLE}\n") } else { String::new() };
        nft(&format!("table ip {TABLE}\ndelete table ip {TABLE}\n{ipv6}")).await?;
        Docker::forget_ours().await
    }
}

async fn apply_rules(table: &Table, known: Option<&Table>) -> Result<(), MeshError> {
    if let Some(known) = known {
        let change = table.change_from(known);
        if change.is_empty() {
            return Ok(());
        }
        match nft(&change).await {
            Ok(()) => return Ok(()),
            Err(error) => warn!(%error, "rules were changed by someone else; all of ours are replaced"),
        }
    }
    let mut script = Ruleset::of(table).replace(Found::look().await.as_ref());
    if has_ipv6() {
        script.push_str(NO_IPV6);
    }
    nft(&script).await
}

/// Our networks have no IPv6. A container with a link-local address of its own choice would otherwise reach this host's
/// services by its bridge, whatever the rules for IPv4 say. The devices have IPv6 turned off too, once they are seen.
const NO_IPV6: &str = r#"table ip6 raftup
delete table ip6 raftup
table ip6 raftup {
    chain early { type filter hook prerouting priority -300; policy accept; iifname "ru-*" drop; }
    chain early_own { type filter hook output priority -300; policy accept; oifname "ru-*" drop; }
}
"#;

/// The kernel has IPv6 at all.
fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// Flows to endpoints that are gone are re-aimed with their next packet instead of lost.
async fn forget_flows(before: &Table, now: &Table) {
    let gone = before.endpoints.difference(&now.endpoints).copied().collect();
    let moved = |one: &Table, other: &Table| {
        one.published
            .keys()
            .filter(|front| !other.published.contains_key(*front))
            .map(|(_, port)| *port)
            .collect::<Vec<Port>>()
    };
    conntrack::forget(gone, [moved(before, now), moved(now, before)].concat()).await;
}

/// Whether this host takes rules such as ours: the kernel checks some, and keeps none. Errors: it does not, or a program
/// is missing.
pub async fn try_rules() -> Result<(), MeshError> {
    run("nft", &["--check", "--file", "-"], TRIAL).await?;
    Docker::can_be_read().await
}

/// One rule of each kind that ours are made of.
const TRIAL: &str = r#"table ip raftup-trial {
    set blocks { type ipv4_addr; comment "type ipv4_addr"; }
    map verdicts { type ipv4_addr : verdict; }
    chain picked { dnat to numgen random mod 2 map { 0 : 192.0.2.1, 1 : 192.0.2.2 }; }
    set sources { type ifname . ipv4_addr; }
    chain early { type filter hook prerouting priority -300; meta iifkind "bridge" iifname . ip saddr & 255.255.255.192 != @sources fib saddr . iif oif missing drop; udp dport 1 @th,64,56 1 udp dport set 2 notrack; ct original zone set 1; }
    chain arriving { type nat hook prerouting priority -101; ip daddr vmap @verdicts; fib daddr type local jump picked; }
    chain passing { type filter hook forward priority -1; ct state established accept; ip saddr & 255.255.255.192 != @blocks reject with icmp admin-prohibited; }
    chain leaving { type nat hook postrouting priority 99; masquerade; }
}
"#;

async fn nft(script: &str) -> Result<(), MeshError> {
    debug!(bytes = script.len(), "rules change");
    run("nft", &["-f", "-"], script).await.map(drop)
}

/// Runs a program to its end and answers what it wrote. Errors: it cannot be run, or ends with another status than 0.
pub(super) async fn run(program: &'static str, arguments: &[&str], input: &str) -> Result<String, MeshError> {
    let failed = |source| MeshError::Program { program, source };
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends before it has read all says why itself.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said = if said.trim().is_empty() {
        format!("{}, with no word", output.status)
    } else {
        said.lines().take(3).collect::<Vec<_>>().join("; ")
    };
    Err(MeshError::Refused { program, said })
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        net::{TcpListener, TcpStream},
    };

    use raftup_proto::{api::FabricMode, spec::Protocol};

    use super::*;
    use crate::mesh::table::{Choice, Published};

    fn publishing(port: u16) -> Table {
        let published = Published { target: 8080, to: Choice::Drawn(Vec::new()) };
        Table {
            generation: Revision(1),
            pool: "10.64.0.0/11".parse().unwrap(),
            fabric: "10.64.0.0/19".parse().unwrap(),
            fabric_mode: FabricMode::Plain,
            fabric_port: 7239,
            end: None,
            networks: Vec::new(),
            homes: BTreeMap::new(),
            crossing: BTreeSet::new(),
            attached: BTreeMap::new(),
            outgoing: BTreeSet::new(),
            lanes: Vec::new(),
            peers: Vec::new(),
            nodes: BTreeSet::new(),
            ends: BTreeSet::new(),
            virtuals: BTreeMap::new(),
            published: BTreeMap::from([((None, (Protocol::Tcp, port)), published)]),
            draws: Default::default(),
            here: BTreeMap::new(),
            endpoints: BTreeSet::new(),
        }
    }

    #[tokio::test]
    async fn nobody_is_led_over_ipv6_to_a_program_that_is_for_this_host_alone() {
        let program = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = program.local_addr().unwrap().port();
        let (mut mesh, table) = (Mesh::default(), publishing(port));
        assert!(mesh.hold(&table).await.is_empty());
        assert_eq!(mesh.deaf().len(), 1);
        assert_eq!(TcpStream::connect(("::1", port)).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        drop(program);
        assert!(mesh.hold(&table).await.is_empty());
        assert!(mesh.deaf().is_empty());
        assert!(TcpStream::connect(("::1", port)).is_ok());
    }

    /// The number of a connection that began on this host is no reason to be deaf, and still in the way of the sockets.
    #[tokio::test]
    async fn a_port_that_gets_free_is_answered_over_ipv6_as_well() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let port = connection.local_addr().unwrap().port();
        let (mut mesh, table) = (Mesh::default(), publishing(port));
        assert!(mesh.hold(&table).await.is_empty() && mesh.deaf().is_empty());
        assert!(!mesh.look_again().await, "nothing has changed");
        assert_eq!(TcpStream::connect(("::1", port)).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        // Its end leaves nothing behind that waits for late packets.
        socket2::SockRef::from(&connection).set_linger(Some(Duration::ZERO)).unwrap();
        drop(connection);
        assert!(mesh.look_again().await);
        assert!(mesh.hold(&table).await.is_empty());
        assert!(TcpStream::connect(("::1", port)).is_ok());
    }
}
