//! GnuTLS's calls: where one begins, where it ends, where a session is freed.
//!
//! A function of it may go on in another one, where further calls end, too: a return is one of the call only where this
//! began, by the stack pointer. The loader says with each probe's cookie how far the stack has grown there, and where a
//! session keeps what is read of it.

use aya_ebpf::bindings::pt_regs;
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::uprobe;
use aya_ebpf::programs::ProbeContext;
use tracer_abi::config::{GNUTLS_CORKED, GNUTLS_SERVER, GnuTlsSite, TlsCall, tls_site};
use tracer_abi::error::KernelLoss;
use tracer_abi::event::{Source, io_flags};
use tracer_abi::openssl::RANDOM_BYTES;

use crate::filter;
use crate::maps::{count, task_state};
use crate::regs::read_user;
use crate::tls::hellos::{self, Places};
use crate::tls::plaintext::{self, Moved};

/// All places: one program, so that one link of the kernel's holds them.
#[uprobe]
fn tracer_tls_gnu(ctx: ProbeContext) -> u32 {
    // SAFETY: a probe's context is the register frame, beside which the kernel keeps what the helper reads.
    let (regs, cookie) = unsafe { (&*ctx.regs, helpers::bpf_get_attach_cookie(ctx.regs.cast())) };
    let site = GnuTlsSite::of_cookie(cookie);
    match u64::from(site.site) {
        tls_site::ENDS => ended(regs, site),
        tls_site::FREES => plaintext::gone(regs.rdi),
        _ => begun(regs, site),
    }
    0
}

/// A call begins. Arguments are in their registers still.
#[inline(always)]
fn begun(regs: &pt_regs, site: GnuTlsSite) {
    let Some(actor) = filter::current() else {
        return;
    };
    let Some(thread) = task_state(actor.task) else {
        count(KernelLoss::TaskStorageFull);
        return;
    };
    let call = &mut thread.call;
    let stack = regs.rsp.wrapping_add(8 * u64::from(site.depth));
    if call.session != 0 && stack < call.stack {
        if call.inner == 0 {
            call.inner = 1;
            call.inner_stack = stack;
        }
        return;
    }
    // One that was left without its end (a long jump) is over.
    call.session = regs.rdi;
    call.buffer = regs.rsi;
    call.wanted = regs.rdx;
    call.moved_at = 0;
    call.stack = stack;
    call.moved_time = 0;
    call.moved_to = 0;
    call.inner = 0;
    call.inner_stack = 0;
    call.io_flags = u32::from(io_flags::BLOCKING_UNKNOWN);
    call.kind = u32::from(site.site);
    call.calls_back = 0;
    call.layout = 0;
    call.is_exact = 1;
    if call.kind == TlsCall::ReadAside.code() {
        call.kind = TlsCall::Read.code();
        call.buffer = 0;
        call.wanted = 0;
    } else if call.is_write() && is_corked(regs.rdi, site) {
        // It will be sent by calls of the library's own.
        call.kind = TlsCall::Other.code();
    }
}

#[inline(always)]
fn is_corked(session: u64, site: GnuTlsSite) -> bool {
    let state = read_user::<u32>(session.wrapping_add(site.corked.into())).unwrap_or(0);
    state == GNUTLS_CORKED[0] || state == GNUTLS_CORKED[1]
}

/// A function returns: it may be that which the call began in, and its result is in its register.
#[inline(always)]
fn ended(regs: &pt_regs, site: GnuTlsSite) {
    let Some(actor) = filter::current() else {
        return;
    };
    let Some(thread) = task_state(actor.task) else {
        return;
    };
    let call = &mut thread.call;
    if call.inner != 0 && regs.rsp == call.inner_stack {
        call.inner = 0;
        call.inner_stack = 0;
        return;
    }
    if call.is_exact == 0 || regs.rsp != call.stack {
        return;
    }
    let session = core::mem::take(&mut call.session);
    if session == 0 || call.kind == TlsCall::Other.code() {
        return;
    }
    let moved = regs.rax as i64;
    // Who tries again need not say what was to be sent, which the library has kept (`gnutls_record_send(session, NULL, 0)`):
    // then it is counted, and not read.
    let is_unread = call.buffer == 0 && call.wanted == 0;
    if moved <= 0 || moved > i64::from(i32::MAX) || moved as u64 > call.wanted && !is_unread {
        return;
    }
    let call = &raw mut thread.call;
    if let Some(mut state) = plaintext::streams(thread, session, actor.tgid) {
        // SAFETY: a live entry of the table, used by the one thread that is in a call of the session; and a part of the
        // thread's state that is used by this name only.
        let (state, call) = unsafe { (state.as_mut(), &mut *call) };
        if plaintext::is_first(state) {
            let client_random = u32::from(site.hellos);
            let server_random = client_random + RANDOM_BYTES as u32;
            let places =
                Places { client_random, server_random, role: site.role.into(), server: GNUTLS_SERVER };
            hellos::tell(call, places, session, &actor);
        }
        let (seq_end, by) = (call.moved_to, actor.task.nvcsw());
        let moved = Moved { session, len: moved as u32, source: Source::GnuTls, seq_end, by };
        plaintext::report(thread, call, state, &actor, moved);
    }
}
