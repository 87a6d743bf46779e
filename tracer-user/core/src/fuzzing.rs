//! What fuzzers call: each function takes any bytes and panics if an invariant does not hold.
//!
//! The targets in `tests/fuzz` are these functions and nothing else. The test below runs the same ones over the
//! committed corpus, so that what a fuzzer once found stays found.

mod http2;
mod tls;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use bytes::Bytes;
use tracer_abi::conn::{Direction, Endpoint, Family, Role, SocketCookie};
use tracer_abi::error::PayloadState;
use tracer_abi::sniff::Class;
use tracer_abi::task::{ProcessKey, Tid};
use tracer_abi::time::KernelInstant;

pub use self::http2::http2;
pub use self::tls::{hello, tls};
use crate::connection::{Connection, ConnectionLimits};
use crate::context::{Fields, Format, Propagators, RemoteContext, RequestContext, RequestIdKey};
use crate::decode;
use crate::event::{ConnClosed, ConnOpened, DataMoved, IoOutcome, Origin, Thread, Waited};
use crate::exchange::ExchangeUpdate;
use crate::protocol::fastcgi::FastCgi;
use crate::protocol::http1::{Answering, Http1, Part};
use crate::protocol::{Invalid, Parsed, Parser};
use crate::recording::Reader;
use crate::stream::Edge;

/// One kernel record.
pub fn decode(data: &[u8]) {
    let _ = decode::decode(data);
}

/// A whole recording.
pub fn recording(data: &[u8]) {
    let Ok(reader) = Reader::new(data) else { return };
    // Every frame has at least one byte.
    assert!(reader.count() <= data.len());
}

/// Header fields, a line each.
pub fn headers(data: &[u8]) {
    let fields = data.split(|&byte| byte == b'\n').filter_map(|line| {
        let colon = line.iter().position(|&byte| byte == b':')?;
        Some((&line[..colon], &line[colon + 1..]))
    });
    let mut taken = Fields::default();
    for (name, value) in fields {
        taken.take(name, value);
    }
    let Some(carried) = taken.read() else { return };
    for propagators in &*PROPAGATORS {
        if let Some(context) = carried.clone().choose(propagators, &RequestIdKey::new([1; 32])) {
            believed(&context);
        }
    }
}

/// Any order, and all that can be kept. Made once: what baggage is kept is never freed.
static PROPAGATORS: LazyLock<[Propagators; 3]> = LazyLock::new(|| {
    let backwards: Vec<&str> = Format::ALL.iter().rev().map(|format| format.as_str()).collect();
    let list = |list: &str| Propagators::parse(list).unwrap_or_default();
    let keys = Propagators::default().with_baggage_keys("tenant,user_id").unwrap_or_default();
    [keys, list(&backwards.join(",")), list("none")]
});

fn believed(context: &RequestContext) {
    assert!(context.claims().len() + context.refused().len() <= Format::ALL.len());
    assert!(context.conflicts().count() <= context.claims().len());
    assert!(context.remote().is_none() || context.shares_trace(context));
    let Some(remote) = context.remote() else { return };
    let Some(span_id) = remote.span_id else { return };
    // What was believed is believed again as W3C would write it.
    let flags = u8::from(context.sampling().is_recorded());
    let parent = format!("00-{}-{span_id}-{flags:02x}", remote.trace_id);
    let mut again = Fields::default();
    again.take(b"traceparent", parent.as_bytes());
    if let Some(state) = &remote.trace_state {
        again.take(b"tracestate", state.as_bytes());
    }
    let again =
        again.read().and_then(|carried| carried.choose(&Propagators::default(), &RequestIdKey::new([1; 32])));
    let Some(again) = again else { panic!("{parent} is not believed") };
    assert_eq!(again.remote(), Some(&RemoteContext { format: Format::TraceContext, ..remote.clone() }));
    assert_eq!(again.sampling().is_recorded(), context.sampling().is_recorded());
}

/// A list of propagators.
pub fn propagators(data: &[u8]) {
    let list = String::from_utf8_lossy(data);
    let (known, errors) = Propagators::parse_known(&list);
    match Propagators::parse(&list) {
        Ok(parsed) => assert!(errors.is_empty() && parsed == known),
        Err(error) => assert_eq!(errors.first(), Some(&error)),
    }
}

/// One direction. The first byte chooses what it is, the second how it is cut.
pub fn http1(data: &[u8]) {
    let [kind, cut, bytes @ ..] = data else { return };
    let parser = || {
        let mut parser = if kind & 1 == 0 { Http1::request(1024) } else { Http1::response(1024) };
        parser.set_answering(match kind >> 1 & 3 {
            0 => Answering::Head,
            1 => Answering::Connect,
            _ => Answering::Other,
        });
        parser
    };
    let piece = usize::from(*cut).max(1);
    assert_eq!(
        parts(parser(), bytes, bytes.len().max(1)),
        parts(parser(), bytes, piece),
        "pieces of {piece}"
    );
    pass_holes(parser(), bytes, piece);
}

/// Each part, and where it ends.
fn parts(mut parser: Http1, bytes: &[u8], piece: usize) -> Vec<(usize, String)> {
    let (mut parts, mut at) = (Vec::new(), 0);
    for piece in bytes.chunks(piece) {
        let mut rest = piece;
        while !rest.is_empty() {
            let step = parser.bytes(rest, Edge::default());
            assert!(step.consumed > 0 || step.parsed == Parsed::Invalid(Invalid::HeadTooLong));
            at += step.consumed as usize;
            rest = &rest[step.consumed as usize..];
            match step.parsed {
                Parsed::NeedMore => {}
                Parsed::Part(part) => parts.push((at, format!("{part:?}"))),
                Parsed::Invalid(Invalid::Body) => parts.push((at, "malformed".to_owned())),
                Parsed::Invalid(Invalid::StartLine | Invalid::HeadTooLong) => {
                    // Which of them is noticed, and how early, may differ.
                    parts.push((0, "not a head".to_owned()));
                    return parts;
                }
                Parsed::Torn => unreachable!("there is no hole"),
            }
        }
    }
    parts
}

/// Every second piece is missing.
fn pass_holes(mut parser: Http1, bytes: &[u8], piece: usize) {
    for (n, piece) in bytes.chunks(piece).enumerate() {
        let (mut at, mut edge) = (0, Edge { starts_op: true, ends_op: true });
        while at < piece.len() {
            let step = match n % 2 {
                0 => parser.bytes(&piece[at..], edge),
                _ => parser.hole((piece.len() - at) as u64, edge),
            };
            at += step.consumed as usize;
            edge.starts_op = false;
            match step.parsed {
                Parsed::Torn | Parsed::Invalid(Invalid::HeadTooLong) => {
                    assert_eq!(step.consumed, 0);
                    match parser.is_in_head() {
                        true if matches!(
                            parser.take_partial_head(),
                            Some(Part::Request(_) | Part::Response(_))
                        ) => {}
                        true => parser.reset(),
                        false if parser.is_at_start() => break,
                        false => parser.drift(),
                    }
                }
                Parsed::Invalid(Invalid::StartLine) => return,
                Parsed::NeedMore | Parsed::Part(_) | Parsed::Invalid(Invalid::Body) => {
                    assert!(step.consumed > 0);
                }
            }
        }
    }
}

/// One direction. The first byte chooses which, the second how it is cut.
pub fn fastcgi(data: &[u8]) {
    const MAX_HEAD_BYTES: usize = 256;
    let [side, cut, bytes @ ..] = data else { return };
    let parser = || match side & 1 {
        0 => FastCgi::requests(MAX_HEAD_BYTES),
        _ => FastCgi::responses(MAX_HEAD_BYTES),
    };
    let piece = usize::from(*cut).max(1);
    assert_eq!(stream_parts(parser(), bytes, bytes.len().max(1)), stream_parts(parser(), bytes, piece));
    let mut parser = parser();
    for (n, piece) in bytes.chunks(piece).enumerate() {
        let (mut at, mut edge) = (0, Edge { starts_op: true, ends_op: true });
        while at < piece.len() {
            let step = match n % 3 {
                2 => parser.hole((piece.len() - at) as u64, edge),
                _ => parser.bytes(&piece[at..], edge),
            };
            at += step.consumed as usize;
            edge.starts_op = false;
            match step.parsed {
                Parsed::Torn => parser.drift(),
                Parsed::Invalid(_) => return,
                Parsed::NeedMore | Parsed::Part(_) => assert!(step.consumed > 0),
            }
            assert!(parser.held_bytes() <= MAX_HEAD_BYTES + 32);
        }
    }
}

/// What is told, in order. What a bound cuts depends on nothing but the bytes.
fn stream_parts(mut parser: FastCgi, bytes: &[u8], piece: usize) -> Vec<String> {
    let mut parts = Vec::new();
    for mut rest in bytes.chunks(piece) {
        while !rest.is_empty() {
            let step = parser.bytes(rest, Edge::default());
            assert!(step.consumed > 0);
            rest = &rest[step.consumed as usize..];
            match step.parsed {
                Parsed::NeedMore => {}
                Parsed::Part(part) => parts.push(format!("{part:?}")),
                Parsed::Torn | Parsed::Invalid(_) => {
                    parts.push("invalid".to_owned());
                    return parts;
                }
            }
        }
    }
    parts
}

/// A socket's events, as a script: each command is a byte, the bytes it needs follow.
pub fn connection(data: &[u8]) {
    let limits = ConnectionLimits { head_bytes: 2048, open_exchanges: 8, ..ConnectionLimits::default() };
    let mut socket = Script { data, clock: 0, offsets: [0; 2] };
    let mut connection = Connection::new(&limits.into());
    let mut out = Vec::new();
    if let Some(flags) = socket.byte()
        && flags & 1 == 0
    {
        connection.handle_opened(&socket.opened(flags & 2 != 0));
    }
    while let Some(command) = socket.byte() {
        let direction = if command & 8 == 0 { Direction::Ingress } else { Direction::Egress };
        match command & 7 {
            0..=3 => {
                let event = socket.operation(direction, command);
                connection.handle_data(&mut event.clone(), &mut out);
                if command & 0x80 != 0 {
                    connection.handle_data(&mut event.clone(), &mut out);
                }
            }
            4 => {
                // Lost.
                socket.operation(direction, command);
            }
            5 => {
                let outcome = if command & 16 == 0 { IoOutcome::EndOfStream } else { IoOutcome::Failed(104) };
                let event = socket.event(direction, outcome);
                connection.handle_data(&mut event.clone(), &mut out);
            }
            6 => {
                socket.clock += u64::from(command >> 4) * 500_000_000;
                connection.handle_timeout(KernelInstant::from_nanos(socket.clock), &mut out);
            }
            _ => {
                // Any position.
                let offset = u64::from(socket.byte().unwrap_or(0)) << (socket.byte().unwrap_or(0) & 63);
                let event = DataMoved { offset, ..socket.operation(direction, command) };
                connection.handle_data(&mut event.clone(), &mut out);
            }
        }
        let payload_bound = 2 * (limits.stream.held_bytes + limits.head_bytes + 8 * 1024);
        assert!(connection.held_bytes() <= payload_bound);
    }
    if socket.clock.is_multiple_of(2) {
        connection.handle_closed(&socket.closed(), &mut out);
    }
    connection.finish(KernelInstant::from_nanos(socket.clock + 1), &mut out);
    assert_eq!(connection.held_bytes(), 0);
    check_order(&out);
}

/// Every exchange begins once, goes forward, and ends once.
fn check_order(updates: &[ExchangeUpdate]) {
    #[derive(Default)]
    struct Progress {
        request_ended: bool,
        response_began: bool,
        ended: bool,
    }
    let mut exchanges: BTreeMap<u64, Progress> = BTreeMap::new();
    for update in updates {
        let index = update.id().index;
        if let ExchangeUpdate::RequestBegan { .. } = update {
            assert_eq!(index, exchanges.len() as u64, "exchanges are numbered in order");
            exchanges.insert(index, Progress::default());
            continue;
        }
        let progress = exchanges.get_mut(&index);
        assert!(progress.as_ref().is_some_and(|progress| !progress.ended), "{index} is not open");
        let Some(progress) = progress else { return };
        let again = match update {
            ExchangeUpdate::RequestBegan { .. } => false,
            ExchangeUpdate::RequestEnded { .. } => std::mem::replace(&mut progress.request_ended, true),
            ExchangeUpdate::ResponseBegan { .. } => std::mem::replace(&mut progress.response_began, true),
            ExchangeUpdate::Ended { .. } => std::mem::replace(&mut progress.ended, true),
        };
        assert!(!again, "{update:?} again");
    }
    assert!(exchanges.values().all(|progress| progress.ended), "every exchange ends");
}

struct Script<'d> {
    data: &'d [u8],
    clock: u64,
    offsets: [u64; 2],
}

const PROCESS: ProcessKey = ProcessKey { tgid: tracer_abi::task::Tgid(1), start_boottime: 1 };

impl Script<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (&byte, rest) = self.data.split_first()?;
        self.data = rest;
        Some(byte)
    }

    /// Length, what of it is elided, and the bytes that are not.
    fn operation(&mut self, direction: Direction, command: u8) -> DataMoved {
        let head = usize::from(self.byte().unwrap_or(0)).min(self.data.len());
        let (payload, rest) = self.data.split_at(head);
        let payload = Bytes::copy_from_slice(payload);
        self.data = rest;
        let elided = match command & 3 {
            0 | 1 => 0,
            2 => u32::from(self.byte().unwrap_or(0)),
            _ => u32::from(self.byte().unwrap_or(0)) << 16,
        };
        let len = (head as u32 + elided).max(1);
        let event = self.event(direction, IoOutcome::Moved(len));
        let payload_state = match command >> 4 & 3 {
            1 => PayloadState::Unreadable,
            2 => PayloadState::NoUserBuffer,
            _ => PayloadState::Copied,
        };
        let planned = if command & 0x40 == 0 { head as u32 } else { head as u32 / 2 };
        let (chunk_offset, tail_len) =
            if command & 0x40 == 0 { (0, 0) } else { (len - head as u32, planned) };
        DataMoved { head_len: planned, tail_len, chunk_offset, payload, payload_state, ..event }
    }

    fn event(&mut self, direction: Direction, outcome: IoOutcome) -> DataMoved {
        self.clock += 1;
        let offset = &mut self.offsets[usize::from(direction.code())];
        let start = *offset;
        if let IoOutcome::Moved(len) = outcome {
            *offset += u64::from(len);
        }
        DataMoved {
            time: KernelInstant::from_nanos(self.clock),
            thread: Thread { process: PROCESS, tid: Tid(1), seq: 0 },
            cpu: 0,
            cookie: SocketCookie(1),
            direction,
            offset: start,
            outcome,
            tcp_seq_end: *offset as u32,
            head_len: 0,
            tail_len: 0,
            chunk_offset: 0,
            payload: Bytes::new(),
            payload_state: PayloadState::Copied,
            last: true,
            muted: false,
            frame: false,
            class: Class::Undecided,
            blocking: None,
            waited: Waited::default(),
            in_tls_call: false,
            nvcsw: 0,
            user_r14: 0,
            syscall: 0,
        }
    }

    fn opened(&self, preexisting: bool) -> ConnOpened {
        ConnOpened {
            origin: self.origin(),
            cookie: SocketCookie(1),
            peer_cookie: None,
            family: Family::Inet,
            role: Role::Unknown,
            local: Endpoint::default(),
            remote: Endpoint::default(),
            netns: 1,
            egress_seq: 0,
            ingress_seq: 0,
            preexisting,
            over: false,
            unix_path: Bytes::new(),
        }
    }

    fn closed(&self) -> ConnClosed {
        let [ingress_bytes, egress_bytes] = self.offsets;
        ConnClosed {
            origin: self.origin(),
            cookie: SocketCookie(1),
            by_packet: self.clock % 8 >= 4,
            egress_bytes,
            ingress_bytes,
        }
    }

    fn origin(&self) -> Origin {
        let thread = Thread { process: PROCESS, tid: Tid(1), seq: 0 };
        Origin {
            time: KernelInstant::from_nanos(self.clock),
            thread: (self.clock % 4 < 2).then_some(thread),
            cpu: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test reads files")]
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
        replay("decode", decode);
        replay("recording", recording);
        replay("headers", headers);
        replay("propagators", propagators);
        replay("http1", http1);
        replay("fastcgi", fastcgi);
        replay("http2", http2);
        replay("connection", connection);
        replay("tls", tls);
        replay("hello", hello);
    }
}
