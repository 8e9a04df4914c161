//! Bytes over a Unix socket, and the descriptors that travel with them.
//!
//! A descriptor is attached to the first byte of the frame that names it, one to a frame. The system
//! hands it over no later than that byte, and in order: so by the time a frame is whole its descriptor
//! waits at the front of the queue, in whatever pieces the bytes come.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::time::Duration;

/// How long to wait before sending another descriptor where too many are on their way.
pub(crate) const DESCRIPTORS_PAUSE: Duration = Duration::from_millis(1);

/// So many descriptors can have arrived before the frame that names them is whole.
const N_AHEAD_MAX: usize = 1;

/// Sends what the socket takes of these bytes, with a descriptor for the frame that they begin with.
///
/// # Errors
///
/// Besides others, [`Errno::TOOMANYREFS`] where so many descriptors are on their way already that the
/// system takes no more for now. Nothing tells when it will; [`DESCRIPTORS_PAUSE`] is long enough.
pub(crate) fn send(
    socket: &OwnedFd,
    bytes: &[u8],
    descriptor: Option<BorrowedFd<'_>>,
    flags: SendFlags,
) -> Result<usize, Errno> {
    let flags = flags | SendFlags::NOSIGNAL;
    let Some(descriptor) = descriptor else {
        return rustix::net::send(socket, bytes, flags);
    };
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [descriptor.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(socket, &[IoSlice::new(bytes)], &mut ancillary, flags)
}

/// What the other end sent is not what was agreed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Breach;

/// Descriptors that have arrived, in order.
#[derive(Default, Debug)]
pub(crate) struct Descriptors {
    /// `None` for one that this process had no room for.
    arrived: VecDeque<Option<OwnedFd>>,
}

impl Descriptors {
    /// Receives bytes into `room` and keeps the descriptors that come along.
    pub(crate) fn receive(
        &mut self,
        socket: &OwnedFd,
        room: &mut [u8],
        flags: RecvFlags,
    ) -> Result<usize, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let flags = flags | RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(socket, &mut [IoSliceMut::new(room)], &mut ancillary, flags)?;
        let n_before = self.arrived.len();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.arrived.extend(descriptors.map(Some));
            }
        }
        if received.flags.contains(ReturnFlags::CTRUNC) && self.arrived.len() == n_before {
            self.arrived.push_back(None);
        }
        Ok(received.bytes)
    }

    /// The descriptor of the frame that has just been read; `None` if this process has too many files
    /// open to take another.
    pub(crate) fn next(&mut self) -> Result<Option<OwnedFd>, Breach> {
        self.arrived.pop_front().ok_or(Breach)
    }

    /// To be called when all whole frames have been read: nobody may send descriptors for nothing.
    pub(crate) fn check(&self) -> Result<(), Breach> {
        match self.arrived.len() {
            0..=N_AHEAD_MAX => Ok(()),
            _ => Err(Breach),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{MemfdFlags, fstat, ftruncate, memfd_create};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
        socketpair(family, kind, SocketFlags::CLOEXEC, None).expect("sockets work here")
    }

    /// A file that is known by its length.
    fn file(n_bytes: u64) -> OwnedFd {
        let fd = memfd_create("test", MemfdFlags::CLOEXEC).expect("memory files work here");
        ftruncate(&fd, n_bytes).expect("it was just made");
        fd
    }

    fn length(fd: &OwnedFd) -> i64 {
        fstat(fd).expect("it is open").st_size
    }

    #[test]
    fn a_descriptor_is_there_when_its_byte_is() {
        let (ours, theirs) = pair();
        let none = SendFlags::empty();
        send(&ours, b"ab", None, none).expect("there is room");
        let first = file(1);
        send(&ours, b"cde", Some(first.as_fd()), none).expect("there is room");
        let second = file(2);
        send(&ours, b"f", Some(second.as_fd()), none).expect("there is room");
        let mut descriptors = Descriptors::default();
        let mut n_seen = 0;
        for byte in b"abcdef" {
            let mut room = [0];
            let n_bytes = descriptors.receive(&theirs, &mut room, RecvFlags::DONTWAIT);
            assert_eq!((n_bytes, room[0]), (Ok(1), *byte));
            if matches!(byte, b'c' | b'f') {
                n_seen += 1;
                let fd = descriptors.next().expect("it is due").expect("not lost");
                assert_eq!(length(&fd), n_seen);
            }
            assert_eq!(descriptors.next().err(), Some(Breach));
        }
    }

    #[test]
    fn descriptors_that_nobody_announced_are_a_breach_and_are_closed() {
        let (ours, theirs) = pair();
        let mut descriptors = Descriptors::default();
        let (reader, writer) = rustix::pipe::pipe().expect("pipes work here");
        let mut room = [0; 8];
        for n_ahead in 1..=2 {
            send(&ours, b"x", Some(writer.as_fd()), SendFlags::empty()).expect("there is room");
            let received = descriptors.receive(&theirs, &mut room, RecvFlags::DONTWAIT);
            assert_eq!(received, Ok(1));
            assert_eq!(descriptors.check().is_err(), n_ahead > N_AHEAD_MAX);
        }
        drop((writer, descriptors));
        // The last writer is gone: had one been left open, this would wait for ever.
        assert_eq!(rustix::io::read(&reader, &mut room[..]), Ok(0));
    }
}
