//! `inet_sock_set_state(sk, oldstate, newstate)`: who opened a TCP connection, where its streams begin, when it
//! closed, and new listeners.
//!
//! | to | from | what is learned |
//! |---|---|---|
//! | SYN_SENT | | in `connect`: a traced process is the client; or it is the tracer itself |
//! | ESTABLISHED | SYN_SENT | first sequence numbers of a client's socket |
//! | ESTABLISHED | SYN_RECV | the same of a server's socket, whoever will accept it |
//! | FIN_WAIT1, LAST_ACK | | closed by its process, unless it only shut down its direction |
//! | CLOSE | | closed, by its process if it has ended both directions, else by a packet |
//! | LISTEN | | a listener |

use core::ffi::c_void;

use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use tracer_abi::conn::{Role, SocketCookie};
use tracer_abi::error::KernelLoss;
use tracer_abi::event::{ConnClosedRecord, EventKind, ListenRecord, flags};

use crate::emit;
use crate::filter;
use crate::io::self_key;
use crate::kernel::Task;
use crate::maps::{TRACER_SELF, config, count, sock_flags, sock_state};
use crate::regs::Regs;
use crate::sock::Sock;

// include/net/tcp_states.h
const TCP_ESTABLISHED: i32 = 1;
const TCP_SYN_SENT: i32 = 2;
const TCP_SYN_RECV: i32 = 3;
const TCP_FIN_WAIT1: i32 = 4;
const TCP_CLOSE: i32 = 7;
const TCP_LAST_ACK: i32 = 9;
const TCP_LISTEN: i32 = 10;

#[btf_tracepoint(function = "inet_sock_set_state")]
fn tracer_state(ctx: BtfTracePointContext) -> i32 {
    let sk: *const c_void = ctx.arg(0);
    let from: i32 = ctx.arg(1);
    let to: i32 = ctx.arg(2);
    let sock = Sock(sk);
    match to {
        TCP_SYN_SENT => connecting(sock),
        TCP_ESTABLISHED => established(sock, from == TCP_SYN_RECV),
        TCP_FIN_WAIT1 | TCP_LAST_ACK => {
            if sock.both_ended() && !Regs::of(Task::current()).in_shutdown() {
                closed(sock);
            }
        }
        TCP_CLOSE => closed(sock),
        TCP_LISTEN => listening(sock),
        _ => {}
    }
    0
}

#[inline(always)]
fn connecting(sock: Sock) {
    let own = if filter::current().is_some() {
        0
    } else {
        // SAFETY: no preconditions.
        let tgid = (unsafe { helpers::bpf_get_current_pid_tgid() } >> 32) as u32;
        if tgid != config!(tracer_tgid) {
            return;
        }
        sock_flags::SELF
    };
    // SAFETY: the hook's own argument.
    match unsafe { sock_state(sock.0, true) } {
        Some(state) => {
            state.role = Role::Client.code();
            // Another attempt may have come to its end before.
            state.flags = state.flags & !sock_flags::CLOSED | own;
        }
        None => count(KernelLoss::SockStorageFull),
    }
}

/// Runs in whatever context the handshake's last packet arrived. The sockets that a listener will hand out are all
/// remembered: who will accept them is not known yet.
#[inline(always)]
fn established(sock: Sock, passive: bool) {
    // SAFETY: the hook's own argument.
    let state = unsafe { sock_state(sock.0, passive) };
    let own = state.as_ref().is_some_and(|state| state.flags & sock_flags::SELF != 0);
    if !passive {
        // Only now is the port known; the peer's end is established later.
        note_client(sock, own);
    }
    let Some(state) = state else {
        return;
    };
    if passive {
        state.role = Role::Server.code();
    }
    if !own
        && state.flags & sock_flags::ANNOUNCED == 0
        && let Some(tcp) = sock.tcp()
    {
        state.egress.next_seq = tcp.write_seq();
        state.ingress.next_seq = tcp.copied_seq(sock);
        state.flags |= sock_flags::OPEN_SEEN;
    }
}

/// Keeps the table of the tracer's own addresses: who gets a port that was the tracer's is not the tracer.
#[inline(always)]
fn note_client(sock: Sock, own: bool) {
    let key = self_key(sock, sock.local());
    if own {
        // Should the table be full, its oldest entry goes.
        let _ = TRACER_SELF.insert(key, 1, 0);
    } else if TRACER_SELF.get_ptr(key).is_some() {
        let _ = TRACER_SELF.remove(key);
    }
}

#[inline(always)]
fn closed(sock: Sock) {
    // SAFETY: the hook's own argument.
    let Some(state) = (unsafe { sock_state(sock.0, false) }) else {
        return;
    };
    if state.flags & (sock_flags::SELF | sock_flags::CLOSED) != 0 {
        return;
    }
    state.flags |= sock_flags::CLOSED;
    // Should its process use it yet, that it is over is said then.
    if state.flags & sock_flags::ANNOUNCED == 0 {
        return;
    }
    let actor = filter::current();
    emit::control::<ConnClosedRecord>(|record| {
        record.header = emit::header::<ConnClosedRecord>(EventKind::ConnClosed, actor.as_ref());
        if !sock.both_ended() {
            record.header.flags |= flags::BY_PACKET;
        }
        record.cookie = SocketCookie(sock.cookie());
        record.egress_bytes = state.egress.bytes;
        record.ingress_bytes = state.ingress.bytes;
    });
}

/// A listener on an awaited port: whatever its process sends and receives from here on is captured until user space has
/// decided, so that not even the first request is missed.
#[inline(always)]
fn listening(sock: Sock) {
    let local = sock.local();
    let mut actor = filter::current();
    if actor.is_none() && config!(watch_listen) != 0 && filter::awaits_port(local.port()) {
        actor = filter::enter_pending();
    }
    let Some(actor) = actor else {
        return;
    };
    emit::control::<ListenRecord>(|record| {
        record.header = emit::header::<ListenRecord>(EventKind::ListenStarted, Some(&actor));
        record.cookie = SocketCookie(sock.cookie());
        record.local = local;
        record.netns = sock.netns();
    });
}
