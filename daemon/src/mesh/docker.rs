//! Two rules in the chain that Docker leaves to users.
//!
//! Docker drops all that it does not forward itself. What may pass between our devices is decided by our own table,
//! which can drop but cannot accept in Docker's place. Docker keeps the chain's rules over its restarts; where the chain
//! is not there yet, it is made, and Docker takes it over.

use super::apply::{MeshError, run};

const PROGRAM: &str = "iptables";
const CHAIN: &str = "DOCKER-USER";

/// From the fabric to anywhere of ours, and from anywhere to the fabric and our bridges.
const RULES: [[&str; 4]; 2] = [["-i", "ru-fabric", "-j", "ACCEPT"], ["-o", "ru-+", "-j", "ACCEPT"]];

/// Puts our rules there, first, once.
pub(super) async fn accept_ours() -> Result<(), MeshError> {
    // Fails where the chain is there already.
    let _ = iptables("-N", &[]).await;
    for rule in RULES {
        if iptables("-C", &rule).await.is_err() {
            iptables("-I", &rule).await?;
        }
    }
    Ok(())
}

/// Takes them away.
pub(super) async fn forget_ours() -> Result<(), MeshError> {
    for rule in RULES {
        if iptables("-C", &rule).await.is_ok() {
            iptables("-D", &rule).await?;
        }
    }
    Ok(())
}

async fn iptables(verb: &str, rule: &[&str]) -> Result<(), MeshError> {
    // `-w`: others (Docker above all) hold the lock now and then.
    let arguments = [&["-w", "5", verb, CHAIN], rule].concat();
    run(PROGRAM, &arguments, "").await
}
