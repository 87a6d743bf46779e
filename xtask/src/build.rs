//! `cargo xtask build`: the kernel half, then the binary that embeds it.

use crate::ebpf;
use crate::repo::Repo;

/// Build the kernel half, then the binary that embeds it
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Build the user half unoptimised, into target/debug
    #[arg(long)]
    debug: bool,
}

pub(crate) fn run(repo: &Repo, options: &Options) -> anyhow::Result<()> {
    ebpf::build(repo.root(), options.debug)
}
