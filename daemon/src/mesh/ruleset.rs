//! A table of nftables as data, and the script that turns one into another; pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use raftup_proto::view::Revision;

use super::found::{Found, FoundSet};

/// Name of the table, in the family `ip`.
pub(super) const TABLE: &str = "raftup";

/// Elements that one command adds; longer commands cost `nft` more than they save.
const BATCH: usize = 512;

/// Set that holds the generation, for the process that comes after this one.
pub(super) const GENERATION: &str = "generation";

/// One table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ruleset {
    /// Of the view that it was made from. One that changes nothing else is not written down.
    pub(super) generation: Revision,
    /// Sets and maps by name.
    pub(super) sets: BTreeMap<&'static str, Set>,
    /// Chains by name.
    pub(super) chains: BTreeMap<String, Chain>,
}

/// A set, or a map where elements have values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Set {
    /// `set` or `map`.
    pub(super) kind: &'static str,
    /// What its elements are, as `nft` wants to read it.
    pub(super) holds: &'static str,
    /// Keys, and values where it is a map.
    pub(super) elements: BTreeMap<String, Option<String>>,
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Chain {
    /// Where it hooks in, as `nft` wants to read it; none if others lead to it.
    pub(super) hook: Option<&'static str>,
    /// Its rules in order.
    pub(super) rules: Vec<String>,
}

impl Ruleset {
    /// A script that makes this ruleset, whatever of the table is there. One transaction.
    ///
    /// What was found stays where it can, and is filled anew: chains of a table that is deleted see packets for a while
    /// after its maps are empty (seen on Linux 6.18), and drop some.
    pub fn replace(&self, found: Option<&Found>) -> String {
        let mut script = format!("table ip {TABLE}\n");
        let kept = match found {
            Some(found) => self.clear(found, &mut script),
            None => {
                script.push_str(&format!("delete table ip {TABLE}\ntable ip {TABLE}\n"));
                Self::default()
            }
        };
        line(&mut script, format_args!("add set ip {TABLE} {GENERATION} {{ type mark; }}"));
        script.push_str(&self.change_from(&kept));
        script
    }

    /// Takes all rules and elements out, and what is not as it should be. Answers what stays.
    fn clear(&self, found: &Found, script: &mut String) -> Self {
        let mut kept = Self::default();
        for name in found.chains.keys() {
            line(script, format_args!("flush chain ip {TABLE} {name}"));
        }
        for (name, set) in found.sets.iter().filter(|(name, _)| *name != GENERATION) {
            let FoundSet { kind, .. } = set;
            match self.sets.get_key_value(name.as_str()).filter(|(_, wanted)| set.is(wanted)) {
                Some((name, wanted)) => {
                    line(script, format_args!("flush {kind} ip {TABLE} {name}"));
                    kept.sets.insert(name, Set { elements: BTreeMap::new(), ..*wanted });
                }
                None => line(script, format_args!("delete {kind} ip {TABLE} {name}")),
            }
        }
        for (name, hook) in &found.chains {
            match self.chains.get(name).filter(|wanted| wanted.hooks_in_as(hook)) {
                Some(wanted) => {
                    kept.chains.insert(name.clone(), Chain { hook: wanted.hook, rules: Vec::new() });
                }
                None => line(script, format_args!("delete chain ip {TABLE} {name}")),
            }
        }
        kept
    }

    /// A script that makes this ruleset of `old`; empty if they are equal. One transaction.
    ///
    /// Hooks of chains and types of sets never differ between two rulesets of one program.
    pub fn change_from(&self, old: &Self) -> String {
        let mut script = String::new();
        for (name, set) in &self.sets {
            if !old.sets.contains_key(name) {
                let Set { kind, holds, .. } = set;
                // What it is made with is told to the next process.
                line(
                    &mut script,
                    format_args!("add {kind} ip {TABLE} {name} {{ {holds}; comment \"{holds}\"; }}"),
                );
            }
        }
        self.make_chains(old, &mut script);
        self.fill_chains(old, &mut script);
        self.move_elements(old, &mut script);
        for name in old.chains.keys().filter(|name| !self.chains.contains_key(*name)) {
            line(&mut script, format_args!("flush chain ip {TABLE} {name}"));
            line(&mut script, format_args!("delete chain ip {TABLE} {name}"));
        }
        if !script.is_empty() {
            line(&mut script, format_args!("flush set ip {TABLE} {GENERATION}"));
            let generation = generation_mark(self.generation);
            line(&mut script, format_args!("add element ip {TABLE} {GENERATION} {{ {generation} }}"));
        }
        script
    }

    /// Chains first without rules: rules and elements may lead to any of them.
    fn make_chains(&self, old: &Self, script: &mut String) {
        for (name, chain) in self.chains.iter().filter(|(name, _)| !old.chains.contains_key(*name)) {
            match chain.hook {
                Some(hook) => line(script, format_args!("add chain ip {TABLE} {name} {{ {hook}; }}")),
                None => line(script, format_args!("add chain ip {TABLE} {name}")),
            }
        }
    }

    fn fill_chains(&self, old: &Self, script: &mut String) {
        for (name, chain) in &self.chains {
            let before = old.chains.get(name).map(|chain| chain.rules.as_slice()).unwrap_or_default();
            if before == chain.rules.as_slice() {
                continue;
            }
            if !before.is_empty() {
                line(script, format_args!("flush chain ip {TABLE} {name}"));
            }
            for rule in &chain.rules {
                line(script, format_args!("add rule ip {TABLE} {name} {rule}"));
            }
        }
    }

    /// Removals before additions: an element with a new value is both.
    fn move_elements(&self, old: &Self, script: &mut String) {
        let nothing = BTreeMap::new();
        let mut added = String::new();
        for (name, set) in &self.sets {
            let before = old.sets.get(name).map_or(&nothing, |set| &set.elements);
            let gone: BTreeSet<&String> = before
                .iter()
                .filter(|(key, value)| set.elements.get(*key) != Some(*value))
                .map(|(key, _)| key)
                .collect();
            let new: Vec<String> = set
                .elements
                .iter()
                .filter(|(key, value)| before.get(*key) != Some(*value))
                .map(|(key, value)| match value {
                    Some(value) => format!("{key} : {value}"),
                    None => key.clone(),
                })
                .collect();
            let gone: Vec<&str> = gone.into_iter().map(String::as_str).collect();
            elements(script, "delete", name, &gone);
            elements(&mut added, "add", name, &new);
        }
        script.push_str(&added);
    }
}

/// A generation as an element of nftables, which has no wider number: larger ones all look the same.
pub(super) fn generation_mark(generation: Revision) -> u32 {
    u32::try_from(generation.0).unwrap_or(u32::MAX)
}

fn elements<T: AsRef<str>>(script: &mut String, verb: &str, name: &str, elements: &[T]) {
    for batch in elements.chunks(BATCH) {
        let list: Vec<&str> = batch.iter().map(AsRef::as_ref).collect();
        line(script, format_args!("{verb} element ip {TABLE} {name} {{ {} }}", list.join(", ")));
    }
}

fn line(script: &mut String, text: std::fmt::Arguments<'_>) {
    writeln!(script, "{text}").expect("a string takes all that is written");
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn ruleset(elements: &[(&str, &str)], chains: &[(&str, &str)]) -> Ruleset {
        let elements =
            elements.iter().map(|(key, value)| ((*key).to_owned(), Some((*value).to_owned()))).collect();
        let set = Set { kind: "map", holds: "type ipv4_addr : verdict", elements };
        let chains = chains.iter().map(|(name, rule)| {
            let rules = rule.split_terminator('|').map(str::to_owned).collect();
            ((*name).to_owned(), Chain { hook: None, rules })
        });
        Ruleset { generation: Revision(7), sets: BTreeMap::from([("vips", set)]), chains: chains.collect() }
    }

    fn check(old: &Ruleset, new: &Ruleset, expected: Expect) {
        expected.assert_eq(&new.change_from(old));
    }

    #[test]
    fn only_what_differs_is_said() {
        let old =
            ruleset(&[("10.0.0.1", "goto a"), ("10.0.0.2", "goto b")], &[("a", "accept"), ("b", "drop")]);
        let new = ruleset(
            &[("10.0.0.1", "goto a"), ("10.0.0.2", "goto c")],
            &[("a", "accept|drop"), ("c", "drop")],
        );
        check(
            &old,
            &new,
            expect![[r#"
                add chain ip raftup c
                flush chain ip raftup a
                add rule ip raftup a accept
                add rule ip raftup a drop
                add rule ip raftup c drop
                delete element ip raftup vips { 10.0.0.2 }
                add element ip raftup vips { 10.0.0.2 : goto c }
                flush chain ip raftup b
                delete chain ip raftup b
                flush set ip raftup generation
                add element ip raftup generation { 7 }
            "#]],
        );
        check(&new, &new, expect![""]);
    }

    #[test]
    fn a_replacement_removes_what_is_there() {
        expect![[r#"
            table ip raftup
            delete table ip raftup
            table ip raftup
            add set ip raftup generation { type mark; }
            add map ip raftup vips { type ipv4_addr : verdict; comment "type ipv4_addr : verdict"; }
            add chain ip raftup a
            add rule ip raftup a drop
            add element ip raftup vips { 10.0.0.1 : goto a }
            flush set ip raftup generation
            add element ip raftup generation { 7 }
        "#]]
        .assert_eq(&ruleset(&[("10.0.0.1", "goto a")], &[("a", "drop")]).replace(None));
    }

    #[test]
    fn what_is_there_is_filled_anew() {
        let mut rules = ruleset(&[("10.0.0.1", "goto a")], &[("a", "drop"), ("early", "accept")]);
        rules.chains.get_mut("early").unwrap().hook =
            Some("type filter hook prerouting priority -300; policy accept");
        let found = r#"{"nftables": [
            {"set": {"name": "generation", "type": "mark"}},
            {"map": {"name": "vips", "comment": "type ipv4_addr : verdict"}},
            {"map": {"name": "foreign"}},
            {"chain": {"name": "a"}},
            {"chain": {"name": "b"}},
            {"chain": {"name": "early", "type": "filter", "hook": "prerouting", "prio": -300, "policy": "accept"}},
            {"chain": {"name": "late", "type": "nat", "hook": "postrouting", "prio": 99, "policy": "accept"}}
        ]}"#;
        expect![[r#"
            table ip raftup
            flush chain ip raftup a
            flush chain ip raftup b
            flush chain ip raftup early
            flush chain ip raftup late
            delete map ip raftup foreign
            flush map ip raftup vips
            delete chain ip raftup b
            delete chain ip raftup late
            add set ip raftup generation { type mark; }
            add rule ip raftup a drop
            add rule ip raftup early accept
            add element ip raftup vips { 10.0.0.1 : goto a }
            flush set ip raftup generation
            add element ip raftup generation { 7 }
        "#]]
        .assert_eq(&rules.replace(Found::parse(found).as_ref()));
    }
}
