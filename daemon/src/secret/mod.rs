//! Sealing at rest.
//!
//! XChaCha20-Poly1305 with a random nonce. Each sealed value is bound to a context, such as `ca-key`, so that one
//! cannot be put in the place of another.

use chacha20poly1305::{
    XChaCha20Poly1305, XNonce,
    aead::{Aead, KeyInit, Payload},
};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// First byte of what [`seal`] makes; only this version is read.
const VERSION: u8 = 1;

/// Bytes of the nonce after it.
const NONCE_BYTES: usize = 24;

/// A key that seals and unseals; forgotten from memory when dropped.
#[derive(Clone, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct Key([u8; 32]);

impl Key {
    /// A key drawn at random.
    pub fn generate() -> Self {
        Self(rand::random())
    }

    /// The key with these bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes, to be handed to another manager or kept in a file for root alone.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// A sealed value that was changed, is of another context, or was sealed with another key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("sealed value does not open: another key, another context, or damaged")]
pub struct Unsealable;

/// Seals `plain`; it opens with the same key and context alone. Two seals of the same value differ.
pub fn seal(key: &Key, context: &str, plain: &[u8]) -> Vec<u8> {
    let nonce: [u8; NONCE_BYTES] = rand::random();
    let sealed = cipher(key)
        .encrypt(&XNonce::from(nonce), Payload { msg: plain, aad: context.as_bytes() })
        .expect("fails only above 256 GiB");
    [&[VERSION][..], &nonce, &sealed].concat()
}

/// What was sealed.
pub fn open(key: &Key, context: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unsealable> {
    let (version, rest) = sealed.split_first().ok_or(Unsealable)?;
    let (nonce, body) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(Unsealable)?;
    if *version != VERSION {
        return Err(Unsealable);
    }
    let payload = Payload { msg: body, aad: context.as_bytes() };
    cipher(key).decrypt(&XNonce::from(*nonce), payload).map(Zeroizing::new).map_err(|_| Unsealable)
}

fn cipher(key: &Key) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&key.0.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_opens_with_its_key_and_context_alone() {
        let key = Key::generate();
        let sealed = seal(&key, "ca-key", b"secret");
        assert_eq!(&**open(&key, "ca-key", &sealed).unwrap(), b"secret");
        assert_ne!(sealed, seal(&key, "ca-key", b"secret"));
        assert_eq!(open(&key, "tokens", &sealed), Err(Unsealable));
        assert_eq!(open(&Key::generate(), "ca-key", &sealed), Err(Unsealable));
        for place in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[place] ^= 1;
            assert_eq!(open(&key, "ca-key", &changed), Err(Unsealable), "byte {place}");
            assert_eq!(open(&key, "ca-key", &sealed[..place]), Err(Unsealable), "first {place} bytes");
        }
        assert_eq!(format!("{key:?}"), "Key(..)");
    }
}
