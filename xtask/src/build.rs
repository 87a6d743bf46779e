//! `cargo xtask build`: the kernel half, then the binary that embeds it.

use crate::repo::Repo;
use crate::{ebpf, guided};

/// Build the kernel half, then the binary that embeds it
#[derive(Clone, Debug, Default, clap::Args)]
#[command(after_help = "Example: cargo xtask build --profile-guided")]
pub(crate) struct Options {
    /// Build the user half unoptimised, into target/debug
    #[arg(long)]
    debug: bool,
    /// Build the user half twice, the second time for what the first one did most with the recordings under tests/replay: the
    /// binary to install, and the one that is measured. Takes some minutes
    #[arg(long, conflicts_with = "debug")]
    profile_guided: bool,
}

impl Options {
    /// As it is installed.
    pub(crate) const INSTALLED: Self = Self { debug: false, profile_guided: true };
}

pub(crate) fn run(repo: &Repo, options: &Options) -> anyhow::Result<()> {
    if options.profile_guided { guided::build(repo) } else { ebpf::build(repo.root(), options.debug) }
}
