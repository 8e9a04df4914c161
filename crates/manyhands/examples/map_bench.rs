//! What a task costs: nanoseconds for each no-op item of a map and each no-op task of a graph.
//!
//! Run it with `cargo run --release --example map_bench`, with the number of rounds as an optional
//! argument. The median of the rounds is given; with `--json`, as a line of JSON for each way.

use manyhands::{Error, Graph, Options, Scheduler};
use std::hint::black_box;
use std::time::{Duration, Instant};

const N_ITEMS: u32 = 100_000;
const N_LEAVES: u32 = 1 << 15;

/// The median of the time that `round` takes, for one of its tasks.
fn median_ns(
    n_rounds: usize,
    n_tasks: u32,
    mut round: impl FnMut() -> Result<Duration, Error>,
) -> Result<f64, Error> {
    let mut durations = Vec::new();
    for _ in 0..n_rounds {
        durations.push(round()?);
    }
    durations.sort_unstable();
    Ok(durations[n_rounds / 2].as_nanos() as f64 / f64::from(n_tasks))
}

fn map_round(options: &Options) -> Result<Duration, Error> {
    let start = Instant::now();
    black_box(options.map(0..N_ITEMS, |x| x)?);
    Ok(start.elapsed())
}

fn flat_round(options: &Options) -> Result<Duration, Error> {
    let start = Instant::now();
    let mut g = Graph::new();
    let tasks: Vec<_> = (0..N_ITEMS).map(|x| g.task(move || x)).collect();
    black_box(options.run(g, tasks)?);
    Ok(start.elapsed())
}

/// A sum over a tree: each task but the leaves reads two others.
fn tree_round(options: &Options) -> Result<Duration, Error> {
    let start = Instant::now();
    let mut g = Graph::new();
    let mut level: Vec<_> = (0..N_LEAVES)
        .map(|x| g.task(move || u64::from(x)))
        .collect();
    while level.len() > 1 {
        level = (level.chunks(2))
            .map(|pair| g.task_with([pair[0], pair[1]], |[a, b]| a + b))
            .collect();
    }
    black_box(options.run(g, level[0])?);
    Ok(start.elapsed())
}

fn one_round(options: &Options) -> Result<Duration, Error> {
    let start = Instant::now();
    black_box(options.map([1], |x| x)?);
    Ok(start.elapsed())
}

fn main() -> Result<(), Error> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let is_json = args.iter().any(|arg| arg == "--json");
    let n_rounds = args.iter().find_map(|text| text.parse().ok());
    let n_rounds = n_rounds.unwrap_or(9).max(1);
    let threads = Options::new().scheduler(Scheduler::Threads);
    let ways = [
        (
            "synchronous",
            Options::new().scheduler(Scheduler::Synchronous),
        ),
        ("1 thread", threads.workers(1)),
        ("2 threads", threads.workers(2)),
    ];
    if !is_json {
        println!("ns a task        map   flat graph   tree graph   map of one item");
    }
    for (name, options) in ways {
        let map_ns = median_ns(n_rounds, N_ITEMS, || map_round(&options))?;
        let flat_ns = median_ns(n_rounds, N_ITEMS, || flat_round(&options))?;
        let tree_ns = median_ns(n_rounds, 2 * N_LEAVES - 1, || tree_round(&options))?;
        let one_ns = median_ns(n_rounds * 100, 1, || one_round(&options))?;
        if is_json {
            println!(
                "{{\"way\": \"{name}\", \"map_ns\": {map_ns:.1}, \"flat_ns\": {flat_ns:.1}, \
                 \"tree_ns\": {tree_ns:.1}, \"one_ns\": {one_ns:.1}}}"
            );
        } else {
            println!("{name:<12} {map_ns:>7.0} {flat_ns:>12.0} {tree_ns:>12.0} {one_ns:>17.0}");
        }
    }
    Ok(())
}
