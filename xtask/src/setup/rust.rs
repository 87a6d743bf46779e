//! The toolchain that builds the kernel half, its linker, and the Rust programs kept below the target folder.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::bail;

use crate::ebpf::Route;
use crate::exec;
use crate::guided;
use crate::repo::Repo;
use crate::setup::apt::Apt;
use crate::setup::needs::{Group, find_program};

/// The linker of the kernel half, and the LLVM releases that its crate can be built with, oldest first.
const LINKER: &str = "0.13.0";
const LINKER_LLVM: [u32; 2] = [21, 22];

/// Checks licences, duplicates and sources of dependencies.
const CARGO_DENY: &str = "0.20.2";

/// The nightly that is installed where there is none: of the same LLVM release as the linker.
const NIGHTLY: &str = "nightly-2026-05-20";

/// The oldest compiler that the workspace builds with.
const OLDEST_RUST: (u32, u32) = (1, 95);

/// A component is 3 MB, a minimal toolchain 90 MB; where there is no network, rustup retries for long.
const RUSTUP_LIMIT: Duration = Duration::from_secs(180);

/// What the Rust side lacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lack {
    Toolchain,
    Linker,
    Clippy,
    CargoDeny,
    Profdata,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Toolchain => f.write_str("a toolchain that can build the kernel half"),
            Self::Linker => write!(f, "bpf-linker {LINKER} with the toolchain's LLVM or a newer one"),
            Self::Clippy => f.write_str("clippy for the kernel half"),
            Self::CargoDeny => write!(f, "cargo-deny {CARGO_DENY}"),
            Self::Profdata => f.write_str("llvm-profdata of the compiler's LLVM"),
        }
    }
}

pub(super) fn missing(repo: &Repo, groups: &[Group]) -> Vec<Lack> {
    let mut lacks = Vec::new();
    if groups.contains(&Group::Build) {
        let route = Route::find();
        if route.is_none() {
            lacks.push(Lack::Toolchain);
        }
        let wanted = route.as_ref().and_then(llvm_of);
        if linker_llvm(repo).is_none_or(|has| wanted.is_some_and(|wanted| has < wanted)) {
            lacks.push(Lack::Linker);
        }
    }
    if groups.contains(&Group::Lint) {
        if !Route::find().is_some_and(|route| route.has_clippy()) {
            lacks.push(Lack::Clippy);
        }
        if features(repo, "cargo-deny", CARGO_DENY).is_none() {
            lacks.push(Lack::CargoDeny);
        }
    }
    if groups.contains(&Group::Bench) && guided::missing().is_some() {
        lacks.push(Lack::Profdata);
    }
    lacks
}

/// Installs what lacks, in the order in which one needs the other.
pub(super) fn install(repo: &Repo, apt: &mut Apt, lacks: &[Lack]) -> anyhow::Result<()> {
    if lacks.contains(&Lack::Toolchain) {
        install_toolchain(apt)?;
    }
    if lacks.contains(&Lack::Linker) {
        install_linker(repo, apt)?;
    }
    if lacks.contains(&Lack::Clippy) {
        match Route::find() {
            Some(Route::Rustup(name)) => {
                let mut rustup = Command::new("rustup");
                exec::run_within(
                    rustup.args(["component", "add", "clippy", "--toolchain", &name]),
                    RUSTUP_LIMIT,
                )?;
            }
            Some(Route::Debian) => apt.install(&["rust-web-clippy"])?,
            // Then the toolchain's own packages could not be installed; that is reported.
            None => {}
        }
    }
    if lacks.contains(&Lack::CargoDeny) {
        exec::run(&mut cargo_install(repo, "cargo-deny", CARGO_DENY))?;
    }
    if let (true, Some(package)) = (lacks.contains(&Lack::Profdata), guided::missing()) {
        if find_program("rustup").is_some() {
            exec::run_within(Command::new("rustup").args(["component", "add", "llvm-tools"]), RUSTUP_LIMIT)?;
        } else {
            apt.install(&[&package])?;
        }
    }
    Ok(())
}

/// The usual way first: a nightly with the library's sources. Where rustup has no network, Debian's packages.
fn install_toolchain(apt: &mut Apt) -> anyhow::Result<()> {
    if find_program("rustup").is_some() {
        match install_with_rustup() {
            Ok(()) => return Ok(()),
            Err(error) => println!("setup: not with rustup: {error:#}"),
        }
    }
    if apt.candidate("rustc-web").is_some_and(|version| is_new_enough(&version)) {
        return apt.install(&["rustc-web", "cargo-web", "rust-web-src"]);
    }
    bail!(
        "neither rustup nor this machine's packages have a toolchain that can build the kernel half; with rustup \
         (https://rustup.rs): rustup toolchain install {NIGHTLY} --profile minimal --component rust-src"
    )
}

fn install_with_rustup() -> anyhow::Result<()> {
    let listed = exec::output(Command::new("rustup").args(["toolchain", "list"]))?;
    let mut names = listed.lines().filter_map(|line| line.split_whitespace().next());
    let fits = |name: &&str| {
        let llvm = llvm_of(&Route::Rustup((*name).to_owned()));
        name.starts_with("nightly") && llvm.is_some_and(|llvm| LINKER_LLVM.iter().any(|has| *has >= llvm))
    };
    let mut rustup = Command::new("rustup");
    match names.find(fits) {
        Some(name) => rustup.args(["component", "add", "rust-src", "--toolchain", name]),
        None => {
            rustup.args(["toolchain", "install", NIGHTLY, "--profile", "minimal", "--component", "rust-src"])
        }
    };
    exec::run_within(&mut rustup, RUSTUP_LIMIT)
}

/// Debian's version of a package, such as `1.96.0+dfsg1-1`, against [`OLDEST_RUST`].
fn is_new_enough(version: &str) -> bool {
    let mut parts = version.split('.').map(str::parse::<u32>);
    matches!((parts.next(), parts.next()), (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= OLDEST_RUST)
}

fn install_linker(repo: &Repo, apt: &mut Apt) -> anyhow::Result<()> {
    // Without a compiler, its packages were not installed but noted, and these cannot be known yet.
    let wanted = Route::find().as_ref().and_then(llvm_of).unwrap_or(LINKER_LLVM[0]);
    let mut fitting = LINKER_LLVM.into_iter().filter(|llvm| *llvm >= wanted);
    let present = fitting.clone().find(|llvm| llvm_config(*llvm).exists());
    let llvm = present.or_else(|| fitting.find(|llvm| apt.candidate(&format!("llvm-{llvm}-dev")).is_some()));
    let Some(llvm) = llvm else {
        bail!(
            "bpf-linker {LINKER} needs the headers of LLVM {wanted} or newer; https://apt.llvm.org has them"
        );
    };
    apt.install(&[&format!("llvm-{llvm}-dev"), "libzstd-dev", "zlib1g-dev"])?;
    if !llvm_config(llvm).exists() {
        return Ok(());
    }
    let mut cargo = cargo_install(repo, "bpf-linker", LINKER);
    cargo.env("LLVM_PREFIX", format!("/usr/lib/llvm-{llvm}"));
    exec::run(cargo.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]))
}

/// Debian's and apt.llvm.org's place for one LLVM release.
fn llvm_config(llvm: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{llvm}/bin/llvm-config"))
}

fn cargo_install(repo: &Repo, name: &str, version: &str) -> Command {
    let mut cargo = repo.cargo();
    // A temporary target folder, so that what is built here leaves nothing but the program.
    cargo.env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS");
    cargo.args(["install", "--quiet", "--locked", "--force", "--root"]).arg(repo.tools());
    cargo.args([name, "--version", version]);
    cargo
}

/// The LLVM release of a route's compiler: a linker of an older one cannot read what it writes.
fn llvm_of(route: &Route) -> Option<u32> {
    let mut rustc = match route {
        Route::Rustup(name) => {
            let mut rustup = Command::new("rustup");
            rustup.args(["run", name, "rustc"]);
            rustup
        }
        Route::Debian => Command::new(crate::ebpf::DEBIAN_RUSTC),
    };
    let facts = exec::output(rustc.arg("--version").arg("--verbose")).ok()?;
    let version = facts.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

/// The LLVM release that the installed linker was built with.
fn linker_llvm(repo: &Repo) -> Option<u32> {
    let features = features(repo, "bpf-linker", LINKER)?;
    features.iter().find_map(|feature| feature.strip_prefix("llvm-")?.parse().ok())
}

/// With which features a program of exactly this version is installed below the target folder, by cargo's own notes.
fn features(repo: &Repo, name: &str, version: &str) -> Option<Vec<String>> {
    if !repo.tools().join("bin").join(name).exists() {
        return None;
    }
    let notes = std::fs::read(repo.tools().join(".crates2.json")).ok()?;
    features_in(&notes, name, version)
}

fn features_in(notes: &[u8], name: &str, version: &str) -> Option<Vec<String>> {
    #[derive(serde::Deserialize)]
    struct Notes {
        installs: BTreeMap<String, Install>,
    }
    #[derive(serde::Deserialize)]
    struct Install {
        features: Vec<String>,
    }
    let notes: Notes = serde_json::from_slice(notes).ok()?;
    let wanted = format!("{name} {version} ");
    let mut installs = notes.installs.into_iter();
    installs.find(|(id, _)| id.starts_with(&wanted)).map(|(_, install)| install.features)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_versions_are_compared_by_number() {
        for (version, enough) in [
            ("1.96.0+dfsg1-1~deb12u2", true),
            ("1.95.0", true),
            ("1.85.0+dfsg3-1", false),
            ("2.0", true),
            ("x", false),
        ] {
            assert_eq!(is_new_enough(version), enough, "{version}");
        }
    }

    #[test]
    fn installed_features_are_those_of_the_exact_version() {
        let notes = br#"{"installs":{"bpf-linker 0.13.0 (registry+x)":{"version_req":"=0.13.0","features":["llvm-22"]}}}"#;
        assert_eq!(features_in(notes, "bpf-linker", "0.13.0"), Some(vec!["llvm-22".to_owned()]));
        assert_eq!(features_in(notes, "bpf-linker", "0.13"), None);
        assert_eq!(features_in(b"{", "bpf-linker", "0.13.0"), None);
    }
}
