//! Shared memory through a pool of processes: it arrives, it is given back, and nothing of it is left.

mod memory;

use manyhands_executor::processes::ProcessPool;
use manyhands_executor::{Failure, Stock};
use manyhands_store::{Arena, Lease};
use memory::{
    Call, Outcome, finish, look, n_descriptors, pool, run, stock, submit, sum, wait_until,
};
use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const PAGE: u64 = 4096;
const WIDE: u64 = 1 << 30;

/// Descriptors are counted, so one test runs at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn leases(arena: &Arena, n_blocks: usize, n_bytes: usize) -> Vec<Lease> {
    let block = |at: usize| arena.copy_in(&vec![at as u8; n_bytes]);
    (0..n_blocks)
        .map(|at| block(at).expect("there is memory"))
        .collect()
}

fn sums(leases: &[Lease]) -> Vec<Call> {
    leases
        .iter()
        .map(|lease| Call::Sum(vec![lease.place()]))
        .collect()
}

/// What [`sums`] return.
fn check_sums(outcomes: &[Outcome], n_bytes: usize) {
    for (at, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome.number(), (at % 256 * n_bytes) as u64, "task {at}");
    }
}

fn wait_for_no_leases(pool: &ProcessPool, stock: &Arc<Stock>) {
    wait_until("all leases end", || look(pool, stock).n_leases == 0);
}

#[test]
fn arguments_are_read_where_they_lie() {
    let _alone = alone();
    let stock = stock(WIDE);
    let pool = pool(&stock, 2);
    let leases = leases(&stock.arena, 64, 5000);
    for _ in 0..3 {
        check_sums(&run(&pool, &stock, sums(&leases)), 5000);
    }
    assert_eq!(stock.arena.n_segments(), 1);
    assert_eq!(
        run(&pool, &stock, vec![Call::Look])[0]
            .standing()
            .n_segments,
        0
    );
}

#[test]
fn many_segments_reach_many_workers() {
    let _alone = alone();
    let stock = stock(PAGE);
    let pool = pool(&stock, 3);
    let leases = leases(&stock.arena, 150, 4000);
    assert_eq!(stock.arena.n_segments(), 150);
    check_sums(&run(&pool, &stock, sums(&leases)), 4000);
    // One task may need them all.
    let all = Call::Sum(leases.iter().map(Lease::place).collect());
    let total = (0..150).map(|at| at * 4000).sum::<u64>();
    assert_eq!(run(&pool, &stock, vec![all])[0].number(), total);
}

#[test]
fn descriptors_keep_their_places_when_sockets_are_full() {
    let _alone = alone();
    let stock = stock(PAGE);
    let pool = pool(&stock, 2);
    let leases = leases(&stock.arena, 40, 4000);
    // More than a socket holds goes before each segment.
    let calls = sums(&leases);
    let stuffed = calls
        .into_iter()
        .flat_map(|call| [Call::Wait(0, 1 << 20), call]);
    let outcomes = run(&pool, &stock, stuffed.collect());
    let outcomes: Vec<_> = outcomes.into_iter().skip(1).step_by(2).collect();
    check_sums(&outcomes, 4000);
}

#[test]
fn results_come_without_a_copy_and_their_memory_is_used_again() {
    let _alone = alone();
    let stock = stock(WIDE);
    let pool = pool(&stock, 1);
    for value in 0..100 {
        let made = run(&pool, &stock, vec![Call::Make(1 << 20, value); 4]);
        for outcome in made {
            let adopted = outcome.made();
            let view = stock
                .foreign
                .view_private(adopted.place())
                .expect("it is there");
            assert_eq!(sum(&view), u64::from(value) << 20);
        }
    }
    wait_for_no_leases(&pool, &stock);
    let standing = look(&pool, &stock);
    assert_eq!(
        (standing.bytes_in_use, standing.n_segments),
        (0, 1),
        "{standing:?}"
    );
}

#[test]
fn rights_may_be_dropped_in_any_thread() {
    let _alone = alone();
    let stock = stock(WIDE);
    let pool = pool(&stock, 1);
    let made = run(&pool, &stock, vec![Call::Make(PAGE, 1); 400]);
    let mut made: Vec<_> = made.into_iter().map(Outcome::made).collect();
    assert_eq!(look(&pool, &stock).n_leases, 400);
    std::thread::scope(|scope| {
        while !made.is_empty() {
            let part = made.split_off(made.len() - 50);
            scope.spawn(move || drop(part));
        }
    });
    wait_for_no_leases(&pool, &stock);
}

#[test]
fn results_of_a_cancelled_job_are_given_back() {
    let _alone = alone();
    let stock = stock(WIDE);
    let pool = pool(&stock, 1);
    run(&pool, &stock, vec![Call::Look]);
    for _ in 0..20 {
        let function = pool.function(b"cancelled", &[], None);
        let mut calls = vec![Call::Make(PAGE, 1); 200];
        calls.extend(vec![Call::Wait(1, 0); 4]);
        let (job, calls) = submit(&pool, &stock, function, calls);
        std::thread::sleep(std::time::Duration::from_millis(1));
        job.cancel(memory::PATIENCE);
        drop((job, calls));
    }
    wait_for_no_leases(&pool, &stock);
}

#[test]
fn what_a_dead_worker_returned_stays_readable_for_as_long_as_it_is_needed() {
    let _alone = alone();
    let stock = stock(WIDE);
    let pool = pool(&stock, 1);
    let made = run(&pool, &stock, vec![Call::Make(1 << 20, 3)])
        .remove(0)
        .made();
    let function = pool.function(b"deadly", &[], None);
    let (job, calls) = submit(&pool, &stock, function, vec![Call::Die]);
    let failure = finish(&job, &calls).expect_err("no worker survives this");
    assert!(matches!(failure, Failure::WorkerDied(..)), "{failure:?}");
    let view = stock
        .foreign
        .view_private(made.place())
        .expect("it is there");
    assert_eq!(sum(&view), 3 << 20);
    // The next worker reads it too, and lets go of it when it is told.
    let read = vec![Call::Sum(vec![made.place()])];
    let before = look(&pool, &stock).n_memory_files;
    assert_eq!(run(&pool, &stock, read)[0].number(), 3 << 20);
    assert_eq!(look(&pool, &stock).n_memory_files, before + 1);
    let segment = made.place().segment;
    drop((view, made));
    wait_until("the worker lets go", || {
        look(&pool, &stock).n_memory_files == before
    });
    assert!(stock.descriptor(segment).is_none());
}

#[test]
fn results_go_from_worker_to_worker_by_reference() {
    let _alone = alone();
    let stock = stock(WIDE);
    let pool = pool(&stock, 2);
    // Long enough for both workers to take part.
    let calls = (0..40).flat_map(|value| [Call::Make(PAGE, value), Call::Wait(2, 0)]);
    let made = run(&pool, &stock, calls.collect());
    let made = made.into_iter().step_by(2).map(Outcome::made);
    let made: Vec<_> = made.collect();
    let owners: std::collections::BTreeSet<_> = made
        .iter()
        .map(|made| made.place().segment.owner())
        .collect();
    assert!(!owners.contains(&0));
    let read = made.iter().map(|made| Call::Sum(vec![made.place()]));
    for (value, outcome) in run(&pool, &stock, read.collect()).iter().enumerate() {
        assert_eq!(outcome.number(), value as u64 * PAGE);
    }
}

/// Spoils a block when it is dropped.
struct Spoiler(Lease);

impl Drop for Spoiler {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        let place = self.0.place();
        // SAFETY: the lease keeps the block from everybody else in this process.
        unsafe {
            self.0
                .as_ptr()
                .cast_mut()
                .write_bytes(0xff, place.n_bytes as usize)
        };
    }
}

#[test]
fn what_a_function_refers_to_stays_until_every_worker_has_forgotten_it() {
    let _alone = alone();
    let stock = stock(WIDE);
    let pool = pool(&stock, 1);
    let held = Arc::new(());
    let lease = stock.arena.copy_in(&[1; 1000]).expect("there is memory");
    let place = lease.place();
    let keep: Box<dyn Any + Send> = Box::new((Spoiler(lease), Arc::clone(&held)));
    let function = pool.function(&place.to_bytes(), &[place.segment], Some(keep));
    let (job, calls) = submit(&pool, &stock, function, vec![Call::SumOfFunction; 10]);
    // These come between the function's last task and the request to forget it.
    let other = pool.function(b"other", &[], None);
    let (later, later_calls) = submit(&pool, &stock, other, vec![Call::Wait(20, 0); 3]);
    for outcome in finish(&job, &calls).expect("the job succeeds") {
        assert_eq!(outcome.number(), 1000);
    }
    finish(&later, &later_calls).expect("the job succeeds");
    wait_until("the lease ends", || Arc::strong_count(&held) == 1);
    assert_eq!(look(&pool, &stock).sums_at_forget, 1000);
    assert_eq!(stock.arena.stats().n_leases, 0);
}

#[test]
fn a_dead_worker_keeps_no_function() {
    let _alone = alone();
    let stock = stock(WIDE);
    let pool = pool(&stock, 2);
    let held = Arc::new(());
    let keep: Box<dyn Any + Send> = Box::new(Arc::clone(&held));
    let function = pool.function(b"held", &[], Some(keep));
    let (job, calls) = submit(&pool, &stock, function, vec![Call::Wait(60_000, 0); 2]);
    wait_until("workers come", || pool.worker_pids().len() == 2);
    pool.kill_workers();
    assert!(finish(&job, &calls).is_err());
    wait_until("the function goes", || Arc::strong_count(&held) == 1);
}

#[test]
fn a_function_given_up_before_it_was_used_goes_at_once() {
    let _alone = alone();
    let stock = stock(WIDE);
    let pool = pool(&stock, 1);
    let held = Arc::new(());
    let keep: Box<dyn Any + Send> = Box::new(Arc::clone(&held));
    let function = pool.function(b"never", &[], Some(keep));
    pool.forget_functions(&[function]);
    assert_eq!(Arc::strong_count(&held), 1);
}

#[test]
fn no_descriptor_is_left_behind() {
    let _alone = alone();
    // Whatever the first use opens for good is open now.
    run(&pool(&stock(WIDE), 1), &stock(WIDE), vec![Call::Look]);
    let before = n_descriptors();
    for _ in 0..5 {
        let stock = stock(PAGE);
        let pool = pool(&stock, 2);
        let leases = leases(&stock.arena, 20, 4000);
        check_sums(&run(&pool, &stock, sums(&leases)), 4000);
        let made = run(&pool, &stock, vec![Call::Make(PAGE, 1); 20]);
        assert!(memory::n_open("") > 20);
        let function = pool.function(b"deadly", &[], None);
        let (job, calls) = submit(&pool, &stock, function, vec![Call::Die]);
        assert!(finish(&job, &calls).is_err());
        drop((made, leases, job, calls));
        pool.shutdown();
        drop((pool, stock));
        wait_until("the reactor ends", || n_descriptors() <= before);
    }
}
