//! Work that may take milliseconds, without holding up the one thread that everything else runs on.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Runs `work` on this thread while another takes over the runtime's tasks. Cost: some microseconds to hand them over.
///
/// Other branches of a `select!` around it wait for it, as for any code without an `await`.
pub(crate) fn in_place<T>(work: impl FnOnce() -> T) -> T {
    // A runtime of one thread (in tests) cannot hand its tasks over.
    match Handle::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}
