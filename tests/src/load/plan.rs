//! What to send, where, how often.

use std::{
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};

/// How requests use connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// HTTP, a new connection for each request.
    Fresh,
    /// HTTP, connections are kept and used again, as many as it takes.
    Keepalive,
    /// A datagram there and one back.
    Udp,
    /// A question for the address of a name, over UDP.
    Dns,
}

/// One run of load.
#[derive(Clone, Debug, Args)]
pub struct Plan {
    /// Where to: `http://10.99.0.11:8080/path`, host:port for UDP, or host:port/name for DNS; used in turn. Only addresses
    /// of labs, and of clusters in them.
    #[arg(long = "target", required = true)]
    pub targets: Vec<String>,
    /// Requests a second, over all targets.
    #[arg(long, default_value_t = 100.0)]
    pub rate: f64,
    /// How long, in seconds.
    #[arg(long = "duration", default_value_t = 10.0)]
    pub duration_s: f64,
    /// How connections are used.
    #[arg(long, value_enum, default_value_t = Mode::Fresh)]
    pub mode: Mode,
    /// When a request counts as lost, in seconds.
    #[arg(long = "timeout", default_value_t = 5.0)]
    pub timeout_s: f64,
    /// End early when standard input is closed, but after 100 requests at least.
    #[arg(long)]
    pub until_eof: bool,
}

impl Plan {
    /// A plan with the defaults of the command line.
    #[must_use]
    pub fn new(mode: Mode, targets: &[String], rate: f64, duration: Duration) -> Self {
        let duration_s = duration.as_secs_f64();
        Self { targets: targets.to_vec(), rate, duration_s, mode, timeout_s: 5.0, until_eof: false }
    }

    /// The words of the command line that mean this plan.
    #[must_use]
    pub fn to_args(&self) -> Vec<String> {
        let mode = match self.mode {
            Mode::Fresh => "fresh",
            Mode::Keepalive => "keepalive",
            Mode::Udp => "udp",
            Mode::Dns => "dns",
        };
        let mut words = vec![format!("--rate={}", self.rate), format!("--duration={}", self.duration_s)];
        words.extend([format!("--mode={mode}"), format!("--timeout={}", self.timeout_s)]);
        words.extend(self.targets.iter().map(|target| format!("--target={target}")));
        if self.until_eof {
            words.push("--until-eof".into());
        }
        words
    }

    /// The targets, checked. Errors: one is no lab's, or the numbers make no sense.
    pub(crate) fn resolve(&self) -> anyhow::Result<Vec<Target>> {
        ensure!(self.rate > 0.0 && self.rate <= 100_000.0, "a rate of {} a second makes no sense", self.rate);
        ensure!(self.duration_s > 0.0 && self.timeout_s > 0.0, "times must be above zero");
        self.targets.iter().map(|text| Target::parse(text)).collect()
    }
}

/// One place to ask.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// As it was given.
    pub(crate) name: String,
    pub(crate) addr: SocketAddr,
    /// With the leading slash.
    pub(crate) path: String,
}

impl Target {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let rest = text.strip_prefix("http://").unwrap_or(text);
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let with_port =
            if authority.contains(':') { authority.to_owned() } else { format!("{authority}:80") };
        let mut found = with_port.to_socket_addrs().with_context(|| format!("target `{text}`"))?;
        let addr =
            found.find(SocketAddr::is_ipv4).with_context(|| format!("target `{text}` has no address"))?;
        if !is_of_a_lab(addr.ip()) {
            bail!("target `{text}` is not in a lab (10.99.0.0/16, 10.64.0.0/11) nor on this host");
        }
        Ok(Self { name: text.to_owned(), addr, path: format!("/{path}") })
    }
}

fn is_of_a_lab(addr: IpAddr) -> bool {
    match addr {
        // The machine itself reaches no cluster of a lab: containers there have its addresses.
        IpAddr::V4(addr) => addr.is_loopback() || matches!(addr.octets(), [10, 99, ..] | [10, 64..=95, ..]),
        IpAddr::V6(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labs_are_targets() {
        let check = |text: &str| Target::parse(text).map(|target| (target.addr.to_string(), target.path));
        assert_eq!(
            check("http://10.99.4.11:8080/slow?ms=5").unwrap(),
            ("10.99.4.11:8080".into(), "/slow?ms=5".into())
        );
        assert_eq!(check("http://127.0.0.1").unwrap(), ("127.0.0.1:80".into(), "/".into()));
        assert_eq!(check("10.64.32.1:53/web").unwrap(), ("10.64.32.1:53".into(), "/web".into()));
        for outside in ["http://192.0.2.1:80/", "10.98.0.1:80", "8.8.8.8:53"] {
            assert!(check(outside).unwrap_err().to_string().contains("not in a lab"), "{outside}");
        }
    }
}
