//! Go: which goroutine takes up which stream of an HTTP/2 connection.
//!
//! | where | told |
//! |---|---|
//! | a goroutine begins to serve a stream | that it does, and which numbers no goroutine has yet |
//! | one of `net/http` begins to send a stream's request | the goroutine that started it for that, and waits |
//! | one of grpc-go has the number of a stream that it calls by | that one |
//!
//! The socket is found by the program's own descriptor of it. How the memory is walked is in
//! [`tracer_abi::golang_streams`] and [`tracer_abi::golang_grpc`].

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::uprobe;
use aya_ebpf::programs::ProbeContext;
use tracer_abi::config::{GrpcSite, tls_site};
use tracer_abi::conn::{Direction, SocketCookie};
use tracer_abi::error::KernelLoss;
use tracer_abi::event::{EventKind, Runtime, StreamRecord};
use tracer_abi::golang::{self, GoProcess, Waiter};
use tracer_abi::golang_grpc as grpc;
use tracer_abi::golang_streams::{self as streams, MAX_WRAPPED, Wrapped};
use tracer_abi::python::TaskId;

use super::golang::unborn;
use super::{OwnMemory, is_process, now, zeroed};
use crate::emit;
use crate::filter::{self, Actor};
use crate::maps::{TRACER_DATA, TRACER_GO, count};
use crate::sock::OpenSocket;

/// All places: one program, so that one link of the kernel's holds them.
#[uprobe]
fn tracer_go_stream(ctx: ProbeContext) -> u32 {
    let Some(actor) = filter::current() else {
        return 0;
    };
    let Some(process) = TRACER_GO.get_ptr_mut(actor.tgid) else {
        return 0;
    };
    // SAFETY: a live entry of the table, and entries are plain integers.
    let process = unsafe { &mut *process };
    if !is_process(actor.task, process.start_boottime) {
        return 0;
    }
    let begin = now();
    taken(&ctx, &actor, process);
    process.spent_nanos += now() - begin;
    process.looks += 1;
    0
}

#[inline(always)]
fn taken(ctx: &ProbeContext, actor: &Actor, process: &GoProcess) {
    // SAFETY: a probe's context is the register frame, beside which the kernel keeps what the helper reads.
    let (regs, cookie) = unsafe { (&*ctx.regs, helpers::bpf_get_attach_cookie(ctx.regs.cast())) };
    let GrpcSite { site, fields } = GrpcSite::of_cookie(cookie);
    let site = u64::from(site);
    let serves = site == tls_site::STREAM_SERVES || site == tls_site::GRPC_SERVES;
    let Some(goroutine) = golang::running(&OwnMemory, process, regs.r14, regs.rsp) else {
        return;
    };
    let stream = match site {
        tls_site::STREAM_SERVES => streams::served(&OwnMemory, regs.rax, regs.rbx),
        // One that serves for good would be another stream's the moment that is not told of.
        tls_site::GRPC_SERVES if !golang::is_called_by_outermost(&OwnMemory, goroutine, regs.rbp) => return,
        tls_site::GRPC_SERVES => grpc::served(&OwnMemory, fields, regs.rcx, regs.rdi),
        tls_site::GRPC_CALLS => grpc::called(&OwnMemory, fields, regs.rax),
        _ => streams::called(&OwnMemory, regs.rax),
    };
    let Some(stream) = stream else {
        return;
    };
    let mut way = Wrapped::begin(stream.connection);
    for _ in 0..MAX_WRAPPED {
        if !way.step(&OwnMemory) {
            break;
        }
    }
    let Some(descriptor) = way.descriptor(&OwnMemory) else {
        return;
    };
    let cookie = OpenSocket::of(actor.task, descriptor).map_or(0, |socket| socket.cookie());
    if cookie == 0 || way.descriptor(&OwnMemory) != Some(descriptor) {
        return;
    }
    let caller = match site {
        tls_site::STREAM_CALLS => caller(process, goroutine, regs.rax),
        tls_site::GRPC_CALLS => golang::as_waiter(&OwnMemory, process, goroutine),
        _ => Waiter::default(),
    };
    let Some(mut entry) = TRACER_DATA.reserve::<StreamRecord>(0) else {
        count(KernelLoss::DataRingFull);
        return;
    };
    let record = entry.as_mut_ptr();
    let direction = if serves { Direction::Ingress } else { Direction::Egress };
    // SAFETY: memory of this size and alignment, all of which is written before it is read.
    unsafe {
        (*record).identity.header = emit::header::<StreamRecord>(EventKind::StreamTaken, Some(actor));
        (*record).identity.cookie = SocketCookie(cookie);
        (*record).identity.runtime = Runtime::Go.code();
        (*record).identity.direction = direction as u8;
        (*record).identity.end = 0;
        (*record).identity.cost_nanos = 0;
        (*record).stream = stream.id;
        (*record).reserved = 0;
        let tasks = zeroed(&raw mut (*record).identity.tasks);
        tasks[0] = goroutine;
        (*record).identity.len = if serves {
            unborn(tasks, process)
        } else {
            tasks[1] = caller.task;
            tasks[2] = TaskId { address: caller.started_at, number: caller.parent };
            3
        };
    }
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}

/// Who started the goroutine that sends, and what is known of it if it waits for the answer already.
#[inline(always)]
fn caller(process: &GoProcess, sender: TaskId, stream: u64) -> Waiter {
    let number = golang::parent(&OwnMemory, process, sender);
    let waiter = streams::answers(&OwnMemory, stream)
        .and_then(|channel| golang::waits(&OwnMemory, process, channel))
        .filter(|waiter| waiter.task.number == number);
    match waiter {
        Some(waiter) => waiter,
        None => Waiter { task: streams::by_number(number), ..Waiter::default() },
    }
}
