//! Runs random cases of the simulated executor, from a seed; `cargo xtask simulate` starts it.

use manyhands_executor::simulated::{Case, Violation, run};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

struct Options {
    n_cases: u64,
    seed: u64,
    is_verbose: bool,
}

const USAGE: &str = "usage: simulate [--cases N] [--seed S] [--verbose]
  --cases N   how many cases to run, 10000 unless told otherwise
  --seed S    the seed of the first case, 0 unless told otherwise; the next has the next number
  --verbose   say what each case came to";

fn options(args: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options {
        n_cases: 10_000,
        seed: 0,
        is_verbose: false,
    };
    let mut args = args.peekable();
    while let Some(arg) = args.next() {
        let mut number = || {
            let text = args.next().unwrap_or_default();
            text.replace('_', "")
                .parse()
                .map_err(|_| format!("{arg} takes a whole number, not {text:?}\n{USAGE}"))
        };
        match arg.as_str() {
            "--cases" => options.n_cases = number()?,
            "--seed" => options.seed = number()?,
            "--verbose" => options.is_verbose = true,
            _ => return Err(format!("{arg:?} is not an option\n{USAGE}")),
        }
    }
    Ok(options)
}

#[derive(Default)]
struct Progress {
    next: AtomicU64,
    n_steps: AtomicU64,
    n_tasks: AtomicU64,
    n_losses: AtomicU64,
    is_over: AtomicBool,
    violation: Mutex<Option<Box<Violation>>>,
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("simulate: {message}");
            return ExitCode::from(2);
        }
    };
    // A panic is reported with its case; its own text beside that would only be noise.
    std::panic::set_hook(Box::new(|_| {}));
    let started = Instant::now();
    let progress = Progress::default();
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..n_threads {
            scope.spawn(|| run_cases(&options, &progress));
        }
    });
    let count = |number: &AtomicU64| number.load(Ordering::Relaxed);
    println!(
        "simulate: {} cases from seed {}, {} steps, {} tasks run, {} workers lost, in {:.1} s",
        count(&progress.next).min(options.n_cases),
        options.seed,
        count(&progress.n_steps),
        count(&progress.n_tasks),
        count(&progress.n_losses),
        started.elapsed().as_secs_f64()
    );
    let violation = progress.violation.into_inner();
    match violation.unwrap_or_else(|poisoned| poisoned.into_inner()) {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!("simulate: a rule was broken\n{violation}");
            ExitCode::FAILURE
        }
    }
}

fn run_cases(options: &Options, progress: &Progress) {
    while !progress.is_over.load(Ordering::Relaxed) {
        let number = progress.next.fetch_add(1, Ordering::Relaxed);
        if number >= options.n_cases {
            return;
        }
        let seed = options.seed.wrapping_add(number);
        match run(&Case::random(seed)) {
            Ok(outcome) => {
                let add = |total: &AtomicU64, n| total.fetch_add(n, Ordering::Relaxed);
                add(&progress.n_steps, outcome.n_steps);
                add(&progress.n_tasks, outcome.n_tasks_run);
                add(&progress.n_losses, outcome.n_losses);
                if options.is_verbose {
                    println!("seed {seed}: {outcome:?}");
                }
            }
            Err(violation) => {
                progress.is_over.store(true, Ordering::Relaxed);
                let mut first =
                    (progress.violation.lock()).unwrap_or_else(|poisoned| poisoned.into_inner());
                first.get_or_insert(violation);
            }
        }
    }
}
