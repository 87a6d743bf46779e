//! Embeds the kernel half's object that `cargo xtask build` made, when there is one.
//!
//! It does not build the object: that needs another toolchain, and a plain `cargo build` must work without.

use std::path::PathBuf;

/// Names another object than the workspace's own.
const OVERRIDE: &str = "TRACER_EBPF_OBJECT";

fn main() {
    println!("cargo::rustc-check-cfg=cfg(kernel_half)");
    println!("cargo::rerun-if-env-changed={OVERRIDE}");
    let object = match std::env::var_os(OVERRIDE) {
        Some(path) => PathBuf::from(path),
        // Where it is now: the script may have been built before the repository was moved.
        None => std::env::var_os("CARGO_MANIFEST_DIR")
            .map(|folder| PathBuf::from(folder).join("../target/bpf/tracer-ebpf"))
            .unwrap_or_default(),
    };
    println!("cargo::rerun-if-changed={}", object.display());
    if let Ok(object) = object.canonicalize() {
        println!("cargo::rustc-cfg=kernel_half");
        println!("cargo::rustc-env=TRACER_EBPF_OBJECT={}", object.display());
    }
}
