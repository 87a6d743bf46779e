//! Frames of HTTP/2, as the simplest of senders makes them.

#![allow(dead_code, reason = "each test target uses a part of it")]

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A literal field without indexing.
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    [&[0, name.len() as u8][..], name.as_bytes(), &[value.len() as u8], value.as_bytes()].concat()
}

pub(crate) fn fields(list: &[(&str, &str)]) -> Vec<u8> {
    list.iter().flat_map(|(name, value)| field(name, value)).collect()
}

pub(crate) fn settings() -> Vec<u8> {
    frame(4, 0, 0, &[])
}

/// END_HEADERS, and END_STREAM if it is the whole request.
pub(crate) fn ask(stream: u32, path: &str, ends: bool) -> Vec<u8> {
    let list = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "h")];
    frame(1, 4 | u8::from(ends), stream, &fields(&list))
}

/// The same with more fields.
pub(crate) fn ask_with(stream: u32, path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let list = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "h")];
    frame(1, 5, stream, &fields(&[&list[..], more].concat()))
}

pub(crate) fn answer(stream: u32, status: &str, ends: bool) -> Vec<u8> {
    frame(1, 4 | u8::from(ends), stream, &fields(&[(":status", status)]))
}
