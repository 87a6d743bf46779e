//! Tokio: the task that is polled on the thread, and the one that waits for the call of this connection.
//!
//! | operation | told |
//! |---|---|
//! | a turn of egress begins, a turn of ingress on a connection of a client | who makes the call, and the chain of those that wait |
//! | a turn of ingress begins on another connection | which task reads it, and which number the next one will have |
//! | any, while it is not known where the current task's id is | where it may be |
//!
//! How the memory is walked is in [`tracer_abi::tokio`].

use tracer_abi::config::identity_slot;
use tracer_abi::conn::{Direction, Role};
use tracer_abi::event::Runtime;
use tracer_abi::python::{CHAIN_TASKS, TaskId};
use tracer_abi::tokio::{
    self, Channel, Climb, Header, Learning, MAX_BOX_WORDS, MAX_CLIMBS, MAX_FUTURE_WORDS, MAX_LOCAL_WORDS,
    MAX_NEAR_WORDS, MAX_SEARCHES, MAX_STACK_WORDS, Search, TokioProcess, walk_end,
};

use super::{OwnMemory, run, tell};
use crate::kernel::Task;
use crate::maps::{SockState, TaskState};
use crate::probes::{fexit, sock_length};
use crate::regs::Regs;
use crate::sock::Sock;

programs! {
    TOKIO, TRACER_TOKIO, ask, answers passed;
    trace_points {
        tracer_tk_send, "sock_send_length", Egress, TRACER_IDSEND;
        tracer_tk_recv, "sock_recv_length", Ingress, TRACER_IDRECV;
    }
    returns {
        tracer_tk_in4s, "inet_sendmsg", Egress, TRACER_IDIN4S;
        tracer_tk_in6s, "inet6_sendmsg", Egress, TRACER_IDIN6S;
        tracer_tk_uns, "unix_stream_sendmsg", Egress, TRACER_IDUNS;
        tracer_tk_in4r, "inet_recvmsg", Ingress, TRACER_IDIN4R;
        tracer_tk_in6r, "inet6_recvmsg", Ingress, TRACER_IDIN6R;
        tracer_tk_unr, "unix_stream_recvmsg", Ingress, TRACER_IDUNR;
    }
}

#[inline(always)]
fn ask(
    task: Task,
    thread: &mut TaskState,
    (state, _): (&mut SockState, Sock),
    process: &mut TokioProcess,
    begin: u64,
) -> bool {
    let place =
        Place { stack_pointer: Regs::of(task).stack_pointer(), thread_pointer: task.thread_pointer() };
    let found = if process.local_id == 0 {
        learn(&mut thread.polled, process, &place)
    } else {
        find(thread, state, process, &place)
    };
    if found.is_told() {
        let told = &thread.polled.told;
        tell(thread, Runtime::Tokio, begin, found.end(), |tasks| {
            let words: *mut u64 = tasks.as_mut_ptr().cast();
            for (index, word) in told.iter().enumerate() {
                // SAFETY: there are as many.
                unsafe { words.add(index).write(*word) };
            }
            found.len()
        });
    }
    true
}

/// Where the thread is.
struct Place {
    stack_pointer: u64,
    thread_pointer: u64,
}

/// What was found: how many tasks, and [`walk_end`]. In a register.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Found(u64);

impl Found {
    const NOTHING: Self = Self(0);

    const fn new(len: u64, end: u64) -> Self {
        Self(len << 8 | end)
    }

    const fn is_told(self) -> bool {
        self.0 != 0
    }

    const fn len(self) -> u8 {
        (self.0 >> 8) as u8
    }

    const fn end(self) -> u8 {
        self.0 as u8
    }
}

/// Where the walks are. In the thread's state, for the reason that [`crate::maps::Operation`] is.
#[repr(C)]
pub(crate) struct Polled {
    header: Header,
    learning: Learning,
    search: Search,
    channel: Channel,
    climb: Climb,
    /// What becomes [`IdentityRecord::tasks`].
    told: [u64; 2 * CHAIN_TASKS],
}

/// What the loops of the kernel's hand on.
struct Context<'w> {
    walk: &'w mut Polled,
    process: &'w mut TokioProcess,
}

/// Where the current task's id may be.
#[inline(never)]
fn learn(walk: &mut Polled, process: &mut TokioProcess, place: &Place) -> Found {
    walk.told = [0; 2 * CHAIN_TASKS];
    walk.learning = Learning::begin(process, place.stack_pointer, place.thread_pointer);
    let mut context = Context { walk, process };
    run(MAX_NEAR_WORDS, learn_step, &mut context);
    if context.walk.learning.id() == 0 {
        return Found::NOTHING;
    }
    run(MAX_LOCAL_WORDS as u32, compare_step, &mut context);
    context.walk.told[2 * CHAIN_TASKS - 2] = context.walk.learning.id();
    Found::new(CHAIN_TASKS as u64, walk_end::LEARNS)
}

/// Whose work the operation is.
#[inline(never)]
fn find(thread: &mut TaskState, state: &mut SockState, process: &mut TokioProcess, place: &Place) -> Found {
    let egress = thread.op.record.direction == Direction::Egress as u8;
    let calls = state.role == Role::Client.code() || egress || state.sender.number != 0;
    if egress {
        state.sender = TaskId::default();
    }
    let id = tokio::current(&OwnMemory, process, place.thread_pointer);
    let walk = &mut thread.polled;
    if id == 0 || !has_header(walk, process, place, id) {
        return Found::NOTHING;
    }
    let header = &walk.header;
    if !calls {
        walk.told[0] = header.table;
        walk.told[1] = header.id;
        walk.told[2] = tokio::next_id(&OwnMemory, process);
        walk.told[3] = 0;
        return Found::new(2, walk_end::READS);
    }
    if egress {
        state.sender = TaskId { address: header.address, number: header.id };
    }
    wait(walk, process)
}

/// Whether the header of the task that is polled is found.
#[inline(never)]
fn has_header(walk: &mut Polled, process: &mut TokioProcess, place: &Place, id: u64) -> bool {
    if let Some(header) = tokio::in_slot(&OwnMemory, process, place.thread_pointer, id) {
        walk.header = header;
        return true;
    }
    if process.searches >= MAX_SEARCHES {
        return false;
    }
    walk.search = Search::begin(place.stack_pointer, place.thread_pointer, id);
    let mut context = Context { walk, process };
    run(MAX_STACK_WORDS, search_step, &mut context);
    let Context { walk, process } = context;
    walk.header = walk.search.found(process, place.thread_pointer);
    walk.header.id != 0
}

/// Who makes the call of this task's connection, and who waits for that.
#[inline(never)]
fn wait(walk: &mut Polled, process: &mut TokioProcess) -> Found {
    walk.channel = Channel::begin(&walk.header);
    let mut context = Context { walk, process };
    run(MAX_BOX_WORDS, unbox_step, &mut context);
    if context.walk.channel.is_sought(&OwnMemory, context.process) {
        run(MAX_FUTURE_WORDS, channel_step, &mut context);
        context.walk.channel.remember(context.process);
    }
    let Context { walk, process } = context;
    walk.climb = if walk.channel.is_absent() {
        Climb::from_task(&walk.header)
    } else {
        Climb::from_waker(walk.channel.receiver(&OwnMemory, process))
    };
    let mut context = Context { walk, process };
    run(MAX_CLIMBS, climb_step, &mut context);
    let Climb { len, end, .. } = context.walk.climb;
    if len == 0 {
        context.walk.told[0] = 0;
        context.walk.told[1] = 0;
        return Found::new(1, walk_end::NOBODY_YET);
    }
    Found::new(len, end)
}

extern "C" fn learn_step(_index: u64, context: &mut Context<'_>) -> i64 {
    i64::from(!context.walk.learning.step(&OwnMemory, context.process))
}

extern "C" fn compare_step(index: u64, context: &mut Context<'_>) -> i64 {
    let Polled { learning, told, .. } = &mut *context.walk;
    i64::from(!learning.compare(&OwnMemory, index, told))
}

extern "C" fn search_step(_index: u64, context: &mut Context<'_>) -> i64 {
    i64::from(!context.walk.search.step(&OwnMemory, context.process))
}

extern "C" fn unbox_step(_index: u64, context: &mut Context<'_>) -> i64 {
    i64::from(!context.walk.channel.unbox(&OwnMemory, context.process))
}

extern "C" fn channel_step(_index: u64, context: &mut Context<'_>) -> i64 {
    i64::from(!context.walk.channel.step(&OwnMemory, context.process))
}

extern "C" fn climb_step(_index: u64, context: &mut Context<'_>) -> i64 {
    let Polled { climb, told, .. } = &mut *context.walk;
    i64::from(!climb.step(&OwnMemory, context.process, told))
}
