//! Fork, exec and exit: who is traced is followed here, so that a child's first byte is never missed.

use core::ffi::c_void;

use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use aya_log_ebpf::debug;
use tracer_abi::config::process_flags;
use tracer_abi::event::{EventKind, ExecRecord, ExitRecord, ForkRecord, flags};
use tracer_abi::limits::{COMM_BYTES, EXEC_ARGV_BYTES, EXEC_FILENAME_BYTES};
use tracer_abi::task::{Tgid, Tid};

use crate::emit;
use crate::filter;
use crate::kernel::{Task, probe};
use crate::maps::{config, offset};

/// `sched_process_fork(parent, child)`: in the parent's context, before the child runs.
#[btf_tracepoint(function = "sched_process_fork")]
fn tracer_fork(ctx: BtfTracePointContext) -> i32 {
    let child = Task(ctx.arg::<*const c_void>(1));
    let (tgid, tid) = (child.tgid(), child.tid());
    // A thread is traced with its process.
    if tgid != tid {
        return 0;
    }
    let Some(actor) = filter::current() else {
        return 0;
    };
    let child_start = child.process_start();
    debug!(&ctx, "process {} forked {}", actor.tgid, tgid);
    if config!(trace_all) == 0 {
        filter::enter(tgid, child_start, actor.flags & process_flags::PENDING);
    }
    emit::control::<ForkRecord>(|record| {
        record.header = emit::header::<ForkRecord>(EventKind::ProcessForked, Some(&actor));
        record.child_start_boottime = child_start;
        record.child = Tgid(tgid);
        record.child_tid = Tid(tid);
    });
    0
}

/// An exec record with room for its strings; twice the name's room, so that the arguments may follow at any place.
#[repr(C)]
struct ExecSlot {
    record: ExecRecord,
    strings: [u8; 2 * EXEC_FILENAME_BYTES as usize + EXEC_ARGV_BYTES as usize],
}

/// `sched_process_exec(task, old_pid, bprm)`: in the context of the process, with its new memory in place.
#[btf_tracepoint(function = "sched_process_exec")]
fn tracer_exec(ctx: BtfTracePointContext) -> i32 {
    let bprm: *const c_void = ctx.arg(2);
    let actor = match filter::current() {
        Some(actor) => actor,
        None if config!(watch_exec) != 0 => match filter::enter_pending() {
            Some(actor) => actor,
            None => return 0,
        },
        None => return 0,
    };
    debug!(&ctx, "process {} execs, flags {:x}", actor.tgid, actor.flags);
    emit::control::<ExecSlot>(|slot| {
        let record = &mut slot.record;
        record.header = emit::header::<ExecRecord>(EventKind::ProcessExeced, Some(&actor));
        if actor.is_traced() {
            record.header.flags = flags::TRACED;
        }
        record.parent = Tgid(actor.task.parent_tgid());
        // SAFETY: destinations are inside the record, as the constants and clamps say and the verifier proves.
        unsafe {
            helpers::bpf_get_current_comm((&raw mut record.comm).cast(), COMM_BYTES as u32);
            let strings = (&raw mut slot.strings).cast::<u8>();
            let filename: u64 = probe(bprm, offset!(bprm_filename));
            let copied = helpers::bpf_probe_read_kernel_str(
                strings.cast(),
                EXEC_FILENAME_BYTES,
                filename as *const c_void,
            );
            // The count includes the final NUL, which is not part of the name.
            let filename_len = if copied > 0 { copied as u64 - 1 } else { 0 };
            let filename_len = emit::at_most::<{ EXEC_FILENAME_BYTES as u64 }>(filename_len);
            let (start, end) = actor.task.argv_range();
            let argv_len = emit::at_most::<{ EXEC_ARGV_BYTES as u64 }>(end.saturating_sub(start));
            let place = strings.add(filename_len as usize).cast();
            let failed = helpers::bpf_probe_read_user(place, argv_len as u32, start as *const c_void);
            let argv_len = if failed == 0 { argv_len as u32 } else { 0 };
            record.filename_len = filename_len as u32;
            record.argv_len = argv_len;
            record.header.len_bytes = size_of::<ExecRecord>() as u32 + filename_len as u32 + argv_len;
        }
    });
    0
}

/// `sched_process_exit(task, …)`: in the context of the ending thread, before its files are closed.
#[btf_tracepoint(function = "sched_process_exit")]
fn tracer_exit(ctx: BtfTracePointContext) -> i32 {
    let Some(actor) = filter::listed() else {
        return 0;
    };
    let gone = actor.task.live_threads() == 0;
    if gone {
        debug!(&ctx, "process {} is gone", actor.tgid);
    }
    if gone && config!(trace_all) == 0 {
        filter::leave(actor.tgid, actor.flags);
    }
    if actor.flags & process_flags::UNTRACED != 0 {
        return 0;
    }
    emit::control::<ExitRecord>(|record| {
        record.header = emit::header::<ExitRecord>(EventKind::TaskExited, Some(&actor));
        if gone {
            record.header.flags = flags::PROCESS_GONE;
        }
        record.exit_code = actor.task.exit_code();
    });
    0
}
