//! `cargo xtask setup`: finds what is missing on this machine and installs it.
//!
//! What is found to work is never touched. Packages are installed only as root on Debian and its derivatives; anywhere
//! else the exact commands are printed and the command fails. Rust programs go below the target folder, not into the
//! user's cargo home.

mod apt;
mod fetch;
mod needs;
mod pythons;
mod rust;

use std::path::Path;

use anyhow::bail;

use crate::backends::Backend;
use crate::ebpf::Route;
use crate::exec;
use crate::repo::Repo;
pub(crate) use needs::{Group, find_program};

/// Find what is missing on this machine and install it
///
/// Says what it found, which toolchain builds the kernel half, and what it installs before it does. Never touches what
/// works already.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(after_help = "Example: cargo xtask setup build demo")]
pub(crate) struct Options {
    /// What to prepare for; without one: everything but `lint` and `jaeger`
    #[arg(value_enum)]
    groups: Vec<Group>,
    /// Only say what is missing; fail if anything is
    #[arg(long)]
    check: bool,
}

pub(crate) fn run(repo: &Repo, options: &Options) -> anyhow::Result<()> {
    let groups: &[Group] = match options.groups.as_slice() {
        [] => &[Group::Build, Group::Demo, Group::Test, Group::Bench],
        chosen => chosen,
    };
    if options.check { check(repo, groups) } else { prepare(repo, groups) }
}

/// Makes the machine ready for the groups, or fails with what a person has to do.
pub(crate) fn prepare(repo: &Repo, groups: &[Group]) -> anyhow::Result<()> {
    let missing = Missing::find(repo, groups);
    if !missing.is_empty() {
        missing.print();
        missing.install(repo)?;
        let left = Missing::find(repo, groups);
        if !left.is_empty() {
            left.print();
            bail!("set-up did not make everything available");
        }
    }
    if groups.contains(&Group::Build)
        && let Some(route) = Route::find()
    {
        println!("setup: the kernel half is built by {route}");
    }
    if groups.contains(&Group::Jaeger) {
        Backend::ALL.into_iter().try_for_each(|backend| backend.build(repo))?;
    }
    if groups.contains(&Group::Test) {
        fetch::go_modules(repo)?;
        fetch::go_versions();
        fetch::java(repo)?;
        fetch::node(repo)?;
        fetch::openssl(repo)?;
        pythons::fetch(repo);
    }
    mount_tracefs();
    println!("setup: {} ready", Group::names(groups));
    Ok(())
}

fn check(repo: &Repo, groups: &[Group]) -> anyhow::Result<()> {
    let missing = Missing::find(repo, groups);
    let unbuilt = groups.contains(&Group::Jaeger) && !Backend::Jaeger.is_built(repo);
    if unbuilt {
        println!("setup: missing: {}", Backend::Jaeger);
    }
    if missing.is_empty() && !unbuilt {
        println!("setup: nothing is missing for {}", Group::names(groups));
        return Ok(());
    }
    missing.print();
    bail!("something is missing for {}", Group::names(groups));
}

/// What the chosen groups lack on this machine.
#[derive(Debug)]
struct Missing {
    programs: Vec<&'static needs::Need>,
    rust: Vec<rust::Lack>,
}

impl Missing {
    fn find(repo: &Repo, groups: &[Group]) -> Self {
        Self { programs: needs::missing(groups), rust: rust::missing(repo, groups) }
    }

    fn is_empty(&self) -> bool {
        self.programs.is_empty() && self.rust.is_empty()
    }

    fn print(&self) {
        for need in &self.programs {
            println!("setup: missing: {} ({})", need.program, need.purpose);
        }
        for lack in &self.rust {
            println!("setup: missing: {lack}");
        }
    }

    fn install(&self, repo: &Repo) -> anyhow::Result<()> {
        let mut apt = apt::Apt::open();
        apt.install(&self.programs.iter().map(|need| need.package).collect::<Vec<_>>())?;
        rust::install(repo, &mut apt, &self.rust)?;
        apt.finish()
    }
}

/// The kernel's tracing folder: tracepoints and fexit programs need its format files.
fn mount_tracefs() {
    let folder = Path::new("/sys/kernel/tracing");
    if folder.join("events").exists() || !folder.exists() {
        return;
    }
    if !rustix::process::geteuid().is_root() {
        println!("setup: tracefs is not mounted; as root: mount -t tracefs nodev {}", folder.display());
        return;
    }
    let mut mount = std::process::Command::new("mount");
    // A container may forbid it. Then `tracer doctor` says what is missing; builds and most tests do not need it.
    match exec::run(mount.args(["-t", "tracefs", "nodev"]).arg(folder)) {
        Ok(()) => println!("setup: mounted tracefs on {}", folder.display()),
        Err(error) => println!("setup: tracefs is not mounted and cannot be: {error:#}"),
    }
}
