//! One id type per noun, so that arguments cannot be swapped.
//!
//! Node ids are small numbers that the replicated log hands out and never gives twice; they print as `n3`.
//! All others are random and print as twelve characters of base 36, short enough for a container's name.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Characters of a printed random id.
pub const ID_LEN: usize = 12;

/// One more than the largest random id: 36 to the power of [`ID_LEN`].
const ID_SPACE: u64 = 36_u64.pow(ID_LEN as u32);

/// A text that is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {noun} id")]
pub struct BadId {
    /// What was given.
    pub text: String,
    /// The noun with its article, such as `a task`.
    pub noun: &'static str,
}

fn write_base36(mut value: u64, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut text = [b'0'; ID_LEN];
    for place in text.iter_mut().rev() {
        *place = b"0123456789abcdefghijklmnopqrstuvwxyz"[(value % 36) as usize];
        value /= 36;
    }
    f.pad(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
}

fn read_base36(text: &str) -> Option<u64> {
    let lower = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_lowercase();
    if text.len() != ID_LEN || !text.bytes().all(lower) {
        return None;
    }
    u64::from_str_radix(text, 36).ok()
}

macro_rules! serde_as_text {
    ($name:ident) => {
        // Text where people read (JSON), the bare number where machines do (bincode).
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    serializer.serialize_u64(self.0)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    u64::deserialize(deserializer).map(Self)
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident, $noun:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u64);

        impl $name {
            /// The id for a random number; any `u64` will do.
            pub const fn from_random(random: u64) -> Self {
                Self(random % ID_SPACE)
            }

            /// No id is less, and none is greater: the ends of ranges over all.
            pub const MIN: Self = Self(0);
            /// See [`Self::MIN`].
            pub const MAX: Self = Self(u64::MAX);

            /// The number that stands for it.
            pub const fn number(self) -> u64 {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_base36(self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            fn from_str(text: &str) -> Result<Self, BadId> {
                read_base36(text).map(Self).ok_or_else(|| BadId { text: text.to_owned(), noun: $noun })
            }
        }

        serde_as_text!($name);
    };
}

random_id!(
    /// A cluster, made at `raftup init`.
    ClusterId, "a cluster"
);
random_id!(
    /// A stack: the services, networks and volumes of one compose file.
    StackId, "a stack"
);
random_id!(
    /// A service: one container template and how many of it should run.
    ServiceId, "a service"
);
random_id!(
    /// A task: one attempt to run a container in one slot of a service.
    TaskId, "a task"
);
random_id!(
    /// A network that spans the cluster.
    NetworkId, "a network"
);
random_id!(
    /// A named volume of a stack.
    VolumeId, "a volume"
);
random_id!(
    /// One content of a secret or a config.
    BlobId, "a secret or config"
);

/// A node, for the life of the cluster; ids come from the replicated log and are never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u64);

impl NodeId {
    /// The `number`th node that was admitted, counted from 1.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number behind the id.
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("n{}", self.0))
    }
}

impl FromStr for NodeId {
    type Err = BadId;

    fn from_str(text: &str) -> Result<Self, BadId> {
        let digits = text.strip_prefix('n').filter(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
        digits
            .and_then(|rest| rest.parse().ok())
            .map(Self)
            .ok_or_else(|| BadId { text: text.to_owned(), noun: "a node" })
    }
}

serde_as_text!(NodeId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_print_and_parse() {
        for random in [0, 1, 35, 36, u64::MAX] {
            let id = TaskId::from_random(random);
            assert_eq!(id.to_string().len(), ID_LEN);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        assert_eq!("n12".parse(), Ok(NodeId::new(12)));
        assert_eq!(format!("[{:>4}]", NodeId::new(3)), "[  n3]");
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "n", "12", "n-1", "nn1", "n99999999999999999999"] {
            assert!(text.parse::<NodeId>().is_err(), "{text}");
        }
        for text in ["", "short", "00000000000000", "00000000000Z", "+00000000001"] {
            assert!(text.parse::<TaskId>().is_err(), "{text}");
        }
    }
}
