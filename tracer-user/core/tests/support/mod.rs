//! A socket as the kernel half reports it: operations go in, records come out, by its payload policy.

#![allow(dead_code, reason = "each test target uses a part of it")]

use bytes::Bytes;
use tracer_abi::conn::{Direction, Endpoint, Family, Role, SocketCookie};
use tracer_abi::error::PayloadState;
use tracer_abi::limits::{DEFAULT_HEAD_BUDGET_BYTES, MAX_CHUNK_BYTES, TAIL_BYTES};
use tracer_abi::sniff::Class;
use tracer_abi::task::{ProcessKey, Tgid, Tid};
use tracer_abi::time::KernelInstant;
use tracer_core::connection::{Connection, ConnectionLimits};
use tracer_core::event::{ConnClosed, ConnOpened, DataMoved, IoOutcome, Origin, Thread, Waited};
use tracer_core::exchange::{BodyLen, ExchangeUpdate, Incomplete, Outcome};

/// First sequence numbers; the egress one is about to wrap.
pub(crate) const EGRESS_SEQ: u32 = u32::MAX - 20;
pub(crate) const INGRESS_SEQ: u32 = 1000;

#[derive(Clone, Debug)]
pub(crate) enum Record {
    Opened(ConnOpened),
    Data(DataMoved),
    Closed(ConnClosed),
}

/// Makes the records of one socket. Every operation takes one unit of time.
pub(crate) struct Wire {
    pub(crate) records: Vec<Record>,
    pub(crate) clock: u64,
    pub(crate) budget: u32,
    offsets: [u64; 2],
    budgets: [u32; 2],
    last: Option<Direction>,
}

pub(crate) fn at(time: u64) -> KernelInstant {
    KernelInstant::from_nanos(time)
}

pub(crate) fn thread() -> Thread {
    Thread { process: ProcessKey { tgid: Tgid(7), start_boottime: 1 }, tid: Tid(8), seq: 0 }
}

impl Wire {
    pub(crate) fn new() -> Self {
        Self {
            records: Vec::new(),
            clock: 0,
            budget: DEFAULT_HEAD_BUDGET_BYTES,
            offsets: [0; 2],
            budgets: [0; 2],
            last: None,
        }
    }

    pub(crate) fn opened(role: Role, preexisting: bool) -> Self {
        let mut wire = Self::new();
        wire.records.push(Record::Opened(ConnOpened {
            origin: Origin { time: at(0), thread: None, cpu: 0 },
            cookie: SocketCookie(1),
            peer_cookie: None,
            family: Family::Inet,
            role,
            local: Endpoint::default(),
            remote: Endpoint::default(),
            netns: 1,
            egress_seq: EGRESS_SEQ,
            ingress_seq: INGRESS_SEQ,
            preexisting,
            over: false,
            unix_path: Bytes::new(),
        }));
        wire
    }

    /// The connection was over before its program used it.
    pub(crate) fn over(mut self) -> Self {
        if let Some(Record::Opened(opened)) = self.records.first_mut() {
            opened.over = true;
        }
        self
    }

    pub(crate) fn offset(&self, direction: Direction) -> u64 {
        self.offsets[usize::from(direction.code())]
    }

    fn data(&mut self, direction: Direction, outcome: IoOutcome) -> DataMoved {
        self.clock += 1;
        let first = match direction {
            Direction::Egress => EGRESS_SEQ,
            Direction::Ingress => INGRESS_SEQ,
        };
        let moved = match outcome {
            IoOutcome::Moved(len) => u64::from(len),
            IoOutcome::EndOfStream | IoOutcome::Failed(_) => 0,
        };
        let offset = self.offset(direction);
        self.offsets[usize::from(direction.code())] += moved;
        DataMoved {
            time: at(self.clock),
            thread: thread(),
            cpu: 0,
            cookie: SocketCookie(1),
            direction,
            offset,
            outcome,
            tcp_seq_end: first.wrapping_add((offset + moved) as u32),
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

    /// An operation that moves `bytes`.
    pub(crate) fn moves(&mut self, direction: Direction, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let budget = &mut self.budgets[usize::from(direction.code())];
        if self.last.replace(direction) != Some(direction) {
            *budget = self.budget;
        }
        let len = bytes.len() as u32;
        let head = len.min(*budget);
        *budget -= head;
        let tail = (len - head).min(TAIL_BYTES);
        let whole = DataMoved {
            head_len: head,
            tail_len: tail,
            last: false,
            ..self.data(direction, IoOutcome::Moved(len))
        };
        let mut chunks: Vec<(u32, u32)> = (0..head)
            .step_by(MAX_CHUNK_BYTES as usize)
            .map(|start| (start, head.min(start + MAX_CHUNK_BYTES)))
            .collect();
        if tail > 0 {
            chunks.push((len - tail, len));
        }
        let count = chunks.len();
        for (n, (start, end)) in chunks.into_iter().enumerate() {
            self.records.push(Record::Data(DataMoved {
                chunk_offset: start,
                payload: Bytes::copy_from_slice(&bytes[start as usize..end as usize]),
                last: n + 1 == count,
                ..whole.clone()
            }));
        }
    }

    /// An operation whose bytes the kernel half cannot see.
    pub(crate) fn moves_unseen(&mut self, direction: Direction, len: u32, state: PayloadState) {
        self.last = Some(direction);
        let plan = if state == PayloadState::NoUserBuffer { 0 } else { len };
        let event =
            DataMoved { payload_state: state, head_len: plan, ..self.data(direction, IoOutcome::Moved(len)) };
        self.records.push(Record::Data(event));
    }

    pub(crate) fn fails(&mut self, direction: Direction, errno: u32) {
        let event = self.data(direction, IoOutcome::Failed(errno));
        self.records.push(Record::Data(event));
    }

    pub(crate) fn ends(&mut self) {
        let event = self.data(Direction::Ingress, IoOutcome::EndOfStream);
        self.records.push(Record::Data(event));
    }

    /// `by_process`: the program closed it, else the network did.
    pub(crate) fn closes(&mut self, by_process: bool) {
        self.clock += 1;
        self.records.push(Record::Closed(ConnClosed {
            origin: Origin { time: at(self.clock), thread: by_process.then(thread), cpu: 0 },
            cookie: SocketCookie(1),
            by_packet: !by_process,
            egress_bytes: self.offset(Direction::Egress),
            ingress_bytes: self.offset(Direction::Ingress),
        }));
    }
}

/// Feeds records, and finishes at the last one's time plus one.
pub(crate) fn run<'r>(records: impl IntoIterator<Item = &'r Record>) -> (Vec<ExchangeUpdate>, Connection) {
    let mut connection = Connection::new(&ConnectionLimits::default().into());
    let mut out = Vec::new();
    let mut clock = at(0);
    for record in records {
        clock = feed(&mut connection, record, &mut out).max(clock);
    }
    connection.finish(KernelInstant::from_nanos(clock.as_nanos() + 1), &mut out);
    (out, connection)
}

pub(crate) fn feed(
    connection: &mut Connection,
    record: &Record,
    out: &mut Vec<ExchangeUpdate>,
) -> KernelInstant {
    match record {
        Record::Opened(event) => {
            connection.handle_opened(event);
            event.origin.time
        }
        Record::Data(event) => {
            connection.handle_data(&mut event.clone(), out);
            event.time
        }
        Record::Closed(event) => {
            connection.handle_closed(event, out);
            event.origin.time
        }
    }
}

/// One line for an update: `0 > GET /path @first..last t` and so on.
pub(crate) fn render(update: &ExchangeUpdate) -> String {
    let len = |len: &BodyLen| match len {
        BodyLen::Exact(n) => n.to_string(),
        BodyLen::Unknown => "?".to_owned(),
    };
    let index = update.id().index;
    match update {
        ExchangeUpdate::RequestBegan { request, first, head_last, .. } => format!(
            "{index} > {} {} @{}..{} t{}..{}",
            request.method.as_deref().unwrap_or("?"),
            request.target.as_deref().unwrap_or("?"),
            first.offset,
            head_last.offset,
            first.time.as_nanos(),
            head_last.time.as_nanos()
        ),
        ExchangeUpdate::RequestEnded { last, body_len, .. } => {
            format!("{index} >| @{} t{} len {}", last.offset, last.time.as_nanos(), len(body_len))
        }
        ExchangeUpdate::ResponseBegan { response, first, .. } => {
            let status = response.status.map_or("?".to_owned(), |status| status.to_string());
            format!("{index} < {status} @{} t{}", first.offset, first.time.as_nanos())
        }
        ExchangeUpdate::Ended { last, time, outcome, response_body_len, incomplete, .. } => {
            let mut line = match outcome {
                Outcome::Complete => format!("{index} complete"),
                Outcome::Upgraded => format!("{index} upgraded"),
                Outcome::NoResponse => format!("{index} no response"),
                Outcome::ResponseCut => format!("{index} cut"),
                Outcome::Reset(Some(error)) => format!("{index} reset {error}"),
                Outcome::Reset(None) => format!("{index} reset"),
                Outcome::Dropped => format!("{index} dropped"),
                Outcome::Lost => format!("{index} lost"),
                Outcome::StillOpen => format!("{index} open"),
            };
            if let Some(last) = last {
                line += &format!(" @{}", last.offset);
            }
            line += &format!(" t{}", time.as_nanos());
            if let Some(body) = response_body_len {
                line += &format!(" len {}", len(body));
            }
            if let Some(reason) = incomplete {
                line += &format!(" {}", Incomplete::as_str(*reason));
            }
            line
        }
    }
}

/// One line for a record.
pub(crate) fn short(record: &Record) -> String {
    match record {
        Record::Opened(_) => "opened".to_owned(),
        Record::Closed(_) => "closed".to_owned(),
        Record::Data(event) => {
            let (time, offset, at) = (event.time.as_nanos(), event.offset, event.chunk_offset);
            format!("t{time} {:?} {offset}+{at} {:?} {:?}", event.direction, event.outcome, event.payload)
        }
    }
}
