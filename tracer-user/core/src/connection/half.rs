//! One direction as the connection sees it: its stream, its parser, and where the message in progress is.

use tracer_abi::time::KernelInstant;

use crate::exchange::Mark;
use crate::protocol::detect::{self, Start};
use crate::protocol::http1::{Http1, Part};
use crate::protocol::{Parsed, Parser as _};
use crate::stream::{Run, Stream};

#[derive(Debug)]
pub(super) struct Half {
    pub(super) stream: Stream,
    pub(super) parser: Http1,
    /// First byte of the message in progress.
    pub(super) first: Option<Mark>,
    /// Last byte read of the message in progress, or of the last one.
    pub(super) last: Option<Mark>,
    /// Request direction: the exchange whose request is in progress behind its head.
    pub(super) current: Option<Current>,
    /// Passing over: before this position, an operation starts inside a line that was seen.
    pub(super) inside_line: u64,
    /// Bytes that must still come without a loss before it is known what was lost: as many as an end of a body may be
    /// long.
    pub(super) in_doubt: usize,
    /// No more bytes come before what happens next: a line that is not complete will not become so.
    pub(super) hurried: bool,
    /// The end of the stream was seen.
    pub(super) ended: bool,
    /// At the end or the close: how many bytes had been moved.
    pub(super) total: u64,
}

/// A request whose head is complete and whose body is not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Current {
    pub(super) index: u64,
    /// The client asked to be told to continue, and was answered without: it need not send the body.
    pub(super) may_withhold: bool,
}

impl Half {
    pub(super) fn new() -> Self {
        Self {
            stream: Stream::default(),
            parser: Http1::request(0),
            first: None,
            last: None,
            current: None,
            inside_line: 0,
            in_doubt: 0,
            hurried: false,
            ended: false,
            total: 0,
        }
    }

    /// What waits begins with a response, and goes on behind its end.
    pub(super) fn holds_more_than_a_response(&self, max_head_bytes: usize) -> bool {
        let (mut ahead, mut parser) = (self.stream.clone(), Http1::response(max_head_bytes));
        let mut ended = false;
        loop {
            let step = match ahead.peek() {
                Run::Bytes { .. } | Run::Hole { .. } if ended => return true,
                Run::Bytes { bytes, edge } => parser.bytes(bytes, edge),
                Run::Hole { len, edge, .. } => parser.hole(len, edge),
                Run::Wait => return false,
            };
            match step.parsed {
                Parsed::Part(Part::Response(response)) => ended = response.ended && !response.interim,
                Parsed::Part(Part::End(_)) => ended = true,
                Parsed::NeedMore if step.consumed > 0 => {}
                Parsed::NeedMore | Parsed::Part(Part::Request(_)) | Parsed::Torn | Parsed::Invalid(_) => {
                    return false;
                }
            }
            ahead.consume(step.consumed);
        }
    }

    /// When the byte at the reading position was moved, as far as that is known.
    pub(super) fn next_time(&self) -> Option<KernelInstant> {
        self.stream.mark(self.stream.position(), false).map(|mark| mark.time)
    }

    /// What the bytes at the reading position look like, as the start of a message. `Partial` asks for patience.
    pub(super) fn start(&self) -> Start {
        match self.start_so_far() {
            Start::Partial if self.hurried => Start::Other,
            start @ (Start::Line(_) | Start::Partial | Start::Other) => start,
        }
    }

    /// The same, whether or not more bytes will come.
    pub(super) fn start_so_far(&self) -> Start {
        let Run::Bytes { bytes, .. } = self.stream.peek() else { return Start::Other };
        match detect::start(bytes) {
            // It may be a line in several operations.
            Start::Partial => detect::start(&self.line()),
            start @ (Start::Line(_) | Start::Other) => start,
        }
    }

    /// What waits is empty lines, as far as it is there without a hole.
    pub(super) fn is_blank(&self) -> bool {
        self.line().iter().all(|byte| matches!(byte, b'\r' | b'\n'))
    }

    /// Behind what waits there is a hole.
    pub(super) fn is_cut(&self) -> bool {
        self.stream.position().saturating_add(self.line().len() as u64) < self.stream.end()
    }

    /// Position behind the line that starts at the reading position or behind empty ones there, as far as it is there.
    pub(super) fn line_end(&self) -> u64 {
        let line = self.line();
        let blank = line.iter().take_while(|&&byte| matches!(byte, b'\r' | b'\n')).count();
        let end = memchr::memchr(b'\n', &line[blank..]).map_or(line.len(), |len| blank + len + 1);
        self.stream.position().saturating_add(end as u64)
    }

    fn line(&self) -> Vec<u8> {
        let mut line = vec![0; self.stream.held_bytes().min(detect::MAX_START_LINE_BYTES + 1)];
        let len = self.stream.copy_prefix(&mut line);
        line.truncate(len);
        line
    }

    /// Bytes that were moved beyond the last one known.
    pub(super) fn tail_lost(&self) -> u64 {
        self.total.saturating_sub(self.stream.end())
    }
}
