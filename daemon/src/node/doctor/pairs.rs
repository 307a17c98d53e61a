//! What is between this node and each other one.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use raftup_proto::{
    api::Finding,
    view::{FABRIC_DEVICE, PeerItem},
};

use super::{super::host, others};
use crate::{
    api::Member,
    fabric,
    net::{NetError, Peer},
};

/// How long the other daemon may take to answer.
const CONTROL: Duration = Duration::from_secs(2);

/// How long the other kernel may take to answer over the fabric.
const FABRIC: Duration = Duration::from_secs(1);

/// How long one full packet may take there and back, and its repetitions.
const FULL: Duration = Duration::from_millis(450);

/// Least size of packets that is tried; every host on the internet takes them. Source: RFC 791.
const LEAST: u16 = 576;

pub(super) async fn look(member: Option<&Member>) -> Vec<Finding> {
    let Some(member) = member else { return Vec::new() };
    let found = join_all(others(member).into_iter().map(|peer| pair(member, peer))).await;
    found.into_iter().flatten().collect()
}

async fn pair(member: &Member, peer: PeerItem) -> Vec<Finding> {
    let (control, mut findings) = tokio::join!(control(member, &peer), over_fabric(&peer));
    findings.insert(0, control);
    findings.iter_mut().for_each(|finding| finding.to = Some(peer.hostname.clone()));
    findings
}

/// Asks the other daemon whether it is there.
pub(super) async fn probe(member: &Member, peer: &PeerItem) -> Result<(), NetError> {
    member.net.answers(CONTROL, Peer { node: peer.node, addr: peer.control }).await
}

async fn control(member: &Member, peer: &PeerItem) -> Finding {
    let check = "control";
    let begun = Instant::now();
    match probe(member, peer).await {
        Ok(()) => {
            Finding::fine(check, format!("answers in {:.1} ms", begun.elapsed().as_secs_f64() * 1000.0))
        }
        Err(error) => Finding::problem(
            check,
            format!("UDP {} does not answer: {error}", peer.control),
            format!(
                "is raftupd running on `{}` (`systemctl status raftupd` there), and is that port open from here?",
                peer.hostname
            ),
        ),
    }
}

/// Whether the other kernel answers the way that packets of containers take, and to full ones as well.
async fn over_fabric(peer: &PeerItem) -> Vec<Finding> {
    let (at, port) = (peer.underlay, peer.fabric_port);
    if !fabric::ping(peer.fabric, FABRIC).await {
        return vec![Finding::problem(
            "fabric",
            "no packet of containers gets there and back",
            format!("is UDP {port} of {at} open from here, and the same port of this host from there?"),
        )];
    }
    let reached = Finding::fine("fabric", "packets of containers get there and back");
    match own_mtu() {
        None => vec![reached],
        Some(full) => {
            let largest = fabric::largest(peer.fabric, LEAST.min(full), full, FULL).await;
            vec![reached, path(largest, full, host::device_towards(at))]
        }
    }
}

/// Size of packets of containers, as this node has set it.
fn own_mtu() -> Option<u16> {
    std::fs::read_to_string(format!("/sys/class/net/{FABRIC_DEVICE}/mtu")).ok()?.trim().parse().ok()
}

/// `link` is the device towards the other node, and its MTU.
fn path(largest: Option<u16>, full: u16, link: Option<(String, u32)>) -> Finding {
    let check = "packet size";
    let lost = match largest {
        Some(largest) if largest == full => {
            return Finding::fine(check, format!("packets of {full} bytes get there whole"));
        }
        Some(largest) => format!("packets of {full} bytes are lost, those of {largest} are not"),
        None => format!("packets of {full} bytes are lost, and so are those of {LEAST}"),
    };
    let less = full - largest.unwrap_or(LEAST);
    let next = format!(
        "something on the way takes smaller packets than this host's link: set the MTU of the link on both hosts {less} bytes \
         lower, here and in the network's configuration, and restart raftupd"
    );
    let finding = Finding::problem(check, lost, next);
    match link {
        None => finding,
        Some((device, mtu)) => finding
            .run(format!("ip link set {device} mtu {}", mtu.saturating_sub(u32::from(less))))
            .run("systemctl restart raftupd"),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use raftup_proto::api::Health;

    use super::*;

    #[test]
    fn a_narrow_path_is_told_with_what_passes() {
        let link = || Some(("eth0".to_owned(), 1500));
        assert_eq!(path(Some(1370), 1370, link()).health, Health::Ok);
        let narrow = path(Some(1266), 1370, link());
        assert_eq!(narrow.advice().unwrap().1, ["ip link set eth0 mtu 1396", "systemctl restart raftupd"]);
        expect!["packets of 1370 bytes are lost, those of 1266 are not"].assert_eq(&narrow.found);
        assert!(narrow.next.unwrap().contains("104 bytes lower"));
        assert_eq!(path(None, 1370, None).health, Health::Problem);
    }
}
