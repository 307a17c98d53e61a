//! The words that `raftup` and `raftupd` share.
//!
//! | module | what it holds |
//! | --- | --- |
//! | [`id`] | one id type per noun |
//! | [`name`] | names that people choose, checked |
//! | [`mod@unit`] | sizes, CPU shares and times with their unit in the type |
//! | [`secret`] | values that are never shown |
//! | [`spec`] | what a user asks for: stacks, services, networks, volumes |
//! | [`compose`] | a compose file to a [`spec::StackSpec`]; pure |
//! | [`printable`] | text that cannot control a terminal or forge a line |
//! | [`refusal`] | the one error that reaches people |
//! | [`api`] | requests and answers of the native HTTP API |
//! | [`token`] | the string that lets a node join |
//! | [`codec`] | the one place that names the wire encoder |
//! | [`peer`] | what nodes say to each other over QUIC |
//! | [`view`] | what a node is told: its tasks and the routing state |
#![forbid(unsafe_code)]

pub mod api;
pub mod codec;
pub mod compose;
pub mod id;
pub mod name;
pub mod peer;
pub mod printable;
pub mod refusal;
pub mod secret;
pub mod spec;
pub mod token;
pub mod unit;
pub mod view;
