//! Newer versions of CPython than the machine's, with servers: Debian's unstable packages, unpacked beside the build.
//!
//! Nothing of the machine's own is touched: the package manager resolves and fetches for an empty machine of its own, and
//! the programs are told where their loader and libraries are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;

use super::fetch::once;
use crate::exec;
use crate::repo::Repo;

const VERSIONS: [&str; 2] = ["python3.14", "python3.15"];

/// What serves in the tests, for the version that is Debian's own.
const SERVERS: [&str; 7] = [
    "python3-aiohttp",
    "python3-fastapi",
    "python3-gevent",
    "python3-httptools",
    "python3-httpx",
    "python3-uvicorn",
    "python3-uvloop",
];

/// Who signs the packages, and the folders of the unpacked ones.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const LOADER: &str = "ld-linux-x86-64.so.2";

/// Parts of them that nobody needs here.
const UNNEEDED: [&str; 4] = ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/lib/gconv"];

/// `usr/bin/python3.N`; tests of a version are left out where it cannot be had.
pub(super) fn fetch(repo: &Repo) {
    if let Err(error) = once(repo, "python", |folder| fill(repo, folder)) {
        println!("setup: newer versions of CPython are left out: {error:#}");
    }
}

/// `folder` is where it is filled, which has its name only then.
fn fill(repo: &Repo, folder: &Path) -> anyhow::Result<()> {
    let packages = Packages::list(folder.join("packages"))?;
    // One that is there no more must not keep the others from being fetched.
    for wanted in VERSIONS.into_iter().chain(SERVERS) {
        if let Err(error) = packages.download(wanted) {
            println!("setup: {wanted} is left out: {error:#}");
        }
    }
    packages.unpack(folder)?;
    for unneeded in UNNEEDED.map(|name| folder.join(name)).into_iter().filter(|path| path.exists()) {
        fs::remove_dir_all(&unneeded).with_context(|| format!("remove {}", unneeded.display()))?;
    }
    let libraries = repo.target().join("workloads/python").join(LIBRARIES);
    for program in VERSIONS.map(|name| folder.join("usr/bin").join(name)).iter().filter(|path| path.exists())
    {
        let mut patch = Command::new("patchelf");
        patch.arg("--set-interpreter").arg(libraries.join(LOADER));
        patch.arg("--force-rpath").arg("--set-rpath").arg(&libraries);
        exec::run(patch.arg(program))?;
    }
    Ok(())
}

/// The package manager of a machine on which nothing is installed.
struct Packages {
    state: PathBuf,
}

impl Packages {
    /// Learns what there is.
    fn list(state: PathBuf) -> anyhow::Result<Self> {
        for folder in ["lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(state.join(folder)).context("make room for lists of packages")?;
        }
        let sources = exec::output(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(REPO_URI)",
            "Created-By: Packages",
        ]));
        let sources = sources.context("ask where the machine's packages come from")?;
        let archive = sources.lines().find(|line| line.trim_end_matches('/').ends_with("/debian"));
        let archive = archive.context("the machine's packages are not Debian's")?;
        let source = format!("deb [signed-by={KEYRING}] {archive} sid main\n");
        fs::write(state.join("sources.list"), source).context("say where packages come from")?;
        fs::write(state.join("status"), "").context("say that nothing is installed")?;
        let packages = Self { state };
        exec::run(packages.apt_get().arg("update"))?;
        Ok(packages)
    }

    fn apt_get(&self) -> Command {
        let at = |name: &str| self.state.join(name).display().to_string();
        let mut apt = Command::new("apt-get");
        apt.arg("--quiet=2");
        for (option, value) in [
            ("Dir::Etc::sourcelist", at("sources.list")),
            ("Dir::Etc::sourceparts", "-".to_owned()),
            ("Dir::State", at("")),
            ("Dir::State::lists", at("lists")),
            ("Dir::State::status", at("status")),
            ("Dir::Cache", at("cache")),
            // Its sandbox's user cannot write here.
            ("APT::Sandbox::User", "root".to_owned()),
            ("APT::Install-Recommends", "false".to_owned()),
        ] {
            apt.arg("-o").arg(format!("{option}={value}"));
        }
        apt
    }

    /// A package and all that it needs.
    fn download(&self, package: &str) -> anyhow::Result<()> {
        exec::run(self.apt_get().args(["install", "--yes", "--download-only", package]))
    }

    /// All that were fetched, and nothing else is left.
    fn unpack(self, folder: &Path) -> anyhow::Result<()> {
        let archives = glob::glob(&format!("{}/cache/archives/*.deb", self.state.display()))?;
        for archive in archives {
            exec::run(Command::new("dpkg-deb").arg("--extract").arg(archive?).arg(folder))?;
        }
        fs::remove_dir_all(&self.state).context("remove the packages that were unpacked")
    }
}
