//! What is written is read again, in whatever pieces it arrives; nonsense is an error.

mod messages;

use manyhands_wire::{
    Ending, FrameReader, Mark, MarkReader, Piece, PlaceBytes, Secret, TaskKey, WireError,
    body_check, header,
};
use messages::{Owned, own, read_to_end, write};
use proptest::collection::vec;
use proptest::prelude::*;

fn key() -> impl Strategy<Value = TaskKey> {
    (any::<u32>(), any::<u32>()).prop_map(|(job, index)| TaskKey { job, index })
}

/// Numbers that now and then follow one another, as those of a map do.
fn keys(n_max: usize) -> impl Strategy<Value = Vec<TaskKey>> {
    vec((key(), any::<bool>()), 0..n_max).prop_map(|drawn| {
        let mut keys: Vec<TaskKey> = Vec::new();
        for (fresh, is_next) in drawn {
            let next = keys.last().filter(|_| is_next).map(|last| TaskKey {
                job: last.job,
                index: last.index.wrapping_add(1),
            });
            keys.push(next.unwrap_or(fresh));
        }
        keys
    })
}

/// One value of `more` for each key.
fn with_keys<T: Clone + std::fmt::Debug>(
    more: impl Strategy<Value = T>,
) -> impl Strategy<Value = Vec<(TaskKey, T)>> {
    (keys(8), vec(more, 8..9)).prop_map(|(keys, more)| keys.into_iter().zip(more).collect())
}

fn message() -> impl Strategy<Value = Owned> {
    let bytes = || prop_oneof![9 => vec(any::<u8>(), 0..40), 1 => vec(any::<u8>(), 100..300)];
    let function = || prop_oneof![Just(7u32), any::<u32>()];
    prop_oneof![
        (any::<u32>(), any::<bool>(), bytes()).prop_map(|(r, m, b)| Owned::Context(r, m, b)),
        (any::<u32>(), key(), bytes()).prop_map(|(n, k, b)| Owned::Report(n, k, b)),
        (any::<u32>(), bytes()).prop_map(|(id, b)| Owned::Function(id, b)),
        vec(any::<u32>(), 0..5).prop_map(Owned::Forget),
        with_keys((function(), bytes())).prop_map(|tasks| {
            let flat = tasks
                .into_iter()
                .map(|(task, (function, bytes))| (task, function, bytes));
            Owned::Tasks(flat.collect())
        }),
        vec(key(), 0..5).prop_map(Owned::TakeBack),
        vec(key(), 0..5).prop_map(Owned::TakenBack),
        with_keys((ending(), any::<u64>(), bytes())).prop_map(|results| {
            let flat = results
                .into_iter()
                .map(|(task, (ending, ns, bytes))| (task, ending, ns, bytes));
            Owned::Results(flat.collect())
        }),
        any::<u64>().prop_map(Owned::Segment),
        vec(any::<PlaceBytes>(), 0..5).prop_map(Owned::Release),
        any::<u32>().prop_map(Owned::OwnerGone),
        vec(any::<u32>(), 0..5).prop_map(Owned::Forgotten),
        Just(Owned::Stop),
        Just(Owned::Ready),
    ]
}

fn ending() -> impl Strategy<Value = Ending> {
    prop_oneof![
        Just(Ending::Returned),
        Just(Ending::Failed),
        Just(Ending::Retriable),
        Just(Ending::Fatal),
    ]
}

proptest! {
    #[test]
    fn messages_survive_any_cutting(messages in vec(message(), 0..8), piece in 1usize..64) {
        let mut bytes = Vec::new();
        for message in &messages {
            write(message, &mut bytes);
        }
        let mut reader = FrameReader::default();
        let mut read = Vec::new();
        for (at, piece) in bytes.chunks(piece).enumerate() {
            if at % 2 == 0 {
                reader.push(piece);
            } else {
                let room = reader.room(64);
                let n_room = room.len();
                room[..piece.len()].copy_from_slice(piece);
                reader.filled(n_room, piece.len());
            }
            while let Some(message) = reader.next_message().expect("well-formed") {
                read.push(own(message));
            }
        }
        prop_assert_eq!(read, messages);
    }
}

/// Text that has zeros, and parts of what a mark begins with, more often than any real one.
fn text(secret: Secret) -> impl Strategy<Value = Vec<u8>> {
    let mark = Mark::Report(7).to_bytes(secret);
    let part = prop_oneof![
        vec(any::<u8>(), 0..20),
        vec(Just(0u8), 1..4),
        (0..16usize).prop_map(move |n| mark[..n].to_vec()),
    ];
    vec(part, 0..4).prop_map(|parts| parts.concat())
}

fn mark() -> impl Strategy<Value = Mark> {
    prop_oneof![
        any::<u32>().prop_map(Mark::Route),
        key().prop_map(Mark::Ended),
        key().prop_map(Mark::Tried),
        any::<u32>().prop_map(Mark::Report),
    ]
}

proptest! {
    #[test]
    fn marks_are_found_in_any_text(
        parts in vec((text(Secret::new(3, 4)), mark()), 0..6),
        rest in text(Secret::new(3, 4)),
        piece in 1usize..40,
    ) {
        let secret = Secret::new(3, 4);
        // A text that ends as a mark begins would make one with the mark that follows.
        let whole = |text: &[u8]| [text, &b"."[..]].concat();
        let mut bytes = Vec::new();
        for (text, mark) in &parts {
            bytes.extend(whole(text));
            bytes.extend(mark.to_bytes(secret));
        }
        bytes.extend(whole(&rest));
        let mut reader = MarkReader::new(secret);
        let mut texts: Vec<Vec<u8>> = vec![Vec::new()];
        let mut marks = Vec::new();
        let mut take = |piece: Piece<'_>| match piece {
            Piece::Text(text) => texts.last_mut().expect("one more than marks").extend(text),
            Piece::Mark(mark) => {
                marks.push(mark);
                texts.push(Vec::new());
            }
        };
        for piece in bytes.chunks(piece) {
            reader.read(piece, &mut take);
        }
        reader.finish(&mut take);
        prop_assert_eq!(marks, parts.iter().map(|(_, mark)| *mark).collect::<Vec<_>>());
        let written = parts.iter().map(|(text, _)| whole(text)).chain([whole(&rest)]);
        prop_assert_eq!(texts, written.collect::<Vec<_>>());
    }

    #[test]
    fn text_without_marks_is_left_as_it_is(bytes in vec(any::<u8>(), 0..200), piece in 1usize..40) {
        let mut reader = MarkReader::new(Secret::new(1, 2));
        let mut read = Vec::new();
        let mut take = |piece: Piece<'_>| match piece {
            Piece::Text(text) => read.extend_from_slice(text),
            Piece::Mark(mark) => panic!("{mark:?}"),
        };
        for piece in bytes.chunks(piece) {
            reader.read(piece, &mut take);
        }
        reader.finish(&mut take);
        prop_assert_eq!(read, bytes);
    }
}

#[test]
fn nonsense_is_named() {
    let read = |kind, body: &[u8]| {
        let header = header(kind, body.len() as u64, body_check(body));
        read_to_end(&[&header[..], body].concat(), 64).1
    };
    assert_eq!(read(99, &[]), Err(WireError::UnknownKind(99)));
    for (kind, body) in [(17, &[1, 2, 3][..]), (7, &[1, 2, 3, 4]), (8, &[1, 2, 3])] {
        assert_eq!(read(kind, body), Err(WireError::Truncated(kind)));
    }
    let too_long = header(7, u64::MAX, 0);
    assert_eq!(
        read_to_end(&too_long, 64).1,
        Err(WireError::TooLong(u64::MAX))
    );
    assert_eq!(read_to_end(&[0xff; 17], 64).1, Err(WireError::Header));
    let other_body = [&header(12, 1, body_check(&[1]))[..], &[2]].concat();
    assert_eq!(read_to_end(&other_body, 64).1, Err(WireError::Damaged(12)));
}
