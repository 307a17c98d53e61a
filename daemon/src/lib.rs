//! `raftupd`: one small daemon beside the Docker Engine of each server.
//!
//! Folders are layers, and each imports only what stands left of it; a test reads the sources and checks:
//!
//! ```text
//! model < plan < edges (engine net gossip fabric mesh dns secret) < loops (store control agent) < api < node.rs
//! ```
//!
//! | folder | its one role |
//! | --- | --- |
//! | [`disk`] | files that are whole or not there; below all layers |
//! | [`apart`] | parts that are processes of their own; below all layers |
//! | [`log_lines`] | the daemon's own log; below all layers |
//! | [`privileges`] | what the process may do, and who may read its memory; below all layers |
//! | [`unix_socket`] | local sockets with their mode from the start; below all layers |
//! | [`pace`] | how exactly timers fire; below all layers |
//! | `netlink` | what the kernel tells of changes; below all layers |
//! | [`model`] | the replicated state as data |
//! | [`plan`] | pure decisions |
//! | [`engine`] | Docker |
//! | [`net`] | bytes and identity between nodes |
//! | [`gossip`] | who is here, who has gone quiet |
//! | [`fabric`] | links and routes between hosts |
//! | [`mesh`] | the routing table as an nftables ruleset |
//! | [`dns`] | names of services for containers |
//! | [`secret`] | sealing at rest |
//! | [`store`] | the replicated state: Raft, log, snapshots, apply |
//! | [`control`] | loops of the leader around `plan` |
//! | [`agent`] | loops of every node |
//! | [`api`] | HTTP |
//! | [`config`] | what the daemon is told |
//! | [`node`] | build, run, drain; names all parts |
#![forbid(unsafe_code)]

pub mod agent;
pub mod apart;
pub mod api;
mod compute;
pub mod config;
pub mod control;
pub mod disk;
pub mod dns;
pub mod engine;
pub mod fabric;
pub mod gossip;
pub mod log_lines;
pub mod mesh;
pub mod model;
pub mod net;
mod netlink;
pub mod node;
pub mod pace;
pub mod plan;
pub mod privileges;
pub mod secret;
pub mod store;
pub mod unix_socket;
