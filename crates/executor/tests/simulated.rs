//! Ten thousand random cases, and proof that the checks find what they are there to find.

use manyhands_executor::simulated::{Case, Outcome, Sabotage, Violation, run, run_sabotaged};
use std::sync::atomic::{AtomicU64, Ordering};

const N_CASES: u64 = 10_000;
/// Other cases than `cargo xtask simulate` begins with.
const SEED: u64 = 1 << 32;

fn run_from(next: &AtomicU64) -> Result<Outcome, Box<Violation>> {
    let mut total = Outcome::default();
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= N_CASES {
            return Ok(total);
        }
        let outcome = run(&Case::random(SEED + number))?;
        total.n_steps += outcome.n_steps;
        total.n_delivered += outcome.n_delivered;
        total.n_failed += outcome.n_failed;
        total.n_losses += outcome.n_losses;
        total.n_taken_back += outcome.n_taken_back;
    }
}

#[test]
fn random_cases_keep_every_rule() {
    let next = AtomicU64::new(0);
    let n_threads = std::thread::available_parallelism().map_or(1, usize::from);
    let totals: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..n_threads)
            .map(|_| scope.spawn(|| run_from(&next)))
            .collect();
        threads.into_iter().map(|thread| thread.join()).collect()
    });
    let mut n = [0; 4];
    for total in totals {
        let total = total
            .expect("a run's own panics are violations")
            .unwrap_or_else(|violation| panic!("{violation}"));
        let counts = [
            total.n_delivered,
            total.n_failed,
            total.n_losses,
            total.n_taken_back,
        ];
        n.iter_mut().zip(counts).for_each(|(n, count)| *n += count);
    }
    // The cases must be such that everything happens, and often.
    assert!(n.into_iter().all(|n| n > N_CASES / 10), "{n:?}");
}

#[test]
fn the_same_seed_runs_the_same_way() {
    for seed in 0..50 {
        assert_eq!(
            run(&Case::random(seed)).ok(),
            run(&Case::random(seed)).ok(),
            "seed {seed}"
        );
    }
}

/// The checks must find nearly every fault. A few are made good before they show: a batch that was
/// lost belongs to a job that is cancelled, say. Four often are without effect: a request,
/// a tick or the news of pressure is lost and the run goes on well without it, or a worker's task ends
/// just in time.
#[test]
fn faults_put_in_on_purpose_are_found() {
    for sabotage in Sabotage::ALL {
        let is_often_harmless = matches!(
            sabotage,
            Sabotage::LoseTakeBack
                | Sabotage::LoseKill
                | Sabotage::LoseLook
                | Sabotage::MissTicks
                | Sabotage::MissPressure
                | Sabotage::MissNeeds
        );
        let (mut n_found, mut missed) = (0, Vec::new());
        for seed in 0..20_000 {
            match run_sabotaged(&Case::random(seed), sabotage) {
                Some(Err(violation)) => {
                    n_found += 1;
                    assert!(violation.to_string().contains(&format!("--seed {seed} ")));
                }
                Some(Ok(_)) => missed.push(seed),
                None => {}
            }
            if n_found == 100 {
                break;
            }
        }
        println!("{sabotage:?}: found {n_found}, missed {}", missed.len());
        assert!(n_found == 100, "{sabotage:?} was found {n_found} times");
        assert!(
            is_often_harmless || missed.len() <= 2,
            "{sabotage:?} was missed with seeds {missed:?}"
        );
    }
}
