//! Frame headers (RFC 9113 sections 4.1 and 6): what follows, how long it is, and whether it can be one at all.

/// Of every frame.
pub const HEADER_BYTES: usize = 9;

/// Sent by every client before its first frame (RFC 9113 section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Data,
    Headers,
    Priority,
    RstStream,
    Settings,
    PushPromise,
    Ping,
    GoAway,
    WindowUpdate,
    Continuation,
    /// Ignored by who does not know it (RFC 9113 section 5.5).
    Other,
}

pub(super) mod flag {
    pub(in super::super) const END_STREAM: u8 = 0x1;
    pub(in super::super) const ACK: u8 = 0x1;
    pub(in super::super) const END_HEADERS: u8 = 0x4;
    pub(in super::super) const PADDED: u8 = 0x8;
    pub(in super::super) const PRIORITY: u8 = 0x20;
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: Type,
    pub(super) len: u32,
    flags: u8,
    pub(super) stream: u32,
    /// The bit that must not be set.
    reserved: bool,
}

/// Which side sends the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

/// What is known of a sender.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) side: Side,
    /// Of a payload.
    pub(super) max_len: u32,
    /// It opens streams of its own: a server that has pushed. No client in use asks for that any more.
    pub(super) pushes: bool,
}

impl Frame {
    pub(super) fn parse(bytes: [u8; HEADER_BYTES]) -> Self {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = bytes;
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        let kind = match kind {
            0 => Type::Data,
            1 => Type::Headers,
            2 => Type::Priority,
            3 => Type::RstStream,
            4 => Type::Settings,
            5 => Type::PushPromise,
            6 => Type::Ping,
            7 => Type::GoAway,
            8 => Type::WindowUpdate,
            9 => Type::Continuation,
            _ => Type::Other,
        };
        Self {
            kind,
            len: u32::from_be_bytes([0, l0, l1, l2]),
            flags,
            stream: stream & 0x7fff_ffff,
            reserved: stream >> 31 != 0,
        }
    }

    /// Whether the type knows the flag and has it set.
    pub(super) fn has(self, flag: u8) -> bool {
        self.flags & self.known_flags() & flag != 0
    }

    /// How many bytes of fields of fixed length the payload begins with.
    pub(super) fn fixed_len(self) -> u32 {
        let padded = u32::from(self.has(flag::PADDED));
        match self.kind {
            Type::Data => padded,
            Type::Headers => padded + if self.has(flag::PRIORITY) { 5 } else { 0 },
            Type::PushPromise => padded + 4,
            Type::RstStream => 4,
            Type::GoAway => 8,
            Type::Priority
            | Type::Settings
            | Type::Ping
            | Type::WindowUpdate
            | Type::Continuation
            | Type::Other => 0,
        }
    }

    /// A receiver that keeps to the rules does not give up the connection because of this header.
    pub(super) fn is_valid(self) -> bool {
        let on_stream = self.stream != 0;
        let fits = match self.kind {
            Type::Data | Type::Headers | Type::Continuation => on_stream,
            // A wrong length of these is an error of the stream only (sections 6.3 and 6.9), but no program sends one.
            Type::Priority => on_stream && self.len == 5,
            Type::RstStream => on_stream && self.len == 4,
            Type::WindowUpdate => self.len == 4,
            Type::Settings => {
                !on_stream && self.len.is_multiple_of(6) && (self.len == 0 || !self.has(flag::ACK))
            }
            Type::PushPromise => on_stream,
            Type::Ping => !on_stream && self.len == 8,
            Type::GoAway => !on_stream && self.len >= 8,
            Type::Other => true,
        };
        fits && self.len >= self.fixed_len()
    }

    /// The same, of a sender that keeps to the rules. Extensions may be of any kind, but none in use has long frames.
    pub(super) fn is_plausible(self, rules: &Rules) -> bool {
        let max_len = rules.max_len;
        const MAX_EXTENSION_BYTES: u32 = 16 * 1024;
        if self.kind == Type::Other {
            return self.len <= max_len.min(MAX_EXTENSION_BYTES) && !self.reserved;
        }
        let parity = match self.kind {
            Type::PushPromise => rules.side == Side::Server && self.stream % 2 == 1,
            Type::Data | Type::Headers | Type::Continuation => self.stream % 2 == 1 || rules.pushes,
            // Of streams of either side.
            Type::Priority
            | Type::RstStream
            | Type::Settings
            | Type::Ping
            | Type::GoAway
            | Type::WindowUpdate
            | Type::Other => true,
        };
        self.is_valid()
            && parity
            && self.len <= max_len
            && !self.reserved
            && self.flags & !self.known_flags() == 0
    }

    fn known_flags(self) -> u8 {
        match self.kind {
            Type::Data => flag::END_STREAM | flag::PADDED,
            Type::Headers => flag::END_STREAM | flag::END_HEADERS | flag::PADDED | flag::PRIORITY,
            Type::PushPromise => flag::END_HEADERS | flag::PADDED,
            Type::Continuation => flag::END_HEADERS,
            Type::Settings | Type::Ping => flag::ACK,
            Type::Priority | Type::RstStream | Type::GoAway | Type::WindowUpdate | Type::Other => 0,
        }
    }
}
