//! What a caller may choose about a run, and how that meets what the environment chose.

use crate::environment::Environment;
use crate::error::Error;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::OnceLock;

/// Where tasks run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheduler {
    /// In the calling thread, one after the other.
    Synchronous,
    /// In the threads of a pool that is started at first use and kept.
    Threads,
}

const SCHEDULERS_ACCEPTED: &str =
    r#""threads" (or "threading"), "synchronous" (or "sync", "single-threaded")"#;

impl FromStr for Scheduler {
    type Err = Error;

    /// The scheduler of this name, as configurations write it.
    ///
    /// ```
    /// use manyhands::Scheduler;
    ///
    /// assert_eq!("sync".parse::<Scheduler>()?, Scheduler::Synchronous);
    /// assert!("processes".parse::<Scheduler>().is_err());
    /// # Ok::<(), manyhands::Error>(())
    /// ```
    fn from_str(name: &str) -> Result<Scheduler, Error> {
        match name.to_ascii_lowercase().as_str() {
            "synchronous" | "sync" | "single-threaded" => Ok(Scheduler::Synchronous),
            "threads" | "threading" => Ok(Scheduler::Threads),
            "processes" | "multiprocessing" => Err(Error::Config(format!(
                "{name:?} runs tasks in other processes, but a Rust closure cannot leave its own. \
                 Accepted: {SCHEDULERS_ACCEPTED}."
            ))),
            _ => Err(Error::Config(format!(
                "{name:?} is not a scheduler. Accepted: {SCHEDULERS_ACCEPTED}."
            ))),
        }
    }
}

/// Where and how to run, for programs that want to choose. None of it is ever needed.
///
/// What is not chosen here comes from the environment, and what is not chosen there has a default.
/// With `MANYHANDS_FORCE=1` the environment wins, so that whoever runs a program has the last word
/// over whoever wrote it.
///
/// | option | environment | default |
/// |---|---|---|
/// | [`scheduler`](Options::scheduler) | `MANYHANDS_SCHEDULER` | threads |
/// | [`workers`](Options::workers) | `MANYHANDS_NUM_WORKERS` | [`cpu_count()`](crate::cpu_count) |
/// | [`batch_size`](Options::batch_size) | `MANYHANDS_CHUNKSIZE` | as measured |
/// | [`seed`](Options::seed) | `MANYHANDS_SEED` | none |
///
/// ```
/// use manyhands::{Options, Scheduler};
///
/// let options = Options::new().scheduler(Scheduler::Threads).workers(2);
/// assert_eq!(options.map(1..=3, |x| x * x)?, [1, 4, 9]);
/// # Ok::<(), manyhands::Error>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    scheduler: Option<Scheduler>,
    workers: Option<usize>,
    batch_size: Option<usize>,
    seed: Option<u128>,
}

/// More than this many workers is taken for a mistake.
pub(crate) const WORKERS_MAX: usize = 10_000;
pub(crate) const BATCH_SIZE_MAX: usize = i32::MAX as usize;

/// Options when all has been decided.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Settings {
    pub(crate) scheduler: Scheduler,
    pub(crate) n_workers: usize,
    pub(crate) batch_size: Option<NonZeroU32>,
    pub(crate) seed: Option<u128>,
}

impl Options {
    /// Nothing chosen.
    pub fn new() -> Options {
        Options::default()
    }

    /// Where tasks run.
    pub fn scheduler(mut self, scheduler: Scheduler) -> Options {
        self.scheduler = Some(scheduler);
        self
    }

    /// How many threads run tasks, from 1 to 10 000.
    pub fn workers(mut self, n_workers: usize) -> Options {
        self.workers = Some(n_workers);
        self
    }

    /// How many tasks a thread is given at once, at least 1. Without it, batches follow the measured
    /// time of the tasks.
    pub fn batch_size(mut self, n_tasks: usize) -> Options {
        self.batch_size = Some(n_tasks);
        self
    }

    /// What the random numbers of [`map_seeded`](Options::map_seeded) follow from. Equal seeds give
    /// equal numbers, on every scheduler and with any number of workers.
    pub fn seed(mut self, seed: u128) -> Options {
        self.seed = Some(seed);
        self
    }

    /// Decides, with the environment of this process.
    pub(crate) fn settings(&self) -> Result<Settings, Error> {
        self.settings_in(Environment::of_process()?)
    }

    fn settings_in(&self, environment: &Environment) -> Result<Settings, Error> {
        let chosen = Options {
            scheduler: self.scheduler,
            workers: check("workers", self.workers, WORKERS_MAX)?,
            batch_size: check("batch_size", self.batch_size, BATCH_SIZE_MAX)?,
            seed: self.seed,
        };
        let (first, second) = match environment.is_forced {
            true => (environment.options, chosen),
            false => (chosen, environment.options),
        };
        let workers = first.workers.or(second.workers);
        let batch_size = first.batch_size.or(second.batch_size);
        Ok(Settings {
            scheduler: (first.scheduler.or(second.scheduler)).unwrap_or(Scheduler::Threads),
            n_workers: workers.unwrap_or_else(default_workers),
            batch_size: batch_size.and_then(|n_tasks| NonZeroU32::new(n_tasks as u32)),
            seed: first.seed.or(second.seed),
        })
    }

    /// Options as the environment gives them, checked already.
    pub(crate) fn from_environment(
        scheduler: Option<Scheduler>,
        workers: Option<usize>,
        batch_size: Option<usize>,
        seed: Option<u128>,
    ) -> Options {
        Options {
            scheduler,
            workers,
            batch_size,
            seed,
        }
    }
}

/// As many as there are CPUs, asked for once: the answer takes a dozen files.
fn default_workers() -> usize {
    static N_CPUS: OnceLock<usize> = OnceLock::new();
    *N_CPUS.get_or_init(crate::cpu_count)
}

fn check(name: &str, value: Option<usize>, highest: usize) -> Result<Option<usize>, Error> {
    match value {
        Some(value) if !(1..=highest).contains(&value) => Err(Error::Config(format!(
            "{name}({value}) is not accepted. Accepted: a number from 1 to {highest}."
        ))),
        _ => Ok(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let find = |name: &str| {
            let (_, value) = variables.iter().find(|(key, _)| *key == name)?;
            Some((*value).to_owned())
        };
        Environment::read(find).expect("an environment that is accepted")
    }

    #[test]
    fn defaults_stand_behind_the_environment_and_that_behind_options() {
        let none = environment(&[]);
        let settings = Options::new().settings_in(&none).expect("defaults");
        assert_eq!(settings.scheduler, Scheduler::Threads);
        assert_eq!(settings.n_workers, crate::cpu_count());
        assert_eq!(settings.batch_size, None);
        assert_eq!(settings.seed, None);

        let some = environment(&[
            ("MANYHANDS_SCHEDULER", "sync"),
            ("MANYHANDS_NUM_WORKERS", "3"),
            ("MANYHANDS_CHUNKSIZE", "5"),
            ("MANYHANDS_SEED", "340282366920938463463374607431768211455"),
        ]);
        let settings = Options::new().settings_in(&some).expect("environment");
        assert_eq!(settings.scheduler, Scheduler::Synchronous);
        assert_eq!(settings.n_workers, 3);
        assert_eq!(settings.batch_size, NonZeroU32::new(5));
        assert_eq!(settings.seed, Some(u128::MAX));

        let chosen = Options::new().scheduler(Scheduler::Threads).workers(7);
        let chosen = chosen.seed(0);
        let settings = chosen.settings_in(&some).expect("options");
        assert_eq!(settings.seed, Some(0));
        assert_eq!(settings.scheduler, Scheduler::Threads);
        assert_eq!(settings.n_workers, 7);
        assert_eq!(settings.batch_size, NonZeroU32::new(5));
    }

    #[test]
    fn a_forced_environment_wins_where_it_says_something() {
        let forced = environment(&[("MANYHANDS_NUM_WORKERS", "3"), ("MANYHANDS_FORCE", "1")]);
        let chosen = Options::new().workers(7).batch_size(2);
        let settings = chosen.settings_in(&forced).expect("accepted");
        assert_eq!(settings.n_workers, 3);
        assert_eq!(settings.batch_size, NonZeroU32::new(2));
    }

    #[test]
    fn what_is_not_accepted_is_named_with_what_is() {
        let none = environment(&[]);
        let outcome = Options::new().workers(0).settings_in(&none);
        let message = outcome.expect_err("no workers").to_string();
        assert_eq!(
            message,
            "workers(0) is not accepted. Accepted: a number from 1 to 10000."
        );
        let outcome = Options::new().batch_size(usize::MAX).settings_in(&none);
        let message = outcome.expect_err("too large a batch").to_string();
        assert!(message.starts_with("batch_size("), "{message}");
    }
}
