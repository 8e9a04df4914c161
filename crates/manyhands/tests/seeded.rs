//! Maps whose calls draw random numbers.

use manyhands::random::{BitGenerator, stream};
use manyhands::{Error, Options, Scheduler, map_seeded};

/// A seed, the number of a task, and what NumPy gives for them:
///
/// ```python
/// generator = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(number,)))
/// generator.random_raw(2), np.random.Generator(generator).random()
/// ```
const NUMPY: [(u128, u64, [u64; 2], f64); 7] = [
    (
        0,
        0,
        [0xf1645affcd5f76ee, 0x50fb78bc01675596],
        0.7223425886498254,
    ),
    (
        0,
        1,
        [0xad5cc5f1a97c42b5, 0x3e34612a5a50a3c0],
        0.6117637963218119,
    ),
    (
        0,
        999_999,
        [0xed9f53e130f7ef6d, 0x3872731dbf8f07f5],
        0.7894776821827851,
    ),
    (
        20261126,
        5,
        [0xb6e595bd55e4866a, 0x9900f22bf83f262e],
        0.8261513267978533,
    ),
    (
        (1 << 100) + 7,
        0,
        [0x70da0228d5fe5382, 0x2e7db045229d8a04],
        0.6124602097496004,
    ),
    (
        (1 << 100) + 7,
        (1 << 32) + 3,
        [0x4727cb12fff28f31, 0x1215b00362f72ae8],
        0.5622669020104122,
    ),
    (
        u128::MAX,
        1 << 63,
        [0x02c15d399c841e47, 0xa5902b8d9380c307],
        0.6725471887101306,
    ),
];

#[test]
fn the_streams_are_those_of_numpy() {
    for (seed, number, words, last) in NUMPY {
        let mut rng = stream(seed, number);
        assert_eq!([rng.next_u64(), rng.next_u64()], words, "{seed}, {number}");
        assert_eq!(rng.next_double(), last, "{seed}, {number}");
    }
}

#[test]
fn call_i_draws_from_stream_i_everywhere() {
    let draw = |item: usize, rng: &mut manyhands::random::Pcg64| {
        // Some take their time, so that threads come to other items in another order.
        let n = if item.is_multiple_of(7) { 1000 } else { 1 };
        let drawn = (0..n).map(|_| rng.next_u64()).fold(0, u64::wrapping_add);
        (item, drawn, rng.next_double())
    };
    let expected: Vec<_> = (0..300)
        .map(|item| draw(item, &mut stream(20261126, item as u64)))
        .collect();
    for (seed, number, words, _) in NUMPY.iter().filter(|(_, number, ..)| *number < 10) {
        let drawn = map_seeded(*seed, 0..10, |_, rng| [rng.next_u64(), rng.next_u64()]);
        assert_eq!(drawn.expect("runs")[*number as usize], *words);
    }
    let options = Options::new().seed(20261126);
    let here = options.scheduler(Scheduler::Synchronous);
    assert_eq!(here.map_seeded(0..300, draw).expect("runs"), expected);
    for n_workers in [1, 2, 5] {
        for batch_size in [None, Some(1), Some(64)] {
            let mut options = options.scheduler(Scheduler::Threads).workers(n_workers);
            if let Some(n_tasks) = batch_size {
                options = options.batch_size(n_tasks);
            }
            assert_eq!(options.map_seeded(0..300, draw).expect("runs"), expected);
        }
    }
    let inside = manyhands::map(0..2, move |_| {
        options.map_seeded(0..300, draw).expect("runs")
    });
    assert_eq!(inside.expect("runs"), [expected.clone(), expected]);
}

#[test]
fn seeds_and_items_have_numbers_of_their_own() {
    let mut drawn: Vec<u64> = (0..10)
        .flat_map(|seed| map_seeded(seed, 0..100, |_, rng| rng.next_u64()).expect("runs"))
        .collect();
    drawn.sort_unstable();
    drawn.dedup();
    assert_eq!(drawn.len(), 1000);
}

#[test]
fn errors_name_the_item() {
    let options = Options::new().seed(1);
    let failed = options.try_map_seeded(0..10, |item, rng| match item {
        6 => Err("six".into()),
        _ => Ok(rng.next_u64()),
    });
    let message = failed.expect_err("item 6 fails").to_string();
    assert!(message.starts_with("item 6 of the map at"), "{message}");
    assert!(message.contains("tests/seeded.rs"), "{message}");
    let drawn = options.try_map_seeded(0..2, |_, rng| Ok(rng.next_u64()));
    assert_eq!(
        drawn.expect("runs"),
        [0, 1].map(|i| stream(1, i).next_u64())
    );
    let panicked = options.map_seeded(0..3, |item, _| assert!(item < 2));
    assert!(matches!(panicked, Err(Error::Panicked { .. })));
}

#[test]
fn without_a_seed_nothing_runs() {
    let outcome = Options::new().map_seeded(0..3, |_, _| unreachable!("there is no seed"));
    let message = outcome.expect_err("there is no seed").to_string();
    assert!(message.contains("Options::seed(1)"), "{message}");
    assert!(message.contains("MANYHANDS_SEED=1"), "{message}");
}
