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

/// A base chain that drops what none of its rules accepts, or a port of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Barrier {
    family: String,
    table: String,
    chain: String,
    hook: Hook,
    /// It sees packets before our rules have marked them.
    early: bool,
    /// It drops what none of its rules accepts.
    closed: bool,
    /// Ports of ours that a rule of it drops.
    refused: Vec<u16>,
    /// It has a rule for what comes by our devices, and for what leaves by them.
    knows: (bool, bool),
    /// Ports that its accepting rules name.
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

/// Rules of `iptables` as a program prints them.
struct Printed {
    program: &'static str,
    rules: String,
}

pub(super) async fn look(ports: [u16; 2], proof: Proof) -> Vec<Finding> {
    let (iptables, legacy, nft) = tokio::join!(
        said("iptables", &["-w", "5", "-S"]),
        legacy_rules(),
        said("nft", &["-j", "-t", "list", "ruleset"]),
    );
    let mut unread = Vec::new();
    let mut printed = Vec::new();
    for (program, said) in [("iptables", Some(iptables)), ("iptables-legacy", legacy)] {
        match said {
            Some(Ok(rules)) => printed.push(Printed { program, rules }),
            // A host without the program has no rules of it.
            Some(Err(error)) if error.is_missing && program == "iptables" => {}
            Some(Err(error)) => unread.push(error.text),
            None => {}
        }
    }
    let ruleset = nft.and_then(|text| {
        serde_json::from_str(&text)
            .map_err(|error| Unread { text: format!("`nft`: {error}"), is_missing: false })
    });
    let ruleset = ruleset.unwrap_or_else(|error| {
        unread.push(error.text);
        Value::Null
    });
    judge(&printed, &barriers(&ruleset, ports), ports, proof, &unread)
}

/// Rules of old `iptables`, which the new one does not list, where there are any.
async fn legacy_rules() -> Option<Result<String, Unread>> {
    let tables = std::fs::read_to_string("/proc/net/ip_tables_names").unwrap_or_default();
    let there = tables.lines().any(|table| table == "filter");
    let is_new = said("iptables", &["--version"]).await.is_ok_and(|version| version.contains("nf_tables"));
    if !there || !is_new {
        return None;
    }
    Some(said("iptables-legacy", &["-w", "5", "-S"]).await)
}

/// Why rules could not be read.
struct Unread {
    text: String,
    is_missing: bool,
}

/// What a program prints.
async fn said(program: &str, arguments: &[&str]) -> Result<String, Unread> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(|error| Unread {
        is_missing: error.kind() == std::io::ErrorKind::NotFound,
        text: format!("`{program}`: {error}"),
    })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Unread { text: format!("`{program}`: {}", text(&output.stderr)), is_missing: false })
}

/// The barriers among the rules that `nft -j list ruleset` prints: those of nftables itself. The table of `iptables` has
/// rules of ours first, and is read as its own program prints it; Docker's lets into networks what their mode says.
fn barriers(ruleset: &Value, ports: [u16; 2]) -> Vec<Barrier> {
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
        let refused: Vec<u16> =
            ports.into_iter().filter(|port| rules.iter().any(|rule| refuses_port(rule, *port))).collect();
        let closed = chain["policy"] == "drop" || last.is_some_and(|rule| refuses_all(rule));
        if !closed && refused.is_empty() {
            return None;
        }
        let early = chain["prio"].as_i64().is_some_and(|priority| priority < OURS);
        let names = |key: &str| rules.iter().any(|rule| names_ours(rule, key));
        let dnat = rules.iter().any(|rule| accepts_dnat(rule));
        let knows = (names("iifname"), names("oifname") || (hook == Hook::Forward && dnat));
        let accepting = rules.iter().filter(|rule| rule["expr"].to_string().contains("\"accept\""));
        let ports = accepting.flat_map(|rule| numbers(&rule["expr"].to_string())).collect();
        Some(Barrier { family, table, chain: text("name"), hook, early, closed, refused, knows, ports })
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

/// A rule that drops or rejects what goes to that UDP port.
fn refuses_port(rule: &Value, port: u16) -> bool {
    let parts = rule["expr"].as_array().map(Vec::as_slice).unwrap_or_default();
    let refuses = parts.iter().any(|part| part.get("drop").is_some() || part.get("reject").is_some());
    let of_port = |part: &Value| {
        let of = &part["match"];
        let field = &of["left"]["payload"];
        let protocols = ["udp", "th"];
        let is_it = field["field"] == "dport"
            && field["protocol"].as_str().is_some_and(|name| protocols.contains(&name));
        is_it && of["op"] == "==" && covers(&of["right"], port)
    };
    refuses && parts.iter().any(of_port)
}

/// Whether a number, a range or a set contains the port.
fn covers(value: &Value, port: u16) -> bool {
    let number = |value: &Value| value.as_u64();
    if let Some([from, to]) = value["range"].as_array().map(Vec::as_slice) {
        return number(from).is_some_and(|from| from <= u64::from(port))
            && number(to).is_some_and(|to| to >= u64::from(port));
    }
    let in_set = value["set"].as_array().is_some_and(|set| set.iter().any(|one| covers(one, port)));
    in_set || number(value) == Some(u64::from(port))
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

fn judge(
    printed: &[Printed],
    barriers: &[Barrier],
    ports: [u16; 2],
    proof: Proof,
    unread: &[String],
) -> Vec<Finding> {
    let (firewalld, own): (Vec<&Barrier>, Vec<&Barrier>) =
        barriers.iter().partition(|barrier| barrier.table == "firewalld");
    let mut findings: Vec<Finding> = own.iter().filter_map(|barrier| native(barrier, ports, proof)).collect();
    findings.extend(by_firewalld(&firewalld, ports, proof));
    for printed in printed {
        findings.extend(by_iptables(printed, ports, proof));
        findings.extend(by_output(printed, ports, proof));
    }
    if !unread.is_empty() {
        let found = format!(
            "rules of this host cannot be read, so a firewall may be in the way: {}",
            unread.join("; ")
        );
        findings.push(Finding::warning(
            "firewall",
            found,
            "see that the program is installed and runs as root",
        ));
    }
    if findings.is_empty() {
        let [control, fabric] = ports;
        let seen = [proof.control, proof.fabric, proof.names, proof.containers];
        let found = match (seen.contains(&Some(false)), seen.contains(&Some(true))) {
            (true, _) => format!(
                "no rule on this host that drops UDP {control} or {fabric} is known; look at the other server and at the provider"
            ),
            (false, true) => "none is in the way".to_owned(),
            (false, false) => {
                format!("no rule on this host drops UDP {control} or {fabric}; nothing was sent")
            }
        };
        findings.push(Finding::fine("firewall", found));
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

/// Those of our ports that a chain drops, and that nothing was seen to pass by.
fn dropped(refused: &[u16], [control, fabric]: [u16; 2], proof: Proof) -> Vec<u16> {
    let ports = [(control, proof.control), (fabric, proof.fabric)];
    let dropped = ports.into_iter().filter(|(port, seen)| *seen != Some(true) && refused.contains(port));
    dropped.map(|(port, _)| port).collect()
}

/// A problem if something was seen not to pass, and a warning if nothing was tried.
fn finding(proof: Proof, found: String, next: &str, commands: &[String]) -> Finding {
    let all = [proof.control, proof.fabric, proof.names, proof.containers];
    let new = if all.contains(&Some(false)) { Finding::problem } else { Finding::warning };
    commands.iter().fold(new("firewall", found, next.to_owned()), Finding::run)
}

fn ports_text(ports: &[u16]) -> String {
    ports.iter().map(u16::to_string).collect::<Vec<_>>().join(" and ")
}

fn native(barrier: &Barrier, ports: [u16; 2], proof: Proof) -> Option<Finding> {
    let Barrier { family, table, chain, hook, early, .. } = barrier;
    let insert = |rule: String| format!("nft 'insert rule {family} {table} {chain} {rule} accept'");
    let (mut drops, mut commands) = (Vec::new(), Vec::new());
    if barrier.closed && shuts_in(barrier, proof) {
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
    let mut closed = match hook {
        Hook::Input | Hook::Output if barrier.closed => closed(&barrier.ports, ports, proof),
        Hook::Input | Hook::Output | Hook::Forward => Vec::new(),
    };
    if *hook != Hook::Forward {
        closed.extend(
            dropped(&barrier.refused, ports, proof)
                .into_iter()
                .filter(|port| !closed.contains(port))
                .collect::<Vec<_>>(),
        );
    }
    if !closed.is_empty() {
        drops.push(format!("UDP {}", ports_text(&closed)));
        let set: Vec<String> = closed.iter().map(u16::to_string).collect();
        commands.push(insert(format!("udp dport {{ {} }}", set.join(", "))));
    }
    if drops.is_empty() {
        return None;
    }
    let found = format!("chain `{chain}` of table `{family} {table}` drops {}", drops.join("; and "));
    let next =
        "accept it, and put the same rules into the file that makes the table (often /etc/nftables.conf)";
    Some(finding(proof, found, next, &commands))
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
        "open the ports, and let raftup's devices be trusted",
        &commands,
    ))
}

/// What a rule that `iptables` prints drops or rejects: everything, or only what goes to some ports.
enum Refuses {
    Everything,
    Ports(Vec<(u16, u16)>),
}

fn refuses(rule: &str) -> Option<Refuses> {
    let words: Vec<&str> = rule.split_whitespace().collect();
    let after = |option: &str| {
        words.iter().position(|word| *word == option).and_then(|at| words.get(at + 1)).copied()
    };
    let target = after("-j")?;
    if !["DROP", "REJECT"].contains(&target) {
        return None;
    }
    if words.get(2) == Some(&"-j") {
        return Some(Refuses::Everything);
    }
    // With any further condition, such as a device or an address, it may well not concern other nodes.
    let known = ["-A", "-p", "-m", "--dport", "--dports", "-j", "--reject-with"];
    let options = words.iter().filter(|word| word.starts_with('-'));
    let ports = after("--dport").or_else(|| after("--dports"))?;
    if after("-p") != Some("udp") || !options.clone().all(|option| known.contains(option)) {
        return None;
    }
    let range = |text: &str| {
        let (from, to) = text.split_once(':').unwrap_or((text, text));
        Some((from.parse().ok()?, to.parse().ok()?))
    };
    Some(Refuses::Ports(ports.split(',').filter_map(range).collect()))
}

/// Ports of ours that a rule of the chain drops, by name.
fn refused_ports(rules: &str, chain: &str, ports: [u16; 2]) -> Vec<u16> {
    let start = format!("-A {chain} ");
    let of_chain = rules.lines().filter(|line| line.starts_with(&start)).filter_map(refuses);
    let ranges: Vec<(u16, u16)> = of_chain
        .flat_map(|refuses| match refuses {
            Refuses::Everything => Vec::new(),
            Refuses::Ports(ranges) => ranges,
        })
        .collect();
    ports.into_iter().filter(|port| ranges.iter().any(|(from, to)| (from..=to).contains(&port))).collect()
}

/// Whether a chain of `iptables` drops what none of its rules accepts.
fn is_closed(rules: &str, chain: &str) -> bool {
    let (policy, start) = (format!("-P {chain} DROP"), format!("-A {chain} "));
    let last = rules.lines().rfind(|line| line.starts_with(&start));
    rules.lines().any(|line| line == policy)
        || last.and_then(refuses).is_some_and(|refuses| matches!(refuses, Refuses::Everything))
}

fn by_iptables(Printed { program, rules }: &Printed, ports: [u16; 2], proof: Proof) -> Option<Finding> {
    let is_ufw = rules.contains("-A INPUT -j ufw-before-input");
    let drops = is_closed(rules, "INPUT");
    let start = if is_ufw { "-A ufw-user-input" } else { "-A " };
    let accepting = rules.lines().filter(|line| line.starts_with(start) && line.ends_with("-j ACCEPT"));
    let mut shut = if drops {
        closed(&accepting.flat_map(numbers).collect::<Vec<_>>(), ports, proof)
    } else {
        Vec::new()
    };
    let refused = dropped(&refused_ports(rules, "INPUT", ports), ports, proof);
    let by_rule = !refused.is_empty();
    shut.extend(refused.into_iter().filter(|port| !shut.contains(port)).collect::<Vec<_>>());
    if shut.is_empty() {
        return None;
    }
    let open = |port: &u16| format!("{program} -I INPUT -p udp --dport {port} -j ACCEPT");
    if is_ufw && !by_rule {
        let commands: Vec<String> = shut.iter().map(|port| format!("ufw allow {port}/udp")).collect();
        let found = format!("ufw is active, and no rule opens UDP {}", ports_text(&shut));
        return Some(finding(proof, found, "open them", &commands));
    }
    let commands: Vec<String> = shut.iter().map(open).collect();
    let found = if by_rule {
        format!("a rule drops what comes to UDP {} (`{program} -S INPUT`)", ports_text(&shut))
    } else {
        format!(
            "the host drops what comes in (`{program} -S INPUT`), and no rule opens UDP {}",
            ports_text(&shut)
        )
    };
    Some(finding(proof, found, KEEP, &commands))
}

const KEEP: &str =
    "accept it, and keep the rules over a restart of the host (such as with `iptables-persistent`)";

/// What this host sends.
fn by_output(Printed { program, rules }: &Printed, ports: [u16; 2], proof: Proof) -> Option<Finding> {
    let accepting =
        rules.lines().filter(|line| line.starts_with("-A OUTPUT ") && line.ends_with("-j ACCEPT"));
    let mut shut = if is_closed(rules, "OUTPUT") {
        closed(&accepting.flat_map(numbers).collect::<Vec<_>>(), ports, proof)
    } else {
        Vec::new()
    };
    let refused = dropped(&refused_ports(rules, "OUTPUT", ports), ports, proof);
    shut.extend(refused.into_iter().filter(|port| !shut.contains(port)).collect::<Vec<_>>());
    if shut.is_empty() {
        return None;
    }
    let commands: Vec<String> =
        shut.iter().map(|port| format!("{program} -I OUTPUT -p udp --dport {port} -j ACCEPT")).collect();
    let found =
        format!("rules drop what this host sends to UDP {} (`{program} -S OUTPUT`)", ports_text(&shut));
    Some(finding(proof, found, KEEP, &commands))
}

#[cfg(test)]
mod tests;
