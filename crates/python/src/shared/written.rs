//! What a pickler writes, with large `bytes` and `bytearray` objects left out.
//!
//! Such objects do not offer to travel apart, wherever they stand: in a list, in an attribute, in what a
//! class gives as its state. But CPython's pickler does not collect contents of 64 KiB and more with the
//! rest. It writes what it has so far, which ends with the header of those contents, and then hands the
//! object itself to the file:
//!
//! ```text
//! write(PROTO 5, FRAME n, n bytes, header)   write(the object)   write(FRAME m, m bytes)   ...
//! header = BINBYTES, 4 bytes of length | BINBYTES8 or BYTEARRAY8 or BINUNICODE8, 8 bytes | BINUNICODE, 4 bytes
//! ```
//!
//! Here the header is taken back, and in its place stands a call of the object's type with the next of the
//! buffers that travel apart. Nothing depends on it: what does not look like this stays in the pickle.

use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};

/// From so many bytes on the pickler keeps contents out of its frames.
pub(crate) const N_BYTES_UNFRAMED_MIN: usize = 1 << 16;

/// Fewer bytes than this get no frame.
const N_FRAMED_BYTES_MIN: usize = 4;

const PROTO: u8 = 0x80;
const FRAME: u8 = 0x95;
const BINBYTES: u8 = b'B';
const BINUNICODE: u8 = b'X';
const BINBYTES8: u8 = 0x8e;
const BYTEARRAY8: u8 = 0x96;
const BINUNICODE8: u8 = 0x8d;

/// Opcodes that make an object of the next buffer: its type by name, NEXT_BUFFER, TUPLE1, REDUCE.
const BYTES_OF_BUFFER: &[u8] = b"cbuiltins\nbytes\n\x97\x85R";
const BYTEARRAY_OF_BUFFER: &[u8] = b"cbuiltins\nbytearray\n\x97\x85R";

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Bytes,
    ByteArray,
    Text,
}

/// The contents that a piece ends with the header of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Announced {
    kind: Kind,
    n_bytes: u64,
    n_header_bytes: usize,
}

impl Announced {
    /// What the last bytes of a piece announce, as the pickler writes pieces: the protocol at the start
    /// of a pickle, a frame, or a few bytes without one, and the header.
    fn by(piece: &[u8]) -> Option<Announced> {
        let mut rest = match piece {
            [PROTO, _, rest @ ..] => rest,
            _ => piece,
        };
        while let [FRAME, framed @ ..] = rest {
            let (n_bytes, framed) = framed.split_first_chunk()?;
            rest = framed.get(usize::try_from(u64::from_le_bytes(*n_bytes)).ok()?..)?;
        }
        // The two lengths of headers differ by more than what can stand before them.
        let is_long = rest.len() > size_of::<u64>();
        let n_header_bytes = 1 + if is_long { 8 } else { 4 };
        let n_bytes_before = rest.len().checked_sub(n_header_bytes)?;
        let (&opcode, length) = rest[n_bytes_before..].split_first()?;
        let kind = match (opcode, is_long) {
            (BINBYTES, false) | (BINBYTES8, true) => Kind::Bytes,
            (BYTEARRAY8, true) => Kind::ByteArray,
            (BINUNICODE, false) | (BINUNICODE8, true) => Kind::Text,
            _ => return None,
        };
        let mut n_bytes = [0; 8];
        n_bytes[..length.len()].copy_from_slice(length);
        (n_bytes_before < N_FRAMED_BYTES_MIN).then_some(Announced {
            kind,
            n_bytes: u64::from_le_bytes(n_bytes),
            n_header_bytes,
        })
    }

    /// Whether these are the contents, of an object that can be made of a buffer.
    fn is_apart(self, contents: &Bound<'_, PyAny>) -> bool {
        let n_bytes = match self.kind {
            Kind::Bytes => contents
                .cast_exact::<PyBytes>()
                .map(|it| it.as_bytes().len()),
            Kind::ByteArray => contents.cast_exact::<PyByteArray>().map(|it| it.len()),
            Kind::Text => return false,
        };
        n_bytes.is_ok_and(|n_bytes| n_bytes as u64 == self.n_bytes)
    }
}

/// A pickle as far as it has been written.
#[derive(Default)]
pub(crate) struct Written {
    /// The only piece, as it mostly is.
    single: Option<Py<PyBytes>>,
    /// All pieces, where there are several.
    joined: Vec<u8>,
    announced: Option<Announced>,
}

impl Written {
    pub(crate) fn is_empty(&self) -> bool {
        self.single.is_none() && self.joined.is_empty()
    }

    /// Whether what is written next are contents that may be left out.
    pub(crate) fn may_leave_out(&self, data: &Bound<'_, PyAny>) -> bool {
        self.announced
            .is_some_and(|announced| announced.is_apart(data))
    }

    /// Instead of the contents just announced there is a buffer that travels apart.
    pub(crate) fn leave_out(&mut self, py: Python<'_>) {
        self.join(py);
        let Some(announced) = self.announced.take() else {
            return;
        };
        let n_bytes = self.joined.len() - announced.n_header_bytes;
        self.joined.truncate(n_bytes);
        self.joined.extend_from_slice(match announced.kind {
            Kind::ByteArray => BYTEARRAY_OF_BUFFER,
            Kind::Bytes | Kind::Text => BYTES_OF_BUFFER,
        });
    }

    /// A piece of the pickle.
    pub(crate) fn add_piece(&mut self, piece: &Bound<'_, PyBytes>) {
        let was_announced = self.announced.take().is_some();
        // Contents are not pieces, whatever they look like.
        if !was_announced {
            self.announced = Announced::by(piece.as_bytes());
        }
        if self.is_empty() {
            self.single = Some(piece.clone().unbind());
        } else {
            self.join(piece.py());
            self.joined.extend_from_slice(piece.as_bytes());
        }
    }

    /// Contents that stay in the pickle.
    pub(crate) fn add_contents(&mut self, py: Python<'_>, contents: &[u8]) {
        self.join(py);
        self.announced = None;
        self.joined.extend_from_slice(contents);
    }

    fn join(&mut self, py: Python<'_>) {
        if let Some(single) = self.single.take() {
            self.joined.extend_from_slice(single.as_bytes(py));
        }
    }

    /// The whole of it.
    pub(crate) fn into_pickle(self, py: Python<'_>) -> Bound<'_, PyBytes> {
        match self.single {
            Some(single) => single.into_bound(py),
            None => PyBytes::new(py, &self.joined),
        }
    }
}
