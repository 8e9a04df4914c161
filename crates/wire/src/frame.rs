//! What stands before the body of a message.

use crate::{BODY_BYTES_MAX, WireError};
use twox_hash::XxHash3_128;

/// Its length.
pub(crate) const HEADER_BYTES: usize = 17;

const KIND_AT: usize = 8;
const BODY_CHECK_AT: usize = 9;
const HEADER_CHECK_AT: usize = 13;

/// What it says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Header {
    pub(crate) kind: u8,
    pub(crate) body_bytes: usize,
    body_check: u32,
}

fn check(bytes: &[u8]) -> u32 {
    XxHash3_128::oneshot(bytes) as u32
}

/// The check of a body.
pub fn body_check(body: &[u8]) -> u32 {
    check(body)
}

/// What stands before a body that has this length and this check.
pub fn header(kind: u8, body_bytes: u64, body_check: u32) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..KIND_AT].copy_from_slice(&body_bytes.to_le_bytes());
    header[KIND_AT] = kind;
    header[BODY_CHECK_AT..HEADER_CHECK_AT].copy_from_slice(&body_check.to_le_bytes());
    let header_check = check(&header[..HEADER_CHECK_AT]);
    header[HEADER_CHECK_AT..].copy_from_slice(&header_check.to_le_bytes());
    header
}

impl Header {
    /// Reads it off the front of these bytes; `None` while there are too few.
    pub(crate) fn read(bytes: &[u8]) -> Result<Option<Header>, WireError> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Ok(None);
        };
        let (front, expected) = bytes.split_at(HEADER_CHECK_AT);
        if check(front).to_le_bytes() != expected {
            return Err(WireError::Header);
        }
        let mut length = [0; 8];
        length.copy_from_slice(&front[..KIND_AT]);
        let body_bytes = u64::from_le_bytes(length);
        if body_bytes > BODY_BYTES_MAX {
            return Err(WireError::TooLong(body_bytes));
        }
        let mut body_check = [0; 4];
        body_check.copy_from_slice(&front[BODY_CHECK_AT..]);
        Ok(Some(Header {
            kind: front[KIND_AT],
            body_bytes: body_bytes as usize,
            body_check: u32::from_le_bytes(body_check),
        }))
    }

    /// Whether this is the body that was written.
    pub(crate) fn is_of(&self, body: &[u8]) -> bool {
        check(body) == self.body_check
    }
}

/// Begins a frame at the end of `out`; says where that is.
pub(crate) fn begin(out: &mut Vec<u8>, kind: u8) -> usize {
    let start = out.len();
    out.resize(start + HEADER_BYTES, 0);
    out[start + KIND_AT] = kind;
    start
}

/// Ends the frame that begins at `start`, and nothing behind it.
pub(crate) fn end(out: &mut [u8], start: usize) {
    let body = &out[start + HEADER_BYTES..];
    let whole = header(out[start + KIND_AT], body.len() as u64, check(body));
    out[start..start + HEADER_BYTES].copy_from_slice(&whole);
}
