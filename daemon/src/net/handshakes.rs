//! Which incoming handshakes may begin.
//!
//! A handshake costs a signature, a key exchange and memory before it is known who calls. So a caller first shows that
//! it receives packets at its address (QUIC Retry, RFC 9000 section 8.1, which keeps no state here); then handshakes are
//! limited for each address, and for all strangers together. Holds: members have a share of their own that strangers
//! cannot use up; nothing is kept for an address that was not validated.
//!
//! Members are expected at the addresses that the state and gossip have for them ([`super::Serve::members`]), and where
//! they were last connected from.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use raftup_proto::id::NodeId;

use super::rate::{Rate, Unlogged, Used};

/// Handshakes under way without a validated address, all of them from places where members are expected. They save the
/// round trip of a Retry while nothing is wrong.
const MAX_UNVALIDATED: usize = 8;

/// For the control address of a member, from which it dials too: one dial at a time, and a process started anew.
const MEMBER: Limit = Limit { at_once: 8, rate: Rate { burst: 32, interval: Duration::from_millis(125) } };

/// For other ports of a member's host: members behind a NAT share one address.
const MEMBER_HOST: Limit =
    Limit { at_once: 64, rate: Rate { burst: 128, interval: Duration::from_millis(16) } };

/// For any other address; hosts that join together may share one.
const STRANGER: Limit = Limit { at_once: 8, rate: Rate { burst: 32, interval: Duration::from_millis(125) } };

/// For all other addresses together: a few per cent of a CPU.
const STRANGERS: Limit =
    Limit { at_once: 128, rate: Rate { burst: 256, interval: Duration::from_millis(8) } };

/// Addresses that are counted at a time. More than [`STRANGERS`] lets have a handshake within the time of one.
const MAX_SOURCES: usize = 4096;

/// Callers that were turned away are logged that often.
const LOG: Rate = Rate { burst: 1, interval: Duration::from_secs(60) };

#[derive(Clone, Copy)]
struct Limit {
    /// Handshakes under way.
    at_once: usize,
    /// Handshakes that begin.
    rate: Rate,
}

/// Handshakes of one source.
#[derive(Default)]
struct Count {
    under_way: usize,
    used: Used,
}

impl Limit {
    fn allows(self, count: &Count, now: Instant) -> bool {
        count.under_way < self.at_once && self.rate.allows(count.used, now)
    }

    fn take(self, count: &mut Count, now: Instant) -> bool {
        let taken = count.under_way < self.at_once && self.rate.take(&mut count.used, now);
        count.under_way += usize::from(taken);
        taken
    }
}

/// Where a validated handshake comes from, as far as it is counted apart from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Source {
    /// The control address of a member.
    Member(SocketAddr),
    /// Another port of a member's host.
    MemberHost(IpAddr),
    /// An address (of IPv6, a network of 64 bits) that no member is known at.
    Stranger(IpAddr),
}

impl Source {
    fn limit(self) -> Limit {
        match self {
            Self::Member(_) => MEMBER,
            Self::MemberHost(_) => MEMBER_HOST,
            Self::Stranger(_) => STRANGER,
        }
    }

    fn is_stranger(self) -> bool {
        matches!(self, Self::Stranger(_))
    }
}

/// What is to become of an incoming connection.
pub(super) enum Admit {
    /// Its handshake begins; the turn is held until it is clear who calls.
    Begin(Turn),
    /// Its address is to be validated first.
    Validate,
    /// Too many of its kind: it is not answered. A caller that means it sends its packet again soon.
    Ignore,
}

/// A handshake under way.
pub(super) struct Turn {
    handshakes: Arc<Handshakes>,
    /// None: its address was not validated.
    source: Option<Source>,
}

/// The handshakes of a node.
pub(super) struct Handshakes(Mutex<State>);

struct State {
    unvalidated: usize,
    sources: BTreeMap<Source, Count>,
    strangers: Count,
    turned_away: Unlogged,
    seen: Seen,
}

/// Where each member was last connected from.
#[derive(Default)]
struct Seen {
    by_node: BTreeMap<NodeId, SocketAddr>,
    addrs: BTreeSet<SocketAddr>,
}

impl Default for Handshakes {
    fn default() -> Self {
        Self(Mutex::new(State {
            unvalidated: 0,
            sources: BTreeMap::new(),
            strangers: Count::default(),
            turned_away: Unlogged::new(LOG),
            seen: Seen::default(),
        }))
    }
}

impl Handshakes {
    /// Decides on an incoming connection; `members` is where members are expected.
    pub(super) fn admit(
        self: &Arc<Self>,
        from: SocketAddr,
        validated: bool,
        members: &BTreeSet<SocketAddr>,
        now: Instant,
    ) -> Admit {
        let mut state = self.state();
        let source = source(canonical(from), members, &state.seen.addrs);
        if !validated {
            if !matches!(source, Source::Member(_)) || state.unvalidated >= MAX_UNVALIDATED {
                return Admit::Validate;
            }
            state.unvalidated += 1;
            return Admit::Begin(Turn { handshakes: self.clone(), source: None });
        }
        if state.begin(source, now) {
            return Admit::Begin(Turn { handshakes: self.clone(), source: Some(source) });
        }
        if let Some(count) = state.turned_away.note(now) {
            tracing::warn!(%from, count, "too many incoming connections; some were not answered");
        }
        Admit::Ignore
    }

    /// The member has shown its certificate from there.
    pub(super) fn seen(&self, node: NodeId, addr: SocketAddr) {
        self.state().seen.put(node, Some(canonical(addr)));
    }

    /// The node is a member no longer.
    pub(super) fn forget(&self, node: NodeId) {
        self.state().seen.put(node, None);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn begin(&mut self, source: Source, now: Instant) -> bool {
        if source.is_stranger() && !STRANGERS.allows(&self.strangers, now) {
            return false;
        }
        if self.sources.len() >= MAX_SOURCES {
            self.sources.retain(|_, count| count.under_way > 0 || !count.used.is_free(now));
            if source.is_stranger() && self.sources.len() >= MAX_SOURCES {
                return false;
            }
        }
        let taken = source.limit().take(self.sources.entry(source).or_default(), now);
        if taken && source.is_stranger() {
            STRANGERS.take(&mut self.strangers, now);
        }
        taken
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = self.handshakes.state();
        let Some(source) = self.source else {
            state.unvalidated -= 1;
            return;
        };
        if let Some(count) = state.sources.get_mut(&source) {
            count.under_way -= 1;
        }
        if source.is_stranger() {
            state.strangers.under_way -= 1;
        }
    }
}

impl Seen {
    fn put(&mut self, node: NodeId, addr: Option<SocketAddr>) {
        let old = match addr {
            Some(addr) => self.by_node.insert(node, addr),
            None => self.by_node.remove(&node),
        };
        if let Some(old) = old {
            self.addrs.remove(&old);
        }
        self.addrs.extend(addr);
    }
}

fn source(from: SocketAddr, members: &BTreeSet<SocketAddr>, seen: &BTreeSet<SocketAddr>) -> Source {
    let port = |port| SocketAddr::new(from.ip(), port);
    let on_host = |set: &BTreeSet<SocketAddr>| set.range(port(0)..=port(u16::MAX)).next().is_some();
    if members.contains(&from) || seen.contains(&from) {
        Source::Member(from)
    } else if on_host(members) || on_host(seen) {
        Source::MemberHost(from.ip())
    } else {
        Source::Stranger(network(from.ip()))
    }
}

/// The address as it is compared with others: an IPv4 address that came through a socket of IPv6 is one of IPv4.
pub(super) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

/// What one host or site may choose addresses from: of IPv6, a network of 64 bits.
pub(super) fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// Begins as many as are let, at most `tries`.
    fn begin(
        handshakes: &Arc<Handshakes>,
        tries: usize,
        from: impl Fn(usize) -> SocketAddr,
        members: &BTreeSet<SocketAddr>,
        now: Instant,
    ) -> Vec<Turn> {
        let all = (0..tries).map(|n| handshakes.admit(from(n), true, members, now));
        all.filter_map(|admit| if let Admit::Begin(turn) = admit { Some(turn) } else { None }).collect()
    }

    #[test]
    fn an_address_is_validated_first() {
        let (handshakes, now) = (Arc::<Handshakes>::default(), Instant::now());
        let member = at("10.0.0.1:7238");
        let members = BTreeSet::from([member]);
        for from in [at("10.0.0.9:7238"), at("10.0.0.1:9999"), at("[2001:db8::1]:7238")] {
            for _ in 0..10_000 {
                assert!(matches!(handshakes.admit(from, false, &members, now), Admit::Validate));
            }
        }
        assert!(handshakes.state().sources.is_empty(), "nothing is remembered of them");
        let few: Vec<_> =
            (0..MAX_UNVALIDATED).map(|_| handshakes.admit(member, false, &members, now)).collect();
        assert!(few.iter().all(|admit| matches!(admit, Admit::Begin(_))), "a member saves the round trip");
        assert!(
            matches!(handshakes.admit(member, false, &members, now), Admit::Validate),
            "its address was forged"
        );
        assert!(matches!(handshakes.admit(member, true, &members, now), Admit::Begin(_)));
        drop(few);
        assert!(matches!(handshakes.admit(member, false, &members, now), Admit::Begin(_)));
    }

    #[test]
    fn one_address_leaves_room_for_others() {
        let (handshakes, now) = (Arc::<Handshakes>::default(), Instant::now());
        let nobody = BTreeSet::new();
        let one = begin(&handshakes, 1000, |n| SocketAddr::new([10, 0, 0, 9].into(), n as u16), &nobody, now);
        assert_eq!(one.len(), STRANGER.at_once);
        let six = |n: usize| SocketAddr::new(Ipv6Addr::from_bits((0x2001_0db8 << 96) | n as u128).into(), 1);
        let network = begin(&handshakes, 1000, six, &nobody, now);
        assert_eq!(network.len(), STRANGER.at_once, "a network of IPv6 is one address");
        assert_eq!(begin(&handshakes, 1, |_| at("10.0.0.8:1"), &nobody, now).len(), 1);
        drop(one);
        // They end at once, and still no more than the rate of them begins.
        let mut begun = STRANGER.at_once;
        for _ in 0..1000 {
            begun += begin(&handshakes, 1, |_| at("10.0.0.9:1"), &nobody, now).len();
        }
        assert_eq!(begun, STRANGER.rate.burst as usize);
        let later = now + STRANGER.rate.interval;
        assert_eq!(begin(&handshakes, 9, |_| at("10.0.0.9:1"), &nobody, later).len(), 1);
    }

    #[test]
    fn strangers_leave_the_share_of_members() {
        let (handshakes, now) = (Arc::<Handshakes>::default(), Instant::now());
        let members = BTreeSet::from([at("10.0.0.1:7238"), at("[2001:db8::1]:7238")]);
        let many = |n: usize| SocketAddr::new(IpAddr::from((0x0b00_0000_u32 + n as u32).to_be_bytes()), 7238);
        let strangers = begin(&handshakes, 100_000, many, &members, now);
        assert_eq!(strangers.len(), STRANGERS.at_once);
        let host = |n: usize| SocketAddr::new([10, 0, 0, 1].into(), 10_000 + n as u16);
        let on_host = begin(&handshakes, 1000, host, &members, now);
        assert_eq!(on_host.len(), MEMBER_HOST.at_once, "members behind a NAT");
        for member in ["10.0.0.1:7238", "[::ffff:10.0.0.1]:7238", "[2001:db8::1]:7238"] {
            assert_eq!(begin(&handshakes, 1, |_| at(member), &members, now).len(), 1, "{member}");
        }
        drop((strangers, on_host));
        let state = handshakes.state();
        assert_eq!(state.strangers.under_way, 0);
        assert!(state.sources.values().all(|count| count.under_way == 0));
        assert!(state.sources.len() < MAX_SOURCES);
    }

    #[test]
    fn a_member_is_known_where_it_was_last_seen() {
        let (handshakes, node) = (Arc::<Handshakes>::default(), NodeId::new(2));
        let (nobody, now) = (BTreeSet::new(), Instant::now());
        let (first, second) = (at("198.51.100.7:40000"), at("198.51.100.8:40000"));
        let is_member = |from| matches!(handshakes.admit(from, false, &nobody, now), Admit::Begin(_));
        handshakes.seen(node, first);
        assert!(is_member(first));
        handshakes.seen(node, second);
        assert!(is_member(second) && !is_member(first));
        handshakes.forget(node);
        assert!(!is_member(second));
        assert!(handshakes.state().seen.addrs.is_empty());
    }

    #[test]
    fn sources_are_forgotten() {
        let handshakes = Arc::<Handshakes>::default();
        let start = Instant::now();
        let many = |n: usize| SocketAddr::new(IpAddr::from((0x0b00_0000_u32 + n as u32).to_be_bytes()), 7238);
        for n in 0..3 * MAX_SOURCES {
            let now = start + STRANGERS.rate.interval * n as u32;
            assert_eq!(begin(&handshakes, 1, |_| many(n), &BTreeSet::new(), now).len(), 1);
        }
        assert!(handshakes.state().sources.len() <= MAX_SOURCES);
    }
}
