//! What do these first bytes look like? Pure; runs in the kernel half and in host tests.
//!
//! It bounds volume and nothing else: a wrong guess may cost bytes or a late start, never a false message,
//! because the parsers in user space decide what the bytes are.

use crate::codes;

/// How many leading bytes decide.
pub const PREFIX_BYTES: usize = 8;

codes! {
    "protocol class" Class: u8 {
        /// Too few bytes so far.
        Undecided = 0,
        /// An HTTP/1.x request or response may start here.
        Http1 = 1,
        /// The HTTP/2 connection preface, or the first frame of a server.
        Http2 = 2,
        /// A TLS record.
        Tls = 3,
        /// None of these.
        Unknown = 4,
        /// A FastCGI record.
        FastCgi = 5,
    }
}

/// The first bytes are those of a FastCGI record that begins a request.
pub const fn begins_fastcgi_request(prefix: u64) -> bool {
    byte_at(prefix, 1) == 1
}

/// Classifies the start of a direction's turn. `len` is how many bytes of `prefix` are valid.
pub const fn classify(prefix: &[u8; PREFIX_BYTES], len: usize) -> Class {
    classify_word(u64::from_le_bytes(*prefix), len)
}

/// The same of a word, whose lowest byte is the first. The kernel's verifier would follow every place of an array.
pub const fn classify_word(prefix: u64, len: usize) -> Class {
    if len == 0 {
        return Class::Undecided;
    }
    // TLS record: type 20..=23, major version 3 (RFC 8446 section 5.1).
    if byte_at(prefix, 0) >= 20 && byte_at(prefix, 0) <= 23 {
        return if len < 2 {
            Class::Undecided
        } else if byte_at(prefix, 1) == 3 {
            Class::Tls
        } else {
            Class::Unknown
        };
    }
    // FastCGI record: version 1, a type of 1 to 11, a byte that is reserved (specification section 3.3).
    if byte_at(prefix, 0) == 1 {
        return if len < PREFIX_BYTES {
            Class::Undecided
        } else if byte_at(prefix, 1) >= 1 && byte_at(prefix, 1) <= 11 && byte_at(prefix, 7) == 0 {
            Class::FastCgi
        } else {
            Class::Unknown
        };
    }
    // A server's first frame, SETTINGS (RFC 9113 section 6.5), which may come before the client's preface.
    if byte_at(prefix, 0) == 0 {
        let settings = byte_at(prefix, 1) == 0
            && (len < 3 || byte_at(prefix, 2).is_multiple_of(6))
            && (len < 4 || byte_at(prefix, 3) == 4)
            && (len < 5 || byte_at(prefix, 4) == 0)
            && (prefix >> 40) == 0;
        return if !settings {
            Class::Unknown
        } else if len < PREFIX_BYTES {
            Class::Undecided
        } else {
            Class::Http2
        };
    }
    // "PRI * HTTP/2.0" (RFC 9113 section 3.4); "PRI *" is not a request that HTTP/1 clients make.
    if len >= 4
        && byte_at(prefix, 0) == b'P'
        && byte_at(prefix, 1) == b'R'
        && byte_at(prefix, 2) == b'I'
        && byte_at(prefix, 3) == b' '
    {
        return if len == 4 {
            Class::Undecided
        } else if byte_at(prefix, 4) == b'*' {
            Class::Http2
        } else {
            Class::Http1
        };
    }
    // A method is a token ended by a space (RFC 9112 section 3); "HTTP/" is one up to its slash. A leading
    // CRLF before a request line is to be ignored (section 2.2).
    let mut i = 0;
    let mut token = 0;
    while i < PREFIX_BYTES {
        if i >= len {
            return Class::Undecided;
        }
        let byte = byte_at(prefix, i);
        if token == 0 && (byte == b'\r' || byte == b'\n') {
            i += 1;
            continue;
        }
        if token > 0 && byte == b' ' {
            return Class::Http1;
        }
        if token == 4
            && byte == b'/'
            && byte_at(prefix, i.wrapping_sub(4)) == b'H'
            && byte_at(prefix, i.wrapping_sub(1)) == b'P'
        {
            return Class::Http1;
        }
        if !is_method_byte(byte) {
            return Class::Unknown;
        }
        token += 1;
        i += 1;
    }
    // Eight token bytes and no space yet: methods such as PROPPATCH are longer. Letters only, to keep
    // binary protocols out.
    if token == PREFIX_BYTES { Class::Http1 } else { Class::Undecided }
}

/// The byte at a place below [`PREFIX_BYTES`].
const fn byte_at(prefix: u64, at: usize) -> u8 {
    (prefix >> (8 * (at & (PREFIX_BYTES - 1)))) as u8
}

/// Methods in use are upper-case letters, with `-` and `_` in a few extensions (M-SEARCH).
const fn is_method_byte(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte == b'-' || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], want: Class) {
        let mut prefix = [0; PREFIX_BYTES];
        let len = bytes.len().min(PREFIX_BYTES);
        prefix[..len].copy_from_slice(&bytes[..len]);
        assert_eq!(classify(&prefix, len), want, "{bytes:?}");
    }

    #[test]
    fn first_bytes_decide() {
        check(b"", Class::Undecided);
        check(b"GET / HTTP/1.1", Class::Http1);
        check(b"GE", Class::Undecided);
        check(b"G", Class::Undecided);
        check(b"OPTIONS * HTTP/1.1", Class::Http1);
        check(b"PROPPATCH /a", Class::Http1);
        check(b"M-SEARCH *", Class::Http1);
        check(b"\r\nGET / HTTP/1.1", Class::Http1);
        check(b"HTTP/1.1 200 OK", Class::Http1);
        check(b"HTTP/1.0 200 OK", Class::Http1);
        check(b"HTTP", Class::Undecided);
        check(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Class::Http2);
        check(&[0, 0, 18, 4, 0, 0, 0, 0, 0], Class::Http2);
        check(&[0, 0, 6, 4], Class::Undecided);
        check(&[0, 0, 7, 4, 0, 0, 0, 0], Class::Unknown);
        check(&[0, 0, 0, 4, 1, 0, 0, 0], Class::Unknown);
        check(b"PRI ", Class::Undecided);
        check(b"PRI /a", Class::Http1);
        check(&[0x16, 3, 1, 2, 0], Class::Tls);
        check(&[0x17, 3, 3], Class::Tls);
        check(&[0x16], Class::Undecided);
        check(&[0x16, 9], Class::Unknown);
        check(b"*1\r\n$4\r\nPING\r\n", Class::Unknown);
        check(&[0, 0, 0, 8, 4, 210, 22, 47], Class::Unknown);
        check(&[1, 1, 0, 1, 0, 8, 0, 0, 0, 1], Class::FastCgi);
        check(&[1, 6, 0, 1, 0x1f, 0xf8, 5, 0], Class::FastCgi);
        check(&[1, 1, 0, 1], Class::Undecided);
        check(&[1, 0, 0, 1, 14, 0, 0, 0], Class::Unknown);
        check(&[1, 12, 0, 1, 0, 8, 0, 0], Class::Unknown);
    }
}
