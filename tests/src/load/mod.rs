//! An open-loop load generator that classes every failure.
