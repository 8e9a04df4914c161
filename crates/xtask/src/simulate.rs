//! `simulate`: runs random cases of the simulated executor, as many as one likes.
//!
//! The cases live in the executor, floors above this crate, so they are run as its example
//! `simulate` and not called: this command is only the short name for that.

use std::process::{Command, ExitCode};

/// Hands the arguments on: `--cases N`, `--seed S`, `--verbose`.
pub fn command(arguments: &[String]) -> ExitCode {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["run", "--quiet", "--release", "--locked"])
        .args([
            "--package",
            "manyhands-executor",
            "--example",
            "simulate",
            "--",
        ])
        .args(arguments)
        .status();
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        // A bad option is told apart from a broken rule, as the example does.
        Ok(status) if status.code() == Some(2) => ExitCode::from(2),
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("simulate: cargo could not be started: {error}");
            ExitCode::FAILURE
        }
    }
}
