//! Everything that crosses crates, as one program.
//!
//! | module | what it checks |
//! | --- | --- |
//! | `layering` | the sources: who imports whom, and what is pure |
//! | `cluster` | whole clusters, with load, kills and bad input |
//! | `lab` | the lab itself, with real engines |
//!
//! Tests with engines need root and what `tests/setup.sh` installs, and fail with that word where it is missing.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do: by panicking")]

mod cluster;
mod lab;
mod layering;
