use expect_test::{Expect, expect};
use serde_json::json;

use raftup_proto::api::Health;

use super::*;

const PORTS: [u16; 2] = [7238, 7239];
const NOTHING: Proof = Proof { control: None, fabric: None, names: None, containers: None };
const ALL: Proof =
    Proof { control: Some(true), fabric: Some(true), names: Some(true), containers: Some(true) };
const CUT: Proof =
    Proof { control: Some(true), fabric: Some(false), names: Some(false), containers: Some(false) };

fn printed(rules: &str) -> [Printed; 1] {
    [Printed { program: "iptables", rules: rules.to_owned() }]
}

fn shown(findings: &[Finding]) -> String {
    let lines = findings
        .iter()
        .map(|one| format!("{:?}: {}\n{}\n", one.health, one.found, one.next.as_deref().unwrap_or_default()));
    lines.collect()
}

fn check(iptables: &str, ruleset: &Value, proof: Proof, expected: Expect) {
    expected.assert_eq(&shown(&judge(&printed(iptables), &barriers(ruleset, PORTS), PORTS, proof, &[])));
}

fn is_fine(iptables: &str, ruleset: &Value, proof: Proof) {
    let findings = judge(&printed(iptables), &barriers(ruleset, PORTS), PORTS, proof, &[]);
    assert!(findings.len() == 1 && findings[0].health == Health::Ok, "{findings:?}");
    let none = findings[0].found == "none is in the way";
    assert_eq!(none, proof == ALL, "without proof, doctor does not claim that: {findings:?}");
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
            accept it, and put the same rules into the file that makes the table (often /etc/nftables.conf)
            $ nft 'insert rule inet filter input iifname "ru-*" ct state established,related,untracked accept'
            $ nft 'insert rule inet filter input iifname "ru-*" meta mark 0x72370000 accept'
            $ nft 'insert rule inet filter input udp dport { 7239 } accept'
            Problem: chain `forward` of table `inet filter` drops packets of containers to other nodes and to the outside, and connections to published ports
            accept it, and put the same rules into the file that makes the table (often /etc/nftables.conf)
            $ nft 'insert rule inet filter forward iifname "ru-*" accept'
            $ nft 'insert rule inet filter forward oifname "ru-*" accept'
        "#]],
    );
    let open = [rule("filter", "input", ports())];
    check(
        "",
        &ruleset(drop.clone().into_iter().chain(open)),
        NOTHING,
        expect![[r#"
            Warning: chain `input` of table `inet filter` drops names that containers ask for, and packets between nodes
            accept it, and put the same rules into the file that makes the table (often /etc/nftables.conf)
            $ nft 'insert rule inet filter input iifname "ru-*" ct state established,related,untracked accept'
            $ nft 'insert rule inet filter input iifname "ru-*" meta mark 0x72370000 accept'
            Warning: chain `forward` of table `inet filter` drops packets of containers to other nodes and to the outside, and connections to published ports
            accept it, and put the same rules into the file that makes the table (often /etc/nftables.conf)
            $ nft 'insert rule inet filter forward iifname "ru-*" accept'
            $ nft 'insert rule inet filter forward oifname "ru-*" accept'
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
    assert_eq!(barriers(&closed, PORTS).len(), 1);
    let conditional = json!([{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "invalid"}}, {"drop": null}]);
    assert_eq!(barriers(&ruleset([base, rule("mine", "in", conditional)]), PORTS), []);
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
            open the ports, and let raftup's devices be trusted
            $ firewall-cmd --permanent --add-port=7238/udp --add-port=7239/udp
            $ firewall-cmd --permanent --zone=trusted --add-interface=ru-+
            $ firewall-cmd --reload
        "#]],
    );
    items.push(rule("firewalld", "filter_IN_public_allow", ports()));
    check(
        "",
        &ruleset(items.clone()),
        CUT,
        expect![[r#"
            Problem: firewalld is active: raftup's devices are in no zone that it trusts
            open the ports, and let raftup's devices be trusted
            $ firewall-cmd --permanent --zone=trusted --add-interface=ru-+
            $ firewall-cmd --reload
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
            open them
            $ ufw allow 7239/udp
        "#]],
    );
    check(
        &ufw,
        &none,
        Proof { control: Some(true), fabric: Some(false), ..NOTHING },
        expect![[r#"
            Problem: ufw is active, and no rule opens UDP 7239
            open them
            $ ufw allow 7239/udp
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
            accept it, and keep the rules over a restart of the host (such as with `iptables-persistent`)
            $ iptables -I INPUT -p udp --dport 7238 -j ACCEPT
            $ iptables -I INPUT -p udp --dport 7239 -j ACCEPT
        "#]],
    );
    check(
        "-P INPUT ACCEPT\n-A INPUT -i lo -j ACCEPT\n-A INPUT -j REJECT --reject-with icmp-host-prohibited\n",
        &none,
        NOTHING,
        expect![[r#"
            Warning: the host drops what comes in (`iptables -S INPUT`), and no rule opens UDP 7238 and 7239
            accept it, and keep the rules over a restart of the host (such as with `iptables-persistent`)
            $ iptables -I INPUT -p udp --dport 7238 -j ACCEPT
            $ iptables -I INPUT -p udp --dport 7239 -j ACCEPT
        "#]],
    );
}

#[test]
fn a_rule_that_drops_a_port_of_ours_is_told() {
    let none = ruleset([]);
    let cut = Proof { control: Some(false), fabric: Some(true), ..NOTHING };
    check(
        "-P INPUT ACCEPT\n-P OUTPUT ACCEPT\n-A INPUT -p udp -m udp --dport 7238 -j DROP\n-A OUTPUT -p udp -m multiport --dports 53,7000:7300 -j REJECT --reject-with icmp-port-unreachable\n",
        &none,
        cut,
        expect![[r#"
            Problem: a rule drops what comes to UDP 7238 (`iptables -S INPUT`)
            accept it, and keep the rules over a restart of the host (such as with `iptables-persistent`)
            $ iptables -I INPUT -p udp --dport 7238 -j ACCEPT
            Problem: rules drop what this host sends to UDP 7238 (`iptables -S OUTPUT`)
            accept it, and keep the rules over a restart of the host (such as with `iptables-persistent`)
            $ iptables -I OUTPUT -p udp --dport 7238 -j ACCEPT
        "#]],
    );
    is_fine("-A INPUT -i eth1 -p udp -m udp --dport 7238 -j DROP\n", &none, cut);
    is_fine("-A INPUT -p tcp -m tcp --dport 7238 -j DROP\n", &none, cut);
    let port = json!({"payload": {"protocol": "udp", "field": "dport"}});
    let drop =
        json!([{"match": {"op": "==", "left": port, "right": {"range": [7200, 7240]}}}, {"drop": null}]);
    let native = [chain("mine", "out", "output", "accept"), rule("mine", "out", drop)];
    check(
        "",
        &ruleset(native.clone()),
        cut,
        expect![[r#"
        Problem: chain `out` of table `inet mine` drops UDP 7238
        accept it, and put the same rules into the file that makes the table (often /etc/nftables.conf)
        $ nft 'insert rule inet mine out udp dport { 7238 } accept'
    "#]],
    );
    is_fine("", &ruleset(native), ALL);
}

#[test]
fn what_cannot_be_read_is_told() {
    let findings = judge(&[], &[], PORTS, ALL, &["`nft`: No such file or directory".to_owned()]);
    assert_eq!((findings.len(), findings[0].health), (1, Health::Warning));
}
