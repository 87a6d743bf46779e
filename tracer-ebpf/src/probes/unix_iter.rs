//! Walks over all Unix sockets, which have no trace points of their own for opening and closing.
//!
//! `iter/unix` programs run when user space reads from their iterator, once per socket of its network namespace.

use core::ffi::c_void;

use aya_ebpf::helpers::generated as helpers;

use crate::maps::{TRACER_WALK, sock_flags, sock_state};
use crate::sock::Sock;

/// `struct bpf_iter__unix`: pointers to the walk's own state and to the socket, which is null behind the last.
#[repr(C)]
struct Context {
    meta: *const *mut c_void,
    socket: *const c_void,
}

/// Marks the connected stream sockets that no program has used before the eyes of the tracer: their streams did not
/// begin with what will be seen.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/unix")]
extern "C" fn tracer_un_mark(context: &Context) -> i32 {
    let socket = context.socket;
    if socket.is_null() || !Sock(socket).is_connected_unix_stream() {
        return 0;
    }
    // SAFETY: the walk's socket, checked for null.
    if let Some(state) = unsafe { sock_state(socket, true) }
        && state.flags & sock_flags::ANNOUNCED == 0
    {
        state.flags |= sock_flags::PREEXISTING;
    }
    0
}

/// Writes the cookies of the sockets that were announced and still exist, as far as this walk is to list them.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/unix")]
extern "C" fn tracer_un_live(context: &Context) -> i32 {
    let socket = context.socket;
    if socket.is_null() {
        return 0;
    }
    // SAFETY: as above.
    let Some(state) = (unsafe { sock_state(socket, false) }) else {
        return 0;
    };
    if state.flags & sock_flags::ANNOUNCED != 0 {
        let cookie = Sock(socket).cookie();
        let selection = TRACER_WALK.get(0).copied().unwrap_or(0);
        if cookie & (selection & 0xffff_ffff) != selection >> 32 {
            return 0;
        }
        // SAFETY: `seq` is the first field of the walk's state; the helper copies eight bytes from the stack.
        unsafe {
            let seq = *context.meta;
            helpers::bpf_seq_write(seq.cast(), (&raw const cookie).cast_mut().cast(), 8);
        }
    }
    0
}
