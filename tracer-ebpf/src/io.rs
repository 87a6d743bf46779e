//! The one core that every trigger calls when a socket operation has ended.
//!
//! It keeps each stream's position, and has the operation copied as far as [`crate::turns`] says.

use core::ffi::c_void;

use tracer_abi::config::identity_slot;
use tracer_abi::conn::{Direction, Endpoint, Role, SocketCookie};
use tracer_abi::error::{KernelLoss, PayloadState};
use tracer_abi::event::{ConnRecord, DataRecord, EventKind, Source, flags, io_flags};

use crate::capture::{Captured, capture};
use crate::chunks;
use crate::emit;
use crate::filter::{self, Actor};
use crate::identity::asks_first;
use crate::maps::{self, SelfKey, SockState, TRACER_SELF, TaskState, count, sock_flags};
use crate::regs::{self, Regs, place};
use crate::sock::{Sock, Stream, nonblocking};
use crate::tls;
use crate::waits;

const MSG_OOB: u32 = 0x1;
const MSG_PEEK: u32 = 0x2;
const MSG_TRUNC: u32 = 0x20;
pub(crate) const MSG_DONTWAIT: u32 = 0x40;
const MSG_ERRQUEUE: u32 = 0x2000;

const EINTR: i32 = -4;
const EAGAIN: i32 = -11;
/// Codes from here down are the kernel's own (`ERESTARTSYS` …); the program never sees them.
const FIRST_INTERNAL_ERROR: i32 = -512;

/// What the hook's program goes on with, of an operation that was looked at here.
#[derive(Clone, Copy)]
pub(crate) enum Next {
    Nothing,
    /// It was reported, and whose work it was is worth knowing.
    Identity,
    /// It may carry records of TLS.
    Records,
}

/// A socket operation of the current task has ended. `ret` is its result, `message_flags` those the trigger knows.
/// `more` says that further operations of the same call follow at once.
///
/// # Safety
///
/// `sk` must be a socket pointer that the verifier tracks.
#[inline(always)]
pub(crate) unsafe fn on_io(
    sk: *const c_void,
    ret: i32,
    direction: Direction,
    message_flags: u32,
    more: bool,
) -> Next {
    // What could not be done yet, or was interrupted, has not happened.
    if ret == EAGAIN || ret == EINTR || ret <= FIRST_INTERNAL_ERROR {
        regs::end_messages();
        return Next::Nothing;
    }
    let egress = matches!(direction, Direction::Egress);
    if egress {
        if ret == 0 {
            return Next::Nothing;
        }
    } else if message_flags & (MSG_PEEK | MSG_ERRQUEUE | MSG_OOB) != 0 {
        // Peeked bytes are read again; the error queue and urgent data are not part of the stream.
        return Next::Nothing;
    }
    let Some(actor) = filter::current() else {
        return Next::Nothing;
    };
    waits::used(actor.task);
    let sock = Sock(sk);
    let Some(stream) = sock.stream() else {
        return Next::Nothing;
    };
    // The kernel's own sockets (network file systems) work in the context of programs that know nothing of them,
    // and whose registers name other buffers.
    let Some(file_flags) = sock.file_flags() else {
        return Next::Nothing;
    };
    // SAFETY: as the caller promises.
    let Some(state) = (unsafe { maps::sock_state(sk, true) }) else {
        count(KernelLoss::SockStorageFull);
        return Next::Nothing;
    };
    if state.flags & sock_flags::SELF != 0 {
        return Next::Nothing;
    }
    let ended = ret == 0 && !egress;
    if ended && (!sock.receive_ended() || state.flags & sock_flags::ENDED != 0) {
        // Nothing was asked for, or the end is known.
        return Next::Nothing;
    }
    if ret < 0 && state.last_error == ret {
        return Next::Nothing;
    }
    let moved = if ret > 0 { ret as u32 } else { 0 };
    if state.flags & sock_flags::ANNOUNCED == 0 {
        // A failed operation may be one on a socket that is not connected.
        if ret < 0 || !announce(sock, stream, state, &actor, egress, moved) {
            return Next::Nothing;
        }
    }
    if state.cookie == 0 {
        state.cookie = sock.cookie();
    }
    let (offset, seq_end) = advance(sock, state, egress, moved);
    if state.flags & sock_flags::MUTED != 0 {
        let thread = if ret > 0 { maps::task_state(actor.task) } else { None };
        return match thread {
            Some(thread) if tls::may_carry(state, &thread.call, egress) => Next::Records,
            _ => Next::Nothing,
        };
    }
    let streamed = if egress { &mut state.egress } else { &mut state.ingress };
    if more {
        streamed.unreported += moved;
        return Next::Nothing;
    }
    let unreported = streamed.unreported;
    streamed.unreported = 0;

    let Some(thread) = maps::task_state(actor.task) else {
        count(KernelLoss::TaskStorageFull);
        return Next::Nothing;
    };
    thread.seq = thread.seq.wrapping_add(1);
    let op = &mut thread.op;
    op.ret = ret;
    op.total = moved + unreported;
    op.gathered = unreported;
    op.message_flags = message_flags;
    // What TCP discards instead of copying, it counts as received.
    op.discard_flags = if !egress && !stream.is_unix() { MSG_TRUNC } else { 0 };
    op.file_flags = file_flags;
    op.record = DataRecord {
        header: emit::header::<DataRecord>(EventKind::DataMoved, Some(&actor)),
        cookie: SocketCookie(state.cookie),
        offset: offset - u64::from(unreported),
        user_r14: 0,
        nvcsw: actor.task.nvcsw(),
        result: if moved > 0 { op.total as i32 } else { ret },
        tcp_seq_end: seq_end,
        head_len: 0,
        tail_len: 0,
        chunk_offset: 0,
        payload_len: 0,
        syscall: 0,
        direction: direction as u8,
        source: Source::Socket.code(),
        payload_state: PayloadState::Copied.code(),
        class: 0,
        io_flags: waits::take(actor.task) | thread.call.io_flag(),
        reserved: 0,
    };
    op.record.header.thread_seq = thread.seq;
    thread.op.identify = report(Regs::of(actor.task), state, thread).into();
    next(state, thread)
}

/// What comes behind the report of the operation that the thread's state holds. Reads it back from there, as [`report`]
/// does.
#[inline(always)]
fn next(state: &SockState, thread: &TaskState) -> Next {
    if read_back(&thread.op.identify) != 0 {
        return Next::Identity;
    }
    let egress = read_back(&thread.op.record.direction) == Direction::Egress as u8;
    if read_back(&thread.op.ret) > 0 && tls::may_carry(state, &thread.call, egress) {
        return Next::Records;
    }
    Next::Nothing
}

/// Reports the operation that the thread's state holds, whose record lacks what the registers tell. True: whose
/// work it was is worth knowing.
///
/// All that it needs to know it reads back from there: the verifier then walks it once, and not once for every way in
/// which the above may have come here.
#[inline(always)]
fn report(regs: Regs, state: &mut SockState, thread: &mut TaskState) -> bool {
    regs.find_buffer(thread);
    let op = &mut thread.op;
    let ret = read_back(&op.ret);
    let message_flags = read_back(&op.message_flags) | op.buffer.flags;
    if read_back(&op.gathered) > 0 || message_flags & read_back(&op.discard_flags) != 0 {
        op.buffer.place = place::NOWHERE;
    }
    op.record.user_r14 = regs.r14();
    op.record.syscall = regs.syscall() as u16;
    if nonblocking(read_back(&op.file_flags), message_flags) {
        op.record.io_flags |= io_flags::NONBLOCKING;
    }
    state.last_error = if ret < 0 { ret } else { 0 };
    if ret <= 0 {
        if ret == 0 {
            // The end of the stream: nothing else of no bytes comes here.
            state.flags |= sock_flags::ENDED;
        }
        op.record.class = state.class;
        chunks::emit(thread);
        return false;
    }
    match capture(thread, state) {
        Captured::Bytes => false,
        Captured::BeginsMessage => true,
        // What one operation moves may be of many streams, and of others than of who moves it, but for nginx's calls.
        Captured::Frames => {
            let egress = read_back(&thread.op.record.direction) == Direction::Egress as u8;
            egress && state.role != Role::Server.code() && asks_first(identity_slot::NGINX)
        }
    }
}

/// Reads from memory what the compiler knows to be in a register.
#[inline(always)]
pub(crate) fn read_back<T: Copy>(value: &T) -> T {
    // SAFETY: a valid reference.
    unsafe { (&raw const *value).read_volatile() }
}

/// Emits ConnOpened at the first operation of a socket, so that nothing is reported of sockets that carry nothing,
/// and the process is the one that uses it. False: the other end is the tracer.
#[inline(always)]
fn announce(
    sock: Sock,
    stream: Stream,
    state: &mut SockState,
    actor: &Actor,
    egress: bool,
    moved: u32,
) -> bool {
    state.flags |= sock_flags::ANNOUNCED;
    if let Some(tcp) = sock.tcp() {
        if TRACER_SELF.get_ptr(self_key(sock, sock.remote())).is_some() {
            state.flags |= sock_flags::SELF;
            return false;
        }
        let sent = if egress { moved } else { 0 };
        let received = if egress { 0 } else { moved };
        let egress_seq = tcp.write_seq().wrapping_sub(sent);
        let ingress_seq = tcp.copied_seq(sock).wrapping_sub(received);
        let (first_egress, first_ingress) = if state.flags & sock_flags::OPEN_SEEN != 0 {
            (state.egress.next_seq, state.ingress.next_seq)
        } else {
            tcp.first_seqs()
        };
        // A difference of one either way is a handshake or an end that the kernel counted as a byte.
        let moved_before = egress_seq.wrapping_sub(first_egress).wrapping_add(1) > 2
            || ingress_seq.wrapping_sub(first_ingress).wrapping_add(1) > 2;
        if moved_before {
            state.flags |= sock_flags::PREEXISTING;
        }
        state.egress.next_seq = egress_seq;
        state.ingress.next_seq = ingress_seq;
    }
    emit::control::<ConnRecord>(|record| {
        record.header = emit::header::<ConnRecord>(EventKind::ConnOpened, Some(actor));
        if state.flags & sock_flags::PREEXISTING != 0 {
            record.header.flags = flags::PREEXISTING;
        }
        if state.flags & sock_flags::CLOSED != 0 {
            record.header.flags |= flags::OVER;
        }
        record.cookie = SocketCookie(sock.cookie());
        record.netns = sock.netns();
        record.family = stream.family().code();
        record.role = state.role;
        if stream.is_unix() {
            if let Some(unix) = sock.unix() {
                let ends = unix.ends(&mut record.unix_path);
                record.role = ends.role.code();
                record.peer_cookie = SocketCookie(ends.peer_cookie);
                record.unix_path_len = ends.path_len;
            }
        } else {
            record.local = sock.local();
            record.remote = sock.remote();
            record.egress_seq = state.egress.next_seq;
            record.ingress_seq = state.ingress.next_seq;
        }
    });
    true
}

/// The key under which one of the tracer's own endpoints is known to its peers.
#[inline(always)]
pub(crate) fn self_key(sock: Sock, endpoint: Endpoint) -> SelfKey {
    SelfKey { endpoint, netns: if endpoint.is_loopback() { sock.netns() } else { 0 } }
}

/// Moves a stream on. Returns the operation's position and the TCP sequence number behind it.
#[inline(always)]
fn advance(sock: Sock, state: &mut SockState, egress: bool, moved: u32) -> (u64, u32) {
    let stream = if egress { &mut state.egress } else { &mut state.ingress };
    let expected = stream.next_seq.wrapping_add(moved);
    let mut offset = stream.bytes;
    let Some(tcp) = sock.tcp() else {
        stream.bytes = offset + u64::from(moved);
        return (offset, 0);
    };
    let actual = if egress { tcp.write_seq() } else { tcp.copied_seq(sock) };
    // What TCP counts and the hooks did not see (a splice out of the socket, another process) moved before this
    // operation. A negative difference is an operation that another thread's overtook: its bytes were counted then.
    let unseen = actual.wrapping_sub(expected);
    if moved > 0 && (unseen as i32) >= 0 {
        offset += u64::from(unseen);
        stream.bytes = offset + u64::from(moved);
        stream.next_seq = actual;
    } else if moved > 0 {
        offset = offset.saturating_sub(u64::from(moved));
    }
    (offset, stream.next_seq)
}
