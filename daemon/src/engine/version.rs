//! The engine's version, and what depends on it; pure.
//!
//! | engine | what differs for us |
//! | --- | --- |
//! | 20.10 to 26 | networks have no gateway mode; a container is created on one network |
//! | 27 | gateway modes `nat` and `routed`; any other is refused |
//! | 28 | `nat-unprotected`; other modes drop packets from other hosts before any rule of ours |
//! | 29 | API 1.44 at least; with `"firewall-backend": "nftables"` no `iptables`, no chain `DOCKER-USER`, and networks are refused while the kernel does not forward |
//!
//! Source: release notes of the engine, "Docker with nftables" in its manual.

use std::fmt;

/// Major and minor version of an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Such as 27 of 27.5.1.
    pub major: u32,
    /// Such as 5 of 27.5.1.
    pub minor: u32,
}

/// Oldest engine that the tests run on.
pub const OLDEST: Version = Version { major: 20, minor: 10 };

/// First engine with [`UNPROTECTED`], and that needs it.
const GATEWAY_MODES: Version = Version { major: 28, minor: 0 };

/// Gateway mode of networks that other hosts may send to.
pub(super) const UNPROTECTED: &str = "nat-unprotected";

impl Version {
    /// Reads a version such as `27.5.1` or `20.10.24+dfsg1`. None for builds without a number, such as `dev`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split(['.', '+', '-', '~']).map_while(|part| part.parse::<u32>().ok());
        let (major, minor) = (numbers.next()?, numbers.next()?);
        // A build from no release says `0.0.0-` and a date.
        (major > 0).then_some(Self { major, minor })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The gateway mode that a network needs with an engine of this version, if any. A version that is not known is taken
/// for a new one.
pub(super) fn gateway_mode(version: Option<Version>) -> Option<&'static str> {
    version.is_none_or(|version| version >= GATEWAY_MODES).then_some(UNPROTECTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_packages_are_read() {
        let version = |major, minor| Some(Version { major, minor });
        for (text, expected) in [
            ("20.10.24+dfsg1", version(20, 10)),
            ("26.1.5+dfsg1", version(26, 1)),
            ("27.5.1-0ubuntu3~24.04.2", version(27, 5)),
            ("29.0.0-rc.1", version(29, 0)),
            ("dev", None),
            ("0.0.0-20250131101010-abcdef", None),
            ("", None),
        ] {
            assert_eq!(Version::parse(text), expected, "{text}");
        }
    }
}
