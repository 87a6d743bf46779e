//! After a loss, or when joined in the middle: where can pairing begin again?
//!
//! At a request that starts where an operation starts (or behind the last one, if the request direction is
//! intact), directly after an operation in the other direction that came after the loss: under the assumption of
//! [`super::pairing`] all earlier responses have come then. A request that itself reveals the loss does not count:
//! what was lost may be requests sent just before it. A connection that has not yet shown a habit must first show
//! one turn of exactly one request and one response. The very first operation of a connection that is older than
//! the tracer counts, there being nothing before it that could contradict.

use tracer_abi::conn::Direction;
use tracer_abi::time::KernelInstant;

use super::{Connection, Mode};
use crate::exchange::{ExchangeUpdate, Incomplete};
use crate::protocol::detect::{self, Start, StartLine};
use crate::stream::Run;

#[derive(Clone, Copy, Debug)]
pub(super) struct Seek {
    reason: Incomplete,
    /// The request direction's place is known: it is parsed.
    follows_requests: bool,
    /// The first operation may be the place.
    first_counts: bool,
    turns_to_prove: u8,
    /// Direction of the last operation since the loss.
    last: Option<Direction>,
    /// Messages that were seen to start in the turn before and in this one.
    requests: u8,
    responses: u8,
    /// An interim response, behind which there may be a final one in the same operation.
    interim: bool,
}

impl Seek {
    pub(super) const fn joined() -> Self {
        Self {
            reason: Incomplete::StartedBeforeTracer,
            follows_requests: false,
            first_counts: true,
            turns_to_prove: 0,
            last: None,
            requests: 0,
            responses: 0,
            interim: false,
        }
    }

    pub(super) const fn reason(&self) -> Incomplete {
        self.reason
    }

    pub(super) const fn follows_requests(&self) -> bool {
        self.follows_requests
    }

    /// Whether an operation in this direction may begin another protocol: nothing was seen before, or the other direction
    /// had its turn.
    fn may_begin(&self, direction: Direction) -> bool {
        self.last.is_none_or(|last| last == direction.flipped())
    }

    /// An operation (or a message) starts with `line`, or with anything else; whether pairing begins there.
    fn saw(&mut self, direction: Direction, line: Option<StartLine>) -> bool {
        let turned = self.last == Some(direction.flipped());
        let first = self.last.replace(direction).is_none();
        match line {
            Some(StartLine::Request) if first && self.first_counts => true,
            Some(StartLine::Request) if turned => {
                if self.requests == 1 && (self.responses == 1 || self.responses == 0 && self.interim) {
                    self.turns_to_prove = self.turns_to_prove.saturating_sub(1);
                }
                (self.requests, self.responses, self.interim) = (1, 0, false);
                self.turns_to_prove == 0
            }
            Some(StartLine::Request) => {
                self.requests = self.requests.saturating_add(1);
                false
            }
            Some(StartLine::Status { interim: false }) => {
                self.responses = self.responses.saturating_add(1);
                false
            }
            Some(StartLine::Status { interim: true }) => {
                self.interim = true;
                false
            }
            None => false,
        }
    }
}

impl Connection {
    /// A place was lost that pairing needs: all open exchanges are lost, and the search begins.
    pub(super) fn seek(
        &mut self,
        reason: Incomplete,
        follows_requests: bool,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) {
        self.stats.places_lost += 1;
        self.lose_all(reason, now, out);
        if self.trust.is_spent() {
            self.stats.given_up += 1;
            self.turn_opaque();
            return;
        }
        let follows_requests = follows_requests && self.requests.is_some();
        for direction in [Direction::Egress, Direction::Ingress] {
            let follow = follows_requests && self.requests == Some(direction);
            let half = self.half_mut(direction);
            if !follow {
                half.parser.reset();
                half.first = None;
                half.current = None;
            }
        }
        self.mode = Mode::Seeking(Seek {
            reason,
            follows_requests,
            first_counts: false,
            turns_to_prove: self.trust.turns_to_prove(),
            last: None,
            requests: 0,
            responses: 0,
            interim: false,
        });
    }

    /// What was assumed about this connection does not hold.
    pub(super) fn contradict(&mut self, now: KernelInstant, out: &mut Vec<ExchangeUpdate>) {
        self.trust.contradicted();
        let follows = matches!(self.mode, Mode::Following);
        self.seek(Incomplete::EventsLost, follows, now, out);
    }

    /// While seeking: an operation was seen in this direction. Whether pairing begins with it.
    pub(super) fn seek_at(
        &mut self,
        direction: Direction,
        line: Option<StartLine>,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) -> bool {
        let Mode::Seeking(seek) = &mut self.mode else { return false };
        let may_be_request = self.requests.is_none_or(|requests| requests == direction);
        let line =
            line.filter(|&line| (line == StartLine::Request) == may_be_request || self.requests.is_none());
        let (begins, reason, joined) = (seek.saw(direction, line), seek.reason, seek.first_counts);
        if line == Some(StartLine::Request) && !self.ledger.is_empty() {
            // Requests whose responses cannot be told apart from others'.
            self.lose_all(reason, now, out);
        }
        if !begins {
            match line {
                Some(StartLine::Status { interim: false }) if joined && direction == Direction::Ingress => {
                    self.stats.responses_joined += 1;
                }
                Some(StartLine::Status { interim: false }) => self.stats.responses_passed_over += 1,
                Some(StartLine::Request) if !self.follows(direction) => self.stats.requests_passed_over += 1,
                Some(StartLine::Request | StartLine::Status { .. }) | None => {}
            }
            return false;
        }
        if !joined {
            self.stats.resyncs += 1;
        }
        self.requests = Some(direction);
        self.trust.assume();
        // Anything that still waits in the other direction came before.
        self.half_mut(direction.flipped()).stream.discard();
        self.follow();
        true
    }

    /// On a connection joined in the middle, its first operation may be the rest of a line.
    fn believed(&self, direction: Direction, line: StartLine) -> Option<StartLine> {
        let is_first = matches!(&self.mode, Mode::Seeking(seek) if seek.first_counts && seek.last.is_none());
        match self.half(direction).stream.peek() {
            Run::Bytes { bytes, .. } if is_first && line == StartLine::Request => {
                detect::is_common_request(bytes).then_some(line)
            }
            Run::Bytes { .. } | Run::Hole { .. } | Run::Wait => Some(line),
        }
    }

    fn follows(&self, direction: Direction) -> bool {
        matches!(&self.mode, Mode::Seeking(seek) if seek.follows_requests) && self.requests == Some(direction)
    }

    /// While seeking: passes over a direction, looking at how operations start.
    pub(super) fn scan(
        &mut self,
        direction: Direction,
        now: KernelInstant,
        out: &mut Vec<ExchangeUpdate>,
    ) -> bool {
        let mut progressed = false;
        loop {
            if let Mode::Seeking(seek) = self.mode
                && !self.ever_began()
                && self.begins_stream(direction)
            {
                if seek.first_counts && seek.may_begin(direction) {
                    self.half_mut(direction.flipped()).stream.discard();
                    self.follow_streams(direction);
                } else {
                    self.seek_in_streams(direction, seek.reason);
                }
                return true;
            }
            let half = self.half(direction);
            let (len, starts) = match half.stream.peek() {
                Run::Wait => return progressed,
                Run::Hole { len, edge, .. } => (len, edge.starts_op.then_some(Start::Other)),
                Run::Bytes { bytes, edge } => {
                    let starts = edge.starts_op && half.stream.position() >= half.inside_line;
                    (bytes.len() as u64, starts.then(|| half.start()))
                }
            };
            let starts = match starts {
                // Whether this is where pairing begins may depend on it.
                Some(Start::Partial) => return progressed,
                Some(Start::Line(line)) => Some(self.believed(direction, line)),
                Some(Start::Other) => Some(None),
                None => None,
            };
            progressed = true;
            if let Some(line) = starts
                && self.seek_at(direction, line, now, out)
            {
                return true;
            }
            let half = self.half_mut(direction);
            if let Some(Some(_)) = starts {
                half.inside_line = half.line_end();
            }
            half.stream.consume(len);
        }
    }

    /// Draining, request direction: its place is lost.
    pub(super) fn pass_over_requests(&mut self, direction: Direction) -> bool {
        let mut progressed = false;
        loop {
            let half = self.half(direction);
            let (len, is_request) = match half.stream.peek() {
                Run::Wait => return progressed,
                Run::Hole { len, .. } => (len, false),
                Run::Bytes { bytes, edge } => {
                    let is_request =
                        edge.starts_op && detect::start(bytes) == Start::Line(StartLine::Request);
                    (bytes.len() as u64, is_request)
                }
            };
            progressed = true;
            if let Mode::Draining { request_lines, .. } = &mut self.mode
                && is_request
            {
                *request_lines = request_lines.saturating_add(1);
                self.stats.requests_passed_over += 1;
            }
            self.half_mut(direction).stream.consume(len);
        }
    }

    /// The last exchange that was open when the request direction's place was lost has ended.
    pub(super) fn end_draining(&mut self, now: KernelInstant, out: &mut Vec<ExchangeUpdate>) {
        let Mode::Draining { reason, last, .. } = self.mode else { return };
        if !self.ledger.is_empty() {
            return;
        }
        if last {
            self.stats.given_up += 1;
            self.turn_opaque();
            return;
        }
        self.seek(reason, false, now, out);
        if let Mode::Seeking(seek) = &mut self.mode {
            // It ended with a response.
            seek.last = self.requests.map(Direction::flipped);
        }
    }
}
