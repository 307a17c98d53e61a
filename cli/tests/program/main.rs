//! The real program against a daemon that says what the test wants.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod blobs;
mod config;
mod daemon;
mod deploy;
mod errors;
mod lists;
mod run;
