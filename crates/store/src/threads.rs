//! A few threads for a moment, to move more bytes than one core can.

use std::sync::OnceLock;
use std::thread;

/// From here on a second thread is worth starting.
const PARALLEL_BYTES: usize = 8 << 20;

/// Memory is no faster with more.
const N_THREADS_MAX: usize = 4;

/// How many threads to use for so many bytes.
pub(crate) fn for_bytes(n_bytes: usize) -> usize {
    static N_CORES: OnceLock<usize> = OnceLock::new();
    if n_bytes < PARALLEL_BYTES {
        return 1;
    }
    let n_cores = *N_CORES.get_or_init(|| thread::available_parallelism().map_or(1, usize::from));
    n_cores.min(N_THREADS_MAX)
}

/// Runs `work` in so many threads, this one included as number 0, and returns what they return. Where a
/// thread is not to be had there are fewer, so `work` shares what there is to do by itself.
pub(crate) fn run<T: Send>(n_threads: usize, work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    if n_threads <= 1 {
        return vec![work(0)];
    }
    thread::scope(|scope| {
        let work = &work;
        let others: Vec<_> = (1..n_threads)
            .filter_map(|number| {
                thread::Builder::new()
                    .spawn_scoped(scope, move || work(number))
                    .ok()
            })
            .collect();
        let mut results = vec![work(0)];
        for other in others {
            results.push(other.join().expect("moving bytes does not panic"));
        }
        results
    })
}
