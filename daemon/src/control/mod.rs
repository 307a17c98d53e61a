//! (being written)

pub mod quorum;
