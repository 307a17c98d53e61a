//! Sizes, CPU shares and times with their unit in the type.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// An amount of memory, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemBytes(pub u64);

/// An amount of CPU time, in thousandths of a core.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CpuMillis(pub u64);

/// A point of wall-clock time, in milliseconds since 1970-01-01 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// The time from `earlier` to this one; zero if the clock went backwards.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// This time and `later` more.
    pub fn plus(self, later: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(later.as_millis()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for MemBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const STEPS: [(&str, u64); 4] =
            [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match STEPS.iter().find(|(_, size)| self.0 >= *size) {
            Some((unit, size)) if self.0.is_multiple_of(*size) => f.pad(&format!("{}{unit}", self.0 / size)),
            Some((unit, size)) => {
                let tenths = self.0.saturating_mul(10) / size;
                f.pad(&format!("{}.{}{unit}", tenths / 10, tenths % 10))
            }
            None => f.pad(&format!("{}B", self.0)),
        }
    }
}

impl fmt::Display for CpuMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 % 1000 {
            0 => f.pad(&format!("{}", self.0 / 1000)),
            rest => f.pad(format!("{}.{rest:03}", self.0 / 1000).trim_end_matches('0')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_print_for_people() {
        assert_eq!(MemBytes(512).to_string(), "512B");
        assert_eq!(MemBytes(64 << 20).to_string(), "64MiB");
        assert_eq!(MemBytes(3 << 29).to_string(), "1.5GiB");
        assert_eq!(CpuMillis(2000).to_string(), "2");
        assert_eq!(CpuMillis(1500).to_string(), "1.5");
    }
}
