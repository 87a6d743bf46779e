//! What fuzzers call: each function takes any bytes and panics if an invariant does not hold.
//!
//! The targets in `tests/fuzz` are these functions and nothing else. The test below runs the same ones over the
//! committed corpus, so that what a fuzzer once found stays found.

use std::fs::File;
use std::path::Path;

use rustix::fs::{MemfdFlags, memfd_create};
use tracer_abi::config::TlsCall;

use crate::elf::{self, Function, Segment};
use crate::library::Library;
use crate::place::{self, Point, Site};
use crate::{accessor, follow, gnutls, go_version, openssl, pclntab};

/// Where the table's target has code, behind the table.
const CODE: u64 = 0x1000;

/// As in tests of the table.
const NAMES: [&str; 3] = ["crypto/tls.(*Conn).Read", "crypto/tls.(*Conn).Write", "crypto/tls.(*Conn).Close"];

/// A file in memory. `None`: the kernel has no room for it.
fn file_of(bytes: &[u8]) -> Option<File> {
    let file = File::from(memfd_create("fuzzed", MemfdFlags::CLOEXEC).ok()?);
    std::os::unix::fs::FileExt::write_all_at(&file, bytes, 0).ok()?;
    Some(file)
}

/// A file of a program or a library, as whatever TLS it may hold.
pub fn elf(data: &[u8]) {
    let path = Path::new("fuzzed");
    let open = || file_of(data);
    let of = |found: anyhow::Result<Option<Library>>| {
        let Ok(Some(library)) = found else { return };
        inside(&library.points, data.len() as u64);
    };
    if let Some(file) = open() {
        let segments = elf::segments(&file).unwrap_or_default();
        for function in elf::functions(&file, &["SSL_read", "main"]).unwrap_or_default() {
            assert!(function.offset + function.code.len() as u64 <= data.len() as u64);
            assert!(elf::offset(&segments, function.address, 1).is_some());
        }
        of(Library::open(file, open().as_ref(), path).map(Some));
    }
    let Some([gnutls, boringssl, inside]) = open().zip(open()).zip(open()).map(|((a, b), c)| [a, b, c])
    else {
        return;
    };
    of(Library::gnutls(gnutls, path).map(Some));
    of(Library::boringssl(boringssl, path).map(Some));
    of(Library::inside(inside, path));
}

/// Go's table of functions, and the code that it is of.
pub fn pclntab(data: &[u8]) {
    let Some(file) = file_of(data) else { return };
    let len = data.len() as u64;
    let (table, code) = (len.min(CODE), len.saturating_sub(CODE));
    let segments = [
        Segment { address: 0x40_0000, offset: 0, len: table, code: false, writable: false },
        Segment { address: 0x50_0000, offset: CODE, len: code, code: true, writable: false },
    ];
    for function in pclntab::functions(&file, &segments, &NAMES).unwrap_or_default() {
        assert!(function.offset >= CODE && function.offset + function.code.len() as u64 <= len);
    }
}

/// A program's variables, which may say that it is Go's.
pub fn build_info(data: &[u8]) {
    let Some((version, modules)) = go_version::build_info(data) else { return };
    assert!(version.starts_with("go") && modules.len() < data.len());
    let known = go_version::tls_fields(&version);
    assert!(known.is_none() || go_version::minor_of(&version).is_some());
    let _ = crate::grpc_go::among(modules);
}

/// A function that is probed, or only followed. The first byte says how much of it lies elsewhere.
pub fn code(data: &[u8]) {
    let [elsewhere, code @ ..] = data else { return };
    let (own, seldom) = code.split_at(code.len().saturating_sub(usize::from(*elsewhere)));
    let function = |name, offset: u64, code: &[u8]| Function {
        name,
        offset,
        address: 0x2000 + offset,
        code: code.to_vec(),
    };
    let (own, seldom) = (function("f", 0, own), function("f.cold", own.len() as u64, seldom));
    let len = code.len() as u64;
    let calls = [TlsCall::Read, TlsCall::WriteEx, TlsCall::WriteEx2, TlsCall::Other];
    for call in calls {
        inside(place::beginning(&own, call).as_slice(), len);
        if let Some(point) = place::beginning(&own, call) {
            let _ = follow::depth(&own, &point);
        }
        inside(place::behind_stack_check(&own, call).as_slice(), len);
    }
    inside(place::freeing(&own).as_slice(), len);
    inside(place::caught(&own).as_slice(), len);
    inside(place::closing(&own).as_slice(), len);
    inside(&place::ends(&own, Some(&seldom)).unwrap_or_default(), len);
    inside(&place::returns(&own).unwrap_or_default(), len);
    inside(&place::hand_out(&own, Site::CallsStream), len);
    inside(place::of_stream(&own, Site::ServesStream).as_slice(), len);
    let _ = (accessor::follow(&own), follow::only_goes_on(&own));
    let segment = Segment { address: 0x2000, offset: 0, len, code: true, writable: false };
    if let Some(file) = file_of(code) {
        inside(&follow::returns(&file, &[segment], &own).unwrap_or_default(), len);
    }
    // As the functions that show where something is.
    let names = openssl::OF_SESSIONS.into_iter().chain(openssl::OF_CRYPTO);
    let functions: Vec<Function> = names.map(|name| function(name, 0, code)).collect();
    let _ = (openssl::layout(&functions), openssl::version(&functions), gnutls::fields(&functions));
}

/// Probes are put into code only.
fn inside(points: &[Point], len: u64) {
    for point in points {
        assert!(point.offset < len, "{point}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replay(target: &str, run: fn(&[u8])) {
        let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fuzz/corpus/");
        let mut count = 0;
        for entry in std::fs::read_dir(format!("{corpus}{target}")).unwrap() {
            let input = std::fs::read(entry.unwrap().path()).unwrap();
            run(&input);
            // Cut and damaged, each is many more.
            for at in 0..input.len().min(512) {
                run(&input[..at]);
                let mut damaged = input.clone();
                damaged[at] ^= 0x20;
                run(&damaged);
            }
            count += 1;
        }
        assert!(count > 0, "no corpus for {target}");
    }

    #[test]
    fn the_corpus_holds() {
        replay("elf", elf);
        replay("pclntab", pclntab);
        replay("build_info", build_info);
        replay("code", code);
    }
}
