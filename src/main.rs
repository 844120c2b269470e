//! Parses arguments, runs, and maps the outcome to an exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    backstay::cli::main()
}
