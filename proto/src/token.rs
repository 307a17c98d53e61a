//! The string that lets a node join.
//!
//! `RAFTUP-1-` and then base 32 of: version, role, digest of the CA's certificate, secret, manager addresses, and a
//! checksum over all of it, so that a token that was cut short is told from a wrong one.
