//! What the kernel must be able to do.

use std::{fs::File, io, net::IpAddr, path::Path};

use raftup_proto::{
    api::{FabricMode, Finding, Health},
    refusal::{Code, Refusal},
    view::FABRIC_DEVICE,
};

use crate::{
    api::Member,
    fabric::{
        Fabric, FabricError, LEAST_LINK_MTU,
        bridges::{passes_through_rules, unfiltered},
    },
    mesh::{self, Listing, MeshError},
};

/// Device that a process of ours gets packets from, where the kernel does not encrypt.
const TUN: &str = "/dev/net/tun";

pub(super) async fn look(member: Option<&Member>) -> Vec<Finding> {
    let cluster: Option<(_, _, _, Vec<String>)> = member.and_then(|member| {
        let view = member.agent.view();
        let view = view.borrow();
        let me = view.peers().find(|peer| peer.node == member.node)?;
        let plain = view.networks().filter(|network| network.plain);
        let plain: Vec<String> = plain.map(|network| format!("`{}`", network.engine_name())).collect();
        let bridges = view.networks().map(|network| network.bridge()).collect();
        Some((view.cluster()?.fabric, me.underlay, plain, bridges))
    });
    let fabric = cluster.as_ref().map_or(FabricMode::default(), |(fabric, ..)| *fabric);
    let mut findings = vec![rules(mesh::try_rules().await), vxlan().await];
    if fabric == FabricMode::Wireguard {
        findings.push(wireguard().await);
    }
    if let Some((_, underlay, plain, bridges)) = cluster {
        if !plain.is_empty() {
            let found = format!("not encrypted between hosts, as asked for: network {}", plain.join(", "));
            findings.push(Finding::fine("networks", found));
        }
        findings.extend(link(underlay).await);
        findings.push(bridged(passes_through_rules(), &unfiltered(&bridges, Path::new("/"))));
        findings.push(connections(tokio::task::spawn_blocking(mesh::try_connections).await));
        findings.push(forwarding(|key| std::fs::read_to_string(format!("/proc/sys/net/ipv4/{key}"))));
    }
    findings
}

/// Refuses a host that no cluster could use. `fabric` is known to who makes the cluster.
pub(in crate::node) async fn unfit(fabric: Option<FabricMode>, advertise: IpAddr) -> Result<(), Refusal> {
    let mut findings = vec![rules(mesh::try_rules().await), vxlan().await];
    if fabric == Some(FabricMode::Wireguard) {
        findings.push(wireguard().await);
    }
    findings.extend(link(advertise).await);
    match findings.into_iter().find(|finding| finding.health == Health::Problem) {
        None => Ok(()),
        Some(bad) => {
            let refusal =
                Refusal::new(Code::Unavailable, format!("this host cannot be a node: {}", bad.found));
            Err(match bad.advice() {
                Some((next, commands)) if commands.is_empty() => refusal.hint(next),
                Some((next, commands)) => refusal.hint(format!("{next}: `{}`", commands.join(" && "))),
                None => refusal,
            })
        }
    }
}

fn rules(tried: Result<(), MeshError>) -> Finding {
    let check = "nftables";
    match tried {
        Ok(()) => Finding::fine(check, "the kernel takes rules such as ours"),
        Err(MeshError::Program { program, source }) => Finding::problem(
            check,
            format!("`{program}` cannot be run: {source}"),
            "install it (on Debian and Ubuntu, with this)",
        )
        .run("apt-get install -y nftables iptables"),
        Err(MeshError::Refused { program, said }) => Finding::problem(
            check,
            format!("the kernel refuses packet rules: `{program}` says: {said}"),
            "raftupd needs nf_tables with NAT in the kernel (`modprobe -a nf_tables nft_chain_nat nft_fib_ipv4 nft_masq`), \
             and CAP_NET_ADMIN",
        ),
    }
}

async fn vxlan() -> Finding {
    let check = "vxlan";
    match tried(async |fabric| fabric.try_vxlan().await).await {
        Ok(()) => Finding::fine(check, "the kernel makes tunnels between hosts"),
        Err(error) => Finding::problem(
            check,
            format!("the kernel makes no VXLAN device: {error:#}"),
            "raftupd needs VXLAN in the kernel (`modprobe vxlan`; some cloud kernels have it in a package of extra \
             modules), and CAP_NET_ADMIN",
        ),
    }
}

async fn wireguard() -> Finding {
    let check = "wireguard";
    if tried(async |fabric| fabric.try_wireguard().await).await.is_ok() {
        return Finding::fine(check, "the kernel encrypts");
    }
    match File::options().read(true).write(true).open(TUN) {
        Ok(_) => Finding::fine(check, "a process of raftupd encrypts: the kernel has no WireGuard"),
        Err(error) => Finding::problem(
            check,
            format!("the kernel has no WireGuard, and {TUN} cannot be used instead: {error}"),
            "`modprobe wireguard` or `modprobe tun`; or make the cluster with `--fabric plain` on a link that is yours alone",
        ),
    }
}

async fn tried(what: impl AsyncFnOnce(&Fabric) -> Result<(), FabricError>) -> anyhow::Result<()> {
    Ok(what(&Fabric::open()?).await?)
}

/// The link to other nodes; nothing where no device of this host has its address.
async fn link(address: IpAddr) -> Option<Finding> {
    let mtu = Fabric::open().ok()?.link_mtu(address).await.ok()??;
    Some(large_enough(address, mtu))
}

fn large_enough(address: IpAddr, mtu: u32) -> Finding {
    let check = "link";
    if mtu >= LEAST_LINK_MTU {
        return Finding::fine(check, format!("packets of {mtu} bytes from {address}"));
    }
    Finding::problem(
        check,
        format!(
            "the link with {address} carries packets of {mtu} bytes at most, and nodes need {LEAST_LINK_MTU}"
        ),
        format!(
            "raise its MTU: `ip link set DEVICE mtu 1500` (`ip addr show to {address}` names the device)"
        ),
    )
}

/// Whether the kernel can be made to forget connections.
fn connections(tried: Result<io::Result<Listing>, tokio::task::JoinError>) -> Finding {
    let check = "connections";
    match tried.map_err(io::Error::other).flatten() {
        Ok(Listing::Filtered) => Finding::fine(check, "those to tasks that are gone are forgotten"),
        Ok(Listing::Whole) => Finding::fine(
            check,
            "those to tasks that are gone are forgotten; this kernel lists all of them each time",
        ),
        Err(error) => Finding::problem(
            check,
            format!(
                "the kernel does not list its connections ({error}): flows of UDP to tasks that are gone go on"
            ),
            "load its module, and name it in /etc/modules-load.d/raftup.conf",
        )
        .run("modprobe nf_conntrack_netlink"),
    }
}

/// What the fabric sets when it is made, and others may have turned off since.
fn forwarding(read: impl Fn(&str) -> io::Result<String>) -> Finding {
    let check = "forwarding";
    let keys = ["ip_forward".to_owned(), format!("conf/{FABRIC_DEVICE}/forwarding")];
    let off = keys.into_iter().find(|key| read(key).is_ok_and(|value| value.trim() == "0"));
    match off.map(|key| key.replace('/', ".")) {
        None => Finding::fine(check, "packets are forwarded"),
        Some(key) => Finding::problem(
            check,
            format!("net.ipv4.{key} is 0: packets between containers and other hosts go nowhere"),
            "turn it on, and look in /etc/sysctl.d for what turns it off",
        )
        .run(format!("sysctl -w net.ipv4.{key}=1")),
    }
}

/// `loaded`: the kernel can pass packets of bridges through rules; `past` are our bridges that do not.
fn bridged(loaded: bool, past: &[String]) -> Finding {
    let check = "bridges";
    let missed = "virtual addresses of tasks on the same node do not answer";
    if !loaded {
        return Finding::problem(
            check,
            format!("kernel module `br_netfilter` is missing: {missed}"),
            "load it, and name it in /etc/modules-load.d/raftup.conf",
        )
        .run("modprobe br_netfilter");
    }
    match past.first() {
        None => Finding::fine(check, "packets between containers of this node pass the rules"),
        Some(bridge) => Finding::problem(
            check,
            format!("bridge `{bridge}` does not pass its packets to the rules: {missed}"),
            "turn it on, and look for what turns it off",
        )
        .run(format!("echo 1 > /sys/class/net/{bridge}/bridge/nf_call_iptables")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bridge_that_skips_the_rules_is_a_problem() {
        assert_eq!(bridged(true, &[]).health, Health::Ok);
        assert_eq!(bridged(false, &[]).advice().unwrap().1, ["modprobe br_netfilter"]);
        let off = bridged(true, &["ru-1".to_owned()]);
        assert_eq!(off.advice().unwrap().1, ["echo 1 > /sys/class/net/ru-1/bridge/nf_call_iptables"]);
    }

    #[test]
    fn a_setting_that_is_off_is_named() {
        let read = |off: &'static str| move |key: &str| Ok(if key == off { "0\n" } else { "1\n" }.to_owned());
        assert_eq!(forwarding(read("")).health, Health::Ok);
        assert!(forwarding(read("ip_forward")).found.starts_with("net.ipv4.ip_forward is 0"));
        let device = forwarding(read("conf/ru-fabric/forwarding"));
        assert_eq!(device.advice().unwrap().1, ["sysctl -w net.ipv4.conf.ru-fabric.forwarding=1"]);
    }
}
