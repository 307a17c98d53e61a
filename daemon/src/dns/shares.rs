//! How containers share what a host has only so much of: questions that wait for other resolvers, connections.
//!
//! Holds: a container that has none gets one, unless all are taken or its network has three quarters of them; the more are
//! taken, the less any of them may have. A container cannot take the place of others, and a network not that of others,
//! even if its containers forge addresses.

use std::{
    collections::HashMap,
    hash::Hash,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use raftup_proto::id::NetworkId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::warn;

/// A container has at most this part of what is free: alone, a quarter of all.
const PART_OF_FREE: usize = 3;

/// Containers that have none yet leave this part of their network's share to other networks.
const FIRST: usize = 3;

/// The log says this often at most that containers are refused.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// A number of places.
#[derive(Debug)]
pub(super) struct Shares {
    what: &'static str,
    most: u32,
    free: Arc<Semaphore>,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    by_asker: HashMap<Ipv4Addr, usize>,
    by_network: HashMap<NetworkId, usize>,
    told: Option<Instant>,
}

/// A place; free again when dropped.
pub(super) struct Place {
    shares: Arc<Shares>,
    asker: Ipv4Addr,
    network: NetworkId,
    _permit: OwnedSemaphorePermit,
}

impl Shares {
    /// `most` places for `what`.
    pub(super) fn new(what: &'static str, most: u32) -> Arc<Self> {
        let free = Arc::new(Semaphore::new(most as usize));
        Arc::new(Self { what, most, free, taken: Mutex::default() })
    }

    /// A place for `asker` of `network`; none if all are taken, or it has its share.
    pub(super) fn take(self: &Arc<Self>, asker: Ipv4Addr, network: NetworkId) -> Option<Place> {
        let mut taken = self.taken();
        let free = self.free.available_permits();
        let of_asker = taken.by_asker.get(&asker).copied().unwrap_or_default();
        let of_network = taken.by_network.get(&network).copied().unwrap_or_default();
        let network_may = if of_asker == 0 { FIRST * free } else { free };
        let permit = (of_asker * PART_OF_FREE < free && of_network < network_may)
            .then(|| Arc::clone(&self.free).try_acquire_owned().ok())
            .flatten();
        let Some(permit) = permit else {
            if taken.told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
                taken.told = Some(Instant::now());
                warn!(what = self.what, %asker, of_asker, of_network, free, "a container wants more than its share");
            }
            return None;
        };
        *taken.by_asker.entry(asker).or_default() += 1;
        *taken.by_network.entry(network).or_default() += 1;
        drop(taken);
        Some(Place { shares: Arc::clone(self), asker, network, _permit: permit })
    }

    /// Waits until no place is taken.
    pub(super) async fn all_free(&self) {
        // Closed by nobody.
        drop(self.free.acquire_many(self.most).await);
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Nothing that holds the lock can leave it half done.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.shares.taken();
        one_less(&mut taken.by_asker, &self.asker);
        one_less(&mut taken.by_network, &self.network);
    }
}

/// Forgets who has none.
fn one_less<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: u32 = 512;

    fn asker(number: usize) -> Ipv4Addr {
        Ipv4Addr::from(0x0a40_2000 + u32::try_from(number).unwrap())
    }

    fn network(number: u64) -> NetworkId {
        NetworkId::from_random(number)
    }

    /// As many places as `number` containers of a network get that ask in turn until nobody gets one.
    fn greedy(shares: &Arc<Shares>, number: usize, of: NetworkId, first: usize) -> Vec<Place> {
        let mut places = Vec::new();
        loop {
            let before = places.len();
            places.extend((first..first + number).filter_map(|one| shares.take(asker(one), of)));
            if places.len() == before {
                return places;
            }
        }
    }

    #[test]
    fn greedy_containers_leave_room_for_others() {
        for (number, most) in [(1, 128), (2, 206), (5, 256), (40, 256), (5000, 384)] {
            let shares = Shares::new("places", ALL);
            let held = greedy(&shares, number, network(1), 0);
            assert!(held.len() <= most && held.len() + 8 > most, "{number} have {}", held.len());
            // One of another network gets a fair part, and if its network is not full, one of the same network gets one.
            let others = greedy(&shares, 1, network(2), 10_000);
            assert!(others.len() >= 32, "{number} leave {}", others.len());
            if number < 5000 {
                assert!(shares.take(asker(20_000), network(1)).is_some(), "{number}");
            }
        }
    }

    #[tokio::test]
    async fn places_come_back() {
        let shares = Shares::new("places", ALL);
        for _ in 0..3 {
            let held = greedy(&shares, 3, network(1), 0);
            assert!(held.len() > 200, "{}", held.len());
            drop(held);
            assert_eq!(shares.free.available_permits(), ALL as usize);
            assert!(shares.taken().by_asker.is_empty() && shares.taken().by_network.is_empty());
            shares.all_free().await;
        }
    }
}
