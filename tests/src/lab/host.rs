//! One host of a lab, for tests: run things on it, break it, mend it.

use std::{
    fmt, fs,
    net::Ipv4Addr,
    path::PathBuf,
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, anyhow, ensure};
use bollard::Docker;
use clap::ValueEnum;

use super::{
    boot::{boot, halt, log_tail},
    cgroup::Cgroup,
    engine::{self, EngineKind},
    enter::{Entrance, run},
    init::{InitSpec, View},
    net::{self, SWITCH},
    place::HostPlace,
    record::{HostRecord, Process, start_time},
    run::Shared,
    wait::wait_for,
};

const DAEMON_START: Duration = Duration::from_secs(15);
const STOP: Duration = Duration::from_secs(30);
/// Kernel ticks per second in `/proc/PID/stat`: fixed on Linux for user space.
const TICKS: u64 = 100;

/// Which of a host's two daemons.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum What {
    /// `raftupd`.
    Daemon,
    /// `dockerd`.
    Engine,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Daemon => "daemon",
            Self::Engine => "engine",
        })
    }
}

impl What {
    /// The name of its program, as the kernel shows it.
    fn program(self) -> &'static str {
        match self {
            Self::Daemon => "raftupd",
            Self::Engine => "dockerd",
        }
    }
}

/// What a daemon has used so far.
#[derive(Clone, Copy, Debug)]
pub struct DaemonStats {
    /// Resident memory now.
    pub rss_bytes: u64,
    /// Time on a CPU since the daemon started, all threads.
    pub cpu: Duration,
}

/// One host; a cheap handle on it, valid as long as the lab is up.
#[derive(Clone)]
pub struct Host {
    pub(crate) shared: Arc<Shared>,
    pub(crate) name: String,
    pub(crate) addr: Ipv4Addr,
    /// None for the outside client.
    pub(crate) engine: Option<EngineKind>,
}

impl Host {
    pub(crate) fn new(shared: &Arc<Shared>, record: &HostRecord) -> Self {
        Self {
            shared: shared.clone(),
            name: record.name.clone(),
            addr: record.addr,
            engine: Some(record.engine),
        }
    }

    pub(crate) fn files(&self) -> HostPlace {
        self.shared.place.host(&self.name)
    }

    fn init(&self) -> anyhow::Result<Process> {
        Process::read(&self.files().init_pid()).with_context(|| format!("host {} is off", self.name))
    }

    fn cgroup(&self) -> Cgroup {
        Cgroup::host(&self.shared.place.id, &self.name)
    }

    fn entrance(&self) -> anyhow::Result<Entrance> {
        let env = vec![("RAFTUP_LAB_HOST".to_owned(), self.name.clone())];
        Ok(Entrance { init: self.init()?, cgroup: self.cgroup(), env })
    }

    /// `h1`, `h2`, ... or `client`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the lab's bridge.
    pub fn addr(&self) -> Ipv4Addr {
        self.addr
    }

    /// A command that runs on this host: set its input and output, spawn it. The caller's directory where the
    /// host has it too.
    pub fn command(&self, argv: &[&str]) -> anyhow::Result<Command> {
        self.entrance()?.command(argv)
    }

    /// Runs a command on this host to its end; whatever its status. Standard input is empty.
    pub fn exec(&self, argv: &[&str]) -> anyhow::Result<Output> {
        let mut command = self.command(argv)?;
        command.stdin(std::process::Stdio::null());
        command.output().with_context(|| format!("running {argv:?} on {}", self.name))
    }

    /// As [`exec`](Self::exec), but demands success and answers the standard output as text.
    pub fn sh(&self, script: &str) -> anyhow::Result<String> {
        let output = self.exec(&["sh", "-c", script])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{script}` on {} ({}): {}", self.name, output.status, said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs our command line on this host.
    pub fn raftup(&self, args: &[&str]) -> anyhow::Result<Output> {
        self.exec(&[&["raftup"], args].concat())
    }

    /// The socket of `raftupd`, as the machine sees it.
    pub fn socket(&self) -> PathBuf {
        self.files().run().join("raftup/raftup.sock")
    }

    /// The socket of the engine, as the machine sees it.
    pub fn engine_socket(&self) -> PathBuf {
        self.files().run().join("docker.sock")
    }

    /// A client for the host's engine; needs a tokio runtime.
    pub fn engine(&self) -> anyhow::Result<Docker> {
        let socket = self.engine_socket().display().to_string();
        let timeout_s = 120;
        Docker::connect_with_unix(&socket, timeout_s, bollard::API_DEFAULT_VERSION)
            .with_context(|| format!("connecting to the engine of {}", self.name))
    }

    /// The log of one of its daemons so far.
    pub fn log(&self, what: What) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file(what)).unwrap_or_default()).into_owned()
    }

    /// Where that log is.
    pub fn log_file(&self, what: What) -> PathBuf {
        self.files().log(&what.to_string())
    }

    // ---- the whole host

    /// Whether its first process is alive.
    pub fn is_on(&self) -> bool {
        self.init().is_ok_and(|init| init.alive())
    }

    /// Takes the power away: everything on the host is dead within milliseconds. What was written stays on its
    /// disk. Returns once the disk is free.
    pub fn power_off(&self) -> anyhow::Result<()> {
        halt(&self.shared.place, &self.name)
    }

    /// Boots the host again, its engine, and `raftupd` where the lab runs it.
    pub fn power_on(&self) -> anyhow::Result<()> {
        ensure!(!self.is_on(), "host {} is on", self.name);
        let init = boot(&self.shared.record.tool, &self.shared.place, &self.spec()?)?;
        let switch = self.shared.switch()?;
        net::unplug(switch, &self.name)?;
        net::plug_in(self.shared.subnet(), switch, &self.name, self.addr, init)?;
        if self.engine.is_some() {
            self.start(What::Engine)?;
            if self.shared.has_daemon() {
                self.start(What::Daemon)?;
            }
        }
        Ok(())
    }

    fn spec(&self) -> anyhow::Result<InitSpec> {
        let Shared { place, record, .. } = &*self.shared;
        let mut hosts = format!("127.0.0.1 localhost\n{} {}\n", self.shared.subnet().client(), super::CLIENT);
        for host in &record.hosts {
            hosts.push_str(&format!("{} {}\n", host.addr, host.name));
        }
        let view = match self.engine {
            None => View::Machine,
            Some(kind) => {
                let mut binds = vec![place.share(), place.bin()];
                binds.extend(record.binds.iter().cloned());
                View::Own { lower: kind.lower()?, binds, bin: place.bin() }
            }
        };
        let machine_id = format!("{:032x}", u128::from(self.addr.to_bits()));
        let resolv = format!("nameserver {}\n", self.shared.subnet().gateway());
        Ok(InitSpec { name: self.name.clone(), dir: self.files().dir, view, machine_id, hosts, resolv })
    }

    /// Stops every process of the host where it stands, containers too.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.cgroup().freeze(true)
    }

    /// Lets a frozen host go on.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.cgroup().freeze(false)
    }

    /// Pulls the host's network cable.
    pub fn cut(&self) -> anyhow::Result<()> {
        net::set_port(self.shared.switch()?, &self.name, false)
    }

    /// Plugs it in again.
    pub fn heal(&self) -> anyhow::Result<()> {
        net::set_port(self.shared.switch()?, &self.name, true)
    }

    /// Gives it another address in the place of the one that it has, as a DHCP server does. [`addr`](Self::addr) is still
    /// the first one, which it has again after its next boot.
    pub fn readdress(&self, addr: Ipv4Addr) -> anyhow::Result<()> {
        net::readdress(self.shared.subnet(), self.init()?, addr)
    }

    /// Puts a router between it and the others until its next boot. The router takes its address, and it can call out
    /// through that, and nobody in. Answers the router and the address that the host has behind it.
    pub fn put_behind_nat(&self) -> anyhow::Result<(Self, Ipv4Addr)> {
        let name = format!("{}-nat", self.name);
        let (router, switch) = (boot_bare(&self.shared, &name)?, self.shared.switch()?);
        net::unplug(switch, &self.name)?;
        net::plug_in(self.shared.subnet(), switch, &name, self.addr, router)?;
        net::plug_in_behind(router, self.init()?)?;
        Ok((Self { name, engine: None, ..self.clone() }, net::INSIDE_HOST))
    }

    // ---- one of its daemons

    /// The daemon's process id inside the host, if it runs.
    pub fn pid(&self, what: What) -> Option<i32> {
        let pid = fs::read_to_string(self.files().pid_file(&what.to_string())).ok()?.trim().parse().ok()?;
        let proc = self.proc().ok()?;
        let name = fs::read_to_string(proc.join(format!("{pid}/comm"))).ok()?;
        (name.trim() == what.program() && start_time(&proc, pid).is_some()).then_some(pid)
    }

    /// The host's own `/proc`, as the machine sees it.
    fn proc(&self) -> anyhow::Result<PathBuf> {
        Ok(PathBuf::from(format!("/proc/{}/root/proc", self.init()?.pid)))
    }

    /// Starts a daemon and waits until it answers on its socket. Errors: with the end of its log.
    pub fn start(&self, what: What) -> anyhow::Result<()> {
        self.launch(what)?;
        let (within, socket) = match what {
            What::Engine => (engine::START, self.engine_socket()),
            What::Daemon => (DAEMON_START, self.socket()),
        };
        let answers = || match what {
            What::Engine => engine::answers(&socket),
            What::Daemon => std::os::unix::net::UnixStream::connect(&socket).is_ok(),
        };
        let up = wait_for(within, "answer", || {
            Ok(if answers() {
                Some(Ok(()))
            } else {
                self.has_ended(what).then(|| Err(anyhow!("it has ended")))
            })
        });
        let up = up.and_then(|result| result);
        up.with_context(|| format!("{what} of {}: {}", self.name, log_tail(&self.log_file(what))))
    }

    /// A process was started for the daemon and is gone. Its name does not count: before `exec` it has another.
    fn has_ended(&self, what: What) -> bool {
        let started = fs::read_to_string(self.files().pid_file(&what.to_string())).ok();
        let pid = started.and_then(|pid| pid.trim().parse().ok());
        pid.is_some_and(|pid| self.proc().is_ok_and(|proc| start_time(&proc, pid).is_none()))
    }

    /// Starts a daemon without waiting for its answer.
    pub fn launch(&self, what: What) -> anyhow::Result<()> {
        ensure!(self.pid(what).is_none(), "{what} of {} runs already", self.name);
        let argv = match what {
            What::Engine => {
                // Of an engine that was killed: its number may be another's by now, and then the engine refuses.
                let _ = fs::remove_file(self.files().run().join("docker.pid"));
                engine::command(
                    self.engine.unwrap_or(EngineKind::Debian),
                    &self.cgroup(),
                    self.shared.record.live_restore,
                )
            }
            What::Daemon => self.daemon_command(),
        };
        let _ = fs::remove_file(self.files().pid_file(&what.to_string()));
        let inside = PathBuf::from(format!("/run/lab-{what}.pid"));
        self.entrance()?.spawn_daemon(&argv, &inside, &self.log_file(what))
    }

    fn daemon_command(&self) -> Vec<String> {
        let words = ["raftupd", "--data-dir", "/var/lib/raftup", "--run-dir", "/run/raftup"];
        let engine = ["--docker-host", "unix:///var/run/docker.sock"];
        words.iter().chain(&engine).map(ToString::to_string).collect()
    }

    /// Sends a signal to a daemon: `KILL`, `TERM`, `STOP`, `CONT`.
    pub fn signal(&self, what: What, signal: &str) -> anyhow::Result<()> {
        let pid = self.pid(what).with_context(|| format!("{what} of {} does not run", self.name))?;
        let init = self.init()?.pid.to_string();
        // The process id counts inside, so no process outside of the host can be hit.
        let kill = format!("kill -s {signal} {pid}");
        run(&["nsenter", "--target", &init, "--mount", "--pid", "--", "sh", "-c", &kill]).map(drop)
    }

    fn end(&self, what: What, signal: &str) -> anyhow::Result<()> {
        self.signal(what, signal)?;
        wait_for(STOP, "end of the daemon", || Ok(self.pid(what).is_none().then_some(())))
            .with_context(|| format!("{what} of {}", self.name))
    }

    /// Kills a daemon without warning; answers when it is gone.
    pub fn kill(&self, what: What) -> anyhow::Result<()> {
        self.end(what, "KILL")
    }

    /// Asks a daemon to end; answers when it is gone.
    pub fn stop(&self, what: What) -> anyhow::Result<()> {
        self.end(what, "TERM")
    }

    /// Memory and CPU time of a daemon.
    pub fn stats(&self, what: What) -> anyhow::Result<DaemonStats> {
        let pid = self.pid(what).with_context(|| format!("{what} of {} does not run", self.name))?;
        let dir = self.proc()?.join(pid.to_string());
        let status = fs::read_to_string(dir.join("status"))?;
        let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = rss.trim().trim_end_matches("kB").trim().parse()?;
        let stat = fs::read_to_string(dir.join("stat"))?;
        let fields: Vec<&str> = stat.rsplit_once(')').context("odd stat")?.1.split_whitespace().collect();
        let ticks =
            |index: usize| -> anyhow::Result<u64> { Ok(fields.get(index).context("short stat")?.parse()?) };
        let cpu = Duration::from_millis((ticks(11)? + ticks(12)?) * 1000 / TICKS);
        Ok(DaemonStats { rss_bytes: kib * 1024, cpu })
    }

    /// [`kill`](Self::kill) for `raftupd`.
    pub fn kill_daemon(&self) -> anyhow::Result<()> {
        self.kill(What::Daemon)
    }

    /// [`start`](Self::start) for `raftupd`.
    pub fn start_daemon(&self) -> anyhow::Result<()> {
        self.start(What::Daemon)
    }

    /// [`kill`](Self::kill) for the engine.
    pub fn kill_engine(&self) -> anyhow::Result<()> {
        self.kill(What::Engine)
    }

    /// [`start`](Self::start) for the engine.
    pub fn start_engine(&self) -> anyhow::Result<()> {
        self.start(What::Engine)
    }

    /// [`stats`](Self::stats) of `raftupd`.
    pub fn daemon_stats(&self) -> anyhow::Result<DaemonStats> {
        self.stats(What::Daemon)
    }
}

/// Boots the bridge's namespace.
pub(crate) fn boot_switch(shared: &Shared) -> anyhow::Result<()> {
    net::make_switch(&shared.place, shared.subnet(), boot_bare(shared, SWITCH)?)
}

/// Boots a namespace without an engine.
fn boot_bare(shared: &Shared, name: &str) -> anyhow::Result<Process> {
    let spec = InitSpec {
        name: name.to_owned(),
        dir: shared.place.host(name).dir,
        view: View::Machine,
        machine_id: String::new(),
        hosts: String::new(),
        resolv: String::new(),
    };
    boot(&shared.record.tool, &shared.place, &spec)
}
