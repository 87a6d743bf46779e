//! Debian packages: what could be installed, and installing it without starting anybody's service.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::exec;
use crate::setup::needs;

/// Consulted by Debian's package scripts before they start a service; exit code 101 forbids it.
/// <https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt>
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// The machine's package manager, if it has this one.
#[derive(Debug)]
pub(super) struct Apt {
    available: bool,
    root: bool,
    updated: bool,
    /// What somebody else has to install.
    left: Vec<String>,
}

impl Apt {
    pub(super) fn open() -> Self {
        let available = needs::find_program("apt-get").is_some();
        Self { available, root: rustix::process::geteuid().is_root(), updated: false, left: Vec::new() }
    }

    /// Whether packages can be installed from here.
    fn may_install(&self) -> bool {
        self.available && self.root
    }

    /// The version of a package that would be installed, such as `1.96.0+dfsg1-1`.
    pub(super) fn candidate(&mut self, package: &str) -> Option<String> {
        if !self.available || (self.may_install() && self.update().is_err()) {
            return None;
        }
        let policy =
            exec::output(Command::new("apt-cache").env("LC_ALL", "C").args(["policy", package])).ok()?;
        let version = policy.lines().find_map(|line| line.trim().strip_prefix("Candidate: "))?;
        (version != "(none)").then(|| version.to_owned())
    }

    /// Installs the packages; where that is not possible from here, keeps them for [`Self::finish`].
    pub(super) fn install(&mut self, packages: &[&str]) -> anyhow::Result<()> {
        if packages.is_empty() {
            return Ok(());
        }
        if !self.may_install() {
            self.left.extend(packages.iter().map(|&package| package.to_owned()));
            return Ok(());
        }
        self.update()?;
        // One that this release has not must not keep the others from being installed.
        let (known, unknown): (Vec<&str>, Vec<&str>) =
            packages.iter().partition(|package| self.candidate(package).is_some());
        for package in unknown {
            println!("setup: this release has no package {package}");
        }
        if known.is_empty() {
            return Ok(());
        }
        let _no_services = NoServices::begin()?;
        let mut apt = apt_get();
        exec::run(apt.args(["install", "--yes", "--no-install-recommends"]).args(known))
    }

    /// Fails with what a person has to do if anything could not be installed.
    pub(super) fn finish(&self) -> anyhow::Result<()> {
        if self.left.is_empty() {
            return Ok(());
        }
        let packages = self.left.join(" ");
        if self.available {
            bail!("as root: apt-get update && apt-get install --no-install-recommends {packages}");
        }
        bail!("this machine has no apt-get; install what these Debian packages have: {packages}")
    }

    fn update(&mut self) -> anyhow::Result<()> {
        if !self.updated {
            exec::run(apt_get().arg("update"))?;
            self.updated = true;
        }
        Ok(())
    }
}

fn apt_get() -> Command {
    let mut apt = Command::new("apt-get");
    // Another package manager may be at work, such as a fresh machine's own first update.
    apt.env("DEBIAN_FRONTEND", "noninteractive").args(["--quiet=1", "-o", "DPkg::Lock::Timeout=300"]);
    apt
}

/// While this lives no package starts a service; a service that came meanwhile does not start at boot either.
#[derive(Debug)]
struct NoServices {
    /// Whether the policy is ours to take away again.
    policy: bool,
    /// Services of the machine before.
    before: BTreeSet<PathBuf>,
}

/// Units of the services that come with what the project needs.
const UNITS: [&str; 3] = ["nginx.service", "php*-fpm.service", "fcgiwrap.s*"];

/// Those that are installed.
fn units() -> BTreeSet<PathBuf> {
    let found = UNITS.iter().filter_map(|unit| glob::glob(&format!("/lib/systemd/system/{unit}")).ok());
    found.flatten().flatten().collect()
}

impl NoServices {
    fn begin() -> anyhow::Result<Self> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let mut options = std::fs::OpenOptions::new();
        let opened = options.write(true).create_new(true).mode(0o755).open(POLICY);
        let policy = match opened {
            Ok(mut file) => {
                std::io::Write::write_all(&mut file, b"#!/bin/sh\nexit 101\n")
                    .with_context(|| format!("write {POLICY}"))?;
                true
            }
            // The machine has a policy of its own, which is left alone.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(error).with_context(|| format!("create {POLICY}")),
        };
        Ok(Self { policy, before: units() })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.policy
            && let Err(error) = std::fs::remove_file(POLICY)
        {
            eprintln!("setup: remove {POLICY}: {error}");
        }
        if !Path::new("/run/systemd/system").exists() {
            return;
        }
        for unit in units().difference(&self.before).filter_map(|unit| unit.file_name()) {
            if let Err(error) = exec::run(Command::new("systemctl").arg("disable").arg(unit)) {
                eprintln!("setup: {error:#}");
            }
        }
    }
}
