//! Where things are in the repository and below its target folder.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use crate::exec;

/// The repository that this xtask was built from.
#[derive(Clone, Debug)]
pub(crate) struct Repo {
    root: PathBuf,
}

impl Repo {
    pub(crate) fn locate() -> anyhow::Result<Self> {
        // Compiled in, so that the commands work from any folder below the root.
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("find the repository's root")?;
        Ok(Self { root: root.to_owned() })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Everything that is built, downloaded or unpacked. Fixed rather than taken from `CARGO_TARGET_DIR`: the tools
    /// kept in it are found by the kernel half's build and by tests through this path.
    pub(crate) fn target(&self) -> PathBuf {
        self.root.join("target")
    }

    /// The project's own build tools: `cargo install --root` of this folder.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target().join("tools")
    }

    /// The released-profile binary that end-to-end tests, the demo and the benchmarks run.
    pub(crate) fn tracer(&self) -> PathBuf {
        self.target().join("release/tracer")
    }

    /// The cargo that runs xtask, started in the repository's root and building into [`Self::target`].
    pub(crate) fn cargo(&self) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&self.root).env("CARGO_TARGET_DIR", self.target());
        cargo
    }

    /// The commit that is checked out, with a `+` if the working tree differs from it.
    pub(crate) fn commit(&self) -> anyhow::Result<String> {
        let git = |args: &[&str]| exec::output(Command::new("git").current_dir(&self.root).args(args));
        let mut commit = git(&["rev-parse", "--short=12", "HEAD"])?;
        if !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty() {
            commit.push('+');
        }
        Ok(commit)
    }
}
