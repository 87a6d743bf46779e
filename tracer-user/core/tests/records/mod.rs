//! FastCGI records, as programs write them.

#![allow(dead_code, reason = "each test target uses a part of it")]

/// A record with its content and padding.
pub(crate) fn record(kind: u8, id: u16, content: &[u8], padding: u8) -> Vec<u8> {
    let [id_high, id_low] = id.to_be_bytes();
    let [len_high, len_low] = (content.len() as u16).to_be_bytes();
    let mut out = vec![1, kind, id_high, id_low, len_high, len_low, padding, 0];
    out.extend_from_slice(content);
    out.resize(out.len() + usize::from(padding), 0);
    out
}

pub(crate) fn begin(id: u16) -> Vec<u8> {
    record(1, id, &[0, 1, 1, 0, 0, 0, 0, 0], 0)
}

pub(crate) fn end(id: u16) -> Vec<u8> {
    // What is reserved at the end is anything.
    record(3, id, &[0, 0, 0, 0, 0, 0x58, 0x2d, 0x4e], 0)
}

pub(crate) fn pairs(pairs: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in pairs {
        for len in [name.len(), value.len()] {
            match u8::try_from(len) {
                Ok(short @ 0..0x80) => out.push(short),
                _ => out.extend_from_slice(&(len as u32 | 0x8000_0000).to_be_bytes()),
            }
        }
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(value.as_bytes());
    }
    out
}

/// A whole request, its body in records of at most `piece` bytes.
pub(crate) fn request(id: u16, path: &str, more: &[(&str, &str)], body: &[u8], piece: usize) -> Vec<u8> {
    let mut list = vec![("REQUEST_METHOD", "POST"), ("REQUEST_URI", path), ("HTTP_HOST", "h")];
    list.extend_from_slice(more);
    let mut out = [begin(id), record(4, id, &pairs(&list), 3), record(4, id, &[], 0)].concat();
    for part in body.chunks(piece) {
        out.extend(record(5, id, part, 0));
    }
    out.extend(record(5, id, &[], 0));
    out
}

/// A whole response.
pub(crate) fn response(id: u16, status: u16, body: &[u8], piece: usize) -> Vec<u8> {
    let head = format!("Status: {status} R\r\nContent-Type: text/plain\r\n\r\n");
    let text = [head.as_bytes(), body].concat();
    let mut out = Vec::new();
    for part in text.chunks(piece) {
        out.extend(record(6, id, part, (part.len() % 8) as u8));
    }
    out.extend(record(6, id, &[], 0));
    out.extend(end(id));
    out
}
