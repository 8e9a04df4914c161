//! Executors: they perform the scheduler's commands, each in its own way.
//!
//! What a task *is* stands behind one of two traits. A [`Program`] runs its tasks in this process
//! ([`inline`], [`threads`]); a [`RemoteProgram`] turns them into bytes and takes results as bytes
//! ([`processes`], whose other end is [`worker`]). Neither an executor nor the scheduler looks inside.
//!
//! | module | where tasks run | who drives the scheduler |
//! |---|---|---|
//! | [`inline`] | in the calling thread | the calling thread |
//! | [`threads`] | in threads of this process | whichever thread has something to report |
//! | [`processes`] | in worker processes | a thread that reads from them, and the submitter |
//! | [`simulated`] | nowhere, in virtual time | the test |
//!
//! Locks are only ever held for bookkeeping, never while user code runs, so a thread may take them
//! while it holds an interpreter's lock.

mod clock;
mod connection;
mod core;
pub mod cpus;
pub mod inline;
mod job;
pub mod journal;
mod owner;
pub mod processes;
mod program;
mod relay;
mod shelf;
pub mod simulated;
mod status;
mod stock;
pub mod threads;
mod watch;
pub mod worker;

pub use clock::coarse_tick;
pub use job::{Failure, Job, News, Shortage};
pub use processes::WorkerMemoryLimit;
pub use program::{
    Backlog, Death, Feed, MemoryStop, Program, RemoteProgram, Spilled, ThreadGuard, ThreadHook,
};
pub use relay::{Part, Relay, Said, Stream};
pub use shelf::{MemoryLimit, SpillOptions, SpillStats, Waiting};
pub use stock::{Adopted, DiskPart, Stock, WorkerStock};
pub use watch::{Board, Standing, Watch};

use std::time::Duration;

/// How long tasks of a job that failed or was cancelled may go on before their worker is ended.
pub const CANCEL_GRACE: Duration = Duration::from_millis(100);
