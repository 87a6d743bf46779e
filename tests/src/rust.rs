//! Programs in Rust that are built as their users build them: this package's own are built for tests.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::service::build_folder;

/// As cargo builds without a word of the package's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// `cargo build`
    Debug,
    /// `cargo build --release`
    Release,
    /// The same with `lto = "fat"` and one unit.
    Lto,
    /// That of `Release`, without its symbols.
    Stripped,
}

impl Build {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Release => "release",
            Self::Lto => "lto",
            Self::Stripped => "stripped",
        }
    }

    /// Settings in place of the workspace's.
    const fn settings(self) -> &'static [&'static str] {
        match self {
            Self::Debug => &["profile.dev.package.'*'.opt-level=0"],
            Self::Release | Self::Stripped => {
                &["profile.release.lto=false", "profile.release.codegen-units=16", "profile.release.debug=0"]
            }
            Self::Lto => {
                &["profile.release.lto='fat'", "profile.release.codegen-units=1", "profile.release.debug=0"]
            }
        }
    }
}

/// A program of this package, built on first use: nothing is downloaded.
///
/// # Errors
/// When it cannot be built.
pub fn rust_program(name: &str, build: Build) -> anyhow::Result<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bin").join(name).with_extension("rs");
    let built = build_folder().join(format!("{name}-{}", build.name()));
    let changed = |path: &Path| path.metadata().and_then(|data| data.modified());
    // Where the folder is read-only, as in a virtual machine, what was built before must do.
    if let (Ok(built_at), Ok(source_at)) = (changed(&built), changed(&source))
        && built_at > source_at
    {
        return Ok(built);
    }
    std::fs::create_dir_all(build_folder())?;
    // Tests of several processes may build at once: build aside, then move into place.
    let thread = std::thread::current().id();
    let aside = built.with_extension(format!("{}.{thread:?}", std::process::id()));
    if build == Build::Stripped {
        let symbols = rust_program(name, Build::Release)?;
        run(Command::new("strip").arg("-o").arg(&aside).arg(symbols))?;
    } else {
        let target = build_folder().join("rust");
        let debug = build == Build::Debug;
        let mut cargo = Command::new(option_env!("CARGO").unwrap_or("cargo"));
        cargo.args(["build", "--locked", "--offline", "-p", "tracer-tests", "--features", "workloads"]);
        cargo.args(["--profile", if debug { "dev" } else { "release" }, "--bin", name]);
        cargo.arg("--manifest-path").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
        cargo.arg("--target-dir").arg(&target);
        for setting in build.settings() {
            cargo.args(["--config", setting]);
        }
        // What the environment says of profiles is said of other builds.
        for variable in ["LTO", "CODEGEN_UNITS", "DEBUG", "OPT_LEVEL", "STRIP"] {
            cargo.env_remove(format!("CARGO_PROFILE_RELEASE_{variable}"));
            cargo.env_remove(format!("CARGO_PROFILE_DEV_{variable}"));
        }
        run(&mut cargo)?;
        std::fs::copy(target.join(if debug { "debug" } else { "release" }).join(name), &aside)?;
    }
    std::fs::rename(&aside, &built)?;
    Ok(built)
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
