//! One kernel record to one [`Event`]: total, without unsafe code.
//!
//! Records are read field by field at the offsets that `tracer_abi` gives its structs, never by casting, so any
//! bytes are safe to pass. Multi-byte fields are little-endian: every target that the kernel half is built for is.
//! What a record *means* for a stream or an exchange is not decided here.

use std::mem::offset_of;

use bytes::{Bytes, BytesMut};
use tracer_abi::UnknownCode;
use tracer_abi::conn::{Direction, Endpoint, Family, Role, SocketCookie};
use tracer_abi::error::PayloadState;
use tracer_abi::event::{
    Awaited, CiphertextRecord, ConnClosedRecord, ConnRecord, DataRecord, EventKind, ExecRecord, ExitRecord,
    ForkRecord, Header, IdentityRecord, ListenRecord, RECORD_STARTS, RecordStart, Runtime, SealedRecord,
    SessionEndedRecord, SessionSecuredRecord, Source, StreamRecord, SubmittedRecord, WakeCause,
    WokenForRecord, WokenRecord, ciphertext_flags, flags, io_flags,
};
use tracer_abi::limits::{COMM_BYTES, UNIX_PATH_BYTES};
use tracer_abi::python::{CHAIN_TASKS, NUMBER_BITS, OWN, TaskId};
use tracer_abi::python_work::MAX_FUTURES;
use tracer_abi::sniff::Class;
use tracer_abi::task::{ProcessKey, Tgid, Tid};
use tracer_abi::time::KernelInstant;

use crate::event::{
    Cause, CiphertextMoved, ConnClosed, ConnOpened, DataMoved, Event, IoOutcome, ListenStarted, Made, Origin,
    PlaintextMoved, ProcessExeced, ProcessForked, RecordSealed, Results, SealedPlace, SessionEnded,
    SessionSecured, TaskExited, TaskIdentified, Thread, ThreadWoken, Waited, WorkSubmitted,
};

#[cfg(target_endian = "big")]
compile_error!("records are little-endian: the kernel half is built for bpfel only");

/// Why a record is not an event. The caller counts it; nothing else is lost with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Fewer bytes than the header or the kind's fixed part.
    #[error("record of {len} bytes, at least {needed} expected")]
    TooShort { len: usize, needed: usize },
    /// A length field points outside of the record, or beyond what it describes.
    #[error("length field {field} does not fit its record")]
    BadLength { field: &'static str },
    /// A code that this version of the ABI does not have.
    #[error(transparent)]
    UnknownCode(#[from] UnknownCode),
}

/// Payload is copied into blocks of so many bytes, which are used again: an allocation for every record would cost more
/// than the copy. A block lives as long as the last event of it.
const BLOCK_BYTES: usize = 64 * 1024;

/// Turns many records into events, one after the other.
#[derive(Debug, Default)]
pub struct Decoder {
    block: BytesMut,
}

impl Decoder {
    /// As [`decode`]. The payloads of events may share memory: whoever keeps one for long keeps its neighbours.
    ///
    /// # Errors
    /// As [`decode`].
    pub fn decode(&mut self, record: &[u8]) -> Result<Event, DecodeError> {
        decode_with(record, |payload| {
            if payload.len() > self.block.capacity() {
                self.block.reserve(payload.len().max(BLOCK_BYTES));
            }
            self.block.extend_from_slice(payload);
            self.block.split().freeze()
        })
    }
}

/// Turns one record, as it lies in the ring buffer, into an event.
///
/// # Errors
/// A [`DecodeError`] for every byte sequence that the kernel half of this ABI version does not emit.
pub fn decode(record: &[u8]) -> Result<Event, DecodeError> {
    decode_with(record, Bytes::copy_from_slice)
}

fn decode_with(record: &[u8], keep: impl FnOnce(&[u8]) -> Bytes) -> Result<Event, DecodeError> {
    let fields = Fields { record };
    fields.require(size_of::<Header>())?;
    let kind = EventKind::try_from(fields.u16(offset_of!(Header, kind)))?;
    let flags = fields.u16(offset_of!(Header, flags));
    let len = fields.u32(offset_of!(Header, len_bytes)) as usize;
    // The ring rounds records up to 8 bytes; a shorter one than it claims was torn.
    if len > record.len() || len < size_of::<Header>() {
        return Err(DecodeError::BadLength { field: "len_bytes" });
    }
    let fields = Fields { record: &record[..len] };
    match kind {
        EventKind::DataMoved => data_moved(fields, flags, keep),
        EventKind::CiphertextMoved => {
            ciphertext_moved(fields, keep).map(Box::new).map(Event::CiphertextMoved)
        }
        EventKind::RecordSealed => record_sealed(fields).map(Event::RecordSealed),
        EventKind::SessionEnded => session_ended(fields).map(Event::SessionEnded),
        EventKind::SessionSecured => session_secured(fields).map(Box::new).map(Event::SessionSecured),
        EventKind::ConnOpened => conn_opened(fields, flags).map(Event::ConnOpened),
        EventKind::ConnClosed => conn_closed(fields, flags).map(Event::ConnClosed),
        EventKind::ListenStarted => listen_started(fields).map(Event::ListenStarted),
        EventKind::ProcessForked => process_forked(fields).map(Event::ProcessForked),
        EventKind::ProcessExeced => process_execed(fields, flags).map(Event::ProcessExeced),
        EventKind::TaskExited => task_exited(fields, flags).map(Event::TaskExited),
        EventKind::TaskIdentified => task_identified(fields, flags).map(Box::new).map(Event::TaskIdentified),
        EventKind::StreamTaken => stream_taken(fields, flags).map(Box::new).map(Event::TaskIdentified),
        EventKind::ThreadWoken => thread_woken(fields).map(Event::ThreadWoken),
        EventKind::ThreadWokenFor => thread_woken_for(fields).map(Event::ThreadWoken),
        EventKind::WorkSubmitted => work_submitted(fields).map(Event::WorkSubmitted),
    }
}

fn data_moved(
    record: Fields<'_>,
    flags: u16,
    keep: impl FnOnce(&[u8]) -> Bytes,
) -> Result<Event, DecodeError> {
    record.require(size_of::<DataRecord>())?;
    // Of a length that the compiler knows, so that it sees every field to be inside.
    let fixed = record.record.first_chunk::<{ size_of::<DataRecord>() }>();
    let fields = Fields { record: fixed.map_or(&[], |fixed| fixed.as_slice()) };
    let direction = Direction::try_from(fields.u8(offset_of!(DataRecord, direction)))?;
    let source = Source::try_from(fields.u8(offset_of!(DataRecord, source)))?;
    let io = fields.u8(offset_of!(DataRecord, io_flags));
    let result = fields.u32(offset_of!(DataRecord, result)) as i32;
    let outcome = match result {
        0 => IoOutcome::EndOfStream,
        1.. => IoOutcome::Moved(result.unsigned_abs()),
        _ => IoOutcome::Failed(result.unsigned_abs()),
    };
    let moved = match outcome {
        IoOutcome::Moved(moved) => moved,
        IoOutcome::EndOfStream | IoOutcome::Failed(_) => 0,
    };
    let head_len = fields.u32(offset_of!(DataRecord, head_len));
    let tail_len = fields.u32(offset_of!(DataRecord, tail_len));
    if head_len.checked_add(tail_len).is_none_or(|planned| planned > moved) {
        return Err(DecodeError::BadLength { field: "head_len" });
    }
    let chunk_offset = fields.u32(offset_of!(DataRecord, chunk_offset));
    let payload_len = fields.u32(offset_of!(DataRecord, payload_len));
    if chunk_offset.checked_add(payload_len).is_none_or(|end| end > moved) {
        return Err(DecodeError::BadLength { field: "chunk_offset" });
    }
    let payload = record.behind(size_of::<DataRecord>(), payload_len, "payload_len")?;
    let payload_state = PayloadState::try_from(fields.u8(offset_of!(DataRecord, payload_state)))?;
    let class = Class::try_from(fields.u8(offset_of!(DataRecord, class)))?;
    let cookie = fields.cookie(offset_of!(DataRecord, cookie));
    let data = DataMoved {
        time: fields.time(),
        thread: fields.thread(),
        cpu: fields.u32(offset_of!(Header, cpu)),
        cookie,
        direction,
        offset: fields.u64(offset_of!(DataRecord, offset)),
        outcome,
        tcp_seq_end: fields.u32(offset_of!(DataRecord, tcp_seq_end)),
        head_len,
        tail_len,
        chunk_offset,
        payload: keep(payload),
        payload_state,
        last: flags & flags::LAST != 0,
        muted: flags & flags::MUTED != 0,
        frame: flags & flags::FRAME != 0,
        class,
        blocking: (io & io_flags::BLOCKING_UNKNOWN == 0).then_some(io & io_flags::NONBLOCKING == 0),
        waited: Waited {
            known: io & io_flags::WAITS_KNOWN != 0,
            alone: io & io_flags::WAITED_ALONE != 0,
            aside: io & io_flags::WAITED_ASIDE != 0,
            several: io & io_flags::WAITED_SEVERAL != 0,
        },
        in_tls_call: io & io_flags::IN_TLS_CALL != 0,
        nvcsw: fields.u64(offset_of!(DataRecord, nvcsw)),
        user_r14: fields.u64(offset_of!(DataRecord, user_r14)),
        syscall: fields.u16(offset_of!(DataRecord, syscall)),
    };
    Ok(match source {
        Source::Socket => Event::DataMoved(data),
        Source::OpenSsl | Source::OpenSslPlaced | Source::GoTls | Source::GnuTls | Source::Rustls => {
            let filled = io & io_flags::FILLED != 0;
            let reached = (source == Source::OpenSslPlaced).then_some(data.tcp_seq_end);
            let of_goroutine = source == Source::GoTls;
            let record_end = of_goroutine.then_some(data.tcp_seq_end);
            let in_call = matches!(source, Source::OpenSsl | Source::GnuTls);
            let moved_to = Some(data.tcp_seq_end).filter(|seq| in_call && *seq != 0);
            let seal = (source == Source::Rustls).then_some(data.tcp_seq_end);
            let of_thread = !of_goroutine && seal.is_none();
            let thread = if of_thread { data.thread } else { data.thread.nobodys() };
            let (at, total) = match (data.user_r14 as u32, (data.user_r14 >> 32) as u32) {
                (_, 0) => (0, moved),
                part => part,
            };
            if at.checked_add(moved).is_none_or(|end| end > total) {
                return Err(DecodeError::BadLength { field: "user_r14" });
            }
            let (user_r14, nvcsw) = if of_goroutine { (data.nvcsw, 0) } else { (0, data.nvcsw) };
            let data = DataMoved { cookie: SocketCookie(0), tcp_seq_end: 0, thread, user_r14, nvcsw, ..data };
            let session = cookie.0;
            Event::PlaintextMoved(Box::new(PlaintextMoved {
                session,
                filled,
                at,
                total,
                reached,
                record_end,
                moved_to,
                seal,
                data,
            }))
        }
    })
}

fn ciphertext_moved(
    fields: Fields<'_>,
    keep: impl FnOnce(&[u8]) -> Bytes,
) -> Result<CiphertextMoved, DecodeError> {
    fields.require(size_of::<CiphertextRecord>())?;
    let count = usize::from(fields.u8(offset_of!(CiphertextRecord, count)));
    if count > RECORD_STARTS {
        return Err(DecodeError::BadLength { field: "count" });
    }
    let op_len = fields.u32(offset_of!(CiphertextRecord, op_len));
    if op_len == 0 || op_len > i32::MAX as u32 {
        return Err(DecodeError::BadLength { field: "op_len" });
    }
    let start = |index: usize| {
        let at = offset_of!(CiphertextRecord, starts) + index * size_of::<RecordStart>();
        RecordStart {
            at: fields.u32(at + offset_of!(RecordStart, at)) as i32,
            len: fields.u16(at + offset_of!(RecordStart, len)),
            kind: fields.u8(at + offset_of!(RecordStart, kind)),
            version: fields.u8(at + offset_of!(RecordStart, version)),
        }
    };
    let session = fields.u64(offset_of!(CiphertextRecord, session));
    let flags = fields.u8(offset_of!(CiphertextRecord, flags));
    let payload_len = fields.u32(offset_of!(CiphertextRecord, payload_len));
    let hello = fields.behind(size_of::<CiphertextRecord>(), payload_len, "payload_len")?;
    Ok(CiphertextMoved {
        time: fields.time(),
        process: fields.thread().process,
        cookie: fields.cookie(offset_of!(CiphertextRecord, cookie)),
        session: (session != 0).then_some(session),
        direction: Direction::try_from(fields.u8(offset_of!(CiphertextRecord, direction)))?,
        tcp_seq_end: fields.u32(offset_of!(CiphertextRecord, tcp_seq_end)),
        op_len,
        starts: (0..count).map(start).collect(),
        more: flags & ciphertext_flags::MORE != 0,
        lost: flags & ciphertext_flags::LOST != 0,
        hello: keep(hello),
    })
}

fn record_sealed(fields: Fields<'_>) -> Result<RecordSealed, DecodeError> {
    fields.require(size_of::<SealedRecord>())?;
    let owner = fields.u64(offset_of!(SealedRecord, owner));
    let seq = fields.u32(offset_of!(SealedRecord, seq));
    let place = if fields.u8(offset_of!(SealedRecord, in_library)) != 0 {
        SealedPlace::Library { session: owner, birth: seq }
    } else {
        SealedPlace::Socket { cookie: SocketCookie(owner), seq }
    };
    Ok(RecordSealed {
        time: fields.time(),
        process: fields.thread().process,
        place,
        direction: Direction::try_from(fields.u8(offset_of!(SealedRecord, direction)))?,
        seal: fields.u64(offset_of!(SealedRecord, seal)),
        len: fields.u16(offset_of!(SealedRecord, len)),
    })
}

fn session_ended(fields: Fields<'_>) -> Result<SessionEnded, DecodeError> {
    fields.require(size_of::<SessionEndedRecord>())?;
    Ok(SessionEnded { origin: fields.origin(), session: fields.u64(offset_of!(SessionEndedRecord, session)) })
}

fn session_secured(fields: Fields<'_>) -> Result<SessionSecured, DecodeError> {
    fields.require(size_of::<SessionSecuredRecord>())?;
    Ok(SessionSecured {
        time: fields.time(),
        process: fields.thread().process,
        session: fields.u64(offset_of!(SessionSecuredRecord, session)),
        client_random: fields.array(offset_of!(SessionSecuredRecord, client_random)),
        server_random: fields.array(offset_of!(SessionSecuredRecord, server_random)),
        is_server: fields.u32(offset_of!(SessionSecuredRecord, is_server)) != 0,
    })
}

fn conn_opened(fields: Fields<'_>, flags: u16) -> Result<ConnOpened, DecodeError> {
    fields.require(size_of::<ConnRecord>())?;
    let path: [u8; UNIX_PATH_BYTES] = fields.array(offset_of!(ConnRecord, unix_path));
    let path_len = usize::from(fields.u8(offset_of!(ConnRecord, unix_path_len)));
    let path = path.get(..path_len).ok_or(DecodeError::BadLength { field: "unix_path_len" })?;
    let peer = fields.cookie(offset_of!(ConnRecord, peer_cookie));
    Ok(ConnOpened {
        origin: fields.origin(),
        cookie: fields.cookie(offset_of!(ConnRecord, cookie)),
        peer_cookie: (peer != SocketCookie(0)).then_some(peer),
        family: Family::try_from(fields.u16(offset_of!(ConnRecord, family)))?,
        role: Role::try_from(fields.u8(offset_of!(ConnRecord, role)))?,
        local: fields.endpoint(offset_of!(ConnRecord, local)),
        remote: fields.endpoint(offset_of!(ConnRecord, remote)),
        netns: fields.u32(offset_of!(ConnRecord, netns)),
        egress_seq: fields.u32(offset_of!(ConnRecord, egress_seq)),
        ingress_seq: fields.u32(offset_of!(ConnRecord, ingress_seq)),
        preexisting: flags & flags::PREEXISTING != 0,
        over: flags & flags::OVER != 0,
        unix_path: Bytes::copy_from_slice(path),
    })
}

fn conn_closed(fields: Fields<'_>, flags: u16) -> Result<ConnClosed, DecodeError> {
    fields.require(size_of::<ConnClosedRecord>())?;
    Ok(ConnClosed {
        origin: fields.origin(),
        cookie: fields.cookie(offset_of!(ConnClosedRecord, cookie)),
        by_packet: flags & flags::BY_PACKET != 0,
        egress_bytes: fields.u64(offset_of!(ConnClosedRecord, egress_bytes)),
        ingress_bytes: fields.u64(offset_of!(ConnClosedRecord, ingress_bytes)),
    })
}

fn listen_started(fields: Fields<'_>) -> Result<ListenStarted, DecodeError> {
    fields.require(size_of::<ListenRecord>())?;
    Ok(ListenStarted {
        origin: fields.origin(),
        cookie: fields.cookie(offset_of!(ListenRecord, cookie)),
        local: fields.endpoint(offset_of!(ListenRecord, local)),
        netns: fields.u32(offset_of!(ListenRecord, netns)),
    })
}

fn process_forked(fields: Fields<'_>) -> Result<ProcessForked, DecodeError> {
    fields.require(size_of::<ForkRecord>())?;
    Ok(ProcessForked {
        origin: fields.origin(),
        child: ProcessKey {
            tgid: Tgid(fields.u32(offset_of!(ForkRecord, child))),
            start_boottime: fields.u64(offset_of!(ForkRecord, child_start_boottime)),
        },
        child_tid: Tid(fields.u32(offset_of!(ForkRecord, child_tid))),
    })
}

fn process_execed(fields: Fields<'_>, flags: u16) -> Result<ProcessExeced, DecodeError> {
    fields.require(size_of::<ExecRecord>())?;
    let comm: [u8; COMM_BYTES] = fields.array(offset_of!(ExecRecord, comm));
    let comm = comm.split(|byte| *byte == 0).next().unwrap_or_default();
    let filename_len = fields.u32(offset_of!(ExecRecord, filename_len));
    let filename = fields.behind(size_of::<ExecRecord>(), filename_len, "filename_len")?;
    let argv_len = fields.u32(offset_of!(ExecRecord, argv_len));
    let argv = fields.behind(size_of::<ExecRecord>() + filename.len(), argv_len, "argv_len")?;
    Ok(ProcessExeced {
        origin: fields.origin(),
        comm: Bytes::copy_from_slice(comm),
        parent: Tgid(fields.u32(offset_of!(ExecRecord, parent))),
        filename: Bytes::copy_from_slice(filename),
        argv: Bytes::copy_from_slice(argv),
        traced: flags & flags::TRACED != 0,
    })
}

fn task_exited(fields: Fields<'_>, flags: u16) -> Result<TaskExited, DecodeError> {
    fields.require(size_of::<ExitRecord>())?;
    Ok(TaskExited {
        origin: fields.origin(),
        process_gone: flags & flags::PROCESS_GONE != 0,
        exit_code: fields.u32(offset_of!(ExitRecord, exit_code)),
    })
}

fn task_identified(fields: Fields<'_>, flags: u16) -> Result<TaskIdentified, DecodeError> {
    fields.require(size_of::<IdentityRecord>())?;
    let len = usize::from(fields.u8(offset_of!(IdentityRecord, len)));
    if len == 0 || len > CHAIN_TASKS {
        return Err(DecodeError::BadLength { field: "len" });
    }
    let task = |index: usize| {
        let at = offset_of!(IdentityRecord, tasks) + index * size_of::<TaskId>();
        TaskId {
            address: fields.u64(at + offset_of!(TaskId, address)),
            number: fields.u64(at + offset_of!(TaskId, number)),
        }
    };
    let of_plaintext = flags & flags::PLAINTEXT != 0;
    let thread = fields.thread();
    let runtime = Runtime::try_from(fields.u8(offset_of!(IdentityRecord, runtime)))?;
    let mut tasks: Vec<TaskId> = (0..len).map(task).collect();
    let mut made = Vec::new();
    if matches!(runtime, Runtime::Python | Runtime::PythonMaker) {
        made.extend(tasks.iter().map(|task| Made {
            kind: ((task.number & !OWN) >> NUMBER_BITS) as u32,
            own: task.number & OWN != 0,
        }));
        tasks.iter_mut().for_each(|task| task.number &= (1 << NUMBER_BITS) - 1);
    }
    Ok(TaskIdentified {
        time: fields.time(),
        // As that of the operation: plaintext of others than Go is not asked about.
        thread: if of_plaintext { thread.nobodys() } else { thread },
        of_plaintext,
        cookie: fields.cookie(offset_of!(IdentityRecord, cookie)),
        runtime,
        direction: Direction::try_from(fields.u8(offset_of!(IdentityRecord, direction)))?,
        tasks,
        made,
        end: fields.u8(offset_of!(IdentityRecord, end)),
        stream: None,
    })
}

fn stream_taken(fields: Fields<'_>, flags: u16) -> Result<TaskIdentified, DecodeError> {
    fields.require(size_of::<StreamRecord>())?;
    let stream = Some(fields.u32(offset_of!(StreamRecord, stream)));
    let thread = fields.thread().nobodys();
    Ok(TaskIdentified { stream, thread, ..task_identified(fields, flags & !flags::PLAINTEXT)? })
}

fn thread_woken(fields: Fields<'_>) -> Result<ThreadWoken, DecodeError> {
    fields.require(size_of::<WokenRecord>())?;
    let cause = match WakeCause::try_from(fields.u16(offset_of!(WokenRecord, cause)))? {
        WakeCause::Born => Cause::Born,
        WakeCause::Futex => {
            let since = fields.u64(offset_of!(WokenRecord, asleep_since));
            Cause::Futex {
                address: fields.u64(offset_of!(WokenRecord, futex)),
                asleep_since: (since != 0).then_some(KernelInstant::from_nanos(since)),
                awaited: Awaited::try_from(fields.u16(offset_of!(WokenRecord, awaited)))?,
            }
        }
    };
    Ok(ThreadWoken {
        time: fields.time(),
        by: fields.thread(),
        cpu: fields.u32(offset_of!(Header, cpu)),
        woken: Tid(fields.u32(offset_of!(WokenRecord, woken))),
        cause,
        results: None,
    })
}

fn thread_woken_for(fields: Fields<'_>) -> Result<ThreadWoken, DecodeError> {
    fields.require(size_of::<WokenForRecord>())?;
    let woken = thread_woken(fields)?;
    let within = fields.u64(offset_of!(WokenForRecord, within));
    let future = |index: usize| fields.u64(offset_of!(WokenForRecord, futures) + index * size_of::<u64>());
    let results = Results {
        within: (within != 0).then_some(within),
        futures: std::array::from_fn::<_, MAX_FUTURES, _>(future),
    };
    Ok(ThreadWoken { results: Some(Box::new(results)), ..woken })
}

fn work_submitted(fields: Fields<'_>) -> Result<WorkSubmitted, DecodeError> {
    fields.require(size_of::<SubmittedRecord>())?;
    let within = fields.u64(offset_of!(SubmittedRecord, within));
    Ok(WorkSubmitted {
        time: fields.time(),
        by: fields.thread(),
        cpu: fields.u32(offset_of!(Header, cpu)),
        work: TaskId {
            address: fields.u64(offset_of!(SubmittedRecord, work.address)),
            number: fields.u64(offset_of!(SubmittedRecord, work.number)),
        },
        within: (within != 0).then_some(within),
    })
}

/// Reads fields of one record. Offsets come from `offset_of!` on structs whose size [`Fields::require`] checked; a
/// field that does not fit all the same reads as zero.
#[derive(Clone, Copy)]
struct Fields<'a> {
    record: &'a [u8],
}

impl<'a> Fields<'a> {
    fn require(self, needed: usize) -> Result<(), DecodeError> {
        if self.record.len() < needed {
            return Err(DecodeError::TooShort { len: self.record.len(), needed });
        }
        Ok(())
    }

    fn array<const N: usize>(self, offset: usize) -> [u8; N] {
        self.record.get(offset..).and_then(|rest| rest.first_chunk::<N>()).copied().unwrap_or([0; N])
    }

    fn u8(self, offset: usize) -> u8 {
        let [byte] = self.array(offset);
        byte
    }

    fn u16(self, offset: usize) -> u16 {
        u16::from_le_bytes(self.array(offset))
    }

    fn u32(self, offset: usize) -> u32 {
        u32::from_le_bytes(self.array(offset))
    }

    fn u64(self, offset: usize) -> u64 {
        u64::from_le_bytes(self.array(offset))
    }

    fn cookie(self, offset: usize) -> SocketCookie {
        SocketCookie(self.u64(offset))
    }

    /// The address bytes are in network order whatever the family: see `Endpoint`.
    fn endpoint(self, offset: usize) -> Endpoint {
        let raw: [u8; 18] = self.array(offset);
        let mut addr = [0; 16];
        addr.copy_from_slice(&raw[..16]);
        Endpoint::from_kernel_v6(addr, [raw[16], raw[17]])
    }

    fn behind(self, start: usize, len: u32, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let end = start.checked_add(len as usize).ok_or(DecodeError::BadLength { field })?;
        self.record.get(start..end).ok_or(DecodeError::BadLength { field })
    }

    fn time(self) -> KernelInstant {
        KernelInstant::from_nanos(self.u64(offset_of!(Header, time)))
    }

    fn thread(self) -> Thread {
        Thread {
            process: ProcessKey {
                tgid: Tgid(self.u32(offset_of!(Header, tgid))),
                start_boottime: self.u64(offset_of!(Header, process_start_boottime)),
            },
            tid: Tid(self.u32(offset_of!(Header, tid))),
            seq: self.u32(offset_of!(Header, thread_seq)),
        }
    }

    fn origin(self) -> Origin {
        let thread = self.thread();
        Origin {
            time: self.time(),
            thread: (thread.tid != Tid(0)).then_some(thread),
            cpu: self.u32(offset_of!(Header, cpu)),
        }
    }
}

#[cfg(test)]
mod tests;
