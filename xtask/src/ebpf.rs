//! Builds the kernel half, and names the toolchain that does it.
//!
//! The BPF target has no precompiled core library, so its builder must have the library's sources and be allowed
//! unstable flags. Two toolchains qualify; nothing is installed here (that is `setup`'s work), only found.
//!
//! It also builds the user half afterwards, because that embeds the object.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail, ensure};

/// Target triple of the kernel half on little-endian machines.
const BPF_TARGET: &str = "bpfel-unknown-none";

/// Where Debian's rustc-web and cargo-web packages put their programs.
pub(crate) const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";

/// Where Debian's rust-web-clippy package puts its program.
const DEBIAN_CLIPPY: &str = "/usr/bin/cargo-clippy";

/// A way to compile the core library for the BPF target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// A rustup toolchain that has the `rust-src` component, by name.
    Rustup(String),
    /// Debian's `rustc-web`, `cargo-web` and `rust-web-src`, with unstable flags allowed for this one build.
    Debian,
}

impl std::fmt::Display for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Rustup(name) => write!(f, "rustup toolchain {name} with rust-src"),
            Self::Debian => f.write_str("Debian's rustc-web with rust-web-src"),
        }
    }
}

impl Route {
    /// The first route that is open on this machine.
    pub(crate) fn find() -> Option<Self> {
        let nightlies = rustup_toolchains().into_iter().filter(|name| name.starts_with("nightly"));
        for name in nightlies {
            let sysroot = output(Command::new("rustup").args(["run", &name, "rustc", "--print", "sysroot"]));
            if sysroot.is_some_and(|sysroot| has_core_sources(&sysroot)) {
                return Some(Self::Rustup(name));
            }
        }
        let sysroot = output(Command::new(DEBIAN_RUSTC).args(["--print", "sysroot"]));
        (Path::new(DEBIAN_CARGO).exists() && sysroot.is_some_and(|sysroot| has_core_sources(&sysroot)))
            .then_some(Self::Debian)
    }

    fn cargo(&self, subcommand: &str) -> Command {
        let mut command = match self {
            Self::Rustup(name) => {
                let mut command = Command::new("rustup");
                command.args(["run", name, "cargo"]);
                command
            }
            Self::Debian => {
                // Cargo would look for its subcommands in the user's cargo home first and find another toolchain's.
                let clippy = subcommand == "clippy";
                let mut command = Command::new(if clippy { DEBIAN_CLIPPY } else { DEBIAN_CARGO });
                command.env("CARGO", DEBIAN_CARGO).env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                command
            }
        };
        command.arg(subcommand);
        command
    }

    /// Whether this route has clippy too.
    pub(crate) fn has_clippy(&self) -> bool {
        match self {
            Self::Rustup(name) => {
                let driver =
                    output(Command::new("rustup").args(["which", "--toolchain", name, "clippy-driver"]));
                driver.is_some_and(|driver| Path::new(&driver).exists())
            }
            Self::Debian => Path::new(DEBIAN_CLIPPY).exists(),
        }
    }
}

/// Where the project's own build tools live, below the workspace's target folder.
pub(crate) fn tools_bin(workspace: &Path) -> PathBuf {
    workspace.join("target/tools/bin")
}

/// Where the kernel half's object goes; `tracer-user/build.rs` embeds it from there.
pub(crate) fn object_path(workspace: &Path) -> PathBuf {
    workspace.join("target/bpf/tracer-ebpf")
}

/// `cargo xtask build`: both halves, in order. `debug` builds the user half unoptimised.
pub(crate) fn build(workspace: &Path, debug: bool) -> anyhow::Result<()> {
    build_object(workspace)?;
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace).args(["build", "--package", "tracer"]);
    if !debug {
        cargo.arg("--release");
    }
    run(&mut cargo, "build the user half")
}

/// Runs clippy over the kernel half with the toolchain that builds it; any warning is an error.
pub(crate) fn lint(workspace: &Path) -> anyhow::Result<()> {
    let mut cargo = cargo(workspace, "clippy")?;
    cargo.args(["--", "-Dwarnings"]);
    run(&mut cargo, "lint the kernel half")
}

/// Builds the kernel half's object and puts it at [`object_path`].
pub(crate) fn build_object(workspace: &Path) -> anyhow::Result<PathBuf> {
    run(&mut cargo(workspace, "build")?, "build the kernel half")?;

    let built = target_dir(workspace).join(BPF_TARGET).join("release/tracer-ebpf");
    let object = object_path(workspace);
    if let Some(folder) = object.parent() {
        std::fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
    }
    // An unchanged object keeps its time stamp, so that the user half is not rebuilt for nothing.
    let fresh = std::fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    if std::fs::read(&object).ok().as_ref() != Some(&fresh) {
        std::fs::write(&object, fresh).with_context(|| format!("write {}", object.display()))?;
    }
    Ok(object)
}

/// A target folder of its own: a second toolchain in the same one would rebuild everything in turn.
fn target_dir(workspace: &Path) -> PathBuf {
    workspace.join("target/ebpf")
}

/// A cargo command for the kernel half, with everything but what follows a `--`.
fn cargo(workspace: &Path, subcommand: &str) -> anyhow::Result<Command> {
    let Some(route) = Route::find() else {
        bail!(
            "no toolchain can build the kernel half: it needs a rustup nightly with rust-src, or Debian's \
             rustc-web, cargo-web and rust-web-src; `cargo xtask setup` installs one of them"
        );
    };
    let linker = tools_bin(workspace).join("bpf-linker");
    ensure!(linker.exists(), "{} is missing; `cargo xtask setup` installs it", linker.display());
    let arch = std::env::consts::ARCH;
    ensure!(arch == "x86_64", "the kernel half is written for x86_64; this machine is {arch}");

    let mut cargo = route.cargo(subcommand);
    // Flags meant for the user half must not reach this build, and the toolchain that runs xtask must not
    // be inherited.
    for name in
        ["RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "RUSTUP_TOOLCHAIN", "CARGO_TARGET_DIR", "RUSTC_WRAPPER"]
    {
        cargo.env_remove(name);
    }
    if matches!(route, Route::Rustup(_)) {
        cargo.env_remove("RUSTC");
    }
    cargo.current_dir(workspace).env("CARGO_ENCODED_RUSTFLAGS", rust_flags(&linker, arch));
    cargo.args(["--release", "--package", "tracer-ebpf", "-Zbuild-std=core"]);
    cargo.args(["--target", BPF_TARGET, "--target-dir"]).arg(target_dir(workspace));
    for setting in ["panic='abort'", "codegen-units=1", "lto=false", "debug=2", "opt-level=3"] {
        cargo.arg("--config").arg(format!("profile.release.{setting}"));
    }
    println!("kernel half: {route}");
    Ok(cargo)
}

/// Compiler flags of the kernel half, in cargo's encoded form.
fn rust_flags(linker: &Path, arch: &str) -> OsString {
    let flags = [
        // Maps and the loader need type information; bpf-linker makes it from debug information.
        "-Clink-arg=--btf".to_owned(),
        // Else small memory is cleared by calls of a loop over its bytes.
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        // 32-bit registers and jumps, in every kernel that has the ladder's hooks.
        "-Ctarget-cpu=v3".to_owned(),
        // aya-ebpf reads registers by the layout of the architecture that the programs will run on.
        format!("--cfg=bpf_target_arch=\"{arch}\""),
    ];
    let mut encoded = OsString::from("-Clinker=");
    encoded.push(linker);
    for flag in flags {
        // The separator that CARGO_ENCODED_RUSTFLAGS defines.
        encoded.push("\x1f");
        encoded.push(flag);
    }
    encoded
}

fn rustup_toolchains() -> Vec<String> {
    let listed = output(Command::new("rustup").args(["toolchain", "list"])).unwrap_or_default();
    listed.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

fn has_core_sources(sysroot: &str) -> bool {
    Path::new(sysroot).join("lib/rustlib/src/rust/library/core").is_dir()
}

/// Standard output of a command that succeeds, trimmed; `None` otherwise.
fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn run(command: &mut Command, what: &str) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("{what}: start {:?}", command.get_program()))?;
    ensure!(status.success(), "{what}: {status}");
    Ok(())
}
