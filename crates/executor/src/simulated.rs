//! Runs jobs nowhere: drives the scheduler through virtual time, and checks it after every step.
//!
//! A [`Case`] says which jobs are submitted when, how long their tasks take, on how many workers
//! they run, how long messages take, and what goes wrong: tasks that fail or kill their worker,
//! workers lost at any moment, late ticks, reports that turn up twice. [`Case::random`] draws one
//! from a seed, and the same seed always runs the same way. [`run`] plays it to the end, holding
//! every command against a second account of what must happen, and returns what it cost in virtual
//! time, or a [`Violation`] with the story of the task concerned.
//!
//! ```
//! use manyhands_executor::simulated::{Case, JobPlan, Machine, run};
//! use manyhands_scheduler::Graph;
//!
//! let jobs = vec![JobPlan::new(Graph::independent(8), vec![1_000_000; 8])];
//! let case = Case { seed: 1, machine: Machine::calm(4, 30_000, 0), jobs };
//! let outcome = run(&case).unwrap();
//! assert!(outcome.makespan_ns >= 2_000_000);
//! ```

mod act;
mod case;
mod cores;
mod happening;
mod model;
mod random;
mod sabotage;
mod shapes;
mod story;
mod worker;
mod world;

pub use case::{Case, Fate, JobPlan, Machine};
pub use random::Random;
pub use sabotage::Sabotage;
pub use shapes::{Durations, random_graph};

use act::Fault;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use story::Story;
use world::World;

/// What a run came to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Outcome {
    /// When the last job was done.
    pub makespan_ns: u64,
    /// What all runs of tasks took together.
    pub busy_ns: u64,
    /// How many events the scheduler was given.
    pub n_steps: u64,
    /// How often a task ran to its end.
    pub n_tasks_run: u64,
    /// How many tasks were asked back.
    pub n_taken_back: u64,
    /// How many results were delivered.
    pub n_delivered: u64,
    /// How much work, at most, a worker held behind the task that it ran.
    pub behind_ns_max: u64,
    /// How many results that nobody asked for were kept at one time, for tasks that read them.
    pub n_kept_max: u64,
    /// How large they were at most, all together.
    pub kept_size_max: u64,
    /// How often results were found to have piled up.
    pub n_pressed: u64,
    /// How many tasks were reported as failed.
    pub n_failed: u64,
    /// How many wanted results will not come, in jobs that go on without.
    pub n_lost: u64,
    /// How often a worker was looked at.
    pub n_looks: u64,
    /// How many workers were ended because their task ran for too long.
    pub n_out_of_time: u64,
    /// How often a task was tried again.
    pub n_retries: u64,
    /// How many workers were lost.
    pub n_losses: u64,
    is_spoilt: bool,
}

/// A rule that was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// Which, in words.
    pub what: String,
    /// The seed of the case.
    pub seed: u64,
    /// The case's parameters.
    pub case: String,
    /// What happened to the task concerned, in order.
    pub story: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.what)?;
        writeln!(f, "{}", self.case)?;
        writeln!(f, "the story:")?;
        for line in &self.story {
            writeln!(f, "  {line}")?;
        }
        writeln!(f, "repeat it with:")?;
        write!(
            f,
            "  cargo xtask simulate --cases 1 --seed {} --verbose",
            self.seed
        )
    }
}

impl std::error::Error for Violation {}

/// Runs a case to its end.
///
/// # Errors
///
/// The first rule that was broken, with the story of the task concerned.
pub fn run(case: &Case) -> Result<Outcome, Box<Violation>> {
    run_with(case, None).map_err(|fault| tell(case, None, &fault))
}

/// Runs a case with a fault put in: `None` if the case gave no occasion for it.
pub fn run_sabotaged(case: &Case, sabotage: Sabotage) -> Option<Result<Outcome, Box<Violation>>> {
    match run_with(case, Some(sabotage)) {
        Err(fault) => Some(Err(tell(case, Some(sabotage), &fault))),
        Ok(outcome) => outcome.is_spoilt.then_some(Ok(outcome)),
    }
}

fn run_with(case: &Case, sabotage: Option<Sabotage>) -> Result<Outcome, Fault> {
    let mut world = World::new(case, sabotage, Story::default());
    play(&mut world).map(|()| world.outcome)
}

/// A panic of the scheduler is a violation like any other.
fn play(world: &mut World<'_>) -> Result<(), Fault> {
    catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|panic| {
        let text = (panic.downcast_ref::<String>().cloned())
            .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_string()))
            .unwrap_or_default();
        act::fault(None, format!("a panic: {text}"))
    })
}

/// Runs the case again, keeping the story this time.
fn tell(case: &Case, sabotage: Option<Sabotage>, found: &Fault) -> Box<Violation> {
    let mut world = World::new(case, sabotage, Story::told());
    let again = play(&mut world);
    let is_same = again.is_err_and(|fault| fault.what == found.what);
    let mut story = world.story.about(found.task);
    let n_lines_max = 400;
    if story.len() > n_lines_max {
        story.drain(..story.len() - n_lines_max);
    }
    if !is_same {
        story.push("(but run again, it went otherwise)".to_string());
    }
    Box::new(Violation {
        what: found.what.clone(),
        seed: case.seed,
        case: describe(case),
        story,
    })
}

fn describe(case: &Case) -> String {
    let mut text = format!("{:?}", case.machine);
    for (at, job) in case.jobs.iter().enumerate() {
        let JobPlan {
            shape,
            spec,
            fates,
            needs,
            ..
        } = job;
        let n_tasks = job.durations_ns.len();
        let unusual: Vec<_> = (fates.iter().enumerate())
            .filter(|(_, fate)| **fate != Fate::Returns)
            .collect();
        text += &format!(
            "\njob {at}: {shape} of {n_tasks} tasks at {} ns, batch size {:?}, pieces {:?}, \
             first call {} ns, cancel {:?}, {:?}, fates {unusual:?}, needs {needs:?}",
            job.submit_ns, spec.batch_size, job.pieces, job.first_call_ns, job.cancel, spec.rules
        );
    }
    text
}
