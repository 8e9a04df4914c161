//! Where the system gives nothing, an arena gives `None`. Limits hold for a whole process, so each test
//! runs in one of its own.

mod helper;

use manyhands_store::{Arena, ArenaOptions, Foreign};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn limit(resource: Resource, value: u64) {
    let limit = Rlimit {
        current: Some(value),
        maximum: getrlimit(resource).maximum,
    };
    setrlimit(resource, limit).expect("a limit can be lowered");
}

fn mapped_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
    let n_pages: u64 = statm
        .split(' ')
        .next()
        .and_then(|it| it.parse().ok())
        .expect("a number");
    n_pages * 4096
}

/// Too little for a segment of the usual length: a shorter one serves, until there is no room at all.
fn little_address_space() {
    limit(Resource::As, mapped_bytes() + (300 << 20));
    let arena = Arena::new(0, ArenaOptions::default());
    let foreign = Foreign::new();
    let lease = arena
        .copy_in(&vec![3; 5 << 20])
        .expect("there is room for that");
    let id = lease.place().segment;
    foreign.adopt(id, arena.descriptor(id).expect("it is the arena's"));
    let view = foreign
        .view_private(lease.place())
        .expect("there is room for that");
    // SAFETY: nobody writes.
    #[allow(unsafe_code)]
    let bytes = unsafe { std::slice::from_raw_parts(view.as_ptr(), view.len()) };
    assert!(bytes.iter().all(|&byte| byte == 3));
    assert!(arena.allocate(400 << 20).is_none());
    let blocks: Vec<_> = std::iter::from_fn(|| arena.allocate(8 << 20))
        .take(1000)
        .collect();
    assert!((1..1000).contains(&blocks.len()), "{}", blocks.len());
    for block in &blocks {
        assert!(arena.free(block.as_ptr()));
    }
    assert!(arena.allocate(8 << 20).is_some());
}

fn no_address_space() {
    limit(Resource::As, mapped_bytes() + (1 << 20));
    let arena = Arena::new(0, ArenaOptions::default());
    assert!(arena.allocate(4 << 20).is_none());
    assert_eq!(arena.n_segments(), 0);
}

fn no_descriptors() {
    limit(Resource::Nofile, 3);
    let arena = Arena::new(0, ArenaOptions::default());
    assert!(arena.allocate(100).is_none());
    assert!(arena.allocate_zeroed(100).is_none());
    assert!(arena.copy_in(b"bytes").is_none());
    assert_eq!(arena.n_segments(), 0);
}

fn short_files() {
    limit(Resource::Fsize, 1 << 20);
    let arena = Arena::new(0, ArenaOptions::default());
    assert!(arena.allocate(2 << 20).is_none());
    let lease = arena
        .copy_in(&[9; 100_000])
        .expect("a segment of 1 MiB serves");
    // SAFETY: nobody writes to what was copied in.
    #[allow(unsafe_code)]
    let bytes = unsafe { lease.as_slice() };
    assert!(bytes.iter().all(|&byte| byte == 9));
}

const ROLES: &[(&str, fn())] = &[
    ("little_address_space", little_address_space),
    ("no_address_space", no_address_space),
    ("no_descriptors", no_descriptors),
    ("short_files", short_files),
];

#[test]
fn helper() {
    if let Some(role) = helper::role() {
        let found = ROLES.iter().find(|(name, _)| *name == role);
        let (_, play) = found.expect("a role of the list");
        play();
    }
}

#[test]
fn what_the_system_refuses_is_none() {
    for (role, _) in ROLES {
        helper::play(role);
    }
}
