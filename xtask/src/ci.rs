//! `cargo xtask ci`: what a change has to pass: form, lints, dependencies, documentation, then every test.

use std::process::ExitCode;

use crate::exec::{self, Interrupt};
use crate::repo::Repo;
use crate::setup::{self, Group};
use crate::{ebpf, test};

/// Check form, lints, dependencies and documentation, then run every test
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Leave the tests out
    #[arg(long)]
    no_test: bool,
}

pub(crate) fn run(repo: &Repo, options: &Options, interrupt: &Interrupt) -> anyhow::Result<ExitCode> {
    setup::prepare(repo, &[Group::Build, Group::Lint])?;

    exec::run(repo.cargo().args(["fmt", "--all", "--check"]))?;

    let user_half = ["--workspace", "--exclude", "tracer-ebpf", "--all-features"];
    let mut clippy = repo.cargo();
    clippy.arg("clippy").args(user_half).args(["--all-targets", "--", "-Dwarnings"]);
    exec::run(&mut clippy)?;
    ebpf::lint(repo.root())?;

    let mut deny = std::process::Command::new(repo.tools().join("bin/cargo-deny"));
    deny.current_dir(repo.root());
    // Without advisories: what passes today must not fail tomorrow for the same commit.
    exec::run(deny.args(["--all-features", "check", "bans", "licenses", "sources"]))?;

    let mut doc = repo.cargo();
    doc.arg("doc").args(user_half).args(["--no-deps", "--document-private-items"]);
    // What is read here has the private items too.
    exec::run(doc.env("RUSTDOCFLAGS", "-Dwarnings -Arustdoc::private-intra-doc-links"))?;

    if options.no_test {
        return Ok(ExitCode::SUCCESS);
    }
    Ok(test::run(repo, &test::Options::default(), interrupt))
}
