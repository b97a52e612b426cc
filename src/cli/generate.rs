//! `gatepost completions` and `gatepost man`: made from the definitions of the command line, so that
//! they cannot say anything else.

use super::output::{print, say};
use super::{Cli, exit};
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::path::PathBuf;

/// `gatepost completions`
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// For which shell
    shell: Shell,
}

/// `gatepost man`
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The folder, which must exist
    folder: PathBuf,
}

/// Prints the completions of a shell.
#[must_use]
pub fn completions(args: &CompletionsArgs) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "gatepost", &mut script);
    print(&String::from_utf8_lossy(&script))
}

/// Writes gatepost(1) and a page for each command.
#[must_use]
pub fn man(args: &ManArgs) -> u8 {
    match clap_mangen::generate_to(Cli::command(), &args.folder) {
        Ok(()) => exit::OK,
        Err(error) => {
            say(&format_args!("{}: {error}", args.folder.display()));
            exit::IOERR
        }
    }
}
