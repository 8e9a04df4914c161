//! How a run ends when it does not end well.

/// Any error, as fallible tasks return it; `?` converts into it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Why a run has no results.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A task panicked. Nothing was started after it.
    #[error("{task} panicked: {message}")]
    Panicked {
        /// Which one: the name it was given, or where it was made.
        task: String,
        /// What the panic said.
        message: String,
    },
    /// A fallible task returned an error. Nothing was started after it.
    #[error("{task} failed: {source}")]
    Failed {
        /// Which one: the name it was given, or where it was made.
        task: String,
        /// What it returned.
        source: BoxError,
    },
    /// An option or an environment variable has a value that is not accepted; nothing was run.
    #[error("{0}")]
    Config(String),
    /// The system did not let a thread be started; nothing was run.
    #[error("{0}")]
    NoWorkers(String),
}

/// How a single task ended badly.
pub(crate) enum Mishap {
    Panicked(String),
    Failed(BoxError),
}

impl Mishap {
    /// The mishap of a task with this name.
    pub(crate) fn of(self, task: String) -> Error {
        match self {
            Mishap::Panicked(message) => Error::Panicked { task, message },
            Mishap::Failed(source) => Error::Failed { task, source },
        }
    }
}
