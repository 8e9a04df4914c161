//! The numbers of R's "L'Ecuyer-CMRG", as R 4.2.2 gives them:
//!
//! ```r
//! RNGkind("L'Ecuyer-CMRG"); set.seed(1); seed <- .Random.seed
//! runif(3); parallel::nextRNGStream(seed)
//! ```

use manyhands_random::{BitGenerator, Mrg32k3a};

#[test]
fn a_seed_of_r_gives_the_draws_of_r() {
    let mut generator = Mrg32k3a::from_r_seed(1);
    let drawn: Vec<f64> = (0..3).map(|_| generator.next_double()).collect();
    let expected = [
        "0.67753282862874420",
        "0.42734572288764422",
        "0.91038053048754830",
    ];
    for (drawn, expected) in drawn.iter().zip(expected) {
        assert_eq!(format!("{drawn:.17}"), expected);
    }
}

#[test]
fn the_next_stream_is_that_of_r() {
    let next = Mrg32k3a::from_r_seed(1).nth_stream(1);
    let signed = next.state().map(u32::cast_signed);
    assert_eq!(
        signed,
        [
            4246464, -231956060, -471632796, 1620595781, 533443421, 594164961
        ]
    );
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
