//! What is still to be sent to a worker: bytes, and descriptors at their places among them.

use crate::connection;
use manyhands_store::SegmentId;
use manyhands_wire::FrameWriter;
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::SendFlags;
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes that are still to be sent. Frames are written at the end.
#[derive(Default)]
pub(super) struct Outbox {
    pub(super) bytes: Vec<u8>,
    n_sent: usize,
    /// Descriptors, each with the place of its frame's first byte, in ascending order.
    descriptors: VecDeque<(usize, Arc<OwnedFd>)>,
    /// Whether there is room for bytes, but too many descriptors are on their way.
    is_pausing: bool,
}

/// What an outbox waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Waiting {
    /// Nothing: it is empty.
    Nothing,
    /// Room in the socket.
    Room,
    /// That others take their descriptors, of which nothing tells.
    Descriptors,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.n_sent == self.bytes.len()
    }

    pub(super) fn waiting(&self) -> Waiting {
        match (self.is_empty(), self.is_pausing) {
            (true, _) => Waiting::Nothing,
            (false, false) => Waiting::Room,
            (false, true) => Waiting::Descriptors,
        }
    }

    /// Adds frames for segments before the frame at `at`, which is the last one.
    pub(super) fn insert_segments(&mut self, at: usize, added: Vec<(SegmentId, Arc<OwnedFd>)>) {
        let mut frames = Vec::new();
        for (segment, descriptor) in added {
            self.descriptors.push_back((at + frames.len(), descriptor));
            FrameWriter::new(&mut frames).segment(segment.0);
        }
        self.bytes.splice(at..at, frames);
    }

    /// Sends what the socket takes now.
    pub(super) fn send(&mut self, socket: &OwnedFd) {
        self.is_pausing = false;
        while !self.is_empty() {
            match self.send_some(socket) {
                Ok(n_bytes) => self.n_sent += n_bytes,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(Errno::TOOMANYREFS) => {
                    self.is_pausing = true;
                    return;
                }
                // The worker is gone; the reactor will notice.
                Err(_) => self.n_sent = self.bytes.len(),
            }
        }
        self.bytes.clear();
        self.bytes.shrink_to(1 << 20);
        self.n_sent = 0;
        self.descriptors.clear();
    }

    /// Sends up to the next frame that comes with a descriptor, or that frame.
    fn send_some(&mut self, socket: &OwnedFd) -> Result<usize, Errno> {
        let mut places = self.descriptors.iter().map(|(at, _)| *at);
        let due = places.next().filter(|at| *at == self.n_sent);
        let next = if due.is_some() {
            places.next()
        } else {
            self.descriptors.front().map(|(at, _)| *at)
        };
        let end = next.unwrap_or(self.bytes.len());
        let descriptor = due
            .and_then(|_| self.descriptors.front())
            .map(|(_, fd)| fd.as_fd());
        let bytes = &self.bytes[self.n_sent..end];
        let n_bytes = connection::send(socket, bytes, descriptor, SendFlags::DONTWAIT)?;
        if due.is_some() {
            self.descriptors.pop_front();
        }
        Ok(n_bytes)
    }
}
