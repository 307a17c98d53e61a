//! An open-loop load generator that classes every failure and counts who answered.
//!
//! Requests start on schedule whether earlier ones have been answered or not, and latency counts from the time
//! that was scheduled, so that a pause of the server shows as what a user would see. Runs inside a lab's client
//! and refuses any target outside of labs.

mod drive;
mod plan;
mod report;
mod running;
mod send;

pub use drive::drive;
pub use plan::{Mode, Plan};
pub use report::{Class, Failure, Latency, Report};
pub use running::Running;
