//! What is read of a connection whose bytes were changed on the way: what was written, or an error.
//!
//! Not looked at, as no socket does it: whole frames that are left out, come twice or in another order. Each of them is
//! a message that was written.

mod messages;

use manyhands_wire::{Ending, TaskKey, WireError};
use messages::{Owned, any_body, any_stream, read_to_end, write};

/// Numbers that look random, the same for the same seed.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    fn bytes(&mut self) -> Vec<u8> {
        let n_bytes = [0, 1, 9, 40, 300][self.below(5)];
        (0..n_bytes).map(|_| self.next() as u8).collect()
    }

    /// Up to five of something.
    fn some<T>(&mut self, mut make: impl FnMut(&mut Random) -> T) -> Vec<T> {
        (0..self.below(6)).map(|_| make(self)).collect()
    }

    /// Names of tasks, which now and then follow one another.
    fn keys(&mut self) -> Vec<TaskKey> {
        let (job, first) = (self.next() as u32, self.next() as u32 >> 1);
        let step = self.below(3) as u32;
        let index = |k| first + k * step;
        (0..self.below(6) as u32)
            .map(|k| TaskKey {
                job,
                index: index(k),
            })
            .collect()
    }
}

const N_TYPES: usize = 14;

/// A message of this type.
fn message(number: usize, random: &mut Random) -> Owned {
    let id = random.next() as u32;
    let key = TaskKey {
        job: random.next() as u32,
        index: random.next() as u32,
    };
    match number {
        0 => Owned::Context(id, id.is_multiple_of(2), random.bytes()),
        1 => Owned::Function(id, random.bytes()),
        2 => Owned::Forget(random.some(|random| random.next() as u32)),
        3 => {
            let tasks = random.keys().into_iter();
            Owned::Tasks(tasks.map(|key| (key, id, random.bytes())).collect())
        }
        4 => Owned::TakeBack(random.keys()),
        5 => Owned::TakenBack(random.keys()),
        6 => {
            let endings = [
                Ending::Returned,
                Ending::Failed,
                Ending::Retriable,
                Ending::Fatal,
            ];
            let results = random.keys().into_iter().map(|key| {
                let ending = endings[random.below(4)];
                let duration_ns = random.next() >> random.below(64);
                (key, ending, duration_ns, random.bytes())
            });
            Owned::Results(results.collect())
        }
        7 => Owned::Segment(random.next()),
        8 => Owned::Release(random.some(|random| [random.next() as u8; 24])),
        9 => Owned::OwnerGone(id),
        10 => Owned::Forgotten(random.some(|random| random.next() as u32)),
        11 => Owned::Report(id, key, random.bytes()),
        12 => Owned::Stop,
        _ => Owned::Ready,
    }
}

/// A few messages, the first of which has this type; and where each frame begins, the end included.
fn stream(number: usize, random: &mut Random) -> (Vec<Owned>, Vec<u8>, Vec<usize>) {
    let mut messages = vec![message(number % N_TYPES, random)];
    messages.extend(random.some(|random| message(random.below(N_TYPES), random)));
    let (mut bytes, mut starts) = (Vec::new(), vec![0]);
    for message in &messages {
        write(message, &mut bytes);
        starts.push(bytes.len());
    }
    (messages, bytes, starts)
}

/// Changes some bytes in some way.
fn mutate(bytes: &mut Vec<u8>, starts: &[usize], random: &mut Random) {
    // Numbers of a header, as lengths are what is dangerous; or anywhere.
    let start = starts[random.below(starts.len() - 1)];
    let at = match random.below(2) {
        0 => start + random.below(17),
        _ => random.below(bytes.len()),
    };
    let n_bytes = (1 + random.below(40)).min(bytes.len() - at);
    match random.below(8) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.next() as u8,
        2 => bytes[at..at + n_bytes].fill([0, 0xff][random.below(2)]),
        3 => bytes.truncate(at),
        4 => drop(bytes.drain(at..at + n_bytes)),
        5 => {
            let copied = bytes[at..at + n_bytes].to_vec();
            let to = random.below(bytes.len());
            bytes.splice(to..to, copied);
        }
        6 => {
            let to = random.below(bytes.len() - n_bytes + 1);
            bytes.copy_within(at..at + n_bytes, to);
        }
        _ => {
            let lengths = [u64::MAX, 1 << 42, (1 << 42) - 1, 1 << 31, 4096, 1, 0];
            let length = lengths[random.below(lengths.len())];
            bytes[start..start + 8].copy_from_slice(&length.to_le_bytes());
        }
    }
}

fn n_mutations() -> u64 {
    std::env::var("N_MUTATIONS").map_or(20_000, |text| {
        text.parse().expect("N_MUTATIONS is a number")
    })
}

fn first_seed() -> u64 {
    std::env::var("SEED").map_or(1, |text| text.parse().expect("SEED is a number"))
}

#[test]
fn mutated_streams_give_what_was_written_and_then_an_error() {
    let mut n_errors_by_type = [0; N_TYPES];
    let (mut n_cut, mut seed) = (0, first_seed());
    let mut n_left = n_mutations();
    while n_left > 0 {
        let mut random = Random::new(seed);
        let number = seed as usize % N_TYPES;
        let (messages, whole, starts) = stream(number, &mut random);
        let mut bytes = whole.clone();
        mutate(&mut bytes, &starts, &mut random);
        seed += 1;
        // Zeros in the place of zeros are no change; a cut between frames leaves all of them whole.
        if bytes == whole || starts.contains(&bytes.len()) && whole.starts_with(&bytes) {
            continue;
        }
        n_left -= 1;
        let (read, end) = read_to_end(&bytes, 1 + random.below(100));
        let n_same = bytes.iter().zip(&whole).take_while(|(a, b)| a == b).count();
        let n_before = starts.iter().filter(|&&start| start <= n_same).count() - 1;
        // All that came before the change, whatever comes after it.
        assert!(read.len() >= n_before, "seed {}", seed - 1);
        assert_eq!(
            read[..n_before],
            messages[..n_before],
            "seed {}: what came before the change",
            seed - 1
        );
        for message in &read {
            assert!(
                messages.contains(message),
                "seed {}: {message:?} was never written",
                seed - 1
            );
        }
        // A part that was left out or doubled may be a whole number of frames.
        let mut written = Vec::new();
        read.iter().for_each(|message| write(message, &mut written));
        assert!(end.is_err() || written == bytes, "seed {}", seed - 1);
        n_errors_by_type[number] += usize::from(end.is_err());
        n_cut += usize::from(matches!(end, Err(WireError::Cut(_))));
    }
    let n_least = n_mutations() as usize / N_TYPES / 2;
    assert!(n_errors_by_type.iter().all(|&n_errors| n_errors > n_least));
    assert!(n_cut > 0, "no message was ever cut");
}

#[test]
fn bodies_that_are_anything_are_a_message_or_an_error() {
    let (mut n_messages, mut n_errors) = (0, 0);
    for seed in first_seed()..first_seed() + n_mutations() {
        let mut random = Random::new(seed);
        let mut bytes = Vec::new();
        write(&message(seed as usize % N_TYPES, &mut random), &mut bytes);
        // The kind and the body, as the target takes them.
        let mut body = [&bytes[8..9], &bytes[17..]].concat();
        for _ in 0..=random.below(3) {
            if body.len() > 1 {
                mutate_body(&mut body, &mut random);
            }
        }
        match any_body(&body) {
            true => n_messages += 1,
            false => n_errors += 1,
        }
    }
    assert!(n_messages > 100 && n_errors > 100);
}

fn mutate_body(body: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(body.len());
    match random.below(5) {
        0 => body[at] ^= 1 << random.below(8),
        1 => body[at] = [0, 0x7f, 0x80, 0xff][random.below(4)],
        2 => body.truncate(at.max(1)),
        3 => {
            let copied = body[at..].to_vec();
            body.extend(copied);
        }
        _ => {
            let at = at.min(body.len().saturating_sub(4));
            let n_bytes = 4.min(body.len() - at);
            body[at..at + n_bytes].fill([0, 0xff][random.below(2)]);
        }
    }
}

#[test]
fn bytes_that_nobody_wrote_are_an_error() {
    for seed in first_seed()..first_seed() + n_mutations() / 10 {
        let mut random = Random::new(seed);
        any_stream(&random.bytes());
    }
}

#[test]
fn a_wrong_length_is_an_error_before_its_body_is_waited_for() {
    for number in 0..N_TYPES {
        let (_, whole, starts) = stream(number, &mut Random::new(number as u64 + 1));
        for bit in 0..8 * 17 {
            let mut bytes = whole[..starts[1].min(17)].to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(read_to_end(&bytes, 64), (vec![], Err(WireError::Header)));
        }
    }
}

#[test]
fn a_connection_that_ends_within_a_message_has_failed() {
    for number in 0..N_TYPES {
        let (messages, whole, starts) = stream(number, &mut Random::new(number as u64 + 1));
        for n_bytes in 0..=whole.len() {
            let (read, end) = read_to_end(&whole[..n_bytes], 13);
            let n_whole = starts.iter().filter(|&&start| start <= n_bytes).count() - 1;
            assert_eq!(read, messages[..n_whole]);
            let n_rest = n_bytes - starts[n_whole];
            let expected = match n_rest {
                0 => Ok(()),
                _ => Err(WireError::Cut(n_rest)),
            };
            assert_eq!(end, expected);
        }
    }
}
