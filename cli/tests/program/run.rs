//! Running the program, and what it said.

use std::{
    fmt,
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use tokio::process::{Child, Command};

use crate::daemon::Daemon;

/// Longest time for a run; none of them should come near it.
const RUN_MAX: Duration = Duration::from_secs(40);

/// The program with its arguments, in a directory of its own and without the environment of whoever runs the test.
pub(crate) fn program(socket: &Path, dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_raftup"));
    command
        .args(args)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", dir)
        .env("RAFTUP_HOST", format!("unix://{}", socket.display()))
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// How a run ended.
pub(crate) struct Ran {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, stdout, stderr } = self;
        let status = status.map_or_else(|| "killed".to_owned(), |status| status.to_string());
        write!(f, "{stdout}-- stderr\n{stderr}-- status {status}\n")
    }
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Waits until a run ends.
pub(crate) async fn end(child: Child) -> Ran {
    tokio::time::timeout(RUN_MAX, child.wait_with_output()).await.expect("the program hangs").unwrap().into()
}

/// Runs the program in an empty directory.
pub(crate) async fn run(daemon: &Daemon, args: &[&str]) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    run_in(daemon, dir.path(), args).await
}

/// Runs the program in `dir`.
pub(crate) async fn run_in(daemon: &Daemon, dir: &Path, args: &[&str]) -> Ran {
    end(program(&daemon.socket(), dir, args).spawn().unwrap()).await
}
