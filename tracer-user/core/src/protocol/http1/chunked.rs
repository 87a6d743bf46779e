//! The chunked transfer coding (RFC 9112 section 7.1), over bytes and holes.
//!
//! ```text
//! Size --LF, size > 0--> Data --size bytes--> DataEnd --LF--> Size
//! Size --LF, size = 0--> Trailer --empty line--> end
//! ```
//!
//! A hole inside `Data`, and over the line end behind it, changes nothing: both lengths are known. A hole anywhere
//! else, or beyond, tears the framing.

use crate::protocol::grpc;

/// A size of more digits does not fit, or means nothing.
const MAX_SIZE_DIGITS: u8 = 15;

/// Bytes of extensions, or of trailers, at most: those of a header block.
const MAX_LINE_BYTES: u32 = 64 * 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunked {
    state: State,
    /// Bytes of chunk data so far.
    data_len: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size {
        value: u64,
        digits: u8,
    },
    /// Behind the size, up to the line's end.
    Extension {
        value: u64,
        passed: u32,
    },
    Data {
        left: u64,
    },
    /// `cr`: its CR has been seen.
    DataEnd {
        cr: bool,
    },
    /// `empty`: the line holds nothing but perhaps a CR so far.
    Trailer {
        empty: bool,
        passed: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    More,
    End,
    /// Bytes: not chunked coding. Hole: torn; the rest of the hole is not consumed.
    Broken,
}

impl Chunked {
    pub(super) const fn new() -> Self {
        Self { state: State::Size { value: 0, digits: 0 }, data_len: 0 }
    }

    pub(super) const fn data_len(&self) -> u64 {
        self.data_len
    }

    /// Reads bytes, and shows data among them to `grpc`; returns how many it took.
    pub(super) fn bytes(&mut self, input: &[u8], mut grpc: Option<&mut grpc::Body>) -> (usize, Outcome) {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            if let State::Data { left } = self.state {
                let len = left.min((input.len() - at) as u64);
                self.pass_data(len);
                let data = &input[at..at + len as usize];
                at += data.len();
                if let Some(grpc) = &mut grpc {
                    grpc.bytes(data);
                }
                continue;
            }
            at += 1;
            match self.step(byte) {
                Outcome::More => {}
                outcome @ (Outcome::End | Outcome::Broken) => return (at, outcome),
            }
        }
        (at, Outcome::More)
    }

    /// Passes over a hole, and shows `grpc` how much of it is data; returns how many of its bytes are accounted for.
    pub(super) fn hole(&mut self, len: u64, mut grpc: Option<&mut grpc::Body>) -> (u64, Outcome) {
        let mut passed = 0;
        while passed < len {
            let rest = len - passed;
            match self.state {
                State::Data { left } => {
                    let part = left.min(rest);
                    self.pass_data(part);
                    passed += part;
                    if let Some(grpc) = &mut grpc {
                        grpc.hole(part);
                    }
                }
                State::DataEnd { cr: false } if rest >= 2 => {
                    self.state = State::Size { value: 0, digits: 0 };
                    passed += 2;
                }
                State::DataEnd { cr: false } => {
                    self.state = State::DataEnd { cr: true };
                    passed += 1;
                }
                State::DataEnd { cr: true } => {
                    self.state = State::Size { value: 0, digits: 0 };
                    passed += 1;
                }
                State::Size { .. } | State::Extension { .. } | State::Trailer { .. } => {
                    return (passed, Outcome::Broken);
                }
            }
        }
        (passed, Outcome::More)
    }

    fn pass_data(&mut self, len: u64) {
        if let State::Data { left } = self.state {
            self.data_len = self.data_len.saturating_add(len);
            let left = left.saturating_sub(len);
            self.state = if left == 0 { State::DataEnd { cr: false } } else { State::Data { left } };
        }
    }

    fn step(&mut self, byte: u8) -> Outcome {
        let size_line_end = |value| match value {
            0 => State::Trailer { empty: true, passed: 0 },
            left => State::Data { left },
        };
        self.state = match (self.state, byte) {
            (State::Size { value, digits }, _) if byte.is_ascii_hexdigit() => {
                let digit = (byte as char).to_digit(16).map_or(0, u64::from);
                // Leading zeros may be many, significant digits may not.
                let digits = if value == 0 { 0 } else { digits } + 1;
                if digits > MAX_SIZE_DIGITS {
                    return Outcome::Broken;
                }
                State::Size { value: value << 4 | digit, digits }
            }
            (State::Size { digits: 0, .. }, _) => return Outcome::Broken,
            (State::Size { value, .. } | State::Extension { value, .. }, b'\n') => size_line_end(value),
            (State::Size { value, .. }, b';' | b' ' | b'\t' | b'\r') => State::Extension { value, passed: 0 },
            (State::Size { .. }, _) => return Outcome::Broken,
            (State::Extension { passed, .. }, _) if passed >= MAX_LINE_BYTES => return Outcome::Broken,
            (State::Extension { value, passed }, _) => State::Extension { value, passed: passed + 1 },
            (State::DataEnd { cr: false }, b'\r') => State::DataEnd { cr: true },
            (State::DataEnd { .. }, b'\n') => State::Size { value: 0, digits: 0 },
            (State::DataEnd { .. }, _) => return Outcome::Broken,
            (State::Trailer { empty: true, .. }, b'\n') => return Outcome::End,
            (State::Trailer { passed, .. }, _) if passed >= MAX_LINE_BYTES => return Outcome::Broken,
            (State::Trailer { passed, .. }, b'\n') => State::Trailer { empty: true, passed: passed + 1 },
            (State::Trailer { empty, passed }, b'\r') => State::Trailer { empty, passed: passed + 1 },
            (State::Trailer { passed, .. }, _) => State::Trailer { empty: false, passed: passed + 1 },
            // Data is passed in one go by the caller.
            (State::Data { left }, _) => State::Data { left },
        };
        Outcome::More
    }
}

/// Whether bytes that end where an operation ends look like the end of a chunked body: the last chunk, trailers
/// perhaps, and the empty line. `from_line_start`: the first of them may be the first of a line.
pub(super) fn looks_ended(tail: &[u8], from_line_start: bool) -> bool {
    let Some(mut lines) = tail.strip_suffix(b"\r\n") else { return false };
    // From the end backwards: trailers up to the last chunk's line.
    while let Some(before) = lines.strip_suffix(b"\r\n") {
        let start = before.windows(2).rposition(|pair| pair == b"\r\n").map(|at| at + 2);
        if start.is_none() && !from_line_start {
            return false;
        }
        let line = &before[start.unwrap_or(0)..];
        if is_last_chunk(line) {
            return true;
        }
        if !is_trailer(line) {
            return false;
        }
        lines = &before[..start.unwrap_or(0)];
    }
    false
}

fn is_last_chunk(line: &[u8]) -> bool {
    let zeros = line.iter().take_while(|&&byte| byte == b'0').count();
    zeros > 0 && matches!(line.get(zeros), None | Some(b';' | b' ' | b'\t'))
}

fn is_trailer(line: &[u8]) -> bool {
    let name = line.iter().take_while(|&&byte| super::head::is_token_byte(byte)).count();
    name > 0 && line.get(name) == Some(&b':')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All at once, and byte by byte.
    fn check(input: &str, want: (usize, Outcome), data_len: u64) {
        let mut whole = Chunked::new();
        assert_eq!(whole.bytes(input.as_bytes(), None), want, "{input:?}");
        assert_eq!(whole.data_len(), data_len, "{input:?}");
        let mut split = Chunked::new();
        let mut at = 0;
        let outcome = loop {
            let Some(byte) = input.as_bytes().get(at..=at) else { break Outcome::More };
            at += 1;
            match split.bytes(byte, None).1 {
                Outcome::More => {}
                outcome @ (Outcome::End | Outcome::Broken) => break outcome,
            }
        };
        assert_eq!(((at, outcome), split.data_len()), (want, data_len), "{input:?} byte by byte");
    }

    #[test]
    fn chunks_extensions_and_trailers() {
        check("0\r\n\r\n", (5, Outcome::End), 0);
        check("5\r\nhello\r\n0\r\n\r\nGET", (15, Outcome::End), 5);
        check("5;a=b;c=\"d\"\r\nhello\r\n000;x\r\n\r\n", (29, Outcome::End), 5);
        check("5 \r\nhello\r\n0\r\n\r\n", (16, Outcome::End), 5);
        check("5\nhello\n0\n\n", (11, Outcome::End), 5);
        check("aB\r\n", (4, Outcome::More), 0);
        check("0\r\nA: b\r\nC: d\r\n\r\n", (17, Outcome::End), 0);
        check("0\r\n0\r\n\r\n", (8, Outcome::End), 0);
        check("00000000000000000000\r\n\r\n", (24, Outcome::End), 0);
    }

    #[test]
    fn what_is_not_chunked_coding() {
        check("\r\n", (1, Outcome::Broken), 0);
        check("g\r\n", (1, Outcome::Broken), 0);
        check("5x", (2, Outcome::Broken), 0);
        check("2\r\nabc", (6, Outcome::Broken), 2);
        check("ffffffffffffffff\r\n", (16, Outcome::Broken), 0);
    }

    #[test]
    fn holes() {
        let mut chunked = Chunked::new();
        chunked.bytes(b"a\r\n01", None);
        assert_eq!(chunked.hole(5, None), (5, Outcome::More));
        assert_eq!(chunked.bytes(b"789\r\n3\r\nabc", None), (11, Outcome::More));
        // The line end behind a chunk is known to be there.
        assert_eq!(chunked.hole(1, None), (1, Outcome::More));
        assert_eq!(chunked.bytes(b"\n4\r\n0", None), (5, Outcome::More));
        assert_eq!(chunked.hole(5, None), (5, Outcome::More));
        assert_eq!(chunked.bytes(b"2\r\n", None), (3, Outcome::More));
        assert_eq!(chunked.hole(9, None), (4, Outcome::Broken));
        assert_eq!(chunked.data_len(), 10 + 3 + 4 + 2);
    }

    #[test]
    fn the_end_is_recognised_in_a_tail() {
        let check = |tail: &str, want: (bool, bool)| {
            let got = (looks_ended(tail.as_bytes(), false), looks_ended(tail.as_bytes(), true));
            assert_eq!(got, want, "{tail:?}");
        };
        check("0\r\n\r\n", (false, true));
        check("data\r\n0\r\n\r\n", (true, true));
        check("\r\n0\r\n\r\n", (true, true));
        check("\r\n0;ext=1\r\nA: b\r\nC:\r\n\r\n", (true, true));
        check("\r\n000\r\n\r\n", (true, true));
        check("data0\r\n\r\n", (false, false));
        check("\r\n10\r\n\r\n", (false, false));
        check("\r\n0\r\nno trailer\r\n\r\n", (false, false));
        check("\r\n0\r\n", (false, false));
        check("\r\n0\r\n\r\nmore", (false, false));
        check("A: b\r\n\r\n", (false, false));
        check("\r\n\r\n", (false, false));
        check("", (false, false));
    }
}
