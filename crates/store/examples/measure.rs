//! Measures what docs/decisions/0003-shared-memory.md speaks of.
//!
//! ```text
//! cargo run --release -p manyhands-store --example measure [TEXT]
//! ```
//!
//! Each line has the least wall time and the least processor time of this process, of several rounds.
//! With TEXT, only the lines whose name contains it.

#![allow(unsafe_code)]

use manyhands_store::{Arena, ArenaOptions, Foreign, Place, PrivateView, digest};
use rustix::time::{ClockId, clock_gettime};
use std::hint::black_box;
use std::time::Instant;

const N_BYTES: usize = 381 << 20;
const N_ROUNDS: usize = 7;

fn processor_s() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// Runs `work` on what `prepare` makes, and prints the least time for one of the `n` that it does.
fn report<T>(name: &str, n: usize, mut prepare: impl FnMut() -> T, mut work: impl FnMut(&mut T)) {
    if std::env::args()
        .nth(1)
        .is_some_and(|text| !name.contains(&text))
    {
        return;
    }
    let (mut least_wall, mut least_processor) = (f64::MAX, f64::MAX);
    for _ in 0..N_ROUNDS {
        let mut subject = prepare();
        let (wall, processor) = (Instant::now(), processor_s());
        work(&mut subject);
        least_processor = least_processor.min(processor_s() - processor);
        least_wall = least_wall.min(wall.elapsed().as_secs_f64());
    }
    let unit = |seconds: f64| match seconds / n as f64 {
        each if each >= 1e-3 => format!("{:8.2} ms", each * 1e3),
        each if each >= 1e-6 => format!("{:8.2} us", each * 1e6),
        each => format!("{:8.1} ns", each * 1e9),
    };
    let (wall, processor) = (unit(least_wall), unit(least_processor));
    println!("{name:<50} wall {wall} processor {processor}");
}

fn arena() -> Arena {
    let options = ArenaOptions {
        n_bytes_max: u64::MAX,
        n_warm_bytes_max: 1 << 30,
        n_kept_bytes: 1 << 30,
        ..ArenaOptions::default()
    };
    Arena::new(0, options)
}

fn read(view: &PrivateView) -> u64 {
    // SAFETY: nobody writes.
    let words = unsafe { std::slice::from_raw_parts(view.as_ptr().cast::<u64>(), view.len() / 8) };
    words.iter().fold(0, |sum, word| sum ^ word)
}

fn digests(source: &[u8]) {
    for n_bytes in [64, 64 << 10, 1 << 20, 4 << 20, N_BYTES] {
        let n = (64 << 20) / n_bytes.max(4096) + 1;
        let name = format!("digest of {n_bytes} bytes");
        report(
            &name,
            n,
            || (),
            |()| {
                for _ in 0..n {
                    black_box(digest(black_box(&source[..n_bytes])));
                }
            },
        );
    }
}

fn copies(source: &[u8]) {
    let name = "copy 381 MiB to fresh ordinary memory";
    report(name, 1, || (), |()| drop(black_box(source.to_vec())));
    let used = |n_times: usize| {
        move || {
            let arena = arena();
            for _ in 0..n_times {
                drop(arena.copy_in(source));
            }
            arena
        }
    };
    let copy = |arena: &mut Arena| drop(black_box(arena.copy_in(source)));
    report("copy_in 381 MiB, fresh", 1, used(0), copy);
    report("copy_in 381 MiB, warm, not mapped", 1, used(1), copy);
    report("copy_in 381 MiB, warm and mapped", 1, used(2), copy);
    let small = &source[..64 << 10];
    let n = 2000;
    report("copy_in 64 KiB, fresh", n, used(0), |arena| {
        let leases: Vec<_> = (0..n).map(|_| arena.copy_in(small)).collect();
        drop(black_box(leases));
    });
    report("copy_in 64 KiB and drop, warm", n, used(2), |arena| {
        for _ in 0..n {
            drop(black_box(arena.copy_in(small)));
        }
    });
}

fn blocks() {
    for n_around in [0, 10_000, 300_000] {
        let arena = arena();
        let kept: Vec<_> = (0..n_around).map(|_| arena.allocate(64 << 10)).collect();
        for at in kept.iter().step_by(3) {
            arena.free(at.expect("untouched").as_ptr());
        }
        blocks_beside(&arena, n_around);
    }
    for n_mib in [1, 16, 63, 381] {
        let name = format!("allocate {n_mib} MiB fresh, fill");
        report(&name, n_mib, arena, |arena| {
            let at = arena.allocate(n_mib << 20).expect("there is memory");
            // SAFETY: the block is that long.
            unsafe { black_box(at).write_bytes(1, n_mib << 20) };
        });
    }
    let name = "allocate and free 381 MiB, nothing touched";
    report(name, 100, arena, |arena| {
        for _ in 0..100 {
            let at = arena.allocate(N_BYTES).expect("there is memory");
            arena.free(black_box(at).as_ptr());
        }
    });
}

fn blocks_beside(arena: &Arena, n_around: usize) {
    let n = 100_000;
    let name = format!("allocate and free 64 KiB beside {n_around}");
    report(
        &name,
        n,
        || (),
        |()| {
            for _ in 0..n {
                let at = arena.allocate(64 << 10).expect("there is memory");
                arena.free(black_box(at).as_ptr());
            }
        },
    );
    let foreign = Box::new(1_u8);
    let name = format!("size of what is foreign, {} segments", arena.n_segments());
    report(
        &name,
        n,
        || (),
        |()| {
            for _ in 0..n {
                assert!(arena.size(black_box(&raw const *foreign)).is_none());
            }
        },
    );
    let at = arena.allocate(64 << 10).expect("there is memory").as_ptr();
    report(
        "size of a block",
        n,
        || (),
        |()| {
            for _ in 0..n {
                black_box(arena.size(black_box(at)));
            }
        },
    );
    report(
        "lease and drop",
        n,
        || (),
        |()| {
            for _ in 0..n {
                black_box(arena.lease(black_box(at), 1000));
            }
        },
    );
}

fn views(source: &[u8]) {
    let arena = arena();
    let lease = arena.copy_in(source).expect("there is memory");
    let place = lease.place();
    let known = || {
        let foreign = Foreign::new();
        let fd = arena.descriptor(place.segment);
        foreign.adopt(place.segment, fd.expect("it is the arena's"));
        foreign
    };
    let view = |foreign: &Foreign| foreign.view_private(place).expect("it is known");
    report("view 381 MiB, read all, drop: first", 1, known, |foreign| {
        black_box(read(&view(foreign)));
    });
    let seen = known();
    let kept = view(&seen);
    report(
        "read all through a view that stays",
        1,
        || (),
        |()| {
            black_box(read(&kept));
        },
    );
    drop(kept);
    report(
        "view 381 MiB, read all, drop: later",
        1,
        || (),
        |()| {
            black_box(read(&view(&seen)));
        },
    );
    report("view 381 MiB and drop", 1, || (), |()| drop(view(&seen)));
    report(
        "view 381 MiB, fault elsewhere, drop",
        1,
        || (),
        |()| {
            let view = view(&seen);
            // So much comes from the system each time, and its first page with a fault.
            let mut elsewhere = vec![0_u8; 40 << 20];
            elsewhere[0] = 1;
            drop(black_box(elsewhere));
            drop(view);
        },
    );
    report(
        "view 381 MiB, write one byte, drop",
        1,
        || (),
        |()| {
            let view = view(&seen);
            // SAFETY: the view is this function's alone.
            unsafe { *view.as_ptr().add(12_345_678) = 1 };
            drop(view);
        },
    );
    report("view 381 MiB, detach, drop", 1, known, |foreign| {
        view(foreign).detach().expect("there is memory");
    });
    for n_kib in [64, 512, 1 << 10, 4 << 10, 16 << 10] {
        let n_bytes = n_kib << 10;
        let place = Place { n_bytes, ..place };
        let n = 200;
        let name = format!("view {n_kib} KiB, read all, drop: later");
        report(
            &name,
            n,
            || (),
            |()| {
                for _ in 0..n {
                    black_box(read(&seen.view_private(place).expect("it is known")));
                }
            },
        );
    }
}

fn main() {
    let source: Vec<u8> = (0..N_BYTES as u32).map(|i| ((i * 7) >> 3) as u8).collect();
    digests(&source);
    copies(&source);
    blocks();
    views(&source);
}
