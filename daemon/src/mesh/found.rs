//! What of our table the kernel has, as `nft` lists it; pure but for the asking.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    apply::run,
    ruleset::{Chain, Set, TABLE},
};

/// What a table consists of, without rules and elements.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Sets and maps by name.
    pub(super) sets: BTreeMap<String, FoundSet>,
    /// Chains by name: where each hooks in, written as in [`Chain`]; none if others lead to it.
    pub(super) chains: BTreeMap<String, Option<String>>,
}

/// A set, or a map where elements have values.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FoundSet {
    /// `set` or `map`.
    pub(super) kind: &'static str,
    /// What it was made with, if that is known.
    holds: Option<String>,
}

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Object>,
}

#[derive(Deserialize)]
struct Object {
    set: Option<ListedSet>,
    map: Option<ListedSet>,
    chain: Option<ListedChain>,
}

#[derive(Deserialize)]
struct ListedSet {
    name: String,
    comment: Option<String>,
}

#[derive(Deserialize)]
struct ListedChain {
    name: String,
    #[serde(flatten)]
    base: Option<Base>,
}

#[derive(Deserialize)]
struct Base {
    #[serde(rename = "type")]
    kind: String,
    hook: String,
    prio: i32,
    policy: String,
}

impl Found {
    /// Asks the kernel. None: there is no such table, or it cannot be listed.
    pub(super) async fn look() -> Option<Self> {
        let list = || run("nft", &["--json", "--terse", "list", "table", "ip", TABLE], "");
        // While others change rules, `nft` ends without a word now and then.
        let listing = match list().await {
            Ok(listing) => listing,
            Err(_) => list().await.ok()?,
        };
        Self::parse(&listing)
    }

    pub(super) fn parse(listing: &str) -> Option<Self> {
        let mut found = Self::default();
        for object in serde_json::from_str::<Listing>(listing).ok()?.nftables {
            let sets = object.set.map(|set| ("set", set)).into_iter();
            for (kind, set) in sets.chain(object.map.map(|map| ("map", map))) {
                found.sets.insert(set.name, FoundSet { kind, holds: set.comment });
            }
            if let Some(ListedChain { name, base }) = object.chain {
                let hook = base.map(|Base { kind, hook, prio, policy }| {
                    format!("type {kind} hook {hook} priority {prio}; policy {policy}")
                });
                found.chains.insert(name, hook);
            }
        }
        Some(found)
    }
}

impl FoundSet {
    /// Whether it can be filled with what `wanted` has.
    pub(super) fn is(&self, wanted: &Set) -> bool {
        self.kind == wanted.kind && self.holds.as_deref() == Some(wanted.holds)
    }
}

impl Chain {
    /// Whether the kernel's chain can be filled with these rules.
    pub(super) fn hooks_in_as(&self, found: &Option<String>) -> bool {
        self.hook == found.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_is_found() {
        let listing = r#"{"nftables": [
            {"metainfo": {"version": "1.0.6"}},
            {"table": {"family": "ip", "name": "raftup", "handle": 1}},
            {"set": {"name": "nodes", "type": "ipv4_addr", "comment": "type ipv4_addr"}},
            {"map": {"name": "vips", "type": "ipv4_addr", "map": "verdict"}},
            {"chain": {"name": "early", "type": "filter", "hook": "prerouting", "prio": -300, "policy": "accept"}},
            {"chain": {"name": "refused"}},
            {"rule": {"chain": "refused", "expr": [{"drop": null}]}}
        ]}"#;
        let found = Found::parse(listing).unwrap();
        let set = |holds: &'static str| Set { kind: "set", holds, ..Set::default() };
        assert!(found.sets["nodes"].is(&set("type ipv4_addr")));
        assert!(!found.sets["nodes"].is(&set("type mark")));
        assert!(!found.sets["vips"].is(&set("type ipv4_addr")), "nobody knows what it was made with");
        let chain = |hook| Chain { hook, ..Chain::default() };
        let early = chain(Some("type filter hook prerouting priority -300; policy accept"));
        assert!(early.hooks_in_as(&found.chains["early"]) && !early.hooks_in_as(&found.chains["refused"]));
        assert!(chain(None).hooks_in_as(&found.chains["refused"]));
        assert_eq!(Found::parse("no table"), None);
    }
}
