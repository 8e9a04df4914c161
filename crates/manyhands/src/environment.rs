//! What the person who runs the program chose, by environment variables.

use crate::error::Error;
use crate::options::{BATCH_SIZE_MAX, Options, Scheduler, WORKERS_MAX};
use std::sync::OnceLock;

/// The variables that matter, read and checked.
#[derive(Debug)]
pub(crate) struct Environment {
    pub(crate) options: Options,
    /// Whether they win over the options of the program.
    pub(crate) is_forced: bool,
}

impl Environment {
    /// The environment of this process, read at first use.
    pub(crate) fn of_process() -> Result<&'static Environment, Error> {
        static ENVIRONMENT: OnceLock<Result<Environment, String>> = OnceLock::new();
        let environment = ENVIRONMENT.get_or_init(|| {
            let find = |name: &str| {
                std::env::var_os(name).map(|value| value.to_string_lossy().into_owned())
            };
            Environment::read(find).map_err(|error| error.to_string())
        });
        match environment {
            Ok(environment) => Ok(environment),
            Err(message) => Err(Error::Config(message.clone())),
        }
    }

    /// Reads variables through `find`. One that is empty counts as not set.
    pub(crate) fn read(find: impl Fn(&str) -> Option<String>) -> Result<Environment, Error> {
        let find = |name: &str| {
            let value = find(name)?.trim().to_owned();
            (!value.is_empty()).then_some(value)
        };
        let options = Options::from_environment(
            scheduler(find("MANYHANDS_SCHEDULER"))?,
            number(
                "MANYHANDS_NUM_WORKERS",
                find("MANYHANDS_NUM_WORKERS"),
                WORKERS_MAX,
                "Leave it out to use every CPU that this process may use.",
            )?,
            number(
                "MANYHANDS_CHUNKSIZE",
                find("MANYHANDS_CHUNKSIZE"),
                BATCH_SIZE_MAX,
                "Leave it out to have batches follow the measured time of the tasks.",
            )?,
            seed(find("MANYHANDS_SEED"))?,
        );
        let is_forced = is_forced(find("MANYHANDS_FORCE"))?;
        Ok(Environment { options, is_forced })
    }
}

fn scheduler(value: Option<String>) -> Result<Option<Scheduler>, Error> {
    let Some(value) = value else { return Ok(None) };
    match value.parse() {
        Ok(scheduler) => Ok(Some(scheduler)),
        Err(error) => Err(Error::Config(format!("MANYHANDS_SCHEDULER: {error}"))),
    }
}

fn number(
    name: &str,
    value: Option<String>,
    highest: usize,
    hint: &str,
) -> Result<Option<usize>, Error> {
    let Some(value) = value else { return Ok(None) };
    match value.parse() {
        Ok(number) if (1..=highest).contains(&number) => Ok(Some(number)),
        _ => Err(Error::Config(format!(
            "{name}={value:?} is not accepted. Accepted: a number from 1 to {highest}. {hint}"
        ))),
    }
}

fn seed(value: Option<String>) -> Result<Option<u128>, Error> {
    let Some(value) = value else { return Ok(None) };
    match value.parse() {
        Ok(seed) => Ok(Some(seed)),
        Err(_) => Err(Error::Config(format!(
            "MANYHANDS_SEED={value:?} is not accepted. Accepted: an integer from 0 to {}.",
            u128::MAX
        ))),
    }
}

fn is_forced(value: Option<String>) -> Result<bool, Error> {
    let Some(value) = value else { return Ok(false) };
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(Error::Config(format!(
            "MANYHANDS_FORCE={value:?} is not accepted. Accepted: 1, true, yes, on, 0, false, no, off."
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(name: &str, value: &str) -> String {
        let find = |asked: &str| (asked == name).then(|| value.to_owned());
        let outcome = Environment::read(find);
        outcome
            .expect_err("a value that is not accepted")
            .to_string()
    }

    #[test]
    fn what_is_not_accepted_is_named_with_what_is() {
        for value in ["0", "four", "-1", "2.5", "10001"] {
            let message = message("MANYHANDS_NUM_WORKERS", value);
            assert!(
                message.starts_with(&format!("MANYHANDS_NUM_WORKERS={value:?} is not accepted.")),
                "{message}"
            );
            assert!(message.contains("from 1 to 10000"), "{message}");
        }
        assert!(message("MANYHANDS_CHUNKSIZE", "none").contains("from 1 to 2147483647"));
        for value in ["-1", "one", "1.5", "[1, 2]"] {
            let message = message("MANYHANDS_SEED", value);
            let start = format!("MANYHANDS_SEED={value:?} is not accepted.");
            assert!(message.starts_with(&start), "{message}");
        }
        assert!(message("MANYHANDS_FORCE", "maybe").contains("Accepted: 1, true"));
        let message = message("MANYHANDS_SCHEDULER", "thread");
        assert!(
            message.contains(r#""thread" is not a scheduler"#),
            "{message}"
        );
        assert!(message.contains(r#"Accepted: "threads""#), "{message}");
    }

    #[test]
    fn processes_are_refused_with_the_reason() {
        let message = message("MANYHANDS_SCHEDULER", "processes");
        assert!(
            message.contains("closure cannot leave its own"),
            "{message}"
        );
        assert!(message.contains(r#"Accepted: "threads""#), "{message}");
    }

    #[test]
    fn an_empty_variable_is_not_set() {
        let environment = Environment::read(|_| Some(" ".to_owned())).expect("nothing is set");
        assert_eq!(environment.options, Options::new());
        assert!(!environment.is_forced);
    }
}
