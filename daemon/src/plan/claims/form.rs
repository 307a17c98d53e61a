//! Form of what a node says of itself: characters, sizes, addresses that no host can have.

use std::net::{IpAddr, Ipv4Addr};

use raftup_proto::{peer::NodeInfo, printable};

/// Longest host name, in bytes (RFC 1035, 2.3.4).
pub(super) const HOSTNAME_MAX: usize = 253;

/// Most engine labels of a node.
pub(super) const LABELS_MAX: usize = 64;

/// Most kinds of generic resources of a node.
const KINDS_MAX: usize = 64;

/// Longest key and value of an engine label, in bytes.
const LABEL_MAX: (usize, usize) = (63, 255);

/// Most published ports that a node may say it does not answer on.
const DEAF_MAX: usize = 1024;

/// Most WireGuard keys: one, two while a new one takes over, and some to spare.
pub(super) const KEYS_MAX: usize = 4;

/// Longest of the short texts: versions, operating system, architecture; in bytes.
const TEXT_MAX: usize = 128;

/// Longest message of a task's status, in bytes.
pub const MESSAGE_MAX: usize = 1024;

/// How much of a refused text is shown.
const SHOWN_MAX: usize = 64;

/// Whether a terminal shows the character as itself. Joiners and soft hyphens, which text in logs may have, are invisible
/// here, where two texts must not look alike.
fn is_shown(letter: char) -> bool {
    !printable::is_active(letter) && !matches!(letter, '\u{ad}' | '\u{200c}' | '\u{200d}')
}

/// The text as one line that is safe on a terminal, at most `max` bytes long; what does not fit is cut off.
pub fn clean(text: &str, max: usize) -> String {
    // A replacement is never longer than what it replaces.
    let letters = text.chars().map(|letter| if is_shown(letter) { letter } else { ' ' });
    let mut clean = String::new();
    for letter in letters {
        if clean.len() + letter.len_utf8() > max {
            break;
        }
        clean.push(letter);
    }
    clean
}

/// A host name that passes the checks, from whatever the kernel says: other characters become `-`.
pub fn usable_hostname(text: &str) -> String {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.');
    let name: String = text.chars().map(|letter| if fits(letter) { letter } else { '-' }).collect();
    let name = name.trim_matches(|letter: char| !letter.is_ascii_alphanumeric());
    let name: String = name.chars().take(HOSTNAME_MAX).collect();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

/// Troubles of a node that are kept, and the longest of them.
const TROUBLES_MAX: usize = 4;
pub(super) const TROUBLE_MAX: usize = 256;

/// The claims cut to what has to be kept for [`super::update`]: a part that is too large stays too large, and no more.
pub fn bounded(claim: NodeInfo) -> NodeInfo {
    // A letter has up to four bytes, so what is cut is still too long.
    let cut = |text: String, max: usize| {
        let end = (max + 1..=max + 4).find(|end| text.is_char_boundary(*end));
        end.and_then(|end| text.get(..end)).map(str::to_owned).unwrap_or(text)
    };
    let NodeInfo { mut fabric_keys, mut platform, mut deaf, mut troubles, .. } = claim;
    troubles.truncate(TROUBLES_MAX);
    let troubles = troubles.into_iter().map(|trouble| cut(trouble, TROUBLE_MAX)).collect();
    fabric_keys.truncate(KEYS_MAX + 1);
    fabric_keys.shrink_to_fit();
    deaf.truncate(DEAF_MAX);
    deaf.shrink_to_fit();
    platform.engine_labels.truncate(LABELS_MAX + 1);
    let label_max = LABEL_MAX.0 + 1 + LABEL_MAX.1;
    platform.engine_labels = platform.engine_labels.into_iter().map(|label| cut(label, label_max)).collect();
    let kinds = std::mem::take(&mut platform.generic).into_iter().take(KINDS_MAX);
    platform.generic = kinds.map(|(kind, count)| (cut(kind, LABEL_MAX.0), count)).collect();
    platform.os = cut(platform.os, TEXT_MAX);
    platform.arch = cut(platform.arch, TEXT_MAX);
    platform.kernel = cut(platform.kernel, TEXT_MAX);
    platform.engine = platform.engine.map(|engine| cut(engine, TEXT_MAX));
    NodeInfo {
        hostname: cut(claim.hostname, HOSTNAME_MAX),
        version: cut(claim.version, TEXT_MAX),
        fabric_keys,
        platform,
        deaf,
        troubles,
        ..claim
    }
}

/// The key of a label that can be kept. Errors: why it cannot.
pub(super) fn label_key(label: &str) -> Result<&str, String> {
    let (key, value) = label.split_once('=').unwrap_or((label, ""));
    let (key_max, value_max) = LABEL_MAX;
    Err(if key.is_empty() {
        "it has no key".to_owned()
    } else if key.len() > key_max {
        format!("its key is longer than {key_max} bytes")
    } else if value.len() > value_max {
        format!("its value is longer than {value_max} bytes")
    } else if !label.chars().all(is_shown) {
        "it has a control character".to_owned()
    } else if key.chars().any(char::is_whitespace) {
        "its key has a space".to_owned()
    } else {
        return Ok(key);
    })
}

/// The kind of a generic resource can be kept.
pub(super) fn kind_fits(kind: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
    !kind.is_empty() && kind.len() <= LABEL_MAX.0 && kind.bytes().all(fits)
}

pub(super) fn shown(text: &str) -> String {
    clean(text, SHOWN_MAX)
}

pub(super) fn hostname(name: &str) -> Result<(), String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let wrong = |reason: &str| Err(format!("host name `{}` {reason}", shown(name)));
    match name.as_bytes() {
        [] => Err("its host name is empty".to_owned()),
        bytes if bytes.len() > HOSTNAME_MAX => wrong("is longer than 253 characters"),
        bytes if !bytes.iter().copied().all(fits) => {
            wrong("has other characters than letters, digits, `-`, `_` and `.`")
        }
        [b'-' | b'.', ..] => wrong("must begin with a letter or a digit"),
        _ => Ok(()),
    }
}

/// The word for an operating system or an architecture; empty where it is not known.
pub(super) fn system(word: &str) -> Result<(), String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'/');
    match word {
        word if word.len() > 32 => Err(format!("`{}` is longer than 32 characters", shown(word))),
        word if !word.bytes().all(fits) => Err(format!("`{}` is no word", shown(word))),
        _ => Ok(()),
    }
}

pub(super) fn short(what: &str, text: &str) -> Result<(), String> {
    match text {
        text if text.len() > TEXT_MAX => {
            Err(format!("{what} `{}..` is longer than {TEXT_MAX} bytes", shown(text)))
        }
        text if !text.chars().all(is_shown) => {
            Err(format!("{what} `{}` has a control character", shown(text)))
        }
        _ => Ok(()),
    }
}

/// Why no node can be reached at the address.
pub(super) fn unusable(address: IpAddr) -> Option<&'static str> {
    match address {
        address if address.is_unspecified() => Some("is no address"),
        address if address.is_multicast() => Some("is a multicast address"),
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some("is the broadcast address"),
        IpAddr::V4(address) if address.octets()[0] == 0 => Some("is no address of a host"),
        IpAddr::V6(address) if address.to_ipv4_mapped().is_some() => Some("is an IPv4 address within IPv6"),
        IpAddr::V6(address) if address.is_unicast_link_local() => Some("is valid on one link only"),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}
