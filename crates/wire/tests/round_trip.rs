//! What is written is read again, in whatever pieces it arrives; nonsense is an error.

use manyhands_wire::{
    Context, Ending, FrameReader, FrameWriter, Mark, MarkReader, Message, Piece, PlaceBytes,
    Report, ResultsWriter, Secret, TaskKey, TasksWriter, WireError, next_in_run, push_counted,
};
use proptest::collection::vec;
use proptest::prelude::*;

fn key() -> impl Strategy<Value = TaskKey> {
    (any::<u32>(), any::<u32>()).prop_map(|(job, index)| TaskKey { job, index })
}

/// An owned copy of any message, in a form that is easy to make and to compare.
#[derive(Clone, PartialEq, Debug)]
enum Owned {
    Context(u32, bool, Vec<u8>),
    Function(u32, Vec<u8>),
    Forget(Vec<u32>),
    Tasks(Vec<(TaskKey, u32, Vec<u8>)>),
    TakeBack(Vec<TaskKey>),
    TakenBack(Vec<TaskKey>),
    Results(Vec<(TaskKey, Ending, u64, Vec<u8>)>),
    Segment(u64),
    Release(Vec<PlaceBytes>),
    OwnerGone(u32),
    Forgotten(Vec<u32>),
    Report(u32, TaskKey, Vec<u8>),
    Stop,
    Ready,
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

fn write(message: &Owned, out: &mut Vec<u8>) {
    let mut frames = FrameWriter::new(out);
    match message {
        Owned::Context(route, is_marked, bytes) => frames.context(&Context {
            route: *route,
            is_marked: *is_marked,
            bytes,
        }),
        Owned::Report(number, task, bytes) => frames.report(&Report {
            number: *number,
            task: *task,
            bytes,
        }),
        Owned::Function(id, bytes) => frames.function(*id, bytes),
        Owned::Forget(ids) => frames.forget(ids.iter().copied()),
        Owned::TakeBack(tasks) => frames.take_back(tasks.iter().copied()),
        Owned::TakenBack(tasks) => frames.taken_back(tasks.iter().copied()),
        Owned::Segment(segment) => frames.segment(*segment),
        Owned::Release(places) => frames.release(places.iter().copied()),
        Owned::OwnerGone(owner) => frames.owner_gone(*owner),
        Owned::Forgotten(ids) => frames.forgotten(ids.iter().copied()),
        Owned::Stop => frames.stop(),
        Owned::Ready => frames.ready(),
        Owned::Tasks(tasks) => {
            let mut writer = TasksWriter::new(out);
            // In one way and in the other: both write the same.
            for (at, (task, function, bytes)) in tasks.iter().enumerate() {
                if at % 3 == 2 {
                    let mut counted = Vec::new();
                    push_counted(&mut counted, |out| out.extend_from_slice(bytes));
                    writer.counted_tasks(*task, 1, *function, &counted);
                } else {
                    writer.task(*task, *function, |out| out.extend_from_slice(bytes));
                }
            }
        }
        Owned::Results(results) => {
            let mut writer = ResultsWriter::new(out);
            for (task, ending, duration_ns, bytes) in results {
                writer.result(*task, *ending, *duration_ns, bytes);
            }
        }
    }
}

fn own(message: Message<'_>) -> Owned {
    match message {
        Message::Context(context) => {
            Owned::Context(context.route, context.is_marked, context.bytes.to_vec())
        }
        Message::Report(report) => Owned::Report(report.number, report.task, report.bytes.to_vec()),
        Message::Function(id, bytes) => Owned::Function(id, bytes.to_vec()),
        Message::Forget(ids) => Owned::Forget(ids),
        Message::Tasks(tasks) => {
            let bytes = tasks.as_bytes();
            let entries: Vec<_> = tasks.entries().collect();
            let mut by_runs = Vec::new();
            for run in tasks.runs() {
                let mut at = run.start;
                by_runs.extend((0..run.n_tasks).map(|k| {
                    let range = next_in_run(bytes, &mut at).expect("the run is whole");
                    let task = TaskKey {
                        job: run.job,
                        index: run.first + k,
                    };
                    (task, run.function, bytes[range].to_vec())
                }));
            }
            let owned = entries
                .iter()
                .map(|e| (e.task, e.function, e.bytes.to_vec()));
            assert_eq!(owned.collect::<Vec<_>>(), by_runs);
            Owned::Tasks(by_runs)
        }
        Message::TakeBack(tasks) => Owned::TakeBack(tasks.collect()),
        Message::TakenBack(tasks) => Owned::TakenBack(tasks.collect()),
        Message::Results(results) => Owned::Results(
            results
                .map(|entry| {
                    let bytes = entry.bytes.to_vec();
                    (entry.task, entry.ending, entry.duration_ns, bytes)
                })
                .collect(),
        ),
        Message::Segment(segment) => Owned::Segment(segment),
        Message::Release(places) => Owned::Release(places.collect()),
        Message::OwnerGone(owner) => Owned::OwnerGone(owner),
        Message::Forgotten(ids) => Owned::Forgotten(ids),
        Message::Stop => Owned::Stop,
        Message::Ready(_) => Owned::Ready,
    }
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

    #[test]
    fn mutated_streams_never_panic(
        messages in vec(message(), 1..4),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = Vec::new();
        for message in &messages {
            write(message, &mut bytes);
        }
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        bytes.truncate(cut.index(bytes.len() + 1));
        let mut reader = FrameReader::default();
        reader.push(&bytes);
        while let Ok(Some(message)) = reader.next_message() {
            own(message);
        }
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
    let mut reader = FrameReader::default();
    reader.push(&[0, 0, 0, 0, 0, 0, 0, 0, 99]);
    assert_eq!(reader.next_message(), Err(WireError::UnknownKind(99)));
    let mut reader = FrameReader::default();
    reader.push(&[0xff; 9]);
    assert_eq!(reader.next_message(), Err(WireError::TooLong(u64::MAX)));
    let mut reader = FrameReader::default();
    reader.push(&[3, 0, 0, 0, 0, 0, 0, 0, 17, 1, 2, 3]);
    assert_eq!(reader.next_message(), Err(WireError::Truncated(17)));
    let mut reader = FrameReader::default();
    reader.push(&[4, 0, 0, 0, 0, 0, 0, 0, 7, 1, 2, 3, 4]);
    assert_eq!(reader.next_message(), Err(WireError::Truncated(7)));
    let mut reader = FrameReader::default();
    reader.push(&[3, 0, 0, 0, 0, 0, 0, 0, 8, 1, 2, 3]);
    assert_eq!(reader.next_message(), Err(WireError::Truncated(8)));
}
