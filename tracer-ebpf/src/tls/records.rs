//! Where TLS records begin on a socket, in which session's call the thread is, and where that is asked for, which records they
//! are.
//!
//! A record's header says how long it is, so only headers are read: five bytes each, wherever they fall. The place in the
//! stream is known by TCP's sequence numbers alone. Where it is lost, an operation that begins with what can be a header
//! begins a record again; a wrong one among random bytes is one in ten million, and does not go on to fit.

use core::ffi::c_void;

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::{btf_tracepoint, fexit};
use aya_ebpf::programs::{BtfTracePointContext, FExitContext};
use tracer_abi::config::tls_stacks;
use tracer_abi::conn::{Direction, SocketCookie};
use tracer_abi::error::KernelLoss;
use tracer_abi::event::{
    CiphertextRecord, EventKind, Header, RECORD_STARTS, RecordStart, SEAL_AT, SealedRecord, ciphertext_flags,
    io_flags,
};
use tracer_abi::limits::{HELLO_BYTES, MAX_RECORD_STEPS};

use crate::emit::{self, at_most};
use crate::filter;
use crate::identity::reported;
use crate::kernel::{Task, field};
use crate::maps::{SockState, TRACER_DATA, TRACER_TLS, TaskState, count, offset};
use crate::regs::{IOVEC_BYTES, Regs, place, read_user};
use crate::sock::{Sock, nonblocking};
use crate::tls::golang;

/// `ContentType` of RFC 8446 section 5.1: change_cipher_spec to application_data, and heartbeat (RFC 6520).
const FIRST_KIND: u64 = 20;
const LAST_KIND: u64 = 24;
const APPLICATION_DATA: u64 = 23;
/// As of [`SealedRecord`].
const SEAL_BYTES: u32 = 8;
const SEAL_END: u32 = SEAL_AT as u32 + SEAL_BYTES;
/// A header: type, version, length.
const HEADER_BYTES: u32 = 5;
/// 2^14 bytes of plaintext, and what protection adds (RFC 5246 section 6.2.3, the larger one).
const MAX_RECORD_BYTES: u32 = (1 << 14) + 2048;

/// Where a direction's records are.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Place {
    /// Sequence number of the next byte.
    next_seq: u32,
    /// Bytes until the next header, or seal.
    left: u32,
    /// Bytes of that that were there already, and the bytes, the first one lowest.
    have: u32,
    /// Not zero: `left` and `have` are known.
    known: u32,
    word: u64,
    /// Bytes of the stream that are to be copied yet; one more than that, so that zero is the beginning.
    hello: u32,
    /// A seal comes next, and so many bytes of its record behind it; one more than that, so that zero is none.
    behind_seal: u32,
    /// Of its record: sequence number of the header's first byte, and bytes behind the header.
    seal_seq: u32,
    seal_len: u32,
}

impl Place {
    #[inline(always)]
    pub(super) const fn is_known(&self) -> bool {
        self.known != 0
    }
}

/// What is reported of an operation, and how far it was looked at. In the thread's own storage, as
/// [`crate::maps::Operation`].
#[repr(C)]
pub(crate) struct Report {
    record: CiphertextRecord,
    hello: [u8; HELLO_BYTES as usize],
    /// Next byte to look at.
    at: u32,
    /// Not zero: the operation carries records of TLS. What [`walk`] has found is kept here and not returned: the verifier of
    /// 6.1 took the branch on its result for one that is never taken, and removed it; that of 6.12 does not.
    found: u32,
    place: Place,
    /// The piece of the buffer that is looked at: its place in the operation, and in the program's memory.
    start: u32,
    end: u32,
    address: u64,
    /// Next element of the scatter-gather array.
    element: u64,
    elements_left: u64,
    /// Not zero: it is told which records there are, by their seals.
    seals: u32,
    reserved: u32,
    /// What a session's entry begins as.
    pub(super) no_streams: SockState,
}

#[btf_tracepoint(function = "sock_send_length")]
fn tracer_tls_send(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the first argument is a `struct sock`.
    unsafe { moved(ctx.arg::<*const c_void>(0), ctx.arg(1), Direction::Egress, 0) };
    0
}

#[btf_tracepoint(function = "sock_recv_length")]
fn tracer_tls_recv(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: as above.
    unsafe { moved(ctx.arg::<*const c_void>(0), ctx.arg(1), Direction::Ingress, ctx.arg(2)) };
    0
}

/// Declares a program for a function with `(socket, msghdr, size)` or `(socket, msghdr, size, flags)`.
macro_rules! programs {
    ($($program:ident, $function:literal, $direction:ident, $args:literal;)+) => {
        $(
            #[fexit(function = $function)]
            fn $program(ctx: FExitContext) -> i32 {
                // SAFETY: the first argument is a `struct socket`, and `sk` a field of it.
                unsafe {
                    let sk: *const c_void = field(ctx.arg(0), offset!(socket_sk));
                    let flags = if $args > 3 { ctx.arg(3) } else { 0 };
                    moved(sk, ctx.arg($args), Direction::$direction, flags);
                }
                0
            }
        )+
    };
}

programs! {
    tracer_tls_in4s, "inet_sendmsg", Egress, 3;
    tracer_tls_in6s, "inet6_sendmsg", Egress, 3;
    tracer_tls_in4r, "inet_recvmsg", Ingress, 4;
    tracer_tls_in6r, "inet6_recvmsg", Ingress, 4;
}

/// An operation that the core has looked at and that has moved bytes of the stream.
///
/// # Safety
///
/// `sk` must be a socket pointer that the verifier tracks.
#[inline(always)]
unsafe fn moved(sk: *const c_void, ret: i32, direction: Direction, message_flags: u32) {
    let tgid = (aya_ebpf::helpers::bpf_get_current_pid_tgid() >> 32) as u32;
    let Some(stacks) = TRACER_TLS.get_ptr(tgid) else {
        return;
    };
    // SAFETY: a live entry of the table.
    let stacks = unsafe { *stacks };
    let Some(actor) = filter::current() else {
        return;
    };
    let sock = Sock(sk);
    let (Some(tcp), Some(file_flags)) = (sock.tcp(), sock.file_flags()) else {
        return;
    };
    // SAFETY: as the caller promises.
    let Some((thread, state)) = (unsafe { reported(actor.task, sk) }) else {
        return;
    };
    let egress = matches!(direction, Direction::Egress);
    let mut session = thread.call.session();
    let mut goroutine = None;
    if session == 0 && stacks & tls_stacks::OF_GOROUTINES != 0 {
        goroutine = golang::call_of(actor.task, tgid);
        if let Some(call) = &goroutine {
            session = call.session();
        }
    }
    let seq_end = if egress { tcp.write_seq() } else { tcp.copied_seq(sock) };
    thread.op.ret = ret;
    thread.op.total = ret as u32;
    Regs::of(Task::current()).find_buffer(thread);
    let record = &mut thread.ciphertext.record;
    record.header = emit::header::<CiphertextRecord>(EventKind::CiphertextMoved, Some(&actor));
    record.cookie = SocketCookie(sock.cookie());
    record.session = session;
    record.tcp_seq_end = seq_end;
    record.op_len = ret as u32;
    record.count = 0;
    record.direction = direction as u8;
    record.flags = 0;
    let time = record.header.time.as_nanos();
    thread.ciphertext.found = 0;
    thread.ciphertext.seals = u32::from(stacks & tls_stacks::OF_RECORDS != 0);
    walk(if egress { &mut state.records[1] } else { &mut state.records[0] }, thread);
    if thread.ciphertext.found != 0 && session != 0 {
        let message_flags = message_flags | thread.op.buffer.flags;
        let flags = if nonblocking(file_flags, message_flags) { u32::from(io_flags::NONBLOCKING) } else { 0 };
        if let Some(call) = goroutine {
            call.moved(egress, time, seq_end, flags);
        } else {
            thread.call.moved_time = time;
            thread.call.io_flags = flags;
            if egress == thread.call.is_write() {
                thread.call.moved_to = seq_end;
            }
        }
    }
}

/// Looks for headers in the operation, and reports it if it is known to be TLS.
#[inline(never)]
fn walk(known: &mut Place, thread: &mut TaskState) {
    let total = thread.op.total;
    let report = &mut thread.ciphertext;
    report.place = *known;
    let start = report.record.tcp_seq_end.wrapping_sub(total);
    let was_known = known.known != 0;
    if !was_known || known.next_seq != start {
        report.place.left = 0;
        report.place.have = 0;
        report.place.word = 0;
        report.place.behind_seal = 0;
        report.place.known = 1;
    }
    if report.place.hello == 0 {
        report.place.hello = 1 + HELLO_BYTES;
    }
    report.at = report.place.left;
    let buffer = &thread.op.buffer;
    report.start = 0;
    report.end = if buffer.place == place::BUFFER { total } else { 0 };
    report.address = buffer.address;
    report.element = buffer.address;
    report.elements_left = if buffer.place == place::VECTOR { buffer.count } else { 0 };
    if report.at < total {
        let callback: extern "C" fn(u64, &mut &mut TaskState) -> i64 = step;
        // What the callback gets must be a pointer to the stack.
        let mut context = &mut *thread;
        // SAFETY: the callback has the form that the helper calls, with a pointer to the thread's state.
        unsafe {
            helpers::bpf_loop(MAX_RECORD_STEPS, callback as *mut c_void, (&raw mut context).cast(), 0);
        }
    }
    let report = &mut thread.ciphertext;
    if report.at < total {
        // Not a header, or too many.
        report.place.known = 0;
    }
    report.place.left = report.at.wrapping_sub(total);
    report.place.next_seq = report.record.tcp_seq_end;
    report.found = report.place.known;
    if report.place.known == 0 {
        if !was_known {
            return;
        }
        report.record.flags |= ciphertext_flags::LOST;
    }
    let hello = hello_bytes(thread);
    thread.ciphertext.place.hello -= hello;
    *known = thread.ciphertext.place;
    output(thread, hello);
}

/// Reads on to the end of the next header, or as far as a piece of the buffer goes; or goes on to the next piece.
extern "C" fn step(_index: u64, context: &mut &mut TaskState) -> i64 {
    const CONTINUE: i64 = 0;
    const STOP: i64 = 1;
    let thread = &mut **context;
    let total = thread.op.total;
    let report = &mut thread.ciphertext;
    let at = report.at;
    if at >= total {
        return STOP;
    }
    if at >= report.end {
        return if next_piece(report, total) { CONTINUE } else { STOP };
    }
    let have = report.place.have & 7;
    if report.place.behind_seal != 0 {
        let (piece, got) = read(report, at, SEAL_BYTES.wrapping_sub(have));
        if got == 0 {
            return STOP;
        }
        report.place.word |= piece << (8 * have);
        report.place.have = have + got;
        report.at = at + got;
        if have + got >= SEAL_BYTES {
            tell(report);
            report.at += report.place.behind_seal - 1;
            report.place.behind_seal = 0;
            report.place.have = 0;
            report.place.word = 0;
        }
        return CONTINUE;
    }
    let mut wanted = HEADER_BYTES.wrapping_sub(have) & 7;
    if wanted > total - at {
        wanted = total - at;
    }
    let (piece, got) = read(report, at, wanted);
    if got == 0 {
        return STOP;
    }
    let report = &mut thread.ciphertext;
    report.place.word |= piece << (8 * have);
    report.place.have = have + got;
    if have + got < HEADER_BYTES {
        report.at = at + got;
        return CONTINUE;
    }
    let word = core::mem::take(&mut report.place.word);
    report.place.have = 0;
    let (kind, major, minor) = (word & 0xff, word >> 8 & 0xff, word >> 16 & 0xff);
    let len = ((word >> 24 & 0xff) << 8 | word >> 32 & 0xff) as u32;
    if !(FIRST_KIND..=LAST_KIND).contains(&kind) || major != 3 || len == 0 || len > MAX_RECORD_BYTES {
        return STOP;
    }
    if report.record.count >= RECORD_STARTS as u8 {
        report.record.flags |= ciphertext_flags::MORE;
        output(thread, 0);
        let record = &mut thread.ciphertext.record;
        record.flags &= !ciphertext_flags::MORE;
        record.count = 0;
    }
    let report = &mut thread.ciphertext;
    let behind = at + got;
    let number = report.record.count as usize & (RECORD_STARTS - 1);
    report.record.starts[number] = RecordStart {
        at: behind.wrapping_sub(HEADER_BYTES) as i32,
        len: len as u16,
        kind: kind as u8,
        version: minor as u8,
    };
    report.record.count += 1;
    report.at = behind + len;
    if report.seals != 0 && kind == APPLICATION_DATA && len >= SEAL_END {
        let start = report.record.tcp_seq_end.wrapping_sub(report.record.op_len);
        report.place.seal_seq = start.wrapping_add(behind).wrapping_sub(HEADER_BYTES);
        report.place.seal_len = len;
        report.place.behind_seal = 1 + len - SEAL_END;
        report.at = behind + SEAL_AT as u32;
    }
    CONTINUE
}

/// Goes on to the next element of the array. False: there is none that can be read.
#[inline(always)]
fn next_piece(report: &mut Report, total: u32) -> bool {
    if report.elements_left == 0 {
        return false;
    }
    let Some([base, len]) = read_user::<[u64; 2]>(report.element) else {
        return false;
    };
    report.element += IOVEC_BYTES;
    report.elements_left -= 1;
    report.start = report.end;
    report.address = base;
    let left = total.wrapping_sub(report.start);
    report.end = report.start + if len < u64::from(left) { len as u32 } else { left };
    true
}

/// Up to `wanted` (at most eight) bytes of the operation from `at`, as far as they are in the piece that is looked at, the
/// first one lowest, and how many.
#[inline(always)]
fn read(report: &Report, at: u32, wanted: u32) -> (u64, u32) {
    if at < report.start || at >= report.end {
        return (0, 0);
    }
    let left = report.end - at;
    let wanted = if wanted < left { wanted } else { left };
    let address = report.address.wrapping_add(u64::from(at - report.start));
    let mut piece = 0_u64;
    let len = at_most::<8>(u64::from(wanted));
    // SAFETY: no more than the variable's size is written.
    let failed = unsafe {
        helpers::bpf_probe_read_user((&raw mut piece).cast(), len as u32, address as *const c_void)
    };
    if failed == 0 { (piece, len as u32) } else { (0, 0) }
}

/// Tells which record has the seal that was read.
#[inline(always)]
fn tell(report: &Report) {
    let Some(mut entry) = TRACER_DATA.reserve::<SealedRecord>(0) else {
        count(KernelLoss::DataRingFull);
        return;
    };
    let (of, place) = (&report.record, &report.place);
    // SAFETY: memory of this size and alignment, all of which is written.
    unsafe {
        entry.as_mut_ptr().write(SealedRecord {
            header: Header {
                kind: EventKind::RecordSealed.code(),
                len_bytes: size_of::<SealedRecord>() as u32,
                ..of.header
            },
            owner: of.cookie.0,
            seal: place.word,
            seq: place.seal_seq,
            len: place.seal_len as u16,
            direction: of.direction,
            in_library: 0,
        });
    }
    // What is told of the operation wakes who reads.
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}

/// Copies the operation's first bytes, as far as they are among the stream's first. Returns how many.
#[inline(always)]
fn hello_bytes(thread: &mut TaskState) -> u32 {
    let left = thread.ciphertext.place.hello - 1;
    let total = thread.op.total;
    let mut wanted = u64::from(if total < left { total } else { left });
    let mut address = thread.op.buffer.address;
    if thread.op.buffer.place == place::VECTOR {
        // A hello is in one piece, which is the first of them.
        let [base, len] = thread.op.elements[0];
        address = base;
        wanted = if len < wanted { len } else { wanted };
    } else if thread.op.buffer.place != place::BUFFER {
        return 0;
    }
    if wanted == 0 {
        return 0;
    }
    let len = at_most::<{ HELLO_BYTES as u64 }>(wanted);
    // SAFETY: the destination has room for `HELLO_BYTES`, as the verifier proves once more.
    let failed = unsafe {
        helpers::bpf_probe_read_user(
            (&raw mut thread.ciphertext.hello).cast(),
            len as u32,
            address as *const c_void,
        )
    };
    if failed == 0 { len as u32 } else { 0 }
}

#[inline(always)]
fn output(thread: &mut TaskState, hello: u32) {
    const RECORD: u64 = size_of::<CiphertextRecord>() as u64;
    let report = &mut thread.ciphertext;
    report.record.payload_len = hello;
    report.record.header.len_bytes = RECORD as u32 + hello;
    let wakeup = emit::wakeup(report.record.header.time.as_nanos());
    let len = at_most::<{ RECORD + HELLO_BYTES as u64 }>(RECORD + u64::from(hello));
    // SAFETY: the bytes lie directly behind the record, and there is room for `HELLO_BYTES` of them.
    let failed = unsafe {
        helpers::bpf_ringbuf_output(
            (&raw const TRACER_DATA).cast_mut().cast(),
            (&raw mut report.record).cast(),
            len,
            wakeup,
        )
    };
    if failed != 0 {
        count(KernelLoss::DataRingFull);
    }
}
