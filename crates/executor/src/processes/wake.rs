//! What wakes a reactor.

use super::Descriptor;
use crate::job::lock;
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::sync::{Arc, Mutex};

/// Makes a pool's reactor look at its state. Others keep it for as long as they like: once the reactor
/// has ended, it holds no descriptor.
#[derive(Debug)]
pub(crate) struct Wake(Mutex<Option<Arc<Descriptor>>>);

impl Wake {
    pub(crate) fn new() -> io::Result<Wake> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Wake(Mutex::new(Some(Arc::new(Descriptor::new(fd))))))
    }

    /// Wakes the reactor, if there still is one.
    pub(crate) fn wake(&self) {
        if let Some(fd) = &*lock(&self.0) {
            // Fails only when the count is at its limit, and then the reactor is awake anyway.
            let _ = rustix::io::write(&***fd, &1u64.to_ne_bytes());
        }
    }

    /// Readable once somebody has called.
    pub(crate) fn descriptor(&self) -> Option<Arc<Descriptor>> {
        lock(&self.0).clone()
    }

    /// There is nobody to wake from now on.
    pub(super) fn close(&self) {
        let fd = lock(&self.0).take();
        drop(fd);
    }
}
