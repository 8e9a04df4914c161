//! An arena against a naive model, from many threads, and at its limits.

#![allow(unsafe_code)]

use manyhands_store::{Arena, ArenaOptions, Lease, Place};
use proptest::prelude::*;
use std::ptr::NonNull;
use std::sync::Barrier;
use std::time::{Duration, Instant};

const PAGE: usize = 4096;

/// Little is kept and segments are short, so that memory is given back and segments are many.
fn frugal() -> ArenaOptions {
    ArenaOptions {
        n_bytes_max: 64 << 20,
        n_warm_bytes_max: 256 << 10,
        n_kept_bytes: 256 << 10,
        n_segment_bytes: 1 << 20,
    }
}

/// Leases that end have another thread do it.
fn await_memory_given_back(arena: &Arena, n_warm_bytes_max: u64) {
    while arena.stats().bytes_free_warm > n_warm_bytes_max {
        std::thread::yield_now();
    }
}

fn fill(at: NonNull<u8>, n_bytes: usize, byte: u8) {
    // SAFETY: the caller has just allocated so many bytes.
    unsafe { at.write_bytes(byte, n_bytes) }
}

fn holds(at: *const u8, n_bytes: usize, byte: u8) -> bool {
    // SAFETY: the caller holds the block or a lease on it, and nobody writes to it.
    let bytes = unsafe { std::slice::from_raw_parts(at, n_bytes) };
    // Without an early end, so that the compiler makes it fast.
    bytes
        .iter()
        .fold(0, |differences, it| differences | (it ^ byte))
        == 0
}

#[derive(Debug)]
struct Owned {
    at: NonNull<u8>,
    n_bytes: usize,
    byte: u8,
}

#[derive(Debug)]
enum Claim {
    Held(Lease, u8),
    GivenAway(Place, *const u8, u8),
}

impl Claim {
    fn holds(&self) -> bool {
        match self {
            Claim::Held(lease, byte) => {
                holds(lease.as_ptr(), lease.place().n_bytes as usize, *byte)
            }
            Claim::GivenAway(place, at, byte) => holds(*at, place.n_bytes as usize, *byte),
        }
    }

    fn end(self, arena: &Arena) {
        match self {
            Claim::Held(lease, _) => drop(lease),
            Claim::GivenAway(place, ..) => arena.release(place),
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Allocate { n_bytes: usize, is_zeroed: bool },
    Free(usize),
    Lease(usize, usize),
    Clone(usize),
    GiveAway(usize),
    End(usize),
    CopyIn(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let n_bytes = prop_oneof![0..200_000_usize, 500_000..1_500_000_usize];
    let step = prop_oneof![
        4 => (n_bytes.clone(), any::<bool>()).prop_map(|(n_bytes, is_zeroed)| Step::Allocate { n_bytes, is_zeroed }),
        3 => any::<usize>().prop_map(Step::Free),
        2 => any::<(usize, usize)>().prop_map(|(at, part)| Step::Lease(at, part)),
        1 => any::<usize>().prop_map(Step::Clone),
        2 => any::<usize>().prop_map(Step::GiveAway),
        3 => any::<usize>().prop_map(Step::End),
        2 => n_bytes.prop_map(Step::CopyIn),
    ];
    prop::collection::vec(step, 1..60)
}

fn step(arena: &Arena, step: Step, byte: u8, owned: &mut Vec<Owned>, claims: &mut Vec<Claim>) {
    match step {
        Step::Allocate { n_bytes, is_zeroed } => {
            let at = if is_zeroed {
                arena.allocate_zeroed(n_bytes)
            } else {
                arena.allocate(n_bytes)
            };
            let Some(at) = at else { return };
            assert!(!is_zeroed || holds(at.as_ptr(), n_bytes, 0), "not zeroed");
            assert_eq!(
                arena.size(at.as_ptr()),
                Some(n_bytes.max(1).next_multiple_of(PAGE))
            );
            fill(at, n_bytes, byte);
            owned.push(Owned { at, n_bytes, byte });
        }
        Step::Free(at) if !owned.is_empty() => {
            let block = owned.swap_remove(at % owned.len());
            assert!(arena.free(block.at.as_ptr()));
            assert!(!arena.free(block.at.as_ptr()), "freed twice");
            assert_eq!(arena.size(block.at.as_ptr()), None);
        }
        Step::Lease(at, part) if !owned.is_empty() => {
            let block = &owned[at % owned.len()];
            let start = part % (block.n_bytes + 1);
            let n_bytes = block.n_bytes - start;
            let ptr = block.at.as_ptr().wrapping_add(start);
            // The end of a block of whole pages is the start of something else.
            if start == block.n_bytes.max(1).next_multiple_of(PAGE) {
                return;
            }
            let lease = arena
                .lease(ptr, n_bytes)
                .expect("the range lies in the block");
            assert!(!lease.is_freed());
            assert_eq!(lease.as_ptr(), ptr.cast_const());
            claims.push(Claim::Held(lease, block.byte));
        }
        Step::Clone(at) if !claims.is_empty() => {
            if let Claim::Held(lease, byte) = &claims[at % claims.len()] {
                let clone = Claim::Held(lease.clone(), *byte);
                claims.push(clone);
            }
        }
        Step::GiveAway(at) if !claims.is_empty() => match claims.swap_remove(at % claims.len()) {
            Claim::Held(lease, byte) => {
                let at = lease.as_ptr();
                claims.push(Claim::GivenAway(lease.give_away(), at, byte));
            }
            claim => claims.push(claim),
        },
        Step::End(at) if !claims.is_empty() => claims.swap_remove(at % claims.len()).end(arena),
        Step::CopyIn(n_bytes) => {
            if let Some(lease) = arena.copy_in(&vec![byte; n_bytes]) {
                assert!(lease.is_freed());
                claims.push(Claim::Held(lease, byte));
            }
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn contents_survive_whatever_happens_beside_them(steps in steps()) {
        let arena = Arena::new(5, frugal());
        let (mut owned, mut claims) = (Vec::new(), Vec::new());
        for (number, what) in steps.into_iter().enumerate() {
            step(&arena, what, number as u8 + 1, &mut owned, &mut claims);
            for block in &owned {
                prop_assert!(holds(block.at.as_ptr(), block.n_bytes, block.byte));
            }
            prop_assert!(claims.iter().all(Claim::holds));
            prop_assert_eq!(arena.stats().n_leases, claims.len());
        }
        for block in owned {
            prop_assert!(arena.free(block.at.as_ptr()));
        }
        for claim in claims {
            claim.end(&arena);
        }
        let stats = arena.stats();
        prop_assert_eq!((stats.n_blocks, stats.n_leases, stats.bytes_in_use), (0, 0, 0));
        await_memory_given_back(&arena, frugal().n_warm_bytes_max);
    }
}

#[test]
fn threads_share_an_arena() {
    let arena = Arena::new(0, frugal());
    let n_threads = 6;
    let barrier = Barrier::new(n_threads);
    std::thread::scope(|scope| {
        for number in 0..n_threads {
            let (arena, barrier) = (&arena, &barrier);
            scope.spawn(move || {
                barrier.wait();
                let mut kept: Vec<(Lease, u8)> = Vec::new();
                for round in 0..400_usize {
                    let byte = (number * 40 + round % 40) as u8 + 1;
                    let n_bytes = 1 + round * 7919 % 300_000;
                    let at = arena.allocate(n_bytes).expect("64 MiB are enough");
                    fill(at, n_bytes, byte);
                    let lease = arena.lease(at.as_ptr(), n_bytes).expect("it is allocated");
                    assert!(arena.free(at.as_ptr()));
                    kept.push((lease, byte));
                    if kept.len() > 8 {
                        let (lease, byte) = kept.swap_remove(round % 8);
                        assert!(holds(lease.as_ptr(), lease.place().n_bytes as usize, byte));
                        arena.release(lease.give_away());
                    }
                }
            });
        }
    });
    let stats = arena.stats();
    assert_eq!(
        (stats.n_blocks, stats.n_leases, stats.bytes_in_use),
        (0, 0, 0)
    );
}

#[test]
fn a_million_blocks_are_few_segments() {
    let options = ArenaOptions {
        n_bytes_max: u64::MAX,
        ..ArenaOptions::default()
    };
    let arena = Arena::new(0, options);
    let n_blocks = 1_000_000;
    let mut blocks = Vec::new();
    for _ in 0..n_blocks {
        blocks.push(arena.allocate(64 << 10).expect("nobody touches them"));
    }
    let stats = arena.stats();
    assert_eq!(stats.n_blocks, n_blocks);
    assert!(stats.n_segments <= 64, "{}", stats.n_segments);
    let mut addresses: Vec<usize> = blocks.iter().map(|at| at.as_ptr() as usize).collect();
    addresses.sort_unstable();
    assert!(
        addresses
            .windows(2)
            .all(|pair| pair[1] - pair[0] >= 64 << 10)
    );
    // Every other one, then the rest: holes everywhere, then none.
    for at in blocks
        .iter()
        .step_by(2)
        .chain(blocks.iter().skip(1).step_by(2))
    {
        assert!(arena.free(at.as_ptr()));
    }
    assert_eq!(arena.stats().n_blocks, 0);
}

#[test]
fn memory_that_nobody_uses_goes_back_to_the_system() {
    let options = ArenaOptions {
        n_warm_bytes_max: 64 << 20,
        n_kept_bytes: 1 << 20,
        ..ArenaOptions::default()
    };
    let arena = Arena::new(0, options);
    let n_warm_bytes = || arena.stats().bytes_free_warm;
    // Twice: it goes on after it has once come to its end.
    for _ in 0..2 {
        let at = arena.allocate(16 << 20).expect("there is memory");
        fill(at, 16 << 20, 1);
        arena.free(at.as_ptr());
        assert!(n_warm_bytes() >= 16 << 20);
        let deadline = Instant::now() + Duration::from_secs(60);
        while n_warm_bytes() > 1 << 20 {
            assert!(Instant::now() < deadline, "{} are warm", n_warm_bytes());
            std::thread::sleep(Duration::from_millis(50));
        }
        // No more than that: what is kept is kept.
        assert_eq!(n_warm_bytes(), 1 << 20);
    }
}

#[test]
fn memory_goes_back_to_the_system_beyond_what_is_kept() {
    let options = ArenaOptions {
        n_warm_bytes_max: 4 << 20,
        ..ArenaOptions::default()
    };
    let arena = Arena::new(0, options);
    let n_backed = || {
        let id = arena.segments()[0];
        let fd = arena.descriptor(id).expect("it is the arena's");
        rustix::fs::fstat(&*fd).expect("it is open").st_blocks as u64 * 512
    };
    let blocks: Vec<_> = (0..5).map(|_| arena.allocate(3 << 20)).collect();
    for block in &blocks {
        fill(block.expect("there is memory"), 3 << 20, 1);
    }
    assert!(n_backed() >= 15 << 20);
    for block in &blocks {
        assert!(arena.free(block.expect("there is memory").as_ptr()));
    }
    let n_kept = n_backed();
    assert!((1 << 20..=4 << 20).contains(&n_kept), "{n_kept}");
    assert_eq!(arena.stats().bytes_free_warm, n_kept);
    let zeros = arena.allocate_zeroed(15 << 20).expect("there is memory");
    assert!(holds(zeros.as_ptr(), 15 << 20, 0));
}

#[test]
fn what_is_not_a_block_is_told_apart() {
    let arena = Arena::new(0, frugal());
    let on_heap = vec![1_u8; 100_000];
    let on_stack = 1_u8;
    for foreign in [on_heap.as_ptr(), &raw const on_stack, std::ptr::null()] {
        assert!(!arena.free(foreign));
        assert_eq!(arena.size(foreign), None);
        assert!(arena.lease(foreign, 1).is_none());
    }
    let at = arena.allocate(3 * PAGE).expect("there is memory").as_ptr();
    for inside in [
        at.wrapping_add(1),
        at.wrapping_add(PAGE),
        at.wrapping_add(3 * PAGE),
    ] {
        assert!(!arena.free(inside));
        assert_eq!(arena.size(inside), None);
    }
    assert!(arena.lease(at, 3 * PAGE).is_some());
    assert!(arena.lease(at, 3 * PAGE + 1).is_none());
    assert!(arena.lease(at.wrapping_add(PAGE), 2 * PAGE + 1).is_none());
    assert!(arena.lease(at, usize::MAX).is_none());
    assert_eq!(arena.size(at), Some(3 * PAGE));
}

#[test]
fn more_than_the_limit_is_not_to_be_had() {
    let arena = Arena::new(0, frugal());
    assert!(arena.allocate(usize::MAX).is_none());
    assert!(arena.allocate(1 << 50).is_none());
    assert!(arena.allocate((64 << 20) + 1).is_none());
    let all = arena.allocate(64 << 20).expect("that is the limit");
    assert!(arena.allocate(1).is_none());
    assert!(arena.copy_in(b"more").is_none());
    assert!(arena.free(all.as_ptr()));
    assert!(arena.copy_in(b"more").is_some());
}

#[test]
fn more_than_the_machine_has_is_not_to_be_had() {
    let options = ArenaOptions {
        n_bytes_max: u64::MAX,
        ..ArenaOptions::default()
    };
    let arena = Arena::new(0, options);
    let memory = manyhands_store::Memory::now().expect("Linux says so");
    assert!(arena.allocate(memory.n_bytes as usize).is_none());
}

#[test]
#[should_panic(expected = "nobody leases it")]
fn a_lease_ends_once() {
    let arena = Arena::new(0, frugal());
    let place = arena
        .copy_in(b"bytes")
        .expect("there is memory")
        .give_away();
    arena.release(place);
    arena.release(place);
}

#[test]
fn a_large_copy_is_whole_in_pages_of_any_state() {
    let bytes: Vec<u8> = (0..(20 << 20) + 123_u32).map(|i| (i % 251) as u8).collect();
    let arena = Arena::new(0, ArenaOptions::default());
    // Fresh, then warm but unmapped, then mapped.
    for round in 0..3 {
        let lease = arena.copy_in(&bytes).expect("there is memory");
        // SAFETY: nobody writes to what was copied in.
        assert!(unsafe { lease.as_slice() } == bytes, "round {round}");
        assert_eq!(arena.stats().n_segments, 1);
    }
}

/// Leases end under locks of others: what takes long is done by another thread, which ends.
#[test]
fn memory_goes_back_to_the_system_after_leases_have_ended() {
    let options = ArenaOptions {
        n_warm_bytes_max: 4 << 20,
        ..ArenaOptions::default()
    };
    let arena = Arena::new(0, options);
    for _ in 0..3 {
        let leases: Vec<_> = (0..8)
            .map(|byte| arena.copy_in(&vec![byte; 2 << 20]))
            .collect();
        assert!(leases.iter().all(Option::is_some));
        let pin = arena.pin();
        drop(leases);
        assert_eq!(arena.stats().bytes_in_use, 16 << 20);
        drop(pin);
        assert_eq!(arena.stats().bytes_in_use, 0);
        await_memory_given_back(&arena, 4 << 20);
    }
}
