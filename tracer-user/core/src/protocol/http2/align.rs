//! Finds the place of frames again after a loss, with certainty.
//!
//! A payload may hold anything, also frames: HTTP/2 is tunnelled through HTTP/2. So no chain of frames proves itself,
//! however long. What proves one is that no other is left. Every position at which a frame's header may be is the start
//! of a chain, and a chain ends where its next header cannot be one. As soon as every position was a start within which
//! a true header must lie, the true chain is among those that are left; and what the sender meant is known when all of
//! them have come together in one place. A chain of frames inside of a payload either breaks at the payload's end or
//! goes on in the true one.
//!
//! A header that lies in a hole ends its chain, which may be the true one: then the search begins anew.

use std::collections::BTreeMap;

use super::frame::{Frame, HEADER_BYTES, Rules, Type, flag};

/// Frames of known types that the chain must have. What is left when all others have come to their end is true whatever
/// it consists of; this many keep chance out where the limit on payloads is not kept to.
const MIN_FRAMES: u8 = 4;

/// Chains at a time. Text has none, and random bytes a few. Most there are where frames are short: two that are read
/// from a wrong byte on often look like one that is long, and each such one is kept until its end. It is the only
/// memory of a search, and there is none between searches.
const MAX_CHAINS: usize = 2048;

#[derive(Debug)]
pub(super) struct Align {
    rules: Rules,
    /// Position behind the last byte, from where the search began.
    at: u64,
    /// The last bytes, the last one lowest, and how many of them there are without a hole.
    window: u128,
    have: u64,
    /// Positions in a row that were starts, without a loss of what might be true.
    starts: u64,
    /// By the position of the next header.
    chains: BTreeMap<u64, Chain>,
    /// Times that there were too many of them.
    overflows: u64,
}

#[derive(Clone, Copy, Debug)]
struct Chain {
    frames: u8,
    next: Next,
}

/// What a chain's next frame must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Any,
    /// A header block has begun.
    Continuation(u32),
    /// Chains that have come together differ.
    Unclear,
}

impl Align {
    pub(super) fn new(rules: Rules) -> Self {
        Self { rules, at: 0, window: 0, have: 0, starts: 0, chains: BTreeMap::new(), overflows: 0 }
    }

    pub(super) fn take_overflows(&mut self) -> u64 {
        std::mem::take(&mut self.overflows)
    }

    /// Whether the place is found with this byte: how many bytes further on the next frame starts.
    pub(super) fn byte(&mut self, byte: u8) -> Option<u64> {
        const MASK: u128 = (1 << (8 * HEADER_BYTES)) - 1;
        self.window = (self.window << 8 | u128::from(byte)) & MASK;
        self.at += 1;
        self.have += 1;
        if self.have < HEADER_BYTES as u64 {
            return None;
        }
        let [.., l0, l1, l2, kind, flags, s0, s1, s2, s3] = self.window.to_be_bytes();
        let frame = Frame::parse([l0, l1, l2, kind, flags, s0, s1, s2, s3]);
        let chain = self.chains.remove(&(self.at - HEADER_BYTES as u64));
        self.starts += 1;
        if frame.is_plausible(&self.rules) {
            // Once the true chain is there, others that begin would only be in its way.
            let start = (!self.has_true()).then_some(Chain::START);
            let longer = chain.and_then(|chain| chain.followed_by(frame));
            if let Some(chain) = longer.or_else(|| start?.followed_by(frame)) {
                self.put(self.at + u64::from(frame.len), chain);
            }
        }
        if self.chains.is_empty() && self.has_true() {
            // There is none, not the true one either: the sender does not keep to the rules.
            self.starts = 0;
        }
        self.found()
    }

    /// Bytes are missing.
    pub(super) fn hole(&mut self, len: u64) {
        let before = self.at;
        self.at = self.at.saturating_add(len);
        self.window = 0;
        self.have = 0;
        // Headers that are, in part, missing.
        let count = self.chains.len();
        let at = self.at;
        self.chains.retain(|&next, _| next >= at || next.saturating_add(HEADER_BYTES as u64) <= before);
        if self.chains.len() < count || !self.has_true() {
            self.starts = 0;
        }
    }

    fn put(&mut self, next: u64, chain: Chain) {
        let entry = self.chains.entry(next).or_insert(chain);
        entry.frames = entry.frames.max(chain.frames);
        if entry.next != chain.next {
            entry.next = Next::Unclear;
        }
        if self.chains.len() > MAX_CHAINS {
            self.chains.clear();
            self.starts = 0;
            self.overflows += 1;
        }
    }

    /// The true chain is one of those that are left.
    fn has_true(&self) -> bool {
        self.starts > u64::from(self.rules.max_len) + HEADER_BYTES as u64
    }

    fn found(&self) -> Option<u64> {
        if !self.has_true() || self.chains.len() != 1 {
            return None;
        }
        let (next, chain) = self.chains.first_key_value()?;
        (chain.next == Next::Any && chain.frames >= MIN_FRAMES).then(|| next.checked_sub(self.at)).flatten()
    }
}

impl Chain {
    /// Any frame may be the first.
    const START: Self = Self { frames: 0, next: Next::Unclear };

    fn followed_by(self, frame: Frame) -> Option<Self> {
        let continues = frame.kind == Type::Continuation;
        match self.next {
            Next::Any if continues => return None,
            Next::Continuation(stream) if !continues || frame.stream != stream => return None,
            Next::Any | Next::Continuation(_) | Next::Unclear => {}
        }
        let begins_block = matches!(frame.kind, Type::Headers | Type::PushPromise | Type::Continuation);
        let next = if begins_block && !frame.has(flag::END_HEADERS) {
            Next::Continuation(frame.stream)
        } else {
            Next::Any
        };
        let counts = frame.kind != Type::Other;
        Some(Self { frames: self.frames.saturating_add(u8::from(counts)), next })
    }
}
