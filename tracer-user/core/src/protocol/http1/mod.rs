//! HTTP/1.x messages of one direction (RFC 9112): where each head and each message starts and ends.
//!
//! A body is passed over, never kept. Whose response is whose, and whether a connection still is HTTP/1 after one,
//! is the connection's business.
//!
//! ```text
//!          first byte        empty line, body            last byte
//! Start ---------------> Head ---------------> Body ----------------> Start
//!                         |  empty line, no body ^ |
//!                         +--------> Start       | +--hole over chunk framing: Torn--> Adrift (if told so)
//!                         +--hole, or too long: Torn--> Adrift (if told so)
//! ```
//!
//! **Adrift**: the message goes on, but bytes that would tell its end were left out. Whole operations are passed over
//! and each operation's end may be the message's: for a chunked body only if the operation's last bytes look like the
//! end of one ([`chunked`]), else any. Body bytes can look like that by accident, so such an end is only a *candidate*
//! ([`Http1::candidate`]); what follows on the connection confirms or refutes it. More bytes of the body refute it
//! by themselves.

mod chunked;
pub(crate) mod head;

use std::mem;

use self::chunked::{Chunked, Outcome};
use self::head::{ContentLength, Facts, Read, Transfer};
use super::grpc::{self, BodyEnd};
use super::{Invalid, Parsed, Parser, Step};
use crate::exchange::{BodyLen, RequestHead, ResponseHead};
use crate::stream::Edge;

/// Bytes before the end of an operation that are kept while adrift: as many as the kernel half captures of the end
/// of every operation, and a last chunk written in small operations.
pub const TAIL_BYTES: usize = 512;

/// What a message consists of.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    Request(Request),
    Response(Response),
    /// The message's last byte. A message that ends with its head has `ended` set there, and no such part.
    End(BodyLen),
}

#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    pub head: Box<RequestHead>,
    pub answering: Answering,
    pub expects_continue: bool,
    /// Has an `Upgrade` field: a response may switch protocols.
    pub upgrade: bool,
    /// To HTTP/2 in clear (RFC 7540 section 3.2).
    pub h2c: bool,
    /// Framing that a server must reject (RFC 9112 section 6.3, items 4 and 5): lasts until the close.
    pub malformed: bool,
    pub ended: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    pub head: ResponseHead,
    /// A final response follows.
    pub interim: bool,
    /// What follows this head is no longer HTTP/1.
    pub switches: bool,
    /// It is HTTP/2.
    pub h2c: bool,
    /// As in a request.
    pub malformed: bool,
    pub ended: bool,
    /// How a grpc-web call ended that was answered without a body.
    pub grpc_status: Option<u32>,
}

/// What a response must know of its request to be framed (RFC 9112 section 6.3, items 1 and 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answering {
    Head,
    Connect,
    #[default]
    Other,
}

/// How a stream's end leaves a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// Nothing was begun.
    Idle,
    /// The end completes the message.
    Complete(BodyLen),
    /// The message is incomplete.
    Cut,
}

/// Parser of one direction.
#[derive(Debug)]
pub struct Http1 {
    kind: Kind,
    max_head_bytes: usize,
    state: State,
    /// A head whose end is not there yet. Empty in all other states.
    head: Vec<u8>,
    /// How far `head` was searched for its end.
    scanned: usize,
    /// The body is a grpc-web call's, or that of the last message was.
    grpc: Option<Box<grpc::Body>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Request,
    Response(Answering),
}

#[derive(Debug)]
enum State {
    Start,
    Head,
    Length { left: u64, total: u64 },
    Chunked(Chunked),
    UntilClose { len: u64 },
    Adrift(Adrift),
}

#[derive(Debug)]
struct Adrift {
    chunked: bool,
    candidate: bool,
    /// The last bytes, without a hole among them.
    tail: Vec<u8>,
    /// The first byte of `tail` may be the first of a line.
    from_line_start: bool,
}

enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
    Malformed,
    Switch,
}

impl Http1 {
    pub fn request(max_head_bytes: usize) -> Self {
        Self {
            kind: Kind::Request,
            max_head_bytes,
            state: State::Start,
            head: Vec::new(),
            scanned: 0,
            grpc: None,
        }
    }

    pub fn response(max_head_bytes: usize) -> Self {
        Self { kind: Kind::Response(Answering::Other), ..Self::request(max_head_bytes) }
    }

    /// The next head to be read is the response to such a request. No effect on a request parser.
    pub fn set_answering(&mut self, answering: Answering) {
        if let Kind::Response(old) = &mut self.kind {
            *old = answering;
        }
    }

    /// Between messages.
    pub fn is_at_start(&self) -> bool {
        matches!(self.state, State::Start)
    }

    /// Inside a head.
    pub fn is_in_head(&self) -> bool {
        matches!(self.state, State::Head)
    }

    /// Behind a head, at the first byte of a body, none of which was seen.
    pub fn is_before_body(&self) -> bool {
        match &self.state {
            State::Length { left, total } => left == total,
            State::Chunked(chunked) => *chunked == Chunked::new(),
            State::Start | State::Head | State::UntilClose { .. } | State::Adrift(_) => false,
        }
    }

    pub fn is_adrift(&self) -> bool {
        matches!(self.state, State::Adrift(_))
    }

    /// Adrift, and the message may have ended with the last byte that was consumed.
    pub fn candidate(&self) -> bool {
        matches!(&self.state, State::Adrift(adrift) if adrift.candidate)
    }

    /// What the body said of the message in progress, or of the last one, if that is a grpc-web call's and nothing of it
    /// was missed that would tell.
    pub fn grpc_end(&self) -> BodyEnd {
        self.grpc.as_ref().map_or_else(BodyEnd::default, |body| body.end())
    }

    /// How many bytes are kept of a head that is not complete, or of a body's end.
    pub fn held_bytes(&self) -> usize {
        let tail = match &self.state {
            State::Adrift(adrift) => adrift.tail.len(),
            State::Start
            | State::Head
            | State::Length { .. }
            | State::Chunked(_)
            | State::UntilClose { .. } => 0,
        };
        self.head.len() + tail
    }

    /// Forgets the message in progress: what follows is the start of another.
    pub fn reset(&mut self) {
        self.state = State::Start;
        self.head.clear();
        self.scanned = 0;
        self.grpc = None;
    }

    /// After [`Parsed::Torn`] in a body: the message goes on, its end to be recognised.
    pub fn drift(&mut self) {
        let chunked = matches!(self.state, State::Chunked(_));
        self.state = State::Adrift(Adrift::new(chunked));
        self.grpc = None;
    }

    /// After [`Parsed::Torn`] or [`Invalid::HeadTooLong`] in a head: takes what there is of it, if that is a complete
    /// start-line at least, and goes on adrift.
    pub fn take_partial_head(&mut self) -> Option<Part> {
        let mut bytes = mem::take(&mut self.head);
        self.scanned = 0;
        self.grpc = None;
        if !matches!(self.state, State::Head) {
            return None;
        }
        // A cut line is no field.
        bytes.truncate(memchr::memrchr(b'\n', &bytes).map_or(0, |end| end + 1));
        let (mut part, framing, ..) = self.parse_head(&bytes)?;
        match &mut part {
            Part::Request(request) => request.ended = false,
            Part::Response(response) => response.ended = false,
            Part::End(_) => {}
        }
        self.state = State::Adrift(Adrift::new(matches!(framing, Framing::Chunked)));
        Some(part)
    }

    /// The stream ended. `orderly`: not by a reset, and nothing is missing at its end.
    pub fn finish(&self, orderly: bool) -> Finish {
        match &self.state {
            State::Start => Finish::Idle,
            State::UntilClose { len } if orderly => Finish::Complete(BodyLen::Exact(*len)),
            State::Adrift(adrift) if adrift.candidate && (orderly || adrift.chunked) => {
                Finish::Complete(BodyLen::Unknown)
            }
            State::Head
            | State::Length { .. }
            | State::Chunked(_)
            | State::UntilClose { .. }
            | State::Adrift(_) => Finish::Cut,
        }
    }

    fn head_bytes(&mut self, input: &[u8]) -> Step<Part> {
        let before = self.head.len();
        if before == 0 {
            // A head in one piece is read once, where it lies.
            if let Some((part, framing, form, Some(end))) = self.parse_head(input)
                && end <= self.max_head_bytes
            {
                return self.begin_body(part, framing, form, end as u64);
            }
            match head::find_end(input, &mut self.scanned) {
                Some(end) if end <= self.max_head_bytes => return self.head_done(&input[..end], end),
                Some(_) => return self.head_too_long(before),
                None => {}
            }
        }
        self.head.extend_from_slice(input);
        let end = if before > 0 { head::find_end(&self.head, &mut self.scanned) } else { None };
        if end.unwrap_or(self.head.len()) > self.max_head_bytes {
            return self.head_too_long(before);
        }
        if let Some(end) = end {
            let head = mem::take(&mut self.head);
            let step = self.head_done(&head[..end], end - before);
            // Keep the room for the next head.
            self.head = head;
            self.head.clear();
            return step;
        }
        if self.is_hopeless() {
            self.reset();
            return Step { consumed: input.len() as u64, parsed: Parsed::Invalid(Invalid::StartLine) };
        }
        Step { consumed: input.len() as u64, parsed: Parsed::NeedMore }
    }

    /// `before`: how many of the bytes that are there were consumed before.
    fn head_too_long(&mut self, before: usize) -> Step<Part> {
        self.head.truncate(before);
        Step { consumed: 0, parsed: Parsed::Invalid(Invalid::HeadTooLong) }
    }

    /// The unfinished head cannot become one.
    fn is_hopeless(&self) -> bool {
        match memchr::memchr(b'\n', &self.head) {
            Some(end) => match self.kind {
                Kind::Request => head::parse_request_line(&self.head[..end]).is_none(),
                Kind::Response(_) => head::parse_status_line(&self.head[..end]).is_none(),
            },
            None => match self.kind {
                Kind::Request => {
                    let token = self.head.iter().take_while(|&&byte| head::is_token_byte(byte)).count();
                    token > head::MAX_METHOD_BYTES || self.head.get(token).is_some_and(|&byte| byte != b' ')
                }
                Kind::Response(_) => self.head.iter().zip(b"HTTP/1.").any(|(byte, want)| byte != want),
            },
        }
    }

    fn head_done(&mut self, head: &[u8], consumed: usize) -> Step<Part> {
        self.scanned = 0;
        let consumed = consumed as u64;
        let Some((part, framing, form, _)) = self.parse_head(head) else {
            self.reset();
            return Step { consumed, parsed: Parsed::Invalid(Invalid::StartLine) };
        };
        self.begin_body(part, framing, form, consumed)
    }

    fn begin_body(
        &mut self,
        part: Part,
        framing: Framing,
        form: Option<grpc::Form>,
        consumed: u64,
    ) -> Step<Part> {
        self.grpc = form.map(|form| Box::new(grpc::Body::new(form)));
        self.state = match framing {
            Framing::None | Framing::Length(0) | Framing::Switch => State::Start,
            Framing::Length(len) => State::Length { left: len, total: len },
            Framing::Chunked => State::Chunked(Chunked::new()),
            Framing::UntilClose | Framing::Malformed => State::UntilClose { len: 0 },
        };
        Step { consumed, parsed: Parsed::Part(part) }
    }

    /// Reads the head that `bytes` begin with. `None` when they do not begin with its start-line; the place behind it
    /// is `None` when it does not end in them.
    fn parse_head(&self, bytes: &[u8]) -> Option<(Part, Framing, Option<grpc::Form>, Option<usize>)> {
        match self.kind {
            Kind::Request => {
                let Read { head, facts, end } = head::parse_request(bytes)?;
                let answering = match head.method.as_deref() {
                    Some("HEAD") => Answering::Head,
                    Some("CONNECT") => Answering::Connect,
                    Some(_) | None => Answering::Other,
                };
                let framing = request_framing(answering, &facts);
                let request = Request {
                    answering,
                    head,
                    expects_continue: facts.expects_continue,
                    upgrade: facts.upgrade,
                    h2c: facts.h2c,
                    malformed: matches!(framing, Framing::Malformed),
                    ended: framing.ends_with_head(),
                };
                Some((Part::Request(request), framing, facts.grpc, end))
            }
            Kind::Response(answering) => {
                let Read { head, facts, end } = head::parse_response(bytes)?;
                let status = head.status.unwrap_or_default();
                let framing = response_framing(answering, status, &facts);
                let response = Response {
                    interim: head::is_interim(status),
                    head,
                    switches: matches!(framing, Framing::Switch),
                    h2c: status == 101 && facts.h2c,
                    malformed: matches!(facts.content_length, ContentLength::Invalid)
                        && matches!(framing, Framing::UntilClose),
                    ended: framing.ends_with_head(),
                    grpc_status: facts.grpc_status,
                };
                Some((Part::Response(response), framing, facts.grpc, end))
            }
        }
    }
}

impl Parser for Http1 {
    type Part = Part;

    fn bytes(&mut self, input: &[u8], edge: Edge) -> Step<Part> {
        let all = input.len() as u64;
        match &mut self.state {
            State::Start => {
                // RFC 9112 section 2.2: empty lines before a start-line are to be ignored.
                let blank = input.iter().take_while(|&&byte| matches!(byte, b'\r' | b'\n')).count();
                if blank > 0 {
                    return Step { consumed: blank as u64, parsed: Parsed::NeedMore };
                }
                self.state = State::Head;
                self.head_bytes(input)
            }
            State::Head => self.head_bytes(input),
            State::Length { left, total } => {
                let (step, done) = pass(left, *total, all);
                if let Some(body) = &mut self.grpc {
                    body.bytes(&input[..step.consumed as usize]);
                }
                if done {
                    self.state = State::Start;
                }
                step
            }
            State::Chunked(chunked) => {
                let (consumed, outcome) = chunked.bytes(input, self.grpc.as_deref_mut());
                let len = chunked.data_len();
                let parsed = match outcome {
                    Outcome::More => Parsed::NeedMore,
                    Outcome::End => {
                        self.state = State::Start;
                        Parsed::Part(Part::End(BodyLen::Exact(len)))
                    }
                    Outcome::Broken => {
                        self.state = State::UntilClose { len };
                        Parsed::Invalid(Invalid::Body)
                    }
                };
                Step { consumed: consumed as u64, parsed }
            }
            State::UntilClose { len } => {
                *len = len.saturating_add(all);
                if let Some(body) = &mut self.grpc {
                    body.bytes(input);
                }
                Step { consumed: all, parsed: Parsed::NeedMore }
            }
            State::Adrift(adrift) => {
                adrift.bytes(input, edge);
                Step { consumed: all, parsed: Parsed::NeedMore }
            }
        }
    }

    fn hole(&mut self, hole: u64, edge: Edge) -> Step<Part> {
        match &mut self.state {
            State::Start | State::Head => Step { consumed: 0, parsed: Parsed::Torn },
            State::Length { left, total } => {
                let (step, done) = pass(left, *total, hole);
                if let Some(body) = &mut self.grpc {
                    body.hole(step.consumed);
                }
                if done {
                    self.state = State::Start;
                }
                step
            }
            State::Chunked(chunked) => match chunked.hole(hole, self.grpc.as_deref_mut()) {
                (consumed, Outcome::More) => Step { consumed, parsed: Parsed::NeedMore },
                // What is known of the hole is passed first; the rest comes again and is torn.
                (consumed @ 1.., _) => Step { consumed, parsed: Parsed::NeedMore },
                (0, _) => Step { consumed: 0, parsed: Parsed::Torn },
            },
            State::UntilClose { len } => {
                *len = len.saturating_add(hole);
                if let Some(body) = &mut self.grpc {
                    body.hole(hole);
                }
                Step { consumed: hole, parsed: Parsed::NeedMore }
            }
            State::Adrift(adrift) => {
                adrift.hole(edge);
                Step { consumed: hole, parsed: Parsed::NeedMore }
            }
        }
    }
}

/// Passes over up to `len` bytes of a body of known length.
fn pass(left: &mut u64, total: u64, len: u64) -> (Step<Part>, bool) {
    let consumed = len.min(*left);
    *left -= consumed;
    match *left {
        0 => (Step { consumed, parsed: Parsed::Part(Part::End(BodyLen::Exact(total))) }, true),
        _ => (Step { consumed, parsed: Parsed::NeedMore }, false),
    }
}

impl Framing {
    const fn ends_with_head(&self) -> bool {
        matches!(self, Self::None | Self::Length(0) | Self::Switch)
    }
}

/// RFC 9112 section 6.3 for requests. A transfer coding overrides a length (item 3).
fn request_framing(answering: Answering, facts: &Facts) -> Framing {
    // RFC 9110 section 9.3.6: a client must not send content; what follows is the tunnel's.
    if answering == Answering::Connect {
        return Framing::None;
    }
    match (facts.transfer, facts.content_length) {
        (Transfer::Chunked, _) => Framing::Chunked,
        (Transfer::Other, _) | (Transfer::Absent, ContentLength::Invalid) => Framing::Malformed,
        (Transfer::Absent, ContentLength::Valid(len)) => Framing::Length(len),
        (Transfer::Absent, ContentLength::Absent) => Framing::None,
    }
}

/// RFC 9112 section 6.3 for responses.
fn response_framing(answering: Answering, status: u16, facts: &Facts) -> Framing {
    match (answering, status) {
        (_, 101) | (Answering::Connect, 200..=299) => return Framing::Switch,
        (Answering::Head, _) | (_, 100..=199 | 204 | 304) => return Framing::None,
        (Answering::Connect | Answering::Other, _) => {}
    }
    match (facts.transfer, facts.content_length) {
        (Transfer::Chunked, _) => Framing::Chunked,
        (Transfer::Absent, ContentLength::Valid(len)) => Framing::Length(len),
        (Transfer::Other, _) | (Transfer::Absent, ContentLength::Invalid | ContentLength::Absent) => {
            Framing::UntilClose
        }
    }
}

impl Adrift {
    const fn new(chunked: bool) -> Self {
        Self { chunked, candidate: false, tail: Vec::new(), from_line_start: false }
    }

    fn bytes(&mut self, input: &[u8], edge: Edge) {
        self.candidate = edge.ends_op;
        if !self.chunked {
            return;
        }
        if self.tail.is_empty() {
            // Writers put the last chunk in an operation of its own.
            self.from_line_start = edge.starts_op;
        }
        if input.len() >= TAIL_BYTES {
            self.tail.clear();
            self.from_line_start = false;
        }
        self.tail.extend_from_slice(&input[input.len().saturating_sub(TAIL_BYTES)..]);
        if let Some(excess @ 1..) = self.tail.len().checked_sub(TAIL_BYTES) {
            self.tail.drain(..excess);
            self.from_line_start = false;
        }
        self.candidate = edge.ends_op && chunked::looks_ended(&self.tail, self.from_line_start);
    }

    fn hole(&mut self, edge: Edge) {
        self.tail.clear();
        self.from_line_start = false;
        self.candidate = edge.ends_op && !self.chunked;
    }
}
