//! Real second processes: one that is started and gets descriptors, one that is forked.

#![allow(unsafe_code)]

mod helper;

use manyhands_store::{Arena, ArenaOptions, Foreign, Place, SegmentId};
use rustix::fd::OwnedFd;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

fn send_descriptor(stream: &UnixStream, byte: u8, fd: &OwnedFd) {
    let fds = [fd.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    rustix::net::sendmsg(
        stream,
        &[IoSlice::new(&[byte])],
        &mut control,
        SendFlags::empty(),
    )
    .expect("the other end is there");
}

fn receive_descriptor(stream: &UnixStream) -> OwnedFd {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    rustix::net::recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .expect("the other end is there");
    let fds = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fds.expect("a descriptor came with the byte")
}

/// The other process: views what it is sent, changes it privately, then changes it for all.
fn reader() {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned();
    let mut stream = UnixStream::from(stdin.expect("descriptors are to be had"));
    let foreign = Foreign::new();
    foreign.adopt(SegmentId::new(3, 0), receive_descriptor(&stream));
    let mut place = [0; Place::N_BYTES];
    stream.read_exact(&mut place).expect("a place is sent");
    let place = Place::from_bytes(place);
    let private = foreign.view_private(place).expect("the segment is known");
    let shared = foreign.view_shared(place).expect("the segment is known");
    // SAFETY: the parent waits while this process writes, and the views have one user.
    let (private, shared) = unsafe {
        (
            std::slice::from_raw_parts_mut(private.as_ptr(), private.len()),
            std::slice::from_raw_parts_mut(shared.as_ptr(), shared.len()),
        )
    };
    assert!(private.iter().all(|&byte| byte == 1));
    private.fill(2);
    assert!(shared.iter().all(|&byte| byte == 1));
    stream.write_all(b"p").expect("the parent is there");
    stream.read_exact(&mut [0]).expect("the parent has looked");
    shared[70_000] = 3;
    assert!(private.iter().all(|&byte| byte == 2));
    stream.write_all(b"s").expect("the parent is there");
}

#[test]
fn helper() {
    match helper::role().as_deref() {
        Some("reader") => reader(),
        Some(other) => panic!("no role is called {other}"),
        None => {}
    }
}

#[test]
fn another_process_reads_and_writes() {
    let (mut ours, theirs) = UnixStream::pair().expect("sockets are to be had");
    let mut child = helper::in_role("reader")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()
        .expect("this binary starts");
    let arena = Arena::new(3, ArenaOptions::default());
    let lease = arena.copy_in(&[1; 100_000]).expect("there is memory");
    let place = lease.place();
    let fd = arena.descriptor(place.segment).expect("it is the arena's");
    send_descriptor(&ours, 0, &fd);
    ours.write_all(&place.to_bytes())
        .expect("the child is there");
    ours.read_exact(&mut [0])
        .expect("the child has written privately");
    // SAFETY: the child waits.
    assert!(unsafe { lease.as_slice() }.iter().all(|&byte| byte == 1));
    ours.write_all(b"n").expect("the child is there");
    ours.read_exact(&mut [0])
        .expect("the child has written for all");
    // SAFETY: the child has ended its writes.
    let bytes = unsafe { lease.as_slice() };
    assert_eq!((bytes[69_999], bytes[70_000], bytes[70_001]), (1, 3, 1));
    let mut printed = Vec::new();
    let mut stdout = child.stdout.take().expect("it is piped");
    stdout
        .read_to_end(&mut printed)
        .expect("the child is there");
    helper::succeeded(child.wait().expect("it was started"), &printed);
}

/// What a forked child does. It has the memory of a process with several threads, of which it is one:
/// it takes no lock and allocates nothing.
fn in_child(arena: &Arena, foreign: &Foreign, block: *mut u8, shared: *mut u8) -> i32 {
    arena.after_fork_in_child();
    foreign.after_fork_in_child();
    let seen_before = arena.size(block) == Some(8192) && arena.allocate(1).is_none();
    // SAFETY: the block is allocated and the view alive; the parent waits.
    let seen = unsafe { (*block, *block.add(4096), *shared) };
    // SAFETY: as above.
    unsafe {
        *block = 77;
        *shared = 77;
    }
    // Once more: what the child wrote must not be dropped.
    arena.after_fork_in_child();
    // SAFETY: as above.
    let kept = unsafe { (*block, *shared) } == (77, 77);
    let is_freed = arena.free(block) && arena.lease(block, 1).is_none();
    let refused = foreign.descriptor(SegmentId::new(4, 0)).is_none();
    i32::from(!(seen_before && seen == (5, 6, 7) && kept && is_freed && refused))
}

#[test]
fn a_forked_child_writes_to_nothing_but_its_own() {
    let arena = Arena::new(4, ArenaOptions::default());
    let block = arena.allocate(8192).expect("there is memory").as_ptr();
    // SAFETY: the block is that long, and nobody else has it.
    unsafe {
        *block = 5;
        *block.add(4096) = 6;
    }
    let lease = arena.copy_in(&[7; 4096]).expect("there is memory");
    let foreign = Foreign::new();
    let id = lease.place().segment;
    foreign.adopt(id, arena.descriptor(id).expect("it is the arena's"));
    let shared = foreign
        .view_shared(lease.place())
        .expect("the segment is known");
    // SAFETY: the child runs `in_child` alone, which takes no lock, and ends.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let status = in_child(&arena, &foreign, block, shared.as_ptr());
        // SAFETY: nothing of the parent's is to be run at the end of the child.
        unsafe { libc::_exit(status) }
    }
    let child = rustix::process::Pid::from_raw(child);
    let waited = rustix::process::waitpid(child, rustix::process::WaitOptions::empty());
    let (_, status) = waited.expect("it is a child").expect("it has ended");
    assert_eq!(status.exit_status(), Some(0), "{status:?}");
    // SAFETY: the child is gone.
    let seen = unsafe { (*block, *block.add(4096), *shared.as_ptr()) };
    assert_eq!(seen, (5, 6, 7));
    assert!(arena.lease(block, 1).is_some());
}
