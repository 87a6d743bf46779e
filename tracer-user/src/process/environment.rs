//! The two OpenTelemetry variables of another process's environment. Nothing else of it is kept, not even for a moment
//! longer than it takes to look at it: environments hold secrets.

use std::io::{self, Read};

use crate::pairs;

/// What a process says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OtelIdentity {
    /// `OTEL_SERVICE_NAME`.
    pub(crate) service_name: Option<String>,
    /// `OTEL_RESOURCE_ATTRIBUTES`; void when it is malformed, as the specification asks.
    pub(crate) resource_attributes: Vec<(String, String)>,
}

const SERVICE_NAME: &[u8] = b"OTEL_SERVICE_NAME=";
const RESOURCE_ATTRIBUTES: &[u8] = b"OTEL_RESOURCE_ATTRIBUTES=";

/// Longer values are no configuration; they are passed over.
const MAX_VALUE_BYTES: usize = 16 * 1024;

/// Environments are limited to a quarter of the stack limit, usually 2 MiB.
const MAX_ENVIRONMENT_BYTES: u64 = 8 * 1024 * 1024;

/// Reads variables, each ended by NUL, as `/proc/<pid>/environ` has them. Of a variable set twice, the first counts,
/// as for `getenv`.
pub(crate) fn read(environ: impl Read) -> io::Result<OtelIdentity> {
    let mut environ = environ.take(MAX_ENVIRONMENT_BYTES);
    let mut scan = Scan::default();
    let mut buffer = [0; 4096];
    loop {
        match environ.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => buffer[..len].iter().for_each(|&byte| scan.byte(byte)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    scan.byte(0);
    let string = |bytes: Vec<u8>| String::from_utf8(bytes).ok().filter(|text| !text.trim().is_empty());
    let attributes = scan.resource_attributes.and_then(string);
    Ok(OtelIdentity {
        service_name: scan.service_name.and_then(string).map(|name| name.trim().to_owned()),
        resource_attributes: attributes.and_then(|text| pairs::parse(&text).ok()).unwrap_or_default(),
    })
}

/// Holds at most one variable, and only while it may still be one of the two.
#[derive(Default)]
struct Scan {
    current: Vec<u8>,
    skip: bool,
    service_name: Option<Vec<u8>>,
    resource_attributes: Option<Vec<u8>>,
}

impl Scan {
    fn byte(&mut self, byte: u8) {
        if byte == 0 {
            if let (false, Some(value)) = (self.skip, self.current.strip_prefix(SERVICE_NAME)) {
                self.service_name.get_or_insert_with(|| value.to_vec());
            } else if let (false, Some(value)) = (self.skip, self.current.strip_prefix(RESOURCE_ATTRIBUTES)) {
                self.resource_attributes.get_or_insert_with(|| value.to_vec());
            }
            self.current.clear();
            self.skip = false;
        } else if !self.skip {
            self.current.push(byte);
            let may_be = |name: &[u8]| {
                let len = name.len().min(self.current.len());
                self.current[..len] == name[..len]
            };
            if self.current.len() > MAX_VALUE_BYTES || !(may_be(SERVICE_NAME) || may_be(RESOURCE_ATTRIBUTES))
            {
                self.current.clear();
                self.skip = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(environ: &[u8], name: Option<&str>, attributes: &[(&str, &str)]) {
        let want = OtelIdentity {
            service_name: name.map(str::to_owned),
            resource_attributes: attributes.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect(),
        };
        assert_eq!(read(environ).unwrap(), want, "{environ:?}");
    }

    #[test]
    fn only_the_two_variables_are_read() {
        check(b"", None, &[]);
        check(b"PATH=/bin\0OTEL_SERVICE_NAME=cart\0HOME=/\0", Some("cart"), &[]);
        check(b"OTEL_SERVICE_NAME=cart", Some("cart"), &[]);
        check(b"OTEL_SERVICE_NAME= \0", None, &[]);
        check(b"OTEL_SERVICE_NAME=\xff\0", None, &[]);
        check(b"XOTEL_SERVICE_NAME=a\0OTEL_SERVICE_NAMES=b\0OTEL_SERVICE_NAME\0", None, &[]);
        check(b"OTEL_SERVICE_NAME=a\0OTEL_SERVICE_NAME=b\0", Some("a"), &[]);
        check(b"OTEL_RESOURCE_ATTRIBUTES=a=b,c=d\0", None, &[("a", "b"), ("c", "d")]);
        check(b"OTEL_RESOURCE_ATTRIBUTES=a=b,c\0OTEL_SERVICE_NAME=x\0", Some("x"), &[]);
        check(b"\0\0\0OTEL_SERVICE_NAME=x\0\0", Some("x"), &[]);
        let long = [b"OTEL_SERVICE_NAME=".to_vec(), vec![b'x'; 2 * MAX_VALUE_BYTES]].concat();
        check(&long, None, &[]);
    }

    #[test]
    fn an_endless_environment_ends() {
        assert_eq!(read(io::repeat(b'x')).unwrap(), OtelIdentity::default());
    }
}
