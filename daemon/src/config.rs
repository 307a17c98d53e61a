//! What the daemon is told: flags, then `RAFTUP_*` variables, then one TOML file, then defaults.
//!
//! The only reader of the file and the environment. A [`Config`] is checked once and does not change.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use clap::{Args, ValueEnum};
use raftup_proto::view::{PLAIN_PORT, WIRE_PORT};
use serde::Deserialize;

/// UDP port between nodes for everything but container traffic.
pub const CONTROL_PORT: u16 = 7238;
/// UDP port between nodes for container traffic.
pub const FABRIC_PORT: u16 = 7239;

/// A manager that cannot be reached is told of once; Raft would warn of each heartbeat.
const LOG: &str = "info,openraft=error";

/// One small daemon beside the Docker Engine of each server.
#[derive(Clone, Debug, Default, Args, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// TOML file with any of these settings, by their long name [default: /etc/raftup/raftupd.toml, if there]
    #[arg(long, env = "RAFTUP_CONFIG")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Directory of everything that must survive a restart [default: /var/lib/raftup]
    #[arg(long, env = "RAFTUP_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Directory of the API socket [default: /run/raftup]
    #[arg(long, env = "RAFTUP_RUN_DIR")]
    pub run_dir: Option<PathBuf>,
    /// Socket of the Docker Engine [default: unix:///var/run/docker.sock]
    #[arg(long, env = "RAFTUP_DOCKER_HOST")]
    pub docker_host: Option<String>,
    /// Address and UDP port to listen on for other nodes [default: 0.0.0.0:7238]
    #[arg(long, env = "RAFTUP_LISTEN_ADDR")]
    pub listen_addr: Option<SocketAddr>,
    /// Address that other nodes reach this one at [default: that of the interface with the default route]
    #[arg(long, env = "RAFTUP_ADVERTISE_ADDR")]
    pub advertise_addr: Option<IpAddr>,
    /// UDP port of container traffic between nodes [default: 7239]
    #[arg(long, env = "RAFTUP_FABRIC_PORT")]
    pub fabric_port: Option<u16>,
    /// Group that may use the API socket, if it exists [default: raftup]
    #[arg(long, env = "RAFTUP_GROUP")]
    pub group: Option<String>,
    /// What is logged, such as `info` or `info,raftup_daemon::agent=debug` [default: info,openraft=error]
    #[arg(long, env = "RAFTUP_LOG")]
    pub log: Option<String>,
    /// How it is logged [default: text]
    #[arg(long, env = "RAFTUP_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The checked settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Directory of everything that must survive a restart.
    pub data_dir: PathBuf,
    /// Directory of the API socket.
    pub run_dir: PathBuf,
    /// Path of the Docker Engine's socket.
    pub docker_socket: PathBuf,
    /// Where the control port listens.
    pub listen: SocketAddr,
    /// Address that other nodes reach this one at, if it was given.
    pub advertise: Option<IpAddr>,
    /// UDP port of container traffic between nodes.
    pub fabric_port: u16,
    /// Group that may use the API socket.
    pub group: String,
    /// Filter of log lines.
    pub log: String,
    /// How log lines look.
    pub log_format: LogFormat,
}

/// The file that is read if none is named and it is there.
const DEFAULT_FILE: &str = "/etc/raftup/raftupd.toml";

impl Config {
    /// Reads the file that the flags name and puts everything together.
    ///
    /// Errors: the file cannot be read, has unknown keys, or a value makes no sense.
    pub fn load(flags: Settings) -> anyhow::Result<Self> {
        let named = flags.config.clone();
        let path = named.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        let file = match read(&path)? {
            Some(file) => file,
            None if named.is_some() => bail!("config file `{}` does not exist", path.display()),
            None => Settings::default(),
        };
        Self::check(flags, file)
    }

    fn check(flags: Settings, file: Settings) -> anyhow::Result<Self> {
        let docker_host = flags
            .docker_host
            .or(file.docker_host)
            .unwrap_or_else(|| "unix:///var/run/docker.sock".to_owned());
        let Some(docker_socket) = docker_host.strip_prefix("unix://").map(PathBuf::from) else {
            bail!("docker-host `{docker_host}` is not a local socket: it must begin with `unix://`");
        };
        let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), CONTROL_PORT);
        let listen = flags.listen_addr.or(file.listen_addr).unwrap_or(any);
        let fabric_port = flags.fabric_port.or(file.fabric_port).unwrap_or(FABRIC_PORT);
        if fabric_port == 0 || fabric_port == listen.port() {
            bail!("fabric-port {fabric_port} must be a port of its own, not 0 and not that of listen-addr");
        }
        if [WIRE_PORT, PLAIN_PORT].contains(&fabric_port) {
            bail!("fabric-port {fabric_port} is one that the fabric uses on this host itself");
        }
        let advertise = flags.advertise_addr.or(file.advertise_addr);
        if let Some(unusable) = advertise.filter(|addr| addr.is_unspecified() || addr.is_multicast()) {
            bail!("advertise-addr {unusable} is not the address of one host");
        }
        Ok(Self {
            data_dir: flags.data_dir.or(file.data_dir).unwrap_or_else(|| "/var/lib/raftup".into()),
            run_dir: flags.run_dir.or(file.run_dir).unwrap_or_else(|| "/run/raftup".into()),
            docker_socket,
            listen,
            advertise,
            fabric_port,
            group: flags.group.or(file.group).unwrap_or_else(|| "raftup".to_owned()),
            log: flags.log.or(file.log).unwrap_or_else(|| LOG.to_owned()),
            log_format: flags.log_format.or(file.log_format).unwrap_or_default(),
        })
    }

    /// Path of the API socket.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("raftup.sock")
    }
}

fn read(path: &Path) -> anyhow::Result<Option<Settings>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("reading config file `{}`", path.display())),
    };
    let settings = toml::from_str(&text).with_context(|| format!("in config file `{}`", path.display()))?;
    Ok(Some(settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Settings {
        toml::from_str(text).expect("the test's file is right")
    }

    #[test]
    fn flags_come_before_the_file_and_the_file_before_defaults() {
        let flags = Settings { fabric_port: Some(9000), ..Settings::default() };
        let config =
            Config::check(flags, file("fabric-port = 9001\ndata-dir = \"/srv/raftup\"")).expect("valid");
        assert_eq!(config.fabric_port, 9000);
        assert_eq!(config.data_dir, PathBuf::from("/srv/raftup"));
        assert_eq!(config.listen.port(), CONTROL_PORT);
    }

    #[test]
    fn senseless_settings_are_refused() {
        for (text, part) in [
            ("fabric-port = 7238", "a port of its own"),
            ("fabric-port = 7240", "one that the fabric uses on this host"),
            ("fabric-port = 7241", "one that the fabric uses on this host"),
            ("docker-host = \"tcp://1.2.3.4:2375\"", "not a local socket"),
            ("advertise-addr = \"0.0.0.0\"", "not the address of one host"),
        ] {
            let error = Config::check(Settings::default(), file(text)).expect_err(text);
            assert!(error.to_string().contains(part), "{error}");
        }
        let unknown = toml::from_str::<Settings>("data-dri = \"/x\"").expect_err("a typing error");
        assert!(unknown.to_string().contains("data-dri"), "{unknown}");
    }
}
