//! Messages in a form that is easy to make and to compare, and what bytes that may be anything are read as. Tests and
//! the fuzz targets share it.

// Not every one needs all of it.
#![allow(dead_code)]

use manyhands_wire::{
    Context, Ending, FrameReader, FrameWriter, Message, PlaceBytes, Report, ResultsWriter, TaskKey,
    TasksWriter, WireError, body_check, header, next_in_run, push_counted,
};

/// An owned copy of any message.
#[derive(Clone, PartialEq, Debug)]
pub enum Owned {
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

/// Appends a message.
pub fn write(message: &Owned, out: &mut Vec<u8>) {
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
        Owned::Results(results) => write_results(results, out),
    }
}

fn write_results(results: &[(TaskKey, Ending, u64, Vec<u8>)], out: &mut Vec<u8>) {
    let mut writer = ResultsWriter::new(out);
    for (at, (task, ending, duration_ns, bytes)) in results.iter().enumerate() {
        writer.result(*task, *ending, *duration_ns, bytes);
        if at % 3 == 2 {
            // As a worker does, which has other things to do in between.
            let open = writer.leave();
            writer = ResultsWriter::resume(out, open);
        }
    }
    if results.len() % 2 == 1 {
        writer.leave().end(out);
    }
}

/// A copy of a message, read in each way there is.
pub fn own(message: Message<'_>) -> Owned {
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

/// What a connection that brings these bytes, and then ends, is read as: whole messages, and how it ends.
///
/// No more memory is taken than the bytes that have come, and one step ahead of them.
pub fn read_to_end(bytes: &[u8], piece: usize) -> (Vec<Owned>, Result<(), WireError>) {
    const AHEAD_BYTES_MAX: usize = 1 << 25;
    let mut reader = FrameReader::default();
    let mut read = Vec::new();
    for piece in bytes.chunks(piece.max(1)) {
        let room = reader.room(64);
        let n_room = room.len();
        if piece.len() <= n_room {
            room[..piece.len()].copy_from_slice(piece);
            reader.filled(n_room, piece.len());
        } else {
            reader.push(piece);
        }
        assert!(reader.capacity() <= 2 * bytes.len() + AHEAD_BYTES_MAX);
        loop {
            match reader.next_message() {
                Ok(Some(message)) => read.push(own(message)),
                Ok(None) => break,
                Err(error) => return (read, Err(error)),
            }
        }
    }
    let end = reader.finish();
    (read, end)
}

/// Fuzz target: a connection that brings these bytes is read to its end.
pub fn any_stream(bytes: &[u8]) {
    let (read, _) = read_to_end(bytes, 1 << 16);
    let (again, _) = read_to_end(bytes, 7);
    assert_eq!(read, again, "what is read depends on how it arrives");
}

/// Fuzz target: a frame that is sound, whose body may be anything. What it is read as, is written down and read again.
///
/// Says whether it was a message.
pub fn any_body(bytes: &[u8]) -> bool {
    let Some((&kind, body)) = bytes.split_first() else {
        return false;
    };
    let mut frame = header(kind, body.len() as u64, body_check(body)).to_vec();
    frame.extend_from_slice(body);
    let (read, end) = read_to_end(&frame, 1 << 16);
    let Ok(()) = end else {
        assert!(read.is_empty(), "half a message was read");
        return false;
    };
    let mut written = Vec::new();
    read.iter().for_each(|message| write(message, &mut written));
    assert_eq!(read_to_end(&written, 1 << 16), (read, Ok(())));
    true
}
