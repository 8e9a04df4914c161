//! Files in memory, to be damaged.

// Not every test needs all of it.
#![allow(dead_code)]

use manyhands_checkpoint::entry::{Entry, Function, Identity, Run, Task};
use manyhands_checkpoint::format::{FRAMES_AT, Header, VERSION, encode_frame};
use manyhands_checkpoint::index::Index;
use manyhands_checkpoint::scan::{Frame, Scan, Unreadable, read_header, read_payload};
use std::collections::HashMap;

/// Numbers that look random, the same for the same seed.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

pub fn header() -> Header {
    Header {
        version: VERSION,
        salt: *b"sixteen bytes it",
        created: 1_700_000_000,
    }
}

pub fn task(number: u64) -> Task {
    let identity = Identity {
        function: [7; 16],
        argument: u128::from(number).to_le_bytes(),
        stream: [3; 16],
    };
    Task {
        key: identity.key(),
        identity: Some(identity),
        place: number,
        duration_s: number as f64 / 8.0,
        ended_s: 1.7e9,
        label: format!("argument {number}"),
    }
}

/// What a task has returned: of very different lengths.
pub fn payload(number: u64) -> Vec<u8> {
    let n_bytes = match number % 7 {
        0 => 0,
        6 => 3000,
        k => (k * k * 5) as usize,
    };
    let mut random = Random::new(number + 1);
    (0..n_bytes).map(|_| random.next() as u8).collect()
}

/// A file with so many results, as bytes.
pub fn image(n_tasks: u64) -> Vec<u8> {
    let header = header();
    let mut bytes = header.preamble();
    let run = Entry::Run(Run {
        pid: 12,
        began_s: 1.5,
        host: "here".into(),
    });
    let function = Entry::Function(Function {
        digest: [7; 16],
        name: "simulate".into(),
        parts: vec![("code".into(), [1; 16]), ("global 'N'".into(), [2; 16])],
    });
    let results = (0..n_tasks).map(|number| (Entry::Result(task(number)), payload(number)));
    let others = [(run, Vec::new()), (function, Vec::new())];
    for (entry, payload) in others.into_iter().chain(results) {
        let (kind, meta) = entry.encode();
        let at = bytes.len() as u64;
        encode_frame(&header.salt, at, kind, &meta, &payload, &mut bytes);
    }
    bytes
}

/// What can be read of a file.
pub struct Read {
    pub index: Index,
    pub scan: Scan,
    /// The results that are whole, by their places.
    pub results: HashMap<u64, Vec<u8>>,
    pub n_damaged: usize,
}

/// Reads a file, which may be anything. Every result must be what it was.
pub fn read(bytes: &Vec<u8>) -> Option<Read> {
    let header = read_header(bytes).expect("memory can be read").ok()?;
    let mut scan = Scan::new(&header);
    let mut index = Index::default();
    let mut frames: Vec<Frame> = Vec::new();
    scan.advance(bytes, |frame| frames.push(frame))
        .expect("memory can be read");
    let mut results = HashMap::new();
    let mut n_damaged = 0;
    for frame in frames {
        if let Entry::Result(task) = &frame.entry {
            match read_payload(bytes, frame.payload) {
                Ok(payload) => drop(results.insert(task.place, payload)),
                Err(Unreadable::Damaged) => n_damaged += 1,
                Err(Unreadable::Io(error)) => panic!("memory can be read: {error}"),
            }
        }
        index.add(frame);
    }
    assert!(scan.end() >= FRAMES_AT);
    Some(Read {
        index,
        scan,
        results,
        n_damaged,
    })
}

/// Checks that what was read is what was written.
pub fn expect_true(read: &Read) {
    for (&number, bytes) in &read.results {
        assert_eq!(
            bytes,
            &payload(number),
            "the result {number} is another one"
        );
    }
    for stored in &read.index.tasks {
        assert_eq!(stored.task, task(stored.task.place));
    }
}

/// Fuzz target: a file that may be anything is read, its entries, payloads and index included.
pub fn any_file(bytes: &[u8]) {
    let bytes = bytes.to_vec();
    let Some(read) = read(&bytes) else { return };
    assert!(read.scan.end() <= (bytes.len() as u64).max(FRAMES_AT));
    let keys: Vec<_> = read
        .index
        .tasks
        .iter()
        .map(|found| found.task.key)
        .collect();
    for key in keys {
        let _ = read.index.find(key);
    }
}

/// Fuzz target: a file in which these bytes say what is another: three for the place, and the byte there. What is read
/// is what was written.
pub fn patched_file(patches: &[u8]) {
    let mut bytes = image(8);
    for patch in patches.chunks_exact(4) {
        let place =
            usize::from(patch[0]) << 16 | usize::from(patch[1]) << 8 | usize::from(patch[2]);
        let place = place % bytes.len();
        bytes[place] = patch[3];
    }
    if let Some(read) = read(&bytes) {
        expect_true(&read);
    }
}
