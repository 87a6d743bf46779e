//! How many messages a gRPC body has, and how the call ended if the body says it: each message begins with a byte of
//! flags and four of its length, and of grpc-web the last one may be none, but trailers.
//!
//! Of what is behind a prefix only a trailer's lines are looked at, each up to the length that a status can have.

use std::cmp::Ordering;

use super::Form;
use super::base64::{Decoded, Decoder};

const PREFIX_BYTES: u8 = 5;

/// Flag of a prefix (gRPC-Web, "Message framing"): trailers follow.
const TRAILERS: u8 = 0x80;
/// They are compressed.
const COMPRESSED: u8 = 0x01;

const STATUS: &[u8] = b"grpc-status:";

/// Of a trailer's line: the name above, spaces, and digits.
const MAX_LINE_BYTES: usize = 32;

/// A body so far.
#[derive(Clone, Copy, Debug)]
pub struct Body {
    form: Form,
    count: u64,
    /// Bytes of the message in progress that are still to come.
    left: u64,
    /// Its prefix, the last byte lowest, as far as it was seen.
    prefix: u64,
    have: u8,
    /// A prefix was missed: where messages begin is not known any more.
    lost: bool,
    text: Decoder,
    trailers: Option<Trailers>,
}

/// What a body said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BodyEnd {
    /// `None` where a prefix was missed, or the last message is not whole.
    pub messages: Option<u64>,
    /// Of grpc-web, where its trailers were seen whole, and are all that is behind the messages.
    pub status: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Trailers {
    line: [u8; MAX_LINE_BYTES],
    len: u8,
    status: Option<u32>,
    readable: bool,
}

impl Body {
    pub const fn new(form: Form) -> Self {
        Self {
            form,
            count: 0,
            left: 0,
            prefix: 0,
            have: 0,
            lost: false,
            text: Decoder::new(),
            trailers: None,
        }
    }

    /// The next ones of it.
    pub fn bytes(&mut self, bytes: &[u8]) {
        if self.form != Form::WebText {
            return self.plain(bytes);
        }
        for &character in bytes {
            match self.text.take(character) {
                Decoded::Byte(byte) => self.plain(&[byte]),
                Decoded::Nothing => {}
                Decoded::Invalid => self.lost = true,
            }
            if self.lost {
                return;
            }
        }
    }

    fn plain(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.lost {
            if self.left > 0 {
                let len = bytes.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
                let (part, rest) = bytes.split_at(len);
                bytes = rest;
                self.left -= len as u64;
                if let Some(trailers) = &mut self.trailers {
                    trailers.bytes(part, self.left == 0);
                }
                continue;
            }
            self.prefix = self.prefix << 8 | u64::from(bytes[0]);
            bytes = &bytes[1..];
            self.have += 1;
            if self.have == PREFIX_BYTES {
                let flags = (self.prefix >> 32) as u8;
                self.left = self.prefix & u64::from(u32::MAX);
                (self.prefix, self.have) = (0, 0);
                self.begin(flags);
            }
        }
    }

    fn begin(&mut self, flags: u8) {
        // They are the last.
        self.lost |= self.trailers.is_some();
        if self.form.is_web() && flags & TRAILERS != 0 {
            self.trailers = Some(Trailers::new(flags & COMPRESSED == 0));
        } else {
            self.count += 1;
        }
    }

    /// As many bytes are missing. Of text it is not known how many they stand for.
    pub fn hole(&mut self, len: u64) {
        if self.form == Form::WebText {
            self.lost |= len > 0;
            return;
        }
        match len.cmp(&self.left) {
            Ordering::Less | Ordering::Equal => self.left -= len,
            Ordering::Greater => self.lost = true,
        }
        if let Some(trailers) = self.trailers.as_mut().filter(|_| len > 0) {
            trailers.readable = false;
        }
    }

    /// Nothing more of it comes.
    pub fn end(self) -> BodyEnd {
        let whole = !self.lost && self.left == 0 && self.have == 0 && self.text.is_whole();
        let trailers = self.trailers.filter(|trailers| whole && trailers.readable);
        BodyEnd {
            messages: whole.then_some(self.count),
            status: trailers.and_then(|trailers| trailers.status),
        }
    }
}

impl Trailers {
    const fn new(readable: bool) -> Self {
        Self { line: [0; MAX_LINE_BYTES], len: 0, status: None, readable }
    }

    /// `last`: they end with these.
    fn bytes(&mut self, bytes: &[u8], last: bool) {
        for &byte in bytes {
            if byte == b'\n' {
                self.end_line();
            } else if let Some(place) = self.line.get_mut(usize::from(self.len)) {
                *place = byte;
                self.len += 1;
            }
        }
        if last {
            self.end_line();
        }
    }

    /// A line that is longer than what is kept of it says no status.
    fn end_line(&mut self) {
        let line = &self.line[..usize::from(std::mem::take(&mut self.len))];
        if line.len() < MAX_LINE_BYTES
            && let Some((name, value)) = line.split_at_checked(STATUS.len())
            && name.eq_ignore_ascii_case(STATUS)
        {
            self.status = self.status.or(super::status(value.trim_ascii()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(form: Form, body: &[u8], piece: usize) -> BodyEnd {
        let mut read = Body::new(form);
        for piece in body.chunks(piece) {
            read.bytes(piece);
        }
        read.end()
    }

    /// However it is cut.
    fn check(form: Form, body: &[u8], messages: Option<u64>, status: Option<u32>) {
        for piece in 1..=body.len().max(1) {
            let got = read(form, body, piece);
            assert_eq!(got, BodyEnd { messages, status }, "in pieces of {piece}: {}", body.escape_ascii());
        }
    }

    fn frame(flags: u8, content: &[u8]) -> Vec<u8> {
        [&[flags][..], &(content.len() as u32).to_be_bytes(), content].concat()
    }

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let body = [&[0, 0, 0, 0, 3][..], b"abc", &[1, 0, 0, 0, 0], &[0, 0, 0, 1, 0], &[7; 256]].concat();
        check(Form::Plain, &body, Some(3), None);
        check(Form::Web, &body, Some(3), None);
        check(Form::Plain, b"", Some(0), None);
    }

    #[test]
    fn only_a_missed_prefix_is_a_loss() {
        let mut body = Body::new(Form::Plain);
        body.bytes(&[0, 0, 0, 1, 0, 7]);
        assert_eq!(body.end().messages, None);
        body.hole(255);
        assert_eq!(body.end().messages, Some(1));
        body.bytes(&[0, 0, 0, 0]);
        body.hole(2);
        assert_eq!(body.end().messages, None);
    }

    #[test]
    fn trailers_in_the_body() {
        let of = |text: &[u8]| [frame(0, b"abc"), frame(0x80, text)].concat();
        check(Form::Web, &of(b"grpc-status:0\r\n"), Some(1), Some(0));
        check(Form::Web, &of(b"grpc-message: no\r\nGRPC-Status: 5"), Some(1), Some(5));
        check(Form::Web, &of(b"x:y\ngrpc-status:\t14 \r\ngrpc-status: 3\r\n"), Some(1), Some(14));
        check(Form::Web, &frame(0x80, b"grpc-status:16\r\n"), Some(0), Some(16));
        for none in [&b""[..], b"grpc-status:\r\n", b"grpc-status:x\r\n", b"grpc-statuses:1\r\n", &[b'0'; 99]]
        {
            check(Form::Web, &of(none), Some(1), None);
        }
        let long = [b"grpc-status:".as_slice(), &[b'0'; 40], b"\r\n"].concat();
        check(Form::Web, &of(&long), Some(1), None);
        // Compressed; of another form, where the flag has no meaning; not the last; not whole.
        check(Form::Web, &frame(0x81, b"grpc-status:0\r\n"), Some(0), None);
        check(Form::Plain, &of(b"grpc-status:0\r\n"), Some(2), None);
        check(Form::Web, &[of(b"grpc-status:0\r\n"), frame(0, b"")].concat(), None, None);
        let cut = of(b"grpc-status:0\r\n");
        check(Form::Web, &cut[..cut.len() - 1], None, None);
    }

    #[test]
    fn trailers_in_text() {
        // A message of "abc", then trailers; in one piece, and each with padding of its own.
        check(Form::WebText, b"AAAAAANhYmOAAAAAD2dycGMtc3RhdHVzOjUNCg==", Some(1), Some(5));
        check(Form::WebText, b"AAAAAAJhYg==gAAAAA9ncnBjLXN0YXR1czo1DQo=", Some(1), Some(5));
        check(Form::WebText, b"AAAAAAJhYg==gAAAAA9ncnBjLXN0YXR1czo1DQo", None, None);
        check(Form::WebText, b"AAAAAAJhYg==!AAAAA9ncnBjLXN0YXR1czo1DQo=", None, None);
    }

    #[test]
    fn a_status_behind_a_hole() {
        let long = frame(0, &[1; 1000]);
        let mut body = Body::new(Form::Web);
        body.bytes(&long[..100]);
        body.hole(900);
        body.bytes(&long[1000..]);
        body.bytes(&frame(0x80, b"grpc-status:0\r\n"));
        assert_eq!(body.end(), BodyEnd { messages: Some(1), status: Some(0) });
        // In the trailers, and over their prefix.
        for seen in [3, 7] {
            let mut body = Body::new(Form::Web);
            body.bytes(&frame(0x80, b"grpc-status:0\r\nx:y\r\n")[..seen]);
            body.hole(20 + 5 - seen as u64);
            assert_eq!(body.end().status, None);
        }
        let mut text = Body::new(Form::WebText);
        text.hole(4);
        text.bytes(b"gAAAAA9ncnBjLXN0YXR1czo1DQo=");
        assert_eq!(text.end(), BodyEnd::default());
    }
}
