//! HTTP/2 frames of one direction (RFC 9113): where each message of each stream starts and ends, and its fields.
//!
//! A frame's content is passed over, never kept, except header blocks, which [`hpack`] reads as they come. Payloads
//! have lengths, so a hole in one does no harm beyond it: to a body none, to a header block that its fields from there
//! on, and the table that it would have changed, are not known. Only where the header of a frame is missing is the place
//! lost. Which response belongs to which request is told by the stream; to say so is the connection's business.
//!
//! ```text
//!            9 bytes          fixed fields, content, padding
//! (Preface) --> Header ---------> Payload --------------------> Header
//!                 |
//!                 +--hole: Torn; not a frame: Invalid--> Adrift (if told so) --place is certain again: [`align`]--> Header
//! ```
//!
//! One step ends no later than a frame does, so that its caller knows which byte is the first of a frame.
//!
//! Of more than 400 lines, because the states of one frame belong together.

mod align;
mod frame;
pub mod head;
pub mod hpack;

use std::collections::BTreeMap;

use self::align::Align;
pub use self::frame::HEADER_BYTES;
pub use self::frame::Side;
use self::frame::{Frame, PREFACE, Rules, Type, flag};
use self::head::{Gathered, Head};
use self::hpack::{BlockEnd, Decoder};
use super::grpc::{self, BodyEnd, Form};
use super::{Invalid, Parsed, Parser, Step};
use crate::exchange::BodyLen;
use crate::stream::Edge;

/// Bounds of one direction. What they cut is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Http2Limits {
    /// Fields of one block, counted as RFC 9113 section 6.5.2 does.
    pub list_bytes: u64,
    /// Streams whose bodies are counted at a time.
    pub streams: usize,
    /// A payload, until the other side announces that it takes longer ones.
    pub payload_bytes: u32,
}

impl Default for Http2Limits {
    fn default() -> Self {
        Self {
            // As of an HTTP/1 head; servers accept 8 to 64 KiB by their defaults.
            list_bytes: 64 * 1024,
            // Servers allow 100 to 1000 at a time; load generators and proxies set more.
            streams: 4096,
            // RFC 9113 section 6.5.2.
            payload_bytes: 16 * 1024,
        }
    }
}

/// Frames of one header block. A field needs no more than one frame, and servers in use give up after some ten: fields
/// behind this many are left out.
const MAX_BLOCK_FRAMES: u32 = 128;

macro_rules! counts {
    ($($(#[$meta:meta])* $name:ident,)+) => {
        /// What was lost or passed over. Taken by the owner.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counts { $($(#[$meta])* pub $name: u64,)+ }

        impl Counts {
            /// Name and count of every counter, in declaration order.
            pub fn entries(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)+].into_iter()
            }
        }
    };
}

counts! {
    /// Header blocks of which bytes are missing.
    blocks_torn,
    /// Header blocks that are not valid.
    blocks_broken,
    /// Header blocks with more fields than the limit.
    blocks_cut,
    /// Of them: with more frames than the limit.
    floods,
    /// Fields that refer to what was not seen.
    fields_unknown,
    /// Entries of the table that were forgotten because of a loss.
    entries_forgotten,
    /// Streams beyond the limit: how long their bodies are is not known.
    streams_untracked,
    /// Times that the place was found again.
    resyncs,
    /// Times that too many places were possible, and all were dropped.
    searches_restarted,
}

/// What a direction consists of.
#[derive(Debug, PartialEq, Eq)]
pub enum Part {
    /// A header block, and how long the body was if the stream ends with it in this direction.
    Head {
        stream: u32,
        head: Box<Head>,
        ended: Option<BodyLen>,
    },
    /// A request that the server makes in the client's place, on a stream of its own.
    Promise {
        stream: u32,
        promised: Option<u32>,
        head: Box<Head>,
    },
    /// The first frame of a stream's body begins.
    Body {
        stream: u32,
    },
    /// A frame of the body was the stream's last one in this direction.
    End {
        stream: u32,
        body_len: BodyLen,
    },
    /// The stream is given up, in both directions. The error's code (RFC 9113 section 7), unless it is missing; of a
    /// server that has answered and needs no more of the request it is 0, and nothing is wrong.
    Reset {
        stream: u32,
        error: Option<u32>,
    },
    /// No stream of the other side beyond this one was, or will be, worked on.
    GoAway {
        last_stream: Option<u32>,
        error: Option<u32>,
    },
    Settings(Settings),
}

/// What matters of the settings that a side announces to the other. Those that a frame does not name stay as they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    pub header_table_size: Option<u32>,
    pub max_frame_size: Option<u32>,
    /// RFC 8441.
    pub enable_connect_protocol: Option<bool>,
    /// Some of them are missing: none is told.
    pub torn: bool,
}

/// Parser of one direction.
#[derive(Debug)]
pub struct Http2 {
    side: Side,
    limits: Http2Limits,
    /// The longest payload that may come.
    max_payload: u32,
    /// It has promised a stream.
    pushes: bool,
    state: State,
    /// A header of a frame that is not there whole.
    header: [u8; HEADER_BYTES],
    have: usize,
    /// The header block in progress; it may go on in the next frame.
    block: Option<Block>,
    decoder: Decoder,
    gathered: Gathered,
    streams: BTreeMap<u32, Body>,
    /// Of the stream that ended last.
    grpc_end: BodyEnd,
    counts: Counts,
}

#[derive(Debug)]
enum State {
    /// How much of it was seen.
    Preface(usize),
    Header,
    Payload(Payload),
    Adrift(Box<Align>),
}

#[derive(Debug)]
struct Payload {
    frame: Frame,
    /// Fields of fixed length at its start, and one setting after the other.
    fixed: [u8; HEADER_BYTES],
    have: u32,
    need: u32,
    /// Some of them are missing.
    fixed_torn: bool,
    /// Behind them.
    content: u32,
    padding: u32,
    settings: Settings,
}

#[derive(Debug)]
struct Block {
    stream: u32,
    /// It is a promise; of this stream, unless that is missing.
    promise: Option<Option<u32>>,
    ends_stream: bool,
    frames: u32,
}

/// A stream's body so far.
#[derive(Clone, Copy, Debug)]
struct Body {
    len: u64,
    exact: bool,
    began: bool,
    /// It is a gRPC call's.
    grpc: Option<grpc::Body>,
}

impl Body {
    const fn len(self) -> BodyLen {
        if self.exact { BodyLen::Exact(self.len) } else { BodyLen::Unknown }
    }

    fn grpc_end(self) -> BodyEnd {
        self.grpc.filter(|_| self.exact).map_or_else(BodyEnd::default, grpc::Body::end)
    }
}

impl Http2 {
    /// Of a direction that is seen from its start.
    pub fn new(side: Side, limits: &Http2Limits) -> Self {
        let state = match side {
            Side::Client => State::Preface(0),
            Side::Server => State::Header,
        };
        Self::with(side, limits, state, Decoder::new(limits.list_bytes, head::matters))
    }

    /// Of one that is joined in its middle: adrift.
    pub fn joined(side: Side, limits: &Http2Limits) -> Self {
        let rules = Rules { side, max_len: limits.payload_bytes, pushes: false };
        let state = State::Adrift(Box::new(Align::new(rules)));
        Self::with(side, limits, state, Decoder::joined(limits.list_bytes, head::matters))
    }

    fn with(side: Side, limits: &Http2Limits, state: State, decoder: Decoder) -> Self {
        Self {
            side,
            limits: *limits,
            max_payload: limits.payload_bytes,
            pushes: false,
            state,
            header: [0; HEADER_BYTES],
            have: 0,
            block: None,
            decoder,
            gathered: Gathered::default(),
            streams: BTreeMap::new(),
            grpc_end: BodyEnd::default(),
            counts: Counts::default(),
        }
    }

    /// What the other direction announced to the side that sends here.
    pub fn peer_settings(&mut self, settings: &Settings) {
        if let Some(size) = settings.header_table_size {
            self.decoder.announce(size);
        }
        // A smaller one may not have been seen by the sender yet.
        self.max_payload = self.max_payload.max(settings.max_frame_size.unwrap_or(0));
    }

    /// It is the other side that sends here.
    pub fn turn(&mut self, side: Side) {
        self.side = side;
    }

    /// The stream of the frame in progress, if its header is complete.
    pub fn current(&self) -> Option<u32> {
        match &self.state {
            State::Payload(payload) => Some(payload.frame.stream),
            State::Preface(_) | State::Header | State::Adrift(_) => None,
        }
    }

    /// What the body said of the stream that ended last, if that is a gRPC call's.
    pub fn grpc_end(&self) -> BodyEnd {
        self.grpc_end
    }

    /// The stream is over in both directions.
    pub fn forget(&mut self, stream: u32) {
        self.streams.remove(&stream);
    }

    /// The next byte is the first one of a frame, or of the preface.
    pub fn is_between(&self) -> bool {
        match &self.state {
            State::Preface(at) => *at == 0,
            State::Header => self.have == 0,
            State::Payload(_) | State::Adrift(_) => false,
        }
    }

    /// A header block has begun: the next frame belongs to it.
    pub fn is_in_block(&self) -> bool {
        self.block.is_some()
    }

    pub fn is_in_preface(&self) -> bool {
        matches!(self.state, State::Preface(_))
    }

    pub fn is_adrift(&self) -> bool {
        matches!(self.state, State::Adrift(_))
    }

    /// After [`Parsed::Torn`]: frames are missing, and the place is to be found again. Nothing that was learned from
    /// earlier ones holds any more. Where no frame is ([`Invalid::StartLine`]) the parser does this by itself, except in
    /// the preface: there is no HTTP/2 then.
    pub fn drift(&mut self) {
        self.have = 0;
        self.block = None;
        self.gathered.forget();
        self.streams.clear();
        self.counts.entries_forgotten += self.decoder.doubt() as u64;
        let rules = Rules { side: self.side, max_len: self.max_payload, pushes: self.pushes };
        self.state = State::Adrift(Box::new(Align::new(rules)));
    }

    /// After [`Http2::drift`]: the next byte is certainly the first one of a frame.
    pub fn place(&mut self) {
        if self.is_adrift() {
            self.counts.resyncs += 1;
            self.state = State::Header;
        }
    }

    /// What is kept: the table, the block in progress, and how long bodies are so far.
    pub fn held_bytes(&self) -> usize {
        self.decoder.held_bytes() + self.gathered.held_bytes() + self.streams.len() * size_of::<(u32, Body)>()
    }

    /// Counts since the last call.
    pub fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    fn preface(&mut self, seen: usize, input: &[u8]) -> Step<Part> {
        let want = &PREFACE[seen..];
        let len = want.len().min(input.len());
        if input[..len] != want[..len] {
            return Step { consumed: len as u64, parsed: Parsed::Invalid(Invalid::StartLine) };
        }
        self.state = if len == want.len() { State::Header } else { State::Preface(seen + len) };
        Step { consumed: len as u64, parsed: Parsed::NeedMore }
    }

    fn frame_header(&mut self, input: &[u8]) -> Step<Part> {
        let len = (HEADER_BYTES - self.have).min(input.len());
        self.header[self.have..self.have + len].copy_from_slice(&input[..len]);
        self.have += len;
        let parsed = if self.have < HEADER_BYTES {
            Parsed::NeedMore
        } else {
            self.have = 0;
            self.begin_frame(Frame::parse(self.header))
        };
        Step { consumed: len as u64, parsed }
    }

    fn begin_frame(&mut self, frame: Frame) -> Parsed<Part> {
        let continues = self.block.as_ref().map(|block| block.stream);
        let in_turn = match continues {
            Some(stream) => frame.kind == Type::Continuation && frame.stream == stream,
            None => frame.kind != Type::Continuation,
        };
        let from_client = matches!(frame.kind, Type::Data | Type::Headers) && self.side == Side::Client;
        let by_side = match frame.kind {
            Type::PushPromise => self.side == Side::Server,
            // Only streams that the client opened are its own to write to.
            Type::Data | Type::Headers => !from_client || frame.stream % 2 == 1,
            Type::Priority
            | Type::RstStream
            | Type::Settings
            | Type::Ping
            | Type::GoAway
            | Type::WindowUpdate
            | Type::Continuation
            | Type::Other => true,
        };
        if !frame.is_valid() || !in_turn || !by_side {
            self.drift();
            return Parsed::Invalid(Invalid::StartLine);
        }
        let need = frame.fixed_len();
        self.state = State::Payload(Payload {
            frame,
            fixed: [0; HEADER_BYTES],
            have: 0,
            need,
            fixed_torn: false,
            content: frame.len - need,
            padding: 0,
            settings: Settings::default(),
        });
        match frame.kind {
            Type::Headers | Type::PushPromise => {
                self.decoder.begin_block();
                self.block = Some(Block {
                    stream: frame.stream,
                    promise: (frame.kind == Type::PushPromise).then_some(None),
                    ends_stream: frame.kind == Type::Headers && frame.has(flag::END_STREAM),
                    frames: 0,
                });
            }
            Type::Data => {
                if frame.len > 0
                    && let Some(body) = self.streams.get_mut(&frame.stream)
                    && !std::mem::replace(&mut body.began, true)
                {
                    return Parsed::Part(Part::Body { stream: frame.stream });
                }
            }
            Type::Priority
            | Type::RstStream
            | Type::Settings
            | Type::Ping
            | Type::GoAway
            | Type::WindowUpdate
            | Type::Continuation
            | Type::Other => {}
        }
        if frame.len == 0 { self.end_frame() } else { Parsed::NeedMore }
    }

    /// Takes bytes, or passes over as many that are missing, up to the end of the payload.
    fn payload(&mut self, input: Input<'_>) -> Step<Part> {
        let State::Payload(payload) = &mut self.state else {
            return Step { consumed: 0, parsed: Parsed::NeedMore };
        };
        let mut consumed = 0;
        if payload.have < payload.need {
            let len = payload.take_fixed(input);
            consumed += len;
            if payload.have == payload.need && !payload.begin_content() {
                self.drift();
                return Step { consumed, parsed: Parsed::Invalid(Invalid::StartLine) };
            }
            if let Some(block) = &mut self.block
                && payload.have == payload.need
            {
                block.promise = block.promise.map(|_| payload.promised());
                if payload.fixed_torn {
                    self.decoder.tear();
                }
            }
        }
        let input = input.from(consumed);
        let len = input.len().min(u64::from(payload.content));
        if len > 0 && payload.have == payload.need {
            payload.content -= len as u32;
            consumed += len;
            match payload.frame.kind {
                Type::Headers | Type::PushPromise | Type::Continuation => match input {
                    Input::Bytes(bytes) => {
                        let gathered = &mut self.gathered;
                        self.decoder.decode(&bytes[..len as usize], &mut |field| gathered.take(field));
                    }
                    Input::Hole(_) => self.decoder.tear(),
                },
                Type::Settings => payload.take_settings(input, len),
                Type::Data => {
                    if let Some(body) = self.streams.get_mut(&payload.frame.stream) {
                        body.len = body.len.saturating_add(len);
                        if let Some(grpc) = &mut body.grpc {
                            match input {
                                Input::Bytes(bytes) => grpc.bytes(&bytes[..len as usize]),
                                Input::Hole(_) => grpc.hole(len),
                            }
                        }
                    }
                }
                Type::Priority
                | Type::RstStream
                | Type::Ping
                | Type::GoAway
                | Type::WindowUpdate
                | Type::Other => {}
            }
        }
        let input = input.from(len);
        if payload.have == payload.need && payload.content == 0 {
            let len = input.len().min(u64::from(payload.padding));
            payload.padding -= len as u32;
            consumed += len;
            if payload.padding == 0 {
                return Step { consumed, parsed: self.end_frame() };
            }
        }
        Step { consumed, parsed: Parsed::NeedMore }
    }

    fn end_frame(&mut self) -> Parsed<Part> {
        let State::Payload(payload) = std::mem::replace(&mut self.state, State::Header) else {
            return Parsed::NeedMore;
        };
        let frame = payload.frame;
        let stream = frame.stream;
        match frame.kind {
            Type::Headers | Type::PushPromise | Type::Continuation => {
                let Some(block) = &mut self.block else { return Parsed::NeedMore };
                block.frames += 1;
                if block.frames == MAX_BLOCK_FRAMES {
                    self.decoder.cut();
                    self.counts.floods += 1;
                }
                if !frame.has(flag::END_HEADERS) {
                    return Parsed::NeedMore;
                }
                match self.block.take() {
                    Some(block) => Parsed::Part(self.end_block(&block)),
                    None => Parsed::NeedMore,
                }
            }
            Type::Data => {
                if payload.fixed_torn
                    && let Some(body) = self.streams.get_mut(&stream)
                {
                    body.exact = false;
                }
                if !frame.has(flag::END_STREAM) {
                    return Parsed::NeedMore;
                }
                let body = self.streams.remove(&stream);
                self.grpc_end = body.map_or_else(BodyEnd::default, Body::grpc_end);
                Parsed::Part(Part::End { stream, body_len: body.map_or(BodyLen::Unknown, Body::len) })
            }
            Type::RstStream => {
                self.streams.remove(&stream);
                Parsed::Part(Part::Reset { stream, error: payload.word(0) })
            }
            Type::GoAway => Parsed::Part(Part::GoAway {
                last_stream: payload.word(0).map(|word| word & 0x7fff_ffff),
                error: payload.word(4),
            }),
            Type::Settings if !frame.has(flag::ACK) => Parsed::Part(Part::Settings(payload.settings)),
            Type::Settings | Type::Priority | Type::Ping | Type::WindowUpdate | Type::Other => {
                Parsed::NeedMore
            }
        }
    }

    fn end_block(&mut self, block: &Block) -> Part {
        let stream = block.stream;
        let end = self.decoder.end_block();
        let head = self.gathered.finish(end);
        self.count_block(&end, head.unknown);
        if let Some(promised) = block.promise {
            self.pushes = true;
            return Part::Promise { stream, promised, head };
        }
        let ended = if block.ends_stream {
            // What a message begins with is all of it then. Of another block the message began out of sight.
            let exact = matches!(head.kind(), head::Kind::Request | head::Kind::Response);
            let none = Body { len: 0, exact, began: false, grpc: head.grpc().map(grpc::Body::new) };
            let body = self.streams.remove(&stream).unwrap_or(none);
            self.grpc_end = body.grpc_end();
            Some(body.len())
        } else {
            self.track(stream, head.grpc());
            None
        };
        Part::Head { stream, head, ended }
    }

    fn count_block(&mut self, end: &BlockEnd, unknown: u32) {
        self.counts.blocks_torn += u64::from(end.torn);
        self.counts.blocks_broken += u64::from(end.broken.is_some());
        self.counts.blocks_cut += u64::from(end.cut);
        self.counts.entries_forgotten += end.forgotten as u64;
        self.counts.fields_unknown += u64::from(unknown);
    }

    fn track(&mut self, stream: u32, form: Option<Form>) {
        if self.streams.len() >= self.limits.streams && !self.streams.contains_key(&stream) {
            self.counts.streams_untracked += 1;
            return;
        }
        let grpc = form.map(grpc::Body::new);
        let none = Body { len: 0, exact: true, began: false, grpc: None };
        let body = self.streams.entry(stream).or_insert(none);
        if !body.began {
            // Interim responses come before it, and say nothing of the body.
            body.grpc = body.grpc.or(grpc);
        }
    }

    fn search(&mut self, input: &[u8]) -> Step<Part> {
        let State::Adrift(align) = &mut self.state else {
            return Step { consumed: 0, parsed: Parsed::NeedMore };
        };
        let mut consumed = 0;
        let found = input.iter().find_map(|&byte| {
            consumed += 1;
            align.byte(byte)
        });
        self.counts.searches_restarted += align.take_overflows();
        if let Some(rest) = found {
            self.counts.resyncs += 1;
            self.state = match u32::try_from(rest) {
                // The rest of the last frame of the chain, whatever it is.
                Ok(rest @ 1..) => State::Payload(Payload::of_unknown(rest)),
                Ok(0) | Err(_) => State::Header,
            };
        }
        Step { consumed, parsed: Parsed::NeedMore }
    }
}

impl Parser for Http2 {
    type Part = Part;

    fn bytes(&mut self, input: &[u8], _edge: Edge) -> Step<Part> {
        match &self.state {
            State::Preface(seen) => self.preface(*seen, input),
            State::Header => self.frame_header(input),
            State::Payload(_) => self.payload(Input::Bytes(input)),
            State::Adrift(_) => self.search(input),
        }
    }

    fn hole(&mut self, len: u64, _edge: Edge) -> Step<Part> {
        match &mut self.state {
            State::Preface(_) | State::Header => Step { consumed: 0, parsed: Parsed::Torn },
            State::Payload(_) => self.payload(Input::Hole(len)),
            State::Adrift(align) => {
                align.hole(len);
                Step { consumed: len, parsed: Parsed::NeedMore }
            }
        }
    }
}

/// How many first bytes of a frame, or of a direction, tell what it is.
pub const PREFIX_BYTES: usize = 16;

/// Who sends a direction that begins with these bytes. `None`: they are not HTTP/2, or too few.
pub fn opening(bytes: &[u8]) -> Option<Side> {
    let bytes = bytes.get(..PREFIX_BYTES)?;
    if PREFACE.starts_with(bytes) {
        return Some(Side::Client);
    }
    // A server's first frame; its acknowledgement may go out before it (RFC 9113 section 3.4).
    let frame = Frame::parse(*bytes.first_chunk()?);
    (frame.kind == Type::Settings && frame.is_valid() && frame.len < 1024).then_some(Side::Server)
}

/// There are too few of them to tell.
pub fn may_open(bytes: &[u8]) -> bool {
    const SETTINGS: [u8; 2] = [0, 0];
    (1..PREFIX_BYTES).contains(&bytes.len())
        && (PREFACE.starts_with(bytes) || bytes.iter().zip(SETTINGS).all(|(a, b)| *a == b))
}

/// The stream that a server's frame with this header answers on, if it belongs to an answer.
pub fn opens_answer(bytes: &[u8]) -> Option<u32> {
    let frame = Frame::parse(*bytes.first_chunk()?);
    let answers = matches!(frame.kind, Type::Data | Type::Headers | Type::RstStream);
    (answers && frame.stream % 2 == 1).then_some(frame.stream)
}

/// Bytes that are there, or how many are not.
#[derive(Clone, Copy)]
enum Input<'i> {
    Bytes(&'i [u8]),
    Hole(u64),
}

impl Input<'_> {
    const fn len(self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Hole(len) => len,
        }
    }

    fn from(self, at: u64) -> Self {
        match self {
            Self::Bytes(bytes) => {
                Self::Bytes(usize::try_from(at).ok().and_then(|at| bytes.get(at..)).unwrap_or(&[]))
            }
            Self::Hole(len) => Self::Hole(len.saturating_sub(at)),
        }
    }
}

impl Payload {
    fn of_unknown(len: u32) -> Self {
        Self {
            frame: Frame::parse([0, 0, 0, u8::MAX, 0, 0, 0, 0, 0]),
            fixed: [0; HEADER_BYTES],
            have: 0,
            need: 0,
            fixed_torn: false,
            content: len,
            padding: 0,
            settings: Settings::default(),
        }
    }

    /// Returns how many bytes of the input they are.
    fn take_fixed(&mut self, input: Input<'_>) -> u64 {
        let len = u64::from(self.need - self.have).min(input.len());
        match input {
            Input::Bytes(bytes) => {
                let place = &mut self.fixed[self.have as usize..][..len as usize];
                place.copy_from_slice(&bytes[..len as usize]);
            }
            Input::Hole(_) => self.fixed_torn = true,
        }
        self.have += len as u32;
        len
    }

    /// The fields of fixed length are there: false if there is more padding than payload.
    fn begin_content(&mut self) -> bool {
        if !self.frame.has(flag::PADDED) || self.fixed_torn {
            return true;
        }
        self.padding = u32::from(self.fixed[0]);
        match self.content.checked_sub(self.padding) {
            Some(content) => self.content = content,
            None => return false,
        }
        true
    }

    fn word(&self, at: usize) -> Option<u32> {
        let word = self.fixed.get(at..)?.first_chunk::<4>().copied()?;
        (!self.fixed_torn).then(|| u32::from_be_bytes(word))
    }

    fn promised(&self) -> Option<u32> {
        self.word(usize::from(self.frame.has(flag::PADDED))).map(|word| word & 0x7fff_ffff)
    }

    fn take_settings(&mut self, input: Input<'_>, len: u64) {
        const SETTING_BYTES: usize = 6;
        let Input::Bytes(bytes) = input else {
            // One that is missing may take back another.
            self.settings = Settings { torn: true, ..Settings::default() };
            return;
        };
        // The place behind what is used: `have` and `need` stay as they are.
        for &byte in &bytes[..len as usize] {
            let filled = usize::from(self.fixed[SETTING_BYTES]);
            self.fixed[filled] = byte;
            self.fixed[SETTING_BYTES] = (filled as u8 + 1) % SETTING_BYTES as u8;
            if filled + 1 == SETTING_BYTES && !self.settings.torn {
                let [i0, i1, v0, v1, v2, v3, ..] = self.fixed;
                self.settings.take(u16::from_be_bytes([i0, i1]), u32::from_be_bytes([v0, v1, v2, v3]));
            }
        }
    }
}

impl Settings {
    /// RFC 9113 section 6.5.2; unknown ones are ignored.
    fn take(&mut self, identifier: u16, value: u32) {
        match identifier {
            1 => self.header_table_size = Some(value),
            5 => self.max_frame_size = Some(value),
            8 => self.enable_connect_protocol = Some(value != 0),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod writer;
