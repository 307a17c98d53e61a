//! The string that lets a node join.
//!
//! `RAFTUP-1-` and then base 32 of: role, digest of the CA's certificate, secret, manager addresses, and a checksum
//! over all of it and the version, so that a token that was cut short is told from a wrong one. The number after the
//! name is the version. The alphabet has no letters that are easily taken for digits, and case does not matter.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use sha2::{Digest, Sha256};

use crate::{peer::Role, refusal::Code, refusal::Refusal};

/// The version that is written; only this one is read.
const VERSION: u8 = 1;

/// What every token begins with, whatever its version.
const NAME: &str = "RAFTUP-";

/// Most manager addresses that a token carries, so that it stays one line.
pub const MAX_MANAGERS: usize = 3;

/// Bytes of the checksum at the end: an accident passes it once in four billion times.
const CHECKSUM_BYTES: usize = 4;

/// Crockford's base 32, without the letters i, l, o and u.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// What a node needs to join: whom to ask, how to know them, and the right to be admitted.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of the CA's certificate, DER; a manager is believed only with a certificate of this CA.
    pub ca_digest: [u8; 32],
    /// What the node will be.
    pub role: Role,
    /// The right to be admitted.
    pub secret: [u8; 16],
    /// Where managers are asked, at most [`MAX_MANAGERS`]; more are left out when it is printed.
    pub managers: Vec<SocketAddr>,
}

/// A text that is not a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadToken {
    /// It does not begin like one.
    #[error("not a raftup token")]
    NotAToken,
    /// It begins like one, but characters are missing or wrong.
    #[error("token is damaged or cut short")]
    Damaged,
    /// It is of a version that this program does not know.
    #[error("token is of version {version}, this program reads version {VERSION}")]
    Newer {
        /// Its version.
        version: u32,
    },
}

impl From<BadToken> for Refusal {
    fn from(bad: BadToken) -> Self {
        let hint = match bad {
            BadToken::NotAToken => {
                "a token begins with `RAFTUP-1-`; `raftup token` on a manager prints the current ones"
            }
            BadToken::Damaged => "copy the whole line that `raftup token` prints on a manager",
            BadToken::Newer { .. } => "install the raftup version that the cluster's managers run",
        };
        Self::new(Code::Invalid, bad).hint(hint)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("role", &self.role)
            .field("managers", &self.managers)
            .field("secret", &"..")
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(128);
        bytes.push(match self.role {
            Role::Manager => 1,
            Role::Worker => 2,
        });
        bytes.extend_from_slice(&self.ca_digest);
        bytes.extend_from_slice(&self.secret);
        for manager in self.managers.iter().take(MAX_MANAGERS) {
            write_address(&mut bytes, *manager);
        }
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        f.write_str(NAME)?;
        write!(f, "{VERSION}-{}", write_base32(&bytes))
    }
}

impl FromStr for Token {
    type Err = BadToken;

    fn from_str(text: &str) -> Result<Self, BadToken> {
        let body = strip_version(text.trim())?;
        let bytes = read_base32(body).ok_or(BadToken::Damaged)?;
        let at = bytes.len().checked_sub(CHECKSUM_BYTES).ok_or(BadToken::Damaged)?;
        let (bytes, sum) = bytes.split_at(at);
        if checksum(bytes) != *sum {
            return Err(BadToken::Damaged);
        }
        parse(bytes).ok_or(BadToken::Damaged)
    }
}

/// What follows the name and a known version.
fn strip_version(text: &str) -> Result<&str, BadToken> {
    let named = text.get(..NAME.len()).is_some_and(|start| start.eq_ignore_ascii_case(NAME));
    if !named {
        // A beginning of the name is a token that was cut very short.
        let cut = !text.is_empty() && NAME.get(..text.len()).is_some_and(|n| n.eq_ignore_ascii_case(text));
        return Err(if cut { BadToken::Damaged } else { BadToken::NotAToken });
    }
    let (version, body) = text[NAME.len()..].split_once('-').ok_or(BadToken::Damaged)?;
    match version.parse::<u32>() {
        Ok(version) if version == u32::from(VERSION) => Ok(body),
        Ok(version) if version > u32::from(VERSION) => Err(BadToken::Newer { version }),
        Ok(_) | Err(_) => Err(BadToken::Damaged),
    }
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut hash = Sha256::new();
    hash.update([VERSION]);
    hash.update(bytes);
    let digest = hash.finalize();
    std::array::from_fn(|i| digest[i])
}

fn parse(bytes: &[u8]) -> Option<Token> {
    let (role, rest) = bytes.split_first()?;
    let role = match role {
        1 => Role::Manager,
        2 => Role::Worker,
        _ => return None,
    };
    let (ca_digest, rest) = rest.split_first_chunk()?;
    let (secret, mut rest) = rest.split_first_chunk()?;
    let mut managers = Vec::new();
    while !rest.is_empty() {
        let (manager, after) = read_address(rest)?;
        managers.push(manager);
        rest = after;
    }
    if managers.len() > MAX_MANAGERS {
        return None;
    }
    Some(Token { ca_digest: *ca_digest, role, secret: *secret, managers })
}

fn write_address(bytes: &mut Vec<u8>, address: SocketAddr) {
    match address.ip() {
        IpAddr::V4(ip) => {
            bytes.push(4);
            bytes.extend_from_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            bytes.push(6);
            bytes.extend_from_slice(&ip.octets());
        }
    }
    bytes.extend_from_slice(&address.port().to_be_bytes());
}

fn read_address(bytes: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let (family, rest) = bytes.split_first()?;
    let (ip, rest) = match family {
        4 => rest.split_first_chunk::<4>().map(|(ip, rest)| (IpAddr::from(*ip), rest))?,
        6 => rest.split_first_chunk::<16>().map(|(ip, rest)| (IpAddr::from(*ip), rest))?,
        _ => return None,
    };
    let (port, rest) = rest.split_first_chunk()?;
    Some((SocketAddr::new(ip, u16::from_be_bytes(*port)), rest))
}

fn write_base32(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(5) * 8);
    let (mut held, mut bits) = (0_u32, 0_u32);
    for byte in bytes {
        held = (held << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(ALPHABET[(held >> bits) as usize & 31]));
        }
    }
    if bits > 0 {
        text.push(char::from(ALPHABET[(held << (5 - bits)) as usize & 31]));
    }
    text
}

/// None: another character, or bits left over that are not zero.
fn read_base32(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len() * 5 / 8);
    let (mut held, mut bits) = (0_u32, 0_u32);
    for byte in text.bytes() {
        let value = ALPHABET.iter().position(|letter| *letter == byte.to_ascii_uppercase())?;
        held = (held << 5) | u32::try_from(value).ok()?;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from((held >> bits) & 0xff).ok()?);
        }
    }
    (bits < 5 && held & ((1 << bits) - 1) == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn token() -> Token {
        Token {
            ca_digest: std::array::from_fn(|i| i as u8),
            role: Role::Worker,
            secret: [0xa5; 16],
            managers: vec!["10.1.2.3:7238".parse().unwrap(), "[fd00::7]:99".parse().unwrap()],
        }
    }

    #[test]
    fn a_token_is_one_word_and_reads_back() {
        let text = token().to_string();
        assert!(text.starts_with("RAFTUP-1-"), "{text}");
        assert!(!text.contains(char::is_whitespace));
        assert_eq!(text.parse(), Ok(token()));
        assert_eq!(format!("  {}\n", text.to_lowercase()).parse(), Ok(token()));
    }

    #[test]
    fn every_cut_and_every_typing_error_is_damage() {
        let text = token().to_string();
        for length in 1..text.len() {
            assert_eq!(text[..length].parse::<Token>(), Err(BadToken::Damaged), "first {length} characters");
        }
        for place in "RAFTUP-1-".len()..text.len() {
            for other in ALPHABET {
                let mut wrong = text.clone().into_bytes();
                if wrong[place] == *other {
                    continue;
                }
                wrong[place] = *other;
                let wrong = String::from_utf8(wrong).unwrap();
                assert_eq!(wrong.parse::<Token>(), Err(BadToken::Damaged), "{wrong}");
            }
        }
    }

    #[test]
    fn other_texts_say_what_they_are() {
        for text in ["", "SWMTKN-1-abc", "hello", "RAFTER-1-0"] {
            assert_eq!(text.parse::<Token>(), Err(BadToken::NotAToken), "{text}");
        }
        assert_eq!("RAFTUP-2-00".parse::<Token>(), Err(BadToken::Newer { version: 2 }));
        for text in ["RAFTUP-0-00", "RAFTUP-x-00", "RAFTUP-1-", "RAFTUP-1-0!"] {
            assert_eq!(text.parse::<Token>(), Err(BadToken::Damaged), "{text}");
        }
    }

    #[test]
    fn the_secret_stays_out_of_debug_output() {
        assert!(!format!("{:?}", token()).contains("165"), "{:?}", token());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(RAFTUP-1-)?[0-9A-Za-z\\-]{0,200}|.{0,60}") {
            let _ = text.parse::<Token>();
        }

        #[test]
        fn any_token_reads_back(digest: [u8; 32], secret: [u8; 16], ip: [u8; 4], port: u16, count in 0_usize..=3) {
            let managers = vec![SocketAddr::from((ip, port)); count];
            let token = Token { ca_digest: digest, role: Role::Manager, secret, managers };
            prop_assert_eq!(token.to_string().parse(), Ok(token));
        }
    }
}
