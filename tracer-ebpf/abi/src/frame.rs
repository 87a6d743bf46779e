//! The header of an HTTP/2 frame (RFC 9113 section 4.1), as far as following frames needs it. Pure; runs in the kernel half
//! and in host tests.
//!
//! It bounds volume and nothing else, as [`crate::sniff`] does: what frames mean, user space decides.

/// Of every frame.
pub const HEADER_BYTES: u32 = 9;

/// Sent by every client before its first frame (RFC 9113 section 3.4).
pub const PREFACE_BYTES: u32 = 24;

/// Of the payload of a `DATA` frame, as many bytes are captured as the prefix of a gRPC message has.
pub const DATA_HEAD_BYTES: u32 = 5;

/// A `DATA` frame whose payload is no longer than this is captured whole: a record of its own would cost more.
pub const SHORT_DATA_BYTES: u32 = 256;

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Of the payload.
    pub len: u32,
    pub is_data: bool,
}

impl Frame {
    /// Reads a header of which the place is certain: its first eight bytes, the first one lowest.
    #[inline(always)]
    pub const fn read(first: u64) -> Self {
        let len = (byte(first, 0) as u32) << 16 | (byte(first, 1) as u32) << 8 | byte(first, 2) as u32;
        Self { len, is_data: byte(first, 3) == 0 }
    }

    /// As above, and with the ninth byte, where the place is a guess. `None`: no sender that keeps to the rules has such a
    /// header.
    #[inline(always)]
    pub const fn guess(first: u64, ninth: u8) -> Option<Self> {
        /// Extensions in use have short frames.
        const MAX_EXTENSION_BYTES: u32 = 16 * 1024;
        let frame = Self::read(first);
        let len = frame.len;
        let flags = byte(first, 4);
        let reserved = byte(first, 5) >= 0x80;
        let on_stream = byte(first, 5) | byte(first, 6) | byte(first, 7) | ninth != 0;
        // Section 6, type by type: length, whether it is on a stream, and its flags.
        let fits = match byte(first, 3) {
            0 => on_stream && flags & !0x09 == 0,
            1 => on_stream && flags & !0x2d == 0,
            2 => on_stream && len == 5 && flags == 0,
            3 => on_stream && len == 4 && flags == 0,
            4 => !on_stream && len.is_multiple_of(6) && flags & !1 == 0 && (flags == 0 || len == 0),
            5 => on_stream && len >= 4 && flags & !0x0c == 0,
            6 => !on_stream && len == 8 && flags & !1 == 0,
            7 => !on_stream && len >= 8 && flags == 0,
            8 => len == 4 && flags == 0,
            9 => on_stream && flags & !4 == 0,
            _ => len <= MAX_EXTENSION_BYTES,
        };
        if fits && !reserved { Some(frame) } else { None }
    }

    /// How many bytes of the payload are captured, and how many behind them are left out.
    #[inline(always)]
    pub const fn plan(self) -> (u32, u32) {
        if self.is_data && self.len > SHORT_DATA_BYTES {
            (DATA_HEAD_BYTES, self.len - DATA_HEAD_BYTES)
        } else {
            (self.len, 0)
        }
    }
}

const fn byte(word: u64, at: u32) -> u8 {
    (word >> (8 * at)) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(header: [u8; 9]) -> Option<Frame> {
        let [rest @ .., ninth] = header;
        Frame::guess(u64::from_le_bytes(rest), ninth)
    }

    #[test]
    fn headers() {
        let of = |len, is_data| Some(Frame { len, is_data });
        assert_eq!(parse([0, 0x40, 0, 0, 1, 0, 0, 0, 1]), of(0x4000, true));
        assert_eq!(parse([0, 0, 30, 1, 0x25, 0, 0, 1, 0]), of(30, false));
        assert_eq!(parse([0, 0, 18, 4, 0, 0, 0, 0, 0]), of(18, false));
        assert_eq!(parse([0, 0, 0, 4, 1, 0, 0, 0, 0]), of(0, false));
        assert_eq!(parse([0, 0, 8, 6, 1, 0, 0, 0, 0]), of(8, false));
        assert_eq!(parse([0, 0, 4, 8, 0, 0, 0, 0, 0]), of(4, false));
        assert_eq!(parse([0, 0, 9, 16, 0, 0, 0, 0, 0]), of(9, false));
        // No stream, a wrong length, flags that are not the type's, the reserved bit.
        assert_eq!(parse([0, 0, 5, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(parse([0, 0, 5, 3, 0, 0, 0, 0, 1]), None);
        assert_eq!(parse([0, 0, 6, 4, 1, 0, 0, 0, 0]), None);
        assert_eq!(parse([0, 0, 5, 0, 2, 0, 0, 0, 1]), None);
        assert_eq!(parse([0, 0, 5, 0, 0, 0x80, 0, 0, 1]), None);
        assert_eq!(parse(*b"GET / HTT"), None);
        assert_eq!(parse(*b"HTTP/1.1 "), None);
    }

    #[test]
    fn of_data_little_is_captured() {
        assert_eq!(Frame { len: 16_384, is_data: true }.plan(), (5, 16_379));
        assert_eq!(Frame { len: SHORT_DATA_BYTES, is_data: true }.plan(), (SHORT_DATA_BYTES, 0));
        assert_eq!(Frame { len: 16_384, is_data: false }.plan(), (16_384, 0));
    }
}
