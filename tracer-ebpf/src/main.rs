//! The kernel half: copies facts out and counts what it could not; it interprets as little as possible.
//!
//! Each program in [`probes`] is a shim that names its hook. Socket operations of every hook end in [`io::on_io`]. The
//! programs in [`identity`] and [`tls`] are beside them, and may be absent.
//!
//! For any other target than the kernel's virtual machine it is an empty program, so that tools which look at the whole
//! workspace with stable Rust (`cargo check --workspace`, editors) find nothing to complain of.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod chunks;
#[cfg(target_arch = "bpf")]
mod emit;
#[cfg(target_arch = "bpf")]
mod filter;
#[cfg(target_arch = "bpf")]
mod framing;
#[cfg(target_arch = "bpf")]
mod identity;
#[cfg(target_arch = "bpf")]
mod io;
#[cfg(target_arch = "bpf")]
mod kernel;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod probes;
#[cfg(target_arch = "bpf")]
mod regs;
#[cfg(target_arch = "bpf")]
mod sock;
#[cfg(target_arch = "bpf")]
mod tls;
#[cfg(target_arch = "bpf")]
mod waits;
#[cfg(target_arch = "bpf")]
mod whole;

/// The helpers in use are open to GPL-compatible programs only.
#[cfg(target_arch = "bpf")]
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
const fn main() {}
