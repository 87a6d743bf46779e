//! CPython: the task of the event loop that runs on the thread, and those that wait for it.
//!
//! | operation | told |
//! |---|---|
//! | a turn of egress begins | the task that has written it, or runs, and the chain of its waiters |
//! | one does, and none runs | the task that waits for what the thread does, and the chain of its waiters |
//! | a turn of ingress begins, but for answers to tasks | the task that began the last turn of egress here, if it waits for |
//! | | these very bytes; and except of calls, how many tasks there have been |
//!
//! How the memory is walked is in [`tracer_abi::python`] and [`tracer_abi::python_thread`].

use tracer_abi::config::identity_slot;
use tracer_abi::conn::{Direction, Role};
use tracer_abi::error::KernelLoss;
use tracer_abi::event::{Runtime, Source};
use tracer_abi::python::{Frames, MAX_FRAMES, Memory as _, PythonProcess, Scratch, TaskId};
use tracer_abi::python_chain::{Chain, MAX_CHAIN_STEPS};
use tracer_abi::python_streams::Written;
use tracer_abi::python_suspended::{MAX_AWAITS, Suspended};
use tracer_abi::python_thread::{self, Item};
use tracer_abi::python_work::Working;

use super::{OwnMemory, is_process, now, run, tell};
use crate::filter::{self, Actor};
use crate::kernel::Task;
use crate::maps::{SockState, TRACER_PYTHON, TRACER_PYWROTE, TaskState, count, task_state};
use crate::probes::{fexit, sock_length};
use crate::sock::{OpenSocket, Sock};

/// Where the walks are. In the thread's state, for the reason that [`crate::maps::Operation`] is.
#[repr(C)]
pub(crate) struct Walk {
    scratch: Scratch,
    frames: Frames,
    /// The task that was made last on this thread, and the one that has made it; zeroes: none has.
    pub(super) made: u64,
    pub(super) maker: u64,
    pub(super) chain: Chain,
    pub(super) written: Written,
    suspended: Suspended,
    item: Item,
    pub(super) working: Working,
}

programs! {
    PYTHON, TRACER_PYTHON, ask, answers told;
    trace_points {
        tracer_py_send, "sock_send_length", Egress, TRACER_IDSEND;
        tracer_py_recv, "sock_recv_length", Ingress, TRACER_IDRECV;
    }
    returns {
        tracer_py_in4s, "inet_sendmsg", Egress, TRACER_IDIN4S;
        tracer_py_in6s, "inet6_sendmsg", Egress, TRACER_IDIN6S;
        tracer_py_uns, "unix_stream_sendmsg", Egress, TRACER_IDUNS;
        tracer_py_in4r, "inet_recvmsg", Ingress, TRACER_IDIN4R;
        tracer_py_in6r, "inet6_recvmsg", Ingress, TRACER_IDIN6R;
        tracer_py_unr, "unix_stream_recvmsg", Ingress, TRACER_IDUNR;
    }
}

#[inline(always)]
fn ask(
    task: Task,
    thread: &mut TaskState,
    (state, sock): (&mut SockState, Sock),
    process: &mut PythonProcess,
    begin: u64,
) -> bool {
    let thread_pointer = task.thread_pointer();
    if thread.op.record.direction == Direction::Egress as u8 {
        let found = match written(thread, state, sock, process) {
            Some(found) => found,
            None => {
                let answers = state.role == Role::Server.code();
                sent(thread, state, process, thread_pointer)
                    || handed_over(thread, process, thread_pointer, answers)
            }
        };
        if found {
            let chain = &thread.walk.chain;
            tell(thread, Runtime::Python, begin, chain.end as u8, |tasks| {
                for (task, found) in tasks.iter_mut().zip(&chain.tasks) {
                    *task = *found;
                }
                chain.len as u8
            });
        }
        return found;
    }
    if writes_later(thread, process) {
        // What was written before is sent.
        let _ = TRACER_PYWROTE.remove(sock.0 as u64);
    }
    if state.role == Role::Client.code() && state.sender != TaskId::default() {
        // An answer to a task's call. Who gets it says nothing of whose call it was.
        return true;
    }
    let awaits = received(thread, state, process, task);
    let youngest = if process.task_counter == 0 { 0 } else { OwnMemory.word(process.task_counter) };
    if awaits || youngest != 0 && state.role != Role::Client.code() {
        let task = if awaits { state.sender } else { TaskId::default() };
        tell(thread, Runtime::Python, begin, 0, |tasks| {
            tasks[0] = task;
            tasks[1].address = youngest;
            2
        });
    }
    // Threads beside a loop's may be those of a pool.
    awaits
}

/// Whether what a task writes may be sent when it has had its turn.
#[inline(always)]
fn writes_later(thread: &TaskState, process: &PythonProcess) -> bool {
    process.stream_types[0] != 0 && thread.op.record.source == Source::Socket.code()
}

/// Which task has written what is sent; false: it is not clear. `None`: nothing was written that is not sent yet.
#[inline(always)]
fn written(
    thread: &mut TaskState,
    state: &mut SockState,
    sock: Sock,
    process: &PythonProcess,
) -> Option<bool> {
    if !writes_later(thread, process) {
        return None;
    }
    let key = sock.0 as u64;
    let written = TRACER_PYWROTE.get_ptr(key)?;
    // SAFETY: a live entry of the table, and entries are plain integers.
    let Written { chain, seq, .. } = unsafe { &*written };
    let op = &thread.op;
    let sent = match op.record.tcp_seq_end {
        0 => 0,
        end => end.wrapping_sub(op.total),
    };
    if *seq != sent {
        return None;
    }
    thread.walk.chain = *chain;
    let _ = TRACER_PYWROTE.remove(key);
    state.sender = thread.walk.chain.tasks[0];
    Some(thread.walk.chain.len != 0)
}

/// What probes in functions of a loop's process do, with the thread's state, what is known of the process, and the time.
#[inline(always)]
pub(super) fn passed(act: impl FnOnce(&Actor, &mut TaskState, &PythonProcess, u64)) -> u32 {
    let Some(actor) = filter::current() else {
        return 0;
    };
    let Some(process) = TRACER_PYTHON.get_ptr_mut(actor.tgid) else {
        return 0;
    };
    // SAFETY: a live entry of the table, and entries are plain integers.
    let process = unsafe { &mut *process };
    if !is_process(actor.task, process.start_boottime) {
        return 0;
    }
    let Some(thread) = task_state(actor.task) else {
        count(KernelLoss::TaskStorageFull);
        return 0;
    };
    let begin = now();
    act(&actor, thread, process, begin);
    // Another thread may add at the same time: what is lost then is one look.
    process.spent_nanos += now() - begin;
    process.looks += 1;
    0
}

/// What the loops of the kernel's hand on.
struct Context<'w> {
    walk: &'w mut Walk,
    process: &'w PythonProcess,
}

/// Which task sends, and who waits for it.
#[inline(never)]
fn sent(thread: &mut TaskState, state: &mut SockState, process: &PythonProcess, thread_pointer: u64) -> bool {
    state.sender = runs(thread, process, thread_pointer);
    if state.sender.address == 0 {
        return false;
    }
    waiters(thread, process);
    true
}

/// Those that wait for the task with which the chain begins.
#[inline(always)]
pub(super) fn waiters(thread: &mut TaskState, process: &PythonProcess) {
    let mut context = Context { walk: &mut thread.walk, process };
    // Since 3.12 a task may take its first step while it is being made: who makes it waits for that.
    if context.walk.maker != 0 && context.walk.made == context.walk.chain.tasks[0].address {
        within_maker(&mut context);
    }
    run(MAX_CHAIN_STEPS, chain_step, &mut context);
}

/// Whether the chain's task runs inside of its maker's step: then it goes on with that one.
#[inline(always)]
fn within_maker(context: &mut Context<'_>) {
    if !context.walk.frames.begin_within(&OwnMemory, context.process) {
        return;
    }
    run(MAX_FRAMES, within_step, context);
    let walk = &mut *context.walk;
    if walk.frames.is_within == 1 {
        walk.chain.is_made_by(&OwnMemory, context.process, walk.maker, &mut walk.scratch);
    }
}

/// The task that runs on the thread, with which the chain begins; zeroes if none does.
#[inline(always)]
pub(super) fn runs(thread: &mut TaskState, process: &PythonProcess, thread_pointer: u64) -> TaskId {
    let walk = &mut thread.walk;
    walk.frames = Frames::begin(&OwnMemory, process, thread_pointer, &mut walk.scratch);
    let mut context = Context { walk, process };
    run(MAX_FRAMES, frame_step, &mut context);
    let walk = context.walk;
    walk.frames.among_current(&OwnMemory, process, &mut walk.scratch);
    if walk.frames.task == 0 {
        return TaskId::default();
    }
    walk.chain.begin(&OwnMemory, process, &mut walk.scratch);
    walk.chain.tasks[0]
}

/// Which task waits for what the thread does, and who for that one.
#[inline(never)]
fn handed_over(thread: &mut TaskState, process: &PythonProcess, thread_pointer: u64, answers: bool) -> bool {
    let walk = &mut thread.walk;
    walk.item = Item::begin(&OwnMemory, process, thread_pointer);
    let mut context = Context { walk, process };
    run(python_thread::MAX_FRAMES, item_step, &mut context);
    let future = context.walk.item.chained(&OwnMemory, process);
    if future == 0 {
        return false;
    }
    let walk = &mut *context.walk;
    walk.chain.begin_at(&OwnMemory, future, &mut walk.scratch);
    run(MAX_CHAIN_STEPS, chain_step, &mut context);
    if context.walk.chain.len == 0 {
        return false;
    }
    let walk = &mut *context.walk;
    let Some(suspended) = Suspended::begin(&OwnMemory, process, walk.chain.tasks[0], &mut walk.scratch)
    else {
        return false;
    };
    context.walk.suspended = suspended;
    run(MAX_AWAITS, await_step, &mut context);
    let walk = context.walk;
    if python_thread::is_own(&OwnMemory, process, &walk.chain, future, &walk.suspended) {
        return true;
    }
    // Who has had the pool do it was told where it did, as if the item were a task of its own.
    let item = walk.item.future();
    if item == 0 || answers {
        return false;
    }
    walk.chain.begins_with(TaskId { address: item, number: 0 });
    true
}

/// Whether the task that sent here last waits for what was received.
#[inline(never)]
fn received(thread: &mut TaskState, state: &mut SockState, process: &PythonProcess, task: Task) -> bool {
    let sender = state.sender;
    if sender.address == 0 {
        return false;
    }
    let walk = &mut thread.walk;
    let Some(suspended) = Suspended::begin(&OwnMemory, process, sender, &mut walk.scratch) else {
        return false;
    };
    walk.suspended = suspended;
    let mut context = Context { walk, process };
    run(MAX_AWAITS, await_step, &mut context);
    let suspended = &context.walk.suspended;
    suspended.waits_for_bytes(&OwnMemory, process, task.thread_pointer())
        || reads(suspended, state, process, task)
}

/// Whether what waits in a stream's read reads from this socket, whose loop has no frames.
#[inline(always)]
fn reads(suspended: &Suspended, state: &SockState, process: &PythonProcess, task: Task) -> bool {
    if process.stream_types[0] == 0 {
        return false;
    }
    let stream = suspended.reads(&OwnMemory, process);
    let socket = stream.and_then(|stream| OpenSocket::of(task, stream.descriptor));
    socket.is_some_and(|socket| state.cookie != 0 && socket.cookie() == state.cookie)
}

extern "C" fn frame_step(_index: u64, context: &mut Context<'_>) -> i64 {
    let walk = &mut *context.walk;
    i64::from(!walk.frames.step(&OwnMemory, context.process, &mut walk.scratch))
}

extern "C" fn within_step(_index: u64, context: &mut Context<'_>) -> i64 {
    i64::from(!context.walk.frames.step_within(&OwnMemory, context.process))
}

extern "C" fn item_step(_index: u64, context: &mut Context<'_>) -> i64 {
    i64::from(!context.walk.item.step(&OwnMemory, context.process))
}

extern "C" fn chain_step(_index: u64, context: &mut Context<'_>) -> i64 {
    let walk = &mut *context.walk;
    i64::from(!walk.chain.step(&OwnMemory, context.process, &mut walk.scratch))
}

extern "C" fn await_step(_index: u64, context: &mut Context<'_>) -> i64 {
    i64::from(!context.walk.suspended.step(&OwnMemory, context.process))
}
