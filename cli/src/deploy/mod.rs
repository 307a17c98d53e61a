//! A compose file and its registry credentials, read where the user is.

mod credentials;
mod load;
mod registry;

pub(crate) use credentials::credentials;
pub(crate) use load::{load, normalise};
