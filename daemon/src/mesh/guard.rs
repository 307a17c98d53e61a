//! Detects changes that other programs make to our nftables rules, or to chains that they depend on: a firewall that is
//! started or reloaded, `nft flush ruleset`, an engine that starts.
//!
//! The kernel reports every nftables change on a netlink socket, including our own. Ours arrive before `nft` exits, so
//! [`Guard::settle`] discards what was received until then. Changes made by legacy `iptables` are not reported.

use std::io;

use rtnetlink::sys::protocols::NETLINK_NETFILTER;

use super::{docker, ruleset::TABLE};
use crate::netlink::{Listener, cut, find};

/// Group of a netlink socket that is told of changes, from linux/netfilter/nfnetlink.h.
const NFNLGRP_NFTABLES: u32 = 7;

// Messages and attributes, from linux/netfilter/nf_tables.h.
const SUBSYSTEM: u16 = 10;
const DEL_TABLE: u8 = 2;
const NEW_CHAIN: u8 = 3;
const DEL_CHAIN: u8 = 5;
const NEW_RULE: u8 = 6;
const DEL_RULE: u8 = 8;
/// The table's name, in messages of every kind that has one.
const ATTR_TABLE: u16 = 1;
/// The chain's name, in messages of rules.
const ATTR_RULE_CHAIN: u16 = 2;
/// The same in messages of chains.
const ATTR_CHAIN_NAME: u16 = 3;

/// Listens. Dropping it ends that.
pub struct Guard(Listener);

/// What was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Changed {
    /// Chains of Docker's, or of the host's, that our rules are in or are reached from: rules that go or come, and policies.
    /// Docker does so itself whenever a network is made.
    Docker,
    /// Our table, or more than can be told.
    Ours,
}

impl Guard {
    /// Listens from now on. Errors: the kernel knows no nftables.
    pub fn start() -> io::Result<Self> {
        Listener::start(NETLINK_NETFILTER, &[NFNLGRP_NFTABLES]).map(Self)
    }

    /// Passes over all that was told until now.
    pub fn settle(&self) {
        self.0.settle();
    }

    /// Returns when someone has changed what is ours. Cancel-safe.
    pub async fn disturbed(&mut self) -> Changed {
        self.0.heard(changed).await.unwrap_or(Changed::Ours)
    }
}

/// Whether the messages are about our table, or about chains that ours depends on elsewhere.
fn changed(mut messages: &[u8]) -> Option<Changed> {
    let mut most = None;
    while let Some((message, rest)) = cut(messages, 0, 4) {
        messages = rest;
        let kind = message.get(4..6).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_ne_bytes);
        let [verb, subsystem] = kind.to_ne_bytes();
        if u16::from(subsystem) != SUBSYSTEM {
            continue;
        }
        // After the two headers.
        let attributes = message.get(20..).unwrap_or_default();
        let table = text(attributes, ATTR_TABLE);
        let chain = match verb {
            DEL_TABLE => None,
            // A policy that changes is reported as a new chain.
            NEW_CHAIN | DEL_CHAIN => text(attributes, ATTR_CHAIN_NAME),
            NEW_RULE | DEL_RULE => text(attributes, ATTR_RULE_CHAIN),
            _ => Some(""),
        };
        let of_docker =
            table == Some(docker::TABLE) && chain.is_none_or(|chain| docker::CHAINS.contains(&chain));
        if table == Some(TABLE) {
            return Some(Changed::Ours);
        }
        if of_docker {
            most = Some(Changed::Docker);
        }
    }
    most
}

/// The text of an attribute.
fn text(attributes: &[u8], kind: u16) -> Option<&str> {
    let text = std::str::from_utf8(find(attributes, kind)?).ok()?;
    Some(text.trim_end_matches('\0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, text: &str) -> Vec<u8> {
        let length = 4 + text.len() + 1;
        let mut bytes = [(length as u16).to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(text.bytes());
        bytes.resize(length.next_multiple_of(4), 0);
        bytes
    }

    fn message(subsystem: u8, verb: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
        let body = attributes.concat();
        let mut bytes = ((20 + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend([verb, subsystem]);
        bytes.resize(20, 0);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn only_what_is_ours_counts() {
        let of = |verb, table: &str, rest: &[Vec<u8>]| {
            changed(&message(10, verb, &[&[attribute(ATTR_TABLE, table)], rest].concat()))
        };
        let (ours, docker) = (Some(Changed::Ours), Some(Changed::Docker));
        assert_eq!(of(DEL_TABLE, "raftup", &[]), ours);
        assert_eq!(of(NEW_RULE, "raftup", &[]), ours, "a rule that was added");
        assert_eq!(of(DEL_TABLE, "filter", &[]), docker);
        assert_eq!(of(DEL_RULE, "filter", &[attribute(ATTR_RULE_CHAIN, "DOCKER-USER")]), docker);
        assert_eq!(of(DEL_CHAIN, "filter", &[attribute(ATTR_CHAIN_NAME, "DOCKER-USER")]), docker);
        assert_eq!(of(DEL_RULE, "filter", &[attribute(ATTR_RULE_CHAIN, "DOCKER")]), None);
        let chain = |name| [attribute(ATTR_RULE_CHAIN, name)];
        assert_eq!(of(NEW_RULE, "filter", &chain("INPUT")), docker, "perhaps before ours");
        assert_eq!(of(NEW_RULE, "filter", &chain("ufw-user-input")), None);
        let policy = [attribute(ATTR_CHAIN_NAME, "INPUT")];
        assert_eq!(of(NEW_CHAIN, "filter", &policy), docker, "perhaps its policy is to drop now");
        assert_eq!(of(NEW_CHAIN, "filter", &[attribute(ATTR_CHAIN_NAME, "ufw-user-input")]), None);
        assert_eq!(of(DEL_TABLE, "nat", &[]), None);
        let elsewhere = message(1, DEL_TABLE, &[attribute(ATTR_TABLE, "raftup")]);
        assert_eq!(changed(&elsewhere), None, "another subsystem");
        let one_of = |table| message(10, DEL_TABLE, &[attribute(ATTR_TABLE, table)]);
        assert_eq!(changed(&[message(10, 15, &[]), one_of("filter")].concat()), docker);
        assert_eq!(changed(&[one_of("filter"), one_of("raftup")].concat()), ours);
    }

    #[test]
    fn no_bytes_are_too_strange() {
        let good = message(10, DEL_TABLE, &[attribute(ATTR_TABLE, "raftup")]);
        for end in 0..good.len() {
            changed(&good[..end]);
            for at in 0..end {
                let mut bad = good[..end].to_vec();
                bad[at] ^= 0xff;
                changed(&bad);
            }
        }
    }
}
