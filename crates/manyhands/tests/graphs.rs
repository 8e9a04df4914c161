//! Graphs of closures, at the public boundary, on every scheduler.

use manyhands::{BoxError, Error, Graph, Handle, Options, Scheduler};
use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// Every way to run: results must not depend on it.
fn each_way() -> Vec<Options> {
    let threads = Options::new().scheduler(Scheduler::Threads);
    vec![
        Options::new().scheduler(Scheduler::Synchronous),
        threads.workers(1),
        threads.workers(2),
        threads.workers(5),
        threads.workers(2).batch_size(1),
        threads.workers(2).batch_size(100),
    ]
}

#[test]
fn shapes_of_handles_are_read_and_given_in_the_same_shape() {
    for options in each_way() {
        let mut g = Graph::new();
        let one = g.task(|| 1u8);
        let text = g.task(|| "two".to_owned());
        let many: Vec<Handle<usize>> = (0..20).map(|x| g.task(move || x)).collect();
        let nested = g.task_with(
            (one, (text, [one, one]), many.clone(), vec![(one, text)]),
            |(one, (text, ones), many, pairs)| {
                format!("{one} {text} {ones:?} {} {pairs:?}", many.len())
            },
        );
        let (nested, (many, [one], ())) = {
            let unit = g.task(|| ());
            options.run(g, (nested, (many, [one], unit))).expect("runs")
        };
        assert_eq!(nested, r#"1 two [1, 1] 20 [(1, "two")]"#);
        assert_eq!(many, (0..20).collect::<Vec<_>>());
        assert_eq!(one, 1);
    }
}

#[test]
fn tuples_of_eight() {
    let mut g = Graph::new();
    let h: Vec<_> = (0..8).map(|x| g.task(move || x)).collect();
    let all = (h[0], h[1], h[2], h[3], h[4], h[5], h[6], h[7]);
    let sum = g.task_with(all, |(a, b, c, d, e, f, g, h)| {
        a + b + c + d + e + f + g + h
    });
    assert_eq!(g.run(sum).expect("runs"), 28);
}

#[test]
fn a_result_that_has_several_readers_is_one_value() {
    for options in each_way() {
        let mut g = Graph::new();
        let data = g.task(|| vec![1.0f64; 100]);
        let addresses: Vec<_> = (0..10)
            .map(|_| g.task_with(data, |data| data.as_ptr().addr()))
            .collect();
        let addresses = options.run(g, addresses).expect("runs");
        assert_eq!(HashSet::<usize>::from_iter(addresses).len(), 1);
    }
}

/// Counts how many of its kind are alive.
struct Counted(Arc<AtomicU32>);

impl Counted {
    fn new(n_alive: &Arc<AtomicU32>) -> Counted {
        n_alive.fetch_add(1, Ordering::SeqCst);
        Counted(Arc::clone(n_alive))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[test]
fn results_go_when_their_last_reader_is_done() {
    let n_alive = Arc::new(AtomicU32::new(0));
    let n_alive_max = Arc::new(AtomicU32::new(0));
    let mut g = Graph::new();
    // A sum over 2^10 leaves: depth first, about one result for each level is alive at once.
    let mut level: Vec<_> = (0..1024)
        .map(|_| {
            let n_alive = Arc::clone(&n_alive);
            g.task(move || Counted::new(&n_alive))
        })
        .collect();
    while level.len() > 1 {
        level = (level.chunks(2))
            .map(|pair| {
                let (n_alive, n_alive_max) = (Arc::clone(&n_alive), Arc::clone(&n_alive_max));
                g.task_with([pair[0], pair[1]], move |_| {
                    let sum = Counted::new(&n_alive);
                    n_alive_max.fetch_max(n_alive.load(Ordering::SeqCst), Ordering::SeqCst);
                    sum
                })
            })
            .collect();
    }
    let options = Options::new().scheduler(Scheduler::Synchronous);
    let top = options.run(g, level[0]).expect("runs");
    assert_eq!(n_alive.load(Ordering::SeqCst), 1);
    drop(top);
    assert_eq!(n_alive.load(Ordering::SeqCst), 0);
    assert!(n_alive_max.load(Ordering::SeqCst) <= 12);
}

#[test]
fn nothing_is_left_alive_after_any_run() {
    let n_alive = Arc::new(AtomicU32::new(0));
    for options in each_way() {
        for failing in [None, Some(7)] {
            let mut g = Graph::new();
            let leaves: Vec<_> = (0..50)
                .map(|at| {
                    let held = Counted::new(&n_alive);
                    g.task(move || {
                        assert_ne!(Some(at), failing, "as planned");
                        Counted::new(&held.0)
                    })
                })
                .collect();
            let count = g.task_with(leaves, |leaves| leaves.len());
            let outcome = options.run(g, count);
            assert_eq!(outcome.is_err(), failing.is_some());
        }
    }
    // After a failure, threads may still be about to drop what they held.
    while n_alive.load(Ordering::SeqCst) > 0 {
        std::thread::yield_now();
    }
}

#[test]
fn what_is_not_needed_is_not_run() {
    for options in each_way() {
        let has_run = Arc::new(Mutex::new(Vec::new()));
        let mut g = Graph::new();
        let tell = |at: u32| {
            let has_run = Arc::clone(&has_run);
            move || {
                has_run.lock().expect("no holder panics").push(at);
                at
            }
        };
        let unneeded = g.task(tell(0));
        let input = g.task(tell(1));
        let _unneeded_reader = g.task_with((unneeded, input), |(a, b)| a + b);
        let wanted = g.task_with(input, |input| input + 10);
        let also = g.task(tell(4));
        assert_eq!(options.run(g, (also, wanted)).expect("runs"), (4, 11));
        let mut has_run = has_run.lock().expect("no holder panics").clone();
        has_run.sort_unstable();
        assert_eq!(has_run, [1, 4]);
    }
}

#[test]
fn a_panic_names_its_task_and_the_pool_goes_on() {
    for options in each_way() {
        let mut g = Graph::new();
        let unused = g.task(|| 0);
        let (line, bad) = (
            line!() + 1,
            g.task(|| -> i32 { panic!("no {} here", "convergence") }),
        );
        let after = g.task_with((bad, unused), |(bad, _)| bad + 1);
        let error = options.run(g, after).expect_err("a panic");
        let Error::Panicked { task, message } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(message, "no convergence here");
        let place = format!("task 1 ({}:{line}:", file!());
        assert!(task.starts_with(&place), "{task}");

        let mut g = Graph::new();
        let bad = g.named("fit fold 3").task(|| std::panic::panic_any(3u8));
        let error = options.run::<Handle<()>>(g, bad).expect_err("a panic");
        assert_eq!(
            error.to_string(),
            r#"task "fit fold 3" panicked: (with a value that is not text)"#
        );

        let mut g = Graph::new();
        let fine = g.task(|| 5);
        assert_eq!(options.run(g, fine).expect("runs"), 5);
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{n_rows} rows are too few")]
struct TooFew {
    n_rows: usize,
}

#[test]
fn an_error_comes_as_itself_with_the_name_of_its_task() {
    for options in each_way() {
        let mut g = Graph::new();
        let n_rows = g.task(|| 3usize);
        let fit = g.named("fit").try_task_with(n_rows, |&n_rows| {
            if n_rows < 10 {
                return Err(TooFew { n_rows }.into());
            }
            Ok(n_rows)
        });
        let error = options.run(g, fit).expect_err("too few rows");
        assert_eq!(
            error.to_string(),
            r#"task "fit" failed: 3 rows are too few"#
        );
        let Error::Failed { source, .. } = error else {
            panic!("{error:?}");
        };
        let source: Box<TooFew> = source.downcast().expect("what the task returned");
        assert_eq!(source.n_rows, 3);
    }
}

#[test]
fn fallible_tasks_that_succeed_are_like_the_others() {
    let mut g = Graph::new();
    let parsed = g.try_task(|| Ok("2.5".parse::<f64>()?));
    let doubled = (g.named("double")).try_task_with(parsed, |x| Ok::<_, BoxError>(2.0 * x));
    assert_eq!(g.run(doubled).expect("runs"), 5.0);
}

/// A result that cannot even be dropped.
struct Cursed;

impl Drop for Cursed {
    fn drop(&mut self) {
        panic!("a destructor panics, as planned");
    }
}

#[test]
fn a_result_that_panics_when_dropped_harms_nobody() {
    for options in each_way() {
        let mut g = Graph::new();
        let cursed = g.task(|| Cursed);
        let reader = g.task_with(cursed, |_| 1);
        let other = g.task_with(reader, |one| one + 1);
        assert_eq!(options.run(g, other).expect("runs"), 2);
    }
}

#[test]
fn a_run_inside_a_task_stays_in_its_thread() {
    for options in each_way() {
        let mut g = Graph::new();
        let outer: Vec<_> = (0..8u64)
            .map(|outer| {
                g.task(move || {
                    let here = std::thread::current().id();
                    let inner = manyhands::map(0..10u64, move |inner| {
                        assert_eq!(std::thread::current().id(), here);
                        outer * inner
                    })
                    .expect("runs");
                    let mut g = Graph::new();
                    let inner = g.task(move || (std::thread::current().id(), inner));
                    let (thread, inner) = options.workers(3).run(g, inner).expect("runs");
                    assert_eq!(thread, here);
                    inner.iter().sum::<u64>()
                })
            })
            .collect();
        let sums = options.run(g, outer).expect("runs");
        assert_eq!(sums, (0..8).map(|outer| outer * 45).collect::<Vec<_>>());
    }
    // A thread that has left its task runs in parallel again.
    let outside = std::thread::current().id();
    let inside = Options::new()
        .scheduler(Scheduler::Threads)
        .map([()], |()| std::thread::current().id());
    assert_ne!(inside.expect("runs"), [outside]);
}

#[test]
fn runs_from_several_threads_with_several_numbers_of_workers() {
    std::thread::scope(|scope| {
        for n_workers in [1, 2, 3, 2] {
            scope.spawn(move || {
                let options = Options::new()
                    .scheduler(Scheduler::Threads)
                    .workers(n_workers);
                for _ in 0..100 {
                    let sum = options.map(0..100u64, |x| x).expect("runs").iter().sum();
                    assert_eq!(4950u64, sum);
                }
            });
        }
    });
}

#[test]
#[should_panic(expected = "task 0 belongs to another graph")]
fn a_handle_of_another_graph_is_refused_as_an_input() {
    let stranger = Graph::new().task(|| 1);
    Graph::new().task_with(stranger, |x| x + 1);
}

#[test]
#[should_panic(expected = "task 0 belongs to another graph")]
fn a_handle_of_another_graph_is_refused_as_a_wish() {
    let stranger = Graph::new().task(|| 1);
    drop(Graph::new().run(stranger));
}

#[test]
#[should_panic(expected = "task \"mean\" is wanted twice")]
fn one_value_is_given_once() {
    let mut g = Graph::new();
    let mean = g.named("mean").task(|| 1);
    drop(g.run((mean, mean)));
}

#[test]
fn an_empty_wish_is_granted() {
    let g = Graph::new();
    assert!(g.is_empty());
    let nothing: Vec<Handle<u8>> = Vec::new();
    assert_eq!(g.run(nothing).expect("runs"), []);
}

#[test]
fn closures_may_be_moved_from() {
    for options in each_way() {
        let text = String::from("owned");
        let mut g = Graph::new();
        let moved = g.task(move || text);
        assert_eq!(options.run(g, moved).expect("runs"), "owned");
    }
}
