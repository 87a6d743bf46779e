//! grpc-go in programs of Go: of which version, and where its goroutines take up streams.
//!
//! The version is among the modules that a program says it was built of; where that version has its fields, a row of
//! [`VERSIONS`] says. To add a version is to add a row, or to lengthen the last, and its name to the tests.

#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::RangeInclusive;

use tracer_abi::config::GrpcFields;

use super::elf::Function;
use super::place::{self, Point, Site};

const MODULE: &str = "google.golang.org/grpc";

/// Begins on the goroutine that serves the stream.
const SERVES: &str = "google.golang.org/grpc.(*Server).handleStream";

/// Returns the stream to the goroutine that calls, which has given it its number.
const CALLS: &str = "google.golang.org/grpc/internal/transport.(*http2Client).NewStream";

/// All that is looked for.
pub(crate) const FUNCTIONS: [&str; 2] = [SERVES, CALLS];

/// Versions that have their fields at the same places.
#[derive(Debug, PartialEq, Eq)]
struct Version {
    /// Of 1.
    minors: RangeInclusive<u16>,
    serves: GrpcFields,
    calls: GrpcFields,
}

/// Read off the debugging information of the first and the last version of each row.
const VERSIONS: &[Version] = &[
    Version { minors: 60..=65, serves: fields(false, 0, 16), calls: fields(false, 0, 24) },
    Version { minors: 66..=68, serves: fields(false, 0, 16), calls: fields(false, 0, 32) },
    Version { minors: 69..=76, serves: fields(true, 0, 16), calls: fields(true, 0, 8) },
    Version { minors: 77..=83, serves: fields(false, 108, 336), calls: fields(false, 108, 328) },
    Version { minors: 84..=85, serves: fields(false, 108, 368), calls: fields(false, 108, 360) },
];

const fn fields(is_apart: bool, number: u16, transport: u16) -> GrpcFields {
    GrpcFields { is_apart, number, transport }
}

/// That of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrpcGo {
    /// As the program says it: `v1.64.1`.
    version: String,
    known: Option<&'static Version>,
}

impl fmt::Display for GrpcGo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "grpc-go {}", self.version.trim_start_matches('v'))
    }
}

impl GrpcGo {
    fn of(version: &str) -> Self {
        let minor = version.strip_prefix("v1.").and_then(|rest| rest.split('.').next()?.parse().ok());
        let known = minor.and_then(|minor| VERSIONS.iter().find(|known| known.minors.contains(&minor)));
        Self { version: version.to_owned(), known }
    }

    /// What it would take, if the version is not known.
    pub fn needed(&self) -> Option<String> {
        let (first, last) = (VERSIONS.first()?.minors.start(), VERSIONS.last()?.minors.end());
        let needed = || format!("it needs a row in the table of versions, which has 1.{first} to 1.{last}");
        self.known.is_none().then(needed)
    }

    pub(crate) fn points<'f>(&self, find: impl Fn(&str) -> Option<&'f Function>) -> Vec<Point> {
        let Some(version) = self.known else { return Vec::new() };
        let serves = find(SERVES).and_then(|at| place::of_stream(at, Site::ServesGrpc(version.serves)));
        let calls = find(CALLS).map(|at| place::hand_out(at, Site::CallsGrpc(version.calls)));
        serves.into_iter().chain(calls.into_iter().flatten()).collect()
    }
}

/// Among the modules of a program, a line each: `dep`, its path, its version and its sum, with tabulators between. What it
/// is replaced by is in the line behind, in the same way.
pub(crate) fn among(modules: &str) -> Option<GrpcGo> {
    let mut lines = modules.lines();
    let of_module = |line: &str, sort: &str| {
        let mut words = line.split('\t');
        let is = words.next() == Some(sort) && words.next() == Some(MODULE);
        is.then(|| words.next().unwrap_or_default().to_owned())
    };
    let version = lines.find_map(|line| of_module(line, "dep"))?;
    match lines.next() {
        Some(line) if line.starts_with("=>") => {
            // Another version of it, or something of another's making.
            Some(GrpcGo::of(&of_module(line, "=>").unwrap_or_else(|| "of another's making".to_owned())))
        }
        _ => Some(GrpcGo::of(&version)),
    }
}
