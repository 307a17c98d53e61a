//! This node's keys of the encrypted links, in one file that only root can read.

use std::{path::Path, time::Duration};

use anyhow::Context;
use boringtun::x25519::{PublicKey, StaticSecret};
use data_encoding::BASE64;
use raftup_proto::{peer::FabricKey, unit::UnixMillis};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::disk;

const FILE: &str = "fabric-keys.json";

/// How long a key is used, in milliseconds.
const LIFE_MS: u64 = 30 * 24 * 3600 * 1000;

/// How long an old key and a new one are both announced: all nodes that can be reached know the new one by then.
pub(super) const OVERLAP_MS: u64 = 2 * 60 * 1000;

/// How long an old key is still answered to when it is no longer announced: for those who hear that later.
const GRACE_MS: u64 = 30 * 1000;

/// The file is far smaller.
const SIZE_MAX: u64 = 16 << 10;

/// Private half of a key; forgotten from memory when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct PrivateKey([u8; 32]);

impl PrivateKey {
    fn random() -> Self {
        Self(rand::random())
    }

    /// The half that others may know.
    pub fn public(&self) -> FabricKey {
        FabricKey(PublicKey::from(&self.secret()).to_bytes())
    }

    pub(super) fn secret(&self) -> StaticSecret {
        StaticSecret::from(self.0)
    }

    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PrivateKey(of {})", self.public())
    }
}

impl Serialize for PrivateKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for PrivateKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = BASE64.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
        // The text is a secret, also where it is wrong.
        bytes.map(Self).ok_or_else(|| serde::de::Error::custom("not a key: 32 bytes in base64"))
    }
}

/// A key and when it was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Made {
    private: PrivateKey,
    at: UnixMillis,
}

/// This node's keys, newest last, never empty: one, and while a new one takes over, the one before it.
///
/// ```text
/// new key    both are announced, and both are answered to        0
/// half       a tunnel that has one key at a time takes the new   OVERLAP / 2
/// overlap    the new one alone is announced                      OVERLAP
/// grace      the old one is forgotten                            OVERLAP + GRACE
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keys {
    keys: Vec<Made>,
    /// How often an operator had asked for a new key when the newest one was made.
    turn: u64,
}

impl Keys {
    /// The keys in `dir`; made there if there are none. Errors: the file is damaged, or cannot be read or written.
    pub fn load_or_make(dir: &Path, now: UnixMillis) -> anyhow::Result<Self> {
        let path = dir.join(FILE);
        let bytes = disk::read(&path, SIZE_MAX).with_context(|| format!("reading `{}`", path.display()))?;
        let Some(bytes) = bytes else {
            let keys = Self { keys: vec![Made { private: PrivateKey::random(), at: now }], turn: 0 };
            keys.save(dir)?;
            return Ok(keys);
        };
        let keys: Option<Self> = serde_json::from_slice(&bytes).ok();
        keys.filter(|keys| !keys.keys.is_empty()).with_context(|| {
            format!("`{}` is damaged; remove it, and new keys are made and made known", path.display())
        })
    }

    fn save(&self, dir: &Path) -> anyhow::Result<()> {
        let path = dir.join(FILE);
        let bytes = zeroize::Zeroizing::new(serde_json::to_vec(self)?);
        disk::write(&path, &bytes, 0o600).context("saving the keys of the encrypted links")
    }

    /// Removes the file. Errors: it is there and cannot be removed.
    pub fn erase(dir: &Path) -> anyhow::Result<()> {
        disk::remove(&dir.join(FILE)).context("removing the keys of the encrypted links")
    }

    /// The halves that the others are told, newest last.
    pub fn announced(&self, now: UnixMillis) -> Vec<FabricKey> {
        let mut all: Vec<_> = self.keys.iter().map(|key| key.private.public()).collect();
        if self.age_ms(now) >= OVERLAP_MS {
            all.drain(..all.len().saturating_sub(1));
        }
        all
    }

    #[cfg(test)]
    pub(super) fn all_public(&self) -> Vec<FabricKey> {
        self.announced(self.newest())
    }

    /// The keys, newest last.
    pub fn private(&self) -> Vec<PrivateKey> {
        self.keys.iter().map(|key| key.private.clone()).collect()
    }

    /// Which of them is the one of a tunnel that has one at a time.
    pub fn alone(&self, now: UnixMillis) -> usize {
        let newest = self.keys.len().saturating_sub(1);
        if self.age_ms(now) >= OVERLAP_MS / 2 { newest } else { newest.saturating_sub(1) }
    }

    /// Does what is due: makes a new key if the newest is old or an operator has asked for one (`turn` times by now),
    /// forgets the one before it in its time. On disk when it returns. Answers whether keys came or went.
    pub fn follow(&mut self, dir: &Path, now: UnixMillis, turn: u64) -> anyhow::Result<bool> {
        let mut next = self.clone();
        let (age, settled) = (self.age_ms(now), self.keys.len() == 1);
        if settled && (turn > self.turn || age >= LIFE_MS) {
            next.keys.push(Made { private: PrivateKey::random(), at: now });
            next.turn = turn.max(self.turn);
        } else if !settled && age >= OVERLAP_MS + GRACE_MS {
            next.keys.drain(..next.keys.len() - 1);
        } else {
            return Ok(false);
        }
        next.save(dir)?;
        *self = next;
        Ok(true)
    }

    /// How long until something changes by itself.
    pub fn next_in(&self, now: UnixMillis) -> Duration {
        let age = self.age_ms(now);
        let steps = match self.keys.len() {
            1 => [LIFE_MS; 3],
            _ => [OVERLAP_MS / 2, OVERLAP_MS, OVERLAP_MS + GRACE_MS],
        };
        let next = steps.into_iter().find(|step| *step > age).unwrap_or(age);
        Duration::from_millis(next - age)
    }

    fn newest(&self) -> UnixMillis {
        self.keys.last().map(|key| key.at).unwrap_or_default()
    }

    fn age_ms(&self, now: UnixMillis) -> u64 {
        now.0.saturating_sub(self.newest().0)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use data_encoding::HEXLOWER;

    use super::{
        super::spec::{Order, TunnelSpec},
        *,
    };

    #[test]
    fn keys_stay_and_are_for_root_alone() {
        let dir = tempfile::tempdir().unwrap();
        let mut keys = Keys::load_or_make(dir.path(), UnixMillis(5)).unwrap();
        assert_eq!(Keys::load_or_make(dir.path(), UnixMillis(9)).unwrap(), keys);
        let path = dir.path().join(FILE);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(keys.all_public().len(), 1);
        assert!(!keys.follow(dir.path(), UnixMillis(6), 0).unwrap(), "nothing is due");
    }

    #[test]
    fn a_new_key_takes_over_step_by_step() {
        let dir = tempfile::tempdir().unwrap();
        let mut keys = Keys::load_or_make(dir.path(), UnixMillis(0)).unwrap();
        let old = keys.all_public()[0];
        assert_eq!(keys.next_in(UnixMillis(5)).as_millis() as u64, LIFE_MS - 5);
        assert!(keys.follow(dir.path(), UnixMillis(5), 1).unwrap());
        assert_eq!(Keys::load_or_make(dir.path(), UnixMillis(9)).unwrap(), keys);
        let new = keys.all_public()[1];
        let at = |ms: u64| UnixMillis(5 + ms);
        let mut steps = Vec::new();
        for ms in [0, OVERLAP_MS / 2, OVERLAP_MS, OVERLAP_MS + GRACE_MS] {
            keys.follow(dir.path(), at(ms), 1).unwrap();
            steps.push((keys.announced(at(ms)), keys.private().len(), keys.alone(at(ms))));
        }
        let both = vec![old, new];
        assert_eq!(steps, [(both.clone(), 2, 0), (both, 2, 1), (vec![new], 2, 1), (vec![new], 1, 0)]);
        assert!(!keys.follow(dir.path(), at(OVERLAP_MS * 2), 1).unwrap(), "asked for once");
        assert!(keys.follow(dir.path(), at(LIFE_MS), 1).unwrap(), "of age");
    }

    #[test]
    fn waits_end_when_something_changes() {
        let dir = tempfile::tempdir().unwrap();
        let mut keys = Keys::load_or_make(dir.path(), UnixMillis(0)).unwrap();
        keys.follow(dir.path(), UnixMillis(0), 1).unwrap();
        let mut now = UnixMillis(0);
        for step in [OVERLAP_MS / 2, OVERLAP_MS, OVERLAP_MS + GRACE_MS] {
            now.0 += keys.next_in(now).as_millis() as u64;
            assert_eq!(now.0, step);
        }
    }

    #[test]
    fn a_private_key_is_not_shown() {
        let key = PrivateKey::random();
        let keys = Keys { keys: vec![Made { private: key.clone(), at: UnixMillis(1) }], turn: 0 };
        let spec = TunnelSpec {
            listen: "0.0.0.0:7239".parse().unwrap(),
            address: "10.64.0.1".parse().unwrap(),
            keys: keys.private(),
            alone: 0,
            peers: Vec::new(),
        };
        let order = Order::Set(spec.clone());
        let shown = format!("{key:?} {key:#?} {keys:?} {keys:#?} {spec:?} {spec:#?} {order:?} {order:#?}");
        assert!(shown.contains(&key.public().to_string()), "{shown}");
        let compact: String = shown.to_lowercase().split_whitespace().collect();
        let decimal: Vec<String> = key.0.iter().map(u8::to_string).collect();
        for form in [BASE64.encode(&key.0), HEXLOWER.encode(&key.0), decimal.join(",")] {
            assert!(!compact.contains(&form.to_lowercase()[..12]), "{shown}");
        }
    }

    #[test]
    fn damaged_keys_are_not_replaced_in_silence() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), "{\"keys\":[]}").unwrap();
        let error = Keys::load_or_make(dir.path(), UnixMillis(1)).unwrap_err();
        assert!(error.to_string().contains("damaged"), "{error}");
    }
}
