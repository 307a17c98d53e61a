//! Names that the shell completes, asked for at the daemon while the user types.
//!
//! Holds: never an error and never a wait that is felt; without a daemon there is nothing to complete.

use std::{ffi::OsStr, time::Duration};

use clap_complete::CompletionCandidate;
use raftup_proto::{
    api::{NetworkView, NodeView, ServiceView, StackView},
    printable,
};
use serde::de::DeserializeOwned;

use crate::client::{Client, Host, Path};

/// Longest wait for the daemon.
const WITHIN: Duration = Duration::from_millis(500);

/// Host names of nodes.
pub(crate) fn nodes(typed: &OsStr) -> Vec<CompletionCandidate> {
    candidates(typed, list::<NodeView>("nodes").into_iter().map(|node| node.hostname))
}

/// Names of stacks.
pub(crate) fn stacks(typed: &OsStr) -> Vec<CompletionCandidate> {
    candidates(typed, list::<StackView>("stacks").into_iter().map(|stack| stack.name.to_string()))
}

/// Full names of networks.
pub(crate) fn networks(typed: &OsStr) -> Vec<CompletionCandidate> {
    candidates(typed, list::<NetworkView>("networks").into_iter().map(|network| network.name))
}

/// Full names of services.
pub(crate) fn services(typed: &OsStr) -> Vec<CompletionCandidate> {
    let names = list::<ServiceView>("services").into_iter();
    candidates(typed, names.map(|service| format!("{}_{}", service.stack, service.name)))
}

fn candidates(typed: &OsStr, names: impl Iterator<Item = String>) -> Vec<CompletionCandidate> {
    let typed = typed.to_string_lossy();
    // The shell would take a line end for the next candidate, and a terminal the rest for commands.
    let clean = |name: &String| printable::line(name) == *name;
    names.filter(clean).filter(|name| name.starts_with(&*typed)).map(CompletionCandidate::new).collect()
}

fn list<T: DeserializeOwned>(what: &str) -> Vec<T> {
    let host = std::env::var("RAFTUP_HOST").unwrap_or_else(|_| Host::DEFAULT.to_owned());
    let Ok(host) = host.parse() else { return Vec::new() };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    runtime.block_on(async {
        let client = Client::new(host);
        match tokio::time::timeout(WITHIN, client.get(Path::new([what]))).await {
            Ok(Ok(list)) => list,
            Ok(Err(_)) | Err(_) => Vec::new(),
        }
    })
}
