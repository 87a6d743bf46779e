//! OpenSSL's calls: where one begins, where it ends, where a session is freed.
//!
//! The loader says with each probe's cookie which call it sits in. A call counts when it ends and says how much it moved:
//! one that is to be tried again (`SSL_ERROR_WANT_READ`, `…_WRITE`) has moved nothing, whatever it sent.

use core::ptr::NonNull;

use aya_ebpf::bindings::{BPF_NOEXIST, pt_regs};
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::{uprobe, uretprobe};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use tracer_abi::config::{TlsCall, tls_site};
use tracer_abi::conn::{Direction, SocketCookie};
use tracer_abi::error::{KernelLoss, PayloadState};
use tracer_abi::event::{DataRecord, EventKind, SessionEndedRecord, Source, io_flags};
use tracer_abi::sniff::Class;
use tracer_abi::time::KernelInstant;

use crate::chunks;
use crate::emit;
use crate::filter::{self, Actor};
use crate::framing;
use crate::io;
use crate::maps::{SessionKey, SockState, TRACER_SESSION, TaskState, count, sock_flags, task_state};
use crate::regs::{UserBuffer, place, read_user};
use crate::tls::{Call, hellos};
use crate::waits;
use crate::whole;

/// Of the processor's flags.
const ZERO_FLAG: u64 = 1 << 6;

/// All places of a library: one program, so that one link of the kernel's holds them.
#[uprobe]
fn tracer_tls(ctx: ProbeContext) -> u32 {
    // SAFETY: a probe's context is the register frame, beside which the kernel keeps what the helper reads.
    let (regs, site) = unsafe { (&*ctx.regs, helpers::bpf_get_attach_cookie(ctx.regs.cast())) };
    let zero = regs.eflags & ZERO_FLAG != 0;
    match site & tls_site::MASK {
        tls_site::ENDS_IF_ZERO if !zero => {}
        tls_site::ENDS_IF_NOT_ZERO if zero => {}
        tls_site::ENDS | tls_site::ENDS_IF_ZERO | tls_site::ENDS_IF_NOT_ZERO => ended(regs),
        tls_site::FREES => freed(regs),
        _ => begun(regs, site),
    }
    0
}

/// A call begins. Arguments are in their registers still.
#[inline(always)]
fn begun(regs: &pt_regs, site: u64) {
    let Some(actor) = filter::current() else {
        return;
    };
    let Some(thread) = task_state(actor.task) else {
        count(KernelLoss::TaskStorageFull);
        return;
    };
    let call = &mut thread.call;
    if call.session != 0 && regs.rsp < call.stack {
        call.inner += 1;
        return;
    }
    // One that was left without its end (a long jump) is over.
    call.session = regs.rdi;
    call.buffer = regs.rsi;
    call.wanted = regs.rdx;
    call.moved_at = regs.rcx;
    call.stack = regs.rsp;
    call.moved_time = 0;
    call.inner = 0;
    call.io_flags = u32::from(io_flags::BLOCKING_UNKNOWN);
    call.kind = (site & tls_site::MASK) as u32;
    call.calls_back = u16::from(site & tls_site::CALLS_BACK != 0);
    call.layout = (site >> tls_site::LAYOUT_SHIFT) as u16;
}

/// A call of no plaintext ends, in a function no place of which is known to be its end.
#[uretprobe]
fn tracer_tls_ret(_ctx: RetProbeContext) -> u32 {
    let Some(actor) = filter::current() else {
        return 0;
    };
    if let Some(thread) = task_state(actor.task) {
        left(&mut thread.call);
    }
    0
}

/// Leaves the innermost call: of which session it was, if no other one is left.
#[inline(always)]
fn left(call: &mut Call) -> Option<u64> {
    if call.inner > 0 {
        call.inner -= 1;
        return None;
    }
    let session = core::mem::take(&mut call.session);
    (session != 0).then_some(session)
}

/// A call ends, and its result is in its register already.
#[inline(always)]
fn ended(regs: &pt_regs) {
    let Some(actor) = filter::current() else {
        return;
    };
    let Some(thread) = task_state(actor.task) else {
        return;
    };
    let call = &mut thread.call;
    let Some(session) = left(call) else {
        return;
    };
    if call.kind == TlsCall::Other.code() {
        return;
    }
    let result = regs.rax as i32;
    if result <= 0 {
        return;
    }
    let plain = call.kind == TlsCall::Read.code() || call.kind == TlsCall::Write.code();
    let moved = if plain { result as u64 } else { read_user::<u64>(call.moved_at).unwrap_or(0) };
    // No call moves more than it was asked for, or than a length of this type can say.
    if moved == 0 || moved > call.wanted || moved > i32::MAX as u64 {
        return;
    }
    match streams(thread, session, actor.tgid) {
        Some(mut state) => {
            // SAFETY: a live entry of the table, used by the one thread that is in a call of the session.
            report(thread, unsafe { state.as_mut() }, &actor, session, moved as u32);
        }
        None => count(KernelLoss::SessionTableFull),
    }
}

/// A session is freed, or given up by one of those who hold it. Told of those without plaintext, too: which socket one is on
/// may be known, and the next one at its address is on another.
#[inline(always)]
fn freed(regs: &pt_regs) {
    let session = regs.rdi;
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

/// The session's entry, made when absent.
#[inline(always)]
fn streams(thread: &TaskState, session: u64, tgid: u32) -> Option<NonNull<SockState>> {
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
    TRACER_SESSION.get_ptr_mut(key).and_then(NonNull::new)
}

/// Plaintext moved: as an operation of a socket, in what is captured of it.
#[inline(always)]
fn report(thread: &mut TaskState, state: &mut SockState, actor: &Actor, session: u64, moved: u32) {
    let egress = thread.call.is_write();
    let direction = if egress { Direction::Egress } else { Direction::Ingress };
    let stream = if egress { &mut state.egress } else { &mut state.ingress };
    let offset = stream.bytes;
    stream.bytes = offset + u64::from(moved);
    if state.flags & sock_flags::MUTED != 0 {
        return;
    }
    if state.flags & sock_flags::SECURED == 0 {
        state.flags |= sock_flags::SECURED;
        hellos::tell(&thread.call, session, actor);
    }
    let call = &mut thread.call;
    // A call that did not come to the socket says nothing of it: the last one that did has left its flags in the place of
    // a role, which a session has not.
    let mut flags = call.io_flags as u8;
    if call.moved_time == 0 && state.flags & sock_flags::OPEN_SEEN != 0 {
        flags = state.role;
    }
    state.flags |= sock_flags::OPEN_SEEN;
    state.role = flags;
    flags |= waits::take(actor.task);
    if !egress && u64::from(moved) == call.wanted {
        flags |= io_flags::FILLED;
    }
    let op = &mut thread.op;
    op.ret = moved as i32;
    op.total = moved;
    op.buffer = UserBuffer { place: place::BUFFER, flags: 0, address: call.buffer, count: 0 };
    thread.seq = thread.seq.wrapping_add(1);
    op.record = DataRecord {
        header: emit::header::<DataRecord>(EventKind::DataMoved, Some(actor)),
        cookie: SocketCookie(session),
        offset,
        user_r14: u64::from(moved) << 32,
        nvcsw: actor.task.nvcsw(),
        result: moved as i32,
        tcp_seq_end: 0,
        head_len: 0,
        tail_len: 0,
        chunk_offset: 0,
        payload_len: 0,
        syscall: 0,
        direction: direction as u8,
        source: Source::OpenSsl.code(),
        payload_state: PayloadState::Copied.code(),
        class: 0,
        io_flags: flags,
        reserved: 0,
    };
    op.record.header.thread_seq = thread.seq;
    if call.moved_time == 0
        && let Some(moved) = hellos::moved(call, session)
    {
        op.record.source = Source::OpenSslPlaced.code();
        op.record.tcp_seq_end = moved;
    }
    if egress && call.moved_time != 0 {
        // It was sent then, and may have been answered since.
        op.record.header.time = KernelInstant::from_nanos(call.moved_time);
    }
    op.start_len = 0;
    op.planned = 0;
    if state.class != Class::Http2.code() {
        if whole::emit(state, op) {
            return;
        }
        if op.planned == 0 {
            io::plan(state, op);
        }
    }
    if state.class == Class::Http2.code() {
        framing::emit(state, op);
        return;
    }
    op.record.class = state.class;
    chunks::emit(thread);
}
