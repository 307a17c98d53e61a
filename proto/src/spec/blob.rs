//! Secrets and configs: contents that the cluster keeps and containers read as files.

use std::{collections::BTreeMap, fmt};

use data_encoding::BASE64;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use super::is_default;
use crate::{
    id::BlobId,
    name::{BlobName, NAME_MAX},
    secret::Secret,
};

/// What a content is, which decides on how it is shown and where it is by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlobKind {
    /// Never shown; in memory alone on nodes.
    Secret,
    /// May be shown.
    Config,
}

impl BlobKind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Secret, Self::Config];

    /// Most bytes of a content. Source: `MaxSecretSize` and `MaxConfigSize` of SwarmKit.
    pub const fn bytes_max(self) -> usize {
        match self {
            Self::Secret => 500 << 10,
            Self::Config => 1000 << 10,
        }
    }

    /// The directory that a target is in which is not an absolute path.
    pub const fn dir(self) -> &'static str {
        match self {
            Self::Secret => "/run/secrets",
            Self::Config => "",
        }
    }

    /// Its key in a compose file, and its part of paths of the API.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Secret => "secrets",
            Self::Config => "configs",
        }
    }

    /// What is wrong with the size of a content, if anything is.
    pub fn check_size(self, bytes: usize) -> Result<(), String> {
        let max = self.bytes_max();
        match (self, bytes) {
            (Self::Secret, 0) => Err("is empty".to_owned()),
            (_, bytes) if bytes > max => {
                Err(format!("has {bytes} bytes; a {self} has at most {} KB ({max} bytes)", max >> 10))
            }
            _ => Ok(()),
        }
    }
}

/// Longest full name: that of a stack, `_`, and a key.
const FULL_NAME_MAX: usize = 2 * NAME_MAX + 1;

/// The name of a secret or config in the cluster. Errors: what is wrong with it.
pub fn blob_name(text: &str) -> Result<String, String> {
    let inner = |char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | '.' | '-');
    let begins = text.starts_with(|char: char| char.is_ascii_alphanumeric());
    if begins && text.len() <= FULL_NAME_MAX && text.chars().all(inner) {
        return Ok(text.to_owned());
    }
    let shown: String = text.chars().take(NAME_MAX).collect();
    Err(format!(
        "`{shown}` is no name: up to {FULL_NAME_MAX} letters, digits, `_`, `.` and `-`, of which the first is a letter or digit"
    ))
}

impl fmt::Display for BlobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Secret => "secret",
            Self::Config => "config",
        })
    }
}

/// A content. Base64 in JSON; never shown by `Debug`, and overwritten in memory when it is dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobData(Secret<Vec<u8>>);

impl BlobData {
    /// The bytes, for the one place that needs them.
    pub fn expose(&self) -> &[u8] {
        self.0.expose()
    }
}

impl From<Vec<u8>> for BlobData {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<BlobData> for Secret<Vec<u8>> {
    fn from(data: BlobData) -> Self {
        data.0
    }
}

impl Serialize for BlobData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(self.expose()))
    }
}

impl<'de> Deserialize<'de> for BlobData {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Secret::<String>::deserialize(deserializer)?;
        // The decoder's error has no part of the text in it.
        BASE64.decode(text.expose().as_bytes()).map(Self::from).map_err(D::Error::custom)
    }
}

/// A secret or a config of a stack.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobSpec {
    /// Its name in the cluster.
    pub name: String,
    /// It is not the stack's: one of that name is there already.
    #[serde(default, skip_serializing_if = "is_default")]
    pub external: bool,
    /// Its labels.
    #[serde(default, skip_serializing_if = "is_default")]
    pub labels: BTreeMap<String, String>,
    /// What is in it; none if it is external.
    #[serde(default, skip_serializing_if = "is_default")]
    pub data: Option<BlobData>,
}

/// A secret or a config as a file of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobMount {
    /// Its key in the stack.
    pub source: BlobName,
    /// Its name in the cluster.
    pub name: String,
    /// Absolute path of the file in the container.
    pub target: String,
    /// Owner of the file, as the container counts users.
    #[serde(default, skip_serializing_if = "is_default")]
    pub uid: u32,
    /// Group of the file.
    #[serde(default, skip_serializing_if = "is_default")]
    pub gid: u32,
    /// Permissions of the file.
    pub mode: u32,
    /// Which content it is; set by the cluster at each deploy. Another content is another id, so that containers that have an
    /// older one are replaced.
    #[serde(default, skip_serializing_if = "is_default")]
    pub id: Option<BlobId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_base64_in_json_and_never_shown() {
        let data = BlobData::from(vec![0, 255, b'p']);
        assert_eq!(serde_json::to_string(&data).unwrap(), "\"AP9w\"");
        assert_eq!(serde_json::from_str::<BlobData>("\"AP9w\"").unwrap(), data);
        let wrong = serde_json::from_str::<BlobData>("\"hunter2hunter2!\"").unwrap_err().to_string();
        assert!(!wrong.contains("hunter"), "{wrong}");
        assert_eq!(format!("{data:?}"), "BlobData(Secret(..))");
    }

    #[test]
    fn sizes_are_those_of_swarm() {
        assert!(
            BlobKind::Secret.check_size(512_000).is_ok() && BlobKind::Config.check_size(1_024_000).is_ok()
        );
        let large = BlobKind::Secret.check_size(512_001).unwrap_err();
        assert_eq!(large, "has 512001 bytes; a secret has at most 500 KB (512000 bytes)");
        assert!(BlobKind::Config.check_size(1_024_001).is_err());
        assert!(BlobKind::Secret.check_size(0).is_err() && BlobKind::Config.check_size(0).is_ok());
    }
}
