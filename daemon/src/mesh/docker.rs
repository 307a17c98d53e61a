//! Rules of ours in the chains of `iptables`: in Docker's chain for users, and in those for what this host receives and
//! sends.
//!
//! Docker drops what it does not forward itself, and our own table can drop but not accept in Docker's place. So what our
//! table lets through is accepted here. Everything else that would get into our networks from outside of them is
//! dropped: whoever deletes our table while the daemon is away closes the networks, and does not open them. Docker keeps
//! the chain's rules over its restarts; where the chain is missing, or was flushed, it is made, and Docker takes it over.
//!
//! The same for a firewall that drops what this host receives or sends, such as ufw: names that containers ask for, packets
//! between nodes inside of the encrypted links, and pings over the fabric pass, if our table has marked them. Our rules
//! there come first. They cannot overrule other tables of nftables; `doctor` names those.
//!
//! A host without `iptables` has none of these chains: Docker's nftables backend lets other hosts into our networks by
//! their gateway mode, and only our table closes them.

use std::io;

use raftup_proto::{
    api::FabricMode,
    view::{PLAIN_PORT, TUNNEL_MARK, WIRE_PORT},
};

use super::{
    Table,
    apply::{MeshError, run},
};

const PROGRAM: &str = "iptables";
const CHAIN: &str = "DOCKER-USER";

/// The table of nftables that its rules are in, where `iptables` stands on nftables.
pub(super) const TABLE: &str = "filter";

/// The chains that ours depend on.
pub(super) const CHAINS: [&str; 4] = [CHAIN, "FORWARD", "INPUT", "OUTPUT"];

/// Where Docker jumps to the chain.
const JUMP: [&str; 2] = ["-j", CHAIN];

/// Rules of earlier versions, which accepted without our table. Written as [`Docker::rules`].
const FORMER: [&str; 3] = [
    "-A DOCKER-USER -i ru-fabric -j ACCEPT",
    "-A DOCKER-USER -o ru-+ -j ACCEPT",
    "-A DOCKER-USER -i ru-plain -j ACCEPT",
];

/// What the rules depend on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Docker {
    /// UDP port that frames between nodes come to as they are: in a plain fabric.
    plain_port: Option<u16>,
}

impl Docker {
    /// The rules that go with a table.
    pub(super) fn of(table: &Table) -> Self {
        let plain = table.fabric_mode == FabricMode::Plain;
        Self { plain_port: plain.then_some(table.fabric_port) }
    }

    /// In order, as `iptables -S` prints them.
    ///
    /// Our table marks the packets of new connections that it accepts. Frames of VXLAN that it accepts are not tracked, or come
    /// out of the encrypted links; nobody opens a port in a firewall for them, as they are within this host. 127.0.0.1 can be
    /// reached by our bridges (`route_localnet`), for answers to this host's own programs.
    fn rules(self) -> Vec<String> {
        let frames = match self.plain_port {
            Some(port) => {
                vec![format!("-p udp -m udp --dport {port} -m conntrack ! --ctstate UNTRACKED -j DROP")]
            }
            None => vec![
                format!(
                    "-p udp -m udp --dport {WIRE_PORT}:{PLAIN_PORT} -m conntrack --ctstate UNTRACKED -j ACCEPT"
                ),
                format!("! -i ru-wire -p udp -m udp --dport {WIRE_PORT}:{PLAIN_PORT} -j DROP"),
            ],
        };
        let input = frames.into_iter().chain([
            "-d 127.0.0.0/8 -i ru-+ -m conntrack ! --ctstate RELATED,ESTABLISHED -j DROP".to_owned(),
            "-i ru-+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT".to_owned(),
            format!("-i ru-+ -m mark --mark {TUNNEL_MARK:#x} -j ACCEPT"),
        ]);
        let user = [
            "-i ru-+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT".to_owned(),
            "-o ru-+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT".to_owned(),
            format!("-o ru-+ -m mark --mark {TUNNEL_MARK:#x} -j ACCEPT"),
            "-i ru-fabric -j DROP".to_owned(),
            "-i ru-plain -j DROP".to_owned(),
            "! -i ru-+ -o ru-+ -j DROP".to_owned(),
        ];
        let user = user.iter().map(|rule| format!("-A {CHAIN} {rule}"));
        user.chain(input.map(|rule| format!("-A INPUT {rule}"))).collect()
    }

    /// The same for what this host sends, where someone filters that.
    fn rules_of_output() -> Vec<String> {
        vec![
            "-A OUTPUT -o ru-+ -m conntrack --ctstate RELATED,ESTABLISHED,UNTRACKED -j ACCEPT".to_owned(),
            format!("-A OUTPUT -o ru-+ -m mark --mark {TUNNEL_MARK:#x} -j ACCEPT"),
        ]
    }

    /// Puts our rules there, and in order. Answers whether one was missing. With `first`, also before those of others in the
    /// host's own chains: a firewall that was started later may have put its rules before ours.
    pub(super) async fn accept_ours(self, first: bool) -> Result<bool, MeshError> {
        if !in_use().await? {
            return Ok(false);
        }
        // Fails where the chain is there already.
        let _ = iptables(&["-N", CHAIN]).await;
        let script = self.repair(&found().await?, first);
        if let Some(script) = &script {
            restore(script).await?;
        }
        Ok(come_first().await? || script.is_some())
    }

    /// What makes of these rules that are there those that should be; none if they are.
    fn repair(self, found: &[String], first: bool) -> Option<String> {
        let mut wanted = self.rules();
        if filters_output(found) {
            wanted.append(&mut Self::rules_of_output());
        }
        let there: Vec<&String> = found.iter().filter(|rule| is_ours(rule)).collect();
        let ahead = ["-A INPUT ", "-A OUTPUT "].iter().all(|chain| {
            let of_chain = |rules: &[String]| rules.iter().filter(|rule| rule.starts_with(chain)).count();
            let mut rules = found.iter().filter(|rule| rule.starts_with(chain));
            rules.by_ref().take(of_chain(&wanted)).all(|rule| is_ours(rule))
        });
        if there.iter().copied().eq(&wanted) && (ahead || !first) {
            return None;
        }
        let removed = there.into_iter().map(|rule| rule.replacen("-A", "-D", 1));
        let added = wanted.iter().rev().map(|rule| rule.replacen("-A", "-I", 1));
        let lines: Vec<String> = removed.chain(added).collect();
        Some(lines.join("\n"))
    }

    /// Whether the rules of `iptables`, and so Docker's, can be read, if there are any. Errors: they cannot, or the program is
    /// missing.
    pub(super) async fn can_be_read() -> Result<(), MeshError> {
        in_use().await.map(drop)
    }

    /// Whether changes of these chains are not reported: old `iptables` does not stand on nftables.
    pub(super) async fn is_unheard() -> bool {
        run(PROGRAM, &["--version"], "").await.is_ok_and(|version| version.contains("legacy"))
    }

    /// Takes them away.
    pub(super) async fn forget_ours() -> Result<(), MeshError> {
        if !in_use().await? {
            return Ok(());
        }
        let found = found().await.unwrap_or_default();
        let there = found.iter().filter(|rule| is_ours(rule));
        let lines: Vec<String> = there.map(|rule| rule.replacen("-A", "-D", 1)).collect();
        if lines.is_empty() { Ok(()) } else { restore(&lines.join("\n")).await }
    }
}

/// Rules of any of our modes and versions: they name our devices, or are about ports within this host.
fn is_ours(rule: &str) -> bool {
    let current = [Docker::default().rules(), Docker::rules_of_output()].concat();
    let known = FORMER.contains(&rule) || current.iter().any(|ours| ours == rule);
    let plain = rule.strip_prefix("-A INPUT -p udp -m udp --dport ");
    known || plain.is_some_and(|rest| rest.ends_with(" -m conntrack ! --ctstate UNTRACKED -j DROP"))
}

/// Someone, other than we, has a say in what this host sends.
fn filters_output(found: &[String]) -> bool {
    let of_others = |rule: &String| rule.starts_with("-A OUTPUT ") && !is_ours(rule);
    found.iter().any(|rule| of_others(rule) || rule.starts_with("-P OUTPUT ") && rule != "-P OUTPUT ACCEPT")
}

/// Whether this host has rules of `iptables`. Where the program is missing, Docker does without: it would not have started.
/// Errors: the program is missing and there are such rules all the same, or it cannot read them.
async fn in_use() -> Result<bool, MeshError> {
    match iptables(&["-S", "FORWARD", "1"]).await {
        Ok(_) => Ok(true),
        Err(MeshError::Program { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            match run("nft", &["list", "chain", "ip", TABLE, "FORWARD"], "").await {
                Ok(_) => Err(MeshError::Program { program: PROGRAM, source }),
                Err(_) => Ok(false),
            }
        }
        Err(error) => Err(error),
    }
}

/// The rules of Docker's chain and of the host's own.
async fn found() -> Result<Vec<String>, MeshError> {
    let mut found = Vec::new();
    for chain in [CHAIN, "INPUT", "OUTPUT"] {
        let rules = iptables(&["-S", chain]).await?;
        found.extend(rules.lines().map(|line| line.trim_end().to_owned()));
    }
    Ok(found)
}

/// The chain must stand before those that keep bridges apart. Docker puts it there when a network is made, but a
/// restarted engine puts the others before it, and whoever flushes all rules leaves Docker's refusal of what nobody
/// accepts. Answers whether it was not called at all.
async fn come_first() -> Result<bool, MeshError> {
    // Docker does the same when it makes a network, and either may find that the other was faster.
    match try_to_come_first().await {
        Err(MeshError::Refused { .. }) => try_to_come_first().await,
        done => done,
    }
}

async fn try_to_come_first() -> Result<bool, MeshError> {
    let first = iptables(&["-S", "FORWARD", "1"]).await?;
    if first.trim_end().ends_with(&JUMP.join(" ")) {
        return Ok(false);
    }
    if iptables(&["-C", "FORWARD", JUMP[0], JUMP[1]]).await.is_err() {
        return iptables(&["-I", "FORWARD", JUMP[0], JUMP[1]]).await.map(|_| true);
    }
    let jump = JUMP.join(" ");
    restore(&format!("-D FORWARD {jump}\n-I FORWARD 1 {jump}")).await.map(|()| false)
}

/// One transaction: in between, Docker would drop what passes.
async fn restore(lines: &str) -> Result<(), MeshError> {
    let script = format!("*filter\n{lines}\nCOMMIT\n");
    run("iptables-restore", &["-w", "5", "--noflush"], &script).await.map(drop)
}

async fn iptables(arguments: &[&str]) -> Result<String, MeshError> {
    // `-w`: others (Docker above all) hold the lock now and then.
    run(PROGRAM, &[&["-w", "5"], arguments].concat(), "").await
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    const ENCRYPTED: Docker = Docker { plain_port: None };
    const PLAIN: Docker = Docker { plain_port: Some(7239) };

    #[test]
    fn missing_and_former_rules_are_put_right_in_order() {
        let users = "-A DOCKER-USER -s 192.0.2.0/24 -j DROP".to_owned();
        let mut found = ENCRYPTED.rules();
        assert_eq!(ENCRYPTED.repair(&found, true), None);
        // Rules of others between ours are none of our business there.
        found.insert(2, users.clone());
        assert_eq!(ENCRYPTED.repair(&found, true), None);
        found.swap(0, 1);
        assert!(ENCRYPTED.repair(&found, true).is_some(), "another order means something else");
        let found = [FORMER[1].to_owned(), users, "-N DOCKER-USER".to_owned(), ENCRYPTED.rules()[6].clone()];
        expect![[r#"
            -D DOCKER-USER -o ru-+ -j ACCEPT
            -D INPUT -p udp -m udp --dport 7240:7241 -m conntrack --ctstate UNTRACKED -j ACCEPT
            -I INPUT -i ru-+ -m mark --mark 0x72370000 -j ACCEPT
            -I INPUT -i ru-+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
            -I INPUT -d 127.0.0.0/8 -i ru-+ -m conntrack ! --ctstate RELATED,ESTABLISHED -j DROP
            -I INPUT -p udp -m udp --dport 7239 -m conntrack ! --ctstate UNTRACKED -j DROP
            -I DOCKER-USER ! -i ru-+ -o ru-+ -j DROP
            -I DOCKER-USER -i ru-plain -j DROP
            -I DOCKER-USER -i ru-fabric -j DROP
            -I DOCKER-USER -o ru-+ -m mark --mark 0x72370000 -j ACCEPT
            -I DOCKER-USER -o ru-+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
            -I DOCKER-USER -i ru-+ -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"#]]
        .assert_eq(&PLAIN.repair(&found, false).unwrap());
    }

    /// A firewall that is started later puts its own rules before ours, and cuts what is within this host.
    #[test]
    fn in_the_hosts_own_chains_ours_come_first() {
        let mut found = ENCRYPTED.rules();
        found.push("-A INPUT -j ufw-before-input".to_owned());
        assert_eq!(ENCRYPTED.repair(&found, true), None, "after ours");
        found.insert(6, "-A INPUT -j DROP".to_owned());
        assert_eq!(ENCRYPTED.repair(&found, false), None);
        let script = ENCRYPTED.repair(&found, true).unwrap();
        assert!(script.lines().any(|line| line.starts_with("-D INPUT")), "{script}");
        assert!(!script.contains("ufw") && !script.contains("INPUT -j DROP"), "{script}");
    }

    #[test]
    fn what_this_host_sends_is_accepted_where_someone_filters_that() {
        let with = |rules: &[&str]| {
            let mut found = ENCRYPTED.rules();
            found.extend(rules.iter().map(|rule| (*rule).to_owned()));
            ENCRYPTED.repair(&found, true)
        };
        assert_eq!(with(&["-P OUTPUT ACCEPT"]), None);
        for filter in ["-P OUTPUT DROP", "-A OUTPUT -j ufw-before-output"] {
            let script = with(&[filter]).unwrap();
            assert_eq!(script.matches("-I OUTPUT").count(), 2, "{script}");
        }
        let ours = Docker::rules_of_output();
        let ours: Vec<&str> = ours.iter().map(String::as_str).collect();
        assert_eq!(with(&[&["-P OUTPUT DROP"], &ours[..]].concat()), None);
        let script = with(&[&["-P OUTPUT ACCEPT"], &ours[..]].concat()).unwrap();
        assert_eq!(script.matches("-D OUTPUT").count(), 2, "nobody filters any more: {script}");
        assert!(!script.contains("-I OUTPUT"), "{script}");
    }

    #[test]
    fn rules_of_both_modes_are_known_again() {
        let all = [ENCRYPTED.rules(), PLAIN.rules(), Docker::rules_of_output()].concat();
        for rule in &all {
            assert!(is_ours(rule), "{rule}");
        }
        for rule in ["-P INPUT DROP", "-A INPUT -p udp -m udp --dport 53 -j DROP", "-A DOCKER-USER -j RETURN"]
        {
            assert!(!is_ours(rule), "{rule}");
        }
    }
}
