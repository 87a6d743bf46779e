//! Owned, validated form of what the kernel half reports, and of the facts that user space adds.
//!
//! Everything a run depends on is an [`Event`], so a recording of them needs nothing else of the host it was made on.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tracer_abi::conn::{Direction, Endpoint, Family, Role, SocketCookie};
use tracer_abi::error::{KernelLoss, PayloadState};
use tracer_abi::event::{Awaited, RecordStart, Runtime};
use tracer_abi::openssl::RANDOM_BYTES;
use tracer_abi::python::TaskId;
use tracer_abi::python_work::MAX_FUTURES;
use tracer_abi::sniff::Class;
use tracer_abi::task::{ProcessKey, Tgid, Tid};
use tracer_abi::time::KernelInstant;

/// One fact, in the order in which it was learned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A socket operation, or a further chunk of one.
    DataMoved(DataMoved),
    /// What a TLS library handed over, or was handed.
    PlaintextMoved(Box<PlaintextMoved>),
    /// A socket operation of a TLS connection, without its bytes.
    CiphertextMoved(Box<CiphertextMoved>),
    /// A record of TLS moved on a socket, or a library has encrypted or decrypted one.
    RecordSealed(RecordSealed),
    SessionEnded(SessionEnded),
    SessionSecured(Box<SessionSecured>),
    ConnOpened(ConnOpened),
    ConnClosed(ConnClosed),
    ListenStarted(ListenStarted),
    ProcessForked(ProcessForked),
    ProcessExeced(ProcessExeced),
    TaskExited(TaskExited),
    /// Whose work a socket operation was.
    TaskIdentified(Box<TaskIdentified>),
    ThreadWoken(ThreadWoken),
    WorkSubmitted(WorkSubmitted),
    /// Added by user space: what a process is.
    ProcessDescribed(Box<ProcessDescribed>),
    /// Added by user space: a process's runtime is not asked any more, or is asked again. What it would have told until
    /// then is missing.
    AskingInterrupted {
        time: KernelInstant,
        process: ProcessKey,
    },
    /// Added by user space: the kernel half's loss counters grew.
    LossCounted {
        time: KernelInstant,
        loss: KernelLoss,
        count: u64,
    },
}

impl Event {
    /// When it happened, or was learned.
    pub fn time(&self) -> KernelInstant {
        match self {
            Self::DataMoved(event) => event.time,
            Self::PlaintextMoved(event) => event.data.time,
            Self::CiphertextMoved(event) => event.time,
            Self::RecordSealed(event) => event.time,
            Self::SessionEnded(event) => event.origin.time,
            Self::SessionSecured(event) => event.time,
            Self::ConnOpened(event) => event.origin.time,
            Self::ConnClosed(event) => event.origin.time,
            Self::ListenStarted(event) => event.origin.time,
            Self::ProcessForked(event) => event.origin.time,
            Self::ProcessExeced(event) => event.origin.time,
            Self::TaskExited(event) => event.origin.time,
            Self::TaskIdentified(event) => event.time,
            Self::ThreadWoken(event) => event.time,
            Self::WorkSubmitted(event) => event.time,
            Self::ProcessDescribed(event) => event.time,
            Self::AskingInterrupted { time, .. } | Self::LossCounted { time, .. } => *time,
        }
    }
}

/// Who and when: the validated header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    pub time: KernelInstant,
    /// `None` in softirq context.
    pub thread: Option<Thread>,
    pub cpu: u32,
}

/// A thread of a process at one of its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thread {
    pub process: ProcessKey,
    pub tid: Tid,
    /// Number of the event on this thread; zero when it has none. See `tracer_abi::event::Header::thread_seq`.
    pub seq: u32,
}

impl Thread {
    /// For what a process does, whichever thread it happens to be on.
    pub(crate) const fn nobodys(self) -> Self {
        Self { process: self.process, tid: Tid(0), seq: 0 }
    }

    pub(crate) const fn is_nobodys(self) -> bool {
        self.tid.0 == 0
    }
}

/// See `tracer_abi::event::DataRecord`, whose fields these are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataMoved {
    pub time: KernelInstant,
    pub thread: Thread,
    pub cpu: u32,
    pub cookie: SocketCookie,
    pub direction: Direction,
    /// Stream position of the operation's first byte.
    pub offset: u64,
    pub outcome: IoOutcome,
    /// TCP sequence number after the operation's last byte. Meaningful on TCP sockets only.
    pub tcp_seq_end: u32,
    /// How many bytes at the start and at the end of the operation the kernel half meant to capture.
    pub head_len: u32,
    pub tail_len: u32,
    /// Where in the operation `payload` begins.
    pub chunk_offset: u32,
    pub payload: Bytes,
    pub payload_state: PayloadState,
    /// No further record of this operation follows.
    pub last: bool,
    /// The kernel half will report no more operations of this socket.
    pub muted: bool,
    /// The operation begins with the header of an HTTP/2 frame: the kernel half has followed them since the connection's
    /// first byte.
    pub frame: bool,
    pub class: Class,
    /// Whether the operation could have waited for its bytes; `None` where that is not known. Only a thread that
    /// waits in the reads of its connection is bound to that connection's request: an event loop at concurrency
    /// one looks the same in everything else.
    pub blocking: Option<bool>,
    pub waited: Waited,
    /// It was made by a TLS library whose plaintext is told of.
    pub in_tls_call: bool,
    pub nvcsw: u64,
    pub user_r14: u64,
    pub syscall: u16,
}

/// What a thread had slept for since its operation before, other than for other threads and for a time. Nothing is known
/// by default. See `tracer_abi::event::io_flags`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Waited {
    pub known: bool,
    /// For one socket, which it used then.
    pub alone: bool,
    /// For one descriptor, but it used another socket then.
    pub aside: bool,
    /// For any of several descriptors.
    pub several: bool,
}

/// Plaintext of a TLS session, as an operation of a stream of its own. See `tracer_abi::event::Source::OpenSsl`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaintextMoved {
    /// Address of the session in the process.
    pub session: u64,
    /// Received: as much as was asked for, so that more of the same TLS record may follow.
    pub filled: bool,
    /// Where in what its call moved this begins, and how much that was.
    pub at: u32,
    pub total: u32,
    /// How far into the connection's records the session had come at the call's end, modulo 2^32; where that is known
    /// and the call came to no socket.
    pub reached: Option<u32>,
    /// Where the library says so: the sequence number behind the last TLS record that it had written, or had taken from
    /// what it read. Zero: that is not known.
    pub record_end: Option<u32>,
    /// The sequence number behind the last byte that the call itself moved on a socket, in its own direction: what it sent
    /// ends there, what it received is before it. `None`: it came to no socket.
    pub moved_to: Option<u32>,
    /// Of a library that is asked for single records: it is that of the record which was told of last with the session, whose
    /// seal this is the low half of.
    pub seal: Option<u32>,
    /// Its cookie and its sequence number mean nothing.
    pub data: DataMoved,
}

/// See `tracer_abi::event::CiphertextRecord`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CiphertextMoved {
    pub time: KernelInstant,
    pub process: ProcessKey,
    pub cookie: SocketCookie,
    /// The session in whose call the thread was.
    pub session: Option<u64>,
    pub direction: Direction,
    pub tcp_seq_end: u32,
    /// Bytes that moved; never zero.
    pub op_len: u32,
    pub starts: Vec<RecordStart>,
    /// Another event tells more of the operation.
    pub more: bool,
    /// Where records begin is not known from here on.
    pub lost: bool,
    /// The operation's first bytes, where they may be of a hello.
    pub hello: Bytes,
}

/// A record of TLS that carries data, by its own bytes. See `tracer_abi::event::SealedRecord`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordSealed {
    pub time: KernelInstant,
    pub process: ProcessKey,
    pub place: SealedPlace,
    pub direction: Direction,
    pub seal: u64,
    /// Bytes behind its header.
    pub len: u16,
}

/// Where a record of TLS was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SealedPlace {
    /// On a socket; `seq` is the sequence number of its header's first byte.
    Socket { cookie: SocketCookie, seq: u32 },
    /// In a library, with the session whose plaintext it holds; `birth` is another one for what is at the address later.
    Library { session: u64, birth: u32 },
}

/// The hellos of a TLS session, before its first plaintext. See `tracer_abi::event::SessionSecuredRecord`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionSecured {
    pub time: KernelInstant,
    pub process: ProcessKey,
    pub session: u64,
    pub client_random: [u8; RANDOM_BYTES],
    pub server_random: [u8; RANDOM_BYTES],
    pub is_server: bool,
}

/// A TLS session was freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionEnded {
    pub origin: Origin,
    pub session: u64,
}

/// How a socket operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoOutcome {
    /// This many bytes moved; never zero.
    Moved(u32),
    /// The peer ended its direction.
    EndOfStream,
    /// `errno`, positive.
    Failed(u32),
}

/// See `tracer_abi::event::ConnRecord`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnOpened {
    pub origin: Origin,
    pub cookie: SocketCookie,
    /// Unix sockets: the other end, if that was told of before, or at the same time.
    pub peer_cookie: Option<SocketCookie>,
    pub family: Family,
    pub role: Role,
    pub local: Endpoint,
    pub remote: Endpoint,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// TCP: sequence number of the byte at egress position 0 of this socket's streams.
    pub egress_seq: u32,
    pub ingress_seq: u32,
    /// Older than the tracer: stream positions count from the first operation seen.
    pub preexisting: bool,
    /// Reset before its process used it, which may still read what had come. No [`ConnClosed`] follows.
    pub over: bool,
    /// Unix sockets: the name the server's end is bound to; an abstract one starts with NUL. Else empty.
    pub unix_path: Bytes,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnClosed {
    pub origin: Origin,
    pub cookie: SocketCookie,
    /// A packet did it, under a program that may be inside of an operation on it.
    pub by_packet: bool,
    pub egress_bytes: u64,
    pub ingress_bytes: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenStarted {
    pub origin: Origin,
    pub cookie: SocketCookie,
    pub local: Endpoint,
    pub netns: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessForked {
    pub origin: Origin,
    pub child: ProcessKey,
    pub child_tid: Tid,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessExeced {
    pub origin: Origin,
    pub comm: Bytes,
    pub parent: Tgid,
    pub filename: Bytes,
    /// Arguments, each ended by NUL, possibly cut.
    pub argv: Bytes,
    pub traced: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskExited {
    pub origin: Origin,
    pub process_gone: bool,
    /// Wait status.
    pub exit_code: u32,
}

/// See `tracer_abi::event::IdentityRecord`. It has the time, the thread and the number of the operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskIdentified {
    pub time: KernelInstant,
    pub thread: Thread,
    /// Of plaintext: the address of the session in the process.
    pub cookie: SocketCookie,
    pub of_plaintext: bool,
    pub runtime: Runtime,
    pub direction: Direction,
    /// Never empty: the task that acts, the one that waits for it, and so on.
    pub tasks: Vec<TaskId>,
    /// Of CPython's, for each of these: how it came to be.
    pub made: Vec<Made>,
    /// See `tracer_abi::event::IdentityRecord::end`.
    pub end: u8,
    /// Not of an operation: of this stream of the connection. See `tracer_abi::event::StreamRecord`.
    pub stream: Option<u32>,
}

/// See `tracer_abi::python::NUMBER_BITS`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Made {
    /// What its coroutine's code has in common with no other's, or hardly any.
    pub kind: u32,
    /// What waits for it has made it.
    pub own: bool,
}

/// See `tracer_abi::event::WokenRecord`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadWoken {
    pub time: KernelInstant,
    /// Who woke; its number counts its wake-ups alone.
    pub by: Thread,
    pub cpu: u32,
    pub woken: Tid,
    pub cause: Cause,
    /// Whose results it has to do with, where that is known.
    pub results: Option<Box<Results>>,
}

/// See `tracer_abi::event::WokenForRecord`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Results {
    /// The future of the work item inside of which the thread is that waits or submits.
    pub within: Option<u64>,
    /// Addresses; zeroes behind. The first is none.
    pub futures: [u64; MAX_FUTURES],
}

/// See `tracer_abi::event::SubmittedRecord`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkSubmitted {
    pub time: KernelInstant,
    /// Who submits; its number is among those of its wake-ups.
    pub by: Thread,
    pub cpu: u32,
    /// The item and, as its number, its future.
    pub work: TaskId,
    /// The future of the item inside of which the thread is.
    pub within: Option<u64>,
}

/// What made a thread go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The futex at this address, for which it slept since then, where that is known.
    Futex { address: u64, asleep_since: Option<KernelInstant>, awaited: Awaited },
    /// It was created.
    Born,
}

/// What a process is, as far as user space could learn. Sent again when it changes (exec).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessDescribed {
    pub time: KernelInstant,
    pub process: ProcessKey,
    pub facts: ProcessFacts,
}

/// Facts for the resource of a process's spans. Text is as found; the attribute stage escapes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessFacts {
    /// What a person would call it; never empty.
    pub service_name: String,
    pub executable_name: Option<String>,
    pub executable_path: Option<String>,
    /// Only when asked for: arguments can hold secrets.
    pub command_args: Option<Vec<String>>,
    pub owner: Option<String>,
    pub container_id: Option<String>,
    /// Pid as the process's own pid namespace numbers it, where that differs.
    pub ns_pid: Option<u32>,
    /// The process's own `OTEL_RESOURCE_ATTRIBUTES`, already parsed.
    pub resource_attributes: Vec<(String, String)>,
    /// Its own HTTP event loop is nginx's: enables the response-window rule.
    pub is_nginx: bool,
}

/// The host that the events come from: part of every resource, and of a recording's preamble.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostFacts {
    pub name: Option<String>,
    /// Machine id.
    pub id: Option<String>,
    /// As semantic conventions name it: `amd64`, `arm64`.
    pub arch: Option<String>,
    /// Kernel release.
    pub kernel_release: Option<String>,
}
