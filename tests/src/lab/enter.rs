//! Running a command inside a host's namespaces and cgroup.
//!
//! `nsenter` by process id, not `ip netns exec`: the latter mounts a new `/sys` and hides the cgroups.

use std::{
    fs::File,
    path::Path,
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, ensure};

use super::{cgroup::Cgroup, record::Process};

/// Moves the shell into the cgroups that are named first (`0` is the writer itself), then becomes the command.
pub(crate) const JOIN: &str =
    r#"while [ "$1" != -- ]; do echo 0 > "$1/cgroup.procs" || exit 125; shift; done; shift; exec "$@""#;
/// Goes to the caller's directory where the host has it too, then becomes the command.
const IN_DIR: &str = r#"cd "$0" 2>/dev/null || cd /; exec "$@""#;
/// Writes down its process id (as the host counts), then becomes the daemon.
const AS_DAEMON: &str = r#"echo $$ > "$0"; exec "$@""#;

/// A host's namespaces, by its PID 1, and its cgroup.
#[derive(Clone, Debug)]
pub(crate) struct Entrance {
    pub(crate) init: Process,
    pub(crate) cgroup: Cgroup,
    /// Set for every command inside; what the caller has set for engines and daemons is not passed on.
    pub(crate) env: Vec<(String, String)>,
}

impl Entrance {
    fn joined(&self) -> anyhow::Result<Command> {
        ensure!(self.init.alive(), "the host is off");
        let mut command = Command::new("sh");
        command.args(["-c", JOIN, "sh"]).args(self.cgroup.for_daemons()?).arg("--");
        for name in ["DOCKER_HOST", "DOCKER_CONTEXT", "RAFTUP_HOST", "RAFTUP_CONTEXT"] {
            command.env_remove(name);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        Ok(command)
    }

    fn nsenter(&self, command: &mut Command) {
        command.args(["nsenter", "--target", &self.init.pid.to_string()]);
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid"]);
    }

    /// A command that runs inside and inherits what the caller sets on it. `argv` is not empty.
    pub(crate) fn command(&self, argv: &[&str]) -> anyhow::Result<Command> {
        let mut command = self.joined()?;
        self.nsenter(&mut command);
        let dir = std::env::current_dir().unwrap_or_else(|_| "/".into());
        command.args(["--", "sh", "-c", IN_DIR]).arg(dir).args(argv);
        Ok(command)
    }

    /// Starts a daemon that outlives the caller, as a child of the host's PID 1. Returns once it runs or has
    /// failed to; `pid_file` is a path inside the host, `log` one on the machine.
    pub(crate) fn spawn_daemon(&self, argv: &[String], pid_file: &Path, log: &Path) -> anyhow::Result<()> {
        let log_file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        let mut command = self.joined()?;
        self.nsenter(&mut command);
        // `nsenter` forks and waits for a `setsid` inside, which forks again and ends: what is left is a child of
        // the host's PID 1, not of the machine's.
        command.args(["--", "setsid", "--fork", "sh", "-c", AS_DAEMON]).arg(pid_file).args(argv);
        command.current_dir("/").stdin(Stdio::null()).stdout(log_file.try_clone()?).stderr(log_file);
        let status = command.status().with_context(|| format!("starting {}", argv.join(" ")))?;
        ensure!(status.success(), "starting {} failed, see {}", argv.join(" "), log.display());
        Ok(())
    }
}

/// Runs a program of the machine and demands success; the error has what it wrote.
pub(crate) fn run(argv: &[&str]) -> anyhow::Result<Output> {
    run_with_input(argv, "")
}

/// As [`run`], with text for its standard input.
pub(crate) fn run_with_input(argv: &[&str], input: &str) -> anyhow::Result<Output> {
    use std::io::Write as _;
    let what = argv.join(" ");
    let (program, args) = argv.split_first().context("an empty command")?;
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting `{what}`"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that has ended early says why by its status.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().with_context(|| format!("running `{what}`"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{what}` failed ({}): {}", output.status, said.trim());
    Ok(output)
}
