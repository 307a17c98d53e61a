//! The other nodes, and a link for each pair of keys.
//!
//! Two nodes that both have a new key beside the old one have four links for a while; packets take the newest of those
//! that stand, and whatever comes over any of them is accepted.

use std::{
    collections::{BTreeMap, HashMap},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use boringtun::{
    noise::{Packet, Tunn, handshake::parse_handshake_anon, rate_limiter::RateLimiter},
    x25519::{PublicKey, StaticSecret},
};
use raftup_proto::peer::FabricKey;

use super::{LinkStatus, PrivateKey, TunnelPeer, TunnelSpec};

/// Handshakes a second above which a sender must show that its address is its own.
const HANDSHAKES: u64 = 200;

/// Seconds between packets that keep the way through a NAT open.
pub(super) const KEEPALIVE_S: u16 = 25;

/// Sessions of a link; the low byte of the number that a packet names its session by.
const SESSION_BITS: u32 = 8;

/// A link between a key of this node and one of another.
pub(super) struct Link {
    pub(super) peer: Arc<Peer>,
    own: FabricKey,
    tunn: Mutex<Tunn>,
    number: u32,
}

impl Link {
    pub(super) fn tunn(&self) -> MutexGuard<'_, Tunn> {
        self.tunn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Another node.
pub(super) struct Peer {
    /// Packets from it have this address and no other.
    pub(super) address: Ipv4Addr,
    places: Mutex<Places>,
}

/// Where another node may be.
struct Places {
    /// Where it was last heard from; the likeliest place at first.
    heard: SocketAddr,
    /// What the daemon said last, the likeliest first.
    told: Vec<SocketAddr>,
}

impl Peer {
    fn new(of: &TunnelPeer) -> Self {
        let told: Vec<SocketAddr> = of.places().collect();
        let heard = told.first().copied().unwrap_or(of.endpoint);
        Self { address: of.address, places: Mutex::new(Places { heard, told }) }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where packets to it go.
    pub(super) fn endpoint(&self) -> SocketAddr {
        self.places().heard
    }

    /// All places where it may be: a handshake is begun at each, and packets go wherever it is answered.
    pub(super) fn everywhere(&self) -> Vec<SocketAddr> {
        let places = self.places();
        let told = places.told.iter().copied().filter(|place| *place != places.heard);
        std::iter::once(places.heard).chain(told).collect()
    }

    /// It was heard from there, in a packet that only it can have made.
    pub(super) fn heard_from(&self, endpoint: SocketAddr) {
        self.places().heard = endpoint;
    }

    /// It is said to be there; it is not believed before it was heard there. Answers whether that is news.
    fn told(&self, told: Vec<SocketAddr>) -> bool {
        let mut places = self.places();
        let news = told.iter().any(|place| !places.told.contains(place));
        places.told = told;
        news
    }
}

/// One of this node's keys.
struct Own {
    private: StaticSecret,
    public: PublicKey,
    limiter: Arc<RateLimiter>,
}

/// All of them. Replaced as a whole; links that stay are shared with the one before.
#[derive(Default)]
pub(super) struct Peers {
    own: Vec<Own>,
    /// Links to each address, newest last.
    to: HashMap<Ipv4Addr, Vec<Arc<Link>>>,
    by_number: HashMap<u32, Arc<Link>>,
    by_keys: HashMap<(FabricKey, FabricKey), Arc<Link>>,
}

impl Peers {
    /// What `spec` says, with what stays of these. The second value are the links to begin a handshake on: new ones, and
    /// those of a node that is said to be elsewhere.
    pub(super) fn become_of(&self, spec: &TunnelSpec) -> (Self, Vec<Arc<Link>>) {
        let mut next = Self { own: self.own_of(&spec.keys), ..Self::default() };
        let mut new = Vec::new();
        let known: BTreeMap<Ipv4Addr, &Arc<Peer>> =
            self.by_number.values().map(|link| (link.peer.address, &link.peer)).collect();
        let holders: BTreeMap<FabricKey, Ipv4Addr> =
            self.by_keys.iter().map(|((_, key), link)| (*key, link.peer.address)).collect();
        for other in &spec.undisputed(|key| holders.get(&key).copied()) {
            let same = known.get(&other.address).map(|peer| Arc::clone(peer));
            let peer = same.unwrap_or_else(|| Arc::new(Peer::new(other)));
            let elsewhere = peer.told(other.places().collect());
            for key in &other.keys {
                for at in 0..next.own.len() {
                    let Some(own) = next.own.get(at) else { continue };
                    let keys = (FabricKey(own.public.to_bytes()), *key);
                    // One node may name a key twice.
                    if next.by_keys.contains_key(&keys) {
                        continue;
                    }
                    let same = self.by_keys.get(&keys).filter(|link| Arc::ptr_eq(&link.peer, &peer));
                    let fresh = || Arc::new(self.link(&next, own, *key, Arc::clone(&peer)));
                    let link = same.map_or_else(fresh, Arc::clone);
                    if same.is_none() || elsewhere {
                        new.push(Arc::clone(&link));
                    }
                    next.by_number.insert(link.number, Arc::clone(&link));
                    next.by_keys.insert(keys, Arc::clone(&link));
                    next.to.entry(other.address).or_default().push(link);
                }
            }
        }
        (next, new)
    }

    fn own_of(&self, keys: &[PrivateKey]) -> Vec<Own> {
        let own = |key: &PrivateKey| {
            let (private, public) = (key.secret(), PublicKey::from(&key.secret()));
            let same = self.own.iter().find(|own| own.public == public);
            let limiter = same.map_or_else(
                || Arc::new(RateLimiter::new(&public, HANDSHAKES)),
                |own| Arc::clone(&own.limiter),
            );
            Own { private, public, limiter }
        };
        keys.iter().map(own).collect()
    }

    fn link(&self, next: &Self, own: &Own, key: FabricKey, peer: Arc<Peer>) -> Link {
        let taken = |number: &u32| self.by_number.contains_key(number) || next.by_number.contains_key(number);
        let mut number = random_number();
        while taken(&number) {
            number = random_number();
        }
        let tunn = Tunn::new(
            own.private.clone(),
            PublicKey::from(key.0),
            None,
            Some(KEEPALIVE_S),
            number,
            Some(Arc::clone(&own.limiter)),
        );
        Link { peer, own: FabricKey(own.public.to_bytes()), tunn: Mutex::new(tunn), number }
    }

    /// The link that packets to `address` take now.
    pub(super) fn towards(&self, address: Ipv4Addr) -> Option<&Arc<Link>> {
        let links = self.to.get(&address)?;
        match links.as_slice() {
            [only] => Some(only),
            all => all.iter().rev().find(|link| stands(link)).or(all.last()),
        }
    }

    /// The link of a session, by the number that packets name it by.
    pub(super) fn of_session(&self, session: u32) -> Option<&Arc<Link>> {
        self.by_number.get(&(session >> SESSION_BITS))
    }

    /// The link that a first message of a handshake is about. Errors: what must be answered at once, if anything.
    pub(super) fn of_handshake(
        &self,
        from: SocketAddr,
        message: &[u8],
    ) -> Result<&Arc<Link>, Option<Vec<u8>>> {
        for own in &self.own {
            let mut cookie = [0; 64];
            let packet = match own.limiter.verify_packet(Some(from.ip()), message, &mut cookie) {
                Ok(packet) => packet,
                Err(boringtun::noise::TunnResult::WriteToNetwork(cookie)) => {
                    return Err(Some(cookie.to_vec()));
                }
                // Meant for another key.
                Err(_) => continue,
            };
            let Packet::HandshakeInit(init) = packet else { return Err(None) };
            let half = parse_handshake_anon(&own.private, &own.public, &init).map_err(|_| None)?;
            let keys = (FabricKey(own.public.to_bytes()), FabricKey(half.peer_static_public));
            return self.by_keys.get(&keys).ok_or(None);
        }
        Err(None)
    }

    /// All links.
    pub(super) fn links(&self) -> impl Iterator<Item = &Arc<Link>> {
        self.by_number.values()
    }

    /// A second has passed.
    pub(super) fn tick(&self) {
        for own in &self.own {
            own.limiter.reset_count();
        }
    }

    /// Whether every node that has a link at all has one that stands.
    pub(super) fn all_stand(&self) -> bool {
        self.to.values().all(|links| links.iter().any(stands))
    }

    pub(super) fn status(&self) -> Vec<LinkStatus> {
        let status = |(address, links): (&Ipv4Addr, &Vec<Arc<Link>>)| {
            let link = links.iter().rev().find(|link| stands(link)).or(links.last())?;
            let (agreed, ..) = link.tunn().stats();
            let bytes = links.iter().map(|link| link.tunn().stats());
            let (sent, received) = bytes
                .fold((0, 0), |(sent, received), stats| (sent + stats.1 as u64, received + stats.2 as u64));
            Some(LinkStatus {
                address: *address,
                endpoint: link.peer.endpoint(),
                key: link.own,
                agreed_ms_ago: agreed.map(|ago| ago.as_millis() as u64),
                sent_bytes: sent,
                received_bytes: received,
            })
        };
        let mut all: Vec<_> = self.to.iter().filter_map(status).collect();
        all.sort_unstable_by_key(|link| link.address);
        all
    }
}

/// Both ends have agreed on a session, and it is not too old.
pub(super) fn stands(link: &Arc<Link>) -> bool {
    link.tunn().time_since_last_handshake().is_some()
}

fn random_number() -> u32 {
    rand::random::<u32>() >> SESSION_BITS
}

#[cfg(test)]
mod tests {
    use boringtun::noise::TunnResult;
    use raftup_proto::unit::UnixMillis;

    use super::{
        super::{Keys, keys::OVERLAP_MS},
        *,
    };

    fn keys() -> (tempfile::TempDir, Keys) {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::load_or_make(dir.path(), UnixMillis(1)).unwrap();
        (dir, keys)
    }

    fn spec(keys: &Keys, number: u8, others: &[(u8, Vec<FabricKey>)]) -> TunnelSpec {
        let peers = others.iter().map(|(number, keys)| TunnelPeer {
            address: Ipv4Addr::new(10, 64, 16, *number),
            endpoint: SocketAddr::from(([192, 0, 2, *number], 7239)),
            hint: None,
            keys: keys.clone(),
        });
        TunnelSpec {
            listen: "0.0.0.0:7239".parse().unwrap(),
            address: Ipv4Addr::new(10, 64, 16, number),
            keys: keys.private(),
            alone: 0,
            peers: peers.collect(),
        }
    }

    /// A handshake begun by `link`, answered by `other`, and confirmed.
    fn shake(link: &Link, other: &Peers) {
        let (mut out, mut answer, mut last) = ([0; 256], [0; 256], [0; 256]);
        let TunnResult::WriteToNetwork(init) = link.tunn().format_handshake_initiation(&mut out, true) else {
            panic!("no first message")
        };
        let from = "192.0.2.1:7239".parse().unwrap();
        let there = other.of_handshake(from, init).map_err(|_| "refused").unwrap();
        let TunnResult::WriteToNetwork(response) = there.tunn().decapsulate(None, init, &mut answer) else {
            panic!("no answer")
        };
        let TunnResult::WriteToNetwork(keepalive) = link.tunn().decapsulate(None, response, &mut last) else {
            panic!("no confirmation")
        };
        let mut none = [0; 256];
        assert!(matches!(there.tunn().decapsulate(None, keepalive, &mut none), TunnResult::Done));
    }

    #[test]
    fn a_stranger_gets_no_answer_and_a_member_one_link() {
        let ((_a, ours), (_b, theirs), (_c, strange)) = (keys(), keys(), keys());
        let (here, _) = Peers::default().become_of(&spec(&ours, 1, &[(2, theirs.all_public())]));
        let (there, _) = Peers::default().become_of(&spec(&theirs, 2, &[(1, ours.all_public())]));
        let (stranger, _) = Peers::default().become_of(&spec(&strange, 3, &[(1, ours.all_public())]));
        let to_us = stranger.towards(Ipv4Addr::new(10, 64, 16, 1)).unwrap();
        let mut out = [0; 256];
        let TunnResult::WriteToNetwork(init) = to_us.tunn().format_handshake_initiation(&mut out, false)
        else {
            panic!("no first message")
        };
        assert!(matches!(here.of_handshake("192.0.2.3:1".parse().unwrap(), init), Err(None)));
        assert!(!here.all_stand());
        shake(there.towards(Ipv4Addr::new(10, 64, 16, 1)).unwrap(), &here);
        assert!(here.all_stand() && there.all_stand());
    }

    #[test]
    fn a_new_key_takes_over_once_its_link_stands() {
        let ((dir, mut ours), (_b, theirs)) = (keys(), keys());
        let (here, _) = Peers::default().become_of(&spec(&ours, 1, &[(2, theirs.all_public())]));
        let (there, _) = Peers::default().become_of(&spec(&theirs, 2, &[(1, ours.all_public())]));
        let (one, two) = (Ipv4Addr::new(10, 64, 16, 1), Ipv4Addr::new(10, 64, 16, 2));
        shake(here.towards(two).unwrap(), &there);
        let old = ours.all_public()[0];
        let later = UnixMillis(OVERLAP_MS);
        ours.follow(dir.path(), later, 1).unwrap();
        let (here, new) = here.become_of(&spec(&ours, 1, &[(2, theirs.all_public())]));
        assert_eq!(new.len(), 1, "the old link stays");
        assert_eq!(here.towards(two).unwrap().own, old);
        let (there, _) = there.become_of(&spec(&theirs, 2, &[(1, ours.all_public())]));
        assert!(here.all_stand() && there.all_stand(), "over the old one");
        shake(there.by_keys.get(&(theirs.all_public()[0], ours.all_public()[1])).unwrap(), &here);
        assert_eq!(here.towards(two).unwrap().own, ours.all_public()[1]);
        ours.follow(dir.path(), UnixMillis(3 * OVERLAP_MS), 1).unwrap();
        let (here, _) = here.become_of(&spec(&ours, 1, &[(2, theirs.all_public())]));
        let (there, _) = there.become_of(&spec(&theirs, 2, &[(1, ours.all_public())]));
        assert!(here.all_stand() && there.all_stand() && there.towards(one).is_some());
        assert_eq!(here.links().count(), 1);
    }

    #[test]
    fn a_node_is_sent_to_where_it_was_heard_and_looked_for_wherever_it_is_said_to_be() {
        let ((_a, ours), (_b, theirs)) = (keys(), keys());
        let mut spec = spec(&ours, 1, &[(2, theirs.all_public())]);
        let (peers, _) = Peers::default().become_of(&spec);
        let two = Ipv4Addr::new(10, 64, 16, 2);
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (first, nat) = (spec.peers[0].endpoint, at("198.51.100.7:40000"));
        let places = |peers: &Peers| peers.towards(two).unwrap().peer.everywhere();
        assert_eq!(places(&peers), [first]);
        peers.towards(two).unwrap().peer.heard_from(nat);
        let (peers, greeted) = peers.become_of(&spec);
        assert_eq!((greeted.len(), places(&peers)), (0, vec![nat, first]));
        // A hint is tried, in the session that stands.
        let link = Arc::clone(peers.towards(two).unwrap());
        spec.peers[0].hint = Some(at("203.0.113.9:7239"));
        let (peers, greeted) = peers.become_of(&spec);
        assert!(greeted.len() == 1 && Arc::ptr_eq(&greeted[0], &link));
        assert_eq!(places(&peers), [nat, at("203.0.113.9:7239"), first]);
        assert_eq!(link.peer.endpoint(), nat, "not before it is answered");
        let (peers, greeted) = peers.become_of(&spec);
        assert!(greeted.is_empty(), "said twice");
        link.peer.heard_from(at("203.0.113.9:7239"));
        // The state says the same later on.
        (spec.peers[0].endpoint, spec.peers[0].hint) = (at("203.0.113.9:7239"), None);
        let (peers, _) = peers.become_of(&spec);
        assert_eq!(places(&peers), [at("203.0.113.9:7239")]);
    }

    #[test]
    fn a_key_stays_with_the_node_that_has_a_link_with_it() {
        let ((_a, ours), (_b, theirs), (_c, own)) = (keys(), keys(), keys());
        let (two, three) = (Ipv4Addr::new(10, 64, 16, 2), Ipv4Addr::new(10, 64, 16, 3));
        let (disputed, of_two) = (theirs.all_public(), own.all_public());
        let before = spec(&ours, 1, &[(2, of_two.clone()), (3, disputed.clone())]);
        let (here, _) = Peers::default().become_of(&before);
        // Node 2, which comes first, says that the key of node 3 is one of its own.
        let both = [of_two.clone(), disputed.clone()].concat();
        let claimed = spec(&ours, 1, &[(2, both), (3, disputed.clone())]);
        let (here, new) = here.become_of(&claimed);
        assert!(new.is_empty(), "no link is made anew");
        assert!(here.towards(two).is_some() && here.towards(three).is_some());
        assert_eq!(here.by_keys[&(ours.all_public()[0], disputed[0])].peer.address, three);
        // Only once its owner does not name it any more it is another's.
        let given_up = spec(&ours, 1, &[(2, disputed.clone()), (3, of_two)]);
        let (here, _) = here.become_of(&given_up);
        assert_eq!(here.by_keys[&(ours.all_public()[0], disputed[0])].peer.address, two);
        // Without a link, the first one has it; this node's own keys are nobody else's.
        let all = [(2, disputed.clone()), (3, disputed), (4, ours.all_public())];
        let (fresh, _) = Peers::default().become_of(&spec(&ours, 1, &all));
        let linked: Vec<_> = fresh.to.keys().copied().collect();
        assert_eq!(linked, [two]);
    }
}
