//! Firewalls of this host that are in the way. Pure but for reading their rules.
//!
//! Rules are read, and what was tried counts for more: a firewall that lets pass what raftup needs, by whatever rule, is in
//! nobody's way. Base chains of nftables cannot overrule each other's drops, so no rule of ours helps against one; what
//! does is named with the table and the chain.

use std::process::Stdio;

use raftup_proto::{api::Finding, view::TUNNEL_MARK};
use serde_json::Value;
use tokio::process::Command;

/// What of packets was seen to pass; none where nothing could be tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Proof {
    /// The other daemons answer on the control port.
    pub(super) control: Option<bool>,
    /// The other kernels answer over the fabric.
    pub(super) fabric: Option<bool>,
    /// Containers of this node are answered when they ask for a name.
    pub(super) names: Option<bool>,
    /// Containers of this node reach those of others.
    pub(super) containers: Option<bool>,
}

/// A base chain that drops what none of its rules accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Barrier {
    family: String,
    table: String,
    chain: String,
    hook: Hook,
    /// It sees packets before our rules have marked them.
    early: bool,
    /// It has a rule for what comes by our devices, and for what leaves by them.
    knows: (bool, bool),
    /// Ports that its rules name.
    ports: Vec<u16>,
}

/// Priority of our chains that mark packets.
const OURS: i64 = -1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    Input,
    Forward,
    Output,
}

pub(super) async fn look(ports: [u16; 2], proof: Proof) -> Vec<Finding> {
    let iptables = said("iptables", &["-w", "5", "-S"]).await;
    let nft = said("nft", &["-j", "-t", "list", "ruleset"]).await;
    judge(&iptables, &barriers(&serde_json::from_str(&nft).unwrap_or_default()), ports, proof)
}

/// What a program prints; nothing if it fails or is not there.
async fn said(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.ok().filter(|output| output.status.success());
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}

/// The barriers among the rules that `nft -j list ruleset` prints: those of nftables itself. The table of `iptables` has
/// rules of ours first, and is read as its own program prints it; Docker's lets into networks what their mode says.
fn barriers(ruleset: &Value) -> Vec<Barrier> {
    let empty = Vec::new();
    let items = ruleset["nftables"].as_array().unwrap_or(&empty);
    let of_table =
        |item: &Value, chain: &Value| item["family"] == chain["family"] && item["table"] == chain["table"];
    let chains = items.iter().map(|item| &item["chain"]).filter(|chain| chain["type"] == "filter");
    let closing = chains.filter_map(|chain| {
        let hook = match chain["hook"].as_str()? {
            "input" => Hook::Input,
            "forward" => Hook::Forward,
            "output" => Hook::Output,
            _ => return None,
        };
        let text = |key: &str| chain[key].as_str().unwrap_or_default().to_owned();
        let (family, table) = (text("family"), text("table"));
        let is_known =
            ["raftup", "docker-bridges"].contains(&table.as_str()) || (family == "ip" && table == "filter");
        if is_known || !["ip", "inet"].contains(&family.as_str()) {
            return None;
        }
        let rules: Vec<&Value> =
            items.iter().map(|item| &item["rule"]).filter(|rule| of_table(rule, chain)).collect();
        let last = rules.iter().rfind(|rule| rule["chain"] == chain["name"]);
        if chain["policy"] != "drop" && !last.is_some_and(|rule| refuses_all(rule)) {
            return None;
        }
        let early = chain["prio"].as_i64().is_some_and(|priority| priority < OURS);
        let names = |key: &str| rules.iter().any(|rule| names_ours(rule, key));
        let dnat = rules.iter().any(|rule| accepts_dnat(rule));
        let knows = (names("iifname"), names("oifname") || (hook == Hook::Forward && dnat));
        let ports = rules.iter().flat_map(|rule| numbers(&rule["expr"].to_string())).collect();
        Some(Barrier { family, table, chain: text("name"), hook, early, knows, ports })
    });
    closing.collect()
}

/// A rule without a condition that drops or rejects.
fn refuses_all(rule: &Value) -> bool {
    let parts = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
    let has = |part: &Value, key: &str| part.get(key).is_some();
    let refuses = parts.last().is_some_and(|part| has(part, "drop") || has(part, "reject"));
    refuses && !parts.iter().any(|part| has(part, "match") || has(part, "vmap"))
}

fn names_ours(rule: &Value, key: &str) -> bool {
    let text = rule["expr"].to_string();
    text.contains(&format!("\"{key}\"")) && text.contains("\"ru-")
}

/// Accepts connections whose destination was changed, as those to published ports.
fn accepts_dnat(rule: &Value) -> bool {
    let text = rule["expr"].to_string();
    text.contains("\"status\"") && text.contains("\"dnat\"") && text.contains("\"accept\"")
}

/// The ports that a text names.
fn numbers(text: &str) -> Vec<u16> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

fn judge(iptables: &str, barriers: &[Barrier], ports: [u16; 2], proof: Proof) -> Vec<Finding> {
    let (firewalld, own): (Vec<&Barrier>, Vec<&Barrier>) =
        barriers.iter().partition(|barrier| barrier.table == "firewalld");
    let mut findings: Vec<Finding> = own.iter().filter_map(|barrier| native(barrier, ports, proof)).collect();
    findings.extend(by_firewalld(&firewalld, ports, proof));
    findings.extend(by_iptables(iptables, ports, proof));
    if findings.is_empty() {
        findings.push(Finding::fine("firewall", "none is in the way"));
    }
    findings
}

/// Those of our ports that no rule names, and that nothing was seen to pass by.
fn closed(named: &[u16], [control, fabric]: [u16; 2], proof: Proof) -> Vec<u16> {
    let ports = [(control, proof.control), (fabric, proof.fabric)];
    let closed = ports.into_iter().filter(|(port, seen)| *seen != Some(true) && !named.contains(port));
    closed.map(|(port, _)| port).collect()
}

/// Whether a chain keeps out what is within this host: questions for names, and packets between nodes inside of the links.
fn shuts_in(barrier: &Barrier, proof: Proof) -> bool {
    let (comes, leaves) = barrier.knows;
    // Where something else is seen to pass, the chain accepts it by rules that say nothing of our devices.
    let inner = proof.names == Some(true) && proof.fabric != Some(false);
    match barrier.hook {
        Hook::Input => !comes && !inner,
        Hook::Output => !leaves && !inner,
        Hook::Forward => !(comes && leaves) && proof.containers != Some(true),
    }
}

/// A problem if something was seen not to pass, and a warning if nothing was tried.
fn finding(proof: Proof, found: String, next: String) -> Finding {
    let all = [proof.control, proof.fabric, proof.names, proof.containers];
    let new = if all.contains(&Some(false)) { Finding::problem } else { Finding::warning };
    new("firewall", found, next)
}

fn listed(commands: &[String]) -> String {
    let commands: Vec<String> = commands.iter().map(|command| format!("`{command}`")).collect();
    commands.join(", ")
}

fn ports_text(ports: &[u16]) -> String {
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" and ")
}

fn native(barrier: &Barrier, ports: [u16; 2], proof: Proof) -> Option<Finding> {
    let Barrier { family, table, chain, hook, early, .. } = barrier;
    let insert = |rule: String| format!("nft 'insert rule {family} {table} {chain} {rule} accept'");
    let (mut drops, mut commands) = (Vec::new(), Vec::new());
    if shuts_in(barrier, proof) {
        let device = match hook {
            Hook::Input => "iifname",
            Hook::Forward | Hook::Output => "oifname",
        };
        match hook {
            Hook::Forward => {
                drops.push("packets of containers to other nodes and to the outside, and connections to published ports".to_owned());
                commands.extend(["iifname", "oifname"].map(|device| insert(format!("{device} \"ru-*\""))));
            }
            Hook::Input | Hook::Output => {
                drops.push("names that containers ask for, and packets between nodes".to_owned());
                if *early {
                    commands.push(insert(format!("{device} \"ru-*\"")));
                } else {
                    commands
                        .push(insert(format!("{device} \"ru-*\" ct state established,related,untracked")));
                    commands.push(insert(format!("{device} \"ru-*\" meta mark {TUNNEL_MARK:#x}")));
                }
            }
        }
    }
    let closed = if *hook == Hook::Input { closed(&barrier.ports, ports, proof) } else { Vec::new() };
    if !closed.is_empty() {
        drops.push(format!("UDP {}", ports_text(&closed)));
        let set: Vec<String> = closed.iter().map(u16::to_string).collect();
        commands.push(insert(format!("udp dport {{ {} }}", set.join(", "))));
    }
    if drops.is_empty() {
        return None;
    }
    let found = format!("chain `{chain}` of table `{family} {table}` drops {}", drops.join("; and "));
    let next = format!(
        "{}, and the same in the file that makes the table (often /etc/nftables.conf)",
        listed(&commands)
    );
    Some(finding(proof, found, next))
}

fn by_firewalld(barriers: &[&Barrier], ports: [u16; 2], proof: Proof) -> Option<Finding> {
    let named: Vec<u16> = barriers.iter().flat_map(|barrier| barrier.ports.iter().copied()).collect();
    let closed = if barriers.is_empty() { Vec::new() } else { closed(&named, ports, proof) };
    let (mut lacks, mut commands) = (Vec::new(), Vec::new());
    if !closed.is_empty() {
        lacks.push(format!("no rule opens UDP {}", ports_text(&closed)));
        let ports: Vec<String> = closed.iter().map(|port| format!("--add-port={port}/udp")).collect();
        commands.push(format!("firewall-cmd --permanent {}", ports.join(" ")));
    }
    if barriers.iter().any(|barrier| shuts_in(barrier, proof)) {
        lacks.push("raftup's devices are in no zone that it trusts".to_owned());
        commands.push("firewall-cmd --permanent --zone=trusted --add-interface=ru-+".to_owned());
    }
    if lacks.is_empty() {
        return None;
    }
    commands.push("firewall-cmd --reload".to_owned());
    Some(finding(
        proof,
        format!("firewalld is active: {}", lacks.join("; ")),
        format!("`{}`", commands.join(" && ")),
    ))
}

/// `iptables` is what that program prints of this host's rules.
fn by_iptables(iptables: &str, ports: [u16; 2], proof: Proof) -> Option<Finding> {
    let last = iptables.lines().rfind(|line| line.starts_with("-A INPUT "));
    let refuses = |line: &str| line == "-A INPUT -j DROP" || line.starts_with("-A INPUT -j REJECT");
    let drops = iptables.lines().any(|line| line == "-P INPUT DROP") || last.is_some_and(refuses);
    if !drops {
        return None;
    }
    let is_ufw = iptables.contains("-A INPUT -j ufw-before-input");
    let start = if is_ufw { "-A ufw-user-input" } else { "-A " };
    let rules = iptables.lines().filter(|line| line.starts_with(start) && line.ends_with("-j ACCEPT"));
    let closed = closed(&rules.flat_map(numbers).collect::<Vec<_>>(), ports, proof);
    if closed.is_empty() {
        return None;
    }
    let (who, commands): (_, Vec<String>) = if is_ufw {
        ("ufw is active", closed.iter().map(|port| format!("ufw allow {port}/udp")).collect())
    } else {
        let open = |port: &u16| format!("iptables -I INPUT -p udp --dport {port} -j ACCEPT");
        ("the host drops what comes in (`iptables -S INPUT`)", closed.iter().map(open).collect())
    };
    let found = format!("{who}, and no rule opens UDP {}", ports_text(&closed));
    Some(finding(proof, found, listed(&commands)))
}

#[cfg(test)]
mod tests;
