//! Whether another host answers over the fabric: its kernel does, with or without its daemon.

use std::{collections::BTreeSet, io, net::Ipv4Addr, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use raftup_proto::view::FABRIC_DEVICE;
use surge_ping::{Client, Config, IcmpPacket, PingIdentifier, PingSequence};
use tokio::time::sleep;
use tracing::debug;

/// Packets that are sent before a host counts as silent.
const PINGS: u16 = 3;

/// Type of an answer, from RFC 792.
const ECHO_REPLY: u8 = 0;

/// Bytes around what a ping carries: headers of IPv4 and ICMP.
const AROUND: u16 = 28;

/// Asks the host with this address on the fabric for a sign of life, a few times within `limit`; one answer is enough.
pub async fn ping(host: Ipv4Addr, limit: Duration) -> bool {
    answers(host, limit, &[]).await
}

/// Those of `hosts` that answer, asked as [`ping`] does, all at the same time.
pub async fn answering(hosts: impl IntoIterator<Item = Ipv4Addr>, limit: Duration) -> BTreeSet<Ipv4Addr> {
    let client = match client() {
        Ok(client) => client,
        Err(error) => {
            debug!(%error, "nothing is reached over the fabric");
            return BTreeSet::new();
        }
    };
    let asked = hosts.into_iter().map(|host| {
        let client = &client;
        async move { (host, answers_to(client, host, limit, &[]).await) }
    });
    let answers: FuturesUnordered<_> = asked.collect();
    answers.filter_map(|(host, answered)| async move { answered.then_some(host) }).collect().await
}

/// The largest packet up to `most` bytes that comes to the host whole and back, to within a few bytes; none if not even one
/// of `least` bytes does. Each that does not costs `limit`.
pub async fn largest(host: Ipv4Addr, least: u16, most: u16, limit: Duration) -> Option<u16> {
    // The kernel sends nothing over its device's size in one packet, and sets "do not fragment" on what it does send.
    let passes = async |size: u16| {
        let bytes = vec![0x72; usize::from(size.saturating_sub(AROUND))];
        answers(host, limit, &bytes).await
    };
    if passes(most).await {
        return Some(most);
    }
    if !passes(least).await {
        return None;
    }
    let (mut good, mut bad) = (least, most);
    while bad - good > STEP {
        let middle = good + (bad - good) / 2;
        if passes(middle).await {
            good = middle;
        } else {
            bad = middle;
        }
    }
    Some(good)
}

/// How closely the size of packets is told.
const STEP: u16 = 8;

async fn answers(host: Ipv4Addr, limit: Duration, bytes: &[u8]) -> bool {
    match client() {
        Ok(client) => answers_to(&client, host, limit, bytes).await,
        Err(error) => {
            debug!(%error, "nothing is reached over the fabric");
            false
        }
    }
}

/// No other way than that of containers' packets counts.
fn client() -> io::Result<Client> {
    Client::new(&Config::builder().interface(FABRIC_DEVICE).build())
}

async fn answers_to(client: &Client, host: Ipv4Addr, limit: Duration, bytes: &[u8]) -> bool {
    let identifier = PingIdentifier(rand::random());
    let tries = (0..PINGS).map(|number| {
        let wait = limit * u32::from(number) / u32::from(PINGS);
        let client = client.clone();
        async move {
            sleep(wait).await;
            let mut pinger = client.pinger(host.into(), identifier).await;
            pinger.timeout(limit - wait);
            match pinger.ping(PingSequence(number), bytes).await {
                Ok((IcmpPacket::V4(packet), _)) => packet.get_icmp_type().0 == ECHO_REPLY,
                // A router's word that the host cannot be reached, or nobody's word at all.
                Ok((IcmpPacket::V6(_), _)) | Err(_) => false,
            }
        }
    });
    tries.collect::<FuturesUnordered<_>>().any(|answered| async move { answered }).await
}
