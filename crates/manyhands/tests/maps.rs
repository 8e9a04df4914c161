//! Parallel maps, at the public boundary.

use manyhands::{Error, Options, Scheduler};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};

fn each_way() -> Vec<Options> {
    let threads = Options::new().scheduler(Scheduler::Threads);
    vec![
        Options::new().scheduler(Scheduler::Synchronous),
        threads.workers(1),
        threads.workers(2),
        threads.workers(2).batch_size(3),
    ]
}

#[test]
fn results_come_in_the_order_of_the_items_from_any_iterator() {
    for options in each_way() {
        for n_items in [0usize, 1, 2, 3, 100, 10_000] {
            let expected: Vec<_> = (0..n_items).map(|x| x * 3).collect();
            let items = (0..n_items).filter(|_| true);
            assert_eq!(options.map(items, |x| x * 3).expect("runs"), expected);
        }
        let words = vec!["many".to_owned(), "hands".to_owned()];
        let lengths = options.map(words, |word| word.len()).expect("runs");
        assert_eq!(lengths, [4, 5]);
    }
}

#[test]
fn each_item_is_taken_once_also_by_a_second_map() {
    for options in each_way() {
        let n_calls = Arc::new(AtomicU32::new(0));
        for round in 1..=3 {
            let count = Arc::clone(&n_calls);
            let results = options.map(0..1_000, move |x| {
                count.fetch_add(1, Ordering::SeqCst);
                x
            });
            assert_eq!(results.expect("runs").len(), 1_000);
            assert_eq!(n_calls.load(Ordering::SeqCst), round * 1_000);
        }
    }
}

#[test]
fn results_need_not_be_shared_between_threads() {
    let cells = manyhands::map(0..10, std::cell::Cell::new).expect("runs");
    assert_eq!(cells[3].get(), 3);
}

#[test]
fn two_workers_are_two_threads_at_once() {
    let options = Options::new().scheduler(Scheduler::Threads).workers(2);
    let barrier = Arc::new(Barrier::new(2));
    let threads = options.map(0..2, move |_| {
        barrier.wait();
        std::thread::current().id()
    });
    let threads: HashSet<_> = threads.expect("runs").into_iter().collect();
    assert_eq!(threads.len(), 2);
}

#[test]
fn a_panic_names_the_item() {
    for options in each_way() {
        let line = line!() + 1;
        let outcome = options.map(0..1_000, |x| assert!(x != 500, "{x} is too much"));
        let error = outcome.expect_err("a panic");
        let Error::Panicked { task, message } = &error else {
            panic!("{error:?}");
        };
        let place = format!("item 500 of the map at {}:{line}:", file!());
        assert!(task.starts_with(&place), "{task}");
        assert_eq!(message, "500 is too much");
        assert_eq!(options.map(0..3, |x| x).expect("runs"), [0, 1, 2]);
    }
}

#[test]
fn an_error_ends_the_map() {
    for options in each_way() {
        let n_calls = Arc::new(AtomicU32::new(0));
        let count = Arc::clone(&n_calls);
        let outcome = options.try_map(["1", "x", "3"], move |text| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(text.parse::<u32>()?)
        });
        let error = outcome.expect_err("no number");
        assert!(matches!(error, Error::Failed { .. }), "{error:?}");
        let message = error.to_string();
        assert!(message.starts_with("item 1 of the map at "), "{message}");
        assert!(
            message.ends_with("failed: invalid digit found in string"),
            "{message}"
        );
        let fine = options.try_map(["1", "2"], |text| Ok(text.parse::<u32>()?));
        assert_eq!(fine.expect("numbers"), [1, 2]);
    }
}

#[test]
fn options_that_are_not_accepted_are_errors() {
    for options in [Options::new().workers(0), Options::new().batch_size(0)] {
        let error = options.map(0..3, |x| x).expect_err("nothing to run with");
        assert!(matches!(error, Error::Config(_)), "{error:?}");
        assert!(error.to_string().contains("Accepted: a number from 1 to"));
    }
}
