//! A small server and client inside the lab's images.
#![forbid(unsafe_code)]

fn main() {}
