//! Many hands make light work: graphs of closures and parallel maps, on the engine under manyhands.
//!
//! Say **what** may run in parallel. Threads that are started once and kept run it; nobody sets a
//! chunk size.
//!
//! ```
//! // One closure over many items, results in order.
//! let squares = manyhands::map(0..1000u64, |x| x * x)?;
//! assert_eq!(squares[12], 144);
//!
//! // A graph of closures: a task reads what others gave, by reference.
//! let mut g = manyhands::Graph::new();
//! let data = g.task(|| vec![3.0, 4.0, 8.0]);
//! let mean = g.task_with(data, |data| data.iter().sum::<f64>() / data.len() as f64);
//! let spread = g.task_with((data, mean), |(data, mean)| {
//!     data.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (data.len() - 1) as f64
//! });
//! assert_eq!(g.run((mean, spread))?, (5.0, 7.0));
//! # Ok::<(), manyhands::Error>(())
//! ```
//!
//! # What it sees to
//!
//! - **Order**: tasks run depth first, so that few results are alive at once, and a result is dropped
//!   the moment its last reader has ended. What the wanted results do not need is not run.
//! - **Balance**: a thread is given about two milliseconds of work, by measured cost; what it has not
//!   started can be taken back for a thread that has nothing to do.
//! - **Errors**: a panic or an error in a task ends the run as an [`Error`] that names the task. The
//!   pool goes on.
//! - **Random numbers**: [`map_seeded`] gives each call a stream of its own, which depends on the seed
//!   and the number of the item alone: NumPy's, bit for bit. Other generators are in [`random`].
//! - **Nesting**: a run inside of a task runs in that task's thread, so nothing is oversubscribed and
//!   nothing waits for itself.
//!
//! # Configuration
//!
//! [`Options`] choose the scheduler, the number of workers, the size of batches and the seed for one run,
//! and the environment for a whole program: `MANYHANDS_SCHEDULER`, `MANYHANDS_NUM_WORKERS`,
//! `MANYHANDS_CHUNKSIZE`, `MANYHANDS_SEED`, `MANYHANDS_FORCE`. With `MANYHANDS_SCHEDULER=synchronous` everything runs in
//! the calling thread, one task after the other, where a debugger follows it.

#![warn(missing_docs)]

mod engine;
mod environment;
mod error;
mod graph;
mod handles;
mod map;
mod options;
mod results;
mod seeded;

pub use error::{BoxError, Error};
pub use graph::{Graph, Named};
pub use handles::{Handle, Handles};
pub use manyhands_executor::cpus::cpu_count;
/// Streams of random numbers: the generators of NumPy and R, number for number.
pub use manyhands_random as random;
pub use map::{map, try_map};
pub use options::{Options, Scheduler};
pub use seeded::map_seeded;
