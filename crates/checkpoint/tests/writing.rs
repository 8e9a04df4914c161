//! What is said to be durable is, whatever becomes of the rest.

mod images;

use images::{Random, expect_true, header, payload, read, task};
use manyhands_checkpoint::entry::Entry;
use manyhands_checkpoint::format::FRAMES_AT;
use manyhands_checkpoint::log::{Log, Payload, Storage};
use manyhands_checkpoint::scan::{Scan, Source};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Default)]
struct Disk {
    /// What is there after a power cut, and what has been written since, in order.
    durable: Vec<u8>,
    pending: Vec<(u64, Vec<u8>)>,
    /// Images of the disk at moments of the power's choice: with how much was durable.
    n_syncs: usize,
    room: Option<usize>,
}

impl Disk {
    fn present(&self) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        for (at, written) in &self.pending {
            put(&mut bytes, *at as usize, written);
        }
        bytes
    }
}

fn put(bytes: &mut Vec<u8>, at: usize, written: &[u8]) {
    let end = at + written.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at..end].copy_from_slice(written);
}

/// A disk in memory that remembers what has not been synced.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Disk>>);

impl Memory {
    fn new(room: Option<usize>) -> Memory {
        let disk = Disk {
            durable: header().preamble(),
            room,
            ..Disk::default()
        };
        Memory(Arc::new(Mutex::new(disk)))
    }

    fn disk(&self) -> std::sync::MutexGuard<'_, Disk> {
        self.0.lock().expect("nobody panics with it")
    }

    /// What is left when the power fails now: of what was not synced, any sectors, the others zero or old.
    fn cut_power(&self, random: &mut Random) -> Vec<u8> {
        let disk = self.disk();
        let mut bytes = disk.durable.clone();
        if random.below(2) == 0 {
            // The length of a file may be there before its contents.
            bytes.resize(disk.present().len(), 0);
        }
        for (at, written) in &disk.pending {
            for (number, sector) in written.chunks(512).enumerate() {
                if random.below(2) == 0 {
                    put(&mut bytes, *at as usize + 512 * number, sector);
                }
            }
        }
        bytes
    }
}

impl Storage for Memory {
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let mut disk = self.disk();
        let n_left = disk
            .room
            .map_or(usize::MAX, |room| room.saturating_sub(at as usize));
        let n_written = bytes.len().min(n_left);
        disk.pending.push((at, bytes[..n_written].to_vec()));
        match n_written == bytes.len() {
            true => Ok(()),
            false => Err(io::Error::from_raw_os_error(28)),
        }
    }

    fn sync(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.durable = disk.present();
        disk.pending.clear();
        disk.n_syncs += 1;
        Ok(())
    }

    fn truncate(&self, n_bytes: u64) -> io::Result<()> {
        let mut disk = self.disk();
        disk.durable = disk.present();
        disk.pending.clear();
        disk.durable.truncate(n_bytes as usize);
        Ok(())
    }

    fn n_bytes_free(&self) -> Option<u64> {
        Some(3)
    }
}

fn start(memory: &Memory) -> Log {
    Log::start(Arc::new(memory.clone()), header().salt, FRAMES_AT).expect("a thread can be started")
}

/// A result in pieces of some length.
fn in_pieces(number: u64, n_bytes: usize) -> Payload {
    let bytes = payload(number);
    let pieces = bytes
        .chunks(n_bytes)
        .map(|piece| Box::new(piece.to_vec()) as Box<dyn Source + Send>);
    Payload::Pieces(pieces.collect())
}

fn append(log: &Log, number: u64) -> u64 {
    let payload = match number % 3 {
        0 => in_pieces(number, 700),
        _ => Payload::Bytes(payload(number)),
    };
    log.append(Entry::Result(task(number)), payload)
}

#[test]
fn what_is_durable_survives_a_power_cut() {
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let memory = Memory::new(None);
        let log = start(&memory);
        let n_tasks = 1 + random.below(40) as u64;
        let mut n_durable = 0;
        for number in 0..n_tasks {
            let sequence = append(&log, number);
            if random.below(4) == 0 {
                assert_eq!(log.wait(sequence, Duration::MAX), Ok(true));
                n_durable = number + 1;
            }
        }
        let bytes = memory.cut_power(&mut random);
        let read = read(&bytes).expect("the headers were durable");
        expect_true(&read);
        for number in 0..n_durable {
            assert!(
                read.results.contains_key(&number),
                "seed {seed}: the result {number} is lost"
            );
        }
        log.close().expect("the disk has room");
    }
}

#[test]
fn closing_writes_all() {
    let memory = Memory::new(None);
    let log = start(&memory);
    for number in 0..500 {
        append(&log, number);
    }
    log.close().expect("the disk has room");
    // Later ones are not.
    append(&log, 500);
    let disk = memory.disk();
    assert!(disk.pending.is_empty());
    assert!(disk.n_syncs <= 500, "{} syncs", disk.n_syncs);
    let read = read(&disk.durable).expect("it has a header");
    expect_true(&read);
    assert_eq!(read.results.len(), 500);
    assert_eq!(read.scan.end(), disk.durable.len() as u64);
}

#[test]
fn a_full_disk_keeps_what_was_durable() {
    for room in [FRAMES_AT as usize + 1, 20_000, 20_050, 33_333] {
        let memory = Memory::new(Some(room));
        let log = start(&memory);
        let (mut number, mut n_durable) = (0, 0);
        let failure = loop {
            match log.wait(append(&log, number), Duration::MAX) {
                Ok(is_durable) => assert!(is_durable),
                Err(failure) => break failure,
            }
            number += 1;
            n_durable = number;
        };
        assert_eq!(failure.errno, Some(28));
        assert_eq!(failure.n_bytes_free, Some(3));
        assert!(failure.n_bytes_file + failure.n_bytes_more > room as u64);
        assert_eq!(log.close(), Err(Arc::clone(&failure)));
        let bytes = memory.disk().present();
        assert_eq!(bytes.len() as u64, failure.n_bytes_file);
        let read = read(&bytes).expect("it has a header");
        expect_true(&read);
        assert_eq!(read.results.len() as u64, n_durable);
    }
}

#[test]
fn a_reader_follows_the_writer() {
    let memory = Memory::new(None);
    let log = start(&memory);
    let mut scan = Scan::new(&header());
    let mut n_seen = 0;
    for number in 0..50 {
        let sequence = append(&log, number);
        log.wait(sequence, Duration::MAX)
            .expect("the disk has room");
        let present = memory.disk().present();
        // Half written: what the reader sees while the writer is at it.
        let n_half = present.len() - 8;
        scan.advance(&present[..n_half], |_| n_seen += 1)
            .expect("it can be read");
        assert!(n_seen >= number);
        scan.advance(&present, |_| n_seen += 1)
            .expect("it can be read");
        assert_eq!(n_seen, number + 1);
    }
    assert_eq!(scan.damage, []);
}
