//! What the tests trace or are made of, and no package of the machine has.

use std::process::Command;

use anyhow::Context as _;

use crate::exec;
use crate::repo::Repo;

/// What the tests' programs in Go are made of, so that tests need no network.
pub(super) fn go_modules(repo: &Repo) -> anyhow::Result<()> {
    let mut go = Command::new("go");
    exec::run(go.args(["mod", "download"]).current_dir(repo.root().join("tests/workloads/grpc")))
}

/// The same of those in Java that are made of more than one file.
pub(super) fn netty(repo: &Repo) -> anyhow::Result<()> {
    let libraries = repo.target().join("workloads/netty");
    if libraries.is_dir() {
        return Ok(());
    }
    let aside = libraries.with_extension("aside");
    let mut maven = Command::new("mvn");
    maven.args(["--batch-mode", "--quiet", "dependency:copy-dependencies"]);
    maven.arg(format!("-DoutputDirectory={}", aside.display()));
    exec::run(maven.current_dir(repo.root().join("tests/workloads/netty")))?;
    std::fs::rename(&aside, &libraries).context("keep what was fetched")
}
