//! Messages that others collected (llhttp's tests, read in place): where each one starts and ends must agree.
//!
//! llhttp is strict where this parser is lenient, as it observes traffic that real programs accepted: what llhttp
//! rejects is compared up to there.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test reads files, and may state what cannot fail"
)]

use std::fs;
use std::path::{Path, PathBuf};

use tracer_core::protocol::http1::{Answering, Finish, Http1, Part};
use tracer_core::protocol::{Parsed, Parser};
use tracer_core::stream::Edge;

struct Vector {
    name: String,
    is_request: bool,
    skips_body: bool,
    finishes: bool,
    input: Vec<u8>,
    /// First byte of each message, and the one behind its last, of those that are complete.
    messages: Vec<(usize, usize)>,
    /// llhttp reads no further, for whatever reason.
    stops: bool,
}

fn fixtures() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures/llhttp");
    folder.is_dir().then_some(folder)
}

fn parse_file(path: &Path) -> Vec<Vector> {
    let text = fs::read_to_string(path).unwrap();
    let (mut vectors, mut title, mut meta) = (Vec::new(), String::new(), String::new());
    let mut lines = text.lines();
    let block = |lines: &mut std::str::Lines<'_>| -> Vec<String> {
        lines.take_while(|line| *line != "```").map(str::to_owned).collect()
    };
    let mut input = Vec::new();
    while let Some(line) = lines.next() {
        if let Some(heading) = line.strip_prefix('#') {
            title = heading.trim_matches(['#', ' ']).to_owned();
        } else if line.starts_with("<!-- meta=") {
            meta = line.to_owned();
        } else if line == "```http" {
            input = unescape(&block(&mut lines).join("\n"));
        } else if line == "```log" {
            let log = block(&mut lines);
            let offset = |line: &str| line.strip_prefix("off=")?.split(' ').next()?.parse::<usize>().ok();
            let at = |what: &str| -> Vec<usize> {
                log.iter().filter(|line| line.ends_with(what)).map(|line| offset(line).unwrap()).collect()
            };
            let mut completes = at("message complete");
            // "Safe to finish, with a call back": the end of the stream completes the message.
            completes.extend(log.iter().any(|line| line == "off=NULL finish=1").then_some(input.len()));
            let messages = at("message begin").into_iter().zip(completes).collect();
            let vector = Vector {
                name: format!("{}: {title}", path.file_stem().unwrap().display()),
                is_request: meta.contains("\"request"),
                skips_body: meta.contains("skipBody"),
                finishes: meta.contains("-finish"),
                input: input.clone(),
                messages,
                stops: log.iter().any(|line| line.contains("error code=") || line.contains("pause")),
            };
            if !differs(&vector, &meta) {
                vectors.push(vector);
            }
        }
    }
    vectors
}

/// What cannot agree.
fn differs(vector: &Vector, meta: &str) -> bool {
    // Not HTTP.
    vector.name.contains("RTSP") || vector.name.contains("ICE")
        // A bare CR as a line's end, which llhttp does only when it is asked to: nobody does.
        || meta.contains("optional-lf-after-cr")
        // The application, not the message, says that there is no body.
        || vector.is_request && vector.skips_body
}

/// The notation of llhttp's test files: a line ends in CRLF unless a backslash ends it, and has escapes.
fn unescape(text: &str) -> Vec<u8> {
    let text = text.replace("\\\n", "").replace('\n', "\r\n");
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, more)) = rest.split_first() {
        let (byte, used) = match (byte, more.first()) {
            (b'\\', Some(b'r')) => (b'\r', 2),
            (b'\\', Some(b'n')) => (b'\n', 2),
            (b'\\', Some(b't')) => (b'\t', 2),
            (b'\\', Some(b'f')) => (0x0c, 2),
            (b'\\', Some(b'x')) => {
                let digits = more[1..].iter().take(2).take_while(|byte| byte.is_ascii_hexdigit()).count();
                let hex = str::from_utf8(&more[1..=digits]).unwrap();
                (u8::from_str_radix(hex, 16).unwrap(), 2 + digits)
            }
            _ => (byte, 1),
        };
        bytes.push(byte);
        rest = &rest[used..];
    }
    bytes
}

/// Messages that this parser finds when the input comes in pieces of `piece` bytes.
fn messages(vector: &Vector, piece: usize) -> Vec<(usize, usize)> {
    let mut parser = if vector.is_request { Http1::request(64 * 1024) } else { Http1::response(64 * 1024) };
    if vector.skips_body {
        parser.set_answering(Answering::Head);
    }
    let (mut found, mut start, mut at) = (Vec::new(), None, 0);
    for piece in vector.input.chunks(piece) {
        let mut rest = piece;
        while !rest.is_empty() {
            if parser.is_at_start() && !matches!(rest[0], b'\r' | b'\n') {
                start = Some(at);
            }
            let step = parser.bytes(rest, Edge::default());
            at += step.consumed as usize;
            rest = &rest[step.consumed as usize..];
            match step.parsed {
                Parsed::NeedMore => {}
                Parsed::Part(Part::Request(request)) if !request.ended => {}
                Parsed::Part(Part::Response(response)) if !response.ended => {}
                Parsed::Part(_) => found.extend(start.take().map(|start| (start, at))),
                Parsed::Torn | Parsed::Invalid(_) => return found,
            }
        }
    }
    if vector.finishes && matches!(parser.finish(true), Finish::Complete(_)) {
        found.extend(start.map(|start| (start, at)));
    }
    found
}

#[test]
fn messages_start_and_end_where_llhttp_says() {
    let Some(folder) = fixtures() else {
        println!("skipped: ../shared/fixtures/llhttp is not there");
        return;
    };
    let mut vectors = Vec::new();
    for kind in ["request", "response"] {
        let mut files: Vec<_> =
            fs::read_dir(folder.join(kind)).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        vectors.extend(files.iter().flat_map(|file| parse_file(file)));
    }
    assert!(vectors.len() > 100, "only {} vectors were read", vectors.len());
    let mut disagreements = Vec::new();
    for vector in &vectors {
        for piece in [usize::MAX, 1, 7] {
            let found = messages(vector, piece);
            let agrees =
                if vector.stops { found.starts_with(&vector.messages) } else { found == vector.messages };
            if !agrees {
                disagreements
                    .push(format!("{} ({piece}): {found:?}, not {:?}", vector.name, vector.messages));
            }
        }
    }
    assert!(
        disagreements.is_empty(),
        "{} of {}:\n{}",
        disagreements.len(),
        vectors.len(),
        disagreements.join("\n")
    );
}
