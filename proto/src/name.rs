//! Names that people choose, checked once where they enter.

use std::{borrow::Borrow, fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest name, in bytes: a label of DNS (RFC 1035) may have this many.
pub const NAME_MAX: usize = 63;

/// A text that cannot be a name, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` cannot be the name of {noun}: {reason}")]
pub struct BadName {
    /// What was given, cut to a length that can be shown.
    pub text: String,
    /// The noun with its article.
    pub noun: &'static str,
    /// What is wrong with it.
    pub reason: &'static str,
}

fn check(text: &str) -> Result<(), &'static str> {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    match text.as_bytes() {
        [] => Err("it is empty"),
        bytes if bytes.len() > NAME_MAX => Err("it is longer than 63 characters"),
        [first, ..] if !first.is_ascii_alphanumeric() => Err("it must begin with a letter or a digit"),
        bytes if !bytes.iter().copied().all(inner) => {
            Err("only letters, digits, `-`, `_` and `.` are allowed")
        }
        _ => Ok(()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $noun:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The text of the name.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadName;

            fn from_str(text: &str) -> Result<Self, BadName> {
                match check(text) {
                    Ok(()) => Ok(Self(text.to_owned())),
                    Err(reason) => {
                        let text = text.chars().take(NAME_MAX + 1).collect();
                        Err(BadName { text, noun: $noun, reason })
                    }
                }
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

name!(
    /// The name of a stack.
    StackName, "a stack"
);
name!(
    /// The name of a service inside its stack: `web`, not `shop_web`.
    ServiceName, "a service"
);
name!(
    /// The key of a network inside its stack.
    NetworkName, "a network"
);
name!(
    /// The key of a volume inside its stack.
    VolumeName, "a volume"
);
name!(
    /// The key of a secret or a config inside its stack.
    BlobName, "a secret or config"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!("web-1.x_Y".parse::<ServiceName>().is_ok());
        for text in ["", "-web", "we b", "wéb", &"x".repeat(64)] {
            assert!(text.parse::<ServiceName>().is_err(), "{text}");
        }
        let refused = "a/b".parse::<StackName>().expect_err("a slash is not allowed");
        assert_eq!(
            refused.to_string(),
            "`a/b` cannot be the name of a stack: only letters, digits, `-`, `_` and `.` are allowed"
        );
    }
}
