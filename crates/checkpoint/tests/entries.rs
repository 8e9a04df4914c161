//! Entries and keys, of this version and of the one before.

mod images;

use images::{header, payload, read, task};
use manyhands_checkpoint::entry::{Entry, Function, Identity, Key, Run, Task};
use manyhands_checkpoint::format::{Header, NoHeader, VERSION, encode_frame};
use manyhands_checkpoint::index::{Index, Why, differences};
use manyhands_checkpoint::scan::{Extent, Frame, read_header};
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

/// A file as version 1 wrote it.
fn image_of_version_1() -> Vec<u8> {
    let header = Header {
        version: 1,
        ..header()
    };
    let mut bytes = header.preamble();
    for number in 0..5 {
        let task = Task {
            identity: None,
            ..task(number)
        };
        let (kind, meta) = Entry::Result(task).encode();
        assert_eq!(kind, 1);
        let at = bytes.len() as u64;
        encode_frame(&header.salt, at, kind, &meta, &payload(number), &mut bytes);
    }
    bytes
}

#[test]
fn version_1_is_read_and_its_results_are_found() {
    let bytes = image_of_version_1();
    assert_eq!(
        read_header(&bytes)
            .expect("it can be read")
            .map(|header| header.version),
        Ok(1)
    );
    let mut read = read(&bytes).expect("it has a header");
    assert_eq!(read.index.tasks.len(), 5);
    for number in 0..5 {
        let key = task(number).key;
        let extent = read.index.find(key).expect("it is there");
        assert_eq!(
            &bytes[extent.at as usize..][..extent.n_bytes as usize],
            payload(number)
        );
    }
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
