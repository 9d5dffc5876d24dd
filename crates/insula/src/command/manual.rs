//! Completions, man pages and the command reference, all from the definitions in [`crate::args`].

use std::fmt::Write;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::Failure;
use crate::render::print;

/// `completions`
pub(super) fn completions(shell: Shell) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "insula", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(0)
}

/// `man`
pub(super) fn man(directory: &Path) -> Result<u8, Failure> {
    std::fs::create_dir_all(directory).map_err(|source| Failure::File {
        action: "create",
        path: directory.to_owned(),
        source,
    })?;
    clap_mangen::generate_to(Cli::command(), directory).map_err(|source| Failure::File {
        action: "write man pages into",
        path: directory.to_owned(),
        source,
    })?;
    Ok(0)
}

/// The command reference as Markdown, as it stands in `docs/cli.md`.
#[must_use]
pub fn reference() -> String {
    let mut root = Cli::command();
    root.build();
    let mut out = String::from(
        "# Commands\n\nMade from the definitions in `crates/insula/src/args` by `insula reference`; a test holds both together.\n",
    );
    out.push_str("\n```text\n");
    out.push_str(&help(&root));
    out.push_str("```\n");
    root.get_subcommands()
        .filter(|command| !command.is_hide_set())
        .for_each(|command| section(command, "insula", &mut out));
    out
}

fn section(command: &Command, parent: &str, out: &mut String) {
    if command.get_name() == "help" {
        return;
    }
    let name = format!("{parent} {}", command.get_name());
    // What goes for every command stands at the top once.
    let own = command.clone().mut_args(|arg| if arg.is_global_set() { arg.hide(true) } else { arg });
    // Writing to a String cannot fail.
    let _ = write!(out, "\n## `{name}`\n\n```text\n{}```\n", help(&own));
    command.get_subcommands().for_each(|command| section(command, &name, out));
}

fn help(command: &Command) -> String {
    let text = command.clone().term_width(100).render_long_help().to_string();
    let mut lines: String = text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    lines.push('\n');
    lines
}
