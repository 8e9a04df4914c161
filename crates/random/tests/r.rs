//! The numbers of R's "L'Ecuyer-CMRG". `tools/random_vectors.R` has written them, from an installed R.

use manyhands_random::{BitGenerator, Mrg32k3a};

const CASES: &str = include_str!("data/r.txt");

/// What is expected of each seed, for cases of this name.
fn cases(name: &str) -> Vec<(i32, Vec<&'static str>)> {
    let lines = CASES.lines().filter(|line| !line.starts_with('#'));
    let fields = lines.map(|line| line.split(';').collect::<Vec<_>>());
    let cases: Vec<_> = fields
        .filter(|fields| fields[0] == name)
        .map(|fields| {
            let seed = fields[1].parse().expect("a seed of R");
            (seed, fields[2].split(' ').collect())
        })
        .collect();
    assert_eq!(cases.len(), 7, "cases of {name}");
    cases
}

fn check(name: &str, state: impl Fn(Mrg32k3a) -> Mrg32k3a) {
    for (seed, expected) in cases(name) {
        let state = state(Mrg32k3a::from_r_seed(seed)).state();
        let signed = state.map(|word| word.cast_signed().to_string());
        assert_eq!(signed.as_slice(), expected, "{name} of seed {seed}");
    }
}

#[test]
fn a_seed_of_r_gives_the_state_of_r() {
    check("seed", |generator| generator);
}

#[test]
fn draws_are_those_of_r() {
    for (seed, expected) in cases("runif") {
        let mut generator = Mrg32k3a::from_r_seed(seed);
        for expected in expected {
            assert_eq!(
                format!("{:.17}", generator.next_double()),
                expected,
                "seed {seed}"
            );
        }
    }
    check("moved", |mut generator| {
        for _ in 0..3 {
            generator.next_double();
        }
        generator
    });
}

#[test]
fn the_next_streams_and_substreams_are_those_of_r() {
    for n in [1, 2, 3, 1000] {
        check(&format!("stream {n}"), |first| first.nth_stream(n));
        check(&format!("substream {n}"), |first| first.nth_substream(n));
    }
    check("both", |first| first.nth_stream(1).nth_substream(1));
}

#[test]
fn the_state_moves_by_one_draw_as_in_the_published_recurrences() {
    // L'Ecuyer's own package starts all six words at 12345; these are its first draws.
    let mut generator = Mrg32k3a::from_state([12345; 6]).expect("a state");
    assert_eq!(format!("{:.10}", generator.next_double()), "0.1270111220");
    assert_eq!(format!("{:.10}", generator.next_double()), "0.3185275654");
}

#[test]
fn streams_and_substreams_add_up() {
    let first = Mrg32k3a::from_r_seed(7);
    assert_eq!(first.nth_stream(0), first);
    assert_eq!(
        first.nth_stream(1).nth_stream(1).nth_stream(1),
        first.nth_stream(3)
    );
    assert_eq!(
        first.nth_stream(u64::MAX).nth_stream(1),
        first
            .nth_stream(1 << 32)
            .nth_stream(u64::MAX - (1 << 32) + 1)
    );
    assert_eq!(
        first.nth_substream(1).nth_substream(4),
        first.nth_substream(5)
    );
    // A stream is 2^51 substreams.
    assert_eq!(first.nth_substream(1 << 51), first.nth_stream(1));
}

#[test]
fn what_is_no_state_is_refused() {
    assert!(Mrg32k3a::from_state([0, 0, 0, 1, 1, 1]).is_err());
    assert!(Mrg32k3a::from_state([1, 1, 1, 0, 0, 0]).is_err());
    assert!(Mrg32k3a::from_state([4_294_967_087, 1, 1, 1, 1, 1]).is_err());
    assert!(Mrg32k3a::from_state([1, 1, 1, 1, 4_294_944_443, 1]).is_err());
    assert!(Mrg32k3a::from_state([4_294_967_086, 1, 1, 1, 4_294_944_442, 1]).is_ok());
}
