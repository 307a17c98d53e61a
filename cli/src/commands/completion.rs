//! `raftup completion`.

use clap_complete::env::Shells;
use raftup_proto::refusal::{Code, Refusal};

use crate::{
    args::Shell,
    failure::Failure,
    show::{self, Text},
};

/// The program as the shell finds it.
const PROGRAM: &str = "raftup";

/// Prints the script that makes a shell ask this program for what can come next.
pub(super) fn print(shell: Shell) -> Result<(), Failure> {
    let name = match shell {
        Shell::Bash => "bash",
        Shell::Zsh => "zsh",
        Shell::Fish => "fish",
    };
    let shells = Shells::builtins();
    let completer = shells
        .completer(name)
        .ok_or_else(|| Refusal::new(Code::Internal, format!("there is no completion for {name}")))?;
    let mut script = Vec::new();
    completer.write_registration("COMPLETE", PROGRAM, PROGRAM, PROGRAM, &mut script)?;
    Ok(show::answer(Text::lines(String::from_utf8_lossy(&script)))?)
}
