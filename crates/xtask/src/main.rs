//! Checks and chores of this repository, run as `cargo xtask <command>`.

mod simulate;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <command>

commands:
  tidy    check the rules of the repository: floors, purity, comments, lengths, text
  simulate [--cases N] [--seed S] [--verbose]
          run random cases of the scheduler in virtual time";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("tidy") => tidy::command(),
        Some("simulate") => simulate::command(&arguments[1..]),
        Some("help" | "--help" | "-h") => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        Some(unknown) => {
            eprintln!("xtask: unknown command {unknown:?}\n\n{USAGE}");
            ExitCode::FAILURE
        }
        None => {
            eprintln!("{USAGE}");
            ExitCode::FAILURE
        }
    }
}
