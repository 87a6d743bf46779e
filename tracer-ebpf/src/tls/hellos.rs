//! What ties a session of OpenSSL or GnuTLS to the socket that carries it, where the program moves the records itself: the random values
//! of its hellos, which are on that socket in clear, and how far into the connection's bytes the session has come.
//!
//! Nothing is compared here.

use core::ffi::c_void;

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
use aya_ebpf::helpers::generated as helpers;
use tracer_abi::error::KernelLoss;
use tracer_abi::event::{EventKind, SessionSecuredRecord};
use tracer_abi::openssl::{OpenSslLayout, RANDOM_BYTES};
use tracer_abi::time::KernelInstant;

use crate::emit;
use crate::filter::Actor;
use crate::maps::{TRACER_DATA, TRACER_OPENSSL, count};
use crate::regs::read_user;
use crate::tls::Call;

/// Where in a session its hellos are.
#[derive(Clone, Copy)]
pub(super) struct Places {
    pub(super) client_random: u32,
    pub(super) server_random: u32,
    /// What is there says whether it is the server's: by being this, or, with zero, anything but zero.
    pub(super) role: u32,
    pub(super) server: u32,
}

/// In an OpenSSL session.
#[inline(always)]
pub(super) fn places(call: &Call) -> Option<Places> {
    let layout = layout(call)?;
    Some(Places {
        client_random: layout.client_random,
        server_random: layout.server_random,
        role: layout.is_server,
        server: 0,
    })
}

/// Tells the hellos of the call's session. In the ring of its plaintext, so that it comes before that.
#[inline(always)]
pub(super) fn tell(call: &Call, places: Places, session: u64, actor: &Actor) {
    let Some(mut entry) = TRACER_DATA.reserve::<SessionSecuredRecord>(0) else {
        count(KernelLoss::DataRingFull);
        return;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: memory of this size and alignment, of which every field is written. The helper writes no more than a random
    // value's bytes, or zeroes where it fails.
    unsafe {
        (&raw mut (*record).header)
            .write(emit::header::<SessionSecuredRecord>(EventKind::SessionSecured, Some(actor)));
        if call.is_write() && call.moved_time != 0 {
            // As its plaintext.
            (*record).header.time = KernelInstant::from_nanos(call.moved_time);
        }
        (*record).session = session;
        let client: *mut c_void = (&raw mut (*record).client_random).cast();
        helpers::bpf_probe_read_user(client, RANDOM_BYTES as u32, at(session, places.client_random));
        let server: *mut c_void = (&raw mut (*record).server_random).cast();
        helpers::bpf_probe_read_user(server, RANDOM_BYTES as u32, at(session, places.server_random));
        let role = read_user::<u32>(at(session, places.role) as u64).unwrap_or(0);
        (*record).is_server = u32::from(if places.server == 0 { role != 0 } else { role == places.server });
        (*record).reserved = 0;
    }
    // The plaintext behind it wakes who reads.
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}

/// How many bytes of records the call's session has written, of a call that writes, or read, of one that reads, modulo
/// 2^32. Nothing where that is not known, or does not end with the plaintext's record.
#[inline(always)]
pub(super) fn moved(call: &Call, session: u64) -> Option<u32> {
    let layout = layout(call)?;
    let (through, number) = if call.is_write() {
        if read_user::<u64>(at(session, layout.gathers_in) as u64)? != 0 {
            return None;
        }
        (layout.writes_to, layout.number_written)
    } else {
        if read_user::<u32>(at(session, layout.read_ahead) as u64)? != 0 {
            return None;
        }
        (layout.reads_from, layout.number_read)
    };
    let bio: u64 = read_user(at(session, through) as u64)?;
    read_user::<u32>(bio.wrapping_add(u64::from(number)))
}

#[inline(always)]
fn layout(call: &Call) -> Option<&'static OpenSslLayout> {
    if call.layout == 0 {
        return None;
    }
    let layout = TRACER_OPENSSL.get_ptr(u32::from(call.layout))?;
    // SAFETY: a live entry, written before the library was probed.
    Some(unsafe { &*layout })
}

#[inline(always)]
fn at(session: u64, offset: u32) -> *const c_void {
    session.wrapping_add(u64::from(offset)) as *const c_void
}
