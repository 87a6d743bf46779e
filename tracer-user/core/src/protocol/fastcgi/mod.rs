//! FastCGI (specification 1.0): requests that a Web server hands to an application, several on one connection, told
//! apart by a number that is used again.
//!
//! One direction is a sequence of records. What belongs to one request is gathered by its number: the pairs that
//! describe it and the length of its body on one side, header lines and the length of their body on the other. Nothing
//! of a body, of what goes to the error log, or of other pairs and lines is kept. Every role is read as a responder's is.
//!
//! ```text
//!         8 bytes           content              padding
//! Header ---------> Content -------> Padding ----------> Header
//!   ^   +--hole over a header: Torn--> Adrift (if told so)
//!   +--operation ends with a record that ends a request--+
//! ```
//!
//! **Adrift**: bytes that hold headers were left out. No body looks like the record that ends a request at the very end
//! of an operation except on purpose, so that is where the next record is sought.

mod output;
mod params;
mod record;

use self::record::{HEADER, Kind, Record, Side, WHOLE};
pub use self::record::{WHOLE as END_BYTES, ends_with_end, is_begin};
use super::http1::head;
use super::{Invalid, Parsed, Parser, Step, StreamPart};
use crate::exchange::{BodyLen, Trailer};
use crate::stream::Edge;

/// Requests on one connection at a time. Servers in use have one; a bound on memory with [`FastCgi::held_bytes`].
const MAX_STREAMS: usize = 256;

/// What the first bytes of a direction can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    Undecided,
    /// The direction in which requests go.
    Requests,
    Responses,
    Other,
}

/// Classifies the start of a direction.
pub fn opening(bytes: &[u8]) -> Opening {
    // No other protocol that is read begins with this byte.
    match bytes.first() {
        Some(1) if bytes.len() < HEADER => return Opening::Undecided,
        Some(1) => {}
        Some(_) | None => return Opening::Other,
    }
    let first = Record::first(bytes, Side::Asks).map(|record| record.kind);
    let begins = first == Some(Kind::Begin) && (bytes.len() < WHOLE || is_begin(bytes));
    if begins || first == Some(Kind::GetValues) {
        return Opening::Requests;
    }
    match Record::first(bytes, Side::Answers) {
        Some(_) => Opening::Responses,
        None => Opening::Other,
    }
}

/// The stream of the record that `bytes` begin with, as far as that is there; in the direction of requests only of one
/// that begins a request.
pub fn stream_of(bytes: &[u8], requests: bool) -> Option<u64> {
    let side = if requests { Side::Asks } else { Side::Answers };
    let record = Record::first(bytes, side).filter(|record| !requests || record.kind == Kind::Begin)?;
    Some(u64::from(record.stream))
}

/// Parser of one direction.
#[derive(Debug)]
pub struct FastCgi {
    side: Side,
    max_head_bytes: usize,
    state: State,
    /// Of a header that is not there whole, or of the content of a begin or end.
    fixed: [u8; HEADER],
    have: usize,
    streams: Vec<Stream>,
    /// Bytes of heads in all of them.
    held: usize,
}

#[derive(Debug)]
enum State {
    Header,
    Content { record: Record, left: u16 },
    Padding { left: u8 },
    Adrift { tail: Vec<u8> },
}

/// A request as far as it is known in this direction.
#[derive(Debug)]
struct Stream {
    id: u16,
    /// Pairs, or header lines, that are not there whole.
    text: Vec<u8>,
    /// How far header lines were searched for their end.
    scanned: usize,
    /// Something of them is missing.
    torn: bool,
    /// They were handed on, or given up.
    head_done: bool,
    answered: bool,
    body: u64,
    /// `body` is not all of it.
    inexact: bool,
}

impl FastCgi {
    pub fn requests(max_head_bytes: usize) -> Self {
        Self {
            side: Side::Asks,
            max_head_bytes,
            state: State::Header,
            fixed: [0; HEADER],
            have: 0,
            streams: Vec::new(),
            held: 0,
        }
    }

    pub fn responses(max_head_bytes: usize) -> Self {
        Self { side: Side::Answers, ..Self::requests(max_head_bytes) }
    }

    /// The next byte is the first of a record.
    pub fn is_between(&self) -> bool {
        matches!(self.state, State::Header) && self.have == 0
    }

    pub fn is_adrift(&self) -> bool {
        matches!(self.state, State::Adrift { .. })
    }

    /// The stream whose content is being read.
    pub fn current(&self) -> Option<u64> {
        match &self.state {
            State::Content { record, .. } => Some(u64::from(record.stream)),
            State::Header | State::Padding { .. } | State::Adrift { .. } => None,
        }
    }

    /// After [`Parsed::Torn`]: the next record is to be recognised.
    pub fn drift(&mut self) {
        self.have = 0;
        for stream in &mut self.streams {
            stream.inexact = true;
            stream.torn |= !stream.head_done;
        }
        self.state = State::Adrift { tail: Vec::new() };
    }

    /// What is read next is the first byte of a record, and nothing is open.
    pub fn reset(&mut self) {
        *self = Self { side: self.side, ..Self::requests(self.max_head_bytes) };
    }

    /// The request has ended in the other direction.
    pub fn forget(&mut self, stream: u64) {
        if let Some(at) = self.streams.iter().position(|known| u64::from(known.id) == stream) {
            let gone = self.streams.swap_remove(at);
            self.held -= gone.text.len();
        }
    }

    /// Bytes that are kept: of heads, and of what may end a request.
    pub fn held_bytes(&self) -> usize {
        let tail = match &self.state {
            State::Adrift { tail } => tail.len(),
            State::Header | State::Content { .. } | State::Padding { .. } => 0,
        };
        self.held + tail
    }

    /// The stream's entry. In the direction of answers a stream is known from its first record on.
    fn stream(&mut self, id: u16) -> Option<&mut Stream> {
        let at = match self.streams.iter().position(|stream| stream.id == id) {
            Some(at) => at,
            None if self.side == Side::Answers && self.streams.len() < MAX_STREAMS => self.begin(id),
            None => return None,
        };
        self.streams.get_mut(at)
    }

    fn begin(&mut self, id: u16) -> usize {
        self.forget(u64::from(id));
        self.streams.push(Stream {
            id,
            text: Vec::new(),
            scanned: 0,
            torn: false,
            head_done: false,
            answered: false,
            body: 0,
            inexact: false,
        });
        self.streams.len() - 1
    }

    /// A header is complete.
    fn starts(&mut self) -> Parsed<StreamPart> {
        let Some(record) = Record::parse(self.fixed, self.side) else {
            return Parsed::Invalid(Invalid::StartLine);
        };
        self.state = State::Content { record, left: record.content };
        let stream = u64::from(record.stream);
        match record.kind {
            Kind::Begin if self.streams.len() >= MAX_STREAMS => return Parsed::Invalid(Invalid::StartLine),
            Kind::Begin => {
                self.begin(record.stream);
                return Parsed::Part(StreamPart::Opened { stream });
            }
            Kind::Stdout if record.content > 0 => {
                if let Some(known) = self.stream(record.stream).filter(|known| !known.answered) {
                    known.answered = true;
                    return Parsed::Part(StreamPart::Answered { stream });
                }
            }
            Kind::Abort
            | Kind::End
            | Kind::Params
            | Kind::Stdin
            | Kind::Stdout
            | Kind::Stderr
            | Kind::Data
            | Kind::GetValues
            | Kind::GetValuesResult
            | Kind::UnknownType => {}
        }
        if record.content == 0 { self.ends(record) } else { Parsed::NeedMore }
    }

    /// All of a record's content is there.
    fn ends(&mut self, record: Record) -> Parsed<StreamPart> {
        self.state = if record.padding > 0 { State::Padding { left: record.padding } } else { State::Header };
        self.have = 0;
        let stream = u64::from(record.stream);
        match record.kind {
            Kind::Params if record.content == 0 => self.described(record.stream),
            Kind::Stdin if record.content == 0 => {
                let Some(known) = self.stream(record.stream) else { return Parsed::NeedMore };
                let body_len = known.body_len();
                self.forget(stream);
                Parsed::Part(StreamPart::RequestEnd { stream, body_len })
            }
            Kind::End => {
                let (app_status, protocol_status) = record::end_of(self.fixed);
                let trailer = Trailer::FastCgi { app_status, protocol_status };
                let body_len = self.stream(record.stream).map_or(BodyLen::Unknown, |known| known.body_len());
                self.forget(stream);
                Parsed::Part(StreamPart::End { stream, body_len, trailer: Some(trailer) })
            }
            Kind::Begin
            | Kind::Abort
            | Kind::Params
            | Kind::Stdin
            | Kind::Stdout
            | Kind::Stderr
            | Kind::Data
            | Kind::GetValues
            | Kind::GetValuesResult
            | Kind::UnknownType => Parsed::NeedMore,
        }
    }

    /// The pairs are complete.
    fn described(&mut self, id: u16) -> Parsed<StreamPart> {
        let Some(known) = self.stream(id).filter(|known| !known.head_done) else { return Parsed::NeedMore };
        known.head_done = true;
        let text = std::mem::take(&mut known.text);
        let torn = known.torn;
        self.held -= text.len();
        let (head, well_formed) = params::read(&text);
        Parsed::Part(StreamPart::Request {
            stream: u64::from(id),
            head,
            torn,
            malformed: !torn && !well_formed,
        })
    }

    /// Some of the answer is there: its head may be.
    fn said(&mut self, id: u16) -> Parsed<StreamPart> {
        let Some(known) = self.stream(id).filter(|known| !known.head_done && !known.torn) else {
            return Parsed::NeedMore;
        };
        let is_empty = known.text.starts_with(b"\n") || known.text.starts_with(b"\r\n");
        if !is_empty && head::find_end(&known.text, &mut known.scanned).is_none() {
            return Parsed::NeedMore;
        }
        let Some((head, body_at)) = output::read(&known.text) else { return Parsed::NeedMore };
        known.head_done = true;
        let text = std::mem::take(&mut known.text);
        known.body += (text.len() - body_at) as u64;
        self.held -= text.len();
        Parsed::Part(StreamPart::Response { stream: u64::from(id), head })
    }

    /// Takes content in.
    fn content(&mut self, record: Record, bytes: &[u8]) {
        match record.kind {
            Kind::Params => self.gather(record.stream, bytes),
            Kind::Stdout => match self.stream(record.stream) {
                Some(known) if known.head_done => known.body += bytes.len() as u64,
                Some(_) => self.gather(record.stream, bytes),
                None => {}
            },
            Kind::Stdin => {
                if let Some(known) = self.stream(record.stream) {
                    known.body += bytes.len() as u64;
                }
            }
            Kind::Begin | Kind::End => {
                for byte in bytes {
                    if let Some(place) = self.fixed.get_mut(self.have) {
                        *place = *byte;
                        self.have += 1;
                    }
                }
            }
            Kind::Abort
            | Kind::Stderr
            | Kind::Data
            | Kind::GetValues
            | Kind::GetValuesResult
            | Kind::UnknownType => {}
        }
    }

    /// Bytes of a head. Beyond the bound, which holds for all streams together, they are missing.
    fn gather(&mut self, id: u16, bytes: &[u8]) {
        let room = self.max_head_bytes.saturating_sub(self.held);
        let Some(known) = self.stream(id).filter(|known| !known.head_done) else { return };
        if bytes.len() > room {
            known.torn = true;
        }
        if known.torn {
            known.inexact |= known.answered;
            return;
        }
        known.text.extend_from_slice(bytes);
        self.held += bytes.len();
    }

    /// Content that is not there.
    fn content_missing(&mut self, record: Record, len: u64) {
        let Some(known) = self.stream(record.stream) else { return };
        match record.kind {
            Kind::Params => known.torn |= !known.head_done,
            Kind::Stdin => known.body = known.body.saturating_add(len),
            Kind::Stdout if known.head_done => known.body = known.body.saturating_add(len),
            Kind::Stdout => {
                known.torn = true;
                known.inexact = true;
            }
            Kind::Begin
            | Kind::Abort
            | Kind::End
            | Kind::Stderr
            | Kind::Data
            | Kind::GetValues
            | Kind::GetValuesResult
            | Kind::UnknownType => {}
        }
    }

    /// Adrift: whether a request's end is at the end of the operation.
    fn drifted(&mut self, tail: &[u8]) -> Parsed<StreamPart> {
        let (ended, part): (Option<u16>, fn(u64) -> StreamPart) = match self.side {
            Side::Asks => (record::ends_with_stdin(tail), |stream| StreamPart::RequestEnd {
                stream,
                body_len: BodyLen::Unknown,
            }),
            Side::Answers => (ends_with_end(tail), |stream| StreamPart::End {
                stream,
                body_len: BodyLen::Unknown,
                trailer: None,
            }),
        };
        let Some(id) = ended.filter(|id| self.streams.iter().any(|known| known.id == *id)) else {
            return Parsed::NeedMore;
        };
        let mut part = part(u64::from(id));
        if let (StreamPart::End { trailer, .. }, Some(content)) = (&mut part, tail.last_chunk()) {
            let (app_status, protocol_status) = record::end_of(*content);
            *trailer = Some(Trailer::FastCgi { app_status, protocol_status });
        }
        self.state = State::Header;
        self.have = 0;
        self.forget(u64::from(id));
        Parsed::Part(part)
    }

    fn adrift_bytes(&mut self, input: &[u8], edge: Edge) -> Parsed<StreamPart> {
        let State::Adrift { tail } = &mut self.state else { return Parsed::NeedMore };
        let mut tail = std::mem::take(tail);
        tail.extend_from_slice(&input[input.len().saturating_sub(WHOLE)..]);
        tail.drain(..tail.len().saturating_sub(WHOLE));
        if edge.ends_op {
            let parsed = self.drifted(&tail);
            if let Parsed::Part(_) = parsed {
                return parsed;
            }
        }
        self.state = State::Adrift { tail };
        Parsed::NeedMore
    }
}

impl Stream {
    fn body_len(&self) -> BodyLen {
        if self.inexact || self.torn && self.answered { BodyLen::Unknown } else { BodyLen::Exact(self.body) }
    }
}

impl Parser for FastCgi {
    type Part = StreamPart;

    fn bytes(&mut self, input: &[u8], edge: Edge) -> Step<StreamPart> {
        let mut at = 0;
        loop {
            let rest = &input[at..];
            let parsed = match &mut self.state {
                State::Adrift { .. } => {
                    at = input.len();
                    self.adrift_bytes(rest, edge)
                }
                State::Header => {
                    let taken = rest.len().min(HEADER - self.have);
                    self.fixed[self.have..self.have + taken].copy_from_slice(&rest[..taken]);
                    self.have += taken;
                    at += taken;
                    if self.have < HEADER {
                        Parsed::NeedMore
                    } else {
                        self.have = 0;
                        self.starts()
                    }
                }
                State::Content { record, left } => {
                    let taken = rest.len().min(usize::from(*left));
                    *left -= taken as u16;
                    at += taken;
                    let (record, whole) = (*record, *left == 0);
                    self.content(record, &rest[..taken]);
                    let ended = if whole { self.ends(record) } else { Parsed::NeedMore };
                    // What ends with this record's content is no head.
                    if record.kind == Kind::Stdout { self.said(record.stream) } else { ended }
                }
                State::Padding { left } => {
                    let taken = rest.len().min(usize::from(*left));
                    *left -= taken as u8;
                    at += taken;
                    if *left == 0 {
                        self.state = State::Header;
                    }
                    Parsed::NeedMore
                }
            };
            let done = at == input.len();
            // The next record is another step: where it begins is to be noted.
            if parsed != Parsed::NeedMore || done || self.is_between() {
                return Step { consumed: at as u64, parsed };
            }
        }
    }

    fn hole(&mut self, len: u64, _edge: Edge) -> Step<StreamPart> {
        match &mut self.state {
            State::Adrift { tail } => {
                tail.clear();
                Step { consumed: len, parsed: Parsed::NeedMore }
            }
            State::Padding { left } => {
                let passed = len.min(u64::from(*left));
                *left -= passed as u8;
                if *left == 0 {
                    self.state = State::Header;
                }
                Step { consumed: passed, parsed: Parsed::NeedMore }
            }
            State::Content { record, left } if !matches!(record.kind, Kind::Begin | Kind::End) => {
                let passed = len.min(u64::from(*left));
                *left -= passed as u16;
                let (record, whole) = (*record, *left == 0);
                self.content_missing(record, passed);
                let parsed = if whole { self.ends(record) } else { Parsed::NeedMore };
                Step { consumed: passed, parsed }
            }
            State::Header | State::Content { .. } => Step { consumed: 0, parsed: Parsed::Torn },
        }
    }
}

#[cfg(test)]
mod tests;
