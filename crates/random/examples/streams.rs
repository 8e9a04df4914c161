//! How long it takes to make a million streams and to draw the first number of each.
//!
//! `cargo run --release -p manyhands-random --example streams [HOW_MANY]`

use manyhands_random::{BitGenerator, Mrg32k3a, Pcg64, SeedSequence, stream};
use std::hint::black_box;
use std::time::Instant;

fn main() {
    let argument = std::env::args().nth(1);
    let n: u64 = argument.map_or(1_000_000, |text| text.parse().expect("how many streams"));
    let seeds = SeedSequence::new(&[1], &[]);
    timed(n, "PCG64, spawned", || {
        (0..n).map(|i| stream(1, i)).collect::<Vec<_>>()
    });
    timed(n, "PCG64, jumped", || {
        let first = Pcg64::seeded(&seeds);
        (0..n).map(|i| first.jumped(i.into())).collect::<Vec<_>>()
    });
    timed(n, "MRG32k3a, each the next of the one before", || {
        let first = Mrg32k3a::seeded(&seeds);
        let next = |last: &Mrg32k3a| Some(last.nth_stream(1));
        let all = std::iter::successors(Some(first), next);
        all.take(n as usize).collect::<Vec<_>>()
    });
    timed(n, "MRG32k3a, each by its number", || {
        let first = Mrg32k3a::seeded(&seeds);
        (0..n).map(|i| first.nth_stream(i)).collect::<Vec<_>>()
    });
}

fn timed<G: BitGenerator>(n: u64, what: &str, make: impl Fn() -> Vec<G>) {
    // The middle of three.
    let mut seconds = [(); 3].map(|()| {
        let start = Instant::now();
        let mut all = make();
        let first = all.iter_mut().map(BitGenerator::next_u64);
        black_box(first.fold(0, u64::wrapping_add));
        start.elapsed().as_secs_f64()
    });
    seconds.sort_by(f64::total_cmp);
    println!("{what}: {:.3} s for {n}", seconds[1]);
}
