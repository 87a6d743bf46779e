//! Plaintext of a session: as operations of a stream of its own, in what is captured of it and how.

use core::ptr::NonNull;

use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated as helpers;
use tracer_abi::conn::{Direction, SocketCookie};
use tracer_abi::error::{KernelLoss, PayloadState};
use tracer_abi::event::{DataRecord, EventKind, SessionEndedRecord, Source, io_flags};
use tracer_abi::time::KernelInstant;

use crate::capture::{Captured, capture};
use crate::emit;
use crate::filter::{self, Actor};
use crate::maps::{SessionKey, SockState, TRACER_SESSION, TaskState, count, sock_flags};
use crate::regs::{UserBuffer, place};
use crate::tls::{Call, hellos};
use crate::waits;

/// What a call has moved.
pub(super) struct Moved {
    pub(super) session: u64,
    pub(super) len: u32,
    pub(super) source: Source,
    /// As of [`DataRecord::tcp_seq_end`].
    pub(super) seq_end: u32,
    /// As of [`DataRecord::nvcsw`].
    pub(super) by: u64,
}

/// What was at a session's address is gone: it is freed, or given up by one of those who hold it, or another one begins
/// there. Told of those without plaintext, too, whose socket may be known.
#[inline(always)]
pub(super) fn gone(session: u64) {
    if session == 0 {
        return;
    }
    let Some(actor) = filter::current() else {
        return;
    };
    // Absent: it had none.
    let _ = TRACER_SESSION.remove(SessionKey { session, tgid: actor.tgid, reserved: 0 });
    emit::control::<SessionEndedRecord>(|record| {
        record.header = emit::header::<SessionEndedRecord>(EventKind::SessionEnded, Some(&actor));
        record.session = session;
    });
}

/// The session's entry, made when absent. None: there is no room, which is counted.
#[inline(always)]
pub(super) fn streams(thread: &TaskState, session: u64, tgid: u32) -> Option<NonNull<SockState>> {
    let key = SessionKey { session, tgid, reserved: 0 };
    if let Some(state) = TRACER_SESSION.get_ptr_mut(key) {
        return NonNull::new(state);
    }
    // SAFETY: a valid map; key and value are of its types. An entry is too large for the stack.
    unsafe {
        helpers::bpf_map_update_elem(
            (&raw const TRACER_SESSION).cast_mut().cast(),
            (&raw const key).cast(),
            (&raw const thread.ciphertext.no_streams).cast(),
            u64::from(BPF_NOEXIST),
        );
    }
    let made = TRACER_SESSION.get_ptr_mut(key).and_then(NonNull::new);
    if made.is_none() {
        count(KernelLoss::SessionTableFull);
    }
    made
}

/// Whether a session has moved nothing yet: then its hellos are to be told before.
#[inline(always)]
pub(super) fn is_first(state: &mut SockState) -> bool {
    let is_first = state.flags & sock_flags::SECURED == 0;
    state.flags |= sock_flags::SECURED;
    is_first
}

/// Plaintext moved: as an operation of a socket, in what is captured of it. True: whose work it was is worth knowing.
#[inline(always)]
pub(super) fn report(
    thread: &mut TaskState,
    call: &mut Call,
    state: &mut SockState,
    actor: &Actor,
    moved: Moved,
) -> bool {
    let egress = call.is_write();
    let direction = if egress { Direction::Egress } else { Direction::Ingress };
    let stream = if egress { &mut state.egress } else { &mut state.ingress };
    let offset = stream.bytes;
    stream.bytes = offset + u64::from(moved.len);
    if state.flags & sock_flags::MUTED != 0 {
        return false;
    }
    let of_thread = matches!(moved.source, Source::OpenSsl | Source::GnuTls);
    // A call that did not come to the socket says nothing of it: the last one that did has left its flags in the place of
    // a role, which a session has not.
    let mut flags = call.io_flags as u8;
    if call.moved_time == 0 && state.flags & sock_flags::OPEN_SEEN != 0 {
        flags = state.role;
    }
    state.flags |= sock_flags::OPEN_SEEN;
    state.role = flags;
    flags |= waits::take(actor.task);
    if !egress && u64::from(moved.len) == call.wanted {
        flags |= io_flags::FILLED;
    }
    let op = &mut thread.op;
    op.ret = moved.len as i32;
    op.total = moved.len;
    op.buffer = UserBuffer { place: place::BUFFER, flags: 0, address: call.buffer, count: 0 };
    if of_thread {
        thread.seq = thread.seq.wrapping_add(1);
    }
    op.record = DataRecord {
        header: emit::header::<DataRecord>(EventKind::DataMoved, Some(actor)),
        cookie: SocketCookie(moved.session),
        offset,
        user_r14: u64::from(moved.len) << 32,
        nvcsw: moved.by,
        result: moved.len as i32,
        tcp_seq_end: moved.seq_end,
        head_len: 0,
        tail_len: 0,
        chunk_offset: 0,
        payload_len: 0,
        syscall: 0,
        direction: direction as u8,
        source: moved.source.code(),
        payload_state: PayloadState::Copied.code(),
        class: 0,
        io_flags: flags,
        reserved: 0,
    };
    if of_thread {
        op.record.header.thread_seq = thread.seq;
        if call.moved_time == 0
            && let Some(reached) = hellos::moved(call, moved.session)
        {
            op.record.source = Source::OpenSslPlaced.code();
            op.record.tcp_seq_end = reached;
        }
    }
    if egress && call.moved_time != 0 {
        // It was sent then, and may have been answered since.
        op.record.header.time = KernelInstant::from_nanos(call.moved_time);
    }
    // What is sent may be answered before the call returns: a turn that goes on behind the call.
    let overtaken = egress && state.flags & sock_flags::ANSWERED != 0;
    if !egress && state.flags & sock_flags::SENDS != 0 {
        state.flags = state.flags & !sock_flags::SENDS | sock_flags::ANSWERED;
        state.turn = 0;
    }
    if egress {
        state.flags &= !(sock_flags::SENDS | sock_flags::ANSWERED);
    }
    let turn = overtaken.then(|| Turn::of(state));
    let captured = capture(thread, state);
    if let Some(turn) = turn {
        turn.go_on(state);
    }
    captured == Captured::BeginsMessage
}

/// A call begins that sends.
#[inline(always)]
pub(super) fn sends(session: u64, tgid: u32) {
    if let Some(state) = TRACER_SESSION.get_ptr_mut(SessionKey { session, tgid, reserved: 0 }) {
        // SAFETY: a live entry of the table. A torn update costs accuracy of one operation.
        unsafe { (*state).flags |= sock_flags::SENDS };
    }
}

/// The turn of a session.
struct Turn {
    turn: u8,
    class: u8,
    prefix_len: u32,
    head_left: u32,
    prefix: u64,
}

impl Turn {
    #[inline(always)]
    fn of(state: &SockState) -> Self {
        let SockState { turn, turn_class: class, prefix_len, head_left, prefix, .. } = *state;
        Self { turn, class, prefix_len, head_left, prefix }
    }

    #[inline(always)]
    fn go_on(self, state: &mut SockState) {
        state.turn = self.turn;
        state.turn_class = self.class;
        state.prefix_len = self.prefix_len;
        state.head_left = self.head_left;
        state.prefix = self.prefix;
    }
}
