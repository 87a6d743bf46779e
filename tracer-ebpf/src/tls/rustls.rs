//! rustls, where it encrypts or decrypts a record of TLS: its plaintext, and bytes of its ciphertext, which are on the socket
//! as well.
//!
//! What tells a connection's functions apart is in memory of its own for as long as the keys are: the connection itself may
//! be moved at any time, as values of Rust are. Each direction has one, and they are not known to belong together; so each is
//! a session with streams of its own, of which one is used.
//!
//! Nothing here says which compiler made the program and how that lays out what has no fixed layout (`repr(Rust)`). What is
//! read counts only where lengths agree: of the ciphertext, of the plaintext, and what protection adds.

use core::ffi::c_void;

use aya_ebpf::bindings::{BPF_ANY, BPF_RB_NO_WAKEUP, pt_regs};
use aya_ebpf::helpers::generated as helpers;
use aya_ebpf::macros::uprobe;
use aya_ebpf::programs::ProbeContext;
use tracer_abi::config::{RustlsSite, TlsCall, tls_site};
use tracer_abi::conn::{Direction, SocketCookie};
use tracer_abi::error::{KernelLoss, PayloadState};
use tracer_abi::event::{DataRecord, EventKind, SEAL_AT, SealedRecord, Source, io_flags};
use tracer_abi::sniff::Class;

use crate::capture::capture;
use crate::emit;
use crate::filter::{self, Actor};
use crate::maps::{
    SessionKey, SockState, TRACER_DATA, TRACER_HALVES, TaskState, count, sock_flags, task_state,
};
use crate::regs::{ELEMENTS, IOVEC_BYTES, UserBuffer, place, read_user};

/// `ContentType` of RFC 8446 section 5.1: the first and the last one, and that of data.
const FIRST_KIND: u64 = 20;
const LAST_KIND: u64 = 24;
const APPLICATION_DATA: u8 = 23;

/// Behind a record's header: 2^14 bytes of plaintext, and what protection adds at most.
const MAX_CIPHERTEXT: u64 = (1 << 14) + 256;
const MAX_PLAIN: u64 = 1 << 14;
const HEADER_BYTES: u64 = 5;

/// What protection adds: a tag; a tag and the type (RFC 8446 section 5.2); a tag and a nonce (RFC 5288 section 3).
const TAG: u64 = 16;
const TAG_AND_TYPE: u64 = TAG + 1;
const NONCE: u64 = 8;
const TAG_AND_NONCE: u64 = TAG + NONCE;

/// The variants of its enumerations, numbered as they are declared: `ContentType::ApplicationData`, and
/// `ProtocolVersion::TLSv1_2`, which stands on all records of data.
const DATA_VARIANT: u64 = 3;
const VERSION_VARIANT: u64 = 4;

/// The call that a thread is in.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Sealing {
    /// Stack pointer with which it began, and with which it ends; zero: it is in none.
    stack: u64,
    /// Of what encrypts or decrypts.
    session: u64,
    /// Where its result will be.
    result: u64,
    /// Of the record under its keys.
    number: u64,
    /// Of what is decrypted.
    seal: u64,
    /// Decrypting: address and length of the ciphertext. Encrypting: the parts of `OutboundChunks`.
    input: [u64; 4],
    /// The first words of the result.
    output: [u64; 4],
    /// Not zero: it encrypts.
    sends: u32,
    /// Not zero: data, as far as it is known before.
    is_data: u32,
}

/// A record that was encrypted or decrypted.
struct Sealed {
    seal: u64,
    /// Bytes behind its header.
    len: u64,
    plain_len: u64,
}

/// All places: one program, so that one link of the kernel's holds them.
#[uprobe]
fn tracer_tls_rust(ctx: ProbeContext) -> u32 {
    // SAFETY: a probe's context is the register frame, beside which the kernel keeps what the helper reads.
    let (regs, cookie) = unsafe { (&*ctx.regs, helpers::bpf_get_attach_cookie(ctx.regs.cast())) };
    let site = RustlsSite::of_cookie(cookie);
    let Some(actor) = filter::current() else {
        return 0;
    };
    let Some(thread) = task_state(actor.task) else {
        count(KernelLoss::TaskStorageFull);
        return 0;
    };
    if u64::from(site.site) == tls_site::ENDS {
        ended(regs, &actor, thread);
    } else {
        begun(regs, site, thread);
    }
    0
}

/// A call begins. Arguments are in their registers still: where the result goes, what encrypts or decrypts, the record, its
/// number.
#[inline(always)]
fn begun(regs: &pt_regs, site: RustlsSite, thread: &mut TaskState) {
    let call = &mut thread.sealing;
    // One that was left without its end (a panic) is over. Of one that is inside of another one, that is the one that counts.
    call.stack = 0;
    call.sends = u32::from(u32::from(site.site) == TlsCall::Write.code());
    call.session = regs.rsi;
    call.result = regs.rdi;
    call.number = regs.rcx;
    call.seal = 0;
    if call.sends != 0 {
        let Some(kind) = read_user::<u64>(regs.rdx.wrapping_add(32)) else {
            return;
        };
        call.is_data = u32::from(is_data(kind));
    } else {
        call.is_data = 1;
    }
    // Of a record that is decrypted, more than is used.
    if !read_words(&mut call.input, regs.rdx) {
        return;
    }
    if call.sends == 0 {
        let Some(seal) = read_user::<u64>(call.input[0].wrapping_add(SEAL_AT)) else {
            return;
        };
        call.seal = seal;
    }
    call.stack = regs.rsp.wrapping_add(8 * u64::from(site.depth));
}

/// A `ContentType` and a `ProtocolVersion`, in either order; what stands in the one's place is no value of the other.
#[inline(always)]
const fn is_data(word: u64) -> bool {
    word & 0xff == DATA_VARIANT && word >> 16 & 0xffff == VERSION_VARIANT
        || word & 0xffff == VERSION_VARIANT && word >> 32 & 0xff == DATA_VARIANT
}

/// A function returns: it may be that which the call began in.
#[inline(always)]
fn ended(regs: &pt_regs, actor: &Actor, thread: &mut TaskState) {
    let call = &mut thread.sealing;
    if call.stack == 0 || regs.rsp != call.stack {
        return;
    }
    call.stack = 0;
    if !read_words(&mut call.output, call.result) {
        return;
    }
    let buffer = &mut thread.op.buffer;
    *buffer = UserBuffer { place: place::BUFFER, flags: 0, address: 0, count: 0 };
    let sealed = if call.sends != 0 { encrypted(call, buffer) } else { decrypted(call, buffer) };
    let key = SessionKey { session: call.session, tgid: actor.tgid, reserved: 0 };
    let number = call.number as u32;
    let known = TRACER_HALVES.get_ptr_mut(key);
    if let Some(known) = known {
        // SAFETY: a live entry, used by the one thread that is in a call of the session.
        let stream = unsafe { &mut (*known).egress };
        if number != stream.next_seq {
            // Others were at the address meanwhile.
            let _ = TRACER_HALVES.remove(key);
        } else {
            stream.next_seq = number.wrapping_add(1);
        }
    }
    let Some(sealed) = sealed else {
        return;
    };
    if let Some(state) = streams(thread, key, number) {
        report(thread, state, actor, sealed);
    }
}

/// The result is `Ok`, of a `Vec<u8>`: capacity, address, length, as all versions of its library since 1.66 have them. The
/// record's header has its place before the ciphertext.
#[inline(always)]
fn encrypted(call: &Sealing, buffer: &mut UserBuffer) -> Option<Sealed> {
    let [_, capacity, address, total] = call.output;
    let [first, second, third, fourth] = call.input;
    let single = first == 0;
    let plain_len = if single { third } else { fourth.wrapping_sub(third) };
    let more = total.wrapping_sub(HEADER_BYTES).wrapping_sub(plain_len);
    let fits = more == TAG || more == TAG_AND_TYPE || more == TAG_AND_NONCE;
    if call.is_data == 0 || !fits || plain_len == 0 || plain_len > MAX_PLAIN || capacity < total {
        return None;
    }
    let seal = read_user::<u64>(address.wrapping_add(HEADER_BYTES + SEAL_AT))?;
    if single {
        buffer.address = second;
    } else if third == 0 {
        buffer.place = place::VECTOR;
        buffer.address = first;
        buffer.count = second;
    } else {
        // What goes on after another record is the middle of a body: it is in one slice, but for a record's.
        match slice(first, second, third, plain_len) {
            Some(address) => buffer.address = address,
            None => buffer.place = place::NOWHERE,
        }
    }
    Some(Sealed { seal, len: total - HEADER_BYTES, plain_len })
}

/// Where so many bytes from `skip` on are, if they are in one of the first slices of an array.
#[inline(always)]
fn slice(array: u64, elements: u64, skip: u64, len: u64) -> Option<u64> {
    let mut start = 0_u64;
    for number in 0..ELEMENTS {
        if number >= elements {
            return None;
        }
        let [base, size] = read_user::<[u64; 2]>(array.wrapping_add(number * IOVEC_BYTES))?;
        let inside = skip.wrapping_sub(start);
        if inside < size {
            return (len <= size - inside).then_some(base.wrapping_add(inside));
        }
        start = start.wrapping_add(size);
    }
    None
}

/// The result is `Ok`: a slice of what was decrypted in its place, or moved to over the nonce that was before it.
#[inline(always)]
fn decrypted(call: &Sealing, buffer: &mut UserBuffer) -> Option<Sealed> {
    let [_, address, plain_len, _] = call.output;
    let [input, len, ..] = call.input;
    if len > MAX_CIPHERTEXT || plain_len == 0 || plain_len > MAX_PLAIN {
        return None;
    }
    let more = len.wrapping_sub(plain_len);
    // Before TLS 1.3 the record's header says what it holds.
    let of_record = (address == input || address == input.wrapping_add(NONCE)) && more == TAG_AND_NONCE
        || address == input && more == TAG;
    let behind = input.wrapping_add(plain_len);
    let kind = if of_record && !is_padded(more, behind) {
        read_user::<u8>(input.wrapping_sub(HEADER_BYTES))?
    } else if address == input && more >= TAG_AND_TYPE && more < len {
        // It stands behind the plaintext.
        read_user::<u8>(behind)?
    } else {
        return None;
    };
    buffer.address = address;
    (kind == APPLICATION_DATA).then_some(Sealed { seal: call.seal, len, plain_len })
}

/// As much as a nonce and a tag may also be a type, padding and a tag: zeros are behind the type then, and else bytes of
/// ciphertext.
#[inline(always)]
fn is_padded(more: u64, behind: u64) -> bool {
    more == TAG_AND_NONCE
        && read_user::<u64>(behind).is_some_and(|word| (FIRST_KIND..=LAST_KIND).contains(&word))
}

/// Copies words of the program's memory. False: they cannot be read at this moment.
#[inline(always)]
fn read_words(words: &mut [u64; 4], address: u64) -> bool {
    // SAFETY: the destination is exactly this large; the helper checks the source.
    unsafe {
        helpers::bpf_probe_read_user(
            (&raw mut *words).cast(),
            size_of::<[u64; 4]>() as u32,
            address as *const c_void,
        ) == 0
    }
}

/// The streams of a session, made when absent.
#[inline(always)]
fn streams(thread: &TaskState, key: SessionKey, number: u32) -> Option<&'static mut SockState> {
    let mut state = TRACER_HALVES.get_ptr_mut(key);
    if state.is_none() {
        // SAFETY: a valid map; key and value are of its types. An entry is too large for the stack.
        unsafe {
            helpers::bpf_map_update_elem(
                (&raw const TRACER_HALVES).cast_mut().cast(),
                (&raw const key).cast(),
                (&raw const thread.ciphertext.no_streams).cast(),
                u64::from(BPF_ANY),
            );
        }
        state = TRACER_HALVES.get_ptr_mut(key);
        if let Some(state) = state {
            // SAFETY: a live entry. A session has no cookie: its birth is in that place.
            unsafe {
                (*state).egress.next_seq = number.wrapping_add(1);
                (*state).cookie = helpers::bpf_ktime_get_ns();
            }
        }
    }
    let Some(state) = state else {
        count(KernelLoss::SessionTableFull);
        return None;
    };
    // SAFETY: a live entry, used by the one thread that is in a call of the session.
    Some(unsafe { &mut *state })
}

/// Tells of the record, and of its plaintext as of an operation of a socket.
#[inline(always)]
fn report(thread: &mut TaskState, state: &mut SockState, actor: &Actor, sealed: Sealed) {
    let sends = thread.sealing.sends != 0;
    let session = thread.sealing.session;
    let direction = if sends { Direction::Egress } else { Direction::Ingress };
    // Only the bytes are a direction's own: which one it is, is told.
    let stream = if sends { &mut state.egress } else { &mut state.ingress };
    let offset = stream.bytes;
    stream.bytes = offset + sealed.plain_len;
    if state.flags & sock_flags::MUTED != 0 {
        return;
    }
    if !tell(actor, session, state.cookie as u32, &sealed, direction) {
        return;
    }
    let total = sealed.plain_len as u32;
    let op = &mut thread.op;
    op.ret = total as i32;
    op.total = total;
    op.elements = [[0; 2]; ELEMENTS as usize];
    if op.buffer.place == place::VECTOR {
        let elements = if op.buffer.count < ELEMENTS { op.buffer.count } else { ELEMENTS };
        let len = emit::at_most::<{ ELEMENTS * IOVEC_BYTES }>(elements * IOVEC_BYTES);
        // SAFETY: the destination has room for `ELEMENTS`. What cannot be read stays empty.
        unsafe {
            helpers::bpf_probe_read_user(
                (&raw mut op.elements).cast(),
                len as u32,
                op.buffer.address as *const c_void,
            );
        }
    }
    op.record = DataRecord {
        header: emit::header::<DataRecord>(EventKind::DataMoved, Some(actor)),
        cookie: SocketCookie(session),
        offset,
        user_r14: sealed.plain_len << 32,
        nvcsw: 0,
        result: total as i32,
        tcp_seq_end: sealed.seal as u32,
        head_len: 0,
        tail_len: 0,
        chunk_offset: 0,
        payload_len: 0,
        syscall: 0,
        direction: direction as u8,
        source: Source::Rustls.code(),
        payload_state: PayloadState::Copied.code(),
        class: 0,
        io_flags: io_flags::BLOCKING_UNKNOWN,
        reserved: 0,
    };
    // The other direction, whose turn it may have been, is another session's. So what was not understood may be over.
    if state.turn_class == Class::Unknown.code() {
        state.turn = 0;
    }
    capture(thread, state);
}

/// Which record it is. False: there is no room, and nothing is told of its plaintext either.
#[inline(always)]
fn tell(actor: &Actor, session: u64, birth: u32, sealed: &Sealed, direction: Direction) -> bool {
    let Some(mut entry) = TRACER_DATA.reserve::<SealedRecord>(0) else {
        count(KernelLoss::DataRingFull);
        return false;
    };
    // SAFETY: memory of this size and alignment, all of which is written.
    unsafe {
        entry.as_mut_ptr().write(SealedRecord {
            header: emit::header::<SealedRecord>(EventKind::RecordSealed, Some(actor)),
            owner: session,
            seal: sealed.seal,
            seq: birth,
            len: sealed.len as u16,
            direction: direction as u8,
            in_library: 1,
        });
    }
    // The plaintext behind it wakes who reads.
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
    true
}
