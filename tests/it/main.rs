//! Everything that crosses crates, as one program.
//!
//! | module | what it checks |
//! | --- | --- |
//! | `layering` | the sources: who imports whom, and what is pure |
//! | `by_hand` | what somebody does to our containers with `docker`, and changes that come in between others |
//! | `change` | updates, rollbacks, drains and scaling under load |
//! | `wire` | what is on the wire between hosts, and what gets into the fabric |
//! | `intruders` | forged frames and injected packets, from every position: none is delivered, all are once our drops are taken away |
//! | `hostile_member` | a member that sends what no node would send, on every kind of stream |
//! | `lanes` | plain networks beside encrypted ones: what is readable, and that neither gets into the other |
//! | `lab` | the lab itself, with real engines |
//! | `stacks` | stacks on whole clusters: served everywhere, changed under load, removed without a trace |
//! | `secrets` | secrets and configs: read by their tasks, found nowhere else, replaced, there again after restarts |
//! | `shared` | networks that stacks share, and options of containers |
//! | `examples` | each stack of `compose-examples/`, deployed and used |
//! | `isolation` | who reaches whom: every pair of containers |
//! | `doctor` | `raftup doctor`, and hosts that cannot be nodes |
//! | `planted` | faults on hosts: doctor finds each, and what it prints mends it |
//! | `names` | each kind of name, asked from containers on both kinds of engine; what others answer |
//! | `order` | `depends_on`: what starts after what, across hosts |
//! | `hooks` | hooks of containers, and slots in their order with a volume each |
//! | `jobs` | jobs, and where tasks are: labels, numbers on a node, other services |
//! | `publish` | ports of one address, of tasks' own nodes, taken ones; names without a virtual address |
//! | `ports` | that two UDP ports between hosts are enough |
//! | `routing` | who gets a connection, from wherever it comes |
//! | `faults` | daemons, engines and hosts that die under load |
//! | `slow` | managers over slow links, and on slow disks |
//! | `engines` | engines of each version that can be had, and one without `iptables` |
//! | `firewalls` | that two open ports are enough behind firewalls, and what the doctor says where they are not |
//! | `moves` | hosts whose address changes, and one behind a NAT |
//! | `identity` | data directories that were wiped or copied |
//! | `input` | bad input, each with its message |
//! | `cluster` | what these share |
//!
//! Tests with engines need root and what `tests/setup.sh` installs, and fail with that word where it is missing.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do: by panicking")]

mod by_hand;
mod change;
mod cluster;
mod doctor;
mod engines;
mod examples;
mod faults;
mod firewalls;
mod hooks;
mod hostile_member;
mod identity;
mod input;
mod intruders;
mod isolation;
mod jobs;
mod lab;
mod lanes;
mod layering;
mod moves;
mod names;
mod order;
mod planted;
mod ports;
mod publish;
mod routing;
mod secrets;
mod shared;
mod slow;
mod stacks;
mod wire;
