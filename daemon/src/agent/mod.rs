//! Loops of every node.

pub mod routes;
