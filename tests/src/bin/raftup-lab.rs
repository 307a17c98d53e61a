//! `raftup-lab`: a cluster's worth of hosts on this machine, for trying things out by hand.
#![forbid(unsafe_code)]

use std::{
    fmt::Display,
    io::Write as _,
    net::{Ipv4Addr, SocketAddrV4, UdpSocket},
    path::PathBuf,
    process::{ExitCode, Stdio},
    time::Instant,
};

use anyhow::ensure;
use clap::{Parser, Subcommand, ValueEnum};
use raftup_tests::{
    lab::{EngineKind, Lab, LabId, Options, What, build_all, host_init},
    load::{Plan, drive},
};
use rustix::net::{self, AddressFamily, SendFlags, SocketType, ipproto};

/// Hosts on one machine, each with its own Docker Engine and raftupd.
#[derive(Parser)]
#[command(name = "raftup-lab", version)]
struct Args {
    /// Which lab; two with different ids live side by side.
    #[arg(long, global = true, default_value = "lab", env = "RAFTUP_LAB_ID")]
    id: LabId,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Bring a lab up; one that is there is taken down first.
    Up {
        /// How many hosts: h1, h2, ...
        #[arg(long, default_value_t = 3)]
        hosts: u8,
        /// Which engine they have.
        #[arg(long, value_enum, default_value_t = EngineKind::Debian)]
        engine: EngineKind,
        /// Engines only, no raftupd.
        #[arg(long)]
        no_daemon: bool,
        /// Whether containers outlive their engine; Docker Swarm needs engines that do not let them.
        #[arg(long, value_enum, default_value_t = Switch::On)]
        live_restore: Switch,
    },
    /// Take the lab down, with all that is on it.
    Down,
    /// Run a command on a host (or on `client`) and pass its exit status on.
    Exec {
        host: String,
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// What is up.
    Status,
    /// Print the path of a host's raftup socket.
    Socket { host: String },
    /// Print the path of a host's engine socket.
    Engine { host: String },
    /// Print a host's address.
    Addr { host: String },
    /// Break a host, or mend it.
    Fault {
        fault: Fault,
        host: String,
        /// Of `kill`, `stop`, `start`, `pause` and `resume`: which daemon. `pause` and `resume` without it mean
        /// the whole host.
        #[arg(long, value_enum)]
        what: Option<What>,
    },
    /// Make the images and the disks that hosts start from.
    Images {
        /// Also if the cache has them.
        #[arg(long)]
        fresh: bool,
    },
    /// Send load and print a report as JSON; run it on `client` through `exec`.
    Load(Plan),
    /// Send what a file holds to each address: a datagram where there is a port, else a packet with its own header.
    #[command(hide = true)]
    Forge { file: PathBuf, to: Vec<String> },
    #[command(hide = true)]
    HostInit { spec: PathBuf },
}

#[derive(Clone, Copy, ValueEnum)]
enum Switch {
    On,
    Off,
}

#[derive(Clone, Copy, ValueEnum)]
enum Fault {
    /// Pull the network cable.
    Cut,
    /// Plug it in.
    Heal,
    /// Kill a daemon with -9.
    Kill,
    /// Ask a daemon to end.
    Stop,
    /// Start a daemon.
    Start,
    /// Stop processes where they stand.
    Pause,
    /// Let them go on.
    Resume,
    /// Take the power away.
    PowerOff,
    /// Boot again.
    PowerOn,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<ExitCode> {
    let open = || Lab::open(&args.id);
    match args.action {
        Action::Up { hosts, engine, no_daemon, live_restore } => {
            let live_restore = matches!(live_restore, Switch::On);
            up(&Options { id: args.id, hosts, engine, daemon: !no_daemon, live_restore })?;
        }
        Action::Down => Lab::down(&args.id)?,
        Action::Exec { host, command } => return exec(&open()?, &host, &command),
        Action::Status => status(&open()?),
        Action::Socket { host } => say(&open()?.find(&host)?.socket().display()),
        Action::Engine { host } => say(&open()?.find(&host)?.engine_socket().display()),
        Action::Addr { host } => say(&open()?.find(&host)?.addr()),
        Action::Fault { fault, host, what } => break_or_mend(&open()?, fault, &host, what)?,
        Action::Images { fresh } => say(&build_all(fresh)?.display()),
        Action::Load(plan) => say(&serde_json::to_string_pretty(&drive(&plan)?)?),
        Action::Forge { file, to } => forge(&std::fs::read(file)?, &to)?,
        Action::HostInit { spec } => host_init(&spec)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints a line of the answer; whoever does not want to read it may hang up.
fn say(line: &dyn Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// What the kernel does not send from here is told and no failure: the caller looks at what arrives.
fn forge(bytes: &[u8], to: &[String]) -> anyhow::Result<()> {
    for to in to {
        let sent = match to.parse::<Ipv4Addr>() {
            Ok(address) => {
                let socket = net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW))?;
                net::sockopt::set_socket_broadcast(&socket, true)?;
                let to = SocketAddrV4::new(address, 0);
                net::sendto(&socket, bytes, SendFlags::empty(), &to).map_err(std::io::Error::from)
            }
            Err(_) => {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.set_broadcast(true)?;
                socket.send_to(bytes, to)
            }
        };
        if let Err(error) = sent {
            say(&format!("{to}: {error}"));
        }
    }
    Ok(())
}

fn up(options: &Options) -> anyhow::Result<()> {
    let start = Instant::now();
    let lab = Lab::up(options)?;
    status(&lab);
    eprintln!("up in {:.1} s", start.elapsed().as_secs_f64());
    lab.keep();
    Ok(())
}

fn exec(lab: &Lab, host: &str, command: &[String]) -> anyhow::Result<ExitCode> {
    let argv: Vec<&str> = command.iter().map(String::as_str).collect();
    let mut command = lab.find(host)?.command(&argv)?;
    command.stdin(Stdio::inherit()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
    let code = command.status()?.code();
    // Ended by a signal: as a shell says it.
    Ok(ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)))
}

fn status(lab: &Lab) {
    for host in lab.hosts().chain([lab.client()]) {
        let state = if host.is_on() { "on" } else { "off" };
        let daemon = |what| if host.pid(what).is_some() { "up" } else { "-" };
        say(&format!(
            "{:7} {:14} {state:4} engine {:3} raftupd {:3} {}",
            host.name(),
            host.addr().to_string(),
            daemon(What::Engine),
            daemon(What::Daemon),
            host.engine_socket().display()
        ));
    }
}

fn break_or_mend(lab: &Lab, fault: Fault, host: &str, what: Option<What>) -> anyhow::Result<()> {
    let host = lab.find(host)?;
    let daemon = what.unwrap_or(What::Daemon);
    let takes_what = !matches!(fault, Fault::Cut | Fault::Heal | Fault::PowerOff | Fault::PowerOn);
    ensure!(takes_what || what.is_none(), "--what means nothing to this fault: it is for the whole host");
    match (fault, what) {
        (Fault::Cut, _) => host.cut(),
        (Fault::Heal, _) => host.heal(),
        (Fault::Kill, _) => host.kill(daemon),
        (Fault::Stop, _) => host.stop(daemon),
        (Fault::Start, _) => host.start(daemon),
        (Fault::Pause, None) => host.freeze(),
        (Fault::Pause, Some(what)) => host.signal(what, "STOP"),
        (Fault::Resume, None) => host.thaw(),
        (Fault::Resume, Some(what)) => host.signal(what, "CONT"),
        (Fault::PowerOff, _) => host.power_off(),
        (Fault::PowerOn, _) => host.power_on(),
    }
}
