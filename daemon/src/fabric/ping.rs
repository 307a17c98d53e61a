//! Whether another host answers over the fabric: its kernel does, with or without its daemon.

use std::{net::Ipv4Addr, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use raftup_proto::view::FABRIC_DEVICE;
use surge_ping::{Client, Config, IcmpPacket, PingIdentifier, PingSequence};
use tokio::time::sleep;
use tracing::debug;

/// Packets that are sent before a host counts as silent.
const PINGS: u16 = 3;

/// Type of an answer, from RFC 792.
const ECHO_REPLY: u8 = 0;

/// Asks the host with this address on the fabric for a sign of life, a few times within `limit`; one answer is enough.
pub async fn ping(host: Ipv4Addr, limit: Duration) -> bool {
    // No other way than that of containers' packets counts.
    let client = match Client::new(&Config::builder().interface(FABRIC_DEVICE).build()) {
        Ok(client) => client,
        Err(error) => {
            debug!(%error, "nothing is reached over the fabric");
            return false;
        }
    };
    let identifier = PingIdentifier(rand::random());
    let tries = (0..PINGS).map(|number| {
        let wait = limit * u32::from(number) / u32::from(PINGS);
        let client = client.clone();
        async move {
            sleep(wait).await;
            let mut pinger = client.pinger(host.into(), identifier).await;
            pinger.timeout(limit - wait);
            match pinger.ping(PingSequence(number), &[]).await {
                Ok((IcmpPacket::V4(packet), _)) => packet.get_icmp_type().0 == ECHO_REPLY,
                // A router's word that the host cannot be reached, or nobody's word at all.
                Ok((IcmpPacket::V6(_), _)) | Err(_) => false,
            }
        }
    });
    tries.collect::<FuturesUnordered<_>>().any(|answered| async move { answered }).await
}
