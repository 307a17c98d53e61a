//! Applies the rules, with `nft`, and keeps what goes with them.

use std::{collections::BTreeSet, io, net::Ipv4Addr, process::Stdio};

use ipnet::Ipv4Net;
use raftup_proto::{peer::Deaf, view::Revision};
use tokio::{io::AsyncWriteExt, process::Command};
use tracing::{debug, warn};

use super::{
    Ruleset, Table, conntrack, docker,
    reserve::Reserved,
    ruleset::{GENERATION, TABLE, generation_mark},
    table::{Front, Port},
};

/// Rules could not be applied.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// A program that must be on the host cannot be run.
    #[error("`{program}` cannot be run")]
    Program {
        /// Its name.
        program: &'static str,
        /// Why.
        source: io::Error,
    },
    /// It ran and refused.
    #[error("`{program}` refused: {said}")]
    Refused {
        /// Its name.
        program: &'static str,
        /// What it wrote.
        said: String,
    },
}

/// The mesh of this node.
#[derive(Debug, Default)]
pub struct Mesh {
    /// The rules in the kernel; none if they must be replaced as a whole.
    known: Option<Ruleset>,
    /// Endpoints and UDP ports that may have flows in the kernel's memory.
    flows: Option<(BTreeSet<Ipv4Addr>, BTreeSet<Port>)>,
    reserved: Reserved,
    /// Ports that this node should answer on, those that others have among them.
    fronts: BTreeSet<Front>,
    pool: Option<Ipv4Net>,
}

impl Mesh {
    /// Others may have changed the rules: replace them as a whole at the next change.
    pub fn forget(&mut self) {
        self.known = None;
    }

    /// Whether rules that an earlier process has put in force still are, and are those of `generation` or of a later one.
    pub async fn has_in_force(generation: Revision) -> bool {
        let set = run("nft", &["list", "set", "ip", TABLE, GENERATION], "").await.unwrap_or_default();
        let elements = set.split_once("elements = {").and_then(|(_, rest)| rest.split_once('}'));
        let mark =
            elements.and_then(|(mark, _)| u32::from_str_radix(mark.trim().strip_prefix("0x")?, 16).ok());
        mark.is_some_and(|mark| mark >= generation_mark(generation))
    }

    /// Makes the rules those of `table`, but for ports that other programs of this host have.
    ///
    /// Errors: nothing of the table is in force; the next call starts over.
    pub async fn apply(&mut self, mut table: Table) -> Result<(), MeshError> {
        self.fronts = table.published.keys().copied().collect();
        self.pool = Some(table.pool);
        self.reserved.hold(&self.fronts, table.pool).await;
        table.withhold(self.reserved.taken());
        let rules = Ruleset::of(&table);
        if self.known.is_none() {
            // Docker drops what it does not know; it also makes the chain anew when it is started first.
            docker::accept_ours().await?;
        }
        self.apply_rules(&rules).await?;
        self.known = Some(rules);
        self.forget_flows(&table).await;
        self.reserved.release(&self.fronts);
        Ok(())
    }

    /// The published ports that this node does not answer on, in order.
    pub fn deaf(&self) -> Vec<Deaf> {
        self.reserved.deaf()
    }

    /// Looks again at ports that could not be had, and at addresses that come and go. Answers whether the rules have to be
    /// applied anew for that.
    pub async fn look_again(&mut self) -> bool {
        let Some(pool) = self.pool.filter(|_| self.reserved.may_change(&self.fronts)) else { return false };
        let before = self.reserved.deaf();
        self.reserved.hold(&self.fronts, pool).await;
        self.reserved.deaf() != before
    }

    async fn apply_rules(&mut self, rules: &Ruleset) -> Result<(), MeshError> {
        if let Some(known) = self.known.take() {
            let change = rules.change_from(&known);
            if change.is_empty() {
                return Ok(());
            }
            match nft(&change).await {
                Ok(()) => return Ok(()),
                Err(error) => warn!(%error, "rules were changed by someone else; all of ours are replaced"),
            }
        }
        nft(&rules.replace()).await
    }

    /// Flows to endpoints that are gone are re-aimed with their next packet instead of lost.
    async fn forget_flows(&mut self, table: &Table) {
        let ports: BTreeSet<Port> = table.published.keys().map(|(_, port)| *port).collect();
        if let Some((endpoints, published)) = &self.flows {
            let gone: Vec<Ipv4Addr> = endpoints.difference(&table.endpoints).copied().collect();
            let moved: Vec<Port> = published.symmetric_difference(&ports).copied().collect();
            conntrack::forget(gone, moved).await;
        }
        self.flows = Some((table.endpoints.clone(), ports));
    }

    /// Takes all of it away.
    pub async fn remove_all(&mut self) -> Result<(), MeshError> {
        self.known = None;
        self.flows = None;
        self.reserved = Reserved::default();
        nft(&format!("table ip {TABLE}\ndelete table ip {TABLE}\n")).await?;
        docker::forget_ours().await
    }
}

async fn nft(script: &str) -> Result<(), MeshError> {
    debug!(bytes = script.len(), "rules change");
    run("nft", &["-f", "-"], script).await.map(drop)
}

/// Runs a program to its end and answers what it wrote. Errors: it cannot be run, or ends with another status than 0.
pub(super) async fn run(program: &'static str, arguments: &[&str], input: &str) -> Result<String, MeshError> {
    let failed = |source| MeshError::Program { program, source };
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends before it has read all says why itself.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(MeshError::Refused { program, said: said.lines().take(3).collect::<Vec<_>>().join("; ") })
}
