//! One direction as the connection sees it: its stream, its parser, and where the message in progress is.

use crate::exchange::Mark;
use crate::protocol::http1::Http1;
use crate::stream::Stream;

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
    /// The end of the stream was seen.
    pub(super) ended: bool,
    /// At the close: how many bytes had been moved.
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
            ended: false,
            total: 0,
        }
    }

    /// Bytes that were moved beyond the last one known.
    pub(super) fn tail_lost(&self) -> u64 {
        self.total.saturating_sub(self.stream.end())
    }
}
