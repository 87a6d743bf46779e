//! Programs of Go: where their `crypto/tls` hands over plaintext.
//!
//! A return must not be caught in Go, whose stacks move, so each `ret` has a probe. A handshake is watched for the socket
//! that it uses, and the closing of a connection ends its session.
//!
//! The places where goroutines take up streams of HTTP/2 are found here as well: `net/http` has it together with TLS, and
//! grpc-go may have it alone.

#[cfg(test)]
mod tests;

use std::fs::File;

use anyhow::{Context as _, ensure};
use tracer_abi::config::TlsCall;

use super::elf::{self, Function, Segment};
use super::go_version;
use super::grpc_go::{self, GrpcGo};
use super::pclntab;
use super::place::{self, Point, Site};

/// Plaintext goes through these, both of which there must be.
const MOVING: [(&str, TlsCall); 2] =
    [("crypto/tls.(*Conn).Read", TlsCall::Read), ("crypto/tls.(*Conn).Write", TlsCall::Write)];

/// Sockets are read and written in these, too.
const HANDSHAKES: [&str; 2] = ["crypto/tls.(*Conn).clientHandshake", "crypto/tls.(*Conn).serverHandshake"];

const CLOSE: &str = "crypto/tls.(*Conn).Close";

/// Goroutines take up streams of HTTP/2 in these, which are part of `net/http`, before 1.27 and since, and apart from it.
const STREAMS: [(&str, Site); 6] = [
    ("net/http.(*http2serverConn).runHandler", Site::ServesStream),
    ("net/http.(*http2clientStream).encodeAndWriteHeaders", Site::CallsStream),
    ("net/http/internal/http2.(*serverConn).runHandler", Site::ServesStream),
    ("net/http/internal/http2.(*clientStream).encodeAndWriteHeaders", Site::CallsStream),
    ("golang.org/x/net/http2.(*serverConn).runHandler", Site::ServesStream),
    ("golang.org/x/net/http2.(*clientStream).encodeAndWriteHeaders", Site::CallsStream),
];

/// By these, too, it is found out where the code of a program begins that has no TLS: who serves or calls has them.
const NET: [&str; 6] = [
    "net.(*conn).Read",
    "net.(*conn).Write",
    "net.(*conn).Close",
    "net.(*netFD).Read",
    "net.(*netFD).Write",
    "net.(*netFD).Close",
];

/// A program's variables, as far as its version is looked for.
const MAX_VARIABLES: u64 = 8 << 20;

/// Where the kernel half finds what it reads in a process, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    /// From a goroutine: its number.
    pub number: u16,
    /// From a `tls.Conn`: what it has read and not looked at.
    pub unread: u16,
}

/// What a program of Go says of itself.
pub(crate) struct Build {
    /// The version of Go that it was built with.
    pub(crate) version: String,
    pub(crate) grpc: Option<GrpcGo>,
}

/// `None`: it is none of Go's.
pub(crate) fn build(file: &File) -> Option<Build> {
    let segments = elf::segments(file).ok()?;
    let variables = segments.iter().rev().find(|segment| segment.writable)?;
    let bytes = elf::read(file, variables.offset, variables.len.min(MAX_VARIABLES)).ok()?;
    let (version, modules) = go_version::build_info(&bytes)?;
    Some(Build { version, grpc: grpc_go::among(modules) })
}

/// # Errors
/// When the version is not known, or its functions are not found or not understood.
pub(crate) fn points(file: &File, build: &Build) -> anyhow::Result<(Fields, Vec<Point>)> {
    let segments = elf::segments(file)?;
    let functions = functions(file, &segments, build.grpc.is_some())?;
    let find = |name: &str| functions.iter().find(|function| function.name == name);
    // Without them it is not known whose work a stream is.
    let mut streams: Vec<Point> =
        STREAMS.iter().filter_map(|(name, site)| place::of_stream(find(name)?, *site)).collect();
    streams.extend(build.grpc.iter().flat_map(|grpc| grpc.points(find)));
    let has_tls = find(MOVING[0].0).is_some();
    ensure!(has_tls || !streams.is_empty(), "it has no {}: no crypto/tls, or under other names", MOVING[0].0);
    let fields = fields(&build.version).with_context(go_version::unknown_version)?;
    if !has_tls {
        return Ok((fields, streams));
    }
    let mut points = Vec::new();
    for (name, call) in MOVING {
        let function = find(name).with_context(|| format!("it has no {name}"))?;
        points.push(
            place::behind_stack_check(function, call)
                .with_context(|| format!("{name} does not begin as functions of Go do"))?,
        );
        points.extend(
            place::returns(function).with_context(|| format!("{name} may end in ways that are not seen"))?,
        );
    }
    for name in HANDSHAKES {
        // Without it a connection's socket is known later.
        if let Some(function) = find(name)
            && let (Some(begins), Some(ends)) =
                (place::behind_stack_check(function, TlsCall::Other), place::returns(function))
        {
            points.push(begins);
            points.extend(ends);
        }
    }
    let close = find(CLOSE).and_then(place::closing);
    points.push(close.with_context(|| format!("{CLOSE} is not understood"))?);
    points.extend(streams);
    Ok((fields, points))
}

fn fields(version: &str) -> Option<Fields> {
    let (number, unread) = go_version::tls_fields(version)?;
    Some(Fields { number: number.try_into().ok()?, unread })
}

/// By symbols, or by the runtime's own table where those are stripped.
fn functions(file: &File, segments: &[Segment], has_grpc: bool) -> anyhow::Result<Vec<Function>> {
    let mut names: Vec<&'static str> = MOVING.iter().map(|(name, _)| *name).collect();
    names.extend(HANDSHAKES);
    names.push(CLOSE);
    names.extend(STREAMS.iter().map(|(name, _)| *name));
    names.extend(grpc_go::FUNCTIONS);
    if let Ok(functions) = elf::functions(file, &names)
        && !functions.is_empty()
    {
        return Ok(functions);
    }
    let mut found = pclntab::functions(file, segments, &names)?;
    // Without TLS, if it serves, or calls.
    for first in 0..grpc_go::FUNCTIONS.len() {
        if found.is_empty() && has_grpc {
            let names = [&grpc_go::FUNCTIONS[first..], &NET].concat();
            found = pclntab::functions(file, segments, &names)?;
        }
    }
    Ok(found)
}
