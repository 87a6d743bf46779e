//! OpenSSL's calls: where one begins, where it ends, where a session is freed.
//!
//! The loader says with each probe's cookie which call it sits in. A call counts when it ends and says how much it moved:
//! one that is to be tried again (`SSL_ERROR_WANT_READ`, `…_WRITE`) has moved nothing, whatever it sent.

use aya_ebpf::bindings::pt_regs;
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::{uprobe, uretprobe};
use aya_ebpf::programs::{ProbeContext, RetProbeContext};
use tracer_abi::config::{TlsCall, tls_site};
use tracer_abi::error::KernelLoss;
use tracer_abi::event::{Source, io_flags};

use crate::filter;
use crate::maps::{count, task_state};
use crate::regs::read_user;
use crate::tls::plaintext::{self, Moved};
use crate::tls::{Call, hellos};

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
        tls_site::FREES => plaintext::gone(regs.rdi),
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
    call.stack = regs.rsp;
    call.moved_time = 0;
    call.moved_to = 0;
    call.inner = 0;
    call.io_flags = u32::from(io_flags::BLOCKING_UNKNOWN);
    call.kind = (site & tls_site::MASK) as u32;
    // Each is read by itself: of two addresses in the frame the verifier follows none that was chosen.
    // SAFETY: fields of the frame.
    let (fourth, fifth) =
        unsafe { ((&raw const regs.rcx).read_volatile(), (&raw const regs.r8).read_volatile()) };
    call.moved_at = if call.kind == TlsCall::WriteEx2.code() { fifth } else { fourth };
    call.calls_back = u16::from(site & tls_site::CALLS_BACK != 0);
    call.layout = (site >> tls_site::LAYOUT_SHIFT) as u16;
    call.is_exact = 0;
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
    let call = &raw mut thread.call;
    if let Some(mut state) = plaintext::streams(thread, session, actor.tgid) {
        // SAFETY: a live entry of the table, used by the one thread that is in a call of the session; and a part of the
        // thread's state that is used by this name only.
        let (state, call) = unsafe { (state.as_mut(), &mut *call) };
        if plaintext::is_first(state)
            && let Some(places) = hellos::places(call)
        {
            hellos::tell(call, places, session, &actor);
        }
        let (seq_end, by) = (call.moved_to, actor.task.nvcsw());
        let moved = Moved { session, len: moved as u32, source: Source::OpenSsl, seq_end, by };
        plaintext::report(thread, call, state, &actor, moved);
    }
}
