//! The kernel half: copies facts out and counts what it could not; it interprets as little as possible.
//!
//! Each program in [`probes`] is a shim that names its hook. Socket operations of every hook end in [`io::on_io`]. The
//! programs in [`identity`] and [`tls`] are beside them, and may be absent.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod capture;
mod chunks;
mod emit;
mod filter;
mod framing;
mod identity;
mod io;
mod kernel;
mod maps;
mod probes;
mod regs;
mod sock;
mod tls;
mod turns;
mod waits;
mod whole;

/// The helpers in use are open to GPL-compatible programs only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
