//! The project's own commands.

mod ebpf;

use std::path::Path;

use anyhow::{Context as _, bail};

fn main() -> anyhow::Result<()> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace's folder")?;
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["build"] => ebpf::build(workspace, false),
        ["build", "--debug"] => ebpf::build(workspace, true),
        _ => bail!("usage: cargo xtask build [--debug]"),
    }
}
