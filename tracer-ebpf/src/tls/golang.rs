//! Calls of Go's `crypto/tls`: where one begins, where it ends, where a connection is closed.
//!
//! A call is a goroutine's, which may begin it on one thread and end it on another one: what is known of it is kept by
//! goroutine. Its stack may move meanwhile, so places on it are distances from its end. A return is one of the call only
//! where it began.
//!
//! Registers are those of Go's calling convention on x86_64 (`src/cmd/compile/abi-internal.md`): R14 is the goroutine, and
//! arguments, as results, are in RAX, RBX, RCX.

use aya_ebpf::bindings::{BPF_ANY, pt_regs};
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::uprobe;
use aya_ebpf::programs::ProbeContext;
use tracer_abi::config::{GoTlsSite, TlsCall, tls_site};
use tracer_abi::error::KernelLoss;
use tracer_abi::event::{Source, io_flags};

use crate::filter::{self, Actor};
use crate::identity::golang as identity;
use crate::kernel::Task;
use crate::maps::{GoroutineKey, TRACER_GOCALL, TaskState, count, task_state};
use crate::regs::{Regs, read_user};
use crate::tls::Call;
use crate::tls::plaintext::{self, Moved};

/// From a `tls.Conn`: `isClient`, behind the interface of the connection that it is on, in all versions.
const IS_CLIENT: u64 = 16;

/// `bytes.Buffer`: its slice's length, and how much of that was read already.
const BUFFER_LEN: u64 = 8;
const BUFFER_READ: u64 = 24;

/// The call of a goroutine.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct GoCall {
    /// Its stack pointer is a distance from the stack's end, and so is a buffer that is on the stack.
    call: Call,
    /// Of the goroutine: its address may be another one's later.
    number: u64,
    /// Sequence number behind the last byte of the socket that moved in it, by direction; zero: none.
    sent: u32,
    received: u32,
    /// How many calls deep another session's begins, in which it is; zero: in none.
    hidden: u32,
    /// Not zero: the buffer is on the stack.
    on_stack: u32,
}

/// Where on its stack a goroutine is, and where that ends.
struct Frame {
    low: u64,
    high: u64,
    depth: u64,
}

impl Frame {
    /// None: these are no goroutine and no stack pointer of its.
    #[inline(always)]
    fn of(goroutine: u64, stack_pointer: u64) -> Option<Self> {
        let [low, high] = read_user::<[u64; 2]>(goroutine)?;
        let inside = low < stack_pointer && stack_pointer <= high;
        inside.then(|| Self { low, high, depth: high - stack_pointer })
    }
}

impl GoCall {
    /// The session whose call it is, unless it is in the middle of another one's.
    #[inline(always)]
    pub(super) fn session(&self) -> u64 {
        if self.hidden == 0 { self.call.session } else { 0 }
    }

    /// A socket operation was in it.
    #[inline(always)]
    pub(super) fn moved(&mut self, egress: bool, time: u64, seq_end: u32, io_flags: u32) {
        if egress {
            self.sent = seq_end;
        } else {
            self.received = seq_end;
        }
        self.call.moved_time = time;
        self.call.io_flags = io_flags;
    }
}

/// The call in which the current system call is, by the registers with which that was entered.
#[inline(always)]
pub(super) fn call_of(task: Task, tgid: u32) -> Option<&'static mut GoCall> {
    let regs = Regs::of(task);
    let goroutine = regs.r14();
    let call = TRACER_GOCALL.get_ptr_mut(GoroutineKey { goroutine, tgid, reserved: 0 })?;
    let frame = Frame::of(goroutine, regs.stack_pointer())?;
    // SAFETY: a live entry of the table, used by the one thread that runs the goroutine.
    let call = unsafe { &mut *call };
    (frame.depth > call.call.stack).then_some(call)
}

/// Whether a goroutine is in a call.
#[inline(always)]
pub(super) fn is_in_call(goroutine: u64, tgid: u32) -> bool {
    TRACER_GOCALL.get_ptr(GoroutineKey { goroutine, tgid, reserved: 0 }).is_some()
}

/// All places: one program, so that one link of the kernel's holds them.
#[uprobe]
fn tracer_tls_go(ctx: ProbeContext) -> u32 {
    // SAFETY: a probe's context is the register frame, beside which the kernel keeps what the helper reads.
    let (regs, cookie) = unsafe { (&*ctx.regs, helpers::bpf_get_attach_cookie(ctx.regs.cast())) };
    let site = GoTlsSite::of_cookie(cookie);
    if u64::from(site.site) == tls_site::FREES {
        plaintext::gone(regs.rax);
        return 0;
    }
    let Some(actor) = filter::current() else {
        return 0;
    };
    let Some(thread) = task_state(actor.task) else {
        count(KernelLoss::TaskStorageFull);
        return 0;
    };
    if u64::from(site.site) == tls_site::ENDS {
        ended(regs, site, &actor, thread);
    } else {
        begun(regs, site, &actor, thread);
    }
    0
}

/// A call begins. Arguments are in their registers still, and the stack is as its caller has left it.
#[inline(always)]
fn begun(regs: &pt_regs, site: GoTlsSite, actor: &Actor, thread: &mut TaskState) {
    let goroutine = regs.r14;
    let key = GoroutineKey { goroutine, tgid: actor.tgid, reserved: 0 };
    let number = read_user::<u64>(goroutine.wrapping_add(site.number.into())).unwrap_or(0);
    let Some(frame) = Frame::of(goroutine, regs.rsp) else {
        return;
    };
    if number == 0 {
        return;
    }
    let session = regs.rax;
    if let Some(outer) = TRACER_GOCALL.get_ptr_mut(key) {
        // SAFETY: a live entry of the table, used by the one thread that runs the goroutine.
        let outer = unsafe { &mut *outer };
        if outer.number == number && frame.depth > outer.call.stack {
            outer.call.inner += 1;
            if outer.hidden == 0 && session != outer.call.session {
                outer.hidden = outer.call.inner;
            }
            return;
        }
        // One that was left without its end (a panic) is over.
    }
    if site.site == TlsCall::Other.code() {
        // A handshake that is in no other call. Connections are not always closed through this library, and reads go on
        // beside the closing.
        plaintext::gone(session);
    }
    if site.site == TlsCall::Write.code() {
        plaintext::sends(session, actor.tgid);
    }
    let on_stack = frame.low <= regs.rbx && regs.rbx < frame.high;
    let go = &mut thread.go_call;
    go.call = Call {
        session,
        buffer: if on_stack { frame.high - regs.rbx } else { regs.rbx },
        moved_at: 0,
        wanted: regs.rcx,
        stack: frame.depth,
        moved_time: 0,
        kind: site.site,
        inner_stack: 0,
        inner: 0,
        io_flags: u32::from(io_flags::BLOCKING_UNKNOWN),
        layout: 0,
        calls_back: 0,
        is_exact: 0,
        moved_to: 0,
    };
    go.number = number;
    go.sent = 0;
    go.received = 0;
    go.hidden = 0;
    go.on_stack = u32::from(on_stack);
    // SAFETY: a valid map; key and value are of its types. An entry is too large for the stack.
    let failed = unsafe {
        helpers::bpf_map_update_elem(
            (&raw const TRACER_GOCALL).cast_mut().cast(),
            (&raw const key).cast(),
            (&raw const *go).cast(),
            u64::from(BPF_ANY),
        )
    };
    if failed != 0 {
        count(KernelLoss::SessionTableFull);
    }
}

/// A call returns, and its result is in its register.
#[inline(always)]
fn ended(regs: &pt_regs, site: GoTlsSite, actor: &Actor, thread: &mut TaskState) {
    let goroutine = regs.r14;
    let key = GoroutineKey { goroutine, tgid: actor.tgid, reserved: 0 };
    let Some(go) = TRACER_GOCALL.get_ptr_mut(key) else {
        return;
    };
    // SAFETY: a live entry of the table, used by the one thread that runs the goroutine; one that is removed stays until
    // the program ends.
    let go = unsafe { &mut *go };
    let number = read_user::<u64>(goroutine.wrapping_add(site.number.into())).unwrap_or(0);
    let Some(frame) = Frame::of(goroutine, regs.rsp) else {
        return;
    };
    if go.number == number && frame.depth > go.call.stack {
        if go.hidden == go.call.inner {
            go.hidden = 0;
        }
        if go.call.inner > 0 {
            go.call.inner -= 1;
        }
        return;
    }
    if go.number == number && frame.depth == go.call.stack {
        if go.on_stack != 0 {
            go.call.buffer = frame.high - go.call.buffer;
        }
        returned(regs, site, actor, thread, go);
    }
    let _ = TRACER_GOCALL.remove(key);
}

#[inline(always)]
fn returned(regs: &pt_regs, site: GoTlsSite, actor: &Actor, thread: &mut TaskState, go: &mut GoCall) {
    let session = go.call.session;
    let moves = go.call.kind != TlsCall::Other.code();
    let result = regs.rax;
    // No call moves more than it was asked for, or than a length of this type can say.
    let moved = moves && result != 0 && result <= go.call.wanted && result <= i32::MAX as u64;
    if !moved && go.received == 0 {
        return;
    }
    let Some(mut state) = plaintext::streams(thread, session, actor.tgid) else {
        return;
    };
    // SAFETY: a live entry of the table. Who reads and who writes may be two threads, which use different parts of it, but
    // for plain integers, of which a torn update costs accuracy of one operation.
    let state = unsafe { state.as_mut() };
    if go.received != 0 {
        state.ingress.next_seq = go.received;
    }
    if !moved {
        return;
    }
    let seq_end = if go.call.is_write() {
        go.sent
    } else {
        looked_at(session.wrapping_add(site.unread.into()), state.ingress.next_seq)
    };
    let moved = Moved { session, len: result as u32, source: Source::GoTls, seq_end, by: regs.r14 };
    if plaintext::report(thread, &mut go.call, state, actor, moved) {
        let is_server = read_user::<u8>(session.wrapping_add(IS_CLIENT)) == Some(0);
        identity::of_plaintext(actor, thread, state, regs.rsp, is_server);
    }
}

/// Sequence number behind the last record that was taken from the buffer of what was read up to `received`.
#[inline(always)]
fn looked_at(buffer: u64, received: u32) -> u32 {
    let (Some(len), Some(read)) = (
        read_user::<u64>(buffer.wrapping_add(BUFFER_LEN)),
        read_user::<u64>(buffer.wrapping_add(BUFFER_READ)),
    ) else {
        return 0;
    };
    if received == 0 || read > len || len > i32::MAX as u64 {
        return 0;
    }
    received.wrapping_sub((len - read) as u32)
}
