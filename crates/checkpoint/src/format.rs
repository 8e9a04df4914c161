//! The bytes of a file: headers and frames.
//!
//! ```text
//! at 0, and again at 4096   header, 48 bytes
//! from 8192 on              frames, each at a multiple of 8
//!
//! header   magic 8, version u32, 0 u32, salt 16, created u64 (Unix time, s), check u64
//! frame    head 40, meta, padding to 8, payload, padding to 8
//! head     magic 4, kind u8, 0 u24, meta bytes u32, 0 u32, payload bytes u64, payload check u64, check u64
//! ```
//!
//! All numbers are little-endian. A frame's check covers its head, its meta, the file's salt and the place in the file:
//! so no frame of another file, nor a copy of one within a payload, passes for one. The payload has a check of its own,
//! which is looked at when the payload is read.
//!
//! | version | what is different |
//! |---|---|
//! | 1 | results know their key only ([`crate::entry`]); there are no frames about runs and functions |
//! | 2 | results know what their key is made of |
//!
//! What is written is version 2. A file of version 1 is continued: the headers change, its frames stay.

use twox_hash::xxhash3_128::Hasher;

/// The version that is written.
pub const VERSION: u32 = 2;

/// The oldest version that is read.
pub const VERSION_MIN: u32 = 1;

/// Where the headers are. They are a page apart, as pages are lost whole.
pub const HEADERS_AT: [u64; 2] = [0, 4096];

/// Where the first frame is.
pub const FRAMES_AT: u64 = 8192;

const HEADER_MAGIC: [u8; 8] = *b"\x89mhckpt\n";
const FRAME_MAGIC: [u8; 4] = *b"\xf5mhf";

/// How long a header is.
pub const HEADER_BYTES: usize = 48;

/// How long the head of a frame is.
pub const HEAD_BYTES: usize = 40;

/// No frame has more meta than this.
pub const META_BYTES_MAX: usize = 1 << 20;

/// What stands at the beginning of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Which version of the format its newest frames have.
    pub version: u32,
    /// Random: it tells the frames of this file from those of others.
    pub salt: [u8; 16],
    /// When the file was made: seconds since 1970.
    pub created: u64,
}

/// Why bytes are no header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoHeader {
    /// They are something else, or damaged.
    Unknown,
    /// The header of a version that this program does not know.
    Version(u32),
}

impl Header {
    /// As bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&HEADER_MAGIC);
        bytes[8..12].copy_from_slice(&self.version.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.salt);
        bytes[32..40].copy_from_slice(&self.created.to_le_bytes());
        let check = checksum(&[&bytes[..40]]);
        bytes[40..].copy_from_slice(&check.to_le_bytes());
        bytes
    }

    /// From bytes, which may be anything.
    ///
    /// # Errors
    ///
    /// If they are no header, or one of an unknown version.
    pub fn decode(bytes: &[u8]) -> Result<Header, NoHeader> {
        let bytes = bytes.get(..HEADER_BYTES).ok_or(NoHeader::Unknown)?;
        let is_whole = bytes[..8] == HEADER_MAGIC && checksum(&[&bytes[..40]]) == u64_at(bytes, 40);
        if !is_whole {
            return Err(NoHeader::Unknown);
        }
        let version = u32_at(bytes, 8);
        if !(VERSION_MIN..=VERSION).contains(&version) {
            return Err(NoHeader::Version(version));
        }
        let mut salt = [0; 16];
        salt.copy_from_slice(&bytes[16..32]);
        Ok(Header {
            version,
            salt,
            created: u64_at(bytes, 32),
        })
    }

    /// All that comes before the first frame.
    pub fn preamble(&self) -> Vec<u8> {
        let mut bytes = vec![0; FRAMES_AT as usize];
        for at in HEADERS_AT {
            bytes[at as usize..][..HEADER_BYTES].copy_from_slice(&self.encode());
        }
        bytes
    }
}

/// The head of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// What the meta means.
    pub kind: u8,
    /// How long the meta is.
    pub n_meta: u32,
    /// How long the payload is.
    pub n_payload: u64,
    /// The payload's [`Check`].
    pub payload_check: u64,
}

impl Head {
    /// How much the frame takes in the file; `None` where no file can be so long.
    pub fn frame_bytes(&self) -> Option<u64> {
        let payload_at = self.payload_at();
        padded(payload_at.checked_add(self.n_payload)?)
    }

    /// Where the payload begins, from the beginning of the frame.
    pub fn payload_at(&self) -> u64 {
        let n_before = HEAD_BYTES as u64 + u64::from(self.n_meta);
        n_before.next_multiple_of(8)
    }

    /// Head, meta and padding of a frame at this place.
    pub fn encode(&self, salt: &[u8; 16], at: u64, meta: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&FRAME_MAGIC);
        out.extend_from_slice(&[self.kind, 0, 0, 0]);
        out.extend_from_slice(&self.n_meta.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.n_payload.to_le_bytes());
        out.extend_from_slice(&self.payload_check.to_le_bytes());
        let check = checksum(&[salt, &at.to_le_bytes(), &out[start..], meta]);
        out.extend_from_slice(&check.to_le_bytes());
        out.extend_from_slice(meta);
        out.resize(start + self.payload_at() as usize, 0);
    }

    /// Reads a head as far as it can be told without its meta: `None` if there is none here.
    pub fn peek(bytes: &[u8]) -> Option<Head> {
        let bytes = bytes.get(..HEAD_BYTES)?;
        let is_frame =
            bytes[..4] == FRAME_MAGIC && bytes[5..8] == [0; 3] && bytes[12..16] == [0; 4];
        let head = Head {
            kind: bytes[4],
            n_meta: u32_at(bytes, 8),
            n_payload: u64_at(bytes, 16),
            payload_check: u64_at(bytes, 24),
        };
        (is_frame && head.n_meta as usize <= META_BYTES_MAX).then_some(head)
    }

    /// Whether these bytes, a head and the meta that it announces, are whole and belong at this place.
    pub fn is_whole(bytes: &[u8], salt: &[u8; 16], at: u64) -> bool {
        let (Some(head), Some(meta)) = (bytes.get(..HEAD_BYTES), bytes.get(HEAD_BYTES..)) else {
            return false;
        };
        checksum(&[salt, &at.to_le_bytes(), &head[..32], meta]) == u64_at(head, 32)
    }
}

/// Where a frame might begin at or after this place among these bytes, the first of which has this offset.
pub fn next_candidate(bytes: &[u8], offset: u64) -> Option<usize> {
    let first = (offset.next_multiple_of(8) - offset) as usize;
    let rest = bytes.get(first..)?;
    let found = rest
        .chunks_exact(8)
        .position(|chunk| chunk[..4] == FRAME_MAGIC)?;
    Some(first + 8 * found)
}

/// Where something that looks like the head of a frame is among these bytes, wherever frames may begin.
pub fn any_head(bytes: &[u8]) -> Option<usize> {
    let mut heads = bytes.windows(HEAD_BYTES);
    heads.position(|window| window[..4] == FRAME_MAGIC && Head::peek(window).is_some())
}

/// A frame with a payload that is at hand.
pub fn encode_frame(
    salt: &[u8; 16],
    at: u64,
    kind: u8,
    meta: &[u8],
    payload: &[u8],
    out: &mut Vec<u8>,
) {
    let start = out.len();
    let head = Head {
        kind,
        n_meta: meta.len() as u32,
        n_payload: payload.len() as u64,
        payload_check: checksum(&[payload]),
    };
    head.encode(salt, at, meta, out);
    out.extend_from_slice(payload);
    let n_bytes = (out.len() - start).next_multiple_of(8);
    out.resize(start + n_bytes, 0);
}

/// The checksum of a payload, piece by piece.
pub struct Check(Hasher);

impl Check {
    /// Of nothing.
    pub fn new() -> Check {
        Check(Hasher::new())
    }

    /// Adds a piece.
    pub fn add(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// That of all pieces.
    pub fn finish(&self) -> u64 {
        self.0.finish_128() as u64
    }
}

impl Default for Check {
    fn default() -> Check {
        Check::new()
    }
}

impl std::fmt::Debug for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Check")
    }
}

/// Of these parts, end to end.
pub fn checksum(parts: &[&[u8]]) -> u64 {
    if let [whole] = parts {
        return twox_hash::XxHash3_128::oneshot(whole) as u64;
    }
    let mut check = Check::new();
    parts.iter().for_each(|part| check.add(part));
    check.finish()
}

/// With padding.
pub(crate) fn padded(n_bytes: u64) -> Option<u64> {
    n_bytes.checked_next_multiple_of(8)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}
