use expect_test::{Expect, expect};
use serde_json::json;

use super::*;

const PORTS: [u16; 2] = [7238, 7239];
const NOTHING: Proof = Proof { control: None, fabric: None, names: None, containers: None };
const ALL: Proof =
    Proof { control: Some(true), fabric: Some(true), names: Some(true), containers: Some(true) };
const CUT: Proof =
    Proof { control: Some(true), fabric: Some(false), names: Some(false), containers: Some(false) };

fn shown(findings: &[Finding]) -> String {
    let lines = findings
        .iter()
        .map(|one| format!("{:?}: {}\n{}\n", one.health, one.found, one.next.as_deref().unwrap_or_default()));
    lines.collect()
}

fn check(iptables: &str, ruleset: &Value, proof: Proof, expected: Expect) {
    expected.assert_eq(&shown(&judge(iptables, &barriers(ruleset), PORTS, proof)));
}

fn is_fine(iptables: &str, ruleset: &Value, proof: Proof) {
    let findings = judge(iptables, &barriers(ruleset), PORTS, proof);
    assert_eq!(findings, [Finding::fine("firewall", "none is in the way")]);
}

fn chain(table: &str, name: &str, hook: &str, policy: &str) -> Value {
    json!({"chain": {"family": "inet", "table": table, "name": name, "handle": 1, "type": "filter", "hook": hook, "prio": 0, "policy": policy}})
}

fn rule(table: &str, chain: &str, expr: Value) -> Value {
    json!({"rule": {"family": "inet", "table": table, "chain": chain, "handle": 2, "expr": expr}})
}

fn device(key: &str) -> Value {
    json!([{"match": {"op": "==", "left": {"meta": {"key": key}}, "right": "ru-*"}}, {"accept": null}])
}

fn ports() -> Value {
    let port = json!({"payload": {"protocol": "udp", "field": "dport"}});
    json!([{"match": {"op": "==", "left": port, "right": {"set": [7238, 7239]}}}, {"accept": null}])
}

fn ruleset(items: impl IntoIterator<Item = Value>) -> Value {
    json!({"nftables": items.into_iter().collect::<Vec<_>>()})
}

#[test]
fn a_native_chain_is_named_with_what_opens_it() {
    let drop = [chain("filter", "input", "input", "drop"), chain("filter", "forward", "forward", "drop")];
    check(
        "",
        &ruleset(drop.clone()),
        CUT,
        expect![[r#"
        Problem: chain `input` of table `inet filter` drops names that containers ask for, and packets between nodes; and UDP 7239
        `nft 'insert rule inet filter input iifname "ru-*" ct state established,related,untracked accept'`, `nft 'insert rule inet filter input iifname "ru-*" meta mark 0x72370000 accept'`, `nft 'insert rule inet filter input udp dport { 7239 } accept'`, and the same in the file that makes the table (often /etc/nftables.conf)
        Problem: chain `forward` of table `inet filter` drops packets of containers to other nodes and to the outside, and connections to published ports
        `nft 'insert rule inet filter forward iifname "ru-*" accept'`, `nft 'insert rule inet filter forward oifname "ru-*" accept'`, and the same in the file that makes the table (often /etc/nftables.conf)
    "#]],
    );
    let open = [rule("filter", "input", ports())];
    check(
        "",
        &ruleset(drop.clone().into_iter().chain(open)),
        NOTHING,
        expect![[r#"
        Warning: chain `input` of table `inet filter` drops names that containers ask for, and packets between nodes
        `nft 'insert rule inet filter input iifname "ru-*" ct state established,related,untracked accept'`, `nft 'insert rule inet filter input iifname "ru-*" meta mark 0x72370000 accept'`, and the same in the file that makes the table (often /etc/nftables.conf)
        Warning: chain `forward` of table `inet filter` drops packets of containers to other nodes and to the outside, and connections to published ports
        `nft 'insert rule inet filter forward iifname "ru-*" accept'`, `nft 'insert rule inet filter forward oifname "ru-*" accept'`, and the same in the file that makes the table (often /etc/nftables.conf)
    "#]],
    );
    let known = [
        rule("filter", "input", ports()),
        rule("filter", "input", device("iifname")),
        rule("filter", "forward", device("iifname")),
        rule("filter", "forward", device("oifname")),
    ];
    is_fine("", &ruleset(drop.clone().into_iter().chain(known)), NOTHING);
    is_fine("", &ruleset(drop), ALL);
    is_fine("", &ruleset([chain("filter", "input", "input", "accept")]), NOTHING);
    let others =
        [chain("raftup", "reaching", "input", "drop"), chain("docker-bridges", "f", "forward", "drop")];
    is_fine("", &ruleset(others), CUT);
}

#[test]
fn a_chain_that_ends_with_a_refusal_drops_like_a_policy() {
    let reject = json!([{"counter": {"packets": 1, "bytes": 2}}, {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}]);
    let base = chain("mine", "in", "input", "accept");
    let closed = ruleset([base.clone(), rule("mine", "in", ports()), rule("mine", "in", reject)]);
    assert_eq!(barriers(&closed).len(), 1);
    let conditional = json!([{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "invalid"}}, {"drop": null}]);
    assert_eq!(barriers(&ruleset([base, rule("mine", "in", conditional)])), []);
}

/// The shape that firewalld 1.3 makes.
#[test]
fn firewalld_is_told_of_ports_and_devices() {
    let dnat = json!([{"match": {"op": "in", "left": {"ct": {"key": "status"}}, "right": "dnat"}}, {"accept": null}]);
    let reject = json!([{"reject": {"type": "icmpx", "expr": "admin-prohibited"}}]);
    let mut items = vec![
        chain("firewalld", "filter_INPUT", "input", "accept"),
        chain("firewalld", "filter_FORWARD", "forward", "accept"),
        rule("firewalld", "filter_FORWARD", dnat),
        rule("firewalld", "filter_INPUT", reject.clone()),
        rule("firewalld", "filter_FORWARD", reject),
    ];
    check(
        "",
        &ruleset(items.clone()),
        NOTHING,
        expect![[r#"
        Warning: firewalld is active: no rule opens UDP 7238 and 7239; raftup's devices are in no zone that it trusts
        `firewall-cmd --permanent --add-port=7238/udp --add-port=7239/udp && firewall-cmd --permanent --zone=trusted --add-interface=ru-+ && firewall-cmd --reload`
    "#]],
    );
    items.push(rule("firewalld", "filter_IN_public_allow", ports()));
    check(
        "",
        &ruleset(items.clone()),
        CUT,
        expect![[r#"
        Problem: firewalld is active: raftup's devices are in no zone that it trusts
        `firewall-cmd --permanent --zone=trusted --add-interface=ru-+ && firewall-cmd --reload`
    "#]],
    );
    items.push(rule("firewalld", "filter_INPUT_ZONES", device("iifname")));
    is_fine("", &ruleset(items.clone()), NOTHING);
    is_fine("", &ruleset(items), ALL);
    is_fine("", &ruleset([]), NOTHING);
}

#[test]
fn iptables_and_ufw_are_asked_for_ports_while_they_drop() {
    let none = ruleset([]);
    is_fine("-P INPUT ACCEPT\n", &none, NOTHING);
    let jumps = "-A INPUT -j ufw-before-input\n";
    let ufw = format!("-P INPUT DROP\n{jumps}-A ufw-user-input -p udp -m udp --dport 7238 -j ACCEPT\n");
    check(
        &ufw,
        &none,
        NOTHING,
        expect![[r#"
        Warning: ufw is active, and no rule opens UDP 7239
        `ufw allow 7239/udp`
    "#]],
    );
    check(
        &ufw,
        &none,
        Proof { control: Some(true), fabric: Some(false), ..NOTHING },
        expect![[r#"
        Problem: ufw is active, and no rule opens UDP 7239
        `ufw allow 7239/udp`
    "#]],
    );
    is_fine(&ufw, &none, ALL);
    is_fine(&format!("{ufw}-A ufw-user-input -p udp -m udp --dport 7239 -j ACCEPT\n"), &none, NOTHING);
    // Its chains stay when it is disabled.
    is_fine(&format!("-P INPUT ACCEPT\n{jumps}"), &none, Proof { fabric: Some(false), ..NOTHING });
    check(
        "-P INPUT DROP\n-A INPUT -i lo -j ACCEPT\n",
        &none,
        NOTHING,
        expect![[r#"
        Warning: the host drops what comes in (`iptables -S INPUT`), and no rule opens UDP 7238 and 7239
        `iptables -I INPUT -p udp --dport 7238 -j ACCEPT`, `iptables -I INPUT -p udp --dport 7239 -j ACCEPT`
    "#]],
    );
    check(
        "-P INPUT ACCEPT\n-A INPUT -i lo -j ACCEPT\n-A INPUT -j REJECT --reject-with icmp-host-prohibited\n",
        &none,
        NOTHING,
        expect![[r#"
        Warning: the host drops what comes in (`iptables -S INPUT`), and no rule opens UDP 7238 and 7239
        `iptables -I INPUT -p udp --dport 7238 -j ACCEPT`, `iptables -I INPUT -p udp --dport 7239 -j ACCEPT`
    "#]],
    );
}
