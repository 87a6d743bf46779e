//! Records: one `#[repr(C)]` struct per kind, each starting with [`Header`].

use crate::codes;
use crate::conn::{Endpoint, SocketCookie};
use crate::limits::{COMM_BYTES, UNIX_PATH_BYTES};
use crate::openssl::RANDOM_BYTES;
use crate::python::{CHAIN_TASKS, TaskId};
use crate::python_work::MAX_FUTURES;
use crate::task::{ProcessKey, Tgid, Tid};
use crate::time::KernelInstant;

codes! {
    /// Which record follows the header. Names are past-tense facts.
    "event kind" EventKind: u16 {
        /// [`DataRecord`]: a socket operation of a traced process, or a further chunk of one.
        DataMoved = 1,
        /// [`ConnRecord`]: a connection was opened or first seen.
        ConnOpened = 2,
        /// [`ConnClosedRecord`]
        ConnClosed = 3,
        /// [`ListenRecord`]
        ListenStarted = 4,
        /// [`ForkRecord`]
        ProcessForked = 5,
        /// [`ExecRecord`]
        ProcessExeced = 6,
        /// [`ExitRecord`]
        TaskExited = 7,
        /// [`IdentityRecord`]: whose work a socket operation was, as the program's runtime knows it.
        TaskIdentified = 8,
        /// [`WokenRecord`]
        ThreadWoken = 9,
        /// [`CiphertextRecord`]: a socket operation of a TLS connection whose plaintext is looked for.
        CiphertextMoved = 10,
        /// [`SessionEndedRecord`]
        SessionEnded = 11,
        /// [`SessionSecuredRecord`]
        SessionSecured = 12,
        /// [`WokenForRecord`]
        ThreadWokenFor = 13,
        /// [`StreamRecord`]
        StreamTaken = 14,
        /// [`SubmittedRecord`]
        WorkSubmitted = 15,
        /// [`SealedRecord`]: a record of TLS, by its own bytes.
        RecordSealed = 16,
    }
}

/// Common start of every record. Size 40.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// [`EventKind`]
    pub kind: u16,
    /// [`flags`]
    pub flags: u16,
    /// The whole record: header, fixed part and payload, in bytes.
    pub len_bytes: u32,
    pub time: KernelInstant,
    /// `group_leader->start_boottime` of the process in whose context the record was made; this field, `tgid` and
    /// `tid` are zero in softirq context.
    pub process_start_boottime: u64,
    pub tgid: Tgid,
    pub tid: Tid,
    /// Number of this event on its thread: 1 for the first that the kernel half tried to emit, one more for each
    /// operation after. All records of one operation share it. A jump means loss on this thread; a return to 1, a
    /// new thread. Zero: not tied to a thread.
    pub thread_seq: u32,
    pub cpu: u32,
}

impl Header {
    pub const fn process(&self) -> ProcessKey {
        ProcessKey { tgid: self.tgid, start_boottime: self.process_start_boottime }
    }
}

/// Bits of [`Header::flags`]. A bit belongs to the record kind that names it.
pub mod flags {
    /// DataMoved: the last record of its operation.
    pub const LAST: u16 = 1;
    /// ConnOpened: the connection existed before the tracer saw it open; offsets count from here on.
    pub const PREEXISTING: u16 = 1 << 1;
    /// TaskExited: the last thread of its process.
    pub const PROCESS_GONE: u16 = 1 << 2;
    /// ProcessExeced: the kernel half was already tracing the process.
    pub const TRACED: u16 = 1 << 3;
    /// DataMoved: the kernel half stops reporting this socket (class not worth following); only
    /// `ConnClosed` follows.
    pub const MUTED: u16 = 1 << 4;
    /// DataMoved: begins with the header of an HTTP/2 frame, whose place was followed from the connection's first byte.
    pub const FRAME: u16 = 1 << 5;
    /// TaskIdentified: of an operation of plaintext. In place of the socket's cookie it has the address of the session.
    pub const PLAINTEXT: u16 = 1 << 6;
    /// ConnOpened: the connection was over before its process used it, which may still read what had come. No `ConnClosed`
    /// follows.
    pub const OVER: u16 = 1 << 7;
    /// ConnClosed: by a packet, such as a reset, under a program that had not ended both directions. It may be inside of an
    /// operation, which is told of when it is done.
    pub const BY_PACKET: u16 = 1 << 8;
}

codes! {
    /// Where the bytes of a [`DataRecord`] were taken from.
    "source" Source: u8 {
        /// The socket layer: what the kernel sent or received.
        Socket = 0,
        /// OpenSSL's own calls: plaintext. In place of the socket's cookie the record has the address of the session
        /// (`SSL *`) in the process; positions are those of the session's plaintext, from its first call seen on. The
        /// sequence number is that behind the last byte that the call itself moved on a socket in its own direction; zero: it
        /// came to none, or that is not known to carry TLS.
        OpenSsl = 1,
        /// The same, of a call that came to no socket. In place of the sequence number: how many bytes of records the
        /// session has written (sent) or read (received) at the call's end, modulo 2^32.
        OpenSslPlaced = 2,
        /// Go's `crypto/tls`: plaintext as of [`Source::OpenSsl`], with the address of the `tls.Conn`. The sequence number is
        /// that behind the last TLS record that the call has written to the socket, or has looked at of what was read from
        /// it; zero: not known. It is a goroutine's operation, which may have gone on on another thread: it has no number
        /// among those of its thread.
        GoTls = 3,
        /// GnuTLS's own calls: plaintext as of [`Source::OpenSsl`], with the address of the `gnutls_session_t`.
        GnuTls = 4,
        /// rustls: the plaintext of one TLS record, as of [`Source::OpenSsl`], with the address of what encrypts or decrypts
        /// one direction of a connection. In place of the sequence number: the low half of [`SealedRecord::seal`] of its
        /// record, which was told of directly before. A task may move it on any thread, and the socket later: it has no
        /// number among the operations of its thread.
        Rustls = 5,
    }
}

/// One socket operation that moved bytes, ended a stream or failed; or a further chunk of its payload.
///
/// `op_len` bytes from stream position `offset` moved. Of them the first `head_len` and the last `tail_len` are
/// captured; what lies between was elided on purpose. Each record of the operation carries the `payload_len`
/// bytes from `offset + chunk_offset`, directly behind this struct. Head and tail bytes that no record carried
/// were lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct DataRecord {
    pub header: Header,
    pub cookie: SocketCookie,
    /// Bytes that this socket had moved in this direction before the operation, since it was first seen.
    pub offset: u64,
    /// User register r14 at the system call, on x86_64: Go's current goroutine. Zero elsewhere.
    ///
    /// Of plaintext: where in its call this begins, in the low half, and how much the call moved in the high half. One of
    /// HTTP/2 may be several operations.
    pub user_r14: u64,
    /// Voluntary context switches of the thread so far: unchanged between two events = it never blocked.
    ///
    /// Of [`Source::GoTls`]: the goroutine whose call it was.
    pub nvcsw: u64,
    /// Bytes moved (positive), end of stream (zero, ingress), or `-errno`.
    pub result: i32,
    /// TCP: the sequence number after the last byte (`write_seq` or `copied_seq`). Else zero: not known.
    pub tcp_seq_end: u32,
    pub head_len: u32,
    pub tail_len: u32,
    pub chunk_offset: u32,
    /// Bytes of payload behind this struct.
    pub payload_len: u32,
    /// System call number in user registers; metadata only.
    pub syscall: u16,
    /// [`crate::conn::Direction`]
    pub direction: u8,
    /// [`Source`]
    pub source: u8,
    /// [`crate::error::PayloadState`]
    pub payload_state: u8,
    /// [`crate::sniff::Class`] of the socket as the kernel half sees it.
    pub class: u8,
    /// [`io_flags`]
    pub io_flags: u8,
    pub reserved: u8,
}

/// Bits of [`DataRecord::io_flags`].
pub mod io_flags {
    /// The operation could not have waited: the file had `O_NONBLOCK` (`sk->sk_socket->file->f_flags`) or the
    /// call `MSG_DONTWAIT`. Event loops read so; a thread that waits in the read of its own connection does not,
    /// which tells a loop that serves one request at a time from a thread per request.
    pub const NONBLOCKING: u8 = 1;
    /// Whether the operation could wait is not known.
    pub const BLOCKING_UNKNOWN: u8 = 1 << 1;
    /// What the thread has slept for since the operation before is known: its process's hand-offs are followed. Three
    /// further bits say what it was.
    pub const WAITS_KNOWN: u8 = 1 << 2;
    /// For one socket alone, which it used next. An event that its own process gives off may have been awaited beside.
    pub const WAITED_ALONE: u8 = 1 << 3;
    /// For one descriptor alone, but it used another socket next.
    pub const WAITED_ASIDE: u8 = 1 << 4;
    /// For any of several descriptors, as event loops do.
    pub const WAITED_SEVERAL: u8 = 1 << 5;
    /// Plaintext that was received: the program's buffer was filled, so that more of the same TLS record may follow.
    pub const FILLED: u8 = 1 << 6;
    /// The thread was in a watched call of a TLS library, which is where the plaintext is told of.
    pub const IN_TLS_CALL: u8 = 1 << 7;
}

/// A TLS record of a stream (RFC 8446 section 5.1): its header, which is not encrypted, and where it begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RecordStart {
    /// Where its header begins, counted from the operation's first byte. Negative: in an operation before.
    pub at: i32,
    /// Bytes behind the header.
    pub len: u16,
    /// `ContentType`
    pub kind: u8,
    /// Minor part of the version.
    pub version: u8,
}

/// Headers in one [`CiphertextRecord`]. A read of OpenSSL's is of one header or one record, or of 16 KiB at most.
pub const RECORD_STARTS: usize = 16;

/// A socket operation of a TLS connection: of its bytes, only the headers of TLS records. One with more headers than fit
/// has several of these; all but the last one have [`ciphertext_flags::MORE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct CiphertextRecord {
    pub header: Header,
    pub cookie: SocketCookie,
    /// In whose call the thread was: address of the session in the process; zero, in none that is known.
    pub session: u64,
    /// As of [`DataRecord`].
    pub tcp_seq_end: u32,
    /// Bytes that moved.
    pub op_len: u32,
    /// Headers that ended in this operation, in order.
    pub starts: [RecordStart; RECORD_STARTS],
    /// How many of them there are.
    pub count: u8,
    /// [`crate::conn::Direction`]
    pub direction: u8,
    /// [`ciphertext_flags`]
    pub flags: u8,
    pub reserved: u8,
    /// Bytes from the operation's start, behind this struct: of the first ones of a direction only, where the hellos are.
    pub payload_len: u32,
}

/// Bits of [`CiphertextRecord::flags`].
pub mod ciphertext_flags {
    /// Another record tells more of this operation.
    pub const MORE: u8 = 1;
    /// Where TLS records begin is not known from here on, until a header is found again.
    pub const LOST: u8 = 1 << 1;
}

/// Where in what is behind a record's header its seal is. Before it may be a nonce that only counts (RFC 5288 section 3),
/// which records of all connections share.
pub const SEAL_AT: u64 = 8;

/// A record of TLS that carries data: one that moved on a socket, or one that a library has encrypted or decrypted. They are
/// the same where their seals are: eight bytes of ciphertext, which nobody but its keys' owners can make, and which no two
/// records share by chance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SealedRecord {
    pub header: Header,
    /// The socket's cookie, or as that of plaintext of [`Source::Rustls`].
    pub owner: u64,
    /// Eight bytes from [`SEAL_AT`] on, the first one lowest.
    pub seal: u64,
    /// On a socket: sequence number of its header's first byte. In a library: another number for whatever else is at the
    /// session's address later.
    pub seq: u32,
    /// Bytes behind the header.
    pub len: u16,
    /// [`crate::conn::Direction`]
    pub direction: u8,
    /// Not zero: the library's.
    pub in_library: u8,
}

/// A session of a TLS library was freed: its address may be another session's from now on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SessionEndedRecord {
    pub header: Header,
    pub session: u64,
}

/// The hellos of a TLS session, before its first plaintext. On the socket they are in clear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SessionSecuredRecord {
    pub header: Header,
    pub session: u64,
    /// What is random in each.
    pub client_random: [u8; RANDOM_BYTES],
    pub server_random: [u8; RANDOM_BYTES],
    /// Not zero: the session is the server's.
    pub is_server: u32,
    pub reserved: u32,
}

/// A connection: when it was established, or at its first operation when it is older than the tracer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ConnRecord {
    pub header: Header,
    pub cookie: SocketCookie,
    /// Unix sockets: the other end, if that has been told of before, or at the same time. Else zero.
    pub peer_cookie: SocketCookie,
    pub local: Endpoint,
    pub remote: Endpoint,
    /// Inode number of the network namespace.
    pub netns: u32,
    /// TCP: sequence number of the next byte sent (`write_seq`) when the record was made.
    pub egress_seq: u32,
    /// TCP: sequence number of the next byte to be read (`copied_seq`).
    pub ingress_seq: u32,
    /// [`crate::conn::Family`]
    pub family: u16,
    /// [`crate::conn::Role`]
    pub role: u8,
    /// Length of the valid part of `unix_path`; an abstract name starts with NUL.
    pub unix_path_len: u8,
    /// Unix sockets: the bound name of the server's end, as far as known.
    pub unix_path: [u8; UNIX_PATH_BYTES],
}

/// A connection ended. Made in whatever context closed it, so the process may be absent, or another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ConnClosedRecord {
    pub header: Header,
    pub cookie: SocketCookie,
    /// Bytes moved since first seen.
    pub egress_bytes: u64,
    pub ingress_bytes: u64,
}

/// A process began to listen on a TCP port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ListenRecord {
    pub header: Header,
    pub cookie: SocketCookie,
    pub local: Endpoint,
    pub netns: u32,
}

/// A process was created (threads are not reported). The header names the parent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ForkRecord {
    pub header: Header,
    pub child_start_boottime: u64,
    pub child: Tgid,
    pub child_tid: Tid,
}

/// A process replaced its program. Behind this struct: `filename_len` bytes of path, `argv_len` bytes of arguments,
/// each argument ended by NUL, cut at the limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ExecRecord {
    pub header: Header,
    pub comm: [u8; COMM_BYTES],
    pub parent: Tgid,
    pub filename_len: u32,
    pub argv_len: u32,
    pub reserved: u32,
}

/// A thread ended; with [`flags::PROCESS_GONE`] its process too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ExitRecord {
    pub header: Header,
    /// `task_struct::exit_code`: wait status as `wait(2)` gives it.
    pub exit_code: u32,
    pub reserved: u32,
}

codes! {
    /// Whose notion of a task an [`IdentityRecord`] holds.
    "runtime" Runtime: u8 {
        /// Tasks of CPython's asyncio.
        Python = 1,
        /// Goroutines.
        Go = 2,
        /// Tasks of tokio.
        Tokio = 3,
        /// Greenlets, of gevent.
        Greenlet = 4,
        /// Virtual threads of Java.
        Java = 5,
        /// Work items of CPython's pools.
        PythonWork = 6,
        /// Tasks of Java's pools.
        JavaWork = 7,
        /// Requests of nginx.
        Nginx = 8,
        /// Who makes tasks of CPython's `asyncio`. Not of an operation: there is no [`DataRecord`].
        PythonMaker = 9,
    }
}

/// Whose work a socket operation was. It has the thread, the number and the time of the operation, of which there is a
/// [`DataRecord`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct IdentityRecord {
    pub header: Header,
    pub cookie: SocketCookie,
    /// Python, sends: the task that runs, the task that waits for it, and so on; the first `len` of them, each with its kind
    /// ([`crate::python::NUMBER_BITS`]). Receives: the task that waited for these very bytes, or zeroes, and then as an
    /// address the number of the youngest task.
    ///
    /// Go: the goroutine that runs. Then on a connection of `net/http`'s client the goroutine that waits for the call, or
    /// zeroes, and where that was started and the number of the one that started it ([`crate::golang::Waiter`]). Else,
    /// receives only and where that can be known, as words: [`crate::golang::last_number`], and from
    /// [`crate::golang::FIRST_CACHE`] on [`crate::golang::unused`] of each processor.
    ///
    /// Python, who makes tasks: the new one, with the number that it gets unless it is given a name, or zero where that is not
    /// known; and the one that runs, which makes it, or zeroes.
    ///
    /// Greenlets, virtual threads: the one that runs.
    ///
    /// Work items: the address of the innermost that the thread is in, and as its number that of its future.
    ///
    /// nginx: the address of the client's connection for whose request the operation is, and as its number the cookie of that
    /// connection's socket. Then, where the request is a stream, as an address its number.
    ///
    /// Tokio: as [`crate::tokio::walk_end`] says; calls: the task that makes it, the one that waits for that task, and so on.
    pub tasks: [TaskId; CHAIN_TASKS],
    /// What it took to find out.
    pub cost_nanos: u32,
    /// [`Runtime`]
    pub runtime: u8,
    /// [`crate::conn::Direction`]
    pub direction: u8,
    pub len: u8,
    /// [`crate::python_chain::chain_end`], [`crate::tokio::walk_end`]
    pub end: u8,
}

/// A goroutine takes up a stream of an HTTP/2 connection, whose frames others read and write: as [`IdentityRecord`], but of no
/// operation. Ingress: it serves the stream, and the tasks are as of a receive. Egress: it sends the stream's request, and the
/// tasks are as of a call of `net/http`'s; of the one that waits, the number alone may be known, and nothing of who started it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct StreamRecord {
    pub identity: IdentityRecord,
    /// The stream's number on its connection.
    pub stream: u32,
    pub reserved: u32,
}

codes! {
    /// What made a thread go on: [`WokenRecord::cause`].
    "wake cause" WakeCause: u16 {
        /// A thread called futex to wake, and the other slept in futex at the same address.
        Futex = 0,
        /// It was created.
        Born = 1,
    }
}

codes! {
    /// What a woken thread had waited for, as its runtime knows: [`WokenRecord::awaited`].
    "awaited" Awaited: u16 {
        /// Not known: its runtime is not, or it did not run there.
        Unknown = 0,
        /// The result or the end of what another thread does: of a future, or of the thread itself. It is no proof that what
        /// its waker did before was for it: a pool's thread goes from task to task, and a task may do the work of many.
        Result = 1,
        /// Anything else: a place in a queue, a lock, an event, work.
        Other = 2,
        /// What a queue has, or a place in one, where the two are not told apart.
        Queue = 3,
        /// As `Result`, of a task that the woken thread itself has made for what it does now.
        OwnResult = 4,
    }
}

/// A thread of a process whose hand-offs are followed woke another one of it. The header names the thread that did, and
/// its `thread_seq` counts these records of it alone, apart from those of its operations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct WokenRecord {
    pub header: Header,
    /// User address of the futex. Zero for a thread that was created.
    pub futex: u64,
    /// Since when the woken thread had slept. Zero when that is not known.
    pub asleep_since: KernelInstant,
    pub woken: Tid,
    /// [`WakeCause`]
    pub cause: u16,
    /// [`Awaited`]
    pub awaited: u16,
}

/// As [`WokenRecord`], where it is known whose results the two threads have to do with. All are addresses of futures of
/// CPython's pools, or name tasks of Java's ([`crate::java_work`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct WokenForRecord {
    pub woken: WokenRecord,
    /// That of the work item inside of which the thread is that waits or submits. Zero: it is in none that is known.
    pub within: u64,
    /// The woken thread waits for a result ([`Awaited::Result`], [`Awaited::OwnResult`]): those that it waits for, as many as
    /// fit. Else: the one that the waking thread is submitting. Zeroes behind.
    pub futures: [u64; MAX_FUTURES],
}

/// A thread submits a work item to a pool of CPython's, before any thread can take it. `thread_seq` counts it among the
/// thread's [`WokenRecord`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct SubmittedRecord {
    pub header: Header,
    /// The item and, as its number, its future.
    pub work: TaskId,
    /// The future of the item inside of which the thread is. Zero: it is in none that is known.
    pub within: u64,
}

impl Default for ConnRecord {
    fn default() -> Self {
        Self {
            header: Header::default(),
            cookie: SocketCookie::default(),
            peer_cookie: SocketCookie::default(),
            local: Endpoint::default(),
            remote: Endpoint::default(),
            netns: 0,
            egress_seq: 0,
            ingress_seq: 0,
            family: 0,
            role: 0,
            unix_path_len: 0,
            unix_path: [0; UNIX_PATH_BYTES],
        }
    }
}
