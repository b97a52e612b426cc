//! The `gatepost` program: parse arguments, dispatch, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(gatepost::cli::main())
}
