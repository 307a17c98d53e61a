//! `docs/commands.md`, written from the definitions themselves; `UPDATE_EXPECT=1` writes it anew.

use std::fmt::Write;

use clap::{Arg, ArgAction, Command, CommandFactory};
use expect_test::expect_file;
use raftup_proto::refusal::Code;

use super::Cli;

const HEAD: &str = "\
# Commands

*Written from the program's own definitions by a test (`UPDATE_EXPECT=1 cargo test -p raftup-cli reference`);
`raftup COMMAND --help` shows the same.*

`raftup` talks to the daemon of the server it runs on. Words and flags are Docker's wherever Docker has them.
Where a command takes a node, a stack or a service, it takes its name (`web1`, `shop`, `shop_web`), its id, or the
beginning of its id that no other has. Standard output carries the answer alone; progress, notes and errors go to
standard error. Colours are left out where the output is no terminal, or `NO_COLOR` is set.
`--json` prints what the API answers, field by field.
";

fn statuses() -> String {
    let about = |code| match code {
        Code::Failed => {
            "it was accepted, but did not come to its goal: a deploy that failed or took too long; or `raftup doctor` found \
             a problem"
        }
        Code::Invalid => "the input is malformed: a file, a token",
        Code::Conflict => "it clashes with what is there: a name, a port, a second `init`",
        Code::NotFound => "what was named does not exist",
        Code::Forbidden => "you may not do this",
        Code::Unavailable => "no daemon, no cluster, or not enough of it to answer",
        Code::Internal => "a defect of raftup",
    };
    let codes = [
        Code::Failed,
        Code::Invalid,
        Code::Conflict,
        Code::NotFound,
        Code::Forbidden,
        Code::Unavailable,
        Code::Internal,
    ];
    let mut rows: Vec<(u8, &str)> = codes.map(|code| (code.exit_status(), about(code))).to_vec();
    rows.extend([
        (0, "it is done"),
        (2, "the command line is wrong"),
        (130, "Ctrl-C; a deploy that was watched goes on"),
    ]);
    rows.sort_unstable();
    let rows: String = rows.iter().map(|(status, text)| format!("| {status} | {text} |\n")).collect();
    format!("## Exit status\n\n| status | meaning |\n| --- | --- |\n{rows}")
}

fn reference() -> String {
    let mut root = Cli::command();
    root.build();
    let mut text = format!("{HEAD}\n{}\n## Options of every command\n\n", statuses());
    options(&mut text, root.get_arguments().filter(|arg| arg.is_global_set()));
    for command in root.get_subcommands() {
        section(&mut text, command, 2);
    }
    text
}

fn section(text: &mut String, command: &Command, level: usize) {
    if command.get_name() == "help" {
        return;
    }
    let name = command.get_bin_name().unwrap_or_else(|| command.get_name());
    let marks = "#".repeat(level);
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let _ = write!(text, "\n{marks} {name}\n\n{about}.\n");
    let aliases: Vec<String> = command.get_visible_aliases().map(|alias| format!("`{alias}`")).collect();
    if !aliases.is_empty() {
        let _ = writeln!(text, "Also: {}.", aliases.join(", "));
    }
    if command.has_subcommands() {
        command.get_subcommands().for_each(|sub| section(text, sub, level + 1));
        return;
    }
    let usage = command.clone().render_usage().to_string();
    let _ = write!(text, "\n```text\n{}\n```\n", usage.trim_start_matches("Usage: "));
    let mine = |arg: &&Arg| !arg.is_global_set() && arg.get_id() != "help" && arg.get_id() != "version";
    if command.get_arguments().any(|arg| mine(&arg)) {
        text.push('\n');
        options(text, command.get_arguments().filter(mine));
    }
    if let Some(after) = command.get_after_help() {
        let _ = write!(text, "\n```text\n{after}\n```\n");
    }
}

fn options<'a>(text: &mut String, args: impl Iterator<Item = &'a Arg>) {
    text.push_str("| option | meaning |\n| --- | --- |\n");
    for arg in args {
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(text, "| `{}` | {}{} |", spelled(arg), help.replace('|', "\\|"), remarks(arg));
    }
}

/// `-f, --filter KEY=VALUE`, or the name of what is given by its place.
fn spelled(arg: &Arg) -> String {
    let short = arg.get_short().map(|short| format!("-{short}"));
    let long = arg.get_long().map(|long| format!("--{long}"));
    let flags: Vec<String> = short.into_iter().chain(long).collect();
    let name = arg.get_value_names().map(|names| names.join(" ")).unwrap_or_default();
    let takes = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    match (flags.is_empty(), takes) {
        (true, _) => name,
        (false, true) => format!("{} {name}", flags.join(", ")),
        (false, false) => flags.join(", "),
    }
}

fn remarks(arg: &Arg) -> String {
    let takes = matches!(arg.get_action(), ArgAction::Set | ArgAction::Append);
    let default: Vec<_> = arg.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let possible: Vec<_> =
        arg.get_possible_values().iter().map(|value| format!("`{}`", value.get_name())).collect();
    let mut text = String::new();
    if takes && !possible.is_empty() && arg.get_value_names() != Some(&["BOOL".into()]) {
        let _ = write!(text, "; one of {}", possible.join(", "));
    }
    if let Some(name) = arg.get_env() {
        let _ = write!(text, "; also from the variable `{}`", name.to_string_lossy());
    }
    if takes && !default.is_empty() {
        let _ = write!(text, "; `{}` by default", default.join(" "));
    }
    text
}

#[test]
fn the_page_is_up_to_date() {
    expect_file!["../../../docs/commands.md"].assert_eq(&reference());
}
