//! One socket: its data events become exchanges. The same machine for both ends of a connection.
//!
//! The direction of the first request tells the role; the kernel's role is a hint that nothing rests on. Responses
//! are paired with requests by counting: the n-th final response answers the n-th request. Counting is certain as
//! long as no byte that could start a message is missing; where one is, see [`pairing`] and [`seek`]. A wrong pair is
//! worse than a lost exchange.
//!
//! | mode | request direction | response direction | left when |
//! |---|---|---|---|
//! | Detecting | held until its first bytes tell | the same | told (→ Following, Opaque), or bytes are missing (→ Seeking) |
//! | Following | parsed | parsed, one response for each open exchange | a place is lost, or a protocol switch (→ Opaque) |
//! | Draining | place lost: passed over | parsed, for the exchanges that were open before | none is open (→ Seeking) |
//! | Seeking | parsed if its place is known, else passed over | passed over | a request starts where pairing can begin again (→ Following) |
//! | Streams | a protocol whose messages name their stream: see [`streams`] | the same | given up (→ Opaque) |
//! | Http2 | as above: see [`http2`] | the same | its first bytes are not (→ Opaque) |
//! | Opaque | ignored | ignored | never |
//!
//! What it does not do: it judges no parent, knows no other socket, and keeps no payload beyond what an unfinished
//! head needs.

mod ending;
mod half;
mod http2;
mod pairing;
mod requests;
mod responses;
mod seek;
mod streams;

use std::sync::Arc;
use std::time::Duration;

use tracer_abi::conn::{Direction, Family, SocketCookie};
use tracer_abi::sniff::{self, Class};
use tracer_abi::task::ProcessKey;
use tracer_abi::time::KernelInstant;

use self::ending::is_fatal;
use self::half::Half;
use self::http2::Multiplexed;
use self::pairing::{Ledger, Trust};
use self::seek::Seek;
use self::streams::Streams;
use crate::event::{ConnOpened, DataMoved, IoOutcome};
use crate::exchange::{ExchangeUpdate, Incomplete};
use crate::protocol::detect::{self, Opening};
use crate::protocol::http1::Http1;
use crate::stream::{Run, StreamCounts, StreamLimits};

/// Bounds of one connection. What they cut is counted, and marked on the exchanges that it touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    pub stream: StreamLimits,
    /// Start-line and header fields of one message.
    pub head_bytes: usize,
    /// Requests that wait for their responses.
    pub open_exchanges: usize,
    /// How long a lost byte may still come, when nothing else on the connection tells.
    pub patience: Duration,
    /// How long a connection must be silent behind what looks like the end of a body, for it to be the end.
    pub quiet: Duration,
    /// How long the program may take to read what it had received when the connection was closed under it.
    pub linger: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            // A head at the largest budget comes in 17 records of one operation; held operations are those of
            // a peer that answers before its request was seen, or that talks on before an upgrade is answered.
            stream: StreamLimits { patience_ops: 4, held_ops: 256, held_bytes: 128 * 1024 },
            // What servers accept at most, by their defaults, is 8 to 64 KiB.
            head_bytes: 64 * 1024,
            // Pipelining clients keep far fewer in flight.
            open_exchanges: 1024,
            patience: Duration::from_millis(200),
            // Shorter than the time within which a span must leave; longer than scheduling delays.
            quiet: Duration::from_secs(2),
            linger: Duration::from_secs(1),
        }
    }
}

macro_rules! connection_stats {
    ($($(#[$meta:meta])* $name:ident,)+) => {
        /// What was lost or passed over on a connection since it was last asked.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct ConnectionStats { $($(#[$meta])* pub $name: u64,)+ }

        impl ConnectionStats {
            /// Lengths are what events claim, hence may be anything.
            pub fn add(&mut self, other: Self) {
                $(self.$name = self.$name.saturating_add(other.$name);)+
            }

            /// Name and count of every counter, in declaration order.
            pub fn entries(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)+].into_iter()
            }
        }
    };
}

connection_stats! {
    /// Captured bytes that never arrived.
    lost_bytes,
    /// Bytes that could not be copied from the program's memory.
    unreadable_bytes,
    /// Captured bytes that came too late, or contradicted what was known.
    late_bytes,
    /// Exchanges that ended as lost.
    exchanges_lost,
    /// Requests that may have begun an exchange but could not be read or paired, so that none was begun.
    requests_passed_over,
    /// Responses that could not be paired with a request.
    responses_passed_over,
    /// Those to calls that had been made before the tracer came.
    responses_joined,
    /// Times that a direction's place in the protocol was lost.
    places_lost,
    /// Times that pairing began again after a loss.
    resyncs,
    /// Connections given up after a loss, because their client pipelines or their bytes make no sense.
    given_up,
    /// Messages that are not valid.
    malformed,
}

impl ConnectionStats {
    /// Something is missing that was there to be seen.
    pub(crate) fn is_loss(&self) -> bool {
        *self != Self { responses_joined: self.responses_joined, ..Self::default() }
    }
}

/// One socket. Feed it the socket's events in the order of their times.
#[derive(Debug)]
pub struct Connection {
    limits: Arc<ConnectionLimits>,
    cookie: SocketCookie,
    /// Whether sequence numbers mean anything. Until the connection was announced: whether one was seen.
    tcp: bool,
    /// `None` until it was announced.
    preexisting: Option<bool>,
    mode: Mode,
    /// The direction in which requests go, once known.
    requests: Option<Direction>,
    /// Indexed by direction.
    halves: [Half; 2],
    ledger: Ledger,
    trust: Trust,
    /// Closed while the program may still read responses.
    closing: Option<KernelInstant>,
    /// [`Connection::handle_closed`] was called.
    closed: bool,
    /// It was closed before its program used it: what that reads is the last there is, however late.
    over: bool,
    /// Whose last operation was seen.
    process: Option<ProcessKey>,
    /// Has carried data.
    carried: bool,
    /// An exchange was begun in a stream.
    streamed: bool,
    class: Class,
    stats: ConnectionStats,
}

#[derive(Debug)]
enum Mode {
    Detecting,
    Following,
    Draining {
        reason: Incomplete,
        /// Operations that begin with a request line, since the place was lost.
        request_lines: u8,
        /// There is nothing to seek afterwards.
        last: bool,
    },
    Seeking(Seek),
    Streams(Box<Streams>),
    Http2(Box<Multiplexed>),
    Opaque,
}

impl Connection {
    pub fn new(limits: &Arc<ConnectionLimits>) -> Self {
        Self {
            limits: Arc::clone(limits),
            cookie: SocketCookie::default(),
            tcp: false,
            preexisting: None,
            mode: Mode::Detecting,
            requests: None,
            halves: [Half::new(), Half::new()],
            ledger: Ledger::default(),
            trust: Trust::from_start(),
            closing: None,
            closed: false,
            over: false,
            process: None,
            carried: false,
            streamed: false,
            class: Class::Undecided,
            stats: ConnectionStats::default(),
        }
    }

    /// At most once, normally before any data.
    pub fn handle_opened(&mut self, event: &ConnOpened) {
        self.cookie = event.cookie;
        self.tcp = event.family != Family::Unix;
        self.preexisting = Some(event.preexisting);
        if event.over {
            (self.closed, self.over) = (true, true);
            self.closing = Some(event.origin.time);
        }
    }

    /// A socket operation, or a further record of one.
    pub fn handle_data(&mut self, event: &mut DataMoved, out: &mut Vec<ExchangeUpdate>) {
        let moved = matches!(event.outcome, IoOutcome::Moved(_));
        self.carried |= moved;
        self.process = Some(event.thread.process);
        if matches!(self.mode, Mode::Opaque) {
            return;
        }
        self.cookie = event.cookie;
        let direction = event.direction;
        match event.outcome {
            IoOutcome::Moved(len) => {
                if self.preexisting.is_none() {
                    self.tcp |= event.tcp_seq_end != 0;
                }
                if self.over {
                    self.closing = Some(event.time);
                }
                if self.is_foreign(event.class) {
                    self.turn_opaque();
                    return;
                }
                self.may_join_http2(event);
                if matches!(self.mode, Mode::Opaque) {
                    return;
                }
                // The other side went on: what is missing before its turn is not merely late. Streams overlap.
                let other = direction.flipped();
                if let Mode::Streams(streams) = &self.mode {
                    if streams.requests == other && self.half(other).stream.is_waiting() {
                        self.hurry(other, event.time, out);
                    }
                } else if self.requests == Some(direction) && matches!(self.mode, Mode::Following) {
                    // But a response that waits may wait for this very request.
                    if self.half(other).stream.is_waiting() {
                        self.half_mut(other).stream.give_up();
                        self.run(other, event.time, out);
                    }
                } else if !matches!(self.mode, Mode::Http2(_)) {
                    self.hurry(other, event.time, out);
                }
                let stream_limits = self.limits.stream;
                self.half_mut(direction).stream.insert(event, len, &stream_limits);
                self.run(direction, event.time, out);
                self.hurry_streams(event.time, out);
            }
            IoOutcome::EndOfStream => self.handle_stream_end(event, true, out),
            IoOutcome::Failed(errno) if is_fatal(errno) => self.handle_stream_end(event, false, out),
            IoOutcome::Failed(_) => {}
        }
        if event.muted {
            self.close_streams(event.time, Some(Incomplete::LimitReached), out);
            self.close_http2(event.time, Some(Incomplete::LimitReached), out);
            self.lose_all(Incomplete::LimitReached, event.time, out);
            self.turn_opaque();
        }
        self.half_mut(direction).stream.detach();
    }

    /// When [`Connection::handle_timeout`] is to be called, if nothing else happens before.
    pub fn poll_timeout(&self) -> Option<KernelInstant> {
        let at_rest = |half: &Half| half.stream.is_empty() && !half.parser.is_adrift();
        let doubt = match &self.mode {
            Mode::Http2(h2) => h2.doubt_since().map(|since| since.plus(self.limits.quiet)),
            Mode::Detecting
            | Mode::Following
            | Mode::Draining { .. }
            | Mode::Seeking(_)
            | Mode::Streams(_)
            | Mode::Opaque => None,
        };
        if self.closing.is_none() && doubt.is_none() && self.halves.iter().all(at_rest) {
            return None;
        }
        let closing = self.closing.map(|time| time.plus(self.limits.linger));
        let quiet = self.drift_end().map(|time| time.plus(self.limits.quiet));
        let waits = self.halves.iter().filter(|half| half.stream.is_waiting());
        let patience =
            waits.filter_map(|half| half.stream.waits_since()).map(|time| time.plus(self.limits.patience));
        closing.into_iter().chain(quiet).chain(doubt).chain(patience).min()
    }

    /// Time has passed without an event of this connection.
    pub fn handle_timeout(&mut self, now: KernelInstant, out: &mut Vec<ExchangeUpdate>) {
        for direction in [Direction::Egress, Direction::Ingress] {
            let patience = self.limits.patience;
            let half = self.half_mut(direction);
            let is_due = half.stream.waits_since().is_some_and(|since| since.plus(patience) <= now);
            if is_due && half.stream.is_waiting() {
                self.hurry(direction, now, out);
            }
        }
        if self.drift_end().is_some_and(|time| time.plus(self.limits.quiet) <= now) {
            self.end_quiet_response(out);
            self.run(Direction::Egress, now, out);
        }
        self.end_doubtful(now, out);
        if let Some(time) = self.closing.filter(|time| time.plus(self.limits.linger) <= now) {
            self.close(time, true, out);
        }
    }

    /// What the connection carries, if it has carried data and never an exchange.
    pub fn unrecognised(&self) -> Option<Class> {
        (self.carried
            && !self.ever_began()
            && !matches!(self.mode, Mode::Following | Mode::Streams(_) | Mode::Http2(_)))
        .then_some(self.class)
    }

    /// Payload bytes that are kept: bounded by the limits, and nothing between messages.
    pub fn held_bytes(&self) -> usize {
        let streams = match &self.mode {
            Mode::Streams(streams) => streams.held_bytes(),
            Mode::Http2(h2) => h2.held_bytes(),
            Mode::Detecting | Mode::Following | Mode::Draining { .. } | Mode::Seeking(_) | Mode::Opaque => 0,
        };
        self.halves.iter().map(|half| half.stream.held_bytes() + half.parser.held_bytes()).sum::<usize>()
            + streams
    }

    /// Counts since the last call.
    pub fn stats(&mut self) -> ConnectionStats {
        self.collect_counts();
        std::mem::take(&mut self.stats)
    }

    /// How many bytes are known to have moved in a direction.
    pub(crate) fn moved(&self, direction: Direction) -> u64 {
        self.half(direction).stream.end()
    }

    /// Calls that carry only what nobody reads are not told of.
    pub(crate) fn leaves_out_calls(&self) -> bool {
        matches!(self.mode, Mode::Http2(_))
    }

    /// Whether any count of [`Connection::stats`] would be more than zero.
    pub(crate) fn has_stats(&self) -> bool {
        self.stats != ConnectionStats::default() || self.halves.iter().any(|half| half.stream.has_counts())
    }

    fn half(&self, direction: Direction) -> &Half {
        &self.halves[usize::from(direction.code())]
    }

    fn half_mut(&mut self, direction: Direction) -> &mut Half {
        &mut self.halves[usize::from(direction.code())]
    }

    /// The half in which responses come, once known.
    fn response_half(&self) -> Option<&Half> {
        self.requests.map(|requests| self.half(requests.flipped()))
    }

    /// Reads what there is to read in both directions, `first` first.
    fn run(&mut self, first: Direction, now: KernelInstant, out: &mut Vec<ExchangeUpdate>) {
        loop {
            let one = self.run_half(first, now, out);
            let two = self.run_half(first.flipped(), now, out);
            self.end_draining(now, out);
            let all_read = || self.halves.iter().all(|half| half.stream.is_empty());
            if !one && !two || matches!(self.mode, Mode::Following) && all_read() {
                return;
            }
        }
    }

    /// What waits in a direction is to be read now if it ever is.
    fn hurry(&mut self, direction: Direction, now: KernelInstant, out: &mut Vec<ExchangeUpdate>) {
        let half = self.half_mut(direction);
        if half.stream.end() > half.stream.position() {
            half.stream.give_up();
            half.hurried = true;
            self.run(direction, now, out);
            self.half_mut(direction).hurried = false;
        }
    }

    /// Reads one direction as far as it goes; whether it got anywhere.
    fn run_half(&mut self, direction: Direction, now: KernelInstant, out: &mut Vec<ExchangeUpdate>) -> bool {
        let stream = &self.half(direction).stream;
        // The others see for themselves.
        let needs_run = matches!(self.mode, Mode::Detecting | Mode::Opaque);
        if stream.is_empty() || needs_run && stream.is_waiting() {
            return false;
        }
        let carries_requests = self.requests == Some(direction);
        match &self.mode {
            Mode::Detecting => self.detect(direction, now, out),
            Mode::Following if carries_requests => self.follow_requests(direction, now, out),
            Mode::Following => self.follow_responses(direction, now, out),
            Mode::Draining { .. } if carries_requests => self.pass_over_requests(direction),
            Mode::Draining { .. } => self.follow_responses(direction, now, out),
            Mode::Seeking(seek) if carries_requests && seek.follows_requests() => {
                self.follow_requests(direction, now, out)
            }
            Mode::Seeking(_) => self.scan(direction, now, out),
            Mode::Streams(_) => self.run_streams(direction, now, out),
            Mode::Http2(_) => self.run_http2(direction, now, out),
            Mode::Opaque => {
                self.half_mut(direction).stream.discard();
                false
            }
        }
    }

    /// What do the first bytes of this direction tell?
    fn detect(&mut self, direction: Direction, now: KernelInstant, out: &mut Vec<ExchangeUpdate>) -> bool {
        if self.begins_stream(direction) {
            self.follow_streams(direction);
            return true;
        }
        let mut prefix = [0; detect::OPENING_BYTES];
        let len = self.half(direction).stream.copy_prefix(&mut prefix);
        match self.detect_http2(direction, &prefix[..len]) {
            Some(true) => return true,
            // There is no hole behind them.
            None if self.half(direction).stream.end()
                == self.half(direction).stream.position() + len as u64 =>
            {
                return false;
            }
            None | Some(false) => {}
        }
        if self.preexisting != Some(false) {
            // Joined in the middle, as far as is known: the first bytes seen need not be the first.
            self.mode = Mode::Seeking(Seek::joined());
            return true;
        }
        if let Run::Hole { kind, .. } = self.half(direction).stream.peek() {
            let reason = kind.incomplete().unwrap_or(Incomplete::LimitReached);
            self.seek(reason, false, now, out);
            return true;
        }
        match self.detect_streams(direction, &prefix[..len]) {
            Some(true) => return true,
            None => return false,
            Some(false) => {}
        }
        self.requests = match detect::opening(&prefix[..len]) {
            Opening::Undecided => return false,
            Opening::Request => Some(direction),
            Opening::Response => Some(direction.flipped()),
            Opening::Other => {
                self.classify(&prefix[..len]);
                self.turn_opaque();
                return false;
            }
        };
        self.follow();
        true
    }

    /// Begins to parse both directions from where they are read.
    fn follow(&mut self) {
        let Some(requests) = self.requests else { return };
        let max_head_bytes = self.limits.head_bytes;
        self.half_mut(requests).parser = Http1::request(max_head_bytes);
        self.half_mut(requests.flipped()).parser = Http1::response(max_head_bytes);
        self.mode = Mode::Following;
    }

    /// Remembers what unrecognised bytes are.
    fn classify(&mut self, bytes: &[u8]) {
        let mut prefix = [0; sniff::PREFIX_BYTES];
        let len = bytes.len().min(prefix.len());
        prefix[..len].copy_from_slice(&bytes[..len]);
        self.class = match sniff::classify(&prefix, len) {
            class @ (Class::Http2 | Class::Tls) => class,
            Class::Undecided | Class::Http1 | Class::FastCgi | Class::Unknown => Class::Unknown,
        };
    }

    /// The kernel half has seen the first bytes of a protocol that is not parsed, and no exchange was begun.
    fn is_foreign(&mut self, class: Class) -> bool {
        let is_foreign = class == Class::Tls && !self.ever_began();
        // The kernel half's guesses of other classes are about volume; see what the bytes are.
        if is_foreign {
            self.class = class;
        }
        is_foreign
    }

    /// The kernel half has seen frames of HTTP/2, of which the first is not there.
    fn may_join_http2(&mut self, event: &DataMoved) {
        let undecided = matches!(self.mode, Mode::Detecting | Mode::Seeking(_)) && !self.ever_began();
        if event.class == Class::Http2 && undecided && self.preexisting.is_none() && event.offset > 0 {
            // It was announced, had its streams, and was closed: what a program still says then is of no exchange.
            self.carried = false;
            self.turn_opaque();
            return;
        }
        let from_start =
            self.preexisting == Some(false) && event.offset <= self.half(event.direction).stream.end();
        if event.class == Class::Http2 && undecided && !from_start {
            self.join_http2();
        }
    }

    /// An exchange was begun.
    fn ever_began(&self) -> bool {
        self.ledger.ever_began() || self.streamed
    }

    fn has_open(&self) -> bool {
        match &self.mode {
            Mode::Streams(streams) => streams.has_open(),
            Mode::Http2(h2) => h2.has_open(),
            Mode::Detecting | Mode::Following | Mode::Draining { .. } | Mode::Seeking(_) | Mode::Opaque => {
                !self.ledger.is_empty()
            }
        }
    }

    fn turn_opaque(&mut self) {
        self.collect_counts();
        self.mode = Mode::Opaque;
        // Frees what they hold.
        self.halves = [Half::new(), Half::new()];
    }

    fn collect_counts(&mut self) {
        for half in &mut self.halves {
            let counts = half.stream.take_counts();
            if counts == StreamCounts::default() {
                continue;
            }
            self.stats.add(ConnectionStats {
                lost_bytes: counts.lost_bytes,
                unreadable_bytes: counts.unreadable_bytes,
                late_bytes: counts.late_bytes,
                ..ConnectionStats::default()
            });
        }
    }
}
