//! The numbers of NumPy, bit for bit. `tools/random_vectors.py` has written them, from an installed NumPy.

use manyhands_random::{
    BitGenerator, MT_WORDS, Mt19937, Mt19937State, Pcg64, Pcg64Dxsm, PcgState, Philox, PhiloxState,
    SeedSequence, Sfc64, Sfc64State, mt19937_draws,
};

const CASES: &str = include_str!("data/numpy.txt");

/// Numbers in hexadecimal.
fn numbers(text: &str) -> Vec<u64> {
    let parse = |word| u64::from_str_radix(word, 16).expect("a hexadecimal number");
    text.split_whitespace().map(parse).collect()
}

fn words(text: &str) -> Vec<u32> {
    numbers(text).into_iter().map(|word| word as u32).collect()
}

/// The cases of a class, as their fields.
fn cases(class: &str) -> Vec<Vec<&'static str>> {
    let fields = CASES.lines().filter(|line| !line.starts_with('#'));
    let fields = fields.map(|line| line.split(';').map(str::trim).collect::<Vec<_>>());
    let cases: Vec<_> = fields.filter(|fields| fields[0] == class).collect();
    assert!(cases.len() >= 6, "{class} has cases");
    cases
}

fn drawn(generator: &mut impl BitGenerator) -> Vec<u64> {
    let mut drawn = Vec::new();
    (0..5).for_each(|_| drawn.push(generator.next_u64()));
    (0..3).for_each(|_| drawn.push(generator.next_u32().into()));
    (0..2).for_each(|_| drawn.push(generator.next_u64()));
    drawn.push(generator.next_double().to_bits());
    drawn
}

/// Compares all cases of a class: the state, what is drawn, and what is drawn from a state put back.
fn check<G: BitGenerator>(
    class: &str,
    seeded: impl Fn(&SeedSequence) -> G,
    jumped: impl Fn(&G, u64) -> G,
    state: impl Fn(&G) -> Vec<u64>,
    put_back: impl Fn(&G) -> G,
) {
    for fields in cases(class) {
        let mut generator = seeded(&SeedSequence::new(&words(fields[1]), &words(fields[2])));
        for _ in 0..numbers(fields[3])[0] {
            generator.next_u32();
        }
        let n_jumps = numbers(fields[4])[0];
        if n_jumps > 0 {
            generator = jumped(&generator, n_jumps);
        }
        let case = &fields[..5];
        assert_eq!(state(&generator), numbers(fields[5]), "the state: {case:?}");
        let expected = numbers(fields[6]);
        assert_eq!(
            drawn(&mut put_back(&generator)),
            expected,
            "put back: {case:?}"
        );
        assert_eq!(drawn(&mut generator), expected, "{case:?}");
    }
}

fn pcg(state: PcgState) -> Vec<u64> {
    let parts = [state.state, state.increment];
    let parts = parts.map(|part| [(part >> 64) as u64, part as u64]);
    let half = [u64::from(state.half.is_held), state.half.bits.into()];
    [parts.concat(), half.to_vec()].concat()
}

#[test]
fn seed_sequences_are_those_of_numpy() {
    for fields in cases("SeedSequence") {
        let seeds = SeedSequence::new(&words(fields[1]), &words(fields[2]));
        let mut state = [0; 8];
        seeds.generate_u32(&mut state);
        assert_eq!(state.to_vec(), words(fields[3]), "{fields:?}");
        let joined: [u64; 4] = seeds.generate_u64();
        let halves = joined.map(|word| [word as u32, (word >> 32) as u32]);
        assert_eq!(halves.concat(), state);
    }
}

#[test]
fn pcg64_is_that_of_numpy() {
    check(
        "PCG64",
        Pcg64::seeded,
        |generator, n_jumps| generator.jumped(n_jumps.into()),
        |generator| pcg(generator.state()),
        |generator| Pcg64::from_state(generator.state()),
    );
}

#[test]
fn pcg64dxsm_is_that_of_numpy() {
    check(
        "PCG64DXSM",
        Pcg64Dxsm::seeded,
        |generator, n_jumps| generator.jumped(n_jumps.into()),
        |generator| pcg(generator.state()),
        |generator| Pcg64Dxsm::from_state(generator.state()),
    );
}

#[test]
fn mt19937_is_that_of_numpy() {
    let fingerprint = |state: &Mt19937State| {
        let mix = |hash: u64, word: &u32| (hash ^ u64::from(*word)).wrapping_mul(0x0100_0000_01b3);
        state.key.iter().fold(0xcbf2_9ce4_8422_2325, mix)
    };
    check(
        "MT19937",
        Mt19937::seeded,
        Mt19937::jumped,
        |generator| {
            vec![
                fingerprint(generator.state()),
                generator.state().n_used.into(),
            ]
        },
        |generator| Mt19937::from_state(generator.state().clone()),
    );
}

#[test]
fn philox_is_that_of_numpy() {
    let state = |state: PhiloxState| {
        let rest = [state.n_used, state.half.is_held.into(), state.half.bits];
        let rest = rest.map(u64::from);
        [&state.counter[..], &state.key, &state.buffer, &rest].concat()
    };
    check(
        "Philox",
        Philox::seeded,
        |generator, n_jumps| generator.jumped(n_jumps.into()),
        |generator| state(generator.state()),
        |generator| Philox::from_state(generator.state()),
    );
}

#[test]
fn sfc64_is_that_of_numpy() {
    let state = |state: Sfc64State| {
        let half = [u64::from(state.half.is_held), state.half.bits.into()];
        [&state.words[..], &half].concat()
    };
    check(
        "SFC64",
        Sfc64::seeded,
        |_, _| unreachable!("it has no jumps"),
        |generator| state(generator.state()),
        |generator| Sfc64::from_state(generator.state()),
    );
}

#[test]
fn many_jumps_at_once_are_the_jumps_one_by_one() {
    let seeds = SeedSequence::new(&[5], &[]);
    let (pcg, twister, philox) = (
        Pcg64::seeded(&seeds),
        Mt19937::seeded(&seeds),
        Philox::seeded(&seeds),
    );
    assert_eq!(
        pcg.jumped(u128::from(u64::MAX)).jumped(3),
        pcg.jumped((1 << 64) + 2)
    );
    assert_eq!(
        twister.jumped(1 << 40).jumped(77),
        twister.jumped((1 << 40) + 77)
    );
    assert_eq!(twister.jumped(0), twister);
    assert_eq!(
        philox.jumped(u128::from(u64::MAX)).jumped(3),
        philox.jumped((1 << 64) + 2)
    );
}

#[test]
fn a_mersenne_twister_that_was_drawn_from_is_told_from_one_that_was_set() {
    let mut generator = Mt19937::seeded(&SeedSequence::new(&[7], &[]));
    let before = generator.state().key;
    assert_eq!(mt19937_draws(&before, &before, 0), Some(0));
    // One word of the first state is left.
    for n_rounds in 1..=5 {
        for _ in 0..MT_WORDS {
            generator.next_u32();
        }
        let now = generator.state().key;
        assert_eq!(mt19937_draws(&before, &now, 5), Some(n_rounds));
        assert_eq!(mt19937_draws(&before, &now, n_rounds - 1), None);
        assert_eq!(mt19937_draws(&now, &before, 5), None);
    }
    let other = Mt19937::seeded(&SeedSequence::new(&[8], &[]));
    assert_eq!(mt19937_draws(&before, &other.state().key, 100), None);
}
