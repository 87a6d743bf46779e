//! Frames of HTTP/2 (RFC 9113) and header blocks (RFC 7541), as a sender makes them that may do anything.

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

pub(crate) mod flag {
    pub(crate) const END_STREAM: u8 = 0x1;
    pub(crate) const ACK: u8 = 0x1;
    pub(crate) const END_HEADERS: u8 = 0x4;
    pub(crate) const PADDED: u8 = 0x8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

pub(crate) mod error {
    pub(crate) const NO_ERROR: u32 = 0;
    pub(crate) const INTERNAL_ERROR: u32 = 2;
    pub(crate) const REFUSED_STREAM: u32 = 7;
    pub(crate) const CANCEL: u32 = 8;
    pub(crate) const HTTP_1_1_REQUIRED: u32 = 13;
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("a frame's length").to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// An integer behind a prefix of so many bits (RFC 7541 section 5.1).
fn integer(first: u8, bits: u32, mut value: usize) -> Vec<u8> {
    let max = (1 << bits) - 1;
    if value < max {
        return vec![first | value as u8];
    }
    let mut bytes = vec![first | max as u8];
    value -= max;
    while value >= 128 {
        bytes.push(value as u8 | 128);
        value /= 128;
    }
    bytes.push(value as u8);
    bytes
}

fn text(text: &[u8]) -> Vec<u8> {
    [&integer(0, 7, text.len()), text].concat()
}

/// A literal field; `first`: 0 without indexing, 0x40 with, 0x10 never to be.
pub(crate) fn literal(first: u8, name: &str, value: &str) -> Vec<u8> {
    [vec![first], text(name.as_bytes()), text(value.as_bytes())].concat()
}

/// A field of the tables; 62 is what came last.
pub(crate) fn indexed(index: usize) -> Vec<u8> {
    integer(0x80, 7, index)
}

pub(crate) fn table_size(size: usize) -> Vec<u8> {
    integer(0x20, 5, size)
}

pub(crate) fn fields(list: &[(&str, &str)]) -> Vec<u8> {
    list.iter().flat_map(|(name, value)| literal(0, name, value)).collect()
}

pub(crate) fn request(path: &str) -> Vec<u8> {
    fields(&[(":method", "POST"), (":scheme", "http"), (":authority", "case.test"), (":path", path)])
}

pub(crate) fn status(status: &str) -> Vec<u8> {
    fields(&[(":status", status)])
}

pub(crate) fn settings(list: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> =
        list.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
    frame(kind::SETTINGS, 0, 0, &payload)
}

/// A request, or a part of its body, that goes on; or that ends.
pub(crate) fn ask(stream: u32, path: &str) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS, stream, &request(path))
}

pub(crate) fn ask_all(stream: u32, path: &str) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &request(path))
}

pub(crate) fn answer(stream: u32, code: &str) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS, stream, &status(code))
}

pub(crate) fn answer_all(stream: u32, code: &str) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &status(code))
}

pub(crate) fn trailers(stream: u32) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS | flag::END_STREAM, stream, &fields(&[("x-sum", "1")]))
}

pub(crate) fn data(stream: u32, body: &[u8]) -> Vec<u8> {
    frame(kind::DATA, 0, stream, body)
}

pub(crate) fn data_end(stream: u32, body: &[u8]) -> Vec<u8> {
    frame(kind::DATA, flag::END_STREAM, stream, body)
}

pub(crate) fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, stream, &code.to_be_bytes())
}

pub(crate) fn go_away(last: u32, code: u32, debug: &[u8]) -> Vec<u8> {
    frame(kind::GOAWAY, 0, 0, &[&last.to_be_bytes()[..], &code.to_be_bytes(), debug].concat())
}

/// The payload with so much padding behind it.
pub(crate) fn padded(kind: u8, flags: u8, stream: u32, payload: &[u8], padding: u8) -> Vec<u8> {
    let padded = [&[padding][..], payload, &vec![0; usize::from(padding)]].concat();
    frame(kind, flags | flag::PADDED, stream, &padded)
}
