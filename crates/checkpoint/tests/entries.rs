//! Entries and keys, of this version and of the one before.

mod images;

use images::{header, read, task};
use manyhands_checkpoint::entry::{Entry, Function, Identity, Key, Run, Task};
use manyhands_checkpoint::format::{Header, NoHeader, VERSION};
use manyhands_checkpoint::index::{Index, Why, differences};
use manyhands_checkpoint::scan::{Extent, Frame, read_header, read_payload};
use proptest::prelude::*;

fn any_task() -> impl Strategy<Value = Task> {
    let digest = any::<[u8; 16]>;
    (
        digest(),
        digest(),
        digest(),
        any::<u64>(),
        0.0..1e9,
        0.0..1e10,
        ".{0,40}",
    )
        .prop_map(
            |(function, argument, stream, place, duration_s, ended_s, label)| {
                let identity = Identity {
                    function,
                    argument,
                    stream,
                };
                Task {
                    key: identity.key(),
                    identity: Some(identity),
                    place,
                    duration_s,
                    ended_s,
                    label,
                }
            },
        )
}

fn any_entry() -> impl Strategy<Value = Entry> {
    let parts = prop::collection::vec((".{0,20}", any::<[u8; 16]>()), 0..5);
    prop_oneof![
        any_task().prop_map(Entry::Result),
        (any_task(), ".{0,20}", ".{0,200}")
            .prop_map(|(task, kind, text)| Entry::Failure(task, kind, text)),
        (any::<[u8; 16]>(), ".{0,20}", parts).prop_map(|(digest, name, parts)| Entry::Function(
            Function {
                digest,
                name,
                parts
            }
        )),
        (any::<u32>(), 0.0..1e10, ".{0,20}").prop_map(|(pid, began_s, host)| Entry::Run(Run {
            pid,
            began_s,
            host
        })),
    ]
}

proptest! {
    #[test]
    fn entries_come_back(entry in any_entry()) {
        let (kind, meta) = entry.encode();
        prop_assert_eq!(Entry::decode(kind, &meta), Some(entry));
    }

    #[test]
    fn no_bytes_are_too_strange_for_an_entry(kind in any::<u8>(), meta in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Entry::decode(kind, &meta);
    }

    #[test]
    fn no_bytes_are_too_strange_for_a_header(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert_eq!(Header::decode(&bytes), Err(NoHeader::Unknown));
    }
}

#[test]
fn long_texts_are_cut_between_characters() {
    let entry = Entry::Failure(task(1), "Error".into(), "ä".repeat(20_001));
    let (kind, meta) = entry.encode();
    let Some(Entry::Failure(_, _, text)) = Entry::decode(kind, &meta) else {
        panic!("it is a failure");
    };
    assert!(text.len() > 1000 && text.chars().all(|letter| letter == 'ä'));
}

const KEYS_OF_VERSION_1: [u128; 5] = [
    0xfd2ec597_6bae337f_9c7a4d5a_5420ef0a,
    0xe5fbc7d1_bfcbd899_c2647f15_6faaebcc,
    0xa39105e8_6a11c4e1_0711978a_dbbac0fc,
    0x21a079c9_73aa81d9_d6eabc7d_a4376d3d,
    0x4383afe0_6e8c6a12_f826c9ab_58e31713,
];

/// A file of version 1, as it was once made: today's program has no part in what is in it.
fn file_of_version_1() -> Vec<u8> {
    let mut bytes = Vec::new();
    let lines = include_str!("version_1.txt").lines();
    for line in lines.filter(|line| !line.starts_with('#')) {
        let (at, digits) = line.split_once(' ').unwrap_or((line, ""));
        bytes.resize(usize::from_str_radix(at, 16).expect("a place"), 0);
        bytes.extend((0..digits.len()).step_by(2).map(|k| {
            let byte = u8::from_str_radix(&digits[k..k + 2], 16);
            byte.expect("two digits")
        }));
    }
    bytes
}

#[test]
fn a_file_of_version_1_is_read_as_it_always_was() {
    let bytes = file_of_version_1();
    let header = read_header(&bytes).expect("it can be read");
    assert_eq!(header.map(|header| header.version), Ok(1));
    let mut read = read(&bytes).expect("it has a header");
    assert_eq!((read.n_damaged, &read.scan.damage[..]), (0, &[][..]));
    assert_eq!(read.scan.end(), bytes.len() as u64);
    let tasks: Vec<_> = (read.index.tasks.iter())
        .map(|stored| stored.task.clone())
        .collect();
    let labels: Vec<_> = tasks.iter().map(|task| task.label.as_str()).collect();
    assert_eq!(labels, ["0", "1", "2", "3", "4"]);
    for (task, digits) in tasks.iter().zip(KEYS_OF_VERSION_1) {
        assert_eq!(u128::from_be_bytes(task.key.0), digits);
        assert_eq!((task.place, task.identity), (0, None));
        assert!(task.ended_s.is_nan() && (0.0..1.0).contains(&task.duration_s));
        let extent = read.index.find(task.key).expect("it is there");
        read_payload(&bytes, extent).expect("it is whole");
    }
    let last = read.index.find(tasks[4].key).expect("it is there");
    let payload = read_payload(&bytes, last).expect("it is whole");
    assert!(payload.ends_with(&[b'7'; 300]));
    // What an identity is made of is not known of these; so nothing is said of why a task is not among them.
    let other = task(9).identity.expect("it has one");
    assert_eq!(read.index.why_not(&other), Why::New);
}

#[test]
fn a_later_version_is_refused_by_its_number() {
    let later = Header {
        version: VERSION + 1,
        ..header()
    };
    let read = read_header(&later.preamble()).expect("it can be read");
    assert_eq!(read, Err(NoHeader::Version(VERSION + 1)));
}

fn result(function: u8, argument: u8, stream: u8) -> (Identity, Frame) {
    let identity = Identity {
        function: [function; 16],
        argument: [argument; 16],
        stream: [stream; 16],
    };
    let task = Task {
        key: identity.key(),
        identity: Some(identity),
        ..task(1)
    };
    let payload = Extent {
        at: u64::from(argument),
        n_bytes: 0,
        check: 0,
    };
    let frame = Frame {
        entry: Entry::Result(task),
        at: 0,
        payload,
    };
    (identity, frame)
}

#[test]
fn the_reason_is_the_nearest_difference() {
    let mut index = Index::default();
    for (digest, name) in [(1, "f"), (2, "f"), (3, "g")] {
        let function = Function {
            digest: [digest; 16],
            name: name.into(),
            parts: Vec::new(),
        };
        index.functions.insert(function.digest, function);
    }
    index.add(result(1, 1, 1).1);
    let mut why = |function, argument, stream| index.why_not(&result(function, argument, stream).0);
    assert_eq!(why(1, 1, 2), Why::Stream);
    assert_eq!(why(2, 1, 1), Why::Function([1; 16]));
    assert_eq!(why(1, 2, 1), Why::Argument);
    assert_eq!(why(2, 2, 2), Why::New);
    // Another function altogether.
    assert_eq!(why(3, 1, 1), Why::New);
    assert_eq!(why(4, 1, 1), Why::New);
}

#[test]
fn a_failure_is_told_until_there_is_a_result() {
    let (identity, frame) = result(1, 1, 1);
    let failed = |frame: &Frame| {
        let Entry::Result(task) = frame.entry.clone() else {
            panic!("it is a result");
        };
        Frame {
            entry: Entry::Failure(task, "ValueError".into(), "no".into()),
            ..frame.clone()
        }
    };
    let mut index = Index::default();
    index.add(failed(&frame));
    assert_eq!(
        (index.find(identity.key()), index.why_not(&identity)),
        (None, Why::Failed)
    );
    index.add(frame.clone());
    assert_eq!(index.find(identity.key()), Some(frame.payload));
    index.add(failed(&frame));
    assert_eq!(index.find(identity.key()), Some(frame.payload));
    assert_eq!(
        (0..3).map(|at| index.is_latest(at)).collect::<Vec<_>>(),
        [false, true, false]
    );
    index.forget(identity.key());
    assert_eq!(index.find(identity.key()), None);
}

#[test]
fn keys_differ_with_each_part() {
    let keys: Vec<Key> = [(1, 1, 1), (1, 1, 2), (1, 2, 1), (2, 1, 1)]
        .map(|(function, argument, stream)| result(function, argument, stream).0.key())
        .to_vec();
    for (at, key) in keys.iter().enumerate() {
        assert!(!keys[..at].contains(key));
    }
}

#[test]
fn differences_name_what_changed_came_and_went() {
    let function = |parts: &[(&str, u8)]| Function {
        parts: parts
            .iter()
            .map(|&(label, digest)| (label.into(), [digest; 16]))
            .collect(),
        ..Function::default()
    };
    let before = function(&[("code", 1), ("global 'N'", 2), ("default", 3)]);
    let after = function(&[("code", 1), ("global 'N'", 4), ("global 'M'", 5)]);
    assert_eq!(
        differences(&before, &after),
        ["global 'N'", "global 'M'", "default"]
    );
}
