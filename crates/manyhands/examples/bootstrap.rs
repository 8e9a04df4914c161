//! A bootstrap of a regression slope: how sure can we be of a dose's effect?
//!
//! Each replicate draws the subjects anew, from a random stream of its own that only the seed and its
//! number decide, so the intervals are the same to the last bit on every scheduler and any number of
//! workers. At the end a graph puts the parts of a report together.
//!
//! Run it with `cargo run --release --example bootstrap`, and again with
//! `MANYHANDS_SCHEDULER=synchronous`.

use manyhands::random::{BitGenerator, Pcg64, stream};
use manyhands::{Error, Graph};
use std::sync::Arc;
use std::time::Instant;

const SEED: u128 = 2024;
const N_SUBJECTS: usize = 500;
const N_REPLICATES: usize = 4_000;
const TRUE_SLOPE: f64 = 0.8;

/// One subject of the trial.
#[derive(Clone, Copy)]
struct Subject {
    dose: f64,
    response: f64,
}

/// Standard normal, by the sum of twelve uniforms: near enough for an example.
fn normal(rng: &mut Pcg64) -> f64 {
    (0..12).map(|_| rng.next_double()).sum::<f64>() - 6.0
}

/// A made-up trial, in which the response rises by [`TRUE_SLOPE`] for each unit of the dose.
fn trial() -> Vec<Subject> {
    // A stream that no replicate has: theirs are numbered from 0 on.
    let mut rng = stream(SEED, u64::MAX);
    let subjects = (0..N_SUBJECTS).map(|_| {
        let dose = 10.0 * rng.next_double();
        let response = 3.0 + TRUE_SLOPE * dose + 2.0 * normal(&mut rng);
        Subject { dose, response }
    });
    subjects.collect()
}

/// The slope of the least-squares line.
fn slope(subjects: impl Iterator<Item = Subject> + Clone) -> f64 {
    let n = subjects.clone().count() as f64;
    let mean_dose = subjects.clone().map(|s| s.dose).sum::<f64>() / n;
    let mean_response = subjects.clone().map(|s| s.response).sum::<f64>() / n;
    let covariance = |s: Subject| (s.dose - mean_dose) * (s.response - mean_response);
    let variance = |s: Subject| (s.dose - mean_dose).powi(2);
    subjects.clone().map(covariance).sum::<f64>() / subjects.map(variance).sum::<f64>()
}

/// The slope of the subjects drawn anew, with replacement.
fn replicate(subjects: &[Subject], rng: &mut Pcg64) -> f64 {
    let n = subjects.len();
    let mut below = |end: usize| (rng.next_double() * end as f64) as usize;
    let drawn: Vec<_> = (0..n).map(|_| subjects[below(n)]).collect();
    slope(drawn.iter().copied())
}

/// What the study finds.
#[derive(Clone, Debug, PartialEq)]
pub struct Findings {
    estimate: f64,
    standard_error: f64,
    interval: (f64, f64),
}

/// The whole study: a map over the replicates, then a small graph over what it gave.
pub fn study() -> Result<Findings, Error> {
    let subjects = Arc::new(trial());
    let mut replicates = manyhands::map_seeded(SEED, 0..N_REPLICATES, {
        let subjects = Arc::clone(&subjects);
        move |_, rng| replicate(&subjects, rng)
    })?;
    replicates.sort_by(f64::total_cmp);

    let mut g = Graph::new();
    let replicates = g.task(move || replicates);
    let estimate = (g.named("estimate")).task(move || slope(subjects.iter().copied()));
    let standard_error = (g.named("standard error")).task_with(replicates, |replicates| {
        let n = replicates.len() as f64;
        let mean = replicates.iter().sum::<f64>() / n;
        let squares = replicates.iter().map(|x| (x - mean).powi(2));
        (squares.sum::<f64>() / (n - 1.0)).sqrt()
    });
    let interval = (g.named("interval")).task_with(replicates, |replicates| {
        let at = |share: f64| replicates[(share * (replicates.len() - 1) as f64).round() as usize];
        (at(0.025), at(0.975))
    });
    let findings = g.task_with(
        (estimate, standard_error, interval),
        |(&estimate, &standard_error, &interval)| Findings {
            estimate,
            standard_error,
            interval,
        },
    );
    g.run(findings)
}

fn main() -> Result<(), Error> {
    let start = Instant::now();
    let findings = study()?;
    let seconds = start.elapsed().as_secs_f64();
    let Findings {
        estimate,
        standard_error,
        interval: (low, high),
    } = findings;
    println!("response per unit of dose: {estimate:.4}, standard error {standard_error:.4}");
    println!("95% interval from {N_REPLICATES} replicates: {low:.4} to {high:.4}");
    println!("{seconds:.3} s on {} CPUs", manyhands::cpu_count());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use manyhands::{Options, Scheduler};

    #[test]
    fn the_interval_holds_the_truth_and_the_estimate() {
        let findings = study().expect("the study runs");
        let (low, high) = findings.interval;
        assert!(low < TRUE_SLOPE && TRUE_SLOPE < high, "{findings:?}");
        assert!(low < findings.estimate && findings.estimate < high);
        assert_eq!(study().expect("the study runs"), findings);
    }

    #[test]
    fn replicates_are_the_same_to_the_last_bit_everywhere() {
        let subjects = Arc::new(trial());
        let replicates = |options: Options| {
            let subjects = Arc::clone(&subjects);
            let options = options.seed(SEED);
            options.map_seeded(0..200, move |_, rng| replicate(&subjects, rng))
        };
        let serial = replicates(Options::new().scheduler(Scheduler::Synchronous));
        let serial = serial.expect("runs");
        for n_workers in [1, 2, 5] {
            let options = Options::new().scheduler(Scheduler::Threads);
            assert_eq!(
                replicates(options.workers(n_workers)).expect("runs"),
                serial
            );
        }
    }
}
