//! Files on disk: made, locked, continued, copied.

mod images;

use images::{expect_true, header, image, payload, read, task};
use manyhands_checkpoint::entry::Entry;
use manyhands_checkpoint::file::{File, OpenError, open_locked, prepare, salvage};
use manyhands_checkpoint::format::{FRAMES_AT, Header, VERSION};
use manyhands_checkpoint::log::{Log, Payload};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A folder that goes when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("manyhands-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the folder can be made");
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn locked(path: &Path) -> File {
    File::new(Arc::new(open_locked(path).expect("nobody has it")))
}

fn add(path: &Path, numbers: std::ops::Range<u64>) {
    let file = locked(path);
    let opened = prepare(&file, path).expect("it is a checkpoint");
    let log = Log::start(Arc::new(file), opened.header.salt, opened.scan.end())
        .expect("a thread can be started");
    for number in numbers {
        log.append(Entry::Result(task(number)), Payload::Bytes(payload(number)));
    }
    log.close().expect("the disk has room");
}

fn contents(path: &Path) -> images::Read {
    let read = read(&std::fs::read(path).expect("it can be read")).expect("it has a header");
    expect_true(&read);
    read
}

#[test]
fn a_file_is_made_and_continued() {
    let folder = Folder::new("continued");
    let path = folder.0.join("a.mh");
    add(&path, 0..10);
    add(&path, 10..20);
    assert_eq!(contents(&path).results.len(), 20);
}

#[test]
fn a_tail_is_cut_off_and_damage_is_kept() {
    let folder = Folder::new("tail");
    let path = folder.0.join("a.mh");
    let mut bytes = image(5);
    bytes[FRAMES_AT as usize + 100] ^= 1;
    let n_whole = bytes.len();
    bytes.extend_from_slice(&image(9)[n_whole..n_whole + 60]);
    std::fs::write(&path, &bytes).expect("it can be written");
    let file = locked(&path);
    let opened = prepare(&file, &path).expect("it is a checkpoint");
    assert_eq!((opened.n_bytes_cut, opened.scan.damage.len()), (60, 1));
    drop(file);
    assert_eq!(
        std::fs::read(&path).expect("it can be read"),
        bytes[..n_whole]
    );
    add(&path, 5..6);
    assert_eq!(contents(&path).results.len(), 6);
}

#[test]
fn frames_that_have_moved_are_not_taken_for_a_cut_write() {
    let folder = Folder::new("moved");
    let path = folder.0.join("a.mh");
    let mut bytes = image(10);
    bytes.remove(FRAMES_AT as usize + 300);
    std::fs::write(&path, &bytes).expect("it can be written");
    let file = locked(&path);
    let opened = prepare(&file, &path).expect("it is a checkpoint");
    assert_eq!((opened.n_bytes_cut, opened.scan.damage.len()), (0, 1));
    drop(file);
    let n_before = contents(&path).results.len();
    add(&path, 20..24);
    let after = std::fs::read(&path).expect("it can be read");
    assert_eq!(after[..bytes.len()], bytes, "nothing of it is overwritten");
    let read = contents(&path);
    assert_eq!(
        (read.results.len(), read.scan.damage.len()),
        (n_before + 4, 1)
    );
}

#[test]
fn two_do_not_write_at_once() {
    let folder = Folder::new("lock");
    let path = folder.0.join("a.mh");
    let first = locked(&path);
    prepare(&first, &path).expect("it is a checkpoint");
    assert!(matches!(open_locked(&path), Err(OpenError::InUse)));
    let reader = File::to_read(&path).expect("it can be read");
    assert!(reader.is_in_use());
    first.unlock();
    assert!(!reader.is_in_use());
    locked(&path);
}

#[test]
fn other_files_are_left_alone() {
    let folder = Folder::new("other");
    let path = folder.0.join("a.csv");
    let text = b"x,y\n1,2\n".repeat(3000);
    std::fs::write(&path, &text).expect("it can be written");
    let outcome = prepare(&locked(&path), &path);
    assert!(matches!(outcome, Err(OpenError::NotACheckpoint)));
    assert_eq!(std::fs::read(&path).expect("it can be read"), text);

    let later = Header {
        version: VERSION + 1,
        ..header()
    };
    std::fs::write(&path, later.preamble()).expect("it can be written");
    let outcome = prepare(&locked(&path), &path);
    assert!(matches!(outcome, Err(OpenError::Version(version)) if version == VERSION + 1));
}

#[test]
fn a_file_that_was_made_and_no_more_is_new() {
    let folder = Folder::new("new");
    for n_bytes in [0, 48, FRAMES_AT as usize] {
        let path = folder.0.join(format!("{n_bytes}.mh"));
        std::fs::write(&path, vec![0; n_bytes]).expect("it can be written");
        add(&path, 0..3);
        assert_eq!(contents(&path).results.len(), 3);
    }
}

#[test]
fn a_file_of_version_1_becomes_one_of_version_2() {
    let folder = Folder::new("version");
    let path = folder.0.join("a.mh");
    let old = Header {
        version: 1,
        ..header()
    };
    std::fs::write(&path, old.preamble()).expect("it can be written");
    add(&path, 0..3);
    let bytes = std::fs::read(&path).expect("it can be read");
    for at in [0, 4096] {
        assert_eq!(Header::decode(&bytes[at..]), Ok(header()));
    }
    assert_eq!(contents(&path).results.len(), 3);
}

#[test]
fn one_header_is_enough_and_is_mended() {
    let folder = Folder::new("header");
    for at in [0, 4096] {
        let path = folder.0.join(format!("{at}.mh"));
        let mut bytes = image(4);
        bytes[at..at + 512].fill(0);
        std::fs::write(&path, &bytes).expect("it can be written");
        add(&path, 4..5);
        assert_eq!(contents(&path).results.len(), 5);
        let mended = std::fs::read(&path).expect("it can be read");
        assert_eq!(mended[..bytes.len()], image(4));
    }
}

#[test]
fn what_is_whole_is_salvaged() {
    let folder = Folder::new("salvage");
    let (from, to) = (folder.0.join("a.mh"), folder.0.join("b.mh"));
    let mut bytes = image(20);
    let whole = read(&bytes).expect("it has a header");
    let damaged = whole.index.find(task(6).key).expect("it is there");
    bytes[damaged.at as usize + 5] ^= 1;
    bytes[FRAMES_AT as usize + 100] ^= 1;
    bytes.extend_from_slice(&[9; 11]);
    std::fs::write(&from, &bytes).expect("it can be written");
    let salvaged = salvage(&from, &to).expect("there is room");
    assert_eq!(
        (
            salvaged.n_results,
            salvaged.n_damaged,
            salvaged.n_bytes_tail
        ),
        (19, 1, 11)
    );
    assert_eq!(salvaged.damage.len(), 1);
    assert_eq!(std::fs::read(&from).expect("it can be read"), bytes);
    let read = contents(&to);
    assert_eq!((read.results.len(), read.scan.damage.len()), (19, 0));
    assert!(
        matches!(salvage(&from, &to), Err(OpenError::Io(_))),
        "nothing is overwritten"
    );
}
