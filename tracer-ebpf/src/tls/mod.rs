//! TLS: plaintext where a library hands it over, and the records that carry it on the socket.
//!
//! | file | hook | told |
//! |---|---|---|
//! | [`openssl`], [`gnutls`], [`golang`] | calls of the library, in the program | plaintext, as operations of a session |
//! | [`rustls`] | where that encrypts and decrypts | plaintext, and which record it is |
//! | [`hellos`] | those of OpenSSL and GnuTLS | what ties a session to the socket that carries it |
//! | [`records`] | socket operations: the core's programs go on with these | headers of TLS records, in whose call, and which records |
//!
//! Which session is on which socket is not decided here. Every program may be refused alone. Those of the records are
//! attached to nothing, and cost nothing where there is no TLS.
//!
//! Programs at user probes keep what they know in the thread's state, and next to nothing on the stack: since 6.13 a larger
//! stack of theirs is one that a preempting program may share.

mod gnutls;
mod golang;
mod hellos;
mod openssl;
mod plaintext;
mod records;
mod rustls;

use tracer_abi::config::TlsCall;
use tracer_abi::event::io_flags;
use tracer_abi::sniff::Class;

pub(crate) use self::golang::GoCall;
pub(crate) use self::records::{Place, Report};
pub(crate) use self::rustls::Sealing;
use crate::maps::SockState;

/// The call of a TLS library that a thread is in.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Call {
    /// Address of the session; zero: it is in none.
    session: u64,
    /// The program's buffer, and where the call writes how much it moved.
    buffer: u64,
    moved_at: u64,
    wanted: u64,
    /// Stack pointer at the call's beginning: a call that begins above it is not inside of this one.
    stack: u64,
    /// Of a call inside of it that begins in GnuTLS, in the same way.
    inner_stack: u64,
    /// When the last socket operation in it ended; zero, when there was none.
    moved_time: u64,
    /// `TlsCall`
    kind: u32,
    /// Calls that it is in the middle of: a library's callback may call again.
    inner: u32,
    /// `io_flags` of its last socket operation.
    io_flags: u32,
    /// Number of the library's layout.
    layout: u16,
    /// Not zero: sockets that are used in it may be anyone's.
    calls_back: u16,
    /// Not zero: it is one of GnuTLS, and `stack` is the stack pointer with which it also ends.
    is_exact: u32,
    /// Where its last socket operation in its own direction ended, as of `DataRecord::tcp_seq_end`; zero, when there was
    /// none.
    moved_to: u32,
}

/// Whether an operation may carry records of TLS: the thread is in a session's call, or the socket is known for it.
#[inline(always)]
pub(crate) fn may_carry(state: &SockState, call: &Call, egress: bool) -> bool {
    let place = if egress { &state.records[1] } else { &state.records[0] };
    // A socket met in mid-stream has no class yet, but its turns have.
    let looks_so = state.class == Class::Tls.code() || state.turn_class == Class::Tls.code();
    place.is_known() || looks_so || call.session() != 0
}

/// For a socket operation's record: whether the goroutine is in a call. Of operations in which TLS shows only.
#[inline(always)]
pub(crate) fn goroutine_flag(goroutine: u64, tgid: u32) -> u8 {
    if golang::is_in_call(goroutine, tgid) { io_flags::IN_TLS_CALL } else { 0 }
}

impl Call {
    /// For a socket operation's record.
    #[inline(always)]
    pub(crate) fn io_flag(&self) -> u8 {
        if self.session != 0 && self.calls_back == 0 { io_flags::IN_TLS_CALL } else { 0 }
    }

    /// The session whose call the thread is in, unless that is in the middle of another one's.
    #[inline(always)]
    fn session(&self) -> u64 {
        if self.inner == 0 && self.calls_back == 0 { self.session } else { 0 }
    }

    #[inline(always)]
    fn is_write(&self) -> bool {
        [TlsCall::Write, TlsCall::WriteEx, TlsCall::WriteEx2].into_iter().any(|call| self.kind == call.code())
    }
}
