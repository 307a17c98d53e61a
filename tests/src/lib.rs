//! The lab: whole hosts on one machine, with real engines, for tests, the demo and the benches.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`lab`] | hosts out of namespaces, their engines, daemons, network and faults |
//! | [`load`] | an open-loop load generator that classes every failure |
//! | [`changes`] | changes of a service and of the cluster, each under load |
#![forbid(unsafe_code)]

pub mod changes;
pub mod lab;
pub mod load;
