//! What is left of a file that was damaged: the truth, or nothing.

mod images;

use images::{Random, any_file, expect_true, image, patched_file, payload, read};
use manyhands_checkpoint::format::FRAMES_AT;

const N_TASKS: u64 = 24;

#[test]
fn a_whole_file_is_read_whole() {
    let bytes = image(N_TASKS);
    let read = read(&bytes).expect("it has a header");
    expect_true(&read);
    assert_eq!(read.results.len() as u64, N_TASKS);
    assert_eq!(read.scan.end(), bytes.len() as u64);
    assert_eq!(read.scan.damage, []);
    assert_eq!(read.index.n_results() as u64, N_TASKS);
    assert_eq!(read.index.functions[&[7; 16]].name, "simulate");
    assert_eq!(read.index.run.as_ref().map(|run| run.pid), Some(12));
}

#[test]
fn of_a_file_cut_anywhere_all_before_is_read() {
    let whole = image(N_TASKS);
    let mut n_before = 0;
    for n_bytes in (0..whole.len()).filter(|n_bytes| n_bytes % 3 == 0 || n_bytes % 8 == 7) {
        let Some(read) = read(&whole[..n_bytes].to_vec()) else {
            assert!(n_bytes < 48, "{n_bytes} bytes have a header");
            continue;
        };
        expect_true(&read);
        assert_eq!((read.n_damaged, &read.scan.damage[..]), (0, &[][..]));
        assert!(
            read.results.len() >= n_before,
            "there is less in more bytes"
        );
        n_before = read.results.len();
    }
    assert!(n_before as u64 >= N_TASKS - 1);
}

#[test]
fn one_lost_sector_costs_what_was_in_it() {
    let whole = image(N_TASKS);
    for n_lost in [512, 4096] {
        for at in (0..whole.len()).step_by(n_lost) {
            let mut bytes = whole.clone();
            let end = bytes.len().min(at + n_lost);
            let is_changed = bytes[at..end].iter().any(|&byte| byte != 0);
            bytes[at..end].fill(0);
            let read = read(&bytes).expect("one of two headers is left");
            expect_true(&read);
            let n_left = read.results.len();
            // Whatever is wholly elsewhere is there.
            assert!(n_left as u64 + 60 >= N_TASKS, "{n_left} results are left");
            let is_noticed = n_left as u64 != N_TASKS
                || !read.scan.damage.is_empty()
                || read.scan.end() != bytes.len() as u64;
            assert!(is_noticed || !is_changed || at < FRAMES_AT as usize + 512);
        }
    }
}

/// Changes some bytes in some way.
fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..=random.below(3) {
        if bytes.is_empty() {
            return;
        }
        // Where there is something, as a rule.
        let at = match random.below(8) {
            0 => random.below(bytes.len()),
            _ => random.below(bytes.len().saturating_sub(FRAMES_AT as usize)) + FRAMES_AT as usize,
        };
        let at = at.min(bytes.len() - 1);
        let n_bytes = random.below(200).min(bytes.len() - at);
        match random.below(8) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.next() as u8,
            2 => bytes[at..at + n_bytes].fill(0),
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
            // A number of a head: lengths are what is dangerous.
            _ => {
                let at = at & !7;
                let number = [u64::MAX, 1 << 62, 1 << 32, 0, 7][random.below(5)];
                if let Some(word) = bytes.get_mut(at..at + 8) {
                    word.copy_from_slice(&number.to_le_bytes());
                }
            }
        }
    }
}

#[test]
fn mutated_files_give_the_truth_or_an_error() {
    let n_mutations = std::env::var("N_MUTATIONS").map_or(20_000, |text| {
        text.parse().expect("N_MUTATIONS is a number")
    });
    let seed = std::env::var("SEED").map_or(1, |text| text.parse().expect("SEED is a number"));
    let whole = image(N_TASKS);
    let (mut n_read, mut n_lost) = (0, 0);
    for number in 0..n_mutations {
        let mut random = Random::new(seed + number);
        let mut bytes = whole.clone();
        mutate(&mut bytes, &mut random);
        let Some(read) = read(&bytes) else { continue };
        expect_true(&read);
        n_read += 1;
        n_lost += usize::from(read.results.len() < N_TASKS as usize);
    }
    assert!(
        n_read > n_mutations / 2,
        "{n_read} of {n_mutations} could be read"
    );
    assert!(n_lost > 0, "nothing was ever damaged");
}

#[test]
fn a_copy_of_a_frame_elsewhere_is_none() {
    // A result may hold a checkpoint file, this one too.
    let whole = image(3);
    let mut bytes = whole.clone();
    bytes.extend_from_slice(&whole[FRAMES_AT as usize..]);
    let read = read(&bytes).expect("it has a header");
    assert_eq!(read.index.tasks.len(), 3);
    assert_eq!(read.scan.end(), whole.len() as u64);
    assert_eq!(read.results[&2], payload(2));
}

#[test]
fn damage_is_told_from_a_tail() {
    let whole = image(N_TASKS);
    let mut bytes = whole.clone();
    // In the meta of the function, which is the second frame.
    bytes[FRAMES_AT as usize + 100] ^= 1;
    bytes.extend_from_slice(&[1; 100]);
    let read = read(&bytes).expect("it has a header");
    assert_eq!(read.results.len() as u64, N_TASKS);
    assert_eq!(read.scan.damage.len(), 1);
    assert_eq!(read.scan.end(), whole.len() as u64);
}

#[test]
fn the_fuzz_targets_hold_for_bytes_at_random() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let n_bytes = 4 * random.below(20);
        let drawn: Vec<u8> = (0..n_bytes).map(|_| random.next() as u8).collect();
        patched_file(&drawn);
        let mut bytes = image(random.below(4) as u64);
        bytes.extend_from_slice(&drawn);
        any_file(&bytes[random.below(bytes.len())..]);
        any_file(&bytes);
    }
}
