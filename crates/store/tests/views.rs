//! Views: who sees what is written, and what remains of a segment that is gone.

#![allow(unsafe_code)]

use manyhands_store::{Arena, ArenaOptions, Foreign, Lease, Place, PrivateView, SegmentId};
use std::io;
use std::time::{Duration, Instant};

/// Nothing is kept warm: what is released is gone at once.
fn forgetful() -> Arena {
    let options = ArenaOptions {
        n_warm_bytes_max: 0,
        ..ArenaOptions::default()
    };
    Arena::new(9, options)
}

fn known(arena: &Arena) -> Foreign {
    let foreign = Foreign::new();
    for id in arena.segments() {
        foreign.adopt(id, arena.descriptor(id).expect("it is the arena's"));
    }
    foreign
}

/// Large enough that the pages are looked at one by one, and larger than what is small.
const SIZES: [usize; 4] = [100, 100_000, 3 << 20, 12 << 20];

fn pattern(n_bytes: usize, seed: u8) -> Vec<u8> {
    (0..n_bytes).map(|i| (i % 249) as u8 ^ seed).collect()
}

#[allow(clippy::mut_from_ref)]
fn bytes(view: &PrivateView) -> &mut [u8] {
    // SAFETY: the tests have one user of a view at a time.
    unsafe { std::slice::from_raw_parts_mut(view.as_ptr(), view.len()) }
}

fn view(foreign: &Foreign, lease: &Lease) -> PrivateView {
    foreign
        .view_private(lease.place())
        .expect("the segment is known")
}

#[test]
fn what_is_written_to_a_private_view_nobody_sees() {
    for n_bytes in SIZES {
        let contents = pattern(n_bytes, 1);
        let arena = forgetful();
        let lease = arena.copy_in(&contents).expect("there is memory");
        let foreign = known(&arena);
        // Written in some pages, in all, and in none.
        let steps = [n_bytes / 5 + 1, 1, usize::MAX];
        for step in steps {
            let first = view(&foreign, &lease);
            assert!(bytes(&first) == contents, "{n_bytes} bytes");
            for byte in bytes(&first).iter_mut().step_by(step) {
                *byte = !*byte;
            }
            let beside = view(&foreign, &lease);
            assert!(
                bytes(&beside) == contents,
                "a view beside it, {n_bytes} bytes"
            );
            // SAFETY: nobody writes to what was copied in.
            assert!(unsafe { lease.as_slice() } == contents, "the owner");
            drop(first);
            let next = view(&foreign, &lease);
            assert!(bytes(&next) == contents, "the next view, {n_bytes} bytes");
        }
    }
}

#[test]
fn a_view_that_was_only_read_keeps_its_pages() {
    let n_bytes = 12 << 20;
    let arena = forgetful();
    let contents = pattern(n_bytes, 3);
    let lease = arena.copy_in(&contents).expect("there is memory");
    let foreign = known(&arena);
    let n_mapped = |view: &PrivateView| {
        let mut pages = vec![0_u64; n_bytes / 4096];
        let map = std::fs::File::open("/proc/self/pagemap").expect("Linux has it");
        let at = view.as_ptr() as u64 / 4096 * 8;
        // SAFETY: as many bytes as the vector has.
        let raw = unsafe {
            std::slice::from_raw_parts_mut(pages.as_mut_ptr().cast::<u8>(), n_bytes / 512)
        };
        std::os::unix::fs::FileExt::read_exact_at(&map, raw, at).expect("the range is mapped");
        pages.iter().filter(|&&page| page >> 63 == 1).count()
    };
    let first = view(&foreign, &lease);
    assert_eq!(n_mapped(&first), 0);
    assert!(bytes(&first) == contents);
    let n_read = n_mapped(&first);
    assert_eq!(n_read, n_bytes / 4096);
    bytes(&first)[5 << 20] = 1;
    let at = first.as_ptr();
    drop(first);
    let second = view(&foreign, &lease);
    assert_eq!(second.as_ptr(), at, "the same mapping serves again");
    // The page that was written to is gone, with its neighbours where they were one huge page.
    let n_left = n_mapped(&second);
    assert!(
        (n_read - 512..n_read).contains(&n_left),
        "{n_left} of {n_read}"
    );
    assert!(bytes(&second) == contents);
}

#[test]
fn parts_of_a_block_are_viewed_where_they_are() {
    let contents = pattern(50_000, 7);
    let arena = forgetful();
    let lease = arena.copy_in(&contents).expect("there is memory");
    let foreign = known(&arena);
    for (start, n_bytes) in [
        (0, 0),
        (1, 1),
        (4095, 2),
        (5000, 30_000),
        (49_999, 1),
        (8192, 0),
    ] {
        let place = Place {
            offset: lease.place().offset + start as u64,
            n_bytes: n_bytes as u64,
            ..lease.place()
        };
        let view = foreign.view_private(place).expect("the segment is known");
        assert_eq!(view.len(), n_bytes);
        assert_eq!(bytes(&view), &contents[start..start + n_bytes]);
        view.detach().expect("there is memory");
        assert_eq!(bytes(&view), &contents[start..start + n_bytes]);
    }
}

#[test]
fn views_of_one_page_do_not_disturb_each_other() {
    let contents = pattern(10_000, 5);
    let arena = forgetful();
    let lease = arena.copy_in(&contents).expect("there is memory");
    let foreign = known(&arena);
    let part = |start: u64| Place {
        offset: lease.place().offset + start,
        n_bytes: 100,
        ..lease.place()
    };
    let first = foreign.view_private(part(0)).expect("the segment is known");
    let second = foreign
        .view_private(part(100))
        .expect("the segment is known");
    bytes(&first).fill(0);
    bytes(&second).fill(1);
    // Dropping one drops its page, which must not be the other's.
    drop(first);
    assert!(bytes(&second).iter().all(|&byte| byte == 1));
    let third = foreign
        .view_private(part(50))
        .expect("the segment is known");
    assert_eq!(bytes(&third), &contents[50..150]);
}

/// A copy of these contents in that block, once whoever gives its memory back is done with it.
fn copied_to(arena: &Arena, place: Place, contents: &[u8]) -> Lease {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let lease = arena.copy_in(contents).expect("there is memory");
        if lease.place() == place {
            return lease;
        }
        assert!(Instant::now() < deadline, "the block is used again");
        drop(lease);
        std::thread::yield_now();
    }
}

#[test]
fn a_detached_view_survives_the_reuse_of_its_block() {
    for n_bytes in SIZES {
        let contents = pattern(n_bytes, 2);
        for mut arena in [forgetful(), Arena::new(9, ArenaOptions::default())] {
            let lease = arena.copy_in(&contents).expect("there is memory");
            let place = lease.place();
            let mut foreign = known(&arena);
            let view = view(&foreign, &lease);
            bytes(&view)[n_bytes / 2] = 77;
            view.detach().expect("there is memory");
            drop(lease);
            let other = copied_to(&arena, place, &pattern(n_bytes, 99));
            let mut expected = contents.clone();
            expected[n_bytes / 2] = 77;
            assert!(bytes(&view) == expected, "{n_bytes} bytes");
            drop(other);
            foreign.forget_owner(9);
            (arena, foreign) = (forgetful(), Foreign::new());
            assert!(bytes(&view) == expected, "everything else is gone");
            drop((arena, foreign));
        }
    }
}

#[test]
fn the_next_view_after_a_detached_one_shows_the_segment() {
    for n_bytes in SIZES {
        let arena = Arena::new(9, ArenaOptions::default());
        let lease = arena
            .copy_in(&pattern(n_bytes, 1))
            .expect("there is memory");
        let place = lease.place();
        let foreign = known(&arena);
        let detached = view(&foreign, &lease);
        detached.detach().expect("there is memory");
        drop(lease);
        let changed = pattern(n_bytes, 2);
        let lease = arena.copy_in(&changed).expect("there is memory");
        assert_eq!(lease.place(), place, "the block is used again");
        drop(detached);
        assert!(bytes(&view(&foreign, &lease)) == changed, "{n_bytes} bytes");
    }
}

#[test]
fn what_is_written_to_a_shared_view_everybody_sees() {
    let arena = forgetful();
    let lease = arena
        .copy_in(&pattern(100_000, 0))
        .expect("there is memory");
    let foreign = known(&arena);
    let place = Place {
        offset: lease.place().offset + 5000,
        n_bytes: 10,
        ..lease.place()
    };
    let shared = foreign.view_shared(place).expect("the segment is known");
    let again = foreign.view_shared(place).expect("the segment is known");
    // SAFETY: nobody else uses these bytes now.
    unsafe {
        std::slice::from_raw_parts_mut(shared.as_ptr(), shared.len()).fill(200);
        assert_eq!(
            std::slice::from_raw_parts(again.as_ptr(), again.len()),
            [200; 10]
        );
        assert_eq!(lease.as_slice()[5000..5010], [200; 10]);
        assert_ne!(lease.as_slice()[5010], 200);
    }
    assert_eq!(bytes(&view(&foreign, &lease))[5009], 200);
}

#[test]
fn an_owner_is_forgotten_with_its_last_view() {
    let arena = forgetful();
    let lease = arena.copy_in(b"some bytes").expect("there is memory");
    let foreign = known(&arena);
    let id = lease.place().segment;
    let first = view(&foreign, &lease);
    let second = foreign
        .view_shared(lease.place())
        .expect("the segment is known");
    foreign.forget_owner(8);
    foreign.forget_owner(9);
    assert!(foreign.descriptor(id).is_some(), "it is viewed");
    drop(first);
    assert!(foreign.descriptor(id).is_some(), "it is still viewed");
    drop(second);
    assert!(foreign.descriptor(id).is_none());
    assert_eq!(foreign.n_segments(), 0);
    let error = foreign
        .view_private(lease.place())
        .expect_err("it is forgotten");
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_place_outside_its_segment_is_refused() {
    let arena = forgetful();
    let lease = arena.copy_in(b"some bytes").expect("there is memory");
    let foreign = known(&arena);
    let place = lease.place();
    for (offset, n_bytes) in [
        (0, u64::MAX),
        (u64::MAX, 1),
        (1 << 30, 1),
        (u64::MAX, u64::MAX),
    ] {
        let outside = Place {
            offset,
            n_bytes,
            ..place
        };
        for error in [
            foreign.view_private(outside).err(),
            foreign.view_shared(outside).err(),
        ] {
            let error = error.expect("it lies outside");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
        }
    }
    let unknown = Place {
        segment: SegmentId::new(9, 77),
        ..place
    };
    assert!(foreign.view_private(unknown).is_err());
}

#[test]
fn threads_view_and_write_side_by_side() {
    let contents = pattern(6 << 20, 4);
    let arena = forgetful();
    let lease = arena.copy_in(&contents).expect("there is memory");
    let foreign = known(&arena);
    std::thread::scope(|scope| {
        for number in 0..4_u8 {
            let (foreign, contents, place) = (&foreign, &contents, lease.place());
            scope.spawn(move || {
                for round in 0..40 {
                    let start = (usize::from(number) * 3 + round * 5) % 16 * (256 << 10);
                    let part = Place {
                        offset: place.offset + start as u64,
                        n_bytes: 2 << 20,
                        ..place
                    };
                    let view = foreign.view_private(part).expect("the segment is known");
                    assert!(bytes(&view) == &contents[start..start + (2 << 20)]);
                    bytes(&view).fill(number);
                    assert!(bytes(&view).iter().all(|&byte| byte == number));
                }
            });
        }
    });
}
