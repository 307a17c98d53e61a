//! Three rules in the chain that Docker leaves to users, and one for hosts that let nothing in by themselves.
//!
//! Docker drops all that it does not forward itself. What may pass between our devices is decided by our own table,
//! which can drop but cannot accept in Docker's place. Docker keeps the chain's rules over its restarts; where the chain
//! is not there yet, or was flushed with all others, it is made, and Docker takes it over.

use super::apply::{MeshError, run};

const PROGRAM: &str = "iptables";
const CHAIN: &str = "DOCKER-USER";

/// The table of nftables that its rules are in, where `iptables` stands on nftables.
pub(super) const TABLE: &str = "filter";

/// The chains that ours depend on.
pub(super) const CHAINS: [&str; 3] = [CHAIN, "FORWARD", "INPUT"];

/// From the fabric to anywhere of ours, and from anywhere to the fabric and our bridges, and the answers to that, which
/// are Docker's to accept until its rules are flushed; and VXLAN within this host, for which nobody opens a port: what our
/// table let through is not tracked, anything else to these ports would be.
const RULES: [(&str, &[&str]); 5] = [
    (CHAIN, &["-i", "ru-+", "-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED", "-j", "ACCEPT"]),
    (CHAIN, &["-i", "ru-fabric", "-j", "ACCEPT"]),
    (CHAIN, &["-o", "ru-+", "-j", "ACCEPT"]),
    (CHAIN, &["-i", "ru-plain", "-j", "ACCEPT"]),
    (
        "INPUT",
        &["-p", "udp", "--dport", "7240:7241", "-m", "conntrack", "--ctstate", "UNTRACKED", "-j", "ACCEPT"],
    ),
];

/// Where Docker jumps to the chain.
const JUMP: [&str; 2] = ["-j", CHAIN];

/// Puts our rules there, first, once. Answers whether one was missing.
pub(super) async fn accept_ours() -> Result<bool, MeshError> {
    // Fails where the chain is there already.
    let _ = iptables(&["-N", CHAIN], &[]).await;
    let mut missing = false;
    for (chain, rule) in RULES {
        if iptables(&["-C", chain], rule).await.is_err() && !accepts_all(chain).await {
            iptables(&["-I", chain], rule).await?;
            missing = true;
        }
    }
    Ok(come_first().await? || missing)
}

/// Nothing needs to be let in where everything is: no chain is begun for that.
async fn accepts_all(chain: &str) -> bool {
    iptables(&["-S", chain], &[]).await.is_ok_and(|rules| rules.trim_end() == format!("-P {chain} ACCEPT"))
}

/// The chain must stand before those that keep bridges apart. Docker puts it there when a network is made, but a
/// restarted engine puts the others before it, and whoever flushes all rules leaves Docker's refusal of what nobody
/// accepts. Answers whether it was not called at all.
async fn come_first() -> Result<bool, MeshError> {
    let first = iptables(&["-S", "FORWARD", "1"], &[]).await?;
    if first.trim_end().ends_with(&JUMP.join(" ")) {
        return Ok(false);
    }
    if iptables(&["-C", "FORWARD"], &JUMP).await.is_err() {
        return iptables(&["-I", "FORWARD"], &JUMP).await.map(|_| true);
    }
    // One transaction: without the jump, Docker would drop what passes in between.
    let jump = JUMP.join(" ");
    let script = format!("*filter\n-D FORWARD {jump}\n-I FORWARD 1 {jump}\nCOMMIT\n");
    run("iptables-restore", &["-w", "5", "--noflush"], &script).await.map(|_| false)
}

/// Whether the rules of `iptables`, and so Docker's, can be read. Errors: they cannot, or the program is missing.
pub(super) async fn can_be_read() -> Result<(), MeshError> {
    iptables(&["-S", "FORWARD", "1"], &[]).await.map(drop)
}

/// Takes them away.
pub(super) async fn forget_ours() -> Result<(), MeshError> {
    for (chain, rule) in RULES {
        if iptables(&["-C", chain], rule).await.is_ok() {
            iptables(&["-D", chain], rule).await?;
        }
    }
    Ok(())
}

async fn iptables(verb: &[&str], rule: &[&str]) -> Result<String, MeshError> {
    // `-w`: others (Docker above all) hold the lock now and then.
    run(PROGRAM, &[&["-w", "5"], verb, rule].concat(), "").await
}
